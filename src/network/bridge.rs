//! Bridges: made with the first sandbox of a network, removed with the network.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use ipnet::{IpNet, Ipv4Net};

use super::batch::lock;
use super::error::netlink_failed;
use super::layout::{Layout, mac_of};
use super::netlink::route::{
    Link, PortFlags, delete_link, new_address, new_bridge, set_alias, set_up,
};
use super::netlink::{Socket, accept_existing, accept_missing};
use super::{NetworkError, NetworkRecord, namespace, options};

/// Bridges that this process has found whole.
#[derive(Debug, Default)]
pub(super) struct Bridges {
    whole: Mutex<BTreeSet<String>>,
}

/// Gateway with the length of the subnet's prefix.
pub(super) fn gateway(network: &NetworkRecord) -> Option<Ipv4Net> {
    network
        .subnets
        .iter()
        .find_map(|subnet| match (subnet.subnet, subnet.gateway) {
            (IpNet::V4(net), IpAddr::V4(gateway)) => Ipv4Net::new(gateway, net.prefix_len()).ok(),
            _ => None,
        })
}

impl Bridges {
    /// Makes the bridge of `network` if it is not there, and returns it.
    pub(super) fn ensure(
        &self,
        socket: &mut Socket,
        network: &NetworkRecord,
        layout: &Layout,
    ) -> Result<Link, NetworkError> {
        let mut whole = lock(&self.whole);
        let failed = || netlink_failed::<io::Error>(format!("make bridge {}", network.bridge));
        if let Some(link) = socket.link(&network.bridge).map_err(failed())?
            && whole.contains(&network.id)
        {
            return Ok(link);
        }
        let link = make(socket, network, layout)?;
        whole.insert(network.id.clone());
        Ok(link)
    }

    /// Makes what is missing of the bridge, whatever this process remembers; false if nothing was.
    pub(super) fn repair(
        &self,
        socket: &mut Socket,
        network: &NetworkRecord,
        layout: &Layout,
    ) -> Result<bool, NetworkError> {
        let failed = || netlink_failed::<io::Error>(format!("look at bridge {}", network.bridge));
        enable_forwarding()?;
        if let (Some(link), Some(gateway)) = (
            socket.link(&network.bridge).map_err(failed())?,
            gateway(network),
        ) && link.is_up
            && socket
                .addresses()
                .map_err(failed())?
                .contains(&(link.index, IpNet::V4(gateway)))
        {
            return Ok(false);
        }
        self.forget(network);
        self.ensure(socket, network, layout).map(|_| true)
    }

    pub(super) fn forget(&self, network: &NetworkRecord) {
        let mut whole = lock(&self.whole);
        whole.remove(&network.id);
    }
}

fn enable_forwarding() -> Result<(), NetworkError> {
    let path = "net/ipv4/ip_forward";
    if std::fs::read_to_string(format!("/proc/sys/{path}")).is_ok_and(|text| text.trim() == "0") {
        namespace::set(path, "1")?;
    }
    Ok(())
}

fn make(
    socket: &mut Socket,
    network: &NetworkRecord,
    layout: &Layout,
) -> Result<Link, NetworkError> {
    let name = &network.bridge;
    let failed = || netlink_failed::<io::Error>(format!("make bridge {name}"));
    let gateway = gateway(network).ok_or_else(|| NetworkError::NoSubnet {
        network: network.spec.name.clone(),
    })?;
    check_routes(socket, network, gateway)?;
    enable_forwarding()?;
    let mac = mac_of(gateway.addr());
    let made = socket.execute(vec![new_bridge(name, mac, options::mtu(&network.spec)?)]);
    accept_existing(made).map_err(failed())?;
    let link = socket
        .link(name)
        .map_err(failed())?
        .ok_or_else(|| failed()(io::ErrorKind::NotFound.into()))?;
    if !is_ours(&link, network, layout) && options::bridge(&network.spec)?.is_none() {
        return Err(failed()(io::Error::other(
            "another program has an interface of that name",
        )));
    }
    // Published ports answer on 127.0.0.1 of the host only with this; our rules keep containers away from there.
    namespace::set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    // Only IPv4 is configured; without this each bridge spends its first seconds with IPv6 discovery.
    namespace::set_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    let mut messages = vec![new_address(link.index, gateway)];
    if is_ours(&link, network, layout) {
        messages.push(set_alias(name, &layout.alias(&network.id)));
    }
    messages.push(set_up(name));
    for result in socket.execute_each(messages).map_err(failed())? {
        accept_existing(result).map_err(failed())?;
    }
    Ok(link)
}

/// Refuses a subnet that the host reaches by another interface already.
fn check_routes(
    socket: &mut Socket,
    network: &NetworkRecord,
    gateway: Ipv4Net,
) -> Result<(), NetworkError> {
    let failed = || netlink_failed::<io::Error>("read the routes");
    let links = socket.links().map_err(failed())?;
    for (index, route) in socket.routes().map_err(failed())? {
        let IpNet::V4(route) = route else { continue };
        let name = links
            .iter()
            .find(|link| link.index == index)
            .map_or("?", |link| link.name.as_str());
        if gateway.trunc().contains(&route.network())
            && route.prefix_len() >= gateway.prefix_len()
            && name != network.bridge
        {
            return Err(NetworkError::SubnetTaken {
                network: network.spec.name.clone(),
                subnet: gateway.trunc().to_string(),
                other: format!("the route to {route} by {name}"),
            });
        }
    }
    Ok(())
}

/// Whether we made the bridge. Until its alias is set, its hardware address tells.
fn is_ours(link: &Link, network: &NetworkRecord, layout: &Layout) -> bool {
    let mac = gateway(network).map(|gateway| mac_of(gateway.addr()));
    link.alias == layout.alias(&network.id) || (link.alias.is_empty() && Some(link.mac) == mac)
}

/// How the port of a container on `network` behaves.
pub(super) fn port_flags(network: &NetworkRecord) -> PortFlags {
    PortFlags {
        hairpin: true,
        // Where frames within a bridge pass the rules for IP, those keep containers apart and still let them use
        // published ports, whose packets are then bridged too.
        isolated: !options::talk(&network.spec) && !filters_frames(),
    }
}

/// Whether the kernel shows frames within bridges to the rules for IPv4.
fn filters_frames() -> bool {
    std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|text| text.trim() == "1")
}

/// Interfaces of other tools on a bridge of ours, as those of containers that nerdctl runs.
pub(super) fn strangers(
    socket: &mut Socket,
    network: &NetworkRecord,
    layout: &Layout,
) -> Result<Vec<String>, NetworkError> {
    let failed = || netlink_failed::<io::Error>("read the interfaces");
    let links = socket.links().map_err(failed())?;
    let bridge = links
        .iter()
        .find(|link| link.name == network.bridge && is_ours(link, network, layout))
        .map(|link| link.index);
    let prefix = layout.alias_prefix();
    Ok(links
        .iter()
        .filter(|link| bridge.is_some() && link.master == bridge)
        .filter(|link| !link.alias.starts_with(&prefix))
        .map(|link| format!("interface {}", link.name))
        .collect())
}

/// Removes the bridge of `network`; none there is fine. One that was there before the network stays.
pub(super) fn remove(
    socket: &mut Socket,
    network: &NetworkRecord,
    layout: &Layout,
) -> Result<(), NetworkError> {
    let failed = || netlink_failed::<io::Error>(format!("remove bridge {}", network.bridge));
    match socket.link(&network.bridge).map_err(failed())? {
        Some(link) if is_ours(&link, network, layout) => {
            accept_missing(socket.execute(vec![delete_link(&network.bridge)])).map_err(failed())
        }
        _ => Ok(()),
    }
}
