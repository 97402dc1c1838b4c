//! What all plans are built with.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Action, Change, Plan, Reason, Step, StepId, UpdateStep};
use crate::graph::Requirement;
use crate::model::Condition;
use crate::network::SandboxRecord;
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::state::{HealthStatus, Wanted};

/// A plan in the making.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) plan: Plan,
    /// Waits that are shared, by service, condition and whether it is required.
    waits: BTreeMap<(String, u8, bool), StepId>,
    /// Given to the steps that are added.
    pub(super) update: Option<UpdateStep>,
}

/// What a step waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate {
    pub(super) after: Vec<StepId>,
    pub(super) follows: Vec<StepId>,
}

impl Gate {
    pub(super) fn after(steps: impl IntoIterator<Item = StepId>) -> Self {
        Self {
            after: steps.into_iter().collect(),
            follows: Vec::new(),
        }
    }

    pub(super) fn follows(steps: impl IntoIterator<Item = StepId>) -> Self {
        Self {
            after: Vec::new(),
            follows: steps.into_iter().collect(),
        }
    }

    pub(super) fn and(mut self, steps: impl IntoIterator<Item = StepId>) -> Self {
        self.after.extend(steps);
        self
    }

    pub(super) fn join(mut self, other: &Self) -> Self {
        self.after.extend(&other.after);
        self.follows.extend(&other.follows);
        self
    }
}

impl Builder {
    pub(super) fn push(&mut self, action: Action, reasons: Vec<Reason>, gate: Gate) -> StepId {
        let after: BTreeSet<StepId> = gate.after.into_iter().collect();
        let follows = gate
            .follows
            .into_iter()
            .filter(|step| !after.contains(step));
        self.plan.steps.push(Step {
            action,
            reasons,
            follows: follows.collect::<BTreeSet<_>>().into_iter().collect(),
            after: after.into_iter().collect(),
            update: self.update.clone(),
            completes: false,
        });
        self.plan.steps.len() - 1
    }

    /// Makes a step the second half of those before it.
    pub(super) fn complete(&mut self, step: StepId) {
        self.plan.steps[step].completes = true;
    }

    pub(super) fn change(
        &mut self,
        kind: &str,
        name: &str,
        service: Option<&str>,
        change: &str,
        reasons: Vec<Reason>,
    ) {
        self.plan.changes.push(Change {
            kind: kind.into(),
            name: name.into(),
            service: service.map(String::from),
            change: change.into(),
            reasons,
        });
    }

    pub(super) fn container_change(
        &mut self,
        container: &ObservedContainer,
        change: &str,
        reasons: Vec<Reason>,
    ) {
        self.change(
            "container",
            &container.name,
            Some(&container.service),
            change,
            reasons,
        );
    }

    pub(super) fn warn(&mut self, warning: String) {
        if !self.plan.warnings.contains(&warning) {
            self.plan.warnings.push(warning);
        }
    }

    /// Runs the hooks one after the other and returns the last step, or nothing if there are none.
    pub(super) fn hooks(
        &mut self,
        hook: &str,
        definition: &Value,
        (id, service, name): (Option<&str>, &str, &str),
        gate: &Gate,
    ) -> Option<StepId> {
        self.hooks_of(hook, definition, (id, service, name), gate, |_| true)
    }

    /// The `pre_start` hooks: all of them for the first replica of a service that starts while none runs, else those that are for
    /// each.
    pub(super) fn preparation(
        &mut self,
        definition: &Value,
        names: (Option<&str>, &str, &str),
        gate: &Gate,
        is_first: bool,
    ) -> Option<StepId> {
        self.hooks_of("pre_start", definition, names, gate, |hook| {
            is_first || hook.get("per_replica") == Some(&Value::Bool(true))
        })
    }

    fn hooks_of(
        &mut self,
        hook: &str,
        definition: &Value,
        (id, service, name): (Option<&str>, &str, &str),
        gate: &Gate,
        is_due: impl Fn(&Value) -> bool,
    ) -> Option<StepId> {
        let hooks = definition.get(hook).and_then(Value::as_array);
        let mut last = None;
        for (index, _) in hooks
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, hook)| is_due(hook))
        {
            let action = Action::RunHook {
                id: id.map(String::from),
                service: service.into(),
                name: name.into(),
                hook: hook.into(),
                index,
            };
            let gate = last.map_or_else(|| gate.clone(), |last| Gate::after([last]));
            last = Some(self.push(action, Vec::new(), gate));
        }
        last
    }

    /// Stops a container, after its `pre_stop` hooks if `with_hooks`.
    pub(super) fn stop(
        &mut self,
        container: &ObservedContainer,
        timeout: Option<u32>,
        with_hooks: bool,
        reasons: Vec<Reason>,
        gate: Gate,
    ) -> StepId {
        let names = (
            Some(container.id.as_str()),
            container.service.as_str(),
            container.name.as_str(),
        );
        let definition = container.desired.as_ref().map(|desired| &desired.config);
        // A hook cannot run in what is frozen or just restarts.
        let hooks = definition.filter(|_| with_hooks && container.status == Status::Running);
        let last = hooks.and_then(|definition| self.hooks("pre_stop", definition, names, &gate));
        let action = Action::StopContainer {
            id: container.id.clone(),
            service: container.service.clone(),
            name: container.name.clone(),
            timeout,
        };
        self.push(
            action,
            reasons,
            last.map_or(gate, |last| Gate::after([last])),
        )
    }

    /// Starts the container of that id, else the one that is made for the slot, runs its `post_start` hooks, and returns the last
    /// step.
    pub(super) fn start(
        &mut self,
        (id, service, name): (Option<&str>, &str, &str),
        definition: &Value,
        reasons: Vec<Reason>,
        gate: Gate,
    ) -> StepId {
        let action = Action::StartContainer {
            id: id.map(String::from),
            service: service.into(),
            name: name.into(),
        };
        let start = self.push(action, reasons, gate);
        self.hooks(
            "post_start",
            definition,
            (id, service, name),
            &Gate::after([start]),
        )
        .unwrap_or(start)
    }

    /// Waits for `service`, once for all `dependent`s with the same requirement. `ready` are the steps that start it.
    pub(super) fn wait_for(
        &mut self,
        service: &str,
        requirement: Requirement,
        ready: impl IntoIterator<Item = StepId>,
        dependent: &str,
    ) -> StepId {
        let key = (
            service.to_owned(),
            requirement.condition as u8,
            requirement.required,
        );
        if let Some(known) = self.waits.get(&key).copied() {
            let step = self.plan.steps.get_mut(known).map(|step| &mut step.action);
            if let Some(Action::WaitFor {
                dependent: names, ..
            }) = step
                && !dependent.is_empty()
            {
                if !names.is_empty() {
                    names.push_str(", ");
                }
                names.push_str(dependent);
            }
            return known;
        }
        let action = Action::WaitFor {
            service: service.into(),
            condition: requirement.condition,
            required: requirement.required,
            dependent: dependent.into(),
        };
        let gate = if requirement.required {
            Gate::after(ready)
        } else {
            Gate::follows(ready)
        };
        let step = self.push(action, Vec::new(), gate);
        self.waits.insert(key, step);
        step
    }

    /// Waits until nobody is connected to a container that gets no new connections.
    pub(super) fn drain(&mut self, container: &ObservedContainer, gate: Gate) -> StepId {
        let action = Action::Drain {
            id: container.id.clone(),
            service: container.service.clone(),
            name: container.name.clone(),
        };
        self.push(action, Vec::new(), gate)
    }

    pub(super) fn remove(
        &mut self,
        container: &ObservedContainer,
        volumes: bool,
        reasons: Vec<Reason>,
        gate: Gate,
    ) -> StepId {
        let action = Action::RemoveContainer {
            id: container.id.clone(),
            service: container.service.clone(),
            name: container.name.clone(),
            volumes,
        };
        self.push(action, reasons, gate)
    }

    pub(super) fn remove_sandbox(&mut self, id: &str, gate: Gate) -> StepId {
        self.push(
            Action::RemoveSandbox { id: id.into() },
            vec![Reason::NotWanted],
            gate,
        )
    }
}

/// Whether a container has a process, or will have one by itself.
pub(super) fn is_up(container: &ObservedContainer) -> bool {
    matches!(
        container.status,
        Status::Running | Status::Paused | Status::Restarting
    )
}

/// Whether a container was made and never started, as by a command that was cut off.
pub(super) fn is_unstarted(container: &ObservedContainer) -> bool {
    container.status == Status::Created && container.state.run == 0
}

/// Whether a container has a process that was told to end, by a command that is at it or did not come to its end.
pub(super) fn is_stopping(container: &ObservedContainer) -> bool {
    let has_process = matches!(container.status, Status::Running | Status::Paused);
    has_process && container.state.wanted == Wanted::Stopped
}

/// Whether a container runs, and is healthy if it has a health check.
pub(super) fn is_ready(container: &ObservedContainer) -> bool {
    let desired = container.desired.as_ref();
    if desired.is_some_and(|desired| desired.healthcheck.is_some()) {
        meets(container, Condition::ServiceHealthy)
    } else {
        container.status == Status::Running
    }
}

/// Whether nothing but a record is left of a container.
pub(super) fn is_gone(container: &ObservedContainer) -> bool {
    matches!(container.status, Status::Dead | Status::Removing)
}

/// Whether `sandbox` belongs to the container.
pub(super) fn uses(container: &ObservedContainer, sandbox: &SandboxRecord) -> bool {
    let id = sandbox.spec.id.as_str();
    match &container.desired {
        Some(desired) => desired.sandbox.as_deref() == Some(id),
        None => container.name == id,
    }
}

/// Whether a container lives in a sandbox that has neither names nor ports, as another one of its slot has them.
pub(super) fn stands_by(observed: &Observed, container: &ObservedContainer) -> bool {
    let mut sandboxes = observed.sandboxes.iter();
    sandboxes.any(|sandbox| sandbox.stands_by_for.is_some() && uses(container, sandbox))
}

/// Whether a container, as it is, meets `condition`.
pub(super) fn meets(container: &ObservedContainer, condition: Condition) -> bool {
    let is_running = container.status == Status::Running;
    match condition {
        Condition::ServiceStarted => is_running || has_completed(container),
        Condition::ServiceHealthy => {
            let health = container.state.health.as_ref();
            is_running && health.is_some_and(|health| health.status == HealthStatus::Healthy)
        }
        Condition::ServiceCompletedSuccessfully => has_completed(container),
    }
}

/// Whether the container has ended well by itself.
pub(super) fn has_completed(container: &ObservedContainer) -> bool {
    let is_lost = container.state.exit.as_ref().is_some_and(|exit| exit.lost);
    container.status == Status::Exited
        && container.exit_code == Some(0)
        && container.state.wanted != Wanted::Stopped
        && !is_lost
}

/// Whether the container lives in `sandbox` though it belongs to another one, by `network_mode`.
pub(super) fn lives_in(container: &ObservedContainer, sandbox: &SandboxRecord) -> bool {
    let parents = container.desired.as_ref().map(|desired| &desired.parents);
    parents.and_then(|parents| parents.get("network_mode")) == Some(&sandbox.spec.id)
}
