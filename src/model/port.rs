//! The short form of a published port.

use std::net::IpAddr;

use super::Port;

/// A text that publishes no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("`{0}` names no port in the container")]
    MissingPort(String),
    #[error("`{0}` is not a port or a range of ports in the container")]
    ContainerPort(String),
    #[error("`{0}` is not a port or a range of ports on the host")]
    HostPort(String),
    #[error("`{0}` is not an IP address")]
    Address(String),
    #[error("`{0}` is not a protocol; use tcp, udp or sctp")]
    Protocol(String),
    #[error("the ranges {container} in the container and {host} on the host differ in length")]
    RangeLength { container: String, host: String },
}

/// Reads `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, where ports may be ranges. A range in the container
/// gives a port each, in the order in which the reference lists them.
pub fn parse_ports(text: &str) -> Result<Vec<Port>, PortError> {
    let mut parts = text.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();

    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = protocol.split('/').next().unwrap_or_default();
    let protocol = if protocol.is_empty() {
        "tcp".to_owned()
    } else {
        protocol.to_lowercase()
    };
    let address = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(PortError::Address(address.to_owned()));
    }
    if container.is_empty() {
        return Err(PortError::MissingPort(text.to_owned()));
    }
    // On the host 0 stands for any port, in the container for none.
    let (first, last) = parse_range(container)
        .filter(|(first, _)| *first > 0)
        .ok_or_else(|| PortError::ContainerPort(container.to_owned()))?;
    let published = if host.is_empty() {
        None
    } else {
        Some(parse_range(host).ok_or_else(|| PortError::HostPort(host.to_owned()))?)
    };
    if let Some((host_first, host_last)) = published
        && first != last
        && last - first != host_last - host_first
    {
        return Err(PortError::RangeLength {
            container: container.to_owned(),
            host: host.to_owned(),
        });
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PortError::Protocol(protocol));
    }
    let mut ports: Vec<Port> = (first..=last)
        .map(|target| Port {
            mode: Some("ingress".to_owned()),
            host_ip: (!address.is_empty()).then(|| address.to_owned()),
            target,
            published: published.map(|(host_first, host_last)| {
                if first == last && host_first != host_last {
                    // One port of the range, whichever is free.
                    format!("{host_first}-{host_last}")
                } else {
                    (host_first + (target - first)).to_string()
                }
            }),
            protocol: protocol.clone(),
            ..Port::default()
        })
        .collect();
    ports.sort_by_cached_key(|port| port.target.to_string());
    Ok(ports)
}

/// Reads `p` or `p-q`.
pub fn parse_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| -> Option<u16> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => {
            let range = (port(first)?, port(last)?);
            (range.0 <= range.1).then_some(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str) -> String {
        let ports = parse_ports(text).unwrap();
        let shown: Vec<String> = ports
            .iter()
            .map(|port| {
                format!(
                    "{}|{}|{}/{}",
                    port.host_ip.as_deref().unwrap_or_default(),
                    port.published.as_deref().unwrap_or_default(),
                    port.target,
                    port.protocol
                )
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn the_short_form_gives_ports() {
        for (text, expected) in [
            ("80", "||80/tcp"),
            ("8080:80", "|8080|80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1|8080|80/udp"),
            ("127.0.0.1::80", "127.0.0.1||80/tcp"),
            ("[::1]:8080:80", "::1|8080|80/tcp"),
            ("::1:6000:6000", "::1|6000|6000/tcp"),
            ("8000-8001:80-81", "|8000|80/tcp |8001|81/tcp"),
            ("8000-9000:80", "|8000-9000|80/tcp"),
            ("9-10", "||10/tcp ||9/tcp"),
            ("53:53/UDP", "|53|53/udp"),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "names no port"),
            ("80:", "names no port"),
            ("70000", "70000"),
            ("http:80", "http"),
            ("localhost:80:80", "localhost"),
            ("80/xyz", "xyz"),
            ("8000-8001:80-82", "differ in length"),
            ("90-80", "90-80"),
            ("+80", "+80"),
            ("8080:0", "`0` is not a port"),
            ("0-2", "`0-2` is not a port"),
        ] {
            let error = parse_ports(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_grammar_panic(text in "\\PC*") {
            parse_ports(&text).ok();
        }
    }
}
