//! Where events come from: folders that are watched, none of them with what is below.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Config, ErrorKind, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::WatchError;

/// Something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// At this path.
    Path(PathBuf),
    /// Anywhere: events were lost.
    Anywhere,
}

/// Device and inode: the same path may be another folder later.
type Identity = (u64, u64);

/// Watched folders. Folders below them are watched only if they are named too: what is ignored costs nothing.
#[derive(Debug)]
pub(super) struct Source {
    watcher: INotifyWatcher,
    /// `None`: something has happened to the folder itself. Its identity proves nothing then, as a new folder may have the
    /// inode of one that was removed.
    watched: BTreeMap<PathBuf, Option<Identity>>,
    events: UnboundedReceiver<Change>,
}

impl Source {
    pub(super) fn new() -> Result<Self, WatchError> {
        let (sender, events) = unbounded_channel();
        let tell = move |event: notify::Result<Event>| {
            for change in changes(event) {
                // The receiver is gone only when the watcher is about to go, too.
                sender.send(change).ok();
            }
        };
        let watcher = INotifyWatcher::new(tell, Config::default()).map_err(WatchError::Start)?;
        Ok(Self {
            watcher,
            watched: BTreeMap::new(),
            events,
        })
    }

    /// Watches `folders` and nothing else. One that does not exist is left out; one that was replaced since is watched
    /// anew. Whether any is watched that was not before: what happened in it until now was not told.
    pub(super) fn watch_only(&mut self, folders: &BTreeSet<PathBuf>) -> Result<bool, WatchError> {
        let gone: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(path, identity)| {
                !folders.contains(*path)
                    || identity.is_none()
                    || folder_identity(path) != **identity
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.forget(&path);
        }
        let mut is_wider = false;
        for path in folders {
            if !self.watched.contains_key(path) {
                is_wider |= self.watch(path)?;
            }
        }
        Ok(is_wider)
    }

    /// Watches one folder more; false if it is watched already or not there.
    pub(super) fn watch(&mut self, path: &Path) -> Result<bool, WatchError> {
        let Some(identity) = folder_identity(path) else {
            return Ok(false);
        };
        match self.watched.get(path) {
            Some(known) if *known == Some(identity) => return Ok(false),
            Some(_) => self.forget(path),
            None => {}
        }
        match self.watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(path.to_owned(), Some(identity));
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(WatchError::Folder {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Watches a folder no more.
    pub(super) fn forget(&mut self, path: &Path) {
        self.watched.remove(path);
        // The kernel has given it up by itself if the folder is gone.
        self.watcher.unwatch(path).ok();
    }

    #[cfg(test)]
    pub(super) fn is_watched(&self, path: &Path) -> bool {
        self.watched.contains_key(path)
    }

    /// The next change; pending if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Change {
        match self.events.recv().await {
            Some(change) => {
                if let Change::Path(path) = &change
                    && let Some(identity) = self.watched.get_mut(path)
                {
                    *identity = None;
                }
                change
            }
            // The sender lives as long as the watcher.
            None => std::future::pending().await,
        }
    }
}

fn folder_identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(path).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}

fn is_absent(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// What an event of the watcher says; reading a file is no change.
fn changes(event: notify::Result<Event>) -> Vec<Change> {
    match event {
        Ok(event) if event.need_rescan() => vec![Change::Anywhere],
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => paths(event),
            EventKind::Access(_) => Vec::new(),
            _ => paths(event),
        },
        Err(error) => {
            tracing::warn!(%error, "events of the file system were lost");
            vec![Change::Anywhere]
        }
    }
}

fn paths(event: Event) -> Vec<Change> {
    event.paths.into_iter().map(Change::Path).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn next(source: &mut Source) -> Change {
        tokio::time::timeout(Duration::from_secs(5), source.next())
            .await
            .expect("an event")
    }

    fn only(path: &Path) -> BTreeSet<PathBuf> {
        BTreeSet::from([path.to_owned()])
    }

    #[tokio::test]
    async fn a_folder_that_took_the_place_of_another_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let mut source = Source::new().unwrap();
        assert!(source.watch_only(&only(&folder)).unwrap());
        assert!(!source.watch_only(&only(&folder)).unwrap());
        std::fs::rename(&folder, root.path().join("moved")).unwrap();
        assert!(!source.watch_only(&only(&folder)).unwrap());
        std::fs::create_dir(&folder).unwrap();
        assert!(source.watch_only(&only(&folder)).unwrap());
        std::fs::write(folder.join("file"), "x").unwrap();
        loop {
            if next(&mut source).await == Change::Path(folder.join("file")) {
                break;
            }
        }
    }

    #[tokio::test]
    async fn reading_is_no_change_and_folders_below_are_not_watched() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("below");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();
        let mut source = Source::new().unwrap();
        source.watch_only(&only(root.path())).unwrap();
        std::fs::read(root.path().join("file")).unwrap();
        std::fs::write(below.join("unseen"), "x").unwrap();
        std::fs::write(root.path().join("last"), "x").unwrap();
        assert_eq!(
            next(&mut source).await,
            Change::Path(root.path().join("last"))
        );
    }
}
