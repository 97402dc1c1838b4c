//! What an image is in its registry, found out without changing anything.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::choice::{Chosen, Documents, choose, damaged, parse};
use super::config::{DOCUMENT_LIMIT, INDEX_TYPES, Manifest, digest_of, nullable};
use super::name::Reference;
use super::platform::Wanted;
use super::reference::parse_reference;
use super::registry::{BlobReader, Registry, RegistryError};
use super::{Image, ImageError, Images};
use crate::engine::Descriptor;

/// Beginnings of the media types of layers that containerd unpacks.
const LAYER_KINDS: [&str; 2] = [
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
];
const LAYER_ENDINGS: [&str; 6] = [".tar", ".tar.gzip", ".tar.zstd", "+gzip", "+zstd", ".diff"];
/// Of a manifest that nobody can run any more.
const FIRST_FORMAT: &str = "application/vnd.docker.distribution.manifest.v1+";

/// An image as its registry has it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// For the platform that was asked for.
    pub image: Image,
    /// Digest of what the tag points to: that of an index where there is one.
    pub target: String,
    pub(super) name: Reference,
    /// What is not here yet; `None`: all is.
    pub(super) fetched: Option<Fetched>,
}

impl Remote {
    /// Whether it is on this host already.
    pub fn is_here(&self) -> bool {
        self.fetched.is_none()
    }
}

/// Documents that were read to find out what the image is.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) target: Descriptor,
    pub(super) chosen: Chosen,
    pub(super) documents: Vec<(Descriptor, Arc<[u8]>)>,
}

/// Documents in a registry.
struct Distant<'a> {
    registry: &'a Arc<Registry>,
    name: &'a Reference,
    reference: &'a str,
    read: Mutex<Vec<(Descriptor, Arc<[u8]>)>>,
}

impl Distant<'_> {
    fn keep(&self, descriptor: Descriptor, bytes: Arc<[u8]>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.push((descriptor, bytes));
    }

    fn kept(&self, digest: &str) -> Option<Vec<u8>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let found = read.iter().find(|(known, _)| known.digest == digest);
        found.map(|(_, bytes)| bytes.to_vec())
    }

    fn failed(&self, source: RegistryError) -> ImageError {
        ImageError::Pull {
            reference: self.reference.into(),
            source,
        }
    }
}

impl Documents for Distant<'_> {
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        if let Some(bytes) = self.kept(&descriptor.digest) {
            return Ok(Some(bytes));
        }
        let read = self.registry.document(self.name, &descriptor.digest).await;
        let (found, bytes) = match read {
            Ok(found) => found,
            // An index may list what was not pushed.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let descriptor = Descriptor {
            media_type: descriptor.media_type.clone(),
            ..found
        };
        self.keep(descriptor, Arc::clone(&bytes));
        Ok(Some(bytes.to_vec()))
    }

    async fn configuration(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        if let Some(bytes) = self.kept(&descriptor.digest) {
            return Ok(Some(bytes));
        }
        let size = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
        if size > DOCUMENT_LIMIT {
            return Err(damaged(
                self.reference,
                "its configuration is too large for one",
            ));
        }
        let registry = Arc::clone(self.registry);
        let mut reader = BlobReader::new(registry, self.name.clone(), descriptor, Vec::new(), 0);
        let mut bytes = Vec::with_capacity(size);
        while let Some(part) = reader.next().await.map_err(|error| self.failed(error))? {
            bytes.extend_from_slice(&part);
        }
        if descriptor.digest.starts_with("sha256:") && digest_of(&bytes) != descriptor.digest {
            return Err(self.failed(reader.distrust().await));
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.keep(descriptor.clone(), Arc::clone(&bytes));
        Ok(Some(bytes.to_vec()))
    }
}

/// Only what tells the kind of a document.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Kind {
    schema_version: u64,
    media_type: String,
    #[serde(deserialize_with = "nullable")]
    manifests: Vec<serde::de::IgnoredAny>,
}
/// Whether a reference means the tag `latest`, which is expected to move.
pub fn is_latest(reference: &str) -> bool {
    parse_reference(reference)
        .is_ok_and(|name| name.tag.as_deref() == Some("latest") && name.digest.is_none())
}

impl Images {
    /// `reference` with the digest of what it points to in its registry, as `docker.io/library/a:1@sha256:…`; that of the
    /// index where there is one. One that has a digest is not looked up.
    pub async fn pinned(registry: &Registry, reference: &str) -> Result<String, ImageError> {
        let mut name = parse_reference(reference)?;
        if name.digest.is_none() {
            let resolved = registry.resolve(&name).await;
            let descriptor = resolved.map_err(|source| ImageError::Pull {
                reference: reference.into(),
                source,
            })?;
            name.digest = Some(descriptor.digest);
        }
        Ok(name.whole())
    }

    /// Looks up what `reference` is in its registry, without changing anything. What is here already is not read again.
    pub async fn look_up(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        platform: Option<&str>,
    ) -> Result<Arc<Remote>, ImageError> {
        let key = (reference.to_owned(), platform.map(ToOwned::to_owned));
        let gate = format!("look up {reference} {}", platform.unwrap_or_default());
        let _gate = self.gates.enter(&gate).await;
        let known = registry.known.lock();
        if let Some(known) = known.unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(known));
        }
        let remote = Box::pin(self.ask(registry, reference, platform)).await?;
        let remote = Arc::new(remote);
        let mut known = registry
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.insert(key, Arc::clone(&remote));
        Ok(remote)
    }

    async fn ask(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        platform: Option<&str>,
    ) -> Result<Remote, ImageError> {
        let name = parse_reference(reference)?;
        let wanted = Wanted::parse(reference, platform)?;
        let failed = |source| ImageError::Pull {
            reference: reference.into(),
            source,
        };
        let record = self.engine.image(&name.whole()).await?;
        // Without a record there is nothing to compare the head with.
        let target = match (&name.digest, &record) {
            (Some(digest), _) => Some(digest.clone()),
            (None, Some(_)) => Some(registry.resolve(&name).await.map_err(failed)?.digest),
            (None, None) => None,
        };
        if let (Some(record), Some(target)) = (&record, &target)
            && record.target.digest == *target
            && let Some(image) = self.describe(reference, record, &wanted).await?
        {
            return Ok(Remote {
                image,
                target: target.clone(),
                name,
                fetched: None,
            });
        }
        let asked = target.or_else(|| name.tag.clone()).unwrap_or_default();
        let (mut target, bytes) = registry.document(&name, &asked).await.map_err(failed)?;
        settle_kind(&mut target, &bytes, reference)?;
        let documents = Distant {
            registry,
            name: &name,
            reference,
            read: Mutex::new(vec![(target.clone(), bytes)]),
        };
        let chosen = choose(&documents, reference, &target, &wanted).await?;
        let incomplete = || damaged(reference, "its registry has only parts of it");
        let chosen = chosen.ok_or_else(incomplete)?;
        check_layers(reference, &chosen.manifest)?;
        let read = documents.read.into_inner();
        let documents = read.unwrap_or_else(PoisonError::into_inner);
        Ok(Remote {
            image: chosen.image(&name.whole()),
            target: target.digest.clone(),
            name,
            fetched: Some(Fetched {
                target,
                chosen,
                documents,
            }),
        })
    }
}

/// Corrects the media type of a document that the registry gave none or a vague one.
fn settle_kind(target: &mut Descriptor, bytes: &[u8], reference: &str) -> Result<(), ImageError> {
    let kind: Kind = parse(reference, bytes)?;
    if kind.schema_version == 1 || target.media_type.starts_with(FIRST_FORMAT) {
        return Err(ImageError::FirstFormat {
            reference: reference.into(),
        });
    }
    if !kind.media_type.is_empty() {
        target.media_type = kind.media_type;
    } else if !kind.manifests.is_empty() {
        target.media_type = INDEX_TYPES[0].into();
    }
    Ok(())
}

/// Refuses what containerd cannot unpack before anything is fetched.
fn check_layers(reference: &str, manifest: &Manifest) -> Result<(), ImageError> {
    let is_known = |kind: &str| {
        LAYER_KINDS.iter().any(|start| kind.starts_with(start))
            && LAYER_ENDINGS.iter().any(|end| kind.ends_with(end))
    };
    match manifest
        .layers
        .iter()
        .find(|layer| !is_known(&layer.media_type))
    {
        None => Ok(()),
        Some(layer) => Err(ImageError::LayerKind {
            reference: reference.into(),
            kind: layer.media_type.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(kind: &str) -> Manifest {
        Manifest {
            layers: vec![Descriptor {
                media_type: kind.into(),
                ..Descriptor::default()
            }],
            ..Manifest::default()
        }
    }

    #[test]
    fn layers_that_cannot_be_unpacked_are_refused() {
        for kind in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(check_layers("x", &manifest(kind)).is_ok(), "{kind}");
        }
        for kind in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.nydus.blob.v1",
            "application/vnd.in-toto+json",
            "",
        ] {
            assert!(check_layers("x", &manifest(kind)).is_err(), "{kind}");
        }
    }

    #[test]
    fn the_kind_of_a_document_is_found_without_the_registry_s_word() {
        let settle = |kind: &str, text: &str| {
            let mut target = Descriptor {
                media_type: kind.into(),
                ..Descriptor::default()
            };
            settle_kind(&mut target, text.as_bytes(), "x").map(|()| target.media_type)
        };
        let vague = "application/octet-stream";
        assert_eq!(
            settle(vague, r#"{"schemaVersion":2,"manifests":[{}]}"#).unwrap(),
            INDEX_TYPES[0]
        );
        assert_eq!(
            settle("", r#"{"schemaVersion":2,"mediaType":"a"}"#).unwrap(),
            "a"
        );
        assert!(matches!(
            settle("", r#"{"schemaVersion":1,"name":"x"}"#),
            Err(ImageError::FirstFormat { .. })
        ));
        assert!(settle("", "no JSON").is_err());
    }

    #[test]
    fn only_a_tag_that_moves_is_latest() {
        assert!(is_latest("busybox"));
        assert!(is_latest("a.test/b:latest"));
        assert!(!is_latest("busybox:1"));
        assert!(!is_latest(&format!("busybox@sha256:{}", "a".repeat(64))));
        assert!(!is_latest("Not A Reference"));
    }
}
