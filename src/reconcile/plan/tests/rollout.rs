//! Replacing containers while their service serves.

use super::*;
use crate::model::{Deploy, Duration, Healthcheck, ServiceNetwork, UpdateConfig};

fn updated(order: &str, parallelism: u64) -> UpdateConfig {
    UpdateConfig {
        order: Some(order.into()),
        parallelism: Some(parallelism),
        ..UpdateConfig::default()
    }
}

/// A service of so many replicas that publish ports.
fn web(replicas: i64, update: UpdateConfig) -> Service {
    Service {
        scale: Some(replicas),
        ports: vec![port("8000-8010", 80)],
        deploy: Some(Deploy {
            update_config: Some(update),
            ..Deploy::default()
        }),
        ..service()
    }
}

fn changed(project: &Project) -> Project {
    let mut project = project.clone();
    environment(&mut project.services["web"], "VERSION", "2");
    project
}

/// What may change of a service that is updated while it serves.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) replicas: usize,
    pub(super) level: u8,
    /// Which of some sets of networks it joins.
    pub(super) networks: u8,
    /// Whether its container has a name of its own, where it has only one.
    pub(super) is_named: bool,
}

pub(super) fn up_to(version: &Version, has_probe: bool, world: &World) -> Plan {
    let mut service = web(
        i64::try_from(version.replicas).unwrap(),
        updated("start-first", 1),
    );
    environment(&mut service, "LEVEL", &version.level.to_string());
    if version.networks > 0 {
        service.networks.insert("front".into(), None);
    }
    if version.networks > 1 {
        service.networks.shift_remove("default");
    }
    service.container_name = (version.is_named && version.replicas == 1).then(|| "shop".into());
    if has_probe {
        service.healthcheck = Some(Healthcheck {
            test: vec!["CMD".into(), "true".into()],
            ..Healthcheck::default()
        });
    }
    let mut project = project([("web", service)]);
    declare_network(&mut project, "front");
    let options = UpOptions {
        wait: true,
        ..UpOptions::default()
    };
    up_with(&project, world, &options)
}

/// How many replicas serve: they run and do not stand by.
fn serving(world: &World) -> usize {
    let serves = |name: &Option<String>| {
        let mut sandboxes = world.observed.sandboxes.iter();
        sandboxes.any(|it| Some(&it.spec.id) == name.as_ref() && it.stands_by_for.is_none())
    };
    let containers = world.observed.containers.iter();
    let running = containers.filter(|it| it.status == crate::reconcile::observe::Status::Running);
    running
        .filter(|it| {
            it.desired
                .as_ref()
                .is_some_and(|desired| serves(&desired.sandbox))
        })
        .count()
}

#[test]
fn start_first_has_the_new_container_serve_before_the_old_one_stops() {
    let project = project([("web", web(1, updated("start-first", 1)))]);
    let mut world = running(&project);
    let project = changed(&project);
    let plan = up(&project, &world);
    assert_eq!(
        summary(&plan),
        [
            "image busybox",
            "create sandbox shop-web-1+",
            "create shop-web-1",
            "start shop-web-1",
            "monitor shop-web-1",
            "switch shop-web-1 to shop-web-1+",
            "drain shop-web-1",
            "stop shop-web-1",
            "conclude web",
            "remove shop-web-1",
            "remove sandbox shop-web-1",
        ]
    );
    world.apply(&plan);
    assert!(up(&project, &world).is_empty());
    let back = changed(&project);
    let mut back = back;
    environment(&mut back.services["web"], "VERSION", "3");
    let plan = up(&back, &world);
    assert!(waits(
        &plan,
        "switch shop-web-1+ to shop-web-1",
        "monitor shop-web-1"
    ));
}

#[test]
fn replicas_are_replaced_in_waves_with_a_delay_between_them() {
    let update = UpdateConfig {
        delay: Some(Duration(2_000_000_000)),
        ..updated("start-first", 2)
    };
    let project = project([("web", web(3, update))]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    assert!(!waits(&plan, "create shop-web-2", "start shop-web-1"));
    assert!(waits(&plan, "create shop-web-3", "delay web 2s"));
    assert!(waits(&plan, "delay web 2s", "stop shop-web-1"));
    assert!(waits(&plan, "delay web 2s", "stop shop-web-2"));
    assert!(waits(&plan, "remove shop-web-1", "conclude web"));
    assert!(waits(&plan, "conclude web", "stop shop-web-3"));
}

#[test]
fn stop_first_stays_in_its_sandbox_and_keeps_the_old_container_to_the_end() {
    let project = project([("web", web(2, updated("stop-first", 1)))]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    assert_eq!(
        summary(&plan),
        [
            "image busybox",
            "create shop-web-1",
            "stop shop-web-1",
            "start shop-web-1",
            "monitor shop-web-1",
            "create shop-web-2",
            "stop shop-web-2",
            "start shop-web-2",
            "monitor shop-web-2",
            "conclude web",
            "remove shop-web-1",
            "remove shop-web-2",
        ]
    );
}

#[test]
fn while_an_update_is_under_way_as_many_replicas_serve_as_before() {
    for (order, parallelism, fewest) in [("start-first", 2, 4), ("stop-first", 2, 2)] {
        let project = project([("web", web(4, updated(order, parallelism)))]);
        let world = running(&project);
        let plan = up(&changed(&project), &world);
        for steps in 0..=plan.steps.len() {
            let mut world = world.clone();
            world.apply_until(&plan, steps, |_| 0);
            assert!(serving(&world) >= fewest, "{order} after {steps} steps");
        }
    }
}

#[test]
fn an_update_that_was_interrupted_goes_on_or_gives_up_what_it_had_made() {
    let project = project([("web", web(1, updated("start-first", 1)))]);
    let before = running(&project);
    let new = changed(&project);
    let plan = up(&new, &before);
    for steps in 0..plan.steps.len() {
        let mut world = before.clone();
        world.apply_until(&plan, steps, |_| 0);
        let creates = |plan: &Plan| summary(plan).contains(&"create shop-web-1".to_owned());
        let is_made = plan.steps[..steps]
            .iter()
            .any(|step| matches!(step.action, Action::CreateContainer { .. }));
        assert_eq!(creates(&up(&new, &world)), !is_made, "{steps}");
        let is_switched = plan.steps[..steps]
            .iter()
            .any(|step| matches!(step.action, Action::SwitchSandbox { .. }));
        let undo = up(&project, &world);
        assert_eq!(creates(&undo), is_switched, "{steps}");
        world.apply(&undo);
        assert_eq!(world.names(), ["shop-web-1"]);
        assert!(up(&project, &world).is_empty());
    }
}

#[test]
fn what_cannot_be_there_twice_is_stopped_first_and_that_is_said() {
    let mut service = web(1, updated("start-first", 1));
    let fixed = ServiceNetwork {
        ipv4_address: Some([10, 0, 0, 9].into()),
        ..ServiceNetwork::default()
    };
    service.networks.insert("default".into(), Some(fixed));
    let project = project([("web", service)]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    assert!(waits(&plan, "start shop-web-1", "stop shop-web-1"));
    assert_eq!(
        plan.warnings,
        ["service `web` is updated stop-first: two containers cannot have the same fixed address"]
    );
}

#[test]
fn whose_namespaces_others_share_is_recreated_as_without_a_policy() {
    let mut side = service();
    side.networks.clear();
    side.network_mode = Some("service:web".into());
    let mut service = web(1, updated("start-first", 1));
    service.ports = Vec::new();
    let project = project([("web", service), ("side", side)]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    assert!(!summary(&plan).contains(&"conclude web".to_owned()));
    assert!(plan.warnings[0].contains("other services share its namespaces"));
}

#[test]
fn dependents_that_restart_with_it_run_until_it_is_updated() {
    let mut side = needing(&["web"]);
    side.depends_on["web"].restart = true;
    let project = project([("web", web(2, updated("start-first", 1))), ("side", side)]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    assert!(waits(&plan, "stop shop-side-1", "conclude web"));
    assert!(waits(&plan, "start shop-side-1", "stop shop-side-1"));
}

#[test]
fn hooks_before_the_start_run_once_and_the_old_container_gets_its_own() {
    let mut service = web(2, updated("start-first", 1));
    service.pre_start = hooks(1);
    service.pre_stop = hooks(1);
    let project = project([("web", service)]);
    let world = running(&project);
    let plan = up(&changed(&project), &world);
    let steps = summary(&plan);
    assert_eq!(
        steps
            .iter()
            .filter(|step| step.starts_with("pre_start"))
            .count(),
        1
    );
    assert!(waits(&plan, "start shop-web-2", "pre_start[0] shop-web-1"));
    assert!(waits(&plan, "stop shop-web-1", "pre_stop[0] shop-web-1"));
    let hook = &plan.steps[step(&plan, "pre_stop[0] shop-web-1")].action;
    assert!(matches!(hook, Action::RunHook { id: Some(id), .. } if id == "id1"));
}
