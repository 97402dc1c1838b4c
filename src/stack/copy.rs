//! Files between containers and the host, by Docker's rules of what lands where.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use super::{Stack, StackError};
use crate::container::{FileKind, FileSystem, UnpackOptions, Unpacked, pack, unpack};
use crate::reconcile::observe::ObservedContainer;

/// A chain of more links leads in a circle.
const LINKS: usize = 40;

/// Where files come from or go to, on the side of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEnd {
    /// As the user wrote it: a slash at the end means something.
    Path(String),
    /// A tar archive on standard input or output.
    Stream,
}

/// Which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    Into { source: HostEnd, target: String },
    OutOf { source: String, target: HostEnd },
}

/// What to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    pub service: String,
    /// Number of the replica; 0: all of them, or the first one to copy from.
    pub index: u32,
    /// One-off containers, too.
    pub one_offs: bool,
    /// Keep owners on the host.
    pub archive: bool,
    /// A link that is named as the source stands for what it leads to.
    pub follow_links: bool,
    pub direction: CopyDirection,
    /// Folder that paths of the host are relative to.
    pub working_dir: PathBuf,
}

/// One container was copied to or from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub container: String,
    /// Names of devices of a container that were left out on the host.
    pub left_out: Vec<PathBuf>,
}

/// Nothing, or not everything, was copied.
#[derive(Debug, Error)]
pub enum CopyError {
    #[error("no container found for service \"{service}\"")]
    NoContainer { service: String },
    #[error("could not find {path} in container {container}")]
    NotInContainer { path: String, container: String },
    #[error("{path} does not exist")]
    NotOnHost { path: String },
    #[error("{path} is not a directory")]
    NotAFolder { path: String },
    #[error("invalid output path: directory \"{path}\" does not exist")]
    NoOutputFolder { path: String },
    #[error("cannot copy a directory to {path}, which is a file")]
    FolderToFile { path: String },
    #[error("destination \"{path}\" must be a directory")]
    StreamToFile { path: String },
    #[error("{path} is a device, a pipe or a socket")]
    Special { path: String },
    #[error("{path} of container {container} is read-only")]
    ReadOnly { path: String, container: String },
    #[error("cannot copy {path}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// One side of a copy.
struct End<'a> {
    files: &'a FileSystem,
    /// Absolute, as the user wrote it but for that.
    path: &'a str,
    /// Name of the container; none on the host.
    container: Option<&'a str>,
}

/// What the user means by a source path.
struct Source {
    path: PathBuf,
    /// Its name in the archive; `.` for the content of a folder.
    name: PathBuf,
    is_folder: bool,
}

impl Stack {
    /// Copies files into or out of a service's containers, whether they run or not.
    pub async fn copy(
        &self,
        request: &CopyRequest,
        mut told: impl FnMut(&Copied),
    ) -> Result<(), StackError> {
        let observed = self.observe().await?;
        let mut containers: Vec<&ObservedContainer> = observed
            .containers
            .iter()
            .filter(|container| container.service == request.service)
            .filter(|container| !container.one_off || (request.one_offs && request.index == 0))
            .filter(|container| request.index == 0 || container.number == request.index)
            .collect();
        containers.sort_by_key(|container| (container.one_off, container.number));
        if containers.is_empty() {
            return Err(match request.index {
                0 => CopyError::NoContainer {
                    service: request.service.clone(),
                }
                .into(),
                index => StackError::NotRunning {
                    service: request.service.clone(),
                    index,
                },
            });
        }
        let is_into = matches!(request.direction, CopyDirection::Into { .. });
        if !is_into {
            containers.truncate(1);
        }
        if let CopyDirection::Into {
            source: HostEnd::Stream,
            ..
        } = request.direction
        {
            // A stream can be read only once.
            containers.truncate(1);
        }
        for container in containers {
            let files = self.containers().await?.file_system(&container.id).await?;
            let (request, name) = (request.clone(), container.name.clone());
            let work = move || transfer(&request, &files, &name);
            let copied = tokio::task::spawn_blocking(work).await;
            told(&copied.map_err(|error| StackError::Io {
                operation: "copy files".into(),
                source: error.into(),
            })??);
        }
        self.revive(&observed).await;
        Ok(())
    }
}

fn transfer(
    request: &CopyRequest,
    files: &FileSystem,
    container: &str,
) -> Result<Copied, CopyError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| CopyError::Io { path, source }
    };
    let host = FileSystem::of_folder(Path::new("/")).map_err(failed("/"))?;
    let on_host = |path: &str| join(&request.working_dir.to_string_lossy(), path);
    let inside = |path: &str| join("/", path);
    let unpacked = match &request.direction {
        CopyDirection::Into { source, target } => {
            let target = inside(target);
            let to = End {
                files,
                path: &target,
                container: Some(container),
            };
            match source {
                HostEnd::Stream => stream_in(&to, &mut io::stdin().lock())?,
                HostEnd::Path(path) => {
                    let from = End {
                        files: &host,
                        path: &on_host(path),
                        container: None,
                    };
                    copy(&from, &to, request.follow_links, UnpackOptions::default())?
                }
            }
        }
        CopyDirection::OutOf { source, target } => {
            let from = End {
                files,
                path: &inside(source),
                container: Some(container),
            };
            match target {
                HostEnd::Stream => {
                    let source = from.source(request.follow_links)?;
                    let mut output = io::stdout().lock();
                    pack(files, &source.path, &source.name, &mut output)
                        .and_then(|()| output.flush())
                        .map_err(failed(from.path))?;
                    Unpacked::default()
                }
                HostEnd::Path(path) => {
                    let to = End {
                        files: &host,
                        path: &on_host(path),
                        container: None,
                    };
                    let ids = (
                        rustix::process::geteuid().as_raw(),
                        rustix::process::getegid().as_raw(),
                    );
                    let options = UnpackOptions {
                        owner: (!request.archive).then_some(ids),
                        untrusted: true,
                    };
                    copy(&from, &to, request.follow_links, options)?
                }
            }
        }
    };
    Ok(Copied {
        container: container.into(),
        left_out: unpacked.left_out,
    })
}

fn stream_in(to: &End<'_>, input: &mut dyn io::Read) -> Result<Unpacked, CopyError> {
    let (path, kind) = to.resolve()?;
    if kind != Some(FileKind::Folder) {
        return Err(CopyError::StreamToFile {
            path: to.path.into(),
        });
    }
    let options = UnpackOptions::default();
    unpack(to.files, &path, options, input).map_err(|error| to.failed(error))
}

fn copy(
    from: &End<'_>,
    to: &End<'_>,
    follow_links: bool,
    options: UnpackOptions,
) -> Result<Unpacked, CopyError> {
    let source = from.source(follow_links)?;
    let (folder, name) = to.destination(&source)?;
    let (reader, mut writer) = io::pipe().map_err(|error| to.failed(error))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let packed = pack(from.files, &source.path, &name, &mut writer);
            drop(OwnedFd::from(writer));
            packed
        });
        let mut reader = reader;
        let unpacked = unpack(to.files, &folder, options, &mut reader);
        let rest = match &unpacked {
            // What follows the end of the archive is padding.
            Ok(_) => io::copy(&mut reader, &mut io::sink()).map(drop),
            Err(_) => Ok(()),
        };
        drop(reader);
        let packed = packing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match packed {
            // The other side had enough, and says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && unpacked.is_err() => {}
            Err(error) => return Err(from.failed(error)),
            Ok(()) => {}
        }
        rest.and(unpacked).map_err(|error| to.failed(error))
    })
}

impl End<'_> {
    fn failed(&self, source: io::Error) -> CopyError {
        match (self.container, source.kind()) {
            (Some(container), io::ErrorKind::ReadOnlyFilesystem) => CopyError::ReadOnly {
                path: self.path.into(),
                container: container.into(),
            },
            _ => CopyError::Io {
                path: self.path.into(),
                source,
            },
        }
    }

    fn missing(&self, path: &Path) -> CopyError {
        let path = path.display().to_string();
        match self.container {
            Some(container) => CopyError::NotInContainer {
                path,
                container: container.into(),
            },
            None => CopyError::NotOnHost { path },
        }
    }

    /// Whether the user wrote it as a folder.
    fn is_written_as_folder(&self) -> bool {
        self.path.ends_with('/') || self.is_content()
    }

    /// Whether what is in the folder is meant, not the folder.
    fn is_content(&self) -> bool {
        self.path.ends_with("/.") || self.path == "/"
    }

    fn source(&self, follow_links: bool) -> Result<Source, CopyError> {
        let written = clean(self.path);
        let follow = follow_links || self.is_written_as_folder();
        let (path, kind) = if follow {
            self.resolve()?
        } else {
            let kind = self.files.kind(&written, false);
            (written.clone(), kind.map_err(|error| self.failed(error))?)
        };
        let Some(kind) = kind else {
            return Err(self.missing(&written));
        };
        let is_folder = kind == FileKind::Folder;
        if self.is_written_as_folder() && !is_folder {
            return Err(CopyError::NotAFolder {
                path: self.path.into(),
            });
        }
        let name = match written.file_name() {
            Some(name) if !self.is_content() => name.into(),
            _ => PathBuf::from("."),
        };
        Ok(Source {
            path,
            name,
            is_folder,
        })
    }

    /// The folder that `source` goes into, and its name there.
    fn destination(&self, source: &Source) -> Result<(PathBuf, PathBuf), CopyError> {
        let (path, kind) = self.resolve()?;
        let text = || self.path.to_owned();
        match kind {
            Some(FileKind::Folder) => return Ok((path, source.name.clone())),
            Some(FileKind::Special) => return Err(CopyError::Special { path: text() }),
            Some(_) if self.is_written_as_folder() => {
                return Err(CopyError::NotAFolder { path: text() });
            }
            Some(_) if source.is_folder => return Err(CopyError::FolderToFile { path: text() }),
            None if self.is_written_as_folder() && !source.is_folder => {
                return Err(match self.container {
                    Some(_) => self.missing(&path),
                    None => CopyError::NoOutputFolder { path: text() },
                });
            }
            Some(_) | None => {}
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let found = self.files.kind(parent, true);
        if found.map_err(|error| self.failed(error))? != Some(FileKind::Folder) {
            return Err(match self.container {
                Some(_) => self.missing(parent),
                None => CopyError::NoOutputFolder {
                    path: parent.display().to_string(),
                },
            });
        }
        let name = path.file_name().unwrap_or_default();
        Ok((parent.to_owned(), name.into()))
    }

    /// Where the path leads through links at its end, and what is there.
    fn resolve(&self) -> Result<(PathBuf, Option<FileKind>), CopyError> {
        let mut path = clean(self.path);
        for _ in 0..LINKS {
            let kind = self.files.kind(&path, false);
            let kind = kind.map_err(|error| self.failed(error))?;
            if kind != Some(FileKind::Link) {
                return Ok((path, kind));
            }
            let target = self.files.read_link(&path);
            let target = target.map_err(|error| self.failed(error))?;
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(self.failed(rustix::io::Errno::LOOP.into()))
    }
}

/// `path`, made absolute by `folder`; what it ends in stays.
fn join(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.into();
    }
    format!("{}/{path}", folder.trim_end_matches('/'))
}

/// A path without `.`, `..` and double slashes.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// `name` for a file, `name/` for a folder, `name>target` for a link.
        fn new(entries: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for entry in entries {
                let at = |name: &str| tree.0.path().join(name);
                if let Some((name, target)) = entry.split_once('>') {
                    std::os::unix::fs::symlink(target, at(name)).unwrap();
                } else if entry.ends_with('/') {
                    std::fs::create_dir_all(at(entry)).unwrap();
                } else {
                    std::fs::write(at(entry), *entry).unwrap();
                }
            }
            tree
        }

        fn text(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.0.path().join(path)).ok()
        }
    }

    fn run(from: &Tree, source: &str, to: &Tree, target: &str, follow: bool) -> Result<(), String> {
        let (sources, targets) = (
            FileSystem::of_folder(from.0.path()).unwrap(),
            FileSystem::of_folder(to.0.path()).unwrap(),
        );
        let source = End {
            files: &sources,
            path: source,
            container: None,
        };
        let target = End {
            files: &targets,
            path: target,
            container: Some("c"),
        };
        copy(&source, &target, follow, UnpackOptions::default())
            .map(drop)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_lands_where_is_docker_s_rule() {
        let from = Tree::new(&["f", "d/", "d/a", "d/sub/", "d/sub/b", "l>d", "lf>f"]);
        // Source, destination, and which file of it must then be where.
        let table = [
            ("/f", "/new", "new", "f"),
            ("/f", "/there", "there", "f"),
            ("/f", "/folder", "folder/f", "f"),
            ("/f", "/folder/", "folder/f", "f"),
            ("/f", "/linked", "folder/f", "f"),
            ("/f", "/dangling", "folder/target", "f"),
            ("/d", "/new", "new/a", "d/a"),
            ("/d", "/new/", "new/sub/b", "d/sub/b"),
            ("/d", "/folder", "folder/d/sub/b", "d/sub/b"),
            ("/d/.", "/folder", "folder/sub/b", "d/sub/b"),
            ("/d/.", "/new", "new/sub/b", "d/sub/b"),
            ("/", "/folder", "folder/d/a", "d/a"),
            ("/l/", "/new", "new/a", "d/a"),
        ];
        for (source, target, path, content) in table {
            let to = Tree::new(&[
                "there",
                "folder/",
                "linked>folder",
                "dangling>/folder/target",
            ]);
            run(&from, source, &to, target, false)
                .unwrap_or_else(|error| panic!("{source} {target}: {error}"));
            let found = to.text(path);
            assert_eq!(found.as_deref(), Some(content), "{source} {target}");
        }
    }

    #[test]
    fn a_link_is_copied_or_followed() {
        let from = Tree::new(&["f", "lf>f"]);
        let to = Tree::new(&[]);
        run(&from, "/lf", &to, "/link", false).unwrap();
        let link = std::fs::read_link(to.0.path().join("link")).unwrap();
        assert_eq!(link, Path::new("f"));
        let to = Tree::new(&["d/"]);
        run(&from, "/lf", &to, "/d", true).unwrap();
        assert_eq!(to.text("d/lf").as_deref(), Some("f"));
        let found = std::fs::symlink_metadata(to.0.path().join("d/lf")).unwrap();
        assert!(found.is_file());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let from = Tree::new(&["f", "d/", "loop>loop"]);
        let to = Tree::new(&["there", "folder/"]);
        let table = [
            ("/d", "/there", "cannot copy a directory to /there"),
            ("/f", "/gone/", "could not find /gone in container c"),
            ("/f", "/gone/x", "could not find /gone in container c"),
            ("/f", "/there/", "/there/ is not a directory"),
            ("/f/", "/new", "/f/ is not a directory"),
            ("/gone", "/new", "/gone does not exist"),
            ("/loop/", "/new", "cannot copy /loop/"),
        ];
        for (source, target, reason) in table {
            let error = run(&from, source, &to, target, false).unwrap_err();
            assert!(error.starts_with(reason), "{source} {target}: {error}");
        }
        let error = CopyError::NoContainer {
            service: "x".into(),
        };
        assert_eq!(error.to_string(), "no container found for service \"x\"");
    }
}
