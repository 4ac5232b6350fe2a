//! `[[port]]` and `[[route]]`: reading them and checking that they fit together.

use super::reader::{Placed, Problems, Section, parsed, text};
use super::tree::Value;
use super::{DriverKind, PathSettings, Port, Route};
use core::net::IpAddr;
use dpdk_io::Offload;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// Addresses that have an id by which clients know them, over all ports; a stack takes no more.
const MAX_ADDRESSES: usize = 254;
/// Ports of the TUN driver: each has an address.
const TUN_PORTS: usize = MAX_ADDRESSES;

/// A port whose parts still know where they were written.
pub(super) struct PlacedPort {
    pub(super) name: Placed<String>,
    device: Placed<String>,
    pub(super) addresses: Vec<Placed<IpNet>>,
    gateway: Vec<Placed<IpAddr>>,
    rest: Rest,
}

/// What needs no checks against other keys.
struct Rest {
    mtu: u16,
    mac: Option<[u8; 6]>,
    vlan: u16,
    queues: u16,
    tso: Offload,
    lro: Offload,
    path: PathSettings,
}

impl PlacedPort {
    /// Drops the places.
    pub(super) fn into_port(self) -> Port {
        Port {
            name: self.name.value,
            device: self.device.value,
            addresses: self.addresses.into_iter().map(|address| address.value).collect(),
            gateway: self.gateway.into_iter().map(|gateway| gateway.value).collect(),
            mtu: self.rest.mtu,
            mac: self.rest.mac,
            vlan: self.rest.vlan,
            queues: self.rest.queues,
            tso: self.rest.tso,
            lro: self.rest.lro,
            path: self.rest.path,
        }
    }

    fn is_on_link(&self, peer: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.value.contains(&peer))
    }

    /// Whether a next hop may be there: in a subnet, or link-local where the port has IPv6.
    fn may_lead_to(&self, hop: IpAddr) -> bool {
        let has_v6 = self.addresses.iter().any(|address| address.value.addr().is_ipv6());
        self.is_on_link(hop) || has_v6 && is_link_local(hop)
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.value.addr() == address)
    }
}

/// Every readable port.
pub(super) struct Ports {
    pub(super) all: Vec<PlacedPort>,
    /// Nothing was left out. Otherwise a name or address that is not here may be a left-out port's,
    /// and is no error of its own.
    pub(super) complete: bool,
}

impl Ports {
    /// Our own addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.all.iter().flat_map(|port| &port.addresses).map(|own| own.value.addr())
    }
}

/// Reads every port; those with a part missing or wrong are reported and left out.
pub(super) fn read_ports(root: &mut Section<'_>, kind: DriverKind, problems: &Problems) -> Ports {
    let sections = root.sections("port");
    if root.lacks("port") {
        root.missing("port", "write a [[port]] for every access and exit");
    }
    let written = sections.len();
    let (most, driver) = match kind {
        DriverKind::Dpdk => (dpdk_io::config::MAX_PORTS, "DPDK"),
        DriverKind::Tun => (TUN_PORTS, "TUN"),
    };
    if let Some(first_over) = sections.get(most) {
        first_over.refuse(&format!("the {driver} driver takes at most {most} ports"));
    }
    let ports: Vec<PlacedPort> =
        sections.into_iter().filter_map(|section| read_port(section, kind, problems)).collect();
    check_unique(ports.iter().map(|port| &port.name), problems);
    check_unique(ports.iter().map(|port| &port.device), problems);
    check_addresses(&ports, problems);
    // Of too many ports enough is said.
    if written <= most {
        check_number(&ports, problems);
    }
    Ports { complete: written > 0 && ports.len() == written, all: ports }
}

fn read_port(
    mut section: Section<'_>,
    kind: DriverKind,
    problems: &Problems,
) -> Option<PlacedPort> {
    let name = section.read("name", port_name);
    let device = section.read("device", |value| device_name(value, kind));
    let addresses = section.list("addresses", own_address);
    let gateway = section.list("gateway", peer_address).unwrap_or_default();
    let mtu = section.read("mtu", |value| super::reader::integer(value, &(576..=9600)));
    let rest = Rest {
        mtu: mtu.as_ref().map_or(1500, |mtu| mtu.value),
        mac: section.read("mac", |value| mac_address(value, kind)).and_then(|mac| mac.value),
        vlan: section.read("vlan", |value| vlan(value, kind)).map_or(0, |vlan| vlan.value),
        queues: section
            .read("queues", |value| queues(value, kind))
            .map_or(1, |queues| queues.value),
        tso: section.read("tso", offload).map_or(Offload::Auto, |tso| tso.value),
        lro: section.read("lro", offload).map_or(Offload::Off, |lro| lro.value),
        path: PathSettings {
            priority: section.integer("priority", 0..=u8::MAX, 0),
            weight: section.integer("weight", 1..=u16::MAX, 1),
            rate: section.rate("rate"),
            total_rate: section.rate("total_rate"),
        },
    };
    for (key, expected) in [
        ("name", "what operators call this access, such as \"lte\""),
        ("device", "the driver's device, such as \"net_af_packet0\""),
        ("addresses", "our addresses here, such as [\"10.1.0.1/24\"]"),
    ] {
        if section.lacks(key) {
            section.missing(key, expected);
        }
    }
    let addresses = addresses.filter(|valid| valid.len() == section.written("addresses"));
    section.finish();
    let port = PlacedPort { name: name?, device: device?, addresses: addresses?, gateway, rest };
    check_gateways(&port, problems);
    check_mtu(&port, mtu.as_ref(), problems);
    Some(port)
}

/// RFC 8200 §5: every link under IPv6 carries 1280 bytes.
fn check_mtu(port: &PlacedPort, mtu: Option<&Placed<u16>>, problems: &Problems) {
    let has_v6 = port.addresses.iter().any(|address| address.value.addr().is_ipv6());
    if let Some(mtu) = mtu
        && has_v6
        && mtu.value < 1280
    {
        mtu.refuse(problems, "a port with an IPv6 address needs at least 1280");
    }
}

fn check_gateways(port: &PlacedPort, problems: &Problems) {
    let mut families = [false; 2];
    for gateway in &port.gateway {
        let family = &mut families[usize::from(gateway.value.is_ipv6())];
        if core::mem::replace(family, true) {
            gateway.refuse(problems, "at most one gateway per address family");
        } else if port.owns(gateway.value) {
            gateway.refuse(problems, "this is our own address; name the router behind the port");
        } else if !port.may_lead_to(gateway.value) {
            gateway.refuse(problems, "a gateway must be inside one of the port's subnets");
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn check_addresses(ports: &[PlacedPort], problems: &Problems) {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for address in ports.iter().flat_map(|port| &port.addresses) {
        if let Some(first) = seen.insert(address.value.addr(), &address.key) {
            address.refuse(problems, &format!("the address is already used by {first}"));
        }
    }
}

/// Reports the first address that is one too many.
fn check_number(ports: &[PlacedPort], problems: &Problems) {
    if let Some(first_over) = ports.iter().flat_map(|port| &port.addresses).nth(MAX_ADDRESSES) {
        let expected = format!("at most {MAX_ADDRESSES} addresses over all ports");
        first_over.refuse(problems, &expected);
    }
}

/// Reports every value that an earlier one equals.
pub(super) fn check_unique<'a>(
    values: impl Iterator<Item = &'a Placed<String>>,
    problems: &Problems,
) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for value in values {
        if let Some(first) = seen.insert(&value.value, &value.key) {
            value.refuse(problems, &format!("already used by {first}; choose another"));
        }
    }
}

/// Reads every route; those that do not fit the ports are reported and left out.
pub(super) fn read_routes(
    root: &mut Section<'_>,
    kind: DriverKind,
    ports: &Ports,
    problems: &Problems,
) -> Vec<Route> {
    let mut seen: BTreeMap<IpNet, String> = BTreeMap::new();
    let mut routes = Vec::new();
    for mut section in root.sections("route") {
        let to = section.read("to", network);
        let via = section.read("via", peer_address);
        let port = section.read("port", |value| find_port(value, ports));
        let from = section.list("from", |value| {
            parsed::<IpAddr>(value, "expected an address of the port, such as \"10.9.0.1\"")
        });
        let from = from.unwrap_or_default();
        for (key, expected) in [
            ("to", "the destinations, such as \"0.0.0.0/0\""),
            ("via", "the next hop, such as \"10.9.0.2\""),
            ("port", "the name of the port it leaves by"),
        ] {
            if !section.has(key) && (key != "via" || kind == DriverKind::Dpdk) {
                section.missing(key, expected);
            }
        }
        section.finish();
        let (Some(to), Some(port)) = (to, port) else { continue };
        if let Some(first) = seen.insert(to.value, to.key.clone()) {
            to.refuse(problems, &format!("the same destinations as {first}; keep one of them"));
        }
        if let Some(via) = &via {
            check_next_hop(&to, via, ports.all.get(port.value), problems);
        }
        for address in &from {
            check_exit(&to, address, ports.all.get(port.value), problems);
        }
        let from = from.into_iter().map(|address| address.value).collect();
        routes.push(Route { to: to.value, via: via.map(|via| via.value), from, port: port.value });
    }
    routes
}

fn check_exit(
    to: &Placed<IpNet>,
    from: &Placed<IpAddr>,
    port: Option<&PlacedPort>,
    problems: &Problems,
) {
    let Some(port) = port else { return };
    if to.value.addr().is_ipv4() != from.value.is_ipv4() {
        from.refuse(problems, &format!("not of the same address family as {}", to.value));
    } else if !port.owns(from.value) {
        let name = &port.name.value;
        from.refuse(problems, &format!("port {name:?} does not have this address"));
    }
}

fn check_next_hop(
    to: &Placed<IpNet>,
    via: &Placed<IpAddr>,
    port: Option<&PlacedPort>,
    problems: &Problems,
) {
    let Some(port) = port else { return };
    if to.value.addr().is_ipv4() != via.value.is_ipv4() {
        via.refuse(problems, &format!("not of the same address family as {}", to.value));
    } else if port.owns(via.value) {
        via.refuse(problems, "this is our own address; name the next router");
    } else if !port.may_lead_to(via.value) {
        let name = &port.name.value;
        via.refuse(problems, &format!("the next hop must be inside a subnet of port {name:?}"));
    }
}

/// Position of the named port; of a left-out port, a position that no port has.
pub(super) fn find_port(value: &Value, ports: &Ports) -> Result<usize, String> {
    let named = ports.all.iter().enumerate();
    let names: Vec<(&str, usize)> =
        named.map(|(idx, port)| (port.name.value.as_str(), idx)).collect();
    match super::reader::choose(value, &names) {
        Err(_) if !ports.complete => Ok(usize::MAX),
        found => found,
    }
}

fn port_name(value: &Value) -> Result<String, String> {
    let expected = "expected 1 to 32 letters, digits, '-' or '_'";
    let name = text(value, expected)?;
    let fits = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if fits { Ok(name.to_owned()) } else { Err(expected.to_owned()) }
}

/// The kernel's rule for interface names under TUN, DPDK's length limit otherwise.
fn device_name(value: &Value, kind: DriverKind) -> Result<String, String> {
    let (limit, bad, expected) = match kind {
        DriverKind::Tun => (
            15,
            "/%:",
            "expected an interface name of 1 to 15 visible characters without '/', '%' and ':'",
        ),
        DriverKind::Dpdk => {
            (63, "/%", "expected a device name of 1 to 63 visible characters without '/' and '%'")
        }
    };
    let name = text(value, expected)?;
    let fits = (1..=limit).contains(&name.len())
        && name.chars().all(|character| character.is_ascii_graphic() && !bad.contains(character))
        && !matches!(name, "." | "..");
    if fits { Ok(name.to_owned()) } else { Err(expected.to_owned()) }
}

/// An address a host can own, with its prefix length.
fn own_address(value: &Value) -> Result<IpNet, String> {
    let expected = "expected an address with its prefix length, such as \"10.1.0.1/24\"";
    let net: IpNet = parsed(value, expected)?;
    if net.prefix_len() == 0 {
        return Err(expected.to_owned());
    }
    if !is_unicast(net.addr()) {
        return Err("expected a unicast address that is not loopback".to_owned());
    }
    let is_edge = match net {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            v4.addr() == v4.network() || v4.addr() == v4.broadcast()
        }
        IpNet::V6(v6) if v6.prefix_len() < 127 => v6.addr() == v6.network(),
        _ => false,
    };
    if is_edge {
        let first = net.hosts().next().unwrap_or_else(|| net.addr());
        return Err(format!(
            "this is the subnet itself or its broadcast address; a host address there is \"{first}/{}\"",
            net.prefix_len()
        ));
    }
    Ok(net)
}

/// An address of another host.
fn peer_address(value: &Value) -> Result<IpAddr, String> {
    let expected = "expected a unicast address, such as \"10.1.0.254\" or \"fe80::1\"";
    let address: IpAddr = parsed(value, expected)?;
    if is_unicast(address) { Ok(address) } else { Err(expected.to_owned()) }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && first < 224 && !v4.is_loopback()
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && !v6.is_loopback()
                && !v6.is_multicast()
                && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// A set of addresses, written without host bits.
pub(super) fn network(value: &Value) -> Result<IpNet, String> {
    let expected = "expected addresses with their prefix length, such as \"10.9.0.0/24\"";
    let net: IpNet = match parsed::<IpAddr>(value, expected) {
        Ok(single) => {
            let all = IpNet::from(single);
            return Err(format!("{expected}; one address is \"{all}\""));
        }
        Err(_) => parsed(value, expected)?,
    };
    if net.addr() != net.network() {
        let whole = net.trunc();
        return Err(format!("bits are set behind the prefix; did you mean \"{whole}\"?"));
    }
    Ok(net)
}

/// 0 is untagged.
fn vlan(value: &Value, kind: DriverKind) -> Result<u16, String> {
    match super::reader::integer(value, &(0..=4094))? {
        0 => Ok(0),
        _ if kind == DriverKind::Tun => {
            Err("a TUN device carries bare IP packets: there is no VLAN; write 0".to_owned())
        }
        vlan => Ok(vlan),
    }
}

/// "auto" is `None`.
fn mac_address(value: &Value, kind: DriverKind) -> Result<Option<[u8; 6]>, String> {
    let expected = "expected \"auto\" or a unicast address such as \"02:00:00:00:00:01\"";
    let given = text(value, expected)?;
    if given == "auto" {
        return Ok(None);
    }
    let mut octets = [0; 6];
    let mut parts = given.split(':');
    for octet in &mut octets {
        let digits = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let digits = digits.ok_or_else(|| expected.to_owned())?;
        *octet = u8::from_str_radix(digits, 16).map_err(|_| expected.to_owned())?;
    }
    let is_multicast = octets[0] & 1 == 1;
    if parts.next().is_some() || is_multicast || octets == [0; 6] {
        return Err(expected.to_owned());
    }
    if kind == DriverKind::Tun {
        return Err("a TUN device has no hardware address; write \"auto\"".to_owned());
    }
    Ok(Some(octets))
}

/// Work that a device may do; of a TUN device `tso` means pieces in both directions.
fn offload(value: &Value) -> Result<Offload, String> {
    let words = [Offload::Auto, Offload::Off].map(|offload| (offload.name(), offload));
    super::reader::choose(value, &words)
}

/// Receive queues of a port.
fn queues(value: &Value, kind: DriverKind) -> Result<u16, String> {
    match super::reader::integer(value, &(1..=1024))? {
        1 => Ok(1),
        _ if kind == DriverKind::Tun => Err("a TUN device has one queue; write 1".to_owned()),
        queues => Ok(queues),
    }
}
