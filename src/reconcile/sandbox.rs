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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;

    fn shop() -> Project {
        let network = |key: &str| Network {
            name: format!("shop_{key}"),
            internal: key == "inner",
            ..Network::default()
        };
        Project {
            name: "shop".into(),
            networks: ["back", "front", "inner"]
                .into_iter()
                .map(|key| (key.into(), network(key)))
                .collect(),
            ..Project::default()
        }
    }

    fn on(networks: &[(&str, ServiceNetwork)]) -> Service {
        Service {
            name: "web".into(),
            networks: networks
                .iter()
                .map(|(key, network)| ((*key).into(), Some(network.clone())))
                .collect(),
            ..Service::default()
        }
    }

    fn with_priority(priority: i64, gw_priority: i64) -> ServiceNetwork {
        ServiceNetwork {
            priority,
            gw_priority,
            ..ServiceNetwork::default()
        }
    }

    fn spec(project: &Project, service: &Service) -> Option<SandboxSpec> {
        let networks = project
            .networks
            .iter()
            .map(|(key, network)| {
                let mut desired = DesiredNetwork::default();
                desired.spec.name.clone_from(&network.name);
                desired.spec.internal = network.internal;
                (key.clone(), desired)
            })
            .collect();
        sandbox_spec(project, service, &networks)
    }

    fn joined(service: &Service) -> Vec<(String, bool)> {
        let attachments = spec(&shop(), service).unwrap().attachments.into_iter();
        attachments
            .map(|joined| (joined.network, joined.default_gateway))
            .collect()
    }

    #[test]
    fn networks_are_joined_by_priority_and_then_by_name() {
        let service = on(&[
            ("front", with_priority(0, 0)),
            ("back", with_priority(0, 0)),
            ("inner", with_priority(5, 0)),
        ]);
        let order: Vec<String> = joined(&service).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["shop_inner", "shop_back", "shop_front"]);
    }

    #[test]
    fn the_default_route_leads_through_the_highest_priority_but_never_inside() {
        let service = on(&[
            ("inner", with_priority(9, 9)),
            ("back", with_priority(0, 0)),
            ("front", with_priority(0, 1)),
        ]);
        let routes: Vec<bool> = joined(&service)
            .into_iter()
            .map(|(_, gateway)| gateway)
            .collect();
        assert_eq!(routes, [false, false, true]);
    }

    #[test]
    fn modes_decide_whether_there_is_a_sandbox() {
        let with = |mode: &str| {
            let service = Service {
                network_mode: Some(mode.into()),
                ..Service::default()
            };
            spec(&shop(), &service).map(|spec| spec.attachments.len())
        };
        assert_eq!(with("none"), Some(0));
        for mode in ["host", "service:db", "container:x"] {
            assert_eq!(with(mode), None);
        }
    }

    #[test]
    fn links_give_names_to_the_other_side() {
        let mut project = shop();
        let mut web = on(&[("back", ServiceNetwork::default())]);
        web.links = vec!["db:database".into(), "db".into()];
        let mut db = on(&[
            ("back", with_priority(0, 0)),
            ("front", with_priority(0, 0)),
        ]);
        db.name = "db".into();
        db.networks["back"].as_mut().unwrap().aliases = vec!["store".into()];
        project.services.insert("web".into(), web);
        let names: Vec<Vec<String>> = spec(&project, &db)
            .unwrap()
            .attachments
            .into_iter()
            .map(|joined| joined.names)
            .collect();
        assert_eq!(
            names,
            [vec!["store".to_owned(), "database".to_owned()], vec![]]
        );
    }

    #[test]
    fn ports_are_fixed_chosen_from_a_range_or_free() {
        let request = |published: Option<&str>| {
            let port = Port {
                target: 80,
                published: published.map(String::from),
                host_ip: Some(String::new()),
                ..Port::default()
            };
            port_request(&port)
        };
        let fixed = PortRequest {
            host_ip: None,
            host_ports: Some((8080, 8080)),
            container_port: 80,
            protocol: "tcp".into(),
        };
        assert_eq!(request(Some("8080")), fixed);
        assert_eq!(request(Some("8080-8090")).host_ports, Some((8080, 8090)));
        for free in [None, Some("0"), Some("")] {
            assert_eq!(request(free).host_ports, None);
        }
    }
}
