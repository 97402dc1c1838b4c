//! The examples with real servers, whose images come from a registry in the place of the public
//! one.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

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
            let _digest = registry.put(&format!("library/{name}"), &image);
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
        assert!(world.kill("postgres") > 1, "the server and its workers");
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
