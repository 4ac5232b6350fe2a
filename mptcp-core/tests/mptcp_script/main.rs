//! Packet scripts against one stack: crafted segments in, exactly the options that RFC 8684 asks
//! for out. Tests named `tNN_...` are rows of `docs/conformance.md`.

mod address;
mod attacks;
mod close;
mod dss;
mod fallback;
mod handshake;
mod harness;
mod hostile;
mod join;
