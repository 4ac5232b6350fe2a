//! What waits for a transmit queue.
//!
//! Where the port cuts segments, what follows on the newest packet joins it, as long as that waits: buffers of
//! text hang behind each other, and the headers of the first speak for all once nothing more joins.
//!
//! Invariant: a packet is owned by exactly one value at any time, so that dropping a batch early
//! frees what is left in it. A packet is sent complete: the newest one is no longer open then.

use super::mbuf::{Mbuf, Unsendable, own_segment};
use super::pool::MbufPool;
use crate::nic::{BURST, Flushed, Pushed};
use dpdk_sys::{EXTERNAL, INDIRECT, RteMbuf, Tso};
use mptcp_core::buf::PacketBuf;
use mptcp_core::segmentation::{Headers, Piece, PseudoHeader};

/// Packets ready for one transmit queue, oldest first; bounded.
#[derive(Debug)]
pub struct TxBatch {
    packets: Vec<*mut RteMbuf>,
    /// Bytes of each; a packet taken by a NIC is not ours to look into.
    lens: Vec<u32>,
    /// How many from the front `packets` were sent already.
    sent: usize,
    capacity: usize,
    /// The newest packet, while others may join it.
    open: Option<Open>,
    /// Packets that others have joined, and how many packets those were, since the last flush.
    pieces: usize,
    joined: usize,
}

/// The last of the packets that wait, of which nothing was sent.
#[derive(Debug)]
struct Open {
    piece: Piece,
    /// Its buffers.
    buffers: u16,
    /// The segment in front of its last; null when the head is the last.
    before_last: *mut RteMbuf,
    ip_checksum: bool,
}

// SAFETY: the pointers are unique owners of packets, which may be freed or sent from any thread.
unsafe impl Send for TxBatch {}

/// How a port wants its packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxCapabilities {
    /// Packets of several segments.
    pub multi_segs: bool,
    /// TCP checksum completion.
    pub tcp_checksum: bool,
    /// The same for IPv4's, with segmentation.
    pub ip_checksum: bool,
    /// Buffers of a packet that the port cuts into segments, at most; 0: it does not cut them.
    pub most_buffers: u16,
}

impl TxCapabilities {
    /// Segments that follow on each other leave in one piece.
    #[must_use]
    pub fn cuts_segments(&self) -> bool {
        self.most_buffers > 0
    }
}

/// Ethernet, VLAN, IPv6 and TCP headers.
const HEADERS: usize = 18 + 40 + 20;

/// Text of the shortest segments that ports are asked to cut. No driver says what its card takes: i40e refuses
/// what is below 256 octets, iavf and idpf below 88, ice below 64, and what is refused is lost each time it goes again.
const LEAST_TEXT: u16 = 256;

impl From<Unsendable> for Pushed {
    fn from(why: Unsendable) -> Self {
        match why {
            Unsendable::NoMemory => Self::NoMemory,
            Unsendable::TooLong => Self::TooLong,
        }
    }
}

impl TxBatch {
    /// An empty batch of at most `capacity` packets.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            packets: Vec::with_capacity(capacity),
            lens: Vec::with_capacity(capacity),
            sent: 0,
            capacity,
            open: None,
            pieces: 0,
            joined: 0,
        }
    }

    /// Packets waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len() - self.sent
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity - self.len()
    }

    /// Takes a complete Ethernet frame.
    pub fn push(&mut self, frame: Mbuf, port: TxCapabilities, pool: &MbufPool) -> Pushed {
        let frame = match self.join(frame, port) {
            Ok(joined) => return joined,
            Err(frame) => frame,
        };
        self.close();
        if self.room() == 0 {
            return Pushed::Full;
        }
        let partial = frame.tx_meta().partial_checksum && port.tcp_checksum;
        // Drivers look for the headers in the first segment.
        let frame = if partial && frame.data().len() < HEADERS && frame.segment_count() > 1 {
            match frame.into_flat(pool) {
                Ok(flat) => flat,
                Err(why) => return why.into(),
            }
        } else {
            frame
        };
        let checksum = if partial { checksum_request(frame.data()) } else { None };
        match frame.into_tx(port.multi_segs, pool) {
            Ok(raw) => {
                if let Some((l2_len, l3_len, v6)) = checksum {
                    // SAFETY: `into_tx` gave us the only reference.
                    unsafe {
                        dpdk_sys::dio_request_tcp_checksum(raw.as_ptr(), l2_len, l3_len, v6.into());
                    }
                }
                // SAFETY: as above; `into_tx` filled the length in.
                self.lens.push(unsafe { (*raw.as_ptr()).pkt_len });
                self.packets.push(raw.as_ptr());
                if port.cuts_segments() {
                    self.open = Open::new(raw.as_ptr(), port.ip_checksum);
                }
                Pushed::Queued
            }
            Err(why) => why.into(),
        }
    }

    /// Has a frame join the newest packet; gives it back when it does not go on with that.
    fn join(&mut self, frame: Mbuf, port: TxCapabilities) -> Result<Pushed, Mbuf> {
        let Some(open) = self.open.as_mut().filter(|_| !frame.is_broken()) else {
            return Err(frame);
        };
        let (Some(&head), Some(len)) = (self.packets.last(), self.lens.last_mut()) else {
            return Err(frame);
        };
        // SAFETY: the newest packet is ours, and nothing else refers to its head.
        let first = unsafe { bytes_of(head) };
        let headers = open.piece.headers().all();
        let Some(follower) = open.piece.goes_on(first, frame.data(), frame.packet_len()) else {
            return Err(frame);
        };
        let bare = usize::from(frame.data().len() == headers);
        let buffers = u16::try_from(frame.segment_count() - bare).unwrap_or(u16::MAX);
        let buffers = open.buffers.saturating_add(buffers);
        if buffers > port.most_buffers {
            return Err(frame);
        }
        let last = if open.before_last.is_null() {
            head
        } else {
            // SAFETY: it is a segment of the packet, which is ours, with one reference.
            let link = unsafe { &mut (*open.before_last).next };
            // SAFETY: what hangs there is the packet's, and the last, so it has no `next`.
            let Some(own) = (unsafe { own_segment(*link) }) else { return Err(frame) };
            *link = own;
            own
        };
        let Some(text) = frame.into_text(headers) else { return Ok(Pushed::NoMemory) };
        // SAFETY: `last` has one reference, ours, and nothing hangs behind it.
        unsafe { (*last).next = text.as_ptr() };
        // SAFETY: as above; the head is complete and its list is ours.
        open.before_last = unsafe { before_last(last) };
        open.buffers = buffers;
        open.piece.take(follower);
        // Far below 2^16, as IP's lengths are.
        *len += follower.text as u32;
        // SAFETY: the head is ours alone.
        let head = unsafe { &mut *head };
        (head.nb_segs, head.pkt_len) = (buffers, *len);
        Ok(Pushed::Queued)
    }

    /// Nothing joins the newest packet any more.
    fn close(&mut self) {
        let Some(open) = self.open.take().filter(|open| open.piece.segments() > 1) else { return };
        let Some(&head) = self.packets.last() else { return };
        // SAFETY: the newest packet is ours, nothing else refers to its head, and that owns its buffer
        // (`Open::new`).
        let first = unsafe { bytes_of(head) };
        if open.piece.complete(first, PseudoHeader::WithoutLength).is_none() {
            // Its headers are whole, or nothing would have joined it.
            return;
        }
        let headers = open.piece.headers();
        let tso = Tso {
            l2_len: headers.l2,
            l3_len: headers.l3,
            l4_len: headers.l4,
            mss: open.piece.mss(),
            v6: headers.v6.into(),
            ip_checksum: (open.ip_checksum && !headers.v6).into(),
        };
        // SAFETY: the packet is ours.
        unsafe { dpdk_sys::dio_request_tso(head, &raw const tso) };
        self.pieces += 1;
        self.joined += usize::from(open.piece.segments());
    }

    /// Offers the packets to a transmit queue; what it does not take stays for the next flush, what
    /// the driver refuses for good is freed.
    ///
    /// # Safety
    /// The queue exists, its port is started, and no other thread sends on it meanwhile.
    pub(crate) unsafe fn flush(&mut self, port: u16, queue: u16, prepare: bool) -> Flushed {
        self.close();
        let mut flushed = Flushed {
            pieces: core::mem::take(&mut self.pieces),
            joined: core::mem::take(&mut self.joined),
            ..Flushed::default()
        };
        while let Some(waiting) = self.packets.get_mut(self.sent..).filter(|w| !w.is_empty()) {
            let count = u16::try_from(waiting.len().min(BURST)).unwrap_or(u16::MAX);
            let mut ready = count;
            if prepare {
                // SAFETY: the first `count` entries are packets we own.
                ready =
                    unsafe { dpdk_sys::dio_tx_prepare(port, queue, waiting.as_mut_ptr(), count) };
                if ready == 0 {
                    // The driver cannot send the first packet at all.
                    if let Some(&first) = waiting.first() {
                        // SAFETY: ours, and forgotten in the next line.
                        unsafe { dpdk_sys::dio_free_chain(first) };
                    }
                    self.sent += 1;
                    flushed.refused += 1;
                    continue;
                }
            }
            // SAFETY: the caller vouches for the queue; the first `ready` entries are packets we
            // own, and those taken are the NIC's afterwards.
            let taken = unsafe { dpdk_sys::dio_tx_burst(port, queue, waiting.as_mut_ptr(), ready) };
            let end = self.sent + usize::from(taken);
            let lens = self.lens.get(self.sent..end).unwrap_or_default();
            flushed.bytes += lens.iter().map(|&len| u64::from(len)).sum::<u64>();
            flushed.sent += usize::from(taken);
            self.sent = end;
            if taken < ready {
                break;
            }
        }
        self.packets.drain(..self.sent);
        self.lens.drain(..self.sent);
        self.sent = 0;
        flushed
    }

    /// Frees what waits; returns how many packets that were.
    pub fn clear(&mut self) -> usize {
        let dropped = self.len();
        self.open = None;
        if let Some(waiting) = self.packets.get_mut(self.sent..).filter(|w| !w.is_empty()) {
            let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
            // SAFETY: the entries are packets we own; they are forgotten below.
            unsafe { dpdk_sys::dio_free_bulk(waiting.as_mut_ptr(), count) };
        }
        self.packets.clear();
        self.lens.clear();
        self.sent = 0;
        dropped
    }
}

impl Open {
    /// `head` was just queued. `None` when nothing may follow it.
    fn new(head: *mut RteMbuf, ip_checksum: bool) -> Option<Self> {
        // SAFETY: a queued packet is complete and ours alone.
        let (flags, len, buffers) = unsafe { ((*head).ol_flags, (*head).pkt_len, (*head).nb_segs) };
        // Headers are written when the packet is closed, which takes a buffer of its own.
        if flags & (INDIRECT | EXTERNAL) != 0 {
            return None;
        }
        // SAFETY: as above.
        let frame = unsafe { bytes_of(head) };
        let headers = Headers::of_frame(frame, len as usize)?;
        let piece = Piece::begin(headers, frame, len as usize)?;
        if piece.mss() < LEAST_TEXT {
            return None;
        }
        // SAFETY: as above.
        let before_last = unsafe { before_last(head) };
        Some(Self { piece, buffers, before_last, ip_checksum })
    }
}

/// The bytes of a packet's first segment.
///
/// # Safety
/// The packet is the caller's, and nobody else has its head or reads or writes its bytes meanwhile.
unsafe fn bytes_of<'a>(head: *mut RteMbuf) -> &'a mut [u8] {
    // SAFETY: the caller has the descriptor.
    let (buffer, off, len) = unsafe { ((*head).buf_addr, (*head).data_off, (*head).data_len) };
    let start = buffer.wrapping_add(usize::from(off));
    // SAFETY: a recorded range lies inside its buffer.
    unsafe { core::slice::from_raw_parts_mut(start, usize::from(len)) }
}

/// The segment in front of the last one, from `segment` on; null when that is the last.
///
/// # Safety
/// The list is the caller's.
unsafe fn before_last(segment: *mut RteMbuf) -> *mut RteMbuf {
    let (mut before, mut at) = (core::ptr::null_mut(), segment);
    loop {
        // SAFETY: a segment of the list is valid.
        let next = unsafe { (*at).next };
        if next.is_null() {
            return before;
        }
        (before, at) = (at, next);
    }
}

impl Drop for TxBatch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Lengths of the Ethernet (and VLAN) and IP headers of a frame, and whether it is IPv6.
fn checksum_request(frame: &[u8]) -> Option<(u16, u16, bool)> {
    let ether_type = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (l2_len, kind) = match ether_type(12)? {
        0x8100 => (18, ether_type(16)?),
        kind => (14, kind),
    };
    let first = *frame.get(usize::from(l2_len))?;
    match kind {
        0x0800 => Some((l2_len, u16::from(first & 0xf) * 4, false)),
        0x86dd => Some((l2_len, 40, true)),
        _ => None,
    }
}
