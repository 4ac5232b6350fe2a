//! Passive opens: listeners, SYNs by what they offer, and control blocks once a peer is proven
//! (RFC 9293 §3.10.7.2, RFC 4987, RFC 8684 §3.1).
//!
//! Invariant: a SYN costs at most one request entry; a control block exists only once the third ACK
//! (and for a join its HMAC) proved the peer is there, or a Fast Open cookie did, within a limit.

mod cookie;
mod fast_open;
mod join;
mod request;

use super::demux::{Flow, Node, TokenOwner};
use super::options::{self, Handshake};
use super::{Ready, Sock, Stack, env, unspecified};
use crate::buf::{PacketBuf, PortId};
use crate::config::ChecksumPolicy;
use crate::error::ConnectionError;
use crate::mptcp::key::OwnKey;
use crate::mptcp::{Connection, FallbackReason, Negotiated, Paths, Stage, Subflow};
use crate::stats::DropReason;
use crate::tcp::request::{RequestFlags, Wanted};
use crate::tcp::{Agreed, Segment, Tcb, Tuple};
use crate::time::Instant;
use crate::wire::{CapableFlags, CapableForm, MpCapable, MpJoin, TcpFlags, Version};
use core::net::SocketAddr;
use join::JoinSyn;
pub(super) use request::Shown;

/// Keys drawn at most in search of a free token, for each value of the bits that are prescribed and each shard:
/// with n of them only one in n tokens is ours.
const KEY_TRIES: u32 = 64;
/// More prescribed bits are not made up for: each doubles the hashes a SYN costs.
const MAX_BUCKET_BITS: u32 = 10;

impl<B: PacketBuf> Stack<B> {
    /// Who listens for a segment that came in by `port`.
    pub(super) fn find_listener(&self, tuple: &Tuple, port: PortId) -> Option<u32> {
        let local = tuple.local();
        if self.local_address(local.ip()).is_none() {
            return self.find_transparent(tuple, port);
        }
        let any = SocketAddr::new(unspecified(local.ip()), local.port());
        let found = self.listening.get(&local).or_else(|| self.listening.get(&any)).copied()?;
        let from = self.listeners.get(found)?.options.from;
        from.is_none_or(|peer| peer == tuple.remote_addr).then_some(found)
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
        let passes_by = self.is_foreign(tuple) && self.find_transparent(tuple, port).is_none();
        if passes_by && !self.joins_elsewhere(tuple, segment) {
            self.stats.drop(DropReason::NotOurs);
        } else {
            self.stray_segment(now, tuple, port, segment, payload);
        }
        self.demux.note_stray(tuple);
    }

    fn stray_segment(
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
            return self.syn_arrives(now, tuple, port, segment, payload);
        }
        let listener = self.find_listener(tuple, port);
        if listener.is_some() && !segment.has(TcpFlags::ACK) {
            return self.stats.drop(DropReason::ListenerState);
        }
        if let Some(listener) = listener
            && !segment.has(TcpFlags::SYN)
            && self.cookie_ack(now, listener, tuple, port, segment, payload)
        {
            return;
        }
        self.stats.drop(match listener {
            Some(_) if self.cookie_expected(now) && !segment.has(TcpFlags::SYN) => {
                DropReason::SynCookie
            }
            Some(_) => DropReason::ListenerState,
            None => DropReason::NoSocket,
        });
        self.reply_rst(now, tuple, port, segment);
    }

    fn syn_arrives(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
    ) {
        let handshake = options::handshake(segment.options.as_bytes());
        if let Handshake::Join(MpJoin::Syn { backup, address_id, token, nonce }) = handshake
            && self.speaks_mptcp()
        {
            let join = JoinSyn { backup, address_id, token, nonce };
            return self.join_arrives(now, tuple, port, segment, &join);
        }
        let Some(listener) = self.find_listener(tuple, port) else {
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
                Capable::Use(version) => Ok((version, capable)),
                Capable::Ignore(reason) => Err(Some(reason)),
                Capable::Silence => {
                    return self.stats.drop(DropReason::MpCapableExtensibility);
                }
            },
            Handshake::Contradictory if options.mptcp => {
                Err(Some(FallbackReason::ContradictoryOptions))
            }
            _ => Err(options.mptcp.then_some(FallbackReason::SynWithoutCapable)),
        };
        let full = self.requests.len() >= self.requests.capacity() - self.join_reserve();
        let unproven = entry.deferred.saturating_add(entry.fast_open.pending());
        let undecided = full || unproven >= self.max_deferred();
        let waits = options.deferred && (segment.len > 0 || !options.only_text);
        let may_pass = options.only_text || options.or_at_once;
        let deferred = waits && !(may_pass && (undecided || self.pool.is_low()));
        if deferred && undecided {
            return self.stats.drop(DropReason::RequestQueueFull);
        }
        if full {
            return self.send_cookie(now, tuple, port, segment, capable.ok());
        }
        let wanted = match capable {
            Ok((version, capable)) => {
                self.stats.mp_capable_syn_rx += 1;
                let remote_key = match capable.form {
                    CapableForm::Key(key) => key,
                    _ => 0,
                };
                match self.draw_key(version) {
                    Some(own) => Wanted::Capable { version, own, remote_key },
                    None => Wanted::Plain(Some(FallbackReason::NoToken)),
                }
            }
            Err(reason) => Wanted::Plain(reason),
        };
        let mut request = self.request(now, tuple, port, segment, listener, wanted);
        if let Ok((_, capable)) = capable {
            let checksum = self.wants_checksum(capable.flags);
            request.flags.set(RequestFlags::CHECKSUM, checksum);
            request.flags.set(RequestFlags::ASK_CHECKSUM, checksum);
        }
        request.flags.set(RequestFlags::DEFERRED, deferred);
        if deferred {
            if let Some(idx) = self.add_request(now, request) {
                self.keep_deferred(idx, segment, payload);
            }
            return;
        }
        if options.fast_open > 0
            && !options.deferred
            && self.fast_open(now, &mut request, segment, payload)
        {
            return;
        }
        let _filed = self.add_request(now, request);
    }

    /// Its options mean something here (RFC 9293 §3.1: those that nobody knows are ignored).
    pub(super) fn speaks_mptcp(&self) -> bool {
        !self.config.mptcp.versions.is_empty()
    }

    /// Entries that only joins may take: there is no cookie for a join, and its token has shown that
    /// it belongs to a connection.
    fn join_reserve(&self) -> u32 {
        self.requests.capacity() / 8
    }

    /// Requests an application may leave undecided per listener: they live long.
    fn max_deferred(&self) -> u32 {
        (self.requests.capacity() / 2).max(1)
    }

    /// What to do about an `MP_CAPABLE` SYN (RFC 8684 §3.1).
    fn usable_capable(&self, capable: &MpCapable) -> Capable {
        // Any version from 1 on has the short form and is answered with the highest one of ours.
        let version = match (capable.version, capable.form) {
            (1.., CapableForm::Syn) => Version::V1,
            (0, CapableForm::Key(key)) if key != 0 => Version::V0,
            _ => return Capable::Ignore(FallbackReason::CapableVersion),
        };
        if !self.config.mptcp.versions.contains(&version) {
            return Capable::Ignore(FallbackReason::CapableVersion);
        }
        if capable.flags.contains(CapableFlags::EXTENSIBILITY) {
            return match version {
                Version::V0 => Capable::Silence,
                Version::V1 => Capable::Ignore(FallbackReason::CapableExtensibility),
            };
        }
        let checksum = capable.flags.contains(CapableFlags::CHECKSUM);
        if checksum && self.config.mptcp.checksum == ChecksumPolicy::Refuse {
            return Capable::Ignore(FallbackReason::ChecksumRefused);
        }
        if !capable.flags.contains(CapableFlags::HMAC) {
            return Capable::Ignore(FallbackReason::CapableAlgorithm);
        }
        Capable::Use(version)
    }

    /// Checksums are used when either side asks for them.
    fn wants_checksum(&self, flags: CapableFlags) -> bool {
        let ask = self.config.mptcp.checksum == ChecksumPolicy::Require;
        ask || flags.contains(CapableFlags::CHECKSUM)
    }

    /// A key's token may be a connection's of this shard.
    fn token_usable(&self, key: u64, token: u32) -> bool {
        key != 0
            && token != 0
            && token & self.config.token_mask == self.config.token_value
            && self.demux.has_token(token)
            && self.demux.token_free(token)
    }

    /// A key whose token is free and belongs to this shard; `None` after too many tries.
    pub(super) fn draw_key(&mut self, version: Version) -> Option<OwnKey> {
        let buckets = 1 << self.config.token_mask.count_ones().min(MAX_BUCKET_BITS);
        for _ in 0..KEY_TRIES * buckets * self.demux.shards() {
            let own = OwnKey::new(version, self.rng.next_u64());
            if self.token_usable(own.key, own.token) {
                return Some(own);
            }
        }
        self.stats.mp_fallback_token_init += 1;
        None
    }

    /// Puts a connection or request into a listener's accept queue; false when it is full.
    fn offer(&mut self, listener: u32, sock: Sock) -> bool {
        let backlog = self.config.limits.backlog as usize;
        let Some(id) = self.socket_id(sock) else { return false };
        let Some(entry) = self.listeners.get_mut(listener) else { return false };
        if entry.waiting() >= backlog {
            self.stats.listen_overflows += 1;
            return false;
        }
        entry.queue.push_back(id);
        entry.pending |= Ready::ACCEPT;
        self.events.push_back(self.numbering.number(Node::Listener(listener)));
        true
    }

    fn initial_window(&self) -> u32 {
        self.config.tcp.recv_buffer_initial.min(self.config.tcp.recv_buffer_max).min(65_535)
    }

    fn accept_queue_full(&self, listener: u32) -> bool {
        let backlog = self.config.limits.backlog as usize;
        self.listeners.get(listener).is_none_or(|l| l.waiting() >= backlog)
    }

    /// `limits.connections` counts what an application can hold.
    pub(super) fn sockets_full(&self) -> bool {
        self.plain_count + self.connections.len() >= self.config.limits.connections
    }

    /// Room for one more, and for its control block. Where there is none, who was closed first and has not ended is
    /// reset: that nobody waits for it any more, and its peer may take its time for ever, keeps nobody out.
    pub(super) fn make_place(&mut self, now: Instant) -> bool {
        while self.sockets_full() || self.tcbs.len() == self.tcbs.capacity() {
            let Some(number) = self.orphans.pop_front() else { return false };
            let error = ConnectionError::Aborted;
            match self.numbering.node(number) {
                Node::Tcb(idx) => self.abort_sock(now, Sock::Plain(idx), error),
                // Its streams may have ended, and subflows that nobody closes be left.
                Node::Connection(idx) => self.abort_connection(now, idx, error),
                Node::Request(_) | Node::Listener(_) | Node::TimeWait(_) | Node::Udp(_) => {}
            }
            self.stats.tcp_abort_on_memory += 1;
        }
        true
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
        let created = self.create(now, tuple, port, listener, agreed, level);
        let Some((sock, tcb_idx)) = created else { return };
        self.offer(listener, sock);
        self.tcb_segment(now, tcb_idx, segment, payload);
    }

    /// The control block (and the connection) of a passive open, not in the accept queue yet: the
    /// socket, and the block's position.
    fn create(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        listener: u32,
        agreed: &Agreed,
        level: Level,
    ) -> Option<(Sock, u32)> {
        let entry = self.listeners.get(listener)?;
        let (user_data, marking) = (entry.options.user_data, entry.marking);
        let congestion = entry.congestion.clone();
        let mut env = env!(self, now);
        let mut tcb = Tcb::accepted(&mut env, *tuple, port, agreed);
        tcb.app.user_data = user_data;
        tcb.marking = marking;
        let fell_back = match level {
            Level::Plain(reason) => reason,
            Level::Mptcp(..) => None,
        };
        let connection = match level {
            Level::Plain(fallback) => {
                tcb.fallback = fallback;
                None
            }
            Level::Mptcp(negotiated, own) => {
                let config = &self.config.tcp;
                let mut connection =
                    Connection::new(config, &negotiated, &own, *tuple, Paths::default());
                connection.app.user_data = user_data;
                connection.marking = marking;
                connection.set_scheduling(now, &self.config.mptcp.scheduling);
                if let Some(choice) = &congestion {
                    connection.set_congestion(choice.clone());
                }
                connection.advertised(agreed.window);
                let (id, token) = (connection.new_subflow_id(&self.tcbs), connection.local_token);
                let format = connection.dss_format();
                let Some(idx) = self.connections.insert(connection) else {
                    self.stats.drop(DropReason::ConnectionLimit);
                    return None;
                };
                let mut subflow = Subflow::new(idx, id, negotiated.version, Stage::Active);
                subflow.set_format(format);
                tcb.subflow = Some(alloc::boxed::Box::new(subflow));
                tcb.refresh_mss();
                Some((idx, token))
            }
        };
        if let Some(choice) = &congestion {
            tcb.set_congestion(now, choice);
        }
        let Some(tcb_idx) = self.tcbs.insert(tcb) else {
            if let Some((idx, _)) = connection {
                self.connections.remove(idx);
            }
            self.stats.drop(DropReason::ConnectionLimit);
            return None;
        };
        self.file_flow(tuple, Flow::Tcb(tcb_idx));
        self.stats.passive_opens += 1;
        let sock = match connection {
            None => {
                self.plain_count += 1;
                Sock::Plain(tcb_idx)
            }
            Some((idx, token)) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.subflows.push(tcb_idx);
                }
                self.demux.insert_token(token, TokenOwner::Connection(idx));
                self.stats.mp_curr_estab += 1;
                Sock::Mptcp(idx)
            }
        };
        self.observe_accepted(listener, sock);
        if let Some(reason) = fell_back {
            self.note_fallback(sock, tuple, reason);
        }
        Some((sock, tcb_idx))
    }
}

/// What an `MP_CAPABLE` SYN deserves.
enum Capable {
    Use(Version),
    /// As if the option was not there.
    Ignore(FallbackReason),
    /// No answer at all (RFC 6824 §3.1, B bit).
    Silence,
}

/// What a finished passive open is.
enum Level {
    /// TCP, and why when MPTCP was offered.
    Plain(Option<FallbackReason>),
    Mptcp(Negotiated, OwnKey),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HeapBuf, HeapPool};
    use crate::config::StackConfig;
    use alloc::boxed::Box;

    /// What is drawn next has the token of a connection, or of a request that waits: it is not shown, another one is.
    #[test]
    fn a_key_whose_token_is_taken_is_drawn_again() {
        let now = Instant::from_nanos(1);
        for version in [Version::V0, Version::V1] {
            for owner in [TokenOwner::Connection(0), TokenOwner::Request(0)] {
                let pool = Box::new(HeapPool::new(1, 1500));
                let mut stack = Stack::<HeapBuf>::new(StackConfig::default(), now, pool);
                stack.demux.insert_token(OwnKey::new(version, 5).token, owner);
                stack.rng.prescribed.0.extend([5, 5, 6]);
                assert_eq!(stack.draw_key(version).map(|own| own.key), Some(6));
                assert_eq!((stack.demux.token_count(), stack.stats.mp_fallback_token_init), (1, 0));
            }
        }
    }
}
