//! The processes of a container, from `/proc`: no program of the image is needed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::{ContainerError, Containers};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerProcess {
    /// Name of its user on the host, else the number.
    pub user: String,
    /// Numbers on the host.
    pub pid: u32,
    pub parent: u32,
    pub started_at: Timestamp,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// As `pts/0`; none without a terminal.
    pub terminal: Option<String>,
    /// Its command line, else its name in brackets.
    pub command: String,
}

/// What of `/proc/<pid>/stat` is used.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u32,
    /// Clock ticks of processor time.
    cpu: u64,
    /// Clock ticks from the start of the host.
    started: u64,
}

impl Containers {
    /// The processes of a running container, by number.
    pub async fn processes(&self, id: &str) -> Result<Vec<ContainerProcess>, ContainerError> {
        let mut pids = self.engine.task_pids(id).await?;
        pids.sort_unstable();
        let read = || -> io::Result<Vec<ContainerProcess>> {
            let users = users(&std::fs::read_to_string("/etc/passwd").unwrap_or_default());
            let started = host_start()?;
            let processes = pids.iter().map(|pid| process(*pid, &users, started));
            Ok(processes.filter_map(Result::ok).collect())
        };
        read().map_err(ContainerError::io("read /proc"))
    }
}

/// An error above all if it has ended meanwhile.
fn process(
    pid: u32,
    users: &HashMap<u32, String>,
    host_start: Timestamp,
) -> io::Result<ContainerProcess> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let text = std::fs::read(folder.join("stat"))?;
    let stat = parse_stat(&String::from_utf8_lossy(&text))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let uid = std::fs::metadata(&folder)?.uid();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let since = SignedDuration::from_millis(
        i64::try_from(stat.started.saturating_mul(1000) / ticks).unwrap_or(0),
    );
    Ok(ContainerProcess {
        user: users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        pid,
        parent: stat.parent,
        started_at: host_start.checked_add(since).unwrap_or(host_start),
        cpu_seconds: stat.cpu / ticks,
        terminal: terminal(stat.terminal),
        command: command(&folder, &stat.name)?,
    })
}

fn parse_stat(text: &str) -> Option<Stat> {
    // A process may call itself whatever it likes, brackets and spaces included.
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are counted from the state, which is number 3 in the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        name: name.into(),
        parent: u32::try_from(field(4)?).ok()?,
        terminal: fields.get(7 - 3)?.parse::<i32>().ok()?.cast_unsigned(),
        cpu: field(14)? + field(15)?,
        started: field(22)?,
    })
}

fn command(folder: &Path, name: &str) -> io::Result<String> {
    let line = std::fs::read(folder.join("cmdline"))?;
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let line = words.join(" ");
    let line = line.trim_end();
    if line.is_empty() {
        return Ok(format!("[{name}]"));
    }
    // A line feed would break the table, and an escape code the terminal.
    Ok(line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect())
}

/// Name of the terminal with this device number.
fn terminal(device: u32) -> Option<String> {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    match major {
        4 => Some(format!("tty{minor}")),
        136..=143 => Some(format!("pts/{}", minor + (major - 136) * 256)),
        _ => None,
    }
}

fn users(passwd: &str) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // The first name of a number counts.
    passwd.lines().rev().filter_map(entry).collect()
}

/// When the host was started.
fn host_start() -> io::Result<Timestamp> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds = seconds.and_then(|text| text.trim().parse().ok());
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_confuses_nobody() {
        let text = "7 (a) R 1 (b) S 42 7 7 34816 7 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9000 1 2";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                name: "a) R 1 (b".into(),
                parent: 42,
                terminal: 34816,
                cpu: 200,
                started: 9000,
            })
        );
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) R 1"), None);
    }

    #[test]
    fn terminals_have_their_names() {
        assert_eq!(terminal(0), None);
        assert_eq!(terminal(34816).as_deref(), Some("pts/0"));
        assert_eq!(terminal((137 << 8) | 1).as_deref(), Some("pts/257"));
        assert_eq!(terminal(1025).as_deref(), Some("tty1"));
    }

    #[test]
    fn this_process_is_read_from_proc() {
        let users = users("root:x:0:0:root:/root:/bin/sh\nother:x:0:0::/:\n");
        let found = process(std::process::id(), &users, host_start().unwrap()).unwrap();
        assert_eq!(found.user, "root");
        let age = Timestamp::now().duration_since(found.started_at);
        assert!(age.as_secs() < 3600, "{age:?}");
        assert!(!found.command.is_empty());
        assert!(process(u32::MAX, &users, Timestamp::UNIX_EPOCH).is_err());
    }
}
