//! Bringing back what a reboot has ended.

use super::request::needs_supervisor;
use super::{EngineRecord, Stack, StackError, StackOptions};
use crate::engine::{private_address, stop_private};
use crate::reconcile::observe::{ObservedContainer, Status};
use crate::state::{HealthStatus, StateError, read_json};
use crate::supervisor::launch;
use crate::supervisor::protocol::{ContainerChange, Progress, ProgressStatus, Reply, Resource};

/// What a resume of a project comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Its supervisor was started, and brings back what is to run.
    Resumed,
    /// Its supervisor was there.
    Supervised,
    /// Nothing of it is to run: it is down or stopped, or its restart policies say so.
    Idle,
}

/// Options for each project that ever had a supervisor on this host, by name. Each is looked for where it ran.
pub fn recorded_projects(options: &StackOptions) -> Result<Vec<StackOptions>, StackError> {
    let folder = options.state.projects();
    let failed = |source| StackError::Io {
        operation: format!("read {}", folder.display()),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Ok(name) = name.into_string() else {
            continue;
        };
        if let Some(record) = record(options, &name)? {
            found.push(StackOptions {
                name,
                namespace: record.namespace,
                ..options.clone()
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn record(options: &StackOptions, name: &str) -> Result<Option<EngineRecord>, StateError> {
    read_json(&options.state.project(name).join("engine.json"))
}

impl Stack {
    /// Brings back what ran when the host, or all that looked after it, went down: has a supervisor started, which starts
    /// containers in the order of their dependencies as their restart policies allow. `dry_run`: only says what it would do.
    pub async fn resume(&self, dry_run: bool) -> Result<Resumption, StackError> {
        if launch::is_running(&self.options.state, self.name()) {
            return Ok(Resumption::Supervised);
        }
        let observed = self.observe().await?;
        if !observed.containers.iter().any(needs_supervisor) && self.live().is_none() {
            // Looking may have started a containerd of our own; nothing keeps it.
            let address = &self.containers().await?.engine.options().address;
            if !dry_run && *address == private_address(&self.options.state) {
                stop_private(&self.options.state).await?;
            }
            return Ok(Resumption::Idle);
        }
        if !dry_run {
            self.ensure_supervisor().await?;
        }
        Ok(Resumption::Resumed)
    }

    /// Waits until everything that comes back by itself runs, and is healthy or unhealthy where it has a probe; tells what
    /// starts meanwhile.
    pub async fn settled(&self, mut on_reply: impl FnMut(Reply)) -> Result<(), StackError> {
        let mut events = self.events().await?;
        loop {
            let observed = self.observe().await?;
            if observed.containers.iter().all(is_settled) {
                return Ok(());
            }
            let Some(event) = events.next().await else {
                return Err(self.supervisor_ended());
            };
            let status = match event.change {
                ContainerChange::Started => ProgressStatus::Started,
                ContainerChange::Health {
                    status: HealthStatus::Healthy,
                } => ProgressStatus::Healthy,
                _ => continue,
            };
            on_reply(Reply::Progress(Progress {
                kind: Resource::Container,
                name: event.name,
                status,
                detail: None,
            }));
        }
    }
}

/// Whether a container does not change any more without somebody's doing.
fn is_settled(container: &ObservedContainer) -> bool {
    let health = container.state.health.as_ref().map(|health| health.status);
    match container.status {
        Status::Running => health != Some(HealthStatus::Starting),
        Status::Paused => true,
        _ => !needs_supervisor(container),
    }
}
