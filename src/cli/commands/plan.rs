//! `compose plan`

use clap::Args;

use super::converge::{ConvergeArgs, DependencyArgs, ImageArgs, up_options};
use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection};
use crate::cli::plan::{human, machine};
use crate::reconcile::plan::UpOptions;

/// Show what `up` would do, and why
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    converge: ConvergeArgs,
    #[command(flatten)]
    dependencies: DependencyArgs,
    /// Don't start the services after creating them
    #[arg(long)]
    no_start: bool,
    /// Pull images before running (always, missing, never)
    #[arg(long, value_name = "POLICY")]
    pull: Option<String>,
    /// Exit with 2 if there is something to do
    #[arg(long)]
    detailed_exitcode: bool,
    /// Format the output (text, json)
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: String,
    /// Show values of variables, which may be secret
    #[arg(long)]
    show_values: bool,
    /// Services to plan for, with their dependencies; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &PlanArgs) -> Result<ExitStatus, CommandError> {
    if !matches!(arguments.format.as_str(), "text" | "json") {
        return Err(
            CommandError::usage(format!("unknown format `{}`", arguments.format))
                .hint("it is one of text, json"),
        );
    }
    arguments.converge.check()?;
    arguments.dependencies.check(&arguments.converge)?;
    let images = ImageArgs {
        pull: arguments.pull.clone(),
        ..ImageArgs::default()
    };
    images.check()?;
    let project = context.load(Selection {
        services: &arguments.services,
        without_dependencies: arguments.dependencies.no_deps,
        with_environment: true,
    })?;
    let options = UpOptions {
        no_start: arguments.no_start,
        pull: images.policy(),
        ..up_options(
            &context.globals,
            &project,
            &arguments.services,
            &arguments.converge,
            &arguments.dependencies,
        )?
    };
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    let plan = block_on(async { Ok(stack.plan(&stack.up(options)?).await?) })?.unwrap_or_default();
    let ui = &mut context.ui;
    if arguments.format == "json" {
        ui.data(&machine(stack.name(), &plan, arguments.show_values))?;
    } else {
        for warning in &plan.warnings {
            ui.warn(warning);
        }
        let text = human(stack.name(), &plan, arguments.show_values, ui.color);
        ui.data(&text)?;
    }
    Ok(if arguments.detailed_exitcode && !plan.is_empty() {
        ExitStatus::Changes
    } else {
        ExitStatus::Success
    })
}
