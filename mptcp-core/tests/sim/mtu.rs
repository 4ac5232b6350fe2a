//! Paths that lose long packets in silence (RFC 2923 §2.1, RFC 4821): what they cost beside the same
//! path with its MTU configured right, on plain TCP and on one path of two.

use crate::transfer::{Report, run_with};
use crate::world::{World, client_addr};
use crate::{link, pair};
use core::net::IpAddr;
use mptcp_core::buf::PortId;
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, MtuProbing, StackConfig};
use mptcp_core::stats::Counters;
use mptcp_core::time::{Duration, Instant};
use netsim::link::LinkConfig;
use netsim::middlebox::PathMtu;

const LIMIT: Duration = Duration::from_secs(900);
const SERVER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 9, 0, 1));

/// A transfer over a path with a silent hop.
#[derive(Clone, Copy)]
struct Setting<'a> {
    links: &'a [LinkConfig],
    /// From which time on, in milliseconds, the hop of the first path takes so much.
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

    fn run(&self) -> Outcome {
        let links: Vec<_> = self.links.iter().cloned().map(pair).collect();
        let clients: Vec<_> = (0..links.len()).map(|path| client_addr(path, false)).collect();
        let (client, server) = (self.config(&clients), self.config(&[SERVER]));
        let mut world = World::new(5, &links, false, client, server);
        let path = world.paths[0];
        let at = world.net.add_middlebox(path, Box::new(PathMtu::silent(1_500)));
        let report = run_with(&mut world, links.len() > 1, 100, self.down, LIMIT, |world| {
            let now = world.now;
            let due = self.hop.iter().rfind(|(ms, _)| now >= Instant::from_millis(*ms));
            if let Some((_, mtu)) = due {
                world.net.middlebox::<PathMtu>(path, at).expect("a hop").set_mtu(*mtu);
            }
        });
        world.assert_empty();
        world.net.referee().expect("every world has one").assert_clean();
        let counters = world.server.stack.counters().clone();
        let outcome = Outcome { report, counters };
        println!("{outcome}");
        outcome
    }
}

/// What a transfer came to, and what its sender counted.
struct Outcome {
    report: Report,
    counters: Counters,
}

impl core::fmt::Display for Outcome {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (report, counters) = (&self.report, &self.counters);
        write!(
            f,
            "{:?}, longest gap {:?}, octets by path {:?}; {} black holes, {} timeouts, {} probes arrived, \
             {} were lost, {} segments came again",
            report.took,
            report.longest_gap,
            report.server_bytes_by_path,
            counters.tcp_mtu_black_holes,
            counters.tcp_timeouts,
            counters.tcp_mtup_success,
            counters.tcp_mtup_fail,
            counters.retrans_segs,
        )
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Plain TCP through 20 Mbit/s, whose sender paces or not.
fn plain(hop: &[(u64, u16)], mtu: u16, congestion: CongestionAlgorithm) -> Outcome {
    let (probing, down) = (MtuProbing::BlackHole, 30_000_000);
    Setting { links: &[link(20, 20)], hop, mtu, probing, congestion, down }.run()
}

/// The same beside a second path of 10 Mbit/s without a hop.
fn of_two(hop: &[(u64, u16)], mtu: u16) -> Outcome {
    let (probing, congestion) = (MtuProbing::BlackHole, CongestionAlgorithm::Bbr);
    let links = &[link(20, 20), link(10, 30)];
    Setting { links, hop, mtu, probing, congestion, down: 30_000_000 }.run()
}

/// All it costs are the probe and the two timeouts in the beginning; what was reduced for them comes back.
#[test]
fn a_silent_hop_costs_plain_tcp_two_timeouts() {
    for congestion in CongestionAlgorithm::ALL {
        let right = plain(&[(0, 1_300)], 1_300, congestion);
        let found = plain(&[(0, 1_300)], 1_500, congestion);
        let counters = &found.counters;
        assert_eq!((counters.tcp_mtu_black_holes, counters.tcp_timeouts), (1, 2));
        let lost = found.report.took.saturating_sub(right.report.took);
        assert!(lost <= ms(1_000), "{}: {lost:?} more", congestion.name());
        assert!(counters.tcp_mtup_success >= 2 && counters.tcp_mtup_fail <= 13);
    }
}

/// A path that becomes one while much is in flight.
#[test]
fn a_hop_that_shrinks_stops_plain_tcp_for_two_timeouts() {
    for congestion in [CongestionAlgorithm::Bbr, CongestionAlgorithm::Cubic] {
        let right = plain(&[(4_000, 1_300)], 1_300, congestion);
        let found = plain(&[(4_000, 1_300)], 1_500, congestion);
        assert_eq!((found.counters.tcp_mtu_black_holes, found.counters.tcp_timeouts), (1, 2));
        let lost = found.report.took.saturating_sub(right.report.took);
        assert!(lost <= ms(1_100) && found.report.longest_gap <= ms(1_000), "{lost:?} more");
    }
}

/// Another path carries the stream meanwhile, and the one with the hop comes back. Short segments arrive at first,
/// and what is sent again for them does not: the others learn of that before the timeout.
#[test]
fn a_silent_hop_on_one_path_of_two_costs_part_of_that_path() {
    let right = of_two(&[(0, 1_300)], 1_300);
    for (hop, gap) in [(&[(0, 1_300)][..], 60), (&[(0, 1_500), (4_000, 1_300)], 200)] {
        let found = of_two(hop, 1_500);
        assert_eq!(found.counters.tcp_mtu_black_holes, 1);
        assert_eq!((found.counters.subflow_stale, found.counters.subflow_recover), (1, 1));
        let (took, most) = (found.report.took, right.report.took * 108 / 100);
        assert!(took <= most && found.report.longest_gap <= ms(gap), "{took:?} of {most:?}");
        // Two thirds of the octets, less what the path missed in the first second.
        let [with_hop, without] = found.report.server_bytes_by_path[..] else { panic!("two") };
        assert!(with_hop > 17 * without / 10, "{with_hop} and {without}");
    }
    // The deeper floor.
    let right = of_two(&[(0, 700)], 700);
    let found = of_two(&[(0, 700)], 1_500);
    assert!(found.report.took <= right.report.took * 11 / 10);
    assert!(found.report.server_bytes_by_path[0] > 15_000_000);
}

/// Whoever begins with short segments needs no timeout, and where long ones pass it costs next to nothing.
#[test]
fn probing_from_the_start_needs_no_timeout() {
    let run = |hop, mtu, probing| {
        let links = &[link(20, 20)];
        let congestion = CongestionAlgorithm::Bbr;
        Setting { links, hop: &[(0, hop)], mtu, probing, congestion, down: 30_000_000 }.run()
    };
    for hop in [1_300, 1_500] {
        let right = run(hop, hop, MtuProbing::Off);
        let found = run(hop, 1_500, MtuProbing::Always);
        assert_eq!((found.counters.tcp_timeouts, found.counters.tcp_mtu_black_holes), (0, 0));
        let lost = found.report.took.saturating_sub(right.report.took);
        assert!(lost <= ms(100), "{hop}: {lost:?} more");
    }
}

/// Ten minutes later the path takes whole packets again, and they are sent.
#[test]
fn a_hop_that_is_gone_is_noticed_after_ten_minutes() {
    let slow = LinkConfig { rate_bps: Some(600_000), ..link(1, 20) };
    let found = Setting {
        links: &[slow],
        hop: &[(0, 1_300), (300_000, 1_500)],
        mtu: 1_500,
        probing: MtuProbing::BlackHole,
        congestion: CongestionAlgorithm::Bbr,
        down: 50_000_000,
    }
    .run();
    // Two led near 1,300; the third has 1,500, and then there is nothing more to be found out.
    assert_eq!(found.counters.tcp_mtup_success, 3);
    assert!(found.report.took > Duration::from_secs(650), "{:?}", found.report.took);
    assert_eq!((found.counters.tcp_mtu_black_holes, found.counters.tcp_timeouts), (1, 2));
}
