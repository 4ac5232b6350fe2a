//! What applications see of the stack: ids, readiness, requests and reports.

use crate::error::ConnectionError;
use crate::mptcp::FallbackReason;
use crate::time::Duration;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// A socket of one stack: 32 bits of generation above 32 bits of position. Stale ids are detected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

impl core::fmt::Debug for SocketId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "#{:x}", self.0)
    }
}

bitflags::bitflags! {
    /// Edge-triggered readiness: a bit is reported once and again only after it became false.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Ready: u16 {
        /// The listener has a connection (or, when deferred, a request) for `accept`.
        const ACCEPT = 1;
        /// Our `connect` succeeded.
        const CONNECTED = 1 << 1;
        /// Data, or the end of the stream, can be read.
        const READABLE = 1 << 2;
        /// Room in the send buffer after `WouldBlock`.
        const WRITABLE = 1 << 3;
        /// The peer will send no more (its FIN or `DATA_FIN` is in order).
        const READ_CLOSED = 1 << 4;
        /// The connection ended, in order or not (`Socket::error` says which). The id stays valid
        /// until `release`.
        const CLOSED = 1 << 5;
        /// A relay moved octets, or a peer acknowledged some, since the last event (at most once a
        /// second per relay).
        const PROGRESS = 1 << 6;
        /// An ICMP error about a datagram waits for `udp_error`.
        const ERROR = 1 << 7;
    }
}

/// One coalesced readiness report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Whose.
    pub socket: SocketId,
    /// What became true.
    pub ready: Ready,
    /// What the application attached with `set_user_data` (or [`Listen`], [`Connect`]).
    pub user_data: u64,
}

/// How to listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen {
    /// Answer `MP_CAPABLE`; otherwise plain TCP only.
    pub mptcp: bool,
    /// Offer each SYN to the application first: `accept` then yields a request that
    /// `accept_deferred` or `refuse_deferred` answers.
    pub deferred: bool,
    /// Copied into events and accepted sockets.
    pub user_data: u64,
}

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Our address; it must be one of the stack's.
    pub local: IpAddr,
    /// Our port; 0 draws an ephemeral one (RFC 6056).
    pub local_port: u16,
    /// The peer.
    pub remote: SocketAddr,
    /// Offer MPTCP.
    pub mptcp: bool,
    /// Give up the handshake after this long; `None`: after `tcp.syn_retries`.
    pub timeout: Option<Duration>,
    /// Copied into events.
    pub user_data: u64,
}

/// State of one subflow (or of the one TCP connection under a plain socket).
#[derive(Clone, Debug)]
pub struct SubflowInfo {
    /// Position in the connection, stable for the subflow's life.
    pub id: u8,
    /// Access port it runs over.
    pub port: crate::buf::PortId,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// RFC 9293 state.
    pub state: crate::tcp::State,
    /// Used only when nothing else works.
    pub backup: bool,
    /// Sidelined: it stopped making progress while others do.
    pub stale: bool,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Payload bytes sent for the first time on this subflow.
    pub bytes_sent: u64,
    /// Payload bytes received in order on this subflow.
    pub bytes_received: u64,
    /// Segments retransmitted.
    pub retransmitted: u64,
    /// Payload bytes that were first sent on another subflow.
    pub reinjected: u64,
}

/// State of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Our address as the peer's first packet named it.
    pub local: SocketAddr,
    /// The peer's address on the first subflow.
    pub remote: SocketAddr,
    /// Negotiated MPTCP version; `None` for plain TCP.
    pub mptcp: Option<u8>,
    /// Why MPTCP fell back to TCP, when it did.
    pub fallback: Option<FallbackReason>,
    /// Stream bytes accepted from the application (or relay) for sending.
    pub bytes_sent: u64,
    /// Stream bytes the peer acknowledged at the stream level.
    pub bytes_acked: u64,
    /// Stream bytes delivered in order.
    pub bytes_received: u64,
    /// Established subflows, oldest first; one entry for plain TCP.
    pub subflows: Vec<SubflowInfo>,
    /// Why it ended, when it ended with an error.
    pub error: Option<ConnectionError>,
}
