//! `compose push`

use clap::Args;

use crate::cli::drive::{block_on, drive_until};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection, check_services};
use crate::cli::ui::ProgressMode;
use crate::stack::PushRequest;

/// Push service images
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Push without printing progress information
    #[arg(short, long)]
    quiet: bool,
    /// Also push images of services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Push what it can and ignore images with push failures
    #[arg(long)]
    ignore_push_failures: bool,
    /// Services whose images to push; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &PushArgs) -> Result<ExitStatus, CommandError> {
    let project = context.load(Selection {
        services: &arguments.services,
        without_dependencies: !arguments.include_deps,
        with_environment: false,
    })?;
    check_services(&project, &arguments.services)?;
    if arguments.quiet {
        context.ui.progress = ProgressMode::Quiet;
    }
    let request = PushRequest {
        ignore_failures: arguments.ignore_push_failures,
        dry_run: context.ui.dry_run,
    };
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    block_on(drive_until(
        &mut context.ui,
        "push",
        async |replies, cancel| stack.push(request, &replies, &cancel).await,
    ))?;
    Ok(ExitStatus::Success)
}
