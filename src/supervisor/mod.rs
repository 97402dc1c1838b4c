//! What owns a running project: the queue of requests, restarts, health probes, DNS answers, logs.
//!
//! Two processes of this binary: the keeper holds descriptors that must not vanish and restarts the worker; the worker
//! holds all logic.

mod attach;
pub mod autostart;
mod dns;
mod effects;
mod exec;
pub mod frame;
mod health;
pub mod history;
pub mod hold;
pub mod keeper;
pub mod launch;
pub mod live;
pub mod lock;
mod pace;
pub mod planning;
pub mod process;
mod program;
pub mod protocol;
mod relay;
mod request;
mod restart;
mod revival;
mod shared;
mod tenants;
mod unit;
mod wait;
pub mod worker;
