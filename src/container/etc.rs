//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container, in the forms that Docker gives them.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::ContainerError;
use super::provision::{Names, NetworkJoin};
use crate::network::SandboxRecord;

/// Address at which the embedded resolver listens in every sandbox that has a network.
const RESOLVER: &str = "127.0.0.11";
/// Stands for the host in `extra_hosts`.
const HOST_GATEWAY: &str = "host-gateway";

const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// `/etc/hosts`. `host_file` is the host's own, which a container in the host's network begins with.
pub(super) fn hosts(
    names: &Names,
    network: &NetworkJoin,
    sandbox: Option<&SandboxRecord>,
    host_file: &str,
) -> Result<String, ContainerError> {
    let mut text = match network {
        NetworkJoin::Host => host_file.to_owned(),
        _ => LOCAL_HOSTS.to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in &names.extra_hosts {
        if address == HOST_GATEWAY {
            let gateway = host_gateway(network, sandbox).ok_or_else(|| {
                ContainerError::invalid(
                    "extra_hosts",
                    format!("{name}={address}"),
                    "the container has no network with a gateway",
                )
            })?;
            let _infallible = writeln!(text, "{gateway}\t{name}");
        } else {
            let _infallible = writeln!(text, "{address}\t{name}");
        }
    }
    let own = own_names(names);
    let endpoints = sandbox
        .map(|sandbox| sandbox.endpoints.as_slice())
        .unwrap_or_default();
    for address in endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
        let _infallible = writeln!(text, "{}\t{own}", address.addr());
    }
    Ok(text)
}

/// The first gateway, IPv4 before IPv6: the host's address in the container's network.
fn host_gateway(network: &NetworkJoin, sandbox: Option<&SandboxRecord>) -> Option<IpAddr> {
    if *network == NetworkJoin::Host {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    let gateways = || {
        sandbox
            .into_iter()
            .flat_map(|sandbox| &sandbox.endpoints)
            .flat_map(|endpoint| &endpoint.gateways)
    };
    gateways()
        .find(|gateway| gateway.is_ipv4())
        .or_else(|| gateways().next())
        .copied()
}

/// Full name, if there is a domain, and short name.
fn own_names(names: &Names) -> String {
    let Names {
        hostname,
        domainname,
        ..
    } = names;
    if !domainname.is_empty() {
        return format!("{hostname}.{domainname} {hostname}");
    }
    match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.clone(),
    }
}

/// `/etc/hostname`.
pub(super) fn hostname(names: &Names) -> String {
    format!("{}\n", names.hostname)
}

/// `/etc/resolv.conf`. With a network of ours the embedded resolver is asked, and `dns` names whom it asks; otherwise
/// the host's file counts with `dns`, `dns_search` and `dns_opt` put over it.
pub(super) fn resolv_conf(
    names: &Names,
    network: &NetworkJoin,
    sandbox: Option<&SandboxRecord>,
    host_file: &str,
) -> String {
    let embedded = sandbox.is_some_and(|sandbox| !sandbox.endpoints.is_empty());
    let overridden =
        !(names.dns.is_empty() && names.dns_search.is_empty() && names.dns_opt.is_empty());
    if !embedded && *network == NetworkJoin::Host && !overridden {
        return host_file.to_owned();
    }
    let host = HostResolver::parse(host_file);
    let servers = if embedded {
        vec![RESOLVER.to_owned()]
    } else if names.dns.is_empty() {
        host.servers
    } else {
        names.dns.clone()
    };
    let search = if names.dns_search.is_empty() {
        host.search
    } else {
        names.dns_search.clone()
    };
    let mut options = if names.dns_opt.is_empty() {
        host.options
    } else {
        names.dns_opt.clone()
    };
    if embedded && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    let mut text = String::new();
    for server in servers {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    // A lone dot asks for no search domain at all.
    if !search.is_empty() && search != ["."] {
        let _infallible = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _infallible = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[derive(Debug, Default, PartialEq, Eq)]
struct HostResolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl HostResolver {
    /// The last `search` or `domain` line counts, as in the C library.
    fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(ToOwned::to_owned);
            match keyword {
                "nameserver" => parsed.servers.extend(words.take(1)),
                "search" | "domain" => parsed.search = words.collect(),
                "options" => parsed.options.extend(words),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Endpoint, SandboxSpec};

    fn sandbox() -> SandboxRecord {
        SandboxRecord {
            spec: SandboxSpec::default(),
            netns: "/run/netns/x".into(),
            endpoints: vec![Endpoint {
                network: "shop_default".into(),
                names: Vec::new(),
                interface: "eth0".into(),
                host_interface: None,
                addresses: vec![
                    "172.18.0.5/16".parse().unwrap(),
                    "fd00::5/64".parse().unwrap(),
                ],
                gateways: vec!["fd00::1".parse().unwrap(), "172.18.0.1".parse().unwrap()],
                mac: String::new(),
                result: serde_json::Value::Null,
            }],
            ports: Vec::new(),
            active: true,
            boot_id: String::new(),
            stands_by_for: None,
        }
    }

    fn names() -> Names {
        Names {
            hostname: "f62572cd31e8".into(),
            ..Names::default()
        }
    }

    fn joined() -> NetworkJoin {
        NetworkJoin::Sandbox("shop-web-1".into())
    }

    #[test]
    fn hosts_names_the_container_and_its_extra_hosts() {
        let mut names = names();
        names.domainname = "dom.example".into();
        names.extra_hosts = vec![
            ("foo".into(), "1.2.3.4".into()),
            ("gw".into(), "host-gateway".into()),
        ];
        let text = hosts(&names, &joined(), Some(&sandbox()), "ignored").unwrap();
        insta::assert_snapshot!(text, @r"
        127.0.0.1	localhost
        ::1	localhost ip6-localhost ip6-loopback
        fe00::	ip6-localnet
        ff00::	ip6-mcastprefix
        ff02::1	ip6-allnodes
        ff02::2	ip6-allrouters
        1.2.3.4	foo
        172.18.0.1	gw
        172.18.0.5	f62572cd31e8.dom.example f62572cd31e8
        fd00::5	f62572cd31e8.dom.example f62572cd31e8
        ");
    }

    #[test]
    fn a_dotted_hostname_is_known_by_its_first_part_too() {
        let mut names = names();
        names.hostname = "a.example.org".into();
        let text = hosts(&names, &joined(), Some(&sandbox()), "").unwrap();
        assert!(text.contains("172.18.0.5\ta.example.org a\n"), "{text}");
    }

    #[test]
    fn the_host_network_has_the_hosts_own_file() {
        let mut names = names();
        names.extra_hosts = vec![("gw".into(), "host-gateway".into())];
        let text = hosts(&names, &NetworkJoin::Host, None, "127.0.0.1 localhost vm").unwrap();
        assert_eq!(text, "127.0.0.1 localhost vm\n127.0.0.1\tgw\n");
    }

    #[test]
    fn a_host_gateway_without_network_is_an_error() {
        let mut names = names();
        names.extra_hosts = vec![("gw".into(), "host-gateway".into())];
        let error = hosts(&names, &NetworkJoin::Private, None, "").unwrap_err();
        assert!(error.to_string().contains("`gw=host-gateway`"), "{error}");
    }

    const HOST: &str = "# comment\nnameserver 10.0.0.53\nnameserver 10.0.0.54\nsearch corp.example lab.example\noptions timeout:2\n";

    #[test]
    fn the_embedded_resolver_is_asked_with_the_hosts_search_domains() {
        let text = resolv_conf(&names(), &joined(), Some(&sandbox()), HOST);
        assert_eq!(
            text,
            "nameserver 127.0.0.11\nsearch corp.example lab.example\noptions timeout:2 ndots:0\n"
        );
    }

    #[test]
    fn dns_settings_of_the_service_replace_the_hosts() {
        let mut names = names();
        names.dns = vec!["9.9.9.9".into()];
        names.dns_search = vec!["example.org".into()];
        names.dns_opt = vec!["ndots:2".into()];
        let embedded = resolv_conf(&names, &joined(), Some(&sandbox()), HOST);
        assert_eq!(
            embedded,
            "nameserver 127.0.0.11\nsearch example.org\noptions ndots:2\n"
        );
        let host = resolv_conf(&names, &NetworkJoin::Host, None, HOST);
        assert_eq!(
            host,
            "nameserver 9.9.9.9\nsearch example.org\noptions ndots:2\n"
        );
        names.dns_search = vec![".".into()];
        assert!(!resolv_conf(&names, &joined(), Some(&sandbox()), HOST).contains("search"));
    }

    #[test]
    fn without_a_network_the_hosts_servers_stay() {
        assert_eq!(resolv_conf(&names(), &NetworkJoin::Host, None, HOST), HOST);
        let mut lone = sandbox();
        lone.endpoints.clear();
        let text = resolv_conf(&names(), &joined(), Some(&lone), HOST);
        assert!(
            text.starts_with("nameserver 10.0.0.53\nnameserver 10.0.0.54\n"),
            "{text}"
        );
    }

    #[test]
    fn the_last_search_line_counts() {
        let parsed = HostResolver::parse("search a b\ndomain c\nnameserver\nnonsense x\n");
        assert_eq!(parsed.search, ["c"]);
        assert!(parsed.servers.is_empty());
    }
}
