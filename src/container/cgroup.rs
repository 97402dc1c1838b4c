//! The common parent of the containers' cgroups, where systemd does not keep them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use super::{ContainerError, Containers};
use crate::engine::spec::{CGROUP_PARENT, Host};
use crate::state::create_private_dir;

impl Containers {
    /// Held while a task is created, so that the end of another container does not remove the parent in between.
    pub(super) fn cgroup_lock(&self) -> Result<File, ContainerError> {
        create_private_dir(self.state.run())?;
        let path = self.state.run().join("cgroup.lock");
        let open = || {
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.lock_shared()?;
            Ok(file)
        };
        open().map_err(ContainerError::io(format!("lock {}", path.display())))
    }

    /// Removes what a creation that was cut off has left of a container's cgroups and of processes in them, and their
    /// parent if that is all.
    pub(super) fn remove_cgroups(&self, id: &str) {
        if !Host::get().systemd {
            for parent in cgroup_parents() {
                let folder = parent.join(id);
                kill_processes(&folder);
                remove(&folder);
            }
        }
        self.remove_cgroup_parent();
    }

    /// Removes the parent once nobody is in it. False if what is in it has no processes: somebody is about to remove that.
    pub fn remove_cgroup_parent(&self) -> bool {
        if Host::get().systemd {
            return true;
        }
        let path = self.state.run().join("cgroup.lock");
        let Ok(lock) = OpenOptions::new().write(true).open(&path) else {
            return true;
        };
        // Somebody starts a container just now, and will be the one to remove it.
        if lock.try_lock().is_err() {
            return true;
        }
        let parents = cgroup_parents();
        for parent in &parents {
            remove(parent);
        }
        !parents
            .iter()
            .any(|parent| parent.exists() && is_idle(parent))
    }
}

/// The common parent in each hierarchy.
fn cgroup_parents() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let name = CGROUP_PARENT.trim_start_matches('/');
    let controllers = std::fs::read_dir(root).into_iter().flatten().flatten();
    let nested = controllers.map(|entry| entry.path().join(name));
    nested.chain([root.join(name)]).collect()
}

/// Whether no cgroup below `folder` has a process.
fn is_idle(folder: &Path) -> bool {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    processes.is_ok_and(|processes| processes.is_empty())
        && children.all(|child| is_idle(&child.path()))
}

/// Kills what a runtime that was killed itself has left in a container's cgroup.
fn kill_processes(folder: &Path) {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|pid| pid.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid)
            && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
        {
            tracing::debug!(%error, ?pid, "cannot kill what is left in a cgroup");
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::trace!(folder = %folder.display(), %error, "cgroup stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_idle_if_none_below_it_has_a_process() {
        let root = tempfile::tempdir().unwrap();
        let child = root.path().join("child");
        std::fs::create_dir(&child).unwrap();
        for folder in [root.path(), &child] {
            std::fs::write(folder.join("cgroup.procs"), "").unwrap();
        }
        assert!(is_idle(root.path()));
        std::fs::write(child.join("cgroup.procs"), "7\n").unwrap();
        assert!(!is_idle(root.path()));
    }
}
