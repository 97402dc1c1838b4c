//! The log of a unit: one pump for each run.

use std::io;

use super::{DRAIN, Unit};
use crate::log::pump::{self, Streams};
use crate::log::{LogOptions, file_name};
use crate::state::create_private_dir;

impl Unit {
    /// Opens our ends of the FIFOs for the next run and begins to read.
    pub(super) fn open_log(&mut self) -> io::Result<()> {
        let folder = self.shared.fifos(&self.record.id);
        create_private_dir(&folder).map_err(io::Error::other)?;
        pump::make_fifos(&folder, self.desired.stdin_open, !self.desired.terminal)?;
        let streams = pump::open(&folder)?;
        for (name, descriptor) in streams.held() {
            self.shared
                .hold(&fifo_key(&self.record.id, name), descriptor)?;
        }
        self.read_log(streams)
    }

    /// Goes on where another worker stopped; opens the FIFOs again if nobody held them.
    pub(super) fn resume_log(&mut self) -> io::Result<()> {
        let held = self.shared.take_inherited(&fifo_key(&self.record.id, ""));
        if held.is_empty() {
            return self.open_log();
        }
        let streams = Streams::from_held(&self.shared.fifos(&self.record.id), held);
        self.read_log(streams)
    }

    /// Reads what a run left that ended while no worker was there.
    pub(super) fn read_last_words(&mut self) {
        let held = self.shared.take_inherited(&fifo_key(&self.record.id, ""));
        if held.is_empty() {
            return;
        }
        let streams = Streams::from_held(&self.shared.fifos(&self.record.id), held);
        if let Err(error) = self.read_log(streams) {
            tracing::error!(%error, container = self.desired.name, "cannot read its last output");
        }
    }

    pub(super) fn read_log(&mut self, streams: Streams) -> io::Result<()> {
        let id = &self.record.id;
        let path = self.shared.state.container(id).join(file_name(id));
        let options = LogOptions::new(path, &self.desired.logging);
        self.pump = Some(pump::spawn(streams, options, self.taps.clone())?);
        Ok(())
    }

    /// Ends the input of the container once everything in it has been read and nobody writes to it any more.
    pub(super) async fn close_stdin(&mut self) {
        let id = &self.record.id;
        if let Some(pump) = &mut self.pump {
            pump.close_stdin();
        }
        self.shared.release(&fifo_key(id, "stdin"));
        if let Err(error) = self.shared.containers.engine.close_stdin(id, "").await {
            tracing::debug!(%error, container = self.desired.name, "cannot close its input");
        }
    }

    /// Waits until the last output is in the log, though not for ever, and lets the FIFOs go.
    pub(super) async fn close_log(&mut self) {
        if let Some(pump) = self.pump.take()
            && tokio::time::timeout(DRAIN, pump.drained()).await.is_err()
        {
            tracing::warn!(
                container = self.desired.name,
                "its output did not end with it"
            );
            pump.stop().await;
        }
        self.shared.release(&fifo_key(&self.record.id, ""));
    }
}

/// Key under which the end `name` of a container's FIFOs is held.
fn fifo_key(id: &str, name: &str) -> String {
    format!("fifo/{id}/{name}")
}
