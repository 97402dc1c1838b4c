//! A stack that goes with the value that stands for it, as integration tests want it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{ExecOutput, ExecRequest, LogEntry, LogSelection, Stack, StackError, StackOptions};
use crate::container::ExecOptions;
use crate::load::{self, LoadError, LoadOptions};
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{DownOptions, UpOptions};
use crate::state::StateRoot;

/// Time that a stack has until it is ready, where none is said.
const PATIENCE: Duration = Duration::from_mins(2);

/// The name of the program that supervisors run.
const PROGRAM: &str = "compose";

/// Namespace in containerd where none is named.
const NAMESPACE: &str = "default";

/// How a [`TemporaryStack`] is made.
#[derive(Clone, Debug)]
pub struct TemporaryStackBuilder {
    prefix: String,
    load: LoadOptions,
    patience: Duration,
    state: StateRoot,
    address: Option<PathBuf>,
    namespace: String,
    program: Option<PathBuf>,
}

/// A project under a name of its own, up and ready, that is taken down with its volumes when this is dropped.
///
/// Two of the same file do not meet, in one process or in several: the name of the project is new each time, and with
/// it those of containers, networks and volumes. Only what a file itself gives a fixed name or a fixed host port must be
/// written so that two can be there (`ports: ["80"]`, not `ports: ["8080:80"]`).
///
/// ```no_run
/// use containerd_compose::stack::TemporaryStack;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let stack = TemporaryStack::from_file("compose.yaml").up().await?;
/// let address = stack.address("web", 80).await?;
/// let page = std::net::TcpStream::connect(address)?;
/// # drop(page);
/// # Ok(())
/// # }
/// ```
///
/// Dropping blocks until the stack is gone; what cannot be removed is only logged then. [`TemporaryStack::down`] says it.
/// A process that is killed leaves its stacks behind, as `compose ls` shows.
#[derive(Debug)]
pub struct TemporaryStack {
    stack: Stack,
    is_down: bool,
}

/// A [`TemporaryStack`] did not become ready; nothing of it is left.
#[derive(Error)]
pub enum TemporaryStackError {
    /// The file is not a valid Compose file.
    #[error("{}", diagnostics(.0))]
    Load(#[source] LoadError),
    /// `compose`, which supervisors run, is not in any folder of `PATH`.
    #[error("no program `{PROGRAM}` is in a folder of PATH; name it with `program`")]
    NoProgram,
    /// It did not come up: who is not ready, and why.
    #[error("{}", report(.0))]
    Up(#[source] StackError),
}

/// The same as for users: tests unwrap errors, and what matters must be readable then.
impl fmt::Debug for TemporaryStackError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl TemporaryStackBuilder {
    fn new(load: LoadOptions) -> Self {
        let variables = std::env::vars_os();
        let environment = variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            prefix: "test".into(),
            load: LoadOptions {
                environment,
                working_dir: std::env::current_dir().unwrap_or_default(),
                ..load
            },
            patience: PATIENCE,
            state: StateRoot::from_environment(),
            address: std::env::var_os("CONTAINERD_ADDRESS").map(Into::into),
            namespace: std::env::var("CONTAINERD_NAMESPACE").unwrap_or_else(|_| NAMESPACE.into()),
            program: None,
        }
    }

    /// What the name of the project begins with; `test` if not said. Lower case letters, digits, hyphens.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// A variable for the file, over the environment of this process.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.load.environment.insert(name.into(), value.into());
        self
    }

    /// Makes a profile active.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.load.profiles.push(profile.into());
        self
    }

    /// Brings up this service with its dependencies; all services if none is named.
    #[must_use]
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.load.services.push(service.into());
        self
    }

    /// Where relative paths of an inline file start; the working directory if not said.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.load.project_directory = Some(directory.into());
        self
    }

    /// How long it may take until all services run, and are healthy where they have a health check; two minutes if not said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Socket of containerd; `CONTAINERD_ADDRESS` if not said, else the system's.
    #[must_use]
    pub fn containerd(mut self, address: impl Into<PathBuf>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The binary `compose`, which looks after the containers; the first one in `PATH` if not said.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Brings the stack up and waits until it is ready. If that fails, what is there by then goes again.
    pub async fn up(self) -> Result<TemporaryStack, TemporaryStackError> {
        let program = self.program.or_else(find_program);
        let program = program.ok_or(TemporaryStackError::NoProgram)?;
        let name = format!("{}-{}", self.prefix, crate::random::random_hex(6));
        let load = LoadOptions {
            project_name: Some(name.clone()),
            ..self.load
        };
        let loaded = load::load(&load).map_err(TemporaryStackError::Load)?;
        let temporary = TemporaryStack {
            stack: Stack::open(StackOptions {
                project: Some(loaded.project),
                name,
                state: self.state,
                address: self.address,
                namespace: self.namespace,
                parallel: None,
                lock_timeout: None,
                takes_over: false,
                program: Some(program),
            }),
            is_down: false,
        };
        let options = UpOptions {
            services: load.services,
            wait: true,
            wait_timeout: Some(self.patience.as_secs().max(1)),
            ..UpOptions::default()
        };
        let up = async {
            let request = temporary.stack.up(options)?;
            temporary.stack.ask(request, |_| {}).await
        };
        // What waits for the supervisor is large, and would lie in the futures of all callers.
        match Box::pin(up).await {
            Ok(_) => Ok(temporary),
            Err(error) => {
                if let Err(error) = Box::pin(temporary.down()).await {
                    tracing::error!(%error, "cannot remove a stack that did not come up");
                }
                Err(TemporaryStackError::Up(error))
            }
        }
    }
}

impl TemporaryStack {
    /// A stack of the project that `file` describes.
    pub fn from_file(file: impl Into<PathBuf>) -> TemporaryStackBuilder {
        TemporaryStackBuilder::new(LoadOptions {
            files: vec![file.into()],
            ..LoadOptions::default()
        })
    }

    /// A stack of the project that the text of a Compose file describes.
    pub fn from_yaml(text: impl Into<String>) -> TemporaryStackBuilder {
        TemporaryStackBuilder::new(LoadOptions {
            files: vec!["-".into()],
            stdin: Some(text.into()),
            ..LoadOptions::default()
        })
    }

    /// Where port `port` (TCP) of the first replica of `service` is published, as this host reaches it.
    pub async fn address(&self, service: &str, port: u16) -> Result<SocketAddr, StackError> {
        let publisher = self.stack.published(service, 0, port, "tcp").await?;
        let address = match publisher.url.parse() {
            Ok(IpAddr::V4(address)) if !address.is_unspecified() => IpAddr::V4(address),
            Ok(IpAddr::V6(address)) if !address.is_unspecified() => IpAddr::V6(address),
            Ok(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            Ok(IpAddr::V4(_)) | Err(_) => Ipv4Addr::LOCALHOST.into(),
        };
        Ok((address, publisher.published_port).into())
    }

    /// Runs a command in the first replica of `service` to its end.
    pub async fn run<W: Into<String>>(
        &self,
        service: &str,
        command: impl IntoIterator<Item = W>,
    ) -> Result<ExecOutput, StackError> {
        let request = ExecRequest {
            service: service.into(),
            options: ExecOptions {
                command: command.into_iter().map(Into::into).collect(),
                ..ExecOptions::default()
            },
            ..ExecRequest::default()
        };
        self.stack.exec(&request).await?.output().await
    }

    /// The lines that the replicas of `service` wrote until now, by time.
    pub async fn log(&self, service: &str) -> Result<Vec<String>, StackError> {
        let selection = LogSelection {
            services: vec![service.into()],
            ..LogSelection::default()
        };
        let mut logs = self.stack.logs(&selection).await?;
        let mut lines = Vec::new();
        while let Some(entry) = logs.next().await {
            if let LogEntry::Line { line, .. } = entry {
                lines.push(line.log.trim_end().to_owned());
            }
        }
        Ok(lines)
    }

    /// Takes it down with its volumes; no container gets a grace period.
    pub async fn down(mut self) -> Result<(), StackError> {
        take_down(&self.stack).await?;
        self.is_down = true;
        Ok(())
    }
}

/// All else that can be done with a [`Stack`].
impl Deref for TemporaryStack {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl Drop for TemporaryStack {
    fn drop(&mut self) {
        if self.is_down {
            return;
        }
        // Whoever drops it may be in a runtime, which nobody may block from inside.
        let stack = &self.stack;
        let taken = std::thread::scope(|scope| scope.spawn(|| take_down_alone(stack)).join());
        match taken {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(project = stack.name(), "{}", report(&error));
            }
            Err(_) => tracing::error!(project = stack.name(), "cannot take it down"),
        }
    }
}

/// [`take_down`] on a runtime and with a connection of its own.
fn take_down_alone(stack: &Stack) -> Result<(), StackError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StackError::Io {
            operation: "take a stack down".into(),
            source,
        })?;
    runtime.block_on(take_down(&Stack::open(stack.options.clone())))
}

async fn take_down(stack: &Stack) -> Result<(), StackError> {
    let request = stack.down(DownOptions {
        volumes: true,
        remove_orphans: true,
        timeout: Some(0),
        ..DownOptions::default()
    });
    stack.ask(request, |_| {}).await.map(drop)
}

fn find_program() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(PROGRAM))
        .find(|program| program.is_file())
}

/// What is wrong with a file, each on a line with its place.
fn diagnostics(error: &LoadError) -> String {
    let lines = error.diagnostics.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}

/// All that is known of why an operation failed.
fn report(error: &StackError) -> String {
    match error {
        StackError::Failed(failures) => {
            let reports = failures.iter().map(Failure::report);
            reports.collect::<Vec<_>>().join("\n")
        }
        error => {
            let failure = Failure {
                hints: error.hints(),
                details: error.details().to_vec(),
                ..Failure::from_error("", error)
            };
            failure.report()
        }
    }
}
