//! Files of a container, read and written from outside: without a program in the image, whether it runs or not.
//!
//! [`Containers::file_system`] opens the tree that the container's processes see, with its volumes, bind mounts and
//! tmpfs. Everything then goes through [`FileSystem`], which holds a descriptor of the root and nothing else:
//!
//! ```no_run
//! # use containerd_compose::container::{Attributes, Containers, FileSystem};
//! # async fn example(containers: &Containers, id: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let files: FileSystem = containers.file_system(id).await?;
//! // The calls block: from asynchronous code they belong into `spawn_blocking`.
//! tokio::task::spawn_blocking(move || {
//!     let path = "/srv/app/index.html".as_ref();
//!     // Who owned the file before goes on owning it.
//!     let kept = files.attributes(path)?.unwrap_or(Attributes::file(0o644));
//!     files.make_folders("/srv/app".as_ref(), &Attributes::folder(0o755))?;
//!     files.put_file(path, &mut "hello".as_bytes(), &kept)?;
//!     files.remove("/srv/app/old".as_ref())
//! })
//! .await??;
//! # Ok(())
//! # }
//! ```
//!
//! No path leads out: symbolic links and `..` are resolved by the kernel inside of the root (`openat2`), also while a
//! process of the container exchanges folders for links, and what a path names is then worked on by its descriptor.
//! Nothing but a regular file is ever opened for its content: opening a device node would reach the host's device.
//!
//! [`pack`] and [`unpack`] turn trees into tar archives and back; `cp` is one after the other.

mod folder;
mod open;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use folder::Folder;

pub use folder::Attributes;
pub(super) use open::root_of;
pub use pack::pack;
pub use unpack::{UnpackOptions, Unpacked, unpack};

/// A tree of files that no path leads out of.
#[derive(Debug)]
pub struct FileSystem {
    root: OwnedFd,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Regular,
    Folder,
    Link,
    /// A FIFO, a socket or a device.
    Special,
}

impl FileSystem {
    /// The tree below the folder that `root` is open on.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The tree below a folder of the host. A link at `path` itself is followed.
    pub fn of_folder(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::new(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// What `path` names; `None` if nothing. `follow`: a link there stands for what it leads to.
    pub fn kind(&self, path: &Path, follow: bool) -> io::Result<Option<FileKind>> {
        let found = match self.open_path(path, follow) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(kind(&rustix::fs::fstat(&found)?)))
    }

    /// Owner, mode, times and extended attributes of what is there, to be given to what replaces it; `None` if nothing is.
    pub fn attributes(&self, path: &Path) -> io::Result<Option<Attributes>> {
        match self.open_path(path, true) {
            Ok(found) => Attributes::of(&found).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the link at `path` leads to, as it is written there.
    pub fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let link = self.open_path(path, false)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Opens a regular file for reading.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        open_regular(&self.open_path(path, true)?)
    }

    /// Makes the folder `path` and those above it that are missing; one that is there stays as it is.
    pub fn make_folders(&self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        let mut folder = PathBuf::new();
        for component in path.components() {
            folder.push(component);
            if matches!(component, Component::Normal(_)) && self.kind(&folder, true)?.is_none() {
                let (parent, name) = self.parent(&folder)?;
                parent.make_folder(name, attributes)?;
            }
        }
        Ok(())
    }

    /// Puts a file at `path`, at once as far as readers can see: they find the old one or the whole new one. A link there
    /// is replaced; a file that is a mount point is rewritten in place.
    pub fn put_file(
        &self,
        path: &Path,
        content: &mut dyn Read,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        folder.put_file(name, content, attributes)
    }

    /// Puts a symbolic link at `path`; a file or link there is replaced.
    pub fn put_link(&self, path: &Path, target: &Path, attributes: &Attributes) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        folder.put_link(name, target, attributes)
    }

    /// Removes what is at `path`, with everything below it; a link itself and never what it leads to. Not an error if
    /// nothing is there, but if something is mounted there.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = match self.parent(path) {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        folder.remove(name)
    }

    /// A descriptor that only names what is at `path`.
    fn open_path(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        self.open_with(path, flags)
    }

    fn open_with(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A folder on the way was moved just now: the kernel cannot tell whether `..` is still inside.
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    /// The folder at `path`, links followed inside of the root.
    fn folder(&self, path: &Path) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Folder::new(self.open_with(path, flags)?))
    }

    /// The folder that `path` is in, and its name there.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(Folder, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} names no file", path.display()),
            )
        })?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.folder(parent)?, name))
    }
}

fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Special,
    }
}

/// Opens the file that `found` names, if it is a regular one.
fn open_regular(found: &OwnedFd) -> io::Result<File> {
    let stat = rustix::fs::fstat(found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    // By descriptor: whatever stands at the path by now, it is this file that is opened.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, by_descriptor(found), flags, Mode::empty())?.into())
}

/// The path by which the kernel finds what a descriptor of this process is open on.
fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
