//! From a registry into containerd's content store: layers side by side, each fetched once, resumed where an earlier
//! attempt ended, verified by containerd before anything refers to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::choice::{damaged, is_index, parse};
use super::config::{Index, Manifest, nullable};
use super::layer::{LayerPhase, LayerProgress, Tell, short};
use super::name::Reference;
use super::reference::parse_reference;
use super::registry::{BlobReader, Registry, RegistryError};
use super::remote::{Fetched, Remote};
use super::{Image, ImageError, Images};
use crate::engine::{ContentSource, Descriptor, ImageRecord, OpenContent};

/// Layers of all images that are fetched at the same time.
pub(super) const FETCHES: usize = 6;
/// Bytes that are handed to containerd at once.
const PIECE: usize = 1 << 18;
/// Time between two words about the same layer.
const PACE: Duration = Duration::from_millis(100);
/// On an image record: when its registry was last asked, RFC 3339.
pub(super) const PULLED_LABEL: &str = "containerd-compose/pulled";
/// containerd's label on a blob: repositories of a registry that have it, comma separated.
pub(super) const SOURCE_LABEL: &str = "containerd.io/distribution.source.";

/// Layers with the places where they are to be had beside the registry.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ForeignLayers {
    #[serde(deserialize_with = "nullable")]
    layers: Vec<ForeignLayer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ForeignLayer {
    digest: String,
    #[serde(deserialize_with = "nullable")]
    urls: Vec<String>,
}

impl Images {
    /// When the registry was last asked about `reference`; `None` if that is not known.
    pub async fn pulled_at(&self, reference: &str) -> Result<Option<Timestamp>, ImageError> {
        let name = parse_reference(reference)?;
        let record = self.engine.image(&name.whole()).await?;
        Ok(record.and_then(|record| record.labels.get(PULLED_LABEL)?.parse().ok()))
    }

    /// Brings an image here and unpacks it. The name points to it only when all of it is there. If the future is dropped,
    /// what was fetched stays for a day, and the next attempt goes on with it.
    pub async fn pull(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        remote: &Remote,
        lease: &str,
        tell: &Tell,
    ) -> Result<Image, ImageError> {
        let target = match &remote.fetched {
            Some(fetched) => {
                self.fetch(registry, reference, remote, fetched, lease, tell)
                    .await?;
                fetched.target.clone()
            }
            None => match self.engine.image(&remote.image.reference).await? {
                Some(record) => record.target,
                None => {
                    return Err(ImageError::Missing {
                        reference: reference.into(),
                    });
                }
            },
        };
        let image = reference.to_owned();
        let told = move |layer: &Descriptor, done: bool| {
            let phase = if done {
                LayerPhase::Pulled
            } else {
                LayerPhase::Extracting
            };
            tell(progress(&image, layer, phase, layer.size));
        };
        Box::pin(self.unpack(reference, &remote.image, lease, &told)).await?;
        let record = ImageRecord {
            name: remote.image.reference.clone(),
            labels: BTreeMap::from([(PULLED_LABEL.into(), Timestamp::now().to_string())]),
            target,
        };
        self.engine.put_image(&record).await?;
        Ok(remote.image.clone())
    }

    /// Content of an image: configuration and layers, then the documents that refer to them.
    async fn fetch(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        remote: &Remote,
        fetched: &Fetched,
        lease: &str,
        tell: &Tell,
    ) -> Result<(), ImageError> {
        let manifest = &fetched.chosen.manifest;
        let document = |digest: &str| {
            let mut documents = fetched.documents.iter();
            documents.find(|(known, _)| known.digest == digest)
        };
        let foreign: ForeignLayers = match document(&fetched.chosen.target.digest) {
            Some((_, bytes)) => parse(reference, bytes)?,
            None => ForeignLayers::default(),
        };
        for layer in &manifest.layers {
            tell(progress(reference, layer, LayerPhase::Pending, 0));
        }
        let mut fetches = JoinSet::new();
        for layer in &manifest.layers {
            let urls = foreign.layers.iter().find(|it| it.digest == layer.digest);
            let fetch = Fetch {
                images: self.clone(),
                registry: Arc::clone(registry),
                name: remote.name.clone(),
                reference: reference.to_owned(),
                layer: layer.clone(),
                urls: urls.map(|layer| layer.urls.clone()).unwrap_or_default(),
                lease: lease.to_owned(),
                tell: Arc::clone(tell),
            };
            fetches.spawn(fetch.run());
        }
        while let Some(done) = fetches.join_next().await {
            // Those that go on are stopped with the set, and keep what they have.
            done.map_err(|error| damaged(reference, &error.to_string()))??;
        }
        let chosen = [
            &manifest.config.digest,
            &fetched.chosen.target.digest,
            &fetched.target.digest,
        ];
        // What is referred to comes before what refers to it.
        for (descriptor, bytes) in fetched.documents.iter().rev() {
            if !chosen.contains(&&descriptor.digest) && !is_index(descriptor) {
                continue;
            }
            let mut labels = references(reference, descriptor, bytes, manifest)?;
            labels.extend(source_label(&remote.name));
            let source = ContentSource::Bytes(Arc::clone(bytes));
            self.engine
                .write_content(descriptor, &source, &labels, Some(lease))
                .await?;
        }
        Ok(())
    }
}

/// Fetches one layer.
struct Fetch {
    images: Images,
    registry: Arc<Registry>,
    name: Reference,
    reference: String,
    layer: Descriptor,
    urls: Vec<String>,
    lease: String,
    tell: Tell,
}

impl Fetch {
    async fn run(self) -> Result<(), ImageError> {
        let (engine, layer) = (&self.images.engine, &self.layer);
        // Who wants the same layer waits here, and then finds it.
        let _gate = self.images.gates.enter(&layer.digest).await;
        // Before it is there, so that no moment is left for the collector of garbage.
        engine.hold_content(&self.lease, &layer.digest).await?;
        if engine.content_size(&layer.digest).await?.is_some() {
            self.say(LayerPhase::Present, layer.size);
            return Ok(());
        }
        let _turn = self.images.fetches.acquire().await.ok();
        let mut attempts = 0;
        loop {
            let mut writer = match engine.open_content(layer).await? {
                OpenContent::Exists => {
                    self.say(LayerPhase::Present, layer.size);
                    return Ok(());
                }
                OpenContent::Writer(writer) => writer,
            };
            let mut reader = BlobReader::new(
                Arc::clone(&self.registry),
                self.name.clone(),
                layer,
                self.urls.clone(),
                writer.offset(),
            );
            self.say(LayerPhase::Downloading, writer.offset());
            let mut said = Instant::now();
            let mut piece = Vec::with_capacity(PIECE);
            loop {
                let read = reader.next().await;
                let ended = !matches!(read, Ok(Some(_)));
                if let Ok(Some(bytes)) = &read {
                    piece.extend_from_slice(bytes);
                }
                // What has come is kept, whatever happens next.
                if !piece.is_empty() && (ended || piece.len() >= PIECE) {
                    let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
                    writer.write(full).await?;
                    if said.elapsed() >= PACE {
                        said = Instant::now();
                        self.say(LayerPhase::Downloading, writer.offset());
                    }
                }
                match read {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error @ RegistryError::WrongContent { .. }) => {
                        writer.discard().await;
                        return Err(self.failed(error));
                    }
                    Err(error) => return Err(self.failed(error)),
                }
            }
            let labels: BTreeMap<_, _> = source_label(&self.name).into_iter().collect();
            if writer.commit(&labels).await? {
                self.say(LayerPhase::Downloaded, layer.size);
                return Ok(());
            }
            // The beginning may be from an earlier attempt, or a mirror may be wrong: once more, from the start.
            let error = reader.distrust().await;
            attempts += 1;
            if attempts > 1 {
                return Err(self.failed(error));
            }
        }
    }

    fn say(&self, phase: LayerPhase, current: u64) {
        (self.tell)(progress(&self.reference, &self.layer, phase, current));
    }

    fn failed(&self, source: RegistryError) -> ImageError {
        ImageError::Pull {
            reference: self.reference.clone(),
            source,
        }
    }
}

pub(super) fn progress(
    image: &str,
    layer: &Descriptor,
    phase: LayerPhase,
    current: u64,
) -> LayerProgress {
    LayerProgress {
        image: image.into(),
        layer: short(&layer.digest).into(),
        phase,
        current,
        total: layer.size,
    }
}
/// Labels that have containerd keep what a document refers to. They may name what is not there.
fn references(
    reference: &str,
    descriptor: &Descriptor,
    bytes: &[u8],
    manifest: &Manifest,
) -> Result<BTreeMap<String, String>, ImageError> {
    let label = |kind: &str| format!("containerd.io/gc.ref.content.{kind}");
    if is_index(descriptor) {
        let index: Index = parse(reference, bytes)?;
        let children = index.manifests.into_iter().enumerate();
        return Ok(children
            .map(|(number, child)| (label(&format!("m.{number}")), child.digest))
            .collect());
    }
    if descriptor.digest == manifest.config.digest {
        return Ok(BTreeMap::new());
    }
    let layers = manifest.layers.iter().enumerate();
    let mut labels: BTreeMap<String, String> = layers
        .map(|(number, layer)| (label(&format!("l.{number}")), layer.digest.clone()))
        .collect();
    labels.insert(label("config"), manifest.config.digest.clone());
    Ok(labels)
}

/// Says where a blob came from, so that a push need not send it back there.
fn source_label(name: &Reference) -> Option<(String, String)> {
    let label = format!("{SOURCE_LABEL}{}", name.registry);
    // containerd refuses longer ones; nothing depends on it.
    (label.len() + name.repository.len() <= 4096).then(|| (label, name.repository.clone()))
}
