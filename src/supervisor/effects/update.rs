//! Updates of services that go on serving: watching new containers, letting old ones go, and what becomes of an update that
//! fails.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{RequestEffects, locked};
use crate::container::open_connections;
use crate::model::{self, Condition};
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{Action, Plan, ReplicaUpdate, Step, UpdateStep};
use crate::reconcile::update::{FailureAction, UpdateOrder, UpdatePolicy};
use crate::state::HealthStatus;
use crate::supervisor::history::EventRecord;
use crate::supervisor::protocol::{ProgressStatus, Reply, Resource};
use crate::supervisor::unit::{Command, UnitHandle, UnitStatus};
use crate::supervisor::wait;
use crate::supervisor::worker;

/// How long a new container without a health check must run before it counts as good, as in Swarm.
const MONITOR: Duration = Duration::from_secs(5);
/// Time in which those come who have asked for a name, or sent their first packet, before the switch.
const LINGER: Duration = Duration::from_millis(500);
/// Between two looks at open connections.
const LOOK: Duration = Duration::from_millis(50);
/// Why a container is started or stopped again.
const UNDONE: &str = "update failed";

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Begun,
    /// It is what it was before.
    Failed,
    /// The old container can go.
    Updated,
}

/// The update of one service.
#[derive(Debug)]
struct Update {
    policy: UpdatePolicy,
    replicas: Vec<ReplicaUpdate>,
    /// By slot, once it has begun.
    progress: BTreeMap<String, Progress>,
    failures: Vec<Failure>,
    /// No further replica begins.
    is_over: bool,
}

/// The updates of a plan, by service.
#[derive(Debug, Default)]
pub(super) struct Updates(std::sync::Mutex<BTreeMap<String, Update>>);

impl Updates {
    pub(super) fn of(plan: &Plan) -> Self {
        let updates = plan.steps.iter().filter_map(|step| match &step.action {
            Action::ConcludeUpdate {
                service,
                policy,
                replicas,
            } => Some((
                service.clone(),
                Update {
                    policy: (**policy).clone(),
                    replicas: replicas.clone(),
                    progress: BTreeMap::new(),
                    failures: Vec::new(),
                    is_over: false,
                },
            )),
            _ => None,
        });
        Self(std::sync::Mutex::new(updates.collect()))
    }

    /// Whether a step is to be done.
    fn begins(&self, part: &UpdateStep) -> bool {
        let mut updates = locked(&self.0);
        let Some(update) = updates.get_mut(&part.service) else {
            return true;
        };
        let progress = update.progress.get(&part.name);
        match progress {
            _ if part.retires => progress == Some(&Progress::Updated),
            Some(progress) => *progress != Progress::Failed,
            None if update.is_over => false,
            None => {
                update.progress.insert(part.name.clone(), Progress::Begun);
                true
            }
        }
    }

    /// Whether no further replica of `service` begins.
    pub(super) fn is_over(&self, service: &str) -> bool {
        locked(&self.0)
            .get(service)
            .is_some_and(|update| update.is_over)
    }

    /// Notes that a replica has failed, and returns it.
    fn fail(&self, part: &UpdateStep, failure: Failure) -> Option<ReplicaUpdate> {
        let mut updates = locked(&self.0);
        let update = updates.get_mut(&part.service)?;
        update.progress.insert(part.name.clone(), Progress::Failed);
        update.failures.push(failure);
        let failed = update.count(Progress::Failed);
        update.is_over |= update.policy.failure_action != FailureAction::Continue
            && update.policy.has_failed(failed, update.replicas.len());
        let mut replicas = update.replicas.iter();
        replicas.find(|replica| replica.name == part.name).cloned()
    }

    fn note(&self, service: &str, failure: Failure) {
        if let Some(update) = locked(&self.0).get_mut(service) {
            update.failures.push(failure);
        }
    }
}

impl Update {
    fn count(&self, wanted: Progress) -> usize {
        let progress = self.progress.values();
        progress.filter(|progress| **progress == wanted).count()
    }

    /// Lets the old containers of what has begun go.
    fn accept(&mut self) {
        for progress in self.progress.values_mut() {
            if *progress == Progress::Begun {
                *progress = Progress::Updated;
            }
        }
    }
}

/// Whether a new container is good; `None`: not known yet.
fn verdict(status: &UnitStatus) -> Option<Result<(), String>> {
    if status.running {
        return match status.health {
            None | Some(HealthStatus::Healthy) => Some(Ok(())),
            Some(HealthStatus::Unhealthy) => Some(Err("is unhealthy".into())),
            Some(HealthStatus::Starting) => None,
        };
    }
    let code = status.exit.as_ref().map_or(0, |exit| exit.code);
    if let Some(error) = &status.error {
        Some(Err(error.clone()))
    } else if code == 0 && !status.restarting {
        // It had something to do, and has done it.
        Some(Ok(()))
    } else {
        Some(Err(format!("exited ({code})")))
    }
}

impl RequestEffects {
    /// Does a step of an update. If it fails, the replica becomes what it was.
    pub(super) async fn act_in_update(
        &self,
        part: &UpdateStep,
        step: &Step,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        if !self.updates.begins(part) {
            return Ok(());
        }
        match self.act(step, cancel).await {
            Err(failure) if !part.retires && !cancel.is_cancelled() => {
                let event = EventRecord::new("project", "update: failed")
                    .with("service", &part.service)
                    .with("container", &part.name)
                    .with("reason", &failure.message);
                self.worker.shared.note(&event);
                self.say(Resource::Container, &part.name, ProgressStatus::Error);
                if let Some(replica) = self.updates.fail(part, failure)
                    && let Err(failure) =
                        self.undo(&replica, &UpdatePolicy::default(), cancel).await
                {
                    self.updates.note(&part.service, failure);
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Watches a new container until it is healthy, and then for `time`.
    pub(super) async fn monitor(
        &self,
        id: Option<&str>,
        name: &str,
        time: Option<model::Duration>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let unit = self.container(id, name).await?;
        self.say(Resource::Container, name, ProgressStatus::Waiting);
        let has_probe = unit.status.borrow().health.is_some();
        let default = if has_probe { Duration::ZERO } else { MONITOR };
        let time = time.map_or(default, model::Duration::to_std);
        let watched = tokio::select! {
            // Cancel-safe: nothing is consumed by watching.
            watched = watch(&unit, time) => watched,
            () = cancel.cancelled() => Err("is not ready yet".into()),
        };
        match watched {
            Ok(()) => {
                let status = if has_probe {
                    ProgressStatus::Healthy
                } else {
                    ProgressStatus::Started
                };
                self.say(Resource::Container, name, status);
                Ok(())
            }
            Err(reason) => {
                let condition = if has_probe {
                    Condition::ServiceHealthy
                } else {
                    Condition::ServiceStarted
                };
                let shared = &self.worker.shared;
                Err(wait::failure(shared, &unit, condition, "", &reason).await)
            }
        }
    }

    /// Waits until nobody is connected to a container that gets no new connections, at most for its grace period.
    pub(super) async fn drain(&self, id: &str, cancel: &CancellationToken) -> Result<(), Failure> {
        let Some(unit) = self.worker.unit(id) else {
            return Ok(());
        };
        let resource = format!("container {}", unit.name);
        let record = self.record(id, &resource).await?;
        let own = worker::desired(&record).map(|desired| desired.stop_timeout);
        let grace = self.options.timeout.or(own).unwrap_or_default();
        let engine = &self.worker.shared.containers.engine;
        let task = engine
            .task(id)
            .await
            .map_err(|error| Failure::from_error(resource, &error))?;
        let end = Instant::now() + Duration::from_secs(grace.into()).max(LINGER);
        let mut pause = LINGER;
        // In a network that it shares, connections are not its own.
        let pid = task.map(|task| task.pid).filter(|_| unit.sandbox.is_some());
        loop {
            tokio::select! {
                // Cancel-safe: a timer.
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Ok(()),
            }
            let open = pid
                .and_then(|pid| open_connections(pid).ok())
                .unwrap_or_default();
            if open == 0 || Instant::now() >= end {
                return Ok(());
            }
            pause = LOOK;
        }
    }

    /// Time between two waves, unless there is no next one.
    pub(super) async fn delay(
        &self,
        service: &str,
        time: model::Duration,
        cancel: &CancellationToken,
    ) {
        if self.updates.is_over(service) {
            return;
        }
        tokio::select! {
            // Cancel-safe: a timer.
            () = tokio::time::sleep(time.to_std()) => {}
            () = cancel.cancelled() => {}
        }
    }

    /// Ends the update of `service`: lets the old containers go, or undoes what was done.
    pub(super) async fn conclude_update(
        &self,
        service: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let (policy, mut begun, failures, failed, count) = {
            let mut updates = locked(&self.updates.0);
            let Some(update) = updates.get_mut(service) else {
                return Ok(());
            };
            let failed = update.count(Progress::Failed);
            let count = update.replicas.len();
            let undoes = update.policy.failure_action == FailureAction::Rollback
                && update.policy.has_failed(failed, count);
            let mut begun = Vec::new();
            if undoes {
                let replicas = update.replicas.iter();
                begun.extend(
                    replicas
                        .filter(|replica| {
                            update.progress.get(&replica.name) == Some(&Progress::Begun)
                        })
                        .cloned(),
                );
            } else {
                update.accept();
            }
            (
                update.policy.clone(),
                begun,
                update.failures.clone(),
                failed,
                count,
            )
        };
        if failed == 0 {
            return Ok(());
        }
        if !policy.has_failed(failed, count) {
            for failure in failures {
                let text = format!("update of service {service}: {}", failure.message);
                self.replies.send(Reply::Warning { text }).ok();
            }
            return Ok(());
        }
        begun.reverse();
        let undone = self.undo_all(&policy, &begun, cancel).await;
        let outcome = match policy.failure_action {
            FailureAction::Pause => "the update is paused",
            FailureAction::Continue => "the other replicas are updated",
            FailureAction::Rollback if undone.is_empty() => "the update is rolled back",
            FailureAction::Rollback => "rolling back failed, too",
        };
        let mut failures = failures.into_iter().chain(undone);
        let first = failures.next().unwrap_or_default();
        let mut causes = first.causes;
        causes.extend(failures.map(|failure| failure.message));
        Err(Failure {
            resource: format!("service {service}"),
            message: format!(
                "update failed: {}; {outcome}, {failed} of {count} replicas failed",
                first.message
            ),
            causes,
            hints: first.hints,
            details: first.details,
        })
    }

    /// Makes replicas what they were, as `rollback_config` says.
    async fn undo_all(
        &self,
        policy: &UpdatePolicy,
        replicas: &[ReplicaUpdate],
        cancel: &CancellationToken,
    ) -> Vec<Failure> {
        let rollback = policy.rollback.as_deref().unwrap_or(policy);
        let mut failures = Vec::new();
        for (index, wave) in replicas.chunks(rollback.width(replicas.len())).enumerate() {
            if let Some(delay) = rollback.delay.filter(|_| index > 0) {
                tokio::time::sleep(delay.to_std()).await;
            }
            let undone = wave
                .iter()
                .map(|replica| self.undo(replica, rollback, cancel));
            failures.extend(join_all(undone).await.into_iter().filter_map(Result::err));
            if !failures.is_empty() && rollback.failure_action != FailureAction::Continue {
                break;
            }
        }
        failures
    }

    /// Has the old container of a replica serve again, and removes the new one.
    async fn undo(
        &self,
        replica: &ReplicaUpdate,
        policy: &UpdatePolicy,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let name = &replica.name;
        let resource = format!("container {name}");
        let shared = &self.worker.shared;
        let old = self.worker.unit(&replica.old).ok_or_else(|| {
            Failure::new(resource.clone(), "the container that it replaces is gone")
        })?;
        let new = match &replica.new {
            Some(id) => self.worker.unit(id),
            None => locked(&self.created).get(name).cloned(),
        };
        let is_down = !old.status.borrow().running;
        let is_beside = policy.order == UpdateOrder::StartFirst && replica.switch.is_some();
        if let Some(new) = new.as_ref().filter(|_| is_down && !is_beside) {
            self.stop_undone(new).await?;
        }
        if is_down {
            let reason = UNDONE.to_owned();
            old.ask(|reply| Command::Start { reason, reply })
                .await
                .map_err(|error| Failure {
                    hints: error.hints(),
                    ..Failure::from_error(resource.clone(), &error)
                })?;
            if is_beside {
                self.monitor(Some(&old.id), name, policy.monitor, cancel)
                    .await?;
            }
        }
        let network = |error| Failure::from_error(resource.clone(), &error);
        if let Some((from, to)) = &replica.switch {
            let networks = &shared.containers.networks;
            let record = networks.sandbox(from).map_err(network)?;
            if record.is_some_and(|record| record.stands_by_for.is_some()) {
                shared.switch_sandbox(to, from).await.map_err(network)?;
            }
        }
        if let Some(new) = new {
            if is_down && is_beside {
                self.drain(&new.id, cancel).await?;
            }
            self.stop_undone(&new).await?;
            self.worker
                .remove(&new.id, false)
                .await
                .map_err(|error| Failure::from_error(resource.clone(), &error))?;
        }
        if let Some((_, to)) = &replica.switch {
            shared.remove_sandbox(to).await.map_err(network)?;
        }
        self.say(Resource::Container, name, ProgressStatus::Running);
        Ok(())
    }

    async fn stop_undone(&self, unit: &UnitHandle) -> Result<(), Failure> {
        let stopped = unit.ask(|reply| Command::Stop {
            timeout: self.options.timeout,
            keep_sandbox: true,
            reason: UNDONE.into(),
            reply,
        });
        stopped
            .await
            .map_err(|error| Failure::from_error(format!("container {}", unit.name), &error))
    }
}

/// Returns when a new container is good, or why it is not.
async fn watch(unit: &UnitHandle, time: Duration) -> Result<(), String> {
    let mut status = unit.status.clone();
    let removed = || "was removed".to_owned();
    let judged = status.wait_for(|status| verdict(status).is_some()).await;
    let judged = judged.map_err(|_| removed())?.clone();
    verdict(&judged).unwrap_or(Ok(()))?;
    if !judged.running {
        return Ok(());
    }
    let turned = status.wait_for(|status| matches!(verdict(status), Some(Err(_))));
    match tokio::time::timeout(time, turned).await {
        Err(_) => Ok(()),
        Ok(Err(_)) => Err(removed()),
        Ok(Ok(status)) => verdict(&status).unwrap_or(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, retires: bool) -> UpdateStep {
        UpdateStep {
            service: "web".into(),
            name: name.into(),
            wave: 1,
            retires,
        }
    }

    fn updates(failure_action: FailureAction) -> Updates {
        let replica = |number: usize| ReplicaUpdate {
            name: format!("web-{number}"),
            wave: number,
            old: format!("old{number}"),
            new: None,
            switch: None,
        };
        let update = Update {
            policy: UpdatePolicy {
                failure_action,
                ..UpdatePolicy::default()
            },
            replicas: vec![replica(1), replica(2), replica(3)],
            progress: BTreeMap::new(),
            failures: Vec::new(),
            is_over: false,
        };
        Updates(std::sync::Mutex::new(BTreeMap::from([(
            "web".into(),
            update,
        )])))
    }

    #[test]
    fn after_a_failure_no_further_replica_begins_and_those_before_go_on() {
        for action in [FailureAction::Pause, FailureAction::Rollback] {
            let updates = updates(action);
            assert!(updates.begins(&part("web-1", false)));
            assert!(updates.begins(&part("web-2", false)));
            let failed = updates.fail(&part("web-2", false), Failure::default());
            assert_eq!(failed.unwrap().old, "old2");
            assert!(!updates.begins(&part("web-2", false)));
            assert!(updates.begins(&part("web-1", false)));
            assert!(!updates.begins(&part("web-3", false)));
        }
    }

    #[test]
    fn an_update_that_continues_leaves_out_only_what_failed() {
        let updates = updates(FailureAction::Continue);
        assert!(updates.begins(&part("web-1", false)));
        updates.fail(&part("web-1", false), Failure::default());
        assert!(updates.begins(&part("web-2", false)));
    }

    #[test]
    fn an_old_container_goes_only_when_its_replica_is_updated() {
        let updates = updates(FailureAction::Pause);
        assert!(updates.begins(&part("web-1", false)));
        assert!(!updates.begins(&part("web-1", true)));
        locked(&updates.0).get_mut("web").unwrap().accept();
        assert!(updates.begins(&part("web-1", true)));
        assert!(!updates.begins(&part("web-2", true)));
    }

    #[test]
    fn a_container_that_ends_is_no_good_unless_it_was_done() {
        let running = UnitStatus {
            running: true,
            ..UnitStatus::default()
        };
        assert_eq!(verdict(&running), Some(Ok(())));
        let starting = UnitStatus {
            health: Some(HealthStatus::Starting),
            ..running.clone()
        };
        assert_eq!(verdict(&starting), None);
        let restarting = UnitStatus {
            restarting: true,
            ..UnitStatus::default()
        };
        assert!(matches!(verdict(&restarting), Some(Err(_))));
        assert_eq!(verdict(&UnitStatus::default()), Some(Ok(())));
    }
}
