//! A look into a root file system: mounted for one thread only, so that nothing is left whatever happens.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;

use super::RootMount;
use crate::sys;

/// The kernel takes one page of options, with its closing zero.
const DATA_LIMIT: usize = 4095;

/// Mounts a root file system for the time of `f`, which gets its root as an `O_PATH` descriptor and as a path. `f`
/// runs on a thread with a mount namespace of its own: what it opens stays usable, paths mean something there only.
/// Needs root.
pub fn with_rootfs<T: Send>(
    mounts: &[RootMount],
    f: impl FnOnce(&File, &Path) -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rootfs".into());
        let work = || {
            sys::unshare_mounts()?;
            let (root, path) = mount_all(mounts)?;
            f(&root, &path)
        };
        let handle = thread.spawn_scoped(scope, work)?;
        match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Mounts on a folder that the mount itself is made of: it is there, and nobody else sees it covered.
fn mount_all(mounts: &[RootMount]) -> io::Result<(File, PathBuf)> {
    let (first, rest) = mounts
        .split_first()
        .ok_or_else(|| invalid("the snapshot has no mounts"))?;
    let options = Options::parse(&first.options)?;
    let target = if options.flags.contains(MountFlags::BIND) {
        PathBuf::from(&first.source)
    } else {
        options
            .lower_dirs()
            .last()
            .map(PathBuf::from)
            .ok_or_else(|| invalid(format!("cannot mount a root of type `{}`", first.kind)))?
    };
    mount_one(first, &options, &target)?;
    restrict(&options, &target)?;
    let root = open_path(&target)?;
    for mount in rest {
        mount_below(&root, mount)?;
    }
    Ok((root, target))
}

/// Mounts at the mount's target below `root`, which must be there; no link leads out. For the threads of
/// [`with_rootfs`] only: elsewhere everybody would see it.
pub fn mount_below(root: &File, mount: &RootMount) -> io::Result<()> {
    let place = || -> io::Result<(OwnedFd, PathBuf)> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT;
        let found = rustix::fs::openat2(root, &mount.target, flags, Mode::empty(), resolve)?;
        let path = PathBuf::from(format!("/proc/thread-self/fd/{}", found.as_raw_fd()));
        Ok((found, path))
    };
    let options = Options::parse(&mount.options)?;
    let (_covered, path) = place()?;
    mount_one(mount, &options, &path)?;
    // The first descriptor is open on what is covered now.
    let (_mounted, path) = place()?;
    restrict(&options, &path)
}

fn mount_one(mount: &RootMount, options: &Options, target: &Path) -> io::Result<()> {
    if options.flags.contains(MountFlags::BIND) {
        let bind = options.flags & (MountFlags::BIND | MountFlags::REC);
        rustix::mount::mount(mount.source.as_str(), target, "", bind, None)?;
        return Ok(());
    }
    let data = options.short_data()?;
    rustix::mount::mount(
        mount.source.as_str(),
        target,
        mount.kind.as_str(),
        options.flags,
        data.as_deref(),
    )?;
    Ok(())
}

/// A bind mount takes its other flags only afterwards.
fn restrict(options: &Options, target: &Path) -> io::Result<()> {
    let rest = options.flags - (MountFlags::BIND | MountFlags::REC);
    if options.flags.contains(MountFlags::BIND) && !rest.is_empty() {
        rustix::mount::mount_remount(target, MountFlags::BIND | rest, "")?;
    }
    Ok(())
}

/// The same content for reading only. An overlay gets no upper folder: two mounts that write there would disturb each other.
pub fn read_only(mounts: &[RootMount]) -> Vec<RootMount> {
    let convert = |mount: &RootMount| {
        let mut mount = mount.clone();
        let upper = mount
            .options
            .iter()
            .find_map(|option| option.strip_prefix("upperdir=").map(str::to_owned));
        if let Some(upper) = upper {
            let writes = ["upperdir=", "workdir="];
            mount
                .options
                .retain(|option| !writes.iter().any(|prefix| option.starts_with(prefix)));
            for option in &mut mount.options {
                if let Some(lower) = option.strip_prefix("lowerdir=") {
                    *option = format!("lowerdir={upper}:{lower}");
                }
            }
        }
        mount.options.retain(|option| option != "rw");
        if !mount.options.iter().any(|option| option == "ro") {
            mount.options.push("ro".into());
        }
        mount
    };
    mounts.iter().map(convert).collect()
}

fn open_path(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, message.into())
}

/// Mount options, the kernel's flags apart from the file system's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    flags: MountFlags,
    data: Vec<String>,
}

impl Options {
    pub(super) fn parse(options: &[String]) -> io::Result<Self> {
        let mut flags = MountFlags::empty();
        let mut data = Vec::new();
        for option in options {
            match option.as_str() {
                "rw" | "defaults" => {}
                "ro" => flags |= MountFlags::RDONLY,
                "bind" => flags |= MountFlags::BIND,
                "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
                "nosuid" => flags |= MountFlags::NOSUID,
                "nodev" => flags |= MountFlags::NODEV,
                "noexec" => flags |= MountFlags::NOEXEC,
                "noatime" => flags |= MountFlags::NOATIME,
                "relatime" => flags |= MountFlags::RELATIME,
                "loop" => return Err(invalid("loop mounts are not supported")),
                _ => data.push(option.clone()),
            }
        }
        Ok(Self { flags, data })
    }

    /// Layers of an overlay, top first.
    pub(super) fn lower_dirs(&self) -> Vec<&str> {
        self.data
            .iter()
            .find_map(|option| option.strip_prefix("lowerdir="))
            .map(|list| list.split(':').collect())
            .unwrap_or_default()
    }

    /// The options as one string. Too many layers for one page are named from their common folder, which becomes the
    /// thread's working directory.
    fn short_data(&self) -> io::Result<Option<CString>> {
        if self.data.is_empty() {
            return Ok(None);
        }
        let mut data = self.data.join(",");
        if data.len() > DATA_LIMIT
            && let Some(folder) = common_folder(&self.lower_dirs())
        {
            // The working directory is this thread's own since it left the shared namespace.
            rustix::process::chdir(folder.as_str())?;
            data = data.replace(&format!("{folder}/"), "");
        }
        Ok(Some(CString::new(data)?))
    }
}

/// The longest folder that all `paths` are in.
fn common_folder(paths: &[&str]) -> Option<String> {
    let (first, rest) = paths.split_first()?;
    let mut folder = Path::new(first).parent()?;
    while !rest.iter().all(|path| Path::new(path).starts_with(folder)) {
        folder = folder.parent()?;
    }
    (folder != Path::new("/")).then(|| folder.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_are_told_from_options_of_the_file_system() {
        let options = Options::parse(&strings(&["ro", "index=off", "lowerdir=/a:/b"])).unwrap();
        assert_eq!(options.flags, MountFlags::RDONLY);
        assert_eq!(options.data, ["index=off", "lowerdir=/a:/b"]);
        assert_eq!(options.lower_dirs(), ["/a", "/b"]);
    }

    #[test]
    fn a_second_look_at_an_overlay_has_no_upper_folder() {
        let mount = |options: &[&str]| RootMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: strings(options),
        };
        let written = mount(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]);
        let expected = mount(&["index=off", "lowerdir=/u:/a:/b", "ro"]);
        assert_eq!(read_only(&[written]), [expected]);
        assert_eq!(
            read_only(&[mount(&["rbind", "rw"])]),
            [mount(&["rbind", "ro"])]
        );
    }

    #[test]
    fn a_loop_mount_is_refused() {
        assert!(Options::parse(&strings(&["loop"])).is_err());
    }

    #[test]
    fn layers_are_named_from_the_folder_that_they_share() {
        let folder = common_folder(&["/s/1/fs", "/s/22/fs", "/s/3/fs"]);
        assert_eq!(folder.as_deref(), Some("/s"));
        assert_eq!(common_folder(&["/a/fs", "/b/fs"]), None);
        assert_eq!(common_folder(&[]), None);
    }
}
