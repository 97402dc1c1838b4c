//! What needs `unsafe`, and nothing else.

#![expect(
    unsafe_code,
    reason = "the one room that opts in; each block says why it is sound"
)]

mod abi;
pub(crate) mod descriptors;
mod detach;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod seccomp;

pub(crate) use abi::takes_x32;
pub(crate) use detach::detach;
pub(crate) use namespace::unshare_mounts;
