//! One container under supervision: an actor that starts and stops it, sees it end, restarts it and probes its health.

mod log;
mod probe;
mod run;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exec;
use super::history::EventRecord;
use super::protocol::ContainerChange;
use super::restart::BackOff;
use super::shared::Shared;
use crate::container::{ContainerError, Desired};
use crate::engine::{ContainerRecord, ExitStatus};
use crate::log::forward::Forward;
use crate::log::pump::Pump;
use crate::log::tap::{Tap, Taps};
use crate::state::{ContainerState, Exit, Health, HealthStatus, Probe};

/// Exit code of a run whose end nobody saw.
const LOST: u32 = 137;
/// Time for the last output to reach the log after the end.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause between attempts to reach containerd.
const RETRY: Duration = Duration::from_millis(500);

/// What others see of a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UnitStatus {
    /// Whether what follows is known: it has looked at the task.
    pub(super) looked: bool,
    pub(super) running: bool,
    pub(super) paused: bool,
    /// It has ended and will start again.
    pub(super) restarting: bool,
    pub(super) health: Option<HealthStatus>,
    /// How often it was started again by its policy since somebody asked for a start.
    pub(super) restarts: u64,
    /// Of the last run, once it has ended.
    pub(super) exit: Option<Exit>,
    /// Why the last start failed.
    pub(super) error: Option<String>,
    /// Output of the last failed probe.
    pub(super) probe_output: Option<String>,
    /// A command in the foreground sees to it.
    pub(super) attended: bool,
    /// It was started at least once.
    pub(super) was_started: bool,
}

/// What a unit is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Start {
        reason: String,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// `timeout` in seconds instead of its own grace period. `keep_sandbox`: addresses and ports stay, as a successor or the same
    /// container starts next.
    Stop {
        timeout: Option<u32>,
        keep_sandbox: bool,
        reason: String,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// A command sends it a signal: one that is to end it also ends its restarts.
    Kill {
        signal: u32,
    },
    Pause {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    Unpause {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// Whoever gave it input gives no more.
    CloseStdin,
    /// Whether a command in the foreground sees to it.
    Attend {
        attended: bool,
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// Answered when it knows what its container does and all before it is done.
    Settle {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// Write what is known of it, whatever was written before.
    WriteAgain {
        reply: oneshot::Sender<Result<(), ContainerError>>,
    },
    /// Its record was changed in place.
    Update {
        desired: Box<Desired>,
    },
    OutOfMemory,
    /// Something happened to it that changes nothing of the unit.
    Note(EventRecord),
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
    pub(super) one_off: bool,
    /// When its container was made: of two in one slot the later one counts.
    pub(super) created_at: Timestamp,
    /// Its container goes when it has ended.
    pub(super) auto_remove: bool,
    /// Sandbox of its own.
    pub(super) sandbox: Option<String>,
    taps: Taps,
    attached: watch::Sender<usize>,
    mailbox: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<UnitStatus>,
}

/// Somebody who is attached to a unit. Dropping it detaches.
#[derive(Debug)]
pub(super) struct Attachment {
    tap: Tap,
    attached: watch::Sender<usize>,
}

impl Attachment {
    pub(super) const fn tap(&self) -> &Tap {
        &self.tap
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.attached.send_modify(|count| *count -= 1);
    }
}

impl UnitHandle {
    /// Attaches somebody to its output.
    pub(super) fn attach(&self) -> Attachment {
        self.attached.send_modify(|count| *count += 1);
        Attachment {
            tap: self.taps.open(),
            attached: self.attached.clone(),
        }
    }

    /// How many are attached.
    pub(super) fn attached(&self) -> watch::Receiver<usize> {
        self.attached.subscribe()
    }

    /// Returns when it does not run (any more), with what is known then; also when it is removed. Cancel-safe.
    pub(super) async fn ended(&self) -> UnitStatus {
        let mut status = self.status.clone();
        // An error means that the unit is gone, and its last word is there.
        status.wait_for(|status| !status.running).await.ok();
        status.borrow().clone()
    }

    /// Returns when it is removed. Cancel-safe.
    pub(super) async fn removed(&self) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Sends a command without waiting for its effect.
    pub(super) async fn send(&self, command: Command) {
        // A unit that has ended has nothing left to do.
        self.mailbox.send(command).await.ok();
    }

    /// Sends a command without waiting for anything, not even until the unit has room for it.
    pub(super) fn post(&self, command: Command) {
        if let Err(TrySendError::Full(command)) = self.mailbox.try_send(command) {
            let mailbox = self.mailbox.clone();
            tokio::spawn(async move { mailbox.send(command).await.ok() });
        }
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
    /// Without what only a start needs, which asks for it: see [`without_ballast`].
    record: Arc<ContainerRecord>,
    desired: Desired,
    /// Sandbox that it runs in: its own, or that of the container whose network it joins.
    home: Option<String>,
    state: ContainerState,
    status: watch::Sender<UnitStatus>,
    phase: Phase,
    back_off: BackOff,
    /// Cancelled when what it depends on is back: one that ended unseen does not start again before. `None` once it has
    /// started, or where there was no such end.
    gate: Option<CancellationToken>,
    looked: bool,
    pump: Option<Pump>,
    forward: Option<Forward>,
    taps: Taps,
    out_of_memory: bool,
    /// When to write again what could not be, as on a full disk.
    write_again: Option<Instant>,
}

/// Something happened to a unit.
enum Happening {
    Command(Option<Command>),
    Ended(Option<ExitStatus>),
    BackOffOver,
    ProbeDue,
    ProbeDone(Result<Probe, ContainerError>),
    WriteDue,
}

/// Sandbox of this project that a container made from `desired` runs in: its own, or that of the slot that it joins.
pub(super) fn home(shared: &Shared, desired: &Desired) -> Option<String> {
    let joined = || {
        let slot = desired.parents.get("network_mode")?;
        shared.owns_sandbox(slot).then(|| slot.clone())
    };
    desired.sandbox.clone().or_else(joined)
}

/// A record whose spec has nothing but the process: the rest is long, most of all the rules for system calls, and of no use
/// to who runs probes. What the container was made from is known otherwise.
fn without_ballast(mut record: ContainerRecord) -> ContainerRecord {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Spec {
        process: serde_json::Value,
    }
    // One that cannot be read is left as it is: whoever needs it says so.
    let spec = serde_json::from_slice::<Spec>(&record.spec);
    if let Ok(Ok(spec)) = spec.map(|spec| serde_json::to_vec(&spec)) {
        record.spec = spec;
    }
    record.extensions.clear();
    record
}

/// What became of a container before it is taken under supervision.
#[derive(Debug)]
pub(super) enum Past {
    /// It was just made: there is nothing to look for.
    None,
    /// Anything. If it ended unseen it comes back after this is cancelled.
    Unknown(Option<CancellationToken>),
}

/// Takes a container under supervision, whatever state it is in.
pub(super) fn spawn(
    shared: Arc<Shared>,
    record: ContainerRecord,
    desired: Desired,
    state: ContainerState,
    past: Past,
) -> UnitHandle {
    let (mailbox, commands) = mpsc::channel(16);
    let (status, watched) = watch::channel(UnitStatus::default());
    let taps = Taps::default();
    let handle = UnitHandle {
        id: record.id.clone(),
        name: desired.name.clone(),
        service: desired.service.clone(),
        one_off: desired.one_off,
        created_at: record.created_at,
        auto_remove: desired.auto_remove,
        sandbox: desired.sandbox.clone(),
        taps: taps.clone(),
        attached: watch::Sender::new(0),
        mailbox,
        status: watched,
    };
    let home = home(&shared, &desired);
    let (looked, gate) = match past {
        Past::None => (true, None),
        Past::Unknown(gate) => (false, gate),
    };
    let unit = Unit {
        shared,
        record: Arc::new(without_ballast(record)),
        desired,
        home,
        state,
        status,
        phase: Phase::Idle,
        back_off: BackOff::default(),
        gate,
        looked,
        pump: None,
        forward: None,
        taps,
        out_of_memory: false,
        write_again: None,
    };
    unit.publish();
    let (shared, name) = (Arc::clone(&unit.shared), handle.name.clone());
    tokio::spawn(async move {
        if let Err(error) = tokio::spawn(unit.run(commands)).await
            && error.is_panic()
        {
            tracing::error!(%error, container = name, "nobody looks after it any more");
            shared.broken.notify_one();
        }
    });
    handle
}

impl Unit {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        if !self.looked {
            exec::end_left(&self.shared.containers, &self.record.id);
            exec::watch_all(&self.shared.containers, &self.record.id);
            self.look().await;
            self.looked = true;
            self.publish();
        }
        loop {
            match self.next(&mut commands).await {
                Happening::Command(None) => return,
                Happening::Command(Some(Command::Remove { volumes, reply })) => {
                    let result = self.remove(volumes).await;
                    let ended = result.is_ok();
                    reply.send(result).ok();
                    if ended {
                        return;
                    }
                }
                Happening::Command(Some(command)) => self.obey(command).await,
                Happening::Ended(status) => self.ended(status, false).await,
                Happening::BackOffOver => self.restart().await,
                Happening::ProbeDue => self.begin_probe(),
                Happening::ProbeDone(result) => self.take_probe(result),
                Happening::WriteDue => self.write_again(),
            }
            self.publish();
        }
    }

    async fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Happening {
        let until = match &self.phase {
            Phase::BackingOff { until } => Some(*until),
            Phase::Running(run) if run.probe.is_none() && !run.paused => run.next_probe,
            Phase::Idle | Phase::Running(_) => None,
        };
        let gate = &self.gate;
        let timer = async {
            let Some(until) = until else {
                return std::future::pending().await;
            };
            if let Some(gate) = gate {
                gate.cancelled().await;
            }
            tokio::time::sleep_until(until).await;
        };
        let backing_off = matches!(self.phase, Phase::BackingOff { .. });
        let write_again = self.write_again;
        let write = async {
            match write_again {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
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
                    source: io::Error::other(error),
                }),
            }),
            // Cancel-safe: the deadline is kept in the phase.
            () = timer => if backing_off { Happening::BackOffOver } else { Happening::ProbeDue },
            // Cancel-safe: so is this one.
            () = write => Happening::WriteDue,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { reason, reply } => {
                self.back_off.reset();
                self.state.restart_count = 0;
                reply.send(self.start(reason).await).ok();
            }
            Command::Stop {
                timeout,
                keep_sandbox,
                reason,
                reply,
            } => {
                let result = self.stop(timeout, keep_sandbox, reason).await;
                reply.send(result).ok();
            }
            Command::Kill { signal } => {
                let event = EventRecord::new("container", "kill").with("signal", signal);
                self.note(event);
                if !self.is_ended_by(signal) {
                    return;
                }
                let is_over = matches!(self.phase, Phase::BackingOff { .. });
                self.want_stopped("kill");
                if is_over {
                    self.leave_sandbox(false).await;
                }
            }
            Command::Pause { reply } => {
                reply.send(self.pause().await).ok();
            }
            Command::Unpause { reply } => {
                reply.send(self.unpause().await).ok();
            }
            Command::CloseStdin => self.close_stdin().await,
            Command::Attend { attended, reply } => {
                self.state.attended = attended;
                self.save_durable();
                self.publish();
                reply.send(Ok(())).ok();
            }
            Command::Settle { reply } => {
                reply.send(Ok(())).ok();
            }
            Command::WriteAgain { reply } => {
                self.write_again();
                reply.send(Ok(())).ok();
            }
            Command::Update { desired } => {
                self.desired = *desired;
                self.plan_probe();
                // The health of one that is probed no more is gone.
                self.save();
            }
            Command::OutOfMemory => self.ran_out_of_memory(),
            Command::Note(event) => self.note(event),
            Command::Look => self.look().await,
            Command::Remove { .. } => {}
        }
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
            looked: self.looked,
            running: matches!(self.phase, Phase::Running(_)),
            paused: matches!(&self.phase, Phase::Running(run) if run.paused),
            restarting: matches!(self.phase, Phase::BackingOff { .. }),
            restarts: self.state.restart_count,
            health: self.state.health.as_ref().map(|health| health.status),
            exit: self.state.exit.clone(),
            error: self.state.error.clone(),
            probe_output: self.state.health.as_ref().and_then(failed),
            attended: self.state.attended,
            was_started: self.state.run > 0,
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn emit(&self, change: ContainerChange, reason: Option<String>) {
        self.shared
            .emit(&self.record.id, &self.desired, change, reason, false);
    }

    /// `returns`: it, or its successor, starts next.
    fn emit_stop(&self, reason: String, returns: bool) {
        let (id, change) = (&self.record.id, ContainerChange::Stopped);
        self.shared
            .emit(id, &self.desired, change, Some(reason), returns);
    }

    fn note(&self, event: EventRecord) {
        let now = Timestamp::now();
        self.shared
            .record(&self.record.id, &self.desired, event, now);
    }

    fn save(&mut self) {
        let saved = self.state.save(&self.shared.state, &self.record.id);
        self.written("cannot save its state", saved);
    }

    fn save_durable(&mut self) {
        let saved = self.state.save_durable(&self.shared.state, &self.record.id);
        self.written("cannot save its state", saved);
    }

    /// Sees to it that what could not be written is, once there is room.
    fn written<E: std::error::Error>(&mut self, failure: &str, result: Result<(), E>) {
        if let Err(error) = result {
            tracing::error!(%error, container = self.desired.name, "{failure}");
            self.write_again = Some(Instant::now() + RETRY);
        }
    }

    fn write_again(&mut self) {
        self.write_again = None;
        self.save_durable();
        // That it does not run any more is for its successor in the sandbox to say.
        if matches!(self.phase, Phase::Running(_)) {
            self.set_active(true);
        }
    }
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
