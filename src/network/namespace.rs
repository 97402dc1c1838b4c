//! Network namespaces that are pinned by a file.
//!
//! Whatever has to run inside of one runs on a thread of its own that ends right after, so no other thread is moved.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::NetworkError;
use super::error::io_failed;
use crate::state::create_private_dir;
use crate::sys::namespace::unshare_network;

/// Type of the file system of namespaces.
const NAMESPACE_FILESYSTEM: u32 = 0x6e73_6673;

fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("network-namespace".into())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(io_failed("start a thread"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes a namespace, pins it at `path` and runs `inside` in it. Without success nothing is left.
pub(super) fn create<T: Send>(
    path: &Path,
    inside: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = || io_failed(format!("make the network namespace {}", path.display()));
    if let Some(folder) = path.parent() {
        create_private_dir(folder)?;
    }
    File::create_new(path).map_err(failed())?;
    let outcome = on_thread(|| {
        unshare_network().map_err(failed())?;
        mount_bind("/proc/thread-self/ns/net", path)
            .map_err(io::Error::from)
            .map_err(failed())?;
        inside()
    });
    if outcome.is_err() {
        remove(path)?;
    }
    outcome
}

/// Runs `inside` in the namespace that is pinned at `path`.
pub(super) fn enter<T: Send>(
    path: &Path,
    inside: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = || io_failed(format!("enter the network namespace {}", path.display()));
    let namespace = open(path)?;
    on_thread(|| {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(io::Error::from)
        .map_err(failed())?;
        inside()
    })
}

pub(super) fn open(path: &Path) -> Result<File, NetworkError> {
    File::open(path).map_err(io_failed(format!("open {}", path.display())))
}

/// Whether a namespace is pinned at `path`; after a reboot only an empty file is left.
pub(super) fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| u32::try_from(found.f_type) == Ok(NAMESPACE_FILESYSTEM))
}

/// Unpins the namespace; nothing there is fine.
pub(super) fn remove(path: &Path) -> Result<(), NetworkError> {
    let failed = || io_failed(format!("remove the network namespace {}", path.display()));
    while exists(path) {
        unmount(path, UnmountFlags::DETACH)
            .map_err(io::Error::from)
            .map_err(failed())?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed()),
    }
}

/// Writes a kernel setting of the namespace of the calling thread; `path` is below `/proc/sys`.
pub(super) fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    std::fs::write(Path::new("/proc/sys").join(path), value)
        .map_err(io_failed(format!("set {path}")))
}

/// As [`set`]; a kernel without this setting has nothing to change.
pub(super) fn set_if_there(path: &str, value: &str) -> Result<(), NetworkError> {
    match std::fs::write(Path::new("/proc/sys").join(path), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_failed(format!("set {path}"))),
    }
}
