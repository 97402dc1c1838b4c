//! Which folder a project was brought up from: another checkout with the same project name must not take its containers for
//! its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Stack, StackError};
use crate::container::label;
use crate::model::Project;
use crate::reconcile::observe::Observed;
use crate::state::{Versioned, create_private_dir, read_json, write_json};
use crate::supervisor::protocol::Request;

/// `projects/<name>/origin.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Origin {
    directory: PathBuf,
    files: Vec<PathBuf>,
}

impl Versioned for Origin {
    const FORMAT: u64 = 1;
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Origin {
    fn of(project: &Project) -> Self {
        Self {
            directory: project.working_dir.clone(),
            files: project.files.clone(),
        }
    }

    /// What the containers say, where there is no record.
    fn written(observed: &Observed) -> Option<Self> {
        let newest = observed.containers.iter().max_by_key(|it| it.created_at)?;
        let files = newest.labels.get(label::CONFIG_FILES)?;
        Some(Self {
            directory: newest.labels.get(label::WORKING_DIR)?.into(),
            files: files.split(',').map(PathBuf::from).collect(),
        })
    }

    /// Whether both are there side by side. Neither a folder that was moved or is reached by a link is another one, nor one
    /// that goes on with a file of the same.
    fn is_beside(&self, other: &Self) -> bool {
        let files: Vec<PathBuf> = self.files.iter().map(|file| canonical(file)).collect();
        let shares = other
            .files
            .iter()
            .any(|file| files.contains(&canonical(file)));
        canonical(&self.directory) != canonical(&other.directory)
            && !shares
            && self.files.iter().any(|file| file.exists())
    }
}

impl Stack {
    /// Refuses what would make, replace or remove containers of another checkout, unless that is what the user wants.
    pub(super) fn check_origin(
        &self,
        observed: &Observed,
        request: &Request,
    ) -> Result<(), StackError> {
        let (Some(project), Some(known)) = (self.project(), self.known_origin(observed)?) else {
            return Ok(());
        };
        let harms = matches!(
            request,
            Request::Up { .. }
                | Request::Run { .. }
                | Request::Down { .. }
                | Request::Remove { .. }
        );
        let own = Origin::of(project);
        if harms && !self.options.takes_over && known.is_beside(&own) {
            return Err(StackError::OtherCheckout {
                project: self.options.name.clone(),
                other: known.directory,
                own: own.directory,
            });
        }
        Ok(())
    }

    /// Remembers where the project is brought up from.
    pub(super) fn record_origin(&self, observed: &Observed) -> Result<(), StackError> {
        let Some(project) = self.project() else {
            return Ok(());
        };
        let own = Origin::of(project);
        if self.known_origin(observed)?.as_ref() != Some(&own) {
            let path = self.origin_path();
            create_private_dir(&self.options.state.project(&self.options.name))?;
            write_json(&path, &own)?;
        }
        Ok(())
    }

    fn origin_path(&self) -> PathBuf {
        let folder = self.options.state.project(&self.options.name);
        folder.join("origin.json")
    }

    /// Where the containers that there are come from.
    fn known_origin(&self, observed: &Observed) -> Result<Option<Origin>, StackError> {
        if observed.containers.is_empty() {
            return Ok(None);
        }
        let record = read_json(&self.origin_path())?;
        Ok(record.or_else(|| Origin::written(observed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(root: &Path, name: &str) -> Origin {
        let directory = root.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("compose.yaml"), "").unwrap();
        Origin {
            files: vec![directory.join("compose.yaml")],
            directory,
        }
    }

    #[test]
    fn two_folders_with_files_of_their_own_are_two_checkouts() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (checkout(root.path(), "a"), checkout(root.path(), "b"));
        assert!(first.is_beside(&second) && second.is_beside(&first));
        assert!(!first.is_beside(&first));
    }

    #[test]
    fn a_folder_that_was_moved_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        let before = checkout(root.path(), "a");
        std::fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        assert!(!before.is_beside(&checkout(root.path(), "b")));
    }

    #[test]
    fn a_link_leads_to_the_same_folder() {
        let root = tempfile::tempdir().unwrap();
        let first = checkout(root.path(), "a");
        std::os::unix::fs::symlink(root.path().join("a"), root.path().join("b")).unwrap();
        let linked = Origin {
            directory: root.path().join("b"),
            files: vec![root.path().join("b/compose.yaml")],
        };
        assert!(!first.is_beside(&linked));
    }

    #[test]
    fn other_files_in_the_same_folder_and_a_common_file_elsewhere_are_the_same() {
        let root = tempfile::tempdir().unwrap();
        let first = checkout(root.path(), "a");
        let mut other = checkout(root.path(), "a");
        other.files = vec![root.path().join("a/other.yaml")];
        assert!(!first.is_beside(&other));
        let mut elsewhere = checkout(root.path(), "b");
        elsewhere.files.push(first.files[0].clone());
        assert!(!first.is_beside(&elsewhere));
    }
}
