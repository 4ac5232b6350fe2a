//! What the benchmark programs share.
#![forbid(unsafe_code)]

pub mod interrupt;
pub mod netns;
