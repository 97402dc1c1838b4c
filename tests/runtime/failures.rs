//! What a user is told when something goes wrong, and what is left then.

use rustix::process::Signal;

use crate::world::{World, eventually, processes_in};

const SICK: &str = "
services:
  sick:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    healthcheck:
      test: echo the probe says no; exit 3
      interval: 100ms
      retries: RETRIES
";

#[test]
fn a_command_that_does_not_exist_is_named() {
    World::run(|world| {
        world.import_image("default");
        let bad = "services: {bad: {image: demo, command: no-such-program}}";
        let project = world.project("bad", bad);
        let up = project.compose("up -d").failure();
        assert_eq!(up.status.code(), Some(1), "{up}");
        for part in ["bad", "no-such-program"] {
            assert!(up.stderr.contains(part), "`{part}` is missing in\n{up}");
        }
        let _down = project.compose("down").success();
    });
}

#[test]
fn what_the_kernel_kills_for_want_of_memory_is_said() {
    World::run(|world| {
        world.import_image("default");
        let file = "
services:
  hog: {image: demo, command: tail /dev/zero, mem_limit: 8m, memswap_limit: 8m}
";
        let project = world.project("hog", file);
        let up = project.compose("up -d --wait").failure();
        assert!(up.stderr.contains("exited (137), out of memory"), "{up}");
        let events = project.compose("events --since 1m --until 0s").success();
        assert_eq!(
            events.stdout.matches(" container oom ").count(),
            1,
            "{events}"
        );
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_unhealthy_service_fails_the_wait_with_the_last_words_of_its_probe() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("sick", &SICK.replace("RETRIES", "2"));
        let up = project.compose("up -d --wait").failure();
        assert_eq!(up.status.code(), Some(1), "{up}");
        for part in ["sick", "unhealthy", "the probe says no"] {
            assert!(up.stderr.contains(part), "`{part}` is missing in\n{up}");
        }
        assert_eq!(project.fields("Name", "Health")["sick-sick-1"], "unhealthy");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_dependency_that_crashes_again_and_again_ends_the_wait_with_who_and_why() {
    World::run(|world| {
        world.import_image("default");
        let file = "
services:
  loop:
    image: demo
    restart: always
    command: sh -c 'echo no luck; exit 7'
    healthcheck: {test: 'true', interval: 30s}
  web:
    image: demo
    command: sleep infinity
    depends_on: {loop: {condition: service_healthy}}
";
        let project = world.project("loop", file);
        let up = project.compose("up -d --wait").failure();
        assert_eq!(up.status.code(), Some(1), "{up}");
        for part in [
            "loop-loop-1",
            "keeps restarting",
            "exited (7)",
            "no luck",
            "`web` waits",
        ] {
            assert!(up.stderr.contains(part), "`{part}` is missing in\n{up}");
        }
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_interrupted_up_says_so_and_down_removes_what_it_has_made() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("patient", &SICK.replace("RETRIES", "1000"));
        let up = project.command(["up", "-d", "--wait"]).start();
        eventually("a running container", || {
            let states = project.fields("Name", "State");
            states
                .get("patient-sick-1")
                .is_some_and(|state| state == "running")
        });
        up.signal(Signal::INT);
        let up = up.finish();
        assert_eq!(up.status.code(), Some(130), "{up}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_mistake_in_the_file_is_shown_with_its_place_and_nothing_is_started() {
    World::run(|world| {
        let project = world.project("typo", "services:\n  app:\n    imagine: demo\n");
        let up = project.compose("up -d").failure();
        for part in ["compose.yaml:3:5", "imagine", "image"] {
            assert!(up.stderr.contains(part), "`{part}` is missing in\n{up}");
        }
    });
}

#[test]
fn a_port_that_is_taken_fails_up_and_leaves_the_owner_alone() {
    World::run(|world| {
        world.import_image("default");
        let server = "services: {app: {image: demo, init: true, ports: ['8080:8080']}}";
        let first = world.project("first", server);
        let _up = first.compose("up -d").success();
        let second = world.project("second", server);
        let up = second.compose("up -d").failure();
        assert!(up.stderr.contains("8080"), "{up}");
        let _down = second.compose("down").success();
        let refused = "http://127.0.0.1:8080/none";
        // An answer, be it that there is no such page, comes from the first project's server.
        let answer = world.get(refused).failure();
        assert!(answer.stderr.contains("404"), "{answer}");
        let _down = first.compose("down --timeout 0").success();
    });
}

#[test]
fn a_hook_that_never_ends_does_not_outlive_the_command() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    post_start: [{command: [sleep, '1004']}]
";
        let project = world.project("hook", file);
        let up = project.command(["up", "-d"]).start();
        eventually("a hook that runs", || {
            processes_in(world.name())
                .iter()
                .any(|(_, line)| line.ends_with("sleep 1004"))
        });
        up.signal(Signal::INT);
        let up = up.finish();
        assert_eq!(up.status.code(), Some(130), "{up}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_hook_before_the_stop_may_end_the_container_itself() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    command: sleep 1005
    stop_grace_period: 0s
    pre_stop: [{command: [kill, '-TERM', '1']}, {command: [sleep, '60']}]
";
        let project = world.project("farewell", file);
        let _up = project.compose("up -d").success();
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_down_in_the_middle_of_an_up_has_the_last_word() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  first: {image: demo, init: true, stop_grace_period: 0s, healthcheck: {test: 'false', interval: 1s}}
  second: {image: demo, init: true, stop_grace_period: 0s, depends_on: {first: {condition: service_healthy}}}
";
        let project = world.project("middle", file);
        for delay in [100, 140, 180, 250, 400, 700] {
            let up = project.command(["up", "-d"]).start();
            std::thread::sleep(std::time::Duration::from_millis(delay));
            up.signal(Signal::INT);
            let _interrupted = up.finish().failure();
            let _down = project.compose("down").success();
            world.assert_clean();
        }
    });
}

#[test]
fn a_container_name_of_another_project_is_refused_and_nothing_is_harmed() {
    World::run(|world| {
        world.import_image("default");
        let named = "services: {web: {image: demo, container_name: mine, ports: ['8080:8080'],
            command: [sh, -c, 'echo hello >/srv/index.html; exec httpd -f -p 8080 -h /srv']}}";
        let first = world.project("first", named);
        let second = world.project(
            "second",
            &named.replace("ports: ['8080:8080']", "tty: true"),
        );
        let _up = first.compose("up -d").success();
        let before = first.containers();
        eventually("a page", || {
            world.get("http://127.0.0.1:8080").status.success()
        });

        let refused = second.compose("up -d").failure();
        let id = before[0]["ID"].as_str().unwrap();
        let expected = format!(
            "the container name `mine` is already in use by container {id} of project `first`"
        );
        assert!(refused.stderr.contains(&expected), "{refused}");
        let run = second.compose("run --name mine web true").failure();
        assert!(run.stderr.contains(&expected), "{run}");
        assert_eq!(first.fields("ID", "State")[id], "running");
        let _page = world.get("http://127.0.0.1:8080").success();
        assert!(second.containers().is_empty());

        // One that does not run has its name too.
        let _stopped = first.compose("stop").success();
        let _refused = second.compose("up -d").failure();
        let _started = first.compose("start").success();
        let _page = world.get("http://127.0.0.1:8080").success();
        let _down = first.compose("down").success();
        let _up = second.compose("up -d").success();
        let _down = second.compose("down").success();
    });
}
