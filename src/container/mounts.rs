//! The mounts of a container: what the service, its image and other containers bring, as records and as parts of the
//! spec.

mod tmpfs;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::Value;

use super::provision::{MountRecord, Provision};
use super::{ContainerError, Creation, Desired, VolumeRecord, label, volume};
use crate::engine::ContainerRecord;
use crate::engine::spec::{Host, SpecMount, bind_options};
use crate::model::{Mount, MountKind, Volume};
use crate::random::random_hex;
use crate::state::StateRoot;

pub(super) use self::tmpfs::{make_tmpfs_point, tmpfs_points};
use self::tmpfs::{tmpfs, tmpfs_entry};

/// What a container mounts.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) records: Vec<MountRecord>,
    /// Volumes that may take the image's content, by mount.
    pub(super) fills: Vec<Fill>,
    /// Anonymous volumes by target.
    pub(super) anonymous: BTreeMap<String, String>,
    /// Volumes that were made just now and that nobody else can have.
    pub(super) made: Vec<String>,
}

/// A volume to fill from the image.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pub(super) folder: PathBuf,
    pub(super) data: PathBuf,
    pub(super) target: PathBuf,
}

/// Plans the mounts and makes the volumes and host folders that are missing. What was made is in `planned` even after a
/// failure.
pub(super) fn plan(
    state: &StateRoot,
    creation: &Creation<'_>,
    planned: &mut Planned,
) -> Result<(), ContainerError> {
    let mut mounts = Mounts {
        state,
        creation,
        planned,
        records: Vec::new(),
        fills: Vec::new(),
    };
    let service = creation.service;
    let mut own: Vec<PathBuf> = Vec::new();
    for mount in &service.volumes {
        own.push(clean_target("volumes", &mount.target)?);
    }
    for entry in &service.tmpfs {
        own.push(tmpfs_entry(entry)?.destination);
    }
    let mut taken = own.clone();
    for entry in &service.volumes_from {
        let record = donor(entry, creation.volumes_from).ok_or_else(|| {
            ContainerError::invalid("volumes_from", entry, "there is no such container")
        })?;
        for mount in inherited_mounts(entry, record)? {
            if !own.contains(&mount.destination) {
                taken.push(mount.destination.clone());
                mounts
                    .records
                    .retain(|known| known.destination != mount.destination);
                mounts.records.push(mount);
            }
        }
    }
    for target in &creation.image.config.volumes {
        let target = clean_target("volumes", target)?;
        if !taken.contains(&target) {
            mounts.anonymous(&Mount::default(), target)?;
        }
    }
    for mount in &service.volumes {
        mounts.add(mount)?;
    }
    for entry in &service.tmpfs {
        mounts.records.push(tmpfs_entry(entry)?);
    }
    let Mounts { records, fills, .. } = mounts;
    planned.records = records;
    planned.fills = fills;
    Ok(())
}

/// Volumes of the service that have to be mounted first, and that exist.
pub(super) fn file_systems(
    state: &StateRoot,
    creation: &Creation<'_>,
) -> Result<Vec<VolumeRecord>, ContainerError> {
    let mut found = Vec::new();
    for mount in &creation.service.volumes {
        let key = mount.source.as_deref().unwrap_or_default();
        if mount.kind != MountKind::Volume || key.is_empty() {
            continue;
        }
        let volume = creation.project.volumes.get(key);
        let name = volume.map_or(key, |volume| volume.name.as_str());
        found.extend(volume::file_system(state, name)?);
    }
    Ok(found)
}

struct Mounts<'a> {
    state: &'a StateRoot,
    creation: &'a Creation<'a>,
    planned: &'a mut Planned,
    records: Vec<MountRecord>,
    fills: Vec<Fill>,
}

impl Mounts<'_> {
    fn add(&mut self, mount: &Mount) -> Result<(), ContainerError> {
        let target = clean_target("volumes", &mount.target)?;
        match mount.kind {
            MountKind::Bind => self.records.push(bind(self.creation, mount, target)?),
            MountKind::Tmpfs => self.records.push(tmpfs(mount, target)?),
            MountKind::Volume => {
                match mount.source.as_deref().filter(|source| !source.is_empty()) {
                    Some(key) => self.named(mount, key, target)?,
                    None => self.anonymous(mount, target)?,
                }
            }
            MountKind::Image => self.records.push(image(self.creation, mount, target)?),
            MountKind::Npipe | MountKind::Cluster => {
                return Err(ContainerError::invalid(
                    "volumes.type",
                    format!("{:?}", mount.kind).to_lowercase(),
                    "only `bind`, `volume`, `tmpfs` and `image` can be mounted",
                ));
            }
        }
        Ok(())
    }

    fn named(&mut self, mount: &Mount, key: &str, target: PathBuf) -> Result<(), ContainerError> {
        // What a command adds (`run --volume NAME:PATH`) is no key of the file but a name on the host.
        let unlisted = Volume {
            name: key.into(),
            ..Volume::default()
        };
        let volume = self.creation.project.volumes.get(key).unwrap_or(&unlisted);
        let record = if let Some(record) = volume::find(self.state, &volume.name)? {
            record
        } else if volume.external {
            return Err(ContainerError::MissingVolume {
                volume: volume.name.clone(),
            });
        } else {
            let mut labels: BTreeMap<String, String> = volume.labels.clone().into_iter().collect();
            labels.insert(label::PROJECT.into(), self.creation.project.name.clone());
            labels.insert(label::VOLUME.into(), key.into());
            let definition = self.creation.desired.volumes.get(&volume.name);
            let record = VolumeRecord {
                name: volume.name.clone(),
                driver: volume.driver.clone().unwrap_or_else(|| "local".into()),
                driver_opts: volume.driver_opts.clone().into_iter().collect(),
                labels,
                anonymous: false,
                definition: definition.cloned().unwrap_or_default(),
                created_at: jiff::Timestamp::now(),
            };
            volume::create(self.state, &record)?;
            record
        };
        self.volume(mount, &record, target)
    }

    /// An anonymous volume: the one that the replaced container had at this target, else a new one.
    fn anonymous(&mut self, mount: &Mount, target: PathBuf) -> Result<(), ContainerError> {
        let key = target.to_string_lossy().into_owned();
        let inherited = match self
            .creation
            .inherits
            .map(Desired::of)
            .transpose()?
            .flatten()
        {
            Some(old) => old.anonymous_volumes.get(&key).cloned(),
            None => None,
        };
        let wanted =
            inherited.or_else(|| self.creation.desired.anonymous_volumes.get(&key).cloned());
        let (name, known) = match wanted {
            Some(name) => (name, true),
            None => (random_hex(32), false),
        };
        let record = if let Some(record) = volume::find(self.state, &name)? {
            record
        } else {
            let options = mount.volume.as_ref();
            let labels = options
                .map(|options| options.labels.clone())
                .unwrap_or_default();
            let mut labels: BTreeMap<String, String> = labels.into_iter().collect();
            labels.insert(label::PROJECT.into(), self.creation.project.name.clone());
            labels.insert(label::SERVICE.into(), self.creation.service.name.clone());
            let record = VolumeRecord {
                name: name.clone(),
                driver: "local".into(),
                labels,
                anonymous: true,
                created_at: jiff::Timestamp::now(),
                ..VolumeRecord::default()
            };
            volume::create(self.state, &record)?;
            if !known {
                self.planned.made.push(name.clone());
            }
            record
        };
        self.planned.anonymous.insert(key, name);
        self.volume(mount, &record, target)
    }

    fn volume(
        &mut self,
        mount: &Mount,
        record: &VolumeRecord,
        target: PathBuf,
    ) -> Result<(), ContainerError> {
        let data = volume::provide(self.state, record)?;
        let folder = self.state.volume(&record.name);
        let options = mount.volume.clone().unwrap_or_default();
        let subpath = options
            .subpath
            .as_deref()
            .filter(|subpath| !subpath.is_empty());
        if !options.nocopy && subpath.is_none() && volume::wants_filling(&folder, &data) {
            self.fills.push(Fill {
                folder,
                data: data.clone(),
                target: target.clone(),
            });
        }
        let source = match subpath {
            Some(subpath) => inside(&data, subpath)?,
            None => data,
        };
        let read_only = mount.read_only || volume::is_read_only(record);
        self.records.push(MountRecord {
            kind: "volume".into(),
            name: Some(record.name.clone()),
            source,
            destination: target,
            read_only,
            spec_kind: "bind".into(),
            options: bind_options(read_only, true, Host::get()),
            anonymous: record.anonymous,
            ..MountRecord::default()
        });
        Ok(())
    }
}

/// An image; its snapshot is made by [`super::Containers::create`], which knows the image store.
fn image(
    creation: &Creation<'_>,
    mount: &Mount,
    target: PathBuf,
) -> Result<MountRecord, ContainerError> {
    let source = mount.source.as_deref().unwrap_or_default();
    if source.is_empty() {
        return Err(ContainerError::invalid(
            "volumes.source",
            "",
            "an image mount needs one",
        ));
    }
    let options = mount.image.as_ref();
    let subpath = options.and_then(|options| options.subpath.clone());
    // A service stands for the image that it runs from.
    let service = creation.project.services.get(source);
    let reference = service
        .and_then(|service| service.image.as_deref())
        .unwrap_or(source);
    Ok(MountRecord {
        kind: "image".into(),
        source: reference.into(),
        destination: target,
        read_only: mount.read_only,
        subpath: subpath.filter(|subpath| !subpath.is_empty()),
        ..MountRecord::default()
    })
}

/// The real path of `subpath` in a volume; links are followed inside the volume only.
fn inside(data: &Path, subpath: &str) -> Result<PathBuf, ContainerError> {
    let failed = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return ContainerError::MissingSource {
                path: data.join(subpath),
            };
        }
        ContainerError::io(format!("open {}", data.join(subpath).display()))(error)
    };
    let open = || -> std::io::Result<PathBuf> {
        let root = std::fs::File::open(data)?;
        let found = rustix::fs::openat2(
            &root,
            subpath,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&found);
        std::fs::read_link(format!("/proc/self/fd/{number}"))
    };
    open().map_err(failed)
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

fn bind(
    creation: &Creation<'_>,
    mount: &Mount,
    target: PathBuf,
) -> Result<MountRecord, ContainerError> {
    let options = mount.bind.clone().unwrap_or_default();
    let written = mount.source.as_deref().unwrap_or_default();
    if written.is_empty() {
        return Err(ContainerError::invalid(
            "volumes.source",
            "",
            "a bind mount needs one",
        ));
    }
    let source = creation.project.working_dir.join(written);
    if !source.exists() {
        if options.create_host_path == Some(false) {
            return Err(ContainerError::MissingSource { path: source });
        }
        create_host_path(&source)
            .map_err(ContainerError::io(format!("make {}", source.display())))?;
    }
    let propagation = options
        .propagation
        .as_deref()
        .filter(|text| !text.is_empty());
    let propagation = propagation.unwrap_or("rprivate");
    if !PROPAGATIONS.contains(&propagation) {
        return Err(ContainerError::invalid(
            "volumes.bind.propagation",
            propagation,
            format!("it is one of {}", PROPAGATIONS.join(", ")),
        ));
    }
    let mut flags = match options.recursive.as_deref() {
        None | Some("" | "enabled") => bind_options(mount.read_only, source.is_dir(), Host::get()),
        Some("disabled") if mount.read_only => vec!["bind".into(), "ro".into()],
        Some("disabled") => vec!["bind".into()],
        Some("writable") if mount.read_only => vec!["rbind".into(), "ro".into()],
        Some("readonly") if mount.read_only => vec!["rbind".into(), "rro".into()],
        Some(other) => {
            let reason =
                "it is `enabled` or `disabled`, with `read_only` also `writable` or `readonly`";
            return Err(ContainerError::invalid(
                "volumes.bind.recursive",
                other,
                reason,
            ));
        }
    };
    flags.push(propagation.into());
    Ok(MountRecord {
        kind: "bind".into(),
        source,
        destination: target,
        read_only: mount.read_only,
        propagation: propagation.into(),
        spec_kind: "bind".into(),
        options: flags,
        ..MountRecord::default()
    })
}

/// Makes a missing folder for everybody to read, owned as the nearest folder that was there.
fn create_host_path(path: &Path) -> std::io::Result<()> {
    let mut missing = Vec::new();
    let mut existing = path;
    while !existing.exists() {
        missing.push(existing);
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let owner = std::fs::metadata(existing)?;
    for folder in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(folder) {
            Ok(()) => {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
                std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid()))?;
            }
            // Another replica was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The container that `volumes_from: entry` names, as `SERVICE[:ro]` or `container:NAME[:ro]`.
fn donor<'a>(entry: &str, donors: &'a [ContainerRecord]) -> Option<&'a ContainerRecord> {
    let has = |record: &ContainerRecord, label: &str, value: &str| {
        record.labels.get(label).is_some_and(|found| found == value)
    };
    let mut donors = donors.iter();
    if let Some(rest) = entry.strip_prefix("container:") {
        let name = rest.split(':').next().unwrap_or_default();
        return donors.find(|record| {
            has(record, label::NAME, name) || (!name.is_empty() && record.id.starts_with(name))
        });
    }
    let service = entry.split(':').next().unwrap_or_default();
    donors.find(|record| has(record, label::SERVICE, service))
}

/// The mounts that `volumes_from: entry` takes from `record`: binds and volumes, as in Docker.
fn inherited_mounts(
    entry: &str,
    record: &ContainerRecord,
) -> Result<Vec<MountRecord>, ContainerError> {
    let read_only = entry.ends_with(":ro");
    let mounts = match Provision::of(record)? {
        Some(provision) => provision.mounts,
        None => foreign_mounts(record)?,
    };
    let own = ["tmpfs", "image"];
    let shared = mounts
        .into_iter()
        .filter(|mount| !own.contains(&mount.kind.as_str()));
    Ok(shared
        .map(|mut mount| {
            if read_only && !mount.read_only {
                mount.read_only = true;
                mount.options.push("ro".into());
            }
            mount
        })
        .collect())
}

/// Bind mounts in the spec of another tool's container, but for the files that every container has its own of.
fn foreign_mounts(record: &ContainerRecord) -> Result<Vec<MountRecord>, ContainerError> {
    let spec: Value =
        serde_json::from_slice(&record.spec).map_err(|source| ContainerError::Damaged {
            id: record.id.clone(),
            source,
        })?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = spec
        .get("mounts")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let kept = list.into_iter().filter(|mount| {
        let destination = text(&mount["destination"]);
        let own = [
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/sbin/docker-init",
            "/sbin/tini",
        ];
        mount["type"] == "bind"
            && !own.contains(&destination.as_str())
            && !destination.starts_with("/dev")
    });
    Ok(kept
        .map(|mount| {
            let options: Vec<String> = mount["options"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect();
            MountRecord {
                kind: "bind".into(),
                source: text(&mount["source"]).into(),
                destination: text(&mount["destination"]).into(),
                read_only: options
                    .iter()
                    .any(|option| option == "ro" || option == "rro"),
                spec_kind: "bind".into(),
                options,
                ..MountRecord::default()
            }
        })
        .collect())
}

/// A target without `.`, `..` and double slashes.
fn clean_target(attribute: &str, target: &str) -> Result<PathBuf, ContainerError> {
    let refuse = |reason: &str| Err(ContainerError::invalid(attribute, target, reason));
    if !target.starts_with('/') {
        return refuse("the target must be an absolute path in the container");
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(target).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return refuse("the root of the container cannot be replaced");
    }
    Ok(clean)
}

impl MountRecord {
    pub(super) fn to_spec(&self) -> SpecMount {
        let source = if self.spec_kind == "tmpfs" {
            "tmpfs".to_owned()
        } else {
            self.source.to_string_lossy().into_owned()
        };
        SpecMount {
            destination: self.destination.clone(),
            kind: self.spec_kind.clone(),
            source,
            options: self.options.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
