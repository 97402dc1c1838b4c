//! JSON as Go's encoder writes it: two spaces, HTML characters escaped.

use std::fmt::Write as _;

use super::node::{Node, Value};
use super::scalar::format_with_exponent;

/// The tree as indented JSON with a final newline.
pub fn to_json(node: &Node) -> String {
    let mut out = String::new();
    write(&mut out, node, 0);
    out
}

fn write(out: &mut String, node: &Node, depth: usize) {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Unsigned(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::String(text) => string(out, text),
        Value::Sequence(items) if items.is_empty() => out.push_str("[]"),
        Value::Sequence(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(out, index, depth + 1);
                write(out, item, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Mapping(mapping) if mapping.is_empty() => out.push_str("{}"),
        Value::Mapping(mapping) => {
            out.push('{');
            for (index, (key, entry)) in mapping.iter().enumerate() {
                separate(out, index, depth + 1);
                string(out, key);
                out.push_str(": ");
                write(out, &entry.value, depth + 1);
            }
            line(out, depth);
            out.push('}');
        }
    }
}

fn separate(out: &mut String, index: usize, depth: usize) {
    if index > 0 {
        out.push(',');
    }
    line(out, depth);
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn float(value: f64) -> String {
    if !value.is_finite() {
        // JSON has no word for it.
        return "null".to_owned();
    }
    format_with_exponent(value, -6, 21)
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
