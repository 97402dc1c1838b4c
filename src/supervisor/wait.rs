//! Waiting until a container meets a condition, and saying why it never will.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt as _;

use super::protocol::ProgressStatus;
use super::shared::Shared;
use super::unit::{UnitHandle, UnitStatus};
use crate::log::reader::{self, Item, ReadOptions, Source};
use crate::model::Condition;
use crate::reconcile::failure::Failure;
use crate::state::HealthStatus;

/// Lines of a log that are shown for a dependency that failed.
const LOG_LINES: u64 = 10;

/// Time that one without a health check must run before `--wait` is content: what cannot work mostly ends at once.
pub(super) const SETTLING: Duration = Duration::from_millis(500);

/// Runs in a row that may fail before one that is to become healthy counts as failed: by then some three seconds have
/// passed. (docker compose gives up at the first end that it happens to see, or never.)
const FAILED_RUNS: u64 = 5;
/// The same for one that is to do some work, which may have to wait for others: close to a minute.
const FAILED_ATTEMPTS: u64 = 10;

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The word that Docker prints for it.
    Met(ProgressStatus),
    /// Why it cannot be met any more.
    Never(String),
}

/// What a status means for a condition; `None`: not decided yet. `settled`: nobody depends on it (`--wait`): it must still
/// run or have ended well, while for a dependent "started" holds even if it has ended since.
pub(super) fn judge(status: &UnitStatus, condition: Condition, settled: bool) -> Option<Waited> {
    let ended = status
        .exit
        .as_ref()
        .filter(|_| !status.running && !status.restarting);
    if let Some(error) = &status.error
        && !status.running
        && !status.restarting
    {
        return Some(Waited::Never(error.clone()));
    }
    match condition {
        Condition::ServiceCompletedSuccessfully => ended.map(|exit| match exit.code {
            0 => Waited::Met(ProgressStatus::Exited),
            _ => Waited::Never(exit.to_string()),
        }),
        Condition::ServiceStarted | Condition::ServiceHealthy if let Some(exit) = ended => {
            let started = condition == Condition::ServiceStarted && !settled;
            Some(if started || (exit.code == 0 && settled) {
                Waited::Met(ProgressStatus::Exited)
            } else {
                Waited::Never(exit.to_string())
            })
        }
        Condition::ServiceStarted => status
            .running
            .then_some(Waited::Met(ProgressStatus::Started)),
        // While it does not run, its health is that of the run before.
        Condition::ServiceHealthy => match status.health.filter(|_| status.running) {
            Some(HealthStatus::Healthy) => Some(Waited::Met(ProgressStatus::Healthy)),
            Some(HealthStatus::Unhealthy) => Some(Waited::Never("is unhealthy".into())),
            None if status.running => Some(Waited::Never("has no healthcheck".into())),
            Some(HealthStatus::Starting) | None => None,
        },
    }
}

/// Whether a container ends and is started again for ever. `before`: its restarts when the wait began.
fn keeps_failing(status: &UnitStatus, condition: Condition, before: u64) -> Option<Waited> {
    let limit = match condition {
        Condition::ServiceCompletedSuccessfully => FAILED_ATTEMPTS,
        Condition::ServiceStarted | Condition::ServiceHealthy => FAILED_RUNS,
    };
    // A start that somebody asked for meanwhile begins anew.
    let runs = status
        .restarts
        .checked_sub(before)
        .unwrap_or(status.restarts)
        + 1;
    let is_over = status.restarting && runs >= limit;
    let reason = match (&status.error, &status.exit) {
        (Some(error), _) => error.clone(),
        (None, Some(exit)) => exit.to_string(),
        (None, None) => "exited".into(),
    };
    is_over.then(|| Waited::Never(format!("keeps restarting: {reason}, {runs} times in a row")))
}

/// Waits until `condition` is met or never can be. `settled`: as of [`judge`], and until when it must run at least; one that
/// is restarted meanwhile begins anew.
pub(super) async fn until(
    mut status: watch::Receiver<UnitStatus>,
    condition: Condition,
    mut settled: Option<Instant>,
) -> Waited {
    let before = status.borrow().restarts;
    let mut restarts = before;
    loop {
        let waited = {
            let status = status.borrow_and_update();
            if status.restarts != restarts {
                restarts = status.restarts;
                settled = settled.map(|settled| settled.max(Instant::now() + SETTLING));
            }
            let waited = judge(&status, condition, settled.is_some());
            waited.or_else(|| keeps_failing(&status, condition, before))
        };
        let changed = match (waited, settled) {
            (Some(Waited::Met(ProgressStatus::Started)), Some(settled))
                if Instant::now() < settled =>
            {
                // Nothing has changed until then: the next look ends the wait.
                let changed = timeout_at(settled, status.changed()).await;
                changed.unwrap_or(Ok(()))
            }
            (Some(waited), _) => return waited,
            (None, _) => status.changed().await,
        };
        if changed.is_err() {
            return Waited::Never("was removed".into());
        }
    }
}

/// The failure that users see: who, what, why, and the last words.
pub(super) async fn failure(
    shared: &Shared,
    unit: &UnitHandle,
    condition: Condition,
    dependent: &str,
    reason: &str,
) -> Failure {
    let resource = format!("container {}", unit.name);
    let message = if dependent.is_empty() {
        format!("container {} {reason}", unit.name)
    } else {
        format!(
            "dependency failed to start: container {} {reason}",
            unit.name
        )
    };
    let mut details = Vec::new();
    let status = unit.status.borrow().clone();
    if condition == Condition::ServiceHealthy
        && let Some(output) = status
            .probe_output
            .filter(|output| !output.trim().is_empty())
    {
        details.push("last probe:".to_owned());
        details.extend(output.lines().map(|line| format!("  {line}")));
    }
    let lines = last_lines(shared, &unit.id).await;
    if !lines.is_empty() {
        details.push("last log lines:".to_owned());
        details.extend(lines);
    }
    let hints = match dependent {
        "" => Vec::new(),
        dependent => vec![format!(
            "`{dependent}` waits for `{}`; see `compose logs {}`",
            unit.service, unit.service
        )],
    };
    Failure {
        hints,
        details,
        ..Failure::new(resource, message)
    }
}

/// The end of a container's log, indented.
pub(super) async fn last_lines(shared: &Shared, id: &str) -> Vec<String> {
    let path = shared.state.container(id).join(crate::log::file_name(id));
    let options = ReadOptions {
        tail: Some(LOG_LINES),
        ..ReadOptions::default()
    };
    let mut lines = Vec::new();
    let Ok((_, mut stream)) = reader::read(
        vec![Source {
            key: id.into(),
            path,
        }],
        options,
    ) else {
        return lines;
    };
    while let Some(item) = stream.next().await {
        if let Item::Line { line, .. } = item {
            lines.push(format!("  {}", line.log.trim_end()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Exit;

    fn exited(code: u32) -> UnitStatus {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let exit = Exit {
            code,
            at,
            out_of_memory: false,
            lost: false,
        };
        UnitStatus {
            exit: Some(exit),
            ..UnitStatus::default()
        }
    }

    #[test]
    fn a_completed_dependency_must_have_ended_well() {
        let condition = Condition::ServiceCompletedSuccessfully;
        let running = UnitStatus {
            running: true,
            ..UnitStatus::default()
        };
        assert_eq!(judge(&running, condition, false), None);
        assert_eq!(
            judge(&exited(0), condition, false),
            Some(Waited::Met(ProgressStatus::Exited))
        );
        assert!(matches!(
            judge(&exited(3), condition, false),
            Some(Waited::Never(_))
        ));
    }

    #[test]
    fn a_kill_for_want_of_memory_is_told() {
        let condition = Condition::ServiceCompletedSuccessfully;
        let never = |code| {
            let mut status = exited(code);
            status.exit.as_mut().unwrap().out_of_memory = true;
            judge(&status, condition, false)
        };
        let told = |text: &str| Some(Waited::Never(text.into()));
        assert_eq!(never(137), told("exited (137), out of memory"));
        assert_eq!(never(3), told("exited (3)"));
    }

    #[test]
    fn a_restarting_container_is_not_judged() {
        for health in [
            None,
            Some(HealthStatus::Healthy),
            Some(HealthStatus::Unhealthy),
        ] {
            let status = UnitStatus {
                restarting: true,
                // Of the run that has ended.
                health,
                ..exited(1)
            };
            for condition in [
                Condition::ServiceHealthy,
                Condition::ServiceCompletedSuccessfully,
            ] {
                assert_eq!(judge(&status, condition, true), None, "{health:?}");
            }
        }
    }

    #[test]
    fn one_that_restarts_again_and_again_is_given_up() {
        let status = |restarts| UnitStatus {
            restarting: true,
            restarts,
            ..exited(7)
        };
        let healthy = Condition::ServiceHealthy;
        assert_eq!(keeps_failing(&status(3), healthy, 0), None);
        let reason = "keeps restarting: exited (7), 5 times in a row";
        let given_up = Some(Waited::Never(reason.into()));
        assert_eq!(keeps_failing(&status(4), healthy, 0), given_up);
        // What was before the wait does not count.
        assert_eq!(keeps_failing(&status(4), healthy, 2), None);
        let job = Condition::ServiceCompletedSuccessfully;
        assert_eq!(keeps_failing(&status(8), job, 0), None);
        assert!(keeps_failing(&status(9), job, 0).is_some());
        let running = UnitStatus {
            running: true,
            restarting: false,
            ..status(9)
        };
        assert_eq!(keeps_failing(&running, healthy, 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_soon_after_its_start_is_not_up() {
        let running = |restarts| UnitStatus {
            running: true,
            restarts,
            ..UnitStatus::default()
        };
        let restarting = |restarts| UnitStatus {
            restarting: true,
            restarts,
            ..exited(3)
        };
        let wait = |ends: Vec<UnitStatus>| async {
            let (sender, receiver) = watch::channel(running(0));
            let began = Instant::now();
            let settled = Some(began + SETTLING);
            let waited = tokio::spawn(until(receiver, Condition::ServiceStarted, settled));
            for status in ends {
                tokio::time::sleep(SETTLING * 3 / 5).await;
                sender.send(status).ok();
            }
            (waited.await.unwrap(), began.elapsed() >= SETTLING)
        };
        let started = Waited::Met(ProgressStatus::Started);
        assert_eq!(wait(vec![]).await, (started, true));
        let ended = Waited::Never("exited (3)".into());
        assert_eq!(wait(vec![exited(3)]).await.0, ended);
        // Runs that each begin well.
        let runs = (0..5).flat_map(|run| [restarting(run), running(run + 1)]);
        let reason = "keeps restarting: exited (3), 5 times in a row";
        assert_eq!(wait(runs.collect()).await.0, Waited::Never(reason.into()));
        let mended = vec![restarting(0), running(1)];
        assert_eq!(wait(mended).await.0, Waited::Met(ProgressStatus::Started));
    }

    #[test]
    fn a_one_shot_that_nobody_depends_on_may_end_well() {
        assert!(matches!(
            judge(&exited(0), Condition::ServiceStarted, true),
            Some(Waited::Met(_))
        ));
        assert!(matches!(
            judge(&exited(1), Condition::ServiceStarted, false),
            Some(Waited::Met(_))
        ));
        assert!(matches!(
            judge(&exited(1), Condition::ServiceStarted, true),
            Some(Waited::Never(_))
        ));
    }

    #[test]
    fn health_decides_only_when_it_is_known() {
        let mut status = UnitStatus {
            running: true,
            health: Some(HealthStatus::Starting),
            ..UnitStatus::default()
        };
        assert_eq!(judge(&status, Condition::ServiceHealthy, false), None);
        status.health = Some(HealthStatus::Healthy);
        assert!(matches!(
            judge(&status, Condition::ServiceHealthy, false),
            Some(Waited::Met(_))
        ));
        status.health = Some(HealthStatus::Unhealthy);
        assert!(matches!(
            judge(&status, Condition::ServiceHealthy, false),
            Some(Waited::Never(_))
        ));
    }
}
