//! What to send next: retransmissions, new data, FIN, probes and acknowledgements, in this order;
//! Nagle in Minshall's form and sender-side silly-window avoidance (RFC 9293 §3.7.4, §3.8.6.2.1).
//!
//! Invariant: nothing is sent beyond the peer's window except a probe, and the state only changes
//! when the packet has really been handed to the queue.

use super::delivery::Stamp;
use super::send_queue::{Place, SegmentFlags, TxMapping, TxSegment};
use super::{Env, State, Tcb, TcbFlags, Tuple};
use crate::buf::{PacketBuf, PortId, TxMeta, TxQueue};
use crate::driver::Progress;
use crate::mptcp::{Carry, INFINITE_LEN};
use crate::seq::{DataSeq, SeqNum};
use crate::stats::Counters;
use crate::time::{Duration, Instant};
use crate::wire::{
    IpEmit, OptionWriter, TcpFlags, TcpHeader, TcpOption, WireSeq, checksum, set_checksum,
};
use alloc::collections::VecDeque;
use core::net::IpAddr;

/// IP protocol number of TCP.
pub(crate) const PROTOCOL_TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;
/// A sender that was able to send and silent for longer is limited by its application.
const APP_LIMITED_PAUSE: Duration = Duration::from_millis(2);

/// What the data level says about the next segment of a subflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataLevel {
    pub(crate) data_ack: Option<WireSeq>,
    /// Octets beyond the `DATA_ACK` that were promised already.
    pub(crate) promised: u32,
    /// Octets beyond the `DATA_ACK` to offer.
    pub(crate) window: u32,
    /// DSN of our `DATA_FIN` while it wants to be sent with an acknowledgement.
    pub(crate) data_fin: Option<DataSeq>,
    pub(crate) wide: bool,
    pub(crate) local_key: u64,
    pub(crate) remote_key: u64,
    pub(crate) checksum: bool,
}

/// A segment sent without a control block: SYN/ACKs of requests, RSTs, TIME-WAIT's ACKs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stateless {
    pub(crate) tuple: Tuple,
    pub(crate) port: PortId,
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
    pub(crate) options: OptionWriter,
}

impl Stateless {
    /// Builds and queues the packet; false when no buffer could be had.
    pub(crate) fn emit<B: PacketBuf, T: TxQueue<B>>(
        &self,
        tx: &mut T,
        stats: &mut Counters,
    ) -> bool {
        let header = TcpHeader {
            src_port: self.tuple.local_port,
            dst_port: self.tuple.remote_port,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            urgent: 0,
        };
        if self.flags.contains(TcpFlags::RST) {
            stats.out_rsts += 1;
        }
        emit_packet(tx, stats, &self.tuple, self.port, 0, &header, &self.options, None)
    }
}

/// Writes IP and TCP headers in front of `payload` and hands the packet to `tx`.
#[expect(clippy::too_many_arguments, reason = "the parts of a packet")]
fn emit_packet<B: PacketBuf, T: TxQueue<B>>(
    tx: &mut T,
    stats: &mut Counters,
    tuple: &Tuple,
    port: PortId,
    traffic_class: u8,
    header: &TcpHeader,
    options: &OptionWriter,
    payload: Option<(B, u16)>,
) -> bool {
    let Some(mut packet) = tx.alloc() else {
        stats.tx_no_buffer += 1;
        return false;
    };
    let payload_len = payload.as_ref().map_or(0, |(b, _)| b.data().len());
    let tcp_len = header.len(options);
    let l4_len = tcp_len + payload_len;
    let pseudo =
        checksum::pseudo_header(tuple.local_addr, tuple.remote_addr, PROTOCOL_TCP, l4_len as u32);
    let partial_checksum = tx.checksum_offload();
    {
        let Some(bytes) = packet.prepend(tcp_len) else {
            stats.tx_no_buffer += 1;
            return false;
        };
        header.emit(options, bytes);
        let mut sum = checksum::Checksum::new();
        sum.add_sum(pseudo, 2);
        if partial_checksum {
            set_checksum(bytes, sum.folded());
        } else {
            sum.add_bytes(bytes);
            if let Some((_, payload_sum)) = &payload {
                sum.add_sum(*payload_sum, payload_len);
            }
            set_checksum(bytes, sum.finish());
        }
    }
    let ip = IpEmit {
        src: tuple.local_addr,
        dst: tuple.remote_addr,
        protocol: PROTOCOL_TCP,
        traffic_class,
        hop_limit: HOP_LIMIT,
        payload_len: l4_len,
        identification: 0,
        dont_fragment: true,
    };
    let Some(bytes) = packet.prepend(ip.header_len()) else {
        stats.tx_no_buffer += 1;
        return false;
    };
    ip.emit(bytes);
    if let Some((payload, _)) = payload {
        packet.chain(payload);
    }
    packet.set_tx_meta(TxMeta { port, partial_checksum });
    stats.out_segs += 1;
    tx.push(packet);
    true
}

/// MSS we announce on a path with this MTU (RFC 9293 §3.7.1: fixed headers only).
pub(crate) const fn mss_for(mtu: u16, remote: &IpAddr) -> u16 {
    let headers = if remote.is_ipv4() { 40 } else { 60 };
    let mss = mtu.saturating_sub(headers);
    if mss < 64 { 64 } else { mss }
}

/// Joins the first `len` octets of `bufs` (skipping `skip`) into one buffer: a view where one
/// buffer holds them all, a copy where it does not. Without a buffer to copy into it is a view of
/// fewer octets, so that what is queued can always be sent. `None` when there is nothing.
pub(crate) fn gather<'a, B: PacketBuf + 'a, T: TxQueue<B>>(
    bufs: impl Iterator<Item = &'a B>,
    skip: usize,
    len: usize,
    tx: &mut T,
) -> Option<B> {
    let mut skip = skip;
    let mut joined: Option<B> = None;
    let mut have = 0;
    for buf in bufs {
        let data = buf.data();
        if skip >= data.len() {
            skip -= data.len();
            continue;
        }
        let take = (data.len() - skip).min(len - have);
        if joined.is_none() && take == len {
            return Some(buf.slice(skip..skip + take));
        }
        let target = match &mut joined {
            Some(target) => target,
            None => match tx.alloc_copy() {
                Some(empty) => joined.insert(empty),
                None => return Some(buf.slice(skip..skip + take)),
            },
        };
        let Some(room) = target.append(take) else { break };
        room.copy_from_slice(data.get(skip..skip + take)?);
        skip = 0;
        have += take;
        if have == len {
            break;
        }
    }
    joined.filter(|_| have > 0)
}

/// One segment about to be sent.
struct Emission<'a, B> {
    seq: SeqNum,
    flags: TcpFlags,
    payload: Option<(B, u16)>,
    carry: Carry<'a>,
    /// New data.
    fresh: bool,
}

impl<'a, B> Emission<'a, B> {
    /// Without text.
    const fn bare(seq: SeqNum, flags: TcpFlags, carry: Carry<'a>) -> Self {
        Self { seq, flags, payload: None, carry, fresh: false }
    }
}

impl<B: PacketBuf> Tcb<B> {
    /// Sends what is due and allowed, at most `budget` segments. New data of a subflow is not
    /// sent here: the scheduler hands it over with [`Tcb::send_mapped`].
    pub(crate) fn output<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.state == State::Closed {
            return Progress::Done;
        }
        let progress = self.output_steps(env, tx, data, budget);
        let open = self.pipe() + self.payload_mss() <= self.congestion.cwnd();
        if open && !self.pacer.limits(env.now) {
            // Not when acknowledgements come: a burst brings many before there is a chance to send.
            self.flags.remove(TcbFlags::CWND_LIMITED);
        }
        self.arm_rtx(env.now);
        progress
    }

    fn output_steps<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.flags.contains(TcbFlags::SYN_NOW) {
            return self.send_syn(env, tx, data, budget);
        }
        if self.state == State::SynSent {
            return Progress::Done;
        }
        if self.flags.contains(TcbFlags::PROBE_NOW) && self.send_probe(env, tx, data, budget) {
            return Progress::More;
        }
        if self.retransmit_lost(env, tx, data, budget) == Progress::More
            || self.send_tail_loss_probe(env, tx, data, budget) == Progress::More
            || self.send_unsent(env, tx, data, budget) == Progress::More
            || self.send_fin(env, tx, data, budget) == Progress::More
        {
            return Progress::More;
        }
        if self.flags.contains(TcbFlags::ACK_NOW) {
            if *budget == 0 || tx.room() == 0 || !self.send_ack(env, tx, data) {
                return Progress::More;
            }
            *budget -= 1;
            if self.subflow.as_ref().is_some_and(|subflow| subflow.wants_ack()) {
                // One option of several fits into an acknowledgement.
                return Progress::More;
            }
        }
        Progress::Done
    }

    /// Octets the peer's window lets us send beyond `snd_nxt`.
    pub(crate) fn usable_window(&self) -> u32 {
        let edge = self.snd_una.add(self.snd_wnd);
        u32::try_from(edge.diff(self.snd_nxt)).unwrap_or(0)
    }

    /// The window is shut, or cuts what waits into slivers: less than a segment and less than half
    /// of what it ever was (RFC 9293 §3.8.6.2.1).
    pub(super) fn window_blocks(&self) -> bool {
        self.window_starves(self.unsent_len)
    }

    /// The same for `waiting` octets, of the stream if this is a subflow.
    pub(super) fn window_starves(&self, waiting: u32) -> bool {
        let usable = self.usable_window();
        let enough = waiting.min(self.payload_mss()).min(self.max_snd_wnd / 2);
        usable == 0 || usable < enough
    }

    /// A subflow's own window may leave room for `waiting` octets of the stream, or not. With
    /// nothing in flight only a probe can change that (RFC 9293 §3.8.6.1).
    pub(crate) fn note_window(&mut self, now: Instant, waiting: u32) -> bool {
        let overridden = self.usable_window() > 0 && self.flags.contains(TcbFlags::OVERRIDE);
        let starved = waiting > 0 && self.window_starves(waiting) && !overridden;
        let probing = starved && self.queue.is_empty();
        if let Some(subflow) = &mut self.subflow
            && subflow.starved != probing
        {
            subflow.starved = probing;
            self.rto_base = now;
            self.arm_rtx(now);
        }
        starved
    }

    /// True when a subflow may take new data as soon as its pace allows.
    pub(crate) fn can_send(&self) -> bool {
        self.state.sending()
            && !self.flags.contains(TcbFlags::SILENT)
            && self.queue.lost_bytes() == 0
            && self.usable_window() > 0
            && self.pipe() < self.congestion.cwnd()
    }

    /// The pace does not let anything out now: asks to be woken when it does.
    pub(crate) fn held_by_pace(&mut self, now: Instant) -> bool {
        let held = self.pacer.holds(now);
        if held {
            self.flags.insert(TcbFlags::PACED);
        }
        held
    }

    /// What waited for its release time may go.
    pub(crate) fn is_released(&self, now: Instant) -> bool {
        self.flags.contains(TcbFlags::PACED) && self.pacer.release_at() <= now
    }

    /// Something beside the path keeps data back, a rate cap: what is delivered says little about it.
    pub(crate) fn note_app_limited(&mut self) {
        // A cap holds on average: a burst that it let through is no proof of anything either.
        let window = self.pipe().max(self.congestion.cwnd());
        self.delivery.note_app_limited(window);
    }

    /// Stamps `octets` that leave now and charges them to the pace. Who could have sent for a while and
    /// did not was short of data, or its scheduler chose another path.
    fn depart(&mut self, now: Instant, octets: u32) -> Stamp {
        let pipe = self.pipe();
        let able_since = self.pacer.release_at().max(self.open_since);
        let pause = self.rtt.srtt().unwrap_or_default() / 8;
        if now.since(able_since) > pause.max(APP_LIMITED_PAUSE) {
            self.delivery.note_app_limited(pipe);
        }
        self.pacer.charge(now, octets);
        self.delivery.stamp(now, pipe, octets)
    }

    /// The first window is not paced, and the rate follows what is known of the path.
    pub(super) fn update_pace(&mut self, env: &Env<'_>) {
        let wanted = env.config.pacing || self.congestion.governs();
        let first = u64::from(super::congestion::initial_window(self.payload_mss()));
        let rate = match self.rtt.srtt() {
            Some(srtt) if wanted && self.counters.bytes_sent >= first => {
                self.congestion.pacing_rate(srtt, self.flight_size())
            }
            _ => None,
        };
        self.pacer.set_rate(rate);
    }

    /// Notes that data was there but the congestion window was not.
    pub(crate) fn note_cwnd_limited(&mut self) {
        if self.pipe() + self.payload_mss() > self.congestion.cwnd() {
            self.flags.insert(TcbFlags::CWND_LIMITED);
        }
    }

    /// Sends one mapped segment of new data on this subflow; false when no buffer could be had.
    pub(crate) fn send_mapped<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: &DataLevel,
        payload: B,
        mapping: Option<TxMapping>,
        push: bool,
    ) -> bool {
        self.restart_after_idle(env.now);
        let flags = if push { SegmentFlags::PUSH } else { SegmentFlags::empty() };
        let sent = self.send_new(env, tx, Some(data), payload, mapping, flags);
        if sent {
            self.note_cwnd_limited();
            self.arm_rtx(env.now);
        }
        sent
    }

    fn send_new<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        payload: B,
        mapping: Option<TxMapping>,
        flags: SegmentFlags,
    ) -> bool {
        let len = payload.data().len() as u32;
        let sum = checksum::sum(payload.data());
        let emission = Emission {
            seq: self.snd_nxt,
            flags: wire_flags(flags),
            payload: Some((payload.slice(0..len as usize), sum)),
            carry: mapping.as_ref().map_or(Carry::Nothing, Carry::Data),
            fresh: true,
        };
        if !self.emit(env, tx, data, emission) {
            return false;
        }
        if self.queue.is_empty() {
            self.rto_base = env.now;
        }
        let segment = TxSegment {
            seq: self.snd_nxt,
            len,
            flags,
            transmissions: 1,
            sum,
            sent_at: env.now,
            stamp: self.depart(env.now, len),
            payload: Some(payload),
            mapping,
            place: Place::NOWHERE,
        };
        let octets = segment.seq_len();
        self.flags.remove(TcbFlags::OVERRIDE);
        self.snd_nxt = self.snd_nxt.add(octets);
        if len < self.payload_mss() * 7 / 8 {
            self.snd_sml = self.snd_nxt;
        }
        self.queue.push(segment);
        self.counters.bytes_sent += u64::from(len);
        self.last_sent = env.now;
        self.on_recovery_sent(octets, None);
        if flags.contains(SegmentFlags::FIN) {
            self.fin_sent();
        }
        true
    }

    fn fin_sent(&mut self) {
        self.flags.insert(TcbFlags::FIN_SENT);
        self.state = match self.state {
            State::CloseWait => State::LastAck,
            State::Established => State::FinWait1,
            other => other,
        };
    }

    fn send_syn<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let passive = self.state == State::SynReceived;
        let flags = if passive { TcpFlags::SYN | TcpFlags::ACK } else { TcpFlags::SYN };
        let carry = if passive || self.flags.contains(TcbFlags::PLAIN_SYN) {
            Carry::Nothing
        } else {
            Carry::Syn
        };
        if self.retries > 0 {
            // What answers to nothing may be what asks for ECN (RFC 3168 §6.1.1.1).
            self.flags.remove(TcbFlags::ECN);
        }
        if !self.emit(env, tx, data, Emission::bare(self.iss, flags, carry)) {
            return Progress::More;
        }
        *budget -= 1;
        self.flags.remove(TcbFlags::SYN_NOW);
        self.snd_nxt = self.iss.add(1);
        self.last_sent = env.now;
        self.rto_base = env.now;
        self.rtx_kind = super::RtxKind::Rto;
        self.rtx_at = Some(env.now + self.rtt.rto());
        if self.retries > 0 {
            self.counters.retransmitted += 1;
            env.stats.retrans_segs += 1;
        }
        Progress::Done
    }

    /// A segment below the window makes the peer answer with its state (keep-alive and
    /// zero-window probe alike). True when it could not be sent.
    fn send_probe<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> bool {
        if *budget == 0 || tx.room() == 0 {
            return true;
        }
        let emission = Emission::bare(self.snd_una.sub(1), TcpFlags::ACK, Carry::Ack);
        if !self.emit(env, tx, data, emission) {
            return true;
        }
        *budget -= 1;
        self.flags.remove(TcbFlags::PROBE_NOW);
        false
    }

    fn retransmit_lost<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        while let Some(idx) = self.queue.first_lost() {
            if self.pipe() >= self.congestion.cwnd() {
                self.flags.insert(TcbFlags::CWND_LIMITED);
                break;
            }
            if self.held_by_pace(env.now) {
                break;
            }
            if *budget == 0 || tx.room() == 0 || !self.retransmit(env, tx, data, idx) {
                return Progress::More;
            }
            *budget -= 1;
        }
        Progress::Done
    }

    /// Sends segment `idx` again with the mapping it was first sent with.
    fn retransmit<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        idx: usize,
    ) -> bool {
        let whole = self.payload_mss();
        let infinite = self.queue.get(idx).and_then(|s| s.mapping).is_some_and(|m| m.len == 0);
        // Only the segments that carry an infinite mapping need the room for it.
        let room = if infinite { whole.saturating_sub(INFINITE_LEN).max(1) } else { whole };
        self.queue.split(idx, room);
        let Some(segment) = self.queue.get(idx) else { return false };
        let (seq, octets, mapping) = (segment.seq, segment.seq_len(), segment.mapping);
        let len = segment.len;
        let bare = if segment.len > 0 { Carry::Nothing } else { Carry::Ack };
        let emission = Emission {
            seq,
            flags: wire_flags(segment.flags),
            payload: segment.payload.as_ref().map(|b| (b.slice(0..b.data().len()), segment.sum)),
            carry: mapping.as_ref().map_or(bare, Carry::Data),
            fresh: false,
        };
        if !self.emit(env, tx, data, emission) {
            return false;
        }
        let stamp = self.depart(env.now, octets);
        self.queue.retransmitted(idx, env.now, stamp);
        let timestamp = self.flags.contains(TcbFlags::TIMESTAMPS).then(|| self.timestamp(env.now));
        self.on_recovery_sent(octets, timestamp);
        // A probe of a sidelined subflow does not put off the timeout that gives it up.
        if idx == 0 && !self.subflow.as_ref().is_some_and(|subflow| subflow.stale) {
            self.rto_base = env.now;
        }
        self.last_sent = env.now;
        self.counters.retransmitted += 1;
        self.counters.bytes_retrans += u64::from(len);
        env.stats.retrans_segs += 1;
        true
    }

    /// RFC 8985 §7.3: new data if there is any, else the last segment again.
    fn send_tail_loss_probe<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if !self.flags.contains(TcbFlags::TLP_NOW) {
            return Progress::Done;
        }
        if self.queue.is_empty() || self.recovery.is_some() || self.queue.lost_bytes() > 0 {
            self.flags.remove(TcbFlags::TLP_NOW);
            return Progress::Done;
        }
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let mss = self.payload_mss();
        let fresh = self.unsent_len.min(mss).min(self.usable_window());
        if fresh > 0 && self.subflow.is_none() {
            if !self.send_chunk(env, tx, data, fresh) {
                return Progress::More;
            }
        } else {
            let last = self.queue.len() - 1;
            if !self.retransmit(env, tx, data, last) {
                return Progress::More;
            }
            self.flags.insert(TcbFlags::TLP_RETRANS);
        }
        *budget -= 1;
        env.stats.tcp_loss_probes += 1;
        // The timeout counts from the probe (RFC 8985 §7.3).
        self.rto_base = env.now;
        self.flags.remove(TcbFlags::TLP_NOW);
        self.flags.insert(TcbFlags::TLP_OUT.union(TcbFlags::TLP_SPENT));
        self.tlp_end = self.snd_nxt;
        Progress::Done
    }

    /// New data of a plain connection.
    fn send_unsent<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        if self.unsent.is_empty() || !self.state.sending() {
            return Progress::Done;
        }
        self.restart_after_idle(env.now);
        loop {
            let len = self.next_chunk(env.now);
            if len == 0 {
                return Progress::Done;
            }
            if *budget == 0 || tx.room() == 0 || !self.send_chunk(env, tx, data, len) {
                return Progress::More;
            }
            *budget -= 1;
        }
    }

    /// Octets of the next new segment; 0 when it must wait.
    fn next_chunk(&mut self, now: Instant) -> u32 {
        let (mss, usable) = (self.payload_mss(), self.usable_window());
        let len = mss.min(self.unsent_len).min(usable);
        if len == 0 {
            return 0;
        }
        if self.pipe() >= self.congestion.cwnd() {
            self.flags.insert(TcbFlags::CWND_LIMITED);
            return 0;
        }
        if self.held_by_pace(now) {
            return 0;
        }
        if len == mss {
            return len;
        }
        let outstanding = self.snd_nxt != self.snd_una;
        if len < self.unsent_len {
            // The window cuts it: wait for more of it rather than send slivers.
            let sliver = self.window_blocks() && !self.flags.contains(TcbFlags::OVERRIDE);
            return if sliver { 0 } else { len };
        }
        let small_outstanding = outstanding && self.snd_sml.gt(self.snd_una);
        let delay = small_outstanding
            && !self.flags.intersects(TcbFlags::NO_DELAY.union(TcbFlags::FIN_QUEUED));
        if delay { 0 } else { len }
    }

    /// Sends the next `len` octets of what is unsent, less when a buffer nearly of that size is
    /// next and can be sent without copying.
    fn send_chunk<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        len: u32,
    ) -> bool {
        let front = self.unsent.front().map_or(0, |b| b.data().len() as u32);
        let len = if front < len && front >= len - len / 16 { front } else { len };
        let Some(payload) = gather(self.unsent.iter(), 0, len as usize, tx) else {
            env.stats.tx_no_buffer += 1;
            return false;
        };
        let len = payload.data().len() as u32;
        let mut flags = SegmentFlags::empty();
        if len == self.unsent_len {
            flags.insert(SegmentFlags::PUSH);
            if self.flags.contains(TcbFlags::FIN_QUEUED) {
                flags.insert(SegmentFlags::FIN);
            }
        }
        if !self.send_new(env, tx, data, payload, None, flags) {
            return false;
        }
        consume(&mut self.unsent, len as usize);
        self.unsent_len -= len;
        true
    }

    fn send_fin<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        budget: &mut usize,
    ) -> Progress {
        // It takes a sequence number, so it needs room in the window. On a subflow the window is
        // the data level's, which the FIN is no part of.
        if !self.fin_due() || (self.usable_window() == 0 && self.subflow.is_none()) {
            return Progress::Done;
        }
        if *budget == 0 || tx.room() == 0 {
            return Progress::More;
        }
        let flags = TcpFlags::FIN | TcpFlags::ACK;
        let mapping = self.subflow.as_ref().and_then(|subflow| subflow.infinite());
        let carry = mapping.as_ref().map_or(Carry::Ack, Carry::Data);
        let emission = Emission::bare(self.snd_nxt, flags, carry);
        if !self.emit(env, tx, data, emission) {
            return Progress::More;
        }
        *budget -= 1;
        if self.queue.is_empty() {
            self.rto_base = env.now;
        }
        self.queue.push(TxSegment {
            seq: self.snd_nxt,
            len: 0,
            flags: SegmentFlags::FIN,
            transmissions: 1,
            sum: 0,
            sent_at: env.now,
            stamp: self.delivery.stamp(env.now, self.pipe(), 1),
            payload: None,
            mapping,
            place: Place::NOWHERE,
        });
        self.snd_nxt = self.snd_nxt.add(1);
        self.last_sent = env.now;
        self.on_recovery_sent(1, None);
        self.fin_sent();
        Progress::Done
    }

    fn send_ack<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
    ) -> bool {
        let emission = Emission::bare(self.snd_nxt, TcpFlags::ACK, Carry::Ack);
        self.emit(env, tx, data, emission)
    }

    /// RFC 5681 §4.1
    fn restart_after_idle(&mut self, now: Instant) {
        if self.queue.is_empty() {
            let idle = now.since(self.last_sent);
            if idle > self.rtt.rto() {
                self.congestion.on_idle(now, idle, self.rtt.rto());
            }
        }
    }

    fn emit<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        emission: Emission<'_, B>,
    ) -> bool {
        let syn = emission.flags.contains(TcpFlags::SYN);
        let (options, sack_told) = self.options(env, data, &emission);
        let prior_edge = self.rcv_adv;
        let window = if syn {
            self.autotune.limit().min(65_535) as u16
        } else {
            self.advertise(data.map(|d| (d.promised, d.window)))
        };
        let acks = emission.flags.contains(TcpFlags::ACK);
        let bare = emission.payload.is_none();
        let header = TcpHeader {
            src_port: self.tuple.local_port,
            dst_port: self.tuple.remote_port,
            seq: emission.seq,
            ack: if acks { self.rcv_nxt } else { SeqNum(0) },
            flags: emission.flags | self.ecn_flags(emission.flags, emission.fresh),
            window,
            urgent: 0,
        };
        let class = self.ecn_codepoint(emission.fresh);
        let (tuple, port) = (&self.tuple, self.port);
        if !emit_packet(tx, env.stats, tuple, port, class, &header, &options, emission.payload) {
            self.rcv_adv = prior_edge;
            return false;
        }
        self.counters.segs_out = self.counters.segs_out.wrapping_add(1);
        if emission.fresh {
            self.flags.remove(TcbFlags::CWR);
        }
        if acks {
            self.delayed_ack_at = None;
            self.unacked_segments = 0;
            self.last_ack_sent = self.rcv_nxt;
            // An acknowledgement with a `DATA_FIN` has no room for SACK blocks either: another one would
            // not say more, and answering every segment with one is half of an ACK war.
            if sack_told || bare {
                self.flags.remove(TcbFlags::ACK_NOW);
            }
            if sack_told && self.dsack.take().is_some() && self.flags.contains(TcbFlags::SACK) {
                env.stats.tcp_dsack_sent += 1;
            }
        }
        if let Some(subflow) = &mut self.subflow {
            subflow.options_sent(env.stats);
            if subflow.wants_ack() {
                self.flags.insert(TcbFlags::ACK_NOW);
            }
            if let Some(wait) = subflow.third_ack_wait(self.rtt.rto()) {
                self.delayed_ack_at = Some(env.now + wait);
            }
        }
        true
    }

    /// The option area, and whether it says everything there is to say about received data. A full
    /// data segment has no room for SACK blocks: an acknowledgement of its own carries them.
    fn options(
        &mut self,
        env: &Env<'_>,
        data: Option<&DataLevel>,
        emission: &Emission<'_, B>,
    ) -> (OptionWriter, bool) {
        let mut writer = OptionWriter::new();
        let syn = emission.flags.contains(TcpFlags::SYN);
        let tsecr = if emission.flags.contains(TcpFlags::ACK) { self.ts_recent } else { 0 };
        // An option area of 40 octets has room for all of these.
        let mut fits = true;
        if syn {
            fits &= writer.push(&TcpOption::MaxSegmentSize(self.local_mss));
            if self.flags.contains(TcbFlags::SACK) {
                fits &= writer.push(&TcpOption::SackPermitted);
            }
        }
        if self.flags.contains(TcbFlags::TIMESTAMPS) {
            let tsval = self.timestamp(env.now);
            fits &= if syn {
                writer.push(&TcpOption::Timestamps { tsval, tsecr })
            } else {
                writer.push_timestamps(tsval, tsecr)
            };
        }
        if syn && (self.flags.contains(TcbFlags::SCALED) || self.state == State::SynSent) {
            fits &= writer.push(&TcpOption::WindowScale(self.rcv_wscale));
        }
        debug_assert!(fits, "the basic options always fit");
        if let (Some(subflow), Some(data)) = (&mut self.subflow, data) {
            subflow.write_options(&mut writer, &emission.carry, data);
        }
        if syn || !self.flags.contains(TcbFlags::SACK) {
            return (writer, true);
        }
        let payload = emission.payload.as_ref().map_or(0, |(b, _)| b.data().len());
        let space = usize::from(self.mss).saturating_sub(payload + writer.padded_len());
        let dsack = self.dsack.map(|(start, len)| (start, start.add(len.get())));
        let told = push_sack(&mut writer, space, dsack, self.received.sack_blocks());
        (writer, told)
    }
}

/// As many SACK blocks as fit into `space` octets, the duplicate first (RFC 2883 §4). False when
/// there are some and none fits.
fn push_sack(
    writer: &mut OptionWriter,
    space: usize,
    dsack: Option<(SeqNum, SeqNum)>,
    blocks: impl Iterator<Item = (SeqNum, SeqNum)>,
) -> bool {
    let mut blocks = dsack.into_iter().chain(blocks).peekable();
    if blocks.peek().is_none() {
        return true;
    }
    let room = writer.remaining().min(space).saturating_sub(4) / 8;
    let mut list = [(SeqNum(0), SeqNum(0)); super::segment::MAX_SACK_BLOCKS];
    let mut count = 0;
    for (slot, block) in list.iter_mut().zip(blocks).take(room) {
        *slot = block;
        count += 1;
    }
    count > 0 && writer.push_sack(list.get(..count).unwrap_or_default()) > 0
}

fn wire_flags(flags: SegmentFlags) -> TcpFlags {
    let mut wire = TcpFlags::ACK;
    if flags.contains(SegmentFlags::FIN) {
        wire |= TcpFlags::FIN;
    }
    if flags.contains(SegmentFlags::PUSH) {
        wire |= TcpFlags::PSH;
    }
    wire
}

/// Drops the first `n` octets of a buffer list.
pub(crate) fn consume<B: PacketBuf>(bufs: &mut VecDeque<B>, n: usize) {
    let mut left = n;
    while let Some(front) = bufs.front_mut() {
        let len = front.data().len();
        if left < len {
            front.trim_front(left);
            return;
        }
        left -= len;
        bufs.pop_front();
    }
}
