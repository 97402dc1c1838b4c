//! Making a container: snapshot, volumes, files, spec and record, all or nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::mounts::Planned;
use super::nerdctl::Nerdctl;
use super::provision::{EXTENSION, MountRecord, Names, NetworkJoin, Provision};
use super::{
    ContainerError, Containers, Creation, DESIRED_EXTENSION, Desired, attributes, cdi, environment,
    files, init, labels, mounts, removal, rootfs, runtime, volume,
};
use crate::engine::spec::{
    self, ContainerSpec, Host, Namespace, Namespaces, SharedMemory, SpecMount, user,
};
use crate::engine::{ContainerRecord, RootMount};
use crate::failpoint::boundary;
use crate::model::Service;
use crate::random::random_hex;
use crate::state::StateRoot;

/// Docker's default.
const SHARED_MEMORY: u64 = 64 << 20;

impl Containers {
    /// Makes snapshot, volumes, files and record, with an id of 64 hex digits. All or nothing.
    pub async fn create(&self, creation: &Creation<'_>) -> Result<ContainerRecord, ContainerError> {
        let id = random_hex(32);
        let mut planned = Planned::default();
        match self.make(creation, &id, &mut planned).await {
            Err(error) => {
                self.undo(&id, &mut planned).await;
                Err(error)
            }
            made => made,
        }
    }

    /// Removes what a failed [`Containers::create`] made. The first error is the one to report.
    async fn undo(&self, id: &str, planned: &mut Planned) {
        if let Err(error) = self.engine.delete_container(id).await {
            tracing::warn!(id, %error, "cannot remove the record of a container that was not made");
        }
        let images = image_snapshots(id, &mut planned.records).map(|(key, _)| key);
        for key in images.chain([id.to_owned()]) {
            if let Err(error) = self.engine.remove_snapshot(&key).await {
                tracing::warn!(id, %error, "cannot remove a snapshot of a container that was not made");
            }
        }
        if let Err(error) = self.remove_files(id) {
            tracing::warn!(id, %error, "cannot remove the files of a container that was not made");
        }
        for name in &planned.made {
            if let Err(error) = volume::remove(&self.state, name) {
                tracing::warn!(id, %error, "cannot remove a volume of a container that was not made");
            }
        }
    }

    /// Mounts the volumes that have a file system of their own, while all else goes on.
    async fn mount_volumes(&self, creation: &Creation<'_>) -> Result<(), ContainerError> {
        let volumes = mounts::file_systems(&self.state, creation)?;
        if volumes.is_empty() {
            return Ok(());
        }
        let state = self.state.clone();
        super::blocking(move || {
            let mut volumes = volumes.iter();
            volumes.try_for_each(|volume| volume::provide(&state, volume).map(drop))
        })
        .await
    }

    async fn make(
        &self,
        creation: &Creation<'_>,
        id: &str,
        planned: &mut Planned,
    ) -> Result<ContainerRecord, ContainerError> {
        let service = creation.service;
        attributes::check(service)?;
        let image = creation.image;
        let passwd = self
            .images
            .text_file(image, "/etc/passwd")
            .await?
            .unwrap_or_default();
        let group = self
            .images
            .text_file(image, "/etc/group")
            .await?
            .unwrap_or_default();
        let name = service
            .user
            .as_deref()
            .filter(|user| !user.is_empty())
            .unwrap_or(&image.config.user);
        let user = user::resolve(name, &service.group_add, &passwd, &group)?;

        let planned_files = files::plan(creation.project, service, &user)?;
        let network = network(creation)?;
        let names = names(creation, id, &network)?;
        let mut provision = Provision {
            network,
            names,
            files: planned_files.iter().map(|(file, _)| file.clone()).collect(),
            runtime_binary: runtime::binary(service, creation.project)?,
            ..Provision::default()
        };
        for kind in ["pid", "ipc"] {
            if let Some(parent) = creation.parents.get(kind) {
                provision.parents.insert(kind.into(), parent.id.clone());
            }
        }
        if service.ipc.as_deref() == Some("shareable") {
            provision.shared_memory = Some(shared_memory_size(service));
        }

        let engine = self.engine.options();
        removal::note_owner(&self.state, engine, id, &creation.project.name)?;
        self.mount_volumes(creation).await?;
        mounts::plan(&self.state, creation, planned)?;
        self.mount_images(creation, id, planned).await?;
        provision.mounts.clone_from(&planned.records);

        let edits = cdi::edits(service)?;
        let mut spec = self.describe(creation, id, &provision)?;
        spec.user = user;
        add_devices(&mut spec, edits);
        let mut document = spec::build(&spec, Host::get())?;
        runtime::compile_filter(&self.state, &provision.runtime_binary, &mut document);

        let snapshot_labels = BTreeMap::from([(
            super::label::PROJECT.to_owned(),
            creation.project.name.clone(),
        )]);
        let root = self
            .engine
            .prepare_snapshot(id, &image.chain_id, &snapshot_labels, Some(creation.lease))
            .await?;
        boundary("create container: snapshot");
        rootfs::complete(&root).map_err(ContainerError::io("complete the root file system"))?;
        self.prepare_root(root, planned).await?;

        files::write_values(&self.state, id, &planned_files)?;
        self.write_etc(id, &provision)?;

        let desired = Desired {
            anonymous_volumes: planned.anonymous.clone(),
            ..creation.desired.clone()
        };
        let mut record = ContainerRecord {
            id: id.into(),
            image: image.reference.clone(),
            labels: labels::labels(
                creation,
                &self.state,
                self.engine.options(),
                id,
                &provision.names,
                &provision.mounts,
            ),
            runtime: runtime::shim(service, creation.project),
            snapshotter: self.engine.snapshotter().into(),
            snapshot_key: id.into(),
            spec: document.to_string().into_bytes(),
            extensions: BTreeMap::from([
                (DESIRED_EXTENSION.into(), super::json(&desired)),
                (EXTENSION.into(), super::json(&provision)),
            ]),
            created_at: jiff::Timestamp::default(),
        };
        record.created_at = self
            .engine
            .create_container(&record, Some(creation.lease))
            .await?;
        boundary("create container: record");
        if let Some(nerdctl) = Nerdctl::in_use(self.engine.options()) {
            let ports = creation
                .sandbox
                .map(|sandbox| sandbox.ports.as_slice())
                .unwrap_or_default();
            let volumes = provision
                .mounts
                .iter()
                .filter_map(|mount| mount.name.as_deref());
            nerdctl.show(&self.state, id, &desired.name, ports, volumes);
            let endpoints = creation.sandbox.map(|sandbox| sandbox.endpoints.as_slice());
            let names = &provision.names;
            nerdctl.show_names(id, &desired.name, names, endpoints.unwrap_or_default());
        }
        Ok(record)
    }

    /// Makes a snapshot for each image that is mounted. What is written there goes with the container, as in Docker.
    async fn mount_images(
        &self,
        creation: &Creation<'_>,
        id: &str,
        planned: &mut Planned,
    ) -> Result<(), ContainerError> {
        for (key, record) in image_snapshots(id, &mut planned.records) {
            let reference = record.source.to_string_lossy().into_owned();
            let directory = &creation.project.working_dir;
            let platform = creation.project.platform(creation.service);
            let image = self
                .images
                .ensure(&reference, directory, platform, creation.lease)
                .await?;
            // No record of containerd's refers to it, so nothing else would keep it.
            let labels = BTreeMap::from([
                (
                    "containerd.io/gc.root".to_owned(),
                    jiff::Timestamp::now().to_string(),
                ),
                (
                    super::label::PROJECT.to_owned(),
                    creation.project.name.clone(),
                ),
            ]);
            let lease = Some(creation.lease);
            let mounts = self
                .engine
                .prepare_snapshot(&key, &image.chain_id, &labels, lease)
                .await?;
            if let Some(subpath) = &record.subpath {
                let point = image_point(&self.state, &key);
                let found =
                    super::image_part::mount(mounts, subpath.clone(), point.clone()).await?;
                record.source = point;
                record.spec_kind = "bind".into();
                record.options = spec::bind_options(record.read_only, found.is_dir, Host::get());
                continue;
            }
            let [mount] = mounts.as_slice() else {
                let reason = "its snapshot is more than one mount";
                return Err(ContainerError::invalid("volumes.source", reference, reason));
            };
            record.source = PathBuf::from(&mount.source);
            record.spec_kind.clone_from(&mount.kind);
            record.options.clone_from(&mount.options);
            if record.read_only {
                record.options.retain(|option| option != "rw");
                record.options.push("ro".into());
            }
        }
        Ok(())
    }

    /// Copies the image's content into the volumes that are empty, and makes mount points that the runtime would make wrong.
    async fn prepare_root(
        &self,
        root: Vec<RootMount>,
        planned: &Planned,
    ) -> Result<(), ContainerError> {
        let fills = planned.fills.clone();
        let points = mounts::tmpfs_points(&planned.records);
        if fills.is_empty() && points.is_empty() {
            return Ok(());
        }
        super::blocking(move || {
            let prepare = |root: &std::fs::File, _: &Path| {
                for fill in &fills {
                    volume::fill(&fill.folder, &fill.data, root, &fill.target)?;
                }
                for point in &points {
                    mounts::make_tmpfs_point(root, point)?;
                }
                Ok(())
            };
            crate::engine::with_rootfs(&root, prepare).map_err(ContainerError::io(
                "prepare volumes and mount points from the image",
            ))
        })
        .await
    }

    /// Everything of the spec but the user.
    fn describe(
        &self,
        creation: &Creation<'_>,
        id: &str,
        provision: &Provision,
    ) -> Result<ContainerSpec, ContainerError> {
        let service = creation.service;
        let host = Host::get();
        let (devices, rules) = attributes::devices(service)?;
        let security = attributes::security(service, creation.project)?;
        let namespaces = namespaces(creation, provision)?;
        let own_network = creation.sandbox.is_some() || provision.network == NetworkJoin::Private;
        let sysctls = attributes::sysctls(service, &namespaces.network, own_network)?;
        let shared_memory = self.shared_memory(creation, id)?;
        Ok(ContainerSpec {
            args: environment::arguments(service, &creation.image.config)?,
            environment: environment::variables(
                service,
                &creation.image.config,
                &provision.names.hostname,
            ),
            working_dir: environment::working_dir(service, &creation.image.config)?,
            terminal: service.tty,
            hostname: provision.names.hostname.clone(),
            domainname: provision.names.domainname.clone(),
            privileged: service.privileged,
            read_only: service.read_only,
            no_new_privileges: security.no_new_privileges,
            cap_add: service.cap_add.clone(),
            cap_drop: service.cap_drop.clone(),
            seccomp: security.seccomp,
            system_paths_unconfined: security.system_paths_unconfined,
            apparmor: security.apparmor,
            selinux_label: security.selinux_label,
            namespaces,
            cgroups_path: spec::cgroups_path(service.cgroup_parent.as_deref(), id, host)?,
            resources: attributes::resources(service, rules)?,
            limits: attributes::limits(service)?,
            oom_score_adj: service.oom_score_adj.unwrap_or_default(),
            sysctls,
            devices,
            shared_memory,
            mounts: self.spec_mounts(creation, id, provision)?,
            annotations: labels::annotations(creation, self.engine.options(), id, creation.sandbox),
            ..ContainerSpec::default()
        })
    }

    /// `/dev/shm`: one that other containers may share is kept on the host.
    fn shared_memory(
        &self,
        creation: &Creation<'_>,
        id: &str,
    ) -> Result<SharedMemory, ContainerError> {
        let service = creation.service;
        if let Some(parent) = creation.parents.get("ipc") {
            let shared =
                Provision::of(parent)?.is_some_and(|parent| parent.shared_memory.is_some());
            if !shared {
                let mode = service.ipc.clone().unwrap_or_default();
                return Err(ContainerError::invalid(
                    "ipc",
                    mode,
                    "the other container does not share; it needs `ipc: shareable`",
                ));
            }
            return Ok(SharedMemory::Folder(self.shared_memory_folder(&parent.id)));
        }
        Ok(match service.ipc.as_deref() {
            Some("host") => SharedMemory::Folder("/dev/shm".into()),
            Some("none") => SharedMemory::Absent,
            Some("shareable") => SharedMemory::Folder(self.shared_memory_folder(id)),
            _ => SharedMemory::Size(shared_memory_size(service)),
        })
    }

    pub(super) fn shared_memory_folder(&self, id: &str) -> PathBuf {
        self.state.container_run(id).join("shm")
    }

    fn spec_mounts(
        &self,
        creation: &Creation<'_>,
        id: &str,
        provision: &Provision,
    ) -> Result<Vec<SpecMount>, ContainerError> {
        let mut list: Vec<SpecMount> = provision.mounts.iter().map(MountRecord::to_spec).collect();
        let covered = |path: &str| {
            provision
                .mounts
                .iter()
                .any(|mount| mount.destination == Path::new(path))
        };
        let folder = self.state.container(id);
        for name in ["resolv.conf", "hostname", "hosts"] {
            let target = format!("/etc/{name}");
            if covered(&target) {
                continue;
            }
            let mut options = spec::bind_options(creation.service.read_only, false, Host::get());
            options.push("rprivate".into());
            list.push(SpecMount::bind(&folder.join(name), target, options));
        }
        list.extend(files::mounts(&self.state, id, &provision.files));
        if creation.service.init == Some(true) {
            let options = vec!["bind".into(), "ro".into()];
            list.push(SpecMount::bind(
                &init::path(&self.state)?,
                environment::INIT_PATH,
                options,
            ));
        }
        Ok(list)
    }
}

/// Adds what devices by name need.
fn add_devices(spec: &mut ContainerSpec, edits: cdi::Edits) {
    for variable in edits.environment {
        environment::set(&mut spec.environment, variable);
    }
    for device in edits.devices {
        spec.devices.retain(|known| known.path != device.path);
        spec.devices.push(device);
    }
    spec.resources.device_rules.extend(edits.rules);
    spec.mounts.extend(edits.mounts);
    spec.hooks.extend(edits.hooks);
    for group in edits.groups {
        if !spec.user.additional_gids.contains(&group) {
            spec.user.additional_gids.push(group);
        }
    }
}

/// Whose network the container uses.
fn network(creation: &Creation<'_>) -> Result<NetworkJoin, ContainerError> {
    if let Some(sandbox) = creation.sandbox {
        return Ok(NetworkJoin::Sandbox(sandbox.spec.id.clone()));
    }
    if let Some(parent) = creation.parents.get("network_mode") {
        return match Provision::of(parent)? {
            Some(Provision {
                network: network @ (NetworkJoin::Host | NetworkJoin::Sandbox(_)),
                ..
            }) => Ok(network),
            _ => Ok(NetworkJoin::Container(parent.id.clone())),
        };
    }
    Ok(match creation.service.network_mode.as_deref() {
        Some("host") => NetworkJoin::Host,
        _ => NetworkJoin::Private,
    })
}

/// Names of the container. One that joins another's network has the other's, as in Docker.
fn names(
    creation: &Creation<'_>,
    id: &str,
    network: &NetworkJoin,
) -> Result<Names, ContainerError> {
    let service = creation.service;
    let parent = creation
        .parents
        .get("network_mode")
        .map(Provision::of)
        .transpose()?
        .flatten();
    if let Some(parent) = parent {
        return Ok(parent.names);
    }
    let written = service.hostname.as_deref().filter(|name| !name.is_empty());
    let host = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    let hostname = match written {
        Some(name) => name.to_owned(),
        None if *network == NetworkJoin::Host || service.uts.as_deref() == Some("host") => host(),
        None => id[..12].to_owned(),
    };
    let extra_hosts = service.extra_hosts.iter();
    Ok(Names {
        hostname,
        domainname: service.domainname.clone().unwrap_or_default(),
        extra_hosts: extra_hosts
            .flat_map(|(name, list)| list.iter().map(|address| (name.clone(), address.clone())))
            .collect(),
        dns: service.dns.clone(),
        dns_search: service.dns_search.clone(),
        dns_opt: service.dns_opt.clone(),
    })
}

fn namespaces(
    creation: &Creation<'_>,
    provision: &Provision,
) -> Result<Namespaces, ContainerError> {
    let service = creation.service;
    // Joined ones are named at each start, as the process that has them changes.
    let joined = |kind: &str| Namespace::Path(PathBuf::from(format!("/proc/self/ns/{kind}")));
    let mode = |kind: &'static str, mode: Option<&str>| match mode {
        Some("host") => Ok(Namespace::Host),
        _ if provision.parents.contains_key(kind) => Ok(joined(kind)),
        None | Some("" | "private" | "shareable" | "none") => Ok(Namespace::Private),
        Some(other) => Err(ContainerError::invalid(
            kind,
            other,
            "there is no such mode",
        )),
    };
    let network = match &provision.network {
        NetworkJoin::Host => Namespace::Host,
        NetworkJoin::Private => Namespace::Private,
        NetworkJoin::Container(_) => joined("net"),
        NetworkJoin::Sandbox(_) => match creation.sandbox {
            Some(sandbox) => Namespace::Path(sandbox.netns.clone()),
            None => joined("net"),
        },
    };
    Ok(Namespaces {
        network,
        pid: mode("pid", service.pid.as_deref())?,
        ipc: mode("ipc", service.ipc.as_deref())?,
        uts: attributes::uts(service)?,
        cgroup: attributes::cgroup(service)?,
    })
}

/// Where a part of an image is mounted for a container, by the key of the snapshot.
pub(super) fn image_point(state: &StateRoot, key: &str) -> PathBuf {
    let id = key.split('-').next().unwrap_or_default();
    state.container_run(id).join("images").join(key)
}

/// The mounts of images with the keys of their snapshots.
pub(super) fn image_snapshots<'a>(
    id: &str,
    records: &'a mut [MountRecord],
) -> impl Iterator<Item = (String, &'a mut MountRecord)> {
    let images = records.iter_mut().filter(|record| record.kind == "image");
    images
        .enumerate()
        .map(move |(number, record)| (format!("{id}-image-{number}"), record))
}

fn shared_memory_size(service: &Service) -> u64 {
    let size = service.shm_size.and_then(|size| u64::try_from(size).ok());
    size.filter(|size| *size > 0).unwrap_or(SHARED_MEMORY)
}
