//! Removal. The record goes first, so that nobody takes the rest for a container. That there is a rest is noted when the first
//! of it is made, as there may be no room for a note later, and what it is before the record goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::nerdctl::Nerdctl;
use super::provision::Provision;
use super::{ContainerError, Containers, create, label, volume};
use crate::engine::{ContainerRecord, EngineOptions};
use crate::failpoint::boundary;
use crate::state::{StateRoot, Versioned, create_private_dir, read_json, write_json};

/// Name of the note in a container's folder, which goes last.
pub(super) const FILE: &str = "removal.json";

/// What there is to remove of a container whose record is gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Removal {
    project: String,
    /// Whose record it has: another containerd, or another namespace of it, knows nothing of it. `None` in notes of before.
    engine: Option<(PathBuf, String)>,
    name: String,
    snapshot_key: String,
    provision: Provision,
    /// Its anonymous volumes go too.
    with_volumes: bool,
}

impl Versioned for Removal {
    const FORMAT: u64 = 1;
}

impl Removal {
    fn path(state: &StateRoot, id: &str) -> PathBuf {
        state.container(id).join(FILE)
    }

    /// What was noted; without a note what all have.
    fn read(state: &StateRoot, id: &str) -> Result<Self, ContainerError> {
        let noted = read_json(&Self::path(state, id))?;
        Ok(noted.unwrap_or_else(|| Self {
            snapshot_key: id.into(),
            ..Self::default()
        }))
    }

    fn of(
        record: &ContainerRecord,
        engine: &EngineOptions,
        provision: Provision,
        with_volumes: bool,
    ) -> Self {
        let text = |key: &str| record.labels.get(key).cloned().unwrap_or_default();
        Self {
            project: text(label::PROJECT),
            engine: Some(place(engine)),
            name: text(label::NAME),
            snapshot_key: record.snapshot_key.clone(),
            provision,
            with_volumes,
        }
    }
}

/// Makes the folder of a container that is about to be made, with a note of whose it is: whatever becomes of its making or of
/// its removal, the project's next supervisor finds what is left.
pub(super) fn note_owner(
    state: &StateRoot,
    engine: &EngineOptions,
    id: &str,
    project: &str,
) -> Result<(), ContainerError> {
    create_private_dir(&state.container(id))?;
    let removal = Removal {
        project: project.into(),
        engine: Some(place(engine)),
        snapshot_key: id.into(),
        ..Removal::default()
    };
    Ok(write_json(&Removal::path(state, id), &removal)?)
}

fn place(engine: &EngineOptions) -> (PathBuf, String) {
    (engine.address.clone(), engine.namespace.clone())
}

impl Containers {
    /// Kills what still runs; removes task, record, snapshot, files, FIFOs; with `volumes` its anonymous volumes too.
    /// Goes on after a failure and returns the first; what is gone already is no failure.
    pub async fn remove(&self, id: &str, volumes: bool) -> Result<(), ContainerError> {
        let record = self.engine.container(id).await?;
        let mut first = None;
        let mut note = |result: Result<(), ContainerError>| {
            if let Err(error) = result {
                tracing::warn!(id, %error, "cannot remove all of a container");
                first.get_or_insert(error);
            }
        };
        let task = self.discard_task(id).await;
        let task_is_gone = task.is_ok();
        note(task);
        if !task_is_gone {
            // What still runs would lose its files under its feet.
            return first.map_or(Ok(()), Err);
        }
        boundary("remove container: task gone");
        let mut removal = if let Some(record) = &record {
            let provision = Provision::of(record).unwrap_or_else(|error| {
                note(Err(error));
                None
            });
            let engine = self.engine.options();
            let removal = Removal::of(record, engine, provision.unwrap_or_default(), volumes);
            if let Err(error) = write_json(&Removal::path(&self.state, id), &removal) {
                // A full disk must keep nobody from removing. The note from its making tells the most.
                tracing::debug!(id, %error, "cannot note what is removed");
            }
            removal
        } else {
            Removal::read(&self.state, id)?
        };
        if let Err(error) = self.engine.delete_container(id).await {
            note(Err(error.into()));
            // While there is a record, it can be started.
            return first.map_or(Ok(()), Err);
        }
        boundary("remove container: record gone");
        let images = create::image_snapshots(id, &mut removal.provision.mounts).map(|(key, _)| key);
        for key in images
            .chain([removal.snapshot_key.clone()])
            .collect::<Vec<_>>()
        {
            note(self.engine.remove_snapshot(&key).await.map_err(Into::into));
        }
        let hidden = Nerdctl::new(self.engine.options()).hide(id, &removal.name);
        note(hidden.map_err(ContainerError::io("hide the container from nerdctl")));
        boundary("remove container: snapshots gone");
        note(self.release_volumes(&removal).await);
        self.remove_cgroups(id);
        note(self.remove_files(id));
        first.map_or(Ok(()), Err)
    }

    /// Every container of a project of which there are files. Where containerd has no record of one, a process was killed
    /// that made or removed it.
    pub fn with_files(&self, project: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.state.container(""))
            .into_iter()
            .flatten();
        let here = place(self.engine.options());
        let ids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        ids.filter(|id| {
            let noted = read_json::<Removal>(&Removal::path(&self.state, id));
            noted.ok().flatten().is_some_and(|noted| {
                noted.project == project && noted.engine.is_none_or(|engine| engine == here)
            })
        })
        .collect()
    }

    /// Unmounts volumes that no other container has, and removes anonymous ones if asked to.
    async fn release_volumes(&self, removal: &Removal) -> Result<(), ContainerError> {
        // Name, and whether it goes with the container.
        let mut affected: Vec<(String, bool)> = Vec::new();
        for mount in &removal.provision.mounts {
            let Some(name) = &mount.name else {
                continue;
            };
            let goes = removal.with_volumes && mount.anonymous;
            if goes || volume::file_system(&self.state, name)?.is_some() {
                affected.push((name.clone(), goes));
            }
        }
        if affected.is_empty() {
            return Ok(());
        }
        let others = self.engine.containers(&[]).await?;
        let this = self.clone();
        super::blocking(move || {
            for (name, goes) in affected {
                volume::release(&this.state, &name, &others)?;
                if goes && volume::users(&others, &name).is_empty() {
                    volume::remove(&this.state, &name)?;
                    Nerdctl::new(this.engine.options()).hide_volume(&name);
                }
            }
            Ok(())
        })
        .await
    }
}
