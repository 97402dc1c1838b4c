//! YAML to a project and back to text.
#![no_main]

use std::path::PathBuf;

use containerd_compose_fuzz::load::{LoadOptions, load, load_raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = options(text);
    if let Ok(loaded) = load(&options) {
        let yaml = loaded.to_yaml();
        loaded.to_json();
        // What is printed can be read, and printing it again changes nothing.
        match load(&LoadOptions {
            interpolate: false,
            ..self::options(&yaml)
        }) {
            Ok(again) => assert_eq!(yaml, again.to_yaml()),
            Err(error) => panic!("{error}\n{yaml}"),
        }
    }
    if let Ok(raw) = load_raw(&LoadOptions {
        interpolate: false,
        ..options
    }) {
        raw.to_yaml();
        raw.to_json();
        raw.variables();
    }
});

fn options(text: &str) -> LoadOptions {
    LoadOptions {
        files: vec![PathBuf::from("-")],
        stdin: Some(text.to_owned()),
        // Nothing is there, so nothing but the text decides.
        working_dir: PathBuf::from("/nowhere/shop"),
        environment: [("TAG", "1.2"), ("EMPTY", ""), ("HOME", "/root")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        ..LoadOptions::default()
    }
}
