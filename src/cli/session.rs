//! Talks with a process in a container: input, output, signals, and the size of the terminal.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _, stdin};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::detach::{DetachKeys, Typed};
use super::error::CommandError;
use super::terminal::{self, RawMode};
use super::ui::Ui;
use crate::stack::{Session, SessionOutput};

/// Times that the size of the terminal is sent until the process has taken it.
const RESIZES: u32 = 10;

/// SIGINTs and the like after which a process that does not end is left to itself.
const INSISTENCE: u32 = 3;

/// How to talk.
#[derive(Debug, Default)]
pub(crate) struct Manner {
    /// The process has a terminal, and gets every key of ours.
    pub raw: bool,
    /// Signals are passed on; else they end the conversation.
    pub proxy_signals: bool,
    /// Keys that end the conversation.
    pub detach_keys: Option<DetachKeys>,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(u32),
    Detached,
    /// By a signal to us.
    Interrupted,
}

/// Signals that a process in a container gets in our stead.
#[derive(Debug)]
pub(crate) struct Signals {
    ending: [Signal; 4],
    others: [Signal; 2],
    window: Signal,
}

/// Something that we were sent.
enum Sent {
    /// A signal that is meant to end us.
    Ending(i32),
    Other(i32),
    Window,
}

const ENDING: [SignalKind; 4] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
];
const OTHERS: [SignalKind; 2] = [SignalKind::user_defined1(), SignalKind::user_defined2()];

impl Signals {
    /// From now on no signal ends this process by itself.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        let [interrupt, terminate, hang_up, quit] = ENDING;
        let [first, second] = OTHERS;
        Ok(Self {
            ending: [
                signal(interrupt)?,
                signal(terminate)?,
                signal(hang_up)?,
                signal(quit)?,
            ],
            others: [signal(first)?, signal(second)?],
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Cancel-safe by tokio's contract.
    async fn next(&mut self) -> Sent {
        let [interrupt, terminate, hang_up, quit] = &mut self.ending;
        let [first, second] = &mut self.others;
        tokio::select! {
            _ = interrupt.recv() => Sent::Ending(ENDING[0].as_raw_value()),
            _ = terminate.recv() => Sent::Ending(ENDING[1].as_raw_value()),
            _ = hang_up.recv() => Sent::Ending(ENDING[2].as_raw_value()),
            _ = quit.recv() => Sent::Ending(ENDING[3].as_raw_value()),
            _ = first.recv() => Sent::Other(OTHERS[0].as_raw_value()),
            _ = second.recv() => Sent::Other(OTHERS[1].as_raw_value()),
            _ = self.window.recv() => Sent::Window,
        }
    }
}

/// Talks until the process ends, the user detaches, or a signal ends it.
pub(crate) async fn converse(
    ui: &mut Ui,
    session: &mut impl Session,
    mut signals: Signals,
    manner: Manner,
) -> Result<End, CommandError> {
    let raw = if manner.raw {
        Some(RawMode::enter()?)
    } else {
        None
    };
    let mut input = session
        .take_stdin()
        .map(|pipe| pump(pipe, manner.detach_keys));
    let mut insistence = 0;
    if raw.is_some() {
        resize(session).await;
    }
    loop {
        tokio::select! {
            // Cancel-safe by contract.
            output = session.next() => match output? {
                SessionOutput::Stdout(bytes) => {
                    ui.data_bytes(&bytes)?;
                    ui.flush()?;
                }
                SessionOutput::Stderr(bytes) => ui.error_bytes(&bytes)?,
                SessionOutput::Gap => {
                    ui.warn("the supervisor was replaced; what was written meanwhile may be missing");
                }
                SessionOutput::Exited(code) => return Ok(End::Exited(code)),
            },
            // Cancel-safe: the end comes once, and the receiver is dropped then.
            typed = ended(&mut input) => {
                input = None;
                if typed == Typed::Detach {
                    return Ok(End::Detached);
                }
                // A process that has ended needs to be told nothing.
                if let Err(error) = session.close_stdin().await {
                    tracing::debug!(%error, "cannot close standard input");
                }
            }
            // Cancel-safe by contract.
            sent = signals.next() => {
                let number = match sent {
                    Sent::Window => {
                        if raw.is_some() {
                            resize(session).await;
                        }
                        continue;
                    }
                    Sent::Other(number) => number,
                    Sent::Ending(number) => {
                        insistence += 1;
                        if !manner.proxy_signals || insistence == INSISTENCE {
                            return Ok(End::Interrupted);
                        }
                        number
                    }
                };
                if manner.proxy_signals
                    && let Err(error) = session.kill(number.unsigned_abs()).await
                {
                    tracing::debug!(%error, "cannot pass the signal on");
                }
                if number == SignalKind::hangup().as_raw_value() {
                    // The terminal is gone, and with it whoever could end this.
                    return Ok(End::Interrupted);
                }
            }
        }
    }
}

/// Sends the terminal's size; a process that is just starting may not take it at once.
async fn resize(session: &mut impl Session) {
    let (columns, rows) = terminal::size();
    let (columns, rows) = (
        u32::try_from(columns).unwrap_or(80),
        u32::try_from(rows).unwrap_or(24),
    );
    for attempt in 1..=RESIZES {
        match session.resize(columns, rows).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, attempt, "cannot resize the terminal"),
        }
        tokio::time::sleep(Duration::from_millis(10) * attempt).await;
    }
}

/// Copies standard input to `pipe` until either ends, or `keys` are pressed. On a thread of its own: a blocked read must
/// not hold up the end of the command.
fn pump(mut pipe: File, mut keys: Option<DetachKeys>) -> oneshot::Receiver<Typed> {
    let (sender, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut input = stdin().lock();
        let end = loop {
            let read = match input.read(&mut buffer) {
                Ok(0) => break Typed::End,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break Typed::End,
            };
            let (bytes, detach) = match &mut keys {
                Some(keys) => keys.filter(&buffer[..read]),
                None => (buffer[..read].to_vec(), false),
            };
            if pipe.write_all(&bytes).is_err() {
                break Typed::End;
            }
            if detach {
                break Typed::Detach;
            }
        };
        drop(pipe);
        // The command may have ended.
        sender.send(end).ok();
    });
    ended
}

async fn ended(input: &mut Option<oneshot::Receiver<Typed>>) -> Typed {
    match input {
        // A thread that ended without a word has ended, too.
        Some(ended) => ended.await.unwrap_or(Typed::End),
        None => std::future::pending().await,
    }
}
