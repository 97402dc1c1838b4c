//! The steps of replacing a service's containers while it serves: wave by wave, each new container watched before the next wave,
//! the old ones kept until all is well.

use super::builder::{Gate, is_up, lives_in, uses};
use super::exclusive::conflict;
use super::resources::is_attached;
use super::schedule::Schedule;
use super::slots::{Replicas, SandboxChange, Slot, SlotChange};
use super::{Action, Reason, ReplicaUpdate, StepId, UpdateStep};
use crate::network::{SandboxRecord, SandboxSpec};
use crate::reconcile::desired::{DesiredService, other_sandbox};
use crate::reconcile::observe::{ObservedContainer, Status};
use crate::reconcile::update::{UpdateOrder, UpdatePolicy};

/// How the container of a slot is replaced while it serves.
#[derive(Debug)]
pub(super) struct SlotUpdate<'a> {
    order: UpdateOrder,
    /// The container that serves.
    pub(super) old: &'a ObservedContainer,
    /// Its sandbox and that of the new one, where these are two.
    pub(super) switch: Option<(String, String)>,
}

/// What an update that nobody asked for goes by: one under way is finished though the file says nothing of it any more.
fn policy(service: &DesiredService) -> UpdatePolicy {
    service.update.clone().unwrap_or(UpdatePolicy {
        order: UpdateOrder::StartFirst,
        ..UpdatePolicy::default()
    })
}

fn sandbox_of(container: &ObservedContainer) -> Option<&str> {
    container.desired.as_ref()?.sandbox.as_deref()
}

impl<'a> Schedule<'a> {
    /// Decides which slots are replaced while they serve, and how.
    pub(super) fn decide_updates(&mut self) {
        for service in self.services.clone() {
            let Some(mut replicas) = self.decided.remove(service.name.as_str()) else {
                continue;
            };
            for slot in &mut replicas.slots {
                match self.slot_update(slot) {
                    Ok(update) => slot.update = update,
                    Err(why) => self.builder.warn(format!(
                        "`deploy.update_config` of service `{}` is not followed this time: {why}",
                        service.name
                    )),
                }
            }
            self.decided.insert(&service.name, replicas);
        }
    }

    /// The error says why the file cannot be followed.
    fn slot_update(&mut self, slot: &mut Slot<'a>) -> Result<Option<SlotUpdate<'a>>, String> {
        let service = slot.service;
        let mut left = slot.leftovers.iter().copied();
        let left = left.find(|container| is_up(container));
        let renewed = slot
            .current
            .filter(|current| slot.creates() && is_up(current));
        let Some(old) = renewed.or(left) else {
            return Ok(None);
        };
        if self.options.no_start || slot.wanted.desired.one_off {
            return Ok(None);
        }
        if !slot.creates() {
            // A job that has done its work has nothing to wait for.
            if !slot.starts && !slot.current.is_some_and(is_up) {
                return Ok(None);
            }
            let to = slot.wanted.desired.sandbox.clone();
            let from = sandbox_of(old).map(String::from);
            let is_apart = from != to;
            let is_asked_for = is_apart || service.update.is_some();
            if slot.change == SlotChange::Restart || !is_asked_for || self.loses_network(old) {
                return Ok(None);
            }
            return Ok(Some(SlotUpdate {
                order: if is_apart {
                    policy(service).order
                } else {
                    UpdateOrder::StopFirst
                },
                old,
                switch: from.zip(to).filter(|_| is_apart),
            }));
        }
        let Some(update) = &service.update else {
            return Ok(None);
        };
        for reason in &slot.reasons {
            if let Reason::Follows { resource } = reason {
                return Err(format!("it is replaced together with {resource}"));
            }
        }
        if self.context.shared.contains(service.name.as_str()) {
            return Err("other services share its namespaces or volumes".into());
        }
        if self.loses_network(old) {
            return Err("what it has of the network goes to others or is made anew".into());
        }
        let mut order = update.order;
        let Some(spec) = &slot.wanted.sandbox else {
            if let Some(tenant) = self.tenant(old) {
                return Err(format!("`{tenant}` lives in its network"));
            }
            if slot.leftovers.iter().any(|left| sandbox_of(left).is_some()) {
                return Err("an update before it was cut off, and left a network behind".into());
            }
            return Ok(Some(SlotUpdate {
                order,
                old,
                switch: None,
            }));
        };
        let sandbox = sandbox_of(old).map(String::from);
        let stays = slot.sandbox == SandboxChange::Keep;
        if order == UpdateOrder::StartFirst || !stays {
            match self.obstacle(slot, old, spec) {
                None => {
                    let name = slot.name().to_owned();
                    let to = sandbox
                        .as_ref()
                        .map_or_else(|| name.clone(), |sandbox| other_sandbox(&name, sandbox));
                    slot.wanted.move_to(&to);
                    slot.sandbox = SandboxChange::Create;
                    return Ok(Some(SlotUpdate {
                        order,
                        old,
                        switch: sandbox.map(|from| (from, to)),
                    }));
                }
                Some(why) if !stays => return Err(why),
                Some(why) => {
                    self.builder.warn(format!(
                        "service `{}` is updated stop-first: {why}",
                        service.name
                    ));
                    order = UpdateOrder::StopFirst;
                }
            }
        }
        Ok(Some(SlotUpdate {
            order,
            old,
            switch: None,
        }))
    }

    /// Whether a container that serves cannot go on to do so, as what it lives in goes before.
    fn loses_network(&self, old: &ObservedContainer) -> bool {
        let released = self.released_sandboxes();
        let mut sandboxes = self.observed.sandboxes.iter();
        let own = sandboxes.find(|sandbox| uses(old, sandbox));
        let mut replaced = self.resources.replaced.keys();
        let mut others = self.slots().filter(|other| {
            other.service.name != old.service && other.sandbox != SandboxChange::Keep
        });
        // Somebody else takes a port or an address of it over.
        let is_wanted = own.is_some_and(|own| {
            others.any(|other| {
                let spec = other.wanted.sandbox.as_ref();
                spec.is_some_and(|spec| conflict(&own.spec, spec))
            })
        });
        is_wanted
            || released.iter().any(|sandbox| lives_in(old, sandbox))
            || own.is_some_and(|own| replaced.any(|network| is_attached(own, network)))
    }

    /// A container that lives in the sandbox of `old`.
    fn tenant(&self, old: &ObservedContainer) -> Option<&'a str> {
        let sandboxes = self.observed.sandboxes.iter();
        let own = { sandboxes }.find(|sandbox| uses(old, sandbox))?;
        let mut containers = self.observed.containers.iter();
        let tenant = containers.find(|container| lives_in(container, own))?;
        Some(&tenant.name)
    }

    /// Why a slot cannot have a second sandbox beside that of the container which serves.
    fn obstacle(
        &self,
        slot: &Slot<'a>,
        old: &ObservedContainer,
        spec: &SandboxSpec,
    ) -> Option<String> {
        let attachments = spec.attachments.iter();
        let is_fixed = attachments
            .clone()
            .any(|it| it.ipv4.is_some() || it.ipv6.is_some() || it.mac.is_some());
        if is_fixed {
            return Some("two containers cannot have the same fixed address".into());
        }
        if let Some(tenant) = self.tenant(old) {
            return Some(format!("`{tenant}` lives in its network"));
        }
        let sandboxes = self.observed.sandboxes.iter();
        let own: Option<&SandboxRecord> = { sandboxes }.find(|sandbox| uses(old, sandbox));
        let replaced = self.resources.replaced.keys().find(|network| {
            let joins = attachments.clone().any(|it| it.network == **network);
            joins || own.is_some_and(|own| is_attached(own, network))
        });
        if let Some(network) = replaced {
            return Some(format!("network `{network}` is made anew"));
        }
        let foreign = self.observed.networks.iter().find(|network| {
            let driver = network.spec.driver.as_deref();
            let is_foreign = network.foreign || driver.is_some_and(|driver| driver != "bridge");
            is_foreign
                && attachments
                    .clone()
                    .any(|it| it.network == network.spec.name)
        });
        if let Some(network) = foreign.filter(|_| !spec.ports.is_empty()) {
            let name = &network.spec.name;
            return Some(format!(
                "published ports of network `{name}` cannot be led elsewhere"
            ));
        }
        let wanted = self
            .slots()
            .filter(|other| other.service.name != slot.service.name)
            .filter(|other| other.sandbox != SandboxChange::Keep)
            .filter_map(|other| Some((other.name(), other.wanted.sandbox.as_ref()?)))
            .find(|(_, other)| own.is_some_and(|own| conflict(&own.spec, other)));
        if let Some((other, _)) = wanted {
            return Some(format!("`{other}` takes a port or an address of it over"));
        }
        let released = self.released_sandboxes();
        // What it has already is led to the new one.
        let mut added = spec.clone();
        added
            .ports
            .retain(|port| own.is_none_or(|own| !own.spec.ports.contains(port)));
        let held = released
            .iter()
            .filter(|record| own.is_none_or(|own| own.spec.id != record.spec.id))
            .find(|record| conflict(&record.spec, &added));
        held.map(|record| {
            let id = &record.spec.id;
            format!("it takes a port or an address of `{id}` over")
        })
    }

    /// Replaces the containers of those slots of a service that are replaced while they serve, and returns the step that ends
    /// this. With `prepares`, the `pre_start` hooks come before the first of them starts.
    pub(super) fn update_service(
        &mut self,
        service: &'a DesiredService,
        replicas: &Replicas<'a>,
        gate: &Gate,
        prepares: bool,
    ) -> Option<StepId> {
        let slots = replicas.slots.iter();
        let slots: Vec<(&Slot<'a>, &SlotUpdate<'a>)> = slots
            .filter_map(|slot| Some((slot, slot.update.as_ref()?)))
            .collect();
        if slots.is_empty() {
            return None;
        }
        let policy = policy(service);
        let mut gate = gate.clone();
        let mut hooks_due = prepares;
        let mut before: Vec<StepId> = Vec::new();
        let mut updates = Vec::new();
        for (index, wave) in slots.chunks(policy.width(slots.len())).enumerate() {
            if let Some(time) = policy.delay.filter(|_| index > 0) {
                let action = Action::Delay {
                    service: service.name.clone(),
                    time,
                };
                before = vec![self.builder.push(action, Vec::new(), Gate::after(before))];
            }
            let mut last = Vec::new();
            for (slot, update) in wave {
                let opening = gate.clone().and(before.iter().copied());
                self.builder.update = Some(UpdateStep {
                    service: service.name.clone(),
                    name: slot.name().to_owned(),
                    wave: index + 1,
                    retires: false,
                });
                let mut made = opening.and(self.dropped(slot));
                if slot.creates() {
                    self.create(slot, made.clone());
                    made = made.and(self.created.get(slot.name()).copied());
                }
                let is_first = std::mem::take(&mut hooks_due);
                if slot.starts {
                    // That the preparation fails is nothing of one replica.
                    let part = self.builder.update.take_if(|_| is_first);
                    let names = (slot.container(), service.name.as_str(), slot.name());
                    let definition = slot.definition();
                    let done = self.builder.preparation(definition, names, &made, is_first);
                    if is_first {
                        gate = gate.and(done);
                        self.builder.update = part;
                    }
                    made = made.and(done);
                }
                last.extend(self.update_slot(slot, update, &policy, &made));
                updates.push(ReplicaUpdate {
                    name: slot.name().to_owned(),
                    wave: index + 1,
                    old: update.old.id.clone(),
                    new: slot.container().map(String::from),
                    switch: update.switch.clone(),
                });
            }
            before = last;
        }
        self.builder.update = None;
        let action = Action::ConcludeUpdate {
            service: service.name.clone(),
            policy: Box::new(policy.clone()),
            replicas: updates,
        };
        let concluded = self.builder.push(action, Vec::new(), Gate::after(before));
        let width = policy.width(slots.len());
        for (index, (slot, _)) in slots.into_iter().enumerate() {
            self.retire(slot, index / width + 1, concluded);
        }
        self.builder.update = None;
        Some(concluded)
    }

    /// Lets the new container of a slot take the place of the old one. Returns the last steps.
    fn update_slot(
        &mut self,
        slot: &Slot<'a>,
        update: &SlotUpdate<'a>,
        policy: &UpdatePolicy,
        made: &Gate,
    ) -> Vec<StepId> {
        let mut before = Vec::new();
        let mut opening = made.clone();
        if update.order == UpdateOrder::StopFirst {
            opening = opening.and(self.stop_old(slot, made));
        }
        if slot.change == SlotChange::Update {
            before.extend(opening.after.iter().copied());
            self.update_in_place(slot, &mut before);
            opening = opening.and(before);
        }
        if update.order == UpdateOrder::StopFirst {
            opening = self.switch(slot, update, opening);
        }
        let service = slot.service.name.as_str();
        if slot.starts {
            let names = (slot.container(), service, slot.name());
            let reasons = slot.reasons.clone();
            let started = self
                .builder
                .start(names, slot.definition(), reasons, opening);
            opening = Gate::after([started]);
        }
        let action = Action::Monitor {
            id: slot.container().map(String::from),
            service: service.into(),
            name: slot.name().into(),
            time: policy.monitor,
        };
        let monitored = self.builder.push(action, Vec::new(), opening);
        if update.order == UpdateOrder::StopFirst {
            return vec![monitored];
        }
        let switched = self.switch(slot, update, Gate::after([monitored]));
        self.stop_old(slot, &switched)
    }

    /// Leads names and ports of a slot to its new container.
    fn switch(&mut self, slot: &Slot<'a>, update: &SlotUpdate<'a>, gate: Gate) -> Gate {
        let Some((from, to)) = update.switch.clone() else {
            return gate;
        };
        let action = Action::SwitchSandbox {
            service: slot.service.name.clone(),
            name: slot.name().into(),
            from,
            to,
        };
        Gate::after([self.builder.push(action, Vec::new(), gate)])
    }

    /// Stops what the new container of a slot takes the place of; one that gets no new connections goes when its last one is
    /// closed.
    fn stop_old(&mut self, slot: &Slot<'a>, gate: &Gate) -> Vec<StepId> {
        let drains = slot.update.as_ref().is_some_and(|update| {
            update.order == UpdateOrder::StartFirst && update.switch.is_some()
        });
        let mut stops = Vec::new();
        for container in slot.replaced().filter(|container| is_up(container)) {
            let mut gate = gate.clone();
            if drains && container.status == Status::Running {
                gate = Gate::after([self.builder.drain(container, gate)]);
            }
            let reasons = slot.reasons.clone();
            let timeout = self.options.timeout;
            stops.push(self.builder.stop(container, timeout, true, reasons, gate));
        }
        stops
    }

    /// Removes what a slot does not need any more after its update.
    fn retire(&mut self, slot: &Slot<'a>, wave: usize, concluded: StepId) {
        self.builder.update = Some(UpdateStep {
            service: slot.service.name.clone(),
            name: slot.name().to_owned(),
            wave,
            retires: true,
        });
        let mut removed = vec![concluded];
        let mut sandboxes: Vec<&str> = Vec::new();
        for container in slot.replaced() {
            let gate = Gate::follows([concluded]);
            let reasons = slot.reasons.clone();
            removed.push(self.builder.remove(container, false, reasons, gate));
            sandboxes.extend(sandbox_of(container));
        }
        let own = slot.wanted.desired.sandbox.as_deref();
        let is_there = |id: &str| {
            let mut sandboxes = self.observed.sandboxes.iter();
            sandboxes.any(|sandbox| sandbox.spec.id == id)
        };
        // One that changes or that nobody uses goes by itself.
        let goes = |id: &str| self.released.contains_key(id);
        sandboxes.retain(|id| Some(*id) != own && is_there(id) && !goes(id));
        sandboxes.sort_unstable();
        sandboxes.dedup();
        for id in sandboxes {
            let gate = Gate::follows(removed.iter().copied());
            self.builder.remove_sandbox(id, gate);
        }
    }
}

impl<'a> Slot<'a> {
    /// The containers whose place its container takes.
    fn replaced(&self) -> impl Iterator<Item = &'a ObservedContainer> {
        let current = self.current.filter(|_| self.creates());
        current.into_iter().chain(self.leftovers.iter().copied())
    }
}
