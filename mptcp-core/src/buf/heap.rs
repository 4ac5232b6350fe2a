//! Packet buffers on the heap, for TUN devices, simulators and tests.
//!
//! Invariant: a view is written only while it is the only one of its storage. A pool counts
//! storages, not views: what a slice keeps alive stays counted until the last slice is gone.

use super::{BufPool, PacketBuf, PortId, RxChecksum, RxMeta, TxMeta, TxQueue};
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
    /// Of the bytes in view.
    sum: Option<u16>,
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
                self.sum = None;
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
            sum: None,
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

    fn data_len(&self) -> usize {
        self.len as usize
    }

    fn data_mut(&mut self) -> Option<&mut [u8]> {
        self.sum = None;
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
            sum: self.sum.filter(|_| end - start == self.len),
            rx_meta: self.rx_meta,
            tx_meta: self.tx_meta,
        }
    }

    fn trim_front(&mut self, n: usize) {
        let n = clamp(n, self.len);
        self.start += n;
        self.len -= n;
        self.sum = self.sum.filter(|_| n == 0);
    }

    fn truncate(&mut self, len: usize) {
        let len = clamp(len, self.len);
        self.sum = self.sum.filter(|_| len == self.len);
        self.len = len;
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let n = u32::try_from(n).ok()?;
        let start = self.start.checked_sub(n)?;
        let range = start as usize..self.start as usize;
        let room = Arc::get_mut(&mut self.storage)?.bytes.get_mut(range)?;
        self.start = start;
        self.len += n;
        self.sum = None;
        Some(room)
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let end = self.end();
        let new_end = end.checked_add(u32::try_from(n).ok()?)?;
        let range = end as usize..new_end as usize;
        let room = Arc::get_mut(&mut self.storage)?.bytes.get_mut(range)?;
        self.len = new_end - self.start;
        self.sum = None;
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
        self.sum = None;
    }

    fn packet_len(&self) -> usize {
        self.len as usize
    }

    fn truesize(&self) -> usize {
        self.storage.bytes.capacity() + OVERHEAD
    }

    fn noted_sum(&self) -> Option<u16> {
        self.sum
    }

    fn note_sum(&mut self, sum: u16) {
        self.sum = Some(sum);
    }

    fn rx_meta(&self) -> RxMeta {
        self.rx_meta
    }

    fn set_rx_port(&mut self, port: PortId) {
        self.rx_meta = RxMeta { port, checksum: RxChecksum::Unknown };
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

/// One storage counted as so many buffers in use until dropped.
struct Permit(Arc<Counters>, usize);

impl Permit {
    fn another(&self) -> Self {
        self.0.in_use.fetch_add(self.1, Ordering::Relaxed);
        Self(Arc::clone(&self.0), self.1)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A source of [`HeapBuf`]s that refuses while `limit` of them are alive. Clones share the limit; they
/// may be used from several threads.
#[derive(Clone)]
pub struct HeapPool {
    counters: Arc<Counters>,
    limit: usize,
    buffer_size: usize,
    /// Buffers this handle leaves to others.
    reserve: usize,
}

impl HeapPool {
    /// At most `limit` buffers alive at a time, each with room for `buffer_size` bytes (one MTU) behind
    /// [`HEADROOM`]. Allocates nothing yet.
    #[must_use]
    pub fn new(limit: usize, buffer_size: usize) -> Self {
        Self { counters: Arc::default(), limit, buffer_size, reserve: 0 }
    }

    /// The same pool for what keeps its buffers: this handle is short ([`BufPool::is_short`]) when
    /// `reserve` buffers are left, and refuses when half of them are. The other half lets an
    /// application that only answers go on.
    #[must_use]
    pub fn with_reserve(self, reserve: usize) -> Self {
        Self { reserve, ..self }
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

    /// A buffer with room for `size` octets behind its headroom, which counts as `buffers`.
    fn take(&self, size: usize, buffers: usize) -> Option<HeapBuf> {
        let limit = self.limit.saturating_sub(self.reserve / 2);
        let grow = |in_use: usize| Some(in_use + buffers).filter(|sum| *sum <= limit);
        if self.counters.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_err() {
            self.counters.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let permit = Permit(Arc::clone(&self.counters), buffers);
        Some(HeapBuf::new(HEADROOM, size, Some(permit)))
    }
}

impl BufPool<HeapBuf> for HeapPool {
    fn alloc(&mut self) -> Option<HeapBuf> {
        self.take(self.buffer_size, 1)
    }

    /// One that counts as many buffers as would hold so much.
    fn alloc_long(&mut self, len: usize) -> Option<HeapBuf> {
        self.take(len, len.div_ceil(self.buffer_size.max(1)).max(1))
    }

    fn is_short(&self) -> bool {
        self.reserve > 0 && self.in_use().saturating_add(self.reserve) >= self.limit
    }

    fn is_low(&self) -> bool {
        let near = self.reserve.saturating_add(self.limit / 8);
        self.reserve > 0 && self.in_use().saturating_add(near) >= self.limit
    }
}

impl core::fmt::Debug for HeapPool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HeapPool({} of {})", self.in_use(), self.limit)
    }
}

/// Packets that a [`HeapTxQueue`] has memory for from the start, at most.
const RESERVED_PACKETS: usize = 4096;

/// Packets on their way out of a stack, oldest first, for loops that write them one by one.
#[derive(Debug)]
pub struct HeapTxQueue {
    packets: VecDeque<HeapBuf>,
    limit: usize,
    pool: HeapPool,
    checksum_offload: bool,
    segmentation_offload: bool,
}

impl HeapTxQueue {
    /// Holds up to `limit` packets and allocates from `pool`. Whoever pops them must find every
    /// checksum complete; see [`HeapTxQueue::with_checksum_offload`].
    #[must_use]
    pub fn new(limit: usize, pool: HeapPool) -> Self {
        Self {
            packets: VecDeque::with_capacity(limit.min(RESERVED_PACKETS)),
            limit,
            pool,
            checksum_offload: false,
            segmentation_offload: false,
        }
    }

    /// Tells the stack that whoever pops the packets completes their TCP checksums.
    #[must_use]
    pub fn with_checksum_offload(mut self) -> Self {
        self.checksum_offload = true;
        self
    }

    /// Has segments that follow on each other share their mappings, as if they left in one piece.
    #[must_use]
    pub fn with_segmentation_offload(mut self) -> Self {
        self.segmentation_offload = true;
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

    /// Drops `packet` when the caller ignored `room`, at which debug builds panic.
    fn push(&mut self, packet: HeapBuf) {
        debug_assert!(self.room() > 0, "push into a full queue");
        if self.room() > 0 {
            self.packets.push_back(packet);
        }
    }

    fn checksum_offload(&self) -> bool {
        self.checksum_offload
    }

    fn segmentation_offload(&self, _port: super::PortId) -> bool {
        self.segmentation_offload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{PortId, RxChecksum};
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn buffers_cross_threads() {
        fn is_send_sync<T: Send + Sync>() {}
        is_send_sync::<HeapBuf>();
        is_send_sync::<HeapPool>();
        is_send_sync::<HeapTxQueue>();
    }

    #[test]
    fn nothing_is_written_while_shared() {
        let mut buf = HeapBuf::from_slice(b"abcdef");
        let mut tail = buf.slice(4..100);
        assert_eq!(tail.data(), b"ef");
        assert!(buf.data_mut().is_none() && tail.data_mut().is_none());
        assert!(buf.prepend(1).is_none() && tail.append(0).is_none());
        assert!(!buf.copy_from(b"x"));
        assert_eq!((buf.data(), buf.packet_len()), (&b"abcdef"[..], 6));
        drop(buf);
        // The last view may even grow over what the others saw.
        tail.prepend(2).unwrap().copy_from_slice(b"12");
        tail.data_mut().unwrap()[3] = b'4';
        assert_eq!(tail.data(), b"12e4");
    }

    #[test]
    fn a_noted_sum_is_forgotten_with_the_bytes_it_is_of() {
        let noted = || {
            let mut buf = HeapBuf::with_capacity(10, 10);
            buf.append(6).unwrap().copy_from_slice(b"abcdef");
            buf.note_sum(7);
            buf
        };
        let same: [fn(&mut HeapBuf); 3] =
            [|buf| buf.trim_front(0), |buf| buf.truncate(6), |buf| *buf = buf.slice(0..6)];
        for step in same {
            let mut buf = noted();
            step(&mut buf);
            assert_eq!(buf.noted_sum(), Some(7));
        }
        let others: [fn(&mut HeapBuf); 9] = [
            |buf| buf.trim_front(1),
            |buf| buf.truncate(5),
            |buf| *buf = buf.slice(0..5),
            |buf| *buf = buf.slice(1..6),
            |buf| assert!(buf.prepend(1).is_some()),
            |buf| assert!(buf.append(1).is_some()),
            |buf| buf.chain(HeapBuf::from_slice(b"more than there is room for")),
            |buf| assert!(buf.data_mut().is_some()),
            |buf| assert!(buf.copy_from(b"fedcba")),
        ];
        for (at, step) in others.iter().enumerate() {
            let mut buf = noted();
            step(&mut buf);
            assert_eq!(buf.noted_sum(), None, "step {at}");
        }
    }

    #[test]
    fn a_slice_pins_the_whole_storage_and_keeps_the_metadata() {
        let mut buf = HeapBuf::with_capacity(10, 90);
        buf.append(50).unwrap().fill(7);
        let rx = RxMeta { port: PortId(3), checksum: RxChecksum::Good };
        let tx = TxMeta { port: PortId(4), partial_checksum: true };
        buf.set_rx_meta(rx);
        buf.set_tx_meta(tx);
        let one = buf.slice(20..21);
        assert_eq!(one.truesize(), buf.truesize());
        assert!(one.truesize() >= 100 + size_of::<HeapBuf>());
        assert_eq!((one.rx_meta(), one.tx_meta()), (rx, tx));
        assert_eq!((buf.data_len(), one.data_len()), (buf.data().len(), one.data().len()));
        assert_eq!(format!("{one:?}"), "HeapBuf(1 bytes)");
    }

    #[test]
    fn chaining_copies_into_the_tailroom_or_grows() {
        let mut packet = HeapBuf::with_capacity(20, 6);
        packet.append(4).unwrap().copy_from_slice(b"head");
        packet.chain(HeapBuf::from_slice(b"12"));
        assert_eq!(packet.data(), b"head12");
        packet.chain(HeapBuf::from_slice(b"345"));
        assert_eq!(packet.to_vec(), b"head12345");
        packet.prepend(20).unwrap();
        assert!(packet.prepend(1).is_none());
        // A shared header: the other view must not change.
        let other = packet.slice(20..24);
        packet.truncate(24);
        packet.chain(other.slice(0..2));
        assert_eq!((&packet.data()[20..], other.data()), (&b"headhe"[..], &b"head"[..]));
    }

    #[test]
    fn limits_may_be_as_large_as_they_like() {
        let pool = HeapPool::new(usize::MAX, 1500).with_reserve(usize::MAX);
        assert!(pool.is_short() && pool.is_low());
        let mut queue = HeapTxQueue::new(usize::MAX, pool);
        queue.push(HeapBuf::from_slice(b"1"));
        assert_eq!((queue.len(), queue.room()), (1, usize::MAX - 1));
    }

    #[test]
    fn a_pool_counts_what_is_alive() {
        let mut pool = HeapPool::new(2, 1500);
        let mut clone = pool.clone();
        let first = pool.alloc().unwrap();
        assert_eq!((first.data().len(), first.start as usize), (0, HEADROOM));
        let slice = first.slice(0..0);
        let mut second = clone.alloc().unwrap();
        assert!(second.append(1500).is_some() && second.append(1).is_none());
        assert!(pool.alloc().is_none() && clone.alloc().is_none());
        assert_eq!((pool.in_use(), pool.limit(), pool.exhausted()), (2, 2, 2));
        drop(first);
        assert_eq!(pool.in_use(), 2, "the slice still holds the memory");
        drop(slice);
        assert_eq!(clone.in_use(), 1);
        // Growing replaces the storage, shared growing adds one.
        second.chain(HeapBuf::from_slice(b"more"));
        assert_eq!(pool.in_use(), 1);
        let shared = second.slice(0..8);
        second.chain(HeapBuf::from_slice(b"more"));
        assert_eq!(pool.in_use(), 2);
        drop((shared, second));
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let mut queue = HeapTxQueue::new(2, HeapPool::new(3, 100));
        assert!(!queue.checksum_offload());
        for byte in [1, 2] {
            let mut buf = queue.alloc().unwrap();
            assert!(buf.copy_from(&[byte]));
            queue.push(buf);
        }
        assert_eq!((queue.room(), queue.len(), queue.limit()), (0, 2, 2));
        assert_eq!(queue.pop().unwrap().data(), [1]);
        assert_eq!(queue.room(), 1);
        assert_eq!(queue.pop().unwrap().data(), [2]);
        assert!(queue.is_empty() && queue.pop().is_none());
        assert!(queue.with_checksum_offload().checksum_offload());
    }

    #[derive(Clone, Debug)]
    enum Op {
        TrimFront(usize),
        Truncate(usize),
        Prepend(usize),
        Append(usize),
        Slice(usize, usize),
        CopyFrom(usize),
        Chain(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let n = 0..40usize;
        prop_oneof![
            n.clone().prop_map(Op::TrimFront),
            n.clone().prop_map(Op::Truncate),
            n.clone().prop_map(Op::Prepend),
            n.clone().prop_map(Op::Append),
            (n.clone(), n.clone()).prop_map(|(from, to)| Op::Slice(from, to)),
            n.clone().prop_map(Op::CopyFrom),
            n.prop_map(Op::Chain),
        ]
    }

    proptest! {
        /// The model keeps the bytes and how far the view can grow on either side.
        #[test]
        fn behaves_like_bytes_with_room_around(
            headroom in 0..50usize,
            capacity in 0..100usize,
            ops in prop::collection::vec(op(), 0..40),
        ) {
            let mut buf = HeapBuf::with_capacity(headroom, capacity);
            let mut bytes = Vec::new();
            let (mut front, mut back) = (headroom, capacity);
            for (op, mark) in ops.into_iter().zip(1u8..) {
                match op {
                    Op::TrimFront(n) => {
                        buf.trim_front(n);
                        front += bytes.drain(..n.min(bytes.len())).count();
                    }
                    Op::Truncate(len) => {
                        buf.truncate(len);
                        back += bytes.drain(len.min(bytes.len())..).count();
                    }
                    Op::Prepend(n) => match buf.prepend(n) {
                        Some(room) => {
                            prop_assert_eq!(room.len(), n);
                            room.fill(mark);
                            front -= n;
                            bytes.splice(0..0, core::iter::repeat_n(mark, n));
                        }
                        None => prop_assert!(n > front),
                    },
                    Op::Append(n) => match buf.append(n) {
                        Some(room) => {
                            prop_assert_eq!(room.len(), n);
                            room.fill(mark);
                            back -= n;
                            bytes.extend(core::iter::repeat_n(mark, n));
                        }
                        None => prop_assert!(n > back),
                    },
                    Op::Slice(from, to) => {
                        buf = buf.slice(from..to);
                        let to = to.min(bytes.len());
                        back += bytes.drain(to..).count();
                        front += bytes.drain(..from.min(to)).count();
                    }
                    Op::CopyFrom(n) => {
                        let content = vec![mark; n];
                        let room = bytes.len() + back;
                        prop_assert_eq!(buf.copy_from(&content), n <= room);
                        if n <= room {
                            back = room - n;
                            bytes = content;
                        }
                    }
                    Op::Chain(n) => {
                        let content = vec![mark; n];
                        buf.chain(HeapBuf::from_slice(&content));
                        back = back.saturating_sub(n);
                        bytes.extend(content);
                    }
                }
                prop_assert_eq!(buf.data(), &bytes[..]);
                prop_assert_eq!(buf.data_mut().unwrap(), &bytes[..]);
                prop_assert_eq!(buf.packet_len(), bytes.len());
            }
        }
    }
}
