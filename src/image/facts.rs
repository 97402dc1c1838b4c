//! What an image record amounts to on a platform, read from the content store once and kept on disk.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::choice::{Stored, choose, read_image};
use super::config::{Document, Manifest, digest_hex};
use super::platform::Wanted;
use super::{Image, ImageError, Images};
use crate::engine::{Descriptor, ImageRecord};
use crate::state::{StateError, StateRoot, Versioned, create_private_dir, read_json, write_json};

/// The file beside the image's digest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Facts {
    image: Image,
}

impl Versioned for Facts {
    const FORMAT: u64 = 1;
}

impl Images {
    /// The image that `record` is on the wanted platform; `None` if a part of it is not in the content store.
    pub(super) async fn describe(
        &self,
        reference: &str,
        record: &ImageRecord,
        wanted: &Wanted,
    ) -> Result<Option<Image>, ImageError> {
        let path = facts_path(&self.state, &record.target.digest, wanted);
        if let Some(facts) = path.as_ref().and_then(|path| read_cache::<Facts>(path)) {
            return Ok(Some(Image {
                reference: record.name.clone(),
                ..facts.image
            }));
        }
        let Some(image) = self.examine(reference, record, wanted).await? else {
            return Ok(None);
        };
        if let Some(path) = path {
            let facts = Facts {
                image: image.clone(),
            };
            write_cache(&path, &facts);
        }
        Ok(Some(image))
    }

    async fn examine(
        &self,
        reference: &str,
        record: &ImageRecord,
        wanted: &Wanted,
    ) -> Result<Option<Image>, ImageError> {
        let documents = Stored {
            engine: &self.engine,
            reference,
        };
        let Some(chosen) = choose(&documents, reference, &record.target, wanted).await? else {
            return Ok(None);
        };
        let image = chosen.image(&record.name);
        let layers = &chosen.manifest.layers;
        // Some tools drop layers that are unpacked already.
        if image.chain_id.is_empty() || self.engine.snapshot_exists(&image.chain_id).await? {
            return Ok(Some(image));
        }
        for layer in layers {
            if self.engine.content_size(&layer.digest).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(image))
    }

    /// A manifest and its configuration.
    pub(super) async fn read_manifest(
        &self,
        reference: &str,
        digest: &str,
    ) -> Result<Option<(Manifest, Document)>, ImageError> {
        let documents = Stored {
            engine: &self.engine,
            reference,
        };
        let manifest = Descriptor {
            digest: digest.into(),
            ..Descriptor::default()
        };
        read_image(&documents, reference, &manifest).await
    }

    /// Has the next look read the content store again.
    pub(super) fn forget(&self, target: &str) {
        let Some(prefix) = digest_hex(target) else {
            return;
        };
        let entries = std::fs::read_dir(self.state.images());
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                remove_cache(&entry.path());
            }
        }
    }
}

fn facts_path(state: &StateRoot, digest: &str, wanted: &Wanted) -> Option<PathBuf> {
    let platform = wanted.name.replace('/', "-");
    let exact = if wanted.explicit { "=" } else { "" };
    let name = format!("{}{exact}.{platform}.json", digest_hex(digest)?);
    Some(state.images().join(name))
}

/// Reads what can be had anew: whatever is wrong with the file, it counts as absent.
pub(super) fn read_cache<T: Versioned + DeserializeOwned>(path: &std::path::Path) -> Option<T> {
    match read_json(path) {
        Ok(value) => value,
        Err(error) => {
            tracing::debug!(%error, "a cache file is passed over");
            None
        }
    }
}

/// A cache that cannot be written only costs time. A file of a newer version is left alone.
pub(super) fn write_cache<T: Versioned + Serialize + DeserializeOwned>(
    path: &std::path::Path,
    value: &T,
) {
    if matches!(read_json::<T>(path), Err(StateError::Newer { .. })) {
        return;
    }
    let folder = path.parent().unwrap_or(path);
    if let Err(error) = create_private_dir(folder).and_then(|()| write_json(path, value)) {
        tracing::warn!(%error, "a cache file cannot be written");
    }
}

fn remove_cache(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, "a cache file stays");
    }
}
