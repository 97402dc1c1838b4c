//! `compose top`

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::table;
use crate::container::ContainerProcess;
use crate::stack::ContainerProcesses;

/// Columns of the table, as `ps -ef` has them.
const TITLES: [&str; 10] = [
    "SERVICE", "#", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD",
];

/// Display the running processes
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Services to show; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &TopArgs) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let containers = block_on(async { Ok(stack.top(&arguments.services).await?) })?;
    let text = render(&containers, Timestamp::now(), &TimeZone::system());
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}

/// Nothing if nothing runs, as Docker does.
fn render(containers: &[ContainerProcesses], now: Timestamp, zone: &TimeZone) -> String {
    let rows = containers.iter().flat_map(|container| {
        let processes = container.processes.iter();
        processes.map(|process| row(container, process, now, zone))
    });
    let mut table = vec![TITLES.map(String::from).to_vec()];
    table.extend(rows);
    if table.len() == 1 {
        return String::new();
    }
    table::render_narrow(&table)
}

fn row(
    container: &ContainerProcesses,
    process: &ContainerProcess,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<String> {
    let age = now.duration_since(process.started_at).as_secs();
    let age = u64::try_from(age).unwrap_or(0).max(1);
    vec![
        container.service.clone(),
        container.number.to_string(),
        process.user.clone(),
        process.pid.to_string(),
        process.parent.to_string(),
        (process.cpu_seconds * 100 / age).min(99).to_string(),
        started(process.started_at, now, zone),
        process.terminal.clone().unwrap_or_else(|| "?".into()),
        clock(process.cpu_seconds),
        process.command.clone(),
    ]
}

/// A time within a day, a day within a year, or a year.
fn started(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (then, today) = (at.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let format = if now.duration_since(at).as_secs() < 24 * 3600 {
        "%H:%M"
    } else if then.year() == today.year() {
        "%b%d"
    } else {
        "%Y"
    };
    then.strftime(format).to_string()
}

/// `[days-]hours:minutes:seconds`.
fn clock(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let time = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match days {
        0 => time,
        days => format!("{days}-{time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_docker_s() {
        let now = Timestamp::from_second(1_795_239_724).unwrap();
        let process = |pid: u32, command: &str| ContainerProcess {
            user: "root".into(),
            pid,
            parent: 29_873,
            started_at: now - jiff::SignedDuration::from_secs(100),
            cpu_seconds: 5,
            terminal: None,
            command: command.into(),
        };
        let containers = [ContainerProcesses {
            service: "web".into(),
            number: 1,
            processes: vec![process(29_929, "sleep 999"), process(30_011, "sleep 1000")],
        }];
        insta::assert_snapshot!(render(&containers, now, &TimeZone::UTC), @r"
        SERVICE  #   UID   PID    PPID   C   STIME  TTY  TIME      CMD
        web      1   root  29929  29873  5   05:40  ?    00:00:05  sleep 999
        web      1   root  30011  29873  5   05:40  ?    00:00:05  sleep 1000
        ");
        assert_eq!(render(&[], now, &TimeZone::UTC), "");
    }

    #[test]
    fn old_processes_show_their_day_or_year() {
        let now = Timestamp::from_second(1_795_239_724).unwrap();
        let ago = |days: i64| now - jiff::SignedDuration::from_hours(24 * days);
        assert_eq!(started(ago(3), now, &TimeZone::UTC), "Nov18");
        assert_eq!(started(ago(400), now, &TimeZone::UTC), "2025");
        assert_eq!(clock(90_061), "1-01:01:01");
    }
}
