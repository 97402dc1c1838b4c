//! From what is wanted and what is there to a plan, and from the plan to the world.

pub mod apply;
pub mod contents;
mod definition;
pub mod desired;
pub mod diff;
pub mod failure;
pub mod names;
pub mod observe;
pub mod plan;
pub mod prepare;
pub mod providers;
pub mod pulls;
mod reason;
mod sandbox;
pub mod update;
