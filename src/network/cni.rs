//! Execution of plugin chains by the CNI specification, with results cached in the form of libcni.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::conflist::Conflist;
use super::error::io_failed;
use super::process;
use super::{NetworkError, PublishedPort};
use crate::state::{create_private_dir, write_atomic};

/// Folders of plugins besides those of `CNI_PATH`.
const PLUGIN_FOLDERS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// `dhcp` waits for a server; everything else is fast.
const LIMIT: Duration = Duration::from_mins(1);

/// The folders in which plugins are looked for.
pub(super) fn plugin_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("CNI_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect();
    for folder in PLUGIN_FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Finds the program of a plugin.
pub(super) fn find_plugin(plugin: &str, network: &str) -> Result<PathBuf, NetworkError> {
    let folders = plugin_folders();
    let found = folders
        .iter()
        .map(|folder| folder.join(plugin))
        .find(|path| !plugin.is_empty() && !plugin.contains('/') && path.is_file());
    found.ok_or_else(|| NetworkError::Plugin {
        plugin: plugin.into(),
        network: network.into(),
        message: format!("not found in {}", process::list_folders(&folders)),
    })
}

/// What is asked of a chain for one interface.
#[derive(Clone, Debug)]
pub(super) struct Attach<'a> {
    pub(super) container: &'a str,
    pub(super) namespace: &'a Path,
    pub(super) interface: &'a str,
    pub(super) address: Option<IpAddr>,
    pub(super) mac: Option<&'a str>,
    pub(super) ports: &'a [PublishedPort],
}

impl Attach<'_> {
    /// Arguments for plugins that know no capabilities.
    fn arguments(&self) -> Vec<[String; 2]> {
        let mut arguments = vec![["IgnoreUnknown".to_owned(), "1".to_owned()]];
        if let Some(address) = self.address {
            arguments.push(["IP".into(), address.to_string()]);
        }
        if let Some(mac) = self.mac {
            arguments.push(["MAC".into(), mac.into()]);
        }
        arguments
    }

    /// Values of capabilities by name.
    fn capabilities(&self) -> Map<String, Value> {
        let mut values = Map::new();
        if !self.ports.is_empty() {
            let mappings: Vec<Value> = self
                .ports
                .iter()
                .map(|port| {
                    json!({
                        "hostPort": port.host_port,
                        "containerPort": port.container_port,
                        "protocol": port.protocol,
                        "hostIP": port.host_ip,
                    })
                })
                .collect();
            values.insert("portMappings".into(), mappings.into());
        }
        if let Some(address) = self.address {
            values.insert("ips".into(), json!([address.to_string()]));
        }
        if let Some(mac) = self.mac {
            values.insert("mac".into(), mac.into());
        }
        values
    }
}

/// An attachment by plugins, as far as its removal has to know.
#[derive(Clone, Debug)]
struct Attached {
    list: Conflist,
    container: String,
    interface: String,
    arguments: Vec<[String; 2]>,
    capabilities: Map<String, Value>,
    result: Value,
}

impl Attached {
    /// Name of its file among libcni's cached results.
    fn file(&self) -> String {
        file(&self.list.name, &self.container, &self.interface)
    }

    fn render(&self, namespace: &Path) -> Vec<u8> {
        json!({
            "kind": "cniCacheV1",
            "containerId": self.container,
            "config": BASE64.encode(&self.list.render()),
            "ifName": self.interface,
            "networkName": self.list.name,
            "netns": namespace,
            "cniArgs": self.arguments,
            "capabilityArgs": self.capabilities,
            "result": self.result,
        })
        .to_string()
        .into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        if text("kind")? != "cniCacheV1" {
            return None;
        }
        Some(Self {
            list: Conflist::parse(&BASE64.decode(text("config")?.as_bytes()).ok()?)?,
            container: text("containerId")?.into(),
            interface: text("ifName")?.into(),
            arguments: json
                .get("cniArgs")
                .and_then(|list| serde_json::from_value(list.clone()).ok())
                .unwrap_or_default(),
            capabilities: json
                .get("capabilityArgs")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            result: json.get("result").cloned().unwrap_or_default(),
        })
    }

    /// Runs one plugin; returns what it printed.
    fn run(
        &self,
        plugin: &Value,
        command: &str,
        namespace: Option<&Path>,
        previous: Option<&Value>,
    ) -> Result<Value, NetworkError> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let failed = |message: String| NetworkError::Plugin {
            plugin: kind.into(),
            network: self.list.name.clone(),
            message,
        };
        let program = find_plugin(kind, &self.list.name)?;
        let config = self.config(plugin, previous);
        let arguments: Vec<String> = self.arguments.iter().map(|pair| pair.join("=")).collect();
        let mut process = process::command(&program);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_IFNAME", &self.interface)
            .env("CNI_ARGS", arguments.join(";"))
            .env("CNI_NETNS", namespace.unwrap_or(Path::new("")));
        if let Ok(path) = std::env::join_paths(plugin_folders()) {
            process.env("CNI_PATH", path);
        }
        let finished = process::run(&mut process, config.to_string().as_bytes(), LIMIT)
            .map_err(|error| failed(error.to_string()))?;
        let printed: Option<Value> = serde_json::from_slice(&finished.stdout).ok();
        if finished.status.success() {
            return Ok(printed.unwrap_or_default());
        }
        let message = |json: &Value| {
            let text = |key: &str| json.get(key).and_then(Value::as_str);
            let text = [text("msg"), text("details")];
            let text: Vec<&str> = text
                .into_iter()
                .flatten()
                .filter(|text| !text.is_empty())
                .collect();
            (!text.is_empty()).then(|| text.join(": "))
        };
        let message = printed.as_ref().and_then(message);
        Err(failed(
            message.unwrap_or_else(|| process::complaint(&finished)),
        ))
    }

    /// Configuration of one plugin as it gets it on its standard input.
    fn config(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        let values: BTreeMap<&String, &Value> = self
            .capabilities
            .iter()
            .filter(|(name, _)| plugin["capabilities"][name.as_str()] == true)
            .collect();
        if !values.is_empty() {
            config["runtimeConfig"] = json!(values);
        }
        config["name"] = self.list.name.as_str().into();
        config["cniVersion"] = self.list.version.as_str().into();
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }

    /// Runs the chain backwards, all of it even if a plugin fails, and returns the first failure.
    fn detach(&self, namespace: Option<&Path>) -> Result<(), NetworkError> {
        // Before 0.4.0 the specification gave no result to DEL.
        let old = ["0.1", "0.2", "0.3"]
            .iter()
            .any(|old| self.list.version.starts_with(old));
        let previous = (!old && !self.result.is_null()).then_some(&self.result);
        let mut outcome = Ok(());
        for plugin in self.list.plugins.iter().rev() {
            let done = self.run(plugin, "DEL", namespace, previous).map(drop);
            outcome = outcome.and(done);
        }
        outcome
    }
}

fn file(network: &str, container: &str, interface: &str) -> String {
    format!("{network}-{container}-{interface}")
}

/// Runs the chain of `list` and returns its result. What a failed chain did is undone.
pub(super) fn attach(
    list: &Conflist,
    request: &Attach<'_>,
    cache: &Path,
) -> Result<Value, NetworkError> {
    let mut attached = Attached {
        list: list.clone(),
        container: request.container.into(),
        interface: request.interface.into(),
        arguments: request.arguments(),
        capabilities: request.capabilities(),
        result: Value::Null,
    };
    let mut previous: Option<Value> = None;
    for plugin in &list.plugins {
        match attached.run(plugin, "ADD", Some(request.namespace), previous.as_ref()) {
            Ok(result) => previous = Some(result),
            Err(error) => {
                attached.result = previous.unwrap_or_default();
                if let Err(failure) = attached.detach(Some(request.namespace)) {
                    tracing::warn!(%failure, "cannot undo a failed attachment");
                }
                return Err(error);
            }
        }
    }
    attached.result = previous.unwrap_or_default();
    create_private_dir(cache)?;
    write_atomic(
        &cache.join(attached.file()),
        &attached.render(request.namespace),
    )?;
    Ok(attached.result)
}

/// Undoes [`attach`], by the configuration and the result of that time. Nothing cached means nothing attached.
pub(super) fn detach(
    network: &str,
    container: &str,
    interface: &str,
    namespace: Option<&Path>,
    cache: &Path,
) -> Result<(), NetworkError> {
    let path = cache.join(file(network, container, interface));
    let Ok(bytes) = std::fs::read(&path) else {
        return Ok(());
    };
    // What failed can be tried again as long as the file is there.
    if let Some(attached) = Attached::parse(&bytes) {
        attached.detach(namespace)?;
    }
    std::fs::remove_file(&path).map_err(io_failed(format!("remove {}", path.display())))
}

/// Attachments in the cache, as network, container and interface, whose container's id starts with `prefix`.
pub(super) fn cached(cache: &Path, prefix: &str) -> Vec<(String, String, String)> {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(prefix))
        .filter_map(|entry| Attached::parse(&std::fs::read(entry.path()).ok()?))
        .filter(|attached| attached.container.starts_with(prefix))
        .map(|attached| (attached.list.name, attached.container, attached.interface))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> Attached {
        let text = r#"{"cniVersion":"1.0.0","name":"net","plugins":[
            {"type":"ptp","capabilities":{"ips":true}},
            {"type":"portmap","capabilities":{"portMappings":true,"ips":false}}]}"#;
        let request = Attach {
            container: "compose-shop-web-1",
            namespace: Path::new("/run/x"),
            interface: "eth0",
            address: Some([10, 1, 0, 9].into()),
            mac: None,
            ports: &[PublishedPort {
                host_ip: [0, 0, 0, 0].into(),
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".into(),
            }],
        };
        Attached {
            list: Conflist::parse(text.as_bytes()).expect("a list"),
            container: request.container.into(),
            interface: request.interface.into(),
            arguments: request.arguments(),
            capabilities: request.capabilities(),
            result: json!({ "cniVersion": "1.0.0" }),
        }
    }

    #[test]
    fn a_plugin_gets_the_capabilities_that_it_declares() {
        let attached = attached();
        let config = attached.config(&attached.list.plugins[0], None);
        assert_eq!(config["runtimeConfig"], json!({ "ips": ["10.1.0.9"] }));
        assert_eq!(
            (&config["name"], &config["cniVersion"]),
            (&json!("net"), &json!("1.0.0"))
        );
        let config = attached.config(&attached.list.plugins[1], Some(&attached.result));
        assert_eq!(config["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!(config["runtimeConfig"].get("ips"), None);
        assert_eq!(config["prevResult"], attached.result);
    }

    #[test]
    fn a_cached_attachment_is_read_back_whole() {
        let attached = attached();
        let read = Attached::parse(&attached.render(Path::new("/run/x"))).expect("our own form");
        assert_eq!(read.list, attached.list);
        assert_eq!(read.arguments, attached.arguments);
        assert_eq!(read.capabilities, attached.capabilities);
        assert_eq!(read.file(), "net-compose-shop-web-1-eth0");
    }

    #[test]
    fn an_unknown_plugin_is_refused_with_the_folders_that_were_searched() {
        for plugin in ["no-such-plugin", "", "../sh"] {
            let error = find_plugin(plugin, "net")
                .expect_err("not there")
                .to_string();
            assert!(error.contains("/opt/cni/bin"), "{error}");
        }
    }
}
