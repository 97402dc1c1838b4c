//! The canonical tree as `config` prints it: attributes in a fixed order, nothing that is empty.

use super::schema::{Form, Keep, ROOT, Schema};
use crate::model::{Duration, Project};
use crate::yaml::{Entry, Mapping, Node, Span, Value, sort_keys};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// The view of a project that is printed.
pub(super) fn project(tree: &Node, project: &Project, format: Format) -> Node {
    let mut view = object(tree, &ROOT, format);
    if let Some(view) = view.as_mapping_mut() {
        let span = tree.get("name").map_or(Span::NONE, |name| name.span);
        view.set("name", Node::string(&project.name, span));
        if format == Format::Json {
            *view = sorted(std::mem::take(view), format);
        } else if let Some(name) = view.remove("name") {
            let rest = std::mem::take(view);
            view.set("name", name);
            for (key, entry) in rest {
                view.insert(key, entry);
            }
            // Extensions come last.
        }
    }
    view
}

/// The entries in the order in which the reference prints the user's keys.
fn sorted(mapping: Mapping, format: Format) -> Mapping {
    let mut entries: Vec<_> = mapping.into_iter().collect();
    match format {
        Format::Yaml => entries = sort_keys(entries),
        Format::Json => entries.sort_by(|left, right| left.0.cmp(&right.0)),
    }
    entries.into_iter().collect()
}

fn object(node: &Node, schema: &'static Schema, format: Format) -> Node {
    let mut view = Mapping::new();
    let empty = Mapping::new();
    let mapping = node.as_mapping().unwrap_or(&empty);
    for field in schema.fields {
        let value = mapping.get(field.name);
        let printed = value.map(|value| render(value, &field.schema, format));
        let printed = match (field.keep, printed) {
            (Keep::Never, _)
            | (Keep::NotEmpty | Keep::OnlyYaml | Keep::IfSet | Keep::NotTrue, None) => None,
            (Keep::OnlyYaml, _) if format == Format::Json => None,
            (Keep::NotEmpty | Keep::OnlyYaml, Some(printed)) => {
                (!value.is_none_or(is_empty)).then_some(printed)
            }
            (Keep::IfSet, Some(printed)) => (!printed.is_null()).then_some(printed),
            (Keep::NotTrue, Some(printed)) => (printed.as_bool() != Some(true)).then_some(printed),
            (Keep::Struct, printed) => match format {
                Format::Json => Some(
                    printed
                        .filter(|printed| !printed.is_null())
                        .unwrap_or_else(|| object(&Node::default(), &field.schema, format)),
                ),
                Format::Yaml => printed.filter(|printed| !is_empty(printed)),
            },
            (Keep::Command, printed) => match format {
                Format::Json => Some(printed.unwrap_or_default()),
                Format::Yaml => printed.filter(|printed| !printed.is_null()),
            },
            (Keep::Always, printed) => Some(printed.unwrap_or_else(|| zero(&field.schema))),
        };
        if let Some(printed) = printed {
            let name = match format {
                Format::Yaml => field.name,
                Format::Json => field.json_name,
            };
            view.set(name, printed);
        }
    }
    let is_root = std::ptr::eq(schema, &raw const ROOT);
    if schema.extensible && (format == Format::Yaml || is_root) {
        let extensions = mapping
            .iter()
            .filter(|(key, _)| key.starts_with("x-"))
            .map(|(key, entry)| (key.to_owned(), &entry.value));
        for (key, value) in sort_keys(extensions.collect()) {
            view.set(&key, plain(value, format));
        }
    }
    Node::mapping(view, node.span)
}

/// What is printed for an attribute that is always there but was not written.
fn zero(schema: &Schema) -> Node {
    let value = match schema.form {
        Form::Integer | Form::Unsigned => Value::Int(0),
        Form::Bytes | Form::UnsignedBytes => Value::String("0".to_owned()),
        Form::Raw => Value::Mapping(Mapping::new()),
        _ => Value::String(String::new()),
    };
    Node::new(value, Span::NONE)
}

fn render(node: &Node, schema: &'static Schema, format: Format) -> Node {
    let mut printed = render_value(node, schema, format);
    printed.span = node.span;
    printed.overridden.clone_from(&node.overridden);
    printed
}

fn render_value(node: &Node, schema: &'static Schema, format: Format) -> Node {
    let text = |text: String| Node::string(text, node.span);
    match (schema.form, &node.value) {
        // A resource of which nothing is said is still a resource.
        (_, Value::Null) if schema.printed_if_null => object(node, schema, format),
        (_, Value::Null) => Node::default(),
        (Form::Duration, Value::Int(nanoseconds)) => text(Duration(*nanoseconds).to_string()),
        (Form::Bytes | Form::UnsignedBytes, Value::Int(bytes)) => text(bytes.to_string()),
        (Form::Mode, Value::Int(mode)) => text(format!("0{mode:o}")),
        (Form::Hosts, Value::Mapping(hosts)) => {
            let mut lines: Vec<(String, Span)> = hosts
                .iter()
                .flat_map(|(host, entry)| {
                    let addresses = entry.value.as_sequence().unwrap_or_default().iter();
                    addresses.map(move |address| {
                        let line = format!("{host}={}", address.as_str().unwrap_or_default());
                        (line, address.span)
                    })
                })
                .collect();
            lines.sort();
            let items = lines
                .into_iter()
                .map(|(line, span)| Node::string(line, span))
                .collect();
            Node::sequence(items, Span::NONE)
        }
        (Form::Ssh, Value::Mapping(keys)) => {
            let keys = sorted(keys.clone(), format);
            let items = keys
                .iter()
                .map(|(id, entry)| match entry.value.as_str() {
                    Some(path) => text(format!("{id}={path}")),
                    None => text(id.to_owned()),
                })
                .collect();
            Node::sequence(items, Span::NONE)
        }
        (Form::Ulimit, Value::Int(0)) => Node::mapping(Mapping::new(), Span::NONE),
        (_, Value::Sequence(items)) => {
            let items = items
                .iter()
                .map(|item| match schema.items {
                    Some(schema) => render(item, schema, format),
                    None => plain(item, format),
                })
                .collect();
            Node::sequence(items, Span::NONE)
        }
        (_, Value::Mapping(mapping)) => match schema.entries {
            Some((schema, _)) => {
                let mapping = mapping
                    .iter()
                    .map(|(key, entry)| {
                        let entry = Entry {
                            key: Span::NONE,
                            value: render(&entry.value, schema, format),
                        };
                        (key.to_owned(), entry)
                    })
                    .collect();
                Node::mapping(sorted(mapping, format), Span::NONE)
            }
            None if schema.fields.is_empty() => plain(node, format),
            None => object(node, schema, format),
        },
        _ => Node::new(node.value.clone(), Span::NONE),
    }
}

/// A value of the user's own, with its keys in order.
pub(super) fn plain(node: &Node, format: Format) -> Node {
    let value = match &node.value {
        Value::Sequence(items) => {
            Value::Sequence(items.iter().map(|item| plain(item, format)).collect())
        }
        Value::Mapping(mapping) => {
            let mapping: Mapping = mapping
                .iter()
                .map(|(key, entry)| {
                    let entry = Entry {
                        key: Span::NONE,
                        value: plain(&entry.value, format),
                    };
                    (key.to_owned(), entry)
                })
                .collect();
            Value::Mapping(sorted(mapping, format))
        }
        other => other.clone(),
    };
    Node {
        span: node.span,
        value,
        overridden: node.overridden.clone(),
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) | Value::Int(0) => true,
        Value::Bool(true) | Value::Int(_) | Value::Unsigned(_) => false,
        Value::Float(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(mapping) => mapping.is_empty(),
    }
}
