//! What an image record amounts to on a platform, read from the content store once and kept on disk.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::{
    DOCUMENT_LIMIT, Document, INDEX_TYPES, Index, Manifest, chain_ids, digest_hex,
};
use super::platform::{Platform, Wanted};
use super::{Image, ImageError, Images};
use crate::engine::{Descriptor, ImageRecord};
use crate::state::{StateError, StateRoot, Versioned, create_private_dir, read_json, write_json};

/// Indexes may be nested; a loop must end.
const MOST_DOCUMENTS: usize = 256;

/// The file beside the image's digest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Facts {
    image: Image,
}

impl Versioned for Facts {
    const FORMAT: u64 = 1;
}

/// A manifest that an image offers.
struct Candidate {
    manifest: Descriptor,
    /// `None`: only the configuration tells.
    platform: Option<Platform>,
}

/// What is known of a manifest with its configuration.
struct Described {
    manifest: Manifest,
    document: Document,
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
        let Some(candidates) = self.candidates(reference, &record.target).await? else {
            return Ok(None);
        };
        let only = candidates.len() == 1;
        let mut best: Option<(usize, Descriptor)> = None;
        for candidate in candidates {
            let platform = match candidate.platform {
                Some(platform) => platform,
                // An image of one variant is taken as it is unless a platform is asked for.
                None if only && !wanted.explicit => {
                    best = Some((0, candidate.manifest));
                    break;
                }
                None => match self.read_image(reference, &candidate.manifest).await? {
                    Some(described) => described.document.platform,
                    None => continue,
                },
            };
            if let Some(rank) = wanted.rank(&platform)
                && best.as_ref().is_none_or(|(least, _)| rank < *least)
            {
                best = Some((rank, candidate.manifest));
            }
        }
        let (_rank, target) = best.ok_or_else(|| ImageError::NoPlatform {
            reference: reference.into(),
            platform: wanted.name.clone(),
        })?;
        let Some(described) = self.read_image(reference, &target).await? else {
            return Ok(None);
        };
        let layers = &described.manifest.layers;
        if layers.len() != described.document.diff_ids().len() {
            return Err(damaged(
                reference,
                "manifest and configuration differ in the number of layers",
            ));
        }
        let chain = chain_ids(described.document.diff_ids());
        let image = Image {
            reference: record.name.clone(),
            digest: target.digest,
            id: described.manifest.config.digest.clone(),
            chain_id: chain.last().cloned().unwrap_or_default(),
            platform: described.document.platform.to_string(),
            size: layers.iter().map(|layer| layer.size).sum(),
            config: described.document.image_config(),
        };
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

    /// All manifests below `target`, nested indexes opened; `None` if the target itself is not there.
    async fn candidates(
        &self,
        reference: &str,
        target: &Descriptor,
    ) -> Result<Option<Vec<Candidate>>, ImageError> {
        let mut candidates = Vec::new();
        let mut queue = VecDeque::from([target.clone()]);
        let mut read = 0;
        while let Some(descriptor) = queue.pop_front() {
            if !INDEX_TYPES.contains(&descriptor.media_type.as_str()) {
                candidates.push(Candidate {
                    manifest: descriptor,
                    platform: None,
                });
                continue;
            }
            read += 1;
            if read > MOST_DOCUMENTS {
                return Err(damaged(reference, "its indexes are nested without end"));
            }
            let Some(index) = self
                .read_document::<Index>(reference, &descriptor.digest)
                .await?
            else {
                if read == 1 {
                    return Ok(None);
                }
                continue;
            };
            for entry in index.manifests {
                if INDEX_TYPES.contains(&entry.media_type.as_str()) {
                    queue.push_back(entry.descriptor());
                } else {
                    candidates.push(Candidate {
                        manifest: entry.descriptor(),
                        platform: entry.platform,
                    });
                }
            }
        }
        Ok(Some(candidates))
    }

    async fn read_image(
        &self,
        reference: &str,
        manifest: &Descriptor,
    ) -> Result<Option<Described>, ImageError> {
        let Some((manifest, document)) = self.read_manifest(reference, &manifest.digest).await?
        else {
            return Ok(None);
        };
        Ok(Some(Described { manifest, document }))
    }

    /// A manifest and its configuration.
    pub(super) async fn read_manifest(
        &self,
        reference: &str,
        digest: &str,
    ) -> Result<Option<(Manifest, Document)>, ImageError> {
        let Some(manifest) = self.read_document::<Manifest>(reference, digest).await? else {
            return Ok(None);
        };
        let document = self
            .read_document::<Document>(reference, &manifest.config.digest)
            .await?;
        Ok(document.map(|document| (manifest, document)))
    }

    async fn read_document<T: DeserializeOwned>(
        &self,
        reference: &str,
        digest: &str,
    ) -> Result<Option<T>, ImageError> {
        let bytes = self.engine.read_content(digest, 0, DOCUMENT_LIMIT).await?;
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|error| ImageError::Damaged {
                reference: reference.into(),
                source: Box::new(error),
            })
        };
        bytes.map(parse).transpose()
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

pub(super) fn damaged(reference: &str, what: &str) -> ImageError {
    ImageError::Damaged {
        reference: reference.into(),
        source: what.into(),
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
