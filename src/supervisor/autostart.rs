//! A systemd unit that brings projects back when the host starts.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::launch;
use crate::state::{StateError, StateRoot, create_private_dir, write_atomic};

/// Where units of the host's administrator are.
const UNITS: &str = "/etc/systemd/system";

/// Who is brought back at the start of the host.
#[derive(Clone, Debug)]
pub struct Autostart {
    state: StateRoot,
    /// `None`: every project of the host.
    project: Option<String>,
    units: PathBuf,
}

/// The unit could not be looked at or changed.
#[derive(Debug, Error)]
pub enum AutostartError {
    #[error("systemd does not manage this host")]
    NoServiceManager,
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("`systemctl {arguments}` failed: {message}")]
    Systemctl { arguments: String, message: String },
}

impl AutostartError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoServiceManager => {
                Some("have your init run `compose resume` when the host has started containerd")
            }
            _ => None,
        }
    }
}

/// For `map_err`: says what could not be done.
fn cannot(operation: impl Into<String>) -> impl FnOnce(io::Error) -> AutostartError {
    move |source| AutostartError::Io {
        operation: operation.into(),
        source,
    }
}

impl Autostart {
    pub fn new(state: StateRoot, project: Option<String>) -> Self {
        Self {
            state,
            project,
            units: UNITS.into(),
        }
    }

    /// Name of the unit.
    pub fn unit(&self) -> String {
        match &self.project {
            Some(project) => format!("containerd-compose-{project}.service"),
            None => "containerd-compose.service".into(),
        }
    }

    /// File of the unit.
    pub fn path(&self) -> PathBuf {
        self.units.join(self.unit())
    }

    /// The copy of the program that units run: a rebuild or an upgrade in the middle of a boot is no reason to stay down.
    fn program(&self) -> PathBuf {
        self.state.data().join("autostart").join("compose")
    }

    /// Installs the unit for the next start of the host, with a copy of this program.
    pub fn enable(&self) -> Result<(), AutostartError> {
        require_systemd()?;
        self.copy_program()?;
        let text = self.text(&launch::environment(&self.state));
        write_atomic(&self.path(), text.as_bytes())?;
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(self.path(), readable)
            .map_err(cannot(format!("make {} readable", self.path().display())))?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--quiet", &self.unit()])?;
        Ok(())
    }

    /// Removes the unit; what runs goes on. Whether there was one.
    pub fn disable(&self) -> Result<bool, AutostartError> {
        require_systemd()?;
        if !self.path().exists() {
            return Ok(false);
        }
        systemctl(&["disable", "--quiet", &self.unit()])?;
        std::fs::remove_file(self.path())
            .map_err(cannot(format!("remove {}", self.path().display())))?;
        systemctl(&["daemon-reload"])?;
        if !self.is_program_used()? {
            let program = self.program();
            std::fs::remove_file(&program)
                .map_err(cannot(format!("remove {}", program.display())))?;
        }
        Ok(true)
    }

    /// Whether the next start of the host brings it back by this unit.
    pub fn is_enabled(&self) -> Result<bool, AutostartError> {
        if require_systemd().is_err() || !self.path().exists() {
            return Ok(false);
        }
        let output = Command::new("systemctl")
            .args(["is-enabled", "--quiet", &self.unit()])
            .output()
            .map_err(cannot("run systemctl"))?;
        Ok(output.status.success())
    }

    /// The running program may be replaced or rebuilt, so that the copy is made beside and renamed.
    fn copy_program(&self) -> Result<(), AutostartError> {
        let program = self.program();
        let failed = || cannot(format!("copy this program to {}", program.display()));
        create_private_dir(program.parent().unwrap_or(self.state.data()))?;
        let mut source = File::open("/proc/self/exe").map_err(failed())?;
        let temporary = program.with_extension(std::process::id().to_string());
        let mut copy = || {
            let mut copy = File::create(&temporary)?;
            io::copy(&mut source, &mut copy)?;
            copy.set_permissions(std::fs::Permissions::from_mode(0o700))?;
            copy.sync_all()?;
            std::fs::rename(&temporary, &program)
        };
        copy().map_err(|error| {
            std::fs::remove_file(&temporary).ok();
            failed()(error)
        })
    }

    /// Whether another unit runs the copy.
    fn is_program_used(&self) -> Result<bool, AutostartError> {
        let failed = || cannot(format!("read {}", self.units.display()));
        let line = self.command_line();
        for entry in std::fs::read_dir(&self.units).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("containerd-compose")
                && std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&line))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The program, as units have it.
    fn command_line(&self) -> String {
        let program = std::path::absolute(self.program()).unwrap_or_else(|_| self.program());
        format!("ExecStart={}", quoted(&program.to_string_lossy()))
    }

    fn text(&self, environment: &[(OsString, OsString)]) -> String {
        let (what, options) = match &self.project {
            Some(project) => (
                format!("Compose project {project}"),
                format!(" --project-name {project}"),
            ),
            None => ("Compose projects".into(), String::new()),
        };
        let mut variables = String::new();
        for (name, value) in environment {
            let variable = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
            // Writing to a string cannot fail.
            let _ = writeln!(variables, "Environment={}", quoted(&variable));
        }
        format!(
            "# Made by `compose autostart enable`; `compose autostart disable` removes it.\n\
             [Unit]\n\
             Description={what}, brought back at the start of the host\n\
             Wants=network-online.target\n\
             After=network-online.target containerd.service\n\
             \n\
             [Service]\n\
             Type=oneshot\n\
             RemainAfterExit=yes\n\
             {variables}\
             {}{options} resume\n\
             # A containerd of our own and supervisors live on.\n\
             KillMode=process\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            self.command_line()
        )
    }
}

fn require_systemd() -> Result<(), AutostartError> {
    if Path::new("/run/systemd/system").exists() {
        Ok(())
    } else {
        Err(AutostartError::NoServiceManager)
    }
}

fn systemctl(arguments: &[&str]) -> Result<(), AutostartError> {
    let output = Command::new("systemctl")
        .arg("--no-ask-password")
        .args(arguments)
        .output()
        .map_err(cannot("run systemctl"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(AutostartError::Systemctl {
        arguments: arguments.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

/// One word of a unit file in which nothing is expanded (systemd.syntax(7), systemd.service(5)).
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_resumes_after_containerd_and_leaves_processes_alone() {
        let state = StateRoot::new(None);
        let environment = [("PATH".into(), "/usr/bin:/odd \"100%\"".into())];
        let host = Autostart::new(state.clone(), None);
        let text = host.text(&environment);
        for line in [
            "After=network-online.target containerd.service",
            "RemainAfterExit=yes",
            "KillMode=process",
            "Environment=\"PATH=/usr/bin:/odd \\\"100%%\\\"\"",
            "ExecStart=\"/var/lib/compose/autostart/compose\" resume",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let project = Autostart::new(state, Some("shop".into()));
        assert_eq!(project.unit(), "containerd-compose-shop.service");
        let text = project.text(&[]);
        let line = "ExecStart=\"/var/lib/compose/autostart/compose\" --project-name shop resume";
        assert!(text.lines().any(|other| other == line), "{text}");
    }

    #[test]
    fn the_copy_is_kept_while_a_unit_runs_it() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let autostart = |project: Option<&str>| Autostart {
            units: root.path().into(),
            ..Autostart::new(state.clone(), project.map(Into::into))
        };
        let (host, shop) = (autostart(None), autostart(Some("shop")));
        assert!(!host.is_program_used().unwrap());
        std::fs::write(shop.path(), shop.text(&[])).unwrap();
        assert!(host.is_program_used().unwrap());
        host.copy_program().unwrap();
        let mode = std::fs::metadata(host.program())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
