//! Datagram sockets: two stacks back to back, every packet on the wire judged by smoltcp, and packets
//! made by hand.

mod bind;
mod bounds;
mod errors;
mod exchange;
mod fragments;
mod harness;
mod packets;
