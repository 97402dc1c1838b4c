//! Images: references, containerd's image store, archives, unpacking, image configuration.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::{Engine, EngineError};
use crate::state::StateRoot;

/// An image for one platform, present in containerd's content store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Name of the record in containerd, as `docker.io/library/busybox:latest`.
    pub reference: String,
    /// Digest of the platform's manifest.
    pub digest: String,
    /// Digest of the image configuration: Docker's image id.
    pub id: String,
    /// Chain id of the top layer: parent of the container's snapshot.
    pub chain_id: String,
    /// As `linux/amd64`.
    pub platform: String,
    /// Bytes of all layers, compressed.
    pub size: u64,
    pub config: ImageConfig,
}

/// What an image says of the processes that run from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    pub user: String,
    pub working_dir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: IndexMap<String, String>,
    pub stop_signal: Option<String>,
    pub healthcheck: Option<crate::model::Healthcheck>,
}

/// An image could not be had.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("`{reference}` is not an image reference")]
    InvalidReference {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("image `{reference}` is not in containerd's store")]
    Missing { reference: String },
    #[error("image `{reference}` has no variant for {platform}")]
    NoPlatform { reference: String, platform: String },
    #[error("cannot import {}", path.display())]
    Archive {
        path: std::path::PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("image `{reference}` is damaged")]
    Damaged {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The images of one containerd namespace.
#[derive(Clone, Debug)]
pub struct Images {
    engine: Engine,
    state: StateRoot,
}

impl Images {
    pub fn new(engine: Engine, state: StateRoot) -> Self {
        Self { engine, state }
    }

    /// Looks `reference` up without changing anything; `None` if it is not there (for an archive: not imported yet
    /// or changed since). `oci-archive:PATH` is relative to `directory`. Cached by digest, a repeated call costs one
    /// read of the image record (archive: one `stat`).
    pub async fn find(
        &self,
        _reference: &str,
        _directory: &Path,
        _platform: Option<&str>,
    ) -> Result<Option<Image>, ImageError> {
        let _ = (&self.engine, &self.state);
        todo!()
    }

    /// Imports an archive where needed, and unpacks the layers into the snapshotter.
    pub async fn ensure(
        &self,
        _reference: &str,
        _directory: &Path,
        _platform: Option<&str>,
        _lease: &str,
    ) -> Result<Image, ImageError> {
        todo!()
    }

    /// Content of a small text file of the image (`/etc/passwd`, `/etc/group`), links followed inside the image only;
    /// `None` if there is none. Cached on disk by chain id.
    pub async fn text_file(
        &self,
        _image: &Image,
        _path: &str,
    ) -> Result<Option<String>, ImageError> {
        todo!()
    }
}
