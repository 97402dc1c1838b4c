//! From bytes of a container's output to its log: lines, times, rotation, and what found no room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::LogOptions;
use super::file::LogFile;
use super::journal::{BATCH, Entry, Head, Journal};
use super::record::{Origin, encode, line_length};
use super::tap::Taps;

/// Keeps the log of one run.
#[derive(Debug)]
pub(super) struct Recorder {
    discard: bool,
    taps: Taps,
    log: LogFile,
    /// None where it cannot be kept; a kill may then cost a few bytes.
    journal: Option<Journal>,
    /// Unfinished lines of stdout and stderr.
    unfinished: [Vec<u8>; 2],
    /// Time of the next record at the earliest, in nanoseconds of the Unix era.
    time: i64,
    /// Lines that found no room, of which the log does not tell yet.
    dropped: u64,
    /// Locked as long as lines may come.
    _lock: Option<File>,
}

impl Recorder {
    /// Begins, or goes on after a predecessor that used `directory` and was killed.
    pub(super) fn new(options: LogOptions, directory: &Path, taps: Taps) -> Self {
        let discard = options.discard;
        let mut recorder = Self {
            discard,
            taps,
            _lock: (!discard).then(|| lock(&options.path)).flatten(),
            log: LogFile::new(options),
            journal: None,
            unfinished: [Vec::new(), Vec::new()],
            time: 0,
            dropped: 0,
        };
        if discard {
            return recorder;
        }
        match Journal::open(directory) {
            Ok((journal, entry)) => {
                recorder.journal = Some(journal);
                if let Some(entry) = entry {
                    recorder.resume(entry);
                }
            }
            Err(error) => tracing::warn!(%error, "output is kept without a journal"),
        }
        recorder
    }

    fn resume(&mut self, entry: Entry) {
        let Entry {
            mut head,
            unfinished,
            batch,
        } = entry;
        if let Err(error) = self.log.resume(head.start) {
            tracing::error!(%error, "cannot repair a log");
        }
        // The log may have been rotated just before the kill. Another kill must find where we go on now.
        self.mark(&mut head);
        self.unfinished = unfinished;
        self.dropped = head.dropped;
        let mut input = std::mem::take(&mut self.unfinished[head.origin as usize]);
        input.extend(batch);
        self.record(&mut head, &input);
        self.log.end_resume();
    }

    /// Takes what `fifo` has now and logs it; whether more may come.
    pub(super) fn take(&mut self, origin: Origin, fifo: BorrowedFd<'_>) -> io::Result<bool> {
        if self.discard {
            let mut buffer = vec![0; BATCH];
            let length = rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut buffer[..]))?;
            self.taps.put(origin, &buffer[..length]);
            return Ok(length > 0);
        }
        let mut head = self.head(origin);
        let mut input = self.unfinished[origin as usize].clone();
        let length = self.fill(&head, fifo, &mut input)?;
        if length == 0 {
            self.end_stream(origin);
            return Ok(false);
        }
        self.taps.put(origin, &input[input.len() - length..]);
        self.unfinished[origin as usize] = Vec::new();
        self.record(&mut head, &input);
        Ok(true)
    }

    /// Logs the unfinished lines: nothing is to come.
    pub(super) fn end(&mut self) {
        for origin in Origin::ALL {
            self.end_stream(origin);
        }
        self.tell_dropped();
        if let Some(journal) = &self.journal
            && let Err(error) = journal.clear()
        {
            tracing::warn!(%error, "cannot empty a journal");
        }
    }

    fn end_stream(&mut self, origin: Origin) {
        if self.unfinished[origin as usize].is_empty() {
            return;
        }
        let mut head = Head {
            ended: true,
            ..self.head(origin)
        };
        self.begin(&head);
        let input = std::mem::take(&mut self.unfinished[origin as usize]);
        self.record(&mut head, &input);
    }

    /// A batch that begins now.
    fn head(&mut self, origin: Origin) -> Head {
        if let Err(error) = self.log.refresh() {
            tracing::debug!(%error, "cannot open a log");
        }
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        Head {
            origin,
            ended: false,
            start: self.log.position(),
            done: 0,
            // Later than the record before, whatever the clock does.
            time: now.max(self.time),
            dropped: self.dropped,
        }
    }

    fn begin(&mut self, head: &Head) -> bool {
        let Some(journal) = &mut self.journal else {
            return false;
        };
        let begun = journal.begin(head, &self.unfinished);
        if let Err(error) = &begun {
            tracing::debug!(%error, "cannot write a journal");
            // What it still says is no longer true.
            journal.clear().ok();
        }
        begun.is_ok()
    }

    fn fill(
        &mut self,
        head: &Head,
        fifo: BorrowedFd<'_>,
        input: &mut Vec<u8>,
    ) -> io::Result<usize> {
        if self.begin(head)
            && let Some(journal) = &self.journal
        {
            match journal.fill(fifo, input) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    tracing::debug!(%error, "cannot fill a journal");
                    journal.clear().ok();
                }
                filled => return filled,
            }
        }
        let start = input.len();
        input.resize(start + BATCH, 0);
        let read = rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut input[start..]));
        input.truncate(start + *read.as_ref().unwrap_or(&0));
        Ok(read?)
    }

    /// Logs the whole lines of `input`; the rest stays for later.
    fn record(&mut self, head: &mut Head, input: &[u8]) {
        let mut records = Vec::with_capacity(input.len() * 2);
        let mut may_rotate = true;
        let mut at = usize::try_from(head.done)
            .unwrap_or(usize::MAX)
            .min(input.len());
        self.notice(head);
        while let Some(length) = line_length(&input[at..], head.ended) {
            if may_rotate && self.log.is_full(records.len()) {
                self.flush(&mut records);
                may_rotate = self.rotate(head, at);
            }
            let line = &input[at..at + length];
            encode(&mut records, line, head.origin.name(), timestamp(head.time));
            head.time += 1;
            at += length;
        }
        self.flush(&mut records);
        self.time = head.time;
        self.unfinished[head.origin as usize] = input[at..].to_vec();
    }

    /// Begins a new file; whether that went well.
    fn rotate(&mut self, head: &mut Head, done: usize) -> bool {
        head.done = done as u64;
        head.dropped = self.dropped;
        // A successor must know on which side of the gap it goes on.
        self.mark(head);
        let rotated = self.log.rotate();
        if let Err(error) = &rotated {
            tracing::error!(%error, "cannot rotate a log");
        }
        self.mark(head);
        rotated.is_ok()
    }

    fn mark(&self, head: &mut Head) {
        head.start = self.log.position();
        if let Some(journal) = &self.journal
            && let Err(error) = journal.mark(head)
        {
            tracing::debug!(%error, "cannot write a journal");
        }
    }

    /// Writes `records`. While the log does not tell of what was dropped, more is dropped: the gap has one place.
    fn flush(&mut self, records: &mut Vec<u8>) {
        let written = if self.dropped > 0 {
            Err((0, io::ErrorKind::StorageFull.into()))
        } else {
            self.log.append(records)
        };
        if let Err((written, error)) = written {
            let lost = records[written..].split(|&byte| byte == b'\n').count() as u64 - 1;
            if self.dropped == 0 && lost > 0 {
                tracing::error!(%error, "cannot write a log; lines are dropped");
            }
            self.dropped += lost;
        }
        records.clear();
    }

    pub(super) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Says in the log how many lines were dropped, if it has room now.
    pub(super) fn tell_dropped(&mut self) {
        if self.dropped == 0 {
            return;
        }
        let mut head = self.head(Origin::Stderr);
        self.notice(&mut head);
        self.time = head.time;
        if self.dropped == 0 {
            let head = self.head(Origin::Stderr);
            self.begin(&head);
        }
    }

    fn notice(&mut self, head: &mut Head) {
        if self.dropped == 0 {
            return;
        }
        let lines = if self.dropped == 1 { "line" } else { "lines" };
        let text = format!(
            "[{} {lines} of output lost: no room for the log]\n",
            self.dropped
        );
        let mut record = Vec::new();
        encode(
            &mut record,
            text.as_bytes(),
            Origin::Stderr.name(),
            timestamp(head.time),
        );
        if self.log.append(&record).is_ok() {
            self.dropped = 0;
            head.time += 1;
        }
    }
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Takes the lock for which nerdctl waits before it believes that a log is complete.
fn lock(log: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(log.with_file_name("logger-lock"))
        .ok()?;
    file.try_lock().ok()?;
    Some(file)
}
