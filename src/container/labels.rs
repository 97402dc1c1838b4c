//! Labels and annotations of a container: the image's and the service's own, those of Compose, those of nerdctl.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::nerdctl::Nerdctl;
use super::provision::{MountRecord, Names};
use super::{Creation, label};
use crate::engine::EngineOptions;
use crate::model::Condition;
use crate::network::SandboxRecord;
use crate::state::StateRoot;

/// containerd refuses a label whose name and value are longer than this together.
const LIMIT: usize = 4096;

/// Names of the networks, for nerdctl.
pub(super) const NERDCTL_NETWORKS: &str = "nerdctl/networks";

/// The labels that go to containerd: all that it takes.
pub(super) fn labels(
    creation: &Creation<'_>,
    state: &StateRoot,
    engine: &EngineOptions,
    id: &str,
    names: &Names,
    mounts: &[MountRecord],
) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    labels.extend(creation.image.config.labels.clone());
    labels.extend(creation.service.labels.clone());
    labels.extend(compose(creation));
    labels.extend(nerdctl(creation, state, engine, id, names, mounts));
    labels.retain(|name, value| name.len() + value.len() <= LIMIT);
    labels
}

fn compose(creation: &Creation<'_>) -> Vec<(String, String)> {
    let Creation {
        project,
        service,
        desired,
        image,
        ..
    } = creation;
    let paths = |list: &[PathBuf]| {
        let list: Vec<_> = list.iter().map(|path| path.to_string_lossy()).collect();
        list.join(",")
    };
    let depends_on: Vec<String> = service
        .depends_on
        .iter()
        .map(|(name, dependency)| {
            let condition = match dependency.condition {
                Condition::ServiceStarted => "service_started",
                Condition::ServiceHealthy => "service_healthy",
                Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
            };
            format!("{name}:{condition}:{}", dependency.restart)
        })
        .collect();
    let mut labels = vec![
        (label::PROJECT, project.name.clone()),
        (label::SERVICE, service.name.clone()),
        (
            label::ONE_OFF,
            if desired.one_off { "True" } else { "False" }.into(),
        ),
        (label::CONFIG_HASH, desired.config_hash.clone()),
        // That of the manifest of its platform: the same as is compared to find out whether the image is another one.
        (label::IMAGE, image.digest.clone()),
        (label::DEPENDS_ON, depends_on.join(",")),
        (
            label::WORKING_DIR,
            project.working_dir.to_string_lossy().into_owned(),
        ),
        (label::CONFIG_FILES, paths(&project.files)),
        (label::VERSION, env!("CARGO_PKG_VERSION").into()),
    ];
    if desired.one_off {
        labels.push((label::SLUG, desired.slug.clone()));
    } else {
        labels.push((label::NUMBER, desired.number.to_string()));
    }
    if !project.env_files.is_empty() {
        labels.push((label::ENVIRONMENT_FILE, paths(&project.env_files)));
    }
    labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Folder that nerdctl expects for a container of this engine.
fn nerdctl_folder(engine: &EngineOptions, id: &str) -> PathBuf {
    Nerdctl::new(engine).container(id)
}

fn nerdctl(
    creation: &Creation<'_>,
    state: &StateRoot,
    engine: &EngineOptions,
    id: &str,
    names: &Names,
    mounts: &[MountRecord],
) -> Vec<(String, String)> {
    let desired = creation.desired;
    let networks: Vec<&str> = match creation.sandbox {
        Some(sandbox) if sandbox.endpoints.is_empty() => vec!["none"],
        Some(sandbox) => sandbox
            .endpoints
            .iter()
            .map(|endpoint| endpoint.network.as_str())
            .collect(),
        None if creation.service.network_mode.as_deref() == Some("host") => vec!["host"],
        None => vec!["none"],
    };
    let extra_hosts: Vec<String> = names
        .extra_hosts
        .iter()
        .map(|(name, address)| format!("{name}:{address}"))
        .collect();
    let mounts: Vec<_> = mounts
        .iter()
        .map(|mount| {
            json!({
                "Type": mount.kind,
                "Name": mount.name.clone().unwrap_or_default(),
                "Source": mount.source,
                "Destination": mount.destination,
                "Driver": if mount.name.is_some() { "local" } else { "" },
                "Mode": "",
                "RW": !mount.read_only,
                "Propagation": mount.propagation,
            })
        })
        .collect();
    let mut log_options = creation.desired.logging.options.clone();
    log_options.sort_keys();
    // Output of a task that nerdctl starts goes to a file instead of a pipe that nobody reads.
    let log = format!(
        "file://{}",
        state.container(id).join("nerdctl.log").display()
    );
    let labels = [
        ("nerdctl/name", desired.name.clone()),
        ("nerdctl/namespace", engine.namespace.clone()),
        ("nerdctl/hostname", names.hostname.clone()),
        ("nerdctl/domainname", names.domainname.clone()),
        (NERDCTL_NETWORKS, json!(networks).to_string()),
        (
            "nerdctl/state-dir",
            nerdctl_folder(engine, id).to_string_lossy().into_owned(),
        ),
        ("nerdctl/platform", creation.image.platform.clone()),
        ("nerdctl/log-uri", log.clone()),
        (
            "nerdctl/log-config",
            json!({ "driver": "json-file", "opts": log_options }).to_string(),
        ),
        ("nerdctl/mounts", json!(mounts).to_string()),
        ("nerdctl/extraHosts", json!(extra_hosts).to_string()),
        ("nerdctl/stop-timeout", desired.stop_timeout.to_string()),
        ("nerdctl/auto-remove", "false".into()),
        (
            "io.containerd.image.config.stop-signal",
            desired.stop_signal.clone(),
        ),
        ("containerd.io/restart.loguri", log),
    ];
    labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Annotations of the spec. That of nerdctl's networks never names one: nerdctl would detach it at `stop`.
pub(super) fn annotations(
    creation: &Creation<'_>,
    engine: &EngineOptions,
    id: &str,
    sandbox: Option<&SandboxRecord>,
) -> BTreeMap<String, String> {
    let networks = match sandbox {
        Some(sandbox) => format!("ns:{}", sandbox.netns.display()),
        None => "none".into(),
    };
    let mut annotations: BTreeMap<String, String> = [
        ("nerdctl/networks", json!([networks]).to_string()),
        (
            "nerdctl/state-dir",
            nerdctl_folder(engine, id).to_string_lossy().into_owned(),
        ),
        ("nerdctl/namespace", engine.namespace.clone()),
        ("nerdctl/name", creation.desired.name.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    annotations.extend(creation.service.annotations.clone());
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Desired;
    use crate::image::Image;
    use crate::model::{Dependency, Project, Service};

    fn with_creation<T>(check: impl FnOnce(&Creation<'_>) -> T) -> T {
        let project = Project {
            name: "shop".into(),
            working_dir: "/srv/shop".into(),
            files: vec![
                "/srv/shop/compose.yaml".into(),
                "/srv/shop/more.yaml".into(),
            ],
            ..Project::default()
        };
        let mut service = Service {
            name: "web".into(),
            ..Service::default()
        };
        let dependency = Dependency {
            condition: Condition::ServiceHealthy,
            restart: true,
            required: true,
        };
        service.depends_on.insert("db".into(), dependency);
        service.labels.insert("tier".into(), "front".into());
        service.labels.insert("large".into(), "x".repeat(LIMIT));
        let desired = Desired {
            number: 1,
            name: "shop-web-1".into(),
            config_hash: "0123".into(),
            stop_signal: "SIGTERM".into(),
            stop_timeout: 10,
            ..Desired::default()
        };
        let mut image = Image {
            digest: "sha256:0f1e".into(),
            platform: "linux/amd64".into(),
            ..Image::default()
        };
        image.config.labels.insert("tier".into(), "image".into());
        image.config.labels.insert("maintainer".into(), "me".into());
        check(&Creation {
            project: &project,
            service: &service,
            desired: &desired,
            image: &image,
            sandbox: None,
            parents: &BTreeMap::new(),
            volumes_from: &[],
            inherits: None,
            lease: "",
        })
    }

    fn options() -> EngineOptions {
        EngineOptions {
            address: "/no/such/containerd.sock".into(),
            namespace: "default".into(),
            snapshotter: None,
        }
    }

    #[test]
    fn labels_are_those_that_docker_and_nerdctl_read() {
        let state = StateRoot::new(None);
        let names = Names {
            hostname: "c0ffee".into(),
            extra_hosts: vec![("foo".into(), "1.2.3.4".into())],
            ..Names::default()
        };
        let found =
            with_creation(|creation| labels(creation, &state, &options(), "c0ffee00", &names, &[]));
        insta::assert_snapshot!(serde_json::to_string_pretty(&found).unwrap());
    }

    #[test]
    fn annotations_never_name_a_network() {
        let found = with_creation(|creation| annotations(creation, &options(), "c0ffee00", None));
        assert_eq!(found["nerdctl/networks"], r#"["none"]"#);
        assert_eq!(found["nerdctl/name"], "shop-web-1");
    }
}
