//! Options that stand before the command, and what they mean.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indexmap::IndexMap;

use super::diagnostics::{self, Style};
use super::error::{CommandError, did_you_mean};
use super::terminal;
use super::ui::{Ansi, ProgressMode, Ui, progress_mode};
use crate::container::ineffective;
use crate::load::{
    Diagnostic, LoadError, LoadOptions, Loaded, SourceMap, is_project_name, load, means_yes,
    read_text,
};
use crate::model::{Network, Project};
use crate::network::{NetworkSpec, unsupported_options};
use crate::stack::{Stack, StackOptions};
use crate::state::StateRoot;

/// Namespace in containerd where none is named.
const DEFAULT_NAMESPACE: &str = "default";

#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::doc_markdown, reason = "clap shows variables as they are")]
pub(crate) struct GlobalArgs {
    /// Compose configuration files; `-` is standard input [env: COMPOSE_FILE]
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true, help_heading = GLOBAL)]
    pub file: Vec<PathBuf>,
    /// Project name [env: COMPOSE_PROJECT_NAME]
    #[arg(short, long, value_name = "NAME", allow_hyphen_values = true, help_heading = GLOBAL)]
    pub project_name: Option<String>,
    /// Specify an alternate working directory (default: the path of the first compose file)
    #[arg(long, value_name = "DIRECTORY", alias = "workdir", allow_hyphen_values = true, help_heading = GLOBAL)]
    pub project_directory: Option<PathBuf>,
    /// Specify an alternate environment file [env: COMPOSE_ENV_FILES]
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = GLOBAL)]
    pub env_file: Vec<PathBuf>,
    /// Specify a profile to enable; `*` enables all [env: COMPOSE_PROFILES]
    #[arg(long, value_name = "PROFILE", allow_hyphen_values = true, help_heading = GLOBAL)]
    pub profile: Vec<String>,
    /// Set type of progress output (auto, tty, plain, json, quiet)
    #[arg(long, value_name = "TYPE", env = "COMPOSE_PROGRESS", hide_env_values = true, help_heading = GLOBAL)]
    pub progress: Option<String>,
    /// Show what would be done and change nothing
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub dry_run: bool,
    /// Control when to print ANSI control characters (never, always, auto) [env: COMPOSE_ANSI]
    #[arg(long, value_name = "WHEN", help_heading = GLOBAL)]
    pub ansi: Option<String>,
    /// Control how many steps run at the same time, -1 for the default
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, env = "COMPOSE_PARALLEL_LIMIT", hide_env_values = true, help_heading = GLOBAL)]
    pub parallel: Option<i64>,
    /// Wait at most so many seconds for another command that changes the project
    #[arg(long, value_name = "SECONDS", env = "COMPOSE_LOCK_TIMEOUT", hide_env_values = true, global = true, help_heading = GLOBAL)]
    pub lock_timeout: Option<u64>,
    /// Go on with containers that were brought up from another directory
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub take_over: bool,
    /// Join names with `_` as the first Compose did
    #[arg(long, env = "COMPOSE_COMPATIBILITY", hide_env_values = true, help_heading = GLOBAL)]
    pub compatibility: bool,
    /// Include all resources, even those not used by services
    #[arg(long, help_heading = GLOBAL)]
    pub all_resources: bool,
    /// OCI runtime of services that name none, as `runc` or `crun`
    #[arg(long, value_name = "NAME", env = "COMPOSE_RUNTIME", hide_env_values = true, help_heading = GLOBAL)]
    pub runtime: Option<String>,
    /// Socket of containerd
    #[arg(long, value_name = "PATH", env = "CONTAINERD_ADDRESS", hide_env_values = true, help_heading = GLOBAL)]
    pub address: Option<PathBuf>,
    /// Namespace in containerd
    #[arg(long, value_name = "NAME", env = "CONTAINERD_NAMESPACE", hide_env_values = true, default_value = DEFAULT_NAMESPACE, help_heading = GLOBAL)]
    pub namespace: String,
    /// Write what happens inside to standard error
    #[arg(long, hide = true)]
    pub verbose: bool,
}

const GLOBAL: &str = "Global options";

/// What a command needs of the project's files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selection<'a> {
    /// Services to keep, their profiles active; empty: all.
    pub services: &'a [String],
    /// Leave out the dependencies of `services`.
    pub without_dependencies: bool,
    /// Read files of variables of services.
    pub with_environment: bool,
}

/// A command's surroundings.
#[derive(Debug)]
pub(crate) struct Context {
    pub globals: GlobalArgs,
    pub ui: Ui,
}

impl Context {
    pub(crate) fn new(globals: GlobalArgs) -> Result<Self, CommandError> {
        let variable = |name| std::env::var(name).ok();
        let ansi = Ansi::resolve(globals.ansi.as_deref(), variable("COMPOSE_ANSI").as_deref())?;
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let progress = progress_mode(globals.progress.as_deref(), ansi, terminal)?;
        let no_color = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let ui = Ui::new(ansi, no_color, progress, globals.dry_run);
        Ok(Self { globals, ui })
    }

    /// Options for the loader, as far as they come from before the command.
    pub(crate) fn load_options(&self) -> Result<LoadOptions, CommandError> {
        let globals = &self.globals;
        let working_dir = std::env::current_dir().map_err(|error| {
            CommandError::user(format!("cannot find the working directory: {error}"))
        })?;
        let stdin = if globals.file.iter().any(|file| file == Path::new("-")) {
            Some(read_text(std::io::stdin())?)
        } else {
            None
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect::<IndexMap<_, _>>();
        Ok(LoadOptions {
            files: globals.file.clone(),
            project_directory: globals.project_directory.clone(),
            project_name: globals.project_name.clone(),
            env_files: globals.env_file.clone(),
            profiles: globals.profile.clone(),
            working_dir,
            environment,
            stdin,
            all_resources: globals.all_resources,
            runtime: globals.runtime.clone(),
            compatibility: globals.compatibility,
            ..LoadOptions::default()
        })
    }

    /// Loads the project and shows what the loader warns of.
    pub(crate) fn load(&mut self, selection: Selection<'_>) -> Result<Project, CommandError> {
        Ok(self.load_with_options(selection)?.1.project)
    }

    /// As [`Self::load`], with all that loading again takes.
    pub(crate) fn load_with_options(
        &mut self,
        selection: Selection<'_>,
    ) -> Result<(LoadOptions, Loaded), CommandError> {
        let options = self.selected_options(selection)?;
        match load(&options) {
            Ok(loaded) => {
                show_warnings(&mut self.ui, &loaded);
                Ok((options, loaded))
            }
            Err(error) => Err(self.load_error(&error)),
        }
    }

    fn selected_options(&self, selection: Selection<'_>) -> Result<LoadOptions, CommandError> {
        Ok(LoadOptions {
            services: selection.services.to_vec(),
            with_dependencies: !selection.without_dependencies,
            resolve_env: selection.with_environment,
            ..self.load_options()?
        })
    }

    fn accept(&mut self, loaded: Loaded) -> Project {
        show_diagnostics(&mut self.ui, &loaded.warnings, &loaded.sources);
        loaded.project
    }

    /// How diagnostics of files are drawn.
    pub(crate) fn style(&self) -> Style {
        style(&self.ui)
    }

    /// Whether talk is to be data.
    pub(crate) fn talks_json(&self) -> bool {
        self.ui.progress == ProgressMode::Json
    }

    fn load_error(&self, error: &LoadError) -> CommandError {
        load_error(&self.ui, error)
    }

    /// For commands that can do without files: the project where files are named or no name is given, else only its
    /// name, from `-p` or `COMPOSE_PROJECT_NAME`. `services` must be known where there are files.
    pub(crate) fn project_or_name(
        &mut self,
        services: &[String],
    ) -> Result<(Option<Project>, String), CommandError> {
        if let (Some(name), true) = (&self.globals.project_name, self.globals.file.is_empty()) {
            return Ok((None, name.to_lowercase()));
        }
        let options = self.selected_options(Selection::default())?;
        let project = match load(&options) {
            Ok(loaded) => self.accept(loaded),
            Err(error) => {
                let name = options
                    .environment
                    .get("COMPOSE_PROJECT_NAME")
                    .filter(|name| error.no_file && !name.is_empty());
                return match name {
                    Some(name) => Ok((None, name.to_lowercase())),
                    None => Err(self.load_error(&error)),
                };
            }
        };
        check_services(&project, services)?;
        let name = project.name.clone();
        Ok((Some(project), name))
    }

    /// The project that `-p` names, for commands that concern all projects otherwise.
    pub(crate) fn named_project(&self) -> Result<Option<String>, CommandError> {
        let Some(name) = &self.globals.project_name else {
            return Ok(None);
        };
        if is_project_name(name) {
            return Ok(Some(name.clone()));
        }
        let error = format!("`{name}` from `--project-name` is not a project name");
        Err(CommandError::usage(error).hint(
            "it has lower case letters, digits, hyphens and underscores, and starts with a letter or digit",
        ))
    }

    /// The stack of a project, or of what carries its name.
    pub(crate) fn stack(&self, project: Option<Project>, name: String) -> Stack {
        let in_files = project.as_ref().and_then(parallel_limit);
        let options = self.stack_options();
        Stack::open(StackOptions {
            parallel: options.parallel.or(in_files),
            project,
            name,
            ..options
        })
    }

    /// Options of a stack without a project.
    pub(crate) fn stack_options(&self) -> StackOptions {
        StackOptions {
            project: None,
            name: String::new(),
            state: StateRoot::from_environment(),
            address: self.globals.address.clone(),
            namespace: self.globals.namespace.clone(),
            parallel: self.globals.parallel.and_then(limit),
            program: None,
            lock_timeout: self.globals.lock_timeout.map(Duration::from_secs),
            takes_over: self.globals.take_over,
        }
    }
}

/// Shows what the loader warns of, and each attribute that is understood and takes no effect here, with its place.
pub(crate) fn show_warnings(ui: &mut Ui, loaded: &Loaded) {
    let project = &loaded.project;
    let services = project.services.iter().flat_map(|(name, service)| {
        let attributes = ineffective(service).into_iter();
        attributes.map(move |(attribute, why)| (format!("services.{name}.{attribute}"), why))
    });
    let networks = project.networks.iter().flat_map(|(key, network)| {
        let options = unsupported_attributes(network).into_iter();
        options.map(move |attribute| {
            (
                format!("networks.{key}.{attribute}"),
                "networks have no such option here".into(),
            )
        })
    });
    let warnings: Vec<Diagnostic> = services
        .chain(networks)
        .map(|(path, why): (String, String)| {
            Diagnostic::warning_at(
                format!("`{path}` takes no effect: {why}"),
                project.provenance.origin(&path),
                &loaded.sources,
            )
        })
        .collect();
    show_diagnostics(ui, &warnings, &loaded.sources);
    show_diagnostics(ui, &loaded.warnings, &loaded.sources);
}

fn style(ui: &Ui) -> Style {
    Style {
        color: ui.talk_color,
        width: terminal::size().0,
    }
}

fn show_diagnostics(ui: &mut Ui, diagnostics: &[Diagnostic], sources: &SourceMap) {
    if diagnostics.is_empty() {
        return;
    }
    let text = if ui.progress == ProgressMode::Json {
        diagnostics::to_json_lines(diagnostics)
    } else {
        diagnostics::render(diagnostics, sources, style(ui))
    };
    ui.talk(&text);
}

/// What is wrong with the files, and what the loader warned of before, for the user.
pub(crate) fn load_error(ui: &Ui, error: &LoadError) -> CommandError {
    let all = error.warnings.iter().chain(&error.diagnostics);
    CommandError::rendered(if ui.progress == ProgressMode::Json {
        diagnostics::to_json_lines(all)
    } else {
        diagnostics::render(all, &error.sources, style(ui))
    })
}

/// What of a network's definition takes no effect, by path in it.
fn unsupported_attributes(network: &Network) -> Vec<String> {
    let spec = NetworkSpec {
        driver: network.driver.clone(),
        driver_opts: network.driver_opts.clone(),
        enable_ipv6: network.enable_ipv6 == Some(true),
        pools: network.ipam.config.clone(),
        ..NetworkSpec::default()
    };
    if network.external {
        Vec::new()
    } else {
        unsupported_options(&spec)
    }
}

/// Docker's words for a service that is not in the file.
pub(crate) fn no_such_service<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> CommandError {
    CommandError::user(format!("no such service: {name}")).hint_if(did_you_mean(name, known))
}

/// Refuses names that the project does not have, enabled or not.
pub(crate) fn check_services(project: &Project, services: &[String]) -> Result<(), CommandError> {
    let known = || {
        project
            .services
            .keys()
            .chain(project.disabled_services.keys())
    };
    match services
        .iter()
        .find(|name| !known().any(|service| service == *name))
    {
        Some(name) => Err(no_such_service(name, known().map(String::as_str))),
        None => Ok(()),
    }
}

/// The limit that a file of variables sets.
fn parallel_limit(project: &Project) -> Option<NonZeroUsize> {
    let value = project.environment.get("COMPOSE_PARALLEL_LIMIT")?;
    limit(value.parse().ok()?)
}

/// Zero and less mean no limit of the user's, as in Docker.
fn limit(number: i64) -> Option<NonZeroUsize> {
    usize::try_from(number).ok().and_then(NonZeroUsize::new)
}

/// Whether a variable of the project, from the shell or `.env`, means yes.
pub(crate) fn is_set(project: &Project, variable: &str) -> bool {
    let value = project.environment.get(variable);
    value.is_some_and(|value| means_yes(value))
}
