//! `compose run`

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::PathBuf;

use clap::Args;

use super::converge::ImageArgs;
use crate::cli::detach::DetachKeys;
use crate::cli::drive::{Replies, block_on, drive};
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection, is_set, no_such_service};
use crate::cli::session::{End, Manner, Signals, converse};
use crate::cli::ui::{ProgressMode, Ui};
use crate::load::dotenv;
use crate::model::{Mount, MountKind, Port, Project, parse_mount, parse_ports, split_words};
use crate::stack::{RunRequest, Stack};

/// Run a one-off command on a service
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Build the image before starting the container
    #[arg(long)]
    build: bool,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Run the container in the background and print its id
    #[arg(short, long)]
    detach: bool,
    /// Override the entrypoint of the image
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set an environment variable; without a value it is taken from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<PathBuf>,
    /// Keep standard input open (`-i=false` leaves it closed)
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set, hide_possible_values = true)]
    interactive: bool,
    /// Add or override a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Assign a name to the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Don't allocate a terminal; by default one is allocated if standard input and output are one
    #[arg(short = 'T', long, alias = "no-TTY")]
    no_tty: bool,
    /// Allocate a terminal
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Don't start dependencies
    #[arg(long)]
    no_deps: bool,
    /// Publish a port of the container
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Pull images before running (always, missing, never)
    #[arg(long, value_name = "POLICY")]
    pull: Option<String>,
    /// Don't print progress
    #[arg(short, long)]
    quiet: bool,
    /// Suppress the build output
    #[arg(long)]
    quiet_build: bool,
    /// Pull without printing progress information
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers for services not defined in the compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Remove the container and its anonymous volumes when it exits
    #[arg(long)]
    rm: bool,
    /// Publish all ports of the service
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Let others find the container by the names of the service
    #[arg(long)]
    use_aliases: bool,
    /// Run the command as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Mount a volume or a path
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Working directory of the command
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Service to run the command on
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The command and its arguments; the service's if there is none
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

pub(crate) fn run(context: &mut Context, arguments: &RunArgs) -> Result<ExitStatus, CommandError> {
    let images = ImageArgs {
        build: arguments.build,
        pull: arguments.pull.clone(),
        quiet_pull: arguments.quiet_pull,
        ..ImageArgs::default()
    };
    images.check()?;
    if arguments.service_ports && !arguments.publish.is_empty() {
        return Err(CommandError::usage(
            "--service-ports and --publish are incompatible",
        ));
    }
    let services = [arguments.service.clone()];
    let project = context.load(Selection {
        services: &services,
        without_dependencies: arguments.no_deps,
        with_environment: true,
    })?;
    images.check_project(&project)?;
    if !project.services.contains_key(&arguments.service) {
        let known = project.services.keys().map(String::as_str);
        return Err(no_such_service(&arguments.service, known));
    }
    if project.services[&arguments.service].provider.is_some() {
        return Err(CommandError::user(format!(
            "service `{}` is run by a provider, and has no containers",
            arguments.service
        )));
    }
    let run = RunRequest {
        pull: images.policy(),
        quiet_pull: images.quiet_pull,
        ..meaning(arguments, &project)?
    };
    if arguments.quiet {
        context.ui.progress = ProgressMode::Quiet;
    }
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    let ui = &mut context.ui;
    if ui.dry_run {
        super::perform(ui, &stack, "run", stack.run_request(&run)?)?;
        return Ok(ExitStatus::Success);
    }
    block_on(execute(ui, &stack, &run))
}

async fn execute(ui: &mut Ui, stack: &Stack, run: &RunRequest) -> Result<ExitStatus, CommandError> {
    let keys = DetachKeys::parse(None)?;
    let start = async |replies: Replies| {
        let tell = move |reply| {
            // Whoever shows replies lives as long as the work.
            replies.send(reply).ok();
        };
        stack.run(run, tell).await
    };
    let started = drive(ui, "run", start).await?;
    let Some(mut attachment) = started.attachment else {
        ui.data(&format!("{}\n", started.id))?;
        return Ok(ExitStatus::Success);
    };
    let manner = Manner {
        raw: run.terminal,
        proxy_signals: true,
        detach_keys: run.terminal.then_some(keys),
    };
    let signals = Signals::listen()?;
    match converse(ui, &mut attachment, signals, manner).await? {
        End::Exited(code) => Ok(ExitStatus::container(code)),
        End::Detached => {
            attachment.detach().await?;
            Ok(ExitStatus::Success)
        }
        End::Interrupted => Ok(ExitStatus::Interrupted),
    }
}

/// What is asked for, with everything looked up.
fn meaning(arguments: &RunArgs, project: &Project) -> Result<RunRequest, CommandError> {
    let remove_orphans = arguments.remove_orphans || is_set(project, "COMPOSE_REMOVE_ORPHANS");
    let ignore_orphans = is_set(project, "COMPOSE_IGNORE_ORPHANS");
    if ignore_orphans && remove_orphans {
        return Err(CommandError::usage(
            "cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans",
        ));
    }
    let is_seen = stdout().is_terminal() && (arguments.detach || stdin().is_terminal());
    let volumes = arguments.volume.iter().map(|text| mount(text, project));
    let ports = arguments.publish.iter().map(|text| ports(text));
    let ports: Vec<Vec<Port>> = ports.collect::<Result<_, _>>()?;
    Ok(RunRequest {
        service: arguments.service.clone(),
        command: Some(arguments.command.clone()).filter(|command| !command.is_empty()),
        entrypoint: arguments
            .entrypoint
            .as_deref()
            .map(entrypoint)
            .transpose()?,
        environment: environment(arguments, project)?,
        labels: arguments
            .label
            .iter()
            .map(|text| label(text))
            .collect::<Result<_, _>>()?,
        user: arguments.user.clone(),
        working_dir: arguments.workdir.clone(),
        cap_add: arguments.cap_add.clone(),
        cap_drop: arguments.cap_drop.clone(),
        name: arguments.name.clone(),
        publish: ports.concat(),
        service_ports: arguments.service_ports,
        volumes: volumes.collect::<Result<_, _>>()?,
        terminal: is_seen && !arguments.no_tty && arguments.interactive,
        stdin_open: arguments.interactive,
        attended: !arguments.detach,
        auto_remove: arguments.rm,
        use_aliases: arguments.use_aliases,
        no_deps: arguments.no_deps,
        remove_orphans,
        ignore_orphans,
        ..RunRequest::default()
    })
}

fn entrypoint(text: &str) -> Result<Vec<String>, CommandError> {
    match split_words(text) {
        Ok(words) if words.cut_at.is_none() => Ok(words.words),
        Ok(_) => Err(
            CommandError::usage(format!("invalid entrypoint `{text}`: it is no shell"))
                .hint("quote what is to be one word, or use `sh -c`"),
        ),
        Err(error) => Err(CommandError::usage(format!(
            "invalid entrypoint `{text}`: {error}"
        ))),
    }
}

fn label(text: &str) -> Result<(String, String), CommandError> {
    let label = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = label.ok_or_else(|| {
        CommandError::usage(format!("label must be set as KEY=VALUE, not `{text}`"))
    })?;
    Ok((name.into(), value.into()))
}

fn ports(text: &str) -> Result<Vec<Port>, CommandError> {
    parse_ports(text)
        .map_err(|error| CommandError::usage(format!("invalid --publish \"{text}\": {error}")))
}

/// A path on the host is relative to the working directory, as the shell completes it.
fn mount(text: &str, project: &Project) -> Result<Mount, CommandError> {
    let invalid =
        |what: String| CommandError::usage(format!("invalid --volume \"{text}\": {what}"));
    let short = parse_mount(text).map_err(|error| invalid(error.to_string()))?;
    if let Some(option) = short.unknown_options.first() {
        return Err(invalid(format!("`{option}` is not an option of a mount")));
    }
    let mut mount = short.mount;
    if !mount.target.starts_with('/') {
        return Err(invalid(format!(
            "`{}` is not an absolute path",
            mount.target
        )));
    }
    if mount.kind == MountKind::Bind
        && let Some(source) = &mut mount.source
    {
        let home = || project.environment.get("HOME").cloned();
        if let Some(rest) = source.strip_prefix('~')
            && (rest.is_empty() || rest.starts_with('/'))
            && let Some(home) = home()
        {
            *source = format!("{home}{rest}");
        }
        let absolute = std::path::absolute(&*source)?;
        *source = absolute.to_string_lossy().into_owned();
    }
    Ok(mount)
}

/// `NAME=VALUE` as it is, a bare `NAME` from the project's environment and left out if it has no value there; then what
/// files set and nobody has set before.
fn environment(
    arguments: &RunArgs,
    project: &Project,
) -> Result<Vec<(String, String)>, CommandError> {
    let mut variables = dotenv::Variables::new();
    for text in &arguments.env {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), project.environment.get(text).cloned()),
        };
        if name.is_empty() {
            return Err(CommandError::usage(format!(
                "invalid environment variable: {text}"
            )));
        }
        match value {
            Some(value) => drop(variables.insert(name.into(), value)),
            None => drop(variables.shift_remove(name)),
        }
    }
    for path in &arguments.env_from_file {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::user(format!("cannot read {shown}: {error}")))?;
        let mut found = dotenv::Variables::new();
        let lookup = |name: &str| variables.get(name).map(String::as_str);
        dotenv::parse(&text, &mut found, &lookup, &mut |_, _| {}).map_err(|error| {
            CommandError::user(format!("{shown}:{}: {}", error.line, error.kind))
        })?;
        for (name, value) in found {
            variables.entry(name).or_insert(value);
        }
    }
    Ok(variables.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(arguments: &[&str]) -> RunArgs {
        let words = ["run"].iter().chain(arguments);
        Cli::try_parse_from(words).unwrap().run
    }

    fn project() -> Project {
        let mut project = Project::default();
        project.environment.insert("LEVEL".into(), "debug".into());
        project.environment.insert("HOME".into(), "/home/me".into());
        project
    }

    fn meant(arguments: &[&str]) -> Result<RunRequest, CommandError> {
        meaning(&parse(arguments), &project())
    }

    #[test]
    fn what_follows_the_service_is_the_command_s() {
        let run = meant(&["--rm", "web", "ls", "-la", "--rm=false"]).unwrap();
        assert!(run.auto_remove);
        assert_eq!(run.command.unwrap(), ["ls", "-la", "--rm=false"]);
        assert_eq!(meant(&["web"]).unwrap().command, None);
    }

    #[test]
    fn an_entrypoint_is_split_as_a_shell_splits() {
        let run = meant(&["--entrypoint", "sh -c 'echo $0'", "web"]).unwrap();
        assert_eq!(run.entrypoint.unwrap(), ["sh", "-c", "echo $0"]);
        assert_eq!(
            meant(&["--entrypoint", "", "web"]).unwrap().entrypoint,
            Some(vec![])
        );
        for wrong in ["a \"b", "a | b"] {
            assert!(meant(&["--entrypoint", wrong, "web"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_are_taken_from_flags_then_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vars");
        std::fs::write(&file, "A=file\nC=${A}x\n").unwrap();
        let file = file.to_str().unwrap();
        let flags = [
            "-e",
            "A=flag",
            "-e",
            "LEVEL",
            "-e",
            "NOSUCH",
            "-e",
            "EMPTY=",
            "--env-from-file",
            file,
            "web",
        ];
        let found = meant(&flags).unwrap().environment;
        let found: Vec<String> = found
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(found, ["A=flag", "LEVEL=debug", "EMPTY=", "C=flagx"]);
        assert!(meant(&["-e", "=x", "web"]).is_err());
        assert!(meant(&["--env-from-file", "/nosuch", "web"]).is_err());
    }

    #[test]
    fn paths_are_relative_to_where_the_user_is() {
        let source = |text: &str| {
            meant(&["-v", text, "web"]).unwrap().volumes[0]
                .source
                .clone()
        };
        let here = std::env::current_dir().unwrap().join("src");
        assert_eq!(source("./src:/x"), Some(here.to_str().unwrap().into()));
        assert_eq!(source("~/x:/x"), Some("/home/me/x".into()));
        assert_eq!(source("data:/x:ro"), Some("data".into()));
        assert_eq!(source("/anonymous"), None);
        for wrong in ["relative", "a:b", "/a:/b:foo", "a:b:c:d"] {
            assert!(meant(&["-v", wrong, "web"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_and_ports_are_checked() {
        assert!(meant(&["-l", "foo", "web"]).is_err());
        assert_eq!(
            meant(&["-l", "a=b=c", "web"]).unwrap().labels,
            [("a".to_owned(), "b=c".to_owned())]
        );
        assert!(meant(&["-p", "x", "web"]).is_err());
        assert_eq!(
            meant(&["-p", "8080-8081:80-81", "web"])
                .unwrap()
                .publish
                .len(),
            2
        );
    }
}
