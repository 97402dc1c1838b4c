//! Noticing that files have changed, and what follows from it.
//!
//! Everything here is level-triggered: an event of the kernel only says "look again". What is there is compared with what
//! was there at the last look, so that a lost event, a replaced folder or a file written before its folder was watched
//! makes no difference.

mod debounce;
mod develop;
mod error;
mod ignore;
mod inputs;
mod reload;
mod source;
mod tree;

pub use develop::{Action, Batch, Changed, Develop, RuleError};
pub use error::WatchError;
pub use reload::Reloader;
