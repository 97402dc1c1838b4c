//! `compose restart`

use clap::Args;

use super::converge::timeout;
use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Restart services
#[derive(Args, Debug)]
pub(crate) struct RestartArgs {
    /// Don't restart dependent services
    #[arg(long)]
    no_deps: bool,
    /// Seconds until a container that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Services to restart; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &RestartArgs,
) -> Result<ExitStatus, CommandError> {
    on_containers(
        context,
        "restart",
        &arguments.services,
        |stack, services| stack.restart(services, timeout(arguments.timeout), arguments.no_deps),
    )?;
    Ok(ExitStatus::Success)
}
