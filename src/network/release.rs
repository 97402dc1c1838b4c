//! Giving up the kernel half of a sandbox while its container is stopped, and taking it back.

use super::host::Host;
use super::join::join;
use super::layout::boot_id;
use super::record::Stored;
use super::{Held, NetworkError};

/// A sandbox that is recorded as given up, and whose kernel half is still there.
#[derive(Debug)]
pub struct Released(Option<Stored>);

/// Boot of a sandbox that was released: never one of this host's.
const RELEASED: &str = "";

impl Stored {
    /// Whether only the record is left.
    pub(super) fn is_released(&self) -> bool {
        self.record.boot_id == RELEASED
    }

    /// What is kept of it without its kernel half.
    pub(super) fn released(&self) -> Self {
        let mut released = self.clone();
        released.record.endpoints.clear();
        released.record.ports.clear();
        released.record.active = false;
        released.record.boot_id = RELEASED.into();
        released.forward_to = None;
        released
    }
}

impl Host {
    /// See `Networks::release_sandbox`.
    pub(super) fn release_sandbox(&self, id: &str) -> Result<Released, NetworkError> {
        let _use = self.layout.lock_use()?;
        let stored = self.stored(id)?;
        if stored.is_released() {
            return Ok(Released(None));
        }
        stored.released().save(&self.layout)?;
        Ok(Released(Some(stored)))
    }

    /// See `Networks::clear_released`.
    pub(super) fn clear_released(&self, released: &Released) -> Result<(), NetworkError> {
        let _use = self.layout.lock_use()?;
        released
            .0
            .as_ref()
            .map_or(Ok(()), |stored| self.strip(stored))
    }

    /// Makes the kernel half of a released sandbox anew; addresses and ports that are not fixed may be others. If that
    /// fails it stays released.
    pub(super) fn take_back(&self, released: &Stored) -> Result<Held, NetworkError> {
        let mut stored = released.clone();
        let spec = stored.record.spec.clone();
        if self.layout.namespace(&spec.id).exists() {
            self.sweep(&spec.id)?;
        }
        let joined = join(&spec.attachments, &self.layout)?;
        stored.record.boot_id = boot_id()?;
        let built = self
            .hold_ports(&spec, &joined, &mut stored)
            .and_then(|mut held| {
                held.extend(self.build(&joined, &mut stored)?);
                Ok(held)
            });
        if built.is_err()
            && let Err(failure) = self.take_apart(&stored, Some(released))
        {
            tracing::warn!(%failure, sandbox = spec.id, "cannot undo a failed sandbox");
        }
        built
    }
}
