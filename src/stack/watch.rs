//! Following the project's files from this process.

use super::Stack;
use crate::load::{LoadError, LoadOptions, Loaded};
use crate::model::Project;
use crate::reconcile::plan::UpOptions;
use crate::supervisor::live::{LiveRecord, other_project};
use crate::supervisor::protocol::Request;
use crate::watch::{Reloader, WatchError};

/// What came of files that have changed.
#[derive(Debug)]
pub enum Reloaded {
    Project(Box<Loaded>),
    /// The files are wrong; what runs stays as it is.
    Invalid(LoadError),
    /// The files make another project, and why that is so.
    Other(String),
}

/// The files of a project, followed for as long as this lives.
#[derive(Debug)]
pub struct Watch {
    reloader: Reloader,
    record: LiveRecord,
    project: Project,
}

impl Watch {
    /// Follows the files that `loaded` was made from by `load`, and that `options` have brought up.
    pub fn new(
        load: &LoadOptions,
        loaded: &Loaded,
        options: &UpOptions,
    ) -> Result<Self, WatchError> {
        Ok(Self {
            reloader: Reloader::new(load.clone(), loaded.inputs.clone())?,
            record: LiveRecord::new(load, loaded, options),
            project: loaded.project.clone(),
        })
    }

    /// Waits until the files have changed and loads them. Cancel-safe.
    pub async fn next(&mut self) -> Result<Reloaded, WatchError> {
        let loaded = match self.reloader.next().await? {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Reloaded::Invalid(error)),
        };
        let Project {
            name, working_dir, ..
        } = &self.project;
        if let Some(problem) = other_project(&loaded.project, name, working_dir) {
            return Ok(Reloaded::Other(problem));
        }
        self.project = loaded.project.clone();
        Ok(Reloaded::Project(Box::new(loaded)))
    }

    /// The request that makes the world follow the project as it was loaded last.
    pub fn request(&mut self) -> Request {
        self.record.request(&self.project)
    }

    /// Notes that the last request has been fulfilled.
    pub fn settle(&mut self) {
        self.record.settle(&self.project);
    }
}

impl Stack {
    /// This stack with another state of its project, on the same connection.
    #[must_use]
    pub fn with_project(&self, project: Project) -> Self {
        let mut options = self.options.clone();
        options.project = Some(project);
        Self {
            options,
            containers: self.containers.clone(),
        }
    }
}
