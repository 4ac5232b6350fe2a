//! Loss detection and recovery: RACK-TLP (RFC 8985), PRR (RFC 6937), NewReno without SACK
//! (RFC 6582), and the undoing of spurious reductions by timestamps (RFC 3522).
//!
//! Invariant: `Sender::recovery` is present exactly while something sent before `recover` is unrepaired.

use super::congestion::AckSample;
use super::send_queue::{Delivered, Transmission};
use super::{CongestionState, Env, Outcome, RtxKind, Segment, State, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::Stage;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};

/// Longest time between two window probes.
const PERSIST_MAX: Duration = Duration::from_secs(60);
/// Window probes sent for a connection that its application has closed.
const ORPHAN_PROBES: u8 = 8;

/// R1 of RFC 9293 §3.8.3: after so many timeouts the path is in doubt.
const R1: u8 = 3;

/// RFC 5681 §2, RFC 8985 §6.2 step 4: so much reordering is normal.
const DUP_THRESH: u32 = 3;

/// RFC 8985 §6.2 step 4: recoveries that a larger reordering window outlives.
const REO_WND_PERSIST: u8 = 16;

/// Times that the oldest segment comes again before the timeout is no longer put off by that: short segments
/// that arrive would hide for ever that no long one does.
const HEAD_REPAIRS: u8 = 3;

/// RFC 8985 §5.2 per-connection variables that outlive a recovery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rack {
    /// When the reordering window of the oldest suspect closes.
    reorder_at: Option<Instant>,
    /// The newest transmission known to be delivered.
    newest: Transmission,
    rtt_us: u32,
    /// End of what was in flight when the window was last reduced, for ECN and, as the end of the last
    /// recovery until more is acknowledged, without SACK.
    pub(super) reduced: SeqNum,
    /// End of the round trip in which a duplicate was reported.
    dsack_round: SeqNum,
    /// Quarters of the shortest round trip that make the reordering window; 0 counts as 1.
    reo_wnd_mult: u8,
    /// Recoveries without such reports until the window is small again.
    reo_wnd_persist: u8,
}

impl Rack {
    /// A new one would be the same, once nothing is in flight.
    pub(super) const fn is_unused(&self) -> bool {
        self.reo_wnd_mult <= 1
    }

    /// Nothing is in flight, and transmissions are counted anew.
    pub(super) fn forget_transmissions(&mut self) {
        self.newest = Transmission::default();
        self.reorder_at = None;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Fast,
    Timeout,
}

/// What an acknowledgement told beyond what it delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Round trip measured with it.
    pub(super) rtt: Option<Duration>,
    /// It moved `snd_una`.
    pub(super) advanced: bool,
    /// It reported a duplicate.
    pub(super) dsack: bool,
    /// FlightSize before it.
    pub(super) prior_flight: u32,
}

/// Variables of one recovery.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(super) kind: Kind,
    /// `snd_nxt` when it began (RFC 6582 `recover`).
    recover: SeqNum,
    /// FlightSize when it began (RFC 6937 RecoverFS).
    recover_fs: u32,
    prr_delivered: u32,
    prr_out: u32,
    /// Our timestamp on the first retransmission; an older echo proves it spurious.
    undo_ts: Option<u32>,
    /// When the present round trip of a repair after a timeout began.
    round_start: Option<Instant>,
    /// How often the oldest segment was sent again since the last progress or timeout.
    head_repairs: u8,
}

impl<B: PacketBuf> Tcb<B> {
    pub(crate) fn congestion_state(&self) -> CongestionState {
        match self.recovery().map(|recovery| recovery.kind) {
            None => CongestionState::Open,
            Some(Kind::Fast) => CongestionState::Recovery,
            Some(Kind::Timeout) => CongestionState::Loss,
        }
    }

    /// Digests what an acknowledgement delivered; answers how many octets congestion control learnt
    /// to be lost.
    pub(super) fn on_delivered(
        &mut self,
        env: &mut Env<'_>,
        segment: &Segment,
        delivered: &Delivered,
        arrival: &Arrival,
    ) -> u32 {
        let &Arrival { rtt, advanced, dsack, prior_flight } = arrival;
        self.forget_reduction();
        self.rack_update(env.now, segment, delivered, dsack);
        if advanced && let Some(recovery) = self.recovery_mut() {
            recovery.head_repairs = 0;
            self.ease_back_off(env.now, delivered);
        }
        self.finish_tail_loss_probe(env, segment, arrival);
        if self.in_recovery() {
            self.try_undo(env, segment, advanced);
        }
        self.digest_mtu(env, segment, advanced);
        if self.in_recovery() {
            self.try_exit(env.now, dsack);
        }
        self.detect_losses(env.now);
        if !self.flags.contains(TcbFlags::SACK) {
            self.newreno_detect(advanced);
        }
        self.enter_recovery_if_due(env);
        let echoed = self.answer_echo(env, segment, prior_flight);
        let newest = delivered.newest.map(|newest| (newest.sent_at, newest.stamp));
        let pipe = self.pipe();
        let fast = self.recovery().is_some_and(|r| r.kind == Kind::Fast);
        let Some(sender) = &mut self.sender else { return 0 };
        let rate = sender.delivery.on_delivered(env.now, delivered.bytes, newest);
        let governs = sender.congestion.governs();
        if fast && !governs {
            self.proportional_rate_reduction(env.now, delivered.bytes);
        } else if delivered.bytes > 0 && (advanced || governs) {
            // RFC 5681 §3.2: duplicates alone do not open the window.
            let lost = self.queue.lost_total().wrapping_sub(sender.lost_told).cast_signed();
            sender.lost_told = self.queue.lost_total();
            // Taken back are more than were found: none.
            let lost = lost.max(0).unsigned_abs();
            sender.congestion.on_ack(&AckSample {
                now: env.now,
                acked: delivered.bytes,
                acknowledgements: u32::from(segment.parts),
                rtt,
                srtt: self.rtt.srtt().unwrap_or_default(),
                flight_size: prior_flight,
                cwnd_limited: self.flags.contains(TcbFlags::CWND_LIMITED),
                in_recovery: fast || echoed,
                pipe,
                lost,
                delivered: sender.delivery.delivered(),
                rate,
            });
            self.cwnd = sender.congestion.cwnd();
            return lost;
        }
        0
    }

    fn rack_update(&mut self, now: Instant, seg: &Segment, delivered: &Delivered, dsack: bool) {
        // A probe that came back as a duplicate was late; it says nothing about reordering.
        let repeated = dsack && !self.flags.contains(TcbFlags::TLP_RETRANS);
        if delivered.reordered || repeated {
            self.flags.insert(TcbFlags::REORDERING);
        }
        if self.flags.contains(TcbFlags::DSACK_ROUND)
            && self.sender.as_ref().is_none_or(|s| self.snd_una.ge(s.rack.dsack_round))
        {
            self.flags.remove(TcbFlags::DSACK_ROUND);
        }
        if repeated && !self.flags.contains(TcbFlags::DSACK_ROUND) {
            self.flags.insert(TcbFlags::DSACK_ROUND);
            let snd_nxt = self.snd_nxt;
            let rack = &mut self.sender(now).rack;
            rack.dsack_round = snd_nxt;
            rack.reo_wnd_mult = rack.reo_wnd_mult.max(1).saturating_add(1);
            rack.reo_wnd_persist = REO_WND_PERSIST;
        }
        let Some(newest) = delivered.newest else { return };
        let rtt = now.since(newest.sent_at);
        if newest.retransmitted {
            // An ACK too early to be for the retransmission tells nothing (RFC 8985 §6.2 step 2).
            if self.rtt.min_rtt().is_some_and(|min| rtt < min) {
                return;
            }
            if let Some((_, tsecr)) = seg.timestamps
                && self.flags.contains(TcbFlags::TIMESTAMPS)
                && self.timestamp(newest.sent_at).wrapping_sub(tsecr).cast_signed() > 0
            {
                return;
            }
        }
        let rack = &mut self.sender(now).rack;
        rack.rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        if rack.newest.before(newest.transmission) {
            rack.newest = newest.transmission;
        }
    }

    /// RFC 8985 §6.2 step 4: how long a segment may be overtaken before it counts as lost.
    fn reordering_window(&self) -> Duration {
        let sacked = self.queue.sacked_count();
        if !self.flags.contains(TcbFlags::REORDERING)
            && (self.in_recovery() || sacked >= DUP_THRESH)
        {
            return Duration::ZERO;
        }
        let min = self.rtt.min_rtt().unwrap_or(Duration::from_millis(1));
        let quarters = self.sender.as_ref().map_or(1, |s| u32::from(s.rack.reo_wnd_mult.max(1)));
        (min / 4 * quarters).min(self.rtt.srtt().unwrap_or(min))
    }

    /// RFC 8985 §6.2 step 5: marks what was sent long enough before something delivered.
    fn detect_losses(&mut self, now: Instant) {
        let Some(sender) = &mut self.sender else { return };
        sender.rack.reorder_at = None;
        if !self.flags.contains(TcbFlags::SACK)
            || (self.queue.sacked_bytes() == 0 && !self.in_recovery())
        {
            return;
        }
        let window = self.rack_window();
        if let Some(sender) = &mut self.sender {
            let rack = &mut sender.rack;
            rack.reorder_at = self.queue.mark_overtaken(rack.newest, window, now);
        }
    }

    /// How long ago what was overtaken must have been sent to be lost.
    fn rack_window(&self) -> Duration {
        let rtt = match self.sender.as_ref().map_or(0, |sender| sender.rack.rtt_us) {
            0 => self.rtt.srtt().unwrap_or_default(),
            us => Duration::from_micros(u64::from(us)),
        };
        rtt + self.reordering_window()
    }

    /// Without timestamps nothing that was sent before a timeout is measured when it is sent again (RFC
    /// 6298 §3), and the back-off would stay until all of a large window is repaired: each further loss in
    /// it would wait two minutes. Whatever a repair sends after the acknowledgement of what it
    /// sent before is a round trip; each that is acknowledged takes one doubling back, so that a path
    /// which truly takes longer keeps most of them.
    fn ease_back_off(&mut self, now: Instant, delivered: &Delivered) {
        let min = self.rtt.min_rtt().unwrap_or_default();
        let Some(recovery) = self.recovery_mut().filter(|r| r.kind == Kind::Timeout) else {
            return;
        };
        let answered = |start| {
            delivered.newest.is_some_and(|n| n.sent_at >= start && now.since(n.sent_at) >= min)
        };
        let round = recovery.round_start.is_some_and(answered);
        if round || recovery.round_start.is_none() {
            recovery.round_start = Some(now);
        }
        if round {
            self.rtt.ease_back_off();
        }
    }

    /// RFC 6582 without SACK: three duplicate ACKs, then one segment per partial ACK.
    fn newreno_detect(&mut self, advanced: bool) {
        if advanced && self.snd_una.gt(self.reduced()) {
            self.flags.remove(TcbFlags::RENO_RECOVER);
        }
        // Duplicates that our own retransmissions caused do not start another recovery (RFC 6582
        // §3.2 step 1).
        let fresh = !self.flags.contains(TcbFlags::RENO_RECOVER);
        let enter = !self.in_recovery() && self.dup_acks >= 3 && fresh;
        // After a timeout everything is marked already, and what was sent again is on its way.
        let fast = self.recovery().is_some_and(|r| r.kind == Kind::Fast);
        let partial = fast && advanced;
        if enter || partial {
            self.queue.mark_lost(0);
        }
    }

    /// Something is lost and not being repaired: true when a recovery begins.
    fn enter_recovery_if_due(&mut self, env: &mut Env<'_>) -> bool {
        let due =
            self.queue.lost_bytes() > 0 && !self.in_recovery() && !self.lost_only_a_probe(env);
        if due {
            self.enter_fast_recovery(env);
        }
        due
    }

    fn enter_fast_recovery(&mut self, env: &mut Env<'_>) {
        env.stats.tcp_sack_recovery += 1;
        let flight = self.flight_size();
        if !self.is_reduced_for_flight() {
            self.tell_congestion(env.now, |c| c.on_congestion_event(env.now, flight));
            self.note_reduction(env.now);
        }
        self.flags.remove(TcbFlags::TLP_OUT);
        self.begin_recovery(
            env.now,
            Recovery {
                kind: Kind::Fast,
                recover: self.snd_nxt,
                recover_fs: flight.max(1),
                prr_delivered: 0,
                prr_out: 0,
                undo_ts: None,
                round_start: None,
                head_repairs: 0,
            },
        );
    }

    /// RFC 6937: as many octets out as keep `cwnd` converging on `ssthresh`.
    fn proportional_rate_reduction(&mut self, now: Instant, delivered: u32) {
        if self.governs() {
            return;
        }
        let (pipe, mss, ssthresh) = (self.pipe(), self.payload_mss(), self.ssthresh());
        let Some(recovery) = self.recovery_mut() else { return };
        recovery.prr_delivered = recovery.prr_delivered.saturating_add(delivered);
        let sent = recovery.prr_out;
        let allowed = if pipe > ssthresh {
            let share = u64::from(recovery.prr_delivered) * u64::from(ssthresh);
            let target = share.div_ceil(u64::from(recovery.recover_fs));
            u32::try_from(target).unwrap_or(u32::MAX).saturating_sub(sent)
        } else {
            let bound = recovery.prr_delivered.saturating_sub(sent).max(delivered) + mss;
            (ssthresh - pipe).min(bound)
        };
        // The first retransmission of a recovery always goes out.
        let allowed = if sent == 0 { allowed.max(mss) } else { allowed };
        self.set_cwnd(now, (pipe + allowed).max(mss));
    }

    /// RFC 3522: an echo older than the first retransmission acknowledges the original.
    fn try_undo(&mut self, env: &mut Env<'_>, segment: &Segment, advanced: bool) {
        let Some(recovery) = self.recovery() else { return };
        let (Some(undo_ts), Some((_, tsecr))) = (recovery.undo_ts, segment.timestamps) else {
            return;
        };
        if self.subflow.as_ref().is_some_and(|subflow| subflow.stale) {
            // Its path was down: that the oldest segment had arrived before says nothing of the others.
            return;
        }
        if !advanced || tsecr == 0 || undo_ts.wrapping_sub(tsecr).cast_signed() <= 0 {
            return;
        }
        env.stats.tcp_undo += 1;
        self.tell_congestion(env.now, |congestion| congestion.undo(env.now));
        self.flags.remove(TcbFlags::ECN_REDUCED);
        self.queue.clear_lost();
        self.flags.insert(TcbFlags::REORDERING);
        self.end_recovery();
        self.long_segment_arrived();
        // Without SACK they would begin the next recovery at once.
        self.dup_acks = 0;
    }

    fn try_exit(&mut self, now: Instant, dsack: bool) {
        let Some(recovery) = self.recovery() else { return };
        if self.snd_una.lt(recovery.recover) {
            return;
        }
        let (kind, recover) = (recovery.kind, recovery.recover);
        if !self.flags.contains(TcbFlags::SACK) && recover == self.snd_una {
            self.flags.insert(TcbFlags::RENO_RECOVER);
            self.sender(now).rack.reduced = recover;
        }
        if kind == Kind::Fast && !self.governs() {
            self.set_cwnd(now, self.ssthresh().max(self.payload_mss()));
        }
        self.tell_congestion(now, |congestion| congestion.on_recovery_exit(now));
        self.end_recovery();
        if !dsack {
            let rack = &mut self.sender(now).rack;
            rack.reo_wnd_persist = rack.reo_wnd_persist.saturating_sub(1);
            if rack.reo_wnd_persist == 0 {
                rack.reo_wnd_mult = 1;
            }
        }
        self.dup_acks = 0;
    }

    /// RFC 8985 §7.4.2: an acknowledgement beyond a probe that nobody reported as a duplicate means
    /// that the probe repaired a loss, which the window must answer for.
    fn finish_tail_loss_probe(&mut self, env: &mut Env<'_>, segment: &Segment, arrival: &Arrival) {
        if !self.flags.contains(TcbFlags::TLP_OUT) {
            return;
        }
        let tlp_end = self.sender(env.now).tlp_end;
        if self.snd_una.lt(tlp_end) {
            return;
        }
        let repeated = self.flags.contains(TcbFlags::TLP_RETRANS);
        let duplicate = !arrival.advanced && segment.len == 0 && segment.sack_blocks().is_empty();
        if repeated && !arrival.dsack && !duplicate {
            if self.snd_una == tlp_end {
                // Original or probe? The next acknowledgement tells.
                return;
            }
            if !self.in_recovery() {
                env.stats.tcp_loss_probe_recovery += 1;
                let flight = self.flight_size();
                self.tell_congestion(env.now, |c| c.on_congestion_event(env.now, flight));
                self.note_reduction(env.now);
                if !self.governs() {
                    self.set_cwnd(env.now, self.ssthresh());
                }
            }
        }
        self.flags.remove(TcbFlags::TLP_OUT.union(TcbFlags::TLP_RETRANS));
    }

    /// Notes octets sent during a recovery.
    pub(super) fn on_recovery_sent(&mut self, octets: u32, retransmission_ts: Option<u32>) {
        if let Some(recovery) = self.recovery_mut() {
            recovery.prr_out = recovery.prr_out.saturating_add(octets);
            if recovery.undo_ts.is_none() {
                recovery.undo_ts = retransmission_ts;
            }
        }
    }

    /// The oldest segment goes out again: true when the timeout counts from now on.
    pub(super) fn note_head_repair(&mut self) -> bool {
        let Some(recovery) = self.recovery_mut() else { return true };
        recovery.head_repairs = recovery.head_repairs.saturating_add(1);
        recovery.head_repairs <= HEAD_REPAIRS
    }

    /// Octets found lost that the congestion control is not told of.
    pub(super) fn excuse_lost(&mut self, octets: u32) {
        if let Some(sender) = &mut self.sender {
            sender.lost_told = sender.lost_told.wrapping_add(octets);
        }
    }

    // Timers.

    /// Sets the one retransmission timer to whatever comes first.
    pub(super) fn arm_rtx(&mut self, now: Instant) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return;
        }
        if self.queue.is_empty() {
            let starved = self.subflow.as_ref().is_some_and(|subflow| subflow.starved);
            let data = starved || self.unsent_len > 0 && self.window_blocks();
            let fin = self.fin_due() && self.subflow.is_none() && self.usable_window() == 0;
            self.rtx_at = None;
            if data || fin {
                self.rtx_kind = RtxKind::Persist;
                self.rtx_at = Some(self.rto_base + self.persist_interval());
            }
            return;
        }
        let rto_at = self.rto_base + self.rtt.rto();
        let (at, kind) = match self.sender.as_ref().and_then(|sender| sender.rack.reorder_at) {
            Some(at) if at < rto_at => (at.max(now), RtxKind::Reordering),
            _ if self.tail_loss_probe_wanted() => {
                // Where the timeout comes first, the probe takes its place (RFC 8985 §7.2).
                let base = self.last_sent.max(self.rto_base);
                let at = (base + self.probe_timeout()).min(rto_at);
                (at.max(now), RtxKind::TailLossProbe)
            }
            _ => match self.silence_at().filter(|at| *at < rto_at) {
                Some(at) => (at.max(now), RtxKind::Silence),
                None => (rto_at, RtxKind::Rto),
            },
        };
        (self.rtx_at, self.rtx_kind) = (Some(at), kind);
    }

    fn persist_interval(&self) -> Duration {
        (self.rtt.rto() * (1 << u32::from(self.probes.min(10)))).min(PERSIST_MAX)
    }

    fn tail_loss_probe_wanted(&self) -> bool {
        self.flags.contains(TcbFlags::SACK)
            && self.state.synchronized()
            && !self
                .flags
                .intersects(TcbFlags::TLP_OUT.union(TcbFlags::TLP_NOW).union(TcbFlags::TLP_SPENT))
            && !self.in_recovery()
            && self.retries == 0
            && self.queue.sacked_bytes() == 0
            && self.queue.lost_bytes() == 0
    }

    /// When a recovery on a subflow has heard nothing for as long as a tail loss probe waits: in a recovery
    /// there is none, and the other subflows need not wait for the timeout.
    fn silence_at(&self) -> Option<Instant> {
        let subflow = self.subflow.as_ref()?;
        let unsuspected =
            subflow.stage == Stage::Active && !subflow.stale && subflow.rare.watch.is_none();
        let repairing = self.flags.contains(TcbFlags::SACK) && self.in_recovery();
        let heard = subflow.delivered_at.map_or(self.rto_base, |at| at.max(self.rto_base));
        (unsuspected && repairing && self.retries == 0).then(|| heard + self.probe_timeout())
    }

    /// RFC 8985 §7.2
    fn probe_timeout(&self) -> Duration {
        match self.rtt.srtt() {
            Some(srtt) if self.queue.len() == 1 => srtt * 2 + Duration::from_millis(200),
            Some(srtt) => srtt * 2,
            None => Duration::from_secs(1),
        }
    }

    /// Asks whether the path is back: the oldest segment in flight goes out again outside of its
    /// timer's back-off, or a segment without data.
    pub(crate) fn repeat_head(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return self.probe_now();
        }
        self.queue.mark_lost(0);
        self.set_cwnd(now, self.cwnd().max(self.pipe() + self.payload_mss()));
    }

    /// Since when the retransmission timer counts: the last progress, timeout or repair of the head.
    pub(crate) fn rto_base(&self) -> Instant {
        self.rto_base
    }

    /// When the oldest segment in flight was sent last.
    pub(crate) fn head_sent_at(&self) -> Option<Instant> {
        self.queue.get(0).map(|segment| segment.sent_at)
    }

    /// Runs whatever timer is due.
    pub(crate) fn timeout(&mut self, env: &mut Env<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        if self.delayed_ack_at.is_some_and(|at| at <= env.now) {
            self.delayed_ack_at = None;
            self.ack_now();
            let limit = env.config.syn_retries;
            if self.subflow.as_ref().is_some_and(|s| s.third_acks_sent() > limit) {
                env.stats.tcp_abort_on_timeout += 1;
                outcome.closed = Some(Some(ConnectionError::ConnectTimedOut));
                return outcome;
            }
        }
        if let Some(subflow) = &mut self.subflow {
            subflow.end_row(env.now);
        }
        if self.is_released(env.now) {
            self.flags.remove(TcbFlags::PACED);
            self.sender(env.now).pacer.wake(env.now);
        }
        if self.rtx_at.is_some_and(|at| at <= env.now) {
            self.rtx_at = None;
            match self.rtx_kind {
                RtxKind::Rto => self.retransmission_timeout(env, &mut outcome),
                RtxKind::TailLossProbe => self.probe_is_due(env.now, &mut outcome),
                RtxKind::Reordering => {
                    self.detect_losses(env.now);
                    if self.enter_recovery_if_due(env) {
                        self.proportional_rate_reduction(env.now, 0);
                    }
                    self.arm_rtx(env.now);
                }
                RtxKind::Silence => {
                    outcome.probed = true;
                    let rto_at = self.rto_base + self.rtt.rto();
                    (self.rtx_at, self.rtx_kind) = (Some(rto_at.max(env.now)), RtxKind::Rto);
                }
                RtxKind::Persist => self.persist_timeout(env, &mut outcome),
            }
        }
        if outcome.closed.is_none() && self.slow_at.is_some_and(|at| at <= env.now) {
            self.slow_at = None;
            self.slow_timeout(env, &mut outcome);
        }
        outcome
    }

    /// `output` sends the probe; the timeout counts again from it (RFC 8985 §7.3). Where the timeout
    /// would have fired by now, other subflows must not wait for the outcome.
    fn probe_is_due(&mut self, now: Instant, outcome: &mut Outcome) {
        if now >= self.rto_base + self.rtt.rto() {
            self.flags.insert(TcbFlags::SILENT);
            outcome.timed_out = true;
        }
        outcome.probed = true;
        self.flags.insert(TcbFlags::TLP_NOW);
        self.rto_base = now;
        self.arm_rtx(now);
    }

    fn retransmission_timeout(&mut self, env: &mut Env<'_>, outcome: &mut Outcome) {
        env.stats.tcp_timeouts += 1;
        self.retries = self.retries.saturating_add(1);
        let opening = !self.state.synchronized();
        let limit = if opening { env.config.syn_retries } else { self.retry_limit };
        // A peer that answers but takes nothing is not gone: its window is shut, and it is judged by
        // the answers, as with probes (RFC 9293 §3.8.6.1).
        let orphan = self.flags.contains(TcbFlags::READ_SHUT);
        let shut = !opening && !orphan && self.subflow.is_none() && self.snd_wnd == 0;
        if shut {
            self.unanswered_probes = self.unanswered_probes.saturating_add(1);
        }
        let failures = if shut { self.unanswered_probes } else { self.retries };
        if failures > limit {
            env.stats.tcp_abort_on_timeout += 1;
            let error =
                if opening { ConnectionError::ConnectTimedOut } else { self.why_given_up() };
            outcome.closed = Some(Some(error));
            return;
        }
        if failures >= R1 {
            self.soft_error = Some(self.why_given_up());
        }
        outcome.timed_out = true;
        self.rtt.back_off();
        self.rto_base = env.now;
        if opening {
            self.flags.insert(TcbFlags::SYN_NOW);
            self.rtx_kind = RtxKind::Rto;
            self.rtx_at = Some(env.now + self.rtt.rto());
            return;
        }
        self.flags.remove(TcbFlags::TLP_OUT.union(TcbFlags::TLP_RETRANS));
        let flight = self.flight_size();
        let window = self.flags.contains(TcbFlags::SACK).then(|| self.rack_window());
        self.queue.mark_timed_out(window, env.now);
        if self.retries == 1 {
            self.tell_congestion(env.now, |congestion| congestion.on_rto(env.now, flight));
            self.note_reduction(env.now);
        }
        if !shut {
            self.doubt_segment_size(env);
        }
        // One segment, beside what was sent too recently to be lost.
        self.set_cwnd(env.now, self.pipe() + self.payload_mss());
        let (mut recover, mut undo_ts) = (self.snd_nxt, None);
        if let Some(recovery) = self.recovery() {
            recover = recover.max(recovery.recover);
            if recovery.kind == Kind::Timeout {
                // The window was reduced by the first timeout: what acknowledges its retransmission
                // proves it right, however late.
                undo_ts = recovery.undo_ts;
            }
        }
        self.begin_recovery(
            env.now,
            Recovery {
                kind: Kind::Timeout,
                recover,
                recover_fs: flight.max(1),
                prr_delivered: 0,
                prr_out: 0,
                undo_ts,
                round_start: None,
                head_repairs: 0,
            },
        );
        self.sender(env.now).rack.reorder_at = None;
        self.dup_acks = 0;
        self.arm_rtx(env.now);
    }

    /// An ICMP error says more than that nobody answered.
    fn why_given_up(&self) -> ConnectionError {
        self.soft_error.unwrap_or(ConnectionError::TimedOut)
    }

    fn persist_timeout(&mut self, env: &mut Env<'_>, outcome: &mut Outcome) {
        if self.usable_window() > 0 {
            // The override timeout of RFC 9293 §3.8.6.2.1: better a small segment than none.
            self.flags.insert(TcbFlags::OVERRIDE);
            self.rto_base = env.now;
            return;
        }
        // A peer that answers its probes may keep the window shut as long as there is somebody who
        // cares (RFC 9293 §3.8.6.1, RFC 6429); one that does not answer is gone.
        let orphan = self.flags.contains(TcbFlags::READ_SHUT);
        let forsaken = orphan && self.probes >= ORPHAN_PROBES;
        if forsaken || self.unanswered_probes >= self.retry_limit {
            env.stats.tcp_abort_on_timeout += 1;
            outcome.closed = Some(Some(self.why_given_up()));
            return;
        }
        env.stats.tcp_win_probe += 1;
        self.probes = self.probes.saturating_add(1);
        self.unanswered_probes = self.unanswered_probes.saturating_add(1);
        self.rto_base = env.now;
        self.probe_now();
        self.arm_rtx(env.now);
    }

    fn slow_timeout(&mut self, env: &mut Env<'_>, outcome: &mut Outcome) {
        match self.state {
            State::SynSent | State::SynReceived => {
                outcome.closed = Some(Some(ConnectionError::ConnectTimedOut));
            }
            State::FinWait2 if self.flags.contains(TcbFlags::READ_SHUT) => {
                outcome.closed = Some(None);
            }
            State::Established | State::CloseWait | State::FinWait2 => {
                let Some(idle) = self.keep_alive(env.config) else { return };
                if self.rtx_at.is_some() {
                    // Retransmissions and window probes find out more (RFC 9293 §3.8.4).
                    self.slow_at = Some(env.now + idle);
                    return;
                }
                let quiet = env.now.since(self.last_received);
                if quiet < idle {
                    self.slow_at = Some(self.last_received + idle);
                    return;
                }
                // Probes, not time: they may have been switched on long after the last segment.
                if self.unanswered_probes >= env.config.keep_alive_probes {
                    env.stats.tcp_abort_on_timeout += 1;
                    outcome.closed = Some(Some(self.why_given_up()));
                    return;
                }
                self.unanswered_probes = self.unanswered_probes.saturating_add(1);
                env.stats.tcp_keep_alive += 1;
                self.probe_now();
                self.slow_at = Some(env.now + super::KEEP_ALIVE_INTERVAL);
            }
            _ => {}
        }
    }
}
