//! `compose unpause`

use clap::Args;

use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::supervisor::protocol::Request;

/// Unpause services
#[derive(Args, Debug)]
pub(crate) struct UnpauseArgs {
    /// Services to unpause; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &UnpauseArgs,
) -> Result<ExitStatus, CommandError> {
    on_containers(context, "unpause", &arguments.services, |_, services| {
        Request::Unpause { services }
    })?;
    Ok(ExitStatus::Success)
}
