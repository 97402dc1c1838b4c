//! What no fixture shows: the typed project, where values come from, and diagnostics as data.

use std::path::{Path, PathBuf};

use super::{LoadError, LoadOptions, Loaded, Severity, load, project_name};
use crate::model::{Condition, Duration, MountKind};

/// A directory with files.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            working_dir: self.path().to_owned(),
            project_name: Some("test".to_owned()),
            ..LoadOptions::default()
        }
    }

    fn load(&self) -> Loaded {
        load(&self.options()).unwrap_or_else(|error| panic!("{:#?}", error.diagnostics))
    }

    fn fail(&self) -> LoadError {
        load(&self.options()).expect_err("loading must fail")
    }
}

fn one(text: &str) -> Files {
    Files::new(&[("compose.yaml", text)])
}

#[test]
fn attributes_have_their_types() {
    let loaded = one("
services:
  web:
    image: nginx
    command: nginx -g 'daemon off;'
    entrypoint: []
    cpus: '0.5'
    mem_limit: 64m
    stop_grace_period: 1m30s
    init: true
    environment: {A: 1, B: }
    ports: ['127.0.0.1:8080:80/udp']
    volumes: ['./html:/html:ro']
    depends_on: {db: {condition: service_healthy, restart: true}}
    ulimits: {nofile: 1024}
    secrets: [{source: token, mode: 0440}]
  db:
    image: postgres
    healthcheck: {test: pg_isready, interval: 5s, retries: 3}
secrets:
  token: {file: ./token}
")
    .load();
    let web = &loaded.project.services["web"];
    assert_eq!(
        web.command.as_deref().unwrap(),
        ["nginx", "-g", "daemon off;"]
    );
    assert_eq!(web.entrypoint, Some(Vec::new()));
    assert_eq!(web.cpus, Some(0.5));
    assert_eq!(web.mem_limit, Some(64 << 20));
    assert_eq!(web.stop_grace_period, Some(Duration::from_secs(90)));
    assert_eq!(web.init, Some(true));
    assert_eq!(web.environment["A"].as_deref(), Some("1"));
    assert_eq!(web.environment["B"], None);
    assert_eq!(web.ports[0].target, 80);
    assert_eq!(web.ports[0].published.as_deref(), Some("8080"));
    assert_eq!(web.volumes[0].kind, MountKind::Bind);
    assert!(web.volumes[0].read_only);
    assert_eq!(web.depends_on["db"].condition, Condition::ServiceHealthy);
    assert!(web.depends_on["db"].restart);
    assert_eq!(web.ulimits["nofile"].hard, 1024);
    assert_eq!(web.secrets[0].mode, Some(0o440));
    let healthcheck = loaded.project.services["db"].healthcheck.as_ref().unwrap();
    assert_eq!(healthcheck.test, ["CMD-SHELL", "pg_isready"]);
    assert_eq!(healthcheck.retries, Some(3));
    assert_eq!(loaded.project.networks["default"].name, "test_default");
}

#[test]
fn services_keep_the_order_of_the_file() {
    let loaded = one("services:\n  c: {image: x}\n  a: {image: x}\n  b: {image: x}\n").load();
    let names: Vec<&str> = loaded.project.services.keys().map(String::as_str).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn every_value_knows_where_it_was_written_and_what_it_overrides() {
    let files = Files::new(&[
        (
            "compose.yaml",
            "services:\n  web:\n    image: one\n    ports: ['80:80']\n",
        ),
        (
            "compose.override.yaml",
            "services:\n  web:\n    image: two\n",
        ),
    ]);
    let loaded = files.load();
    let provenance = &loaded.project.provenance;
    let places: Vec<String> = provenance.0["services.web.image"]
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(places, ["compose.yaml:3:12", "compose.override.yaml:3:12"]);
    let port = provenance
        .origin("services.web.ports[0].published")
        .unwrap();
    assert_eq!(port.to_string(), "compose.yaml:4:13");
    let service = provenance.origin("services.web").unwrap();
    assert_eq!(service.to_string(), "compose.yaml:2:3");
}

#[test]
fn a_diagnostic_is_data() {
    let files = Files::new(&[
        ("compose.yaml", "include:\n  - sub/db.yaml\n"),
        ("sub/db.yaml", "services:\n  db:\n    imgae: postgres\n"),
    ]);
    let error = files.fail();
    let [diagnostic] = error.diagnostics.as_slice() else {
        panic!("{:#?}", error.diagnostics);
    };
    assert_eq!(diagnostic.severity, Severity::Error);
    let label = &diagnostic.labels[0];
    assert_eq!(label.file, PathBuf::from("sub/db.yaml"));
    assert_eq!((label.line, label.column), (3, 5));
    assert_eq!(
        &error.sources.find(&label.file).unwrap().text[label.range.clone()],
        "imgae"
    );
    assert_eq!(diagnostic.hints, ["did you mean `image`?"]);
    assert_eq!(diagnostic.chain.len(), 1);
    assert_eq!(diagnostic.chain[0].origin.to_string(), "compose.yaml:2:5");
    let json = serde_json::to_value(diagnostic).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(json["labels"][0]["line"], 3);
}

#[test]
fn files_are_found_in_directories_above() {
    let files = Files::new(&[
        ("compose.yaml", "services:\n  web: {build: .}\n"),
        ("deep/er/file", ""),
    ]);
    let options = LoadOptions {
        working_dir: files.path().join("deep/er"),
        ..files.options()
    };
    let loaded = load(&options).unwrap();
    assert_eq!(loaded.project.working_dir, files.path());
    assert_eq!(loaded.project.files, [files.path().join("compose.yaml")]);
}

#[test]
fn a_missing_file_is_told_apart() {
    let files = Files::new(&[("compose.yamll", "services: {}\n")]);
    let options = LoadOptions {
        project_name: None,
        ..files.options()
    };
    let error = load(&options).unwrap_err();
    assert!(error.no_file);
    let hints = &error.diagnostics[0].hints;
    assert!(hints.iter().all(|hint| !hint.is_empty()), "{hints:?}");
}

#[test]
fn a_name_that_is_given_needs_no_file() {
    let files = Files::new(&[]);
    assert_eq!(project_name(&files.options()).unwrap(), "test");
}

#[test]
fn secrets_from_variables_reach_the_model_but_no_output() {
    let files = one("
services:
  web: {image: nginx, secrets: [token]}
secrets:
  token: {environment: TOKEN}
");
    let mut options = files.options();
    options
        .environment
        .insert("TOKEN".to_owned(), "confidential".to_owned());
    let loaded = load(&options).unwrap();
    let secret = &loaded.project.secrets["token"];
    assert_eq!(secret.content.as_deref(), Some("confidential"));
    assert!(!loaded.to_yaml().contains("confidential"));
    assert!(!loaded.to_json().contains("confidential"));
}

#[test]
fn a_thousand_services_that_extend_one_file_are_read_once_each() {
    use std::fmt::Write as _;
    let mut text = "services:\n".to_owned();
    for index in 0..1000 {
        let _ = writeln!(
            text,
            "  s{index}: {{extends: {{file: base.yaml, service: base}}}}"
        );
    }
    let base = "services:\n  base: {image: x, environment: {A: 1}, ports: ['80']}\n";
    let files = Files::new(&[("compose.yaml", &text), ("base.yaml", base)]);
    assert_eq!(files.load().project.services.len(), 1000);
}

#[test]
fn what_no_engine_takes_is_refused_unless_it_is_only_printed() {
    let files = one("
services:
  web:
    image: nginx
    shm_size: -1
    ports: [{target: 80, published: many}]
    networks: {front: {ipv4_address: 10.0.0.256}}
networks: {front: {ipam: {config: [{subnet: none}]}}}
");
    let error = files.fail();
    let lines: Vec<u32> = error
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.labels[0].line)
        .collect();
    assert_eq!(lines, [5, 6, 7, 8]);

    let loaded = load(&LoadOptions {
        refuse_unusable: false,
        ..files.options()
    })
    .unwrap();
    assert_eq!(loaded.warnings.len(), 4);
    assert!(loaded.to_yaml().contains("subnet: none"));
}

#[test]
fn no_small_change_to_a_file_makes_the_loader_panic() {
    const TEXT: &str = "
services:
  web:
    build: {context: ., args: [A=1]}
    ports: ['80:80', {target: 443, published: 443}]
    volumes: ['a:/a', {type: bind, source: ., target: /b}]
    environment: {A: 1, B: }
    depends_on: [db]
    healthcheck: {test: [CMD, a], interval: 1s}
    deploy: {resources: {limits: {cpus: '1', memory: 1g}}}
  db: {image: x, networks: {n: {aliases: [q]}}, ulimits: {nofile: 1}}
networks: {n: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}
volumes: {a: {external: true}}
";
    let files = one(TEXT);
    let file = files.path().join("compose.yaml");
    for at in (0..TEXT.len()).step_by(3) {
        for change in [
            "", "x", "[", "{", ": ", "- ", "\n", "$", "!reset ", "&a ", "*a", "'",
        ] {
            let mut text = TEXT.to_owned();
            let end = if change.is_empty() {
                (at + 1).min(TEXT.len())
            } else {
                at
            };
            text.replace_range(at..end, change);
            std::fs::write(&file, text).unwrap();
            // Whether it loads does not matter here; errors must point somewhere.
            if let Err(error) = load(&files.options()) {
                assert!(!error.diagnostics.is_empty());
            }
        }
    }
}
