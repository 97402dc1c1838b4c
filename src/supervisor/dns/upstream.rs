//! Questions for foreign names, passed on as they are.

use std::fs::Metadata;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Transport;
use super::table::Route;

/// Time that one server has for an answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Time for all of them: a container's resolver asks again after five seconds.
const TOTAL_PATIENCE: Duration = Duration::from_millis(4500);

/// Servers that are asked, as with the C library, and how often.
const SERVERS: usize = 3;
const ROUNDS: usize = 2;

/// Time for which the list of the host's servers is believed without a look.
const FRESH: Duration = Duration::from_secs(1);

/// Bytes of the header of a message.
const HEADER: usize = 12;

const SERVER_FAILURE: u8 = 2;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// The way to foreign names.
#[derive(Debug)]
pub(super) struct Upstream {
    resolv_conf: PathBuf,
    host: Mutex<Option<HostServers>>,
}

/// The host's servers as they were when last looked at.
#[derive(Debug)]
struct HostServers {
    checked: Instant,
    version: Option<(u64, u64, i64, i64)>,
    servers: Vec<SocketAddr>,
}

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            resolv_conf,
            host: Mutex::default(),
        }
    }

    /// Asks the servers of `route` one after the other; the bytes of the first good answer, else of the last bad one,
    /// else none.
    pub(super) async fn forward(
        &self,
        question: &[u8],
        route: Route,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let servers = match route {
            Route::None => return None,
            Route::Host => self.host_servers(),
            Route::Servers(servers) => servers,
        };
        let mut bad = None;
        let all = async {
            for _ in 0..ROUNDS {
                for server in servers.iter().take(SERVERS) {
                    match timeout(PATIENCE, ask(*server, question, transport)).await {
                        Ok(Ok(answer)) if is_good(&answer) => return Some(answer),
                        Ok(Ok(answer)) => bad = Some(answer),
                        Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                        Err(_) => tracing::debug!(%server, "a name server is silent"),
                    }
                }
            }
            None
        };
        let good = timeout(TOTAL_PATIENCE, all).await.ok().flatten();
        good.or(bad)
    }

    fn host_servers(&self) -> Vec<SocketAddr> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *host {
            if known.checked.elapsed() < FRESH {
                return known.servers.clone();
            }
            known.checked = Instant::now();
            if known.version == self.version() {
                return known.servers.clone();
            }
        }
        let version = self.version();
        let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let servers = parse(&text);
        *host = Some(HostServers {
            checked: Instant::now(),
            version,
            servers: servers.clone(),
        });
        servers
    }

    /// Changes with the file.
    fn version(&self) -> Option<(u64, u64, i64, i64)> {
        let version = |file: Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        std::fs::metadata(&self.resolv_conf).map(version).ok()
    }
}

/// The servers that a `resolv.conf` names; without one, this host.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words
                .next()
                .filter(|word| *word == "nameserver")
                .and(words.next())?;
            // A link-local address without its interface reaches nobody, and interfaces go by number here.
            let address: IpAddr = address.parse().ok()?;
            Some(SocketAddr::new(address, 53))
        })
        .collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    servers
}

/// Whether another server need not be asked.
fn is_good(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(SERVER_FAILURE, |byte| byte & 0x0f);
    ![SERVER_FAILURE, NOT_IMPLEMENTED, REFUSED].contains(&code)
}

/// Asks one server with an identifier of our own.
async fn ask(server: SocketAddr, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let original = question
        .first_chunk::<2>()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut question = question.to_vec();
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    question[..2].copy_from_slice(&id);
    let mut answer = match transport {
        Transport::Udp => ask_udp(server, &question).await?,
        Transport::Tcp => ask_tcp(server, &question).await?,
    };
    answer[..2].copy_from_slice(original);
    Ok(answer)
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    // A port of its own for each question is harder to guess.
    let local: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if belongs(&buffer[..length], question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    let answer = read_message(&mut stream).await?;
    if belongs(&answer, question) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Writes a message with its length before it, as over TCP.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let bytes = [&length.to_be_bytes(), message].concat();
    stream.write_all(&bytes).await
}

/// Reads such a message.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Whether `answer` answers `question`.
fn belongs(answer: &[u8], question: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !is_response || answer[..2] != question[..2] {
        return false;
    }
    match (asked(answer), asked(question)) {
        (Some(answered), Some(asked)) => answered.eq_ignore_ascii_case(asked),
        // Some say no more than that they refuse.
        (None, _) => answer.len() >= HEADER && !is_good(answer),
        (Some(_), None) => false,
    }
}

/// Name, type and class of the one question in a message; none without one.
fn asked(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        match message.get(end)? {
            0 => break,
            length @ 1..=63 => end += usize::from(*length) + 1,
            _ => return None,
        }
    }
    message.get(HEADER..end + 5)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_those_that_the_file_names() {
        let text = "# nameserver 9.9.9.9\nsearch x\n nameserver\t10.0.0.1 # here\nnameserver ::1\nnameserver fe80::1%eth0\nnameservers 8.8.8.8\nnameserver";
        let expected = ["10.0.0.1:53", "[::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(parse(text), expected);
        assert_eq!(parse("options ndots:0"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.1").unwrap();
        let upstream = Upstream::new(path.clone());
        let first = |upstream: &Upstream| upstream.host_servers()[0].ip().to_string();
        assert_eq!(first(&upstream), "10.0.0.1");
        std::fs::write(&path, "nameserver 10.0.0.22").unwrap();
        assert_eq!(first(&upstream), "10.0.0.1", "not looked at again so soon");
        upstream.host.lock().unwrap().as_mut().unwrap().checked -= FRESH;
        assert_eq!(first(&upstream), "10.0.0.22");
    }

    #[test]
    fn only_an_answer_to_the_question_is_taken() {
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01";
        let mut answer = question.to_vec();
        assert!(!belongs(&answer, question), "it is a question");
        answer[2] |= 0x80;
        assert!(belongs(&answer, question));
        answer[13] = b'W';
        assert!(belongs(&answer, question), "the case may differ");
        answer[13] = b'x';
        assert!(!belongs(&answer, question));
        answer[13] = b'w';
        answer[0] = 0;
        assert!(!belongs(&answer, question));
        let refusal = b"\x12\x34\x81\x05\0\0\0\0\0\0\0\0";
        assert!(belongs(refusal, question));
        let empty = b"\x12\x34\x81\x00\0\0\0\0\0\0\0\0";
        assert!(!belongs(empty, question));
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(answer in proptest::collection::vec(any::<u8>(), 0..100), question in proptest::collection::vec(any::<u8>(), 2..100)) {
            belongs(&answer, &question);
            is_good(&answer);
        }
    }
}
