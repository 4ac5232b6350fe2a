//! Subflows that fail, end or recover, and connections that end with or without them
//! (RFC 8684 §3.3.3, §3.3.6, §3.5, §3.6).

use super::is_dead;
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::event_log::{Event, ReinjectCause, SubflowEnd};
use crate::mptcp::{Phase, Stage};
use crate::seq::SeqNum;
use crate::stack::options::{self};
use crate::stack::{Sock, Stack};
use crate::tcp::{State, Stateless, Tcb};
use crate::time::{Duration, Instant};
use crate::wire::{OptionWriter, TcpFlags, Version, reset_reason};

impl<B: PacketBuf> Stack<B> {
    /// A retransmission timeout: an initiator's SYN may lose its option, a subflow's silence is judged.
    pub(super) fn subflow_timed_out(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        if connection.phase == Phase::Connecting {
            let tries = self.config.mptcp.capable_syn_tries;
            if tcb.rto_count() >= tries && !tcb.is_plain_syn() {
                self.stats.mp_capable_syn_tx_drop += 1;
                tcb.set_plain_syn();
            }
            return;
        }
        if connection.phase != Phase::Fallback && tcb.state.synchronized() {
            self.watch_subflow(now, owner, idx);
        }
    }

    /// The peer's FIN on one subflow (RFC 8684 §3.3.3: not the end of the stream, except after
    /// fallback).
    pub(super) fn subflow_fin(&mut self, owner: u32, idx: u32) {
        let others = self.others_work(owner);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Fallback {
            // It ends the stream once that is delivered up to it.
            return;
        }
        if connection.peer_fin().is_some() && !connection.fin_acked {
            // The peer only stopped sending: what we still have goes on over this subflow.
            return;
        }
        if connection.owes_data() && !others {
            // The only one left is not closed before everything arrived (RFC 8684 §3.3.3).
            return;
        }
        if let Some(tcb) = self.tcbs.get_mut(idx) {
            connection.reinject_from(tcb);
            tcb.shutdown_write();
        }
    }

    /// A subflow that neither end has closed answers, is not sidelined, and is no join that waits for its fourth
    /// ACK: the peer may not have taken that one.
    fn others_work(&self, owner: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let joined = |tcb: &Tcb<B>| {
            tcb.subflow.as_ref().is_some_and(|s| s.stage == Stage::Active && !s.stale)
        };
        let mut tcbs = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        tcbs.any(|tcb| {
            tcb.state == State::Established && joined(tcb) && !tcb.write_closed() && !is_dead(tcb)
        })
    }

    /// Subflows that the peer closed and we kept for what was outstanding: they are closed once
    /// nothing is, or there is another one.
    pub(in crate::stack) fn close_kept_subflows(&mut self, owner: u32) {
        let Some(connection) = self.connections.get(owner) else { return };
        let closed = |&idx: &u32| self.tcbs.get(idx).is_some_and(|t| t.state == State::CloseWait);
        let kept = connection.phase == Phase::Confirmed
            && (connection.peer_fin().is_none()
                || connection.fin_acked && !connection.peer_finished)
            && connection.subflows.iter().any(closed);
        if !kept || connection.owes_data() && !self.others_work(owner) {
            return;
        }
        for idx in self.subflows_of(owner) {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            if tcb.state != State::CloseWait || tcb.write_closed() {
                continue;
            }
            if let Some(connection) = self.connections.get_mut(owner) {
                connection.reinject_from(tcb);
            }
            tcb.shutdown_write();
            self.touch_tcb(idx);
        }
    }

    /// A control block of a connection is gone, or must go.
    pub(in crate::stack) fn subflow_closed(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        error: Option<ConnectionError>,
    ) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if let Some(tcb) = self.tcbs.get_mut(idx)
            && connection.phase != Phase::Fallback
        {
            connection.reinject_from(tcb);
        }
        connection.subflows.retain(|&other| other != idx);
        connection.lost_subflow();
        if connection.phase == Phase::Confirmed {
            // What it delivered to TCP and the data level never acknowledged nobody else repeats.
            if self.tcbs.get(idx).is_some_and(|tcb| tcb.counters.bytes_sent > 0) {
                connection.reinject_orphans(0, &self.tcbs);
            }
            if let Some(tcb) = self.tcbs.get(idx) {
                if error == Some(ConnectionError::Reset)
                    && let Some(subflow) = &tcb.subflow
                {
                    self.path_table.reset(subflow.path);
                }
                let refused = tcb.subflow.as_ref().is_some_and(|s| s.refused);
                let (local, remote) = (tcb.ends.tuple().local_addr, tcb.ends.tuple().remote());
                connection.paths.on_lost(now, local, remote, refused);
            }
        }
        let left = connection.live_subflows(&self.tcbs);
        let phase = connection.phase;
        if phase == Phase::Confirmed && connection.data_snd_una < connection.data_snd_nxt {
            self.observe_reinjection(owner, Some(idx), ReinjectCause::SubflowEnded);
        }
        let answered = error == Some(ConnectionError::Refused);
        let stranger = answered && self.is_stranger(idx);
        self.remove_tcb(idx);
        if stranger && phase == Phase::Confirmed {
            self.ask_idle_subflows(owner);
        }
        match phase {
            Phase::Connecting => {
                // Only an error ends what is not there yet.
                self.stats.internal_errors += u64::from(error.is_none());
                let error = error.unwrap_or(ConnectionError::Internal);
                self.connection_closed(now, owner, Some(error));
            }
            Phase::Fallback => {
                // The end of the subflow is the end of the connection.
                self.connection_closed(now, owner, error);
            }
            Phase::Unconfirmed if left == 0 => self.connection_closed(now, owner, error),
            Phase::Confirmed if left == 0 => {
                let wait = self.config.mptcp.close_timeout;
                if let Some(connection) = self.connections.get_mut(owner) {
                    connection.rare.close_at.get_or_insert(now + wait);
                }
                self.touch_connection(owner);
            }
            Phase::Unconfirmed | Phase::Confirmed => self.touch_connection(owner),
            Phase::Closed => self.reap_connection(owner),
        }
    }

    /// A join of ours was refused as of a connection that the peer does not know.
    fn is_stranger(&self, idx: u32) -> bool {
        let Some(tcb) = self.tcbs.get(idx) else { return false };
        tcb.subflow.as_ref().is_some_and(|subflow| {
            let unknown =
                matches!(subflow.reset_reason(), None | Some(reset_reason::MPTCP_SPECIFIC));
            subflow.stage == Stage::JoinSyn && unknown
        })
    }

    /// Where the peer has forgotten the connection, any segment is answered with a RST. Nothing else would
    /// ever tell who only waits.
    fn ask_idle_subflows(&mut self, owner: u32) {
        for idx in self.subflows_of(owner) {
            if let Some(tcb) = self.tcbs.get_mut(idx)
                && tcb.state.synchronized()
                && tcb.flight_size() == 0
                && tcb.subflow.as_ref().is_some_and(|subflow| subflow.is_confirmed())
            {
                tcb.probe_now();
                self.touch_tcb(idx);
            }
        }
    }

    /// The connection ended; the application is told.
    pub(super) fn connection_closed(
        &mut self,
        now: Instant,
        owner: u32,
        error: Option<ConnectionError>,
    ) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Closed {
            return self.reap_connection(owner);
        }
        if connection.mptcp() {
            self.stats.mp_curr_estab -= 1;
        }
        connection.close(error);
        let sock = Sock::Mptcp(owner);
        self.observe(owner, Event::Closed { error });
        if self.app(sock).is_some_and(|app| app.relay.is_some()) {
            self.relay_progress(now, sock);
        }
        self.post_closed(sock);
        self.reap_connection(owner);
    }

    /// Resets one subflow with a reason for the peer.
    pub(in crate::stack) fn reset_subflow(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        reason: u8,
        transient: bool,
    ) {
        let v1 = self.connections.get(owner).is_some_and(|c| c.version == Version::V1);
        let mut options = OptionWriter::new();
        if v1 {
            options::push_reset(&mut options, reason, transient);
            self.stats.mp_rst_tx += 1;
        }
        self.send_rst(idx, options);
        self.note_subflow_end(owner, idx, SubflowEnd::Reset(reason));
        self.subflow_closed(now, owner, idx, Some(ConnectionError::Reset));
    }

    /// The subflow that is most likely to reach the peer now. On a join that is not complete nobody reads anything but
    /// the third ACK.
    fn best_subflow(&self, owner: u32) -> Option<u32> {
        let connection = self.connections.get(owner)?;
        let live = connection.subflows.iter().filter_map(|&idx| {
            let tcb = self.tcbs.get(idx).filter(|tcb| tcb.state.synchronized())?;
            let subflow = tcb.subflow.as_ref().filter(|subflow| !subflow.is_joining())?;
            let srtt = tcb.rtt.srtt().unwrap_or(Duration::MAX);
            Some((tcb.write_closed(), subflow.stale, srtt, idx))
        });
        live.min().map(|(.., idx)| idx)
    }

    /// A RST on a control block's own sequence number.
    pub(in crate::stack) fn send_rst(&mut self, idx: u32, options: OptionWriter) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let opening = tcb.state == State::SynSent && tcb.rcv_nxt == SeqNum(0);
        if tcb.state == State::Closed || opening {
            return;
        }
        let reply = Stateless {
            tuple: tcb.ends.tuple(),
            port: tcb.port,
            seq: tcb.bare_seq(),
            ack: tcb.rcv_nxt,
            flags: TcpFlags::RST | TcpFlags::ACK,
            window: 0,
            marking: tcb.marking,
            options,
        };
        self.own_reply(reply);
    }

    /// Queues a stateless segment that answers nothing a stranger sent: outside the rate limit.
    pub(in crate::stack) fn own_reply(&mut self, reply: Stateless) {
        if self.resets.len() < self.config.limits.tcbs as usize {
            self.resets.push_back(reply);
        } else {
            self.stats.stateless_reply_limited += 1;
        }
    }

    /// A control block gave up: the peer is told where it may still listen.
    pub(in crate::stack) fn reset_by_timeout(&mut self, idx: u32) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if tcb.state.synchronized() && tcb.state != State::FinWait2 {
            let mut options = OptionWriter::new();
            let told = tcb.subflow.as_ref().is_some_and(|subflow| {
                subflow.version == Version::V1 && subflow.stage == Stage::Active
            });
            if told {
                // RFC 8684 §3.3.6; the path may come back.
                options::push_reset(&mut options, reset_reason::UNACCEPTABLE_PERFORMANCE, true);
                self.stats.mp_rst_tx += 1;
            }
            self.send_rst(idx, options);
        }
    }

    /// The peer closed everything with `MP_FASTCLOSE` (RFC 8684 §3.5); the subflow that came to an
    /// end with it, if one did, needs no RST of ours.
    pub(super) fn fastclosed(&mut self, now: Instant, owner: u32, reset: Option<u32>) {
        let v1 = self.connections.get(owner).is_some_and(|c| c.version == Version::V1);
        for idx in self.subflows_of(owner) {
            if reset != Some(idx) {
                let mut options = OptionWriter::new();
                if v1 {
                    // It was asked for: there is nothing to say, but an empty RST says less.
                    options::push_reset(&mut options, reset_reason::UNSPECIFIED, false);
                    self.stats.mp_rst_tx += 1;
                }
                self.send_rst(idx, options);
            }
            self.drop_subflow(owner, idx);
        }
        self.connection_closed(now, owner, Some(ConnectionError::Reset));
    }

    /// Takes a subflow away without any consequence for the connection.
    pub(super) fn drop_subflow(&mut self, owner: u32, idx: u32) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.subflows.retain(|&other| other != idx);
            connection.lost_subflow();
        }
        self.remove_tcb(idx);
    }

    /// Ends a connection at once: `MP_FASTCLOSE` on an ACK of one subflow, and in version 1 on the RSTs of
    /// the others. Phones read it on an ACK only, and to them a RST is not the end of the connection.
    pub(in crate::stack) fn abort_connection(
        &mut self,
        now: Instant,
        owner: u32,
        error: ConnectionError,
    ) {
        let Some(connection) = self.connections.get(owner) else { return };
        let mptcp = connection.mptcp() && connection.keys.remote != 0;
        let (key, version) = (connection.keys.remote, connection.version);
        let finished = connection.phase == Phase::Closed;
        let told = mptcp && !finished;
        let carrier = told.then(|| self.best_subflow(owner)).flatten();
        for idx in self.subflows_of(owner) {
            if Some(idx) == carrier {
                // The entry outlives the subflow.
                self.enter_fastclose(now, idx, key, version);
                self.drop_subflow(owner, idx);
                continue;
            }
            let mut options = OptionWriter::new();
            if told && version == Version::V1 {
                options::push_fastclose(&mut options, key, version);
                self.stats.mp_fastclose_tx += 1;
            }
            self.send_rst(idx, options);
            self.drop_subflow(owner, idx);
        }
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.clear_received();
        }
        self.connection_closed(now, owner, Some(error));
    }
}
