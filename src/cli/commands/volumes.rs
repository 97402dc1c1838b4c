//! `compose volumes`

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::listing::{Listing, Row};
use crate::cli::table;
use crate::stack::VolumeSummary;

/// List volumes
#[derive(Args, Debug)]
pub(crate) struct VolumesArgs {
    /// Format the output: `table`, `table TEMPLATE`, `json`, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Only display names
    #[arg(short, long)]
    quiet: bool,
    /// Services whose volumes are listed; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &VolumesArgs,
) -> Result<ExitStatus, CommandError> {
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let volumes = block_on(async { Ok(stack.volumes(&arguments.services).await?) })?;
    let text = if arguments.quiet {
        table::lines(volumes.iter().map(|volume| volume.name.as_str()))
    } else {
        listing(&volumes).render(&arguments.format)?
    };
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}

fn listing(volumes: &[VolumeSummary]) -> Listing {
    Listing {
        columns: "{{.Driver}}\t{{.Name}}",
        titles: titles(),
        rows: volumes.iter().map(row).collect(),
    }
}

/// Docker's fields; those that only its clusters know have its word for "unknown".
fn row(volume: &VolumeSummary) -> Row {
    let labels: Vec<String> = volume
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Row {
        fields: json!({
            "Availability": "N/A",
            "Driver": volume.driver,
            "Group": "N/A",
            "Labels": labels.join(","),
            "Links": "N/A",
            "Mountpoint": volume.mountpoint,
            "Name": volume.name,
            "Scope": "local",
            "Size": "N/A",
            "Status": "N/A",
        }),
        hidden: Map::from_iter([("Label".to_owned(), json!(volume.labels))]),
    }
}

/// Titles of the fields in a table.
fn titles() -> Value {
    json!({
        "Availability": "AVAILABILITY",
        "Driver": "DRIVER",
        "Group": "GROUP",
        "Label": "LABEL",
        "Labels": "LABELS",
        "Links": "LINKS",
        "Mountpoint": "MOUNTPOINT",
        "Name": "VOLUME NAME",
        "Scope": "SCOPE",
        "Size": "SIZE",
        "Status": "STATUS",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn volumes() -> Vec<VolumeSummary> {
        vec![VolumeSummary {
            name: "shop_data".into(),
            driver: "local".into(),
            labels: BTreeMap::from([("a".into(), "b".into()), ("c".into(), "d".into())]),
            mountpoint: "/var/lib/compose/volumes/shop_data/_data".into(),
        }]
    }

    #[test]
    fn the_table_is_docker_s() {
        let render = |volumes: &[VolumeSummary]| listing(volumes).render("table").unwrap();
        assert_eq!(
            render(&volumes()),
            "DRIVER    VOLUME NAME\nlocal     shop_data\n"
        );
        assert_eq!(render(&[]), "DRIVER    VOLUME NAME\n");
    }

    #[test]
    fn json_and_templates_have_docker_s_fields() {
        let render = |format: &str| listing(&volumes()).render(format);
        assert_eq!(
            render("json").unwrap(),
            r#"{"Availability":"N/A","Driver":"local","Group":"N/A","Labels":"a=b,c=d","Links":"N/A","Mountpoint":"/var/lib/compose/volumes/shop_data/_data","Name":"shop_data","Scope":"local","Size":"N/A","Status":"N/A"}"#
                .to_owned()
                + "\n"
        );
        assert_eq!(
            render("{{.Name}} {{.Label \"a\"}}").unwrap(),
            "shop_data b\n"
        );
        assert!(render("{{.Foo}}").is_err());
    }
}
