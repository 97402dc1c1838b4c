//! Several containers in one slot, as commands that were cut off leave them: which of them counts, and what becomes of the others.

use std::collections::HashMap;

use super::{Context, Policy, Replicas, Slot};
use crate::reconcile::desired::DesiredService;
use crate::reconcile::observe::ObservedContainer;
use crate::reconcile::plan::builder::{is_ready, is_up, stands_by};
use crate::reconcile::plan::resources::Resources;

impl<'a> Context<'a> {
    /// The slot that `containers` share, the newest first: commands that were cut off may have left several. The newest one
    /// counts, unless it would have to be replaced and another one serves.
    pub(super) fn existing_slot(
        &self,
        service: &'a DesiredService,
        number: u32,
        containers: &[&'a ObservedContainer],
        policy: &Policy,
        resources: &Resources<'a>,
        decided: &HashMap<&'a str, Replicas<'a>>,
    ) -> Slot<'a> {
        let decide = |index: usize| {
            let mut others = containers.to_vec();
            let current = others.remove(index);
            let slot = (service.replica(number), Some(current), others);
            self.slot(service, slot, policy, resources, decided)
        };
        let mut current = 0;
        let mut slot = decide(current);
        if let Some(serving) = self.serving(containers)
            && slot.creates()
            && serving > 0
        {
            current = serving;
            slot = decide(current);
        }
        let older = containers.get(current + 1..).unwrap_or_default();
        let replaced = if slot.creates() {
            // It takes the place of the one that counts; the sandbox of another one may be needed for it.
            None
        } else {
            let serving = self.serving(older);
            serving.or_else(|| older.iter().position(|container| is_up(container)))
        };
        let replaced = replaced.map(|index| older[index].id.as_str());
        let is_newer = |container: &ObservedContainer| {
            let mut newer = containers[..current].iter();
            newer.any(|newer| newer.id == container.id)
        };
        let others = std::mem::take(&mut slot.leftovers);
        (slot.dropped, slot.leftovers) = others.into_iter().partition(|container| {
            let is_replaced = replaced == Some(container.id.as_str());
            is_newer(container) || is_up(container) && !is_replaced
        });
        slot
    }

    /// Whether somebody of a slot is ready and does not just stand by.
    pub(super) fn answers(&self, slot: &Slot<'a>) -> bool {
        let others = slot.leftovers.iter().chain(&slot.dropped);
        let mut containers = slot.current.iter().chain(others);
        containers.any(|container| is_ready(container) && !stands_by(self.observed, container))
    }

    /// The one of `containers`, the newest first, that answers for their slot: it runs and does not just stand by. One that is
    /// ready comes before one that is not.
    fn serving(&self, containers: &[&'a ObservedContainer]) -> Option<usize> {
        let serves = |container: &ObservedContainer| {
            is_up(container) && !stands_by(self.observed, container)
        };
        let mut serving = containers.iter().enumerate();
        let ready = serving.find(|(_, container)| serves(container) && is_ready(container));
        let any = || containers.iter().position(|container| serves(container));
        ready.map(|(index, _)| index).or_else(any)
    }
}
