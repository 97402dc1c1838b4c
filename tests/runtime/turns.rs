//! Several commands, or several folders, and one project.

use std::fs;

use rustix::process::Signal;

use crate::world::{World, eventually};

const SLOW: &str = "
services:
  slow:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sleep infinity
    healthcheck: {test: test -e /ready, interval: 100ms, retries: 100000}
";

const ONE: &str = "
name: same
services:
  app: {image: demo, init: true, stop_grace_period: 0s, command: sleep infinity}
";

#[test]
fn who_waits_names_whom_for_and_no_longer_than_asked_and_reads_do_not_wait() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("turns", SLOW);
        let up = project.command(["up", "-d", "--wait"]).start();
        eventually("a running container", || {
            project
                .fields("Name", "State")
                .get("turns-slow-1")
                .is_some_and(|it| it == "running")
        });
        let refused = project.compose("--lock-timeout 1 restart").failure();
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        for part in ["`up (pid ", "--lock-timeout", "no more than 1 s"] {
            assert!(
                refused.stderr.contains(part),
                "`{part}` is missing in\n{refused}"
            );
        }
        let restart = project
            .command(["--progress", "plain", "restart", "-t", "0"])
            .start();
        let _logs = project.compose("logs").success();
        let _exec = project.compose("exec -T slow touch /ready").success();
        let _up = up.finish().success();
        let restart = restart.finish().success();
        let told =
            restart.stderr.contains("for up (pid ") && restart.stderr.contains("at work since");
        // It may have come only when the other was done.
        assert!(told || !restart.stderr.contains("Waiting"), "{restart}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_restart_that_is_interrupted_leaves_nothing_stopped() {
    World::run(|world| {
        world.import_image("default");
        let file = "
services:
  deaf: {image: demo, stop_grace_period: 2s, command: sh -c 'trap \"\" TERM; sleep infinity'}
";
        let project = world.project("deaf", file);
        let _up = project.compose("up -d").success();
        let happened = |what: &str| {
            let events = project.compose("events --since 1h --until 0s").success();
            events.stdout.matches(what).count()
        };
        let restart = project.command(["restart"]).start();
        eventually("the stop has begun", || happened(" container kill ") == 1);
        restart.signal(Signal::INT);
        let _interrupted = restart.finish();
        eventually("it is there again", || happened(" container start ") == 2);
        assert_eq!(project.fields("Name", "State")["deaf-deaf-1"], "running");
        let _down = project.compose("down -t 0").success();
    });
}

#[test]
fn two_checkouts_with_one_name_do_not_trample_on_each_other() {
    World::run(|world| {
        world.import_image("default");
        let first = world.project("here", ONE);
        let _up = first.compose("up -d").success();
        let ids = first.fields("Name", "ID");
        let second = world.project("there", ONE);
        for command in [
            "up -d",
            "down",
            "run --rm app true",
            "rm -f -s",
            "create",
            "plan",
        ] {
            let refused = second.compose(command).failure();
            for part in [
                "/projects/here",
                "/projects/there",
                "--take-over",
                "-p NAME",
            ] {
                assert!(
                    refused.stderr.contains(part),
                    "`{part}` is missing in\n{refused}"
                );
            }
        }
        let _ps = second.compose("ps").success();
        assert_eq!(first.fields("Name", "ID"), ids);

        // Under another name both are there; other files in the same folder are no other checkout.
        let _up = second.compose("-p other up -d").success();
        let _down = second.compose("-p other down").success();
        first.write("more.yaml", ONE);
        let _up = first.compose("-f more.yaml up -d").success();

        // A link to the folder, and the folder in another place, are the same.
        let link = world.path("projects/link");
        std::os::unix::fs::symlink(first.folder(), &link).unwrap();
        let _up = world.project_in(&link).compose("up -d").success();
        fs::remove_file(&link).unwrap();
        let moved = world.path("projects/moved");
        fs::rename(first.folder(), &moved).unwrap();
        let moved = world.project_in(&moved);
        let _up = moved.compose("up -d").success();
        assert_eq!(moved.fields("Name", "ID"), ids);

        // Who says so goes on with the containers of the other one, and from then on without saying.
        let _up = second.compose("up -d --take-over").success();
        let _up = second.compose("up -d").success();
        let refused = moved.compose("up -d").failure();
        assert!(refused.stderr.contains("/projects/there"), "{refused}");
        // Without the files, the name says it all.
        let _down = world
            .command_in(&world.path("home"), env!("CARGO_BIN_EXE_compose"))
            .args(["-p", "same", "down"])
            .run()
            .success();
    });
}
