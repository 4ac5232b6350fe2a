//! Packet scripts: one stack, crafted segments in, exact segments out, at virtual times. Each file
//! is one topic of RFC 9293 and the documents around it.

mod closing;
mod handshake;
mod harness;
