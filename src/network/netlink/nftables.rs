//! The parts of nftables that have to be fast: redirecting a port inside of a new namespace, changing elements, and
//! looking at what is in a table. Tables of rules are written as text for `nft` instead.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink;

use super::{FLAG_CREATE, Message, Socket, attributes, find, is_missing, string};

/// The high byte of a message's type is the subsystem.
const SUBSYSTEM: u16 = 0xa;
const NEW_TABLE: u16 = 0xa00;
const DELETE_TABLE: u16 = 0xa02;
const NEW_CHAIN: u16 = 0xa03;
const NEW_RULE: u16 = 0xa06;
const GET_RULE: u16 = 0xa07;
const NEW_ELEMENT: u16 = 0xa0c;
const GET_ELEMENT: u16 = 0xa0d;
const DELETE_ELEMENT: u16 = 0xa0e;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const FLAG_APPEND: u16 = 0x800;

/// Header of the family for IPv4.
const HEADER: [u8; 4] = [2, 0, 0, 0];

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
/// Marks the address after the last of an interval.
const INTERVAL_END: u32 = 1;

const HOOK_OUTPUT: u32 = 3;
const PRIORITY_DESTINATION: i32 = -100;

const REGISTER_ADDRESS: u32 = 1;
const REGISTER_PORT: u32 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_PROTOCOL: u32 = 16;
const NAT_DESTINATION: u32 = 1;
const FAMILY_IPV4: u32 = 2;

/// A redirection of a port of a local address to another port there.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) struct Redirect {
    pub(in crate::network) protocol: u8,
    pub(in crate::network) address: Ipv4Addr,
    pub(in crate::network) from: u16,
    pub(in crate::network) to: u16,
}

fn number(message: Message, kind: u16, value: u32) -> Message {
    message.attribute(kind, &value.to_be_bytes())
}

fn data(message: Message, kind: u16, value: &[u8]) -> Message {
    message.nested(kind, |message| message.attribute(DATA_VALUE, value))
}

fn expression(message: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    message.nested(LIST_ELEMENT, |message| {
        message
            .text(EXPRESSION_NAME, name)
            .nested(EXPRESSION_DATA, fill)
    })
}

/// Loads bytes of a header of the packet.
fn load(message: Message, base: u32, offset: u32, length: u32) -> Message {
    expression(message, "payload", |message| {
        let message = number(message, 1, REGISTER_ADDRESS);
        let message = number(message, 2, base);
        number(number(message, 3, offset), 4, length)
    })
}

/// Goes on only if what was loaded is `value`.
fn equals(message: Message, value: &[u8]) -> Message {
    expression(message, "cmp", |message| {
        let message = number(message, 1, REGISTER_ADDRESS);
        data(number(message, 2, 0), 3, value)
    })
}

fn immediate(message: Message, register: u32, value: &[u8]) -> Message {
    expression(message, "immediate", |message| {
        data(number(message, 1, register), 2, value)
    })
}

fn redirection(message: Message, redirect: Redirect) -> Message {
    let address = redirect.address.octets();
    let message = equals(load(message, NETWORK_HEADER, 16, 4), &address);
    let message = expression(message, "meta", |message| {
        number(number(message, 1, REGISTER_ADDRESS), 2, META_PROTOCOL)
    });
    let message = equals(message, &[redirect.protocol]);
    let message = equals(
        load(message, TRANSPORT_HEADER, 2, 2),
        &redirect.from.to_be_bytes(),
    );
    let message = immediate(message, REGISTER_ADDRESS, &address);
    let message = immediate(message, REGISTER_PORT, &redirect.to.to_be_bytes());
    expression(message, "nat", |message| {
        let message = number(message, 1, NAT_DESTINATION);
        let message = number(message, 2, FAMILY_IPV4);
        number(number(message, 3, REGISTER_ADDRESS), 5, REGISTER_PORT)
    })
}

/// Writes a table of nothing but these redirections, in place of one of that name.
pub(in crate::network) fn redirect(table: &str, redirects: &[Redirect]) -> io::Result<()> {
    let new_table = || Message::new(NEW_TABLE, FLAG_CREATE, &HEADER).text(TABLE_NAME, table);
    let mut messages = vec![
        new_table(),
        Message::new(DELETE_TABLE, 0, &HEADER).text(TABLE_NAME, table),
        new_table(),
        Message::new(NEW_CHAIN, FLAG_CREATE, &HEADER)
            .text(CHAIN_TABLE, table)
            .text(CHAIN_NAME, "output")
            .nested(CHAIN_HOOK, |message| {
                number(message, HOOK_NUMBER, HOOK_OUTPUT)
                    .attribute(HOOK_PRIORITY, &PRIORITY_DESTINATION.to_be_bytes())
            })
            .text(CHAIN_TYPE, "nat"),
    ];
    for redirect in redirects {
        let rule = Message::new(NEW_RULE, FLAG_CREATE | FLAG_APPEND, &HEADER)
            .text(RULE_TABLE, table)
            .text(RULE_CHAIN, "output")
            .nested(RULE_EXPRESSIONS, |message| redirection(message, *redirect));
        messages.push(rule);
    }
    transaction(messages)
}

/// Does all of it or nothing.
fn transaction(messages: Vec<Message>) -> io::Result<()> {
    let frame = |kind| {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        Message::new(kind, 0, &[0, 0, high, low])
    };
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let results = socket.execute_between(frame(BATCH_BEGIN), messages, frame(BATCH_END))?;
    results.into_iter().collect()
}

/// An element of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Element {
    pub(in crate::network) set: &'static str,
    pub(in crate::network) key: Vec<u8>,
    pub(in crate::network) value: Vec<u8>,
}

impl Element {
    fn message(&self, kind: u16, flags: u16, table: &str) -> Message {
        Message::new(kind, flags, &HEADER)
            .text(ELEMENTS_TABLE, table)
            .text(ELEMENTS_SET, self.set)
            .nested(ELEMENTS_LIST, |message| {
                message.nested(LIST_ELEMENT, |message| {
                    let message = data(message, ELEMENT_KEY, &self.key);
                    data(message, ELEMENT_DATA, &self.value)
                })
            })
    }
}

/// Removes and adds elements. Removing one that is not there and adding one that is are both fine; another value under
/// the key of either is an error.
pub(in crate::network) fn change(
    table: &str,
    remove: &[Element],
    add: &[Element],
) -> io::Result<()> {
    let mut messages = Vec::new();
    for element in remove {
        messages.push(element.message(NEW_ELEMENT, FLAG_CREATE, table));
        messages.push(element.message(DELETE_ELEMENT, 0, table));
    }
    for element in add {
        messages.push(element.message(NEW_ELEMENT, FLAG_CREATE, table));
    }
    transaction(messages)
}

/// Expressions of the rules of a table, as bytes, by chain; none if there is no such table.
pub(in crate::network) fn rules(table: &str) -> io::Result<BTreeMap<String, Vec<Vec<u8>>>> {
    let mut chains: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let message = Message::new(GET_RULE, 0, &HEADER).text(RULE_TABLE, table);
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let dumped = socket.dump(message, |payload| {
        let list = payload.get(4..).unwrap_or_default();
        // Kernels before 4.15 do not select by table.
        if find(list, RULE_TABLE).map(string).as_deref() == Some(table)
            && let Some(chain) = find(list, RULE_CHAIN)
        {
            let expressions = find(list, RULE_EXPRESSIONS).unwrap_or_default();
            chains
                .entry(string(chain))
                .or_default()
                .push(expressions.to_vec());
        }
    });
    match dumped {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(chains),
    }
}

/// Keys of a set (where intervals begin) with their values (empty but in maps); none if there is no such set.
pub(in crate::network) fn elements(
    table: &str,
    set: &str,
) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut elements = BTreeMap::new();
    let message = Message::new(GET_ELEMENT, 0, &HEADER)
        .text(ELEMENTS_TABLE, table)
        .text(ELEMENTS_SET, set);
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let dumped = socket.dump(message, |payload| {
        let list = find(payload.get(4..).unwrap_or_default(), ELEMENTS_LIST);
        for (_, element) in attributes(list.unwrap_or_default()) {
            let value = |kind| find(element, kind).and_then(|data| find(data, DATA_VALUE));
            let flags = find(element, ELEMENT_FLAGS).and_then(|value| value.try_into().ok());
            let is_end = u32::from_be_bytes(flags.unwrap_or_default()) & INTERVAL_END != 0;
            if let Some(key) = value(ELEMENT_KEY).filter(|_| !is_end) {
                let data = value(ELEMENT_DATA).unwrap_or_default();
                elements.insert(key.to_vec(), data.to_vec());
            }
        }
    });
    match dumped {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(elements),
    }
}
