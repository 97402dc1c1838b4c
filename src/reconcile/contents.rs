//! Digests of the content of configs and secrets: the one thing that planning needs from the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::model::Project;

/// The file of a config or secret could not be read.
#[derive(Debug, Error)]
#[error("cannot read {} of {resource}", path.display())]
pub struct ContentsError {
    /// As `secrets.token`.
    pub resource: String,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// SHA-256 (hex) of every config and secret that an enabled service mounts, by `configs.<key>` or `secrets.<key>`. What
/// does not exist is left out: making the container reports it.
pub fn contents(project: &Project) -> Result<BTreeMap<String, String>, ContentsError> {
    let mut digests = BTreeMap::new();
    for service in project.services.values() {
        for key in service.configs.iter().map(|file| &file.source) {
            if let Some(config) = project.configs.get(key) {
                let source = Source {
                    file: config.file.as_deref(),
                    content: config.content.as_deref(),
                    variable: config.environment.as_deref(),
                };
                source.add(project, format!("configs.{key}"), &mut digests)?;
            }
        }
        for key in service.secrets.iter().map(|file| &file.source) {
            if let Some(secret) = project.secrets.get(key) {
                let source = Source {
                    file: secret.file.as_deref(),
                    content: secret.content.as_deref(),
                    variable: secret.environment.as_deref(),
                };
                source.add(project, format!("secrets.{key}"), &mut digests)?;
            }
        }
    }
    Ok(digests)
}

struct Source<'a> {
    file: Option<&'a str>,
    content: Option<&'a str>,
    variable: Option<&'a str>,
}

impl Source<'_> {
    fn add(
        &self,
        project: &Project,
        resource: String,
        digests: &mut BTreeMap<String, String>,
    ) -> Result<(), ContentsError> {
        if digests.contains_key(&resource) {
            return Ok(());
        }
        let variable = self.variable.and_then(|name| project.environment.get(name));
        let digest = if let Some(path) = self.file {
            match file_digest(Path::new(path)) {
                Ok(digest) => digest,
                Err(source) => {
                    return Err(ContentsError {
                        resource,
                        path: path.into(),
                        source,
                    });
                }
            }
        } else {
            self.content
                .or(variable.map(String::as_str))
                .map(|text| HEXLOWER.encode(&Sha256::digest(text)))
        };
        digests.extend(digest.map(|digest| (resource, digest)));
        Ok(())
    }
}

fn file_digest(path: &Path) -> io::Result<Option<String>> {
    // Before it is opened: a pipe might never let go, a device never end.
    match std::fs::metadata(path) {
        // A folder is mounted as it is; its content is not watched.
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(metadata) if !metadata.is_file() => {
            return Err(io::Error::other("it is neither a file nor a folder"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Some(HEXLOWER.encode(&digest.finalize())));
        }
        digest.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    #[test]
    fn what_never_ends_is_not_read() {
        let error = file_digest(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it is neither a file nor a folder");
        assert_eq!(file_digest(Path::new("/dev")).unwrap(), None);
    }
    use crate::model::{Config, FileReference, Secret, Service};

    fn mounts(source: &str) -> Vec<FileReference> {
        vec![FileReference {
            source: source.into(),
            ..FileReference::default()
        }]
    }

    #[test]
    fn a_file_and_the_same_text_have_the_same_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.conf");
        std::fs::write(&path, "level=1").unwrap();
        let mut project = Project {
            configs: IndexMap::from([(
                "app".into(),
                Config {
                    file: Some(path.to_string_lossy().into_owned()),
                    ..Config::default()
                },
            )]),
            secrets: IndexMap::from([(
                "token".into(),
                Secret {
                    environment: Some("TOKEN".into()),
                    ..Secret::default()
                },
            )]),
            environment: IndexMap::from([("TOKEN".into(), "level=1".into())]),
            ..Project::default()
        };
        let service = Service {
            configs: mounts("app"),
            secrets: mounts("token"),
            ..Service::default()
        };
        project.services.insert("web".into(), service);
        let digests = contents(&project).unwrap();
        assert_eq!(digests["configs.app"], digests["secrets.token"]);
        assert_eq!(digests["configs.app"].len(), 64);

        std::fs::write(&path, "level=2").unwrap();
        assert_ne!(
            contents(&project).unwrap()["configs.app"],
            digests["configs.app"]
        );
    }

    #[test]
    fn what_does_not_exist_and_what_nobody_mounts_has_no_digest() {
        let mut project = Project::default();
        for key in ["used", "unused"] {
            let config = Config {
                file: Some("/nonexistent/app.conf".into()),
                ..Config::default()
            };
            project.configs.insert(key.into(), config);
        }
        let service = Service {
            configs: mounts("used"),
            ..Service::default()
        };
        project.services.insert("web".into(), service);
        assert!(contents(&project).unwrap().is_empty());
    }
}
