//! Everything that can be set on a [`crate::stack::Stack`]. Sizes are bytes unless the name says
//! otherwise; whatever is sized by the number of connections is reserved when the stack is made.

use crate::buf::PortId;
use crate::cap::SharedCap;
use crate::steering::{MAX_SHARDS, Sharding};
use crate::time::Duration;
use crate::wire::Version;
use alloc::vec::Vec;
use core::net::IpAddr;

/// One address the stack answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    /// The address.
    pub addr: IpAddr,
    /// The access port it belongs to.
    pub port: PortId,
    /// The port's MTU: bounds the MSS of subflows that use this address. At least 68, with IPv6 1280.
    pub mtu: u16,
    /// Announce it with `ADD_ADDR` and open subflows from it.
    pub endpoint: bool,
    /// Subflows of this endpoint are backups (B bit of `MP_JOIN`, `MP_PRIO` on the first of a connection).
    pub backup: bool,
}

/// Congestion control of new connections; [`crate::stack::Stack::set_congestion`] chooses another one
/// for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum CongestionAlgorithm {
    /// RFC 5681 and 6582.
    NewReno,
    /// RFC 9438.
    Cubic,
    /// Rate and window by a model of the path (draft-ietf-ccwg-bbr).
    #[default]
    Bbr,
    /// Coupled over the subflows of a connection (RFC 6356).
    Lia,
    /// Opportunistic coupling.
    Olia,
    /// Balanced coupling.
    Balia,
}

impl CongestionAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 6] =
        [Self::Bbr, Self::Cubic, Self::NewReno, Self::Lia, Self::Olia, Self::Balia];

    /// Name in configurations, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewReno => "newreno",
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::Lia => "lia",
            Self::Olia => "olia",
            Self::Balia => "balia",
        }
    }
}

/// Explicit congestion notification of new connections and subflows (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EcnPolicy {
    /// Neither asked for nor granted.
    Off,
    /// Used when the peer asks: it costs nothing, and who asks has a path that bears it.
    #[default]
    Accept,
    /// Asked for in the first SYN too. Some middleboxes drop such a SYN, which then costs a timeout
    /// until it goes out without; hence not the default.
    Request,
}

impl EcnPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Off, Self::Accept, Self::Request];

    /// Name in configurations and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::Request => "request",
        }
    }
}

/// What is done about paths that take shorter packets than both ends, where no ICMP message says so
/// (RFC 4821).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MtuProbing {
    /// Nothing: such a path carries no full segment.
    Off,
    /// Timeouts of long segments cut the segment size, then larger ones are tried again.
    #[default]
    BlackHole,
    /// Every connection begins with short segments and tries larger ones.
    Always,
}

impl MtuProbing {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Off, Self::BlackHole, Self::Always];

    /// Name in configurations and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::BlackHole => "black_hole",
            Self::Always => "always",
        }
    }
}

/// How DSS checksums are negotiated (RFC 8684 §3.1, A bit).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumPolicy {
    /// Ask for them on every connection.
    Require,
    /// Use them when the peer asks.
    #[default]
    Accept,
    /// Drop to TCP when the peer asks.
    Refuse,
}

/// Which subflow carries the next data. Backup and sidelined subflows serve only while no other can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SchedulerKind {
    /// Lowest smoothed RTT with room; a slower path only where that delays neither the rest of the
    /// stream nor its end, and what the window waits for goes again on a faster path.
    #[default]
    Default,
    /// Lowest smoothed RTT with room, without a look ahead.
    LowestRtt,
    /// Segment by segment in turn.
    RoundRobin,
    /// In proportion to the weights of the paths.
    Weighted,
    /// Everything on every path.
    Redundant,
    /// Lowest RTT, unless the peer's window would fill up behind a slower path.
    Blest,
    /// Lowest RTT, unless the fastest path would be done sooner.
    Ecf,
    /// One path, the first in order; another only when it fails.
    ActiveBackup,
    /// The first path in order; the next ones take what does not fit.
    Overflow,
}

impl SchedulerKind {
    /// Every scheduler.
    pub const ALL: [Self; 9] = [
        Self::Default,
        Self::LowestRtt,
        Self::RoundRobin,
        Self::Weighted,
        Self::Redundant,
        Self::Blest,
        Self::Ecf,
        Self::ActiveBackup,
        Self::Overflow,
    ];

    /// Name in configurations, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::LowestRtt => "lowest_rtt",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::Redundant => "redundant",
            Self::Blest => "blest",
            Self::Ecf => "ecf",
            Self::ActiveBackup => "active_backup",
            Self::Overflow => "overflow",
        }
    }
}

/// What is asked of the paths over one port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathPolicy {
    /// The port.
    pub port: PortId,
    /// Smaller numbers first, for [`SchedulerKind::ActiveBackup`] and [`SchedulerKind::Overflow`].
    pub priority: u8,
    /// Share of the data relative to the other paths, for [`SchedulerKind::Weighted`]; at least 1.
    pub weight: u16,
    /// Stream octets per second that one connection may send over it; copies count, and what goes there again because
    /// another path lost it, but not what TCP sends again on the path itself.
    pub rate: Option<u64>,
}

impl PathPolicy {
    /// First in order, weight 1, no cap.
    #[must_use]
    pub const fn new(port: PortId) -> Self {
        Self { port, priority: 0, weight: 1, rate: None }
    }
}

/// How one connection spreads its data over its paths.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// The scheduler.
    pub kind: SchedulerKind,
    /// Stream octets per second the whole connection may send; copies and repairs do not count.
    pub rate: Option<u64>,
    /// Paths of which something is asked.
    pub paths: Vec<PathPolicy>,
    /// Caps on what goes over a port that the connection shares with others, of other stacks too; copies, and what
    /// another path lost, wait as new data does. What TCP sends again on the same path does not, and is not charged.
    pub caps: Vec<(PortId, SharedCap)>,
}

/// Who opens further subflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathManagerKind {
    /// Client: every local endpoint to every known remote address. Server: announces its endpoints.
    #[default]
    Fullmesh,
    /// Accepts joins, never opens or announces any.
    Server,
    /// As [`Self::Fullmesh`], with [`MptcpConfig::subflows_per_pair`] subflows between two addresses,
    /// from differing ports.
    Ndiffports,
}

/// MPTCP settings.
#[derive(Clone, Debug)]
pub struct MptcpConfig {
    /// Protocol versions served, each at most once. A client tries version 1 first.
    pub versions: Vec<Version>,
    /// DSS checksum policy.
    pub checksum: ChecksumPolicy,
    /// Scheduling of new connections; [`crate::stack::Stack::set_scheduling`] changes it for one.
    pub scheduling: Scheduling,
    /// Path manager.
    pub path_manager: PathManagerKind,
    /// Subflows per connection, 1 to 32.
    pub max_subflows: u8,
    /// Subflows between two addresses with [`PathManagerKind::Ndiffports`], 1 to 32.
    pub subflows_per_pair: u8,
    /// Addresses of a peer that are remembered, beyond its initial one; 1 to 32.
    pub max_remote_addresses: u8,
    /// Changes of our addresses within so long of each other are one change.
    pub address_batch: Duration,
    /// How long a connection outlives its last subflow.
    pub close_timeout: Duration,
    /// `MP_CAPABLE` SYNs sent before the option is left out (the first included).
    pub capable_syn_tries: u8,
    /// First retransmission of `ADD_ADDR` after this long without an echo, doubling, 3 times.
    pub add_addr_timeout: Duration,
    /// Half-open joins per connection.
    pub max_half_open_joins: u8,
    /// A path that is down is probed this often, by one subflow for all.
    pub probe_interval: Duration,
    /// A sidelined subflow is reset after so long without an answer, where another one works; our
    /// path manager opens it again.
    pub stale_timeout: Duration,
    /// The port that is announced with our IPv4 addresses to peers who connected to somebody else's
    /// ([`crate::stack::Stack::listen_transparent`]); `None`: none, and they join the port they connected to.
    /// Joins are taken on any port, and nobody need listen there. Not 0.
    pub join_port: Option<u16>,
    /// Peers of version 1 are asked not to join the address and port that they connected to (RFC 8684 §3.1, C flag):
    /// behind a load balancer that knows no tokens such a join ends elsewhere. They join what is announced.
    pub deny_initial: bool,
}

impl Default for MptcpConfig {
    fn default() -> Self {
        Self {
            versions: alloc::vec![Version::V0, Version::V1],
            checksum: ChecksumPolicy::default(),
            scheduling: Scheduling::default(),
            path_manager: PathManagerKind::default(),
            max_subflows: 8,
            subflows_per_pair: 2,
            max_remote_addresses: 8,
            address_batch: Duration::from_millis(500),
            close_timeout: Duration::from_secs(60),
            capable_syn_tries: 3,
            add_addr_timeout: Duration::from_secs(2),
            max_half_open_joins: 8,
            probe_interval: Duration::from_secs(1),
            stale_timeout: Duration::from_secs(60),
            join_port: None,
            deny_initial: false,
        }
    }
}

/// What the IP headers of a connection's packets say beside addresses and marks of congestion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marking {
    hop_limit: u8,
    dscp: u8,
}

impl Marking {
    /// A TTL (IPv4) or hop limit (IPv6) of at least 1, and a differentiated services code point
    /// (RFC 2474) of at most 63; `None` for others.
    #[must_use]
    pub const fn new(hop_limit: u8, dscp: u8) -> Option<Self> {
        if hop_limit == 0 || dscp > 63 { None } else { Some(Self { hop_limit, dscp }) }
    }

    /// TTL or hop limit.
    #[must_use]
    pub const fn hop_limit(self) -> u8 {
        self.hop_limit
    }

    /// Differentiated services code point, 0 to 63.
    #[must_use]
    pub const fn dscp(self) -> u8 {
        self.dscp
    }

    /// The octet that the code point shares with the ECN field (RFC 3168 §5).
    pub(crate) const fn traffic_class(self, ecn: u8) -> u8 {
        self.dscp << 2 | ecn & 3
    }
}

/// 64 hops, as RFC 9293 §3.9.2 has it, and best effort.
impl Default for Marking {
    fn default() -> Self {
        Self { hop_limit: 64, dscp: 0 }
    }
}

/// TCP settings, for subflows and plain connections alike.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Congestion control.
    pub congestion: CongestionAlgorithm,
    /// Marks instead of losses.
    pub ecn: EcnPolicy,
    /// Search for the largest packet the path takes.
    pub mtu_probing: MtuProbing,
    /// TTL and DSCP of new connections, of what answers strangers, and of UDP sockets;
    /// [`crate::stack::Stack::set_marking`] decides for one.
    pub marking: Marking,
    /// Spread a window over its round trip instead of sending it in bursts.
    pub pacing: bool,
    /// Receive buffer at the start; autotuning grows it.
    pub recv_buffer_initial: u32,
    /// Receive buffer limit; also fixes the window scale. None of the three may be 0.
    pub recv_buffer_max: u32,
    /// Send buffer limit.
    pub send_buffer_max: u32,
    /// RFC 7323 timestamps offered and accepted.
    pub timestamps: bool,
    /// Selective acknowledgements offered and accepted.
    pub sack: bool,
    /// Lower bound of the retransmission timeout (RFC 6298 says 1 s; 200 ms is what is deployed).
    pub rto_min: Duration,
    /// Upper bound of the retransmission timeout.
    pub rto_max: Duration,
    /// Retransmissions of one segment before the connection (or subflow) is given up.
    pub retries: u8,
    /// SYN (and SYN/ACK) retransmissions before giving up.
    pub syn_retries: u8,
    /// Longest delay of an acknowledgement.
    pub delayed_ack: Duration,
    /// Idle time before the first keep-alive probe of new connections; `None`, the default, sends
    /// none (RFC 9293 §3.8.4) unless [`crate::stack::Stack::set_keep_alive`] asks for them, then
    /// after two hours.
    pub keep_alive: Option<Duration>,
    /// Unanswered keep-alive probes before the connection is given up.
    pub keep_alive_probes: u8,
    /// TIME-WAIT length (RFC 9293: 2 MSL).
    pub time_wait: Duration,
    /// How long FIN-WAIT-2 waits for the peer's FIN once nobody can read any more.
    pub fin_wait_2: Duration,
    /// Delay small segments of new connections while data is outstanding (RFC 9293 §3.7.4);
    /// [`crate::stack::Stack::set_nagle`] decides for one.
    pub nagle: bool,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            congestion: CongestionAlgorithm::default(),
            ecn: EcnPolicy::default(),
            mtu_probing: MtuProbing::default(),
            marking: Marking::default(),
            pacing: true,
            recv_buffer_initial: 128 << 10,
            recv_buffer_max: 6 << 20,
            send_buffer_max: 6 << 20,
            timestamps: true,
            sack: true,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            retries: 15,
            // 247 s in all: RFC 9293 §3.8.3 wants three minutes.
            syn_retries: 7,
            delayed_ack: Duration::from_millis(40),
            keep_alive: None,
            keep_alive_probes: 9,
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            nagle: true,
        }
    }
}

/// Hard limits; what exceeds them is refused and counted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sockets an application can hold: plain connections plus MPTCP connections. Those that it has closed count until they
    /// have ended, and make room, the oldest first.
    pub connections: u32,
    /// TCP control blocks: plain connections plus subflows.
    pub tcbs: u32,
    /// Pending requests (SYN-RECEIVED); beyond it SYN cookies answer.
    pub half_open: u32,
    /// TIME-WAIT entries; the oldest goes first.
    pub time_wait: u32,
    /// Listeners.
    pub listeners: u32,
    /// Datagram sockets.
    pub udp_sockets: u32,
    /// Accepted connections waiting for `accept` per listener.
    pub backlog: u32,
    /// Paths, which are pairs of a peer network and a port, whose state connections share.
    pub paths: u32,
    /// RSTs, challenge ACKs and other answers without state, per second.
    pub stateless_replies_per_s: u32,
    /// Datagrams whose fragments have not all come; the oldest goes first, and one source has an eighth of them.
    pub reassembly_datagrams: u32,
    /// Memory that their fragments pin, in octets; one source has an eighth of it.
    pub reassembly_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            tcbs: 30_000,
            half_open: 4_096,
            time_wait: 16_384,
            listeners: 64,
            udp_sockets: 256,
            backlog: 4_096,
            paths: 4_096,
            stateless_replies_per_s: 10_000,
            reassembly_datagrams: 512,
            reassembly_bytes: 4 << 20,
        }
    }
}

/// Ports that are drawn for what we open (RFC 6056).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EphemeralPorts {
    /// The lowest, at least 1.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl EphemeralPorts {
    /// How many.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.last.saturating_sub(self.first) as u32 + 1
    }
}

impl Default for EphemeralPorts {
    /// 32768 to 60999, the range of Linux.
    fn default() -> Self {
        Self { first: 32_768, last: 60_999 }
    }
}

/// Configuration of one [`crate::stack::Stack`].
#[derive(Clone, Debug, Default)]
pub struct StackConfig {
    /// Addresses answered for.
    pub addresses: Vec<LocalAddress>,
    /// MPTCP settings.
    pub mptcp: MptcpConfig,
    /// TCP settings.
    pub tcp: TcpConfig,
    /// Limits.
    pub limits: Limits,
    /// Ports of connections and datagram sockets that do not name one.
    pub ephemeral_ports: EphemeralPorts,
    /// Which shard this is, where several stacks share the addresses: tokens and ports are drawn so that what
    /// belongs to them is sent here ([`crate::steering`]).
    pub sharding: Option<Sharding>,
    /// Bits of our tokens that are prescribed, above those that name the shard; 0 for none.
    pub token_mask: u32,
    /// Value of those bits.
    pub token_value: u32,
    /// Seed of keys, nonces, ISNs, ports and hash keys. Must be secret and fresh in production, and each shard's
    /// own.
    pub seed: [u8; 32],
    /// Seed of the keys of Fast Open cookies, where several stacks serve one address: each takes the cookies that
    /// the others grant (RFC 7413 §6.3.4). As secret and as fresh; `None` for a stack that is alone.
    pub fast_open_seed: Option<[u8; 32]>,
}

/// What [`StackConfig::validate`] refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// `mptcp.max_subflows` must be 1 to 32; this was asked for.
    MaxSubflows(u8),
    /// `mptcp.subflows_per_pair` must be 1 to 32; this was asked for.
    SubflowsPerPair(u8),
    /// `mptcp.max_remote_addresses` must be 1 to 32; this was asked for.
    MaxRemoteAddresses(u8),
    /// `ephemeral_ports` must begin at 1 or above and not end before; this was asked for.
    EphemeralPorts(EphemeralPorts),
    /// At most 254 addresses can have an id; so many were configured.
    Addresses(usize),
    /// No host has this address.
    Address(IpAddr),
    /// The `mtu` of an address must be at least 68, with IPv6 1280; this was asked for.
    Mtu {
        /// Whose.
        addr: IpAddr,
        /// The MTU.
        mtu: u16,
    },
    /// One of the buffers of `tcp` is to hold nothing.
    NoBuffer,
    /// `mptcp.join_port` must not be 0.
    JoinPort,
    /// Entries of all tables are numbered together, 536,870,912 at most; `limits` ask for so many.
    Limits(u64),
    /// `sharding.own` must be below the number of shards.
    Shard {
        /// The shard that this is to be.
        own: u8,
        /// How many there are.
        shards: u8,
    },
    /// `token_mask` prescribes bits that name the shard.
    TokenMask(u32),
    /// `token_value` has bits that `token_mask` has not: no token would be ours.
    TokenBits {
        /// The value.
        value: u32,
        /// The mask.
        mask: u32,
    },
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::MaxSubflows(n) => write!(f, "max_subflows is {n}, allowed are 1 to 32"),
            Self::SubflowsPerPair(n) => {
                write!(f, "subflows_per_pair is {n}, allowed are 1 to 32")
            }
            Self::MaxRemoteAddresses(n) => {
                write!(f, "max_remote_addresses is {n}, allowed are 1 to 32")
            }
            Self::EphemeralPorts(EphemeralPorts { first, last }) => {
                write!(f, "ephemeral ports from {first} to {last} are none")
            }
            Self::Addresses(n) => write!(f, "{n} addresses, at most 254 can be told apart"),
            Self::Address(addr) => write!(f, "no host can have the address {addr}"),
            Self::Mtu { addr, mtu } => {
                let least = least_mtu(addr);
                write!(f, "mtu of {addr} is {mtu}, it must be {least} at least")
            }
            Self::NoBuffer => f.write_str("a receive or send buffer of 0"),
            Self::JoinPort => f.write_str("join_port is 0"),
            Self::Limits(n) => write!(f, "limits for {n} entries, allowed are {MAX_ENTRIES}"),
            Self::Shard { own, shards } => write!(f, "shard {own}, but there are {shards}"),
            Self::TokenMask(mask) => {
                write!(f, "token_mask {mask:#x} has bits that name the shard")
            }
            Self::TokenBits { value, mask } => {
                write!(f, "token_value {value:#x} has bits outside of token_mask {mask:#x}")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

/// Entries of all tables of a stack together: ids have no room for more.
const MAX_ENTRIES: u64 = 1 << 29;

/// What every link takes (RFC 791 §3.2, RFC 8200 §5).
const fn least_mtu(addr: &IpAddr) -> u16 {
    if addr.is_ipv4() { 68 } else { 1280 }
}

impl Limits {
    fn entries(&self) -> u64 {
        let sockets = [self.connections, self.listeners, self.udp_sockets];
        let others = [self.tcbs, self.half_open, self.time_wait];
        sockets.into_iter().chain(others).map(u64::from).sum()
    }
}

impl StackConfig {
    /// Checks what a stack cannot do.
    ///
    /// # Errors
    /// The first setting that is out of range, with its value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=32).contains(&self.mptcp.max_subflows) {
            return Err(ConfigError::MaxSubflows(self.mptcp.max_subflows));
        }
        if !(1..=32).contains(&self.mptcp.subflows_per_pair) {
            return Err(ConfigError::SubflowsPerPair(self.mptcp.subflows_per_pair));
        }
        if !(1..=32).contains(&self.mptcp.max_remote_addresses) {
            return Err(ConfigError::MaxRemoteAddresses(self.mptcp.max_remote_addresses));
        }
        let ports = self.ephemeral_ports;
        if ports.first == 0 || ports.last < ports.first {
            return Err(ConfigError::EphemeralPorts(ports));
        }
        if self.addresses.len() > 254 {
            return Err(ConfigError::Addresses(self.addresses.len()));
        }
        for &LocalAddress { addr, mtu, .. } in &self.addresses {
            if crate::tcp::is_no_host(&addr) {
                return Err(ConfigError::Address(addr));
            }
            if mtu < least_mtu(&addr) {
                return Err(ConfigError::Mtu { addr, mtu });
            }
        }
        let tcp = &self.tcp;
        if [tcp.recv_buffer_initial, tcp.recv_buffer_max, tcp.send_buffer_max].contains(&0) {
            return Err(ConfigError::NoBuffer);
        }
        if self.mptcp.join_port == Some(0) {
            return Err(ConfigError::JoinPort);
        }
        if self.limits.entries() > MAX_ENTRIES {
            return Err(ConfigError::Limits(self.limits.entries()));
        }
        if let Some(Sharding { layout, own }) = &self.sharding {
            if *own >= layout.shards() {
                return Err(ConfigError::Shard { own: *own, shards: layout.shards() });
            }
            if layout.shards() > 1 && self.token_mask & u32::from(MAX_SHARDS - 1) != 0 {
                return Err(ConfigError::TokenMask(self.token_mask));
            }
        }
        if self.token_value & !self.token_mask != 0 {
            return Err(ConfigError::TokenBits { value: self.token_value, mask: self.token_mask });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::Layout;

    #[test]
    fn limits_are_refused_by_name() {
        let mut config = StackConfig::default();
        assert_eq!(config.validate(), Ok(()));
        config.mptcp.max_subflows = 33;
        let error = config.validate().unwrap_err();
        assert_eq!(error, ConfigError::MaxSubflows(33));
        assert!(alloc::format!("{error}").contains("max_subflows is 33"));
        config.mptcp.max_subflows = 8;
        config.mptcp.subflows_per_pair = 0;
        assert_eq!(config.validate(), Err(ConfigError::SubflowsPerPair(0)));
        config.mptcp.subflows_per_pair = 32;
        config.mptcp.max_remote_addresses = 33;
        assert_eq!(config.validate(), Err(ConfigError::MaxRemoteAddresses(33)));
        config.mptcp.max_remote_addresses = 32;
        (config.token_mask, config.token_value) = (3, 4);
        assert_eq!(config.validate(), Err(ConfigError::TokenBits { value: 4, mask: 3 }));
        (config.token_mask, config.token_value) = (0xff00_0020, 0x1200_0000);
        assert_eq!(config.validate(), Ok(()));
        let of = |shards, own| Some(Sharding { layout: Layout::new(shards).unwrap(), own });
        for (sharding, result) in [
            (of(1, 0), Ok(())),
            (of(2, 0), Err(ConfigError::TokenMask(0xff00_0020))),
            (of(2, 2), Err(ConfigError::Shard { own: 2, shards: 2 })),
        ] {
            config.sharding = sharding;
            assert_eq!(config.validate(), result);
        }
        (config.sharding, config.token_mask) = (of(64, 63), 0xff00_0000);
        assert_eq!(config.validate(), Ok(()));
    }

    /// Each change of a sound configuration is refused by this.
    fn refused(change: impl FnOnce(&mut StackConfig), with: ConfigError) {
        let mut config = StackConfig::default();
        change(&mut config);
        assert_eq!(config.validate(), Err(with));
        assert!(!alloc::format!("{with}").is_empty());
    }

    #[test]
    fn what_would_stop_a_stack_is_refused() {
        let on = |addr: &str, mtu| {
            let addr = addr.parse().expect("an address");
            LocalAddress { addr, port: PortId(0), mtu, endpoint: true, backup: false }
        };
        for (addr, least) in [("192.0.2.1", 68), ("2001:db8::1", 1280)] {
            let short = on(addr, least - 1);
            let error = ConfigError::Mtu { addr: short.addr, mtu: least - 1 };
            refused(|config| config.addresses.push(short), error);
            let addresses = alloc::vec![on(addr, least)];
            assert_eq!(StackConfig { addresses, ..StackConfig::default() }.validate(), Ok(()));
        }
        for nobody in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let local = on(nobody, 1500);
            refused(|config| config.addresses.push(local), ConfigError::Address(local.addr));
        }
        refused(|config| config.tcp.recv_buffer_initial = 0, ConfigError::NoBuffer);
        refused(|config| config.tcp.recv_buffer_max = 0, ConfigError::NoBuffer);
        refused(|config| config.tcp.send_buffer_max = 0, ConfigError::NoBuffer);
        refused(|config| config.mptcp.join_port = Some(0), ConfigError::JoinPort);
        let mut limits = Limits { time_wait: u32::MAX, ..Limits::default() };
        refused(|config| config.limits = limits, ConfigError::Limits(limits.entries()));
        limits.time_wait = (MAX_ENTRIES - Limits { time_wait: 0, ..limits }.entries()) as u32;
        assert_eq!(StackConfig { limits, ..StackConfig::default() }.validate(), Ok(()));
    }
}
