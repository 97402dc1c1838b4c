//! The parser behind the tree: all use of `granit-parser` is here.

use granit_parser::{Event as Raw, Parser, ScalarStyle, ScanError, StrInput, options};

use super::node::{FileId, Span};

/// Nesting of flow collections, and of block collections, beyond which a text is refused.
const NESTING_LIMIT: usize = 60;

/// What the composer needs of a parser event. Anchors are numbered from 1; 0 means none.
#[derive(Debug)]
pub(super) enum Event {
    DocumentStart,
    Scalar {
        text: String,
        plain: bool,
        anchor: usize,
        tag: Tag,
    },
    Alias(usize),
    UnknownAlias(String),
    SequenceStart {
        anchor: usize,
        tag: Tag,
    },
    SequenceEnd,
    MappingStart {
        anchor: usize,
        tag: Tag,
    },
    MappingEnd,
    End,
}

/// A tag that means something to Compose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    None,
    Reset,
    Override,
    String,
    Integer,
    Float,
    Boolean,
    Null,
    Binary,
    Other,
}

/// A syntax error at a byte of the text.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) at: u32,
}

/// Events of a text, without comments and the start and end marks that carry nothing.
pub(super) struct Events<'text> {
    parser: Parser<'text, StrInput<'text>>,
    text: &'text str,
    file: FileId,
    length: u32,
}

impl<'text> Events<'text> {
    pub(super) fn new(text: &'text str, file: FileId) -> Self {
        let options = options! {
            emit_unresolved_aliases: true,
            flow_nesting_limit: NESTING_LIMIT,
            block_nesting_limit: NESTING_LIMIT,
        };
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            text,
            file,
            length: u32::try_from(text.len()).unwrap_or(u32::MAX),
        }
    }

    /// The next event; [`Event::End`] for ever after the last.
    pub(super) fn next(&mut self) -> Result<(Event, Span), SyntaxError> {
        loop {
            let Some(next) = self.parser.next_event() else {
                return Ok((Event::End, self.span(self.length, self.length)));
            };
            let (raw, raw_span) = next.map_err(|error| self.syntax_error(&error))?;
            let byte = |offset: Option<usize>| {
                offset.map_or(self.length, |byte| u32::try_from(byte).unwrap_or(u32::MAX))
            };
            let span = self.span(
                byte(raw_span.start.byte_offset()),
                byte(raw_span.end.byte_offset()),
            );
            if let Raw::Scalar(_, ScalarStyle::DoubleQuoted, ..) = raw {
                self.check_escapes(span)?;
            }
            let event = match raw {
                Raw::StreamEnd => Event::End,
                Raw::DocumentStart(..) => Event::DocumentStart,
                Raw::Scalar(text, style, anchor, tag) => Event::Scalar {
                    text: self.without_made_up_newline(text.into_owned(), style, span),
                    plain: style == ScalarStyle::Plain,
                    anchor,
                    tag: convert_tag(tag.as_deref()),
                },
                Raw::Alias(anchor) => Event::Alias(anchor),
                Raw::UnresolvedAlias(name) => Event::UnknownAlias(name.into_owned()),
                Raw::SequenceStart(_, anchor, tag) => Event::SequenceStart {
                    anchor,
                    tag: convert_tag(tag.as_deref()),
                },
                Raw::SequenceEnd => Event::SequenceEnd,
                Raw::MappingStart(_, anchor, tag) => Event::MappingStart {
                    anchor,
                    tag: convert_tag(tag.as_deref()),
                },
                Raw::MappingEnd => Event::MappingEnd,
                _ => continue,
            };
            return Ok((event, span));
        }
    }

    /// A block scalar that ends the text ends in a line break only if the text does; the parser always
    /// adds one.
    fn without_made_up_newline(&self, mut text: String, style: ScalarStyle, span: Span) -> String {
        if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) && text.ends_with('\n') {
            let line = self.text.rfind('\n').map_or(0, |newline| newline + 1);
            let rest = self.text.get(span.end as usize..).unwrap_or_default();
            let is_last = rest.trim().is_empty() && span.end as usize > line;
            if is_last && !self.text[line..].trim().is_empty() {
                text.pop();
            }
        }
        text
    }

    /// Refuses `\/`, which YAML 1.2 has but the reference does not know.
    fn check_escapes(&self, span: Span) -> Result<(), SyntaxError> {
        let quoted = self
            .text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default();
        let mut bytes = quoted.bytes().zip(span.start..);
        while let Some((byte, at)) = bytes.next() {
            if byte == b'\\' && bytes.next().is_some_and(|(escaped, _)| escaped == b'/') {
                return Err(SyntaxError {
                    message: "unknown escape `\\/`".to_owned(),
                    at,
                });
            }
        }
        Ok(())
    }

    fn span(&self, start: u32, end: u32) -> Span {
        Span {
            file: self.file,
            start,
            end,
        }
    }

    fn syntax_error(&self, error: &ScanError) -> SyntaxError {
        let at = error.marker().byte_offset().unwrap_or_default();
        SyntaxError {
            message: error.info(),
            at: u32::try_from(at).unwrap_or(u32::MAX).min(self.length),
        }
    }
}

fn convert_tag(tag: Option<&granit_parser::Tag>) -> Tag {
    let Some(tag) = tag else { return Tag::None };
    if tag.handle() == "!" {
        return match tag.suffix() {
            "reset" => Tag::Reset,
            "override" => Tag::Override,
            // The non-specific tag `!` changes nothing, as in the reference.
            "" => Tag::None,
            _ => Tag::Other,
        };
    }
    match tag.core_suffix() {
        Some("str") => Tag::String,
        Some("int") => Tag::Integer,
        Some("float") => Tag::Float,
        Some("bool") => Tag::Boolean,
        Some("null") => Tag::Null,
        _ if tag.suffix() == "binary" => Tag::Binary,
        _ => Tag::Other,
    }
}
