//! A tree of files as a tar archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::folder::{self, Folder};
use super::{FileSystem, open_regular};

/// Prefix of the names of extended attributes in an archive.
pub(super) const EXTENDED: &str = "SCHILY.xattr.";

/// A file with fewer bytes of holes is stored whole.
const HOLES: u64 = 1 << 20;

/// More of a file of `/proc` or the like is not read.
const KERNEL_FILE: u64 = 16 << 20;

/// File systems whose files are no files: those of proc, sysfs, cgroups (both), devpts, mqueue, securityfs, debugfs, tracefs
/// and bpf.
const KERNEL: [u64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x7363_6673,
    0x6462_6720,
    0x7472_6163,
    0xcafe_4a11,
];

/// Writes what is at `path` to `output` as a tar archive; it is called `name` there, the names below it begin with that.
/// With `name` `.`, what is in a folder stands at the top. Links are not followed, not even at `path` itself. Sockets are left
/// out, and folders of the kernel's own file systems (`/proc`, `/sys` …) stay empty.
pub fn pack(
    files: &FileSystem,
    path: &Path,
    name: &Path,
    output: &mut dyn Write,
) -> io::Result<()> {
    let top = files.open_path(path, false)?;
    let mut pack = Pack {
        // The parts of a large file are written one by one.
        builder: Builder::new(io::BufWriter::with_capacity(64 << 10, output)),
        top: &top,
        links: HashMap::new(),
    };
    pack.entry(&top, Path::new(""), name)?;
    pack.builder.into_inner()?.flush()
}

struct Pack<'a, W: Write> {
    builder: Builder<W>,
    top: &'a OwnedFd,
    /// Where a file with several names was stored first, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Pack<'_, W> {
    /// Stores what `found` names. `inside`: its path below the top.
    fn entry(&mut self, found: &OwnedFd, inside: &Path, name: &Path) -> io::Result<()> {
        let data = File::from(found.try_clone()?).metadata()?;
        let kind = data.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata(&data);
        if !kind.is_dir() && data.nlink() > 1 {
            let key = (data.dev(), data.ino());
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        self.extended(found)?;
        if kind.is_dir() {
            // Only a folder's name ends in a slash.
            let slashed = name.join("");
            header.set_size(0);
            self.builder
                .append_data(&mut header, slashed, io::empty())?;
            return if is_of_the_kernel(found)? {
                Ok(())
            } else {
                self.folder(inside, name)
            };
        }
        if kind.is_symlink() {
            header.set_size(0);
            let target = rustix::fs::readlinkat(found, "", Vec::new())?;
            let target = OsStr::from_bytes(target.as_bytes());
            return self.builder.append_link(&mut header, name, target);
        }
        if kind.is_file() {
            return self.file(found, &data, &mut header, name);
        }
        header.set_size(0);
        header.set_device_major(rustix::fs::major(data.rdev()))?;
        header.set_device_minor(rustix::fs::minor(data.rdev()))?;
        self.builder.append_data(&mut header, name, io::empty())
    }

    fn folder(&mut self, inside: &Path, name: &Path) -> io::Result<()> {
        // Opened by its path each time: a deep tree must not need a descriptor for each level.
        let names = Folder::below(self.top, inside)?.names()?;
        for entry in names {
            let path = inside.join(&entry);
            let found = match Folder::below(self.top, inside)?.entry(&entry) {
                Ok(found) => found,
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.entry(&found, &path, &name.join(&entry))?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        found: &OwnedFd,
        data: &Metadata,
        header: &mut Header,
        name: &Path,
    ) -> io::Result<()> {
        let mut file = open_regular(found)?;
        if data.len() == 0 && is_of_the_kernel(found)? {
            // Its length is known only after it was read.
            let mut content = Vec::new();
            file.take(KERNEL_FILE).read_to_end(&mut content)?;
            header.set_size(content.len() as u64);
            return self.builder.append_data(header, name, content.as_slice());
        }
        if data.blocks() * 512 + HOLES < data.len() {
            self.builder.append_file(name, &mut file)?;
            return if file.metadata()?.len() < data.len() {
                Err(io::Error::other(format!(
                    "{} became shorter while it was read",
                    name.display()
                )))
            } else {
                Ok(())
            };
        }
        // Exactly as long as the header says, even if somebody writes to it just now.
        let content = file.take(data.len()).chain(io::repeat(0)).take(data.len());
        self.builder.append_data(header, name, content)
    }

    fn extended(&mut self, found: &OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(found)?;
        let list = folder::extended(found, &stat)?;
        let records: Vec<(String, &[u8])> = list
            .iter()
            .filter_map(|(name, value)| {
                let name = std::str::from_utf8(name).ok()?;
                Some((format!("{EXTENDED}{name}"), value.as_slice()))
            })
            .collect();
        self.builder
            .append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))
    }
}

fn is_of_the_kernel(found: &OwnedFd) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(found)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| KERNEL.contains(&kind)))
}
