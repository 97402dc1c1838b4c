//! What differs between the container that exists and the one that is wanted, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::plan::Reason;
use crate::container::Desired;
use crate::model::OnChange;

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
            let class = match new.on_change.get(key) {
                None | Some(OnChange::Recreate) => Class::Recreate,
                Some(OnChange::Restart) => Class::Restart,
                Some(OnChange::Signal(_)) => Class::InPlace,
            };
            differences.push(change.classed(|_| class));
        }
    }
    differences
}

/// How the contents that differ reach the container, where the file says so.
pub fn reactions<'a>(old: &Desired, new: &'a Desired) -> BTreeSet<&'a OnChange> {
    let changed = new
        .contents
        .iter()
        .filter(|(key, digest)| old.contents.get(*key) != Some(*digest));
    changed
        .filter_map(|(key, _)| new.on_change.get(key))
        .collect()
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
mod tests;
