//! The public face of the library: what can be done with a project, one file per operation.
//!
//! Reads look at the world themselves. Whatever changes it is asked of the project's supervisor, which is started where
//! there is something to do. Nothing here prints; what happens is told as [`Reply`](crate::supervisor::protocol::Reply)s.

mod attach;
mod attachment;
mod copy;
mod error;
mod events;
mod exec;
mod image;
mod images;
mod lifecycle;
mod list;
mod live;
mod logs;
mod origin;
mod plan;
mod ports;
mod providers;
mod ps;
mod pull;
mod request;
mod resume;
mod run;
mod session;
mod stats;
mod sync;
mod temporary;
mod top;
mod up;
mod volumes;
mod wait;
mod watch;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::OnceCell;

pub use self::attach::{FollowSelection, Followed, Follower};
pub use self::attachment::{AttachRequest, Attachment};
pub use self::copy::{Copied, CopyDirection, CopyError, CopyRequest, HostEnd};
pub use self::error::StackError;
pub use self::events::{EventSelection, EventStream, ProjectEvent};
pub use self::exec::{ExecOutput, ExecRequest, ExecSession};
pub use self::images::ContainerImage;
pub use self::list::{ProjectSummary, list};
pub use self::live::Live;
pub use self::logs::{LogEntry, LogSelection, Logs};
pub use self::plan::rehearse;
pub use self::ports::{Publisher, displayable};
pub use self::ps::ContainerSummary;
pub use self::pull::{PullOutcome, PullRequest, PushRequest};
pub use self::request::Events;
pub use self::resume::{Resumption, recorded_projects};
pub use self::run::{RunRequest, Started};
pub use self::session::{Session, SessionOutput};
pub use self::stats::{ContainerStats, Sampler};
pub use self::temporary::{TemporaryStack, TemporaryStackBuilder, TemporaryStackError};
pub use self::top::ContainerProcesses;
pub use self::up::Outcome;
pub use self::volumes::VolumeSummary;
pub use self::wait::{Ended, Waits};
pub use self::watch::{Reloaded, Watch};
use crate::container::Containers;
use crate::engine::{Engine, EngineOptions, locate};
use crate::image::Images;
use crate::model::Project;
use crate::network::Networks;
use crate::reconcile::observe::{Observed, observe};
use crate::state::{StateRoot, Versioned, read_json, write_json};

/// What a stack is opened with.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// `None`: only what the records of `name` tell.
    pub project: Option<Project>,
    pub name: String,
    pub state: StateRoot,
    /// Socket of containerd; `None`: the one recorded for the project, the system's, or a private one.
    pub address: Option<PathBuf>,
    /// Namespace in containerd.
    pub namespace: String,
    /// How many steps of a request may run at the same time; the supervisor's choice if not said.
    pub parallel: Option<NonZeroUsize>,
    /// The binary `compose`, which supervisors run; this program if not said.
    pub program: Option<PathBuf>,
    /// How long a request waits for others of the project; without a limit if not said.
    pub lock_timeout: Option<Duration>,
    /// Containers that were brought up from another folder are worked on as if they were its own.
    pub takes_over: bool,
}

/// One project on this host. Connects to containerd when it is first needed.
#[derive(Clone, Debug)]
pub struct Stack {
    options: StackOptions,
    containers: OnceCell<Containers>,
}

/// Which containerd a project runs on: `projects/<name>/engine.json`.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct EngineRecord {
    address: PathBuf,
    namespace: String,
}

impl Versioned for EngineRecord {
    const FORMAT: u64 = 1;
}

impl Stack {
    pub fn open(options: StackOptions) -> Self {
        Self {
            options,
            containers: OnceCell::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn project(&self) -> Option<&Project> {
        self.options.project.as_ref()
    }

    /// The project, for what cannot be done without its files.
    fn required_project(&self) -> Result<&Project, StackError> {
        self.project().ok_or_else(|| StackError::NoProject {
            name: self.options.name.clone(),
        })
    }

    /// The rooms below, on a connection to containerd.
    async fn containers(&self) -> Result<&Containers, StackError> {
        self.containers
            .get_or_try_init(|| connect(&self.options))
            .await
    }

    /// Everything of the project, as it is now.
    pub async fn observe(&self) -> Result<Observed, StackError> {
        let containers = self.containers().await?;
        Ok(observe(containers, &self.options.name).await?)
    }

    /// Remembers which containerd the project runs on.
    fn record_engine(&self, containers: &Containers) -> Result<(), StackError> {
        let folder = self.options.state.project(&self.options.name);
        crate::state::create_private_dir(&folder)?;
        let options = containers.engine.options();
        let record = EngineRecord {
            address: options.address.clone(),
            namespace: options.namespace.clone(),
        };
        Ok(write_json(&folder.join("engine.json"), &record)?)
    }
}

/// Finds containerd, connects to it, and puts the rooms together.
async fn connect(options: &StackOptions) -> Result<Containers, StackError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StackError::NotRoot);
    }
    let path = options.state.project(&options.name).join("engine.json");
    let record: Option<EngineRecord> = if options.name.is_empty() {
        None
    } else {
        read_json(&path)?
    };
    let recorded = record
        .filter(|record| record.namespace == options.namespace)
        .map(|record| record.address);
    let address = locate(
        options.address.as_deref(),
        recorded.as_deref(),
        &options.state,
    )
    .await?;
    let engine = Engine::connect(EngineOptions {
        address,
        namespace: options.namespace.clone(),
        snapshotter: None,
    })
    .await?;
    Ok(Containers {
        images: Images::new(engine.clone(), options.state.clone()),
        engine,
        networks: Networks::new(options.state.clone()),
        state: options.state.clone(),
    })
}
