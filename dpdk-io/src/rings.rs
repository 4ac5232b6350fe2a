//! Packets between the shards of one process, in bursts: what the loop asks of the rings, so that it
//! runs over DPDK's and over test doubles alike.
//!
//! Invariant: one ring leads from each shard to each other one. It has one sender and one receiver, so
//! that packets of one flow that take the same way stay in their order.

/// Packets moved into or out of one ring at a time.
pub const BURST: usize = 32;

/// Places in a ring, one of which stays empty.
pub const RING_SIZE: u32 = 1024;

/// What [`Rings::send`] moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Packets the ring took.
    pub moved: usize,
    /// Packets it had no room for; they are gone.
    pub full: usize,
    /// Packets that no descriptor was left for; they are gone.
    pub no_memory: usize,
}

/// One shard's ends of the rings.
pub trait Rings<B> {
    /// Sends packets, at most [`BURST`], to another shard; leaves `packets` empty.
    fn send(&mut self, to: usize, packets: &mut Vec<B>) -> Sent;
    /// Appends what others have sent, at most [`BURST`] packets of each; answers how many.
    fn receive(&mut self, into: &mut Vec<B>) -> usize;
}
