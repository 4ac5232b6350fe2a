//! The driver and the stack against this machine's kernel, each test in network namespaces of its
//! own. They need root and say SKIPPED without it.

mod fast_open;
mod fragments;
mod ping;
mod service;
mod support;
mod tcp;
