//! The named volumes of a project.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Stack, StackError};
use crate::container::label;

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSummary {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    /// Folder of its data on the host.
    pub mountpoint: PathBuf,
}

impl Stack {
    /// Volumes that were made for the project, by name; with `services` those that one of their containers mounts.
    pub async fn volumes(&self, services: &[String]) -> Result<Vec<VolumeSummary>, StackError> {
        let observed = self.observe().await?;
        let is_used = |name: &String| {
            services.is_empty()
                || observed.containers.iter().any(|container| {
                    services.contains(&container.service)
                        && container
                            .desired
                            .as_ref()
                            .is_some_and(|desired| desired.volumes.contains_key(name))
                })
        };
        let volumes = observed.volumes.iter().filter(|volume| {
            let owner = volume.labels.get(label::PROJECT);
            !volume.anonymous && owner.is_some_and(|owner| owner == self.name())
        });
        let state = &self.options.state;
        let summaries = volumes
            .filter(|volume| is_used(&volume.name))
            .map(|volume| VolumeSummary {
                name: volume.name.clone(),
                driver: volume.driver.clone(),
                labels: volume.labels.clone(),
                mountpoint: state.volume_data(&volume.name),
            });
        Ok(summaries.collect())
    }
}
