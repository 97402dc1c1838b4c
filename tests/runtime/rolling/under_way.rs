//! Commands while an update is under way.

use rustix::process::Signal;

use crate::world::{Project, Running, World, eventually};

/// A replica that publishes a port, and is healthy only when `ready` is in its volume.
const FILE: &str = r"
services:
  web:
    image: demo
    init: true
    stop_grace_period: 1s
    ports: ['8080:80']
    environment: {VERSION: one}
    volumes: ['shared:/shared']
    command: sh -c 'mkdir /www; echo $$VERSION >/www/index.html; exec httpd -f -p 80 -h /www'
    healthcheck:
      test: '[ $$VERSION = one ] || [ -e /shared/ready ]'
      interval: 200ms
      start_period: 1h
    deploy: {update_config: {order: start-first}}
volumes:
  shared:
";

/// Begins an update, and returns when the new container runs and is not ready.
fn begun(project: &Project<'_>) -> Running {
    let _up = project.compose("up -d --wait").success();
    project.write(
        "compose.yaml",
        &FILE.replace("VERSION: one", "VERSION: two"),
    );
    let up = project.command(["up", "-d"]).start();
    eventually("the new container", || {
        let containers = project.containers();
        let running = containers.iter().filter(|it| it["State"] == "running");
        running.count() == 2
    });
    up
}

#[test]
fn both_containers_of_a_replica_are_listed_and_only_one_has_its_ports() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("halves", FILE);
        let up = begun(&project);
        let containers = project.containers();
        let of = |health: &str| {
            let found = containers.iter().find(|it| it["Health"] == health);
            found.unwrap_or_else(|| panic!("none is {health}: {containers:#?}"))
        };
        let (old, new) = (of("healthy"), of("starting"));
        assert_eq!(old["Name"], "halves-web-1");
        assert_eq!(new["Name"], old["Name"]);
        assert!(old["Ports"].as_str().unwrap().contains("8080->80/tcp"));
        assert!(!new["Ports"].as_str().unwrap().contains("8080->"));
        let ps = project.compose("ps").success();
        let rows: Vec<&str> = ps
            .stdout
            .lines()
            .filter(|it| it.contains("web-1"))
            .collect();
        assert_eq!(rows.len(), 2, "{ps}");
        assert!(rows[0].contains("(healthy)"), "{ps}");
        assert!(rows[1].contains("(health: starting)"), "{ps}");
        let page = world.get("http://127.0.0.1:8080/").success();
        assert_eq!(page.stdout.trim(), "one");
        let port = project.compose("port web 80").success();
        assert_eq!(port.stdout.trim(), "0.0.0.0:8080");

        // A command inside goes to who serves.
        let script = "echo $VERSION; touch /shared/ready";
        let exec = project.command(["exec", "-T", "web", "sh", "-c", script]);
        assert_eq!(exec.run().success().stdout.trim(), "one");
        let _up = up.finish().success();
        let page = world.get("http://127.0.0.1:8080/").success();
        assert_eq!(page.stdout.trim(), "two");
        assert_eq!(project.containers().len(), 1);
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn down_ends_what_an_interrupted_update_has_left_half_done() {
    World::run(|world| {
        world.import_image("default");
        for (name, signal) in [("asked", Signal::INT), ("killed", Signal::KILL)] {
            let project = world.project(name, FILE);
            let up = begun(&project);
            up.signal(signal);
            let up = up.finish();
            assert!(!up.status.success(), "{up}");
            let _down = project.compose("down -v").success();
            world.assert_clean();
        }
    });
}

#[test]
fn down_waits_for_an_update_that_goes_on_and_then_takes_all_of_it_down() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("waits", FILE);
        let up = begun(&project);
        let down = project.command(["down", "-v"]).start();
        let _exec = project.compose("exec -T web touch /shared/ready").success();
        let _up = up.finish().success();
        let _down = down.finish().success();
        world.assert_clean();
    });
}
