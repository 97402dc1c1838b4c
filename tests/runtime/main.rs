//! Runtime tests: real containers on a real containerd, in a world of their own.
//!
//! They need root and the programs that `scripts/setup` installs; one that is missing is a failure
//! that names it.

mod attributes;
mod changes;
mod commands;
mod escapes;
mod failures;
mod faults;
mod files;
mod harness;
mod kills;
mod lifecycle;
mod live;
mod network;
mod registry;
<<<<<<< HEAD
mod run;
=======
mod resume;
>>>>>>> 638b3ca (Bring projects back with resume, and at boot with autostart)
mod runtimes;
mod secrets;
mod sharing;
mod stack;
mod watching;
mod world;
