//! `compose watch`

mod sources;

use std::pin::Pin;
use std::rc::Rc;

use clap::Args;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use super::converge::{ConvergeArgs, DependencyArgs, up_options};
use super::request_within;
use crate::cli::drive::{FRAME, Interrupts, block_on};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection, load_error, show_warnings};
use crate::cli::progress::Renderer;
use crate::cli::ui::Ui;
use crate::model::Project;
use crate::stack::{Reloaded, Stack, StackError, Watch};
use crate::supervisor::protocol::{ProgressStatus, Reply, Request};

pub(super) use self::sources::{News, Sources};

/// What is being done for the last edit.
pub(super) type Work<'a> = Pin<Box<dyn Future<Output = Result<(), StackError>> + 'a>>;

/// Follow the compose files and the source code, and update containers when they change
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Do not bring the services up before watching
    #[arg(long)]
    no_up: bool,
    /// Remove images that a rebuild has replaced
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    prune: bool,
    /// Suppress the build output
    #[arg(long)]
    quiet: bool,
    /// Services to watch, with their dependencies; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &WatchArgs,
) -> Result<ExitStatus, CommandError> {
    let (load, loaded) = context.load_with_options(Selection {
        services: &arguments.services,
        with_environment: true,
        ..Selection::default()
    })?;
    let project = &loaded.project;
    let options = up_options(
        &context.globals,
        project,
        &arguments.services,
        &ConvergeArgs::default(),
        &DependencyArgs::default(),
    )?;
    let stack = context.stack(Some(project.clone()), project.name.clone());
    // In one runtime, to which the connection to containerd belongs.
    block_on(async {
        let ui = &mut context.ui;
        if !arguments.no_up {
            request_within(ui, &stack, "up", stack.up(options.clone())?, None).await?;
        }
        if ui.dry_run {
            return Ok(ExitStatus::Success);
        }
        let watch = Watch::new(&load, &loaded, &options).map_err(StackError::from)?;
        let sources = Sources::new(ui, project)?;
        follow(ui, stack, watch, sources).await
    })
}

/// Follows the files until the user ends it.
async fn follow(
    ui: &mut Ui,
    stack: Stack,
    mut watch: Watch,
    mut sources: Sources,
) -> Result<ExitStatus, CommandError> {
    let mut interrupts = Interrupts::listen()?;
    let mut renderer = Renderer::new(ui, "watch");
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (sender, mut replies) = unbounded_channel();
    let mut stack = Rc::new(stack);
    let mut work: Option<Work<'_>> = None;
    sources.supply(&stack).await?;
    ui.note("Watch enabled");
    loop {
        tokio::select! {
            // What was told first is shown first.
            biased;
            // Cancel-safe by contract.
            _ = interrupts.next() => return Ok(ExitStatus::Interrupted),
            // Cancel-safe: a message is taken only when this arm wins.
            Some(reply) = replies.recv() => renderer.reply(ui, &reply),
            // Polled until it has ended, or given up for a successor.
            result = next_result(&mut work) => {
                work = None;
                if let Err(StackError::Failed(failures)) = &result {
                    renderer.failed(ui, failures);
                }
                renderer.finish(ui);
                match result {
                    Ok(()) => {
                        watch.settle();
                        sources.supply(&stack).await?;
                    }
                    // The next edit may put it right.
                    Err(error) => {
                        CommandError::from(error).report(ui);
                    }
                }
            }
            // Cancel-safe: a frame that is lost is drawn by the next.
            _ = frames.tick(), if work.is_some() => renderer.tick(ui),
            // Cancel-safe by contract.
            news = sources.next(&stack) => {
                let news = news?;
                renderer.above(ui, |ui| tell(ui, news));
            }
            // Cancel-safe by contract.
            reloaded = watch.next() => {
                let reloaded = reloaded.map_err(StackError::from)?;
                if let Some(project) = renderer.above(ui, |ui| accept(ui, reloaded)) {
                    sources.replace(ui, &project)?;
                    stack = Rc::new(stack.with_project(project));
                    // What is still being done for an earlier edit is given up between two steps.
                    work = Some(update(&stack, watch.request(), sender.clone()));
                }
            }
        }
    }
}

/// Shows what is wrong with files that have changed; the project if nothing is.
pub(super) fn accept(ui: &mut Ui, reloaded: Reloaded) -> Option<Project> {
    let problem = match reloaded {
        Reloaded::Project(loaded) => {
            show_warnings(ui, &loaded);
            ui.note("Files changed, updating");
            return Some(loaded.project);
        }
        Reloaded::Invalid(error) => load_error(ui, &error),
        Reloaded::Other(problem) => CommandError::user(problem),
    };
    problem.report(ui);
    ui.note("Files changed and are wrong: everything keeps running as it was");
    None
}

/// Has the supervisor make the world follow an edit. What stays as it is is not told.
pub(super) fn update<'a>(
    stack: &Rc<Stack>,
    request: Request,
    replies: UnboundedSender<Reply>,
) -> Work<'a> {
    let stack = Rc::clone(stack);
    Box::pin(async move {
        let tell = |reply| {
            let is_same = matches!(
                &reply,
                Reply::Progress(progress)
                    if matches!(progress.status, ProgressStatus::Running | ProgressStatus::Exited)
            );
            if !is_same {
                // The receiver lives as long as the session.
                replies.send(reply).ok();
            }
        };
        stack.request(request, tell).await
    })
}

/// Shows what became of source files.
pub(super) fn tell(ui: &mut Ui, news: News) {
    match news {
        News::Note(text) => ui.note(&text),
        News::Failed(error) => {
            CommandError::from(error).report(ui);
        }
    }
}

async fn next_result(work: &mut Option<Work<'_>>) -> Result<(), StackError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
