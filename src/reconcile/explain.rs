//! Plans for people and for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::diff::{HIDDEN, mask_secrets};
use super::plan::{Action, Change, Plan, Reason};

/// Characters of a value that are shown.
const SHOWN: usize = 72;

/// The plan as text but for its warnings: what changes and why, then how much there is to do. Values that look secret are
/// hidden unless `show_values`.
pub fn lines(plan: &Plan, show_values: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &plan.changes {
        *counts.entry(change.change.as_str()).or_default() += 1;
        if change.change == "none" {
            continue;
        }
        lines.push(format!(
            "{:<9} {:<9} {}",
            change.change, change.kind, change.name
        ));
        let reasons = visible(change, show_values);
        lines.extend(
            reasons
                .iter()
                .map(|reason| format!("{:20}{}", "", sentence(reason))),
        );
    }
    lines.push(summary(plan, &counts));
    lines
}

/// The plan as JSON: `changes` with their reasons, `steps` with what they wait for (indexes), and `warnings`.
pub fn json(plan: &Plan, show_values: bool) -> Value {
    let changes = plan.changes.iter().map(|change| {
        json!({
            "kind": change.kind,
            "name": change.name,
            "service": change.service,
            "change": change.change,
            "reasons": visible(change, show_values),
        })
    });
    let steps = plan.steps.iter().map(|step| {
        let (action, name, service) = described(&step.action);
        json!({
            "action": action,
            "name": name,
            "service": service,
            "after": step.after,
            "follows": step.follows,
        })
    });
    json!({
        "changes": changes.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
        "warnings": plan.warnings,
    })
}

fn visible(change: &Change, show_values: bool) -> Vec<Reason> {
    let mut reasons = change.reasons.clone();
    if !show_values {
        mask_secrets(&mut reasons);
    }
    reasons
}

fn summary(plan: &Plan, counts: &BTreeMap<&str, usize>) -> String {
    let unchanged = counts.get("none").copied().unwrap_or(0);
    let waits = plan.steps.iter().all(|step| step.action.is_wait());
    if counts.keys().all(|change| *change == "none") && waits {
        return format!("nothing to do, {unchanged} unchanged");
    }
    let order = [
        "create", "start", "update", "restart", "recreate", "stop", "kill", "remove",
    ];
    let mut parts: Vec<String> = order
        .iter()
        .filter_map(|change| Some(format!("{} to {change}", counts.get(change)?)))
        .collect();
    parts.push(format!("{unchanged} unchanged"));
    parts.join(", ")
}

fn sentence(reason: &Reason) -> String {
    match reason {
        Reason::Missing => "does not exist".into(),
        Reason::Changed { path, old, new } => match (old, new) {
            (None, Some(Value::String(new))) if new == HIDDEN => format!("{path}: {HIDDEN}"),
            (None, None) => format!("{path}: unknown"),
            (old, new) => format!("{path}: {} -> {}", shown(old.as_ref()), shown(new.as_ref())),
        },
        Reason::Requested { by } => format!("asked for by `{by}`"),
        Reason::Follows { resource } => format!("follows {resource}"),
        Reason::NotRunning { exit_code: None } => "does not run".into(),
        Reason::NotRunning {
            exit_code: Some(code),
        } => format!("has exited with code {code}"),
        Reason::Surplus => "is a replica too many".into(),
        Reason::Orphan => "its service is not in the file".into(),
        Reason::NotWanted => "is not wanted any more".into(),
    }
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => return "(none)".into(),
        Some(Value::Null) => return "(unset)".into(),
        Some(Value::String(text)) if !text.is_empty() => text.escape_debug().to_string(),
        Some(other) => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a step does, to what, and for which service.
fn described(action: &Action) -> (&'static str, String, Option<&str>) {
    match action {
        Action::CreateNetwork { spec } => ("create_network", spec.name.clone(), None),
        Action::RemoveNetwork { name } => ("remove_network", name.clone(), None),
        Action::CreateVolume { volume } => ("create_volume", volume.name.clone(), None),
        Action::RemoveVolume { name } => ("remove_volume", name.clone(), None),
        Action::EnsureImage { service, reference } => {
            ("ensure_image", reference.clone(), Some(service))
        }
        Action::CreateSandbox { spec } => ("create_sandbox", spec.id.clone(), None),
        Action::RemoveSandbox { id } => ("remove_sandbox", id.clone(), None),
        Action::CreateContainer { desired, .. } => (
            "create_container",
            desired.name.clone(),
            Some(&desired.service),
        ),
        Action::UpdateContainer { desired, .. } => (
            "update_container",
            desired.name.clone(),
            Some(&desired.service),
        ),
        Action::StartContainer { service, name } => {
            ("start_container", name.clone(), Some(service))
        }
        Action::StopContainer { service, name, .. } => {
            ("stop_container", name.clone(), Some(service))
        }
        Action::KillContainer { service, name, .. } => {
            ("kill_container", name.clone(), Some(service))
        }
        Action::RemoveContainer { service, name, .. } => {
            ("remove_container", name.clone(), Some(service))
        }
        Action::WaitFor {
            service, condition, ..
        } => {
            let condition = serde_json::to_value(condition).unwrap_or_default();
            let condition = condition.as_str().unwrap_or_default();
            ("wait_for", condition.into(), Some(service))
        }
        Action::RunHook {
            service,
            name,
            hook,
            index,
        } => ("run_hook", format!("{name} {hook}[{index}]"), Some(service)),
        Action::RemoveImage { reference } => ("remove_image", reference.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::plan::Step;

    fn change(kind: &str, name: &str, change: &str, reasons: Vec<Reason>) -> Change {
        Change {
            kind: kind.into(),
            name: name.into(),
            service: (kind == "container").then(|| "web".into()),
            change: change.into(),
            reasons,
        }
    }

    fn changed(path: &str, old: Option<Value>, new: Option<Value>) -> Reason {
        Reason::Changed {
            path: path.into(),
            old,
            new,
        }
    }

    fn plan() -> Plan {
        let reasons = vec![
            changed(
                "environment.LEVEL",
                Some("a\nb".into()),
                Some("debug".into()),
            ),
            changed("environment.TOKEN", Some("t0ps3cret".into()), None),
            changed("command", None, Some(json!(["sh", "-c", "x".repeat(100)]))),
        ];
        let remove = Action::RemoveContainer {
            id: "a".into(),
            service: "web".into(),
            name: "shop-web-2".into(),
            volumes: false,
        };
        let steps = [
            (Action::RemoveNetwork { name: "n".into() }, vec![], vec![]),
            (remove, vec![0], vec![]),
            (Action::RemoveSandbox { id: "s".into() }, vec![], vec![1]),
        ];
        Plan {
            steps: steps
                .into_iter()
                .map(|(action, after, follows)| Step {
                    action,
                    reasons: Vec::new(),
                    after,
                    follows,
                })
                .collect(),
            changes: vec![
                change("network", "shop_default", "none", vec![]),
                change("volume", "shop_data", "create", vec![Reason::Missing]),
                change("container", "shop-web-1", "recreate", reasons),
                change("container", "shop-web-2", "remove", vec![Reason::Surplus]),
                change(
                    "container",
                    "shop-db-1",
                    "start",
                    vec![Reason::NotRunning { exit_code: Some(1) }],
                ),
            ],
            warnings: vec!["container `x` is paused".into()],
        }
    }

    #[test]
    fn people_read_what_changes_and_why() {
        insta::assert_snapshot!(lines(&plan(), false).join("\n"), @r#"
        create    volume    shop_data
                            does not exist
        recreate  container shop-web-1
                            environment.LEVEL: a\nb -> debug
                            environment.TOKEN: (changed)
                            command: (none) -> ["sh","-c","xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        remove    container shop-web-2
                            is a replica too many
        start     container shop-db-1
                            has exited with code 1
        1 to create, 1 to start, 1 to recreate, 1 to remove, 1 unchanged
        "#);
    }

    #[test]
    fn values_are_shown_on_demand() {
        assert!(!lines(&plan(), false).join("\n").contains("t0ps3cret"));
        assert!(
            lines(&plan(), true)
                .join("\n")
                .contains("TOKEN: t0ps3cret -> (none)")
        );
        assert!(!json(&plan(), false).to_string().contains("t0ps3cret"));
        assert!(json(&plan(), true).to_string().contains("t0ps3cret"));
    }

    #[test]
    fn programs_read_the_same_as_json() {
        let mut plan = plan();
        plan.changes.truncate(2);
        let json = json(&plan, false);
        let shown = |key: &str| {
            let items = json[key].as_array().into_iter().flatten();
            items
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        };
        insta::assert_snapshot!(shown("changes"), @r#"
        {"kind":"network","name":"shop_default","service":null,"change":"none","reasons":[]}
        {"kind":"volume","name":"shop_data","service":null,"change":"create","reasons":[{"kind":"missing"}]}
        "#);
        insta::assert_snapshot!(shown("steps"), @r#"
        {"action":"remove_network","name":"n","service":null,"after":[],"follows":[]}
        {"action":"remove_container","name":"shop-web-2","service":"web","after":[0],"follows":[]}
        {"action":"remove_sandbox","name":"s","service":null,"after":[],"follows":[1]}
        "#);
        insta::assert_snapshot!(shown("warnings"), @r#""container `x` is paused""#);
    }

    #[test]
    fn an_empty_plan_says_so() {
        let plan = Plan {
            changes: vec![change("container", "shop-web-1", "none", vec![])],
            ..Plan::default()
        };
        assert_eq!(lines(&plan, false), ["nothing to do, 1 unchanged"]);
    }
}
