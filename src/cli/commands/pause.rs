//! `compose pause`

use clap::Args;

use crate::supervisor::protocol::Request;
use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Pause services
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Services to pause; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(context: &mut Context, arguments: &PauseArgs) -> Result<ExitStatus, CommandError> {
    on_containers(context, "pause", &arguments.services, |_, services| {
        Request::Pause { services }
    })?;
    Ok(ExitStatus::Success)
}
