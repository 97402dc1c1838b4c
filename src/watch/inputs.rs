//! Files that a result depends on, and how they looked at the last look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Links that are followed on the way to one file; the kernel's own limit.
const LINKS: usize = 40;

/// How something looked: enough to notice that it was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Set by the kernel alone: tells of what kept the time of its modification.
    changed: (i64, i64),
}

/// One look at files, wherever links lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Folders in which an event may concern a file: every one on the way to it, those behind links too.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Paths whose appearance, end or change concerns a file.
    concerns: BTreeSet<PathBuf>,
    /// `None`: it is not there.
    prints: BTreeMap<PathBuf, Option<Print>>,
}

impl Survey {
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let mut survey = Self::default();
        for file in files {
            survey.follow(file);
            let print = std::fs::metadata(file).ok().map(|metadata| Print {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            });
            survey.prints.insert(file.clone(), print);
        }
        survey
    }

    /// Whether an event at `path` may concern a file.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.concerns.contains(path) || self.folders.contains(path)
    }

    /// Whether every file of `other` is looked at here too, and looks the same.
    pub(super) fn includes(&self, other: &Self) -> bool {
        let mut prints = other.prints.iter();
        prints.all(|(file, print)| self.prints.get(file) == Some(print))
    }

    /// Notes what is on the way to `file`.
    fn follow(&mut self, file: &Path) {
        let mut links = 0;
        let mut at = PathBuf::new();
        let mut rest: VecDeque<PathBuf> = parts(file).collect();
        while let Some(part) = rest.pop_front() {
            if part == Path::new("..") {
                at.pop();
                continue;
            }
            at.push(part);
            self.concerns.insert(at.clone());
            let Ok(metadata) = at.symlink_metadata() else {
                return;
            };
            if metadata.is_symlink() && links < LINKS {
                links += 1;
                let Ok(target) = std::fs::read_link(&at) else {
                    return;
                };
                at.pop();
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(part);
                }
            } else if metadata.is_dir() && !rest.is_empty() {
                self.folders.insert(at.clone());
            }
        }
    }
}

/// The parts of a path, `/` among them.
fn parts(path: &Path) -> impl Iterator<Item = PathBuf> {
    let parts = path.components();
    parts
        .filter(|part| *part != Component::CurDir)
        .map(|part| PathBuf::from(part.as_os_str()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn survey(file: &Path) -> Survey {
        Survey::of([&file.to_owned()])
    }

    #[test]
    fn a_file_that_is_written_replaced_removed_or_made_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a/file");
        let absent = survey(&file);
        std::fs::create_dir(root.path().join("a")).unwrap();
        assert!(survey(&file).includes(&absent));
        std::fs::write(&file, "1").unwrap();
        let first = survey(&file);
        assert!(!first.includes(&absent));
        assert!(survey(&file).includes(&first));
        std::fs::write(root.path().join("new"), "2").unwrap();
        std::fs::rename(root.path().join("new"), &file).unwrap();
        let second = survey(&file);
        assert!(!second.includes(&first));
        std::fs::remove_file(&file).unwrap();
        assert!(!survey(&file).includes(&second));
    }

    #[test]
    fn a_write_that_keeps_size_and_time_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "1").unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let first = survey(&file);
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&file, "2").unwrap();
        let handle = std::fs::File::options().write(true).open(&file).unwrap();
        handle.set_modified(modified).unwrap();
        assert!(!survey(&file).includes(&first));
    }

    #[test]
    fn every_folder_on_the_way_is_watched_behind_links_too() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("..2024")).unwrap();
        std::fs::write(at("..2024/file"), "1").unwrap();
        symlink("..2024", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        let before = survey(&at("file"));
        assert!(before.folders.contains(root.path()));
        assert!(before.folders.contains(&at("..2024")));
        assert!(before.folders.contains(Path::new("/")));
        assert!(before.concerns(&at("..data")));
        assert!(before.concerns(&at("..2024/file")));
        assert!(!before.concerns(&at("other")));

        // As Kubernetes swaps the content of a volume.
        std::fs::create_dir(at("..2025")).unwrap();
        std::fs::write(at("..2025/file"), "2").unwrap();
        symlink("..2025", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        let after = survey(&at("file"));
        assert!(!after.includes(&before));
        assert!(after.folders.contains(&at("..2025")));
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let survey = survey(&root.path().join("a/file"));
        assert!(survey.folders.contains(root.path()));
    }

    #[test]
    fn what_is_missing_is_awaited_in_the_nearest_folder_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let survey = survey(&root.path().join("a/b/file"));
        assert!(survey.folders.contains(root.path()));
        assert!(survey.concerns(&root.path().join("a")));
        assert!(!survey.folders.contains(&root.path().join("a")));
    }
}
