//! `compose export`

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;

/// Export a service container's filesystem as a tar archive
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    index: u32,
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &ExportArgs,
) -> Result<ExitStatus, CommandError> {
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        return Err(CommandError::usage(
            "output option is required when exporting to terminal",
        ));
    }
    let (project, name) = context.project_or_name(std::slice::from_ref(&arguments.service))?;
    let stack = context.stack(project, name);
    if context.ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    let (service, index) = (&arguments.service, arguments.index);
    let Some(path) = &arguments.output else {
        block_on(async { Ok(stack.export(service, index, std::io::stdout()).await?) })?;
        return Ok(ExitStatus::Success);
    };
    // Whole or not at all: whoever waits for the file must not find a part of it.
    let mut partial = path.clone().into_os_string();
    partial.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).map_err(|error| {
        CommandError::user(format!("cannot write {}: {error}", partial.display()))
    })?;
    let exported = block_on(async { Ok(stack.export(service, index, file).await?) })
        .and_then(|_name| Ok(std::fs::rename(&partial, path)?));
    if exported.is_err() {
        // The failure itself is told; what is left of the file is of no use.
        std::fs::remove_file(&partial).ok();
    }
    exported.map(|()| ExitStatus::Success)
}
