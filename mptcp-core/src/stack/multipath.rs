//! Where the TCP engine's outcomes meet the data level: the options of accepted segments, data
//! moving up, subflows coming and going, fallback, path management (RFC 8684 §3).

use super::demux::{Flow, Node};
use super::options::{self, Handshake};
use super::{Ready, Sock, Stack, env};
use crate::buf::{PacketBuf, PortId};
use crate::config::{ChecksumPolicy, PathManagerKind};
use crate::error::ConnectionError;
use crate::mptcp::key::{self, ReceivedHmac};
use crate::mptcp::{
    Endpoint, FallbackReason, Join, Phase, Pulled, Signal, Stage, Subflow, Unmapped,
};
use crate::seq::SeqNum;
use crate::tcp::{Outcome, Segment, State, Stateless, Tcb, Tuple, mss_for};
use crate::time::{Duration, Instant};
use crate::wire::{
    AddAddr, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MptcpOption, OptionIter,
    OptionWriter, TcpFlags, TcpOption, Version, WireSeq, reset_reason,
};
use alloc::vec::Vec;

/// What an option asks for beyond the subflow it came on.
enum Effect {
    None,
    /// Reset this subflow with this reason.
    Reset(u8),
    /// The peer closed the whole connection at once; with a RST on the subflow it came on, or not.
    Fastclose {
        reset: bool,
    },
    FallBack(FallbackReason),
    /// Unmapped data or a wrong checksum at this offset.
    Checksum(u64),
}

/// What the options of one segment contained.
#[derive(Default)]
struct Seen {
    dss: bool,
    data_acked: bool,
}

impl<B: PacketBuf> Stack<B> {
    /// A segment arrived on a subflow and TCP is through with it.
    pub(super) fn subflow_outcome(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
    ) {
        let Some(owner) = self.owner_of(idx) else { return };
        if outcome.established {
            // After a simultaneous open the segment is an ACK without our options.
            if !self.syn_ack_options(now, owner, idx, segment) {
                return;
            }
        } else if outcome.acceptable {
            let effect = self.read_options(now, owner, idx, segment, outcome);
            if !self.apply(now, owner, idx, effect) {
                return;
            }
        }
        self.subflow_event(now, idx, outcome);
    }

    fn owner_of(&self, idx: u32) -> Option<u32> {
        self.tcbs.get(idx)?.subflow.as_ref().map(|s| s.connection)
    }

    /// What an outcome means for the data level, whether a segment or a timer caused it.
    pub(super) fn subflow_event(&mut self, now: Instant, idx: u32, outcome: &Outcome) {
        let Some(owner) = self.owner_of(idx) else { return };
        if let Some(error) = outcome.closed {
            self.subflow_closed(now, owner, idx, error);
            return;
        }
        if outcome.timed_out {
            self.subflow_timed_out(now, owner, idx);
        }
        if outcome.acked {
            self.subflow_progress(owner, idx);
        }
        if outcome.acceptable {
            self.fallen_back_progress(now, owner, idx);
        }
        if (outcome.data || outcome.acceptable) && !self.pull(now, owner, idx, outcome.data) {
            return;
        }
        if outcome.fin {
            self.subflow_fin(now, owner, idx);
        }
        if outcome.time_wait {
            let data_ack = self.connections.get(owner).and_then(|c| c.final_data_ack());
            self.enter_time_wait(now, idx, data_ack);
            self.subflow_closed(now, owner, idx, None);
            return;
        }
        self.touch_connection(owner);
        self.touch_tcb(idx);
    }

    // Handshakes of our own subflows.

    /// The SYN/ACK to our `MP_CAPABLE` or `MP_JOIN`. False when the subflow is gone.
    fn syn_ack_options(&mut self, now: Instant, owner: u32, idx: u32, segment: &Segment) -> bool {
        let Some(tcb) = self.tcbs.get(idx) else { return false };
        let plain = tcb.is_plain_syn();
        let Some(stage) = tcb.subflow.as_ref().map(|s| s.stage) else { return false };
        let handshake = options::handshake(segment.options.as_bytes());
        match stage {
            Stage::CapableSyn => {
                self.capable_syn_ack(now, owner, idx, segment, handshake, plain);
                true
            }
            Stage::JoinSyn { nonce, .. } => self.join_syn_ack(now, owner, idx, nonce, handshake),
            _ => true,
        }
    }

    fn capable_syn_ack(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        handshake: Handshake,
        plain: bool,
    ) {
        let policy = self.config.mptcp.checksum;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.advertised(tcb.rcv_wnd());
        connection.snd_edge = u64::from(segment.window);
        let usable = match handshake {
            Handshake::Capable(MpCapable { version, flags, form: CapableForm::Key(key) })
                if version == connection.version as u8
                    && !plain
                    && key != 0
                    && flags.contains(CapableFlags::HMAC)
                    && !flags.contains(CapableFlags::EXTENSIBILITY)
                    && !(flags.contains(CapableFlags::CHECKSUM)
                        && policy == ChecksumPolicy::Refuse) =>
            {
                Some((key, flags))
            }
            _ => None,
        };
        match usable {
            Some((remote_key, flags)) => {
                self.stats.mp_capable_syn_ack_rx += 1;
                self.stats.mp_curr_estab += 1;
                connection.set_remote_key(remote_key);
                connection.checksum |= flags.contains(CapableFlags::CHECKSUM);
                connection.paths.deny_initial = flags.contains(CapableFlags::DENY_JOIN);
                connection.phase = Phase::Unconfirmed;
                let checksum = connection.checksum;
                if let Some(subflow) = &mut tcb.subflow {
                    subflow.stage = Stage::CapableAck;
                    subflow.set_format(false, checksum);
                }
                tcb.refresh_mss();
            }
            None => {
                self.stats.mp_capable_fallback_syn_ack += 1;
                let reason = if plain {
                    FallbackReason::CapableSynUnanswered
                } else {
                    FallbackReason::SynAckWithoutCapable
                };
                self.fall_back(owner, idx, reason, false);
            }
        }
        self.post(Sock::Mptcp(owner), Ready::CONNECTED | Ready::WRITABLE);
        self.post_writable(now, Sock::Mptcp(owner));
    }

    fn join_syn_ack(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        nonce: u32,
        handshake: Handshake,
    ) -> bool {
        let Handshake::Join(MpJoin::SynAck { backup, address_id, hmac, nonce: theirs }) = handshake
        else {
            // Stripped on the way: the subflow cannot be authenticated.
            self.reset_subflow(now, owner, idx, reset_reason::MPTCP_SPECIFIC, false);
            return false;
        };
        self.stats.mp_join_syn_ack_rx += 1;
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let (keys, version) = (connection.keys, connection.version);
        let expected = keys.expected_join_hmac(version, nonce, theirs);
        if key::verify_join(&expected, ReceivedHmac::Truncated64(hmac)).is_none() {
            self.stats.mp_join_syn_ack_hmac_failure += 1;
            self.reset_subflow(now, owner, idx, reset_reason::MPTCP_SPECIFIC, false);
            return false;
        }
        connection.multipath = true;
        connection.survives();
        let hmac = keys.sent_join_hmac(version, nonce, theirs).full();
        let (wide, checksum) = (connection.wide(), connection.checksum);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        if let Some(subflow) = &mut tcb.subflow {
            subflow.stage = Stage::JoinAck { hmac, tries: 0 };
            subflow.remote_id = address_id;
            subflow.backup = backup;
            subflow.set_format(wide, checksum);
        }
        tcb.refresh_mss();
        true
    }

    // Options of accepted segments.

    fn read_options(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
    ) -> Effect {
        let Some(stage) = self.tcbs.get(idx).and_then(|t| t.subflow.as_ref()).map(|s| s.stage)
        else {
            return Effect::None;
        };
        if stage == Stage::Fallback {
            return Effect::None;
        }
        if let Stage::JoinAck { .. } = stage
            && outcome.closed.is_none()
            && let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut())
        {
            // Any segment after the SYN/ACK is the fourth ACK (RFC 8684 §3.2).
            subflow.stage = Stage::Active;
        }
        let mut seen = Seen::default();
        if !segment.options.is_empty() {
            for option in OptionIter::new(segment.options.as_bytes()).flatten() {
                let TcpOption::Mptcp(option) = option else { continue };
                // A RST has nothing to say about data or addresses.
                if outcome.closed.is_some()
                    && !matches!(
                        option,
                        MptcpOption::Fastclose { .. }
                            | MptcpOption::Reset(_)
                            | MptcpOption::Fail { .. }
                    )
                {
                    continue;
                }
                let effect = self.read_option(now, owner, idx, segment, &option, &mut seen);
                if !matches!(effect, Effect::None) {
                    return effect;
                }
            }
        }
        let effect = match self.check_join(idx, segment, outcome, &seen) {
            Effect::None => self.check_confirmation(owner, idx, segment, outcome, &seen),
            broken => broken,
        };
        if seen.data_acked {
            self.data_acked(now, owner);
        }
        effect
    }

    fn read_option(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        option: &MptcpOption<'_>,
        seen: &mut Seen,
    ) -> Effect {
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        let version = connection.version;
        match *option {
            MptcpOption::Dss(dss) => return self.read_dss(owner, idx, segment, &dss, seen),
            MptcpOption::Capable(capable) => {
                return self.read_capable_data(owner, idx, segment, &capable, seen);
            }
            MptcpOption::Join(MpJoin::Ack { .. }) => {
                // The third ACK again: our fourth was lost.
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.ack_now();
                }
            }
            MptcpOption::AddAddr(raw) => {
                if let Some(add_addr) = raw.decode(version) {
                    self.read_add_addr(owner, idx, &add_addr);
                }
            }
            MptcpOption::RemoveAddr(ids) => {
                let ids: Vec<u8> = ids.iter().collect();
                self.read_remove_addr(now, owner, &ids);
            }
            MptcpOption::Prio(raw) => {
                if let Some(prio) = raw.decode(version) {
                    self.stats.mp_prio_rx += 1;
                    self.read_prio(owner, idx, prio.backup, prio.address_id);
                }
            }
            MptcpOption::Fail { .. } => {
                self.stats.mp_fail_rx += 1;
                if segment.has(TcpFlags::RST) {
                    return Effect::None;
                }
                if connection.multipath {
                    return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
                }
                // RFC 8684 §3.7: the answer is an MP_FAIL in the other direction.
                let dsn = connection.remote_dsn(connection.data_rcv_nxt).0;
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    if let Some(subflow) = &mut tcb.subflow {
                        subflow.signal(Signal::Fail { dsn });
                    }
                    tcb.ack_now();
                }
                return Effect::FallBack(FallbackReason::PeerChecksum);
            }
            MptcpOption::Fastclose { key } if key == connection.keys.local => {
                self.stats.mp_fastclose_rx += 1;
                return Effect::Fastclose { reset: segment.has(TcpFlags::RST) };
            }
            MptcpOption::Reset(_) => self.stats.mp_rst_rx += 1,
            _ => {}
        }
        Effect::None
    }

    fn read_dss(
        &mut self,
        owner: u32,
        idx: u32,
        segment: &Segment,
        dss: &Dss,
        seen: &mut Seen,
    ) -> Effect {
        seen.dss = true;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return Effect::None };
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        if let Some(data_ack) = dss.data_ack {
            let window = tcb.window_of(segment);
            seen.data_acked |= connection.on_data_ack(data_ack, window);
            if let Some(subflow) = &mut tcb.subflow {
                subflow.proven = true;
            }
        }
        let Some(mapping) = dss.mapping else { return Effect::None };
        if mapping.len == 0 {
            // RFC 8684 §3.3.1: an infinite mapping.
            self.stats.infinite_map_rx += 1;
            if connection.multipath {
                // The stream is not contiguous on this subflow.
                return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
            }
            return Effect::FallBack(FallbackReason::InfiniteMapping);
        }
        // Version 1 resets when checksums come unasked or stay away, version 0 ignores the former.
        let strict = connection.version == Version::V1;
        match (connection.checksum, mapping.checksum) {
            (false, Some(_)) if strict => return Effect::Reset(reset_reason::MPTCP_SPECIFIC),
            (true, None) => return Effect::Reset(reset_reason::MPTCP_SPECIFIC),
            _ => {}
        }
        if !connection.on_mapping(tcb, &mapping, dss.data_fin, &mut self.stats) {
            return Effect::Reset(reset_reason::MPTCP_SPECIFIC);
        }
        if dss.data_fin {
            // Whether it is in order or a repetition, the peer waits for an answer.
            tcb.ack_now();
        }
        Effect::None
    }

    /// `MP_CAPABLE` on the first data: a mapping of its own (RFC 8684 §3.1).
    fn read_capable_data(
        &mut self,
        owner: u32,
        idx: u32,
        segment: &Segment,
        capable: &MpCapable,
        seen: &mut Seen,
    ) -> Effect {
        let Some(connection) = self.connections.get(owner) else { return Effect::None };
        let CapableForm::Data { receiver, data_len, checksum, .. } = capable.form else {
            return Effect::None;
        };
        if connection.client || receiver != connection.keys.local {
            return Effect::None;
        }
        let mapping = Mapping {
            dsn: WireSeq::Full(connection.remote_dsn(0).0),
            ssn: 1,
            len: data_len,
            checksum,
        };
        let dss = Dss { data_ack: None, mapping: Some(mapping), data_fin: false };
        // No DATA_ACK comes with it, so its window is the initial one.
        let effect = self.read_dss(owner, idx, segment, &dss, seen);
        if let (Some(tcb), Some(connection)) = (self.tcbs.get(idx), self.connections.get_mut(owner))
        {
            let window = u64::from(tcb.window_of(segment));
            connection.snd_edge = connection.snd_edge.max(window);
        }
        effect
    }

    /// Data of ours on a join that TCP acknowledges before any `DATA_ACK` came: options do not pass
    /// (RFC 8684 §3.7).
    fn check_join(&self, idx: u32, segment: &Segment, outcome: &Outcome, seen: &Seen) -> Effect {
        let Some(tcb) = self.tcbs.get(idx) else { return Effect::None };
        let Some(subflow) = &tcb.subflow else { return Effect::None };
        let acked_data = outcome.acked && tcb.counters.bytes_acked > 0;
        let stripped = acked_data && !subflow.proven && !seen.dss && !segment.signals;
        if subflow.id != 0 && outcome.closed.is_none() && stripped {
            return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
        }
        Effect::None
    }

    /// Before the peer has shown that it maps data, the lack of options means fallback
    /// (RFC 8684 §3.7).
    fn check_confirmation(
        &mut self,
        owner: u32,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
        seen: &Seen,
    ) -> Effect {
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        if connection.phase != Phase::Unconfirmed || outcome.closed.is_some() {
            return Effect::None;
        }
        if seen.dss {
            self.confirm(owner, idx);
            return Effect::None;
        }
        let Some(tcb) = self.tcbs.get(idx) else { return Effect::None };
        if !connection.client && connection.snd_edge == 0 {
            connection.snd_edge = u64::from(tcb.window_of(segment));
        }
        if segment.len > 0 && outcome.data || outcome.fin {
            self.stats.mp_capable_data_fallback += 1;
            return Effect::FallBack(FallbackReason::FirstDataUnmapped);
        }
        let acked_data = outcome.acked && tcb.snd_una.since(tcb.iss) > 1;
        if acked_data && !segment.signals {
            return Effect::FallBack(FallbackReason::NoDataAck);
        }
        Effect::None
    }

    /// The peer speaks MPTCP in both directions: joins and announcements may begin.
    fn confirm(&mut self, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.phase = Phase::Confirmed;
        if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut())
            && subflow.stage == Stage::CapableAck
        {
            subflow.stage = Stage::Active;
        }
        let endpoints = endpoints(&self.config.addresses);
        let (client, first) = (connection.client, connection.first);
        let kind = self.config.mptcp.path_manager;
        connection.paths.start(kind, client, endpoints, first.local_addr, first.remote());
    }

    /// Does what an option asked for; false when the subflow (or the connection) is gone.
    fn apply(&mut self, now: Instant, owner: u32, idx: u32, effect: Effect) -> bool {
        match effect {
            Effect::None => true,
            Effect::Reset(reason) => {
                self.reset_subflow(now, owner, idx, reason, false);
                false
            }
            Effect::Fastclose { reset } => {
                self.fastclosed(now, owner, reset.then_some(idx));
                false
            }
            Effect::FallBack(reason) => {
                self.fall_back(owner, idx, reason, reason != FallbackReason::InfiniteMapping);
                true
            }
            Effect::Checksum(offset) => self.checksum_failed(now, owner, idx, offset),
        }
    }

    // Data.

    /// A `DATA_ACK` freed something.
    fn data_acked(&mut self, now: Instant, owner: u32) {
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
    fn pull(&mut self, now: Instant, owner: u32, idx: u32, arrived: bool) -> bool {
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
    fn finish(&mut self, now: Instant, owner: u32) {
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
    fn close_subflows(&mut self, now: Instant, owner: u32) {
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

    pub(super) fn subflows_of(&self, owner: u32) -> Vec<u32> {
        self.connections.get(owner).map(|c| c.subflows.clone()).unwrap_or_default()
    }

    // Subflows failing, ending, recovering.

    /// The first timeout since the last progress: what it carries goes elsewhere at once.
    fn subflow_timed_out(&mut self, _now: Instant, owner: u32, idx: u32) {
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
        if connection.phase == Phase::Fallback || connection.subflows.len() < 2 {
            return;
        }
        connection.reinject_from(tcb);
        self.stats.mptcp_retrans += 1;
        if let Some(subflow) = &mut tcb.subflow
            && !subflow.stale
        {
            subflow.stale = true;
            self.stats.subflow_stale += 1;
        }
        self.touch_connection(owner);
    }

    /// TCP acknowledged something new on this subflow.
    fn subflow_progress(&mut self, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get(owner) else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        if connection.phase == Phase::Fallback {
            return;
        }
        if let Some(subflow) = &mut tcb.subflow {
            subflow.probed_at = None;
            if subflow.stale {
                subflow.stale = false;
                self.stats.subflow_recover += 1;
            }
        }
    }

    /// After fallback TCP's acknowledgement and window are those of the stream. A window that opens
    /// again acknowledges nothing new.
    fn fallen_back_progress(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if connection.phase != Phase::Fallback {
            return;
        }
        let in_flight = u64::from(tcb.flight_data());
        let offset = connection.data_snd_nxt.saturating_sub(in_flight);
        let window = u64::from(tcb.usable_window()) + u64::from(tcb.flight_size());
        let acked = connection.acknowledge(offset);
        connection.snd_edge = connection.snd_edge.max(offset + window);
        if acked {
            self.data_acked(now, owner);
        }
    }

    /// The peer's FIN on one subflow (RFC 8684 §3.3.3: not the end of the stream, except after
    /// fallback).
    fn subflow_fin(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Fallback {
            connection.peer_finished = true;
            let attached = connection.app.attached;
            if attached {
                self.post_readable(now, Sock::Mptcp(owner), true);
            }
            return;
        }
        if connection.peer_fin.is_some() && !connection.fin_acked {
            // The peer only stopped sending: what we still have goes on over this subflow.
            return;
        }
        if let Some(tcb) = self.tcbs.get_mut(idx) {
            connection.reinject_from(tcb);
            tcb.shutdown_write();
        }
    }

    /// A control block of a connection is gone, or must go.
    pub(super) fn subflow_closed(
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
        let left = connection.live_subflows(&self.tcbs);
        let phase = connection.phase;
        self.remove_tcb(idx);
        match phase {
            Phase::Connecting => {
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
                    connection.close_at.get_or_insert(now + wait);
                }
                self.touch_connection(owner);
            }
            Phase::Unconfirmed | Phase::Confirmed => self.touch_connection(owner),
            Phase::Closed => self.reap_connection(owner),
        }
    }

    /// The connection ended; the application is told.
    fn connection_closed(&mut self, now: Instant, owner: u32, error: Option<ConnectionError>) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Closed {
            return self.reap_connection(owner);
        }
        if connection.mptcp() {
            self.stats.mp_curr_estab -= 1;
        }
        connection.close(error);
        let sock = Sock::Mptcp(owner);
        if self.app(sock).is_some_and(|app| app.relay.is_some()) {
            self.relay_progress(now, sock);
        }
        self.post_closed(sock);
        self.reap_connection(owner);
    }

    /// Resets one subflow with a reason for the peer.
    pub(super) fn reset_subflow(
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
        self.subflow_closed(now, owner, idx, Some(ConnectionError::Reset));
    }

    /// A RST on a control block's own sequence number.
    pub(super) fn send_rst(&mut self, idx: u32, options: OptionWriter) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let opening = tcb.state == State::SynSent && tcb.rcv_nxt == SeqNum(0);
        if tcb.state == State::Closed || opening {
            return;
        }
        let reply = Stateless {
            tuple: tcb.tuple,
            port: tcb.port,
            seq: tcb.snd_nxt,
            ack: tcb.rcv_nxt,
            flags: TcpFlags::RST | TcpFlags::ACK,
            window: 0,
            options,
        };
        // Not an answer to anything a stranger sent: outside the rate limit.
        if self.replies.len() < super::MAX_REPLIES {
            self.replies.push_back(reply);
        } else {
            self.stats.stateless_reply_limited += 1;
        }
    }

    /// A control block gave up: the peer is told where it may still listen.
    pub(super) fn reset_by_timeout(&mut self, idx: u32) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if tcb.state.synchronized() && tcb.state != State::FinWait2 {
            self.send_rst(idx, OptionWriter::new());
        }
    }

    /// The peer closed everything with `MP_FASTCLOSE` (RFC 8684 §3.5); the subflow that came to an
    /// end with it, if one did, needs no RST of ours.
    fn fastclosed(&mut self, now: Instant, owner: u32, reset: Option<u32>) {
        for idx in self.subflows_of(owner) {
            if reset != Some(idx) {
                self.send_rst(idx, OptionWriter::new());
            }
            self.drop_subflow(owner, idx);
        }
        self.connection_closed(now, owner, Some(ConnectionError::Reset));
    }

    /// Takes a subflow away without any consequence for the connection.
    fn drop_subflow(&mut self, owner: u32, idx: u32) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.subflows.retain(|&other| other != idx);
        }
        self.remove_tcb(idx);
    }

    /// Ends a connection at once: `MP_FASTCLOSE` on the RST of every subflow.
    pub(super) fn abort_connection(&mut self, now: Instant, owner: u32, error: ConnectionError) {
        let Some(connection) = self.connections.get(owner) else { return };
        let mptcp = connection.mptcp() && connection.keys.remote != 0;
        let (key, version) = (connection.keys.remote, connection.version);
        let finished = connection.phase == Phase::Closed;
        for idx in self.subflows_of(owner) {
            let mut options = OptionWriter::new();
            if mptcp && !finished {
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

    // Fallback.

    /// Goes on as plain TCP on one subflow; the others are reset.
    fn fall_back(&mut self, owner: u32, survivor: u32, reason: FallbackReason, tell: bool) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Fallback {
            return;
        }
        self.stats.fallback += 1;
        if connection.mptcp() {
            self.stats.mp_curr_estab -= 1;
        }
        let token = connection.local_token;
        connection.fall_back(reason);
        let others: Vec<u32> =
            connection.subflows.iter().copied().filter(|&idx| idx != survivor).collect();
        self.demux.remove_token(token, owner);
        for idx in others {
            self.send_rst(idx, OptionWriter::new());
            self.drop_subflow(owner, idx);
        }
        if let Some(tcb) = self.tcbs.get_mut(survivor) {
            if let Some(subflow) = &mut tcb.subflow {
                subflow.fall_back(tell);
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
    fn checksum_failed(&mut self, now: Instant, owner: u32, idx: u32, offset: u64) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let dsn = connection.remote_dsn(offset).0;
        self.stats.mp_fail_tx += 1;
        if connection.multipath {
            let mut options = OptionWriter::new();
            options::push(&mut options, &MptcpOption::Fail { dsn }, connection.version);
            self.send_rst(idx, options);
            self.subflow_closed(now, owner, idx, Some(ConnectionError::Reset));
            return false;
        }
        if let Some(tcb) = self.tcbs.get_mut(idx) {
            if let Some(subflow) = &mut tcb.subflow {
                subflow.signal(Signal::Fail { dsn });
            }
            tcb.ack_now();
        }
        self.stats.mp_fail_tx -= 1;
        self.fall_back(owner, idx, FallbackReason::Checksum, true);
        self.pull(now, owner, idx, false)
    }

    // Addresses.

    fn read_add_addr(&mut self, owner: u32, idx: u32, add_addr: &AddAddr) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if add_addr.echo {
            self.stats.echo_add += 1;
            connection.paths.on_echo(add_addr.address_id);
            return self.touch_connection(owner);
        }
        let AddAddr { address_id: id, addr, port, .. } = *add_addr;
        let expected = key::add_addr_hmac(
            connection.version,
            connection.keys.remote,
            connection.keys.local,
            id,
            addr,
            port,
        );
        if connection.version == Version::V1 && add_addr.hmac != Some(expected) {
            self.stats.add_addr_drop += 1;
            return;
        }
        self.stats.add_addr += 1;
        let echo = AddAddr { echo: true, hmac: None, ..*add_addr };
        if let Some(tcb) = self.tcbs.get_mut(idx)
            && let Some(subflow) = &mut tcb.subflow
        {
            subflow.signal(Signal::AddAddr(echo));
            tcb.ack_now();
        }
        // Only an initiator opens subflows: a gateway must not be made to connect anywhere.
        let ours = self.config.addresses.iter().any(|local| local.addr == addr);
        let fullmesh = self.config.mptcp.path_manager == PathManagerKind::Fullmesh;
        if connection.client && fullmesh && !ours {
            let port = port.unwrap_or(connection.first.remote_port);
            let remote = core::net::SocketAddr::new(addr, port);
            let endpoints = endpoints(&self.config.addresses);
            connection.paths.on_add_addr(id, remote, endpoints);
        }
        self.touch_connection(owner);
    }

    /// The peer withdraws addresses: subflows to them are probed and, if silent, closed
    /// (RFC 8684 §3.4.2).
    fn read_remove_addr(&mut self, now: Instant, owner: u32, ids: &[u8]) {
        for &id in ids {
            self.stats.rm_addr += 1;
            let Some(connection) = self.connections.get_mut(owner) else { return };
            connection.paths.on_remove_addr(id);
            for idx in self.subflows_of(owner) {
                let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
                let rto = tcb.rtt.rto();
                let Some(subflow) = &mut tcb.subflow else { continue };
                if subflow.remote_id != id || subflow.probed_at.is_some() {
                    continue;
                }
                subflow.probed_at = Some(now);
                tcb.probe_now();
                self.touch_tcb(idx);
                if let Some(connection) = self.connections.get_mut(owner) {
                    let at = now + (rto * 2).max(Duration::from_millis(500));
                    connection.probe_at = Some(connection.probe_at.map_or(at, |p| p.min(at)));
                }
            }
            self.touch_connection(owner);
        }
    }

    fn read_prio(&mut self, owner: u32, idx: u32, backup: bool, address_id: Option<u8>) {
        for other in self.subflows_of(owner) {
            let Some(subflow) = self.tcbs.get_mut(other).and_then(|t| t.subflow.as_mut()) else {
                continue;
            };
            let named = match address_id {
                Some(id) => subflow.remote_id == id,
                None => other == idx,
            };
            if named {
                subflow.backup = backup;
            }
        }
        self.touch_connection(owner);
    }

    // Timers and path management of a connection.

    pub(super) fn connection_timeout(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let deadline = connection.next_timeout();
        if deadline.is_none_or(|at| at > now) {
            return self.arm(Node::Connection(owner), deadline);
        }
        if connection.close_at.is_some_and(|at| at <= now) {
            let error = if connection.subflows.is_empty() {
                ConnectionError::NoSubflows
            } else {
                ConnectionError::TimedOut
            };
            return self.abort_connection(now, owner, error);
        }
        if connection.rtx_at.is_some_and(|at| at <= now) {
            self.data_timeout(now, owner);
        }
        if self.connections.get(owner).is_some_and(|c| c.probe_at.is_some_and(|at| at <= now)) {
            self.close_silent_subflows(now, owner);
        }
        // Moves the deadline of an announcement, or the timer would fire again at once.
        self.manage_paths(now, owner);
        self.touch_connection(owner);
    }

    /// No `DATA_ACK` came in time: the head of the stream, the `DATA_FIN` or a window probe goes
    /// out again.
    fn data_timeout(&mut self, now: Instant, owner: u32) {
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

    pub(super) fn largest_rto(&self, owner: u32) -> Duration {
        let Some(connection) = self.connections.get(owner) else { return Duration::ZERO };
        let rtos = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        rtos.filter(|t| t.rto_count() == 0).map(|t| t.rtt.rto()).max().unwrap_or_default()
    }

    /// Subflows whose address was withdrawn and that did not answer the probe.
    fn close_silent_subflows(&mut self, now: Instant, owner: u32) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.probe_at = None;
        }
        for idx in self.subflows_of(owner) {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let received = tcb.last_received();
            let Some(subflow) = &mut tcb.subflow else { continue };
            let Some(probed_at) = subflow.probed_at else { continue };
            if received > probed_at {
                subflow.probed_at = None;
                continue;
            }
            self.stats.rm_subflow += 1;
            self.reset_subflow(now, owner, idx, reset_reason::UNSPECIFIED, false);
        }
    }

    /// Joins and announcements that are due; called when the connection is visited for sending.
    pub(super) fn manage_paths(&mut self, now: Instant, owner: u32) {
        let timeout = self.config.mptcp.add_addr_timeout;
        let max_subflows = usize::from(self.config.mptcp.max_subflows);
        loop {
            let Some(connection) = self.connections.get_mut(owner) else { return };
            if connection.phase != Phase::Confirmed || connection.subflows.len() >= max_subflows {
                break;
            }
            let Some(join) = connection.paths.next_join() else { break };
            self.open_join(now, owner, &join);
        }
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase == Phase::Confirmed
            && let Some(endpoint) = connection.paths.next_announcement(now, timeout)
        {
            self.announce(owner, endpoint);
        }
    }

    fn announce(&mut self, owner: u32, endpoint: Endpoint) {
        let Some(connection) = self.connections.get(owner) else { return };
        let hmac = key::add_addr_hmac(
            connection.version,
            connection.keys.local,
            connection.keys.remote,
            endpoint.id,
            endpoint.addr,
            None,
        );
        let add_addr = AddAddr {
            address_id: endpoint.id,
            addr: endpoint.addr,
            port: None,
            echo: false,
            hmac: (connection.version == Version::V1).then_some(hmac),
        };
        let Some(&idx) = connection.subflows.first() else { return };
        if let Some(tcb) = self.tcbs.get_mut(idx)
            && let Some(subflow) = &mut tcb.subflow
            && subflow.signal(Signal::AddAddr(add_addr))
        {
            tcb.ack_now();
            self.touch_tcb(idx);
        }
    }

    /// Opens one more subflow of ours.
    fn open_join(&mut self, now: Instant, owner: u32, join: &Join) {
        let Some(port) = self.free_port(join.local, join.remote) else {
            self.stats.mp_join_syn_tx_err += 1;
            return;
        };
        let tuple = Tuple {
            local_addr: join.local,
            remote_addr: join.remote.ip(),
            local_port: port,
            remote_port: join.remote.port(),
        };
        let nonce = self.rng.next_u32();
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let stage = Stage::JoinSyn { token: connection.remote_token, nonce };
        let mut subflow =
            Subflow::new(owner, connection.new_subflow_id(), connection.version, stage);
        subflow.local_id = join.local_id;
        subflow.remote_id = join.remote_id;
        subflow.local_backup = join.backup;
        let Some(idx) = self.open_tcb(now, tuple, Some(subflow)) else {
            self.stats.mp_join_syn_tx_err += 1;
            return;
        };
        self.stats.mp_join_syn_tx += 1;
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.subflows.push(idx);
        }
        self.touch_tcb(idx);
    }

    /// A control block in SYN-SENT; `None` when the limit is reached.
    pub(super) fn open_tcb(
        &mut self,
        now: Instant,
        tuple: Tuple,
        subflow: Option<Subflow>,
    ) -> Option<u32> {
        let iss = self.isn.isn(now, tuple.local(), tuple.remote());
        let local = self.local_address(tuple.local_addr)?;
        let local_mss = mss_for(local.mtu, &tuple.remote_addr);
        // Joins leave by the port their address lives on; other connections are routed.
        let port = if subflow.is_some() && local.endpoint { local.port } else { PortId::ROUTED };
        let ts_offset = self.isn.timestamp_offset(tuple.local(), tuple.remote());
        let env = env!(self, now);
        let mut tcb = Tcb::connect(&env, tuple, port, iss, ts_offset, local_mss);
        tcb.subflow = subflow.map(alloc::boxed::Box::new);
        if tcb.subflow.is_none() {
            self.plain_count += 1;
        }
        let Some(idx) = self.tcbs.insert(tcb) else {
            self.stats.limit_refused += 1;
            return None;
        };
        self.demux.insert(&tuple, Flow::Tcb(idx));
        Some(idx)
    }

    /// Withdraws one of our addresses from every connection: `REMOVE_ADDR` to the peers, and the
    /// subflows that use it are reset (RFC 8684 §3.4.2).
    pub fn remove_address(&mut self, now: Instant, addr: core::net::IpAddr) {
        let Some(id) = self.address_id(addr) else { return };
        let owners: Vec<u32> = self.connections.iter().map(|(owner, _)| owner).collect();
        for owner in owners {
            let Some(connection) = self.connections.get_mut(owner) else { continue };
            if connection.phase != Phase::Confirmed {
                continue;
            }
            connection.paths.forget_endpoint(id);
            let id = if connection.first.local_addr == addr { 0 } else { id };
            for idx in self.subflows_of(owner) {
                if self.tcbs.get(idx).is_some_and(|t| t.tuple.local_addr == addr) {
                    self.reset_subflow(now, owner, idx, reset_reason::UNSPECIFIED, false);
                }
            }
            if let Some(&idx) = self.subflows_of(owner).first()
                && let Some(tcb) = self.tcbs.get_mut(idx)
                && let Some(subflow) = &mut tcb.subflow
            {
                subflow.signal(Signal::RemoveAddr(id));
                tcb.ack_now();
                self.touch_tcb(idx);
            }
        }
        // Its place stays taken: the places behind it are the ids peers know our addresses by.
        for local in self.config.addresses.iter_mut().filter(|local| local.addr == addr) {
            local.addr = core::net::IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED);
            local.endpoint = false;
        }
    }
}

/// Our endpoints with the ids peers know them by.
fn endpoints(addresses: &[crate::config::LocalAddress]) -> impl Iterator<Item = Endpoint> + '_ {
    addresses.iter().zip(1_u8..).filter(|(local, _)| local.endpoint).map(|(local, id)| Endpoint {
        id,
        addr: local.addr,
        backup: local.backup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HeapBuf, HeapPool};
    use crate::config::{LocalAddress, StackConfig};
    use crate::error::OpenError;
    use crate::stack::Listen;
    use core::net::{IpAddr, SocketAddr};

    #[test]
    fn an_address_keeps_its_id_when_another_is_removed() {
        let addr = |host| IpAddr::from([192, 0, 2, host]);
        let local = |host| LocalAddress {
            addr: addr(host),
            port: PortId(0),
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let addresses = (1..=3).map(local).collect();
        let config = StackConfig { addresses, ..StackConfig::default() };
        let now = Instant::from_nanos(1);
        let mut stack =
            Stack::<HeapBuf>::new(config, now, alloc::boxed::Box::new(HeapPool::new(1, 1500)));
        stack.remove_address(now, addr(2));
        let ids = [1, 2, 3].map(|host| stack.address_id(addr(host)));
        assert_eq!(ids, [Some(1), None, Some(3)]);
        assert!(endpoints(&stack.config.addresses).all(|e| e.addr != addr(2)));
        let listen = stack.listen(SocketAddr::new(addr(2), 80), &Listen::default());
        assert_eq!(listen, Err(OpenError::BadAddress));
    }
}
