//! What only one sandbox can have at a time.

use std::net::IpAddr;

use crate::network::{PortRequest, SandboxSpec};

/// Whether two sandboxes cannot exist at the same time: they publish the same port or have the same address.
pub(super) fn conflict(old: &SandboxSpec, new: &SandboxSpec) -> bool {
    let same_address = old.attachments.iter().any(|old| {
        new.attachments.iter().any(|new| {
            let same = |old: Option<IpAddr>, new| old.is_some() && old == new;
            old.network == new.network && (same(old.ipv4, new.ipv4) || same(old.ipv6, new.ipv6))
        })
    });
    same_address
        || old
            .ports
            .iter()
            .any(|old| new.ports.iter().any(|new| same_port(old, new)))
}

fn same_port(old: &PortRequest, new: &PortRequest) -> bool {
    let (Some(a), Some(b)) = (old.host_ports, new.host_ports) else {
        return false;
    };
    let is_any = |address: &Option<String>| {
        address
            .as_deref()
            .is_none_or(|address| matches!(address, "0.0.0.0" | "::"))
    };
    let overlap = a.0 <= b.1 && b.0 <= a.1;
    let same_address = old.host_ip == new.host_ip || is_any(&old.host_ip) || is_any(&new.host_ip);
    old.protocol == new.protocol && overlap && same_address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Attachment;

    fn publishing(host_ip: Option<&str>, ports: Option<(u16, u16)>, protocol: &str) -> SandboxSpec {
        SandboxSpec {
            ports: vec![PortRequest {
                host_ip: host_ip.map(String::from),
                host_ports: ports,
                container_port: 80,
                protocol: protocol.into(),
            }],
            ..SandboxSpec::default()
        }
    }

    fn at(network: &str, address: Option<[u8; 4]>) -> SandboxSpec {
        SandboxSpec {
            attachments: vec![Attachment {
                network: network.into(),
                ipv4: address.map(IpAddr::from),
                ..Attachment::default()
            }],
            ..SandboxSpec::default()
        }
    }

    #[test]
    fn a_port_is_taken_on_the_same_address_and_on_any() {
        let any = publishing(None, Some((80, 90)), "tcp");
        let local = publishing(Some("127.0.0.1"), Some((85, 85)), "tcp");
        assert!(conflict(&any, &local) && conflict(&local, &local));
        assert!(!conflict(
            &local,
            &publishing(Some("10.0.0.1"), Some((85, 85)), "tcp")
        ));
        assert!(!conflict(&any, &publishing(None, Some((80, 90)), "udp")));
        assert!(!conflict(&any, &publishing(None, Some((91, 91)), "tcp")));
        assert!(!conflict(&any, &publishing(None, None, "tcp")));
    }

    #[test]
    fn an_address_is_taken_on_its_network() {
        let taken = at("back", Some([10, 0, 0, 9]));
        assert!(conflict(&taken, &taken));
        assert!(!conflict(&taken, &at("front", Some([10, 0, 0, 9]))));
        assert!(!conflict(&taken, &at("back", None)));
        assert!(!conflict(&at("back", None), &at("back", None)));
    }
}
