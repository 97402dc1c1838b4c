//! Waiting until a container meets a condition, and saying why it never will.

use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::protocol::{Failure, ProgressStatus};
use super::shared::Shared;
use super::unit::{UnitHandle, UnitStatus};
use crate::log::reader::{self, Item, ReadOptions, Source};
use crate::model::Condition;
use crate::state::HealthStatus;

/// Lines of a log that are shown for a dependency that failed.
const LOG_LINES: u64 = 10;

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
            code => Waited::Never(format!("exited ({code})")),
        }),
        Condition::ServiceStarted | Condition::ServiceHealthy if ended.is_some() => {
            let code = ended.map_or(0, |exit| exit.code);
            let started = condition == Condition::ServiceStarted && !settled;
            Some(if started || (code == 0 && settled) {
                Waited::Met(ProgressStatus::Exited)
            } else {
                Waited::Never(format!("exited ({code})"))
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

/// Waits until `condition` is met or never can be.
pub(super) async fn until(
    mut status: watch::Receiver<UnitStatus>,
    condition: Condition,
    settled: bool,
) -> Waited {
    loop {
        if let Some(waited) = judge(&status.borrow_and_update(), condition, settled) {
            return waited;
        }
        if status.changed().await.is_err() {
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
async fn last_lines(shared: &Shared, id: &str) -> Vec<String> {
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
