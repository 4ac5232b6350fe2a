//! Fast Open between two of our stacks (RFC 7413, RFC 8684 Appendix B): whatever is lost or changed
//! on the way, each stream arrives once, and boxes that mind data on a SYN cost one round.

use crate::transfer::{Report, run};
use crate::world::World;
use crate::{link, pair};
use mptcp_core::config::StackConfig;
use mptcp_core::stats::Counters;
use mptcp_core::time::Duration;
use mptcp_core::wire::Version;
use netsim::Direction;
use netsim::link::{Change, LinkConfig, Loss};
use netsim::middlebox::{Fill, OptionStripper, Output, Strip, StripWhen};
use netsim::packet::edit::{self, TcpLayout};
use netsim::packet::flag;

const LIMIT: Duration = Duration::from_secs(2_000);
/// Kind of the Fast Open option.
const FAST_OPEN: u8 = 34;

/// Plain TCP, and both versions of MPTCP.
const KINDS: [Option<Version>; 3] = [None, Some(Version::V0), Some(Version::V1)];

fn world_of(seed: u64, kind: Option<Version>, links: &[(LinkConfig, LinkConfig)]) -> World {
    let mut config = StackConfig::default();
    config.mptcp.versions = kind.into_iter().collect();
    let mut world = World::new(seed, links, false, config.clone(), config);
    world.early = Some(1_000);
    world
}

fn transfer(world: &mut World, kind: Option<Version>, up: u64, down: u64) -> Report {
    let report = run(world, kind.is_some(), up, down, LIMIT);
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    report
}

fn kept(report: &Report, kind: Option<Version>) {
    let version = kind.map(|version| version as u8);
    assert_eq!(report.ends, [(version, None); 2], "{report:?}");
}

fn counters(world: &World) -> [&Counters; 2] {
    [world.client.stack.counters(), world.server.stack.counters()]
}

/// A request in the SYN, the answer before the third ACK: one round trip instead of two. In version 1
/// of MPTCP the answer waits for the client's key: the server only has the request earlier.
#[test]
fn a_short_exchange_takes_one_round_trip_less() {
    for kind in KINDS {
        let first_octet = |early: Option<u64>| {
            let mut world = world_of(1, kind, &[pair(link(100, 50))]);
            // The first connection brings the cookie.
            transfer(&mut world, kind, 500, 5_000);
            world.early = early;
            let report = transfer(&mut world, kind, 500, 5_000);
            kept(&report, kind);
            let active = counters(&world)[0].tcp_fast_open_active;
            assert_eq!(active, u64::from(early.is_some()));
            report.deliveries.0[0].0
        };
        let (with, without) = (first_octet(Some(1_000)), first_octet(None));
        let trips = if kind == Some(Version::V1) { 2 } else { 1 };
        assert!(with < Duration::from_millis(100 * trips + 5), "{kind:?}: {with:?}");
        assert!(without > Duration::from_millis(200), "{kind:?}: {without:?}");
    }
}

/// One packet of the handshake is lost at a time.
#[test]
fn every_loss_of_a_handshake_is_repaired() {
    let dirs = [Direction::AtoB, Direction::BtoA];
    for (kind, dir, lost) in KINDS
        .into_iter()
        .flat_map(|kind| dirs.into_iter().flat_map(move |dir| (0..6).map(move |n| (kind, dir, n))))
    {
        let mut world = world_of(2, kind, &[pair(link(100, 20))]);
        transfer(&mut world, kind, 100, 100);
        let mut seen = 0;
        let loses = move |_: u64, towards: Direction, packet: Vec<u8>, out: &mut Output| {
            let this = towards == dir && seen == lost;
            seen += u64::from(towards == dir);
            if !this {
                out.push((towards, packet));
            }
        };
        world.net.add_middlebox(world.paths[0], Box::new(loses));
        let report = transfer(&mut world, kind, 3_000, 6_000);
        kept(&report, kind);
        let [client, server] = counters(&world);
        let opened = (dir, lost) != (Direction::AtoB, 0);
        assert_eq!(client.tcp_fast_open_active, u64::from(opened), "{kind:?} {dir:?} {lost}");
        assert_eq!(server.tcp_fast_open_passive, u64::from(opened));
        assert_eq!(client.tcp_fast_open_blackhole, u64::from(!opened));
    }
}

/// Many connections over bad paths, joins included.
#[test]
fn streams_arrive_once_over_bad_paths() {
    let (mut active, mut failed, mut plain) = (0, 0, 0);
    for seed in 0..30 {
        let kind = KINDS[usize::try_from(seed % 3).expect("an index")];
        let bad = LinkConfig {
            loss: Loss::Bernoulli(100_000),
            duplicate_ppm: 100_000,
            reorder_ppm: 100_000,
            reorder_extra_ns: 30_000_000,
            ..link(20, 10)
        };
        // The referee does not know what joins of version 0 belong to.
        let joins = seed % 2 == 1 && kind == Some(Version::V1);
        let second = joins.then(|| pair(link(20, 5)));
        let links: Vec<_> = [pair(bad)].into_iter().chain(second).collect();
        let mut world = world_of(seed, kind, &links);
        for n in 0..8 {
            world.early = Some([1_400, 1, 300, 1_000][n % 4]);
            let report = transfer(&mut world, kind, 700 * (1 + n as u64), 4_000);
            plain += u64::from(kind.is_some() && report.fallback().is_some());
        }
        let [client, server] = counters(&world);
        assert!(server.tcp_fast_open_passive >= client.tcp_fast_open_active, "seed {seed}");
        active += client.tcp_fast_open_active;
        failed += client.tcp_fast_open_active_fail;
    }
    assert!(active > 60 && failed > 5, "{active} succeeded, {failed} failed");
    assert!(plain < 40, "{plain} fell back of 160");
}

fn tcp_of(packet: &[u8]) -> Option<TcpLayout> {
    edit::Layout::of(packet).and_then(|layout| layout.tcp(packet))
}

/// A box drops SYNs that carry data.
#[test]
fn a_box_that_drops_data_on_syns_costs_one_timeout() {
    for kind in KINDS {
        let mut world = world_of(4, kind, &[pair(link(100, 20))]);
        transfer(&mut world, kind, 100, 100);
        let firewall = |_: u64, dir: Direction, packet: Vec<u8>, out: &mut Output| {
            let syn = tcp_of(&packet).filter(|tcp| tcp.flags(&packet) & flag::SYN != 0);
            if syn.is_none_or(|tcp| tcp.payload == packet.len()) {
                out.push((dir, packet));
            }
        };
        world.net.add_middlebox(world.paths[0], Box::new(firewall));
        let report = transfer(&mut world, kind, 3_000, 3_000);
        kept(&report, kind);
        assert!(report.deliveries.0[0].0 > Duration::from_secs(1), "{report:?}");
        let [client, server] = counters(&world);
        assert_eq!((client.tcp_fast_open_blackhole, client.tcp_fast_open_active_fail), (1, 1));
        assert_eq!(server.tcp_fast_open_passive, 0);
    }
}

/// A box takes the option away, and leaves the data.
#[test]
fn without_the_option_the_data_comes_again() {
    let ways = [Some(Direction::AtoB), Some(Direction::BtoA), None];
    for (kind, dir) in KINDS.into_iter().flat_map(|kind| ways.map(|dir| (kind, dir))) {
        let mut world = world_of(5, kind, &[pair(link(100, 20))]);
        transfer(&mut world, kind, 100, 100);
        let strip =
            Strip { kind: FAST_OPEN, subtype: None, dir, when: StripWhen::Syn, fill: Fill::Nop };
        world.net.add_middlebox(world.paths[0], Box::new(OptionStripper::new(vec![strip])));
        for _ in 0..3 {
            let report = transfer(&mut world, kind, 3_000, 3_000);
            kept(&report, kind);
            assert!(report.deliveries.0[0].0 < Duration::from_millis(100), "{report:?}");
        }
        let works = dir == Some(Direction::BtoA);
        let [client, server] = counters(&world);
        assert_eq!(client.tcp_fast_open_active, if works { 3 } else { 0 }, "{kind:?} {dir:?}");
        assert_eq!(server.tcp_fast_open_passive, if works { 3 } else { 0 });
    }
}

/// A path that is dead for a while after the SYN: the connection survives, and the next one opens
/// fast again.
#[test]
fn a_cut_in_the_middle_of_the_handshake_is_survived() {
    for kind in KINDS {
        for cut_at in [1, 21, 41] {
            let mut world = world_of(6, kind, &[pair(link(100, 20))]);
            transfer(&mut world, kind, 100, 100);
            let start = world.now.as_nanos();
            for dir in [Direction::AtoB, Direction::BtoA] {
                let link = world.net.link_mut(world.paths[0], dir);
                link.at(start + cut_at * 1_000_000, Change::Blackhole(true));
                link.at(start + 5_000_000_000, Change::Blackhole(false));
            }
            let [(client, _), (server, _)] = transfer(&mut world, kind, 3_000, 30_000).ends;
            assert_eq!(client, server, "after so long it may be TCP, but for both");
        }
    }
}
