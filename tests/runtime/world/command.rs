//! Commands that run inside a world, under a timeout, with an environment that tests decide.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// What a command that was run to its end has left.
#[must_use]
#[derive(Debug)]
pub(crate) struct Output {
    /// The command line, for messages.
    pub(crate) command: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
}

impl fmt::Display for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "$ {}", self.command)?;
        formatter.write_str(&self.stdout)?;
        writeln!(formatter, "--- stderr ---")?;
        formatter.write_str(&self.stderr)?;
        match self.status.code() {
            Some(code) => writeln!(formatter, "[exit status: {code}]"),
            None => writeln!(formatter, "[{}]", self.status),
        }
    }
}

impl Output {
    /// Demands that the command has succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "the command failed:\n{self}");
        self
    }

    /// Demands that the command has failed.
    #[track_caller]
    pub(crate) fn failure(self) -> Self {
        assert!(!self.status.success(), "the command succeeded:\n{self}");
        self
    }
}

/// A command to be run in a world.
#[must_use]
#[derive(Debug)]
pub(crate) struct Run {
    enter: Vec<OsString>,
    words: Vec<OsString>,
    folder: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    timeout: Duration,
}

impl Run {
    /// A command that is run after the words that enter the world.
    pub(super) fn new(
        enter: Vec<OsString>,
        folder: &Path,
        environment: BTreeMap<OsString, OsString>,
    ) -> Self {
        let timeout = Duration::from_mins(2);
        Self {
            enter,
            words: Vec::new(),
            folder: folder.to_owned(),
            environment,
            timeout,
        }
    }

    pub(crate) fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    pub(crate) fn args<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self
            .words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        words.join(" ")
    }

    /// Starts the command and leaves it running.
    #[track_caller]
    pub(crate) fn start(self) -> Running {
        let shown = self.shown();
        let mut child = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .args(["env", "--chdir"])
            .arg(&self.folder)
            .args(&self.words)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{shown}`: {error}"));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let started = Instant::now();
        Running {
            shown,
            child,
            stdout,
            stderr,
            started,
            timeout: self.timeout,
        }
    }

    /// Runs the command to its end, which includes the end of its output: a process that it leaves
    /// behind must not hold that.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        self.start().finish()
    }
}

/// A command that runs.
#[must_use]
#[derive(Debug)]
pub(crate) struct Running {
    shown: String,
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
    started: Instant,
    timeout: Duration,
}

impl Running {
    /// Allows it to run for as long as any test does.
    pub(crate) fn within_a_day(mut self) -> Self {
        self.timeout = Duration::from_hours(24);
        self
    }

    /// Sends a signal to the command itself, not to what enters the world before it.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id();
        let entered = only_child(pid).unwrap_or_else(|| panic!("`{}` has ended", self.shown));
        kill_process(entered, signal).unwrap();
    }

    /// Waits for the end of the command and of its output.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        let deadline = self.started + self.timeout;
        let mut streams = [String::new(), String::new()];
        for (text, stream) in streams.iter_mut().zip([&self.stdout, &self.stderr]) {
            let left = deadline.saturating_duration_since(Instant::now());
            *text = stream.recv_timeout(left).unwrap_or_else(|_| {
                panic!(
                    "`{}` did not end its output within {:?}",
                    self.shown, self.timeout
                )
            });
        }
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "`{}` did not end within {:?}",
                self.shown,
                self.timeout
            );
            thread::sleep(Duration::from_millis(5));
        };
        let [stdout, stderr] = streams;
        Output {
            command: self.shown,
            stdout,
            stderr,
            status,
        }
    }
}

/// The process that `nsenter` has started: the command itself.
fn only_child(pid: u32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An unreadable pipe shows as missing output, which the test then judges.
        let _read = stream.read_to_end(&mut bytes);
        let _received = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
