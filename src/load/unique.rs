//! Items of a list that speak of the same thing: the later one takes the place of the earlier.

use std::collections::HashMap;

use super::schema::{Schema, Unique};
use crate::model::parse_mount;
use crate::yaml::{Node, Value};

/// Enforces uniqueness in a whole tree.
pub(super) fn enforce(node: &mut Node, schema: Option<&'static Schema>) {
    let Some(schema) = schema else { return };
    match &mut node.value {
        Value::Mapping(mapping) => {
            for (key, entry) in mapping.iter_mut() {
                enforce(&mut entry.value, schema.child(key));
            }
        }
        Value::Sequence(items) => {
            if schema.unique != Unique::No {
                let taken = std::mem::take(items);
                *items = deduplicate(taken, schema.unique);
            }
            for item in items {
                enforce(item, schema.items);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Unsigned(_)
        | Value::Float(_)
        | Value::String(_) => {}
    }
}

fn deduplicate(items: Vec<Node>, unique: Unique) -> Vec<Node> {
    let mut kept: Vec<Node> = Vec::with_capacity(items.len());
    let mut places: HashMap<String, usize> = HashMap::with_capacity(items.len());
    for mut item in items {
        // What has no key is wrong in another way, which the checks report.
        let Some(key) = key(&item, unique) else {
            kept.push(item);
            continue;
        };
        if let Some(place) = places.get(&key) {
            item.overrides(&kept[*place]);
            kept[*place] = item;
        } else {
            places.insert(key, kept.len());
            kept.push(item);
        }
    }
    kept
}

fn key(item: &Node, unique: Unique) -> Option<String> {
    let text = item.as_str();
    let owned = |text: &str| Some(text.to_owned());
    match unique {
        Unique::No => None,
        Unique::Key => owned(text?.split('=').next()?),
        Unique::Text => item.scalar_text(),
        Unique::MountTarget => match text {
            Some(text) => parse_mount(text).ok().map(|short| short.mount.target),
            None => owned(item.text("target")?),
        },
        Unique::DeviceTarget => match text {
            Some(text) => {
                let mut parts = text.split(':');
                let source = parts.next()?;
                owned(parts.next().unwrap_or(source))
            }
            None => owned(item.text("target")?),
        },
        Unique::Path => match text {
            Some(text) => owned(text),
            None => owned(item.text("path")?),
        },
        Unique::Config => reference_key(item, ""),
        Unique::Secret => reference_key(item, "/run/secrets"),
        Unique::Port => port_key(item),
    }
}

fn reference_key(item: &Node, directory: &str) -> Option<String> {
    match item.as_str() {
        Some(source) => Some(format!("{directory}/{source}")),
        None => item.text("target").map(str::to_owned).or_else(|| {
            let source = item.text("source")?;
            Some(format!("{directory}/{source}"))
        }),
    }
}

fn port_key(item: &Node) -> Option<String> {
    if item.as_mapping().is_none() {
        return item.scalar_text();
    }
    let part = |key: &str| item.get(key).and_then(Node::scalar_text);
    let target = part("target")?;
    let host = part("host_ip").unwrap_or_else(|| "0.0.0.0".to_owned());
    let published = part("published").unwrap_or_default();
    let protocol = part("protocol").unwrap_or_else(|| "tcp".to_owned());
    Some(format!("{host}:{published}:{target}/{protocol}"))
}
