//! What an operator sets: the EAL, access ports and exit routes, as plain data.
//!
//! Invariant: [`validate`] accepts only what the driver can try to bring up; what it refuses is
//! the configuration's fault and names key, value and remedy.

use crate::error::DriverError;
use core::net::IpAddr;
use ipnet::IpNet;
use mptcp_core::config::EphemeralPorts;
use mptcp_core::steering::{MAX_SHARDS, SteeringLimits};

/// How memory is backed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hugepages {
    /// Hugepages when they are there or can be reserved, ordinary pages otherwise.
    #[default]
    Auto,
    /// Hugepages or an error.
    Require,
    /// Ordinary pages (`--no-huge`).
    Off,
}

/// What a loop does that finds nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdleMode {
    /// Sleeps ever longer, up to half a millisecond.
    #[default]
    Adaptive,
    /// Never sleeps: a core is always busy.
    Latency,
    /// Sleeps earlier and longer, up to two milliseconds.
    Power,
}

/// The `[driver]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EalConfig {
    /// EAL words of the operator; cores and memory are not among them.
    pub words: Vec<String>,
    /// CPU of each shard; a CPU may repeat.
    pub cores: Vec<usize>,
    /// How memory is backed.
    pub hugepages: Hugepages,
    /// Memory for packet buffers and the ports' rings, MiB.
    pub memory_mb: u32,
    /// How many flows that other shards own each shard remembers.
    pub steering: SteeringLimits,
    /// What a shard does that finds nothing to do.
    pub idle: IdleMode,
    /// Ports of ours at which single shards listen.
    pub listening: Option<EphemeralPorts>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            cores: vec![0],
            hugepages: Hugepages::Auto,
            memory_mb: 512,
            steering: SteeringLimits::default(),
            idle: IdleMode::default(),
            listening: None,
        }
    }
}

/// Whether a port does work of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Offload {
    /// Where it offers to.
    Auto,
    /// Never.
    #[default]
    Off,
}

impl Offload {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// Station address of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MacConfig {
    /// The device's own.
    #[default]
    Auto,
    /// This one.
    Fixed([u8; 6]),
}

/// One `[[port]]`: an access network, or the way to the exits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// What operators call it.
    pub name: String,
    /// DPDK device name: the vdev's name or the PCI address.
    pub device: String,
    /// Our addresses with their link's prefix length.
    pub addresses: Vec<IpNet>,
    /// Next hop of replies to peers that are not on-link, at most one per family.
    pub gateway: Vec<IpAddr>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Station address.
    pub mac: MacConfig,
    /// 802.1Q VLAN id; 0: untagged.
    pub vlan: u16,
    /// Routers send packets for others here, and the worker takes those, too.
    pub transit: bool,
    /// Receive queues. Queue q belongs to shard q modulo the number of shards.
    pub queues: u16,
    /// Segments that follow on each other leave in one piece, which the port cuts (TSO).
    pub tso: Offload,
    /// The port joins segments that follow on each other (LRO).
    pub lro: Offload,
}

impl PortConfig {
    /// A port with the default MTU, station address, no VLAN and one queue, that cuts segments where it can.
    #[must_use]
    pub fn new(name: &str, device: &str) -> Self {
        Self {
            name: name.to_owned(),
            device: device.to_owned(),
            addresses: Vec::new(),
            gateway: Vec::new(),
            mtu: 1500,
            mac: MacConfig::Auto,
            vlan: 0,
            transit: false,
            queues: 1,
            tso: Offload::Auto,
            lro: Offload::Off,
        }
    }
}

/// One `[[route]]` of the exits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteConfig {
    /// Destinations; host bits are ignored.
    pub to: IpNet,
    /// Next hop; must be on-link on the port.
    pub via: IpAddr,
    /// Name of the port.
    pub port: String,
}

/// Most ports: [`mptcp_core::buf::PortId::ROUTED`] is not one.
pub const MAX_PORTS: usize = 64;

/// Checks everything that can be known without touching a device.
///
/// # Errors
/// [`DriverError::Config`] for the first thing wrong.
pub fn validate(
    eal: &EalConfig,
    ports: &[PortConfig],
    routes: &[RouteConfig],
) -> Result<(), DriverError> {
    if eal.cores.is_empty() {
        return Err(bad("driver.cores", "[]", "name at least one CPU"));
    }
    if eal.cores.len() > usize::from(MAX_SHARDS) {
        let cores = format!("{} CPUs", eal.cores.len());
        return Err(bad("driver.cores", cores, format!("name at most {MAX_SHARDS}")));
    }
    if eal.memory_mb < 64 {
        return Err(bad("driver.memory_mb", eal.memory_mb, "give the driver at least 64"));
    }
    crate::eal_args::check_words(&eal.words)?;
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(bad("port", format!("{} tables", ports.len()), "configure 1 to 64 ports"));
    }
    for (i, port) in ports.iter().enumerate() {
        let earlier = ports.get(..i).unwrap_or_default();
        if earlier.iter().any(|other| other.name == port.name) {
            return Err(bad("port.name", &port.name, "give every port its own name"));
        }
        if earlier.iter().any(|other| other.device == port.device) {
            return Err(bad("port.device", &port.device, "use every device once"));
        }
        check_port(port)?;
    }
    routes.iter().try_for_each(|route| check_route(route, ports))
}

fn check_port(port: &PortConfig) -> Result<(), DriverError> {
    let key = |what: &str| format!("port {}: {what}", port.name);
    if port.name.is_empty() || port.device.is_empty() {
        return Err(bad("port", &port.name, "give every port a name and a device"));
    }
    if port.device.contains('\0') {
        return Err(bad(&key("device"), &port.device, "use the name the EAL knows"));
    }
    if !(68..=9600).contains(&port.mtu) {
        return Err(bad(&key("mtu"), port.mtu, "use 68 to 9600"));
    }
    if port.mtu < 1280 && port.addresses.iter().any(|net| net.addr().is_ipv6()) {
        return Err(bad(&key("mtu"), port.mtu, "IPv6 needs at least 1280 (RFC 8200 §5)"));
    }
    if port.vlan > 4094 {
        return Err(bad(&key("vlan"), port.vlan, "use 1 to 4094, or 0 for untagged"));
    }
    if port.queues == 0 {
        return Err(bad(&key("queues"), port.queues, "use at least one"));
    }
    if let MacConfig::Fixed(mac) = port.mac
        && (mac[0] & 1 != 0 || mac == [0; 6])
    {
        return Err(bad(&key("mac"), format!("{mac:02x?}"), "use a unicast address"));
    }
    for net in &port.addresses {
        if !is_host_address(net) {
            return Err(bad(&key("addresses"), net, "use a unicast host address of the link"));
        }
    }
    for (i, gateway) in port.gateway.iter().enumerate() {
        let earlier = port.gateway.get(..i).unwrap_or_default();
        if earlier.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            return Err(bad(&key("gateway"), gateway, "give one gateway per address family"));
        }
        check_next_hop(&key("gateway"), *gateway, port)?;
    }
    Ok(())
}

fn check_route(route: &RouteConfig, ports: &[PortConfig]) -> Result<(), DriverError> {
    let Some(port) = ports.iter().find(|port| port.name == route.port) else {
        let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let remedy = format!("use one of: {}", known.join(", "));
        return Err(bad(&format!("route {}: port", route.to), &route.port, remedy));
    };
    if route.to.addr().is_ipv4() != route.via.is_ipv4() {
        let key = format!("route {}: via", route.to);
        return Err(bad(&key, route.via, "use a next hop of the same address family"));
    }
    check_next_hop(&format!("route {}: via", route.to), route.via, port)
}

/// A next hop must be another host on the port's link.
fn check_next_hop(key: &str, hop: IpAddr, port: &PortConfig) -> Result<(), DriverError> {
    if port.addresses.iter().any(|net| net.addr() == hop) {
        return Err(bad(key, hop, "name another host: this is our own address"));
    }
    if hop.is_unspecified() || hop.is_multicast() || hop.is_loopback() {
        return Err(bad(key, hop, "name a unicast host address"));
    }
    let link_local = matches!(hop, IpAddr::V6(v6) if v6.is_unicast_link_local())
        && port.addresses.iter().any(|net| net.addr().is_ipv6());
    if !link_local && !port.addresses.iter().any(|net| net.contains(&hop)) {
        let remedy = format!("name a host inside a prefix of port {}", port.name);
        return Err(bad(key, hop, remedy));
    }
    Ok(())
}

fn is_host_address(net: &IpNet) -> bool {
    let addr = net.addr();
    if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() {
        return false;
    }
    match net {
        IpNet::V4(v4) => {
            v4.prefix_len() >= 31 || (v4.addr() != v4.network() && v4.addr() != v4.broadcast())
        }
        IpNet::V6(v6) => v6.prefix_len() >= 127 || v6.addr() != v6.network(),
    }
}

fn bad(key: &str, value: impl core::fmt::Display, remedy: impl Into<String>) -> DriverError {
    DriverError::Config { key: key.to_owned(), value: value.to_string(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lte() -> PortConfig {
        PortConfig {
            addresses: vec!["10.1.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
            gateway: vec!["10.1.0.254".parse().unwrap(), "fd00:1::fe".parse().unwrap()],
            ..PortConfig::new("lte", "net_af_packet0")
        }
    }

    fn refusal(change: impl FnOnce(&mut EalConfig, &mut PortConfig, &mut RouteConfig)) -> String {
        let mut eal = EalConfig::default();
        let mut port = lte();
        let mut route = RouteConfig {
            to: "0.0.0.0/0".parse().unwrap(),
            via: "10.1.0.254".parse().unwrap(),
            port: "lte".to_owned(),
        };
        change(&mut eal, &mut port, &mut route);
        match validate(&eal, &[port], &[route]) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_plain_configuration_is_accepted() {
        assert_eq!(refusal(|_, _, _| ()), "");
    }

    #[test]
    fn a_cpu_may_have_several_shards_and_a_port_fewer_queues() {
        assert_eq!(refusal(|eal, _, _| eal.cores = [0, 1].repeat(32)), "");
    }

    #[test]
    fn refusals_name_key_value_and_remedy() {
        let text = refusal(|_, port, _| port.vlan = 4095);
        assert_eq!(text, "port lte: vlan = 4095: use 1 to 4094, or 0 for untagged");
        let text = refusal(|_, _, route| route.port = "exit".into());
        assert_eq!(text, "route 0.0.0.0/0: port = exit: use one of: lte");
        let text = refusal(|_, port, _| port.gateway = vec!["10.2.0.1".parse().unwrap()]);
        assert!(text.contains("gateway = 10.2.0.1"), "{text}");
        let text = refusal(|_, port, _| port.gateway.push("10.1.0.253".parse().unwrap()));
        assert!(text.contains("one gateway per address family"), "{text}");
    }

    #[test]
    fn impossible_values_are_refused() {
        assert!(!refusal(|eal, _, _| eal.cores.clear()).is_empty());
        assert!(!refusal(|eal, _, _| eal.cores = vec![0; 65]).is_empty(), "tokens name 64 shards");
        assert!(!refusal(|_, port, _| port.queues = 0).is_empty());
        assert!(!refusal(|eal, _, _| eal.memory_mb = 0).is_empty());
        assert!(!refusal(|eal, _, _| eal.words.push("-l0".into())).is_empty());
        assert!(!refusal(|_, port, _| port.mtu = 1279).is_empty());
        assert!(!refusal(|_, port, _| port.mac = MacConfig::Fixed([1; 6])).is_empty());
        for addr in ["10.1.0.0/24", "10.1.0.255/24", "0.0.0.0/0", "ff02::1/16", "127.0.0.1/8"] {
            assert!(!refusal(|_, port, _| port.addresses = vec![addr.parse().unwrap()]).is_empty());
        }
        assert!(!refusal(|_, _, route| route.via = "10.1.0.1".parse().unwrap()).is_empty());
        assert!(!refusal(|_, _, route| route.via = "fd00:1::fe".parse().unwrap()).is_empty());
    }

    #[test]
    fn link_local_gateways_need_an_ipv6_port() {
        let hop = "fe80::1".parse().unwrap();
        assert_eq!(refusal(|_, port, _| port.gateway = vec![hop]), "");
        let text = refusal(|_, port, _| {
            port.addresses.truncate(1);
            port.gateway = vec![hop];
        });
        assert!(text.contains("gateway = fe80::1"), "{text}");
    }
}
