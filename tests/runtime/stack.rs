//! The example stack, as `scripts/demo` brings it up.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::world::{Project, World};

const PAGE: &str = "http://127.0.0.1:8080/";

fn field<'v>(container: &'v Value, name: &str) -> &'v str {
    container[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {container}"))
}

/// The names and ids of all containers.
fn identities(project: &Project<'_>) -> BTreeSet<(String, String)> {
    let containers = project.containers();
    let identity = |container| {
        (
            field(container, "Name").to_owned(),
            field(container, "ID").to_owned(),
        )
    };
    containers.iter().map(identity).collect()
}

/// How many visits the page says that the volume has counted.
fn visits(page: &str) -> u32 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("database: "));
    let count = line.and_then(|line| line.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no count in\n{page}"))
}

#[test]
fn the_stack_comes_up_and_all_its_parts_work_together() {
    World::run(|world| {
        let stack = world.example("stack");
        let _up = stack.compose("up -d --wait").success();

        let containers = stack.containers();
        let mut states: Vec<_> = containers
            .iter()
            .map(|container| {
                ["Name", "State", "Health"]
                    .map(|name| field(container, name))
                    .join(" ")
            })
            .collect();
        states.sort();
        assert_eq!(
            states,
            [
                "stack-api-1 running healthy",
                "stack-db-1 running healthy",
                "stack-migrate-1 exited ",
                "stack-proxy-1 running healthy",
                "stack-web-1 running healthy",
                "stack-web-2 running healthy",
                "stack-web-3 running healthy",
            ]
        );

        let page = world.get(PAGE).success();
        let replicas = page
            .stdout
            .lines()
            .filter(|line| line.starts_with("   "))
            .count();
        assert_eq!(replicas, 3, "{page}");
        assert!(!page.stdout.contains("no answer"), "{page}");
        for part in [
            "A stack on containerd",
            "config:   Good day from a config.",
            "env_file: corner shop",
            "tmpfs:    1 page(s) by this replica",
            "user:     app",
            "database: 1 visit(s) in the volume",
        ] {
            assert!(page.stdout.contains(part), "`{part}` is missing in\n{page}");
        }
        let _down = stack.compose("down -v").success();
    });
}

#[test]
fn a_second_up_changes_nothing() {
    World::run(|world| {
        let stack = world.example("stack");
        let _up = stack.compose("up -d --wait").success();
        let before = identities(&stack);
        let _up = stack.compose("up -d --wait").success();
        assert_eq!(identities(&stack), before);
        let _down = stack.compose("down -v").success();
    });
}

#[test]
fn a_volume_keeps_its_data_over_down_and_up() {
    World::run(|world| {
        let stack = world.example("stack");
        let _up = stack.compose("up -d --wait").success();
        assert_eq!(visits(&world.get(PAGE).success().stdout), 1);
        let _down = stack.compose("down").success();
        let _up = stack.compose("up -d --wait").success();
        assert_eq!(visits(&world.get(PAGE).success().stdout), 2);
        let _down = stack.compose("down -v").success();
        let _up = stack.compose("up -d --wait").success();
        assert_eq!(visits(&world.get(PAGE).success().stdout), 1);
        let _down = stack.compose("down -v").success();
    });
}

#[test]
fn the_published_port_follows_the_environment() {
    World::run(|world| {
        let stack = world.example("stack");
        let up = stack
            .command(["up", "-d", "--wait"])
            .env("PROXY_PORT", "18080");
        let _up = up.run().success();
        let port = stack.compose("port proxy 8080").success();
        assert_eq!(port.stdout.trim(), "0.0.0.0:18080");
        let _page = world.get("http://127.0.0.1:18080/").success();
        let _refused = world.get(PAGE).failure();
        let _down = stack.compose("down -v").success();
    });
}

#[test]
fn a_container_on_an_internal_network_has_no_way_out() {
    World::run(|world| {
        let stack = world.example("stack");
        let _up = stack.compose("up -d --wait").success();
        // The uplink's own address answers those who may leave their network.
        let ping = ["ping", "-c", "1", "-W", "2", "192.0.2.2"];
        let exec = |service| stack.command(["exec", "-T", service]).args(ping).run();
        let _answered = exec("proxy").success();
        let _refused = exec("db").failure();
        let _down = stack.compose("down -v").success();
    });
}
