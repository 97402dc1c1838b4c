//! `up` and `create`.

use std::collections::{BTreeSet, HashMap};

use indexmap::IndexSet;

use super::builder::{Builder, Gate, has_completed, is_up, uses};
use super::error::require_services;
use super::resources::{IsReplaceable, Resources, plan_resources};
use super::schedule::Schedule;
use super::slots::{Context, Policy, Replicas, SlotChange};
use super::{Action, Plan, PlanError, Reason, Recreate, UpOptions};
use crate::graph::Graph;
use crate::model::Project;
use crate::network::SandboxRecord;
use crate::reconcile::desired::{DesiredService, DesiredState, Parent};
use crate::reconcile::observe::{Observed, ObservedContainer, Status};

/// Plans to bring `project` up: what is as wanted is left alone.
pub fn plan_up(
    project: &Project,
    desired: &DesiredState,
    observed: &Observed,
    options: &UpOptions,
) -> Result<Plan, PlanError> {
    require_services(
        &options.services,
        project.services.keys().map(String::as_str),
    )?;
    let graph = Graph::new(project)?;
    let selected = selection(&graph, options);
    let shared = shared_services(desired);
    let mut tenants = BTreeSet::new();
    loop {
        let up = Up {
            project,
            desired,
            observed,
            options,
            graph: &graph,
            selected: &selected,
            tenants: &tenants,
            shared: &shared,
        };
        let services = up.services();
        require_names(&services, options)?;
        let mut builder = Builder::default();
        for warning in &desired.warnings {
            builder.warn(warning.clone());
        }
        pull_images(&mut builder, desired);
        let orphans = up.orphans();
        let resources = up.resources(&mut builder, &services, &orphans)?;
        let decided = up.decide(&services, &resources);
        let homeless = up.homeless(&decided);
        if homeless.is_empty() {
            let going = up.going(&services, &decided, &orphans);
            report_images(&mut builder, desired);
            report(&mut builder, project, &decided, &going);
            up.warn_of_orphans(&mut builder, &orphans);
            let context = up.context();
            let schedule = Schedule::new(
                builder, context, options, resources, services, decided, going,
            );
            return Ok(schedule.plan());
        }
        tenants.extend(homeless);
    }
}

/// Plans to make what is missing without starting it.
pub fn plan_create(
    project: &Project,
    desired: &DesiredState,
    observed: &Observed,
    options: &UpOptions,
) -> Result<Plan, PlanError> {
    let options = UpOptions {
        no_start: true,
        wait: false,
        ..options.clone()
    };
    plan_up(project, desired, observed, &options)
}

fn shared_services(desired: &DesiredState) -> BTreeSet<&str> {
    let parents = desired.services.values().flat_map(|it| it.parents.values());
    parents
        .filter_map(|parent| match parent {
            Parent::Service(name) => Some(name.as_str()),
            Parent::Container(_) => None,
        })
        .collect()
}

/// Names of the services that `plan_up` makes or updates.
pub fn selected_services(project: &Project, options: &UpOptions) -> Result<Vec<String>, PlanError> {
    let graph = Graph::new(project)?;
    let selected = selection(&graph, options);
    Ok(selected.into_iter().map(str::to_owned).collect())
}

/// Services that are named and what they depend on; all if none is named.
fn selection<'a>(graph: &'a Graph, options: &UpOptions) -> IndexSet<&'a str> {
    let named = || options.services.iter().map(String::as_str);
    if options.services.is_empty() {
        graph.services().collect()
    } else if options.no_deps {
        named().filter_map(|name| graph.name(name)).collect()
    } else {
        graph.closure(named())
    }
}

/// One attempt at deciding what happens.
#[derive(Clone, Copy)]
struct Up<'a, 'b> {
    /// Services whose namespaces or volumes others share.
    shared: &'a BTreeSet<&'a str>,
    project: &'a Project,
    desired: &'a DesiredState,
    observed: &'a Observed,
    options: &'a UpOptions,
    graph: &'a Graph,
    selected: &'b IndexSet<&'a str>,
    /// Services that live in the network namespace of one selected, and lose it.
    tenants: &'b BTreeSet<&'a str>,
}

impl<'a> Up<'a, '_> {
    fn context(&self) -> Context<'a> {
        Context {
            observed: self.observed,
            graph: self.graph,
            pulls: &self.desired.pulls,
            no_start: self.options.no_start,
            only_changes: self.options.only_changes,
            shared: self.shared,
        }
    }

    /// In the order of starting.
    fn services(&self) -> Vec<&'a DesiredService> {
        self.graph
            .start_order()
            .into_iter()
            .filter(|name| self.selected.contains(name) || self.tenants.contains(name))
            .filter_map(|name| self.desired.services.get(name))
            .filter(|service| !service.is_provided)
            .collect()
    }

    fn policy(&self, service: &DesiredService) -> Policy {
        let options = self.options;
        let renews = options.renew_anonymous_volumes;
        let is_named = options.services.is_empty() || options.services.contains(&service.name);
        let is_tenant = !self.selected.contains(service.name.as_str());
        let (recreate, flag) = match (is_named, options.recreate) {
            _ if is_tenant => (Recreate::Diverged, ""),
            (true, Recreate::Diverged) if renews => (Recreate::Force, "--renew-anon-volumes"),
            (true, recreate) => (recreate, "--force-recreate"),
            (false, _) => (options.recreate_dependencies, "--always-recreate-deps"),
        };
        Policy {
            recreate,
            flag,
            replicas: (!is_tenant).then(|| replicas(service, options)),
        }
    }

    fn resources(
        &self,
        builder: &mut Builder,
        services: &[&DesiredService],
        orphans: &[&ObservedContainer],
    ) -> Result<Resources<'a>, PlanError> {
        let is_replaceable = |sandbox: &SandboxRecord| {
            let containers = self.observed.containers.iter();
            let mut users = containers.filter(|container| uses(container, sandbox));
            users.all(|container| {
                let is_orphan = orphans.iter().any(|orphan| orphan.id == container.id);
                let is_renewed = services
                    .iter()
                    .any(|service| service.name == container.service)
                    && !self.options.leaves_alone(&container.service);
                is_orphan && self.removes(container) || is_renewed && !container.one_off
            })
        };
        let options = [self.options.recreate, self.options.recreate_dependencies];
        let is_replaceable: Option<&IsReplaceable<'_>> = if options.contains(&Recreate::Never) {
            None
        } else {
            Some(&is_replaceable)
        };
        let project = &self.project.name;
        plan_resources(
            builder,
            project,
            self.desired,
            services,
            self.observed,
            is_replaceable,
        )
    }

    fn decide(
        &self,
        services: &[&'a DesiredService],
        resources: &Resources<'a>,
    ) -> HashMap<&'a str, Replicas<'a>> {
        let mut decided: HashMap<&str, Replicas<'_>> = HashMap::new();
        for service in services {
            let context = self.context();
            let one_off = self.options.one_off.as_ref();
            let replicas = match one_off.filter(|one_off| one_off.service == service.name) {
                Some(one_off) => context.one_off(service, one_off, resources, &decided),
                None => context.replicas(service, &self.policy(service), resources, &decided),
            };
            let starts = replicas.slots.iter().any(|slot| slot.starts);
            decided.insert(service.name.as_str(), replicas);
            if self.options.only_changes && starts && !self.options.no_deps {
                wake_dependencies(self.graph, &service.name, &mut decided);
            }
            if !self.options.no_deps && !self.options.no_start {
                restart_with_dependencies(self.graph, service, &mut decided);
            }
        }
        decided
    }

    /// Services left out so far whose containers lose the network namespace that they live in.
    fn homeless(&self, decided: &HashMap<&'a str, Replicas<'a>>) -> Vec<&'a str> {
        let is_moved = |name: &String| {
            let first = decided
                .get(name.as_str())
                .and_then(|replicas| replicas.slots.first());
            first.is_some_and(|slot| slot.is_moved)
        };
        let services = self.desired.services.values();
        services
            .filter(|service| !decided.contains_key(service.name.as_str()))
            .filter(|service| match service.parents.get("network_mode") {
                Some(Parent::Service(parent)) => is_moved(parent),
                _ => false,
            })
            .filter(|service| {
                let mut containers = self.observed.containers.iter();
                containers.any(|it| it.service == service.name && !it.one_off)
            })
            .map(|service| service.name.as_str())
            .collect()
    }

    /// Containers of services that the file does not have, and jobs of `run` that have ended.
    fn orphans(&self) -> Vec<&'a ObservedContainer> {
        let Project {
            services,
            disabled_services,
            ..
        } = self.project;
        let is_orphan = |container: &&ObservedContainer| {
            let service = &container.service;
            if container.one_off {
                let desired = container.desired.as_ref();
                let goes_by_itself = desired.is_some_and(|desired| desired.auto_remove);
                matches!(container.status, Status::Exited | Status::Dead) && !goes_by_itself
            } else {
                self.is_given_up(container)
                    || !services.contains_key(service) && !disabled_services.contains_key(service)
            }
        };
        self.observed.containers.iter().filter(is_orphan).collect()
    }

    fn is_given_up(&self, container: &ObservedContainer) -> bool {
        !container.one_off
            && self.options.given_up.contains(&container.service)
            && !self.project.services.contains_key(&container.service)
    }

    /// Whether an orphan goes.
    fn removes(&self, orphan: &ObservedContainer) -> bool {
        self.options.remove_orphans || self.is_given_up(orphan)
    }

    fn warn_of_orphans(&self, builder: &mut Builder, orphans: &[&ObservedContainer]) {
        if self.options.ignore_orphans {
            return;
        }
        let kinds = [
            (false, "containers of services that are not in the file"),
            (true, "containers of `run` that have ended"),
        ];
        for (one_off, what) in kinds {
            let staying = orphans
                .iter()
                .filter(|orphan| orphan.one_off == one_off && !self.removes(orphan));
            let names: Vec<&str> = staying.map(|orphan| orphan.name.as_str()).collect();
            if !names.is_empty() {
                let names = names.join(", ");
                builder.warn(format!("{what}: {names}; `--remove-orphans` removes them"));
            }
        }
    }

    /// Containers that go for good.
    fn going(
        &self,
        services: &[&'a DesiredService],
        decided: &HashMap<&'a str, Replicas<'a>>,
        orphans: &[&'a ObservedContainer],
    ) -> Vec<(&'a ObservedContainer, Reason)> {
        let replicas = services
            .iter()
            .filter_map(|service| decided.get(service.name.as_str()));
        let slots = replicas.clone().flat_map(|replicas| &replicas.slots);
        let dropped = slots.flat_map(|slot| &slot.dropped);
        let surplus = replicas.flat_map(|replicas| &replicas.surplus);
        let orphans = orphans.iter().filter(|container| self.removes(container));
        surplus
            .map(|container| (*container, Reason::Surplus))
            .chain(dropped.map(|container| (*container, Reason::Interrupted)))
            .chain(orphans.map(|container| (*container, Reason::Orphan)))
            .collect()
    }
}

fn replicas(service: &DesiredService, options: &UpOptions) -> u32 {
    options
        .scale
        .get(&service.name)
        .copied()
        .unwrap_or(service.replicas)
}

fn require_names(services: &[&DesiredService], options: &UpOptions) -> Result<(), PlanError> {
    let mut taken: HashMap<String, &str> = HashMap::new();
    let services = services
        .iter()
        .filter(|service| !options.leaves_alone(&service.name));
    for service in services {
        let replicas = replicas(service, options);
        if let Some(name) = &service.container_name
            && replicas > 1
        {
            return Err(PlanError::NameWithReplicas {
                service: service.name.clone(),
                name: name.clone(),
                replicas,
            });
        }
        for number in 1..=replicas {
            let name = service.container(number);
            if let Some(first) = taken.insert(name.clone(), &service.name) {
                return Err(PlanError::DuplicateName {
                    name,
                    first: first.into(),
                    second: service.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Starts what does not run of what `service` depends on, as it is about to start itself.
fn wake_dependencies(graph: &Graph, service: &str, decided: &mut HashMap<&str, Replicas<'_>>) {
    for name in graph.closure([service]) {
        let Some(replicas) = decided.get_mut(name).filter(|_| name != service) else {
            continue;
        };
        for slot in &mut replicas.slots {
            let sleeps = |current: &ObservedContainer| !is_up(current) && !has_completed(current);
            if slot.change == SlotChange::Keep && slot.current.is_some_and(sleeps) {
                slot.change = SlotChange::Start;
                slot.starts = true;
                slot.reasons.push(Reason::Follows {
                    resource: format!("service {service}"),
                });
            }
        }
    }
}

/// Restarts running replicas of `service` whose dependencies are replaced or restarted, where they ask for it.
fn restart_with_dependencies<'a>(
    graph: &Graph,
    service: &'a DesiredService,
    decided: &mut HashMap<&'a str, Replicas<'a>>,
) {
    let is_renewed = |name: &str| {
        decided.get(name).is_some_and(|replicas| {
            replicas
                .slots
                .iter()
                .any(|slot| matches!(slot.change, SlotChange::Recreate | SlotChange::Restart))
        })
    };
    let reasons: Vec<Reason> = graph
        .dependencies(&service.name)
        .into_iter()
        .filter(|(name, requirement)| requirement.restart && is_renewed(name))
        .map(|(name, _)| Reason::Follows {
            resource: format!("service {name}"),
        })
        .collect();
    let Some(replicas) = decided.get_mut(service.name.as_str()) else {
        return;
    };
    for slot in replicas.slots.iter_mut().filter(|_| !reasons.is_empty()) {
        let is_running = slot.current.is_some_and(is_up);
        if is_running && matches!(slot.change, SlotChange::Keep | SlotChange::Update) {
            slot.change = SlotChange::Restart;
            slot.starts = true;
            slot.reasons.extend(reasons.clone());
        }
    }
}

/// Fetches images, all at once and before anything that runs is touched.
fn pull_images(builder: &mut Builder, desired: &DesiredState) {
    let pulls = desired.pulls.iter();
    for pull in pulls.filter(|pull| !pull.reasons.is_empty()) {
        let action = Action::PullImage {
            service: pull.services.first().cloned().unwrap_or_default(),
            reference: pull.reference.clone(),
            platform: pull.platform.clone(),
            digest: pull.digest.clone(),
        };
        builder.push(action, pull.reasons.clone(), Gate::default());
    }
}

/// Says what happens to each image that was looked up.
fn report_images(builder: &mut Builder, desired: &DesiredState) {
    for pull in &desired.pulls {
        let change = if pull.reasons.is_empty() {
            "none"
        } else {
            "pull"
        };
        builder.change(
            "image",
            &pull.reference,
            pull.services.first().map(String::as_str),
            change,
            pull.reasons.clone(),
        );
    }
}

/// Says what happens to each container.
fn report(
    builder: &mut Builder,
    project: &Project,
    decided: &HashMap<&str, Replicas<'_>>,
    going: &[(&ObservedContainer, Reason)],
) {
    for name in project.services.keys() {
        for slot in decided
            .get(name.as_str())
            .iter()
            .flat_map(|replicas| &replicas.slots)
        {
            let has_completed = slot.current.is_some_and(has_completed);
            let mut reasons = slot.reasons.clone();
            let is_unfinished = !slot.leftovers.is_empty() && !slot.creates();
            if is_unfinished {
                reasons.push(Reason::Interrupted);
            }
            let change = match slot.change {
                _ if is_unfinished => "recreate",
                SlotChange::Keep if has_completed => "completed",
                SlotChange::Keep if !slot.current.is_some_and(is_up) => "idle",
                SlotChange::Keep => "none",
                SlotChange::Create => "create",
                SlotChange::Start => "start",
                SlotChange::Update if !slot.signals().is_empty() => "signal",
                SlotChange::Update => "update",
                SlotChange::Restart => "restart",
                SlotChange::Recreate => "recreate",
            };
            builder.change("container", slot.name(), Some(name), change, reasons);
            let is_paused = slot
                .current
                .is_some_and(|current| current.status == Status::Paused);
            if is_paused && slot.change == SlotChange::Keep {
                builder.warn(format!("container `{}` is paused", slot.name()));
            }
        }
    }
    for (container, reason) in going {
        builder.container_change(container, "remove", vec![reason.clone()]);
    }
}
