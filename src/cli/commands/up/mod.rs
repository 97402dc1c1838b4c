//! `compose up`

mod attached;
mod menu;

use std::collections::BTreeSet;

use clap::Args;

use self::attached::{Cascade, Session};
use super::converge::{ConvergeArgs, DependencyArgs, ImageArgs, timeout, up_options};
use super::perform;
use crate::cli::drive::block_on;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection, no_such_service};
use crate::cli::ui::ProgressMode;
use crate::graph::Graph;
use crate::load::{LoadOptions, Loaded, means_yes};
use crate::model::Project;
use crate::reconcile::plan::UpOptions;
use crate::stack::{Stack, StackError, Watch};
use crate::supervisor::live::LiveRecord;

/// Create and start containers
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Run containers in the background
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    converge: ConvergeArgs,
    #[command(flatten)]
    dependencies: DependencyArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Show no progress, only what goes wrong
    #[arg(long)]
    quiet: bool,
    /// Suppress the build output
    #[arg(long)]
    quiet_build: bool,
    /// Don't start the services after creating them
    #[arg(long)]
    no_start: bool,
    /// Wait for services to be running or healthy; implies --detach
    #[arg(long)]
    wait: bool,
    /// Seconds to wait for services to be running or healthy
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    wait_timeout: i64,
    /// Seconds until a container that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Stop all containers if any container stops
    #[arg(long)]
    abort_on_container_exit: bool,
    /// Stop all containers if any container fails
    #[arg(long)]
    abort_on_container_failure: bool,
    /// Return the exit code of a service's container; implies --abort-on-container-exit
    #[arg(long, value_name = "SERVICE")]
    exit_code_from: Option<String>,
    /// Show the output of these services only
    #[arg(long, value_name = "SERVICE")]
    attach: Vec<String>,
    /// Show the output of dependencies too
    #[arg(long)]
    attach_dependencies: bool,
    /// Don't show the output of these services
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Show output without colour
    #[arg(long)]
    no_color: bool,
    /// Show output without the names of containers
    #[arg(long)]
    no_log_prefix: bool,
    /// Show timestamps
    #[arg(long)]
    timestamps: bool,
    /// Follow the compose files and the source code, and update containers when they change
    #[arg(short, long)]
    watch: bool,
    /// Have the supervisor follow the compose files; with --detach
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    live: Option<bool>,
    #[expect(clippy::doc_markdown, reason = "clap shows the variable as it is")]
    /// Listen to keys while attached to a terminal (default: true) [env: COMPOSE_MENU]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    menu: Option<bool>,
    /// Services to bring up, with their dependencies; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl UpArgs {
    /// Fills in what options imply and refuses those that exclude each other.
    fn settle(&mut self) -> Result<(), CommandError> {
        let usage = |text: &str| Err(CommandError::usage(text));
        if self.wait_timeout < 0 {
            return usage("--wait-timeout must be a non-negative integer");
        }
        if self.exit_code_from.is_some() && !self.abort_on_container_failure {
            self.abort_on_container_exit = true;
        }
        if self.abort_on_container_exit && self.abort_on_container_failure {
            return usage(
                "--abort-on-container-failure cannot be combined with --abort-on-container-exit",
            );
        }
        let attached = self.abort_on_container_exit
            || self.abort_on_container_failure
            || !self.attach.is_empty()
            || self.attach_dependencies
            || self.watch;
        let others = "cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch";
        if self.wait && attached {
            return usage(&format!("--wait {others}"));
        }
        if self.detach && attached {
            return usage(&format!("--detach {others}"));
        }
        if !self.attach.is_empty() && self.attach_dependencies {
            return usage("cannot combine --attach and --attach-dependencies");
        }
        self.images.check()?;
        self.converge.check()?;
        self.dependencies.check(&self.converge)?;
        if self.images.no_build && self.watch {
            return usage("--no-build and --watch are incompatible");
        }
        if self.live == Some(true) {
            if !self.detach && !self.wait {
                return Err(CommandError::usage("--live needs --detach")
                    .hint("`--watch` follows the files in the foreground"));
            }
            if self.no_start {
                return usage("--live and --no-start are incompatible");
            }
            if self.converge.no_recreate {
                return usage("--live and --no-recreate are incompatible");
            }
        }
        self.detach |= self.wait;
        Ok(())
    }

    /// Services whose output is shown.
    fn shown(&self, project: &Project) -> Result<BTreeSet<String>, CommandError> {
        let mut shown: BTreeSet<String> = if self.attach.is_empty() {
            let mut started = self.started(project)?;
            started.retain(|name| {
                let service = project.services.get(name);
                service.is_some_and(|service| service.attach != Some(false))
            });
            started
        } else {
            self.attach.iter().cloned().collect()
        };
        if let Some(service) = shown
            .iter()
            .find(|name| !project.services.contains_key(*name))
        {
            return Err(CommandError::user(format!(
                "cannot attach to services not included in up: {service}"
            )));
        }
        for service in &self.no_attach {
            shown.remove(service);
        }
        Ok(shown)
    }

    /// Services whose output is shown, and those whose ends count.
    fn attached(
        &self,
        project: &Project,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), CommandError> {
        let shown = self.shown(project)?;
        let watched = if self.services.is_empty() {
            shown.clone()
        } else {
            self.started(project)?
        };
        Ok((shown, watched))
    }

    /// Services that are named, or all; with their dependencies if those are attached to.
    fn started(&self, project: &Project) -> Result<BTreeSet<String>, CommandError> {
        if self.services.is_empty() {
            return Ok(project.services.keys().cloned().collect());
        }
        if !self.attach_dependencies {
            return Ok(self.services.iter().cloned().collect());
        }
        let graph = Graph::new(project).map_err(|cycle| {
            CommandError::user(format!(
                "services depend on each other: {}",
                cycle.path.join(" -> ")
            ))
        })?;
        let closure = graph.closure(self.services.iter().map(String::as_str));
        Ok(closure.into_iter().map(Into::into).collect())
    }

    fn cascade(&self) -> Cascade {
        match (
            self.abort_on_container_exit,
            self.abort_on_container_failure,
        ) {
            (true, _) => Cascade::AnyExit,
            (_, true) => Cascade::AnyFailure,
            _ => Cascade::None,
        }
    }
}

pub(crate) fn run(context: &mut Context, arguments: UpArgs) -> Result<ExitStatus, CommandError> {
    let mut arguments = arguments;
    arguments.settle()?;
    if arguments.quiet {
        context.ui.progress = ProgressMode::Quiet;
    }
    let (load, loaded) = context.load_with_options(Selection {
        services: &arguments.services,
        without_dependencies: arguments.dependencies.no_deps,
        with_environment: true,
    })?;
    let project = &loaded.project;
    arguments.images.check_project(project)?;
    if let Some(service) = &arguments.exit_code_from
        && !project.services.contains_key(service)
    {
        return Err(no_such_service(
            service,
            project.services.keys().map(String::as_str),
        ));
    }
    let options = UpOptions {
        no_start: arguments.no_start,
        pull: arguments.images.policy(),
        quiet_pull: arguments.images.quiet_pull,
        timeout: timeout(arguments.timeout),
        wait: arguments.wait,
        wait_timeout: u64::try_from(arguments.wait_timeout)
            .ok()
            .filter(|seconds| *seconds > 0),
        ..up_options(
            &context.globals,
            project,
            &arguments.services,
            &arguments.converge,
            &arguments.dependencies,
        )?
    };
    let (shown, watched) = arguments.attached(project)?;
    let stack = context.stack(Some(project.clone()), project.name.clone());
    let following = following(&arguments, &stack, &load, &loaded, &options)?;
    let attached = !arguments.detach && !arguments.no_start;
    if !attached || context.ui.dry_run {
        perform(&mut context.ui, &stack, "up", stack.up(options)?)?;
        let record = match following {
            Following::Begun(record) => Some(Some(*record)),
            Following::Ended => Some(None),
            Following::Kept => None,
        };
        if attached {
            context
                .ui
                .data("end of `up`: a dry run does not attach\n")?;
        } else if let Some(record) = record.filter(|_| !context.ui.dry_run) {
            block_on(async { Ok(stack.follow_files(record, |_| {}).await?) })?;
        }
        return Ok(ExitStatus::Success);
    }
    let watch = if arguments.watch {
        Some(Watch::new(&load, &loaded, &options).map_err(StackError::from)?)
    } else {
        None
    };
    let menu = project.environment.get("COMPOSE_MENU");
    let menu = arguments.menu.or(menu.map(|value| means_yes(value)));
    let session = Session {
        stack: &stack,
        arguments: &arguments,
        files: (&load, &loaded),
        has_menu: menu.unwrap_or(true) && context.ui.progress != ProgressMode::Json,
        options,
        shown,
        watched,
        watch,
        cascade: arguments.cascade(),
        style: crate::cli::print::LogStyle {
            color: context.ui.color && !arguments.no_color,
            prefix: !arguments.no_log_prefix,
            timestamps: arguments.timestamps,
            apart: true,
        },
    };
    block_on(session.run(&mut context.ui))
}

/// What becomes of following the files in the background.
enum Following {
    /// It stays as it is.
    Kept,
    Ended,
    Begun(Box<LiveRecord>),
}

/// An `up` of the whole project decides anew how a project that is live is loaded.
fn following(
    arguments: &UpArgs,
    stack: &Stack,
    load: &LoadOptions,
    loaded: &Loaded,
    options: &UpOptions,
) -> Result<Following, CommandError> {
    let is_renewed = || arguments.services.is_empty() && arguments.detach && stack.live().is_some();
    match arguments.live {
        Some(false) => return Ok(Following::Ended),
        None if !is_renewed() => return Ok(Following::Kept),
        _ => {}
    }
    if load.stdin.is_some() {
        return Err(CommandError::usage(
            "standard input cannot be followed: --live needs files",
        ));
    }
    let record = LiveRecord::new(load, loaded, options);
    Ok(Following::Begun(Box::new(record)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::{Condition, Dependency, Service};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: UpArgs,
    }

    fn parse(arguments: &str) -> UpArgs {
        Cli::try_parse_from(std::iter::once("up").chain(arguments.split_whitespace()))
            .unwrap()
            .up
    }

    #[test]
    fn docker_s_conflicts_are_refused() {
        let together = [
            "--build --no-build",
            "--force-recreate --no-recreate",
            "--always-recreate-deps --no-recreate",
            "-V --no-recreate",
            "--no-build --watch",
            "--attach web --attach-dependencies",
            "--abort-on-container-exit --abort-on-container-failure",
            "--wait --abort-on-container-exit",
            "--wait --abort-on-container-failure",
            "--wait --attach web",
            "--wait --attach-dependencies",
            "--wait --watch",
            "-d --abort-on-container-exit",
            "-d --exit-code-from web",
            "-d --attach web",
            "-d --watch",
            "--wait-timeout -3",
            "--live",
            "-d --live --no-recreate",
            "--wait --live --no-start",
            "--pull sometimes",
        ];
        for arguments in together {
            assert!(parse(arguments).settle().is_err(), "{arguments}");
        }
    }

    #[test]
    fn options_imply_others() {
        let mut up = parse("--wait");
        up.settle().unwrap();
        assert!(up.detach);
        let mut up = parse("--exit-code-from web");
        up.settle().unwrap();
        assert_eq!(up.cascade(), Cascade::AnyExit);
        let mut up = parse("--exit-code-from web --abort-on-container-failure");
        up.settle().unwrap();
        assert_eq!(up.cascade(), Cascade::AnyFailure);
    }

    fn project() -> Project {
        let service = |name: &str, attach, needs: &[&str]| {
            let dependency = Dependency {
                condition: Condition::default(),
                restart: false,
                required: true,
            };
            let service = Service {
                name: name.into(),
                attach,
                depends_on: needs
                    .iter()
                    .map(|name| ((*name).to_owned(), dependency.clone()))
                    .collect(),
                ..Service::default()
            };
            (name.to_owned(), service)
        };
        Project {
            services: [
                service("web", None, &["db"]),
                service("db", None, &[]),
                service("log", Some(false), &[]),
            ]
            .into_iter()
            .collect(),
            ..Project::default()
        }
    }

    #[test]
    fn output_is_shown_of_what_was_asked_for() {
        let table = [
            ("", "db web"),
            ("web", "web"),
            ("web --attach-dependencies", "db web"),
            ("--attach log", "log"),
            ("--no-attach db", "web"),
            ("web --no-attach web", ""),
        ];
        for (arguments, expected) in table {
            let shown = parse(arguments).shown(&project()).unwrap();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            assert_eq!(shown.join(" "), expected, "{arguments}");
        }
        assert!(parse("--attach nosuch").shown(&project()).is_err());
    }
}
