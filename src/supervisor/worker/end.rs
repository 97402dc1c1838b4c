//! The end of a worker of which nothing is left to do, and what is looked after until then.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Worker;
use crate::container::label;
use crate::engine::{private_address, stop_private};
use crate::supervisor::frame;
use crate::supervisor::history::EventRecord;
use crate::sys::memory;

/// Time after which a worker without containers looks whether it is needed.
const IDLE: Duration = Duration::from_secs(2);

/// The same for one with containers, which is rarely to find that they are gone. As often it looks after the firewall.
const BUSY: Duration = Duration::from_secs(10);

/// How long containerd may take to clean up after a creation that was cut off.
const REMAINS: Duration = Duration::from_secs(1);

impl Worker {
    /// Writes the firewall rules anew if they are not as the records ask for: another tool may have begun with a clean
    /// sheet, or a worker been killed between the two.
    pub(in crate::supervisor) async fn mend_firewall(&self) {
        match self.shared.containers.networks.mend_firewall().await {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("the firewall was not as recorded; its rules are written anew");
                let event = EventRecord::new("network", "repair");
                let reason = "firewall rules were not as recorded";
                self.shared.note(&event.with("reason", reason));
            }
            Err(error) => tracing::error!(%error, "cannot look after the firewall"),
        }
    }

    /// Leaves nothing: the socket goes, the space of what was removed is given back, a containerd of our own that nobody
    /// uses any more ends.
    pub(super) async fn close(&self) {
        let socket = frame::control_path(&self.shared.state, &self.shared.project);
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::warn!(%error, "cannot remove the control socket");
        }
        // A worker that was killed may have made what it did not live to record.
        match self.shared.containers.networks.collect_garbage().await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::warn!(?removed, "removed what nobody had recorded"),
            Err(error) => tracing::warn!(%error, "cannot collect what is left of networks"),
        }
        // Of requests that did not learn that containerd had made theirs, and of those that could not end it.
        self.end_leases().await;
        let engine = &self.shared.containers.engine;
        if let Err(error) = engine.collect_garbage().await {
            tracing::warn!(%error, "cannot collect garbage");
        }
        // containerd may just be cleaning up what was left of a creation that was cut off.
        let patience = Instant::now() + REMAINS;
        while !self.shared.containers.remove_cgroup_parent() && Instant::now() < patience {
            tokio::time::sleep(REMAINS / 20).await;
        }
        let state = &self.shared.state;
        if engine.options().address == private_address(state)
            && let Err(error) = stop_private(state).await
        {
            tracing::warn!(%error, "cannot stop the private containerd");
        }
    }

    /// Returns when a request has ended and left neither container nor sandbox, or when no request comes at all.
    pub(super) async fn gone(&self) {
        let mut last_look = Instant::now();
        loop {
            // Cancel-safe: a wake that is lost is made up for by the next look.
            let is_idle = self.locked_units().is_empty();
            let patience = if is_idle { IDLE } else { BUSY };
            let _ = tokio::time::timeout(patience, self.ended.notified()).await;
            if !is_idle && last_look.elapsed() > BUSY {
                self.mend_firewall().await;
                last_look = Instant::now();
                // What a request or this look needed is not needed again for a while.
                memory::give_back();
            }
            if self.connections.load(Ordering::SeqCst) > 0
                || self.locked_live().is_some()
                || !self.locked_units().is_empty()
            {
                continue;
            }
            let sandboxes = self.shared.containers.networks.sandboxes();
            let ours = |sandbox: &crate::network::SandboxRecord| {
                sandbox.spec.labels.get(label::PROJECT) == Some(&self.shared.project)
            };
            if sandboxes.is_ok_and(|sandboxes| !sandboxes.iter().any(ours)) {
                return;
            }
        }
    }
}
