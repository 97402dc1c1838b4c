//! A folder and an environment of its own for each test, and what a command says in it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder with files, in which commands run.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// With a compose file.
    pub(crate) fn with(compose: &str) -> Self {
        let world = Self::new();
        world.write("compose.yaml", compose);
        world
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a file in a temporary folder");
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `compose` and returns its output: data, then talk, then how it ended.
    #[must_use]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the command runs");
        self.transcript(&output)
    }

    /// As [`World::run`], but nobody reads the output.
    #[must_use]
    pub(crate) fn run_into_closed_pipe(&self, arguments: &[&str]) -> String {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = self.command(arguments);
        let output = command.stdout(writer).output().expect("the command runs");
        self.transcript(&output)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_compose"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("COLUMNS", "100")
            .env("TZ", "UTC")
            .env("COMPOSE_STATE_ROOT", self.path().join("state"))
            // Nothing listens there: no test reaches a containerd.
            .env("CONTAINERD_ADDRESS", self.path().join("containerd.sock"))
            .stdin(Stdio::null());
        command
    }

    /// The folder has another name each time.
    fn transcript(&self, output: &Output) -> String {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.stderr.is_empty() {
            text.push_str("------- stderr -------\n");
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        let code = output.status.code().expect("an exit code");
        write!(text, "[exit status: {code}]").expect("a string takes it");
        text.replace(&self.path().display().to_string(), "[FOLDER]")
    }
}
