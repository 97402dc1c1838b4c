//! What a writable snapshot has beyond the layers below it, as a layer of its own.

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::{DiffRequest, InfoRequest};

use super::{Descriptor, Engine, EngineError, RootMount, read_only, unique};

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Label of a compressed layer: the digest of its uncompressed content.
const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";

impl Engine {
    /// Stores what the snapshot `key` changes of its parent as a compressed layer, and returns it with the digest of its
    /// uncompressed content. `lease` holds it until something refers to it.
    pub async fn diff_snapshot(
        &self,
        key: &str,
        lease: &str,
    ) -> Result<(Descriptor, String), EngineError> {
        let what = format!("snapshot `{key}`");
        let found = self.snapshots(&[format!("name=={key:?}")]).await?;
        let record = found
            .into_iter()
            .next()
            .ok_or_else(|| EngineError::NotFound { what: what.clone() })?;
        // Mounted as the container has it, a second time, it would lose its work directory under its feet.
        let right = read_only(&self.snapshot_mounts(key).await?);
        let view = unique("compose-diff");
        let left = if record.parent.is_empty() {
            Vec::new()
        } else {
            self.view_snapshot(&view, &record.parent, Some(lease))
                .await?
        };
        let compared = self.compare(&left, &right, lease).await;
        let removed = self.remove_snapshot(&view).await;
        let layer = compared?;
        removed?;
        let info = ContentClient::new(self.api())
            .info(InfoRequest {
                digest: layer.digest.clone(),
            })
            .await
            .map_err(|status| self.failed(&format!("look up blob `{}`", layer.digest), &status))?;
        let mut labels = info.into_inner().info.unwrap_or_default().labels;
        let diff_id = labels.remove(UNCOMPRESSED_LABEL);
        let diff_id = diff_id.ok_or_else(|| EngineError::NotFound {
            what: format!("digest of the uncompressed blob `{}`", layer.digest),
        })?;
        Ok((layer, diff_id))
    }

    async fn compare(
        &self,
        left: &[RootMount],
        right: &[RootMount],
        lease: &str,
    ) -> Result<Descriptor, EngineError> {
        let request = DiffRequest {
            left: left.iter().map(Into::into).collect(),
            right: right.iter().map(Into::into).collect(),
            media_type: LAYER_TYPE.into(),
            r#ref: unique("compose-diff"),
            ..DiffRequest::default()
        };
        let answer = DiffClient::new(self.leased(Some(lease))?)
            .diff(request)
            .await
            .map_err(|status| self.failed("compare snapshots", &status))?;
        Ok(answer.into_inner().diff.unwrap_or_default().into())
    }
}
