//! Why files cannot be watched.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum WatchError {
    #[error("cannot watch files")]
    Start(#[source] notify::Error),
    #[error("cannot watch {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
}

impl WatchError {
    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        let (Self::Start(error) | Self::Folder { source: error, .. }) = self;
        let limit = match &error.kind {
            notify::ErrorKind::MaxFilesWatch => "max_user_watches",
            // inotify_init says that a user has too many instances as if it were too many files.
            notify::ErrorKind::Io(error)
                if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
            {
                "max_user_instances"
            }
            notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                "max_user_watches"
            }
            _ => return Vec::new(),
        };
        vec![format!(
            "the kernel's limit is used up; raise it with `sysctl fs.inotify.{limit}=…`"
        )]
    }
}
