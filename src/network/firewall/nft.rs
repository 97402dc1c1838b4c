//! The text of our nftables table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::network::PublishedPort;

/// What the rules have to know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Bridge {
    pub(in crate::network) name: String,
    pub(in crate::network) subnets: Vec<IpNet>,
    /// Neither to nor from anywhere else but the host.
    pub(in crate::network) internal: bool,
    /// Packets that leave it get the host's address.
    pub(in crate::network) masquerade: bool,
    /// Its containers reach each other.
    pub(in crate::network) talk: bool,
}

impl Bridge {
    /// Whether packets that leave it get another source address.
    pub(super) fn is_translated(&self) -> bool {
        self.masquerade && !self.internal
    }
}

/// A published port and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network) struct Forward {
    pub(in crate::network) port: PublishedPort,
    pub(in crate::network) target: Ipv4Addr,
}

/// Number of a protocol; its name would need `/etc/protocols`, which small systems lack.
pub(super) fn protocol_number(name: &str) -> u8 {
    match name {
        "udp" => 17,
        "sctp" => 132,
        _ => 6,
    }
}

impl Forward {
    /// Map and key of its element.
    fn key(&self) -> (&'static str, String) {
        let PublishedPort {
            host_ip, host_port, ..
        } = &self.port;
        let protocol = protocol_number(&self.port.protocol);
        match host_ip {
            IpAddr::V4(address) if !address.is_unspecified() => {
                ("ports", format!("{address} . {protocol} . {host_port}"))
            }
            _ => ("ports_any", format!("{protocol} . {host_port}")),
        }
    }

    fn element(&self) -> String {
        let (_, key) = self.key();
        format!("{key} : {} . {}", self.target, self.port.container_port)
    }

    /// Whether both want the same element.
    pub(in crate::network) fn same_key(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

/// All that the table has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::network) struct Rules {
    pub(in crate::network) bridges: Vec<Bridge>,
    pub(in crate::network) forwards: Vec<Forward>,
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        self.bridges.is_empty() && self.forwards.is_empty()
    }
}

/// Rules that no container changes; sets and maps hold what does.
///
/// Packets for 127.0.0.0/8 from anywhere but loopback are dropped before translation, as `route_localnet` of the bridges
/// would let containers reach services of the host that listen on loopback only. Nothing but published ports comes into a
/// bridge from elsewhere; `internal` ones are closed both ways. What stays within a network keeps its source address
/// unless it came through a published port: then the answer has to come back through the host.
pub(super) const CHAINS: &str = "
	chain loopback {
		type filter hook prerouting priority -300; policy accept;
		iifname != \"lo\" ip daddr 127.0.0.0/8 drop
	}
	chain published {
		meta l4proto { 6, 17, 132 } dnat ip to ip daddr . meta l4proto . th dport map @ports
		meta l4proto { 6, 17, 132 } dnat ip to meta l4proto . th dport map @ports_any
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		fib daddr type local jump published
	}
	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump published
	}
	chain forward {
		type filter hook forward priority -1; policy accept;
		ct state established,related accept
		iifname . oifname @within accept
		iifname @internal drop
		oifname @internal drop
		oifname @bridges ct status dnat accept
		oifname @bridges drop
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname @bridges ct status dnat fib saddr type local masquerade
		ip saddr . ip daddr @inside ct status dnat masquerade
		ip saddr . ip daddr @inside return
		ip saddr @translated masquerade
	}
";

fn set(text: &mut String, head: &str, elements: &[String]) {
    let _ = write!(text, "\t{head}");
    if !elements.is_empty() {
        let _ = write!(text, " elements = {{ {} }};", elements.join(", "));
    }
    text.push_str(" }\n");
}

/// Replaces the whole table in one transaction.
pub(super) fn replace(table: &str, rules: &Rules) -> String {
    let mut text = format!("table ip {table}\ndelete table ip {table}\n");
    if rules.is_empty() {
        return text;
    }
    let _ = writeln!(text, "table ip {table} {{");
    let names = |keep: &dyn Fn(&Bridge) -> bool| -> Vec<String> {
        let kept = rules.bridges.iter().filter(|bridge| keep(bridge));
        kept.map(|bridge| format!("\"{}\"", bridge.name)).collect()
    };
    let subnets = |keep: &dyn Fn(&Bridge) -> bool| -> Vec<&IpNet> {
        let kept = rules.bridges.iter().filter(|bridge| keep(bridge));
        kept.flat_map(|bridge| &bridge.subnets)
            .filter(|subnet| matches!(subnet, IpNet::V4(_)))
            .collect()
    };
    let pairs = |list: Vec<String>| -> Vec<String> {
        list.iter().map(|name| format!("{name} . {name}")).collect()
    };
    let translated = subnets(&Bridge::is_translated);
    let translated: Vec<String> = translated.iter().map(ToString::to_string).collect();
    let inside: Vec<String> = subnets(&|_| true).iter().map(ToString::to_string).collect();
    set(&mut text, "set bridges { type ifname;", &names(&|_| true));
    set(
        &mut text,
        "set internal { type ifname;",
        &names(&|bridge| bridge.internal),
    );
    set(
        &mut text,
        "set within { type ifname . ifname;",
        &pairs(names(&|bridge| bridge.talk)),
    );
    set(
        &mut text,
        "set translated { type ipv4_addr; flags interval;",
        &translated,
    );
    set(
        &mut text,
        "set inside { type ipv4_addr . ipv4_addr; flags interval;",
        &pairs(inside),
    );
    let mut elements: BTreeMap<(&str, String), String> = BTreeMap::new();
    for forward in &rules.forwards {
        elements.insert(forward.key(), forward.element());
    }
    let of = |map: &str| -> Vec<String> {
        let kept = elements.iter().filter(|((name, _), _)| *name == map);
        kept.map(|(_, element)| element.clone()).collect()
    };
    set(
        &mut text,
        "map ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
        &of("ports"),
    );
    set(
        &mut text,
        "map ports_any { type inet_proto . inet_service : ipv4_addr . inet_service;",
        &of("ports_any"),
    );
    text.push_str(CHAINS);
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(name: &str, subnet: &str) -> Bridge {
        Bridge {
            name: name.into(),
            subnets: vec![subnet.parse().expect("a subnet")],
            internal: false,
            masquerade: true,
            talk: true,
        }
    }

    fn forward(host_ip: [u8; 4], host_port: u16, target: [u8; 4]) -> Forward {
        Forward {
            port: PublishedPort {
                host_ip: host_ip.into(),
                host_port,
                container_port: 80,
                protocol: "tcp".into(),
            },
            target: target.into(),
        }
    }

    #[test]
    fn nothing_to_say_deletes_the_table() {
        let text = replace("compose", &Rules::default());
        assert_eq!(text, "table ip compose\ndelete table ip compose\n");
    }

    #[test]
    fn each_property_of_a_network_is_an_element() {
        let mut closed = bridge("br-b", "10.2.0.0/24");
        closed.internal = true;
        closed.talk = false;
        let rules = Rules {
            bridges: vec![bridge("br-a", "10.1.0.0/24"), closed],
            forwards: Vec::new(),
        };
        let text = replace("compose", &rules);
        for line in [
            r#"set bridges { type ifname; elements = { "br-a", "br-b" }; }"#,
            r#"set internal { type ifname; elements = { "br-b" }; }"#,
            r#"set within { type ifname . ifname; elements = { "br-a" . "br-a" }; }"#,
            "flags interval; elements = { 10.1.0.0/24 }; }",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_port_of_one_address_and_a_port_of_all_are_elements_of_different_maps() {
        let rules = Rules {
            bridges: vec![bridge("br-a", "10.1.0.0/24")],
            forwards: vec![
                forward([127, 0, 0, 1], 8080, [10, 1, 0, 2]),
                forward([0, 0, 0, 0], 8081, [10, 1, 0, 3]),
            ],
        };
        let text = replace("compose", &rules);
        assert!(
            text.contains("elements = { 127.0.0.1 . 6 . 8080 : 10.1.0.2 . 80 };"),
            "{text}"
        );
        assert!(
            text.contains("elements = { 6 . 8081 : 10.1.0.3 . 80 };"),
            "{text}"
        );
    }

    #[test]
    fn a_port_that_two_records_claim_appears_once() {
        let rules = Rules {
            bridges: vec![bridge("br-a", "10.1.0.0/24")],
            forwards: vec![
                forward([0, 0, 0, 0], 80, [10, 1, 0, 2]),
                forward([0, 0, 0, 0], 80, [10, 1, 0, 3]),
            ],
        };
        assert_eq!(replace("compose", &rules).matches("6 . 80 :").count(), 1);
    }
}
