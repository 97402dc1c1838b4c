//! Driver options of networks.

use super::error::invalid;
use super::{NetworkError, NetworkSpec};

pub(super) const MTU: &str = "com.docker.network.driver.mtu";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";

/// The plugin that is executed for a network; `None` for what is done in-process.
pub(super) fn plugin(spec: &NetworkSpec) -> Option<&str> {
    spec.driver
        .as_deref()
        .filter(|driver| !matches!(*driver, "" | "bridge" | "default"))
}

fn option<'a>(spec: &'a NetworkSpec, key: &str) -> Option<&'a str> {
    spec.driver_opts
        .get(key)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

fn enabled(spec: &NetworkSpec, key: &str) -> bool {
    !matches!(
        option(spec, key),
        Some("false" | "0" | "f" | "False" | "FALSE" | "F")
    )
}

/// Whether containers of the network reach each other.
pub(super) fn talk(spec: &NetworkSpec) -> bool {
    enabled(spec, ICC)
}

/// Whether packets to the outside get the host's address.
pub(super) fn masquerade(spec: &NetworkSpec) -> bool {
    enabled(spec, MASQUERADE)
}

pub(super) fn mtu(spec: &NetworkSpec) -> Result<Option<u32>, NetworkError> {
    option(spec, MTU)
        .map(|text| {
            text.parse()
                .ok()
                .filter(|mtu| (68..=65535).contains(mtu))
                .ok_or_else(|| invalid("an MTU", text))
        })
        .transpose()
}

/// Name of the bridge, if the file gives one.
pub(super) fn bridge(spec: &NetworkSpec) -> Result<Option<&str>, NetworkError> {
    option(spec, BRIDGE_NAME)
        .map(|name| {
            if is_interface_name(name) {
                Ok(name)
            } else {
                Err(invalid("the name of a bridge", name))
            }
        })
        .transpose()
}

/// Host address of ports that do not name one.
pub(super) fn host_binding(spec: &NetworkSpec) -> Option<&str> {
    option(spec, HOST_BINDING)
}

/// Whether the kernel takes `name` for an interface, and rules can name it without quoting.
pub(super) fn is_interface_name(name: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    (1..=15).contains(&name.len())
        && name.chars().all(allowed)
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
}

/// What the network asks for and does not get, in words for a warning.
pub fn unsupported_options(spec: &NetworkSpec) -> Vec<String> {
    let mut unsupported = Vec::new();
    if spec.enable_ipv6 {
        unsupported.push("enable_ipv6".to_owned());
    }
    if plugin(spec).is_none() {
        let known = [MTU, BRIDGE_NAME, ICC, MASQUERADE, HOST_BINDING];
        let unknown = spec
            .driver_opts
            .keys()
            .filter(|key| !known.contains(&key.as_str()));
        unsupported.extend(unknown.map(|key| format!("driver_opts.{key}")));
    }
    let is_ipv6 = |text: &str| matches!(text.parse(), Ok(ipnet::IpNet::V6(_)));
    let mut first = true;
    for pool in &spec.pools {
        let Some(subnet) = &pool.subnet else { continue };
        if is_ipv6(subnet) || !std::mem::take(&mut first) {
            unsupported.push(format!("ipam.config subnet {subnet}"));
        }
    }
    unsupported
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IpamPool;

    fn spec(options: &[(&str, &str)]) -> NetworkSpec {
        NetworkSpec {
            driver_opts: options
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..NetworkSpec::default()
        }
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        let mut asked = spec(&[(MTU, "1400"), ("com.example.x", "1")]);
        asked.enable_ipv6 = true;
        asked.pools = ["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"]
            .map(|subnet| IpamPool {
                subnet: Some(subnet.into()),
                ..IpamPool::default()
            })
            .into();
        assert_eq!(
            unsupported_options(&asked),
            [
                "enable_ipv6",
                "driver_opts.com.example.x",
                "ipam.config subnet fd00::/64",
                "ipam.config subnet 10.2.0.0/24"
            ]
        );
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let asked = spec(&[
            (ICC, "false"),
            (MASQUERADE, "0"),
            (MTU, "1400"),
            (BRIDGE_NAME, "shop0"),
        ]);
        assert!(!talk(&asked) && !masquerade(&asked));
        assert_eq!(mtu(&asked).expect("a number"), Some(1400));
        assert_eq!(bridge(&asked).expect("a name"), Some("shop0"));
        assert!(talk(&spec(&[])) && masquerade(&spec(&[(MASQUERADE, "true")])));
    }

    #[test]
    fn values_that_the_kernel_would_refuse_are_refused() {
        assert!(mtu(&spec(&[(MTU, "many")])).is_err());
        for name in ["a b", "x".repeat(16).as_str(), "lo", "a/b", "a\"b"] {
            assert!(bridge(&spec(&[(BRIDGE_NAME, name)])).is_err(), "{name}");
        }
    }
}
