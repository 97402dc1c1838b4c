//! The steps of a plan on containers.

use std::collections::BTreeMap;

use super::super::protocol::{ContainerChange, ProgressStatus, Resource};
use super::super::unit::{Command, UnitHandle};
use super::{RequestEffects, locked};
use crate::container::{Creation, Desired, parse_signal};
use crate::engine::ContainerRecord;
use crate::model::Service;
use crate::network::NetworkError;
use crate::reconcile::desired::{complete, record_parent};
use crate::reconcile::failure::Failure;

impl RequestEffects {
    pub(super) async fn create_container(
        &self,
        desired: &Desired,
        replaces: Option<&str>,
        reason: String,
    ) -> Result<(), Failure> {
        let resource = format!("container {}", desired.name);
        let status = if replaces.is_some() {
            ProgressStatus::Recreate
        } else {
            ProgressStatus::Creating
        };
        self.say(Resource::Container, &desired.name, status);
        let (project, service) = self.service(&desired.service)?;
        let reference = service.image.clone().unwrap_or_default();
        let image = self.image(&desired.service, &reference).await?;
        let mut desired = desired.clone();
        complete(&mut desired, service, &image);
        let containers = &self.worker.shared.containers;
        let lease = self.lease().await?;
        let network = |error: NetworkError| Failure::from_error(resource.clone(), &error);
        let sandbox = match &desired.sandbox {
            Some(id) => containers.networks.sandbox(id).map_err(network)?,
            None => None,
        };
        let (parents, volumes_from) = self.parents(&mut desired, service, &resource).await?;
        let inherits = match replaces {
            Some(id) => containers
                .engine
                .container(id)
                .await
                .map_err(|error| Failure::from_error(resource.clone(), &error))?,
            None => None,
        };
        let creation = Creation {
            project,
            service,
            desired: &desired,
            image: &image,
            sandbox: sandbox.as_ref(),
            parents: &parents,
            volumes_from: &volumes_from,
            inherits: inherits.as_ref(),
            lease,
        };
        let failed = |error: crate::container::ContainerError| Failure {
            hints: error.hints(),
            ..Failure::from_error(resource.clone(), &error)
        };
        let record = containers.create(&creation).await.map_err(failed)?;
        let id = record.id.clone();
        let unit = self.worker.supervise_new(record);
        self.worker
            .shared
            .emit(&id, &desired, ContainerChange::Created, Some(reason), false);
        if let Some(unit) = unit {
            if unit.one_off {
                self.keep_one_off(unit.clone()).await;
            }
            locked(&self.created).insert(desired.name.clone(), unit);
        }
        let status = if replaces.is_some() {
            ProgressStatus::Recreated
        } else {
            ProgressStatus::Created
        };
        self.say(Resource::Container, &desired.name, status);
        Ok(())
    }

    /// The containers whose namespaces a new one shares, by role, and those whose volumes it mounts. Notes which they are.
    pub(super) async fn parents(
        &self,
        desired: &mut Desired,
        service: &Service,
        resource: &str,
    ) -> Result<(BTreeMap<String, ContainerRecord>, Vec<ContainerRecord>), Failure> {
        let mut parents = BTreeMap::new();
        for (role, name) in desired.parents.clone() {
            let record = self.record(&name, resource).await?;
            record_parent(desired, service, &role, &record.id);
            parents.insert(role, record);
        }
        let volumes_from = service.volumes_from.iter().filter_map(|source| {
            let source = source.strip_prefix("container:").unwrap_or(source);
            let name = source.split(':').next().unwrap_or(source);
            parents.remove(&format!("volumes_from.{name}"))
        });
        let volumes_from = volumes_from.collect();
        Ok((parents, volumes_from))
    }

    /// Record of a container named by a parent's name or id.
    pub(super) async fn record(
        &self,
        name: &str,
        resource: &str,
    ) -> Result<ContainerRecord, Failure> {
        let engine = &self.worker.shared.containers.engine;
        let id = self
            .unit(name)
            .map_or_else(|| name.to_owned(), |unit| unit.id);
        let failed = |error| Failure::from_error(resource, &error);
        if let Some(record) = engine.container(&id).await.map_err(failed)? {
            return Ok(record);
        }
        let filter = format!("labels.{:?}=={name:?}", crate::container::label::NAME);
        let found = engine.containers(&[filter]).await.map_err(failed)?;
        found.into_iter().next().ok_or_else(|| {
            Failure::new(
                resource,
                format!("container `{name}`, which it shares with, does not exist"),
            )
        })
    }

    pub(super) async fn update_container(
        &self,
        id: &str,
        desired: &Desired,
    ) -> Result<(), Failure> {
        let resource = format!("container {}", desired.name);
        self.say(Resource::Container, &desired.name, ProgressStatus::Updating);
        let (project, service) = self.service(&desired.service)?;
        let shared = &self.worker.shared;
        let updated = shared
            .containers
            .update(id, project, service, desired)
            .await;
        if !desired.contents.is_empty() {
            let record = self.record(id, &resource).await?;
            let supplied = shared.containers.supply(&record, project);
            supplied.map_err(|error| Failure {
                hints: error.hints(),
                ..Failure::from_error(resource.clone(), &error)
            })?;
        }
        let desired = updated.map_err(|error| Failure {
            hints: error.hints(),
            ..Failure::from_error(resource, &error)
        })?;
        if let Some(unit) = self.worker.unit(id) {
            unit.send(Command::Update {
                desired: Box::new(desired.clone()),
            })
            .await;
            // Who waits for its health next must see that it has one now.
            unit.ask(|reply| Command::Settle { reply }).await.ok();
        }
        self.say(Resource::Container, &desired.name, ProgressStatus::Updated);
        Ok(())
    }

    pub(super) async fn start_container(
        &self,
        id: Option<&str>,
        service: &str,
        name: &str,
        reason: String,
    ) -> Result<(), Failure> {
        let resource = format!("container {name}");
        let unit = self.container(id, name).await?;
        let (ongoing, done) = if self.restarting {
            (ProgressStatus::Restarting, ProgressStatus::Started)
        } else {
            (ProgressStatus::Starting, ProgressStatus::Started)
        };
        self.say(Resource::Container, name, ongoing);
        self.supply(&unit, &resource).await?;
        unit.ask(|reply| Command::Start { reason, reply })
            .await
            .map_err(|error| Failure {
                hints: error.hints(),
                ..Failure::from_error(resource, &error)
            })?;
        tracing::debug!(service, name, "started");
        self.say(Resource::Container, name, done);
        Ok(())
    }

    /// Brings configs and secrets of a container that exists already up to what the project says now.
    pub(super) async fn supply(&self, unit: &UnitHandle, resource: &str) -> Result<(), Failure> {
        let is_new = locked(&self.created).contains_key(&unit.name);
        let Some(project) = self.project.as_ref().filter(|_| !is_new) else {
            return Ok(());
        };
        let record = self.record(&unit.id, resource).await?;
        let supplied = self.worker.shared.containers.supply(&record, project);
        supplied.map_err(|error| Failure {
            hints: error.hints(),
            ..Failure::from_error(resource, &error)
        })
    }

    pub(super) async fn stop_container(
        &self,
        id: &str,
        name: &str,
        timeout: Option<u32>,
        reason: String,
    ) -> Result<(), Failure> {
        let Some(unit) = self.worker.unit(id) else {
            return Ok(());
        };
        let quiet = self.replaced.contains(id) || self.restarting;
        let is_doomed = |sandbox: &String| self.doomed.contains(sandbox);
        let keep_sandbox = quiet || unit.sandbox.as_ref().is_some_and(is_doomed);
        if !quiet {
            self.say(Resource::Container, name, ProgressStatus::Stopping);
        }
        unit.ask(|reply| Command::Stop {
            timeout,
            keep_sandbox,
            reason,
            reply,
        })
        .await
        .map_err(|error| Failure::from_error(format!("container {name}"), &error))?;
        if !quiet {
            self.say(Resource::Container, name, ProgressStatus::Stopped);
        }
        Ok(())
    }

    /// Tells a container that what it mounts has changed; whatever the signal, its end is not what is asked for.
    pub(super) async fn signal_container(
        &self,
        id: &str,
        name: &str,
        signal: &str,
    ) -> Result<(), Failure> {
        let engine = &self.worker.shared.containers.engine;
        engine
            .kill_task(id, parse_signal(signal).unwrap_or_default(), false)
            .await
            .map_err(|error| Failure::from_error(format!("container {name}"), &error))?;
        self.say(Resource::Container, name, ProgressStatus::Signalled);
        Ok(())
    }

    pub(super) async fn kill_container(
        &self,
        id: &str,
        name: &str,
        signal: &str,
    ) -> Result<(), Failure> {
        self.say(Resource::Container, name, ProgressStatus::Killing);
        self.worker
            .kill(id, parse_signal(signal).unwrap_or(9))
            .await
            .map_err(|error| Failure::from_error(format!("container {name}"), &error))?;
        self.say(Resource::Container, name, ProgressStatus::Killed);
        Ok(())
    }

    pub(super) async fn remove_container(
        &self,
        id: &str,
        name: &str,
        volumes: bool,
    ) -> Result<(), Failure> {
        let quiet = self.replaced.contains(id);
        if !quiet {
            self.say(Resource::Container, name, ProgressStatus::Removing);
        }
        self.worker
            .remove(id, volumes)
            .await
            .map_err(|error| Failure::from_error(format!("container {name}"), &error))?;
        if !quiet {
            self.say(Resource::Container, name, ProgressStatus::Removed);
        }
        Ok(())
    }
}
