//! Commands in containers of their own, and those attached to a container: `run` and `attach`.

use std::time::Duration;

use rustix::process::Signal;

use crate::world::{Output, Project, Registry, World, eventually, processes_in};

const SHOP: &str = "
services:
  db:
    image: demo
    init: true
    command: sleep infinity
    healthcheck: {test: [CMD, test, -e, /srv], interval: 1s}
  web:
    image: demo
    init: true
    restart: always
    command: sh -c 'echo serving; exec sleep infinity'
    environment: {A: file, B: file}
    ports: ['18080:80']
    volumes: [/anonymous, 'data:/data']
    depends_on: {db: {condition: service_healthy}}
  echo:
    image: demo
    stdin_open: true
    command: cat
  shell:
    image: demo
    tty: true
    stdin_open: true
    command: sh
volumes:
  data: {}
";

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Names of all containers.
fn names(project: &Project<'_>) -> Vec<String> {
    project.fields("Name", "State").into_keys().collect()
}

#[test]
fn output_input_and_exit_code_are_passed_on_byte_by_byte() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("streams", SHOP);
        let words = ["run", "--rm", "--no-deps", "-q", "web", "sh", "-c"];
        let run = project
            .command(words)
            .arg("echo out; echo err >&2; exit 7")
            .run();
        assert_eq!(
            (code(&run), run.stdout.as_str()),
            (Some(7), "out\n"),
            "{run}"
        );
        assert!(run.stderr.ends_with("err\n"), "{run}");
        let killed = project.command(words).arg("kill -9 $$").run();
        assert_eq!(code(&killed), Some(137), "{killed}");
        for (command, expected) in [("nosuch", 127), ("/etc", 126)] {
            let run = project.command(&words[..5]).arg(command).run();
            assert_eq!(code(&run), Some(expected), "{run}");
        }
        // What fails earlier leaves nothing either: the supervisor has nothing to look after, and ends.
        let _refused = project
            .compose("run --no-deps -u nosuch web true")
            .failure();
        eventually("the end of the supervisor", || {
            let processes = processes_in(world.name());
            let mut lines = processes.iter().map(|(_, line)| line);
            !lines.any(|line| line.contains(" supervisor --project streams"))
        });
        // Neither lines nor characters, and more than fits in a pipe.
        let script = "head -c 3000000 /dev/urandom >in; \
            $0 run --rm --no-deps -T web sh -c 'cat; printf end' <in >out; \
            printf end >>in; cmp in out && echo same";
        let same = project.script(script).run().success();
        assert_eq!(same.stdout, "same\n", "{same}");
        let slow = "$0 run --rm --no-deps web seq 1 300000 | (sleep 2; sha256sum); seq 1 300000 | sha256sum";
        let sums = project.script(slow).run().success();
        let sums: Vec<_> = sums.stdout.lines().collect();
        assert_eq!(sums[0], sums[1]);
        let closed = project
            .script("echo x | $0 run --rm --no-deps -i=false web cat")
            .run()
            .success();
        assert_eq!(closed.stdout, "");
        assert_eq!(names(&project), Vec::<String>::new());
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_run_has_its_own_name_labels_and_settings_and_waits_for_its_dependencies() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("ownrun", SHOP);
        project.write("vars", "A=vars\nC=${A}x\n");
        let words = [
            "run",
            "-e",
            "A=flag",
            "--env-from-file",
            "vars",
            "-l",
            "tier=test",
            "-v",
            "./vars:/vars:ro",
            "-v",
            "other:/other",
            "-w",
            "/srv",
            "-u",
            "7:8",
            "--cap-drop",
            "CHOWN",
            "--entrypoint",
            "sh -c",
            "web",
        ];
        let script = "echo $A $B $C $(pwd) $(id -u):$(id -g); cat /vars | wc -l; ls -d /other";
        let run = project.command(words).arg(script).run().success();
        assert_eq!(run.stdout, "flag file flagx /srv 7:8\n2\n/other\n", "{run}");
        assert!(
            run.stderr.contains("Container ownrun-db-1 Healthy"),
            "{run}"
        );
        let all = project.containers();
        let job = all.iter().find(|one| one["Service"] == "web").unwrap();
        let name = job["Name"].as_str().unwrap();
        let slug = name.strip_prefix("ownrun-web-run-").unwrap();
        assert!(
            slug.len() == 12 && slug.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name}"
        );
        assert_eq!(
            (&job["State"], &job["Ports"]),
            (&"exited".into(), &"".into())
        );
        let labels = job["Labels"].as_str().unwrap();
        for label in [
            "com.docker.compose.oneoff=True",
            "tier=test",
            &format!("slug={slug}"),
        ] {
            assert!(labels.contains(label), "{label} is not in {labels}");
        }
        assert!(!labels.contains("container-number"), "{labels}");
        // What has ended is told of, and removed on request.
        let up = project.compose("up -d db").success();
        assert!(
            up.stderr
                .contains(&format!("containers of `run` that have ended: {name}")),
            "{up}"
        );
        let _up = project.compose("up -d --remove-orphans db").success();
        assert_eq!(names(&project), ["ownrun-db-1"]);
        let taken = project.compose("run --name ownrun-db-1 web true").failure();
        assert!(taken.stderr.contains("is already in use"), "{taken}");
        let _down = project.compose("down -v").success();
        let _removed = world
            .command("rm")
            .arg("-rf")
            .arg(world.state_root().join("data/volumes/other"))
            .run();
    });
}

#[test]
fn a_run_can_publish_ports_have_the_aliases_other_capabilities_and_a_newer_image() {
    World::run(|world| {
        world.import_image("default");
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        let text = "services:
  web: {image: 'localhost:5000/app:1', stop_grace_period: 0s}
  peer: {image: demo, command: sleep infinity, stop_grace_period: 0s}";
        let project = world.project("flags", text);
        let _up = project.compose("up -d peer").success();

        let serve = "echo hello >/srv/index.html; exec httpd -f -p 8080 -h /srv";
        let run = [
            "run",
            "-d",
            "--use-aliases",
            "-p",
            "8099:8080",
            "web",
            "sh",
            "-c",
            serve,
        ];
        let _run = project.command(run).run().success();
        let page = || world.get("http://127.0.0.1:8099").stdout;
        eventually("a page at the published port", || page() == "hello\n");
        let fetch = "exec -T peer wget -q -O - http://web:8080";
        assert_eq!(project.compose(fetch).success().stdout, "hello\n");

        let capabilities = |flags: &str| {
            let words = format!("run --rm -T {flags} web grep CapEff /proc/self/status");
            let output = project.compose(&words).success();
            output.stdout.trim().rsplit('\t').next().unwrap().to_owned()
        };
        // Docker's default, and NET_ADMIN (12) beside it or alone.
        assert_eq!(capabilities("--pull never"), "00000000a80425fb");
        assert_eq!(capabilities("--cap-add NET_ADMIN"), "00000000a80435fb");
        assert_eq!(
            capabilities("--cap-drop ALL --cap-add NET_ADMIN"),
            "0000000000001000"
        );

        let _digest = registry.put_layers("app:1", 7, 1, 1000);
        let _old = project.compose("run --rm -T web ls /layer-7").failure();
        let new = project
            .compose("run --rm -T --pull always web ls /layer-7")
            .success();
        assert_eq!(new.stdout, "/layer-7\n");
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn a_detached_run_is_left_alone_by_all_but_down() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("apart", SHOP);
        let run = project.compose("run -d --no-deps -P --name job web sleep infinity");
        let run = run.success();
        assert_eq!(run.stdout.trim().len(), 64, "{run}");
        let id = run.stdout.trim().to_owned();
        assert!(
            project
                .compose("ps -a")
                .stdout
                .contains("0.0.0.0:18080->80/tcp")
        );
        assert_eq!(project.compose("ps -q").success().stdout, "");
        assert_eq!(
            project
                .compose("exec -T web echo in the job")
                .success()
                .stdout,
            "in the job\n"
        );
        for command in ["stop", "restart", "rm -f"] {
            let _done = project.compose(command).success();
            assert_eq!(
                project.fields("Name", "State")["job"],
                "running",
                "{command}"
            );
        }
        assert!(project.fields("Name", "ID")["job"].starts_with(&id[..12]));
        assert_eq!(
            code(&project.compose("exec -T --index 1 web true")),
            Some(1)
        );
        let _down = project.compose("down -v").success();
        assert_eq!(names(&project), Vec::<String>::new());

        let _run = project
            .compose("run -d --rm --no-deps web sleep 1")
            .success();
        eventually("the removal of a job that has ended", || {
            names(&project).is_empty()
        });
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn signals_reach_the_command_and_a_killed_client_leaves_no_container() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("signals", SHOP);
        let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
        let words = ["run", "--rm", "--no-deps", "echo", "sh", "-c", script];
        let run = project.command(words).start();
        let is_ready = || {
            let found = project.containers();
            found.iter().any(|one| one["State"] == "running")
        };
        eventually("a running job", is_ready);
        std::thread::sleep(Duration::from_millis(500));
        run.signal(Signal::TERM);
        let run = run.finish();
        assert_eq!(code(&run), Some(9), "{run}");
        assert!(run.stdout.ends_with("got it\n"), "{run}");

        let run = project
            .command(["run", "--rm", "--no-deps", "web", "sleep", "4711"])
            .start();
        eventually("a running job", is_ready);
        run.signal(Signal::KILL);
        let _killed = run.finish().failure();
        eventually("the removal of an abandoned job", || {
            names(&project).is_empty()
        });
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_run_outlives_its_supervisor() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("replaced", SHOP);
        let script = "echo first; sleep 6; echo last; exit 5";
        let run = project
            .command(["run", "--rm", "--no-deps", "echo", "sh", "-c", script])
            .start();
        eventually("a running job", || {
            project
                .containers()
                .iter()
                .any(|one| one["State"] == "running")
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(world.kill(" supervisor --project replaced") > 0);
        let run = run.finish();
        assert_eq!(code(&run), Some(5), "{run}");
        assert!(run.stdout.ends_with("last\n"), "{run}");
        eventually("the removal", || names(&project).is_empty());
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn a_terminal_has_its_size_and_is_put_back() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("ttys", SHOP);
        let run =
            |steps: &[&str], words: &[&str]| project.terminal(steps, words).run().success().stdout;
        let steps = [
            "expect:/ #",
            "send:stty size; tty\\n",
            "expect:31 97",
            "size:40x100",
            "send:stty size\\n",
            "expect:40 100",
            "send:\\x03",
            "expect:^C",
            "send:exit 3\\n",
        ];
        let shell = run(&steps, &["run", "--rm", "--no-deps", "shell"]);
        assert!(
            shell.ends_with("settings: kept\nleft: []\ncode: 3\n"),
            "{shell}"
        );

        // A signal from outside ends it as well.
        let hung_up = run(
            &["expect:/ #", "signal:1"],
            &["run", "--rm", "--no-deps", "shell"],
        );
        assert!(hung_up.contains("settings: kept\nleft: []\n"), "{hung_up}");
        eventually("the end of what nobody sees", || names(&project).is_empty());

        let _up = project.compose("up -d shell").success();
        let keys = ["send:echo $((6*7))\\n", "expect:42", "send:\\x10\\x11"];
        let attached = run(&keys, &["attach", "shell"]);
        assert!(
            attached.ends_with("settings: kept\nleft: []\ncode: 0\n"),
            "{attached}"
        );
        assert_eq!(project.fields("Service", "State")["shell"], "running");
        let piped = project.compose("attach shell").failure();
        assert!(
            piped.stderr.contains("the input device is not a TTY"),
            "{piped}"
        );
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn attach_gives_input_passes_signals_on_and_ends_with_the_container() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("attached", SHOP);
        let _up = project.compose("up -d echo db").success();
        let script = "(echo hello; sleep 2) | timeout -s KILL 3 $0 attach --sig-proxy=false echo";
        let attached = project.script(script).run();
        assert_eq!(attached.stdout, "hello\n", "{attached}");
        assert_eq!(project.fields("Service", "State")["echo"], "running");

        let attached = project.command(["attach", "db"]).start();
        std::thread::sleep(Duration::from_secs(1));
        attached.signal(Signal::TERM);
        let attached = attached.finish();
        assert_eq!(code(&attached), Some(143), "{attached}");
        assert_eq!(project.fields("Service", "State")["db"], "exited");
        for words in ["attach db", "attach --index 5 echo"] {
            let refused = project.compose(words).failure();
            assert!(refused.stderr.contains("is not running"), "{refused}");
        }
        let _down = project.compose("down -v").success();
    });
}

#[test]
fn keys_follow_the_files_of_an_attached_up_and_let_go_of_it() {
    World::run(|world| {
        world.import_image("default");
        let file = "services:
  app:
    image: demo
    init: true
    stop_grace_period: 0s
    command: sh -c 'echo ready $$LEVEL; exec sleep 1008'
    environment: {LEVEL: one}
";
        let project = world.project("keys", file);
        let steps = [
            "expect:ready one",
            "expect:d Detach",
            "send:w",
            "expect:Watch enabled",
            "expect:ready two",
            "send:w",
            "expect:Watch disabled",
            "send:d",
        ];
        let up = project.terminal(&steps, &["up"]).start();
        // Nothing is done with the edit before the files are followed.
        eventually("the container", || {
            project.compose("ps -q").stdout.lines().count() == 1
        });
        let mut edited = file.replace("LEVEL: one", "LEVEL: two");
        eventually("an edit to be noticed", || {
            edited.push_str("# again\n");
            project.write("compose.yaml", &edited);
            // Not at once: an edit gives up what the one before it began.
            std::thread::sleep(Duration::from_secs(2));
            project.compose("logs").stdout.contains("ready two")
        });
        let shown = up.finish().success().stdout;
        assert!(
            shown.ends_with("settings: kept\nleft: []\ncode: 0\n"),
            "{shown}"
        );
        assert_eq!(project.fields("Name", "State")["keys-app-1"], "running");
        let _down = project.compose("down").success();
    });
}

#[test]
fn an_attached_up_stops_at_the_first_ctrl_c_and_kills_at_the_second() {
    World::run(|world| {
        world.import_image("default");
        let stubborn = "
services:
  polite:
    image: demo
    command: sh -c 'trap \"echo bye; exit 0\" TERM; echo ready; while :; do sleep 0.1; done'
  stubborn:
    image: demo
    stop_grace_period: 1m
    command: sh -c 'trap \"echo never\" TERM; echo ready; while :; do sleep 0.1; done'
";
        let project = world.project("ctrlc", stubborn);
        let run =
            |steps: &[&str], words: &[&str]| project.terminal(steps, words).run().success().stdout;
        let steps = ["expect:ready", "send:\\x03", "expect:bye"];
        let graceful = run(&steps, &["up", "polite"]);
        assert!(
            graceful.ends_with("settings: kept\nleft: []\ncode: 130\n"),
            "{graceful}"
        );
        let steps = [
            "expect:ready",
            "send:\\x03",
            "expect:never",
            "send:\\x03",
            "expect:exited with code 137",
        ];
        let killed = run(&steps, &["up", "stubborn"]);
        assert!(
            killed.ends_with("settings: kept\nleft: []\ncode: 130\n"),
            "{killed}"
        );
        let _down = project.compose("down").success();
    });
}

#[test]
fn what_a_killed_exec_ran_is_ended_and_hangs_nothing() {
    World::run(|world| {
        world.import_image("default");
        let project = world.project("execs", SHOP);
        let _up = project.compose("up -d db").success();
        let exec = project
            .command(["exec", "-T", "db", "sh", "-c", "yes 4712"])
            .start();
        let runs = || {
            let top = project.compose("exec -T db ps").success().stdout;
            top.contains("yes 4712")
        };
        eventually("the process", runs);
        exec.signal(Signal::KILL);
        let _killed = exec.finish().failure();
        eventually("its end", || !runs());
        let _down = project.compose("down -v").success();
    });
}
