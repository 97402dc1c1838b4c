//! Stopping and removing what goes, and what holds something that others need.

use std::collections::{BTreeSet, HashMap};

use super::Schedule;
use crate::network::SandboxRecord;
use crate::reconcile::observe::{ObservedContainer, Status};
use crate::reconcile::plan::builder::{Gate, is_up, lives_in, stands_by, uses};
use crate::reconcile::plan::order::{Needs, Stop, stop_in_order};
use crate::reconcile::plan::resources::is_attached;
use crate::reconcile::plan::slots::{SandboxChange, Slot, SlotChange};
use crate::reconcile::plan::{Action, Reason, StepId};

impl<'a> Schedule<'a> {
    fn goes(&self, container: &ObservedContainer) -> bool {
        self.going.iter().any(|(other, _)| other.id == container.id)
    }

    /// Whether the container, which has a sandbox of its own, lets go of it.
    fn lets_go(&self, container: &ObservedContainer) -> bool {
        let is_selected = self.decided.contains_key(container.service.as_str())
            && !self.options.leaves_alone(&container.service);
        self.goes(container) || is_selected && !container.one_off
    }

    /// Whether the container, which lives in the sandbox of another one, leaves it.
    fn moves_out(&self, container: &ObservedContainer) -> bool {
        let mut slots = self.slots();
        let slot = slots.find(|slot| slot.containers().any(|other| other.id == container.id));
        self.goes(container) || slot.is_some_and(|slot| slot.creates() && slot.is_moved)
    }

    /// Sandboxes that are made anew, that belonged to a container that goes, or that nobody uses.
    pub(in crate::reconcile::plan) fn released_sandboxes(&self) -> Vec<&'a SandboxRecord> {
        let slots = self
            .slots()
            .filter(|slot| slot.sandbox == SandboxChange::Keep);
        let kept = slots.filter_map(|slot| slot.wanted.desired.sandbox.as_deref());
        // They are removed when all is well.
        let updates = self.slots().filter_map(|slot| slot.update.as_ref());
        let old = updates.filter_map(|update| update.old.desired.as_ref()?.sandbox.as_deref());
        let kept: BTreeSet<&str> = kept.chain(old).collect();
        let sandboxes = self.observed.sandboxes.iter();
        sandboxes
            .filter(|sandbox| !kept.contains(sandbox.spec.id.as_str()))
            .filter(|sandbox| {
                let containers = self.observed.containers.iter();
                let mut users = containers.filter(|container| uses(container, sandbox));
                users.all(|container| self.lets_go(container))
            })
            .collect()
    }

    /// Stops, dependents first: what goes, what holds something that a late slot needs, and what is to be down while its
    /// dependency is renewed.
    pub(super) fn stop_early(&mut self) {
        let mut stops: Vec<Stop<'a>> = Vec::new();
        for (container, reason) in &self.going {
            if !is_up(container) {
                continue;
            }
            let drains = *reason == Reason::Interrupted
                && container.status == Status::Running
                && stands_by(self.observed, container);
            let drained = drains.then(|| self.builder.drain(container, Gate::default()));
            stops.push(Stop {
                container,
                with_hooks: *reason == Reason::Surplus,
                reasons: vec![reason.clone()],
                after: drained.into_iter().collect(),
                is_strict: false,
            });
        }
        for slot in self.slots().filter(|slot| slot.update.is_none()) {
            let follows = slot.change == SlotChange::Restart && self.is_down_meanwhile(slot);
            let is_late = self.late.contains(slot.name());
            if !follows && !is_late {
                stops.extend(slot.apart().map(|container| Stop {
                    container,
                    with_hooks: false,
                    reasons: slot.reasons.clone(),
                    after: Vec::new(),
                    is_strict: true,
                }));
                continue;
            }
            let after = if is_late {
                self.ingredients(slot)
            } else {
                self.renewed_dependencies(&slot.service.name)
            };
            stops.extend(
                slot.containers()
                    .filter(|container| is_up(container))
                    .map(|container| Stop {
                        container,
                        with_hooks: false,
                        reasons: slot.reasons.clone(),
                        after: after.clone(),
                        is_strict: true,
                    }),
            );
        }
        let observed = self.observed.containers.iter();
        let needs = Needs::new(Some(self.context.graph), observed);
        let timeout = self.options.timeout;
        self.stopped = stop_in_order(&mut self.builder, &needs, &stops, timeout);
    }

    /// Whether a slot that is restarted with a dependency is down while that is renewed. One that is replaced while it serves
    /// needs nobody to be.
    fn is_down_meanwhile(&self, slot: &Slot<'a>) -> bool {
        let dependencies = self.context.graph.dependencies(&slot.service.name);
        let renewed = dependencies
            .into_iter()
            .filter(|(_, requirement)| requirement.restart)
            .filter_map(|(name, _)| self.decided.get(name))
            .flat_map(|replicas| &replicas.slots)
            .filter(|slot| matches!(slot.change, SlotChange::Recreate | SlotChange::Restart));
        { renewed }.any(|slot| slot.update.is_none())
    }

    /// Steps that make the new containers of what `service` depends on: it runs on until they are there.
    fn renewed_dependencies(&self, service: &str) -> Vec<StepId> {
        let dependencies = self.context.graph.dependencies(service).into_keys();
        dependencies
            .filter_map(|name| self.decided.get(name))
            .flat_map(|replicas| &replicas.slots)
            .filter_map(|slot| self.created.get(slot.name()).copied())
            .collect()
    }

    /// Removes what goes, and the sandboxes and networks that are made anew or that nobody uses.
    pub(super) fn release(&mut self) {
        let mut removed: HashMap<&str, StepId> = HashMap::new();
        for (container, reason) in &self.going {
            let stop = self.stopped.get(container.id.as_str()).copied();
            let reasons = vec![reason.clone()];
            let step = self
                .builder
                .remove(container, false, reasons, Gate::after(stop));
            removed.insert(&container.id, step);
        }
        for sandbox in self.released_sandboxes() {
            let id = sandbox.spec.id.as_str();
            let users = self
                .observed
                .containers
                .iter()
                .filter(|container| uses(container, sandbox) || lives_in(container, sandbox));
            let steps: Vec<StepId> = users
                .filter_map(|container| {
                    let id = container.id.as_str();
                    removed.get(id).or_else(|| self.stopped.get(id)).copied()
                })
                .collect();
            let lost = self
                .observed
                .containers
                .iter()
                .filter(|container| lives_in(container, sandbox) && !self.moves_out(container));
            let lost: Vec<&str> = lost.map(|container| container.name.as_str()).collect();
            if !lost.is_empty() {
                let lost = lost.join(", ");
                self.builder.warn(format!(
                    "the network of `{id}` goes; without one until they are made anew: {lost}"
                ));
            }
            let step = self.builder.remove_sandbox(id, Gate::after(steps));
            self.released.insert(id.into(), step);
        }
        for (name, replaced) in &self.resources.replaced {
            let sandboxes = self.observed.sandboxes.iter();
            let users = sandboxes.filter(|sandbox| is_attached(sandbox, name));
            let gate = Gate::after(
                users
                    .filter_map(|sandbox| self.released.get(&sandbox.spec.id))
                    .copied(),
            );
            let action = Action::RemoveNetwork {
                name: (*name).into(),
            };
            let gone = self.builder.push(action, replaced.reasons.clone(), gate);
            let action = Action::CreateNetwork {
                spec: replaced.network.spec.clone(),
            };
            let made = self
                .builder
                .push(action, replaced.reasons.clone(), Gate::after([gone]));
            self.resources.networks.insert(name, made);
        }
    }
}
