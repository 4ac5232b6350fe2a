//! What the gateway needs of a stack: one shard's sockets, without packets.
//!
//! The stack implements it; the unit tests' scripted double does too. All calls of one shard come
//! from one thread, at non-decreasing `now`.

use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{PacketBuf, PortId};
use mptcp_core::config::{EphemeralPorts, Scheduling};
use mptcp_core::error::{ConnectionError, OpenError, RecvError, RelayError, SendError};
use mptcp_core::mptcp::path_health::PathVerdict;
use mptcp_core::stack::{
    Connect, ConnectionInfo, Event, Listen, RelayCaps, SocketId, Stack, SynAnswer,
};
use mptcp_core::tcp::SynTerms;
use mptcp_core::time::Instant;
use mptcp_core::udp::{Received, SendTo, UdpError, UdpOptions, UdpSendError};

/// Sockets of one shard.
pub trait Shard {
    /// Opens a listener.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError>;

    /// Opens a listener for every address but ours, for what comes in by `ports`.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn listen_transparent(
        &mut self,
        ports: &[PortId],
        options: &Listen,
    ) -> Result<SocketId, OpenError>;

    /// Opens a listener at `local`, on a port of `ports` where this shard hears whoever comes.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn listen_at(
        &mut self,
        local: IpAddr,
        ports: EphemeralPorts,
        options: &Listen,
    ) -> Result<SocketId, OpenError>;

    /// Where a listener listens.
    fn listening_at(&self, listener: SocketId) -> Option<SocketAddr>;

    /// Starts a connection; [`Ready::CONNECTED`](mptcp_core::stack::Ready::CONNECTED) or
    /// [`Ready::CLOSED`](mptcp_core::stack::Ready::CLOSED) follows.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn connect(&mut self, now: Instant, with: &Connect) -> Result<SocketId, OpenError>;

    /// Right after `connect`: `outer` asks for segments of the size that `inner` sends.
    fn fit_segments(&mut self, outer: SocketId, inner: SocketId);

    /// Right after `connect`: what is special about the SYN.
    fn set_syn_terms(&mut self, outer: SocketId, terms: SynTerms);

    /// Sends the SYN of an exit again that waits for that.
    fn repeat_syn(&mut self, now: Instant, outer: SocketId);

    /// What answered the SYN of an exit with terms.
    fn syn_answer(&mut self, outer: SocketId) -> Option<SynAnswer>;

    /// The client's address of a deferred request, and the port it came in by; `None` for a
    /// connection.
    fn deferred_origin(&self, request: SocketId) -> Option<(SocketAddr, PortId)>;

    /// The address that the client of a request or connection connected to.
    fn connected_to(&self, id: SocketId) -> Option<SocketAddr>;

    /// What the SYN of a deferred request brought.
    fn deferred_text(&self, request: SocketId) -> Option<&[u8]>;

    /// Makes a connection of a deferred request, whose text is the first to be read; the request's
    /// word goes on with it.
    fn open_deferred(&mut self, now: Instant, request: SocketId) -> Option<SocketId>;

    /// Resets a deferred request.
    fn refuse_deferred(&mut self, now: Instant, request: SocketId);

    /// Forgets a deferred request without an answer.
    fn ignore_deferred(&mut self, request: SocketId);

    /// The next established connection of `listener`, or the next request where it defers those with
    /// text.
    fn accept(&mut self, listener: SocketId) -> Option<SocketId>;

    /// Copies received bytes out; `Ok(0)` is the end of the stream (or `into` is empty).
    ///
    /// # Errors
    /// See [`RecvError`].
    fn recv(&mut self, now: Instant, id: SocketId, into: &mut [u8]) -> Result<usize, RecvError>;

    /// Copies bytes into the send buffer; answers how many were taken.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send(&mut self, now: Instant, id: SocketId, from: &[u8]) -> Result<usize, SendError>;

    /// Sends the end of the stream behind what was sent.
    fn shutdown_write(&mut self, now: Instant, id: SocketId);

    /// Closes in order; the stack owns what is left to do and `id` is stale from here on. Allowed
    /// at any time: the connection may have ended already.
    fn close(&mut self, now: Instant, id: SocketId);

    /// Resets (RST, `MP_FASTCLOSE`); `id` is stale from here on. Allowed at any time, too.
    fn abort(&mut self, now: Instant, id: SocketId);

    /// Gives up an id after [`Ready::CLOSED`](mptcp_core::stack::Ready::CLOSED).
    fn release(&mut self, id: SocketId);

    /// Couples two established sockets: from here on the stack moves bytes both ways, passes on
    /// half-closes and resets, and reports `PROGRESS`, `READ_CLOSED` and `CLOSED`.
    ///
    /// # Errors
    /// See [`RelayError`].
    fn relay(&mut self, now: Instant, inner: SocketId, outer: SocketId) -> Result<(), RelayError>;

    /// Spreads what goes to a client with MPTCP over its paths as asked; false for others.
    fn set_scheduling(&mut self, now: Instant, inner: SocketId, asked: &Scheduling) -> bool;

    /// Holds what the relay of a client's connection moves to these rates; false when it has none.
    fn set_relay_caps(&mut self, now: Instant, inner: SocketId, caps: &RelayCaps) -> bool;

    /// Whether connections hold the way back to a sender of datagrams for one that works.
    fn path_works(&self, heard: &Received) -> bool;

    /// The port that the first subflow of a connection, or plain TCP, runs over.
    fn port_of(&self, id: SocketId) -> Option<PortId>;

    /// Addresses, subflows and byte counts; still there after `CLOSED`, until `release`.
    fn info(&self, id: SocketId) -> Option<ConnectionInfo>;

    /// Our address and the peer's, as `info` has them.
    fn addresses(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        self.info(id).map(|info| (info.local, info.remote))
    }

    /// Bytes sent and received, as `info` has them.
    fn octets(&self, id: SocketId) -> Option<(u64, u64)> {
        self.info(id).map(|info| (info.bytes_sent, info.bytes_received))
    }

    /// Why the connection ended, when it ended with an error.
    fn error(&self, id: SocketId) -> Option<ConnectionError>;

    /// Subflows of the connection now; 1 for plain TCP, 0 when the id is stale.
    fn subflow_count(&self, id: SocketId) -> u8;

    /// Attaches `data` to every later event of `id`.
    fn set_user_data(&mut self, id: SocketId, data: u64);

    /// Opens a datagram socket.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn udp_bind(&mut self, local: SocketAddr, options: &UdpOptions) -> Result<SocketId, OpenError>;

    /// Where a datagram socket is bound.
    fn udp_local(&self, id: SocketId) -> Option<SocketAddr>;

    /// Queues a copy of `data`.
    ///
    /// # Errors
    /// See [`UdpSendError`].
    fn udp_send_to(&mut self, id: SocketId, data: &[u8], to: &SendTo) -> Result<(), UdpSendError>;

    /// Copies the oldest received datagram into `into`; [`Received::len`] tells when it did not fit.
    ///
    /// # Errors
    /// See [`RecvError`].
    fn udp_recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, RecvError>;

    /// The oldest ICMP error about what this datagram socket sent.
    fn udp_error(&mut self, id: SocketId) -> Option<UdpError>;

    /// The next readiness report.
    fn poll_event(&mut self) -> Option<Event>;
}

impl<B: PacketBuf> Shard for Stack<B> {
    fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError> {
        Self::listen(self, local, options)
    }

    fn listen_transparent(
        &mut self,
        ports: &[PortId],
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        Self::listen_transparent(self, ports, options)
    }

    fn listen_at(
        &mut self,
        local: IpAddr,
        ports: EphemeralPorts,
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        Self::listen_at(self, local, ports, options)
    }

    fn listening_at(&self, listener: SocketId) -> Option<SocketAddr> {
        Self::listening_at(self, listener)
    }

    fn connect(&mut self, now: Instant, with: &Connect) -> Result<SocketId, OpenError> {
        Self::connect(self, now, with)
    }

    fn fit_segments(&mut self, outer: SocketId, inner: SocketId) {
        Self::fit_segments(self, outer, inner);
    }

    fn set_syn_terms(&mut self, outer: SocketId, terms: SynTerms) {
        Self::set_syn_terms(self, outer, terms);
    }

    fn repeat_syn(&mut self, now: Instant, outer: SocketId) {
        Self::repeat_syn(self, now, outer);
    }

    fn syn_answer(&mut self, outer: SocketId) -> Option<SynAnswer> {
        Self::syn_answer(self, outer)
    }

    fn deferred_origin(&self, request: SocketId) -> Option<(SocketAddr, PortId)> {
        let (client, _) = Self::deferred_addresses(self, request)?;
        Some((client, Self::deferred_port(self, request)?))
    }

    fn connected_to(&self, id: SocketId) -> Option<SocketAddr> {
        match Self::deferred_addresses(self, id) {
            Some((_, local)) => Some(local),
            None => Some(Self::addresses(self, id)?.0),
        }
    }

    fn deferred_text(&self, request: SocketId) -> Option<&[u8]> {
        Self::deferred_text(self, request)
    }

    fn open_deferred(&mut self, now: Instant, request: SocketId) -> Option<SocketId> {
        Self::open_deferred(self, now, request)
    }

    fn refuse_deferred(&mut self, now: Instant, request: SocketId) {
        Self::refuse_deferred(self, now, request);
    }

    fn ignore_deferred(&mut self, request: SocketId) {
        Self::ignore_deferred(self, request);
    }

    fn accept(&mut self, listener: SocketId) -> Option<SocketId> {
        Self::accept(self, listener)
    }

    fn recv(&mut self, now: Instant, id: SocketId, into: &mut [u8]) -> Result<usize, RecvError> {
        Self::recv(self, now, id, into)
    }

    fn send(&mut self, now: Instant, id: SocketId, from: &[u8]) -> Result<usize, SendError> {
        Self::send(self, now, id, from)
    }

    fn shutdown_write(&mut self, now: Instant, id: SocketId) {
        Self::shutdown_write(self, now, id);
    }

    fn close(&mut self, now: Instant, id: SocketId) {
        Self::close(self, now, id);
    }

    fn abort(&mut self, now: Instant, id: SocketId) {
        Self::abort(self, now, id);
    }

    fn release(&mut self, id: SocketId) {
        Self::release(self, id);
    }

    fn relay(&mut self, now: Instant, inner: SocketId, outer: SocketId) -> Result<(), RelayError> {
        Self::relay(self, now, inner, outer)
    }

    fn set_scheduling(&mut self, now: Instant, inner: SocketId, asked: &Scheduling) -> bool {
        Self::set_scheduling(self, now, inner, asked)
    }

    fn set_relay_caps(&mut self, now: Instant, inner: SocketId, caps: &RelayCaps) -> bool {
        Self::set_relay_caps(self, now, inner, caps)
    }

    fn path_works(&self, heard: &Received) -> bool {
        let verdict = self.path_verdict(heard.local.ip(), heard.remote.ip(), heard.via);
        verdict.is_none_or(|verdict| verdict == PathVerdict::Up)
    }

    fn port_of(&self, id: SocketId) -> Option<PortId> {
        Some(Self::info(self, id)?.subflows.first()?.port)
    }

    fn info(&self, id: SocketId) -> Option<ConnectionInfo> {
        Self::info(self, id)
    }

    fn addresses(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        Self::addresses(self, id)
    }

    fn octets(&self, id: SocketId) -> Option<(u64, u64)> {
        Self::octets(self, id)
    }

    fn error(&self, id: SocketId) -> Option<ConnectionError> {
        Self::error(self, id)
    }

    fn subflow_count(&self, id: SocketId) -> u8 {
        Self::subflow_count(self, id)
    }

    fn set_user_data(&mut self, id: SocketId, data: u64) {
        Self::set_user_data(self, id, data);
    }

    fn udp_bind(&mut self, local: SocketAddr, options: &UdpOptions) -> Result<SocketId, OpenError> {
        Self::udp_bind(self, local, options)
    }

    fn udp_local(&self, id: SocketId) -> Option<SocketAddr> {
        self.udp_info(id).map(|info| info.local)
    }

    fn udp_send_to(&mut self, id: SocketId, data: &[u8], to: &SendTo) -> Result<(), UdpSendError> {
        Self::udp_send_to(self, id, data, to)
    }

    fn udp_recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, RecvError> {
        Self::udp_recv_from(self, id, into)
    }

    fn udp_error(&mut self, id: SocketId) -> Option<UdpError> {
        Self::udp_error(self, id)
    }

    fn poll_event(&mut self) -> Option<Event> {
        Self::poll_event(self)
    }
}
