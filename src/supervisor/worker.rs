//! The worker: takes every container of a project under supervision, answers requests, ends when nothing is left.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attach;
use super::dns::DnsServer;
use super::exec;
use super::frame::{self, Listener};
use super::history::EventRecord;
use super::hold::Holder;
use super::live::{self, LiveRecord};
use super::process::WorkerSettings;
use super::request;
use super::revival;
use super::shared::Shared;
use super::unit::{self, Command, UnitHandle};
use crate::container::{ContainerError, Containers, DESIRED_EXTENSION, Desired, label};
use crate::engine::{
    ContainerRecord, Engine, EngineError, EngineOptions, Event, private_address, stop_private,
};
use crate::image::Images;
use crate::network::{NetworkError, Networks};
use crate::reconcile::observe::{ObserveError, Observed, observe};
use crate::reconcile::plan::written_order;
use crate::state::{ContainerState, StateRoot};

/// Namespace in containerd where none is named.
const DEFAULT_NAMESPACE: &str = "default";

/// Time after which a worker without containers looks whether it is needed.
const IDLE: Duration = Duration::from_secs(2);

/// The same for one with containers, which is rarely to find that they are gone. As often it looks after the firewall.
const BUSY: Duration = Duration::from_secs(10);

/// How long containerd may take to clean up after a creation that was cut off.
const REMAINS: Duration = Duration::from_secs(1);

/// The worker could not begin.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot {operation}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
    #[error("a newer program goes on")]
    Replaced,
    #[error("a container lost who looks after it; the next worker takes it up")]
    Broken,
}

/// Who holds the queue, and from when on.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) who: String,
    pub(super) since: Timestamp,
}

/// One project's supervisor.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    units: Mutex<BTreeMap<String, UnitHandle>>,
    pub(super) queue: tokio::sync::Mutex<()>,
    /// Who holds the queue, for those who wait.
    pub(super) current: Mutex<Option<Turn>>,
    /// Woken when a request ended: the project may be gone.
    pub(super) ended: Notify,
    /// Ends the task that follows the project's files, while there is one.
    live: Mutex<Option<CancellationToken>>,
    /// A newer program is to go on.
    pub(super) replaced: Notify,
    /// Commands that are connected.
    pub(super) connections: AtomicUsize,
    /// Containers that are being removed, by id: who else wants to remove one waits.
    removals: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Runs until the project is gone. The process' exit code: 0 only then.
pub fn run(settings: WorkerSettings) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    // What is being done when the worker is to end goes on for a moment: the next one must not meet it.
    if let Err(error) = settings.lock.keep() {
        tracing::error!(%error, "cannot keep the lock");
        return ExitCode::FAILURE;
    }
    let result = runtime.block_on(supervise(settings));
    // Blocked reads of FIFOs must not keep a worker alive that has nothing left to do.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<_> =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
                    error.source()
                })
                .map(ToString::to_string)
                .collect();
            tracing::error!("{}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn supervise(mut settings: WorkerSettings) -> Result<(), WorkerError> {
    let listener = settings.listen().map_err(|source| WorkerError::Io {
        operation: "listen for commands",
        source,
    })?;
    let explicit = settings.address.as_deref().map(Path::new);
    let engine = EngineOptions {
        address: crate::engine::locate(explicit, None, &settings.state).await?,
        namespace: settings
            .namespace
            .unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        snapshotter: None,
    };
    let worker = Worker::open(settings.project, settings.state, engine, settings.holder).await?;
    let reason = if settings.held.is_empty() {
        "asked for by a command"
    } else {
        "the worker before it ended"
    };
    worker.resume(settings.held).await?;
    let began = EventRecord::new("supervisor", "start")
        .with("reason", reason)
        .with("containers", worker.units().len())
        .with("pid", std::process::id());
    worker.shared.note(&began);
    tokio::spawn(follow_engine(Arc::clone(&worker)));
    worker.resume_live();
    tokio::select! {
        // Cancel-safe: the loop is dropped for good.
        result = accept(Arc::clone(&worker), listener) => result.map_err(|source| WorkerError::Io {
            operation: "accept a command",
            source,
        }),
        () = worker.gone() => {
            let ended = EventRecord::new("supervisor", "end");
            worker.shared.note(&ended.with("reason", "nothing is left to supervise"));
            worker.close().await;
            Ok(())
        }
        () = worker.replaced.notified() => Err(WorkerError::Replaced),
        () = worker.shared.broken.notified() => Err(WorkerError::Broken),
        () = worker.shared.holder.lost() => Err(WorkerError::Io {
            operation: "go on",
            source: io::Error::other("the keeper has ended"),
        }),
    }
}

async fn accept(worker: Arc<Worker>, listener: Listener) -> io::Result<()> {
    loop {
        let connection = listener.accept().await?;
        let worker = Arc::clone(&worker);
        worker.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let changed = Box::pin(request::serve(&worker, connection)).await;
            worker.connections.fetch_sub(1, Ordering::SeqCst);
            if changed {
                worker.ended.notify_one();
            }
        });
    }
}

/// Passes on what containerd tells.
async fn follow_engine(worker: Arc<Worker>) {
    let mut events = worker.shared.containers.engine.subscribe();
    while let Some(event) = events.recv().await {
        match event {
            Event::Subscribed => {
                for unit in worker.units() {
                    exec::watch_all(&worker.shared.containers, &unit.id);
                    unit.send(Command::Look).await;
                }
            }
            Event::ContainerDeleted { id } if worker.unit(&id).is_some() => {
                let worker = Arc::clone(&worker);
                tokio::spawn(async move {
                    tracing::warn!(id, "another tool removed a container");
                    if let Err(error) = worker.remove(&id, false).await {
                        tracing::error!(%error, id, "cannot clean up after it");
                    }
                    worker.ended.notify_one();
                });
            }
            Event::ExecStarted { id, exec_id } if !exec::is_own(&exec_id) => {
                let event = EventRecord::new("container", "exec_start").with("execID", exec_id);
                worker.tell(&id, Command::Note(event)).await;
            }
            Event::TaskExited {
                id,
                exec_id,
                exit_code,
                ..
            } if exec_id != id && !exec::is_own(&exec_id) => {
                let event = EventRecord::new("container", "exec_die")
                    .with("execID", exec_id)
                    .with("exitCode", exit_code);
                worker.tell(&id, Command::Note(event)).await;
            }
            Event::ExecAdded { id, exec_id } if worker.unit(&id).is_some() => {
                let containers = worker.shared.containers.clone();
                tokio::spawn(exec::watch(containers, id, exec_id));
            }
            Event::OutOfMemory { id } => worker.tell(&id, Command::OutOfMemory).await,
            Event::TaskStarted { id, .. } => worker.tell(&id, Command::Look).await,
            _ => {}
        }
    }
}

/// What a container was made from; `None` if another tool made it.
pub(super) fn desired(record: &ContainerRecord) -> Option<Desired> {
    let json = record.extensions.get(DESIRED_EXTENSION)?;
    serde_json::from_slice(json)
        .inspect_err(|error| {
            tracing::error!(%error, container = record.id, "cannot read what it was made from");
        })
        .ok()
}

impl Worker {
    /// Connects to the engine and begins with no container.
    pub(super) async fn open(
        project: String,
        state: StateRoot,
        engine: EngineOptions,
        holder: Holder,
    ) -> Result<Arc<Self>, WorkerError> {
        let engine = Engine::connect(engine).await?;
        let networks = Networks::new(state.clone());
        let dns = DnsServer::new(networks.clone(), &state);
        let containers = Containers {
            images: Images::new(engine.clone(), state.clone()),
            engine,
            networks,
            state,
        };
        Ok(Arc::new(Self {
            shared: Arc::new(Shared::new(project, containers, holder, dns)),
            units: Mutex::default(),
            queue: tokio::sync::Mutex::default(),
            current: Mutex::default(),
            ended: Notify::new(),
            live: Mutex::default(),
            replaced: Notify::new(),
            connections: AtomicUsize::new(0),
            removals: Mutex::default(),
        }))
    }

    /// Takes what is there under supervision: after a restart of the worker, of both processes, of the host.
    /// `held`: what workers before this one had held.
    pub(super) async fn resume(
        self: &Arc<Self>,
        held: Vec<(String, OwnedFd)>,
    ) -> Result<(), WorkerError> {
        let shared = &self.shared;
        let mut sandboxes: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (key, descriptor) in held {
            shared.remember(&key);
            match key.split('/').collect::<Vec<_>>()[..] {
                ["dns" | "port", sandbox, ..] => {
                    sandboxes
                        .entry(sandbox.to_owned())
                        .or_default()
                        .push((key.clone(), descriptor));
                }
                _ => shared.inherit(key, descriptor),
            }
        }
        for sandbox in shared.containers.networks.sandboxes()? {
            if sandbox.spec.labels.get(label::PROJECT) != Some(&shared.project) {
                continue;
            }
            let id = &sandbox.spec.id;
            let held = match sandboxes.remove(id) {
                Some(held) => Ok(held),
                None if sandbox.boot_id == shared.boot_id => {
                    shared.containers.networks.reopen(id).await
                }
                // Its kernel half is gone; the next start makes it anew.
                None => continue,
            };
            if let Err(error) = held.and_then(|held| shared.hold_sandbox(id, held)) {
                tracing::error!(%error, sandbox = id, "cannot serve a sandbox");
            }
        }
        let snapshots = self.snapshots().await;
        let records = self.records().await?;
        self.remove_unmade(&snapshots, &records).await;
        // All of them before the first is looked at: what it gives up may be another's.
        for record in &records {
            if let Some(desired) = desired(record)
                && let Some(sandbox) = unit::home(shared, &desired)
            {
                shared.presume_tenant(&sandbox, &record.id).await;
            }
        }
        let order = written_order(records.iter().map(|record| &record.labels));
        let mut units = Vec::with_capacity(records.len());
        for record in records {
            let gate = CancellationToken::new();
            let Some(unit) = self.supervise(record, Some(gate.clone())) else {
                continue;
            };
            if unit.one_off {
                tokio::spawn(Arc::clone(self).end_unstarted(unit.clone()));
            }
            units.push((unit, gate));
        }
        revival::open_in_order(&units, &order);
        self.end_leases().await;
        Ok(())
    }

    /// Follows the project's files if a worker before this one did.
    fn resume_live(self: &Arc<Self>) {
        match LiveRecord::read(&self.shared.state, &self.shared.project) {
            Ok(Some(record)) => self.begin_live(record),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot follow the project's files"),
        }
    }

    /// Follows the project's files as `record` says, and no longer as an earlier one.
    pub(super) fn begin_live(self: &Arc<Self>, record: LiveRecord) {
        let end = CancellationToken::new();
        let mut live = self.locked_live();
        self.write_live(&record);
        if let Some(earlier) = live.replace(end.clone()) {
            earlier.cancel();
        }
        tokio::spawn(live::follow(Arc::clone(self), record, end));
    }

    /// Keeps `record`, unless what follows it has been told to end.
    pub(super) fn save_live(&self, record: &LiveRecord, end: &CancellationToken) {
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
    pub(super) fn end_live(&self) {
        let mut live = self.locked_live();
        if let Some(end) = live.take() {
            end.cancel();
        }
        LiveRecord::remove(&self.shared.state, &self.shared.project);
    }

    fn locked_live(&self) -> std::sync::MutexGuard<'_, Option<CancellationToken>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys of the root file systems that were made for this project.
    async fn snapshots(&self) -> Vec<String> {
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        let found = self.shared.containers.engine.snapshots(&[filter]).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for what an earlier worker left");
            Vec::new()
        });
        let of_containers = found.into_iter().filter(|snapshot| !snapshot.committed);
        of_containers.map(|snapshot| snapshot.key).collect()
    }

    /// Removes what there is of containers that a worker before this one did not live to make: files, mounts, snapshots.
    async fn remove_unmade(&self, snapshots: &[String], records: &[ContainerRecord]) {
        let containers = &self.shared.containers;
        for id in containers.unfinished_removals(&self.shared.project) {
            // One whose record is still there is whoever's to remove who asks for it.
            if records.iter().any(|record| record.id == id) {
                continue;
            }
            if let Err(error) = containers.remove(&id, false).await {
                tracing::warn!(%error, id, "cannot finish the removal of a container");
            }
        }
        for key in snapshots {
            // Snapshots of images that are mounted carry the container's id in front.
            let id = key.split('-').next().unwrap_or_default();
            let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_id || records.iter().any(|record| record.id == id) {
                continue;
            }
            let removed = if key == id {
                containers.remove(id, false).await
            } else {
                containers
                    .engine
                    .remove_snapshot(key)
                    .await
                    .map_err(Into::into)
            };
            if let Err(error) = removed {
                tracing::warn!(%error, id, "cannot remove what is left of a container");
            }
        }
    }

    /// Ends the leases of requests that a worker before this one did not live to finish.
    async fn end_leases(&self) {
        let engine = &self.shared.containers.engine;
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        let end_all = async {
            for lease in engine.leases(&[filter]).await?.into_keys() {
                engine.delete_lease(&lease).await?;
            }
            Ok::<(), EngineError>(())
        };
        if let Err(error) = end_all.await {
            tracing::warn!(%error, "cannot end the leases of an earlier worker");
        }
    }

    /// The containers of this project.
    async fn records(&self) -> Result<Vec<ContainerRecord>, EngineError> {
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        self.shared.containers.engine.containers(&[filter]).await
    }

    /// Takes one container under supervision; `None` if another tool made it. `gate`: see [`unit::spawn`].
    fn supervise(
        self: &Arc<Self>,
        record: ContainerRecord,
        gate: Option<CancellationToken>,
    ) -> Option<UnitHandle> {
        let id = record.id.clone();
        let desired = desired(&record)?;
        let state = ContainerState::load(&self.shared.state, &id).unwrap_or_else(|error| {
            tracing::error!(%error, container = id, "cannot read its state");
            ContainerState::default()
        });
        let unit = unit::spawn(Arc::clone(&self.shared), record, desired, state, gate);
        self.locked_units().insert(id, unit.clone());
        if unit.one_off {
            tokio::spawn(attach::see_off(Arc::clone(self), unit.clone()));
        }
        Some(unit)
    }

    /// Removes a one-off that a worker before this one made and did not live to start: nobody else will.
    async fn end_unstarted(self: Arc<Self>, unit: UnitHandle) {
        let settled = unit.ask(|reply| Command::Settle { reply }).await;
        if settled.is_ok() && !unit.status.borrow().was_started {
            self.remove_one_off(&unit).await;
        }
    }

    /// Removes the container of a single command with what was made for it. The sandbox goes first: who finds a
    /// container without one still knows what is left to do.
    pub(super) async fn remove_one_off(&self, unit: &UnitHandle) {
        if let Some(sandbox) = &unit.sandbox {
            self.remove_sandbox(sandbox).await;
        }
        if let Err(error) = self.remove(&unit.id, true).await {
            tracing::error!(%error, container = unit.name, "cannot remove it");
        }
        self.ended.notify_one();
    }

    /// Removes the sandbox of a container of a single command. Not an error if there is none.
    pub(super) async fn remove_sandbox(&self, sandbox: &str) {
        if let Err(error) = self.shared.remove_sandbox(sandbox).await {
            tracing::error!(%error, sandbox, "cannot remove a sandbox");
        }
    }

    /// Takes a container that was just made under supervision.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<Option<UnitHandle>, EngineError> {
        let record = self.shared.containers.engine.container(id).await?;
        Ok(record.and_then(|record| self.supervise(record, None)))
    }

    fn locked_units(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, UnitHandle>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn units(&self) -> Vec<UnitHandle> {
        self.locked_units().values().cloned().collect()
    }

    pub(super) fn unit(&self, id: &str) -> Option<UnitHandle> {
        self.locked_units().get(id).cloned()
    }

    /// The newest container of a slot: a recreation that was cut off leaves two.
    pub(super) fn unit_by_name(&self, name: &str) -> Option<UnitHandle> {
        self.locked_units()
            .values()
            .filter(|unit| unit.name == name)
            .max_by_key(|unit| unit.created_at)
            .cloned()
    }

    async fn tell(&self, id: &str, command: Command) {
        if let Some(unit) = self.unit(id) {
            unit.send(command).await;
        }
    }

    /// Sends a signal. One that ends a process also ends its restarts, as with Docker.
    pub(super) async fn kill(&self, id: &str, signal: u32) -> Result<(), ContainerError> {
        const ENDING: [u32; 3] = [2, 9, 15];
        if ENDING.contains(&signal) {
            self.tell(id, Command::MarkStopped).await;
        }
        let event = EventRecord::new("container", "kill").with("signal", signal);
        self.tell(id, Command::Note(event)).await;
        Ok(self
            .shared
            .containers
            .engine
            .kill_task(id, signal, false)
            .await?)
    }

    /// Removes a container, supervised or not.
    pub(super) async fn remove(&self, id: &str, volumes: bool) -> Result<(), ContainerError> {
        let removals = || self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Arc::clone(removals().entry(id.to_owned()).or_default());
        let result = {
            let _turn = turn.lock().await;
            self.remove_in_turn(id, volumes).await
        };
        removals().remove(id);
        result
    }

    async fn remove_in_turn(&self, id: &str, volumes: bool) -> Result<(), ContainerError> {
        // Out of the list first: what containerd then tells of its end is no news.
        let unit = self.locked_units().remove(id);
        let Some(unit) = unit else {
            return self.shared.containers.remove(id, volumes).await;
        };
        let removed = unit.ask(|reply| Command::Remove { volumes, reply }).await;
        if removed.is_err() {
            self.locked_units().insert(id.to_owned(), unit);
        }
        removed
    }

    pub(super) async fn observe(&self) -> Result<Observed, ObserveError> {
        let containers = &self.shared.containers;
        let Containers {
            engine,
            networks,
            state,
            ..
        } = containers;
        observe(engine, networks, containers, state, &self.shared.project).await
    }

    /// Writes the firewall rules anew if they are not as the records ask for: another tool may have begun with a clean
    /// sheet, or a worker been killed between the two.
    pub(super) async fn mend_firewall(&self) {
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
    async fn close(&self) {
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
    async fn gone(&self) {
        let mut last_look = Instant::now();
        loop {
            // Cancel-safe: a wake that is lost is made up for by the next look.
            let is_idle = self.locked_units().is_empty();
            let patience = if is_idle { IDLE } else { BUSY };
            let _ = tokio::time::timeout(patience, self.ended.notified()).await;
            if !is_idle && last_look.elapsed() > BUSY {
                self.mend_firewall().await;
                last_look = Instant::now();
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
