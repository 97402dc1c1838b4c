//! Which of the manifests that an image offers is the one for a platform.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;

use super::config::{DOCUMENT_LIMIT, Document, INDEX_TYPES, Index, Manifest, chain_ids};
use super::platform::{Platform, Wanted};
use super::{Image, ImageError};
use crate::engine::{Descriptor, Engine};

/// Indexes may be nested; a loop must end.
const MOST_DOCUMENTS: usize = 256;

/// Where the documents of an image are read from.
pub(super) trait Documents: Sync {
    /// An index or a manifest; `None` if it is not there.
    fn manifest(
        &self,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, ImageError>> + Send;

    /// A configuration; `None` if it is not there.
    fn configuration(
        &self,
        descriptor: &Descriptor,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, ImageError>> + Send;
}

/// Documents in containerd's content store.
pub(super) struct Stored<'a> {
    pub(super) engine: &'a Engine,
    pub(super) reference: &'a str,
}

impl Documents for Stored<'_> {
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        let digest = &descriptor.digest;
        tracing::trace!(image = self.reference, digest, "reading");
        Ok(self.engine.read_content(digest, 0, DOCUMENT_LIMIT).await?)
    }

    async fn configuration(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        self.manifest(descriptor).await
    }
}

/// A manifest that an image offers.
struct Candidate {
    manifest: Descriptor,
    /// `None`: only the configuration tells.
    platform: Option<Platform>,
}

/// The variant of an image for a platform.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Of the manifest.
    pub(super) target: Descriptor,
    pub(super) manifest: Manifest,
    pub(super) document: Document,
}

impl Chosen {
    /// `name`: that of the record in containerd.
    pub(super) fn image(&self, name: &str) -> Image {
        let chain = chain_ids(self.document.diff_ids());
        Image {
            reference: name.into(),
            digest: self.target.digest.clone(),
            id: self.manifest.config.digest.clone(),
            chain_id: chain.last().cloned().unwrap_or_default(),
            platform: self.document.platform.to_string(),
            size: self.manifest.layers.iter().map(|layer| layer.size).sum(),
            created: self.document.created.clone(),
            config: self.document.image_config(),
        }
    }
}

/// The best variant of the image at `target`; `None` if a document that it takes is not there.
pub(super) async fn choose<D: Documents>(
    documents: &D,
    reference: &str,
    target: &Descriptor,
    wanted: &Wanted,
) -> Result<Option<Chosen>, ImageError> {
    let Some(candidates) = candidates(documents, reference, target).await? else {
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
            None => match read_image(documents, reference, &candidate.manifest).await {
                Ok(Some((_manifest, document))) => document.platform,
                Ok(None) => continue,
                // Beside images an index may list what belongs to them.
                Err(ImageError::NotAnImage { .. }) if !only => continue,
                Err(error) => return Err(error),
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
    let Some((manifest, document)) = read_image(documents, reference, &target).await? else {
        return Ok(None);
    };
    if manifest.layers.len() != document.diff_ids().len() {
        return Err(damaged(
            reference,
            "manifest and configuration differ in the number of layers",
        ));
    }
    Ok(Some(Chosen {
        target,
        manifest,
        document,
    }))
}

/// All manifests below `target`, nested indexes opened; `None` if the target itself is not there.
async fn candidates<D: Documents>(
    documents: &D,
    reference: &str,
    target: &Descriptor,
) -> Result<Option<Vec<Candidate>>, ImageError> {
    let mut candidates = Vec::new();
    let mut queue = VecDeque::from([target.clone()]);
    let mut read = 0;
    while let Some(descriptor) = queue.pop_front() {
        if !is_index(&descriptor) {
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
        let Some(bytes) = documents.manifest(&descriptor).await? else {
            if read == 1 {
                return Ok(None);
            }
            continue;
        };
        let index: Index = parse(reference, &bytes)?;
        for entry in index.manifests {
            let child = entry.descriptor();
            if is_index(&child) {
                queue.push_back(child);
            } else {
                candidates.push(Candidate {
                    manifest: child,
                    platform: entry.platform,
                });
            }
        }
    }
    Ok(Some(candidates))
}

/// A manifest and its configuration.
pub(super) async fn read_image<D: Documents>(
    documents: &D,
    reference: &str,
    manifest: &Descriptor,
) -> Result<Option<(Manifest, Document)>, ImageError> {
    let Some(bytes) = documents.manifest(manifest).await? else {
        return Ok(None);
    };
    let manifest: Manifest = parse(reference, &bytes)?;
    if let Some(kind) = manifest.other_kind() {
        return Err(ImageError::NotAnImage {
            reference: reference.into(),
            kind: kind.into(),
        });
    }
    let Some(bytes) = documents.configuration(&manifest.config).await? else {
        return Ok(None);
    };
    Ok(Some((manifest, parse(reference, &bytes)?)))
}

pub(super) fn is_index(descriptor: &Descriptor) -> bool {
    INDEX_TYPES.contains(&descriptor.media_type.as_str())
}

pub(super) fn parse<T: DeserializeOwned>(reference: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Damaged {
        reference: reference.into(),
        source: Box::new(error),
    })
}

pub(super) fn damaged(reference: &str, what: &str) -> ImageError {
    ImageError::Damaged {
        reference: reference.into(),
        source: what.into(),
    }
}
