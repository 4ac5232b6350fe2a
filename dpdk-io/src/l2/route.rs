//! Where a packet leaves: by the port its flow came in on, or by the routes (RFC 1812 §5.2.4.3,
//! longest prefix first).
//!
//! Invariant: a next hop is on-link on its port.

use super::links::Links;
use super::{L2Port, L2Route};
use core::net::IpAddr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mptcp_core::buf::PortId;
use prefix_trie::PrefixMap;

/// Where to hand a packet: a neighbour on a port's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub(crate) port: PortId,
    pub(crate) addr: IpAddr,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    /// The destination itself is the neighbour.
    OnLink(PortId),
    Via(Hop),
}

/// The routing table and each port's way back.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    v4: PrefixMap<Ipv4Net, Target>,
    v6: PrefixMap<Ipv6Net, Target>,
    /// Per port: its gateways, then its routes from the longest prefix to the shortest.
    ways_back: Vec<Vec<(IpNet, IpAddr)>>,
}

impl Routes {
    pub(crate) fn new(ports: &[L2Port], links: &Links, routes: &[L2Route]) -> Self {
        let mut v4 = PrefixMap::new();
        let mut v6 = PrefixMap::new();
        let mut insert = |net: IpNet, target: Target, replace: bool| match net.trunc() {
            IpNet::V4(net) if replace || v4.get(&net).is_none() => {
                v4.insert(net, target);
            }
            IpNet::V6(net) if replace || v6.get(&net).is_none() => {
                v6.insert(net, target);
            }
            _ => {}
        };
        for route in routes {
            insert(route.to, Target::Via(Hop { port: route.port, addr: route.via }), false);
        }
        // A connected prefix beats a route of the same length; the first port of several has it.
        for (port, link) in links.iter().collect::<Vec<_>>().into_iter().rev() {
            for net in link.prefixes() {
                insert(net, Target::OnLink(port), true);
            }
        }
        let everywhere = |hop: &IpAddr| match hop {
            IpAddr::V4(_) => (IpNet::V4(Ipv4Net::default()), *hop),
            IpAddr::V6(_) => (IpNet::V6(Ipv6Net::default()), *hop),
        };
        let ways_back = (0_u8..).map(PortId).zip(ports).map(|(id, port)| {
            let mut own: Vec<_> = routes.iter().filter(|route| route.port == id).collect();
            own.sort_by_key(|route| core::cmp::Reverse(route.to.prefix_len()));
            let gateways = port.gateway.iter().map(everywhere);
            gateways.chain(own.into_iter().map(|route| (route.to.trunc(), route.via))).collect()
        });
        let ways_back = ways_back.collect();
        Self { v4, v6, ways_back }
    }

    /// The hop of a packet to `dst` that must leave by `port` ([`PortId::ROUTED`]: by any).
    pub(crate) fn hop(&self, links: &Links, port: PortId, dst: IpAddr) -> Option<Hop> {
        if port == PortId::ROUTED {
            return self.routed(dst);
        }
        if links.get(port)?.on_link(dst) {
            return Some(Hop { port, addr: dst });
        }
        let ways = self.ways_back.get(usize::from(port.0))?;
        let (_, addr) = ways.iter().find(|(to, _)| to.contains(&dst))?;
        Some(Hop { port, addr: *addr })
    }

    /// Every configured next hop.
    pub(crate) fn next_hops(&self) -> impl Iterator<Item = Hop> {
        (0_u8..)
            .map(PortId)
            .zip(&self.ways_back)
            .flat_map(|(port, ways)| ways.iter().map(move |&(_, addr)| Hop { port, addr }))
    }

    fn routed(&self, dst: IpAddr) -> Option<Hop> {
        let target = match dst {
            IpAddr::V4(dst) => self.v4.get_lpm(&dst.into())?.1,
            IpAddr::V6(dst) => self.v6.get_lpm(&dst.into())?.1,
        };
        match *target {
            Target::OnLink(port) => Some(Hop { port, addr: dst }),
            Target::Via(hop) => Some(hop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ports() -> Vec<L2Port> {
        let port = |addresses: &[&str], gateway: &[&str]| L2Port {
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            gateway: gateway.iter().map(|addr| ip(addr)).collect(),
            ..L2Port::default()
        };
        vec![
            port(&["10.1.0.1/24", "fd00:1::1/64"], &["10.1.0.254", "fd00:1::fe"]),
            port(&["10.2.0.1/24"], &["10.2.0.254"]),
            port(&["10.9.0.1/24"], &[]),
        ]
    }

    fn route(to: &str, via: &str, port: u8) -> L2Route {
        L2Route { to: to.parse().unwrap(), via: ip(via), port: PortId(port) }
    }

    fn table(routes: &[L2Route]) -> (Links, Routes) {
        let links = Links::new(&ports());
        let routes = Routes::new(&ports(), &links, routes);
        (links, routes)
    }

    #[test]
    fn replies_leave_by_the_port_of_the_flow() {
        let (links, routes) = table(&[route("0.0.0.0/0", "10.9.0.2", 2)]);
        let hop = |port, dst: &str| {
            routes.hop(&links, PortId(port), ip(dst)).map(|hop| (hop.port.0, hop.addr.to_string()))
        };
        let some = |port, addr: &str| Some((port, addr.to_owned()));
        assert_eq!(hop(0, "10.1.0.2"), some(0, "10.1.0.2"), "on-link");
        assert_eq!(hop(0, "192.0.2.1"), some(0, "10.1.0.254"), "behind the access router");
        assert_eq!(hop(1, "192.0.2.1"), some(1, "10.2.0.254"), "the other access router");
        assert_eq!(hop(1, "10.1.0.2"), some(1, "10.2.0.254"), "on-link, but not here");
        assert_eq!(hop(0, "2001:db8::1"), some(0, "fd00:1::fe"));
        assert_eq!(hop(1, "2001:db8::1"), None, "no IPv6 way back");
        assert_eq!(hop(2, "192.0.2.1"), some(2, "10.9.0.2"), "a port without gateway: its route");
        assert_eq!(hop(9, "192.0.2.1"), None, "no such port");
    }

    #[test]
    fn exits_use_the_longest_prefix() {
        let (links, routes) = table(&[
            route("0.0.0.0/0", "10.9.0.2", 2),
            route("192.0.2.0/24", "10.2.0.254", 1),
            route("192.0.2.128/25", "10.1.0.254", 0),
            route("10.2.0.0/24", "10.9.0.2", 2),
        ]);
        let hop = |dst: &str| routes.hop(&links, PortId::ROUTED, ip(dst)).unwrap();
        assert_eq!(hop("8.8.8.8"), Hop { port: PortId(2), addr: ip("10.9.0.2") });
        assert_eq!(hop("192.0.2.1"), Hop { port: PortId(1), addr: ip("10.2.0.254") });
        assert_eq!(hop("192.0.2.200"), Hop { port: PortId(0), addr: ip("10.1.0.254") });
        assert_eq!(hop("10.2.0.7"), Hop { port: PortId(1), addr: ip("10.2.0.7") }, "connected");
        assert_eq!(routes.hop(&links, PortId::ROUTED, ip("2001:db8::1")), None);
        assert_eq!(routes.next_hops().count(), 3 + 4);
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_a_linear_search(
            nets in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..40),
            dst: u32,
        ) {
            let to = |(addr, len): (u32, u8)| Ipv4Net::new(addr.into(), len).unwrap().trunc();
            let routes: Vec<L2Route> = (0_u8..)
                .zip(&nets)
                .map(|(i, &net)| L2Route {
                    to: IpNet::V4(to(net)),
                    via: IpAddr::V4([10, 9, 0, i].into()),
                    port: PortId(2),
                })
                .collect();
            let (links, table) = table(&routes);
            let dst = IpAddr::V4(dst.into());
            let connected = ports().iter().any(|port| port.addresses.iter().any(|n| n.contains(&dst)));
            // Of equal prefixes the first wins; max_by_key takes the last, hence the reversal.
            let model = routes
                .iter()
                .rev()
                .filter(|route| route.to.contains(&dst))
                .max_by_key(|route| route.to.prefix_len())
                .map(|route| route.via);
            if !connected {
                let found = table.hop(&links, PortId::ROUTED, dst).map(|hop| hop.addr);
                prop_assert_eq!(found, model);
            }
        }
    }
}
