//! What the gateway needs of a stack: one shard's sockets, without packets.
//!
//! The stack implements it; the unit tests' scripted double does too. All calls of one shard come
//! from one thread, at non-decreasing `now`.

use core::net::SocketAddr;
use mptcp_core::error::{ConnectionError, OpenError, RecvError, RelayError, SendError};
use mptcp_core::stack::{Connect, ConnectionInfo, Event, Listen, SocketId};
use mptcp_core::time::Instant;

/// Sockets of one shard.
pub trait Shard {
    /// Opens a listener.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn listen(&mut self, local: SocketAddr, options: &Listen) -> Result<SocketId, OpenError>;

    /// Starts a connection; [`Ready::CONNECTED`](mptcp_core::stack::Ready::CONNECTED) or
    /// [`Ready::CLOSED`](mptcp_core::stack::Ready::CLOSED) follows.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn connect(&mut self, now: Instant, with: &Connect) -> Result<SocketId, OpenError>;

    /// The next established connection of `listener`.
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

    /// Addresses, subflows and byte counts; still there after `CLOSED`, until `release`.
    fn info(&self, id: SocketId) -> Option<ConnectionInfo>;

    /// Why the connection ended, when it ended with an error.
    fn error(&self, id: SocketId) -> Option<ConnectionError>;

    /// Attaches `data` to every later event of `id`.
    fn set_user_data(&mut self, id: SocketId, data: u64);

    /// The next readiness report.
    fn poll_event(&mut self) -> Option<Event>;
}
