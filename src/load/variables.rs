//! The variables that files refer to.

use indexmap::IndexMap;

use super::template::{self, Operator, Part};
use crate::yaml::{Node, Value};

/// What files say of a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    pub required: bool,
    /// The text behind `:-` or `-`.
    pub default: String,
    /// The text behind `:+` or `+`.
    pub alternative: String,
}

/// All variables that a tree refers to, sorted by name.
pub(super) fn variables(node: &Node) -> IndexMap<String, Variable> {
    let mut found = IndexMap::new();
    walk(node, &mut found);
    found.sort_keys();
    found
}

/// The variables that a text refers to, sorted by name.
pub(super) fn variables_of(text: &str) -> IndexMap<String, Variable> {
    let mut found = IndexMap::new();
    extract(text, &mut found);
    found.sort_keys();
    found
}

fn walk(node: &Node, found: &mut IndexMap<String, Variable>) {
    match &node.value {
        Value::String(text) => extract(text, found),
        Value::Sequence(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Mapping(mapping) => mapping
            .iter()
            .for_each(|(_, entry)| walk(&entry.value, found)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => {}
    }
}

fn extract(text: &str, found: &mut IndexMap<String, Variable>) {
    for part in template::parts(text).flatten() {
        let Part::Reference(reference) = part else {
            continue;
        };
        let mut variable = Variable::default();
        if let Some((operator, _, word)) = reference.operator {
            match operator {
                Operator::Default => word.clone_into(&mut variable.default),
                Operator::Alternative => word.clone_into(&mut variable.alternative),
                Operator::Required => variable.required = true,
            }
            if operator != Operator::Required {
                extract(word, found);
            }
        }
        found.insert(reference.name.to_owned(), variable);
    }
}
