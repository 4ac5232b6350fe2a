//! Our addresses, link by link.
//!
//! Invariant: ARP and NDISC speak for the addresses of the link they came in on
//! ([`Link::owns`]), while IP accepts any of our addresses on any port ([`Links::accepts`]): a
//! fullmesh phone joins the initial address over its other access too. What else passes, on links of transit,
//! is for hosts that are not us ([`Links::passes`]).

use super::L2Port;
use super::frame::{Framing, Mac};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mptcp_core::buf::PortId;
use smoltcp::wire::EthernetAddress;

/// One port's link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) framing: Framing,
    pub(crate) mtu: usize,
    transit: bool,
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
    /// Made from the station address where the link has IPv6 at all (RFC 4291 appendix A).
    link_local: Option<Ipv6Addr>,
}

impl Link {
    fn new(port: &L2Port) -> Self {
        let mac = EthernetAddress(port.mac);
        let mut link = Self {
            framing: Framing { mac, vlan: port.vlan },
            mtu: usize::from(port.mtu),
            transit: port.transit,
            v4: Vec::new(),
            v6: Vec::new(),
            link_local: None,
        };
        for net in &port.addresses {
            match *net {
                IpNet::V4(net) => link.v4.push(net),
                IpNet::V6(net) => link.v6.push(net),
            }
        }
        if !link.v6.is_empty() {
            link.link_local = Some(link_local(mac));
        }
        link
    }

    /// Our addresses on this link, the link-local one included.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|net| IpAddr::V4(net.addr()));
        let v6 = self.v6.iter().map(|net| IpAddr::V6(net.addr()));
        v4.chain(v6).chain(self.link_local.map(IpAddr::V6))
    }

    /// The link-local address, where the link has IPv6.
    pub(crate) fn link_local(&self) -> Option<Ipv6Addr> {
        self.link_local
    }

    /// The groups that solicitations for our addresses go to, each once.
    pub(crate) fn solicited_groups(&self) -> Vec<Ipv6Addr> {
        let own = self.v6.iter().map(Ipv6Net::addr).chain(self.link_local);
        let mut groups: Vec<_> = own.map(super::ndisc::solicited_node).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Prefixes of this link.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().map(|&net| IpNet::V4(net));
        v4.chain(self.v6.iter().map(|&net| IpNet::V6(net)))
    }

    /// True for our own addresses on this link.
    pub(crate) fn owns(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4.iter().any(|net| net.addr() == addr),
            IpAddr::V6(addr) => {
                self.link_local == Some(addr) || self.v6.iter().any(|net| net.addr() == addr)
            }
        }
    }

    /// True when `addr` can be a neighbour here: inside a prefix (and not its broadcast or network
    /// address), or link-local.
    pub(crate) fn on_link(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => {
                self.v4.iter().any(|net| net.contains(&addr) && !is_edge(net, addr))
            }
            IpAddr::V6(addr) if addr.is_unicast_link_local() => self.link_local.is_some(),
            IpAddr::V6(addr) => self.v6.iter().any(|net| net.contains(&addr)),
        }
    }

    /// The address to ask for (or probe) the neighbour `target` from.
    pub(crate) fn source_for(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(target) => {
                let net = self.v4.iter().find(|net| net.contains(&target)).or(self.v4.first())?;
                Some(IpAddr::V4(net.addr()))
            }
            IpAddr::V6(target) if target.is_unicast_link_local() => self.link_local.map(IpAddr::V6),
            IpAddr::V6(target) => {
                let net = self.v6.iter().find(|net| net.contains(&target));
                net.map(Ipv6Net::addr).or(self.link_local).map(IpAddr::V6)
            }
        }
    }

    /// True for the broadcast address of a prefix of this link.
    pub(crate) fn is_broadcast(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => addr.is_broadcast() || self.v4.iter().any(|net| is_edge(net, addr)),
            IpAddr::V6(_) => false,
        }
    }
}

/// The first and last address of a prefix name nobody (RFC 1122 §3.2.1.3), except on /31 and /32.
fn is_edge(net: &Ipv4Net, addr: Ipv4Addr) -> bool {
    net.prefix_len() < 31 && (addr == net.network() || addr == net.broadcast())
}

fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// All links, by port.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    links: Vec<Link>,
    /// Every address of ours that is not link-local, sorted.
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Links {
    pub(crate) fn new(ports: &[L2Port]) -> Self {
        let links: Vec<Link> = ports.iter().map(Link::new).collect();
        let mut v4: Vec<_> = links.iter().flat_map(|link| &link.v4).map(Ipv4Net::addr).collect();
        let mut v6: Vec<_> = links.iter().flat_map(|link| &link.v6).map(Ipv6Net::addr).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        Self { links, v4, v6 }
    }

    pub(crate) fn get(&self, port: PortId) -> Option<&Link> {
        self.links.get(usize::from(port.0))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PortId, &Link)> {
        (0_u8..).map(PortId).zip(&self.links)
    }

    /// True for any of our addresses; link-local ones count on their own link only.
    pub(crate) fn accepts(&self, port: PortId, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4.binary_search(&addr).is_ok(),
            IpAddr::V6(v6) => {
                self.v6.binary_search(&v6).is_ok()
                    || (v6.is_unicast_link_local()
                        && self.get(port).is_some_and(|link| link.owns(addr)))
            }
        }
    }

    /// True for addresses of hosts that are not us, where packets for them are taken.
    pub(crate) fn passes(&self, port: PortId, addr: IpAddr) -> bool {
        let is_host = match addr {
            IpAddr::V4(v4) => {
                let none = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast();
                !none && !v4.is_loopback() && !v4.is_link_local()
            }
            IpAddr::V6(v6) => {
                let none = v6.is_unspecified() || v6.is_multicast();
                !none && !v6.is_loopback() && !v6.is_unicast_link_local()
            }
        };
        let transit = |link: &Link| link.transit && !link.is_broadcast(addr);
        is_host && self.get(port).is_some_and(transit) && !self.accepts(port, addr)
    }

    /// True when no packet to us can come from `addr`.
    pub(crate) fn is_martian(&self, port: PortId, addr: IpAddr) -> bool {
        let impossible = match addr {
            IpAddr::V4(v4) => {
                v4.is_unspecified() || v4.is_multicast() || v4.is_loopback() || v4.is_broadcast()
            }
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_loopback(),
        };
        impossible
            || self.accepts(port, addr)
            || self.get(port).is_none_or(|link| link.is_broadcast(addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        let port = |mac, addresses: &[&str]| L2Port {
            mac: [2, 0, 0, 0, 0, mac],
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            ..L2Port::default()
        };
        Links::new(&[port(1, &["10.1.0.1/24", "fd00:1::1/64"]), port(2, &["10.2.0.1/31"])])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn neighbour_protocols_are_per_link_and_ip_is_not() {
        let links = links();
        let (lte, wifi) = (links.get(PortId(0)).unwrap(), links.get(PortId(1)).unwrap());
        assert!(lte.owns(ip("10.1.0.1")) && !wifi.owns(ip("10.1.0.1")));
        assert!(links.accepts(PortId(1), ip("10.1.0.1")));
        assert!(links.accepts(PortId(1), ip("fd00:1::1")));
        let local = ip("fe80::ff:fe00:1");
        assert!(lte.owns(local) && links.accepts(PortId(0), local));
        assert!(!wifi.owns(local) && !links.accepts(PortId(1), local));
        assert!(!links.accepts(PortId(0), ip("10.1.0.2")));
    }

    #[test]
    fn neighbours_are_hosts_of_the_prefix() {
        let links = links();
        let (lte, wifi) = (links.get(PortId(0)).unwrap(), links.get(PortId(1)).unwrap());
        for addr in ["10.1.0.2", "10.1.0.254", "fd00:1::fe", "fe80::7"] {
            assert!(lte.on_link(ip(addr)), "{addr}");
        }
        for addr in ["10.1.0.0", "10.1.0.255", "10.1.1.2", "fd00:2::1", "8.8.8.8"] {
            assert!(!lte.on_link(ip(addr)), "{addr}");
        }
        assert!(wifi.on_link(ip("10.2.0.0")), "a /31 has no broadcast address (RFC 3021)");
        assert!(!wifi.on_link(ip("fe80::7")), "no IPv6 on this link");
        assert_eq!(lte.source_for(ip("10.1.0.9")), Some(ip("10.1.0.1")));
        assert_eq!(lte.source_for(ip("fd00:1::9")), Some(ip("fd00:1::1")));
        assert_eq!(lte.source_for(ip("fe80::9")), Some(ip("fe80::ff:fe00:1")));
        assert_eq!(wifi.source_for(ip("fd00:1::9")), None);
    }

    #[test]
    fn martians_are_recognised() {
        let links = links();
        for addr in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.1.0.255"] {
            assert!(links.is_martian(PortId(0), ip(addr)), "{addr}");
        }
        for addr in ["::", "::1", "ff02::1", "10.1.0.1", "10.2.0.1", "fd00:1::1"] {
            assert!(links.is_martian(PortId(0), ip(addr)), "{addr}");
        }
        assert!(links.is_martian(PortId(9), ip("8.8.8.8")), "an unknown port");
        assert!(!links.is_martian(PortId(0), ip("8.8.8.8")));
    }
}
