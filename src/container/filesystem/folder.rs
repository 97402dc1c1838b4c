//! One open folder and the names in it: the kernel resolves no path any more, so nothing can be exchanged on the way.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, StatxAttributes, StatxFlags, Timespec,
    Timestamps, UTIME_NOW, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{by_descriptor, open_regular};
use crate::container::copy::open_folder;
use crate::random::random_hex;

/// Bytes that are copied at a time; a block of zeros of this size becomes a hole.
const BLOCK: usize = 64 << 10;

/// Extended attributes that have a meaning elsewhere, too. Labels of security modules belong to the place, and `trusted.*` to the
/// file system.
const EXTENDED: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

/// What a file has beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions, with the set-id and sticky bits.
    pub mode: u32,
    /// User and group; `None`: those of this process.
    pub owner: Option<(u32, u32)>,
    /// Time of the last change: seconds since 1970, nanoseconds; `None`: now.
    pub modified: Option<(i64, u32)>,
    /// Extended attributes by name.
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Of a new file of root.
    pub fn file(mode: u32) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Of a new folder of root.
    pub fn folder(mode: u32) -> Self {
        Self::file(mode)
    }

    /// Of what `found` names.
    pub(super) fn of(found: &OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(found)?;
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            owner: Some((stat.st_uid, stat.st_gid)),
            modified: None,
            extended: extended(found, &stat)?,
        })
    }

    fn times(&self) -> Timestamps {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        Timestamps {
            last_access: now,
            last_modification: self
                .modified
                .map_or(now, |(seconds, nanoseconds)| Timespec {
                    tv_sec: seconds,
                    tv_nsec: nanoseconds.into(),
                }),
        }
    }

    fn ids(&self) -> Option<(Uid, Gid)> {
        self.owner
            .map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Gives them to an open file or folder, in the order in which they do not undo each other.
    pub(super) fn apply(&self, to: impl AsFd) -> io::Result<()> {
        if let Some((uid, gid)) = self.ids() {
            rustix::fs::fchown(&to, Some(uid), Some(gid))?;
        }
        for (name, value) in &self.extended {
            let name = CString::new(name.as_slice())?;
            match rustix::fs::fsetxattr(&to, &name, value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::fs::fchmod(&to, Mode::from_raw_mode(self.mode))?;
        Ok(rustix::fs::futimens(&to, &self.times())?)
    }
}

/// Whether an extended attribute is copied along.
pub(super) fn travels(name: &[u8]) -> bool {
    EXTENDED.iter().any(|prefix| name.starts_with(prefix))
}

/// The extended attributes of what `found` names that are copied along.
pub(super) fn extended(found: &OwnedFd, stat: &Stat) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Links have none that travel, and a device must not be touched through its path.
    let has_some = [FileType::RegularFile, FileType::Directory];
    if !has_some.contains(&FileType::from_raw_mode(stat.st_mode)) {
        return Ok(Vec::new());
    }
    let path = by_descriptor(found);
    let mut names = vec![0_u8; BLOCK];
    let length = match rustix::fs::listxattr(&path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut list = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if !travels(name) {
            continue;
        }
        let mut value = vec![0_u8; BLOCK];
        match rustix::fs::getxattr(&path, CString::new(name)?, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        list.push((name.to_vec(), value));
    }
    Ok(list)
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    descriptor: OwnedFd,
}

impl Folder {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }

    /// Opens the folder `path` below `root`; a link on the way is refused.
    pub(super) fn below(root: impl AsFd, path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Ok(Self::new(open_folder(root, path)?))
    }

    /// Opens a folder of this one; a link is refused.
    pub(super) fn folder(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self::new(rustix::fs::openat(
            &self.descriptor,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    /// A descriptor that only names an entry, a link itself.
    pub(super) fn entry(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &self.descriptor,
            name,
            flags,
            Mode::empty(),
        )?)
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives this folder itself other attributes.
    pub(super) fn set_attributes(&self, attributes: &Attributes) -> io::Result<()> {
        attributes.apply(&self.descriptor)
    }

    /// Makes a folder; one that is there stays as it is.
    pub(super) fn make_folder(&self, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.descriptor, name, Mode::RWXU) {
            Ok(()) => self.folder(name)?.set_attributes(attributes),
            Err(Errno::EXIST) => match self.stat(name)? {
                Some(stat) if !is_folder(&stat) => Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!(
                        "cannot overwrite non-directory \"{}\" with a directory",
                        name.display()
                    ),
                )),
                _ => Ok(()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// See [`super::FileSystem::put_file`].
    pub(super) fn put_file(
        &self,
        name: &OsStr,
        content: &mut dyn Read,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if self.is_mount_point(name)? {
            return self.rewrite(name, content);
        }
        self.replace(name, |temporary| {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(rustix::fs::openat(
                &self.descriptor,
                temporary,
                flags,
                mode,
            )?);
            copy_sparse(content, &mut file)?;
            attributes.apply(&file)
        })
    }

    /// See [`super::FileSystem::put_link`].
    pub(super) fn put_link(
        &self,
        name: &OsStr,
        target: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.replace(name, |temporary| {
            rustix::fs::symlinkat(target, &self.descriptor, temporary)?;
            self.finish_by_name(temporary, attributes)
        })
    }

    /// Puts a further name of a file that is there.
    pub(super) fn put_hard_link(
        &self,
        name: &OsStr,
        other: &Self,
        other_name: &OsStr,
    ) -> io::Result<()> {
        self.replace(name, |temporary| {
            let no_follow = AtFlags::empty();
            let (from, to) = (&other.descriptor, &self.descriptor);
            Ok(rustix::fs::linkat(
                from, other_name, to, temporary, no_follow,
            )?)
        })
    }

    /// Puts a FIFO or a device.
    pub(super) fn put_node(
        &self,
        name: &OsStr,
        kind: FileType,
        device: u64,
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.replace(name, |temporary| {
            let mode = Mode::from_raw_mode(attributes.mode);
            rustix::fs::mknodat(&self.descriptor, temporary, kind, mode, device)?;
            self.finish_by_name(temporary, attributes)?;
            let flags = AtFlags::empty();
            Ok(rustix::fs::chmodat(
                &self.descriptor,
                temporary,
                mode,
                flags,
            )?)
        })
    }

    fn finish_by_name(&self, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = attributes.ids() {
            rustix::fs::chownat(&self.descriptor, name, Some(uid), Some(gid), no_follow)?;
        }
        let times = attributes.times();
        Ok(rustix::fs::utimensat(
            &self.descriptor,
            name,
            &times,
            no_follow,
        )?)
    }

    /// Has `make` make something under another name, then gives it the name `name`.
    fn replace(&self, name: &OsStr, make: impl FnOnce(&OsStr) -> io::Result<()>) -> io::Result<()> {
        if self.stat(name)?.is_some_and(|stat| is_folder(&stat)) {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                format!(
                    "cannot overwrite directory \"{}\" with non-directory",
                    name.display()
                ),
            ));
        }
        if self.is_mount_point(name)? {
            return Err(Errno::BUSY.into());
        }
        let temporary = OsString::from(format!(".compose-{}", random_hex(8)));
        let made = make(&temporary).and_then(|()| {
            let folder = &self.descriptor;
            Ok(rustix::fs::renameat(folder, &temporary, folder, name)?)
        });
        // After a rename there is nothing to remove, except where both were names of one file.
        match rustix::fs::unlinkat(&self.descriptor, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => made,
            Err(error) => made.and(Err(error.into())),
        }
    }

    /// Writes the file `name`, which is a mount point, in place.
    fn rewrite(&self, name: &OsStr, content: &mut dyn Read) -> io::Result<()> {
        let found = self.entry(name)?;
        // Refuses everything but a regular file.
        open_regular(&found)?;
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        let path = by_descriptor(&found);
        let mut output = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
        io::copy(content, &mut output)?;
        Ok(())
    }

    /// Whether something is mounted there. The kernel lets a process outside of the container's mount namespace rename over a
    /// mount point of the container, which would end the mount.
    fn is_mount_point(&self, name: &OsStr) -> io::Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.descriptor, name, flags, StatxFlags::TYPE) {
            Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an entry with everything below it. Not an error if it is gone.
    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        if self.is_mount_point(name)? {
            return Err(Errno::BUSY.into());
        }
        match rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = self.folder(name)?;
        for inner in folder.names()? {
            folder.remove(&inner)?;
        }
        match rustix::fs::unlinkat(&self.descriptor, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Copies to the end; long stretches of zeros become holes.
fn copy_sparse(input: &mut dyn Read, output: &mut File) -> io::Result<()> {
    let mut buffer = vec![0_u8; BLOCK];
    let mut length = 0_u64;
    loop {
        let read = fill(input, &mut buffer)?;
        let block = &buffer[..read];
        if read == BLOCK && block.iter().all(|byte| *byte == 0) {
            output.seek(SeekFrom::Current(i64::try_from(BLOCK).unwrap_or(0)))?;
        } else {
            output.write_all(block)?;
        }
        length += read as u64;
        if read < BLOCK {
            // A hole at the end.
            return output.set_len(length);
        }
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
