//! Plans as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::ui::paint;
use crate::reconcile::diff::{HIDDEN, mask_secrets};
use crate::reconcile::plan::{Action, Change, Plan, Reason, Step};
use crate::reconcile::update::UpdateOrder;

/// For people: each resource that changes and why; what stays is only counted.
pub(crate) fn human(project: &str, plan: &Plan, show_values: bool, color: bool) -> String {
    let mut text = String::new();
    let changed: Vec<&Change> = plan
        .changes
        .iter()
        .filter(|change| !change.is_none())
        .collect();
    let unchanged = plan.changes.len() - changed.len();
    if changed.is_empty() {
        let waits = if plan.is_empty() {
            ""
        } else {
            ", after some waiting"
        };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "Project {project} is up to date{waits}.");
        return text;
    }
    let updates = updates(plan);
    let _ = writeln!(text, "Project {project}\n");
    for change in &changed {
        let (sign, style) = sign(&change.change);
        let head = format!("{sign} {} {}", change.kind, change.name);
        let how = updates.get(change.name.as_str());
        let how = how.filter(|_| change.kind == "container" && change.change == "recreate");
        let how = how.map_or_else(String::new, |how| format!(" ({how})"));
        let word = &change.change;
        let _ = writeln!(text, "  {}: {word}{how}", paint(color, style, &head));
        for reason in visible(&change.reasons, show_values) {
            let _ = writeln!(text, "      {}", explain(&reason));
        }
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &changed {
        *counts.entry(&change.change).or_default() += 1;
    }
    let mut parts: Vec<String> = ORDER
        .iter()
        .filter_map(|(word, ..)| Some(format!("{} to {word}", counts.get(word)?)))
        .collect();
    parts.push(format!("{unchanged} unchanged"));
    let _ = writeln!(text, "\n{}", parts.join(", "));
    text
}

/// When and how containers are replaced that serve meanwhile, by name.
fn updates(plan: &Plan) -> BTreeMap<&str, String> {
    let mut found = BTreeMap::new();
    for step in &plan.steps {
        if let Action::ConcludeUpdate {
            policy, replicas, ..
        } = &step.action
        {
            let waves = replicas.iter().map(|replica| replica.wave).max();
            let order = match policy.order {
                UpdateOrder::StartFirst => "start-first",
                UpdateOrder::StopFirst => "stop-first",
            };
            found.extend(replicas.iter().map(|replica| {
                let (wave, waves) = (replica.wave, waves.unwrap_or_default());
                let how = format!("wave {wave} of {waves}, {order}");
                (replica.name.as_str(), how)
            }));
        }
    }
    found
}

/// What can happen to a resource, its sign and its colour, in the order of the summary.
const ORDER: [(&str, char, &str); 9] = [
    ("pull", '+', "32"),
    ("create", '+', "32"),
    ("start", '>', "32"),
    ("update", '~', "33"),
    ("signal", '~', "33"),
    ("restart", '~', "33"),
    ("recreate", '±', "33"),
    ("stop", '.', "31"),
    ("remove", '-', "31"),
];

fn sign(change: &str) -> (char, &'static str) {
    ORDER
        .iter()
        .find(|(word, ..)| *word == change)
        .map_or(('?', ""), |(_, sign, style)| (*sign, style))
}

/// The reasons without values that may be secret, unless `show_values`.
fn visible(reasons: &[Reason], show_values: bool) -> Vec<Reason> {
    let mut reasons = reasons.to_vec();
    if !show_values {
        mask_secrets(&mut reasons);
    }
    reasons
}

/// One reason as a sentence.
fn explain(reason: &Reason) -> String {
    match reason {
        Reason::Missing => "does not exist".into(),
        Reason::Changed {
            path,
            old: None,
            new: Some(Value::String(new)),
        } if new == HIDDEN => format!("{path}: {HIDDEN}"),
        Reason::Changed { path, old, new } => {
            let value = |value: &Option<Value>| match value {
                None => "(unset)".into(),
                Some(value) => value.to_string(),
            };
            format!("{path}: {} -> {}", value(old), value(new))
        }
        Reason::Requested { by } => format!("asked for by {by}"),
        Reason::Follows { resource } => format!("follows {resource}"),
        Reason::NotRunning { exit_code: None } => "is not running".into(),
        Reason::NotRunning {
            exit_code: Some(code),
        } => format!("is not running, exited with code {code}"),
        Reason::Stopping => "is being stopped".into(),
        Reason::Surplus => "more replicas than wanted".into(),
        Reason::Orphan => "its service is not in the file".into(),
        Reason::NotWanted => "is not wanted any more".into(),
        Reason::Interrupted => "finishes what an earlier command began".into(),
    }
}

/// For programs. Definitions and values are in it only with `show_values`.
pub(crate) fn machine(project: &str, plan: &Plan, show_values: bool) -> String {
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| step_json(step, show_values))
        .collect();
    let changes: Vec<Value> = plan
        .changes
        .iter()
        .map(|change| {
            let mut value = json!(change);
            value["reasons"] = json!(visible(&change.reasons, show_values));
            value
        })
        .collect();
    let document = json!({
        "project": project,
        "changes": changes,
        "steps": steps,
        "warnings": plan.warnings,
    });
    format!("{document:#}\n")
}

fn step_json(step: &Step, show_values: bool) -> Value {
    let mut value = json!(step);
    value["reasons"] = json!(visible(&step.reasons, show_values));
    if show_values {
        return value;
    }
    if let Value::Object(map) = &mut value {
        // Definitions hold values of variables.
        let name = match &step.action {
            Action::CreateContainer { desired, .. } | Action::UpdateContainer { desired, .. } => {
                Some(&desired.name)
            }
            Action::CreateNetwork { spec } => Some(&spec.name),
            Action::CreateVolume { volume } => Some(&volume.name),
            Action::CreateSandbox { spec, .. } => Some(&spec.id),
            _ => None,
        };
        if let Some(name) = name {
            for definition in ["desired", "spec", "volume"] {
                map.remove(definition);
            }
            map.insert("name".into(), name.clone().into());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Desired;

    fn change(kind: &str, name: &str, change: &str, reasons: Vec<Reason>) -> Change {
        Change {
            kind: kind.into(),
            name: name.into(),
            service: None,
            change: change.into(),
            reasons,
        }
    }

    fn changed(path: &str) -> Reason {
        Reason::Changed {
            path: path.into(),
            old: Some("info".into()),
            new: Some("debug".into()),
        }
    }

    fn plan() -> Plan {
        let desired = Box::new(Desired {
            name: "shop-web-1".into(),
            config: json!({"environment": {"TOKEN": "debug"}}),
            ..Desired::default()
        });
        Plan {
            steps: vec![Step {
                action: Action::CreateContainer {
                    desired,
                    replaces: Some("abc".into()),
                },
                reasons: vec![changed("environment.TOKEN")],
                after: Vec::new(),
                follows: Vec::new(),
                update: None,
                completes: false,
            }],
            changes: vec![
                change("network", "shop_default", "create", vec![Reason::Missing]),
                change(
                    "container",
                    "shop-web-1",
                    "recreate",
                    vec![changed("environment.TOKEN"), changed("image")],
                ),
                change("container", "shop-db-1", "none", Vec::new()),
                change("container", "shop-old-1", "remove", vec![Reason::Orphan]),
            ],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_plan_says_what_changes_and_why_and_hides_values() {
        insta::assert_snapshot!(human("shop", &plan(), false, false), @r#"
        Project shop

          + network shop_default: create
              does not exist
          ± container shop-web-1: recreate
              environment.TOKEN: (changed)
              image: "info" -> "debug"
          - container shop-old-1: remove
              its service is not in the file

        1 to create, 1 to recreate, 1 to remove, 1 unchanged
        "#);
    }

    #[test]
    fn values_are_shown_when_asked_for() {
        let text = human("shop", &plan(), true, false);
        assert!(text.contains("environment.TOKEN: \"info\" -> \"debug\""));
        assert!(machine("shop", &plan(), true).contains("TOKEN\": \"debug"));
    }

    #[test]
    fn json_holds_no_value_unasked() {
        let text = machine("shop", &plan(), false);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["steps"][0]["action"], "create_container");
        assert_eq!(document["steps"][0]["name"], "shop-web-1");
        assert_eq!(document["steps"][0]["reasons"][0]["new"], HIDDEN);
        assert_eq!(document["changes"][1]["reasons"][1]["new"], "debug");
        assert_eq!(text.matches("debug").count(), 1);
    }

    #[test]
    fn nothing_to_do_is_one_line() {
        let plan = Plan {
            changes: vec![change("container", "shop-db-1", "none", Vec::new())],
            ..Plan::default()
        };
        assert_eq!(
            human("shop", &plan, false, false),
            "Project shop is up to date.\n"
        );
    }

    #[test]
    fn reasons_are_sentences() {
        let table = [
            (
                Reason::Requested {
                    by: "--force-recreate".into(),
                },
                "asked for by --force-recreate",
            ),
            (
                Reason::Follows {
                    resource: "service db".into(),
                },
                "follows service db",
            ),
            (
                Reason::NotRunning { exit_code: Some(3) },
                "is not running, exited with code 3",
            ),
            (Reason::Surplus, "more replicas than wanted"),
        ];
        for (reason, text) in table {
            assert_eq!(explain(&reason), text);
        }
    }
}
