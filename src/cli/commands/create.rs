//! `compose create`

use clap::Args;

use super::converge::{ConvergeArgs, DependencyArgs, ImageArgs, up_options};
use super::perform;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection};
use crate::reconcile::plan::UpOptions;

/// Create containers without starting them
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    converge: ConvergeArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Services to create; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &CreateArgs,
) -> Result<ExitStatus, CommandError> {
    arguments.converge.check()?;
    arguments.images.check()?;
    let project = context.load(Selection {
        services: &arguments.services,
        with_environment: true,
        ..Selection::default()
    })?;
    arguments.images.check_project(&project)?;
    let options = UpOptions {
        no_start: true,
        pull: arguments.images.policy(),
        quiet_pull: arguments.images.quiet_pull,
        ..up_options(
            &context.globals,
            &project,
            &arguments.services,
            &arguments.converge,
            &DependencyArgs::default(),
        )?
    };
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    perform(&mut context.ui, &stack, "create", stack.up(options)?)?;
    Ok(ExitStatus::Success)
}
