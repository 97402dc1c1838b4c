//! The order in which containers come back that ended unseen, as after a reboot: what they depend on first, as they need it.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::unit::{UnitHandle, UnitStatus};
use super::wait::{Waited, judge};
use crate::model::Condition;

/// Cancels the gate of each unit when what its service waits for by `order` is there.
pub(super) fn open_in_order(
    units: &[(UnitHandle, CancellationToken)],
    order: &BTreeMap<String, Vec<(String, Condition)>>,
) {
    for (unit, gate) in units {
        let mut awaited = Vec::new();
        for (service, condition) in order.get(&unit.service).into_iter().flatten() {
            let others = units.iter().map(|(other, _)| other);
            let replicas = others.filter(|other| !other.one_off && other.service == *service);
            awaited.extend(replicas.map(|other| (other.clone(), *condition)));
        }
        if awaited.is_empty() {
            gate.cancel();
            continue;
        }
        let (mut own, gate) = (unit.status.clone(), gate.clone());
        tokio::spawn(async move {
            let all = async {
                for (other, condition) in awaited {
                    returned(other.status, condition).await;
                }
            };
            tokio::select! {
                () = all => gate.cancel(),
                // It runs already, or somebody starts or removes it meanwhile: nothing is left to be opened.
                _ = own.wait_for(|status| status.running) => {}
            }
        });
    }
}

/// Waits until a container meets `condition` again, however long it takes. One that does not come back, as it was stopped or
/// its restart policy says so, is not waited for.
async fn returned(mut status: watch::Receiver<UnitStatus>, condition: Condition) {
    let comes_back = status
        .wait_for(|status| status.looked)
        .await
        .is_ok_and(|status| status.running || status.restarting);
    if comes_back {
        let is_back = |status: &UnitStatus| match judge(status, condition, false) {
            Some(Waited::Met(_)) => true,
            // It had a probe when it was waited for first, and has none now.
            Some(Waited::Never(_)) => status.running && status.health.is_none(),
            None => false,
        };
        // An error: it was removed.
        status.wait_for(is_back).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::{Exit, HealthStatus};

    fn exited(code: u32) -> UnitStatus {
        let at = jiff::Timestamp::UNIX_EPOCH;
        UnitStatus {
            looked: true,
            exit: Some(Exit {
                code,
                at,
                out_of_memory: false,
                lost: code == 137,
            }),
            ..UnitStatus::default()
        }
    }

    /// Whether each of the statuses, one after the other, ends the wait for `condition`.
    async fn ends(condition: Condition, statuses: &[UnitStatus]) -> Vec<bool> {
        let (sender, receiver) = watch::channel(UnitStatus::default());
        let wait = tokio::spawn(returned(receiver, condition));
        let mut ends = Vec::new();
        for status in statuses {
            sender.send(status.clone()).ok();
            tokio::time::sleep(Duration::from_millis(1)).await;
            ends.push(wait.is_finished());
        }
        ends
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_back_is_waited_for_until_it_meets_the_condition() {
        let restarting = UnitStatus {
            restarting: true,
            ..exited(137)
        };
        let running = |health| UnitStatus {
            looked: true,
            running: true,
            health: Some(health),
            ..UnitStatus::default()
        };
        let statuses = [
            UnitStatus::default(),
            restarting.clone(),
            running(HealthStatus::Starting),
            running(HealthStatus::Unhealthy),
            exited(1),
            running(HealthStatus::Healthy),
        ];
        assert_eq!(
            ends(Condition::ServiceHealthy, &statuses).await,
            [false, false, false, false, false, true]
        );
        let statuses = [restarting, exited(1), exited(0)];
        assert_eq!(
            ends(Condition::ServiceCompletedSuccessfully, &statuses).await,
            [false, false, true]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_away_is_not_waited_for() {
        let never_started = UnitStatus {
            looked: true,
            ..UnitStatus::default()
        };
        for status in [exited(137), exited(0), never_started] {
            let statuses = [UnitStatus::default(), status];
            assert_eq!(
                ends(Condition::ServiceHealthy, &statuses).await,
                [false, true]
            );
        }
    }
}
