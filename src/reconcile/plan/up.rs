//! `up` and `create`.

use std::collections::HashMap;

use indexmap::IndexSet;

use super::builder::{Builder, is_up, uses};
use super::error::require_services;
use super::resources::plan_resources;
use super::schedule::Schedule;
use super::slots::{Context, Policy, Replicas, SlotChange};
use super::{Plan, PlanError, Reason, Recreate, UpOptions};
use crate::container::label;
use crate::graph::Graph;
use crate::model::Project;
use crate::network::SandboxRecord;
use crate::reconcile::desired::{DesiredService, DesiredState};
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
    let selected: IndexSet<&str> = if options.services.is_empty() {
        graph.start_order().into_iter().collect()
    } else {
        let named = options.services.iter().map(String::as_str);
        let wanted = if options.no_deps {
            named.filter_map(|name| graph.name(name)).collect()
        } else {
            graph.closure(named)
        };
        graph
            .start_order()
            .into_iter()
            .filter(|service| wanted.contains(service))
            .collect()
    };
    let services: Vec<&DesiredService> = selected
        .iter()
        .filter_map(|name| desired.services.get(*name))
        .filter(|service| !service.is_provided)
        .collect();
    require_names(&services, options)?;
    let mut builder = Builder::default();
    warn_of_other_checkout(&mut builder, project, observed);
    let orphans = orphans(project, observed);
    let removes_orphans = options.remove_orphans;
    let is_replaceable = |sandbox: &SandboxRecord| {
        let mut users = observed
            .containers
            .iter()
            .filter(|container| uses(container, sandbox));
        users.all(|container| {
            let is_orphan = orphans.iter().any(|orphan| orphan.id == container.id);
            let is_recreated = services.iter().any(|service| {
                service.name == container.service
                    && policy(service, options).recreate != Recreate::Never
            });
            is_orphan && removes_orphans || is_recreated && !container.one_off
        })
    };
    let resources = plan_resources(
        &mut builder,
        &project.name,
        desired,
        &services,
        observed,
        &is_replaceable,
    )?;
    let context = Context {
        observed,
        graph: &graph,
        no_start: options.no_start,
    };
    let mut decided: HashMap<&str, Replicas<'_>> = HashMap::new();
    for service in &services {
        let policy = policy(service, options);
        let replicas = context.replicas(service, &policy, &resources, &decided);
        decided.insert(service.name.as_str(), replicas);
        if !options.no_deps && !options.no_start {
            restart_with_dependencies(&graph, service, &mut decided);
        }
    }
    let mut going: Vec<(&ObservedContainer, Reason)> = services
        .iter()
        .filter_map(|service| decided.get(service.name.as_str()))
        .flat_map(|replicas| &replicas.surplus)
        .map(|container| (*container, Reason::Surplus))
        .collect();
    if options.remove_orphans {
        going.extend(orphans.iter().map(|orphan| (*orphan, Reason::Orphan)));
    }
    report(&mut builder, project, &decided, &going);
    if !options.remove_orphans && !options.ignore_orphans && !orphans.is_empty() {
        let names: Vec<&str> = orphans.iter().map(|orphan| orphan.name.as_str()).collect();
        builder.warn(format!(
            "containers of services that are not in the file: {}; `--remove-orphans` removes them",
            names.join(", ")
        ));
    }
    let schedule = Schedule::new(
        builder, context, options, resources, services, decided, going,
    );
    Ok(schedule.plan())
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

fn policy(service: &DesiredService, options: &UpOptions) -> Policy {
    let is_named = options.services.is_empty() || options.services.contains(&service.name);
    let renews = options.renew_anonymous_volumes;
    let (recreate, flag) = match (is_named, options.recreate) {
        (true, Recreate::Diverged) if renews => (Recreate::Force, "--renew-anon-volumes"),
        (true, recreate) => (recreate, "--force-recreate"),
        (false, _) => (options.recreate_dependencies, "--always-recreate-deps"),
    };
    Policy {
        recreate,
        flag,
        replicas: options
            .scale
            .get(&service.name)
            .copied()
            .unwrap_or(service.replicas),
    }
}

fn require_names(services: &[&DesiredService], options: &UpOptions) -> Result<(), PlanError> {
    let mut taken: HashMap<String, &str> = HashMap::new();
    for service in services {
        let replicas = policy(service, options).replicas;
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

/// Containers of services that the file does not have, and jobs of `run` that have ended.
fn orphans<'a>(project: &Project, observed: &'a Observed) -> Vec<&'a ObservedContainer> {
    let is_known = |name: &str| {
        project.services.contains_key(name) || project.disabled_services.contains_key(name)
    };
    let is_orphan = |container: &&ObservedContainer| {
        if container.one_off {
            matches!(container.status, Status::Exited | Status::Dead)
        } else {
            !is_known(&container.service)
        }
    };
    observed.containers.iter().filter(is_orphan).collect()
}

/// Another folder with the same project name would take these containers for its own.
fn warn_of_other_checkout(builder: &mut Builder, project: &Project, observed: &Observed) {
    let directory = project.working_dir.to_string_lossy();
    let files: Vec<_> = project
        .files
        .iter()
        .map(|file| file.to_string_lossy())
        .collect();
    let files = files.join(",");
    let other = observed.containers.iter().find_map(|container| {
        let other = container.labels.get(label::WORKING_DIR)?;
        let others = container.labels.get(label::CONFIG_FILES)?;
        (*other != directory && *others != files).then_some(other)
    });
    if let Some(other) = other {
        builder.warn(format!(
            "project `{}` was brought up from {other}; set another name with `-p` or `name:` to keep both",
            project.name
        ));
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
            let change = match slot.change {
                SlotChange::Keep => "none",
                SlotChange::Create => "create",
                SlotChange::Start => "start",
                SlotChange::Update => "update",
                SlotChange::Restart => "restart",
                SlotChange::Recreate => "recreate",
            };
            builder.change(
                "container",
                slot.name(),
                Some(name),
                change,
                slot.reasons.clone(),
            );
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
