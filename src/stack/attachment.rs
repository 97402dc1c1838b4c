//! Being attached to the first process of a container, by its supervisor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::exec::running_container;
use super::{Session, SessionOutput, Stack, StackError};
use crate::supervisor::frame::{Connection, Frame};
use crate::supervisor::protocol::{Control, Reply, Request, STDERR, STDOUT};

/// Times that a lost supervisor is looked for, and the pause in between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Whom to attach to, and how.
#[derive(Clone, Debug, Default)]
pub struct AttachRequest {
    pub service: String,
    /// Number of the replica; 0: the first one that runs, else a one-off.
    pub index: u32,
    /// Connect standard input, if the container has one.
    pub stdin: bool,
}

/// A command's hold on a container. Dropping it leaves the container alone; a one-off that is to go with its command is
/// stopped then.
#[derive(Debug)]
pub struct Attachment<'a> {
    stack: &'a Stack,
    id: String,
    /// None while the supervisor is lost.
    connection: Option<Connection>,
    stdin: Option<File>,
    terminal: bool,
    ends_input: bool,
}

impl Stack {
    /// Attaches to a running container of a service.
    pub async fn attach(&self, request: &AttachRequest) -> Result<Attachment<'_>, StackError> {
        let observed = self.observe().await?;
        let container = running_container(&observed, &request.service, request.index)?;
        let desired = container.desired.as_ref();
        let has_stdin = desired.is_some_and(|desired| desired.stdin_open);
        let terminal = desired.is_some_and(|desired| desired.terminal);
        let id = container.id.clone();
        let (_, connection) = self
            .exchange(Request::Attach { id: id.clone() }, drop)
            .await?;
        let mut attachment = self.attachment(id, connection, terminal);
        if request.stdin && has_stdin {
            attachment.open_stdin()?;
        }
        Ok(attachment)
    }

    pub(super) fn attachment(
        &self,
        id: String,
        connection: Option<Connection>,
        terminal: bool,
    ) -> Attachment<'_> {
        Attachment {
            stack: self,
            id,
            connection,
            stdin: None,
            terminal,
            ends_input: false,
        }
    }
}

impl Attachment<'_> {
    /// Whether the process has a terminal.
    pub const fn terminal(&self) -> bool {
        self.terminal
    }

    /// Connects standard input, unless the process takes none any more.
    pub(super) fn open_stdin(&mut self) -> Result<(), StackError> {
        let path = self
            .stack
            .options
            .state
            .container_run(&self.id)
            .join("stdin");
        // The supervisor reads until the container does, so this never waits; without either it must not.
        let open = || {
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                .open(&path)?;
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
            Ok(file)
        };
        let has_ended = |error: &io::Error| {
            let nobody_reads = error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
            nobody_reads || error.kind() == io::ErrorKind::NotFound
        };
        self.stdin = match open() {
            Ok(stdin) => Some(stdin),
            // How it ended and what it wrote is still to come.
            Err(error) if has_ended(&error) => None,
            Err(source) => {
                return Err(StackError::Io {
                    operation: format!("open {}", path.display()),
                    source,
                });
            }
        };
        Ok(())
    }

    /// As [`Attachment::open_stdin`]; the end of our input is the end of the container's.
    pub(super) fn give_stdin(&mut self) -> Result<(), StackError> {
        self.ends_input = true;
        self.open_stdin()
    }

    /// Lets the container go on without us.
    pub async fn detach(mut self) -> Result<(), StackError> {
        self.control(Control::Detach).await
    }

    async fn control(&mut self, control: Control) -> Result<(), StackError> {
        // Without a connection there is nobody to be told; who comes back looks at the world anew.
        if let Some((_, writer)) = &mut self.connection {
            writer.send(&control).await?;
        }
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), StackError> {
        let mut attempt = 1;
        loop {
            let id = self.id.clone();
            match self.stack.exchange(Request::Attach { id }, drop).await {
                Ok((_, connection)) => {
                    self.connection = connection;
                    return Ok(());
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) => tracing::debug!(%error, "cannot attach again"),
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Session for Attachment<'_> {
    async fn next(&mut self) -> Result<SessionOutput, StackError> {
        let Some((reader, _)) = &mut self.connection else {
            self.reconnect().await?;
            return Ok(SessionOutput::Gap);
        };
        loop {
            match reader.next_frame::<Reply>().await {
                Ok(Some(Frame::Raw(mut bytes))) if !bytes.is_empty() => match bytes.remove(0) {
                    STDOUT => return Ok(SessionOutput::Stdout(bytes)),
                    STDERR => return Ok(SessionOutput::Stderr(bytes)),
                    kind => tracing::warn!(kind, "output of an unknown kind"),
                },
                Ok(Some(Frame::Message(Reply::Ended { code }))) => {
                    return Ok(SessionOutput::Exited(code));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.connection = None;
        self.reconnect().await?;
        Ok(SessionOutput::Gap)
    }

    fn take_stdin(&mut self) -> Option<File> {
        self.stdin.take()
    }

    async fn close_stdin(&mut self) -> Result<(), StackError> {
        if self.ends_input {
            self.control(Control::CloseStdin).await?;
        }
        Ok(())
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<(), StackError> {
        self.control(Control::Resize { columns, rows }).await
    }

    async fn kill(&mut self, signal: u32) -> Result<(), StackError> {
        self.control(Control::Signal { number: signal }).await
    }
}
