//! The log file of one container: appended to, rotated, and honest about what found no room.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::LogOptions;

/// Path of the rotated file `number` (1 is the youngest).
pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Where the end of a log was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) inode: u64,
    pub(super) length: u64,
}

/// The current file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    options: LogOptions,
    file: Option<File>,
    position: Position,
    /// What the file already has beyond `position`: written by a predecessor that was killed, and about to be written
    /// again.
    written: VecDeque<u8>,
}

impl LogFile {
    pub(super) fn new(options: LogOptions) -> Self {
        Self {
            options,
            file: None,
            position: Position::default(),
            written: VecDeque::new(),
        }
    }

    /// The end of the log.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Goes on where a killed predecessor began the batch that it may have written in part. If the file was changed by
    /// others since, at its end.
    pub(super) fn resume(&mut self, start: Position) -> io::Result<()> {
        let (mut file, found) = open(&self.options.path)?;
        if found.inode == start.inode && found.length > start.length {
            file.seek(SeekFrom::Start(start.length))?;
            let mut written = Vec::new();
            file.read_to_end(&mut written)?;
            self.written = written.into();
            self.position = start;
        } else {
            self.position = found;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Looks where the file ends now: others may have truncated or removed it.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            let metadata = file.metadata()?;
            if metadata.nlink() > 0 {
                if self.written.is_empty() {
                    self.position.length = metadata.len();
                }
                return Ok(());
            }
        }
        self.written.clear();
        let (file, position) = open(&self.options.path)?;
        self.file = Some(file);
        self.position = position;
        Ok(())
    }

    /// Whether the file is to be rotated before anything is added to `pending` bytes that are not written yet.
    pub(super) fn is_full(&self, pending: usize) -> bool {
        let length = self.position.length + pending as u64;
        self.options
            .max_size
            .is_some_and(|limit| length >= limit.max(1))
    }

    /// Appends whole records. If not all find room, the rest is left out and the error says how many bytes were
    /// written; the file never ends in a part of a record then.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), (usize, io::Error)> {
        let known = self.skip_written(records);
        let Some(file) = &mut self.file else {
            return Err((0, io::ErrorKind::NotFound.into()));
        };
        let mut done = known;
        while done < records.len() {
            match file.write(&records[done..]) {
                Ok(0) => return Err(self.cut(records, done, io::ErrorKind::WriteZero.into())),
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut(records, done, error)),
            }
        }
        self.position.length += records.len() as u64;
        Ok(())
    }

    /// After `done` bytes of `records` were written: removes the part of a record at the end.
    fn cut(&mut self, records: &[u8], done: usize, error: io::Error) -> (usize, io::Error) {
        let whole = records[..done]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        self.position.length += whole as u64;
        if whole < done
            && let Some(file) = &self.file
            && let Err(error) = file.set_len(self.position.length)
        {
            tracing::error!(%error, path = %self.options.path.display(), "cannot repair the log");
        }
        (whole, error)
    }

    /// How many bytes of `records` are in the file already. Where it differs from them it is cut off.
    fn skip_written(&mut self, records: &[u8]) -> usize {
        let same = self
            .written
            .iter()
            .zip(records)
            .take_while(|(written, record)| written == record)
            .count();
        self.written.drain(..same);
        if same < records.len() && !self.written.is_empty() {
            self.written.clear();
            let end = self.position.length + same as u64;
            if let Some(file) = &self.file
                && let Err(error) = file.set_len(end)
            {
                tracing::error!(%error, path = %self.options.path.display(), "cannot repair the log");
            }
        }
        same
    }

    /// Ends the repair after a predecessor: what is left in the file is not ours, and stays.
    pub(super) fn end_resume(&mut self) {
        self.position.length += self.written.len() as u64;
        self.written = VecDeque::new();
    }

    /// Puts the current file aside and begins a new one.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let path = &self.options.path;
        let others = self.options.max_files.max(1) - 1;
        if others == 0 {
            // Not truncated: whoever follows the log still reads the old file to its end.
            std::fs::remove_file(path)?;
        }
        // A predecessor that was killed amid its renames left a gap: files move up to it, and none is lost.
        let exists = |number: &u32| rotated(path, *number).exists();
        let kept = (1..others).take_while(exists).last().unwrap_or(0);
        for number in (1..=kept).rev() {
            std::fs::rename(rotated(path, number), rotated(path, number + 1))?;
        }
        if others > 0 {
            std::fs::rename(path, rotated(path, 1))?;
        }
        self.written.clear();
        // If none can be opened now, the next look tries again; the old one is out of the way.
        self.file = None;
        let (file, position) = open(path)?;
        self.file = Some(file);
        self.position = position;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, Position)> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let metadata = file.metadata()?;
    let position = Position {
        inode: metadata.ino(),
        length: metadata.len(),
    };
    Ok((file, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(directory: &Path, max_files: u32) -> LogFile {
        let mut log = LogFile::new(LogOptions {
            path: directory.join("a.log"),
            max_size: Some(10),
            max_files,
            discard: false,
        });
        log.refresh().unwrap();
        log
    }

    fn read(directory: &Path, name: &str) -> Option<String> {
        std::fs::read_to_string(directory.join(name)).ok()
    }

    #[test]
    fn rotation_keeps_as_many_files_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(directory.path(), 3);
        for text in ["one\n", "two\n", "three\n", "four\n"] {
            log.append(text.as_bytes()).unwrap();
            log.rotate().unwrap();
        }
        assert_eq!(read(directory.path(), "a.log").as_deref(), Some(""));
        assert_eq!(read(directory.path(), "a.log.1").as_deref(), Some("four\n"));
        assert_eq!(
            read(directory.path(), "a.log.2").as_deref(),
            Some("three\n")
        );
        assert_eq!(read(directory.path(), "a.log.3"), None);
    }

    #[test]
    fn a_gap_among_the_rotated_files_is_filled_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(directory.path(), 5);
        std::fs::write(directory.path().join("a.log.1"), "young\n").unwrap();
        std::fs::write(directory.path().join("a.log.3"), "old\n").unwrap();
        log.rotate().unwrap();
        assert_eq!(
            read(directory.path(), "a.log.2").as_deref(),
            Some("young\n")
        );
        assert_eq!(read(directory.path(), "a.log.3").as_deref(), Some("old\n"));
    }

    #[test]
    fn with_one_file_rotation_begins_it_anew_and_followers_keep_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log(directory.path(), 1);
        log.append(b"one\n").unwrap();
        let follower = File::open(directory.path().join("a.log")).unwrap();
        log.rotate().unwrap();
        assert_eq!(io::read_to_string(follower).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_predecessor_wrote_is_completed_and_not_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        for torn in ["", "se", "second\n", "second\nthi", "other\nrecord\n"] {
            std::fs::write(&path, format!("first\n{torn}")).unwrap();
            let start = Position {
                inode: std::fs::metadata(&path).unwrap().ino(),
                length: 6,
            };
            let mut log = log(directory.path(), 1);
            log.resume(start).unwrap();
            log.append(b"second\n").unwrap();
            log.append(b"third\n").unwrap();
            log.end_resume();
            log.append(b"last\n").unwrap();
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                "first\nsecond\nthird\nlast\n",
                "{torn:?}"
            );
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(log.position().length, metadata.len(), "{torn:?}");
        }
    }

    #[test]
    fn a_log_that_others_truncate_or_remove_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut log = log(directory.path(), 1);
        log.append(b"long enough\n").unwrap();
        assert!(log.is_full(0));
        File::create(&path).unwrap();
        log.refresh().unwrap();
        assert!(!log.is_full(0) && log.is_full(10));
        log.append(b"one\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.refresh().unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }
}
