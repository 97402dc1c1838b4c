//! What makes a killed worker lose no byte of output and write none twice.
//!
//! Bytes go from a FIFO to the journal within one system call (`splice`), so at no time are they only in the memory of
//! the worker. Before that, the journal says where the log ended and which unfinished lines came first; from these a
//! successor derives the same records again, and completes what the log lacks of them.
//!
//! Two files in the run folder (memory, usually) take turns: one is begun while the other is still whole, and the header
//! that makes one valid is written last, within one page, which a kill does not tear.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::pipe::SpliceFlags;

use super::file::Position;
use super::record::Origin;

/// Bytes of the header; the unfinished lines follow, then the batch up to the end of the file.
const HEADER: usize = 88;

const MAGIC: u64 = u64::from_le_bytes(*b"CLJRNL01");

/// Bytes that are taken from a FIFO at once.
pub(super) const BATCH: usize = 256 << 10;

/// From what a batch becomes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) origin: Origin,
    /// The batch is the end of the stream.
    pub(super) ended: bool,
    /// End of the log before the first record that is still to be written.
    pub(super) start: Position,
    /// Bytes of unfinished line and batch that are in the log already.
    pub(super) done: u64,
    /// Time of the next record, in nanoseconds of the Unix era.
    pub(super) time: i64,
    /// Lines that found no room, of which the log does not tell yet.
    pub(super) dropped: u64,
}

/// A batch whose records may not all be in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) head: Head,
    /// Unfinished lines of stdout and stderr from before the batch.
    pub(super) unfinished: [Vec<u8>; 2],
    pub(super) batch: Vec<u8>,
}

/// The journal of one container's output.
#[derive(Debug)]
pub(super) struct Journal {
    files: [File; 2],
    current: usize,
    sequence: u64,
    /// Where the batch begins in the current file.
    batch: u64,
    lengths: [u64; 2],
}

impl Journal {
    /// Opens the journal in `directory`, with what a predecessor left.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Entry>)> {
        let open = |name| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(directory.join(name))
        };
        let mut journal = Self {
            files: [open("journal.0")?, open("journal.1")?],
            current: 0,
            sequence: 0,
            batch: 0,
            lengths: [0; 2],
        };
        let mut found = None;
        for (index, file) in journal.files.iter().enumerate() {
            if let Some((sequence, lengths, entry)) = read(file)?
                && sequence > journal.sequence
            {
                journal.sequence = sequence;
                journal.current = index;
                journal.lengths = lengths;
                found = Some(entry);
            }
        }
        Ok((journal, found))
    }

    /// Begins a batch; the one before is forgotten.
    pub(super) fn begin(&mut self, head: &Head, unfinished: &[Vec<u8>; 2]) -> io::Result<()> {
        let next = 1 - self.current;
        let file = &self.files[next];
        file.set_len(0)?;
        let mut offset = HEADER as u64;
        for line in unfinished {
            file.write_all_at(line, offset)?;
            offset += line.len() as u64;
        }
        self.sequence += 1;
        self.lengths = [unfinished[0].len() as u64, unfinished[1].len() as u64];
        self.batch = offset;
        file.write_all_at(&encode(head, self.sequence, self.lengths), 0)?;
        self.current = next;
        Ok(())
    }

    /// Says that the log has come further within the current batch.
    pub(super) fn mark(&self, head: &Head) -> io::Result<()> {
        self.files[self.current].write_all_at(&encode(head, self.sequence, self.lengths), 0)
    }

    /// Moves what `fifo` has into the batch and appends it to `input`; 0 if nobody writes to it any more.
    pub(super) fn fill(&self, fifo: impl AsFd, input: &mut Vec<u8>) -> io::Result<usize> {
        let file = &self.files[self.current];
        let mut end = self.batch;
        let length = rustix::io::retry_on_intr(|| {
            rustix::pipe::splice(
                &fifo,
                None,
                file,
                Some(&mut end),
                BATCH,
                SpliceFlags::NONBLOCK,
            )
        })?;
        let start = input.len();
        input.resize(start + length, 0);
        file.read_exact_at(&mut input[start..], self.batch)?;
        Ok(length)
    }

    /// Forgets everything: all of it is in the log.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.set_len(0))
    }
}

fn encode(head: &Head, sequence: u64, lengths: [u64; 2]) -> [u8; HEADER] {
    let stderr = u64::from(head.origin == Origin::Stderr);
    let fields = [
        MAGIC,
        sequence,
        stderr | u64::from(head.ended) << 1,
        head.start.inode,
        head.start.length,
        head.done,
        head.time.cast_unsigned(),
        head.dropped,
        lengths[0],
        lengths[1],
    ];
    let sum = checksum(&fields);
    let mut bytes = [0; HEADER];
    for (target, field) in bytes
        .chunks_exact_mut(8)
        .zip(fields.into_iter().chain([sum]))
    {
        target.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

fn checksum(fields: &[u64]) -> u64 {
    fields.iter().fold(MAGIC, |sum, field| {
        (sum.rotate_left(7) ^ field).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

/// Sequence number, lengths of the unfinished lines, and what is to be done.
type Found = (u64, [u64; 2], Entry);

/// The content of one of the two files; `None` if it is not whole.
fn read(file: &File) -> io::Result<Option<Found>> {
    let mut bytes = Vec::new();
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    bytes.resize(length.min(HEADER + 4 * BATCH), 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(decode(&bytes))
}

fn decode(bytes: &[u8]) -> Option<Found> {
    let (header, mut rest) = bytes.split_at_checked(HEADER)?;
    let mut fields = [0; HEADER / 8];
    for (field, bytes) in fields.iter_mut().zip(header.chunks_exact(8)) {
        *field = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let [
        magic,
        sequence,
        flags,
        inode,
        length,
        done,
        time,
        dropped,
        stdout,
        stderr,
        sum,
    ] = fields;
    if magic != MAGIC || sum != checksum(&fields[..10]) {
        return None;
    }
    let mut unfinished = [Vec::new(), Vec::new()];
    for (line, length) in unfinished.iter_mut().zip([stdout, stderr]) {
        let (first, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        *line = first.to_vec();
        rest = others;
    }
    let entry = Entry {
        head: Head {
            origin: Origin::ALL[usize::from(flags & 1 != 0)],
            ended: flags & 2 != 0,
            start: Position { inode, length },
            done,
            time: time.cast_signed(),
            dropped,
        },
        unfinished,
        batch: rest.to_vec(),
    };
    Some((sequence, [stdout, stderr], entry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            origin: Origin::Stderr,
            ended: false,
            start: Position {
                inode: 7,
                length: 99,
            },
            done: 3,
            time: -5,
            dropped: 2,
        }
    }

    #[test]
    fn a_successor_finds_the_last_batch_with_what_went_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(directory.path()).unwrap();
        assert!(found.is_none());
        let (fifo, writer) = rustix::pipe::pipe().unwrap();
        let unfinished = [b"left".to_vec(), b"right".to_vec()];
        for text in ["one", "second"] {
            rustix::io::write(&writer, text.as_bytes()).unwrap();
            journal.begin(&head(), &unfinished).unwrap();
            let mut input = b"before ".to_vec();
            journal.fill(&fifo, &mut input).unwrap();
            assert_eq!(input, format!("before {text}").as_bytes());
            let (_, found) = Journal::open(directory.path()).unwrap();
            let entry = Entry {
                head: head(),
                unfinished: unfinished.clone(),
                batch: text.into(),
            };
            assert_eq!(found, Some(entry));
        }
        let marked = Head { done: 5, ..head() };
        journal.mark(&marked).unwrap();
        let (_, found) = Journal::open(directory.path()).unwrap();
        let found = found.unwrap();
        assert_eq!(
            (found.head, found.batch.as_slice()),
            (marked, &b"second"[..])
        );
        journal.clear().unwrap();
        assert!(Journal::open(directory.path()).unwrap().1.is_none());
    }

    #[test]
    fn a_batch_that_was_not_begun_wholly_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        let none = [Vec::new(), Vec::new()];
        journal.begin(&head(), &none).unwrap();
        journal.begin(&Head { done: 8, ..head() }, &none).unwrap();
        let last = &journal.files[journal.current];
        last.write_all_at(&[0; 8], 8).unwrap();
        let (_, found) = Journal::open(directory.path()).unwrap();
        assert_eq!(found.unwrap().head, head());
    }

    proptest! {
        #[test]
        fn no_content_of_a_file_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            decode(&bytes);
            let mut bytes = [encode(&head(), 1, [u64::MAX, 1]).to_vec(), bytes].concat();
            prop_assert!(decode(&bytes).is_none());
            bytes[..HEADER].copy_from_slice(&encode(&head(), 1, [0, 0]));
            prop_assert!(decode(&bytes).is_some());
        }
    }
}
