//! Every kind of middlebox in a situation of its own, with what it must do to the connection
//! (RFC 8684 §3.7 and §6). That the streams arrive identical is checked by every transfer.

use crate::boxes::{Kind, Placed};
use crate::transfer::{Report, run_with};
use crate::world::World;
use crate::{link, pair};
use mptcp_core::config::{ChecksumPolicy, StackConfig};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::time::{Duration, Instant};
use netsim::Direction;
use netsim::middlebox::{
    MptcpOn, Nat, OptionStripper, PathMtu, PayloadCorruptor, SegmentSplitter, Strip, StripWhen,
};

const LIMIT: Duration = Duration::from_secs(300);

fn world(paths: u64, checksum: ChecksumPolicy, v6: bool) -> World {
    let links: Vec<_> = (0..paths).map(|path| pair(link(40, 10 + 5 * path))).collect();
    let mut config = StackConfig::default();
    config.mptcp.checksum = checksum;
    World::new(21, &links, v6, config.clone(), config)
}

fn checked(world: &World) {
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    assert_eq!((world.net.misrouted(), world.net.chain_overflow()), (0, 0));
}

fn kept(report: &Report) {
    assert_eq!(report.ends, [(Some(1), None); 2]);
}

fn reasons(report: &Report) -> [Option<FallbackReason>; 2] {
    assert!(report.ends.iter().all(|(version, _)| version.is_none()), "{report:?}");
    report.ends.map(|(_, reason)| reason)
}

#[test]
fn a_translator_that_rebinds_costs_a_join_and_not_the_connection() {
    for v6 in [false, true] {
        let mut world = world(2, ChecksumPolicy::Accept, v6);
        let nat = |path| Placed { path, kind: Kind::Nat { rebind_at: None } };
        let _first = nat(0).install(&mut world, 1);
        let position = nat(1).install(&mut world, 1);
        let at = Instant::from_millis(1_000);
        let (mut done, mut before) = (false, 0);
        let report = run_with(&mut world, true, 100, 16 << 20, LIMIT, |world| {
            if world.now >= at && !done {
                done = true;
                let path = world.paths[1];
                before = world.net.link(path, Direction::BtoA).counters().delivered_bytes;
                world.net.middlebox::<Nat>(path, position).expect("a NAT").rebind();
            }
        });
        checked(&world);
        kept(&report);
        assert!(done && before > 1 << 20, "the join carried {before} octets");
        let nat = world.net.middlebox::<Nat>(world.paths[1], position).expect("a NAT");
        assert!(nat.counters().mapped >= 2, "{:?}", nat.counters());
    }
}

#[test]
fn a_smaller_mtu_on_the_way_is_learnt() {
    for (v6, mtu) in [(false, 700), (true, 1_300)] {
        let mut world = world(2, ChecksumPolicy::Accept, v6);
        let boxes =
            [0, 1].map(|path| Placed { path, kind: Kind::PathMtu(mtu) }.install(&mut world, 1));
        let report = run_with(&mut world, true, 1 << 20, 1 << 20, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        for (path, position) in world.paths.clone().into_iter().zip(boxes) {
            let hop = world.net.middlebox::<PathMtu>(path, position).expect("a hop");
            assert!((1..200).contains(&hop.dropped()), "{} were too long", hop.dropped());
        }
    }
}

#[test]
fn edited_payload_costs_the_join_it_is_on() {
    let mut world = world(2, ChecksumPolicy::Require, false);
    let path = world.paths[1];
    let position = world.net.add_middlebox(path, Box::new(PayloadCorruptor::new(3, 0, None)));
    let at = Instant::from_millis(500);
    let report = run_with(&mut world, true, 100, 16 << 20, LIMIT, |world| {
        let corruptor = world.net.middlebox::<PayloadCorruptor>(path, position);
        corruptor.expect("a corruptor").set_ppm(if world.now >= at { 10_000 } else { 0 });
    });
    checked(&world);
    kept(&report);
    let (client, server) = (world.client.stack.counters(), world.server.stack.counters());
    assert!(client.data_csum_err > 0 && server.in_rsts > 0, "nothing was noticed");
}

#[test]
fn segments_may_be_split_anywhere() {
    for on in [MptcpOn::Every, MptcpOn::First] {
        for checksum in [ChecksumPolicy::Accept, ChecksumPolicy::Require] {
            let mut world = world(2, checksum, false);
            let splitter = Placed { path: 0, kind: Kind::Splitter(333, on) };
            let position = splitter.install(&mut world, 1);
            let report = run_with(&mut world, true, 1 << 20, 2 << 20, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            let path = world.paths[0];
            let splitter = world.net.middlebox::<SegmentSplitter>(path, position).expect("it");
            assert!(splitter.split() > 500, "{}", splitter.split());
        }
    }
}

/// Options pass one way only: the end that misses them falls back, and the other follows it although
/// it sees options, with much, with little and with nothing to send.
#[test]
fn options_lost_in_one_direction_are_found_out_by_both_ends() {
    for dir in [Direction::AtoB, Direction::BtoA] {
        for (up, down) in [(3, 1), (533, 22), (1, 256 << 10), (256 << 10, 1)] {
            let mut world = world(2, ChecksumPolicy::Accept, false);
            let rule = Strip { dir: Some(dir), when: StripWhen::NotSyn, ..Strip::mptcp() };
            let stripper = Box::new(OptionStripper::new(vec![rule]));
            world.net.add_middlebox(world.paths[0], stripper);
            let report = run_with(&mut world, true, up, down, LIMIT, |_| {});
            checked(&world);
            assert!(reasons(&report).iter().all(Option::is_some), "{dir:?} {up} {down}");
        }
    }
}
