//! Passive opens: listeners, pending requests, SYN cookies, joins by token (RFC 9293 §3.10.7.2,
//! RFC 4987, RFC 8684 §3.1 and §3.2).
//!
//! Invariant: a SYN costs at most one request entry; a control block exists only once the third ACK
//! (and for a join its HMAC) proved the peer is there.

use super::demux::{Flow, Node};
use super::options::{self, Handshake};
use super::{Ready, Sock, Stack, env};
use crate::buf::{PacketBuf, PortId};
use crate::config::ChecksumPolicy;
use crate::mptcp::key::{self, KeyPair, ReceivedHmac};
use crate::mptcp::{Connection, FallbackReason, Negotiated, Paths, Phase, Stage, Subflow};
use crate::seq::SeqNum;
use crate::stats::DropReason;
use crate::tcp::isn::{decode_ts, encode_ts};
use crate::tcp::request::{Request, RequestFlags, Wanted};
use crate::tcp::{Agreed, Segment, Stateless, Tcb, Tuple, mss_for};
use crate::time::{Duration, Instant};
use crate::wire::{
    CapableFlags, CapableForm, MpCapable, MpJoin, MptcpOption, OptionWriter, TcpFlags, TcpOption,
    Version, reset_reason,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First retransmission of a SYN/ACK (RFC 6298 §2.1), doubling.
const SYN_ACK_RTO: Duration = Duration::from_secs(1);
/// Segments without keys that are waited out before the peer is taken at its word: plain TCP.
const MAX_KEYLESS: u8 = 3;
/// Keys drawn at most in search of a free token in our bucket.
const KEY_TRIES: u32 = 64;

impl<B: PacketBuf> Stack<B> {
    pub(super) fn find_listener(&self, local: SocketAddr) -> Option<u32> {
        let unspecified: IpAddr = match local.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let any = SocketAddr::new(unspecified, local.port());
        self.listening.get(&local).or_else(|| self.listening.get(&any)).copied()
    }

    /// A segment whose 4-tuple is unknown.
    pub(super) fn listener_segment(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
    ) {
        if segment.has(TcpFlags::RST) {
            return self.stats.drop(DropReason::NoSocket);
        }
        if segment.has(TcpFlags::SYN) && !segment.has(TcpFlags::ACK) {
            return self.syn_arrives(now, tuple, port, segment);
        }
        let listener = self.find_listener(tuple.local());
        if let Some(listener) = listener
            && segment.has(TcpFlags::ACK)
            && !segment.has(TcpFlags::SYN)
            && self.cookie_ack(now, listener, tuple, port, segment, payload)
        {
            return;
        }
        let cookie = self.stats.syncookies_sent > 0 && segment.has(TcpFlags::ACK);
        self.stats.drop(match listener {
            Some(_) if cookie && !segment.has(TcpFlags::SYN) => DropReason::SynCookie,
            Some(_) => DropReason::ListenerState,
            None => DropReason::NoSocket,
        });
        self.reply_rst(now, tuple, port, segment);
    }

    fn syn_arrives(&mut self, now: Instant, tuple: &Tuple, port: PortId, segment: &Segment) {
        let handshake = options::handshake(segment.options.as_bytes());
        if let Handshake::Join(MpJoin::Syn { backup, address_id, token, nonce }) = handshake {
            let join = JoinSyn { backup, address_id, token, nonce };
            return self.join_arrives(now, tuple, port, segment, &join);
        }
        let Some(listener) = self.find_listener(tuple.local()) else {
            self.stats.drop(DropReason::NoSocket);
            return self.reply_rst(now, tuple, port, segment);
        };
        if segment.has(TcpFlags::FIN) {
            return self.stats.drop(DropReason::ListenerState);
        }
        let Some(entry) = self.listeners.get(listener) else { return };
        let options = entry.options;
        let capable = match handshake {
            Handshake::Capable(capable) if options.mptcp => match self.usable_capable(&capable) {
                Capable::Use(version) => Some((version, capable)),
                Capable::Ignore => None,
                Capable::Silence => {
                    return self.stats.drop(DropReason::MpCapableExtensibility);
                }
            },
            _ => None,
        };
        if self.requests.len() == self.requests.capacity() {
            return self.send_cookie(now, tuple, port, segment, options.deferred);
        }
        let wanted = match capable {
            Some((version, _)) => {
                self.stats.mp_capable_syn_rx += 1;
                match self.draw_key(version) {
                    Some(local_key) => Wanted::Capable { version, local_key },
                    None => Wanted::Plain,
                }
            }
            None => Wanted::Plain,
        };
        let mut request = self.request(now, tuple, port, segment, listener, wanted);
        if let Some((_, capable)) = capable {
            let asked = capable.flags.contains(CapableFlags::CHECKSUM);
            let ask = self.config.mptcp.checksum == ChecksumPolicy::Require;
            request.flags.set(RequestFlags::CHECKSUM, asked || ask);
            request.flags.set(RequestFlags::ASK_CHECKSUM, asked || ask);
        }
        request.flags.set(RequestFlags::DEFERRED, options.deferred);
        self.add_request(now, request);
    }

    /// What to do about an `MP_CAPABLE` SYN (RFC 8684 §3.1).
    fn usable_capable(&self, capable: &MpCapable) -> Capable {
        // Any version from 1 on has the short form and is answered with the highest one of ours.
        let version = match (capable.version, capable.form) {
            (1.., CapableForm::Syn) => Version::V1,
            (0, CapableForm::Key(_)) => Version::V0,
            _ => return Capable::Ignore,
        };
        if !self.config.mptcp.versions.contains(&version) {
            return Capable::Ignore;
        }
        if capable.flags.contains(CapableFlags::EXTENSIBILITY) {
            return match version {
                Version::V0 => Capable::Silence,
                Version::V1 => Capable::Ignore,
            };
        }
        let checksum = capable.flags.contains(CapableFlags::CHECKSUM);
        let refused = checksum && self.config.mptcp.checksum == ChecksumPolicy::Refuse;
        if refused || !capable.flags.contains(CapableFlags::HMAC) {
            return Capable::Ignore;
        }
        Capable::Use(version)
    }

    /// A key whose token is free and belongs to this shard; `None` after too many tries.
    pub(super) fn draw_key(&mut self, version: Version) -> Option<u64> {
        for _ in 0..KEY_TRIES {
            let key = self.rng.next_u64();
            let token = key::token(version, key);
            let free = key != 0
                && token != 0
                && token & self.config.token_mask == self.config.token_value
                && self.demux.connection_of(token).is_none();
            if free {
                return Some(key);
            }
        }
        self.stats.mp_fallback_token_init += 1;
        None
    }

    fn request(
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
        Request {
            tuple: *tuple,
            port,
            flags,
            snd_wscale: segment.window_scale.unwrap_or(255),
            retries: 0,
            keyless: 0,
            peer_mss: segment.mss.unwrap_or(0),
            local_mss: mss_for(self.mtu_of(tuple.local_addr), &tuple.remote_addr),
            iss: self.isn.isn(now, tuple.local(), tuple.remote()),
            irs: segment.seq,
            ts_recent: segment.timestamps.map_or(0, |(tsval, _)| tsval),
            listener,
            next: now,
            sent_at: now,
            wanted,
        }
    }

    /// A request that takes the place of an earlier incarnation starts above everything that one
    /// sent (RFC 1122 §4.2.2.13), which the clock of RFC 6528 alone does not promise.
    pub(super) fn raise_iss(&mut self, tuple: &Tuple, snd_nxt: SeqNum) {
        if let Some(Flow::Request(idx)) = self.demux.find(tuple)
            && let Some(request) = self.requests.get_mut(idx)
            && request.iss.le(snd_nxt)
        {
            request.iss = snd_nxt.add(1 << 16);
        }
    }

    /// Files a request and, unless the application decides first, sends its SYN/ACK.
    fn add_request(&mut self, now: Instant, request: Request) {
        let deferred = request.flags.contains(RequestFlags::DEFERRED);
        let (tuple, listener) = (request.tuple, request.listener);
        let Some(idx) = self.requests.insert(request) else {
            return self.stats.drop(DropReason::RequestQueueFull);
        };
        self.demux.insert(&tuple, Flow::Request(idx));
        if deferred {
            if !self.offer(listener, Sock::Request(idx)) {
                // Nobody would ever decide about it.
                self.remove_request(idx);
                return self.stats.drop(DropReason::AcceptQueueFull);
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
    }

    /// Queues the SYN/ACK and arms its retransmission.
    pub(super) fn send_syn_ack_at(&mut self, now: Instant, idx: u32) {
        let Some(request) = self.requests.get_mut(idx) else { return };
        request.next = now + SYN_ACK_RTO * (1 << u32::from(request.retries.min(6)));
        request.sent_at = now;
        let next = request.next;
        self.want_transmit(Node::Request(idx));
        self.arm(Node::Request(idx), Some(next));
    }

    /// Puts a connection or request into a listener's accept queue; false when it is full.
    fn offer(&mut self, listener: u32, sock: Sock) -> bool {
        let backlog = self.config.limits.backlog as usize;
        let Some(entry) = self.listeners.get_mut(listener) else { return false };
        if entry.queue.len() >= backlog {
            self.stats.listen_overflows += 1;
            return false;
        }
        entry.queue.push_back(sock);
        entry.pending |= Ready::ACCEPT;
        self.events.push_back(self.numbering.number(Node::Listener(listener)));
        true
    }

    fn initial_window(&self) -> u32 {
        self.config.tcp.recv_buffer_initial.min(self.config.tcp.recv_buffer_max).min(65_535)
    }

    fn timestamp_offset(&self, request: &Request) -> u32 {
        self.isn.timestamp_offset(request.tuple.local(), request.tuple.remote())
    }

    /// The SYN/ACK of a pending request.
    pub(super) fn syn_ack(&self, now: Instant, idx: u32) -> Option<Stateless> {
        let request = self.requests.get(idx)?;
        let mut options = OptionWriter::new();
        options::push_tcp(&mut options, &TcpOption::MaxSegmentSize(request.local_mss));
        if request.flags.contains(RequestFlags::SACK) {
            options::push_tcp(&mut options, &TcpOption::SackPermitted);
        }
        if request.flags.contains(RequestFlags::TIMESTAMPS) {
            let offset = self.timestamp_offset(request);
            let tsval = (now.as_millis() as u32).wrapping_add(offset);
            options::push_tcp(
                &mut options,
                &TcpOption::Timestamps { tsval, tsecr: request.ts_recent },
            );
        }
        if request.snd_wscale != 255 {
            options::push_tcp(&mut options, &TcpOption::WindowScale(self.rcv_wscale));
        }
        match request.wanted {
            Wanted::Plain => {}
            Wanted::Capable { version, local_key } => {
                let checksum = request.flags.contains(RequestFlags::ASK_CHECKSUM);
                options::push_capable_syn_ack(&mut options, version, local_key, checksum);
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
        Some(Stateless {
            tuple: request.tuple,
            port: request.port,
            seq: request.iss,
            ack: request.irs.add(1),
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: self.initial_window() as u16,
            options,
        })
    }

    fn endpoint_backup(&self, addr: core::net::IpAddr) -> bool {
        self.local_address(addr).is_some_and(|local| local.backup)
    }

    pub(super) fn request_timeout(&mut self, now: Instant, idx: u32) {
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
            self.remove_request(idx);
            return;
        }
        self.stats.retrans_segs += 1;
        self.send_syn_ack_at(now, idx);
    }

    pub(super) fn remove_request(&mut self, idx: u32) {
        let Some(request) = self.requests.remove(idx) else { return };
        let number = self.numbering.number(Node::Request(idx));
        self.wheel.cancel(number);
        self.tx.remove(number);
        self.demux.remove(&request.tuple, Flow::Request(idx));
        if let Wanted::Join { connection, .. } = request.wanted
            && let Some(owner) = self.connections.get_mut(connection)
        {
            owner.half_open = owner.half_open.saturating_sub(1);
            self.reap_connection(connection);
        }
        if request.flags.contains(RequestFlags::OFFERED)
            && let Some(listener) = self.listeners.get_mut(request.listener)
        {
            listener.queue.retain(|sock| *sock != Sock::Request(idx));
        }
    }

    /// A segment for a pending request (RFC 9293 SYN-RECEIVED).
    pub(super) fn request_segment(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        payload: B,
    ) {
        let Some(request) = self.requests.get(idx).copied() else { return };
        let expected = request.irs.add(1);
        if segment.has(TcpFlags::RST) {
            if segment.seq == expected {
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
            if again && !request.flags.contains(RequestFlags::DEFERRED) {
                return self.syn_again(idx, segment);
            }
            self.stats.drop(DropReason::UnexpectedSyn);
            return self.challenge_request(now, &request);
        }
        if request.flags.contains(RequestFlags::DEFERRED) || !segment.has(TcpFlags::ACK) {
            return self.stats.drop(DropReason::NoAck);
        }
        if segment.ack != request.iss.add(1) {
            self.stats.drop(DropReason::AckRange);
            return self.reply_rst(now, &request.tuple, request.port, segment);
        }
        let ahead = segment.seq.diff(expected);
        if ahead < 0 || ahead.cast_unsigned() > self.initial_window() {
            self.stats.drop(DropReason::OutOfWindow);
            return self.want_transmit(Node::Request(idx));
        }
        if let (Some((tsval, _)), true) =
            (segment.timestamps, request.flags.contains(RequestFlags::TIMESTAMPS))
            && tsval.wrapping_sub(request.ts_recent).cast_signed() < 0
        {
            return self.stats.drop(DropReason::Paws);
        }
        self.complete_request(now, idx, &request, segment, payload);
    }

    /// RFC 5961 §3 and §4 before the handshake is over. A deferred request was not answered yet, and
    /// is not answered here either.
    fn challenge_request(&mut self, now: Instant, request: &Request) {
        if request.flags.contains(RequestFlags::DEFERRED) {
            return;
        }
        self.stats.tcp_challenge_ack += 1;
        let mut options = OptionWriter::new();
        if request.flags.contains(RequestFlags::TIMESTAMPS) {
            let offset = self.timestamp_offset(request);
            let tsval = (now.as_millis() as u32).wrapping_add(offset);
            options::push_tcp(
                &mut options,
                &TcpOption::Timestamps { tsval, tsecr: request.ts_recent },
            );
        }
        let shift = if request.snd_wscale == 255 { 0 } else { self.rcv_wscale };
        self.reply(
            now,
            Stateless {
                tuple: request.tuple,
                port: request.port,
                seq: request.iss.add(1),
                ack: request.irs.add(1),
                flags: TcpFlags::ACK,
                window: (self.initial_window() >> shift) as u16,
                options,
            },
        );
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
            if matches!(request.wanted, Wanted::Capable { .. }) && !capable {
                request.wanted = Wanted::Plain;
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
        let agreed = self.agreed(now, request);
        let level = match request.wanted {
            Wanted::Capable { version, local_key } => {
                match self.third_ack(request, version, local_key, segment) {
                    Some(level) => level,
                    None => {
                        self.stats.drop(DropReason::MpCapableMissing);
                        if let Some(request) = self.requests.get_mut(idx) {
                            request.keyless = request.keyless.saturating_add(1);
                        }
                        return self.want_transmit(Node::Request(idx));
                    }
                }
            }
            _ => Level::Plain(None),
        };
        let full = self.accept_queue_full(request.listener)
            || self.tcbs.len() == self.tcbs.capacity()
            || self.sockets_full();
        if full {
            // The request stays: the peer will repeat its ACK when there is room.
            return self.stats.drop(DropReason::AcceptQueueFull);
        }
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

    fn agreed(&self, now: Instant, request: &Request) -> Agreed {
        let ts_offset = self.timestamp_offset(request);
        request.agreed(now, self.rcv_wscale, ts_offset, self.initial_window())
    }

    /// What the segment that answers our `MP_CAPABLE` makes of the connection. `None` while that is
    /// open: the third ACK was lost, and what came in its place came before the first data, which
    /// has the keys, or shows with a DSS that options pass.
    fn third_ack(
        &mut self,
        request: &Request,
        version: Version,
        local_key: u64,
        segment: &Segment,
    ) -> Option<Level> {
        if let Handshake::Capable(MpCapable {
            form:
                CapableForm::Keys { sender, receiver } | CapableForm::Data { sender, receiver, .. },
            flags,
            ..
        }) = options::handshake(segment.options.as_bytes())
        {
            let asked = flags.contains(CapableFlags::CHECKSUM);
            let refused = asked && self.config.mptcp.checksum == ChecksumPolicy::Refuse;
            if receiver == local_key && sender != 0 && !refused {
                self.stats.mp_capable_ack_rx += 1;
                let checksum = request.flags.contains(RequestFlags::CHECKSUM) || asked;
                let keys = KeyPair { local: local_key, remote: sender };
                return Some(Level::Mptcp(Negotiated { version, client: false, keys, checksum }));
            }
        } else {
            // Linux does not always repeat its keys: patience ends in plain TCP, which it follows.
            let patient = request.keyless < MAX_KEYLESS;
            let early = segment.len > 0 && segment.seq != request.irs.add(1);
            if patient && (early || options::has_dss(segment.options.as_bytes())) {
                return None;
            }
        }
        self.stats.mp_capable_fallback_ack += 1;
        self.stats.fallback += 1;
        Some(Level::Plain(Some(FallbackReason::AckWithoutCapable)))
    }

    fn accept_queue_full(&self, listener: u32) -> bool {
        let backlog = self.config.limits.backlog as usize;
        self.listeners.get(listener).is_none_or(|l| l.queue.len() >= backlog)
    }

    /// `limits.connections` counts what an application can hold.
    pub(super) fn sockets_full(&self) -> bool {
        self.plain_count + self.connections.len() >= self.config.limits.connections
    }

    /// Makes the control block (and the connection) of a finished passive open and feeds it the
    /// segment that finished it.
    #[expect(clippy::too_many_arguments, reason = "everything a handshake decided")]
    fn establish(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        listener: u32,
        agreed: &Agreed,
        level: Level,
        segment: &Segment,
        payload: B,
    ) {
        let Some(user_data) = self.listeners.get(listener).map(|l| l.options.user_data) else {
            return;
        };
        let env = env!(self, now);
        let mut tcb = Tcb::accepted(&env, *tuple, port, agreed);
        tcb.app.user_data = user_data;
        let Some(tcb_idx) = self.tcbs.insert(tcb) else {
            return self.stats.drop(DropReason::ConnectionLimit);
        };
        self.demux.insert(tuple, Flow::Tcb(tcb_idx));
        self.stats.passive_opens += 1;
        let sock = match level {
            Level::Plain(fallback) => {
                self.plain_count += 1;
                if let Some(tcb) = self.tcbs.get_mut(tcb_idx) {
                    tcb.app.fallback = fallback;
                }
                Sock::Plain(tcb_idx)
            }
            Level::Mptcp(negotiated) => {
                let mut connection =
                    Connection::new(&self.config.tcp, &negotiated, *tuple, Paths::default());
                connection.app.user_data = user_data;
                connection.set_scheduling(now, &self.config.mptcp.scheduling);
                connection.advertised(agreed.window);
                connection.subflows.push(tcb_idx);
                let id = connection.new_subflow_id();
                let token = connection.local_token;
                let Some(idx) = self.connections.insert(connection) else {
                    self.remove_tcb(tcb_idx);
                    return self.stats.drop(DropReason::ConnectionLimit);
                };
                self.demux.insert_token(token, idx);
                self.stats.mp_curr_estab += 1;
                let mut subflow = Subflow::new(idx, id, negotiated.version, Stage::Active);
                subflow.set_format(false, negotiated.checksum);
                if let Some(tcb) = self.tcbs.get_mut(tcb_idx) {
                    tcb.subflow = Some(alloc::boxed::Box::new(subflow));
                    tcb.refresh_mss();
                }
                Sock::Mptcp(idx)
            }
        };
        self.offer(listener, sock);
        self.tcb_segment(now, tcb_idx, segment, payload);
    }

    // Joins.

    /// An `MP_JOIN` SYN, on whatever port: the token says whose it is (RFC 8684 §3.2).
    fn join_arrives(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        join: &JoinSyn,
    ) {
        self.stats.mp_join_syn_rx += 1;
        let Some(connection_idx) = self.demux.connection_of(join.token) else {
            self.stats.mp_join_no_token_found += 1;
            self.stats.drop(DropReason::JoinToken);
            return self.refuse_join(
                now,
                tuple,
                port,
                segment,
                reset_reason::MPTCP_SPECIFIC,
                false,
            );
        };
        let max_half_open = self.config.mptcp.max_half_open_joins;
        let max_subflows = usize::from(self.config.mptcp.max_subflows);
        let Some(connection) = self.connections.get(connection_idx) else { return };
        let refusal = if connection.phase == Phase::Unconfirmed {
            Some((reset_reason::PROHIBITED, true))
        } else if connection.phase != Phase::Confirmed || connection.finished() {
            Some((reset_reason::MPTCP_SPECIFIC, false))
        } else if connection.subflows.len() + usize::from(connection.half_open) >= max_subflows {
            Some((reset_reason::PROHIBITED, false))
        } else if connection.half_open >= max_half_open
            || self.requests.len() == self.requests.capacity()
        {
            Some((reset_reason::LACK_OF_RESOURCES, true))
        } else {
            None
        };
        if let Some((reason, transient)) = refusal {
            self.stats.mp_join_rejected += 1;
            self.stats.drop(DropReason::JoinRefused);
            return self.refuse_join(now, tuple, port, segment, reason, transient);
        }
        if join.backup {
            self.stats.mp_join_syn_backup_rx += 1;
        }
        let first = connection.first.local_addr;
        let local_id = if tuple.local_addr == first {
            0
        } else {
            self.address_id(tuple.local_addr).unwrap_or(0)
        };
        let wanted = Wanted::Join {
            connection: connection_idx,
            local_nonce: self.rng.next_u32(),
            remote_nonce: join.nonce,
            remote_id: join.address_id,
            local_id,
        };
        let mut request = self.request(now, tuple, port, segment, u32::MAX, wanted);
        request.flags.set(RequestFlags::BACKUP, join.backup);
        if let Some(connection) = self.connections.get_mut(connection_idx) {
            connection.half_open += 1;
        }
        self.add_request(now, request);
    }

    fn refuse_join(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        reason: u8,
        transient: bool,
    ) {
        let mut options = OptionWriter::new();
        options::push_reset(&mut options, reason, transient);
        self.stats.mp_rst_tx += 1;
        self.reply_rst_with(now, tuple, port, segment, options);
    }

    /// The third ACK of a join: its HMAC decides.
    fn complete_join(
        &mut self,
        now: Instant,
        idx: u32,
        request: &Request,
        segment: &Segment,
        payload: B,
    ) {
        let Wanted::Join { connection: owner, local_nonce, remote_nonce, remote_id, local_id } =
            request.wanted
        else {
            return;
        };
        let Some(connection) = self.connections.get(owner) else {
            return self.remove_request(idx);
        };
        let expected =
            connection.keys.expected_join_hmac(connection.version, local_nonce, remote_nonce);
        let verified = match options::handshake(segment.options.as_bytes()) {
            Handshake::Join(MpJoin::Ack { hmac }) => {
                self.stats.mp_join_ack_rx += 1;
                let verified = key::verify_join(&expected, ReceivedHmac::Full(&hmac));
                if verified.is_none() {
                    self.stats.mp_join_ack_hmac_failure += 1;
                }
                verified
            }
            _ => {
                self.stats.mp_join_ack_missing += 1;
                None
            }
        };
        let version = connection.version;
        let alive = connection.phase == Phase::Confirmed;
        self.remove_request(idx);
        if verified.is_none() || !alive {
            self.stats.drop(DropReason::JoinHmac);
            let reason = reset_reason::MPTCP_SPECIFIC;
            return self.refuse_join(now, &request.tuple, request.port, segment, reason, false);
        }
        let agreed = self.agreed(now, request);
        let env = env!(self, now);
        let mut tcb = Tcb::accepted(&env, request.tuple, request.port, &agreed);
        let local_backup = self.endpoint_backup(request.tuple.local_addr);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let mut subflow = Subflow::new(owner, connection.new_subflow_id(), version, Stage::Active);
        subflow.local_id = local_id;
        subflow.remote_id = remote_id;
        subflow.backup = request.flags.contains(RequestFlags::BACKUP);
        subflow.local_backup = local_backup;
        subflow.set_format(connection.wide(), connection.checksum);
        tcb.subflow = Some(alloc::boxed::Box::new(subflow));
        tcb.refresh_mss();
        // The fourth ACK (RFC 8684 §3.2).
        tcb.ack_now();
        let Some(tcb_idx) = self.tcbs.insert(tcb) else {
            self.stats.mp_join_rejected += 1;
            let reason = reset_reason::LACK_OF_RESOURCES;
            return self.refuse_join(now, &request.tuple, request.port, segment, reason, true);
        };
        self.demux.insert(&request.tuple, Flow::Tcb(tcb_idx));
        connection.subflows.push(tcb_idx);
        connection.multipath = true;
        connection.survives();
        self.tcb_segment(now, tcb_idx, segment, payload);
        self.touch_connection(owner);
    }

    // SYN cookies.

    /// The request queue is full: the SYN/ACK carries everything we need to remember. Only plain
    /// TCP is offered.
    fn send_cookie(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        deferred: bool,
    ) {
        if deferred {
            return self.stats.drop(DropReason::RequestQueueFull);
        }
        self.stats.syncookies_sent += 1;
        let default = if tuple.remote_addr.is_ipv4() { 536 } else { 1220 };
        let mss = segment.mss.unwrap_or(default);
        let local = tuple.local();
        let iss = self.cookies.make(now, local, tuple.remote(), segment.seq, mss);
        let mut options = OptionWriter::new();
        let local_mss = mss_for(self.mtu_of(tuple.local_addr), &tuple.remote_addr);
        options::push_tcp(&mut options, &TcpOption::MaxSegmentSize(local_mss));
        if let (Some((tsval, _)), true) = (segment.timestamps, self.config.tcp.timestamps) {
            let sack = segment.sack_permitted && self.config.tcp.sack;
            if sack {
                options::push_tcp(&mut options, &TcpOption::SackPermitted);
            }
            let ours = encode_ts(now.as_millis() as u32, segment.window_scale, sack);
            options::push_tcp(&mut options, &TcpOption::Timestamps { tsval: ours, tsecr: tsval });
            if segment.window_scale.is_some() {
                options::push_tcp(&mut options, &TcpOption::WindowScale(self.rcv_wscale));
            }
        }
        self.reply(
            now,
            Stateless {
                tuple: *tuple,
                port,
                seq: iss,
                ack: segment.seq.add(1),
                flags: TcpFlags::SYN | TcpFlags::ACK,
                window: self.initial_window() as u16,
                options,
            },
        );
    }

    /// An ACK out of nowhere may answer a cookie. True when it did.
    fn cookie_ack(
        &mut self,
        now: Instant,
        listener: u32,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
    ) -> bool {
        if self.stats.syncookies_sent == 0 {
            return false;
        }
        let (irs, iss) = (segment.seq.sub(1), segment.ack.sub(1));
        let Some(mss) = self.cookies.check(now, tuple.local(), tuple.remote(), irs, iss) else {
            self.stats.syncookies_failed += 1;
            return false;
        };
        if self.accept_queue_full(listener)
            || self.tcbs.len() == self.tcbs.capacity()
            || self.sockets_full()
        {
            self.stats.drop(DropReason::AcceptQueueFull);
            return true;
        }
        self.stats.syncookies_recv += 1;
        let (snd_wscale, sack) = match segment.timestamps {
            Some((_, tsecr)) if self.config.tcp.timestamps => decode_ts(tsecr),
            _ => (None, false),
        };
        let agreed = Agreed {
            iss,
            irs,
            peer_mss: Some(mss),
            local_mss: mss_for(self.mtu_of(tuple.local_addr), &tuple.remote_addr),
            snd_wscale,
            rcv_wscale: self.rcv_wscale,
            sack,
            ts_recent: segment.timestamps.map(|(tsval, _)| tsval),
            ts_offset: 0,
            window: self.initial_window(),
            rtt: None,
            syn_ack_lost: false,
        };
        let level = Level::Plain(None);
        self.establish(now, tuple, port, listener, &agreed, level, segment, payload);
        true
    }
}

/// What an `MP_CAPABLE` SYN deserves.
enum Capable {
    Use(Version),
    /// As if the option was not there.
    Ignore,
    /// No answer at all (RFC 6824 §3.1, B bit).
    Silence,
}

/// What a finished passive open is.
enum Level {
    /// TCP, and why when MPTCP was offered.
    Plain(Option<FallbackReason>),
    Mptcp(Negotiated),
}

/// Fields of an `MP_JOIN` SYN.
struct JoinSyn {
    backup: bool,
    address_id: u8,
    token: u32,
    nonce: u32,
}
