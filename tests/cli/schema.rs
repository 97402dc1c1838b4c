//! The JSON Schema: that it is what the loader's table says, and that it says of files what the loader says.

use std::path::{Path, PathBuf};

use containerd_compose::load::json_schema;
use containerd_compose::yaml::{self, FileId};
use jsonschema::Validator;
use serde_json::Value;

use crate::world::World;

/// Here hosts of two files are printed twice, as docker compose does, which neither would read again.
const REPEATS: &str = "merge/lists-and-mappings/expected.yaml";

/// YAML of another tool, which an example mounts.
const OTHERS: &str = "examples/monitoring/prometheus.yml";

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&json_schema()).expect("the schema is JSON");
    jsonschema::draft7::meta::validate(&schema).expect("the schema is a schema");
    jsonschema::draft7::new(&schema).expect("the schema can be used")
}

/// The documents of a file as they are before variables are replaced; nothing if it is no YAML.
fn documents(text: &str) -> Vec<Value> {
    yaml::parse(text, FileId(0))
        .unwrap_or_default()
        .iter()
        .map(|document| {
            serde_json::from_str(&yaml::to_json(&document.root)).expect("the tree prints as JSON")
        })
        .collect()
}

fn complaints(validator: &Validator, text: &str) -> Vec<String> {
    documents(text)
        .iter()
        .flat_map(|document| validator.iter_errors(document))
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Folders of `compose-fixtures/` and `examples/` that hold a file of this name.
fn folders_with(name: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut left = vec![root().join("compose-fixtures"), root().join("examples")];
    while let Some(folder) = left.pop() {
        if folder.join(name).exists() {
            folders.push(folder.clone());
        }
        left.extend(files(&folder).into_iter().filter(|path| path.is_dir()));
    }
    folders
}

fn files(folder: &Path) -> Vec<PathBuf> {
    folder
        .read_dir()
        .expect("a folder")
        .map(|entry| entry.expect("an entry of a folder").path())
        .collect()
}

/// All YAML files in a folder and below.
fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in files(folder) {
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path
            .extension()
            .is_some_and(|it| it == "yaml" || it == "yml")
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_file_is_up_to_date() {
    let path = root().join("schema/compose.schema.json");
    let schema = json_schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &schema).expect("the schema can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == schema,
        "schema/compose.schema.json differs from the loader; run the tests with UPDATE_SCHEMA=1"
    );
}

#[test]
fn the_command_prints_the_same() {
    let text = World::new().run(&["schema"]);
    assert_eq!(text, format!("{}[exit status: 0]", json_schema()));
}

#[test]
fn what_loads_is_valid_and_so_is_what_is_printed() {
    let validator = validator();
    let mut folders = folders_with("expected.yaml");
    let examples = files(&root().join("examples"));
    folders.extend(examples.into_iter().filter(|path| path.is_dir()));
    let mut count = 0;
    for file in folders.iter().flat_map(|folder| yaml_files(folder)) {
        if file.ends_with(REPEATS) || file.ends_with(OTHERS) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a file of a fixture");
        let found = complaints(&validator, &text);
        assert!(
            found.is_empty(),
            "{}:\n{}",
            file.display(),
            found.join("\n")
        );
        count += 1;
    }
    assert!(count > 60, "only {count} files");
}

#[test]
fn what_is_wrong_by_itself_is_not_valid() {
    let validator = validator();
    for folder in folders_with("expected.err") {
        let topic = folder.parent().and_then(Path::file_name);
        if topic != Some("schema".as_ref()) {
            continue;
        }
        let text = std::fs::read_to_string(folder.join("compose.yaml")).expect("a fixture");
        assert!(
            !complaints(&validator, &text).is_empty(),
            "{}",
            folder.display()
        );
    }
    for wrong in [
        "service: {}",
        "services: []",
        "services: {web: {imgae: x}}",
        "services: {web: {image: 1}}",
        "services: {'we b': {image: x}}",
        "services: {web: {ports: ['80:eighty']}}",
        "services: {web: {ports: '80:80'}}",
        "services: {web: {stop_grace_period: 10}}",
        "services: {web: {stop_grace_period: 10 parsecs}}",
        "services: {web: {mem_limit: 12 apples}}",
        "services: {web: {volumes: ['data:/x:ro:more']}}",
        "services: {web: {volumes: [{target: /x}]}}",
        "services: {web: {cpu_percent: 101}}",
        "services: {web: {depends_on: {db: {condition: service_up}}}}",
        "services: {web: {privileged: maybe}}",
        "services: {web: {cap_add: [A, A]}}",
        "services: {web: {deploy: {replicas: many}}}",
        "services: {web: {extends: {file: x.yaml}}}",
        "services: {web: {pull_policy: sometimes}}",
        "volumes: {data: {drivers: local}}",
        "configs: {c: {content: [x]}}",
    ] {
        assert!(!complaints(&validator, wrong).is_empty(), "{wrong}");
    }
}

#[test]
fn a_text_with_a_variable_stands_for_any_value() {
    let validator = validator();
    for good in [
        "services: {web: {ports: ['${PORT}:80']}}",
        "services: {web: {privileged: '${FLAG}'}}",
        "services: {web: {deploy: {replicas: '$N'}}}",
        "services: {web: {mem_limit: '${MEMORY:-512m}'}}",
        "services: {web: {stop_grace_period: '${GRACE}'}}",
        "services: {web: {pull_policy: '${POLICY:-always}'}}",
        "services: {web: {depends_on: {db: {condition: '${WAIT}', required: '${NEEDED}'}}}}",
        "services: {web: {healthcheck: {retries: '${RETRIES}'}}}",
        "services: {web: {x-mine: 1, ulimits: {nofile: {soft: '${N}', hard: 2}}}}",
        "x-mine: [1, {a: b}]",
    ] {
        let found = complaints(&validator, good);
        assert!(found.is_empty(), "{good}: {found:?}");
    }
}
