//! Attributes of a service that become parts of the spec: limits, devices, security, namespaces, sysctls.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ContainerError, cdi};
use crate::engine::spec::{
    Blkio, Device, DeviceRule, Host, Namespace, ResourceLimit, Resources, Seccomp, devices,
};
use crate::log::forward::Destination;
use crate::model::{Project, Service, ThrottleDevice};

/// The limits. `deploy.resources` fills what the service itself leaves out.
pub(super) fn resources(
    service: &Service,
    device_rules: Vec<DeviceRule>,
) -> Result<Resources, ContainerError> {
    let deploy = service.deploy.as_ref().map(|deploy| &deploy.resources);
    let limits = deploy.and_then(|resources| resources.limits.as_ref());
    let reservations = deploy.and_then(|resources| resources.reservations.as_ref());
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    let unsigned = |attribute: &str, value: Option<i64>| match value {
        None | Some(0) => Ok(None),
        Some(value) => u64::try_from(value).map(Some).map_err(|_| {
            ContainerError::invalid(attribute, value.to_string(), "it cannot be negative")
        }),
    };
    let cpus = service.cpus.or(limits.and_then(|limits| limits.cpus));
    let memory = service
        .mem_limit
        .or(limits.and_then(|limits| limits.memory));
    let reservation = service
        .mem_reservation
        .or(reservations.and_then(|reservations| reservations.memory));
    Ok(Resources {
        // Zero means unlimited; anything else is checked where the host is known.
        cpus: cpus.filter(|cpus| *cpus != 0.0),
        cpuset: service.cpuset.clone().filter(|cpuset| !cpuset.is_empty()),
        cpu_shares: unsigned("cpu_shares", service.cpu_shares)?,
        cpu_period: unsigned("cpu_period", service.cpu_period)?,
        cpu_quota: service.cpu_quota.filter(|quota| *quota != 0),
        cpu_realtime_period: unsigned("cpu_rt_period", service.cpu_rt_period)?,
        cpu_realtime_runtime: service.cpu_rt_runtime.filter(|runtime| *runtime != 0),
        memory: positive(memory),
        memory_reservation: positive(reservation),
        memory_swap: service.memswap_limit.filter(|limit| *limit != 0),
        swappiness: match service.mem_swappiness {
            Some(-1) => None,
            value => {
                unsigned("mem_swappiness", value)?.or(value.filter(|value| *value == 0).map(|_| 0))
            }
        },
        oom_kill_disable: service.oom_kill_disable,
        pids: service.pids_limit.or(limits.and_then(|limits| limits.pids)),
        blkio: blkio(service)?,
        device_rules,
        all_devices: service.privileged,
    })
}

fn blkio(service: &Service) -> Result<Blkio, ContainerError> {
    let Some(config) = &service.blkio_config else {
        return Ok(Blkio::default());
    };
    let throttles = |name: &str, list: &[ThrottleDevice]| -> Result<_, ContainerError> {
        let throttle = |device: &ThrottleDevice| {
            let attribute = || format!("blkio_config.{name}");
            let (major, minor) = block_device(&attribute(), &device.path)?;
            let rate = u64::try_from(device.rate).map_err(|_| {
                ContainerError::invalid(
                    attribute(),
                    device.rate.to_string(),
                    "it cannot be negative",
                )
            })?;
            Ok((major, minor, rate))
        };
        list.iter().map(throttle).collect()
    };
    let weights = config.weight_device.iter().map(|device| {
        let (major, minor) = block_device("blkio_config.weight_device", &device.path)?;
        Ok((major, minor, device.weight))
    });
    Ok(Blkio {
        weight: config.weight.filter(|weight| *weight != 0),
        weight_device: weights.collect::<Result<_, ContainerError>>()?,
        read_bps: throttles("device_read_bps", &config.device_read_bps)?,
        write_bps: throttles("device_write_bps", &config.device_write_bps)?,
        read_iops: throttles("device_read_iops", &config.device_read_iops)?,
        write_iops: throttles("device_write_iops", &config.device_write_iops)?,
    })
}

fn block_device(attribute: &str, path: &str) -> Result<(u32, u32), ContainerError> {
    let found = devices::from_host(Path::new(path), Path::new(path))?;
    match found.as_slice() {
        [device] if device.kind == 'b' => Ok((device.major, device.minor)),
        _ => Err(ContainerError::invalid(
            attribute,
            path,
            "it is not a block device",
        )),
    }
}

/// Device nodes, and the rules that let the container use them.
pub(super) fn devices(service: &Service) -> Result<(Vec<Device>, Vec<DeviceRule>), ContainerError> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if service.privileged {
        nodes = devices::all()?;
    }
    let paths = service.devices.iter();
    for mapping in paths.filter(|mapping| !cdi::is_name(&mapping.source)) {
        let source = &mapping.source;
        if !source.starts_with('/') {
            return Err(ContainerError::invalid(
                "devices",
                source,
                "it must be the path of a device, or a CDI name as `vendor.com/class=name`",
            ));
        }
        let target = mapping
            .target
            .as_deref()
            .filter(|target| !target.is_empty())
            .unwrap_or(source);
        let access = mapping
            .permissions
            .as_deref()
            .filter(|access| !access.is_empty());
        let access = devices::parse_access("devices", access.unwrap_or("rwm"))?;
        for device in devices::from_host(Path::new(source), Path::new(target))? {
            rules.push(device.rule(&access));
            nodes.retain(|known: &Device| known.path != device.path);
            nodes.push(device);
        }
    }
    for rule in &service.device_cgroup_rules {
        rules.push(devices::parse_rule(rule)?);
    }
    Ok((nodes, rules))
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `ulimits`; -1 means no limit.
pub(super) fn limits(service: &Service) -> Result<Vec<ResourceLimit>, ContainerError> {
    let value = |name: &str, value: i64| match value {
        -1 => Ok(u64::MAX),
        value => u64::try_from(value).map_err(|_| {
            ContainerError::invalid(
                format!("ulimits.{name}"),
                value.to_string(),
                "it cannot be negative",
            )
        }),
    };
    let limit = |(name, limit): (&String, &crate::model::Ulimit)| {
        if !ULIMITS.contains(&name.as_str()) {
            let reason = format!("the kernel knows {}", ULIMITS.join(", "));
            return Err(ContainerError::invalid("ulimits", name, reason));
        }
        let (soft, hard) = (value(name, limit.soft)?, value(name, limit.hard)?);
        if soft > hard {
            return Err(ContainerError::invalid(
                format!("ulimits.{name}"),
                limit.soft.to_string(),
                format!("the soft limit is above the hard one ({})", limit.hard),
            ));
        }
        Ok(ResourceLimit {
            kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
            soft,
            hard,
        })
    };
    service.ulimits.iter().map(limit).collect()
}

/// Settings that Docker gives every network namespace: ports below 1024 and ping for everybody in it.
const NETWORK_SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// `sysctls`, with the defaults of a network of its own.
pub(super) fn sysctls(
    service: &Service,
    network: &Namespace,
    own_network: bool,
) -> Result<BTreeMap<String, String>, ContainerError> {
    let mut sysctls = BTreeMap::new();
    if own_network {
        let defaults = NETWORK_SYSCTLS.iter();
        sysctls.extend(defaults.map(|(name, value)| (name.to_string(), value.to_string())));
    }
    for (name, value) in &service.sysctls {
        let of_network = name.starts_with("net.");
        let of_ipc = name.starts_with("fs.mqueue.")
            || matches!(
                name.as_str(),
                "kernel.msgmax" | "kernel.msgmnb" | "kernel.msgmni" | "kernel.sem"
            )
            || matches!(
                name.as_str(),
                "kernel.shmall" | "kernel.shmmax" | "kernel.shmmni" | "kernel.shm_rmid_forced"
            );
        let refuse = |reason: &str| Err(ContainerError::invalid("sysctls", name, reason));
        if !of_network && !of_ipc {
            return refuse(
                "it would change the whole host; only those of `net.`, `fs.mqueue.`, `kernel.msg*`, `kernel.sem` and `kernel.shm*` belong to a container",
            );
        }
        if of_network && *network == Namespace::Host {
            return refuse(
                "the container uses the host's network, whose settings it must not change",
            );
        }
        if of_ipc && service.ipc.as_deref() == Some("host") {
            return refuse("the container uses the host's IPC, whose settings it must not change");
        }
        sysctls.insert(name.clone(), value.clone());
    }
    Ok(sysctls)
}

/// What `security_opt` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Security {
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Seccomp,
    pub(super) apparmor: Option<String>,
    pub(super) system_paths_unconfined: bool,
    pub(super) selinux_label: Option<String>,
}

/// Reads `security_opt`; a profile's path is relative to the project.
pub(super) fn security(service: &Service, project: &Project) -> Result<Security, ContainerError> {
    let mut security = Security::default();
    for option in &service.security_opt {
        let invalid = |reason: &str| ContainerError::invalid("security_opt", option, reason);
        let (key, value) = match option.split_once(['=', ':']) {
            Some((key, value)) => (key, value),
            None if option == "no-new-privileges" => (option.as_str(), "true"),
            None => return Err(invalid("the form is `NAME=VALUE`")),
        };
        match (key, value) {
            ("no-new-privileges", "true" | "false") => security.no_new_privileges = value == "true",
            ("no-new-privileges", _) => return Err(invalid("it is `true` or `false`")),
            ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => security.seccomp = Seccomp::Default,
            ("seccomp", path) => security.seccomp = profile(project, path)?,
            ("apparmor", "unconfined") => security.apparmor = Some(String::new()),
            ("apparmor", profile) => security.apparmor = Some(profile.into()),
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            // Without SELinux nothing is labelled, so there is nothing to switch off.
            ("label", "disable") => security.selinux_label = None,
            ("label", _) if !selinux() => {}
            ("label", _) => return Err(invalid("only `label=disable` is supported")),
            _ => return Err(invalid("there is no such option")),
        }
    }
    Ok(security)
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn profile(project: &Project, path: &str) -> Result<Seccomp, ContainerError> {
    let path = project.working_dir.join(path);
    let text = std::fs::read_to_string(&path).map_err(ContainerError::io(format!(
        "read seccomp profile {}",
        path.display()
    )))?;
    let profile = Seccomp::Profile(text);
    // A damaged profile is the user's to mend, so it is found here and not at the start.
    profile.resolve(&[], Host::get())?;
    Ok(profile)
}

/// `uts`, `cgroup` and `userns_mode`: those that name the host or nothing.
pub(super) fn uts(service: &Service) -> Result<Namespace, ContainerError> {
    match service.uts.as_deref() {
        None | Some("") => Ok(Namespace::Private),
        Some("host") => Ok(Namespace::Host),
        Some(other) => Err(ContainerError::invalid(
            "uts",
            other,
            "it is `host` or unset",
        )),
    }
}

pub(super) fn cgroup(service: &Service) -> Result<Option<Namespace>, ContainerError> {
    match service.cgroup.as_deref() {
        None | Some("") => Ok(None),
        Some("host") => Ok(Some(Namespace::Host)),
        Some("private") => Ok(Some(Namespace::Private)),
        Some(other) => Err(ContainerError::invalid(
            "cgroup",
            other,
            "it is `host` or `private`",
        )),
    }
}

/// Refuses attributes whose values mean nothing here.
pub(super) fn check(service: &Service) -> Result<(), ContainerError> {
    if let Some(logging) = &service.logging {
        let check =
            Destination::new(logging).and_then(|found| found.map_or(Ok(()), |to| to.check()));
        check
            .map_err(|error| ContainerError::invalid(error.attribute, error.value, error.reason))?;
    }
    match service.userns_mode.as_deref() {
        None | Some("" | "host") => {}
        Some(other) => {
            return Err(ContainerError::invalid(
                "userns_mode",
                other,
                "it is `host` or unset",
            ));
        }
    }
    if let Some(score) = service
        .oom_score_adj
        .filter(|score| !(-1000..=1000).contains(score))
    {
        return Err(ContainerError::invalid(
            "oom_score_adj",
            score.to_string(),
            "it goes from -1000 to 1000",
        ));
    }
    if let Some(size) = service.shm_size.filter(|size| *size < 0) {
        return Err(ContainerError::invalid(
            "shm_size",
            size.to_string(),
            "it cannot be negative",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BlkioConfig, Deploy, DeviceMapping, ResourceLimits, Ulimit};

    #[test]
    fn deploy_fills_what_the_service_leaves_out() {
        let mut service = Service {
            cpus: Some(0.5),
            ..Service::default()
        };
        let mut deploy = Deploy::default();
        deploy.resources.limits = Some(ResourceLimits {
            cpus: Some(1.0),
            memory: Some(64 << 20),
            pids: Some(9),
            ..ResourceLimits::default()
        });
        deploy.resources.reservations = Some(ResourceLimits {
            memory: Some(32 << 20),
            ..ResourceLimits::default()
        });
        service.deploy = Some(deploy);
        let resources = resources(&service, Vec::new()).unwrap();
        assert_eq!(resources.cpus, Some(0.5));
        assert_eq!(resources.memory, Some(64 << 20));
        assert_eq!(resources.memory_reservation, Some(32 << 20));
        assert_eq!(resources.pids, Some(9));
    }

    #[test]
    fn zero_is_no_limit_but_a_swappiness_of_zero_counts() {
        let service = Service {
            cpus: Some(0.0),
            mem_limit: Some(0),
            memswap_limit: Some(0),
            cpu_shares: Some(0),
            mem_swappiness: Some(0),
            ..Service::default()
        };
        let resources = resources(&service, Vec::new()).unwrap();
        let expected = Resources {
            swappiness: Some(0),
            ..Resources::default()
        };
        assert_eq!(resources, expected);
    }

    #[test]
    fn negative_limits_and_plain_files_are_refused() {
        let service = Service {
            cpu_shares: Some(-1),
            ..Service::default()
        };
        assert!(resources(&service, Vec::new()).is_err());
        let service = Service {
            blkio_config: Some(BlkioConfig {
                device_read_bps: vec![ThrottleDevice {
                    path: "/dev/null".into(),
                    rate: 1,
                }],
                ..BlkioConfig::default()
            }),
            ..Service::default()
        };
        let error = resources(&service, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("not a block device"), "{error}");
    }

    #[test]
    fn a_device_is_mapped_with_its_rule() {
        let service = Service {
            devices: vec![DeviceMapping {
                source: "/dev/null".into(),
                target: Some("/dev/nothing".into()),
                permissions: Some("r".into()),
            }],
            device_cgroup_rules: vec!["c 10:* rw".into()],
            ..Service::default()
        };
        let (nodes, rules) = devices(&service).unwrap();
        assert_eq!(nodes[0].path, Path::new("/dev/nothing"));
        assert_eq!((rules[0].access.as_str(), rules[1].major), ("r", Some(10)));
        let service = Service {
            devices: vec![DeviceMapping {
                source: "relative/path".into(),
                ..DeviceMapping::default()
            }],
            ..Service::default()
        };
        assert!(devices(&service).is_err());
    }

    #[test]
    fn ulimits_are_named_as_the_kernel_does() {
        let mut service = Service::default();
        service
            .ulimits
            .insert("nofile".into(), Ulimit { soft: 10, hard: -1 });
        let found = limits(&service).unwrap();
        assert_eq!(
            (found[0].kind.as_str(), found[0].hard),
            ("RLIMIT_NOFILE", u64::MAX)
        );
        service
            .ulimits
            .insert("nproc".into(), Ulimit { soft: 2, hard: 1 });
        assert!(limits(&service).is_err());
        service.ulimits.clear();
        service
            .ulimits
            .insert("foo".into(), Ulimit { soft: 1, hard: 1 });
        assert!(limits(&service).is_err());
    }

    #[test]
    fn sysctls_stay_within_the_container() {
        let mut service = Service::default();
        let private = Namespace::Private;
        assert_eq!(sysctls(&service, &private, true).unwrap().len(), 2);
        assert!(sysctls(&service, &private, false).unwrap().is_empty());
        service
            .sysctls
            .insert("net.core.somaxconn".into(), "5".into());
        assert_eq!(
            sysctls(&service, &private, true).unwrap()["net.core.somaxconn"],
            "5"
        );
        assert!(sysctls(&service, &Namespace::Host, false).is_err());
        service.sysctls.clear();
        service.sysctls.insert("vm.swappiness".into(), "5".into());
        assert!(sysctls(&service, &private, true).is_err());
    }

    #[test]
    fn security_options_are_read_with_either_separator() {
        let mut service = Service {
            security_opt: vec![
                "no-new-privileges:true".into(),
                "seccomp=unconfined".into(),
                "apparmor:unconfined".into(),
                "systempaths=unconfined".into(),
                "label=disable".into(),
            ],
            ..Service::default()
        };
        let project = Project::default();
        let found = security(&service, &project).unwrap();
        assert!(found.no_new_privileges && found.system_paths_unconfined);
        assert_eq!(found.seccomp, Seccomp::Unconfined);
        assert_eq!(found.apparmor.as_deref(), Some(""));
        for option in [
            "foo=bar",
            "foo",
            "no-new-privileges=maybe",
            "seccomp=/no/such/file",
        ] {
            service.security_opt = vec![option.into()];
            assert!(security(&service, &project).is_err(), "{option}");
        }
    }

    #[test]
    fn a_profile_is_looked_for_beside_the_project() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("p.json"),
            r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#,
        )
        .unwrap();
        let project = Project {
            working_dir: folder.path().into(),
            ..Project::default()
        };
        let mut service = Service {
            security_opt: vec!["seccomp=p.json".into()],
            ..Service::default()
        };
        assert!(matches!(
            security(&service, &project).unwrap().seccomp,
            Seccomp::Profile(_)
        ));
        std::fs::write(folder.path().join("q.json"), "{").unwrap();
        service.security_opt = vec!["seccomp:q.json".into()];
        assert!(security(&service, &project).is_err());
    }

    #[test]
    fn modes_of_namespaces_are_checked() {
        let mut service = Service {
            uts: Some("host".into()),
            cgroup: Some("private".into()),
            ..Service::default()
        };
        assert_eq!(uts(&service).unwrap(), Namespace::Host);
        assert_eq!(cgroup(&service).unwrap(), Some(Namespace::Private));
        service.uts = Some("x".into());
        service.cgroup = Some("x".into());
        assert!(uts(&service).is_err() && cgroup(&service).is_err());
        service.userns_mode = Some("x".into());
        assert!(check(&service).is_err());
        service.userns_mode = Some("host".into());
        service.oom_score_adj = Some(2000);
        assert!(check(&service).is_err());
    }
}
