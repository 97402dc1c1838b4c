//! One module a command.

pub mod config;
