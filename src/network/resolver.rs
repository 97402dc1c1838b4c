//! The sockets on which names are answered inside of a sandbox.
//!
//! They listen on free ports of 127.0.0.11, and port 53 there is redirected to them, so that a container may serve
//! port 53 itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::error::io_failed;
use super::{Held, NetworkError, firewall};

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
    firewall::run_nft(&redirect(udp_port, tcp_port))?;
    Ok(vec![
        (format!("dns/{sandbox}/udp"), OwnedFd::from(udp)),
        (format!("dns/{sandbox}/tcp"), OwnedFd::from(tcp)),
    ])
}

fn redirect(udp: u16, tcp: u16) -> String {
    format!(
        "table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
	chain output {{
		type nat hook output priority -100; policy accept;
		ip daddr {ADDRESS} udp dport 53 dnat to {ADDRESS}:{udp}
		ip daddr {ADDRESS} tcp dport 53 dnat to {ADDRESS}:{tcp}
	}}
}}
"
    )
}
