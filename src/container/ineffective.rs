//! Attributes that are understood and take no effect here: each is told to the user once.

use super::environment::missing_controls;
use crate::engine::spec::Host;
use crate::model::{Service, UpdateConfig};

/// Attributes of `service` that take no effect, by path in the service (as `deploy.placement`), with the reason.
pub fn ineffective(service: &Service) -> Vec<(String, String)> {
    ineffective_on(service, Host::get())
}

fn ineffective_on(service: &Service, host: &Host) -> Vec<(String, String)> {
    const WINDOWS: &str = "it is for Windows containers";
    const SWARM: &str = "it is for a cluster, and this is one host";
    const UNKNOWN_ACTION: &str = "there is no such action; a failed update is paused";
    const MODES: [&str; 4] = ["replicated", "global", "replicated-job", "global-job"];
    let deploy = service.deploy.as_ref();
    let reservations = deploy.and_then(|deploy| deploy.resources.reservations.as_ref());
    let placement = deploy.map(|deploy| &deploy.placement);
    let restart = deploy.and_then(|deploy| deploy.restart_policy.as_ref());
    let update = deploy.and_then(|deploy| deploy.update_config.as_ref());
    let rollback = deploy.and_then(|deploy| deploy.rollback_config.as_ref());
    let unknown_action = |config: Option<&UpdateConfig>| {
        let action = config.and_then(|config| config.failure_action.as_deref());
        action.is_some_and(|action| !["", "pause", "continue", "rollback"].contains(&action))
    };
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let volumes = || service.volumes.iter().enumerate();
    let checks = [
        (
            "credential_spec",
            service.credential_spec.is_some(),
            WINDOWS,
        ),
        (
            "isolation",
            service
                .isolation
                .as_deref()
                .is_some_and(|mode| !mode.is_empty() && mode != "default"),
            WINDOWS,
        ),
        (
            "cpu_count",
            service.cpu_count.is_some_and(|count| count != 0),
            WINDOWS,
        ),
        (
            "cpu_percent",
            service.cpu_percent.is_some_and(|percent| percent != 0.0),
            WINDOWS,
        ),
        (
            "storage_opt",
            !service.storage_opt.is_empty(),
            "containerd's snapshotters have no options of one container",
        ),
        (
            "use_api_socket",
            service.use_api_socket,
            "there is no Docker engine whose socket could be given",
        ),
        (
            "models",
            !service.models.is_empty(),
            "language models are not served; name the model's address in `environment`",
        ),
        (
            "external_links",
            !service.external_links.is_empty(),
            "a common external network gives both containers each other's names",
        ),
        (
            "deploy.resources.reservations.cpus",
            reservations.is_some_and(|reservations| reservations.cpus.is_some()),
            "only a scheduler of a cluster reserves CPUs; `cpu_shares` weighs them",
        ),
        (
            "deploy.resources.reservations.generic_resources",
            reservations.is_some_and(|reservations| !reservations.generic_resources.is_empty()),
            SWARM,
        ),
        (
            "deploy.update_config.failure_action",
            unknown_action(update),
            UNKNOWN_ACTION,
        ),
        (
            "deploy.rollback_config.failure_action",
            unknown_action(rollback),
            UNKNOWN_ACTION,
        ),
        (
            "deploy.rollback_config",
            update.is_none() && rollback.is_some(),
            "without `update_config` there is nothing to roll back",
        ),
        (
            "deploy.labels",
            deploy.is_some_and(|deploy| !deploy.labels.is_empty()),
            SWARM,
        ),
        (
            "deploy.endpoint_mode",
            deploy.is_some_and(|deploy| set(&deploy.endpoint_mode)),
            SWARM,
        ),
        (
            "deploy.mode",
            deploy
                .and_then(|deploy| deploy.mode.as_deref())
                .is_some_and(|mode| !MODES.contains(&mode)),
            "there is no such mode",
        ),
        (
            "deploy.placement",
            placement.is_some_and(|placement| {
                !placement.constraints.is_empty()
                    || !placement.preferences.is_empty()
                    || placement.max_replicas_per_node.is_some()
            }),
            SWARM,
        ),
        (
            "deploy.restart_policy.delay",
            restart.is_some_and(|restart| restart.delay.is_some()),
            "the pause before a restart begins at 100 ms and doubles",
        ),
        (
            "deploy.restart_policy.window",
            restart.is_some_and(|restart| restart.window.is_some()),
            "a container counts as restarted once it has run for ten seconds",
        ),
    ];
    let mut found: Vec<(String, String)> = checks
        .into_iter()
        .filter(|(_, set, _)| *set)
        .chain(
            missing_controls(service, host)
                .into_iter()
                .map(|(name, reason)| (name, true, reason)),
        )
        .map(|(name, _, reason)| (name.to_owned(), reason.to_owned()))
        .collect();
    let kept = ["json-file", "local", "none", "syslog", "journald"];
    let driver = service
        .logging
        .as_ref()
        .and_then(|logging| logging.driver.as_deref());
    if driver.is_some_and(|driver| !driver.is_empty() && !kept.contains(&driver)) {
        let reason = "logs are kept as `json-file`; the drivers are `json-file`, `local`, `none`, `syslog` and `journald`";
        found.push(("logging.driver".into(), reason.into()));
    }
    for (key, network) in &service.networks {
        let Some(network) = network else { continue };
        let mut note = |name: &str, set: bool, reason: &str| {
            if set {
                found.push((format!("networks.{key}.{name}"), reason.into()));
            }
        };
        let reason = "addresses of the link are the kernel's own to choose";
        note("link_local_ips", !network.link_local_ips.is_empty(), reason);
        let reason = "networks have no options of one container";
        note("driver_opts", !network.driver_opts.is_empty(), reason);
    }
    for (index, mount) in volumes() {
        if mount
            .consistency
            .as_ref()
            .is_some_and(|text| !text.is_empty())
        {
            let reason = "mounts of the host are always consistent on Linux";
            found.push((format!("volumes[{index}].consistency"), reason.into()));
        }
        let relabel = mount.bind.as_ref().is_some_and(|bind| set(&bind.selinux));
        if relabel {
            let reason = "files are not relabelled for SELinux";
            found.push((format!("volumes[{index}].bind.selinux"), reason.into()));
        }
    }
    for (index, option) in service.security_opt.iter().enumerate() {
        let label = option.starts_with("label=") || option.starts_with("label:");
        if label && !option.ends_with("disable") {
            let reason = "this host does not use SELinux";
            found.push((format!("security_opt[{index}]"), reason.into()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BindOptions, CredentialSpec, Deploy, Logging, Mount, ServiceNetwork};

    fn names(service: &Service, host: &Host) -> Vec<String> {
        ineffective_on(service, host)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn a_plain_service_is_wholly_effective() {
        let service = Service {
            cpus: Some(1.0),
            mem_limit: Some(64 << 20),
            memswap_limit: Some(-1),
            isolation: Some("default".into()),
            deploy: Some(Deploy {
                mode: Some("replicated".into()),
                ..Deploy::default()
            }),
            ..Service::default()
        };
        assert!(ineffective_on(&service, &Host::example()).is_empty());
    }

    #[test]
    fn what_takes_no_effect_is_named_by_its_path() {
        let mut service = Service {
            credential_spec: Some(CredentialSpec::default()),
            logging: Some(Logging {
                driver: Some("gelf".into()),
                ..Logging::default()
            }),
            cpu_count: Some(2),
            deploy: Some(Deploy {
                mode: Some("everywhere".into()),
                endpoint_mode: Some("vip".into()),
                ..Deploy::default()
            }),
            volumes: vec![
                Mount::default(),
                Mount {
                    consistency: Some("cached".into()),
                    bind: Some(BindOptions {
                        selinux: Some("z".into()),
                        ..BindOptions::default()
                    }),
                    ..Mount::default()
                },
            ],
            ..Service::default()
        };
        let network = ServiceNetwork {
            link_local_ips: vec!["169.254.1.1".parse().unwrap()],
            ..ServiceNetwork::default()
        };
        service.networks.insert("back".into(), Some(network));
        assert_eq!(
            names(&service, &Host::example()),
            [
                "credential_spec",
                "cpu_count",
                "deploy.endpoint_mode",
                "deploy.mode",
                "logging.driver",
                "networks.back.link_local_ips",
                "volumes[1].consistency",
                "volumes[1].bind.selinux",
            ]
        );
    }

    #[test]
    fn limits_that_the_kernel_lacks_are_named() {
        let service = Service {
            mem_swappiness: Some(10),
            oom_kill_disable: true,
            ..Service::default()
        };
        let mut host = Host::example();
        assert!(names(&service, &host).is_empty());
        host.controls = crate::engine::spec::Controls::default();
        assert_eq!(
            names(&service, &host),
            ["mem_swappiness", "oom_kill_disable"]
        );
    }
}
