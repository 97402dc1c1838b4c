//! `compose ps`

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::listing::{Listing, Row};
use crate::cli::{human, table};
use crate::reconcile::observe::Status;
use crate::stack::{ContainerSummary, displayable};
use crate::state::HealthStatus;
use crate::template::TemplateError;

/// Columns of the table.
const TABLE: &str =
    "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}";

/// Characters of a command and of a mount in a table.
const COMMAND_WIDTH: usize = 20;
const MOUNT_WIDTH: usize = 15;
/// Digits of an id in a table.
const ID_WIDTH: usize = 12;

/// List containers
#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Show all containers, stopped ones and those of `run` too
    #[arg(short, long)]
    all: bool,
    /// Show only containers that match, as `status=running`
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Format the output: `table`, `table TEMPLATE`, `json`, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Don't shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Include services that the compose file does not define (`--orphans=false` leaves them out)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    orphans: bool,
    /// Only display ids
    #[arg(short, long)]
    quiet: bool,
    /// Display services
    #[arg(long)]
    services: bool,
    /// Show only containers in this state (paused, restarting, removing, running, dead, created, exited)
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// Services to show; all if none is named
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &PsArgs) -> Result<ExitStatus, CommandError> {
    let statuses = statuses(arguments)?;
    let (project, name) = context.project_or_name(&arguments.names)?;
    let mut names = arguments.names.clone();
    if let Some(project) = &project
        && names.is_empty()
        && !arguments.orphans
    {
        names = project.services.keys().cloned().collect();
    }
    let stack = context.stack(project, name);
    let mut containers = block_on(async { Ok(stack.ps().await?) })?;
    let all = arguments.all || !statuses.is_empty();
    containers.retain(|container| {
        let running = matches!(
            container.status,
            Status::Running | Status::Paused | Status::Restarting
        );
        let status = status_word(container.status);
        (all || (running && !container.one_off))
            && (names.is_empty() || names.contains(&container.service))
            && (statuses.is_empty() || statuses.iter().any(|wanted| wanted == status))
    });
    let text = if arguments.quiet {
        table::lines(containers.iter().map(|container| container.id.as_str()))
    } else if arguments.services {
        services(&containers)
    } else {
        let rows = Rows {
            containers: &containers,
            now: Timestamp::now(),
            truncate: !arguments.no_trunc,
        };
        rows.render(&arguments.format)?
    };
    context.ui.data(&text)?;
    context.ui.flush()?;
    if let Some(live) = stack.live() {
        let is_table = matches!(arguments.format.as_str(), "" | "table");
        if is_table && !arguments.quiet && !arguments.services {
            context
                .ui
                .note("live: the supervisor follows the project's files");
        }
        for problem in live.problems {
            let text = format!("live: {problem}");
            context.ui.warn(&text);
        }
    }
    Ok(ExitStatus::Success)
}

fn statuses(arguments: &PsArgs) -> Result<Vec<String>, CommandError> {
    let mut statuses = arguments.status.clone();
    match arguments
        .filter
        .as_deref()
        .map(|filter| (filter, filter.split_once('=')))
    {
        None | Some(("", _)) => {}
        Some((_, Some(("status", status)))) => statuses.push(status.into()),
        Some((_, Some((key, _)))) => {
            return Err(CommandError::usage(format!("unknown filter {key}"))
                .hint("containers are filtered by `status`"));
        }
        Some((_, None)) => {
            return Err(CommandError::usage(
                "arguments to --filter should be in form KEY=VAL",
            ));
        }
    }
    Ok(statuses)
}

/// Names of services, each once.
fn services(containers: &[ContainerSummary]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for container in containers {
        if !names.contains(&container.service.as_str()) {
            names.push(&container.service);
        }
    }
    format!("{}\n", names.join("\n"))
}

fn status_word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
        Status::Removing => "removing",
        Status::Dead => "dead",
    }
}

struct Rows<'a> {
    containers: &'a [ContainerSummary],
    now: Timestamp,
    truncate: bool,
}

impl Rows<'_> {
    fn render(&self, format: &str) -> Result<String, TemplateError> {
        let rows = self.containers.iter().map(|container| Row {
            fields: self.fields(container),
            // What templates can name beside the fields: `.Label "x"`.
            hidden: Map::from_iter([("Label".to_owned(), json!(container.labels))]),
        });
        let listing = Listing {
            columns: TABLE,
            titles: titles(),
            rows: rows.collect(),
        };
        listing.render(format)
    }

    /// The fields of Docker's JSON, by name.
    fn fields(&self, container: &ContainerSummary) -> Value {
        let id = if self.truncate {
            container.id.chars().take(ID_WIDTH).collect()
        } else {
            container.id.clone()
        };
        let command = self.shortened(&container.command, COMMAND_WIDTH);
        let mounts: Vec<String> = container
            .mounts
            .iter()
            .map(|mount| self.shortened(mount, MOUNT_WIDTH))
            .collect();
        let labels: Vec<String> = container
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        json!({
            "Command": format!("{command:?}"),
            "CreatedAt": human::moment(container.created_at),
            "ExitCode": container.exit_code,
            "Health": container.health.map_or("", health_word),
            "ID": id,
            "Image": container.image,
            "Labels": labels.join(","),
            "LocalVolumes": container.local_volumes.to_string(),
            "Mounts": mounts.join(","),
            "Name": container.name,
            "Names": container.name,
            "Networks": container.networks.join(","),
            "Ports": displayable(&container.publishers),
            "Project": container.project,
            "Publishers": container.publishers,
            "Reason": container.state.reason.as_deref().unwrap_or_default(),
            "Restarts": container.state.restart_count,
            "RunningFor": format!("{} ago", human::since(container.created_at, self.now)),
            "Service": container.service,
            "Size": "0B",
            "State": status_word(container.status),
            "Status": self.status(container),
        })
    }

    fn shortened(&self, text: &str, width: usize) -> String {
        if !self.truncate || text.chars().count() <= width {
            return text.into();
        }
        let mut short: String = text.chars().take(width - 1).collect();
        short.push('…');
        short
    }

    /// `Up 5 seconds (healthy)`, `Exited (0) 3 minutes ago` …
    fn status(&self, container: &ContainerSummary) -> String {
        let state = &container.state;
        let ended = state.exit.as_ref();
        let ended_ago = ended.map_or_else(String::new, |exit| {
            format!(" {} ago", human::since(exit.at, self.now))
        });
        let code = ended.map_or(container.exit_code, |exit| exit.code);
        let up = || {
            let since = state.started_at.unwrap_or(container.created_at);
            format!("Up {}", human::since(since, self.now))
        };
        match container.status {
            Status::Created => "Created".into(),
            Status::Removing => "Removal In Progress".into(),
            Status::Dead => "Dead".into(),
            Status::Paused => format!("{} (Paused)", up()),
            Status::Restarting => format!("Restarting ({code}){ended_ago}"),
            Status::Exited => format!("Exited ({code}){ended_ago}"),
            Status::Running => match container.health {
                None => up(),
                Some(HealthStatus::Starting) => format!("{} (health: starting)", up()),
                Some(health) => format!("{} ({})", up(), health_word(health)),
            },
        }
    }
}

const fn health_word(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// Titles of the fields in a table.
fn titles() -> Value {
    json!({
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "ExitCode": "EXIT CODE",
        "Health": "HEALTH",
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Label": "LABEL",
        "Labels": "LABELS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Mounts": "MOUNTS",
        "Name": "NAME",
        "Names": "NAMES",
        "Networks": "NETWORKS",
        "Ports": "PORTS",
        "Project": "PROJECT",
        "Publishers": "PUBLISHERS",
        "Reason": "REASON",
        "Restarts": "RESTARTS",
        "RunningFor": "CREATED",
        "Service": "SERVICE",
        "Size": "SIZE",
        "State": "STATE",
        "Status": "STATUS",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stack::Publisher;
    use crate::state::{ContainerState, Exit};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_239_724 + second).unwrap()
    }

    fn container(name: &str, status: Status) -> ContainerSummary {
        ContainerSummary {
            id: "6f4c380d3cc6f5215e01d4180857c7482255e927647116c64a285dd4ce549f7a".into(),
            name: format!("shop-{name}-1"),
            project: "shop".into(),
            service: name.into(),
            one_off: false,
            image: "busybox".into(),
            command: "sh -c 'echo \"out\" line'".into(),
            created_at: at(0),
            status,
            state: ContainerState {
                started_at: Some(at(1)),
                ..ContainerState::default()
            },
            health: None,
            exit_code: 0,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            publishers: vec![Publisher {
                url: "0.0.0.0".into(),
                target_port: 80,
                published_port: 18099,
                protocol: "tcp".into(),
            }],
            mounts: vec!["shop_a_long_volume_name".into()],
            local_volumes: 1,
            networks: vec!["shop_default".into()],
        }
    }

    fn exited(mut container: ContainerSummary, code: u32) -> ContainerSummary {
        let exit = Exit {
            code,
            at: at(2),
            out_of_memory: false,
            lost: false,
        };
        container.state.exit = Some(exit);
        container.exit_code = code;
        container
    }

    fn rows(containers: &[ContainerSummary]) -> Rows<'_> {
        Rows {
            containers,
            now: at(5),
            truncate: true,
        }
    }

    #[test]
    fn the_table_is_docker_s() {
        let healthy = ContainerSummary {
            health: Some(HealthStatus::Healthy),
            ..container("web", Status::Running)
        };
        let mut ended = exited(container("once", Status::Exited), 7);
        ended.publishers.clear();
        let text = rows(&[ended, healthy]).render("table").unwrap();
        insta::assert_snapshot!(text, @r#"
        NAME          IMAGE     COMMAND                    SERVICE   CREATED         STATUS                     PORTS
        shop-once-1   busybox   "sh -c 'echo \"out\" l…"   once      5 seconds ago   Exited (7) 3 seconds ago   
        shop-web-1    busybox   "sh -c 'echo \"out\" l…"   web       5 seconds ago   Up 4 seconds (healthy)     0.0.0.0:18099->80/tcp
        "#);
    }

    #[test]
    fn json_has_docker_s_keys_in_docker_s_order() {
        let text = rows(&[container("web", Status::Running)])
            .render("json")
            .unwrap();
        insta::assert_snapshot!(text, @r#"{"Command":"\"sh -c 'echo \\\"out\\\" l…\"","CreatedAt":"2026-11-21 05:42:04 +0000 UTC","ExitCode":0,"Health":"","ID":"6f4c380d3cc6","Image":"busybox","Labels":"a=b","LocalVolumes":"1","Mounts":"shop_a_long_vo…","Name":"shop-web-1","Names":"shop-web-1","Networks":"shop_default","Ports":"0.0.0.0:18099-\u003e80/tcp","Project":"shop","Publishers":[{"URL":"0.0.0.0","TargetPort":80,"PublishedPort":18099,"Protocol":"tcp"}],"Reason":"","Restarts":0,"RunningFor":"5 seconds ago","Service":"web","Size":"0B","State":"running","Status":"Up 4 seconds"}"#);
    }

    #[test]
    fn states_are_worded_as_docker_words_them() {
        let status = |container: ContainerSummary| rows(&[]).status(&container);
        assert_eq!(status(container("a", Status::Created)), "Created");
        assert_eq!(
            status(container("a", Status::Paused)),
            "Up 4 seconds (Paused)"
        );
        assert_eq!(
            status(exited(container("a", Status::Restarting), 1)),
            "Restarting (1) 3 seconds ago"
        );
        assert_eq!(
            status(exited(container("a", Status::Exited), 0)),
            "Exited (0) 3 seconds ago"
        );
        let starting = ContainerSummary {
            health: Some(HealthStatus::Starting),
            ..container("a", Status::Running)
        };
        assert_eq!(status(starting), "Up 4 seconds (health: starting)");
    }

    #[test]
    fn templates_make_lines_or_columns() {
        let containers = [container("web", Status::Running)];
        let render = |format: &str| rows(&containers).render(format);
        assert_eq!(
            render("{{.Name}} {{.Label \"a\"}}").unwrap(),
            "shop-web-1 b\n"
        );
        assert_eq!(
            render(r"table {{.Name}}\t{{upper .State}}").unwrap(),
            "NAME         STATE\nshop-web-1   RUNNING\n"
        );
        assert!(render("{{.Nosuch}}").is_err());
        assert!(rows(&[]).render("table {{.Nosuch}}").is_err());
    }
}
