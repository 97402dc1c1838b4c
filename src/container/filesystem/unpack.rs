//! A tar archive into a tree of files.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::FileSystem;
use super::folder::{Attributes, Folder, travels};
use super::pack::EXTENDED;

/// How an archive is extracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// User and group that everything belongs to; `None`: as the archive says.
    pub owner: Option<(u32, u32)>,
    /// Whoever made the files has no rights here: set-id bits, capabilities and devices are left out.
    pub untrusted: bool,
}

/// What became of an archive.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Names of devices that were left out.
    pub left_out: Vec<PathBuf>,
}

/// Extracts a tar archive below the folder `path`. Names that would lead out of it are refused, and no link below it is
/// followed, neither one that was there nor one of the archive. Existing files and links are replaced; a folder by
/// something else, or the reverse, is an error.
pub fn unpack(
    files: &FileSystem,
    path: &Path,
    options: UnpackOptions,
    input: &mut dyn Read,
) -> io::Result<Unpacked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut unpack = Unpack {
        top: files.open_with(path, flags)?,
        options,
        folders: Vec::new(),
        unpacked: Unpacked::default(),
    };
    let mut archive = Archive::new(input);
    for entry in archive.entries()? {
        unpack.entry(entry?)?;
    }
    // Inner folders first: filling a folder changes its times, and its mode may forbid it.
    for (path, attributes) in unpack.folders.iter().rev() {
        unpack.open(path)?.set_attributes(attributes)?;
    }
    Ok(unpack.unpacked)
}

struct Unpack {
    top: OwnedFd,
    options: UnpackOptions,
    /// Folders that were made, with what they are given in the end.
    folders: Vec<(PathBuf, Attributes)>,
    unpacked: Unpacked,
}

impl Unpack {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> io::Result<()> {
        let path = inner_path(&entry.path_bytes())?;
        let attributes = self.attributes(&mut entry)?;
        let kind = entry.header().entry_type();
        let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new("")))
        else {
            // The top itself, which is there.
            return Ok(());
        };
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let parent = self.parent(parent)?;
        match kind {
            EntryType::Directory => {
                let passable = Attributes {
                    owner: attributes.owner,
                    ..Attributes::folder(0o700)
                };
                parent.make_folder(name, &passable)?;
                self.folders.push((path, attributes));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                parent.put_file(name, &mut entry, &attributes)
            }
            EntryType::Symlink => {
                let target = link_target(&entry)?;
                parent.put_link(name, &target, &attributes)
            }
            EntryType::Link => {
                let target = inner_path(link_target(&entry)?.as_os_str().as_bytes())?;
                let Some(target_name) = target.file_name() else {
                    return Err(refused(&target, "is no file that could be linked"));
                };
                let folder = self.open(target.parent().unwrap_or(Path::new("")))?;
                parent.put_hard_link(name, &folder, target_name)
            }
            EntryType::Fifo => parent.put_node(name, FileType::Fifo, 0, &attributes),
            EntryType::Char | EntryType::Block => self.device(&entry, &parent, &path, &attributes),
            _ => Err(refused(&path, "is of an unknown kind")),
        }
    }

    fn device<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        parent: &Folder,
        path: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if self.options.untrusted {
            self.unpacked.left_out.push(path.to_owned());
            return Ok(());
        }
        let header = entry.header();
        let number = |number: Option<u32>| number.unwrap_or(0);
        let device = rustix::fs::makedev(
            number(header.device_major()?),
            number(header.device_minor()?),
        );
        let kind = if header.entry_type() == EntryType::Char {
            FileType::CharacterDevice
        } else {
            FileType::BlockDevice
        };
        let name = path.file_name().unwrap_or_default();
        parent.put_node(name, kind, device, attributes)
    }

    /// The folder that an entry goes into, made if the archive does not say how.
    fn parent(&mut self, path: &Path) -> io::Result<Folder> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut made = PathBuf::new();
        for component in path.components() {
            let folder = self.open(&made)?;
            let attributes = Attributes {
                owner: self.options.owner,
                ..Attributes::folder(0o755)
            };
            folder.make_folder(component.as_os_str(), &attributes)?;
            made.push(component);
        }
        self.open(path)
    }

    /// Opens a folder below the top; a link on the way is refused.
    fn open(&self, path: &Path) -> io::Result<Folder> {
        Folder::below(&self.top, path).map_err(|error| {
            if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
                refused(path, "leads through a symbolic link")
            } else {
                error
            }
        })
    }

    fn attributes<R: Read>(&self, entry: &mut Entry<'_, R>) -> io::Result<Attributes> {
        let mut extended = Vec::new();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let Some(name) = record.key_bytes().strip_prefix(EXTENDED.as_bytes()) else {
                continue;
            };
            if name.starts_with(b"user.") || (travels(name) && !self.options.untrusted) {
                extended.push((name.to_vec(), record.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        let mode = header.mode()? & 0o7777;
        let id = |id: u64| {
            u32::try_from(id).map_err(|_| io::Error::other("the archive has an impossible owner"))
        };
        let owner = match self.options.owner {
            Some(owner) => owner,
            None => (id(header.uid()?)?, id(header.gid()?)?),
        };
        let mode = if self.options.untrusted {
            mode & 0o1777
        } else {
            mode
        };
        Ok(Attributes {
            mode,
            owner: Some(owner),
            modified: i64::try_from(header.mtime()?)
                .ok()
                .map(|seconds| (seconds, 0)),
            extended,
        })
    }
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let target = entry.link_name_bytes();
    let target = target.ok_or_else(|| io::Error::other("a link of the archive leads nowhere"))?;
    Ok(Path::new(OsStr::from_bytes(&target)).to_owned())
}

/// A name of an archive as a path below the top.
fn inner_path(name: &[u8]) -> io::Result<PathBuf> {
    let written = Path::new(OsStr::from_bytes(name));
    let mut path = PathBuf::new();
    for component in written.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Err(refused(written, "leads out of the destination")),
        }
    }
    Ok(path)
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("`{}` of the archive {why}", path.display()),
    )
}
