//! The examples with real servers, whose images come from a registry in the place of the public
//! one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use serde_json::{Value, json};

use crate::world::{Output, Project, Registry, Run, World, eventually, source};

/// An example, and the registry that it finds where others find the public one.
struct Stack<'w> {
    world: &'w World,
    project: Project<'w>,
    registry: Registry<'w>,
}

impl<'w> Stack<'w> {
    /// The example of that name, with its images (name of the archive, name in the registry).
    fn new(world: &'w World, example: &str, images: &[(&str, &str)]) -> Self {
        let registry = Registry::start(world);
        for (archive, name) in images {
            let archive = archives().join(archive).with_extension("tar");
            let image = json!({"archive": archive, "whole": true});
            let library = if name.contains('/') { "" } else { "library/" };
            let _digest = registry.put(&format!("{library}{name}"), &image);
        }
        let hosts = world.path("certs.d/docker.io");
        fs::create_dir_all(&hosts).unwrap();
        let text = "server = \"http://127.0.0.1:5000\"\n";
        fs::write(hosts.join("hosts.toml"), text).unwrap();
        Self {
            world,
            project: world.example(example),
            registry,
        }
    }

    fn command(&self, words: &str) -> Run {
        self.project
            .command(words.split(' '))
            .env("COMPOSE_HOSTS_DIR", self.world.path("certs.d"))
    }

    #[track_caller]
    fn compose(&self, words: &str) -> Output {
        let output = self.command(words).run();
        assert!(
            output.status.success(),
            "{output}{}",
            self.command("logs --tail 50").run()
        );
        output
    }

    /// What an address answers with; [`Value::Null`] if that is not JSON.
    fn get(&self, url: &str) -> Value {
        serde_json::from_str(&self.world.get(url).stdout).unwrap_or_default()
    }

    #[track_caller]
    fn post(&self, url: &str, body: &str) {
        let wget = [
            "wget",
            "-Y",
            "off",
            "-q",
            "-O",
            "-",
            "--post-data",
            body,
            url,
        ];
        let _answer = self.world.command("busybox").args(wget).run().success();
    }

    fn ids(&self) -> BTreeMap<String, String> {
        self.project.fields("Name", "ID")
    }

    fn end(self) {
        let _down = self.compose("down -v");
        self.registry.stop();
    }
}

/// The folder with what `scripts/server-images` makes.
fn archives() -> PathBuf {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = Command::new("python3")
            .arg(source("scripts/server-images"))
            .status();
        assert!(made.unwrap().success(), "scripts/server-images failed");
    });
    source("target/server-images")
}

const ORDERS: &str = "http://127.0.0.1:8000/orders";

fn shop(world: &World) -> Stack<'_> {
    let images = [
        ("nginx", "nginx:1"),
        ("postgres", "postgres:15"),
        ("shop", "example-shop:1"),
    ];
    Stack::new(world, "shop", &images)
}

#[test]
fn orders_in_postgres_survive_down_and_up() {
    World::run(|world| {
        let shop = shop(world);
        let _up = shop.compose("up -d --wait");
        let migrated = shop.compose("logs --no-log-prefix migrate");
        assert!(
            migrated
                .stdout
                .contains("2 migration(s) applied, 0 were there"),
            "{migrated}"
        );
        assert_eq!(shop.get(ORDERS), json!([]));
        shop.post(ORDERS, "a blue teapot");
        shop.post(ORDERS, "six cups");
        let orders = json!(["a blue teapot", "six cups"]);
        assert_eq!(shop.get(ORDERS), orders);

        let _down = shop.compose("down");
        let _up = shop.compose("up -d --wait");
        let migrated = shop.compose("logs --no-log-prefix migrate");
        assert!(
            migrated
                .stdout
                .contains("0 migration(s) applied, 2 were there"),
            "{migrated}"
        );
        assert_eq!(shop.get(ORDERS), orders);

        let _down = shop.compose("down -v");
        let _up = shop.compose("up -d --wait");
        assert_eq!(shop.get(ORDERS), json!([]));
        shop.end();
    });
}

#[test]
fn a_killed_postgres_comes_back_and_is_found_by_name() {
    World::run(|world| {
        let shop = shop(world);
        let _up = shop.compose("up -d --wait");
        shop.post(ORDERS, "a blue teapot");
        let orders = json!(["a blue teapot"]);

        let before = shop.project.fields("Service", "ID");
        // Its workers go with it, some before they are reached.
        assert!(world.kill("postgres") >= 1);
        eventually("the database is back", || shop.get(ORDERS) == orders);
        assert_eq!(shop.project.fields("Service", "ID"), before);

        // Another container, with another address, behind the same name.
        let _up = shop.compose("up -d --wait --no-deps --force-recreate db");
        eventually("the new database is found", || shop.get(ORDERS) == orders);
        assert_ne!(shop.project.fields("Service", "ID")["db"], before["db"]);

        // As well for the proxy and a new application.
        let _up = shop.compose("up -d --wait --no-deps --force-recreate app");
        eventually("the new application is found", || {
            shop.get(ORDERS) == orders
        });
        shop.end();
    });
}

const JOBS: &str = "http://127.0.0.1:8000/jobs";

fn queue(world: &World) -> Stack<'_> {
    let images = [("redis", "redis:7"), ("queue", "example-queue:1")];
    Stack::new(world, "queue", &images)
}

/// The texts of the jobs that are done, in their order, once `count` are.
#[track_caller]
fn done(queue: &Stack<'_>, count: usize) -> Vec<Value> {
    let mut jobs = Vec::new();
    eventually("the jobs are done", || {
        let state = queue.get(JOBS);
        jobs = state["done"].as_array().cloned().unwrap_or_default();
        jobs.len() == count && state["waiting"] == 0
    });
    jobs
}

#[test]
fn jobs_in_redis_are_shared_by_three_workers_and_survive_down_and_up() {
    World::run(|world| {
        let queue = queue(world);
        let _up = queue.compose("up -d --wait");
        for number in 0..12 {
            queue.post(JOBS, &format!("job {number}"));
        }
        let jobs = done(&queue, 12);
        let texts: Vec<_> = jobs.iter().map(|job| job["text"].clone()).collect();
        let expected: Vec<_> = (0..12)
            .map(|number| json!(format!("job {number}")))
            .collect();
        assert_eq!(texts, expected);
        let workers: BTreeSet<_> = jobs.iter().map(|job| job["worker"].to_string()).collect();
        assert_eq!(workers.len(), 3, "{jobs:?}");

        // Nobody works when these come.
        let _stopped = queue.compose("stop worker");
        queue.post(JOBS, "before the end");
        assert_eq!(queue.get(JOBS)["waiting"], 1);
        let _down = queue.compose("down");
        let _up = queue.compose("up -d --wait --scale worker=1");
        let jobs = done(&queue, 13);
        assert_eq!(jobs[12]["text"], "before the end");
        assert_eq!(jobs[12]["words"], 3);
        queue.end();
    });
}

#[test]
fn killed_workers_and_a_killed_redis_lose_no_job() {
    World::run(|world| {
        let queue = queue(world);
        let up = queue.command("up -d --wait").env("JOB_SECONDS", "0.5");
        let _up = up.run().success();
        let before = queue.ids();
        for number in 0..6 {
            queue.post(JOBS, &format!("job {number}"));
        }
        // In the middle of three jobs.
        assert!(world.kill("python app.py work") >= 3);
        let _jobs = done(&queue, 6);

        queue.post(JOBS, "while it dies");
        assert!(world.kill("redis-server") >= 1);
        let _jobs = done(&queue, 7);
        assert_eq!(queue.ids(), before, "started again, not replaced");

        // Another container, with another address, behind the same name.
        let _up = queue.compose("up -d --wait --no-deps --force-recreate redis");
        queue.post(JOBS, "for the new one");
        let _jobs = done(&queue, 8);
        queue.end();
    });
}

const PROMETHEUS: &str = "http://127.0.0.1:9090/api/v1";

fn monitoring(world: &World) -> Stack<'_> {
    let images = [
        ("prometheus", "prom/prometheus:v2.42.0"),
        ("node-exporter", "prom/node-exporter:v1.5.0"),
    ];
    Stack::new(world, "monitoring", &images)
}

/// The values of an expression, now or at a time in seconds of the Unix era.
fn measured(monitoring: &Stack<'_>, expression: &str, time: Option<&str>) -> Vec<String> {
    let encoded = expression.bytes().map(|byte| format!("%{byte:02X}"));
    let expression = encoded.collect::<Vec<_>>().concat();
    let time = time.map(|time| format!("&time={time}")).unwrap_or_default();
    let answer = monitoring.get(&format!("{PROMETHEUS}/query?query={expression}{time}"));
    let samples = answer["data"]["result"].as_array();
    let text = |sample: &Value| sample["value"][1].as_str().unwrap_or_default().to_owned();
    samples.into_iter().flatten().map(text).collect()
}

const NODE_UP: &str = "up{job=\"node\"}";

#[test]
fn metrics_survive_down_and_up_and_exporters_are_found_by_name() {
    World::run(|world| {
        let monitoring = monitoring(world);
        let _up = monitoring.compose("up -d --wait");
        eventually("the exporter is measured", || {
            measured(&monitoring, NODE_UP, None) == ["1"]
        });
        eventually("the rule is computed", || {
            measured(&monitoring, "node:memory_used:ratio", None).len() == 1
        });
        // What it tells is of the host, not of its container.
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let uname = format!("node_uname_info{{release=\"{}\"}}", host.trim());
        assert_eq!(measured(&monitoring, &uname, None), ["1"]);
        let now = monitoring.get(&format!("{PROMETHEUS}/query?query=time()"));
        let time = now["data"]["result"][0].to_string();
        let past = || measured(&monitoring, NODE_UP, Some(&time));
        assert_eq!(past(), ["1"]);

        let _down = monitoring.compose("down");
        let _up = monitoring.compose("up -d --wait");
        assert_eq!(past(), ["1"]);

        let _up = monitoring.compose("up -d --wait --scale node=2");
        eventually("both exporters are measured", || {
            measured(&monitoring, NODE_UP, None) == ["1", "1"]
        });

        let _down = monitoring.compose("down -v");
        let _up = monitoring.compose("up -d --wait");
        assert_eq!(past(), Vec::<String>::new());
        monitoring.end();
    });
}

#[test]
fn prometheus_reads_changed_configs_at_a_signal_and_sees_an_exporter_come_back() {
    World::run(|world| {
        let monitoring = monitoring(world);
        let _up = monitoring.compose("up -d --wait");
        let ids = monitoring.ids();
        let started = "process_start_time_seconds{job=\"prometheus\"}";
        let exporter = "process_start_time_seconds{job=\"node\"}";
        let mut before = (Vec::new(), Vec::new());
        eventually("both are measured", || {
            before = (
                measured(&monitoring, started, None),
                measured(&monitoring, exporter, None),
            );
            before.0.len() == 1 && before.1.len() == 1
        });

        // The file, and a variable in the content of the other.
        let file = monitoring.project.path("prometheus.yml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("site: example", "site: another")).unwrap();
        let up = monitoring.command("up -d").env("ALERT_AFTER", "90s");
        let _up = up.run().success();
        eventually("the file is read", || {
            let config = monitoring.get(&format!("{PROMETHEUS}/status/config"));
            config["data"]["yaml"].to_string().contains("site: another")
        });
        eventually("the rules are read", || {
            let rules = monitoring.get(&format!("{PROMETHEUS}/rules?type=alert"));
            rules["data"]["groups"][0]["rules"][0]["duration"] == 90
        });
        assert_eq!(monitoring.ids(), ids);
        assert_eq!(measured(&monitoring, started, None), before.0);

        // Another process, in a container with the same name.
        assert!(world.kill("node_exporter") >= 1);
        eventually("the exporter is back", || {
            let now = measured(&monitoring, exporter, None);
            now.len() == 1 && now != before.1
        });
        assert_eq!(monitoring.ids(), ids);
        monitoring.end();
    });
}
