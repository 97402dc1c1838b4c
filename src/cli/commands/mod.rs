//! The commands, one file each.

mod config;
mod converge;
mod create;
mod down;
mod exec;
mod kill;
mod logs;
mod ls;
mod pause;
mod plan;
mod ps;
mod restart;
mod rm;
mod start;
mod stop;
pub(super) mod supervisor;
mod unpause;
mod up;
pub(super) mod version;

use clap::Subcommand;

use super::error::{CommandError, ExitStatus};
use super::globals::Context;

#[derive(Debug, Subcommand)]
pub enum Command {
    Config(config::ConfigArgs),
    Create(create::CreateArgs),
    Down(down::DownArgs),
    Exec(exec::ExecArgs),
    Kill(kill::KillArgs),
    Logs(logs::LogsArgs),
    Ls(ls::LsArgs),
    Pause(pause::PauseArgs),
    Plan(plan::PlanArgs),
    Ps(ps::PsArgs),
    Restart(restart::RestartArgs),
    Rm(rm::RmArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    #[command(hide = true)]
    Supervisor(crate::supervisor::process::SupervisorArgs),
    Unpause(unpause::UnpauseArgs),
    Up(up::UpArgs),
    Version(version::VersionArgs),
}

/// Runs a command to its end.
pub fn run(command: Command, context: &mut Context) -> Result<ExitStatus, CommandError> {
    match command {
        Command::Config(arguments) => config::run(context, &arguments),
        Command::Create(arguments) => create::run(context, &arguments),
        Command::Down(arguments) => down::run(context, &arguments),
        Command::Exec(arguments) => exec::run(context, &arguments),
        Command::Kill(arguments) => kill::run(context, &arguments),
        Command::Logs(arguments) => logs::run(context, &arguments),
        Command::Ls(arguments) => ls::run(context, &arguments),
        Command::Pause(arguments) => pause::run(context, &arguments),
        Command::Plan(arguments) => plan::run(context, &arguments),
        Command::Ps(arguments) => ps::run(context, &arguments),
        Command::Restart(arguments) => restart::run(context, &arguments),
        Command::Rm(arguments) => rm::run(context, &arguments),
        Command::Start(arguments) => start::run(context, &arguments),
        Command::Stop(arguments) => stop::run(context, &arguments),
        // Dispatched before there is a context: it is no command for people.
        Command::Supervisor(_) => Ok(ExitStatus::Failure),
        Command::Unpause(arguments) => unpause::run(context, &arguments),
        Command::Up(arguments) => up::run(context, &arguments),
        Command::Version(arguments) => version::run(context, &arguments),
    }
}
