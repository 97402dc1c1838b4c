//! What is below a folder, and what has become of it since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::WatchError;
use super::source::Source;

/// How something looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Folder,
    /// Kind and mode, inode, size, time of modification and of the last change at all.
    Other(u32, u64, u64, (i64, i64), (i64, i64)),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            return Self::Folder;
        }
        Self::Other(
            metadata.mode(),
            metadata.ino(),
            metadata.size(),
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        )
    }
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// New or changed: folders before what is in them.
    pub(super) present: BTreeSet<PathBuf>,
    /// Gone; of a folder only itself.
    pub(super) gone: BTreeSet<PathBuf>,
}

/// What counts below a root.
pub(super) trait Selection {
    /// Whether a file counts.
    fn takes(&self, path: &Path) -> bool;
    /// Whether nothing in a folder counts: it is not even opened.
    fn skips(&self, folder: &Path) -> bool;
}

/// A root with all that counts below it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    known: BTreeMap<PathBuf, Stamp>,
}

impl Tree {
    /// Nothing is known yet; [`Self::look`] at the root.
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            known: BTreeMap::new(),
        }
    }

    /// Forgets what does not count any more.
    pub(super) fn retain(&mut self, selection: &impl Selection) {
        self.known.retain(|path, stamp| match stamp {
            Stamp::Folder => !selection.skips(path),
            Stamp::Other(..) => selection.takes(path),
        });
    }

    /// Everything that is known: folders before what is in them.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.known.keys()
    }

    /// Whether `path` was there at the last look.
    pub(super) fn knows(&self, path: &Path) -> bool {
        self.known.contains_key(path)
    }

    /// Looks at `path`, which is the root or below it, with everything in it. Folders are watched before they are read, so
    /// that nothing escapes both.
    pub(super) fn look(
        &mut self,
        path: &Path,
        selection: &impl Selection,
        source: &mut Source,
    ) -> Result<Differences, WatchError> {
        let mut now = BTreeMap::new();
        if !self.is_behind_a_link(path) {
            scan(path.to_owned(), selection, source, &mut now)?;
        }
        let known = self
            .known
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .take_while(|(known, _)| known.starts_with(path));
        let mut found = Differences::default();
        let mut forgotten = Vec::new();
        for (known, stamp) in known {
            let is_folder = *stamp == Stamp::Folder;
            let stays = now
                .get(known)
                .is_some_and(|now| is_folder == (*now == Stamp::Folder));
            if !stays {
                forgotten.push(known.clone());
                let is_covered = known
                    .ancestors()
                    .skip(1)
                    .any(|above| found.gone.contains(above));
                // What a container has in the folder of the root beside is not ours to remove.
                let is_root = is_folder && *known == self.root;
                if !is_covered && !is_root {
                    found.gone.insert(known.clone());
                }
                if is_folder {
                    source.forget(known);
                }
            }
        }
        for path in forgotten {
            self.known.remove(&path);
        }
        for (path, stamp) in now {
            if self.known.get(&path) != Some(&stamp) {
                found.present.insert(path.clone());
                self.known.insert(path, stamp);
            }
        }
        Ok(found)
    }

    /// Whether a folder on the way from the root to `path` is a link, behind which nothing counts.
    fn is_behind_a_link(&self, path: &Path) -> bool {
        path.ancestors()
            .skip(1)
            .take_while(|above| above.starts_with(&self.root) && **above != *self.root)
            .any(Path::is_symlink)
    }
}

fn scan(
    start: PathBuf,
    selection: &impl Selection,
    source: &mut Source,
    found: &mut BTreeMap<PathBuf, Stamp>,
) -> Result<(), WatchError> {
    let mut open = vec![start];
    while let Some(path) = open.pop() {
        if selection.skips(&path) {
            continue;
        }
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if !metadata.is_dir() {
            if selection.takes(&path) {
                found.insert(path, Stamp::of(&metadata));
            }
            continue;
        }
        source.watch(&path)?;
        // One that was removed meanwhile is told of by its parent.
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            let below = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // What does not count is known by its name alone.
            if is_folder || selection.takes(&below) {
                open.push(below);
            }
        }
        found.insert(path, Stamp::Folder);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves out everything with `skip` in its name.
    struct NoSkip;

    impl Selection for NoSkip {
        fn takes(&self, path: &Path) -> bool {
            !path.to_string_lossy().contains("skip")
        }

        fn skips(&self, folder: &Path) -> bool {
            !self.takes(folder)
        }
    }

    fn relative(root: &Path, paths: &BTreeSet<PathBuf>) -> Vec<String> {
        let relative = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        paths.iter().map(relative).collect()
    }

    #[tokio::test]
    async fn a_look_finds_what_came_changed_and_went() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["a/b", "skip", "gone/deep"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/b/file", "skip/file", "gone/deep/file", "same"] {
            std::fs::write(root.join(path), "1").unwrap();
        }
        let mut source = Source::new().unwrap();
        let mut tree = Tree::new(root.to_owned());
        let first = tree.look(root, &NoSkip, &mut source).unwrap();
        assert_eq!(
            relative(root, &first.present),
            [
                "",
                "a",
                "a/b",
                "a/b/file",
                "gone",
                "gone/deep",
                "gone/deep/file",
                "same"
            ]
        );
        assert_eq!(
            tree.look(root, &NoSkip, &mut source).unwrap(),
            Differences::default()
        );
        std::fs::write(root.join("a/b/file"), "22").unwrap();
        std::fs::rename(root.join("gone"), root.join("come")).unwrap();
        std::fs::remove_file(root.join("same")).unwrap();
        std::fs::create_dir(root.join("same")).unwrap();
        let second = tree.look(root, &NoSkip, &mut source).unwrap();
        assert_eq!(
            relative(root, &second.present),
            ["a/b/file", "come", "come/deep", "come/deep/file", "same"]
        );
        assert_eq!(relative(root, &second.gone), ["gone", "same"]);
    }

    #[tokio::test]
    async fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "1").unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let mut source = Source::new().unwrap();
        let mut tree = Tree::new(root.to_owned());
        let found = tree.look(root, &NoSkip, &mut source).unwrap();
        assert_eq!(
            relative(root, &found.present),
            ["", "link", "real", "real/file"]
        );
        let behind = tree
            .look(&root.join("link/file"), &NoSkip, &mut source)
            .unwrap();
        assert_eq!(behind, Differences::default());
    }
}
