//! The first process of a container with `init: true`: starts the command, passes signals on to it, collects every
//! process that ends, and ends as the command does.
//!
//! A program by itself, compiled by `build.rs` as a small static binary without any crate, so that it runs in any image.

use std::ffi::{OsString, c_int};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// As large as the C libraries' own.
type SignalSet = [u64; 16];

unsafe extern "C" {
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn sigdelset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setpgid(pid: c_int, group: c_int) -> c_int;
    fn getpgrp() -> c_int;
    fn tcsetpgrp(terminal: c_int, group: c_int) -> c_int;
}

const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIG_SETMASK: c_int = 2;
const SIGCHLD: c_int = 17;
const SIGTTIN: c_int = 21;
const SIGTTOU: c_int = 22;
/// Faults of this program itself (ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS), and those of terminal access.
const NOT_FORWARDED: [c_int; 9] = [4, 5, 6, 7, 8, 11, 31, SIGTTIN, SIGTTOU];
const WNOHANG: c_int = 1;
const PR_SET_CHILD_SUBREAPER: c_int = 36;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = arguments.next();
    if command.as_ref().is_some_and(|argument| argument == "--") {
        command = arguments.next();
    }
    let Some(command) = command else {
        eprintln!("init: no command");
        return ExitCode::from(2);
    };
    let (signals, before) = block_signals();
    // SAFETY: a plain system call. With `pid: host` this is not process 1, and orphans still have to come here.
    unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1) };
    match start(&command, arguments.collect(), before) {
        Ok(child) => ExitCode::from(attend(child, &signals)),
        Err(error) => {
            eprintln!("init: exec {}: {error}", command.display());
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => 127,
                io::ErrorKind::PermissionDenied => 126,
                _ => 128,
            })
        }
    }
}

/// Leaves all signals pending, to be taken one by one. Returns them, and those that were blocked before.
fn block_signals() -> (SignalSet, SignalSet) {
    let (mut set, mut before) = ([0; 16], [0; 16]);
    // SAFETY: the sets are large enough, and outlive the calls.
    unsafe {
        sigfillset(&raw mut set);
        for number in NOT_FORWARDED {
            sigdelset(&raw mut set, number);
        }
        sigprocmask(SIG_SETMASK, &raw const set, &raw mut before);
    }
    (set, before)
}

/// Starts the command with the signals of before, in the foreground process group of the terminal, if there is one.
fn start(
    command: &OsString,
    arguments: Vec<OsString>,
    signals: SignalSet,
) -> io::Result<c_int> {
    let foreground = move || {
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            if setpgid(0, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            signal(SIGTTOU, SIG_IGN);
            // Fails without a terminal, which is as good.
            tcsetpgrp(0, getpgrp());
            signal(SIGTTOU, SIG_DFL);
            sigprocmask(SIG_SETMASK, &raw const signals, std::ptr::null_mut());
        }
        Ok(())
    };
    let mut command = Command::new(command);
    command.args(arguments);
    // SAFETY: the closure neither allocates nor locks.
    unsafe { command.pre_exec(foreground) };
    let child = command.spawn()?;
    c_int::try_from(child.id()).map_err(io::Error::other)
}

/// Waits for the end of `child` and gives the code to end with.
fn attend(child: c_int, signals: &SignalSet) -> u8 {
    loop {
        let mut number = 0;
        // SAFETY: both pointers are valid for the call.
        if unsafe { sigwait(signals, &raw mut number) } != 0 {
            continue;
        }
        if number != SIGCHLD {
            // SAFETY: a plain system call; the child is not reaped yet, so the id is still its own.
            unsafe { kill(child, number) };
            continue;
        }
        loop {
            let mut status = 0;
            // SAFETY: the pointer is valid for the call.
            let ended = unsafe { waitpid(-1, &raw mut status, WNOHANG) };
            if ended <= 0 {
                break;
            }
            if ended == child {
                return exit_code(status);
            }
        }
    }
}

/// What a shell would say of a wait status: the exit code, or 128 and the signal.
fn exit_code(status: c_int) -> u8 {
    let code = match status & 0x7f {
        0 => status >> 8 & 0xff,
        number => 128 + number,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
