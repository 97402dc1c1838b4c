//! What has to be made anew at every start of a container, kept beside its spec.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ContainerError, DESIRED_EXTENSION, Desired};
use crate::engine::ContainerRecord;

/// Name of the extension that holds a container's [`Provision`] as JSON.
pub(super) const EXTENSION: &str = "io.github.containerd-compose.provision.v1";

/// What a start needs to know beyond the spec. No value of a secret is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Provision {
    pub(super) network: NetworkJoin,
    /// Containers whose namespaces it joins, by `pid` or `ipc`.
    pub(super) parents: BTreeMap<String, String>,
    pub(super) names: Names,
    pub(super) files: Vec<PlannedFile>,
    /// Bytes of a `/dev/shm` on the host that other containers may share.
    pub(super) shared_memory: Option<u64>,
    pub(super) mounts: Vec<MountRecord>,
    /// OCI runtime binary; empty for the default.
    pub(super) runtime_binary: String,
}

/// Whose network it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NetworkJoin {
    /// Of its own, made by the runtime: loopback only.
    #[default]
    Private,
    Host,
    /// Id of a sandbox, its own or that of the container that it joins.
    Sandbox(String),
    /// Id of a container of another tool.
    Container(String),
}

/// What `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` are made from, beside the addresses of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Names {
    pub(super) hostname: String,
    pub(super) domainname: String,
    /// Host name and address (or `host-gateway`), in the order of the file.
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) dns: Vec<String>,
    pub(super) dns_search: Vec<String>,
    pub(super) dns_opt: Vec<String>,
}

/// A config or secret to be put into the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PlannedFile {
    pub(super) kind: FileKind,
    /// Key of the top-level config or secret.
    pub(super) key: String,
    /// File on the host that is read at every start; none if the value was given at creation.
    pub(super) source: Option<PathBuf>,
    /// Name of the file in the folder of its kind.
    pub(super) file: String,
    /// Absolute path in the container.
    pub(super) target: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FileKind {
    #[default]
    Config,
    Secret,
}

impl FileKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }
}

/// A mount as the user asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MountRecord {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub(super) kind: String,
    /// Name of the volume.
    pub(super) name: Option<String>,
    /// Path on the host; empty for tmpfs.
    pub(super) source: PathBuf,
    pub(super) destination: PathBuf,
    pub(super) read_only: bool,
    pub(super) propagation: String,
    /// Type and options in the spec.
    pub(super) spec_kind: String,
    pub(super) options: Vec<String>,
    pub(super) anonymous: bool,
    /// What is mounted of an image, if not all of it.
    pub(super) subpath: Option<String>,
}

impl Provision {
    /// The provision of a container of ours; `None` if another tool made it.
    pub(super) fn of(record: &ContainerRecord) -> Result<Option<Self>, ContainerError> {
        parse(record, EXTENSION)
    }
}

impl Desired {
    /// What `record` was made from; `None` if another tool made it.
    pub fn of(record: &ContainerRecord) -> Result<Option<Self>, ContainerError> {
        parse(record, DESIRED_EXTENSION)
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    record: &ContainerRecord,
    extension: &str,
) -> Result<Option<T>, ContainerError> {
    let Some(bytes) = record.extensions.get(extension) else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(bytes);
    parsed.map(Some).map_err(|source| ContainerError::Damaged {
        id: record.id.clone(),
        source,
    })
}
