//! What `up` does with networks, sandboxes, volumes and namespaces.

use super::*;
use crate::model::{IpamPool, Mount, ServiceNetwork};
use crate::network::NetworkRecord;

#[test]
fn ports_that_change_owner_are_let_go_before_they_are_taken() {
    let mut project = project([("a", service()), ("b", service())]);
    project.services["a"].ports = vec![port("80", 80)];
    project.services["b"].ports = vec![port("81", 80)];
    let world = running(&project);
    project.services["a"].ports = vec![port("81", 80)];
    project.services["b"].ports = vec![port("80", 80)];
    let plan = up(&project, &world);
    for name in ["a", "b"] {
        let create = format!("create sandbox shop-{name}-1");
        assert!(waits(&plan, &create, "remove sandbox shop-a-1"));
        assert!(waits(&plan, &create, "remove sandbox shop-b-1"));
    }
    assert_eq!(
        changed_paths(&plan),
        ["ports[0].published", "ports[0].published"]
    );
}

#[test]
fn an_alias_makes_the_sandbox_anew() {
    let mut project = project([("web", service())]);
    let world = running(&project);
    let joined = ServiceNetwork {
        aliases: vec!["shop".into()],
        ..ServiceNetwork::default()
    };
    project.services["web"].networks["default"] = Some(joined);
    let plan = up(&project, &world);
    assert_eq!(changed_paths(&plan), ["networks.default.aliases"]);
    assert!(waits(&plan, "remove sandbox shop-web-1", "stop shop-web-1"));
    assert!(waits(
        &plan,
        "create shop-web-1",
        "create sandbox shop-web-1"
    ));
    assert!(waits(&plan, "stop shop-web-1", "image busybox"));
}

#[test]
fn a_changed_network_is_made_anew_between_stop_and_start() {
    let mut project = project([("web", service()), ("db", service())]);
    let world = running(&project);
    project.networks["default"].ipam.config = vec![IpamPool {
        subnet: Some("10.7.0.0/24".into()),
        ..IpamPool::default()
    }];
    let plan = up(&project, &world);
    assert_eq!(
        changes(&plan),
        ["shop-web-1 recreate", "shop-db-1 recreate"]
    );
    assert!(waits(
        &plan,
        "remove network shop_default",
        "remove sandbox shop-web-1"
    ));
    assert!(waits(
        &plan,
        "remove network shop_default",
        "remove sandbox shop-db-1"
    ));
    assert!(waits(
        &plan,
        "create sandbox shop-db-1",
        "create network shop_default"
    ));
    assert!(changed_paths(&plan).contains(&"networks.default.ipam.config[0]"));
}

#[test]
fn a_changed_network_that_others_use_is_kept() {
    let mut project = project([("web", service()), ("db", service())]);
    let mut world = running(&project);
    project.networks["default"].internal = true;
    let plan = up_with(&project, &world, &options(&["web"]));
    assert!(plan.is_empty());
    assert!(
        plan.warnings[0].contains("in use by shop-db-1"),
        "{:?}",
        plan.warnings
    );
    world
        .observed
        .other_users
        .insert("shop_default".into(), vec!["blog-web-1".into()]);
    let plan = up(&project, &world);
    assert!(plan.is_empty());
    assert!(
        plan.warnings[0].contains("in use by blog-web-1"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_volume_with_another_definition_is_kept_with_a_warning() {
    let mut service = service();
    service.volumes = vec![Mount {
        source: Some("data".into()),
        target: "/data".into(),
        ..Mount::default()
    }];
    let mut project = project([("web", service)]);
    declare_volume(&mut project, "data");
    let world = running(&project);
    project.volumes["data"]
        .driver_opts
        .insert("type".into(), "tmpfs".into());
    let plan = up(&project, &world);
    assert!(plan.is_empty());
    assert!(
        plan.warnings[0].contains("volume `shop_data`"),
        "{:?}",
        plan.warnings
    );

    project.volumes["data"].name = "other".into();
    let plan = up(&project, &world);
    assert_eq!(changes(&plan), ["shop-web-1 recreate"]);
    assert_eq!(changed_paths(&plan), ["volumes.other", "volumes.data"]);
    assert!(waits(&plan, "create shop-web-1", "create volume other"));
}

#[test]
fn what_is_external_must_exist_and_is_never_made() {
    let mut project = project([("web", service()), ("other", Service::default())]);
    project.networks["default"].external = true;
    let state = wanted(&project);
    let mut world = World::default();
    let plan =
        |world: &World, names: &[&str]| plan_up(&project, &state, &world.observed, &options(names));
    let missing = PlanError::MissingNetwork {
        network: "shop_default".into(),
    };
    assert_eq!(plan(&world, &[]).unwrap_err(), missing);
    assert!(plan(&world, &["other"]).is_ok());
    let mut record = NetworkRecord::default();
    record.spec.name = "shop_default".into();
    world.observed.networks.push(record);
    let plan = plan(&world, &[]).unwrap();
    assert!(plan.warnings.is_empty());
    assert!(!summary(&plan).contains(&"create network shop_default".into()));
}

#[test]
fn a_network_of_somebody_else_is_used_with_a_warning() {
    let project = project([("web", service())]);
    let mut world = World::default();
    let mut record = NetworkRecord::default();
    record.spec.name = "shop_default".into();
    world.observed.networks.push(record);
    let plan = up(&project, &world);
    assert!(
        plan.warnings[0].contains("was not made for project `shop`"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn who_shares_a_network_namespace_keeps_it_when_the_parent_is_replaced() {
    let mut vpn = service();
    vpn.network_mode = Some("service:gate".into());
    vpn.networks.clear();
    let mut project = project([("vpn", vpn), ("gate", service())]);
    let mut world = running(&project);
    environment(&mut project.services["gate"], "LEVEL", "2");
    let plan = up(&project, &world);
    assert_eq!(changes(&plan), ["shop-gate-1 recreate"]);
    world.apply(&plan);
    assert!(up(&project, &world).is_empty());

    project.services["gate"].ports = vec![port("80", 80)];
    let plan = up(&project, &world);
    assert_eq!(
        changes(&plan),
        ["shop-vpn-1 recreate", "shop-gate-1 recreate"]
    );
    assert!(waits(
        &plan,
        "remove sandbox shop-gate-1",
        "stop shop-vpn-1"
    ));
    let alone = UpOptions {
        no_deps: true,
        ..options(&["gate"])
    };
    let plan = up_with(&project, &world, &alone);
    assert_eq!(
        changes(&plan),
        ["shop-vpn-1 recreate", "shop-gate-1 recreate"]
    );
}

#[test]
fn who_shares_processes_or_volumes_follows_the_container() {
    let mut tracer = service();
    tracer.pid = Some("service:app".into());
    let mut backup = service();
    backup.volumes_from = vec!["app:ro".into()];
    let mut project = project([("tracer", tracer), ("backup", backup), ("app", service())]);
    let mut world = running(&project);
    environment(&mut project.services["app"], "LEVEL", "2");
    let plan = up(&project, &world);
    let all = [
        "shop-tracer-1 recreate",
        "shop-backup-1 recreate",
        "shop-app-1 recreate",
    ];
    assert_eq!(changes(&plan), all);
    assert!(waits(&plan, "create shop-backup-1", "create shop-app-1"));

    // Replaced alone, it leaves the others behind until they are looked at.
    let alone = UpOptions {
        no_deps: true,
        ..options(&["app"])
    };
    world.apply(&up_with(&project, &world, &alone));
    let plan = up(&project, &world);
    assert_eq!(
        changes(&plan),
        ["shop-tracer-1 recreate", "shop-backup-1 recreate"]
    );
    assert_eq!(changed_paths(&plan), ["pid", "volumes_from.app"]);
}

/// A service and another one that lives in its network namespace.
fn gate_and_guest() -> Project {
    let mut guest = service();
    guest.network_mode = Some("service:gate".into());
    guest.networks.clear();
    project([("guest", guest), ("gate", service())])
}

#[test]
fn a_sandbox_outlasts_its_owner_while_somebody_lives_in_it() {
    let project = gate_and_guest();
    let gate = ["gate".to_owned()];
    let world = running(&project);
    let remove = |world: &World, services: &[String]| {
        plan_remove(Some(&project), &world.observed, services, true, false).unwrap()
    };
    let alone = DownOptions {
        services: gate.to_vec(),
        ..DownOptions::default()
    };
    let down = plan_down("shop", Some(&project), &world.observed, &alone).unwrap();
    for plan in [remove(&world, &gate), down] {
        assert_eq!(
            summary(&plan),
            ["stop shop-gate-1", "remove shop-gate-1"],
            "{:?}",
            plan.warnings
        );
    }
    let mut world = running(&project);
    world.apply(&remove(&world, &gate));
    let plan = up(&project, &world);
    assert_eq!(changes(&plan), ["shop-gate-1 create"]);

    let last = remove(&world, &["guest".to_owned()]);
    assert!(waits(
        &last,
        "remove sandbox shop-gate-1",
        "remove shop-guest-1"
    ));
}

#[test]
fn who_has_lost_the_network_that_it_shares_is_made_anew() {
    let project = gate_and_guest();
    let mut world = running(&project);
    world.named("shop-guest-1").has_lost_network = true;
    let plan = up(&project, &world);
    assert_eq!(changes(&plan), ["shop-guest-1 recreate"]);
    world.apply(&plan);
    assert!(up(&project, &world).is_empty());
}
