//! Which containerd to use, and one of our own where there is none.
//!
//! Ours keeps its data in `<data>/containerd` and listens in `<run>/containerd`. It is started by whoever needs it
//! first and stopped when nothing uses it any more. Alive is what accepts a connection on its socket.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{ListContainersRequest, ListNamespacesRequest};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tonic::Status;

use super::connect::{MESSAGE_LIMIT, api_of, open_channel, probe_version};
use super::{EngineError, find_in_path};
use crate::state::{StateRoot, create_private_dir, write_atomic};
use crate::sys;

const ADDRESS_VARIABLE: &str = "CONTAINERD_ADDRESS";
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";
/// Of a socket path; containerd makes a second one with `.ttrpc` at the end.
const SOCKET_PATH_LIMIT: usize = 107 - ".ttrpc".len();
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_millis(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_LIMIT: u64 = 8 << 20;
const LOG_TAIL_BYTES: u64 = 16 << 10;
const LOG_TAIL_LINES: usize = 10;

/// Plugins that a private containerd has no use for; names of 1.x and 2.x. Some would touch the system outside our
/// folders or poll for nothing.
const DISABLED_PLUGINS: [&str; 13] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.blockfile",
];

/// What a probe of possible sockets found.
///
/// `recorded`: the address that the project's state names. Order: `explicit` or `CONTAINERD_ADDRESS`, `recorded`,
/// the system's socket, a private containerd (started if needed, as root). A socket other than our own is not tried:
/// one that refuses is for [`super::Engine::connect`] to report, and no reason for a second containerd.
pub async fn locate(
    explicit: Option<&Path>,
    recorded: Option<&Path>,
    state: &StateRoot,
) -> Result<PathBuf, EngineError> {
    let variable = std::env::var_os(ADDRESS_VARIABLE).filter(|value| !value.is_empty());
    let named = explicit
        .map(Path::as_os_str)
        .or(variable.as_deref())
        .or(recorded.map(Path::as_os_str))
        .map(socket_path);
    let own = private_address(state);
    match named {
        Some(address) if address != own => Ok(address),
        None if Path::new(SYSTEM_SOCKET).symlink_metadata().is_ok() => Ok(SYSTEM_SOCKET.into()),
        _ => {
            Private::new(state).ensure().await?;
            Ok(own)
        }
    }
}

/// Socket of the private containerd, running or not.
pub fn private_address(state: &StateRoot) -> PathBuf {
    state.run().join("containerd").join("containerd.sock")
}

/// Stops the private containerd if it has no container left in any namespace; its images stay. True if it was
/// stopped, false if there was none or it is in use.
pub async fn stop_private(state: &StateRoot) -> Result<bool, EngineError> {
    Private::new(state).stop().await
}

/// Paths are also written as `unix:///path`.
fn socket_path(address: &OsStr) -> PathBuf {
    let text = address.to_string_lossy();
    match text.strip_prefix("unix://") {
        Some(path) => path.into(),
        None => address.into(),
    }
}

#[derive(Clone, Debug)]
struct Private {
    data: PathBuf,
    run: PathBuf,
    socket: PathBuf,
}

impl Private {
    fn new(state: &StateRoot) -> Self {
        Self {
            data: state.data().join("containerd"),
            run: state.run().join("containerd"),
            socket: private_address(state),
        }
    }

    fn config(&self) -> PathBuf {
        self.data.join("config.toml")
    }

    fn log(&self) -> PathBuf {
        self.data.join("containerd.log")
    }

    /// Starts it unless it runs.
    async fn ensure(&self) -> Result<(), EngineError> {
        if self.connect()?.is_some() {
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return Err(self.nothing_there("there is none, and only root can start one"));
        }
        let Some(program) = find_in_path("containerd") else {
            return Err(self.nothing_there("there is none, and no `containerd` on PATH to start"));
        };
        let _lock = self.lock().await?;
        // Somebody else may have been first.
        if self.connect()?.is_some() {
            return Ok(());
        }
        let this = self.clone();
        let spawned = tokio::task::spawn_blocking(move || this.spawn(&program));
        let mut child = spawned
            .await
            .map_err(io::Error::from)
            .flatten()
            .map_err(|error| EngineError::io("start a private containerd", error))?;
        if let Err(error) = self.wait_ready(&mut child).await {
            let _gone = child.kill();
            let _status = child.wait();
            return Err(EngineError::io("start a private containerd", error));
        }
        // It outlives us; if we outlive it, somebody has to collect its exit status.
        let reaper = std::thread::Builder::new().name("containerd-reaper".into());
        if let Err(error) = reaper.spawn(move || child.wait()) {
            tracing::debug!(%error, "no thread to collect the exit of containerd");
        }
        Ok(())
    }

    /// A connection, or `None` if nobody listens.
    fn connect(&self) -> Result<Option<UnixStream>, EngineError> {
        match UnixStream::connect(&self.socket) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(EngineError::Unreachable {
                    address: self.socket.clone(),
                    source: error.into(),
                }),
            },
        }
    }

    fn nothing_there(&self, why: &str) -> EngineError {
        tracing::debug!(socket = %self.socket.display(), "no private containerd");
        EngineError::Unreachable {
            address: SYSTEM_SOCKET.into(),
            source: why.into(),
        }
    }

    /// Held while it is being started or stopped.
    async fn lock(&self) -> Result<File, EngineError> {
        let data = self.data.clone();
        let locked = tokio::task::spawn_blocking(move || {
            create_private_dir(&data).map_err(io::Error::other)?;
            let mut options = File::options();
            options.create(true).truncate(false).write(true);
            let file = options.open(data.join("lock"))?;
            file.lock()?;
            Ok(file)
        });
        let locked = locked.await.map_err(io::Error::from).flatten();
        locked.map_err(|error| EngineError::io("lock the private containerd", error))
    }

    fn spawn(&self, program: &Path) -> io::Result<Child> {
        let length = self.socket.as_os_str().len();
        if length > SOCKET_PATH_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the path of its socket, `{}`, has {length} bytes; {SOCKET_PATH_LIMIT} are possible",
                    self.socket.display()
                ),
            ));
        }
        create_private_dir(&self.run).map_err(io::Error::other)?;
        let version = Command::new(program).arg("--version").output()?.stdout;
        let config = self.render_config(major_version(&String::from_utf8_lossy(&version)));
        write_atomic(&self.config(), config.as_bytes()).map_err(io::Error::other)?;
        let log = self.open_log()?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.config())
            .current_dir("/")
            .env_clear()
            .env("PATH", search_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A tighter umask would make the root of every container unreadable for all but root: the folders of snapshots
        // get their mode from it.
        sys::detach(&mut command, 0o022);
        command.spawn()
    }

    fn open_log(&self) -> io::Result<File> {
        let path = self.log();
        if path.metadata().is_ok_and(|data| data.len() > LOG_LIMIT) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.create(true).append(true).open(path)
    }

    fn render_config(&self, major: u32) -> String {
        let quote = |path: &Path| toml_string(&path.to_string_lossy());
        let disabled = DISABLED_PLUGINS.map(toml_string).join(", ");
        format!(
            "version = {version}\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [{disabled}]\n\
             \n\
             [grpc]\n\
             address = {socket}\n\
             \n\
             [debug]\n\
             level = \"info\"\n",
            version = if major >= 2 { 3 } else { 2 },
            root = quote(&self.data),
            state = quote(&self.run.join("state")),
            socket = quote(&self.socket),
        )
    }

    async fn wait_ready(&self, child: &mut Child) -> io::Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Err(self.start_failure(&format!("it ended ({status})")));
            }
            // Only a socket that accepts is worth a call.
            if UnixStream::connect(&self.socket).is_ok() {
                let channel = open_channel(&self.socket);
                let probe = tokio::time::timeout(START_TIMEOUT, probe_version(&channel));
                if let Ok(Ok(version)) = probe.await {
                    tracing::info!(version, socket = %self.socket.display(), "private containerd started");
                    return Ok(());
                }
            }
            if started.elapsed() > START_TIMEOUT {
                let seconds = START_TIMEOUT.as_secs();
                return Err(self.start_failure(&format!("no answer within {seconds} seconds")));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    fn start_failure(&self, what: &str) -> io::Error {
        let path = self.log();
        let tail = File::open(&path).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        let tail = tail.unwrap_or_default();
        let lines: Vec<&str> = tail.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        io::Error::other(format!(
            "{what}; the last lines of {} are:\n{last}",
            path.display()
        ))
    }

    async fn stop(&self) -> Result<bool, EngineError> {
        if !self.data.exists() {
            return Ok(false);
        }
        let _lock = self.lock().await?;
        let Some(stream) = self.connect()? else {
            self.remove_run_files();
            return Ok(false);
        };
        let used = self.is_used().await;
        if used
            .map_err(|status| EngineError::from_status(&self.socket, "list containers", &status))?
        {
            return Ok(false);
        }
        let this = self.clone();
        let stopped = tokio::task::spawn_blocking(move || this.terminate(stream));
        let stopped = stopped.await.map_err(io::Error::from).flatten();
        stopped.map_err(|error| EngineError::io("stop the private containerd", error))?;
        self.remove_run_files();
        Ok(true)
    }

    async fn is_used(&self) -> Result<bool, Status> {
        let channel = open_channel(&self.socket);
        let namespaces = NamespacesClient::new(channel.clone())
            .list(ListNamespacesRequest::default())
            .await?
            .into_inner()
            .namespaces;
        for namespace in namespaces {
            let mut stream = ContainersClient::new(api_of(&channel, &namespace.name)?)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .list_stream(ListContainersRequest::default())
                .await?
                .into_inner();
            if stream.message().await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends the process at the other end of `stream`, once it is proven to be ours: while the connection stands, its
    /// number means no other process, and from then on the process descriptor means it.
    fn terminate(&self, stream: UnixStream) -> io::Result<()> {
        let pid = rustix::net::sockopt::socket_peercred(&stream)?.pid;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        if !self.is_ours(pid) {
            let pid = pid.as_raw_pid();
            return Err(io::Error::other(format!(
                "its socket belongs to process {pid}, which is not the one that was started"
            )));
        }
        // It would wait for a connection on which nothing has been said.
        drop(stream);
        for signal in [Signal::TERM, Signal::KILL] {
            rustix::process::pidfd_send_signal(&process, signal)?;
            if wait_end(&process, STOP_TIMEOUT)? {
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it does not end even when killed",
        ))
    }

    fn is_ours(&self, pid: Pid) -> bool {
        let path = format!("/proc/{}/cmdline", pid.as_raw_pid());
        let config = self.config();
        std::fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|argument| argument == config.as_os_str().as_encoded_bytes())
        })
    }

    /// Sockets and the empty folders of a stopped containerd. Nothing is removed while something is mounted below.
    fn remove_run_files(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .any(|target| Path::new(target).starts_with(&self.run));
        if below {
            tracing::warn!(path = %self.run.display(), "mounts are left below");
            return;
        }
        match std::fs::remove_dir_all(&self.run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.run.display(), %error, "run files stay");
            }
            _ => {}
        }
    }
}

/// True once the process has ended.
fn wait_end(process: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    loop {
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Of `containerd github.com/containerd/containerd v1.7.2 …`; 1 if it says anything else.
fn major_version(text: &str) -> u32 {
    text.split_whitespace()
        .find_map(|word| {
            let number = word.strip_prefix('v').unwrap_or(word);
            number.split_once('.')?.0.parse().ok()
        })
        .unwrap_or(1)
}

/// The user's, and the system folders where the shims and runtimes are.
pub(super) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// The escapes of JSON are among those of TOML.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(root: &Path) -> StateRoot {
        StateRoot::new(Some(root))
    }

    #[tokio::test]
    async fn an_explicit_address_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let explicit = Path::new("unix:///nonexistent/a.sock");
        let recorded = Path::new("/b.sock");
        let address = locate(Some(explicit), Some(recorded), &state(root.path())).await;
        assert_eq!(address.unwrap(), Path::new("/nonexistent/a.sock"));
    }

    #[test]
    fn the_config_fits_the_major_version() {
        let root = tempfile::tempdir().unwrap();
        let private = Private::new(&state(root.path()));
        assert!(private.render_config(1).starts_with("version = 2\n"));
        assert!(private.render_config(2).starts_with("version = 3\n"));
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1";
        assert_eq!(major_version(debian), 1);
        let docker = "containerd containerd.io v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376";
        assert_eq!(major_version(docker), 2);
        assert_eq!(major_version(""), 1);
    }

    #[test]
    fn paths_are_quoted_in_the_config() {
        assert_eq!(toml_string("/a\"b\\c\n"), r#""/a\"b\\c\n""#);
    }

    #[test]
    fn a_socket_path_that_the_kernel_refuses_is_named() {
        let root = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
        let error = Private::new(&state(&root))
            .spawn(Path::new("/bin/false"))
            .unwrap_err();
        assert!(error.to_string().contains("101 are possible"), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_stopped_where_nothing_was_started() {
        let root = tempfile::tempdir().unwrap();
        assert!(!stop_private(&state(root.path())).await.unwrap());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
