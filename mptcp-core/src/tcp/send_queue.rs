//! What was sent and is not acknowledged, one entry per segment, with the SACK scoreboard in the
//! entries (RFC 2018, 6675, 8985), and what waits to be sent for the first time.
//!
//! Invariant: entries are contiguous from `snd_una` to `snd_nxt`, and an entry keeps the mapping it
//! was first sent with, so a retransmission repeats the original DSS octet for octet.

use crate::buf::PacketBuf;
use crate::seq::{DataSeq, SeqNum};
use crate::time::Instant;
use alloc::collections::VecDeque;

/// A DSS mapping as we send it; `ssn` is relative to the subflow's ISN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TxMapping {
    pub(crate) dsn: DataSeq,
    pub(crate) ssn: u32,
    pub(crate) len: u16,
    pub(crate) checksum: Option<u16>,
    /// Sent as 64 bits.
    pub(crate) wide: bool,
    /// First data of an initiator: carried by `MP_CAPABLE` instead of a DSS (RFC 8684 §3.1).
    pub(crate) capable: bool,
}

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct SegmentFlags: u8 {
        const FIN = 1;
        const SACKED = 1 << 1;
        /// Considered lost and not sent again yet.
        const LOST = 1 << 2;
        /// Sent more than once.
        const RETRANSMITTED = 1 << 3;
        /// Ends a write: carries PSH.
        const PUSH = 1 << 4;
    }
}

/// One sent segment.
#[derive(Debug)]
pub(crate) struct TxSegment<B> {
    pub(crate) seq: SeqNum,
    /// Payload octets.
    pub(crate) len: u32,
    pub(crate) flags: SegmentFlags,
    pub(crate) transmissions: u8,
    /// RFC 1071 sum of the payload, kept for retransmissions.
    pub(crate) sum: u16,
    pub(crate) sent_at: Instant,
    pub(crate) payload: Option<B>,
    pub(crate) mapping: Option<TxMapping>,
}

impl<B> TxSegment<B> {
    pub(crate) fn seq_len(&self) -> u32 {
        self.len + u32::from(self.flags.contains(SegmentFlags::FIN))
    }

    pub(crate) fn end(&self) -> SeqNum {
        self.seq.add(self.seq_len())
    }

    pub(crate) fn is(&self, flags: SegmentFlags) -> bool {
        self.flags.contains(flags)
    }
}

/// What an acknowledgement newly covered.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Delivered {
    /// Octets newly acknowledged, cumulatively or selectively.
    pub(crate) bytes: u32,
    /// Send time and end of the newest segment among them that was sent only once.
    pub(crate) newest_original: Option<(Instant, SeqNum)>,
    /// The same, retransmissions included.
    pub(crate) newest: Option<(Instant, SeqNum, bool)>,
    /// A segment that was never retransmitted was delivered below one already known delivered.
    pub(crate) reordered: bool,
}

impl Delivered {
    fn note<B>(&mut self, segment: &TxSegment<B>) {
        self.bytes += segment.seq_len();
        let newer = |than: Instant, end: SeqNum| {
            segment.sent_at > than || (segment.sent_at == than && segment.end().gt(end))
        };
        let retransmitted = segment.is(SegmentFlags::RETRANSMITTED);
        if !retransmitted && self.newest_original.is_none_or(|(at, end)| newer(at, end)) {
            self.newest_original = Some((segment.sent_at, segment.end()));
        }
        if self.newest.is_none_or(|(at, end, _)| newer(at, end)) {
            self.newest = Some((segment.sent_at, segment.end(), retransmitted));
        }
    }
}

/// The retransmission queue of one connection.
#[derive(Debug)]
pub(crate) struct SendQueue<B> {
    segments: VecDeque<TxSegment<B>>,
    sacked_bytes: u32,
    lost_bytes: u32,
    /// Nothing below is marked lost.
    lost_from: SeqNum,
}

impl<B: PacketBuf> SendQueue<B> {
    pub(crate) const fn new() -> Self {
        Self { segments: VecDeque::new(), sacked_bytes: 0, lost_bytes: 0, lost_from: SeqNum(0) }
    }

    pub(crate) fn push(&mut self, segment: TxSegment<B>) {
        self.segments.push_back(segment);
    }

    /// Removes everything below `una`; trims the segment that straddles it.
    pub(crate) fn acknowledge(&mut self, una: SeqNum) -> Delivered {
        let mut delivered = Delivered::default();
        while let Some(front) = self.segments.front_mut() {
            if front.end().le(una) {
                if front.is(SegmentFlags::SACKED) {
                    self.sacked_bytes -= front.seq_len();
                } else {
                    delivered.note(front);
                    // Something sent later was delivered before it (RFC 8985 §6.2 step 3).
                    delivered.reordered |=
                        self.sacked_bytes > 0 && !front.is(SegmentFlags::RETRANSMITTED);
                }
                if front.is(SegmentFlags::LOST) {
                    self.lost_bytes -= front.seq_len();
                }
                self.segments.pop_front();
                continue;
            }
            if front.seq.lt(una) {
                let cut = una.since(front.seq).min(front.len);
                if front.is(SegmentFlags::SACKED) {
                    self.sacked_bytes -= cut;
                } else {
                    delivered.bytes += cut;
                }
                if front.is(SegmentFlags::LOST) {
                    self.lost_bytes -= cut;
                }
                front.seq = front.seq.add(cut);
                front.len -= cut;
                if let Some(payload) = &mut front.payload {
                    payload.trim_front(cut as usize);
                    front.sum = crate::wire::checksum::sum(payload.data());
                }
            }
            break;
        }
        if self.segments.is_empty() && self.segments.capacity() > 64 {
            self.segments = VecDeque::new();
        }
        delivered
    }

    /// Index of the first segment that ends after `seq`.
    pub(crate) fn index_of(&self, seq: SeqNum) -> usize {
        self.segments.partition_point(|s| s.end().le(seq))
    }

    /// Marks what lies wholly inside `start..end` as selectively acknowledged.
    pub(crate) fn sack(&mut self, start: SeqNum, end: SeqNum, into: &mut Delivered, fack: SeqNum) {
        let mut idx = self.segments.partition_point(|s| s.seq.lt(start));
        while let Some(segment) = self.segments.get_mut(idx) {
            if segment.end().gt(end) {
                break;
            }
            if !segment.is(SegmentFlags::SACKED) {
                if segment.is(SegmentFlags::LOST) {
                    self.lost_bytes -= segment.seq_len();
                    segment.flags.remove(SegmentFlags::LOST);
                }
                segment.flags.insert(SegmentFlags::SACKED);
                self.sacked_bytes += segment.seq_len();
                into.note(segment);
                if !segment.is(SegmentFlags::RETRANSMITTED) && segment.end().lt(fack) {
                    into.reordered = true;
                }
            }
            idx += 1;
        }
    }

    pub(crate) fn mark_lost(&mut self, idx: usize) {
        if let Some(segment) = self.segments.get_mut(idx)
            && !segment.flags.intersects(SegmentFlags::LOST.union(SegmentFlags::SACKED))
        {
            segment.flags.insert(SegmentFlags::LOST);
            let first = self.lost_bytes == 0 || segment.seq.lt(self.lost_from);
            self.lost_bytes += segment.seq_len();
            if first {
                self.lost_from = segment.seq;
            }
        }
    }

    /// Everything not selectively acknowledged is taken for lost (RFC 6298, 8985 §6.3). When the
    /// head itself is marked as selectively acknowledged the peer reneged: the marks are dropped.
    pub(crate) fn mark_all_lost(&mut self) {
        if self.segments.front().is_some_and(|s| s.is(SegmentFlags::SACKED)) {
            for segment in &mut self.segments {
                segment.flags.remove(SegmentFlags::SACKED);
            }
            self.sacked_bytes = 0;
        }
        for idx in 0..self.segments.len() {
            self.mark_lost(idx);
        }
    }

    /// Takes every loss mark back (spurious timeout).
    pub(crate) fn clear_lost(&mut self) {
        for segment in &mut self.segments {
            segment.flags.remove(SegmentFlags::LOST);
        }
        self.lost_bytes = 0;
    }

    /// The first segment marked lost.
    pub(crate) fn first_lost(&self) -> Option<usize> {
        if self.lost_bytes == 0 {
            return None;
        }
        let lost = |&i: &usize| self.segments.get(i).is_some_and(|s| s.is(SegmentFlags::LOST));
        (self.index_of(self.lost_from)..self.segments.len()).find(lost)
    }

    /// Notes that segment `idx` goes out again now.
    pub(crate) fn retransmitted(&mut self, idx: usize, now: Instant) {
        if let Some(segment) = self.segments.get_mut(idx) {
            if segment.is(SegmentFlags::LOST) {
                segment.flags.remove(SegmentFlags::LOST);
                self.lost_bytes -= segment.seq_len();
                self.lost_from = segment.end();
            }
            segment.flags.insert(SegmentFlags::RETRANSMITTED);
            segment.transmissions = segment.transmissions.saturating_add(1);
            segment.sent_at = now;
        }
    }

    /// Cuts segment `idx` so that it holds `len` payload octets; the rest becomes its successor
    /// with the same mapping.
    pub(crate) fn split(&mut self, idx: usize, len: u32) {
        let Some(segment) = self.segments.get_mut(idx) else { return };
        if len == 0 || segment.len <= len {
            return;
        }
        let Some(payload) = &mut segment.payload else { return };
        let rest = payload.slice(len as usize..segment.len as usize);
        payload.truncate(len as usize);
        segment.sum = crate::wire::checksum::sum(payload.data());
        let tail = TxSegment {
            seq: segment.seq.add(len),
            len: segment.len - len,
            flags: segment.flags,
            transmissions: segment.transmissions,
            sum: crate::wire::checksum::sum(rest.data()),
            sent_at: segment.sent_at,
            payload: Some(rest),
            mapping: segment.mapping,
        };
        segment.len = len;
        segment.flags.remove(SegmentFlags::FIN.union(SegmentFlags::PUSH));
        self.segments.insert(idx + 1, tail);
    }

    pub(crate) fn get(&self, idx: usize) -> Option<&TxSegment<B>> {
        self.segments.get(idx)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &TxSegment<B>> {
        self.segments.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.sacked_bytes
    }

    pub(crate) fn lost_bytes(&self) -> u32 {
        self.lost_bytes
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}
