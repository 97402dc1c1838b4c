//! The mounts of a spec: Docker's default ones and the container's own, in the order in which they must be made.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ContainerSpec, Host, SharedMemory};

/// One mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecMount {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// `bind`, `tmpfs` or another type of file system.
    pub kind: String,
    pub source: String,
    pub options: Vec<String>,
}

impl SpecMount {
    /// A bind mount of `source`.
    pub fn bind(source: &Path, destination: impl Into<PathBuf>, options: Vec<String>) -> Self {
        Self {
            destination: destination.into(),
            kind: "bind".into(),
            source: source.to_string_lossy().into_owned(),
            options,
        }
    }

    fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        Self {
            destination: destination.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "destination": self.destination,
            "type": self.kind,
            "source": self.source,
            "options": self.options,
        })
    }
}

/// Options of a bind mount of a file, or of a folder with all that is mounted below it.
pub fn bind_options(read_only: bool, folder: bool, host: &Host) -> Vec<String> {
    let mut options = vec!["rbind".to_owned()];
    if read_only {
        // Mounts below the source become read-only, too, from Linux 5.12 on. crun takes that for folders only.
        let recursive = folder && host.kernel >= (5, 12);
        options.push(if recursive { "rro" } else { "ro" }.into());
    }
    options
}

fn defaults(spec: &ContainerSpec) -> Vec<SpecMount> {
    let safe = ["nosuid", "noexec", "nodev"];
    let system: &[&str] = if spec.privileged {
        &safe
    } else {
        &["nosuid", "noexec", "nodev", "ro"]
    };
    let mut mounts = vec![
        SpecMount::new("/proc", "proc", "proc", &safe),
        SpecMount::new(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        SpecMount::new(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        SpecMount::new("/sys", "sysfs", "sysfs", system),
        SpecMount::new("/sys/fs/cgroup", "cgroup", "cgroup", system),
        SpecMount::new("/dev/mqueue", "mqueue", "mqueue", &safe),
    ];
    match &spec.shared_memory {
        SharedMemory::Absent => {}
        SharedMemory::Size(size) => {
            let mut shm = SpecMount::new("/dev/shm", "tmpfs", "shm", &safe);
            shm.options.push("mode=1777".into());
            shm.options.push(format!("size={size}"));
            mounts.push(shm);
        }
        SharedMemory::Folder(path) => mounts.push(SpecMount::bind(
            path,
            "/dev/shm",
            vec!["rbind".into(), "rprivate".into()],
        )),
    }
    mounts
}

/// Every mount, outer ones before those below them.
pub(super) fn build(spec: &ContainerSpec) -> Value {
    let own = |path: &Path| spec.mounts.iter().any(|mount| mount.destination == path);
    let below_own_dev = |path: &Path| own(Path::new("/dev")) && path.starts_with("/dev");
    let mut list: Vec<SpecMount> = defaults(spec)
        .into_iter()
        .filter(|mount| !own(&mount.destination) && !below_own_dev(&mount.destination))
        .collect();
    let mut mounts = spec.mounts.clone();
    mounts.sort_by_key(|mount| mount.destination.components().count());
    list.extend(mounts);
    list.iter().map(SpecMount::to_json).collect()
}

/// How the root must propagate so that the propagation of `mounts` takes effect.
pub(super) fn root_propagation(mounts: &[SpecMount]) -> Option<&'static str> {
    let any = |names: [&str; 2]| {
        let mut options = mounts.iter().flat_map(|mount| &mount.options);
        options.any(|option| names.contains(&option.as_str()))
    };
    if any(["shared", "rshared"]) {
        Some("shared")
    } else if any(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}
