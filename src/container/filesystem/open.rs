//! The root of a container: that of its first process, or its snapshot with everything mounted again.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, OpenTreeFlags};
use serde::Deserialize;

use super::super::provision::Provision;
use super::super::{ContainerError, Containers, volume};
use super::{Attributes, FileKind, FileSystem};
use crate::engine::{
    ContainerRecord, EngineError, RootMount, TaskStatus, mount_below, read_only, with_rootfs,
};

/// What is read of a spec.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    root: Root,
    mounts: Vec<Mount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Root {
    readonly: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mount {
    destination: PathBuf,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    options: Vec<String>,
}

impl Containers {
    /// The files of a container as its processes see them. Of one that does not run: its root with its volumes and bind
    /// mounts, at the places and as writable as when it runs.
    pub async fn file_system(&self, id: &str) -> Result<FileSystem, ContainerError> {
        let record = self.engine.container(id).await?;
        let record = record.ok_or_else(|| EngineError::NotFound {
            what: format!("container `{id}`"),
        })?;
        let task = self.engine.task(id).await?;
        let runs = |status| {
            matches!(
                status,
                TaskStatus::Created
                    | TaskStatus::Running
                    | TaskStatus::Paused
                    | TaskStatus::Pausing
            )
        };
        if let Some(task) = task.filter(|task| runs(task.status)) {
            let root = root_of(id, task.pid).map_err(ContainerError::io(format!(
                "open the root of process {}",
                task.pid
            )))?;
            return Ok(FileSystem::new(root));
        }
        let rootfs = self.engine.snapshot_mounts(&record.snapshot_key).await?;
        let this = self.clone();
        super::super::blocking(move || this.assemble(&record, &rootfs)).await
    }

    /// The bare root file system of a container, for reading: what its image and its processes have put there, without
    /// volumes and mounts.
    pub async fn bare_file_system(&self, id: &str) -> Result<FileSystem, ContainerError> {
        let record = self.engine.container(id).await?;
        let record = record.ok_or_else(|| EngineError::NotFound {
            what: format!("container `{id}`"),
        })?;
        let rootfs = read_only(&self.engine.snapshot_mounts(&record.snapshot_key).await?);
        super::super::blocking(move || {
            let tree = with_rootfs(&rootfs, |_root, path| detached(path));
            let tree = tree.map_err(ContainerError::io("mount the root file system"))?;
            Ok(FileSystem::new(tree))
        })
        .await
    }

    fn assemble(
        &self,
        record: &ContainerRecord,
        rootfs: &[RootMount],
    ) -> Result<FileSystem, ContainerError> {
        let spec: Spec =
            serde_json::from_slice(&record.spec).map_err(|source| ContainerError::Damaged {
                id: record.id.clone(),
                source,
            })?;
        // A volume with a file system of its own is not mounted while nobody uses it.
        let provision = Provision::of(record)?.unwrap_or_default();
        for name in provision
            .mounts
            .iter()
            .filter_map(|mount| mount.name.as_deref())
        {
            if let Some(volume) = volume::find(&self.state, name)? {
                volume::provide(&self.state, &volume)?;
            }
        }
        let mounts: Vec<RootMount> = spec.mounts.iter().filter_map(root_mount).collect();
        let tree = with_rootfs(rootfs, |root, path| {
            let files = FileSystem::new(root.try_clone()?.into());
            for mount in &mounts {
                make_mount_point(&files, mount)?;
                mount_below(root, mount)?;
            }
            if spec.root.readonly {
                let read_only = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(path, read_only, "")?;
            }
            detached(path)
        });
        let tree = tree.map_err(ContainerError::io("mount the root file system"))?;
        Ok(FileSystem::new(tree))
    }
}

/// A copy of the mounts at `path` that belongs to no namespace and ends with its descriptor.
pub(super) fn detached(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// What of the container's mounts holds files of somebody: not the kernel's own file systems, and nothing that is gone.
fn root_mount(mount: &Mount) -> Option<RootMount> {
    let has = |names: &[&str]| {
        mount
            .options
            .iter()
            .any(|option| names.contains(&option.as_str()))
    };
    let mut options = match mount.kind.as_str() {
        "bind" | "none" | "" if has(&["bind", "rbind"]) => {
            Path::new(&mount.source).exists().then_some(())?;
            vec!["rbind".to_owned()]
        }
        "overlay" => {
            let data = mount.options.iter();
            data.filter(|option| option.contains("dir="))
                .cloned()
                .collect()
        }
        _ => return None,
    };
    if has(&["ro", "rro"]) {
        options.push("ro".into());
    }
    Some(RootMount {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.destination.to_string_lossy().into_owned(),
        options,
    })
}

/// The runtime makes these at the first start.
fn make_mount_point(files: &FileSystem, mount: &RootMount) -> io::Result<()> {
    let target = Path::new(&mount.target);
    if files.kind(target, true)?.is_some() {
        return Ok(());
    }
    let folder = Attributes::folder(0o755);
    if mount.kind == "overlay" || Path::new(&mount.source).is_dir() {
        return files.make_folders(target, &folder);
    }
    if let Some(parent) = target.parent()
        && files.kind(parent, true)? != Some(FileKind::Folder)
    {
        files.make_folders(parent, &folder)?;
    }
    files.put_file(target, &mut io::empty(), &Attributes::file(0o755))
}

/// The root of process `pid`, which must be one of the container `id`: its number may be another's by now, and the root of
/// a process of the host is the host's.
pub(in crate::container) fn root_of(id: &str, pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // From here on it is this process that is looked at, or none.
    let process = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?;
    let reading = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut groups = String::new();
    File::from(rustix::fs::openat(
        &process,
        "cgroup",
        reading,
        Mode::empty(),
    )?)
    .read_to_string(&mut groups)?;
    if !groups.contains(id) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "process {} is not the container's any more",
                process.as_raw_fd()
            ),
        ));
    }
    Ok(rustix::fs::openat(&process, "root", flags, Mode::empty())?)
}
