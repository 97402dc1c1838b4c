//! Mounts in memory: `tmpfs` and volumes of that type.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{PROPAGATIONS, clean_target};
use crate::container::ContainerError;
use crate::container::provision::MountRecord;
use crate::model::Mount;

/// A mount of type `tmpfs` in long form.
pub(super) fn tmpfs(mount: &Mount, target: PathBuf) -> Result<MountRecord, ContainerError> {
    let options = mount.tmpfs.clone().unwrap_or_default();
    let mut flags = default_tmpfs_options();
    if mount.read_only {
        flags.push("ro".into());
    }
    if let Some(size) = options.size.filter(|size| *size != 0) {
        if size < 0 {
            let reason = "it cannot be negative";
            return Err(ContainerError::invalid(
                "volumes.tmpfs.size",
                size.to_string(),
                reason,
            ));
        }
        flags.push(format!("size={size}"));
    }
    if let Some(mode) = options.mode.filter(|mode| *mode != 0) {
        flags.push(format!("mode={mode:o}"));
    }
    Ok(tmpfs_record(target, flags, mount.read_only))
}

fn default_tmpfs_options() -> Vec<String> {
    ["noexec", "nosuid", "nodev", "rprivate"]
        .map(Into::into)
        .into()
}

fn tmpfs_record(destination: PathBuf, options: Vec<String>, read_only: bool) -> MountRecord {
    MountRecord {
        kind: "tmpfs".into(),
        destination,
        read_only,
        spec_kind: "tmpfs".into(),
        options,
        ..MountRecord::default()
    }
}

/// Pairs of which the later one counts.
const OPPOSITES: [(&str, &str); 9] = [
    ("noexec", "exec"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("ro", "rw"),
    ("async", "sync"),
    ("noatime", "atime"),
    ("nodiratime", "diratime"),
    ("norelatime", "relatime"),
    ("nostrictatime", "strictatime"),
];

/// Reads an entry of `tmpfs`, as `/run:size=64m,exec`.
pub(super) fn tmpfs_entry(entry: &str) -> Result<MountRecord, ContainerError> {
    let (target, text) = entry.split_once(':').unwrap_or((entry, ""));
    let target = clean_target("tmpfs", target)?;
    let mut options = default_tmpfs_options();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        let pair = OPPOSITES.iter().find(|(a, b)| *a == option || *b == option);
        let known = pair.is_some()
            || PROPAGATIONS.contains(&option)
            || (option.contains('=')
                && [
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "nr_inodes",
                    "nr_blocks",
                    "mpol",
                ]
                .contains(&name));
        if !known {
            let reason = format!("tmpfs has no option `{option}`");
            return Err(ContainerError::invalid("tmpfs", entry, reason));
        }
        options.retain(|other| {
            let same = other == option
                || other
                    .split_once('=')
                    .is_some_and(|(known, _)| known == name);
            let opposite = pair.is_some_and(|(a, b)| other == a || other == b);
            let propagation =
                PROPAGATIONS.contains(&option) && PROPAGATIONS.contains(&other.as_str());
            !same && !opposite && !propagation
        });
        options.push(option.into());
    }
    let read_only = options.iter().any(|option| option == "ro");
    Ok(tmpfs_record(target, options, read_only))
}

/// Where a tmpfs takes its mode from the folder below it.
pub(in crate::container) fn tmpfs_points(records: &[MountRecord]) -> Vec<PathBuf> {
    let takes_mode = |record: &&MountRecord| {
        record.spec_kind == "tmpfs"
            && !record
                .options
                .iter()
                .any(|option| option.starts_with("mode="))
    };
    let records = records.iter().filter(takes_mode);
    records.map(|record| record.destination.clone()).collect()
}

/// Makes the mount point `target` in `root`, open to all, unless the image has one. A runtime makes it with mode 755 and gives
/// that mode to the tmpfs from the second start on (crun: from the first), so that only root may still write there.
pub(in crate::container) fn make_tmpfs_point(root: &File, target: &Path) -> io::Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    };
    let mut path = PathBuf::from("/");
    let mut folder = open(&path)?;
    let mut made = false;
    for component in target.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        path.push(name);
        let next = match open(&path) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => made = true,
                    // A link that leads nowhere: the runtime decides.
                    Err(Errno::EXIST) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                open(&path)
            }
            found => found,
        };
        folder = match next {
            Ok(folder) => folder,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Whatever the umask is.
        if made {
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))?;
        }
    }
    if made {
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o1777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_mount_point_that_the_image_lacks_is_open_to_all() {
        let image = tempfile::tempdir().unwrap();
        let mode = |path: &str| std::fs::metadata(image.path().join(path)).unwrap().mode() & 0o7777;
        std::fs::create_dir(image.path().join("own")).unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(image.path().join("own"), private).unwrap();
        std::fs::write(image.path().join("file"), "").unwrap();
        symlink("/own", image.path().join("link")).unwrap();
        symlink("/nowhere", image.path().join("dangling")).unwrap();

        let root = File::open(image.path()).unwrap();
        for target in ["/a/b", "/own", "/link/below", "/file/x", "/dangling"] {
            make_tmpfs_point(&root, Path::new(target)).unwrap();
        }
        assert_eq!((mode("a"), mode("a/b")), (0o755, 0o1777));
        assert_eq!((mode("own"), mode("own/below")), (0o700, 0o1777));
        assert!(!image.path().join("nowhere").exists());
    }

    #[test]
    fn a_mode_that_is_given_needs_no_mount_point() {
        let entries = ["/plain", "/given:mode=700"].map(|entry| tmpfs_entry(entry).unwrap());
        assert_eq!(tmpfs_points(&entries), [PathBuf::from("/plain")]);
    }
}
