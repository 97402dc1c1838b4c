//! Descriptors that outlive the worker: what the worker says to its keeper, and the same within one process.
//!
//! The two share a pair of sequential-packet sockets; the worker's end is its standard input. A packet is one byte that
//! says what it is, then a key; descriptors travel beside it (`SCM_RIGHTS`).

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;

use crate::sys::descriptors;

/// Key under which the keeper itself holds the supervisor's lock.
pub const LOCK_KEY: &str = "lock";

/// Bytes of the longest key.
pub const LONGEST_KEY: usize = 1024;

/// One packet between worker and keeper.
#[derive(Debug)]
pub(super) enum Packet {
    /// Worker: hold this. Keeper: I hold this.
    Hold(String, OwnedFd),
    /// Worker: let go of it.
    Release(String),
    /// Worker: give me copies of all.
    TakeAll,
    /// Keeper: that was all.
    End,
    /// Worker: start my successors from this program.
    Program(String),
}

const HOLD: u8 = b'+';
const RELEASE: u8 = b'-';
const TAKE_ALL: u8 = b'?';
const END: u8 = b'.';
const PROGRAM: u8 = b'!';

/// Makes the two ends; both are closed on exec.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one packet, with a descriptor if it is of the kind that has one.
fn send(
    socket: BorrowedFd<'_>,
    kind: u8,
    text: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    if text.len() > LONGEST_KEY {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let kind = [kind];
    let parts = [IoSlice::new(&kind), IoSlice::new(text.as_bytes())];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Answers [`Packet::TakeAll`].
pub(super) fn send_all(socket: BorrowedFd<'_>, held: &BTreeMap<String, OwnedFd>) -> io::Result<()> {
    for (key, descriptor) in held {
        send(socket, HOLD, key, Some(descriptor.as_fd()))?;
    }
    send(socket, END, "", None)
}

/// Receives one packet; `None` if the other end is closed.
pub(super) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<Packet>> {
    let mut bytes = [0; LONGEST_KEY + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(
            socket,
            &mut parts,
            &mut ancillary,
            flags | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let Some((&kind, text)) = bytes[..message.bytes.min(LONGEST_KEY + 1)].split_first() else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(text).into_owned();
    match (kind, descriptor) {
        (HOLD, Some(descriptor)) => Ok(Some(Packet::Hold(text, descriptor))),
        (HOLD, None) if message.flags.contains(ReturnFlags::CTRUNC) => Err(io::Error::other(
            format!("no descriptor is free to hold `{text}`"),
        )),
        (RELEASE, None) => Ok(Some(Packet::Release(text))),
        (TAKE_ALL, None) => Ok(Some(Packet::TakeAll)),
        (END, None) => Ok(Some(Packet::End)),
        (PROGRAM, None) => Ok(Some(Packet::Program(text))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The worker's side of its keeper.
#[derive(Debug)]
pub struct HoldClient {
    socket: OwnedFd,
    /// One conversation at a time.
    turn: Mutex<()>,
}

impl HoldClient {
    /// Takes the socket that the keeper gave as standard input, and leaves `/dev/null` there for children.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        let socket = stdin.as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&socket)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self::new(socket))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            turn: Mutex::new(()),
        }
    }

    fn send(&self, kind: u8, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        send(self.socket.as_fd(), kind, text, descriptor)
    }

    fn take_all(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        send(self.socket.as_fd(), TAKE_ALL, "", None)?;
        let mut held = Vec::new();
        loop {
            match receive(self.socket.as_fd(), RecvFlags::empty())? {
                Some(Packet::Hold(key, descriptor)) => held.push((key, descriptor)),
                Some(Packet::End) => return Ok(held),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Returns when the keeper is gone.
    async fn closed(&self) -> io::Result<()> {
        let socket = descriptors::watch(self.socket.try_clone()?, Interest::READABLE)?;
        loop {
            let mut ready = socket.readable().await?;
            let mut byte = [0];
            let peeked =
                rustix::net::recv(&socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
            match peeked {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Ok(()),
                // Part of an answer that `take_all` is reading.
                Ok(_) => ready.clear_ready(),
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where descriptors are held that must not vanish with a worker.
#[derive(Debug)]
pub enum Holder {
    Keeper(HoldClient),
    /// Without a keeper they live as long as this.
    InProcess(Mutex<BTreeMap<String, OwnedFd>>),
}

impl Holder {
    /// For a worker without a keeper.
    pub fn in_process() -> Self {
        Self::InProcess(Mutex::default())
    }

    /// Holds a copy of `descriptor` under `key`, instead of what was held under it.
    pub fn hold(&self, key: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Keeper(client) => client.send(HOLD, key, Some(descriptor)),
            Self::InProcess(held) => {
                let copy = descriptor.try_clone_to_owned()?;
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.insert(key.into(), copy);
                Ok(())
            }
        }
    }

    /// Lets go of `key`; not an error if nothing is held under it.
    pub fn release(&self, key: &str) -> io::Result<()> {
        match self {
            Self::Keeper(client) => client.send(RELEASE, key, None),
            Self::InProcess(held) => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.remove(key);
                Ok(())
            }
        }
    }

    /// Copies of all that is held, by key; they stay held.
    pub fn take_all(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        match self {
            Self::Keeper(client) => client.take_all(),
            Self::InProcess(held) => {
                let held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.iter()
                    .map(|(key, descriptor)| Ok((key.clone(), descriptor.try_clone()?)))
                    .collect()
            }
        }
    }

    /// Makes `program` what the next worker is started from, when this one ends with another code than 0.
    pub fn set_program(&self, program: &str) -> io::Result<()> {
        match self {
            Self::Keeper(client) => client.send(PROGRAM, program, None),
            Self::InProcess(_) => Ok(()),
        }
    }

    /// Returns when the keeper is gone; never without one. Cancel-safe.
    pub async fn lost(&self) {
        match self {
            Self::Keeper(client) => {
                if let Err(error) = client.closed().await {
                    tracing::error!(%error, "cannot watch the keeper");
                }
            }
            Self::InProcess(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_worker_and_its_keeper_understand_each_other() {
        let (near, far) = socket_pair().unwrap();
        let holder = Holder::Keeper(HoldClient::new(near));
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        holder.hold("fifo/a", reader.as_fd()).unwrap();
        drop(reader);
        holder.release("fifo/b").unwrap();
        holder.set_program("/bin/new").unwrap();

        let keeper = std::thread::spawn(move || {
            let mut held = BTreeMap::new();
            let Some(Packet::Hold(key, descriptor)) =
                receive(far.as_fd(), RecvFlags::empty()).unwrap()
            else {
                panic!("expected a descriptor");
            };
            held.insert(key, descriptor);
            let packet = receive(far.as_fd(), RecvFlags::empty()).unwrap();
            assert!(matches!(packet, Some(Packet::Release(key)) if key == "fifo/b"));
            let packet = receive(far.as_fd(), RecvFlags::empty()).unwrap();
            assert!(matches!(packet, Some(Packet::Program(path)) if path == "/bin/new"));
            let packet = receive(far.as_fd(), RecvFlags::empty()).unwrap();
            assert!(matches!(packet, Some(Packet::TakeAll)));
            send_all(far.as_fd(), &held).unwrap();
            assert!(receive(far.as_fd(), RecvFlags::empty()).unwrap().is_none());
        });
        let mut taken = holder.take_all().unwrap();
        drop(holder);
        keeper.join().unwrap();
        let (key, descriptor) = taken.pop().unwrap();
        assert_eq!((key.as_str(), taken.len()), ("fifo/a", 0));
        File::from(writer).write_all(b"still here").unwrap();
        let mut text = String::new();
        File::from(descriptor).read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[test]
    fn without_a_keeper_the_same_calls_hold_within_the_process() {
        let holder = Holder::in_process();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        holder.hold("a", reader.as_fd()).unwrap();
        drop(reader);
        assert_eq!(holder.take_all().unwrap().len(), 1);
        rustix::io::write(&writer, b"x").unwrap();
        holder.release("a").unwrap();
        assert!(holder.take_all().unwrap().is_empty());
        assert_eq!(
            rustix::io::write(&writer, b"x"),
            Err(rustix::io::Errno::PIPE)
        );
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let (near, _far) = socket_pair().unwrap();
        let holder = Holder::Keeper(HoldClient::new(near));
        let key = "k".repeat(LONGEST_KEY + 1);
        assert!(holder.release(&key).is_err());
    }

    #[tokio::test]
    async fn a_worker_notices_that_its_keeper_is_gone() {
        let (near, far) = socket_pair().unwrap();
        let holder = Holder::Keeper(HoldClient::new(near));
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, holder.lost()).await.is_err());
        drop(far);
        let soon = std::time::Duration::from_secs(5);
        tokio::time::timeout(soon, holder.lost()).await.unwrap();
    }
}
