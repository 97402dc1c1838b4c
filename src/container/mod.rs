//! From a service, an image and a sandbox to a container: its volumes, files, secrets, OCI spec and record; and its
//! start, stop and removal.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use crate::engine::{ContainerRecord, Engine, EngineError};
use crate::image::{Image, ImageError, Images};
use crate::model::{Project, Service};
use crate::network::{NetworkError, Networks, SandboxRecord};
use crate::state::{StateError, StateRoot};

/// Labels that Docker's tools read.
pub mod label {
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const NUMBER: &str = "com.docker.compose.container-number";
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
    /// Definition of each network that it joins, by name on the host.
    pub networks: BTreeMap<String, Value>,
    /// Definition of each volume that it mounts, by name on the host.
    pub volumes: BTreeMap<String, Value>,
    /// Containers whose namespaces or volumes it shares, by `network_mode`, `pid`, `ipc`, `volumes_from.<name>`.
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
    /// Containers whose namespaces it joins, by `network`, `pid`, `ipc`: process id resolved at start.
    pub parents: &'a BTreeMap<String, ContainerRecord>,
    /// Containers whose mounts it takes (`volumes_from`), in order.
    pub volumes_from: &'a [ContainerRecord],
    /// The container that this one replaces: its anonymous volumes are kept.
    pub inherits: Option<&'a ContainerRecord>,
    /// Lease that holds the snapshot until the record exists.
    pub lease: &'a str,
}

/// A container could not be made, started, stopped or removed.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("{attribute}: `{value}` is not valid: {reason}")]
    Invalid {
        attribute: String,
        value: String,
        reason: String,
    },
    #[error("{} does not exist", path.display())]
    MissingSource { path: std::path::PathBuf },
    #[error("volume `{volume}` does not exist")]
    MissingVolume { volume: String },
    #[error("variable `{variable}` of {what} is not set")]
    MissingVariable { what: String, variable: String },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    State(#[from] StateError),
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

impl Containers {
    /// Makes snapshot, volumes, files and record, and returns the id (64 hex digits). All or nothing.
    pub async fn create(&self, _creation: &Creation<'_>) -> Result<String, ContainerError> {
        todo!()
    }
    /// Creates the task in FIFOs under `state.container_run(id)` (`stdin` only with `stdin_open`, `stdout`, `stderr`; with a
    /// terminal no `stderr`) that the caller has made and reads, puts secrets and configs into it, starts it, and returns its
    /// process id. A stopped task of an earlier run is deleted first.
    pub async fn start(&self, _id: &str) -> Result<u32, ContainerError> {
        todo!()
    }
    /// Sends `signal`, waits up to `grace`, kills, and waits for the end; an ended one is not an error. The task stays.
    pub async fn stop(
        &self,
        _id: &str,
        _signal: u32,
        _grace: std::time::Duration,
    ) -> Result<crate::engine::ExitStatus, ContainerError> {
        todo!()
    }
    /// Kills what still runs; removes task, record, snapshot, files, FIFOs; with `volumes` its anonymous volumes too.
    pub async fn remove(&self, _id: &str, _volumes: bool) -> Result<(), ContainerError> {
        todo!()
    }
    /// OCI process for an exec in `record`'s container: its user, capabilities, limits, environment, directory, changed by `options`.
    pub async fn exec_process(
        &self,
        _record: &ContainerRecord,
        _options: &ExecOptions,
    ) -> Result<Vec<u8>, ContainerError> {
        todo!()
    }

    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, ContainerError> {
        todo!()
    }
    /// Makes the volume if it is missing. Two at once make one.
    pub async fn create_volume(&self, _record: &VolumeRecord) -> Result<(), ContainerError> {
        todo!()
    }
    /// Not an error if it is gone.
    pub async fn remove_volume(&self, _name: &str) -> Result<(), ContainerError> {
        todo!()
    }
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
