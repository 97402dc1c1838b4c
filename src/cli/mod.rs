//! The command line: one file per command, and the only room that prints.

mod commands;
mod detach;
mod diagnostics;
mod drive;
mod error;
mod globals;
mod human;
mod listing;
mod moment;
mod plan;
mod prefix;
mod print;
mod progress;
mod root;
mod session;
mod table;
mod terminal;
mod ui;

pub use root::{reference, run};
