use super::*;
use crate::model::{Deploy, Duration, Mount, RestartPolicy};

fn probe(test: &[&str], retries: Option<u64>) -> Healthcheck {
    Healthcheck {
        test: test.iter().map(|word| (*word).into()).collect(),
        retries,
        ..Healthcheck::default()
    }
}

fn state(service: Service) -> DesiredState {
    let mut project = Project {
        name: "shop".into(),
        services: IndexMap::from([("web".into(), service)]),
        ..Project::default()
    };
    for key in ["back", "unused"] {
        let network = Network {
            name: format!("shop_{key}"),
            ..Network::default()
        };
        project.networks.insert(key.into(), network);
        let volume = Volume {
            name: format!("shop_{key}"),
            ..Volume::default()
        };
        project.volumes.insert(key.into(), volume);
    }
    let facts = Facts {
        images: &IndexMap::new(),
        contents: &BTreeMap::from([
            ("secrets.token".into(), "digest".into()),
            ("secrets.other".into(), "digest".into()),
        ]),
        config_hash: |_| "hash".into(),
    };
    desired(&project, &facts)
}

fn web() -> Service {
    Service {
        name: "web".into(),
        networks: IndexMap::from([("back".into(), None)]),
        ..Service::default()
    }
}

#[test]
fn a_replica_is_found_by_service_container_and_number() {
    let replica = state(web()).services["web"].replica(2);
    let sandbox = replica.sandbox.unwrap();
    assert_eq!(sandbox.attachments[0].names, ["web", "shop-web-2", "web-2"]);
    assert_eq!(sandbox.id, "shop-web-2");
    assert_eq!(replica.desired.sandbox.as_deref(), Some("shop-web-2"));
    assert_eq!(replica.desired.config_hash, "hash");
}

#[test]
fn a_container_name_replaces_the_number() {
    let service = Service {
        container_name: Some("site".into()),
        ..web()
    };
    assert_eq!(
        state(service).services["web"].replica(1).desired.name,
        "site"
    );
}

#[test]
fn a_single_command_has_only_its_own_name_and_is_not_restarted() {
    let service = Service {
        restart: Some("always".into()),
        ..web()
    };
    let state = state(service);
    let job = state.services["web"].one_off("shop-web-run-1", false);
    let sandbox = job.sandbox.unwrap();
    assert_eq!(sandbox.attachments[0].names, ["shop-web-run-1"]);
    assert_eq!(
        (job.desired.one_off, job.desired.restart.as_str()),
        (true, "no")
    );
    let job = state.services["web"].one_off("job", true);
    assert_eq!(job.sandbox.unwrap().attachments[0].names, ["web", "job"]);
}

#[test]
fn only_what_the_service_mounts_is_recorded() {
    let service = Service {
        secrets: vec![crate::model::FileReference {
            source: "token".into(),
            ..crate::model::FileReference::default()
        }],
        volumes: vec![Mount {
            source: Some("back".into()),
            target: "/data".into(),
            ..Mount::default()
        }],
        ..web()
    };
    let desired = state(service).services["web"].replica(1).desired;
    assert_eq!(
        desired.contents.into_keys().collect::<Vec<_>>(),
        ["secrets.token"]
    );
    assert_eq!(
        desired.networks.into_keys().collect::<Vec<_>>(),
        ["shop_back"]
    );
    assert_eq!(
        desired.volumes.into_keys().collect::<Vec<_>>(),
        ["shop_back"]
    );
}

#[test]
fn the_default_bridge_is_made_and_any_other_network_of_the_host_must_exist() {
    let on = |mode: &str| {
        let service = Service {
            network_mode: Some(mode.into()),
            ..Service::default()
        };
        let state = state(service);
        let names: Vec<String> = state.services["web"]
            .replica(1)
            .sandbox
            .unwrap()
            .attachments
            .into_iter()
            .flat_map(|joined| joined.names)
            .collect();
        assert!(names.is_empty());
        state.networks[mode].external
    };
    assert!(!on("bridge"));
    assert!(on("podman"));
}

#[test]
fn the_grace_period_is_rounded_up_to_seconds() {
    let after = |period: Option<Duration>| {
        stop_timeout(&Service {
            stop_grace_period: period,
            ..Service::default()
        })
    };
    assert_eq!(after(None), 10);
    assert_eq!(after(Some(Duration(0))), 0);
    assert_eq!(after(Some(Duration(1_000_000_001))), 2);
    assert_eq!(after(Some(Duration(i64::MAX))), u32::MAX);
}

#[test]
fn the_policy_of_deploy_goes_before_restart() {
    let policy = |condition: Option<&str>, max_attempts| {
        restart_policy(&Service {
            restart: Some("unless-stopped".into()),
            deploy: Some(Deploy {
                restart_policy: Some(RestartPolicy {
                    condition: condition.map(String::from),
                    max_attempts,
                    ..RestartPolicy::default()
                }),
                ..Deploy::default()
            }),
            ..Service::default()
        })
    };
    assert_eq!(policy(None, None), "always");
    assert_eq!(policy(Some("none"), None), "no");
    assert_eq!(policy(Some("on-failure"), Some(3)), "on-failure:3");
    assert_eq!(restart_policy(&Service::default()), "no");
}

#[test]
fn the_probe_of_the_image_fills_the_gaps_of_that_of_the_file() {
    let image = probe(&["CMD", "ping"], Some(5));
    let file = probe(&[], Some(1));
    let merged = merged_healthcheck(Some(&file), Some(&image)).unwrap();
    assert_eq!((merged.test, merged.retries), (image.test.clone(), Some(1)));
    assert_eq!(merged_healthcheck(None, Some(&image)), Some(image.clone()));
    assert_eq!(
        merged_healthcheck(Some(&probe(&["NONE"], None)), Some(&image)),
        None
    );
    assert_eq!(merged_healthcheck(Some(&file), None), None);
    let disabled = Healthcheck {
        disable: true,
        ..file
    };
    assert_eq!(merged_healthcheck(Some(&disabled), Some(&image)), None);
}

#[test]
fn the_id_of_a_parent_is_recorded_where_it_matters() {
    let service = Service {
        network_mode: Some("service:db".into()),
        pid: Some("service:db".into()),
        ipc: Some("container:other".into()),
        volumes_from: vec!["db:ro".into()],
        ..Service::default()
    };
    let mut desired = Desired::default();
    for role in ["network_mode", "pid", "ipc", "volumes_from.db"] {
        record_parent(&mut desired, &service, role, "id");
    }
    let recorded: Vec<&String> = desired.parents.keys().collect();
    assert_eq!(recorded, ["pid", "volumes_from.db"]);
}
