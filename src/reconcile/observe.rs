//! The world as it is now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::container::{
    ContainerError, Containers, DESIRED_EXTENSION, Desired, VolumeRecord, blocking, label,
};
use crate::engine::{ContainerRecord, Engine, EngineError, TaskRecord, TaskStatus};
use crate::network::{NetworkRecord, SandboxRecord};
use crate::state::{ContainerState, StateError, StateRoot, Wanted};

/// Exit code of a run whose end nobody saw.
const LOST: u32 = 137;

/// Docker's container states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
    Dead,
}

/// One container of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub service: String,
    pub number: u32,
    pub one_off: bool,
    pub status: Status,
    pub pid: Option<u32>,
    /// Of the last run that ended.
    pub exit_code: Option<u32>,
    /// Reference of its image.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// OCI runtime spec, JSON.
    pub spec: Vec<u8>,
    /// `None` if another tool made it or its record is unreadable.
    pub desired: Option<Desired>,
    pub state: ContainerState,
    pub created_at: Timestamp,
    /// Its process is in a network namespace that the sandbox which it shares has no more.
    pub has_lost_network: bool,
}

/// Everything of one project, and what it shares with others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// By service, then number, then age.
    pub containers: Vec<ObservedContainer>,
    /// All networks of the host: external ones are looked up here.
    pub networks: Vec<NetworkRecord>,
    /// All volumes of the host.
    pub volumes: Vec<VolumeRecord>,
    /// Sandboxes of this project.
    pub sandboxes: Vec<SandboxRecord>,
    /// Sandboxes of others that are attached to a network, by the network's name.
    pub other_users: BTreeMap<String, Vec<String>>,
}

impl Observed {
    /// Whether there is a container that runs in its own sandbox and is recorded as if its peers were not to find it.
    pub fn has_hidden(&self) -> bool {
        let sandboxes = self.sandboxes.iter();
        let hidden = sandboxes.filter(|sandbox| !sandbox.active);
        let hidden: HashSet<&str> = hidden.map(|sandbox| sandbox.spec.id.as_str()).collect();
        let containers = self.containers.iter();
        let mut running = containers.filter(|container| container.status == Status::Running);
        running.any(|container| {
            let desired = container.desired.as_ref();
            let home = desired.and_then(|desired| desired.sandbox.as_deref());
            home.is_some_and(|home| hidden.contains(home))
        })
    }
}

/// The world could not be read.
#[derive(Debug, Error)]
pub enum ObserveError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Reads everything of `project` afresh: containerd's records, files, and the kernel.
pub async fn observe(containers: &Containers, project: &str) -> Result<Observed, ObserveError> {
    let filter = format!("labels.{:?}=={project:?}", label::PROJECT);
    // Files are read while containerd puts its answer together.
    let rooms = containers.clone();
    let shared = blocking(move || read_shared(&rooms));
    let own = read_containers(&containers.engine, &containers.state, filter);
    let (own, shared) = tokio::join!(own, shared);
    let (networks, volumes, sandboxes) = shared?;
    let mut observed = Observed {
        containers: own?,
        networks,
        volumes,
        ..Observed::default()
    };
    for sandbox in sandboxes {
        if sandbox
            .spec
            .labels
            .get(label::PROJECT)
            .is_some_and(|owner| owner == project)
        {
            observed.sandboxes.push(sandbox);
            continue;
        }
        for attachment in &sandbox.spec.attachments {
            let users = observed
                .other_users
                .entry(attachment.network.clone())
                .or_default();
            users.push(sandbox.spec.id.clone());
        }
    }
    for container in &mut observed.containers {
        container.has_lost_network = has_lost_network(container, &observed.sandboxes);
    }
    Ok(observed)
}

type Shared = (Vec<NetworkRecord>, Vec<VolumeRecord>, Vec<SandboxRecord>);

/// What projects share.
fn read_shared(containers: &Containers) -> Result<Shared, ContainerError> {
    let networks = &containers.networks;
    Ok((
        networks.list()?,
        containers.volumes()?,
        networks.sandboxes()?,
    ))
}

/// Containers of every project on this host, by project.
pub async fn projects(
    engine: &Engine,
    state: &StateRoot,
) -> Result<BTreeMap<String, Vec<ObservedContainer>>, ObserveError> {
    let filter = format!("labels.{:?}", label::PROJECT);
    let mut projects: BTreeMap<String, Vec<ObservedContainer>> = BTreeMap::new();
    for container in read_containers(engine, state, filter).await? {
        let project = container
            .labels
            .get(label::PROJECT)
            .cloned()
            .unwrap_or_default();
        projects.entry(project).or_default().push(container);
    }
    Ok(projects)
}

async fn read_containers(
    engine: &Engine,
    root: &StateRoot,
    filter: String,
) -> Result<Vec<ObservedContainer>, ObserveError> {
    let records = engine.containers(&[filter]).await?;
    let mut states = Vec::with_capacity(records.len());
    for record in &records {
        states.push(ContainerState::load(root, &record.id)?);
    }
    let tasks = tasks(engine, &records, &states).await?;
    let mut containers = Vec::with_capacity(records.len());
    for (record, state) in records.into_iter().zip(states) {
        let task = tasks.get(&record.id);
        let mut container = observed_container(record, task, state);
        if has_lost_files(root, &container) {
            container.status = Status::Dead;
        }
        containers.push(container);
    }
    containers.sort_by(|a, b| {
        (&a.service, a.number, a.created_at, &a.id).cmp(&(
            &b.service,
            b.number,
            b.created_at,
            &b.id,
        ))
    });
    Ok(containers)
}

/// Whether only its record is left of a container that we made: containerd kept that of one whose making it had told us to
/// have failed. It can't be started.
fn has_lost_files(root: &StateRoot, container: &ObservedContainer) -> bool {
    container.status == Status::Created
        && container.state.run == 0
        && container.desired.is_some()
        && !root.container(&container.id).exists()
}

/// Tasks by container. Where the kernel still has every process that was recorded, containerd need not be asked, which
/// asks each shim before it answers.
async fn tasks(
    engine: &Engine,
    records: &[ContainerRecord],
    states: &[ContainerState],
) -> Result<HashMap<String, TaskRecord>, EngineError> {
    let living = records.iter().zip(states).map(|(record, state)| {
        let process = state.process.as_ref()?;
        let status = if process.frozen_if_alive()? {
            TaskStatus::Paused
        } else {
            TaskStatus::Running
        };
        Some(TaskRecord {
            id: record.id.clone(),
            pid: process.pid,
            status,
            exit_code: 0,
            exited_at: None,
        })
    });
    let tasks = match living.collect::<Option<Vec<_>>>() {
        Some(tasks) => tasks,
        None => engine.tasks().await?,
    };
    let by_id = tasks.into_iter().map(|task| (task.id.clone(), task));
    Ok(by_id.collect())
}

/// Puts together what containerd and the state file say of one container.
pub fn observed_container(
    record: ContainerRecord,
    task: Option<&TaskRecord>,
    state: ContainerState,
) -> ObservedContainer {
    let (status, exit_code) = status(task, &state);
    let text = |key: &str| record.labels.get(key).cloned();
    let desired = record
        .extensions
        .get(DESIRED_EXTENSION)
        .and_then(|json| serde_json::from_slice(json).ok());
    let is_alive = matches!(status, Status::Running | Status::Paused);
    ObservedContainer {
        name: text(label::NAME).unwrap_or_else(|| record.id.clone()),
        service: text(label::SERVICE).unwrap_or_default(),
        number: text(label::NUMBER)
            .and_then(|number| number.parse().ok())
            .unwrap_or(0),
        one_off: text(label::ONE_OFF).is_some_and(|value| value.eq_ignore_ascii_case("true")),
        status,
        pid: task.filter(|_| is_alive).map(|task| task.pid),
        exit_code,
        desired,
        state,
        id: record.id,
        image: record.image,
        labels: record.labels,
        spec: record.spec,
        created_at: record.created_at,
        has_lost_network: false,
    }
}

/// Whether a container that shares a sandbox still is in a namespace of before: that sandbox was removed and made anew.
fn has_lost_network(container: &ObservedContainer, sandboxes: &[SandboxRecord]) -> bool {
    let shared = container.desired.as_ref().and_then(|desired| {
        let id = desired.parents.get("network_mode")?;
        sandboxes.iter().find(|sandbox| sandbox.spec.id == *id)
    });
    let (Some(sandbox), Some(pid)) = (shared, container.pid) else {
        return false;
    };
    let namespace = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = namespace(Path::new(&format!("/proc/{pid}/ns/net")));
    // Of a sandbox that has given its namespace up it shows when that is there again.
    let pinned = namespace(&sandbox.netns);
    matches!((own, pinned), (Some(own), Some(pinned)) if own != pinned)
}

/// Status as Docker shows it, and the exit code of the last run that ended.
fn status(task: Option<&TaskRecord>, state: &ContainerState) -> (Status, Option<u32>) {
    let recorded = state.exit.as_ref().map(|exit| exit.code);
    match task.map(|task| (task.status, task.exit_code)) {
        Some((TaskStatus::Running, _)) => (Status::Running, recorded),
        Some((TaskStatus::Paused | TaskStatus::Pausing, _)) => (Status::Paused, recorded),
        Some((TaskStatus::Created, _)) => (Status::Created, recorded),
        Some((TaskStatus::Stopped, code)) if state.restart_at.is_none() => {
            (Status::Exited, recorded.or(Some(code)))
        }
        Some((TaskStatus::Stopped | TaskStatus::Unknown, _)) | None => {
            let was_started = state.run > 0 || state.wanted != Wanted::Created;
            if state.restart_at.is_some() {
                (Status::Restarting, recorded)
            } else if was_started {
                (Status::Exited, recorded.or(Some(LOST)))
            } else {
                (Status::Created, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Exit;

    fn state(wanted: Wanted) -> ContainerState {
        ContainerState {
            wanted,
            run: u64::from(wanted != Wanted::Created),
            ..ContainerState::default()
        }
    }

    fn exited(code: u32) -> ContainerState {
        ContainerState {
            exit: Some(Exit {
                code,
                at: Timestamp::UNIX_EPOCH,
                out_of_memory: false,
                lost: false,
            }),
            ..state(Wanted::Running)
        }
    }

    fn task(status: TaskStatus) -> TaskRecord {
        TaskRecord {
            id: "a".into(),
            pid: 7,
            status,
            exit_code: 3,
            exited_at: None,
        }
    }

    #[test]
    fn a_container_that_was_never_started_is_created() {
        assert_eq!(
            status(None, &state(Wanted::Created)),
            (Status::Created, None)
        );
    }

    #[test]
    fn a_running_task_without_an_exit_is_running() {
        let running = task(TaskStatus::Running);
        assert_eq!(
            status(Some(&running), &state(Wanted::Running)),
            (Status::Running, None)
        );
    }

    #[test]
    fn a_container_without_task_and_exit_was_lost() {
        assert_eq!(
            status(None, &state(Wanted::Running)),
            (Status::Exited, Some(137))
        );
        assert_eq!(
            status(None, &state(Wanted::Stopped)),
            (Status::Exited, Some(137))
        );
    }

    #[test]
    fn the_recorded_exit_goes_before_that_of_the_task() {
        let stopped = task(TaskStatus::Stopped);
        assert_eq!(
            status(Some(&stopped), &exited(0)),
            (Status::Exited, Some(0))
        );
        assert_eq!(
            status(Some(&stopped), &state(Wanted::Running)),
            (Status::Exited, Some(3))
        );
        assert_eq!(status(None, &exited(5)), (Status::Exited, Some(5)));
    }

    #[test]
    fn a_pending_restart_shows_as_restarting() {
        let pending = ContainerState {
            restart_at: Some(Timestamp::UNIX_EPOCH),
            ..exited(1)
        };
        assert_eq!(status(None, &pending), (Status::Restarting, Some(1)));
        let stopped = task(TaskStatus::Stopped);
        assert_eq!(
            status(Some(&stopped), &pending),
            (Status::Restarting, Some(1))
        );
    }

    #[test]
    fn a_frozen_task_is_paused() {
        let paused = task(TaskStatus::Paused);
        assert_eq!(
            status(Some(&paused), &state(Wanted::Running)).0,
            Status::Paused
        );
    }

    #[test]
    fn labels_and_the_extension_tell_what_a_container_is() {
        let desired = Desired {
            service: "web".into(),
            number: 2,
            ..Desired::default()
        };
        let record = ContainerRecord {
            id: "a".into(),
            labels: BTreeMap::from([
                (label::NAME.into(), "shop-web-2".into()),
                (label::SERVICE.into(), "web".into()),
                (label::NUMBER.into(), "2".into()),
                (label::ONE_OFF.into(), "False".into()),
            ]),
            extensions: BTreeMap::from([(
                DESIRED_EXTENSION.into(),
                serde_json::to_vec(&desired).unwrap(),
            )]),
            ..ContainerRecord::default()
        };
        let running = task(TaskStatus::Running);
        let container = observed_container(record.clone(), Some(&running), state(Wanted::Running));
        assert_eq!(
            (container.name.as_str(), container.number),
            ("shop-web-2", 2)
        );
        assert_eq!((container.one_off, container.pid), (false, Some(7)));
        assert_eq!(container.desired, Some(desired));

        let foreign = ContainerRecord {
            extensions: BTreeMap::from([(DESIRED_EXTENSION.into(), b"{".to_vec())]),
            ..record
        };
        let container = observed_container(foreign, None, ContainerState::default());
        assert_eq!((container.desired, container.pid), (None, None));
    }
}
