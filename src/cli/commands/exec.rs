//! `compose exec`

use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _, stdin, stdout};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ErrorKind, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::terminal::{self, RawMode};
use crate::cli::ui::Ui;
use crate::container::ExecOptions;
use crate::model::Project;
use crate::stack::{ExecOutput, ExecRequest, ExecSession, Stack, StackError};

/// Times that the size of the terminal is sent until the process has taken it.
const RESIZES: u32 = 10;

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
    let mut interrupts = Interrupts::listen()?;
    let mut window = signal(SignalKind::window_change())?;
    let mut session = stack.exec(request).await.map_err(refused)?;
    let raw = if request.options.terminal {
        Some(RawMode::enter()?)
    } else {
        None
    };
    let mut input = session.take_stdin().map(pump);
    let mut signals = 0;
    if raw.is_some() {
        resize(&session).await;
    }
    let code = loop {
        tokio::select! {
            // Cancel-safe by contract.
            output = session.next() => match output? {
                ExecOutput::Stdout(bytes) => {
                    ui.data_bytes(&bytes)?;
                    ui.flush()?;
                }
                ExecOutput::Stderr(bytes) => ui.error_bytes(&bytes)?,
                ExecOutput::Exited(code) => break code,
            },
            // Cancel-safe: the end comes once, and the receiver is dropped then.
            () = ended(&mut input) => {
                input = None;
                // A process that has ended needs to be told nothing.
                if let Err(error) = session.close_stdin().await {
                    tracing::debug!(%error, "cannot close standard input");
                }
            }
            // Cancel-safe by tokio's contract.
            _ = window.recv(), if raw.is_some() => resize(&session).await,
            // Cancel-safe by contract.
            number = interrupts.next() => {
                signals += 1;
                if signals > 1 {
                    return Ok(ExitStatus::Interrupted);
                }
                let number = u32::try_from(number).unwrap_or_default();
                if let Err(error) = session.kill(number).await {
                    tracing::debug!(%error, "cannot pass the signal on");
                }
            }
        }
    };
    drop(raw);
    if let Err(error) = session.finish().await {
        tracing::debug!(%error, "cannot remove the exec");
    }
    Ok(ExitStatus::container(code))
}

/// Sends the terminal's size; a process that is just starting may not take it at once.
async fn resize(session: &ExecSession) {
    let (columns, rows) = terminal::size();
    let (columns, rows) = (
        u32::try_from(columns).unwrap_or(80),
        u32::try_from(rows).unwrap_or(24),
    );
    for attempt in 1..=RESIZES {
        match session.resize(columns, rows).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, attempt, "cannot resize the terminal"),
        }
        tokio::time::sleep(Duration::from_millis(10) * attempt).await;
    }
}

/// Copies standard input to `pipe` until either ends. On a thread of its own: a blocked read must not hold up the end of
/// the command.
fn pump(mut pipe: File) -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut input = stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    if pipe.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        drop(pipe);
        // The command may have ended.
        sender.send(()).ok();
    });
    ended
}

async fn ended(input: &mut Option<oneshot::Receiver<()>>) {
    match input {
        // A thread that ended without a word has ended, too.
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
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
