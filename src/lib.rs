//! Runs Compose projects straight on containerd.
//!
//! The rooms follow the way of the data; see `docs/architecture.md`.

pub mod cli;
pub mod container;
pub mod engine;
mod failpoint;
pub mod graph;
pub mod image;
pub mod load;
pub mod log;
pub mod model;
pub mod network;
mod random;
pub mod reconcile;
pub mod stack;
pub mod state;
pub mod supervisor;
mod sys;
mod template;
pub mod watch;
pub mod yaml;
