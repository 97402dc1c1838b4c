//! YAML as `docker compose config` writes it.

use std::fmt::Write as _;

use super::node::{Node, Value};
use super::scalar::{format_float, resolve_plain};

/// The tree as block-style YAML.
pub fn to_yaml(node: &Node) -> String {
    to_annotated_yaml(node, &|_| None)
}

/// As [`to_yaml`], with what `comment` says of a value behind it.
pub fn to_annotated_yaml(node: &Node, comment: Comment<'_>) -> String {
    let mut out = String::new();
    if is_block(node) {
        block(&mut out, node, 0, false, comment);
    } else {
        scalar(&mut out, node, 0, comment);
        out.push('\n');
    }
    out
}

/// What to say of a value.
type Comment<'c> = &'c dyn Fn(&Node) -> Option<String>;

/// Writes a non-empty collection; `inline` says that the first line goes on behind a `- `.
fn block(out: &mut String, node: &Node, indent: usize, inline: bool, comment: Comment<'_>) {
    let mut first = inline;
    let mut start_line = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match &node.value {
        Value::Mapping(mapping) => {
            for (key, entry) in mapping.iter() {
                start_line(out);
                out.push_str(&quote(key));
                out.push(':');
                value(out, &entry.value, indent, comment);
            }
        }
        Value::Sequence(items) => {
            for item in items {
                start_line(out);
                out.push('-');
                // Behind the dash of a collection, a comment pushes its first line down.
                let said = is_block(item) && annotate(out, item, comment);
                if said {
                    out.push('\n');
                    block(out, item, indent + 2, false, comment);
                } else if is_block(item) {
                    out.push(' ');
                    block(out, item, indent + 2, true, comment);
                } else {
                    out.push(' ');
                    scalar(out, item, indent, comment);
                    out.push('\n');
                }
            }
        }
        _ => {}
    }
}

/// Writes the comment on a value, if there is one.
fn annotate(out: &mut String, node: &Node, comment: Comment<'_>) -> bool {
    let Some(text) = comment(node) else {
        return false;
    };
    out.push_str("  # ");
    out.push_str(&text);
    true
}

fn is_block(node: &Node) -> bool {
    match &node.value {
        Value::Mapping(mapping) => !mapping.is_empty(),
        Value::Sequence(items) => !items.is_empty(),
        _ => false,
    }
}

fn value(out: &mut String, node: &Node, indent: usize, comment: Comment<'_>) {
    if is_block(node) {
        annotate(out, node, comment);
        out.push('\n');
        block(out, node, indent + 2, false, comment);
    } else {
        out.push(' ');
        scalar(out, node, indent, comment);
        out.push('\n');
    }
}

fn scalar(out: &mut String, node: &Node, indent: usize, comment: Comment<'_>) {
    if let Value::String(text) = &node.value
        && is_literal(text)
    {
        literal_header(out, text);
        annotate(out, node, comment);
        literal(out, text, indent);
        return;
    }
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Unsigned(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::String(text) => out.push_str(&quote(text)),
        Value::Sequence(_) => out.push_str("[]"),
        Value::Mapping(_) => out.push_str("{}"),
    }
    annotate(out, node, comment);
}

fn float(value: f64) -> String {
    if value.is_nan() {
        ".nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf" } else { "-.inf" }.to_owned()
    } else {
        format_float(value)
    }
}

/// Text of several lines goes into a literal block unless only escapes can write it.
fn is_literal(text: &str) -> bool {
    text.contains('\n') && !needs_escapes(text)
}

fn literal_header(out: &mut String, text: &str) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    match text.strip_suffix('\n') {
        None => out.push('-'),
        Some(rest) if rest.ends_with('\n') || rest.is_empty() => out.push('+'),
        Some(_) => {}
    }
}

fn literal(out: &mut String, text: &str, indent: usize) {
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent + 2));
            out.push_str(line);
        }
    }
}

/// A string in the lightest quotes that bring it back unchanged.
fn quote(text: &str) -> String {
    if needs_escapes(text) || text.contains(['\n', '\t']) || reads_as_other(text) {
        return double_quoted(text);
    }
    if is_plain(text) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether a reader of YAML 1.1 or 1.2 takes the plain text for something that is no string.
fn reads_as_other(text: &str) -> bool {
    !matches!(resolve_plain(text), Value::String(_))
        || text == "<<"
        || is_old_boolean(text)
        || is_base_60(text)
        || is_date(text)
}

/// YAML 1.1 took these for booleans.
fn is_old_boolean(text: &str) -> bool {
    matches!(
        text,
        "y" | "Y"
            | "yes"
            | "Yes"
            | "YES"
            | "on"
            | "On"
            | "ON"
            | "n"
            | "N"
            | "no"
            | "No"
            | "NO"
            | "off"
            | "Off"
            | "OFF"
    )
}

/// YAML 1.1 took `1:30` for ninety.
fn is_base_60(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    first.starts_with(|character: char| character.is_ascii_digit())
        && first
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
        && !rest.is_empty()
        && rest
            .iter()
            .all(|part| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
        && fraction
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
}

/// A date, alone or with a time.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: &str, least: usize, most: usize| {
        (least..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (day, time) = match rest.find(['T', 't', ' ']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    digits(year, 4, 4)
        && digits(month, 1, 2)
        && digits(day, 1, 2)
        && time.is_none_or(|time| {
            let mut parts = time.splitn(3, ':');
            parts.next().is_some_and(|hour| digits(hour, 1, 2))
                && parts.next().is_some_and(|minute| digits(minute, 1, 2))
                && parts
                    .next()
                    .is_some_and(|second| second.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// Whether the text can stand without quotes.
fn is_plain(text: &str) -> bool {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return false;
    };
    let second = characters.next();
    if text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    match first {
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
        | '@' | '`' | ' ' => return false,
        '?' | ':' | '-' if second.is_none_or(|second| second == ' ') => return false,
        _ => {}
    }
    !text.ends_with([' ', ':']) && !text.contains(": ") && !text.contains(" #")
}

/// Whether only double quotes with escapes can hold the text, its line breaks and tabs aside.
fn needs_escapes(text: &str) -> bool {
    !text
        .chars()
        .all(|character| matches!(character, '\n' | '\t') || is_printable(character))
}

/// What go-yaml writes as it stands: nothing beyond the basic plane, for one.
fn is_printable(character: char) -> bool {
    matches!(
        character,
        ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}'
    )
}

fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            other if is_printable(other) => out.push(other),
            other => {
                let code = u32::from(other);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02X}"),
                    0x100..=0xffff => write!(out, "\\u{code:04X}"),
                    _ => write!(out, "\\U{code:08X}"),
                };
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml::{FileId, Mapping, Span, parse};

    #[test]
    fn texts_are_quoted_as_in_the_reference() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("", "\"\""),
            ("yes", "\"yes\""),
            ("y", "\"y\""),
            ("null", "\"null\""),
            ("1", "\"1\""),
            ("1_000", "\"1_000\""),
            ("0644", "\"0644\""),
            ("1:30", "\"1:30\""),
            ("2001-12-14", "\"2001-12-14\""),
            ("<<", "\"<<\""),
            ("a: b", "'a: b'"),
            ("# x", "'# x'"),
            ("a #b", "'a #b'"),
            ("@x", "'@x'"),
            ("it's: x", "'it''s: x'"),
            ("-", "'-'"),
            ("-x", "-x"),
            ("{x}", "'{x}'"),
            (" x", "' x'"),
            ("x ", "'x '"),
            ("a\tb", "\"a\\tb\""),
            ("\u{1}", "\"\\x01\""),
            ("🚢", "\"\\U0001F6A2\""),
            ("é", "é"),
        ] {
            assert_eq!(quote(text), expected);
        }
    }

    #[test]
    fn lines_go_into_literal_blocks() {
        let mut mapping = Mapping::new();
        for (key, text) in [
            ("clip", "a\n  b\n"),
            ("strip", "a\nb"),
            ("keep", "a\n\n"),
            ("indented", " a\nb"),
        ] {
            mapping.set(key, Node::string(text, Span::NONE));
        }
        assert_eq!(
            to_yaml(&Node::mapping(mapping, Span::NONE)),
            "clip: |\n  a\n    b\nstrip: |-\n  a\n  b\nkeep: |+\n  a\n\nindented: |2-\n   a\n  b\n"
        );
    }

    fn node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(|value| Node::boolean(value, Span::NONE)),
            any::<i64>().prop_map(|value| Node::integer(value, Span::NONE)),
            "[ -~é\\n\\t]{0,12}".prop_map(|text| Node::string(text, Span::NONE)),
            Just(Node::default()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| Node::sequence(items, Span::NONE)),
                prop::collection::vec(("[ -~]{1,8}", inner), 0..4).prop_map(|entries| {
                    let mut mapping = Mapping::new();
                    for (key, value) in entries {
                        mapping.set(&key, value);
                    }
                    Node::mapping(mapping, Span::NONE)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(node in node()) {
            let text = to_yaml(&node);
            let documents = parse(&text, FileId(0)).map_err(|errors| {
                TestCaseError::fail(format!("{errors:?}\n{text}"))
            })?;
            prop_assert_eq!(&documents[0].root, &node, "{}", text);
        }
    }
}
