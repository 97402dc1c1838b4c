//! `compose autostart`

use clap::{Args, Subcommand};

use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::reconcile::failure::Failure;
use crate::state::StateRoot;
use crate::supervisor::autostart::{Autostart, AutostartError};

/// Bring projects back when the host starts, by a systemd unit; with `-p` one project only
#[derive(Args, Debug)]
pub(crate) struct AutostartArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Install the unit, with a copy of this program
    Enable,
    /// Remove the unit; what runs goes on
    Disable,
    /// Say whether the unit is installed
    Status,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &AutostartArgs,
) -> Result<ExitStatus, CommandError> {
    let project = context.named_project()?;
    let autostart = Autostart::new(StateRoot::from_environment(), project);
    let dry_run = context.ui.dry_run;
    let unit = autostart.path();
    let unit = unit.display();
    let text = match arguments.action {
        Action::Enable if dry_run => format!("would install {unit}\n"),
        Action::Enable => {
            require_root()?;
            autostart.enable().map_err(|error| failure(&error))?;
            format!("enabled: {unit}\n")
        }
        Action::Disable if dry_run => format!("would remove {unit}\n"),
        Action::Disable => {
            require_root()?;
            autostart.disable().map_err(|error| failure(&error))?;
            "disabled\n".into()
        }
        Action::Status if autostart.is_enabled().map_err(|error| failure(&error))? => {
            format!("enabled: {unit}\n")
        }
        Action::Status => "disabled\n".into(),
    };
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}

fn require_root() -> Result<(), CommandError> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(CommandError::user("units of the host need root"))
    }
}

fn failure(error: &AutostartError) -> CommandError {
    let hint = error.hint();
    let error = CommandError::failed(vec![Failure::from_error("", error)]);
    error.hint_if(hint.map(Into::into))
}
