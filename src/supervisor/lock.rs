//! The lock that says that a project has a supervisor.
//!
//! It is a `flock` on `supervisor.lock` in the project's run folder. The kernel drops it with its last holder, so it never
//! lies as a process id in a file does.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::state::{StateRoot, create_private_dir};

/// Name of the lock in `state.project_run(name)`.
const FILE_NAME: &str = "supervisor.lock";

/// The right to supervise a project; held as long as any copy of its descriptor is open.
#[derive(Debug)]
pub struct SupervisorLock {
    file: File,
    /// Run folder of the project.
    directory: PathBuf,
}

impl SupervisorLock {
    /// Takes the lock of `project`; `None` if another process has it.
    pub fn acquire(state: &StateRoot, project: &str) -> io::Result<Option<Self>> {
        let directory = state.project_run(project);
        create_private_dir(&directory).map_err(io::Error::other)?;
        let file = open(&directory)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, directory })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes over a lock that was acquired elsewhere and whose descriptor was passed on.
    pub fn from_held(state: &StateRoot, project: &str, descriptor: OwnedFd) -> Self {
        Self {
            file: descriptor.into(),
            directory: state.project_run(project),
        }
    }

    /// Keeps the lock until this process has ended.
    pub fn keep(&self) -> io::Result<()> {
        std::mem::forget(self.file.try_clone()?);
        Ok(())
    }

    /// Run folder of the project that is locked.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl AsFd for SupervisorLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a supervisor of `project` is alive.
pub fn is_locked(state: &StateRoot, project: &str) -> io::Result<bool> {
    let file = match open_existing(&state.project_run(project)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // A shared lock: two that look at once do not see each other.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(FILE_NAME))
}

fn open_existing(directory: &Path) -> io::Result<File> {
    File::open(directory.join(FILE_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_one_supervisor() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        assert!(!is_locked(&state, "shop").unwrap());
        let lock = SupervisorLock::acquire(&state, "shop").unwrap().unwrap();
        assert!(is_locked(&state, "shop").unwrap());
        assert!(!is_locked(&state, "other").unwrap());
        assert!(SupervisorLock::acquire(&state, "shop").unwrap().is_none());
        let copy = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(is_locked(&state, "shop").unwrap(), "a copy keeps it");
        drop(SupervisorLock::from_held(&state, "shop", copy));
        assert!(!is_locked(&state, "shop").unwrap());
    }
}
