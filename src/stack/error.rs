//! Why an operation on a stack failed.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::copy::CopyError;
use crate::container::ContainerError;
use crate::engine::EngineError;
use crate::image::ImageError;
use crate::reconcile::failure::Failure;
use crate::reconcile::observe::ObserveError;
use crate::reconcile::prepare::PrepareError;
use crate::state::StateError;
use crate::supervisor::frame::FrameError;
use crate::supervisor::launch::LaunchError;
use crate::watch::WatchError;

#[derive(Debug, Error)]
pub enum StackError {
    #[error("containers need root")]
    NotRoot,
    #[error("project `{name}` is known by name only, and this needs its files")]
    NoProject { name: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Prepare(PrepareError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(
        "project `{project}` was brought up from {}, and this is {}",
        other.display(),
        own.display()
    )]
    OtherCheckout {
        project: String,
        other: PathBuf,
        own: PathBuf,
    },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    /// What the supervisor could not do.
    #[error("{} of the project failed", failures_text(.0.len()))]
    Failed(Vec<Failure>),
    /// The container of a single command; `code` as `docker run` ends.
    #[error("the command could not be started")]
    NotStarted { code: u32, failures: Vec<Failure> },
    /// `log`: the last lines of `path`.
    #[error("the supervisor of project `{project}` ended unexpectedly")]
    SupervisorEnded {
        project: String,
        path: PathBuf,
        log: Vec<String>,
    },
    #[error("no containers for project \"{project}\"")]
    NoContainers { project: String },
    #[error("service \"{service}\" is not running{}", container_number(*.index))]
    NotRunning { service: String, index: u32 },
    #[error("no port {port}/{protocol} for container {container}")]
    NotPublished {
        container: String,
        port: u16,
        protocol: String,
    },
    /// The runtime could not start a command; `code` is 126 or 127.
    #[error("{message}")]
    Refused { code: u8, message: String },
    #[error("application not healthy after {}s", after.as_secs())]
    NotHealthy { after: Duration },
}

impl From<PrepareError> for StackError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Pull(failures) => Self::Failed(failures),
            error => Self::Prepare(error),
        }
    }
}

fn failures_text(count: usize) -> String {
    match count {
        1 => "one resource".into(),
        count => format!("{count} resources"),
    }
}

fn container_number(index: u32) -> String {
    match index {
        0 => String::new(),
        index => format!(" container #{index}"),
    }
}

impl StackError {
    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::NotRoot => vec!["run the command with `sudo`".into()],
            Self::OtherCheckout { .. } => vec![
                "`-p NAME`, `COMPOSE_PROJECT_NAME` or `name:` in the file gives this one a name of its own".into(),
                "`--take-over` goes on here with the containers from there".into(),
            ],
            Self::NoProject { .. } => vec!["name the files with `-f`".into()],
            Self::Engine(error) | Self::Observe(ObserveError::Engine(error)) => error.hints(),
            Self::Observe(ObserveError::Container(error)) | Self::Container(error) => error.hints(),
            Self::Prepare(PrepareError::Image(error)) | Self::Image(error) => error.hints(),
            Self::Prepare(PrepareError::Plan(error)) => error.hints(),
            Self::Watch(error) => error.hints(),
            Self::SupervisorEnded { path, .. } | Self::Launch(LaunchError::Silent { path, .. }) => {
                vec![format!("its log is {}", path.display())]
            }
            Self::Launch(LaunchError::Newer { .. }) => {
                vec!["use the newer version, or take the project down with it first".into()]
            }
            _ => Vec::new(),
        }
    }

    /// Lines of a log that tell more.
    pub fn details(&self) -> &[String] {
        match self {
            Self::SupervisorEnded { log, .. } | Self::Launch(LaunchError::Silent { log, .. }) => {
                log
            }
            _ => &[],
        }
    }
}
