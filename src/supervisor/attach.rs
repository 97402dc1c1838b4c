//! Commands that are attached to a container: its output goes to them as it comes, and their wishes to it.

use std::sync::Arc;
use std::time::Duration;

use super::frame::{Connection, FrameError};
use super::protocol::{Control, Reply, STDERR, STDOUT};
use super::unit::{Attachment, Command, UnitHandle};
use super::worker::Worker;
use crate::log::Origin;
use crate::log::tap::Chunk;

/// Time in which a command that lost its supervisor is back.
const GRACE: Duration = Duration::from_secs(3);

/// Time for the removal of a container before its command ends.
const REMOVAL: Duration = Duration::from_secs(20);

/// Exit code of a run whose end nobody saw.
const LOST: u32 = 137;

/// A command's hold on a container.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) unit: UnitHandle,
    pub(super) attachment: Attachment,
}

/// Serves one command until the container has ended or the command goes.
pub(super) async fn serve(worker: &Arc<Worker>, attached: Attached, connection: Connection) {
    let Attached { unit, attachment } = attached;
    let (mut reader, mut writer) = connection;
    let send = async |writer: &mut super::frame::FrameWriter<_>, chunk: Chunk| {
        let kind = match chunk.origin {
            Origin::Stdout => STDOUT,
            Origin::Stderr => STDERR,
        };
        writer.send_raw(kind, &chunk.bytes).await
    };
    let tell = async {
        let id = unit.id.clone();
        writer.send(&Reply::Started { id }).await?;
        let status = loop {
            tokio::select! {
                biased;
                // Cancel-safe by contract.
                chunk = attachment.tap().next() => send(&mut writer, chunk).await?,
                // Cancel-safe by contract.
                status = unit.ended() => break status,
            }
        };
        // Nothing comes after the news of the end.
        while let Some(chunk) = attachment.tap().take() {
            send(&mut writer, chunk).await?;
        }
        if unit.auto_remove {
            let removed = tokio::time::timeout(REMOVAL, unit.removed()).await;
            if removed.is_err() {
                tracing::warn!(container = unit.name, "it is not removed yet");
            }
        }
        let code = status.exit.map_or(LOST, |exit| exit.code);
        writer.send(&Reply::Ended { code }).await
    };
    let listen = async {
        while let Ok(Some(control)) = reader.next::<Control>().await {
            if control == Control::Detach {
                let attend = |reply| Command::Attend {
                    attended: false,
                    reply,
                };
                if let Err(error) = unit.ask(attend).await {
                    tracing::warn!(%error, "cannot let a command go");
                }
                return;
            }
            obey(worker, &unit, control).await;
        }
        if unit.one_off {
            // What it was given to read has ended with whoever gave it.
            unit.send(Command::CloseStdin).await;
        }
    };
    tokio::select! {
        // Neither is asked again.
        result = tell => {
            let result: Result<(), FrameError> = result;
            if let Err(error) = result {
                tracing::debug!(%error, container = unit.name, "lost who was attached");
            }
        }
        () = listen => {}
    }
}

async fn obey(worker: &Worker, unit: &UnitHandle, control: Control) {
    let engine = &worker.shared.containers.engine;
    let id = unit.id.as_str();
    let done = match control {
        Control::Resize { columns, rows } => engine.resize(id, "", columns, rows).await,
        Control::Signal { number } => {
            if let Err(error) = worker.kill(id, number).await {
                tracing::debug!(%error, number, "cannot pass a signal on");
            }
            Ok(())
        }
        Control::CloseStdin => {
            unit.send(Command::CloseStdin).await;
            Ok(())
        }
        Control::Detach => Ok(()),
    };
    if let Err(error) = done {
        tracing::debug!(%error, container = unit.name, "cannot do what a command asks");
    }
}

/// Sees a one-off off: removes it when it has ended if it is to go then, and ends it if the command that waited for that
/// has gone.
pub(super) async fn see_off(worker: Arc<Worker>, unit: UnitHandle) {
    let mut status = unit.status.clone();
    let mut attached = unit.attached();
    // Before it has looked at its container, it does not know whether that runs.
    let settled = unit.ask(|reply| Command::Settle { reply }).await;
    if let Err(error) = settled {
        tracing::debug!(%error, container = unit.name, "cannot see it off");
    }
    // Without a result: the unit is gone, and there is nobody to see off.
    let has_ended = async {
        let ended = status.wait_for(|status| status.was_started && !status.running);
        ended.await.is_ok()
    };
    let has_ended = tokio::select! {
        // Cancel-safe: nothing is consumed.
        has_ended = has_ended => has_ended,
        // Cancel-safe: nothing is consumed.
        () = abandoned(&unit) => {
            unit.send(Command::CloseStdin).await;
            if unit.auto_remove {
                end(&unit).await;
            }
            true
        }
    };
    if !has_ended {
        return;
    }
    if !unit.auto_remove {
        return;
    }
    if unit.status.borrow().attended {
        // A command that lost its supervisor comes back for the exit code.
        let back = attached.wait_for(|count| *count > 0);
        drop(tokio::time::timeout(GRACE, back).await);
    }
    worker.remove_one_off(&unit).await;
}

async fn end(unit: &UnitHandle) {
    tracing::warn!(container = unit.name, "its command is gone; it is stopped");
    let stop = |reply| Command::Stop {
        timeout: None,
        keep_sandbox: false,
        reason: "its command is gone".into(),
        reply,
    };
    if let Err(error) = unit.ask(stop).await {
        tracing::error!(%error, container = unit.name, "cannot stop it");
    }
}

/// Returns when the command in the foreground that started a container is gone.
async fn abandoned(unit: &UnitHandle) {
    let mut attached = unit.attached();
    let mut status = unit.status.clone();
    loop {
        // Neither can fail as long as the unit is there; without it there is nothing to wait for.
        let is_over = attached.wait_for(|count| *count == 0).await.is_err();
        let is_gone = status.wait_for(|status| status.attended).await.is_err();
        if is_over || is_gone {
            return std::future::pending().await;
        }
        let back = attached.wait_for(|count| *count > 0);
        let is_back = tokio::time::timeout(GRACE, back).await.is_ok();
        if !is_back && unit.status.borrow().attended {
            return;
        }
    }
}
