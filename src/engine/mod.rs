//! containerd over gRPC: containers, tasks, snapshots, content, images, leases, events, stdio, the OCI spec.
//!
//! Nothing here knows what a service or a project is.

pub mod spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

/// Where to reach containerd and what to use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Path of the gRPC socket.
    pub address: PathBuf,
    pub namespace: String,
    /// Default: what [`Engine::connect`] finds out (overlayfs, else native).
    pub snapshotter: Option<String>,
}

/// A connection. Clones share it; it recovers by itself after a restart of containerd.
#[derive(Clone, Debug)]
pub struct Engine {
    options: EngineOptions,
}

/// A call failed.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("cannot reach containerd at {}", address.display())]
    Unreachable {
        address: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{what} does not exist")]
    NotFound { what: String },
    #[error("{what} exists already")]
    AlreadyExists { what: String },
    /// `message` is containerd's own text.
    #[error("cannot {operation}: {message}")]
    Call {
        operation: String,
        message: String,
        code: tonic::Code,
    },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Engine {
    /// Connects and asks for the version; chooses the snapshotter if none is named.
    pub async fn connect(_options: EngineOptions) -> Result<Self, EngineError> {
        todo!()
    }
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }
    pub async fn version(&self) -> Result<String, EngineError> {
        todo!()
    }
    pub fn snapshotter(&self) -> &str {
        todo!()
    }

    // containers.rs
    /// Records that match one of `filters` (containerd's filter grammar, as `labels."a"==b`); all if empty.
    pub async fn containers(
        &self,
        _filters: &[String],
    ) -> Result<Vec<ContainerRecord>, EngineError> {
        todo!()
    }
    pub async fn container(&self, _id: &str) -> Result<Option<ContainerRecord>, EngineError> {
        todo!()
    }
    /// `created_at` is ignored. `lease`: id of a lease to hold what the record refers to.
    pub async fn create_container(
        &self,
        _record: &ContainerRecord,
        _lease: Option<&str>,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// Replaces labels, spec and extensions.
    pub async fn update_container(&self, _record: &ContainerRecord) -> Result<(), EngineError> {
        todo!()
    }
    /// Not an error if it is gone.
    pub async fn delete_container(&self, _id: &str) -> Result<(), EngineError> {
        todo!()
    }

    // tasks.rs
    pub async fn tasks(&self) -> Result<Vec<TaskRecord>, EngineError> {
        todo!()
    }
    pub async fn task(&self, _id: &str) -> Result<Option<TaskRecord>, EngineError> {
        todo!()
    }
    /// Creates the task and returns its process id; nothing of the user runs before [`Engine::start_task`].
    pub async fn create_task(&self, _task: &NewTask) -> Result<u32, EngineError> {
        todo!()
    }
    pub async fn start_task(&self, _id: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Returns when the first process has ended (at once if it has).
    pub async fn wait_task(&self, _id: &str) -> Result<ExitStatus, EngineError> {
        todo!()
    }
    /// `all`: every process of the container. A process that is gone is not an error.
    pub async fn kill_task(&self, _id: &str, _signal: u32, _all: bool) -> Result<(), EngineError> {
        todo!()
    }
    /// Removes a stopped task and its shim. `None` if there was none.
    pub async fn delete_task(&self, _id: &str) -> Result<Option<ExitStatus>, EngineError> {
        todo!()
    }
    pub async fn pause_task(&self, _id: &str) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn resume_task(&self, _id: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Applies OCI `linux.resources` (JSON) to a running task.
    pub async fn update_task(&self, _id: &str, _resources: &[u8]) -> Result<(), EngineError> {
        todo!()
    }
    /// Processes in the container, host process ids.
    pub async fn task_pids(&self, _id: &str) -> Result<Vec<u32>, EngineError> {
        todo!()
    }

    // exec.rs
    /// `process` is an OCI process, JSON.
    pub async fn create_exec(
        &self,
        _id: &str,
        _exec_id: &str,
        _process: &[u8],
        _stdio: &Stdio,
    ) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn start_exec(&self, _id: &str, _exec_id: &str) -> Result<u32, EngineError> {
        todo!()
    }
    pub async fn wait_exec(&self, _id: &str, _exec_id: &str) -> Result<ExitStatus, EngineError> {
        todo!()
    }
    pub async fn kill_exec(
        &self,
        _id: &str,
        _exec_id: &str,
        _signal: u32,
    ) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn delete_exec(&self, _id: &str, _exec_id: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `exec_id` empty: the first process.
    pub async fn resize(
        &self,
        _id: &str,
        _exec_id: &str,
        _columns: u32,
        _rows: u32,
    ) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn close_stdin(&self, _id: &str, _exec_id: &str) -> Result<(), EngineError> {
        todo!()
    }

    // snapshots.rs
    /// Makes a writable snapshot over `parent` (a chain id) and returns its mounts.
    pub async fn prepare_snapshot(
        &self,
        _key: &str,
        _parent: &str,
        _labels: &BTreeMap<String, String>,
        _lease: Option<&str>,
    ) -> Result<Vec<RootMount>, EngineError> {
        todo!()
    }
    pub async fn snapshot_mounts(&self, _key: &str) -> Result<Vec<RootMount>, EngineError> {
        todo!()
    }
    /// Not an error if it is gone.
    pub async fn remove_snapshot(&self, _key: &str) -> Result<(), EngineError> {
        todo!()
    }

    // leases.rs
    /// Makes a lease that ends by itself after `expires`.
    pub async fn create_lease(
        &self,
        _id: &str,
        _labels: &BTreeMap<String, String>,
        _expires: Duration,
    ) -> Result<(), EngineError> {
        todo!()
    }
    pub async fn delete_lease(&self, _id: &str) -> Result<(), EngineError> {
        todo!()
    }

    // events.rs
    /// Events from now on; begins with [`Event::Subscribed`], reconnects for ever, ends when the receiver is dropped.
    pub fn subscribe(&self) -> tokio::sync::mpsc::Receiver<Event> {
        todo!()
    }
}

/// What a probe of possible sockets found: private.rs.
///
/// `recorded`: the address that the project's state names. Order: `CONTAINERD_ADDRESS` or `explicit`, `recorded`,
/// the system's socket, a private containerd under `state_run`/`state_data` (started if needed, as root).
pub async fn locate(
    _explicit: Option<&Path>,
    _recorded: Option<&Path>,
    _state: &crate::state::StateRoot,
) -> Result<PathBuf, EngineError> {
    todo!()
}
