//! `compose commit`

use clap::Args;

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::progress::Renderer;
use crate::container::CommitOptions;
use crate::supervisor::protocol::{Progress, ProgressStatus, Resource};

/// Create a new image from a service container's changes
#[derive(Args, Debug)]
pub(crate) struct CommitArgs {
    /// Author, as "Ada Lovelace <ada@example.org>"
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    index: u32,
    /// Commit message
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    message: String,
    /// Pause container during commit (`--pause=false` leaves it running)
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    pause: bool,
    #[arg(value_name = "SERVICE")]
    service: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &CommitArgs,
) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(std::slice::from_ref(&arguments.service))?;
    let stack = context.stack(project, name);
    let ui = &mut context.ui;
    if ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    let options = CommitOptions {
        reference: arguments.reference.clone(),
        author: arguments.author.clone(),
        comment: arguments.message.clone(),
        changes: arguments.change.clone(),
        pause: arguments.pause,
        ..CommitOptions::default()
    };
    let work = async {
        let mut interrupts = Interrupts::listen()?;
        let mut interrupted = false;
        let work = stack.commit(&arguments.service, arguments.index, options);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                // Never dropped before its end: a container that it has paused would stay so.
                result = &mut work => return Ok((result?, interrupted)),
                // Cancel-safe by contract.
                _ = interrupts.next() => interrupted = true,
            }
        }
    };
    let ((container, id), interrupted) = block_on(work)?;
    let mut renderer = Renderer::new(ui, "commit");
    let progress = Progress {
        kind: Resource::Container,
        name: container,
        status: ProgressStatus::Committed,
        detail: Some(format!("as {id}")),
    };
    renderer.progress(ui, &progress);
    renderer.finish(ui);
    Ok(if interrupted {
        ExitStatus::Interrupted
    } else {
        ExitStatus::Success
    })
}
