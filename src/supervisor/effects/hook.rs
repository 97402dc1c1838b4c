//! Hooks of a service, run in its container or, before it starts, in one of their own beside it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::RequestEffects;
use super::pre_start::Beside;
use crate::container::ExecOptions;
use crate::model::Hook;
use crate::reconcile::failure::Failure;
use crate::supervisor::exec::{self, Outcome};
use crate::supervisor::unit::UnitHandle;
use crate::supervisor::worker;

/// Bytes of a hook's output that are shown when it fails.
const HOOK_OUTPUT: usize = 2048;
/// Time in which the news of a container's end follows that of a process in it.
const NEWS: Duration = Duration::from_millis(500);

impl RequestEffects {
    pub(super) async fn run_hook(
        &self,
        (id, service, name): (Option<&str>, &str, &str),
        kind: &str,
        index: usize,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let resource = format!("container {name}");
        let Ok(unit) = self.container(id, name).await else {
            return Ok(());
        };
        let record = self.record(&unit.id, &resource).await?;
        // What counts is what the container was made with; there may be no file, or one that says something else.
        let Some(desired) = worker::desired(&record) else {
            return Ok(());
        };
        let hook = desired.config.get(kind).and_then(|hooks| hooks.get(index));
        let hook = hook.and_then(|hook| serde_json::from_value::<Hook>(hook.clone()).ok());
        let Some(hook) = hook else {
            return Ok(());
        };
        if kind == "pre_start" {
            let beside = Beside {
                unit: &unit,
                record: &record,
                desired: &desired,
            };
            return self.run_pre_start(&beside, &hook, index, cancel).await;
        }
        let shared = &self.worker.shared;
        let options = exec_options(&hook);
        let over = cancel.cancelled();
        let ran = exec::run(shared, &record, &options, over, HOOK_OUTPUT, || {}).await;
        let is_well = matches!(ran, Ok((Outcome::Exited { code: 0 }, _)));
        if kind == "pre_stop" && !is_well && has_ended(&unit).await {
            // It was to end, and has: by itself, by another command, or by the hook.
            return Ok(());
        }
        let (outcome, output) =
            ran.map_err(|error| Failure::from_error(resource.clone(), &error))?;
        match outcome {
            Outcome::Exited { code: 0 } => Ok(()),
            Outcome::TimedOut => Err(Failure::new(
                resource,
                format!("{service} hook was interrupted"),
            )),
            Outcome::Exited { code } => {
                let lines: Vec<_> = output.lines().map(str::to_owned).collect();
                Err(Failure {
                    details: lines[lines.len().saturating_sub(10)..].to_vec(),
                    ..Failure::new(
                        resource,
                        format!("{service} hook exited with status {code}"),
                    )
                })
            }
        }
    }
}

/// Whether a container does not run any more, or is just ending.
async fn has_ended(unit: &UnitHandle) -> bool {
    let mut status = unit.status.clone();
    let ended = status.wait_for(|status| !status.running);
    tokio::time::timeout(NEWS, ended).await.is_ok()
}

fn exec_options(hook: &Hook) -> ExecOptions {
    let environment = hook.environment.iter();
    ExecOptions {
        command: hook.command.clone(),
        user: hook.user.clone(),
        working_dir: hook.working_dir.clone(),
        environment: environment
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
            .collect(),
        privileged: hook.privileged,
        ..ExecOptions::default()
    }
}
