//! Images of a request: pulled, imported, unpacked.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{RequestEffects, locked};
use crate::image::{Image, ImageError, PullPolicy, Tell};
use crate::model::Service;
use crate::reconcile::failure::Failure;
use crate::reconcile::pulls;
use crate::supervisor::protocol::{ProgressStatus, Reply, Resource};

impl RequestEffects {
    pub(super) async fn ensure_image(
        &self,
        service: &str,
        reference: &str,
    ) -> Result<Image, Failure> {
        let (project, definition) = self.service(service)?;
        let lease = self.lease().await?;
        let image = self
            .worker
            .shared
            .containers
            .images
            .ensure(
                reference,
                &project.working_dir,
                project.platform(definition),
                lease,
            )
            .await
            .map_err(|error| {
                let error = with_policy(error, definition);
                pulls::failure(project, service, reference, &error)
            })?;
        let platform = project.platform(definition).map(str::to_owned);
        let key = (reference.to_owned(), platform);
        locked(&self.images).insert(key, image.clone());
        Ok(image)
    }

    pub(super) async fn pull_image(
        &self,
        service: &str,
        reference: &str,
        platform: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let (project, _definition) = self.service(service)?;
        let lease = self.lease().await?;
        let images = &self.worker.shared.containers.images;
        self.say(Resource::Image, reference, ProgressStatus::Pulling);
        let replies = self.replies.clone();
        let quiet = self.quiet_pull;
        let tell: Tell = Arc::new(move |layer| {
            if !quiet {
                replies.send(Reply::Layer(layer)).ok();
            }
        });
        let work = async {
            // Planning has looked it up; it is not asked for twice.
            let remote = images.look_up(&self.registry, reference, platform).await?;
            images
                .pull(&self.registry, reference, &remote, lease, &tell)
                .await
        };
        tokio::select! {
            // What was fetched stays for the next attempt.
            pulled = work => {
                pulled.map_err(|error| pulls::failure(project, service, reference, &error))?;
            }
            () = cancel.cancelled() => {
                return Err(Failure::new(format!("image {reference}"), "interrupted"));
            }
        }
        self.say(Resource::Image, reference, ProgressStatus::Pulled);
        Ok(())
    }

    pub(super) async fn image(&self, service: &str, reference: &str) -> Result<Image, Failure> {
        let (project, definition) = self.service(service)?;
        let platform = project.platform(definition).map(str::to_owned);
        let known = locked(&self.images)
            .get(&(reference.to_owned(), platform))
            .cloned();
        match known {
            Some(image) => Ok(image),
            None => self.ensure_image(service, reference).await,
        }
    }
}

/// Says that it is the policy that keeps an image away.
fn with_policy(error: ImageError, service: &Service) -> ImageError {
    let policy = service.pull_policy.as_deref().unwrap_or_default();
    match error {
        ImageError::Missing { reference } if PullPolicy::parse(policy) == Ok(PullPolicy::Never) => {
            ImageError::NotPulled {
                reference,
                policy: policy.into(),
            }
        }
        error => error,
    }
}
