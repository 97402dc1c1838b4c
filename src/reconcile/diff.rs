//! What differs between the container that exists and the one that is wanted, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::plan::Reason;
use crate::container::Desired;

/// Stands for values that are not shown.
pub const HIDDEN: &str = "(changed)";

/// What a difference takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The running container is changed.
    InPlace,
    /// The same container is started again.
    Restart,
    /// A new container takes its place.
    Recreate,
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Always [`Reason::Changed`].
    pub reason: Reason,
    pub class: Class,
}

/// Attributes that a running container takes over, or that do not reach the container at all.
const IN_PLACE: [&str; 23] = [
    "attach",
    "blkio_config.weight",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "deploy",
    "develop",
    "env_file",
    "healthcheck",
    "label_file",
    "labels",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "pids_limit",
    "post_start",
    "pre_stop",
    "restart",
    "stop_grace_period",
];

/// Exceptions to [`IN_PLACE`].
const NOT_IN_PLACE: [&str; 1] = ["deploy.resources.reservations.devices"];

/// Words in a key that make its value secret.
const SECRET_WORDS: [&str; 9] = [
    "AUTH",
    "CREDENTIAL",
    "KEY",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE",
    "SECRET",
    "TOKEN",
];

/// Compares two definitions of a container. What `new` cannot know yet (an empty image digest) does not differ.
pub fn diff(old: &Desired, new: &Desired) -> Vec<Difference> {
    let mut changes = Vec::new();
    walk(
        String::new(),
        Some(&old.config),
        Some(&new.config),
        &mut changes,
    );
    let roots: BTreeSet<String> = changes
        .iter()
        .map(|change| root(&change.path).into())
        .collect();
    let is_covered = |attributes: &[&str]| attributes.iter().any(|name| roots.contains(*name));

    if !is_covered(&["image"]) && !new.image.is_empty() && old.image != new.image {
        changes.push(Change::new("image", text(&old.image), text(&new.image)));
    }
    if !is_covered(&["container_name"]) && old.name != new.name {
        changes.push(Change::new(
            "container_name",
            text(&old.name),
            text(&new.name),
        ));
    }
    if !is_covered(&["networks", "network_mode"]) {
        changes_by_name(
            "networks",
            &old.project,
            &old.networks,
            &new.networks,
            true,
            &mut changes,
        );
    }
    if !is_covered(&["volumes"]) {
        changes_by_name(
            "volumes",
            &old.project,
            &old.volumes,
            &new.volumes,
            false,
            &mut changes,
        );
    }
    for role in keys(&old.parents, &new.parents) {
        let (before, after) = (old.parents.get(role), new.parents.get(role));
        if before != after && !is_covered(&[root(role)]) {
            let value = |name: Option<&String>| name.and_then(|name| text(name));
            changes.push(Change::new(role, value(before), value(after)));
        }
    }
    let mut differences: Vec<Difference> = changes
        .into_iter()
        .map(|change| change.classed(class))
        .collect();
    for key in keys(&old.contents, &new.contents) {
        let (before, after) = (old.contents.get(key), new.contents.get(key));
        if before != after && !is_covered(&[root(key)]) {
            let value = |digest: Option<&String>| digest.and_then(|digest| text(short(digest)));
            let path = format!("{key} (content)");
            let change = Change::new(&path, value(before), value(after));
            differences.push(change.classed(|_| Class::Restart));
        }
    }
    differences
}

/// The strongest of `differences`.
pub fn strongest(differences: &[Difference]) -> Option<Class> {
    differences.iter().map(|difference| difference.class).max()
}

/// Compares two pieces of JSON, as the definitions of a network.
pub fn value_changes(path: &str, old: &Value, new: &Value) -> Vec<Reason> {
    let mut changes = Vec::new();
    walk(path.into(), Some(old), Some(new), &mut changes);
    changes
        .into_iter()
        .map(|change| change.classed(class).reason)
        .collect()
}

/// Takes values out of `reasons` that look secret by their key or that hold a password in a URL.
pub fn mask_secrets(reasons: &mut [Reason]) {
    for reason in reasons {
        let Reason::Changed { path, old, new } = reason else {
            continue;
        };
        let is_secret = path.starts_with("secrets.") || path.split('.').any(is_secret_name);
        if is_secret || [&*old, &*new].into_iter().flatten().any(has_password) {
            *old = None;
            *new = Some(HIDDEN.into());
        } else {
            for value in [old, new].into_iter().flatten() {
                mask_value(value);
            }
        }
    }
}

fn mask_value(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_secret_name(key) || has_password(value) {
                    *value = HIDDEN.into();
                } else {
                    mask_value(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_value),
        _ => {}
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Whether it is or holds a string like `postgres://user:password@host`.
fn has_password(value: &Value) -> bool {
    match value {
        Value::String(text) => text
            .split_once("://")
            .and_then(|(_, rest)| rest.split('/').next())
            .and_then(|authority| authority.rsplit_once('@'))
            .is_some_and(|(user, _)| user.contains(':')),
        Value::Array(items) => items.iter().any(has_password),
        _ => false,
    }
}

struct Change {
    path: String,
    old: Option<Value>,
    new: Option<Value>,
}

impl Change {
    fn new(path: &str, old: Option<Value>, new: Option<Value>) -> Self {
        Self {
            path: path.into(),
            old,
            new,
        }
    }

    fn classed(self, class: impl Fn(&str) -> Class) -> Difference {
        Difference {
            class: class(&self.path),
            reason: Reason::Changed {
                path: self.path,
                old: self.old,
                new: self.new,
            },
        }
    }
}

fn class(path: &str) -> Class {
    let is_in = |attributes: &[&str]| {
        attributes.iter().any(|attribute| {
            let rest = path.strip_prefix(attribute);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    if path == "stop_signal" || is_in(&IN_PLACE) && !is_in(&NOT_IN_PLACE) {
        Class::InPlace
    } else {
        Class::Recreate
    }
}

fn walk(path: String, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let empty = Map::new();
    if let (Some(old), Some(new)) = (as_map(old, &empty), as_map(new, &empty))
        && !(old.is_empty() && new.is_empty())
    {
        for key in new
            .keys()
            .chain(old.keys().filter(|key| !new.contains_key(*key)))
        {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            walk(path, old.get(key), new.get(key), changes);
        }
        return;
    }
    if let (Some(old), Some(new)) = (as_list(old), as_list(new))
        && old.iter().chain(new).any(Value::is_object)
    {
        walk_lists(&path, old, new, changes);
        return;
    }
    changes.push(Change {
        path,
        old: old.cloned(),
        new: new.cloned(),
    });
}

fn as_map<'a>(
    value: Option<&'a Value>,
    empty: &'a Map<String, Value>,
) -> Option<&'a Map<String, Value>> {
    match value {
        Some(Value::Object(map)) => Some(map),
        None | Some(Value::Null) => Some(empty),
        _ => None,
    }
}

fn as_list(value: Option<&Value>) -> Option<&[Value]> {
    match value {
        Some(Value::Array(items)) => Some(items),
        None => Some(&[]),
        _ => None,
    }
}

/// Pairs equal entries, then those with the same target or source, and reports what is left as gone or come.
fn walk_lists(path: &str, old: &[Value], new: &[Value], changes: &mut Vec<Change>) {
    let mut free: Vec<Option<&Value>> = old.iter().map(Some).collect();
    let mut take = |is_match: &dyn Fn(&Value) -> bool| {
        let found = free.iter_mut().find(|entry| entry.is_some_and(is_match));
        found.and_then(Option::take)
    };
    let mut pairs: Vec<Option<&Value>> = new
        .iter()
        .map(|entry| take(&|candidate| candidate == entry))
        .collect();
    for identity in ["target", "source", "path"] {
        for (entry, pair) in new.iter().zip(&mut pairs) {
            if pair.is_none() && entry.get(identity).is_some() {
                *pair = take(&|candidate| candidate.get(identity) == entry.get(identity));
            }
        }
    }
    for (index, (entry, pair)) in new.iter().zip(pairs).enumerate() {
        let path = format!("{path}[{index}]");
        match pair {
            Some(before) => walk(path, Some(before), Some(entry), changes),
            None => changes.push(Change::new(&path, None, Some(entry.clone()))),
        }
    }
    for (index, gone) in free.into_iter().enumerate() {
        if let Some(gone) = gone {
            changes.push(Change::new(
                &format!("{path}[{index}]"),
                Some(gone.clone()),
                None,
            ));
        }
    }
}

fn changes_by_name(
    kind: &str,
    project: &str,
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
    with_definitions: bool,
    changes: &mut Vec<Change>,
) {
    let key = |name: &str| {
        let key = name
            .strip_prefix(project)
            .and_then(|rest| rest.strip_prefix('_'));
        format!("{kind}.{}", key.unwrap_or(name))
    };
    for name in keys(old, new) {
        match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if with_definitions => {
                walk(key(name), Some(before), Some(after), changes);
            }
            (Some(_), Some(_)) => {}
            (before, after) => {
                let value = |present: Option<&Value>| present.and_then(|_| text(name));
                changes.push(Change::new(&key(name), value(before), value(after)));
            }
        }
    }
}

fn keys<'a, V>(old: &'a BTreeMap<String, V>, new: &'a BTreeMap<String, V>) -> BTreeSet<&'a String> {
    old.keys().chain(new.keys()).collect()
}

/// `environment` of `environment.LEVEL`, `ports` of `ports[0].published`.
fn root(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn text(value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use serde_json::json;

    use super::*;
    use crate::model::{BlkioConfig, Healthcheck, Port, Service, ServiceNetwork};
    use crate::reconcile::definition::service_definition;

    fn desired(service: &Service) -> Desired {
        Desired {
            project: "shop".into(),
            name: "shop-web-1".into(),
            config: service_definition(service),
            image: "sha256:1".into(),
            ..Desired::default()
        }
    }

    fn differences(old: &Service, new: &Service) -> Vec<(String, Class)> {
        found(&desired(old), &desired(new))
    }

    fn found(old: &Desired, new: &Desired) -> Vec<(String, Class)> {
        let path = |difference: Difference| match difference.reason {
            Reason::Changed { path, .. } => (path, difference.class),
            other => panic!("{other:?}"),
        };
        diff(old, new).into_iter().map(path).collect()
    }

    fn port(published: &str, target: u16) -> Port {
        Port {
            target,
            published: Some(published.into()),
            protocol: "tcp".into(),
            ..Port::default()
        }
    }

    #[test]
    fn a_definition_does_not_differ_from_itself_after_a_journey_through_json() {
        let service = Service {
            cpus: Some(0.1 + 0.2),
            ports: vec![port("80", 80)],
            ..Service::default()
        };
        let new = desired(&service);
        let old = serde_json::from_str(&serde_json::to_string(&new).unwrap()).unwrap();
        assert_eq!(diff(&old, &new), []);
    }

    #[test]
    fn paths_are_those_of_the_file() {
        let old = Service {
            environment: IndexMap::from([("LEVEL".into(), Some("a".into()))]),
            ports: vec![port("80", 80), port("90", 90)],
            networks: IndexMap::from([("back".into(), None)]),
            ..Service::default()
        };
        let mut new = old.clone();
        new.environment.insert("LEVEL".into(), Some("b".into()));
        new.environment.insert("UNSET".into(), None);
        new.ports = vec![port("81", 80), port("90", 90), port("91", 91)];
        let aliases = vec!["db".into()];
        let network = ServiceNetwork {
            aliases,
            ..ServiceNetwork::default()
        };
        new.networks.insert("back".into(), Some(network));
        let paths: Vec<String> = differences(&old, &new)
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert_eq!(
            paths,
            [
                "environment.LEVEL",
                "environment.UNSET",
                "networks.back.aliases",
                "ports[0].published",
                "ports[2]",
            ]
        );
    }

    #[test]
    fn an_entry_that_goes_does_not_make_the_others_differ() {
        let old = Service {
            ports: vec![port("80", 80), port("90", 90), port("91", 91)],
            ..Service::default()
        };
        let new = Service {
            ports: old.ports[1..].to_vec(),
            ..Service::default()
        };
        assert_eq!(
            differences(&old, &new),
            [("ports[0]".into(), Class::Recreate)]
        );
    }

    #[test]
    fn what_a_running_container_takes_over_is_in_place() {
        let new = Service {
            cpus: Some(2.0),
            restart: Some("always".into()),
            healthcheck: Some(Healthcheck {
                retries: Some(3),
                ..Healthcheck::default()
            }),
            stop_signal: Some("SIGINT".into()),
            ..Service::default()
        };
        let found = differences(&Service::default(), &new);
        assert_eq!(found.len(), 4);
        assert!(
            found.iter().all(|(_, class)| *class == Class::InPlace),
            "{found:?}"
        );
    }

    #[test]
    fn a_name_that_only_begins_alike_is_not_in_place() {
        let new = Service {
            cpu_count: Some(2),
            label_file: vec!["a".into()],
            logging: Some(crate::model::Logging {
                driver: Some("none".into()),
                ..crate::model::Logging::default()
            }),
            blkio_config: Some(BlkioConfig {
                weight: Some(10),
                device_read_bps: vec![crate::model::ThrottleDevice::default()],
                ..BlkioConfig::default()
            }),
            ..Service::default()
        };
        assert_eq!(
            differences(&Service::default(), &new),
            [
                ("blkio_config.device_read_bps[0]".into(), Class::Recreate),
                ("blkio_config.weight".into(), Class::InPlace),
                ("cpu_count".into(), Class::Recreate),
                ("label_file".into(), Class::InPlace),
                ("logging.driver".into(), Class::Recreate),
            ]
        );
    }

    #[test]
    fn content_takes_a_restart() {
        let old = desired(&Service::default());
        let mut new = old.clone();
        new.contents
            .insert("configs.app.conf".into(), "0123456789abcdef".into());
        assert_eq!(
            found(&old, &new),
            [("configs.app.conf (content)".into(), Class::Restart)]
        );
        let [Difference { reason, .. }] = &diff(&old, &new)[..] else {
            panic!("one difference");
        };
        let expected = Reason::Changed {
            path: "configs.app.conf (content)".into(),
            old: None,
            new: Some("0123456789ab".into()),
        };
        assert_eq!(*reason, expected);
    }

    #[test]
    fn a_digest_that_is_not_known_yet_does_not_differ() {
        let old = desired(&Service::default());
        let mut new = old.clone();
        new.image = String::new();
        assert_eq!(found(&old, &new), []);
        new.image = "sha256:2".into();
        assert_eq!(found(&old, &new), [("image".into(), Class::Recreate)]);
    }

    #[test]
    fn definitions_of_networks_count_and_those_of_volumes_do_not() {
        let mut old = desired(&Service::default());
        old.networks.insert("shop_back".into(), json!({}));
        old.volumes.insert("shop_data".into(), json!({}));
        let mut new = old.clone();
        new.networks
            .insert("shop_back".into(), json!({ "internal": true }));
        new.volumes
            .insert("shop_data".into(), json!({ "driver": "x" }));
        assert_eq!(
            found(&old, &new),
            [("networks.back.internal".into(), Class::Recreate)]
        );
    }

    #[test]
    fn secrets_are_hidden_by_key_and_by_look() {
        let change = |path: &str, new: Value| Reason::Changed {
            path: path.into(),
            old: Some("old".into()),
            new: Some(new),
        };
        let hidden = |path: &str| Reason::Changed {
            path: path.into(),
            old: None,
            new: Some(HIDDEN.into()),
        };
        let mut reasons = [
            change("environment.DB_PASSWORD", "hunter2".into()),
            change("environment.api-token", "t".into()),
            change(
                "environment.DATABASE_URL",
                "postgres://me:hunter2@db/shop".into(),
            ),
            change("environment.SITE", "https://shop.example/a@b".into()),
            change(
                "post_start[0]",
                json!({ "environment": { "API_KEY": "k", "LEVEL": "1" } }),
            ),
            change("secrets.token (content)", "0123".into()),
        ];
        mask_secrets(&mut reasons);
        assert_eq!(
            reasons,
            [
                hidden("environment.DB_PASSWORD"),
                hidden("environment.api-token"),
                hidden("environment.DATABASE_URL"),
                change("environment.SITE", "https://shop.example/a@b".into()),
                change(
                    "post_start[0]",
                    json!({ "environment": { "API_KEY": HIDDEN, "LEVEL": "1" } })
                ),
                hidden("secrets.token (content)"),
            ]
        );
    }
}
