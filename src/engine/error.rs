//! Why a call failed, and what the user may do about it.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonic::{Code, Status};

/// A call failed.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("cannot reach containerd at {}", address.display())]
    Unreachable {
        address: PathBuf,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("{what} does not exist")]
    NotFound { what: String },
    #[error("{what} exists already")]
    AlreadyExists { what: String },
    /// `message` is containerd's own text.
    #[error("cannot {operation}: {message}")]
    Call {
        operation: String,
        message: String,
        code: Code,
    },
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// Whether it says no more than that containerd is away, as while it restarts.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Call { code, .. } => matches!(code, Code::Unavailable | Code::Cancelled),
            Self::NotFound { .. } | Self::AlreadyExists { .. } | Self::Io { .. } => false,
        }
    }

    /// What the user may do about it; often empty.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Unreachable { address, source } => unreachable_hints(address, source.as_ref()),
            Self::Call { message, .. } => call_hints(message),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                vec!["run as root".into()]
            }
            Self::NotFound { .. } | Self::AlreadyExists { .. } | Self::Io { .. } => Vec::new(),
        }
    }

    /// Whether a task could not be made because of one that containerd is still cleaning up.
    pub(crate) fn meets_remains(&self) -> bool {
        match self {
            Self::AlreadyExists { .. } => true,
            Self::Call { message, .. } => {
                // The second and third: the folder of the new task went with the remains of the old one. The others: its
                // shim was taken for the new one, and ended.
                message.contains("mkdir") && message.contains("file exists")
                    || message.contains("start shim") && message.contains("no such file")
                    || message.contains("mkdir") && message.contains("rootfs: no such file")
                    || message.contains("start shim") && message.contains("connection refused")
                    || message.contains("create shim task: ttrpc: closed")
            }
            _ => false,
        }
    }

    /// The folder that a new task was to have, where there is one already.
    pub(super) fn folder_in_the_way(&self) -> Option<&Path> {
        let Self::Call { message, .. } = self else {
            return None;
        };
        let (_, rest) = message.split_once("mkdir ")?;
        let (path, _) = rest.split_once(": file exists")?;
        Some(Path::new(path))
    }

    /// Sorts the outcome of a call on an existing object, `what`, as ``container `x` ``.
    pub(super) fn about(address: &Path, operation: &str, what: &str, status: &Status) -> Self {
        match status.code() {
            Code::NotFound => Self::NotFound { what: what.into() },
            Code::AlreadyExists => Self::AlreadyExists { what: what.into() },
            _ => Self::from_status(address, operation, status),
        }
    }

    /// Sorts the outcome of a call in which "not found" may mean anything.
    pub(super) fn from_status(address: &Path, operation: &str, status: &Status) -> Self {
        // Only a failed transport leaves a source; what containerd answers has none.
        if let Some(cause) = status.source() {
            return Self::Unreachable {
                address: address.into(),
                source: transport_cause(cause),
            };
        }
        Self::Call {
            operation: operation.into(),
            message: status.message().to_owned(),
            code: status.code(),
        }
    }

    pub(super) fn io(operation: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            operation: operation.into(),
            source,
        }
    }
}

/// The innermost cause, as the layers above it say no more than "transport error".
fn transport_cause(error: &(dyn StdError + 'static)) -> Box<dyn StdError + Send + Sync> {
    let mut current = error;
    loop {
        if let Some(found) = current.downcast_ref::<io::Error>()
            && let Some(code) = found.raw_os_error()
        {
            return Box::new(io::Error::from_raw_os_error(code));
        }
        match current.source() {
            Some(next) => current = next,
            None => return current.to_string().into(),
        }
    }
}

fn unreachable_hints(address: &Path, source: &(dyn StdError + 'static)) -> Vec<String> {
    let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::NotFound) => vec![format!(
            "there is no socket at `{}`; is containerd installed and running? \
             `--address` or `CONTAINERD_ADDRESS` names another socket",
            address.display()
        )],
        Some(io::ErrorKind::PermissionDenied) => {
            vec!["the socket belongs to root; run as root".into()]
        }
        Some(io::ErrorKind::ConnectionRefused) => vec![
            "the socket is there but nobody listens: containerd has stopped; \
             start it, for example with `systemctl start containerd`"
                .into(),
        ],
        _ => Vec::new(),
    }
}

/// Known texts of containerd and the runtimes below it.
fn call_hints(message: &str) -> Vec<String> {
    const TABLE: [(&[&str], &str); 6] = [
        (
            &["cgroups in hybrid mode not supported"],
            "crun wants every controller on cgroup v1; `mkdir -p /sys/fs/cgroup/hugetlb && \
             mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb` moves the one that is left, \
             or use runc",
        ),
        (
            &["overlay", "invalid argument"],
            "this file system cannot carry an overlay (as in a container); \
             use the `native` snapshotter or put containerd's root on another disk",
        ),
        (
            &["snapshotter", "not loaded"],
            "containerd does not offer this snapshotter; `ctr plugins ls` lists those it has",
        ),
        (
            &["runc", "executable file not found"],
            "install runc, or name another OCI runtime",
        ),
        (
            &["crun", "executable file not found"],
            "install crun, or use runc",
        ),
        (&["no space left on device"], "the disk is full"),
    ];
    TABLE
        .iter()
        .filter(|(words, _)| words.iter().all(|word| message.contains(word)))
        .map(|(_, hint)| (*hint).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_containerd_keeps_its_text() {
        let error = EngineError::from_status(
            Path::new("/x.sock"),
            "start `a`",
            &Status::failed_precondition("cannot start a stopped process"),
        );
        assert_eq!(
            error.to_string(),
            "cannot start `a`: cannot start a stopped process"
        );
    }

    #[test]
    fn remains_of_an_earlier_task_are_told_from_other_failures() {
        let failed = |message: &str| EngineError::Call {
            operation: "create task `a`".into(),
            message: message.into(),
            code: Code::Unknown,
        };
        let taken = failed("failed to start shim: mkdir /run/x/a: file exists: unknown");
        assert!(taken.meets_remains());
        assert_eq!(taken.folder_in_the_way(), Some(Path::new("/run/x/a")));
        let gone =
            "failed to start shim: start failed: fork/exec /bin/shim: no such file or directory";
        assert!(failed(gone).meets_remains());
        let refused =
            "failed to start shim: start failed: dial unix /run/s/1: connect: connection refused";
        assert!(failed(refused).meets_remains());
        assert!(failed("failed to create shim task: ttrpc: closed: unknown").meets_remains());
        assert!(!failed("no space left on device").meets_remains());
    }

    #[test]
    fn an_outage_is_told_from_an_answer() {
        let error =
            |status: &Status| EngineError::from_status(Path::new("/x.sock"), "exec", status);
        assert!(error(&Status::unavailable("closed")).is_outage());
        assert!(!error(&Status::unknown("no such file")).is_outage());
        assert!(!error(&Status::not_found("no task")).is_outage());
    }

    #[test]
    fn a_missing_object_is_told_from_a_failed_call() {
        let status = Status::not_found("container \"a\": not found");
        let address = Path::new("/x.sock");
        assert!(matches!(
            EngineError::about(address, "start", "container `a`", &status),
            EngineError::NotFound { .. }
        ));
        assert!(matches!(
            EngineError::from_status(address, "create", &status),
            EngineError::Call { .. }
        ));
    }

    #[test]
    fn the_system_error_of_a_lost_connection_is_the_source() {
        let mut status = Status::unavailable("transport error");
        status.set_source(std::sync::Arc::new(io::Error::from_raw_os_error(13)));
        let error = EngineError::from_status(Path::new("/x.sock"), "list", &status);
        assert_eq!(error.hints(), ["the socket belongs to root; run as root"]);
        let source = StdError::source(&error).map(ToString::to_string);
        assert!(source.is_some_and(|text| text.starts_with("Permission denied")));
    }

    #[test]
    fn a_hybrid_hierarchy_under_crun_gets_the_mount_command() {
        let error = EngineError::Call {
            operation: "create".into(),
            message: "crun: cgroups in hybrid mode not supported, drop all controllers".into(),
            code: Code::Unknown,
        };
        assert!(error.hints()[0].contains("mount -t cgroup -o hugetlb"));
    }
}
