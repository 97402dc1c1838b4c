//! Taking up what a worker before this one has left.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Worker, WorkerError, desired};
use crate::container::label;
use crate::engine::{ContainerRecord, EngineError};
use crate::reconcile::plan::written_order;
use crate::supervisor::revival;
use crate::supervisor::unit::{self, Command, Past, UnitHandle};

impl Worker {
    /// Takes what is there under supervision: after a restart of the worker, of both processes, of the host.
    /// `held`: what workers before this one had held.
    pub(in crate::supervisor) async fn resume(
        self: &Arc<Self>,
        held: Vec<(String, OwnedFd)>,
    ) -> Result<(), WorkerError> {
        let shared = &self.shared;
        let mut sandboxes: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (key, descriptor) in held {
            shared.remember(&key);
            match key.split('/').collect::<Vec<_>>()[..] {
                ["dns" | "port", sandbox, ..] => {
                    sandboxes
                        .entry(sandbox.to_owned())
                        .or_default()
                        .push((key.clone(), descriptor));
                }
                _ => shared.inherit(key, descriptor),
            }
        }
        for sandbox in shared.containers.networks.sandboxes()? {
            if sandbox.spec.labels.get(label::PROJECT) != Some(&shared.project) {
                continue;
            }
            let id = &sandbox.spec.id;
            let held = match sandboxes.remove(id) {
                Some(held) => Ok(held),
                None if sandbox.boot_id == shared.boot_id => {
                    shared.containers.networks.reopen(id).await
                }
                // Its kernel half is gone; the next start makes it anew.
                None => continue,
            };
            if let Err(error) = held.and_then(|held| shared.hold_sandbox(id, held)) {
                tracing::error!(%error, sandbox = id, "cannot serve a sandbox");
            }
        }
        self.finish_switches().await?;
        let snapshots = self.snapshots().await;
        let records = self.records().await?;
        self.remove_unmade(&snapshots, &records).await;
        // All of them before the first is looked at: what it gives up may be another's.
        for record in &records {
            if let Some(desired) = desired(record)
                && let Some(sandbox) = unit::home(shared, &desired)
            {
                shared.presume_tenant(&sandbox, &record.id).await;
            }
        }
        let order = written_order(records.iter().map(|record| &record.labels));
        let mut units = Vec::with_capacity(records.len());
        for record in records {
            let gate = CancellationToken::new();
            let Some(unit) = self.supervise(record, Past::Unknown(Some(gate.clone()))) else {
                continue;
            };
            if unit.one_off {
                tokio::spawn(Arc::clone(self).end_unstarted(unit.clone()));
            }
            units.push((unit, gate));
        }
        revival::open_in_order(&units, &order);
        self.end_leases().await;
        Ok(())
    }

    /// Has one of two sandboxes give names and ports to the other where the worker before this one has begun that.
    async fn finish_switches(&self) -> Result<(), WorkerError> {
        let shared = &self.shared;
        for (from, to) in shared.containers.networks.half_switched().await? {
            if !shared.owns_sandbox(&to) {
                continue;
            }
            if let Err(error) = shared.switch_sandbox(&from, &to).await {
                tracing::error!(%error, sandbox = to, "cannot finish a switch that was cut off");
            }
        }
        Ok(())
    }

    /// Keys of the root file systems that were made for this project.
    async fn snapshots(&self) -> Vec<String> {
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        let found = self.shared.containers.engine.snapshots(&[filter]).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for what an earlier worker left");
            Vec::new()
        });
        let of_containers = found.into_iter().filter(|snapshot| !snapshot.committed);
        of_containers.map(|snapshot| snapshot.key).collect()
    }

    /// Removes what there is of containers that a worker before this one did not live to make: files, mounts, snapshots.
    async fn remove_unmade(&self, snapshots: &[String], records: &[ContainerRecord]) {
        let containers = &self.shared.containers;
        for id in containers.with_files(&self.shared.project) {
            if records.iter().any(|record| record.id == id) {
                continue;
            }
            if let Err(error) = containers.remove(&id, false).await {
                tracing::warn!(%error, id, "cannot remove the files of a container that is gone");
            }
        }
        for key in snapshots {
            // Snapshots of images that are mounted carry the container's id in front.
            let id = key.split('-').next().unwrap_or_default();
            let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_id || records.iter().any(|record| record.id == id) {
                continue;
            }
            let removed = if key == id {
                containers.remove(id, false).await
            } else {
                containers
                    .engine
                    .remove_snapshot(key)
                    .await
                    .map_err(Into::into)
            };
            if let Err(error) = removed {
                tracing::warn!(%error, id, "cannot remove what is left of a container");
            }
        }
    }

    /// Ends all leases of the project: no request is at work.
    pub(super) async fn end_leases(&self) {
        let engine = &self.shared.containers.engine;
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        let end_all = async {
            for lease in engine.leases(&[filter]).await?.into_keys() {
                engine.delete_lease(&lease).await?;
            }
            Ok::<(), EngineError>(())
        };
        if let Err(error) = end_all.await {
            tracing::warn!(%error, "cannot end leases");
        }
    }

    /// The containers of this project.
    async fn records(&self) -> Result<Vec<ContainerRecord>, EngineError> {
        let filter = format!("labels.{:?}=={:?}", label::PROJECT, self.shared.project);
        self.shared.containers.engine.containers(&[filter]).await
    }

    /// Removes a one-off that a worker before this one made and did not live to start: nobody else will.
    async fn end_unstarted(self: Arc<Self>, unit: UnitHandle) {
        let settled = unit.ask(|reply| Command::Settle { reply }).await;
        if settled.is_ok() && !unit.status.borrow().was_started {
            self.remove_one_off(&unit).await;
        }
    }
}
