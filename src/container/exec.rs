//! The process of an exec: the container's own, changed by what the user asks.

use serde_json::{Value, json};

use super::filesystem::root_of;
use super::{ContainerError, Containers, Desired, ExecOptions, FileSystem, environment};
use crate::engine::spec::{Host, capability_sets, user};
use crate::engine::{ContainerRecord, EngineError};

/// More of `/etc/passwd` is not read.
const LIMIT: u64 = 1 << 20;

impl Containers {
    /// OCI process for an exec in `record`'s container: its user, capabilities, limits, environment, directory, changed by
    /// `options`. Names of users are looked up in the container as it is now.
    pub async fn exec_process(
        &self,
        record: &ContainerRecord,
        options: &ExecOptions,
    ) -> Result<Vec<u8>, ContainerError> {
        let damaged = |source| ContainerError::Damaged {
            id: record.id.clone(),
            source,
        };
        let spec: Value = serde_json::from_slice(&record.spec).map_err(damaged)?;
        let user = match options.user.as_deref().filter(|user| !user.is_empty()) {
            None => None,
            Some(user) => {
                let task = self.engine.task(&record.id).await?;
                let pid = task
                    .map(|task| task.pid)
                    .ok_or_else(|| EngineError::NotFound {
                        what: format!("task `{}`", record.id),
                    })?;
                let groups = group_add(record)?;
                Some(super::blocking(move_user(user, groups, &record.id, pid)).await?)
            }
        };
        let process = spec.get("process").cloned().unwrap_or_else(|| json!({}));
        Ok(change(process, options, user, Host::get())?
            .to_string()
            .into_bytes())
    }
}

/// The groups that the service adds; another user has them, too.
fn group_add(record: &ContainerRecord) -> Result<Vec<String>, ContainerError> {
    let desired = Desired::of(record)?.unwrap_or_default();
    let groups = desired.config.get("group_add").and_then(Value::as_array);
    let names = groups.into_iter().flatten().filter_map(Value::as_str);
    Ok(names.map(ToOwned::to_owned).collect())
}

fn move_user(
    user: &str,
    groups: Vec<String>,
    id: &str,
    pid: u32,
) -> impl FnOnce() -> Result<user::User, ContainerError> + Send + 'static {
    let (user, id) = (user.to_owned(), id.to_owned());
    move || {
        let root = root_of(&id, pid).map_err(ContainerError::io(format!(
            "open the root of process {pid}"
        )))?;
        let files = FileSystem::new(root);
        let file = |path: &str| read_inside(&files, path).unwrap_or_default();
        Ok(user::resolve(
            &user,
            &groups,
            &file("etc/passwd"),
            &file("etc/group"),
        )?)
    }
}

/// Text of a file of the container.
fn read_inside(files: &FileSystem, path: &str) -> std::io::Result<String> {
    let file = files.open(path.as_ref())?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LIMIT), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn change(
    mut process: Value,
    options: &ExecOptions,
    user: Option<user::User>,
    host: &Host,
) -> Result<Value, ContainerError> {
    if options.command.is_empty() {
        return Err(ContainerError::invalid("command", "", "it is empty"));
    }
    let listed = process["env"].as_array().into_iter().flatten();
    let mut variables: Vec<String> = listed
        .filter_map(Value::as_str)
        .map(ToOwned::to_owned)
        .collect();
    // HOME is that of the user who runs it; the runtime sets it if it is absent.
    if options.terminal {
        environment::set(&mut variables, "TERM=xterm".into());
    }
    for entry in &options.environment {
        environment::set(&mut variables, entry.clone());
    }
    if let Some(folder) = options
        .working_dir
        .as_deref()
        .filter(|folder| !folder.is_empty())
    {
        if !folder.starts_with('/') {
            return Err(ContainerError::invalid(
                "working_dir",
                folder,
                "it must be an absolute path",
            ));
        }
        process["cwd"] = folder.into();
    }
    if options.privileged {
        process["capabilities"] = capability_sets(&host.capabilities);
        if let Some(process) = process.as_object_mut() {
            process.remove("apparmorProfile");
        }
    }
    if let Some(user) = user {
        process["user"] = json!(user);
    }
    process["args"] = json!(options.command);
    process["env"] = json!(variables);
    process["terminal"] = options.terminal.into();
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Value {
        json!({
            "terminal": false,
            "user": { "uid": 5, "gid": 6, "additionalGids": [6] },
            "args": ["serve"],
            "env": ["PATH=/bin", "A=1"],
            "cwd": "/app",
            "capabilities": capability_sets(&["CAP_CHOWN"]),
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }],
            "apparmorProfile": "docker-default",
        })
    }

    fn changed(options: &ExecOptions) -> Value {
        change(process(), options, None, &Host::example()).unwrap()
    }

    #[test]
    fn an_exec_is_like_the_container_but_for_its_command() {
        let options = ExecOptions {
            command: vec!["id".into()],
            ..ExecOptions::default()
        };
        let mut expected = process();
        expected["args"] = json!(["id"]);
        assert_eq!(changed(&options), expected);
    }

    #[test]
    fn every_option_changes_its_part() {
        let options = ExecOptions {
            command: vec!["sh".into()],
            working_dir: Some("/tmp".into()),
            environment: vec!["A=2".into(), "B=3".into()],
            terminal: true,
            privileged: true,
            ..ExecOptions::default()
        };
        let found = changed(&options);
        assert_eq!(
            found["env"],
            json!(["PATH=/bin", "A=2", "TERM=xterm", "B=3"])
        );
        assert_eq!(
            (&found["cwd"], &found["terminal"]),
            (&json!("/tmp"), &json!(true))
        );
        assert_eq!(
            found["capabilities"]["effective"].as_array().unwrap().len(),
            41
        );
        assert!(found.get("apparmorProfile").is_none());
        assert_eq!(found["user"]["uid"], 5);
    }

    #[test]
    fn a_relative_folder_and_no_command_are_refused() {
        let none = ExecOptions::default();
        assert!(change(process(), &none, None, &Host::example()).is_err());
        let relative = ExecOptions {
            command: vec!["sh".into()],
            working_dir: Some("tmp".into()),
            ..ExecOptions::default()
        };
        assert!(change(process(), &relative, None, &Host::example()).is_err());
    }
}
