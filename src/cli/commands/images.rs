//! `compose images`

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::{human, table};
use crate::image::familiar;
use crate::stack::ContainerImage;

/// Digits of an id that are shown.
const SHORT_ID: usize = 12;

/// List images used by the created containers
#[derive(Args, Debug)]
pub(crate) struct ImagesArgs {
    /// Format the output (table, json)
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Only display ids
    #[arg(short, long)]
    quiet: bool,
    /// Services whose images to list; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &ImagesArgs,
) -> Result<ExitStatus, CommandError> {
    if !matches!(arguments.format.as_str(), "table" | "json") {
        return Err(
            CommandError::usage(format!("unknown format `{}`", arguments.format))
                .hint("it is one of table, json"),
        );
    }
    let (project, name) = context.project_or_name(&arguments.services)?;
    let stack = context.stack(project, name);
    let images = block_on(async { Ok(stack.images(&arguments.services).await?) })?;
    let text = match arguments.format.as_str() {
        _ if arguments.quiet => ids(&images),
        "json" => json_text(&images),
        _ => table_text(&images, Timestamp::now()),
    };
    context.ui.data(&text)?;
    Ok(ExitStatus::Success)
}

/// Digest of the configuration, or of the manifest where no more is known.
fn id(image: &ContainerImage) -> &str {
    let known = image.image.as_ref().map(|image| image.id.as_str());
    known.unwrap_or(&image.digest)
}

fn digits(id: &str) -> &str {
    id.split_once(':').map_or(id, |(_, digits)| digits)
}

fn ids(images: &[ContainerImage]) -> String {
    let mut ids: Vec<&str> = Vec::new();
    for image in images {
        let id = digits(id(image));
        if !id.is_empty() && !ids.contains(&id) {
            ids.push(id);
        }
    }
    table::lines(ids.into_iter())
}

fn json_text(images: &[ContainerImage]) -> String {
    let images: Vec<Value> = images
        .iter()
        .map(|found| {
            let (repository, tag) = familiar(&found.reference);
            let image = found.image.as_ref();
            let mut value = json!({
                "ID": id(found),
                "ContainerName": found.container,
                "Repository": repository,
                "Tag": tag,
                "Platform": image.map_or("", |image| &image.platform),
                "Size": image.map_or(0, |image| image.size),
            });
            if let Some(created) = image.and_then(|image| image.created) {
                value["Created"] = created.to_string().into();
            }
            if let Some(pulled) = image.and_then(|image| image.pulled) {
                value["LastTagTime"] = pulled.to_string().into();
            }
            value
        })
        .collect();
    format!("{}\n", Value::from(images))
}

fn table_text(images: &[ContainerImage], now: Timestamp) -> String {
    let header = [
        "CONTAINER",
        "REPOSITORY",
        "TAG",
        "PLATFORM",
        "IMAGE ID",
        "SIZE",
        "CREATED",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let or_none = |text: String| {
        if text.is_empty() {
            "<none>".into()
        } else {
            text
        }
    };
    for found in images {
        let (repository, tag) = familiar(&found.reference);
        let image = found.image.as_ref();
        let digits = digits(id(found));
        let created = image.and_then(|image| image.created);
        rows.push(vec![
            found.container.clone(),
            or_none(repository),
            or_none(tag),
            image.map_or_else(String::new, |image| image.platform.clone()),
            digits.get(..SHORT_ID).unwrap_or(digits).to_owned(),
            human::decimal_size(image.map_or(0, |image| image.size)),
            created.map_or_else(
                || "N/A".to_owned(),
                |created| format!("{} ago", human::since(created, now)),
            ),
        ]);
    }
    table::render(&rows, table::WIDE_COLUMN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageSummary;

    fn images() -> Vec<ContainerImage> {
        let summary = ImageSummary {
            id: format!("sha256:{}", "2a4658d65488".repeat(6)),
            platform: "linux/amd64".into(),
            size: 2_065_225,
            created: Some(Timestamp::from_second(1_000).unwrap()),
            pulled: None,
        };
        let image = |container: &str, image| ContainerImage {
            container: container.into(),
            reference: "docker.io/library/busybox:1".into(),
            digest: "sha256:f00".into(),
            image,
        };
        vec![
            image("shop-db-1", Some(summary.clone())),
            image("shop-gone-1", None),
            image("shop-web-1", Some(summary)),
        ]
    }

    #[test]
    fn the_table_is_docker_s() {
        let now = Timestamp::from_second(1_120).unwrap();
        insta::assert_snapshot!(table_text(&images(), now), @r"
        CONTAINER           REPOSITORY          TAG                 PLATFORM            IMAGE ID            SIZE                CREATED
        shop-db-1           busybox             1                   linux/amd64         2a4658d65488        2.07MB              2 minutes ago
        shop-gone-1         busybox             1                                       f00                 0B                  N/A
        shop-web-1          busybox             1                   linux/amd64         2a4658d65488        2.07MB              2 minutes ago
        ");
    }

    #[test]
    fn each_id_is_listed_once() {
        let expected = format!("{}\nf00\n", "2a4658d65488".repeat(6));
        assert_eq!(ids(&images()), expected);
    }

    #[test]
    fn json_leaves_out_what_is_not_known() {
        let text = json_text(&images()[1..2]);
        assert_eq!(
            text,
            "[{\"ID\":\"sha256:f00\",\"ContainerName\":\"shop-gone-1\",\"Repository\":\"busybox\",\"Tag\":\"1\",\"Platform\":\"\",\"Size\":0}]\n"
        );
    }
}
