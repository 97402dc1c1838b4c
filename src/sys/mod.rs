//! The few calls that the compiler cannot check.

pub(crate) mod descriptors;
