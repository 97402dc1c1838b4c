//! What stands between containerd and a container: one process, found by its socket.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::process::{Pid, PidfdFlags, Signal};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;

use super::Engine;

impl Engine {
    /// Whether a shim of the container lives. One without a task is that of a creation which goes on in containerd, or is
    /// being undone there, after whoever asked for it was killed.
    pub async fn has_shim(&self, id: &str) -> bool {
        UnixStream::connect(&self.shim_socket(id)).await.is_ok()
    }

    /// Kills the shim of a container that has no task.
    pub fn kill_shim(&self, id: &str) {
        kill_shims(id, |_| true);
    }

    /// Kills a shim that containerd has forgotten: it was being started when whoever asked for it was killed, and waits for a
    /// reader of its log, which was removed with its folder. containerd would take it for the one of the next task, and
    /// wait for its answer without end. Whether there was one.
    pub fn kill_forgotten_shim(&self, id: &str) -> bool {
        kill_shims(id, |process| {
            // proc(5): the link of a folder that is gone ends so.
            let folder = std::fs::read_link(process.join("cwd"));
            folder.is_ok_and(|folder| {
                folder
                    .as_os_str()
                    .as_encoded_bytes()
                    .ends_with(b" (deleted)")
            })
        })
    }

    /// Whether a process of the container's shim lives, one that starts a shim or cleans up after it included.
    pub(super) fn has_shim_process(id: &str) -> bool {
        shims(id, |_| true).next().is_some()
    }

    /// A killed shim leaves its socket behind; the next one of that id would replace it, but ids are never reused.
    pub(super) async fn remove_stale_shim_socket(&self, id: &str) {
        let socket = self.shim_socket(id);
        let Err(error) = UnixStream::connect(&socket).await else {
            return;
        };
        if error.kind() == std::io::ErrorKind::ConnectionRefused
            && let Err(error) = std::fs::remove_file(&socket)
        {
            tracing::debug!(socket = %socket.display(), %error, "stale shim socket stays");
        }
    }

    fn shim_socket(&self, id: &str) -> PathBuf {
        shim_socket(self.address(), self.namespace(), id)
    }
}

/// Where the runc shim of a container listens, whatever containerd's own folders are.
pub(super) fn shim_socket(address: &Path, namespace: &str, id: &str) -> PathBuf {
    let key = address.join(namespace).join(id);
    let digest = Sha256::digest(key.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/run/containerd/s/{}", HEXLOWER.encode(&digest)))
}

/// Kills the shims of a container of whose folders below `/proc` `is_meant` is true; whether there was one.
fn kill_shims(id: &str, is_meant: impl Fn(&Path) -> bool) -> bool {
    let mut killed = false;
    for process in shims(id, is_meant) {
        match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) => killed = true,
            Err(error) => tracing::warn!(id, %error, "cannot kill a shim"),
        }
    }
    killed
}

/// The shims of a container of whose folders below `/proc` `is_meant` is true.
fn shims(id: &str, is_meant: impl Fn(&Path) -> bool) -> impl Iterator<Item = OwnedFd> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = Pid::from_raw(entry.file_name().to_string_lossy().parse().ok()?)?;
        // The process that is looked at is the one that is returned.
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        (is_shim_of(&arguments, id) && is_meant(&entry.path())).then_some(process)
    })
}

/// Whether a command line, words ended by NUL, is that of a shim of `id`.
fn is_shim_of(arguments: &[u8], id: &str) -> bool {
    let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
    let program = Path::new(std::str::from_utf8(words[0]).unwrap_or_default());
    let is_shim = program
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim"));
    is_shim
        && words
            .windows(2)
            .any(|pair| pair == [b"-id".as_slice(), id.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_program_and_the_id() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0default\0-id\0abc\0";
        assert!(is_shim_of(line, "abc"));
        assert!(!is_shim_of(line, "ab"));
        assert!(!is_shim_of(b"/usr/bin/sleep\0-id\0abc\0", "abc"));
        assert!(!is_shim_of(b"", "abc"));
    }
}
