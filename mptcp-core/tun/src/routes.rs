//! Which device a packet leaves by when its flow names none: longest prefix first.

use core::net::IpAddr;
use ipnet::IpNet;
use mptcp_core::buf::PortId;

/// Destination prefixes and their ports. Meant for a handful of routes: a lookup scans them.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Longest prefix first; among equal prefixes the first given.
    routes: Vec<(IpNet, PortId)>,
}

impl RouteTable {
    /// Host bits in a prefix are ignored. Of two routes to one prefix the earlier wins.
    #[must_use]
    pub fn new(routes: &[(IpNet, PortId)]) -> Self {
        let mut routes: Vec<_> = routes.iter().map(|(net, port)| (net.trunc(), *port)).collect();
        routes.sort_by_key(|(net, _)| core::cmp::Reverse(net.prefix_len()));
        Self { routes }
    }

    /// The port towards `destination`; `None` when no route covers it.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<PortId> {
        self.routes.iter().find(|(net, _)| net.contains(&destination)).map(|(_, port)| *port)
    }

    /// Every port a route names.
    pub(crate) fn ports(&self) -> impl Iterator<Item = PortId> {
        self.routes.iter().map(|(_, port)| *port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let table = RouteTable::new(&[
            (net("0.0.0.0/0"), PortId(0)),
            (net("10.1.2.3/8"), PortId(1)),
            (net("10.9.0.0/24"), PortId(2)),
            (net("10.9.0.0/24"), PortId(3)),
            (net("fd00::/8"), PortId(4)),
        ]);
        let lookup = |text: &str| table.lookup(text.parse().unwrap());
        assert_eq!(lookup("192.0.2.1"), Some(PortId(0)));
        assert_eq!(lookup("10.255.0.1"), Some(PortId(1)));
        assert_eq!(lookup("10.9.0.255"), Some(PortId(2)), "the earlier of two equal routes");
        assert_eq!(lookup("fd12::1"), Some(PortId(4)));
        assert_eq!(lookup("2001:db8::1"), None, "the IPv4 default route is not for IPv6");
        assert_eq!(lookup("::ffff:10.0.0.1"), None, "a mapped address is IPv6 on the wire");
        assert_eq!(RouteTable::default().lookup("10.0.0.1".parse().unwrap()), None);
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few distinct addresses, so that prefixes nest and collide.
        let v4 = (0u32..8, 0u8..=32)
            .prop_map(|(a, len)| IpNet::new_assert(Ipv4Addr::from_bits(a << 29 | a).into(), len));
        let v6 = (0u128..8, 0u8..=128)
            .prop_map(|(a, len)| IpNet::new_assert(Ipv6Addr::from_bits(a << 125 | a).into(), len));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn agrees_with_a_scan_for_the_longest_match(
            nets in proptest::collection::vec(any_net(), 0..12),
            destination in any_net(),
        ) {
            let routes: Vec<_> =
                nets.iter().zip(0u8..).map(|(net, i)| (*net, PortId(i))).collect();
            let destination = destination.addr();
            let mut best: Option<(u8, PortId)> = None;
            for (net, port) in &routes {
                let longer = best.is_none_or(|(len, _)| net.prefix_len() > len);
                if net.contains(&destination) && longer {
                    best = Some((net.prefix_len(), *port));
                }
            }
            prop_assert_eq!(
                RouteTable::new(&routes).lookup(destination),
                best.map(|(_, port)| port)
            );
        }
    }
}
