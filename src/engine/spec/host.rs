//! What the builder needs to know of the machine.

use std::path::Path;
use std::sync::OnceLock;

use super::capabilities;

/// Facts about this host. Read once by [`Host::get`]; a test makes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub cgroup: CgroupVersion,
    /// The systemd cgroup driver is to be used.
    pub systemd: bool,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// As [`std::env::consts::ARCH`].
    pub architecture: &'static str,
    /// The kernel can filter system calls.
    pub seccomp: bool,
    /// The kernel takes calls of the x32 ABI.
    pub x32: bool,
    /// `AppArmor` profile for containers that name none; none without `AppArmor`.
    pub apparmor: Option<String>,
    /// Capabilities that this process may give away.
    pub capabilities: Vec<&'static str>,
    /// CPUs that are online.
    pub cpus: usize,
    /// Cgroup controls that the kernel has.
    pub controls: Controls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    V1,
    V2,
}

/// Controls that not every kernel has; asked for and absent, they are left out with a warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    pub swap_limit: bool,
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub cpu_realtime: bool,
    pub blkio_weight: bool,
    pub blkio_weight_device: bool,
}

impl Host {
    /// The facts of this machine.
    pub fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::detect)
    }

    fn detect() -> Self {
        let cgroup = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            CgroupVersion::V2
        } else {
            CgroupVersion::V1
        };
        let status = read("/proc/self/status");
        let bounding = field(&status, "CapBnd:")
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(u64::MAX);
        Self {
            cgroup,
            systemd: cgroup == CgroupVersion::V2 && Path::new("/run/systemd/system").is_dir(),
            kernel: parse_kernel(&read("/proc/sys/kernel/osrelease")).unwrap_or((0, 0)),
            architecture: std::env::consts::ARCH,
            seccomp: field(&status, "Seccomp:").is_some(),
            x32: crate::sys::takes_x32(),
            apparmor: apparmor_profile(),
            capabilities: capabilities::from_mask(bounding),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            controls: Controls::detect(cgroup),
        }
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            cgroup: CgroupVersion::V1,
            systemd: false,
            kernel: (6, 1),
            architecture: "x86_64",
            seccomp: true,
            x32: true,
            apparmor: None,
            capabilities: capabilities::NAMES.to_vec(),
            cpus: 4,
            controls: Controls {
                swap_limit: true,
                swappiness: true,
                oom_kill_disable: true,
                cpu_realtime: true,
                blkio_weight: true,
                blkio_weight_device: true,
            },
        }
    }
}

impl Controls {
    fn detect(cgroup: CgroupVersion) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let has = |file: &str| root.join(file).exists();
        match cgroup {
            CgroupVersion::V1 => Self {
                swap_limit: has("memory/memory.memsw.limit_in_bytes"),
                swappiness: has("memory/memory.swappiness"),
                oom_kill_disable: has("memory/memory.oom_control"),
                cpu_realtime: has("cpu/cpu.rt_runtime_us"),
                blkio_weight: has("blkio/blkio.weight") || has("blkio/blkio.bfq.weight"),
                blkio_weight_device: has("blkio/blkio.weight_device")
                    || has("blkio/blkio.bfq.weight_device"),
            },
            CgroupVersion::V2 => {
                // The root group has none of these files; any other group shows what there is.
                let groups = || std::fs::read_dir(root).into_iter().flatten().flatten();
                let any = |file: &str| groups().any(|group| group.path().join(file).exists());
                let weight = any("io.bfq.weight") || any("io.weight");
                Self {
                    swap_limit: any("memory.swap.max"),
                    blkio_weight: weight,
                    blkio_weight_device: weight,
                    ..Self::default()
                }
            }
        }
    }
}

/// Major and minor of a kernel version such as `6.1.0-13-amd64`.
pub(super) fn parse_kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

/// The first profile for containers that is loaded, Docker's before nerdctl's.
fn apparmor_profile() -> Option<String> {
    let profiles = read("/sys/kernel/security/apparmor/profiles");
    let loaded = |name: &str| {
        let mut lines = profiles.lines();
        lines.any(|line| {
            line.split_once(" (")
                .is_some_and(|(profile, _)| profile == name)
        })
    };
    ["docker-default", "nerdctl-default"]
        .into_iter()
        .find(|name| loaded(name))
        .map(ToOwned::to_owned)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_version_is_read_up_to_its_minor_number() {
        assert_eq!(parse_kernel("6.1.0-13-amd64\n"), Some((6, 1)));
        assert_eq!(parse_kernel("4.8"), Some((4, 8)));
        assert_eq!(parse_kernel("5.15-rc1"), Some((5, 15)));
        assert_eq!(parse_kernel("x"), None);
        assert_eq!(parse_kernel("6"), None);
    }

    #[test]
    fn this_machine_has_facts() {
        let host = Host::get();
        assert!(host.kernel > (3, 0));
        assert!(host.cpus > 0);
    }
}
