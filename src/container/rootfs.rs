//! What Docker puts into the root file system of every container, and images count on: `/etc/mtab`, without which Java finds
//! no file systems, and `/.dockerenv`, by which programs know that they are in a container.
//!
//! It is written to the container's own layer before that is mounted, so it costs no mount.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::engine::RootMount;

const MARK: &str = ".dockerenv";
const ETC: &str = "etc";
const MTAB: &str = "mtab";
const MOUNTS: &str = "/proc/mounts";

/// Adds what is missing. Nothing happens with a snapshot that is neither a folder nor an overlay.
pub(super) fn complete(root: &[RootMount]) -> io::Result<()> {
    let [mount] = root else {
        return Ok(());
    };
    let option = |name: &str| {
        let mut options = mount.options.iter();
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let (own, below) = match mount.kind.as_str() {
        "overlay" => {
            let below = option("lowerdir").unwrap_or_default().split(':');
            (option("upperdir"), below.map(Path::new).collect())
        }
        "bind" | "rbind" => (Some(mount.source.as_str()), Vec::new()),
        _ => (None, Vec::new()),
    };
    let Some(own) = own else {
        return Ok(());
    };
    add(Path::new(own), &below)
}

fn add(own: &Path, below: &[&Path]) -> io::Result<()> {
    let own = open(own)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(&own, MARK, flags, Mode::from_raw_mode(0o755)) {
        // Whoever looks for it may not be root.
        Ok(file) => rustix::fs::fchmod(file, Mode::from_raw_mode(0o755))?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // The folder as the container sees it is the layers' folders together, with the attributes of the first.
    let mut first = None;
    let mut layers = vec![own.try_clone()?];
    for layer in below {
        layers.push(open(layer)?);
    }
    for layer in &layers {
        let Some(etc) = folder(layer)? else {
            match rustix::fs::statat(layer, ETC, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                // A link or a file; or a mark that the layers below are hidden.
                _ => break,
            }
        };
        match rustix::fs::statat(&etc, MTAB, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if !is_whiteout(&found) => return Ok(()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let hides_lower = is_opaque(&etc);
        first.get_or_insert(etc);
        if hides_lower {
            break;
        }
    }
    let Some(first) = first else {
        return Ok(());
    };
    let etc = match folder(&own)? {
        Some(etc) => etc,
        None => like(&own, &first)?,
    };
    match rustix::fs::symlinkat(MOUNTS, &etc, MTAB) {
        // The container's own layer says that there is none.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `/etc` of a layer, if it is a folder there.
fn folder(layer: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(layer, ETC, flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes `/etc` in the container's own layer, with the owner and mode that it has in the image.
fn like(own: &OwnedFd, image: impl AsFd) -> io::Result<OwnedFd> {
    let stat = rustix::fs::fstat(image)?;
    rustix::fs::mkdirat(own, ETC, Mode::RWXU)?;
    let made = folder(own)?.ok_or(io::ErrorKind::NotFound)?;
    let owner = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode))?;
    Ok(made)
}

/// An overlay's mark that a name of the layers below is gone.
fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a folder hides those of the layers below.
fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    let length = rustix::fs::fgetxattr(folder, c"trusted.overlay.opaque", value.as_mut_slice());
    length == Ok(1) && value == *b"y"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::PathBuf;

    use super::*;

    struct Layers {
        _folder: tempfile::TempDir,
        own: PathBuf,
        upper: PathBuf,
        lower: PathBuf,
    }

    /// An own layer and two of an image, all empty.
    fn layers() -> Layers {
        let folder = tempfile::tempdir().unwrap();
        let [own, upper, lower] = ["own", "upper", "lower"].map(|name| folder.path().join(name));
        for layer in [&own, &upper, &lower] {
            std::fs::create_dir(layer).unwrap();
        }
        Layers {
            _folder: folder,
            own,
            upper,
            lower,
        }
    }

    fn completed(layers: &Layers) -> Option<PathBuf> {
        let mount = RootMount {
            kind: "overlay".into(),
            options: vec![
                "index=off".into(),
                format!("upperdir={}", layers.own.display()),
                format!(
                    "lowerdir={}:{}",
                    layers.upper.display(),
                    layers.lower.display()
                ),
            ],
            ..RootMount::default()
        };
        complete(std::slice::from_ref(&mount)).unwrap();
        complete(&[mount]).unwrap();
        assert!(layers.own.join(MARK).is_file());
        std::fs::read_link(layers.own.join("etc/mtab")).ok()
    }

    #[test]
    fn a_folder_is_made_as_the_image_has_it() {
        let layers = layers();
        std::fs::create_dir(layers.lower.join(ETC)).unwrap();
        let path = layers.lower.join(ETC);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        std::fs::set_permissions(&path, mode).unwrap();
        assert_eq!(completed(&layers), Some(MOUNTS.into()));
        assert_eq!(
            std::fs::metadata(layers.own.join(ETC)).unwrap().mode() & 0o777,
            0o750
        );
    }

    #[test]
    fn what_the_image_has_stays() {
        let layers = layers();
        for layer in [&layers.upper, &layers.lower] {
            std::fs::create_dir(layer.join(ETC)).unwrap();
        }
        std::fs::write(layers.lower.join("etc/mtab"), "own").unwrap();
        assert_eq!(completed(&layers), None);
        assert!(!layers.own.join(ETC).exists());
    }

    #[test]
    fn no_link_is_followed_and_no_folder_is_no_reason_to_make_one() {
        let layers = layers();
        assert_eq!(completed(&layers), None);
        symlink(&layers.lower, layers.upper.join(ETC)).unwrap();
        std::fs::create_dir(layers.lower.join(ETC)).unwrap();
        assert_eq!(completed(&layers), None);
        assert!(!layers.lower.join(MTAB).exists() && !layers.own.join(ETC).exists());
    }

    #[test]
    fn a_snapshot_that_is_a_folder_is_completed_in_place() {
        let layers = layers();
        std::fs::create_dir(layers.own.join(ETC)).unwrap();
        let mount = RootMount {
            kind: "bind".into(),
            source: layers.own.display().to_string(),
            ..RootMount::default()
        };
        complete(&[mount]).unwrap();
        assert_eq!(
            std::fs::read_link(layers.own.join("etc/mtab")).unwrap(),
            Path::new(MOUNTS)
        );
    }
}
