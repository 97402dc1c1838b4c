//! Registries that break, refuse, or cannot be found.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::registry::{leases, one_service, trust};
use crate::world::{Door, Registry, World, eventually};

/// Digests of unfinished blobs.
fn ingests(world: &World) -> Vec<String> {
    let listed = world.ctr(["content", "active"]).run().success();
    let lines = listed.stdout.lines().skip(1);
    lines.map(str::to_owned).collect()
}

#[test]
fn a_broken_connection_is_resumed_where_it_ended() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 3_000_000);
        registry.faults(&json!([
            {"path": "/blobs/", "fault": "cut", "after": 1_000_000, "times": 2},
        ]));
        let project = world.project("cut", &one_service("localhost:5001/app:1", ""));
        let _pull = project.compose("pull").success();
        let ranges = registry.requests("bytes=");
        assert!(!ranges.is_empty(), "{:#?}", registry.requests(""));
        assert!(
            ranges.iter().all(|line| line.ends_with(" 206")),
            "{ranges:#?}"
        );
        let _up = project.compose("up -d").success();
        let sum = project.compose("exec -T app wc -c /layer-1").success();
        assert_eq!(sum.stdout.split(' ').next(), Some("3000000"));
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn a_registry_that_always_cuts_is_given_up_and_the_next_pull_goes_on() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 4_000_000);
        registry.faults(&json!([
            {"path": "/blobs/", "fault": "cut", "after": 1_500_000, "times": 3},
            {"path": "/blobs/", "fault": "status", "status": 500},
        ]));
        let project = world.project("given-up", &one_service("localhost:5001/app:1", ""));
        // The configuration and the layer of busybox are small: only the last layer is cut.
        let failed = project.compose("pull").failure();
        assert!(failed.stderr.contains("localhost:5001/app:1"), "{failed}");
        assert!(failed.stderr.contains("compose.yaml:3:12"), "{failed}");
        assert!(failed.stderr.contains("status 500"), "{failed}");
        assert_eq!(leases(world), "");
        assert_eq!(ingests(world).len(), 1);
        registry.faults(&json!([]));
        let _pull = project.compose("pull").success();
        assert_eq!(
            registry.requests("bytes=1500000-").len(),
            1 + 5,
            "five attempts, and the one of the next pull"
        );
        assert!(ingests(world).is_empty());
        registry.stop();
    });
}

#[test]
fn an_interrupt_leaves_what_was_fetched_and_nothing_else() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 4_000_000);
        // The first connection ends early, the second one hangs.
        registry.faults(&json!([
            {"path": "/blobs/", "fault": "cut", "after": 2_000_000, "times": 3},
            {"path": "/blobs/", "fault": "slow", "seconds": 20},
        ]));
        let project = world.project("interrupted", &one_service("localhost:5001/app:1", ""));
        let pull = project.command(["pull"]).start();
        eventually("a part of the layer is there", || {
            let size = |ingest: &String| ingest.split_whitespace().nth(1).map(str::to_owned);
            let sizes = ingests(world);
            let mut sizes = sizes.iter().filter_map(size);
            sizes.any(|size| !size.starts_with('0'))
        });
        let started = Instant::now();
        pull.signal(Signal::INT);
        let ended = pull.finish();
        assert_eq!(ended.status.code(), Some(130), "{ended}");
        assert!(started.elapsed() < Duration::from_secs(10), "{ended}");
        assert_eq!(leases(world), "");
        assert!(!ingests(world).is_empty());
        registry.faults(&json!([]));
        let _pull = project.compose("pull").success();
        assert!(!registry.requests("bytes=").is_empty());
        assert!(ingests(world).is_empty());
        registry.stop();
    });
}

#[test]
fn a_registry_without_ranges_will_do() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 3_000_000);
        registry.faults(&json!([
            {"path": "/blobs/", "fault": "cut", "after": 1_000_000, "times": 2},
            {"path": "/blobs/", "fault": "plain"},
        ]));
        let project = world.project("plain", &one_service("localhost:5001/app:1", ""));
        let _pull = project.compose("pull").success();
        registry.stop();
    });
}

#[test]
fn wrong_bytes_are_refused_and_dropped() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        // One layer only: what another one has by then may stay.
        let _digest = registry.put_layers("app:1", 1, 0, 0);
        // The layers first, then the configuration, then the manifest.
        registry.faults(&json!([{"path": "/blobs/", "fault": "wrong", "over": 100_000}]));
        let project = world.project("wrong", &one_service("localhost:5001/app:1", ""));
        let failed = project.compose("up -d").failure();
        assert!(
            failed.stderr.contains("sent something else than sha256:"),
            "{failed}"
        );
        assert!(ingests(world).is_empty());
        assert!(project.containers().is_empty());
        let _down = project.compose("down").success();
        assert_eq!(leases(world), "");
        registry.faults(&json!([{"path": "/blobs/", "fault": "wrong"}]));
        let failed = project.compose("pull").failure();
        assert!(
            failed.stderr.contains("sent something else than sha256:"),
            "{failed}"
        );
        registry.faults(&json!([{"path": "/manifests/", "fault": "wrong"}]));
        let failed = project.compose("pull").failure();
        assert!(
            failed.stderr.contains("sent something else than sha256:"),
            "{failed}"
        );
        registry.faults(&json!([]));
        let _pull = project.compose("pull").success();
        registry.stop();
    });
}

#[test]
fn a_busy_registry_is_given_the_time_that_it_asks_for() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        registry.faults(&json!([
            {"path": "/manifests/", "fault": "status", "status": 429, "headers": {"Retry-After": "2"}, "times": 1},
            {"path": "/blobs/", "fault": "status", "status": 500, "times": 1},
            {"path": "/blobs/", "fault": "status", "status": 503, "times": 1},
        ]));
        let project = world.project("busy", &one_service("localhost:5001/app:1", ""));
        let started = Instant::now();
        let _pull = project.compose("pull").success();
        assert!(started.elapsed() >= Duration::from_secs(2));
        registry.faults(&json!([
            {"path": "/manifests/", "fault": "status", "status": 429, "method": "HEAD", "headers": {"Retry-After": "3600"}},
            {"path": "/manifests/", "fault": "status", "status": 429, "headers": {"Retry-After": "3600"}},
        ]));
        let started = Instant::now();
        let failed = project.compose("pull").failure();
        assert!(started.elapsed() < Duration::from_secs(10), "{failed}");
        assert!(failed.stderr.contains("too many requests"), "{failed}");
        assert!(failed.stderr.contains("in 3600 seconds"), "{failed}");
        registry.stop();
    });
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_nothing() {
    World::run(|world| {
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 4, 700_000);
        let project = world.project("full", &one_service("localhost:5000/app:1", ""));
        let content = world.path("containerd/root/io.containerd.content.v1.content");
        let mount = "mount -t tmpfs -o size=2m tmpfs \"$0\" && mkdir \"$0/ingest\"";
        let _mounted = world
            .command("sh")
            .args(["-c", mount])
            .arg(&content)
            .run()
            .success();
        let failed = project.compose("up -d").failure();
        assert!(failed.stderr.contains("the disk is full"), "{failed}");
        assert_eq!(failed.stderr.matches("error: ").count(), 1, "{failed}");
        assert_eq!(leases(world), "");
        assert!(project.containers().is_empty());

        // With room again, what was fetched is of use or of no harm.
        let _unmounted = world.command("umount").arg(&content).run().success();
        let _up = project.compose("up -d").success();
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn an_image_in_the_first_format_is_refused() {
    World::run(|world| {
        let server = r#"
from http.server import BaseHTTPRequestHandler, HTTPServer
class Old(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": []}'
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    do_HEAD = do_GET
HTTPServer(("127.0.0.1", 5010), Old).serve_forever()"#;
        let server = world.command("python3").args(["-c", server]).start();
        let answers = || world.get("http://127.0.0.1:5010/v2/").status.success();
        eventually("the old registry answers", answers);
        let project = world.project("old", &one_service("localhost:5010/app:1", ""));
        let failed = project.compose("up -d").failure();
        assert!(
            failed.stderr.contains("is in the first Docker format"),
            "{failed}"
        );
        assert!(failed.stderr.contains("compose.yaml:3:12"), "{failed}");
        assert_eq!(leases(world), "");
        server.signal(Signal::KILL);
        let _output = server.finish();
    });
}

#[test]
fn each_kind_of_failure_says_what_to_do() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open(5002, Door::Locked);
        registry.open(5003, Door::Tls);
        let certs = trust(
            world,
            "registry.test:5003",
            "server = \"https://localhost:5003\"\n",
        );
        let table = [
            (
                "localhost:5000/none:1",
                "has no manifest `1`",
                "spelled well",
            ),
            (
                "localhost:5002/app:1",
                "wants credentials",
                "docker login localhost:5002",
            ),
            ("localhost:5009/app:1", "refuses connections", ""),
            (
                "no-such-host.invalid/app:1",
                "cannot be resolved",
                "spelled well",
            ),
            (
                "registry.test:5003/app:1",
                "signed by an unknown authority",
                "hosts.toml",
            ),
        ];
        for (number, (image, problem, hint)) in table.into_iter().enumerate() {
            let project = world.project(&format!("p{number}"), &one_service(image, ""));
            let words = ["pull"];
            let failed = project
                .command(words)
                .env("COMPOSE_HOSTS_DIR", &certs)
                .run()
                .failure();
            assert!(failed.stderr.contains(problem), "{failed}");
            assert!(failed.stderr.contains(hint), "{failed}");
            assert!(
                failed.stderr.contains("wanted by service `app`"),
                "{failed}"
            );
            assert!(failed.stderr.contains("compose.yaml:3:12"), "{failed}");
        }
        registry.stop();
    });
}
