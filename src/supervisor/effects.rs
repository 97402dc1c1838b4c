//! What each step of a plan does to the world.

mod container;
mod hook;
mod image;
mod pre_start;
mod update;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::protocol::{Progress, ProgressStatus, Reply, Request, Resource};
use super::unit::{Attachment, Command, UnitHandle};
use super::wait::{self, Waited};
use super::worker::Worker;
use crate::engine::Engine;
use crate::image::{Image, Registry};
use crate::model::{Condition, Project, Service};
use crate::network::{NetworkError, SandboxSpec};
use crate::reconcile::apply::Effects;
use crate::reconcile::diff::mask_secrets;
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{Action, Plan, Reason, Step, UpOptions};
use update::Updates;

/// Time after which a lease ends even if nobody ends it; a pull over a slow line must fit in.
const LEASE: Duration = Duration::from_hours(24);

/// Pause before a lease is ended again that could not be, as containerd was away.
const LEASE_RETRY: Duration = Duration::from_secs(5);

/// The effects of one request.
#[derive(Debug)]
pub(super) struct RequestEffects {
    worker: Arc<Worker>,
    project: Option<Arc<Project>>,
    /// Of `up` and `run`.
    options: UpOptions,
    replies: mpsc::UnboundedSender<Reply>,
    /// Containers that are replaced: what happens to them is part of the new one's story.
    replaced: BTreeSet<String>,
    /// Containers that a later step removes: nobody waits for them.
    leaving: BTreeSet<String>,
    updates: Updates,
    /// Sandboxes that a later step removes: whoever stops before need not give them up.
    doomed: BTreeSet<String>,
    lease: OnceCell<String>,
    /// By reference and platform.
    images: Mutex<HashMap<(String, Option<String>), Image>>,
    created: Mutex<HashMap<String, UnitHandle>>,
    /// The container of a single command that was made.
    one_off: Mutex<Option<OneOffUnit>>,
    /// Stops that count in seconds instead of each container's own grace period.
    restarting: bool,
    registry: Arc<Registry>,
    /// Layers are not told of.
    quiet_pull: bool,
}

/// The container of a single command, and who is attached to it.
#[derive(Debug)]
pub(super) struct OneOffUnit {
    pub(super) unit: UnitHandle,
    pub(super) attachment: Option<Attachment>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RequestEffects {
    pub(super) fn new(
        worker: Arc<Worker>,
        request: Request,
        plan: &Plan,
        replies: mpsc::UnboundedSender<Reply>,
        registry: Arc<Registry>,
    ) -> Self {
        let replaced = plan.steps.iter().filter_map(|step| match &step.action {
            Action::CreateContainer { replaces, .. } => replaces.clone(),
            _ => None,
        });
        let leaving = plan.steps.iter().filter_map(|step| match &step.action {
            Action::RemoveContainer { id, .. } => Some(id.clone()),
            _ => None,
        });
        let doomed = plan.steps.iter().filter_map(|step| match &step.action {
            Action::RemoveSandbox { id } => Some(id.clone()),
            _ => None,
        });
        let restarting = matches!(request, Request::Restart { .. });
        let (project, options) = match request {
            Request::Up { project, options } | Request::Run { project, options } => {
                (Some(project), options)
            }
            Request::Down { project, .. }
            | Request::Start { project, .. }
            | Request::Stop { project, .. }
            | Request::Restart { project, .. }
            | Request::Remove { project, .. } => (project, UpOptions::default()),
            // Not planned, so nothing will be asked.
            _ => (None, UpOptions::default()),
        };
        let quiet_pull = options.quiet_pull;
        Self {
            worker,
            project: project.map(|project| Arc::new(*project)),
            options,
            replies,
            replaced: replaced.collect(),
            leaving: leaving.collect(),
            updates: Updates::of(plan),
            doomed: doomed.collect(),
            lease: OnceCell::new(),
            images: Mutex::default(),
            created: Mutex::default(),
            one_off: Mutex::default(),
            restarting,
            registry,
            quiet_pull,
        }
    }

    /// Gives back what was held for the request.
    pub(super) async fn finish(&self) {
        let engine = &self.worker.shared.containers.engine;
        let Some(lease) = self.lease.get() else {
            return;
        };
        match engine.delete_lease(lease).await {
            Ok(()) => {}
            Err(error) if error.is_outage() => {
                tokio::spawn(end_lease(engine.clone(), lease.clone()));
            }
            Err(error) => tracing::warn!(%error, lease, "cannot delete a lease"),
        }
    }

    /// Seconds that the request may take, if there is a limit.
    pub(super) fn patience(&self) -> Option<u64> {
        self.options.wait_timeout.filter(|_| self.options.wait)
    }

    /// Name of the container of a single command, if one was to be made.
    pub(super) fn one_off_name(&self) -> Option<&str> {
        let one_off = self.options.one_off.as_ref();
        one_off.map(|one_off| one_off.name.as_str())
    }

    /// The container of a single command, if one was made.
    pub(super) fn take_one_off(&self) -> Option<OneOffUnit> {
        locked(&self.one_off).take()
    }

    /// Notes the container of a single command. Whoever is to see its output is attached before it starts.
    async fn keep_one_off(&self, unit: UnitHandle) {
        let mut attachment = None;
        let one_off = self.options.one_off.as_ref();
        if one_off.is_some_and(|one_off| one_off.attended) {
            let attend = |reply| Command::Attend {
                attended: true,
                reply,
            };
            if let Err(error) = unit.ask(attend).await {
                tracing::warn!(%error, container = unit.name, "cannot note who sees to it");
            }
            attachment = Some(unit.attach());
        }
        *locked(&self.one_off) = Some(OneOffUnit { unit, attachment });
    }

    async fn lease(&self) -> Result<&str, Failure> {
        let engine = &self.worker.shared.containers.engine;
        let project = &self.worker.shared.project;
        let make = || async {
            let id = format!("compose-{project}-{}", crate::random::random_hex(8));
            let labels =
                BTreeMap::from([(crate::container::label::PROJECT.into(), project.clone())]);
            engine.create_lease(&id, &labels, LEASE).await.map(|()| id)
        };
        self.lease
            .get_or_try_init(make)
            .await
            .map(String::as_str)
            .map_err(|error| Failure {
                hints: error.hints(),
                ..Failure::from_error("", &error)
            })
    }

    fn say(&self, kind: Resource, name: &str, status: ProgressStatus) {
        let progress = Progress {
            kind,
            name: name.to_owned(),
            status,
            detail: None,
        };
        // Nobody may listen any more; the work goes on to a safe place all the same.
        self.replies.send(Reply::Progress(progress)).ok();
    }

    fn service(&self, name: &str) -> Result<(&Arc<Project>, &Service), Failure> {
        let unknown = || Failure::new(format!("service {name}"), "it is not in the project");
        let project = self.project.as_ref().ok_or_else(unknown)?;
        let service = project.services.get(name).ok_or_else(unknown)?;
        Ok((project, service))
    }

    /// The container of that id, else the one that was made for the slot.
    async fn container(&self, id: Option<&str>, name: &str) -> Result<UnitHandle, Failure> {
        let what = || format!("container {name}");
        let known = match id {
            None => self.unit(name),
            Some(id) => match self.worker.unit(id) {
                // containerd went away between its making and its adoption.
                None => { self.worker.adopt(id).await }
                    .map_err(|error| Failure::from_error(what(), &error))?,
                known => known,
            },
        };
        known.ok_or_else(|| Failure::new(what(), "it does not exist"))
    }

    /// The newest container of a slot.
    fn unit(&self, name: &str) -> Option<UnitHandle> {
        let created = locked(&self.created).get(name).cloned();
        created.or_else(|| self.worker.unit_by_name(name))
    }

    async fn create_sandbox(
        &self,
        spec: &SandboxSpec,
        stands_by_for: Option<&str>,
    ) -> Result<(), Failure> {
        let shared = &self.worker.shared;
        let failed = |error: NetworkError| Failure {
            hints: error.hints(),
            ..Failure::from_error(format!("container {}", spec.id), &error)
        };
        shared
            .create_sandbox(spec, stands_by_for)
            .await
            .map_err(failed)
    }

    /// The newest container of each slot of a service.
    fn replicas(&self, service: &str) -> BTreeMap<String, UnitHandle> {
        let mut units = self.worker.units();
        units.retain(|unit| {
            let is_old = self.replaced.contains(&unit.id) || self.leaving.contains(&unit.id);
            unit.service == service && !unit.one_off && !is_old
        });
        units.sort_by_key(|unit| unit.created_at);
        let by_name = units.into_iter().map(|unit| (unit.name.clone(), unit));
        by_name.collect()
    }

    /// Of the containers that were waited for on behalf of the user, those that were ready for a moment only.
    pub(super) async fn relapsed(&self, plan: &Plan, failures: &[Failure]) -> Vec<Failure> {
        let mut relapsed = Vec::new();
        for step in &plan.steps {
            let Action::WaitFor {
                service,
                condition,
                dependent,
                ..
            } = &step.action
            else {
                continue;
            };
            for unit in self.replicas(service).values() {
                let judged = wait::judge(&unit.status.borrow().clone(), *condition, true);
                let resource = format!("container {}", unit.name);
                let is_told = failures.iter().any(|failure| failure.resource == resource);
                if let (Some(Waited::Never(reason)), "", false) =
                    (judged, dependent.as_str(), is_told)
                {
                    let shared = &self.worker.shared;
                    relapsed.push(wait::failure(shared, unit, *condition, "", &reason).await);
                }
            }
        }
        relapsed
    }

    async fn wait_for(
        &self,
        service: &str,
        condition: Condition,
        required: bool,
        dependent: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let names = self.replicas(service);
        let settled = dependent
            .is_empty()
            .then(|| Instant::now() + wait::SETTLING);
        for unit in names.values() {
            self.say(Resource::Container, &unit.name, ProgressStatus::Waiting);
        }
        for unit in names.values() {
            let waited = tokio::select! {
                // Cancel-safe: nothing is consumed by waiting.
                waited = wait::until(unit.status.clone(), condition, settled) => waited,
                () = cancel.cancelled() => Waited::Never("is not ready yet".into()),
            };
            match waited {
                Waited::Met(status) => self.say(Resource::Container, &unit.name, status),
                Waited::Never(_) if !required => {
                    let text =
                        format!("optional dependency `{service}` of `{dependent}` failed to start");
                    self.replies.send(Reply::Warning { text }).ok();
                }
                Waited::Never(reason) => {
                    self.say(Resource::Container, &unit.name, ProgressStatus::Error);
                    return Err(wait::failure(
                        &self.worker.shared,
                        unit,
                        condition,
                        dependent,
                        &reason,
                    )
                    .await);
                }
            }
        }
        Ok(())
    }

    async fn remove_image(&self, reference: &str) -> Result<(), Failure> {
        let engine = &self.worker.shared.containers.engine;
        let failed = |error| Failure::from_error(format!("image {reference}"), &error);
        let filter = format!("image=={reference:?}");
        if !engine
            .containers(&[filter])
            .await
            .map_err(failed)?
            .is_empty()
        {
            self.say(Resource::Image, reference, ProgressStatus::Skipped);
            return Ok(());
        }
        self.say(Resource::Image, reference, ProgressStatus::Removing);
        engine.delete_image(reference).await.map_err(failed)?;
        self.say(Resource::Image, reference, ProgressStatus::Removed);
        Ok(())
    }

    async fn remove_network(&self, name: &str) -> Result<(), Failure> {
        self.say(Resource::Network, name, ProgressStatus::Removing);
        match self.worker.shared.containers.networks.remove(name).await {
            Ok(()) => self.say(Resource::Network, name, ProgressStatus::Removed),
            Err(NetworkError::InUse { users, .. }) => {
                let text = format!("network {name} is still in use by {}", users.join(", "));
                self.replies.send(Reply::Warning { text }).ok();
                self.say(Resource::Network, name, ProgressStatus::Skipped);
            }
            Err(error) => return Err(Failure::from_error(format!("network {name}"), &error)),
        }
        Ok(())
    }
}

/// The reasons of a step in one line, for states and events.
fn reason_text(step: &Step) -> String {
    if step.reasons.is_empty() {
        "up".into()
    } else {
        reasons_text(&step.reasons)
    }
}

/// Reasons in one line. Values of keys that look secret are left out.
pub(super) fn reasons_text(reasons: &[Reason]) -> String {
    let mut reasons = reasons.to_vec();
    mask_secrets(&mut reasons);
    let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

impl Effects for RequestEffects {
    async fn perform(&self, step: &Step, cancel: &CancellationToken) -> Result<(), Failure> {
        match &step.update {
            Some(part) => self.act_in_update(part, step, cancel).await,
            None => self.act(step, cancel).await,
        }
    }
}

impl RequestEffects {
    async fn act(&self, step: &Step, cancel: &CancellationToken) -> Result<(), Failure> {
        let shared = &self.worker.shared;
        match &step.action {
            Action::CreateNetwork { spec } => {
                self.say(Resource::Network, &spec.name, ProgressStatus::Creating);
                shared
                    .containers
                    .networks
                    .create(spec)
                    .await
                    .map_err(|error| Failure {
                        hints: error.hints(),
                        ..Failure::from_error(format!("network {}", spec.name), &error)
                    })?;
                self.say(Resource::Network, &spec.name, ProgressStatus::Created);
                Ok(())
            }
            Action::RemoveNetwork { name } => self.remove_network(name).await,
            Action::CreateVolume { volume } => {
                self.say(Resource::Volume, &volume.name, ProgressStatus::Creating);
                shared
                    .containers
                    .create_volume(volume)
                    .await
                    .map_err(|error| {
                        Failure::from_error(format!("volume {}", volume.name), &error)
                    })?;
                self.say(Resource::Volume, &volume.name, ProgressStatus::Created);
                Ok(())
            }
            Action::RemoveVolume { name } => {
                self.say(Resource::Volume, name, ProgressStatus::Removing);
                shared
                    .containers
                    .remove_volume(name)
                    .await
                    .map_err(|error| Failure::from_error(format!("volume {name}"), &error))?;
                self.say(Resource::Volume, name, ProgressStatus::Removed);
                Ok(())
            }
            Action::EnsureImage { service, reference } => {
                self.ensure_image(service, reference).await.map(drop)
            }
            Action::PullImage {
                service,
                reference,
                platform,
                ..
            } => {
                self.pull_image(service, reference, platform.as_deref(), cancel)
                    .await
            }
            Action::CreateSandbox {
                spec,
                stands_by_for,
            } => self.create_sandbox(spec, stands_by_for.as_deref()).await,
            Action::SwitchSandbox { name, from, to, .. } => shared
                .switch_sandbox(from, to)
                .await
                .map_err(|error| Failure::from_error(format!("container {name}"), &error)),
            Action::Monitor { id, name, time, .. } => {
                self.monitor(id.as_deref(), name, *time, cancel).await
            }
            Action::Drain { id, .. } => self.drain(id, cancel).await,
            Action::Delay { service, time } => {
                self.delay(service, *time, cancel).await;
                Ok(())
            }
            Action::ConcludeUpdate { service, .. } => self.conclude_update(service, cancel).await,
            Action::RemoveSandbox { id } => shared
                .remove_sandbox(id)
                .await
                .map_err(|error| Failure::from_error(format!("network sandbox {id}"), &error)),
            Action::CreateContainer { desired, replaces } => {
                self.create_container(desired, replaces.as_deref(), reason_text(step))
                    .await
            }
            Action::UpdateContainer { id, desired } => self.update_container(id, desired).await,
            Action::SignalContainer {
                id, name, signal, ..
            } => self.signal_container(id, name, signal).await,
            Action::StartContainer { id, service, name } => {
                let reason = reason_text(step);
                self.start_container(id.as_deref(), service, name, reason)
                    .await
            }
            Action::StopContainer {
                id, name, timeout, ..
            } => {
                self.stop_container(id, name, *timeout, reason_text(step))
                    .await
            }
            Action::KillContainer {
                id, name, signal, ..
            } => self.kill_container(id, name, signal).await,
            Action::RemoveContainer {
                id, name, volumes, ..
            } => self.remove_container(id, name, *volumes).await,
            Action::WaitFor {
                service,
                condition,
                required,
                dependent,
            } => {
                self.wait_for(service, *condition, *required, dependent, cancel)
                    .await
            }
            Action::RemoveImage { reference } => self.remove_image(reference).await,
            Action::RunHook {
                id,
                service,
                name,
                hook,
                index,
            } => {
                let names = (id.as_deref(), service.as_str(), name.as_str());
                self.run_hook(names, hook, *index, cancel).await
            }
        }
    }
}

/// Ends a lease as soon as containerd is back: until then what the request has put aside is kept.
async fn end_lease(engine: Engine, lease: String) {
    loop {
        tokio::time::sleep(LEASE_RETRY).await;
        match engine.delete_lease(&lease).await {
            Ok(()) => return,
            Err(error) if error.is_outage() => {}
            Err(error) => {
                tracing::warn!(%error, lease, "cannot delete a lease");
                return;
            }
        }
    }
}
