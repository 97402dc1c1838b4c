//! Down, start, stop, restart, kill, remove, pause, unpause: all by the supervisor.

use super::{Outcome, Stack, StackError};
use crate::model::Project;
use crate::reconcile::observe::{Observed, ObservedContainer};
use crate::reconcile::plan::DownOptions;
use crate::supervisor::protocol::{Reply, Request};

impl Stack {
    fn boxed_project(&self) -> Option<Box<Project>> {
        self.project().cloned().map(Box::new)
    }

    /// Has the supervisor do `request` unless it concerns no container.
    async fn ask(
        &self,
        request: Request,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let (Request::Start { services, .. }
        | Request::Stop { services, .. }
        | Request::Restart { services, .. }
        | Request::Kill { services, .. }
        | Request::Remove { services, .. }
        | Request::Pause { services }
        | Request::Unpause { services }) = &request
        else {
            self.request(request, on_reply).await?;
            return Ok(Outcome::Applied);
        };
        let observed = self.observe().await?;
        if self.selected(&observed, services).is_empty() {
            return Ok(Outcome::Unchanged);
        }
        self.request(request, on_reply).await?;
        Ok(Outcome::Applied)
    }

    /// Stops and removes containers and what was made for them.
    pub async fn down(
        &self,
        options: DownOptions,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let plan = self.plan_down(&options).await?;
        if plan.is_empty() {
            for text in plan.warnings {
                on_reply(Reply::Warning { text });
            }
            return Ok(Outcome::Unchanged);
        }
        let project = self.boxed_project();
        self.request(Request::Down { project, options }, on_reply)
            .await?;
        Ok(Outcome::Applied)
    }

    /// Starts containers that exist. `wait`: until they run or are healthy, for at most `wait_timeout` seconds.
    pub async fn start(
        &self,
        services: Vec<String>,
        wait: bool,
        wait_timeout: Option<u64>,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let project = self.boxed_project();
        let request = Request::Start {
            project,
            services,
            wait,
            wait_timeout,
        };
        self.ask(request, on_reply).await
    }

    /// Stops containers, dependents first. `timeout` in seconds; none: each one's own grace period.
    pub async fn stop(
        &self,
        services: Vec<String>,
        timeout: Option<u32>,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let project = self.boxed_project();
        let request = Request::Stop {
            project,
            services,
            timeout,
        };
        self.ask(request, on_reply).await
    }

    pub async fn restart(
        &self,
        services: Vec<String>,
        timeout: Option<u32>,
        no_deps: bool,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let project = self.boxed_project();
        let request = Request::Restart {
            project,
            services,
            timeout,
            no_deps,
        };
        self.ask(request, on_reply).await
    }

    /// Sends `signal` to running containers; does not wait for other requests.
    pub async fn kill(
        &self,
        services: Vec<String>,
        signal: String,
        remove_orphans: bool,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let project = self.boxed_project();
        let request = Request::Kill {
            project,
            services,
            signal,
            remove_orphans,
        };
        self.ask(request, on_reply).await
    }

    /// Removes stopped containers; with `stop`, stops them first.
    pub async fn remove(
        &self,
        services: Vec<String>,
        stop: bool,
        volumes: bool,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let project = self.boxed_project();
        let request = Request::Remove {
            project,
            services,
            stop,
            volumes,
        };
        self.ask(request, on_reply).await
    }

    pub async fn pause(
        &self,
        services: Vec<String>,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        self.ask(Request::Pause { services }, on_reply).await
    }

    pub async fn unpause(
        &self,
        services: Vec<String>,
        on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        self.ask(Request::Unpause { services }, on_reply).await
    }

    /// Containers that commands mean by `services`: those of the project's file, or all of the name without one; no
    /// one-offs.
    pub fn selected<'a>(
        &self,
        observed: &'a Observed,
        services: &[String],
    ) -> Vec<&'a ObservedContainer> {
        let in_file = |service: &String| {
            self.project().is_none_or(|project| {
                project.services.contains_key(service)
                    || project.disabled_services.contains_key(service)
            })
        };
        let chosen = |container: &&ObservedContainer| {
            !container.one_off
                && if services.is_empty() {
                    in_file(&container.service)
                } else {
                    services.contains(&container.service)
                }
        };
        observed.containers.iter().filter(chosen).collect()
    }
}
