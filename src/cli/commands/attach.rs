//! `compose attach`

use std::io::{IsTerminal as _, stdin};

use clap::Args;

use crate::cli::detach::DetachKeys;
use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::session::{End, Manner, Signals, converse};
use crate::stack::AttachRequest;

/// Attach to the standard streams of a running container
#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// Keys that detach from a container with a terminal
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Number of the container if the service has several replicas
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    index: u32,
    /// Don't attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process (`--sig-proxy=false` ends the command instead)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    sig_proxy: bool,
    /// Service to attach to
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &AttachArgs,
) -> Result<ExitStatus, CommandError> {
    let keys = DetachKeys::parse(arguments.detach_keys.as_deref())?;
    let (project, name) = context.project_or_name(std::slice::from_ref(&arguments.service))?;
    let stack = context.stack(project, name);
    let ui = &mut context.ui;
    if ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    let request = AttachRequest {
        service: arguments.service.clone(),
        index: arguments.index,
        stdin: !arguments.no_stdin,
    };
    block_on(async {
        let signals = Signals::listen()?;
        let mut attachment = stack.attach(&request).await?;
        let raw = attachment.terminal() && request.stdin;
        if raw && !stdin().is_terminal() {
            return Err(CommandError::user("the input device is not a TTY")
                .hint("use `--no-stdin` to see the output only"));
        }
        let manner = Manner {
            raw,
            proxy_signals: arguments.sig_proxy,
            detach_keys: raw.then_some(keys),
        };
        match converse(ui, &mut attachment, signals, manner).await? {
            End::Exited(code) => Ok(ExitStatus::container(code)),
            End::Detached => {
                ui.talk("read escape sequence\n");
                Ok(ExitStatus::Success)
            }
            End::Interrupted => Ok(ExitStatus::Interrupted),
        }
    })
}
