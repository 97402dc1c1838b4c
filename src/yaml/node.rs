//! The node tree.

use indexmap::IndexMap;

/// A source file, by its place in the list of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

impl FileId {
    /// The file of values that no file holds, such as defaults.
    pub const NONE: Self = Self(u32::MAX);
}

/// A range of bytes in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// The span of values that no file holds.
    pub const NONE: Self = Self {
        file: FileId::NONE,
        start: 0,
        end: 0,
    };

    /// Whether a file holds this.
    pub fn is_known(self) -> bool {
        self.file != FileId::NONE
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub span: Span,
    pub value: Value,
    /// Where values stood that this one overrides, oldest first.
    pub overridden: Option<Box<Vec<Span>>>,
}

/// What a node holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond the range of [`Self::Int`].
    Unsigned(u64),
    Float(f64),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Mapping),
}

/// Nodes compare by value: the place does not matter.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Node {
    /// Values in this value, itself too.
    pub(crate) fn count(&self) -> usize {
        match &self.value {
            Value::Sequence(items) => items.iter().map(Self::count).sum::<usize>() + 1,
            Value::Mapping(mapping) => {
                let values = mapping.iter().map(|(_, entry)| entry.value.count());
                values.sum::<usize>() + 1
            }
            _ => 1,
        }
    }

    /// Bytes of all texts and keys in this value.
    pub(super) fn text_length(&self) -> usize {
        match &self.value {
            Value::String(text) => text.len(),
            Value::Sequence(items) => items.iter().map(Self::text_length).sum(),
            Value::Mapping(mapping) => mapping
                .iter()
                .map(|(key, entry)| key.len() + entry.value.text_length())
                .sum(),
            _ => 0,
        }
    }

    pub fn new(value: Value, span: Span) -> Self {
        Self {
            span,
            value,
            overridden: None,
        }
    }

    pub fn string(text: impl Into<String>, span: Span) -> Self {
        Self::new(Value::String(text.into()), span)
    }

    pub fn boolean(value: bool, span: Span) -> Self {
        Self::new(Value::Bool(value), span)
    }

    pub fn integer(value: i64, span: Span) -> Self {
        Self::new(Value::Int(value), span)
    }

    pub fn sequence(items: Vec<Self>, span: Span) -> Self {
        Self::new(Value::Sequence(items), span)
    }

    pub fn mapping(mapping: Mapping, span: Span) -> Self {
        Self::new(Value::Mapping(mapping), span)
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_mapping_mut(&mut self) -> Option<&mut Mapping> {
        match &mut self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_sequence(&self) -> Option<&[Self]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_sequence_mut(&mut self) -> Option<&mut Vec<Self>> {
        match &mut self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The value of `key` if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_mapping()?.get(key)
    }

    /// As [`Self::get`], to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.as_mapping_mut()?.get_mut(key)
    }

    /// The string at `key` if this is a mapping that has one there.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The items at `key`, none if there is no sequence there.
    pub fn items(&self, key: &str) -> &[Self] {
        self.get(key)
            .and_then(Self::as_sequence)
            .unwrap_or_default()
    }

    /// The entries at `key`, none if there is no mapping there.
    pub fn entries(&self, key: &str) -> impl Iterator<Item = (&str, &Entry)> {
        self.get(key)
            .and_then(Self::as_mapping)
            .into_iter()
            .flat_map(Mapping::iter)
    }

    /// Notes that this value takes the place of `other`.
    pub fn overrides(&mut self, other: &Self) {
        if !other.span.is_known() || other.span == self.span {
            return;
        }
        let mut earlier = other.overridden.as_deref().cloned().unwrap_or_default();
        earlier.push(other.span);
        if let Some(own) = self.overridden.take() {
            earlier.extend(*own);
        }
        self.overridden = Some(Box::new(earlier));
    }

    /// The name of the kind of value, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Unsigned(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// Text of a scalar as the reference prints it; nothing for null and collections.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Unsigned(value) => Some(value.to_string()),
            Value::Float(value) => Some(super::format_float(*value)),
            Value::String(text) => Some(text.clone()),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }
}

/// A value in a mapping and where its key was written.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub key: Span,
    pub value: Node,
}

/// A mapping with string keys in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Mapping(IndexMap<String, Entry>);

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .iter()
                .all(|(key, entry)| other.get(key).is_some_and(|value| *value == entry.value))
    }
}

impl Mapping {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.get(key).map(|entry| &entry.value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.get_mut(key).map(|entry| &mut entry.value)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    /// Sets `key`, whose place is that of the value; the entry keeps its position.
    pub fn set(&mut self, key: &str, value: Node) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.value = value;
        } else {
            let span = value.span;
            self.0.insert(key.to_owned(), Entry { key: span, value });
        }
    }

    /// Sets `key` unless it is there.
    pub fn set_default(&mut self, key: &str, value: Node) {
        if !self.contains(key) {
            self.set(key, value);
        }
    }

    pub fn insert(&mut self, key: String, entry: Entry) -> Option<Entry> {
        self.0.insert(key, entry)
    }

    /// Takes `key` out, keeping the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        self.0.shift_remove(key).map(|entry| entry.value)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Entry) -> bool) {
        self.0.retain(|key, entry| keep(key, entry));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Entry)> {
        self.0.iter_mut().map(|(key, entry)| (key.as_str(), entry))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn get_or_insert(&mut self, key: &str, value: impl FnOnce() -> Node) -> &mut Node {
        &mut self
            .0
            .entry(key.to_owned())
            .or_insert_with(|| {
                let value = value();
                Entry {
                    key: value.span,
                    value,
                }
            })
            .value
    }
}

impl IntoIterator for Mapping {
    type Item = (String, Entry);
    type IntoIter = indexmap::map::IntoIter<String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Entry)> for Mapping {
    fn from_iter<I: IntoIterator<Item = (String, Entry)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}
