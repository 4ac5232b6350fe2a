//! Bursts: what a port's receive queue gave, and what waits for a transmit queue.
//!
//! Invariant: a packet is owned by exactly one value at any time, so that dropping a batch early
//! frees what is left in it.

use super::mbuf::{Mbuf, Unsendable};
use super::pool::MbufPool;
use crate::nic::{BURST, Flushed, Pushed, Received};
use core::ptr::NonNull;
use dpdk_sys::RteMbuf;
use mptcp_core::buf::{PacketBuf, PortId};

/// Packets ready for one transmit queue, oldest first; bounded.
#[derive(Debug)]
pub struct TxBatch {
    packets: Vec<*mut RteMbuf>,
    /// Bytes of each; a packet taken by a NIC is not ours to look into.
    lens: Vec<u32>,
    /// How many from the front `packets` were sent already.
    sent: usize,
    capacity: usize,
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
}

/// Ethernet, VLAN, IPv6 and TCP headers.
const HEADERS: usize = 18 + 40 + 20;

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
                Pushed::Queued
            }
            Err(why) => why.into(),
        }
    }

    /// Offers the packets to a transmit queue; what it does not take stays for the next flush, what
    /// the driver refuses for good is freed.
    ///
    /// # Safety
    /// The queue exists, its port is started, and no other thread sends on it meanwhile.
    pub(crate) unsafe fn flush(&mut self, port: u16, queue: u16, prepare: bool) -> Flushed {
        let mut flushed = Flushed::default();
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

impl Drop for TxBatch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Receives at most [`BURST`] packets and appends them to `into`.
///
/// # Safety
/// The queue exists, its port is started, and no other thread receives on it meanwhile.
pub(crate) unsafe fn receive(
    port: u16,
    queue: u16,
    id: PortId,
    pool: &MbufPool,
    into: &mut Vec<Mbuf>,
) -> Received {
    let mut burst = [core::ptr::null_mut::<RteMbuf>(); BURST];
    let most = u16::try_from(BURST).unwrap_or(u16::MAX);
    // SAFETY: the caller vouches for the queue; the array holds BURST pointers.
    let count = unsafe { dpdk_sys::dio_rx_burst(port, queue, burst.as_mut_ptr(), most) };
    let frames = usize::from(count);
    let before = into.len();
    let received = burst.iter().take(frames).filter_map(|&raw| NonNull::new(raw));
    into.extend(received.filter_map(|raw| Mbuf::from_rx(raw, id, pool)));
    Received { frames, no_buffer: frames - (into.len() - before) }
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
