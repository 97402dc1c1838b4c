//! `compose start`

use clap::Args;

use super::on_containers;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Start services
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Wait for services to be running or healthy
    #[arg(long)]
    wait: bool,
    /// Seconds to wait for services to be running or healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_timeout: u64,
    /// Services to start; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(context: &mut Context, arguments: &StartArgs) -> Result<ExitStatus, CommandError> {
    on_containers(context, "start", &arguments.services, |stack, services| {
        let seconds = Some(arguments.wait_timeout).filter(|seconds| *seconds > 0);
        stack.start(services, arguments.wait, seconds)
    })?;
    Ok(ExitStatus::Success)
}
