//! The Compose model as plain data: what a project asks for, after interpolation, merge and normalisation.
//!
//! Types here know nothing of files, containerd or the terminal. Where a value came from is kept beside the
//! model, in [`Provenance`], so that two services compare by value alone.

mod deploy;
mod hash;
mod port;
mod project;
mod quantity;
mod resource;
mod service;
mod signal;
mod storage;
mod words;

pub use deploy::*;
pub use hash::config_hash;
pub use port::*;
pub use project::*;
pub use quantity::*;
pub use resource::*;
pub use service::*;
pub use signal::parse_signal;
pub use storage::*;
pub use words::*;
