//! Where the values of a project come from, for people and for programs.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::bind::json;
use super::dotenv::Variables;
use super::source::SourceMap;
use super::variables::variables_of;
use crate::model::Origin;
use crate::yaml::{self, Node, Span, Value};

/// A value and its history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedValue {
    /// As in `services.web.ports[0].target`.
    pub path: String,
    /// Nothing for a list or a mapping, whose items have entries of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// None for what follows from convention.
    pub origin: Option<Origin>,
    /// What it took the place of, oldest first.
    pub overrode: Vec<Overridden>,
    pub variables: Vec<TracedVariable>,
}

/// A value that another one took the place of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overridden {
    /// The first line of what is written there.
    pub text: String,
    pub origin: Origin,
}

/// A variable that a value was made with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedVariable {
    pub name: String,
    /// Whether it has a value at all.
    pub is_set: bool,
    /// The file of variables that sets it; none for the environment of the process.
    pub origin: Option<Origin>,
}

/// Which variables were set where, and which values were made with them.
#[derive(Debug, Default)]
pub(super) struct Trace {
    is_on: bool,
    /// Places that set a variable to a value. Included projects may have files of their own that set
    /// the same variable to another.
    set: HashMap<(String, String), Span>,
    /// Variables by the text that refers to them.
    interpolated: HashMap<Span, Vec<(String, Source)>>,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Unset,
    Environment,
    File(Span),
}

impl Trace {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            ..Self::default()
        }
    }

    /// Notes that a file sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &str, place: Span) {
        if self.is_on {
            self.set.insert((name.to_owned(), value.to_owned()), place);
        }
    }

    /// Notes the variables of a text.
    pub(super) fn interpolated(&mut self, span: Span, template: &str, environment: &Variables) {
        if !self.is_on {
            return;
        }
        let sources = variables_of(template)
            .into_keys()
            .map(|name| {
                let source = match environment.get(&name) {
                    None => Source::Unset,
                    Some(value) => self
                        .set
                        .get(&(name.clone(), value.clone()))
                        .map_or(Source::Environment, |place| Source::File(*place)),
                };
                (name, source)
            })
            .collect();
        self.interpolated.insert(span, sources);
    }

    /// The view of a project with comments. It can be loaded again.
    pub(super) fn to_yaml(&self, mut view: Node, sources: &SourceMap) -> String {
        double_dollars(&mut view);
        yaml::to_annotated_yaml(&view, &|node| self.comment(node, sources))
    }

    /// The values of a view of a project, in its order.
    pub(super) fn values(&self, view: &Node, sources: &SourceMap) -> Vec<TracedValue> {
        let mut values = Vec::new();
        self.walk(view, sources, &mut String::new(), &mut values);
        values
    }

    fn walk(
        &self,
        node: &Node,
        sources: &SourceMap,
        path: &mut String,
        values: &mut Vec<TracedValue>,
    ) {
        let is_leaf = is_leaf(node);
        if is_leaf || node.overridden.is_some() {
            values.push(TracedValue {
                path: path.clone(),
                value: is_leaf.then(|| json(node)),
                origin: sources.origin(node.span),
                overrode: overridden(node, sources).collect(),
                variables: self.variables(node, sources).collect(),
            });
        }
        let length = path.len();
        match &node.value {
            Value::Mapping(mapping) => {
                for (key, entry) in mapping.iter() {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(key);
                    self.walk(&entry.value, sources, path, values);
                    path.truncate(length);
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    // Writing to a string cannot fail.
                    let _ = write!(path, "[{index}]");
                    self.walk(item, sources, path, values);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn variables(&self, node: &Node, sources: &SourceMap) -> impl Iterator<Item = TracedVariable> {
        let variables = self.interpolated.get(&node.span).into_iter().flatten();
        variables.map(|(name, source)| TracedVariable {
            name: name.clone(),
            is_set: !matches!(source, Source::Unset),
            origin: match source {
                Source::File(place) => sources.origin(*place),
                Source::Unset | Source::Environment => None,
            },
        })
    }

    /// `compose.yaml:3 (was `x` at base.yaml:7; TAG from .env:1)`
    fn comment(&self, node: &Node, sources: &SourceMap) -> Option<String> {
        if !is_leaf(node) && node.overridden.is_none() {
            return None;
        }
        let mut comment = match sources.origin(node.span) {
            Some(origin) => short(&origin),
            None => "by convention".to_owned(),
        };
        let was = overridden(node, sources)
            .map(|earlier| format!("was {} at {}", earlier.text, short(&earlier.origin)));
        let made_with = self.variables(node, sources).map(|variable| {
            let from = match &variable.origin {
                Some(origin) => short(origin),
                None if variable.is_set => "the environment".to_owned(),
                None => "nowhere".to_owned(),
            };
            format!("{} from {from}", variable.name)
        });
        let history: Vec<String> = was.chain(made_with).collect();
        if !history.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(comment, " ({})", history.join("; "));
        }
        Some(comment)
    }
}

/// Doubles dollar signs, which would start variables. Those in comments stay as they are.
fn double_dollars(node: &mut Node) {
    match &mut node.value {
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Value::Sequence(items) => items.iter_mut().for_each(double_dollars),
        Value::Mapping(mapping) => {
            for (_, entry) in mapping.iter_mut() {
                double_dollars(&mut entry.value);
            }
        }
        _ => {}
    }
}

/// Whether a value is shown in one piece.
fn is_leaf(node: &Node) -> bool {
    match &node.value {
        Value::Mapping(mapping) => mapping.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        _ => true,
    }
}

fn overridden(node: &Node, sources: &SourceMap) -> impl Iterator<Item = Overridden> {
    let spans = node.overridden.iter().flat_map(|spans| spans.iter());
    spans.filter_map(|span| {
        Some(Overridden {
            text: sources.excerpt(*span)?,
            origin: sources.origin(*span)?,
        })
    })
}

fn short(origin: &Origin) -> String {
    format!("{}:{}", origin.file.display(), origin.line)
}
