//! Owned, reference-counted views of packet memory, and where outgoing packets go.
//!
//! Invariant: bytes reachable through a shared view never change; `data_mut` answers `None` while
//! another view of the same memory exists, because a NIC may be reading it.

mod heap;

pub use heap::{HEADROOM, HeapBuf, HeapPool, HeapTxQueue};

use core::ops::Range;

/// What the receiving port found out about a packet's L4 checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RxChecksum {
    /// Not looked at: the stack verifies in software.
    #[default]
    Unknown,
    /// The port verified it.
    Good,
    /// The port found it wrong.
    Bad,
}

/// What a packet's port says about it on the way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxMeta {
    /// The access port it came in on (`PortId`); replies of the flow leave there.
    pub port: PortId,
    /// Result of receive checksum offload.
    pub checksum: RxChecksum,
}

/// What a port must do with a packet on the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxMeta {
    /// The port it must leave by; [`PortId::ROUTED`] leaves the choice to the routing table.
    pub port: PortId,
    /// The TCP checksum field holds the pseudo-header sum only; the port (or the driver's software
    /// fallback) completes it. Only set when [`TxQueue::checksum_offload`] says so.
    pub partial_checksum: bool,
}

/// Index of an access port, in configuration order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

impl PortId {
    /// No particular port: the route to the destination decides.
    pub const ROUTED: Self = Self(u8::MAX);
}

impl Default for PortId {
    fn default() -> Self {
        Self::ROUTED
    }
}

impl core::fmt::Debug for PortId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if *self == Self::ROUTED { f.write_str("routed") } else { write!(f, "port{}", self.0) }
    }
}

/// One owned view of reference-counted packet memory.
///
/// Views the stack receives are contiguous. Only a packet on its way out may be chained: its
/// `data()` is then the header segment.
pub trait PacketBuf: Sized + 'static {
    /// The bytes of this view (of its first segment when chained).
    fn data(&self) -> &[u8];
    /// How many those are.
    fn data_len(&self) -> usize {
        self.data().len()
    }
    /// The same bytes for writing; `None` while the memory is shared.
    fn data_mut(&mut self) -> Option<&mut [u8]>;
    /// A second view of part of the same memory; copies nothing. `range` is clamped to the view.
    fn slice(&self, range: Range<usize>) -> Self;
    /// Drops `n` bytes at the front (all of them when `n` is larger).
    fn trim_front(&mut self, n: usize);
    /// Keeps the first `len` bytes; no effect when the view is shorter.
    fn truncate(&mut self, len: usize);
    /// Grows the view by `n` bytes at the front, to be written by the caller; `None` when the
    /// headroom is too small or the memory is shared.
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Grows the view by `n` bytes at the end, to be written by the caller; `None` when the
    /// tailroom is too small or the memory is shared.
    fn append(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Appends `payload` behind this view as a further segment; implementations that cannot chain
    /// copy it. Only for packets on their way out.
    fn chain(&mut self, payload: Self);
    /// Bytes of the whole packet, all segments.
    fn packet_len(&self) -> usize;
    /// Bytes of memory this view keeps from being reused.
    fn truesize(&self) -> usize;
    /// The [sum](crate::wire::checksum::sum) of `data()`, where it was noted.
    fn noted_sum(&self) -> Option<u16> {
        None
    }
    /// Notes that `sum` is that of `data()`. Whatever changes the view or its bytes forgets it; a slice of
    /// all of it knows it, too. Where it is not kept it is worked out again.
    fn note_sum(&mut self, sum: u16) {
        let _ = sum;
    }
    /// What the receiving port said.
    fn rx_meta(&self) -> RxMeta;
    /// Makes it a packet that came in on `port`, which said nothing of its checksum.
    fn set_rx_port(&mut self, port: PortId);
    /// Tells the sending port what to do.
    fn set_tx_meta(&mut self, meta: TxMeta);
    /// What was set with [`PacketBuf::set_tx_meta`].
    fn tx_meta(&self) -> TxMeta;
}

/// Where empty buffers come from. `None` when the pool is exhausted, never a growth.
pub trait BufPool<B: PacketBuf> {
    /// An empty buffer with at least 128 bytes of headroom and room for one MTU behind it.
    fn alloc(&mut self) -> Option<B>;
    /// An empty buffer with room for `len` octets, more than one MTU and at most 65,575: for what was in fragments or
    /// goes in some. It may have no headroom. `None` when there is none, or never one so long.
    fn alloc_long(&mut self, len: usize) -> Option<B> {
        let _ = len;
        None
    }
    /// True while only a reserve is left of the memory that received packets come from. Segments
    /// then lose their text before it is acknowledged, so that acknowledgements, which free memory,
    /// and everything else that keeps none still get through.
    fn is_short(&self) -> bool {
        false
    }
    /// True before that, while there is room for everybody's fair share only: connections that hold
    /// more than theirs wait, so that a few stalled ones cannot stop the others.
    fn is_low(&self) -> bool {
        self.is_short()
    }
}

/// Where [`crate::stack::Stack::poll_transmit`] puts packets.
pub trait TxQueue<B: PacketBuf> {
    /// Packets that can be pushed now. How a push changes the answer is the queue's own business:
    /// whoever must know whether anything was pushed counts.
    fn room(&self) -> usize;
    /// Of those, packets that may leave by `port` ([`PortId::ROUTED`]: by whichever the routes
    /// say). A full port holds up its own packets, not those of others; a packet pushed all the same
    /// may be lost there.
    fn room_on(&self, port: PortId) -> usize {
        let _ = port;
        self.room()
    }
    /// An empty buffer with headroom for every header; `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<B>;
    /// An empty buffer for octets of several buffers in one segment; it stays until they are
    /// acknowledged. `None` while memory is short: a shorter segment goes out without a copy.
    fn alloc_copy(&mut self) -> Option<B> {
        self.alloc()
    }
    /// Takes a complete IP packet. Only called while `room() > 0`.
    fn push(&mut self, packet: B);
    /// True when ports complete TCP checksums (see [`TxMeta::partial_checksum`]).
    fn checksum_offload(&self) -> bool {
        false
    }
    /// True when `port` sends segments that follow on each other in one piece, as far as they say the same
    /// beside their text. Those of a burst then share one mapping (RFC 8684 §3.3.1).
    fn segmentation_offload(&self, port: PortId) -> bool {
        let _ = port;
        false
    }
}
