//! Bringing changed source files into containers, from outside of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{ExecRequest, Session as _, SessionOutput, Stack, StackError};
use crate::container::{Attributes, ExecOptions, FileSystem};
use crate::model::Hook;
use crate::reconcile::failure::Failure;
use crate::reconcile::observe::{Observed, ObservedContainer, Status};
use crate::supervisor::protocol::Reply;
use crate::watch::{Action, Batch, Changed};

/// Files in one batch from which on a user wants to know why it takes time.
const MANY: usize = 1000;

impl Stack {
    /// Does what the rules of `batches` say: copies files into every container of a service, restarts services,
    /// runs commands, in this order. `say` gets a line for each thing that is done. Every failure is told at the end.
    pub async fn synchronize(
        &self,
        batches: &[Batch],
        mut say: impl FnMut(String),
        mut on_reply: impl FnMut(Reply),
    ) -> Result<(), StackError> {
        let observed = self.observe().await?;
        let mut failures = Vec::new();
        for batch in batches
            .iter()
            .filter(|batch| batch.action == Action::Rebuild)
        {
            let (service, count) = (&batch.service, batch.changes.len());
            say(format!(
                "Service \"{service}\" is to be rebuilt after {count} changes, which is not supported yet"
            ));
        }
        for batch in batches.iter().filter(|batch| batch.action.syncs()) {
            let (service, count) = (&batch.service, batch.changes.len());
            say(format!(
                "Syncing service \"{service}\" after {count} changes were detected"
            ));
            if count > MANY {
                say(format!(
                    "{count} changes at once; `ignore` leaves out what the service does not need"
                ));
            }
            failures.extend(self.copy_changes(batch, &observed).await?);
        }
        let restarted: BTreeSet<&String> = batches
            .iter()
            .filter(|batch| batch.action.restarts())
            .map(|batch| &batch.service)
            .collect();
        if !restarted.is_empty() {
            let services: Vec<String> = restarted.into_iter().cloned().collect();
            let request = self.restart(services.clone(), None, true);
            match self.request(request, &mut on_reply).await {
                Ok(()) => say(format!("service(s) {services:?} restarted")),
                Err(StackError::Failed(more)) => failures.extend(more),
                Err(error) => return Err(error),
            }
        }
        for batch in batches {
            if let (Action::SyncExec, Some(hook)) = (batch.action, &batch.exec) {
                failures.extend(self.exec_hook(&batch.service, hook, &observed).await?);
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(StackError::Failed(failures))
        }
    }

    /// Ids of the containers of each service that files can be brought into.
    pub async fn receivers(&self) -> Result<BTreeSet<(String, String)>, StackError> {
        let observed = self.observe().await?;
        let receivers = observed.containers.iter().filter(|it| is_receiver(it));
        Ok(receivers
            .map(|container| (container.service.clone(), container.id.clone()))
            .collect())
    }

    async fn copy_changes(
        &self,
        batch: &Batch,
        observed: &Observed,
    ) -> Result<Vec<Failure>, StackError> {
        let mut failures = Vec::new();
        let containers = observed.containers.iter();
        let own = containers.filter(|container| container.service == batch.service);
        for container in own.filter(|container| is_receiver(container)) {
            let resource = format!("container {}", container.name);
            let files = match self.containers().await?.file_system(&container.id).await {
                Ok(files) => files,
                Err(error) => {
                    failures.push(Failure::from_error(resource, &error));
                    continue;
                }
            };
            let changes = batch.changes.clone();
            let copied = tokio::task::spawn_blocking(move || copy_all(&files, &changes)).await;
            let wrong = copied.unwrap_or_else(|error| vec![(String::new(), error.into())]);
            failures.extend(wrong.into_iter().map(|(path, error)| Failure {
                causes: vec![error.to_string()],
                ..Failure::new(resource.clone(), format!("cannot sync {path}"))
            }));
        }
        Ok(failures)
    }

    /// Runs the command of a rule in each running container of `service`.
    async fn exec_hook(
        &self,
        service: &str,
        hook: &Hook,
        observed: &Observed,
    ) -> Result<Vec<Failure>, StackError> {
        let mut failures = Vec::new();
        let containers = observed.containers.iter().filter(|container| {
            container.service == service
                && !container.one_off
                && container.status == Status::Running
        });
        for container in containers {
            let resource = format!("container {}", container.name);
            let request = ExecRequest {
                service: service.into(),
                index: container.number,
                options: ExecOptions {
                    command: hook.command.clone(),
                    user: hook.user.clone(),
                    working_dir: hook.working_dir.clone(),
                    environment: hook
                        .environment
                        .iter()
                        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
                        .collect(),
                    terminal: false,
                    privileged: hook.privileged,
                },
                interactive: false,
            };
            let mut output = Vec::new();
            let code = match self.exec(&request).await {
                Ok(mut session) => loop {
                    match session.next().await? {
                        SessionOutput::Stdout(bytes) | SessionOutput::Stderr(bytes) => {
                            output.extend(bytes);
                        }
                        SessionOutput::Gap => {}
                        SessionOutput::Exited(code) => break code,
                    }
                },
                Err(error) => {
                    failures.push(Failure::from_error(resource, &error));
                    continue;
                }
            };
            if code != 0 {
                let text = String::from_utf8_lossy(&output);
                let lines: Vec<String> = text.lines().map(Into::into).collect();
                failures.push(Failure {
                    details: lines[lines.len().saturating_sub(10)..].to_vec(),
                    ..Failure::new(
                        resource,
                        format!("the command of `sync+exec` ended with {code}"),
                    )
                });
            }
        }
        Ok(failures)
    }
}

/// Whether a container is to have the files of its service. One that has crashed may wait for just these.
fn is_receiver(container: &ObservedContainer) -> bool {
    !container.one_off && !matches!(container.status, Status::Removing | Status::Dead)
}

/// Makes the files in a container those of the host; what could not be is returned.
fn copy_all(files: &FileSystem, changes: &[Changed]) -> Vec<(String, io::Error)> {
    let mut failures = Vec::new();
    for change in changes {
        if let Err(error) = copy_one(files, change) {
            failures.push((change.target.display().to_string(), error));
        }
    }
    failures
}

fn copy_one(files: &FileSystem, change: &Changed) -> io::Result<()> {
    let target = change.target.as_path();
    if change.gone {
        return files.remove(target);
    }
    let metadata = match change.source.symlink_metadata() {
        Ok(metadata) => metadata,
        // It went meanwhile; the next batch says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let kept = files.attributes(target)?;
    let owner = match (&kept, target.parent()) {
        (Some(kept), _) => kept.owner,
        // What is new belongs to whoever has the folder that it comes into.
        (None, Some(parent)) => owner_above(files, parent)?,
        (None, None) => None,
    };
    let attributes = Attributes {
        mode: metadata.mode() & 0o777,
        owner,
        ..kept.unwrap_or_default()
    };
    let folder = Attributes {
        owner: attributes.owner,
        ..Attributes::folder(0o755)
    };
    if metadata.is_dir() {
        return files.make_folders(target, &folder);
    }
    if let Some(parent) = target.parent() {
        files.make_folders(parent, &folder)?;
    }
    if metadata.is_symlink() {
        let link = std::fs::read_link(&change.source)?;
        return files.put_link(target, &link, &attributes);
    }
    if !metadata.is_file() {
        // Sockets, pipes and devices have no content.
        return Ok(());
    }
    let mut content = File::open(&change.source)?;
    files.put_file(target, &mut content, &attributes)
}

/// Owner of the nearest folder that is there.
fn owner_above(files: &FileSystem, folder: &Path) -> io::Result<Option<(u32, u32)>> {
    for above in folder.ancestors() {
        if let Some(attributes) = files.attributes(above)? {
            return Ok(attributes.owner);
        }
    }
    Ok(None)
}
