//! Reads several logs as one: their history in the order of time, then each new line as it is written.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::Line;
use super::source::{Found, LogSource};

pub use super::source::ReadOptions;

/// Lines that may wait for a slow consumer.
const WAITING: usize = 1024;

/// Lines that are given out between two looks at what else happened.
const TURN: usize = 512;

/// Time that a record which is being written may take.
const WRITE_TIME: Duration = Duration::from_millis(10);

/// A log to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Comes back with each line.
    pub key: String,
    /// The current file; rotated ones are beside it.
    pub path: PathBuf,
}

/// What a reader gives.
#[derive(Debug)]
pub enum Item {
    Line {
        key: Arc<str>,
        line: Line,
    },
    /// All that the log had when [`LogHandle::mark`] was called has been given.
    CaughtUp {
        key: Arc<str>,
    },
    /// A part of the log that is no record was passed over.
    Damaged {
        key: Arc<str>,
        text: String,
    },
    /// The log cannot be read any further.
    Failed {
        key: Arc<str>,
        error: io::Error,
    },
}

enum Command {
    Add(Vec<Source>),
    Mark(String),
    Finish(String),
    FinishAll,
}

/// Changes what a reader reads while it follows. Copies are equal; dropping them changes nothing.
#[derive(Clone, Debug)]
pub struct LogHandle {
    commands: blocking::Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl LogHandle {
    /// Reads other logs too, from their beginnings, which are merged by time. A key that is read already is left as it
    /// is.
    pub fn add(&self, sources: Vec<Source>) {
        self.send(Command::Add(sources));
    }

    /// Says by [`Item::CaughtUp`] when what the log of `key` has now was given, and goes on.
    pub fn mark(&self, key: &str) {
        self.send(Command::Mark(key.into()));
    }

    /// Reads what the log of `key` has now, and no more.
    pub fn finish(&self, key: &str) {
        self.send(Command::Finish(key.into()));
    }

    /// Reads what all logs have now, and ends.
    pub fn finish_all(&self) {
        self.send(Command::FinishAll);
    }

    fn send(&self, command: Command) {
        // A reader that has ended needs no command.
        if self.commands.send(command).is_ok() {
            wake(&self.wake);
        }
    }
}

fn wake(event: &OwnedFd) {
    // It fails only if 2^64 - 2 wakes wait, and one is enough.
    rustix::io::write(event, &1u64.to_ne_bytes()).ok();
}

/// Lines of several logs. Dropping it ends the reading.
#[derive(Debug)]
pub struct LogStream {
    items: mpsc::Receiver<Item>,
    wake: Arc<OwnedFd>,
}

impl Stream for LogStream {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.items.poll_recv(context)
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        self.items.close();
        wake(&self.wake);
    }
}

/// Reads `sources`. Without `follow` the stream ends with their ends; with it, when the handle says so or `until` has
/// passed.
pub fn read(sources: Vec<Source>, options: ReadOptions) -> io::Result<(LogHandle, LogStream)> {
    let wake = Arc::new(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?);
    let watcher = options
        .follow
        .then(|| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK))
        .transpose()?;
    let (commands, received) = blocking::channel();
    let (sender, items) = mpsc::channel(WAITING);
    let mut reader = Reader {
        finishing: !options.follow,
        options,
        readings: BTreeMap::new(),
        commands: received,
        wake: wake.clone(),
        watcher,
        items: sender,
    };
    // A thread of its own: files are read without the runtime, and a slow consumer may hold it up.
    std::thread::Builder::new()
        .name("logs".into())
        .spawn(move || {
            for source in sources {
                if reader.add(source).is_err() {
                    return;
                }
            }
            // An error means that nobody listens any more.
            reader.run().ok();
        })?;
    let handle = LogHandle {
        commands,
        wake: wake.clone(),
    };
    Ok((handle, LogStream { items, wake }))
}

/// The consumer is gone.
struct Unheard;

/// One log in the reader.
struct Reading {
    source: LogSource,
    /// The line that comes next, already read.
    next: Option<Line>,
    /// There may be more to read.
    fresh: bool,
    /// Ends when nothing more is there.
    finishing: bool,
    /// Somebody wants to know when nothing more is there.
    marked: bool,
    watch: Option<i32>,
}

struct Reader {
    options: ReadOptions,
    readings: BTreeMap<Arc<str>, Reading>,
    /// No log is added any more.
    finishing: bool,
    commands: blocking::Receiver<Command>,
    wake: Arc<OwnedFd>,
    watcher: Option<OwnedFd>,
    items: mpsc::Sender<Item>,
}

impl Reader {
    fn run(&mut self) -> Result<(), Unheard> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command)?;
            }
            self.notice_changes();
            if self.give()? {
                continue;
            }
            self.tell_caught_up()?;
            self.forget_finished()?;
            if self.items.is_closed() || (self.finishing && self.readings.is_empty()) {
                return Ok(());
            }
            self.wait();
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Unheard> {
        match command {
            Command::Add(sources) => {
                for source in sources {
                    self.add(source)?;
                }
            }
            Command::Mark(key) => match self.readings.get_mut(key.as_str()) {
                Some(reading) => {
                    reading.marked = true;
                    reading.fresh = true;
                }
                None => return self.send(Item::CaughtUp { key: key.into() }),
            },
            Command::Finish(key) => {
                if let Some(reading) = self.readings.get_mut(key.as_str()) {
                    reading.finishing = true;
                    reading.fresh = true;
                }
            }
            Command::FinishAll => self.finish_all(),
        }
        Ok(())
    }

    fn finish_all(&mut self) {
        self.finishing = true;
        for reading in self.readings.values_mut() {
            reading.finishing = true;
            reading.fresh = true;
        }
    }

    fn add(&mut self, source: Source) -> Result<(), Unheard> {
        let key: Arc<str> = source.key.into();
        if self.readings.contains_key(&key) {
            return Ok(());
        }
        // Watched before it is read, so that nothing comes unseen between the two.
        let opened = self
            .watch(&source.path)
            .and_then(|watch| Ok((watch, LogSource::open(&source.path, &self.options)?)));
        match opened {
            Ok((watch, source)) => {
                let reading = Reading {
                    source,
                    next: None,
                    fresh: true,
                    finishing: self.finishing,
                    marked: false,
                    watch,
                };
                self.readings.insert(key, reading);
                Ok(())
            }
            Err(error) => self.send(Item::Failed { key, error }),
        }
    }

    fn watch(&self, path: &Path) -> io::Result<Option<i32>> {
        let Some(watcher) = &self.watcher else {
            return Ok(None);
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        let changes = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        Ok(Some(inotify::add_watch(watcher, folder, changes)?))
    }

    /// Marks the logs in whose folders something changed.
    fn notice_changes(&mut self) {
        let Some(watcher) = &self.watcher else {
            return;
        };
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(watcher, &mut space);
        // Any error but "nothing now" would come again: the next wait decides.
        while let Ok(event) = events.next() {
            let flags = event.events();
            for reading in self.readings.values_mut() {
                if flags.contains(ReadFlags::QUEUE_OVERFLOW) || reading.watch == Some(event.wd()) {
                    reading.fresh = true;
                    // The folder is gone.
                    reading.finishing |= flags.contains(ReadFlags::IGNORED);
                }
            }
        }
    }

    /// Gives out some lines, the oldest first; whether there may be more.
    fn give(&mut self) -> Result<bool, Unheard> {
        for _ in 0..TURN {
            self.read_ahead()?;
            let oldest = self
                .readings
                .iter()
                .filter_map(|(key, reading)| Some((reading.next.as_ref()?.time, key)))
                .min_by_key(|(time, _)| *time);
            let Some((_, key)) = oldest else {
                return Ok(false);
            };
            let key = key.clone();
            if let Some(line) = self
                .readings
                .get_mut(&key)
                .and_then(|reading| reading.next.take())
            {
                self.send(Item::Line { key, line })?;
            }
        }
        Ok(true)
    }

    /// Reads the next line of every log that may have one.
    fn read_ahead(&mut self) -> Result<(), Unheard> {
        let mut items = Vec::new();
        let mut failed = Vec::new();
        for (key, reading) in &mut self.readings {
            while reading.fresh && reading.next.is_none() {
                match reading.source.next() {
                    Ok(Some(Found::Line(line))) => reading.next = Some(line),
                    Ok(Some(Found::Damaged(text))) => {
                        let key = key.clone();
                        items.push(Item::Damaged { key, text });
                    }
                    Ok(None) => reading.fresh = false,
                    Err(error) => {
                        reading.fresh = false;
                        failed.push(key.clone());
                        let key = key.clone();
                        items.push(Item::Failed { key, error });
                    }
                }
            }
        }
        for key in failed {
            self.forget(&key);
        }
        items.into_iter().try_for_each(|item| self.send(item))
    }

    /// Answers marks: nothing more is there.
    fn tell_caught_up(&mut self) -> Result<(), Unheard> {
        let mut marked = Vec::new();
        for (key, reading) in &mut self.readings {
            if std::mem::take(&mut reading.marked) {
                marked.push(key.clone());
            }
        }
        marked
            .into_iter()
            .try_for_each(|key| self.send(Item::CaughtUp { key }))
    }

    /// Lets go of logs that have nothing more to give.
    fn forget_finished(&mut self) -> Result<(), Unheard> {
        let finished: Vec<_> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.finishing || reading.source.is_over())
            .map(|(key, _)| key.clone())
            .collect();
        for key in finished {
            let Some(reading) = self.readings.get_mut(&key) else {
                continue;
            };
            if !reading.source.is_over() && reading.source.has_rest() {
                // Perhaps it is being written at this moment.
                std::thread::sleep(WRITE_TIME);
                reading.fresh = true;
                self.read_ahead()?;
                if self
                    .readings
                    .get(&key)
                    .is_none_or(|reading| reading.next.is_some())
                {
                    continue;
                }
            }
            let rest = self
                .readings
                .get_mut(&key)
                .and_then(|reading| reading.source.take_rest());
            if let Some(Found::Damaged(text)) = rest {
                let key = key.clone();
                self.send(Item::Damaged { key, text })?;
            }
            self.forget(&key);
        }
        Ok(())
    }

    fn forget(&mut self, key: &str) {
        let Some(reading) = self.readings.remove(key) else {
            return;
        };
        let shared = self
            .readings
            .values()
            .any(|other| other.watch == reading.watch);
        if let (Some(watcher), Some(watch), false) = (&self.watcher, reading.watch, shared) {
            // It is gone already if the folder is.
            inotify::remove_watch(watcher, watch).ok();
        }
    }

    fn send(&self, item: Item) -> Result<(), Unheard> {
        self.items.blocking_send(item).map_err(|_| Unheard)
    }

    /// Waits until a log changes, a command comes, the consumer goes or `until` passes.
    fn wait(&mut self) {
        if self.readings.values().any(|reading| reading.next.is_some()) {
            return;
        }
        let left = self.options.until.map(|until| {
            let left = until.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or_default()
        });
        if left == Some(Duration::ZERO) && !self.finishing {
            self.finish_all();
            return;
        }
        let mut polled = vec![PollFd::new(&self.wake, PollFlags::IN)];
        if let Some(watcher) = &self.watcher {
            polled.push(PollFd::new(watcher, PollFlags::IN));
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        if let Err(error) = rustix::event::poll(&mut polled, left.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "cannot wait for logs");
            self.finish_all();
        }
        rustix::io::read(&self.wake, &mut [0; 8]).ok();
    }
}

#[cfg(test)]
mod tests;
