//! The steps of `up`, each as soon as what it truly needs is done.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::builder::{Builder, Gate, is_up, lives_in, meets, stands_by, uses};
use super::exclusive::conflict;
use super::order::{Needs, Stop, stop_in_order};
use super::resources::{Resources, is_attached};
use super::slots::{Context, Replicas, SandboxChange, Slot, SlotChange};
use super::{Action, Plan, Reason, StepId, UpOptions};
use crate::container::Desired;
use crate::graph::Requirement;
use crate::model::Condition;
use crate::network::SandboxRecord;
use crate::reconcile::desired::DesiredService;
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::reconcile::pulls::DesiredPull;

/// Turns decisions into steps; [`super::rollout`] has those of services that are replaced while they serve. Phases come in an order in which every step knows the steps that it waits for.
pub(super) struct Schedule<'a> {
    pub(super) observed: &'a Observed,
    pub(super) options: &'a UpOptions,
    pub(super) context: Context<'a>,
    pub(super) builder: Builder,
    pub(super) resources: Resources<'a>,
    /// In the order of starting.
    pub(super) services: Vec<&'a DesiredService>,
    pub(super) decided: HashMap<&'a str, Replicas<'a>>,
    /// Containers that go for good.
    going: Vec<(&'a ObservedContainer, Reason)>,
    /// Names of slots whose container can only be made when something else is gone.
    late: BTreeSet<String>,
    /// Steps that pull, by reference and platform.
    pulled: BTreeMap<(&'a str, Option<&'a str>), StepId>,
    /// By reference and platform.
    images: BTreeMap<(&'a str, Option<&'a str>), StepId>,
    /// Step that makes the new container of a slot, by its name.
    pub(super) created: HashMap<String, StepId>,
    /// Step that stops a container, by its id.
    stopped: HashMap<&'a str, StepId>,
    /// Step that removes a sandbox, by its id.
    pub(super) released: HashMap<String, StepId>,
    /// Last steps of starting a service.
    ready: HashMap<&'a str, Vec<StepId>>,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(
        builder: Builder,
        context: Context<'a>,
        options: &'a UpOptions,
        resources: Resources<'a>,
        services: Vec<&'a DesiredService>,
        decided: HashMap<&'a str, Replicas<'a>>,
        going: Vec<(&'a ObservedContainer, Reason)>,
    ) -> Self {
        Self {
            observed: context.observed,
            options,
            context,
            builder,
            resources,
            services,
            decided,
            going,
            pulled: pull_steps(context.pulls).collect(),
            late: BTreeSet::new(),
            images: BTreeMap::new(),
            created: HashMap::new(),
            stopped: HashMap::new(),
            released: HashMap::new(),
            ready: HashMap::new(),
        }
    }

    pub(super) fn plan(mut self) -> Plan {
        self.decide_updates();
        self.find_late();
        self.prepare();
        self.stop_early();
        self.release();
        self.create_late();
        self.start();
        self.wait();
        self.wait_for_pulls();
        self.builder.plan
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.services
            .iter()
            .filter_map(|service| self.decided.get(service.name.as_str()))
            .flat_map(|replicas| &replicas.slots)
    }

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
        let slot = self.slots().find(|slot| {
            let containers = slot
                .current
                .into_iter()
                .chain(slot.leftovers.iter().copied());
            { containers }.any(|other| other.id == container.id)
        });
        self.goes(container) || slot.is_some_and(|slot| slot.creates() && slot.is_moved)
    }

    /// Sandboxes that are made anew, that belonged to a container that goes, or that nobody uses.
    pub(super) fn released_sandboxes(&self) -> Vec<&'a SandboxRecord> {
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

    /// Finds the slots whose sandbox needs something that another one still holds, and those that hang on them.
    fn find_late(&mut self) {
        let released = self.released_sandboxes();
        let mut late = BTreeSet::new();
        let slots = self.slots();
        for slot in slots.filter(|slot| slot.creates() && slot.update.is_none()) {
            let waits = match (&slot.wanted.sandbox, slot.sandbox) {
                (_, SandboxChange::Replace) => true,
                (Some(spec), SandboxChange::Create) => {
                    let replaced = &self.resources.replaced;
                    let mut networks = spec
                        .attachments
                        .iter()
                        .map(|joined| joined.network.as_str());
                    released.iter().any(|record| conflict(&record.spec, spec))
                        || networks.any(|network| replaced.contains_key(network))
                }
                _ => false,
            };
            let parents = slot.wanted.desired.parents.values();
            if waits || slot.is_moved && slot.current.is_some() || { parents }
                .any(|name| late.contains(name))
            {
                late.insert(slot.name().to_owned());
            }
        }
        self.late = late;
    }

    /// Makes images ready, and makes the containers that can exist beside those that they replace.
    fn prepare(&mut self) {
        let names: Vec<&'a str> = self
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        for name in names {
            let Some(replicas) = self.decided.remove(name) else {
                continue;
            };
            for slot in replicas.slots.iter().filter(|slot| slot.creates()) {
                self.ensure_image(slot.service);
                if !self.late.contains(slot.name()) && slot.update.is_none() {
                    self.create(slot, Gate::default());
                }
            }
            self.decided.insert(name, replicas);
        }
    }

    /// Has nothing be made before all images are here: what cannot be pulled leaves nothing behind.
    fn wait_for_pulls(&mut self) {
        for step in &mut self.builder.plan.steps {
            let makes = matches!(
                step.action,
                Action::CreateNetwork { .. } | Action::CreateVolume { .. }
            );
            if makes {
                let pulled = self.pulled.values().copied();
                let after: BTreeSet<StepId> = pulled.chain(step.after.drain(..)).collect();
                step.after = after.into_iter().collect();
            }
        }
    }

    fn ensure_image(&mut self, service: &'a DesiredService) {
        let key = (service.image.as_str(), service.platform.as_deref());
        if !self.images.contains_key(&key) {
            let action = Action::EnsureImage {
                service: service.name.clone(),
                reference: service.image.clone(),
            };
            let gate = Gate::after(self.pulled.get(&key).copied());
            let step = self.builder.push(action, Vec::new(), gate);
            self.images.insert(key, step);
        }
    }

    /// What making the container of `slot` needs, but for its sandbox and parents.
    fn ingredients(&self, slot: &Slot<'a>) -> Vec<StepId> {
        let key = (
            slot.service.image.as_str(),
            slot.service.platform.as_deref(),
        );
        let volumes = slot.wanted.desired.volumes.keys();
        let volumes = volumes.filter_map(|name| self.resources.volumes.get(name.as_str()));
        // Images that it mounts, or that its hooks run from, are pulled for it, too.
        let pulls = self.context.pulls.iter().filter(|pull| {
            let mut services = pull.services.iter();
            services.any(|name| *name == slot.service.name)
        });
        let pulls = pulls.filter_map(|pull| {
            let key = (pull.reference.as_str(), pull.platform.as_deref());
            self.pulled.get(&key)
        });
        self.images
            .get(&key)
            .into_iter()
            .chain(pulls)
            .chain(volumes)
            .copied()
            .collect()
    }

    /// Makes sandbox and container of `slot`, not before `gate`.
    pub(super) fn create(&mut self, slot: &Slot<'a>, gate: Gate) {
        let mut gate = gate.and(self.ingredients(slot));
        if let Some(spec) = &slot.wanted.sandbox
            && slot.sandbox != SandboxChange::Keep
        {
            let networks = spec
                .attachments
                .iter()
                .filter_map(|attachment| self.resources.networks.get(attachment.network.as_str()))
                .copied();
            let holders = self
                .observed
                .sandboxes
                .iter()
                .filter(|record| record.spec.id == spec.id || conflict(&record.spec, spec))
                .filter_map(|record| self.released.get(&record.spec.id))
                .copied();
            // The image comes first: a container that cannot be had must not cost the one that runs.
            let needs = Gate::after(networks.chain(holders)).join(&gate);
            let switch = slot
                .update
                .as_ref()
                .and_then(|update| update.switch.as_ref());
            let action = Action::CreateSandbox {
                spec: spec.clone(),
                stands_by_for: switch.map(|(from, _)| from.clone()),
            };
            let step = self.builder.push(action, slot.reasons.clone(), needs);
            gate = gate.and([step]);
        }
        let parents = slot.wanted.desired.parents.values();
        gate.after
            .extend(parents.filter_map(|name| self.created.get(name)));
        // A slot that changes its name or loses its sandbox must not have two containers at once.
        let is_late = self.late.contains(slot.name());
        let old = slot.current.filter(|_| is_late);
        gate.after
            .extend(old.and_then(|old| self.stopped.get(old.id.as_str())));
        let old_sandbox = old.and_then(|old| old.desired.as_ref()?.sandbox.as_ref());
        gate.after
            .extend(old_sandbox.and_then(|id| self.released.get(id)));
        let inherits = !self.options.renew_anonymous_volumes;
        let action = Action::CreateContainer {
            desired: Box::new(slot.wanted.desired.clone()),
            replaces: slot
                .current
                .filter(|_| inherits)
                .map(|current| current.id.clone()),
        };
        let step = self.builder.push(action, slot.reasons.clone(), gate);
        self.created.insert(slot.name().to_owned(), step);
    }

    /// Stops, dependents first: what goes, what holds something that a late slot needs, and what is to be down while its
    /// dependency is renewed.
    fn stop_early(&mut self) {
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
            let containers = slot
                .current
                .into_iter()
                .chain(slot.leftovers.iter().copied());
            stops.extend(
                containers
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

    /// Steps that stop what a slot must not have beside its container.
    pub(super) fn dropped(&self, slot: &Slot<'a>) -> Vec<StepId> {
        let dropped = slot.dropped.iter();
        let stops = dropped.filter_map(|container| self.stopped.get(container.id.as_str()));
        stops.copied().collect()
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

    /// Removes what goes, and the sandboxes and networks that are made anew or that nobody uses.
    fn release(&mut self) {
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

    fn create_late(&mut self) {
        let names: Vec<&'a str> = self
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        for name in names {
            let Some(replicas) = self.decided.remove(name) else {
                continue;
            };
            for slot in &replicas.slots {
                if self.late.contains(slot.name()) {
                    self.create(slot, Gate::default());
                }
            }
            self.decided.insert(name, replicas);
        }
    }

    /// Starts in the order of dependencies, each slot with the shortest gap that is possible.
    fn start(&mut self) {
        for service in self.services.clone() {
            let Some(replicas) = self.decided.remove(service.name.as_str()) else {
                continue;
            };
            let starts = replicas.slots.iter().any(|slot| slot.starts);
            let mut gate = if starts {
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
                let is_first = index
                    == replicas
                        .slots
                        .iter()
                        .position(|slot| slot.starts)
                        .unwrap_or(0);
                let prepares = is_first && slot.starts && !runs_on;
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
            ready = Some(self.builder.start(names, definition, reasons, gate));
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
    pub(super) fn update_in_place(
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
    fn wait(&mut self) {
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

/// The steps that pull come first in a plan; by reference and platform.
fn pull_steps(pulls: &[DesiredPull]) -> impl Iterator<Item = ((&str, Option<&str>), StepId)> {
    let steps = pulls.iter().filter(|pull| !pull.reasons.is_empty());
    steps
        .enumerate()
        .map(|(step, pull)| ((pull.reference.as_str(), pull.platform.as_deref()), step))
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
