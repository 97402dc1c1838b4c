//! A container's root file system as an archive or as an image.

use std::io::Write;
use std::path::Path;

use super::ps::is_plumbing;
use super::{Stack, StackError};
use crate::container::{CommitOptions, pack};
use crate::reconcile::observe::{Observed, ObservedContainer};

impl Stack {
    /// Writes a container's root file system to `output` as a tar archive, without volumes and mounts. `index`: number of the
    /// replica; 0: the first. Returns the container's name.
    pub async fn export(
        &self,
        service: &str,
        index: u32,
        mut output: impl Write + Send + 'static,
    ) -> Result<String, StackError> {
        let observed = self.observe().await?;
        let container = one_container(&observed, service, index)?;
        let files = self
            .containers()
            .await?
            .bare_file_system(&container.id)
            .await?;
        let work = move || {
            let (top, name) = (Path::new("/"), Path::new("."));
            pack(&files, top, name, &mut output)?;
            output.flush()
        };
        let packed = tokio::task::spawn_blocking(work).await;
        packed
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|source| StackError::Io {
                operation: format!("export {}", container.name),
                source,
            })?;
        self.revive(&observed).await;
        Ok(container.name.clone())
    }

    /// Makes an image of a container; returns the container's name and the image's id. `index` as for [`Stack::export`].
    pub async fn commit(
        &self,
        service: &str,
        index: u32,
        options: CommitOptions,
    ) -> Result<(String, String), StackError> {
        let observed = self.observe().await?;
        let container = one_container(&observed, service, index)?;
        let labels = container.labels.clone().into_iter();
        let options = CommitOptions {
            labels: labels.filter(|(name, _)| !is_plumbing(name)).collect(),
            ..options
        };
        let containers = self.containers().await?;
        let id = containers.commit(&container.id, &options).await?;
        self.revive(&observed).await;
        Ok((container.name.clone(), id))
    }
}

/// The container that is meant, whether it runs or not.
fn one_container<'a>(
    observed: &'a Observed,
    service: &str,
    index: u32,
) -> Result<&'a ObservedContainer, StackError> {
    let candidates = observed
        .containers
        .iter()
        .filter(|container| container.service == service && !container.one_off)
        .filter(|container| index == 0 || container.number == index);
    candidates
        .min_by_key(|container| container.number)
        .ok_or_else(|| StackError::NotRunning {
            service: service.into(),
            index,
        })
}
