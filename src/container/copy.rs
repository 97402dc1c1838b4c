//! Copies a folder of an image into an empty volume: contents, owners, modes, extended attributes, times, hard links.
//!
//! Both sides may hold hostile links: every folder is opened from its root and no symbolic link is followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Copies what is in `source` to `destination`, then makes the folder itself like it. What is there already, as from a
/// copy that was cut off, is replaced.
pub(super) fn copy_tree(source: impl AsFd, destination: impl AsFd) -> io::Result<()> {
    let mut copy = Copy {
        source: source.as_fd().try_clone_to_owned()?,
        destination: destination.as_fd().try_clone_to_owned()?,
        links: HashMap::new(),
        pending: vec![PathBuf::from(".")],
    };
    let mut folders = Vec::new();
    while let Some(folder) = copy.pending.pop() {
        copy.folder(&folder)?;
        folders.push(folder);
    }
    // Inner folders first: filling a folder changes its times.
    for folder in folders.iter().rev() {
        let from = open_folder(&copy.source, folder)?;
        let to = open_folder(&copy.destination, folder)?;
        copy_attributes(&from, &to, &rustix::fs::fstat(&from)?)?;
    }
    Ok(())
}

/// Opens a folder below `root`.
pub(super) fn open_folder(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

struct Copy {
    source: OwnedFd,
    destination: OwnedFd,
    /// Where a file with several names was copied to first, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Folders to do, relative to the roots.
    pending: Vec<PathBuf>,
}

impl Copy {
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let from = open_folder(&self.source, folder)?;
        let to = open_folder(&self.destination, folder)?;
        for entry in rustix::fs::Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.entry(&from, &to, name, path, &stat)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        path: PathBuf,
        stat: &Stat,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            match rustix::fs::mkdirat(to, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            self.pending.push(path);
            return Ok(());
        }
        match rustix::fs::unlinkat(to, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let folder =
                    open_folder(&self.destination, first.parent().unwrap_or(Path::new(".")))?;
                let first_name = first.file_name().unwrap_or_default();
                rustix::fs::linkat(&folder, first_name, to, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert(key, path);
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name, stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
                finish_by_name(to, name, stat)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                finish_by_name(to, name, stat)?;
                Ok(rustix::fs::chmodat(to, name, mode, AtFlags::empty())?)
            }
            // A socket without its listener is of no use.
            _ => Ok(()),
        }
    }
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let writing =
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut input = File::from(rustix::fs::openat(from, name, reading, Mode::empty())?);
    let mut output = File::from(rustix::fs::openat(
        to,
        name,
        writing,
        Mode::RUSR | Mode::WUSR,
    )?);
    io::copy(&mut input, &mut output)?;
    copy_attributes(&input, &output, stat)
}

/// Owner, extended attributes, mode and times, in the order in which they do not undo each other.
fn copy_attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(&to, Some(uid), Some(gid))?;
    copy_extended(&from, &to)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(&to, &times(stat))?)
}

fn finish_by_name(to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(
        to,
        name,
        &times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    #[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below a billion")]
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_extended(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(&from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // Labels of SELinux belong to the place, not to the content.
        if name == b"security.selinux" {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::fgetxattr(&from, &name, value.as_mut_slice())?;
        match rustix::fs::fsetxattr(&to, &name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn copied(source: &Path) -> tempfile::TempDir {
        let destination = tempfile::tempdir().unwrap();
        copy(source, destination.path());
        destination
    }

    fn copy(source: &Path, destination: &Path) {
        let (from, to) = (
            File::open(source).unwrap(),
            File::open(destination).unwrap(),
        );
        copy_tree(&from, &to).unwrap();
    }

    #[test]
    fn modes_owners_times_and_attributes_are_kept() {
        let source = tempfile::tempdir().unwrap();
        let root = source.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "text").unwrap();
        std::os::unix::fs::chown(root.join("d/f"), Some(5), Some(6)).unwrap();
        std::fs::set_permissions(root.join("d/f"), std::fs::Permissions::from_mode(0o4751))
            .unwrap();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::chown(root, Some(7), Some(8)).unwrap();
        rustix::fs::setxattr(root.join("d/f"), "user.note", b"x", XattrFlags::empty()).unwrap();
        let old = Timestamps {
            last_access: Timespec {
                tv_sec: 1,
                tv_nsec: 2,
            },
            last_modification: Timespec {
                tv_sec: 3,
                tv_nsec: 4,
            },
        };
        let flags = AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, root.join("d"), &old, flags).unwrap();

        let destination = copied(root);
        let file = destination.path().join("d/f");
        let found = std::fs::metadata(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o7777),
            (5, 6, 0o4751)
        );
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&file, "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"x");
        let folder = std::fs::metadata(destination.path().join("d")).unwrap();
        assert_eq!((folder.mtime(), folder.mtime_nsec()), (3, 4));
        let top = std::fs::metadata(destination.path()).unwrap();
        assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (7, 8, 0o1777));
    }

    #[test]
    fn links_stay_links_and_lead_nowhere_else() {
        let source = tempfile::tempdir().unwrap();
        let root = source.path();
        std::fs::write(root.join("a"), "text").unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::hard_link(root.join("a"), root.join("d/b")).unwrap();
        symlink("/etc/passwd", root.join("l")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("p"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();

        let destination = copied(root);
        let at = |path: &str| destination.path().join(path);
        let inode = |path: &str| std::fs::metadata(at(path)).unwrap().ino();
        assert_eq!(inode("a"), inode("d/b"));
        assert_eq!(
            std::fs::read_link(at("l")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert!(std::fs::metadata(at("p")).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_copy_that_was_cut_off_is_completed() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::write(source.path().join("d/f"), "whole").unwrap();
        let destination = copied(source.path());
        std::fs::write(destination.path().join("d/f"), "who").unwrap();
        copy(source.path(), destination.path());
        let text = std::fs::read_to_string(destination.path().join("d/f")).unwrap();
        assert_eq!(text, "whole");
    }

    #[test]
    fn a_link_in_the_destination_is_not_followed() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::write(source.path().join("d/f"), "x").unwrap();
        let outside = tempfile::tempdir().unwrap();
        let destination = tempfile::tempdir().unwrap();
        symlink(outside.path(), destination.path().join("d")).unwrap();
        let (from, to) = (
            File::open(source.path()).unwrap(),
            File::open(destination.path()).unwrap(),
        );
        assert!(copy_tree(&from, &to).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
