//! Images from registries.

use std::fs;

use serde_json::{Value, json};

use crate::world::{Door, Project, Registry, World, eventually, image_archive};

/// A project of one service that sleeps.
pub(crate) fn one_service(image: &str, more: &str) -> String {
    format!(
        "services:
  app:
    image: {image}
    command: sleep infinity
    stop_grace_period: 0s
{more}"
    )
}

/// What a registry of its own, with TLS and an authority, needs in the world to be found.
pub(crate) fn trust(world: &World, registry: &str, text: &str) -> String {
    let folder = world.path("certs.d").join(registry.replace(':', "_") + "_");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("hosts.toml"), text).unwrap();
    world.path("certs.d").display().to_string()
}

/// Records of containerd's leases; a command that has ended must hold none.
pub(crate) fn leases(world: &World) -> String {
    world.ctr(["leases", "list", "-q"]).run().success().stdout
}

/// Objects of `--progress json`.
fn events(stderr: &str) -> Vec<Value> {
    stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The digest from which the running container was made.
fn image_of(project: &Project<'_>) -> String {
    let label = project.containers()[0]["Labels"].to_string();
    let start = label
        .find("com.docker.compose.image=")
        .expect("the label of the image");
    let rest = &label[start + "com.docker.compose.image=".len()..];
    rest[..rest.find([',', '"']).unwrap_or(rest.len())].to_owned()
}

#[test]
fn a_missing_image_is_pulled_by_up() {
    World::run(|world| {
        let registry = Registry::start(world);
        let digest = registry.put_layers("shop/app:1", 1, 3, 200_000);
        let project = world.project("missing", &one_service("localhost:5000/shop/app:1", ""));
        let up = project.compose("up -d").success();
        for line in [
            " Image localhost:5000/shop/app:1 Pulling\n",
            " Image localhost:5000/shop/app:1 Pulled\n",
            " Container missing-app-1 Started\n",
        ] {
            assert!(up.stderr.contains(line), "{line} is missing in\n{up}");
        }
        assert_eq!(up.stderr.matches("Pull complete").count(), 4, "{up}");
        assert_eq!(image_of(&project), digest);
        let files = project.compose("exec -T app ls /layer-1 /layer-2 /layer-3");
        assert_eq!(files.success().stdout, "/layer-1\n/layer-2\n/layer-3\n");
        let again = project.compose("up -d").success();
        assert!(!again.stderr.contains("Image"), "{again}");
        let _down = project.compose("down").success();
        assert_eq!(leases(world), "");
        registry.stop();
    });
}

#[test]
fn a_policy_of_never_does_not_pull() {
    World::run(|world| {
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        let never = one_service("localhost:5000/app:1", "    pull_policy: never\n");
        let project = world.project("never", &never);
        let failed = project.compose("up -d").failure();
        assert!(
            failed.stderr.contains("its `pull_policy` is `never`"),
            "{failed}"
        );
        assert!(failed.stderr.contains("compose.yaml:3:12"), "{failed}");
        let failed = project.compose("up -d --pull never").failure();
        assert!(failed.stderr.contains("localhost:5000/app:1"), "{failed}");
        let _up = project.compose("up -d --pull missing").success();
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn a_new_image_under_the_same_tag_recreates_with_the_digests_as_reason() {
    World::run(|world| {
        let registry = Registry::start(world);
        let old = registry.put_layers("app:1", 1, 1, 1000);
        let project = world.project("moved", &one_service("localhost:5000/app:1", ""));
        let _up = project.compose("up -d").success();
        let before = project.fields("Name", "ID");

        let same = project.compose("up -d --pull always").success();
        assert!(
            same.stderr.contains("Image localhost:5000/app:1 Pulled"),
            "{same}"
        );
        assert_eq!(project.fields("Name", "ID"), before);

        let new = registry.put_layers("app:1", 7, 1, 1000);
        let _up = project.compose("up -d").success();
        assert_eq!(
            project.fields("Name", "ID"),
            before,
            "nobody asked the registry"
        );
        let plan = project.compose("plan --pull always").success();
        assert!(plan.stdout.contains("pull"), "{plan}");
        let reason = format!("image: \"{old}\" -> \"{new}\"");
        assert!(plan.stdout.contains(&reason), "{plan}");

        let _up = project.compose("up -d --pull always").success();
        assert_ne!(project.fields("Name", "ID"), before);
        assert_eq!(image_of(&project), new);
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn windows_of_time_are_kept() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        let image = "localhost:5001/app:1";
        let daily = world.project("daily", &one_service(image, "    pull_policy: daily\n"));
        let _up = daily.compose("up -d").success();
        let asked = registry.requests("/manifests/1").len();
        let _up = daily.compose("up -d").success();
        assert_eq!(
            registry.requests("/manifests/1").len(),
            asked,
            "it is not due"
        );
        daily.write(
            "compose.yaml",
            &one_service(image, "    pull_policy: every_1s\n"),
        );
        eventually("the window has passed", || {
            let _up = daily.compose("up -d").success();
            registry.requests("/manifests/1").len() > asked
        });
        let _down = daily.compose("down").success();
        registry.stop();
    });
}

#[test]
fn layers_that_two_images_share_are_fetched_once() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let layers = |seeds: &[u32]| -> Value {
            let layers: Vec<_> = seeds
                .iter()
                .map(|seed| json!({"seed": seed, "size": 300_000}))
                .collect();
            json!({"archive": image_archive(), "layers": layers})
        };
        let _one = registry.put("one:1", &layers(&[1, 2, 3]));
        let _two = registry.put("two:1", &layers(&[1, 2, 4]));
        let project = world.project(
            "shared",
            "services:
  one: {image: \"localhost:5001/one:1\"}
  two: {image: \"localhost:5001/two:1\"}
",
        );
        let _pull = project.compose("pull").success();
        let mut fetched: Vec<String> = registry
            .requests("GET")
            .iter()
            .filter_map(|line| line.split("/blobs/").nth(1))
            .map(|rest| rest.split(' ').next().unwrap().to_owned())
            .collect();
        let all = fetched.len();
        fetched.sort();
        fetched.dedup();
        // Busybox, four layers and two configurations.
        assert_eq!((fetched.len(), all), (7, 7), "{:#?}", registry.requests(""));
        registry.stop();
    });
}

#[test]
fn credentials_are_found_as_docker_keeps_them() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open(5002, Door::Locked);
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        let project = world.project("locked", &one_service("localhost:5002/app:1", ""));
        let docker = world.path("docker");
        fs::create_dir_all(&docker).unwrap();
        let pull = |config: &str| {
            fs::write(docker.join("config.json"), config).unwrap();
            let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", docker.display());
            let pull = project
                .command(["pull"])
                .env("DOCKER_CONFIG", docker.as_os_str());
            pull.env("PATH", path).run()
        };
        let refused = pull(r#"{"auths": {"localhost:5002": {"auth": "bWU6d3Jvbmc="}}}"#).failure();
        assert!(refused.stderr.contains("are not accepted"), "{refused}");
        assert!(!refused.stderr.contains("wrong"), "{refused}");
        let _pulled = pull(r#"{"auths": {"localhost:5002": {"auth": "bWU6c2VjcmV0"}}}"#).success();
        let helper = docker.join("docker-credential-test");
        let script = "#!/bin/sh\nread -r host\n[ \"$1 $host\" = 'get localhost:5002' ] && \
                      echo '{\"ServerURL\": \"x\", \"Username\": \"me\", \"Secret\": \"secret\"}'\n";
        fs::write(&helper, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&helper, mode).unwrap();
        let _pulled = pull(r#"{"credHelpers": {"localhost:5002": "test"}}"#).success();
        let _pulled = pull(r#"{"credsStore": "test"}"#).success();
        registry.stop();
    });
}

#[test]
fn tokens_are_fetched_where_the_registry_says() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        let _digest = registry.put_layers("app:1", 1, 2, 1000);
        registry.faults(&json!([
            {"path": "/v2/", "fault": "token"},
            {"path": "/v2/", "fault": "token", "method": "HEAD"},
        ]));
        let project = world.project("tokens", &one_service("localhost:5001/app:1", ""));
        let pull = |entry: &str| {
            let auth = format!(r#"{{"auths": {{"localhost:5001": {entry}}}}}"#);
            let pull = project.command(["pull"]);
            pull.env("DOCKER_AUTH_CONFIG", auth).run()
        };
        let nobody = pull("{}").failure();
        assert!(nobody.stderr.contains("wants credentials"), "{nobody}");
        assert!(nobody.stderr.contains("stores credentials"), "{nobody}");
        let wrong = pull(r#"{"auth": "bWU6d3Jvbmc="}"#).failure();
        assert!(
            wrong.stderr.contains("incorrect username or password"),
            "{wrong}"
        );
        assert!(wrong.stderr.contains("are not accepted"), "{wrong}");
        let _pulled = pull(r#"{"auth": "bWU6c2VjcmV0"}"#).success();
        // One token does for a whole image.
        let asked = registry.requests("/token");
        let got: Vec<_> = asked.iter().filter(|line| line.ends_with(" 200")).collect();
        assert_eq!(got.len(), 1, "{asked:#?}");
        assert!(got[0].contains("scope=repository%3Aapp%3Apull"), "{got:#?}");
        let _pulled = pull(r#"{"identitytoken": "identity"}"#).success();
        let _pulled = pull(r#"{"registrytoken": "good"}"#).success();
        registry.stop();
    });
}

#[test]
fn mirrors_own_authorities_and_certificates_come_from_hosts_toml() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open_faulty();
        registry.open(5003, Door::Tls);
        let _digest = registry.put_layers("app:1", 1, 2, 100_000);
        let hosts = format!(
            "server = \"https://localhost:5003\"
ca = \"{}\"
[host.\"http://localhost:5009\"]
  capabilities = [\"pull\", \"resolve\"]
[host.\"http://localhost:5001\"]
  capabilities = [\"pull\"]
",
            registry.authority().display()
        );
        let certs = trust(world, "registry.test:5003", &hosts);
        let project = world.project("mirrored", &one_service("registry.test:5003/app:1", ""));
        let pull = project.command(["pull"]).env("COMPOSE_HOSTS_DIR", &certs);
        let _pull = pull.run().success();
        // The mirror gives blobs, but does not say what a tag means.
        assert!(!registry.requests("/blobs/").is_empty());
        assert!(registry.requests("/manifests/1").is_empty());
        assert!(
            registry
                .requests("")
                .iter()
                .all(|line| line.contains("ns=registry.test"))
        );
        let skip = "server = \"https://localhost:5003\"\nskip_verify = true\n";
        let _certs = trust(world, "registry.test:5003", skip);
        let pull = project.command(["pull"]).env("COMPOSE_HOSTS_DIR", &certs);
        let _pull = pull.run().success();
        registry.stop();
    });
}

#[test]
fn a_certificate_of_our_own_opens_a_registry_that_wants_one() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open(5003, Door::Mutual);
        let _digest = registry.put_layers("app:1", 1, 2, 100_000);
        let authority = registry.authority();
        let server = format!(
            "server = \"https://localhost:5003\"\nca = \"{}\"\n",
            authority.display()
        );
        let certs = trust(world, "registry.test:5003", &server);
        let project = world.project("mutual", &one_service("registry.test:5003/app:1", ""));
        let pull = || {
            project
                .command(["pull"])
                .env("COMPOSE_HOSTS_DIR", &certs)
                .run()
        };
        let refused = pull().failure();
        let problem = "the connection to `localhost:5003` failed";
        assert!(refused.stderr.contains(problem), "{refused}");

        // Any that the authority has signed will do: that of the server itself.
        let own = authority.with_file_name("registry-5003");
        let client = format!(
            "{server}client = [[\"{0}/server.crt\", \"{0}/server.key\"]]\n",
            own.display()
        );
        let _certs = trust(world, "registry.test:5003", &client);
        let _pull = pull().success();
        registry.stop();
    });
}

#[test]
fn an_index_gives_the_variant_that_is_asked_for() {
    World::run(|world| {
        let registry = Registry::start(world);
        let spec = json!({
            "archive": image_archive(),
            "layers": [{"seed": 1, "size": 1000}],
            "platforms": ["linux/arm64", "linux/amd64"],
        });
        let index = registry.put("multi:1", &spec);
        let by_digest = format!("localhost:5000/multi:1@{index}");
        let project = world.project("multi", &one_service(&by_digest, ""));
        let _up = project.compose("up -d").success();
        assert_ne!(image_of(&project), index);
        let images = project.compose("images --format json").success();
        assert!(
            images.stdout.contains("\"Platform\":\"linux/amd64\""),
            "{images}"
        );
        let _down = project.compose("down").success();

        let image = "localhost:5000/multi:1";
        project.write(
            "compose.yaml",
            &one_service(image, "    platform: linux/arm64\n"),
        );
        let _created = project.compose("create").success();
        let images = project.compose("images").success();
        assert!(images.stdout.contains("linux/arm64"), "{images}");
        let _down = project.compose("down").success();

        let both = one_service(image, "    platform: linux/arm64\n");
        let both = format!("{both}  other:\n    image: {image}\n");
        project.write("compose.yaml", &both);
        let _created = project.compose("create").success();
        let images = project.compose("images").success();
        for platform in ["linux/arm64", "linux/amd64"] {
            assert!(images.stdout.contains(platform), "{images}");
        }
        let _down = project.compose("down").success();

        project.write("compose.yaml", &one_service(image, ""));
        let pull = project
            .command(["pull"])
            .env("DOCKER_DEFAULT_PLATFORM", "linux/s390x");
        let failed = pull.run().failure();
        assert!(
            failed.stderr.contains("has no variant for linux/s390x"),
            "{failed}"
        );
        registry.stop();
    });
}

#[test]
fn layers_of_all_compressions_are_unpacked_and_other_things_refused() {
    World::run(|world| {
        let registry = Registry::start(world);
        let layers = json!({
            "archive": image_archive(),
            "layers": [
                {"seed": 1, "size": 5000, "compression": "zstd"},
                {"seed": 2, "size": 5000, "compression": "none"},
                {"seed": 3, "size": 5000, "compression": "gzip"},
            ],
        });
        let _digest = registry.put("kinds:1", &layers);
        let project = world.project("kinds", &one_service("localhost:5000/kinds:1", ""));
        let _up = project.compose("up -d").success();
        let listed = project.compose("exec -T app ls /layer-1 /layer-2 /layer-3");
        assert_eq!(listed.success().stdout.lines().count(), 3);
        let _down = project.compose("down").success();

        let chart = json!({"config_type": "application/vnd.cncf.helm.config.v1+json"});
        let _digest = registry.put("kinds:2", &chart);
        project.write("compose.yaml", &one_service("localhost:5000/kinds:2", ""));
        let failed = project.compose("up -d").failure();
        assert!(
            failed
                .stderr
                .contains("is no image but `application/vnd.cncf.helm"),
            "{failed}"
        );
        let hidden = json!({
            "layers": [{"seed": 1, "size": 10}],
            "layer_type": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        });
        let _digest = registry.put("kinds:3", &hidden);
        project.write("compose.yaml", &one_service("localhost:5000/kinds:3", ""));
        let failed = project.compose("up -d").failure();
        assert!(failed.stderr.contains("cannot be unpacked"), "{failed}");
        registry.stop();
    });
}

#[test]
fn pull_decides_for_each_service_as_docker_does() {
    World::run(|world| {
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 1, 1000);
        let _digest = registry.put_layers("app:latest", 1, 1, 1000);
        let text = "services:
  pinned: {image: \"localhost:5000/app:1\", depends_on: [moving]}
  moving: {image: \"localhost:5000/app\"}
  built: {build: .}
  both: {build: ., image: \"localhost:5000/none:1\"}
";
        let project = world.project("decides", text);
        let all = project.compose("pull").success();
        assert!(
            all.stderr
                .contains("Service built Skipped No image to be pulled"),
            "{all}"
        );
        assert!(all.stderr.contains("with another tool: both"), "{all}");
        let missing = project
            .compose("pull --policy missing pinned --include-deps")
            .success();
        let skipped = "Image localhost:5000/app:1 Skipped Image is already present locally";
        assert!(missing.stderr.contains(skipped), "{missing}");
        assert!(
            missing.stderr.contains("Image localhost:5000/app Pulled"),
            "{missing}"
        );
        let buildable = project.compose("pull --ignore-buildable both").success();
        assert!(
            buildable.stderr.contains("Skipped Image can be built"),
            "{buildable}"
        );
        let one = project.compose("pull pinned").success();
        assert!(!one.stderr.contains("localhost:5000/app Pull"), "{one}");
        project.write("compose.yaml", "services: {none: {image: \"localhost:5000/none:1\"}, app: {image: \"localhost:5000/app:1\"}}");
        let _failed = project.compose("pull").failure();
        let ignored = project.compose("pull --ignore-pull-failures").success();
        assert!(ignored.stderr.contains("app:1 Pulled"), "{ignored}");
        registry.stop();
    });
}

#[test]
fn progress_is_told_in_every_form() {
    World::run(|world| {
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 2, 2_000_000);
        let project = world.project("told", &one_service("localhost:5000/app:1", ""));
        let pull = project.compose("--progress json pull").success();
        let layers: Vec<Value> = events(&pull.stderr)
            .into_iter()
            .filter(|event| event["parent_id"] == "Image localhost:5000/app:1")
            .collect();
        assert!(
            layers.iter().any(|event| event["text"] == "Downloading"),
            "{pull}"
        );
        let done = layers.iter().filter(|event| event["status"] == "Done");
        assert_eq!(done.count(), 3, "{pull}");
        assert!(layers.iter().any(|event| event["percent"] == 100), "{pull}");
        let _digest = registry.put_layers("app:1", 5, 2, 1000);
        let quiet = project.compose("pull -q").success();
        assert!(!quiet.stderr.contains("Download"), "{quiet}");
        let _digest = registry.put_layers("app:1", 9, 2, 1000);
        let drawn = project.compose("--progress tty pull").success();
        assert!(drawn.stderr.contains("[+] pull"), "{drawn}");
        registry.stop();
    });
}

#[test]
fn what_is_pushed_can_be_pulled() {
    World::run(|world| {
        let mut registry = Registry::start(world);
        registry.open(5002, Door::Locked);
        let digest = registry.put_layers("source:1", 1, 2, 300_000);
        let project = world.project(
            "pushed",
            "services:
  other: {image: \"localhost:5000/source:1\"}
  app:
    image: localhost:5000/target:1
    build: {context: ., tags: [\"localhost:5000/target:2\"]}
",
        );
        let _pull = project.compose("pull other").success();
        for name in [
            "localhost:5000/target:1",
            "localhost:5000/target:2",
            "localhost:5002/target:3",
        ] {
            let tag = ["images", "tag", "localhost:5000/source:1", name];
            let _tagged = world.ctr(tag).run().success();
        }
        let push = project.compose("push").success();
        assert!(push.stderr.contains("Service other Skipped"), "{push}");
        for line in [
            "Image localhost:5000/target:1 Pushed",
            "Image localhost:5000/target:2 Pushed",
        ] {
            assert!(push.stderr.contains(line), "{push}");
        }
        assert!(push.stderr.contains("Mounted"), "{push}");
        let again = project.compose("push").success();
        assert!(again.stderr.contains("Layer already exists"), "{again}");
        let quiet = project.compose("push -q").success();
        assert_eq!(quiet.stderr, "");
        for name in [
            "localhost:5000/target:1",
            "localhost:5000/target:2",
            "localhost:5000/source:1",
        ] {
            let _removed = world
                .ctr(["images", "remove", "--sync", name])
                .run()
                .success();
        }
        project.write("compose.yaml", &one_service("localhost:5000/target:2", ""));
        let _up = project.compose("up -d").success();
        assert_eq!(image_of(&project), digest);
        let _down = project.compose("down").success();

        project.write(
            "compose.yaml",
            "services: {app: {image: \"localhost:5002/target:3\", build: .}}",
        );
        let failed = project.compose("push").failure();
        assert!(failed.stderr.contains("wants credentials"), "{failed}");
        let ignored = project.compose("push --ignore-push-failures").success();
        assert!(ignored.stderr.contains("wants credentials"), "{ignored}");
        let auth = r#"{"auths": {"localhost:5002": {"auth": "bWU6c2VjcmV0"}}}"#;
        let push = project.command(["push"]).env("DOCKER_AUTH_CONFIG", auth);
        let _push = push.run().success();
        registry.stop();
    });
}

#[test]
fn images_are_listed_as_docker_lists_them() {
    World::run(|world| {
        let registry = Registry::start(world);
        let _digest = registry.put_layers("app:1", 1, 1, 1_000_000);
        let project = world.project("listed", &one_service("localhost:5000/app:1", ""));
        let _created = project.compose("create").success();
        let table = project.compose("images").success();
        let header = "CONTAINER           REPOSITORY           TAG                 PLATFORM            \
                      IMAGE ID            SIZE                CREATED";
        assert_eq!(table.stdout.lines().next(), Some(header), "{table}");
        assert!(
            table
                .stdout
                .contains("listed-app-1        localhost:5000/app   1  "),
            "{table}"
        );
        let ids = project.compose("images -q").success();
        assert_eq!(ids.stdout.trim().len(), 64, "{ids}");
        // The name may move on, or go: what a container was made from is still told.
        let _removed = world
            .ctr(["images", "remove", "localhost:5000/app:1"])
            .run()
            .success();
        let gone = project.compose("images").success();
        assert!(gone.stdout.contains("listed-app-1"), "{gone}");
        let _down = project.compose("down").success();
        registry.stop();
    });
}

#[test]
fn config_pins_images_to_what_the_registry_has() {
    World::run(|world| {
        let registry = Registry::start(world);
        let digest = registry.put_layers("app:1", 1, 1, 1000);
        let project = world.project("pins", &one_service("localhost:5000/app:1", ""));
        let pinned = format!("    image: localhost:5000/app:1@{digest}\n");
        let lock = project.compose("config --lock-image-digests").success();
        assert_eq!(lock.stdout, format!("services:\n  app:\n{pinned}"));
        let resolved = project.compose("config --resolve-image-digests").success();
        assert!(resolved.stdout.contains(&pinned), "{resolved}");
        assert!(resolved.stdout.contains("- infinity"), "{resolved}");
        project.write("lock.yaml", &lock.stdout);
        let _up = project
            .compose("-f compose.yaml -f lock.yaml up -d")
            .success();
        assert_eq!(image_of(&project), digest);
        let _down = project.compose("down").success();
        project.write("compose.yaml", &one_service("localhost:5000/none:1", ""));
        let failed = project.compose("config --resolve-image-digests").failure();
        assert!(failed.stderr.contains("has no manifest"), "{failed}");
        registry.stop();
    });
}
