//! What is in our table, read from the kernel without starting a program.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::nft::{Bridge, CHAINS, Forward, Rules, protocol_number};
use crate::network::NetworkError;
use crate::network::error::netlink_failed;
use crate::network::netlink::nftables::{self, Element};

/// Keys and values as the kernel keeps them.
type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

const SETS: [&str; 7] = [
    "bridges",
    "internal",
    "within",
    "translated",
    "inside",
    "ports",
    "ports_any",
];

/// Length of the name of an interface in a set.
const NAME_LENGTH: usize = 16;

/// The table, as far as it can differ: the number of rules per chain, and what the sets hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    rules: BTreeMap<String, usize>,
    sets: BTreeMap<&'static str, Elements>,
}

/// Reads the table of that name; an empty one if there is none.
pub(super) fn read(table: &str) -> Result<Table, NetworkError> {
    let failed = || netlink_failed::<io::Error>("read the firewall");
    let rules = nftables::rules(table).map_err(failed())?;
    let mut found = Table {
        rules: rules
            .into_iter()
            .map(|(chain, rules)| (chain, rules.len()))
            .collect(),
        sets: BTreeMap::new(),
    };
    for set in SETS {
        let elements = nftables::elements(table, set).map_err(failed())?;
        if !elements.is_empty() {
            found.sets.insert(set, elements);
        }
    }
    Ok(found)
}

/// What [`read`] finds if all is as it should be.
pub(super) fn expected(rules: &Rules) -> Table {
    let mut table = Table::default();
    if rules.is_empty() {
        return table;
    }
    table.rules = count_rules(CHAINS);
    for bridge in &rules.bridges {
        let name = interface_key(&bridge.name);
        table.insert("bridges", name.clone(), Vec::new());
        if bridge.internal {
            table.insert("internal", name.clone(), Vec::new());
        }
        if bridge.talk {
            table.insert("within", name.repeat(2), Vec::new());
        }
        for subnet in subnets(bridge) {
            table.insert("inside", subnet.repeat(2), Vec::new());
            if bridge.is_translated() {
                table.insert("translated", subnet.to_vec(), Vec::new());
            }
        }
    }
    for forward in &rules.forwards {
        let Element { set, key, value } = element(forward);
        table.insert(set, key, value);
    }
    table
}

fn subnets(bridge: &Bridge) -> impl Iterator<Item = [u8; 4]> {
    bridge.subnets.iter().filter_map(|subnet| match subnet {
        IpNet::V4(subnet) => Some(subnet.network().octets()),
        IpNet::V6(_) => None,
    })
}

fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(NAME_LENGTH, 0);
    key
}

/// The element of a published port. Each part of a key takes a multiple of four bytes.
pub(super) fn element(forward: &Forward) -> Element {
    let port = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let protocol = protocol_number(&forward.port.protocol);
    let tail = [[protocol, 0, 0, 0], port(forward.port.host_port)].concat();
    let value = [forward.target.octets(), port(forward.port.container_port)].concat();
    let (set, key) = match forward.port.host_ip {
        IpAddr::V4(address) if !address.is_unspecified() => {
            ("ports", [&address.octets()[..], &tail].concat())
        }
        _ => ("ports_any", tail),
    };
    Element { set, key, value }
}

impl Table {
    fn insert(&mut self, set: &'static str, key: Vec<u8>, value: Vec<u8>) {
        self.sets.entry(set).or_default().insert(key, value);
    }

    /// Bridges and ports that `expected` does not have, in words.
    pub(super) fn surplus(&self, expected: &Self) -> Vec<String> {
        let none = Elements::new();
        let of = |set| {
            let wanted = expected.sets.get(set).unwrap_or(&none);
            let found = self.sets.get(set).unwrap_or(&none).keys();
            found.filter(move |key| !wanted.contains_key(*key))
        };
        let bridges = of("bridges").map(|key| {
            let name = String::from_utf8_lossy(key);
            format!("rules of bridge {}", name.trim_end_matches('\0'))
        });
        let ports = of("ports")
            .chain(of("ports_any"))
            .map(|key| describe_port(key));
        bridges.chain(ports).collect()
    }
}

fn describe_port(key: &[u8]) -> String {
    let (address, tail) = match key.len() {
        12 => key.split_at(4),
        _ => (&[0; 4][..], key),
    };
    let address = <[u8; 4]>::try_from(address).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
    let byte = |index| tail.get(index).copied().unwrap_or_default();
    let protocol = match byte(0) {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    };
    let port = u16::from_be_bytes([byte(4), byte(5)]);
    format!("port {address}:{port}/{protocol}")
}

/// Rules per chain of the text of a table.
fn count_rules(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut chain = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.strip_suffix(" {").map(str::to_owned);
        } else if line == "}" {
            chain = None;
        } else if let Some(name) = &chain
            && !line.starts_with("type ")
        {
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PublishedPort;

    fn forward(host_ip: [u8; 4]) -> Forward {
        Forward {
            port: PublishedPort {
                host_ip: host_ip.into(),
                host_port: 0x1f90,
                container_port: 80,
                protocol: "tcp".into(),
            },
            target: [10, 1, 0, 2].into(),
        }
    }

    #[test]
    fn rules_are_counted_per_chain() {
        let counts = count_rules(CHAINS);
        assert_eq!(counts.get("loopback"), Some(&1));
        assert_eq!(counts.get("published"), Some(&2));
        assert_eq!(counts.get("forward"), Some(&6));
    }

    #[test]
    fn keys_are_padded_part_by_part() {
        let Element { set, key, value } = element(&forward([127, 0, 0, 1]));
        assert_eq!(set, "ports");
        assert_eq!(key, [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value, [10, 1, 0, 2, 0, 80, 0, 0]);
    }

    #[test]
    fn what_is_too_much_is_said_in_words() {
        let found = expected(&Rules {
            bridges: Vec::new(),
            forwards: vec![forward([127, 0, 0, 1]), forward([0, 0, 0, 0])],
        });
        assert_eq!(
            found.surplus(&Table::default()),
            ["port 127.0.0.1:8080/tcp", "port 0.0.0.0:8080/tcp"]
        );
    }
}
