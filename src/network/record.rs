//! Records of networks and sandboxes on disk.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::conflist::{self, Conflist};
use super::error::io_failed;
use super::firewall::{Bridge, Forward, Rules};
use super::layout::Layout;
use super::{Endpoint, NetworkError, NetworkRecord, PublishedPort, SandboxRecord, options};
use crate::state::{StateError, Versioned, create_private_dir, read_json, write_json};

/// Names of the files and folders in `folder`, sorted; none if there is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, NetworkError> {
    let failed = || io_failed(format!("read {}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed())?.file_name();
        names.extend(name.into_string());
    }
    names.sort();
    Ok(names)
}

/// The networks that we made.
pub(super) fn own_networks(layout: &Layout) -> Result<Vec<NetworkRecord>, NetworkError> {
    let mut records = Vec::new();
    for id in names(&layout.networks())? {
        if id != "sandboxes"
            && let Some(record) = read_json::<NetworkRecord>(&layout.network_record(&id))?
        {
            records.push(record);
        }
    }
    Ok(records)
}

/// All networks, by name: ours, then those that conflists of others describe.
pub(super) fn networks(layout: &Layout) -> Result<Vec<NetworkRecord>, NetworkError> {
    let mut records = own_networks(layout)?;
    for folder in layout.foreign_conflists() {
        for (list, modified) in conflist::read_folder(&folder)? {
            let known = records.iter().any(|record| record.spec.name == list.name);
            if !known && list.mark.is_none() {
                records.push(list.record(modified));
            }
        }
    }
    records.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    Ok(records)
}

/// One network by name. Ours go first.
pub(super) fn network(layout: &Layout, name: &str) -> Result<Option<NetworkRecord>, NetworkError> {
    let own = own_networks(layout)?;
    if let Some(record) = own.into_iter().find(|record| record.spec.name == name) {
        return Ok(Some(record));
    }
    let records = networks(layout)?;
    Ok(records.into_iter().find(|record| record.spec.name == name))
}

/// The chain of plugins of a network.
pub(super) fn chain(layout: &Layout, network: &NetworkRecord) -> Result<Conflist, NetworkError> {
    if !network.foreign {
        return Conflist::of(network, layout);
    }
    for folder in layout.foreign_conflists() {
        let lists = conflist::read_folder(&folder)?;
        if let Some((list, _)) = lists
            .into_iter()
            .find(|(list, _)| list.name == network.spec.name)
        {
            return Ok(list);
        }
    }
    Err(NetworkError::Missing {
        network: network.spec.name.clone(),
    })
}

pub(super) fn save_network(layout: &Layout, record: &NetworkRecord) -> Result<(), NetworkError> {
    let path = layout.network_record(&record.id);
    if let Some(folder) = path.parent() {
        create_private_dir(folder)?;
    }
    Ok(write_json(&path, record)?)
}

pub(super) fn remove_network(layout: &Layout, id: &str) -> Result<(), NetworkError> {
    let folder = layout.networks().join(id);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_failed(format!("remove {}", folder.display()))),
    }
}

/// The file of a sandbox: its record, and what only this room wants to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(flatten)]
    pub(super) record: SandboxRecord,
    /// Where our rules lead its published ports; none if it has none or plugins do it.
    #[serde(default)]
    pub(super) forward_to: Option<Ipv4Addr>,
}

impl Versioned for Stored {
    const FORMAT: u64 = SandboxRecord::FORMAT;
}

impl Stored {
    /// The published ports that our rules forward.
    pub(super) fn forwards(&self) -> Vec<Forward> {
        let Some(target) = self.forward_to else {
            return Vec::new();
        };
        let forward = |port: &PublishedPort| Forward {
            port: port.clone(),
            target,
        };
        self.record.ports.iter().map(forward).collect()
    }

    pub(super) fn save(&self, layout: &Layout) -> Result<(), NetworkError> {
        create_private_dir(&layout.sandboxes())?;
        Ok(write_json(
            &layout.sandbox_record(&self.record.spec.id),
            self,
        )?)
    }
}

pub(super) fn sandboxes(layout: &Layout) -> Result<Vec<SandboxRecord>, NetworkError> {
    read_sandboxes(layout)
}

/// All sandboxes, with as much of their files as `T` takes. One whose file vanishes meanwhile is not there.
fn read_sandboxes<T: Versioned + DeserializeOwned>(
    layout: &Layout,
) -> Result<Vec<T>, NetworkError> {
    let folder = layout.sandboxes();
    let mut records = Vec::new();
    for name in names(&folder)? {
        if name.strip_suffix(".json").is_some() {
            records.extend(read_json(&folder.join(name))?);
        }
    }
    Ok(records)
}

pub(super) fn sandbox(layout: &Layout, id: &str) -> Result<Option<Stored>, NetworkError> {
    Ok(read_json(&layout.sandbox_record(id))?)
}

pub(super) fn remove_sandbox(layout: &Layout, id: &str) -> Result<(), NetworkError> {
    let path = layout.sandbox_record(id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| StateError::Write { path, source }.into()),
    }
}

/// Whether attaching is done in-process rather than by plugins.
pub(super) fn is_ours(network: &NetworkRecord) -> bool {
    !network.foreign && options::plugin(&network.spec).is_none()
}

/// What the firewall has to do for all records; also the ids of the networks in it.
pub(super) fn rules(layout: &Layout) -> Result<(Rules, Vec<String>), NetworkError> {
    let mut rules = Rules::default();
    let mut ids = Vec::new();
    for network in own_networks(layout)?.into_iter().filter(is_ours) {
        rules.bridges.push(Bridge {
            name: network.bridge.clone(),
            subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(),
            internal: network.spec.internal,
            masquerade: options::masquerade(&network.spec),
            talk: options::talk(&network.spec),
        });
        ids.push(network.id);
    }
    for sandbox in read_sandboxes::<Stored>(layout)? {
        rules.forwards.extend(sandbox.forwards());
    }
    Ok((rules, ids))
}

/// The first IPv4 address of an endpoint.
pub(super) fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    endpoint.addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}
