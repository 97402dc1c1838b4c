//! Containers and the supervisor over their lives: output, restarts, kills.

use std::time::Duration;

use rustix::process::Signal;

use crate::world::{World, eventually};

const ONE_SERVICE: &str = "
services:
  app:
    image: demo
    init: true
    restart: always
    stop_grace_period: 0s
    command: sh -c 'echo begun; echo aside >&2; exec sleep 1001'
";

#[test]
fn exit_codes_of_exec_are_passed_on() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("codes", ONE_SERVICE);
        let _up = project.compose("up -d").success();
        let exec = project
            .command(["exec", "-T", "app", "sh", "-c", "exit 7"])
            .run();
        assert_eq!(exec.status.code(), Some(7), "{exec}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn logs_have_both_streams_of_every_run() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("logs", ONE_SERVICE);
        let _up = project.compose("up -d").success();
        let logs = || project.compose("logs --no-log-prefix app").success().stdout;
        eventually("the first run's output", || logs().lines().count() == 2);
        assert!(
            logs().contains("begun\n") && logs().contains("aside\n"),
            "{}",
            logs()
        );
        let _restart = project.compose("restart").success();
        eventually("the second run's output", || logs().lines().count() == 4);
        let prefixed = project.compose("logs app").success();
        assert!(prefixed.stdout.starts_with("app-1  | "), "{prefixed}");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_process_that_dies_is_restarted_but_a_stopped_service_stays_stopped() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("restart", ONE_SERVICE);
        let _up = project.compose("up -d").success();
        let ids = project.fields("Name", "ID");

        assert!(world.kill("sleep 1001") > 0);
        eventually("a second run", || {
            project
                .compose("logs --no-log-prefix app")
                .stdout
                .matches("begun")
                .count()
                == 2
        });
        assert_eq!(project.fields("Name", "ID"), ids);
        assert_eq!(project.fields("Name", "State")["restart-app-1"], "running");

        let _stop = project.compose("stop").success();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(project.fields("Name", "State")["restart-app-1"], "exited");
        let _down = project.compose("down").success();
    });
}

#[test]
fn the_stop_signal_of_a_service_ends_its_restarts_and_no_other_does() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    restart: always
    stop_signal: SIGQUIT
    stop_grace_period: 0s
    command: sh -c 'trap \"exit 0\" TERM QUIT; echo begun; while :; do sleep 0.1; done'
";
        let project = world.project("signals", file);
        let _up = project.compose("up -d").success();
        let runs = || {
            let logs = project.compose("logs --no-log-prefix app");
            logs.stdout.matches("begun").count()
        };
        eventually("the first run", || runs() == 1);
        let _term = project.compose("kill -s SIGTERM").success();
        eventually("a second run", || runs() == 2);
        let _quit = project.compose("kill -s SIGQUIT").success();
        eventually("its end", || {
            project.fields("Name", "State")["signals-app-1"] == "exited"
        });
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(runs(), 2);
        let _down = project.compose("down").success();
    });
}

#[test]
fn what_another_tool_removes_leaves_no_port_behind() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    restart: always
    ports: ['8080:80']
    command: sh -c 'exit 1'
";
        let project = world.project("foreign", file);
        let _up = project.compose("up -d").success();
        // From the sixth on there is a while between two runs.
        eventually("a wait before the next run", || {
            let container = &project.containers()[0];
            container["State"] == "restarting" && container["Restarts"].as_u64() > Some(5)
        });
        let id = project
            .fields("Name", "ID")
            .remove("foreign-app-1")
            .unwrap();
        let all = world.ctr(["containers", "ls", "-q"]).run().success().stdout;
        let id = all.lines().find(|line| line.starts_with(&id)).unwrap();
        let _removed = world.ctr(["containers", "rm", id]).run().success();
        let sandboxes = world.state_root().join("lib/networks/sandboxes");
        eventually("the end of its sandbox", || {
            std::fs::read_dir(&sandboxes).map_or(0, Iterator::count) == 0
        });
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_killed_supervisor_takes_no_container_along_and_is_back_with_the_next_command() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("survive", ONE_SERVICE);
        let _up = project.compose("up -d").success();
        let ids = project.fields("Name", "ID");

        assert!(world.kill(" supervisor --project survive") > 0);
        let _ps = project.compose("ps").success();
        assert_eq!(project.fields("Name", "State")["survive-app-1"], "running");
        eventually("names that resolve again", || {
            project.compose("exec -T app nslookup app").status.success()
        });
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "ID"), ids);
        let starts = project
            .compose("logs --no-log-prefix app")
            .stdout
            .matches("begun")
            .count();
        assert_eq!(starts, 1);
        let _down = project.compose("down").success();
    });
}

#[test]
fn containers_survive_a_restart_of_containerd() {
    World::run(|world| {
        world.import_image("default");
        let folder = world.project("daemon", ONE_SERVICE).into_folder();
        let _up = world.project_in(&folder).compose("up -d").success();
        let ids = world.project_in(&folder).fields("Name", "ID");

        world.stop_containerd(Signal::KILL);
        world.start_containerd();

        let project = world.project_in(&folder);
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "ID"), ids);
        assert!(world.kill("sleep 1001") > 0);
        eventually("a second run", || {
            project
                .compose("logs --no-log-prefix app")
                .stdout
                .matches("begun")
                .count()
                == 2
        });
        let _down = project.compose("down").success();
    });
}

#[test]
fn two_commands_at_once_do_the_work_once() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("twice", ONE_SERVICE);
        let first = project.command(["up", "-d", "--scale", "app=3"]).start();
        let second = project.command(["up", "-d", "--scale", "app=3"]).start();
        let _first = first.finish().success();
        let _second = second.finish().success();
        let states = project.fields("Name", "State");
        assert_eq!(
            states.keys().collect::<Vec<_>>(),
            ["twice-app-1", "twice-app-2", "twice-app-3"]
        );
        assert!(
            states.values().all(|state| state == "running"),
            "{states:?}"
        );
        let _down = project.compose("down").success();
    });
}

#[test]
fn four_commands_at_once_all_succeed() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("crowd", ONE_SERVICE);
        let commands: Vec<_> = (0..4)
            .map(|_| project.command(["up", "-d"]).start())
            .collect();
        for command in commands {
            let _up = command.finish().success();
        }
        let starts = project.compose("logs --no-log-prefix app").success();
        assert_eq!(starts.stdout.matches("begun").count(), 1, "{starts}");
        let _down = project.compose("down").success();
    });
}

const CHAIN: &str = "
services:
  web:
    image: demo
    volumes: ['notes:/notes']
    stop_grace_period: 5s
    depends_on: {db: {condition: service_started, restart: true}}
    command: &command
      - sh
      - -c
      - 'trap \"sleep 0.3; echo $$HOSTNAME >>/notes/ends; exit\" TERM; echo begun; while :; do sleep 0.05; done'
    hostname: web
  db:
    image: demo
    volumes: ['notes:/notes']
    stop_grace_period: 5s
    environment: {LEVEL: one}
    command: *command
    hostname: db
volumes:
  notes:
";

#[test]
fn dependents_stop_before_what_they_need() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("chain", CHAIN);
        let _up = project.compose("up -d").success();
        let _stop = project.compose("stop").success();
        let ends = project.compose("run --rm -T db cat /notes/ends").success();
        assert_eq!(ends.stdout, "web\ndb\n", "{ends}");
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_dependent_that_asks_for_it_restarts_with_what_it_needs() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("renewed", CHAIN);
        let _up = project.compose("up -d").success();
        let before = project.fields("Name", "ID");
        let begun = |count: usize| {
            let logs = project.compose("logs --no-log-prefix web").success();
            logs.stdout.matches("begun").count() == count
        };
        eventually("the first run", || begun(1));

        project.write("compose.yaml", &CHAIN.replace("LEVEL: one", "LEVEL: two"));
        let _up = project.compose("up -d").success();
        let after = project.fields("Name", "ID");
        assert_eq!(after["renewed-web-1"], before["renewed-web-1"]);
        assert_ne!(after["renewed-db-1"], before["renewed-db-1"]);
        eventually("a run with the new dependency", || begun(2));

        let _restart = project.compose("restart db").success();
        eventually("a run with the restarted dependency", || begun(3));
        let _down = project.compose("down -v").success();
    });
}
