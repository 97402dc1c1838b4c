//! `run`: a container of its own for one command.

use super::*;

fn one_off(service: &str) -> UpOptions {
    UpOptions {
        services: vec![service.into()],
        one_off: Some(OneOff {
            service: service.into(),
            name: format!("shop-{service}-run-1"),
            ..OneOff::default()
        }),
        ..UpOptions::default()
    }
}

#[test]
fn a_single_command_waits_for_what_it_depends_on() {
    let healthy = Dependency {
        condition: Condition::ServiceHealthy,
        restart: false,
        required: true,
    };
    let web = Service {
        depends_on: IndexMap::from([("db".into(), healthy)]),
        post_start: vec![Hook::default()],
        ..service()
    };
    let project = project([("web", web), ("db", service()), ("other", service())]);
    let plan = up_with(&project, &World::default(), &one_off("web"));
    assert_eq!(
        changes(&plan),
        ["shop-web-run-1 create", "shop-db-1 create"]
    );
    assert!(waits(
        &plan,
        "start shop-web-run-1",
        "wait db ServiceHealthy"
    ));
    assert!(
        !summary(&plan)
            .iter()
            .any(|step| step.contains("post_start"))
    );

    let alone = UpOptions {
        no_deps: true,
        ..one_off("web")
    };
    let plan = up_with(&project, &World::default(), &alone);
    assert_eq!(changes(&plan), ["shop-web-run-1 create"]);
}

#[test]
fn a_single_command_leaves_the_replicas_alone() {
    let mut project = project([("web", service())]);
    let world = running(&project);
    // As an override by `run` does, and as an edit of the file does.
    project.services["web"].command = Some(vec!["sh".into()]);
    let mut applied = world.clone();
    let plan = up_with(&project, &world, &one_off("web"));
    assert_eq!(changes(&plan), ["shop-web-run-1 create"]);
    applied.apply(&plan);
    let before = world.observed.containers.iter();
    for container in before {
        assert!(applied.observed.containers.contains(container));
    }
}

#[test]
fn who_lives_with_a_replica_stays_there() {
    let side = Service {
        networks: IndexMap::new(),
        network_mode: Some("service:web".into()),
        ..service()
    };
    let project = project([("web", service()), ("side", side)]);
    let world = running(&project);
    let plan = up_with(&project, &world, &one_off("web"));
    assert_eq!(changes(&plan), ["shop-web-run-1 create"]);
}
