//! What a reboot ends comes back in order; what is to stay down stays down.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{World, eventually};

const SHOP: &str = "
x-app: &app
  image: demo
  init: true
  restart: always
  stop_grace_period: 0s
services:
  # By their names the dependents come first.
  a-web:
    <<: *app
    command: sh -c 'cat /shared/ready || echo too early; exec sleep infinity'
    volumes: ['shared:/shared']
    depends_on:
      db: {condition: service_healthy}
      job: {condition: service_completed_successfully}
      once: {condition: service_healthy}
  b-front:
    <<: *app
    restart: unless-stopped
    command: sleep infinity
    depends_on: [a-web]
  db:
    <<: *app
    restart: on-failure
    command: sh -c 'sleep 1; echo ready >/shared/ready; exec sleep infinity'
    volumes: ['shared:/shared']
    healthcheck: {test: test -e /shared/ready, interval: 100ms, retries: 200}
  job:
    <<: *app
    restart: 'no'
    command: echo done
  once:
    <<: *app
    restart: 'no'
    command: sleep infinity
    healthcheck: {test: 'true', interval: 100ms}
  parked:
    <<: *app
    command: sleep infinity
volumes:
  shared:
";

/// Ends everything that a reboot ends, and takes away the file that `db` makes again.
fn reboot(world: &mut World) {
    world.kill(" supervisor --project");
    world.stop_containerd(Signal::KILL);
    world.kill("containerd-shim");
    for command in ["sleep infinity", "sleep 1"] {
        world.kill(command);
    }
    let ready = "lib/volumes/shop_shared/_data/ready";
    fs::remove_file(world.state_root().join(ready)).unwrap();
    world.start_containerd();
}

#[test]
fn a_resume_brings_projects_back_in_the_order_of_their_conditions() {
    World::run(|world| {
        world.import_image("default");
        let folder = world.project("shop", SHOP).into_folder();
        let none = world.project("none", "services: {app: {image: demo}}");
        let none = none.into_folder();
        {
            let shop = world.project_in(&folder);
            let _up = shop.compose("up -d --wait").success();
            let _stop = shop.compose("stop parked").success();
            let idle = world.project_in(&none).compose("resume").success();
            assert_eq!(idle.stdout, "shop: runs\n");
        }
        reboot(world);
        let other = world.project_in(&none);
        let dry = other.compose("resume --dry-run").success();
        assert_eq!(dry.stdout, "shop: would be resumed\n");
        // It needs no file.
        let resumed = other
            .command(["-p", "shop", "resume", "--wait"])
            .within(Duration::from_mins(1))
            .run()
            .success();
        assert_eq!(resumed.stdout, "shop: resumed\n");
        let shop = world.project_in(&folder);
        let states = shop.fields("Service", "State");
        for (service, state) in [
            ("a-web", "running"),
            ("b-front", "running"),
            ("db", "running"),
            ("job", "exited"),
            ("once", "exited"),
            ("parked", "exited"),
        ] {
            assert_eq!(states[service], state, "{service}: {states:?}");
        }
        let logs = shop.compose("logs --no-log-prefix a-web").success();
        assert_eq!(logs.stdout, "ready\nready\n", "{logs}");
        let events = shop.compose("events --since 1h --until 0s").success();
        let last = |service: &str| {
            let own = format!("shop-{service}-1");
            let starts = |line: &str| line.contains("container start") && line.contains(&own);
            let lines: Vec<&str> = events.stdout.lines().collect();
            lines.iter().rposition(|line| starts(line)).unwrap()
        };
        assert!(last("db") < last("a-web"), "{events}");
        assert!(last("a-web") < last("b-front"), "{events}");
        let unknown = other.compose("-p shopp resume").failure();
        assert!(unknown.stderr.contains("did you mean `shop`?"), "{unknown}");
        let _down = shop.compose("down -v").success();
        let _resumed = other.compose("resume").success();
    });
}

#[test]
fn a_dependent_waits_until_somebody_repairs_what_it_depends_on() {
    World::run(|world| {
        world.import_image("default");
        let folder = world.project("shop", SHOP).into_folder();
        let _up = world.project_in(&folder).compose("up -d --wait").success();
        reboot(world);
        let shop = world.project_in(&folder);
        // Any command revives the project.
        let _ps = shop.compose("ps").success();
        let _kill = shop.compose("stop db").success();
        assert_ne!(shop.fields("Service", "State")["a-web"], "running");
        let _start = shop.compose("-p shop start db").success();
        eventually("the dependents come back", || {
            shop.fields("Service", "State")["b-front"] == "running"
        });
        let _down = shop.compose("down -v").success();
    });
}
