//! The folder that containerd has for a task: its bundle.

use std::io;
use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

use super::{Engine, EngineError};

/// The folder of all bundles, below the state folder of containerd.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

impl Engine {
    /// Removes the bundle that is in the way of a task, as `refusal` says, if no shim works on it: containerd was killed, and
    /// does not remember it until its next start. Whether there was one.
    pub fn remove_forgotten_bundle(&self, id: &str, refusal: &EngineError) -> bool {
        let Some(bundle) = refusal.folder_in_the_way() else {
            return false;
        };
        // The path is containerd's word; nothing but such a bundle is ever removed.
        let is_bundle = bundle.ends_with(Path::new(BUNDLES).join(self.namespace()).join(id));
        if !is_bundle || Self::has_shim_process(id) {
            return false;
        }
        match remove(bundle) {
            Ok(()) => {
                tracing::info!(id, bundle = %bundle.display(), "removed a bundle that containerd has forgotten");
                true
            }
            Err(error) => {
                tracing::warn!(id, bundle = %bundle.display(), %error, "cannot remove a forgotten bundle");
                false
            }
        }
    }
}

/// Removes the files of a bundle. What is mounted in it is only unmounted, and what is in other folders stays.
fn remove(bundle: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    while unmount(bundle.join("rootfs"), flags).is_ok() {}
    for entry in std::fs::read_dir(bundle)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_with_the_files_of_a_container_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("bundle");
        std::fs::create_dir_all(bundle.join("rootfs/etc")).expect("made");
        std::fs::write(bundle.join("config.json"), "{}").expect("written");
        remove(&bundle).expect_err("a root file system that is no mount is there");
        assert!(bundle.join("rootfs/etc").exists());
        std::fs::remove_dir(bundle.join("rootfs/etc")).expect("removed");
        remove(&bundle).expect("removed");
        assert!(!bundle.exists());
    }
}
