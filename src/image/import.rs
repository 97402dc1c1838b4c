//! Archives into the content store: `skopeo copy … oci-archive:`, `buildx --output type=oci`, `docker save`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, ArchiveError};
use super::config::{
    CONFIG_TYPE, INDEX_TYPES, Index, IndexEntry, MANIFEST_TYPE, Manifest, digest_of, nullable,
};
use super::facts::{read_cache, write_cache};
use super::reference::{ArchiveReference, full_name, parse_reference};
use super::{ImageError, Images};
use crate::engine::{ContentSource, Descriptor, EngineError, ImageRecord};
use crate::state::{StateRoot, Versioned, create_private_dir};

/// Says on an image record that we made it, and from what.
const SOURCE_LABEL: &str = "containerd-compose/source";

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// Indexes may be nested; a loop must end.
const DEEPEST: usize = 8;

/// What an archive was when it was imported, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Imported {
    path: PathBuf,
    /// Which image of the archive.
    name: Option<String>,
    size: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
    inode: u64,
    device: u64,
    pub(super) reference: String,
    /// Of the record's target.
    pub(super) digest: String,
}

impl Versioned for Imported {
    const FORMAT: u64 = 1;
}

impl Imported {
    /// The archive as it is now, not imported.
    fn now(archive: &ArchiveReference) -> std::io::Result<Self> {
        let data = std::fs::metadata(&archive.path)?;
        Ok(Self {
            path: archive.path.clone(),
            name: archive.name.clone(),
            size: data.size(),
            modified_seconds: data.mtime(),
            modified_nanoseconds: data.mtime_nsec(),
            inode: data.ino(),
            device: data.dev(),
            ..Self::default()
        })
    }

    fn file(state: &StateRoot, archive: &ArchiveReference) -> PathBuf {
        let key = format!(
            "{}\0{}",
            archive.path.display(),
            archive.name.as_deref().unwrap_or_default()
        );
        let digest = digest_of(key.as_bytes());
        let name = digest.trim_start_matches("sha256:");
        state.images().join("archives").join(format!("{name}.json"))
    }
}

/// The earlier import of an archive, if the file has not changed since.
pub(super) fn imported(state: &StateRoot, archive: &ArchiveReference) -> Option<Imported> {
    let now = Imported::now(archive).ok()?;
    let known: Imported = read_cache(&Imported::file(state, archive))?;
    let same = Imported {
        reference: known.reference.clone(),
        digest: known.digest.clone(),
        ..now
    };
    (known == same).then_some(known)
}

/// An image of an archive: its name and its top document.
struct Choice {
    reference: String,
    target: Descriptor,
    /// Content that is not a file of the archive.
    made: BTreeMap<String, Made>,
}

/// A blob that stands elsewhere than in `blobs/`.
struct Made {
    source: ContentSource,
    /// For documents.
    bytes: Option<Arc<[u8]>>,
}

/// `manifest.json` of `docker save`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(deserialize_with = "nullable")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    layers: Vec<String>,
}

impl Images {
    /// Puts the image of an archive into the content store and names it.
    pub(super) async fn import(
        &self,
        archive: &ArchiveReference,
        lease: &str,
    ) -> Result<(), ImageError> {
        self.import_archive(archive, lease)
            .await
            .map_err(|error| match error {
                ArchiveError::Engine(error) if !is_refusal(&error) => ImageError::Engine(error),
                source => ImageError::Archive {
                    path: archive.path.clone(),
                    source: Box::new(source),
                },
            })
    }

    async fn import_archive(
        &self,
        reference: &ArchiveReference,
        lease: &str,
    ) -> Result<(), ArchiveError> {
        let mut known = Imported::now(reference)?;
        let scratch = self.state.images();
        create_private_dir(&scratch).map_err(std::io::Error::other)?;
        let wanted = reference.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let archive = Archive::open(&wanted.path, &scratch)?;
            let choice = choose(&archive, &wanted)?;
            Ok::<_, ArchiveError>((archive, choice))
        });
        let (archive, choice) = opened.await.map_err(std::io::Error::from)??;
        let importer = Importer {
            images: self,
            archive: &archive,
            made: &choice.made,
            lease,
        };
        importer.store(&choice.target, 0).await?;
        let record = ImageRecord {
            name: choice.reference,
            labels: BTreeMap::from([(SOURCE_LABEL.to_owned(), "oci-archive".to_owned())]),
            target: choice.target,
        };
        self.engine.put_image(&record).await?;
        known.reference = record.name;
        known.digest = record.target.digest;
        // A file that was replaced meanwhile is noticed by its other inode or time.
        write_cache(&Imported::file(&self.state, reference), &known);
        Ok(())
    }
}

/// containerd does not take content that has another digest or size than it should.
fn is_refusal(error: &EngineError) -> bool {
    matches!(error, EngineError::Call { code, .. } if *code == tonic::Code::FailedPrecondition)
}

struct Importer<'a> {
    images: &'a Images,
    archive: &'a Archive,
    made: &'a BTreeMap<String, Made>,
    lease: &'a str,
}

impl Importer<'_> {
    /// Stores a document after all that it refers to, labelled so that containerd keeps those as long.
    async fn store(&self, target: &Descriptor, depth: usize) -> Result<(), ArchiveError> {
        if depth > DEEPEST {
            return Err(ArchiveError::TooLarge(target.digest.clone()));
        }
        let bytes = self.document(target).await?;
        let mut labels = BTreeMap::new();
        if INDEX_TYPES.contains(&target.media_type.as_str()) {
            let index: Index = parse(&target.digest, &bytes)?;
            for (number, entry) in index.manifests.iter().enumerate() {
                let child = entry.descriptor();
                if self.has(&child) {
                    Box::pin(self.store(&child, depth + 1)).await?;
                    let label = format!("containerd.io/gc.ref.content.m.{number}");
                    labels.insert(label, child.digest);
                }
            }
            if labels.is_empty() {
                return Err(ArchiveError::Empty);
            }
        } else {
            let manifest: Manifest = parse(&target.digest, &bytes)?;
            for (number, layer) in manifest.layers.iter().enumerate() {
                self.store_blob(layer).await?;
                let label = format!("containerd.io/gc.ref.content.l.{number}");
                labels.insert(label, layer.digest.clone());
            }
            self.store_blob(&manifest.config).await?;
            let label = "containerd.io/gc.ref.content.config".to_owned();
            labels.insert(label, manifest.config.digest);
        }
        let source = ContentSource::Bytes(bytes);
        let engine = &self.images.engine;
        engine
            .write_content(target, &source, &labels, Some(self.lease))
            .await?;
        Ok(())
    }

    fn has(&self, descriptor: &Descriptor) -> bool {
        self.made.contains_key(&descriptor.digest)
            || self.archive.blob(&descriptor.digest).is_some()
    }

    async fn store_blob(&self, blob: &Descriptor) -> Result<(), ArchiveError> {
        let source = match (self.made.get(&blob.digest), self.archive.blob(&blob.digest)) {
            (Some(made), _) => made.source.clone(),
            (None, Some(entry)) if entry.size == blob.size => self.archive.source(entry),
            (None, Some(entry)) => {
                return Err(ArchiveError::WrongSize {
                    name: blob.digest.clone(),
                    found: entry.size,
                    expected: blob.size,
                });
            }
            (None, None) => return Err(ArchiveError::MissingFile(blob.digest.clone())),
        };
        let engine = &self.images.engine;
        engine
            .write_content(blob, &source, &BTreeMap::new(), Some(self.lease))
            .await?;
        Ok(())
    }

    /// A document, its digest checked before anything in it is believed.
    async fn document(&self, target: &Descriptor) -> Result<Arc<[u8]>, ArchiveError> {
        if let Some(bytes) = self
            .made
            .get(&target.digest)
            .and_then(|made| made.bytes.clone())
        {
            return Ok(bytes);
        }
        let digest = target.digest.clone();
        let archive = self.archive.clone();
        let read = tokio::task::spawn_blocking(move || {
            let entry = archive.blob(&digest);
            let entry = entry.ok_or_else(|| ArchiveError::MissingFile(digest.clone()))?;
            let bytes = archive.read(&digest, entry)?;
            let found = digest_of(&bytes);
            if digest.starts_with("sha256:") && found != digest {
                return Err(ArchiveError::WrongDigest {
                    name: digest,
                    found,
                });
            }
            Ok(Arc::from(bytes))
        });
        read.await.map_err(std::io::Error::from)?
    }
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document {
        name: name.into(),
        source,
    })
}

/// Finds the image that `reference` means.
fn choose(archive: &Archive, reference: &ArchiveReference) -> Result<Choice, ArchiveError> {
    if let Some(entry) = archive.entry("index.json") {
        let bytes = archive.read("index.json", entry)?;
        return choose_from_index(archive, reference, bytes);
    }
    let entry = archive
        .entry("manifest.json")
        .ok_or(ArchiveError::NoIndex)?;
    let bytes = archive.read("manifest.json", entry)?;
    choose_saved(
        archive,
        reference,
        &parse::<Vec<SavedImage>>("manifest.json", &bytes)?,
    )
}

fn choose_from_index(
    archive: &Archive,
    reference: &ArchiveReference,
    bytes: Vec<u8>,
) -> Result<Choice, ArchiveError> {
    let index: Index = parse("index.json", &bytes)?;
    let mut entries: Vec<&IndexEntry> = index
        .manifests
        .iter()
        .filter(|entry| archive.blob(&entry.digest).is_some())
        .collect();
    let names: Vec<String> = entries
        .iter()
        .flat_map(|entry| entry_names(entry))
        .collect();
    if let Some(wanted) = &reference.name {
        let same = |name: &String| same_name(name, wanted);
        entries.retain(|entry| entry_names(entry).iter().any(same));
        if entries.is_empty() {
            return Err(ArchiveError::UnknownName {
                name: wanted.clone(),
                names,
            });
        }
    }
    let first = *entries.first().ok_or(ArchiveError::Empty)?;
    let name = entry_names(first)
        .into_iter()
        .find_map(|name| full_name(&name));
    let name = name.unwrap_or_else(|| reference.default_name());
    let descriptor = first.descriptor();
    if entries.iter().all(|entry| entry.digest == first.digest) {
        return Ok(Choice {
            reference: name,
            target: descriptor,
            made: BTreeMap::new(),
        });
    }
    // Several manifests without different names are the platforms of one image.
    let first_names = entry_names(first);
    if entries
        .iter()
        .any(|entry| entry_names(entry) != first_names)
    {
        return Err(ArchiveError::Ambiguous { names });
    }
    let bytes: Arc<[u8]> = bytes.into();
    let target = Descriptor {
        media_type: INDEX_TYPES[0].into(),
        digest: digest_of(&bytes),
        size: bytes.len() as u64,
    };
    let made = Made {
        source: ContentSource::Bytes(Arc::clone(&bytes)),
        bytes: Some(bytes),
    };
    Ok(Choice {
        reference: name,
        made: BTreeMap::from([(target.digest.clone(), made)]),
        target,
    })
}

/// The best first.
fn entry_names(entry: &IndexEntry) -> Vec<String> {
    [CONTAINERD_NAME, OCI_NAME]
        .iter()
        .filter_map(|annotation| entry.annotations.get(*annotation).cloned())
        .collect()
}

/// Whether the user's `wanted` means `name`: by the letter, or after completion as Docker does it.
fn same_name(name: &str, wanted: &str) -> bool {
    let whole = |text| {
        parse_reference(text)
            .map(|reference| reference.whole())
            .ok()
    };
    name == wanted || (whole(wanted).is_some() && whole(name) == whole(wanted))
}

/// Turns an image of `docker save` into an OCI one; its layers stay where they are.
fn choose_saved(
    archive: &Archive,
    reference: &ArchiveReference,
    images: &[SavedImage],
) -> Result<Choice, ArchiveError> {
    let names = || {
        images
            .iter()
            .flat_map(|image| image.repo_tags.clone())
            .collect()
    };
    let image = match (&reference.name, images) {
        (None, []) => return Err(ArchiveError::Empty),
        (None, [only]) => only,
        (None, _) => return Err(ArchiveError::Ambiguous { names: names() }),
        (Some(wanted), _) => images
            .iter()
            .find(|image| image.repo_tags.iter().any(|tag| same_name(tag, wanted)))
            .ok_or_else(|| ArchiveError::UnknownName {
                name: wanted.clone(),
                names: names(),
            })?,
    };
    let find = |name: &str| {
        let entry = archive.entry(name);
        entry.ok_or_else(|| ArchiveError::MissingFile(name.into()))
    };
    let mut made = BTreeMap::new();
    let mut add = |name: &str, kind: &dyn Fn(bool) -> String| {
        let entry = find(name)?;
        let (digest, compressed) = archive.digest(entry)?;
        let source = archive.source(entry);
        made.insert(
            digest.clone(),
            Made {
                source,
                bytes: None,
            },
        );
        Ok::<_, ArchiveError>(Descriptor {
            media_type: kind(compressed),
            digest,
            size: entry.size,
        })
    };
    let layer_type = |compressed| {
        let ending = if compressed { "+gzip" } else { "" };
        format!("{LAYER_TYPE}{ending}")
    };
    let manifest = Manifest {
        config: add(&image.config, &|_compressed| CONFIG_TYPE.to_owned())?,
        layers: image
            .layers
            .iter()
            .map(|name| add(name, &layer_type))
            .collect::<Result<_, _>>()?,
    };
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": manifest.config,
        "layers": manifest.layers,
    });
    let bytes: Arc<[u8]> = json.to_string().into_bytes().into();
    let target = Descriptor {
        media_type: MANIFEST_TYPE.into(),
        digest: digest_of(&bytes),
        size: bytes.len() as u64,
    };
    let source = ContentSource::Bytes(Arc::clone(&bytes));
    let bytes = Some(bytes);
    made.insert(target.digest.clone(), Made { source, bytes });
    let tag = image.repo_tags.iter().find(|tag| match &reference.name {
        Some(wanted) => same_name(tag, wanted),
        None => true,
    });
    let name = tag.and_then(|tag| parse_reference(tag).ok());
    Ok(Choice {
        reference: match name {
            Some(name) => name.whole(),
            None => reference.default_name(),
        },
        target,
        made,
    })
}
