//! The gateway's configuration: a TOML file, overlaid by `--set KEY=VALUE`, checked completely
//! before anything starts.
//!
//! Invariant: a [`Config`] is only made by [`load`], and everything in it fits together: names are
//! unique, routes leave by ports that exist, listeners are on addresses of ours.

mod emit;
mod hosts;
mod ports;
mod problem;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
mod tree;

pub use hosts::{BadName, HostName};
pub use problem::{Origin, Problem};

use crate::auth::PasswordHash;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use ipnet::IpNet;
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
    /// MPTCP settings.
    pub mptcp: Mptcp,
    /// TCP settings, for subflows and exits alike.
    pub tcp: Tcp,
    /// Hard limits.
    pub limits: Limits,
    /// How long a session may take for each phase.
    pub timeouts: Timeouts,
    /// The SOCKS5 front end.
    pub socks5: Socks5,
    /// Who may use it; names are unique.
    pub users: Vec<User>,
    /// Destinations beyond, and short of, the public Internet.
    pub egress: Egress,
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
    /// Memory of the EAL, MiB.
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
}

/// One route of exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// Next hop, on-link at the port.
    pub via: IpAddr,
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

/// The SOCKS5 front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socks5 {
    /// Where it listens; every address is one of a port.
    pub listen: Vec<SocketAddr>,
    /// Who may connect.
    pub auth: Auth,
}

/// SOCKS5 authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody (method 0).
    None,
    /// A configured user with the right password (method 2, RFC 1929).
    Password,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// 1 to 255 bytes.
    pub name: String,
    /// What its password is checked against.
    pub password_hash: PasswordHash,
}

/// Destinations, relative to the public Internet. `deny` wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Added to it.
    pub allow: Vec<IpNet>,
    /// Taken from it and from `allow`.
    pub deny: Vec<IpNet>,
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
    /// The configuration as TOML that [`parse`] reads back to the same value.
    #[must_use]
    pub fn to_toml(&self) -> String {
        emit::to_toml(self)
    }

    /// What is allowed but probably not meant, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.socks5.auth == Auth::None && !self.users.is_empty() {
            warnings.push(
                "socks5.auth = \"none\" lets everybody in although users are configured; \
                 set socks5.auth = \"password\""
                    .to_owned(),
            );
        }
        for port in &self.ports {
            if self.driver.kind == DriverKind::Tun && !port.gateway.is_empty() {
                warnings.push(format!(
                    "port {:?}: gateway is not used under driver.kind = \"tun\": the kernel \
                     routes what leaves by a TUN device",
                    port.name
                ));
            }
        }
        for address in &self.admin.listen {
            if let AdminAddress::Tcp(tcp) = address
                && !tcp.ip().is_loopback()
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
