//! Packet scripts against one stack: crafted segments in, exactly the options that RFC 8684 asks
//! for out. Tests named `tNN_...` are rows of `docs/conformance.md`.

mod address;
mod ahead;
mod attacks;
mod bursts;
mod cases;
mod cases_opening;
mod cases_running;
mod close;
mod cookies;
mod deferred;
mod dss;
mod fallback;
mod fast_open;
mod fastclose;
mod handshake;
mod harness;
mod hostile;
mod info;
mod join;
mod legal;
mod lies;
mod memory;
mod mtu;
mod musts;
mod paths;
mod shards;
mod signals;
mod silence;
mod suites;
mod transparent;
