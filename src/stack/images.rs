//! Images that the containers of a project were made from.

use super::{Stack, StackError};
use crate::image::ImageSummary;

/// The image of one container.
#[derive(Clone, Debug)]
pub struct ContainerImage {
    pub container: String,
    /// Name as containerd records it, as `docker.io/library/busybox:latest`.
    pub reference: String,
    /// Digest of the platform's manifest; empty if another tool made the container.
    pub digest: String,
    /// `None`: nothing of the image is here any more but what the container needs.
    pub image: Option<ImageSummary>,
}

impl Stack {
    /// The images of the containers of `services`, or of all; by the containers' names.
    pub async fn images(&self, services: &[String]) -> Result<Vec<ContainerImage>, StackError> {
        let observed = self.observe().await?;
        let images = &self.containers().await?.images;
        let mut found = Vec::new();
        for container in &observed.containers {
            if !services.is_empty() && !services.contains(&container.service) {
                continue;
            }
            let desired = container.desired.as_ref();
            let digest = desired.map(|desired| desired.image.clone());
            let digest = digest.unwrap_or_default();
            found.push(ContainerImage {
                container: container.name.clone(),
                image: images.summary(&container.image, &digest).await?,
                reference: container.image.clone(),
                digest,
            });
        }
        found.sort_by(|a, b| a.container.cmp(&b.container));
        self.revive(&observed).await;
        Ok(found)
    }
}
