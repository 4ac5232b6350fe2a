//! Going on as plain TCP (RFC 8684 §3.7).

use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::event_log::SubflowEnd;
use crate::mptcp::{Amount, FallbackReason, Marks, Phase, Signal};
use crate::stack::demux::TokenOwner;
use crate::stack::options::{self};
use crate::stack::{Sock, Stack};
use crate::tcp::{Segment, State, Tcb};
use crate::time::Instant;
use crate::wire::{MptcpOption, OptionWriter, TcpFlags, Version, reset_reason};
use alloc::vec::Vec;

impl<B: PacketBuf> Stack<B> {
    /// After fallback TCP's acknowledgement and window are those of the stream. A window that opens
    /// again acknowledges nothing new.
    pub(super) fn fallen_back_progress(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if connection.phase != Phase::Fallback {
            return;
        }
        let in_flight = u64::from(tcb.flight_data());
        let offset = connection.data_snd_nxt.saturating_sub(in_flight);
        let window = u64::from(tcb.usable_window()) + u64::from(tcb.flight_size());
        let acked = connection.acknowledge(offset);
        connection.answered(u32::try_from(window).unwrap_or(u32::MAX));
        connection.snd_edge = connection.snd_edge.max(offset + window);
        // No `DATA_ACK` will say so: from here on only the peer's end is waited for.
        let ended = tcb.fin_acked() && !connection.fin_acked;
        connection.fin_acked |= ended;
        if acked || ended {
            self.data_acked(now, owner);
        }
    }

    /// A RST answers the SYN that offered MPTCP: the port is closed, or a box on the way minds the
    /// option. One SYN without it tells, at the price of a round trip. False when that is not the
    /// case, or was asked already.
    pub(super) fn retry_without_option(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
    ) -> bool {
        let connecting = self.connections.get(owner).is_some_and(|c| c.phase == Phase::Connecting);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let opening = connecting && tcb.state == State::SynSent && segment.has(TcpFlags::RST);
        if !opening || tcb.is_plain_syn() {
            return false;
        }
        if let Some(subflow) = &mut tcb.subflow {
            subflow.marks.insert(Marks::SYN_RESET);
        }
        tcb.repeat_plain_syn(now);
        // The engine counted an attempt that is not over.
        self.stats.attempt_fails -= 1;
        self.stats.mp_capable_syn_tx_reset += 1;
        self.touch_tcb(idx);
        true
    }

    /// The rest of our stream, if there is any, can go on over `idx` as plain TCP: nothing does behind our
    /// FIN, and nothing of the stream is on a join.
    fn takes_the_rest(&self, owner: u32, idx: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        if self.joins(idx) {
            return false;
        }
        let closed = self.tcbs.get(idx).is_some_and(Tcb::write_closed);
        !closed || connection.fin_queued && connection.data_snd_nxt >= connection.data_end
    }

    /// A join whose fourth ACK has not come.
    fn joins(&self, idx: u32) -> bool {
        let subflow = self.tcbs.get(idx).and_then(|tcb| tcb.subflow.as_ref());
        subflow.is_some_and(|subflow| subflow.is_joining())
    }

    /// An option, or the lack of one, calls for plain TCP on `idx`; false when the subflow is gone.
    pub(super) fn fall_back_or_reset(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        reason: FallbackReason,
        tell: bool,
    ) -> bool {
        if !self.takes_the_rest(owner, idx) {
            self.note_fallback_refused(owner, reason);
            self.reset_subflow(now, owner, idx, reset_reason::MIDDLEBOX_INTERFERENCE, false);
            return false;
        }
        self.fall_back(owner, idx, reason, tell);
        // TCP's acknowledgements count now.
        self.post_writable(now, Sock::Mptcp(owner));
        true
    }

    /// Goes on as plain TCP on one subflow; the others are reset.
    pub(in crate::stack) fn fall_back(
        &mut self,
        owner: u32,
        survivor: u32,
        reason: FallbackReason,
        tell: bool,
    ) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        // A finished connection has no stream left that could go on.
        if matches!(connection.phase, Phase::Fallback | Phase::Closed) {
            return;
        }
        if connection.mptcp() {
            self.stats.mp_curr_estab -= 1;
        }
        if reason == FallbackReason::PeerChecksum && connection.version == Version::V0 {
            connection.send_again();
        }
        let token = connection.local_token;
        let infinite = self.tcbs.get(survivor).filter(|_| tell).map(|tcb| connection.intact(tcb));
        connection.fall_back(reason);
        let first = connection.first();
        let others: Vec<u32> =
            connection.subflows.iter().copied().filter(|&idx| idx != survivor).collect();
        self.demux.remove_token(token, TokenOwner::Connection(owner));
        self.note_fallback(Sock::Mptcp(owner), &first, reason);
        for idx in others {
            self.note_subflow_end(owner, idx, SubflowEnd::FellBack);
            self.send_rst(idx, OptionWriter::new());
            self.drop_subflow(owner, idx);
        }
        if let Some(tcb) = self.tcbs.get_mut(survivor) {
            if let Some(subflow) = &mut tcb.subflow {
                subflow.fall_back(infinite);
            }
            tcb.refresh_mss();
            let window = u64::from(tcb.usable_window()) + u64::from(tcb.flight_size());
            if let Some(connection) = self.connections.get_mut(owner) {
                let start = connection.data_snd_nxt.saturating_sub(u64::from(tcb.flight_data()));
                connection.acknowledge(start);
                connection.snd_edge = connection.snd_edge.max(start + window);
            }
        }
        self.touch_connection(owner);
    }

    /// A DSS checksum was wrong (RFC 8684 §3.7). False when the subflow is gone.
    pub(super) fn checksum_failed(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        offset: u64,
    ) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        if connection.phase == Phase::Closed {
            return true;
        }
        let (dsn, version) = (connection.remote_dsn(offset).0, connection.version);
        // What the peer may have taken already counts as another subflow.
        let taken = |idx: &u32| self.tcbs.get(*idx).is_some_and(|tcb| tcb.state.synchronized());
        let joins = self.subflows_of(owner).iter().any(|idx| self.joins(*idx) && taken(idx));
        let follows = self.tcbs.get(idx).is_some_and(|tcb| connection.continues_on(tcb));
        let spread = connection.passage.is_spread() || joins || !follows;
        if spread || !self.takes_the_rest(owner, idx) {
            self.stats.mp_fail_tx += 1;
            self.stats.dss_corruption_reset += 1;
            if connection.subflows.len() == 1 {
                self.note_fallback_refused(owner, FallbackReason::Checksum);
            }
            let mut options = OptionWriter::new();
            options::push(&mut options, &MptcpOption::Fail { dsn }, version);
            self.send_rst(idx, options);
            self.note_subflow_end(owner, idx, SubflowEnd::Checksum);
            self.subflow_closed(now, owner, idx, Some(ConnectionError::Reset));
            return false;
        }
        if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut()) {
            subflow.signal(Signal::Fail { dsn, answer: false, told: false });
        }
        self.fall_back(owner, idx, FallbackReason::Checksum, true);
        self.post_writable(now, Sock::Mptcp(owner));
        self.pull(now, owner, idx, false, Amount::All)
    }
}
