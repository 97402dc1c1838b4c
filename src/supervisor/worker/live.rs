//! Following the project's files, or not.

use std::sync::{Arc, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::supervisor::live::{self, LiveRecord};

impl Worker {
    /// Follows the project's files if a worker before this one did.
    pub(super) fn resume_live(self: &Arc<Self>) {
        match LiveRecord::read(&self.shared.state, &self.shared.project) {
            Ok(Some(record)) => self.begin_live(record),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot follow the project's files"),
        }
    }

    /// Follows the project's files as `record` says, and no longer as an earlier one.
    pub(in crate::supervisor) fn begin_live(self: &Arc<Self>, record: LiveRecord) {
        let end = CancellationToken::new();
        let mut live = self.locked_live();
        self.write_live(&record);
        if let Some(earlier) = live.replace(end.clone()) {
            earlier.cancel();
        }
        tokio::spawn(live::follow(Arc::clone(self), record, end));
    }

    /// Keeps `record`, unless what follows it has been told to end.
    pub(in crate::supervisor) fn save_live(&self, record: &LiveRecord, end: &CancellationToken) {
        let _live = self.locked_live();
        if !end.is_cancelled() {
            self.write_live(record);
        }
    }

    fn write_live(&self, record: &LiveRecord) {
        if let Err(error) = record.write(&self.shared.state, &self.shared.project) {
            tracing::error!(%error, "cannot keep what is followed");
        }
    }

    /// Does not follow the project's files any more.
    pub(in crate::supervisor) fn end_live(&self) {
        let mut live = self.locked_live();
        if let Some(end) = live.take() {
            end.cancel();
        }
        LiveRecord::remove(&self.shared.state, &self.shared.project);
    }

    pub(super) fn locked_live(&self) -> MutexGuard<'_, Option<CancellationToken>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
