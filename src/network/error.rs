//! Errors of this room, and what to do about them.

use std::error::Error;
use std::io;

use super::NetworkError;

/// Wraps an I/O error with what was tried.
pub(super) fn io_failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let operation = operation.into();
    move |source| NetworkError::Io { operation, source }
}

/// Wraps a refusal of the kernel with what was tried.
pub(super) fn netlink_failed<E: Error + Send + Sync + 'static>(
    operation: impl Into<String>,
) -> impl FnOnce(E) -> NetworkError {
    let operation = operation.into();
    move |source| NetworkError::Netlink {
        operation,
        source: Box::new(source),
    }
}

pub(super) fn invalid(what: impl Into<String>, value: impl Into<String>) -> NetworkError {
    NetworkError::Invalid {
        what: what.into(),
        value: value.into(),
    }
}
