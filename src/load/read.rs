//! Files that users name, whatever they are: `/dev/zero` and pipes too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes of one file. No such file that anybody wrote comes near.
const MAX_BYTES: u64 = 64 << 20;
/// How long a pipe may have nobody who writes to it.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Reads all of a file, if that has an end within bounds. A pipe is read as long as somebody holds its
/// other end; one that nobody opens is an error after a few seconds.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer, without end if need be.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0));
    if metadata.file_type().is_fifo() {
        bytes.extend(start_of_pipe(&file)?);
    }
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    read_bounded(file, bytes)
}

/// What is in a pipe already; waits for the first to write if there was none so far.
fn start_of_pipe(mut file: &File) -> io::Result<Option<u8>> {
    let mut first = [0];
    match file.read(&mut first) {
        Ok(0) => {}
        Ok(_) => return Ok(Some(first[0])),
        // Somebody will write.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut polled = [PollFd::new(file, PollFlags::IN)];
    if poll(&mut polled, Some(&PATIENCE))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it is a pipe that nobody writes to",
        ));
    }
    Ok(None)
}

/// Reads a text to its end, if that is within the bounds of a file.
pub fn read_text(reader: impl io::Read) -> io::Result<String> {
    let bytes = read_bounded(reader, Vec::new())?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

fn read_bounded(reader: impl io::Read, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", MAX_BYTES >> 20),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for path in ["/dev/zero", "/dev/urandom"] {
            let error = read(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), "it is larger than 64 MiB", "{path}");
        }
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_waits_for_nobody_only_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let error = read(&path).unwrap_err();
        assert_eq!(error.to_string(), "it is a pipe that nobody writes to");

        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all(b"services: ").unwrap();
                file.write_all(b"{}").unwrap();
            }
        });
        assert_eq!(read(&path).unwrap(), b"services: {}");
        writer.join().unwrap();
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::os::unix::fs::symlink(&one, &two).unwrap();
        std::os::unix::fs::symlink(&two, &one).unwrap();
        assert!(read(&one).is_err());
    }
}
