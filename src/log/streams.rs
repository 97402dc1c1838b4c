//! The FIFOs between a container and whoever keeps its log.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::journal::BATCH;
use super::record::Origin;

const STDIN: &str = "stdin";

/// Makes the FIFOs of a container in `directory`, for the owner only; those that are there stay.
pub fn make_fifos(directory: &Path, stdin: bool, stderr: bool) -> io::Result<()> {
    let names = [
        (STDIN, stdin),
        (Origin::Stdout.name(), true),
        (Origin::Stderr.name(), stderr),
    ];
    for (name, _) in names.iter().filter(|(_, wanted)| *wanted) {
        let path = directory.join(name);
        match rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR) {
            Err(rustix::io::Errno::EXIST) => {
                let kind = rustix::fs::lstat(&path)?.st_mode;
                if FileType::from_raw_mode(kind) != FileType::Fifo {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
            }
            made => made?,
        }
    }
    Ok(())
}

/// Our ends of a container's FIFOs, for one run of it.
///
/// A read end that saw its last writer leave is at its end for good. So each run, and each attempt to start one, opens
/// its own before its task is created, holds them, and spawns a pump; that pump is drained when the run is over. Until the
/// task has started [`Streams::writers`] keep it from the end: what is left of an earlier attempt may write, and leave.
#[derive(Debug)]
pub struct Streams {
    pub(super) directory: PathBuf,
    pub(super) outputs: Vec<(Origin, OwnedFd)>,
    /// Both ends, so that the container's input does not end with a client that was attached to it.
    pub(super) stdin: Option<OwnedFd>,
}

/// Opens our ends of the FIFOs in `directory`. Does not wait for the container.
pub fn open(directory: &Path) -> io::Result<Streams> {
    let open = |name: &str, flags| {
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(directory.join(name), flags, Mode::empty()) {
            Ok(descriptor) => Ok(Some(descriptor)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    let mut outputs = Vec::new();
    for origin in Origin::ALL {
        if let Some(descriptor) = open(origin.name(), OFlags::RDONLY)? {
            // As much as fits may wait for a worker that is being restarted. Less is no error.
            rustix::pipe::fcntl_setpipe_size(&descriptor, BATCH).ok();
            outputs.push((origin, descriptor));
        }
    }
    Ok(Streams {
        directory: directory.into(),
        outputs,
        stdin: open(STDIN, OFlags::RDWR)?,
    })
}

impl Streams {
    /// Takes over what [`Streams::held`] gave another worker to hold.
    pub fn from_held(directory: &Path, held: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        let mut streams = Self {
            directory: directory.into(),
            outputs: Vec::new(),
            stdin: None,
        };
        for (name, descriptor) in held {
            match Origin::ALL.iter().find(|origin| origin.name() == name) {
                Some(origin) => streams.outputs.push((*origin, descriptor)),
                None if name == STDIN => streams.stdin = Some(descriptor),
                None => {}
            }
        }
        streams
    }

    /// The other ends of the outputs, which have no end as long as these are there.
    pub fn writers(&self) -> io::Result<Vec<OwnedFd>> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |(origin, _): &(Origin, OwnedFd)| {
            let path = self.directory.join(origin.name());
            rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)
        };
        self.outputs.iter().map(open).collect()
    }

    /// What must be held while the run lasts, so that a killed worker loses nothing: names and descriptors.
    pub fn held(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let outputs = self.outputs.iter();
        let stdin = self.stdin.iter().map(|stdin| (STDIN, stdin.as_fd()));
        outputs
            .map(|(origin, descriptor)| (origin.name(), descriptor.as_fd()))
            .chain(stdin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifos_are_private_and_made_once() {
        let directory = tempfile::tempdir().unwrap();
        make_fifos(directory.path(), false, true).unwrap();
        make_fifos(directory.path(), false, true).unwrap();
        assert!(!directory.path().join("stdin").exists());
        let metadata = std::fs::metadata(directory.path().join("stdout")).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777,
            0o600
        );
        std::fs::write(directory.path().join("stdin"), "").unwrap();
        assert!(make_fifos(directory.path(), true, true).is_err());
    }
}
