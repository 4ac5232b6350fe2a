//! The gateway's configuration: a TOML file, overlaid by `--set KEY=VALUE`, checked completely
//! before anything starts.
//!
//! Invariant: a [`Config`] is only made by [`load`], and everything in it fits together: names are
//! unique, routes leave by ports that exist, listeners are on addresses of ours.

mod bind;
mod differences;
mod emit;
mod hosts;
mod ports;
mod problem;
mod profiles;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
mod transparent;
mod tree;

pub use bind::Bind;
pub use differences::Difference;
pub use hosts::{BadName, HostName};
pub use problem::{Origin, Problem};
pub use profiles::{Misfit, Mode, Plan, Profile, rate_from_json, unknown_key};
pub use reader::show_rate;
pub use transparent::Transparent;

use crate::auth::PasswordHash;
use crate::front_end::FrontEnd;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use dpdk_io::Offload;
use ipnet::{IpNet, Ipv6Net};
use mptcp_core::config::{
    ChecksumPolicy, CongestionAlgorithm, EcnPolicy, Marking, MtuProbing, PathManagerKind,
    SchedulerKind,
};
use mptcp_core::wire::Version;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A complete, valid configuration with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What moves packets.
    pub driver: Driver,
    /// Accesses and exits, at least one; `PortId` is the position here.
    pub ports: Vec<Port>,
    /// Where exits go beyond the ports' own subnets.
    pub routes: Vec<Route>,
    /// Ways of spreading data that listeners and users may go by; names are unique.
    pub profiles: Vec<Profile>,
    /// MPTCP settings.
    pub mptcp: Mptcp,
    /// TCP settings, for subflows and exits alike.
    pub tcp: Tcp,
    /// Hard limits.
    pub limits: Limits,
    /// How long a session may take for each phase.
    pub timeouts: Timeouts,
    /// The SOCKS5 front end.
    pub socks5: Entry,
    /// The HTTP CONNECT front end.
    pub http: Entry,
    /// The Convert front end.
    pub convert: Convert,
    /// Connections to others that routers send here.
    pub transparent: Transparent,
    /// Who may use it; names are unique.
    pub users: Vec<User>,
    /// Destinations beyond, and short of, the public Internet.
    pub egress: Egress,
    /// Datagrams of clients.
    pub udp: Udp,
    /// Connections that clients wait for.
    pub bind: Bind,
    /// Names that `hosts` does not have.
    pub dns: Dns,
    /// Names served without DNS, in lower case.
    pub hosts: BTreeMap<HostName, Vec<IpAddr>>,
    /// The operator's endpoint.
    pub admin: Admin,
    /// Logging to stderr.
    pub log: Log,
}

/// Which packet driver to use, and its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The driver.
    pub kind: DriverKind,
    /// EAL arguments; those that this program chooses itself are refused. Unused by TUN.
    pub eal: Vec<String>,
    /// CPUs, one shard each; a CPU may repeat.
    pub cores: Vec<u16>,
    /// Whether the EAL uses hugepages.
    pub hugepages: Hugepages,
    /// Packet memory, MiB: the EAL's, or of the buffers between TUN devices.
    pub memory_mb: u32,
    /// What a DPDK shard does that finds nothing to do.
    pub idle: Idle,
}

/// Packet drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// DPDK ports.
    Dpdk,
    /// TUN devices of the kernel.
    Tun,
}

impl DriverKind {
    /// As `driver.kind` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dpdk => "dpdk",
            Self::Tun => "tun",
        }
    }
}

/// Use of hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// When the machine has some.
    Auto,
    /// Refuse to start without.
    Require,
    /// Never.
    Off,
}

/// What a polling loop does that finds nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps ever longer, half a millisecond at most.
    Adaptive,
    /// Never sleeps.
    Latency,
    /// Sleeps earlier and longer.
    Power,
}

impl Idle {
    /// As `driver.idle` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Latency => "latency",
            Self::Power => "power",
        }
    }
}

/// One access or exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What operators call it; unique.
    pub name: String,
    /// The driver's device; unique.
    pub device: String,
    /// Our addresses on it with their subnets, at least one.
    pub addresses: Vec<IpNet>,
    /// Next hops of replies to peers that are not on-link, at most one per family.
    pub gateway: Vec<IpAddr>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Its hardware address; `None`: what the device has.
    pub mac: Option<[u8; 6]>,
    /// 802.1Q VLAN identifier; 0: untagged.
    pub vlan: u16,
    /// Receive queues.
    pub queues: u16,
    /// Segments leave in one piece, which the device cuts.
    pub tso: Offload,
    /// The device joins segments.
    pub lro: Offload,
    /// What the scheduler is told of the path.
    pub path: PathSettings,
}

/// How connections use the path over one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// Smaller numbers first, where the scheduler goes by order.
    pub priority: u8,
    /// Share of the data, where the scheduler goes by weight; at least 1.
    pub weight: u16,
    /// Most that one connection sends over it, bits of the stream per second.
    pub rate: Option<u64>,
    /// Most that goes over it to clients, all of them together.
    pub total_rate: Option<u64>,
}

/// One route of exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// Next hop, on-link at the port. On TUN nobody asks for it: the kernel has the routes.
    pub via: Option<IpAddr>,
    /// Our addresses to use, of the port; empty: its first one.
    pub from: Vec<IpAddr>,
    /// Position of the port in [`Config::ports`].
    pub port: usize,
}

/// MPTCP settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mptcp {
    /// Versions served.
    pub versions: Vec<Version>,
    /// DSS checksums.
    pub checksum: ChecksumPolicy,
    /// Scheduler.
    pub scheduler: SchedulerKind,
    /// Path manager.
    pub path_manager: PathManagerKind,
    /// Subflows per connection.
    pub max_subflows: u8,
    /// Addresses of a client that are remembered, beyond its first.
    pub max_remote_addresses: u8,
    /// Most that one connection sends, bits of the stream per second.
    pub rate: Option<u64>,
    /// How long a connection outlives its last subflow.
    pub close_timeout: Duration,
    /// How often a path that is down is probed.
    pub probe_interval: Duration,
    /// How long a sidelined subflow is kept.
    pub stale_timeout: Duration,
}

/// TCP settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Congestion control.
    pub congestion: CongestionAlgorithm,
    /// Explicit congestion notification.
    pub ecn: EcnPolicy,
    /// Data on the SYNs of clients is taken (RFC 7413).
    pub fast_open: bool,
    /// Search for the largest packet a path takes.
    pub mtu_probing: MtuProbing,
    /// TTL and DSCP of everything that is sent, on both sides.
    pub marking: Marking,
    /// Bytes.
    pub recv_buffer_max: u32,
    /// Bytes.
    pub send_buffer_max: u32,
}

/// Hard limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client sessions at a time.
    pub connections: u32,
    /// Unfinished TCP handshakes before SYN cookies answer.
    pub half_open: u32,
}

/// Deadlines of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the accepted connection to the complete request.
    pub handshake: Duration,
    /// From the request to the established exit.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same once one side has finished sending.
    pub half_closed: Duration,
    /// From SIGTERM until the sessions that are left are reset.
    pub drain: Duration,
}

/// A way in: where a front end listens, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it listens; every address is one of a port. Empty: it is not served.
    pub listen: Vec<SocketAddr>,
    /// Who may connect.
    pub auth: Auth,
    /// Position in [`Config::profiles`]; `None`: `mptcp.scheduler` and what the ports say.
    pub profile: Option<usize>,
}

/// The Convert front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convert {
    /// Where it listens; it knows no passwords.
    pub entry: Entry,
    /// Clients must show a cookie of ours.
    pub cookie: CookiePolicy,
    /// Requests of one client (an IPv4 address, an IPv6 /64) that may wait for their destinations.
    pub pending_per_client: u32,
}

/// Whether Convert clients must show that they receive what is sent to their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookiePolicy {
    /// They need not.
    Off,
    /// They must, with a cookie that they get for asking.
    Require,
}

/// Authentication of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    None,
    /// A configured user with the right password (RFC 1929, RFC 7617).
    Password,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// 1 to 255 bytes.
    pub name: String,
    /// What its password is checked against.
    pub password_hash: PasswordHash,
    /// What its sessions may do.
    pub plan: Plan,
}

/// Destinations, relative to the public Internet. `deny` wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Added to it.
    pub allow: Vec<IpNet>,
    /// Taken from it and from `allow`.
    pub deny: Vec<IpNet>,
    /// Ports that no connection is made to, whatever the address.
    pub deny_ports: Vec<u16>,
    /// Ports that no datagram is sent to.
    pub deny_udp_ports: Vec<u16>,
    /// The translator's prefix, where IPv4 is reached by NAT64 (RFC 6052).
    pub nat64: Option<Ipv6Net>,
}

/// Datagrams of clients: associations of SOCKS5, and those in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// At a time; 0: none.
    pub associations: u32,
    /// Of one client (an IPv4 address or an IPv6 /64).
    pub per_client: u32,
}

/// Where names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Recursive servers, the first one preferred; empty: only `hosts` has names.
    pub servers: Vec<SocketAddr>,
    /// How long a lookup may take.
    pub timeout: Duration,
    /// Answers that are kept, per shard.
    pub cache: u32,
    /// Lookups under way at a time, per shard.
    pub lookups: u32,
}

/// The operator's endpoint, on the kernel's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: Vec<AdminAddress>,
}

/// Where the admin endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP address of the kernel.
    Tcp(SocketAddr),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is logged.
    pub level: log::LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, target and message.
    Text,
    /// One JSON object.
    Json,
}

/// Reads `file` and overlays `settings` (`KEY=VALUE`).
///
/// # Errors
/// Everything that is wrong, in order of place.
pub fn load(file: &str, settings: &[String]) -> Result<Config, Vec<Problem>> {
    let text =
        std::fs::read_to_string(file).map_err(|error| vec![Problem::unreadable(file, &error)])?;
    parse(file, &text, settings)
}

/// As [`load`], from the text of `file`.
///
/// # Errors
/// Everything that is wrong, in order of place.
pub fn parse(file: &str, text: &str, settings: &[String]) -> Result<Config, Vec<Problem>> {
    let mut root = tree::parse(file, text).map_err(|problem| vec![problem])?;
    let refused: Vec<Problem> =
        settings.iter().filter_map(|setting| tree::apply_set(&mut root, setting).err()).collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    let problems = reader::Problems::default();
    let config = sections::read(&root, &problems);
    let problems = problems.into_sorted();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

impl Config {
    /// Every front end with addresses of its own, served or not.
    pub fn entries(&self) -> impl Iterator<Item = (FrontEnd, &Entry)> {
        let entries = [
            (FrontEnd::Socks5, &self.socks5),
            (FrontEnd::Http, &self.http),
            (FrontEnd::Convert, &self.convert.entry),
        ];
        entries.into_iter()
    }

    /// Position of the profile that a front end's sessions go by.
    #[must_use]
    pub fn profile_of(&self, front_end: FrontEnd) -> Option<usize> {
        match front_end {
            FrontEnd::Socks5 => self.socks5.profile,
            FrontEnd::Http => self.http.profile,
            FrontEnd::Convert => self.convert.entry.profile,
            FrontEnd::Transparent => self.transparent.profile,
        }
    }

    /// Where clients connect.
    pub fn listen_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.entries().flat_map(|(_, entry)| entry.listen.iter().copied())
    }

    /// Whether clients come in by the port at this position: its addresses are announced to them. A port
    /// that only exits use is not for them: no phone can reach it, and Convert refuses who does.
    #[must_use]
    pub fn is_access(&self, idx: usize) -> bool {
        let Some(port) = self.ports.get(idx) else { return false };
        let listens = port
            .addresses
            .iter()
            .any(|net| self.listen_addresses().any(|listen| listen.ip() == net.addr()));
        let is_exit = self.routes.iter().any(|route| route.port == idx);
        let listens = listens || self.transparent.ports.contains(&idx);
        listens || !port.gateway.is_empty() || !is_exit
    }

    /// Whether some front end asks for passwords.
    #[must_use]
    pub fn checks_passwords(&self) -> bool {
        self.entries().any(|(_, entry)| entry.auth == Auth::Password)
    }

    /// What one of `shards` shards reserves memory for and decides alone. Flows are not spread evenly, so
    /// it has room for more sessions than its part; how many all have together is [`Common`]'s to say.
    ///
    /// [`Common`]: crate::gateway::Common
    #[must_use]
    pub fn share(&self, shards: u32) -> Self {
        let shards = shards.max(1);
        let Limits { connections, half_open } = self.limits;
        let part = connections.div_ceil(shards);
        let room = part.saturating_add(part / 4).saturating_add(64);
        let half_open = (half_open / shards).max(1);
        Self { limits: Limits { connections: room.min(connections), half_open }, ..self.clone() }
    }

    /// The configuration as TOML that [`parse`] reads back to the same value.
    #[must_use]
    pub fn to_toml(&self) -> String {
        emit::to_toml(self)
    }

    /// What is allowed but probably not meant, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (front_end, entry) in [(FrontEnd::Socks5, &self.socks5), (FrontEnd::Http, &self.http)] {
            if entry.auth == Auth::None && !entry.listen.is_empty() && !self.users.is_empty() {
                let name = front_end.name();
                warnings.push(format!(
                    "{name}.auth = \"none\" lets everybody in although users are configured; \
                     set {name}.auth = \"password\""
                ));
            }
        }
        if !self.transparent.ports.is_empty() && self.mptcp.path_manager == PathManagerKind::Server
        {
            warnings.push(
                "mptcp.path_manager = \"server\" announces no address: clients of [transparent] have one \
                 path each; set mptcp.path_manager = \"fullmesh\""
                    .to_owned(),
            );
        }
        for port in &self.ports {
            if self.driver.kind == DriverKind::Tun && !port.gateway.is_empty() {
                warnings.push(format!(
                    "port {:?}: under driver.kind = \"tun\" a gateway makes the port an access, and has no \
                     other use: the kernel routes what leaves by a TUN device",
                    port.name
                ));
            }
        }
        for address in &self.admin.listen {
            if let AdminAddress::Tcp(tcp) = address
                && !tcp.ip().to_canonical().is_loopback()
            {
                warnings.push(format!(
                    "admin.listen = \"{tcp}\" shows every session to whoever reaches it; \
                     the endpoint has no authentication"
                ));
            }
        }
        warnings
    }
}
