use indexmap::IndexMap;
use serde_json::json;

use super::*;
use crate::model::{BlkioConfig, Healthcheck, Port, Service, ServiceNetwork};
use crate::reconcile::definition::service_definition;

fn desired(service: &Service) -> Desired {
    Desired {
        project: "shop".into(),
        name: "shop-web-1".into(),
        config: service_definition(service),
        image: "sha256:1".into(),
        ..Desired::default()
    }
}

fn differences(old: &Service, new: &Service) -> Vec<(String, Class)> {
    found(&desired(old), &desired(new))
}

fn found(old: &Desired, new: &Desired) -> Vec<(String, Class)> {
    let path = |difference: Difference| match difference.reason {
        Reason::Changed { path, .. } => (path, difference.class),
        other => panic!("{other:?}"),
    };
    diff(old, new).into_iter().map(path).collect()
}

fn port(published: &str, target: u16) -> Port {
    Port {
        target,
        published: Some(published.into()),
        protocol: "tcp".into(),
        ..Port::default()
    }
}

#[test]
fn a_definition_does_not_differ_from_itself_after_a_journey_through_json() {
    let service = Service {
        cpus: Some(0.1 + 0.2),
        ports: vec![port("80", 80)],
        ..Service::default()
    };
    let new = desired(&service);
    let old = serde_json::from_str(&serde_json::to_string(&new).unwrap()).unwrap();
    assert_eq!(diff(&old, &new), []);
}

#[test]
fn paths_are_those_of_the_file() {
    let old = Service {
        environment: IndexMap::from([("LEVEL".into(), Some("a".into()))]),
        ports: vec![port("80", 80), port("90", 90)],
        networks: IndexMap::from([("back".into(), None)]),
        ..Service::default()
    };
    let mut new = old.clone();
    new.environment.insert("LEVEL".into(), Some("b".into()));
    new.environment.insert("UNSET".into(), None);
    new.ports = vec![port("81", 80), port("90", 90), port("91", 91)];
    let aliases = vec!["db".into()];
    let network = ServiceNetwork {
        aliases,
        ..ServiceNetwork::default()
    };
    new.networks.insert("back".into(), Some(network));
    let paths: Vec<String> = differences(&old, &new)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    assert_eq!(
        paths,
        [
            "environment.LEVEL",
            "environment.UNSET",
            "networks.back.aliases",
            "ports[0].published",
            "ports[2]",
        ]
    );
}

#[test]
fn an_entry_that_goes_does_not_make_the_others_differ() {
    let old = Service {
        ports: vec![port("80", 80), port("90", 90), port("91", 91)],
        ..Service::default()
    };
    let new = Service {
        ports: old.ports[1..].to_vec(),
        ..Service::default()
    };
    assert_eq!(
        differences(&old, &new),
        [("ports[0]".into(), Class::Recreate)]
    );
}

#[test]
fn what_a_running_container_takes_over_is_in_place() {
    let new = Service {
        cpus: Some(2.0),
        restart: Some("always".into()),
        healthcheck: Some(Healthcheck {
            retries: Some(3),
            ..Healthcheck::default()
        }),
        stop_signal: Some("SIGINT".into()),
        ..Service::default()
    };
    let found = differences(&Service::default(), &new);
    assert_eq!(found.len(), 4);
    assert!(
        found.iter().all(|(_, class)| *class == Class::InPlace),
        "{found:?}"
    );
}

#[test]
fn a_name_that_only_begins_alike_is_not_in_place() {
    let new = Service {
        cpu_count: Some(2),
        label_file: vec!["a".into()],
        logging: Some(crate::model::Logging {
            driver: Some("none".into()),
            ..crate::model::Logging::default()
        }),
        blkio_config: Some(BlkioConfig {
            weight: Some(10),
            device_read_bps: vec![crate::model::ThrottleDevice::default()],
            ..BlkioConfig::default()
        }),
        ..Service::default()
    };
    assert_eq!(
        differences(&Service::default(), &new),
        [
            ("blkio_config.device_read_bps[0]".into(), Class::Recreate),
            ("blkio_config.weight".into(), Class::InPlace),
            ("cpu_count".into(), Class::Recreate),
            ("label_file".into(), Class::InPlace),
            ("logging.driver".into(), Class::Recreate),
        ]
    );
}

#[test]
fn content_takes_a_recreate_unless_the_file_says_otherwise() {
    let old = desired(&Service::default());
    let mut new = old.clone();
    new.contents
        .insert("configs.app.conf".into(), "0123456789abcdef".into());
    assert_eq!(
        found(&old, &new),
        [("configs.app.conf (content)".into(), Class::Recreate)]
    );
    let [Difference { reason, .. }] = &diff(&old, &new)[..] else {
        panic!("one difference");
    };
    let expected = Reason::Changed {
        path: "configs.app.conf (content)".into(),
        old: None,
        new: Some("0123456789ab".into()),
    };
    assert_eq!(*reason, expected);
}

#[test]
fn a_digest_that_is_not_known_yet_does_not_differ() {
    let old = desired(&Service::default());
    let mut new = old.clone();
    new.image = String::new();
    assert_eq!(found(&old, &new), []);
    new.image = "sha256:2".into();
    assert_eq!(found(&old, &new), [("image".into(), Class::Recreate)]);
}

#[test]
fn definitions_of_networks_count_and_those_of_volumes_do_not() {
    let mut old = desired(&Service::default());
    old.networks.insert("shop_back".into(), json!({}));
    old.volumes.insert("shop_data".into(), json!({}));
    let mut new = old.clone();
    new.networks
        .insert("shop_back".into(), json!({ "internal": true }));
    new.volumes
        .insert("shop_data".into(), json!({ "driver": "x" }));
    assert_eq!(
        found(&old, &new),
        [("networks.back.internal".into(), Class::Recreate)]
    );
}

#[test]
fn secrets_are_hidden_by_key_and_by_look() {
    let change = |path: &str, new: Value| Reason::Changed {
        path: path.into(),
        old: Some("old".into()),
        new: Some(new),
    };
    let hidden = |path: &str| Reason::Changed {
        path: path.into(),
        old: None,
        new: Some(HIDDEN.into()),
    };
    let mut reasons = [
        change("environment.DB_PASSWORD", "hunter2".into()),
        change("environment.api-token", "t".into()),
        change(
            "environment.DATABASE_URL",
            "postgres://me:hunter2@db/shop".into(),
        ),
        change("environment.SITE", "https://shop.example/a@b".into()),
        change(
            "post_start[0]",
            json!({ "environment": { "API_KEY": "k", "LEVEL": "1" } }),
        ),
        change("secrets.token (content)", "0123".into()),
    ];
    mask_secrets(&mut reasons);
    assert_eq!(
        reasons,
        [
            hidden("environment.DB_PASSWORD"),
            hidden("environment.api-token"),
            hidden("environment.DATABASE_URL"),
            change("environment.SITE", "https://shop.example/a@b".into()),
            change(
                "post_start[0]",
                json!({ "environment": { "API_KEY": HIDDEN, "LEVEL": "1" } })
            ),
            hidden("secrets.token (content)"),
        ]
    );
}
