//! `compose rm`

use std::io::BufRead as _;

use clap::Args;

use super::request_within;
use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::reconcile::plan::{Action, Plan};

/// Remove stopped containers
///
/// Anonymous volumes stay unless -v is given. Data that is not in a volume is lost.
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Stop the containers first
    #[arg(short, long)]
    stop: bool,
    /// Remove anonymous volumes of the containers
    #[arg(short, long)]
    volumes: bool,
    /// Has no effect
    #[arg(short, long, hide = true)]
    all: bool,
    /// Services to remove; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &RmArgs) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let request = stack.remove(
        arguments.services.clone(),
        arguments.stop,
        arguments.volumes,
    );
    let ui = &mut context.ui;
    block_on(async {
        let plan = stack.plan(&request).await?.unwrap_or_default();
        let names = removed(&plan);
        if names.is_empty() {
            ui.talk("No stopped containers\n");
            return Ok(ExitStatus::Success);
        }
        let question = format!("Going to remove {}", names.join(", "));
        if arguments.force || ui.dry_run {
            ui.data(&format!("{question}\n"))?;
            ui.flush()?;
        } else {
            ui.data(&format!("{question} [yN] "))?;
            ui.flush()?;
            if !confirmed()? {
                return Ok(ExitStatus::Success);
            }
        }
        request_within(ui, &stack, "rm", request, None).await?;
        Ok(ExitStatus::Success)
    })
}

/// Names of the containers that `plan` removes.
fn removed(plan: &Plan) -> Vec<&str> {
    let names = plan.steps.iter().filter_map(|step| match &step.action {
        Action::RemoveContainer { name, .. } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// The answer on standard input; its end means no.
fn confirmed() -> Result<bool, CommandError> {
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
