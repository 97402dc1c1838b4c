use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::yaml::to_json;

fn one(text: &str) -> Node {
    let mut documents = parse(text, FileId(0)).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).root
}

fn errors(text: &str) -> Vec<String> {
    let errors = parse(text, FileId(0)).unwrap_err();
    errors.into_iter().map(|error| error.message).collect()
}

fn text_at(text: &str, span: Span) -> &str {
    &text[span.start as usize..span.end as usize]
}

#[test]
fn every_value_knows_its_place() {
    let text = "a:\n  b: [one, 'two']\n  c: {d: 3}\n";
    let root = one(text);
    let a = root.get("a").unwrap();
    let list = a.get("b").unwrap();
    assert_eq!(text_at(text, list.span), "[one, 'two']");
    assert_eq!(text_at(text, list.as_sequence().unwrap()[1].span), "'two'");
    assert_eq!(text_at(text, a.get("c").unwrap().span), "{d: 3}");
    let entry = root.as_mapping().unwrap().entry("a").unwrap();
    assert_eq!(text_at(text, entry.key), "a");
    assert_eq!(text_at(text, a.span), "b: [one, 'two']\n  c: {d: 3}");
}

#[test]
fn merge_keys_give_way_to_own_keys_and_earlier_sources() {
    let root =
        one("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\nw: {'<<': 1}\n");
    let z = root.get("z").unwrap();
    let value = |key: &str| z.get(key).and_then(Node::as_int);
    assert_eq!(
        (value("a"), value("b"), value("c")),
        (Some(0), Some(1), Some(2))
    );
    assert!(root.get("w").unwrap().get("<<").is_some());
}

#[test]
fn marks_are_found_behind_aliases_and_merge_keys() {
    let text = "x: &x {ports: !reset [], user: !override u}\na: *x\nb: {<<: *x}\n";
    let documents = parse(text, FileId(0)).unwrap();
    let marks: Vec<String> = documents[0]
        .resets
        .iter()
        .map(|path| path.join("."))
        .collect();
    assert_eq!(
        marks,
        [
            "x.ports", "x.user", "a.ports", "a.user", "b.ports", "b.user"
        ]
    );
    let a = documents[0].root.get("a").unwrap();
    assert!(a.get("ports").is_none());
    assert_eq!(a.text("user"), Some("u"));
}

#[test]
fn everything_wrong_with_keys_is_found_at_once() {
    assert_eq!(
        errors("a: 1\na: 2\n3: x\nb: *c\n"),
        [
            "`a` is defined twice",
            "the key `3` is an integer, but keys are strings",
            "unknown anchor `c`",
        ]
    );
}

#[test]
fn an_anchor_cannot_contain_itself() {
    assert_eq!(errors("a: &a {b: *a}"), ["an anchor refers to itself"]);
}

#[test]
fn aliases_cannot_expand_without_end() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(text, "a{level}: &a{level} [{aliases}]");
    }
    assert!(errors(&text)[0].starts_with("aliases expand to more than"));
}

#[test]
fn nested_anchors_cannot_copy_without_end() {
    let depth = 60;
    let mut text = String::new();
    for level in 0..depth {
        let _ = write!(text, "{{a: &n{level} ");
    }
    let _ = write!(text, "[{}]", vec!["x"; 90_000].join(", "));
    text.push_str(&"}".repeat(depth));
    // Refusing is as good as reading; what counts is that it ends soon.
    parse(&text, FileId(0)).ok();
}

#[test]
fn a_document_has_a_limited_number_of_values() {
    let text = format!("[{}]", vec!["x"; 100_001].join(", "));
    assert!(errors(&text)[0].contains("more than 100000 values"));
}

#[test]
fn nesting_has_a_limit() {
    assert!(parse(&"[".repeat(3000), FileId(0)).is_err());
    let mut blocks = String::new();
    for depth in 0..3000 {
        let _ = writeln!(blocks, "{}a:", " ".repeat(depth));
    }
    assert!(parse(&blocks, FileId(0)).is_err());
}

#[test]
fn nesting_has_a_limit_behind_aliases_too() {
    let mut text = "a0: &a0 x\n".to_owned();
    for level in 1..9 {
        let (open, close) = ("[".repeat(20), "]".repeat(20));
        let before = level - 1;
        let _ = writeln!(text, "a{level}: &a{level} {open}*a{before}{close}");
    }
    assert_eq!(errors(&text), ["values are nested more than 128 deep"]);
}

/// The tree without what the two readers rightly see otherwise.
fn comparable(value: &serde_yaml::Value) -> Option<serde_json::Value> {
    Some(match value {
        serde_yaml::Value::Null => serde_json::Value::Null,
        serde_yaml::Value::Bool(value) => (*value).into(),
        serde_yaml::Value::Number(_) => "number".into(),
        serde_yaml::Value::String(text) => match scalar::resolve_plain(text) {
            Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => "number".into(),
            _ => text.clone().into(),
        },
        serde_yaml::Value::Sequence(items) => items
            .iter()
            .map(comparable)
            .collect::<Option<Vec<_>>>()?
            .into(),
        serde_yaml::Value::Mapping(mapping) => mapping
            .iter()
            .map(|(key, value)| Some((key.as_str()?.to_owned(), comparable(value)?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
        serde_yaml::Value::Tagged(_) => return None,
    })
}

fn yaml_text() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        "[a-z][a-z0-9 ]{0,6}[a-z]",
        "-?[0-9]{1,6}",
        "'[a-z :#]{0,6}'",
        "\"[a-z :#]{0,6}\"",
        Just("true".to_owned()),
        Just("yes".to_owned()),
        Just("~".to_owned()),
    ];
    let flow = scalar.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[a-z]{1,4}k", inner, 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries
                    .into_iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    });
    prop::collection::btree_map("[a-z]{1,4}k", flow, 1..5).prop_map(|entries| {
        entries
            .into_iter()
            .fold(String::new(), |mut text, (key, value)| {
                let _ = writeln!(text, "{key}: {value}");
                text
            })
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\\n]{0,200}") {
        parse(&text, FileId(0)).ok();
    }

    #[test]
    fn structure_agrees_with_serde_yaml(text in yaml_text()) {
        let theirs: Result<serde_yaml::Value, _> = serde_yaml::from_str(&text);
        let ours = parse(&text, FileId(0));
        if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
            let ours = to_json(&ours[0].root);
            let ours: serde_yaml::Value = serde_yaml::from_str(&ours).unwrap();
            prop_assert_eq!(comparable(&ours), comparable(&theirs));
        }
    }
}

#[test]
fn an_anchor_that_is_unknown_is_one_error_where_it_is_merged_too() {
    assert_eq!(errors("a:\n  <<: *x\n"), ["unknown anchor `x`"]);
    assert_eq!(errors("a:\n  <<: [*x]\n"), ["unknown anchor `x`"]);
}

#[test]
fn an_error_further_down_leads_to_what_was_left_open() {
    let cases = [
        ("a: \"b\nc: d\n", "\""),
        ("x:\n  a: ['80'\n  c:\n    d: e\n", "["),
        ("x:\n  a: {b: c\n  d: e\n", "{"),
    ];
    for (text, opening) in cases {
        let error = parse(text, FileId(0)).unwrap_err().remove(0);
        let (span, label) = error.related.expect(text);
        assert_eq!(text_at(text, span), opening, "{text}");
        assert_eq!(label, format!("this `{opening}` is not closed"));
    }
}
