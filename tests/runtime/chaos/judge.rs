//! Is the world what the file says?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Story;
use super::disturbance::variable;
use super::file::{FIRST_PORT, Stack};
use crate::world::{Project, World, processes_in};

/// Time after a quiet `up` until all is as it should be: containers that are in their back-off start, probes succeed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What stands in the log for lines that found no room on the disk.
const LOST: &str = "of output lost: no room for the log]";

/// What must last from round to round.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Lines that were written to each volume.
    written: BTreeMap<PathBuf, Vec<String>>,
    count: u32,
    /// The disk was full since the last judgement: lines may be missing.
    pub(super) disk_was_full: bool,
    /// Runs in which the disk was full.
    lossy: BTreeSet<String>,
}

impl Judge {
    /// Demands that the world is what the file says, and that nothing was lost on the way.
    pub(super) fn converged(
        &mut self,
        world: &World,
        project: &Project<'_>,
        stack: &Stack,
        story: &mut Story,
    ) {
        let deadline = Instant::now() + PATIENCE;
        let containers = loop {
            let containers = project.containers();
            let Err(difference) = states(stack, &containers).and_then(|()| marks(world, stack))
            else {
                break containers;
            };
            let text = rows(&containers);
            assert!(
                Instant::now() < deadline,
                "not what the file says: {difference}\n{text}"
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        story.tell("observed = desired");
        let plan = project.compose("plan --detailed-exitcode");
        assert_eq!(
            plan.status.code(),
            Some(0),
            "something is to be done:\n{plan}"
        );
        addresses(world, stack);
        ports(world, stack, &containers);
        folders(world, &containers);
        names(world, project, stack);
        self.lines(world, project);
        self.volumes(world, story);
        let log = "lib/projects/chaos/supervisor.log";
        let log = fs::read_to_string(world.inside(&world.state_root().join(log)));
        let log = log.unwrap_or_default();
        assert!(!log.contains("panicked at"), "{log}");
        story.tell("judged");
    }

    /// Everything was removed on purpose.
    pub(super) fn forget(&mut self) {
        self.written.clear();
    }

    /// What was written before is there, and a line more is written now.
    fn volumes(&mut self, world: &World, story: &mut Story) {
        self.count += 1;
        for name in Stack::VOLUMES {
            let path = format!("lib/volumes/{name}/_data/nonces");
            let path = world.inside(&world.state_root().join(path));
            let lines = self.written.entry(path.clone()).or_default();
            let found = fs::read_to_string(&path).unwrap_or_default();
            let found: Vec<&str> = found.lines().collect();
            assert_eq!(found, *lines, "{name} has lost something");
            lines.push(format!("{name} {}", self.count));
            fs::write(&path, lines.join("\n") + "\n").unwrap();
        }
        story.tell(format_args!("nonce {}", self.count));
    }

    /// Each run has written its lines in order, none is missing between, and none that the run itself has noted.
    fn lines(&mut self, world: &World, project: &Project<'_>) {
        let data = world.inside(&world.state_root().join("lib/volumes/chaos_data/_data"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let noted = noted(&data);
            let logs = project.compose("logs --no-log-prefix writer").success();
            let runs = runs(&logs.stdout);
            if logs.stdout.contains(LOST) {
                assert!(
                    self.disk_was_full || !self.lossy.is_empty(),
                    "lines are lost, and the disk was never full:\n{logs}"
                );
            }
            if self.disk_was_full {
                self.lossy
                    .extend(runs.iter().map(|(run, _)| (*run).to_owned()));
            }
            for (run, numbers) in &runs {
                let is_whole = numbers.iter().copied().eq(0..numbers.len() as u64);
                let is_ordered = numbers.is_sorted_by(|a, b| a < b);
                assert!(
                    is_whole || is_ordered && self.lossy.contains(*run),
                    "lines of {run} are missing or doubled: {numbers:?}"
                );
            }
            // What was just written is on its way.
            let is_there = runs.last().is_some_and(|(run, numbers)| {
                let noted = noted.get(*run).copied();
                self.lossy.contains(*run) || noted.is_none_or(|noted| numbers.contains(&noted))
            });
            if is_there {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{noted:?} were noted, and in the log are {runs:?}"
            );
        }
        self.disk_was_full = false;
    }
}

/// The numbers of the lines of each run, in the order of the log.
fn runs(log: &str) -> Vec<(&str, Vec<u64>)> {
    let mut runs: Vec<(&str, Vec<u64>)> = Vec::new();
    for line in log.lines().filter(|line| !line.ends_with(LOST)) {
        let (run, number) = line
            .split_once(' ')
            .and_then(|(run, number)| Some((run, number.parse().ok()?)))
            .unwrap_or_else(|| panic!("`{line}` is not what was written"));
        match runs.last_mut() {
            Some((last, numbers)) if *last == run => numbers.push(number),
            _ => runs.push((run, vec![number])),
        }
    }
    runs
}

/// Last numbers that runs have noted.
fn noted(data: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    let notes = entries.filter_map(|entry| {
        let run = entry
            .file_name()
            .to_str()?
            .strip_prefix("last-")?
            .to_owned();
        let number = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
        Some((run, number))
    });
    notes.collect()
}

fn text<'a>(container: &'a Value, name: &str) -> &'a str {
    container[name].as_str().unwrap_or_default()
}

fn rows(containers: &[Value]) -> String {
    let rows = containers.iter().map(|container| {
        let fields = ["Name", "ID", "State", "Health", "Status", "Reason", "Ports"];
        fields.map(|name| text(container, name)).join("  ")
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// Whether there are as many containers as the file asks for, in the right state, and no other one. Which numbers they
/// have is open: of too many those go first that are not as wanted.
fn states(stack: &Stack, containers: &[Value]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut found: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for container in containers {
        let state = (text(container, "State"), text(container, "Health"));
        found
            .entry(text(container, "Service"))
            .or_default()
            .push(state);
        if !names.insert(text(container, "Name")) {
            return Err(format!("two are called {}", container["Name"]));
        }
    }
    let wanted = stack.wanted();
    let expected: BTreeMap<&str, Vec<(&str, &str)>> = wanted
        .iter()
        .map(|service| {
            let health = if service.is_probed { "healthy" } else { "" };
            let state = if service.ends { "exited" } else { "running" };
            let replicas = vec![(state, health); service.replicas as usize];
            (service.name, replicas)
        })
        .collect();
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}

/// Whether a process is the first one of its pid namespace.
fn is_first(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
}

/// The first process of each container by its mark; the kernel tells them apart by their pid namespaces.
fn by_mark(world: &World) -> BTreeMap<String, BTreeMap<PathBuf, i32>> {
    let mut found: BTreeMap<String, BTreeMap<PathBuf, i32>> = BTreeMap::new();
    for (pid, _) in processes_in(world.name()) {
        // Only the first process of a container: probes come and go.
        let Some(mark) = variable(pid).filter(|_| is_first(pid)) else {
            continue;
        };
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/pid")) else {
            continue;
        };
        found.entry(mark).or_default().insert(namespace, pid);
    }
    found
}

/// Whether as many containers as wanted run with the variable of today, as the kernel sees it.
fn marks(world: &World, stack: &Stack) -> Result<(), String> {
    let found: BTreeMap<String, usize> = by_mark(world)
        .into_iter()
        .map(|(mark, pids)| (mark, pids.len()))
        .collect();
    let wanted = stack.wanted().into_iter().filter(|service| !service.ends);
    let expected: BTreeMap<String, usize> = wanted
        .map(|service| (format!("CHAOS={}", service.mark), service.replicas as usize))
        .collect();
    if found == expected {
        Ok(())
    } else {
        Err(format!("processes {found:?} instead of {expected:?}"))
    }
}

/// Addresses of this host and of nobody else in the network namespace of a process.
fn addresses_of(pid: i32) -> BTreeSet<String> {
    let trie = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
    let mut address = "";
    let mut found = BTreeSet::new();
    for line in trie.lines() {
        let line = line.trim();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf;
        } else if line.starts_with("/32 host LOCAL") && !address.starts_with("127.") {
            found.insert(address.to_owned());
        }
    }
    found
}

/// Every sandbox has addresses, and no two have the same one.
fn addresses(world: &World, stack: &Stack) {
    let mut owners: BTreeMap<String, PathBuf> = BTreeMap::new();
    let marks = by_mark(world);
    for service in stack.wanted().into_iter().filter(|service| !service.ends) {
        for pid in marks[&format!("CHAOS={}", service.mark)].values() {
            let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
            let addresses = addresses_of(*pid);
            assert!(!addresses.is_empty(), "{} has no address", service.name);
            for address in addresses {
                let owner = owners.entry(address.clone()).or_insert(namespace.clone());
                assert_eq!(*owner, namespace, "{address} is used twice");
            }
        }
    }
}

/// Each replica of `web` has a published port of its own, which answers.
fn ports(world: &World, stack: &Stack, containers: &[Value]) {
    let mut published = BTreeSet::new();
    for container in containers {
        for publisher in container["Publishers"].as_array().into_iter().flatten() {
            let port = publisher["PublishedPort"].as_u64().unwrap_or_default();
            if port > 0 && publisher["URL"] == "0.0.0.0" {
                assert!(published.insert(port), "{port} is published twice");
            }
        }
    }
    if !stack.is_published {
        assert!(published.is_empty(), "{published:?}");
        return;
    }
    assert_eq!(
        published.len(),
        stack.web_replicas as usize,
        "{published:?}"
    );
    let is_ours = |port: &u64| (0..3).any(|number| u64::from(FIRST_PORT + number) == *port);
    assert!(published.iter().all(is_ours), "{published:?}");
    let answers: BTreeSet<String> = published
        .iter()
        .map(|port| {
            let page = world.get(&format!("http://127.0.0.1:{port}/hostname"));
            page.success().stdout.trim().to_owned()
        })
        .collect();
    let ids: BTreeSet<String> = containers
        .iter()
        .filter(|container| text(container, "Service") == "web")
        .map(|container| text(container, "ID").to_owned())
        .collect();
    assert_eq!(answers, ids, "who answers at the published ports");
}

/// Nothing is kept of containers that are gone.
fn folders(world: &World, containers: &[Value]) {
    let known: BTreeSet<&str> = containers.iter().map(|it| text(it, "ID")).collect();
    for kept in ["lib/containers", "run/containers"] {
        let path = world.inside(&world.state_root().join(kept));
        let left: Vec<String> = fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|id| !known.iter().any(|known| id.starts_with(known)))
            .collect();
        assert!(left.is_empty(), "{kept} has {left:?} beside {known:?}");
    }
}

/// The name of `web` leads to all of its replicas.
fn names(world: &World, project: &Project<'_>, stack: &Stack) {
    let ask = ["exec", "-T", "writer", "nslookup", "-type=a", "web"];
    let answer = project.command(ask).run().success();
    let answered: BTreeSet<String> = answer
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| line.strip_prefix("Address: "))
        .map(str::to_owned)
        .collect();
    let mark = format!("CHAOS={}", stack.mark("web"));
    let replicas = by_mark(world).remove(&mark).unwrap_or_default();
    for pid in replicas.values() {
        let addresses = addresses_of(*pid);
        assert!(
            !addresses.is_disjoint(&answered),
            "{addresses:?} are not among {answered:?}\n{answer}"
        );
    }
}
