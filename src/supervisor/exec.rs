//! Runs a command in a container and returns how it ended and what it said: for probes and hooks.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::Mode;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::shared::Shared;
use crate::container::{ContainerError, Containers, ExecOptions};
use crate::engine::{ContainerRecord, EngineError, Stdio};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Exited {
        code: u32,
    },
    /// It was killed as its time was over.
    TimedOut,
}

/// Time between two looks at whether a command still lives, and between two attempts to end what it ran.
const LOOK: Duration = Duration::from_secs(1);
/// How long a killed process may take to end.
const DYING: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 20;

/// Signal that nothing survives.
const SIGKILL: u32 = 9;

/// What the names of our processes and of their FIFOs begin with.
const PREFIX: &str = "exec-";

/// Whether a process was begun by this worker: a probe or a hook, not a user's command.
pub(super) fn is_own(exec_id: &str) -> bool {
    let name = exec_id.strip_prefix(PREFIX);
    let worker = name.and_then(|name| name.split_once('-')?.0.parse().ok());
    worker == Some(std::process::id())
}

/// Ends of our processes, as containerd tells of them anyway: asking for each would be another call that containerd
/// passes on to a shim.
#[derive(Debug, Default)]
pub(super) struct Exits(Mutex<HashMap<String, oneshot::Sender<u32>>>);

impl Exits {
    /// Waits for the end of a process that is not started yet. The answer is an error if containerd must be asked.
    fn expect(&self, exec_id: &str) -> Expected<'_> {
        let (sender, exit) = oneshot::channel();
        self.locked().insert(exec_id.to_owned(), sender);
        Expected {
            exits: self,
            exec_id: exec_id.to_owned(),
            exit,
        }
    }

    pub(super) fn tell(&self, exec_id: &str, code: u32) {
        if let Some(sender) = self.locked().remove(exec_id) {
            // Nobody may wait any more.
            sender.send(code).ok();
        }
    }

    /// Some ends may not have been told: whoever waits asks.
    pub(super) fn miss(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for the end of a process.
struct Expected<'a> {
    exits: &'a Exits,
    exec_id: String,
    exit: oneshot::Receiver<u32>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.exits.locked().remove(&self.exec_id);
    }
}

/// FIFO of one exec; the file goes with it.
#[derive(Debug)]
struct Fifo(PathBuf);

impl Fifo {
    fn create(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )?;
        Ok(Self(path))
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "cannot remove a FIFO");
        }
    }
}

/// Runs `options.command` in the container of `record` until `time_over`, with both outputs in one, of which the first
/// `limit` bytes are returned. `started` is called when it has begun.
pub(super) async fn run(
    shared: &Shared,
    record: &ContainerRecord,
    options: &ExecOptions,
    time_over: impl Future<Output = ()>,
    limit: usize,
    started: impl FnOnce(),
) -> Result<(Outcome, String), ContainerError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let containers = &shared.containers;
    let process = containers.exec_process(record, options).await?;
    let exec_id = format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    );
    let failed = |source| ContainerError::Io {
        operation: "make a FIFO".into(),
        source,
    };
    let fifo =
        Fifo::create(&containers.state.container_run(&record.id), &exec_id).map_err(failed)?;
    // Open for writing too, or the first read would take "no writer yet" for the end.
    let reader = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&fifo.0)
        .map_err(failed)?;
    let stdio = Stdio {
        stdout: fifo.0.clone(),
        stderr: fifo.0.clone(),
        ..Stdio::default()
    };
    let engine = &containers.engine;
    engine
        .create_exec(&record.id, &exec_id, &process, &stdio)
        .await?;
    let process = async {
        let outcome = supervise(shared, &record.id, &exec_id, time_over, started).await;
        // Its end also means that the shim has copied all output. The process may be gone with its container; then there
        // is nothing to delete.
        if let Err(error) = engine.delete_exec(&record.id, &exec_id).await {
            tracing::debug!(%error, "cannot delete an exec");
        }
        outcome
    };
    let mut process = std::pin::pin!(process);
    let mut output = Vec::new();
    let mut chunk = [0; 4096];
    let keep = |output: &mut Vec<u8>, bytes: &[u8]| {
        let room = limit.saturating_sub(output.len()).min(bytes.len());
        output.extend_from_slice(&bytes[..room]);
    };
    let outcome = loop {
        tokio::select! {
            // Cancel-safe: the future is kept over the loop.
            outcome = &mut process => break outcome,
            // Cancel-safe: readiness is not consumed.
            ready = reader.readable() => {
                ready.map_err(failed)?;
                if let Ok(count) = reader.try_read(&mut chunk) {
                    keep(&mut output, &chunk[..count]);
                }
            }
        }
    };
    while let Ok(count @ 1..) = reader.try_read(&mut chunk) {
        keep(&mut output, &chunk[..count]);
    }
    Ok((outcome?, String::from_utf8_lossy(&output).into_owned()))
}

/// Ends what a worker before this one ran in container `id` and did not live to end. Its FIFOs are opened at once: the shim
/// waits for a reader, and answers nothing about the container until there is one.
pub(super) fn end_left(containers: &Containers, id: &str) {
    for (exec_id, fifo) in left(&containers.state.container_run(id)) {
        let reader = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&fifo.0);
        let (engine, id) = (containers.engine.clone(), id.to_owned());
        tokio::spawn(async move {
            let ended = async {
                engine.kill_exec(&id, &exec_id, SIGKILL).await?;
                engine.delete_exec(&id, &exec_id).await
            };
            if let Err(error) = ended.await {
                tracing::debug!(%error, id, exec_id, "cannot end what an earlier worker ran");
            }
            drop((reader, fifo));
        });
    }
}

/// Sees to the processes that commands run in container `id`, as [`watch`] does.
pub(super) fn watch_all(containers: &Containers, id: &str) {
    let entries = std::fs::read_dir(containers.state.container_run(id));
    for entry in entries.into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Ok(name) = entry.file_name().into_string()
            && is_folder
            && name.starts_with(PREFIX)
        {
            tokio::spawn(watch(containers.clone(), id.into(), name));
        }
    }
}

/// Sees to a process that a command runs in container `id`. If the command is killed, nobody reads what the process writes:
/// it would hang, and so would its shim, which waits for a reader and answers nothing meanwhile. Then it is ended.
pub(super) async fn watch(containers: Containers, id: String, exec_id: String) {
    let folder = containers.state.container_run(&id).join(&exec_id);
    loop {
        match is_left(&folder) {
            None => return,
            Some(true) => break,
            Some(false) => tokio::time::sleep(LOOK).await,
        }
    }
    tracing::warn!(id, exec_id, "a command was killed; what it ran is ended");
    let mut readers = JoinSet::new();
    for name in ["stdout", "stderr"] {
        // Open for writing too: it has an end only for whoever has seen a writer.
        let reader = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(folder.join(name));
        if let Ok(mut reader) = reader {
            readers
                .spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        }
    }
    for attempt in 1..=ATTEMPTS {
        let ended = async {
            containers.engine.kill_exec(&id, &exec_id, SIGKILL).await?;
            containers.engine.delete_exec(&id, &exec_id).await
        };
        match ended.await {
            Ok(()) => break,
            // It may be just starting, or just ending.
            Err(error) => tracing::debug!(%error, id, exec_id, attempt, "cannot end a process"),
        }
        tokio::time::sleep(LOOK).await;
    }
    drop(readers);
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::debug!(%error, folder = %folder.display(), "cannot remove what a killed command left");
    }
}

/// Whether the command that made `folder` was killed; `None` if the folder is gone, or is none. A command locks the file
/// `lock` in there for as long as it lives.
fn is_left(folder: &Path) -> Option<bool> {
    let lock = std::fs::File::open(folder.join("lock")).ok()?;
    Some(lock.try_lock().is_ok())
}

/// FIFOs of processes in a container's folder, by the id of the process.
fn left(folder: &Path) -> Vec<(String, Fifo)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fifos = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_fifo()));
    fifos
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.starts_with(PREFIX).then(|| (name, Fifo(entry.path())))
        })
        .collect()
}

async fn supervise(
    shared: &Shared,
    id: &str,
    exec_id: &str,
    time_over: impl Future<Output = ()>,
    started: impl FnOnce(),
) -> Result<Outcome, EngineError> {
    let engine = &shared.containers.engine;
    let mut expected = shared.exits.expect(exec_id);
    engine.start_exec(id, exec_id).await?;
    started();
    let end = async {
        match (&mut expected.exit).await {
            Ok(code) => Ok(code),
            Err(_) => engine.wait_exec(id, exec_id).await.map(|exit| exit.code),
        }
    };
    tokio::select! {
        // Cancel-safe: the end can be asked for again.
        code = end => return code.map(|code| Outcome::Exited { code }),
        // Cancel-safe: it is not asked again.
        () = time_over => {}
    }
    let end = async {
        engine.kill_exec(id, exec_id, SIGKILL).await?;
        engine.wait_exec(id, exec_id).await
    };
    // One that hangs in the kernel, or is frozen, ends when it can.
    if let Ok(ended) = tokio::time::timeout(DYING, end).await {
        ended?;
    }
    Ok(Outcome::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_command_is_told_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(is_left(folder.path()), None);
        let lock = std::fs::File::create(folder.path().join("lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(is_left(folder.path()), Some(false));
        drop(lock);
        assert_eq!(is_left(folder.path()), Some(true));
    }

    #[tokio::test]
    async fn an_end_is_told_or_must_be_asked_for() {
        let exits = Exits::default();
        let (mut told, mut missed) = (exits.expect("a"), exits.expect("b"));
        exits.tell("a", 3);
        exits.tell("nobody waits", 0);
        exits.miss();
        assert_eq!((&mut told.exit).await, Ok(3));
        (&mut missed.exit).await.unwrap_err();
        drop(exits.expect("c"));
        assert!(exits.locked().is_empty());
    }

    #[test]
    fn only_processes_of_this_worker_are_its_own() {
        let own = std::process::id();
        assert!(is_own(&format!("exec-{own}-0")));
        assert!(!is_own(&format!("exec-{}-0", own + 1)));
        assert!(!is_own("exec-abc") && !is_own("shell"));
    }

    #[test]
    fn what_a_worker_left_is_told_from_the_container_s_own_fifos() {
        let folder = tempfile::tempdir().unwrap();
        let own = Fifo::create(folder.path(), "stdout").unwrap();
        let lost = Fifo::create(folder.path(), "exec-7-0").unwrap();
        std::fs::create_dir(folder.path().join("exec-8-1")).unwrap();
        let found = left(folder.path());
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["exec-7-0"]);
        drop(found);
        assert!(own.0.exists() && !lost.0.exists());
    }
}
