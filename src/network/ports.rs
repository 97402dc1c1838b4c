//! Published ports: a bound socket holds each, so that no two owners share one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{
    AddressFamily, Protocol, Shutdown, SocketFlags, SocketType, bind, getsockname, ipproto, listen,
    shutdown, socket_with,
};

use super::error::{invalid, io_failed};
use super::{NetworkError, PortRequest, PublishedPort};

/// A port with the socket that holds it; SCTP has none where the kernel lacks that protocol for programs.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) port: PublishedPort,
    pub(super) socket: Option<OwnedFd>,
}

impl PublishedPort {
    /// Whether it answers on the host's IPv6 addresses, too: the supervisor passes connections on to IPv4.
    pub fn is_on_ipv6(&self) -> bool {
        static HAS_IPV6: LazyLock<bool> = LazyLock::new(|| {
            std::fs::read("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
        });
        self.protocol == "tcp" && self.host_ip == Ipv4Addr::UNSPECIFIED && *HAS_IPV6
    }
}

/// A request in the types of the kernel.
#[derive(Debug)]
struct Wanted {
    address: Ipv4Addr,
    ports: Option<(u16, u16)>,
    container_port: u16,
    protocol: &'static str,
}

impl Wanted {
    fn read(request: &PortRequest, default_address: Option<&str>) -> Result<Self, NetworkError> {
        let protocol = match request.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => "tcp",
            "udp" => "udp",
            "sctp" => "sctp",
            other => return Err(invalid("a protocol of a published port", other)),
        };
        if request.container_port == 0 {
            return Err(invalid("a container port", "0"));
        }
        let text = request.host_ip.as_deref().filter(|text| !text.is_empty());
        let address = match text.or(default_address) {
            None => Ipv4Addr::UNSPECIFIED,
            Some(text) => match text.trim_matches(['[', ']']).parse() {
                Ok(IpAddr::V4(address)) => address,
                Ok(IpAddr::V6(_)) => {
                    return Err(invalid(
                        "a host address of a published port (IPv4 only)",
                        text,
                    ));
                }
                Err(_) => return Err(invalid("a host address of a published port", text)),
            },
        };
        if let Some((first, last)) = request.host_ports
            && first > last
        {
            return Err(invalid("a range of host ports", format!("{first}-{last}")));
        }
        Ok(Self {
            address,
            ports: request.host_ports.filter(|(_, last)| *last != 0),
            container_port: request.container_port,
            protocol,
        })
    }

    fn describe(&self) -> String {
        match self.ports {
            Some((first, last)) if first != last => format!("{}:{first}-{last}", self.address),
            Some((port, _)) => format!("{}:{port}", self.address),
            None => self.address.to_string(),
        }
    }

    fn published(&self, port: u16) -> PublishedPort {
        PublishedPort {
            host_ip: self.address.into(),
            host_port: port,
            container_port: self.container_port,
            protocol: self.protocol.into(),
        }
    }
}

/// Binds a socket for `request`: the first free port of its range, or any.
pub(super) fn hold(
    request: &PortRequest,
    default_address: Option<&str>,
) -> Result<Bound, NetworkError> {
    let wanted = Wanted::read(request, default_address)?;
    let (first, last) = wanted.ports.unwrap_or((0, 0));
    for port in first..=last {
        match bind_one(wanted.protocol, wanted.address, port) {
            Ok((socket, port)) => {
                return Ok(Bound {
                    port: wanted.published(port),
                    socket: Some(socket),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(invalid(
                    "a host address of a published port (no interface has it)",
                    wanted.address.to_string(),
                ));
            }
            Err(error) if lacks_protocol(&error) && wanted.protocol == "sctp" && first != 0 => {
                return Ok(Bound {
                    port: wanted.published(first),
                    socket: None,
                });
            }
            Err(error) => {
                let address = wanted.describe();
                let protocol = wanted.protocol;
                return Err(io_failed(format!("bind port {address}/{protocol}"))(error));
            }
        }
    }
    Err(NetworkError::PortTaken {
        address: wanted.describe(),
        protocol: wanted.protocol.into(),
        owner: None,
    })
}

/// Binds exactly the port that is recorded.
pub(super) fn hold_again(port: &PublishedPort) -> Result<Bound, NetworkError> {
    hold(
        &PortRequest {
            host_ip: Some(port.host_ip.to_string()),
            host_ports: Some((port.host_port, port.host_port)),
            container_port: port.container_port,
            protocol: port.protocol.clone(),
        },
        None,
    )
}

fn lacks_protocol(error: &io::Error) -> bool {
    use rustix::io::Errno;

    matches!(
        Errno::from_io_error(error),
        Some(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT)
    )
}

fn open(protocol: &str) -> io::Result<OwnedFd> {
    let (kind, protocol): (SocketType, Protocol) = match protocol {
        "udp" => (SocketType::DGRAM, ipproto::UDP),
        "sctp" => (SocketType::STREAM, ipproto::SCTP),
        _ => (SocketType::STREAM, ipproto::TCP),
    };
    let socket = socket_with(
        AddressFamily::INET,
        kind,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )?;
    Ok(socket)
}

fn bind_one(protocol: &str, address: Ipv4Addr, port: u16) -> io::Result<(OwnedFd, u16)> {
    let address = SocketAddrV4::new(address, port);
    let socket = open(protocol)?;
    let socket = match bind(&socket, &address) {
        Ok(()) => socket,
        Err(rustix::io::Errno::ADDRINUSE) if protocol == "tcp" => bind_over_closed(address)?,
        Err(error) => return Err(error.into()),
    };
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

/// Binds a TCP port whose last owner is gone, though its closed connections are still remembered. To listen is the test
/// that nobody else does; after it the port is only held, so that nobody connects to us.
fn bind_over_closed(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = open("tcp")?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 0)?;
    set_socket_reuseaddr(&socket, false)?;
    shutdown(&socket, Shutdown::Both)?;
    Ok(socket)
}

/// Whether two published ports cannot both be there.
pub(super) fn collide(a: &PublishedPort, address: &str, protocol: &str) -> bool {
    let Some((other, ports)) = address.rsplit_once(':') else {
        return false;
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(other), Ok(first), Ok(last)) = (
        other.parse::<IpAddr>(),
        first.parse::<u16>(),
        last.parse::<u16>(),
    ) else {
        return false;
    };
    a.protocol == protocol
        && (first..=last).contains(&a.host_port)
        && (a.host_ip == other || a.host_ip.is_unspecified() || other.is_unspecified())
}
