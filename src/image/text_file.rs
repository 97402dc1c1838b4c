//! A small file of an image, read from its layers.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::config::{digest_hex, digest_of};
use super::facts::{read_cache, write_cache};
use super::{Image, ImageError, Images};
use crate::engine::{EngineError, RootMount, unique, with_rootfs};
use crate::state::{StateRoot, Versioned};

/// Largest file that is read.
const SIZE_LIMIT: u64 = 1 << 20;
/// Ends a lease that a killed process has left.
const LEASE_TIME: Duration = Duration::from_mins(10);

/// The file beside the chain id of the image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct TextFile {
    path: String,
    content: Option<String>,
}

impl Versioned for TextFile {
    const FORMAT: u64 = 1;
}

/// What one layer says of a file.
enum Found {
    Content(Vec<u8>),
    /// It is hidden or is no file: lower layers do not matter.
    Gone,
    /// Nothing: ask the layer below.
    Nothing,
    /// Only the mounted whole can tell, as with links that may lead to another layer.
    Unclear,
}

impl Images {
    /// Content of a small text file of the image (`/etc/passwd`, `/etc/group`), links followed inside the image only;
    /// `None` if there is none. Cached on disk by chain id. The image must be unpacked.
    pub async fn text_file(&self, image: &Image, path: &str) -> Result<Option<String>, ImageError> {
        if image.chain_id.is_empty() {
            return Ok(None);
        }
        let cache = cache_path(&self.state, &image.chain_id, path);
        if let Some(known) = cache
            .as_ref()
            .and_then(|cache| read_cache::<TextFile>(cache))
            && known.path == path
        {
            return Ok(known.content);
        }
        let key = unique("compose-view");
        self.engine
            .create_lease(&key, &std::collections::BTreeMap::new(), LEASE_TIME)
            .await?;
        let bytes = self.read_from_view(image, path, &key).await;
        let removed = self.engine.remove_snapshot(&key).await;
        let released = self.engine.delete_lease(&key).await;
        let content = bytes?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        removed.and(released)?;
        if let Some(cache) = cache {
            let file = TextFile {
                path: path.into(),
                content: content.clone(),
            };
            write_cache(&cache, &file);
        }
        Ok(content)
    }

    async fn read_from_view(
        &self,
        image: &Image,
        path: &str,
        key: &str,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let mounts = self
            .engine
            .view_snapshot(key, &image.chain_id, Some(key))
            .await?;
        let wanted = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(&mounts, &wanted));
        let read = read.await.map_err(io::Error::from).flatten();
        Ok(read.map_err(|source| EngineError::Io {
            operation: format!("read `{path}` of image `{}`", image.reference),
            source,
        })?)
    }
}

fn cache_path(state: &StateRoot, chain_id: &str, path: &str) -> Option<PathBuf> {
    let digest = digest_of(path.as_bytes());
    let name = format!("{}.json", digest.trim_start_matches("sha256:"));
    let folder = state.images().join("files").join(digest_hex(chain_id)?);
    Some(folder.join(name))
}

/// Reads from the layers where they tell enough, else from the mounted whole.
fn read_file(mounts: &[RootMount], path: &str) -> io::Result<Option<Vec<u8>>> {
    if let [mount] = mounts
        && let Some(layers) = layer_folders(mount)
    {
        for layer in layers {
            match look(&layer, Path::new(path))? {
                Found::Content(bytes) => return Ok(Some(bytes)),
                Found::Gone => return Ok(None),
                Found::Nothing => {}
                Found::Unclear => return read_mounted(mounts, path),
            }
        }
        return Ok(None);
    }
    read_mounted(mounts, path)
}

/// The folders that a root file system is made of, top first; `None` for a kind that we do not know.
fn layer_folders(mount: &RootMount) -> Option<Vec<PathBuf>> {
    if mount.kind == "overlay" {
        let list = mount
            .options
            .iter()
            .find_map(|option| option.strip_prefix("lowerdir="))?;
        // A view has no writable layer; one with it is not for us.
        let writable = mount
            .options
            .iter()
            .any(|option| option.starts_with("upperdir="));
        return (!writable).then(|| list.split(':').map(PathBuf::from).collect());
    }
    let bound = |option: &String| option == "bind" || option == "rbind";
    let is_bind = mount.kind == "bind" || mount.options.iter().any(bound);
    is_bind.then(|| vec![PathBuf::from(&mount.source)])
}

/// Walks `path` inside one layer, following nothing.
fn look(layer: &Path, path: &Path) -> io::Result<Found> {
    let names: Vec<_> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Some(name)),
            Component::ParentDir => Some(None),
            _ => None,
        })
        .collect();
    let mut current: File = open_at(None, layer.as_os_str(), OFlags::DIRECTORY)?;
    let mut opaque = false;
    for (number, name) in names.iter().enumerate() {
        let Some(name) = name else {
            return Ok(Found::Unclear);
        };
        let next = match open_at(Some(&current), name, OFlags::NOFOLLOW) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(if opaque { Found::Gone } else { Found::Nothing });
            }
            Err(error) => return Err(error),
        };
        let data = rustix::fs::fstat(&next)?;
        let last = number + 1 == names.len();
        match FileType::from_raw_mode(data.st_mode) {
            FileType::Symlink => return Ok(Found::Unclear),
            FileType::Directory if !last => {
                if has_attribute(&next, "redirect")? {
                    return Ok(Found::Unclear);
                }
                opaque |= has_attribute(&next, "opaque")?;
            }
            FileType::RegularFile if last => {
                if has_attribute(&next, "metacopy")? || has_attribute(&next, "redirect")? {
                    return Ok(Found::Unclear);
                }
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&current, *name, flags, Mode::empty())?;
                return read_limited(file.into()).map(Found::Content);
            }
            // A whiteout, or something that is no file anyway.
            _ => return Ok(Found::Gone),
        }
        current = next;
    }
    Ok(Found::Gone)
}

/// Opens for looking only; `flags` are added.
fn open_at(folder: Option<&File>, name: &std::ffi::OsStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let opened = match folder {
        Some(folder) => rustix::fs::openat(folder, name, flags, Mode::empty()),
        None => rustix::fs::open(name, flags, Mode::empty()),
    };
    Ok(opened?.into())
}

/// Whether overlayfs has left its mark `name`, as root or in a user namespace.
fn has_attribute(file: &File, name: &str) -> io::Result<bool> {
    // A descriptor for looking only is no good for reading attributes.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for space in ["trusted", "user"] {
        let attribute = format!("{space}.overlay.{name}");
        match rustix::fs::getxattr(&path, attribute, &mut [0_u8; 256][..]) {
            Ok(_length) => return Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(Errno::RANGE) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn read_mounted(mounts: &[RootMount], path: &str) -> io::Result<Option<Vec<u8>>> {
    with_rootfs(mounts, |root, _path| {
        // A FIFO or a device must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file: File = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(file) => file.into(),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        read_limited(file).map(Some)
    })
}

fn read_limited(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file has more than {SIZE_LIMIT} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(layers: &[&Path]) -> Vec<RootMount> {
        let list: Vec<_> = layers
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        vec![RootMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["index=off".into(), format!("lowerdir={}", list.join(":"))],
        }]
    }

    #[test]
    fn the_topmost_layer_that_has_the_file_wins() {
        let folder = tempfile::tempdir().unwrap();
        let (top, bottom) = (folder.path().join("top"), folder.path().join("bottom"));
        std::fs::create_dir_all(top.join("etc")).unwrap();
        std::fs::create_dir_all(bottom.join("etc")).unwrap();
        std::fs::write(top.join("etc/passwd"), "top").unwrap();
        std::fs::write(bottom.join("etc/passwd"), "bottom").unwrap();
        std::fs::write(bottom.join("etc/group"), "group").unwrap();
        let mounts = view(&[&top, &bottom]);
        let read = |path| read_file(&mounts, path).unwrap();
        assert_eq!(read("/etc/passwd").as_deref(), Some(&b"top"[..]));
        assert_eq!(read("etc/group").as_deref(), Some(&b"group"[..]));
        assert_eq!(read("/etc/shadow"), None);
        assert_eq!(read("/etc/passwd/x"), None);
        assert_eq!(read("/etc"), None);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let size = usize::try_from(SIZE_LIMIT).unwrap() + 1;
        std::fs::write(folder.path().join("big"), vec![b'x'; size]).unwrap();
        assert!(read_file(&view(&[folder.path()]), "/big").is_err());
    }

    #[test]
    fn a_link_is_never_followed_in_a_layer() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let found = look(folder.path(), Path::new("/link")).unwrap();
        assert!(matches!(found, Found::Unclear));
        let found = look(folder.path(), Path::new("/../x")).unwrap();
        assert!(matches!(found, Found::Unclear));
    }
}
