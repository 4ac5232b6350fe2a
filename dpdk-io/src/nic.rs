//! What the loop asks of ports, so that it runs over DPDK queues and over test doubles alike.

use mptcp_core::buf::{PacketBuf, PortId};

/// Frames received at once from a queue.
pub const BURST: usize = 32;

/// What became of a frame handed to [`Nic::push`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits to be sent.
    Queued,
    /// The queue is full; the frame is gone.
    Full,
    /// No descriptor or buffer was left for it; the frame is gone.
    NoMemory,
    /// The port takes one segment only and the frame does not fit into one; it is gone.
    TooLong,
}

/// What [`Nic::receive`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Frames that arrived.
    pub frames: usize,
    /// Those of them, or of their parts, that no buffer could hold; they are gone.
    pub no_buffer: usize,
    /// Frames that were several segments before the port joined them.
    pub pieces: usize,
    /// The parts, one for each buffer, that these were taken apart into.
    pub parts: usize,
}

/// What [`Nic::flush`] moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Frames the port took.
    pub sent: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Frames the driver refused for good; they are gone.
    pub refused: usize,
    /// Frames made from several that were queued, for the port to cut.
    pub pieces: usize,
    /// The frames that those were made from.
    pub joined: usize,
}

/// One shard's queues on every port.
pub trait Nic<B: PacketBuf> {
    /// Ports, numbered from 0.
    fn ports(&self) -> u8;
    /// Appends what arrived on `port`, at most [`BURST`] frames per queue.
    fn receive(&mut self, port: PortId, into: &mut Vec<B>) -> Received;
    /// Queues a complete frame.
    fn push(&mut self, port: PortId, frame: B) -> Pushed;
    /// Sends what `port` takes of what is queued.
    fn flush(&mut self, port: PortId) -> Flushed;
    /// Frames queued.
    fn backlog(&self, port: PortId) -> usize;
    /// Frames that still fit into the queue.
    fn room(&self, port: PortId) -> usize;
    /// Frees what is queued; returns how many frames that were.
    fn clear(&mut self, port: PortId) -> usize;
    /// An empty buffer for a packet of its own; down to the last one.
    fn alloc(&mut self) -> Option<B>;
    /// An empty buffer for data that stays; `None` while only the reserve is left.
    fn alloc_copy(&mut self) -> Option<B>;
    /// Whether every port completes TCP checksums.
    fn checksum_offload(&self) -> bool;
    /// Whether `port` sends segments that follow on each other in one piece.
    fn segmentation_offload(&self, port: PortId) -> bool;
}
