//! Entries of connection tracking.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink;

use super::{Message, Socket, accept_missing, attributes, find};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;

const FAMILY_IPV4: u8 = 2;
const PROTOCOL_UDP: u8 = 17;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `TIME_WAIT` and `CLOSE` of `nf_conntrack_tcp.h`.
const CLOSED: [u8; 2] = [7, 8];
const ENTRY_ID: u16 = 12;
const ENTRY_ZONE: u16 = 18;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const ADDRESSES_SOURCE: u16 = 1;
const ADDRESSES_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// What connection tracking should forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::network) struct Forget {
    /// All connections from or to these addresses, before or after translation.
    pub(in crate::network) addresses: Vec<Ipv4Addr>,
    /// UDP flows that were sent to these ports of the host; an unspecified address stands for any.
    pub(in crate::network) udp: Vec<(Ipv4Addr, u16)>,
    /// Closed TCP connections that lead to these addresses: a client that uses their port again would be led there, too.
    pub(in crate::network) closed: Vec<Ipv4Addr>,
}

impl Forget {
    pub(in crate::network) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.udp.is_empty() && self.closed.is_empty()
    }

    fn covers(&self, entry: &[u8]) -> bool {
        let original = find(entry, TUPLE_ORIGINAL).map(Tuple::read);
        let reply = find(entry, TUPLE_REPLY).map(Tuple::read);
        let ends = [&original, &reply]
            .into_iter()
            .flatten()
            .flat_map(|tuple| [tuple.source, tuple.destination]);
        if ends.flatten().any(|end| self.addresses.contains(&end)) {
            return true;
        }
        let leads_to = reply.and_then(|tuple| tuple.source);
        if leads_to.is_some_and(|address| self.closed.contains(&address)) && is_closed(entry) {
            return true;
        }
        original.is_some_and(|tuple| {
            tuple.protocol == Some(PROTOCOL_UDP)
                && self.udp.iter().any(|(address, port)| {
                    tuple.port == Some(*port)
                        && (address.is_unspecified() || tuple.destination == Some(*address))
                })
        })
    }
}

/// Whether an entry is of a TCP connection that is remembered only for a while.
fn is_closed(entry: &[u8]) -> bool {
    let state = find(entry, PROTOCOL_INFO)
        .and_then(|info| find(info, INFO_TCP))
        .and_then(|tcp| find(tcp, TCP_STATE));
    state
        .and_then(<[u8]>::first)
        .is_some_and(|state| CLOSED.contains(state))
}

#[derive(Debug, Default)]
struct Tuple {
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    protocol: Option<u8>,
    port: Option<u16>,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Self {
        let address = |list: &[u8], kind| {
            find(list, kind).and_then(|value| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from))
        };
        let mut tuple = Self::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                TUPLE_ADDRESSES => {
                    tuple.source = address(value, ADDRESSES_SOURCE);
                    tuple.destination = address(value, ADDRESSES_DESTINATION);
                }
                TUPLE_PROTOCOL => {
                    tuple.protocol =
                        find(value, PROTOCOL_NUMBER).and_then(|value| value.first().copied());
                    tuple.port = find(value, PROTOCOL_DESTINATION_PORT)
                        .and_then(|value| value.try_into().ok().map(u16::from_be_bytes));
                }
                _ => {}
            }
        }
        tuple
    }
}

/// Deletes the entries that `forget` covers and returns how many there were.
pub(in crate::network) fn forget(forget: &Forget) -> io::Result<usize> {
    if forget.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let header = [FAMILY_IPV4, 0, 0, 0];
    let mut deletions = Vec::new();
    socket.dump(Message::new(GET, 0, &header), |payload| {
        let entry = payload.get(4..).unwrap_or_default();
        if !forget.covers(entry) {
            return;
        }
        let mut message = Message::new(DELETE, 0, &header);
        for (kind, value) in attributes(entry) {
            match kind {
                TUPLE_ORIGINAL => {
                    message = message.attribute(kind | super::ATTRIBUTE_NESTED, value);
                }
                // With its number an entry that took the place of this one in the meantime is spared.
                ENTRY_ID | ENTRY_ZONE => message = message.attribute(kind, value),
                _ => {}
            }
        }
        deletions.push(message);
    })?;
    let count = deletions.len();
    // The kernel's receive buffer for one send is limited.
    while !deletions.is_empty() {
        let chunk: Vec<Message> = deletions.drain(..deletions.len().min(100)).collect();
        for result in socket.execute_each(chunk)? {
            accept_missing(result)?;
        }
    }
    Ok(count)
}
