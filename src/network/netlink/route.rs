//! Links, addresses and routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipnet::{IpNet, Ipv4Net};

use super::{FLAG_CREATE, FLAG_EXCLUSIVE, Message, Socket, attributes, find, string, word};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

const FAMILY_IPV4: u8 = 2;
const LINK_UP: u32 = 1;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_ALIAS: u16 = 20;
const LINK_NAMESPACE: u16 = 28;
const LINK_GROUP: u16 = 27;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const PORT_STATE: u16 = 1;
const FORWARDING: u8 = 3;
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;

const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_UNIVERSE: u8 = 0;
const TYPE_UNICAST: u8 = 1;

/// Group of interfaces that are about to be deleted.
const DOOMED: u32 = 0x636f_6d70;

/// A hardware address.
pub(in crate::network) type Mac = [u8; 6];

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::network) struct Link {
    pub(in crate::network) index: u32,
    pub(in crate::network) name: String,
    pub(in crate::network) alias: String,
    pub(in crate::network) mac: Mac,
    pub(in crate::network) mtu: u32,
    /// Index of the bridge that it is a port of.
    pub(in crate::network) master: Option<u32>,
    pub(in crate::network) is_up: bool,
    /// As a port of a bridge it passes frames on.
    pub(in crate::network) forwards: bool,
}

/// A pair of virtual Ethernet interfaces to be made.
#[derive(Debug)]
pub(in crate::network) struct Veth<'a> {
    /// The end that stays here.
    pub(in crate::network) host: &'a str,
    pub(in crate::network) master: u32,
    pub(in crate::network) mtu: u32,
    /// The end in `namespace`.
    pub(in crate::network) peer: &'a str,
    pub(in crate::network) peer_mac: Mac,
    pub(in crate::network) namespace: BorrowedFd<'a>,
}

/// How a port of a bridge behaves.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) struct PortFlags {
    /// Frames may go back to where they came from: a container that reaches itself through its published port.
    pub(in crate::network) hairpin: bool,
    /// The port reaches the host only, not other isolated ports.
    pub(in crate::network) isolated: bool,
}

fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// A bridge that is up.
pub(in crate::network) fn new_bridge(name: &str, mac: Mac, mtu: Option<u32>) -> Message {
    let message = Message::new(
        NEW_LINK,
        FLAG_CREATE | FLAG_EXCLUSIVE,
        &link_header(0, LINK_UP),
    )
    .text(LINK_NAME, name)
    .attribute(LINK_ADDRESS, &mac);
    match mtu {
        Some(mtu) => message.attribute(LINK_MTU, &mtu.to_ne_bytes()),
        None => message,
    }
    .nested(LINK_INFO, |message| message.text(INFO_KIND, "bridge"))
}

/// A pair with its host end up and attached.
pub(in crate::network) fn new_veth(veth: &Veth<'_>) -> Message {
    Message::new(
        NEW_LINK,
        FLAG_CREATE | FLAG_EXCLUSIVE,
        &link_header(0, LINK_UP),
    )
    .text(LINK_NAME, veth.host)
    .attribute(LINK_MTU, &veth.mtu.to_ne_bytes())
    .attribute(LINK_MASTER, &veth.master.to_ne_bytes())
    .nested(LINK_INFO, |message| {
        message
            .text(INFO_KIND, "veth")
            .nested(INFO_DATA, |message| {
                message.nested(VETH_PEER, |message| {
                    message
                        .raw(&link_header(0, 0))
                        .text(LINK_NAME, veth.peer)
                        .attribute(LINK_MTU, &veth.mtu.to_ne_bytes())
                        .attribute(LINK_ADDRESS, &veth.peer_mac)
                        .attribute(LINK_NAMESPACE, &veth.namespace.as_raw_fd().to_ne_bytes())
                })
            })
    })
}

fn change_link(name: &str, flags: u32) -> Message {
    Message::new(NEW_LINK, 0, &link_header(0, flags)).text(LINK_NAME, name)
}

/// The text that `ip link` shows as `alias`.
pub(in crate::network) fn set_alias(name: &str, alias: &str) -> Message {
    change_link(name, 0).attribute(LINK_ALIAS, alias.as_bytes())
}

pub(in crate::network) fn set_port(name: &str, alias: &str, flags: PortFlags) -> Message {
    set_alias(name, alias).nested(LINK_INFO, |message| {
        message
            .text(INFO_SLAVE_KIND, "bridge")
            .nested(INFO_SLAVE_DATA, |message| {
                message
                    .attribute(PORT_HAIRPIN, &[u8::from(flags.hairpin)])
                    .attribute(PORT_ISOLATED, &[u8::from(flags.isolated)])
            })
    })
}

pub(in crate::network) fn set_master(name: &str, master: u32) -> Message {
    change_link(name, LINK_UP).attribute(LINK_MASTER, &master.to_ne_bytes())
}

/// Sets the hardware address. Also if it is the same as before, neighbours are told where `arp_notify` is set.
pub(in crate::network) fn set_mac(name: &str, mac: Mac) -> Message {
    change_link(name, 0).attribute(LINK_ADDRESS, &mac)
}

pub(in crate::network) fn set_up(name: &str) -> Message {
    change_link(name, LINK_UP)
}

pub(in crate::network) fn delete_link(name: &str) -> Message {
    Message::new(DELETE_LINK, 0, &link_header(0, 0)).text(LINK_NAME, name)
}

/// Marks an interface that [`delete_doomed`] deletes.
pub(in crate::network) fn doom(name: &str) -> Message {
    change_link(name, 0).attribute(LINK_GROUP, &DOOMED.to_ne_bytes())
}

/// Deletes all marked interfaces at once: the kernel waits a few milliseconds per deletion, however many go with it.
pub(in crate::network) fn delete_doomed() -> Message {
    Message::new(DELETE_LINK, 0, &link_header(0, 0)).attribute(LINK_GROUP, &DOOMED.to_ne_bytes())
}

/// An address with its broadcast address.
pub(in crate::network) fn new_address(index: u32, address: Ipv4Net) -> Message {
    let mut header = [FAMILY_IPV4, address.prefix_len(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, FLAG_CREATE | FLAG_EXCLUSIVE, &header)
        .attribute(ADDRESS_LOCAL, &address.addr().octets())
        .attribute(ADDRESS_ADDRESS, &address.addr().octets());
    if address.prefix_len() < 31 {
        message.attribute(ADDRESS_BROADCAST, &address.broadcast().octets())
    } else {
        message
    }
}

fn default_route(kind: u16, flags: u16) -> Message {
    let header = [
        FAMILY_IPV4,
        0,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_BOOT,
        SCOPE_UNIVERSE,
        TYPE_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(kind, flags, &header)
}

pub(in crate::network) fn new_default_route(index: u32, gateway: Ipv4Addr) -> Message {
    default_route(NEW_ROUTE, FLAG_CREATE | FLAG_EXCLUSIVE)
        .attribute(ROUTE_GATEWAY, &gateway.octets())
        .attribute(ROUTE_INTERFACE, &index.to_ne_bytes())
}

/// Deletes one default route; the kernel says that there is no such process when none is left.
pub(in crate::network) fn delete_default_route() -> Message {
    let mut message = default_route(DELETE_ROUTE, 0);
    // Neither protocol nor scope matter for what is deleted.
    message.bytes[super::HEADER + 5] = 0;
    message.bytes[super::HEADER + 6] = 255;
    message.bytes[super::HEADER + 7] = 0;
    message
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(payload, 4),
        is_up: word(payload, 8) & LINK_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            LINK_NAME => link.name = string(value),
            LINK_ALIAS => link.alias = string(value),
            LINK_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            LINK_MTU => link.mtu = word(value, 0),
            LINK_INFO => {
                let state = find(value, INFO_SLAVE_DATA).and_then(|data| find(data, PORT_STATE));
                link.forwards = state == Some(&[FORWARDING][..]);
            }
            LINK_MASTER => link.master = Some(word(value, 0)),
            _ => {}
        }
    }
    Some(link)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

impl Socket {
    /// A socket for links, addresses and routes.
    pub(in crate::network) fn route() -> io::Result<Self> {
        // Routing is protocol 0.
        Self::open(None)
    }

    pub(in crate::network) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let message = Message::new(GET_LINK, 0, &link_header(0, 0)).text(LINK_NAME, name);
        self.query(message, read_link)
    }

    pub(in crate::network) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(Message::new(GET_LINK, 0, &link_header(0, 0)), |payload| {
            links.extend(read_link(payload));
        })?;
        Ok(links)
    }

    /// The addresses of all interfaces, with the index of each.
    pub(in crate::network) fn addresses(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let mut addresses = Vec::new();
        self.dump(Message::new(GET_ADDRESS, 0, &[0; 8]), |payload| {
            let prefix = payload.get(1).copied().unwrap_or_default();
            let list = payload.get(8..).unwrap_or_default();
            let value = find(list, ADDRESS_LOCAL).or_else(|| find(list, ADDRESS_ADDRESS));
            let net = value
                .and_then(address)
                .and_then(|address| IpNet::new(address, prefix).ok());
            addresses.extend(net.map(|net| (word(payload, 4), net)));
        })?;
        Ok(addresses)
    }

    /// The destinations of the main routing table, without default routes, with the index of the interface of each.
    pub(in crate::network) fn routes(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let mut routes = Vec::new();
        self.dump(Message::new(GET_ROUTE, 0, &[0; 12]), |payload| {
            let list = payload.get(12..).unwrap_or_default();
            if payload.get(4) != Some(&TABLE_MAIN) {
                return;
            }
            let prefix = payload.get(1).copied().unwrap_or_default();
            let interface = find(list, ROUTE_INTERFACE).map_or(0, |value| word(value, 0));
            let net = find(list, ROUTE_DESTINATION)
                .and_then(address)
                .and_then(|address| IpNet::new(address, prefix).ok());
            routes.extend(net.map(|net| (interface, net)));
        })?;
        Ok(routes)
    }
}
