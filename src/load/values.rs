//! What texts mean: durations, sizes, command lines and the like become typed values in the tree.

use super::diagnostic::Problem;
use super::interpolate::boolean;
use super::path::Path;
use super::schema::{Form, ROOT, Schema};
use super::session::Session;
use crate::model::{Duration, WordsError, parse_bytes, split_words, without_separators};
use crate::yaml::{Entry, Mapping, Node, Value};

/// Gives every value of a normal document its type. Durations become nanoseconds, sizes bytes.
pub(super) fn document(session: &mut Session<'_>, root: &mut Node) {
    walk(session, root, &ROOT, &Path::ROOT);
}

fn walk(session: &mut Session<'_>, node: &mut Node, schema: &'static Schema, path: &Path<'_>) {
    if schema.form != Form::Raw {
        convert(session, node, schema.form, path);
    }
    match &mut node.value {
        Value::Sequence(items) => {
            if let Some(schema) = schema.items {
                for (index, item) in items.iter_mut().enumerate() {
                    walk(session, item, schema, &path.index(index));
                }
            }
        }
        Value::Mapping(mapping) if schema.form == Form::Raw || schema.form == Form::Ulimit => {
            for (key, entry) in mapping.iter_mut() {
                if let Some(schema) = schema.child(key) {
                    walk(session, &mut entry.value, schema, &path.key(key));
                }
            }
        }
        _ => {}
    }
}

fn convert(session: &mut Session<'_>, node: &mut Node, form: Form, path: &Path<'_>) {
    match form {
        Form::Raw | Form::Ulimit => {}
        Form::Text => {
            if !matches!(node.value, Value::Null)
                && let Some(text) = node.scalar_text()
            {
                node.value = Value::String(text);
            }
        }
        Form::Integer | Form::Unsigned => integer(session, node, form, path),
        Form::Number => number(session, node, path),
        Form::Boolean => {
            if let Value::String(text) = &node.value {
                match boolean(session, text, node.span) {
                    Some(value) => node.value = Value::Bool(value),
                    None => wrong(session, node, path, "a boolean"),
                }
            }
        }
        Form::Duration => {
            if let Value::String(text) = &node.value {
                match text.parse::<Duration>() {
                    Ok(duration) => node.value = Value::Int(duration.0),
                    Err(error) => session.error(
                        Problem::error(format!("`{path}`: {error}"))
                            .at(node.span)
                            .expected("numbers with `w`, `d`, `h`, `m`, `s`, `ms`, `us` or `ns`, such as `1m30s`"),
                    ),
                }
            }
        }
        Form::Microseconds => microseconds(session, node, path),
        Form::Bytes | Form::UnsignedBytes => bytes(session, node, form, path),
        Form::Words => words(session, node, path),
        Form::Probe => {
            if let Value::String(text) = &node.value {
                let shell = Node::string("CMD-SHELL", node.span);
                let command = Node::string(text, node.span);
                node.value = Value::Sequence(vec![shell, command]);
            }
        }
        Form::Mode | Form::PlainMode => mode(session, node, path),
        Form::Count => {
            if let Value::String(text) = &node.value {
                let count = if text.eq_ignore_ascii_case("all") {
                    Some(-1)
                } else {
                    text.parse().ok()
                };
                match count {
                    Some(count) => node.value = Value::Int(count),
                    None => wrong(session, node, path, "a number of devices or `all`"),
                }
            }
        }
        Form::Texts => texts(node),
        Form::Variables => {
            names_of_variables(session, node, path);
            pairs(node, |value| match value {
                Value::Null => Value::Null,
                value => text_value(value),
            });
        }
        Form::Labels | Form::Options => pairs(node, text_value),
        Form::MultiOptions => {
            if let Value::Mapping(mapping) = &mut node.value {
                for (_, entry) in mapping.iter_mut() {
                    texts(&mut entry.value);
                }
                mapping.retain(|_, entry| entry.value.as_sequence() != Some(&[]));
            }
        }
        Form::Hosts => hosts(session, node, path),
        Form::Ssh => {
            if let Value::Mapping(mapping) = &mut node.value {
                for (_, entry) in mapping.iter_mut() {
                    if let Some(text) = entry.value.scalar_text() {
                        entry.value.value = Value::String(text);
                    }
                }
            }
        }
    }
}

fn wrong(session: &mut Session<'_>, node: &Node, path: &Path<'_>, what: &str) {
    let text = node.scalar_text().unwrap_or_default();
    session.error(Problem::error(format!("`{path}`: `{text}` is not {what}")).at(node.span));
}

fn text_value(value: Value) -> Value {
    let node = Node {
        value,
        ..Node::default()
    };
    Value::String(node.scalar_text().unwrap_or_default())
}

fn integer(session: &mut Session<'_>, node: &mut Node, form: Form, path: &Path<'_>) {
    let value = match &node.value {
        Value::Int(value) => Some(*value),
        Value::Float(value) => whole(*value),
        Value::String(text) => text.parse().ok(),
        _ => return,
    };
    match value {
        Some(value) if value >= 0 || form == Form::Integer => node.value = Value::Int(value),
        Some(_) => wrong(session, node, path, "zero or more"),
        None => wrong(session, node, path, "an integer"),
    }
}

fn number(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let text = match &node.value {
        Value::Int(_) | Value::Unsigned(_) | Value::Float(_) | Value::String(_) => {
            node.scalar_text()
        }
        _ => return,
    };
    // The shortest text of the single-precision number is what the reference prints.
    let single = text
        .and_then(|text| without_separators(&text).parse::<f32>().ok())
        .filter(|single| single.is_finite())
        .and_then(|single| single.to_string().parse().ok());
    match single {
        Some(value) => node.value = Value::Float(value),
        None => wrong(session, node, path, "a number"),
    }
}

fn microseconds(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    if let Value::String(text) = &node.value
        && let Ok(duration) = text.parse::<Duration>()
    {
        node.value = Value::Int(duration.0 / 1000);
        return;
    }
    integer(session, node, Form::Integer, path);
}

fn bytes(session: &mut Session<'_>, node: &mut Node, form: Form, path: &Path<'_>) {
    match &node.value {
        Value::Float(value) => match whole(*value) {
            Some(bytes) => node.value = Value::Int(bytes),
            None => wrong(session, node, path, "a size"),
        },
        Value::String(text) => match parse_bytes(text) {
            // As a number it is left to `grammar`: the reference prints that.
            Ok(..0) if form == Form::UnsignedBytes => wrong(session, node, path, "zero or more"),
            Ok(bytes) => node.value = Value::Int(bytes),
            Err(error) => session.error(
                Problem::error(format!("`{path}`: {error}"))
                    .at(node.span)
                    .expected("a number with `b`, `k`, `m`, `g`, `t` or `p`, such as `512m`"),
            ),
        },
        _ => {}
    }
}

/// The number before the point, as the reference drops fractions; none beyond 64 bits.
fn whole(value: f64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, reason = "the bounds are powers of two")]
    let fits = value >= i64::MIN as f64 && value < i64::MAX as f64;
    #[expect(clippy::cast_possible_truncation, reason = "it was just looked at")]
    fits.then_some(value as i64)
}

fn words(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let Value::String(line) = &node.value else {
        return;
    };
    let span = node.span;
    match split_words(line) {
        Ok(split) => {
            if let Some(character) = split.cut_at {
                session.warn(
                    Problem::warning(format!(
                        "`{path}` ends at the unquoted `{character}`; no shell reads it"
                    ))
                    .at(session.sub_span(span, &character.to_string()))
                    .hint(format!(
                        "for a shell write `{}: [sh, -c, \"…\"]`",
                        path.name()
                    )),
                );
            }
            let items = split
                .words
                .into_iter()
                .map(|word| Node::string(word, span))
                .collect();
            node.value = Value::Sequence(items);
        }
        Err(error) => {
            let problem = Problem::error(format!("`{path}`: {error}")).at(span);
            session.error(match error {
                WordsError::Parenthesis => {
                    problem.hint("put the argument in quotes, or write the command as a list")
                }
                WordsError::Unclosed(_) => problem.hint("or write the command as a list"),
            });
        }
    }
}

fn mode(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    match &node.value {
        Value::Float(value) => match whole(*value).filter(|_| value.fract() == 0.0) {
            Some(mode) => node.value = Value::Int(mode),
            None => wrong(session, node, path, "a file mode"),
        },
        Value::String(text) => {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let Ok(mode) = i64::from_str_radix(digits, 8) else {
                wrong(session, node, path, "a file mode in octal, such as `0440`");
                return;
            };
            node.value = Value::Int(mode);
        }
        _ => {}
    }
    if let Value::Int(mode) = node.value
        && u32::try_from(mode).is_err()
    {
        wrong(session, node, path, "a file mode");
    }
}

/// A list of texts, from one text or scalars of any kind.
fn texts(node: &mut Node) {
    match &mut node.value {
        Value::Sequence(items) => {
            for item in items {
                if let Some(text) = item.scalar_text() {
                    item.value = Value::String(text);
                }
            }
        }
        Value::Null | Value::Mapping(_) => {}
        Value::Bool(_)
        | Value::Int(_)
        | Value::Unsigned(_)
        | Value::Float(_)
        | Value::String(_) => {
            let item = Node::string(node.scalar_text().unwrap_or_default(), node.span);
            node.value = Value::Sequence(vec![item]);
        }
    }
}

/// Refuses names in a list of `KEY=VALUE` that end with a space, which is a slip.
fn names_of_variables(session: &mut Session<'_>, node: &Node, path: &Path<'_>) {
    for (index, item) in node.as_sequence().unwrap_or_default().iter().enumerate() {
        let text = item.as_str().unwrap_or_default();
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if name.ends_with(char::is_whitespace) {
            session.error(
                Problem::error(format!(
                    "`{}`: the name `{name}` ends with a space",
                    path.index(index)
                ))
                .at(item.span)
                .hint("write `NAME=VALUE` without a space before `=`"),
            );
        }
    }
}

/// A mapping from keys to texts, from a mapping or a list of `KEY=VALUE`.
fn pairs(node: &mut Node, convert: impl Fn(Value) -> Value) {
    match &mut node.value {
        Value::Mapping(mapping) => {
            for (_, entry) in mapping.iter_mut() {
                let value = std::mem::take(&mut entry.value.value);
                entry.value.value = convert(value);
            }
        }
        Value::Sequence(items) => {
            let mut mapping = Mapping::new();
            for item in std::mem::take(items) {
                let Some(text) = item.scalar_text() else {
                    continue;
                };
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Value::String(value.to_owned())),
                    None => (text.as_str(), Value::Null),
                };
                let value = Node {
                    value: convert(value),
                    ..item
                };
                let entry = Entry {
                    key: value.span,
                    value,
                };
                mapping.insert(key.to_owned(), entry);
            }
            node.value = Value::Mapping(mapping);
        }
        _ => {}
    }
}

/// Host names to lists of addresses.
fn hosts(session: &mut Session<'_>, node: &mut Node, path: &Path<'_>) {
    let mut mapping = Mapping::new();
    match std::mem::take(&mut node.value) {
        Value::Mapping(entries) => {
            for (host, mut entry) in entries {
                let item = &mut entry.value;
                if item.is_null() {
                    item.value = Value::String(String::new());
                }
                texts(item);
                mapping.insert(host, entry);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let Some(text) = item.scalar_text() else {
                    continue;
                };
                let Some((host, addresses)) = text.split_once('=').or_else(|| text.split_once(':'))
                else {
                    session.error(
                        Problem::error(format!("`{}`: `{text}` has no address", path.index(index)))
                            .at(item.span)
                            .expected("`HOST=ADDRESS`"),
                    );
                    continue;
                };
                let list = mapping.get_or_insert(host, || Node::sequence(Vec::new(), item.span));
                if let Some(list) = list.as_sequence_mut() {
                    list.extend(
                        addresses
                            .split(',')
                            .map(|address| Node::string(address, item.span)),
                    );
                }
            }
        }
        other => {
            node.value = other;
            return;
        }
    }
    for (host, entry) in mapping.iter_mut() {
        if host.is_empty() || host.contains([':', '=']) {
            session.error(
                Problem::error(format!("`{path}`: `{host}` is not a host name")).at(entry.key),
            );
        }
        for address in entry.value.as_sequence_mut().into_iter().flatten() {
            if let Value::String(text) = &mut address.value
                && let Some(inner) = text
                    .strip_prefix('[')
                    .and_then(|text| text.strip_suffix(']'))
                && !inner.is_empty()
            {
                *text = inner.to_owned();
            }
        }
    }
    node.value = Value::Mapping(mapping);
}
