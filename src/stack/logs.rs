//! What containers wrote.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_stream::StreamExt as _;

use super::{Stack, StackError};
use crate::log::reader::{Item, LogHandle, LogStream, ReadOptions, Source, read};
use crate::log::{self, Line};
use crate::reconcile::observe::ObservedContainer;

/// Which lines of which containers.
#[derive(Clone, Debug, Default)]
pub struct LogSelection {
    /// Empty: all of the project.
    pub services: Vec<String>,
    /// Number of the replica; 0: all.
    pub index: u32,
    /// Only lines at or after it.
    pub since: Option<Timestamp>,
    /// Only lines at or before it.
    pub until: Option<Timestamp>,
    /// Of each container only the last lines.
    pub tail: Option<u64>,
}

impl LogSelection {
    pub(super) fn options(&self, follow: bool) -> ReadOptions {
        ReadOptions {
            since: self.since,
            until: self.until,
            tail: self.tail,
            follow,
        }
    }
}

/// What reading logs gives.
#[derive(Clone, Debug, PartialEq)]
pub enum LogEntry {
    Line {
        /// Name of the container.
        name: String,
        line: Line,
    },
    /// A log is damaged or cannot be read.
    Trouble { name: String, text: String },
}

/// The history of some containers' logs, merged by time.
#[derive(Debug)]
pub struct Logs {
    stream: LogStream,
    /// By id.
    names: BTreeMap<String, String>,
}

impl Logs {
    /// Names of the containers whose logs are read, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.values().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<LogEntry> {
        loop {
            let item = self.stream.next().await?;
            if let Some(entry) = entry(item, &self.names) {
                return Some(entry);
            }
        }
    }
}

impl Stack {
    /// What the selected containers wrote until now, stopped ones too.
    pub async fn logs(&self, selection: &LogSelection) -> Result<Logs, StackError> {
        let observed = self.observe().await?;
        let containers: Vec<&ObservedContainer> = self
            .selected(&observed, &selection.services)
            .into_iter()
            .filter(|container| selection.index == 0 || container.number == selection.index)
            .collect();
        if selection.index > 0 && containers.is_empty() {
            return Err(StackError::NotRunning {
                service: selection.services.join(", "),
                index: selection.index,
            });
        }
        let names = containers
            .iter()
            .map(|container| (container.id.clone(), container.name.clone()))
            .collect();
        let sources = containers
            .iter()
            .map(|container| self.log_source(&container.id))
            .collect();
        let (_, stream) = read_logs(sources, selection.options(false))?;
        self.revive(&observed).await;
        Ok(Logs { stream, names })
    }

    pub(super) fn log_source(&self, id: &str) -> Source {
        Source {
            key: id.into(),
            path: self.options.state.container(id).join(log::file_name(id)),
        }
    }
}

/// Opens logs.
pub(super) fn read_logs(
    sources: Vec<Source>,
    options: ReadOptions,
) -> Result<(LogHandle, LogStream), StackError> {
    read(sources, options).map_err(|source| StackError::Io {
        operation: "read logs".into(),
        source,
    })
}

/// What `item` means to users; `None` for what concerns no line.
pub(super) fn entry(item: Item, names: &BTreeMap<String, String>) -> Option<LogEntry> {
    let name = |key: &str| names.get(key).cloned().unwrap_or_else(|| key.into());
    match item {
        Item::Line { key, line } => Some(LogEntry::Line {
            name: name(&key),
            line,
        }),
        Item::Damaged { key, text } => Some(LogEntry::Trouble {
            name: name(&key),
            text: format!("a part of the log is damaged: {text}"),
        }),
        Item::Failed { key, error } => Some(LogEntry::Trouble {
            name: name(&key),
            text: format!("the log cannot be read: {error}"),
        }),
        Item::CaughtUp { .. } => None,
    }
}
