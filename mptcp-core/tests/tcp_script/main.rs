//! Packet scripts: one stack, crafted segments in, exact segments out, at virtual times. Each file
//! is one topic of RFC 9293 and the documents around it.

#![expect(clippy::unwrap_used, reason = "a harness that fails is a test that fails")]

mod acks;
mod attacks;
mod bursts;
mod calls;
mod closing;
mod deferred;
mod ecn;
mod fast_open;
mod handshake;
mod harness;
mod icmp;
mod liveness;
mod marking;
mod mtu;
mod options;
mod ports;
mod receiving;
mod sending;
mod stack;
mod states;
mod suites;
mod urgent;
