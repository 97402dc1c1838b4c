//! `compose version`

use clap::Args;

use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Show the version
#[derive(Args, Debug, Default)]
pub(crate) struct VersionArgs {
    /// Format the output (pretty, json)
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show only the number
    #[arg(long)]
    short: bool,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &VersionArgs,
) -> Result<ExitStatus, CommandError> {
    let version = env!("CARGO_PKG_VERSION");
    let text = match arguments.format.as_deref() {
        _ if arguments.short => format!("{version}\n"),
        Some("json") => format!("{{\"version\":\"{version}\"}}\n"),
        None | Some("pretty" | "") => format!("containerd-compose version {version}\n"),
        Some(other) => {
            return Err(CommandError::usage(format!("unknown format `{other}`"))
                .hint("it is one of pretty, json"));
        }
    };
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}
