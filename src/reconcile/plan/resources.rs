//! What happens to networks and volumes on the way up.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, PlanError, Reason, StepId};
use crate::container::label;
use crate::network::{NetworkRecord, SandboxRecord};
use crate::reconcile::definition::network_definition;
use crate::reconcile::desired::{DesiredNetwork, DesiredService, DesiredState};
use crate::reconcile::diff::value_changes;
use crate::reconcile::observe::Observed;

use super::builder::{Builder, Gate};

/// Networks and volumes of the services selected.
#[derive(Debug, Default)]
pub(super) struct Resources<'a> {
    /// Networks to be replaced, by name on the host.
    pub(super) replaced: BTreeMap<&'a str, Replaced<'a>>,
    /// Definitions of what stays though the file says otherwise, by name on the host.
    pub(super) kept_networks: BTreeMap<&'a str, serde_json::Value>,
    pub(super) kept_volumes: BTreeMap<&'a str, serde_json::Value>,
    /// Steps that make what is missing, by name on the host.
    pub(super) networks: BTreeMap<&'a str, StepId>,
    pub(super) volumes: BTreeMap<&'a str, StepId>,
}

/// A network whose definition changed.
#[derive(Debug)]
pub(super) struct Replaced<'a> {
    pub(super) network: &'a DesiredNetwork,
    pub(super) reasons: Vec<Reason>,
}

/// Whether a sandbox goes or is made anew by the plan, so that its networks can be replaced. There is none if something
/// must not be made anew.
pub(super) type IsReplaceable<'a> = dyn Fn(&SandboxRecord) -> bool + 'a;

pub(super) fn plan_resources<'a>(
    builder: &mut Builder,
    project: &str,
    desired: &'a DesiredState,
    services: &[&DesiredService],
    observed: &'a Observed,
    is_replaceable: Option<&IsReplaceable<'_>>,
) -> Result<Resources<'a>, PlanError> {
    let mut resources = Resources::default();
    let used: BTreeSet<&str> = services
        .iter()
        .flat_map(|service| &service.networks)
        .map(String::as_str)
        .collect();
    for (_, network) in desired
        .networks
        .iter()
        .filter(|(key, _)| used.contains(key.as_str()))
    {
        plan_network(
            builder,
            project,
            network,
            observed,
            is_replaceable,
            &mut resources,
        )?;
    }
    let used: BTreeSet<&str> = services
        .iter()
        .flat_map(|service| &service.volumes)
        .map(String::as_str)
        .collect();
    for (_, volume) in desired
        .volumes
        .iter()
        .filter(|(key, _)| used.contains(key.as_str()))
    {
        let record = &volume.record;
        let name = record.name.as_str();
        let existing = observed
            .volumes
            .iter()
            .find(|existing| existing.name == name);
        match existing {
            None if volume.external => {
                return Err(PlanError::MissingVolume {
                    volume: name.into(),
                });
            }
            None => {
                let reasons = vec![Reason::Missing];
                let action = Action::CreateVolume {
                    volume: record.clone(),
                };
                let step = builder.push(action, reasons.clone(), Gate::default());
                resources.volumes.insert(name, step);
                builder.change("volume", name, None, "create", reasons);
            }
            Some(existing) => {
                builder.change("volume", name, None, "none", Vec::new());
                if volume.external {
                    continue;
                }
                if existing
                    .labels
                    .get(label::PROJECT)
                    .is_none_or(|owner| owner != project)
                {
                    builder.warn(not_ours("volume", name, project));
                } else if existing.definition != record.definition && !existing.definition.is_null()
                {
                    builder.warn(format!(
                        "volume `{name}` exists with another definition and is kept as it is; remove it to have it made anew"
                    ));
                }
                resources
                    .kept_volumes
                    .insert(name, existing.definition.clone());
            }
        }
    }
    Ok(resources)
}

fn plan_network<'a>(
    builder: &mut Builder,
    project: &str,
    network: &'a DesiredNetwork,
    observed: &'a Observed,
    is_replaceable: Option<&IsReplaceable<'_>>,
    resources: &mut Resources<'a>,
) -> Result<(), PlanError> {
    let spec = &network.spec;
    let name = spec.name.as_str();
    let Some(existing) = observed
        .networks
        .iter()
        .find(|existing| existing.spec.name == name)
    else {
        if network.external {
            return Err(PlanError::MissingNetwork {
                network: name.into(),
            });
        }
        let action = Action::CreateNetwork { spec: spec.clone() };
        let step = builder.push(action, vec![Reason::Missing], Gate::default());
        resources.networks.insert(name, step);
        builder.change("network", name, None, "create", vec![Reason::Missing]);
        return Ok(());
    };
    let mut change = "none";
    let mut reasons = Vec::new();
    let is_own = spec.labels.contains_key(label::PROJECT);
    if is_own && !network.external {
        let is_labelled = existing
            .spec
            .labels
            .get(label::PROJECT)
            .is_some_and(|owner| owner == project);
        if existing.foreign || !is_labelled {
            builder.warn(not_ours("network", name, project));
        } else {
            reasons = definition_changes(existing, network);
        }
    }
    if !reasons.is_empty() {
        let kept = match is_replaceable {
            None => Some("nothing is to be recreated".to_owned()),
            Some(is_replaceable) => users(name, observed, is_replaceable),
        };
        if let Some(why) = kept {
            builder.warn(format!(
                "network `{name}` has changed but is kept as it is: {why}"
            ));
            resources
                .kept_networks
                .insert(name, network_definition(&existing.spec));
            reasons.clear();
        } else {
            change = "recreate";
            let reasons = reasons.clone();
            resources
                .replaced
                .insert(name, Replaced { network, reasons });
        }
    }
    builder.change("network", name, None, change, reasons);
    Ok(())
}

/// Who keeps a network from being replaced.
fn users(network: &str, observed: &Observed, is_replaceable: &IsReplaceable<'_>) -> Option<String> {
    let own = observed
        .sandboxes
        .iter()
        .filter(|sandbox| is_attached(sandbox, network) && !is_replaceable(sandbox))
        .map(|sandbox| sandbox.spec.id.as_str());
    let others = observed.other_users.get(network).into_iter().flatten();
    let users: Vec<&str> = own.chain(others.map(String::as_str)).collect();
    (!users.is_empty()).then(|| format!("it is in use by {}", users.join(", ")))
}

fn definition_changes(existing: &NetworkRecord, network: &DesiredNetwork) -> Vec<Reason> {
    let key = network
        .spec
        .labels
        .get(label::NETWORK)
        .unwrap_or(&network.spec.name);
    let old = network_definition(&existing.spec);
    value_changes(&format!("networks.{key}"), &old, &network.definition())
}

/// Whether `sandbox` joins the network `name`.
pub(super) fn is_attached(sandbox: &SandboxRecord, name: &str) -> bool {
    sandbox
        .spec
        .attachments
        .iter()
        .any(|attachment| attachment.network == name)
}

fn not_ours(kind: &str, name: &str, project: &str) -> String {
    format!(
        "{kind} `{name}` exists but was not made for project `{project}`; set `external: true` to use it without this warning"
    )
}
