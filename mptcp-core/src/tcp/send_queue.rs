//! What was sent and is not acknowledged, one entry per segment, with the SACK scoreboard in the
//! entries (RFC 2018, 6675, 8985), and what waits to be sent for the first time.
//!
//! Invariant: entries are contiguous from `snd_una` to `snd_nxt`, and an entry keeps the mapping it
//! was first sent with, so a retransmission repeats the original DSS octet for octet.
//!
//! A peer decides how often it acknowledges and what its blocks cover, so an acknowledgement costs
//! no more than what it changes (and a search): every entry is in exactly one of two lists or
//! selectively acknowledged. What is in flight is listed in the order of transmission, which is
//! where RACK stops as soon as something is not overtaken; what is lost in the order it is repaired
//! in. Runs of selectively acknowledged entries are jumped over, by links that are shortened
//! whenever they are followed.

use super::delivery::Stamp;
use crate::buf::PacketBuf;
use crate::seq::{DataSeq, SeqNum};
use crate::time::{Duration, Instant};
use crate::util::on_demand::{Empty, ROOMY};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

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
    /// Octets of the segments in front and behind that share its DSS: see [`TxMapping::on_wire`].
    pub(crate) before: u16,
    pub(crate) behind: u16,
}

impl TxMapping {
    /// What the DSS says: where the mapping that the segment shares with its neighbours begins, in the
    /// stream and on the subflow, and how long it is.
    pub(crate) const fn on_wire(&self) -> (DataSeq, u32, u16) {
        let (dsn, ssn) = (
            self.dsn.0.wrapping_sub(self.before as u64),
            self.ssn.wrapping_sub(self.before as u32),
        );
        (DataSeq(dsn), ssn, self.before + self.len + self.behind)
    }
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
        /// Lost once, and another subflow was asked to deliver it as well.
        const ELSEWHERE = 1 << 5;
    }
}

/// "No entry".
const NIL: u32 = u32::MAX;
/// Entries are numbered modulo 2^31, so that no number is `NIL`.
const NUMBERS: u32 = u32::MAX >> 1;

/// Where a segment stands in its queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Running number of its last transmission.
    order: u32,
    /// Neighbours in its list.
    prev: u32,
    next: u32,
    /// While selectively acknowledged: a later entry, up to which all are.
    skip: u32,
}

impl Place {
    /// Before `SendQueue::push`.
    pub(crate) const NOWHERE: Self = Self { order: 0, prev: NIL, next: NIL, skip: NIL };
}

/// One sent segment.
#[derive(Debug)]
pub(crate) struct TxSegment<B> {
    pub(crate) seq: SeqNum,
    /// Payload octets.
    pub(crate) len: u32,
    pub(crate) flags: SegmentFlags,
    pub(crate) transmissions: u8,
    pub(crate) sent_at: Instant,
    /// What the last transmission will tell about the rate of the path.
    pub(crate) stamp: Stamp,
    pub(crate) payload: Option<B>,
    pub(crate) mapping: Option<TxMapping>,
    pub(crate) place: Place,
}

impl<B> TxSegment<B> {
    pub(crate) fn seq_len(&self) -> u32 {
        self.len + u32::from(self.flags.contains(SegmentFlags::FIN))
    }

    pub(crate) fn end(&self) -> SeqNum {
        self.seq.add(self.seq_len())
    }

    fn text_end(&self) -> SeqNum {
        self.seq.add(self.len)
    }

    pub(crate) fn is_sacked(&self) -> bool {
        self.is(SegmentFlags::SACKED)
    }

    pub(crate) fn is(&self, flags: SegmentFlags) -> bool {
        self.flags.contains(flags)
    }
}

impl<B: PacketBuf> TxSegment<B> {
    /// Takes what lies behind the first `len` payload octets off: another segment with the same mapping.
    fn cut(&mut self, len: u32) -> Option<Self> {
        if len == 0 || self.len <= len {
            return None;
        }
        let payload = self.payload.as_mut()?;
        let rest = payload.slice(len as usize..self.len as usize);
        payload.truncate(len as usize);
        let tail = Self {
            seq: self.seq.add(len),
            len: self.len - len,
            flags: self.flags,
            transmissions: self.transmissions,
            sent_at: self.sent_at,
            stamp: self.stamp,
            payload: Some(rest),
            mapping: self.mapping,
            place: self.place,
        };
        self.len = len;
        self.flags.remove(SegmentFlags::FIN.union(SegmentFlags::PUSH));
        Some(tail)
    }
}

/// A transmission, for telling which of two came first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Transmission(u32);

impl Transmission {
    pub(crate) const fn before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }
}

/// The last transmission of something that was delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub(crate) transmission: Transmission,
    pub(crate) sent_at: Instant,
    pub(crate) stamp: Stamp,
    pub(crate) retransmitted: bool,
}

impl Newest {
    fn of<B>(segment: &TxSegment<B>) -> Self {
        Self {
            transmission: Transmission(segment.place.order),
            sent_at: segment.sent_at,
            stamp: segment.stamp,
            retransmitted: segment.is(SegmentFlags::RETRANSMITTED),
        }
    }
}

/// What an acknowledgement newly covered.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Delivered {
    /// Octets newly acknowledged, cumulatively or selectively.
    pub(crate) bytes: u32,
    /// The newest segment among them that was sent only once.
    pub(crate) newest_original: Option<Newest>,
    /// The same, retransmissions included.
    pub(crate) newest: Option<Newest>,
    /// A segment that was never retransmitted was delivered below one already known delivered.
    pub(crate) reordered: bool,
}

impl Delivered {
    fn note<B>(&mut self, segment: &TxSegment<B>) {
        self.bytes += segment.seq_len();
        let this = Newest::of(segment);
        let newer = |than: &Newest| than.transmission.before(this.transmission);
        if !this.retransmitted && self.newest_original.as_ref().is_none_or(newer) {
            self.newest_original = Some(this);
        }
        if self.newest.as_ref().is_none_or(newer) {
            self.newest = Some(this);
        }
    }
}

/// The ends of a list of entries, by number.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL };
}

/// The retransmission queue of one connection.
#[derive(Debug)]
pub(crate) struct SendQueue<B> {
    segments: VecDeque<TxSegment<B>>,
    /// Number of the first entry; they count on from there.
    first: u32,
    /// The next transmission.
    next_order: u32,
    /// Neither lost nor selectively acknowledged, the oldest transmission first.
    flight: List,
    /// Lost and not sent again, by sequence number as far as they were marked in that order.
    lost: List,
    /// The entry marked lost last.
    lost_last: u32,
    sacked_bytes: u32,
    sacked_count: u32,
    lost_bytes: u32,
    /// Octets marked lost so far and not taken back; wraps.
    lost_total: u32,
    /// End of the highest entry selectively acknowledged, while any is.
    fack: SeqNum,
}

impl<B: PacketBuf> Empty for SendQueue<B> {
    const EMPTY: Self = Self::new();
    const ABSENT: &'static Self = &Self::new();

    fn is_unused(&self) -> bool {
        self.segments.is_empty()
    }
}

impl<B: PacketBuf> SendQueue<B> {
    pub(crate) const fn new() -> Self {
        Self {
            segments: VecDeque::new(),
            first: 0,
            // The default transmission is before all others.
            next_order: 1,
            flight: List::EMPTY,
            lost: List::EMPTY,
            lost_last: NIL,
            sacked_bytes: 0,
            sacked_count: 0,
            lost_bytes: 0,
            lost_total: 0,
            fack: SeqNum(0),
        }
    }

    /// Notes a segment that was sent for the first time.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut segment: TxSegment<B>) {
        // The last entry, and the newest transmission: behind what was the newest.
        let (number, newest) = (self.number(self.segments.len()), self.flight.tail);
        segment.place = Place { order: self.next_order, prev: newest, ..Place::NOWHERE };
        self.next_order = self.next_order.wrapping_add(1);
        match self.place(newest) {
            Some(before) => before.next = number,
            None => self.flight.head = number,
        }
        self.flight.tail = number;
        self.segments.push_back(segment);
    }

    /// Removes everything below `una`; trims the segment that straddles it.
    pub(crate) fn acknowledge(&mut self, una: SeqNum) -> Delivered {
        let mut delivered = Delivered::default();
        let mut whole = self.deliver_in_order(una, &mut delivered);
        while self.segments.get(whole).is_some_and(|front| front.end().le(una)) {
            step();
            self.unlink(whole);
            let Some(front) = self.segments.get(whole) else { break };
            whole += 1;
            if front.is(SegmentFlags::SACKED) {
                self.sacked_bytes -= front.seq_len();
                self.sacked_count -= 1;
            } else {
                delivered.note(front);
                // Something sent later was delivered before it (RFC 8985 §6.2 step 3).
                delivered.reordered |=
                    self.sacked_bytes > 0 && !front.is(SegmentFlags::RETRANSMITTED);
            }
            if front.is(SegmentFlags::LOST) {
                self.lost_bytes -= front.seq_len();
            }
        }
        self.segments.drain(..whole);
        self.first = (self.first + whole as u32) & NUMBERS;
        if let Some(front) = self.segments.front_mut()
            && front.seq.lt(una)
        {
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
            }
            if front.len == 0 && front.is(SegmentFlags::SACKED) {
                self.lose_fin();
            }
        }
        if self.segments.is_empty() && self.segments.capacity() > ROOMY {
            self.segments = VecDeque::new();
        }
        delivered
    }

    /// Takes the first entries out of the list of those in flight that end at `una` or before, as far as they
    /// were sent once and in their order while nothing is lost or selectively acknowledged: nearly always that
    /// is all. Answers how many.
    fn deliver_in_order(&mut self, una: SeqNum, delivered: &mut Delivered) -> usize {
        if self.sacked_count > 0 || self.lost.head != NIL || self.lost_last != NIL {
            return 0;
        }
        let (mut count, mut head, mut last) = (0, self.flight.head, None);
        for segment in &self.segments {
            let once = !segment.is(SegmentFlags::RETRANSMITTED) && head == self.number(count);
            if !once || segment.end().gt(una) {
                break;
            }
            step();
            delivered.bytes += segment.seq_len();
            (head, last) = (segment.place.next, Some(segment));
            count += 1;
        }
        let Some(newest) = last.map(Newest::of) else { return 0 };
        (delivered.newest, delivered.newest_original) = (Some(newest), Some(newest));
        self.flight.head = head;
        match self.place(head) {
            Some(first) => first.prev = NIL,
            None => self.flight.tail = NIL,
        }
        count
    }

    /// The text of the first entry was selectively acknowledged, and now it is in order while the FIN
    /// is not: the peer kept the one and not the other.
    fn lose_fin(&mut self) {
        let number = self.number(0);
        let Some(front) = self.segments.front_mut() else { return };
        front.flags.remove(SegmentFlags::SACKED);
        front.flags.insert(SegmentFlags::LOST);
        self.sacked_bytes -= 1;
        self.sacked_count -= 1;
        self.lost_bytes += 1;
        self.lost_total = self.lost_total.wrapping_add(1);
        self.link(SegmentFlags::LOST, 0, NIL);
        self.lost_last = number;
    }

    /// Marks what lies wholly inside `start..end` as selectively acknowledged. `fack` is what
    /// [`Self::highest_sacked`] said before the acknowledgement. Some peers leave the FIN behind the
    /// text out of their blocks: the text is what counts.
    pub(crate) fn sack(&mut self, start: SeqNum, end: SeqNum, into: &mut Delivered, fack: SeqNum) {
        let mut idx = self.segments.partition_point(|s| s.seq.lt(start));
        loop {
            idx = self.skip_sacked(idx);
            step();
            let beyond = |s: &TxSegment<B>| s.end().gt(end) && (s.len == 0 || s.text_end().gt(end));
            if self.segments.get(idx).is_none_or(beyond) {
                return;
            }
            self.unlink(idx);
            let next = self.number(idx + 1);
            let Some(segment) = self.segments.get_mut(idx) else { return };
            let octets = segment.seq_len();
            if segment.is(SegmentFlags::LOST) {
                self.lost_bytes -= octets;
                segment.flags.remove(SegmentFlags::LOST);
            }
            segment.flags.insert(SegmentFlags::SACKED);
            segment.place.skip = next;
            into.note(segment);
            into.reordered |= !segment.is(SegmentFlags::RETRANSMITTED) && segment.end().lt(fack);
            let highest = segment.end();
            self.fack = if self.sacked_bytes == 0 { highest } else { self.fack.max(highest) };
            self.sacked_bytes += octets;
            self.sacked_count += 1;
            idx += 1;
        }
    }

    /// Index of the first entry from `idx` on that is not selectively acknowledged. Everything
    /// passed on the way points there afterwards: however a peer repeats its blocks, a run is walked
    /// through a logarithmic number of times on average.
    fn skip_sacked(&mut self, idx: usize) -> usize {
        let next = |queue: &Self, at: usize| {
            let segment = queue.segments.get(at)?;
            segment.is(SegmentFlags::SACKED).then(|| queue.index(segment.place.skip))?
        };
        let mut to = idx;
        while let Some(later) = next(self, to) {
            step();
            to = later;
        }
        let mut at = idx;
        while at != to {
            let later = next(self, at);
            let number = self.number(to);
            if let Some(segment) = self.segments.get_mut(at) {
                segment.place.skip = number;
            }
            at = later.unwrap_or(to);
        }
        to
    }

    pub(crate) fn mark_lost(&mut self, idx: usize) {
        let known = SegmentFlags::LOST.union(SegmentFlags::SACKED);
        if self.segments.get(idx).is_none_or(|segment| segment.flags.intersects(known)) {
            return;
        }
        self.unlink(idx);
        let number = self.number(idx);
        let after = self.lost_place(idx);
        let Some(segment) = self.segments.get_mut(idx) else { return };
        segment.flags.insert(SegmentFlags::LOST);
        self.lost_bytes += segment.seq_len();
        self.lost_total = self.lost_total.wrapping_add(segment.seq_len());
        self.link(SegmentFlags::LOST, idx, after);
        self.lost_last = number;
    }

    /// RFC 8985 §6.2 step 5: what was sent before `newest`, and at least `window` ago, is lost.
    /// Answers when the first that was sent before it, but too shortly ago, will be.
    pub(crate) fn mark_overtaken(
        &mut self,
        newest: Transmission,
        window: Duration,
        now: Instant,
    ) -> Option<Instant> {
        while let Some(idx) = self.index(self.flight.head) {
            step();
            let oldest = self.segments.get(idx)?;
            if !Transmission(oldest.place.order).before(newest) {
                return None;
            }
            let due = oldest.sent_at + window;
            if due > now {
                return Some(due);
            }
            self.mark_lost(idx);
        }
        None
    }

    /// The retransmission timer fired: the head is lost and goes first (RFC 6298 §5.4), and so is what
    /// was sent at least `window` ago (RFC 8985 §6.3); everything without a window. When the head itself is marked as
    /// selectively acknowledged the peer reneged: no mark means anything any more.
    pub(crate) fn mark_timed_out(&mut self, window: Option<Duration>, now: Instant) {
        if self.segments.front().is_some_and(|s| s.is(SegmentFlags::SACKED)) {
            return self.forget_sacked();
        }
        self.mark_lost(0);
        if self.lost.head != self.number(0) && self.segments.front().is_some() {
            // It was marked behind others before.
            self.unlink(0);
            self.link(SegmentFlags::LOST, 0, NIL);
        }
        while let Some(idx) = self.index(self.flight.head) {
            let recent = |w| self.segments.get(idx).is_none_or(|s| s.sent_at + w > now);
            if window.is_some_and(recent) {
                return;
            }
            self.mark_lost(idx);
        }
    }

    fn forget_sacked(&mut self) {
        (self.flight, self.lost, self.lost_last) = (List::EMPTY, List::EMPTY, NIL);
        (self.sacked_bytes, self.sacked_count, self.lost_bytes) = (0, 0, 0);
        for idx in 0..self.segments.len() {
            if let Some(segment) = self.segments.get_mut(idx) {
                segment.flags.remove(SegmentFlags::SACKED);
                segment.flags.insert(SegmentFlags::LOST);
                self.lost_bytes += segment.seq_len();
            }
            self.link(SegmentFlags::LOST, idx, self.lost.tail);
        }
    }

    /// Takes every loss mark back (spurious timeout).
    pub(crate) fn clear_lost(&mut self) {
        let mut after = NIL;
        while let Some(idx) = self.index(self.lost.head) {
            self.unlink(idx);
            if let Some(segment) = self.segments.get_mut(idx) {
                segment.flags.remove(SegmentFlags::LOST);
            }
            after = self.flight_place(idx, after);
            self.link(SegmentFlags::empty(), idx, after);
            after = self.number(idx);
        }
        self.lost_total = self.lost_total.wrapping_sub(self.lost_bytes);
        self.lost_bytes = 0;
    }

    /// The lost segment to be repaired next.
    pub(crate) fn first_lost(&self) -> Option<usize> {
        self.index(self.lost.head)
    }

    /// Notes that segment `idx` goes out again now.
    pub(crate) fn retransmitted(&mut self, idx: usize, now: Instant, stamp: Stamp) {
        self.unlink(idx);
        let Some(segment) = self.segments.get_mut(idx) else { return };
        if segment.is(SegmentFlags::LOST) {
            segment.flags.remove(SegmentFlags::LOST);
            self.lost_bytes -= segment.seq_len();
        }
        segment.flags.insert(SegmentFlags::RETRANSMITTED);
        segment.transmissions = segment.transmissions.saturating_add(1);
        segment.sent_at = now;
        segment.stamp = stamp;
        self.put_in_flight(idx);
    }

    /// Cuts segment `idx` so that it holds `len` payload octets; the rest becomes its successor
    /// with the same mapping. O(entries): for the rare change of the segment size.
    pub(crate) fn split(&mut self, idx: usize, len: u32) {
        let Some(segment) = self.segments.get_mut(idx) else { return };
        let Some(tail) = segment.cut(len) else { return };
        let flags = tail.flags;
        self.segments.insert(idx + 1, tail);
        self.renumber(idx + 1);
        if flags.contains(SegmentFlags::SACKED) {
            self.sacked_count += 1;
        } else {
            self.link(flags & SegmentFlags::LOST, idx + 1, self.number(idx));
        }
    }

    /// Cuts all that is not selectively acknowledged and longer than `room` says into pieces, as
    /// [`Self::split`] does one by one, if `idx` is; answers where that begins then. O(entries) for all of them: a peer
    /// that has the segment size change, or who forges an ICMP message, decides how many there are.
    pub(crate) fn split_all(&mut self, idx: usize, room: impl Fn(&TxSegment<B>) -> u32) -> usize {
        let room = |segment: &TxSegment<B>| {
            let whole = segment.is(SegmentFlags::SACKED) || segment.payload.is_none();
            if whole { u32::MAX } else { room(segment).max(1) }
        };
        if self.segments.get(idx).is_none_or(|segment| segment.len <= room(segment)) {
            return idx;
        }
        // Where each will begin, and the end.
        let mut starts = Vec::with_capacity(self.segments.len() + 1);
        let mut count = 0;
        for segment in &self.segments {
            step();
            starts.push(count);
            count += segment.len.div_ceil(room(segment)).max(1) as usize;
        }
        starts.push(count);
        let first = self.first;
        let number = |idx: usize| (first + idx as u32) & NUMBERS;
        let begin = |old: u32| {
            let idx = (old.wrapping_sub(first) & NUMBERS) as usize;
            let known = starts.get(idx).filter(|_| old != NIL);
            known.map_or(NIL, |&start| number(start))
        };
        let end = |old: u32| {
            let behind = (old.wrapping_sub(first) & NUMBERS) as usize + 1;
            let known = starts.get(behind).filter(|_| old != NIL);
            known.map_or(NIL, |&next| number(next - 1))
        };
        let mut segments = VecDeque::with_capacity(count);
        for mut segment in core::mem::take(&mut self.segments) {
            let Place { order, prev, next, skip } = segment.place;
            segment.place = Place { order, prev: end(prev), next: begin(next), skip: begin(skip) };
            while let Some(mut tail) = segment.cut(room(&segment)) {
                step();
                let at = segments.len();
                tail.place.prev = number(at);
                segment.place.next = number(at + 1);
                segments.push_back(core::mem::replace(&mut segment, tail));
            }
            segments.push_back(segment);
        }
        self.segments = segments;
        for list in [&mut self.flight, &mut self.lost] {
            *list = List { head: begin(list.head), tail: end(list.tail) };
        }
        self.lost_last = end(self.lost_last);
        starts.get(idx).copied().unwrap_or(idx)
    }

    /// The newest `count` segments leave with one DSS, which covers `octets` from the first of them on, and
    /// so they do when they go again. `tell` has it said in the packet of one of them, counted from the first.
    pub(crate) fn share_mapping(
        &mut self,
        count: usize,
        octets: u16,
        mut tell: impl FnMut(usize) -> bool,
    ) {
        let first = self.segments.len().saturating_sub(count);
        for (at, segment) in self.segments.range_mut(first..).enumerate() {
            let Some(mapping) = &mut segment.mapping else { continue };
            let behind = octets.saturating_sub(mapping.before + mapping.len);
            if behind > 0 && tell(at) {
                mapping.behind = behind;
            }
        }
    }

    pub(crate) fn get(&self, idx: usize) -> Option<&TxSegment<B>> {
        self.segments.get(idx)
    }

    /// The segment that holds octet `seq` is selectively acknowledged.
    pub(crate) fn is_sacked(&self, seq: SeqNum) -> bool {
        let idx = self.segments.partition_point(|s| s.end().le(seq));
        self.segments.get(idx).is_some_and(|segment| segment.is(SegmentFlags::SACKED))
    }

    /// Octets in `start..end` that are lost and were sent only once.
    pub(crate) fn lost_once(&self, start: SeqNum, end: SeqNum) -> u32 {
        let idx = self.segments.partition_point(|s| s.end().le(start));
        let inside = self.segments.range(idx..).take_while(|segment| segment.seq.lt(end));
        let lost = inside.filter(|s| s.is(SegmentFlags::LOST) && s.transmissions == 1);
        lost.map(TxSegment::seq_len).sum()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &TxSegment<B>> {
        self.segments.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Something of every line of the queue itself (`stack/warm.rs`).
    pub(super) fn touch(&self) -> u64 {
        self.segments.len() as u64 ^ u64::from(self.first) ^ u64::from(self.lost_total)
    }

    /// Something of the oldest entry and the newest, behind which the next one will be.
    pub(super) fn touch_ends(&self) -> u64 {
        let of = |segment: &TxSegment<B>| u64::from(segment.seq.0) ^ u64::from(segment.place.next);
        self.segments.front().map_or(0, of) ^ self.segments.back().map_or(0, of)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.sacked_bytes
    }

    /// Segments selectively acknowledged.
    pub(crate) fn sacked_count(&self) -> u32 {
        self.sacked_count
    }

    /// End of the highest segment selectively acknowledged (RFC 8985 `RACK.fack`), `una` without one.
    pub(crate) fn highest_sacked(&self, una: SeqNum) -> SeqNum {
        if self.sacked_bytes == 0 { una } else { self.fack }
    }

    /// Shows each mapping that was lost since the last time and is not sent again yet, the newest mark
    /// first.
    pub(crate) fn each_new_loss(&mut self, mut each: impl FnMut(&TxMapping)) {
        let mut at = self.lost.tail;
        while let Some(segment) = self.index(at).and_then(|idx| self.segments.get_mut(idx)) {
            if segment.is(SegmentFlags::ELSEWHERE) {
                return;
            }
            segment.flags.insert(SegmentFlags::ELSEWHERE);
            if let Some(mapping) = &segment.mapping {
                each(mapping);
            }
            at = segment.place.prev;
        }
    }

    /// Octets marked lost so far; wraps.
    pub(crate) fn lost_total(&self) -> u32 {
        self.lost_total
    }

    pub(crate) fn lost_bytes(&self) -> u32 {
        self.lost_bytes
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    // Numbers and lists.

    fn number(&self, idx: usize) -> u32 {
        (self.first + idx as u32) & NUMBERS
    }

    fn index(&self, number: u32) -> Option<usize> {
        (number != NIL).then(|| (number.wrapping_sub(self.first) & NUMBERS) as usize)
    }

    fn list(&mut self, flags: SegmentFlags) -> &mut List {
        if flags.contains(SegmentFlags::LOST) { &mut self.lost } else { &mut self.flight }
    }

    fn place(&mut self, number: u32) -> Option<&mut Place> {
        let idx = self.index(number)?;
        self.segments.get_mut(idx).map(|segment| &mut segment.place)
    }

    /// Puts `idx` into the list that `flags` tell, behind entry `after` (`NIL`: in front).
    fn link(&mut self, flags: SegmentFlags, idx: usize, after: u32) {
        let number = self.number(idx);
        let next = match self.place(after) {
            Some(before) => core::mem::replace(&mut before.next, number),
            None => core::mem::replace(&mut self.list(flags).head, number),
        };
        match self.place(next) {
            Some(behind) => behind.prev = number,
            None => self.list(flags).tail = number,
        }
        if let Some(place) = self.place(number) {
            (place.prev, place.next) = (after, next);
        }
    }

    /// Takes `idx` out of the list its flags tell.
    fn unlink(&mut self, idx: usize) {
        let Some(segment) = self.segments.get(idx) else { return };
        let (flags, Place { prev, next, .. }) = (segment.flags, segment.place);
        if flags.contains(SegmentFlags::SACKED) {
            return;
        }
        match self.place(prev) {
            Some(before) => before.next = next,
            None => self.list(flags).head = next,
        }
        match self.place(next) {
            Some(behind) => behind.prev = prev,
            None => self.list(flags).tail = prev,
        }
        if self.lost_last == self.number(idx) {
            self.lost_last = prev;
        }
    }

    /// The newest transmission: last of what is in flight.
    fn put_in_flight(&mut self, idx: usize) {
        let order = self.next_order;
        let Some(segment) = self.segments.get_mut(idx) else { return };
        segment.place.order = order;
        if segment.is(SegmentFlags::SACKED) {
            return;
        }
        self.next_order = order.wrapping_add(1);
        self.link(SegmentFlags::empty(), idx, self.flight.tail);
    }

    /// Behind which lost entry `idx` belongs. Marks are made in the order of transmission, which is
    /// that of sequence but for repairs that are lost again: behind the last mark, or in front of all
    /// others, is right nearly always. Where it is not, what was marked first is repaired first.
    fn lost_place(&self, idx: usize) -> u32 {
        let below = |number: u32| self.index(number).is_some_and(|other| other < idx);
        let last = self.index(self.lost_last).and_then(|at| self.segments.get(at));
        if !below(self.lost.head) {
            NIL
        } else if below(self.lost_last) && last.is_some_and(|s| !below(s.place.next)) {
            self.lost_last
        } else {
            self.lost.tail
        }
    }

    /// Behind which entry in flight `idx` belongs, looked for from `from` on.
    fn flight_place(&self, idx: usize, from: u32) -> u32 {
        let order = |number: u32| {
            let segment = self.segments.get(self.index(number)?)?;
            Some((Transmission(segment.place.order), segment.place.next))
        };
        let Some((this, _)) = order(self.number(idx)) else { return NIL };
        let mut after = if order(from).is_some_and(|(t, _)| t.before(this)) { from } else { NIL };
        loop {
            let next = order(after).map_or(self.flight.head, |(_, next)| next);
            if !order(next).is_some_and(|(t, _)| t.before(this)) {
                return after;
            }
            step();
            after = next;
        }
    }

    /// Entry `new` was inserted: everything behind it has moved on by one.
    fn renumber(&mut self, new: usize) {
        let (first, new) = (self.first, new as u32);
        let moved = |number: &mut u32| {
            if *number != NIL && number.wrapping_sub(first) & NUMBERS >= new {
                *number = (*number + 1) & NUMBERS;
            }
        };
        for Place { prev, next, skip, .. } in self.segments.iter_mut().map(|s| &mut s.place) {
            step();
            [prev, next, skip].into_iter().for_each(moved);
        }
        for list in [&mut self.flight, &mut self.lost] {
            moved(&mut list.head);
            moved(&mut list.tail);
        }
        moved(&mut self.lost_last);
    }
}

/// Counts the entries looked at, for the tests.
#[cfg(not(test))]
const fn step() {}
#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests;
