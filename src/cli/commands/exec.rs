//! `compose exec`

use std::io::{IsTerminal as _, stdin, stdout};

use clap::Args;

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ErrorKind, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::session::{End, Manner, Signals, converse};
use crate::cli::ui::Ui;
use crate::container::ExecOptions;
use crate::model::Project;
use crate::stack::{ExecRequest, Stack, StackError};

/// Execute a command in a running container
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Run the command in the background
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable; without a value it is taken from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Number of the container if the service has several replicas
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    index: u32,
    /// Keep standard input open
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Don't allocate a terminal; by default one is allocated if standard output is one
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub no_tty: bool,
    /// Allocate a terminal
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Give the process extended privileges
    #[arg(long)]
    privileged: bool,
    /// Run the command as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory of the command
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Service to run the command in
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &ExecArgs) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&[])?;
    let terminal = !arguments.no_tty && !arguments.detach && stdout().is_terminal();
    if terminal && !stdin().is_terminal() {
        return Err(CommandError::user("standard input is not a terminal")
            .hint("use `-T` to run the command without a terminal"));
    }
    let request = ExecRequest {
        service: arguments.service.clone(),
        index: arguments.index,
        options: ExecOptions {
            command: arguments.command.clone(),
            user: arguments.user.clone(),
            working_dir: arguments.workdir.clone(),
            environment: environment(&arguments.env, project.as_ref()),
            terminal,
            privileged: arguments.privileged,
        },
        interactive: true,
    };
    let stack = context.stack(project, name);
    let ui = &mut context.ui;
    if ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    block_on(async {
        if arguments.detach {
            stack.exec_detached(&request).await.map_err(refused)?;
            return Ok(ExitStatus::Success);
        }
        attach(ui, &stack, &request).await
    })
}

/// `NAME=VALUE` as it is, a bare `NAME` from the project's environment, or from ours; left out if it has no value.
fn environment(variables: &[String], project: Option<&Project>) -> Vec<String> {
    let lookup = |name: &str| match project {
        Some(project) => project.environment.get(name).cloned(),
        None => std::env::var(name).ok(),
    };
    variables
        .iter()
        .filter_map(|variable| match variable.split_once('=') {
            Some(_) => Some(variable.clone()),
            None => Some(format!("{variable}={}", lookup(variable)?)),
        })
        .collect()
}

/// A command that the runtime refuses has a code of its own.
fn refused(error: StackError) -> CommandError {
    match error {
        StackError::Refused { code, message } => {
            let mut error = CommandError::user(message);
            error.kind = ErrorKind::Exec(code);
            error
        }
        error => error.into(),
    }
}

async fn attach(
    ui: &mut Ui,
    stack: &Stack,
    request: &ExecRequest,
) -> Result<ExitStatus, CommandError> {
    let signals = Signals::listen()?;
    let mut session = stack.exec(request).await.map_err(refused)?;
    let manner = Manner {
        raw: request.options.terminal,
        proxy_signals: true,
        detach_keys: None,
    };
    let End::Exited(code) = converse(ui, &mut session, signals, manner).await? else {
        return Ok(ExitStatus::Interrupted);
    };
    if let Err(error) = session.finish().await {
        tracing::debug!(%error, "cannot remove the exec");
    }
    Ok(ExitStatus::container(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_variable_is_taken_from_the_project() {
        let mut project = Project::default();
        project.environment.insert("LEVEL".into(), "debug".into());
        let variables = [
            "A=b".to_owned(),
            "LEVEL".into(),
            "NOSUCH".into(),
            "EMPTY=".into(),
        ];
        assert_eq!(
            environment(&variables, Some(&project)),
            ["A=b", "LEVEL=debug", "EMPTY="]
        );
    }
}
