//! Messages over a stream: a length (4 bytes, big endian) and that many bytes of JSON; and the socket they travel on.
//!
//! The highest bit of the length tells a raw frame from a message: its bytes are no JSON.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::lock::SupervisorLock;
use crate::state::StateRoot;

/// Bytes of the longest message.
pub const LIMIT: usize = 64 << 20;

/// Bytes of the length before each message.
const PREFIX: usize = 4;

/// In the length: a raw frame follows.
const RAW: u32 = 1 << 31;

/// Bytes that are received at once.
const CHUNK: usize = 64 << 10;

/// Longest path that fits in the address of a Unix socket, without its final NUL.
const LONGEST_ADDRESS: usize = 107;

/// A message could not be sent or received.
#[derive(Debug, Error)]
pub enum FrameError {
    #[error("connection to the supervisor failed")]
    Io(#[from] io::Error),
    #[error("a message of {length} bytes is over the limit of {LIMIT}")]
    TooLong { length: usize },
    #[error("the connection ended within a message")]
    Cut,
    #[error("a message is not understood")]
    Json(#[source] serde_json::Error),
}

/// Sends `message` over a blocking stream.
pub fn write_blocking<T: Serialize>(
    writer: &mut impl Write,
    message: &T,
) -> Result<(), FrameError> {
    writer.write_all(&encode(message)?)?;
    Ok(writer.flush()?)
}

/// Receives a message from a blocking stream; `None` if it ended between two messages.
pub fn read_blocking<T: DeserializeOwned>(reader: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut buffer = Vec::new();
    loop {
        let wanted = match take(&mut buffer)? {
            Taken::Frame(Frame::Message(message)) => return Ok(Some(message)),
            Taken::Frame(Frame::Raw(_)) => continue,
            Taken::Missing(wanted) => wanted,
        };
        // Reads no more than this message: what follows is not ours to keep.
        match reader
            .by_ref()
            .take(wanted as u64)
            .read_to_end(&mut buffer)?
        {
            0 if buffer.is_empty() => return Ok(None),
            read if read < wanted => return Err(FrameError::Cut),
            _ => {}
        }
    }
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Json)?;
    let length = bytes.len() - PREFIX;
    match u32::try_from(length) {
        Ok(prefix) if length <= LIMIT => bytes[..PREFIX].copy_from_slice(&prefix.to_be_bytes()),
        _ => return Err(FrameError::TooLong { length }),
    }
    Ok(bytes)
}

/// What a connection carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<T> {
    Message(T),
    Raw(Vec<u8>),
}

enum Taken<T> {
    Frame(Frame<T>),
    /// Bytes that must come first.
    Missing(usize),
}

/// Takes the first message out of `buffer` if it is whole.
fn take<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Taken<T>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(Taken::Missing(PREFIX - buffer.len()));
    };
    let prefix = u32::from_be_bytes(*prefix);
    let length = usize::try_from(prefix & !RAW).unwrap_or(usize::MAX);
    if length > LIMIT {
        return Err(FrameError::TooLong { length });
    }
    let Some(bytes) = buffer.get(PREFIX..PREFIX + length) else {
        return Ok(Taken::Missing(PREFIX + length - buffer.len()));
    };
    let frame = if prefix & RAW == 0 {
        let message = serde_json::from_slice(bytes);
        message.map(Frame::Message).map_err(FrameError::Json)
    } else {
        Ok(Frame::Raw(bytes.to_vec()))
    };
    buffer.drain(..PREFIX + length);
    frame.map(Taken::Frame)
}

/// Receives messages.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
        }
    }

    /// The next message; `None` if the stream ended between two messages.
    ///
    /// Cancel-safe: what was received stays for the next call. A message that is not understood is skipped, and so are
    /// raw frames.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            match self.next_frame().await? {
                Some(Frame::Message(message)) => return Ok(Some(message)),
                Some(Frame::Raw(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`FrameReader::next`], raw frames too.
    pub async fn next_frame<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<Frame<T>>, FrameError> {
        loop {
            if let Taken::Frame(frame) = take(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(CHUNK);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Cut)
                };
            }
        }
    }
}

/// Sends messages.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Sends `message`. Not cancel-safe: half a message makes the stream useless.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        self.inner.write_all(&encode(message)?).await?;
        Ok(self.inner.flush().await?)
    }

    /// Sends a raw frame of a `kind` and `bytes`. Not cancel-safe either.
    pub async fn send_raw(&mut self, kind: u8, bytes: &[u8]) -> Result<(), FrameError> {
        let length = bytes.len() + 1;
        let prefix = u32::try_from(length).ok().filter(|_| length <= LIMIT);
        let prefix = prefix.ok_or(FrameError::TooLong { length })? | RAW;
        let mut head = [0; PREFIX + 1];
        head[..PREFIX].copy_from_slice(&prefix.to_be_bytes());
        head[PREFIX] = kind;
        self.inner.write_all(&head).await?;
        self.inner.write_all(bytes).await?;
        Ok(self.inner.flush().await?)
    }
}

/// The two directions of a connection.
pub type Connection = (FrameReader<OwnedReadHalf>, FrameWriter<OwnedWriteHalf>);

fn split(stream: UnixStream) -> Connection {
    let (reader, writer) = stream.into_split();
    (FrameReader::new(reader), FrameWriter::new(writer))
}

/// Path of the control socket of `project`.
pub fn control_path(state: &StateRoot, project: &str) -> PathBuf {
    state.project_run(project).join("control.sock")
}

/// Connects to a control socket.
pub async fn connect(path: &Path) -> io::Result<Connection> {
    let address = Address::new(path)?;
    Ok(split(UnixStream::connect(&address.path).await?))
}

/// As [`connect`], blocking.
pub fn connect_blocking(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let address = Address::new(path)?;
    std::os::unix::net::UnixStream::connect(&address.path)
}

/// A path for the address of a Unix socket; a long one goes through a descriptor of its folder.
struct Address {
    path: PathBuf,
    _folder: Option<File>,
}

impl Address {
    fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= LONGEST_ADDRESS {
            return Ok(Self {
                path: path.into(),
                _folder: None,
            });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = File::open(folder)?;
        Ok(Self {
            path: Path::new("/proc/self/fd")
                .join(folder.as_raw_fd().to_string())
                .join(name),
            _folder: Some(folder),
        })
    }
}

/// The control socket of a project.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
}

impl Listener {
    /// Makes the socket `control.sock`, for the owner only. Whoever has the lock may replace one that was left behind.
    pub fn bind(lock: &SupervisorLock) -> io::Result<Self> {
        let path = lock.directory().join("control.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let address = Address::new(&path)?;
        let inner = UnixListener::bind(&address.path)?;
        // Nobody else can have connected before: the folder is the owner's.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { inner })
    }

    /// Goes on with a listening socket that was held while its user was away; waiting connections are not lost.
    pub fn from_held(descriptor: OwnedFd) -> io::Result<Self> {
        let inner = std::os::unix::net::UnixListener::from(descriptor);
        inner.set_nonblocking(true)?;
        Ok(Self {
            inner: UnixListener::from_std(inner)?,
        })
    }

    /// The next connection of the same user or of root; others are closed. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            let (stream, _) = self.inner.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == 0 || peer == rustix::process::geteuid().as_raw() {
                return Ok(split(stream));
            }
            tracing::warn!(peer, "refused a connection of another user");
        }
    }
}

impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::protocol::{Hello, Reply, Request};
    use super::*;

    fn hello() -> Hello {
        Hello::new("up (pid 1)")
    }

    #[tokio::test]
    async fn messages_arrive_whole_however_they_are_cut() {
        let (near, mut far) = tokio::io::duplex(3);
        let sender = tokio::spawn(async move {
            let mut bytes = encode(&hello()).unwrap();
            bytes.extend(encode(&Request::Ping).unwrap());
            for byte in bytes {
                far.write_all(&[byte]).await.unwrap();
            }
        });
        let mut reader = FrameReader::new(near);
        // A receiver that gives up again and again loses nothing.
        let received: Hello = loop {
            tokio::select! {
                biased;
                // Cancel-safe by contract.
                received = reader.next() => break received.unwrap().unwrap(),
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(received, hello());
        assert_eq!(reader.next().await.unwrap(), Some(Request::Ping));
        assert!(reader.next::<Request>().await.unwrap().is_none());
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_within_a_message_is_an_error() {
        let bytes = encode(&Request::Ping).unwrap();
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new(&bytes[..cut]);
            assert!(
                matches!(reader.next::<Request>().await, Err(FrameError::Cut)),
                "{cut}"
            );
            let blocking = read_blocking::<Request>(&mut &bytes[..cut]);
            assert!(matches!(blocking, Err(FrameError::Cut)), "{cut}");
        }
        assert!(
            read_blocking::<Request>(&mut io::empty())
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_refused_before_it_is_stored() {
        let bytes = u32::MAX.to_be_bytes();
        let refused = FrameReader::new(bytes.as_slice()).next::<Request>().await;
        assert!(matches!(refused, Err(FrameError::TooLong { .. })));
        let refused = read_blocking::<Request>(&mut bytes.as_slice());
        assert!(matches!(refused, Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_blocking_reader_takes_no_more_than_its_message() {
        let mut bytes = encode(&hello()).unwrap();
        bytes.extend(encode(&Request::Ping).unwrap());
        let mut rest = bytes.as_slice();
        assert_eq!(read_blocking(&mut rest).unwrap(), Some(hello()));
        assert_eq!(read_blocking(&mut rest).unwrap(), Some(Request::Ping));
    }

    #[tokio::test]
    async fn the_socket_is_private_and_replaces_a_stale_one_even_under_a_long_path() {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(&root.path().join("x".repeat(120))));
        let lock = SupervisorLock::acquire(&state, "shop").unwrap().unwrap();
        drop(Listener::bind(&lock).unwrap());
        let listener = Listener::bind(&lock).unwrap();
        let path = control_path(&state, "shop");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        let client = tokio::task::spawn_blocking(move || {
            let mut stream = connect_blocking(&path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            write_blocking(&mut stream, &Request::Ping).unwrap();
            read_blocking::<Reply>(&mut stream).unwrap()
        });
        let (mut reader, mut writer) = listener.accept().await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(Request::Ping));
        writer.send(&Reply::Finished).await.unwrap();
        assert_eq!(client.await.unwrap(), Some(Reply::Finished));
    }
}
