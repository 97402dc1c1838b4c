//! Projects that follow their files.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{Project, World, eventually};

/// One service with a variable, and one that nothing changes.
fn file(value: &str) -> String {
    format!(
        "services:
  steady:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
  edited:
    image: demo
    command: sleep infinity
    stop_grace_period: 0s
    environment:
      VALUE: {value}
"
    )
}

/// What the process of a service sees, now.
fn variable(project: &Project<'_>, service: &str) -> String {
    let print = ["exec", "-T", service, "sh", "-c", "echo $VALUE"];
    let printed = project.command(print).run();
    printed.stdout.trim().to_owned()
}

fn becomes(project: &Project<'_>, value: &str) {
    eventually(&format!("VALUE={value}"), || {
        variable(project, "edited") == value
    });
}

fn ids(project: &Project<'_>) -> std::collections::BTreeMap<String, String> {
    project.fields("Service", "ID")
}

fn log(world: &World, project: &str) -> String {
    let path = format!("state/lib/projects/{project}/supervisor.log");
    fs::read_to_string(world.path(path)).unwrap_or_default()
}

/// As editors do: a new file takes the place of the old one.
fn save(path: &Path, text: &str) {
    let new = path.with_extension("new~");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn an_edit_is_followed_with_the_least_change_however_it_is_saved() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let _up = project.compose("up -d --live").success();
        let listed = project.compose("ls").success();
        assert!(listed.stdout.contains("running(2), live"), "{listed}");
        let before = ids(&project);

        project.write("compose.yaml", &file("two"));
        becomes(&project, "two");
        let path = world.path("projects/live/compose.yaml");
        save(&path, &file("three"));
        becomes(&project, "three");
        // The folder itself is replaced, as by a deployment.
        let folder = world.path("projects/live");
        let next = world.path("projects/next");
        fs::create_dir(&next).unwrap();
        fs::write(next.join("compose.yaml"), file("four")).unwrap();
        fs::rename(&folder, world.path("projects/old")).unwrap();
        fs::rename(&next, &folder).unwrap();
        becomes(&project, "four");
        save(&path, &file("five"));
        becomes(&project, "five");
        assert_eq!(ids(&project)["steady"], before["steady"]);

        let _down = project.compose("down").success();
        assert!(!world.path("state/lib/projects/live/live.json").exists());
    });
}

#[test]
fn services_come_and_go_with_the_file_and_found_files_count() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let _up = project.compose("up -d --live").success();
        // A file that was not there when it began.
        project.write(
            "compose.override.yaml",
            "services: {more: {image: demo, command: sleep infinity, stop_grace_period: 0s}}",
        );
        eventually("a third service", || ids(&project).contains_key("more"));
        fs::remove_file(world.path("projects/live/compose.override.yaml")).unwrap();
        eventually("two services", || !ids(&project).contains_key("more"));
        let shorter = file("one").split("  edited:").next().unwrap().to_owned();
        project.write("compose.yaml", &shorter);
        eventually("one service", || ids(&project).len() == 1);
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_wrong_edit_changes_nothing_and_is_told_until_it_is_put_right() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let _up = project.compose("up -d --live").success();
        let before = ids(&project);
        project.write(
            "compose.yaml",
            &file("two").replace("image: demo", "imag: demo"),
        );
        let mut told = String::new();
        eventually("the diagnostic", || {
            told = project.compose("-p live ps").success().stderr;
            told.contains("compose.yaml:3:5")
        });
        assert!(log(world, "live").contains("compose.yaml:3:5"), "{told}");
        project.write("compose.yaml", &file("two"));
        becomes(&project, "two");
        assert_eq!(ids(&project)["steady"], before["steady"]);
        eventually("no diagnostic", || {
            !project
                .compose("ps")
                .success()
                .stderr
                .contains("compose.yaml:3:5")
        });
        let _down = project.compose("down").success();
    });
}

/// What was told of containers and of the following of files, as `edited start`, in the order of time.
fn events(project: &Project<'_>, services: &[&str]) -> Vec<String> {
    let words = ["-p", "live", "events", "--json", "--until", "0s"];
    let told = project.command(words.iter().chain(services)).run();
    let told = told.success().stdout;
    let events = told.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let [kind, action, service] = ["type", "action", "service"].map(|key| {
            let text = event[key].as_str();
            text.unwrap_or_else(|| panic!("no {key}: {line}"))
                .to_owned()
        });
        match kind.as_str() {
            "live" => Some(match event["attributes"]["reason"].as_str() {
                Some(reason) => format!("live {action}: {reason}"),
                None => format!("live {action}"),
            }),
            "container" => Some(format!("{service} {action}")),
            _ => None,
        }
    });
    events.collect()
}

#[test]
fn events_tell_what_an_edit_has_led_to() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let _up = project.compose("up -d --live").success();
        let told = |count: usize| {
            let mut seen = Vec::new();
            eventually("the word of a reload", || {
                seen = events(&project, &[]);
                let live = seen.iter().filter(|event| event.starts_with("live "));
                live.count() == count
            });
            seen
        };
        // The supervisor has looked whether anything was saved while it began.
        let begun = told(1);
        assert_eq!(begun.last().unwrap(), "live reload");
        project.write("compose.yaml", &file("two"));
        let edited = told(2);
        assert_eq!(
            edited[begun.len()..],
            [
                "edited create",
                "edited kill",
                "edited die",
                "edited stop",
                "edited start",
                "edited destroy",
                "live reload",
            ]
        );
        project.write(
            "compose.yaml",
            &file("three").replace("image: demo", "imag: demo"),
        );
        let refused = told(3);
        let news = &refused[edited.len()..];
        assert_eq!(news.len(), 1, "{news:?}");
        assert!(news[0].starts_with("live refuse: "), "{news:?}");
        assert!(news[0].contains("compose.yaml:3:5"), "{news:?}");
        let text = project.compose("-p live events --since 10m --until 0s");
        let text = text.success().stdout;
        let last = text.lines().last().unwrap();
        assert!(last.contains(" live refuse (problems="), "{text}");

        // What cannot be done is told, too, and what ran runs on.
        project.write(
            "compose.yaml",
            &file("three").replace("image: demo", "image: nothing-like-that"),
        );
        let failed = told(4);
        let news = failed.last().unwrap();
        assert!(news.starts_with("live refuse: "), "{news}");
        assert!(news.contains("nothing-like-that"), "{news}");
        assert_eq!(variable(&project, "edited"), "two");
        project.write("compose.yaml", &file("four"));
        let mended = told(5);
        assert_eq!(mended.last().unwrap(), "live reload");
        let of_edited = mended.iter().filter(|event| event.starts_with("edited "));
        let of_edited: Vec<&String> = of_edited.collect();
        assert_eq!(
            events(&project, &["edited"]).iter().collect::<Vec<_>>(),
            of_edited
        );
        let _down = project.compose("down").success();
    });
}

#[test]
fn variables_and_their_files_are_followed() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("${VALUE:-none}-${SHELL_VALUE}"));
        project.write(".env", "VALUE=one");
        let up = ["up", "-d", "--live"];
        let _up = project
            .command(up)
            .env("SHELL_VALUE", "shell")
            .env("UNUSED_PASSWORD", "hidden")
            .run()
            .success();
        assert_eq!(variable(&project, "edited"), "one-shell");
        let record = world.path("state/lib/projects/live/live.json");
        let text = fs::read_to_string(record).unwrap();
        assert!(
            text.contains("SHELL_VALUE") && !text.contains("hidden"),
            "{text}"
        );
        project.write(".env", "VALUE=two");
        becomes(&project, "two-shell");

        project.write("edited.env", "VALUE=three");
        let with_file = file("x").replace("environment:\n      VALUE: x", "env_file: edited.env");
        project.write("compose.yaml", &with_file);
        becomes(&project, "three");
        project.write("edited.env", "VALUE=four");
        becomes(&project, "four");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_killed_worker_goes_on_following() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let _up = project.compose("up -d --live").success();
        let before = ids(&project);
        assert!(world.kill("--worker") > 0);
        project.write("compose.yaml", &file("two"));
        becomes(&project, "two");
        // Keeper and worker: the next command of any kind brings both back.
        assert!(world.kill("supervisor --project live") > 1);
        project.write("compose.yaml", &file("three"));
        let _ps = project.compose("ps").success();
        becomes(&project, "three");
        assert_eq!(ids(&project)["steady"], before["steady"]);
        let _down = project.compose("down").success();
    });
}

#[test]
fn what_was_stopped_and_what_is_done_is_left_alone() {
    World::run(|world| {
        world.import_image("default");
        let job = "  job: {image: demo, command: 'true'}\n";
        let project = world.project("live", &format!("{}{job}", file("one")));
        let _up = project.compose("up -d --live").success();
        eventually("the job is done", || {
            project.fields("Service", "State")["job"] == "exited"
        });
        let _stopped = project.compose("stop steady").success();
        project.write("compose.yaml", &format!("{}{job}", file("two")));
        becomes(&project, "two");
        let states = project.fields("Service", "State");
        assert_eq!((&*states["job"], &*states["steady"]), ("exited", "exited"));
        // A stop of the whole project ends it.
        let _stopped = project.compose("stop").success();
        assert!(!world.path("state/lib/projects/live/live.json").exists());
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_attached_up_follows_too_and_stops_what_came_later() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &file("one"));
        let up = project.command(["up", "--watch"]).start();
        eventually("two services", || {
            project.fields("Service", "State").len() == 2 && variable(&project, "edited") == "one"
        });
        project.write("compose.yaml", "services: {edited: {image: [demo}}");
        let more = "  more: {image: demo, command: sleep infinity, stop_grace_period: 0s}\n";
        project.write("compose.yaml", &format!("{}{more}", file("two")));
        becomes(&project, "two");
        eventually("three services", || ids(&project).len() == 3);
        up.signal(Signal::INT);
        let output = up.finish();
        assert_eq!(output.status.code(), Some(130), "{output}");
        let states = project.fields("Service", "State");
        assert!(states.values().all(|state| state == "exited"), "{states:?}");
        let _down = project.compose("down").success();
    });
}

/// A service that notes the signal HUP, with a config from a file.
fn with_config(on_change: &str) -> String {
    format!(
        "services:
  edited:
    image: demo
    init: true
    command: sh -c 'trap \"echo told >>/told\" HUP; echo run >>/runs; while :; do sleep 0.1; done'
    stop_grace_period: 0s
    configs: [app]
configs:
  app:
    file: ./app.conf
    {on_change}
"
    )
}

#[test]
fn changed_content_reaches_a_container_as_its_config_says() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("live", &with_config("x-on-change: signal:SIGHUP"));
        project.write("app.conf", "one");
        let _up = project.compose("up -d --live").success();
        let first = ids(&project);
        let read = |path: &str| {
            let words = ["exec", "-T", "edited", "cat", path];
            project.command(words).run().stdout
        };
        eventually("it runs", || read("/runs") == "run\n");

        save(&world.path("projects/live/app.conf"), "two");
        eventually("the signal", || read("/told") == "told\n");
        assert_eq!(
            (read("/app"), ids(&project)),
            ("two".to_owned(), first.clone())
        );

        // The reaction itself is no change of the container.
        project.write("compose.yaml", &with_config("x-on-change: restart"));
        let plan = project.compose("plan --detailed-exitcode").success();
        assert!(plan.stdout.contains("up to date"), "{plan}");
        project.write("app.conf", "three");
        eventually("a restart", || read("/runs") == "run\nrun\n");
        assert_eq!(
            (read("/app"), ids(&project)),
            ("three".to_owned(), first.clone())
        );

        project.write("compose.yaml", &with_config(""));
        project.write("app.conf", "four");
        eventually("a new container", || {
            read("/app") == "four" && ids(&project) != first
        });

        project.write("compose.yaml", &with_config("x-on-change: sometimes"));
        let refused = project.compose("config").failure();
        assert!(refused.stderr.contains("compose.yaml:11:18"), "{refused}");
        project.write("compose.yaml", &with_config(""));
        let _down = project.compose("down").success();
    });
}

#[test]
fn limits_labels_restart_policy_and_health_change_under_a_running_process() {
    World::run(|world| {
        world.import_image("default");
        let file = |settings: &str| {
            format!(
                "services:
  edited:
    image: demo
    init: true
    command: sh -c 'echo run >>/runs; exec sleep 1004'
    stop_grace_period: 0s
    {settings}
"
            )
        };
        let project = world.project("live", &file("mem_limit: 64m"));
        let _up = project.compose("up -d").success();
        let before = ids(&project);
        let after = "mem_limit: 96m
    cpus: 0.5
    pids_limit: 77
    labels: {tier: back}
    restart: always
    healthcheck: {test: ['CMD', 'true'], interval: 100ms}";
        project.write("compose.yaml", &file(after));
        let plan = project.compose("plan").success();
        assert!(plan.stdout.contains("1 to update"), "{plan}");
        let _up = project.compose("up -d --wait").success();
        assert_eq!(ids(&project), before);
        assert_eq!(project.fields("Service", "Health")["edited"], "healthy");

        let read = |paths: &str| {
            let script = format!("cat {paths} 2>/dev/null");
            let words = ["exec", "-T", "edited", "sh", "-c", &script];
            project.command(words).run().stdout
        };
        let limit =
            |old: &str, new: &str| read(&format!("/sys/fs/cgroup/{old} /sys/fs/cgroup/{new}"));
        assert_eq!(
            limit("memory/memory.limit_in_bytes", "memory.max").trim(),
            (96 << 20).to_string()
        );
        assert_eq!(limit("pids/pids.max", "pids.max").trim(), "77");
        let cpu = limit("cpu/cpu.cfs_quota_us", "cpu.max");
        assert_eq!(cpu.split_whitespace().next(), Some("50000"));
        let listed = world.ctr(["containers", "list", "--quiet"]).run().success();
        let info = world
            .ctr(["containers", "info", listed.stdout.trim()])
            .run()
            .success();
        assert!(info.stdout.contains("\"tier\": \"back\""), "{info}");
        // The policy is the new one.
        assert!(world.kill("sleep 1004") > 0);
        eventually("a second run", || read("/runs") == "run\nrun\n");
        let _down = project.compose("down").success();
    });
}

#[test]
fn a_fix_reaches_a_container_that_has_crashed() {
    World::run(|world| {
        world.import_image("default");
        let text = "services:
  edited:
    image: demo
    init: true
    restart: always
    command: sh /app/main.sh
    stop_grace_period: 0s
    develop:
      watch: [{path: ./src, action: sync, target: /app, initial_sync: true}]
";
        let project = world.project("crash", text);
        fs::create_dir_all(world.path("projects/crash/src")).unwrap();
        project.write("src/main.sh", "exit 1");
        let watch = project.command(["watch"]).start();
        let restarts = || project.compose("ps -a").stdout.contains("Restarting (1)");
        eventually("a program that does not run", restarts);
        project.write("src/main.sh", "exec sleep 1007");
        eventually("one that does", || {
            project.fields("Name", "State")["crash-edited-1"] == "running"
        });
        watch.signal(Signal::INT);
        let _output = watch.finish();
        let _down = project.compose("down").success();
    });
}

#[test]
fn source_files_reach_a_container_without_its_help() {
    World::run(|world| {
        world.import_image("default");
        let text = "services:
  edited:
    image: demo
    init: true
    command: sh -c 'echo run >>/runs; exec sleep 1005'
    stop_grace_period: 0s
    develop:
      watch:
        - {path: ./src, action: sync, target: /app, ignore: [skip/], initial_sync: true}
        - {path: ./conf, action: sync+restart, target: /conf}
        - {path: ./hook, action: sync+exec, target: /hook, exec: {command: [sh, -c, 'cat /hook/* >/hooked']}}
        - {path: ./restart, action: restart}
";
        let project = world.project("live", text);
        let folder = world.path("projects/live");
        for name in ["src/deep", "src/skip", "conf", "hook", "restart"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        project.write("src/deep/first", "1");
        project.write("src/skip/never", "1");
        let read = |path: &str| {
            let words = ["exec", "-T", "edited", "cat", path];
            project.command(words).run().stdout
        };
        let watch = project.command(["watch"]).start();
        eventually("initial_sync", || read("/app/deep/first") == "1");

        let owned = ["exec", "-T", "edited", "chown", "5:6", "/app/deep/first"];
        let _owned = project.command(owned).run().success();
        project.write("src/deep/first", "2");
        fs::create_dir(folder.join("src/new")).unwrap();
        project.write("src/new/second", "2");
        eventually("a sync", || {
            read("/app/deep/first") == "2" && read("/app/new/second") == "2"
        });
        let stat = [
            "exec",
            "-T",
            "edited",
            "stat",
            "-c",
            "%u:%g",
            "/app/deep/first",
        ];
        assert_eq!(project.command(stat).run().success().stdout, "5:6\n");

        fs::rename(folder.join("src/new"), folder.join("src/moved")).unwrap();
        fs::remove_file(folder.join("src/deep/first")).unwrap();
        eventually("a rename and a delete", || {
            read("/app/moved/second") == "2"
                && read("/app/new/second").is_empty()
                && read("/app/deep/first").is_empty()
        });
        project.write("hook/file", "called");
        eventually("a command", || read("/hooked") == "called");
        project.write("conf/file", "new");
        eventually("a restart after a sync", || {
            read("/runs") == "run\nrun\n" && read("/conf/file") == "new"
        });
        project.write("restart/now", "");
        eventually("a restart", || read("/runs") == "run\nrun\nrun\n");
        assert_eq!(read("/app/skip/never"), "");

        // An edit of the file makes a new container, which gets what the old one had.
        project.write("compose.yaml", &text.replace("sleep 1005", "sleep 1006"));
        eventually("a new container with the files", || {
            read("/runs") == "run\n" && read("/app/moved/second") == "2"
        });
        watch.signal(Signal::INT);
        let output = watch.finish();
        assert!(
            output.stderr.contains("Syncing service \"edited\""),
            "{output}"
        );
        let _down = project.compose("down").success();
    });
}
