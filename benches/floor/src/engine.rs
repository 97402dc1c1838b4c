//! The bare containerd calls.

use std::{
    collections::HashMap,
    error::Error,
    path::{Path, PathBuf},
};

use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, CreateRequest, CreateTaskRequest,
        DeleteContainerRequest, DeleteRequest, DeleteTaskRequest, GetImageRequest, KillRequest,
        ReadContentRequest, StartRequest, WaitRequest, WaitResponse,
        container::Runtime,
        containers_client::ContainersClient,
        content_client::ContentClient,
        images_client::ImagesClient,
        leases_client::LeasesClient,
        snapshots::{
            PrepareSnapshotRequest, RemoveSnapshotRequest, snapshots_client::SnapshotsClient,
        },
        tasks_client::TasksClient,
    },
    tonic::{
        Request, Response, Status,
        metadata::{Ascii, MetadataValue},
        service::{Interceptor, interceptor::InterceptedService},
        transport::Channel,
    },
};
use futures_util::TryStreamExt as _;
use prost_types::Any;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, task::JoinHandle};

use crate::{network::Sandbox, spec};

/// Whatever went wrong; a benchmark has nothing better to do than to show it.
pub type Failure = Box<dyn Error + Send + Sync>;

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Adds the namespace and the lease to every call.
#[derive(Clone)]
struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: MetadataValue<Ascii>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
            .metadata_mut()
            .insert("containerd-lease", self.lease.clone());
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

/// A connection to containerd that holds one lease, without which a snapshot may be collected
/// before the container that uses it is recorded.
pub struct Engine {
    service: Service,
    snapshotter: String,
    name: String,
    folder: PathBuf,
}

/// A started container.
pub struct Running {
    id: String,
    sandbox: Sandbox,
    exited: JoinHandle<Result<Response<WaitResponse>, Status>>,
    drains: [JoinHandle<()>; 2],
    fifos: [PathBuf; 2],
}

impl Engine {
    pub async fn connect(
        address: &Path,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Self, Failure> {
        let channel = containerd_client::connect(address).await?;
        let name = format!("floor-{}", std::process::id());
        let headers = Headers {
            namespace: namespace.parse()?,
            lease: name.parse()?,
        };
        let service = InterceptedService::new(channel, headers);
        LeasesClient::new(service.clone())
            .create(CreateRequest {
                id: name.clone(),
                labels: HashMap::new(),
            })
            .await?;
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder)?;
        Ok(Self {
            service,
            snapshotter: snapshotter.to_owned(),
            name,
            folder,
        })
    }

    /// The key of the snapshot that holds the unpacked image.
    pub async fn image_snapshot(&self, reference: &str) -> Result<String, Failure> {
        let request = GetImageRequest {
            name: reference.to_owned(),
        };
        let image = ImagesClient::new(self.service.clone())
            .get(request)
            .await?
            .into_inner();
        let target = image
            .image
            .and_then(|image| image.target)
            .ok_or("image without a target")?;
        let mut document = self.read(&target.digest).await?;
        if let Some(manifest) = document
            .pointer("/manifests/0/digest")
            .and_then(Value::as_str)
        {
            document = self.read(manifest).await?;
        }
        let config = document.pointer("/config/digest").and_then(Value::as_str);
        let config = self
            .read(config.ok_or("manifest without a config")?)
            .await?;
        let layers = config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
        let mut chain = String::new();
        for layer in layers
            .ok_or("image without layers")?
            .iter()
            .filter_map(Value::as_str)
        {
            chain = match chain.as_str() {
                "" => layer.to_owned(),
                parent => {
                    let digest = Sha256::digest(format!("{parent} {layer}"));
                    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                    format!("sha256:{hex}")
                }
            };
        }
        Ok(chain)
    }

    async fn read(&self, digest: &str) -> Result<Value, Failure> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        };
        let blob = ContentClient::new(self.service.clone())
            .read(request)
            .await?
            .into_inner()
            .try_fold(Vec::new(), |mut blob, part| async move {
                blob.extend(part.data);
                Ok(blob)
            })
            .await?;
        Ok(serde_json::from_slice(&blob)?)
    }

    /// Starts container `index` in its sandbox.
    pub async fn start(
        &self,
        index: usize,
        image: &str,
        parent: &str,
        sandbox: Sandbox,
    ) -> Result<Running, Failure> {
        let id = format!("{}-{index}", self.name);
        let mut tasks = TasksClient::new(self.service.clone());
        let rootfs = SnapshotsClient::new(self.service.clone())
            .prepare(PrepareSnapshotRequest {
                snapshotter: self.snapshotter.clone(),
                key: id.clone(),
                parent: parent.to_owned(),
                labels: HashMap::new(),
            })
            .await?
            .into_inner()
            .mounts;
        let cgroup = format!("/{}/{id}", self.name);
        let spec = spec::sleeping(&id, &cgroup, &sandbox.path)?;
        let container = Container {
            id: id.clone(),
            image: image.to_owned(),
            snapshotter: self.snapshotter.clone(),
            snapshot_key: id.clone(),
            runtime: Some(Runtime {
                name: "io.containerd.runc.v2".to_owned(),
                options: None,
            }),
            spec: Some(Any {
                type_url: SPEC_TYPE.to_owned(),
                value: serde_json::to_vec(&spec)?,
            }),
            ..Container::default()
        };
        ContainersClient::new(self.service.clone())
            .create(CreateContainerRequest {
                container: Some(container),
            })
            .await?;

        let fifos = ["out", "err"].map(|stream| self.folder.join(format!("{index}.{stream}")));
        let drains = [drain(&fifos[0])?, drain(&fifos[1])?];
        let [stdout, stderr] = fifos
            .each_ref()
            .map(|path| path.to_string_lossy().into_owned());
        tasks
            .create(CreateTaskRequest {
                container_id: id.clone(),
                rootfs,
                stdout,
                stderr,
                ..CreateTaskRequest::default()
            })
            .await?;
        let exited = tokio::spawn({
            let mut tasks = tasks.clone();
            let request = WaitRequest {
                container_id: id.clone(),
                exec_id: String::new(),
            };
            async move { tasks.wait(request).await }
        });
        tasks
            .start(StartRequest {
                container_id: id.clone(),
                exec_id: String::new(),
            })
            .await?;
        Ok(Running {
            id,
            sandbox,
            exited,
            drains,
            fifos,
        })
    }

    /// Kills and removes a container and all that belongs to it.
    pub async fn remove(&self, container: Running) -> Result<(), Failure> {
        let Running {
            id,
            sandbox,
            exited,
            drains,
            fifos,
        } = container;
        let mut tasks = TasksClient::new(self.service.clone());
        tasks
            .kill(KillRequest {
                container_id: id.clone(),
                exec_id: String::new(),
                signal: 9,
                all: false,
            })
            .await?;
        exited.await??;
        tasks
            .delete(DeleteTaskRequest {
                container_id: id.clone(),
            })
            .await?;
        ContainersClient::new(self.service.clone())
            .delete(DeleteContainerRequest { id: id.clone() })
            .await?;
        SnapshotsClient::new(self.service.clone())
            .remove(RemoveSnapshotRequest {
                snapshotter: self.snapshotter.clone(),
                key: id,
            })
            .await?;
        sandbox.remove()?;
        for (drain, fifo) in drains.iter().zip(&fifos) {
            drain.abort();
            std::fs::remove_file(fifo)?;
        }
        Ok(())
    }

    /// Gives the lease back and removes what is left of the run: its folder and parent cgroups.
    pub async fn close(&self) -> Result<(), Failure> {
        LeasesClient::new(self.service.clone())
            .delete(DeleteRequest {
                id: self.name.clone(),
                sync: false,
            })
            .await?;
        std::fs::remove_dir(&self.folder)?;
        let root = Path::new("/sys/fs/cgroup");
        // cgroup v2 has the parent in the root, v1 in the folder of each controller.
        let folders = std::fs::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path()));
        for folder in folders.chain([root.to_owned()]) {
            let parent = folder.join(&self.name);
            if parent.is_dir() {
                std::fs::remove_dir(parent)?;
            }
        }
        Ok(())
    }
}

/// Makes a FIFO and reads whatever is written to it.
fn drain(path: &Path) -> Result<JoinHandle<()>, Failure> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // Opened for writing too, so that there is no end of file before the container has it open.
    let mut reader = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(path)?;
    Ok(tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while reader
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {}
    }))
}
