//! The commands, one file each.

mod attach;
mod autostart;
mod commit;
mod config;
mod converge;
mod cp;
mod create;
mod down;
mod events;
mod exec;
mod export;
mod images;
mod kill;
mod logs;
mod ls;
mod pause;
mod plan;
mod port;
mod ps;
mod pull;
mod push;
mod restart;
mod resume;
mod rm;
mod run;
mod scale;
mod schema;
mod start;
mod stats;
mod stop;
pub(super) mod supervisor;
mod top;
mod unpause;
mod up;
pub(super) mod version;
mod volumes;
mod wait;
mod watch;

use std::io::{stderr, stdout};
use std::time::Duration;

use clap::Subcommand;
use tokio::time::timeout;

use super::drive::{Replies, block_on, drive};
use super::error::{CommandError, ExitStatus};
use super::globals::Context;
use super::progress::Renderer;
use super::ui::Ui;
use crate::stack::{Outcome, Stack, StackError, rehearse};
use crate::supervisor::protocol::Request;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Attach(attach::AttachArgs),
    Autostart(autostart::AutostartArgs),
    Commit(commit::CommitArgs),
    #[command(alias = "convert")]
    Config(Box<config::ConfigArgs>),
    Cp(cp::CpArgs),
    Create(create::CreateArgs),
    Down(down::DownArgs),
    Events(events::EventsArgs),
    Exec(exec::ExecArgs),
    Export(export::ExportArgs),
    Images(images::ImagesArgs),
    Kill(kill::KillArgs),
    Logs(logs::LogsArgs),
    Ls(ls::LsArgs),
    Pause(pause::PauseArgs),
    Plan(plan::PlanArgs),
    Port(port::PortArgs),
    Ps(ps::PsArgs),
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    Restart(restart::RestartArgs),
    Resume(resume::ResumeArgs),
    Rm(rm::RmArgs),
    Run(Box<run::RunArgs>),
    Scale(scale::ScaleArgs),
    Schema(schema::SchemaArgs),
    Start(start::StartArgs),
    Stats(stats::StatsArgs),
    Stop(stop::StopArgs),
    #[command(hide = true)]
    Supervisor(crate::supervisor::process::SupervisorArgs),
    Top(top::TopArgs),
    Unpause(unpause::UnpauseArgs),
    Up(Box<up::UpArgs>),
    Version(version::VersionArgs),
    Volumes(volumes::VolumesArgs),
    Wait(wait::WaitArgs),
    Watch(watch::WatchArgs),
}

/// Runs a command to its end.
pub(crate) fn run(command: Command, context: &mut Context) -> Result<ExitStatus, CommandError> {
    match command {
        Command::Attach(arguments) => attach::run(context, &arguments),
        Command::Autostart(arguments) => autostart::run(context, &arguments),
        Command::Commit(arguments) => commit::run(context, &arguments),
        Command::Config(arguments) => {
            let options = context.load_options()?;
            let talk = config::Talk {
                style: context.style(),
                json: context.talks_json(),
            };
            let code = config::run(&arguments, options, &mut stdout(), &mut stderr(), talk)?;
            Ok(if code == 0 {
                ExitStatus::Success
            } else {
                ExitStatus::Failure
            })
        }
        Command::Cp(arguments) => cp::run(context, &arguments),
        Command::Create(arguments) => create::run(context, &arguments),
        Command::Down(arguments) => down::run(context, &arguments),
        Command::Events(arguments) => events::run(context, &arguments),
        Command::Exec(arguments) => exec::run(context, &arguments),
        Command::Export(arguments) => export::run(context, &arguments),
        Command::Images(arguments) => images::run(context, &arguments),
        Command::Kill(arguments) => kill::run(context, &arguments),
        Command::Logs(arguments) => logs::run(context, &arguments),
        Command::Ls(arguments) => ls::run(context, &arguments),
        Command::Pause(arguments) => pause::run(context, &arguments),
        Command::Plan(arguments) => plan::run(context, &arguments),
        Command::Port(arguments) => port::run(context, &arguments),
        Command::Ps(arguments) => ps::run(context, &arguments),
        Command::Pull(arguments) => pull::run(context, &arguments),
        Command::Push(arguments) => push::run(context, &arguments),
        Command::Restart(arguments) => restart::run(context, &arguments),
        Command::Resume(arguments) => resume::run(context, &arguments),
        Command::Rm(arguments) => rm::run(context, &arguments),
        Command::Run(arguments) => run::run(context, &arguments),
        Command::Scale(arguments) => scale::run(context, &arguments),
        Command::Schema(arguments) => schema::run(context, &arguments),
        Command::Start(arguments) => start::run(context, &arguments),
        Command::Stats(arguments) => stats::run(context, &arguments),
        Command::Stop(arguments) => stop::run(context, &arguments),
        // Dispatched before there is a context: it is no command for people.
        Command::Supervisor(_) => Ok(ExitStatus::Failure),
        Command::Top(arguments) => top::run(context, &arguments),
        Command::Unpause(arguments) => unpause::run(context, &arguments),
        Command::Up(arguments) => up::run(context, *arguments),
        Command::Version(arguments) => version::run(context, &arguments),
        Command::Volumes(arguments) => volumes::run(context, &arguments),
        Command::Wait(arguments) => wait::run(context, &arguments),
        Command::Watch(arguments) => watch::run(context, &arguments),
    }
}

/// Has `request` done and shows how, or what would be done.
fn perform(
    ui: &mut Ui,
    stack: &Stack,
    operation: &'static str,
    request: Request,
) -> Result<Outcome, CommandError> {
    perform_within(ui, stack, operation, request, None)
}

/// As [`perform`]; gives up after `limit`.
fn perform_within(
    ui: &mut Ui,
    stack: &Stack,
    operation: &'static str,
    request: Request,
    limit: Option<Duration>,
) -> Result<Outcome, CommandError> {
    block_on(request_within(ui, stack, operation, request, limit))
}

async fn request_within(
    ui: &mut Ui,
    stack: &Stack,
    operation: &'static str,
    request: Request,
    limit: Option<Duration>,
) -> Result<Outcome, CommandError> {
    if !ui.dry_run {
        let work = async |replies: Replies| {
            let tell = |reply| {
                // Whoever shows replies lives as long as the work.
                replies.send(reply).ok();
            };
            let asked = stack.ask(request, tell);
            match limit {
                Some(limit) => timeout(limit, asked)
                    .await
                    .unwrap_or(Err(StackError::NotHealthy { after: limit })),
                None => asked.await,
            }
        };
        return drive(ui, operation, work).await;
    }
    let Some(plan) = stack.plan(&request).await? else {
        return Ok(Outcome::Unchanged);
    };
    let mut renderer = Renderer::new(ui, operation);
    for warning in &plan.warnings {
        ui.warn(warning);
    }
    for progress in rehearse(&plan) {
        renderer.progress(ui, &progress);
    }
    renderer.finish(ui);
    let outcome = if plan.is_empty() {
        Outcome::Unchanged
    } else {
        Outcome::Applied
    };
    Ok(outcome)
}

/// As [`perform`], for a request about containers of `services`, with files or without.
fn on_containers(
    context: &mut Context,
    operation: &'static str,
    services: &[String],
    request: impl FnOnce(&Stack, Vec<String>) -> Request,
) -> Result<Outcome, CommandError> {
    let (project, name) = context.project_or_name(services)?;
    let stack = context.stack(project, name);
    let request = request(&stack, services.to_vec());
    perform(&mut context.ui, &stack, operation, request)
}
