//! Published and exposed ports, and how Docker writes them.

use std::net::IpAddr;

use indexmap::IndexMap;
use serde::Serialize;

use super::{ContainerSummary, Stack, StackError};

/// One port of a container; `PublishedPort` is 0 for one that is only exposed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Publisher {
    #[serde(rename = "URL")]
    pub url: String,
    pub target_port: u16,
    pub published_port: u16,
    pub protocol: String,
}

impl Publisher {
    /// Where it is published, as `0.0.0.0:8080`.
    pub fn address(&self) -> String {
        join(&self.url, &self.published_port.to_string())
    }
}

/// `80/tcp, 0.0.0.0:8000-8002->8000-8002/tcp`: neighbours with the same number on both sides are joined.
pub fn displayable(publishers: &[Publisher]) -> String {
    let mut sorted: Vec<&Publisher> = publishers.iter().collect();
    sorted.sort_by_key(|port| {
        (
            port.target_port,
            &port.url,
            port.published_port,
            &port.protocol,
        )
    });
    let mut parts = Vec::new();
    let mut mapped = Vec::new();
    // First and last port by address and protocol.
    let mut groups: IndexMap<(&str, &str), (u16, u16)> = IndexMap::new();
    for port in sorted {
        let current = port.target_port;
        if !port.url.is_empty() && port.published_port != current {
            let host = join(&port.url, &port.published_port.to_string());
            mapped.push(format!("{host}->{current}/{}", port.protocol));
            continue;
        }
        let key = (port.url.as_str(), port.protocol.as_str());
        match groups.get_mut(&key) {
            Some((_, last)) if last.checked_add(1) == Some(current) => *last = current,
            Some(range) => {
                parts.push(group(key, *range));
                *range = (current, current);
            }
            None => {
                groups.insert(key, (current, current));
            }
        }
    }
    parts.extend(groups.into_iter().map(|(key, range)| group(key, range)));
    parts.extend(mapped);
    parts.join(", ")
}

fn group((address, protocol): (&str, &str), (first, last): (u16, u16)) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    if address.is_empty() {
        format!("{range}/{protocol}")
    } else {
        format!("{}->{range}/{protocol}", join(address, &range))
    }
}

fn join(address: &str, port: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

impl Stack {
    /// Where port `port` of a container of `service` is published. `index`: number of the replica; 0: the first one.
    pub async fn published(
        &self,
        service: &str,
        index: u32,
        port: u16,
        protocol: &str,
    ) -> Result<Publisher, StackError> {
        let containers = self.ps().await?.into_iter().filter(|container| {
            container.service == service
                && !container.one_off
                && (index == 0 || container.number() == Some(index))
        });
        let Some(container) = containers.min_by_key(ContainerSummary::number) else {
            return Err(StackError::NotRunning {
                service: service.into(),
                index: 0,
            });
        };
        let is_wanted = |found: &Publisher| {
            found.target_port == port && found.published_port != 0 && found.protocol == protocol
        };
        container
            .publishers
            .into_iter()
            .find(is_wanted)
            .ok_or_else(|| StackError::NotPublished {
                container: container.name,
                port,
                protocol: protocol.into(),
            })
    }
}

/// The ports of one item of `expose`: `90`, `91/udp`, `3000-3005`. Empty if it is none.
pub(super) fn exposed(text: &str) -> Vec<Publisher> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        return Vec::new();
    };
    (first..=last)
        .map(|target_port| Publisher {
            url: String::new(),
            target_port,
            published_port: 0,
            protocol: protocol.into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(url: &str, published_port: u16, target_port: u16) -> Publisher {
        Publisher {
            url: url.into(),
            target_port,
            published_port,
            protocol: "tcp".into(),
        }
    }

    #[test]
    fn ports_are_written_as_docker_writes_them() {
        let mut ports = exposed("91/udp");
        ports.extend(exposed("90"));
        ports.push(publisher("0.0.0.0", 32768, 80));
        ports.push(publisher("::", 32768, 80));
        assert_eq!(
            displayable(&ports),
            "90/tcp, 91/udp, 0.0.0.0:32768->80/tcp, [::]:32768->80/tcp"
        );
    }

    #[test]
    fn neighbours_are_joined() {
        let ports: Vec<_> = [8000, 8001, 8002, 9000]
            .map(|port| publisher("127.0.0.1", port, port))
            .into();
        assert_eq!(
            displayable(&ports),
            "127.0.0.1:8000-8002->8000-8002/tcp, 127.0.0.1:9000->9000/tcp"
        );
        assert_eq!(displayable(&exposed("3000-3005")), "3000-3005/tcp");
        assert_eq!(displayable(&exposed("65535")), "65535/tcp");
    }

    #[test]
    fn what_is_no_port_is_left_out() {
        assert!(exposed("http").is_empty());
        assert!(exposed("9-1").is_empty());
        assert_eq!(displayable(&[]), "");
    }
}
