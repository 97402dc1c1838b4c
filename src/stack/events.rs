//! What happens in a project, from its supervisor's records.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio_stream::StreamExt as _;

use super::logs::read_logs;
use super::{Stack, StackError};
use crate::log::reader::{Item, LogHandle, LogStream, ReadOptions, Source};
use crate::state::create_private_dir;
use crate::supervisor::history::{self, EventRecord};

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct EventSelection {
    /// Containers of these only; empty: everything that happens.
    pub services: BTreeSet<String>,
    /// Only events at or after it.
    pub since: Option<Timestamp>,
    /// Only events at or before it; ends when it has passed.
    pub until: Option<Timestamp>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectEvent {
    pub time: Timestamp,
    pub record: EventRecord,
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    services: BTreeSet<String>,
    stream: LogStream,
    _handle: LogHandle,
}

impl Stack {
    /// Follows what happens to the project. It needs no supervisor: events come when there is one.
    pub fn project_events(&self, selection: EventSelection) -> Result<EventStream, StackError> {
        let state = &self.options.state;
        create_private_dir(&state.project(self.name()))?;
        let source = Source {
            key: String::new(),
            path: history::path(state, self.name()),
        };
        let is_over = selection
            .until
            .is_some_and(|until| until <= Timestamp::now());
        let options = ReadOptions {
            since: selection.since,
            until: selection.until,
            tail: None,
            follow: !is_over,
        };
        let (handle, stream) = read_logs(vec![source], options)?;
        Ok(EventStream {
            services: selection.services,
            stream,
            _handle: handle,
        })
    }
}

impl EventStream {
    /// `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<ProjectEvent> {
        loop {
            let line = match self.stream.next().await? {
                Item::Line { line, .. } => line,
                Item::Damaged { text, .. } => {
                    tracing::warn!(text, "a part of the events is damaged");
                    continue;
                }
                Item::Failed { error, .. } => {
                    tracing::warn!(%error, "events cannot be read");
                    continue;
                }
                Item::CaughtUp { .. } => continue,
            };
            let Ok(record) = serde_json::from_str::<EventRecord>(&line.log) else {
                continue;
            };
            if self.services.is_empty() || self.services.contains(&record.service) {
                return Some(ProjectEvent {
                    time: line.time,
                    record,
                });
            }
        }
    }
}
