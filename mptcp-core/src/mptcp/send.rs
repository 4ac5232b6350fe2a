//! The sending half of the data level: what the application wrote, kept until a `DATA_ACK` covers
//! it, and which part of it goes out next.

use super::{Connection, Hold, Phase};
use crate::buf::{PacketBuf, TxQueue};
use crate::config::SchedulerKind;
use crate::seq::DataSeq;
use crate::tcp::{Burst, RecvQueue, Tcb, Tcbs, TxMapping, TxSegment, gather, goes_alone, sum_of};
use crate::time::{Duration, Instant};
use crate::util::on_demand::{Empty, ROOMY};
use crate::util::range_set::RangeSet;
use crate::wire::{Version, WireSeq, checksum};
use alloc::collections::VecDeque;
use core::num::NonZeroU32;
use core::ops::Range;

/// Written data: buffers, and where each begins in the stream. They are apart so that a queue of buffers
/// moves in as it is.
///
/// Invariant: there are as many of the one as of the other.
#[derive(Debug)]
pub(crate) struct Written<B> {
    bufs: VecDeque<B>,
    starts: VecDeque<u64>,
}

impl<B: PacketBuf> Written<B> {
    const fn new() -> Self {
        Self { bufs: VecDeque::new(), starts: VecDeque::new() }
    }

    fn push(&mut self, start: u64, buf: B) {
        self.starts.push_back(start);
        self.bufs.push_back(buf);
    }

    fn start(&self, idx: usize) -> Option<u64> {
        self.starts.get(idx).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.bufs.len()
    }

    pub(super) fn clear(&mut self) {
        self.starts.clear();
        self.bufs.clear();
    }

    /// Of the oldest (`mptcp/warm.rs`).
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        let (start, buf) = (self.starts.front().copied(), self.bufs.front());
        start.unwrap_or(0) ^ buf.map_or(0, |buf| buf.data_len() as u64)
    }

    /// Whether `offset` is in the buffer at `idx`.
    fn holds(&self, idx: usize, offset: u64) -> bool {
        let into = self.start(idx).and_then(|start| offset.checked_sub(start));
        into.zip(self.bufs.get(idx)).is_some_and(|(into, buf)| into < buf.data_len() as u64)
    }

    /// Behind what begins at `offset` or before.
    fn behind(&self, offset: u64) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

impl<B: PacketBuf> Empty for Written<B> {
    const EMPTY: Self = Self::new();
    const ABSENT: &'static Self = &Self::new();

    fn is_unused(&self) -> bool {
        self.bufs.is_empty()
    }
}

/// A mapping may not be longer than its length field says.
pub(super) const MAX_MAPPING: u32 = 65_000;
/// `DATA_ACK`s after a repair of lost data that are looked at for more: those of a whole one, in segments of
/// 256 octets.
const GAP_ACKS: u8 = 255;
/// Ranges waiting to be sent again; beyond it everything outstanding is.
const MAX_REINJECTIONS: usize = 1024;
/// 32-bit sequence numbers are safe below this many octets per two minutes (half a wrap in one
/// MSL).
const NARROW_OCTETS: u64 = 1 << 31;
const MSL_MS: u32 = 120_000;

/// What is to be sent next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Next {
    pub(crate) start: u64,
    pub(crate) len: u32,
    /// It was sent before, on another subflow.
    pub(crate) again: bool,
}

impl Next {
    /// What is left of it when the first `len` octets are sent.
    pub(crate) const fn behind(self, len: u32) -> Self {
        Self { start: self.start + len as u64, len: self.len - len, again: self.again }
    }
}

/// New data that goes in its turn, one segment behind the other, without another look at the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// The last place where a segment of it may begin.
    last: u64,
    end: u64,
}

impl Stretch {
    pub(crate) const NONE: Self = Self { last: 0, end: 0 };

    /// What is to be sent when all before `start` was.
    pub(crate) fn behind(&self, start: u64) -> Option<Next> {
        let left = u32::try_from(self.end.saturating_sub(start)).unwrap_or(MAX_MAPPING);
        (start <= self.last).then_some(Next { start, len: left.min(MAX_MAPPING), again: false })
    }
}

/// What goes again where `mapping` does. Kernels of version 0, and phones of either, take nothing of a mapping before
/// all of it is there: what other segments have of it they lack as well, were it acknowledged by TCP.
fn taken_with(mapping: &TxMapping, origin: DataSeq) -> (u64, u64) {
    let (dsn, _, len) = mapping.on_wire();
    let start = dsn.since(origin);
    (start, start + u64::from(len))
}

impl<B: PacketBuf> Connection<B> {
    /// Queues written data; the caller checked the room.
    pub(crate) fn write(&mut self, buf: B) {
        let len = buf.data_len();
        if len == 0 {
            return;
        }
        if let Some(tail) = self.written.bufs.back_mut()
            && len * 8 <= buf.truesize()
            && let Some(room) = tail.append(len)
        {
            // Written octet by octet: copied, they do not pin a buffer each.
            room.copy_from_slice(buf.data());
        } else {
            self.pinned = self.pinned.saturating_add(buf.truesize() as u32);
            self.written.push(self.data_end, buf);
        }
        self.data_end += len as u64;
    }

    /// Queues all that `received` has in order, as [`Connection::write`] does one by one where the first of them
    /// is not small; answers its octets.
    pub(crate) fn write_all(&mut self, received: &mut RecvQueue<B>) -> u32 {
        let before = self.data_end;
        let (mut end, mut pinned) = (self.data_end, self.pinned);
        let Written { bufs, starts } = &mut *self.written;
        starts.extend(received.iter().map(|buf| {
            pinned = pinned.saturating_add(buf.truesize() as u32);
            let start = end;
            end += buf.data_len() as u64;
            start
        }));
        received.move_to(bufs);
        (self.data_end, self.pinned) = (end, pinned);
        (end - before) as u32
    }

    /// The first `octets` of what was written arrived with the SYN: the stream begins behind them
    /// (RFC 8684 Appendix B.2). Nothing of it was sent yet.
    pub(crate) fn skip_early(&mut self, octets: u32) {
        let mut left = octets as usize;
        let Written { bufs, starts } = &mut *self.written;
        while let Some(front) = bufs.front_mut() {
            let len = front.data_len();
            if left < len {
                front.trim_front(left);
                break;
            }
            left -= len;
            self.pinned = self.pinned.saturating_sub(front.truesize() as u32);
            bufs.pop_front();
            starts.pop_front();
        }
        let mut end = 0;
        for (start, buf) in starts.iter_mut().zip(bufs) {
            *start = end;
            end += buf.data_len() as u64;
        }
        self.data_end = end;
        self.early_sent = u16::try_from(octets).unwrap_or(u16::MAX);
    }

    /// What a SYN of at most `room` octets may carry: the beginning of the stream.
    pub(crate) fn early_data(&self, room: usize) -> Option<B> {
        let first = self.written.bufs.front()?;
        Some(first.slice(0..first.data_len().min(room)))
    }

    /// What counts against the send buffer: octets written and not acknowledged, or half the memory
    /// they pin, whichever is more.
    pub(crate) fn send_buffered(&self) -> u32 {
        let octets = self.data_end - self.data_snd_una;
        u32::try_from(octets).unwrap_or(u32::MAX).max(self.pinned / 2)
    }

    /// The peer has all that was written: no scheduler would choose anything.
    pub(crate) fn has_nothing_to_send(&self) -> bool {
        self.data_snd_una == self.data_end
            && self.scheduler != SchedulerKind::Redundant
            && self.rare.reinject.is_none()
    }

    /// Something is to be sent again.
    pub(crate) fn has_repairs(&self) -> bool {
        self.rare.reinject.is_some()
    }

    /// What wants to be sent next: repairs first, then new data within the peer's window.
    pub(crate) fn next_to_send(&self) -> Option<Next> {
        let window_end = self.data_end.min(self.snd_edge);
        let end = self.ahead_start().map_or(window_end, |start| start.min(window_end));
        let left = end.saturating_sub(self.data_snd_nxt);
        // What was sent ahead of its turn and got lost is waited for when its turn comes.
        let due = |range: &Range<u64>| range.start <= self.data_snd_nxt || left == 0;
        let repair = self.rare.reinject.as_ref().and_then(|ranges| ranges.first()).filter(due);
        let (start, len, again) = match repair {
            Some(range) => (range.start, range.end - range.start, true),
            None => (self.data_snd_nxt, left, false),
        };
        let len = u32::try_from(len).unwrap_or(MAX_MAPPING).min(MAX_MAPPING);
        (len > 0).then_some(Next { start, len, again })
    }

    /// As far as [`Connection::next_to_send`] answers new data, whole segments of `mss`, whose numbers
    /// [keep their width](Self::keeps_width), while the peer's window [cuts](Self::window_cuts) none of `first`
    /// octets. Nothing is to be repaired now.
    pub(crate) fn stretch(&self, mss: u32, first: u32) -> Stretch {
        let end = self.ahead_start().unwrap_or(u64::MAX).min(self.data_end).min(self.snd_edge);
        let mut last = end.saturating_sub(u64::from(mss));
        if self.snd_edge < self.data_end {
            last = last.min(self.snd_edge.saturating_sub(u64::from(first)));
        }
        if !self.keeps_width(last) {
            last = self.wide_base + NARROW_OCTETS;
        }
        Stretch { last, end }
    }

    /// Sender-side silly-window avoidance and Nagle in Minshall's form, as on a plain connection but
    /// for the stream (RFC 9293 §3.7.4, §3.8.6.2.1): true when `next` had better wait. `mss` is what
    /// a full segment of its subflow carries.
    pub(crate) fn holds_back(&mut self, next: Next, mss: u32, nagle: bool) -> bool {
        let overridden = self.hold == Hold::Override;
        if !overridden {
            self.hold = Hold::No;
        }
        let end = next.start + u64::from(next.len);
        if next.again || next.len >= mss || self.ahead_start() == Some(end) {
            return false;
        }
        if end < self.data_end {
            // The window cuts it: wait for more of it rather than send slivers.
            let sliver = next.len < mss.min(self.max_window / 2) && !overridden;
            if sliver {
                self.hold = Hold::Sliver;
            }
            return sliver;
        }
        nagle && !self.fin_queued && self.small_end > self.data_snd_una
    }

    /// A small window holds new data back, and nothing is in flight to open it.
    pub(super) fn held_back(&self) -> bool {
        self.hold == Hold::Sliver && self.data_snd_una == self.data_snd_nxt
    }

    /// Better a small segment than none, after a timeout.
    pub(crate) fn override_hold(&mut self) -> bool {
        let held = self.held_back();
        if held {
            self.hold = Hold::Override;
        }
        held
    }

    /// The widest window the peer ever offered, in octets.
    pub(crate) fn widest_offer(&self) -> u64 {
        u64::from(self.max_window)
    }

    /// The peer's window leaves less than `mss` octets for what waits: nothing, or a sliver.
    pub(crate) fn window_cuts(&self, mss: u32) -> bool {
        self.snd_edge < self.data_end && self.snd_edge < self.data_snd_nxt + u64::from(mss)
    }

    /// True when written data waits for the peer's window and nothing is in flight to open it.
    pub(crate) fn window_blocked(&self) -> bool {
        self.data_snd_nxt < self.data_end
            && self.snd_edge <= self.data_snd_nxt
            && self.data_snd_una == self.data_snd_nxt
    }

    /// The stream's octets `start..start + len`, as a view or a copy; fewer when a buffer of nearly that size
    /// is next and can be sent as it came, unless the size is what matters (`exact`). `at` is where the last call of a burst
    /// found what it looked for: the next one is there, or right behind it.
    fn payload<T: TxQueue<B>>(
        &self,
        start: u64,
        (len, exact): (u32, bool),
        tx: &mut T,
        at: &mut usize,
    ) -> Option<B> {
        let written = &*self.written;
        let skip = if written.start(*at + 1) == Some(start) {
            *at += 1;
            0
        } else {
            if !written.holds(*at, start) {
                *at = written.behind(start).checked_sub(1)?;
            }
            usize::try_from(start - written.start(*at)?).ok()?
        };
        let (idx, front) = (*at, written.bufs.get(*at)?);
        let (wanted, rest) = (len as usize, front.data_len().checked_sub(skip)?);
        let next = || written.bufs.get(idx + 1).map_or(0, |buf| buf.data_len() as u32);
        // Whoever sends ahead of its turn has counted on whole segments.
        let exact = || exact || self.sends_ahead(start) && !self.are_segments(idx, len);
        if rest >= wanted || !exact() && goes_alone(rest as u32, len, next) {
            return Some(front.slice(skip..skip + rest.min(wanted)));
        }
        gather(written.bufs.range(idx..), skip, wanted, tx)
    }

    /// Where the segment begins that holds `offset`, when those of `mss` octets are sent from `floor` on: with a
    /// buffer, where these are packets that go on as they came.
    pub(super) fn segment_start(&self, (floor, offset): (u64, u64), mss: u32) -> u64 {
        let idx = self.written.behind(offset).saturating_sub(1);
        let start = self.written.start(idx).filter(|start| *start >= floor);
        match start.filter(|_| self.are_segments(idx, mss)) {
            Some(start) => start,
            None => offset - (offset - floor) % u64::from(mss.max(1)),
        }
    }

    /// This buffer and the next go out as they came, where segments carry `mss` octets.
    fn are_segments(&self, idx: usize, mss: u32) -> bool {
        let len = |idx| self.written.bufs.get(idx).map_or(0, |buf| buf.data_len() as u32);
        let goes = |len| len <= mss && goes_alone(len, mss, || len);
        goes(len(idx)) && goes(len(idx + 1))
    }

    /// Payload of the next segment on a subflow, at most `room` octets, where a full one has `mss`.
    #[inline]
    pub(crate) fn segment<T: TxQueue<B>>(
        &self,
        next: Next,
        (room, mss): (u32, u32),
        tx: &mut T,
        burst: &mut Burst,
    ) -> Option<B> {
        // A longer segment than others tries the path, and what is cut off a repair or the end of the stream
        // would go in a packet of its own.
        let exact = next.again || next.len <= room || room > mss;
        self.payload(next.start, (next.len.min(room), exact), tx, &mut burst.chunk)
    }

    /// The mapping of `payload`, the beginning of `next`, on `tcb`.
    #[inline]
    pub(crate) fn mapping(&self, next: Next, payload: &mut B, tcb: &Tcb<B>) -> Option<TxMapping> {
        if self.phase == Phase::Fallback {
            let ssn = tcb.snd_nxt.since(tcb.iss);
            return tcb.subflow.as_ref().and_then(|subflow| subflow.infinite_at(ssn));
        }
        let dsn = self.local_dsn(next.start);
        let ssn = tcb.snd_nxt.since(tcb.iss);
        let len = payload.data_len() as u16;
        let mut sum = || {
            let sum = sum_of(payload);
            payload.note_sum(sum);
            checksum::dss_checksum(dsn, ssn, len, sum)
        };
        Some(TxMapping {
            dsn,
            ssn,
            len,
            checksum: self.checksum.then(&mut sum),
            wide: self.wide,
            // Its mapping is implied: it holds for the first octets of the subflow only.
            capable: ssn == 1
                && next.start == 0
                && self.version == Version::V1
                && self.client
                && self.phase == Phase::Unconfirmed,
            before: 0,
            behind: 0,
        })
    }

    /// 64-bit DSNs where 32 bits could wrap within an MSL (RFC 8684 §3.3.1). Decides what a segment
    /// that begins at `start` carries, so it comes before its length is known.
    pub(crate) fn choose_width(&mut self, now: Instant, start: u64) {
        if self.version == Version::V0 && !self.peer_wide {
            // Deployed version 0 phones may not read them, and use none themselves.
            return;
        }
        let now_ms = NonZeroU32::MIN | now.as_millis() as u32;
        let since = *self.wide_since.get_or_insert(now_ms);
        if now_ms.get().wrapping_sub(since.get()) > MSL_MS {
            self.wide = start.saturating_sub(self.wide_base) > NARROW_OCTETS;
            self.wide_since = Some(now_ms);
            self.wide_base = start;
        } else if start.saturating_sub(self.wide_base) > NARROW_OCTETS {
            self.wide = true;
        }
    }

    /// What begins at `start` has the width that was [chosen](Self::choose_width) just now for what is before it.
    pub(crate) fn keeps_width(&self, start: u64) -> bool {
        let never = self.version == Version::V0 && !self.peer_wide || self.phase == Phase::Fallback;
        self.wide || never || start.saturating_sub(self.wide_base) <= NARROW_OCTETS
    }

    /// Where an infinite mapping on `tcb` begins: the last octet known to be intact, in the stream
    /// and on the subflow (RFC 8684 §3.7).
    pub(crate) fn intact(&self, tcb: &Tcb<B>) -> (DataSeq, u32) {
        let back = u32::try_from(self.data_snd_nxt - self.data_snd_una).unwrap_or(0);
        let ssn = tcb.snd_nxt_data().since(tcb.iss).wrapping_sub(back);
        (self.local_dsn(self.data_snd_nxt - u64::from(back)), ssn)
    }

    /// Everything that no `DATA_ACK` covers goes out once more, behind what is on its way: who reports a
    /// wrong checksum in version 0 has thrown that away.
    pub(crate) fn send_again(&mut self) {
        self.bytes_retrans += self.data_snd_nxt - self.data_snd_una;
        self.data_snd_nxt = self.data_snd_una;
        self.forget_ahead();
        self.small_end = self.data_snd_una;
    }

    /// Notes that `len` octets of `next` were handed to the subflow with this number, whose segments
    /// carry `mss`.
    pub(crate) fn sent(&mut self, next: Next, len: u32, mss: u32, id: u8) {
        let end = next.start + u64::from(len);
        if next.again {
            if next.start == self.data_snd_una {
                self.repaired_by = id;
            }
            self.repaired_below(end);
            self.passage.spread();
            self.rare.spread_to = self.rare.spread_to.max(self.data_snd_nxt);
        } else if self.sent_ahead(next.start, end) {
            self.passage.spread();
        } else {
            self.data_snd_nxt = self.data_snd_nxt.max(end);
            self.pass_over();
            self.passage.send();
            self.hold = Hold::No;
            if len < mss * 7 / 8 {
                self.small_end = end;
            }
        }
    }

    /// Nothing below `offset` is to be sent again.
    fn repaired_below(&mut self, offset: u64) {
        let Some(rare) = self.rare.there() else { return };
        if let Some(ranges) = &mut rare.reinject {
            ranges.remove_below(offset);
            if ranges.first().is_none() {
                rare.reinject = None;
            }
        }
    }

    /// Nothing is to be sent again.
    pub(super) fn forget_reinjections(&mut self) {
        if let Some(rare) = self.rare.there() {
            rare.reinject = None;
        }
    }

    /// A segment without MPTCP's options came on the first subflow: what a DSS before it allowed to go again, and has
    /// not gone, waits for another one.
    pub(crate) fn hear_plain(&mut self) {
        self.passage.hear_plain();
        if self.single() {
            self.forget_reinjections();
            self.gap_acks = 0;
        }
    }

    /// Puts a range that a subflow may have lost back into the queue.
    pub(crate) fn reinject_range(&mut self, start: u64, end: u64) {
        let start = start.max(self.data_snd_una);
        let end = end.min(self.sent_end());
        if start >= end {
            return;
        }
        let (una, nxt) = (self.data_snd_una, self.data_snd_nxt);
        let ranges = self.rare.reinject.get_or_insert_with(|| RangeSet::new(MAX_REINJECTIONS));
        if !ranges.insert(start, end) {
            // Too scattered to remember: everything outstanding is one range.
            ranges.clear();
            let _one = ranges.insert(una, nxt);
        }
    }

    /// What a failing subflow carries and the peer has not acknowledged goes out on others.
    pub(crate) fn reinject_from(&mut self, tcb: &Tcb<B>) {
        let origin = self.local_dsn(0);
        for mapping in tcb.queue.iter().filter_map(|segment| segment.mapping) {
            let (start, end) = taken_with(&mapping, origin);
            self.reinject_range(start, end);
        }
    }

    /// What a subflow has just found lost goes out on another one too; true when there was any.
    pub(crate) fn reinject_lost(&mut self, tcb: &mut Tcb<B>) -> bool {
        let origin = self.local_dsn(0);
        let mut any = false;
        tcb.queue.each_new_loss(|mapping| {
            let start = mapping.dsn.since(origin);
            self.reinject_range(start, start + u64::from(mapping.len));
            any = true;
        });
        any
    }

    /// The oldest segment of a subflow goes out on another one.
    pub(crate) fn reinject_head(&mut self, tcb: &Tcb<B>) {
        if let Some(mapping) = tcb.queue.iter().find_map(|segment| segment.mapping) {
            let (start, end) = taken_with(&mapping, self.local_dsn(0));
            self.reinject_range(start, end);
        }
    }

    /// A subflow that was thought silent is not: what it still carries, and nobody has sent again
    /// yet, stays with it.
    pub(crate) fn keep_on(&mut self, tcb: &Tcb<B>) {
        let origin = self.local_dsn(0);
        let Some(rare) = self.rare.there() else { return };
        let Some(ranges) = &mut rare.reinject else { return };
        for mapping in tcb.queue.iter().filter_map(|segment| segment.mapping) {
            let (start, end) = taken_with(&mapping, origin);
            ranges.remove(start, end);
        }
        if ranges.is_empty() {
            rare.reinject = None;
        }
    }

    /// A window probe goes out; false when too many were not answered.
    pub(crate) fn probe_again(&mut self, limit: u8) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered <= limit
    }

    /// Rounds of the timer without anything acknowledged.
    pub(crate) fn fruitless_rounds(&self) -> u8 {
        self.rtx_shift
    }

    /// After fallback any segment answers a probe, and its window is the stream's.
    pub(crate) fn answered(&mut self, window: u32) {
        self.unanswered = 0;
        self.max_window = self.max_window.max(window);
    }

    /// Puts back what follows `from` up to what a subflow still carries: TCP acknowledged it on one
    /// that is gone, but no `DATA_ACK` did.
    pub(crate) fn reinject_orphans(&mut self, from: u64, tcbs: &Tcbs<B>) {
        let from = from.max(self.data_snd_una);
        let mut end = self.data_snd_nxt;
        for tcb in self.subflows.iter().filter_map(|&idx| tcbs.get(idx)) {
            for mapping in tcb.queue.iter().filter_map(|segment| segment.mapping) {
                let start = mapping.dsn.since(self.local_dsn(0));
                if start + u64::from(mapping.len) > from {
                    end = end.min(start);
                }
            }
        }
        self.reinject_range(from, end);
    }

    /// The window stays shut: probe again later.
    pub(crate) fn probe_backoff(&mut self, now: Instant, rto: Duration) {
        self.rtx_shift = self.rtx_shift.saturating_add(1);
        self.rtx_at = Some(now + self.data_rto(rto));
    }

    /// A `DATA_ACK` with the window that came along; true when it acknowledged something new.
    pub(crate) fn on_data_ack(&mut self, wire: WireSeq, window: u32) -> bool {
        let Some(offset) = self.local_offset(wire) else { return false };
        let fin_end = self.data_end + 1;
        let fin_outstanding = self.fin_queued && self.data_snd_nxt == self.data_end;
        let limit = if fin_outstanding { fin_end } else { self.data_snd_nxt };
        if offset > limit {
            return false;
        }
        self.offer(offset, window);
        let mut advanced = false;
        if fin_outstanding && offset == fin_end && !self.fin_acked {
            self.fin_acked = true;
            advanced = true;
        }
        advanced |= self.acknowledge(offset.min(self.data_end));
        if advanced {
            self.passage.prove();
        }
        advanced
    }

    /// The keys again where a `DATA_ACK` would be: iOS repeats them on acknowledgements until it has said something
    /// itself. TCP has `in_flight` octets outstanding, and acknowledged the rest. That is no proof: the peer may still
    /// fall back. True when it acknowledged something new.
    pub(crate) fn on_keys_again(&mut self, in_flight: u32, window: u32) -> bool {
        let offset = self.data_snd_nxt.saturating_sub(u64::from(in_flight));
        self.offer(offset, window);
        self.acknowledge(offset)
    }

    /// There is room for `window` octets from `offset` on.
    fn offer(&mut self, offset: u64, window: u32) {
        self.unanswered = 0;
        self.max_window = self.max_window.max(window);
        let (shut, fin_shut) = (self.window_blocked(), self.fin_blocked());
        self.snd_edge = self.snd_edge.max(offset + u64::from(window));
        let fin_opened = fin_shut && !self.fin_blocked();
        if shut && !self.window_blocked() || fin_opened {
            // What goes out now has its own time.
            self.rtx_at = None;
            self.rtx_shift = 0;
        }
        if fin_opened {
            self.fin_announced = false;
        }
    }

    /// Frees everything below `offset`; true when that moved `data_snd_una`.
    pub(crate) fn acknowledge(&mut self, offset: u64) -> bool {
        if offset <= self.data_snd_una {
            return false;
        }
        self.data_snd_una = offset;
        self.repaired_below(offset);
        let mut whole = 0;
        let mut pinned = self.pinned;
        for (start, front) in self.written.starts.iter().zip(&self.written.bufs) {
            if start + front.data_len() as u64 > offset {
                break;
            }
            whole += 1;
            pinned = pinned.saturating_sub(front.truesize() as u32);
        }
        self.pinned = pinned;
        if whole > 0 {
            let Written { bufs, starts } = &mut *self.written;
            bufs.drain(..whole);
            starts.drain(..whole);
        }
        if self.written.bufs.is_empty() {
            self.pinned = 0;
            if self.written.bufs.capacity() > ROOMY {
                self.written.rest();
            }
        }
        self.rtx_at = None;
        self.rtx_shift = 0;
        true
    }

    /// A subflow whose TCP acknowledged the head of the stream when it was sent again, a whole round of
    /// the data-level timer ago, while the peer's data level has it not. Only where another one is left.
    pub(crate) fn doubtful_witness(&self, tcbs: &Tcbs<B>) -> Option<u32> {
        let numbered = |idx: &u32| {
            let subflow = tcbs.get(*idx).and_then(|tcb| tcb.subflow.as_ref());
            subflow.is_some_and(|subflow| subflow.id == self.repaired_by)
        };
        let idx = self.subflows.iter().copied().find(numbered)?;
        let tcb = tcbs.get(idx)?;
        let dsn = self.local_dsn(self.data_snd_una);
        let carries = |mapping: TxMapping| {
            let ahead = dsn.diff(mapping.dsn);
            (0..i64::from(mapping.len)).contains(&ahead)
        };
        let waits = tcb.queue.iter().filter_map(|segment| segment.mapping).any(carries);
        (!waits && self.live_subflows(tcbs) > 1).then_some(idx)
    }

    /// Where the segment ends by which some subflow waits for the head of the stream; else where the first
    /// begins behind it by which one waits. `waits` tells those segments.
    fn head_waits(
        &self,
        tcbs: &Tcbs<B>,
        waits: impl Fn(&Tcb<B>, &TxSegment<B>) -> bool,
    ) -> Result<u64, u64> {
        let (una, origin) = (self.data_snd_una, self.local_dsn(0));
        let tcbs = self.subflows.iter().filter_map(|&idx| tcbs.get(idx));
        let mut next = u64::MAX;
        let segments = tcbs.flat_map(|tcb| tcb.queue.iter().map(move |segment| (tcb, segment)));
        for (_, segment) in segments.filter(|(tcb, segment)| waits(tcb, segment)) {
            let Some(mapping) = segment.mapping else { continue };
            let start = mapping.dsn.since(origin);
            let end = start + u64::from(mapping.len);
            if start > una {
                next = next.min(start);
            } else if end > una {
                return Ok(end);
            }
        }
        Err(next)
    }

    /// What TCP delivered everywhere and the peer's data level lost goes again from the head on, once a
    /// timeout has shown that there is such: a `DATA_ACK` that ends in front of more of it is answered at
    /// once. True when something was put up.
    pub(crate) fn repair_on(&mut self, tcbs: &Tcbs<B>) -> bool {
        if self.gap_acks == 0 || self.phase != Phase::Confirmed || self.rare.reinject.is_some() {
            return false;
        }
        self.gap_acks -= 1;
        let una = self.data_snd_una;
        if una < self.data_snd_nxt
            && let Err(next) = self.head_waits(tcbs, |_, _| true)
        {
            self.gap_acks = GAP_ACKS;
            let end = next.min(self.data_snd_nxt);
            self.reinject_range(una, end.min(una + u64::from(MAX_MAPPING)));
        }
        self.rare.reinject.is_some()
    }

    /// The data-level timer fired: the head goes out again, on whatever subflow is best. `repairs` tells
    /// the subflows that do so with what they have lost.
    pub(crate) fn retransmission_timeout(
        &mut self,
        now: Instant,
        rto: Duration,
        tcbs: &Tcbs<B>,
        repairs: impl Fn(&Tcb<B>) -> bool,
    ) {
        // Who waits for the head and repairs it looks after the rest, too. Without, all is missing up to
        // what such a subflow waits for: TCP has delivered it, or nobody knows when it will.
        let waits = self.head_waits(tcbs, |tcb, segment| !segment.is_sacked() && repairs(tcb));
        if waits.is_err() {
            self.gap_acks = GAP_ACKS;
        }
        let (Ok(end) | Err(end)) = waits;
        let una = self.data_snd_una;
        let end = end.min(self.data_snd_nxt).min(una + u64::from(MAX_MAPPING));
        self.reinject_range(una, end);
        self.probe_backoff(now, rto);
    }
}
