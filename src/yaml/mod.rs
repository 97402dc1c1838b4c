//! YAML as Compose reads it: parser events become a tree of nodes that know where they were written.
//!
//! Scalars are resolved as the reference implementation resolves them, anchors, aliases and merge
//! keys are expanded within limits, `!reset` and `!override` are recorded by path. The emitter writes
//! what `docker compose config` writes. Nothing here knows what a service is.

mod composer;
mod emit;
mod events;
mod json;
mod node;
mod order;
mod scalar;
mod unclosed;

pub use composer::{Document, Error, parse};
pub use emit::{to_annotated_yaml, to_yaml};
pub use json::to_json;
pub use node::{Entry, FileId, Mapping, Node, Span, Value};
pub use order::sort_keys;
pub use scalar::{format_float, resolve_plain};
