//! `compose events`

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::human;
use crate::cli::moment::moment;
use crate::stack::{EventSelection, ProjectEvent};
use crate::template::go_json;

/// Receive real time events from containers
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Output events as a stream of json objects
    #[arg(long)]
    json: bool,
    /// Show all events since a timestamp (2026-01-02T13:23:37Z) or a relative time (42m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stream events until a timestamp or a relative time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Services whose containers' events are shown; everything that happens if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &EventsArgs,
) -> Result<ExitStatus, CommandError> {
    let now = Timestamp::now();
    let since = moment("since", arguments.since.as_deref(), now)?;
    let until = moment("until", arguments.until.as_deref(), now)?;
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let selection = EventSelection {
        services: arguments.services.iter().cloned().collect(),
        // Without a time, what has happened before is no news.
        since: since.or(until.is_none().then_some(now)),
        until,
    };
    let zone = TimeZone::system();
    let ui = &mut context.ui;
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let mut events = stack.project_events(selection)?;
        loop {
            let event = tokio::select! {
                // Cancel-safe by contract.
                event = events.next() => event,
                // Cancel-safe by contract.
                _ = interrupts.next() => return Ok(ExitStatus::Interrupted),
            };
            let Some(event) = event else {
                return Ok(ExitStatus::Success);
            };
            ui.data(&if arguments.json {
                json_line(&event)
            } else {
                text_line(&event, &zone)
            })?;
            ui.flush()?;
        }
    })
}

fn json_line(event: &ProjectEvent) -> String {
    let record = &event.record;
    let object = json!({
        "action": record.action,
        "attributes": record.attributes,
        "id": record.id,
        "service": record.service,
        "time": human::precise(event.time),
        "type": record.kind,
    });
    format!("{}\n", go_json(&object))
}

/// `2026-11-21 11:02:52.992362 container die 11c19576… (exitCode=137, image=busybox, name=shop-web-1)`.
fn text_line(event: &ProjectEvent, zone: &TimeZone) -> String {
    let record = &event.record;
    let time = event.time.to_zoned(zone.clone());
    let time = time.strftime("%Y-%m-%d %H:%M:%S%.6f");
    let attributes: Vec<String> = record
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut words = vec![
        time.to_string(),
        record.kind.clone(),
        record.action.clone(),
        record.id.clone(),
    ];
    words.retain(|word| !word.is_empty());
    if !attributes.is_empty() {
        words.push(format!("({})", attributes.join(", ")));
    }
    format!("{}\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::history::EventRecord;

    fn event() -> ProjectEvent {
        let mut record = EventRecord::new("container", "die")
            .with("image", "busybox")
            .with("name", "shop-web-1")
            .with("exitCode", 137);
        record.id = "11c1".into();
        record.service = "web".into();
        ProjectEvent {
            time: "2026-11-21T11:02:52.992362001Z".parse().unwrap(),
            record,
        }
    }

    #[test]
    fn lines_are_docker_s() {
        assert_eq!(
            text_line(&event(), &TimeZone::UTC),
            "2026-11-21 11:02:52.992362 container die 11c1 (exitCode=137, image=busybox, name=shop-web-1)\n"
        );
        assert_eq!(
            json_line(&event()),
            "{\"action\":\"die\",\"attributes\":{\"exitCode\":\"137\",\"image\":\"busybox\",\"name\":\"shop-web-1\"},\
             \"id\":\"11c1\",\"service\":\"web\",\"time\":\"2026-11-21T11:02:52.992362001Z\",\"type\":\"container\"}\n"
        );
    }

    #[test]
    fn what_is_no_container_has_no_id() {
        let event = ProjectEvent {
            record: EventRecord::new("supervisor", "start"),
            ..event()
        };
        assert_eq!(
            text_line(&event, &TimeZone::UTC),
            "2026-11-21 11:02:52.992362 supervisor start\n"
        );
    }
}
