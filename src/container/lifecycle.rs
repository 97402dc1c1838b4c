//! Start, stop and removal.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::nerdctl::Nerdctl;
use super::provision::{NetworkJoin, Provision};
use super::{
    ContainerError, Containers, Desired, create, etc, files, image_part, removal, runtime_error,
    volume,
};
use crate::engine::spec::{Host, set_namespace_path};
use crate::engine::{ContainerRecord, EngineError, ExitStatus, NewTask, Stdio, TaskStatus};
use crate::failpoint::boundary;
use crate::network::SandboxRecord;

const KILL: u32 = 9;

/// How long the remains of a task that was given up may be in the way of a new one, and the pause between two attempts.
const REMAINS: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// How long the folder of a task may be in the way before containerd is taken to have forgotten it. It may only be slow to
/// remove it.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// How long a creation takes at most where nothing is in its way.
const SLOW: Duration = Duration::from_secs(1);

/// How long containerd may take to end a creation whose asker was killed, before its shim is taken for a forgotten one.
const CREATION: Duration = Duration::from_secs(5);

impl Containers {
    /// Creates the task with the FIFOs under `state.container_run(id)` (`stdin` only with `stdin_open`, `stdout`,
    /// `stderr`; with a terminal no `stderr`) that the caller has made and reads, starts it, and returns its process id.
    /// Configs and secrets are read anew before. A stopped task of an earlier run is deleted first; a running one is
    /// left alone.
    pub async fn start(&self, id: &str) -> Result<u32, ContainerError> {
        let mut record = self.record(id).await?;
        match self.engine.task(id).await? {
            Some(task)
                if matches!(
                    task.status,
                    TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing
                ) =>
            {
                return Ok(task.pid);
            }
            // A shim without a task: containerd was killed before it had ended it, and does not remember.
            None if !self.engine.has_shim(id).await => {}
            _ => self.discard_task(id).await?,
        }
        let provision = Provision::of(&record)?.unwrap_or_default();
        let desired = Desired::of(&record)?.unwrap_or_default();
        let (this, own, plan) = (self.clone(), id.to_owned(), provision.clone());
        // A file system of the network may take long to mount.
        super::blocking(move || this.provide(&own, &plan)).await?;
        self.provide_images(id, &provision).await?;
        if self.join_namespaces(&mut record, &provision).await? {
            self.engine.update_container(&record).await?;
        }
        let task = NewTask {
            id: id.into(),
            rootfs: self.engine.snapshot_mounts(&record.snapshot_key).await?,
            stdio: self.stdio(id, &desired),
            runtime_binary: provision.runtime_binary.clone(),
            systemd_cgroup: Host::get().systemd,
        };
        // Held so that the end of another container does not remove the common cgroup in between.
        let _lock = self.cgroup_lock()?;
        let started = match self.create_task(&task).await {
            Ok(pid) => {
                boundary("start container: task made");
                self.engine.start_task(id).await.map(|()| pid)
            }
            Err(error) => Err(error),
        };
        match started {
            Ok(pid) => {
                boundary("start container: task started");
                if Nerdctl::in_use(self.engine.options()).is_some() {
                    Nerdctl::started(&self.state, id);
                }
                Ok(pid)
            }
            Err(error) => {
                if let Err(error) = self.discard_task(id).await {
                    tracing::warn!(id, %error, "cannot remove the task of a container that did not start");
                }
                Err(runtime_error::classify(error))
            }
        }
    }

    /// Creates a task. Where somebody was killed who did the same, containerd takes a moment to clean up after it, and may
    /// leave a shim that never answers, or a folder of which it does not know any more.
    pub(super) async fn create_task(&self, task: &NewTask) -> Result<u32, EngineError> {
        let begin = Instant::now();
        let deadline = begin + REMAINS;
        loop {
            let mut has_met_shim = false;
            let creation = self.engine.create_task(task);
            tokio::pin!(creation);
            let result = loop {
                tokio::select! {
                    result = &mut creation => break result,
                    () = tokio::time::sleep(SLOW) => {
                        has_met_shim |= self.engine.kill_forgotten_shim(&task.id);
                    }
                }
            };
            match result {
                Err(error)
                    if (has_met_shim || error.meets_remains()) && Instant::now() < deadline =>
                {
                    tracing::debug!(id = task.id, %error, "an earlier attempt is still there");
                    if begin.elapsed() < FORGOTTEN
                        || !self.engine.remove_forgotten_bundle(&task.id, &error)
                    {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                result => return result,
            }
        }
    }

    async fn record(&self, id: &str) -> Result<ContainerRecord, ContainerError> {
        let record = self.engine.container(id).await?;
        Ok(record.ok_or_else(|| EngineError::NotFound {
            what: format!("container `{id}`"),
        })?)
    }

    fn stdio(&self, id: &str, desired: &Desired) -> Stdio {
        let folder = self.state.container_run(id);
        let path = |used: bool, name: &str| {
            if used {
                folder.join(name)
            } else {
                PathBuf::new()
            }
        };
        Stdio {
            stdin: path(desired.stdin_open, "stdin"),
            stdout: path(true, "stdout"),
            stderr: path(!desired.terminal, "stderr"),
            terminal: desired.terminal,
        }
    }

    /// Mounts the parts of images that a reboot has taken away.
    async fn provide_images(&self, id: &str, provision: &Provision) -> Result<(), ContainerError> {
        let mut mounts = provision.mounts.clone();
        for (key, record) in create::image_snapshots(id, &mut mounts) {
            let Some(subpath) = record.subpath.clone() else {
                continue;
            };
            let snapshot = self.engine.snapshot_mounts(&key).await?;
            image_part::mount(snapshot, subpath, record.source.clone()).await?;
        }
        Ok(())
    }

    /// Makes what a reboot takes away, and what may have changed since the last start.
    fn provide(&self, id: &str, provision: &Provision) -> Result<(), ContainerError> {
        files::refresh(&self.state, id, &provision.files)?;
        if let Some(size) = provision.shared_memory {
            let folder = self.shared_memory_folder(id);
            files::mount_memory(&folder, &format!("mode=1777,size={size}"), false).map_err(
                ContainerError::io(format!("mount a tmpfs on {}", folder.display())),
            )?;
        }
        for name in provision
            .mounts
            .iter()
            .filter_map(|mount| mount.name.as_deref())
        {
            let record = volume::find(&self.state, name)?;
            let record = record.ok_or_else(|| ContainerError::MissingVolume {
                volume: name.into(),
            })?;
            volume::provide(&self.state, &record)?;
        }
        self.write_etc(id, provision)
    }

    /// Writes the files that are mounted in `/etc`, in place, as a running container sees no others.
    pub(super) fn write_etc(&self, id: &str, provision: &Provision) -> Result<(), ContainerError> {
        let sandbox = self.sandbox_of(&provision.network)?;
        let (names, network) = (&provision.names, &provision.network);
        let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let folder = self.state.container(id);
        let hosts = etc::hosts(names, network, sandbox.as_ref(), &host("/etc/hosts"))?;
        let resolv_conf =
            etc::resolv_conf(names, network, sandbox.as_ref(), &host("/etc/resolv.conf"));
        for (name, text) in [
            ("hosts", hosts),
            ("resolv.conf", resolv_conf),
            ("hostname", etc::hostname(names)),
        ] {
            let path = folder.join(name);
            write_public(&path, &text).map_err(ContainerError::writing(&path))?;
        }
        Ok(())
    }

    fn sandbox_of(&self, network: &NetworkJoin) -> Result<Option<SandboxRecord>, ContainerError> {
        match network {
            NetworkJoin::Sandbox(id) => Ok(self.networks.sandbox(id)?),
            _ => Ok(None),
        }
    }

    /// Names the namespaces of others in the spec; true if it changed.
    async fn join_namespaces(
        &self,
        record: &mut ContainerRecord,
        provision: &Provision,
    ) -> Result<bool, ContainerError> {
        let mut paths: Vec<(&str, PathBuf)> = Vec::new();
        match &provision.network {
            NetworkJoin::Private | NetworkJoin::Host => {}
            NetworkJoin::Sandbox(id) => {
                let sandbox = self.networks.sandbox(id)?;
                let sandbox = sandbox.ok_or_else(|| {
                    ContainerError::invalid("network_mode", id, "the network sandbox is gone")
                })?;
                paths.push(("network", sandbox.netns));
            }
            NetworkJoin::Container(id) => {
                paths.push((
                    "network",
                    self.namespace_of("network_mode", id, "net").await?,
                ));
            }
        }
        for (kind, id) in &provision.parents {
            paths.push((kind, self.namespace_of(kind, id, kind).await?));
        }
        if paths.is_empty() {
            return Ok(false);
        }
        let damaged = |source| ContainerError::Damaged {
            id: record.id.clone(),
            source,
        };
        let mut spec: Value = serde_json::from_slice(&record.spec).map_err(damaged)?;
        let mut changed = false;
        for (kind, path) in paths {
            changed |= set_namespace_path(&mut spec, kind, &path);
        }
        if changed {
            record.spec = spec.to_string().into_bytes();
        }
        Ok(changed)
    }

    async fn namespace_of(
        &self,
        attribute: &str,
        id: &str,
        kind: &str,
    ) -> Result<PathBuf, ContainerError> {
        let task = self.engine.task(id).await?;
        let running =
            task.filter(|task| matches!(task.status, TaskStatus::Running | TaskStatus::Paused));
        let task = running.ok_or_else(|| ContainerError::ParentNotRunning {
            what: attribute.into(),
            container: id.into(),
        })?;
        Ok(PathBuf::from(format!("/proc/{}/ns/{kind}", task.pid)))
    }

    /// Sends `signal`, waits up to `grace`, kills, and waits for the end; an ended one is not an error. The task stays.
    pub async fn stop(
        &self,
        id: &str,
        signal: u32,
        grace: Duration,
    ) -> Result<ExitStatus, ContainerError> {
        let Some(task) = self.engine.task(id).await? else {
            return Err(EngineError::NotFound {
                what: format!("task `{id}`"),
            }
            .into());
        };
        if task.status == TaskStatus::Paused {
            // A frozen process acts on no signal.
            self.engine.resume_task(id).await?;
        }
        let ended = {
            let end = self.engine.wait_task(id);
            tokio::pin!(end);
            // Most ended ones are found here without a signal.
            if task.status == TaskStatus::Stopped {
                return Ok(end.await?);
            }
            self.engine.kill_task(id, signal, false).await?;
            tokio::time::timeout(grace, &mut end).await
        };
        if let Ok(status) = ended {
            return Ok(status?);
        }
        self.engine.kill_task(id, KILL, true).await?;
        Ok(self.engine.wait_task(id).await?)
    }

    /// Kills what runs of a task, and removes it. Not an error if there is none.
    pub(super) async fn discard_task(&self, id: &str) -> Result<(), ContainerError> {
        let deadline = Instant::now() + CREATION;
        let mut fifos = Vec::new();
        let task = loop {
            match self.engine.task(id).await? {
                Some(task) => break task,
                None if self.engine.has_shim(id).await => {
                    if !self.engine.kill_forgotten_shim(id) && Instant::now() > deadline {
                        self.engine.kill_shim(id);
                    }
                    // It may hang at opening one of which nobody has the other end.
                    if fifos.is_empty() {
                        fifos = open_fifos(&self.state.container_run(id));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                None => return Ok(()),
            }
        };
        drop(fifos);
        if task.status != TaskStatus::Stopped {
            if task.status == TaskStatus::Paused {
                self.engine.resume_task(id).await?;
            }
            self.engine.kill_task(id, KILL, true).await?;
            // A task that was made and never started has no exit to wait for.
            if task.status != TaskStatus::Created {
                self.engine.wait_task(id).await?;
            }
        }
        self.engine.delete_task(id).await?;
        Ok(())
    }

    /// Removes the folders of a container, with what is mounted in them.
    pub(super) fn remove_files(&self, id: &str) -> Result<(), ContainerError> {
        let run = self.state.container_run(id);
        let images = run.join("images");
        image_part::unmount_all(&images)
            .map_err(ContainerError::io(format!("unmount {}", images.display())))?;
        for mount in ["secrets", "shm"] {
            let path = run.join(mount);
            volume::unmount(&path)
                .map_err(ContainerError::io(format!("unmount {}", path.display())))?;
        }
        let remove = |folder: &Path| {
            remove_folder(folder)
                .map_err(ContainerError::io(format!("remove {}", folder.display())))
        };
        remove(&run)?;
        let folder = self.state.container(id);
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name() != removal::FILE) {
            remove(&entry.path())?;
        }
        remove(&folder)
    }
}

/// Both ends of every FIFO in `folder`.
fn open_fifos(folder: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fifos = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_fifo()));
    fifos
        .filter_map(|fifo| {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            options.open(fifo.path()).ok()
        })
        .collect()
}

/// Removes a folder with all that is in it, or a file or link. Not an error if it is gone.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(folder),
        Ok(_) => std::fs::remove_file(folder),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every user of the container may read it, whatever our umask is. A file that says so already is left alone: to cut one
/// down and to fill it again makes ext4 write it out at once.
fn write_public(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|known| known == text.as_bytes()) {
        return std::fs::set_permissions(path, Permissions::from_mode(0o644));
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o644))
}
