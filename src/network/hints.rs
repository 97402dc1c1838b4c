//! What a user can do about an error.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use super::NetworkError;

impl NetworkError {
    /// Advice, a line each; may look at the processes of the host.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Missing { network } => vec![format!(
                "an external network has to exist before; `nerdctl network create {network}` makes one"
            )],
            Self::InUse { .. } => vec!["bring down the projects that use it".into()],
            Self::NoSubnet { .. } => vec![
                "remove networks that nobody uses, or name a subnet under `ipam.config`".into(),
            ],
            Self::SubnetTaken { .. } => {
                vec!["name another subnet under `ipam.config`, or none to have one chosen".into()]
            }
            Self::Full { .. } => vec!["name a larger subnet under `ipam.config`".into()],
            Self::AddressTaken { .. } => vec![
                "set `ip_range` under `ipam.config` to keep chosen addresses away from fixed ones"
                    .into(),
            ],
            Self::AddressOutside { .. } => {
                vec!["a fixed address needs a subnet under `ipam.config` that has it".into()]
            }
            Self::PortTaken {
                address,
                protocol,
                owner: None,
            } => match listeners(address, protocol) {
                owners if owners.is_empty() => vec!["publish another port".into()],
                owners => owners,
            },
            Self::SandboxTaken { .. } => {
                vec!["take that project down, or choose another `container_name`".into()]
            }
            Self::PortTaken { owner: Some(_), .. } => {
                vec!["stop it, or publish another port".into()]
            }
            Self::Plugin { message, .. } if message.starts_with("not found") => vec![
                "install the CNI plugins, or name their folder in the variable CNI_PATH".into(),
            ],
            Self::Firewall { message } if message.contains("not installed") => {
                vec!["install the package `nftables`".into()]
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                vec!["networks can be changed by root only".into()]
            }
            _ => Vec::new(),
        }
    }
}

/// First and last port of `address:port` or `address:first-last`.
fn port_range(address: &str) -> Option<(u16, u16)> {
    let (_, ports) = address.rsplit_once(':')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Processes that have a socket on the port, a sentence each.
fn listeners(address: &str, protocol: &str) -> Vec<String> {
    let Some((first, last)) = port_range(address) else {
        return Vec::new();
    };
    let mut inodes = BTreeSet::new();
    for table in [protocol.to_owned(), format!("{protocol}6")] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        inodes.extend(
            sockets(&text)
                .filter(|(port, _)| (first..=last).contains(port))
                .map(|(_, inode)| format!("socket:[{inode}]")),
        );
    }
    if inodes.is_empty() {
        return Vec::new();
    }
    let mut owners = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let name = process.file_name();
        // Others, as `self`, lead to the same processes.
        if name.to_string_lossy().parse::<u32>().is_err() {
            continue;
        }
        let descriptors = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let owns = descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| {
                target
                    .to_str()
                    .is_some_and(|target| inodes.contains(target))
            });
        if owns {
            let mut owner = format!("process {}", name.to_string_lossy());
            if let Ok(name) = fs::read_to_string(path.join("comm")) {
                let _ = write!(owner, " ({})", name.trim());
            }
            owners.push(format!("{owner} has that port"));
        }
    }
    owners
}

/// Local port and inode of each bound socket that has no peer, from a table of `/proc/net`.
fn sockets(table: &str) -> impl Iterator<Item = (u16, &str)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let (_, peer) = fields.get(2)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (peer == "0000").then_some((port, *fields.get(9)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: broken";
        assert_eq!(sockets(table).collect::<Vec<_>>(), [(8080, "4711")]);
    }

    #[test]
    fn ranges_are_read_from_addresses() {
        assert_eq!(port_range("0.0.0.0:80"), Some((80, 80)));
        assert_eq!(port_range("0.0.0.0:80-90"), Some((80, 90)));
        assert_eq!(port_range("0.0.0.0"), None);
    }

    #[test]
    fn our_own_listener_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound").to_string();
        let own = format!("process {} (", std::process::id());
        let named = listeners(&address, "tcp");
        assert!(
            named.iter().any(|owner| owner.starts_with(&own)),
            "{named:?}"
        );
    }
}
