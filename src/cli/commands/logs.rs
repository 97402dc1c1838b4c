//! `compose logs`

use std::collections::BTreeSet;

use clap::Args;
use jiff::Timestamp;

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::moment::moment;
use crate::cli::print::{LogPrinter, LogStyle};
use crate::cli::ui::Ui;
use crate::model::Project;
use crate::stack::{FollowSelection, Followed, LogSelection, Stack};

/// View output from containers
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Follow the output
    #[arg(short, long)]
    follow: bool,
    /// Number of the container if the service has several replicas
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    index: u32,
    /// Show output without colour
    #[arg(long)]
    no_color: bool,
    /// Show output without the names of containers
    #[arg(long)]
    no_log_prefix: bool,
    /// Show output since a timestamp (2026-01-02T13:23:37Z) or a duration ago (42m)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Number of lines to show from the end of each container's log
    #[arg(
        short = 'n',
        long,
        value_name = "LINES",
        default_value = "all",
        allow_negative_numbers = true
    )]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show output before a timestamp (2026-01-02T13:23:37Z) or a duration ago (42m)
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Services to show; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &LogsArgs) -> Result<ExitStatus, CommandError> {
    if arguments.index > 0 && arguments.services.len() != 1 {
        return Err(CommandError::usage(
            "--index requires one service to be selected",
        ));
    }
    let now = Timestamp::now();
    let mut selection = LogSelection {
        services: arguments.services.clone(),
        index: arguments.index,
        since: moment("since", arguments.since.as_deref(), now)?,
        until: moment("until", arguments.until.as_deref(), now)?,
        tail: tail(&arguments.tail)?,
    };
    let (project, name) = context.project_or_name(&arguments.services)?;
    if let Some(project) = &project
        && selection.services.is_empty()
    {
        selection.services = attached(project);
    }
    let style = LogStyle {
        color: context.ui.color && !arguments.no_color,
        prefix: !arguments.no_log_prefix,
        timestamps: arguments.timestamps,
        apart: false,
    };
    let stack = context.stack(project, name);
    let mut printer = LogPrinter::new(stack.name(), style);
    let ui = &mut context.ui;
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let work = async {
            if arguments.follow {
                follow(ui, &stack, selection, &mut printer).await
            } else {
                show(ui, &stack, &selection, &mut printer).await
            }
        };
        tokio::select! {
            result = work => result,
            // Cancel-safe by contract.
            _ = interrupts.next() => Ok(ExitStatus::Interrupted),
        }
    })
}

async fn show(
    ui: &mut Ui,
    stack: &Stack,
    selection: &LogSelection,
    printer: &mut LogPrinter,
) -> Result<ExitStatus, CommandError> {
    let mut logs = stack.logs(selection).await?;
    printer.register(logs.names());
    while let Some(entry) = logs.next().await {
        printer.entry(ui, entry)?;
    }
    printer.flush(ui, None)?;
    Ok(ExitStatus::Success)
}

async fn follow(
    ui: &mut Ui,
    stack: &Stack,
    selection: LogSelection,
    printer: &mut LogPrinter,
) -> Result<ExitStatus, CommandError> {
    let watched: BTreeSet<String> = selection.services.iter().cloned().collect();
    let mut follower = stack
        .follow(FollowSelection {
            watched: Some(watched).filter(|services| !services.is_empty()),
            shown: None,
            logs: selection,
        })
        .await?;
    follower.look().await?;
    printer.register(follower.shown_names());
    follower.until_over(true);
    let mut unflushed = false;
    loop {
        tokio::select! {
            biased;
            // Cancel-safe by contract.
            followed = follower.next() => match followed? {
                Followed::Entry(entry) => {
                    printer.entry(ui, entry)?;
                    unflushed = true;
                }
                Followed::Exited { name, code, restarting, .. } => {
                    let suffix = if restarting { " (restarting)" } else { "" };
                    printer.status(ui, &name, &format!("exited with code {code}{suffix}"))?;
                }
                Followed::Over => break,
            },
            // Output reaches the reader as soon as there is no more of it at hand.
            () = tokio::task::yield_now(), if unflushed => {
                ui.flush()?;
                unflushed = false;
            }
        }
    }
    printer.flush(ui, None)?;
    Ok(ExitStatus::Success)
}

/// Services that do not ask to be left out of merged output.
fn attached(project: &Project) -> Vec<String> {
    let services = project
        .services
        .values()
        .chain(project.disabled_services.values());
    services
        .filter(|service| service.attach != Some(false))
        .map(|service| service.name.clone())
        .collect()
}

/// `all`, or how many lines; Docker takes a negative number for all.
fn tail(text: &str) -> Result<Option<u64>, CommandError> {
    if text == "all" {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err(CommandError::usage(format!(
            "invalid value for \"tail\": `{text}` is neither a number nor `all`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail("all").unwrap(), None);
        assert_eq!(tail("-1").unwrap(), None);
        assert_eq!(tail("20").unwrap(), Some(20));
        assert!(tail("abc").is_err());
    }
}
