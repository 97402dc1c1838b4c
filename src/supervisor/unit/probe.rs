//! The health probes of a unit.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Phase, Unit};
use crate::container::{ContainerError, ExecOptions};
use crate::engine::{ContainerRecord, EngineError};
use crate::state::{HealthStatus, Probe};
use crate::supervisor::exec::{self, Outcome};
use crate::supervisor::health::ProbeSettings;
use crate::supervisor::protocol::ContainerChange;
use crate::supervisor::shared::Shared;

/// Bytes of a probe's output that are kept.
const PROBE_OUTPUT: usize = 4096;

/// Longest time for which a probe keeps others waiting: one that cannot begin is not at work.
const TURN: Duration = Duration::from_secs(1);

impl Unit {
    /// Sets when the next probe is due.
    pub(super) fn plan_probe(&mut self) {
        let settings = ProbeSettings::new(self.desired.healthcheck.as_ref());
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        run.next_probe = settings.map(|settings| {
            let health = self.state.health.get_or_insert_default();
            let delay = settings.delay(health, run.since.elapsed());
            let is_first = health.log.is_empty();
            Instant::now() + if is_first { jittered(delay) } else { delay }
        });
        if run.next_probe.is_none() {
            self.state.health = None;
        }
    }

    pub(super) fn begin_probe(&mut self) {
        let Some(settings) = ProbeSettings::new(self.desired.healthcheck.as_ref()) else {
            return;
        };
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        let health = self.state.health.as_ref();
        let is_routine = health.is_some_and(|health| {
            health.status == HealthStatus::Healthy && health.failing_streak == 0
        });
        let shared = Arc::clone(&self.shared);
        let record = Arc::clone(&self.record);
        run.probe = Some(tokio::spawn(async move {
            probe(&shared, &record, &settings, is_routine).await
        }));
    }

    pub(super) fn take_probe(&mut self, result: Result<Probe, ContainerError>) {
        let Phase::Running(run) = &mut self.phase else {
            return;
        };
        // A handle that has ended must not be asked again, whatever has become of the health check.
        run.probe = None;
        let Some(settings) = ProbeSettings::new(self.desired.healthcheck.as_ref()) else {
            return;
        };
        if let Err(ContainerError::Engine(error)) = &result
            && (error.is_outage() || matches!(error, EngineError::NotFound { .. }))
        {
            // No word of the container: its processes live on without containerd, and one that is gone has ended.
            tracing::debug!(%error, container = self.desired.name, "cannot probe it");
            self.plan_probe();
            return;
        }
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
        // A probe that began in the start period is of it, whenever it ends.
        let took = Duration::try_from(probe.end.duration_since(probe.start)).unwrap_or_default();
        let ran = ran.saturating_sub(took);
        let reason = reason(&probe);
        let health = self.state.health.get_or_insert_default();
        let is_as_before = health.log.last().is_some_and(|last| {
            reason.is_none() && last.exit_code == probe.exit_code && last.output == probe.output
        });
        if settings.record(health, probe, ran) {
            let status = health.status;
            self.save();
            self.emit(ContainerChange::Health { status }, reason);
        } else if !is_as_before {
            // That all is still well is not worth writing down each time.
            self.save();
        }
        self.plan_probe();
    }
}

/// Why a probe is no good sign: its exit code and the first line that it wrote.
fn reason(probe: &Probe) -> Option<String> {
    let first = probe.output.trim().lines().next().unwrap_or_default();
    let separator = if first.is_empty() { "" } else { ": " };
    let code = probe.exit_code;
    (code != 0).then(|| format!("probe ended with {code}{separator}{first}"))
}

async fn probe(
    shared: &Shared,
    record: &ContainerRecord,
    settings: &ProbeSettings,
    is_routine: bool,
) -> Result<Probe, ContainerError> {
    let turn = Mutex::new(shared.pace.turn(is_routine).await);
    let end_turn = || drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
    let start = Timestamp::now();
    let options = ExecOptions {
        command: settings.command.clone(),
        ..ExecOptions::default()
    };
    let timeout = settings.timeout;
    let time_over = tokio::time::sleep(timeout);
    let run = exec::run(shared, record, &options, time_over, PROBE_OUTPUT, end_turn);
    let give_way = async {
        tokio::time::sleep(TURN).await;
        end_turn();
        std::future::pending::<Infallible>().await
    };
    let (outcome, output) = tokio::select! {
        result = run => result?,
        // Never wins.
        never = give_way => match never {},
    };
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
    delay.saturating_sub(delay / 20 * u32::from(byte[0]) / 255)
}
