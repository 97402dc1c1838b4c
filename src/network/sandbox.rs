//! Sandboxes: a pinned namespace with its interfaces, addresses, ports and resolver sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};

use super::address::Addresses;
use super::bridge;
use super::cni::{self, Attach};
use super::error::{invalid, netlink_failed};
use super::firewall::Change;
use super::host::Host;
use super::join::{Joined, join, ports_index};
use super::layout::{Layout, boot_id, format_mac, mac_of, parse_mac};
use super::netlink::Socket;
use super::netlink::conntrack::Forget;
use super::netlink::route::{
    Mac, Veth, delete_default_route, new_address, new_default_route, new_veth, set_mac, set_port,
    set_up,
};
use super::record::{self, Stored};
use super::subnet::Pool;
use super::teardown::delete_all;
use super::{
    Endpoint, Held, NetworkError, NetworkRecord, PublishedPort, SandboxRecord, SandboxSpec,
    namespace, options, ports, resolver,
};
use crate::failpoint::boundary;

/// Milliseconds that a new port of a bridge may take.
const PORT_PATIENCE: u32 = 50;

fn check_sysctls(spec: &SandboxSpec) -> Result<(), NetworkError> {
    for key in spec.sysctls.keys() {
        let path = sysctl_path(key);
        if !path.starts_with("net/") || path.split('/').any(|part| part.is_empty() || part == "..")
        {
            return Err(invalid("a sysctl of a network namespace", key));
        }
    }
    Ok(())
}

/// Path below `/proc/sys`: dots are slashes, unless the key has slashes already.
fn sysctl_path(key: &str) -> String {
    if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    }
}

/// What is chosen for an in-process attachment before anything is made.
struct Chosen {
    address: Ipv4Net,
    mac: Mac,
}

/// The pool of a recorded network.
fn pool(network: &NetworkRecord) -> Result<Pool, NetworkError> {
    let gateway = bridge::gateway(network).ok_or_else(|| NetworkError::NoSubnet {
        network: network.spec.name.clone(),
    })?;
    let mut pool = Pool::read(&network.spec.pools)?.unwrap_or_else(|| Pool::new(gateway.trunc()));
    pool.subnet = gateway.trunc();
    pool.gateway = gateway.addr();
    Ok(pool)
}

fn choose(join: &Joined<'_>, owner: &str, layout: &Layout) -> Result<Chosen, NetworkError> {
    let pool = pool(&join.network)?;
    let addresses = Addresses::open(&layout.addresses(), &join.network.spec.name)?;
    let address = match join.attachment.ipv4 {
        Some(IpAddr::V4(address)) => {
            addresses.reserve(&pool, address, owner, &join.interface)?;
            address
        }
        Some(IpAddr::V6(address)) => {
            return Err(invalid("an IPv4 address", address.to_string()));
        }
        None => addresses.next(&pool, owner, &join.interface)?,
    };
    let mac = match &join.attachment.mac {
        Some(text) => parse_mac(text)?,
        None => mac_of(address),
    };
    let prefix = pool.subnet.prefix_len();
    Ok(Chosen {
        address: Ipv4Net::new(address, prefix)
            .map_err(|_| invalid("a prefix length", prefix.to_string()))?,
        mac,
    })
}

/// What the thread inside of a new namespace brings out.
struct Inside {
    socket: Socket,
    resolver: Held,
}

/// Sets a new namespace up as far as that does not depend on interfaces.
fn furnish(id: &str, ipv6: bool) -> Result<Inside, NetworkError> {
    let failed = || netlink_failed::<io::Error>("set up loopback");
    let mut socket = Socket::route().map_err(failed())?;
    socket.execute(vec![set_up("lo")]).map_err(failed())?;
    // As in Docker: services need no privilege for low ports, nor `ping` for its socket.
    namespace::set_if_there("net/ipv4/ip_unprivileged_port_start", "0")?;
    namespace::set_if_there("net/ipv4/ping_group_range", "0 2147483647")?;
    // Neighbours learn at once who has an address now.
    namespace::set_if_there("net/ipv4/conf/all/arp_notify", "1")?;
    if !ipv6 {
        namespace::set_if_there("net/ipv6/conf/default/disable_ipv6", "1")?;
    }
    Ok(Inside {
        socket,
        resolver: resolver::open(id)?,
    })
}

impl Host {
    /// Makes a sandbox; see `Networks::create_sandbox`.
    pub(super) fn create_sandbox(
        &self,
        spec: &SandboxSpec,
        stands_by_for: Option<String>,
    ) -> Result<(SandboxRecord, Held), NetworkError> {
        if spec.id.is_empty() || spec.id.contains('\0') {
            return Err(invalid("the id of a sandbox", &spec.id));
        }
        check_sysctls(spec)?;
        let layout = &self.layout;
        let _use = layout.lock_use()?;
        let known = record::sandbox(layout, &spec.id)?;
        if let Some(known) = &known
            && known.record.spec.labels != spec.labels
        {
            return Err(NetworkError::SandboxTaken {
                id: spec.id.clone(),
                owner: described(&known.record.spec.labels),
            });
        }
        if known.is_some() || layout.namespace(&spec.id).exists() {
            self.dismantle(&spec.id)?;
        }
        let joined = join(&spec.attachments, layout)?;
        let mut stored = Stored {
            record: SandboxRecord {
                spec: spec.clone(),
                netns: layout.namespace(&spec.id),
                endpoints: Vec::new(),
                ports: Vec::new(),
                active: false,
                boot_id: boot_id()?,
                stands_by_for,
            },
            forward_to: None,
        };
        let built = self
            .hold_ports(spec, &joined, &mut stored)
            .and_then(|mut held| {
                held.extend(self.build(&joined, &mut stored)?);
                Ok(held)
            });
        match built {
            Ok(held) => Ok((stored.record, held)),
            Err(error) => {
                if let Err(failure) = self.take_apart(&stored, None) {
                    tracing::warn!(%failure, sandbox = spec.id, "cannot undo a failed sandbox");
                }
                Err(error)
            }
        }
    }

    /// Binds the ports of `spec`, but for those that it stands by for, and records which they are.
    pub(super) fn hold_ports(
        &self,
        spec: &SandboxSpec,
        joined: &[Joined<'_>],
        stored: &mut Stored,
    ) -> Result<Held, NetworkError> {
        if spec.ports.is_empty() {
            return Ok(Vec::new());
        }
        let Some(index) = ports_index(joined) else {
            return Ok(Vec::new());
        };
        let default = joined
            .get(index)
            .and_then(|join| options::host_binding(&join.network.spec));
        let kept = self.kept_by_other(&stored.record)?;
        let mut held = Vec::new();
        for request in spec.ports.iter().filter(|request| !kept.contains(request)) {
            let bound = ports::hold(request, default).map_err(|error| self.name_owner(error))?;
            let key = port_key(&spec.id, &bound.port);
            held.extend(bound.socket.map(|socket| (key, socket)));
            stored.record.ports.push(bound.port);
        }
        Ok(held)
    }

    /// Adds the sandbox that has a taken port.
    pub(super) fn name_owner(&self, error: NetworkError) -> NetworkError {
        let NetworkError::PortTaken {
            address, protocol, ..
        } = &error
        else {
            return error;
        };
        let sandboxes = record::sandboxes(&self.layout).unwrap_or_default();
        let owner = sandboxes.into_iter().find(|sandbox| {
            let mut ports = sandbox.ports.iter();
            ports.any(|port| ports::collide(port, address, protocol))
        });
        NetworkError::PortTaken {
            address: address.clone(),
            protocol: protocol.clone(),
            owner: owner.map(|sandbox| sandbox.spec.id),
        }
    }

    /// Makes the kernel half and the record.
    pub(super) fn build(
        &self,
        joined: &[Joined<'_>],
        stored: &mut Stored,
    ) -> Result<Held, NetworkError> {
        let layout = &self.layout;
        let id = stored.record.spec.id.clone();
        let owner = Layout::container_id(&id);
        let netns = stored.record.netns.clone();
        let mut chosen = Vec::new();
        for join in joined {
            chosen.push(if join.in_process() {
                Some(choose(join, &owner, layout)?)
            } else {
                None
            });
        }
        let ipv6 = chosen.iter().any(Option::is_none);
        let mut inside = namespace::create(&netns, || furnish(&id, ipv6))?;
        boundary("create sandbox: namespace");
        let mut endpoints: Vec<Option<Endpoint>> = joined.iter().map(|_| None).collect();
        let ports = if stored.record.ports.is_empty() {
            None
        } else {
            ports_index(joined)
        };
        // Plugins first, as each may set a default route of its own; the one that may keep it goes last.
        let mut order: Vec<usize> = (0..joined.len()).collect();
        order.sort_by_key(|index| (joined[*index].in_process(), joined[*index].is_gateway));
        let mut by_plugin = false;
        for index in order
            .iter()
            .copied()
            .filter(|index| chosen[*index].is_none())
        {
            let join = &joined[index];
            let here = ports == Some(index);
            let published = if here {
                stored.record.ports.as_slice()
            } else {
                &[]
            };
            let (endpoint, forwarded) = self.execute(join, &owner, &netns, published)?;
            by_plugin |= here && forwarded;
            endpoints[index] = Some(endpoint);
            stored.record.endpoints = endpoints.iter().flatten().cloned().collect();
            if !join.is_gateway {
                drop_default_routes(&mut inside.socket)?;
            }
        }
        let mut host = Socket::route().map_err(netlink_failed("open a netlink socket"))?;
        let namespace = namespace::open(&netns)?;
        for (index, choice) in chosen.iter().enumerate() {
            if let Some(choice) = choice {
                let place = Place {
                    host: &mut host,
                    inside: &mut inside.socket,
                    namespace: &namespace,
                    id: &id,
                    netns: &netns,
                };
                endpoints[index] = Some(self.plug(place, &joined[index], choice)?);
                stored.record.endpoints = endpoints.iter().flatten().cloned().collect();
            }
        }
        let sysctls = stored.record.spec.sysctls.clone();
        if !sysctls.is_empty() {
            namespace::enter(&netns, || {
                let mut settings = sysctls.iter();
                settings.try_for_each(|(key, value)| namespace::set(&sysctl_path(key), value))
            })?;
        }
        stored.forward_to = ports
            .filter(|_| !by_plugin)
            .and_then(|index| endpoints[index].as_ref())
            .and_then(record::address);
        boundary("create sandbox: links");
        stored.save(layout)?;
        boundary("create sandbox: record");
        self.open_firewall(stored, joined)?;
        Ok(inside.resolver)
    }

    /// Applies the rules that a new sandbox needs.
    fn open_firewall(&self, stored: &Stored, joined: &[Joined<'_>]) -> Result<(), NetworkError> {
        let ours = joined.iter().filter(|join| join.in_process());
        let change = Change {
            rebuild: !self
                .firewall
                .has_installed(ours.map(|join| join.network.id.as_str())),
            add: stored.forwards(),
            forget: Forget {
                // Flows that began while nobody was behind the port go nowhere for as long as they last.
                udp: udp_ports(&stored.record.ports),
                ..Forget::default()
            },
            ..Change::default()
        };
        self.firewall.apply(change, || record::rules(&self.layout))
    }

    /// Attaches by a chain of plugins. The second value says whether the chain forwards `ports`.
    fn execute(
        &self,
        join: &Joined<'_>,
        owner: &str,
        netns: &std::path::Path,
        ports: &[PublishedPort],
    ) -> Result<(Endpoint, bool), NetworkError> {
        let list = record::chain(&self.layout, &join.network)?;
        let forwards = list
            .plugins
            .iter()
            .any(|plugin| plugin["capabilities"]["portMappings"] == true);
        let mac = join.attachment.mac.as_deref();
        if let Some(text) = mac {
            parse_mac(text)?;
        }
        let request = Attach {
            container: owner,
            namespace: netns,
            interface: &join.interface,
            address: join.attachment.ipv4,
            mac,
            ports: if forwards { ports } else { &[] },
        };
        let result = cni::attach(&list, &request, &self.layout.results())?;
        Ok((endpoint_of(join, result), forwards))
    }

    /// Attaches to a bridge.
    fn plug(
        &self,
        place: Place<'_>,
        join: &Joined<'_>,
        chosen: &Chosen,
    ) -> Result<Endpoint, NetworkError> {
        let Place {
            host,
            inside,
            namespace,
            id,
            netns,
        } = place;
        let name = &join.network.spec.name;
        let failed = || netlink_failed::<io::Error>(format!("attach to network `{name}`"));
        let bridge = self.bridges.ensure(host, &join.network, &self.layout)?;
        let veth = self.layout.veth(id, &join.interface);
        let flags = bridge::port_flags(&join.network);
        let pair = new_veth(&Veth {
            host: &veth,
            master: bridge.index,
            mtu: bridge.mtu,
            peer: &join.interface,
            peer_mac: chosen.mac,
            namespace: namespace.as_fd(),
        });
        let messages = vec![pair, set_port(&veth, &self.layout.alias(id), flags)];
        let mut made = host.execute_each(messages.clone()).map_err(failed())?;
        if matches!(&made[..], [Err(error), ..] if error.kind() == io::ErrorKind::AlreadyExists) {
            // Left by a sandbox of this id whose removal did not come to its end.
            delete_all(std::slice::from_ref(&veth)).map_err(failed())?;
            made = host.execute_each(messages).map_err(failed())?;
        }
        for result in made {
            result.map_err(failed())?;
        }
        let link = inside
            .link(&join.interface)
            .map_err(failed())?
            .ok_or_else(|| failed()(io::ErrorKind::NotFound.into()))?;
        let gateway = bridge::gateway(&join.network).map(|gateway| gateway.addr());
        let mut messages = vec![
            new_address(link.index, chosen.address),
            set_up(&join.interface),
        ];
        if let Some(gateway) = gateway
            && join.is_gateway
        {
            messages.push(new_default_route(link.index, gateway));
        }
        inside.execute(messages).map_err(failed())?;
        wait_for_port(host, &veth).map_err(failed())?;
        // Somebody else may have had this address with another hardware address a moment ago.
        let announce = set_mac(&join.interface, chosen.mac);
        inside.execute(vec![announce]).map_err(failed())?;
        let mac = format_mac(chosen.mac);
        let mut result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": join.network.bridge, "mac": format_mac(bridge.mac) },
                { "name": veth },
                { "name": join.interface, "mac": mac, "sandbox": netns },
            ],
            "ips": [{ "interface": 2, "address": chosen.address, "gateway": gateway }],
            "dns": {},
        });
        if join.is_gateway {
            result["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
        }
        Ok(Endpoint {
            network: name.clone(),
            names: join.attachment.names.clone(),
            interface: join.interface.clone(),
            host_interface: Some(veth),
            addresses: vec![chosen.address.into()],
            gateways: gateway.map(IpAddr::V4).into_iter().collect(),
            mac,
            result,
        })
    }

    /// Attaches an interface anew that was lost from a living namespace.
    pub(super) fn plug_again(
        &self,
        host: &mut Socket,
        join: &Joined<'_>,
        stored: &Stored,
    ) -> Result<Endpoint, NetworkError> {
        let SandboxRecord { spec, netns, .. } = &stored.record;
        let chosen = choose(join, &Layout::container_id(&spec.id), &self.layout)?;
        let mut inside = namespace::enter(netns, || {
            Socket::route().map_err(netlink_failed("open a netlink socket"))
        })?;
        let place = Place {
            host,
            inside: &mut inside,
            namespace: &namespace::open(netns)?,
            id: &spec.id,
            netns,
        };
        self.plug(place, join, &chosen)
    }
}

/// What [`Host::plug`] works with.
struct Place<'a> {
    host: &'a mut Socket,
    inside: &'a mut Socket,
    namespace: &'a std::fs::File,
    id: &'a str,
    netns: &'a std::path::Path,
}

pub(super) fn port_key(sandbox: &str, port: &PublishedPort) -> String {
    let PublishedPort {
        host_ip,
        host_port,
        protocol,
        ..
    } = port;
    format!("port/{sandbox}/{protocol}/{host_ip}:{host_port}")
}

/// Host addresses and ports of the published UDP ports.
pub(super) fn udp_ports(ports: &[PublishedPort]) -> Vec<(Ipv4Addr, u16)> {
    let udp = ports.iter().filter(|port| port.protocol == "udp");
    udp.filter_map(|port| match port.host_ip {
        IpAddr::V4(address) => Some((address, port.host_port)),
        IpAddr::V6(_) => None,
    })
    .collect()
}

/// Waits until the bridge passes on what comes from a new port, as it does some time after both ends are up. Goes on
/// without that where a bridge of somebody else takes longer.
fn wait_for_port(socket: &mut Socket, name: &str) -> io::Result<()> {
    for _ in 0..PORT_PATIENCE {
        if socket.link(name)?.is_none_or(|link| link.forwards) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

/// Takes away the default routes that a plugin made for a network that is not the gateway.
fn drop_default_routes(socket: &mut Socket) -> Result<(), NetworkError> {
    let failed = || netlink_failed::<io::Error>("delete a default route");
    loop {
        match socket.execute(vec![delete_default_route()]) {
            Ok(()) => {}
            Err(error) => {
                return match rustix::io::Errno::from_io_error(&error) {
                    Some(rustix::io::Errno::SRCH) => Ok(()),
                    _ => Err(failed()(error)),
                };
            }
        }
    }
}

/// Reads the result of a chain.
fn endpoint_of(join: &Joined<'_>, result: Value) -> Endpoint {
    let list = |key: &str| result[key].as_array().cloned().unwrap_or_default();
    let interfaces = list("interfaces");
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let is_inside = |interface: &&Value| !text(interface, "sandbox").is_empty();
    let inside = interfaces
        .iter()
        .filter(is_inside)
        .find(|interface| text(interface, "name") == join.interface);
    let host = interfaces.iter().find(|interface| {
        let name = text(interface, "name");
        !is_inside(interface) && !name.is_empty() && name != join.network.bridge
    });
    let ips = list("ips");
    Endpoint {
        network: join.network.spec.name.clone(),
        names: join.attachment.names.clone(),
        interface: join.interface.clone(),
        host_interface: host.map(|interface| text(interface, "name")),
        addresses: ips
            .iter()
            .filter_map(|ip| text(ip, "address").parse::<IpNet>().ok())
            .collect(),
        gateways: ips
            .iter()
            .filter_map(|ip| text(ip, "gateway").parse().ok())
            .collect(),
        mac: inside.map_or_else(String::new, |interface| text(interface, "mac")),
        result,
    }
}

/// As `another sandbox (project shop, service web)`: the last part of each label's name says what it is.
fn described(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().map(|(name, value)| {
        let what = name.rsplit('.').next().unwrap_or(name);
        format!("{what} {value}")
    });
    let labels: Vec<String> = labels.collect();
    format!("another sandbox ({})", labels.join(", "))
}
