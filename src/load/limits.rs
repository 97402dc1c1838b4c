//! Inputs that would take all memory, stack or time. `compose-fixtures/limits/` has those that are small.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{LoadError, LoadOptions, load};

fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        working_dir: folder.to_owned(),
        project_name: Some("test".to_owned()),
        ..LoadOptions::default()
    }
}

/// The error for a text; fails the test if it takes long even for a slow machine.
fn fail(text: String) -> LoadError {
    let start = Instant::now();
    let error = load(&LoadOptions {
        files: vec![PathBuf::from("-")],
        stdin: Some(text),
        ..options(Path::new("/nowhere/test"))
    })
    .expect_err("loading must fail");
    assert!(start.elapsed() < Duration::from_mins(1));
    error
}

/// The first message for a text.
fn message(text: String) -> String {
    fail(text).diagnostics.remove(0).message
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        writeln!(text, "{}", line(index)).unwrap();
        text
    })
}

#[test]
fn aliases_of_long_texts_are_bounded() {
    let long = "x".repeat(1 << 20);
    let text = format!(
        "x-a: &a {long}\nx-b:\n{}",
        lines(1_000, |_| "- *a".to_owned())
    );
    assert_eq!(message(text), "aliases repeat more than 64 MiB");
}

#[test]
fn documents_in_a_file_are_bounded() {
    let text = lines(200, |index| format!("---\nx-{index}: 1"));
    assert_eq!(message(text), "the file has more than 100 documents");
}

#[test]
fn what_extends_copies_is_bounded() {
    let environment = lines(5_000, |index| format!("      A{index}: x"));
    let copies = lines(1_000, |index| format!("  s{index}: {{extends: base}}"));
    let text = format!("services:\n  base:\n    image: x\n    environment:\n{environment}{copies}");
    assert_eq!(
        message(text),
        "the project takes more than 2000000 values by `extends`"
    );
}

#[test]
fn variables_in_texts_are_bounded() {
    let references = "$BIG".repeat(1_000);
    let error = load(&LoadOptions {
        files: vec![PathBuf::from("-")],
        stdin: Some(format!("x-a: {references}")),
        environment: [("BIG".to_owned(), "x".repeat(100_000))]
            .into_iter()
            .collect(),
        ..options(Path::new("/nowhere/test"))
    })
    .expect_err("loading must fail");
    assert_eq!(
        error.diagnostics[0].message,
        "`x-a`: variables make this text longer than 16 MiB"
    );
}

#[test]
fn files_that_include_each_other_in_many_ways_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    // Each includes the next twice: the last would be read more than a million times.
    for level in 0..20 {
        let next = level + 1;
        let text = format!(
            "include: [{next}.yaml, ./{next}.yaml]\nservices: {{s{level}: {{image: x}}}}\n"
        );
        std::fs::write(folder.path().join(format!("{level}.yaml")), text).unwrap();
    }
    std::fs::write(folder.path().join("20.yaml"), "services: {s: {image: x}}\n").unwrap();
    let error = load(&LoadOptions {
        files: vec![folder.path().join("0.yaml")],
        ..options(folder.path())
    })
    .expect_err("loading must fail");
    assert_eq!(
        error.diagnostics[0].message,
        "more than 1000 files are included"
    );
}

#[test]
fn a_chain_of_files_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for level in 0..60 {
        let text = format!("include: [{}.yaml]\n", level + 1);
        std::fs::write(folder.path().join(format!("{level}.yaml")), text).unwrap();
    }
    let error = load(&LoadOptions {
        files: vec![folder.path().join("0.yaml")],
        ..options(folder.path())
    })
    .expect_err("loading must fail");
    assert_eq!(
        error.diagnostics[0].message,
        "files include each other more than 50 deep"
    );
}

#[test]
fn a_huge_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compose.yaml");
    // Sparse: it takes no space.
    std::fs::File::create(&path)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    let error = load(&options(folder.path())).expect_err("loading must fail");
    assert_eq!(
        error.diagnostics[0].message,
        "cannot read `compose.yaml`: it is larger than 64 MiB"
    );
}

#[test]
fn thousands_of_errors_are_cut() {
    let text = format!(
        "services:\n{}",
        lines(20_000, |index| format!("  s{index}: {{imag: x}}"))
    );
    let diagnostics = fail(text).diagnostics;
    assert_eq!(diagnostics.len(), 201);
    assert_eq!(diagnostics[200].message, "19800 more are not shown");
}

#[test]
fn long_lists_of_mappings_are_compared_in_no_time() {
    let ports = lines(20_000, |index| {
        format!("    - {{target: {0}, published: \"{0}\"}}", index + 1)
    });
    let text = format!("services:\n  web:\n    image: x\n    ports:\n{ports}");
    let start = Instant::now();
    let loaded = load(&LoadOptions {
        files: vec![PathBuf::from("-")],
        stdin: Some(text),
        ..options(Path::new("/nowhere/test"))
    });
    assert_eq!(loaded.unwrap().project.services["web"].ports.len(), 20_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}
