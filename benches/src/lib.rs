//! What the benchmark programs share.
#![forbid(unsafe_code)]

pub mod netns;
