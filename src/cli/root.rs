//! From the command line to a command, and from its end to an exit code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser};
use tracing_subscriber::EnvFilter;

use super::commands::{self, Command};
use super::error::{BUILD_HINT, CommandError, ExitStatus};
use super::globals::{Context, GlobalArgs};
use super::ui::Ui;
use crate::load::means_yes;

/// Runs Compose projects straight on containerd
#[derive(Debug, Parser)]
#[command(
    name = "compose",
    args_override_self = true,
    disable_help_subcommand = false,
    disable_version_flag = true,
    subcommand_value_name = "COMMAND",
    max_term_width = 100,
    after_help = "Run `compose COMMAND --help` for more information on a command."
)]
struct Cli {
    #[command(flatten)]
    globals: GlobalArgs,
    /// Show the version
    #[arg(short = 'v', long, hide = true)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let matches = match parser(&arguments).try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(error, &arguments),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(error, &arguments),
    };
    let command = match cli.command {
        Some(Command::Supervisor(arguments)) => return commands::supervisor::run(&arguments),
        Some(command) => command,
        None if cli.version => Command::Version(commands::version::VersionArgs::default()),
        None => {
            let mut ui = Ui::bare();
            let help = plain().render_help().to_string();
            return match ui.data(&help).and_then(|()| ui.flush()) {
                Ok(()) => ExitStatus::Success.into(),
                Err(error) => CommandError::from(error).exit_status().into(),
            };
        }
    };
    trace(cli.globals.verbose);
    let mut context = match Context::new(cli.globals) {
        Ok(context) => context,
        Err(error) => return error.report(&mut Ui::bare()).into(),
    };
    let status = commands::run(command, &mut context)
        .and_then(|status| Ok(context.ui.flush().map(|()| status)?))
        .unwrap_or_else(|error| error.report(&mut context.ui));
    status.into()
}

/// Diagnostics of the program itself, to standard error: `--verbose` or `RUST_LOG`.
fn trace(verbose: bool) {
    let filter = match EnvFilter::try_from_default_env() {
        Ok(filter) => filter,
        Err(_) if verbose => EnvFilter::new("containerd_compose=debug"),
        Err(_) => return,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Only a second call could fail.
    subscriber.try_init().ok();
}

/// The commands with flags as people read them.
fn plain() -> clap::Command {
    Cli::command()
}

/// The commands as they are parsed: `--flag=false` is understood, as Docker's users write it.
fn parser(arguments: &[OsString]) -> clap::Command {
    let mut command = with_values(plain());
    let wanted =
        |argument: &OsString| argument == "--help" || argument == "-h" || argument == "help";
    if arguments.iter().any(wanted) {
        // Help is shown without the values that flags may have.
        let mut plain = plain();
        plain.build();
        // The command `help` is made by the parser itself.
        let commands = plain
            .get_subcommands_mut()
            .filter(|command| command.get_name() != "help");
        for shown in commands {
            let help = shown.render_help();
            command = command.mut_subcommand(shown.get_name(), |hidden| hidden.override_help(help));
        }
        command = command.override_help(self::plain().render_help());
    }
    command
}

fn with_values(mut command: clap::Command) -> clap::Command {
    command = command.mut_args(|argument| match argument.get_action() {
        ArgAction::SetTrue => {
            let variable = argument.get_env().and_then(std::env::var_os);
            let preset = variable.is_some_and(|value| means_yes(&value.to_string_lossy()));
            argument
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                // Read here: whatever is in a variable is no error.
                .env(Resettable::Reset)
                .default_value(if preset { "true" } else { "false" })
                .default_missing_value("true")
                .value_parser(parse_bool)
        }
        _ => argument,
    });
    let names: Vec<String> = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .collect();
    for name in names {
        command = command.mut_subcommand(name, with_values);
    }
    command
}

/// Go's booleans.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is `true` or `false`".into()),
    }
}

/// Help goes to standard output with 0; a wrong command line to standard error with 1, as Docker does.
fn usage(mut error: clap::Error, arguments: &[OsString]) -> ExitCode {
    let mut ui = Ui::bare();
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && let Some(hint) = elsewhere(name)
    {
        let error = CommandError::unsupported(&format!("compose {name}"));
        return error.hint(hint).report(&mut ui).into();
    }
    if error.use_stderr() {
        explain(&mut error, arguments);
    }
    let color = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ui.color,
        _ => ui.talk_color,
    };
    let text = if color {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to be told that this failed.
            ui.data(&text).and_then(|()| ui.flush()).ok();
            ExitStatus::Success.into()
        }
        ErrorKind::InvalidSubcommand => {
            ui.talk(&plain().render_help().to_string());
            ui.talk(&format!("\n{text}"));
            ExitStatus::Failure.into()
        }
        _ => {
            ui.talk(&text);
            ExitStatus::Failure.into()
        }
    }
}

/// What to do in place of a command that Docker has.
fn elsewhere(command: &str) -> Option<&'static str> {
    match command {
        "build" => Some(BUILD_HINT),
        "bridge" | "publish" => Some("`compose config` prints the project for other tools"),
        _ => None,
    }
}

/// Says of an option that is wrong here where it belongs, and shows the command as people read it.
fn explain(error: &mut clap::Error, arguments: &[OsString]) {
    let mut root = plain();
    root.build();
    let mut names = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let Some(command) = names.find_map(|name| root.find_subcommand(name)) else {
        return;
    };
    let usage = command.clone().render_usage();
    if error.get(ContextKind::Usage).is_some() {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    // It is no value of anything, whatever the parser thinks.
    error.remove(ContextKind::Suggested);
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else {
        return;
    };
    let is_it = |argument: &&clap::Arg| {
        let short = argument.get_short().map(|short| format!("-{short}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        [short, long].iter().flatten().any(|name| name == given)
    };
    if let Some(argument) = root.get_arguments().find(is_it) {
        let value = argument
            .get_value_names()
            .filter(|_| argument.get_action().takes_values());
        let value = value.and_then(|names| names.first());
        let value = value.map(|name| format!(" {name}")).unwrap_or_default();
        let tip = format!(
            "it goes before the command: `compose {given}{value} {}`",
            command.get_name()
        );
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
}

/// The reference of all commands in Markdown, from their definitions.
pub fn reference() -> String {
    let mut root = plain().term_width(100);
    root.build();
    let mut text = String::from(
        "# Command line reference\n\nMade from the definitions of the commands; `cargo test` fails when they differ.\n",
    );
    section(&mut text, &mut root);
    let mut names: Vec<String> = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(|command| command.get_name().to_owned())
        .collect();
    names.sort();
    for name in names {
        if let Some(command) = root.find_subcommand_mut(&name) {
            section(&mut text, command);
        }
    }
    text
}

fn section(text: &mut String, command: &mut clap::Command) {
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let help = command.render_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n## `{name}`\n\n```text\n{}\n```\n",
        help.join("\n").trim_end()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let arguments: Vec<OsString> = std::iter::once("compose")
            .chain(arguments.iter().copied())
            .map(Into::into)
            .collect();
        let matches = parser(&arguments).try_get_matches_from(&arguments)?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_definitions_are_sound() {
        plain().debug_assert();
        with_values(plain()).debug_assert();
    }

    #[test]
    fn whatever_is_in_a_variable_means_yes_or_no() {
        for yes in ["1", "true", "Y", "yes", "on"] {
            assert!(means_yes(yes), "{yes}");
        }
        for no in ["", "0", "false", "no", "maybe"] {
            assert!(!means_yes(no), "{no}");
        }
    }

    #[test]
    fn flags_take_docker_s_booleans_and_the_last_one_wins() {
        let detach = |arguments: &[&str]| match parse(arguments).unwrap().command {
            Some(Command::Up(up)) => up.detach,
            other => panic!("{other:?}"),
        };
        assert!(detach(&["up", "-d"]));
        assert!(detach(&["up", "-d=true"]));
        assert!(!detach(&["up", "--detach=false"]));
        assert!(!detach(&["up", "--detach", "--detach=0"]));
        assert!(detach(&["up", "-dV", "--build=false", "web"]));
        assert!(parse(&["up", "--detach=maybe"]).is_err());
    }

    #[test]
    fn globals_stand_before_the_command_but_dry_run_anywhere() {
        assert!(parse(&["up", "-p", "shop"]).is_err());
        let cli = parse(&[
            "-f",
            "a.yaml",
            "-f",
            "b.yaml",
            "-p",
            "x",
            "-p",
            "y",
            "up",
            "--dry-run",
        ])
        .unwrap();
        assert_eq!(cli.globals.file.len(), 2);
        assert_eq!(cli.globals.project_name.as_deref(), Some("y"));
        assert!(cli.globals.dry_run);
        assert!(parse(&["--dry-run", "up"]).unwrap().globals.dry_run);
    }

    #[test]
    fn what_follows_the_service_of_exec_is_the_command_s() {
        let cli = parse(&["exec", "-T", "web", "ls", "-la", "--color=false", "--", "x"]).unwrap();
        let Some(Command::Exec(exec)) = cli.command else {
            panic!()
        };
        assert_eq!(exec.service, "web");
        assert_eq!(exec.command, ["ls", "-la", "--color=false", "--", "x"]);
        assert!(exec.no_tty);
    }
}
