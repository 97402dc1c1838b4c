//! `compose resume`

use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::drive::{Replies, block_on, drive};
use crate::cli::error::{CommandError, ExitStatus, did_you_mean};
use crate::cli::globals::Context;
use crate::reconcile::failure::Failure;
use crate::stack::{Resumption, Stack, StackError, recorded_projects};

/// Bring back what ran when the host went down, of every project; with `-p` of one
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// Wait for containers to be running or healthy
    #[arg(long)]
    wait: bool,
    /// Seconds to wait for containers to be running or healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_timeout: u64,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &ResumeArgs,
) -> Result<ExitStatus, CommandError> {
    let named = context.named_project()?;
    let mut projects = recorded_projects(&context.stack_options())?;
    if let Some(name) = named {
        let known = projects.iter().map(|project| project.name.as_str());
        let hint = did_you_mean(&name, known);
        projects.retain(|project| project.name == name);
        if projects.is_empty() {
            let error = CommandError::user(format!("no project `{name}` ran on this host"));
            return Err(error.hint_if(hint));
        }
    }
    let dry_run = context.ui.dry_run;
    let wait = if !arguments.wait || dry_run {
        Wait::No
    } else if arguments.wait_timeout == 0 {
        Wait::Forever
    } else {
        Wait::AtMost(Duration::from_secs(arguments.wait_timeout))
    };
    let work = async |replies: Replies| {
        let mut tasks = JoinSet::new();
        for options in projects {
            let (stack, replies) = (Stack::open(options), replies.clone());
            tasks.spawn(async move {
                let result = resume(&stack, dry_run, wait, &replies).await;
                (stack.name().to_owned(), result)
            });
        }
        let mut results = tasks.join_all().await;
        results.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(results)
    };
    let results = block_on(drive(&mut context.ui, "resume", work))?;
    let mut failures = Vec::new();
    for (name, result) in results {
        match result {
            Ok(Resumption::Resumed) if dry_run => {
                context.ui.data(&format!("{name}: would be resumed\n"))?;
            }
            Ok(Resumption::Resumed) => context.ui.data(&format!("{name}: resumed\n"))?,
            Ok(Resumption::Supervised) => context.ui.data(&format!("{name}: runs\n"))?,
            Ok(Resumption::Idle) => {}
            Err(error) => failures.push(Failure {
                hints: error.hints(),
                details: error.details().to_vec(),
                ..Failure::from_error(format!("project {name}"), &error)
            }),
        }
    }
    if failures.is_empty() {
        Ok(ExitStatus::Success)
    } else {
        Err(CommandError::failed(failures))
    }
}

/// For how long everything to be back is waited for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    No,
    Forever,
    AtMost(Duration),
}

async fn resume(
    stack: &Stack,
    dry_run: bool,
    wait: Wait,
    replies: &Replies,
) -> Result<Resumption, StackError> {
    let resumption = stack.resume(dry_run).await?;
    if resumption == Resumption::Idle {
        return Ok(resumption);
    }
    let tell = |reply| {
        // Whoever shows replies lives as long as the work.
        replies.send(reply).ok();
    };
    let settled = stack.settled(tell);
    match wait {
        Wait::No => {}
        Wait::Forever => settled.await?,
        Wait::AtMost(after) => timeout(after, settled)
            .await
            .unwrap_or(Err(StackError::NotHealthy { after }))?,
    }
    Ok(resumption)
}
