//! The receiving half of the data level: subflow octets become stream octets through their
//! mappings, and the one receive window all subflows share.

use super::mapping::MAX_MAPPINGS;
use super::{Connection, Phase, position};
use crate::buf::PacketBuf;
use crate::seq::{DataSeq, SeqNum};
use crate::stats::Counters;
use crate::tcp::{Inserted, Segment, Tcb};
use crate::time::Instant;
use crate::wire::{
    CapableForm, Dss, Mapping, MptcpOption, OptionIter, TcpOption, WireSeq, checksum,
};
use core::num::NonZeroU64;

/// Pool bytes that a segment with a mapping of its own pins, at least.
const MAPPED_MEMORY: u32 = 1024;

/// Unmapped octets held at least, whatever the window (what deployed v0 stacks allow).
const MIN_UNMAPPED: u32 = 64 << 10;

/// What moving a subflow's in-order data up did.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Pulled {
    /// The stream grew.
    pub(crate) data: bool,
    /// Something was delivered that was known already: the peer reinjects.
    pub(crate) duplicate: bool,
    pub(crate) unmapped: Option<Unmapped>,
}

/// How much of what a subflow has in order is moved to the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Amount {
    /// Everything that has a mapping.
    All,
    /// What one mapping covers, or several that continue each other.
    Span,
}

/// What to do about octets without a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmapped {
    /// They wait for it.
    Held,
    /// Too many of them, or on a subflow that must not have any: reset it (reason 6).
    Reset,
    /// A DSS checksum was wrong; the mapping began at this offset of the peer's stream.
    Checksum(u64),
}

/// Where the stream goes on after an infinite mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Realign {
    /// The subflow's sequence number of its first octet.
    at: SeqNum,
    /// Place of that octet in the stream.
    offset: u64,
    /// Octets from there on that are known already, once it was reached.
    again: Option<u64>,
}

/// What became of a mapping option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapped {
    Taken,
    /// It contradicts what is known.
    Conflict,
    /// It has no data, and its checksum is wrong; it began at this offset of the peer's stream.
    Checksum(u64),
}

impl<B: PacketBuf> Connection<B> {
    /// Takes over a mapping option.
    pub(crate) fn on_mapping(
        &mut self,
        tcb: &mut Tcb<B>,
        mapping: &Mapping,
        data_fin: bool,
        stats: &mut Counters,
    ) -> Mapped {
        self.peer_wide = matches!(mapping.dsn, WireSeq::Full(_));
        let Some(offset) = self.remote_offset(mapping.dsn) else {
            return Mapped::Taken;
        };
        if self.peer_wide {
            self.wide_owed = self.wide_owed.max(offset + u64::from(mapping.len));
        }
        let fin = u32::from(data_fin);
        let octets = u32::from(mapping.len) - fin.min(u32::from(mapping.len));
        let start = tcb.irs.add(mapping.ssn);
        let dsn = self.remote_idsn.add(1).add(offset);
        // The pseudo-header is folded in now: it needs the SSN and the length with the FIN.
        let checksum = mapping.checksum.filter(|_| self.checksum).map(|field| {
            let pseudo = !checksum::dss_checksum(dsn, mapping.ssn, mapping.len, 0);
            checksum::combine(field, 2, pseudo)
        });
        if octets == 0 && checksum.is_some_and(|sum| !is_zero(sum)) {
            stats.data_csum_err += 1;
            return Mapped::Checksum(offset);
        }
        if data_fin {
            // Beside data it is no better than the data.
            self.on_data_fin(offset + u64::from(octets), octets == 0 || checksum.is_none());
        }
        if octets == 0 {
            return Mapped::Taken;
        }
        let received_to = tcb.rcv_nxt_data();
        let delivered = received_to.sub(tcb.received.in_order_len());
        let acked_ssn = tcb.rcv_nxt.since(tcb.irs);
        let ahead = i64::from(mapping.ssn.wrapping_sub(acked_ssn).cast_signed());
        if ahead > dsn.diff(self.remote_dsn(self.data_rcv_nxt)).max(0) && ahead > 0 {
            stats.dss_sanity += 1;
        }
        let Some(subflow) = &mut tcb.subflow else { return Mapped::Taken };
        subflow.mapped = true;
        // What is out of order pins buffers, so its memory bounds how many mappings it can need.
        let limit = MAX_MAPPINGS.max((self.autotune.memory() / MAPPED_MEMORY) as usize);
        match subflow.mappings.insert_within(limit, delivered, start, dsn, octets, checksum) {
            Ok(()) => Mapped::Taken,
            Err(super::mapping::MappingError::Full) => {
                stats.mapping_full += 1;
                Mapped::Taken
            }
            Err(super::mapping::MappingError::Conflict) => {
                stats.dss_not_matching += 1;
                Mapped::Conflict
            }
        }
    }

    /// The peer's stream ends at `offset`; `sure` unless a checksum has still to confirm that. Another
    /// end than the one that is sure is ignored.
    fn on_data_fin(&mut self, offset: u64, sure: bool) {
        if !self.fin_sure && offset >= self.data_rcv_nxt {
            self.peer_fin = NonZeroU64::new(offset.saturating_add(1));
            self.fin_sure = sure;
        }
    }

    /// True once, when everything up to the peer's `DATA_FIN` is in order.
    pub(crate) fn reached_fin(&mut self) -> bool {
        let reached =
            self.fin_sure && !self.peer_finished && self.peer_fin() == Some(self.data_rcv_nxt);
        self.peer_finished |= reached;
        reached
    }

    /// True once, when a connection that fell back has everything up to the FIN of `tcb`, which may have come
    /// before that was known.
    pub(crate) fn reached_tcp_fin(&mut self, tcb: &Tcb<B>) -> bool {
        let reached = self.phase == Phase::Fallback
            && !self.peer_finished
            && tcb.fin_received()
            && tcb.received.in_order_len() == 0;
        self.peer_finished |= reached;
        reached
    }

    /// Text of the peer's SYN: before its stream, which counts from what follows.
    pub(crate) fn take_early(&mut self, text: B) {
        self.early_received = u16::try_from(text.data_len()).unwrap_or(u16::MAX);
        let (start, budget) = (position(0), self.autotune.memory());
        let _in_order = self.received.insert(start, start, text, budget, false, &mut 0);
    }

    /// [`Connection::pull`] would move nothing, no end of the stream is known, and nothing waits for its mapping.
    pub(crate) fn has_nothing_to_pull(&self, tcb: &Tcb<B>) -> bool {
        self.phase == Phase::Confirmed
            && tcb.received.in_order_len() == 0
            && !self.fin_sure
            && self.rare.unmapped_at.is_none()
    }

    /// Moves in-order subflow data to the stream as far as mappings are known.
    pub(crate) fn pull(
        &mut self,
        tcb: &mut Tcb<B>,
        amount: Amount,
        stats: &mut Counters,
    ) -> Pulled {
        let mut pulled = Pulled::default();
        if self.phase == Phase::Fallback {
            while let Some(buf) = self.next_raw(tcb) {
                let nxt = self.data_rcv_nxt;
                self.deliver(nxt, buf, stats, &mut pulled);
            }
            return pulled;
        }
        while tcb.received.in_order_len() > 0 {
            let head = tcb.rcv_nxt_data().sub(tcb.received.in_order_len());
            let Some(subflow) = &mut tcb.subflow else { break };
            if self.checksum {
                match verify(&tcb.received, subflow, head) {
                    Verified::Good(None) => {}
                    Verified::Good(Some(end)) => {
                        let end = end.diff(self.remote_idsn.add(1));
                        self.fin_sure |=
                            self.peer_fin().is_some_and(|fin| u64::try_from(end) == Ok(fin));
                    }
                    Verified::Incomplete => break,
                    Verified::Bad(dsn) => {
                        stats.data_csum_err += 1;
                        let offset = dsn.diff(self.remote_idsn.add(1));
                        let offset = u64::try_from(offset).unwrap_or(0);
                        pulled.unmapped = Some(Unmapped::Checksum(offset));
                        break;
                    }
                }
            }
            let Some(span) = subflow.mappings.find(head) else {
                self.hold_unmapped(tcb, &mut pulled);
                break;
            };
            let here = span.len.min(tcb.received.in_order_len());
            let offset = span.dsn.diff(self.remote_idsn.add(1));
            let memory = self.autotune.memory();
            if self.is_next(offset, here) && tcb.received.pass(here, &mut self.received, memory) {
                self.data_rcv_nxt += u64::from(here);
                pulled.data = true;
                subflow.mappings.release(head.add(here));
                if amount == Amount::Span {
                    break;
                }
                continue;
            }
            // As much of it as is here, buffer by buffer.
            let mut done = 0;
            while done < span.len
                && let Some(mut buf) = tcb.received.pop()
            {
                let left = (span.len - done) as usize;
                if left < buf.data_len() {
                    tcb.received.unpop(buf.slice(left..buf.data_len()));
                    buf.truncate(left);
                }
                let offset = span.dsn.add(u64::from(done)).diff(self.remote_idsn.add(1));
                done += buf.data_len() as u32;
                if let Ok(offset) = u64::try_from(offset) {
                    self.deliver(offset, buf, stats, &mut pulled);
                }
            }
            subflow.mappings.release(head.add(done));
            if amount == Amount::Span {
                break;
            }
        }
        pulled
    }

    /// How far ahead of the end of the stream what `tcb` has in order begins; `None` when it has nothing that
    /// has a mapping. Only where [`Amount::Span`] moves something: on a subflow without checksums.
    pub(crate) fn begins_at(&self, tcb: &Tcb<B>) -> Option<i64> {
        let held = tcb.received.in_order_len();
        if held == 0 || self.checksum || self.phase == Phase::Fallback {
            return None;
        }
        let span = tcb.subflow.as_ref()?.mappings.find(tcb.rcv_nxt_data().sub(held))?;
        Some(span.dsn.diff(self.remote_dsn(self.data_rcv_nxt)))
    }

    /// What comes next on `tcb` goes on where the stream ends, as far as a mapping tells: read as plain TCP it would
    /// be the same. A peer may map again what it sent before, on the only subflow, too.
    pub(crate) fn continues_on(&self, tcb: &Tcb<B>) -> bool {
        let head = tcb.rcv_nxt_data().sub(tcb.received.in_order_len());
        let span = tcb.subflow.as_ref().and_then(|subflow| subflow.mappings.find(head));
        let next = self.remote_dsn(self.data_rcv_nxt);
        !self.has_gap() && span.is_none_or(|span| span.dsn == next)
    }

    /// An infinite mapping: from its octet on the subflow is the stream. Peers of version 0 throw away
    /// what follows a wrong checksum, and begin again where they had our last `DATA_ACK`; what we took
    /// all the same must not be delivered twice. Where it only says what is so already, it changes
    /// nothing.
    pub(crate) fn on_infinite_mapping(&mut self, tcb: &Tcb<B>, mapping: &Mapping) {
        let at = tcb.irs.add(mapping.ssn);
        let head = tcb.rcv_nxt_data().sub(tcb.received.in_order_len());
        if at.ge(head)
            && let Some(offset) = self.remote_offset(mapping.dsn)
        {
            self.rare.realign = Some(Realign { at, offset, again: None });
        }
    }

    /// After fallback: the next octets of the subflow that are new to the stream.
    fn next_raw(&mut self, tcb: &mut Tcb<B>) -> Option<B> {
        loop {
            let head = tcb.rcv_nxt_data().sub(tcb.received.in_order_len());
            let mut buf = tcb.received.pop()?;
            let realign = self.rare.there().and_then(|rare| rare.realign.as_mut());
            let Some(realign) = realign else { return Some(buf) };
            let (len, before) = (buf.data_len(), realign.at.diff(head));
            if let Ok(before @ 1..) = usize::try_from(before)
                && realign.again.is_none()
            {
                if before < len {
                    tcb.received.unpop(buf.slice(before..len));
                    buf.truncate(before);
                }
                return Some(buf);
            }
            let known = self.data_rcv_nxt.saturating_sub(realign.offset);
            let again = realign.again.get_or_insert(known);
            let skip = usize::try_from(*again).unwrap_or(usize::MAX).min(len);
            *again -= skip as u64;
            if *again == 0
                && let Some(rare) = self.rare.there()
            {
                rare.realign = None;
            }
            buf.trim_front(skip);
            if skip < len {
                return Some(buf);
            }
        }
    }

    /// Octets that may wait for their mapping.
    pub(crate) fn unmapped_bound(&self) -> u32 {
        self.autotune.limit().max(MIN_UNMAPPED)
    }

    /// Data whose mapping has not come (yet): kept, acknowledged by TCP, within a bound.
    fn hold_unmapped(&self, tcb: &Tcb<B>, pulled: &mut Pulled) {
        let much = tcb.received.in_order_len() > self.unmapped_bound();
        pulled.unmapped = Some(if much { Unmapped::Reset } else { Unmapped::Held });
    }

    /// The stream goes on with the `len` octets at `offset`, in the window, and does not end in them: they are
    /// [delivered](Self::deliver) by putting them behind what is there.
    fn is_next(&self, offset: i64, len: u32) -> bool {
        let end = self.data_rcv_nxt + u64::from(len);
        let ends = self.peer_finished || self.peer_fin().is_some_and(|fin| fin < end);
        u64::try_from(offset) == Ok(self.data_rcv_nxt) && end <= self.rcv_edge && !ends
    }

    /// One run of stream octets, in whatever order subflows bring them. The first copy wins.
    fn deliver(&mut self, offset: u64, buf: B, stats: &mut Counters, pulled: &mut Pulled) {
        let mut buf = buf;
        let mut offset = offset;
        let mut end = offset + buf.data_len() as u64;
        if end <= self.data_rcv_nxt {
            stats.duplicate_data += 1;
            pulled.duplicate = true;
            return;
        }
        if self.peer_finished || self.fin_sure && self.peer_fin().is_some_and(|fin| end > fin) {
            stats.no_dss_in_window += 1;
            let fin = self.peer_fin().unwrap_or(self.data_rcv_nxt);
            buf.truncate(usize::try_from(fin.saturating_sub(offset)).unwrap_or(0));
            end = end.min(fin.max(offset));
            if buf.data().is_empty() {
                // Wholly beyond the end: not even a place in the queue.
                return;
            }
        }
        if end <= self.data_rcv_nxt {
            stats.duplicate_data += 1;
            pulled.duplicate = true;
            return;
        }
        if offset < self.data_rcv_nxt {
            buf.trim_front(usize::try_from(self.data_rcv_nxt - offset).unwrap_or(usize::MAX));
            offset = self.data_rcv_nxt;
        }
        // TCP has acknowledged what comes here, so losing it would cost a retransmission timeout of the
        // data level.
        let edge = self.rcv_edge.max(self.data_rcv_nxt + u64::from(self.slack()));
        if end > edge && self.phase != Phase::Fallback {
            // More than was ever offered: not stored, not acknowledged (RFC 8684 §3.8).
            stats.no_dss_in_window += 1;
            buf.truncate(usize::try_from(edge.saturating_sub(offset)).unwrap_or(0));
            if buf.data().is_empty() {
                return;
            }
        }
        let mut pruned = 0;
        let inserted = self.received.insert(
            position(self.data_rcv_nxt),
            position(offset),
            buf,
            self.autotune.memory(),
            false,
            &mut pruned,
        );
        stats.rcv_pruned += pruned;
        match inserted {
            Inserted::InOrder(octets) => {
                self.data_rcv_nxt += u64::from(octets);
                pulled.data = true;
            }
            Inserted::OutOfOrder => stats.ofo_queue += 1,
            Inserted::Duplicate => {
                stats.duplicate_data += 1;
                pulled.duplicate = true;
            }
            Inserted::Refused => {}
        }
    }

    // The shared receive window.

    /// Octets to offer beyond `data_rcv_nxt`: what was promised, or more where enough was read.
    pub(super) fn window(&self) -> u32 {
        let promised = self.promised();
        let free = self.autotune.window(self.received.in_order_len(), self.received.truesize());
        let step = (2 * 1460).min(self.autotune.limit() / 2);
        if free >= promised.saturating_add(step) { free } else { promised }
    }

    /// Octets beyond `data_rcv_nxt` that were offered already.
    pub(crate) fn promised(&self) -> u32 {
        u32::try_from(self.rcv_edge.saturating_sub(self.data_rcv_nxt)).unwrap_or(u32::MAX)
    }

    /// Octets that are taken beyond what is in order, on a subflow or in the stream, however little is
    /// promised. A window that shrinks because other subflows brought data is not taken over by a subflow on
    /// which nothing moved (RFC 9293 §3.10.7.4, SND.WL1): with the larger `DATA_ACK` the peer then sees an
    /// edge further right than ours. Every octet taken moves that edge on, so a peer that minds no window
    /// would never meet it: it ends with the memory.
    fn slack(&self) -> u32 {
        if self.received.truesize() < self.autotune.memory() { self.widest } else { 0 }
    }

    /// Octets beyond the next in order that a subflow takes: the data level alone says what fits (RFC 8684
    /// §3.3.4). What was sent within the window, and came by another path meanwhile, may lie beyond all
    /// that is still promised, and must be acknowledged all the same.
    pub(crate) fn subflow_room(&self) -> u32 {
        let slack = if self.phase == Phase::Fallback { 0 } else { self.slack() };
        self.promised().max(slack)
    }

    /// What the window field must not go below.
    pub(super) fn promised_floor(&self) -> u32 {
        self.autotune.floor(self.promised(), self.received.in_order_len())
    }

    /// A segment went out that offered `window` octets beyond `data_rcv_nxt`.
    pub(crate) fn advertised(&mut self, window: u32) {
        self.rcv_edge = self.rcv_edge.max(self.data_rcv_nxt + u64::from(window));
        self.widest = self.widest.max(window);
        if self.acknowledged() >= self.wide_owed {
            self.wide_owed = 0;
        }
    }

    /// The reader made so much room that the peer should hear of it.
    pub(crate) fn window_opened(&self) -> bool {
        let (promised, window) = (self.promised(), self.window());
        window > promised && (promised < window / 2 || promised < 4 * 1460)
    }

    /// Receive buffer now, octets.
    pub(crate) fn receive_buffer(&self) -> u32 {
        self.autotune.limit()
    }

    // The reader.

    pub(crate) fn read_buf(&mut self) -> Option<B> {
        self.received.pop()
    }

    /// The reader took `octets` in all.
    pub(crate) fn note_read(&mut self, now: Instant, octets: u32, max: u32) {
        self.autotune.on_read(now, octets, max);
    }

    pub(crate) fn unread(&mut self, buf: B) {
        self.received.unpop(buf);
    }

    pub(crate) fn readable(&self) -> bool {
        self.received.in_order_len() > 0
    }

    /// Data waits behind a hole in the stream.
    pub(crate) fn has_gap(&self) -> bool {
        self.received.has_out_of_order()
    }

    /// Memory that unread and out-of-order data pins.
    pub(crate) fn received_truesize(&self) -> u32 {
        self.received.truesize()
    }

    /// Of that, what unread data pins.
    pub(crate) fn unread_truesize(&self) -> u32 {
        self.received.in_order_truesize()
    }

    /// Throws away the farthest of what waits behind a hole in the stream: the peer keeps it until a
    /// `DATA_ACK` covers it. False when that frees no buffer.
    pub(crate) fn renege(&mut self, pruned: &mut u64) -> bool {
        self.received.renege(pruned)
    }

    /// Whether a segment that is next on its subflow is, with what waits there for the rest of its
    /// mapping, next in the stream too, or known already.
    pub(crate) fn brings_next(&self, tcb: &Tcb<B>, segment: &Segment) -> bool {
        let Some(subflow) = &tcb.subflow else { return false };
        if self.phase == Phase::Fallback {
            return true;
        }
        let head = tcb.rcv_nxt_data().sub(tcb.received.in_order_len());
        let known = subflow.mappings.find(head).map(|span| span.dsn);
        let own = || match segment.dss {
            Some(dss) => self.maps(tcb, &TcpOption::Mptcp(MptcpOption::Dss(dss)), head),
            None => {
                let mut options = OptionIter::new(segment.options.as_bytes()).flatten();
                options.find_map(|option| self.maps(tcb, &option, head))
            }
        };
        known.or_else(own).is_some_and(|dsn| dsn.diff(self.remote_dsn(self.data_rcv_nxt)) <= 0)
    }

    /// The data sequence number that an option gives to the octet at `at`.
    fn maps(&self, tcb: &Tcb<B>, option: &TcpOption<'_>, at: SeqNum) -> Option<DataSeq> {
        let (offset, ssn, len) = match option {
            TcpOption::Mptcp(MptcpOption::Dss(Dss { mapping: Some(mapping), .. })) => {
                (self.remote_offset(mapping.dsn)?, mapping.ssn, mapping.len)
            }
            TcpOption::Mptcp(MptcpOption::Capable(capable)) => match capable.form {
                CapableForm::Data { data_len, .. } => (0, 1, data_len),
                _ => return None,
            },
            _ => return None,
        };
        let into = at.since(tcb.irs.add(ssn));
        (into < u32::from(len)).then(|| self.remote_dsn(offset).add(u64::from(into)))
    }

    pub(crate) fn clear_received(&mut self) {
        self.received.clear();
    }

    /// Round trip the receive buffer must cover: the largest of any subflow (RFC 8684 §3.3.4).
    pub(crate) fn receiver_rtt(&mut self, us: u32) {
        if us > 0 {
            self.autotune.cover_rtt(us);
        }
    }
}

enum Verified {
    /// There is nothing to check, or all of the mapping up to this sequence number is right.
    Good(Option<DataSeq>),
    Incomplete,
    Bad(DataSeq),
}

/// Of ones' complement sums.
const fn is_zero(sum: u16) -> bool {
    matches!(sum, 0 | 0xffff)
}

/// Checks the DSS checksum of the mapping at `head` once all of it is there. What was checked is
/// not checked again: delivery starts at a mapping's first octet only when it is whole.
fn verify<B: PacketBuf>(
    received: &crate::tcp::RecvQueue<B>,
    subflow: &super::Subflow,
    head: SeqNum,
) -> Verified {
    let Some(whole) = subflow.mappings.checked_at(head) else { return Verified::Good(None) };
    if whole.start != head {
        return Verified::Good(None);
    }
    if received.in_order_len() < whole.len {
        return Verified::Incomplete;
    }
    let mut sum = checksum::Checksum::new();
    let mut left = whole.len as usize;
    for buf in received.iter() {
        let take = left.min(buf.data_len());
        sum.add_bytes(buf.data().get(..take).unwrap_or_default());
        left -= take;
        if left == 0 {
            break;
        }
    }
    // Field, pseudo-header and data add up to minus zero.
    if is_zero(checksum::combine(whole.checksum, 2, sum.folded())) {
        Verified::Good(Some(whole.dsn.add(u64::from(whole.len))))
    } else {
        Verified::Bad(whole.dsn)
    }
}
