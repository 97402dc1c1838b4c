//! The rooms of the product that read what users write, compiled from the same files but alone: they
//! need neither tokio nor containerd, so the fuzzer is built in a minute, and that they need neither
//! stays true.

#[path = "../../src/load/mod.rs"]
pub mod load;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/yaml/mod.rs"]
pub mod yaml;
