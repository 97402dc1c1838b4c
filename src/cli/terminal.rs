//! The terminal: its size, raw mode, and its way back to what it was.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Mutex;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

/// What standard input was before raw mode; whoever ends the process puts it back.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Columns and rows of the terminal on standard error, output or input; 80 and 24 without one.
pub(crate) fn size() -> (usize, usize) {
    let of = |size: io::Result<termios::Winsize>| size.ok().filter(|size| size.ws_col > 0);
    let window =
        |fd: std::os::fd::BorrowedFd<'_>| of(termios::tcgetwinsize(fd).map_err(Into::into));
    window(io::stderr().as_fd())
        .or_else(|| window(io::stdout().as_fd()))
        .or_else(|| window(io::stdin().as_fd()))
        .map_or((80, 24), |size| {
            (size.ws_col.into(), size.ws_row.max(1).into())
        })
}

/// Whether standard input is a terminal, and this process may change it: one in the background would be stopped.
pub(crate) fn is_ours() -> bool {
    termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Keeps the terminal in another mode.
///
/// The terminal is put back when this is dropped and, by a hook, before the message of a panic is printed. Whoever ends
/// the process by a signal calls [`restore`].
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Keys reach a process in a container unchanged.
    pub(crate) fn enter() -> io::Result<Self> {
        Self::change(Termios::make_raw)
    }

    /// Keys come one by one and are not shown; Ctrl-C is a signal still.
    pub(crate) fn keys() -> io::Result<Self> {
        Self::change(|mode| {
            mode.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            mode.special_codes[SpecialCodeIndex::VMIN] = 1;
            mode.special_codes[SpecialCodeIndex::VTIME] = 0;
        })
    }

    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let stdin = io::stdin();
        let original = termios::tcgetattr(&stdin)?;
        let mut raw = original.clone();
        change(&mut raw);
        *lock() = Some(original);
        install_hook();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back if it is in raw mode. A second call does nothing.
pub(crate) fn restore() {
    if let Some(original) = lock().take() {
        // Nothing is left to be done if the terminal has gone.
        termios::tcsetattr(io::stdin(), OptionalActions::Drain, &original).ok();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    ORIGINAL
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn install_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// Set in the process that panics.
    const CHILD: &str = "COMPOSE_TEST_RAW_MODE";

    #[test]
    fn a_panic_on_any_thread_puts_the_terminal_back() {
        if std::env::var_os(CHILD).is_some() {
            // The guard never gets to do it.
            std::mem::forget(RawMode::enter().unwrap());
            let thread = std::thread::spawn(|| panic!("on purpose"));
            assert!(thread.join().is_err());
            return;
        }
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let before = termios::tcgetattr(&slave).unwrap();
        let test = "cli::terminal::tests::a_panic_on_any_thread_puts_the_terminal_back";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, "1")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let after = termios::tcgetattr(&slave).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
        assert_eq!(after.input_modes, before.input_modes);
    }
}
