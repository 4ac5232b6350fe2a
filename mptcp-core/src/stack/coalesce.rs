//! Our own receive offload, above the port: what follows on each other within a burst goes through the
//! engines as one segment, with the text of all in as many buffers.
//!
//! A run is either text, in order or all of it behind a hole, or acknowledgements without text. It may only hold
//! what the engine would take one by one without doing anything but counting, or putting aside, in between: so a
//! run begins on a control block that is [steady](Tcb::run_bounds), with what it expects next or what lies behind
//! a hole, and takes
//!
//! * segments with ACK and perhaps PSH, no other flag, no mark of a router, and no option but timestamps
//!   and one plain DSS. A SACK, a FIN, an echoed mark, an `MP_FAIL` or a `DATA_FIN` go alone;
//! * text that begins where the run ends and stays inside the window. Its acknowledgement number may
//!   rise. A mapping must say the same as the run's last one or begin where that ends, without a checksum: a
//!   checksum covers one mapping. Whether the stream goes on there, too, or what is in between went another
//!   way, makes no difference;
//! * acknowledgements, each of which acknowledges more than the one before. A repeated one is a duplicate
//!   or a window update, and counts alone (RFC 5681 §2);
//! * acknowledgements, alone or with text, of no more than a slow start grows by for one;
//! * timestamps and `DATA_ACK`s that do not go back.
//!
//! Of several acknowledgements at one time the last says all: the newest segment it acknowledges gives
//! the round trip and the rate, and octets are counted as if one by one. How many they were is counted
//! for slow start ([`AckSample::acknowledgements`](crate::tcp::congestion::AckSample)), buffers of text
//! are for delayed acknowledgements. The timestamp that text shows is that of its first segment (RFC
//! 7323 §4.3: the oldest that is not answered).
//!
//! A run begins only where another packet of the flow is among the next of the burst: one that stays alone is processed at
//! once. Of a subflow's text a single segment is a run as well, for the order of the stream.
//!
//! Packets of other flows may come in between. The order within a subflow stays; what several subflows bring
//! of one stream between two calls might have come in any order, and is taken in that of the stream
//! (`stack/multipath/order.rs`).

use super::Stack;
use super::demux::Flow;
use super::usual::{Ends, Says, Text, Usual, UsualV4, UsualV6};
use crate::buf::{PacketBuf, PortId, RxChecksum};
use crate::seq::SeqNum;
use crate::tcp::{Part, RunBounds, Segment, Tuple};
use crate::time::Instant;
use crate::wire::{Dss, Mapping, WireSeq};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Runs open at a time; another one ends the oldest.
const MAX_RUNS: usize = 8;
/// Segments of a run.
const MAX_PARTS: u8 = 64;
/// Packets among which the second one of a run is looked for. To begin one for a segment that stays alone costs as
/// much as to look at many.
const LOOK_AHEAD: usize = 8;

/// Segments of one flow that follow on each other.
struct Run<B> {
    tuple: Tuple,
    /// The same as it stands in packets.
    ends: Ends,
    port: PortId,
    /// The control block that the flow had when the run began, and its connection.
    idx: u32,
    owner: Option<u32>,
    bounds: RunBounds,
    /// All of them as one.
    segment: Segment,
    /// What its last segment with text says beside that.
    says: Option<Says>,
    /// Of the first one; taken when the run is processed.
    text: Option<B>,
    rest: Rest<B>,
}

impl<B> Run<B> {
    /// Takes a packet of the flow, if it goes on, has the usual form and its checksum is right; answers its text.
    #[inline(always)]
    fn join(&mut self, packet: &[u8], checksum: RxChecksum) -> Option<Text> {
        match &self.ends {
            Ends::V4(_) => self.join_usual(UsualV4::read(packet)?, checksum),
            Ends::V6(_) => self.join_usual(UsualV6::read(packet)?, checksum),
        }
    }

    #[inline(always)]
    fn join_usual<const IP: usize, const HEAD: usize>(
        &mut self,
        usual: Usual<'_, IP, HEAD>,
        checksum: RxChecksum,
    ) -> Option<Text> {
        let text = usual.verified(checksum)?;
        let says = usual.says();
        if says.is_some() && says == self.says {
            // But for its number it says what the last one said.
            return join_text(&mut self.segment, usual.seq()?, usual.len(), self.bounds)
                .then_some(text);
        }
        let joined = join(&mut self.segment, &mut self.rest.mappings, &usual.part()?, self.bounds);
        self.says = says.filter(|_| joined);
        joined.then_some(text)
    }
}

/// What follows in a run on its first segment.
pub(super) struct Rest<B> {
    /// Text, buffer by buffer.
    pub(super) texts: VecDeque<B>,
    /// Mappings that the stream has elsewhere than behind the one before.
    pub(super) mappings: Vec<Mapping>,
}

impl<B> Rest<B> {
    /// Of a single segment.
    pub(super) const fn none() -> Self {
        Self { texts: VecDeque::new(), mappings: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.mappings.clear();
    }
}

/// The open runs of a burst, the oldest first; empty between bursts.
pub(super) struct Runs<B> {
    open: Vec<Box<Run<B>>>,
    /// Place of the one that something joined last: what comes next mostly is of the same flow.
    last: usize,
    /// Processed ones, kept for their memory.
    spare: Vec<Box<Run<B>>>,
}

impl<B> Runs<B> {
    pub(super) fn new() -> Self {
        Self { open: Vec::with_capacity(MAX_RUNS), last: 0, spare: Vec::new() }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Joins what `packet` says to an open run, when it goes on with one and has the usual form. Its text,
    /// if it has any, is [kept](Self::keep_text) then.
    #[inline]
    pub(super) fn follow(&mut self, packet: &B) -> Option<Text> {
        let bytes = packet.data();
        let Runs { open, last, .. } = &mut self.runs;
        let run = match open.get_mut(*last) {
            Some(run) if run.ends.are_of(bytes) => run,
            _ => {
                *last = open.iter().position(|run| run.ends.are_of(bytes))?;
                open.get_mut(*last)?
            }
        };
        let text = run.join(bytes, packet.rx_meta().checksum)?;
        self.stats.in_segs += 1;
        self.stats.tcp_rcv_coalesce += 1;
        Some(text)
    }

    /// The text of the packet that joined a run last.
    #[inline]
    pub(super) fn keep_text(&mut self, text: &Text, packet: B) {
        if text.is_empty() {
            return;
        }
        let Some(run) = self.runs.open.get_mut(self.runs.last) else { return };
        run.rest.texts.push_back(packet);
        // In its place: every time it moves it is copied.
        if let Some(packet) = run.rest.texts.back_mut() {
            text.cut_out(packet);
        }
    }

    /// A segment whose checksum is right: joins its run, begins one, or is processed.
    pub(super) fn take_segment(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
        behind: &[B],
    ) {
        if let Some(at) = self.runs.open.iter().position(|run| run.tuple == *tuple) {
            if let Some(run) = self.runs.open.get_mut(at)
                && segment.part().is_some_and(|next| {
                    join(&mut run.segment, &mut run.rest.mappings, &next, run.bounds)
                })
            {
                run.says = None;
                self.stats.tcp_rcv_coalesce += 1;
                if segment.len > 0 {
                    run.rest.texts.push_back(payload);
                }
                return;
            }
            self.close_family(now, at);
        }
        let flow = self.flow_in_turn(tuple);
        let soon = behind.get(..LOOK_AHEAD).unwrap_or(behind);
        if let Some(Flow::Tcb(idx)) = flow {
            let owner = self.owner_of(idx);
            let ends = if self.taking_burst && segment.plain { Ends::of(tuple) } else { None };
            // What several subflows bring of a stream is put in order, even if each brings one segment only.
            let ends =
                ends.filter(|ends| owner.is_some() && segment.len > 0 || ends.are_among(soon));
            if ends.is_some() && self.runs.open.len() == MAX_RUNS {
                // It may be of the same connection: what that takes is known behind it.
                self.close_family(now, 0);
                let still = self.find_flow(tuple);
                if still != flow {
                    return self.dispatch(now, still, tuple, port, segment, payload);
                }
            }
            if let Some(ends) = ends
                && let Some(bounds) = self.run_bounds(idx, owner, segment)
            {
                let (text, rest) = (Some(payload), Rest::none());
                let (tuple, segment, says) = (*tuple, *segment, None);
                let run = match self.runs.spare.pop() {
                    Some(mut run) => {
                        (run.tuple, run.ends, run.port) = (tuple, ends, port);
                        (run.idx, run.owner, run.bounds) = (idx, owner, bounds);
                        (run.segment, run.says, run.text) = (segment, None, text);
                        run
                    }
                    None => {
                        let run = Run {
                            tuple,
                            ends,
                            port,
                            idx,
                            owner,
                            bounds,
                            segment,
                            says,
                            text,
                            rest,
                        };
                        Box::new(run)
                    }
                };
                return self.runs.open.push(run);
            }
            if let Some(sibling) = self.sibling(owner) {
                self.close_family(now, sibling);
                // It may have ended this one.
                let still = self.find_flow(tuple);
                return self.dispatch(now, still, tuple, port, segment, payload);
            }
        }
        self.dispatch(now, flow, tuple, port, segment, payload);
    }

    /// What a segment must keep to that joins the one that begins a run; `None` when none may begin.
    fn run_bounds(&self, idx: u32, owner: Option<u32>, segment: &Segment) -> Option<RunBounds> {
        if self.pool.is_low() {
            return None;
        }
        let room = match owner {
            Some(owner) => self.connections.get(owner)?.subflow_room(),
            None => 0,
        };
        self.tcbs.get(idx)?.run_bounds(segment, room)
    }

    /// The oldest run of a connection's subflows.
    fn sibling(&self, owner: Option<u32>) -> Option<usize> {
        owner.and_then(|_| self.runs.open.iter().position(|run| run.owner == owner))
    }

    /// What comes next is about a connection: what came for it before counts.
    pub(super) fn close_runs_of(&mut self, now: Instant, owner: u32) {
        if let Some(at) = self.sibling(Some(owner)) {
            self.close_family(now, at);
        }
    }

    /// The burst is in.
    pub(super) fn close_runs(&mut self, now: Instant) {
        while !self.runs.open.is_empty() {
            self.close_family(now, 0);
        }
    }

    /// Ends the run at `at`, and with it those of its connection's other subflows.
    fn close_family(&mut self, now: Instant, at: usize) {
        let Some(run) = self.runs.open.get(at) else { return };
        let owner = run.owner;
        if owner.is_none() {
            return self.close_one(now, at);
        }
        self.pulls.begin();
        while let Some(at) = self.sibling(owner) {
            self.close_one(now, at);
        }
        self.pull_in_order(now);
    }

    fn close_one(&mut self, now: Instant, at: usize) {
        if at >= self.runs.open.len() {
            return;
        }
        let mut run = self.runs.open.remove(at);
        let Some(text) = run.text.take() else { return };
        if self.tcbs.get(run.idx).is_some_and(|tcb| tcb.ends.is(&run.tuple)) {
            self.tcb_segments(now, run.idx, &run.segment, text, &mut run.rest);
        } else {
            // Another run ended its connection.
            run.segment.len = text.data_len() as u32;
            let flow = self.find_flow(&run.tuple);
            self.dispatch(now, flow, &run.tuple, run.port, &run.segment, text);
        }
        run.rest.clear();
        self.runs.spare.push(run);
    }
}

/// Takes `next` into a run; false when it must be processed after it. `mappings` are those of the run behind
/// its segment's.
#[inline(always)]
fn join(run: &mut Segment, mappings: &mut Vec<Mapping>, next: &Part, bounds: RunBounds) -> bool {
    let text = run.len > 0;
    if run.parts >= MAX_PARTS || text != (next.len > 0) {
        return false;
    }
    let seq = if text { run.end() } else { run.seq };
    let acks = if text { next.ack.ge(run.ack) } else { next.ack.gt(run.ack) };
    let end = next.seq.add(next.len);
    let grows = next.ack.since(run.ack) <= bounds.stride;
    if next.seq != seq || !acks || !grows || next.ack.gt(bounds.sent) || end.gt(bounds.window) {
        return false;
    }
    let timestamps = match (run.timestamps, next.timestamps) {
        (None, None) => None,
        (Some((first, _)), Some((tsval, tsecr)))
            if tsval.wrapping_sub(first).cast_signed() >= 0 =>
        {
            Some((if text { first } else { tsval }, tsecr))
        }
        _ => return false,
    };
    let joined = match (&mut run.dss, &next.dss) {
        (None, None) => true,
        (Some(run), Some(next)) => join_dss(run, mappings, next),
        _ => false,
    };
    if !joined {
        return false;
    }
    run.len += next.len;
    run.parts += 1;
    run.flags |= next.flags;
    (run.ack, run.window, run.window_seq) = (next.ack, next.window, next.seq);
    run.timestamps = timestamps;
    true
}

/// Takes text that says what the last one said, as [`join`] does.
#[inline(always)]
fn join_text(run: &mut Segment, seq: SeqNum, len: u32, bounds: RunBounds) -> bool {
    if run.parts >= MAX_PARTS || seq != run.end() || seq.add(len).gt(bounds.window) {
        return false;
    }
    run.len += len;
    run.parts += 1;
    run.window_seq = seq;
    true
}

/// Has `run` say what both say; false, and no change, when it cannot.
#[inline(always)]
fn join_dss(run: &mut Dss, mappings: &mut Vec<Mapping>, next: &Dss) -> bool {
    let (Some(prior), Some(ack)) = (run.data_ack, next.data_ack) else { return false };
    if !reached(prior, ack) {
        return false;
    }
    match (&mut run.mapping, &next.mapping) {
        (None, None) => {}
        (Some(first), Some(next)) => {
            let last = mappings.last_mut().unwrap_or(first);
            if let Some(len) = join_mappings(last, next) {
                last.len = len;
            } else if next.ssn == last.ssn.wrapping_add(last.len.into()) {
                mappings.push(*next);
            } else {
                return false;
            }
        }
        _ => return false,
    }
    run.data_ack = Some(ack);
    true
}

/// `ack` is `prior` or later.
#[inline]
fn reached(prior: WireSeq, ack: WireSeq) -> bool {
    match (prior, ack) {
        (WireSeq::Full(prior), WireSeq::Full(ack)) => ack.wrapping_sub(prior).cast_signed() >= 0,
        (WireSeq::Low(prior), WireSeq::Low(ack)) => ack.wrapping_sub(prior).cast_signed() >= 0,
        _ => false,
    }
}

/// The length of a mapping that says what both say: `next` goes on where `run` ends, or is part of it.
#[inline(always)]
fn join_mappings(run: &Mapping, next: &Mapping) -> Option<u16> {
    let into = next.ssn.wrapping_sub(run.ssn);
    let agrees = match (run.dsn, next.dsn) {
        (WireSeq::Full(run), WireSeq::Full(next)) => next.wrapping_sub(run) == u64::from(into),
        (WireSeq::Low(run), WireSeq::Low(next)) => next.wrapping_sub(run) == into,
        _ => false,
    };
    let end = u16::try_from(into).ok()?.checked_add(next.len)?;
    let adjoins = into <= u32::from(run.len);
    (agrees && adjoins).then_some(run.len.max(end))
}
