//! What a CI job sees of a stack: exit codes, one report of who is not ready, progress as JSON.

use serde_json::Value;

use crate::world::World;

const BROKEN: &str = "
services:
  db:
    image: demo
    command: sh -c 'echo opening the database; sleep infinity'
    stop_grace_period: 0s
    healthcheck: {test: 'echo still closed; exit 4', interval: 100ms, retries: 1000}
  web:
    image: demo
    command: sh -c 'echo cannot bind; exit 3'
  fine:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
";

#[test]
fn one_report_says_who_is_not_ready_and_why() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("ci", BROKEN);
        let up = project
            .compose("up --wait --wait-timeout 2 --quiet")
            .failure();
        assert_eq!(up.stdout, "", "{up}");
        insta::assert_snapshot!(up.stderr, @"
        error: container ci-db-1 is not ready yet
          | last probe:
          |   still closed
          | last log lines:
          |   opening the database
        error: container ci-web-1 exited (3)
          | last log lines:
          |   cannot bind
        error: application not healthy after 2s
        ");
        let json = project
            .compose("--progress json up --wait --wait-timeout 2")
            .failure();
        let objects: Vec<Value> = json
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let (errors, progress): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .partition(|object| object["error"] == true);
        assert!(errors.len() > 1, "{json}");
        assert!(errors.iter().all(|error| error["message"].is_string()));
        assert!(!progress.is_empty(), "{json}");
        for object in progress {
            for key in ["id", "status", "text"] {
                assert!(object[key].is_string(), "{object}");
            }
        }
        let _down = project.compose("down").success();
    });
}

const TESTS: &str = "
services:
  tests:
    image: demo
    command: sh -c 'sleep 0.5; echo two failed; exit 7'
    depends_on: [server]
  server:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
";

#[test]
fn the_exit_code_is_that_of_the_tests_and_nothing_runs_on() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("tests", TESTS);
        for words in [
            "up --exit-code-from tests",
            "up --abort-on-container-failure",
            "up --abort-on-container-failure --attach tests",
        ] {
            let up = project.compose(words).failure();
            assert_eq!(up.status.code(), Some(7), "{up}");
            assert!(up.stdout.contains("two failed"), "{up}");
            let states = project.fields("Service", "State");
            assert!(states.values().all(|state| state == "exited"), "{states:?}");
        }
        let up = project
            .compose("up --abort-on-container-exit --no-log-prefix")
            .failure();
        assert_eq!(up.status.code(), Some(7), "{up}");
        project.write("compose.yaml", &TESTS.replace("exit 7", "exit 0"));
        let _up = project.compose("up --exit-code-from tests").success();
        let _down = project.compose("down").success();
    });
}
