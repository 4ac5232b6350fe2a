//! What applications see of the stack: ids, readiness, requests and reports.

use crate::error::ConnectionError;
use crate::event_log::SubflowEnd;
use crate::mptcp::FallbackReason;
use crate::seq::DataSeq;
use crate::tcp::TcpInfo;
use crate::time::{Duration, Instant};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// A socket of one stack: 32 bits of generation above 32 bits of position. Stale ids are detected:
/// commands on them do nothing, questions answer `None`, `false` or `InvalidSocket`.
///
/// ```
/// # use mptcp_core::buf::{HeapBuf, HeapPool};
/// # use mptcp_core::config::StackConfig;
/// # use mptcp_core::error::RecvError;
/// # use mptcp_core::stack::{SocketId, Stack};
/// # use mptcp_core::time::Instant;
/// # let now = Instant::from_millis(1);
/// # let memory = Box::new(HeapPool::new(10, 1_700));
/// # let mut stack: Stack<HeapBuf> = Stack::new(StackConfig::default(), now, memory);
/// let stale = SocketId(7);
/// assert_eq!(stack.recv(now, stale, &mut [0; 10]), Err(RecvError::InvalidSocket));
/// assert!(stack.info(stale).is_none());
/// ```
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
        /// The connection ended, in order or not ([`super::Stack::error`] says which). The id stays valid
        /// until [`super::Stack::release`].
        const CLOSED = 1 << 5;
        /// A relay moved octets, or a peer acknowledged some, since the last event (at most once a
        /// second per relay).
        const PROGRESS = 1 << 6;
        /// An ICMP error about a datagram waits for `udp_error`.
        const ERROR = 1 << 7;
        /// The peer sent urgent data, or more of it: `urgent` says how far it goes.
        const URGENT = 1 << 8;
        /// The SYN of a deferred request came again while nobody has decided about it.
        const REPEATED = 1 << 9;
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
///
/// ```
/// # use mptcp_core::buf::{HeapBuf, HeapPool};
/// # use mptcp_core::config::StackConfig;
/// # use mptcp_core::error::OpenError;
/// use mptcp_core::stack::{Listen, Stack};
/// # use mptcp_core::time::Instant;
/// # let memory = Box::new(HeapPool::new(10, 1_700));
/// # let now = Instant::from_millis(1);
/// # let mut stack: Stack<HeapBuf> = Stack::new(StackConfig::default(), now, memory);
/// // Port 80 of every address, IPv4; `user_data` tells its events from others.
/// let options = Listen { mptcp: true, user_data: 1, ..Listen::default() };
/// let listener = stack.listen("0.0.0.0:80".parse()?, &options)?;
/// assert!(stack.accept(listener).is_none(), "nobody has come yet");
/// assert_eq!(stack.listen("0.0.0.0:80".parse()?, &options), Err(OpenError::AddressInUse));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen {
    /// Answer `MP_CAPABLE`; otherwise plain TCP only.
    pub mptcp: bool,
    /// Offer each SYN to the application first: `accept` then yields a request that
    /// `accept_deferred`, `open_deferred` or `refuse_deferred` answers, within a minute. At most half of
    /// `limits.half_open` wait for that. A request whose peer resets it, or whose time is over, reports
    /// [`Ready::CLOSED`], and its id is stale then.
    pub deferred: bool,
    /// Of these, only SYNs with text. One without text, and any while the table of requests is full or
    /// memory is short, is answered at once, by a SYN cookie where need be: what the peer has to say
    /// comes again after the handshake, through a connection from `accept`.
    pub only_text: bool,
    /// Of these, a SYN for which the table of requests has no room, or that comes while memory is short, is
    /// answered at once as well, by a SYN cookie where need be; otherwise it is dropped.
    pub or_at_once: bool,
    /// Fast Open (RFC 7413): so many connections at once are given out, with the data of their SYN,
    /// before their handshake is over, to peers that show a cookie of ours; beyond it, as with 0 (the
    /// default), a handshake comes first. The same SYN data may arrive twice, as two connections, when
    /// the network or the peer repeats its SYN late (RFC 7413 §6.1): only for protocols to which that
    /// does no harm. Has no effect where requests are deferred.
    pub fast_open: u32,
    /// Nobody but this peer: to others it is as if nobody listened.
    pub from: Option<IpAddr>,
    /// Copied into events and accepted sockets.
    pub user_data: u64,
}

/// How to connect.
///
/// ```
/// # use mptcp_core::buf::{HeapBuf, HeapPool, PortId};
/// # use mptcp_core::config::{LocalAddress, StackConfig};
/// # use mptcp_core::error::OpenError;
/// use mptcp_core::stack::{Connect, Stack};
/// use mptcp_core::time::Duration;
/// # use mptcp_core::time::Instant;
/// # let memory = Box::new(HeapPool::new(10, 1_700));
/// # let now = Instant::from_millis(1);
/// # let addr = "10.0.0.1".parse()?;
/// # let local = LocalAddress { addr, port: PortId(0), mtu: 1500, endpoint: true, backup: false };
/// # let config = StackConfig { addresses: vec![local], ..StackConfig::default() };
/// # let mut stack: Stack<HeapBuf> = Stack::new(config, now, memory);
/// let with = Connect {
///     local: "10.0.0.1".parse()?, // one of the stack's, the first subflow's
///     local_port: 0,              // any
///     remote: "192.0.2.1:443".parse()?,
///     mptcp: true,
///     timeout: Some(Duration::from_secs(10)),
///     user_data: 0,
/// };
/// let id = stack.connect(now, &with)?; // the SYN goes out with the next `poll_transmit`
/// assert!(stack.info(id).is_some_and(|info| info.remote == with.remote));
/// let elsewhere = Connect { local: "10.9.9.9".parse()?, ..with };
/// assert_eq!(stack.connect(now, &elsewhere), Err(OpenError::BadAddress));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
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
    /// The handshake is complete as MPTCP sees it: a first subflow of ours waits for a DSS that shows the
    /// peer has both keys, a join of ours for the fourth ACK and carries nothing before (RFC 8684 §3.1,
    /// 3.2). Of what the peer opened, and for plain TCP, true once it is established.
    pub fully_established: bool,
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
    /// Id of our address (RFC 8684 §3.2); 0 on the first subflow.
    pub local_id: u8,
    /// Id of the peer's address.
    pub remote_id: u8,
    /// The rest of what Linux's `TCP_INFO` says.
    pub tcp: TcpInfo,
}

/// The data level of one MPTCP connection: what Linux's `MPTCP_INFO` says beyond what
/// [`ConnectionInfo`] has anyway. After a fallback the numbers go on as if every octet were mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DataLevelInfo {
    /// We opened it.
    pub client: bool,
    /// Token by which the peer's joins name it.
    pub local_token: u32,
    /// Token by which our joins name it; meaningless before the peer's key is known.
    pub remote_token: u32,
    /// The peer's key is known.
    pub remote_key_known: bool,
    /// DSS checksums are used.
    pub checksum: bool,
    /// Data sequence number behind the last octet accepted for sending.
    pub write_seq: DataSeq,
    /// First data sequence number that no `DATA_ACK` covers.
    pub snd_una: DataSeq,
    /// Next data sequence number to be sent.
    pub snd_nxt: DataSeq,
    /// Next data sequence number expected.
    pub rcv_nxt: DataSeq,
    /// Octets the peer takes beyond `snd_una`.
    pub snd_wnd: u64,
    /// Octets the peer was promised beyond `rcv_nxt`.
    pub rcv_wnd: u32,
    /// Rounds of the data-level retransmission timer without progress.
    pub retransmits: u8,
    /// Octets sent again on another subflow.
    pub bytes_retrans: u64,
    /// Subflows allowed at once ([`crate::config::MptcpConfig::max_subflows`]).
    pub subflows_max: u8,
    /// Subflows that ended, stops at 65,535.
    pub subflows_ended: u16,
    /// How the last of them did.
    pub last_subflow_end: Option<SubflowEnd>,
    /// Joins by the peer whose handshake is not complete.
    pub half_open_joins: u8,
    /// Addresses announced to the peer; stops at 255.
    pub add_addr_signalled: u8,
    /// Addresses of the peer's announcements that we remember.
    pub add_addr_accepted: u8,
    /// As many of them are remembered at most.
    pub add_addr_accepted_max: u8,
    /// The peer takes no joins to its first address (C flag).
    pub deny_join_initial: bool,
    /// When data, a SYN or a FIN last went out, on any subflow that is left.
    pub last_data_sent: Option<Instant>,
    /// When data last came in.
    pub last_data_received: Option<Instant>,
    /// When a segment last came in.
    pub last_ack_received: Option<Instant>,
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
    /// Subflows, those that are joining included, oldest first: at most `max_subflows` and one for
    /// each join in progress; one entry for plain TCP.
    pub subflows: Vec<SubflowInfo>,
    /// The data level; `None` for a socket that never was an MPTCP connection.
    pub data_level: Option<DataLevelInfo>,
    /// Why it ended, when it ended with an error.
    pub error: Option<ConnectionError>,
}
