//! Walks a plan: every step as soon as what it waits for is done, several at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{Plan, Step, StepId};
use crate::failpoint::boundary;
use crate::reconcile::failure::Failure;

/// What a step does to the world.
pub trait Effects: Send + Sync + 'static {
    /// Performs one step; long waits must end soon after `cancel`.
    fn perform(
        &self,
        step: &Step,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Performs every step of `plan`. A step is left out if one of those that it comes `after` failed or was left out; all
/// others are still done, and every failure is returned, in the order of the plan. At most `parallel` steps are at work,
/// and begin in the order of the plan where nothing else decides. After `cancel` no further step begins.
pub async fn apply<E: Effects>(
    plan: &Plan,
    effects: Arc<E>,
    parallel: usize,
    cancel: &CancellationToken,
) -> Vec<Failure> {
    let mut progress = Progress::new(plan);
    let mut running = JoinSet::new();
    let mut steps = HashMap::new();
    let mut failures = Vec::new();
    let mut ready = progress.first();
    let mut queue = VecDeque::new();
    let mut busy = 0;
    loop {
        // A wait costs nothing and must not keep others from running.
        let (waits, others): (Vec<_>, Vec<_>) =
            { ready.into_iter() }.partition(|&id| plan.steps[id].action.is_wait());
        queue.extend(others);
        let room = parallel.max(1).saturating_sub(busy).min(queue.len());
        busy += room;
        for id in waits.into_iter().chain(queue.drain(..room)) {
            let step = plan.steps[id].clone();
            let (effects, cancel) = (Arc::clone(&effects), cancel.clone());
            let task = running.spawn(perform(step, effects, cancel));
            steps.insert(task.id(), id);
        }
        let Some(joined) = running.join_next_with_id().await else {
            break;
        };
        let (task, result) = match joined {
            Ok((task, result)) => (task, result),
            Err(error) => {
                let failure = Failure::new("", format!("a step ended early: {error}"));
                (error.id(), Err(Some(failure)))
            }
        };
        let id = steps[&task];
        busy -= usize::from(!plan.steps[id].action.is_wait());
        ready = progress.end(id, result.is_ok());
        if let Err(Some(failure)) = result {
            failures.push((id, failure));
        }
    }
    failures.sort_by_key(|(id, _)| *id);
    failures.into_iter().map(|(_, failure)| failure).collect()
}

/// Performs one step; the error is `None` if it was left out.
async fn perform<E: Effects>(
    step: Step,
    effects: Arc<E>,
    cancel: CancellationToken,
) -> Result<(), Option<Failure>> {
    let cancel = match (step.completes, cancel.is_cancelled()) {
        (true, _) => CancellationToken::new(),
        (false, true) => return Err(None),
        (false, false) => cancel,
    };
    let result = effects.perform(&step, &cancel).await;
    boundary(step.action.name());
    result.map_err(Some)
}

/// Which steps still wait for others.
struct Progress {
    /// Steps that come after a step, and those that only follow it.
    after: Vec<Vec<StepId>>,
    follows: Vec<Vec<StepId>>,
    /// How many steps each one waits for.
    open: Vec<usize>,
    left_out: Vec<bool>,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let count = plan.steps.len();
        let mut progress = Self {
            after: vec![Vec::new(); count],
            follows: vec![Vec::new(); count],
            open: Vec::with_capacity(count),
            left_out: vec![false; count],
        };
        for (id, step) in plan.steps.iter().enumerate() {
            for &before in &step.after {
                progress.after[before].push(id);
            }
            for &before in &step.follows {
                progress.follows[before].push(id);
            }
            progress.open.push(step.after.len() + step.follows.len());
        }
        progress
    }

    /// Steps that wait for nothing.
    fn first(&self) -> Vec<StepId> {
        let open = self.open.iter().enumerate();
        open.filter(|(_, open)| **open == 0)
            .map(|(id, _)| id)
            .collect()
    }

    /// Takes note that a step has ended, and returns those that may begin now.
    fn end(&mut self, id: StepId, well: bool) -> Vec<StepId> {
        let mut ended = vec![(id, well)];
        let mut ready = Vec::new();
        while let Some((id, well)) = ended.pop() {
            for next in self.after[id].clone() {
                if well {
                    ready.extend(self.release(next));
                } else if !self.left_out[next] {
                    self.left_out[next] = true;
                    ended.push((next, false));
                }
            }
            for next in self.follows[id].clone() {
                ready.extend(self.release(next));
            }
        }
        ready
    }

    fn release(&mut self, id: StepId) -> Option<StepId> {
        self.open[id] -= 1;
        (self.open[id] == 0 && !self.left_out[id]).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::reconcile::plan::Action;

    #[derive(Default)]
    struct Recorder {
        done: Mutex<Vec<String>>,
        failing: Option<&'static str>,
        cancelling: Option<&'static str>,
    }

    impl Effects for Recorder {
        async fn perform(&self, step: &Step, cancel: &CancellationToken) -> Result<(), Failure> {
            let Action::RemoveNetwork { name } = &step.action else {
                return Ok(());
            };
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.cancelling == Some(name.as_str()) {
                cancel.cancel();
            }
            if self.failing == Some(name.as_str()) {
                return Err(Failure::new(name.clone(), "failed"));
            }
            self.done.lock().unwrap().push(name.clone());
            Ok(())
        }
    }

    fn plan(steps: &[(&str, &[StepId])]) -> Plan {
        let steps = steps.iter().map(|(name, after)| Step {
            action: Action::RemoveNetwork {
                name: (*name).into(),
            },
            reasons: Vec::new(),
            after: after.to_vec(),
            follows: Vec::new(),
            update: None,
            completes: false,
        });
        Plan {
            steps: steps.collect(),
            ..Plan::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_wait_for_those_they_follow() {
        let effects = Arc::new(Recorder::default());
        let plan = plan(&[("a", &[]), ("b", &[0]), ("c", &[0, 1])]);
        let failures = apply(&plan, Arc::clone(&effects), 8, &CancellationToken::new()).await;
        assert!(failures.is_empty());
        assert_eq!(*effects.done.lock().unwrap(), ["a", "b", "c"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_after_the_other_is_the_order_of_the_plan() {
        let names = ["a", "b", "c", "d", "e"];
        for _ in 0..20 {
            let effects = Arc::new(Recorder::default());
            let plan = plan(&names.map(|name| (name, &[][..])));
            let failures = apply(&plan, Arc::clone(&effects), 1, &CancellationToken::new()).await;
            assert!(failures.is_empty());
            assert_eq!(*effects.done.lock().unwrap(), names);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_leaves_out_what_follows_and_nothing_else() {
        let effects = Arc::new(Recorder {
            failing: Some("a"),
            ..Recorder::default()
        });
        let plan = plan(&[("a", &[]), ("b", &[0]), ("c", &[])]);
        let failures = apply(&plan, Arc::clone(&effects), 1, &CancellationToken::new()).await;
        assert_eq!(failures.len(), 1);
        assert_eq!(*effects.done.lock().unwrap(), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_follows_is_done_after_a_failure() {
        let effects = Arc::new(Recorder {
            failing: Some("a"),
            ..Recorder::default()
        });
        let mut plan = plan(&[("a", &[]), ("b", &[0]), ("c", &[]), ("d", &[2])]);
        plan.steps[2].follows = vec![1];
        let failures = apply(&plan, Arc::clone(&effects), 8, &CancellationToken::new()).await;
        assert_eq!(failures.len(), 1);
        assert_eq!(*effects.done.lock().unwrap(), ["c", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_after_a_cancellation() {
        let effects = Arc::new(Recorder::default());
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(
            apply(&plan(&[("a", &[])]), Arc::clone(&effects), 8, &cancel)
                .await
                .is_empty()
        );
        assert!(effects.done.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_step_began_is_completed_whoever_cancels() {
        let effects = Arc::new(Recorder {
            cancelling: Some("stop"),
            ..Recorder::default()
        });
        let steps: &[(&str, &[StepId])] = &[("stop", &[]), ("start", &[0]), ("next", &[1])];
        let mut plan = plan(steps);
        plan.steps[1].completes = true;
        let cancel = CancellationToken::new();
        let failures = apply(&plan, Arc::clone(&effects), 8, &cancel).await;
        assert!(failures.is_empty());
        assert_eq!(*effects.done.lock().unwrap(), ["stop", "start"]);
    }
}
