//! CNI configuration lists: ours are written from a network's record, those of others are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::io_failed;
use super::layout::{Layout, digest};
use super::options::{self, MTU};
use super::subnet::Pool;
use super::{NetworkError, NetworkRecord, NetworkSpec, Subnet};
use crate::state::write_atomic;

/// Version of the CNI specification that our lists follow.
const VERSION: &str = "1.0.0";

/// Key that marks a list as ours; its value is the network's id.
const MARK: &str = "composeNetwork";

/// A list of plugins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conflist {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) plugins: Vec<Value>,
    /// Id of our network, if the list is ours.
    pub(super) mark: Option<String>,
    labels: BTreeMap<String, String>,
    id: Option<String>,
}

impl Conflist {
    /// Reads a list, or a single plugin's configuration as a list of one; `None` if it is neither.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        let plugins = match json.get("plugins") {
            Some(Value::Array(plugins)) => plugins.clone(),
            Some(_) => return None,
            None => vec![json.clone()],
        };
        let complete = !plugins.is_empty()
            && plugins
                .iter()
                .all(|plugin| plugin.get("type").is_some_and(Value::is_string));
        let labels = json
            .get("nerdctlLabels")
            .and_then(|labels| serde_json::from_value(labels.clone()).ok())
            .unwrap_or_default();
        complete.then_some(Self {
            name: text("name").filter(|name| !name.is_empty() && !name.contains(['/', '\0']))?,
            version: text("cniVersion").unwrap_or_else(|| "0.2.0".into()),
            plugins,
            mark: text(MARK),
            labels,
            id: text("nerdctlID"),
        })
    }

    /// The list of a network of ours.
    pub(super) fn of(record: &NetworkRecord, layout: &Layout) -> Result<Self, NetworkError> {
        let spec = &record.spec;
        let ipam = ipam(record, layout)?;
        let plugins = match options::plugin(spec) {
            None => {
                let mut bridge = json!({
                    "type": "bridge",
                    "bridge": record.bridge,
                    "isGateway": true,
                    "ipMasq": !spec.internal && options::masquerade(spec),
                    "hairpinMode": true,
                    "capabilities": { "ips": true, "mac": true },
                    "ipam": ipam,
                });
                if let Some(mtu) = options::mtu(spec)? {
                    bridge["mtu"] = mtu.into();
                }
                vec![
                    bridge,
                    json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
                    json!({ "type": "firewall", "ingressPolicy": "same-bridge" }),
                    json!({ "type": "tuning" }),
                ]
            }
            Some(plugin) => vec![plugin_config(plugin, spec, ipam)?],
        };
        Ok(Self {
            name: spec.name.clone(),
            version: VERSION.into(),
            plugins,
            mark: Some(record.id.clone()),
            labels: spec.labels.clone(),
            id: None,
        })
    }

    /// JSON of the list. There is no `nerdctlID`, so that nerdctl shows and uses the network but never removes it.
    pub(super) fn render(&self) -> Vec<u8> {
        let json = json!({
            "cniVersion": self.version,
            "name": self.name,
            (MARK): self.mark,
            "nerdctlLabels": self.labels,
            "plugins": self.plugins,
        });
        let mut bytes = format!("{json:#}").into_bytes();
        bytes.push(b'\n');
        bytes
    }

    /// The network that a list of somebody else describes.
    pub(super) fn record(&self, modified: Timestamp) -> NetworkRecord {
        let main = &self.plugins[0];
        let text = |key: &str| main.get(key).and_then(Value::as_str).unwrap_or_default();
        let driver = text("type").to_owned();
        NetworkRecord {
            id: self
                .id
                .clone()
                .unwrap_or_else(|| digest(&[self.name.as_bytes()])),
            bridge: if driver == "bridge" {
                Some(text("bridge"))
                    .filter(|bridge| !bridge.is_empty())
                    .unwrap_or("cni0")
                    .to_owned()
            } else {
                String::new()
            },
            subnets: subnets(main.get("ipam").unwrap_or(&Value::Null)),
            created_at: modified,
            foreign: true,
            spec: NetworkSpec {
                name: self.name.clone(),
                driver: Some(driver),
                labels: self.labels.clone(),
                ..NetworkSpec::default()
            },
        }
    }
}

/// Configuration of the `host-local` plugin that matches our own choice of addresses.
fn ipam(record: &NetworkRecord, layout: &Layout) -> Result<Value, NetworkError> {
    let Some(subnet) = record.subnets.first() else {
        return Ok(json!({}));
    };
    let mut range = json!({ "subnet": subnet.subnet, "gateway": subnet.gateway });
    if let Some(pool) = Pool::read(&record.spec.pools)?
        && pool.range.is_some()
    {
        let (first, last) = pool.bounds();
        range["rangeStart"] = first.to_string().into();
        range["rangeEnd"] = last.to_string().into();
    }
    let mut ipam = json!({ "type": "host-local", "ranges": [[range]] });
    if !record.spec.internal {
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
    }
    if !layout.is_system() {
        ipam["dataDir"] = layout.addresses().to_string_lossy().into();
    }
    Ok(ipam)
}

/// Configuration of a plugin that the file names as its driver.
fn plugin_config(plugin: &str, spec: &NetworkSpec, ipam: Value) -> Result<Value, NetworkError> {
    let mut config = Map::new();
    config.insert("type".into(), plugin.into());
    for (key, value) in &spec.driver_opts {
        let (key, value) = match key.as_str() {
            "parent" => ("master", Value::from(value.as_str())),
            "macvlan_mode" | "ipvlan_mode" => ("mode", value.as_str().into()),
            MTU => continue,
            // The plugin's own keys: numbers, booleans, lists and objects are written as JSON.
            other => (
                other,
                serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into()),
            ),
        };
        config.insert(key.into(), value);
    }
    if let Some(mtu) = options::mtu(spec)? {
        config.insert("mtu".into(), mtu.into());
    }
    if plugin == "ptp" && !config.contains_key("ipMasq") {
        config.insert("ipMasq".into(), (!spec.internal).into());
    }
    config.insert("capabilities".into(), json!({ "ips": true, "mac": true }));
    if ipam.get("type").is_some() && !config.contains_key("ipam") {
        config.insert("ipam".into(), ipam);
    }
    Ok(config.into())
}

/// Subnets of an `ipam` section in the forms of `host-local`.
fn subnets(ipam: &Value) -> Vec<Subnet> {
    let sets = ipam.get("ranges").and_then(Value::as_array);
    let ranges = sets
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
        .chain(std::iter::once(ipam));
    ranges
        .filter_map(|range| {
            let subnet: IpNet = range.get("subnet")?.as_str()?.parse().ok()?;
            let subnet = subnet.trunc();
            let given = range.get("gateway").and_then(Value::as_str);
            Some(Subnet {
                subnet,
                gateway: given
                    .and_then(|text| text.parse().ok())
                    .or_else(|| subnet.hosts().next())?,
            })
        })
        .collect()
}

/// Writes the list of `record` if it is not there as it should be.
pub(super) fn write(record: &NetworkRecord, layout: &Layout) -> Result<(), NetworkError> {
    let path = layout.conflist(&record.spec.name);
    let bytes = Conflist::of(record, layout)?.render();
    if std::fs::read(&path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let failed = || io_failed(format!("write {}", path.display()));
    std::fs::create_dir_all(layout.conflists()).map_err(failed())?;
    let _lock = lock(layout)?;
    write_atomic(&path, &bytes)?;
    // Other tools read it without being root.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).map_err(failed())
}

/// Removes the list of `record`.
pub(super) fn remove(record: &NetworkRecord, layout: &Layout) -> Result<(), NetworkError> {
    let path = layout.conflist(&record.spec.name);
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(layout)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_failed(format!("remove {}", path.display()))),
    }
}

fn lock(layout: &Layout) -> Result<File, NetworkError> {
    let path = layout.conflist_lock();
    let failed = || io_failed(format!("lock {}", path.display()));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed())?;
    file.lock().map_err(failed())?;
    Ok(file)
}

/// Reads the lists in `folder`. Files that are no lists are passed over, as libcni does.
pub(super) fn read_folder(folder: &Path) -> Result<Vec<(Conflist, Timestamp)>, NetworkError> {
    let failed = || io_failed(format!("read {}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed())?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("conflist" | "conf" | "json")) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut lists = Vec::new();
    for path in paths {
        let Some(list) = std::fs::read(&path)
            .ok()
            .and_then(|bytes| Conflist::parse(&bytes))
        else {
            tracing::debug!(path = %path.display(), "not a CNI configuration");
            continue;
        };
        let modified = std::fs::metadata(&path)
            .and_then(|data| data.modified())
            .ok()
            .and_then(|time| Timestamp::try_from(time).ok())
            .unwrap_or_default();
        lists.push((list, modified));
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::IpamPool;
    use crate::state::StateRoot;

    fn layout() -> Layout {
        Layout::new(StateRoot::new(None))
    }

    fn record(spec: NetworkSpec) -> NetworkRecord {
        NetworkRecord {
            id: "ab".repeat(32),
            bridge: "br-abababababab".into(),
            subnets: vec![Pool::new("10.1.0.0/24".parse().expect("a subnet")).record()],
            spec,
            ..NetworkRecord::default()
        }
    }

    fn named(driver: Option<&str>, options: &[(&str, &str)]) -> NetworkSpec {
        NetworkSpec {
            name: "shop_default".into(),
            driver: driver.map(Into::into),
            driver_opts: options
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..NetworkSpec::default()
        }
    }

    fn written(spec: NetworkSpec) -> Value {
        let list = Conflist::of(&record(spec), &layout()).expect("a list");
        serde_json::from_slice(&list.render()).expect("JSON")
    }

    #[test]
    fn a_bridge_network_is_a_chain_that_nerdctl_knows() {
        let json = written(named(None, &[]));
        let types: Vec<_> = json["plugins"]
            .as_array()
            .expect("plugins")
            .iter()
            .map(|plugin| plugin["type"].as_str().expect("a type"))
            .collect();
        assert_eq!(types, ["bridge", "portmap", "firewall", "tuning"]);
        assert_eq!(json["cniVersion"], "1.0.0");
        assert_eq!(json.get("nerdctlID"), None);
        assert_eq!(
            json["plugins"][0]["ipam"]["ranges"],
            json!([[{ "subnet": "10.1.0.0/24", "gateway": "10.1.0.1" }]])
        );
        assert_eq!(json["plugins"][0]["ipMasq"], true);
    }

    #[test]
    fn an_internal_network_has_no_way_out() {
        let mut spec = named(None, &[]);
        spec.internal = true;
        let json = written(spec);
        assert_eq!(json["plugins"][0]["ipMasq"], false);
        assert_eq!(json["plugins"][0]["ipam"].get("routes"), None);
    }

    #[test]
    fn driver_options_become_keys_of_the_plugin() {
        let options = [("parent", "eth7"), ("macvlan_mode", "vepa"), (MTU, "1400")];
        let plugin = &written(named(Some("macvlan"), &options))["plugins"][0];
        assert_eq!(plugin["master"], "eth7");
        assert_eq!(plugin["mode"], "vepa");
        assert_eq!(plugin["mtu"], 1400);
        assert_eq!(plugin.get("parent"), None);
        let plugin = &written(named(Some("ptp"), &[("ipMasq", "false")]))["plugins"][0];
        assert_eq!(plugin["ipMasq"], false);
    }

    #[test]
    fn a_range_of_the_file_is_kept_by_plugins_too() {
        let mut spec = named(None, &[]);
        spec.pools = vec![IpamPool {
            subnet: Some("10.1.0.0/24".into()),
            ip_range: Some("10.1.0.16/28".into()),
            ..IpamPool::default()
        }];
        let range = &written(spec)["plugins"][0]["ipam"]["ranges"][0][0];
        assert_eq!(
            (&range["rangeStart"], &range["rangeEnd"]),
            (&json!("10.1.0.16"), &json!("10.1.0.31"))
        );
    }

    #[test]
    fn what_we_write_we_read() {
        let list = Conflist::of(&record(named(None, &[])), &layout()).expect("a list");
        assert_eq!(Conflist::parse(&list.render()), Some(list));
    }

    #[test]
    fn a_list_of_another_tool_becomes_a_network() {
        let text = r#"{"cniVersion":"1.0.0","name":"bridge","nerdctlID":"17f2","nerdctlLabels":{"a":"b"},
            "plugins":[{"type":"bridge","bridge":"nerdctl0","ipam":{"ranges":[[{"subnet":"10.4.0.0/24","gateway":"10.4.0.1"}]]}}]}"#;
        let record = Conflist::parse(text.as_bytes())
            .expect("a list")
            .record(Timestamp::default());
        assert_eq!(
            (record.id.as_str(), record.bridge.as_str()),
            ("17f2", "nerdctl0")
        );
        assert_eq!(record.subnets[0].subnet.to_string(), "10.4.0.0/24");
        assert!(record.foreign);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one_and_the_old_form_of_a_subnet_is_read() {
        let text = r#"{"cniVersion":"0.3.1","name":"old","type":"ptp","ipam":{"type":"host-local","subnet":"10.5.0.0/24"}}"#;
        let list = Conflist::parse(text.as_bytes()).expect("a list");
        assert_eq!(list.plugins.len(), 1);
        let record = list.record(Timestamp::default());
        assert_eq!(record.subnets[0].gateway.to_string(), "10.5.0.1");
        assert_eq!(record.bridge, "");
    }

    #[test]
    fn what_is_no_list_is_passed_over() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"name":"a"}"#,
            r#"{"name":"a","plugins":[]}"#,
            r#"{"name":"../a","type":"x"}"#,
        ] {
            assert_eq!(Conflist::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_makes_the_reader_panic(text in r#"[{}\[\]":,a-z0-9]{0,60}"#) {
            if let Some(list) = Conflist::parse(text.as_bytes()) {
                drop(list.record(Timestamp::default()));
            }
        }
    }
}
