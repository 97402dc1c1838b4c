//! From a service, an image and a sandbox to a container: its volumes, files, secrets, OCI spec and record; and its
//! start, stop and removal.

mod attributes;
mod cdi;
mod cgroup;
mod commit;
mod connections;
mod copy;
mod create;
mod environment;
mod error;
mod etc;
mod exec;
mod files;
mod filesystem;
mod image_part;
mod ineffective;
mod init;
mod labels;
mod lifecycle;
mod mounts;
mod nerdctl;
mod processes;
mod provision;
mod removal;
mod rootfs;
mod runtime;
mod runtime_error;
#[cfg(test)]
mod runtime_tests;
mod update;
mod volume;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::{ContainerRecord, Engine};
use crate::image::{Image, Images};
use crate::model::{OnChange, Project, Service};
use crate::network::{Networks, SandboxRecord};
use crate::state::StateRoot;

pub use crate::model::parse_signal;
pub use commit::CommitOptions;
pub use connections::open_connections;
pub use environment::INIT_PATH;
pub use error::ContainerError;
pub use filesystem::{Attributes, FileKind, FileSystem, UnpackOptions, Unpacked, pack, unpack};
pub use ineffective::ineffective;
pub use processes::ContainerProcess;

/// Labels that Docker's tools read.
pub mod label {
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const NUMBER: &str = "com.docker.compose.container-number";
    pub const SLUG: &str = "com.docker.compose.slug";
    pub const ONE_OFF: &str = "com.docker.compose.oneoff";
    pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
    pub const IMAGE: &str = "com.docker.compose.image";
    pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
    pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
    pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    pub const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";
    pub const VERSION: &str = "com.docker.compose.version";
    pub const NETWORK: &str = "com.docker.compose.network";
    pub const VOLUME: &str = "com.docker.compose.volume";
    /// Name of the container, as nerdctl reads it.
    pub const NAME: &str = "nerdctl/name";
}

/// Name of the extension of a container record that holds its [`Desired`] as JSON.
pub const DESIRED_EXTENSION: &str = "io.github.containerd-compose.desired.v1";

/// What a container was made from; the truth for comparing it with what the file asks for now.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Desired {
    pub project: String,
    pub service: String,
    pub number: u32,
    pub one_off: bool,
    /// `com.docker.compose.slug` of a one-off.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// The container goes with its anonymous volumes when it has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_remove: bool,
    /// Name of the container.
    pub name: String,
    /// Sandbox that it runs in; none for `network_mode: host` and for those that join another's.
    pub sandbox: Option<String>,
    /// Canonical JSON of the service with `build`, `pull_policy`, `scale`, `deploy.replicas`, `depends_on` and
    /// `profiles` left out; empty attributes left out; values of secrets never in it.
    pub config: Value,
    /// Digest of the image's manifest.
    pub image: String,
    /// SHA-256 of the content of each config and secret that it mounts, by `configs.<key>` or `secrets.<key>`.
    pub contents: BTreeMap<String, String>,
    /// How a change of those contents reaches it, where it is not by making it anew; says nothing of what it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub on_change: BTreeMap<String, OnChange>,
    /// Definition of each network that it joins, by name on the host.
    pub networks: BTreeMap<String, Value>,
    /// Definition of each volume that it mounts, by name on the host.
    pub volumes: BTreeMap<String, Value>,
    /// Containers whose namespaces or volumes it shares, by `network_mode`, `pid`, `ipc`, `uts`, `cgroup`,
    /// `volumes_from.<name>`: ids, but names of slots for `network_mode` and what the file says for `container:`. In a
    /// plan also the name of a slot whose container is yet to be made.
    pub parents: BTreeMap<String, String>,
    /// `com.docker.compose.config-hash`.
    pub config_hash: String,
    /// Environment, command, user … as they took effect, for `exec` and restarts: OCI process without the terminal.
    pub stop_signal: String,
    /// Seconds.
    pub stop_timeout: u32,
    /// `no`, `always`, `on-failure[:N]` or `unless-stopped`.
    pub restart: String,
    /// The image's probe and the file's, merged; none without a probe.
    pub healthcheck: Option<crate::model::Healthcheck>,
    /// `services.*.logging`.
    pub logging: crate::model::Logging,
    pub terminal: bool,
    pub stdin_open: bool,
    /// Names of its anonymous volumes by target.
    pub anonymous_volumes: BTreeMap<String, String>,
}

/// Everything that making one container needs.
#[derive(Clone, Copy, Debug)]
pub struct Creation<'a> {
    pub project: &'a Project,
    pub service: &'a Service,
    pub desired: &'a Desired,
    pub image: &'a Image,
    /// None for `network_mode: host` and for those that join a container's namespace.
    pub sandbox: Option<&'a SandboxRecord>,
    /// Containers whose namespaces it joins, by `network_mode`, `pid`, `ipc`: process id resolved at start.
    pub parents: &'a BTreeMap<String, ContainerRecord>,
    /// Containers whose mounts it takes (`volumes_from`), in any order.
    pub volumes_from: &'a [ContainerRecord],
    /// The container that this one replaces: its anonymous volumes are kept.
    pub inherits: Option<&'a ContainerRecord>,
    /// Lease that holds the snapshot until the record exists.
    pub lease: &'a str,
}

/// A named volume that exists.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct VolumeRecord {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub anonymous: bool,
    /// Definition that it was made from.
    pub definition: Value,
    pub created_at: jiff::Timestamp,
}

impl crate::state::Versioned for VolumeRecord {
    const FORMAT: u64 = 1;
}

/// Makes, starts, stops and removes containers.
#[derive(Clone, Debug)]
pub struct Containers {
    pub engine: Engine,
    pub images: Images,
    pub networks: Networks,
    pub state: StateRoot,
}

/// What an exec changes of the container's own process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    pub terminal: bool,
    pub privileged: bool,
}

/// Runs `work`, which may take long, beside the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContainerError> + Send + 'static,
) -> Result<T, ContainerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ContainerError::io("finish a task")(error.into())),
    }
}

/// Types of ours always have a JSON form.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_value(value)
        .unwrap_or_default()
        .to_string()
        .into_bytes()
}
