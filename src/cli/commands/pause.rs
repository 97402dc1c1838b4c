//! `compose pause`

use clap::Args;

use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::supervisor::protocol::Request;

/// Pause services
#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    /// Services to pause; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &PauseArgs,
) -> Result<ExitStatus, CommandError> {
    on_containers(context, "pause", &arguments.services, |_, services| {
        Request::Pause { services }
    })?;
    Ok(ExitStatus::Success)
}
