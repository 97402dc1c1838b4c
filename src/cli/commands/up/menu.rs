//! Keys that an attached `up` listens to, as docker compose does.

use std::io::{Read as _, stdin};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::terminal::{RawMode, is_ours};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Leave the containers to themselves.
    Detach,
    /// Begin or end to follow the files.
    Watch,
    /// A line between what was and what comes.
    Blank,
}

impl Key {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'd' => Some(Self::Detach),
            b'w' => Some(Self::Watch),
            b'\n' | b'\r' => Some(Self::Blank),
            _ => None,
        }
    }
}

/// The keyboard, until this is dropped.
#[derive(Debug)]
pub(super) struct Menu {
    keys: UnboundedReceiver<Key>,
    _mode: RawMode,
}

impl Menu {
    /// What the keys do, in a line.
    pub(super) const HELP: &str = "w Toggle Watch   d Detach";

    /// None without a keyboard: standard input is no terminal, or another program's at the moment.
    pub(super) fn open() -> Option<Self> {
        if !is_ours() {
            return None;
        }
        let mode = RawMode::keys().ok()?;
        let (sender, keys) = unbounded_channel();
        // A read that blocks must not hold up the end of the command.
        std::thread::spawn(move || {
            let pressed = stdin().lock().bytes().map_while(Result::ok);
            for key in pressed.filter_map(Key::of) {
                if sender.send(key).is_err() {
                    return;
                }
            }
        });
        Some(Self { keys, _mode: mode })
    }

    /// The next key; never if there is no keyboard. Cancel-safe.
    pub(super) async fn next(menu: &mut Option<Self>) -> Key {
        let key = match menu {
            Some(menu) => menu.keys.recv().await,
            None => None,
        };
        match key {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}
