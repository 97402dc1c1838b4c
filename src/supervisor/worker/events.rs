//! What containerd tells, passed on to those whom it concerns.

use std::sync::Arc;

use super::Worker;
use crate::engine::Event;
use crate::supervisor::exec;
use crate::supervisor::history::EventRecord;
use crate::supervisor::unit::{Command, UnitHandle};

/// Passes on what containerd tells. Waits for no unit: all others would miss what is theirs.
pub(super) async fn follow_engine(worker: Arc<Worker>) {
    let mut events = worker.shared.containers.engine.subscribe();
    while let Some(event) = events.recv().await {
        match event {
            Event::Subscribed => {
                worker.shared.exits.miss();
                for unit in worker.units() {
                    exec::watch_all(&worker.shared.containers, &unit.id);
                    unit.post(Command::Look);
                }
            }
            Event::ContainerDeleted { id } => {
                if let Some(unit) = worker.unit(&id) {
                    tokio::spawn(clean_up(Arc::clone(&worker), unit));
                }
            }
            Event::ExecStarted { id, exec_id } if !exec::is_own(&exec_id) => {
                let event = EventRecord::new("container", "exec_start").with("execID", exec_id);
                worker.tell(&id, Command::Note(event));
            }
            Event::TaskExited {
                exec_id, exit_code, ..
            } if exec::is_own(&exec_id) => worker.shared.exits.tell(&exec_id, exit_code),
            Event::TaskExited {
                id,
                exec_id,
                exit_code,
                ..
            } if exec_id != id => {
                let event = EventRecord::new("container", "exec_die")
                    .with("execID", exec_id)
                    .with("exitCode", exit_code);
                worker.tell(&id, Command::Note(event));
            }
            Event::ExecAdded { id, exec_id }
                if !exec::is_own(&exec_id) && worker.unit(&id).is_some() =>
            {
                let containers = worker.shared.containers.clone();
                tokio::spawn(exec::watch(containers, id, exec_id));
            }
            Event::OutOfMemory { id } => worker.tell(&id, Command::OutOfMemory),
            Event::TaskStarted { id, .. } => worker.tell(&id, Command::Look),
            _ => {}
        }
    }
}

/// Clears what is left of a container that another tool removed. Nobody else does, so its sandbox goes as well.
async fn clean_up(worker: Arc<Worker>, unit: UnitHandle) {
    tracing::warn!(container = unit.name, "another tool removed a container");
    if let Err(error) = worker.remove(&unit.id, false).await {
        tracing::error!(%error, container = unit.name, "cannot clean up after it");
    }
    if let Some(sandbox) = &unit.sandbox {
        let units = worker.units();
        let is_shared = units.iter().any(|other| other.sandbox == unit.sandbox);
        if !is_shared && !worker.shared.has_tenants(sandbox).await {
            worker.remove_sandbox(sandbox).await;
        }
    }
    worker.ended.notify_one();
}
