//! What the user types and sees.

pub mod commands;
pub mod diagnostics;
