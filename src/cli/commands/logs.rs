//! `compose logs`

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
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
    follower.until_over();
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

/// A timestamp, seconds since 1970, or a time before `now`.
fn moment(
    option: &str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>, CommandError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| local(text))
        .or_else(|| unix(text))
        .or_else(|| now.checked_sub(duration(text)?).ok());
    parsed.map(Some).ok_or_else(|| {
        CommandError::usage(format!(
            "invalid value for \"{option}\": failed to parse value as time or duration: \"{text}\""
        ))
    })
}

/// A date, or a date and a time, without a zone: local time.
fn local(text: &str) -> Option<Timestamp> {
    let zone = jiff::tz::TimeZone::system();
    let date = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(Into::into))
        .ok()?;
    Some(date.to_zoned(zone).ok()?.timestamp())
}

fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9.9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// Go's durations: `1h30m`, `1.5h`, `300ms`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
    }
    SignedDuration::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_absolute_or_before_now() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |text: &str| moment("since", Some(text), now).unwrap().unwrap();
        assert_eq!(
            at("2026-01-02T13:23:37Z").to_string(),
            "2026-01-02T13:23:37Z"
        );
        assert_eq!(
            at("2026-01-02T13:23:37+02:00").to_string(),
            "2026-01-02T11:23:37Z"
        );
        assert_eq!(at("500000").as_second(), 500_000);
        assert_eq!(at("500000.25").as_millisecond(), 500_000_250);
        assert_eq!(at("1h").as_second(), 996_400);
        assert_eq!(at("1.5h").as_second(), 994_600);
        assert_eq!(at("1m30s").as_second(), 999_910);
        assert_eq!(at("1500ms").as_millisecond(), 999_998_500);
        assert!(moment("since", Some("2026-01-02"), now).is_ok());
        assert!(moment("since", None, now).unwrap().is_none());
        let refused = moment("since", Some("nonsense"), now).unwrap_err();
        assert_eq!(
            refused.text(false),
            "error: invalid value for \"since\": failed to parse value as time or duration: \"nonsense\"\n"
        );
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail("all").unwrap(), None);
        assert_eq!(tail("-1").unwrap(), None);
        assert_eq!(tail("20").unwrap(), Some(20));
        assert!(tail("abc").is_err());
    }

    proptest! {
        #[test]
        fn no_moment_panics(text in "[0-9hmsnuµ.+T:Z-]{0,20}") {
            moment("since", Some(&text), Timestamp::UNIX_EPOCH).ok();
        }
    }
}
