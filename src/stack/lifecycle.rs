//! Down, start, stop, restart, kill, remove, pause, unpause: all by the supervisor.

use super::{Outcome, Stack, StackError, rehearse};
use crate::model::Project;
use crate::reconcile::observe::{Observed, ObservedContainer};
use crate::reconcile::plan::{DownOptions, Plan};
use crate::supervisor::live::LiveRecord;
use crate::supervisor::protocol::{Progress, ProgressStatus, Reply, Request, Resource};
use crate::supervisor::{frame, launch};

impl Stack {
    fn boxed_project(&self) -> Option<Box<Project>> {
        let project = self.provided_project().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read what providers have answered");
            self.project().cloned()
        });
        project.map(Box::new)
    }

    /// Stops and removes containers and what was made for them.
    pub fn down(&self, options: DownOptions) -> Request {
        Request::Down {
            project: self.boxed_project(),
            options,
        }
    }

    /// Starts containers that exist. `wait`: until they run or are healthy.
    pub fn start(&self, services: Vec<String>, wait: bool) -> Request {
        Request::Start {
            project: self.boxed_project(),
            services,
            wait,
        }
    }

    /// Stops containers, dependents first. `timeout` in seconds; none: each one's own grace period.
    pub fn stop(&self, services: Vec<String>, timeout: Option<u32>) -> Request {
        Request::Stop {
            project: self.boxed_project(),
            services,
            timeout,
        }
    }

    /// Stops and starts containers, and what must restart with them unless `no_deps`.
    pub fn restart(&self, services: Vec<String>, timeout: Option<u32>, no_deps: bool) -> Request {
        Request::Restart {
            project: self.boxed_project(),
            services,
            timeout,
            no_deps,
        }
    }

    /// Sends `signal` to running containers; does not wait for other requests.
    pub fn kill(&self, services: Vec<String>, signal: String, remove_orphans: bool) -> Request {
        Request::Kill {
            project: self.boxed_project(),
            services,
            signal,
            remove_orphans,
        }
    }

    /// Removes stopped containers; with `stop`, stops them first.
    pub fn remove(&self, services: Vec<String>, stop: bool, volumes: bool) -> Request {
        Request::Remove {
            project: self.boxed_project(),
            services,
            stop,
            volumes,
        }
    }

    /// Has the supervisor do `request`, unless there is nothing to do: then none is started. Providers are called before or after.
    pub async fn ask(
        &self,
        request: Request,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let after = Self::provider_calls_after(&request);
        let outcome = self.ask_supervisor(request, &mut on_reply).await?;
        if let Some((mut project, services, call)) = after {
            self.call_providers(&mut project, &services, call, &mut on_reply)
                .await?;
        }
        Ok(outcome)
    }

    async fn ask_supervisor(
        &self,
        mut request: Request,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        if request.ends_live() && !launch::is_running(&self.options.state, self.name()) {
            // One that is started for this must not begin to follow files first.
            LiveRecord::remove(&self.options.state, self.name());
        }
        let containers = self.containers().await?;
        // Beside the rest, as it waits for nothing of that.
        let firewall = matches!(request, Request::Up { .. }).then(|| {
            let networks = containers.networks.clone();
            tokio::spawn(async move { networks.firewall_seems_whole().await })
        });
        let desired = async {
            match &request {
                Request::Up { options, .. } => Some(self.desired_here(options).await),
                _ => None,
            }
        };
        let (observed, desired) = tokio::join!(self.observe(), desired);
        let observed = observed?;
        self.check_origin(&observed, &request)?;
        if matches!(request, Request::Up { .. }) {
            self.record_origin(&observed)?;
        }
        self.call_providers_first(&mut request, &mut on_reply)
            .await?;
        // A plan that depends on registries is the supervisor's to make: asking twice helps nobody.
        let plan = match (&request, desired) {
            (Request::Up { options, .. }, Some(desired)) => {
                let plan = |desired| self.plan_up_to(&desired, &observed, options);
                desired?.map(plan).transpose()?
            }
            (request, _) => self.plan_from(request, &observed).await?,
        };
        let idle = match (&plan, &request) {
            (Some(plan), _) => plan.is_empty(),
            (None, Request::Pause { services } | Request::Unpause { services }) => {
                self.selected(&observed, services).is_empty()
            }
            (None, _) => false,
        };
        // What is no part of a plan, and the supervisor puts right all the same: rules that somebody has wiped, and records
        // for which there was no room.
        let is_touched = match firewall {
            Some(firewall) if idle => {
                let is_networked = !observed.sandboxes.is_empty();
                observed.has_hidden() || is_networked && matches!(firewall.await, Ok(Ok(false)))
            }
            _ => false,
        };
        if is_touched || !idle {
            self.request(request, on_reply).await?;
            return Ok(Outcome::Applied);
        }
        if let Request::Stop { services, .. } = &request {
            // Docker says so each time.
            for container in self.selected(&observed, services) {
                on_reply(Reply::Progress(Progress {
                    kind: Resource::Container,
                    name: container.name.clone(),
                    status: ProgressStatus::Stopped,
                    detail: None,
                }));
            }
        }
        let ends = matches!(request, Request::Stop { .. } | Request::Down { .. });
        if ends && self.is_supervised() {
            self.request(request, on_reply).await?;
            return Ok(Outcome::Unchanged);
        }
        if let Some(plan) = &plan {
            for text in &plan.warnings {
                on_reply(Reply::Warning { text: text.clone() });
            }
            if matches!(request, Request::Up { .. }) {
                rehearse(plan)
                    .into_iter()
                    .map(Reply::Progress)
                    .for_each(&mut on_reply);
            }
        }
        self.revive(&observed).await;
        Ok(Outcome::Unchanged)
    }

    /// Whether there is a supervisor, which another command may just have make or start what is not there yet; or one was
    /// killed and may have left what nobody has recorded.
    fn is_supervised(&self) -> bool {
        let state = &self.options.state;
        launch::is_running(state, self.name()) || frame::control_path(state, self.name()).exists()
    }

    /// What `request` would do; `None` if that is not planned.
    pub async fn plan(&self, request: &Request) -> Result<Option<Plan>, StackError> {
        let observed = self.observe().await?;
        self.check_origin(&observed, request)?;
        self.plan_from(request, &observed).await
    }

    async fn plan_from(
        &self,
        request: &Request,
        observed: &Observed,
    ) -> Result<Option<Plan>, StackError> {
        let containers = self.containers().await?;
        let registry = request.registry();
        Ok(request
            .plan(self.name(), containers, &registry, observed)
            .await?)
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
