//! The runs of a unit: how they begin, end and begin again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{DRAIN, LOST, Phase, RETRY, Run, Unit};
use crate::container::{ContainerError, parse_signal};
use crate::engine::{EngineError, ExitStatus, TaskStatus};
use crate::failpoint::boundary;
use crate::state::{Exit, Process, Wanted};
use crate::supervisor::history::EventRecord;
use crate::supervisor::protocol::ContainerChange;
use crate::supervisor::restart::RestartPolicy;
use crate::supervisor::shared::Shared;
use crate::supervisor::tenants::Leaving;

/// Pause between two looks at whether a process lives.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at a task that its shim says nothing of, before it is taken for one that runs.
const ATTEMPTS: u32 = 5;

const SIGINT: u32 = 2;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

impl Unit {
    /// Brings the phase in line with what containerd says: at the beginning, and when another tool may have acted.
    pub(super) async fn look(&mut self) {
        if matches!(self.phase, Phase::Running(_)) {
            return;
        }
        let mut attempts = 0;
        let task = loop {
            match self.shared.containers.engine.task(&self.record.id).await {
                // Its shim does not answer at the moment.
                Ok(Some(task)) if task.status == TaskStatus::Unknown && attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Ok(task) => break task,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at a task");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        if task.is_some() || !self.was_cut_off() {
            self.gate = None;
        }
        match task {
            Some(task)
                if matches!(
                    task.status,
                    TaskStatus::Running
                        | TaskStatus::Paused
                        | TaskStatus::Pausing
                        | TaskStatus::Unknown
                ) =>
            {
                let paused = matches!(task.status, TaskStatus::Paused | TaskStatus::Pausing);
                self.adopt(task.pid, paused).await;
            }
            Some(task)
                if task.status == TaskStatus::Stopped
                    && (self.is_unfinished() || task.exited_at != self.recorded_end()) =>
            {
                let at = task.exited_at.unwrap_or_else(Timestamp::now);
                self.ended(
                    Some(ExitStatus {
                        code: task.exit_code,
                        at,
                    }),
                    false,
                )
                .await;
            }
            None if self.state.wanted == Wanted::Running && self.state.exit.is_none() => {
                self.ended(None, false).await;
            }
            // The worker ended between the record of the end and what follows from it.
            Some(task) if task.status == TaskStatus::Stopped => {
                self.read_last_words();
                self.close_log().await;
                self.delete_task().await;
                self.await_restart();
            }
            // Of one that is created and not started, whoever did was cut off: the next start begins anew.
            _ => self.await_restart(),
        }
        if matches!(self.phase, Phase::Idle)
            && let Some(sandbox) = &self.home
            && self.shared.is_tenant(sandbox, &self.record.id).await
        {
            // It was taken for one that runs.
            self.leave_sandbox(false).await;
        }
        self.publish();
    }

    /// Goes on with a restart that was due when an earlier worker ended. One that this worker waits for stays when it is.
    fn await_restart(&mut self) {
        let is_due = self.state.wanted == Wanted::Running && self.state.restart_at.is_some();
        if is_due && matches!(self.phase, Phase::Idle) {
            self.phase = Phase::BackingOff {
                until: Instant::now(),
            };
        }
    }

    /// Whether the last run ended with the host or with everything that could have seen its end.
    fn was_cut_off(&self) -> bool {
        self.state.boot_id != self.shared.boot_id
            || self.state.exit.as_ref().is_none_or(|exit| exit.lost)
    }

    /// When the run ended of which the end is recorded.
    fn recorded_end(&self) -> Option<Timestamp> {
        self.state.exit.as_ref().map(|exit| exit.at)
    }

    /// Whether a run began of which no end is recorded.
    pub(super) fn is_unfinished(&self) -> bool {
        self.state.exit.is_none() && self.state.started_at.is_some()
    }

    /// Takes over a task that runs already.
    pub(super) async fn adopt(&mut self, pid: u32, paused: bool) {
        if let Err(error) = self.resume_log().await {
            tracing::error!(%error, container = self.desired.name, "cannot read its output");
        }
        if let Some(sandbox) = &self.home {
            let id = &self.record.id;
            if let Err(error) = self.shared.enter_sandbox(sandbox, id, true).await {
                tracing::error!(%error, sandbox, "cannot repair a sandbox");
                self.shared.presume_tenant(sandbox, id).await;
            }
            self.set_active(true);
        }
        if self.state.exit.is_some() {
            // It began after the end that is recorded, and who began it could not write that down.
            self.state.started_at = Some(Timestamp::now());
            self.state.health = None;
        }
        // One that was being stopped when an earlier worker ended is still to stop for good.
        if self.state.wanted != Wanted::Stopped || !self.is_unfinished() {
            self.state.wanted = Wanted::Running;
        }
        self.state.exit = None;
        self.state.error = None;
        self.state.restart_at = None;
        self.state.process = Process::find(pid);
        let ran = self.state.started_at.map_or(Duration::ZERO, |at| {
            Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default()
        });
        self.begin_run(
            Instant::now().checked_sub(ran).unwrap_or_else(Instant::now),
            paused,
        );
        self.save();
    }

    pub(super) async fn start(&mut self, reason: String) -> Result<(), ContainerError> {
        if matches!(self.phase, Phase::Running(_)) {
            if self.lives() {
                self.want_running();
                return Ok(());
            }
            // The word of its end is on its way.
            let status = self.last_word().await;
            self.ended(status, true).await;
        }
        self.gate = None;
        self.state.wanted = Wanted::Running;
        self.state.restart_at = None;
        self.state.reason = Some(reason.clone());
        self.state.boot_id.clone_from(&self.shared.boot_id);
        self.state.run += 1;
        self.out_of_memory = false;
        self.state.process = None;
        let result = self.start_task().await;
        match &result {
            Ok(pid) => {
                self.state.process = Process::find(*pid);
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
                let is_unknown =
                    matches!(error, ContainerError::Engine(error) if error.is_outage());
                if !is_unknown {
                    self.leave_sandbox(false).await;
                }
                // Else containerd may have started it all the same: the next look or start tells.
            }
        }
        self.save();
        self.publish();
        result.map(drop)
    }

    /// Whether its first process does, as far as the kernel can be asked.
    fn lives(&self) -> bool {
        let process = self.state.process.as_ref();
        process.is_none_or(|process| process.frozen_if_alive().is_some())
    }

    /// Whether its first process ends within a moment, as containerd ends it when its shim was killed.
    async fn ends_by_itself(&self) -> bool {
        let patience = Instant::now() + DRAIN;
        while self.lives() {
            if Instant::now() > patience || self.state.process.is_none() {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// How the run ends, as its shim tells or containerd, which cleans up after a shim that was killed.
    async fn last_word(&mut self) -> Option<ExitStatus> {
        match &mut self.phase {
            Phase::Running(run) => (&mut run.wait).await.ok().flatten(),
            Phase::Idle | Phase::BackingOff { .. } => None,
        }
    }

    /// Takes back a stop that did not come to its end.
    fn want_running(&mut self) {
        if self.state.wanted != Wanted::Running {
            self.state.wanted = Wanted::Running;
            self.save_durable();
        }
    }

    /// Returns the id of its first process.
    pub(super) async fn start_task(&mut self) -> Result<u32, ContainerError> {
        if let Some(sandbox) = &self.home {
            let id = &self.record.id;
            self.shared.enter_sandbox(sandbox, id, false).await?;
        }
        let opened = self.open_log().await;
        let _writers = opened.map_err(|source| ContainerError::Io {
            operation: "open the log".into(),
            source,
        })?;
        self.shared.containers.start(&self.record.id).await
    }

    pub(super) fn begin_run(&mut self, since: Instant, paused: bool) {
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

    pub(super) async fn stop(
        &mut self,
        timeout: Option<u32>,
        keep_sandbox: bool,
        reason: String,
    ) -> Result<(), ContainerError> {
        self.want_stopped(&reason);
        if let Phase::Running(run) = &self.phase {
            // A frozen process takes no signal.
            if run.paused {
                self.unpause().await?;
            }
            let grace = timeout.unwrap_or(self.desired.stop_timeout);
            let signal = self.stop_signal();
            let grace = Duration::from_secs(u64::from(grace));
            self.note(EventRecord::new("container", "kill").with("signal", signal));
            let containers = &self.shared.containers;
            let status = match containers.stop(&self.record.id, signal, grace).await {
                Ok(status) => Some(status),
                Err(error) if self.ends_by_itself().await => {
                    tracing::debug!(%error, container = self.desired.name, "ended otherwise");
                    self.last_word().await
                }
                Err(error) => return Err(error),
            };
            self.ended(status, keep_sandbox).await;
            self.emit_stop(reason, keep_sandbox);
        } else {
            self.phase = Phase::Idle;
            self.leave_sandbox(keep_sandbox).await;
        }
        Ok(())
    }

    /// Freezes its processes. A probe that runs ends first: one in a frozen container would never end.
    pub(super) async fn pause(&mut self) -> Result<(), ContainerError> {
        let probe = match &mut self.phase {
            Phase::Running(run) => run.probe.take(),
            _ => None,
        };
        if let Some(probe) = probe
            && let Ok(result) = probe.await
        {
            self.take_probe(result);
        }
        self.shared
            .containers
            .engine
            .pause_task(&self.record.id)
            .await?;
        if let Phase::Running(run) = &mut self.phase {
            run.paused = true;
            self.emit(ContainerChange::Paused, None);
        }
        Ok(())
    }

    /// Lets its processes go on; that they do already is no error.
    pub(super) async fn unpause(&mut self) -> Result<(), ContainerError> {
        let engine = &self.shared.containers.engine;
        let task = engine.task(&self.record.id).await?;
        if task.is_some_and(|task| task.status == TaskStatus::Paused) {
            engine.resume_task(&self.record.id).await?;
        }
        if let Phase::Running(run) = &mut self.phase {
            run.paused = false;
            self.emit(ContainerChange::Unpaused, None);
            self.plan_probe();
        }
        Ok(())
    }

    pub(super) fn want_stopped(&mut self, reason: &str) {
        let is_idle = matches!(self.phase, Phase::Idle);
        if self.state.wanted == Wanted::Stopped && is_idle {
            return;
        }
        self.state.wanted = Wanted::Stopped;
        self.state.restart_at = None;
        self.state.reason = Some(reason.to_owned());
        if matches!(self.phase, Phase::BackingOff { .. }) {
            self.phase = Phase::Idle;
        }
        self.save_durable();
    }

    /// The kernel killed a process of the run, or of the last one, for want of memory. Told once.
    pub(super) fn ran_out_of_memory(&mut self) {
        let is_over = self.state.exit.is_some();
        let exit = self.state.exit.as_mut();
        let flag = exit.map_or(&mut self.out_of_memory, |exit| &mut exit.out_of_memory);
        if std::mem::replace(flag, true) {
            return;
        }
        if is_over {
            self.save();
        }
        self.emit(ContainerChange::OutOfMemory, None);
    }

    /// The run is over: `None` if nobody knows how.
    pub(super) async fn ended(&mut self, status: Option<ExitStatus>, keep_sandbox: bool) {
        if self.pump.is_none() {
            self.read_last_words();
        }
        let ran = match &self.phase {
            Phase::Running(run) => run.since.elapsed(),
            _ => Duration::ZERO,
        };
        self.phase = Phase::Idle;
        // containerd tells of it too late if at all where the cgroup has gone with its last process.
        let process = self.state.process.take();
        if process.is_some_and(|process| process.was_out_of_memory()) {
            self.ran_out_of_memory();
        }
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
        boundary("end of a run: recorded");
        self.close_log().await;
        self.delete_task().await;
        boundary("end of a run: task gone");
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
            None => self.leave_sandbox(keep_sandbox).await,
        }
    }

    async fn delete_task(&self) {
        let engine = &self.shared.containers.engine;
        if let Err(error) = engine.delete_task(&self.record.id).await {
            tracing::warn!(%error, container = self.desired.name, "cannot delete its task");
        }
    }

    pub(super) async fn restart(&mut self) {
        let task = self.shared.containers.engine.task(&self.record.id).await;
        if task.is_err_and(|error| error.is_outage()) {
            // Not its fault: neither counted nor a reason to wait longer.
            self.phase = Phase::BackingOff {
                until: Instant::now() + RETRY,
            };
            return;
        }
        let reason = if self.gate.is_some() {
            "resume"
        } else {
            self.state.restart_count += 1;
            "restart policy"
        };
        if let Err(error) = self.start(reason.into()).await {
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

    fn stop_signal(&self) -> u32 {
        parse_signal(&self.desired.stop_signal).unwrap_or(SIGTERM)
    }

    /// Whether a signal that a user sends is to end the container for good, as with Docker: where it has a stop signal of
    /// its own, SIGTERM and SIGINT may mean something else.
    pub(super) fn is_ended_by(&self, signal: u32) -> bool {
        match self.stop_signal() {
            SIGTERM => [SIGINT, SIGKILL, SIGTERM].contains(&signal),
            own => [own, SIGKILL].contains(&signal),
        }
    }

    pub(super) async fn remove(&mut self, volumes: bool) -> Result<(), ContainerError> {
        self.want_stopped("removed");
        if let Phase::Running(_) = &self.phase {
            let containers = &self.shared.containers;
            let stopped = containers
                .stop(&self.record.id, SIGKILL, Duration::ZERO)
                .await;
            // Removal kills what is left; a task may be gone with its container when another tool removed them.
            if let Err(error) = stopped {
                tracing::debug!(%error, container = self.desired.name, "cannot kill it");
            }
        }
        self.phase = Phase::Idle;
        self.close_log().await;
        self.shared
            .containers
            .remove(&self.record.id, volumes)
            .await?;
        if let Some(sandbox) = &self.home {
            let id = &self.record.id;
            let leaving = Leaving::Removed;
            self.shared.leave_sandbox(sandbox, id, leaving).await;
        }
        self.emit(ContainerChange::Removed, None);
        Ok(())
    }

    pub(super) fn set_active(&mut self, active: bool) {
        if let Some(sandbox) = &self.desired.sandbox {
            let networks = &self.shared.containers.networks;
            let set = networks.set_active(sandbox, active);
            self.written("cannot change whether peers find it", set);
        }
    }

    /// Stops living in its sandbox. `keep`: a successor or this one starts next.
    pub(super) async fn leave_sandbox(&self, keep: bool) {
        let leaving = match &self.desired.sandbox {
            _ if keep => Leaving::Keep,
            Some(_) => Leaving::Owner,
            None => Leaving::Guest,
        };
        if let Some(sandbox) = &self.home {
            let id = &self.record.id;
            self.shared.leave_sandbox(sandbox, id, leaving).await;
        }
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
