//! From events to trees: anchors, aliases, merge keys, duplicate keys, limits, and the paths that
//! carry `!reset` or `!override`.

use std::collections::HashMap;

use data_encoding::BASE64_NOPAD;

use super::events::{Event, Events, SyntaxError, Tag};
use super::node::{Entry, FileId, Mapping, Node, Span, Value};
use super::scalar;
use super::unclosed::{Unclosed, unclosed};

/// Values in one document before aliases are expanded, as in the reference implementation.
const MAX_VALUES: u32 = 100_000;
/// Values in one document after aliases are expanded.
const MAX_EXPANDED: u64 = 500_000;

/// Bytes of texts that anchors and aliases may copy, and of the paths of marked values.
const MAX_COPIED_BYTES: usize = 64 << 20;
/// Documents in one file. Each is merged into those before it and checked with them.
const MAX_DOCUMENTS: usize = 100;

/// Levels of values in values, after aliases are expanded. Everything that walks a tree recurses.
const MAX_DEPTH: usize = 128;

/// One document of a file.
#[derive(Debug)]
pub struct Document {
    pub root: Node,
    /// Paths that `!reset` or `!override` marks: what stands there in the base is dropped.
    pub resets: Vec<Vec<String>>,
}

/// Something wrong with the YAML itself.
#[derive(Debug)]
pub struct Error {
    pub message: String,
    pub span: Span,
    /// A second place that explains the first.
    pub related: Option<(Span, String)>,
    pub hint: Option<String>,
}

/// Reads all documents of a text, or everything that is wrong with it.
pub fn parse(text: &str, file: FileId) -> Result<Vec<Document>, Vec<Error>> {
    let mut composer = Composer {
        text,
        events: Events::new(text, file),
        file,
        anchors: HashMap::new(),
        path: Vec::new(),
        resets: Vec::new(),
        values: 0,
        expanded: 0,
        copied: 0,
        copied_bytes: 0,
        errors: Vec::new(),
    };
    match composer.documents() {
        Ok(documents) if composer.errors.is_empty() => Ok(documents),
        Ok(_) => Err(composer.errors),
        Err(error) => {
            composer.errors.push(error);
            Err(composer.errors)
        }
    }
}

struct Anchor {
    /// Nothing if the anchored node carries `!reset`.
    node: Option<Node>,
    /// Marked paths below the node.
    resets: Vec<Vec<String>>,
    /// Values in the node.
    size: u64,
    /// Bytes of texts in the node.
    bytes: usize,
    /// Levels in the node.
    height: usize,
}

struct Composer<'text> {
    text: &'text str,
    events: Events<'text>,
    file: FileId,
    anchors: HashMap<usize, Anchor>,
    path: Vec<String>,
    resets: Vec<Vec<String>>,
    /// Values read.
    values: u32,
    /// Values in the tree, those that aliases brought too.
    expanded: u64,
    /// Values that anchors keep for aliases to come.
    copied: u64,
    /// Bytes of texts that anchors and aliases copied, and of marked paths.
    copied_bytes: usize,
    /// Errors that do not keep the rest from being read.
    errors: Vec<Error>,
}

impl Composer<'_> {
    fn documents(&mut self) -> Result<Vec<Document>, Error> {
        let mut documents = Vec::new();
        loop {
            match self.next()? {
                (Event::DocumentStart, span) => {
                    if documents.len() == MAX_DOCUMENTS {
                        let message = format!("the file has more than {MAX_DOCUMENTS} documents");
                        return Err(Self::limit(span, &message));
                    }
                    self.anchors.clear();
                    self.values = 0;
                    self.copied = 0;
                    let (event, span) = self.next()?;
                    let root = self.node(event, span)?.unwrap_or_default();
                    documents.push(Document {
                        root,
                        resets: std::mem::take(&mut self.resets),
                    });
                }
                (Event::End, _) => return Ok(documents),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event, Span), Error> {
        self.events.next().map_err(|SyntaxError { message, at }| {
            let related = self.left_open(&message, at);
            let hint = self.syntax_hint(&message, at);
            Error {
                hint: hint.filter(|_| related.is_none()),
                message,
                span: self.span(at, at),
                related,
            }
        })
    }

    fn span(&self, start: u32, end: u32) -> Span {
        Span {
            file: self.file,
            start,
            end,
        }
    }

    /// The quote or bracket whose missing end led to a syntax error.
    fn left_open(&self, message: &str, at: u32) -> Option<(Span, String)> {
        let blamed = ["quoted", "flow", "illegal placement of ':'"];
        if !blamed.iter().any(|part| message.contains(part)) {
            return None;
        }
        let before = self.text.get(..at as usize)?;
        let Unclosed { character, at } = unclosed(before)?;
        // On the line of the error, what closes it may be yet to come.
        if !before[at..].contains('\n') {
            return None;
        }
        let start = u32::try_from(at).ok()?;
        let label = format!("this `{character}` is not closed");
        Some((self.span(start, start + 1), label))
    }

    /// What most likely puts a syntax error right.
    fn syntax_hint(&self, message: &str, at: u32) -> Option<String> {
        let (before, after) = self.text.split_at_checked(at as usize).unwrap_or_default();
        let hint = if before.ends_with('$') && after.starts_with('{') {
            "between brackets, text with `${…}` must be in quotes"
        } else if after.starts_with("\\/") {
            "a slash needs no backslash"
        } else if message.contains("tab") {
            "YAML is indented with spaces, not tabs"
        } else if message.contains("expected key") || message.contains("indent") {
            "check how far this line and those above it are indented"
        } else if message.contains("mapping values are not allowed") {
            "put text that contains `: ` in quotes"
        } else {
            return None;
        };
        Some(hint.to_owned())
    }

    /// Builds the node that starts with `event`; nothing if it carries `!reset`.
    fn node(&mut self, event: Event, span: Span) -> Result<Option<Node>, Error> {
        self.values += 1;
        self.expanded += 1;
        if self.values > MAX_VALUES {
            return Err(Self::limit(
                span,
                &format!("the file has more than {MAX_VALUES} values in one document"),
            ));
        }
        let before = self.expanded;
        let marked = self.resets.len();
        let (anchor, tag, node) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::UnknownAlias(name) => {
                self.error(span, format!("unknown anchor `{name}`"));
                // Of a kind that can be merged, too: one error is enough.
                return Ok(Some(Node::new(Value::Mapping(Mapping::default()), span)));
            }
            Event::Scalar {
                text,
                plain,
                anchor,
                tag,
            } => {
                self.mark(tag, span)?;
                let value = self.scalar(text, plain, tag, span);
                (anchor, tag, Node::new(value, span))
            }
            Event::SequenceStart { anchor, tag } => {
                self.mark(tag, span)?;
                (anchor, tag, self.sequence(span)?)
            }
            Event::MappingStart { anchor, tag } => {
                self.mark(tag, span)?;
                (anchor, tag, self.mapping(span)?)
            }
            Event::DocumentStart | Event::SequenceEnd | Event::MappingEnd | Event::End => {
                return Ok(None);
            }
        };
        let node = (tag != Tag::Reset).then_some(node);
        if anchor != 0 {
            let size = self.expanded - before + 1;
            self.copied += size;
            let bytes = node.as_ref().map_or(0, Node::text_length);
            self.copy_bytes(bytes, span)?;
            self.check_expansion(span)?;
            let depth = self.path.len();
            let resets = self.resets[marked..]
                .iter()
                .map(|path| path[depth.min(path.len())..].to_vec())
                .collect();
            self.anchors.insert(
                anchor,
                Anchor {
                    node: node.clone(),
                    resets,
                    size,
                    bytes,
                    height: node.as_ref().map_or(0, height),
                },
            );
        }
        Ok(node)
    }

    fn check_expansion(&self, span: Span) -> Result<(), Error> {
        if self.expanded + self.copied <= MAX_EXPANDED {
            return Ok(());
        }
        Err(Self::limit(
            span,
            &format!("aliases expand to more than {MAX_EXPANDED} values"),
        ))
    }

    fn copy_bytes(&mut self, bytes: usize, span: Span) -> Result<(), Error> {
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
        if self.copied_bytes <= MAX_COPIED_BYTES {
            return Ok(());
        }
        let message = format!("aliases repeat more than {} MiB", MAX_COPIED_BYTES >> 20);
        Err(Self::limit(span, &message))
    }

    fn mark(&mut self, tag: Tag, span: Span) -> Result<(), Error> {
        if matches!(tag, Tag::Reset | Tag::Override) {
            self.copy_bytes(self.path.iter().map(String::len).sum(), span)?;
            self.resets.push(self.path.clone());
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Option<Node>, Error> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(Error {
                message: "an anchor refers to itself".to_owned(),
                span,
                related: None,
                hint: Some("a value cannot contain itself".to_owned()),
            });
        };
        if self.path.len() + target.height > MAX_DEPTH {
            return Err(Self::limit(
                span,
                &format!("values are nested more than {MAX_DEPTH} deep"),
            ));
        }
        let (size, bytes) = (target.size, target.bytes);
        let marked = target.resets.len() * self.path.iter().map(String::len).sum::<usize>();
        self.expanded += size;
        self.check_expansion(span)?;
        self.copy_bytes(bytes + marked, span)?;
        let Some(target) = self.anchors.get(&anchor) else {
            return Ok(None);
        };
        for relative in &target.resets {
            let mut path = self.path.clone();
            path.extend_from_slice(relative);
            self.resets.push(path);
        }
        Ok(target.node.clone())
    }

    fn scalar(&mut self, text: String, plain: bool, tag: Tag, span: Span) -> Value {
        let resolved = match tag {
            Tag::None if plain => return scalar::resolve_plain(&text),
            // A tag that is none of YAML's own makes a scalar text, so do the marks of Compose.
            Tag::None | Tag::String | Tag::Other | Tag::Reset | Tag::Override => {
                return Value::String(text);
            }
            Tag::Null => match scalar::resolve_plain(&text) {
                Value::Null => Some(Value::Null),
                _ => None,
            },
            Tag::Integer => match scalar::number(&text) {
                integer @ Some(Value::Int(_) | Value::Unsigned(_)) => integer,
                _ => None,
            },
            Tag::Float => match scalar::resolve_plain(&text) {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "that is what `!!float` asks for"
                )]
                Value::Int(value) => Some(Value::Float(value as f64)),
                Value::Float(value) => Some(Value::Float(value)),
                _ => None,
            },
            Tag::Boolean => match scalar::resolve_plain(&text) {
                Value::Bool(value) => Some(Value::Bool(value)),
                _ => None,
            },
            Tag::Binary => decode_base64(&text).map(Value::String),
        };
        resolved.unwrap_or_else(|| {
            self.error(span, format!("`{text}` is not what its tag says"));
            Value::Null
        })
    }

    fn sequence(&mut self, start: Span) -> Result<Node, Error> {
        let mut items = Vec::new();
        let mut span = start;
        self.path.push("[]".to_owned());
        loop {
            let (event, item_span) = self.next()?;
            match event {
                Event::SequenceEnd => {
                    span.end = span.end.max(flow_end(item_span, start));
                    break;
                }
                Event::End => break,
                event => {
                    if let Some(item) = self.node(event, item_span)? {
                        span.end = span.end.max(item_span.end).max(end_in(&item, start));
                        items.push(item);
                    }
                }
            }
        }
        self.path.pop();
        Ok(Node::sequence(items, span))
    }

    fn mapping(&mut self, start: Span) -> Result<Node, Error> {
        let mut mapping = Mapping::new();
        let mut merged: Vec<(Node, Span)> = Vec::new();
        let mut seen: HashMap<String, Span> = HashMap::new();
        let mut span = start;
        loop {
            let (event, key_span) = self.next()?;
            let (key, merge) = match event {
                Event::MappingEnd => {
                    span.end = span.end.max(flow_end(key_span, start));
                    break;
                }
                Event::End => break,
                event => self.key(event, key_span)?,
            };
            let first = seen.get(&key).copied();
            if let Some(first) = first {
                self.errors.push(Error {
                    message: format!("`{key}` is defined twice"),
                    span: key_span,
                    related: Some((first, "first defined here".to_owned())),
                    hint: None,
                });
            } else {
                seen.insert(key.clone(), key_span);
            }
            let (event, value_span) = self.next()?;
            // A merged mapping stands at the place of the one that merges it.
            if !merge {
                self.path.push(key.clone());
            }
            let value = self.node(event, value_span)?;
            if !merge {
                self.path.pop();
            }
            span.end = span.end.max(value_span.end).max(key_span.end);
            let Some(value) = value else { continue };
            span.end = span.end.max(end_in(&value, start));
            if merge {
                merged.push((value, value_span));
            } else if first.is_none() {
                mapping.insert(
                    key,
                    Entry {
                        key: key_span,
                        value,
                    },
                );
            }
        }
        for (value, at) in merged {
            self.merge(&mut mapping, value, at);
        }
        Ok(Node::mapping(mapping, span))
    }

    /// The text of a key and whether it is a merge key.
    fn key(&mut self, event: Event, span: Span) -> Result<(String, bool), Error> {
        match event {
            Event::Scalar {
                text, plain, tag, ..
            } => {
                let merge = plain && tag == Tag::None && text == "<<";
                if plain && tag == Tag::None && !merge {
                    let value = scalar::resolve_plain(&text);
                    if !matches!(value, Value::String(_)) {
                        self.errors.push(Error {
                            message: format!(
                                "the key `{text}` is {}, but keys are strings",
                                Node::new(value, span).kind()
                            ),
                            span,
                            related: None,
                            hint: Some(format!("quote it: \"{text}\"")),
                        });
                    }
                }
                Ok((text, merge))
            }
            Event::Alias(anchor) => {
                let text = self
                    .anchors
                    .get(&anchor)
                    .and_then(|anchor| anchor.node.as_ref()?.as_str());
                match text {
                    Some(text) => Ok((text.to_owned(), false)),
                    None => Err(Self::bad_key(span)),
                }
            }
            _ => Err(Self::bad_key(span)),
        }
    }

    fn bad_key(span: Span) -> Error {
        Error {
            message: "a key must be a string".to_owned(),
            span,
            related: None,
            hint: None,
        }
    }

    /// Adds what `<<` brings: keys that are not there yet, earlier sources first.
    fn merge(&mut self, mapping: &mut Mapping, source: Node, at: Span) {
        match source.value {
            Value::Mapping(entries) => {
                for (key, entry) in entries {
                    if !mapping.contains(&key) {
                        mapping.insert(key, entry);
                    }
                }
            }
            Value::Sequence(items) if items.iter().all(|item| item.as_mapping().is_some()) => {
                for item in items {
                    self.merge(mapping, item, at);
                }
            }
            other => {
                let kind = Node::new(other, source.span).kind();
                let elsewhere = source.span.start < at.start;
                self.errors.push(Error {
                    message: format!("`<<` merges a mapping or a list of mappings, not {kind}"),
                    span: at,
                    related: elsewhere.then(|| (source.span, format!("{kind} here"))),
                    hint: None,
                });
            }
        }
    }

    fn error(&mut self, span: Span, message: String) {
        self.errors.push(Error {
            message,
            span,
            related: None,
            hint: None,
        });
    }

    fn limit(span: Span, message: &str) -> Error {
        Error {
            message: message.to_owned(),
            span,
            related: None,
            hint: Some("split the file with `include` or `-f`".to_owned()),
        }
    }
}

fn height(node: &Node) -> usize {
    let below = match &node.value {
        Value::Sequence(items) => items.iter().map(height).max(),
        Value::Mapping(mapping) => mapping.iter().map(|(_, entry)| height(&entry.value)).max(),
        _ => return 0,
    };
    below.unwrap_or_default() + 1
}

/// The end of a flow collection; a block collection ends with its last child instead.
fn flow_end(end: Span, start: Span) -> u32 {
    if start.end > start.start { end.end } else { 0 }
}

/// The end of a child, unless an alias brought it from elsewhere.
fn end_in(child: &Node, start: Span) -> u32 {
    if child.span.start >= start.start {
        child.span.end
    } else {
        0
    }
}

/// Standard base64, white space ignored; only text makes sense in a Compose file.
fn decode_base64(text: &str) -> Option<String> {
    let digits: Vec<u8> = text
        .trim_end_matches(|character: char| character == '=' || character.is_ascii_whitespace())
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    String::from_utf8(BASE64_NOPAD.decode(&digits).ok()?).ok()
}

#[cfg(test)]
mod tests;
