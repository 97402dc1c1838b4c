//! Files that nerdctl reads of a container: its log, its ports, its name, its volumes. All of them lead to ours.
//!
//! Written only where nerdctl is in use, and never needed by ourselves: a failure is logged and does no harm.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::provision::Names;
use crate::engine::EngineOptions;
use crate::network::{Endpoint, PublishedPort};
use crate::state::{StateError, StateRoot, create_private_dir, write_atomic};

const DATA: &str = "/var/lib/nerdctl";

/// nerdctl's files for one socket and namespace of containerd.
#[derive(Clone, Debug)]
pub(super) struct Nerdctl {
    data: PathBuf,
    namespace: String,
}

impl Nerdctl {
    /// Where nerdctl's files of this engine are, whether there are any or not.
    pub(super) fn new(engine: &EngineOptions) -> Self {
        let address = &engine.address;
        let socket = std::fs::canonicalize(address).unwrap_or_else(|_| address.clone());
        let digest = Sha256::digest(socket.to_string_lossy().as_bytes());
        Self {
            data: Path::new(DATA).join(HEXLOWER.encode(&digest[..4])),
            namespace: engine.namespace.clone(),
        }
    }

    /// None where nobody uses nerdctl.
    pub(super) fn in_use(engine: &EngineOptions) -> Option<Self> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let installed =
            std::env::split_paths(&folders).any(|folder| folder.join("nerdctl").is_file());
        (installed || Path::new(DATA).is_dir()).then(|| Self::new(engine))
    }

    /// The folder of a container.
    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.folder("containers").join(id)
    }

    fn folder(&self, kind: &str) -> PathBuf {
        self.data.join(kind).join(&self.namespace)
    }

    fn name(&self, name: &str) -> PathBuf {
        self.folder("names").join(name)
    }

    /// Shows a container, and the volumes that it has.
    pub(super) fn show<'a>(
        &self,
        state: &StateRoot,
        id: &str,
        name: &str,
        ports: &[PublishedPort],
        volumes: impl Iterator<Item = &'a str>,
    ) {
        let shown = || -> io::Result<()> {
            let folder = state.container(id);
            let ports: Vec<_> = ports
                .iter()
                .map(|port| {
                    json!({
                        "HostPort": port.host_port,
                        "ContainerPort": port.container_port,
                        "Protocol": port.protocol,
                        "HostIP": port.host_ip,
                    })
                })
                .collect();
            write(
                &folder.join("log-config.json"),
                &json!({ "driver": "json-file" }),
            )?;
            write(
                &folder.join("network-config.json"),
                &json!({ "portMappings": ports }),
            )?;
            link(&folder, &self.container(id))?;
            let name = self.name(name);
            create_parent(&name)?;
            std::fs::write(&name, id)?;
            std::fs::set_permissions(&name, Permissions::from_mode(0o600))?;
            for volume in volumes {
                link(&state.volume(volume), &self.folder("volumes").join(volume))?;
            }
            Ok(())
        };
        if let Err(error) = shown() {
            tracing::warn!(id, %error, "cannot show the container to nerdctl");
        }
    }

    /// Gives nerdctl's own containers on the same networks the names of this one. nerdctl rewrites the file `hosts` as it
    /// likes, so it is not the container's.
    pub(super) fn show_names(&self, id: &str, name: &str, names: &Names, endpoints: &[Endpoint]) {
        let shown = || -> io::Result<()> {
            let folder = self.hosts(id);
            create_private_dir(&folder).map_err(plain)?;
            let networks: serde_json::Map<_, _> = endpoints
                .iter()
                .map(|endpoint| (endpoint.network.clone(), endpoint.result.clone()))
                .collect();
            let hosts = folder.join("hosts");
            std::fs::write(&hosts, "127.0.0.1\tlocalhost\n")?;
            std::fs::set_permissions(&hosts, Permissions::from_mode(0o644))?;
            let about = json!({
                "ID": id,
                "Networks": networks,
                "Hostname": names.hostname,
                "ExtraHosts": {},
                "Name": name,
                "Domainname": names.domainname,
            });
            write(&folder.join("meta.json"), &about)
        };
        if let Err(error) = shown() {
            tracing::warn!(id, %error, "cannot tell nerdctl the names of the container");
        }
    }

    fn hosts(&self, id: &str) -> PathBuf {
        self.folder("etchosts").join(id)
    }

    /// Says when the container was started last.
    pub(super) fn started(state: &StateRoot, id: &str) {
        let lifecycle = json!({ "started_at": jiff::Timestamp::now(), "create_error": false });
        if let Err(error) = write(&state.container(id).join("lifecycle.json"), &lifecycle) {
            tracing::warn!(id, %error, "cannot tell nerdctl when the container started");
        }
    }

    /// Takes away what [`Nerdctl::show`] made, and the folder that nerdctl makes of any container that it lists.
    pub(super) fn hide(&self, id: &str, name: &str) -> io::Result<()> {
        super::lifecycle::remove_folder(&self.container(id))?;
        super::lifecycle::remove_folder(&self.hosts(id))?;
        let file = self.name(name);
        // The name may have gone to another container meanwhile.
        if !name.is_empty() && std::fs::read_to_string(&file).is_ok_and(|owner| owner == id) {
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Takes away the link to a volume; a volume of nerdctl's own stays.
    pub(super) fn hide_volume(&self, name: &str) {
        let path = self.folder("volumes").join(name);
        if path.is_symlink()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(name, %error, "cannot hide the volume from nerdctl");
        }
    }
}

fn write(path: &Path, value: &serde_json::Value) -> io::Result<()> {
    write_atomic(path, value.to_string().as_bytes()).map_err(plain)
}

fn create_parent(path: &Path) -> io::Result<()> {
    create_private_dir(path.parent().unwrap_or(Path::new("/"))).map_err(plain)
}

fn plain(error: StateError) -> io::Error {
    match error {
        StateError::Read { source, .. } | StateError::Write { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// Makes `path` lead to `target`; what is there and no link is nerdctl's own and stays.
fn link(target: &Path, path: &Path) -> io::Result<()> {
    create_parent(path)?;
    if path.is_symlink() {
        std::fs::remove_file(path)?;
    }
    match symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_depends_on_the_socket() {
        let options = EngineOptions {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "default".into(),
            snapshotter: None,
        };
        let folder = Nerdctl::new(&options).container("x");
        assert_eq!(
            folder,
            Path::new("/var/lib/nerdctl/1935db59/containers/default/x")
        );
    }

    #[test]
    fn a_container_is_shown_and_hidden_again() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        let nerdctl = Nerdctl {
            data: root.path().join("nerdctl"),
            namespace: "default".into(),
        };
        for id in ["one", "two"] {
            create_private_dir(&state.container(id)).unwrap();
        }
        create_private_dir(&state.volume("data")).unwrap();
        let ports = [PublishedPort {
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8080,
            container_port: 80,
            protocol: "tcp".into(),
        }];
        nerdctl.show(&state, "one", "shop-web-1", &ports, ["data"].into_iter());
        let folder = nerdctl.container("one");
        let text = std::fs::read_to_string(folder.join("network-config.json")).unwrap();
        assert_eq!(
            text,
            r#"{"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":"0.0.0.0"}]}"#
        );
        let name = nerdctl.name("shop-web-1");
        assert_eq!(std::fs::read_to_string(&name).unwrap(), "one");
        let volume = nerdctl.folder("volumes").join("data");
        assert_eq!(std::fs::read_link(&volume).unwrap(), state.volume("data"));

        let names = Names {
            hostname: "one".into(),
            ..Names::default()
        };
        let endpoint = Endpoint {
            network: "shop_default".into(),
            result: json!({ "ips": [{ "address": "10.0.0.2/24" }] }),
            ..Endpoint::default()
        };
        nerdctl.show_names("one", "shop-web-1", &names, &[endpoint]);
        let about = std::fs::read(nerdctl.hosts("one").join("meta.json")).unwrap();
        let about: serde_json::Value = serde_json::from_slice(&about).unwrap();
        let address = &about["Networks"]["shop_default"]["ips"][0]["address"];
        assert_eq!(address, "10.0.0.2/24");

        // A recreate: the new one takes the name before the old one goes.
        nerdctl.show(&state, "two", "shop-web-1", &[], ["data"].into_iter());
        nerdctl.hide("one", "shop-web-1").unwrap();
        assert!(!folder.is_symlink() && state.container("one").exists());
        assert!(!nerdctl.hosts("one").exists());
        assert_eq!(std::fs::read_to_string(&name).unwrap(), "two");
        nerdctl.hide("two", "shop-web-1").unwrap();
        nerdctl.hide("two", "shop-web-1").unwrap();
        assert!(!name.exists());
        nerdctl.hide_volume("data");
        assert!(!volume.is_symlink() && state.volume("data").exists());
    }
}
