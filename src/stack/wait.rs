//! Waiting for the ends of containers.

use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::request::is_alive;
use super::{Stack, StackError};
use crate::engine::{Engine, EngineError};
use crate::state::{ContainerState, StateRoot};

/// Pause after containerd could not be reached.
const RETRY: Duration = Duration::from_millis(500);

/// Exit code of a run whose end nobody saw.
const LOST: u32 = 137;

/// A container that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: String,
    pub code: u32,
}

/// Containers whose ends are waited for. Dropping it ends the wait.
#[derive(Debug)]
pub struct Waits(JoinSet<Ended>);

impl Waits {
    /// The next end; `None` when all have ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Ended> {
        loop {
            match self.0.join_next().await? {
                Ok(ended) => return Some(ended),
                Err(error) => tracing::error!(%error, "lost a wait for a container"),
            }
        }
    }
}

impl Stack {
    /// Waits for the containers of `services` (all if empty) that run now. The end of a run counts even if another one
    /// follows by the restart policy.
    pub async fn wait(&self, services: &[String]) -> Result<Waits, StackError> {
        let observed = self.observe().await?;
        let containers = self.selected(&observed, services).into_iter();
        let engine = &self.containers().await?.engine;
        let mut waits = JoinSet::new();
        for container in containers.filter(|container| is_alive(container.status)) {
            let (engine, state) = (engine.clone(), self.options.state.clone());
            waits.spawn(wait(engine, state, container.id.clone()));
        }
        if waits.is_empty() {
            return Err(StackError::NoContainers {
                project: self.name().into(),
            });
        }
        self.revive(&observed).await;
        Ok(Waits(waits))
    }
}

async fn wait(engine: Engine, state: StateRoot, id: String) -> Ended {
    let code = loop {
        match engine.wait_task(&id).await {
            Ok(status) => break status.code,
            // It ended before this looked, or is between two runs.
            Err(EngineError::NotFound { .. }) => {
                let state = ContainerState::load(&state, &id).unwrap_or_default();
                break state.exit.map_or(LOST, |exit| exit.code);
            }
            Err(error) => {
                tracing::debug!(%error, "lost a wait for a task");
                sleep(RETRY).await;
            }
        }
    };
    Ended { id, code }
}
