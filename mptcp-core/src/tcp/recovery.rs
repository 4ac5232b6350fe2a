//! Loss detection and recovery: RACK-TLP (RFC 8985), PRR (RFC 6937), NewReno without SACK
//! (RFC 6582), and the undoing of spurious reductions by timestamps (RFC 3522).
//!
//! Invariant: `Sender::recovery` is present exactly while something sent before `recover` is unrepaired.

mod timers;

use super::congestion::AckSample;
use super::send_queue::{Delivered, Transmission};
use super::{CongestionState, Env, Segment, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};

/// RFC 5681 §2, RFC 8985 §6.2 step 4: so much reordering is normal.
pub(super) const DUP_THRESH: u32 = 3;

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
            // What the first duplicates let out beyond the window does not count (RFC 5681 §3.2 step 2).
            let within = flight.min(self.cwnd());
            self.tell_congestion(env.now, |c| c.on_congestion_event(env.now, within));
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
}
