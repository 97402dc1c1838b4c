//! Whether a tree has the shape of a Compose file.

use std::collections::HashMap;

use super::diagnostic::Problem;
use super::path::Path;
use super::schema::{Form, Pattern, ROOT, Schema, Types};
use super::session::Session;
use crate::yaml::{Entry, Mapping, Node, Span, Value};

/// Checks a whole document against the table and leaves out what is wrong, so that the phases behind
/// this one can go on with what is intact.
pub(super) fn document(session: &mut Session<'_>, root: &mut Node) {
    check(session, root, &ROOT, &Path::ROOT);
}

/// Checks a value; returns whether it can stay.
fn check(
    session: &mut Session<'_>,
    node: &mut Node,
    schema: &'static Schema,
    path: &Path<'_>,
) -> bool {
    if !accepts(schema.types, &node.value) {
        let problem = Problem::error(format!(
            "`{path}` must be {}, not {}",
            schema.types.describe(),
            found(node)
        ))
        .at(node.span);
        let problem = match type_hint(node, schema, path) {
            Some(hint) => problem.hint(hint),
            None => problem,
        };
        // A service that extends another of the same file has its values, too.
        session.last_error(problem, node.span);
        return false;
    }
    match &mut node.value {
        Value::Mapping(mapping) => {
            check_mapping(session, mapping, node.span, schema, path);
            true
        }
        Value::Sequence(items) => {
            if schema.distinct {
                check_distinct(session, items, path);
            }
            if let Some(schema) = schema.items {
                let mut index = 0;
                items.retain_mut(|item| {
                    let item_path = path.index(index);
                    index += 1;
                    let is_good = check(session, item, schema, &item_path);
                    if !is_good {
                        session.mark_broken(&item_path);
                    }
                    is_good
                });
            }
            true
        }
        Value::String(text) => check_text(session, node.span, text, schema, path),
        Value::Int(value) => {
            let value = *value;
            if let Some((least, most)) = schema.range
                && !(least..=most).contains(&value)
            {
                let wanted = if most == i64::MAX {
                    format!("at least {least}")
                } else {
                    format!("from {least} to {most}")
                };
                session.error(
                    Problem::error(format!("`{path}` must be {wanted}, not {value}")).at(node.span),
                );
                return false;
            }
            true
        }
        Value::Null | Value::Bool(_) | Value::Unsigned(_) | Value::Float(_) => true,
    }
}

fn accepts(types: Types, value: &Value) -> bool {
    types.allows(match value {
        Value::Null => Types::NULL,
        Value::Bool(_) => Types::BOOLEAN,
        Value::Int(_) | Value::Unsigned(_) => Types::INTEGER,
        Value::Float(value) if value.fract() == 0.0 => Types::INTEGER,
        Value::Float(_) => Types::FLOAT,
        Value::String(_) => Types::STRING,
        Value::Sequence(_) => Types::SEQUENCE,
        Value::Mapping(_) => Types::MAPPING,
    })
}

fn found(node: &Node) -> String {
    match &node.value {
        Value::Int(value) => format!("the integer {value}"),
        Value::Float(_) => "a number".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Null => "empty".to_owned(),
        Value::String(text) if text.len() <= 40 && !text.contains('\n') => {
            format!("the text `{text}`")
        }
        _ => node.kind().to_owned(),
    }
}

/// What would most likely put a value of the wrong kind right.
fn type_hint(node: &Node, schema: &Schema, path: &Path<'_>) -> Option<String> {
    let name = path.name();
    match &node.value {
        Value::Bool(_) if name == "restart" => {
            Some("write `always`, `unless-stopped`, `on-failure` or `\"no\"`".to_owned())
        }
        Value::Int(value) if schema.form == Form::Duration => {
            Some(format!("give it a unit: `{value}s`"))
        }
        Value::Int(_) | Value::Unsigned(_) | Value::Float(_) | Value::Bool(_)
            if schema.types.allows(Types::STRING) && schema.types != Types::ANY =>
        {
            Some(format!("quote it: \"{}\"", node.scalar_text()?))
        }
        Value::String(text)
            if schema.types.allows(Types::SEQUENCE) && !schema.types.allows(Types::STRING) =>
        {
            Some(format!("write a list: `{name}: [\"{text}\"]`"))
        }
        Value::Null if !name.is_empty() => Some(format!("give `{name}` a value or remove it")),
        _ => None,
    }
}

fn check_mapping(
    session: &mut Session<'_>,
    mapping: &mut Mapping,
    span: Span,
    schema: &'static Schema,
    path: &Path<'_>,
) {
    for required in schema.required {
        if !mapping.contains(required) {
            session.error(Problem::error(format!("`{path}` lacks `{required}`")).at(span));
            session.mark_broken(path);
        }
    }
    mapping.retain(|key, entry| {
        let place = path.key(key);
        if let Some(child) = schema.child(key) {
            if check(session, &mut entry.value, child, &place) {
                return true;
            }
            session.mark_broken(&place);
            // Others may still refer to a resource of which only the name is good.
            let is_resource = matches!(path.resource(), (Some(_), None));
            if is_resource {
                entry.value.value = Value::Null;
            }
            return is_resource;
        }
        if schema.extensible && key.starts_with("x-") {
            return true;
        }
        match schema.entries {
            Some((_, keys)) if !keys.is_strict() => true,
            Some(_) => {
                session.error(
                    Problem::error(format!("`{key}` is not a valid name in `{path}`"))
                        .at(entry.key)
                        .expected("letters, digits, `.`, `_` and `-`"),
                );
                true
            }
            // A mapping where no attributes are known holds anything.
            None if schema.fields.is_empty() => true,
            None => {
                unknown_key(session, key, entry, schema, path);
                false
            }
        }
    });
}

fn unknown_key(
    session: &mut Session<'_>,
    key: &str,
    entry: &Entry,
    schema: &'static Schema,
    path: &Path<'_>,
) {
    let place = path.to_string();
    let message = if place.is_empty() {
        format!("`{key}` is not a section of a Compose file")
    } else {
        format!("`{key}` is not an attribute of `{place}`")
    };
    let mut problem = Problem::error(message).at(entry.key);
    let names = schema.fields.iter().map(|field| field.name);
    session.mark_broken(path);
    if let Some(candidate) = super::diagnostic::closest(key, names) {
        // A misspelt section may define what others refer to.
        session.mark_broken(&path.key(candidate));
        problem = problem.hint(format!("did you mean `{candidate}`?"));
    } else if place.is_empty() && looks_like_service(&entry.value) {
        problem = problem.hint("services go below `services:`");
    } else if place.is_empty() {
        problem = problem.hint(format!("a key of your own starts with `x-`: `x-{key}`"));
    } else if let Some(section) = displaced_section(&place) {
        problem = problem.hint(format!(
            "`{section}` is a section of the file: indent it as far as `services`"
        ));
    } else if let Some(known) = moved(key) {
        problem = problem.hint(known);
    }
    session.last_error(problem, entry.key);
}

fn looks_like_service(node: &Node) -> bool {
    node.get("image").is_some() || node.get("build").is_some()
}

/// The section that was taken for a service, as it is indented as one.
fn displaced_section(place: &str) -> Option<&str> {
    let name = place.strip_prefix("services.")?;
    ["configs", "networks", "secrets", "volumes"]
        .contains(&name)
        .then_some(name)
}

/// Where an attribute that users put in the wrong place belongs.
fn moved(key: &str) -> Option<String> {
    let place = match key {
        "replicas" | "resources" | "restart_policy" | "update_config" | "placement" => "deploy",
        "context" | "dockerfile" | "args" | "target" => "build",
        "watch" => "develop",
        "test" | "interval" | "retries" | "start_period" => "healthcheck",
        "net" => return Some("use `network_mode`".to_owned()),
        "log_driver" | "log_opt" => return Some("use `logging`".to_owned()),
        _ => return None,
    };
    Some(format!("`{key}` is an attribute of `{place}`"))
}

fn check_distinct(session: &mut Session<'_>, items: &[Node], path: &Path<'_>) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let equal = match item.scalar_text() {
            Some(text) => seen
                .insert(format!("{}{text}", item.kind()), index)
                .map(|first| &items[first]),
            None => seen
                .insert(crate::yaml::to_json(item), index)
                .map(|first| &items[first])
                .filter(|first| *first == item),
        };
        if let Some(first) = equal {
            session.error(
                Problem::error(format!("`{}` repeats an earlier item", path.index(index)))
                    .at(item.span)
                    .label(first.span, "the same item"),
            );
        }
    }
}

fn check_text(
    session: &mut Session<'_>,
    span: Span,
    text: &str,
    schema: &Schema,
    path: &Path<'_>,
) -> bool {
    if !schema.choices.is_empty() && !schema.choices.contains(&text) {
        let choices: Vec<String> = schema
            .choices
            .iter()
            .map(|choice| format!("`{choice}`"))
            .collect();
        session.error(
            Problem::error(format!("`{path}` cannot be `{text}`"))
                .at(span)
                .expected(choices.join(", "))
                .suggest(text, schema.choices.iter().copied()),
        );
        return false;
    }
    let expected = match schema.pattern {
        Some(Pattern::ContainerName) if !is_container_name(text) => {
            "letters, digits, `_`, `.` and `-`, starting with a letter or digit, at least two"
        }
        Some(Pattern::PullPolicy) if !is_pull_policy(text) => {
            "`always`, `never`, `missing`, `build`, `daily`, `weekly` or `every_<duration>`"
        }
        _ => return true,
    };
    session.error(
        Problem::error(format!("`{path}` cannot be `{text}`"))
            .at(span)
            .expected(expected),
    );
    false
}

/// Whether a part of the text is a container name; the pattern of the reference has no anchors.
fn is_container_name(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.as_bytes()
        .windows(2)
        .any(|pair| pair[0].is_ascii_alphanumeric() && is_name(pair[1]))
}

fn is_pull_policy(text: &str) -> bool {
    const WORDS: [&str; 8] = [
        "always",
        "never",
        "build",
        "if_not_present",
        "missing",
        "refresh",
        "daily",
        "weekly",
    ];
    let is_every = text.split("every_").skip(1).any(|duration| {
        let digits = duration.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && duration[digits..].starts_with(['w', 'd', 'h', 'm', 's'])
    });
    WORDS.iter().any(|word| text.contains(word)) || is_every
}
