//! Layers into snapshots.

use std::collections::BTreeMap;

use super::choice::damaged;
use super::config::chain_ids;
use super::{Image, ImageError, Images};
use crate::engine::{Descriptor, EngineError, unique};

/// What is told of each layer while it is unpacked: before, and (true) when it is done.
pub(super) type Unpacking<'a> = &'a (dyn Fn(&Descriptor, bool) + Send + Sync);

impl Images {
    /// Makes the snapshots of all layers that are not there yet. Others may do the same at the same time: whoever
    /// commits first wins, and the result is the same.
    pub(super) async fn unpack(
        &self,
        reference: &str,
        image: &Image,
        lease: &str,
        tell: Unpacking<'_>,
    ) -> Result<(), ImageError> {
        let engine = &self.engine;
        if image.chain_id.is_empty() || engine.snapshot_exists(&image.chain_id).await? {
            return Ok(());
        }
        let _gate = self.gates.enter(&image.chain_id).await;
        let missing = || {
            self.forget(&image.digest);
            ImageError::Missing {
                reference: reference.into(),
            }
        };
        let (manifest, document) = self
            .read_manifest(reference, &image.digest)
            .await?
            .ok_or_else(missing)?;
        // containerd keeps the snapshots as long as the configuration. The label may name what does not exist yet.
        let label = format!("containerd.io/gc.ref.snapshot.{}", engine.snapshotter());
        let labels = BTreeMap::from([(label, image.chain_id.clone())]);
        engine
            .label_content(&manifest.config.digest, &labels)
            .await?;
        let diff_ids = document.diff_ids();
        let mut parent = String::new();
        for ((layer, diff_id), chain_id) in manifest
            .layers
            .iter()
            .zip(diff_ids)
            .zip(chain_ids(diff_ids))
        {
            if !engine.snapshot_exists(&chain_id).await? {
                if engine.content_size(&layer.digest).await?.is_none() {
                    return Err(missing());
                }
                tell(layer, false);
                self.unpack_layer(reference, layer, diff_id, &parent, &chain_id, lease)
                    .await?;
            }
            tell(layer, true);
            parent = chain_id;
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        reference: &str,
        layer: &Descriptor,
        diff_id: &str,
        parent: &str,
        chain_id: &str,
        lease: &str,
    ) -> Result<(), ImageError> {
        let engine = &self.engine;
        let key = unique("compose-unpack");
        // Snapshotters that fetch layers by themselves know them by this label, and answer "exists already".
        let labels =
            BTreeMap::from([("containerd.io/snapshot.ref".to_owned(), chain_id.to_owned())]);
        let mounts = match engine
            .prepare_snapshot(&key, parent, &labels, Some(lease))
            .await
        {
            Err(EngineError::AlreadyExists { .. }) if engine.snapshot_exists(chain_id).await? => {
                return Ok(());
            }
            mounts => mounts?,
        };
        let applied = engine.apply_layer(layer, &mounts, Some(lease)).await;
        let result = match applied {
            Ok(digest) if digest == diff_id => {
                let committed = engine.commit_snapshot(chain_id, &key, Some(lease)).await;
                committed.map_err(ImageError::from)
            }
            Ok(digest) => Err(damaged(
                reference,
                &format!(
                    "layer {} unpacks to {digest} instead of {diff_id}",
                    layer.digest
                ),
            )),
            Err(error) => Err(error.into()),
        };
        if result.is_err()
            && let Err(error) = engine.remove_snapshot(&key).await
        {
            tracing::warn!(key, %error, "a half-made snapshot stays until its lease ends");
        }
        result?;
        // Other tools look for this label before they unpack a layer themselves.
        let labels =
            BTreeMap::from([("containerd.io/uncompressed".to_owned(), diff_id.to_owned())]);
        engine.label_content(&layer.digest, &labels).await?;
        Ok(())
    }
}
