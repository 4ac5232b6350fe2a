//! SEGMENT ARRIVES in the order of RFC 9293 §3.10.7, one function per step, with PAWS (RFC 7323),
//! the checks of RFC 5961, and selective acknowledgements (RFC 2018, 2883).

mod run;

use super::recovery::DUP_THRESH;
use super::recv_queue::Inserted;
use super::send_queue::Delivered;
use super::{Env, Outcome, Segment, State, Tcb, TcbFlags, rtt};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::Stage;
use crate::seq::SeqNum;
use crate::stats::DropReason;
use crate::time::Duration;
use crate::wire::TcpFlags;
use core::num::NonZeroU32;

pub(crate) use run::RunBounds;

/// Challenge ACKs and answers to empty unacceptable segments, per connection and second
/// (RFC 5961 §7).
const CHALLENGES_PER_SECOND: u16 = 10;

/// A timestamp of so many seconds ago proves nothing any more (RFC 7323 §5.5).
const PAWS_IDLE_S: u32 = 24 * 24 * 3600;

/// Whether arrival processing goes on.
enum Step {
    Continue,
    Stop,
}

impl<B: PacketBuf> Tcb<B> {
    /// One segment for this connection. `payload` is the segment's text, `segment.len` octets.
    pub(crate) fn segment_arrives(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        payload: B,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.counters.segs_in = self.counters.segs_in.wrapping_add(u32::from(segment.parts));
        match self.state {
            State::Closed | State::TimeWait => {}
            State::SynSent => self.syn_sent(env, segment, &mut outcome),
            _ => {
                self.synchronized(env, segment, payload, &mut outcome);
                if self.state != State::Closed && outcome.closed.is_none() {
                    self.arm_rtx(env.now);
                }
            }
        }
        outcome
    }

    /// RFC 9293 §3.10.7.3
    fn syn_sent(&mut self, env: &mut Env<'_>, segment: &Segment, outcome: &mut Outcome) {
        let acked = segment.has(TcpFlags::ACK);
        // Data may have left with the SYN, which acknowledges some of it, or none.
        let sent = self.snd_nxt.max(self.iss.add(1));
        if acked && !(segment.ack.gt(self.iss) && segment.ack.le(sent)) {
            env.stats.drop(DropReason::AckRange);
            outcome.reply_rst = !segment.has(TcpFlags::RST);
            return;
        }
        if segment.has(TcpFlags::RST) {
            if acked {
                env.stats.in_rsts += 1;
                self.note_failed_attempt(env);
                outcome.acceptable = true;
                outcome.closed = Some(Some(ConnectionError::Refused));
            } else {
                env.stats.drop(DropReason::RstSequence);
            }
            return;
        }
        if !segment.has(TcpFlags::SYN) {
            env.stats.drop(DropReason::NoAck);
            return;
        }
        self.irs = segment.seq;
        self.rcv_nxt = segment.seq.add(1);
        self.last_ack_sent = self.rcv_nxt;
        self.rcv_adv = self.rcv_nxt.add(self.autotune.limit().min(65_535));
        self.snd_wl1 = segment.seq;
        self.snd_wl2 = segment.ack;
        self.snd_wnd = u32::from(segment.window);
        self.max_snd_wnd = self.snd_wnd;
        self.last_received = env.now;
        self.agree_on_options(env, segment);
        self.agree_on_ecn(env.stats, segment);
        if !acked {
            // Simultaneous open: the SYN is answered with a SYN/ACK.
            self.state = State::SynReceived;
            self.flags.insert(TcbFlags::SYN_NOW);
            return;
        }
        self.settle_early(segment.ack);
        self.finish_handshake(env, segment, outcome);
        self.ack_now();
    }

    fn agree_on_options(&mut self, env: &Env<'_>, segment: &Segment) {
        match segment.window_scale {
            Some(shift) => {
                self.snd_wscale = shift;
                self.flags.insert(TcbFlags::SCALED);
            }
            None => self.rcv_wscale = 0,
        }
        if !segment.sack_permitted {
            self.flags.remove(TcbFlags::SACK);
        }
        match segment.timestamps {
            Some((tsval, _)) if self.flags.contains(TcbFlags::TIMESTAMPS) => {
                self.ts_recent = tsval;
                self.ts_recent_at_s = super::seconds(env.now);
            }
            _ => self.flags.remove(TcbFlags::TIMESTAMPS),
        }
        self.set_peer_mss(env, segment.mss);
    }

    fn finish_handshake(&mut self, env: &mut Env<'_>, segment: &Segment, outcome: &mut Outcome) {
        let echoed = || rtt::echoed_by_handshake(self.timestamp(env.now), self.echo_of(segment)?);
        let rtt = self.handshake_rtt(env.now).or_else(echoed);
        if let Some(rtt) = rtt {
            self.rtt.reset_back_off();
            self.rtt.on_sample(rtt, env.now);
        } else if self.rtt.retries > 0 {
            self.rtt.reset_back_off();
            self.rtt.on_syn_timeout();
        }
        self.limit_initial_window(env.now, self.rtt.retries);
        self.rtt.retries = 0;
        self.rtx_at = None;
        if self.flags.contains(TcbFlags::SYN_NOW) {
            // A SYN/ACK (or a retransmission) still in the queue has nothing to say any more.
            self.flags.remove(TcbFlags::SYN_NOW);
            self.ack_now();
        }
        // The peer has just answered; below its window it would not read the third ACK's options.
        self.flags.remove(TcbFlags::PROBE_NOW);
        self.state = State::Established;
        self.rto_base = env.now;
        self.arm_slow(env);
        outcome.established = true;
        outcome.acceptable = true;
        outcome.acked = true;
    }

    fn synchronized(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        payload: B,
        outcome: &mut Outcome,
    ) {
        // RFC 9293 §3.10.7.4, first to fifth step.
        if matches!(self.check_paws(env, segment), Step::Stop) {
            return;
        }
        if matches!(self.check_sequence(env, segment), Step::Stop) {
            outcome.below = self.is_from_below(segment);
            return;
        }
        if matches!(self.check_rst(env, segment, outcome), Step::Stop)
            || matches!(self.check_syn(env, segment), Step::Stop)
            || matches!(self.check_ack(env, segment, outcome), Step::Stop)
        {
            return;
        }
        outcome.acceptable = true;
        self.last_received = env.now;
        self.unanswered_probes = 0;
        self.update_ts_recent(env, segment);
        self.note_mark(segment);
        self.process_ack(env, segment, outcome);
        if outcome.closed.is_some() || outcome.time_wait {
            return;
        }
        self.note_urgent(segment, outcome);
        self.process_text(env, segment, payload, outcome);
        if outcome.closed.is_none() {
            self.check_fin(env, outcome);
        }
    }

    /// RFC 7323 §5: a segment from an earlier wrap of the sequence space.
    fn check_paws(&mut self, env: &mut Env<'_>, segment: &Segment) -> Step {
        let Some((tsval, _)) = segment.timestamps else { return Step::Continue };
        if !self.flags.contains(TcbFlags::TIMESTAMPS)
            || segment.has(TcpFlags::RST)
            || self.is_recent(env, tsval)
        {
            return Step::Continue;
        }
        env.stats.drop(DropReason::Paws);
        self.note_duplicate(segment);
        self.answer_unacceptable(env, segment);
        Step::Stop
    }

    /// Not from before `ts_recent`, or that is too old to tell.
    fn is_recent(&self, env: &Env<'_>, tsval: u32) -> bool {
        tsval.wrapping_sub(self.ts_recent).cast_signed() >= 0
            || super::seconds(env.now).wrapping_sub(self.ts_recent_at_s) > PAWS_IDLE_S
    }

    /// First step: is any of it inside the window? A segment without text at the right edge is
    /// taken, or a full window could never be acknowledged; so is a FIN, which needs no buffer.
    fn check_sequence(&mut self, env: &mut Env<'_>, segment: &Segment) -> Step {
        if self.crossing_syn_ack(segment) {
            return Step::Continue;
        }
        let edge = self.rcv_nxt.add(self.rcv_wnd());
        // A RST counts whatever text it carries (RFC 9293 §3.10.7.4, first step), and beyond the edge
        // it is not even challenged (RFC 5961 §3.2).
        let acceptable = if segment.has(TcpFlags::RST) {
            self.resets_at(segment.seq) || segment.seq.gt(self.rcv_nxt) && segment.seq.lt(edge)
        } else if segment.seq_len() == 0 {
            segment.seq.ge(self.rcv_nxt) && segment.seq.le(edge)
        } else {
            let next = segment.len == 0 && segment.seq == self.rcv_nxt;
            segment.end().gt(self.rcv_nxt) && (segment.seq.lt(edge) || next)
        };
        // At a shut window the text is dropped, later, but its acknowledgement counts (RFC 9293
        // §3.10.7.4, first step): or two full peers would wait for each other. Some count the octet that probed as sent,
        // and number behind it what has no text.
        let behind = segment.seq_len() == 0 && segment.seq == self.rcv_nxt.add(1);
        let probe = self.rcv_wnd() == 0 && (segment.seq == self.rcv_nxt || behind);
        if acceptable || probe && segment.has(TcpFlags::ACK) && !segment.has(TcpFlags::SYN) {
            return Step::Continue;
        }
        if segment.has(TcpFlags::RST) {
            env.stats.drop(DropReason::RstSequence);
            return Step::Stop;
        }
        let duplicate = segment.len > 0 && segment.end().le(self.rcv_nxt);
        env.stats.drop(if duplicate { DropReason::Duplicate } else { DropReason::OutOfWindow });
        self.note_duplicate(segment);
        self.answer_unacceptable(env, segment);
        Step::Stop
    }

    /// A simultaneous open's SYN/ACK (RFC 9293 figure 7): its SYN is known, its ACK is what counts.
    fn crossing_syn_ack(&self, segment: &Segment) -> bool {
        self.state == State::SynReceived
            && !self.is_fast_opened()
            && segment.has(TcpFlags::SYN | TcpFlags::ACK)
            && !segment.has(TcpFlags::RST)
            && segment.seq == self.irs
    }

    /// A RST counts at `RCV.NXT`, and at the FIN that is the last there was: so macOS numbers that of an application which
    /// is killed, and answers no more than a few challenges.
    fn resets_at(&self, seq: SeqNum) -> bool {
        seq == self.rcv_nxt || self.fin_received() && seq.add(1) == self.rcv_nxt
    }

    /// Second step with RFC 5961 §3.
    fn check_rst(&mut self, env: &mut Env<'_>, segment: &Segment, outcome: &mut Outcome) -> Step {
        if !segment.has(TcpFlags::RST) {
            return Step::Continue;
        }
        if !self.resets_at(segment.seq) {
            env.stats.drop(DropReason::RstSequence);
            self.challenge(env);
            return Step::Stop;
        }
        env.stats.in_rsts += 1;
        let error = match self.state {
            State::SynReceived if !self.is_fast_opened() => {
                self.note_failed_attempt(env);
                ConnectionError::Refused
            }
            _ => {
                env.stats.estab_resets += 1;
                ConnectionError::Reset
            }
        };
        // Both FINs were exchanged, and all text arrived: a RST now harms nobody.
        let done = matches!(self.state, State::Closing | State::LastAck)
            && self.unsent.is_empty()
            && self.flight_data() == 0;
        outcome.acceptable = true;
        outcome.closed = Some(if done { None } else { Some(error) });
        Step::Stop
    }

    /// Fourth step with RFC 5961 §4.
    fn check_syn(&mut self, env: &mut Env<'_>, segment: &Segment) -> Step {
        if !segment.has(TcpFlags::SYN) {
            return Step::Continue;
        }
        if self.crossing_syn_ack(segment) {
            return Step::Continue;
        }
        env.stats.drop(DropReason::UnexpectedSyn);
        self.challenge(env);
        Step::Stop
    }

    /// Fifth step, its first half, with RFC 5961 §5.
    fn check_ack(&mut self, env: &mut Env<'_>, segment: &Segment, outcome: &mut Outcome) -> Step {
        if !segment.has(TcpFlags::ACK) {
            env.stats.drop(DropReason::NoAck);
            return Step::Stop;
        }
        if self.state == State::SynReceived {
            if !(segment.ack.gt(self.iss) && segment.ack.le(self.snd_nxt)) {
                env.stats.drop(DropReason::AckRange);
                outcome.reply_rst = true;
                return Step::Stop;
            }
            outcome.fast_opened = self.is_fast_opened();
            outcome.crossed = !outcome.fast_opened;
            if outcome.crossed {
                self.settle_early(segment.ack);
                // What the SYN has there acknowledges nothing: this one's window counts.
                self.snd_wl2 = segment.ack;
            }
            self.finish_handshake(env, segment, outcome);
            return Step::Continue;
        }
        if !self.acknowledges_what_was_sent(segment) {
            env.stats.drop(DropReason::AckRange);
            self.challenge(env);
            return Step::Stop;
        }
        Step::Continue
    }

    /// RFC 5961 §5: nothing that was never sent, and nothing that is long out of date.
    fn acknowledges_what_was_sent(&self, segment: &Segment) -> bool {
        let oldest = self.snd_una.sub(self.max_snd_wnd.max(1));
        segment.ack.le(self.snd_nxt) && segment.ack.ge(oldest)
    }

    /// A copy, or a question, of the peer's: by no more than a window below what comes next, and its acknowledgement
    /// counts. Who knows the ports alone cannot make one (RFC 8684 §3).
    fn is_from_below(&self, segment: &Segment) -> bool {
        let widest = u32::from(u16::MAX) << self.rcv_wscale;
        segment.has(TcpFlags::ACK)
            && !segment.flags.intersects(TcpFlags::SYN | TcpFlags::RST)
            && (1..=widest).contains(&self.rcv_nxt.since(segment.seq))
            && self.acknowledges_what_was_sent(segment)
    }

    fn update_ts_recent(&mut self, env: &Env<'_>, segment: &Segment) {
        if let Some((tsval, _)) = segment.timestamps
            && self.flags.contains(TcbFlags::TIMESTAMPS)
            && segment.seq.le(self.last_ack_sent)
            && self.is_recent(env, tsval)
        {
            self.ts_recent = tsval;
            self.ts_recent_at_s = super::seconds(env.now);
        }
    }

    /// Fifth step, second half: acknowledgement, selective acknowledgement and window.
    fn process_ack(&mut self, env: &mut Env<'_>, segment: &Segment, outcome: &mut Outcome) {
        if self.pipe() + self.payload_mss() > self.cwnd()
            && let Some(sender) = &mut self.sender
        {
            sender.open_since = env.now;
        }
        let prior_flight = self.flight_size();
        let prior_window = self.snd_wnd;
        let prior_edge = self.snd_una.add(self.snd_wnd);
        let mut delivered = Delivered::default();
        let advanced = segment.ack.gt(self.snd_una);
        if advanced {
            self.snd_una = segment.ack;
            delivered = self.queue.acknowledge(segment.ack);
            self.on_progress(env);
            outcome.acked = true;
        }
        self.update_send_window(segment, advanced, prior_edge);
        // What nobody reads for any more is not kept by a window that opens and shuts.
        let orphan = self.flags.contains(TcbFlags::READ_SHUT);
        if prior_window > 0 && self.snd_wnd == 0 && self.queue.is_empty() && !orphan {
            // Probing begins one timeout after the window closed (RFC 9293 §3.8.6.1).
            self.rto_base = env.now;
        }
        if prior_window == 0 && self.snd_wnd > 0 && self.subflow.is_none() && !orphan {
            // What a shut window kept out was no failure: the peer has answered.
            self.rtt.retries = 0;
        }
        let dsack = self.process_sack(env, segment, &mut delivered);
        outcome.delivered = delivered.bytes;
        let rtt = self.sample_rtt(env, segment, &delivered, advanced);
        self.count_duplicate(segment, advanced, prior_window, &mut delivered);
        let arrival = super::recovery::Arrival { rtt, advanced, dsack, prior_flight };
        outcome.lost = self.on_delivered(env, segment, &delivered, &arrival);
        if prior_window == 0 && self.snd_wnd > 0 && !advanced && !orphan {
            self.window_reopened(env.now);
        }
        self.update_pace(env);
        // What an orphan's peer takes mostly fills its window: it counts whatever is left of that.
        let goes_on = if orphan { advanced } else { self.usable_window() > 0 };
        if goes_on {
            self.probes = 0;
        }
        if advanced && self.fin_acked() {
            self.on_fin_acked(env, outcome);
        }
    }

    fn on_progress(&mut self, env: &Env<'_>) {
        self.rto_base = env.now;
        // The back-off stays until a round trip is measured (RFC 6298 §5.7).
        self.rtt.retries = 0;
        self.soft_error = None;
        self.flags.remove(TcbFlags::SILENT);
        if let Some(sender) = &mut self.sender {
            sender.snd_sml = sender.snd_sml.max(self.snd_una);
        }
    }

    /// RFC 9293 `SND.WL1`/`SND.WL2`. On a subflow the window belongs to the data level, so the
    /// subflow only remembers how far its peer ever let it go (RFC 8684 §3.3.5).
    fn update_send_window(&mut self, segment: &Segment, advanced: bool, prior_edge: SeqNum) {
        // The window of a SYN is never scaled (RFC 7323 §2.2).
        let shift = if segment.has(TcpFlags::SYN) { 0 } else { self.snd_wscale };
        let window = u32::from(segment.window) << shift;
        if self.subflow.is_some() {
            let edge = segment.ack.add(window).max(prior_edge);
            self.snd_wnd = edge.max(self.snd_una).since(self.snd_una);
            self.max_snd_wnd = self.max_snd_wnd.max(self.snd_wnd);
            return;
        }
        // An acknowledgement that moves `snd_una` brings its own window, however old its sequence
        // number: keeping the old length would move the right edge without the peer's consent.
        let newer = advanced
            || self.snd_wl1.lt(segment.window_seq)
            || (self.snd_wl1 == segment.window_seq && self.snd_wl2.le(segment.ack));
        // One that acknowledges less than is known counts its window from an edge long passed.
        if newer && segment.ack.ge(self.snd_una) {
            self.snd_wnd = window;
            self.max_snd_wnd = self.max_snd_wnd.max(window);
            self.snd_wl1 = segment.window_seq;
            self.snd_wl2 = segment.ack;
        }
    }

    /// Marks the scoreboard; true when the first block reports a duplicate (RFC 2883 §4).
    fn process_sack(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        delivered: &mut Delivered,
    ) -> bool {
        let blocks = segment.sack_blocks();
        if blocks.is_empty() || !self.flags.contains(TcbFlags::SACK) {
            return false;
        }
        let mut dsack = false;
        let highest = self.queue.highest_sacked(self.snd_una);
        for (idx, &(start, end)) in blocks.iter().enumerate() {
            if !self.may_report(start, end) {
                continue;
            }
            let enclosed = || blocks.get(1).is_some_and(|&(s, e)| s.le(start) && end.le(e));
            if idx == 0 && (start.lt(segment.ack) || enclosed()) {
                dsack = true;
                env.stats.tcp_dsack_recv += 1;
                continue;
            }
            if start.lt(end) && start.ge(self.snd_una) && end.le(self.snd_nxt) {
                self.queue.sack(start, end, delivered, highest);
            }
        }
        dsack
    }

    /// A SACK block may be about what was sent: ahead of `SND.UNA` or, a duplicate, by no more than a window below.
    fn may_report(&self, start: SeqNum, end: SeqNum) -> bool {
        let oldest = self.snd_una.sub(self.max_snd_wnd.max(1 << 16));
        start.ge(oldest) && end.le(self.snd_nxt)
    }

    /// Old firewalls number a stream anew and leave the SACK blocks as they are: none of them is about what was sent.
    fn reports_another_stream(&self, segment: &Segment) -> bool {
        let blocks = segment.sack_blocks();
        !blocks.is_empty() && !blocks.iter().any(|&(start, end)| self.may_report(start, end))
    }

    /// Karn's rule by segments; timestamps decide for what was retransmitted (RFC 7323 §4).
    fn sample_rtt(
        &mut self,
        env: &Env<'_>,
        segment: &Segment,
        delivered: &Delivered,
        advanced: bool,
    ) -> Option<Duration> {
        let sample = if let Some(newest) = delivered.newest_original {
            env.now.since(newest.sent_at)
        } else if advanced {
            rtt::echoed(self.timestamp(env.now), self.echo_of(segment)?)?
        } else {
            return None;
        };
        self.rtt.on_sample(sample, env.now);
        self.flags.remove(TcbFlags::TLP_SPENT);
        Some(sample)
    }

    /// The timestamp of ours that a segment echoes.
    fn echo_of(&self, segment: &Segment) -> Option<u32> {
        let agreed = self.flags.contains(TcbFlags::TIMESTAMPS);
        segment.timestamps.filter(|_| agreed).map(|(_, tsecr)| tsecr)
    }

    /// RFC 5681 §2 duplicate acknowledgements, for peers without SACK.
    fn count_duplicate(
        &mut self,
        segment: &Segment,
        advanced: bool,
        prior_window: u32,
        delivered: &mut Delivered,
    ) {
        let reno = !self.flags.contains(TcbFlags::SACK);
        if advanced {
            if reno {
                // What duplicates were counted for is not delivered a second time (RFC 6937 §3).
                let segments = delivered.bytes.div_ceil(self.payload_mss().max(1)).max(1);
                let counted = u32::from(self.dup_acks).min(segments - 1);
                delivered.bytes -= (counted * self.payload_mss()).min(delivered.bytes);
                if self.in_recovery() {
                    // The rest of them left the network and is still not acknowledged.
                    self.dup_acks -= u8::try_from(counted).unwrap_or(self.dup_acks);
                    return;
                }
            }
            self.dup_acks = 0;
            return;
        }
        let duplicate = segment.ack == self.snd_una
            && segment.seq_len() == 0
            && !self.queue.is_empty()
            && self.snd_wnd == prior_window
            && !segment.refused
            && !segment.signals;
        if duplicate && reno {
            self.dup_acks = self.dup_acks.saturating_add(1);
            delivered.bytes += self.payload_mss().min(self.flight_size());
        } else if duplicate && self.reports_another_stream(segment) {
            self.dup_acks = self.dup_acks.saturating_add(1);
            if u32::from(self.dup_acks) >= DUP_THRESH {
                // Losses would show by timeouts alone.
                self.flags.remove(TcbFlags::SACK);
                delivered.bytes += (DUP_THRESH * self.payload_mss()).min(self.flight_size());
            }
        }
    }

    fn on_fin_acked(&mut self, env: &Env<'_>, outcome: &mut Outcome) {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.arm_slow(env);
            }
            State::Closing => {
                self.state = State::TimeWait;
                outcome.time_wait = true;
            }
            State::LastAck => {
                self.state = State::Closed;
                outcome.closed = Some(None);
            }
            _ => {}
        }
    }

    /// Seventh step.
    fn process_text(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        mut payload: B,
        outcome: &mut Outcome,
    ) {
        if segment.len > 0 && segment.seq == self.rcv_nxt && self.rcv_wnd() == 0 {
            env.stats.drop(DropReason::OutOfWindow);
            self.ack_now();
            return;
        }
        if segment.has(TcpFlags::FIN) {
            // Of two ends the first counts: one far ahead must not hide the one that is next.
            let at = segment.text_seq().add(segment.len);
            let known = self.flags.contains(TcbFlags::FIN_SEEN);
            let received = self.flags.contains(TcbFlags::FIN_RECEIVED);
            // What lies beyond the window is cut off (RFC 9293 §3.10.7.4, first step), and an end behind it with it.
            let inside = at.le(self.rcv_nxt.add(self.rcv_wnd()));
            if inside && (!known || !received && at.lt(self.fin_at)) {
                self.flags.insert(TcbFlags::FIN_SEEN);
                self.fin_at = at;
            }
        }
        if segment.len == 0 {
            // Out of order like any other: the duplicate acknowledgement asks for the rest.
            let early = segment.has(TcpFlags::FIN) && segment.seq.gt(self.rcv_nxt);
            // What probes a shut window is answered, whatever becomes of it (RFC 9293 §3.8.6.1).
            if early || segment.refused && self.rcv_wnd() == 0 {
                self.ack_now();
            }
            return;
        }
        if !self.state.receiving() {
            env.stats.drop(DropReason::DataAfterClose);
            return;
        }
        let mut seq = segment.text_seq();
        let old = (seq, self.rcv_nxt.min(seq.add(segment.len)));
        let begins_old = seq.lt(self.rcv_nxt);
        if begins_old {
            self.duplicate(old.0, old.1);
            payload.trim_front(self.rcv_nxt.since(seq) as usize);
            seq = self.rcv_nxt;
        }
        if self.flags.contains(TcbFlags::READ_SHUT)
            && self.subflow.is_none()
            && !payload.data().is_empty()
        {
            // Nobody can ever read this: tell the peer (RFC 9293 §3.6.1).
            env.stats.drop(DropReason::DataAfterClose);
            outcome.reply_rst = true;
            outcome.closed = Some(Some(ConnectionError::Aborted));
            return;
        }
        let room = self.rcv_adv.since(seq);
        payload.truncate(room as usize);
        let end = seq.add(payload.data_len() as u32);
        if payload.data().is_empty() {
            self.ack_now();
            return;
        }
        if segment.timestamps.is_some() && self.flags.contains(TcbFlags::TIMESTAMPS) {
            self.receiver_rtt(env.now, segment.timestamps.map_or(0, |(_, tsecr)| tsecr));
        } else {
            self.assume_receiver_rtt();
        }
        self.store(env, seq, end, payload, outcome);
        if begins_old {
            // Of several parts that were here the first is told (RFC 2883 §4.2).
            self.duplicate(old.0, old.1);
        }
    }

    fn store(
        &mut self,
        env: &mut Env<'_>,
        seq: SeqNum,
        end: SeqNum,
        payload: B,
        outcome: &mut Outcome,
    ) {
        let filled_hole = self.received.has_out_of_order();
        let budget = self.reassembly_budget();
        let known = self.received.first_known(seq, end);
        let mut pruned = 0;
        let inserted = self.received.insert(self.rcv_nxt, seq, payload, budget, true, &mut pruned);
        env.stats.tcp_ofo_pruned += pruned;
        let taken = matches!(inserted, Inserted::InOrder(_) | Inserted::OutOfOrder);
        if let Some((start, end)) = known
            && taken
            && pruned == 0
        {
            // A part of it was here (RFC 2883 §4.2); what had to make room may not be any more.
            self.duplicate(start, end);
        }
        match inserted {
            Inserted::InOrder(octets) => {
                self.rcv_nxt = self.rcv_nxt.add(octets);
                self.counters.bytes_received += u64::from(octets);
                self.data_in_ms = env.now.as_millis() as u32;
                outcome.data = true;
                if let Some(rare) = &mut self.rare {
                    rare.duplicates = 0;
                }
                self.delay_ack(env, octets, filled_hole);
            }
            Inserted::OutOfOrder => {
                env.stats.tcp_ofo_queue += 1;
                if self.wants_ack() && !self.flags.contains(TcbFlags::SACK) {
                    let rare = self.rare();
                    rare.duplicates = rare.duplicates.saturating_add(1);
                }
                self.ack_now();
            }
            Inserted::Duplicate => {
                env.stats.drop(DropReason::Duplicate);
                self.duplicate(seq, end);
                self.ack_now();
            }
            Inserted::Refused => {
                env.stats.drop(DropReason::NoMemory);
                self.ack_now();
            }
        }
    }

    /// RFC 9293 §3.8.6.3 and RFC 5681 §4.2: at the latest every second full segment, at once while
    /// the peer is in slow start or repairing. More `octets` than a segment may have are several that a
    /// port has joined.
    fn delay_ack(&mut self, env: &Env<'_>, octets: u32, filled_hole: bool) {
        let segments = if octets > u32::from(self.local_mss) { 2 } else { 1 };
        self.unacked_segments = self.unacked_segments.saturating_add(segments);
        if self.quick_acks > 0 || filled_hole || self.unacked_segments >= 2 {
            self.quick_acks = self.quick_acks.saturating_sub(1);
            self.ack_now();
        } else if self.delayed_ack_at.is_none() {
            self.delayed_ack_at = Some(env.now + env.config.delayed_ack);
        }
    }

    /// Eighth step.
    fn check_fin(&mut self, env: &Env<'_>, outcome: &mut Outcome) {
        if !self.flags.contains(TcbFlags::FIN_SEEN) || self.flags.contains(TcbFlags::FIN_RECEIVED) {
            return;
        }
        if self.fin_at.lt(self.rcv_nxt) {
            // The stream went on: what that was, it must not hide the real end.
            self.flags.remove(TcbFlags::FIN_SEEN);
        }
        if self.fin_at != self.rcv_nxt {
            return;
        }
        self.flags.insert(TcbFlags::FIN_RECEIVED);
        self.rcv_nxt = self.rcv_nxt.add(1);
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt);
        self.ack_now();
        outcome.fin = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => {
                self.state = State::TimeWait;
                outcome.time_wait = true;
            }
            _ => {}
        }
        self.arm_slow(env);
    }

    /// A duplicate to be reported with the next acknowledgement (RFC 2883).
    fn note_duplicate(&mut self, segment: &Segment) {
        let end = segment.seq.add(segment.len);
        if segment.len > 0 && end.le(self.rcv_nxt) {
            self.duplicate(segment.seq, end);
        }
    }

    fn duplicate(&mut self, start: SeqNum, end: SeqNum) {
        self.rare().dsack = NonZeroU32::new(end.since(start)).map(|len| (start, len));
    }

    /// Text is always answered: the peer retransmits until it is. What carries none may be an
    /// attack, or the other half of an ACK war.
    fn answer_unacceptable(&mut self, env: &mut Env<'_>, segment: &Segment) {
        if segment.len > 0 {
            self.ack_now();
        } else {
            self.challenge(env);
        }
    }

    fn challenge(&mut self, env: &mut Env<'_>) {
        let second = (super::seconds(env.now) << 4) as u16;
        if self.challenges & !0xf != second {
            self.challenges = second;
        }
        if self.challenges & 0xf >= CHALLENGES_PER_SECOND {
            env.stats.tcp_ack_skipped_challenge += 1;
            return;
        }
        self.challenges += 1;
        env.stats.tcp_challenge_ack += 1;
        self.ack_now();
    }

    /// An active open comes to nothing. A join is none, nor is what a listener gave out.
    pub(super) fn note_failed_attempt(&self, env: &mut Env<'_>) {
        let joins = self.subflow.as_ref().is_some_and(|s| s.stage == Stage::JoinSyn);
        env.stats.attempt_fails += u64::from(!joins && !self.is_fast_opened());
    }

    /// An ICMP error that was checked against this connection (RFC 5927, RFC 9293 §3.9.2.2). It ends
    /// a handshake; on an established connection it is only noted.
    pub(crate) fn icmp_error(&mut self, env: &mut Env<'_>, error: ConnectionError) -> Outcome {
        let mut outcome = Outcome::default();
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        if opening && !self.is_fast_opened() {
            self.note_failed_attempt(env);
            outcome.closed = Some(Some(error));
        } else {
            self.soft_error = Some(error);
        }
        outcome
    }
}
