//! Definitions of services, networks and volumes as canonical JSON: what is compared to find out whether something that
//! exists is still what the file asks for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::model::{Service, Volume};
use crate::network::NetworkSpec;

/// Attributes of a service that say nothing about its containers.
const LEFT_OUT: [&str; 6] = [
    "name",
    "build",
    "pull_policy",
    "scale",
    "depends_on",
    "profiles",
];

/// Attributes whose keys are the user's: an entry counts even if its value is empty.
const USER_MAPS: [&str; 12] = [
    "annotations",
    "args",
    "driver_opts",
    "environment",
    "extra_hosts",
    "labels",
    "models",
    "networks",
    "options",
    "storage_opt",
    "sysctls",
    "ulimits",
];

/// Labels that Compose sets itself begin with this.
const OWN_LABELS: &str = "com.docker.compose.";

/// Canonical JSON of `service` as [`crate::container::Desired::config`] holds it. An attribute that has its default is
/// left out, so that a new attribute of a later version does not look like a change.
pub(super) fn service_definition(service: &Service) -> Value {
    static DEFAULTS: LazyLock<Value> =
        LazyLock::new(|| serde_json::to_value(Service::default()).unwrap_or_default());
    let Value::Object(mut all) = serde_json::to_value(service).unwrap_or_default() else {
        return Value::Null;
    };
    for attribute in LEFT_OUT {
        all.remove(attribute);
    }
    if let Some(Value::Object(deploy)) = all.get_mut("deploy") {
        // They say how to come to what is wanted, not what that is.
        for attribute in ["replicas", "update_config", "rollback_config"] {
            deploy.remove(attribute);
        }
    }
    all.retain(|attribute, value| DEFAULTS.get(attribute) != Some(value));
    let pruned = all.into_iter().filter_map(|(attribute, value)| {
        // `command: []` is not the same as no command.
        let keeps_empty = value.as_array().is_some_and(Vec::is_empty);
        let value = pruned(value, USER_MAPS.contains(&attribute.as_str()));
        (keeps_empty || !is_empty(&value)).then_some((attribute, value))
    });
    sorted(Value::Object(pruned.collect()))
}

/// Definition of a network in the shape of the file, without its name and Compose's own labels.
pub(super) fn network_definition(spec: &NetworkSpec) -> Value {
    let driver = spec.driver.as_deref().filter(|driver| *driver != "bridge");
    let definition = json!({
        "driver": driver,
        "driver_opts": spec.driver_opts,
        "internal": spec.internal,
        "enable_ipv6": spec.enable_ipv6,
        "ipam": { "config": spec.pools },
        "labels": own_labels_removed(&spec.labels),
    });
    sorted(pruned(definition, false))
}

/// Definition of a volume in the shape of the file, without its name.
pub(super) fn volume_definition(volume: &Volume) -> Value {
    let driver = volume.driver.as_deref().filter(|driver| *driver != "local");
    let definition = json!({
        "driver": driver,
        "driver_opts": volume.driver_opts,
        "labels": volume.labels,
    });
    sorted(pruned(definition, false))
}

/// Definition of what is not ours to define.
pub(super) fn external_definition() -> Value {
    json!({ "external": true })
}

fn own_labels_removed(labels: &BTreeMap<String, String>) -> Value {
    let own = labels
        .iter()
        .filter(|(key, _)| !key.starts_with(OWN_LABELS));
    Value::Object(
        own.map(|(key, value)| (key.clone(), value.clone().into()))
            .collect(),
    )
}

/// Removes what is empty at any depth, but not the entries of maps with keys of the user's.
fn pruned(value: Value, is_user_map: bool) -> Value {
    match value {
        Value::Object(map) => {
            let kept: Map<String, Value> = map
                .into_iter()
                .filter_map(|(key, value)| {
                    let value = pruned(value, USER_MAPS.contains(&key.as_str()));
                    if is_user_map {
                        let is_bare = value.as_object().is_some_and(Map::is_empty);
                        return Some((key, if is_bare { Value::Null } else { value }));
                    }
                    let is_default = matches!(key.as_str(), "priority" | "gw_priority")
                        && value.as_i64() == Some(0);
                    (!is_empty(&value) && !is_default).then_some((key, value))
                })
                .collect();
            Value::Object(kept)
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| pruned(item, false)).collect())
        }
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let by_key: BTreeMap<String, Value> = map
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(by_key.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::model::{Deploy, Mount, ServiceNetwork};

    #[test]
    fn a_service_without_attributes_has_an_empty_definition() {
        let service = Service {
            name: "web".into(),
            scale: Some(3),
            deploy: Some(Deploy {
                replicas: Some(3),
                ..Deploy::default()
            }),
            ..Service::default()
        };
        assert_eq!(service_definition(&service), json!({}));
    }

    #[test]
    fn empty_values_of_the_user_are_kept() {
        let service = Service {
            environment: IndexMap::from([
                ("UNSET".into(), None),
                ("EMPTY".into(), Some(String::new())),
            ]),
            command: Some(Vec::new()),
            networks: IndexMap::from([("back".into(), Some(ServiceNetwork::default()))]),
            ..Service::default()
        };
        assert_eq!(
            service_definition(&service),
            json!({
                "command": [],
                "environment": { "EMPTY": "", "UNSET": null },
                "networks": { "back": null },
            })
        );
    }

    #[test]
    fn defaults_inside_an_attribute_are_left_out() {
        let service = Service {
            volumes: vec![Mount {
                source: Some("data".into()),
                target: "/data".into(),
                ..Mount::default()
            }],
            ..Service::default()
        };
        assert_eq!(
            service_definition(&service),
            json!({ "volumes": [{ "source": "data", "target": "/data", "type": "volume" }] })
        );
    }

    #[test]
    fn the_default_driver_and_labels_of_compose_do_not_define_a_network() {
        let spec = NetworkSpec {
            name: "shop_back".into(),
            driver: Some("bridge".into()),
            internal: true,
            labels: BTreeMap::from([
                ("com.docker.compose.project".into(), "shop".into()),
                ("tier".into(), "back".into()),
            ]),
            ..NetworkSpec::default()
        };
        assert_eq!(
            network_definition(&spec),
            json!({ "internal": true, "labels": { "tier": "back" } })
        );
    }
}
