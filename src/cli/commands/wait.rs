//! `compose wait`

use clap::Args;

use super::request_within;
use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::reconcile::plan::DownOptions;

/// Block until containers of services stop
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// Take the project down when the first container stops
    #[arg(long)]
    down_project: bool,
    /// Services to wait for
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &WaitArgs) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let ui = &mut context.ui;
    if ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let mut waits = stack.wait(&arguments.services).await?;
        let mut code = 0;
        loop {
            let ended = tokio::select! {
                // Cancel-safe by contract.
                ended = waits.next() => ended,
                _ = interrupts.next() => return Ok(ExitStatus::Interrupted),
            };
            let Some(ended) = ended else { break };
            ui.data(&format!(
                "container \"{}\" exited with status code {}\n",
                ended.id, ended.code
            ))?;
            ui.flush()?;
            code = ended.code;
            if arguments.down_project {
                let options = DownOptions {
                    remove_orphans: true,
                    ..DownOptions::default()
                };
                request_within(ui, &stack, "down", stack.down(options), None).await?;
                break;
            }
        }
        Ok(ExitStatus::container(code))
    })
}
