//! `compose ls`

use clap::Args;
use regex::Regex;
use serde_json::{Value, json};

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::table;
use crate::stack::{ProjectSummary, list};
use crate::template::go_json;

/// List running projects
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Show stopped projects too
    #[arg(short, long)]
    all: bool,
    /// Show only projects that match, as `name=REGEX`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output (table, json)
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Only display project names
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &mut Context, arguments: &LsArgs) -> Result<ExitStatus, CommandError> {
    let filters = filters(&arguments.filter)?;
    if !matches!(arguments.format.as_str(), "table" | "json" | "") {
        return Err(CommandError::usage(format!(
            "format value \"{}\" could not be parsed",
            arguments.format
        ))
        .hint("it is one of table, json"));
    }
    let options = context.stack_options();
    let mut projects = block_on(async { Ok(list(&options).await?) })?;
    projects.retain(|project| {
        let running = project.states.contains_key("running");
        let matches =
            filters.is_empty() || filters.iter().any(|filter| filter.is_match(&project.name));
        (arguments.all || running) && matches
    });
    if !arguments.all {
        for project in &mut projects {
            project.states.retain(|state, _| *state == "running");
        }
    }
    let text = if arguments.quiet {
        table::lines(projects.iter().map(|project| project.name.as_str()))
    } else if arguments.format == "json" {
        let rows: Value = projects.iter().map(row).collect();
        format!("{}\n", go_json(&rows))
    } else {
        let mut rows = vec![
            ["NAME", "STATUS", "CONFIG FILES"]
                .map(String::from)
                .to_vec(),
        ];
        rows.extend(
            projects
                .iter()
                .map(|project| vec![project.name.clone(), project.status(), files(project)]),
        );
        table::render(&rows, table::WIDE_COLUMN)
    };
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}

fn filters(filters: &[String]) -> Result<Vec<Regex>, CommandError> {
    filters
        .iter()
        .map(|filter| match filter.split_once('=') {
            Some(("name", pattern)) => Regex::new(pattern)
                .map_err(|error| CommandError::usage(format!("invalid filter: {error}"))),
            Some((key, _)) => Err(CommandError::usage(format!("invalid filter '{key}'"))
                .hint("projects are filtered by `name`")),
            None => Err(CommandError::usage(format!(
                "invalid filter '{filter}': it has the form `name=REGEX`"
            ))),
        })
        .collect()
}

fn files(project: &ProjectSummary) -> String {
    let files: Vec<&str> = project.config_files.iter().map(String::as_str).collect();
    files.join(",")
}

fn row(project: &ProjectSummary) -> Value {
    json!({"Name": project.name, "Status": project.status(), "ConfigFiles": files(project)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_filtered() {
        let filter = |text: &str| filters(&[text.to_owned()]);
        assert!(filter("name=^shop").unwrap()[0].is_match("shop-two"));
        assert!(filter("foo=x").is_err());
        assert!(filter("name=(").is_err());
        assert!(filter("shop").is_err());
    }
}
