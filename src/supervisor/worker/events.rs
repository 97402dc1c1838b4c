//! What containerd tells, passed on to those whom it concerns.

use std::sync::Arc;

use super::Worker;
use crate::engine::Event;
use crate::supervisor::exec;
use crate::supervisor::history::EventRecord;
use crate::supervisor::unit::Command;

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
            Event::ContainerDeleted { id } if worker.unit(&id).is_some() => {
                let worker = Arc::clone(&worker);
                tokio::spawn(async move {
                    tracing::warn!(id, "another tool removed a container");
                    if let Err(error) = worker.remove(&id, false).await {
                        tracing::error!(%error, id, "cannot clean up after it");
                    }
                    worker.ended.notify_one();
                });
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
