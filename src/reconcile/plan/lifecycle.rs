//! `start`, `stop`, `restart`, `kill` and `rm`: nothing is made, and no change of the file is applied.

use std::collections::{BTreeSet, HashMap};

use super::builder::{Builder, Gate, has_completed, is_stopping, is_up, lives_in, meets, uses};
use super::error::require_services;
use super::order::{Needs, Stop, stop_in_order};
use super::{Action, Plan, PlanError, Reason, StepId};
use crate::graph::{Graph, Requirement};
use crate::model::{Condition, Project};
use crate::reconcile::desired::DesiredState;
use crate::reconcile::diff::diff;
use crate::reconcile::observe::{Observed, ObservedContainer};

/// Plans to stop what runs, dependents first.
pub fn plan_stop(
    project: Option<&Project>,
    observed: &Observed,
    services: &[String],
    timeout: Option<u32>,
) -> Result<Plan, PlanError> {
    let mut lifecycle = Lifecycle::new(project, observed, services)?;
    let graph = lifecycle.graph.take();
    let containers = lifecycle.named(false);
    let running = containers.into_iter().filter(|container| is_up(container));
    lifecycle.stop(graph.as_ref(), running, timeout, "stop");
    Ok(lifecycle.builder.plan)
}

/// Plans to start the containers of `services` and of what they depend on; conditions are waited for.
pub fn plan_start(
    project: Option<&Project>,
    observed: &Observed,
    services: &[String],
    wait: bool,
) -> Result<Plan, PlanError> {
    let mut lifecycle = Lifecycle::new(project, observed, services)?;
    if let Some(graph) = &lifecycle.graph
        && !services.is_empty()
    {
        // A service of an inactive profile is in no graph.
        let closure = graph.closure(services.iter().map(String::as_str));
        let needed = closure.into_iter().map(String::from);
        let mut all: BTreeSet<String> = needed.collect();
        all.extend(services.iter().cloned());
        lifecycle.services = all.into_iter().collect();
    }
    let containers = lifecycle.named(false);
    if let Some(project) = project {
        let is_missing = |name: &&String| {
            let service = project.services.get(*name);
            service.is_some_and(|service| service.replicas() > 0 && service.provider.is_none())
                && !containers
                    .iter()
                    .any(|container| container.service == **name)
        };
        let mut named: Vec<&String> = services.iter().collect();
        if services.is_empty() && containers.is_empty() {
            named = project.services.keys().collect();
        }
        if let Some(service) = named.into_iter().find(is_missing) {
            return Err(PlanError::NoContainer {
                service: service.clone(),
            });
        }
    }
    let graph = lifecycle.graph.take();
    lifecycle.start(graph.as_ref(), &containers, wait);
    Ok(lifecycle.builder.plan)
}

/// Plans to stop and start containers, dependencies first, with those dependents that ask for it unless `no_deps`.
/// `desired` serves to warn of changes that a restart does not apply.
pub fn plan_restart(
    project: Option<&Project>,
    desired: Option<&DesiredState>,
    observed: &Observed,
    services: &[String],
    timeout: Option<u32>,
    no_deps: bool,
) -> Result<Plan, PlanError> {
    let mut lifecycle = Lifecycle::new(project, observed, services)?;
    if let Some(graph) = &lifecycle.graph
        && !services.is_empty()
        && !no_deps
    {
        lifecycle.services = with_restarted_dependents(graph, services);
    }
    let containers = lifecycle.named(false);
    for container in &containers {
        if desired.is_some_and(|desired| is_outdated(desired, container)) {
            lifecycle.builder.warn(format!(
                "container `{}` differs from the file; `up` applies the change, a restart does not",
                container.name
            ));
        }
    }
    let graph = lifecycle.graph.take();
    lifecycle.restart(graph.as_ref(), &containers, timeout);
    Ok(lifecycle.builder.plan)
}

/// Plans to send `signal` to all that runs, at once.
pub fn plan_kill(
    project: Option<&Project>,
    observed: &Observed,
    services: &[String],
    signal: &str,
    remove_orphans: bool,
) -> Result<Plan, PlanError> {
    let mut lifecycle = Lifecycle::new(project, observed, services)?;
    let mut containers = lifecycle.named(true);
    if let Some(project) = project
        && !remove_orphans
    {
        containers.retain(|container| {
            project.services.contains_key(&container.service)
                || project.disabled_services.contains_key(&container.service)
        });
    }
    for container in containers.into_iter().filter(|container| is_up(container)) {
        let action = Action::KillContainer {
            id: container.id.clone(),
            service: container.service.clone(),
            name: container.name.clone(),
            signal: signal.into(),
        };
        let reasons = vec![requested("kill")];
        lifecycle
            .builder
            .push(action, reasons.clone(), Gate::default());
        lifecycle
            .builder
            .container_change(container, "kill", reasons);
    }
    Ok(lifecycle.builder.plan)
}

/// Plans to remove stopped containers; with `stop` running ones are stopped before, with `volumes` their anonymous
/// volumes go too.
pub fn plan_remove(
    project: Option<&Project>,
    observed: &Observed,
    services: &[String],
    stop: bool,
    volumes: bool,
) -> Result<Plan, PlanError> {
    let mut lifecycle = Lifecycle::new(project, observed, services)?;
    let graph = lifecycle.graph.take();
    let mut containers = lifecycle.named(false);
    let mut stopped = HashMap::new();
    if stop {
        let running = containers
            .iter()
            .copied()
            .filter(|container| is_up(container));
        stopped = lifecycle.stop(graph.as_ref(), running, None, "rm");
        lifecycle.builder.plan.changes.clear();
    } else {
        containers.retain(|container| !is_up(container));
    }
    let builder = &mut lifecycle.builder;
    let mut removed: HashMap<&str, StepId> = HashMap::new();
    for container in &containers {
        let gate = Gate::after(stopped.get(container.id.as_str()).copied());
        let reasons = vec![requested("rm")];
        let step = builder.remove(container, volumes, reasons.clone(), gate);
        removed.insert(&container.id, step);
        builder.container_change(container, "remove", reasons);
    }
    for sandbox in &observed.sandboxes {
        let users = observed
            .containers
            .iter()
            .filter(|container| uses(container, sandbox) || lives_in(container, sandbox));
        let steps: Option<Vec<StepId>> = users
            .map(|container| removed.get(container.id.as_str()).copied())
            .collect();
        if let Some(steps) = steps.filter(|steps| !steps.is_empty()) {
            builder.remove_sandbox(&sandbox.spec.id, Gate::after(steps));
        }
    }
    Ok(lifecycle.builder.plan)
}

struct Lifecycle<'a> {
    observed: &'a Observed,
    graph: Option<Graph>,
    /// Empty: all.
    services: Vec<String>,
    builder: Builder,
}

impl<'a> Lifecycle<'a> {
    fn new(
        project: Option<&Project>,
        observed: &'a Observed,
        services: &[String],
    ) -> Result<Self, PlanError> {
        let seen = observed
            .containers
            .iter()
            .map(|container| container.service.as_str());
        let known = project.into_iter().flat_map(|project| {
            project
                .services
                .keys()
                .chain(project.disabled_services.keys())
                .map(String::as_str)
        });
        require_services(services, known.chain(seen))?;
        Ok(Self {
            observed,
            graph: project.map(Graph::new).transpose()?,
            services: services.to_vec(),
            builder: Builder::default(),
        })
    }

    /// Containers of the services named.
    fn named(&self, one_offs: bool) -> Vec<&'a ObservedContainer> {
        self.observed
            .containers
            .iter()
            .filter(|container| one_offs || !container.one_off)
            .filter(|container| {
                self.services.is_empty() || self.services.contains(&container.service)
            })
            .collect()
    }

    fn stop(
        &mut self,
        graph: Option<&'a Graph>,
        containers: impl Iterator<Item = &'a ObservedContainer>,
        timeout: Option<u32>,
        command: &str,
    ) -> HashMap<&'a str, StepId> {
        let needs = Needs::new(graph, self.observed.containers.iter());
        let reasons = vec![requested(command)];
        let stops: Vec<Stop<'a>> = containers
            .map(|container| Stop {
                container,
                with_hooks: true,
                reasons: reasons.clone(),
                after: Vec::new(),
                is_strict: false,
            })
            .collect();
        for stop in &stops {
            self.builder
                .container_change(stop.container, "stop", reasons.clone());
        }
        stop_in_order(&mut self.builder, &needs, &stops, timeout)
    }

    fn start(
        &mut self,
        graph: Option<&'a Graph>,
        containers: &[&'a ObservedContainer],
        wait: bool,
    ) {
        let mut walk = Walk::new(graph, self.observed, containers);
        for service in walk.order() {
            let is_job = walk.is_awaited_job(service);
            let mut starting = walk.of_service(service);
            starting.retain(|container| {
                !(is_up(container) && !is_stopping(container)
                    || is_job && has_completed(container)
                    || is_superseded(self.observed, container))
            });
            let gate = if starting.is_empty() {
                Gate::default()
            } else {
                walk.dependencies_met(&mut self.builder, service)
            };
            let mut ready = Vec::new();
            for container in starting {
                let reasons = vec![requested("start")];
                ready.push(self.start_again(container, None, reasons.clone(), gate.clone()));
                self.builder.container_change(container, "start", reasons);
            }
            walk.ready.insert(service, ready);
        }
        if wait {
            for service in walk.order() {
                walk.wait(&mut self.builder, service);
            }
        }
    }

    fn restart(
        &mut self,
        graph: Option<&'a Graph>,
        containers: &[&'a ObservedContainer],
        timeout: Option<u32>,
    ) {
        let mut walk = Walk::new(graph, self.observed, containers);
        for service in walk.order() {
            let gate = walk.dependencies_met(&mut self.builder, service);
            let mut ready = Vec::new();
            for container in walk.of_service(service) {
                if !is_up(container) && is_superseded(self.observed, container) {
                    continue;
                }
                let reasons = vec![requested("restart")];
                ready.push(self.start_again(container, timeout, reasons.clone(), gate.clone()));
                self.builder.container_change(container, "restart", reasons);
            }
            walk.ready.insert(service, ready);
        }
    }

    /// Starts a container, which is stopped first if it is up.
    fn start_again(
        &mut self,
        container: &ObservedContainer,
        timeout: Option<u32>,
        reasons: Vec<Reason>,
        gate: Gate,
    ) -> StepId {
        if !is_up(container) {
            return start(&mut self.builder, container, reasons, gate);
        }
        // What is being stopped has had its hooks.
        let with_hooks = !is_stopping(container);
        let stop = self
            .builder
            .stop(container, timeout, with_hooks, reasons.clone(), gate);
        let step = start(&mut self.builder, container, reasons, Gate::after([stop]));
        self.builder.complete(step);
        step
    }
}

/// A walk over services in the order of starting.
struct Walk<'a> {
    needs: Needs<'a>,
    containers: Vec<&'a ObservedContainer>,
    /// Last steps of starting a service.
    ready: HashMap<&'a str, Vec<StepId>>,
}

impl<'a> Walk<'a> {
    fn new(
        graph: Option<&'a Graph>,
        observed: &'a Observed,
        containers: &[&'a ObservedContainer],
    ) -> Self {
        Self {
            needs: Needs::new(graph, observed.containers.iter()),
            containers: containers.to_vec(),
            ready: HashMap::new(),
        }
    }

    fn order(&self) -> Vec<&'a str> {
        let services = self
            .containers
            .iter()
            .map(|container| container.service.as_str());
        self.needs
            .order(services)
            .into_iter()
            .map(|entry| entry.service)
            .collect()
    }

    fn of_service(&self, service: &str) -> Vec<&'a ObservedContainer> {
        let containers = self.containers.iter().copied();
        containers
            .filter(|container| container.service == service)
            .collect()
    }

    fn is_awaited_job(&self, service: &str) -> bool {
        let others = self
            .containers
            .iter()
            .map(|container| container.service.as_str());
        others
            .flat_map(|other| self.needs.direct(other))
            .any(|(name, requirement)| {
                name == service && requirement.condition == Condition::ServiceCompletedSuccessfully
            })
    }

    fn dependencies_met(&self, builder: &mut Builder, service: &str) -> Gate {
        let mut gate = Gate::default();
        for (name, requirement) in self.needs.direct(service) {
            let Some(ready) = self.ready.get(name) else {
                continue;
            };
            let ready = ready.iter().copied();
            if requirement.condition == Condition::ServiceStarted && requirement.required {
                gate = gate.and(ready);
            } else if ready.len() > 0 || !self.is_met(name, requirement.condition) {
                gate = gate.and([builder.wait_for(name, requirement, ready, service)]);
            }
        }
        gate
    }

    fn is_met(&self, service: &str, condition: Condition) -> bool {
        self.of_service(service)
            .into_iter()
            .all(|container| meets(container, condition))
    }

    fn wait(&self, builder: &mut Builder, service: &str) {
        let containers = self.of_service(service);
        let has_probe = containers.iter().any(|container| {
            container
                .desired
                .as_ref()
                .is_some_and(|desired| desired.healthcheck.is_some())
        });
        let condition = if self.is_awaited_job(service) {
            Condition::ServiceCompletedSuccessfully
        } else if has_probe {
            Condition::ServiceHealthy
        } else {
            Condition::ServiceStarted
        };
        let ready = self.ready.get(service).cloned().unwrap_or_default();
        if !ready.is_empty() || !self.is_met(service, condition) {
            let requirement = Requirement {
                condition,
                restart: false,
                required: true,
            };
            builder.wait_for(service, requirement, ready, "");
        }
    }
}

/// Whether another container of the same slot runs or is newer, as after an `up` that did not come to its end.
fn is_superseded(observed: &Observed, container: &ObservedContainer) -> bool {
    let mut others = observed.containers.iter().filter(|other| {
        (&other.service, other.number) == (&container.service, container.number)
            && !other.one_off
            && other.id != container.id
    });
    let age = |container: &ObservedContainer| (container.created_at, container.id.clone());
    others.any(|other| is_up(other) || age(other) > age(container))
}

fn start(
    builder: &mut Builder,
    container: &ObservedContainer,
    reasons: Vec<Reason>,
    gate: Gate,
) -> StepId {
    let definition = container.desired.as_ref().map(|desired| &desired.config);
    let names = (
        Some(container.id.as_str()),
        container.service.as_str(),
        container.name.as_str(),
    );
    builder.start(
        names,
        definition.unwrap_or(&serde_json::Value::Null),
        reasons,
        gate,
    )
}

/// `services`, and those that want to be restarted with them.
fn with_restarted_dependents(graph: &Graph, services: &[String]) -> Vec<String> {
    let mut found: Vec<String> = services.to_vec();
    let mut next = 0;
    while let Some(service) = found.get(next).cloned() {
        for (dependent, requirement) in graph.dependents(&service) {
            if requirement.restart && !found.iter().any(|known| known == dependent) {
                found.push(dependent.into());
            }
        }
        next += 1;
    }
    found
}

fn is_outdated(desired: &DesiredState, container: &ObservedContainer) -> bool {
    let service = desired.services.get(&container.service);
    let (Some(service), Some(old)) = (service, &container.desired) else {
        return false;
    };
    let mut new = service.replica(container.number).desired;
    // Ids of parents are only known to `up`.
    new.parents.clone_from(&old.parents);
    !diff(old, &new).is_empty()
}

fn requested(command: &str) -> Reason {
    Reason::Requested { by: command.into() }
}
