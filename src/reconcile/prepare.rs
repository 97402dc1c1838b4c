//! Gathers what planning needs to know beside the project: which images are here, what configs and secrets contain.

use indexmap::IndexMap;
use thiserror::Error;

use super::contents::{ContentsError, contents};
use super::desired::{DesiredState, Facts, desired, image_reference};
use crate::image::{Image, ImageError, Images};
use crate::model::{Project, config_hash};

/// What a project wants could not be worked out.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Works out what `project` wants on this host. Changes nothing: an image that is not here yet stays unknown.
pub async fn prepare(images: &Images, project: &Project) -> Result<DesiredState, PrepareError> {
    let contents = contents(project)?;
    let mut found: IndexMap<(String, Option<&str>), Option<Image>> = IndexMap::new();
    let mut by_service = IndexMap::new();
    for service in project
        .services
        .values()
        .filter(|service| service.provider.is_none())
    {
        let key = (
            image_reference(project, service),
            service.platform.as_deref(),
        );
        if !found.contains_key(&key) {
            let image = images.find(&key.0, &project.working_dir, key.1).await?;
            found.insert(key.clone(), image);
        }
        by_service.insert(service.name.clone(), found[&key].clone());
    }
    let facts = Facts {
        images: &by_service,
        contents: &contents,
        config_hash,
    };
    Ok(desired(project, &facts))
}
