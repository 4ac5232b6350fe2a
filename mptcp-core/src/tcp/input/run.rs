//! Runs: segments that follow on each other and arrive in one burst, of which the engine processes the first and takes
//! the text of the others.
//!
//! Invariant: a run comes to what its segments would, one by one.

use crate::buf::PacketBuf;
use crate::mptcp::Stage;
use crate::seq::SeqNum;
use crate::stats::DropReason;
use crate::tcp::{Env, Outcome, Segment, State, Tcb, TcbFlags};
use alloc::collections::VecDeque;

/// What the segments of a run must keep to beside its first one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunBounds {
    /// What was sent: nobody acknowledges more.
    pub(crate) sent: SeqNum,
    /// The right edge of the window.
    pub(crate) window: SeqNum,
    /// Each acknowledges no more than so much: a slow start grows by less for one that acknowledges more.
    pub(crate) stride: u32,
}

impl<B: PacketBuf> Tcb<B> {
    /// The bounds of a run that begins with `segment`; `None` when segments that follow on it must be
    /// looked at one by one. That is so unless all is well: nothing is missing at the peer, as far as is
    /// known, and the segment is what was to come next or, if it has text, lies behind a hole: such is put aside,
    /// whatever is there. What fills a hole is looked at alone. `room` is what the data level of a subflow
    /// takes.
    pub(crate) fn run_bounds(&self, segment: &Segment, room: u32) -> Option<RunBounds> {
        let text = segment.len > 0;
        let steady = match self.state {
            State::Established | State::FinWait2 => true,
            State::CloseWait => !text,
            _ => false,
        };
        let open = !self.flags.intersects(TcbFlags::FIN_SEEN | TcbFlags::READ_SHUT);
        let next = segment.seq == self.rcv_nxt && !(text && self.received.has_out_of_order());
        let in_place = next || text && segment.seq.gt(self.rcv_nxt);
        let repairs = self.in_recovery()
            || self.dup_acks > 0
            || self.queue.sacked_bytes() > 0
            || self.flags.contains(TcbFlags::TLP_OUT);
        let acks = if text { segment.ack.ge(self.snd_una) } else { segment.ack.gt(self.snd_una) };
        let window = self.rcv_adv.max(self.rcv_nxt.add(room));
        let fits = segment.end().le(window);
        let newer = match segment.timestamps {
            Some((tsval, _)) if self.flags.contains(TcbFlags::TIMESTAMPS) => {
                tsval.wrapping_sub(self.ts_recent).cast_signed() >= 0
            }
            _ => true,
        };
        // A subflow without a DSS, or under suspicion, is watched closely.
        let mapped = match &self.subflow {
            Some(subflow) => {
                segment.dss.is_some()
                    && subflow.stage == Stage::Active
                    && subflow.rare.watch.is_none()
                    && !subflow.stale
            }
            None => segment.dss.is_none(),
        };
        let well =
            steady && (open || !text) && !repairs && acks && in_place && fits && newer && mapped;
        let stride = self.stride();
        let growth = segment.ack.since(self.snd_una) <= stride;
        let bounds = RunBounds { sent: self.snd_nxt, window, stride };
        (well && growth && segment.ack.le(self.snd_nxt)).then_some(bounds)
    }

    /// More text of a run that `segment` speaks of, whose first was processed with this `outcome`.
    pub(crate) fn text_follows(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        texts: &mut VecDeque<B>,
        outcome: &mut Outcome,
    ) {
        if outcome.data {
            if segment.end().gt(self.rcv_adv) {
                // The first may have been cut, and nothing goes on there then.
                env.stats.drop(DropReason::OutOfWindow);
                return self.ack_now();
            }
            self.text_is_next(env, texts);
        } else if outcome.acceptable && self.state.receiving() && segment.seq.gt(self.rcv_nxt) {
            self.text_waits(env, segment.end(), texts, outcome);
        }
    }

    /// Text up to `end`, behind a hole.
    fn text_waits(
        &mut self,
        env: &mut Env<'_>,
        end: SeqNum,
        texts: &mut VecDeque<B>,
        outcome: &mut Outcome,
    ) {
        let octets = texts.iter().map(|text| text.data_len() as u32).sum();
        let mut seq = end.sub(octets);
        for mut text in texts.drain(..) {
            let next = seq.add(text.data_len() as u32);
            text.truncate(usize::try_from(self.rcv_adv.diff(seq)).unwrap_or(0));
            let end = seq.add(text.data_len() as u32);
            if end == seq {
                self.ack_now();
            } else {
                self.store(env, seq, end, text, outcome);
            }
            seq = next;
        }
    }

    /// Text that is what was to come next, in the window, and nothing is out of order.
    fn text_is_next(&mut self, env: &mut Env<'_>, texts: &mut VecDeque<B>) {
        let (budget, count) = (self.reassembly_budget(), texts.len());
        if let Some(octets) = self.received.append_all(texts, budget) {
            self.rcv_nxt = self.rcv_nxt.add(octets);
            self.counters.bytes_received += u64::from(octets);
            for _ in 0..count {
                self.delay_ack(env, 0, false);
            }
            return;
        }
        for text in texts.drain(..) {
            let Some(octets) = self.received.append(text, budget) else {
                env.stats.drop(DropReason::NoMemory);
                self.ack_now();
                break;
            };
            self.rcv_nxt = self.rcv_nxt.add(octets);
            self.counters.bytes_received += u64::from(octets);
            self.delay_ack(env, octets, false);
        }
    }
}
