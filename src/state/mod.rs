//! Where the product keeps its files, and how they are written.
//!
//! `/var/lib/compose` holds data, `/run/compose` sockets, locks, network namespaces and FIFOs.
//! [`ROOT_VARIABLE`] moves both, so that tests own their world.

mod container;
mod file;
mod process;

use std::path::{Path, PathBuf};

pub use container::*;
pub use file::*;
pub use process::Process;

/// Environment variable that moves the data to `<value>/lib` and the run files to `<value>/run`.
pub const ROOT_VARIABLE: &str = "COMPOSE_STATE_ROOT";

/// The two folders under which everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot {
    data: PathBuf,
    run: PathBuf,
}

impl StateRoot {
    /// The system's folders, or those under `root`.
    pub fn new(root: Option<&Path>) -> Self {
        match root {
            Some(root) => Self {
                data: root.join("lib"),
                run: root.join("run"),
            },
            None => Self {
                data: "/var/lib/compose".into(),
                run: "/run/compose".into(),
            },
        }
    }

    /// As [`StateRoot::new`], with the root taken from [`ROOT_VARIABLE`].
    pub fn from_environment() -> Self {
        let root = std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty());
        Self::new(root.as_deref().map(Path::new))
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Data of a project: resolved model, private environment, log of its supervisor.
    pub fn project(&self, name: &str) -> PathBuf {
        self.data.join("projects").join(name)
    }

    /// Control socket and locks of a project.
    pub fn project_run(&self, name: &str) -> PathBuf {
        self.run.join("projects").join(name)
    }

    pub fn projects(&self) -> PathBuf {
        self.data.join("projects")
    }

    /// State, log and generated `/etc` files of a container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }

    /// FIFOs of a container.
    pub fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// Folder of a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Where a volume has its data.
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volume(name).join("_data")
    }

    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// Facts about images, by digest.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Network namespaces that we pin.
    pub fn namespaces(&self) -> PathBuf {
        self.run.join("netns")
    }
}
