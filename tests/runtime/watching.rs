//! What a running project tells of itself: `top`, `stats`, `events`, merged logs.

use serde_json::Value;

use crate::world::{World, eventually};

#[test]
fn processes_and_usage_are_those_of_the_containers() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project(
            "usage",
            "services:
  busy:
    image: demo
    command: sh -c 'while :; do :; done'
    stop_grace_period: 0s
    mem_limit: 64m
  calm:
    image: demo
    command: sh -c 'sleep 1000 & exec sleep 999'
    stop_grace_period: 0s
    scale: 2
  once:
    image: demo
    command: 'true'
",
        );
        let _up = project.compose("up -d").success();
        eventually("the children run", || {
            let top = project.compose("top calm").success().stdout;
            top.matches("sleep 1000").count() == 2 && top.matches("sleep 999").count() == 2
        });
        let top = project.compose("top").success().stdout;
        let mut lines = top.lines();
        let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            titles,
            [
                "SERVICE", "#", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"
            ]
        );
        let rows: Vec<Vec<&str>> = lines
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), 5, "{top}");
        let begins: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[2])).collect();
        assert_eq!(begins[0], ("busy", "1", "root"));
        assert_eq!(begins[4], ("calm", "2", "root"));

        let stats = project
            .compose("stats --no-stream --format json")
            .success()
            .stdout;
        let found: Vec<Value> = stats
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(found.len(), 3, "{stats}");
        let share: f64 = found[0]["CPUPerc"]
            .as_str()
            .unwrap()
            .trim_end_matches('%')
            .parse()
            .unwrap();
        assert!(share > 5.0, "{stats}");
        let memory = found[0]["MemUsage"].as_str().unwrap();
        assert!(memory.ends_with(" / 64MiB"), "{stats}");
        assert!(!memory.starts_with("0B"), "{stats}");
        assert_eq!(found[1]["PIDs"], "2", "{stats}");
        let all = project
            .compose("stats --all --no-stream --no-trunc")
            .success()
            .stdout;
        assert!(all.starts_with("CONTAINER ID "), "{all}");
        let once = all.lines().find(|line| line.contains("usage-once-1"));
        assert!(once.unwrap().contains("0B / 0B"), "{all}");
        let streamed = project.command(["stats", "--format", "{{.Name}}"]).start();
        std::thread::sleep(std::time::Duration::from_millis(2500));
        streamed.signal(rustix::process::Signal::INT);
        let streamed = streamed.finish();
        assert!(
            streamed.stdout.matches("usage-busy-1").count() >= 2,
            "{streamed}"
        );
        let _down = project.compose("down").success();
        assert_eq!(project.compose("top").success().stdout, "");
    });
}

const LIFE: &str = "services:
  web:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    environment: {LEVEL: one}
    healthcheck: {test: 'true', interval: 200ms}
  flaky:
    image: demo
    command: sh -c 'sleep 0.5; exit 3'
    restart: on-failure:1
";

#[test]
fn events_tell_what_happened_and_why_and_outlive_the_project() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("life", LIFE);
        let follower = project.command(["events", "--json", "web"]).start();
        let _up = project.compose("up -d --wait web").success();
        let _up = project.compose("up -d").success();
        let _true = project
            .command(["exec", "-T", "web", "true"])
            .run()
            .success();
        let _pause = project.compose("pause web").success();
        let _unpause = project.compose("unpause web").success();
        project.write("compose.yaml", &LIFE.replace("one", "two"));
        let _up = project.compose("up -d web").success();
        eventually("the flaky one gives up", || {
            project.fields("Service", "State")["flaky"] == "exited"
        });
        let flaky = project.containers();
        let flaky = flaky
            .iter()
            .find(|container| container["Service"] == "flaky");
        assert_eq!(flaky.unwrap()["Restarts"], 1);
        assert_eq!(flaky.unwrap()["Reason"], "restart policy");
        let _kill = project.compose("kill web").success();
        let _down = project.compose("down").success();

        let told = project
            .compose("events --json --since 10m --until 0s")
            .success()
            .stdout;
        let events: Vec<Value> = told
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let actions = |service: &str| -> Vec<String> {
            let of_service = events
                .iter()
                .filter(|event| event["service"] == service && event["type"] == "container");
            of_service
                .map(|event| event["action"].as_str().unwrap().to_owned())
                .collect()
        };
        let web = actions("web").join(" ");
        let expected =
            "create start health_status: healthy exec_start exec_die pause unpause create kill";
        assert!(web.starts_with(expected), "{web}");
        for action in ["stop", "die", "destroy"] {
            assert!(web.contains(action), "{web}");
        }
        assert_eq!(
            actions("flaky"),
            [
                "create", "start", "die", "restart", "start", "die", "destroy"
            ]
        );
        let reason = |action: &str, part: &str| {
            events.iter().any(|event| {
                let text = event["attributes"]["reason"].as_str().unwrap_or_default();
                event["action"] == action && text.contains(part)
            })
        };
        assert!(reason("create", "LEVEL"), "{told}");
        assert!(reason("start", "restart policy"), "{told}");
        let code = events.iter().find(|event| event["action"] == "die");
        assert!(code.unwrap()["attributes"]["exitCode"].is_string());
        let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert!(kinds("project") > 4 && kinds("supervisor") > 0, "{told}");
        let planned: Vec<_> = events
            .iter()
            .filter(|event| event["type"] == "plan" && event["service"] == "web")
            .map(|event| {
                let text = |name: &str| event["attributes"][name].as_str().unwrap_or_default();
                format!(
                    "{} {}: {}",
                    event["action"].as_str().unwrap(),
                    text("name"),
                    text("reason")
                )
            })
            .collect();
        assert_eq!(
            planned,
            [
                "create life-web-1: does not exist",
                "recreate life-web-1: environment.LEVEL: one → two",
                "remove life-web-1: not wanted any more",
            ]
        );

        let text = project
            .compose("events --since 10m --until 0s flaky")
            .success();
        // Two lines are of the plans.
        assert_eq!(text.stdout.lines().count(), 7 + 2, "{text}");
        assert!(text.stdout.contains(" container die "), "{text}");
        assert!(text.stdout.contains("exitCode=3"), "{text}");

        follower.signal(rustix::process::Signal::INT);
        let followed = follower.finish();
        assert_eq!(followed.status.code(), Some(130), "{followed}");
        let followed: Vec<Value> = followed
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of_web: Vec<&Value> = events
            .iter()
            .filter(|event| event["service"] == "web")
            .collect();
        assert_eq!(followed.iter().collect::<Vec<_>>(), of_web);
        let file = world.state_root().join("lib/projects/life/events.log");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(file).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn followed_logs_begin_with_history_in_the_order_of_time() {
    World::run(|world| {
        world.import_image("default");
        let service = |name: &str, offset: &str| {
            format!(
                "  {name}:\n    image: demo\n    stop_grace_period: 0s\n    command: sh -c 'sleep {offset}; for i in 1 2 3 4 5 6; do date +%s%N; sleep 0.2; done'\n"
            )
        };
        let yaml = format!(
            "services:\n{}{}{}",
            service("a", "0"),
            service("b", "0.07"),
            service("c", "0.13")
        );
        let project = world.project("merged", &yaml);
        let _up = project.compose("up -d").success();
        eventually("all have ended", || {
            let states = project.fields("Service", "State");
            states.values().all(|state| state == "exited")
        });
        for words in ["logs -t --no-log-prefix", "logs -f -t --no-log-prefix"] {
            let logs = project.compose(words).success().stdout;
            let times: Vec<&str> = logs
                .lines()
                .map(|line| line.split(' ').next().unwrap())
                .collect();
            assert_eq!(times.len(), 18, "{logs}");
            assert!(times.is_sorted(), "{words}:\n{logs}");
        }
        let _down = project.compose("down").success();
    });
}

#[test]
fn followed_logs_go_on_over_restarts_and_recreations() {
    World::run(|world| {
        world.import_image("default");
        let file = |value: &str| {
            format!(
                "services:\n  app:\n    image: demo\n    stop_grace_period: 0s\n    environment: {{VALUE: {value}}}\n    command: sh -c 'echo begin $$VALUE; sleep infinity'\n"
            )
        };
        let project = world.project("followed", &file("one"));
        let _up = project.compose("up -d").success();
        let follower = project.command(["logs", "-f", "--no-log-prefix"]).start();
        let _restart = project.compose("restart app").success();
        project.write("compose.yaml", &file("two"));
        let _up = project.compose("up -d").success();
        eventually("the new container has written", || {
            let logs = project.compose("logs --no-log-prefix").success();
            logs.stdout == "begin two\n"
        });
        // With the only container for good, it ends by itself.
        let _stop = project.compose("stop").success();
        let followed = follower.finish().success();
        let lines: Vec<&str> = followed
            .stdout
            .lines()
            .filter(|line| line.starts_with("begin"))
            .collect();
        assert_eq!(lines, ["begin one", "begin one", "begin two"], "{followed}");
        let _down = project.compose("down").success();
    });
}
