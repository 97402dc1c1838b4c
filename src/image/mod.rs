//! Images: references, containerd's image store, archives, unpacking, image configuration.

mod archive;
mod choice;
mod commit;
mod config;
mod error;
mod facts;
mod gate;
mod import;
mod layer;
mod name;
mod platform;
mod policy;
mod pull;
mod push;
mod reference;
mod registry;
mod remote;
mod summary;
mod text_file;
mod unpack;

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::engine::Engine;
use crate::state::StateRoot;

use gate::Gates;
use platform::Wanted;
use reference::Source;

pub use commit::NewImage;
pub use error::ImageError;
pub use layer::{LayerPhase, LayerProgress, Tell};
pub use policy::{Cause, InvalidPolicy, PullPolicy};
pub use registry::{Registry, RegistryError, RegistrySettings};
pub use remote::{Remote, is_latest};
pub use summary::{ImageSummary, familiar};

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
    /// When it was made, as RFC 3339.
    pub created: Option<String>,
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

/// The images of one containerd namespace.
#[derive(Clone, Debug)]
pub struct Images {
    engine: Engine,
    state: StateRoot,
    gates: Gates,
    /// Layers that are fetched at the same time.
    fetches: Arc<Semaphore>,
}

impl Images {
    pub fn new(engine: Engine, state: StateRoot) -> Self {
        Self {
            engine,
            state,
            gates: Gates::default(),
            fetches: Arc::new(Semaphore::new(pull::FETCHES)),
        }
    }

    /// Whether `reference` names a file rather than what a registry has.
    pub fn is_archive(reference: &str) -> bool {
        reference.starts_with(reference::ARCHIVE_PREFIX)
    }

    /// Looks `reference` up without changing anything; `None` if it is not there (for an archive: not imported yet
    /// or changed since). `oci-archive:PATH` is relative to `directory`. Cached by digest, a repeated call costs one
    /// read of the image record (archive: and one `stat`).
    pub async fn find(
        &self,
        reference: &str,
        directory: &Path,
        platform: Option<&str>,
    ) -> Result<Option<Image>, ImageError> {
        let wanted = Wanted::parse(reference, platform)?;
        let record = match Source::parse(reference, directory)? {
            Source::Names(names) => {
                let mut found = None;
                for name in names {
                    found = self.engine.image(&name.record).await?;
                    // A tag beside a digest counts only while it points to that digest.
                    found = found.filter(|record| name.allows(&record.target.digest));
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
            Source::Archive(archive) => match import::imported(&self.state, &archive) {
                Some(known) => {
                    let record = self.engine.image(&known.reference).await?;
                    record.filter(|record| record.target.digest == known.digest)
                }
                None => None,
            },
        };
        match record {
            Some(record) => Box::pin(self.describe(reference, &record, &wanted)).await,
            None => Ok(None),
        }
    }

    /// Imports an archive where needed, and unpacks the layers into the snapshotter.
    pub async fn ensure(
        &self,
        reference: &str,
        directory: &Path,
        platform: Option<&str>,
        lease: &str,
    ) -> Result<Image, ImageError> {
        let mut image = self.find(reference, directory, platform).await?;
        if image.is_none()
            && let Source::Archive(archive) = Source::parse(reference, directory)?
        {
            let _gate = self.gates.enter(&archive.path.to_string_lossy()).await;
            // Another service of the same image may have been first.
            image = self.find(reference, directory, platform).await?;
            if image.is_none() {
                Box::pin(self.import(&archive, lease)).await?;
                image = self.find(reference, directory, platform).await?;
            }
        }
        let missing = || ImageError::Missing {
            reference: reference.into(),
        };
        let image = image.ok_or_else(missing)?;
        Box::pin(self.unpack(reference, &image, lease, &|_layer, _done| {})).await?;
        Ok(image)
    }
}
