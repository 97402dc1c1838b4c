//! `compose pull`

use clap::Args;

use crate::cli::drive::{block_on, drive_until};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection, check_services};
use crate::stack::PullRequest;

/// Pull service images
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Pull without printing progress information
    #[arg(short, long)]
    quiet: bool,
    /// Also pull services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Ignore images that can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// Pull what it can and ignore images with pull failures
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Apply pull policy (missing, always)
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Images are always pulled in parallel
    #[arg(long, hide = true)]
    parallel: bool,
    /// Images are always pulled in parallel
    #[arg(long, hide = true)]
    no_parallel: bool,
    /// Services whose images to pull; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &PullArgs) -> Result<ExitStatus, CommandError> {
    for (is_set, option) in [
        (arguments.parallel, "--parallel"),
        (arguments.no_parallel, "--no-parallel"),
    ] {
        if is_set {
            let text = format!("option '{option}' is DEPRECATED and will be ignored");
            context.ui.warn(&text);
        }
    }
    let policy = arguments.policy.clone().filter(|policy| !policy.is_empty());
    if let Some(other) = policy
        .as_deref()
        .filter(|policy| !matches!(*policy, "missing" | "always"))
    {
        let message = format!("invalid --policy option \"{other}\"");
        return Err(CommandError::usage(message).hint("it is one of missing, always"));
    }
    let project = context.load(Selection {
        services: &arguments.services,
        without_dependencies: !arguments.include_deps,
        with_environment: false,
    })?;
    check_services(&project, &arguments.services)?;
    let request = PullRequest {
        policy,
        ignore_buildable: arguments.ignore_buildable,
        ignore_failures: arguments.ignore_pull_failures,
        quiet: arguments.quiet,
        dry_run: context.ui.dry_run,
    };
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    let work = drive_until(&mut context.ui, "pull", async |replies, cancel| {
        stack.pull(&request, &replies, &cancel).await
    });
    let outcome = block_on(work)?;
    if !outcome.to_build.is_empty() {
        context.ui.warn(&format!(
            "images of these services are to be built, which must be done with another tool: {}",
            outcome.to_build.join(", ")
        ));
    }
    Ok(ExitStatus::Success)
}
