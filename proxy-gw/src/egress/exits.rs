//! By which port, and so from which address of ours, a destination is reached.
//!
//! Invariant: the longest prefix decides, a port's own subnets included.

use crate::auth::source_prefix;
use crate::config::Config;
use crate::dns::Family;
use core::hash::Hasher as _;
use core::net::IpAddr;
use ipnet::IpNet;
use mptcp_core::buf::PortId;
use siphasher::sip::SipHasher13;

/// Why a destination has no exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoExit {
    /// No route covers it.
    NoRoute,
    /// The gateway has no address of its family at all, or not on the port its route leaves by.
    NoAddress,
}

/// One prefix and the port behind it.
#[derive(Clone, Debug)]
struct Entry {
    to: IpNet,
    port: PortId,
    /// Our addresses there, of the prefix's family; the first one is the usual one.
    locals: Vec<IpAddr>,
    /// A subnet that clients come from.
    access: bool,
}

/// Every prefix that can be reached, longest first. A lookup scans them: meant for the handful of
/// routes an exit has.
#[derive(Clone, Debug)]
pub struct Exits {
    entries: Vec<Entry>,
    /// Whether any port has an IPv4, and an IPv6, address.
    families: [bool; 2],
}

impl Exits {
    /// The exits of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let local = |port: usize, to: &IpNet| {
            let addresses = config.ports.get(port).map_or(&[][..], |port| &port.addresses);
            let of_family =
                || addresses.iter().filter(|own| own.addr().is_ipv4() == to.addr().is_ipv4());
            let near = of_family().find(|own| own.contains(&to.addr()));
            // A link-local source reaches nobody behind a router (RFC 4007 §9).
            let wide = || of_family().find(|own| !is_link_local(own.addr()));
            near.or_else(wide).map(IpNet::addr)
        };
        let entry = |port: usize, to: IpNet| {
            let id = u8::try_from(port).map_or(PortId::ROUTED, PortId);
            Entry { to, port: id, locals: local(port, &to).into_iter().collect(), access: false }
        };
        let numbered = || config.ports.iter().enumerate();
        let own =
            || numbered().flat_map(|(idx, port)| port.addresses.iter().map(move |net| (idx, net)));
        let subnet = |(idx, net): (usize, &IpNet)| Entry {
            access: config.is_access(idx),
            ..entry(idx, net.trunc())
        };
        let mut entries: Vec<Entry> = own().map(subnet).collect();
        entries.extend(config.routes.iter().map(|route| match route.from.as_slice() {
            [] => entry(route.port, route.to),
            from => Entry { locals: from.to_vec(), ..entry(route.port, route.to) },
        }));
        entries.sort_by_key(|entry| core::cmp::Reverse(entry.to.prefix_len()));
        let has = |ipv4: bool| own().any(|(_, net)| net.addr().is_ipv4() == ipv4);
        Self { entries, families: [has(true), has(false)] }
    }

    /// Our address towards `destination`.
    ///
    /// # Errors
    /// See [`NoExit`].
    pub fn local_address(&self, destination: IpAddr) -> Result<IpAddr, NoExit> {
        self.local_addresses(destination)?.first().copied().ok_or(NoExit::NoAddress)
    }

    /// All our addresses towards `destination`, at least one.
    ///
    /// # Errors
    /// See [`NoExit`].
    pub fn local_addresses(&self, destination: IpAddr) -> Result<&[IpAddr], NoExit> {
        let [v4, v6] = self.families;
        if !(if destination.is_ipv4() { v4 } else { v6 }) {
            return Err(NoExit::NoAddress);
        }
        let entry = self.entries.iter().find(|entry| entry.to.contains(&destination));
        let locals = entry.ok_or(NoExit::NoRoute)?.locals.as_slice();
        if locals.is_empty() { Err(NoExit::NoAddress) } else { Ok(locals) }
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn has_choice(&self, destination: IpAddr) -> bool {
        self.local_addresses(destination).is_ok_and(|locals| locals.len() > 1)
    }

    /// The same, the one of `client` first: all connections of a client come from one address as long as
    /// that has ports left (RFC 4787 §4.1, RFC 6888 §3).
    pub fn pool(
        &self,
        destination: IpAddr,
        client: Option<IpAddr>,
    ) -> impl Iterator<Item = IpAddr> {
        let locals = self.local_addresses(destination).unwrap_or_default();
        let start = client.map_or(0, |client| {
            let mut hasher = SipHasher13::new();
            hasher.write_u128(source_prefix(client));
            usize::try_from(hasher.finish() >> 33).unwrap_or(0) % locals.len().max(1)
        });
        let (before, from) = locals.split_at_checked(start).unwrap_or_default();
        from.iter().chain(before).copied()
    }

    /// Whether there is an exit of this family.
    #[must_use]
    pub fn serves(&self, family: Family) -> bool {
        let mut locals = self.entries.iter().flat_map(|entry| &entry.locals);
        locals.any(|local| Family::of(*local) == family)
    }

    /// An address behind the exit that leads furthest. A subnet that clients come from is none.
    #[must_use]
    pub fn widest(&self, family: Family) -> Option<IpAddr> {
        let exits = self.entries.iter().rev().filter(|entry| !entry.access);
        let usable = exits.filter(|entry| !entry.locals.is_empty());
        let mut networks = usable.map(|entry| entry.to.network());
        networks.find(|network| Family::of(*network) == family)
    }

    /// As many addresses as one client may be sent from: of a pool it has one.
    #[must_use]
    pub fn sources(&self) -> usize {
        let mut pools: Vec<_> = self.entries.iter().map(|entry| entry.locals.as_slice()).collect();
        pools.retain(|pool| !pool.is_empty());
        pools.sort_unstable();
        pools.dedup();
        pools.len()
    }

    /// Every prefix with its port, longest first.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, PortId)> {
        self.entries.iter().map(|entry| (entry.to, entry.port))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [driver]
        kind = "tun"
        [[port]]
        name = "lte"
        device = "lte"
        addresses = ["10.1.0.1/24", "fd00:1::1/64"]
        [[port]]
        name = "exit"
        device = "exit"
        addresses = ["10.9.0.1/24", "10.8.0.1/24"]
        [[route]]
        to = "0.0.0.0/0"
        via = "10.9.0.2"
        port = "exit"
        [[route]]
        to = "192.0.2.0/24"
        via = "10.1.0.7"
        port = "lte"
        [socks5]
        listen = ["10.1.0.1:1080"]
    "#;

    #[test]
    fn the_longest_prefix_names_the_address() {
        let exits = Exits::new(&crate::config::parse("t", TEXT, &[]).unwrap());
        let local = |text: &str| {
            exits.local_address(text.parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(local("8.8.8.8").as_deref(), Ok("10.9.0.1"));
        assert_eq!(local("10.8.0.9").as_deref(), Ok("10.8.0.1"));
        assert_eq!(local("10.1.0.9").as_deref(), Ok("10.1.0.1"));
        assert_eq!(local("192.0.2.9").as_deref(), Ok("10.1.0.1"));
        assert_eq!(local("fd00:1::9").as_deref(), Ok("fd00:1::1"));
        assert_eq!(local("2a00::1"), Err(NoExit::NoRoute));
    }

    #[test]
    fn what_leads_furthest_is_an_exit() {
        let widest = |text: &str, family| {
            let exits = Exits::new(&crate::config::parse("t", text, &[]).unwrap());
            exits.widest(family).map(|address| address.to_string())
        };
        assert_eq!(widest(TEXT, Family::V4).as_deref(), Some("0.0.0.0"));
        // Only clients have IPv6.
        assert_eq!(widest(TEXT, Family::V6), None);
        // The exit has it too, on-link, and is not the wider of the two.
        let both = TEXT.replace("\"10.8.0.1/24\"", "\"10.8.0.1/24\", \"fd00:9::1/120\"");
        assert_eq!(widest(&both, Family::V6).as_deref(), Some("fd00:9::"));
    }

    #[test]
    fn a_route_may_have_a_pool() {
        let from = "from = ['10.8.0.1', '10.9.0.1']\nport = \"exit\"";
        let text = TEXT.replacen("port = \"exit\"", from, 1);
        let exits = Exits::new(&crate::config::parse("t", &text, &[]).unwrap());
        let locals = |text: &str| exits.local_addresses(text.parse().unwrap()).map(<[_]>::len);
        assert_eq!((locals("8.8.8.8"), locals("192.0.2.9")), (Ok(2), Ok(1)));
        let first = exits.local_address("8.8.8.8".parse().unwrap());
        assert_eq!(first, Ok("10.8.0.1".parse().unwrap()));
    }

    #[test]
    fn a_client_has_a_source_of_each_pool() {
        let sources =
            |text: &str| Exits::new(&crate::config::parse("t", text, &[]).unwrap()).sources();
        // The routes leave from what a subnet has already.
        assert_eq!(sources(TEXT), 4);
        let from = "from = ['10.8.0.1', '10.9.0.1']\nport = \"exit\"";
        assert_eq!(sources(&TEXT.replacen("port = \"exit\"", from, 1)), 5);
    }

    #[test]
    fn a_link_local_address_serves_its_link_only() {
        let route = "[[route]]\nto = '::/0'\nvia = 'fe80::2'\nport = 'lte'\n";
        let local = |addresses: &str, destination: &str| {
            let text = TEXT.replace("\"fd00:1::1/64\"", addresses) + route;
            let exits = Exits::new(&crate::config::parse("t", &text, &[]).unwrap());
            let local = exits.local_address(destination.parse().unwrap());
            local.map(|address| address.to_string())
        };
        let both = "\"fe80::1/64\", \"fd00:1::1/64\"";
        assert_eq!(local(both, "2a00::1").as_deref(), Ok("fd00:1::1"));
        assert_eq!(local(both, "fe80::9").as_deref(), Ok("fe80::1"));
        assert_eq!(local("\"fe80::1/64\"", "2a00::1"), Err(NoExit::NoAddress));
    }

    #[test]
    fn a_family_without_address_is_told_apart_from_a_missing_route() {
        let v4_only = TEXT.replace(", \"fd00:1::1/64\"", "");
        let exits = Exits::new(&crate::config::parse("t", &v4_only, &[]).unwrap());
        assert_eq!(exits.local_address("2a00::1".parse().unwrap()), Err(NoExit::NoAddress));
    }
}
