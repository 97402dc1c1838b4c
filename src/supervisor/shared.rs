//! What all parts of a worker share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use super::dns::DnsServer;
use super::exec::Exits;
use super::history::{EventRecord, History};
use super::hold::Holder;
use super::pace::Pace;
use super::protocol::{ContainerChange, ContainerEvent};
use super::relay::Relays;
use super::tenants::{Leaving, Tenants};
use crate::container::{Containers, Desired, label};
use crate::failpoint::boundary;
use crate::network::{Held, NetworkError, SandboxSpec};
use crate::state::StateRoot;

/// The worker's access to the world, and its voice.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) project: String,
    pub(super) state: StateRoot,
    pub(super) containers: Containers,
    pub(super) holder: Holder,
    /// Keys under which something is held.
    held: Mutex<BTreeSet<String>>,
    relays: Relays,
    /// Descriptors of an earlier worker that nobody has taken yet.
    inherited: Mutex<BTreeMap<String, OwnedFd>>,
    /// Sandboxes that this worker has made or repaired and not given up since.
    whole: Mutex<BTreeSet<String>>,
    tenants: Tenants,
    pub(super) dns: DnsServer,
    pub(super) events: broadcast::Sender<ContainerEvent>,
    history: History,
    pub(super) pace: Pace,
    pub(super) exits: Exits,
    /// A unit has panicked.
    pub(super) broken: Notify,
    pub(super) boot_id: String,
}

impl Shared {
    pub(super) fn new(
        project: String,
        containers: Containers,
        holder: Holder,
        dns: DnsServer,
    ) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let history = History::new(&containers.state, &project);
        Self {
            project,
            history,
            state: containers.state.clone(),
            containers,
            holder,
            held: Mutex::default(),
            relays: Relays::default(),
            inherited: Mutex::default(),
            whole: Mutex::default(),
            tenants: Tenants::default(),
            dns,
            events: broadcast::Sender::new(1024),
            pace: Pace::new(),
            exits: Exits::default(),
            broken: Notify::new(),
            boot_id: boot_id.unwrap_or_default().trim().to_owned(),
        }
    }

    /// Tells whoever follows; nobody may.
    pub(super) fn emit(
        &self,
        id: &str,
        desired: &Desired,
        change: ContainerChange,
        reason: Option<String>,
        returns: bool,
    ) {
        // At this level as the log of events, which does not grow without end, has it too.
        tracing::debug!(
            container = desired.name,
            ?change,
            reason,
            "container changed"
        );
        let at = Timestamp::now();
        let mut event = EventRecord::of_change(&change);
        if let Some(reason) = &reason {
            event = event.with("reason", reason);
        }
        self.record(id, desired, event, at);
        self.events
            .send(ContainerEvent {
                at,
                id: id.to_owned(),
                name: desired.name.clone(),
                service: desired.service.clone(),
                one_off: desired.one_off,
                change,
                reason,
                returns,
            })
            .ok();
    }

    /// Records what happened to a container.
    pub(super) fn record(&self, id: &str, desired: &Desired, event: EventRecord, at: Timestamp) {
        let image = desired.config.get("image").and_then(|image| image.as_str());
        let mut event = event
            .with("image", image.unwrap_or(&desired.image))
            .with("name", &desired.name);
        event.service.clone_from(&desired.service);
        id.clone_into(&mut event.id);
        self.history.append(&event, at);
    }

    /// Records what happened to the project or its supervisor.
    pub(super) fn note(&self, event: &EventRecord) {
        self.history.append(event, Timestamp::now());
    }

    /// Notes that something is held under `key`.
    pub(super) fn remember(&self, key: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.insert(key.to_owned()) && Relays::concerns(key) {
            self.relays.serve(held.iter());
        }
    }

    /// Keeps a descriptor that an earlier worker had held until somebody asks for it.
    pub(super) fn inherit(&self, key: String, descriptor: OwnedFd) {
        self.inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, descriptor);
    }

    /// Takes what was inherited under keys that begin with `prefix`, by the rest of the key.
    pub(super) fn take_inherited(&self, prefix: &str) -> Vec<(String, OwnedFd)> {
        let mut inherited = self
            .inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = inherited.extract_if(.., |key, _| key.starts_with(prefix));
        taken
            .map(|(key, descriptor)| (key[prefix.len()..].to_owned(), descriptor))
            .collect()
    }

    /// Has `descriptor` held under `key` beyond the life of this worker.
    pub(super) fn hold(&self, key: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.remember(key);
        self.holder.hold(key, descriptor)
    }

    /// Lets go of one key.
    pub(super) fn release(&self, key: &str) {
        self.release_where(|held| held == key);
    }

    /// Lets go of every key that begins with `prefix`.
    pub(super) fn release_all(&self, prefix: &str) {
        self.release_where(|held| held.starts_with(prefix));
    }

    fn release_where(&self, goes: impl Fn(&str) -> bool) {
        let keys: Vec<_> = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<_> = held.extract_if(.., |key| goes(key)).collect();
            if keys.iter().any(|key| Relays::concerns(key)) {
                self.relays.serve(held.iter());
            }
            keys
        };
        for key in keys {
            if let Err(error) = self.holder.release(&key) {
                tracing::warn!(%error, key, "cannot let go of a descriptor");
            }
        }
    }

    /// Keeps what a sandbox needs held, and answers names there.
    pub(super) fn hold_sandbox(&self, sandbox: &str, held: Held) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Io {
            operation: "hold a socket".into(),
            source,
        };
        let mut dns = (None, None);
        for (key, descriptor) in held {
            self.hold(&key, descriptor.as_fd()).map_err(failed)?;
            match key
                .strip_prefix("dns/")
                .and_then(|rest| rest.rsplit_once('/'))
            {
                Some((_, "udp")) => dns.0 = Some(descriptor),
                Some((_, "tcp")) => dns.1 = Some(descriptor),
                _ => {}
            }
        }
        if let (Some(udp), Some(tcp)) = dns {
            self.dns.serve(sandbox, udp, tcp).map_err(failed)?;
        }
        self.whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sandbox.to_owned());
        Ok(())
    }

    /// Makes a sandbox. Whoever gives up the one before it at the same time does so first, or gives up this one, which is then
    /// taken back by who starts in it.
    pub(super) async fn create_sandbox(
        &self,
        spec: &SandboxSpec,
        stands_by_for: Option<&str>,
    ) -> Result<(), NetworkError> {
        let tenancy = self.tenants.of(&spec.id);
        let _turn = tenancy.lock().await;
        let networks = &self.containers.networks;
        let (_, held) = match stands_by_for {
            Some(other) => networks.create_standby(spec, other).await?,
            None => networks.create_sandbox(spec).await?,
        };
        self.hold_sandbox(&spec.id, held)
    }

    /// Removes a sandbox, and lets go of what was held for it. Not an error if there is none.
    pub(super) async fn remove_sandbox(&self, sandbox: &str) -> Result<(), NetworkError> {
        let tenancy = self.tenants.of(sandbox);
        let turn = tenancy.lock().await;
        self.let_go_of_sandbox(sandbox);
        let removed = self.containers.networks.remove_sandbox(sandbox).await;
        drop(turn);
        self.tenants.forget(sandbox, tenancy);
        removed
    }

    /// Makes a sandbox whole if need be and notes that a container lives there from now on. `thorough`: look even if this
    /// worker believes that it is whole.
    pub(super) async fn enter_sandbox(
        &self,
        sandbox: &str,
        container: &str,
        thorough: bool,
    ) -> Result<(), NetworkError> {
        let tenancy = self.tenants.of(sandbox);
        let mut tenancy = tenancy.lock().await;
        if thorough {
            self.repair_sandbox(sandbox).await?;
        } else {
            self.ensure_sandbox(sandbox).await?;
        }
        if let Some(other) = self.deserted(sandbox)? {
            self.switch_sandbox(&other, sandbox).await?;
        }
        tenancy.enter(container);
        Ok(())
    }

    /// The sandbox that this one stands by for, if nobody runs there.
    fn deserted(&self, sandbox: &str) -> Result<Option<String>, NetworkError> {
        let networks = &self.containers.networks;
        let record = networks.sandbox(sandbox)?;
        let Some(other) = record.and_then(|record| record.stands_by_for) else {
            return Ok(None);
        };
        let is_used = networks.sandbox(&other)?.is_some_and(|other| other.active);
        Ok((!is_used).then_some(other))
    }

    /// Gives names and published ports of one sandbox of a slot to the other one.
    pub(super) async fn switch_sandbox(&self, from: &str, to: &str) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Io {
            operation: "hold a port".into(),
            source,
        };
        let networks = &self.containers.networks;
        let switched = networks.switch_sandbox(from, to).await?;
        boundary("switch sandbox: ports to be held");
        let copies = if switched.moved.is_empty() {
            Vec::new()
        } else {
            self.holder.take_all().map_err(failed)?
        };
        for (key, descriptor) in copies {
            let moved = switched.moved.iter().find(|(before, _)| *before == key);
            if let Some((before, after)) = moved {
                self.hold(after, descriptor.as_fd()).map_err(failed)?;
                self.release(before);
            }
        }
        for (key, descriptor) in switched.held {
            self.hold(&key, descriptor.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    /// Notes that a container may still live in a sandbox, until it is known.
    pub(super) async fn presume_tenant(&self, sandbox: &str, container: &str) {
        self.tenants.of(sandbox).lock().await.enter(container);
    }

    /// Whether a container runs in a sandbox.
    pub(super) async fn has_tenants(&self, sandbox: &str) -> bool {
        let tenancy = self.tenants.of(sandbox);
        !tenancy.lock().await.containers.is_empty()
    }

    pub(super) async fn is_tenant(&self, sandbox: &str, container: &str) -> bool {
        let tenancy = self.tenants.of(sandbox);
        tenancy.lock().await.containers.contains(container)
    }

    /// Notes that a container has left a sandbox. Its addresses and ports are given back when the last one leaves, as it may
    /// be shared by `network_mode`; the next start takes them again.
    pub(super) async fn leave_sandbox(&self, sandbox: &str, container: &str, leaving: Leaving) {
        let tenancy = self.tenants.of(sandbox);
        let mut tenancy = tenancy.lock().await;
        if !tenancy.leave(container, leaving) {
            return;
        }
        let networks = &self.containers.networks;
        let released = match networks.release_sandbox(sandbox).await {
            Ok(released) => released,
            Err(error) => {
                tracing::warn!(%error, sandbox, "cannot release a sandbox");
                return;
            }
        };
        self.let_go_of_sandbox(sandbox);
        if let Err(error) = networks.clear_released(released).await {
            tracing::warn!(%error, sandbox, "something is left of a released sandbox");
        }
    }

    /// Whether a sandbox belongs to a container of this project.
    pub(super) fn owns_sandbox(&self, sandbox: &str) -> bool {
        let record = self.containers.networks.sandbox(sandbox);
        record.is_ok_and(|record| {
            let project = record.and_then(|mut record| record.spec.labels.remove(label::PROJECT));
            project.as_ref() == Some(&self.project)
        })
    }

    /// Lets go of everything that was held for a sandbox.
    fn let_go_of_sandbox(&self, sandbox: &str) {
        self.dns.stop(sandbox);
        self.whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(sandbox);
        for kind in ["dns", "port"] {
            self.release_all(&format!("{kind}/{sandbox}/"));
        }
    }

    /// As [`Shared::repair_sandbox`], unless this worker knows that it is whole.
    async fn ensure_sandbox(&self, sandbox: &str) -> Result<(), NetworkError> {
        if self
            .whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(sandbox)
        {
            return Ok(());
        }
        self.repair_sandbox(sandbox).await
    }

    /// Makes a sandbox whole: after a stop, a reboot, wiped rules. Nothing is done if it is.
    async fn repair_sandbox(&self, sandbox: &str) -> Result<(), NetworkError> {
        let held = self.containers.networks.repair_sandbox(sandbox).await?;
        self.hold_sandbox(sandbox, held)
    }

    /// Folder of the FIFOs of a container.
    pub(super) fn fifos(&self, id: &str) -> PathBuf {
        self.state.container_run(id)
    }
}
