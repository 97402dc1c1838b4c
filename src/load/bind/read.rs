//! Typed access to the attributes of a node.

use std::str::FromStr;

use indexmap::IndexMap;

use crate::model::Duration;
use crate::yaml::{Mapping, Node, Value};

/// Attributes as the model holds them. What is not there, or empty, is unset.
pub(super) trait Read {
    fn string(&self, key: &str) -> Option<String>;
    fn flag(&self, key: &str) -> bool;
    fn boolean_at(&self, key: &str) -> Option<bool>;
    fn integer_at(&self, key: &str) -> Option<i64>;
    /// An integer that is set and not zero.
    fn nonzero(&self, key: &str) -> Option<i64>;
    fn unsigned(&self, key: &str) -> Option<u64>;
    fn number(&self, key: &str) -> Option<f64>;
    fn duration(&self, key: &str) -> Option<Duration>;
    fn mode(&self, key: &str) -> Option<u32>;
    /// A text that has another form, such as an address.
    fn parsed<T: FromStr>(&self, key: &str) -> Option<T>;
    fn texts(&self, key: &str) -> Vec<String>;
    /// A list of texts of which an empty one means something.
    fn texts_if_set(&self, key: &str) -> Option<Vec<String>>;
    fn texts_by_key(&self, key: &str) -> IndexMap<String, String>;
    fn variables(&self, key: &str) -> IndexMap<String, Option<String>>;
    fn lists_by_key(&self, key: &str) -> IndexMap<String, Vec<String>>;
    /// Each value of a mapping.
    fn by_key<T>(&self, key: &str, bind: impl Fn(&Node) -> T) -> IndexMap<String, T>;
    /// Each item of a list.
    fn each<T>(&self, key: &str, bind: impl Fn(&Node) -> T) -> Vec<T>;
    /// A mapping that is set.
    fn object<T>(&self, key: &str, bind: impl Fn(&Node) -> T) -> Option<T>;
}

impl Read for Node {
    fn string(&self, key: &str) -> Option<String> {
        self.text(key)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    fn flag(&self, key: &str) -> bool {
        self.boolean_at(key).unwrap_or_default()
    }

    fn boolean_at(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn integer_at(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_int()
    }

    fn nonzero(&self, key: &str) -> Option<i64> {
        self.integer_at(key).filter(|value| *value != 0)
    }

    fn unsigned(&self, key: &str) -> Option<u64> {
        u64::try_from(self.integer_at(key)?).ok()
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)?.value {
            Value::Float(value) if value != 0.0 => Some(value),
            _ => None,
        }
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        self.integer_at(key).map(Duration)
    }

    fn mode(&self, key: &str) -> Option<u32> {
        u32::try_from(self.integer_at(key)?).ok()
    }

    fn parsed<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    fn texts(&self, key: &str) -> Vec<String> {
        self.get(key).map(list).unwrap_or_default()
    }

    fn texts_if_set(&self, key: &str) -> Option<Vec<String>> {
        self.get(key).filter(|node| !node.is_null()).map(list)
    }

    fn texts_by_key(&self, key: &str) -> IndexMap<String, String> {
        self.by_key(key, |node| node.scalar_text().unwrap_or_default())
    }

    fn variables(&self, key: &str) -> IndexMap<String, Option<String>> {
        self.by_key(key, Self::scalar_text)
    }

    fn lists_by_key(&self, key: &str) -> IndexMap<String, Vec<String>> {
        self.by_key(key, list)
    }

    fn by_key<T>(&self, key: &str, bind: impl Fn(&Self) -> T) -> IndexMap<String, T> {
        self.entries(key)
            .map(|(key, entry)| (key.to_owned(), bind(&entry.value)))
            .collect()
    }

    fn each<T>(&self, key: &str, bind: impl Fn(&Self) -> T) -> Vec<T> {
        self.items(key).iter().map(bind).collect()
    }

    fn object<T>(&self, key: &str, bind: impl Fn(&Self) -> T) -> Option<T> {
        self.get(key)
            .filter(|node| node.as_mapping().is_some())
            .map(bind)
    }
}

fn list(node: &Node) -> Vec<String> {
    node.as_sequence()
        .unwrap_or_default()
        .iter()
        .filter_map(Node::scalar_text)
        .collect()
}

/// A value of the user's own.
pub(in crate::load) fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Unsigned(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(text) => text.clone().into(),
        Value::Sequence(items) => items.iter().map(json).collect(),
        Value::Mapping(mapping) => object(mapping),
    }
}

fn object(mapping: &Mapping) -> serde_json::Value {
    mapping
        .iter()
        .map(|(key, entry)| (key.to_owned(), json(&entry.value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
