//! What is remembered of a container between processes: `containers/<id>/state.json`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Process, StateError, StateRoot, Versioned, encode, read_json, write_atomic, write_durable,
};

/// Exit code of a process that SIGKILL ended.
const KILLED: u32 = 128 + 9;

/// What the user wants of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Made, never started.
    #[default]
    Created,
    Running,
    /// Stopped by a command: stays so whatever its restart policy.
    Stopped,
}

/// Health as Docker names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

/// One finished probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    /// At most 4 KiB.
    pub output: String,
}

/// Health of a container that has a probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u64,
    /// The last five probes, oldest first.
    pub log: Vec<Probe>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    pub code: u32,
    pub at: Timestamp,
    pub out_of_memory: bool,
    /// No exit was seen (a reboot, a killed shim); the code is then 137.
    pub lost: bool,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exited ({})", self.code)?;
        // What the kernel kills in a container need not be what it ends with.
        if self.out_of_memory && self.code == KILLED {
            f.write_str(", out of memory")?;
        }
        Ok(())
    }
}

/// The whole record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub wanted: Wanted,
    /// `/proc/sys/kernel/random/boot_id` of the last start.
    pub boot_id: String,
    /// Counts starts.
    pub run: u64,
    /// First process of the last run; none where its cgroup cannot be seen.
    pub process: Option<Process>,
    pub started_at: Option<Timestamp>,
    /// Exit of the last run; none while it runs.
    pub exit: Option<Exit>,
    /// Restarts by policy since the last start by a command.
    pub restart_count: u64,
    /// A restart is pending at this time.
    pub restart_at: Option<Timestamp>,
    pub health: Option<Health>,
    /// A command in the foreground sees to it: it ends when that is gone.
    pub attended: bool,
    /// Why the last change was made.
    pub reason: Option<String>,
    /// Why the last start failed.
    pub error: Option<String>,
}

impl Versioned for ContainerState {
    const FORMAT: u64 = 1;
}

impl ContainerState {
    /// Reads the record of `id`; a container without one has the default.
    pub fn load(root: &StateRoot, id: &str) -> Result<Self, StateError> {
        Ok(read_json(&root.container(id).join("state.json"))?.unwrap_or_default())
    }

    /// Writes the record. Changes that a crash must not undo (`wanted`, `exit`) go through
    /// [`ContainerState::save_durable`].
    pub fn save(&self, root: &StateRoot, id: &str) -> Result<(), StateError> {
        write_atomic(&root.container(id).join("state.json"), &encode(self))
    }

    pub fn save_durable(&self, root: &StateRoot, id: &str) -> Result<(), StateError> {
        write_durable(&root.container(id).join("state.json"), &encode(self))
    }
}
