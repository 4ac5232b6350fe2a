//! Stream data: moved up from subflows, acknowledged, ended, and repeated when no `DATA_ACK` comes
//! (RFC 8684 §3.3).

use super::Effect;
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::{Phase, Pulled, Unmapped};
use crate::stack::{Sock, Stack, env};
use crate::tcp::State;
use crate::time::{Duration, Instant};
use crate::wire::reset_reason;
use alloc::vec::Vec;

impl<B: PacketBuf> Stack<B> {
    /// A `DATA_ACK` freed something.
    pub(super) fn data_acked(&mut self, now: Instant, owner: u32) {
        let linger = self.config.tcp.fin_wait_2;
        if let Some(connection) = self.connections.get_mut(owner)
            && !connection.app.attached
            && connection.close_at.is_some()
        {
            // Nobody holds it any more, but its peer still takes what is left.
            connection.close_at = Some(now + linger);
        }
        self.post_writable(now, Sock::Mptcp(owner));
        self.finish(now, owner);
    }

    /// Moves data up; `arrived` when TCP has new data and thus owes an acknowledgement anyway. False
    /// when the subflow is gone.
    pub(super) fn pull(&mut self, now: Instant, owner: u32, idx: u32, arrived: bool) -> bool {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let before = connection.data_rcv_nxt;
        let pulled: Pulled = connection.pull(tcb, &mut self.stats);
        connection.receiver_rtt(tcb.receiver_rtt_us());
        tcb.share_buffer(connection.receive_buffer());
        let held = pulled.data && !arrived;
        if pulled.duplicate || held || connection.has_gap() {
            // The peer repairs, its paths differ, or a mapping came late: tell it at once.
            tcb.ack_now();
        }
        let finished = connection.reached_fin();
        if finished {
            tcb.ack_now();
        }
        let advanced = connection.data_rcv_nxt != before || finished;
        let attached = connection.app.attached;
        if let Some(unmapped) = pulled.unmapped {
            let effect = match unmapped {
                Unmapped::Reset => {
                    self.stats.dss_corruption_reset += 1;
                    Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE)
                }
                Unmapped::Checksum(offset) => Effect::Checksum(offset),
            };
            if !self.apply(now, owner, idx, effect) {
                return false;
            }
        }
        if pulled.data && !attached {
            // Nobody reads any more (RFC 8684 §3.5).
            self.abort_connection(now, owner, ConnectionError::Aborted);
            return false;
        }
        if advanced {
            self.post_readable(now, Sock::Mptcp(owner), finished);
            self.finish(now, owner);
        }
        self.tcbs.get(idx).is_some()
    }

    /// Both streams ended: the subflows close (RFC 8684 §3.3.3).
    pub(super) fn finish(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase != Phase::Confirmed || !connection.finished() {
            return;
        }
        connection.close(None);
        self.stats.mp_curr_estab -= 1;
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
                self.subflow_closed(now, owner, idx, None);
                continue;
            }
            tcb.shutdown_write();
            let env = env!(self, now);
            tcb.shutdown_read(&env);
            self.touch_tcb(idx);
        }
    }

    pub(in crate::stack) fn subflows_of(&self, owner: u32) -> Vec<u32> {
        self.connections.get(owner).map(|c| c.subflows.clone()).unwrap_or_default()
    }

    /// No `DATA_ACK` came in time: the head of the stream, the `DATA_FIN` or a window probe goes
    /// out again.
    pub(super) fn data_timeout(&mut self, now: Instant, owner: u32) {
        let rto = self.largest_rto(owner);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.window_blocked() {
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
        let fin = connection.fin_due();
        connection.retransmission_timeout(now, rto);
        if fin {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.ack_now();
                }
                self.touch_tcb(idx);
            }
        } else {
            self.stats.mptcp_retrans += 1;
        }
    }

    pub(in crate::stack) fn largest_rto(&self, owner: u32) -> Duration {
        let Some(connection) = self.connections.get(owner) else { return Duration::ZERO };
        let rtos = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        rtos.filter(|t| t.rto_count() == 0).map(|t| t.rtt.rto()).max().unwrap_or_default()
    }
}
