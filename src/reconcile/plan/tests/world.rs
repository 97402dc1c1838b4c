//! A host as plain data, on which plans are carried out. It refuses what the real one could not do.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::container::{Desired, label};
use crate::model::Condition;
use crate::network::{NetworkRecord, SandboxRecord, SandboxSpec};
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::reconcile::plan::{Action, Plan, Step, StepId};
use crate::state::{ContainerState, Health, HealthStatus, Wanted};

/// The world and what the plan under way has done so far.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) observed: Observed,
    /// Counts containers, for ids and times.
    made: u32,
    /// Warnings of the plan under way, and sandboxes that it removes.
    warnings: String,
    going: Vec<String>,
}

impl World {
    /// Carries `plan` out in its own order.
    pub(super) fn apply(&mut self, plan: &Plan) {
        self.apply_in_order(plan, |_| 0);
    }

    /// Carries `plan` out; `choose` picks the next of so many steps that may begin.
    pub(super) fn apply_in_order(&mut self, plan: &Plan, choose: impl FnMut(usize) -> usize) {
        self.apply_until(plan, plan.steps.len(), choose);
    }

    /// Carries out so many steps of `plan`, as if the command had been interrupted then.
    pub(super) fn apply_until(
        &mut self,
        plan: &Plan,
        steps: usize,
        choose: impl FnMut(usize) -> usize,
    ) {
        self.apply_watched(plan, steps, choose, |_| {});
    }

    /// As [`World::apply_until`]; `watch` looks at the world after every step.
    pub(super) fn apply_watched(
        &mut self,
        plan: &Plan,
        steps: usize,
        mut choose: impl FnMut(usize) -> usize,
        watch: impl Fn(&Self),
    ) {
        self.warnings = plan.warnings.join("\n");
        let removed = plan.steps.iter().filter_map(|step| match &step.action {
            Action::RemoveSandbox { id } => Some(id.clone()),
            _ => None,
        });
        self.going = removed.collect();
        let mut done = vec![false; plan.steps.len()];
        for (id, step) in plan.steps.iter().enumerate() {
            for before in step.after.iter().chain(&step.follows) {
                assert!(*before < id, "step {id} waits for the later step {before}");
            }
        }
        for _ in 0..steps.min(plan.steps.len()) {
            let may_begin: Vec<StepId> = (0..plan.steps.len())
                .filter(|id| !done[*id])
                .filter(|id| {
                    let step = &plan.steps[*id];
                    step.after
                        .iter()
                        .chain(&step.follows)
                        .all(|before| done[*before])
                })
                .collect();
            let id = may_begin[choose(may_begin.len()) % may_begin.len()];
            self.perform(&plan.steps[id]);
            watch(self);
            done[id] = true;
        }
        self.observed.containers.sort_by(|a, b| {
            (&a.service, a.number, a.created_at).cmp(&(&b.service, b.number, b.created_at))
        });
    }

    fn perform(&mut self, step: &Step) {
        match &step.action {
            Action::CreateNetwork { spec } => {
                assert!(
                    self.network(&spec.name).is_none(),
                    "network {} exists",
                    spec.name
                );
                self.observed.networks.push(NetworkRecord {
                    spec: spec.clone(),
                    ..NetworkRecord::default()
                });
            }
            Action::RemoveNetwork { name } => {
                let users = self.sandboxes_on(name);
                assert!(users.is_empty(), "network {name} is in use by {users:?}");
                self.observed
                    .networks
                    .retain(|network| network.spec.name != *name);
            }
            Action::CreateVolume { volume } => {
                let exists = self
                    .observed
                    .volumes
                    .iter()
                    .any(|known| known.name == volume.name);
                assert!(!exists, "volume {} exists", volume.name);
                self.observed.volumes.push(volume.clone());
            }
            Action::RemoveVolume { name } => {
                let mut containers = self
                    .observed
                    .containers
                    .iter()
                    .filter_map(|it| it.desired.as_ref());
                assert!(containers.all(|desired| !desired.volumes.contains_key(name)));
                self.observed.volumes.retain(|volume| volume.name != *name);
            }
            Action::PullImage { .. }
            | Action::EnsureImage { .. }
            | Action::RemoveImage { .. }
            | Action::SignalContainer { .. }
            | Action::Delay { .. }
            | Action::ConcludeUpdate { .. } => {}
            Action::CreateSandbox {
                spec,
                stands_by_for,
            } => self.create_sandbox(spec, stands_by_for.as_deref()),
            Action::SwitchSandbox { from, to, .. } => self.switch(from, to),
            Action::RemoveSandbox { id } => self.remove_sandbox(id),
            Action::CreateContainer { desired, replaces } => {
                self.create(desired, replaces.as_deref());
            }
            Action::UpdateContainer { id, desired } => {
                self.container(id).desired = Some((**desired).clone());
            }
            Action::StartContainer { id, service, name } => {
                self.start(id.as_deref(), service, name, step.update.is_some());
            }
            Action::Monitor {
                id, service, name, ..
            } => self.monitor(id.as_deref(), service, name),
            Action::Drain { id, .. } => {
                let container = self.container(id);
                let desired = container.desired.clone().unwrap_or_default();
                let sandbox = desired.sandbox.and_then(|id| self.sandbox(&id).cloned());
                assert!(sandbox.is_none_or(|sandbox| sandbox.stands_by_for.is_some()));
            }
            Action::StopContainer { id, .. } | Action::KillContainer { id, .. } => self.stop(id),
            Action::RemoveContainer { id, .. } => {
                let container = self.container(id);
                assert!(!is_up(container), "{} still runs", container.name);
                self.observed
                    .containers
                    .retain(|container| container.id != *id);
            }
            Action::WaitFor {
                service, condition, ..
            } => self.wait(service, *condition),
            Action::RunHook {
                id: Some(id), hook, ..
            } => {
                let runs = is_up(self.container(id));
                assert!(!(runs && hook == "pre_start"), "{hook} of {id}");
            }
            Action::RunHook { name, hook, .. } => {
                let mut slot = self
                    .observed
                    .containers
                    .iter()
                    .filter(|it| it.name == *name);
                let newest = slot.clone().max_by_key(|it| it.created_at);
                let runs = newest.is_some_and(is_up);
                assert!(!(runs && hook == "pre_start"), "{hook} of {name}");
                assert!(slot.next().is_some());
            }
        }
    }

    fn create_sandbox(&mut self, spec: &SandboxSpec, stands_by_for: Option<&str>) {
        assert!(
            self.sandbox(&spec.id).is_none(),
            "sandbox {} exists",
            spec.id
        );
        for attachment in &spec.attachments {
            let network = &attachment.network;
            assert!(
                self.network(network).is_some(),
                "network {network} does not exist"
            );
        }
        // What the plan leaves alone may hold a port too; that shows when it is carried out.
        let sandboxes = self.observed.sandboxes.iter();
        let beside = sandboxes.filter(|other| stands_by_for != Some(&other.spec.id));
        for other in beside.filter(|other| self.going.contains(&other.spec.id)) {
            for port in other
                .spec
                .ports
                .iter()
                .filter(|port| port.host_ports.is_some_and(|(first, last)| first == last))
            {
                let is_taken = spec
                    .ports
                    .iter()
                    .any(|own| own.host_ports == port.host_ports);
                assert!(
                    !is_taken,
                    "{} and {} publish {port:?}",
                    spec.id, other.spec.id
                );
            }
        }
        self.observed.sandboxes.push(SandboxRecord {
            spec: spec.clone(),
            netns: std::path::PathBuf::new(),
            endpoints: Vec::new(),
            ports: Vec::new(),
            active: false,
            boot_id: String::new(),
            stands_by_for: stands_by_for.map(String::from),
        });
    }

    fn switch(&mut self, from: &str, to: &str) {
        for sandbox in &mut self.observed.sandboxes {
            if sandbox.spec.id == to {
                sandbox.stands_by_for = None;
            } else if sandbox.spec.id == from {
                sandbox.stands_by_for = Some(to.into());
            }
        }
    }

    fn remove_sandbox(&mut self, id: &str) {
        assert!(self.sandbox(id).is_some(), "sandbox {id} does not exist");
        for container in self
            .observed
            .containers
            .iter()
            .filter(|container| is_up(container))
        {
            let Some(desired) = &container.desired else {
                continue;
            };
            let mut warnings = self
                .warnings
                .lines()
                .filter(|line| line.contains("without one"));
            if warnings.any(|line| line.contains(&container.name)) {
                continue;
            }
            let joins = desired
                .parents
                .get("network_mode")
                .is_some_and(|parent| parent == id);
            assert!(
                desired.sandbox.as_deref() != Some(id) && !joins,
                "{} runs in sandbox {id}",
                container.name
            );
        }
        self.observed
            .sandboxes
            .retain(|sandbox| sandbox.spec.id != id);
    }

    fn create(&mut self, desired: &Desired, replaces: Option<&str>) {
        let mut desired = desired.clone();
        if let Some(id) = &desired.sandbox {
            assert!(self.sandbox(id).is_some(), "sandbox {id} does not exist");
        }
        for volume in desired.volumes.keys() {
            assert!(
                self.observed
                    .volumes
                    .iter()
                    .any(|known| known.name == *volume)
            );
        }
        if let Some(id) = replaces {
            self.container(id);
        }
        for (role, parent) in &mut desired.parents {
            let newest = self
                .observed
                .containers
                .iter()
                .filter(|container| container.name == *parent || container.id == *parent)
                .max_by_key(|container| container.created_at);
            let Some(newest) = newest else {
                panic!("parent {parent} of {} does not exist", desired.name);
            };
            if role != "network_mode" {
                parent.clone_from(&newest.id);
            }
        }
        if desired.image.is_empty() {
            desired.image = "sha256:1".into();
        }
        self.made += 1;
        let age = SignedDuration::from_secs(self.made.into());
        self.observed.containers.push(ObservedContainer {
            id: format!("id{}", self.made),
            name: desired.name.clone(),
            service: desired.service.clone(),
            number: desired.number,
            one_off: desired.one_off,
            image: "busybox".into(),
            labels: BTreeMap::from([(label::PROJECT.into(), desired.project.clone())]),
            desired: Some(desired),
            created_at: Timestamp::UNIX_EPOCH + age,
            ..ObservedContainer::default()
        });
    }

    fn start(&mut self, id: Option<&str>, service: &str, name: &str, is_update: bool) {
        let slot = self
            .observed
            .containers
            .iter()
            .filter(|container| container.service == service && container.name == name);
        let known = slot.clone().find(|container| Some(&container.id[..]) == id);
        let newest = known.or_else(|| slot.clone().max_by_key(|container| container.created_at));
        let Some(newest) = newest else {
            panic!("{name} does not exist");
        };
        let desired = newest.desired.clone().unwrap_or_default();
        for container in slot.clone().filter(|container| is_up(container)) {
            let other = container.desired.as_ref().and_then(|it| it.sandbox.clone());
            let is_apart = other.is_none() || other != desired.sandbox;
            assert!(
                is_update && container.id != newest.id && is_apart,
                "{name} is started twice"
            );
        }
        // Nobody serves where it is to come: it does so at once.
        let sandbox = desired.sandbox.as_ref().and_then(|id| self.sandbox(id));
        let deserted = sandbox
            .and_then(|sandbox| sandbox.stands_by_for.clone())
            .filter(|other| {
                let mut containers = self.observed.containers.iter();
                !containers.any(|it| {
                    is_up(it)
                        && it
                            .desired
                            .as_ref()
                            .is_some_and(|desired| desired.sandbox.as_ref() == Some(other))
                })
            });
        let id = newest.id.clone();
        if let (Some(from), Some(to)) = (deserted, &desired.sandbox) {
            self.switch(&from, to);
        }
        let network = desired
            .parents
            .get("network_mode")
            .or(desired.sandbox.as_ref());
        if let Some(id) = network {
            let is_shared = desired.sandbox.is_none();
            assert!(
                is_shared || self.sandbox(id).is_some(),
                "{name} has no sandbox"
            );
        }
        let container = self.container(&id);
        container.status = Status::Running;
        container.exit_code = None;
        container.state = ContainerState {
            wanted: Wanted::Running,
            run: container.state.run + 1,
            ..ContainerState::default()
        };
    }

    /// Time passes until the container is healthy, which must run.
    fn monitor(&mut self, id: Option<&str>, service: &str, name: &str) {
        let mut slot = self.observed.containers.iter_mut();
        let container = match id {
            Some(id) => slot.find(|it| it.id == id),
            None => slot
                .filter(|it| it.service == service && it.name == name)
                .max_by_key(|it| it.created_at),
        };
        let container = container.unwrap_or_else(|| panic!("{name} does not exist"));
        assert!(is_up(container), "{name} does not run");
        container.state.health = Some(Health {
            status: HealthStatus::Healthy,
            ..Health::default()
        });
    }

    fn stop(&mut self, id: &str) {
        let container = self.container(id);
        // It may have ended by itself before its turn.
        if !is_up(container) {
            return;
        }
        container.status = Status::Exited;
        container.exit_code = Some(143);
        container.state.wanted = Wanted::Stopped;
    }

    /// Time passes until the condition is met.
    fn wait(&mut self, service: &str, condition: Condition) {
        for container in &mut self.observed.containers {
            if container.service != service || container.one_off || !is_up(container) {
                continue;
            }
            match condition {
                Condition::ServiceStarted => container.status = Status::Running,
                Condition::ServiceHealthy => {
                    container.status = Status::Running;
                    container.state.health = Some(Health {
                        status: HealthStatus::Healthy,
                        ..Health::default()
                    });
                }
                Condition::ServiceCompletedSuccessfully => {
                    let desired = container.desired.as_ref();
                    if desired.is_some_and(|desired| desired.restart == "always") {
                        continue;
                    }
                    container.status = Status::Exited;
                    container.exit_code = Some(0);
                }
            }
        }
    }

    /// How many slots have a container that is ready and does not just stand by.
    pub(super) fn ready(&self) -> usize {
        let answers = |container: &&ObservedContainer| {
            let desired = container.desired.as_ref();
            let has_probe = desired.is_some_and(|desired| desired.healthcheck.is_some());
            let health = container.state.health.as_ref();
            let is_healthy = health.is_some_and(|it| it.status == HealthStatus::Healthy);
            let sandbox = desired.and_then(|it| self.sandbox(it.sandbox.as_ref()?));
            container.status == Status::Running
                && (is_healthy || !has_probe)
                && sandbox.is_none_or(|sandbox| sandbox.stands_by_for.is_none())
        };
        let answering = self.observed.containers.iter().filter(answers);
        let slots: BTreeSet<u32> = answering.map(|it| it.number).collect();
        slots.len()
    }

    /// The only container that is called `name`.
    pub(super) fn named(&mut self, name: &str) -> &mut ObservedContainer {
        let mut found = self
            .observed
            .containers
            .iter_mut()
            .filter(|it| it.name == name);
        let first = found.next();
        assert!(
            found.next().is_none(),
            "several containers are called {name}"
        );
        first.unwrap()
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.observed
            .containers
            .iter()
            .map(|container| container.name.as_str())
            .collect()
    }

    /// Lets a container end by itself.
    pub(super) fn exit(&mut self, name: &str, code: u32) {
        let container = self.named(name);
        container.status = Status::Exited;
        container.exit_code = Some(code);
    }

    fn container(&mut self, id: &str) -> &mut ObservedContainer {
        let found = self
            .observed
            .containers
            .iter_mut()
            .find(|container| container.id == id);
        found.unwrap_or_else(|| panic!("container {id} does not exist"))
    }

    fn network(&self, name: &str) -> Option<&NetworkRecord> {
        self.observed
            .networks
            .iter()
            .find(|network| network.spec.name == name)
    }

    fn sandbox(&self, id: &str) -> Option<&SandboxRecord> {
        self.observed
            .sandboxes
            .iter()
            .find(|sandbox| sandbox.spec.id == id)
    }

    fn sandboxes_on(&self, network: &str) -> Vec<&str> {
        let sandboxes = self.observed.sandboxes.iter();
        sandboxes
            .filter(|it| {
                it.spec
                    .attachments
                    .iter()
                    .any(|joined| joined.network == network)
            })
            .map(|it| it.spec.id.as_str())
            .collect()
    }
}

fn is_up(container: &ObservedContainer) -> bool {
    matches!(
        container.status,
        Status::Running | Status::Paused | Status::Restarting
    )
}
