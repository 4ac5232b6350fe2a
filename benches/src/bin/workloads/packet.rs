//! Packet memory as a NIC's driver has it: buffers of one size from a free list, views that count
//! references, and payload hung behind headers without a copy.
//!
//! It stands for DPDK's mbufs, which need an EAL and hugepages: what a buffer costs is a few dozen
//! instructions here as there, and its content is neither cleared nor allocated.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use mptcp_core::buf::{BufPool, PacketBuf, PortId, RxMeta, TxMeta, TxQueue};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

const HEADROOM: u16 = 160;
const SIZE: u16 = HEADROOM + 2048;
/// Payloads up to this long are copied behind the headers, as with mbufs.
const COPY_BREAK: usize = 192;

#[derive(Debug)]
struct Storage([u8; SIZE as usize]);

/// Storages that nobody refers to.
static FREE: Mutex<Vec<Arc<Storage>>> = Mutex::new(Vec::new());
/// Storages there are.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// Octets of packet memory: all there is, and what somebody refers to.
pub(crate) fn memory() -> (usize, usize) {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).len();
    let all = ALL.load(Ordering::Relaxed);
    (all * size_of::<Storage>(), (all - free) * size_of::<Storage>())
}

/// One reference and its range.
#[derive(Debug)]
struct View {
    /// `None` only while it is dropped.
    storage: Option<Arc<Storage>>,
    start: u16,
    len: u16,
}

impl View {
    fn bytes(&self) -> &[u8] {
        let (start, len) = (usize::from(self.start), usize::from(self.len));
        self.storage.as_ref().and_then(|s| s.0.get(start..start + len)).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let (start, len) = (usize::from(self.start), usize::from(self.len));
        Arc::get_mut(self.storage.as_mut()?)?.0.get_mut(start..start + len)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let Some(mut storage) = self.storage.take() else { return };
        if Arc::get_mut(&mut storage).is_some() {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(storage);
        }
    }
}

/// A packet, or a view of a part of one.
#[derive(Debug)]
pub(crate) struct Packet {
    head: View,
    /// Payload behind the headers in `head`.
    tail: Option<View>,
    /// Of the bytes in `head`.
    sum: Option<u16>,
    rx_meta: RxMeta,
    tx_meta: TxMeta,
}

impl Packet {
    /// An empty buffer.
    pub(crate) fn new() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let storage = free.unwrap_or_else(|| {
            ALL.fetch_add(1, Ordering::Relaxed);
            Arc::new(Storage([0; SIZE as usize]))
        });
        let head = View { storage: Some(storage), start: HEADROOM, len: 0 };
        let (rx_meta, tx_meta) = (RxMeta::default(), TxMeta::default());
        Self { head, tail: None, sum: None, rx_meta, tx_meta }
    }

    /// An empty buffer, arrived at `port`.
    pub(crate) fn at(port: PortId) -> Self {
        let mut packet = Self::new();
        packet.rx_meta.port = port;
        packet
    }

    /// A copy in one piece, as it arrives at `port` at the other end of a wire.
    pub(crate) fn arrived(&self, port: PortId) -> Self {
        let mut packet = Self::at(port);
        for part in [&self.head].into_iter().chain(&self.tail) {
            let room = packet.append(part.bytes().len()).expect("a packet fits into a buffer");
            room.copy_from_slice(part.bytes());
        }
        packet
    }
}

impl PacketBuf for Packet {
    fn data(&self) -> &[u8] {
        self.head.bytes()
    }

    fn data_len(&self) -> usize {
        usize::from(self.head.len)
    }

    fn data_mut(&mut self) -> Option<&mut [u8]> {
        self.sum = None;
        self.head.bytes_mut()
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let len = usize::from(self.head.len);
        let start = range.start.min(len);
        let end = range.end.clamp(start, len);
        let head = View {
            storage: self.head.storage.clone(),
            start: self.head.start + to_u16(start),
            len: to_u16(end - start),
        };
        let sum = self.sum.filter(|_| end - start == len);
        Self { head, tail: None, sum, rx_meta: self.rx_meta, tx_meta: self.tx_meta }
    }

    fn trim_front(&mut self, n: usize) {
        let n = to_u16(n).min(self.head.len);
        self.head.start += n;
        self.head.len -= n;
        self.sum = self.sum.filter(|_| n == 0);
    }

    fn truncate(&mut self, len: usize) {
        let len = self.head.len.min(to_u16(len));
        self.sum = self.sum.filter(|_| len == self.head.len);
        self.head.len = len;
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = self.head.start.checked_sub(u16::try_from(n).ok()?)?;
        Arc::get_mut(self.head.storage.as_mut()?)?;
        self.sum = None;
        self.head.len += self.head.start - start;
        self.head.start = start;
        self.head.bytes_mut()?.get_mut(..n)
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let old = self.head.len;
        let len = old.checked_add(u16::try_from(n).ok()?)?;
        let fits = self.tail.is_none() && len <= SIZE - self.head.start;
        if !fits || Arc::get_mut(self.head.storage.as_mut()?).is_none() {
            return None;
        }
        self.head.len = len;
        self.sum = None;
        self.head.bytes_mut()?.get_mut(usize::from(old)..)
    }

    fn chain(&mut self, payload: Self) {
        let bytes = payload.data();
        if bytes.len() <= COPY_BREAK
            && let Some(room) = self.append(bytes.len())
        {
            return room.copy_from_slice(bytes);
        }
        assert!(self.tail.is_none() && payload.tail.is_none(), "a packet has one payload");
        self.tail = Some(payload.head);
    }

    fn packet_len(&self) -> usize {
        usize::from(self.head.len) + self.tail.as_ref().map_or(0, |tail| usize::from(tail.len))
    }

    fn truesize(&self) -> usize {
        size_of::<Storage>() * (1 + usize::from(self.tail.is_some()))
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
        self.rx_meta = RxMeta { port, ..RxMeta::default() };
    }

    fn set_tx_meta(&mut self, meta: TxMeta) {
        self.tx_meta = meta;
    }

    fn tx_meta(&self) -> TxMeta {
        self.tx_meta
    }
}

/// The free list as a stack is given it.
#[derive(Debug)]
pub(crate) struct Pool;

impl BufPool<Packet> for Pool {
    fn alloc(&mut self) -> Option<Packet> {
        Some(Packet::new())
    }
}

/// Packets on their way to the wire, oldest first.
#[derive(Debug)]
pub(crate) struct Outbox {
    packets: VecDeque<Packet>,
    limit: usize,
}

impl Outbox {
    /// Takes `limit` packets at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self { packets: VecDeque::with_capacity(limit), limit }
    }

    /// Takes the oldest out.
    pub(crate) fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }
}

impl TxQueue<Packet> for Outbox {
    fn room(&self) -> usize {
        self.limit - self.packets.len()
    }

    fn alloc(&mut self) -> Option<Packet> {
        Some(Packet::new())
    }

    fn push(&mut self, packet: Packet) {
        self.packets.push_back(packet);
    }
}

/// Positions inside of a buffer.
fn to_u16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &[u8]) -> Packet {
        let mut packet = Packet::new();
        packet.append(bytes.len()).expect("room").copy_from_slice(bytes);
        packet
    }

    #[test]
    fn shared_memory_is_not_written() {
        let mut whole = packet(b"headers and payload");
        let mut part = whole.slice(12..100);
        assert_eq!(part.data(), b"payload");
        assert!(
            whole.data_mut().is_none() && part.prepend(1).is_none() && part.append(1).is_none()
        );
        drop(part);
        whole.trim_front(8);
        whole.prepend(1).expect("nobody else sees it")[0] = b'-';
        assert_eq!(whole.data(), b"-and payload");
    }

    #[test]
    fn a_chained_payload_arrives_behind_its_headers() {
        for len in [COPY_BREAK, COPY_BREAK + 1, 1448] {
            let payload = vec![7; len];
            let mut headers = packet(b"headers");
            headers.chain(packet(&payload));
            assert_eq!(headers.tail.is_some(), len > COPY_BREAK);
            assert_eq!(headers.packet_len(), 7 + len);
            let arrived = headers.arrived(PortId(1));
            assert_eq!(
                (&arrived.data()[..7], &arrived.data()[7..]),
                (&b"headers"[..], &payload[..])
            );
            assert_eq!(arrived.rx_meta().port, PortId(1));
        }
    }
}
