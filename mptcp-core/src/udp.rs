//! One datagram socket (RFC 768, RFC 1122 §4.1): what it received, what it has to send, and what ICMP
//! said about what it sent. [`crate::stack::Stack::udp_bind`] makes one.
//!
//! Invariant: both queues are bounded by count and by the memory they pin, the errors by count; what
//! does not fit is refused and counted. A datagram stays whole from its packet to its reader.
//!
//! ```
//! use core::net::{IpAddr, SocketAddr};
//! use mptcp_core::buf::{HeapPool, HeapTxQueue, PortId};
//! use mptcp_core::config::{LocalAddress, StackConfig};
//! use mptcp_core::stack::{Ready, Stack};
//! use mptcp_core::time::Instant;
//! use mptcp_core::udp::{SendTo, UdpOptions};
//!
//! let now = Instant::from_nanos(1);
//! let pool = HeapPool::new(64, 1500);
//! let stack = |addr: [u8; 4]| {
//!     let mut config = StackConfig::default();
//!     config.addresses.push(LocalAddress {
//!         addr: addr.into(),
//!         port: PortId(0),
//!         mtu: 1500,
//!         endpoint: false,
//!         backup: false,
//!     });
//!     Stack::new(config, now, Box::new(pool.clone()))
//! };
//! let (mut client, mut server) = (stack([10, 0, 0, 1]), stack([10, 0, 0, 2]));
//! let echo = SocketAddr::from(([10, 0, 0, 2], 7));
//! let service = server.udp_bind(echo, &UdpOptions::default())?;
//! // A free port on whatever address reaches the peer, and nobody else's datagrams.
//! let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
//! let options = UdpOptions { remote: Some(echo), ..UdpOptions::default() };
//! let socket = client.udp_bind(anywhere, &options)?;
//! client.udp_send_to(socket, b"hello", &SendTo::peer())?;
//!
//! let mut wire = HeapTxQueue::new(64, pool.clone());
//! let mut burst = Vec::new();
//! assert_eq!(client.poll_transmit(now, &mut wire), mptcp_core::driver::Progress::Done);
//! burst.extend(wire.pop());
//! server.handle_burst(now, &mut burst);
//! let event = server.poll_event().expect("a datagram arrived");
//! assert_eq!((event.socket, event.ready), (service, Ready::READABLE));
//! let (received, payload) = server.udp_recv_buf(service).expect("it is still there");
//! // The buffer goes back as it came, from the address and by the port it came in on.
//! server.udp_send_buf(service, payload, &received.reply()).map_err(|(error, _)| error)?;
//!
//! assert_eq!(server.poll_transmit(now, &mut wire), mptcp_core::driver::Progress::Done);
//! burst.extend(wire.pop());
//! client.handle_burst(now, &mut burst);
//! let mut text = [0; 16];
//! let received = client.udp_recv_from(socket, &mut text).expect("the echo");
//! assert_eq!((received.remote, &text[..received.len]), (echo, &b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::buf::{PacketBuf, PortId};
use crate::config::Marking;
use crate::stack::Ready;
use crate::wire::IcmpErrorKind;
use alloc::collections::VecDeque;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// ICMP errors one socket keeps; further ones are dropped and counted.
const MAX_ERRORS: usize = 8;

/// How to bind a datagram socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpOptions {
    /// The one peer to talk to. Datagrams and ICMP errors of others are not received.
    pub remote: Option<SocketAddr>,
    /// Received datagrams that wait for their reader at most; at least 1.
    pub recv_datagrams: u32,
    /// Memory they pin at most, in bytes of truesize. A single one may exceed it.
    pub recv_bytes: u32,
    /// Datagrams that wait to be sent at most; at least 1.
    pub send_datagrams: u32,
    /// Memory they pin at most, in bytes of truesize. A single one may exceed it.
    pub send_bytes: u32,
    /// Copied into events.
    pub user_data: u64,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            remote: None,
            recv_datagrams: 256,
            recv_bytes: 512 << 10,
            send_datagrams: 256,
            send_bytes: 512 << 10,
            user_data: 0,
        }
    }
}

/// Where a datagram goes, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendTo {
    /// The receiver; `None` is the peer of a connected socket.
    pub remote: Option<SocketAddr>,
    /// Which of our addresses sends it. `None` is the one the socket is bound to or, where that is
    /// unspecified, the first of ours that belongs to `via` and suits the receiver.
    pub local: Option<IpAddr>,
    /// The port it leaves by; [`PortId::ROUTED`] leaves the choice to the routes.
    pub via: PortId,
}

impl SendTo {
    /// To the peer of a connected socket.
    #[must_use]
    pub fn peer() -> Self {
        Self::default()
    }
}

impl From<SocketAddr> for SendTo {
    fn from(remote: SocketAddr) -> Self {
        Self { remote: Some(remote), ..Self::default() }
    }
}

/// What is known about a received datagram beside its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// The sender. Port 0 means that it expects no answer.
    pub remote: SocketAddr,
    /// Which of our addresses it was sent to.
    pub local: SocketAddr,
    /// The port it came in on.
    pub via: PortId,
    /// Length of its payload in bytes.
    pub len: usize,
}

impl Received {
    /// Back to the sender, from the address and by the port the datagram came in on.
    #[must_use]
    pub fn reply(&self) -> SendTo {
        SendTo { remote: Some(self.remote), local: Some(self.local.ip()), via: self.via }
    }
}

/// An ICMP error about a datagram of a socket. Nothing proves that it is genuine: a sender who
/// guesses the addresses and ports can forge it (RFC 5927), so it is advice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpError {
    /// What went wrong. `FragmentationNeeded` carries the MTU that fits.
    pub kind: IcmpErrorKind,
    /// Who the datagram was for.
    pub remote: SocketAddr,
    /// Which of our addresses sent it.
    pub local: SocketAddr,
}

/// Why a datagram was not taken for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UdpSendError {
    /// The socket's send queue is full: wait for [`Ready::WRITABLE`].
    WouldBlock,
    /// The id is stale or names no datagram socket.
    InvalidSocket,
    /// There is no receiver, it is no single host, of another family, or not the peer of a connected
    /// socket; or the local address is not ours or not the one the socket is bound to.
    BadAddress,
    /// No datagram can be so long. What does not fit the MTU goes in fragments.
    TooLong {
        /// The longest payload that fits, in bytes.
        limit: usize,
    },
    /// The stack's buffer pool is exhausted: try again later, no event will tell when.
    NoBuffer,
}

impl fmt::Display for UdpSendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the send queue is full"),
            Self::InvalidSocket => f.write_str("not an open datagram socket"),
            Self::BadAddress => f.write_str("this socket cannot send there from there"),
            Self::TooLong { limit } => {
                write!(f, "longer than the {limit} bytes of a datagram")
            }
            Self::NoBuffer => f.write_str("no buffer left in the pool"),
        }
    }
}

impl core::error::Error for UdpSendError {}

/// State of one datagram socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpInfo {
    /// Where it is bound, its port never 0.
    pub local: SocketAddr,
    /// The peer of a connected socket.
    pub remote: Option<SocketAddr>,
    /// Datagrams put into the receive queue.
    pub received: u64,
    /// Datagrams dropped because the receive queue was full.
    pub dropped: u64,
    /// Datagrams handed to the transmit queue.
    pub sent: u64,
    /// Datagrams that wait for their reader.
    pub unread: usize,
    /// Datagrams that wait to be sent.
    pub unsent: usize,
}

/// A datagram to send, its addresses checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) via: PortId,
    /// Longest packet that the first link takes.
    pub(crate) mtu: u16,
}

/// Datagrams in order, bounded by count and truesize.
#[derive(Debug)]
struct Queue<H, B> {
    datagrams: VecDeque<(H, B)>,
    truesize: usize,
    max_datagrams: usize,
    max_truesize: usize,
}

impl<H, B: PacketBuf> Queue<H, B> {
    fn new(max_datagrams: u32, max_truesize: u32) -> Self {
        Self {
            datagrams: VecDeque::new(),
            truesize: 0,
            max_datagrams: max_datagrams.max(1) as usize,
            max_truesize: max_truesize as usize,
        }
    }

    /// Gives the buffer back when it does not fit. An empty queue takes any one datagram: a limit
    /// below the size of a buffer would otherwise mean that nothing ever passes.
    fn push(&mut self, head: H, buf: B) -> Result<(), B> {
        let truesize = self.truesize.saturating_add(buf.truesize());
        let fits = self.datagrams.len() < self.max_datagrams && truesize <= self.max_truesize;
        if !fits && !self.datagrams.is_empty() {
            return Err(buf);
        }
        self.truesize = truesize;
        self.datagrams.push_back((head, buf));
        Ok(())
    }

    fn pop(&mut self) -> Option<(H, B)> {
        let (head, buf) = self.datagrams.pop_front()?;
        self.truesize = self.truesize.saturating_sub(buf.truesize());
        if self.datagrams.is_empty() {
            // An idle socket holds nothing.
            self.datagrams = VecDeque::new();
        }
        Some((head, buf))
    }

    /// The oldest that is `wanted`, and its place.
    fn take(&mut self, wanted: impl Fn(&H) -> bool) -> Option<(usize, H, B)> {
        let at = self.datagrams.iter().position(|(head, _)| wanted(head))?;
        let (head, buf) = self.datagrams.remove(at)?;
        self.truesize = self.truesize.saturating_sub(buf.truesize());
        if self.datagrams.is_empty() {
            self.datagrams = VecDeque::new();
        }
        Some((at, head, buf))
    }

    /// Back to its place.
    fn untake(&mut self, at: usize, head: H, buf: B) {
        self.truesize = self.truesize.saturating_add(buf.truesize());
        self.datagrams.insert(at.min(self.datagrams.len()), (head, buf));
    }

    fn clear(&mut self) {
        self.datagrams = VecDeque::new();
        self.truesize = 0;
    }

    /// An empty one never is: see [`Self::push`].
    fn is_full(&self) -> bool {
        let full = self.datagrams.len() >= self.max_datagrams || self.truesize >= self.max_truesize;
        full && !self.datagrams.is_empty()
    }
}

/// The state behind a [`crate::stack::SocketId`].
#[derive(Debug)]
pub(crate) struct UdpSocket<B> {
    local: SocketAddr,
    remote: Option<SocketAddr>,
    pub(crate) user_data: u64,
    pub(crate) marking: Marking,
    /// Readiness not reported yet.
    pub(crate) pending: Ready,
    /// The next arrival is an edge.
    read_armed: bool,
    /// The next room in the send queue is an edge.
    write_armed: bool,
    /// Closed: it lives on until what it has to send is gone.
    closed: bool,
    received: Queue<Received, B>,
    sending: Queue<Outgoing, B>,
    /// Fragments of what was cut, for which their port had no room any more: of one datagram for each port.
    parts: VecDeque<B>,
    errors: VecDeque<UdpError>,
    received_count: u64,
    dropped_count: u64,
    sent_count: u64,
}

impl<B: PacketBuf> UdpSocket<B> {
    pub(crate) fn new(local: SocketAddr, options: &UdpOptions, marking: Marking) -> Self {
        Self {
            local,
            remote: options.remote.map(plain),
            user_data: options.user_data,
            marking,
            pending: Ready::empty(),
            read_armed: true,
            write_armed: false,
            closed: false,
            received: Queue::new(options.recv_datagrams, options.recv_bytes),
            sending: Queue::new(options.send_datagrams, options.send_bytes),
            parts: VecDeque::new(),
            errors: VecDeque::new(),
            received_count: 0,
            dropped_count: 0,
            sent_count: 0,
        }
    }

    /// Takes a datagram in; answers what became ready, or `None` when there was no room.
    pub(crate) fn deliver(&mut self, received: Received, payload: B) -> Option<Ready> {
        if self.received.push(received, payload).is_err() {
            self.dropped_count += 1;
            return None;
        }
        self.received_count += 1;
        let armed = core::mem::replace(&mut self.read_armed, false);
        Some(if armed { Ready::READABLE } else { Ready::empty() })
    }

    /// The oldest datagram; when there is none the next one is an edge.
    pub(crate) fn read(&mut self) -> Option<(Received, B)> {
        let datagram = self.received.pop();
        self.read_armed |= datagram.is_none();
        datagram
    }

    /// Queues a datagram; gives it back when there is no room, and then room is an edge.
    pub(crate) fn send(&mut self, outgoing: Outgoing, payload: B) -> Result<(), B> {
        let queued = self.sending.push(outgoing, payload);
        self.write_armed |= queued.is_err();
        queued
    }

    /// True while `send` would certainly refuse; room is then an edge.
    pub(crate) fn is_blocked(&mut self) -> bool {
        let full = self.sending.is_full();
        self.write_armed |= full;
        full
    }

    /// The next datagram to send by a port that has room, and its place in the queue. Fragments that are left for the
    /// port go first.
    pub(crate) fn next_outgoing(
        &mut self,
        has_room: impl Fn(PortId) -> bool,
    ) -> Option<(usize, Outgoing, B)> {
        let Self { sending, parts, .. } = self;
        let waits = |port| parts.iter().any(|part| part.tx_meta().port == port);
        sending.take(|outgoing| has_room(outgoing.via) && !waits(outgoing.via))
    }

    /// The next fragment that its port has room for.
    pub(crate) fn next_part(&mut self, has_room: impl Fn(PortId) -> bool) -> Option<B> {
        let at = self.parts.iter().position(|part| has_room(part.tx_meta().port))?;
        self.parts.remove(at)
    }

    /// A fragment that its port has no room for.
    pub(crate) fn keep_part(&mut self, part: B) {
        self.parts.push_back(part);
    }

    /// It could not be sent now: it keeps its place.
    pub(crate) fn put_back(&mut self, at: usize, outgoing: Outgoing, payload: B) {
        self.sending.untake(at, outgoing, payload);
    }

    /// Counts a datagram that was not taken in.
    pub(crate) const fn refuse(&mut self) {
        self.dropped_count += 1;
    }

    /// `count` datagrams went out; answers what became ready.
    pub(crate) fn sent(&mut self, count: usize) -> Ready {
        self.sent_count += count as u64;
        if self.closed || !self.write_armed || self.sending.is_full() {
            return Ready::empty();
        }
        self.write_armed = false;
        Ready::WRITABLE
    }

    /// Keeps an ICMP error; false when there are too many.
    pub(crate) fn report(&mut self, error: UdpError) -> bool {
        let room = self.errors.len() < MAX_ERRORS;
        if room {
            self.errors.push_back(error);
        }
        room
    }

    pub(crate) fn take_error(&mut self) -> Option<UdpError> {
        self.errors.pop_front()
    }

    /// Nobody reads any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.received.clear();
        self.errors = VecDeque::new();
        self.pending = Ready::empty();
    }

    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !(self.sending.datagrams.is_empty() && self.parts.is_empty())
    }

    /// True when it receives from `remote`.
    pub(crate) fn accepts(&self, remote: SocketAddr) -> bool {
        self.remote.is_none_or(|peer| peer == remote)
    }

    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) const fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    pub(crate) fn info(&self) -> UdpInfo {
        UdpInfo {
            local: self.local,
            remote: self.remote,
            received: self.received_count,
            dropped: self.dropped_count,
            sent: self.sent_count,
            unread: self.received.datagrams.len(),
            unsent: self.sending.datagrams.len(),
        }
    }
}

/// Without flow label and scope, which packets do not repeat.
pub(crate) const fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::HeapBuf;

    fn socket(options: UdpOptions) -> UdpSocket<HeapBuf> {
        UdpSocket::new(SocketAddr::from(([10, 0, 0, 1], 53)), &options, Marking::default())
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], port))
    }

    fn received(len: usize) -> (Received, HeapBuf) {
        let local = SocketAddr::from(([10, 0, 0, 1], 53));
        let received = Received { remote: peer(9), local, via: PortId(1), len };
        (received, HeapBuf::from_slice(&alloc::vec![7; len]))
    }

    fn outgoing() -> Outgoing {
        let local = SocketAddr::from(([10, 0, 0, 1], 53));
        Outgoing { local, remote: peer(9), via: PortId(0), mtu: 1500 }
    }

    #[test]
    fn the_receive_queue_is_bounded_by_count() {
        let mut s = socket(UdpOptions { recv_datagrams: 2, ..UdpOptions::default() });
        for ready in [Some(Ready::READABLE), Some(Ready::empty()), None] {
            let (head, buf) = received(10);
            assert_eq!(s.deliver(head, buf), ready);
        }
        assert_eq!((s.info().received, s.info().dropped, s.info().unread), (2, 1, 2));
        assert!(s.read().is_some());
        let (head, buf) = received(10);
        assert_eq!(s.deliver(head, buf), Some(Ready::empty()), "no edge before it ran empty");
        assert!(s.read().is_some() && s.read().is_some() && s.read().is_none());
        let (head, buf) = received(10);
        assert_eq!(s.deliver(head, buf), Some(Ready::READABLE));
    }

    #[test]
    fn the_receive_queue_is_bounded_by_what_it_pins() {
        let size = u32::try_from(received(100).1.truesize()).unwrap();
        let mut s = socket(UdpOptions { recv_bytes: 3 * size, ..UdpOptions::default() });
        let mut fits = || {
            let (head, buf) = received(100);
            s.deliver(head, buf).is_some()
        };
        assert_eq!([fits(), fits(), fits(), fits()], [true, true, true, false]);
        assert!(s.read().is_some());
        let (head, buf) = received(100);
        assert!(s.deliver(head, buf).is_some(), "what was read makes room");
        // Below one buffer: one at a time, not none.
        let mut s =
            socket(UdpOptions { recv_bytes: 1, recv_datagrams: 0, ..UdpOptions::default() });
        let (head, buf) = received(100);
        assert!(s.deliver(head, buf).is_some());
        let (head, buf) = received(100);
        assert!(s.deliver(head, buf).is_none());
    }

    #[test]
    fn room_in_the_send_queue_is_an_edge() {
        let mut s = socket(UdpOptions { send_datagrams: 1, ..UdpOptions::default() });
        assert!(!s.is_blocked());
        assert!(s.send(outgoing(), HeapBuf::from_slice(b"1")).is_ok());
        assert!(s.send(outgoing(), HeapBuf::from_slice(b"2")).is_err_and(|buf| buf.data() == b"2"));
        assert_eq!(s.sent(0), Ready::empty(), "still full");
        let (at, head, buf) = s.next_outgoing(|_| true).unwrap();
        s.put_back(at, head, buf);
        assert!(s.is_blocked());
        assert!(s.next_outgoing(|_| false).is_none());
        assert!(s.next_outgoing(|_| true).is_some_and(|(_, _, buf)| buf.data() == b"1"));
        assert_eq!(s.sent(1), Ready::WRITABLE);
        assert_eq!(s.sent(0), Ready::empty(), "reported once");
        assert_eq!((s.info().sent, s.info().unsent), (1, 0));
    }

    #[test]
    fn a_send_queue_without_room_takes_one_at_a_time() {
        for (send_bytes, send_datagrams) in [(0, 64), (1 << 20, 0), (0, 0)] {
            let options = UdpOptions { send_bytes, send_datagrams, ..UdpOptions::default() };
            let mut s = socket(options);
            for sent in [b"1", b"2"] {
                assert!(!s.is_blocked());
                assert!(s.send(outgoing(), HeapBuf::from_slice(sent)).is_ok());
                assert!(s.is_blocked());
                assert!(s.send(outgoing(), HeapBuf::from_slice(b"3")).is_err());
                assert!(s.next_outgoing(|_| true).is_some_and(|(_, _, buf)| buf.data() == sent));
                assert_eq!(s.sent(1), Ready::WRITABLE);
            }
        }
    }

    #[test]
    fn errors_are_bounded() {
        let mut s = socket(UdpOptions::default());
        let error = UdpError {
            kind: IcmpErrorKind::PortUnreachable,
            remote: peer(9),
            local: SocketAddr::from(([10, 0, 0, 1], 53)),
        };
        let kept = (0..20).filter(|_| s.report(error)).count();
        assert_eq!(kept, MAX_ERRORS);
        assert_eq!(core::iter::from_fn(|| s.take_error()).count(), MAX_ERRORS);
    }

    #[test]
    fn a_connected_socket_knows_one_peer() {
        let scoped = core::net::SocketAddrV6::new(core::net::Ipv6Addr::LOCALHOST, 9, 5, 3);
        let options = UdpOptions { remote: Some(scoped.into()), ..UdpOptions::default() };
        let s = socket(options);
        let same = SocketAddr::from((core::net::Ipv6Addr::LOCALHOST, 9));
        assert!(s.accepts(same), "flow label and scope do not count");
        assert!(!s.accepts(SocketAddr::from((core::net::Ipv6Addr::LOCALHOST, 8))));
        assert!(socket(UdpOptions::default()).accepts(peer(1)));
    }

    #[test]
    fn a_closed_socket_holds_only_what_it_has_to_send() {
        let mut s = socket(UdpOptions::default());
        let (head, buf) = received(10);
        assert!(s.deliver(head, buf).is_some());
        assert!(s.send(outgoing(), HeapBuf::from_slice(b"1")).is_ok());
        s.close();
        assert!(s.is_closed() && s.has_unsent() && s.read().is_none());
        assert!(s.next_outgoing(|_| true).is_some() && !s.has_unsent());
    }
}
