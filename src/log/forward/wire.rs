//! Ways to a receiver of logs, and patience with it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::time::{Instant, timeout};

/// Time that a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between attempts to reach a receiver that was not there. What comes meanwhile does not reach it.
const PAUSE: Duration = Duration::from_secs(1);
/// Where the syslog of this host may listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
const PORT: u16 = 514;

/// Where a receiver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The syslog of this host, wherever that is.
    Local,
    Udp(String, u16),
    Tcp(String, u16),
    Unix(PathBuf),
    Unixgram(PathBuf),
}

impl Address {
    /// Reads `syslog-address`; an error is what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Local);
        }
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        match scheme {
            "unix" | "unixgram" if !rest.starts_with('/') => {
                Err("the path of a socket begins with `/`".into())
            }
            "unix" => Ok(Self::Unix(rest.into())),
            "unixgram" => Ok(Self::Unixgram(rest.into())),
            "udp" | "tcp" => {
                let (host, port) = host_and_port(rest)?;
                let address = if scheme == "udp" {
                    Self::Udp
                } else {
                    Self::Tcp
                };
                Ok(address(host, port))
            }
            "tcp+tls" => Err(
                "TLS is not spoken; a relay such as stunnel or rsyslog on this host does".into(),
            ),
            _ => Err("it is `udp://`, `tcp://`, `unix://` or `unixgram://` and an address".into()),
        }
    }

    async fn connect(&self) -> io::Result<Wire> {
        match self {
            Self::Local => {
                for path in LOCAL {
                    if let Ok(socket) = datagrams(path.as_ref()) {
                        return Ok(Wire::Unixgram(socket));
                    }
                    if let Ok(stream) = UnixStream::connect(path).await {
                        return Ok(Wire::Unix(stream));
                    }
                }
                let reason = format!("no syslog listens at {}", LOCAL.join(", "));
                Err(io::Error::new(io::ErrorKind::NotFound, reason))
            }
            Self::Udp(host, port) => {
                let address = tokio::net::lookup_host((host.as_str(), *port))
                    .await?
                    .next();
                let address = address.ok_or(io::ErrorKind::NotFound)?;
                let any = if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(address).await?;
                Ok(Wire::Udp(socket))
            }
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                Ok(Wire::Tcp(stream))
            }
            Self::Unix(path) => Ok(Wire::Unix(UnixStream::connect(path).await?)),
            Self::Unixgram(path) => Ok(Wire::Unixgram(datagrams(path)?)),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => write!(formatter, "the syslog of this host"),
            Self::Udp(host, port) => write!(formatter, "udp://{host}:{port}"),
            Self::Tcp(host, port) => write!(formatter, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(formatter, "unixgram://{}", path.display()),
        }
    }
}

fn datagrams(path: &std::path::Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("a host is missing".into());
    }
    let port = match port {
        None => PORT,
        Some(port) => port
            .parse()
            .map_err(|_| format!("`{port}` is not a port"))?,
    };
    Ok((host.into(), port))
}

#[derive(Debug)]
enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixStream),
    Unixgram(UnixDatagram),
}

impl Wire {
    async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(packet).await.map(drop),
            Self::Unixgram(socket) => socket.send(packet).await.map(drop),
            Self::Tcp(stream) => stream.write_all(packet).await,
            Self::Unix(stream) => stream.write_all(packet).await,
        }
    }
}

/// A connection that is made again when it breaks.
#[derive(Debug)]
pub(super) struct Connection {
    address: Address,
    wire: Option<Wire>,
    /// Nobody was there; not tried again before.
    away_until: Option<Instant>,
    /// Lines that did not reach the receiver, of which the supervisor's log does not tell yet.
    lost: u64,
}

impl Connection {
    pub(super) const fn new(address: Address) -> Self {
        Self {
            address,
            wire: None,
            away_until: None,
            lost: 0,
        }
    }

    pub(super) async fn open(&mut self) -> io::Result<()> {
        let connected = timeout(PATIENCE, self.address.connect()).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let wire = connected.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot reach {}: {error}", self.address),
            )
        })?;
        self.wire = Some(wire);
        Ok(())
    }

    /// Sends a line, over a new connection if the one there is breaks; or counts it as lost.
    pub(super) async fn send(&mut self, packet: &[u8]) {
        if let Some(wire) = &mut self.wire
            && wire.send(packet).await.is_ok()
        {
            return;
        }
        self.wire = None;
        let is_away = self.away_until.is_some_and(|until| Instant::now() < until);
        if !is_away && self.resend(packet).await {
            return;
        }
        self.lost += 1;
    }

    async fn resend(&mut self, packet: &[u8]) -> bool {
        let opened = self.open().await;
        let sent = match (&opened, &mut self.wire) {
            (Ok(()), Some(wire)) => wire.send(packet).await.is_ok(),
            _ => false,
        };
        if sent {
            self.away_until = None;
            if self.lost > 0 {
                tracing::warn!(lines = self.lost, address = %self.address, "a logging driver is back; lines were lost");
                self.lost = 0;
            }
            return true;
        }
        if self.away_until.is_none() {
            let reason = opened.err().map(|error| error.to_string());
            tracing::warn!(address = %self.address, reason, "a logging driver has lost its receiver");
        }
        self.give_up();
        false
    }

    /// The receiver is too slow, or not there: it is left alone for a moment.
    pub(super) fn give_up(&mut self) {
        self.wire = None;
        self.away_until = Some(Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let parse = |text| Address::parse(text).unwrap();
        assert_eq!(parse(""), Address::Local);
        assert_eq!(parse("udp://logs"), Address::Udp("logs".into(), 514));
        assert_eq!(
            parse("tcp://10.0.0.1:601"),
            Address::Tcp("10.0.0.1".into(), 601)
        );
        assert_eq!(
            parse("tcp://[fd00::1]:601"),
            Address::Tcp("fd00::1".into(), 601)
        );
        assert_eq!(parse("udp://[::1]"), Address::Udp("::1".into(), 514));
        assert_eq!(parse("unix:///dev/log"), Address::Unix("/dev/log".into()));
        assert_eq!(parse("unixgram:///a"), Address::Unixgram("/a".into()));
        for wrong in [
            "udp://",
            "tcp://:1",
            "unix://a",
            "logs:514",
            "udp://a:70000",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_comes_back_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut connection = Connection::new(Address::Unixgram(path.clone()));
        connection.send(b"one").await;
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        connection.send(b"lost").await;
        let receiver = UnixDatagram::bind(&path).unwrap();
        connection.send(b"lost too: not tried again so soon").await;
        assert_eq!(connection.lost, 2);
        tokio::time::advance(PAUSE).await;
        connection.send(b"two").await;
        assert_eq!(connection.lost, 0);
        let mut buffer = [0; 10];
        let length = receiver.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"two");
    }
}
