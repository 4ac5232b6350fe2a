//! From a packet to its connection: IP and TCP checks, demultiplexing, and what follows from an
//! engine's outcome on a plain connection.

use super::coalesce::Rest;
use super::demux::{Flow, Node};
use super::options::{self, Handshake};
use super::usual::{self, Ends};
use super::{Ready, Sock, Stack, env};
use crate::buf::{PacketBuf, RxChecksum};
use crate::error::ConnectionError;
use crate::seq::{DataSeq, SeqNum};
use crate::stats::DropReason;
use crate::tcp::request::{Request, RequestFlags};
use crate::tcp::time_wait::{TimeWait, Verdict};
use crate::tcp::{Outcome, PROTOCOL_TCP, Segment, Stateless, Tuple};
use crate::time::{Duration, Instant};
use crate::wire::udp::PROTOCOL_UDP;
use crate::wire::{
    ECN_CE, IcmpErrorKind, IpHeader, MpJoin, OptionWriter, TcpFlags, TcpSegment, Version, WireSeq,
    checksum, icmp,
};
use alloc::vec::Vec;
use core::net::IpAddr;

/// Transmissions of a fast close, the first and three repetitions (RFC 8684 §3.5, RFC 6824 §3.5).
const FASTCLOSE_TRIES: u8 = 3;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

impl<B: PacketBuf> Stack<B> {
    /// Takes IP packets; leaves `burst` empty. Never fails: what is not understood is counted and
    /// dropped.
    pub fn handle_burst(&mut self, now: Instant, burst: &mut Vec<B>) {
        self.observer.now = now;
        // Nothing follows on a packet that is alone.
        self.taking_burst = burst.len() > 1;
        self.warm(burst);
        let mut packets = burst.drain(..);
        while let Some(packet) = packets.next() {
            self.warm.turn += 1;
            match self.follow(&packet) {
                Some(text) => self.keep_text(&text, packet),
                None => self.handle_packet(now, packet, packets.as_slice()),
            }
        }
        drop(packets);
        self.close_runs(now);
        self.taking_burst = false;
        self.advance_due_relays(now);
        self.check_waiting();
    }

    /// Takes a packet that joins no run; `behind` is what comes after it in its burst.
    fn handle_packet(&mut self, now: Instant, packet: B, behind: &[B]) {
        let Some(packet) = self.take_usual(now, packet, behind) else { return };
        let Ok(header) = IpHeader::parse(packet.data()) else {
            self.demux.note_broken(packet.data());
            return self.stats.drop(DropReason::IpMalformed);
        };
        if self.local_address(header.dst).is_none() && !self.passes(&header) {
            self.refuse_transit(now, &header, &packet);
            return self.stats.drop(DropReason::NotOurs);
        }
        if header.fragment {
            // What comes of it is whole.
            if let Some(whole) = self.reassemble(now, packet) {
                self.handle_packet(now, whole, behind);
            }
            return;
        }
        match header.protocol {
            PROTOCOL_TCP => self.handle_tcp(now, &header, packet, behind),
            PROTOCOL_UDP => self.handle_udp(now, &header, packet),
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
                // It may be about what came before it.
                self.close_runs(now);
                self.handle_icmp(now, &header, &packet);
            }
            protocol => {
                self.stats.drop(DropReason::Protocol);
                self.refuse_protocol(now, header.dst, protocol, &packet);
            }
        }
    }

    /// Takes a packet for one of our addresses in the usual form (`usual.rs`); gives any other one back.
    fn take_usual(&mut self, now: Instant, mut packet: B, behind: &[B]) -> Option<B> {
        let meta = packet.rx_meta();
        let bytes = packet.data();
        let read = Ends::read(bytes).and_then(|ends| {
            let (segment, text) = usual::read(bytes, &ends, meta.checksum)?;
            let tuple = ends.tuple();
            let ours = self.local_address(tuple.local_addr).is_some() && !unanswerable(&tuple);
            ours.then_some((tuple, segment, text))
        });
        let Some((tuple, segment, text)) = read else { return Some(packet) };
        self.stats.in_segs += 1;
        text.cut_out(&mut packet);
        self.take_segment(now, &tuple, meta.port, &segment, packet, behind);
        None
    }

    fn handle_tcp(&mut self, now: Instant, header: &IpHeader, mut packet: B, behind: &[B]) {
        self.stats.in_segs += 1;
        packet.truncate(header.total_len);
        let meta = packet.rx_meta();
        // A port that found it wrong may have misread the packet: bad news is checked. The sum of the text is
        // wanted again when it is passed on.
        let mut text_sum = None;
        if meta.checksum != RxChecksum::Good {
            let tcp = packet.data().get(header.header_len..).unwrap_or_default();
            text_sum = checksum::verified_text(header.src, header.dst, tcp);
            if text_sum.is_none() {
                self.demux.note_broken(packet.data());
                return self.stats.drop(DropReason::TcpChecksum);
            }
        }
        packet.trim_front(header.header_len);
        let (segment, tuple, tcp_len) = match TcpSegment::parse(packet.data()) {
            Ok(view) => {
                let tuple = Tuple {
                    local_addr: header.dst,
                    remote_addr: header.src,
                    local_port: view.dst_port,
                    remote_port: view.src_port,
                };
                let mut segment = Segment::new(&view);
                segment.marked = header.ecn() == ECN_CE;
                segment.plain &= !segment.marked;
                self.stats.in_ce_pkts += u64::from(segment.marked);
                (segment, tuple, view.header_len)
            }
            Err(_) => return self.stats.drop(DropReason::TcpMalformed),
        };
        if unanswerable(&tuple) {
            return self.stats.drop(DropReason::NotOurs);
        }
        packet.trim_front(tcp_len);
        if let Some(sum) = text_sum {
            packet.note_sum(sum);
        }
        self.take_segment(now, &tuple, meta.port, &segment, packet, behind);
    }

    /// A segment for whatever its 4-tuple leads to.
    pub(super) fn dispatch(
        &mut self,
        now: Instant,
        flow: Option<Flow>,
        tuple: &Tuple,
        port: crate::buf::PortId,
        segment: &Segment,
        payload: B,
    ) {
        match flow {
            Some(Flow::Tcb(idx)) => self.tcb_segment(now, idx, segment, payload),
            Some(Flow::Request(idx)) if self.asks_anew(idx, tuple, port, segment) => {
                self.remove_request(idx);
                self.listener_segment(now, tuple, port, segment, payload);
            }
            Some(Flow::Request(idx)) => self.request_segment(now, idx, segment, payload),
            Some(Flow::TimeWait(idx)) => {
                self.time_wait_segment(now, idx, segment, *tuple, port, payload);
            }
            None => self.listener_segment(now, tuple, port, segment, payload),
        }
    }

    /// A segment for a control block, subflow or plain.
    pub(super) fn tcb_segment(&mut self, now: Instant, idx: u32, segment: &Segment, payload: B) {
        self.tcb_segments(now, idx, segment, payload, &mut Rest::none());
    }

    /// The same for a run: `rest` is what follows on the text in `payload`.
    pub(super) fn tcb_segments(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        payload: B,
        rest: &mut Rest<B>,
    ) {
        let mut payload = payload;
        let refused = if segment.len > 0 && self.pool.is_low() {
            self.refuse_text(now, idx, segment, &mut payload)
        } else {
            None
        };
        if refused.is_some() {
            rest.clear();
        }
        let segment = refused.as_ref().unwrap_or(segment);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        if let Some(owner) = tcb.subflow.as_ref().map(|subflow| subflow.connection)
            && tcb.state.synchronized()
            && let Some(connection) = self.connections.get(owner)
        {
            tcb.make_room(connection.subflow_room());
        }
        if tcb.is_fast_opened() && self.before_third_ack(idx, segment) {
            return;
        }
        let owner = self.owner_of(idx);
        let (before, waits) = (self.watch(idx), self.waits(idx, owner));
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let mut env = env!(self, now);
        let mut outcome = tcb.segment_arrives(&mut env, segment, payload);
        if !rest.texts.is_empty() {
            tcb.text_follows(&mut env, segment, &mut rest.texts, &mut outcome);
        }
        if outcome.reply_rst {
            let (tuple, port) = (tcb.ends.tuple(), tcb.port);
            self.reply_rst(now, &tuple, port, segment);
        }
        self.watched(idx, before);
        self.settle_fast_open(now, idx, Some(segment), &outcome);
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if tcb.subflow.is_some() {
            self.subflow_outcome(now, idx, segment, &rest.mappings, &outcome);
        } else {
            self.plain_outcome(now, idx, &outcome);
        }
        if !self.pulls.defer(idx) {
            self.note_waiting(idx, owner, waits);
        }
    }

    /// Routes what happened to a plain connection.
    pub(super) fn plain_outcome(&mut self, now: Instant, idx: u32, outcome: &Outcome) {
        let sock = Sock::Plain(idx);
        if let Some(error) = outcome.closed {
            self.plain_closed(now, idx, error);
            return;
        }
        if outcome.established && !outcome.fast_opened {
            self.observe_established(sock);
            self.post(sock, Ready::CONNECTED | Ready::WRITABLE);
        }
        if outcome.data || outcome.fin {
            self.post_readable(now, sock, outcome.fin);
        }
        if outcome.urgent {
            self.post(sock, Ready::URGENT);
        }
        if outcome.acked {
            self.post_writable(now, sock);
        }
        if outcome.time_wait {
            // Its last ACK goes out first, from the entry.
            self.enter_time_wait(now, idx, None);
            self.plain_closed(now, idx, None);
            return;
        }
        self.touch_tcb(idx);
    }

    /// A TIME-WAIT entry takes over a control block's 4-tuple and sends the ACK it still owes.
    pub(super) fn enter_time_wait(&mut self, now: Instant, idx: u32, data_ack: Option<WireSeq>) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let owes_ack = tcb.wants_ack() || data_ack.is_some();
        let mut entry = tcb.time_wait();
        entry.mptcp = data_ack.is_some();
        (entry.data_ack, entry.wide) = match data_ack {
            Some(WireSeq::Full(ack)) => (DataSeq(ack), true),
            Some(WireSeq::Low(ack)) => (DataSeq(u64::from(ack)), false),
            None => (DataSeq(0), false),
        };
        self.stats.tcp_tw += 1;
        if owes_ack {
            // The peer has shown that it is the peer: what strangers send does not cost it the answer.
            let answer = self.time_wait_answer(now, &entry);
            self.own_reply(answer);
        }
        let deadline = now + self.config.tcp.time_wait;
        self.file_time_wait(idx, entry, deadline);
    }

    /// A fast close: its acknowledgement goes out until a RST answers, three times more at most, then a
    /// RST of ours (RFC 8684 §3.5, RFC 6824 §3.5). The entry takes over the 4-tuple.
    pub(super) fn enter_fastclose(&mut self, now: Instant, idx: u32, key: u64, version: Version) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let rto = tcb.rtt.rto();
        let mut entry = tcb.time_wait();
        entry.fastclose = 1;
        entry.wide = version == Version::V1;
        entry.rto_ms = u16::try_from(rto.as_millis()).unwrap_or(u16::MAX);
        entry.data_ack = DataSeq(key);
        self.send_fastclose(now, &entry);
        self.file_time_wait(idx, entry, now + rto);
    }

    fn send_fastclose(&mut self, now: Instant, entry: &TimeWait) {
        let mut options = self.time_wait_timestamps(now, entry);
        super::options::push_fastclose(&mut options, entry.data_ack.0, Version::V0);
        self.stats.mp_fastclose_tx += 1;
        self.own_reply(entry.answer(TcpFlags::ACK, options));
    }

    /// The time of an entry is over; a fast close that was not heard goes out again.
    pub(super) fn time_wait_timeout(&mut self, now: Instant, idx: u32) {
        let Some(entry) = self.time_waits.get_mut(idx) else { return };
        if entry.fastclose == 0 {
            return self.remove_time_wait(idx);
        }
        if entry.fastclose > FASTCLOSE_TRIES {
            let (entry, mut options) = (*entry, OptionWriter::new());
            if entry.wide {
                super::options::push_fastclose(&mut options, entry.data_ack.0, Version::V1);
                self.stats.mp_fastclose_tx += 1;
            }
            self.own_reply(entry.answer(TcpFlags::RST | TcpFlags::ACK, options));
            return self.remove_time_wait(idx);
        }
        let wait = Duration::from_millis(u64::from(entry.rto_ms) << entry.fastclose);
        entry.fastclose += 1;
        let entry = *entry;
        self.send_fastclose(now, &entry);
        self.arm(Node::TimeWait(idx), Some(now + wait));
    }

    /// Puts an entry in the place of a control block's 4-tuple.
    fn file_time_wait(&mut self, idx: u32, entry: TimeWait, deadline: Instant) {
        if self.time_waits.len() == self.time_waits.capacity()
            && let Some(oldest) = self.time_wait_order.front()
        {
            self.stats.tcp_tw_overflow += 1;
            self.remove_time_wait(oldest);
        }
        let tuple = entry.tuple;
        self.demux.remove(&tuple, Flow::Tcb(idx));
        let Some(tw) = self.time_waits.insert(entry) else { return };
        self.file_flow(&tuple, Flow::TimeWait(tw));
        self.time_wait_order.push_back(tw);
        self.arm(Node::TimeWait(tw), Some(deadline));
    }

    pub(super) fn remove_time_wait(&mut self, idx: u32) {
        let Some(entry) = self.time_waits.remove(idx) else { return };
        self.time_wait_order.remove(idx);
        self.wheel.cancel(self.numbering.number(Node::TimeWait(idx)));
        self.demux.remove(&entry.tuple, Flow::TimeWait(idx));
    }

    fn time_wait_timestamps(&self, now: Instant, entry: &TimeWait) -> OptionWriter {
        let mut options = OptionWriter::new();
        if entry.timestamps {
            let tsval = (now.as_millis() as u32).wrapping_add(entry.ts_offset);
            let fits = options.push_timestamps(tsval, entry.ts_recent);
            debug_assert!(fits, "the area is empty");
        }
        options
    }

    fn time_wait_answer(&self, now: Instant, entry: &TimeWait) -> Stateless {
        let mut options = self.time_wait_timestamps(now, entry);
        if entry.mptcp {
            super::options::push_data_ack(&mut options, entry.data_ack, entry.wide);
        }
        entry.answer(TcpFlags::ACK, options)
    }

    fn time_wait_ack(&mut self, now: Instant, entry: &TimeWait) {
        let answer = self.time_wait_answer(now, entry);
        self.reply(now, answer);
    }

    fn time_wait_segment(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        tuple: Tuple,
        port: crate::buf::PortId,
        payload: B,
    ) {
        let Some(entry) = self.time_waits.get(idx).copied() else { return };
        match entry.segment_arrives(segment) {
            Verdict::Ignore => self.stats.drop(DropReason::TimeWait),
            Verdict::Acknowledge { restart } => {
                self.stats.drop(DropReason::TimeWait);
                self.time_wait_ack(now, &entry);
                let opens = segment.has(TcpFlags::SYN) && !segment.has(TcpFlags::ACK);
                if opens && let Some(entry) = self.time_waits.get_mut(idx) {
                    entry.challenged = true;
                }
                if restart {
                    let number = self.numbering.number(Node::TimeWait(idx));
                    self.wheel.arm(number, now + self.config.tcp.time_wait);
                }
            }
            Verdict::Closed { reset } => {
                if reset {
                    self.stats.mp_fastclose_rx += 1;
                    let flags = TcpFlags::RST | TcpFlags::ACK;
                    self.own_reply(entry.answer(flags, OptionWriter::new()));
                } else {
                    self.stats.in_rsts += 1;
                }
                self.remove_time_wait(idx);
            }
            Verdict::Reopen if self.takes_syn(&tuple, port, segment) => {
                self.remove_time_wait(idx);
                self.listener_segment(now, &tuple, port, segment, payload);
                self.raise_iss(&tuple, entry.snd_nxt);
            }
            Verdict::Reopen => {
                // Nobody here would take the new connection: the old one rests in peace.
                self.stats.drop(DropReason::TimeWait);
                self.time_wait_ack(now, &entry);
            }
        }
    }

    /// Another SYN than the one that waits for a decision. Nothing has answered that one, so this is as in LISTEN
    /// (RFC 9293 §3.10.7.2): its peer has forgotten the first one, or never sent it.
    fn asks_anew(
        &self,
        idx: u32,
        tuple: &Tuple,
        port: crate::buf::PortId,
        segment: &Segment,
    ) -> bool {
        let flags = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST;
        let other = |request: &Request| {
            request.flags.contains(RequestFlags::DEFERRED) && segment.seq != request.irs
        };
        segment.flags & flags == TcpFlags::SYN
            && self.requests.get(idx).is_some_and(other)
            && self.takes_syn(tuple, port, segment)
    }

    /// Somebody here would take this SYN: a listener, or the connection that its token names; or another
    /// shard may, once the flow is no longer ours.
    fn takes_syn(&self, tuple: &Tuple, port: crate::buf::PortId, segment: &Segment) -> bool {
        let joins = match options::handshake(segment.options.as_bytes()) {
            Handshake::Join(MpJoin::Syn { token, .. }) if self.speaks_mptcp() => {
                self.demux.connection_of(token).is_some() || !self.demux.has_token(token)
            }
            _ => false,
        };
        joins || !segment.has(TcpFlags::FIN) && self.find_listener(tuple, port).is_some()
    }

    // Answers without state.

    /// Queues a stateless segment within the rate limit.
    pub(super) fn reply(&mut self, now: Instant, reply: Stateless) {
        if self.replies.len() >= super::MAX_REPLIES || !self.reply_budget.take(now) {
            self.stats.stateless_reply_limited += 1;
            return;
        }
        self.replies.push_back(reply);
    }

    /// RFC 9293 §3.10.7.1: the RST that answers a segment nobody wanted.
    pub(super) fn reply_rst(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: crate::buf::PortId,
        segment: &Segment,
    ) {
        self.reply_rst_with(now, tuple, port, segment, OptionWriter::new());
    }

    pub(super) fn reply_rst_with(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: crate::buf::PortId,
        segment: &Segment,
        options: OptionWriter,
    ) {
        if segment.has(TcpFlags::RST) {
            return;
        }
        let (seq, ack, flags) = if segment.has(TcpFlags::ACK) {
            (segment.ack, SeqNum(0), TcpFlags::RST)
        } else {
            (SeqNum(0), segment.end(), TcpFlags::RST | TcpFlags::ACK)
        };
        let tuple = *tuple;
        let marking = self.marking_of(&tuple, port);
        self.reply(now, Stateless { tuple, port, seq, ack, flags, window: 0, marking, options });
    }

    // ICMP.

    /// An ICMP error counts only when it quotes something of ours that is really outstanding
    /// (RFC 5927 §4).
    fn handle_icmp(&mut self, now: Instant, header: &IpHeader, packet: &B) {
        let Some(error) = icmp::parse_error(packet.data()) else {
            self.refuse_transit(now, header, packet);
            return self.stats.drop(DropReason::IcmpUnmatched);
        };
        if error.protocol == PROTOCOL_UDP {
            return self.udp_icmp(now, &error);
        }
        let tuple = Tuple {
            local_addr: error.src,
            remote_addr: error.dst,
            local_port: error.src_port,
            remote_port: error.dst_port,
        };
        let (Some(Flow::Tcb(idx)), Some(seq), PROTOCOL_TCP) =
            (self.find_flow(&tuple), error.seq, error.protocol)
        else {
            return self.stats.drop(DropReason::IcmpUnmatched);
        };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let outstanding = seq.ge(tcb.snd_una) && seq.lt(tcb.snd_nxt);
        if !outstanding {
            return self.stats.drop(DropReason::IcmpUnmatched);
        }
        let reason = match error.kind {
            IcmpErrorKind::FragmentationNeeded { mtu } => {
                let before = self.watch(idx);
                if mtu >= 68
                    && let Some(tcb) = self.tcbs.get_mut(idx)
                {
                    tcb.set_path_mtu(&env!(self, now), mtu);
                }
                self.watched(idx, before);
                self.touch_tcb(idx);
                return;
            }
            IcmpErrorKind::NetworkUnreachable => ConnectionError::NetworkUnreachable,
            IcmpErrorKind::HostUnreachable => ConnectionError::HostUnreachable,
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => {
                ConnectionError::Refused
            }
            IcmpErrorKind::Prohibited => ConnectionError::Prohibited,
            IcmpErrorKind::TimeExceeded => ConnectionError::TtlExpired,
            IcmpErrorKind::ParameterProblem => return,
        };
        if let Some(behalf) = tcb.behalf() {
            behalf.icmp_code = Some(error.code);
            let owner = tcb.subflow.as_ref().map(|subflow| subflow.connection);
            if let Some(connection) = owner.and_then(|owner| self.connections.get_mut(owner)) {
                // It outlives its block.
                connection.rare.icmp_code = Some(error.code);
            }
        }
        let mut env = env!(self, now);
        let outcome = tcb.icmp_error(&mut env, reason);
        self.dispatch_outcome(now, idx, &outcome);
    }

    /// RFC 1122 §3.2.2.1: whoever sends us what we do not speak is told, within a rate.
    pub(super) fn refuse_protocol(&mut self, now: Instant, own: IpAddr, protocol: u8, packet: &B) {
        let kind = match protocol {
            PROTOCOL_UDP => IcmpErrorKind::PortUnreachable,
            _ => IcmpErrorKind::ProtocolUnreachable,
        };
        self.say_error(now, kind, own, packet);
    }

    /// Answers a packet with an ICMP error from an address of ours, within a rate.
    pub(super) fn say_error(&mut self, now: Instant, kind: IcmpErrorKind, own: IpAddr, packet: &B) {
        let mut bytes = Vec::new();
        if self.icmp_errors.len() < super::MAX_ICMP_ERRORS
            && icmp::emit_error(kind, packet.data(), own, &mut bytes)
        {
            self.queue_error(now, packet.rx_meta().port, bytes);
        }
    }

    /// Sends an ICMP error, within a rate.
    pub(super) fn queue_error(&mut self, now: Instant, port: crate::buf::PortId, error: Vec<u8>) {
        if self.icmp_errors.len() >= super::MAX_ICMP_ERRORS {
            return;
        }
        if !self.icmp_budget.take(now) {
            self.stats.icmp_out_rate_limit_global += 1;
            return;
        }
        self.icmp_errors.push_back((port, error));
    }

    /// Routes an outcome that no segment caused.
    pub(super) fn dispatch_outcome(&mut self, now: Instant, idx: u32, outcome: &Outcome) {
        self.settle_fast_open(now, idx, None, outcome);
        let Some(tcb) = self.tcbs.get(idx) else { return };
        if tcb.subflow.is_some() {
            self.subflow_event(now, idx, outcome);
        } else {
            self.plain_outcome(now, idx, outcome);
        }
    }
}

/// Segments from addresses that cannot be answered are dropped (RFC 1122 §4.2.3.10).
fn unanswerable(tuple: &Tuple) -> bool {
    let remote = tuple.remote_addr;
    crate::tcp::is_no_host(&remote)
        || tuple.remote_port == 0
        || remote == tuple.local_addr && tuple.remote_port == tuple.local_port
}
