//! Explicit congestion notification over a router that marks what a full queue would drop (RFC 3168).

use crate::transfer::run;
use crate::world::World;
use crate::{link, pair};
use mptcp_core::config::{CongestionAlgorithm, EcnPolicy, StackConfig};
use mptcp_core::time::Duration;
use netsim::Direction;
use netsim::link::LinkConfig;

/// What a download over one path did.
#[derive(Debug)]
struct Outcome {
    marked: u64,
    dropped: u64,
    retransmitted: u64,
    reduced: u64,
    /// Share of the link's rate.
    used: f64,
}

fn config(congestion: CongestionAlgorithm, ecn: EcnPolicy) -> StackConfig {
    let mut config = StackConfig::default();
    config.tcp.congestion = congestion;
    config.tcp.ecn = ecn;
    config
}

/// 20 Mbit/s, 40 ms there and back, marks once a third of that is queued.
fn marking() -> LinkConfig {
    LinkConfig { ecn_mark_bytes: Some(32 << 10), ..link(20, 20) }
}

fn download(congestion: CongestionAlgorithm, client: EcnPolicy, v6: bool) -> Outcome {
    const OCTETS: u64 = 20_000_000;
    let links = [pair(marking())];
    let client = config(congestion, client);
    let server = config(congestion, EcnPolicy::default());
    let mut world = World::new(7, &links, v6, client, server);
    let report = run(&mut world, false, 100, OCTETS, Duration::from_secs(120));
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    let down = world.net.link(world.paths[0], Direction::BtoA).counters();
    let server = world.server.stack.counters();
    Outcome {
        marked: down.marked_packets,
        dropped: down.dropped_queue,
        retransmitted: server.retrans_segs,
        reduced: server.tcp_ecn_reduced,
        used: OCTETS as f64 * 8.0 / 20e6 / report.took.as_secs_f64(),
    }
}

#[test]
fn marks_take_the_place_of_losses() {
    for congestion in CongestionAlgorithm::ALL {
        let v6 = congestion == CongestionAlgorithm::Cubic;
        let marks = download(congestion, EcnPolicy::Request, v6);
        let losses = download(congestion, EcnPolicy::Off, v6);
        println!("{congestion:?}: {marks:?}, without {losses:?}");
        assert!(marks.marked > 0 && marks.reduced > 0, "{marks:?}");
        assert_eq!((marks.dropped, marks.retransmitted), (0, 0), "{congestion:?}: {marks:?}");
        // Half of a window that is a third more than the path holds leaves some of it unused.
        assert!(marks.used > 0.8, "{congestion:?}: {marks:?}");
        assert_eq!((losses.marked, losses.reduced), (0, 0), "{losses:?}");
        if congestion != CongestionAlgorithm::Bbr {
            // BBR leaves most of the queue alone.
            assert!(losses.dropped > 0 && losses.retransmitted > 0, "{losses:?}");
        }
    }
}

#[test]
fn every_subflow_agrees_on_its_own() {
    let links = [pair(marking()), pair(marking())];
    let ecn = config(CongestionAlgorithm::Lia, EcnPolicy::Request);
    let mut world = World::new(8, &links, false, ecn.clone(), ecn);
    run(&mut world, true, 100, 20_000_000, Duration::from_secs(120));
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    let (client, server) = (world.client.stack.counters(), world.server.stack.counters());
    assert_eq!((client.tcp_ecn_estab, server.tcp_ecn_estab), (2, 2));
    assert_eq!(server.retrans_segs, 0);
    for path in &world.paths {
        let down = world.net.link(*path, Direction::BtoA).counters();
        assert!(down.marked_packets > 0 && down.dropped_queue == 0, "{down:?}");
    }
    let marked: u64 = world
        .paths
        .iter()
        .map(|path| world.net.link(*path, Direction::BtoA).counters().marked_packets)
        .sum();
    assert_eq!(client.in_ce_pkts, marked, "every mark arrived");
}
