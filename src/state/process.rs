//! The first process of a container's run, so that whether it lives can be read from the kernel: containerd asks every
//! shim in turn before it lists tasks.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What tells a process from another that has its number later; proc(5), cgroups(7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks from boot to its start: field 22 of `/proc/<pid>/stat`.
    start_time: u64,
    /// Says whether its cgroup is frozen.
    freezer: PathBuf,
}

impl Process {
    /// A living process; `None` if it has ended, or its cgroup cannot be seen from here.
    pub fn find(pid: u32) -> Option<Self> {
        let process = Self {
            pid,
            start_time: start_time(pid)?,
            freezer: freezer(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?,
        };
        process.is_frozen()?;
        Some(process)
    }

    /// Whether it is frozen; `None` if it has ended.
    pub fn frozen_if_alive(&self) -> Option<bool> {
        if start_time(self.pid)? != self.start_time {
            return None;
        }
        self.is_frozen()
    }

    /// Whether the kernel killed a process of its cgroup for want of memory. Cgroup v2 only; it may have ended.
    pub fn was_out_of_memory(&self) -> bool {
        let events = std::fs::read_to_string(self.freezer.with_file_name("memory.events"));
        events.is_ok_and(|events| memory_kills(&events) > 0)
    }

    fn is_frozen(&self) -> Option<bool> {
        match read_line(&self.freezer)?.trim() {
            "0" | "THAWED" => Some(false),
            "1" | "FROZEN" | "FREEZING" => Some(true),
            _ => None,
        }
    }
}

/// `None` for a process that has ended, reaped or not.
fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&read_line(Path::new(&format!("/proc/{pid}/stat")))?)
}

/// The only line of a file of the kernel, which gives it whole to who has room for it.
fn read_line(path: &Path) -> Option<String> {
    let mut bytes = [0; 1024];
    let length = File::open(path).ok()?.read(&mut bytes).ok()?;
    // The name of a process may be cut in the middle of a character.
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may hold any character.
    let (_name, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // The state is field 3.
    fields.nth(22 - 4)?.parse().ok()
}

/// From the text of `memory.events`.
fn memory_kills(events: &str) -> u64 {
    let mut counts = events.lines().filter_map(|line| line.split_once(' '));
    let kills = counts.find(|(name, _)| *name == "oom_kill");
    kills.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
}

/// File that tells whether a cgroup is frozen, from the text of `/proc/<pid>/cgroup`.
fn freezer(cgroups: &str) -> Option<PathBuf> {
    let mut unified = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "freezer") {
            let folder = Path::new("/sys/fs/cgroup/freezer").join(path);
            return Some(folder.join("freezer.state"));
        }
        if controllers.is_empty() {
            unified = Some(Path::new("/sys/fs/cgroup").join(path).join("cgroup.freeze"));
        }
    }
    unified
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 8192 9 0";

    #[test]
    fn the_start_time_is_field_22_whatever_the_name() {
        assert_eq!(parse_start_time(STAT), Some(4711));
        assert_eq!(parse_start_time(&STAT.replace(" S ", " Z ")), None);
        assert_eq!(parse_start_time("7 (a"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn killed_for_want_of_memory_is_what_the_kernel_counts() {
        let events = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(memory_kills(events), 1);
        assert_eq!(memory_kills("oom 3\noom_kill 0\n"), 0);
        assert_eq!(memory_kills(""), 0);
    }

    #[test]
    fn the_freezer_is_that_of_version_1_if_there_is_one() {
        let hybrid = "5:cpu,cpuacct:/x\n4:freezer:/default/a\n0::/other\n";
        assert_eq!(
            freezer(hybrid).unwrap(),
            Path::new("/sys/fs/cgroup/freezer/default/a/freezer.state")
        );
        assert_eq!(
            freezer("0::/compose.slice/a.scope\n").unwrap(),
            Path::new("/sys/fs/cgroup/compose.slice/a.scope/cgroup.freeze")
        );
        assert_eq!(freezer("5:cpu:/x\n"), None);
        assert_eq!(freezer("nonsense"), None);
    }

    #[test]
    fn a_process_that_has_ended_is_not_taken_for_one_with_its_number() {
        let mut process = Process {
            pid: std::process::id(),
            start_time: start_time(std::process::id()).unwrap(),
            freezer: "/dev/null".into(),
        };
        assert_eq!(process.frozen_if_alive(), None);
        let folder = tempfile::tempdir().unwrap();
        process.freezer = folder.path().join("cgroup.freeze");
        std::fs::write(&process.freezer, "1\n").unwrap();
        assert_eq!(process.frozen_if_alive(), Some(true));
        std::fs::write(&process.freezer, "0\n").unwrap();
        assert_eq!(process.frozen_if_alive(), Some(false));
        process.start_time += 1;
        assert_eq!(process.frozen_if_alive(), None);
    }
}
