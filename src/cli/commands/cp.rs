//! `compose cp`

use std::io::IsTerminal as _;

use clap::Args;

use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::cli::progress::Renderer;
use crate::stack::{Copied, CopyDirection, CopyRequest, HostEnd};
use crate::supervisor::protocol::{Progress, ProgressStatus, Resource};

/// Copy files/folders between a service container and the local filesystem
#[derive(Args, Debug)]
#[command(override_usage = "compose cp [OPTIONS] SERVICE:SRC_PATH DEST_PATH|-
       compose cp [OPTIONS] SRC_PATH|- SERVICE:DEST_PATH")]
pub(crate) struct CpArgs {
    /// Include containers made by the run command
    #[arg(long)]
    all: bool,
    /// Keep the owners of what is copied to the host
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that is named as the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    index: u32,
    /// SERVICE:PATH, a path of the host, or `-` for a tar archive on standard input
    #[arg(value_name = "SRC")]
    source: String,
    /// SERVICE:PATH, a path of the host, or `-` for a tar archive on standard output
    #[arg(value_name = "DEST")]
    target: String,
}

pub(crate) fn run(context: &mut Context, arguments: &CpArgs) -> Result<ExitStatus, CommandError> {
    let (service, direction) = direction(&arguments.source, &arguments.target)?;
    let to_stdout = matches!(
        direction,
        CopyDirection::OutOf {
            target: HostEnd::Stream,
            ..
        }
    );
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(
            CommandError::usage("a tar archive is not written to a terminal")
                .hint("redirect standard output to a file or a program"),
        );
    }
    let working_dir = std::env::current_dir()?;
    let (project, name) = context.project_or_name(std::slice::from_ref(&service))?;
    let stack = context.stack(project, name);
    let what = format!("{} to {}", arguments.source, arguments.target);
    let request = CopyRequest {
        service,
        index: arguments.index,
        one_offs: arguments.all,
        archive: arguments.archive,
        follow_links: arguments.follow_link,
        direction,
        working_dir,
    };
    let ui = &mut context.ui;
    if ui.dry_run {
        return Ok(ExitStatus::Success);
    }
    let mut renderer = Renderer::new(ui, "copy");
    let mut warnings = Vec::new();
    let told = |copied: &Copied| {
        let progress = Progress {
            kind: Resource::Container,
            name: copied.container.clone(),
            status: ProgressStatus::Copied,
            detail: Some(what.clone()),
        };
        renderer.progress(ui, &progress);
        warnings.extend(copied.left_out.iter().map(|path| {
            format!(
                "device `{}` of {} is not copied to the host",
                path.display(),
                copied.container
            )
        }));
    };
    let result = block_on(async { Ok(stack.copy(&request, told).await?) });
    renderer.finish(ui);
    for warning in warnings {
        ui.warn(&warning);
    }
    result.map(|()| ExitStatus::Success)
}

/// The service, and which way its files go.
fn direction(source: &str, target: &str) -> Result<(String, CopyDirection), CommandError> {
    match (split(source), split(target)) {
        (Some(_), Some(_)) => Err(CommandError::usage(
            "copying between services is not supported",
        )),
        (None, None) => Err(CommandError::usage("unknown copy direction")
            .hint("one of both is a path in a container, as SERVICE:PATH")),
        (Some((service, path)), None) => Ok((
            service.into(),
            CopyDirection::OutOf {
                source: path.into(),
                target: host_end(target),
            },
        )),
        (None, Some((service, path))) => Ok((
            service.into(),
            CopyDirection::Into {
                source: host_end(source),
                target: path.into(),
            },
        )),
    }
}

fn host_end(text: &str) -> HostEnd {
    if text == "-" {
        HostEnd::Stream
    } else {
        HostEnd::Path(text.into())
    }
}

/// Service and path, unless it is a path of the host: one with a colon begins with `/` or `.`.
fn split(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) {
        return None;
    }
    text.split_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_with_a_service_is_the_container_s() {
        let (service, way) = direction("./a:b", "web:/x").unwrap();
        assert_eq!(service, "web");
        assert_eq!(
            way,
            CopyDirection::Into {
                source: HostEnd::Path("./a:b".into()),
                target: "/x".into()
            }
        );
        let (_, way) = direction("web:/x:y", "-").unwrap();
        assert_eq!(
            way,
            CopyDirection::OutOf {
                source: "/x:y".into(),
                target: HostEnd::Stream
            }
        );
        let refused =
            |source: &str, target: &str| direction(source, target).unwrap_err().text(false);
        assert!(refused("a", "b").contains("unknown copy direction"));
        assert!(refused("a:/b", "c:/d").contains("between services"));
    }
}
