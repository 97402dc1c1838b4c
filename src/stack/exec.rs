//! A further process in a running container.

use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::{Session, SessionOutput, Stack, StackError};
use crate::container::ExecOptions;
use crate::engine::{Engine, EngineError, ExitStatus, Stdio};
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::state::create_private_dir;

/// After the exit, output of the process itself arrives at once; silence for this long means that a process which it
/// left behind holds the pipe open.
const SILENCE: Duration = Duration::from_secs(1);

/// After the exit, more than this cannot have been in the pipes any more.
const REMAINDER: usize = 4 << 20;

/// What to run and where.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub service: String,
    /// Number of the replica; 0: the first one that runs, else a one-off.
    pub index: u32,
    pub options: ExecOptions,
    /// Leave standard input open.
    pub interactive: bool,
}

/// A process that runs. Dropping it before the end of the process has the supervisor end it.
#[derive(Debug)]
pub struct ExecSession {
    engine: Engine,
    container: String,
    id: String,
    folder: PathBuf,
    stdin: Option<File>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    exit: JoinHandle<Result<ExitStatus, EngineError>>,
    exited: Option<Exited>,
    /// Tells that we live.
    _lock: File,
}

/// What a process left that ran to its end. Bytes that are no UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; 128 and more: by a signal.
    pub code: u32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
struct Exited {
    code: u32,
    /// Bytes read since.
    read: usize,
    heard: Instant,
}

impl Stack {
    /// Starts a process and leaves it to itself.
    pub async fn exec_detached(&self, request: &ExecRequest) -> Result<(), StackError> {
        let observed = self.observe().await?;
        let container = running_container(&observed, &request.service, request.index)?;
        let process = self.process(&container.id, &request.options).await?;
        let engine = &self.containers().await?.engine;
        let (id, stdio) = (exec_id(), Stdio::default());
        engine
            .create_exec(&container.id, &id, &process, &stdio)
            .await?;
        start(engine, &container.id, &id).await?;
        self.revive(&observed).await;
        Ok(())
    }

    /// Starts a process and connects to it.
    pub async fn exec(&self, request: &ExecRequest) -> Result<ExecSession, StackError> {
        let observed = self.observe().await?;
        let container = running_container(&observed, &request.service, request.index)?;
        let process = self.process(&container.id, &request.options).await?;
        let engine = self.containers().await?.engine.clone();
        let id = exec_id();
        let folder = self.options.state.container_run(&container.id).join(&id);
        let pipes = Pipes::create(&folder, request).map_err(|source| StackError::Io {
            operation: format!("make pipes in {}", folder.display()),
            source,
        });
        let started = async {
            let pipes = pipes?;
            engine
                .create_exec(&container.id, &id, &process, &pipes.stdio)
                .await?;
            start(&engine, &container.id, &id).await?;
            Ok(pipes)
        }
        .await;
        let pipes = match started {
            Ok(pipes) => pipes,
            Err(error) => {
                remove_folder(&folder);
                return Err(error);
            }
        };
        let exit = {
            let (engine, container, id) = (engine.clone(), container.id.clone(), id.clone());
            tokio::spawn(async move { engine.wait_exec(&container, &id).await })
        };
        self.revive(&observed).await;
        Ok(ExecSession {
            engine,
            container: container.id.clone(),
            id,
            folder,
            stdin: pipes.stdin,
            stdout: Some(pipes.stdout),
            stderr: pipes.stderr,
            exit,
            exited: None,
            _lock: pipes.lock,
        })
    }

    async fn process(&self, id: &str, options: &ExecOptions) -> Result<Vec<u8>, StackError> {
        let containers = self.containers().await?;
        let record = containers.engine.container(id).await?;
        let record = record.ok_or_else(|| EngineError::NotFound {
            what: format!("container `{id}`"),
        })?;
        Ok(containers.exec_process(&record, options).await?)
    }
}

/// The container that commands on one container mean.
pub(super) fn running_container<'a>(
    observed: &'a Observed,
    service: &str,
    index: u32,
) -> Result<&'a ObservedContainer, StackError> {
    let mut candidates: Vec<&ObservedContainer> = observed
        .containers
        .iter()
        .filter(|container| container.service == service)
        .filter(|container| matches!(container.status, Status::Running | Status::Paused))
        .filter(|container| index == 0 || (container.number == index && !container.one_off))
        .collect();
    candidates.sort_by_key(|container| (container.one_off, container.number));
    candidates
        .first()
        .copied()
        .ok_or_else(|| StackError::NotRunning {
            service: service.into(),
            index,
        })
}

/// Starts an exec; what the runtime refuses leaves no record behind.
async fn start(engine: &Engine, container: &str, id: &str) -> Result<(), StackError> {
    let Err(error) = engine.start_exec(container, id).await else {
        return Ok(());
    };
    if let Err(cleanup) = engine.delete_exec(container, id).await {
        tracing::debug!(error = %cleanup, "cannot remove the exec");
    }
    Err(match &error {
        EngineError::Call { message, .. } => match refusal(message) {
            Some(code) => StackError::Refused {
                code,
                message: message.clone(),
            },
            None => error.into(),
        },
        _ => error.into(),
    })
}

/// Docker's exit code for a command that the runtime could not start.
fn refusal(message: &str) -> Option<u8> {
    let missing = [
        "executable file",
        "no such file or directory",
        "not found in $PATH",
    ];
    let forbidden = ["permission denied", "is a directory", "exec format error"];
    let lower = message.to_lowercase();
    let has = |texts: &[&str]| {
        texts
            .iter()
            .any(|text| lower.contains(&text.to_lowercase()))
    };
    if has(&forbidden) {
        Some(126)
    } else if has(&missing) {
        Some(127)
    } else {
        None
    }
}

fn exec_id() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("exec-{}-{:x}", std::process::id(), now.as_nanos())
}

/// FIFOs of a process and our ends of them.
struct Pipes {
    stdio: Stdio,
    stdin: Option<File>,
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
    lock: File,
}

impl Pipes {
    fn create(folder: &Path, request: &ExecRequest) -> io::Result<Self> {
        create_private_dir(folder).map_err(io::Error::other)?;
        let lock = lock(folder)?;
        let fifo = |name: &str| -> io::Result<PathBuf> {
            let path = folder.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            Ok(path)
        };
        let mut stdio = Stdio {
            terminal: request.options.terminal,
            ..Stdio::default()
        };
        let receiver = |path: &Path| pipe::OpenOptions::new().open_receiver(path);
        stdio.stdout = fifo("stdout")?;
        let stdout = receiver(&stdio.stdout)?;
        let stderr = if stdio.terminal {
            None
        } else {
            stdio.stderr = fifo("stderr")?;
            Some(receiver(&stdio.stderr)?)
        };
        let stdin = if request.interactive {
            stdio.stdin = fifo("stdin")?;
            // For writing alone it could be opened only after the shim has its end.
            let both = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&stdio.stdin)?;
            Some(both)
        } else {
            None
        };
        Ok(Self {
            stdio,
            stdin,
            stdout,
            stderr,
            lock,
        })
    }
}

/// Locks the folder of a process for as long as we live: the supervisor ends the process of a command that was killed.
fn lock(folder: &Path) -> io::Result<File> {
    let (new, path) = (folder.join("lock.new"), folder.join("lock"));
    let file = File::create(&new)?;
    file.lock()?;
    // It has its name only when it is locked.
    std::fs::rename(new, path)?;
    Ok(file)
}

impl ExecSession {
    /// Reads what the process writes, to its end. Its standard input is closed first.
    pub async fn output(mut self) -> Result<ExecOutput, StackError> {
        drop(self.take_stdin());
        self.close_stdin().await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                SessionOutput::Stdout(bytes) => stdout.extend(bytes),
                SessionOutput::Stderr(bytes) => stderr.extend(bytes),
                SessionOutput::Gap => {}
                SessionOutput::Exited(code) => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    return Ok(ExecOutput {
                        code,
                        stdout: text(stdout),
                        stderr: text(stderr),
                    });
                }
            }
        }
    }
}

impl Session for ExecSession {
    fn take_stdin(&mut self) -> Option<File> {
        self.stdin.take()
    }

    async fn next(&mut self) -> Result<SessionOutput, StackError> {
        loop {
            if let Some(code) = self.drained() {
                return Ok(SessionOutput::Exited(code));
            }
            let rest = self
                .exited
                .as_ref()
                .map(|exited| SILENCE.saturating_sub(exited.heard.elapsed()));
            let mut out = Vec::new();
            let mut err = Vec::new();
            let silence = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Output before the exit, so that what has been written is told first.
                biased;
                // Cancel-safe: a pipe is read only when this arm wins.
                read = read(&mut self.stdout, &mut out) => match self.heard(read) {
                    0 => self.stdout = None,
                    _ => return Ok(SessionOutput::Stdout(out)),
                },
                // Cancel-safe, as above.
                read = read(&mut self.stderr, &mut err) => match self.heard(read) {
                    0 => self.stderr = None,
                    _ => return Ok(SessionOutput::Stderr(err)),
                },
                // Cancel-safe: the task goes on, and is asked only until it has ended.
                exit = &mut self.exit, if self.exited.is_none() => {
                    let exit = exit.map_err(|error| StackError::Io {
                        operation: "wait for the process".into(),
                        source: error.into(),
                    })??;
                    self.exited = Some(Exited { code: exit.code, read: 0, heard: Instant::now() });
                }
                // Cancel-safe: begins again with what is left.
                () = silence => {
                    self.stdout = None;
                    self.stderr = None;
                }
            }
        }
    }

    async fn close_stdin(&mut self) -> Result<(), StackError> {
        Ok(self.engine.close_stdin(&self.container, &self.id).await?)
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<(), StackError> {
        let (container, id) = (&self.container, &self.id);
        Ok(self.engine.resize(container, id, columns, rows).await?)
    }

    async fn kill(&mut self, signal: u32) -> Result<(), StackError> {
        let (container, id) = (&self.container, &self.id);
        Ok(self.engine.kill_exec(container, id, signal).await?)
    }
}

impl ExecSession {
    /// The exit code, once nothing can follow.
    fn drained(&self) -> Option<u32> {
        let exited = self.exited.as_ref()?;
        let ended = self.stdout.is_none() && self.stderr.is_none();
        (ended || exited.read > REMAINDER).then_some(exited.code)
    }

    fn heard(&mut self, read: io::Result<usize>) -> usize {
        let read = read.unwrap_or(0);
        if let Some(exited) = &mut self.exited {
            exited.read += read;
            exited.heard = Instant::now();
        }
        read
    }

    /// Removes the record of a process that has ended.
    pub async fn finish(self) -> Result<(), StackError> {
        Ok(self.engine.delete_exec(&self.container, &self.id).await?)
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        // One that goes on is ended by the supervisor, which finds the folder without us.
        if self.exited.is_some() {
            remove_folder(&self.folder);
        }
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::debug!(%error, path = %folder.display(), "cannot remove pipes");
    }
}

/// Reads what is there; waits for ever without a pipe.
async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    match pipe {
        Some(pipe) => {
            buffer.reserve(1 << 16);
            pipe.read_buf(buffer).await
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runtime_refuses_has_docker_s_codes() {
        let table = [
            (
                "exec: \"nosuch\": executable file not found in $PATH: unknown",
                Some(127),
            ),
            (
                "exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown",
                Some(127),
            ),
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                Some(127),
            ),
            ("exec: \"/\": is a directory: permission denied", Some(126)),
            ("exec /script: exec format error", Some(126)),
            ("cannot exec in a paused container", None),
        ];
        for (message, code) in table {
            assert_eq!(refusal(message), code, "{message}");
        }
    }
}
