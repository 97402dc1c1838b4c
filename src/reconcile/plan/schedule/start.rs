//! Starting in the order of dependencies, changing what stays, and waiting.

use super::Schedule;
use crate::container::Desired;
use crate::graph::Requirement;
use crate::model::Condition;
use crate::reconcile::desired::DesiredService;
use crate::reconcile::observe::ObservedContainer;
use crate::reconcile::plan::builder::{Gate, is_up, meets};
use crate::reconcile::plan::slots::{Slot, SlotChange};
use crate::reconcile::plan::{Action, StepId};

impl<'a> Schedule<'a> {
    /// Starts in the order of dependencies, each slot with the shortest gap that is possible.
    pub(super) fn start(&mut self) {
        for service in self.services.clone() {
            let Some(replicas) = self.decided.remove(service.name.as_str()) else {
                continue;
            };
            let first = replicas.slots.iter().position(|slot| slot.starts);
            let mut gate = if first.is_some() {
                self.dependencies_met(service)
            } else {
                Gate::default()
            };
            let runs_on = replicas.slots.iter().any(|slot| {
                slot.current.is_some_and(is_up)
                    && matches!(slot.change, SlotChange::Keep | SlotChange::Update)
            });
            let mut ready = Vec::new();
            let mut prepares_update = false;
            for (index, slot) in replicas.slots.iter().enumerate() {
                let prepares = first == Some(index) && !runs_on;
                if slot.update.is_some() {
                    prepares_update |= prepares;
                    continue;
                }
                if let Some(step) = self.start_slot(slot, &mut gate, prepares) {
                    ready.push(step);
                }
            }
            ready.extend(self.update_service(service, &replicas, &gate, prepares_update));
            self.ready.insert(&service.name, ready);
            self.decided.insert(&service.name, replicas);
        }
    }

    /// Returns the last step that makes `slot` as it should be. With `prepares`, the `pre_start` hooks of its service come before,
    /// and are added to what the other replicas wait for.
    fn start_slot(&mut self, slot: &Slot<'a>, gate: &mut Gate, prepares: bool) -> Option<StepId> {
        let service = slot.service.name.as_str();
        let created = self.created.get(slot.name()).copied();
        let renewed = slot
            .current
            .filter(|_| matches!(slot.change, SlotChange::Recreate | SlotChange::Restart));
        let dependents = self.dependents_stopped(service);
        let mut before: Vec<StepId> = created.into_iter().chain(self.dropped(slot)).collect();
        let mut is_stopped = false;
        for container in renewed.into_iter().chain(slot.leftovers.iter().copied()) {
            if !is_up(container) {
                continue;
            }
            let stop = self
                .stopped
                .get(container.id.as_str())
                .copied()
                .unwrap_or_else(|| {
                    let gate = gate.clone().and(created).and(dependents.iter().copied());
                    let reasons = slot.reasons.clone();
                    self.builder
                        .stop(container, self.options.timeout, false, reasons, gate)
                });
            before.push(stop);
            is_stopped = true;
        }
        let mut ready = self.update_in_place(slot, &mut before);
        if let Some((from, to)) = self.stands_by(slot) {
            let action = Action::SwitchSandbox {
                service: service.into(),
                name: slot.name().into(),
                from,
                to,
            };
            let gate = Gate::after(before.iter().copied());
            let step = self.builder.push(action, slot.reasons.clone(), gate);
            before.push(step);
            ready = Some(step);
        }
        let definition = slot.definition();
        let names = (slot.container(), service, slot.name());
        if slot.starts {
            let first = gate.clone().and(before.iter().copied());
            let prepared = self
                .builder
                .preparation(definition, names, &first, prepares);
            before.extend(prepared);
            if prepares {
                *gate = gate.clone().and(prepared);
            }
            let gate = gate.clone().and(before.iter().copied());
            let reasons = slot.reasons.clone();
            let start = self.builder.start(names, definition, reasons, gate);
            if is_stopped {
                self.builder.complete(start);
            }
            ready = Some(start);
        }
        let gone = renewed
            .filter(|_| slot.change == SlotChange::Recreate)
            .into_iter();
        for container in gone.chain(slot.leftovers.iter().copied()) {
            let gate = Gate::after(ready.map_or(before.clone(), |ready| vec![ready]));
            self.builder
                .remove(container, false, slot.reasons.clone(), gate);
        }
        ready
    }

    /// Steps that stop those dependents of `service` that are down while it is renewed.
    fn dependents_stopped(&self, service: &str) -> Vec<StepId> {
        let dependents = self.context.graph.dependents(service).into_iter();
        dependents
            .filter(|(_, requirement)| requirement.restart)
            .filter_map(|(name, _)| self.decided.get(name))
            .flat_map(|replicas| &replicas.slots)
            .filter(|slot| slot.change == SlotChange::Restart)
            .filter_map(|slot| self.stopped.get(slot.current?.id.as_str()).copied())
            .collect()
    }

    /// Steps that stop what a slot must not have beside its container.
    pub(in crate::reconcile::plan) fn dropped(&self, slot: &Slot<'a>) -> Vec<StepId> {
        let dropped = slot.dropped.iter();
        let stops = dropped.filter_map(|container| self.stopped.get(container.id.as_str()));
        stops.copied().collect()
    }

    /// The sandbox of a container that stays, if it stands by, after the one that it stands by for.
    fn stands_by(&self, slot: &Slot<'a>) -> Option<(String, String)> {
        let to = slot
            .wanted
            .desired
            .sandbox
            .clone()
            .filter(|_| !slot.creates())?;
        let mut sandboxes = self.observed.sandboxes.iter();
        let own = sandboxes.find(|sandbox| sandbox.spec.id == to)?;
        Some((own.stands_by_for.clone()?, to))
    }

    /// Changes what can be changed of a container that stays, once `before` is done, and returns the last step, which is added
    /// there.
    pub(in crate::reconcile::plan) fn update_in_place(
        &mut self,
        slot: &Slot<'a>,
        before: &mut Vec<StepId>,
    ) -> Option<StepId> {
        let mut ready = None;
        let service = slot.service.name.as_str();
        if let (SlotChange::Update | SlotChange::Restart, Some(current)) =
            (slot.change, slot.current)
            && let Some(desired) = updated(slot, current)
        {
            let action = Action::UpdateContainer {
                id: current.id.clone(),
                desired: Box::new(desired),
            };
            let gate = Gate::after(before.iter().copied());
            let step = self.builder.push(action, slot.reasons.clone(), gate);
            before.push(step);
            ready = Some(step);
            for signal in slot.signals() {
                let action = Action::SignalContainer {
                    id: current.id.clone(),
                    service: service.into(),
                    name: slot.name().into(),
                    signal: signal.into(),
                };
                let gate = Gate::after([step]);
                let step = self.builder.push(action, slot.reasons.clone(), gate);
                before.push(step);
                ready = Some(step);
            }
        }
        ready
    }

    /// What `service` waits for before it starts.
    fn dependencies_met(&mut self, service: &'a DesiredService) -> Gate {
        let graph = self.context.graph;
        let mut gate = Gate::default();
        for (name, requirement) in graph.dependencies(&service.name) {
            gate = gate.join(&self.dependency_met(name, requirement, &service.name));
        }
        gate
    }

    fn dependency_met(&mut self, name: &'a str, requirement: Requirement, dependent: &str) -> Gate {
        let ready = self.ready.get(name).cloned().unwrap_or_default();
        let started = requirement.condition == Condition::ServiceStarted;
        if started && requirement.required {
            return Gate::after(ready);
        }
        if !self.decided.contains_key(name) || self.is_met(name, requirement.condition) {
            return Gate::default();
        }
        Gate::after([self.builder.wait_for(name, requirement, ready, dependent)])
    }

    /// Whether nothing has to be waited for: the plan does not start the service, and it is as the condition says.
    fn is_met(&self, name: &str, condition: Condition) -> bool {
        let Some(replicas) = self.decided.get(name) else {
            return true;
        };
        let is_settled = self.ready.get(name).is_none_or(Vec::is_empty);
        is_settled
            && replicas.slots.iter().all(|slot| {
                slot.current
                    .is_some_and(|current| meets(current, condition))
            })
    }

    /// `--wait`: every service runs, is healthy or has done its work.
    pub(super) fn wait(&mut self) {
        if !self.options.wait || self.options.no_start {
            return;
        }
        for service in self.services.clone() {
            let name = service.name.as_str();
            let Some(first) = self
                .decided
                .get(name)
                .and_then(|replicas| replicas.slots.first())
            else {
                continue;
            };
            let condition = if self.context.is_awaited_job(name) {
                Condition::ServiceCompletedSuccessfully
            } else if first.wanted.desired.healthcheck.is_some() {
                Condition::ServiceHealthy
            } else {
                Condition::ServiceStarted
            };
            let requirement = Requirement {
                condition,
                restart: false,
                required: true,
            };
            if !self.is_met(name, condition) {
                let ready = self.ready.get(name).cloned().unwrap_or_default();
                self.builder.wait_for(name, requirement, ready, "");
            }
        }
    }
}

/// The definition to record for a container that stays; none if it has it already.
fn updated(slot: &Slot<'_>, current: &ObservedContainer) -> Option<Desired> {
    let old = current.desired.as_ref()?;
    let mut new = slot.wanted.desired.clone();
    new.anonymous_volumes.clone_from(&old.anonymous_volumes);
    if !slot.service.is_image_known {
        new.image.clone_from(&old.image);
        if new.healthcheck.is_none()
            && old.config.get("healthcheck") == new.config.get("healthcheck")
        {
            new.healthcheck.clone_from(&old.healthcheck);
        }
        if old.config.get("stop_signal") == new.config.get("stop_signal") {
            new.stop_signal.clone_from(&old.stop_signal);
        }
    }
    (new != *old).then_some(new)
}
