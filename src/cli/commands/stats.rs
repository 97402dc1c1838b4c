//! `compose stats`

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::drive::{Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::human;
use crate::cli::listing::{Listing, Row};
use crate::stack::ContainerStats;

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Digits of an id in a table.
const ID_WIDTH: usize = 12;

/// Time between the two samples that a first share of the processor needs, and between all others.
const FIRST: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_secs(1);

/// Display a live stream of container(s) resource usage statistics
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format the output: `table`, `table TEMPLATE`, `json`, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Services to show; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &StatsArgs,
) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let ui = &mut context.ui;
    // A mistake in the format is told before anything is measured.
    listing(&[], false).render(&arguments.format)?;
    let redraws = std::io::stdout().is_terminal() && !arguments.no_stream;
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let work = async {
            let mut sampler = stack.stats(arguments.services.clone(), arguments.all);
            let mut samples = sampler.next().await?;
            let mut pause = FIRST;
            loop {
                if samples.iter().any(|sample| sample.processes > 0) || !arguments.no_stream {
                    tokio::time::sleep(pause).await;
                    samples = sampler.next().await?;
                }
                pause = INTERVAL;
                let text = listing(&samples, !arguments.no_trunc).render(&arguments.format)?;
                ui.data(&if redraws { redrawn(&text) } else { text })?;
                ui.flush()?;
                if arguments.no_stream {
                    return Ok(ExitStatus::Success);
                }
            }
        };
        tokio::select! {
            result = work => result,
            // Cancel-safe by contract.
            _ = interrupts.next() => Ok(ExitStatus::Interrupted),
        }
    })
}

/// `text` in place of what stands on the terminal, without the flicker of clearing it first.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn listing(samples: &[ContainerStats], truncate: bool) -> Listing {
    Listing {
        columns: TABLE,
        titles: titles(),
        rows: samples.iter().map(|sample| row(sample, truncate)).collect(),
    }
}

/// The fields of Docker's JSON.
fn row(sample: &ContainerStats, truncate: bool) -> Row {
    let id: String = if truncate {
        sample.id.chars().take(ID_WIDTH).collect()
    } else {
        sample.id.clone()
    };
    let both = |a: u64, b: u64| format!("{} / {}", human::decimal_size(a), human::decimal_size(b));
    let (memory, limit) = (sample.memory, sample.memory_limit);
    Row {
        fields: json!({
            "BlockIO": both(sample.read, sample.written),
            "CPUPerc": format!("{:.2}%", sample.cpu_percent.unwrap_or(0.0)),
            "Container": sample.id,
            "ID": id,
            "MemPerc": format!("{:.2}%", share(memory, limit)),
            "MemUsage": format!("{} / {}", human::binary_size(memory), human::binary_size(limit)),
            "Name": sample.name,
            "NetIO": both(sample.received, sample.sent),
            "PIDs": sample.processes.to_string(),
        }),
        hidden: Map::new(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more digits than a float has"
)]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64 * 100.0
}

fn titles() -> Value {
    json!({
        "BlockIO": "BLOCK I/O",
        "CPUPerc": "CPU %",
        "Container": "CONTAINER",
        "ID": "CONTAINER ID",
        "MemPerc": "MEM %",
        "MemUsage": "MEM USAGE / LIMIT",
        "Name": "NAME",
        "NetIO": "NET I/O",
        "PIDs": "PIDS",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [ContainerStats; 2] {
        let running = ContainerStats {
            id: "11c195762f6b4180c57e202e0e0c8b10f4bfef40a62908cc8e338d79fe697e8b".into(),
            name: "shop-web-1".into(),
            cpu_percent: Some(12.345),
            memory: 1_925_120,
            memory_limit: 25_276_000_000,
            received: 1210,
            sent: 126,
            read: 0,
            written: 4096,
            processes: 2,
        };
        let ended = ContainerStats {
            id: "ed8cc8e07c7838ba72dc6d1424360758ab8f85b454dbf63b15595b563442dd00".into(),
            name: "shop-done-1".into(),
            ..ContainerStats::default()
        };
        [ended, running]
    }

    #[test]
    fn the_table_is_docker_s() {
        let text = listing(&samples(), true).render("table").unwrap();
        insta::assert_snapshot!(text, @r"
        CONTAINER ID   NAME          CPU %     MEM USAGE / LIMIT     MEM %     NET I/O         BLOCK I/O    PIDS
        ed8cc8e07c78   shop-done-1   0.00%     0B / 0B               0.00%     0B / 0B         0B / 0B      0
        11c195762f6b   shop-web-1    12.35%    1.836MiB / 23.54GiB   0.01%     1.21kB / 126B   0B / 4.1kB   2
        ");
    }

    #[test]
    fn json_has_docker_s_keys_and_templates_can_name_them() {
        let text = listing(&samples()[1..], true).render("json").unwrap();
        insta::assert_snapshot!(text, @r#"{"BlockIO":"0B / 4.1kB","CPUPerc":"12.35%","Container":"11c195762f6b4180c57e202e0e0c8b10f4bfef40a62908cc8e338d79fe697e8b","ID":"11c195762f6b","MemPerc":"0.01%","MemUsage":"1.836MiB / 23.54GiB","Name":"shop-web-1","NetIO":"1.21kB / 126B","PIDs":"2"}"#);
        let text = listing(&samples(), false).render("{{.Name}} {{.PIDs}}");
        assert_eq!(text.unwrap(), "shop-done-1 0\nshop-web-1 2\n");
        assert!(listing(&[], true).render("{{.Nope").is_err());
    }

    #[test]
    fn each_line_that_is_drawn_again_clears_its_rest() {
        assert_eq!(redrawn("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
