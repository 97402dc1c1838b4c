//! Hooks that run before a service starts: each in a container of its own beside the one that is about to start, with its
//! network and volumes.

use tokio_util::sync::CancellationToken;

use super::RequestEffects;
use crate::container::{Creation, Desired};
use crate::engine::ContainerRecord;
use crate::model::{Hook, Service};
use crate::reconcile::desired::complete;
use crate::reconcile::failure::Failure;
use crate::supervisor::protocol::{ProgressStatus, Resource};
use crate::supervisor::unit::{Command, UnitHandle};
use crate::supervisor::wait;

/// Exit code of a hook whose end nobody saw.
const LOST: u32 = 137;

/// The container that is about to start.
pub(super) struct Beside<'a> {
    pub(super) unit: &'a UnitHandle,
    pub(super) record: &'a ContainerRecord,
    pub(super) desired: &'a Desired,
}

/// What the container of a hook is made from.
fn prepared(service: &Service, hook: &Hook) -> Service {
    let mut own = service.clone();
    own.image = hook.image.clone().or(own.image);
    // As for `exec`, the command is all that runs.
    own.entrypoint = Some(hook.command.clone());
    own.command = Some(Vec::new());
    own.user = hook.user.clone().or(own.user);
    own.working_dir = hook.working_dir.clone().or(own.working_dir);
    let variables = hook.environment.iter();
    own.environment
        .extend(variables.map(|(name, value)| (name.clone(), value.clone())));
    own.privileged |= hook.privileged;
    own.container_name = None;
    own.healthcheck = None;
    own.restart = None;
    own.tty = false;
    own.stdin_open = false;
    own
}

impl RequestEffects {
    pub(super) async fn run_pre_start(
        &self,
        beside: &Beside<'_>,
        hook: &Hook,
        index: usize,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let service = &beside.unit.service;
        let what = format!("pre_start[{index}]");
        let name = format!("{}-pre_start-{index}", beside.unit.name);
        let resource = format!("container {}", beside.unit.name);
        if let Some(left) = self.worker.unit_by_name(&name) {
            // Of a command that did not come to its end.
            self.remove_hook(&left).await?;
        }
        self.say(Resource::Container, &name, ProgressStatus::Starting);
        let unit = self.create_hook(beside, hook, &name).await?;
        let started = unit
            .ask(|reply| Command::Start {
                reason: what.clone(),
                reply,
            })
            .await;
        if let Err(error) = started {
            self.remove_hook(&unit).await?;
            return Err(Failure {
                hints: error.hints(),
                ..Failure::from_error(format!("{resource}, {what}"), &error)
            });
        }
        let ended = tokio::select! {
            // Cancel-safe: nothing is consumed by waiting.
            status = unit.ended() => Some(status.exit.map_or(LOST, |exit| exit.code)),
            () = cancel.cancelled() => None,
        };
        let details = match ended {
            Some(0) => Vec::new(),
            _ => wait::last_lines(&self.worker.shared, &unit.id).await,
        };
        self.remove_hook(&unit).await?;
        let message = match ended {
            Some(0) => {
                self.say(Resource::Container, &name, ProgressStatus::Exited);
                return Ok(());
            }
            Some(code) => format!("{service} hook {what} exited with status {code}"),
            None => format!("{service} hook {what} was interrupted"),
        };
        self.say(Resource::Container, &name, ProgressStatus::Error);
        Err(Failure {
            details,
            ..Failure::new(resource, message)
        })
    }

    /// Makes the container of a hook, which lives in the network of the one that is about to start.
    async fn create_hook(
        &self,
        beside: &Beside<'_>,
        hook: &Hook,
        name: &str,
    ) -> Result<UnitHandle, Failure> {
        let shared = &self.worker.shared;
        let resource = format!("container {name}");
        let (project, service) = self.service(&beside.unit.service)?;
        let service = prepared(service, hook);
        let reference = service.image.clone().unwrap_or_default();
        let image = self.image(&beside.unit.service, &reference).await?;
        let mut desired = beside.desired.clone();
        name.clone_into(&mut desired.name);
        desired.one_off = true;
        desired.auto_remove = false;
        desired.restart = "no".into();
        desired.terminal = false;
        desired.stdin_open = false;
        complete(&mut desired, &service, &image);
        desired.healthcheck = None;
        let (parents, volumes_from) = self.parents(&mut desired, &service, &resource).await?;
        let mut sandbox = None;
        if let Some(id) = desired.sandbox.take() {
            let networks = &shared.containers.networks;
            let record = networks.sandbox(&id);
            sandbox = record.map_err(|error| Failure::from_error(resource.clone(), &error))?;
            // It must outlast the hook: the service is about to come.
            shared.presume_tenant(&id, &beside.unit.id).await;
            desired.parents.insert("network_mode".into(), id);
        }
        let creation = Creation {
            project,
            service: &service,
            desired: &desired,
            image: &image,
            sandbox: sandbox.as_ref(),
            parents: &parents,
            volumes_from: &volumes_from,
            inherits: Some(beside.record),
            lease: self.lease().await?,
        };
        let created = shared.containers.create(&creation).await;
        let record = created.map_err(|error| Failure {
            hints: error.hints(),
            ..Failure::from_error(resource.clone(), &error)
        })?;
        let unit = self.worker.supervise_new(record);
        unit.ok_or_else(|| Failure::new(resource, "it is gone"))
    }

    /// Removes the container of a hook, whatever it does. Its volumes are the service's.
    async fn remove_hook(&self, unit: &UnitHandle) -> Result<(), Failure> {
        let removed = self.worker.remove(&unit.id, false).await;
        removed.map_err(|error| Failure::from_error(format!("container {}", unit.name), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_the_service_with_its_own_command_user_and_image() {
        let service = Service {
            image: Some("app".into()),
            command: Some(vec!["serve".into()]),
            user: Some("app".into()),
            environment: [("LEVEL".into(), Some("info".into()))].into(),
            ..Service::default()
        };
        let hook = Hook {
            command: vec!["migrate".into(), "--all".into()],
            environment: [("LEVEL".into(), Some("debug".into()))].into(),
            ..Hook::default()
        };
        let own = prepared(&service, &hook);
        assert_eq!(own.image.as_deref(), Some("app"));
        assert_eq!(own.user.as_deref(), Some("app"));
        assert_eq!(own.entrypoint.unwrap(), ["migrate", "--all"]);
        assert_eq!(own.command.unwrap(), [""; 0]);
        assert_eq!(own.environment["LEVEL"].as_deref(), Some("debug"));
        let hook = Hook {
            image: Some("tool".into()),
            user: Some("0".into()),
            privileged: true,
            ..hook
        };
        let own = prepared(&service, &hook);
        assert_eq!(
            (own.image.unwrap(), own.user.unwrap()),
            ("tool".into(), "0".into())
        );
        assert!(own.privileged);
    }
}
