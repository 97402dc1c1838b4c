//! containerd over gRPC: containers, tasks, snapshots, content, images, leases, events, stdio, the OCI spec.
//!
//! Nothing here knows what a service or a project is.

mod bundle;
mod connect;
mod containers;
mod content;
mod diff;
mod error;
mod events;
mod exec;
mod images;
mod leases;
mod metrics;
mod mounting;
mod private;
#[cfg(test)]
pub(crate) mod runtime_tests;
mod shim;
mod snapshots;
pub mod spec;
mod tasks;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

pub use connect::Engine;
pub use content::{ContentReader, ContentSource, ContentWriter, Descriptor, OpenContent};
pub use error::EngineError;
pub use images::ImageRecord;
pub use metrics::Usage;
pub use mounting::{mount_below, read_only, with_rootfs};
pub use private::{locate, private_address, stop_private};
pub use snapshots::SnapshotRecord;

/// Where to reach containerd and what to use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Path of the gRPC socket.
    pub address: PathBuf,
    pub namespace: String,
    /// Default: what [`Engine::connect`] finds out (overlayfs, else native).
    pub snapshotter: Option<String>,
}

/// A container record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerRecord {
    pub id: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// As `io.containerd.runc.v2`.
    pub runtime: String,
    pub snapshotter: String,
    pub snapshot_key: String,
    /// OCI runtime spec, JSON.
    pub spec: Vec<u8>,
    /// JSON by extension name.
    pub extensions: BTreeMap<String, Vec<u8>>,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    Created,
    Running,
    Stopped,
    Paused,
    Pausing,
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    pub id: String,
    pub pid: u32,
    pub status: TaskStatus,
    pub exit_code: u32,
    pub exited_at: Option<Timestamp>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    pub code: u32,
    pub at: Timestamp,
}

/// A mount of a root file system, as the snapshotter gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootMount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

/// Paths of FIFOs; an empty path is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    pub stdin: PathBuf,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    pub terminal: bool,
}

/// What a task is made of.
#[derive(Clone, Debug, Default)]
pub struct NewTask {
    pub id: String,
    pub rootfs: Vec<RootMount>,
    pub stdio: Stdio,
    /// OCI runtime binary (`runc`, `crun` or a path); empty for the shim's default.
    pub runtime_binary: String,
    pub systemd_cgroup: bool,
}

/// Something that containerd told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    TaskCreated {
        id: String,
    },
    TaskStarted {
        id: String,
        pid: u32,
    },
    /// `exec_id` equals `id` for the first process.
    TaskExited {
        id: String,
        exec_id: String,
        pid: u32,
        exit_code: u32,
        at: Timestamp,
    },
    /// A further process of a container.
    ExecStarted {
        id: String,
        exec_id: String,
    },
    /// A further process was made; it may not have been started.
    ExecAdded {
        id: String,
        exec_id: String,
    },
    TaskDeleted {
        id: String,
    },
    TaskPaused {
        id: String,
    },
    TaskResumed {
        id: String,
    },
    OutOfMemory {
        id: String,
    },
    ContainerCreated {
        id: String,
    },
    ContainerUpdated {
        id: String,
    },
    ContainerDeleted {
        id: String,
    },
    /// The stream stands (again): whoever follows it must look at everything afresh.
    Subscribed,
}

/// Of a protocol time; `None` for Go's zero time and for nonsense.
fn to_timestamp(time: &prost_types::Timestamp) -> Option<Timestamp> {
    if time.seconds <= 0 {
        return None;
    }
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// Labels as the generated types want them.
fn to_map(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A name that no other process and no other call makes.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = Timestamp::now().as_nanosecond();
    format!("{prefix}-{}-{now:x}-{count}", std::process::id())
}

/// A program on `PATH` or in the usual system folders.
fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = private::search_path();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
