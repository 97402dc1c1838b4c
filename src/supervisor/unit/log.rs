//! The log of a unit: one pump for each run.

use std::io;
use std::os::fd::OwnedFd;

use super::{DRAIN, Unit};
use crate::container::label;
use crate::log::forward::{About, Destination, Forward};
use crate::log::pump;
use crate::log::streams::{self, Streams};
use crate::log::{LogOptions, file_name};
use crate::state::create_private_dir;

impl Unit {
    /// Opens our ends of the FIFOs for the next run and begins to read. Returns what keeps them from their end until the
    /// task has started.
    pub(super) async fn open_log(&mut self) -> io::Result<Vec<OwnedFd>> {
        let streams = self.open_streams()?;
        let writers = streams.writers()?;
        self.forward = self.forward_log(true).await?;
        self.read_log(streams)?;
        Ok(writers)
    }

    fn open_streams(&self) -> io::Result<Streams> {
        let folder = self.shared.fifos(&self.record.id);
        create_private_dir(&folder).map_err(io::Error::other)?;
        streams::make_fifos(&folder, self.desired.stdin_open, !self.desired.terminal)?;
        let streams = streams::open(&folder)?;
        for (name, descriptor) in streams.held() {
            self.shared
                .hold(&fifo_key(&self.record.id, name), descriptor)?;
        }
        Ok(streams)
    }

    /// Begins to send the output elsewhere, if its logging driver does that.
    async fn forward_log(&self, must_connect: bool) -> io::Result<Option<Forward>> {
        let destination = Destination::new(&self.desired.logging).map_err(io::Error::other)?;
        let Some(destination) = destination else {
            return Ok(None);
        };
        let about = self.about()?;
        let tap = self.taps.open();
        let forward = Forward::start(&destination, &about, tap, must_connect).await?;
        Ok(Some(forward))
    }

    fn about(&self) -> io::Result<About> {
        /// The part of the runtime spec that is of interest.
        #[derive(serde::Deserialize)]
        struct Spec {
            process: Process,
        }
        #[derive(serde::Deserialize)]
        struct Process {
            args: Vec<String>,
            env: Vec<String>,
        }
        let Spec { process } = serde_json::from_slice(&self.record.spec)?;
        Ok(About {
            id: self.record.id.clone(),
            name: self.desired.name.clone(),
            image: self.record.image.clone(),
            image_id: self
                .record
                .labels
                .get(label::IMAGE)
                .cloned()
                .unwrap_or_default(),
            command: process.args,
            environment: process.env,
            labels: self.record.labels.clone(),
        })
    }

    /// Goes on where another worker stopped; opens the FIFOs again if nobody held them.
    pub(super) async fn resume_log(&mut self) -> io::Result<()> {
        let held = self.shared.take_inherited(&fifo_key(&self.record.id, ""));
        match self.forward_log(false).await {
            Ok(forward) => self.forward = forward,
            Err(error) => {
                let container = &self.desired.name;
                tracing::error!(%error, container, "its output is kept here only");
            }
        }
        let streams = if held.is_empty() {
            self.open_streams()?
        } else {
            Streams::from_held(&self.shared.fifos(&self.record.id), held)
        };
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
        if let Some(forward) = self.forward.take() {
            forward.finish().await;
        }
        self.shared.release_all(&fifo_key(&self.record.id, ""));
    }
}

/// Key under which the end `name` of a container's FIFOs is held.
fn fifo_key(id: &str, name: &str) -> String {
    format!("fifo/{id}/{name}")
}
