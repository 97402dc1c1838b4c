//! Whether a project follows its files, and with what success.

use super::{Stack, StackError};
use crate::supervisor::live::{LiveRecord, LiveStatus};
use crate::supervisor::protocol::{Reply, Request};

/// A project whose supervisor follows its files.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Why the files as they are now are not what runs; empty: they are.
    pub problems: Vec<String>,
}

impl Stack {
    /// Has the supervisor follow the project's files from now on, or no more.
    pub async fn follow_files(
        &self,
        record: Option<LiveRecord>,
        on_reply: impl FnMut(Reply),
    ) -> Result<(), StackError> {
        let record = record.map(Box::new);
        self.request(Request::Live { record }, on_reply).await
    }

    /// How the project follows its files; none if it does not. What cannot be read is as good as absent.
    pub fn live(&self) -> Option<Live> {
        let (state, name) = (&self.options.state, self.name());
        LiveRecord::read(state, name).ok().flatten()?;
        let status = LiveStatus::read(state, name).unwrap_or_default();
        Some(Live {
            problems: status.problems,
        })
    }
}
