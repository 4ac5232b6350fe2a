//! Our own receive offload, above the port: what follows on each other within a burst goes through the
//! engines as one segment, with the text of all in as many buffers.
//!
//! A run is either text, in order, or acknowledgements without text. It may only hold what the engine
//! would take one by one without doing anything but counting in between: so a run begins on a control
//! block that is [steady](Tcb::run_bounds), with what it expects next, and takes
//!
//! * segments with ACK and perhaps PSH, no other flag, no mark of a router, and no option but timestamps
//!   and one plain DSS. A SACK, a FIN, an echoed mark, an `MP_FAIL` or a `DATA_FIN` go alone;
//! * text that begins where the run ends and stays inside the window. Its acknowledgement number may
//!   rise. A mapping must say the same as the run's or go on where that ends, without a checksum: a
//!   checksum covers one mapping;
//! * acknowledgements, each of which acknowledges more than the one before. A repeated one is a duplicate
//!   or a window update, and counts alone (RFC 5681 §2);
//! * timestamps and `DATA_ACK`s that do not go back.
//!
//! Of several acknowledgements at one time the last says all: the newest segment it acknowledges gives
//! the round trip and the rate, and octets are counted as if one by one. How many they were is counted
//! for slow start ([`AckSample::acknowledgements`](crate::tcp::congestion::AckSample)), buffers of text
//! are for delayed acknowledgements. The timestamp that text shows is that of its first segment (RFC
//! 7323 §4.3: the oldest that is not answered).
//!
//! Packets of other flows may come in between; the order within a connection stays, but for text that
//! passes packets of other subflows to where it follows on in the stream.

use super::Stack;
use super::demux::Flow;
use crate::buf::{PacketBuf, PortId};
use crate::tcp::{RunBounds, Segment, Tuple};
use crate::time::Instant;
use crate::wire::{Dss, Mapping, WireSeq};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Runs open at a time; another one ends the oldest.
const MAX_RUNS: usize = 8;
/// Segments of a run.
const MAX_PARTS: u8 = 64;

/// Segments of one flow that follow on each other.
struct Run<B> {
    tuple: Tuple,
    port: PortId,
    /// The control block that the flow had when the run began, and its connection.
    idx: u32,
    owner: Option<u32>,
    bounds: RunBounds,
    /// All of them as one.
    segment: Segment,
    /// Of the first one; taken when the run is processed.
    text: Option<B>,
    more: Vec<B>,
}

/// The open runs of a burst, the oldest first; empty between bursts.
pub(super) struct Runs<B> {
    open: Vec<Box<Run<B>>>,
    /// Processed ones, kept for their memory.
    spare: Vec<Box<Run<B>>>,
}

impl<B> Runs<B> {
    pub(super) fn new() -> Self {
        Self { open: Vec::with_capacity(MAX_RUNS), spare: Vec::new() }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// A segment whose checksum is right: joins its run, begins one, or is processed.
    pub(super) fn take_segment(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
    ) {
        if let Some(at) = self.runs.open.iter().position(|run| run.tuple == *tuple) {
            if let Some(run) = self.runs.open.get_mut(at)
                && join(&mut run.segment, segment, run.bounds)
            {
                self.stats.tcp_rcv_coalesce += 1;
                if segment.len > 0 {
                    run.more.push(payload);
                }
                return;
            }
            self.close_run(now, at);
        }
        let flow = self.demux.find(tuple);
        if let Some(Flow::Tcb(idx)) = flow {
            let owner = self.owner_of(idx);
            if self.taking_burst
                && let Some(bounds) = self.run_bounds(idx, owner, segment)
            {
                if self.runs.open.len() == MAX_RUNS {
                    self.close_run(now, 0);
                }
                let (text, more) = (Some(payload), Vec::new());
                let (tuple, segment) = (*tuple, *segment);
                let run = match self.runs.spare.pop() {
                    Some(mut run) => {
                        (run.tuple, run.port, run.idx, run.owner) = (tuple, port, idx, owner);
                        (run.bounds, run.segment, run.text) = (bounds, segment, text);
                        run
                    }
                    None => Box::new(Run { tuple, port, idx, owner, bounds, segment, text, more }),
                };
                return self.runs.open.push(run);
            }
            self.close_siblings(now, owner, usize::MAX);
        }
        self.dispatch(now, flow, tuple, port, segment, payload);
    }

    /// What a segment must keep to that joins the one that begins a run; `None` when none may begin.
    fn run_bounds(&self, idx: u32, owner: Option<u32>, segment: &Segment) -> Option<RunBounds> {
        if !segment.plain || self.pool.is_low() {
            return None;
        }
        let promised = match owner {
            Some(owner) => self.connections.get(owner)?.promised(),
            None => 0,
        };
        self.tcbs.get(idx)?.run_bounds(segment, promised)
    }

    /// The runs of a connection's other subflows that began before the one at `before` end.
    fn close_siblings(&mut self, now: Instant, owner: Option<u32>, before: usize) {
        if owner.is_none() {
            return;
        }
        let mut left = before;
        while let Some(at) = self.runs.open.iter().take(left).position(|run| run.owner == owner) {
            self.close_one(now, at);
            left = left.saturating_sub(1);
        }
    }

    /// The burst is in.
    pub(super) fn close_runs(&mut self, now: Instant) {
        while !self.runs.open.is_empty() {
            self.close_one(now, 0);
        }
    }

    fn close_run(&mut self, now: Instant, at: usize) {
        let Some(run) = self.runs.open.get(at) else { return };
        let (owner, open) = (run.owner, self.runs.open.len());
        self.close_siblings(now, owner, at);
        self.close_one(now, at - (open - self.runs.open.len()));
    }

    fn close_one(&mut self, now: Instant, at: usize) {
        if at >= self.runs.open.len() {
            return;
        }
        let mut run = self.runs.open.remove(at);
        let Some(text) = run.text.take() else { return };
        if self.tcbs.get(run.idx).is_some_and(|tcb| tcb.tuple == run.tuple) {
            self.tcb_segments(now, run.idx, &run.segment, text, &mut run.more);
        } else {
            // Another run ended its connection.
            run.segment.len = text.data().len() as u32;
            let flow = self.demux.find(&run.tuple);
            self.dispatch(now, flow, &run.tuple, run.port, &run.segment, text);
        }
        run.more.clear();
        self.runs.spare.push(run);
    }
}

/// Takes `next` into a run; false when it must be processed after it.
fn join(run: &mut Segment, next: &Segment, bounds: RunBounds) -> bool {
    let text = run.len > 0;
    if !next.plain || run.parts >= MAX_PARTS || text != (next.len > 0) {
        return false;
    }
    let seq = if text { run.end() } else { run.seq };
    let acks = if text { next.ack.ge(run.ack) } else { next.ack.gt(run.ack) };
    if next.seq != seq || !acks || next.ack.gt(bounds.sent) || next.end().gt(bounds.window) {
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
    let dss = match (run.dss, next.dss) {
        (None, None) => None,
        (Some(run), Some(next)) => match join_dss(&run, &next) {
            Some(dss) => Some(dss),
            None => return false,
        },
        _ => return false,
    };
    run.len += next.len;
    run.parts += 1;
    run.flags |= next.flags;
    (run.ack, run.window) = (next.ack, next.window);
    (run.timestamps, run.dss) = (timestamps, dss);
    true
}

/// One DSS that says what both say; `None` when there is none.
fn join_dss(run: &Dss, next: &Dss) -> Option<Dss> {
    let data_ack =
        next.data_ack.filter(|&ack| run.data_ack.is_some_and(|prior| reached(prior, ack)));
    let mapping = match (run.mapping, next.mapping) {
        (None, None) => None,
        (Some(run), Some(next)) => Some(join_mappings(&run, &next)?),
        _ => return None,
    };
    Some(Dss { data_ack: Some(data_ack?), mapping, data_fin: false })
}

/// `ack` is `prior` or later.
fn reached(prior: WireSeq, ack: WireSeq) -> bool {
    match (prior, ack) {
        (WireSeq::Full(prior), WireSeq::Full(ack)) => ack.wrapping_sub(prior).cast_signed() >= 0,
        (WireSeq::Low(prior), WireSeq::Low(ack)) => ack.wrapping_sub(prior).cast_signed() >= 0,
        _ => false,
    }
}

/// A mapping that says what both say: `next` goes on where `run` ends, or is part of it.
fn join_mappings(run: &Mapping, next: &Mapping) -> Option<Mapping> {
    let into = next.ssn.wrapping_sub(run.ssn);
    let agrees = match (run.dsn, next.dsn) {
        (WireSeq::Full(run), WireSeq::Full(next)) => next.wrapping_sub(run) == u64::from(into),
        (WireSeq::Low(run), WireSeq::Low(next)) => next.wrapping_sub(run) == into,
        _ => false,
    };
    let end = u16::try_from(into).ok()?.checked_add(next.len)?;
    let adjoins = into <= u32::from(run.len);
    (agrees && adjoins).then_some(Mapping { len: run.len.max(end), ..*run })
}
