//! A part of an image, mounted on the host for a container to bind: the kernel's overlay knows only whole images.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::ContainerError;
use crate::engine::{RootMount, with_rootfs};

/// What was mounted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) is_dir: bool,
}

/// Mounts what is at `subpath` of an image's snapshot on `point`, which is made. Links are followed inside the image only.
/// What is mounted there already stays.
pub(super) async fn mount(
    snapshot: Vec<RootMount>,
    subpath: String,
    point: PathBuf,
) -> Result<Part, ContainerError> {
    super::blocking(move || {
        if is_mount(&point) {
            return Ok(Part {
                is_dir: point.is_dir(),
            });
        }
        let attach = || -> io::Result<Part> {
            let (tree, is_dir) = with_rootfs(&snapshot, |root, _| tree(root, &subpath))?;
            make_point(&point, is_dir)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", CWD, &point, flags)?;
            Ok(Part { is_dir })
        };
        attach().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ContainerError::invalid(
                "volumes.image.subpath",
                &subpath,
                "the image has nothing there",
            ),
            _ => ContainerError::io(format!("mount `{subpath}` of an image"))(error),
        })
    })
    .await
}

/// A mount of what is at `subpath` that is nowhere attached yet, and whether it is a folder.
fn tree(root: &File, subpath: &str) -> io::Result<(OwnedFd, bool)> {
    let found = rustix::fs::openat2(
        root,
        subpath,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let stat = rustix::fs::fstat(&found)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&found, "", flags)?;
    Ok((tree, kind == rustix::fs::FileType::Directory))
}

fn make_point(point: &Path, folder: bool) -> io::Result<()> {
    let parent = point.parent().unwrap_or(Path::new("/"));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    if folder {
        return builder.create(point);
    }
    builder.create(parent)?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600);
    file.open(point).map(drop)
}

/// Whether something is mounted on `point`; the file system may be the same as around it.
fn is_mount(point: &Path) -> bool {
    let stat = rustix::fs::statx(CWD, point, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Unmounts every part in the folder `points`, if there is one.
pub(super) fn unmount_all(points: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(points) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        let point = entry.path();
        if is_mount(&point) {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(&point, flags)?;
        }
    }
    Ok(())
}
