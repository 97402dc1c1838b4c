//! Namespaces of the calling thread.

use std::io;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a mount namespace of its own, from which nothing propagates back. It ends with the thread,
/// so call it on a short-lived one. The thread's working directory is then its own, too.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: the flags concern mounts and the working directory only; no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Gives the calling thread a network namespace of its own. Other threads keep theirs, so call it on a thread that
/// ends soon.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: without `UnshareFlags::FILES` the table of descriptors stays shared among all threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
