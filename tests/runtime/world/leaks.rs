//! What a world holds that a test may have left there.

use std::{collections::BTreeSet, fs, os::unix::fs::FileTypeExt as _, path::Path};

use serde_json::Value;

use super::World;

/// Everything in a world that has to be given back, each as a line of text.
#[derive(Debug, Default)]
pub(super) struct Belongings(BTreeSet<String>);

impl Belongings {
    pub(super) fn of(world: &World) -> Self {
        let mut all = BTreeSet::new();
        let mut add = |kind: &str, found: Vec<String>| {
            all.extend(found.into_iter().map(|item| format!("{kind} {item}")));
        };
        add("mount", mounts(world));
        add("interface", interfaces(world));
        add("firewall", firewall(world));
        add("process", processes(world));
        for group in world.cgroups() {
            add("cgroup", folders_below(&group));
        }
        for folder in [world.folder.path(), Path::new("/run")] {
            add("file", special_files(&world.inside(folder)));
        }
        for namespace in lines(world, &["namespaces", "list", "-q"]) {
            let list = |words: &[&str]| {
                let scope = ["--namespace", &namespace];
                let words: Vec<&str> = scope.into_iter().chain(words.iter().copied()).collect();
                let found = lines(world, &words).into_iter();
                found.map(|item| format!("{namespace}/{item}")).collect()
            };
            add("container", list(&["containers", "list", "-q"]));
            add("task", list(&["tasks", "list", "-q"]));
            add("lease", list(&["leases", "list", "-q"]));
            let snapshotter = world.snapshotter();
            let rows = list(&["snapshots", "--snapshotter", snapshotter, "list"]);
            // The snapshots of images are committed, those of containers are not.
            let of_containers = rows
                .iter()
                .skip(1)
                .filter(|row| !row.ends_with("Committed"));
            let key = |row: &String| row.split_whitespace().next().map(str::to_owned);
            add("snapshot", of_containers.filter_map(key).collect());
        }
        Self(all)
    }

    /// What is here and was not there before.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn lines(world: &World, ctr: &[&str]) -> Vec<String> {
    let listed = world.ctr(ctr.iter().copied()).run().success();
    let items = listed
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    items.map(str::to_owned).collect()
}

/// Mount points with what is mounted there; pinned network namespaces are among them.
fn mounts(world: &World) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mounts", world.init)).unwrap();
    let fields = table
        .lines()
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "));
    fields.collect()
}

fn interfaces(world: &World) -> Vec<String> {
    let listed = world.command("ip").args(["-o", "link"]).run().success();
    let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
    listed.stdout.lines().filter_map(name).collect()
}

/// Rules and set elements of anybody, and tables, chains and sets that carry our name: `iptables`
/// leaves its empty standard chains where it has once been asked.
fn firewall(world: &World) -> Vec<String> {
    let listed = world
        .command("nft")
        .args(["-j", "list", "ruleset"])
        .run()
        .success();
    let ruleset: Value = serde_json::from_str(&listed.stdout).unwrap();
    let objects = ruleset["nftables"].as_array().unwrap().iter();
    let counts = |object: &&Value| {
        object.get("rule").is_some()
            || object["set"].get("elem").is_some()
            || object["map"].get("elem").is_some()
            || object.to_string().to_lowercase().contains("compose")
    };
    objects.filter(counts).map(ToString::to_string).collect()
}

/// All processes of the world but its first one and its containerd.
fn processes(world: &World) -> Vec<String> {
    let others = processes_in(&world.name).into_iter().filter(|(pid, line)| {
        ![world.holder.id(), world.init].contains(&pid.cast_unsigned())
            && !line.starts_with("containerd --config")
    });
    others.map(|(_, line)| line).collect()
}

/// The processes in a cgroup of this name or below it, with their command lines. The cgroup is what
/// tells them: containers have pid namespaces of their own.
pub(crate) fn processes_in(cgroup: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // A zombie has no command line.
        if groups.contains(&format!("/{cgroup}/")) && !line.is_empty() {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push((pid, line.trim().to_owned()));
        }
    }
    found
}

fn folders_below(group: &Path) -> Vec<String> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found = Vec::new();
    for folder in folders {
        found.push(folder.path().display().to_string());
        found.extend(folders_below(&folder.path()));
    }
    found
}

/// FIFOs and sockets below a folder.
fn special_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            // The root file systems of images may hold what they like.
            if !entry.path().ends_with("containerd/root") {
                found.extend(special_files(&entry.path()));
            }
        } else if kind.is_fifo() || kind.is_socket() {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
