//! The records of all sandboxes, read again when one changes and at no other time.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::table::Table;
use crate::network::{Networks, SandboxRecord};
use crate::state::{StateRoot, create_private_dir, read_json};
use crate::sys::descriptors;

/// Time between two looks where changes cannot be watched.
const LOOK: Duration = Duration::from_secs(1);

/// What all servers of this process answer from.
pub(super) type SharedTable = Arc<RwLock<Arc<Table>>>;

/// The table as it is now.
pub(super) fn current(table: &SharedTable) -> Arc<Table> {
    table.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Reads the records and keeps a table of them.
#[derive(Debug)]
pub(super) struct Records {
    source: Networks,
    folder: PathBuf,
    boot: String,
    /// By name of the file.
    sandboxes: BTreeMap<String, SandboxRecord>,
    /// Whether each network is internal. None if they may have changed.
    networks: Option<BTreeMap<String, bool>>,
    table: SharedTable,
    watcher: Option<Watcher>,
}

impl Records {
    /// Reads everything. Needs a Tokio runtime.
    pub(super) fn new(source: Networks, state: &StateRoot) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let folder = state.networks().join("sandboxes");
        let watcher = Watcher::new(&state.networks(), &folder);
        let mut records = Self {
            source,
            folder,
            boot: boot.unwrap_or_default().trim().to_owned(),
            sandboxes: BTreeMap::new(),
            networks: None,
            table: SharedTable::default(),
            watcher: watcher
                .inspect_err(|error| tracing::error!(%error, "cannot watch the records of names"))
                .ok(),
        };
        records.read_all();
        records
    }

    pub(super) fn table(&self) -> SharedTable {
        self.table.clone()
    }

    /// Follows all changes; never returns.
    pub(super) async fn follow(mut self) {
        loop {
            let Some(watcher) = &self.watcher else {
                tokio::time::sleep(LOOK).await;
                self.read_all();
                continue;
            };
            match watcher.changes().await {
                Ok(changes) => self.apply(changes),
                Err(error) => {
                    tracing::error!(%error, "cannot watch the records of names");
                    self.watcher = None;
                }
            }
        }
    }

    fn apply(&mut self, changes: Changes) {
        if changes.networks {
            self.networks = None;
        }
        if changes.all {
            self.read_all();
        } else if !changes.files.is_empty() {
            for name in changes.files {
                self.read(name);
            }
            self.publish();
        }
    }

    fn read_all(&mut self) {
        self.networks = None;
        self.sandboxes.clear();
        match std::fs::read_dir(&self.folder) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    self.read(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "cannot read the records of names"),
        }
        self.publish();
    }

    /// Reads one record. One that is damaged stays as it was.
    fn read(&mut self, name: String) {
        let path = self.folder.join(&name);
        if path.extension().is_none_or(|extension| extension != "json") {
            return;
        }
        match read_json::<SandboxRecord>(&path) {
            Ok(Some(record)) => {
                self.sandboxes.insert(name, record);
            }
            Ok(None) => {
                self.sandboxes.remove(&name);
            }
            Err(error) => tracing::error!(%error, "cannot read a record of names"),
        }
    }

    /// Makes the table anew.
    fn publish(&mut self) {
        let is_known = |networks: &BTreeMap<String, bool>| {
            let endpoints = self.sandboxes.values().flat_map(|record| &record.endpoints);
            endpoints
                .map(|endpoint| &endpoint.network)
                .all(|network| networks.contains_key(network))
        };
        if !self.networks.as_ref().is_some_and(is_known) {
            match self.source.list() {
                Ok(list) => {
                    let spec = list.into_iter().map(|network| network.spec);
                    self.networks = Some(spec.map(|spec| (spec.name, spec.internal)).collect());
                }
                Err(error) => tracing::error!(%error, "cannot read the networks"),
            }
        }
        let networks = self.networks.iter().flatten();
        let internal = networks
            .filter(|(_, internal)| **internal)
            .map(|(name, _)| name.clone())
            .collect();
        let table = Table::new(self.sandboxes.values(), &internal, &self.boot);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// What changed since the last look.
#[derive(Debug, Default)]
struct Changes {
    /// Files of sandboxes.
    files: Vec<String>,
    networks: bool,
    /// More than could be noted.
    all: bool,
}

/// Watches the folders of networks and sandboxes.
#[derive(Debug)]
struct Watcher {
    descriptor: AsyncFd<OwnedFd>,
    sandboxes: i32,
}

impl Watcher {
    fn new(networks: &Path, sandboxes: &Path) -> io::Result<Self> {
        create_private_dir(sandboxes).map_err(io::Error::other)?;
        let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        inotify::add_watch(&descriptor, networks, changes | WatchFlags::ONLYDIR)?;
        // Records are renamed into place; a foreign hand may write them otherwise.
        let changes = WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let sandboxes = inotify::add_watch(&descriptor, sandboxes, changes)?;
        Ok(Self {
            descriptor: descriptors::watch(descriptor, Interest::READABLE)?,
            sandboxes,
        })
    }

    /// Waits for changes. An error means that none can be seen any more.
    async fn changes(&self) -> io::Result<Changes> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let mut changes = Changes::default();
            let mut space = [MaybeUninit::uninit(); 8 << 10];
            let mut events = inotify::Reader::new(self.descriptor.get_ref(), &mut space);
            let mut seen = false;
            loop {
                let event = match events.next() {
                    Ok(event) => event,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                };
                seen = true;
                let flags = event.events();
                if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                    changes.all = true;
                } else if event.wd() != self.sandboxes {
                    changes.networks = true;
                } else if flags.contains(ReadFlags::IGNORED) {
                    return Err(io::Error::other("the folder of the records was removed"));
                } else if let Some(name) = event.file_name() {
                    changes.files.push(name.to_string_lossy().into_owned());
                }
            }
            ready.clear_ready();
            if seen {
                return Ok(changes);
            }
        }
    }
}
