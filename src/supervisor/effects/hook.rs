//! Hooks of a service, run in its container.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::RequestEffects;
use crate::container::{DESIRED_EXTENSION, Desired, ExecOptions};
use crate::model::Hook;
use crate::supervisor::exec::{self, Outcome};
use crate::supervisor::protocol::Failure;
use crate::supervisor::unit::UnitHandle;

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
        if !matches!(kind, "post_start" | "pre_stop") {
            let message =
                format!("`{kind}` hooks of service `{service}` cannot be run by this version");
            return Err(Failure::new(resource, message));
        }
        let Ok(unit) = self.container(id, name) else {
            return Ok(());
        };
        let record = self.record(&unit.id, &resource).await?;
        // What counts is what the container was made with; there may be no file, or one that says something else.
        let desired = record.extensions.get(DESIRED_EXTENSION);
        let hook = desired
            .and_then(|json| serde_json::from_slice::<Desired>(json).ok())
            .and_then(|desired| desired.config.get(kind)?.get(index).cloned())
            .and_then(|hook| serde_json::from_value::<Hook>(hook).ok());
        let Some(hook) = hook else {
            return Ok(());
        };
        let containers = &self.worker.shared.containers;
        let options = exec_options(&hook);
        let over = cancel.cancelled();
        let ran = exec::run(containers, &record, &options, over, HOOK_OUTPUT).await;
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
