//! What an operation would do, without doing it.

use std::sync::Arc;

use super::{Stack, StackError};
use crate::image::{Registry, RegistrySettings};
use crate::reconcile::desired::DesiredState;
use crate::reconcile::observe::Observed;
use crate::reconcile::plan::{self, Action, Plan, UpOptions};
use crate::reconcile::prepare::{PrepareError, survey_up};
use crate::supervisor::protocol::{Progress, ProgressStatus, Resource};

impl Stack {
    /// What `up` would do and why.
    pub async fn plan_up(&self, options: &UpOptions) -> Result<Plan, StackError> {
        let plan = self.plan(&self.up(options.clone())?).await?;
        Ok(plan.unwrap_or_default())
    }

    /// What `up` wants; `None` if that depends on what registries say.
    pub(super) async fn desired_here(
        &self,
        options: &UpOptions,
    ) -> Result<Option<DesiredState>, StackError> {
        let project = self.required_project()?;
        let images = &self.containers().await?.images;
        let survey = survey_up(images, project, options).await?;
        if survey.asks_registries() {
            return Ok(None);
        }
        Ok(Some(survey.desired(project)?))
    }

    /// What `up` would do to get from `observed` to `desired`.
    pub(super) fn plan_up_to(
        &self,
        desired: &DesiredState,
        observed: &Observed,
        options: &UpOptions,
    ) -> Result<Plan, StackError> {
        let plan = plan::plan_up(self.required_project()?, desired, observed, options);
        Ok(plan.map_err(PrepareError::Plan)?)
    }

    /// Access to registries, as the user's environment has it.
    pub(super) fn registry(&self) -> Arc<Registry> {
        let environment = self.project().map(|project| project.environment.clone());
        let settings = RegistrySettings::new(environment.unwrap_or_default());
        Arc::new(Registry::new(settings))
    }
}

/// What a supervisor would tell while it applies `plan`.
pub fn rehearse(plan: &Plan) -> Vec<Progress> {
    use ProgressStatus as Status;
    let mut told = Vec::new();
    let mut tell = |kind, name: &str, statuses: &[Status]| {
        told.extend(statuses.iter().map(|status| Progress {
            kind,
            name: name.into(),
            status: *status,
            detail: None,
        }));
    };
    for (name, has_completed) in plan.unchanged_containers() {
        let status = if has_completed {
            Status::Exited
        } else {
            Status::Running
        };
        tell(Resource::Container, name, &[status]);
    }
    for reference in plan.unchanged_images() {
        tell(Resource::Image, reference, &[Status::Pulled]);
    }
    // Stopping and removing what is replaced is a part of "recreate".
    let replaced: Vec<&String> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::CreateContainer { replaces, .. } => replaces.as_ref(),
            _ => None,
        })
        .collect();
    for step in &plan.steps {
        match &step.action {
            Action::StopContainer { id, .. } | Action::RemoveContainer { id, .. }
                if replaced.contains(&id) => {}
            Action::PullImage { reference, .. } => {
                tell(
                    Resource::Image,
                    reference,
                    &[Status::Pulling, Status::Pulled],
                );
            }
            Action::CreateNetwork { spec } => {
                tell(
                    Resource::Network,
                    &spec.name,
                    &[Status::Creating, Status::Created],
                );
            }
            Action::RemoveNetwork { name } => {
                tell(
                    Resource::Network,
                    name,
                    &[Status::Removing, Status::Removed],
                );
            }
            Action::CreateVolume { volume } => {
                tell(
                    Resource::Volume,
                    &volume.name,
                    &[Status::Creating, Status::Created],
                );
            }
            Action::RemoveVolume { name } => {
                tell(Resource::Volume, name, &[Status::Removing, Status::Removed]);
            }
            Action::CreateContainer { desired, replaces } => {
                let statuses = match replaces {
                    Some(_) => [Status::Recreate, Status::Recreated],
                    None => [Status::Creating, Status::Created],
                };
                tell(Resource::Container, &desired.name, &statuses);
            }
            Action::UpdateContainer { desired, .. } => {
                tell(
                    Resource::Container,
                    &desired.name,
                    &[Status::Updating, Status::Updated],
                );
            }
            Action::SignalContainer { name, .. } => {
                tell(Resource::Container, name, &[Status::Signalled]);
            }
            Action::StartContainer { name, .. } => {
                tell(
                    Resource::Container,
                    name,
                    &[Status::Starting, Status::Started],
                );
            }
            Action::StopContainer { name, .. } => {
                tell(
                    Resource::Container,
                    name,
                    &[Status::Stopping, Status::Stopped],
                );
            }
            Action::KillContainer { name, .. } => {
                tell(
                    Resource::Container,
                    name,
                    &[Status::Killing, Status::Killed],
                );
            }
            Action::RemoveContainer { name, .. } => {
                tell(
                    Resource::Container,
                    name,
                    &[Status::Removing, Status::Removed],
                );
            }
            _ => {}
        }
    }
    told
}
