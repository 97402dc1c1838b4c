//! Calling the programs that provide services, before and after what the supervisor does.

use super::{Stack, StackError};
use crate::model::Project;
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::selected_services;
use crate::reconcile::prepare::PrepareError;
use crate::reconcile::providers::{self, Call, News, ProviderError};
use crate::supervisor::protocol::{Progress, ProgressStatus, Reply, Request, Resource};

/// As the supervisor tells of failures.
fn failure(error: &ProviderError) -> StackError {
    let failure = Failure {
        hints: error.hints(),
        details: match error {
            ProviderError::Failed { complaint, .. } => complaint.clone(),
            _ => Vec::new(),
        },
        ..Failure::from_error("", error)
    };
    StackError::Failed(vec![failure])
}

impl Stack {
    /// Has the providers that a request brings up do so, and gives what they answer to the services that depend on them.
    pub(super) async fn call_providers_first(
        &self,
        request: &mut Request,
        on_reply: &mut impl FnMut(Reply),
    ) -> Result<(), StackError> {
        let (Request::Up { project, options } | Request::Run { project, options }) = request else {
            return Ok(());
        };
        if !providers::has_providers(project) {
            return Ok(());
        }
        let selected = selected_services(project, options).map_err(PrepareError::Plan)?;
        self.call_providers(project, &selected, Call::Up, on_reply)
            .await
    }

    /// What providers are to do after a request: stop and go come in the opposite order.
    pub(super) fn provider_calls_after(
        request: &Request,
    ) -> Option<(Box<Project>, Vec<String>, Call)> {
        let (project, services, call) = match request {
            Request::Down { project, options } => (project, &options.services, Call::Down),
            Request::Stop {
                project, services, ..
            } => (project, services, Call::Stop),
            _ => return None,
        };
        let project = project
            .as_ref()
            .filter(|project| providers::has_providers(project))?;
        Some((project.clone(), services.clone(), call))
    }

    pub(super) async fn call_providers(
        &self,
        project: &mut Project,
        services: &[String],
        call: Call,
        on_reply: &mut impl FnMut(Reply),
    ) -> Result<(), StackError> {
        let (ongoing, done) = match call {
            Call::Up => (ProgressStatus::Creating, ProgressStatus::Created),
            Call::Down => (ProgressStatus::Removing, ProgressStatus::Removed),
            Call::Stop => (ProgressStatus::Stopping, ProgressStatus::Stopped),
        };
        let tell = |service: &str, news: News<'_>| {
            let (status, detail) = match news {
                News::Begins => (ongoing, None),
                News::Info(text) => (ongoing, Some(text.to_owned())),
                News::Done => (done, None),
                News::Overrides {
                    dependent,
                    variable,
                } => {
                    let text = format!(
                        "provider `{service}` overrides the variable `{variable}` of service `{dependent}`"
                    );
                    return on_reply(Reply::Warning { text });
                }
            };
            on_reply(Reply::Progress(Progress {
                kind: Resource::Service,
                name: service.to_owned(),
                status,
                detail,
            }));
        };
        let state = &self.options.state;
        let called = providers::call(project, state, services, call, tell);
        called.await.map_err(|error| failure(&error))
    }

    /// The project with what its providers have answered when they were last called.
    pub(super) fn provided_project(&self) -> Result<Option<Project>, StackError> {
        let mut project = self.project().cloned();
        if let Some(project) = &mut project {
            providers::remembered(project, &self.options.state).map_err(|error| failure(&error))?;
        }
        Ok(project)
    }
}
