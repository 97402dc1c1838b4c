//! The command line, for now `config` alone.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use containerd_compose::cli::commands::config::{self, ConfigArgs};
use containerd_compose::cli::diagnostics::Style;
use containerd_compose::load::LoadOptions;

/// Runs Compose projects straight on containerd
#[derive(Debug, Parser)]
#[command(name = "compose", args_override_self = true)]
struct Cli {
    /// Compose files, later ones override earlier ones; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name of the project
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Profile to activate
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// File of variables
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// Directory that relative paths start from
    #[arg(long, value_name = "DIRECTORY")]
    project_directory: Option<PathBuf>,
    /// Names as the first Compose made them
    #[arg(long)]
    compatibility: bool,
    /// Keep resources that no service uses
    #[arg(long)]
    all_resources: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Config(Box<ConfigArgs>),
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to report to if this fails too.
            writeln!(std::io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<u8> {
    let cli = Cli::parse();
    let mut stdin = None;
    if cli.files.iter().any(|file| file.as_os_str() == "-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        stdin = Some(text);
    }
    let options = LoadOptions {
        files: cli.files,
        project_directory: cli.project_directory,
        project_name: cli.project_name,
        env_files: cli.env_files,
        profiles: cli.profiles,
        working_dir: std::env::current_dir()?,
        environment: std::env::vars().collect(),
        stdin,
        all_resources: cli.all_resources,
        compatibility: cli.compatibility,
        ..LoadOptions::default()
    };
    let Command::Config(args) = cli.command;
    let style = Style {
        color: std::io::stderr().is_terminal(),
        ..Style::default()
    };
    config::run(
        &args,
        options,
        &mut std::io::stdout().lock(),
        &mut std::io::stderr().lock(),
        style,
    )
}
