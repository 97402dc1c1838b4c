//! What a command and a project's supervisor say to each other over `control.sock`.
//!
//! Each message is a length (4 bytes, big endian) and that many bytes of JSON.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::live::LiveRecord;
use crate::image::LayerProgress;
use crate::model::Project;
use crate::reconcile::failure::Failure;
use crate::reconcile::plan::{DownOptions, UpOptions};
use crate::state::HealthStatus;

/// Both sides name theirs; a newer command makes an older worker replace itself.
pub const VERSION: u32 = 1;

/// First message of either side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// Who asks, as `up (pid 4711)`; waiting commands show it.
    pub who: String,
    /// How many steps of the request may run at the same time; the supervisor knows if it is not said.
    #[serde(default)]
    pub parallel: Option<NonZeroUsize>,
    /// How long the request may wait for its turn; without a limit if it is not said.
    #[serde(default)]
    pub lock_timeout: Option<Duration>,
}

impl Hello {
    /// The greeting of `who` in this version, with nothing else to say.
    pub fn new(who: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            who: who.into(),
            parallel: None,
            lock_timeout: None,
        }
    }
}

/// What a command asks for. Requests of one project run one after the other; the end of the connection cancels one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Up {
        project: Box<Project>,
        options: UpOptions,
    },
    /// Makes and starts the one-off of `options`; one that is attended is attached to as by [`Request::Attach`] then.
    Run {
        project: Box<Project>,
        options: UpOptions,
    },
    /// Connects to a container: [`Reply::Started`], then its output as raw frames (a byte for the stream, then what was
    /// written), then [`Reply::Ended`]. Meanwhile [`Control`]s are taken. Does not wait in the queue.
    Attach {
        id: String,
    },
    /// Without a project: from the records alone.
    Down {
        project: Option<Box<Project>>,
        options: DownOptions,
    },
    Start {
        project: Option<Box<Project>>,
        services: Vec<String>,
        wait: bool,
    },
    Stop {
        project: Option<Box<Project>>,
        services: Vec<String>,
        timeout: Option<u32>,
    },
    Restart {
        project: Option<Box<Project>>,
        services: Vec<String>,
        timeout: Option<u32>,
        no_deps: bool,
    },
    Kill {
        project: Option<Box<Project>>,
        services: Vec<String>,
        signal: String,
        remove_orphans: bool,
    },
    Remove {
        project: Option<Box<Project>>,
        services: Vec<String>,
        stop: bool,
        volumes: bool,
    },
    Pause {
        services: Vec<String>,
    },
    Unpause {
        services: Vec<String>,
    },
    /// Follows the files of the project from now on as the record says; none: does not any more. Does not wait in the
    /// queue.
    Live {
        record: Option<Box<LiveRecord>>,
    },
    /// Streams [`Reply::Container`] until the connection ends; does not wait in the queue.
    Follow,
    /// Answered by [`Reply::Finished`] at once; does not wait in the queue.
    Ping,
    /// Goes on as `program`, a newer one, after the requests that are in the queue.
    Replace {
        program: PathBuf,
    },
}

impl Request {
    /// Whether the project is not to follow its files after this: it goes down or stops as a whole.
    pub fn ends_live(&self) -> bool {
        match self {
            Self::Down { options, .. } => options.services.is_empty(),
            Self::Stop { services, .. } => services.is_empty(),
            Self::Remove { services, stop, .. } => *stop && services.is_empty(),
            _ => false,
        }
    }
}

/// What a command that is attached to a container tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The size of its terminal is this.
    Resize {
        columns: u32,
        rows: u32,
    },
    Signal {
        number: u32,
    },
    /// There is no more input. It is written to the container's FIFO, and not sent.
    CloseStdin,
    /// The command ends, and the container is to go on without it.
    Detach,
}

/// First byte of a raw frame.
pub const STDOUT: u8 = 1;
/// First byte of a raw frame.
pub const STDERR: u8 = 2;

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Another request runs; `behind` says whose, `since` from when on.
    Queued {
        behind: String,
        #[serde(default)]
        since: Option<Timestamp>,
    },
    Progress(Progress),
    Layer(LayerProgress),
    Warning {
        text: String,
    },
    Container(ContainerEvent),
    /// The container of [`Request::Run`] or [`Request::Attach`]; it was started.
    Started {
        id: String,
    },
    /// The container has ended, and all that it wrote was sent; no message follows.
    Ended {
        code: u32,
    },
    /// The request ended; no message follows.
    Finished,
    /// The request ended with failures; no message follows.
    Failed {
        failures: Vec<Failure>,
    },
    /// The container of [`Request::Run`] could not be started and is gone; no message follows.
    NotStarted {
        /// As `docker run` ends: 127 for a command that is not found, 126 for one that cannot run, else 125.
        code: u32,
        failures: Vec<Failure>,
    },
}

/// Something happened to one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub kind: Resource,
    pub name: String,
    pub status: ProgressStatus,
    pub detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    Container,
    Network,
    Volume,
    Image,
    Service,
}

/// Words that Docker prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgressStatus {
    Creating,
    Created,
    Recreate,
    Recreated,
    Starting,
    Started,
    Running,
    Updating,
    Updated,
    Signalled,
    Waiting,
    Healthy,
    Exited,
    Restarting,
    Restarted,
    Pausing,
    Paused,
    Unpausing,
    Unpaused,
    Stopping,
    Stopped,
    Killing,
    Killed,
    Removing,
    Removed,
    Importing,
    Imported,
    Copied,
    Committed,
    Pulling,
    Pulled,
    Pushing,
    Pushed,
    Skipped,
    Error,
}

impl ProgressStatus {
    /// Whether more is to come for the resource.
    pub const fn is_ongoing(self) -> bool {
        matches!(
            self,
            Self::Creating
                | Self::Recreate
                | Self::Starting
                | Self::Updating
                | Self::Waiting
                | Self::Restarting
                | Self::Pausing
                | Self::Unpausing
                | Self::Stopping
                | Self::Killing
                | Self::Removing
                | Self::Importing
                | Self::Pulling
                | Self::Pushing
        )
    }
}

/// A container changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerEvent {
    pub at: Timestamp,
    pub id: String,
    pub name: String,
    pub service: String,
    pub one_off: bool,
    pub change: ContainerChange,
    /// Why, as `restart policy` or `up: environment.LEVEL changed`.
    pub reason: Option<String>,
    /// It was stopped so that it, or its successor, starts anew.
    #[serde(default)]
    pub returns: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerChange {
    Created,
    Started,
    Exited {
        code: u32,
    },
    /// Will start again by its policy.
    Restarting {
        after_ms: u64,
    },
    Stopped,
    Removed,
    Health {
        status: HealthStatus,
    },
    OutOfMemory,
    Paused,
    Unpaused,
}
