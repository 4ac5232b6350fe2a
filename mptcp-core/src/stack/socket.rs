//! The application's side: opening, accepting, reading, writing, closing, and reports.

use super::demux::{Node, TokenOwner};
use super::ingress::FAIR_SHARE;
use super::{
    Connect, ConnectionInfo, Listen, Listener, Ready, Sock, SocketId, Stack, SubflowInfo, env,
};
use crate::buf::PacketBuf;
use crate::config::Scheduling;
use crate::error::{ConnectionError, OpenError, RecvError, SendError};
use crate::mptcp::key::KeyPair;
use crate::mptcp::{Connection, FallbackReason, Negotiated, Paths, Phase, Signal, Stage, Subflow};
use crate::tcp::request::{RequestFlags, Wanted};
use crate::tcp::{State, Stateless, Tcb, Tuple};
use crate::time::Instant;
use crate::wire::{OptionWriter, TcpFlags, Version};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// Ephemeral ports (RFC 6335 §6, the larger range that servers use).
pub(super) const FIRST_PORT: u16 = 32_768;
pub(super) const PORTS: u32 = 28_232;
/// Ports looked at near the last one.
const PORT_STEPS: u32 = 32;
/// Ports looked at per connection: with 99 in 100 taken, one of 150 attempts fails.
pub(super) const PORT_TRIES: u32 = 500;

impl<B: PacketBuf> Stack<B> {
    /// Listens on `local`, whose address must be one of the stack's or unspecified.
    pub fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError> {
        let known = local.ip().is_unspecified() || self.local_address(local.ip()).is_some();
        if !known || local.port() == 0 {
            return Err(OpenError::BadAddress);
        }
        if self.listening.contains_key(&local) {
            return Err(OpenError::AddressInUse);
        }
        let listener = Listener {
            local,
            options: *options,
            pending: Ready::empty(),
            queue: VecDeque::new(),
            stale: 0,
            deferred: 0,
        };
        let idx = self.listeners.insert(listener).ok_or(OpenError::LimitReached)?;
        self.listening.insert(local, idx);
        self.socket_id(Sock::Listener(idx)).ok_or(OpenError::LimitReached)
    }

    /// Opens a connection; [`Ready::CONNECTED`] or [`Ready::CLOSED`] reports the outcome.
    pub fn connect(&mut self, now: Instant, with: &Connect) -> Result<SocketId, OpenError> {
        if self.local_address(with.local).is_none()
            || with.local.is_ipv4() != with.remote.is_ipv4()
            || crate::tcp::is_no_host(&with.remote.ip())
            || with.remote.port() == 0
        {
            return Err(OpenError::BadAddress);
        }
        if self.sockets_full() {
            self.stats.limit_refused += 1;
            return Err(OpenError::LimitReached);
        }
        let port = if with.local_port == 0 {
            let port = self.free_port(with.local, with.remote);
            port.ok_or(OpenError::PortsExhausted)?
        } else {
            with.local_port
        };
        let tuple = Tuple {
            local_addr: with.local,
            remote_addr: with.remote.ip(),
            local_port: port,
            remote_port: with.remote.port(),
        };
        if !self.tuple_free(&tuple) {
            return Err(OpenError::AddressInUse);
        }
        let served = &self.config.mptcp.versions;
        let version = self.destinations.offer(now, with.remote, served);
        let version = version.filter(|_| with.mptcp);
        let offer = version.and_then(|version| Some((version, self.draw_key(version)?.0)));
        let sock = match offer {
            Some((version, key)) => self.open_mptcp(now, tuple, version, key)?,
            None => Sock::Plain(self.open_tcb(now, tuple, None).ok_or(OpenError::LimitReached)?),
        };
        self.stats.active_opens += 1;
        let untokened = version.is_some() && offer.is_none();
        let fallback = untokened.then_some(FallbackReason::NoToken);
        self.stats.fallback += u64::from(fallback.is_some());
        if let Some(app) = self.app(sock) {
            app.user_data = with.user_data;
            app.fallback = fallback;
        }
        let tcb_idx = match sock {
            Sock::Mptcp(idx) => self.subflows_of(idx).first().copied(),
            Sock::Plain(idx) => Some(idx),
            _ => None,
        };
        if let (Some(idx), Some(timeout)) = (tcb_idx, with.timeout)
            && let Some(tcb) = self.tcbs.get_mut(idx)
        {
            tcb.set_handshake_deadline(now + timeout);
        }
        if let Some(idx) = tcb_idx {
            self.touch_tcb(idx);
        }
        self.socket_id(sock).ok_or(OpenError::LimitReached)
    }

    fn open_mptcp(
        &mut self,
        now: Instant,
        tuple: Tuple,
        version: Version,
        key: u64,
    ) -> Result<Sock, OpenError> {
        let require = self.config.mptcp.checksum == crate::config::ChecksumPolicy::Require;
        let negotiated = Negotiated {
            version,
            client: true,
            keys: KeyPair { local: key, remote: 0 },
            checksum: require,
        };
        let mut connection =
            Connection::new(&self.config.tcp, &negotiated, tuple, Paths::default());
        connection.set_scheduling(now, &self.config.mptcp.scheduling);
        let id = connection.new_subflow_id();
        let token = connection.local_token;
        let owner = self.connections.insert(connection).ok_or(OpenError::LimitReached)?;
        let mut subflow = Subflow::new(owner, id, version, Stage::CapableSyn);
        subflow.ask_checksum = require;
        let Some(tcb_idx) = self.open_tcb(now, tuple, Some(subflow)) else {
            self.connections.remove(owner);
            return Err(OpenError::LimitReached);
        };
        self.demux.insert_token(token, TokenOwner::Connection(owner));
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.subflows.push(tcb_idx);
        }
        self.stats.mp_capable_syn_tx += 1;
        Ok(Sock::Mptcp(owner))
    }

    /// An ephemeral port towards `remote`: by random steps, so that none comes again soon (RFC 6056
    /// §3.3.5). Where TIME-WAIT holds most ports of a destination it is found by chance, or not at
    /// all: a look must not cost more the longer it is in vain.
    pub(super) fn free_port(&mut self, local: IpAddr, remote: SocketAddr) -> Option<u16> {
        for n in 0..PORT_TRIES {
            let step = if n < PORT_STEPS { 1 + self.rng.below(7) } else { self.rng.below(PORTS) };
            self.next_port = (self.next_port + step) % PORTS;
            let port = FIRST_PORT + self.next_port as u16;
            let tuple = Tuple {
                local_addr: local,
                remote_addr: remote.ip(),
                local_port: port,
                remote_port: remote.port(),
            };
            if self.tuple_free(&tuple) {
                return Some(port);
            }
        }
        self.stats.ports_exhausted += 1;
        None
    }

    /// The next connection of a listener (or, when it defers, the next request).
    pub fn accept(&mut self, listener: SocketId) -> Option<SocketId> {
        let Some(Sock::Listener(idx)) = self.resolve(listener) else { return None };
        loop {
            let id = self.listeners.get_mut(idx)?.queue.pop_front()?;
            let Some(sock) = self.resolve(id) else {
                let listener = self.listeners.get_mut(idx)?;
                listener.stale = listener.stale.saturating_sub(1);
                continue;
            };
            if let Sock::Request(request) = sock
                && let Some(request) = self.requests.get_mut(request)
            {
                request.flags.remove(RequestFlags::OFFERED);
            }
            return Some(id);
        }
    }

    /// Answers a deferred request with a SYN/ACK; the connection then comes through `accept` of its
    /// listener like any other. False when the id is stale.
    pub fn accept_deferred(&mut self, now: Instant, request: SocketId) -> bool {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return false };
        let Some(entry) = self.requests.get_mut(idx) else { return false };
        if entry.flags.contains(RequestFlags::DEFERRED) {
            entry.flags.remove(RequestFlags::DEFERRED);
            if let Some(listener) = self.listeners.get_mut(entry.listener) {
                listener.deferred = listener.deferred.saturating_sub(1);
            }
        }
        self.send_syn_ack_at(now, idx);
        true
    }

    /// Answers a deferred request with a RST. False when the id is stale.
    pub fn refuse_deferred(&mut self, now: Instant, request: SocketId) -> bool {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return false };
        let Some(entry) = self.requests.get(idx).copied() else { return false };
        self.remove_request(idx);
        self.reply(
            now,
            Stateless {
                tuple: entry.tuple,
                port: entry.port,
                seq: crate::seq::SeqNum(0),
                ack: entry.irs.add(1),
                flags: TcpFlags::RST | TcpFlags::ACK,
                window: 0,
                options: OptionWriter::new(),
            },
        );
        true
    }

    /// Who asks: the peer's and our address of a deferred request.
    #[must_use]
    pub fn deferred_addresses(&self, request: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return None };
        self.requests.get(idx).map(|r| (r.tuple.remote(), r.tuple.local()))
    }

    /// Stops listening; what waits for `accept` is reset.
    pub fn close_listener(&mut self, now: Instant, listener: SocketId) {
        let Some(Sock::Listener(idx)) = self.resolve(listener) else { return };
        while let Some(id) = self.accept(listener) {
            if !self.refuse_deferred(now, id) {
                self.abort(now, id);
            }
        }
        let pending = self.requests.iter();
        let orphans: alloc::vec::Vec<u32> = pending
            .filter(|(_, r)| r.listener == idx && !matches!(r.wanted, Wanted::Join { .. }))
            .map(|(request, _)| request)
            .collect();
        for request in orphans {
            self.remove_request(request);
        }
        self.events.remove(self.numbering.number(Node::Listener(idx)));
        if let Some(listener) = self.listeners.remove(idx) {
            self.listening.remove(&listener.local);
        }
    }

    // Reading.

    /// The next buffer of the stream, as it arrived; `Ok(None)` at its end.
    pub fn recv_buf(&mut self, now: Instant, id: SocketId) -> Result<Option<B>, RecvError> {
        let sock = self.connected(id).ok_or(RecvError::InvalidSocket)?;
        if let Some(buf) = self.take_received(now, sock) {
            return Ok(Some(buf));
        }
        if self.read_finished(sock) {
            return Ok(None);
        }
        let closed = self.is_closed(sock);
        let app = self.app(sock).ok_or(RecvError::InvalidSocket)?;
        match app.error {
            Some(error) => Err(RecvError::Failed(error)),
            None if closed => Ok(None),
            None => {
                app.read_armed = true;
                Err(RecvError::WouldBlock)
            }
        }
    }

    /// Copies stream data into `into`; 0 at the end of the stream (or when `into` is empty).
    pub fn recv(
        &mut self,
        now: Instant,
        id: SocketId,
        into: &mut [u8],
    ) -> Result<usize, RecvError> {
        let mut copied = 0;
        while copied < into.len() {
            let mut buf = match self.recv_buf(now, id) {
                Ok(Some(buf)) => buf,
                Ok(None) => break,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            };
            let take = buf.data().len().min(into.len() - copied);
            if let (Some(to), Some(from)) =
                (into.get_mut(copied..copied + take), buf.data().get(..take))
            {
                to.copy_from_slice(from);
            }
            copied += take;
            buf.trim_front(take);
            if !buf.data().is_empty() {
                self.put_back(id, buf);
            }
        }
        Ok(copied)
    }

    fn put_back(&mut self, id: SocketId, buf: B) {
        match self.resolve(id) {
            Some(Sock::Plain(idx)) => {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.received.unpop(buf);
                }
            }
            Some(Sock::Mptcp(idx)) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.unread(buf);
                }
            }
            _ => {}
        }
    }

    /// Takes the next in-order buffer and offers the room to the peer.
    pub(super) fn take_received(&mut self, now: Instant, sock: Sock) -> Option<B> {
        let max = self.config.tcp.recv_buffer_max;
        match sock {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get_mut(idx)?;
                let buf = tcb.read_buf(now, max)?;
                if tcb.state.receiving() && tcb.window_opened() {
                    tcb.ack_now();
                    self.want_transmit(Node::Tcb(idx));
                }
                Some(buf)
            }
            Sock::Mptcp(owner) => {
                let connection = self.connections.get_mut(owner)?;
                let buf = connection.read_buf(now, max)?;
                if connection.window_opened() && connection.phase != Phase::Closed {
                    self.announce_window(owner);
                }
                Some(buf)
            }
            _ => None,
        }
    }

    /// Every subflow hears of the larger shared window.
    fn announce_window(&mut self, owner: u32) {
        let Some(connection) = self.connections.get(owner) else { return };
        let promised = connection.promised();
        for &idx in &connection.subflows {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            // Without window scaling there may be nothing new to say.
            if tcb.state.synchronized() && tcb.largest_window() > promised {
                tcb.ack_now();
                self.tx.push_back(self.numbering.number(Node::Tcb(idx)));
            }
        }
    }

    /// Nothing is left to read and nothing will come.
    pub(super) fn read_finished(&self, sock: Sock) -> bool {
        match sock {
            Sock::Plain(idx) => self
                .tcbs
                .get(idx)
                .is_some_and(|t| t.fin_received() && t.received.in_order_len() == 0),
            Sock::Mptcp(idx) => {
                self.connections.get(idx).is_some_and(|c| c.peer_finished && !c.readable())
            }
            _ => true,
        }
    }

    fn is_closed(&self, sock: Sock) -> bool {
        match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).is_none_or(|t| t.state == State::Closed),
            Sock::Mptcp(idx) => self.connections.get(idx).is_none_or(|c| c.phase == Phase::Closed),
            _ => true,
        }
    }

    /// An MPTCP connection before the SYN/ACK: nobody is there to end it in order (RFC 9293
    /// §3.10.4, SYN-SENT).
    fn is_connecting(&self, sock: Sock) -> bool {
        match sock {
            Sock::Mptcp(idx) => {
                self.connections.get(idx).is_some_and(|c| c.phase == Phase::Connecting)
            }
            _ => false,
        }
    }

    /// A connection the application may read and write itself.
    fn connected(&self, id: SocketId) -> Option<Sock> {
        let sock = self.resolve(id)?;
        let relayed = match sock {
            Sock::Plain(idx) => self.tcbs.get(idx)?.app.relay,
            Sock::Mptcp(idx) => self.connections.get(idx)?.app.relay,
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => return None,
        };
        relayed.is_none().then_some(sock)
    }

    // Writing.

    /// Octets the send buffer takes now: it follows the congestion window up to the configured
    /// limit.
    pub(super) fn send_room(&self, sock: Sock) -> u32 {
        let mut max = self.config.tcp.send_buffer_max;
        if self.pool.is_low() {
            max = max.min(FAIR_SHARE as u32);
        }
        let limit = |cwnd: u32| cwnd.saturating_mul(3).saturating_add(256 << 10).min(max);
        match sock {
            Sock::Plain(idx) => {
                self.tcbs.get(idx).map_or(0, |t| t.send_room(limit(t.congestion.cwnd())))
            }
            Sock::Mptcp(idx) => {
                let Some(connection) = self.connections.get(idx) else { return 0 };
                let subflows = connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
                let cwnd = subflows.clone().map(|t| t.congestion.cwnd());
                let cwnd = cwnd.fold(0, u32::saturating_add).max(reach(subflows));
                limit(cwnd).saturating_sub(connection.send_buffered())
            }
            _ => 0,
        }
    }

    fn writable(&self, sock: Sock) -> Result<(), SendError> {
        let (error, shut, closed) = match sock {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get(idx).ok_or(SendError::InvalidSocket)?;
                (tcb.app.error, tcb.write_closed(), tcb.state == State::Closed)
            }
            Sock::Mptcp(idx) => {
                let c = self.connections.get(idx).ok_or(SendError::InvalidSocket)?;
                (c.app.error, c.fin_queued, c.phase == Phase::Closed)
            }
            _ => return Err(SendError::InvalidSocket),
        };
        match error {
            Some(error) => Err(SendError::Failed(error)),
            None if shut || closed => Err(SendError::Shutdown),
            None => Ok(()),
        }
    }

    /// Queues a buffer whole; gives it back when there is no room or no connection.
    pub fn send_buf(&mut self, id: SocketId, buf: B) -> Result<(), (SendError, B)> {
        let Some(sock) = self.connected(id) else { return Err((SendError::InvalidSocket, buf)) };
        if let Err(error) = self.writable(sock) {
            return Err((error, buf));
        }
        if self.send_room(sock) == 0 {
            if let Some(app) = self.app(sock) {
                app.write_armed = true;
            }
            return Err((SendError::WouldBlock, buf));
        }
        self.queue(sock, buf);
        Ok(())
    }

    /// Appends to the send queue; the caller checked the room.
    pub(super) fn queue(&mut self, sock: Sock, buf: B) {
        match sock {
            Sock::Plain(idx) => {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.send(buf);
                    self.want_transmit(Node::Tcb(idx));
                }
            }
            Sock::Mptcp(idx) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.write(buf);
                    self.want_transmit(Node::Connection(idx));
                }
            }
            _ => {}
        }
    }

    /// Copies as much of `from` as there is room for; answers how much that was, at least 1.
    pub fn send(&mut self, now: Instant, id: SocketId, from: &[u8]) -> Result<usize, SendError> {
        let _ = now;
        let sock = self.connected(id).ok_or(SendError::InvalidSocket)?;
        self.writable(sock)?;
        let mut sent = 0;
        while let Some(rest) = from.get(sent..)
            && !rest.is_empty()
        {
            let room = self.send_room(sock) as usize;
            let buf = if room > 0 { self.pool.alloc() } else { None };
            let Some(mut buf) = buf else { break };
            let want = rest.len().min(room).min(1460);
            let Some(part) = rest.get(..want) else { break };
            match buf.append(want) {
                Some(into) => into.copy_from_slice(part),
                None => break,
            }
            sent += want;
            self.queue(sock, buf);
        }
        if sent == 0 && !from.is_empty() {
            if let Some(app) = self.app(sock) {
                app.write_armed = true;
            }
            return Err(SendError::WouldBlock);
        }
        Ok(sent)
    }

    /// Nothing more will be written; what is queued is still delivered, then the end of the stream.
    pub fn shutdown_write(&mut self, now: Instant, id: SocketId) {
        if let Some(sock) = self.resolve(id) {
            self.shutdown_sock(now, sock);
        }
    }

    pub(super) fn shutdown_sock(&mut self, _now: Instant, sock: Sock) {
        match sock {
            Sock::Plain(idx) => {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.shutdown_write();
                    self.touch_tcb(idx);
                }
            }
            Sock::Mptcp(idx) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.fin_queued = true;
                    self.touch_connection(idx);
                }
            }
            _ => {}
        }
    }

    // Ending.

    /// Orderly end: what is queued is delivered (of a datagram socket: sent), then the stream ends; the id is released. Unread
    /// data, or data that arrives later, resets the connection (RFC 9293 §3.6.1).
    pub fn close(&mut self, now: Instant, id: SocketId) {
        let Some(sock) = self.resolve(id) else { return };
        match sock {
            Sock::Listener(_) => return self.close_listener(now, id),
            Sock::Udp(idx) => return self.udp_close(idx),
            _ => {}
        }
        let unread = self.unread(sock);
        if self.is_closed(sock) {
            return self.release(id);
        }
        if unread || self.is_connecting(sock) {
            return self.abort(now, id);
        }
        self.shutdown_sock(now, sock);
        self.detach(sock);
        if let Sock::Mptcp(idx) = sock {
            let linger = self.config.tcp.fin_wait_2;
            if let Some(connection) = self.connections.get_mut(idx) {
                connection.close_at = Some(now + linger);
            }
            self.touch_connection(idx);
        }
        if let Sock::Plain(idx) = sock
            && let Some(tcb) = self.tcbs.get_mut(idx)
        {
            let env = env!(self, now);
            tcb.shutdown_read(&env);
            if tcb.state == State::SynSent {
                self.plain_closed(now, idx, None);
            } else {
                self.touch_tcb(idx);
            }
        }
    }

    /// Ends it at once: RST, and `MP_FASTCLOSE` where MPTCP is in use. The id is released.
    pub fn abort(&mut self, now: Instant, id: SocketId) {
        let Some(sock) = self.resolve(id) else { return };
        self.detach(sock);
        self.abort_sock(now, sock, ConnectionError::Aborted);
    }

    pub(super) fn abort_sock(&mut self, now: Instant, sock: Sock, error: ConnectionError) {
        match sock {
            Sock::Plain(idx) => {
                self.send_rst(idx, OptionWriter::new());
                self.plain_closed(now, idx, Some(error));
            }
            Sock::Mptcp(idx) => {
                if self.connections.get(idx).is_some_and(|c| c.phase == Phase::Closed) {
                    self.reap_connection(idx);
                } else {
                    self.abort_connection(now, idx, error);
                }
            }
            Sock::Udp(idx) => self.udp_abort(idx),
            _ => {}
        }
    }

    /// Gives the id of an ended connection back. On one that has not ended this is `close` without
    /// the end of the stream: the connection lives on until its peer ends it.
    pub fn release(&mut self, id: SocketId) {
        let Some(sock) = self.resolve(id) else { return };
        if let Sock::Udp(idx) = sock {
            return self.udp_close(idx);
        }
        self.detach(sock);
        if !self.is_closed(sock) {
            return;
        }
        match sock {
            Sock::Plain(idx) => {
                self.remove_tcb(idx);
            }
            Sock::Mptcp(idx) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.clear_received();
                }
                self.reap_connection(idx);
            }
            _ => {}
        }
    }

    /// The application lets go.
    fn detach(&mut self, sock: Sock) {
        self.uncouple(sock);
        if let Some(app) = self.app(sock) {
            app.attached = false;
            app.pending = Ready::empty();
        }
    }

    // Reports.

    /// Attaches a word that comes back in every event.
    pub fn set_user_data(&mut self, id: SocketId, user_data: u64) {
        let Some(sock) = self.resolve(id) else { return };
        if let Sock::Udp(idx) = sock
            && let Some(socket) = self.udp.get_mut(idx)
        {
            socket.user_data = user_data;
        } else if let Some(app) = self.app(sock) {
            app.user_data = user_data;
        }
    }

    /// Why a connection ended, if it ended with an error.
    #[must_use]
    pub fn error(&self, id: SocketId) -> Option<ConnectionError> {
        match self.resolve(id)? {
            Sock::Plain(idx) => self.tcbs.get(idx)?.app.error,
            Sock::Mptcp(idx) => self.connections.get(idx)?.app.error,
            _ => None,
        }
    }

    /// A snapshot of a connection; `None` for stale ids and listeners.
    #[must_use]
    pub fn info(&self, id: SocketId) -> Option<ConnectionInfo> {
        match self.resolve(id)? {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get(idx)?;
                Some(ConnectionInfo {
                    local: tcb.tuple.local(),
                    remote: tcb.tuple.remote(),
                    mptcp: None,
                    fallback: tcb.app.fallback,
                    bytes_sent: tcb.counters.bytes_sent + u64::from(tcb.unsent_len),
                    bytes_acked: tcb.counters.bytes_acked,
                    bytes_received: tcb.counters.bytes_received,
                    subflows: alloc::vec![subflow_info(tcb)],
                    error: tcb.app.error,
                })
            }
            Sock::Mptcp(idx) => {
                let connection = self.connections.get(idx)?;
                let subflows = connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
                Some(ConnectionInfo {
                    local: connection.first.local(),
                    remote: connection.first.remote(),
                    mptcp: connection.fallback.is_none().then_some(connection.version as u8),
                    fallback: connection.fallback,
                    bytes_sent: connection.data_end,
                    bytes_acked: connection.data_snd_una,
                    bytes_received: connection.data_rcv_nxt,
                    subflows: subflows.map(subflow_info).collect(),
                    error: connection.app.error,
                })
            }
            _ => None,
        }
    }

    /// Established subflows of a connection, as many as [`Stack::info`] lists; 0 for stale ids.
    #[must_use]
    pub fn subflow_count(&self, id: SocketId) -> u8 {
        match self.resolve(id) {
            Some(Sock::Plain(_)) => 1,
            Some(Sock::Mptcp(idx)) => {
                let count = self.connections.get(idx).map_or(0, |c| c.subflows.len());
                u8::try_from(count).unwrap_or(u8::MAX)
            }
            _ => 0,
        }
    }

    /// Spreads the data of an MPTCP connection over its paths as `asked` from now on, caps included:
    /// what was sent beyond a former cap is still paid for. False for other sockets.
    pub fn set_scheduling(&mut self, now: Instant, id: SocketId, asked: &Scheduling) -> bool {
        let Some(Sock::Mptcp(owner)) = self.resolve(id) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        connection.set_scheduling(now, asked);
        self.touch_connection(owner);
        true
    }

    /// Asks the peer to use a subflow last (or normally again) with `MP_PRIO`, and does the same.
    pub fn set_backup(&mut self, id: SocketId, subflow: u8, backup: bool) -> bool {
        let Some(Sock::Mptcp(owner)) = self.resolve(id) else { return false };
        for idx in self.subflows_of(owner) {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let Some(extension) = &mut tcb.subflow else { continue };
            if extension.id == subflow && extension.stage == Stage::Active {
                extension.local_backup = backup;
                if !extension.signal(Signal::Prio { backup }) {
                    self.stats.mp_signal_drop += 1;
                }
                tcb.ack_now();
                self.touch_tcb(idx);
                self.touch_connection(owner);
                return true;
            }
        }
        false
    }

    // Options.

    /// Switches keep-alive probes of an idle peer on or off (RFC 9293 §3.8.4), for an MPTCP connection
    /// on every subflow it has. False when the id is stale.
    pub fn set_keep_alive(&mut self, now: Instant, id: SocketId, on: bool) -> bool {
        let blocks = self.blocks_of(id);
        for &idx in &blocks {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.set_keep_alive(&env!(self, now), on);
                self.touch_tcb(idx);
            }
        }
        !blocks.is_empty()
    }

    /// Switches Nagle's algorithm of a TCP connection on or off (RFC 9293 §3.7.4). The subflows of an
    /// MPTCP connection never delay. False when the id is stale.
    pub fn set_nagle(&mut self, id: SocketId, on: bool) -> bool {
        let blocks = self.blocks_of(id);
        for &idx in &blocks {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.set_nagle(on);
                self.touch_tcb(idx);
            }
        }
        !blocks.is_empty()
    }

    /// Control blocks behind a socket.
    fn blocks_of(&self, id: SocketId) -> Vec<u32> {
        match self.resolve(id) {
            Some(Sock::Plain(idx)) => alloc::vec![idx],
            Some(Sock::Mptcp(owner)) => self.subflows_of(owner),
            _ => Vec::new(),
        }
    }
}

fn subflow_info<B: PacketBuf>(tcb: &Tcb<B>) -> SubflowInfo {
    let extension = tcb.subflow.as_deref();
    SubflowInfo {
        id: extension.map_or(0, |s| s.id),
        port: tcb.port,
        local: tcb.tuple.local(),
        remote: tcb.tuple.remote(),
        state: tcb.state,
        backup: extension.is_some_and(Subflow::is_backup),
        stale: extension.is_some_and(|s| s.stale),
        srtt: tcb.rtt.srtt().unwrap_or_default(),
        cwnd: tcb.congestion.cwnd(),
        bytes_sent: tcb.counters.bytes_sent,
        bytes_received: tcb.counters.bytes_received,
        retransmitted: u64::from(tcb.counters.retransmitted),
        reinjected: extension.map_or(0, |s| s.reinjected),
    }
}

/// What the subflows together send in the round trip of the slowest one: so much is not acknowledged
/// on the data level while all are in use.
fn reach<'a, B: PacketBuf + 'a>(subflows: impl Iterator<Item = &'a Tcb<B>>) -> u32 {
    let (mut rate, mut longest) = (0_u64, core::time::Duration::ZERO);
    for tcb in subflows {
        let Some(srtt) = tcb.rtt.srtt() else { continue };
        rate = rate.saturating_add(tcb.congestion.bandwidth(srtt).unwrap_or(0));
        longest = longest.max(srtt);
    }
    let octets = u128::from(rate) * longest.as_nanos() / 1_000_000_000;
    u32::try_from(octets).unwrap_or(u32::MAX)
}
