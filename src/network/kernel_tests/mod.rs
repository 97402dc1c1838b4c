//! Tests on the real kernel. Each runs as root in a network and a mount namespace of its own, which it takes for the
//! host; an uplink leads to another namespace that plays the world outside.

mod isolation;
mod lifecycle;
mod plugins;
mod published;
mod repair;
mod sandboxes;
mod world;
