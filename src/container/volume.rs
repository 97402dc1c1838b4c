//! Named and anonymous volumes: `volumes/<name>/_data` with the record in `volumes/<name>/volume.json`.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::ToSocketAddrs as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::copy::copy_tree;
use super::nerdctl::Nerdctl;
use super::provision::Provision;
use super::{ContainerError, Containers, VolumeRecord};
use crate::engine::ContainerRecord;
use crate::state::{StateRoot, create_private_dir, read_json, write_json};

/// Lies in a volume's folder while the image's content is being copied into it.
const COPYING: &str = "copying";

impl Containers {
    /// Every volume, by name.
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, ContainerError> {
        let folder = self.state.volumes();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(ContainerError::io(format!("read {}", folder.display()))(
                    error,
                ));
            }
        };
        let mut records = Vec::new();
        for entry in entries.flatten() {
            records.extend(read_json::<VolumeRecord>(
                &entry.path().join("volume.json"),
            )?);
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Makes the volume if it is missing. Two at once make one.
    pub async fn create_volume(&self, record: &VolumeRecord) -> Result<(), ContainerError> {
        let (state, record) = (self.state.clone(), record.clone());
        super::blocking(move || create(&state, &record)).await
    }

    /// Removes a volume with its content. Not an error if it is gone; [`ContainerError::VolumeInUse`] if a container
    /// has it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), ContainerError> {
        check_name(name)?;
        let users = users(&self.engine.containers(&[]).await?, name);
        if !users.is_empty() {
            return Err(ContainerError::VolumeInUse {
                volume: name.into(),
                users,
            });
        }
        Nerdctl::new(self.engine.options()).hide_volume(name);
        let (state, name) = (self.state.clone(), name.to_owned());
        super::blocking(move || remove(&state, &name)).await
    }
}

/// Names of the containers that mount the volume.
pub(super) fn users(records: &[ContainerRecord], name: &str) -> Vec<String> {
    let uses = |record: &&ContainerRecord| {
        let provision = Provision::of(record).ok().flatten().unwrap_or_default();
        provision
            .mounts
            .iter()
            .any(|mount| mount.name.as_deref() == Some(name))
    };
    let label = |record: &ContainerRecord| {
        record
            .labels
            .get(super::label::NAME)
            .unwrap_or(&record.id)
            .clone()
    };
    records.iter().filter(uses).map(label).collect()
}

/// The record of a volume; `None` if there is no such volume.
pub(super) fn find(state: &StateRoot, name: &str) -> Result<Option<VolumeRecord>, ContainerError> {
    check_name(name)?;
    Ok(read_json(&state.volume(name).join("volume.json"))?)
}

/// A name is a folder's, so it must not lead out of the volumes' folder.
fn check_name(name: &str) -> Result<(), ContainerError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known) {
        return Ok(());
    }
    Err(ContainerError::invalid(
        "volumes",
        name,
        "a name begins with a letter or digit and goes on with those, `_`, `.` and `-`",
    ))
}

pub(super) fn create(state: &StateRoot, record: &VolumeRecord) -> Result<(), ContainerError> {
    check_name(&record.name)?;
    if !matches!(record.driver.as_str(), "" | "local") {
        return Err(ContainerError::invalid(
            "volumes.driver",
            &record.driver,
            "only `local` is supported",
        ));
    }
    // Refused now and not at the first start.
    Kind::of(state, record)?;
    let _lock = lock(state)?;
    let folder = state.volume(&record.name);
    let file = folder.join("volume.json");
    if read_json::<VolumeRecord>(&file)?.is_some() {
        return Ok(());
    }
    create_private_dir(&folder)?;
    let data = state.volume_data(&record.name);
    make_folder(&data, 0o755).map_err(ContainerError::writing(&data))?;
    Ok(write_json(&file, record)?)
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // The process may have a tighter umask.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn remove(state: &StateRoot, name: &str) -> Result<(), ContainerError> {
    check_name(name)?;
    let folder = state.volume(name);
    let _lock = lock(state)?;
    let data = state.volume_data(name);
    unmount(&data).map_err(ContainerError::io(format!("unmount {}", data.display())))?;
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContainerError::io(format!(
            "remove {}",
            folder.display()
        ))(error)),
        _ => Ok(()),
    }
}

/// Held while a volume is made or removed.
fn lock(state: &StateRoot) -> Result<File, ContainerError> {
    let folder = state.volumes();
    create_private_dir(&folder)?;
    lock_folder(&folder)
}

/// Held while the file system of a volume is mounted or unmounted. A server that does not answer holds up no other volume.
fn lock_mount(state: &StateRoot, name: &str) -> Result<File, ContainerError> {
    lock_folder(&state.volume(name))
}

fn lock_folder(folder: &Path) -> Result<File, ContainerError> {
    let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    lock.map_err(ContainerError::io(format!("lock {}", folder.display())))
}

/// Where the content of a volume is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the volume's own folder.
    Plain,
    /// In a folder of the host (`o: bind`).
    Bind(PathBuf),
    /// In a file system that has to be mounted on the volume's own folder.
    Mount {
        kind: String,
        device: String,
        options: String,
    },
}

impl Kind {
    /// Reads `driver_opts` as Docker's `local` driver does.
    pub(super) fn of(_state: &StateRoot, record: &VolumeRecord) -> Result<Self, ContainerError> {
        let invalid = |name: &str, value: &str, reason: &str| {
            Err(ContainerError::invalid(
                format!("volumes.driver_opts.{name}"),
                value,
                reason,
            ))
        };
        let option = |name: &str| {
            record
                .driver_opts
                .get(name)
                .map(String::as_str)
                .unwrap_or_default()
        };
        for name in record.driver_opts.keys() {
            if !["type", "o", "device"].contains(&name.as_str()) {
                return invalid(
                    name,
                    option(name),
                    "the options are `type`, `o` and `device`",
                );
            }
        }
        let (kind, device, options) = (option("type"), option("device"), option("o"));
        if record.driver_opts.is_empty() {
            return Ok(Self::Plain);
        }
        if device.is_empty() {
            return invalid("device", "", "it is needed beside the others");
        }
        if options
            .split(',')
            .any(|option| option == "bind" || option == "rbind")
        {
            if !device.starts_with('/') {
                return invalid("device", device, "it must be an absolute path");
            }
            return Ok(Self::Bind(device.into()));
        }
        if kind.is_empty() {
            return invalid("type", "", "it is needed beside `device`");
        }
        Ok(Self::Mount {
            kind: kind.into(),
            device: device.into(),
            options: options.into(),
        })
    }
}

/// The record of a volume whose content has to be mounted first; `None` for others, and if there is no such volume.
pub(super) fn file_system(
    state: &StateRoot,
    name: &str,
) -> Result<Option<VolumeRecord>, ContainerError> {
    let Some(record) = find(state, name)? else {
        return Ok(None);
    };
    let is_mounted = matches!(Kind::of(state, &record)?, Kind::Mount { .. });
    Ok(is_mounted.then_some(record))
}

/// Path of the content, mounted where it has to be. Blocks as long as a server takes.
pub(super) fn provide(state: &StateRoot, record: &VolumeRecord) -> Result<PathBuf, ContainerError> {
    let data = state.volume_data(&record.name);
    match Kind::of(state, record)? {
        Kind::Plain => Ok(data),
        Kind::Bind(path) if path.exists() => Ok(path),
        Kind::Bind(path) => Err(ContainerError::MissingSource { path }),
        Kind::Mount {
            kind,
            device,
            options,
        } => {
            let _lock = lock_mount(state, &record.name)?;
            let failed = |error| {
                ContainerError::io(format!("mount {device} for volume `{}`", record.name))(error)
            };
            if !is_mounted(&data).map_err(failed)? {
                mount(&data, &kind, &device, &options).map_err(failed)?;
            }
            Ok(data)
        }
    }
}

/// Unmounts the volume's own file system unless one of `records` still has it.
pub(super) fn release(
    state: &StateRoot,
    name: &str,
    records: &[ContainerRecord],
) -> Result<(), ContainerError> {
    if file_system(state, name)?.is_none() || !users(records, name).is_empty() {
        return Ok(());
    }
    let _lock = lock_mount(state, name)?;
    let data = state.volume_data(name);
    unmount(&data).map_err(ContainerError::io(format!("unmount {}", data.display())))
}

/// Whether another file system begins at `path`.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    let own = std::fs::symlink_metadata(path)?;
    let parent = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    Ok(own.dev() != parent.dev())
}

/// Unmounts what is mounted on `path`; not an error if nothing is.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    match is_mounted(path) {
        Ok(true) => Ok(rustix::mount::unmount(
            path,
            UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        )?),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn mount(target: &Path, kind: &str, device: &str, options: &str) -> io::Result<()> {
    let (flags, data) = arguments(options)?;
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(device, target, kind, flags, data.as_c_str())?;
    Ok(())
}

/// What the kernel is told of `o`: flags, and the options of the file system.
fn arguments(options: &str) -> io::Result<(MountFlags, String)> {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" | "defaults" | "suid" | "dev" | "exec" | "async" | "atime" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            _ => data.push(with_address(option)?),
        }
    }
    Ok((flags, data.join(",")))
}

/// Whether `driver_opts` let nobody write to the volume.
pub(super) fn is_read_only(record: &VolumeRecord) -> bool {
    let options = record.driver_opts.get("o");
    options.is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

/// The kernel wants the server of a network file system as an address.
fn with_address(option: &str) -> io::Result<String> {
    let Some(server) = option.strip_prefix("addr=") else {
        return Ok(option.into());
    };
    if server.parse::<std::net::IpAddr>().is_ok() {
        return Ok(option.into());
    }
    let mut found = (server, 0).to_socket_addrs()?;
    let address = found
        .next()
        .ok_or_else(|| io::Error::other(format!("`{server}` has no address")))?;
    Ok(format!("addr={}", address.ip()))
}

/// Copies what the image has at `target` into an empty volume, once: a second container waits and finds it filled.
/// Nothing happens if the image has no folder there.
pub(super) fn fill(folder: &Path, data: &Path, root: &File, target: &Path) -> io::Result<()> {
    let lock = File::open(folder)?;
    lock.lock()?;
    let marker = folder.join(COPYING);
    if !marker.exists() && !is_empty(data)? {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source =
        match rustix::fs::openat2(root, target, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(source) => source,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    File::create(&marker)?;
    copy_tree(&source, File::open(data)?)?;
    std::fs::remove_file(&marker)
}

/// Whether the image's content may still have to be copied.
pub(super) fn wants_filling(folder: &Path, data: &Path) -> bool {
    folder.join(COPYING).exists() || is_empty(data).unwrap_or(false)
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    let mut entries = std::fs::read_dir(folder)?;
    // A fresh ext4 has this folder; it is no content.
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, options: &[(&str, &str)]) -> VolumeRecord {
        let options = options.iter();
        VolumeRecord {
            name: name.into(),
            driver_opts: options
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            ..VolumeRecord::default()
        }
    }

    #[test]
    fn a_volume_is_made_once_and_its_folder_is_open_to_all() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let mut first = record("shop_data", &[]);
        first.labels.insert("a".into(), "1".into());
        create(&state, &first).unwrap();
        std::fs::write(state.volume_data("shop_data").join("f"), "x").unwrap();
        create(&state, &record("shop_data", &[])).unwrap();
        assert_eq!(find(&state, "shop_data").unwrap(), Some(first));
        let data = state.volume_data("shop_data");
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o755);
        assert_eq!(
            std::fs::metadata(state.volume("shop_data")).unwrap().mode() & 0o777,
            0o700
        );
        remove(&state, "shop_data").unwrap();
        remove(&state, "shop_data").unwrap();
        assert!(!state.volume("shop_data").exists());
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        for name in ["", "..", "../x", "a/b", ".a", "a b"] {
            assert!(create(&state, &record(name, &[])).is_err(), "{name}");
            assert!(remove(&state, name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_network_file_system_is_mounted_with_the_address_of_its_server() {
        let nfs = "addr=localhost,ro,nolock,soft,nfsvers=4,noatime,hard";
        let (flags, data) = arguments(nfs).unwrap();
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOATIME);
        let address = data.split(',').next().unwrap();
        assert!(["addr=127.0.0.1", "addr=::1"].contains(&address), "{data}");
        assert!(data.ends_with(",nolock,soft,nfsvers=4,hard"), "{data}");
        assert_eq!(
            arguments("addr=192.0.2.9").unwrap(),
            (MountFlags::empty(), "addr=192.0.2.9".into())
        );
        assert!(is_read_only(&record("v", &[("o", "bind,ro")])));
        assert!(!is_read_only(&record("v", &[("o", "bind")])));
    }

    #[test]
    fn options_of_the_local_driver_are_read() {
        let state = StateRoot::new(None);
        let kind = |options: &[(&str, &str)]| Kind::of(&state, &record("v", options));
        assert_eq!(kind(&[]).unwrap(), Kind::Plain);
        assert_eq!(
            kind(&[("type", "none"), ("o", "bind"), ("device", "/srv")]).unwrap(),
            Kind::Bind("/srv".into())
        );
        assert!(matches!(
            kind(&[("type", "nfs"), ("o", "addr=1.2.3.4,rw"), ("device", ":/x")]).unwrap(),
            Kind::Mount { .. }
        ));
        assert!(kind(&[("type", "nfs")]).is_err());
        assert!(kind(&[("device", "/srv")]).is_err());
        assert!(kind(&[("size", "1")]).is_err());
        assert!(kind(&[("o", "bind"), ("device", "srv")]).is_err());
        let mut foreign = record("v", &[]);
        foreign.driver = "rexray".into();
        assert!(create(&state, &foreign).is_err());
    }

    #[test]
    fn an_address_stays_and_a_name_is_resolved() {
        assert_eq!(with_address("addr=10.0.0.1").unwrap(), "addr=10.0.0.1");
        assert_eq!(with_address("vers=4").unwrap(), "vers=4");
        assert!(
            ["addr=127.0.0.1", "addr=::1"]
                .contains(&with_address("addr=localhost").unwrap().as_str())
        );
    }

    #[test]
    fn an_empty_volume_takes_the_images_content_once() {
        let root = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(image.path().join("srv/data")).unwrap();
        std::fs::write(image.path().join("srv/data/f"), "image").unwrap();
        std::os::unix::fs::symlink("/srv", image.path().join("link")).unwrap();
        let state = StateRoot::new(Some(root.path()));
        create(&state, &record("v", &[])).unwrap();
        let folder = state.volume("v");
        let data = folder.join("_data");
        let image = File::open(image.path()).unwrap();
        assert!(wants_filling(&folder, &data));
        // The absolute link must be followed inside the image.
        fill(&folder, &data, &image, Path::new("/link/data")).unwrap();
        assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "image");
        assert!(!wants_filling(&folder, &data));
        std::fs::write(data.join("f"), "mine").unwrap();
        fill(&folder, &data, &image, Path::new("/link/data")).unwrap();
        assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "mine");
        File::create(folder.join(COPYING)).unwrap();
        fill(&folder, &data, &image, Path::new("/srv/data")).unwrap();
        assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "image");
        std::fs::remove_file(data.join("f")).unwrap();
        fill(&folder, &data, &image, Path::new("/nothing/here")).unwrap();
        assert!(wants_filling(&folder, &data));
    }

    #[test]
    fn a_file_system_of_its_own_is_mounted_once_and_released() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let record = record(
            "v",
            &[
                ("type", "tmpfs"),
                ("device", "tmpfs"),
                ("o", "size=1m,nosuid"),
            ],
        );
        create(&state, &record).unwrap();
        let data = provide(&state, &record).unwrap();
        std::fs::write(data.join("f"), "x").unwrap();
        provide(&state, &record).unwrap();
        assert!(
            data.join("f").exists(),
            "the second call mounted over the first"
        );
        release(&state, "v", &[]).unwrap();
        assert!(!is_mounted(&data).unwrap());
        remove(&state, "v").unwrap();
    }
}
