//! Processes that outlive us.

use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::Mode;
use rustix::io::FdFlags;

/// Makes `command` start in a session of its own, with `umask` and none of our descriptors but its stdio.
pub(crate) fn detach(command: &mut Command, umask: u32) {
    let last = highest_descriptor();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_bits_truncate(umask));
        for number in 3..=last {
            // SAFETY: the number is used for this one call, which fails on a descriptor that is not open.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let _not_open = rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes plain system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// The largest number of our open descriptors; those that appear later are close-on-exec by the standard library.
fn highest_descriptor() -> i32 {
    std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .max()
        .unwrap_or(1024)
}
