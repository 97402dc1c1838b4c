//! A whole project and the origin of its values.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Config, Model, Network, Secret, Service, Volume};

/// A resolved project: every reference is checked, every default is filled in, every path is absolute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    pub name: String,
    /// Directory that relative paths were resolved against.
    pub working_dir: PathBuf,
    /// Files in the order of their merge, absolute; `-` for standard input.
    pub files: Vec<PathBuf>,
    /// Files given by `--env-file`, absolute.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are active.
    pub profiles: Vec<String>,
    /// Enabled services in the order of the file.
    pub services: IndexMap<String, Service>,
    /// Services that no active profile enables.
    pub disabled_services: IndexMap<String, Service>,
    pub networks: IndexMap<String, Network>,
    pub volumes: IndexMap<String, Volume>,
    pub configs: IndexMap<String, Config>,
    pub secrets: IndexMap<String, Secret>,
    pub models: IndexMap<String, Model>,
    /// Top-level `x-*` keys.
    pub extensions: IndexMap<String, serde_json::Value>,
    /// OCI runtime of services that name none; none: the default.
    pub runtime: Option<String>,
    /// Names of containers and of built images are joined with `_`, as the first Compose did, and not with `-`.
    pub compatibility: bool,
    /// Variables that interpolation saw: process environment over `.env` files.
    pub environment: IndexMap<String, String>,
    /// Where each value was written.
    pub provenance: Provenance,
}

impl Project {
    /// A name of its own for something of the project, as a container.
    pub fn joined_name(&self, parts: &[&str]) -> String {
        let separator = if self.compatibility { "_" } else { "-" };
        [&[self.name.as_str()], parts].concat().join(separator)
    }

    /// The image of `service`, or the name that its build gives it.
    pub fn image_reference(&self, service: &Service) -> String {
        let own = service.image.clone();
        own.unwrap_or_else(|| self.joined_name(&[&service.name]))
    }

    /// The platform for which `service` wants its image: its own, else `DOCKER_DEFAULT_PLATFORM`; `None`: this machine's.
    pub fn platform<'a>(&'a self, service: &'a Service) -> Option<&'a str> {
        let default = || self.environment.get("DOCKER_DEFAULT_PLATFORM");
        let platform = service.platform.as_ref().or_else(default);
        platform
            .map(String::as_str)
            .filter(|platform| !platform.is_empty())
    }
}

/// Where a value stands in a file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    pub file: PathBuf,
    pub line: u32,
    pub column: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Origins by path, as in `services.web.ports[0]`; the last origin of a path is the one that counts,
/// those before it were overridden.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance(pub IndexMap<String, Vec<Origin>>);

impl Provenance {
    /// The place that gave the value at `path`, or that of its nearest ancestor.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        loop {
            if let Some(origin) = self.0.get(path).and_then(|origins| origins.last()) {
                return Some(origin);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_with_a_hyphen_or_as_they_once_were() {
        let mut project = Project {
            name: "shop".into(),
            ..Project::default()
        };
        assert_eq!(project.joined_name(&["web", "1"]), "shop-web-1");
        project.compatibility = true;
        assert_eq!(project.joined_name(&["web", "1"]), "shop_web_1");
    }
}
