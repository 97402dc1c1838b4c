//! What may change of a container while it runs: limits, labels, restart policy, probe, grace period.

use std::collections::BTreeMap;

use serde_json::Value;

use super::provision::Provision;
use super::{ContainerError, Containers, Creation, DESIRED_EXTENSION, Desired, attributes, labels};
use crate::engine::TaskStatus;
use crate::engine::spec::Host;
use crate::model::{Project, Service};

impl Containers {
    /// Makes the record of container `id` say `desired`, and its running processes obey the new limits. Returns what it is
    /// made from now: what `desired` leaves to the image and to the first creation stays as it was.
    pub async fn update(
        &self,
        id: &str,
        project: &Project,
        service: &Service,
        desired: &Desired,
    ) -> Result<Desired, ContainerError> {
        let missing = || ContainerError::invalid("container", id, "it does not exist");
        let mut record = self.engine.container(id).await?.ok_or_else(missing)?;
        let old: Desired = record
            .extensions
            .get(DESIRED_EXTENSION)
            .and_then(|json| serde_json::from_slice(json).ok())
            .unwrap_or_default();
        let directory = &project.working_dir;
        let platform = service.platform.as_deref();
        let image = self
            .images
            .find(&record.image, directory, platform)
            .await?
            .unwrap_or_default();
        let desired = Desired {
            anonymous_volumes: old.anonymous_volumes,
            image: old.image,
            ..desired.clone()
        };
        let (_, rules) = attributes::devices(service)?;
        let resources = attributes::resources(service, rules)?;
        resources.check(Host::get())?;
        let resources = resources.to_json(Host::get());
        let provision = Provision::of(&record)?.unwrap_or_default();
        let creation = Creation {
            project,
            service,
            desired: &desired,
            image: &image,
            sandbox: None,
            parents: &BTreeMap::new(),
            volumes_from: &[],
            inherits: None,
            lease: "",
        };
        let networks = record.labels.remove(labels::NERDCTL_NETWORKS);
        record.labels = labels::labels(
            &creation,
            &self.state,
            self.engine.options(),
            id,
            &provision.names,
            &provision.mounts,
        );
        // Its sandbox is not looked up for this; it stays as it is.
        record
            .labels
            .extend(networks.map(|networks| (labels::NERDCTL_NETWORKS.to_owned(), networks)));
        let mut spec: Value = serde_json::from_slice(&record.spec).unwrap_or_default();
        if let Some(limits) = spec.pointer_mut("/linux/resources") {
            *limits = resources.clone();
        }
        record.spec = spec.to_string().into_bytes();
        record
            .extensions
            .insert(DESIRED_EXTENSION.into(), super::json(&desired));
        self.engine.update_container(&record).await?;
        let task = self.engine.task(id).await?;
        if task.is_some_and(|task| matches!(task.status, TaskStatus::Running | TaskStatus::Paused))
        {
            self.engine
                .update_task(id, resources.to_string().as_bytes())
                .await?;
        }
        Ok(desired)
    }
}
