//! What holds of any project: what is printed reads back as the same project, and three files merge to the
//! same whichever two are merged first.

use std::path::{Path, PathBuf};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{LoadOptions, Loaded, load, load_raw};

/// Texts that YAML, variables and Compose could take for something else.
fn text() -> BoxedStrategy<String> {
    prop_oneof![
        4 => "[a-z][a-z0-9 :#'\"%,{}$*&!|>\\[\\]\\\\-]{0,8}[a-z0-9]",
        1 => select(vec!["yes", "null", "~", "1.0", "0644", "1e3", "a\nb\n", " x", "x ", "é\u{1F600}", "-", "true"])
            .prop_map(str::to_owned),
    ]
    .boxed()
}

fn scalar() -> BoxedStrategy<Value> {
    prop_oneof![
        text().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ]
    .boxed()
}

/// `KEY: VALUE` or `KEY=VALUE`.
fn pairs() -> BoxedStrategy<Value> {
    let values = btree_map("[A-Z]{1,3}", scalar(), 1..4);
    (values, any::<bool>())
        .prop_map(|(values, as_list)| {
            if !as_list {
                return json!(values);
            }
            let line = |(name, value): (String, Value)| match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            };
            json!(values.into_iter().map(line).collect::<Vec<_>>())
        })
        .boxed()
}

fn some_of(choices: &'static [&'static str]) -> BoxedStrategy<Value> {
    btree_set(select(choices), 1..=choices.len())
        .prop_map(|chosen| json!(chosen))
        .boxed()
}

fn one_of(choices: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(choices).prop_map(Value::from).boxed()
}

/// An attribute of the service `s<number>` and a value.
fn attribute(number: usize) -> BoxedStrategy<(&'static str, Value)> {
    let earlier: Vec<String> = (0..number).map(|other| format!("s{other}")).collect();
    let named = |name: &'static str, value: BoxedStrategy<Value>| {
        value.prop_map(move |value| (name, value)).boxed()
    };
    let mut attributes = vec![
        named("command", vec(text(), 1..4).prop_map(|words| json!(words)).boxed()),
        named("environment", pairs()),
        named("labels", pairs()),
        named("annotations", pairs()),
        named("ports", some_of(&["80", "127.0.0.1:81:81", "82:82/udp", "90-92:90-92", "[::1]:83:83"])),
        named("expose", some_of(&["3000", "4000-4002", "53/udp"])),
        named("volumes", some_of(&["data:/a", "/host:/b:ro", "./rel:/c", "/d", "cache:/e:nocopy"])),
        named("tmpfs", some_of(&["/t", "/u:size=1m"])),
        named("cap_add", some_of(&["NET_ADMIN", "SYS_TIME", "ALL"])),
        named("cap_drop", some_of(&["CHOWN", "KILL"])),
        named("dns", some_of(&["1.1.1.1", "9.9.9.9"])),
        named("dns_search", one_of(&["example.com"])),
        named("extra_hosts", some_of(&["a:1.2.3.4", "b=::1"])),
        named("networks", some_of(&["front", "back"])),
        named("secrets", some_of(&["key"])),
        named("configs", some_of(&["settings"])),
        named("devices", some_of(&["/dev/null", "/dev/zero:/dev/z:r"])),
        named("stop_grace_period", one_of(&["0s", "1m30s", "1h", "200ms", "1.5s"])),
        named("mem_limit", one_of(&["64m", "1g", "123456", "1.5gb"])),
        named("shm_size", one_of(&["64m"])),
        named("cpus", one_of(&["0.5", "2"])),
        named("user", one_of(&["1000:1000", "root"])),
        named("restart", one_of(&["no", "always", "on-failure:3"])),
        named("hostname", one_of(&["h"])),
        named("working_dir", one_of(&["/srv"])),
        named("init", any::<bool>().prop_map(Value::from).boxed()),
        named("read_only", any::<bool>().prop_map(Value::from).boxed()),
        named("ulimits", select(vec![json!({"nofile": 1024}), json!({"nproc": {"soft": 1, "hard": 2}})]).boxed()),
        named("sysctls", select(vec![json!({"net.core.somaxconn": 1024}), json!(["a.b=c"])]).boxed()),
        named("logging", Just(json!({"driver": "json-file", "options": {"max-file": 3}})).boxed()),
        named("healthcheck", (text(), one_of(&["5s", "1m"]), 1..9_u8).prop_map(|(test, interval, retries)| {
            json!({"test": test, "interval": interval, "retries": retries})
        }).boxed()),
        named("deploy", (1..4_u8, one_of(&["0.25", "1"])).prop_map(|(replicas, cpus)| {
            json!({"replicas": replicas, "resources": {"limits": {"cpus": cpus, "memory": "64M"}}})
        }).boxed()),
    ];
    if !earlier.is_empty() {
        attributes.push(named(
            "depends_on",
            btree_set(select(earlier), 1..=number)
                .prop_map(|names| json!(names))
                .boxed(),
        ));
    }
    proptest::strategy::Union::new(attributes).boxed()
}

fn services(with_image: bool) -> BoxedStrategy<Map<String, Value>> {
    let services: Vec<_> = (0..3)
        .map(|number| {
            vec(attribute(number), 0..8).prop_map(move |attributes| {
                let mut service = Map::new();
                if with_image {
                    service.insert("image".to_owned(), "example/image:1".into());
                }
                // Two sources for one value would be an error of its own.
                for (name, value) in attributes {
                    let clashes = match name {
                        "cpus" | "mem_limit" => service.contains_key("deploy"),
                        "deploy" => {
                            service.contains_key("cpus") || service.contains_key("mem_limit")
                        }
                        _ => false,
                    };
                    if !clashes {
                        service.insert(name.to_owned(), value);
                    }
                }
                (format!("s{number}"), Value::from(service))
            })
        })
        .collect();
    services
        .prop_map(|services| services.into_iter().collect())
        .boxed()
}

fn project() -> BoxedStrategy<Value> {
    (services(true), text())
        .prop_map(|(services, note)| {
            json!({
                "name": "shop",
                "services": services,
                "networks": {"front": {}, "back": {"internal": true}},
                "volumes": {"data": null, "cache": {"labels": {"a": "b"}}},
                "secrets": {"key": {"file": "./key"}},
                "configs": {"settings": {"content": note}},
                "x-note": {"text": note},
            })
        })
        .boxed()
}

/// Loads a text as it stands, without variables.
fn read(text: &str) -> Loaded {
    let options = LoadOptions {
        files: vec![PathBuf::from("-")],
        stdin: Some(text.replace('$', "$$")),
        working_dir: PathBuf::from("/nowhere/shop"),
        ..LoadOptions::default()
    };
    load(&options).unwrap_or_else(|error| panic!("{text}\n{:#?}", error.diagnostics))
}

/// Merges files without filling in anything.
fn merged(folder: &Path, files: &[&str]) -> String {
    let paths = files.iter().enumerate().map(|(index, text)| {
        let path = folder.join(format!("{index}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    });
    let options = LoadOptions {
        files: paths.collect(),
        working_dir: folder.to_owned(),
        project_name: Some("shop".to_owned()),
        interpolate: false,
        normalize: false,
        resolve_paths: false,
        check_consistency: false,
        ..LoadOptions::default()
    };
    let raw =
        load_raw(&options).unwrap_or_else(|error| panic!("{files:?}\n{:#?}", error.diagnostics));
    raw.to_yaml()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_printed_reads_back_as_the_same_project(project in project()) {
        let first = read(&project.to_string());
        for printed in [first.to_yaml(), first.to_json()] {
            let mut second = read(&printed);
            prop_assert_eq!(first.to_yaml(), second.to_yaml());
            // The same values stand in other places.
            second.project.provenance.clone_from(&first.project.provenance);
            prop_assert_eq!(&first.project, &second.project);
        }
    }

    #[test]
    fn files_merge_to_the_same_whichever_two_are_merged_first(
        files in vec(services(false), 3)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = files
            .into_iter()
            .map(|services| json!({"services": services}).to_string())
            .collect();
        let [first, second, third] = [&texts[0], &texts[1], &texts[2]];
        let all = merged(folder.path(), &[first, second, third]);
        let front = merged(folder.path(), &[first, second]);
        let back = merged(folder.path(), &[second, third]);
        prop_assert_eq!(&all, &merged(folder.path(), &[&front, third]));
        prop_assert_eq!(&all, &merged(folder.path(), &[first, &back]));
    }
}
