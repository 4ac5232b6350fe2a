//! The event log over whole transfers: what a cut, a smaller MTU and a slower path leave in it.

use crate::transfer::run_with;
use crate::world::{Host, World};
use crate::{link, pair};
use mptcp_core::config::{StackConfig, TcpConfig};
use mptcp_core::event_log::{Event, Record, ReinjectCause, Why};
use mptcp_core::tcp::CongestionState;
use mptcp_core::time::{Duration, Instant};
use netsim::Direction;
use netsim::link::Change;
use netsim::middlebox::PathMtu;

/// Takes what was recorded since the last turn.
fn drain(host: &mut Host, into: &mut Vec<Record>) {
    let ids: Vec<_> = host.stack.event_logs().map(|(id, _)| id).collect();
    for id in ids {
        into.extend(core::iter::from_fn(|| host.stack.take_event(id)));
    }
}

fn logged_world(paths: &[(u64, u64)]) -> World {
    let links: Vec<_> = paths.iter().map(|&(mbit, ms)| pair(link(mbit, ms))).collect();
    let mut world = World::new(5, &links, false, StackConfig::default(), StackConfig::default());
    world.logged = true;
    world
}

#[test]
fn a_cut_is_told_from_its_first_sign_to_the_recovery() {
    let mut world = logged_world(&[(40, 10), (40, 15)]);
    let (mut server, cut, mended) = (Vec::new(), 1_000, 4_000);
    let path = world.paths[1];
    for dir in [Direction::AtoB, Direction::BtoA] {
        let link = world.net.link_mut(path, dir);
        link.at(cut * 1_000_000, Change::Blackhole(true));
        link.at(mended * 1_000_000, Change::Blackhole(false));
    }
    run_with(&mut world, true, 100, 24 << 20, Duration::from_secs(300), |world| {
        drain(&mut world.server, &mut server);
    });
    world.assert_empty();
    let first = |wanted: &dyn Fn(&Event) -> bool| {
        let found = server.iter().find(|record| wanted(&record.event));
        found.unwrap_or_else(|| panic!("not in {server:#?}")).at
    };
    let since = |at: Instant| at.as_millis();
    let joined = first(&|e| matches!(e, Event::SubflowJoined { subflow: 1, .. }));
    let silent = first(&|e| {
        matches!(e, Event::Reinjected { subflow: Some(1), cause: ReinjectCause::Silent })
    });
    let stale = first(&|e| matches!(e, Event::SubflowStale { subflow: 1 }));
    let back = first(&|e| matches!(e, Event::SubflowRecovered { subflow: 1 }));
    assert!(since(joined) < cut && silent < stale && stale < back, "{joined:?} {stale:?} {back:?}");
    assert!((cut..cut + 500).contains(&since(silent)), "{silent:?}");
    assert!(since(back) >= mended, "{back:?}");
    first(&|e| matches!(e, Event::Congestion { subflow: 1, state: CongestionState::Loss, .. }));
    for why in [Why::Preferred, Why::NoRoom] {
        first(&|e| matches!(e, Event::Scheduled { why: w, .. } if *w == why));
    }
    let ends = server.iter().filter(|record| record.event == Event::Closed { error: None });
    assert_eq!(ends.count(), 1);
    assert!(server.is_sorted_by_key(|record| record.at));
}

#[test]
fn a_smaller_mtu_is_told_with_what_is_left() {
    let mut world = logged_world(&[(40, 10)]);
    let public = "192.0.2.1".parse().expect("an address");
    let path = world.paths[0];
    world.net.add_middlebox(path, Box::new(PathMtu::answering(1_000, Some(public), None)));
    let mut server = Vec::new();
    run_with(&mut world, true, 100, 1 << 20, Duration::from_secs(60), |world| {
        drain(&mut world.server, &mut server);
    });
    let told = server.iter().any(|r| r.event == Event::Mss { subflow: 0, mss: 960 });
    assert!(told, "{server:#?}");
}

/// A window that is no whole number of segments leaves a sliver when it is used up; that is blocked too.
#[test]
fn what_a_window_waits_for_goes_again_whatever_is_left_of_the_window() {
    let lossy = |mbit, ms| pair(crate::lossy(mbit, ms, 2_000));
    let client = StackConfig {
        tcp: TcpConfig { recv_buffer_max: 550_001, ..TcpConfig::default() },
        ..StackConfig::default()
    };
    let mut world =
        World::new(7, &[lossy(60, 5), lossy(50, 40)], false, client, StackConfig::default());
    world.logged = true;
    let mut server = Vec::new();
    run_with(&mut world, true, 100, 20 << 20, Duration::from_secs(300), |world| {
        drain(&mut world.server, &mut server);
    });
    world.assert_empty();
    let blocked = |r: &&Record| {
        matches!(r.event, Event::Reinjected { cause: ReinjectCause::WindowBlocked, .. })
    };
    assert!(server.iter().filter(blocked).count() > 10);
}
