//! Why an operation on a container failed, and what the user may do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::engine::EngineError;
use crate::engine::spec::SpecError;
use crate::image::ImageError;
use crate::network::NetworkError;
use crate::state::StateError;

/// A container could not be made, started, stopped or removed.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("{attribute}: `{value}` is not valid: {reason}")]
    Invalid {
        attribute: String,
        value: String,
        reason: String,
    },
    #[error("{} does not exist", path.display())]
    MissingSource { path: PathBuf },
    #[error("volume `{volume}` does not exist")]
    MissingVolume { volume: String },
    #[error("variable `{variable}` of {what} is not set")]
    MissingVariable { what: String, variable: String },
    /// The value of `what` came from an environment that is gone, as after a reboot.
    #[error("the value of {what} is not known any more")]
    MissingContent { what: String },
    /// `what` (as `pid`) names a container that does not run.
    #[error("{what}: container `{container}` is not running")]
    ParentNotRunning { what: String, container: String },
    #[error("volume `{volume}` is in use by {}", users.join(", "))]
    VolumeInUse { volume: String, users: Vec<String> },
    /// The first process could not be started. `code` is what a shell would give: 126 not executable, 127 not found,
    /// 128 anything else.
    #[error("{message}")]
    Start { code: u8, message: String },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
    /// A record of ours in containerd cannot be read.
    #[error("the record of container `{id}` is damaged or not ours")]
    Damaged {
        id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl ContainerError {
    pub(super) fn invalid(
        attribute: impl Into<String>,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            attribute: attribute.into(),
            value: value.into(),
            reason: reason.into(),
        }
    }

    /// For `map_err`: names what could not be done.
    pub(super) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }

    /// For `map_err`: names the file that could not be written.
    pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("write {}", path.display()))
    }

    /// Exit code that a shell gives for a command that it could not start; 125 if it was not the command's fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { code, .. } => *code,
            _ => 125,
        }
    }

    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Engine(error) => error.hints(),
            Self::Network(error) => error.hints(),
            Self::MissingSource { .. } => {
                vec!["`create_host_path: true` makes a missing folder".into()]
            }
            Self::MissingVolume { .. } => vec![
                "an external volume must be there already; without `external: true` it is made".into(),
            ],
            Self::MissingVariable { variable, .. } => {
                vec![format!("set `{variable}` in the environment or in a file of `--env-file`")]
            }
            Self::MissingContent { .. } => {
                vec!["it is kept in memory only; run `compose up` with its variable set".into()]
            }
            Self::ParentNotRunning { container, .. } => {
                vec![format!("start `{container}` first, or name it in `depends_on`")]
            }
            Self::Start { code: 127, message } if message.contains("no such file or directory") => vec![
                "if the file is there, the interpreter or loader that its first line or ELF header names is not, or its lines end in CR LF".into(),
            ],
            Self::Start { code: 126, .. } => {
                vec!["`chmod +x` it in the image, or run it through its interpreter".into()]
            }
            _ => Vec::new(),
        }
    }
}
