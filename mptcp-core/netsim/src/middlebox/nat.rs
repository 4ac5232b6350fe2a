//! A network address and port translator (RFC 4787, RFC 5382, RFC 5508) between the `a` end, which
//! is inside, and the rest of the path. Mapping and filtering depend on both ends, as with Linux;
//! the inside port is kept while it is free. Checksums are corrected incrementally, so a packet
//! that was broken stays broken. Mappings are bounded in number and age.

use super::{Middlebox, Output};
use crate::Direction;
use crate::packet::edit::{self, Layout, replace};
use crate::packet::{IpPacket, checksum, protocol};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ops::RangeInclusive;
use std::collections::BTreeMap;

/// How a translator behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// The public IPv4 address; without one IPv4 passes untranslated.
    pub public_v4: Option<Ipv4Addr>,
    /// The public IPv6 address; without one IPv6 passes untranslated.
    pub public_v6: Option<Ipv6Addr>,
    /// A mapping that carries nothing for this long is gone.
    pub timeout_ns: u64,
    /// Public ports, and ICMP echo identifiers.
    pub ports: RangeInclusive<u16>,
    /// Most mappings at a time; beyond them new flows are dropped.
    pub max_mappings: usize,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            public_v4: None,
            public_v6: None,
            timeout_ns: 300_000_000_000,
            ports: 1_024..=65_535,
            max_mappings: 65_536,
        }
    }
}

/// What a translator did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NatCounters {
    /// Mappings made.
    pub mapped: u64,
    /// Mappings that ran into their timeout.
    pub expired: u64,
    /// Packets from outside that belong to no mapping, dropped.
    pub unknown_inbound: u64,
    /// Packets that cannot be translated (fragments, other protocols, malformed), dropped.
    pub untranslatable: u64,
    /// Packets of new flows dropped because ports or mappings ran out.
    pub exhausted: u64,
}

/// A flow: protocol, inside end, remote end. ICMP echo has its identifier as the inside port.
type Key = (u8, SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug)]
struct Mapping {
    port: u16,
    used: u64,
}

/// The translator.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    by_inside: BTreeMap<Key, Mapping>,
    /// Protocol, public port and remote end.
    by_outside: BTreeMap<(u8, u16, SocketAddr), Key>,
    keep_port: bool,
    next_port: u16,
    counters: NatCounters,
}

impl Nat {
    /// A translator without mappings.
    #[must_use]
    pub fn new(config: NatConfig) -> Self {
        let next_port = *config.ports.start();
        Self {
            config,
            by_inside: BTreeMap::new(),
            by_outside: BTreeMap::new(),
            keep_port: true,
            next_port,
            counters: NatCounters::default(),
        }
    }

    /// Forgets all mappings, as a restart does: what comes in is dropped until something goes out,
    /// which then gets its old port if it kept the inside one.
    pub fn forget(&mut self) {
        self.by_inside.clear();
        self.by_outside.clear();
    }

    /// Forgets all mappings and gives every flow another public port from now on: to the remote
    /// end, running connections go on from a port it does not know.
    pub fn rebind(&mut self) {
        self.forget();
        self.keep_port = false;
    }

    /// Changes the public addresses from now on, and forgets all mappings.
    pub fn set_public(&mut self, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) {
        self.forget();
        (self.config.public_v4, self.config.public_v6) = (v4, v6);
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &NatCounters {
        &self.counters
    }

    /// Mappings held, those not yet found to be too old included.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.by_inside.len()
    }

    fn public(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 {
            self.config.public_v6.map(IpAddr::V6)
        } else {
            self.config.public_v4.map(IpAddr::V4)
        }
    }

    fn outbound(&mut self, now: u64, layout: &Layout, packet: &mut [u8]) -> bool {
        let Some(public) = self.public(layout.ipv6) else { return true };
        let ends = ends(packet, layout, Direction::AtoB);
        let Some((inside, remote)) = ends else {
            self.counters.untranslatable += 1;
            return false;
        };
        let Some(port) = self.map(now, (layout.protocol, inside, remote)) else {
            self.counters.exhausted += 1;
            return false;
        };
        rewrite(packet, layout, Direction::AtoB, SocketAddr::new(public, port));
        true
    }

    fn inbound(&mut self, now: u64, layout: &Layout, packet: &mut [u8]) -> bool {
        let Some(public) = self.public(layout.ipv6) else { return true };
        if let Some(at) = quoted(packet, layout) {
            return self.inbound_error(now, layout, at, public, packet);
        }
        let Some((local, remote)) = ends(packet, layout, Direction::BtoA) else {
            self.counters.untranslatable += 1;
            return false;
        };
        let inside = self.find(now, layout.protocol, local.port(), remote);
        let Some(inside) = inside.filter(|_| local.ip() == public) else {
            self.counters.unknown_inbound += 1;
            return false;
        };
        rewrite(packet, layout, Direction::BtoA, inside);
        true
    }

    /// An ICMP error quotes a packet as it was outside: that is turned back too (RFC 5508 §4).
    fn inbound_error(
        &mut self,
        now: u64,
        layout: &Layout,
        at: usize,
        public: IpAddr,
        packet: &mut [u8],
    ) -> bool {
        let sound = IpPacket::parse(packet).is_ok_and(|ip| {
            let pseudo = if layout.covers_addresses() { ip.pseudo_header_sum() } else { 0 };
            ip.dst == public && checksum::fold(pseudo + checksum::sum(ip.payload)) == 0xffff
        });
        let inner = packet.get(at..).and_then(|inner| quoted_ends(inner, layout.ipv6));
        let Some((inner, local, remote)) = inner.filter(|_| sound) else {
            self.counters.untranslatable += 1;
            return false;
        };
        let inside = self.find(now, inner.protocol, local.port(), remote);
        let Some(inside) = inside.filter(|_| local.ip() == public) else {
            self.counters.unknown_inbound += 1;
            return false;
        };
        let address = octets(inside.ip());
        replace(packet, 0, layout.destination(), &address, header_sum(layout));
        if let Some(quote) = packet.get_mut(at..) {
            replace(quote, 0, inner.source(), &address, header_sum(&inner));
            let port = port_at(&inner, Direction::AtoB);
            replace(quote, 0, port..port + 2, &inside.port().to_be_bytes(), &[]);
        }
        edit::recompute(packet);
        true
    }

    /// The public port of a flow that goes out.
    fn map(&mut self, now: u64, key: Key) -> Option<u16> {
        let (protocol, inside, remote) = key;
        if let Some(mapping) = self.by_inside.get_mut(&key) {
            if now.saturating_sub(mapping.used) < self.config.timeout_ns {
                mapping.used = now;
                return Some(mapping.port);
            }
            self.expire(key);
        }
        if self.by_inside.len() >= self.config.max_mappings {
            self.expire_all(now);
            if self.by_inside.len() >= self.config.max_mappings {
                return None;
            }
        }
        let port = self.free_port(now, protocol, inside.port(), remote)?;
        self.by_inside.insert(key, Mapping { port, used: now });
        self.by_outside.insert((protocol, port, remote), key);
        self.counters.mapped += 1;
        Some(port)
    }

    /// The inside end that a packet from outside is for.
    fn find(
        &mut self,
        now: u64,
        protocol: u8,
        port: u16,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let key = *self.by_outside.get(&(protocol, port, remote))?;
        let mapping = self.by_inside.get_mut(&key)?;
        if now.saturating_sub(mapping.used) >= self.config.timeout_ns {
            self.expire(key);
            return None;
        }
        mapping.used = now;
        Some(key.1)
    }

    fn free_port(
        &mut self,
        now: u64,
        protocol: u8,
        wanted: u16,
        remote: SocketAddr,
    ) -> Option<u16> {
        if self.keep_port
            && self.config.ports.contains(&wanted)
            && self.is_free(now, protocol, wanted, remote)
        {
            return Some(wanted);
        }
        for _ in self.config.ports.clone() {
            let port = self.next_port;
            self.next_port = if port == *self.config.ports.end() {
                *self.config.ports.start()
            } else {
                port + 1
            };
            // Without keeping ports a flow must not get its own number by chance either.
            let unwanted = !self.keep_port && port == wanted;
            if !unwanted && self.is_free(now, protocol, port, remote) {
                return Some(port);
            }
        }
        None
    }

    /// True when no live mapping has this port towards this remote end.
    fn is_free(&mut self, now: u64, protocol: u8, port: u16, remote: SocketAddr) -> bool {
        let Some(&key) = self.by_outside.get(&(protocol, port, remote)) else { return true };
        let used = self.by_inside.get(&key).map_or(0, |mapping| mapping.used);
        if now.saturating_sub(used) < self.config.timeout_ns {
            return false;
        }
        self.expire(key);
        true
    }

    fn expire(&mut self, key: Key) {
        if let Some(mapping) = self.by_inside.remove(&key) {
            self.by_outside.remove(&(key.0, mapping.port, key.2));
            self.counters.expired += 1;
        }
    }

    fn expire_all(&mut self, now: u64) {
        let timeout = self.config.timeout_ns;
        let old: Vec<Key> = self
            .by_inside
            .iter()
            .filter(|(_, mapping)| now.saturating_sub(mapping.used) >= timeout)
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            self.expire(key);
        }
    }
}

impl Middlebox for Nat {
    fn process(&mut self, now: u64, dir: Direction, mut packet: Vec<u8>, out: &mut Output) {
        let Some(layout) = Layout::of(&packet).filter(|layout| !layout.fragment) else {
            self.counters.untranslatable += 1;
            return;
        };
        let passes = match dir {
            Direction::AtoB => self.outbound(now, &layout, &mut packet),
            Direction::BtoA => self.inbound(now, &layout, &mut packet),
        };
        if passes {
            out.push((dir, packet));
        }
    }
}

/// The near end (the one to translate) and the far end of a packet that travels in `dir`.
fn ends(packet: &[u8], layout: &Layout, dir: Direction) -> Option<(SocketAddr, SocketAddr)> {
    let source = address(packet.get(layout.source())?)?;
    let destination = address(packet.get(layout.destination())?)?;
    let word = |at: usize| {
        packet.get(at..).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port))
    };
    let (near, far) = match dir {
        Direction::AtoB => (source, destination),
        Direction::BtoA => (destination, source),
    };
    match layout.protocol {
        protocol::TCP | protocol::UDP => {
            let ports = [word(layout.transport)?, word(layout.transport + 2)?];
            let [near_port, far_port] = match dir {
                Direction::AtoB => ports,
                Direction::BtoA => [ports[1], ports[0]],
            };
            Some((SocketAddr::new(near, near_port), SocketAddr::new(far, far_port)))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let echo = match (layout.ipv6, dir) {
                (false, Direction::AtoB) => 8,
                (false, Direction::BtoA) => 0,
                (true, Direction::AtoB) => 128,
                (true, Direction::BtoA) => 129,
            };
            let id = word(layout.transport + 4)?;
            let is_echo = packet.get(layout.transport) == Some(&echo);
            is_echo.then(|| (SocketAddr::new(near, id), SocketAddr::new(far, 0)))
        }
        _ => None,
    }
}

/// Offset of the packet that an ICMP error quotes; `None` when this is no ICMP error.
fn quoted(packet: &[u8], layout: &Layout) -> Option<usize> {
    let kind = *packet.get(layout.transport)?;
    let error = match layout.protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    };
    error.then_some(layout.transport + 8)
}

/// Layout and ends of a quoted packet, of which only the first bytes are there.
fn quoted_ends(quote: &[u8], ipv6: bool) -> Option<(Layout, SocketAddr, SocketAddr)> {
    let first = quote.first()?;
    let (protocol, transport) = match (first >> 4, ipv6) {
        (4, false) => (*quote.get(9)?, usize::from(first & 0x0f) * 4),
        (6, true) => (*quote.get(6)?, 40),
        _ => return None,
    };
    let layout = Layout { ipv6, protocol, transport, fragment: false };
    let (local, remote) = ends(quote, &layout, Direction::AtoB)?;
    Some((layout, local, remote))
}

/// Puts `end` in the place of the inside end's translation.
fn rewrite(packet: &mut [u8], layout: &Layout, dir: Direction, end: SocketAddr) {
    let range = match dir {
        Direction::AtoB => layout.source(),
        Direction::BtoA => layout.destination(),
    };
    let Some(sum) = layout.checksum() else { return };
    // A UDP checksum of zero says that there is none (RFC 768), and stays.
    let without = layout.protocol == protocol::UDP && packet.get(sum..sum + 2) == Some(&[0, 0]);
    let sums: Vec<usize> = (!without).then_some(sum).into_iter().collect();
    let mut address_sums = header_sum(layout).to_vec();
    if layout.covers_addresses() {
        address_sums.extend(&sums);
    }
    replace(packet, 0, range, &octets(end.ip()), &address_sums);
    let port = port_at(layout, dir);
    replace(packet, 0, port..port + 2, &end.port().to_be_bytes(), &sums);
    if layout.protocol == protocol::UDP
        && !without
        && let Some(field) = packet.get_mut(sum..sum + 2)
        && *field == [0, 0]
    {
        field.fill(0xff);
    }
}

/// Offset of the port, or of the echo identifier, that stands for the inside end.
const fn port_at(layout: &Layout, dir: Direction) -> usize {
    match (layout.protocol, dir) {
        (protocol::ICMP | protocol::ICMPV6, _) => layout.transport + 4,
        (_, Direction::AtoB) => layout.transport,
        (_, Direction::BtoA) => layout.transport + 2,
    }
}

/// The IP header's own checksum: IPv6 has none.
const fn header_sum(layout: &Layout) -> &'static [usize] {
    if layout.ipv6 { &[] } else { &[10] }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
