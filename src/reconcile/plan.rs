//! Plans as data. Making one is pure and total: no I/O, no clock.

mod builder;
mod down;
mod error;
mod exclusive;
mod lifecycle;
mod order;
mod resources;
mod rollout;
mod schedule;
mod slots;
mod up;

pub use down::plan_down;
pub use error::PlanError;
pub use lifecycle::{plan_kill, plan_remove, plan_restart, plan_start, plan_stop};
pub use order::written_order;
pub use up::{plan_create, plan_up, selected_services};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::container::{Desired, VolumeRecord};
use crate::model::{Condition, Duration};
use crate::network::{NetworkSpec, SandboxSpec};
use crate::reconcile::update::UpdatePolicy;

/// Index of a step in its plan.
pub type StepId = usize;

/// Why a step is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// The resource does not exist.
    Missing,
    /// A field differs; `path` as `environment.LEVEL` or `image`.
    Changed {
        path: String,
        old: Option<Value>,
        new: Option<Value>,
    },
    /// Asked for by a flag or a command, as `--force-recreate`.
    Requested { by: String },
    /// `resource` (as `service db`, `network shop_back`) is replaced or restarted and this must follow.
    Follows { resource: String },
    /// It is not running.
    NotRunning { exit_code: Option<u32> },
    /// It runs, and was told to stop.
    Stopping,
    /// More replicas than wanted.
    Surplus,
    /// Its service is not in the file.
    Orphan,
    /// The file does not name it any more, or the project goes down.
    NotWanted,
    /// A command before this one did not come to its end.
    Interrupted,
}

/// What a step does. Containers are named by slot (name of the container), as ids come only when they are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    CreateNetwork {
        spec: NetworkSpec,
    },
    RemoveNetwork {
        name: String,
    },
    CreateVolume {
        volume: VolumeRecord,
    },
    RemoveVolume {
        name: String,
    },
    /// Fetches an image from its registry. `digest`: of the platform's manifest there.
    PullImage {
        service: String,
        reference: String,
        platform: Option<String>,
        digest: String,
    },
    /// Import and unpack what the service runs from.
    EnsureImage {
        service: String,
        reference: String,
    },
    /// `stands_by_for`: the other sandbox of the slot, which keeps names and published ports until they are switched.
    CreateSandbox {
        spec: SandboxSpec,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stands_by_for: Option<String>,
    },
    /// Leads names and published ports of a slot from one of its sandboxes to the other.
    SwitchSandbox {
        service: String,
        name: String,
        from: String,
        to: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// `replaces`: id of the container whose slot and anonymous volumes it takes.
    CreateContainer {
        desired: Box<Desired>,
        replaces: Option<String>,
    },
    /// Limits, restart policy, labels, health settings without a restart.
    UpdateContainer {
        id: String,
        desired: Box<Desired>,
    },
    /// Tells a running container that files which it mounts have changed.
    SignalContainer {
        id: String,
        service: String,
        name: String,
        signal: String,
    },
    /// Starts a container: the one of that id, else the one that the plan makes for the slot.
    StartContainer {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        service: String,
        name: String,
    },
    /// Watches a new container until it is healthy and has run well for some time; one that ends is a failure.
    Monitor {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        service: String,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<Duration>,
    },
    /// Waits until nobody is connected to a container that gets no new connections, for at most its grace period.
    Drain {
        id: String,
        service: String,
        name: String,
    },
    /// Time between two waves of an update.
    Delay {
        service: String,
        time: Duration,
    },
    /// Ends an update: if too much of it has failed, that is told, and undone where the policy says so.
    ConcludeUpdate {
        service: String,
        policy: Box<UpdatePolicy>,
        replicas: Vec<ReplicaUpdate>,
    },
    StopContainer {
        id: String,
        service: String,
        name: String,
        timeout: Option<u32>,
    },
    KillContainer {
        id: String,
        service: String,
        name: String,
        signal: String,
    },
    RemoveContainer {
        id: String,
        service: String,
        name: String,
        volumes: bool,
    },
    /// Waits until every replica of `service` meets `condition`; if it is not `required`, failing only warns. One that
    /// has ended with 0 and is not restarted also counts as started.
    WaitFor {
        service: String,
        condition: Condition,
        required: bool,
        /// Who waits, comma separated; empty for the user.
        dependent: String,
    },
    /// Runs `post_start[index]` or `pre_stop[index]` in the container, or `pre_start[index]` in one of its own beside
    /// it; `id` as of [`Action::StartContainer`]. The definition of the hook is in the container's own record.
    RunHook {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        service: String,
        name: String,
        hook: String,
        index: usize,
    },
    /// Removes an image; one that is in use stays.
    RemoveImage {
        reference: String,
    },
}

impl Action {
    /// Its kind, for whoever looks inside.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateNetwork { .. } => "create network",
            Self::RemoveNetwork { .. } => "remove network",
            Self::CreateVolume { .. } => "create volume",
            Self::RemoveVolume { .. } => "remove volume",
            Self::PullImage { .. } => "pull image",
            Self::EnsureImage { .. } => "ensure image",
            Self::CreateSandbox { .. } => "create sandbox",
            Self::RemoveSandbox { .. } => "remove sandbox",
            Self::CreateContainer { .. } => "create container",
            Self::UpdateContainer { .. } => "update container",
            Self::SignalContainer { .. } => "signal container",
            Self::StartContainer { .. } => "start container",
            Self::StopContainer { .. } => "stop container",
            Self::KillContainer { .. } => "kill container",
            Self::RemoveContainer { .. } => "remove container",
            Self::WaitFor { .. } => "wait",
            Self::RunHook { .. } => "run hook",
            Self::RemoveImage { .. } => "remove image",
            Self::SwitchSandbox { .. } => "switch sandbox",
            Self::Monitor { .. } => "monitor",
            Self::Drain { .. } => "drain",
            Self::Delay { .. } => "delay",
            Self::ConcludeUpdate { .. } => "conclude update",
        }
    }

    /// Whether the step only waits for something.
    pub const fn is_wait(&self) -> bool {
        matches!(
            self,
            Self::WaitFor { .. } | Self::Monitor { .. } | Self::Drain { .. } | Self::Delay { .. }
        )
    }
}

/// One replica in an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaUpdate {
    /// Name of its slot.
    pub name: String,
    /// From 1.
    pub wave: usize,
    /// Id of the container that serves before the update.
    pub old: String,
    /// Id of the container that takes its place, if it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Sandboxes of the old and the new container, where these are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<(String, String)>,
}

/// A step's place in an update. Its failure is not that of the plan, but of this replica, which then becomes what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateStep {
    pub service: String,
    pub name: String,
    /// From 1.
    pub wave: usize,
    /// It removes what is left of the old container, once the update has gone well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retires: bool,
}

/// One step; it begins when all of `after` have ended well and all of `follows` have ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub action: Action,
    pub reasons: Vec<Reason>,
    pub after: Vec<StepId>,
    /// Steps that come before this one, but whose failure does not keep it from being done: what is torn down is torn
    /// down as far as it goes, and a dependency that is not required may fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<StepId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateStep>,
    /// The second half of what the steps before it began: when they are done, it is done even if the rest is cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completes: bool,
}

/// What will happen to one resource, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `container`, `network`, `volume`, `image`.
    pub kind: String,
    pub name: String,
    pub service: Option<String>,
    /// `none`, `completed` (nothing to do either), `pull`, `create`, `start`, `update`, `signal`, `restart`, `recreate`,
    /// `stop`, `kill`,
    /// `remove`.
    pub change: String,
    pub reasons: Vec<Reason>,
}

/// Steps in an order that respects `after` and `follows` (every index there is lower than the step's own).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[must_use]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Every resource of the project, unchanged ones too.
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
}

impl Change {
    /// Whether the resource is left as it is.
    pub fn is_none(&self) -> bool {
        matches!(self.change.as_str(), "none" | "completed" | "idle")
    }
}

impl Plan {
    /// Containers that are left as they are and run or have done their work: their names, and whether it is the latter.
    pub fn unchanged_containers(&self) -> impl Iterator<Item = (&str, bool)> {
        let containers = self
            .changes
            .iter()
            .filter(|change| change.kind == "container");
        containers
            .filter(|change| change.is_none() && change.change != "idle")
            .map(|change| (change.name.as_str(), change.change == "completed"))
    }

    /// Images that were looked up and are as their registry has them.
    pub fn unchanged_images(&self) -> impl Iterator<Item = &str> {
        let images = self.changes.iter().filter(|change| change.kind == "image");
        images
            .filter(|change| change.is_none())
            .map(|change| change.name.as_str())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recreate {
    #[default]
    Diverged,
    Force,
    Never,
}

/// What the user asked of `up`, `create`, `start` …
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpOptions {
    /// Empty: all.
    pub services: Vec<String>,
    pub no_deps: bool,
    pub no_start: bool,
    /// For the services named.
    pub recreate: Recreate,
    /// For their dependencies.
    pub recreate_dependencies: Recreate,
    /// `-V`: anonymous volumes are made anew.
    pub renew_anonymous_volumes: bool,
    pub remove_orphans: bool,
    pub ignore_orphans: bool,
    /// A container that does not run and is otherwise as it should be stays so: a job that is done is not done again, what
    /// was stopped stays stopped.
    pub only_changes: bool,
    /// Services that were followed and are not in the file any more, or not enabled: their containers go.
    pub given_up: std::collections::BTreeSet<String>,
    /// Replicas by service.
    pub scale: indexmap::IndexMap<String, u32>,
    /// Seconds; none: each service's own grace period.
    pub timeout: Option<u32>,
    /// Wait until running or healthy.
    pub wait: bool,
    /// Seconds.
    pub wait_timeout: Option<u64>,
    /// `--pull`: goes before the policies of the services.
    pub pull: Option<String>,
    /// Tells nothing of layers.
    pub quiet_pull: bool,
    /// Of this service a container of its own is made instead, and its other containers are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_off: Option<OneOff>,
}

impl UpOptions {
    /// Whether the replicas of `service` are none of this plan's business.
    fn leaves_alone(&self, service: &str) -> bool {
        let one_off = self.one_off.as_ref();
        one_off.is_some_and(|one_off| one_off.service == service)
    }
}

/// A container for a single command of a service, as `run` makes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OneOff {
    pub service: String,
    /// Name of the container.
    pub name: String,
    /// Value of the label `com.docker.compose.slug`.
    pub slug: String,
    /// Others find it by the service's names.
    pub use_aliases: bool,
    /// It goes with its anonymous volumes when it has ended.
    pub auto_remove: bool,
    /// A command in the foreground sees to it.
    pub attended: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownOptions {
    /// Empty: the whole project.
    pub services: Vec<String>,
    pub volumes: bool,
    pub remove_orphans: bool,
    pub timeout: Option<u32>,
    /// `local` or `all`.
    pub remove_images: Option<String>,
}

#[cfg(test)]
mod tests;
