//! Runs Compose projects straight on containerd.
//!
//! The rooms follow the way of the data; see `docs/architecture.md`.

pub mod engine;
pub mod image;
pub mod model;
pub mod network;
pub mod state;
mod sys;
