//! The file of an image archive: what is in it, and where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use tar::EntryType;
use thiserror::Error;

use super::config::{DOCUMENT_LIMIT, digest_hex};
use crate::engine::{ContentSource, EngineError};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// More files than any image has.
const MOST_ENTRIES: usize = 100_000;

/// What is wrong with an archive.
#[derive(Debug, Error)]
pub(super) enum ArchiveError {
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    #[error("the path `{0}` inside leads out of the archive")]
    UnsafePath(String),
    #[error("the file is cut short: `{0}` is not all there")]
    CutShort(String),
    #[error("there are more than {MOST_ENTRIES} files inside")]
    TooManyEntries,
    #[error("it has neither an `index.json` (OCI) nor a `manifest.json` (docker save)")]
    NoIndex,
    #[error("`{name}` is not valid")]
    Document {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{0}` is missing")]
    MissingFile(String),
    #[error("`{name}` has {found} bytes instead of {expected}")]
    WrongSize {
        name: String,
        found: u64,
        expected: u64,
    },
    #[error("`{name}` has the digest {found}")]
    WrongDigest { name: String, found: String },
    #[error("`{0}` is too large for what it is")]
    TooLarge(String),
    #[error("it has no image")]
    Empty,
    #[error("it has several images ({}); choose one with `oci-archive:FILE:NAME`", names.join(", "))]
    Ambiguous { names: Vec<String> },
    #[error("it has no image `{name}`, only {}", names.join(", "))]
    UnknownName { name: String, names: Vec<String> },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A file inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// An open archive. Its files are read in place, nothing is unpacked.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Reads the table of contents. A compressed archive is first written out to a nameless file in `scratch`. Blocks.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let mut file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file").into());
        }
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.rewind()?;
        if read == magic.len() && magic == GZIP_MAGIC {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let mut plain: File = rustix::fs::open(scratch, flags, mode)
                .map_err(io::Error::from)?
                .into();
            let mut decoder = flate2::read::MultiGzDecoder::new(BufReader::new(file));
            io::copy(&mut decoder, &mut plain)?;
            plain.rewind()?;
            file = plain;
        }
        let entries = index(&mut file)?;
        Ok(Self {
            file: Arc::new(file),
            entries,
        })
    }

    pub(super) fn entry(&self, name: &str) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    /// The file of a blob in an OCI layout.
    pub(super) fn blob(&self, digest: &str) -> Option<Entry> {
        let digits = digest_hex(digest)?;
        let (algorithm, _digits) = digest.split_once(':')?;
        self.entry(&format!("blobs/{algorithm}/{digits}"))
    }

    /// A whole small file. Blocks.
    pub(super) fn read(&self, name: &str, entry: Entry) -> Result<Vec<u8>, ArchiveError> {
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        if size > DOCUMENT_LIMIT {
            return Err(ArchiveError::TooLarge(name.into()));
        }
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, entry.offset)?;
        Ok(bytes)
    }

    /// SHA-256 of a file, and whether it is compressed. Blocks.
    pub(super) fn digest(&self, entry: Entry) -> Result<(String, bool), ArchiveError> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut done = 0;
        let mut compressed = false;
        while done < entry.size {
            let wanted = usize::try_from(entry.size - done).unwrap_or(usize::MAX);
            let length = wanted.min(buffer.len());
            let part = &mut buffer[..length];
            self.file.read_exact_at(part, entry.offset + done)?;
            if done == 0 {
                compressed = part.starts_with(&GZIP_MAGIC);
            }
            hasher.update(&*part);
            done += length as u64;
        }
        Ok((
            format!("sha256:{}", HEXLOWER.encode(&hasher.finalize())),
            compressed,
        ))
    }

    pub(super) fn source(&self, entry: Entry) -> ContentSource {
        ContentSource::File {
            file: Arc::clone(&self.file),
            offset: entry.offset,
        }
    }
}

fn index(file: &mut File) -> Result<BTreeMap<String, Entry>, ArchiveError> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(file);
    let mut entries = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = safe_name(&entry.path()?)?;
        if !matches!(
            entry.header().entry_type(),
            EntryType::Regular | EntryType::Continuous
        ) {
            continue;
        }
        let found = Entry {
            offset: entry.raw_file_position(),
            size: entry.size(),
        };
        if found
            .offset
            .checked_add(found.size)
            .is_none_or(|end| end > length)
        {
            return Err(ArchiveError::CutShort(name));
        }
        entries.insert(name, found);
        if entries.len() > MOST_ENTRIES {
            return Err(ArchiveError::TooManyEntries);
        }
    }
    Ok(entries)
}

/// The path without `./`; an error if it is absolute or climbs.
fn safe_name(path: &Path) -> Result<String, ArchiveError> {
    let mut name = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(ArchiveError::UnsafePath(path.display().to_string()));
            }
        }
    }
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Archive, ArchiveError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&path, folder.path())
    }

    #[test]
    fn files_are_read_in_place() {
        let archive = open(&tar_of(&[("./a", b"first"), ("b/c", b"second")])).unwrap();
        let entry = archive.entry("b/c").unwrap();
        assert_eq!(archive.read("b/c", entry).unwrap(), b"second");
        assert!(archive.entry("a").is_some());
        assert!(archive.blob("sha256:../x").is_none());
    }

    #[test]
    fn a_compressed_archive_is_the_same() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar_of(&[("a", b"first")])).unwrap();
        let archive = open(&encoder.finish().unwrap()).unwrap();
        let entry = archive.entry("a").unwrap();
        assert_eq!(archive.read("a", entry).unwrap(), b"first");
        assert_eq!(
            archive.digest(entry).unwrap(),
            (super::super::config::digest_of(b"first"), false)
        );
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        for name in ["../a", "/a", "a/../../b"] {
            let error = open(&tar_of(&[(name, b"x")])).unwrap_err();
            assert!(matches!(error, ArchiveError::UnsafePath(_)), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_named() {
        let bytes = tar_of(&[("a", &[7; 2000])]);
        let error = open(&bytes[..1000]).unwrap_err();
        assert!(matches!(error, ArchiveError::CutShort(name) if name == "a"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048),
            place in 0_usize..1536,
        ) {
            let mut good = tar_of(&[("a", b"x")]);
            let end = (place + bytes.len()).min(good.len());
            let length = end.saturating_sub(place);
            good[place.min(end)..end].copy_from_slice(&bytes[..length]);
            let _damaged = open(&good);
            bytes.truncate(1024);
            let _nonsense = open(&bytes);
        }
    }
}
