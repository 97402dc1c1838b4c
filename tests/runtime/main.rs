//! Runtime tests: real containers on a real containerd, in a world of their own.
//!
//! They need root and the programs that `scripts/setup` installs; one that is missing is a failure
//! that names it.

mod api;
mod attributes;
mod changes;
mod chaos;
mod commands;
mod escapes;
mod failpoints;
mod failures;
mod faults;
mod files;
mod harness;
mod kills;
mod lifecycle;
mod live;
mod logging;
mod network;
mod registry;
mod reports;
mod resume;
mod rolling;
mod run;
mod runtimes;
mod secrets;
mod servers;
mod sharing;
mod stack;
mod turns;
mod watching;
mod world;
