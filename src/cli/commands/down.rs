//! `compose down`

use clap::Args;

use super::converge::timeout;
use super::perform;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, is_set};
use crate::load::means_yes;
use crate::reconcile::plan::DownOptions;
use crate::stack::Outcome;

/// Stop and remove containers and networks
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    /// Remove containers for services not defined in the compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Remove images used by services: `local` only those without a name of their own, or `all`
    #[arg(long, value_name = "WHICH")]
    rmi: Option<String>,
    /// Seconds until a container that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Remove named volumes declared in the compose file and anonymous volumes
    #[arg(short, long, alias = "volume")]
    volumes: bool,
    /// Services to take down; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &DownArgs) -> Result<ExitStatus, CommandError> {
    if let Some(which) = &arguments.rmi
        && !matches!(which.as_str(), "local" | "all")
    {
        return Err(CommandError::usage(format!(
            "invalid value for --rmi: \"{which}\""
        )));
    }
    let (project, name) = context.project_or_name(&arguments.services)?;
    let by_variable = match &project {
        Some(project) => is_set(project, "COMPOSE_REMOVE_ORPHANS"),
        None => std::env::var("COMPOSE_REMOVE_ORPHANS").is_ok_and(|value| means_yes(&value)),
    };
    let options = DownOptions {
        services: arguments.services.clone(),
        volumes: arguments.volumes,
        remove_orphans: arguments.remove_orphans || by_variable,
        timeout: timeout(arguments.timeout),
        remove_images: arguments.rmi.clone(),
    };
    let known = project.is_some();
    let stack = context.stack(project, name);
    let request = stack.down(options);
    if perform(&mut context.ui, &stack, "down", request)? == Outcome::Unchanged && !known {
        let name = stack.name();
        context.ui.warn(&format!(
            "no resource found to remove for project \"{name}\""
        ));
    }
    Ok(ExitStatus::Success)
}
