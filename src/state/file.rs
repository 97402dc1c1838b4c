//! Versioned JSON files, written whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// A state file could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is damaged or not ours", path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} has format {found}; this version reads up to {supported}", path.display())]
    Newer {
        path: PathBuf,
        found: u64,
        supported: u64,
    },
}

/// A type with a file of its own; the file carries `format`.
pub trait Versioned {
    const FORMAT: u64;
}

/// What is read of a file before the rest of it is trusted.
#[derive(Deserialize)]
struct Format {
    #[serde(default)]
    format: u64,
}

/// Makes `path` and its missing parents, for the owner only.
pub fn create_private_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::Write {
            path: path.into(),
            source,
        })
}

/// Writes `bytes` to a new file beside `path` and renames it there. The file is the owner's only. A power cut soon after
/// may leave it empty, which [`read_json`] takes for absent.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    // Two writers of one file, in one process too, each have their own.
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{number}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        std::fs::remove_file(&temporary).ok();
        StateError::Write {
            path: path.into(),
            source,
        }
    })
}

/// As [`write_atomic`], and does not return before the content is on the disk.
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    write_atomic(path, bytes)?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| StateError::Write {
            path: path.into(),
            source,
        })
}

/// Renders `value` with its format number.
pub fn encode<T: Versioned + Serialize>(value: &T) -> Vec<u8> {
    let mut json = serde_json::to_value(value).unwrap_or_default();
    if let Value::Object(map) = &mut json {
        map.insert("format".into(), T::FORMAT.into());
    }
    json.to_string().into_bytes()
}

/// Writes `value` atomically.
pub fn write_json<T: Versioned + Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    write_atomic(path, &encode(value))
}

/// Reads a versioned file; `None` if there is none, or only what a power cut leaves of one.
pub fn read_json<T: Versioned + DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StateError::Read {
                path: path.into(),
                source,
            });
        }
    };
    if bytes.iter().all(|byte| *byte == 0) {
        tracing::warn!(path = %path.display(), "a file lost its content, as in a power cut");
        return Ok(None);
    }
    let damaged = |source| StateError::Damaged {
        path: path.into(),
        source,
    };
    let Format { format: found } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if found > T::FORMAT {
        return Err(StateError::Newer {
            path: path.into(),
            found,
            supported: T::FORMAT,
        });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ContainerState;

    #[test]
    fn writers_of_one_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let contents = [vec![b'a'; 1 << 16], vec![b'b'; 1 << 16]];
        std::thread::scope(|scope| {
            for bytes in &contents {
                scope.spawn(|| (0..200).for_each(|_| write_atomic(&path, bytes).unwrap()));
            }
        });
        assert!(contents.contains(&std::fs::read(&path).unwrap()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_power_cut_leaves_of_a_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for left in [&b""[..], &[0; 300]] {
            std::fs::write(&path, left).unwrap();
            assert_eq!(read_json::<ContainerState>(&path).unwrap(), None);
        }
        std::fs::write(&path, "{").unwrap();
        read_json::<ContainerState>(&path).unwrap_err();
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("file")).unwrap();
        write_atomic(&folder.path().join("file"), b"x").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
