//! Where a registry's images can be had: `certs.d/<host>/hosts.toml` of containerd, certificates beside it as Docker has
//! them, and what follows from the name alone.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use indexmap::IndexMap;
use reqwest::Url;
use serde::Deserialize;

use super::RegistryError;

/// Docker's own registry, by the name in references and by that of its server.
const DOCKER: &str = "docker.io";
pub(super) const DOCKER_HOST: &str = "registry-1.docker.io";

/// What a host is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// Content by digest.
    Pull,
    /// What a tag means.
    Resolve,
    Push,
}

/// How to speak TLS with a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) skip_verify: bool,
    pub(super) authorities: Vec<PathBuf>,
    /// Certificate and key; both may be in one file.
    pub(super) clients: Vec<(PathBuf, Option<PathBuf>)>,
}

/// A server that has images of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As `https://registry-1.docker.io/v2`, without a slash at the end.
    pub(super) base: Url,
    /// Host and port, for messages and credentials.
    pub(super) host: String,
    pub(super) capabilities: Vec<Capability>,
    pub(super) tls: Tls,
    pub(super) headers: Vec<(String, String)>,
    /// For a mirror: whose images are wanted of it.
    pub(super) namespace: Option<String>,
    /// The server before it with another scheme: asked only if that scheme turns out to be wrong.
    pub(super) is_second_try: bool,
}

impl Endpoint {
    pub(super) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

const ALL: [Capability; 3] = [Capability::Pull, Capability::Resolve, Capability::Push];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostsFile {
    server: Option<String>,
    host: IndexMap<String, HostSettings>,
    // The rest is about the server. Not flattened, which would lose the lines of what is wrong.
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: bool,
    header: IndexMap<String, toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostSettings {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    skip_verify: Option<bool>,
    override_path: bool,
    header: IndexMap<String, toml::Value>,
}

/// Servers to ask for images of `registry`, as it is called in references: mirrors first, the registry itself last.
/// The first of `folders` that says something about it counts. Blocks.
pub(super) fn endpoints(
    folders: &[PathBuf],
    registry: &str,
) -> Result<Vec<Endpoint>, RegistryError> {
    for folder in folders {
        for name in folder_names(registry) {
            let folder = folder.join(&name);
            let path = folder.join("hosts.toml");
            match std::fs::read_to_string(&path) {
                Ok(text) => return from_file(&path, &text, registry),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(RegistryError::Settings {
                        path,
                        message: error.to_string(),
                    });
                }
            }
            if let Some(tls) = certificates(&folder) {
                return Ok(defaults(registry, &tls));
            }
        }
    }
    Ok(defaults(registry, &Tls::default()))
}

/// Folders that may be meant for `registry`, as containerd looks for them.
fn folder_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.split_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".into());
    names
}

/// Docker's way: `*.crt` are authorities, `x.cert` and `x.key` are for the client.
fn certificates(folder: &Path) -> Option<Tls> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let mut tls = Tls::default();
    for file in files {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("crt") => tls.authorities.push(file),
            Some("cert") => {
                let key = Some(file.with_extension("key")).filter(|key| key.exists());
                tls.clients.push((file, key));
            }
            _ => {}
        }
    }
    (tls != Tls::default()).then_some(tls)
}

/// What follows from the name: TLS, but a registry on this machine may do without.
fn defaults(registry: &str, tls: &Tls) -> Vec<Endpoint> {
    let endpoint = |scheme: &str, is_second_try: bool| {
        let host = if registry == DOCKER {
            DOCKER_HOST
        } else {
            registry
        };
        let base = Url::parse(&format!("{scheme}://{host}/v2")).ok()?;
        Some(Endpoint {
            base,
            host: host.to_owned(),
            capabilities: ALL.to_vec(),
            tls: Tls {
                // What is on this machine need not prove who it is.
                skip_verify: tls.skip_verify || is_second_try,
                ..tls.clone()
            },
            headers: Vec::new(),
            namespace: None,
            is_second_try,
        })
    };
    let has_certificates = *tls != Tls::default();
    let is_local = is_local(registry) && !registry.ends_with(":443") && !has_certificates;
    let found = if is_local {
        vec![endpoint("http", false), endpoint("https", true)]
    } else {
        vec![endpoint("https", false)]
    };
    found.into_iter().flatten().collect()
}

/// Whether the registry is on this machine, where Docker asks for no TLS.
pub(super) fn is_local(registry: &str) -> bool {
    let host = registry.split_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || std::net::IpAddr::from_str(host).is_ok_and(|address| address.is_loopback())
}

fn from_file(path: &Path, text: &str, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let invalid = |message: String| RegistryError::Settings {
        path: path.to_owned(),
        message,
    };
    let file: HostsFile = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        invalid(format!("{place}{}", error.message()))
    })?;
    let folder = path.parent().unwrap_or(path);
    let origin = HostSettings {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        header: file.header,
    };
    let mut endpoints = Vec::new();
    for (address, settings) in &file.host {
        let endpoint = settings.endpoint(folder, address, Some(registry));
        endpoints.push(endpoint.map_err(invalid)?);
    }
    if let Some(server) = file.server.as_deref().filter(|server| !server.is_empty()) {
        endpoints.push(origin.endpoint(folder, server, None).map_err(invalid)?);
    } else {
        let tls = origin.tls(folder).map_err(invalid)?;
        endpoints.extend(defaults(registry, &tls));
    }
    Ok(endpoints)
}

impl HostSettings {
    /// `mirrored`: the registry whose images the host mirrors.
    fn endpoint(
        &self,
        folder: &Path,
        address: &str,
        mirrored: Option<&str>,
    ) -> Result<Endpoint, String> {
        let with_scheme = if address.contains("://") {
            address.to_owned()
        } else {
            let scheme = if is_local(address) { "http" } else { "https" };
            format!("{scheme}://{address}")
        };
        let mut base = Url::parse(&with_scheme)
            .map_err(|error| format!("`{address}` is not an address: {error}"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(format!("`{address}` is neither http nor https"));
        }
        let name = base.host_str().ok_or("an address without a host")?;
        let host = match base.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let path = base.path().trim_end_matches('/').to_owned();
        let is_complete = self.override_path || path.ends_with("/v2");
        base.set_path(&if is_complete { path } else { path + "/v2" });
        base.set_query(None);
        let capabilities = match &self.capabilities {
            None => ALL.to_vec(),
            Some(names) => names
                .iter()
                .map(|name| match name.as_str() {
                    "pull" => Ok(Capability::Pull),
                    "resolve" => Ok(Capability::Resolve),
                    "push" => Ok(Capability::Push),
                    other => Err(format!(
                        "`{other}` is not a capability; it is one of pull, resolve, push"
                    )),
                })
                .collect::<Result<_, _>>()?,
        };
        let mut headers = Vec::new();
        for (name, value) in &self.header {
            for value in texts(value, "header")? {
                headers.push((name.clone(), value));
            }
        }
        let is_docker = mirrored == Some(DOCKER) && host == DOCKER_HOST;
        Ok(Endpoint {
            namespace: mirrored
                .filter(|registry| *registry != host && !is_docker)
                .map(ToOwned::to_owned),
            tls: self.tls(folder)?,
            base,
            host,
            capabilities,
            headers,
            is_second_try: false,
        })
    }

    fn tls(&self, folder: &Path) -> Result<Tls, String> {
        let path = |name: String| folder.join(name);
        let authorities = match &self.ca {
            None => Vec::new(),
            Some(value) => texts(value, "ca")?.into_iter().map(path).collect(),
        };
        let clients = match &self.client {
            None => Vec::new(),
            Some(toml::Value::Array(items)) => items
                .iter()
                .map(|item| match texts(item, "client")?.as_slice() {
                    [whole] => Ok((path(whole.clone()), None)),
                    [certificate, key] => Ok((path(certificate.clone()), Some(path(key.clone())))),
                    _ => Err("`client` wants a certificate and a key in each pair".to_owned()),
                })
                .collect::<Result<_, _>>()?,
            Some(value) => texts(value, "client")?
                .into_iter()
                .map(|whole| (path(whole), None))
                .collect(),
        };
        Ok(Tls {
            skip_verify: self.skip_verify.unwrap_or(false),
            authorities,
            clients,
        })
    }
}

/// One text or a list of them.
fn texts(value: &toml::Value, key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` wants a text or a list of texts");
    match value {
        toml::Value::String(text) => Ok(vec![text.clone()]),
        toml::Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(ToOwned::to_owned).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(registry: &str, text: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join(registry.replace(':', "_") + "_");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("hosts.toml"), text).unwrap();
        endpoints(&[folder.path().to_owned()], registry)
    }

    fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints
            .iter()
            .map(|endpoint| endpoint.base.as_str())
            .collect()
    }

    #[test]
    fn without_a_file_the_name_decides() {
        let of = |registry| endpoints(&[], registry).unwrap();
        assert_eq!(bases(&of("ghcr.io")), ["https://ghcr.io/v2"]);
        assert_eq!(bases(&of("docker.io")), ["https://registry-1.docker.io/v2"]);
        let local = of("localhost:5000");
        assert_eq!(
            bases(&local),
            ["http://localhost:5000/v2", "https://localhost:5000/v2"]
        );
        assert!(local[1].tls.skip_verify);
        assert_eq!(bases(&of("127.0.0.1:5000")).len(), 2);
        assert_eq!(bases(&of("10.0.0.1:5000")), ["https://10.0.0.1:5000/v2"]);
    }

    #[test]
    fn mirrors_come_before_the_server_in_the_order_of_the_file() {
        let found = read(
            "registry.test:5000",
            r#"
            server = "https://registry.test:5000"
            ca = ["own.crt"]
            [host."http://second.test/proxy"]
              capabilities = ["pull", "resolve"]
            [host."https://a-third.test/v2/mirror"]
              override_path = true
              skip_verify = true
              client = [["c.cert", "c.key"], ["both.pem"]]
              [host."https://a-third.test/v2/mirror".header]
                x-who = ["me", "you"]
            "#,
        )
        .unwrap();
        assert_eq!(
            bases(&found),
            [
                "http://second.test/proxy/v2",
                "https://a-third.test/v2/mirror",
                "https://registry.test:5000/v2"
            ]
        );
        assert!(!found[0].can(Capability::Push));
        assert_eq!(found[0].namespace.as_deref(), Some("registry.test:5000"));
        assert_eq!(found[1].headers.len(), 2);
        assert!(found[1].tls.skip_verify);
        assert_eq!(found[1].tls.clients.len(), 2);
        assert_eq!(found[2].namespace, None);
        assert!(found[2].tls.authorities[0].is_absolute());
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_line() {
        let error = read("a.test:1", "server = \"https://a.test\"\nskip_verify = 3\n");
        let text = error.unwrap_err().to_string();
        assert!(text.contains("hosts.toml: line 2: "), "{text}");
        let error = read(
            "a.test:1",
            "[host.\"https://b.test\"]\ncapabilities = [\"fly\"]",
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("`fly` is not a capability")
        );
        assert!(read("a.test:1", "server = \"ftp://b.test\"").is_err());
    }

    #[test]
    fn certificates_without_a_file_count_as_with_docker() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("localhost:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let found = endpoints(&[folder.path().to_owned()], "localhost:5000").unwrap();
        assert_eq!(bases(&found), ["https://localhost:5000/v2"]);
        assert_eq!(found[0].tls.authorities, [host.join("ca.crt")]);
        assert_eq!(
            found[0].tls.clients,
            [(host.join("me.cert"), Some(host.join("me.key")))]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,80}", registry in "[a-z.:0-9]{0,12}") {
            let _any = from_file(Path::new("/x/hosts.toml"), &text, &registry);
            let _defaults = defaults(&registry, &Tls::default());
        }
    }
}
