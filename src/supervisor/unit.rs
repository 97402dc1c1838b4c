//! One container under supervision: an actor that starts and stops it, sees it end, restarts it and probes its health.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::exec::{self, Outcome};
use super::health::ProbeSettings;
use super::protocol::ContainerChange;
use super::restart::{BackOff, RestartPolicy};
use super::shared::Shared;
use crate::container::{ContainerError, Desired, ExecOptions, parse_signal};
use crate::engine::{ContainerRecord, EngineError, ExitStatus, TaskStatus};
use crate::log::pump::{self, Pump, Streams};
use crate::log::{LogOptions, file_name};
use crate::state::{ContainerState, Exit, Health, HealthStatus, Probe, Wanted, create_private_dir};

/// Exit code of a run whose end nobody saw.
const LOST: u32 = 137;
/// Bytes of a probe's output that are kept.
const PROBE_OUTPUT: usize = 4096;
/// Time for the last output to reach the log after the end.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause between attempts to reach containerd.
const RETRY: Duration = Duration::from_millis(500);

/// What others see of a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UnitStatus {
    pub(super) running: bool,
    pub(super) paused: bool,
    /// It has ended and will start again.
    pub(super) restarting: bool,
    pub(super) health: Option<HealthStatus>,
    /// Of the last run, once it has ended.
    pub(super) exit: Option<Exit>,
    /// Why the last start failed.
    pub(super) error: Option<String>,
    /// Output of the last failed probe.
    pub(super) probe_output: Option<String>,
}

/// What a unit is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Start {
        reason: String,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// `timeout` in seconds instead of its own grace period.
    Stop {
        timeout: Option<u32>,
        reason: String,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// It will be killed by a command: it is not to start again.
    MarkStopped,
    Pause {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    Unpause {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// Its record was changed in place.
    Update {
        desired: Box<Desired>,
    },
    OutOfMemory,
    /// Look at the task again: another tool may have started it.
    Look,
    /// Kills, removes every trace, ends the unit.
    Remove {
        volumes: bool,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
}

/// The others' end of a unit.
#[derive(Clone, Debug)]
pub(super) struct UnitHandle {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) number: u32,
    pub(super) one_off: bool,
    mailbox: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<UnitStatus>,
}

impl UnitHandle {
    /// Sends a command without waiting for its effect.
    pub(super) async fn send(&self, command: Command) {
        // A unit that has ended has nothing left to do.
        let _ = self.mailbox.send(command).await;
    }

    /// Sends a command and waits until it is done.
    pub(super) async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), ContainerError>>) -> Command,
    ) -> Result<(), ContainerError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await;
        answer.await.unwrap_or(Ok(()))
    }
}

/// What is known only while it runs.
#[derive(Debug)]
struct Run {
    wait: JoinHandle<Option<ExitStatus>>,
    since: Instant,
    paused: bool,
    next_probe: Option<Instant>,
    probe: Option<JoinHandle<Result<Probe, ContainerError>>>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.wait.abort();
        if let Some(probe) = &self.probe {
            probe.abort();
        }
    }
}

#[derive(Debug)]
enum Phase {
    Idle,
    Running(Run),
    BackingOff { until: Instant },
}

struct Unit {
    shared: Arc<Shared>,
    record: ContainerRecord,
    desired: Desired,
    state: ContainerState,
    status: watch::Sender<UnitStatus>,
    phase: Phase,
    back_off: BackOff,
    pump: Option<Pump>,
    out_of_memory: bool,
}

/// Something happened to a unit.
enum Happening {
    Command(Option<Command>),
    Ended(Option<ExitStatus>),
    BackOffOver,
    ProbeDue,
    ProbeDone(Result<Probe, ContainerError>),
}

/// Takes a container under supervision, whatever state it is in.
pub(super) fn spawn(
    shared: Arc<Shared>,
    record: ContainerRecord,
    desired: Desired,
    state: ContainerState,
) -> UnitHandle {
    let (mailbox, commands) = mpsc::channel(16);
    let (status, watched) = watch::channel(UnitStatus::default());
    let handle = UnitHandle {
        id: record.id.clone(),
        name: desired.name.clone(),
        service: desired.service.clone(),
        number: desired.number,
        one_off: desired.one_off,
        mailbox,
        status: watched,
    };
    let unit = Unit {
        shared,
        record,
        desired,
        state,
        status,
        phase: Phase::Idle,
        back_off: BackOff::default(),
        pump: None,
        out_of_memory: false,
    };
    unit.publish();
    tokio::spawn(unit.run(commands));
    handle
}

impl Unit {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.look().await;
        loop {
            match self.next(&mut commands).await {
                Happening::Command(None) => return,
                Happening::Command(Some(Command::Remove { volumes, reply })) => {
                    let result = self.remove(volumes).await;
                    let ended = result.is_ok();
                    let _ = reply.send(result);
                    if ended {
                        return;
                    }
                }
                Happening::Command(Some(command)) => self.obey(command).await,
                Happening::Ended(status) => self.ended(status).await,
                Happening::BackOffOver => self.restart().await,
                Happening::ProbeDue => self.begin_probe(),
                Happening::ProbeDone(result) => self.take_probe(result),
            }
            self.publish();
        }
    }

    async fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Happening {
        let until = match &self.phase {
            Phase::Idle => None,
            Phase::BackingOff { until } => Some(*until),
            Phase::Running(run) if run.probe.is_none() && !run.paused => run.next_probe,
            Phase::Running(_) => None,
        };
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let backing_off = matches!(self.phase, Phase::BackingOff { .. });
        let (wait, probe) = match &mut self.phase {
            Phase::Running(run) => (Some(&mut run.wait), run.probe.as_mut()),
            _ => (None, None),
        };
        tokio::select! {
            biased;
            // Cancel-safe: a message is taken only when this arm wins.
            command = commands.recv() => Happening::Command(command),
            // Cancel-safe: the handle is kept in the phase.
            Some(status) = optional(wait) => Happening::Ended(status.ok().flatten()),
            // Cancel-safe: the handle is kept in the phase.
            Some(probe) = optional(probe) => Happening::ProbeDone(match probe {
                Ok(result) => result,
                Err(error) => Err(ContainerError::Io {
                    operation: "run the health probe".into(),
                    source: std::io::Error::other(error),
                }),
            }),
            // Cancel-safe: the deadline is kept in the phase.
            () = timer => if backing_off { Happening::BackOffOver } else { Happening::ProbeDue },
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { reason, reply } => {
                self.back_off.reset();
                self.state.restart_count = 0;
                let _ = reply.send(self.start(reason).await);
            }
            Command::Stop {
                timeout,
                reason,
                reply,
            } => {
                let _ = reply.send(self.stop(timeout, reason).await);
            }
            Command::MarkStopped => self.want_stopped("kill"),
            Command::Pause { reply } => {
                let result = self
                    .shared
                    .containers
                    .engine
                    .pause_task(&self.record.id)
                    .await;
                if let (Ok(()), Phase::Running(run)) = (&result, &mut self.phase) {
                    run.paused = true;
                    self.emit(ContainerChange::Paused, None);
                }
                let _ = reply.send(result.map_err(Into::into));
            }
            Command::Unpause { reply } => {
                let result = self
                    .shared
                    .containers
                    .engine
                    .resume_task(&self.record.id)
                    .await;
                if let (Ok(()), Phase::Running(run)) = (&result, &mut self.phase) {
                    run.paused = false;
                    self.emit(ContainerChange::Unpaused, None);
                }
                let _ = reply.send(result.map_err(Into::into));
            }
            Command::Update { desired } => {
                self.desired = *desired;
                self.plan_probe();
            }
            Command::OutOfMemory => {
                self.out_of_memory = true;
                self.emit(ContainerChange::OutOfMemory, None);
            }
            Command::Look => self.look().await,
            Command::Remove { .. } => {}
        }
    }

    /// Brings the phase in line with what containerd says: at the beginning, and when another tool may have acted.
    async fn look(&mut self) {
        if matches!(self.phase, Phase::Running(_)) {
            return;
        }
        let task = loop {
            match self.shared.containers.engine.task(&self.record.id).await {
                Ok(task) => break task,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at a task");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        match task {
            Some(task)
                if matches!(
                    task.status,
                    TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing
                ) =>
            {
                self.adopt(task.status != TaskStatus::Running).await;
            }
            Some(task) if task.status == TaskStatus::Stopped => {
                if self.state.exit.is_none() && self.state.started_at.is_some() {
                    let at = task.exited_at.unwrap_or_else(Timestamp::now);
                    self.ended(Some(ExitStatus {
                        code: task.exit_code,
                        at,
                    }))
                    .await;
                }
            }
            // Between create and start: whoever started it was cut off; the next start begins anew.
            Some(_) => {}
            None if self.state.wanted == Wanted::Running && self.state.exit.is_none() => {
                self.ended(None).await;
            }
            None if self.state.wanted == Wanted::Running && self.state.restart_at.is_some() => {
                self.phase = Phase::BackingOff {
                    until: Instant::now(),
                };
            }
            None => {}
        }
        self.publish();
    }

    /// Takes over a task that runs already.
    async fn adopt(&mut self, paused: bool) {
        if let Err(error) = self.resume_log() {
            tracing::error!(%error, container = self.desired.name, "cannot read its output");
        }
        if let Some(sandbox) = self.desired.sandbox.clone() {
            if let Err(error) = self.shared.repair_sandbox(&sandbox).await {
                tracing::error!(%error, sandbox, "cannot repair a sandbox");
            }
            self.set_active(true);
        }
        self.state.wanted = Wanted::Running;
        self.state.exit = None;
        self.state.restart_at = None;
        let ran = self.state.started_at.map_or(Duration::ZERO, |at| {
            Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default()
        });
        self.begin_run(
            Instant::now().checked_sub(ran).unwrap_or_else(Instant::now),
            paused,
        );
        self.save();
    }

    async fn start(&mut self, reason: String) -> Result<(), ContainerError> {
        if matches!(self.phase, Phase::Running(_)) {
            return Ok(());
        }
        self.state.wanted = Wanted::Running;
        self.state.restart_at = None;
        self.state.reason = Some(reason.clone());
        self.state.boot_id.clone_from(&self.shared.boot_id);
        self.state.run += 1;
        self.out_of_memory = false;
        let result = self.start_task().await;
        match &result {
            Ok(()) => {
                self.state.exit = None;
                self.state.error = None;
                self.state.started_at = Some(Timestamp::now());
                self.state.health = None;
                self.begin_run(Instant::now(), false);
                self.set_active(true);
                self.emit(ContainerChange::Started, Some(reason));
            }
            Err(error) => {
                self.phase = Phase::Idle;
                if let Some(pump) = self.pump.take() {
                    pump.stop().await;
                }
                self.close_log().await;
                self.state.error = Some(error.to_string());
                self.state.exit = Some(Exit {
                    code: u32::from(error.exit_code()),
                    at: Timestamp::now(),
                    out_of_memory: false,
                    lost: false,
                });
                self.release_sandbox().await;
            }
        }
        self.save();
        self.publish();
        result
    }

    async fn start_task(&mut self) -> Result<(), ContainerError> {
        if let Some(sandbox) = self.desired.sandbox.clone() {
            self.shared.ensure_sandbox(&sandbox).await?;
        }
        self.open_log().map_err(|source| ContainerError::Io {
            operation: "open the log".into(),
            source,
        })?;
        self.shared.containers.start(&self.record.id).await?;
        Ok(())
    }

    /// Opens our ends of the FIFOs for the next run and begins to read.
    fn open_log(&mut self) -> io::Result<()> {
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
    fn resume_log(&mut self) -> io::Result<()> {
        let held = self.shared.take_inherited(&fifo_key(&self.record.id, ""));
        if held.is_empty() {
            return self.open_log();
        }
        let streams = Streams::from_held(&self.shared.fifos(&self.record.id), held);
        self.read_log(streams)
    }

    /// Reads what a run left that ended while no worker was there.
    fn read_last_words(&mut self) {
        let held = self.shared.take_inherited(&fifo_key(&self.record.id, ""));
        if held.is_empty() {
            return;
        }
        let streams = Streams::from_held(&self.shared.fifos(&self.record.id), held);
        if let Err(error) = self.read_log(streams) {
            tracing::error!(%error, container = self.desired.name, "cannot read its last output");
        }
    }

    fn read_log(&mut self, streams: Streams) -> io::Result<()> {
        let id = &self.record.id;
        let path = self.shared.state.container(id).join(file_name(id));
        let options = LogOptions::new(path, &self.desired.logging);
        self.pump = Some(pump::spawn(streams, options)?);
        Ok(())
    }

    /// Waits until the last output is in the log, though not for ever, and lets the FIFOs go.
    async fn close_log(&mut self) {
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

    fn begin_run(&mut self, since: Instant, paused: bool) {
        let wait = tokio::spawn(wait(Arc::clone(&self.shared), self.record.id.clone()));
        self.phase = Phase::Running(Run {
            wait,
            since,
            paused,
            next_probe: None,
            probe: None,
        });
        self.plan_probe();
    }

    async fn stop(&mut self, timeout: Option<u32>, reason: String) -> Result<(), ContainerError> {
        self.want_stopped(&reason);
        if let Phase::Running(run) = &self.phase {
            let grace = timeout.unwrap_or(self.desired.stop_timeout);
            let signal = parse_signal(&self.desired.stop_signal).unwrap_or(15);
            if run.paused {
                self.shared
                    .containers
                    .engine
                    .resume_task(&self.record.id)
                    .await?;
            }
            let grace = Duration::from_secs(u64::from(grace));
            let status = self
                .shared
                .containers
                .stop(&self.record.id, signal, grace)
                .await?;
            self.ended(Some(status)).await;
            self.emit(ContainerChange::Stopped, Some(reason));
        } else {
            self.phase = Phase::Idle;
            self.release_sandbox().await;
        }
        Ok(())
    }

    fn want_stopped(&mut self, reason: &str) {
        self.state.wanted = Wanted::Stopped;
        self.state.restart_at = None;
        self.state.reason = Some(reason.to_owned());
        if matches!(self.phase, Phase::BackingOff { .. }) {
            self.phase = Phase::Idle;
        }
        self.save_durable();
    }

    /// The run is over: `None` if nobody knows how.
    async fn ended(&mut self, status: Option<ExitStatus>) {
        if self.pump.is_none() {
            self.read_last_words();
        }
        let ran = match &self.phase {
            Phase::Running(run) => run.since.elapsed(),
            _ => Duration::ZERO,
        };
        self.phase = Phase::Idle;
        let exit = Exit {
            code: status.map_or(LOST, |status| status.code),
            at: status.map_or_else(Timestamp::now, |status| status.at),
            out_of_memory: std::mem::take(&mut self.out_of_memory),
            lost: status.is_none(),
        };
        let code = exit.code;
        self.state.exit = Some(exit);
        let policy = RestartPolicy::parse(&self.desired.restart);
        let again =
            self.state.wanted == Wanted::Running && policy.applies(code, self.state.restart_count);
        let delay = again.then(|| self.back_off.next(ran));
        self.state.restart_at = delay.and_then(|delay| Timestamp::now().checked_add(delay).ok());
        // Before the task goes, and the only other trace of how it ended with it.
        self.save();
        self.close_log().await;
        if let Err(error) = self
            .shared
            .containers
            .engine
            .delete_task(&self.record.id)
            .await
        {
            tracing::warn!(%error, container = self.desired.name, "cannot delete its task");
        }
        self.set_active(false);
        if let Some(delay) = delay {
            self.phase = Phase::BackingOff {
                until: Instant::now() + delay,
            };
        }
        // Whoever waits sees the end before whoever follows hears of it.
        self.publish();
        self.emit(ContainerChange::Exited { code }, None);
        match delay {
            Some(delay) => {
                let after_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                self.emit(
                    ContainerChange::Restarting { after_ms },
                    Some("restart policy".into()),
                );
            }
            None => self.release_sandbox().await,
        }
    }

    async fn restart(&mut self) {
        self.state.restart_count += 1;
        if let Err(error) = self.start("restart policy".into()).await {
            tracing::warn!(%error, container = self.desired.name, "cannot restart it");
            let policy = RestartPolicy::parse(&self.desired.restart);
            if policy.applies(error.exit_code().into(), self.state.restart_count) {
                let delay = self.back_off.next(Duration::ZERO);
                self.state.restart_at = Timestamp::now().checked_add(delay).ok();
                self.phase = Phase::BackingOff {
                    until: Instant::now() + delay,
                };
                self.save();
            }
        }
    }

    async fn remove(&mut self, volumes: bool) -> Result<(), ContainerError> {
        self.want_stopped("removed");
        if let Phase::Running(_) = &self.phase {
            self.shared
                .containers
                .stop(&self.record.id, 9, Duration::ZERO)
                .await?;
        }
        self.phase = Phase::Idle;
        self.close_log().await;
        self.shared
            .containers
            .remove(&self.record.id, volumes)
            .await?;
        self.emit(ContainerChange::Removed, None);
        Ok(())
    }

    fn set_active(&self, active: bool) {
        if let Some(sandbox) = &self.desired.sandbox
            && let Err(error) = self.shared.containers.networks.set_active(sandbox, active)
        {
            tracing::warn!(%error, sandbox, active, "cannot change whether peers find it");
        }
    }

    /// Gives addresses and ports back; the next start takes them again.
    async fn release_sandbox(&self) {
        if let Some(sandbox) = &self.desired.sandbox {
            self.shared.let_go_of_sandbox(sandbox);
            if let Err(error) = self
                .shared
                .containers
                .networks
                .release_sandbox(sandbox)
                .await
            {
                tracing::warn!(%error, sandbox, "cannot release a sandbox");
            }
        }
    }

    /// Sets when the next probe is due.
    fn plan_probe(&mut self) {
        let settings = ProbeSettings::new(self.desired.healthcheck.as_ref());
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        run.next_probe = settings.map(|settings| {
            let health = self.state.health.get_or_insert_default();
            let delay = settings.delay(health, run.since.elapsed());
            Instant::now() + jittered(delay)
        });
        if run.next_probe.is_none() {
            self.state.health = None;
        }
    }

    fn begin_probe(&mut self) {
        let Some(settings) = ProbeSettings::new(self.desired.healthcheck.as_ref()) else {
            return;
        };
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let record = self.record.clone();
        run.probe = Some(tokio::spawn(async move {
            probe(&shared, &record, &settings).await
        }));
    }

    fn take_probe(&mut self, result: Result<Probe, ContainerError>) {
        let Some(settings) = ProbeSettings::new(self.desired.healthcheck.as_ref()) else {
            return;
        };
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        run.probe = None;
        let ran = run.since.elapsed();
        let probe = result.unwrap_or_else(|error| {
            let now = Timestamp::now();
            Probe {
                start: now,
                end: now,
                exit_code: -1,
                output: error.to_string(),
            }
        });
        let health = self.state.health.get_or_insert_default();
        if settings.record(health, probe, ran) {
            let status = health.status;
            self.save();
            self.emit(ContainerChange::Health { status }, None);
        } else {
            self.save();
        }
        self.plan_probe();
    }

    fn publish(&self) {
        let failed = |health: &Health| {
            health
                .log
                .iter()
                .rev()
                .find(|probe| probe.exit_code != 0)
                .map(|probe| probe.output.clone())
        };
        let status = UnitStatus {
            running: matches!(self.phase, Phase::Running(_)),
            paused: matches!(&self.phase, Phase::Running(run) if run.paused),
            restarting: matches!(self.phase, Phase::BackingOff { .. }),
            health: self.state.health.as_ref().map(|health| health.status),
            exit: self.state.exit.clone(),
            error: self.state.error.clone(),
            probe_output: self.state.health.as_ref().and_then(failed),
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn emit(&self, change: ContainerChange, reason: Option<String>) {
        self.shared
            .emit(&self.record.id, &self.desired, change, reason);
    }

    fn save(&self) {
        if let Err(error) = self.state.save(&self.shared.state, &self.record.id) {
            tracing::error!(%error, container = self.desired.name, "cannot save its state");
        }
    }

    fn save_durable(&self) {
        if let Err(error) = self.state.save_durable(&self.shared.state, &self.record.id) {
            tracing::error!(%error, container = self.desired.name, "cannot save its state");
        }
    }
}

/// Key under which the end `name` of a container's FIFOs is held.
fn fifo_key(id: &str, name: &str) -> String {
    format!("fifo/{id}/{name}")
}

/// Awaits what may not be there; never ends if it is not.
async fn optional<T>(
    handle: Option<&mut JoinHandle<T>>,
) -> Option<Result<T, tokio::task::JoinError>> {
    match handle {
        Some(handle) => Some(handle.await),
        None => std::future::pending().await,
    }
}

/// Waits for the end of a task, through restarts of containerd; `None` if it is gone without a trace.
async fn wait(shared: Arc<Shared>, id: String) -> Option<ExitStatus> {
    let engine = &shared.containers.engine;
    loop {
        match engine.wait_task(&id).await {
            Ok(status) => return Some(status),
            Err(EngineError::NotFound { .. }) => return None,
            Err(error) => {
                tracing::debug!(%error, "lost a wait for a task");
                tokio::time::sleep(RETRY).await;
            }
        }
        match engine.task(&id).await {
            Ok(None) => return None,
            Ok(Some(task)) if task.status == TaskStatus::Stopped => {
                let at = task.exited_at.unwrap_or_else(Timestamp::now);
                return Some(ExitStatus {
                    code: task.exit_code,
                    at,
                });
            }
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

async fn probe(
    shared: &Shared,
    record: &ContainerRecord,
    settings: &ProbeSettings,
) -> Result<Probe, ContainerError> {
    let _permit = shared.probes.acquire().await.ok();
    let start = Timestamp::now();
    let options = ExecOptions {
        command: settings.command.clone(),
        ..ExecOptions::default()
    };
    let timeout = settings.timeout;
    let (outcome, output) = exec::run(
        &shared.containers,
        record,
        &options,
        Some(timeout),
        PROBE_OUTPUT,
    )
    .await?;
    let (exit_code, output) = match outcome {
        Outcome::Exited { code } => (i32::try_from(code).unwrap_or(-1), output),
        Outcome::TimedOut => (
            -1,
            format!("Health check exceeded timeout ({timeout:?}): {output}"),
        ),
    };
    Ok(Probe {
        start,
        end: Timestamp::now(),
        exit_code,
        output,
    })
}

/// A delay changed by up to a twentieth, so that the probes of a stack do not all run at once.
fn jittered(delay: Duration) -> Duration {
    let mut byte = [0u8; 1];
    if rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty()).is_err() {
        return delay;
    }
    delay - delay / 20 * u32::from(byte[0]) / 255
}
