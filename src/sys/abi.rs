//! Which kinds of system calls the kernel takes.

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Set in the numbers of x32's calls; `__X32_SYSCALL_BIT` of `asm/unistd.h`.
#[cfg(target_arch = "x86_64")]
const X32_BIT: libc::c_long = 0x4000_0000;

/// Whether processes may make calls of the x32 ABI. A child tries one: who filters our calls may end who tries.
#[cfg(target_arch = "x86_64")]
pub(crate) fn takes_x32() -> bool {
    // SAFETY: between fork and exit the child makes plain system calls only; it neither allocates nor locks.
    let child = unsafe {
        match libc::fork() {
            0 => {
                let answers = libc::syscall(X32_BIT | libc::SYS_getpid) > 0;
                libc::_exit(i32::from(!answers));
            }
            pid => Pid::from_raw(pid),
        }
    };
    let waited =
        child.and_then(|child| retry_on_intr(|| waitpid(Some(child), WaitOptions::empty())).ok());
    // Of who cannot be forked or waited for nothing is known: what may be needed is kept.
    waited
        .flatten()
        .is_none_or(|(_, status)| status.exit_status() == Some(0))
}

/// Only x86-64 has that ABI.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const fn takes_x32() -> bool {
    false
}
