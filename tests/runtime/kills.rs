//! Nothing is lost and nothing is left, whichever of our processes is killed and when.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::world::{Project, World, eventually};

const BUSY: &str = "
services:
  web:
    image: demo
    command: httpd -f -p 80 -h /etc
    init: true
    restart: always
    stop_grace_period: 0s
    ports: ['8080-8081:80']
    networks: [front, back]
    secrets: [token]
    volumes: ['data:/data', /cache]
    deploy: {replicas: 2}
    healthcheck: {test: 'true', interval: 200ms}
  db:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    networks: [back]
networks:
  front:
  back: {internal: true}
volumes:
  data:
secrets:
  token: {environment: TOKEN}
";

/// Milliseconds after which an `up` is interrupted, and whom SIGKILL meets then.
const ROUNDS: [(u64, &[&str]); 20] = [
    (0, &[]),
    (5, &[COMMAND]),
    (10, &[COMMAND, WORKER]),
    (20, &[BOTH]),
    (30, &[WORKER]),
    (40, &[COMMAND, BOTH]),
    (60, &[COMMAND]),
    (80, &[WORKER]),
    (100, &[BOTH]),
    (120, &[COMMAND, BOTH]),
    (150, &[COMMAND]),
    (180, &[WORKER]),
    (220, &[BOTH]),
    (260, &[COMMAND, WORKER]),
    (300, &[BOTH]),
    (350, &[WORKER]),
    (400, &[COMMAND]),
    (500, &[BOTH]),
    (700, &[COMMAND, BOTH]),
    (900, &[WORKER]),
];
const COMMAND: &str = "compose up -d";
const WORKER: &str = " --worker";
const BOTH: &str = " supervisor --project";

/// Runs all rounds. `again`: each is brought up whole before it is taken down.
fn interrupt(world: &World, again: bool) {
    world.import_image("default");
    let project = world.project("rounds", BUSY);
    let compose = |words: &str| project.command(words.split(' ')).env("TOKEN", "t");
    for (delay, victims) in ROUNDS {
        let up = compose("up -d").start();
        sleep(Duration::from_millis(delay));
        for victim in victims {
            world.kill(victim);
        }
        let _interrupted = up.finish();
        if again {
            let _up = compose("up -d").run().success();
            let states = project.fields("Name", "State");
            assert!(
                states.len() == 3 && states.values().all(|state| state == "running"),
                "after {delay} ms and the kill of {victims:?}: {states:?}"
            );
        }
        let _down = compose("down -v").run().success();
        world.assert_clean();
    }
}

#[test]
fn twenty_interrupted_ups_are_made_up_for_by_the_next() {
    World::run(|world| interrupt(world, true));
}

#[test]
fn twenty_interrupted_ups_leave_nothing_after_a_down() {
    World::run(|world| interrupt(world, false));
}

const COUNTING: &str = "
services:
  server:
    image: demo
    init: true
    command: sh -c 'i=0; while :; do echo line $$i; i=$$((i+1)); sleep 0.02; done'
    stop_grace_period: 0s
    restart: always
    healthcheck: {test: 'true', interval: 300ms}
  client:
    image: demo
    command: sleep infinity
    init: true
    stop_grace_period: 0s
";

fn looks_up(project: &Project<'_>, name: &str) -> bool {
    let ask = ["exec", "-T", "client", "nslookup", "-type=a", name];
    project.command(ask).run().status.success()
}

#[test]
fn a_killed_worker_costs_neither_a_line_nor_a_name() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("lines", COUNTING);
        let _up = project.compose("up -d --wait").success();
        for _ in 0..3 {
            assert!(world.kill(WORKER) > 0);
            assert!(looks_up(&project, "server"));
            sleep(Duration::from_millis(300));
        }
        eventually("a healthy server", || {
            project.fields("Name", "Health")["lines-server-1"] == "healthy"
        });
        let _stop = project.compose("stop server").success();
        let logs = project.compose("logs --no-log-prefix server").success();
        let numbers: Vec<usize> = logs
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
            .collect();
        assert!(numbers.len() > 20, "{logs}");
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_supervisor_that_was_killed_whole_is_revived_by_a_command_that_only_reads() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("revive", COUNTING);
        let _up = project.compose("up -d --wait").success();
        let ids = project.fields("Name", "ID");
        assert_eq!(world.kill(BOTH), 2);
        assert_eq!(project.fields("Name", "ID"), ids);
        eventually("names that resolve again", || looks_up(&project, "server"));
        let count = || {
            let logs = project.compose("logs --no-log-prefix server").success();
            logs.stdout.matches("line 0\n").count()
        };
        assert_eq!(count(), 1);
        assert!(world.kill("echo line") > 0);
        eventually("a second run", || count() == 2);
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_stop_that_the_worker_does_not_survive_is_still_the_last_word() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    restart: always
    stop_grace_period: 60s
    command: sh -c 'trap \"sleep 2; exit 0\" TERM; while :; do sleep 0.1; done'
";
        let project = world.project("lastword", file);
        let _up = project.compose("up -d").success();
        let stop = project.command(["stop"]).start();
        sleep(Duration::from_secs(1));
        assert!(world.kill(WORKER) > 0);
        let _interrupted = stop.finish();
        sleep(Duration::from_secs(4));
        assert_eq!(project.fields("Name", "State")["lastword-app-1"], "exited");
        let _down = project.compose("down --timeout 0").success();
    });
}

#[test]
fn a_record_of_which_the_files_are_gone_is_made_anew() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app: {image: demo, command: sleep 1009, init: true, stop_grace_period: 0s}
";
        let project = world.project("bare", file);
        let _create = project.compose("create").success();
        let folder = world.state_root().join("lib/containers");
        let made = fs::read_dir(&folder).unwrap().flatten().next().unwrap();
        fs::remove_dir_all(made.path()).unwrap();
        assert_eq!(project.fields("Name", "State")["bare-app-1"], "dead");
        let _up = project.compose("up -d").success();
        assert_eq!(project.fields("Name", "State")["bare-app-1"], "running");
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_up_brings_back_what_is_being_stopped() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    stop_grace_period: 60s
    command: sh -c 'trap \"sleep 3; exit 0\" TERM; while :; do sleep 0.1; done'
";
        let project = world.project("back", file);
        let run = || {
            let started = ["exec", "-T", "app", "stat", "-c", "%Z", "/proc/1"];
            project.command(started).run().stdout
        };
        let _up = project.compose("up -d").success();
        for is_killed in [false, true] {
            let first = run();
            let stop = project.command(["stop"]).start();
            sleep(Duration::from_secs(1));
            assert!(!is_killed || world.kill(WORKER) > 0);
            let _up = project.compose("up -d").success();
            let _stop = stop.finish();
            let second = run();
            assert!(!second.is_empty() && second != first, "{first} {second}");
            assert_eq!(project.fields("Name", "State")["back-app-1"], "running");
        }
        let _down = project.compose("down --timeout 0").success();
    });
}

#[test]
fn a_container_that_ends_while_the_disk_is_full_comes_back_when_there_is_room() {
    World::run(|world| {
        world.import_image("default");
        let program = fs::metadata(env!("CARGO_BIN_EXE_compose")).unwrap();
        world.limit_state(program.len() + (16 << 20));
        let project = world.project("full", COUNTING);
        let _up = project.compose("up -d --wait").success();
        let (_, filler) = world.fill_state();
        for _ in 0..2 {
            eventually("a run to be killed", || world.kill("echo line") > 0);
        }
        fs::remove_file(filler).unwrap();
        eventually("a healthy server", || {
            let fields = project.fields("Name", "Health");
            fields["full-server-1"] == "healthy"
        });
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_killed_shim_is_in_the_way_of_no_stop_and_of_no_start() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("shims", COUNTING);
        let _up = project.compose("up -d --wait").success();
        for words in ["stop", "restart", "up -d", "up -d --force-recreate", "down"] {
            assert!(world.kill("containerd-shim") > 0);
            let _done = project.compose(words).success();
            let _up = project.compose("up -d").success();
            eventually("two containers that run", || {
                let states = project.fields("Name", "State");
                states.len() == 2 && states.values().all(|state| state == "running")
            });
        }
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_container_whose_record_hides_it_is_found_after_an_up() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project(
            "hidden",
            "services: {web: {image: demo, command: sleep infinity, stop_grace_period: 0s}}",
        );
        let _up = project.compose("up -d").success();
        // As a full disk leaves it, on which it could not be noted that the container runs again.
        let record = "lib/networks/sandboxes/hidden-web-1.json";
        let record = world.inside(&world.state_root().join(record));
        let text = fs::read_to_string(&record).unwrap();
        let hidden = text.replace("\"active\":true", "\"active\":false");
        assert_ne!(text, hidden);
        fs::write(&record, hidden).unwrap();
        let finds = || {
            project
                .compose("exec -T web nslookup -type=a web")
                .status
                .success()
        };
        assert!(!finds());
        let _up = project.compose("up -d").success();
        assert!(finds());
        let _down = project.compose("down").success();
    });
}

#[test]
fn files_of_a_container_that_is_gone_are_cleared_by_the_next_supervisor() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project(
            "gone",
            "services: {web: {image: demo, command: sleep infinity, stop_grace_period: 0s}}",
        );
        let _up = project.compose("up -d").success();
        let _stopped = project.compose("stop").success();
        assert!(world.kill(" supervisor --project gone") > 0);
        // As a removal leaves it that could note nothing on a full disk, and was killed when the record was gone.
        let all = world.ctr(["containers", "ls", "-q"]).run().success().stdout;
        let id = all.trim();
        let _removed = world.ctr(["containers", "rm", id]).run().success();
        let _removed = world.ctr(["snapshots", "rm", id]).run();
        let folder = |kept: &str| world.state_root().join(kept).join(id).exists();
        assert!(folder("lib/containers"));
        let _up = project.compose("up -d").success();
        assert!(!folder("lib/containers") && !folder("run/containers"));
        let _down = project.compose("down").success();
    });
}
