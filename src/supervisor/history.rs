//! What happened in a project, on disk: it outlives the supervisor, and `compose events` reads and follows it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::protocol::ContainerChange;
use crate::log::{LogOptions, LogWriter};
use crate::state::{HealthStatus, StateRoot, create_private_dir};

/// Name of the log in the project's folder.
const FILE: &str = "events.log";

/// Bytes of one file, and files: some ten thousand events are kept.
const FILE_SIZE: u64 = 4 << 20;
const FILES: u32 = 2;

/// One event; its time is that of its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRecord {
    /// `container`, `project` (what a command asked for), `plan` (what is to be done for it), `live` (how a reload of the
    /// files went) or `supervisor`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As Docker calls it: `create`, `start`, `die` …
    pub action: String,
    /// Service and id of a container.
    pub service: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

impl EventRecord {
    /// An event of something that is no container.
    pub fn new(kind: &str, action: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            action: action.into(),
            ..Self::default()
        }
    }

    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers are written in place"
    )]
    pub fn with(mut self, attribute: &str, value: impl ToString) -> Self {
        self.attributes.insert(attribute.into(), value.to_string());
        self
    }

    /// Docker's word for a change of a container, with what it tells beside.
    pub(super) fn of_change(change: &ContainerChange) -> Self {
        let event = |action: &str| Self::new("container", action);
        match change {
            ContainerChange::Created => event("create"),
            ContainerChange::Started => event("start"),
            ContainerChange::Exited { code } => event("die").with("exitCode", code),
            ContainerChange::Restarting { after_ms } => event("restart").with("delayMs", after_ms),
            ContainerChange::Stopped => event("stop"),
            ContainerChange::Removed => event("destroy"),
            ContainerChange::Health { status } => event(match status {
                HealthStatus::Starting => "health_status: starting",
                HealthStatus::Healthy => "health_status: healthy",
                HealthStatus::Unhealthy => "health_status: unhealthy",
            }),
            ContainerChange::OutOfMemory => event("oom"),
            ContainerChange::Paused => event("pause"),
            ContainerChange::Unpaused => event("unpause"),
        }
    }
}

/// Where the events of a project are.
pub fn path(state: &StateRoot, project: &str) -> PathBuf {
    state.project(project).join(FILE)
}

/// Writes the events of one project.
#[derive(Debug)]
pub(super) struct History {
    writer: Mutex<LogWriter>,
}

impl History {
    pub(super) fn new(state: &StateRoot, project: &str) -> Self {
        let folder = state.project(project);
        if let Err(error) = create_private_dir(&folder) {
            tracing::error!(%error, "cannot make the folder of events");
        }
        let options = LogOptions {
            path: path(state, project),
            max_size: Some(FILE_SIZE),
            max_files: FILES,
            discard: false,
        };
        Self {
            writer: Mutex::new(LogWriter::new(options)),
        }
    }

    /// Appends an event. Work does not stop where it cannot be written.
    pub(super) fn append(&self, event: &EventRecord, time: Timestamp) {
        let text = serde_json::to_string(event).unwrap_or_default();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.append(&text, "event", time) {
            tracing::error!(%error, "cannot record an event");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_docker_s_words() {
        let exited = EventRecord::of_change(&ContainerChange::Exited { code: 3 });
        assert_eq!(exited.action, "die");
        assert_eq!(exited.attributes["exitCode"], "3");
        let healthy = EventRecord::of_change(&ContainerChange::Health {
            status: HealthStatus::Healthy,
        });
        assert_eq!(healthy.action, "health_status: healthy");
    }
}
