//! The worker: takes every container of a project under supervision, answers requests, ends when nothing is left.

mod end;
mod events;
mod live;
mod takeover;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attach;
use super::dns::DnsServer;
use super::frame::Listener;
use super::history::EventRecord;
use super::hold::Holder;
use super::process::WorkerSettings;
use super::request;
use super::shared::Shared;
use super::unit::{self, Command, UnitHandle};
use crate::container::{ContainerError, Containers, DESIRED_EXTENSION, Desired};
use crate::engine::{ContainerRecord, Engine, EngineError, EngineOptions};
use crate::image::Images;
use crate::network::{NetworkError, Networks};
use crate::reconcile::observe::{ObserveError, Observed, observe};
use crate::state::{ContainerState, StateRoot};
use crate::sys::memory;

/// Namespace in containerd where none is named.
const DEFAULT_NAMESPACE: &str = "default";

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
    memory::share_heaps();
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
    tokio::spawn(events::follow_engine(Arc::clone(&worker)));
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

    /// Takes one container under supervision; `None` if another tool made it.
    fn supervise(
        self: &Arc<Self>,
        record: ContainerRecord,
        past: unit::Past,
    ) -> Option<UnitHandle> {
        let id = record.id.clone();
        let desired = desired(&record)?;
        let state = ContainerState::load(&self.shared.state, &id).unwrap_or_else(|error| {
            tracing::error!(%error, container = id, "cannot read its state");
            ContainerState::default()
        });
        let unit = unit::spawn(Arc::clone(&self.shared), record, desired, state, past);
        self.locked_units().insert(id, unit.clone());
        if unit.one_off {
            tokio::spawn(attach::see_off(Arc::clone(self), unit.clone()));
        }
        Some(unit)
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

    /// Takes a container under supervision that this worker has just made.
    pub(super) fn supervise_new(self: &Arc<Self>, record: ContainerRecord) -> Option<UnitHandle> {
        self.supervise(record, unit::Past::None)
    }

    /// Takes a container under supervision that another worker made, or this one without being told that it had.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<Option<UnitHandle>, EngineError> {
        let record = self.shared.containers.engine.container(id).await?;
        Ok(record.and_then(|record| self.supervise(record, unit::Past::Unknown(None))))
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

    fn tell(&self, id: &str, command: Command) {
        if let Some(unit) = self.unit(id) {
            unit.post(command);
        }
    }

    /// Sends a signal.
    pub(super) async fn kill(&self, id: &str, signal: u32) -> Result<(), ContainerError> {
        if let Some(unit) = self.unit(id) {
            unit.send(Command::Kill { signal }).await;
        }
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
        // What failed after its record was gone is not to be tried again with it.
        let is_gone =
            || async { matches!(self.shared.containers.engine.container(id).await, Ok(None)) };
        if removed.is_err() && !is_gone().await {
            self.locked_units().insert(id.to_owned(), unit);
        }
        removed
    }

    pub(super) async fn observe(&self) -> Result<Observed, ObserveError> {
        observe(&self.shared.containers, &self.shared.project).await
    }

    /// Has peers find the containers that run and are recorded as if they did not: there was no room for the record.
    pub(super) async fn show_hidden(&self) {
        let sandboxes = self.shared.containers.networks.sandboxes();
        let hidden: Vec<String> = sandboxes
            .into_iter()
            .flatten()
            .filter(|sandbox| !sandbox.active)
            .map(|sandbox| sandbox.spec.id)
            .collect();
        for unit in self.units() {
            let runs = unit.status.borrow().running;
            if runs
                && unit
                    .sandbox
                    .as_ref()
                    .is_some_and(|sandbox| hidden.contains(sandbox))
            {
                unit.ask(|reply| Command::WriteAgain { reply }).await.ok();
            }
        }
    }
}
