//! Runs asynchronous work while its progress is shown and the user can end it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::error::CommandError;
use super::progress::Renderer;
use super::ui::Ui;
use crate::stack::StackError;
use crate::supervisor::protocol::Reply;

/// Time between two frames of a list that is redrawn.
pub(crate) const FRAME: Duration = Duration::from_millis(100);

/// Runs `work` on a runtime of its own. Whatever it leaves behind ends with the process.
pub(crate) fn block_on<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, CommandError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            // All three are cancel-safe by tokio's contract.
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hang_up.recv() => SignalKind::hangup().as_raw_value(),
        }
    }
}

/// Where a stack's operation tells what happens.
pub(crate) type Replies = UnboundedSender<Reply>;

/// As [`drive`], for work that has something to put in order before it ends: the first signal asks it to, the second
/// does not wait for it.
pub(crate) async fn drive_until<T>(
    ui: &mut Ui,
    operation: &'static str,
    work: impl AsyncFnOnce(Replies, CancellationToken) -> Result<T, StackError>,
) -> Result<T, CommandError> {
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    let result = drive_with(ui, operation, Some(&cancel), async |replies| {
        work(replies, asked).await
    })
    .await;
    if cancel.is_cancelled() {
        return Err(CommandError::interrupted());
    }
    result
}

/// Runs `work` and shows what it tells. A signal ends it: what runs is cancelled with the future.
pub(crate) async fn drive<T>(
    ui: &mut Ui,
    operation: &'static str,
    work: impl AsyncFnOnce(Replies) -> Result<T, StackError>,
) -> Result<T, CommandError> {
    drive_with(ui, operation, None, work).await
}

async fn drive_with<T>(
    ui: &mut Ui,
    operation: &'static str,
    cancel: Option<&CancellationToken>,
    work: impl AsyncFnOnce(Replies) -> Result<T, StackError>,
) -> Result<T, CommandError> {
    let (sender, mut replies) = unbounded_channel();
    let mut renderer = Renderer::new(ui, operation);
    let mut interrupts = Interrupts::listen()?;
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work(sender));
    let result = loop {
        tokio::select! {
            // What was told before the end is shown before it.
            biased;
            // Cancel-safe: a message is taken only when this arm wins.
            Some(reply) = replies.recv() => renderer.reply(ui, &reply),
            // Not dropped before it has ended, except by a signal.
            result = &mut work => break result.map_err(|error| {
                if let StackError::Failed(failures) | StackError::NotStarted { failures, .. } = &error {
                    renderer.failed(ui, failures);
                }
                CommandError::from(error)
            }),
            // Cancel-safe by contract.
            _ = interrupts.next() => match cancel.filter(|cancel| !cancel.is_cancelled()) {
                Some(cancel) => cancel.cancel(),
                None => break Err(CommandError::interrupted()),
            },
            // Cancel-safe: a tick that is lost is drawn by the next.
            _ = frames.tick() => renderer.tick(ui),
        }
    };
    show_rest(ui, &mut renderer, &mut replies);
    renderer.finish(ui);
    result
}

fn show_rest(ui: &mut Ui, renderer: &mut Renderer, replies: &mut UnboundedReceiver<Reply>) {
    while let Ok(reply) = replies.try_recv() {
        renderer.reply(ui, &reply);
    }
}
