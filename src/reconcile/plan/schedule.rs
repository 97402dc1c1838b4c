//! The steps of `up`, each as soon as what it truly needs is done.

mod create;
mod release;
mod start;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::builder::Builder;
use super::exclusive::conflict;
use super::resources::Resources;
use super::slots::{Context, Replicas, SandboxChange, Slot};
use super::{Plan, Reason, StepId, UpOptions};
use crate::reconcile::desired::DesiredService;
use crate::reconcile::observe::{Observed, ObservedContainer};
use crate::reconcile::pulls::DesiredPull;

/// Turns decisions into steps; [`super::rollout`] has those of services that are replaced while they serve. Phases come in an
/// order in which every step knows the steps that it waits for.
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
}

/// The steps that pull come first in a plan; by reference and platform.
fn pull_steps(pulls: &[DesiredPull]) -> impl Iterator<Item = ((&str, Option<&str>), StepId)> {
    let steps = pulls.iter().filter(|pull| !pull.reasons.is_empty());
    steps
        .enumerate()
        .map(|(step, pull)| ((pull.reference.as_str(), pull.platform.as_deref()), step))
}
