//! From containerd's content store to a registry.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::choice::{Stored, choose, damaged, is_index, parse};
use super::config::{DOCUMENT_LIMIT, Index, Manifest};
use super::layer::{LayerPhase, Tell};
use super::name::Reference;
use super::platform::Wanted;
use super::pull::{FETCHES, SOURCE_LABEL, progress};
use super::reference::parse_reference;
use super::registry::{self, Registry, RegistryError, Upload, pieces};
use super::{ImageError, Images};
use crate::engine::{Descriptor, Engine, EngineError};

/// Indexes may be nested; a loop must end.
const DEEPEST: usize = 8;

/// What is sent, children before what refers to them.
#[derive(Default)]
struct Cargo {
    blobs: Vec<Descriptor>,
    documents: Vec<(Descriptor, Arc<[u8]>)>,
}

impl Images {
    /// Sends the image recorded as `reference` to the registry of that name. An index goes as a whole if all of it is
    /// here, else the variant for `platform` alone.
    pub async fn push(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        platform: Option<&str>,
        tell: &Tell,
    ) -> Result<(), ImageError> {
        let name = parse_reference(reference)?;
        let missing = || ImageError::Missing {
            reference: reference.into(),
        };
        let record = self.engine.image(&name.whole()).await?;
        let record = record.ok_or_else(missing)?;
        let mut cargo = Cargo::default();
        if !self.load(reference, &record.target, &mut cargo, 0).await? {
            let wanted = Wanted::parse(reference, platform)?;
            let documents = Stored {
                engine: &self.engine,
                reference,
            };
            let chosen = choose(&documents, reference, &record.target, &wanted).await?;
            let chosen = chosen.ok_or_else(missing)?;
            cargo = Cargo::default();
            if !self.load(reference, &chosen.target, &mut cargo, 0).await? {
                return Err(missing());
            }
        }
        // Two tags of one repository share their blobs: a registry may refuse what somebody else is just adding.
        let repository = format!("push {}/{}", name.registry, name.repository);
        let _turn = self.gates.enter(&repository).await;
        self.send(registry, reference, &name, cargo, tell).await
    }

    /// Collects what `target` consists of; false if a part of it is not here.
    async fn load(
        &self,
        reference: &str,
        target: &Descriptor,
        cargo: &mut Cargo,
        depth: usize,
    ) -> Result<bool, ImageError> {
        if depth > DEEPEST {
            return Err(damaged(reference, "its indexes are nested without end"));
        }
        let engine = &self.engine;
        let bytes = engine
            .read_content(&target.digest, 0, DOCUMENT_LIMIT)
            .await?;
        let Some(bytes) = bytes else {
            return Ok(false);
        };
        if is_index(target) {
            let index: Index = parse(reference, &bytes)?;
            for child in index.manifests {
                let child = child.descriptor();
                if !Box::pin(self.load(reference, &child, cargo, depth + 1)).await? {
                    return Ok(false);
                }
            }
        } else {
            let manifest: Manifest = parse(reference, &bytes)?;
            // Those of others must not be distributed; whoever pulls has them from where the manifest says.
            let own = manifest.layers.into_iter().filter(|layer| {
                let kind = &layer.media_type;
                !kind.contains("foreign") && !kind.contains("nondistributable")
            });
            for blob in own.chain([manifest.config]) {
                if cargo.blobs.iter().any(|known| known.digest == blob.digest) {
                    continue;
                }
                if engine.content_size(&blob.digest).await?.is_none() {
                    return Ok(false);
                }
                cargo.blobs.push(blob);
            }
        }
        cargo.documents.push((target.clone(), bytes.into()));
        Ok(true)
    }

    async fn send(
        &self,
        registry: &Arc<Registry>,
        reference: &str,
        name: &Reference,
        cargo: Cargo,
        tell: &Tell,
    ) -> Result<(), ImageError> {
        let failed = |source: RegistryError| ImageError::Push {
            reference: reference.into(),
            source,
        };
        let upload = Upload::open(registry, name).await.map_err(failed)?;
        for blob in &cargo.blobs {
            tell(progress(reference, blob, LayerPhase::Preparing, 0));
        }
        let mut sending = JoinSet::new();
        let mut waiting = cargo.blobs.into_iter();
        loop {
            while sending.len() < FETCHES
                && let Some(blob) = waiting.next()
            {
                let sender = Sender {
                    engine: self.engine.clone(),
                    upload: upload.clone(),
                    reference: reference.to_owned(),
                    label: format!("{SOURCE_LABEL}{}", name.registry),
                    blob,
                    tell: Arc::clone(tell),
                };
                sending.spawn(sender.run());
            }
            match sending.join_next().await {
                Some(sent) => sent.map_err(|error| damaged(reference, &error.to_string()))??,
                None => break,
            }
        }
        let last = cargo.documents.len().saturating_sub(1);
        for (number, (descriptor, bytes)) in cargo.documents.into_iter().enumerate() {
            let tag = name.tag.as_deref().filter(|_| number == last);
            let published = upload.publish(&descriptor, bytes, tag).await;
            published.map_err(failed)?;
        }
        Ok(())
    }
}

/// Sends one blob.
struct Sender {
    engine: Engine,
    upload: Upload,
    reference: String,
    label: String,
    blob: Descriptor,
    tell: Tell,
}

impl Sender {
    async fn run(self) -> Result<(), ImageError> {
        let labels = self.engine.content_labels(&self.blob.digest).await?;
        let sources = labels.unwrap_or_default().remove(&self.label);
        let sources: Vec<String> = sources
            .iter()
            .flat_map(|list| list.split(','))
            .map(ToOwned::to_owned)
            .collect();
        let open = || {
            let (sender, receiver) = pieces();
            let (engine, blob) = (self.engine.clone(), self.blob.clone());
            let (reference, tell) = (self.reference.clone(), Arc::clone(&self.tell));
            tokio::spawn(async move {
                let read = async {
                    let mut done = 0;
                    let mut reader = engine.stream_content(&blob.digest).await?;
                    while let Some(piece) = reader.next().await? {
                        done += piece.len() as u64;
                        if sender.send(Ok(piece)).await.is_err() {
                            return Ok(());
                        }
                        tell(progress(&reference, &blob, LayerPhase::Pushing, done));
                    }
                    Ok::<_, EngineError>(())
                };
                if let Err(error) = read.await {
                    let error = std::io::Error::other(error.to_string());
                    // The upload ends either way.
                    sender.send(Err(error)).await.ok();
                }
            });
            receiver
        };
        let stored = self.upload.store(&self.blob, &sources, &open).await;
        let stored = stored.map_err(|source| ImageError::Push {
            reference: self.reference.clone(),
            source,
        })?;
        let phase = match stored {
            registry::Stored::Present => LayerPhase::Stored,
            registry::Stored::Mounted => LayerPhase::Mounted,
            registry::Stored::Uploaded => LayerPhase::Pushed,
        };
        let size = self.blob.size;
        (self.tell)(progress(&self.reference, &self.blob, phase, size));
        Ok(())
    }
}
