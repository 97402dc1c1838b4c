//! Plans are tried on a world made of plain data.

mod dependencies;
mod down;
mod lifecycle;
mod properties;
mod pulls;
mod resources;
mod rollout;
mod run;
mod up;
mod world;

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::*;
use crate::image::Image;
use crate::model::{Dependency, Hook, Network, Port, Project, Service, Volume};
use crate::reconcile::desired::{DesiredState, Facts, desired};

use world::World;

/// A project `shop` with a network `default`.
fn project<'a>(services: impl IntoIterator<Item = (&'a str, Service)>) -> Project {
    let services = services.into_iter().map(|(name, mut service)| {
        service.name = name.into();
        (name.to_owned(), service)
    });
    let mut project = Project {
        name: "shop".into(),
        working_dir: "/shop".into(),
        files: vec!["/shop/compose.yaml".into()],
        services: services.collect(),
        ..Project::default()
    };
    declare_network(&mut project, "default");
    project
}

fn declare_network(project: &mut Project, key: &str) {
    let network = Network {
        name: format!("shop_{key}"),
        ..Network::default()
    };
    project.networks.insert(key.into(), network);
}

fn declare_volume(project: &mut Project, key: &str) {
    let volume = Volume {
        name: format!("shop_{key}"),
        ..Volume::default()
    };
    project.volumes.insert(key.into(), volume);
}

/// A service on the network `default`.
fn service() -> Service {
    Service {
        image: Some("busybox".into()),
        networks: IndexMap::from([("default".into(), None)]),
        ..Service::default()
    }
}

fn needing(names: &[&str]) -> Service {
    needing_when(names, Condition::ServiceStarted)
}

fn needing_when(names: &[&str], condition: Condition) -> Service {
    let dependency = |name: &&str| {
        let dependency = Dependency {
            condition,
            restart: false,
            required: true,
        };
        ((*name).to_owned(), dependency)
    };
    Service {
        depends_on: names.iter().map(dependency).collect(),
        ..service()
    }
}

fn environment(service: &mut Service, key: &str, value: &str) {
    service.environment.insert(key.into(), Some(value.into()));
}

fn options(services: &[&str]) -> UpOptions {
    UpOptions {
        services: services.iter().map(|name| (*name).into()).collect(),
        ..UpOptions::default()
    }
}

fn hooks(count: usize) -> Vec<Hook> {
    vec![Hook::default(); count]
}

fn port(published: &str, target: u16) -> Port {
    Port {
        target,
        published: Some(published.into()),
        protocol: "tcp".into(),
        ..Port::default()
    }
}

fn image(digest: &str) -> Image {
    Image {
        reference: "busybox".into(),
        digest: digest.into(),
        ..Image::default()
    }
}

/// What `project` wants where every service has the same image.
fn wanted(project: &Project) -> DesiredState {
    wanted_with(project, Some(&image("sha256:1")), &BTreeMap::new())
}

fn wanted_with(
    project: &Project,
    image: Option<&Image>,
    contents: &BTreeMap<String, String>,
) -> DesiredState {
    let images = project
        .services
        .keys()
        .map(|name| (name.clone(), image.cloned()))
        .collect();
    let facts = Facts {
        images: &images,
        contents,
        config_hash: |service| format!("{:?}", service.environment),
    };
    desired(project, &facts)
}

fn up(project: &Project, world: &World) -> Plan {
    up_with(project, world, &UpOptions::default())
}

fn up_with(project: &Project, world: &World, options: &UpOptions) -> Plan {
    plan_up(project, &wanted(project), &world.observed, options).unwrap()
}

/// A world in which `project` is up.
fn running(project: &Project) -> World {
    let mut world = World::default();
    world.apply(&up(project, &world));
    world
}

/// The steps in short, as `stop shop-web-1`.
fn summary(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| short(&step.action)).collect()
}

fn short(action: &Action) -> String {
    match action {
        Action::CreateNetwork { spec } => format!("create network {}", spec.name),
        Action::RemoveNetwork { name } => format!("remove network {name}"),
        Action::CreateVolume { volume } => format!("create volume {}", volume.name),
        Action::RemoveVolume { name } => format!("remove volume {name}"),
        Action::PullImage { reference, .. } => format!("pull {reference}"),
        Action::EnsureImage { reference, .. } => format!("image {reference}"),
        Action::CreateSandbox { spec, .. } => format!("create sandbox {}", spec.id),
        Action::SwitchSandbox { from, to, .. } => format!("switch {from} to {to}"),
        Action::Monitor { name, .. } => format!("monitor {name}"),
        Action::Drain { name, .. } => format!("drain {name}"),
        Action::Delay { service, time } => format!("delay {service} {time}"),
        Action::ConcludeUpdate { service, .. } => format!("conclude {service}"),
        Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Action::CreateContainer { desired, .. } => format!("create {}", desired.name),
        Action::UpdateContainer { desired, .. } => format!("update {}", desired.name),
        Action::StartContainer { name, .. } => format!("start {name}"),
        Action::StopContainer { name, .. } => format!("stop {name}"),
        Action::SignalContainer { name, signal, .. } => format!("signal {name} {signal}"),
        Action::KillContainer { name, signal, .. } => format!("kill {name} {signal}"),
        Action::RemoveContainer { name, .. } => format!("remove {name}"),
        Action::WaitFor {
            service, condition, ..
        } => format!("wait {service} {condition:?}"),
        Action::RunHook {
            name, hook, index, ..
        } => format!("{hook}[{index}] {name}"),
        Action::RemoveImage { reference } => format!("remove image {reference}"),
    }
}

/// Index of the first step that `summary` calls `name`.
fn step(plan: &Plan, name: &str) -> StepId {
    let steps = summary(plan);
    let found = steps.iter().position(|step| step == name);
    found.unwrap_or_else(|| panic!("no step `{name}` in {steps:#?}"))
}

/// Whether `later` waits for `earlier`, directly or through others.
fn waits(plan: &Plan, later: &str, earlier: &str) -> bool {
    let (later, earlier) = (step(plan, later), step(plan, earlier));
    let mut open = vec![later];
    while let Some(id) = open.pop() {
        if id == earlier {
            return true;
        }
        open.extend(plan.steps[id].after.iter().chain(&plan.steps[id].follows));
    }
    false
}

/// `shop-web-1 recreate` for every container that is not left alone.
fn changes(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .filter(|change| change.kind == "container" && change.change != "none")
        .map(|change| format!("{} {}", change.name, change.change))
        .collect()
}

/// Paths of what changed, over all containers.
fn changed_paths(plan: &Plan) -> Vec<&str> {
    plan.changes
        .iter()
        .flat_map(|change| &change.reasons)
        .filter_map(|reason| match reason {
            Reason::Changed { path, .. } => Some(path.as_str()),
            _ => None,
        })
        .collect()
}
