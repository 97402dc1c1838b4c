//! From a plain description of a container to its OCI runtime spec, with Docker's defaults.
//!
//! Nothing here knows of services, and nothing but [`Host::get`] and [`devices`] looks at the machine.

pub mod capabilities;
pub mod devices;
pub mod filter;
mod host;
mod mounts;
mod resources;
mod seccomp;
pub mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

pub use devices::{Device, DeviceRule};
pub use host::{CgroupVersion, Controls, Host};
pub use mounts::{SpecMount, bind_options};
pub use resources::{Blkio, Resources};
pub use seccomp::Seccomp;
pub use user::User;

/// A spec could not be made.
#[derive(Debug, Error)]
pub enum SpecError {
    #[error("{attribute}: `{value}` is not valid: {reason}")]
    Invalid {
        attribute: &'static str,
        value: String,
        reason: String,
    },
    #[error("cannot use device {}", path.display())]
    Device {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the seccomp profile is not valid")]
    Profile {
        #[source]
        source: serde_json::Error,
    },
}

impl SpecError {
    pub(crate) fn invalid(attribute: &'static str, value: &str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            attribute,
            value: value.into(),
            reason: reason.into(),
        }
    }
}

/// Which namespace of a kind a container lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The one that this file stands for.
    Path(PathBuf),
}

/// The namespaces of a container. It always has its own mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub network: Namespace,
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    /// `None`: private with cgroup v2, the host's with v1, as in Docker.
    pub cgroup: Option<Namespace>,
}

/// `/dev/shm` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedMemory {
    /// A tmpfs of its own, in bytes.
    Size(u64),
    /// This folder of the host.
    Folder(PathBuf),
    /// None is mounted.
    Absent,
}

impl Default for SharedMemory {
    fn default() -> Self {
        Self::Size(64 << 20)
    }
}

/// A limit of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// As `RLIMIT_NOFILE`.
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

/// Everything that a spec says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    pub working_dir: String,
    pub terminal: bool,
    pub user: User,
    /// Empty: the host's, in the host's UTS namespace.
    pub hostname: String,
    /// NIS domain.
    pub domainname: String,
    pub privileged: bool,
    pub read_only: bool,
    pub no_new_privileges: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub seccomp: Seccomp,
    /// Nothing of `/proc` and `/sys` is masked or read-only.
    pub system_paths_unconfined: bool,
    /// `None`: the host's default; empty: none.
    pub apparmor: Option<String>,
    /// `SELinux` label of the process.
    pub selinux_label: Option<String>,
    pub namespaces: Namespaces,
    /// Path in the cgroup tree, made by [`cgroups_path`].
    pub cgroups_path: String,
    pub resources: Resources,
    pub limits: Vec<ResourceLimit>,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// Those of the network only in a private network namespace.
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub shared_memory: SharedMemory,
    /// In any order; a mount at the place of a default one replaces it.
    pub mounts: Vec<SpecMount>,
    pub annotations: BTreeMap<String, String>,
    /// OCI hooks by the point in the container's life, as `createContainer`.
    pub hooks: Vec<(String, Value)>,
}

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Default parent of our cgroups, below the root or, with systemd, its slice.
pub const CGROUP_PARENT: &str = "/compose";

/// `linux.cgroupsPath` of the container `id` under `parent`.
pub fn cgroups_path(parent: Option<&str>, id: &str, host: &Host) -> Result<String, SpecError> {
    let parent = parent.filter(|parent| !parent.is_empty());
    if host.systemd {
        let slice = parent.unwrap_or("system.slice");
        let name = slice.strip_suffix(".slice").unwrap_or_default();
        if name.is_empty() || slice.contains(['/', ':']) {
            let reason = "with systemd it is the name of a slice, as `custom.slice`";
            return Err(SpecError::invalid("cgroup_parent", slice, reason));
        }
        return Ok(format!("{slice}:compose:{id}"));
    }
    let parent = parent.unwrap_or(CGROUP_PARENT);
    let parts: Vec<&str> = parent
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(SpecError::invalid(
            "cgroup_parent",
            parent,
            "`..` is not allowed",
        ));
    }
    Ok(format!("/{}", [parts.as_slice(), &[id]].concat().join("/")))
}

/// Builds the spec.
pub fn build(spec: &ContainerSpec, host: &Host) -> Result<Value, SpecError> {
    let capabilities = capabilities::resolve(
        spec.privileged,
        &spec.cap_add,
        &spec.cap_drop,
        &host.capabilities,
    )?;
    spec.resources.check(host)?;
    let mounts = mounts::build(spec);
    let mut linux = json!({
        "resources": spec.resources.to_json(host),
        "cgroupsPath": spec.cgroups_path,
        "namespaces": namespaces(&spec.namespaces, host),
    });
    let mut sysctls = spec.sysctls.clone();
    if !spec.domainname.is_empty() && spec.namespaces.uts == Namespace::Private {
        sysctls.insert("kernel.domainname".into(), spec.domainname.clone());
    }
    if !sysctls.is_empty() {
        linux["sysctl"] = json!(sysctls);
    }
    if !spec.devices.is_empty() {
        linux["devices"] = spec.devices.iter().map(Device::to_json).collect();
    }
    if let Some(propagation) = mounts::root_propagation(&spec.mounts) {
        linux["rootfsPropagation"] = propagation.into();
    }
    if !spec.privileged {
        if let Some(seccomp) = spec.seccomp.resolve(&capabilities, host)? {
            linux["seccomp"] = seccomp;
        }
        if !spec.system_paths_unconfined {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
        }
    }
    if let Some(label) = &spec.selinux_label {
        linux["mountLabel"] = label.clone().into();
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "process": process(spec, &capabilities, host),
        "root": { "path": "rootfs", "readonly": spec.read_only },
        "mounts": mounts,
        "linux": linux,
    });
    if !spec.hostname.is_empty() && spec.namespaces.uts == Namespace::Private {
        document["hostname"] = spec.hostname.clone().into();
    }
    for (point, hook) in &spec.hooks {
        match document["hooks"][point].as_array_mut() {
            Some(hooks) => hooks.push(hook.clone()),
            None => document["hooks"][point] = json!([hook]),
        }
    }
    if !spec.annotations.is_empty() {
        document["annotations"] = json!(spec.annotations);
    }
    Ok(document)
}

fn process(spec: &ContainerSpec, capabilities: &[&str], host: &Host) -> Value {
    let working_dir = match spec.working_dir.as_str() {
        "" => "/",
        path => path,
    };
    let mut process = json!({
        "terminal": spec.terminal,
        "user": spec.user,
        "args": spec.args,
        "env": spec.environment,
        "cwd": working_dir,
        "capabilities": capability_sets(capabilities),
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj,
    });
    if !spec.limits.is_empty() {
        let limits = spec.limits.iter();
        process["rlimits"] = limits
            .map(|limit| json!({ "type": limit.kind, "soft": limit.soft, "hard": limit.hard }))
            .collect();
    }
    let apparmor = match &spec.apparmor {
        Some(profile) => Some(profile),
        None => host.apparmor.as_ref().filter(|_| !spec.privileged),
    };
    if let Some(profile) = apparmor.filter(|profile| !profile.is_empty()) {
        process["apparmorProfile"] = profile.clone().into();
    }
    if let Some(label) = &spec.selinux_label {
        process["selinuxLabel"] = label.clone().into();
    }
    process
}

/// `process.capabilities`. The inheritable and ambient sets stay empty, as in Docker.
pub fn capability_sets(capabilities: &[&str]) -> Value {
    json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities })
}

fn namespaces(namespaces: &Namespaces, host: &Host) -> Value {
    let cgroup = namespaces.cgroup.clone().unwrap_or(match host.cgroup {
        CgroupVersion::V1 => Namespace::Host,
        CgroupVersion::V2 => Namespace::Private,
    });
    let mut list = vec![json!({ "type": "mount" })];
    for (kind, namespace) in [
        ("network", &namespaces.network),
        ("uts", &namespaces.uts),
        ("pid", &namespaces.pid),
        ("ipc", &namespaces.ipc),
        ("cgroup", &cgroup),
    ] {
        match namespace {
            Namespace::Host => {}
            Namespace::Private => list.push(json!({ "type": kind })),
            Namespace::Path(path) => list.push(json!({ "type": kind, "path": path })),
        }
    }
    list.into()
}

/// Sets the path of the namespace `kind` in a built spec; false if it says so already or has no such namespace.
pub fn set_namespace_path(spec: &mut Value, kind: &str, path: &Path) -> bool {
    let list = spec
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut);
    let Some(entry) = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .find(|entry: &&mut Map<String, Value>| {
            entry.get("type").is_some_and(|found| found == kind)
        })
    else {
        return false;
    };
    let path = json!(path);
    if entry.get("path") == Some(&path) {
        return false;
    }
    entry.insert("path".into(), path);
    true
}

#[cfg(test)]
mod tests;
