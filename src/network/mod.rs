//! Networks: conflists, bridges, address leases, sandboxes, published ports, the firewall, endpoint records.
//!
//! Nothing here knows what a service is beyond the labels and names that it is given.
//!
//! [`Networks`] is the asynchronous face; everything behind it blocks and runs on threads for that. Networks are records
//! and conflists on disk (`host`, `record`, `conflist`). A sandbox (`sandbox`, `teardown`, `repair`) is a pinned
//! namespace with interfaces that are attached in-process (`bridge`, `netlink`, `address`) or by plugins (`cni`), with
//! held ports (`ports`), rules (`firewall`) and the sockets for names (`resolver`). Names of kernel objects follow from
//! ids (`layout`), so that what no record speaks of can be recognised and removed (`garbage`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::state::{StateError, StateRoot, Versioned};

mod address;
mod batch;
mod bridge;
mod cni;
mod conflist;
mod error;
mod firewall;
mod garbage;
mod hints;
mod host;
mod join;
#[cfg(test)]
mod kernel_tests;
mod layout;
mod namespace;
mod netlink;
mod options;
mod ports;
mod process;
mod record;
mod release;
mod repair;
mod resolver;
mod sandbox;
mod subnet;
mod switch;
mod teardown;

use host::Host;
pub use options::unsupported_options;
pub use release::Released;

/// What a network should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Name on the host, as `shop_default`.
    pub name: String,
    /// `bridge` (default) or the type of a CNI plugin (`macvlan`, `ptp` …), then executed by the CNI specification.
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub internal: bool,
    pub enable_ipv6: bool,
    /// Empty: a free subnet is chosen.
    pub pools: Vec<crate::model::IpamPool>,
    pub labels: BTreeMap<String, String>,
}

/// A network that exists.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// 64 hex digits.
    pub id: String,
    pub spec: NetworkSpec,
    /// Interface on the host; empty for plugins that have none.
    pub bridge: String,
    pub subnets: Vec<Subnet>,
    pub created_at: Timestamp,
    /// The conflist is not ours (written by hand or by another tool); we never change or remove it.
    pub foreign: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: ipnet::IpNet,
    pub gateway: IpAddr,
}

impl Versioned for NetworkRecord {
    const FORMAT: u64 = 1;
}

/// One joined network of a sandbox to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Name of the network on the host.
    pub network: String,
    /// Names under which peers on this network find it: service, container name, container id (short), aliases.
    pub names: Vec<String>,
    /// Interface in the container; default `eth0`, `eth1` … in order.
    pub interface: Option<String>,
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
    pub mac: Option<String>,
    /// The default route goes through the attachment that has this set (the first if none has).
    pub default_gateway: bool,
}

/// A port to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortRequest {
    /// `None`: any IPv4 address of the host.
    pub host_ip: Option<String>,
    /// First and last host port to choose from; `None`: any free one.
    pub host_ports: Option<(u16, u16)>,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: String,
}

/// Label of a sandbox: servers that its questions for foreign names go to, separated by commas; without it those of
/// the host.
pub const LABEL_DNS: &str = "dns";

/// What a sandbox should be. One belongs to each replica slot and outlives its containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Unique on the host, as `shop-web-1` or the same with a suffix.
    pub id: String,
    /// For records and rule comments.
    pub labels: BTreeMap<String, String>,
    /// Empty: loopback only (`network_mode: none`).
    pub attachments: Vec<Attachment>,
    pub ports: Vec<PortRequest>,
    /// Network sysctls, set inside the namespace.
    pub sysctls: BTreeMap<String, String>,
}

/// One interface of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    pub names: Vec<String>,
    pub interface: String,
    /// Interface on the host, if there is one.
    pub host_interface: Option<String>,
    pub addresses: Vec<ipnet::IpNet>,
    pub gateways: Vec<IpAddr>,
    pub mac: String,
    /// Result of the attachment in CNI's form, given back to DEL.
    pub result: serde_json::Value,
}

/// A sandbox that exists: `networks/sandboxes/<id>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub spec: SandboxSpec,
    pub netns: PathBuf,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PublishedPort>,
    /// Its container runs: peers find its names, unless it stands by.
    pub active: bool,
    /// Boot of the host that made it; after a reboot its kernel half is gone.
    pub boot_id: String,
    /// The sandbox of the same slot in whose place it is to come: until [`Networks::switch_sandbox`] that one has the names
    /// and the published ports of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_by_for: Option<String>,
}

/// What a switch from one sandbox to another has changed.
#[derive(Debug, Default)]
pub struct Switched {
    /// Keys under which ports were held, and those under which they are to be held now.
    pub moved: Vec<(String, String)>,
    /// What is to be held beside.
    pub held: Held,
}

impl Versioned for SandboxRecord {
    const FORMAT: u64 = 1;
}

/// Descriptors that must live as long as the sandbox, by key (`port/<sandbox>/tcp/0.0.0.0:8080`,
/// `dns/<sandbox>/udp`, `dns/<sandbox>/tcp`).
pub type Held = Vec<(String, OwnedFd)>;

/// Networks could not be brought into the wanted state.
#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("network `{network}` does not exist")]
    Missing { network: String },
    /// `users`: sandboxes that are attached.
    #[error("network `{network}` is in use by {}", users.join(", "))]
    InUse { network: String, users: Vec<String> },
    #[error("no free subnet is left for network `{network}`")]
    NoSubnet { network: String },
    #[error("subnet {subnet} of network `{network}` overlaps with {other}")]
    SubnetTaken {
        network: String,
        subnet: String,
        other: String,
    },
    #[error("no free address is left in {subnet} of network `{network}`")]
    Full { network: String, subnet: String },
    #[error("address {address} of network `{network}` is taken by {owner}")]
    AddressTaken {
        network: String,
        address: IpAddr,
        owner: String,
    },
    #[error("address {address} is not in a subnet of network `{network}`")]
    AddressOutside { network: String, address: IpAddr },
    /// `owner`: what its labels say of who has it.
    #[error("the name `{id}` is already in use by {owner}")]
    SandboxTaken { id: String, owner: String },
    /// `owner`: the sandbox of ours that has it, if one does.
    #[error("port {address}/{protocol} is in use{}", owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default())]
    PortTaken {
        address: String,
        protocol: String,
        owner: Option<String>,
    },
    #[error("CNI plugin `{plugin}` failed for network `{network}`: {message}")]
    Plugin {
        plugin: String,
        network: String,
        message: String,
    },
    #[error("cannot change the firewall: {message}")]
    Firewall { message: String },
    #[error("`{value}` is not valid for {what}")]
    Invalid { what: String, value: String },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {operation}")]
    Netlink {
        operation: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    State(#[from] StateError),
}

/// The networks of this host.
#[derive(Clone, Debug)]
pub struct Networks {
    host: Arc<Host>,
}

impl Networks {
    pub fn new(state: StateRoot) -> Self {
        Self {
            host: Arc::new(Host::new(state)),
        }
    }

    /// Runs what makes system calls or waits for locks where that holds nobody up.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let host = Arc::clone(&self.host);
        match tokio::task::spawn_blocking(move || work(&host)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(error::io_failed("finish as the runtime ends")(
                    std::io::Error::other(error),
                )),
            },
        }
    }

    /// Every network: ours and foreign conflists. Only reads files.
    pub fn list(&self) -> Result<Vec<NetworkRecord>, NetworkError> {
        record::networks(&self.host.layout)
    }
    pub fn get(&self, name: &str) -> Result<Option<NetworkRecord>, NetworkError> {
        record::network(&self.host.layout, name)
    }
    /// Chooses subnets, writes record and conflist. The bridge and its rules appear with the first sandbox. A network
    /// that exists is returned as it is.
    pub async fn create(&self, spec: &NetworkSpec) -> Result<NetworkRecord, NetworkError> {
        let spec = spec.clone();
        self.blocking(move |host| host.create_network(&spec)).await
    }
    /// Removes bridge, rules, conflist and record. Not an error if it is gone; [`NetworkError::InUse`] if attached to.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let name = name.to_owned();
        self.blocking(move |host| host.remove_network(&name)).await
    }

    pub fn sandboxes(&self) -> Result<Vec<SandboxRecord>, NetworkError> {
        record::sandboxes(&self.host.layout)
    }
    pub fn sandbox(&self, id: &str) -> Result<Option<SandboxRecord>, NetworkError> {
        Ok(record::sandbox(&self.host.layout, id)?.map(|stored| stored.record))
    }
    /// Makes namespace, interfaces, addresses, ports, the DNS sockets (127.0.0.11, ephemeral port, 53 redirected to it).
    /// All or nothing. A left-over of the same id is removed first. Rule changes of calls that run at the same time go
    /// out in one batch.
    pub async fn create_sandbox(
        &self,
        spec: &SandboxSpec,
    ) -> Result<(SandboxRecord, Held), NetworkError> {
        let spec = spec.clone();
        self.blocking(move |host| host.create_sandbox(&spec, None))
            .await
    }
    /// As [`Networks::create_sandbox`], beside the sandbox `other` of the same slot, which keeps names and ports for the
    /// time being.
    pub async fn create_standby(
        &self,
        spec: &SandboxSpec,
        other: &str,
    ) -> Result<(SandboxRecord, Held), NetworkError> {
        let (spec, other) = (spec.clone(), other.to_owned());
        self.blocking(move |host| host.create_sandbox(&spec, Some(other)))
            .await
    }
    /// Gives names and published ports of `from` to `to`, and has `from` stand by. New connections lead to `to` from one
    /// packet to the next; those that are open go on where they are. Nothing is done if it is so already.
    pub async fn switch_sandbox(&self, from: &str, to: &str) -> Result<Switched, NetworkError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.blocking(move |host| host.switch_sandbox(&from, &to))
            .await
    }
    /// Sandboxes that claim the same port, as a switch that was cut off leaves them: the one that is to stand by, and the
    /// one that is to have it. Both were ready, so one is as good as the other; one where nobody runs any more is not.
    pub async fn half_switched(&self) -> Result<Vec<(String, String)>, NetworkError> {
        self.blocking(Host::half_switched).await
    }
    /// Undoes all of it, idempotent, goes on after a failure and returns the first.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), NetworkError> {
        let id = id.to_owned();
        self.blocking(move |host| host.remove_sandbox(&id)).await
    }
    /// Makes the kernel half of a recorded sandbox whole again (after a reboot, wiped rules, a lost bridge), with the
    /// same addresses and ports unless another sandbox has one of them by now; returns what must be held anew. Nothing is
    /// done, and nothing returned, if it is whole.
    pub async fn repair_sandbox(&self, id: &str) -> Result<Held, NetworkError> {
        let id = id.to_owned();
        self.blocking(move |host| host.repair_sandbox(&id)).await
    }
    /// Records that namespace, addresses and ports of a sandbox are given back, for a container that is stopped;
    /// [`Networks::repair_sandbox`] makes it whole again. Whoever holds its sockets lets go of them, and then has it cleared by
    /// [`Networks::clear_released`]. After an error it is as before: what is not recorded must not be taken by another.
    pub async fn release_sandbox(&self, id: &str) -> Result<Released, NetworkError> {
        let id = id.to_owned();
        self.blocking(move |host| host.release_sandbox(&id)).await
    }
    /// Removes the kernel half of a released sandbox. Goes on after a failure and returns the first; what is left goes when
    /// the sandbox is taken back or removed.
    pub async fn clear_released(&self, released: Released) -> Result<(), NetworkError> {
        self.blocking(move |host| host.clear_released(&released))
            .await
    }
    /// Whether nobody has touched our rules. Reads them; starts no program.
    pub async fn firewall_seems_whole(&self) -> Result<bool, NetworkError> {
        self.blocking(Host::firewall_seems_whole).await
    }
    /// Writes our rules anew if somebody has touched them; whether that was so.
    pub async fn mend_firewall(&self) -> Result<bool, NetworkError> {
        self.blocking(Host::mend_firewall).await
    }
    /// Makes its names (in)visible to peers.
    pub fn set_active(&self, id: &str, active: bool) -> Result<(), NetworkError> {
        self.host.set_active(id, active)
    }
    /// Opens the sockets of `repair_sandbox` again for a sandbox whose holder died.
    pub async fn reopen(&self, id: &str) -> Result<Held, NetworkError> {
        let id = id.to_owned();
        self.blocking(move |host| host.reopen(&id)).await
    }
    /// Removes what has no record (namespaces, interfaces, addresses, rules); returns what it removed.
    pub async fn collect_garbage(&self) -> Result<Vec<String>, NetworkError> {
        self.blocking(Host::collect_garbage).await
    }
}
