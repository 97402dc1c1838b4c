//! Making images ready, sandboxes and containers.

use std::collections::BTreeSet;

use super::Schedule;
use crate::reconcile::desired::DesiredService;
use crate::reconcile::plan::builder::Gate;
use crate::reconcile::plan::exclusive::conflict;
use crate::reconcile::plan::slots::{SandboxChange, Slot};
use crate::reconcile::plan::{Action, StepId};

impl<'a> Schedule<'a> {
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

    /// Makes images ready, and makes the containers that can exist beside those that they replace.
    pub(super) fn prepare(&mut self) {
        for service in self.services.clone() {
            let Some(replicas) = self.decided.remove(service.name.as_str()) else {
                continue;
            };
            for slot in replicas.slots.iter().filter(|slot| slot.creates()) {
                self.ensure_image(slot.service);
                if !self.late.contains(slot.name()) && slot.update.is_none() {
                    self.create(slot, Gate::default());
                }
            }
            self.decided.insert(&service.name, replicas);
        }
    }

    /// Has nothing be made before all images are here: what cannot be pulled leaves nothing behind.
    pub(super) fn wait_for_pulls(&mut self) {
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

    /// What making the container of `slot` needs, but for its sandbox and parents.
    pub(super) fn ingredients(&self, slot: &Slot<'a>) -> Vec<StepId> {
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
    pub(in crate::reconcile::plan) fn create(&mut self, slot: &Slot<'a>, gate: Gate) {
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

    pub(super) fn create_late(&mut self) {
        for service in self.services.clone() {
            let Some(replicas) = self.decided.remove(service.name.as_str()) else {
                continue;
            };
            for slot in &replicas.slots {
                if self.late.contains(slot.name()) {
                    self.create(slot, Gate::default());
                }
            }
            self.decided.insert(&service.name, replicas);
        }
    }
}
