//! Packet buffers on the heap, for TUN devices, simulators and tests.
//!
//! Invariant: a view is written only while it is the only one of its storage. A pool counts
//! storages, not views: what a slice keeps alive stays counted until the last slice is gone.

use super::{BufPool, PacketBuf, RxMeta, TxMeta, TxQueue};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Headroom of every buffer that does not ask for another: IPv6 (40), TCP with options (60), 60 spare.
pub const HEADROOM: usize = 160;

/// Allocation that holds a storage: the two counters of the `Arc`, then the fields.
const OVERHEAD: usize = size_of::<Storage>() + 2 * size_of::<usize>();

struct Storage {
    bytes: Vec<u8>,
    permit: Option<Permit>,
}

/// One view of a heap allocation, at most 4 GiB. `Clone` is missing on purpose: [`PacketBuf::slice`]
/// is the one way to share.
pub struct HeapBuf {
    storage: Arc<Storage>,
    start: u32,
    len: u32,
    rx_meta: RxMeta,
    tx_meta: TxMeta,
}

impl HeapBuf {
    /// A copy of `bytes` behind the usual headroom, without tailroom; belongs to no pool.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::with_capacity(HEADROOM, bytes.len());
        buf.copy_from(bytes);
        buf
    }

    /// An empty buffer that can grow by `headroom` bytes at the front and `capacity` at the end;
    /// belongs to no pool. O(headroom + capacity): the memory is zeroed.
    #[must_use]
    pub fn with_capacity(headroom: usize, capacity: usize) -> Self {
        Self::new(headroom, capacity, None)
    }

    /// Replaces the content by a copy of `bytes`, keeping the headroom; `false`, and no change, when
    /// there is no room for it behind the headroom or the memory is shared.
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        let start = self.start as usize;
        let room = Arc::get_mut(&mut self.storage)
            .and_then(|storage| storage.bytes.get_mut(start..)?.get_mut(..bytes.len()));
        match (room, u32::try_from(bytes.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(bytes);
                self.len = len;
                true
            }
            _ => false,
        }
    }

    /// What the port that received it found out.
    pub fn set_rx_meta(&mut self, meta: RxMeta) {
        self.rx_meta = meta;
    }

    /// A copy of the content. O(len).
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.data().to_vec()
    }

    fn new(headroom: usize, capacity: usize, permit: Option<Permit>) -> Self {
        let start = u32::try_from(headroom).unwrap_or(u32::MAX);
        let capacity = capacity.min((u32::MAX - start) as usize);
        Self {
            storage: Arc::new(Storage { bytes: vec![0; start as usize + capacity], permit }),
            start,
            len: 0,
            rx_meta: RxMeta::default(),
            tx_meta: TxMeta::default(),
        }
    }

    /// Where the view ends in the storage.
    const fn end(&self) -> u32 {
        self.start + self.len
    }
}

impl PacketBuf for HeapBuf {
    fn data(&self) -> &[u8] {
        self.storage.bytes.get(self.start as usize..self.end() as usize).unwrap_or_default()
    }

    fn data_mut(&mut self) -> Option<&mut [u8]> {
        let range = self.start as usize..self.end() as usize;
        Arc::get_mut(&mut self.storage)?.bytes.get_mut(range)
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let end = clamp(range.end, self.len);
        let start = clamp(range.start, end);
        Self {
            storage: Arc::clone(&self.storage),
            start: self.start + start,
            len: end - start,
            rx_meta: self.rx_meta,
            tx_meta: self.tx_meta,
        }
    }

    fn trim_front(&mut self, n: usize) {
        let n = clamp(n, self.len);
        self.start += n;
        self.len -= n;
    }

    fn truncate(&mut self, len: usize) {
        self.len = clamp(len, self.len);
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let n = u32::try_from(n).ok()?;
        let start = self.start.checked_sub(n)?;
        let range = start as usize..self.start as usize;
        let room = Arc::get_mut(&mut self.storage)?.bytes.get_mut(range)?;
        self.start = start;
        self.len += n;
        Some(room)
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let end = self.end();
        let new_end = end.checked_add(u32::try_from(n).ok()?)?;
        let range = end as usize..new_end as usize;
        let room = Arc::get_mut(&mut self.storage)?.bytes.get_mut(range)?;
        self.len = new_end - self.start;
        Some(room)
    }

    /// Copies `payload` into the tailroom. When that is too small or the memory is shared, moves to a
    /// larger storage of its own, which a pool counts in addition even when it is at its limit.
    fn chain(&mut self, payload: Self) {
        let extra = payload.data();
        if let Some(room) = self.append(extra.len()) {
            room.copy_from_slice(extra);
            return;
        }
        let permit = self.storage.permit.as_ref().map(Permit::another);
        let mut grown = Self::new(self.start as usize, self.data().len() + extra.len(), permit);
        for part in [self.data(), extra] {
            if let Some(room) = grown.append(part.len()) {
                room.copy_from_slice(part);
            }
        }
        self.storage = grown.storage;
        self.len = grown.len;
    }

    fn packet_len(&self) -> usize {
        self.len as usize
    }

    fn truesize(&self) -> usize {
        self.storage.bytes.capacity() + OVERHEAD
    }

    fn rx_meta(&self) -> RxMeta {
        self.rx_meta
    }

    fn set_tx_meta(&mut self, meta: TxMeta) {
        self.tx_meta = meta;
    }

    fn tx_meta(&self) -> TxMeta {
        self.tx_meta
    }
}

impl core::fmt::Debug for HeapBuf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HeapBuf({} bytes)", self.len)
    }
}

/// The smaller of the two.
fn clamp(n: usize, max: u32) -> u32 {
    u32::try_from(n).map_or(max, |n| n.min(max))
}

#[derive(Default)]
struct Counters {
    in_use: AtomicUsize,
    exhausted: AtomicUsize,
}

/// One storage counted as in use until dropped.
struct Permit(Arc<Counters>);

impl Permit {
    fn another(&self) -> Self {
        self.0.in_use.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A source of [`HeapBuf`]s that refuses while `limit` of them are alive. Clones share the limit; they
/// may be used from several threads.
#[derive(Clone)]
pub struct HeapPool {
    counters: Arc<Counters>,
    limit: usize,
    buffer_size: usize,
}

impl HeapPool {
    /// At most `limit` buffers alive at a time, each with room for `buffer_size` bytes (one MTU) behind
    /// [`HEADROOM`]. Allocates nothing yet.
    #[must_use]
    pub fn new(limit: usize, buffer_size: usize) -> Self {
        Self { counters: Arc::default(), limit, buffer_size }
    }

    /// Buffers whose memory is still referenced by some view.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.counters.in_use.load(Ordering::Relaxed)
    }

    /// Buffers that can be alive at a time.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Requests refused so far because the limit was reached.
    #[must_use]
    pub fn exhausted(&self) -> usize {
        self.counters.exhausted.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<HeapBuf> {
        let grow = |in_use: usize| (in_use < self.limit).then_some(in_use + 1);
        if self.counters.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_err() {
            self.counters.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let permit = Permit(Arc::clone(&self.counters));
        Some(HeapBuf::new(HEADROOM, self.buffer_size, Some(permit)))
    }
}

impl BufPool<HeapBuf> for HeapPool {
    fn alloc(&mut self) -> Option<HeapBuf> {
        self.take()
    }
}

impl core::fmt::Debug for HeapPool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HeapPool({} of {})", self.in_use(), self.limit)
    }
}

/// Packets on their way out of a stack, oldest first, for loops that write them one by one.
#[derive(Debug)]
pub struct HeapTxQueue {
    packets: VecDeque<HeapBuf>,
    limit: usize,
    pool: HeapPool,
    checksum_offload: bool,
}

impl HeapTxQueue {
    /// Holds up to `limit` packets and allocates from `pool`. Whoever pops them must find every
    /// checksum complete; see [`HeapTxQueue::with_checksum_offload`].
    #[must_use]
    pub fn new(limit: usize, pool: HeapPool) -> Self {
        Self { packets: VecDeque::with_capacity(limit), limit, pool, checksum_offload: false }
    }

    /// Tells the stack that whoever pops the packets completes their TCP checksums.
    #[must_use]
    pub fn with_checksum_offload(mut self) -> Self {
        self.checksum_offload = true;
        self
    }

    /// Takes the oldest packet out. O(1).
    pub fn pop(&mut self) -> Option<HeapBuf> {
        self.packets.pop_front()
    }

    /// Packets waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// No packet is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets that can wait at a time.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

impl TxQueue<HeapBuf> for HeapTxQueue {
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.packets.len())
    }

    fn alloc(&mut self) -> Option<HeapBuf> {
        self.pool.alloc()
    }

    /// Drops `packet` when the caller ignored `room`.
    fn push(&mut self, packet: HeapBuf) {
        debug_assert!(self.room() > 0, "push into a full queue");
        if self.room() > 0 {
            self.packets.push_back(packet);
        }
    }

    fn checksum_offload(&self) -> bool {
        self.checksum_offload
    }
}
