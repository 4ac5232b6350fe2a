//! Pending requests: the SYN/ACK and its repetition, what arrives before the third ACK, and what the
//! third ACK makes of them (RFC 9293 §3.10.7.4 SYN-RECEIVED, RFC 8684 §3.1).

use super::Level;
use crate::buf::{PacketBuf, PortId};
use crate::config::{ChecksumPolicy, EcnPolicy};
use crate::mptcp::key::{KeyPair, OwnKey};
use crate::mptcp::{FallbackReason, Negotiated};
use crate::seq::SeqNum;
use crate::stack::demux::{Flow, Node, TokenOwner};
use crate::stack::options::{self, Handshake};
use crate::stack::{Sock, Stack};
use crate::stats::DropReason;
use crate::tcp::request::{Request, RequestFlags, Wanted};
use crate::tcp::{Agreed, Segment, Stateless, Tuple, mss_for, push_grant};
use crate::time::{Duration, Instant};
use crate::wire::{
    CapableFlags, CapableForm, MpJoin, MptcpOption, OptionWriter, TcpFlags, TcpOption, Version,
};

/// First retransmission of a SYN/ACK (RFC 6298 §2.1), doubling.
const SYN_ACK_RTO: Duration = Duration::from_secs(1);
/// Requests for missing keys that are waited out before the peer is taken at its word: plain TCP.
const MAX_KEYLESS: u8 = 3;
/// How long the first of them may stay unanswered, doubling: a window of data that left before it
/// arrived says nothing about the peer.
const KEYLESS_WAIT: Duration = Duration::from_millis(200);

impl<B: PacketBuf> Stack<B> {
    pub(super) fn request(
        &self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        listener: u32,
        wanted: Wanted,
    ) -> Request {
        let config = &self.config.tcp;
        let mut flags = RequestFlags::empty();
        flags.set(RequestFlags::SACK, segment.sack_permitted && config.sack);
        flags.set(RequestFlags::TIMESTAMPS, segment.timestamps.is_some() && config.timestamps);
        flags.set(RequestFlags::ECN, segment.is_ecn_setup_syn() && config.ecn != EcnPolicy::Off);
        flags.set(RequestFlags::TEXT, segment.len > 0);
        let ts_offset = if flags.contains(RequestFlags::TIMESTAMPS) {
            self.isn.timestamp_offset(tuple.local(), tuple.remote())
        } else {
            0
        };
        Request {
            tuple: *tuple,
            port,
            flags,
            snd_wscale: segment.window_scale.unwrap_or(255),
            retries: 0,
            keyless: 0,
            peer_mss: segment.mss.unwrap_or(0),
            local_mss: mss_for(self.mtu_towards(tuple, port), &tuple.remote_addr),
            iss: self.isn.isn(now, tuple.local(), tuple.remote()),
            irs: segment.seq,
            ts_recent: segment.timestamps.map_or(0, |(tsval, _)| tsval),
            ts_offset,
            listener,
            next: now,
            sent_at: now,
            wanted,
        }
    }

    /// A request that takes the place of an earlier incarnation starts above everything that one
    /// sent (RFC 1122 §4.2.2.13), which the clock of RFC 6528 alone does not promise.
    pub(in crate::stack) fn raise_iss(&mut self, tuple: &Tuple, snd_nxt: SeqNum) {
        if let Some(Flow::Request(idx)) = self.find_flow(tuple)
            && let Some(request) = self.requests.get_mut(idx)
            && request.iss.le(snd_nxt)
        {
            request.iss = snd_nxt.add(1 << 16);
        }
        if let Some(Flow::Tcb(idx)) = self.find_flow(tuple)
            && let Some(tcb) = self.tcbs.get_mut(idx)
            && tcb.is_fast_opened()
            && tcb.iss.le(snd_nxt)
        {
            tcb.restart_at(snd_nxt.add(1 << 16));
        }
    }

    /// Files a request and, unless the application decides first, sends its SYN/ACK. Answers where it is.
    pub(super) fn add_request(&mut self, now: Instant, request: Request) -> Option<u32> {
        let deferred = request.flags.contains(RequestFlags::DEFERRED);
        let joins = matches!(request.wanted, Wanted::Join { .. });
        let (tuple, listener) = (request.tuple, request.listener);
        let Some(idx) = self.requests.insert(request) else {
            self.stats.drop(DropReason::RequestQueueFull);
            return None;
        };
        self.file_flow(&tuple, Flow::Request(idx));
        if let Some(entry) = self.listeners.get_mut(listener)
            && !joins
        {
            entry.requests += 1;
        }
        if let Some(token) = request.token() {
            // Nobody else may draw it while the handshake lasts.
            self.demux.insert_token(token, TokenOwner::Request(idx));
        }
        if deferred {
            if let Some(entry) = self.listeners.get_mut(listener) {
                entry.deferred += 1;
            }
            if !self.offer(listener, Sock::Request(idx)) {
                // Nobody would ever decide about it.
                self.remove_request(idx);
                self.stats.drop(DropReason::AcceptQueueFull);
                return None;
            }
            if let Some(request) = self.requests.get_mut(idx) {
                request.flags.insert(RequestFlags::OFFERED);
                request.next = now + Duration::from_secs(60);
                let next = request.next;
                self.arm(Node::Request(idx), Some(next));
            }
        } else {
            self.send_syn_ack_at(now, idx);
        }
        Some(idx)
    }

    /// Queues the SYN/ACK and arms its retransmission.
    pub(in crate::stack) fn send_syn_ack_at(&mut self, now: Instant, idx: u32) {
        let Some(request) = self.requests.get_mut(idx) else { return };
        request.next = now + SYN_ACK_RTO * (1 << u32::from(request.retries.min(6)));
        request.sent_at = now;
        let next = request.next;
        self.want_transmit(Node::Request(idx));
        self.arm(Node::Request(idx), Some(next));
    }

    /// The SYN/ACK of a pending request.
    pub(in crate::stack) fn syn_ack(&self, now: Instant, idx: u32) -> Option<Stateless> {
        let request = self.requests.get(idx)?;
        let mut options = OptionWriter::new();
        let timestamps = request.flags.contains(RequestFlags::TIMESTAMPS).then(|| {
            let tsval = (now.as_millis() as u32).wrapping_add(request.ts_offset);
            (tsval, request.ts_recent)
        });
        let sack = request.flags.contains(RequestFlags::SACK);
        let scaled = (request.snd_wscale != 255).then_some(self.rcv_wscale);
        let fits = options.push_syn(request.local_mss, sack, timestamps, scaled);
        debug_assert!(fits, "the basic options always fit");
        match request.wanted {
            Wanted::Plain(_) => {}
            Wanted::Capable { version, own, .. } => {
                let checksum = request.flags.contains(RequestFlags::ASK_CHECKSUM);
                let denies = self.denies_joins(&request.tuple);
                options::push_capable_syn_ack(&mut options, version, own.key, checksum, denies);
            }
            Wanted::Join { connection, local_nonce, remote_nonce, local_id, .. } => {
                let connection = self.connections.get(connection)?;
                let hmac =
                    connection.keys.sent_join_hmac(connection.version, local_nonce, remote_nonce);
                let join = MpJoin::SynAck {
                    backup: self.endpoint_backup(request.tuple.local_addr),
                    address_id: local_id,
                    hmac: hmac.truncated64(),
                    nonce: local_nonce,
                };
                options::push(&mut options, &MptcpOption::Join(join), connection.version);
            }
        }
        if request.flags.contains(RequestFlags::GRANT) && request.retries == 0 {
            let mac = self.fast_open.mac(request.tuple.local_addr, request.tuple.remote_addr);
            push_grant(&mut options, mac);
        }
        let mut flags = TcpFlags::SYN | TcpFlags::ACK;
        flags.set(TcpFlags::ECE, request.flags.contains(RequestFlags::ECN));
        Some(Stateless {
            tuple: request.tuple,
            port: request.port,
            seq: request.iss,
            ack: request.irs.add(1),
            flags,
            window: self.initial_window() as u16,
            marking: self.request_marking(request),
            options,
        })
    }

    pub(in crate::stack) fn request_timeout(&mut self, now: Instant, idx: u32) {
        let Some(request) = self.requests.get_mut(idx) else { return };
        if request.next > now {
            let next = request.next;
            return self.arm(Node::Request(idx), Some(next));
        }
        request.retries = request.retries.saturating_add(1);
        request.flags.insert(RequestFlags::REPEATED);
        let undecided = request.flags.contains(RequestFlags::DEFERRED);
        if undecided || request.retries > self.config.tcp.syn_retries.min(5) {
            self.stats.tcp_req_timeouts += 1;
            return self.give_up_request(now, idx);
        }
        self.stats.retrans_segs += 1;
        self.send_syn_ack_at(now, idx);
    }

    /// Nothing comes of a request. Who has answered our SYN/ACK would never hear of that: the peer may only wait.
    pub(in crate::stack) fn give_up_request(&mut self, now: Instant, idx: u32) {
        let Some(request) = self.requests.get(idx).copied() else { return };
        let joined = match request.wanted {
            Wanted::Join { connection, .. } => self.connections.get(connection),
            _ => None,
        };
        let told = joined.is_some_and(|connection| connection.version == Version::V1);
        self.remove_request(idx);
        if !request.flags.contains(RequestFlags::ANSWERED) {
            return;
        }
        let mut options = OptionWriter::new();
        if told {
            // A join whose HMAC never came (RFC 8684 §3.2).
            let reason = crate::wire::reset_reason::MPTCP_SPECIFIC;
            self.note_reset(&request.tuple, reason);
            options::push_reset(&mut options, reason, false);
            self.stats.mp_rst_tx += 1;
        }
        self.reply_to_request(now, &request, TcpFlags::RST | TcpFlags::ACK, 0, options);
    }

    /// What stands behind both SYNs.
    fn reply_to_request(
        &mut self,
        now: Instant,
        request: &Request,
        flags: TcpFlags,
        window: u16,
        options: OptionWriter,
    ) {
        let (seq, ack) = (request.iss.add(1), request.irs.add(1));
        let (tuple, port, marking) = (request.tuple, request.port, self.request_marking(request));
        self.reply(now, Stateless { tuple, port, seq, ack, flags, window, marking, options });
    }

    pub(in crate::stack) fn remove_request(&mut self, idx: u32) {
        self.forget_deferred(idx);
        let Some(request) = self.requests.remove(idx) else { return };
        let number = self.numbering.number(Node::Request(idx));
        self.wheel.cancel(number);
        self.tx.remove(number);
        self.events.remove(number);
        self.demux.remove(&request.tuple, Flow::Request(idx));
        if let Some(token) = request.token() {
            self.demux.remove_token(token, TokenOwner::Request(idx));
        }
        if let Wanted::Join { connection, .. } = request.wanted
            && let Some(owner) = self.connections.get_mut(connection)
        {
            owner.half_open = owner.half_open.saturating_sub(1);
            self.reap_connection(connection);
        }
        let Some(listener) = self.listeners.get_mut(request.listener) else { return };
        if !matches!(request.wanted, Wanted::Join { .. }) {
            listener.requests = listener.requests.saturating_sub(1);
        }
        if request.flags.contains(RequestFlags::DEFERRED) {
            listener.deferred = listener.deferred.saturating_sub(1);
        }
        if request.flags.contains(RequestFlags::OFFERED) {
            listener.stale += 1;
            if listener.stale * 2 > listener.queue.len() {
                self.sweep_queue(request.listener);
            }
        }
    }

    /// Takes what went away out of an accept queue; half of it did, so each costs little.
    fn sweep_queue(&mut self, listener: u32) {
        let Some(entry) = self.listeners.get_mut(listener) else { return };
        let mut queue = core::mem::take(&mut entry.queue);
        queue.retain(|id| self.resolve(*id).is_some());
        if let Some(entry) = self.listeners.get_mut(listener) {
            entry.queue = queue;
            entry.stale = 0;
        }
    }

    /// A segment for a pending request (RFC 9293 SYN-RECEIVED).
    pub(in crate::stack) fn request_segment(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        payload: B,
    ) {
        let Some(request) = self.requests.get(idx).copied() else { return };
        let expected = request.irs.add(1);
        if segment.has(TcpFlags::RST) {
            if segment.seq == expected || self.is_behind_text(idx, segment.seq) {
                self.stats.in_rsts += 1;
                self.remove_request(idx);
            } else {
                self.stats.drop(DropReason::RstSequence);
                let ahead = segment.seq.diff(expected);
                if ahead > 0 && ahead.cast_unsigned() < self.initial_window() {
                    self.challenge_request(now, &request);
                }
            }
            return;
        }
        if segment.has(TcpFlags::SYN) {
            let again = !segment.has(TcpFlags::ACK) && segment.seq == request.irs;
            if again {
                return self.syn_again(idx, segment);
            }
            self.stats.drop(DropReason::UnexpectedSyn);
            return self.challenge_request(now, &request);
        }
        if request.flags.contains(RequestFlags::DEFERRED) || !segment.has(TcpFlags::ACK) {
            return self.stats.drop(DropReason::NoAck);
        }
        let ahead = segment.seq.diff(expected);
        if ahead < 0 || ahead.cast_unsigned() > self.initial_window() {
            self.stats.drop(DropReason::OutOfWindow);
            return self.challenge_request(now, &request);
        }
        if let (Some((tsval, _)), true) =
            (segment.timestamps, request.flags.contains(RequestFlags::TIMESTAMPS))
            && tsval.wrapping_sub(request.ts_recent).cast_signed() < 0
        {
            self.stats.drop(DropReason::Paws);
            return self.challenge_request(now, &request);
        }
        if segment.ack != request.iss.add(1) {
            self.stats.drop(DropReason::AckRange);
            return self.reply_rst(now, &request.tuple, request.port, segment);
        }
        self.complete_request(now, idx, &request, segment, payload);
    }

    /// RFC 9293 §3.10.7.4, first step, and RFC 5961 §3 and §4 before the handshake is over. A deferred request was not
    /// answered yet, and is not answered here either.
    fn challenge_request(&mut self, now: Instant, request: &Request) {
        if request.flags.contains(RequestFlags::DEFERRED) {
            return;
        }
        self.stats.tcp_challenge_ack += 1;
        let mut options = OptionWriter::new();
        if request.flags.contains(RequestFlags::TIMESTAMPS) {
            let tsval = (now.as_millis() as u32).wrapping_add(request.ts_offset);
            options::push_tcp(
                &mut options,
                &TcpOption::Timestamps { tsval, tsecr: request.ts_recent },
            );
        }
        let shift = if request.snd_wscale == 255 { 0 } else { self.rcv_wscale };
        let window = (self.initial_window() >> shift) as u16;
        self.reply_to_request(now, request, TcpFlags::ACK, window, options);
    }

    /// The SYN came again. When the repetition has no `MP_CAPABLE`, a middlebox or the peer gave
    /// MPTCP up; the third ACK decides, but the SYN/ACK must not offer it any more.
    fn syn_again(&mut self, idx: u32, segment: &Segment) {
        let capable = matches!(
            options::handshake(segment.options.as_bytes()),
            Handshake::Capable(_) | Handshake::Join(_)
        );
        if let Some(request) = self.requests.get_mut(idx) {
            request.flags.insert(RequestFlags::REPEATED);
            if segment.fast_open.is_none() {
                request.flags.remove(RequestFlags::GRANT);
            }
            if !segment.is_ecn_setup_syn() {
                // The peer gave ECN up (RFC 3168 §6.1.1.1).
                request.flags.remove(RequestFlags::ECN);
            }
            // BSD leaves out at last what may have kept its SYN from being answered, and what a SYN does
            // not offer is not used (RFC 7323 §2.2, §3.2; RFC 2018 §2).
            if segment.window_scale.is_none() {
                request.snd_wscale = 255;
            }
            if !segment.sack_permitted {
                request.flags.remove(RequestFlags::SACK);
            }
            match segment.timestamps {
                // The SYN/ACK answers this one (RFC 7323 §4.3).
                Some((tsval, _)) if tsval.wrapping_sub(request.ts_recent).cast_signed() > 0 => {
                    request.ts_recent = tsval;
                }
                Some(_) => {}
                None => request.flags.remove(RequestFlags::TIMESTAMPS),
            }
            if matches!(request.wanted, Wanted::Capable { .. }) && !capable {
                if let Some(token) = request.token() {
                    self.demux.remove_token(token, TokenOwner::Request(idx));
                }
                request.wanted = Wanted::Plain(Some(FallbackReason::SynRepeatedWithoutCapable));
            }
            if request.flags.contains(RequestFlags::DEFERRED) {
                return self.deferred_again(idx, segment);
            }
        }
        self.want_transmit(Node::Request(idx));
    }

    fn complete_request(
        &mut self,
        now: Instant,
        idx: u32,
        request: &Request,
        segment: &Segment,
        payload: B,
    ) {
        if let Wanted::Join { .. } = request.wanted {
            return self.complete_join(now, idx, request, segment, payload);
        }
        if self.accept_queue_full(request.listener) || !self.make_place(now) {
            // The request stays: the peer will repeat its ACK when there is room.
            if let Some(request) = self.requests.get_mut(idx) {
                request.flags.insert(RequestFlags::ANSWERED);
            }
            return self.stats.drop(DropReason::AcceptQueueFull);
        }
        let agreed = self.agreed(now, request, segment);
        let level = match request.wanted {
            Wanted::Capable { version, own, remote_key } => {
                match self.third_ack(now, request, version, (&own, remote_key), segment) {
                    Some(level) => level,
                    None => {
                        self.stats.drop(DropReason::MpCapableMissing);
                        if keys_overdue(now, request) {
                            if let Some(request) = self.requests.get_mut(idx) {
                                request.keyless = request.keyless.saturating_add(1);
                                request.sent_at = now;
                                request.flags.insert(RequestFlags::REPEATED);
                            }
                            self.want_transmit(Node::Request(idx));
                        }
                        return;
                    }
                }
            }
            Wanted::Plain(reason) => Level::Plain(reason),
            Wanted::Join { .. } => return,
        };
        self.remove_request(idx);
        self.establish(
            now,
            &request.tuple,
            request.port,
            request.listener,
            &agreed,
            level,
            segment,
            payload,
        );
    }

    pub(super) fn agreed(&self, now: Instant, request: &Request, segment: &Segment) -> Agreed {
        request.agreed(now, segment, self.rcv_wscale, self.initial_window())
    }

    /// What the segment that answers our `MP_CAPABLE` makes of the connection. `None` while that is
    /// open: the third ACK was lost, and what came in its place came before the first data, which
    /// has the keys, or shows with a DSS that options pass.
    fn third_ack(
        &mut self,
        now: Instant,
        request: &Request,
        version: Version,
        (own, remote_key): (&OwnKey, u64),
        segment: &Segment,
    ) -> Option<Level> {
        let checksum = request.flags.contains(RequestFlags::CHECKSUM);
        let first = segment.seq == request.irs.add(1);
        // Linux sends the text of its SYN again without a mapping, and numbers what it shows its keys with as if that
        // had been taken: in front of the text keys count (RFC 8684 figure 20), behind it they say nothing.
        let behind_text =
            version == Version::V1 && request.flags.contains(RequestFlags::TEXT) && !first;
        let shown = if behind_text {
            Shown::Nothing
        } else {
            self.shown_keys(version, [own.key, remote_key], checksum, segment)
        };
        match shown {
            Shown::Keys(agreed) => return Some(Level::Mptcp(agreed, *own)),
            Shown::Wrong => {}
            Shown::Nothing => {
                // Linux does not always repeat its keys: patience ends in plain TCP, which it follows.
                let patient = request.keyless < MAX_KEYLESS || !keys_overdue(now, request);
                let (early, options) = (segment.len > 0 && !first, segment.options.as_bytes());
                let unmapped = segment.len > 0 && first && !options::maps_text(options);
                if patient && !unmapped && (early || behind_text || options::has_dss(options)) {
                    return None;
                }
            }
        }
        self.stats.mp_capable_fallback_ack += 1;
        Some(Level::Plain(Some(FallbackReason::AckWithoutCapable)))
    }

    /// What a segment that may be the third ACK shows of the keys, ours first in `keys`, the peer's 0
    /// while it is not known; `checksum` when checksums are agreed on already.
    pub(in crate::stack) fn shown_keys(
        &mut self,
        version: Version,
        [local_key, remote_key]: [u64; 2],
        checksum: bool,
        segment: &Segment,
    ) -> Shown {
        let options = segment.options.as_bytes();
        let client = false;
        if let Handshake::Capable(capable) = options::handshake(options)
            && let CapableForm::Keys { sender, receiver }
            | CapableForm::Data { sender, receiver, .. } = capable.form
        {
            let asked = capable.flags.contains(CapableFlags::CHECKSUM);
            let refused = asked && self.config.mptcp.checksum == ChecksumPolicy::Refuse;
            let known = remote_key == 0 || remote_key == sender;
            let confirmed = options::confirms(&capable, version);
            let agreed = confirmed && receiver == local_key && sender != 0 && known;
            if !agreed || refused {
                return Shown::Wrong;
            }
            self.stats.mp_capable_ack_rx += 1;
            let keys = KeyPair { local: local_key, remote: sender };
            let checksum = checksum || asked;
            return Shown::Keys(Negotiated { version, client, keys, checksum });
        }
        if version == Version::V0 && options::speaks_mptcp(options) {
            // Both keys are known from the SYNs, and options pass: nothing is missing (RFC 6824 §3.1
            // read as deployed kernels do, which show the keys once).
            let keys = KeyPair { local: local_key, remote: remote_key };
            return Shown::Keys(Negotiated { version, client, keys, checksum });
        }
        Shown::Nothing
    }
}

/// What the third ACK, or what came in its place, says about keys.
pub(in crate::stack) enum Shown {
    Keys(Negotiated),
    /// Keys of something else, or a checksum that we refuse.
    Wrong,
    Nothing,
}

/// Whether the peer had the time to answer the SYN/ACK that last asked for its keys.
fn keys_overdue(now: Instant, request: &Request) -> bool {
    request.keyless.checked_sub(1).is_none_or(|asked| {
        now.since(request.sent_at) >= KEYLESS_WAIT * (1 << u32::from(asked.min(MAX_KEYLESS)))
    })
}
