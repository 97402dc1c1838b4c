//! The copies of this program that supervisors run.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::launch::{LaunchError, cannot};
use crate::state::{StateRoot, create_private_dir};

/// Copies of the binary younger than this may belong to a supervisor that is just starting.
const COPY_GRACE: Duration = Duration::from_mins(1);

/// Copies the binary into the state folder, once per build, so that a rebuild does not pull it away from under a running
/// supervisor; returns the copy. A hard link would not do: writing to the original would fail as long as it runs.
pub(super) fn install(state: &StateRoot, original: &Path) -> Result<PathBuf, LaunchError> {
    let folder = state.data().join("bin");
    create_private_dir(&folder)?;
    if original.parent() == Some(&folder) {
        return Ok(original.into());
    }
    let failed = || cannot(format!("copy {}", original.display()));
    let mut source = File::open(original).map_err(failed())?;
    let metadata = source.metadata().map_err(failed())?;
    // Reading all of it on each launch would take longer than the launch.
    let identity = format!(
        "{}:{}:{}:{}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let digest = Sha256::digest(identity);
    let mut name = [0; 8];
    name.copy_from_slice(&digest[..8]);
    let name = format!("{:016x}", u64::from_be_bytes(name));
    let path = folder.join(format!("compose-{name}"));
    if !path.exists() {
        let own = crate::random::random_hex(8);
        let temporary = folder.join(format!(".compose-{name}.{own}"));
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&temporary)
            .map_err(failed())?;
        let placed = io::copy(&mut source, &mut copy).and_then(|_| {
            // Not in place of the copy that another made meanwhile: it may run, and would not find itself any more.
            match std::fs::hard_link(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                placed => placed,
            }
        });
        std::fs::remove_file(&temporary).ok();
        placed.map_err(failed())?;
        remove_old_copies(&folder, &path);
    }
    Ok(path)
}

/// Removes copies that nobody runs: a keeper holds a shared lock on its own. What else is there belongs to containers.
fn remove_old_copies(folder: &Path, current: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.trim_start_matches('.').starts_with("compose-") {
            continue;
        }
        let is_old = || {
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some(SystemTime::now().duration_since(modified).ok()? > COPY_GRACE)
        };
        if path == current || is_old() != Some(true) {
            continue;
        }
        let unused = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if unused && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old copy");
        }
    }
}

/// Marks the running program as used, as long as the file is open.
pub(super) fn lock_program() -> io::Result<File> {
    let file = File::open("/proc/self/exe")?;
    file.lock_shared()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateRoot) {
        let root = tempfile::tempdir().unwrap();
        let state = StateRoot::new(Some(root.path()));
        (root, state)
    }

    #[test]
    fn of_copies_that_are_made_at_once_the_first_stays() {
        let (root, state) = state();
        let original = root.path().join("compose");
        std::fs::write(&original, vec![7; 1 << 20]).unwrap();
        let install = || {
            let copy = install(&state, &original).unwrap();
            (std::fs::metadata(&copy).unwrap().ino(), copy)
        };
        let copies: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(install)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(copies.len(), 1, "{copies:?}");
        let (_, copy) = copies.first().unwrap();
        assert_eq!(std::fs::read(copy).unwrap(), vec![7; 1 << 20]);
        assert_eq!(
            std::fs::read_dir(copy.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_binary_is_copied_once_per_build_and_unused_copies_go() {
        let (root, state) = state();
        let original = root.path().join("compose");
        std::fs::write(&original, "one").unwrap();
        let first = install(&state, &original).unwrap();
        assert_eq!(install(&state, &original).unwrap(), first);
        assert_eq!(std::fs::read(&first).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&first).unwrap().mode() & 0o777, 0o700);
        assert_eq!(install(&state, &first).unwrap(), first);

        let used = state.data().join("bin/compose-used");
        let unused = state.data().join("bin/compose-unused");
        let past = SystemTime::now() - COPY_GRACE * 2;
        let init = state.data().join("bin/init-of-a-container");
        for path in [&used, &unused, &init] {
            File::create(path).unwrap().set_modified(past).unwrap();
        }
        let user = File::open(&used).unwrap();
        user.lock_shared().unwrap();
        std::fs::remove_file(&original).unwrap();
        std::fs::write(&original, "second").unwrap();
        let second = install(&state, &original).unwrap();
        assert_ne!(first, second);
        assert!(first.exists(), "it is young");
        assert!(used.exists() && init.exists() && !unused.exists());
        let left = std::fs::read_dir(state.data().join("bin")).unwrap().count();
        assert_eq!(left, 4);
    }
}
