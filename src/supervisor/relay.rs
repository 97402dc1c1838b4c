//! Published ports on the host's IPv6 addresses. Containers have IPv4 alone: a connection to `[::]:8080` is passed on to
//! `127.0.0.1:8080`, where the firewall's rules take it. As a program tries `::1` first where it is told `localhost`, this
//! is for the machine's own programs more than for the world.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Connections of one worker that are passed on at the same time. Each takes two descriptors.
const CONNECTIONS: usize = 256;

/// Connections that wait for their turn, by port.
const BACKLOG: i32 = 128;

/// Pause before a port that another process has, as a worker that is about to end, is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The ports that are served, with what serves them.
#[derive(Debug)]
pub(super) struct Relays {
    serving: Mutex<BTreeMap<u16, AbortOnDropHandle<()>>>,
    room: Arc<Semaphore>,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            serving: Mutex::default(),
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl Relays {
    /// Whether a key may be of a port that is served.
    pub(super) fn concerns(key: &str) -> bool {
        port(key).is_some()
    }

    /// Serves the TCP ports that are held on all addresses under `keys`, and no others. What goes on at a port that is not
    /// served any more ends.
    pub(super) fn serve<'a>(&self, keys: impl IntoIterator<Item = &'a String>) {
        let ports: BTreeSet<u16> = keys.into_iter().filter_map(|key| port(key)).collect();
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.retain(|port, _| ports.contains(port));
        for port in ports {
            serving.entry(port).or_insert_with(|| {
                let task = tokio::spawn(relay(port, Arc::clone(&self.room)));
                AbortOnDropHandle::new(task)
            });
        }
    }
}

/// The port of a key as `port/shop-web-1/tcp/0.0.0.0:8080`.
fn port(key: &str) -> Option<u16> {
    let (_, address) = key.strip_prefix("port/")?.split_once("/tcp/")?;
    address.strip_prefix("0.0.0.0:")?.parse().ok()
}

async fn relay(port: u16, room: Arc<Semaphore>) {
    let listener = loop {
        match open(port) {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::debug!(port, "another process has it on IPv6");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                // A host without IPv6.
                tracing::debug!(%error, port, "not served on IPv6");
                return;
            }
        }
    };
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let turn = Arc::clone(&room).acquire_owned().await;
                connections.spawn(async move {
                    if let Err(error) = pass_on(client, port).await {
                        tracing::debug!(%error, port, "a connection ended early");
                    }
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::debug!(%error, port, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass_on(mut client: TcpStream, port: u16) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Listens on all IPv6 addresses, and on no IPv4 one.
fn open(port: u16) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        flags,
        Some(ipproto::TCP),
    )?;
    set_ipv6_v6only(&socket, true)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(
        &socket,
        &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0),
    )?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn only_tcp_ports_on_all_addresses_are_served() {
        assert_eq!(port("port/shop-web-1/tcp/0.0.0.0:8080"), Some(8080));
        assert_eq!(port("port/shop-web-1/tcp/127.0.0.1:8080"), None);
        assert_eq!(port("port/shop-web-1/udp/0.0.0.0:8080"), None);
        assert_eq!(port("dns/shop-web-1/tcp"), None);
    }

    #[tokio::test]
    async fn a_connection_is_passed_on_until_its_port_is_let_go_of() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let key = format!("port/web-1/tcp/0.0.0.0:{port}");
        let relays = Relays::default();
        relays.serve([&key]);
        let connect = async || {
            loop {
                match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
                    Ok(client) => return client,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let mut client = tokio::time::timeout(Duration::from_secs(10), connect())
            .await
            .expect("it is served");
        let (mut served, _) = server.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        served.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        // The half that is open goes on.
        served.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        relays.serve([]);
        assert_eq!(client.read(&mut answer).await.unwrap_or(0), 0);
    }
}
