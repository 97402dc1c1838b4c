//! What the first process of a container is told: command line, environment, host name.

use crate::engine::spec::{CgroupVersion, Host};
use crate::image::ImageConfig;
use crate::model::Service;

use super::ContainerError;

/// Where commands are looked for if neither image nor service says it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the init binary is mounted.
pub const INIT_PATH: &str = "/sbin/docker-init";

/// The command line. An entrypoint of the service drops the image's command.
pub(super) fn arguments(
    service: &Service,
    image: &ImageConfig,
) -> Result<Vec<String>, ContainerError> {
    let mut arguments = Vec::new();
    if service.init == Some(true) {
        arguments.extend([INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let before = arguments.len();
    if let Some(entrypoint) = &service.entrypoint {
        arguments.extend_from_slice(entrypoint);
        arguments.extend(service.command.iter().flatten().cloned());
    } else {
        arguments.extend_from_slice(&image.entrypoint);
        let command = service.command.as_ref().unwrap_or(&image.command);
        arguments.extend_from_slice(command);
    }
    if arguments.len() == before {
        return Err(ContainerError::invalid(
            "command",
            "",
            "neither the service nor its image names a command",
        ));
    }
    Ok(arguments)
}

/// The environment: defaults, then the image's variables, then the service's; a variable without value is removed.
pub(super) fn variables(service: &Service, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut list = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if service.tty {
        list.push("TERM=xterm".into());
    }
    for entry in &image.environment {
        set(&mut list, entry.clone());
    }
    for (name, value) in &service.environment {
        match value {
            Some(value) => set(&mut list, format!("{name}={value}")),
            None => list.retain(|entry| key(entry) != name),
        }
    }
    list
}

/// Replaces the variable that `entry` sets, or adds it.
pub(super) fn set(list: &mut Vec<String>, entry: String) {
    match list.iter_mut().find(|known| key(known) == key(&entry)) {
        Some(known) => *known = entry,
        None => list.push(entry),
    }
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The working directory of the first process.
pub(super) fn working_dir(
    service: &Service,
    image: &ImageConfig,
) -> Result<String, ContainerError> {
    let path = match service.working_dir.as_deref() {
        None | Some("") => image.working_dir.as_str(),
        Some(path) => path,
    };
    if path.is_empty() {
        return Ok("/".into());
    }
    if !path.starts_with('/') {
        return Err(ContainerError::invalid(
            "working_dir",
            path,
            "it must be an absolute path",
        ));
    }
    Ok(path.into())
}

/// Attributes that this kernel cannot honour, with the reason; for [`super::ineffective()`].
pub(super) fn missing_controls(
    service: &Service,
    host: &Host,
) -> Vec<(&'static str, &'static str)> {
    let controls = host.controls;
    let realtime = controls.cpu_realtime && host.cgroup == CgroupVersion::V1;
    let blkio = service.blkio_config.as_ref();
    let checks = [
        (
            "memswap_limit",
            service.memswap_limit.is_some_and(|limit| limit != 0) && !controls.swap_limit,
            "this kernel does not account for swap",
        ),
        (
            "mem_swappiness",
            service.mem_swappiness.is_some_and(|value| value >= 0) && !controls.swappiness,
            "cgroup v2 has no swappiness of a group",
        ),
        (
            "oom_kill_disable",
            service.oom_kill_disable && !controls.oom_kill_disable,
            "cgroup v2 cannot switch the OOM killer off",
        ),
        (
            "cpu_rt_period",
            service.cpu_rt_period.is_some_and(|value| value != 0) && !realtime,
            "this kernel does not schedule groups in real time",
        ),
        (
            "cpu_rt_runtime",
            service.cpu_rt_runtime.is_some_and(|value| value != 0) && !realtime,
            "this kernel does not schedule groups in real time",
        ),
        (
            "blkio_config.weight",
            blkio.is_some_and(|blkio| blkio.weight.is_some()) && !controls.blkio_weight,
            "no I/O scheduler of this kernel weighs groups",
        ),
        (
            "blkio_config.weight_device",
            blkio.is_some_and(|blkio| !blkio.weight_device.is_empty())
                && !controls.blkio_weight_device,
            "no I/O scheduler of this kernel weighs groups by device",
        ),
    ];
    let missing = checks.into_iter().filter(|(_, missing, _)| *missing);
    missing
        .map(|(attribute, _, reason)| (attribute, reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: strings(&["/entry"]),
            command: strings(&["serve"]),
            environment: strings(&["PATH=/bin", "A=1", "B=2"]),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn command_and_entrypoint_replace_the_images() {
        let mut service = Service::default();
        assert_eq!(arguments(&service, &image()).unwrap(), ["/entry", "serve"]);
        service.command = Some(strings(&["x"]));
        assert_eq!(arguments(&service, &image()).unwrap(), ["/entry", "x"]);
        service.command = Some(Vec::new());
        assert_eq!(arguments(&service, &image()).unwrap(), ["/entry"]);
        service.entrypoint = Some(strings(&["/other"]));
        service.command = None;
        assert_eq!(arguments(&service, &image()).unwrap(), ["/other"]);
        service.init = Some(true);
        assert_eq!(
            arguments(&service, &image()).unwrap(),
            ["/sbin/docker-init", "--", "/other"]
        );
        service.entrypoint = Some(Vec::new());
        assert!(arguments(&service, &image()).is_err());
    }

    #[test]
    fn variables_of_the_service_win_and_empty_ones_remove() {
        let mut service = Service {
            tty: true,
            ..Service::default()
        };
        service.environment.insert("A".into(), None);
        service.environment.insert("B".into(), Some("x=y".into()));
        service
            .environment
            .insert("HOSTNAME".into(), Some("mine".into()));
        assert_eq!(
            variables(&service, &image(), "c0ffee"),
            ["PATH=/bin", "HOSTNAME=mine", "TERM=xterm", "B=x=y"]
        );
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let mut service = Service::default();
        assert_eq!(working_dir(&service, &image()).unwrap(), "/");
        service.working_dir = Some("/app".into());
        assert_eq!(working_dir(&service, &image()).unwrap(), "/app");
        service.working_dir = Some("app".into());
        assert!(working_dir(&service, &image()).is_err());
    }
}
