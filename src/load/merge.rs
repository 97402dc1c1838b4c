//! How a later file joins an earlier one, and what `!reset` takes away first.

use super::diagnostic::Problem;
use super::path::Path;
use super::schema::{Merge, Schema};
use super::session::Session;
use crate::yaml::{Entry, Mapping, Node, Span, Value};

/// Drops from `base` everything that `!reset` or `!override` marks in `over`.
pub(super) fn reset(base: &mut Node, over: &mut Node, marks: &[Vec<String>]) {
    for mark in marks {
        reset_one(base, Some(over), mark);
    }
}

fn reset_one(base: &mut Node, over: Option<&mut Node>, mark: &[String]) {
    let Some(mapping) = base.as_mapping_mut() else {
        return;
    };
    let Some((key, rest)) = mark.split_first() else {
        return;
    };
    let over = over.and_then(|over| over.get_mut(key));
    if rest.is_empty() {
        if let (Some(dropped), Some(over)) = (mapping.remove(key), over) {
            over.overrides(&dropped);
        }
    } else if let Some(child) = mapping.get_mut(key) {
        reset_one(child, over, rest);
    }
}

/// As [`reset`], for nodes that stand at `prefix` in the marked tree.
pub(super) fn reset_below(
    base: &mut Node,
    over: &mut Node,
    prefix: &[&str],
    marks: &[Vec<String>],
) {
    for mark in marks {
        let below = mark.len() > prefix.len()
            && mark.iter().zip(prefix).all(|(step, wanted)| step == wanted);
        if below {
            reset_one(base, Some(over), &mark[prefix.len()..]);
        }
    }
}

/// Merges `over` into `base`.
pub(super) fn merge(
    session: &mut Session<'_>,
    base: &mut Node,
    over: Node,
    schema: Option<&'static Schema>,
    path: &Path<'_>,
) {
    let rule = schema.map_or(Merge::Deep, |schema| schema.merge);
    match rule {
        Merge::Replace => replace(base, over),
        Merge::Sequence => {
            let over = into_sequence(over);
            to_sequence(base);
            append(base, over);
        }
        Merge::Hosts => {
            to_sequence(base);
            let mut over = into_sequence(over);
            if let Some(items) = base.as_sequence() {
                over.retain(|item| !items.contains(item));
            }
            append(base, over);
        }
        Merge::Build => {
            let context = |node: Node| match node.value {
                Value::String(_) => {
                    let span = node.span;
                    let mut mapping = Mapping::new();
                    mapping.set("context", node);
                    Node::mapping(mapping, span)
                }
                _ => node,
            };
            *base = context(std::mem::take(base));
            deep(session, base, context(over), schema, path);
        }
        Merge::Dependencies => {
            names_to_mapping(base, default_dependency);
            let mut over = over;
            names_to_mapping(&mut over, default_dependency);
            deep(session, base, over, schema, path);
        }
        Merge::Names => {
            let nothing = |span| Node::new(Value::Null, span);
            names_to_mapping(base, nothing);
            let mut over = over;
            names_to_mapping(&mut over, nothing);
            deep(session, base, over, schema, path);
        }
        Merge::Logging => {
            let differs = match (base.get("driver"), over.get("driver")) {
                (Some(left), Some(right)) => left != right,
                _ => false,
            };
            if differs {
                replace(base, over);
            } else {
                deep(session, base, over, schema, path);
            }
        }
        Merge::Pools => pools(session, base, over, schema, path),
        Merge::Deep => deep(session, base, over, schema, path),
    }
}

fn deep(
    session: &mut Session<'_>,
    base: &mut Node,
    over: Node,
    schema: Option<&'static Schema>,
    path: &Path<'_>,
) {
    if over.is_null() {
        return;
    }
    match (&mut base.value, over.value) {
        (Value::Mapping(mapping), Value::Mapping(entries)) => {
            for (key, entry) in entries {
                if let Some(value) = mapping.get_mut(&key) {
                    let schema = schema.and_then(|schema| schema.child(&key));
                    merge(session, value, entry.value, schema, &path.key(&key));
                } else {
                    mapping.insert(key, entry);
                }
            }
        }
        (Value::Sequence(items), Value::Sequence(more)) => items.extend(more),
        (Value::Mapping(_) | Value::Sequence(_), value) => {
            let over = Node {
                span: over.span,
                value,
                overridden: None,
            };
            session.error(
                Problem::error(format!(
                    "`{path}` is {} here, which cannot override {}",
                    over.kind(),
                    base.kind()
                ))
                .at(over.span)
                .label(base.span, format!("{} here", base.kind()))
                .hint(
                    "write it in the same form, or put `!override` before it to replace the other",
                ),
            );
        }
        (_, value) => {
            let over = Node {
                span: over.span,
                value,
                overridden: over.overridden,
            };
            replace(base, over);
        }
    }
}

fn replace(base: &mut Node, mut over: Node) {
    over.overrides(base);
    *base = over;
}

fn append(base: &mut Node, more: Vec<Node>) {
    if let Some(items) = base.as_sequence_mut() {
        items.extend(more);
    }
}

/// Turns a mapping into a list of `KEY=VALUE`, a text into a list of one.
fn to_sequence(node: &mut Node) {
    let span = node.span;
    let items = into_sequence(std::mem::take(node));
    *node = Node::sequence(items, span);
}

fn into_sequence(node: Node) -> Vec<Node> {
    let span = node.span;
    match node.value {
        Value::Sequence(items) => items,
        Value::String(_) => vec![Node { span, ..node }],
        Value::Mapping(mapping) => {
            let mut items: Vec<(String, Node)> = Vec::with_capacity(mapping.len());
            for (key, Entry { value, .. }) in mapping {
                let mut pair = |value: &Node| {
                    let text = value
                        .scalar_text()
                        .map_or_else(|| key.clone(), |text| format!("{key}={text}"));
                    let mut item = Node::string(text.clone(), value.span);
                    item.overridden.clone_from(&value.overridden);
                    items.push((text, item));
                };
                match value.as_sequence() {
                    Some(values) => values.iter().for_each(&mut pair),
                    None => pair(&value),
                }
            }
            items.sort_by(|left, right| left.0.cmp(&right.0));
            items.into_iter().map(|(_, item)| item).collect()
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => {
            Vec::new()
        }
    }
}

/// Turns a list of names into a mapping from each to a default.
pub(super) fn names_to_mapping(node: &mut Node, default: impl Fn(Span) -> Node) {
    let Some(items) = node.as_sequence() else {
        return;
    };
    // What is no name stays for the check of the schema to find.
    if items.iter().any(|item| item.as_str().is_none()) {
        return;
    }
    let mapping: Mapping = items
        .iter()
        .filter_map(|item| {
            let name = item.as_str()?.to_owned();
            let entry = Entry {
                key: item.span,
                value: default(item.span),
            };
            Some((name, entry))
        })
        .collect();
    *node = Node::mapping(mapping, node.span);
}

/// What a service depends on if it only names it.
pub(super) fn default_dependency(span: Span) -> Node {
    let mut mapping = Mapping::new();
    mapping.set("condition", Node::string("service_started", span));
    mapping.set("required", Node::boolean(true, span));
    Node::mapping(mapping, span)
}

/// The later pools, each over the earlier one of the same subnet; subnets that only the earlier file has
/// are gone, as a network would get both otherwise.
fn pools(
    session: &mut Session<'_>,
    base: &mut Node,
    over: Node,
    schema: Option<&'static Schema>,
    path: &Path<'_>,
) {
    let items = schema.and_then(|schema| schema.items);
    let (Value::Sequence(pools), Value::Sequence(_)) = (&mut base.value, &over.value) else {
        deep(session, base, over, schema, path);
        return;
    };
    let mut earlier = std::mem::take(pools);
    let Value::Sequence(later) = over.value else {
        return;
    };
    for (index, pool) in later.into_iter().enumerate() {
        let same = earlier
            .iter()
            .position(|other| other.get("subnet") == pool.get("subnet"));
        let merged = match same {
            Some(at) => {
                let mut merged = earlier.swap_remove(at);
                deep(session, &mut merged, pool, items, &path.index(index));
                merged
            }
            None => pool,
        };
        if let Some(pools) = base.as_sequence_mut() {
            pools.push(merged);
        }
    }
}
