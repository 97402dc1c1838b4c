//! Values that only an engine would check otherwise: addresses, ports, restart policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::diagnostic::Problem;
use super::path::Path;
use super::session::Session;
use crate::model::parse_range;
use crate::yaml::{Node, Value};

/// Checks all services and networks of a tree whose values have their types.
pub(super) fn check(session: &mut Session<'_>, root: &Node) {
    let services = Path::ROOT.key("services");
    for (name, entry) in root.entries("services") {
        service(session, &entry.value, &services.key(name));
    }
    let networks = Path::ROOT.key("networks");
    for (name, entry) in root.entries("networks") {
        if let Some(ipam) = entry.value.get("ipam") {
            pools(session, ipam, &networks.key(name));
        }
    }
}

fn service(session: &mut Session<'_>, node: &Node, path: &Path<'_>) {
    let list = path.key("ports");
    for (index, port) in node.items("ports").iter().enumerate() {
        long_port(session, port, &list.index(index));
    }
    let list = path.key("expose");
    for (index, port) in node.items("expose").iter().enumerate() {
        let text = port.as_str().unwrap_or_default();
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if parse_range(ports).is_none() || !is_protocol(protocol) {
            session.warn(
                Problem::warning(format!("`{}`: `{text}` is not a port", list.index(index)))
                    .at(port.span)
                    .expected("`PORT[-PORT][/PROTOCOL]`"),
            );
        }
    }
    let list = path.key("networks");
    for (name, entry) in node.entries("networks") {
        let path = list.key(name);
        let network = &entry.value;
        address::<Ipv4Addr>(session, network, "ipv4_address", "an IPv4 address", &path);
        address::<Ipv6Addr>(session, network, "ipv6_address", "an IPv6 address", &path);
        let list = path.key("link_local_ips");
        for (index, item) in network.items("link_local_ips").iter().enumerate() {
            is_valid::<IpAddr>(session, item, "an IP address", &list.index(index));
        }
    }
    if let Some(size) = node.get("shm_size")
        && size.as_int().is_some_and(|size| size < 0)
    {
        wrong(session, size, "zero or more", &path.key("shm_size"));
    }
    if let Some(policy) = node.get("restart") {
        restart(session, policy, &path.key("restart"));
    }
}

fn is_protocol(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp")
}

fn long_port(session: &mut Session<'_>, port: &Node, path: &Path<'_>) {
    if let Some(target) = port.get("target") {
        let is_port = target
            .as_int()
            .is_some_and(|target| (1..=65_535).contains(&target));
        if !is_port {
            wrong(
                session,
                target,
                "a port from 1 to 65535",
                &path.key("target"),
            );
        }
    }
    if let Some(published) = port.get("published")
        && let Some(text) = published.as_str()
        && !text.is_empty()
        && parse_range(text).is_none()
    {
        wrong(
            session,
            published,
            "a port or a range of ports",
            &path.key("published"),
        );
    }
    if let Some(protocol) = port.get("protocol")
        && !protocol.as_str().is_some_and(is_protocol)
    {
        wrong(
            session,
            protocol,
            "`tcp`, `udp` or `sctp`",
            &path.key("protocol"),
        );
    }
}

fn pools(session: &mut Session<'_>, ipam: &Node, path: &Path<'_>) {
    let path = path.key("ipam");
    let list = path.key("config");
    for (index, pool) in ipam.items("config").iter().enumerate() {
        let path = list.index(index);
        address::<IpNet>(session, pool, "subnet", "a subnet", &path);
        address::<IpNet>(session, pool, "ip_range", "a subnet", &path);
        address::<IpAddr>(session, pool, "gateway", "an IP address", &path);
        let aux = path.key("aux_addresses");
        for (name, entry) in pool.entries("aux_addresses") {
            is_valid::<IpAddr>(session, &entry.value, "an IP address", &aux.key(name));
        }
    }
}

fn address<T: std::str::FromStr>(
    session: &mut Session<'_>,
    node: &Node,
    key: &str,
    what: &str,
    path: &Path<'_>,
) {
    if let Some(value) = node.get(key) {
        is_valid::<T>(session, value, what, &path.key(key));
    }
}

fn is_valid<T: std::str::FromStr>(
    session: &mut Session<'_>,
    node: &Node,
    what: &str,
    path: &Path<'_>,
) {
    if let Some(text) = node.as_str()
        && !text.is_empty()
        && text.parse::<T>().is_err()
    {
        wrong(session, node, what, path);
    }
}

fn restart(session: &mut Session<'_>, policy: &Node, path: &Path<'_>) {
    let Some(text) = policy.as_str() else { return };
    let is_policy = match text.split_once(':') {
        None => matches!(text, "" | "no" | "always" | "unless-stopped" | "on-failure"),
        Some(("on-failure", retries)) => retries.parse::<u32>().is_ok(),
        Some(_) => false,
    };
    if !is_policy {
        session.warn(
            Problem::warning(format!("`{path}`: `{text}` is not a restart policy"))
                .at(policy.span)
                .expected("`no`, `always`, `unless-stopped` or `on-failure[:RETRIES]`"),
        );
    }
}

fn wrong(session: &mut Session<'_>, node: &Node, what: &str, path: &Path<'_>) {
    let text = match &node.value {
        Value::Null => String::new(),
        _ => node.scalar_text().unwrap_or_default(),
    };
    let message = format!("`{path}`: `{text}` is not {what}");
    if session.options.refuse_unusable {
        session.error(Problem::error(message).at(node.span));
    } else {
        session.warn(Problem::warning(message).at(node.span));
    }
}
