//! The timers of a connection and what they do: retransmission (RFC 6298), tail loss probes (RFC 8985 §7), probes of a shut
//! window (RFC 9293 §3.8.6.1), and those that end it.

use super::{Kind, Recovery};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::Stage;
use crate::tcp::{Env, Outcome, RtxKind, State, Tcb, TcbFlags};
use crate::time::{Duration, Instant};

/// Longest time between two window probes.
const PERSIST_MAX: Duration = Duration::from_secs(60);
/// Window probes sent for a connection that its application has closed.
const ORPHAN_PROBES: u8 = 8;

/// R1 of RFC 9293 §3.8.3: after so many timeouts the path is in doubt.
const R1: u8 = 3;

impl<B: PacketBuf> Tcb<B> {
    /// Sets the one retransmission timer to whatever comes first.
    pub(in crate::tcp) fn arm_rtx(&mut self, now: Instant) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return;
        }
        if self.queue.is_empty() {
            let starved = self.subflow.as_ref().is_some_and(|subflow| subflow.starved);
            let data = starved || self.unsent_len > 0 && self.window_blocks();
            let fin = self.fin_due() && !self.fin_fits();
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
            && self.rtt.retries == 0
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
        (unsuspected && repairing && self.rtt.retries == 0).then(|| heard + self.probe_timeout())
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

    /// A peer that had drawn its window in behind what is in flight has opened it. Of what was repeated meanwhile it took
    /// nothing, and with each refusal the timeout has grown: the oldest segment goes at once, and the back-off starts anew.
    pub(in crate::tcp) fn window_reopened(&mut self, now: Instant) {
        // What left more recently than that finds the window open.
        let shortest = self.rtt.min_rtt().unwrap_or_default();
        let refused = self.head_sent_at().is_some_and(|at| now.since(at) >= shortest);
        if refused && self.in_recovery() && self.subflow.is_none() {
            self.rtt.reset_back_off();
            self.rto_base = now;
            self.repeat_head(now);
        }
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
        self.rtt.retries = self.rtt.retries.saturating_add(1);
        let opening = !self.state.synchronized();
        let limit = if opening { env.config.syn_retries } else { self.rtt.retry_limit };
        // A peer that answers but takes nothing is not gone: its window is shut, and it is judged by
        // the answers, as with probes (RFC 9293 §3.8.6.1).
        let orphan = self.flags.contains(TcbFlags::READ_SHUT);
        let shut = !opening && !orphan && self.subflow.is_none() && self.snd_wnd == 0;
        if shut {
            self.unanswered_probes = self.unanswered_probes.saturating_add(1);
        }
        let failures = if shut { self.unanswered_probes } else { self.rtt.retries };
        if failures > limit {
            env.stats.tcp_abort_on_timeout += 1;
            if opening {
                self.note_failed_attempt(env);
            }
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
        if self.rtt.retries == 1 {
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
        if forsaken || self.unanswered_probes >= self.rtt.retry_limit {
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
                self.note_failed_attempt(env);
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
                self.slow_at = Some(env.now + crate::tcp::KEEP_ALIVE_INTERVAL);
            }
            _ => {}
        }
    }
}
