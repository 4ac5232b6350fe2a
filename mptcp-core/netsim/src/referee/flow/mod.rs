//! One TCP connection as one host sees it: what it sent, what reached it. Positions count from the
//! initial sequence number: 0 is the SYN, the first octet is 1.

mod handshake;
mod mptcp;
mod segment;

use super::data::Connections;
use super::maps::Maps;
use super::options::Seen;
use super::ranges::Ranges;
use super::stream::Stream;
use super::violation::Faults;
use crate::network::NodeId;
use crate::packet::mptcp::Capable;
use crate::packet::{TcpSegment, flag};
use core::net::IpAddr;
use std::collections::VecDeque;

/// SYNs a flow remembers to match an answer with.
const MAX_SYNS: usize = 8;
/// Mappings with incomplete data, and acknowledgements out of place, that a flow remembers.
const MAX_UNCHECKED: usize = 64;
const MAX_STRANGE_ACKS: usize = 64;
/// TSvals that a flow remembers to match an echo with: a thousand milliseconds of most clocks.
const MAX_TSVALS: usize = 1_024;
/// How long a host may not answer the same SYN with another sequence number. Longer than a
/// retransmission takes, shorter than any time after which half-open state may be dropped.
const HANDSHAKE_MEMORY_NS: u64 = 30_000_000_000;

/// What a look at one packet may need and change.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) node: NodeId,
    /// The host's own address.
    pub(super) local: IpAddr,
    pub(super) connections: &'a mut Connections,
    pub(super) max_connections: usize,
    pub(super) faults: &'a mut Faults,
    /// Bytes given back by connections that made room for others.
    pub(super) freed: usize,
    /// Octets compared with what was sent before.
    pub(super) payload_bytes: u64,
    /// Octets and DATA_ACKs judged on the data level.
    pub(super) data_bytes: u64,
    pub(super) data_acks: u64,
    pub(super) checksums: u64,
    pub(super) proofs: u64,
}

/// What the SYNs of one side said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SynOptions {
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamps: bool,
    capable: Option<Capable>,
    /// Token and nonce.
    join: Option<(u32, u32)>,
}

impl SynOptions {
    fn of(seen: &Seen<'_>) -> Self {
        Self {
            mss: seen.mss,
            window_scale: seen.window_scale,
            sack_permitted: seen.sack_permitted,
            timestamps: seen.timestamps.is_some(),
            capable: seen.capable,
            join: seen.join,
        }
    }

    /// The key that the SYN shows, in version 0.
    fn key(&self) -> Option<u64> {
        self.capable?.sender_key
    }

    /// A repeated SYN may leave options out; what any of them offered may be agreed on.
    fn include(&mut self, other: &Self) {
        self.mss = self.mss.or(other.mss);
        self.window_scale = self.window_scale.or(other.window_scale);
        self.sack_permitted |= other.sack_permitted;
        self.timestamps |= other.timestamps;
        self.capable = self.capable.or(other.capable);
        self.join = self.join.or(other.join);
    }
}

/// A SYN that reached the host.
#[derive(Clone, Copy, Debug)]
struct PeerSyn {
    seq: u32,
    window: u16,
    payload_len: u64,
    tsval: Option<u32>,
    options: SynOptions,
}

/// What the flow is to MPTCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Role {
    /// Plain TCP: no MPTCP option may be sent.
    #[default]
    Plain,
    /// MP_CAPABLE was offered and not yet answered.
    Offered,
    /// MP_CAPABLE was agreed; the connection, once its local key is known.
    Initial(Option<u64>),
    /// A joined subflow of a connection.
    Joined(u64),
    /// MPTCP that is not judged (another version, or a connection that is no longer known).
    Unjudged,
}

impl Role {
    pub(super) const fn connection(self) -> Option<u64> {
        match self {
            Self::Initial(id) => id,
            Self::Joined(id) => Some(id),
            _ => None,
        }
    }
}

/// One connection at one host.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) role: Role,
    iss: Option<u32>,
    irs: Option<u32>,
    own: SynOptions,
    own_syn_window: u16,
    peer: SynOptions,
    syns: VecDeque<PeerSyn>,
    syns_forgotten: bool,
    /// When the last SYN or SYN/ACK was sent.
    opened_at: u64,
    /// An acknowledgement of our SYN arrived.
    confirmed: bool,
    /// A reset ended it: nothing but another may follow until the next SYN.
    pub(super) dead: bool,
    pub(super) stream: Stream,
    /// Next position never sent; a FIN counts.
    snd_max: u64,
    fin: Option<u64>,
    /// Octets of data that the SYN carried and the peer accepted: not part of subflow sequence
    /// numbers (RFC 8684 appendix B).
    syn_data: u64,
    acked: u64,
    edge: u64,
    /// What reached the host, its end, and where the peer's FIN was.
    arrived: Ranges,
    reached: u64,
    peer_fin: Option<u64>,
    /// Octets of data on the peer's SYN that the host took.
    peer_syn_data: u64,
    /// The latest acknowledgements of what the host never sent: resets may answer them.
    strange_acks: VecDeque<u32>,
    last_ack: u64,
    last_edge: Option<u64>,
    /// `last_edge` was announced without window scaling, on a SYN.
    edge_unscaled: bool,
    tsval_sent: Option<u32>,
    tsval_seen: Option<u32>,
    /// The latest TSvals that arrived, each once in a row.
    tsvals: VecDeque<u32>,
    /// What was forgotten of them is not newer than this.
    tsvals_forgotten: Option<u32>,
    local_key: Option<u64>,
    remote_key: Option<u64>,
    maps: Maps,
    mapped: bool,
    /// Octets sent without a mapping so far.
    unmapped: Ranges,
    /// Mappings whose data was not complete when they were sent.
    unchecked: VecDeque<Signed>,
    /// Mappings that reached the host.
    peer_maps: Maps,
    /// Data reached the host in order that no mapping covers: it may fall back.
    peer_unmapped: bool,
    /// Nonce of the peer's MP_JOIN.
    join_nonce: Option<u32>,
    /// Id of the host's address; that of the first subflow is 0.
    address_id: u8,
}

/// A mapping with the checksum the host gave it.
#[derive(Clone, Copy, Debug)]
struct Signed {
    /// Where its data begins in the subflow, and how many octets it has.
    start: u64,
    len: u64,
    dsn: u64,
    ssn: u32,
    wire_len: u16,
    checksum: u16,
}

impl Flow {
    /// Judges a segment the host sends.
    pub(super) fn sent(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        ipv6: bool,
        context: &mut Context<'_>,
    ) {
        if segment.has(flag::RST) {
            self.sent_reset(segment, seen, context);
            return;
        }
        match (segment.has(flag::SYN), segment.has(flag::ACK)) {
            (true, false) => self.sent_syn(segment, seen, context),
            (true, true) => self.sent_syn_ack(segment, seen, context),
            (false, _) => self.sent_segment(segment, seen, ipv6, context),
        }
    }

    /// Learns from a segment that reached the host intact.
    pub(super) fn delivered(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        context: &mut Context<'_>,
    ) {
        if segment.has(flag::RST) {
            return;
        }
        match (segment.has(flag::SYN), segment.has(flag::ACK)) {
            (true, false) => self.delivered_syn(segment, seen),
            (true, true) => self.delivered_syn_ack(segment, seen),
            (false, _) => self.delivered_segment(segment, seen, context),
        }
    }

    /// Both FINs are acknowledged, or a reset was sent: the flow needs no memory.
    pub(super) fn finished(&self) -> bool {
        let closed = self.fin.is_some_and(|fin| self.acked > fin)
            && self.peer_fin.is_some_and(|fin| self.last_ack > fin);
        closed || self.dead
    }

    /// The host takes part in it, and it is not over.
    pub(super) fn alive(&self) -> bool {
        self.iss.is_some() && !self.finished()
    }

    /// Memory in use, in bytes.
    pub(super) fn held(&self) -> usize {
        let maps = self.maps.count() + self.peer_maps.count();
        let ranges = self.arrived.count() + self.unmapped.count();
        self.stream.held() + (maps + ranges) * size_of::<[u64; 4]>()
    }
}
