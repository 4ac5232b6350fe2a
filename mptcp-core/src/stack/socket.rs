//! The application's side: opening, accepting, reading, writing, closing, and options.

use super::demux::{Node, TokenOwner};
use super::memory::FAIR_SHARE;
use super::{AppFlags, Connect, Listen, Ready, Sock, SocketId, Stack, env};
use crate::buf::PacketBuf;
use crate::config::Scheduling;
use crate::error::{ConnectionError, OpenError, RecvError, SendError};
use crate::mptcp::key::{KeyPair, OwnKey};
use crate::mptcp::{
    Connection, FallbackReason, Marks, Negotiated, Paths, Phase, Signal, Stage, Subflow,
};
use crate::tcp::request::{Request, RequestFlags, Wanted};
use crate::tcp::{State, Tcb, Tuple};
use crate::time::{Instant, nanos, proportion};
use crate::util::short_list::ShortList;
use crate::wire::{OptionWriter, Version};
use core::net::SocketAddr;

/// Octets that a buffer of a copy takes, as many as there is room for: a pool is made for the MTU, which may be less
/// than Ethernet's. Each is what a full segment carries of 1500, 1400, 1280 and 576 octets.
const PIECES: [usize; 4] = [1460, 1360, 1220, 536];

impl<B: PacketBuf> Stack<B> {
    /// Listens on `local`, whose address must be one of the stack's or unspecified. At most
    /// `limits.backlog` connections wait for `accept`; what comes beyond is not completed.
    ///
    /// # Errors
    /// [`OpenError::BadAddress`] for an address that is not the stack's or port 0,
    /// [`OpenError::AddressInUse`], [`OpenError::LimitReached`] at `limits.listeners`.
    pub fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError> {
        let known = local.ip().is_unspecified() || self.local_address(local.ip()).is_some();
        if !known || local.port() == 0 {
            return Err(OpenError::BadAddress);
        }
        let local = crate::udp::plain(local);
        if self.listening.contains_key(&local) {
            return Err(OpenError::AddressInUse);
        }
        let idx = self.add_listener(local, options)?;
        self.listening.insert(local, idx);
        self.socket_id(Sock::Listener(idx)).ok_or(OpenError::LimitReached)
    }

    /// Opens a connection; [`Ready::CONNECTED`] or [`Ready::CLOSED`] reports the outcome. The SYN
    /// goes out with the next [`Stack::poll_transmit`].
    ///
    /// # Errors
    /// [`OpenError::BadAddress`] when `local` is not the stack's, the families differ or `remote`
    /// is no host's or has port 0; [`OpenError::LimitReached`] at `limits.connections` or
    /// `limits.tcbs`; [`OpenError::PortsExhausted`] when no local port was found, and
    /// [`OpenError::AddressInUse`] when the given one is taken towards this destination.
    pub fn connect(&mut self, now: Instant, with: &Connect) -> Result<SocketId, OpenError> {
        self.observer.now = now;
        if self.local_address(with.local).is_none()
            || with.local.is_ipv4() != with.remote.is_ipv4()
            || crate::tcp::is_no_host(&with.remote.ip())
            || with.remote.port() == 0
        {
            return Err(OpenError::BadAddress);
        }
        if !self.make_place(now) {
            self.stats.limit_refused += 1;
            return Err(OpenError::LimitReached);
        }
        let port = if with.local_port == 0 {
            let port = self.free_port(now, with.local, with.remote);
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
        if !self.tuple_free(&tuple) && !self.tuple_reusable(now, &tuple) {
            return Err(OpenError::AddressInUse);
        }
        let served = &self.config.mptcp.versions;
        let version = self.destinations.offer(now, (with.local, tuple.remote()), served);
        let known_plain = with.mptcp && version.is_none() && !served.is_empty();
        self.stats.mp_capable_syn_tx_disabled += u64::from(known_plain);
        let version = version.filter(|_| with.mptcp);
        let offer = version.and_then(|version| Some((version, self.draw_key(version)?)));
        let sock = match offer {
            Some((version, own)) => self.open_mptcp(now, tuple, version, &own)?,
            None => Sock::Plain(self.open_tcb(now, tuple, None).ok_or(OpenError::LimitReached)?),
        };
        self.stats.active_opens += 1;
        let fallback = match (version, offer) {
            (Some(_), None) => Some(FallbackReason::NoToken),
            (None, _) if known_plain => Some(FallbackReason::KnownPlain),
            _ => None,
        };
        if let Some(reason) = fallback {
            self.note_fallback(sock, &tuple, reason);
        }
        if let Some(app) = self.app(sock) {
            app.user_data = with.user_data;
        }
        if let Sock::Plain(idx) = sock
            && let Some(tcb) = self.tcbs.get_mut(idx)
        {
            tcb.fallback = fallback;
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
        own: &OwnKey,
    ) -> Result<Sock, OpenError> {
        let require = self.config.mptcp.checksum == crate::config::ChecksumPolicy::Require;
        let negotiated = Negotiated {
            version,
            client: true,
            keys: KeyPair { local: own.key, remote: 0 },
            checksum: require,
        };
        let mut connection =
            Connection::new(&self.config.tcp, &negotiated, own, tuple, Paths::default());
        connection.set_scheduling(now, &self.config.mptcp.scheduling);
        let id = connection.new_subflow_id(&self.tcbs);
        let token = connection.local_token;
        let owner = self.connections.insert(connection).ok_or(OpenError::LimitReached)?;
        let mut subflow = Subflow::new(owner, id, version, Stage::CapableSyn);
        subflow.marks.set(Marks::ASKS_CHECKSUM, require);
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

    /// The next connection of a listener (or, when it defers, the next request), the oldest first;
    /// `None` when nobody waits or the id is no listener's. [`Ready::ACCEPT`] comes once for all that
    /// wait: ask until `None`.
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

    /// Stops listening; what waits for `accept` is reset, and so are pending requests. Established
    /// connections stay. No effect on other ids.
    pub fn close_listener(&mut self, now: Instant, listener: SocketId) {
        let Some(Sock::Listener(idx)) = self.resolve(listener) else { return };
        while let Some(id) = self.accept(listener) {
            if !self.refuse_deferred(now, id) {
                self.abort(now, id);
            }
        }
        let count = self.listeners.get(idx).map_or(0, |listener| listener.requests as usize);
        if count > 0 {
            // Most have none left: who waits for one peer ends when it has come.
            let own = |r: &Request| r.listener == idx && !matches!(r.wanted, Wanted::Join { .. });
            let pending = self.requests.iter().filter(|(_, request)| own(request));
            let orphans: alloc::vec::Vec<u32> = pending.map(|(at, _)| at).take(count).collect();
            debug_assert_eq!(orphans.len(), count, "all are counted");
            for request in orphans {
                self.give_up_request(now, request);
            }
        }
        self.events.remove(self.numbering.number(Node::Listener(idx)));
        self.observer.forget(self.numbering.number(Node::Listener(idx)));
        if let Some(listener) = self.listeners.remove(idx) {
            self.listening.remove(&listener.local);
            self.transparent.forget(idx);
        }
    }

    // Reading.

    /// The next buffer of the stream, as it arrived; `Ok(None)` at its end. Taking it makes room in
    /// the receive window.
    ///
    /// # Errors
    /// [`RecvError::WouldBlock`] when nothing is there yet: [`Ready::READABLE`] follows.
    /// [`RecvError::InvalidSocket`] for ids that are stale, no connection's, or coupled to a relay.
    /// [`RecvError::Failed`] once everything received before the failure was read.
    pub fn recv_buf(&mut self, now: Instant, id: SocketId) -> Result<Option<B>, RecvError> {
        let (sock, buf) = self.next_received(id)?;
        if let Some(buf) = &buf {
            self.note_read(now, sock, buf.data_len() as u32);
        }
        Ok(buf)
    }

    /// The same, but for the room that it makes.
    fn next_received(&mut self, id: SocketId) -> Result<(Sock, Option<B>), RecvError> {
        let sock = self.connected(id).ok_or(RecvError::InvalidSocket)?;
        if let Some(buf) = self.pop_received(sock) {
            return Ok((sock, Some(buf)));
        }
        if self.read_finished(sock) {
            return Ok((sock, None));
        }
        let closed = self.is_closed(sock);
        let app = self.app(sock).ok_or(RecvError::InvalidSocket)?;
        match app.error {
            Some(error) => Err(RecvError::Failed(error)),
            None if closed => Ok((sock, None)),
            None => {
                app.is.insert(AppFlags::READ_ARMED);
                Err(RecvError::WouldBlock)
            }
        }
    }

    /// Copies stream data into `into`, as much as is there and fits; 0 at the end of the stream (or
    /// when `into` is empty).
    ///
    /// # Errors
    /// As [`Stack::recv_buf`], when not a single octet could be had.
    pub fn recv(
        &mut self,
        now: Instant,
        id: SocketId,
        into: &mut [u8],
    ) -> Result<usize, RecvError> {
        let mut copied = 0;
        let mut reader = None;
        while copied < into.len() {
            let mut buf = match self.next_received(id) {
                Ok((sock, Some(buf))) => {
                    reader = Some(sock);
                    buf
                }
                Ok((_, None)) => break,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            };
            let take = buf.data_len().min(into.len() - copied);
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
        if let Some(sock) = reader {
            // Once what is left is back in its place: it makes no room.
            self.note_read(now, sock, copied as u32);
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

    /// Takes the next in-order buffer; `note_read` follows once some were taken.
    fn pop_received(&mut self, sock: Sock) -> Option<B> {
        match sock {
            Sock::Plain(idx) => self.tcbs.get_mut(idx)?.received.pop(),
            Sock::Mptcp(owner) => self.connections.get_mut(owner)?.read_buf(),
            _ => None,
        }
    }

    /// The reader took `octets`: the room is offered to the peer.
    pub(super) fn note_read(&mut self, now: Instant, sock: Sock, octets: u32) {
        let max = self.config.tcp.recv_buffer_max;
        match sock {
            Sock::Plain(idx) => {
                let Some(tcb) = self.tcbs.get_mut(idx) else { return };
                tcb.note_read(now, octets, max);
                if tcb.state.receiving() && tcb.window_opened() {
                    tcb.ack_now();
                    self.want_transmit(Node::Tcb(idx));
                }
            }
            Sock::Mptcp(owner) => {
                let Some(connection) = self.connections.get_mut(owner) else { return };
                connection.note_read(now, octets, max);
                if connection.window_opened() && connection.phase != Phase::Closed {
                    self.announce_window(owner);
                }
            }
            _ => {}
        }
    }

    /// Every subflow hears of the larger shared window. A join would only repeat its third ACK, out of its turn.
    fn announce_window(&mut self, owner: u32) {
        let Some(connection) = self.connections.get(owner) else { return };
        let promised = connection.promised();
        for &idx in connection.subflows.iter() {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let joins = tcb.subflow.as_ref().is_some_and(|subflow| subflow.is_joining());
            // Without window scaling there may be nothing new to say.
            if tcb.state.synchronized() && !joins && tcb.largest_window() > promised {
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

    pub(super) fn is_closed(&self, sock: Sock) -> bool {
        match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).is_none_or(|t| t.state == State::Closed),
            Sock::Mptcp(idx) => self.connections.get(idx).is_none_or(|c| c.phase == Phase::Closed),
            _ => true,
        }
    }

    /// An MPTCP connection before the SYN/ACK: nobody is there to end it in order (RFC 9293
    /// §3.10.4, SYN-SENT).
    pub(super) fn is_connecting(&self, sock: Sock) -> bool {
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
            Sock::Plain(idx) => self.tcbs.get(idx)?.app.relay(),
            Sock::Mptcp(idx) => self.connections.get(idx)?.app.relay(),
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => return None,
        };
        relayed.is_none().then_some(sock)
    }

    // Writing.

    /// Octets the send buffer takes now.
    pub(super) fn send_room(&self, sock: Sock) -> u32 {
        self.send_left(sock, self.send_limit(sock))
    }

    /// What is left of a send buffer of `limit` octets.
    pub(super) fn send_left(&self, sock: Sock, limit: u32) -> u32 {
        match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).map_or(0, |t| t.send_room(limit)),
            Sock::Mptcp(idx) => {
                self.connections.get(idx).map_or(0, |c| limit.saturating_sub(c.send_buffered()))
            }
            _ => 0,
        }
    }

    /// Octets the send buffer may hold: it follows the congestion window up to the configured limit.
    pub(super) fn send_limit(&self, sock: Sock) -> u32 {
        match sock {
            Sock::Plain(_) => self.send_floor(sock),
            Sock::Mptcp(idx) => {
                let Some(connection) = self.connections.get(idx) else { return 0 };
                let subflows = connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
                self.send_floor(sock).max(self.limit_of(reach(subflows)))
            }
            _ => 0,
        }
    }

    /// Octets that the send buffer may hold in any case, for less work: what the paths carry may allow a connection
    /// more than its congestion windows do.
    fn send_floor(&self, sock: Sock) -> u32 {
        match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).map_or(0, |t| self.limit_of(t.cwnd())),
            Sock::Mptcp(idx) => {
                let Some(connection) = self.connections.get(idx) else { return 0 };
                let subflows = connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
                self.limit_of(subflows.map(Tcb::cwnd).fold(0, u32::saturating_add))
            }
            _ => 0,
        }
    }

    /// What goes with a congestion window.
    fn limit_of(&self, cwnd: u32) -> u32 {
        let mut max = self.config.tcp.send_buffer_max;
        if self.pool.is_low() {
            max = max.min(FAIR_SHARE as u32);
        }
        cwnd.saturating_mul(3).saturating_add(256 << 10).min(max)
    }

    /// What the send buffer may hold as far as that matters to `octets` more.
    pub(super) fn send_limit_for(&self, sock: Sock, octets: u32) -> u32 {
        let floor = self.send_floor(sock);
        if self.send_left(sock, floor) > octets { floor } else { self.send_limit(sock) }
    }

    /// The send buffer has room for `octets` more.
    pub(super) fn has_send_room(&self, sock: Sock, octets: u64) -> bool {
        let has = |limit| u64::from(self.send_left(sock, limit)) >= octets;
        has(self.send_floor(sock)) || has(self.send_limit(sock))
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

    /// Queues a buffer whole; gives it back when there is no room or no connection. Any room is
    /// enough: the send buffer may be exceeded by one buffer.
    ///
    /// # Errors
    /// With the buffer: [`SendError::WouldBlock`] when the send buffer (`tcp.send_buffer_max` at
    /// most) is full, after which [`Ready::WRITABLE`] follows; [`SendError::Shutdown`] after
    /// `shutdown_write`; [`SendError::Failed`] when the connection ended;
    /// [`SendError::InvalidSocket`] for ids that are stale, no connection's, or coupled to a relay.
    pub fn send_buf(&mut self, id: SocketId, buf: B) -> Result<(), (SendError, B)> {
        let Some(sock) = self.connected(id) else { return Err((SendError::InvalidSocket, buf)) };
        if let Err(error) = self.writable(sock) {
            return Err((error, buf));
        }
        if self.send_room(sock) == 0 {
            if let Some(app) = self.app(sock) {
                app.is.insert(AppFlags::WRITE_ARMED);
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

    /// Copies as much of `from` as there is room for; answers how much that was, at least 1 unless
    /// `from` is empty. Copies live in buffers of the stack's pool.
    ///
    /// # Errors
    /// As [`Stack::send_buf`]; `WouldBlock` also while the pool has no buffer, and [`Ready::WRITABLE`] when it may
    /// have one.
    pub fn send(&mut self, now: Instant, id: SocketId, from: &[u8]) -> Result<usize, SendError> {
        let sock = self.connected(id).ok_or(SendError::InvalidSocket)?;
        self.writable(sock)?;
        let mut sent = 0;
        while let Some(rest) = from.get(sent..)
            && !rest.is_empty()
        {
            let room = self.send_room(sock) as usize;
            let buf = if room > 0 { self.pool.alloc() } else { None };
            let Some(mut buf) = buf else { break };
            let most = rest.len().min(room);
            let wants = PIECES.map(|piece| piece.min(most));
            let Some(want) = wants.into_iter().find(|want| buf.append(*want).is_some()) else {
                break;
            };
            let (Some(into), Some(part)) = (buf.data_mut(), rest.get(..want)) else { break };
            into.copy_from_slice(part);
            sent += want;
            self.queue(sock, buf);
        }
        if sent == 0 && !from.is_empty() {
            if self.send_room(sock) > 0 {
                self.await_buffer(now, id);
            }
            if let Some(app) = self.app(sock) {
                app.is.insert(AppFlags::WRITE_ARMED);
            }
            return Err(SendError::WouldBlock);
        }
        Ok(sent)
    }

    /// Nothing more will be written; what is queued is still delivered, then the end of the stream
    /// (a FIN, or a `DATA_FIN`). Reading goes on. No effect when it was called before.
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
    /// data, or data that arrives later, resets the connection (RFC 9293 §3.6.1). A connection of ours whose SYN was not
    /// answered yet ends at once, and what was queued is lost. On a listener this is [`Stack::close_listener`]; on a
    /// deferred request it has no effect: [`Stack::refuse_deferred`] answers that. Where `limits.connections` or `limits.tcbs`
    /// leave no room for another connection, the one that was closed first and has not ended is reset.
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
            let fin_wait = self.config.tcp.fin_wait_2;
            if let Some(connection) = self.connections.get_mut(idx) {
                connection.rare.close_at = Some(now + connection.linger(fin_wait));
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

    /// Ends it at once: RST, and `MP_FASTCLOSE` where MPTCP is in use. The id is released; what was
    /// not read or not sent is lost. No effect on listeners and deferred requests.
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
    /// the end of the stream: the connection lives on until its peer ends it. A datagram socket is closed. No effect on
    /// listeners and deferred requests.
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
            app.is.remove(AppFlags::ATTACHED);
            app.pending = Ready::empty();
        }
        let node = match sock {
            Sock::Plain(idx) => Node::Tcb(idx),
            Sock::Mptcp(idx) => Node::Connection(idx),
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => return,
        };
        self.orphans.push_back(self.numbering.number(node));
    }

    // Paths.

    /// Spreads the data of an MPTCP connection over its paths as `asked` from now on, caps included:
    /// what was sent beyond a former cap is still paid for. False for other sockets.
    pub fn set_scheduling(&mut self, now: Instant, id: SocketId, asked: &Scheduling) -> bool {
        let Some(Sock::Mptcp(owner)) = self.resolve(id) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        connection.set_scheduling(now, asked);
        // Shares count from here on: what was sent by other rules is nothing to catch up with.
        for idx in self.subflows_of(owner) {
            if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) {
                subflow.served = 1;
            }
        }
        self.touch_connection(owner);
        true
    }

    /// Asks the peer to use a subflow last (or normally again) with `MP_PRIO`, and does the same.
    /// `subflow` is [`super::SubflowInfo::id`]. False when there is no such subflow that can carry data.
    pub fn set_backup(&mut self, id: SocketId, subflow: u8, backup: bool) -> bool {
        let Some(Sock::Mptcp(owner)) = self.resolve(id) else { return false };
        for idx in self.subflows_of(owner) {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let Some(extension) = &mut tcb.subflow else { continue };
            if extension.id == subflow && extension.stage == Stage::Active {
                extension.local_backup = backup;
                self.observer.record(
                    self.numbering.number(Node::Connection(owner)),
                    crate::event_log::Event::Priority { subflow, backup, peer: false },
                );
                if !extension.signal(Signal::Prio { backup }) {
                    self.stats.mp_signal_drop += 1;
                }
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
        for &idx in blocks.iter() {
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
        for &idx in blocks.iter() {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.set_nagle(on);
                self.touch_tcb(idx);
            }
        }
        !blocks.is_empty()
    }

    /// Control blocks behind a socket.
    pub(super) fn blocks_of(&self, id: SocketId) -> ShortList {
        match self.resolve(id) {
            Some(Sock::Plain(idx)) => [idx].into_iter().collect(),
            Some(Sock::Mptcp(owner)) => self.subflows_of(owner),
            _ => ShortList::new(),
        }
    }
}

/// What the subflows together send in the round trip of the slowest one: so much is not acknowledged
/// on the data level while all are in use.
fn reach<'a, B: PacketBuf + 'a>(subflows: impl Iterator<Item = &'a Tcb<B>>) -> u32 {
    let (mut rate, mut longest) = (0_u64, core::time::Duration::ZERO);
    for tcb in subflows {
        let Some(srtt) = tcb.rtt.srtt() else { continue };
        rate = rate.saturating_add(tcb.bandwidth(srtt).unwrap_or(0));
        longest = longest.max(srtt);
    }
    let octets = proportion(rate, nanos(longest), 1_000_000_000);
    u32::try_from(octets).unwrap_or(u32::MAX)
}
