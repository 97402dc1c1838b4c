//! The blocking half of [`super::Networks`]: networks as such.

use std::io;

use ipnet::IpNet;
use jiff::Timestamp;

use super::address::Addresses;
use super::batch::Batch;
use super::bridge::{self, Bridges};
use super::error::{invalid, netlink_failed};
use super::firewall::{Change, Firewall};
use super::layout::{Layout, bridge_name};
use super::netlink::Socket;
use super::subnet::{self, Occupied, Pool};
use super::teardown::{Failure, Teardown};
use super::{NetworkError, NetworkRecord, NetworkSpec, cni, conflist, options, record};
use crate::random::random_hex;
use crate::state::StateRoot;

/// The networks of one state root, with what this process remembers of the kernel.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) layout: Layout,
    pub(super) firewall: Firewall,
    pub(super) bridges: Bridges,
    pub(super) teardowns: Batch<Teardown, Failure>,
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let starts_well = name.starts_with(|character: char| character.is_ascii_alphanumeric());
    if starts_well
        && name.len() <= 200
        && name.chars().all(allowed)
        && !matches!(name, "host" | "none")
    {
        Ok(())
    } else {
        Err(invalid("the name of a network", name))
    }
}

impl Host {
    pub(super) fn new(state: StateRoot) -> Self {
        let layout = Layout::new(state);
        Self {
            firewall: Firewall::new(layout.clone()),
            bridges: Bridges::default(),
            teardowns: Batch::default(),
            layout,
        }
    }

    /// Makes a network; see `Networks::create`.
    pub(super) fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkRecord, NetworkError> {
        let layout = &self.layout;
        check_name(&spec.name)?;
        let given = Pool::read(&spec.pools)?;
        let bridge = options::bridge(spec)?;
        options::mtu(spec)?;
        let plugin = options::plugin(spec);
        if let Some(plugin) = plugin {
            cni::find_plugin(plugin, &spec.name)?;
        }
        let _lock = layout.lock_networks()?;
        if let Some(record) = record::network(layout, &spec.name)? {
            return Ok(record);
        }
        let mut record = NetworkRecord {
            id: random_hex(32),
            spec: spec.clone(),
            bridge: String::new(),
            subnets: Vec::new(),
            created_at: Timestamp::now(),
            foreign: false,
        };
        if plugin.is_none() {
            record.bridge = bridge.map_or_else(|| bridge_name(&record), str::to_owned);
            self.check_bridge(&record.bridge)?;
        }
        let mut occupied = self.recorded_subnets()?;
        let pool = if let Some(pool) = given {
            if plugin.is_none() {
                occupied.extend(host_subnets(false)?);
            }
            pool.check(&spec.name, &occupied)?;
            pool
        } else {
            occupied.extend(host_subnets(true)?);
            let subnet = subnet::choose(&occupied, layout.spread());
            Pool::new(subnet.ok_or_else(|| NetworkError::NoSubnet {
                network: spec.name.clone(),
            })?)
        };
        record.subnets = vec![pool.record()];
        if !pool.reserved.is_empty() {
            Addresses::open(&layout.addresses(), &spec.name)?.reserve_auxiliary(&pool)?;
        }
        conflist::write(&record, layout)?;
        record::save_network(layout, &record)?;
        Ok(record)
    }

    /// Refuses the name of a bridge that another network of ours has.
    fn check_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let records = record::networks(&self.layout)?;
        match records.iter().find(|other| other.bridge == name) {
            Some(other) => Err(invalid(
                format!("a bridge (network `{}` has it)", other.spec.name),
                name,
            )),
            None => Ok(()),
        }
    }

    fn recorded_subnets(&self) -> Result<Vec<Occupied>, NetworkError> {
        let mut occupied = Vec::new();
        for network in record::networks(&self.layout)? {
            for subnet in &network.subnets {
                occupied.push(Occupied {
                    subnet: subnet.subnet,
                    by: format!("network `{}`", network.spec.name),
                });
            }
        }
        Ok(occupied)
    }

    /// Removes a network; see `Networks::remove`.
    pub(super) fn remove_network(&self, name: &str) -> Result<(), NetworkError> {
        let layout = &self.layout;
        let _networks = layout.lock_networks()?;
        let _removal = layout.lock_removal()?;
        let own = record::own_networks(layout)?;
        let Some(network) = own.into_iter().find(|record| record.spec.name == name) else {
            return match record::network(layout, name)? {
                Some(_) => Err(invalid("a network of ours", name)),
                None => Ok(()),
            };
        };
        let mut users: Vec<String> = record::sandboxes(layout)?
            .into_iter()
            .map(|sandbox| sandbox.spec)
            .filter(|spec| spec.attachments.iter().any(|join| join.network == name))
            .map(|spec| spec.id)
            .collect();
        let mut socket = Socket::route().map_err(netlink_failed("open a netlink socket"))?;
        if record::is_ours(&network) {
            users.extend(bridge::strangers(&mut socket, &network, layout)?);
        }
        if !users.is_empty() {
            return Err(NetworkError::InUse {
                network: name.into(),
                users,
            });
        }
        let mut outcome = Ok(());
        if record::is_ours(&network) {
            outcome = bridge::remove(&mut socket, &network, layout);
            self.bridges.forget(&network);
        }
        let conflist = conflist::remove(&network, layout);
        let addresses = layout.addresses();
        let folder = if addresses.join(name).exists() {
            Addresses::open(&addresses, name).and_then(Addresses::remove)
        } else {
            Ok(())
        };
        let record = record::remove_network(layout, &network.id);
        let rules = if record::is_ours(&network) {
            let change = Change {
                rebuild: true,
                ..Change::default()
            };
            self.firewall.apply(change, || record::rules(layout))
        } else {
            Ok(())
        };
        outcome = outcome.and(conflist).and(folder).and(record).and(rules);
        outcome
    }
}

/// Subnets of the host's interfaces, and with `routes` the destinations of its routes.
fn host_subnets(routes: bool) -> Result<Vec<Occupied>, NetworkError> {
    let failed = || netlink_failed::<io::Error>("read the host's addresses and routes");
    let mut socket = Socket::route().map_err(failed())?;
    let links = socket.links().map_err(failed())?;
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or("?", |link| link.name.as_str())
    };
    let mut occupied = Vec::new();
    for (index, address) in socket.addresses().map_err(failed())? {
        occupied.push(Occupied {
            subnet: address.trunc(),
            by: format!("interface {}", name(index)),
        });
    }
    if routes {
        for (index, route) in socket.routes().map_err(failed())? {
            if let IpNet::V4(_) = route
                && route.prefix_len() > 0
            {
                occupied.push(Occupied {
                    subnet: route,
                    by: format!("the route by {}", name(index)),
                });
            }
        }
    }
    Ok(occupied)
}
