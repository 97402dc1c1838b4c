//! Options that `up`, `create` and `plan` share, and what they mean.

use clap::Args;
use indexmap::IndexMap;

use crate::cli::error::{BUILD_HINT, CommandError};
use crate::cli::globals::{GlobalArgs, is_set, no_such_service};
use crate::model::Project;
use crate::reconcile::plan::{Recreate, UpOptions};

/// What to make, and when to make it anew.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConvergeArgs {
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long)]
    pub force_recreate: bool,
    /// Keep containers that exist, even if their configuration has changed
    #[arg(long)]
    pub no_recreate: bool,
    /// Remove containers for services not defined in the compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// Scale SERVICE to NUM instances, whatever the compose file says
    #[arg(long, value_name = "SERVICE=NUM")]
    pub scale: Vec<String>,
}

/// What to do with what the named services depend on.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DependencyArgs {
    /// Recreate dependencies too
    #[arg(long)]
    pub always_recreate_deps: bool,
    /// Don't start dependencies
    #[arg(long)]
    pub no_deps: bool,
    /// Make anonymous volumes anew instead of keeping those of the previous containers
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
}

/// Where images come from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ImageArgs {
    /// Build images before starting containers
    #[arg(long)]
    pub build: bool,
    /// Don't build an image, even if the compose file says so
    #[arg(long)]
    pub no_build: bool,
    /// Pull images before running (always, missing, never)
    #[arg(long, value_name = "POLICY")]
    pub pull: Option<String>,
    /// Pull without printing progress information
    #[arg(long)]
    pub quiet_pull: bool,
    /// Answer every question with yes
    #[arg(short, long)]
    pub yes: bool,
}

fn incompatible(first: &str, second: &str) -> CommandError {
    CommandError::usage(format!("{first} and {second} are incompatible"))
}

impl ConvergeArgs {
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        if self.force_recreate && self.no_recreate {
            return Err(incompatible("--force-recreate", "--no-recreate"));
        }
        Ok(())
    }
}

impl DependencyArgs {
    pub(crate) fn check(&self, converge: &ConvergeArgs) -> Result<(), CommandError> {
        if self.renew_anon_volumes && converge.no_recreate {
            return Err(incompatible("--no-recreate", "--renew-anon-volumes"));
        }
        if self.always_recreate_deps && converge.no_recreate {
            return Err(incompatible("--always-recreate-deps", "--no-recreate"));
        }
        Ok(())
    }
}

impl ImageArgs {
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        if self.build && self.no_build {
            return Err(incompatible("--build", "--no-build"));
        }
        match self.pull.as_deref() {
            None | Some("missing" | "never" | "if_not_present" | "policy" | "always" | "build") => {
                Ok(())
            }
            Some(other) => Err(CommandError::usage(format!(
                "invalid --pull option \"{other}\""
            ))),
        }
    }

    /// `--pull` for the planner; none: each service's own policy.
    pub(crate) fn policy(&self) -> Option<String> {
        self.pull.clone().filter(|policy| policy != "policy")
    }

    /// Building is asked for only where there is something to build.
    pub(crate) fn check_project(&self, project: &Project) -> Result<(), CommandError> {
        let built = project
            .services
            .values()
            .any(|service| service.build.is_some());
        if self.build && built {
            return Err(CommandError::unsupported("--build").hint(BUILD_HINT));
        }
        Ok(())
    }
}

/// What is asked of the planner.
pub(crate) fn up_options(
    globals: &GlobalArgs,
    project: &Project,
    services: &[String],
    converge: &ConvergeArgs,
    dependencies: &DependencyArgs,
) -> Result<UpOptions, CommandError> {
    if project.services.is_empty() && !globals.all_resources {
        return Err(CommandError::user("no service selected"));
    }
    let remove_orphans = converge.remove_orphans || is_set(project, "COMPOSE_REMOVE_ORPHANS");
    let ignore_orphans = is_set(project, "COMPOSE_IGNORE_ORPHANS");
    if ignore_orphans && remove_orphans {
        return Err(CommandError::usage(
            "cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans",
        ));
    }
    let strategy = |force: bool| match () {
        () if converge.no_recreate => Recreate::Never,
        () if force => Recreate::Force,
        () => Recreate::Diverged,
    };
    Ok(UpOptions {
        services: services.to_vec(),
        no_deps: dependencies.no_deps,
        recreate: strategy(converge.force_recreate || dependencies.renew_anon_volumes),
        recreate_dependencies: strategy(dependencies.always_recreate_deps),
        renew_anonymous_volumes: dependencies.renew_anon_volumes,
        remove_orphans,
        ignore_orphans,
        scale: scale(project, &converge.scale)?,
        ..UpOptions::default()
    })
}

fn scale(project: &Project, scale: &[String]) -> Result<IndexMap<String, u32>, CommandError> {
    let mut replicas = IndexMap::new();
    for text in scale {
        let Some((service, count)) = text.split_once('=').filter(|(_, count)| !count.is_empty())
        else {
            return Err(CommandError::usage(format!(
                "invalid --scale option \"{text}\". Should be SERVICE=NUM"
            )));
        };
        if !project.services.contains_key(service) {
            return Err(no_such_service(
                service,
                project.services.keys().map(String::as_str),
            ));
        }
        let count = count.parse().map_err(|_| {
            CommandError::usage(format!(
                "invalid --scale option \"{text}\": `{count}` is not a number of replicas"
            ))
        })?;
        replicas.insert(service.into(), count);
    }
    Ok(replicas)
}

/// Seconds until a container that does not stop is killed; a negative number means never, as with Docker.
pub(crate) fn timeout(seconds: Option<i64>) -> Option<u32> {
    seconds.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Service;

    fn project() -> Project {
        Project {
            services: [("web".to_owned(), Service::default())]
                .into_iter()
                .collect(),
            ..Project::default()
        }
    }

    fn options(
        converge: &ConvergeArgs,
        dependencies: &DependencyArgs,
    ) -> Result<UpOptions, CommandError> {
        up_options(
            &GlobalArgs::default(),
            &project(),
            &[],
            converge,
            dependencies,
        )
    }

    #[test]
    fn renewing_anonymous_volumes_recreates() {
        let dependencies = DependencyArgs {
            renew_anon_volumes: true,
            ..DependencyArgs::default()
        };
        let options = options(&ConvergeArgs::default(), &dependencies).unwrap();
        assert_eq!(options.recreate, Recreate::Force);
        assert_eq!(options.recreate_dependencies, Recreate::Diverged);
    }

    #[test]
    fn no_recreate_holds_for_dependencies_too() {
        let converge = ConvergeArgs {
            no_recreate: true,
            ..ConvergeArgs::default()
        };
        let options = options(&converge, &DependencyArgs::default()).unwrap();
        assert_eq!(options.recreate, Recreate::Never);
        assert_eq!(options.recreate_dependencies, Recreate::Never);
    }

    #[test]
    fn a_scale_needs_a_service_and_a_number() {
        let scale = |text: &str| {
            let converge = ConvergeArgs {
                scale: vec![text.into()],
                ..ConvergeArgs::default()
            };
            options(&converge, &DependencyArgs::default()).map(|options| options.scale["web"])
        };
        assert_eq!(scale("web=3").unwrap(), 3);
        for wrong in ["web", "web=", "web=x", "web=-1", "wbe=1"] {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn orphans_are_not_both_removed_and_ignored() {
        let mut project = project();
        project
            .environment
            .insert("COMPOSE_IGNORE_ORPHANS".into(), "1".into());
        let converge = ConvergeArgs {
            remove_orphans: true,
            ..ConvergeArgs::default()
        };
        let dependencies = DependencyArgs::default();
        let refused = up_options(
            &GlobalArgs::default(),
            &project,
            &[],
            &converge,
            &dependencies,
        );
        assert!(refused.is_err());
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let both = ConvergeArgs {
            force_recreate: true,
            no_recreate: true,
            ..ConvergeArgs::default()
        };
        assert!(both.check().is_err());
        let keep = ConvergeArgs {
            no_recreate: true,
            ..ConvergeArgs::default()
        };
        let renew = DependencyArgs {
            renew_anon_volumes: true,
            ..DependencyArgs::default()
        };
        assert!(renew.check(&keep).is_err());
        assert!(renew.check(&ConvergeArgs::default()).is_ok());
        let build = ImageArgs {
            build: true,
            no_build: true,
            ..ImageArgs::default()
        };
        assert!(build.check().is_err());
    }
}
