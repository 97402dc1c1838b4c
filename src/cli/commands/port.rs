//! `compose port`

use clap::Args;

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Print the public port for a port binding
#[derive(Args, Debug)]
pub(crate) struct PortArgs {
    #[arg(value_name = "SERVICE")]
    service: String,
    #[arg(value_name = "PRIVATE_PORT")]
    port: u16,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    index: u32,
    /// tcp or udp
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: String,
}

pub(crate) fn run(context: &mut Context, arguments: &PortArgs) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(std::slice::from_ref(&arguments.service))?;
    let stack = context.stack(project, name);
    let published = stack.published(
        &arguments.service,
        arguments.index,
        arguments.port,
        &arguments.protocol,
    );
    let port = block_on(async { Ok(published.await?) })?;
    let text = format!("{}\n", port.address());
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}
