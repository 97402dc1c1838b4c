//! A small synchronous netlink client.
//!
//! Sockets are opened by threads that are inside of a network namespace for a moment, several messages go out in one
//! system call, and the same code speaks to three subsystems (routing, connection tracking, nftables); this is why
//! there is no asynchronous client here.

pub(super) mod conntrack;
pub(super) mod nftables;
pub(super) mod route;

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const HEADER: usize = 16;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
const FLAG_EXCLUSIVE: u16 = 0x200;
const FLAG_CREATE: u16 = 0x400;
const FLAG_DUMP: u16 = 0x300;

/// Marks an attribute that holds attributes.
const ATTRIBUTE_NESTED: u16 = 0x8000;
const ATTRIBUTE_MASK: u16 = 0x3fff;

/// The kernel answers at once; a longer silence is a lost answer.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// A request under construction.
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a request of type `kind` with `flags` besides the usual ones; `fixed` is the header of the family.
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a zero-terminated string.
    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute whose content is what `fill` appends.
    fn nested(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        let mut message = fill(self.attribute(kind | ATTRIBUTE_NESTED, &[]));
        let length = u16::try_from(message.bytes.len() - start).unwrap_or(u16::MAX);
        message.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message
    }

    /// Appends bytes as they are, as for a header inside of an attribute.
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn seal(&mut self, sequence: u32, flags: u16) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A received message: its type, and what follows the netlink header.
struct Received<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// A socket in the namespace of the thread that opened it; it stays there whoever uses it.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let descriptor = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        set_socket_timeout(&descriptor, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            descriptor,
            sequence: 0,
            buffer: vec![0; 64 << 10],
        })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(&self.descriptor, bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Receives one datagram and hands its messages to `each` until that returns true; then true is returned.
    fn receive(
        &mut self,
        mut each: impl FnMut(&Received<'_>) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let length = loop {
            match recv(&self.descriptor, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => break length.min(self.buffer.len()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut rest = &self.buffer[..length];
        let mut finished = false;
        while rest.len() >= HEADER {
            let size = word(rest, 0) as usize;
            if size < HEADER || size > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            finished |= each(&Received {
                kind: u16::from_ne_bytes([rest[4], rest[5]]),
                sequence: word(rest, 8),
                payload: &rest[HEADER..size],
            })?;
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(finished)
    }

    /// Sends `messages` in one go and returns the answer to each. A refused message does not stop those after it.
    pub(super) fn execute_each(
        &mut self,
        messages: Vec<Message>,
    ) -> io::Result<Vec<io::Result<()>>> {
        self.exchange(None, messages, None)
    }

    /// As [`Socket::execute_each`], as a transaction between two messages that are not answered.
    fn execute_between(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> io::Result<Vec<io::Result<()>>> {
        self.exchange(Some(begin), messages, Some(end))
    }

    fn exchange(
        &mut self,
        begin: Option<Message>,
        messages: Vec<Message>,
        end: Option<Message>,
    ) -> io::Result<Vec<io::Result<()>>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        let mut append = |mut message: Message, sequence, flags| {
            message.seal(sequence, flags);
            bytes.extend_from_slice(&message.bytes);
        };
        if let Some(begin) = begin {
            append(begin, self.sequence, 0);
        }
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            append(message, self.sequence, FLAG_ACKNOWLEDGE);
        }
        if let Some(end) = end {
            self.sequence = self.sequence.wrapping_add(1);
            append(end, self.sequence, 0);
        }
        self.send(&bytes)?;
        let mut answers: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        let mut missing = count;
        while missing > 0 {
            self.receive(|received| {
                let position = received.sequence.wrapping_sub(first) as usize;
                if received.kind != MESSAGE_ERROR {
                    return Ok(false);
                }
                match answers.get_mut(position) {
                    Some(answer) if answer.is_none() => {
                        *answer = Some(error_of(received.payload));
                        missing -= 1;
                    }
                    Some(_) => {}
                    // A transaction that is refused as a whole.
                    None => error_of(received.payload)?,
                }
                Ok(missing == 0)
            })?;
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// As [`Socket::execute_each`], with the first refusal as the result.
    pub(super) fn execute(&mut self, messages: Vec<Message>) -> io::Result<()> {
        self.execute_each(messages)?.into_iter().collect()
    }

    /// Sends a request for all objects and hands each answer (without the netlink header) to `each`.
    fn dump(&mut self, mut message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        message.seal(sequence, FLAG_DUMP);
        self.send(&message.bytes)?;
        loop {
            let finished = self.receive(|received| {
                if received.sequence != sequence {
                    return Ok(false);
                }
                match received.kind {
                    MESSAGE_DONE => return Ok(true),
                    MESSAGE_ERROR => return error_of(received.payload).map(|()| true),
                    _ => each(received.payload),
                }
                Ok(false)
            })?;
            if finished {
                return Ok(());
            }
        }
    }

    /// Sends a request for one object; `None` if the kernel says that there is none.
    fn query<T>(
        &mut self,
        mut message: Message,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        message.seal(sequence, 0);
        self.send(&message.bytes)?;
        let mut read = Some(read);
        let mut found = None;
        loop {
            let finished = self.receive(|received| {
                if received.sequence != sequence {
                    return Ok(false);
                }
                if received.kind == MESSAGE_ERROR {
                    return match error_of(received.payload) {
                        Err(error) if is_missing(&error) => Ok(true),
                        other => other.map(|()| true),
                    };
                }
                if let Some(read) = read.take() {
                    found = read(received.payload);
                }
                Ok(true)
            })?;
            if finished {
                return Ok(found);
            }
        }
    }
}

/// Whether the kernel says that the object is not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(
        errno,
        Some(rustix::io::Errno::NODEV | rustix::io::Errno::NOENT | rustix::io::Errno::NXIO)
    )
}

/// Turns the refusal of an object that is there already into success.
pub(super) fn accept_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Turns the refusal because an object is gone into success.
pub(super) fn accept_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

fn error_of(payload: &[u8]) -> io::Result<()> {
    if payload.len() < 4 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match word(payload, 0).cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

/// The 32-bit number at `offset`; 0 if the message is too short.
fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..offset + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

/// Walks over attributes; stops at the first damaged one.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & ATTRIBUTE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of type `kind`.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A string without its terminating zero.
fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nested_attributes_carry_their_length() {
        let mut message = Message::new(16, 0, &[1, 2, 3, 4])
            .nested(5, |message| message.attribute(1, &[7]).text(2, "abc"));
        message.seal(9, FLAG_ACKNOWLEDGE);
        assert_eq!(word(&message.bytes, 0) as usize, message.bytes.len());
        assert_eq!(word(&message.bytes, 8), 9);
        let inner = find(&message.bytes[HEADER + 4..], 5).expect("the nested attribute");
        let read: Vec<_> = attributes(inner).collect();
        assert_eq!(read, [(1, &[7][..]), (2, &b"abc\0"[..])]);
    }

    proptest! {
        #[test]
        fn damaged_attributes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, value) in attributes(&bytes).take(1000) {
                drop(string(value));
            }
        }
    }
}
