//! Configs and secrets in a container: one read-only bind mount for each, of a file that we own.
//!
//! Secrets lie in a tmpfs of the container's own, mounted without swap (Linux 6.4) in its run folder, which only root may
//! enter. A tmpfs inside the container, filled between create and start, would need no mount on the host, but it can
//! only be a whole folder, so that nothing could be put at `/etc/app.key`; it stays writable to the container; and it is
//! empty again after `nerdctl start` or any other restart that is not ours. A bind mount has none of these faults, works
//! with a read-only root and for every user, and shows a changed value when the file is written in place.
//!
//! What comes from a file is read again at every start. What comes from the environment is known only to the command
//! that made the container: it survives restarts in the tmpfs, and after a reboot must be supplied again
//! ([`super::Containers::supply`]). Configs are no secrets; they lie in the container's data folder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::provision::{FileKind, PlannedFile};
use super::volume::is_mounted;
use super::{ContainerError, Containers};
use crate::engine::ContainerRecord;
use crate::engine::spec::{Host, SpecMount, User, bind_options};
use crate::model::{FileReference, Project, Service};
use crate::state::{StateRoot, create_private_dir};

/// Where secrets appear unless they name another place.
const SECRETS: &str = "/run/secrets";
/// Anybody may read.
const DEFAULT_MODE: u32 = 0o444;

/// A file to make, with its value if it does not come from a file.
pub(super) type Planned = (PlannedFile, Option<Vec<u8>>);

/// The configs and secrets of a service. `user` owns what names no owner.
pub(super) fn plan(
    project: &Project,
    service: &Service,
    user: &User,
) -> Result<Vec<Planned>, ContainerError> {
    let configs = service
        .configs
        .iter()
        .map(|reference| (FileKind::Config, reference));
    let secrets = service
        .secrets
        .iter()
        .map(|reference| (FileKind::Secret, reference));
    configs
        .chain(secrets)
        .enumerate()
        .map(|(number, (kind, reference))| plan_one(project, kind, reference, user, number))
        .collect()
}

fn plan_one(
    project: &Project,
    kind: FileKind,
    reference: &FileReference,
    user: &User,
    number: usize,
) -> Result<Planned, ContainerError> {
    let key = &reference.source;
    let attribute = |name: &str| format!("{}s.{key}.{name}", kind.name());
    let id = |name: &str, text: Option<&str>, default: u32| match text {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| ContainerError::invalid(attribute(name), text, "it must be a number")),
    };
    let (source, value) = content(project, kind, key)?;
    let planned = PlannedFile {
        kind,
        key: key.clone(),
        source,
        file: number.to_string(),
        target: target(kind, reference),
        uid: id("uid", reference.uid.as_deref(), user.uid)?,
        gid: id("gid", reference.gid.as_deref(), user.gid)?,
        mode: reference.mode.unwrap_or(DEFAULT_MODE) & 0o7777,
    };
    Ok((planned, value))
}

fn target(kind: FileKind, reference: &FileReference) -> PathBuf {
    let folder = Path::new(match kind {
        FileKind::Config => "/",
        FileKind::Secret => SECRETS,
    });
    let target = reference
        .target
        .as_deref()
        .filter(|target| !target.is_empty());
    // An absolute target replaces the folder.
    folder.join(target.unwrap_or(&reference.source))
}

/// The file to read or the value itself.
fn content(
    project: &Project,
    kind: FileKind,
    key: &str,
) -> Result<(Option<PathBuf>, Option<Vec<u8>>), ContainerError> {
    let what = || format!("{} `{key}`", kind.name());
    let unknown = || {
        ContainerError::invalid(
            format!("{}s", kind.name()),
            key,
            "the project does not define it",
        )
    };
    let (file, content, environment, external, driver) = match kind {
        FileKind::Config => {
            let config = project.configs.get(key).ok_or_else(unknown)?;
            (
                &config.file,
                &config.content,
                &config.environment,
                config.external,
                config.template_driver.as_deref(),
            )
        }
        FileKind::Secret => {
            let secret = project.secrets.get(key).ok_or_else(unknown)?;
            (
                &secret.file,
                &secret.content,
                &secret.environment,
                secret.external,
                secret
                    .driver
                    .as_deref()
                    .or(secret.template_driver.as_deref()),
            )
        }
    };
    if let Some(driver) = driver.filter(|driver| !driver.is_empty()) {
        let reason = format!("only a swarm has drivers as `{driver}`");
        return Err(ContainerError::invalid(
            format!("{}s", kind.name()),
            key,
            reason,
        ));
    }
    if let Some(file) = file {
        let path = project.working_dir.join(file);
        if !path.exists() {
            return Err(ContainerError::MissingSource { path });
        }
        return Ok((Some(path), None));
    }
    if let Some(content) = content {
        return Ok((None, Some(content.clone().into_bytes())));
    }
    if let Some(variable) = environment {
        let value = project.environment.get(variable);
        let value = value.ok_or_else(|| ContainerError::MissingVariable {
            what: what(),
            variable: variable.clone(),
        })?;
        return Ok((None, Some(value.clone().into_bytes())));
    }
    let reason = if external {
        "external ones are kept by a swarm, which there is none of"
    } else {
        "it has neither `file` nor `content` nor `environment`"
    };
    Err(ContainerError::invalid(
        format!("{}s", kind.name()),
        key,
        reason,
    ))
}

/// The bind mounts of planned files.
pub(super) fn mounts(state: &StateRoot, id: &str, files: &[PlannedFile]) -> Vec<SpecMount> {
    let mount = |file: &PlannedFile| {
        // A folder cannot be kept as a copy in one file; it is mounted itself.
        let source = match &file.source {
            Some(source) if source.is_dir() => source.clone(),
            _ => path(state, id, file),
        };
        let mut options = bind_options(true, source.is_dir(), Host::get());
        options.push("rprivate".into());
        SpecMount::bind(&source, &file.target, options)
    };
    files.iter().map(mount).collect()
}

fn path(state: &StateRoot, id: &str, file: &PlannedFile) -> PathBuf {
    folder(state, id, file.kind).join(&file.file)
}

fn folder(state: &StateRoot, id: &str, kind: FileKind) -> PathBuf {
    match kind {
        FileKind::Config => state.container(id).join("configs"),
        FileKind::Secret => state.container_run(id).join("secrets"),
    }
}

/// Writes the files whose values are given.
pub(super) fn write_values(
    state: &StateRoot,
    id: &str,
    files: &[Planned],
) -> Result<(), ContainerError> {
    for (file, value) in files {
        if let Some(value) = value {
            write(state, id, file, value)?;
        }
    }
    Ok(())
}

/// Reads what comes from files again, and makes sure that the rest is there.
pub(super) fn refresh(
    state: &StateRoot,
    id: &str,
    files: &[PlannedFile],
) -> Result<(), ContainerError> {
    for file in files {
        match &file.source {
            Some(source) if source.is_dir() => {}
            Some(source) => {
                let value = match std::fs::read(source) {
                    Ok(value) => value,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(ContainerError::MissingSource {
                            path: source.clone(),
                        });
                    }
                    Err(error) => {
                        return Err(ContainerError::io(format!("read {}", source.display()))(
                            error,
                        ));
                    }
                };
                write(state, id, file, &value)?;
            }
            None if path(state, id, file).exists() => {}
            None => {
                return Err(ContainerError::MissingContent {
                    what: format!("{} `{}`", file.kind.name(), file.key),
                });
            }
        }
    }
    Ok(())
}

fn write(
    state: &StateRoot,
    id: &str,
    file: &PlannedFile,
    value: &[u8],
) -> Result<(), ContainerError> {
    let folder = folder(state, id, file.kind);
    create_private_dir(&folder)?;
    if file.kind == FileKind::Secret {
        mount_memory(&folder, "mode=0700", true).map_err(ContainerError::io(format!(
            "mount a tmpfs on {}",
            folder.display()
        )))?;
    }
    let path = folder.join(&file.file);
    write_in_place(&path, value, file).map_err(ContainerError::writing(&path))
}

/// In place, as a container that runs would not see another file of the same name.
fn write_in_place(path: &Path, value: &[u8], file: &PlannedFile) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut output: File = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let mut present = Vec::new();
    output.read_to_end(&mut present)?;
    if present != value {
        // Cut at the end: at no time is it empty for those who read it meanwhile.
        output.rewind()?;
        output.write_all(value)?;
        output.set_len(value.len() as u64)?;
    }
    std::os::unix::fs::fchown(&output, Some(file.uid), Some(file.gid))?;
    output.set_permissions(Permissions::from_mode(file.mode))
}

/// Mounts a tmpfs on `folder` unless one is there; `secret`: it must not be swapped out where the kernel can promise that.
pub(super) fn mount_memory(folder: &Path, options: &str, secret: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    if is_mounted(folder)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mount = |options: &str| {
        let options = std::ffi::CString::new(options)?;
        let mounted = rustix::mount::mount("tmpfs", folder, "tmpfs", flags, options.as_c_str());
        mounted.map_err(io::Error::from)
    };
    if secret && mount(&format!("{options},noswap")).is_ok() {
        return Ok(());
    }
    mount(options)
}

impl Containers {
    /// Writes the configs and secrets of a container anew from the project's present values, as after a reboot or a
    /// change; a running container sees them at once.
    pub fn supply(
        &self,
        record: &ContainerRecord,
        project: &Project,
    ) -> Result<(), ContainerError> {
        let provision = super::provision::Provision::of(record)?.unwrap_or_default();
        for file in &provision.files {
            if let (None, Some(value)) = content(project, file.kind, &file.key)? {
                write(&self.state, &record.id, file, &value)?;
            }
        }
        refresh(&self.state, &record.id, &provision.files)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::container::volume::unmount;
    use crate::model::{Config, Secret};

    fn reference(source: &str) -> FileReference {
        FileReference {
            source: source.into(),
            ..FileReference::default()
        }
    }

    fn project() -> Project {
        let mut project = Project {
            working_dir: "/nowhere".into(),
            ..Project::default()
        };
        let secret = |environment: Option<&str>, file: Option<&str>| Secret {
            environment: environment.map(Into::into),
            file: file.map(Into::into),
            ..Secret::default()
        };
        project
            .secrets
            .insert("token".into(), secret(Some("TOKEN"), None));
        project
            .secrets
            .insert("unset".into(), secret(Some("UNSET"), None));
        project
            .secrets
            .insert("gone".into(), secret(None, Some("gone.txt")));
        project.secrets.insert("empty".into(), secret(None, None));
        let inline = Config {
            content: Some("text".into()),
            ..Config::default()
        };
        project.configs.insert("inline".into(), inline);
        project.environment.insert("TOKEN".into(), "s3cret".into());
        project
    }

    fn planned(service: &Service) -> Result<Vec<Planned>, ContainerError> {
        let user = User {
            uid: 1000,
            gid: 1001,
            ..User::default()
        };
        plan(&project(), service, &user)
    }

    #[test]
    fn targets_owners_and_modes_have_defaults() {
        let service = Service {
            configs: vec![
                reference("inline"),
                FileReference {
                    target: Some("/etc/app.conf".into()),
                    uid: Some("5".into()),
                    gid: Some("6".into()),
                    mode: Some(0o440),
                    ..reference("inline")
                },
            ],
            secrets: vec![
                reference("token"),
                FileReference {
                    target: Some("sub/name".into()),
                    ..reference("token")
                },
            ],
            ..Service::default()
        };
        let files: Vec<PlannedFile> = planned(&service)
            .unwrap()
            .into_iter()
            .map(|(file, _)| file)
            .collect();
        let targets: Vec<&Path> = files.iter().map(|file| file.target.as_path()).collect();
        let expected = [
            "/inline",
            "/etc/app.conf",
            "/run/secrets/token",
            "/run/secrets/sub/name",
        ];
        assert_eq!(targets, expected.map(Path::new));
        assert_eq!(
            (files[0].uid, files[0].gid, files[0].mode),
            (1000, 1001, 0o444)
        );
        assert_eq!((files[1].uid, files[1].gid, files[1].mode), (5, 6, 0o440));
    }

    #[test]
    fn what_has_no_content_is_an_error_that_names_it() {
        let failed = |secret: &str| {
            let service = Service {
                secrets: vec![reference(secret)],
                ..Service::default()
            };
            planned(&service).unwrap_err().to_string()
        };
        assert_eq!(
            failed("unset"),
            "variable `UNSET` of secret `unset` is not set"
        );
        assert_eq!(failed("gone"), "/nowhere/gone.txt does not exist");
        assert!(failed("empty").contains("neither `file`"));
        assert!(failed("unknown").contains("does not define it"));
    }

    #[test]
    fn an_owner_must_be_a_number() {
        let service = Service {
            secrets: vec![FileReference {
                uid: Some("root".into()),
                ..reference("token")
            }],
            ..Service::default()
        };
        assert!(
            planned(&service)
                .unwrap_err()
                .to_string()
                .starts_with("secrets.token.uid: `root`")
        );
    }

    #[test]
    fn a_secret_lies_in_memory_only_and_is_rewritten_in_place() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let service = Service {
            secrets: vec![reference("token")],
            ..Service::default()
        };
        let files = planned(&service).unwrap();
        write_values(&state, "c1", &files).unwrap();
        let path = path(&state, "c1", &files[0].0);
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!(
            (first.uid(), first.gid(), first.mode() & 0o7777),
            (1000, 1001, 0o444)
        );
        assert!(is_mounted(path.parent().unwrap()).unwrap());
        write(&state, "c1", &files[0].0, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), first.ino());

        unmount(path.parent().unwrap()).unwrap();
        let plans = [files[0].0.clone()];
        let error = refresh(&state, "c1", &plans).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value of secret `token` is not known any more"
        );
    }
}
