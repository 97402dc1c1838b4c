//! Gathers what planning needs to know beside the project: which images are here, what configs and secrets contain.

use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;

use super::contents::ContentsError;
use super::desired::DesiredState;
use super::observe::ObserveError;
use super::plan::{PlanError, UpOptions, selected_services};
use super::pulls::{PullSelection, Survey};
use crate::image::{ImageError, Images, InvalidPolicy, Registry};
use crate::model::Project;
use crate::reconcile::failure::Failure;

/// What a project wants could not be worked out.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("service `{service}` has a wrong `pull_policy`")]
    Policy {
        service: String,
        #[source]
        source: InvalidPolicy,
    },
    /// Images that cannot be pulled.
    #[error("images cannot be pulled")]
    Pull(Vec<Failure>),
}

impl PrepareError {
    /// One failure for each thing that is wrong.
    pub fn failures(self) -> Vec<Failure> {
        let hints = match &self {
            Self::Image(error) => error.hints(),
            Self::Plan(error) => error.hints(),
            _ => Vec::new(),
        };
        match self {
            Self::Pull(failures) => failures,
            error => vec![Failure {
                hints,
                ..Failure::from_error("", &error)
            }],
        }
    }
}

/// Works out what `up` wants. Asks the registries of images that are to be pulled, and changes nothing.
pub async fn prepare_up(
    images: &Images,
    registry: &Arc<Registry>,
    project: &Project,
    options: &UpOptions,
) -> Result<DesiredState, PrepareError> {
    let mut survey = survey_up(images, project, options).await?;
    survey.look_up(images, registry, project).await?;
    survey.desired(project)
}

/// Looks at the images that `up` needs, on this host only.
pub async fn survey_up(
    images: &Images,
    project: &Project,
    options: &UpOptions,
) -> Result<Survey, PrepareError> {
    let services = selected_services(project, options)?;
    let selection = PullSelection {
        services: &services,
        policy: options.pull.as_deref(),
        now: Timestamp::now(),
    };
    Survey::new(images, project, Some(selection)).await
}

/// Works out what `project` wants on this host. Asks no registry: an image that is not here yet stays unknown.
pub async fn prepare(images: &Images, project: &Project) -> Result<DesiredState, PrepareError> {
    Survey::new(images, project, None).await?.desired(project)
}
