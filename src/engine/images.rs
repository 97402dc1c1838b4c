//! Image records: names of blobs.

use std::collections::BTreeMap;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use prost_types::FieldMask;
use tonic::Code;

use super::connect::{Api, MESSAGE_LIMIT};
use super::{Descriptor, Engine, EngineError};

/// A name in containerd's image store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRecord {
    /// As `docker.io/library/busybox:latest`.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// An index or a manifest.
    pub target: Descriptor,
}

impl Engine {
    fn images_client(&self) -> ImagesClient<Api> {
        ImagesClient::new(self.api()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub async fn image(&self, name: &str) -> Result<Option<ImageRecord>, EngineError> {
        let request = GetImageRequest { name: name.into() };
        match self.images_client().get(request).await {
            Ok(answer) => Ok(answer.into_inner().image.map(from_message)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("look up image `{name}`"), &status)),
        }
    }

    /// Records that match one of `filters`, as `labels."a"==b`; all if empty.
    pub async fn images(&self, filters: &[String]) -> Result<Vec<ImageRecord>, EngineError> {
        let request = ListImagesRequest {
            filters: filters.to_vec(),
        };
        let answer = self
            .images_client()
            .list(request)
            .await
            .map_err(|status| self.failed("list images", &status))?;
        let images = answer.into_inner().images;
        Ok(images.into_iter().map(from_message).collect())
    }

    /// Makes the record, or points the one that is there to the new target.
    pub async fn put_image(&self, record: &ImageRecord) -> Result<(), EngineError> {
        let image = Image {
            name: record.name.clone(),
            labels: super::to_map(&record.labels),
            target: Some((&record.target).into()),
            ..Image::default()
        };
        let failed = |status| self.failed(&format!("record image `{}`", record.name), &status);
        let request = CreateImageRequest {
            image: Some(image.clone()),
            ..CreateImageRequest::default()
        };
        match self.images_client().create(request).await {
            Ok(_image) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(failed(status)),
        }
        let labels = record.labels.keys().map(|name| format!("labels.{name}"));
        let paths = std::iter::once("target".to_owned()).chain(labels).collect();
        let request = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths }),
            ..UpdateImageRequest::default()
        };
        self.images_client().update(request).await.map_err(failed)?;
        Ok(())
    }

    /// Not an error if it is gone. The blobs go with the next collection of garbage.
    pub async fn delete_image(&self, name: &str) -> Result<(), EngineError> {
        let request = DeleteImageRequest {
            name: name.into(),
            ..DeleteImageRequest::default()
        };
        match self.images_client().delete(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(self.failed(&format!("delete image `{name}`"), &status)),
        }
    }
}

fn from_message(message: Image) -> ImageRecord {
    ImageRecord {
        name: message.name,
        labels: message.labels.into_iter().collect(),
        target: message.target.unwrap_or_default().into(),
    }
}
