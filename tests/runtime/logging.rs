//! Logging drivers that send, with somebody who receives.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::world::{Running, World, eventually, source};

/// Somebody who writes down what comes.
struct Receiver {
    running: Running,
    file: PathBuf,
}

impl Receiver {
    fn start(world: &World, kind: &str, address: &str) -> Self {
        let file = world.path(format!("received-{kind}"));
        let running = world
            .command("python3")
            .arg(source("tests/runtime/world/receive.py"))
            .args([kind, address])
            .arg(&file)
            .start();
        // Made when it listens.
        eventually("a receiver", || file.exists());
        Self { running, file }
    }

    fn text(&self) -> String {
        String::from_utf8(fs::read(&self.file).unwrap()).unwrap()
    }

    #[track_caller]
    fn lines(&self, count: usize) -> Vec<String> {
        eventually("the lines", || self.text().lines().count() >= count);
        self.text().lines().map(str::to_owned).collect()
    }

    fn end(self) {
        self.running.signal(Signal::TERM);
        let _output = self.running.finish();
    }
}

const TALKS: &str = "{image: demo, command: [sh, -c, 'echo out; echo; echo oh >&2; printf last'], \
     logging: {driver: syslog, options: OPTIONS}}";

#[test]
fn syslog_receives_every_line_in_the_format_that_was_asked_for() {
    World::run(|world| {
        world.import_image("default");
        let socket = world.path("receiver/log");
        let gram = Receiver::start(world, "unixgram", socket.to_str().unwrap());
        let udp = Receiver::start(world, "udp", "5514");
        let tcp = Receiver::start(world, "tcp", "5514");
        let local = Receiver::start(world, "unix", "/run/systemd/journal/dev-log");
        let with = |options: &str| TALKS.replace("OPTIONS", options);
        let gram_options = format!(
            "{{syslog-address: 'unixgram://{}', syslog-format: rfc5424micro, \
             syslog-facility: local3, tag: '{{{{.ImageName}}}}/{{{{upper .Name}}}}'}}",
            socket.display()
        );
        let services = [
            ("gram", gram_options.as_str()),
            (
                "udp",
                "{syslog-address: 'udp://127.0.0.1:5514', syslog-format: rfc3164, tag: t}",
            ),
            (
                "tcp",
                "{syslog-address: 'tcp://localhost:5514', syslog-format: rfc5424, mode: non-blocking}",
            ),
            (
                "stream",
                "{syslog-address: 'unix:///run/systemd/journal/dev-log', tag: '{{.DaemonName}}'}",
            ),
        ];
        let services = services.map(|(name, options)| format!("  {name}: {}\n", with(options)));
        let text = format!("services:\n{}", services.concat());
        let project = world.project("talk", &text);
        let _up = project.compose("up -d").success();

        // (priorities, a part of each line)
        let expectations = [
            (
                &gram,
                [158, 155],
                "docker.io/library/demo:latest/TALK-GRAM-1 ",
            ),
            (&udp, [30, 27], " t["),
            (&tcp, [30, 27], " - "),
            (&local, [30, 27], " docker["),
        ];
        for (receiver, [out, err], part) in expectations {
            let mut lines = receiver.lines(3);
            assert!(lines.iter().all(|line| line.contains(part)), "{lines:?}");
            lines.sort();
            let ends: Vec<_> = lines
                .iter()
                .map(|line| {
                    let (priority, rest) = line.split_once('>').unwrap();
                    (
                        priority.to_owned(),
                        rest.rsplit_once(' ').unwrap().1.to_owned(),
                    )
                })
                .collect();
            let line = |priority: i32, text: &str| (format!("<{priority}"), text.to_owned());
            let mut expected = [line(out, "out"), line(err, "oh"), line(out, "last")];
            expected.sort();
            let mut ends = ends;
            ends.sort();
            assert_eq!(ends, expected, "{lines:?}");
        }

        // What was sent can be read here as well.
        let logs = project.compose("logs --no-log-prefix gram").success();
        let mut lines: Vec<_> = logs.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["", "last", "oh", "out"], "{logs}");
        let _down = project.compose("down").success();
        for receiver in [gram, udp, tcp, local] {
            receiver.end();
        }
    });
}

#[test]
fn the_journal_receives_dockers_fields() {
    World::run(|world| {
        world.import_image("default");
        let text =
            "services: {web: {image: demo, labels: {my.tier: front}, environment: {MODE: fast},
            command: [sh, -c, 'echo out; echo oh >&2'],
            logging: {driver: journald, options: {tag: '{{.Name}}', labels: my.tier, env: MODE}}}}";
        let project = world.project("talk", text);
        let refused = project.compose("up -d").failure();
        let expected = "logging.driver: `journald` is not valid: the journal does not run";
        assert!(refused.stderr.contains(expected), "{refused}");

        let journal = Receiver::start(world, "unixgram", "/run/systemd/journal/socket");
        let _up = project.compose("up -d").success();
        let id = project.fields("Service", "ID")["web"].clone();
        let mut entries = String::new();
        eventually("both entries", || {
            entries = journal.text();
            entries.contains("MESSAGE=out\n") && entries.contains("MESSAGE=oh\n")
        });
        for field in [
            "CONTAINER_NAME=talk-web-1",
            "CONTAINER_TAG=talk-web-1",
            "SYSLOG_IDENTIFIER=talk-web-1",
            "IMAGE_NAME=docker.io/library/demo:latest",
            "MY_TIER=front",
            "MODE=fast",
            &format!("CONTAINER_ID={id}"),
        ] {
            assert_eq!(
                entries.lines().filter(|line| *line == field).count(),
                2,
                "{entries}"
            );
        }
        for priority in ["PRIORITY=6", "PRIORITY=3"] {
            assert!(entries.contains(priority), "{entries}");
        }
        let logs = project.compose("logs --no-log-prefix").success();
        assert!(logs.stdout.contains("out\n"), "{logs}");
        let _down = project.compose("down").success();
        journal.end();
    });
}

#[test]
fn a_container_does_not_start_without_its_receiver_but_outlives_it() {
    World::run(|world| {
        world.import_image("default");
        let text = "services: {web: {image: demo, stop_grace_period: 0s,
            command: [sh, -c, 'while :; do echo tick; sleep 0.1; done'],
            logging: {driver: syslog, options: {syslog-address: 'tcp://127.0.0.1:5514'}}}}";
        let project = world.project("talk", text);
        let refused = project.compose("up -d").failure();
        assert!(
            refused.stderr.contains("cannot reach tcp://127.0.0.1:5514"),
            "{refused}"
        );
        let first = Receiver::start(world, "tcp", "5514");
        let _up = project.compose("up -d").success();
        let ticks = first.lines(2);
        assert!(ticks[0].ends_with("]: tick"), "{ticks:?}");

        first.end();
        fs::remove_file(world.path("received-tcp")).unwrap();
        let kept = || project.compose("logs").success().stdout.lines().count();
        let before = kept();
        eventually("it goes on", || kept() > before + 5);
        assert_eq!(project.fields("Service", "State")["web"], "running");
        let second = Receiver::start(world, "tcp", "5514");
        let _ticks = second.lines(2);

        // Neither does the death of the supervisor end it.
        assert!(world.kill(" --worker") >= 1);
        fs::write(&second.file, "").unwrap();
        let _ps = project.compose("ps").success();
        let _ticks = second.lines(2);

        project.write("compose.yaml", &text.replace("tcp://", "pigeon://"));
        let wrong = project.compose("up -d").failure();
        let expected = "logging.options.syslog-address: `pigeon://127.0.0.1:5514` is not valid";
        assert!(wrong.stderr.contains(expected), "{wrong}");
        assert_eq!(project.fields("Service", "State")["web"], "running");
        let _down = project.compose("down").success();
        second.end();
    });
}
