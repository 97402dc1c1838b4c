//! The process that stands behind a worker: it holds the lock and the descriptors that must not vanish, and starts the
//! worker again when it dies. It knows nothing of what they are for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::hold::{LOCK_KEY, Packet, receive, send_all, socket_pair};
use super::lock::SupervisorLock;
use crate::sys::memory;

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// File that is executed.
    pub program: PathBuf,
    /// What the process calls itself.
    pub name: OsString,
    pub arguments: Vec<OsString>,
}

/// Pauses before a worker is started again.
#[derive(Debug, Default)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    /// A worker that lived this long was sound.
    const SOUND: Duration = Duration::from_secs(10);

    /// The pause after a worker that lived for `alive`: none, then 100 ms, doubling up to 5 s.
    fn pause(&mut self, alive: Duration) -> Duration {
        if alive >= Self::SOUND {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(Self::FIRST, Self::LONGEST);
        pause
    }
}

/// Why the wait for a worker ended.
enum Ended {
    Exited(ExitStatus),
    NotStarted(io::Error),
}

/// Keeps a worker running until one ends with code 0 or this process is asked to end (SIGTERM, SIGINT), which is passed
/// on to the worker. Holds `lock` all that time.
pub fn run(lock: &SupervisorLock, mut command: WorkerCommand) -> io::Result<()> {
    let (mut signals, sender) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    raise_descriptor_limit();

    let mut held = BTreeMap::from([(LOCK_KEY.to_owned(), lock.as_fd().try_clone_to_owned()?)]);
    let mut backoff = Backoff::default();
    let mut stopping = false;
    loop {
        let start = Instant::now();
        let ended = match start_worker(&command) {
            Ok((child, socket)) => Ended::Exited(attend(
                child,
                &socket,
                &mut held,
                &mut command,
                &mut signals,
                &mut stopping,
            )?),
            Err(error) => Ended::NotStarted(error),
        };
        if stopping || matches!(&ended, Ended::Exited(status) if status.success()) {
            return Ok(());
        }
        let pause = backoff.pause(start.elapsed());
        match ended {
            Ended::Exited(status) => tracing::error!(%status, ?pause, "the worker died"),
            Ended::NotStarted(error) => {
                tracing::error!(%error, ?pause, "cannot start a worker");
            }
        }
        if wait(&[&signals.as_fd()], Some(pause))?[0] {
            return Ok(());
        }
    }
}

fn start_worker(command: &WorkerCommand) -> io::Result<(Child, OwnedFd)> {
    let (near, far) = socket_pair()?;
    let child = Command::new(&command.program)
        .arg0(&command.name)
        .args(&command.arguments)
        .stdin(Stdio::from(far))
        .spawn()?;
    Ok((child, near))
}

/// Serves one worker until it ends.
fn attend(
    mut child: Child,
    socket: &OwnedFd,
    held: &mut BTreeMap<String, OwnedFd>,
    command: &mut WorkerCommand,
    signals: &mut UnixStream,
    stopping: &mut bool,
) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut open = true;
    memory::give_back();
    loop {
        let mut sources = vec![process.as_fd(), signals.as_fd()];
        if open {
            sources.push(socket.as_fd());
        }
        let sources: Vec<_> = sources.iter().collect();
        let ready = wait(&sources, None)?;
        if ready[1] {
            // Several signals are one wish.
            while matches!(signals.read(&mut [0; 16]), Ok(1..)) {}
            *stopping = true;
            rustix::process::pidfd_send_signal(&process, Signal::TERM).ok();
        }
        if ready.get(2) == Some(&true) {
            open = serve(socket, held, command);
        }
        if ready[0] {
            // What it said last still counts.
            while open && serve(socket, held, command) {}
            return child.wait();
        }
    }
}

/// Handles one packet of the worker; whether more may come.
fn serve(
    socket: &OwnedFd,
    held: &mut BTreeMap<String, OwnedFd>,
    command: &mut WorkerCommand,
) -> bool {
    match receive(socket.as_fd(), RecvFlags::DONTWAIT) {
        Ok(Some(Packet::Hold(key, descriptor))) => {
            held.insert(key, descriptor);
        }
        Ok(Some(Packet::Release(key))) => {
            held.remove(&key);
        }
        Ok(Some(Packet::TakeAll)) => {
            if let Err(error) = send_all(socket.as_fd(), held) {
                tracing::error!(%error, "cannot answer the worker");
            }
        }
        Ok(Some(Packet::Program(path))) => command.program = path.into(),
        Ok(Some(Packet::End)) => tracing::error!("the worker sent what only a keeper sends"),
        Ok(None) => return false,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return false,
        Err(error) => tracing::error!(%error, "cannot understand the worker"),
    }
    true
}

/// Waits until one of `sources` is readable or `timeout` is over; says which are.
fn wait(sources: &[&impl AsFd], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = sources
        .iter()
        .map(|source| PollFd::new(*source, PollFlags::IN))
        .collect();
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(polled
        .iter()
        .map(|polled| !polled.revents().is_empty())
        .collect())
}

/// Lets this process have as many descriptors as it may: each container needs some.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_death_is_answered_at_once_and_a_loop_slows_down() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.pause(short).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.pause(Duration::from_secs(10)), Duration::ZERO);
        assert_eq!(backoff.pause(short), Backoff::FIRST);
    }
}
