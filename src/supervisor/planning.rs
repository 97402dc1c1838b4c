//! From a request to a plan. Commands ask the same to find out whether there is anything to do.

use std::sync::Arc;

use super::protocol::Request;
use crate::container::Containers;
use crate::image::{Registry, RegistrySettings};
use crate::model::Project;
use crate::reconcile::names::require_free_names;
use crate::reconcile::observe::Observed;
use crate::reconcile::plan::{self, Plan};
use crate::reconcile::prepare::{PrepareError, prepare, prepare_up};

impl Request {
    /// The project that it is about, where its files are known.
    pub fn project(&self) -> Option<&Project> {
        match self {
            Self::Up { project, .. } | Self::Run { project, .. } => Some(project),
            Self::Down { project, .. }
            | Self::Start { project, .. }
            | Self::Stop { project, .. }
            | Self::Restart { project, .. }
            | Self::Kill { project, .. }
            | Self::Remove { project, .. } => project.as_deref(),
            Self::Pause { .. }
            | Self::Unpause { .. }
            | Self::Live { .. }
            | Self::Replace { .. }
            | Self::Attach { .. }
            | Self::Follow
            | Self::Ping => None,
        }
    }

    /// Access to registries, as the project's environment has it.
    pub fn registry(&self) -> Arc<Registry> {
        let environment = self.project().map(|project| project.environment.clone());
        let settings = RegistrySettings::new(environment.unwrap_or_default());
        Arc::new(Registry::new(settings))
    }

    /// What it asks for, in a world as `observed`; `None` if that is not planned. `name` is that of the project.
    pub async fn plan(
        &self,
        name: &str,
        containers: &Containers,
        registry: &Arc<Registry>,
        observed: &Observed,
    ) -> Result<Option<Plan>, PrepareError> {
        let project = self.project();
        let images = &containers.images;
        let plan = match self {
            Self::Up { project, options } | Self::Run { project, options } => {
                let desired = prepare_up(images, registry, project, options).await?;
                plan::plan_up(project, &desired, observed, options)?
            }
            Self::Down { options, .. } => plan::plan_down(name, project, observed, options)?,
            Self::Start { services, wait, .. } => {
                plan::plan_start(project, observed, services, *wait)?
            }
            Self::Stop {
                services, timeout, ..
            } => plan::plan_stop(project, observed, services, *timeout)?,
            Self::Restart {
                services,
                timeout,
                no_deps,
                ..
            } => {
                let desired = match project {
                    Some(project) => Some(prepare(images, project).await?),
                    None => None,
                };
                let desired = desired.as_ref();
                plan::plan_restart(project, desired, observed, services, *timeout, *no_deps)?
            }
            Self::Kill {
                services,
                signal,
                remove_orphans,
                ..
            } => plan::plan_kill(project, observed, services, signal, *remove_orphans)?,
            Self::Remove {
                services,
                stop,
                volumes,
                ..
            } => plan::plan_remove(project, observed, services, *stop, *volumes)?,
            Self::Pause { .. }
            | Self::Unpause { .. }
            | Self::Live { .. }
            | Self::Replace { .. }
            | Self::Attach { .. }
            | Self::Follow
            | Self::Ping => return Ok(None),
        };
        require_free_names(&containers.engine, &plan).await?;
        Ok(Some(plan))
    }
}
