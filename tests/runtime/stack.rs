//! The example stack, as `scripts/demo` brings it up.

use std::collections::BTreeMap;

use crate::world::World;

const PAGE: &str = "http://127.0.0.1:8080/";

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

        let healthy = [
            "stack-api-1",
            "stack-db-1",
            "stack-proxy-1",
            "stack-web-1",
            "stack-web-2",
            "stack-web-3",
        ];
        let mut expected: BTreeMap<_, _> = healthy
            .map(|name| (name.to_owned(), "healthy".to_owned()))
            .into();
        expected.insert("stack-migrate-1".to_owned(), String::new());
        assert_eq!(stack.fields("Name", "Health"), expected);
        let states = stack.fields("Name", "State");
        assert_eq!(states["stack-migrate-1"], "exited");
        assert!(
            healthy.iter().all(|name| states[*name] == "running"),
            "{states:?}"
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
        let before = stack.fields("Name", "ID");
        let _up = stack.compose("up -d --wait").success();
        assert_eq!(stack.fields("Name", "ID"), before);
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
