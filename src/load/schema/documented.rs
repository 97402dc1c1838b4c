//! `docs/attributes.md` has a row for every attribute, and names only tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

use super::{ROOT, Schema};

const TABLE: &str = include_str!("../../../docs/attributes.md");
/// Parts that are described as a whole: they concern building and watching, not containers.
const WHOLE: [&str; 3] = ["services.*.build", "services.*.develop", "models.*"];

fn collect(schema: &'static Schema, path: &str, found: &mut BTreeSet<String>) {
    if WHOLE.contains(&path) {
        return;
    }
    for field in schema.fields {
        let path = format!("{path}.{}", field.name);
        found.insert(path.trim_start_matches('.').to_owned());
        collect(&field.schema, path.trim_start_matches('.'), found);
    }
    if let Some(items) = schema.items {
        collect(items, &format!("{path}[]"), found);
    }
    if let Some((entries, _)) = schema.entries {
        collect(entries, &format!("{path}.*"), found);
    }
}

/// Cells of the rows of all tables, and what their attributes belong to.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut section = "";
    let mut rows = Vec::new();
    for line in TABLE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = if title.ends_with("of the project") {
                ""
            } else {
                "services.*."
            };
        } else if line.starts_with("| `") {
            let cells = line.trim_matches('|').split(" | ");
            rows.push((section, cells.map(str::trim).collect()));
        }
    }
    rows
}

/// What stands in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_attribute_has_a_row_and_every_row_an_attribute() {
    let mut known = BTreeSet::new();
    collect(&ROOT, "", &mut known);
    // The names of whole sections say nothing of their own.
    known.retain(|path| path.contains(".*."));
    let mut rows_of: Vec<String> = Vec::new();
    for (section, row) in rows() {
        rows_of.extend(quoted(row[0]).map(|path| format!("{section}{path}")));
    }
    let listed: BTreeSet<String> = rows_of.iter().cloned().collect();
    assert_eq!(listed.len(), rows_of.len(), "an attribute has two rows");
    let missing: Vec<_> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "without a row: {missing:#?}");
    let unknown: Vec<_> = listed.difference(&known).collect();
    assert!(unknown.is_empty(), "no such attribute: {unknown:#?}");
}

#[test]
fn every_row_names_a_test_that_exists_or_a_warning() {
    let mut tests = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests"] {
        tests_in(&root.join(folder), &mut tests);
    }
    assert!(tests.len() > 100);
    for (_, row) in rows() {
        let proof = row.last().copied().unwrap_or_default();
        let mut named = quoted(proof).peekable();
        assert!(
            named.peek().is_some() || proof.starts_with("warning") || proof.starts_with("error"),
            "no proof: {row:?}"
        );
        for test in named {
            assert!(tests.contains(test), "no test `{test}`: {row:?}");
        }
    }
}

fn tests_in(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_in(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim_start) {
                let function = line.trim_start_matches("async ").strip_prefix("fn ");
                match function.and_then(|rest| rest.split_once('(')) {
                    Some((name, _)) if marked => {
                        tests.insert(name.to_owned());
                        marked = false;
                    }
                    _ => marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
                }
            }
        }
    }
}
