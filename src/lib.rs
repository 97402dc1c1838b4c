//! Runs Compose projects straight on containerd.
//!
//! The rooms follow the way of the data; see `docs/architecture.md`.

pub mod cli;
pub mod load;
pub mod model;
pub mod yaml;
