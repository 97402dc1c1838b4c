//! The table as a JSON Schema (draft 7, which all editors know), for completion and checks as one types.
//!
//! It accepts what the loader accepts in a single file. A text that holds a variable fits wherever the
//! loader takes its value, as only the value tells what it is.

use serde_json::{Map, Value, json};

use super::{Cast, Field, Form, Keys, Pattern, ROOT, Schema, Types};

const NAMES: &str = "^[a-zA-Z0-9._-]+$";
const LOWER: &str = "^[a-z]+$";

// Grammars of texts, without anchors. The tests hold them against the parsers.
const INTEGER: &str = "[+-]?[0-9]+";
const NUMBER: &str = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?";
const BOOLEAN: &str =
    "[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[yY]([eE][sS])?|[nN][oO]?|[oO][nN]|[oO][fF][fF]";
const DURATION: &str = r"[+-]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w))+)";
const BYTES: &str = r"[+-]?[0-9]+|[+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? ?([bB]|[kKmMgGtTpP]([iI]?[bB])?)?";
const UNSIGNED_BYTES: &str =
    r"-0+|[+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? ?([bB]|[kKmMgGtTpP]([iI]?[bB])?)?";
const MODE: &str = "(0o)?[+]?[0-7]+";
const COUNT: &str = "[aA][lL][lL]|[+-]?[0-9]+";

impl Pattern {
    /// The texts that it stands for, as a regular expression that need not match all of a text.
    fn expression(self) -> &'static str {
        match self {
            Self::ContainerName => "[a-zA-Z0-9][a-zA-Z0-9_.-]",
            Self::PullPolicy => {
                "always|never|build|if_not_present|missing|refresh|daily|weekly|every_[0-9]+[wdhms]"
            }
            Self::Ports => {
                r"^((\[?[0-9a-fA-F:.]*\]?:)?([0-9]+(-[0-9]+)?)?:)?[0-9]+(-[0-9]+)?(/([tT][cC][pP]|[uU][dD][pP]|[sS][cC][tT][pP])?(/.*)?)?$"
            }
            Self::PortRange => "^([0-9]+(-[0-9]+)?)?$",
            // A letter before a colon is a drive.
            Self::Mount => {
                "^(..?|(([a-zA-Z]:[^:]*|[^:a-zA-Z]|[^:]{2,}):){0,2}([a-zA-Z]:[^:]*|[^:]+))$"
            }
            Self::Device => "^[^:]*(:[^:]*){0,2}$",
        }
    }
}

/// What a Compose file may hold, as a JSON Schema.
pub fn json_schema() -> String {
    let mut properties = Map::new();
    let mut definitions = Map::new();
    for field in ROOT.fields {
        let mut property = attribute(field);
        if let Some((entries, keys)) = field.schema.entries {
            // What the users' names stand for is told once and referred to.
            let name = field.name.trim_end_matches('s');
            definitions.insert(name.to_owned(), describe(entries).into());
            let reference = json!({ "$ref": format!("#/definitions/{name}") });
            insert_entries(&mut property, reference, keys);
        }
        properties.insert(field.name.to_owned(), property.into());
    }
    let mut root = Map::new();
    root.insert(
        "$schema".into(),
        "http://json-schema.org/draft-07/schema#".into(),
    );
    root.insert("title".into(), "Compose file".into());
    root.insert(
        "description".into(),
        "A project of services that run in containers".into(),
    );
    root.append(&mut describe(&Schema {
        fields: &[],
        ..ROOT
    }));
    root.insert("properties".into(), properties.into());
    close(&mut root, &ROOT);
    root.insert("definitions".into(), definitions.into());
    format!("{:#}\n", Value::from(root))
}

/// An attribute with what it is for.
fn attribute(field: &Field) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("description".into(), field.about.into());
    out.append(&mut describe(&field.schema));
    if !field.examples.is_empty() {
        out.insert("examples".into(), json!(field.examples));
    }
    out
}

/// What a value may be. Every keyword speaks of one type only, so one object describes all of them.
fn describe(schema: &Schema) -> Map<String, Value> {
    let mut out = Map::new();
    // Texts that become something else may be written wherever that may stand.
    let types = if schema.cast == Cast::None {
        schema.types
    } else {
        schema.types.or(Types::STRING)
    };
    if types != Types::ANY {
        out.insert("type".into(), type_names(types));
    }
    if types.allows(Types::STRING) {
        if !schema.choices.is_empty() {
            let choice = json!([{ "enum": schema.choices }, { "pattern": r"\$" }]);
            out.insert("anyOf".into(), choice);
        }
        if let Some(expression) = expression(schema) {
            out.insert("pattern".into(), expression.into());
        }
    }
    if let Some((least, most)) = schema.range {
        out.insert("minimum".into(), least.into());
        if most != i64::MAX {
            out.insert("maximum".into(), most.into());
        }
    }
    if let Some(items) = schema.items {
        out.insert("items".into(), describe(items).into());
        if schema.distinct {
            out.insert("uniqueItems".into(), true.into());
        }
    }
    if !schema.fields.is_empty() {
        let properties = schema
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), attribute(field).into()))
            .collect::<Map<String, Value>>();
        out.insert("properties".into(), properties.into());
    }
    if !schema.required.is_empty() {
        out.insert("required".into(), json!(schema.required));
    }
    match schema.entries {
        Some((entries, keys)) => insert_entries(&mut out, describe(entries).into(), keys),
        None if !schema.fields.is_empty() => close(&mut out, schema),
        // A mapping where no attributes are known holds anything.
        None => {}
    }
    out
}

/// Says what stands behind the users' own keys.
fn insert_entries(out: &mut Map<String, Value>, entries: Value, keys: Keys) {
    match keys {
        Keys::Any => {
            out.insert("additionalProperties".into(), entries);
            return;
        }
        Keys::Names | Keys::NamesLeniently => {
            out.insert("patternProperties".into(), json!({ NAMES: entries }));
        }
        Keys::LowerLeniently => {
            out.insert("patternProperties".into(), json!({ LOWER: entries }));
        }
    }
    if keys.is_strict() {
        out.insert("additionalProperties".into(), false.into());
    }
}

/// Says that there are no other keys than those named, and extensions.
fn close(out: &mut Map<String, Value>, schema: &Schema) {
    if schema.extensible {
        out.insert("patternProperties".into(), json!({ "^x-": {} }));
    }
    out.insert("additionalProperties".into(), false.into());
}

fn type_names(types: Types) -> Value {
    let mut names: Vec<Value> = Vec::new();
    for (flag, name) in [
        (Types::STRING, "string"),
        (Types::FLOAT, "number"),
        (Types::INTEGER, "integer"),
        (Types::BOOLEAN, "boolean"),
        (Types::SEQUENCE, "array"),
        (Types::MAPPING, "object"),
        (Types::NULL, "null"),
    ] {
        // Integers are numbers.
        if types.allows(flag) && !(flag == Types::INTEGER && types.allows(Types::FLOAT)) {
            names.push(name.into());
        }
    }
    if names.len() == 1 {
        names.remove(0)
    } else {
        names.into()
    }
}

/// What texts are possible, those with variables too.
fn expression(schema: &Schema) -> Option<String> {
    if let Some(pattern) = schema.pattern {
        return Some(format!(r"\$|{}", pattern.expression()));
    }
    let form = match schema.cast {
        Cast::None => schema.form,
        Cast::Integer => Form::Integer,
        Cast::Number => Form::Number,
        Cast::Boolean => Form::Boolean,
    };
    let grammar = of_form(form)?;
    Some(format!(r"\$|^({grammar})$"))
}

fn of_form(form: Form) -> Option<String> {
    let grammar = match form {
        Form::Integer | Form::Unsigned => INTEGER,
        Form::Number => NUMBER,
        Form::Boolean => BOOLEAN,
        Form::Duration => DURATION,
        Form::Microseconds => return Some(format!("{INTEGER}|{DURATION}")),
        Form::Bytes => BYTES,
        Form::UnsignedBytes => UNSIGNED_BYTES,
        Form::Mode | Form::PlainMode => MODE,
        Form::Count => COUNT,
        Form::Raw
        | Form::Text
        | Form::Words
        | Form::Probe
        | Form::Texts
        | Form::Variables
        | Form::Labels
        | Form::Options
        | Form::MultiOptions
        | Form::Hosts
        | Form::Ulimit
        | Form::Ssh => return None,
    };
    Some(grammar.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::model::{Duration, parse_bytes, parse_mount, parse_ports, parse_range};

    fn matches(schema: &Schema, text: &str) -> bool {
        let expression = expression(schema).expect("an expression");
        Regex::new(&expression)
            .expect("a regular expression")
            .is_match(text)
    }

    fn of(pattern: Pattern) -> Schema {
        super::super::TEXT.matching(pattern)
    }

    fn undescribed(schema: &Schema, path: &str, found: &mut Vec<String>) {
        for field in schema.fields {
            let path = format!("{path}.{}", field.name);
            if field.about.is_empty() || field.about.ends_with('.') {
                found.push(path.clone());
            }
            undescribed(&field.schema, &path, found);
        }
        if let Some(items) = schema.items {
            undescribed(items, &format!("{path}[]"), found);
        }
        if let Some((entries, _)) = schema.entries {
            undescribed(entries, &format!("{path}.*"), found);
        }
    }

    #[test]
    fn every_attribute_says_in_a_line_what_it_is_for() {
        let mut found = Vec::new();
        undescribed(&ROOT, "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn names_are_matched_as_they_are_checked() {
        for (keys, expression) in [(Keys::Names, NAMES), (Keys::LowerLeniently, LOWER)] {
            let expression = Regex::new(expression).unwrap();
            for name in ["web", "web-1", "a.b_c", "WEB", "1", "", "we b", "é", "a/b"] {
                assert_eq!(keys.accepts(name), expression.is_match(name), "{name}");
            }
        }
    }

    #[test]
    fn modes_and_counts_are_matched() {
        let mode = super::super::TEXT.form(Form::Mode);
        let count = super::super::TEXT.form(Form::Count);
        for text in ["0440", "440", "0o644", "${MODE}"] {
            assert!(matches(&mode, text), "{text}");
        }
        for text in ["", "0888", "rw"] {
            assert!(!matches(&mode, text), "{text}");
        }
        for text in ["all", "ALL", "2", "-1"] {
            assert!(matches(&count, text), "{text}");
        }
        assert!(!matches(&count, "some"));
    }

    proptest! {
        #[test]
        fn durations_are_matched_as_they_are_read(text in "[-+]?([0-9.]{0,3}(ns|µs|ms|s|m|h|d|w|x| |)){0,3}") {
            let schema = super::super::DURATION;
            prop_assert_eq!(text.parse::<Duration>().is_ok(), matches(&schema, &text));
        }

        #[test]
        fn sizes_are_matched_as_they_are_read(text in "[-+]?[0-9.]{0,4}(e[-+]?[0-9]{0,2})? {0,2}[kKmMgGtTpPxX]?[iI]?[bB]?") {
            let schema = super::super::BYTES;
            prop_assert_eq!(parse_bytes(&text).is_ok(), matches(&schema, &text));
        }

        #[test]
        fn ports_that_are_read_are_matched(text in "(\\[?[0-9a-f:.]{0,9}\\]?:)?([0-9]{0,4}(-[0-9]{0,4})?:)?[0-9]{0,4}(-[0-9]{0,4})?(/[a-zU]{0,4})?") {
            let schema = of(Pattern::Ports);
            prop_assert!(parse_ports(&text).is_err() || matches(&schema, &text), "{}", text);
            let range = of(Pattern::PortRange);
            prop_assert!(parse_range(&text).is_none() || matches(&range, &text), "{}", text);
        }

        #[test]
        fn mounts_are_matched_as_they_are_read(text in "([a-z./\\\\]{0,3}:){0,4}[a-z./]{0,3}") {
            let schema = of(Pattern::Mount);
            prop_assert_eq!(parse_mount(&text).is_ok(), matches(&schema, &text), "{}", text);
        }
    }
}
