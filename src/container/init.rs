//! The init binary of `init: true`, written once to the state folder.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::ContainerError;
use crate::random::random_hex;
use crate::state::{StateRoot, create_private_dir};

/// Compiled from `src/init/main.rs` by `build.rs`.
const BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/docker-init"));

/// The binary's path; its name carries its content's digest, so that a newer version never changes a running container.
pub(super) fn path(state: &StateRoot) -> Result<PathBuf, ContainerError> {
    let folder = state.data().join("bin");
    let name = HEXLOWER.encode(&Sha256::digest(BINARY)[..8]);
    let path = folder.join(format!("init-{name}"));
    let complete = std::fs::metadata(&path).is_ok_and(|found| {
        found.len() == BINARY.len() as u64 && found.permissions().mode() & 0o111 == 0o111
    });
    if complete {
        return Ok(path);
    }
    create_private_dir(&folder)?;
    let temporary = folder.join(format!("init-{name}.{}.new", random_hex(8)));
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&temporary)?;
        file.write_all(BINARY)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(ContainerError::writing(&path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn installed() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&StateRoot::new(Some(folder.path()))).unwrap();
        // A process that another test starts has our descriptors until its exec, that of the new file too.
        let busy = || {
            let started = Command::new(&path).stderr(Stdio::null()).status();
            started.is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
        };
        while busy() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (folder, path)
    }

    fn code(arguments: &[&str]) -> Option<i32> {
        let (_folder, path) = installed();
        let mut command = Command::new(path);
        command
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
    }

    #[test]
    fn it_is_written_once() {
        let (folder, first) = installed();
        let written = std::fs::metadata(&first).unwrap().modified().unwrap();
        let second = path(&StateRoot::new(Some(folder.path()))).unwrap();
        assert_eq!(first, second);
        assert_eq!(
            std::fs::metadata(&second).unwrap().modified().unwrap(),
            written
        );
    }

    #[test]
    fn it_ends_as_its_command_does() {
        assert_eq!(code(&["--", "sh", "-c", "exit 7"]), Some(7));
        assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
        assert_eq!(code(&["--", "/no/such/file"]), Some(127));
        assert_eq!(code(&["--", "/etc"]), Some(126));
        assert_eq!(code(&[]), Some(2));
    }

    #[test]
    fn it_passes_signals_on() {
        let (_folder, path) = installed();
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child = Command::new(path)
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9));
    }

    #[test]
    fn its_command_has_the_signals_that_it_was_given() {
        let (_folder, path) = installed();
        let status = |program: &mut Command| {
            let output = program.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let lines = text.lines().filter(|line| line.starts_with("Sig"));
            let masks = lines.filter(|line| !line.starts_with("SigQ"));
            masks.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let direct = status(Command::new("cat").arg("/proc/self/status"));
        let through = status(Command::new(path).args(["--", "cat", "/proc/self/status"]));
        assert_eq!(direct, through);
        assert_eq!(direct.len(), 4);
    }

    #[test]
    fn it_collects_orphans() {
        let (_folder, path) = installed();
        let script = "(sleep 0.2 &) ; sleep 1";
        let mut child = Command::new(path)
            .args(["sh", "-c", script])
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen_two = false;
        loop {
            let text = std::fs::read_to_string(&children).unwrap_or_default();
            let count = text.split_ascii_whitespace().count();
            seen_two |= count == 2;
            if seen_two && count == 1 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the orphan came and stayed: {text}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
