//! Variables in the texts of a tree, and what the texts become where a number or flag is wanted.

use std::borrow::Cow;

use super::diagnostic::Problem;
use super::dotenv::Variables;
use super::path::Path;
use super::schema::{Cast, ROOT, Schema};
use super::session::{Failed, Outcome, Session};
use super::template::{Lookup, TemplateError, substitute};
use crate::model::without_separators;
use crate::yaml::{Node, Span, Value, resolve_plain};

/// Replaces variables in all values of a document; keys stay as they are.
pub(super) fn document(session: &mut Session<'_>, root: &mut Node, environment: &Variables) {
    walk(session, root, Some(&ROOT), &Path::ROOT, environment);
}

fn walk(
    session: &mut Session<'_>,
    node: &mut Node,
    schema: Option<&'static Schema>,
    path: &Path<'_>,
    environment: &Variables,
) {
    let span = node.span;
    match &mut node.value {
        Value::String(template) => {
            if template.contains('$') {
                match text_at(session, template, span, path, environment) {
                    Ok(text) => {
                        if session.spend_bytes(text.len(), span).is_err() {
                            return;
                        }
                        *template = text;
                    }
                    Err(Failed) => return,
                }
            }
            let cast = schema.map_or(Cast::None, |schema| schema.cast);
            if cast != Cast::None {
                match convert(session, template, cast, span, path) {
                    Ok(value) => node.value = value,
                    Err(problem) => session.last_error(*problem, span),
                }
            }
        }
        Value::Sequence(items) => {
            let schema = schema.and_then(|schema| schema.items);
            for (index, item) in items.iter_mut().enumerate() {
                walk(session, item, schema, &path.index(index), environment);
            }
        }
        Value::Mapping(mapping) => {
            for (key, entry) in mapping.iter_mut() {
                let schema = schema.and_then(|schema| schema.child(key));
                walk(
                    session,
                    &mut entry.value,
                    schema,
                    &path.key(key),
                    environment,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => {}
    }
}

/// Replaces variables in one text outside the tree.
pub(super) fn text(
    session: &mut Session<'_>,
    template: &str,
    span: Span,
    name: &str,
    environment: &Variables,
) -> Outcome<String> {
    text_at(session, template, span, &Path::ROOT.key(name), environment)
}

struct Scope<'a> {
    environment: &'a Variables,
    unset: Vec<String>,
}

impl Lookup for Scope<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.environment
            .get(name)
            .map(|value| Cow::Borrowed(value.as_str()))
    }

    fn unset(&mut self, name: &str) {
        self.unset.push(name.to_owned());
    }
}

fn text_at(
    session: &mut Session<'_>,
    template: &str,
    span: Span,
    path: &Path<'_>,
    environment: &Variables,
) -> Outcome<String> {
    let mut scope = Scope {
        environment,
        unset: Vec::new(),
    };
    let result = substitute(template, &mut scope);
    for name in scope.unset {
        let place = session.sub_span(span, &format!("${name}"));
        let place = if place == span {
            session.sub_span(span, &format!("${{{name}}}"))
        } else {
            place
        };
        session.warn_unset(&name, place);
    }
    session.trace.interpolated(span, template, environment);
    result.map_err(|error| {
        let problem = match &error {
            TemplateError::Invalid { text, .. } => {
                let place = session.sub_span(span, text);
                Problem::error(format!("`{path}`: {error}"))
                    .at(place)
                    .expected("`$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?message}` or `${NAME:+text}`")
                    .hint("write `$$` where a dollar sign is meant")
            }
            TemplateError::TooLong => Problem::error(format!("`{path}`: {error}")).at(span),
            TemplateError::Required { name, .. } => {
                let place = session.sub_span(span, &format!("${{{name}"));
                Problem::error(format!("`{path}`: {error}"))
                    .at(place)
                    .hint(format!("set `{name}` in the environment or in `.env`"))
            }
        };
        session.last_error(problem, span);
        Failed
    })
}

/// What a text becomes where something else than text is wanted.
fn convert(
    session: &mut Session<'_>,
    text: &str,
    cast: Cast,
    span: Span,
    path: &Path<'_>,
) -> Result<Value, Box<Problem>> {
    let wrong =
        |what: &str| Box::new(Problem::error(format!("`{path}`: `{text}` is not {what}")).at(span));
    match cast {
        Cast::None => Ok(Value::String(text.to_owned())),
        Cast::Integer => text
            .parse()
            .map(Value::Int)
            .map_err(|_| wrong("an integer")),
        Cast::Number => match resolve_plain(text) {
            Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => without_separators(text)
                .parse()
                .map(Value::Float)
                .map_err(|_| wrong("a number")),
            _ => Err(wrong("a number")),
        },
        Cast::Boolean => boolean(session, text, span)
            .map(Value::Bool)
            .ok_or_else(|| Box::new((*wrong("a boolean")).expected("`true` or `false`"))),
    }
}

/// A boolean in text, with a warning for the words of YAML 1.1.
pub(super) fn boolean(session: &mut Session<'_>, text: &str, span: Span) -> Option<bool> {
    let value = match text.to_lowercase().as_str() {
        "true" => return Some(true),
        "false" => return Some(false),
        "y" | "yes" | "on" => true,
        "n" | "no" | "off" => false,
        _ => return None,
    };
    session.warn(
        Problem::warning(format!(
            "`{text}` is no boolean in YAML 1.2; write `{value}`"
        ))
        .at(span),
    );
    Some(value)
}
