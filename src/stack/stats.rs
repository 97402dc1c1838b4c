//! What a project's containers use, sample by sample.

use std::collections::HashMap;
use std::time::Instant;

use super::{Stack, StackError};
use crate::engine::Usage;
use crate::reconcile::observe::{ObservedContainer, Status};

/// What one container uses; zeros if it does not run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    pub id: String,
    pub name: String,
    /// Of one processor, so that two busy ones are 200; since the sample before, none in the first.
    pub cpu_percent: Option<f64>,
    /// Bytes.
    pub memory: u64,
    /// Bytes: the container's limit or the memory of the host.
    pub memory_limit: u64,
    /// Bytes over all interfaces of its own network namespace but `lo`.
    pub received: u64,
    pub sent: u64,
    /// Bytes from and to block devices.
    pub read: u64,
    pub written: u64,
    pub processes: u64,
}

/// Takes samples of the containers of some services.
#[derive(Debug)]
pub struct Sampler<'a> {
    stack: &'a Stack,
    services: Vec<String>,
    all: bool,
    /// Processor time in nanoseconds and when it was read, by container.
    before: HashMap<String, (u64, Instant)>,
}

impl Stack {
    /// Samples of the containers of `services` (of all if it is empty); with `all` also of those that do not run.
    pub fn stats(&self, services: Vec<String>, all: bool) -> Sampler<'_> {
        Sampler {
            stack: self,
            services,
            all,
            before: HashMap::new(),
        }
    }
}

impl Sampler<'_> {
    /// What the containers that there are now use.
    pub async fn next(&mut self) -> Result<Vec<ContainerStats>, StackError> {
        let observed = self.stack.observe().await?;
        let containers = self.stack.selected(&observed, &self.services);
        let is_running = |container: &ObservedContainer| {
            matches!(container.status, Status::Running | Status::Paused)
        };
        let ids: Vec<&str> = containers
            .iter()
            .filter(|container| is_running(container))
            .map(|container| container.id.as_str())
            .collect();
        let engine = &self.stack.containers().await?.engine;
        let usage = engine.usage(&ids).await?;
        let now = Instant::now();
        let host = host_memory();
        let mut samples = Vec::new();
        for container in containers {
            if !(self.all || is_running(container)) {
                continue;
            }
            let usage = usage.get(&container.id);
            samples.push(self.sample(container, usage, now, host));
        }
        self.stack.revive(&observed).await;
        Ok(samples)
    }

    fn sample(
        &mut self,
        container: &ObservedContainer,
        usage: Option<&Usage>,
        now: Instant,
        host: u64,
    ) -> ContainerStats {
        let nothing = ContainerStats {
            id: container.id.clone(),
            name: container.name.clone(),
            ..ContainerStats::default()
        };
        let Some(usage) = usage else {
            self.before.remove(&container.id);
            return nothing;
        };
        let before = self.before.insert(container.id.clone(), (usage.cpu, now));
        let (received, sent) = container.pid.and_then(network).unwrap_or_default();
        ContainerStats {
            cpu_percent: before.map(|before| percent(before, (usage.cpu, now))),
            memory: usage.memory,
            memory_limit: match usage.memory_limit {
                0 => host,
                limit => limit.min(host),
            },
            received,
            sent,
            read: usage.read,
            written: usage.written,
            processes: usage.processes,
            ..nothing
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more digits than a float has"
)]
fn percent((before, then): (u64, Instant), (after, now): (u64, Instant)) -> f64 {
    let elapsed = now.duration_since(then).as_nanos() as f64;
    // After a restart of the container it counts from zero again.
    let used = after.saturating_sub(before) as f64;
    if elapsed > 0.0 {
        used / elapsed * 100.0
    } else {
        0.0
    }
}

/// Bytes received and sent in the network namespace of `pid`; none if it is the host's.
fn network(pid: u32) -> Option<(u64, u64)> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    Some(traffic(
        &std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?,
    ))
}

fn traffic(table: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (name, counters) in table.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() == "lo" {
            continue;
        }
        let mut counters = counters
            .split_ascii_whitespace()
            .map(|counter| counter.parse::<u64>().unwrap_or(0));
        sum.0 += counters.next().unwrap_or(0);
        // Eight counters of what was received come first.
        sum.1 += counters.nth(7).unwrap_or(0);
    }
    sum
}

/// Bytes of memory of this host.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.map_or(u64::MAX, |kibibytes: u64| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn traffic_is_that_of_all_interfaces_but_the_loopback() {
        let table = "Inter-|   Receive      |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
            lo:     100       2    0    0    0     0          0         0      100       2\n  \
            eth0:    1210       9    0    0    0     0          0         0      126       3\n  \
            eth1:5 1 0 0 0 0 0 0 7 1\n";
        assert_eq!(traffic(table), (1215, 133));
        assert_eq!(network(std::process::id()), None);
    }

    #[test]
    fn two_busy_processors_are_two_hundred_percent() {
        let then = Instant::now();
        let now = then + Duration::from_millis(500);
        let share = percent((1_000, then), (1_000_001_000, now));
        assert!((share - 200.0).abs() < 1e-6, "{share}");
        assert!(percent((5, then), (0, now)).abs() < 1e-6);
        assert!(percent((5, then), (9, then)).abs() < 1e-6);
    }
}
