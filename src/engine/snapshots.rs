//! Snapshots: layers and writable root file systems.

use std::collections::BTreeMap;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use containerd_client::types::Mount;
use tonic::Code;

use super::connect::{Api, MESSAGE_LIMIT};
use super::{Descriptor, Engine, EngineError, RootMount};

/// What a snapshotter tells of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    pub key: String,
    pub parent: String,
    /// A layer; otherwise somebody's root file system.
    pub committed: bool,
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// Makes a writable snapshot over `parent` (a chain id) and returns its mounts.
    pub async fn prepare_snapshot(
        &self,
        key: &str,
        parent: &str,
        labels: &BTreeMap<String, String>,
        lease: Option<&str>,
    ) -> Result<Vec<RootMount>, EngineError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
            parent: parent.into(),
            labels: super::to_map(labels),
        };
        let answer = snapshots_client(self.leased(lease)?)
            .prepare(request)
            .await
            .map_err(|status| self.failed_to_make(key, parent, &status))?;
        Ok(from_mounts(answer.into_inner().mounts))
    }

    /// As [`Engine::prepare_snapshot`], read-only.
    pub async fn view_snapshot(
        &self,
        key: &str,
        parent: &str,
        lease: Option<&str>,
    ) -> Result<Vec<RootMount>, EngineError> {
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
            parent: parent.into(),
            ..ViewSnapshotRequest::default()
        };
        let answer = snapshots_client(self.leased(lease)?)
            .view(request)
            .await
            .map_err(|status| self.failed_to_make(key, parent, &status))?;
        Ok(from_mounts(answer.into_inner().mounts))
    }

    pub async fn snapshot_mounts(&self, key: &str) -> Result<Vec<RootMount>, EngineError> {
        let request = MountsRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
        };
        let what = format!("snapshot `{key}`");
        let answer = snapshots_client(self.api())
            .mounts(request)
            .await
            .map_err(|status| {
                self.failed_on(&format!("get the mounts of {what}"), &what, &status)
            })?;
        Ok(from_mounts(answer.into_inner().mounts))
    }

    /// Not an error if it is gone.
    pub async fn remove_snapshot(&self, key: &str) -> Result<(), EngineError> {
        let request = RemoveSnapshotRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
        };
        match snapshots_client(self.api()).remove(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(self.failed(&format!("remove snapshot `{key}`"), &status)),
        }
    }

    pub async fn snapshot_exists(&self, key: &str) -> Result<bool, EngineError> {
        let request = StatSnapshotRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
        };
        match snapshots_client(self.api()).stat(request).await {
            Ok(_info) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.failed(&format!("look up snapshot `{key}`"), &status)),
        }
    }

    /// Snapshots that match one of `filters`, as `labels."a"==b` or `parent==x`; all if empty.
    pub async fn snapshots(&self, filters: &[String]) -> Result<Vec<SnapshotRecord>, EngineError> {
        let failed = |status| self.failed("list snapshots", &status);
        let request = ListSnapshotsRequest {
            snapshotter: self.snapshotter().into(),
            filters: filters.to_vec(),
        };
        let answer = snapshots_client(self.api()).list(request).await;
        let mut stream = answer.map_err(failed)?.into_inner();
        let mut records = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            records.extend(message.info.into_iter().map(from_info));
        }
        Ok(records)
    }

    /// Bytes that a snapshot occupies above its parent.
    pub async fn snapshot_size(&self, key: &str) -> Result<u64, EngineError> {
        let request = UsageRequest {
            snapshotter: self.snapshotter().into(),
            key: key.into(),
        };
        let what = format!("snapshot `{key}`");
        let answer = snapshots_client(self.api()).usage(request).await;
        let answer =
            answer.map_err(|status| self.failed_on(&format!("measure {what}"), &what, &status))?;
        Ok(u64::try_from(answer.into_inner().size).unwrap_or(0))
    }

    /// Turns the writable snapshot `key` into the layer `name`. One that another process has made meanwhile is as
    /// good, and `key` is then removed.
    pub async fn commit_snapshot(
        &self,
        name: &str,
        key: &str,
        lease: Option<&str>,
    ) -> Result<(), EngineError> {
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter().into(),
            name: name.into(),
            key: key.into(),
            ..CommitSnapshotRequest::default()
        };
        match snapshots_client(self.leased(lease)?).commit(request).await {
            Ok(_empty) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => self.remove_snapshot(key).await,
            Err(status) => Err(self.failed(&format!("commit snapshot `{name}`"), &status)),
        }
    }

    /// Unpacks a layer into the mounts of a writable snapshot; returns the digest of its uncompressed content.
    pub async fn apply_layer(
        &self,
        layer: &Descriptor,
        mounts: &[RootMount],
        lease: Option<&str>,
    ) -> Result<String, EngineError> {
        let request = ApplyRequest {
            diff: Some(layer.into()),
            mounts: mounts.iter().map(Into::into).collect(),
            ..ApplyRequest::default()
        };
        let answer = DiffClient::new(self.leased(lease)?)
            .apply(request)
            .await
            .map_err(|status| self.failed(&format!("unpack layer `{}`", layer.digest), &status))?;
        Ok(answer.into_inner().applied.unwrap_or_default().digest)
    }

    fn failed_to_make(&self, key: &str, parent: &str, status: &tonic::Status) -> EngineError {
        let operation = format!("make snapshot `{key}`");
        match status.code() {
            Code::NotFound => EngineError::NotFound {
                what: format!("snapshot `{parent}`"),
            },
            _ => self.failed_on(&operation, &format!("snapshot `{key}`"), status),
        }
    }
}

fn snapshots_client(api: Api) -> SnapshotsClient<Api> {
    SnapshotsClient::new(api).max_decoding_message_size(MESSAGE_LIMIT)
}

impl From<&RootMount> for Mount {
    fn from(mount: &RootMount) -> Self {
        Self {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        }
    }
}

fn from_mounts(mounts: Vec<Mount>) -> Vec<RootMount> {
    let convert = |mount: Mount| RootMount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}

fn from_info(info: Info) -> SnapshotRecord {
    SnapshotRecord {
        committed: info.kind() == Kind::Committed,
        key: info.name,
        parent: info.parent,
        labels: info.labels.into_iter().collect(),
    }
}
