//! What an image made from a container says of the processes that run from it: what the image below said, what the service
//! changed of it, and what the user changes now.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ContainerError, Containers, Desired, environment};
use crate::engine::{ContainerRecord, Descriptor, EngineError, TaskStatus, unique};
use crate::image::{Images, NewImage};
use crate::model::{Service, split_words};

/// A lease that nobody ended ends by itself after this.
const LEASE: Duration = Duration::from_hours(1);

/// What the user says of a new image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// As `REPOSITORY[:TAG]`.
    pub reference: Option<String>,
    pub author: String,
    pub comment: String,
    /// Instructions of a Dockerfile.
    pub changes: Vec<String>,
    /// Freeze a running container while its files are read.
    pub pause: bool,
    /// Labels for the image.
    pub labels: BTreeMap<String, String>,
}

impl Containers {
    /// Makes an image of a container's root file system, and returns the image's id. What lies in volumes and mounts is no
    /// part of it.
    pub async fn commit(
        &self,
        id: &str,
        options: &CommitOptions,
    ) -> Result<String, ContainerError> {
        if let Some(reference) = &options.reference {
            Images::check_name(reference)?;
        }
        let record = self.engine.container(id).await?;
        let record = record.ok_or_else(|| EngineError::NotFound {
            what: format!("container `{id}`"),
        })?;
        let desired = Desired::of(&record)?.unwrap_or_default();
        let damaged = |source| ContainerError::Damaged {
            id: id.into(),
            source,
        };
        let service: Service = serde_json::from_value(desired.config.clone()).map_err(damaged)?;
        let mut process = self.images.process_config(&desired.image).await?;
        with_service(&mut process, &service, options.labels.clone().into_iter());
        for change in &options.changes {
            apply(&mut process, change)?;
        }
        let lease = unique("compose-commit");
        self.engine
            .create_lease(&lease, &BTreeMap::new(), LEASE)
            .await?;
        let committed = self
            .commit_under(&lease, &record, &desired, process, options)
            .await;
        let ended = self.engine.delete_lease(&lease).await;
        let id = committed?;
        ended?;
        Ok(id)
    }

    async fn commit_under(
        &self,
        lease: &str,
        record: &ContainerRecord,
        desired: &Desired,
        process: Value,
        options: &CommitOptions,
    ) -> Result<String, ContainerError> {
        let (layer, diff_id) = self.frozen_layer(lease, record, options.pause).await?;
        let spec: Value =
            serde_json::from_slice(&record.spec).map_err(|source| ContainerError::Damaged {
                id: record.id.clone(),
                source,
            })?;
        let arguments: Vec<String> =
            serde_json::from_value(spec["process"]["args"].clone()).unwrap_or_default();
        let image = NewImage {
            reference: options.reference.clone(),
            base: desired.image.clone(),
            layer,
            diff_id,
            process,
            author: options.author.clone(),
            comment: options.comment.clone(),
            created_by: arguments.join(" "),
        };
        Ok(self.images.commit(&image, lease).await?)
    }

    /// What the container has changed of its image; it stands still meanwhile if it is to.
    async fn frozen_layer(
        &self,
        lease: &str,
        record: &ContainerRecord,
        pause: bool,
    ) -> Result<(Descriptor, String), ContainerError> {
        let task = self.engine.task(&record.id).await?;
        let runs = task.is_some_and(|task| task.status == TaskStatus::Running);
        let pause = pause && runs;
        if pause {
            self.engine.pause_task(&record.id).await?;
        }
        let layer = self.engine.diff_snapshot(&record.snapshot_key, lease).await;
        if pause {
            self.engine.resume_task(&record.id).await?;
        }
        Ok(layer?)
    }
}

/// Sets what the service says over the image's.
fn with_service(
    process: &mut Value,
    service: &Service,
    labels: impl Iterator<Item = (String, String)>,
) {
    if !process.is_object() {
        *process = json!({});
    }
    if let Some(entrypoint) = &service.entrypoint {
        process["Entrypoint"] = json!(entrypoint);
        // The image's arguments belong to its own entrypoint.
        process["Cmd"] = Value::Null;
    }
    if let Some(command) = &service.command {
        process["Cmd"] = json!(command);
    }
    for (name, value) in &service.environment {
        match value {
            Some(value) => set_variable(process, format!("{name}={value}")),
            None => {
                if let Some(list) = process["Env"].as_array_mut() {
                    let prefix = format!("{name}=");
                    list.retain(|entry| !entry.as_str().unwrap_or_default().starts_with(&prefix));
                }
            }
        }
    }
    for (attribute, value) in [
        ("User", &service.user),
        ("WorkingDir", &service.working_dir),
        ("StopSignal", &service.stop_signal),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            process[attribute] = json!(value);
        }
    }
    for (name, value) in labels {
        insert(process, "Labels", &name, value.into());
    }
}

/// Applies one instruction of a Dockerfile.
fn apply(process: &mut Value, instruction: &str) -> Result<(), ContainerError> {
    let trimmed = instruction.trim();
    let (word, rest) = trimmed
        .split_once(char::is_whitespace)
        .unwrap_or((trimmed, ""));
    let rest = rest.trim();
    let invalid = |reason: &str| ContainerError::invalid("--change", instruction, reason);
    let unreadable = || invalid("quotes must be closed, and `;`, `|`, `&`, `<` and `>` be quoted");
    if rest.is_empty() {
        return Err(invalid("the instruction has no argument"));
    }
    let word = word.to_ascii_uppercase();
    let one = || {
        let words = words(rest).ok_or_else(unreadable)?;
        match words.as_slice() {
            [word] => Ok(word.clone()),
            _ => Err(invalid("it takes one argument")),
        }
    };
    match word.as_str() {
        "CMD" => process["Cmd"] = json!(command(rest)),
        "ENTRYPOINT" => {
            process["Entrypoint"] = json!(command(rest));
        }
        "ENV" | "LABEL" => {
            let words = words(rest).ok_or_else(unreadable)?;
            let pairs = pairs(&words, rest).ok_or_else(|| invalid("it takes NAME=VALUE"))?;
            for (name, value) in pairs {
                if word == "ENV" {
                    set_variable(process, format!("{name}={value}"));
                } else {
                    insert(process, "Labels", &name, value.into());
                }
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = if port.contains('/') {
                    port.to_owned()
                } else {
                    format!("{port}/tcp")
                };
                insert(process, "ExposedPorts", &port, json!({}));
            }
        }
        "VOLUME" => {
            for volume in
                list(rest).unwrap_or_else(|| rest.split_whitespace().map(Into::into).collect())
            {
                insert(process, "Volumes", &volume, json!({}));
            }
        }
        "USER" => process["User"] = one()?.into(),
        "STOPSIGNAL" => process["StopSignal"] = one()?.into(),
        "WORKDIR" => {
            let old = process["WorkingDir"].as_str().unwrap_or("/");
            let path = std::path::Path::new("/").join(old).join(one()?);
            process["WorkingDir"] = path.to_string_lossy().into();
        }
        "ONBUILD" => match process["OnBuild"].as_array_mut() {
            Some(list) => list.push(rest.into()),
            None => process["OnBuild"] = json!([rest]),
        },
        _ => {
            return Err(invalid(
                "it is one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR",
            ));
        }
    }
    Ok(())
}

/// A JSON list, or a command line for the shell.
fn command(text: &str) -> Vec<String> {
    list(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `None` if a quote is not closed or something ends the line as it would end a shell's.
fn words(text: &str) -> Option<Vec<String>> {
    let split = split_words(text).ok()?;
    split.cut_at.is_none().then_some(split.words)
}

/// `NAME=VALUE …`, or the old form `NAME VALUE`.
fn pairs(words: &[String], text: &str) -> Option<Vec<(String, String)>> {
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.into(), value.trim().into())]);
    }
    words.iter().map(pair).collect()
}

fn set_variable(process: &mut Value, entry: String) {
    let old: Vec<String> = serde_json::from_value(process["Env"].take()).unwrap_or_default();
    let mut list = old;
    environment::set(&mut list, entry);
    process["Env"] = json!(list);
}

/// Sets `key` in a table of the configuration.
fn insert(process: &mut Value, table: &str, key: &str, value: Value) {
    if !process[table].is_object() {
        process[table] = json!({});
    }
    process[table][key] = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<Value, String> {
        let mut process = json!({"Env": ["PATH=/bin"], "WorkingDir": "/srv"});
        for change in changes {
            apply(&mut process, change).map_err(|error| error.to_string())?;
        }
        Ok(process)
    }

    #[test]
    fn instructions_change_what_they_say() {
        let process = changed(&[
            "CMD [\"sleep\", \"3\"]",
            "entrypoint exec app",
            "ENV A=b C=\"d e\"",
            "ENV PATH /x /y",
            "LABEL a.b=c",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "USER 5:6",
            "WORKDIR sub",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
        ]);
        assert_eq!(
            process.unwrap(),
            json!({
                "Env": ["PATH=/x /y", "A=b", "C=d e"],
                "WorkingDir": "/srv/sub",
                "Cmd": ["sleep", "3"],
                "Entrypoint": ["/bin/sh", "-c", "exec app"],
                "Labels": {"a.b": "c"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}},
                "User": "5:6",
                "StopSignal": "SIGINT",
                "OnBuild": ["RUN x"],
            })
        );
    }

    #[test]
    fn what_is_no_instruction_is_refused() {
        for (change, reason) in [
            ("FROM x", "it is one of CMD"),
            ("CMD", "has no argument"),
            ("USER a b", "it takes one argument"),
            ("ENV A=b =c", "it takes NAME=VALUE"),
            ("LABEL a=\"b", "quotes must be closed"),
        ] {
            let error = changed(&[change]).unwrap_err();
            assert!(error.contains(reason), "{change}: {error}");
        }
    }

    #[test]
    fn the_service_s_own_words_go_before_the_image_s() {
        let mut process = json!({"Env": ["A=1", "B=2"], "Entrypoint": ["e"], "Cmd": ["c"]});
        let service = Service {
            entrypoint: Some(vec!["/own".into()]),
            environment: [
                ("A".to_owned(), None),
                ("B".to_owned(), Some("3".to_owned())),
            ]
            .into_iter()
            .collect(),
            user: Some("7".into()),
            ..Service::default()
        };
        let label = ("l".to_owned(), "v".to_owned());
        with_service(&mut process, &service, std::iter::once(label));
        assert_eq!(
            process,
            json!({
                "Env": ["B=3"],
                "Entrypoint": ["/own"],
                "Cmd": null,
                "User": "7",
                "Labels": {"l": "v"},
            })
        );
    }
}
