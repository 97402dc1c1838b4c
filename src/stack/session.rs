//! A conversation with a process in a container.

use std::fs::File;

use super::StackError;

/// What a session tells.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// What was written in a short while may be missing.
    Gap,
    /// The exit code; nothing follows.
    Exited(u32),
}

/// One side of a conversation. Dropping it does not end the process.
pub trait Session {
    /// What the process writes, then its exit code. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<SessionOutput, StackError>>;

    /// Our end of the process' standard input; none if it is not connected. Closing it and [`Session::close_stdin`] end
    /// the input.
    fn take_stdin(&mut self) -> Option<File>;

    fn close_stdin(&mut self) -> impl Future<Output = Result<(), StackError>>;

    fn resize(&mut self, columns: u32, rows: u32) -> impl Future<Output = Result<(), StackError>>;

    fn kill(&mut self, signal: u32) -> impl Future<Output = Result<(), StackError>>;
}
