//! `compose start`

use std::time::Duration;

use clap::Args;

use super::perform_within;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Start services
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
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

pub(crate) fn run(
    context: &mut Context,
    arguments: &StartArgs,
) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let request = stack.start(arguments.services.clone(), arguments.wait);
    let limit = Some(arguments.wait_timeout).filter(|seconds| *seconds > 0);
    perform_within(
        &mut context.ui,
        &stack,
        "start",
        request,
        limit.map(Duration::from_secs),
    )?;
    Ok(ExitStatus::Success)
}
