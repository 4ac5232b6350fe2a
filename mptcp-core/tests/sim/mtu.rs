//! Paths that lose long packets in silence (RFC 2923 §2.1, RFC 4821): what they cost beside the same
//! path with its MTU configured right, on plain TCP and on one path of two.

use crate::transfer::{Report, run_with};
use crate::world::{World, client_addr};
use crate::{link, pair};
use core::net::IpAddr;
use mptcp_core::buf::PortId;
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, MtuProbing, StackConfig};
use mptcp_core::time::{Duration, Instant};
use netsim::link::LinkConfig;
use netsim::middlebox::PathMtu;

const LIMIT: Duration = Duration::from_secs(900);
const SERVER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 9, 0, 1));

/// A silent hop on a path, its MTU when, and a host that knows better than to probe for it.
struct Setting<'a> {
    links: &'a [LinkConfig],
    /// From when on the hop of path 0 takes so much; before, 1500.
    hop: &'a [(u64, u16)],
    /// What both hosts take for the MTU.
    mtu: u16,
    probing: MtuProbing,
    congestion: CongestionAlgorithm,
    down: u64,
}

impl Setting<'_> {
    fn config(&self, addrs: &[IpAddr]) -> StackConfig {
        let mut config = StackConfig::default();
        config.tcp.mtu_probing = self.probing;
        config.tcp.congestion = self.congestion;
        let address = |addr: &IpAddr| LocalAddress {
            addr: *addr,
            port: PortId::ROUTED,
            mtu: self.mtu,
            endpoint: true,
            backup: false,
        };
        config.addresses = addrs.iter().map(address).collect();
        config
    }

    fn run(&self) -> (Report, World) {
        let links: Vec<_> = self.links.iter().cloned().map(pair).collect();
        let clients: Vec<_> = (0..links.len()).map(|path| client_addr(path, false)).collect();
        let (client, server) = (self.config(&clients), self.config(&[SERVER]));
        let mut world = World::new(5, &links, false, client, server);
        let path = world.paths[0];
        let at = world.net.add_middlebox(path, Box::new(PathMtu::silent(1_500)));
        let report = run_with(&mut world, links.len() > 1, 100, self.down, LIMIT, |world| {
            let now = world.now;
            let due = self.hop.iter().filter(|(ms, _)| now >= Instant::from_millis(*ms));
            if let (Some((_, mtu)), Some(hop)) = (due.last(), world.net.middlebox(path, at)) {
                let hop: &mut PathMtu = hop;
                hop.set_mtu(*mtu);
            }
        });
        world.assert_empty();
        world.net.referee().expect("every world has one").assert_clean();
        (report, world)
    }
}

#[test]
fn probe_figures() {
    for congestion in CongestionAlgorithm::ALL {
        for (hop, mtu, probing) in [
            (1300, 1300, MtuProbing::BlackHole),
            (1300, 1500, MtuProbing::BlackHole),
            (1300, 1500, MtuProbing::Always),
            (1500, 1500, MtuProbing::BlackHole),
            (1500, 1500, MtuProbing::Always),
        ] {
            let setting = Setting {
                links: &[link(20, 20)],
                hop: &[(0, hop)],
                mtu,
                probing,
                congestion,
                down: 30_000_000,
            };
            let (report, world) = setting.run();
            let c = world.server.stack.counters();
            println!(
                "{} hop {hop} mtu {mtu} {probing:?}: {:?}, holes {} ok {} fail {} timeouts {} rtx {}",
                congestion.name(),
                report.took,
                c.tcp_mtu_black_holes,
                c.tcp_mtup_success,
                c.tcp_mtup_fail,
                c.tcp_timeouts,
                c.retrans_segs
            );
        }
    }
}
