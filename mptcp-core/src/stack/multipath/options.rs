//! The MPTCP options of segments that TCP accepted, and what each asks for (RFC 8684 §3.3 to §3.8).

use super::{Effect, Seen};
use crate::buf::PacketBuf;
use crate::event_log::{Event, ReinjectCause};
use crate::mptcp::{Connection, FallbackReason, Mapped, Phase, Signal, Stage};
use crate::stack::Stack;
use crate::stack::options::confirms;
use crate::tcp::{Outcome, Segment, Tcb};
use crate::time::Instant;
use crate::wire::{
    CapableForm, Dss, Mapping, MpCapable, MpJoin, MptcpOption, OptionIter, TcpFlags, TcpOption,
    Version, WireSeq, reset_reason,
};
use alloc::vec::Vec;

impl<B: PacketBuf> Stack<B> {
    pub(super) fn read_options(
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
            return self.read_fallen_back(owner, idx, segment);
        }
        if stage == Stage::JoinAck
            && outcome.closed.is_none()
            && let Some(tcb) = self.tcbs.get_mut(idx)
            && let Some(subflow) = &mut tcb.subflow
        {
            // Any segment after the SYN/ACK is the fourth ACK (RFC 8684 §3.2).
            subflow.activate();
            tcb.third_ack_answered();
            self.subflow_joined(now, owner, idx);
        }
        let mut seen = Seen::default();
        let mut effect = self.scan_options(now, owner, idx, segment, outcome, &mut seen);
        if matches!(effect, Effect::None) {
            effect = self.check_join(idx, segment, outcome, &seen);
        }
        if matches!(effect, Effect::None) {
            effect = self.check_confirmation(owner, idx, segment, outcome, &seen);
        }
        if seen.data_acked {
            // Whatever else it asks for.
            self.data_acked(now, owner);
        }
        effect
    }

    /// One option after the other, as far as none asks for more than it says.
    fn scan_options(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
        seen: &mut Seen,
    ) -> Effect {
        if segment.options.is_empty() {
            return Effect::None;
        }
        if let Some(dss) = &segment.dss {
            let closed = outcome.closed.is_some();
            return if closed {
                Effect::None
            } else {
                self.read_dss(owner, idx, segment, dss, seen)
            };
        }
        if outcome.closed.is_none()
            && let (Some(tcb), Some(connection)) =
                (self.tcbs.get_mut(idx), self.connections.get_mut(owner))
        {
            // What an MP_FAIL makes go again depends on it, and comes before it in the list of deployed senders.
            for option in OptionIter::new(segment.options.as_bytes()).mptcp() {
                if let MptcpOption::Dss(dss) = option {
                    take_data_ack(tcb, connection, segment, &dss, seen);
                }
            }
        }
        for option in OptionIter::new(segment.options.as_bytes()).mptcp() {
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
            let effect = self.read_option(now, owner, idx, segment, &option, seen);
            if !matches!(effect, Effect::None) {
                return effect;
            }
        }
        Effect::None
    }

    /// After fallback an `MP_FAIL` or an infinite mapping says that the peer fell back too. One who
    /// repeats its `MP_FAIL` has not heard ours, nor has one who goes on mapping. What that one sends
    /// again under new numbers must not be read as plain TCP.
    fn read_fallen_back(&mut self, owner: u32, idx: u32, segment: &Segment) -> Effect {
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        let dsn = connection.remote_dsn(connection.data_rcv_nxt).0;
        let unasked = connection.passage.is_concluded();
        let Some(tcb) = self.tcbs.get_mut(idx) else { return Effect::None };
        let (intact, held) = (connection.intact(tcb), tcb.received.in_order_len());
        let next = tcb.rcv_nxt_data().sub(held).since(tcb.irs);
        for option in OptionIter::new(segment.options.as_bytes()).flatten() {
            match option {
                TcpOption::Mptcp(MptcpOption::Fail { .. }) if !segment.has(TcpFlags::RST) => {
                    self.stats.mp_fail_rx += 1;
                    // In version 0 the infinite mapping is all the answer there is.
                    if let Some(subflow) = &mut tcb.subflow
                        && subflow.told_of_fallback(true)
                        && subflow.version == Version::V1
                    {
                        subflow.signal(Signal::Fail { dsn, answer: true, told: false });
                    }
                }
                TcpOption::Mptcp(MptcpOption::Dss(dss)) if maps_nothing(segment, &dss) => {}
                TcpOption::Mptcp(MptcpOption::Dss(Dss { mapping: Some(mapping), .. }))
                    if mapping.len == 0 =>
                {
                    connection.on_infinite_mapping(tcb, &mapping);
                    if let Some(subflow) = &mut tcb.subflow {
                        subflow.told_of_fallback(false);
                    }
                }
                TcpOption::Mptcp(MptcpOption::Dss(Dss { mapping: Some(mapping), .. }))
                    if unasked && mapping.ssn != 0 =>
                {
                    // The lower halves tell enough: both are near what is expected next.
                    let expected = (dsn as u32).wrapping_add(mapping.ssn.wrapping_sub(next));
                    let low = match mapping.dsn {
                        WireSeq::Full(dsn) => dsn as u32,
                        WireSeq::Low(dsn) => dsn,
                    };
                    if low != expected {
                        self.stats.dss_corruption_reset += 1;
                        return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
                    }
                    if let Some(subflow) = &mut tcb.subflow {
                        subflow.remind(intact);
                    }
                }
                _ => {}
            }
        }
        Effect::None
    }

    pub(super) fn read_option(
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
                    self.read_add_addr(now, owner, idx, &add_addr);
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
            MptcpOption::Fail { dsn } => {
                self.stats.mp_fail_rx += 1;
                if connection.phase == Phase::Closed {
                    return Effect::None;
                }
                if segment.has(TcpFlags::RST) {
                    // RFC 8684 §3.7: the peer threw away what follows `dsn` on this subflow.
                    if let Some(offset) = connection.local_offset(WireSeq::Full(dsn)) {
                        connection.reinject_orphans(offset, &self.tcbs);
                        self.observe_reinjection(owner, Some(idx), ReinjectCause::PeerChecksum);
                    }
                    return Effect::None;
                }
                let from = connection.local_offset(WireSeq::Full(dsn)).unwrap_or(0);
                if connection.passage.is_spread() && !connection.contiguous(from, &self.tcbs) {
                    self.note_fallback_refused(owner, FallbackReason::PeerChecksum);
                    return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
                }
                // RFC 8684 §3.7: the answer is an MP_FAIL in the other direction.
                let dsn = connection.remote_dsn(connection.data_rcv_nxt).0;
                if version == Version::V1
                    && let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut())
                {
                    subflow.signal(Signal::Fail { dsn, answer: true, told: false });
                }
                return Effect::FallBack(FallbackReason::PeerChecksum);
            }
            MptcpOption::Fastclose { key } if key == connection.keys.local => {
                self.stats.mp_fastclose_rx += 1;
                return Effect::Fastclose { reset: segment.has(TcpFlags::RST) };
            }
            MptcpOption::Reset(reset) if segment.has(TcpFlags::RST) => {
                self.stats.reset_received(reset.reason);
                if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut()) {
                    subflow.refused = !reset.transient;
                    subflow.note_reset(reset.reason);
                }
            }
            _ => {}
        }
        Effect::None
    }

    /// What asks below the window is not read, but says that the peer goes on mapping.
    pub(super) fn hear_below(&mut self, owner: u32, segment: &Segment) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let mut options = OptionIter::new(segment.options.as_bytes()).mptcp();
        let infinite = |dss: &Dss| dss.mapping.is_some_and(|mapping| mapping.len == 0);
        if options.any(|option| matches!(option, MptcpOption::Dss(dss) if !infinite(&dss))) {
            connection.passage.hear_below();
        }
    }

    pub(super) fn read_dss(
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
        let mapping = dss.mapping.filter(|_| !maps_nothing(segment, dss));
        connection.passage.hear(mapping.is_some_and(|mapping| mapping.len == 0));
        take_data_ack(tcb, connection, segment, dss, seen);
        let Some(mapping) = mapping.filter(|_| !segment.refused) else { return Effect::None };
        if mapping.len == 0 {
            // RFC 8684 §3.3.1: an infinite mapping.
            self.stats.infinite_map_rx += 1;
            if connection.phase == Phase::Closed {
                return Effect::None;
            }
            if connection.passage.is_spread() {
                // The stream is not contiguous on this subflow.
                self.note_fallback_refused(owner, FallbackReason::InfiniteMapping);
                return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
            }
            connection.on_infinite_mapping(tcb, &mapping);
            return Effect::FallBack(FallbackReason::InfiniteMapping);
        }
        // Version 1 resets when checksums come unasked or stay away, version 0 ignores the former.
        let strict = connection.version == Version::V1;
        match (connection.checksum, mapping.checksum) {
            (false, Some(_)) if strict => return Effect::Reset(reset_reason::MPTCP_SPECIFIC),
            (true, None) => return Effect::Reset(reset_reason::MPTCP_SPECIFIC),
            _ => {}
        }
        let known = connection.peer_fin().is_some();
        match connection.on_mapping(tcb, &mapping, dss.data_fin, &mut self.stats) {
            Mapped::Taken => {}
            Mapped::Conflict => return Effect::Reset(reset_reason::MPTCP_SPECIFIC),
            Mapped::Checksum(offset) => return Effect::Checksum(offset),
        }
        // New or in order, the peer waits for an answer. A repetition in front of which something is missing
        // says nothing, and an answer with a `DATA_FIN` of ours would be answered in turn, for ever.
        if dss.data_fin && (!known || connection.peer_fin() == Some(connection.data_rcv_nxt)) {
            tcb.ack_now();
        }
        Effect::None
    }

    /// `MP_CAPABLE` on the first data: a mapping of its own (RFC 8684 §3.1). Without data: who has not said anything
    /// yet acknowledges what we said.
    pub(super) fn read_capable_data(
        &mut self,
        owner: u32,
        idx: u32,
        segment: &Segment,
        capable: &MpCapable,
        seen: &mut Seen,
    ) -> Effect {
        let Some(tcb) = self.tcbs.get(idx) else { return Effect::None };
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        let (CapableForm::Data { sender, receiver, .. } | CapableForm::Keys { sender, receiver }) =
            capable.form
        else {
            return Effect::None;
        };
        let unexpected = connection.client || connection.version == Version::V0;
        let agreed = confirms(capable, connection.version)
            && (receiver, sender) == (connection.keys.local, connection.keys.remote);
        if unexpected || !agreed {
            return Effect::None;
        }
        let CapableForm::Data { data_len, checksum, .. } = capable.form else {
            if connection.phase == Phase::Unconfirmed {
                let window = tcb.usable_window() + tcb.flight_size();
                seen.data_acked = connection.on_keys_again(tcb.flight_data(), window);
            }
            return Effect::None;
        };
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
    pub(super) fn check_join(
        &mut self,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
        seen: &Seen,
    ) -> Effect {
        let Some(tcb) = self.tcbs.get(idx) else { return Effect::None };
        let Some(subflow) = &tcb.subflow else { return Effect::None };
        // The FIN is no data: a peer in TIME-WAIT acknowledges it without options.
        let acked_data = outcome.acked && tcb.bytes_acked() > u64::from(tcb.fin_acked());
        let stripped = acked_data && !subflow.proven && !seen.dss && !segment.signals;
        if subflow.id != 0 && outcome.closed.is_none() && stripped {
            self.stats.dss_ack_missing_reset += 1;
            return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
        }
        Effect::None
    }

    /// Until a `DATA_ACK` has shown that options pass in both directions, the lack of them means
    /// fallback (RFC 8684 §3.7); later it is one of the answers to what the data-level timer asks.
    pub(super) fn check_confirmation(
        &mut self,
        owner: u32,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
        seen: &Seen,
    ) -> Effect {
        let Some(connection) = self.connections.get_mut(owner) else { return Effect::None };
        let unconfirmed = connection.phase == Phase::Unconfirmed;
        if outcome.closed.is_some() {
            return Effect::None;
        }
        if unconfirmed
            && !connection.client
            && connection.snd_edge == 0
            && let Some(tcb) = self.tcbs.get(idx)
        {
            // The window of the handshake is where the stream begins, also when a DSS without a DATA_ACK came
            // in place of the third ACK.
            connection.snd_edge = u64::from(tcb.window_of(segment));
        }
        if seen.dss {
            if unconfirmed && (seen.data_ack || !self.answers_early(owner, idx)) {
                self.confirm(owner, idx);
                if self.answers_early(owner, idx)
                    && let Some(tcb) = self.tcbs.get_mut(idx)
                {
                    // What came before showed keys in place of its DATA_ACK.
                    tcb.ack_now();
                }
            }
            return Effect::None;
        }
        let Some(tcb) = self.tcbs.get(idx) else { return Effect::None };
        if !connection.unproven() {
            if !segment.signals && tcb.subflow.as_ref().is_some_and(|subflow| subflow.id == 0) {
                connection.hear_plain();
            }
            let bare = segment.len == 0 && !outcome.fin && !segment.signals;
            if bare && !outcome.acked && tcb.flight_size() == 0 {
                connection.passage.hear_bare();
            }
            return Effect::None;
        }
        if unconfirmed && (segment.len > 0 && outcome.data || outcome.fin) {
            self.stats.mp_capable_data_fallback += 1;
            return Effect::FallBack(FallbackReason::FirstDataUnmapped);
        }
        // A peer that maps its data ends it with a DATA_FIN, and its FINs carry a DATA_ACK.
        let ends = outcome.fin && connection.peer_fin().is_none();
        let acks_data = segment.ack.gt(tcb.iss.add(1)) && (outcome.acked || segment.len == 0);
        if segment.signals || !ends && !acks_data {
            return Effect::None;
        }
        let heard = connection.rare.unmapped_at.is_some() && connection.passage.heard_waiting();
        if heard || self.lost_mapping(owner).is_some() {
            // Some options pass: the peer may have sent again what lost its mapping. Read as plain TCP that
            // would be a second copy.
            self.stats.dss_corruption_reset += 1;
            return Effect::Reset(reset_reason::MIDDLEBOX_INTERFERENCE);
        }
        let reason = if ends { FallbackReason::OptionsLost } else { FallbackReason::NoDataAck };
        Effect::FallBack(reason)
    }

    /// The peer speaks MPTCP in both directions: joins and announcements may begin.
    pub(super) fn confirm(&mut self, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.phase = Phase::Confirmed;
        if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut())
            && subflow.stage == Stage::CapableAck
        {
            subflow.stage = Stage::Active;
        }
        let changes = &self.address_changes;
        let endpoints = super::addresses::endpoints(&self.config.addresses)
            .filter(|endpoint| !changes.will_tell(owner, endpoint));
        let (client, first) = (connection.client, connection.first());
        let policy = self.path_manager.as_ref();
        connection.paths.start(policy, client, endpoints, first.local_addr, first.remote());
        // A join says so with its flag B, for which MP_CAPABLE has no room (RFC 8684 §3.3.8).
        if self.endpoint_backup(first.local_addr)
            && let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut())
        {
            subflow.local_backup = true;
            subflow.signal(Signal::Prio { backup: true });
            let subflow = subflow.id;
            self.observe(owner, Event::Priority { subflow, backup: true, peer: false });
            self.touch_tcb(idx);
        }
    }

    /// Does what an option asked for; false when the subflow (or the connection) is gone.
    pub(super) fn apply(&mut self, now: Instant, owner: u32, idx: u32, effect: Effect) -> bool {
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
                let tell = reason != FallbackReason::InfiniteMapping;
                self.fall_back_or_reset(now, owner, idx, reason, tell)
            }
            Effect::Checksum(offset) => self.checksum_failed(now, owner, idx, offset),
        }
    }
}

/// A mapping concerns the segment that carries it (RFC 8684 §3.3.1): one of no octets, in an acknowledgement
/// that has none either, says nothing. What ends the use of mappings comes with text (§3.7) or the end of
/// the stream, or alone from who has nothing to send.
fn maps_nothing(segment: &Segment, dss: &Dss) -> bool {
    let empty = dss.mapping.is_some_and(|mapping| mapping.len == 0);
    // Of one that is refused the text was taken off.
    empty && dss.data_ack.is_some() && segment.seq_len() == 0 && !segment.refused
}

/// The `DATA_ACK` of a DSS, with the window beside it.
fn take_data_ack<B: PacketBuf>(
    tcb: &mut Tcb<B>,
    connection: &mut Connection<B>,
    segment: &Segment,
    dss: &Dss,
    seen: &mut Seen,
) {
    let Some(data_ack) = dss.data_ack else { return };
    seen.data_ack = true;
    seen.data_acked |= connection.on_data_ack(data_ack, tcb.window_of(segment));
    if let Some(subflow) = &mut tcb.subflow {
        subflow.proven = true;
    }
}
