//! What may go wrong while a command is at work.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use super::Story;
use super::file::Stack;
use crate::world::{World, processes_in};

/// Whom SIGKILL meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Command,
    Worker,
    Keeper,
    Supervisor,
    Shim,
    Container,
}

#[derive(Clone, Debug)]
pub(super) enum Disturbance {
    /// `choice` tells who it is where there are several.
    Kill { victim: Victim, choice: usize },
    /// Every process of a service.
    KillService(&'static str),
    /// containerd is killed, and back after a while.
    Containerd { back_after: Duration },
    /// No byte is free on the disk, for a while.
    FullDisk { lasting: Duration },
    /// Somebody flushes all firewall rules.
    Firewall,
}

impl Disturbance {
    pub(super) fn any(rng: &mut Rng, stack: &Stack) -> Self {
        let victim = match rng.u8(..16) {
            0..=2 => Victim::Command,
            3..=5 => Victim::Worker,
            6 => Victim::Keeper,
            7 => Victim::Supervisor,
            8..=9 => Victim::Shim,
            10 => Victim::Container,
            11 => return Self::KillService(stack.any_service(rng)),
            12..=13 => {
                let back_after = Duration::from_millis(rng.u64(..1500));
                return Self::Containerd { back_after };
            }
            14 => {
                let lasting = Duration::from_millis(200 + rng.u64(..1500));
                return Self::FullDisk { lasting };
            }
            _ => return Self::Firewall,
        };
        Self::Kill {
            victim,
            choice: rng.usize(..100),
        }
    }

    pub(super) fn happen(&self, world: &mut World, undo: &mut Undo, story: &mut Story) {
        match self {
            Self::Kill { victim, choice } => {
                let killed = kill(world, *victim, *choice);
                story.tell(format_args!("kill {victim:?}: {killed:?}"));
            }
            Self::KillService(service) => {
                let mark = format!("CHAOS={service}-");
                let pids: Vec<i32> = processes_in(world.name())
                    .into_iter()
                    .map(|(pid, _)| pid)
                    .filter(|pid| variable(*pid).is_some_and(|text| text.starts_with(&mark)))
                    .collect();
                for pid in &pids {
                    sigkill(*pid);
                }
                story.tell(format_args!("kill all of {service}: {pids:?}"));
            }
            Self::Containerd { back_after } => {
                story.tell("kill containerd");
                world.stop_containerd(Signal::KILL);
                undo.at(Instant::now() + *back_after, Change::StartContainerd);
            }
            Self::FullDisk { lasting } => {
                let (filled, file) = world.fill_state();
                story.tell(format_args!("the disk is full: {filled} bytes more"));
                undo.at(Instant::now() + *lasting, Change::FreeDisk(file));
            }
            Self::Firewall => {
                story.tell("flush all rules");
                let _flushed = world.command("nft").args(["flush", "ruleset"]).run();
            }
        }
    }
}

/// What is made undone at its time.
#[derive(Debug)]
enum Change {
    StartContainerd,
    FreeDisk(PathBuf),
}

/// What is to be made undone.
#[derive(Debug, Default)]
pub(super) struct Undo(Vec<(Instant, Change)>);

impl Undo {
    fn at(&mut self, when: Instant, change: Change) {
        self.0.push((when, change));
        self.0.sort_by_key(|(when, _)| *when);
    }

    /// Waits, and makes undone what is due meanwhile.
    pub(super) fn run_until(&mut self, until: Instant, world: &mut World, story: &mut Story) {
        while self.0.first().is_some_and(|(when, _)| *when <= until) {
            let (when, change) = self.0.remove(0);
            sleep_until(when);
            change.happen(world, story);
        }
        sleep_until(until);
    }

    pub(super) fn finish(&mut self, world: &mut World, story: &mut Story) {
        while let Some((when, _)) = self.0.first() {
            self.run_until(*when, world, story);
        }
    }
}

impl Change {
    fn happen(self, world: &mut World, story: &mut Story) {
        match self {
            Self::StartContainerd => {
                world.start_containerd();
                story.tell("containerd is back");
            }
            Self::FreeDisk(file) => {
                // Two may have filled it; then the first one to end has freed it.
                fs::remove_file(file).ok();
                story.tell("the disk has room again");
            }
        }
    }
}

fn sleep_until(until: Instant) {
    sleep(until.saturating_duration_since(Instant::now()));
}

/// The value of the variable that marks processes in containers.
pub(super) fn variable(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&environment);
    let mark = text.split('\0').find(|text| text.starts_with("CHAOS="))?;
    Some(mark.to_owned())
}

fn sigkill(pid: i32) {
    let pid = Pid::from_raw(pid).unwrap();
    // It may have ended by itself.
    kill_process(pid, Signal::KILL).ok();
}

/// Kills, and says whom.
fn kill(world: &World, victim: Victim, choice: usize) -> Vec<(i32, String)> {
    let is_victim = |pid: i32, line: &str| {
        let is_supervisor = line.contains(" supervisor --project");
        let is_worker = is_supervisor && line.contains(" --worker");
        match victim {
            // nsenter goes first in the line of the process that waits for the command.
            Victim::Command => line.contains("/compose ") && !is_supervisor,
            Victim::Worker => is_worker,
            Victim::Keeper => is_supervisor && !is_worker,
            Victim::Supervisor => is_supervisor,
            Victim::Shim => line.contains("containerd-shim"),
            Victim::Container => variable(pid).is_some(),
        }
    };
    let mut found = processes_in(world.name());
    found.retain(|(pid, line)| is_victim(*pid, line));
    found.sort_by_key(|(pid, _)| *pid);
    if matches!(victim, Victim::Shim | Victim::Container) && !found.is_empty() {
        found = vec![found.swap_remove(choice % found.len())];
    }
    for (pid, _) in &found {
        sigkill(*pid);
    }
    for (_, line) in &mut found {
        line.truncate(60);
    }
    found
}

/// Returns when containerd has noticed what became of the shims that were killed: a container whose shim is gone is ended
/// by it, and only then is the world what it stays.
pub(super) fn settle(world: &World, story: &mut Story) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut waited = false;
    loop {
        let orphans: Vec<i32> = processes_in(world.name())
            .into_iter()
            .map(|(pid, _)| pid)
            .filter(|pid| variable(*pid).is_some() && !has_shim(*pid))
            .collect();
        if orphans.is_empty() {
            break;
        }
        waited = true;
        assert!(
            Instant::now() < deadline,
            "processes without a shim live on: {orphans:?}"
        );
        sleep(Duration::from_millis(20));
    }
    if waited {
        story.tell("the containers without a shim are gone");
    }
}

/// Whether a shim is among the ancestors of a process.
fn has_shim(pid: i32) -> bool {
    let mut pid = pid;
    while pid > 1 {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("containerd-shim") {
            return true;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            // It has ended meanwhile.
            return true;
        };
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(2));
        pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    false
}
