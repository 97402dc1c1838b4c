//! Boundaries between effects, at which a test can have this process killed. A release build has none.

/// The end of one effect and the beginning of the next, by a name for the test.
///
/// The file `failpoint` among the run files says at how many further boundaries this process is killed; which ones were
/// reached is appended to `failpoint.reached`.
#[cfg(debug_assertions)]
pub(crate) fn boundary(name: &str) {
    use std::fs;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    /// Steps are taken side by side.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let state = crate::state::StateRoot::from_environment();
    let armed = state.run().join("failpoint");
    let Some(left) = fs::read_to_string(&armed)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return;
    };
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(state.run().join("failpoint.reached"));
    if let Ok(mut log) = log {
        writeln!(log, "{name}").ok();
    }
    if left > 1 {
        fs::write(&armed, (left - 1).to_string()).ok();
        return;
    }
    fs::remove_file(&armed).ok();
    kill_process(getpid(), Signal::KILL).ok();
}

#[cfg(not(debug_assertions))]
pub(crate) const fn boundary(_name: &str) {}
