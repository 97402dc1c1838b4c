//! The sockets on which names are answered inside of a sandbox.
//!
//! They listen on free ports of 127.0.0.11, and port 53 there is redirected to them, so that a container may serve
//! port 53 itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::error::{io_failed, netlink_failed};
use super::netlink::nftables::{self, Redirect};
use super::{Held, NetworkError};

/// Numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where containers send their questions, as with Docker.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Table in the namespace of a sandbox.
const TABLE: &str = "compose_dns";

/// Opens the sockets in the namespace of the calling thread and redirects port 53 to them.
pub(super) fn open(sandbox: &str) -> Result<Held, NetworkError> {
    let failed = || io_failed("open the sockets for names");
    let udp = UdpSocket::bind((ADDRESS, 0)).map_err(failed())?;
    let tcp = TcpListener::bind((ADDRESS, 0)).map_err(failed())?;
    udp.set_nonblocking(true).map_err(failed())?;
    tcp.set_nonblocking(true).map_err(failed())?;
    let ports = [udp.local_addr(), tcp.local_addr()];
    let [udp_port, tcp_port] = ports.map(|address| address.as_ref().map_or(0, SocketAddr::port));
    let redirect = |protocol, to| Redirect {
        protocol,
        address: ADDRESS,
        from: 53,
        to,
    };
    nftables::redirect(TABLE, &[redirect(UDP, udp_port), redirect(TCP, tcp_port)])
        .map_err(netlink_failed("redirect port 53"))?;
    Ok(vec![
        (format!("dns/{sandbox}/udp"), OwnedFd::from(udp)),
        (format!("dns/{sandbox}/tcp"), OwnedFd::from(tcp)),
    ])
}
