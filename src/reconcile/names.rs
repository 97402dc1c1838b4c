//! Names of containers, of which there is one each on the host.

use std::collections::HashSet;

use super::observe::ObserveError;
use super::plan::{Action, Plan, PlanError};
use super::prepare::PrepareError;
use crate::container::{Desired, label};
use crate::engine::{ContainerRecord, Engine};

/// Refuses a plan that makes a container with a name that another one has and keeps, whoever made that.
pub async fn require_free_names(engine: &Engine, plan: &Plan) -> Result<(), PrepareError> {
    let created = plan.steps.iter().filter_map(|step| match &step.action {
        Action::CreateContainer { desired, .. } => Some(desired),
        _ => None,
    });
    let filters: Vec<_> = created
        .map(|desired| format!("labels.{:?}=={:?}", label::NAME, desired.name))
        .collect();
    if filters.is_empty() {
        return Ok(());
    }
    let holders = engine.containers(&filters).await;
    let holders = holders.map_err(ObserveError::from)?;
    conflict(plan, &holders).map_or(Ok(()), |error| Err(error.into()))
}

fn conflict(plan: &Plan, holders: &[ContainerRecord]) -> Option<PlanError> {
    let going: HashSet<&str> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::RemoveContainer { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let is_taken = |desired: &Desired, replaces: Option<&str>, holder: &ContainerRecord| {
        let label = |key: &str| holder.labels.get(key).map_or("", String::as_str);
        // What an interrupted replacement has left in its slot.
        let same_slot = label(label::PROJECT) == desired.project
            && label(label::SERVICE) == desired.service
            && label(label::ONE_OFF).eq_ignore_ascii_case("false")
            && !desired.one_off;
        label(label::NAME) == desired.name
            && !same_slot
            && replaces != Some(&holder.id)
            && !going.contains(holder.id.as_str())
    };
    plan.steps.iter().find_map(|step| match &step.action {
        Action::CreateContainer { desired, replaces } => holders
            .iter()
            .find(|holder| is_taken(desired, replaces.as_deref(), holder))
            .map(|holder| PlanError::NameInUse {
                name: desired.name.clone(),
                id: holder.id.chars().take(12).collect(),
                project: holder.labels.get(label::PROJECT).cloned(),
            }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::plan::Step;
    use super::*;

    fn step(action: Action) -> Step {
        Step {
            action,
            reasons: Vec::new(),
            after: Vec::new(),
            follows: Vec::new(),
            update: None,
            completes: false,
        }
    }

    fn making_web(replaces: Option<&str>, one_off: bool) -> Plan {
        let desired = Desired {
            name: "web".into(),
            project: "shop".into(),
            service: "web".into(),
            one_off,
            ..Desired::default()
        };
        let create = Action::CreateContainer {
            desired: Box::new(desired),
            replaces: replaces.map(str::to_owned),
        };
        Plan {
            steps: vec![step(create)],
            ..Plan::default()
        }
    }

    fn holder(labels: &[(&str, &str)]) -> [ContainerRecord; 1] {
        let labels = labels.iter().chain(&[(label::NAME, "web")]);
        let labels: BTreeMap<_, _> = labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let id = "0123456789abcdef".to_owned();
        [ContainerRecord {
            id,
            labels,
            ..ContainerRecord::default()
        }]
    }

    const SLOT: [(&str, &str); 3] = [
        (label::PROJECT, "shop"),
        (label::SERVICE, "web"),
        (label::ONE_OFF, "False"),
    ];

    #[test]
    fn a_name_of_another_project_or_tool_is_taken() {
        let other = holder(&[(label::PROJECT, "other"), (label::SERVICE, "web")]);
        let refused = conflict(&making_web(None, false), &other).unwrap();
        assert_eq!(
            refused.to_string(),
            "the container name `web` is already in use by container 0123456789ab of project `other`"
        );
        let foreign = conflict(&making_web(None, false), &holder(&[])).unwrap();
        assert_eq!(
            foreign.to_string(),
            "the container name `web` is already in use by container 0123456789ab"
        );
    }

    #[test]
    fn the_slots_own_containers_do_not_stand_in_the_way() {
        assert_eq!(conflict(&making_web(None, false), &holder(&SLOT)), None);
        assert!(conflict(&making_web(None, true), &holder(&SLOT)).is_some());
        let replaced = making_web(Some("0123456789abcdef"), false);
        assert_eq!(conflict(&replaced, &holder(&[])), None);
    }

    #[test]
    fn an_orphan_that_goes_gives_its_name_up() {
        let orphan = holder(&[(label::PROJECT, "shop"), (label::SERVICE, "old")]);
        let mut plan = making_web(None, false);
        assert!(conflict(&plan, &orphan).is_some());
        plan.steps.push(step(Action::RemoveContainer {
            id: "0123456789abcdef".into(),
            service: "old".into(),
            name: "web".into(),
            volumes: false,
        }));
        assert_eq!(conflict(&plan, &orphan), None);
    }
}
