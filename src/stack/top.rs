//! The processes of a project's containers.

use super::{Stack, StackError};
use crate::container::ContainerProcess;
use crate::reconcile::observe::Status;

/// The processes of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerProcesses {
    pub service: String,
    pub number: u32,
    pub processes: Vec<ContainerProcess>,
}

impl Stack {
    /// Processes of the running containers of `services`, of all if it is empty.
    pub async fn top(&self, services: &[String]) -> Result<Vec<ContainerProcesses>, StackError> {
        let observed = self.observe().await?;
        let containers = self.containers().await?;
        let mut found = Vec::new();
        for container in self.selected(&observed, services) {
            if !matches!(container.status, Status::Running | Status::Paused) {
                continue;
            }
            found.push(ContainerProcesses {
                service: container.service.clone(),
                number: container.number,
                processes: containers.processes(&container.id).await?,
            });
        }
        self.revive(&observed).await;
        Ok(found)
    }
}
