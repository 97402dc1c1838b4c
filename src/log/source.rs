//! One log as a row of lines, across its rotated files, from any place in it, as far as it goes now.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::Line;
use super::file::rotated;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// Bytes of the longest record that is believed; ours stay far below.
const LONGEST: usize = 1 << 20;

/// Time between two records at least.
const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Only lines at or after it.
    pub since: Option<Timestamp>,
    /// Only lines at or before it.
    pub until: Option<Timestamp>,
    /// Of each log only the last lines, counted before the two above are looked at, as Docker does.
    pub tail: Option<u64>,
    /// Goes on with lines that are still to be written.
    pub follow: bool,
}

/// What a log gives.
#[derive(Debug)]
pub(super) enum Found {
    Line(Line),
    /// Something that is no record.
    Damaged(String),
}

/// A file of the log.
#[derive(Debug)]
struct Part {
    file: File,
    inode: u64,
    offset: u64,
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            file,
            inode,
            offset: 0,
        })
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// A log that is being read.
#[derive(Debug)]
pub(super) struct LogSource {
    path: PathBuf,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Oldest first; all but the last are complete.
    parts: VecDeque<Part>,
    /// Read and not yet a line.
    buffer: Vec<u8>,
    /// How much of `buffer` has been given out.
    used: usize,
    /// In the middle of something too long to be a record.
    skipping: bool,
    /// A line after `until` was seen.
    over: bool,
    /// Time of the last record that was read.
    last: Option<Timestamp>,
}

impl LogSource {
    /// Opens the log at `path`; it need not exist yet.
    pub(super) fn open(path: &Path, options: &ReadOptions) -> io::Result<Self> {
        let mut source = Self {
            path: path.into(),
            since: options.since,
            until: options.until,
            parts: VecDeque::new(),
            buffer: Vec::new(),
            used: 0,
            skipping: false,
            over: false,
            last: None,
        };
        source.find_newer(None)?;
        if let Some(since) = options.since {
            source.forget_before(since)?;
        }
        if let Some(lines) = options.tail {
            source.seek_to_last(lines)?;
        }
        Ok(source)
    }

    /// Adds the files that are younger than the one with `inode`, all without one; whether that one was met.
    fn find_newer(&mut self, inode: Option<u64>) -> io::Result<bool> {
        let end = self.parts.len();
        let mut gap = false;
        // From the youngest on: one that moves meanwhile is met twice, and none is missed.
        for number in 0.. {
            let path = match number {
                0 => self.path.clone(),
                _ => rotated(&self.path, number),
            };
            let part = match Part::open(&path) {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // One may be missing while they are being renamed.
                    if std::mem::replace(&mut gap, true) {
                        break;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            gap = false;
            if Some(part.inode) == inode {
                return Ok(true);
            }
            if self
                .parts
                .get(end)
                .is_none_or(|known| known.inode != part.inode)
            {
                self.parts.insert(end, part);
            }
        }
        Ok(false)
    }

    /// Forgets files that were last written before `since`.
    fn forget_before(&mut self, since: Timestamp) -> io::Result<()> {
        while self.parts.len() > 1 {
            let written = self.parts[0].file.metadata()?.modified()?;
            if Timestamp::try_from(written).is_ok_and(|written| written >= since) {
                break;
            }
            self.parts.pop_front();
        }
        Ok(())
    }

    /// Goes to the place from which `lines` records are left, reading backwards.
    fn seek_to_last(&mut self, lines: u64) -> io::Result<()> {
        let mut left = lines;
        for index in (0..self.parts.len()).rev() {
            let part = &mut self.parts[index];
            let (offset, found) = last_lines(&part.file, part.length()?, left)?;
            part.offset = offset;
            left -= found;
            if left == 0 {
                self.parts.drain(..index);
                break;
            }
        }
        Ok(())
    }

    /// Whether no line can follow, whatever is written.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The next line; `None` if there is none now.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        while !self.over {
            if let Some(end) = self.buffer[self.used..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                let record = self.used..self.used + end;
                self.used = record.end + 1;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                let line = serde_json::from_slice::<Line>(&self.buffer[record.clone()]);
                self.last = line.as_ref().map(|line| line.time).ok().or(self.last);
                match line {
                    Ok(line) if self.since.is_some_and(|since| line.time < since) => {}
                    Ok(line) if self.until.is_some_and(|until| line.time > until) => {
                        self.over = true;
                        self.buffer.clear();
                        self.used = 0;
                    }
                    Ok(line) => return Ok(Some(Found::Line(line))),
                    Err(_) => return Ok(Some(damaged(&self.buffer[record]))),
                }
                continue;
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            if self.buffer.len() > LONGEST {
                let found = damaged(&self.buffer);
                self.buffer.clear();
                if !std::mem::replace(&mut self.skipping, true) {
                    return Ok(Some(found));
                }
            }
            if self.fill()? {
                continue;
            }
            if self.parts.len() < 2 {
                break;
            }
            self.parts.pop_front();
            if let Some(rest) = self.take_rest() {
                return Ok(Some(rest));
            }
        }
        Ok(None)
    }

    /// Whether something is left without a line feed.
    pub(super) fn has_rest(&self) -> bool {
        self.used < self.buffer.len()
    }

    /// What is left without a line feed.
    pub(super) fn take_rest(&mut self) -> Option<Found> {
        let rest = std::mem::take(&mut self.buffer).split_off(self.used);
        self.used = 0;
        let skipping = std::mem::take(&mut self.skipping);
        (!rest.is_empty() && !skipping).then(|| damaged(&rest))
    }

    /// Reads on in the oldest file that is not finished; whether anything came.
    fn fill(&mut self) -> io::Result<bool> {
        if self.parts.is_empty() {
            self.find_newer(None)?;
        }
        loop {
            let is_last = self.parts.len() == 1;
            let Some(part) = self.parts.front_mut() else {
                return Ok(false);
            };
            let start = self.buffer.len();
            self.buffer.resize(start + CHUNK, 0);
            let read = part.file.read_at(&mut self.buffer[start..], part.offset);
            let read = read.inspect_err(|_| self.buffer.truncate(start))?;
            self.buffer.truncate(start + read);
            part.offset += read as u64;
            if read > 0 {
                return Ok(true);
            }
            if part.length()? < part.offset {
                // Truncated by somebody: as `tail -F`, from its beginning.
                part.offset = 0;
                self.buffer.clear();
                continue;
            }
            if !is_last {
                return Ok(false);
            }
            let inode = part.inode;
            match std::fs::metadata(&self.path) {
                Ok(metadata) if metadata.ino() != inode => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
            // Rotated. What came between the last read and the rotation is read in another round.
            if !self.find_newer(Some(inode))? {
                // It was removed: of the others, what was read is not to be read again.
                let after = self.last.and_then(|last| last.checked_add(TICK).ok());
                self.since = self.since.max(after);
            }
            if self.parts.len() == 1 {
                return Ok(false);
            }
        }
    }
}

/// Something that is no record, short enough to be shown.
fn damaged(bytes: &[u8]) -> Found {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    if bytes.len() > 200 {
        text.push('…');
    }
    Found::Damaged(text)
}

/// Where the last `wanted` lines of `file` begin, and how many lines there are from there on.
fn last_lines(file: &File, length: u64, wanted: u64) -> io::Result<(u64, u64)> {
    let mut found = 0;
    let mut end = length;
    let mut start = None;
    let mut buffer = vec![0; CHUNK];
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(CHUNK).min(CHUNK);
        let begin = end - size as u64;
        let chunk = &mut buffer[..size];
        file.read_exact_at(chunk, begin)?;
        for index in (0..size).rev().filter(|&index| chunk[index] == b'\n') {
            // The first line feed from the end ends the last line; what follows it is not a line yet.
            if found == wanted {
                return Ok((begin + index as u64 + 1, found));
            }
            found += 1;
            start = Some(begin + index as u64 + 1);
        }
        end = begin;
    }
    Ok(match start {
        None if wanted > 0 => (0, 0),
        None => (length, 0),
        Some(_) => (0, found),
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn record(number: u32) -> String {
        let time = Timestamp::from_second(number.into()).unwrap();
        format!("{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n")
    }

    fn records(numbers: impl IntoIterator<Item = u32>) -> String {
        numbers.into_iter().map(record).collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    /// What the source gives now; damage in brackets.
    fn rest(source: &mut LogSource) -> String {
        let mut text = String::new();
        while let Some(found) = source.next().unwrap() {
            match found {
                Found::Line(line) => write!(text, "{} ", line.log.trim_end()).unwrap(),
                Found::Damaged(what) => write!(text, "[{what}] ").unwrap(),
            }
        }
        text.trim_end().into()
    }

    fn options() -> ReadOptions {
        ReadOptions::default()
    }

    #[test]
    fn a_log_is_read_across_its_files_and_followed_across_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut source = LogSource::open(&path, &options()).unwrap();
        assert_eq!(rest(&mut source), "");
        append(&rotated(&path, 2), &records(0..2));
        append(&rotated(&path, 1), &records(2..4));
        append(&path, &records(4..5));
        assert_eq!(rest(&mut source), "0 1 2 3 4");
        append(&path, &records(5..6)[..10]);
        assert_eq!(rest(&mut source), "");
        append(&path, &records(5..6)[10..]);
        // Two rotations between two looks.
        std::fs::rename(rotated(&path, 1), rotated(&path, 3)).unwrap();
        std::fs::rename(&path, rotated(&path, 2)).unwrap();
        append(&rotated(&path, 1), &records(6..7));
        append(&path, &records(7..8));
        assert_eq!(rest(&mut source), "5 6 7");
        std::fs::remove_file(&path).unwrap();
        append(&path, &records(8..9));
        assert_eq!(rest(&mut source), "8");
        File::create(&path).unwrap();
        append(&path, "");
        assert_eq!(rest(&mut source), "");
        append(&path, &records(9..10));
        assert_eq!(rest(&mut source), "9");
    }

    #[test]
    fn what_is_no_record_is_named_and_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        append(&rotated(&path, 1), &(record(0) + "torn"));
        append(&path, &(record(1) + "foreign\n" + &record(2)));
        append(&path, &"x".repeat(3 * LONGEST));
        append(&path, &(String::from("\n") + &record(3) + "{\"log\""));
        let mut source = LogSource::open(&path, &options()).unwrap();
        let long = format!("{}…", "x".repeat(200));
        assert_eq!(
            rest(&mut source),
            format!("0 [torn] 1 [foreign] 2 [{long}] 3")
        );
        assert!(matches!(source.take_rest(), Some(Found::Damaged(text)) if text == "{\"log\""));
    }

    #[test]
    fn times_bound_what_is_given_after_the_last_lines_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        append(&path, &records(0..10));
        let time = |second| Some(Timestamp::from_second(second).unwrap());
        let read = |since, until, tail| {
            let options = ReadOptions {
                since,
                until,
                tail,
                follow: false,
            };
            rest(&mut LogSource::open(&path, &options).unwrap())
        };
        assert_eq!(read(time(7), None, None), "7 8 9");
        assert_eq!(read(None, time(2), None), "0 1 2");
        assert_eq!(read(time(3), time(4), None), "3 4");
        assert_eq!(read(time(9), None, Some(3)), "9");
        assert_eq!(read(None, time(7), Some(3)), "7");
        assert_eq!(read(None, None, Some(0)), "");
    }

    #[test]
    fn the_last_lines_are_found_without_reading_what_is_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        // A hole of a terabyte: reading through it would not end.
        let file = File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        append(&path, &(String::from("\n") + &records(0..5)));
        let options = ReadOptions {
            tail: Some(3),
            ..options()
        };
        let mut source = LogSource::open(&path, &options).unwrap();
        assert_eq!(rest(&mut source), "2 3 4");
    }

    proptest! {
        #[test]
        fn a_tail_is_the_end_of_the_whole(
            sizes in proptest::collection::vec(0u32..2000, 1..4),
            tail in 0u64..5000,
            torn in any::<bool>(),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.log");
            let mut number = 0;
            for (index, size) in sizes.iter().rev().enumerate().rev() {
                let path = match u32::try_from(index).unwrap() {
                    0 => path.clone(),
                    index => rotated(&path, index),
                };
                append(&path, &records(number..number + size));
                number += size;
            }
            if torn {
                append(&path, "{\"log\":");
            }
            let options = ReadOptions { tail: Some(tail), ..options() };
            let found = rest(&mut LogSource::open(&path, &options).unwrap());
            let first = number.saturating_sub(u32::try_from(tail).unwrap());
            let expected: Vec<_> = (first..number).map(|number| number.to_string()).collect();
            prop_assert_eq!(found, expected.join(" "));
        }
    }
}
