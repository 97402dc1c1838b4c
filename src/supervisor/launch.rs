//! Making sure that a project's supervisor runs.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::frame::{self, FrameError};
use super::lock;
use super::program::install;
use super::protocol::{Hello, Reply, Request, VERSION};
use crate::state::{ROOT_VARIABLE, StateError, StateRoot, create_private_dir};

/// Time that a supervisor has until it answers; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at whether it answers.
const LOOK: Duration = Duration::from_millis(5);

/// Times that it is started before giving up.
const ATTEMPTS: u32 = 2;

/// Bytes at which the log of a supervisor is put aside at the next start.
const LOG_LIMIT: u64 = 1 << 20;

/// Lines of that log in an error.
const LOG_LINES: usize = 10;

/// What a supervisor is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchSettings {
    /// The binary; none: the one that runs now.
    pub program: Option<PathBuf>,
    /// Socket of containerd.
    pub address: Option<String>,
    /// Namespace in containerd.
    pub namespace: Option<String>,
}

/// A supervisor could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the supervisor of project `{project}` is of a newer version of compose")]
    Newer { project: String },
    /// `log`: the last lines of `path`.
    #[error("the supervisor of project `{project}` does not answer")]
    Silent {
        project: String,
        path: PathBuf,
        log: Vec<String>,
        #[source]
        source: Option<FrameError>,
    },
}

/// For `map_err`: says what could not be done.
pub(super) fn cannot(operation: impl Into<String>) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Io {
        operation: operation.into(),
        source,
    }
}

/// Whether the supervisor of `project` is alive.
pub fn is_running(state: &StateRoot, project: &str) -> bool {
    lock::is_locked(state, project).unwrap_or(false)
}

/// Makes sure that a supervisor of `project` runs and answers; returns the path of its control socket. Blocks for up to
/// 20 seconds. Several at once start one.
pub fn ensure_running(
    state: &StateRoot,
    project: &str,
    settings: &LaunchSettings,
) -> Result<PathBuf, LaunchError> {
    let path = frame::control_path(state, project);
    let locked = |state| lock::is_locked(state, project).map_err(cannot("look for a supervisor"));
    let deadline = Instant::now() + PATIENCE;
    if locked(state)? && matches!(ping(&path, deadline), Ok(VERSION)) {
        return Ok(path);
    }
    create_private_dir(&state.project_run(project))?;
    create_private_dir(&state.project(project))?;
    // Held until ours answers, so that others find it.
    let _turn = launch_turn(&state.project_run(project), deadline)?;
    let mut attempts = 0;
    loop {
        let source = match ping(&path, deadline) {
            Ok(VERSION) => return Ok(path),
            Ok(version) if version > VERSION => {
                return Err(LaunchError::Newer {
                    project: project.into(),
                });
            }
            Ok(_) if Instant::now() < deadline => {
                let program = program(settings)?;
                let program = install(state, &program)?;
                // It ends with this request, so that its answer may be lost.
                if let Err(error) = ask(&path, deadline, &Request::Replace { program }) {
                    tracing::debug!(%error, "no answer from a supervisor that is replaced");
                }
                sleep(LOOK);
                continue;
            }
            Ok(_) => FrameError::Cut,
            Err(error) => error,
        };
        let alive = locked(state)?;
        if Instant::now() > deadline || (!alive && attempts == ATTEMPTS) {
            let log = log_path(state, project);
            return Err(LaunchError::Silent {
                project: project.into(),
                log: last_lines(&log),
                path: log,
                source: Some(source),
            });
        }
        if alive {
            sleep(LOOK);
            continue;
        }
        attempts += 1;
        start(state, project, settings, deadline)?;
        appears(state, project)?;
    }
}

/// Waits a moment for a supervisor that is being started; whether there is one.
fn appears(state: &StateRoot, project: &str) -> Result<bool, LaunchError> {
    let soon = Instant::now() + Duration::from_secs(1);
    loop {
        if lock::is_locked(state, project).map_err(cannot("look for a supervisor"))? {
            return Ok(true);
        }
        if Instant::now() > soon {
            return Ok(false);
        }
        sleep(LOOK);
    }
}

/// Waits for the right to start a supervisor.
fn launch_turn(directory: &Path, deadline: Instant) -> Result<File, LaunchError> {
    let path = directory.join("launch.lock");
    let failed = || cannot(format!("lock {}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed())?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOOK),
            Err(error) => return Err(failed()(error.into())),
        }
    }
}

/// Asks the supervisor for a sign of life; returns the version that it speaks.
fn ping(path: &Path, deadline: Instant) -> Result<u32, FrameError> {
    ask(path, deadline, &Request::Ping)
}

/// Sends a request that has one reply; returns the version of who answers.
fn ask(path: &Path, deadline: Instant, request: &Request) -> Result<u32, FrameError> {
    let mut stream = frame::connect_blocking(path)?;
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(LOOK)))?;
    stream.set_write_timeout(Some(left.max(LOOK)))?;
    let hello = Hello::new(format!("ping (pid {})", std::process::id()));
    frame::write_blocking(&mut stream, &hello)?;
    frame::write_blocking(&mut stream, request)?;
    let hello = frame::read_blocking::<Hello>(&mut stream).map_err(in_time)?;
    let reply = frame::read_blocking::<Reply>(&mut stream).map_err(in_time)?;
    let (hello, _reply) = hello.zip(reply).ok_or(FrameError::Cut)?;
    Ok(hello.version)
}

/// Says what the end of a read's patience means.
fn in_time(error: FrameError) -> FrameError {
    match error {
        FrameError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
            FrameError::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                "it takes connections but answers none",
            ))
        }
        other => other,
    }
}

/// The binary that supervisors run.
fn program(settings: &LaunchSettings) -> Result<PathBuf, LaunchError> {
    match &settings.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe().map_err(cannot("find this program")),
    }
}

fn start(
    state: &StateRoot,
    project: &str,
    settings: &LaunchSettings,
    deadline: Instant,
) -> Result<(), LaunchError> {
    let original = program(settings)?;
    let program = install(state, &original)?;
    let mut arguments: Vec<OsString> =
        vec!["supervisor".into(), "--project".into(), project.into()];
    for (flag, value) in [
        ("--address", &settings.address),
        ("--namespace", &settings.namespace),
    ] {
        if let Some(value) = value {
            arguments.extend([flag.into(), value.into()]);
        }
    }
    let environment = environment(state);
    if let Some(tool) = service_manager() {
        let log = prepare_log(state, project)?;
        drop(log);
        let mut command = transient_unit(&tool, project, &log_path(state, project), &environment);
        command.arg("--").arg(&program).args(&arguments);
        match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            // The unit is there: systemd is bringing the supervisor back.
            Ok(_) if appears(state, project)? => return Ok(()),
            Ok(output) => tracing::warn!(
                message = %String::from_utf8_lossy(&output.stderr).trim(),
                "systemd-run failed; the supervisor starts without a unit"
            ),
            Err(error) => tracing::warn!(%error, "cannot run systemd-run"),
        }
    }
    let mut command = Command::new(&program);
    command
        .arg0(&original)
        .args(&arguments)
        .arg("--detach")
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null());
    let output = loop {
        match command.output() {
            // Another thread forked while the copy was being written, and its child has not come to its exec yet.
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                sleep(LOOK);
            }
            output => break output.map_err(cannot(format!("run {}", program.display())))?,
        }
    };
    if output.status.success() {
        return Ok(());
    }
    Err(LaunchError::Silent {
        project: project.into(),
        path: log_path(state, project),
        log: String::from_utf8_lossy(&output.stderr)
            .lines()
            .map(Into::into)
            .collect(),
        source: None,
    })
}

/// The environment of a supervisor: a secret of a shell has no business there.
pub(super) fn environment(state: &StateRoot) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| is_kept(name))
        .collect();
    if *state != StateRoot::new(None)
        && let Some(root) = state.data().parent()
    {
        // Its working directory is another.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.into());
        environment.push((ROOT_VARIABLE.into(), root.into()));
    }
    environment
}

fn is_kept(name: &OsStr) -> bool {
    ["PATH", "HOME", "RUST_LOG"]
        .iter()
        .any(|kept| name == *kept)
        || name.to_string_lossy().starts_with("CONTAINERD_")
}

/// `systemd-run`, if systemd manages this host.
fn service_manager() -> Option<PathBuf> {
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("systemd-run"))
        .find(|tool| tool.exists())
}

/// A unit of its own, so that the end of the user's session or of the job that runs `compose` does not end it.
fn transient_unit(
    tool: &Path,
    project: &str,
    log: &Path,
    environment: &[(OsString, OsString)],
) -> Command {
    let mut command = Command::new(tool);
    command
        .args(["--quiet", "--collect", "--no-ask-password"])
        .arg(format!("--unit=compose-{project}"))
        .arg(format!(
            "--description=Supervisor of Compose project {project}"
        ))
        // A private containerd and its shims live in the same unit and outlive the supervisor.
        .args(["--property=KillMode=process", "--property=UMask=0077"])
        // Whoever kills the keeper does not leave containers without restarts, probes, names and logs.
        .arg("--property=Restart=on-failure")
        .arg("--property=WorkingDirectory=/");
    for stream in ["StandardOutput", "StandardError"] {
        let mut property = OsString::from(format!("--property={stream}=append:"));
        property.push(log);
        command.arg(property);
    }
    for (name, value) in environment {
        let mut variable = OsString::from("--setenv=");
        variable.push(name);
        variable.push("=");
        variable.push(value);
        command.arg(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Log of the supervisor of `project`.
pub fn log_path(state: &StateRoot, project: &str) -> PathBuf {
    state.project(project).join("supervisor.log")
}

/// Opens the log of the supervisor; a big one is put aside.
pub(super) fn prepare_log(state: &StateRoot, project: &str) -> Result<File, LaunchError> {
    create_private_dir(&state.project(project))?;
    let path = log_path(state, project);
    let failed = || cannot(format!("open {}", path.display()));
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        std::fs::rename(&path, path.with_extension("log.1")).map_err(failed())?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed())
}

/// The last lines of the log, for an error; empty if it cannot be read.
fn last_lines(path: &Path) -> Vec<String> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 << 10)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(String::from).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn state() -> (tempfile::TempDir, StateRoot) {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        (root, state)
    }

    #[test]
    fn a_unit_has_the_log_the_environment_and_leaves_other_processes_alone() {
        let environment = [("PATH".into(), "/bin".into())];
        let unit = transient_unit(
            Path::new("/usr/bin/systemd-run"),
            "shop",
            Path::new("/var/log/x"),
            &environment,
        );
        let arguments: Vec<_> = unit
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        for expected in [
            "--unit=compose-shop",
            "--property=KillMode=process",
            "--property=Restart=on-failure",
            "--property=StandardError=append:/var/log/x",
            "--setenv=PATH=/bin",
        ] {
            assert!(
                arguments.iter().any(|a| a == expected),
                "{expected} not in {arguments:?}"
            );
        }
    }

    #[test]
    fn only_what_a_supervisor_needs_stays_of_the_environment() {
        for name in ["PATH", "HOME", "CONTAINERD_ADDRESS"] {
            assert!(is_kept(name.as_ref()), "{name}");
        }
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "COMPOSE_PROJECT_NAME",
            "LD_PRELOAD",
            "PATHS",
        ] {
            assert!(!is_kept(name.as_ref()), "{name}");
        }
        let root = |root| {
            let environment = environment(&StateRoot::new(root));
            let value = environment
                .into_iter()
                .find(|(name, _)| name == ROOT_VARIABLE)?;
            Some(PathBuf::from(value.1))
        };
        let here = std::env::current_dir().unwrap();
        assert_eq!(root(Some(Path::new("there"))), Some(here.join("there")));
        assert_eq!(root(None), None);
    }

    #[test]
    fn a_big_log_is_put_aside_and_an_error_shows_the_end_of_it() {
        let (_root, state) = state();
        drop(prepare_log(&state, "shop").unwrap());
        let path = log_path(&state, "shop");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text: String = (0..50).fold(String::new(), |text, number| {
            format!("{text}line {number}\n")
        });
        std::fs::write(&path, text).unwrap();
        let lines = last_lines(&path);
        assert_eq!((lines.len(), lines[9].as_str()), (10, "line 49"));
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LOG_LIMIT + 1)
            .unwrap();
        drop(prepare_log(&state, "shop").unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert!(last_lines(Path::new("/nowhere")).is_empty());
    }
}
