//! Multipath TCP (RFC 8684) and the TCP under it (RFC 9293), sans-IO.
//!
//! The crate names no clock, no socket and no thread: `now` is an argument, randomness comes from a
//! seed, packets come in and go out as owned [`buf::PacketBuf`]s holding IP packets. The same code
//! therefore runs in a deterministic simulator, over a TUN device and on DPDK ports.
//!
//! ICMP, IPv4 and IPv6 are understood as far as connections need them; link layers are the driver's.
//! Whatever a peer decides the number of has a limit in [`config::Limits`]. [`stats`] counts,
//! [`stack::Stack::info`] tells about one connection, and [`event_log`] why it went as it did.
//!
//! Start at [`stack::Stack`]; protocol engineers who only want the codecs start at [`wire`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod buf;
pub mod cap;
pub mod config;
pub mod driver;
pub mod error;
pub mod event_log;
pub mod fragments;
pub mod mptcp;
pub mod pcapng;
pub mod rng;
pub mod segmentation;
pub mod seq;
pub mod stack;
pub mod stats;
pub mod steering;
pub mod tcp;
pub mod time;
pub mod udp;
pub mod util;
pub mod wire;
