//! Container records.

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    ListContainersRequest, UpdateContainerRequest, container::Runtime,
};
use jiff::Timestamp;
use prost_types::{Any, FieldMask};
use tonic::Code;

use super::connect::{Api, MESSAGE_LIMIT};
use super::{ContainerRecord, Engine, EngineError};

/// containerd finds the Go type of a JSON document by this address.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Engine {
    /// Records that match one of `filters` (containerd's filter grammar, as `labels."a"==b`); all if empty.
    pub async fn containers(
        &self,
        filters: &[String],
    ) -> Result<Vec<ContainerRecord>, EngineError> {
        let failed = |status| self.failed("list containers", &status);
        // Streamed, as one message is limited to 16 MiB and every record carries its spec.
        let mut stream = containers_client(self.api())
            .list_stream(ListContainersRequest {
                filters: filters.to_vec(),
            })
            .await
            .map_err(failed)?
            .into_inner();
        let mut records = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            records.extend(message.container.map(from_message));
        }
        Ok(records)
    }

    pub async fn container(&self, id: &str) -> Result<Option<ContainerRecord>, EngineError> {
        let answer = containers_client(self.api())
            .get(GetContainerRequest { id: id.into() })
            .await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().container.map(from_message)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("read container `{id}`"), &status)),
        }
    }

    /// `created_at` is ignored; what it then is, is returned. `lease`: id of a lease to hold what the record refers to.
    pub async fn create_container(
        &self,
        record: &ContainerRecord,
        lease: Option<&str>,
    ) -> Result<Timestamp, EngineError> {
        let request = CreateContainerRequest {
            container: Some(to_message(record)),
        };
        let answer = containers_client(self.leased(lease)?)
            .create(request)
            .await
            .map_err(|status| {
                let id = &record.id;
                let operation = format!("create container `{id}`");
                match status.code() {
                    Code::AlreadyExists => {
                        self.failed_on(&operation, &format!("container `{id}`"), &status)
                    }
                    _ => self.failed(&operation, &status),
                }
            })?;
        let created = answer.into_inner().container.map(from_message);
        Ok(created.map_or(Timestamp::UNIX_EPOCH, |created| created.created_at))
    }

    /// Replaces labels, spec and extensions.
    pub async fn update_container(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        let paths = ["labels", "spec", "extensions"];
        let request = UpdateContainerRequest {
            container: Some(to_message(record)),
            update_mask: Some(FieldMask {
                paths: paths.map(str::to_owned).to_vec(),
            }),
        };
        containers_client(self.api())
            .update(request)
            .await
            .map_err(|status| {
                let what = format!("container `{}`", record.id);
                self.failed_on(&format!("update {what}"), &what, &status)
            })?;
        Ok(())
    }

    /// Not an error if it is gone.
    pub async fn delete_container(&self, id: &str) -> Result<(), EngineError> {
        let answer = containers_client(self.api())
            .delete(DeleteContainerRequest { id: id.into() })
            .await;
        match answer {
            Ok(_empty) => {}
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(self.failed(&format!("delete container `{id}`"), &status)),
        }
        self.remove_stale_shim_socket(id).await;
        Ok(())
    }
}

fn containers_client(api: Api) -> ContainersClient<Api> {
    ContainersClient::new(api).max_decoding_message_size(MESSAGE_LIMIT)
}

fn to_message(record: &ContainerRecord) -> Container {
    Container {
        id: record.id.clone(),
        labels: super::to_map(&record.labels),
        image: record.image.clone(),
        runtime: Some(Runtime {
            name: record.runtime.clone(),
            options: None,
        }),
        spec: Some(Any {
            type_url: SPEC_TYPE.into(),
            value: record.spec.clone(),
        }),
        snapshotter: record.snapshotter.clone(),
        snapshot_key: record.snapshot_key.clone(),
        extensions: record
            .extensions
            .iter()
            .map(|(name, json)| {
                let any = Any {
                    type_url: name.clone(),
                    value: json.clone(),
                };
                (name.clone(), any)
            })
            .collect(),
        ..Container::default()
    }
}

fn from_message(message: Container) -> ContainerRecord {
    ContainerRecord {
        id: message.id,
        image: message.image,
        labels: message.labels.into_iter().collect(),
        runtime: message.runtime.unwrap_or_default().name,
        snapshotter: message.snapshotter,
        snapshot_key: message.snapshot_key,
        spec: message.spec.unwrap_or_default().value,
        extensions: message
            .extensions
            .into_iter()
            .map(|(name, any)| (name, any.value))
            .collect(),
        created_at: message
            .created_at
            .and_then(|time| super::to_timestamp(&time))
            .unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_wire() {
        let record = ContainerRecord {
            id: "a".into(),
            image: "docker.io/library/busybox:latest".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            runtime: "io.containerd.runc.v2".into(),
            snapshotter: "native".into(),
            snapshot_key: "a".into(),
            spec: b"{}".to_vec(),
            extensions: [("x.desired".to_owned(), b"{\"a\":1}".to_vec())].into(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(from_message(to_message(&record)), record);
    }
}
