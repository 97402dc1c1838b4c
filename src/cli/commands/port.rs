//! `compose port`

use clap::Args;

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::stack::{ContainerSummary, Publisher};

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
    let containers = block_on(async { Ok(stack.ps().await?) })?;
    let wanted = |container: &&ContainerSummary| {
        let number = container.number();
        container.service == arguments.service
            && !container.one_off
            && (arguments.index == 0 || number == Some(arguments.index))
    };
    let Some(container) = containers
        .iter()
        .filter(wanted)
        .min_by_key(|found| found.number())
    else {
        let message = format!("service \"{}\" is not running", arguments.service);
        return Err(CommandError::user(message));
    };
    let is_wanted = |port: &&Publisher| {
        port.target_port == arguments.port
            && port.published_port != 0
            && port.protocol == arguments.protocol
    };
    let Some(port) = container.publishers.iter().find(is_wanted) else {
        let message = format!(
            "no port {}/{} for container {}",
            arguments.port, arguments.protocol, container.name
        );
        return Err(CommandError::user(message));
    };
    let text = format!("{}\n", port.address());
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}
