//! Noticing that files have changed, and what follows from it.
//!
//! Everything here is level-triggered: an event of the kernel only says "look again". What is there is compared with what
//! was there at the last look, so that a lost event, a replaced folder or a file written before its folder was watched
//! makes no difference.

mod error;
mod inputs;
mod reload;
mod source;

pub use error::WatchError;
pub use reload::Reloader;
