//! From a service to the sandbox that its replicas live in.

use indexmap::IndexMap;

use super::desired::{DesiredNetwork, distinct};
use crate::container::label;
use crate::model::{Port, Project, Service, ServiceNetwork};
use crate::network::{Attachment, PortRequest, SandboxSpec};

/// The network that `network_mode` names directly, as `bridge`.
pub(super) fn named_network(mode: Option<&str>) -> Option<&str> {
    mode.filter(|mode| !matches!(*mode, "" | "none" | "host"))
        .filter(|mode| !mode.starts_with("service:") && !mode.starts_with("container:"))
}

/// Keys of the networks that `service` joins, the primary one first: by priority, then by name.
pub(super) fn network_keys(service: &Service) -> Vec<String> {
    if let Some(mode) = service.network_mode.as_deref() {
        return named_network(Some(mode))
            .map(String::from)
            .into_iter()
            .collect();
    }
    let mut keys: Vec<&String> = service.networks.keys().collect();
    keys.sort_by_key(|key| {
        let priority = service.networks[*key]
            .as_ref()
            .map_or(0, |network| network.priority);
        (std::cmp::Reverse(priority), *key)
    });
    keys.into_iter().cloned().collect()
}

/// The sandbox of a replica but for its id and the names that every replica has by itself. None for the host's network
/// and for those that join another container's.
pub(super) fn sandbox_spec(
    project: &Project,
    service: &Service,
    networks: &IndexMap<String, DesiredNetwork>,
) -> Option<SandboxSpec> {
    let mode = service.network_mode.as_deref().unwrap_or_default();
    if mode == "host" || mode.starts_with("service:") || mode.starts_with("container:") {
        return None;
    }
    let joined: Vec<(&String, &DesiredNetwork)> = network_keys(service)
        .iter()
        .filter_map(|key| networks.get_key_value(key))
        .collect();
    let gateway = default_gateway(service, &joined);
    let attachments = joined
        .iter()
        .enumerate()
        .map(|(index, (key, network))| {
            let mut attachment = attachment(project, service, key, network);
            attachment.default_gateway = gateway == Some(index);
            if index == 0 && attachment.mac.is_none() {
                attachment.mac.clone_from(&service.mac_address);
            }
            attachment
        })
        .collect();
    let sysctls = service
        .sysctls
        .iter()
        .filter(|(key, _)| key.starts_with("net."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let labels = [
        (label::PROJECT, &project.name),
        (label::SERVICE, &service.name),
    ];
    Some(SandboxSpec {
        id: String::new(),
        labels: labels
            .map(|(key, value)| (key.into(), value.clone()))
            .into(),
        attachments,
        ports: service.ports.iter().map(port_request).collect(),
        sysctls,
    })
}

fn attachment(
    project: &Project,
    service: &Service,
    key: &str,
    network: &DesiredNetwork,
) -> Attachment {
    let none = ServiceNetwork::default();
    let joined = service
        .networks
        .get(key)
        .and_then(Option::as_ref)
        .unwrap_or(&none);
    let names = if service.network_mode.is_some() {
        // The host's own networks know no names.
        Vec::new()
    } else {
        let hostname = service.hostname.iter().cloned();
        distinct(
            hostname
                .chain(joined.aliases.iter().cloned())
                .chain(link_aliases(project, service, key)),
        )
    };
    Attachment {
        network: network.spec.name.clone(),
        names,
        interface: joined.interface_name.clone(),
        ipv4: joined.ipv4_address,
        ipv6: joined.ipv6_address,
        mac: joined.mac_address.clone(),
        default_gateway: false,
    }
}

/// Names that others on network `key` give to `service` by their `links`.
fn link_aliases<'a>(
    project: &'a Project,
    service: &'a Service,
    key: &'a str,
) -> impl Iterator<Item = String> + 'a {
    project
        .services
        .values()
        .filter(move |other| other.networks.contains_key(key))
        .flat_map(|other| &other.links)
        .filter_map(|link| link.split_once(':'))
        .filter(|(target, _)| *target == service.name)
        .map(|(_, alias)| alias.to_owned())
}

/// Index of the network with the default route, where there is a choice: the highest `gw_priority`, then the first, but
/// an internal network leads nowhere.
fn default_gateway(service: &Service, joined: &[(&String, &DesiredNetwork)]) -> Option<usize> {
    if joined.len() < 2 {
        return None;
    }
    let priority = |key: &str| {
        let network = service.networks.get(key).and_then(Option::as_ref);
        network.map_or(0, |network| network.gw_priority)
    };
    joined
        .iter()
        .enumerate()
        .filter(|(_, (_, network))| network.external || !network.spec.internal)
        .min_by_key(|(index, (key, _))| (std::cmp::Reverse(priority(key)), *index))
        .map(|(index, _)| index)
}

fn port_request(port: &Port) -> PortRequest {
    let protocol = if port.protocol.is_empty() {
        "tcp"
    } else {
        &port.protocol
    };
    PortRequest {
        host_ip: port.host_ip.clone().filter(|address| !address.is_empty()),
        host_ports: port.published.as_deref().and_then(port_range),
        container_port: port.target,
        protocol: protocol.into(),
    }
}

fn port_range(published: &str) -> Option<(u16, u16)> {
    let (first, last) = published.split_once('-').unwrap_or((published, published));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    // Port 0 stands for any free one.
    (range.0 > 0 && range.0 <= range.1).then_some(range)
}
