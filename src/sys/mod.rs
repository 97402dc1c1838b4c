//! What needs `unsafe`, and nothing else.
#![expect(
    unsafe_code,
    reason = "the one room that opts in; each block says why it is sound"
)]

pub(crate) mod descriptors;
mod detach;
mod namespace;

pub use detach::detach;
pub use namespace::unshare_mounts;
