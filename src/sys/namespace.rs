//! Leaving a namespace.

use std::io;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a network namespace of its own. Other threads keep theirs, so call it on a thread that
/// ends soon.
#[expect(unsafe_code, reason = "unshare is unsafe for the flag FILES only")]
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: without `UnshareFlags::FILES` the table of descriptors stays shared among all threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
