//! The hidden command `supervisor`: one binary in three parts (detacher, keeper, worker).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::Mode;
use tracing_subscriber::EnvFilter;

use super::frame::Listener;
use super::hold::{HoldClient, Holder, LOCK_KEY};
use super::keeper::{self, WorkerCommand};
use super::lock::SupervisorLock;
use super::{launch, program};
use crate::state::StateRoot;
use crate::sys::descriptors;

/// Key under which the control socket is held.
pub const CONTROL_KEY: &str = "control";

/// Exit code of a part that could not do its work; the keeper starts a worker again after it.
const FAILED: u8 = 70;

/// Flags of the hidden command.
#[derive(Args, Clone, Debug)]
pub struct SupervisorArgs {
    /// Project to supervise
    #[arg(long)]
    pub project: String,
    /// Leave the terminal and the session, start the keeper, and end
    #[arg(long, conflicts_with = "worker")]
    pub detach: bool,
    /// Be the worker of the keeper at standard input
    #[arg(long)]
    pub worker: bool,
    /// Socket of containerd
    #[arg(long)]
    pub address: Option<String>,
    /// Namespace in containerd
    #[arg(long)]
    pub namespace: Option<String>,
}

/// What a worker starts with.
#[derive(Debug)]
pub struct WorkerSettings {
    pub state: StateRoot,
    pub project: String,
    /// Socket of containerd.
    pub address: Option<String>,
    /// Namespace in containerd.
    pub namespace: Option<String>,
    /// Held by the keeper too; kept here so that no other supervisor starts while this worker lives.
    pub lock: SupervisorLock,
    pub holder: Holder,
    /// What workers before this one had held, by key.
    pub held: Vec<(String, OwnedFd)>,
}

impl WorkerSettings {
    /// Of a worker within this process, without a keeper; `None` if another supervisor of `project` is alive.
    pub fn in_process(state: &StateRoot, project: &str) -> io::Result<Option<Self>> {
        let lock = SupervisorLock::acquire(state, project)?;
        Ok(lock.map(|lock| Self {
            state: state.clone(),
            project: project.into(),
            address: None,
            namespace: None,
            lock,
            holder: Holder::in_process(),
            held: Vec::new(),
        }))
    }

    /// The control socket: the one that is held, else a new one, which is then held.
    pub fn listen(&mut self) -> io::Result<Listener> {
        if let Some(index) = self.held.iter().position(|(key, _)| key == CONTROL_KEY) {
            return Listener::from_held(self.held.swap_remove(index).1);
        }
        let listener = Listener::bind(&self.lock)?;
        self.holder.hold(CONTROL_KEY, listener.as_fd())?;
        Ok(listener)
    }
}

/// Runs the part that `args` name. `worker` must end with a code other than 0 when [`Holder::lost`] returns, and with 0
/// only when the project needs no supervisor any more.
pub fn run(args: &SupervisorArgs, worker: fn(WorkerSettings) -> ExitCode) -> ExitCode {
    let state = StateRoot::from_environment();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_ansi(false)
        // It would be told to standard error too, and what cannot be printed there is a panic: on a full disk.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .try_init()
        .ok();
    let done = if args.detach {
        detach(&state, args).map(|()| ExitCode::SUCCESS)
    } else if args.worker {
        worker_settings(state, args).map(worker)
    } else {
        keep(&state, args).map(|()| ExitCode::SUCCESS)
    };
    done.unwrap_or_else(|error| {
        tracing::error!(%error, project = args.project, "the supervisor cannot run");
        ExitCode::from(FAILED)
    })
}

/// This command line without `--detach`, with `flag`.
fn arguments(args: &SupervisorArgs, flag: Option<&str>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "supervisor".into(),
        "--project".into(),
        args.project.as_str().into(),
    ];
    arguments.extend(flag.map(Into::into));
    for (flag, value) in [
        ("--address", &args.address),
        ("--namespace", &args.namespace),
    ] {
        if let Some(value) = value {
            arguments.extend([flag.into(), value.into()]);
        }
    }
    arguments
}

/// What this process calls itself: the path by which the user ran `compose`.
fn own_name() -> OsString {
    std::env::args_os()
        .next()
        .unwrap_or_else(|| "compose".into())
}

/// Leaves everything that belongs to whoever runs `compose`, and starts the keeper.
fn detach(state: &StateRoot, args: &SupervisorArgs) -> io::Result<()> {
    descriptors::close_all_on_exec()?;
    rustix::process::setsid()?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let log = launch::prepare_log(state, &args.project).map_err(io::Error::other)?;
    let program = std::env::current_exe()?;
    std::env::set_current_dir("/")?;
    Command::new(program)
        .arg0(own_name())
        .args(arguments(args, None))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(())
}

fn keep(state: &StateRoot, args: &SupervisorArgs) -> io::Result<()> {
    let _used = program::lock_program()?;
    // Somebody who looks whether a supervisor runs holds the lock for a moment.
    let soon = Instant::now() + Duration::from_secs(1);
    let lock = loop {
        match SupervisorLock::acquire(state, &args.project)? {
            Some(lock) => break lock,
            None if Instant::now() < soon => sleep(Duration::from_millis(5)),
            None => {
                tracing::info!(project = args.project, "another supervisor runs");
                return Ok(());
            }
        }
    };
    keeper::run(
        &lock,
        WorkerCommand {
            program: std::env::current_exe()?,
            name: own_name(),
            arguments: arguments(args, Some("--worker")),
        },
    )
}

fn worker_settings(state: StateRoot, args: &SupervisorArgs) -> io::Result<WorkerSettings> {
    keeper::raise_descriptor_limit();
    let holder = Holder::Keeper(HoldClient::from_stdin()?);
    let mut held = holder.take_all()?;
    let lock = held
        .iter()
        .position(|(key, _)| key == LOCK_KEY)
        .map(|index| held.swap_remove(index).1)
        .ok_or_else(|| io::Error::other("the keeper gave no lock"))?;
    Ok(WorkerSettings {
        lock: SupervisorLock::from_held(&state, &args.project, lock),
        state,
        project: args.project.clone(),
        address: args.address.clone(),
        namespace: args.namespace.clone(),
        holder,
        held,
    })
}
