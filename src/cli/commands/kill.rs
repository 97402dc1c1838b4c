//! `compose kill`

use clap::Args;

use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::stack::Outcome;

/// Force stop services
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Remove containers for services not defined in the compose file
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env_values = true)]
    remove_orphans: bool,
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: String,
    /// Services to kill; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &KillArgs) -> Result<ExitStatus, CommandError> {
    let outcome = on_containers(context, "kill", &arguments.services, |stack, services| {
        stack.kill(services, arguments.signal.clone(), arguments.remove_orphans)
    })?;
    if outcome == Outcome::Unchanged {
        context.ui.talk("No container to kill\n");
    }
    Ok(ExitStatus::Success)
}
