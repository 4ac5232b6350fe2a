//! Stream data: moved up from subflows, acknowledged, ended, and repeated when no `DATA_ACK` comes
//! (RFC 8684 §3.3).

use super::Effect;
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::event_log::{Event, ReinjectCause, SubflowEnd};
use crate::mptcp::{Amount, FallbackReason, Phase, Pulled, Silence, Subflow, Unmapped};
use crate::seq::SeqNum;
use crate::stack::{Sock, Stack, env};
use crate::tcp::{State, Tcb};
use crate::time::{Duration, Instant};
use crate::util::short_list::ShortList;
use crate::wire::reset_reason;

/// How long data is held for its mapping, at least, before a connection that may still fall back
/// does.
const UNMAPPED_WAIT: Duration = Duration::from_millis(500);
/// Of so many repetitions of a `DATA_FIN` one makes the peer's TCP answer.
const FIN_ROUNDS: u8 = 4;

impl<B: PacketBuf> Stack<B> {
    /// A `DATA_ACK` freed something.
    pub(super) fn data_acked(&mut self, now: Instant, owner: u32) {
        let fin_wait = self.config.tcp.fin_wait_2;
        if let Some(connection) = self.connections.get_mut(owner)
            && !connection.app.is_attached()
            && connection.rare.close_at.is_some()
        {
            // Nobody holds it any more, but its peer still takes what is left.
            connection.rare.close_at = Some(now + connection.linger(fin_wait));
        }
        if let Some(connection) = self.connections.get_mut(owner)
            && connection.repair_on(&self.tcbs)
        {
            self.stats.mptcp_retrans += 1;
            self.observe_reinjection(owner, None, ReinjectCause::DataTimeout);
        }
        self.hear_repair(now, owner);
        self.close_kept_subflows(owner);
        self.post_writable(now, Sock::Mptcp(owner));
        self.finish(now, owner);
    }

    /// Moves data up; `arrived` when TCP has new data and thus owes an acknowledgement anyway. False
    /// when the subflow is gone.
    pub(super) fn pull(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        arrived: bool,
        amount: Amount,
    ) -> bool {
        let held = |tcb: &Tcb<B>| tcb.received.has_out_of_order();
        let others = if self.tcbs.get(idx).is_some_and(held) { self.held(owner, idx) } else { 0 };
        let longest = self.longest_receiver_rtt(owner);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let nothing = !arrived && connection.has_nothing_to_pull(tcb);
        let (before, gap) = (connection.data_rcv_nxt, connection.has_gap());
        let pulled =
            if nothing { Pulled::default() } else { connection.pull(tcb, amount, &mut self.stats) };
        connection.receiver_rtt(longest);
        // What several subflows hold out of order shares one budget.
        tcb.share_buffer(connection.receive_buffer().saturating_sub(others / 2));
        if nothing {
            return true;
        }
        let held = pulled.data && !arrived;
        if pulled.duplicate || held || arrived && (gap || connection.has_gap()) {
            // The peer repairs, its paths differ (RFC 5681 §4.2 on gaps), or a mapping came late: tell
            // it at once. An acknowledgement never gets one in return: two ends with a gap would go
            // on for ever.
            tcb.ack_now();
        }
        let finished = connection.reached_fin();
        if finished {
            tcb.ack_now();
        }
        let finished = finished || connection.reached_tcp_fin(tcb);
        let advanced = connection.data_rcv_nxt != before || finished;
        if pulled.data && !connection.app.is_attached() {
            // Nobody reads any more (RFC 8684 §3.5).
            self.abort_connection(now, owner, ConnectionError::Aborted);
            return false;
        }
        if advanced {
            self.post_readable(now, Sock::Mptcp(owner), finished);
            self.finish(now, owner);
        }
        self.judge_unmapped(now, owner, idx, pulled.unmapped) && self.tcbs.get(idx).is_some()
    }

    /// What to do about the octets `pull` stopped at; false when the subflow is gone.
    fn judge_unmapped(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        unmapped: Option<Unmapped>,
    ) -> bool {
        let unmapped = match unmapped {
            Some(Unmapped::Held) if self.holds_too_much(owner) => Some(Unmapped::Reset),
            other => other,
        };
        let waits =
            |s: &Self| s.connections.get(owner).is_some_and(|c| c.rare.unmapped_at.is_some());
        let doubted = unmapped == Some(Unmapped::Held) || waits(self);
        let hopeless = doubted && self.lost_mapping(owner).is_some();
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        if unmapped != Some(Unmapped::Held) && !hopeless {
            connection.set_unmapped_at(None);
        }
        let heard = hopeless || connection.passage.heard_waiting();
        match unmapped {
            None => true,
            Some(Unmapped::Held) => {
                let doubted = connection.unproven() || hopeless;
                if doubted && connection.rare.unmapped_at.is_none() {
                    connection.passage.await_mapping();
                    let wait = (self.largest_rto(owner) * 2).max(UNMAPPED_WAIT);
                    if let Some(connection) = self.connections.get_mut(owner) {
                        connection.set_unmapped_at(Some(now + wait));
                    }
                    self.touch_connection(owner);
                }
                true
            }
            // Who never had a DATA_ACK through, and maps nothing, took our silence for fallback.
            Some(Unmapped::Reset) if connection.unproven() && !heard => {
                self.fall_back_held(now, owner, idx)
            }
            Some(Unmapped::Reset) => {
                self.stats.dss_corruption_reset += 1;
                self.apply(now, owner, idx, Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE))
            }
            Some(Unmapped::Checksum(offset)) => {
                self.apply(now, owner, idx, Effect::Checksum(offset))
            }
        }
    }

    /// The longest round trip of any subflow, in microseconds.
    fn longest_receiver_rtt(&self, owner: u32) -> u32 {
        let Some(connection) = self.connections.get(owner) else { return 0 };
        let subflows = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        subflows.map(Tcb::receiver_rtt_us).max().unwrap_or(0)
    }

    /// Pool bytes that what arrived on the other subflows pins.
    fn held(&self, owner: u32, idx: u32) -> u32 {
        let Some(connection) = self.connections.get(owner) else { return 0 };
        let others = connection.subflows.iter().filter(|&&other| other != idx);
        let held = others.filter_map(|&other| self.tcbs.get(other)).map(|t| t.received.truesize());
        held.fold(0, u32::saturating_add)
    }

    /// The subflows together hold more in order for want of mappings than one may.
    fn holds_too_much(&self, owner: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let subflows = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        let held = subflows.map(|t| t.received.in_order_len()).fold(0, u32::saturating_add);
        held > connection.unmapped_bound()
    }

    /// Falls back and delivers what was held for want of a mapping.
    fn fall_back_held(&mut self, now: Instant, owner: u32, idx: u32) -> bool {
        self.fall_back_or_reset(now, owner, idx, FallbackReason::OptionsLost, true)
            && self.pull(now, owner, idx, false, Amount::All)
    }

    /// A subflow that holds mapped data in order behind octets without a mapping: the one that would
    /// have brought it is acknowledged, so it never comes again. Beside other subflows one that holds
    /// octets without a mapping at all is the same after a while: its options are lost on the way.
    pub(super) fn lost_mapping(&self, owner: u32) -> Option<u32> {
        let connection = self.connections.get(owner)?;
        let several = connection.passage.is_spread() && connection.subflows.len() > 1;
        connection.subflows.iter().copied().find(|&idx| {
            let Some(tcb) = self.tcbs.get(idx) else { return false };
            let Some(subflow) = &tcb.subflow else { return false };
            let (end, held) = (tcb.rcv_nxt_data(), tcb.received.in_order_len());
            let head = end.sub(held);
            let unmapped = |next: SeqNum| next != head && (several || next.lt(end));
            held > 0 && subflow.mappings.next_start(head).map_or(several, unmapped)
        })
    }

    /// No mapping came for data held all the while.
    pub(super) fn unmapped_timeout(&mut self, now: Instant, owner: u32) {
        let lost = self.lost_mapping(owner);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.set_unmapped_at(None);
        let heard = connection.passage.heard_waiting();
        // The one that held it may be gone, and a join is next.
        let holds =
            |&idx: &u32| self.tcbs.get(idx).is_some_and(|tcb| tcb.received.in_order_len() > 0);
        let first = connection.subflows.first().copied();
        let first = first.filter(|_| connection.unproven()).filter(holds);
        let Some(idx) = lost.or(first) else { return };
        if lost.is_some() || heard {
            // The peer goes on mapping, and may have sent again what was lost with a mapping: read as
            // plain TCP that would be a second copy. Elsewhere it arrives.
            self.stats.dss_corruption_reset += 1;
            self.apply(now, owner, idx, Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE));
            return;
        }
        self.fall_back_held(now, owner, idx);
        self.touch_tcb(idx);
    }

    /// Both streams ended: the subflows close (RFC 8684 §3.3.3).
    pub(super) fn finish(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase != Phase::Confirmed || !connection.finished() {
            return;
        }
        connection.close(None);
        self.stats.mp_curr_estab -= 1;
        self.observe(owner, Event::Closed { error: None });
        self.close_subflows(now, owner);
        self.post_closed(Sock::Mptcp(owner));
        self.touch_connection(owner);
        self.reap_connection(owner);
    }

    /// Every subflow's FIN goes out; what is joining is dropped.
    pub(super) fn close_subflows(&mut self, now: Instant, owner: u32) {
        let subflows = self.subflows_of(owner);
        for idx in subflows {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let joining = matches!(tcb.state, State::SynSent | State::SynReceived);
            if joining {
                self.note_subflow_end(owner, idx, SubflowEnd::Closed);
                self.subflow_closed(now, owner, idx, None);
                continue;
            }
            tcb.shutdown_write();
            let env = env!(self, now);
            tcb.shutdown_read(&env);
            self.touch_tcb(idx);
        }
    }

    pub(in crate::stack) fn subflows_of(&self, owner: u32) -> ShortList {
        self.connections.get(owner).map(|c| c.subflows.clone()).unwrap_or_default()
    }

    /// No `DATA_ACK` came in time: the head of the stream, the `DATA_FIN` or a window probe goes
    /// out again.
    pub(super) fn data_timeout(&mut self, now: Instant, owner: u32) {
        let rto = self.largest_rto(owner);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let limit = self.config.tcp.retries;
        let joins = |tcb: &Tcb<B>| tcb.subflow.as_ref().is_some_and(|s| s.is_joining());
        let reaches =
            |idx: &u32| self.tcbs.get(*idx).is_some_and(|t| t.state.synchronized() && !joins(t));
        if connection.phase == Phase::Confirmed && !connection.subflows.iter().any(reaches) {
            // Nobody is asked. How long that may go on `close_timeout` says.
            return connection.await_subflow(now);
        }
        if connection.override_hold() {
            connection.rtx_at = None;
            return self.touch_connection(owner);
        }
        if connection.window_blocked() {
            if !connection.probe_again(limit) {
                return self.give_up(now, owner);
            }
            self.stats.win_probe += 1;
            connection.probe_backoff(now, rto);
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx)
                    && tcb.state.synchronized()
                {
                    tcb.probe_now();
                }
                self.touch_tcb(idx);
            }
            return;
        }
        if connection.phase == Phase::Fallback {
            // The window opened; whatever else is due TCP repeats itself.
            connection.arm_rtx(now, rto);
            return;
        }
        // In front of a shut window a DATA_FIN is a probe: who answers is alive (RFC 9293 §3.8.6.1).
        let in_vain = if connection.fin_blocked() {
            !connection.probe_again(limit)
        } else {
            connection.fruitless_rounds() >= limit
        };
        if in_vain {
            return self.give_up(now, owner);
        }
        let first = connection.subflows.first().copied();
        if connection.owes_head() {
            let in_flight =
                first.and_then(|idx| self.tcbs.get(idx)).is_some_and(|tcb| tcb.flight_size() > 0);
            match connection.judge_silence(in_flight) {
                Silence::Ask => return self.ask_for_data_ack(now, owner, rto),
                Silence::SendAgain => {}
                Silence::Reset => {
                    // A new subflow is all that is left to the connection: it sends again.
                    if let Some(idx) = first {
                        self.stats.dss_corruption_reset += 1;
                        let reason = reset_reason::MIDDLEBOX_INTERFERENCE;
                        self.reset_subflow(now, owner, idx, reason, true);
                    }
                }
            }
        }
        let witness = self.connections.get(owner).and_then(|c| c.doubtful_witness(&self.tcbs));
        if let Some(idx) = witness {
            self.doubt_witness(now, owner, idx);
        }
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let fin = connection.fin_due();
        let paths = &self.path_table;
        let crowded = |path| paths.is_crowded(now, path);
        let repairs = |tcb: &Tcb<B>| {
            tcb.rto_count() == 0
                || tcb.subflow.as_ref().is_some_and(|s| !s.stale && crowded(s.path))
        };
        connection.retransmission_timeout(now, rto, &self.tcbs, repairs);
        // Linux acknowledges a `DATA_FIN` when it reaches it, and a repetition never: what it said then, should that be
        // lost, only its TCP says again, to what lies below its window.
        let asks = connection.fruitless_rounds().is_multiple_of(FIN_ROUNDS);
        if !fin {
            self.observe_reinjection(owner, None, ReinjectCause::DataTimeout);
        }
        if fin {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    let answers = tcb.state.synchronized() && tcb.flight_size() == 0;
                    let joined = |s: &Subflow| s.id == 0 || s.is_confirmed();
                    if asks && answers && tcb.subflow.as_deref().is_some_and(joined) {
                        tcb.probe_now();
                    } else {
                        tcb.ack_now();
                    }
                }
                self.touch_tcb(idx);
            }
        } else {
            self.stats.mptcp_retrans += 1;
        }
    }

    /// The peer's TCP may be alive, its data level is not.
    fn give_up(&mut self, now: Instant, owner: u32) {
        self.stats.tcp_abort_on_timeout += 1;
        self.abort_connection(now, owner, ConnectionError::TimedOut);
    }

    /// Data sent again under new subflow sequence numbers is a second copy for a peer that fell
    /// back. While that is possible TCP alone repeats it, and what TCP delivered is asked about:
    /// the answer has a `DATA_ACK`, or shows that options do not pass.
    fn ask_for_data_ack(&mut self, now: Instant, owner: u32, rto: Duration) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.probe_backoff(now, rto);
        for idx in self.subflows_of(owner) {
            if let Some(tcb) = self.tcbs.get_mut(idx)
                && tcb.state.synchronized()
                && tcb.flight_size() == 0
                // A join under way is no such, and repeats its third ACK itself.
                && tcb.subflow.as_ref().is_some_and(|s| s.id == 0 || s.is_confirmed())
            {
                tcb.probe_now();
            }
            self.touch_tcb(idx);
        }
    }

    pub(in crate::stack) fn largest_rto(&self, owner: u32) -> Duration {
        let Some(connection) = self.connections.get(owner) else { return Duration::ZERO };
        let rtos = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        rtos.filter(|t| t.rto_count() == 0).map(|t| t.rtt.rto()).max().unwrap_or_default()
    }
}
