//! Short-lived helper programs: `nft`, `iptables`, CNI plugins.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Folders of administration programs, which a cleaned environment may not name.
const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What a program left.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// `PATH` with the system's folders at its end.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(SYSTEM_FOLDERS.map(PathBuf::from));
    folders
}

/// Finds an administration program.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A command that finds the system's programs too.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Ok(path) = std::env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

/// Runs `command` with `input`; kills it after `limit`.
pub(super) fn run(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let talked = talk(&mut child, input, limit);
    if talked.is_err() {
        drop(child.kill());
    }
    let status = child.wait()?;
    let (stdout, stderr) = talked?;
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Feeds and drains all three streams at once, so that neither side waits for the other.
fn talk(child: &mut Child, input: &[u8], limit: Duration) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let deadline = Instant::now() + limit;
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    if let Some(stdin) = &stdin {
        fcntl_setfl(stdin, fcntl_getfl(stdin)? | OFlags::NONBLOCK)?;
    }
    let mut rest = input;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    if rest.is_empty() {
        stdin = None;
    }
    while stdin.is_some() || stdout.is_some() || stderr.is_some() {
        let left = deadline
            .checked_duration_since(Instant::now())
            .ok_or(io::ErrorKind::TimedOut)?;
        let mut waiting = Vec::new();
        waiting.extend(stdin.iter().map(|pipe| (0, pipe.as_fd(), PollFlags::OUT)));
        waiting.extend(stdout.iter().map(|pipe| (1, pipe.as_fd(), PollFlags::IN)));
        waiting.extend(stderr.iter().map(|pipe| (2, pipe.as_fd(), PollFlags::IN)));
        let mut descriptors: Vec<_> = waiting
            .iter()
            .map(|(_, pipe, flags)| PollFd::from_borrowed_fd(*pipe, *flags))
            .collect();
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<i32> = waiting
            .iter()
            .zip(&descriptors)
            .filter(|(_, descriptor)| !descriptor.revents().is_empty())
            .map(|((which, _, _), _)| *which)
            .collect();
        for which in ready {
            match which {
                0 => {
                    if feed(stdin.as_mut(), &mut rest) {
                        stdin = None;
                    }
                }
                1 => {
                    if drain(stdout.as_mut(), &mut output)? {
                        stdout = None;
                    }
                }
                _ => {
                    if drain(stderr.as_mut(), &mut errors)? {
                        stderr = None;
                    }
                }
            }
        }
    }
    Ok((output, errors))
}

/// Writes some of `rest`; true when nothing more can be written.
fn feed(pipe: Option<&mut impl io::Write>, rest: &mut &[u8]) -> bool {
    let Some(pipe) = pipe else { return true };
    match pipe.write(rest) {
        Ok(count) => {
            *rest = &rest[count..];
            rest.is_empty()
        }
        // A program that ends without reading its input says why in its output.
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        ),
    }
}

/// Reads some; true at the end.
fn drain(pipe: Option<&mut impl io::Read>, output: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(true) };
    let mut chunk = [0; 8192];
    match pipe.read(&mut chunk) {
        Ok(count) => {
            output.extend_from_slice(&chunk[..count]);
            Ok(count == 0)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// The last lines of what a program said, for an error message.
pub(super) fn complaint(finished: &Finished) -> String {
    let text = String::from_utf8_lossy(if finished.stderr.is_empty() {
        &finished.stdout
    } else {
        &finished.stderr
    });
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let start = lines.len().saturating_sub(4);
    if lines.is_empty() {
        finished.status.to_string()
    } else {
        lines[start..].join("; ")
    }
}

/// Names of `folders` for a message.
pub(super) fn list_folders<P: AsRef<OsStr>>(folders: impl IntoIterator<Item = P>) -> String {
    let folders: Vec<String> = folders
        .into_iter()
        .map(|folder| folder.as_ref().to_string_lossy().into_owned())
        .collect();
    folders.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8], limit: Duration) -> io::Result<Finished> {
        run(Command::new("/bin/sh").args(["-c", script]), input, limit)
    }

    #[test]
    fn large_input_and_output_do_not_block_each_other() {
        let input = vec![b'x'; 1 << 20];
        let finished = shell("cat; echo done >&2", &input, Duration::from_secs(20)).expect("runs");
        assert_eq!(finished.stdout, input);
        assert_eq!(complaint(&finished), "done");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        let error = shell("exec sleep 60", b"", Duration::from_millis(100)).expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_ignores_its_input_is_no_error() {
        let finished = shell("exit 3", &vec![0; 1 << 20], Duration::from_secs(20)).expect("runs");
        assert_eq!(finished.status.code(), Some(3));
    }
}
