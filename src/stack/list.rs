//! All projects of a host.

use std::collections::{BTreeMap, BTreeSet};

use super::{StackError, StackOptions, connect};
use crate::container::label;
use crate::engine::{ContainerRecord, TaskStatus};
use crate::state::ContainerState;
use crate::supervisor::live::LiveRecord;

/// One project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectSummary {
    pub name: String,
    /// Containers by state: `running`, `exited` …
    pub states: BTreeMap<&'static str, usize>,
    /// Files that the containers were made from.
    pub config_files: BTreeSet<String>,
    /// Whether the supervisor follows its files.
    pub live: bool,
}

impl ProjectSummary {
    /// `exited(1), running(2)`, and `live` if the supervisor follows the files.
    pub fn status(&self) -> String {
        let states = self
            .states
            .iter()
            .map(|(state, count)| format!("{state}({count})"));
        let live = self.live.then(|| "live".to_owned());
        states.chain(live).collect::<Vec<_>>().join(", ")
    }
}

/// Every project that has containers, by name. The options' name and project do not matter.
pub async fn list(options: &StackOptions) -> Result<Vec<ProjectSummary>, StackError> {
    let containers = connect(&StackOptions {
        name: String::new(),
        ..options.clone()
    })
    .await?;
    let (records, tasks) =
        tokio::try_join!(containers.engine.containers(&[]), containers.engine.tasks())?;
    let tasks: BTreeMap<String, TaskStatus> = tasks
        .into_iter()
        .map(|task| (task.id, task.status))
        .collect();
    let mut projects: BTreeMap<String, ProjectSummary> = BTreeMap::new();
    for record in &records {
        let Some(name) = record.labels.get(label::PROJECT) else {
            continue;
        };
        if record
            .labels
            .get(label::ONE_OFF)
            .is_some_and(|value| value == "True")
        {
            continue;
        }
        let project = projects
            .entry(name.clone())
            .or_insert_with(|| ProjectSummary {
                name: name.clone(),
                ..ProjectSummary::default()
            });
        let state = ContainerState::load(&options.state, &record.id).unwrap_or_default();
        *project
            .states
            .entry(state_name(tasks.get(&record.id).copied(), &state))
            .or_default() += 1;
        project.config_files.extend(config_files(record));
    }
    for (name, project) in &mut projects {
        project.live = matches!(LiveRecord::read(&options.state, name), Ok(Some(_)));
    }
    Ok(projects.into_values().collect())
}

fn config_files(record: &ContainerRecord) -> impl Iterator<Item = String> {
    let files = record.labels.get(label::CONFIG_FILES);
    files
        .into_iter()
        .flat_map(|files| files.split(','))
        .filter(|file| !file.is_empty())
        .map(Into::into)
}

fn state_name(task: Option<TaskStatus>, state: &ContainerState) -> &'static str {
    match task {
        Some(TaskStatus::Running) => "running",
        Some(TaskStatus::Paused | TaskStatus::Pausing) => "paused",
        _ if state.restart_at.is_some() => "restarting",
        _ if state.run == 0 => "created",
        _ => "exited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_in_the_order_of_their_names() {
        let project = ProjectSummary {
            states: BTreeMap::from([("running", 2), ("exited", 1)]),
            ..ProjectSummary::default()
        };
        assert_eq!(project.status(), "exited(1), running(2)");
        let live = ProjectSummary {
            live: true,
            ..project
        };
        assert_eq!(live.status(), "exited(1), running(2), live");
    }

    #[test]
    fn a_container_without_a_task_is_what_its_record_says() {
        let mut state = ContainerState::default();
        assert_eq!(state_name(None, &state), "created");
        state.run = 1;
        assert_eq!(state_name(Some(TaskStatus::Stopped), &state), "exited");
        state.restart_at = Some(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(state_name(None, &state), "restarting");
        assert_eq!(state_name(Some(TaskStatus::Running), &state), "running");
    }
}
