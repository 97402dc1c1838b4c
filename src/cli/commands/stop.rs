//! `compose stop`

use clap::Args;

use super::converge::timeout;
use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Stop services
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Seconds until a container that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Services to stop; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &StopArgs) -> Result<ExitStatus, CommandError> {
    on_containers(context, "stop", &arguments.services, |stack, services| {
        stack.stop(services, timeout(arguments.timeout))
    })?;
    Ok(ExitStatus::Success)
}
