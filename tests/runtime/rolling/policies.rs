//! What `deploy.update_config` says beside the order that keeps everybody served.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{Project, World, eventually};

/// So many replicas, one of which does not get through an update to the version `bad`: the one that comes first.
fn file(replicas: u32, version: &str, update: &str) -> String {
    format!(
        "
services:
  web:
    image: demo
    init: true
    scale: {replicas}
    stop_grace_period: 1s
    environment: {{VERSION: {version}}}
    volumes: ['shared:/shared']
    command:
      - sh
      - -c
      - |
        if [ $$VERSION = bad ] && mkdir /shared/bad; then echo 'cannot be'; exit 3; fi
        exec sleep infinity
    healthcheck: {{test: 'true', interval: 200ms}}
    deploy: {{update_config: {{monitor: 300ms, {update}}}}}
volumes:
  shared:
"
    )
}

/// Names of the containers that are not those of `before`.
fn renewed(project: &Project<'_>, before: &[Value]) -> Vec<String> {
    let mut renewed: Vec<String> = project
        .containers()
        .iter()
        .filter(|container| before.iter().all(|old| old["ID"] != container["ID"]))
        .map(|container| container["Name"].as_str().unwrap().to_owned())
        .collect();
    renewed.sort();
    renewed
}

/// What happened to containers, as `shop-web-1 start`.
fn events(project: &Project<'_>) -> Vec<String> {
    let told = project
        .compose("events --json --since 10m --until 0s")
        .success();
    let events = told.stdout.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let name = event["attributes"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        format!("{name} {}", event["action"].as_str().unwrap())
    });
    events.collect()
}

#[test]
fn a_wave_waits_for_the_delay_after_the_one_before() {
    World::run(|world| {
        world.import_image("default");
        let update = "order: start-first, delay: 3s";
        let project = world.project("delay", &file(2, "one", update));
        let _up = project.compose("up -d --wait").success();
        let before = project.containers();
        project.write("compose.yaml", &file(2, "two", update));
        let began = Instant::now();
        let up = project.command(["up", "-d"]).start();
        eventually("the first replica is updated", || {
            let log = events(&project);
            log.iter()
                .filter(|event| *event == "delay-web-1 stop")
                .count()
                == 1
        });
        let first = Instant::now();
        assert_eq!(renewed(&project, &before), ["delay-web-1"]);
        let _up = up.finish().success();
        assert_eq!(renewed(&project, &before), ["delay-web-1", "delay-web-2"]);
        assert!(began.elapsed() > Duration::from_secs(3));
        // Seen a little after it happened.
        assert!(first.elapsed() > Duration::from_millis(2500));
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn as_many_replicas_may_fail_as_the_ratio_says() {
    World::run(|world| {
        world.import_image("default");
        for (name, ratio, may_fail) in [("roomy", 0.5, true), ("strict", 0.4, false)] {
            let update = format!("failure_action: pause, max_failure_ratio: {ratio}");
            let project = world.project(name, &file(2, "one", &update));
            let _up = project.compose("up -d --wait").success();
            let before = project.containers();
            project.write("compose.yaml", &file(2, "bad", &update));
            let up = project.compose("up -d");
            assert!(up.stderr.contains("exited (3)"), "{up}");
            if may_fail {
                let up = up.success();
                assert!(up.stderr.contains("update of service web"), "{up}");
                assert_eq!(renewed(&project, &before), ["roomy-web-2"]);
            } else {
                let up = up.failure();
                assert!(up.stderr.contains("1 of 2 replicas failed"), "{up}");
                assert_eq!(renewed(&project, &before), Vec::<String>::new());
            }
            let states = project.fields("ID", "State");
            assert_eq!(states.len(), 2, "{states:?}");
            assert!(
                states.values().all(|state| state == "running"),
                "{states:?}"
            );
            // What failed is tried again.
            let _up = project.compose("up -d").success();
            assert_eq!(renewed(&project, &before).len(), 2);
            let _down = project.compose("down -v").success();
        }
    });
}

#[test]
fn an_update_that_continues_leaves_out_what_fails() {
    World::run(|world| {
        world.import_image("default");
        let update = "order: start-first, failure_action: continue";
        let project = world.project("continue", &file(3, "one", update));
        let _up = project.compose("up -d --wait").success();
        let before = project.containers();
        project.write("compose.yaml", &file(3, "bad", update));
        let up = project.compose("up -d").failure();
        assert!(up.stderr.contains("the other replicas are updated"), "{up}");
        assert!(up.stderr.contains("1 of 3 replicas failed"), "{up}");
        assert_eq!(
            renewed(&project, &before),
            ["continue-web-2", "continue-web-3"]
        );
        let states = project.fields("ID", "State");
        assert_eq!(states.len(), 3, "{states:?}");
        assert!(
            states.values().all(|state| state == "running"),
            "{states:?}"
        );
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn stop_first_stops_each_before_it_starts_the_next_and_no_two_at_a_time() {
    World::run(|world| {
        world.import_image("default");
        let update = "order: stop-first";
        let project = world.project("first", &file(2, "one", update));
        let _up = project.compose("up -d --wait").success();
        let before = events(&project).len();
        project.write("compose.yaml", &file(2, "two", update));
        let plan = project.compose("plan").success();
        assert!(plan.stdout.contains("wave 2 of 2, stop-first"), "{plan}");
        let _up = project.compose("up -d").success();
        let log = events(&project);
        let seen: Vec<&str> = log[before..]
            .iter()
            .map(String::as_str)
            .filter(|event| {
                let words = [" stop", " start", " health_status: healthy", " destroy"];
                words.iter().any(|word| event.ends_with(word))
            })
            .collect();
        assert_eq!(
            seen[..6],
            [
                "first-web-1 stop",
                "first-web-1 start",
                "first-web-1 health_status: healthy",
                "first-web-2 stop",
                "first-web-2 start",
                "first-web-2 health_status: healthy",
            ],
            "{log:#?}"
        );
        // The old ones are there until all is well.
        let mut ends = seen[6..].to_vec();
        ends.sort_unstable();
        assert_eq!(ends, ["first-web-1 destroy", "first-web-2 destroy"]);
        let _down = project.compose("down -v").success();
    });
}
