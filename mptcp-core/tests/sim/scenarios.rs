//! Named situations with their exact expectations, in virtual time.

use crate::transfer::{End, Report, run, run_with, settle};
use crate::world::World;
use crate::{link, lossy, pair, world};
use core::time::Duration;
use mptcp_core::stack::{Connect, ConnectionInfo, Listen, Ready};
use mptcp_core::time::Instant;
use netsim::Direction;
use netsim::link::{Change, LinkConfig};
use netsim::middlebox::{OptionStripper, Strip, StripWhen};

/// Payload octets per second of virtual time.
fn goodput(bytes: u64, report: &Report) -> f64 {
    bytes as f64 / report.took.as_secs_f64()
}

fn checked(world: &World) {
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
}

/// Download goodput over `links`, in octets per second.
fn download(seed: u64, links: &[(LinkConfig, LinkConfig)], bytes: u64) -> f64 {
    let mut world = world(seed, links);
    let report = run(&mut world, true, 100, bytes, Duration::from_secs(600));
    checked(&world);
    let goodput = goodput(bytes, &report);
    eprintln!("{} paths: {:.2} Mbit/s {report:?}", links.len(), goodput * 8.0 / 1e6);
    goodput
}

pub(crate) fn cut(world: &mut World, path: usize, from: Duration, to: Duration) {
    for dir in [Direction::AtoB, Direction::BtoA] {
        let link = world.net.link_mut(world.paths[path], dir);
        link.at(from.as_nanos() as u64, Change::Blackhole(true));
        link.at(to.as_nanos() as u64, Change::Blackhole(false));
    }
}

#[test]
fn two_paths_give_the_sum_of_both() {
    let lte = pair(link(60, 20));
    let wifi = pair(link(40, 7));
    let bytes = 64 << 20;
    let sum = download(1, core::slice::from_ref(&lte), bytes)
        + download(1, core::slice::from_ref(&wifi), bytes);
    let both = download(1, &[lte, wifi], bytes);
    assert!(both >= 0.95 * sum, "{both} of {sum}");
}

#[test]
fn four_paths_give_most_of_the_sum() {
    let links: Vec<_> = [5, 10, 20, 40].map(|delay| pair(link(25, delay))).to_vec();
    let bytes = 32 << 20;
    let both = download(2, &links, bytes);
    // Three and a half seconds, slow starts included.
    assert!(both >= 0.75 * 100e6 / 8.0, "{both}");
}

#[test]
fn round_trips_twenty_to_one() {
    let links = [pair(link(50, 5)), pair(link(50, 100))];
    let both = download(3, &links, 32 << 20);
    assert!(both >= 0.8 * 50e6 / 8.0, "{both}");
}

#[test]
fn loss_up_to_five_percent_is_survived() {
    for percent in 0..=5 {
        let links = [pair(lossy(50, 10, percent * 10_000)), pair(lossy(20, 30, percent * 10_000))];
        download(u64::from(percent), &links, 8 << 20);
    }
}

#[test]
fn bulk_both_ways_over_one_two_and_four_paths() {
    for paths in [1, 2, 4] {
        let links: Vec<_> = (0..paths).map(|p| pair(link(20 + 10 * p, 5 + 5 * p))).collect();
        let mut world = world(paths, &links);
        let report = run(&mut world, true, 8 << 20, 8 << 20, Duration::from_secs(120));
        checked(&world);
        assert_eq!(world.client.stack.counters().mp_join_syn_tx, paths - 1);
        // No collapse: a third of what the links carry, the start left out.
        let mbit: u64 = (0..paths).map(|p| 20 + 10 * p).sum();
        let least = Duration::from_secs_f64(8.0 * f64::from(8 << 20) / (mbit as f64 * 1e6));
        assert!(report.took <= least * 3 + Duration::from_secs(1), "{paths} paths: {report:?}");
    }
}

/// What was promised is kept: a hole on a subflow costs nothing of the data behind it, however far
/// the shared window has grown.
#[test]
fn data_behind_a_hole_is_kept_up_to_the_shared_window() {
    let mut world = world(12, &[pair(lossy(400, 25, 100)), pair(lossy(200, 15, 100))]);
    run(&mut world, true, 100, 64 << 20, Duration::from_secs(120));
    checked(&world);
    let dropped = world.client.stack.counters().dropped(mptcp_core::stats::DropReason::NoMemory);
    assert_eq!(dropped, 0);
    assert!(world.client.stack.counters().tcp_ofo_queue > 1000, "no hole was deep enough");
}

/// A silent cut of one path for four seconds: the stream goes on over the other at once, and the
/// path carries data again after its return.
#[test]
fn a_silent_cut_is_bridged_and_the_path_returns() {
    for path in [0, 1] {
        let mut world = world(5, &[pair(link(60, 20)), pair(link(40, 7))]);
        cut(&mut world, path, Duration::from_secs(4), Duration::from_secs(8));
        let bytes = 160 << 20;
        let mut before_return = 0;
        let report = run_with(&mut world, true, 100, bytes, Duration::from_secs(120), |world| {
            if world.now.as_millis() < 8000 {
                let link = world.net.link(world.paths[path], Direction::BtoA);
                before_return = link.counters().delivered_bytes;
            }
        });
        checked(&world);
        let link = world.net.link(world.paths[path], Direction::BtoA);
        let after = link.counters().delivered_bytes - before_return;
        eprintln!("cut of path {path}: {report:?}, {after} octets after its return");
        assert!(report.longest_gap <= Duration::from_millis(1000), "{report:?}");
        assert!(after > 4 << 20, "the path was not used again: {after}");
    }
}

/// Break before make: the only path vanishes with a window in flight, the next one comes up two
/// seconds later. What was in flight goes out on it at once, not by the data-level timer.
#[test]
fn a_path_that_comes_after_the_cut_takes_over() {
    let mut world = world(14, &[pair(link(60, 20)), pair(link(40, 7))]);
    cut(&mut world, 1, Duration::ZERO, Duration::from_millis(2_500));
    cut(&mut world, 0, Duration::from_secs(1), Duration::from_secs(60));
    let report = run(&mut world, true, 100, 10 << 20, Duration::from_secs(120));
    checked(&world);
    eprintln!("{report:?}");
    // The join's third SYN goes out at 3 s; 10 MiB less what came before take 2 s from there.
    assert!(report.took <= Duration::from_secs(6), "{report:?}");
}

/// The server's only address goes, and is back two seconds later: the client joins it before either end gives
/// the connection up.
#[test]
fn the_only_address_of_a_peer_comes_back_in_time() {
    let mut world = world(15, &[pair(link(20, 10))]);
    let addresses = world.server.stack.config().addresses.clone();
    let mut step = 0;
    let report = run_with(&mut world, true, 100, 16 << 20, Duration::from_secs(200), |world| {
        let now = world.now;
        if step == 0 && now >= Instant::from_millis(1_000) {
            step = 1;
            world.server.stack.remove_address(now, world.server_addr);
        }
        if step == 1 && now >= Instant::from_millis(3_000) {
            step = 2;
            assert!(world.server.stack.set_addresses(now, addresses.clone()));
        }
    });
    checked(&world);
    assert_eq!((step, report.fallback()), (2, None));
    assert!(report.longest_gap <= Duration::from_secs(10), "{report:?}");
}

/// Thousands of short connections, plain and MPTCP, many at a time.
#[test]
fn thousands_of_short_connections() {
    let mut config = mptcp_core::config::StackConfig::default();
    config.limits.connections = 300;
    config.limits.tcbs = 900;
    let links = [pair(link(100, 5)), pair(lossy(50, 15, 5_000))];
    let mut world = World::new(7, &links, false, config.clone(), config);
    let listener = world.listen(true);
    let (total, parallel) = (3000_u64, 200);
    let mut started = 0_u64;
    let mut clients: Vec<End> = Vec::new();
    let mut servers: Vec<End> = Vec::new();
    let mut finished = 0;
    let deadline = world.now + Duration::from_secs(600);
    while finished < total {
        while started < total && clients.len() < parallel {
            started += 1;
            let with = Connect {
                local: world.client_addrs[0],
                local_port: 0,
                remote: (world.server_addr, crate::world::SERVER_PORT).into(),
                mptcp: !started.is_multiple_of(3),
                timeout: None,
                user_data: started,
            };
            let id = world.client.stack.connect(world.now, &with).expect("within the limits");
            let size = 1 + started * 37 % 20_000;
            clients.push(End::new(id, size, 11, size, 11));
        }
        world.turn();
        while let Some(event) = world.client.stack.poll_event() {
            if let Some(end) = clients.iter_mut().find(|e| e.id == event.socket) {
                end.connected |= event.ready.contains(Ready::CONNECTED);
                end.closed |= event.ready.contains(Ready::CLOSED);
            }
        }
        while let Some(event) = world.server.stack.poll_event() {
            if let Some(end) = servers.iter_mut().find(|e| e.id == event.socket) {
                end.closed |= event.ready.contains(Ready::CLOSED);
            }
        }
        while let Some(id) = world.server.stack.accept(listener) {
            servers.push(End::echo(id, 11));
        }
        let now = world.now;
        for end in clients.iter_mut().filter(|e| e.connected) {
            end.work(&mut world.client, now);
        }
        for end in &mut servers {
            end.work(&mut world.server, now);
        }
        let failed = clients.iter().chain(&servers).find_map(|e| e.failed.clone());
        assert!(failed.is_none(), "{failed:?}");
        world.flush();
        for end in clients.extract_if(.., |e| e.done() && e.closed) {
            world.client.stack.release(end.id);
            finished += 1;
        }
        for end in servers.extract_if(.., |e| e.eof && e.shut && e.closed) {
            world.server.stack.release(end.id);
        }
        assert!(finished == total || world.advance(deadline), "{finished} of {total}");
    }
    settle(&mut world);
    for end in servers {
        world.server.stack.release(end.id);
    }
    world.server.stack.close_listener(world.now, listener);
    settle(&mut world);
    checked(&world);
}

/// A listener that answers plain TCP only: an MPTCP client falls back and says why.
#[test]
fn a_peer_without_mptcp_means_fallback() {
    let mut world = world(9, &[pair(link(50, 10)), pair(link(50, 10))]);
    let local = (world.server_addr, crate::world::SERVER_PORT).into();
    let listener = world.server.stack.listen(local, &Listen::default()).expect("a free port");
    let id = world.connect(true);
    let deadline = world.now + Duration::from_secs(5);
    world.turn();
    while world.advance(deadline) {
        world.turn();
    }
    let info = world.client.stack.info(id).expect("still a socket");
    assert_eq!(
        info.fallback.map(mptcp_core::mptcp::FallbackReason::name),
        Some("syn_ack_without_capable")
    );
    let accepted = world.server.stack.accept(listener).expect("one connection");
    world.client.stack.close(world.now, id);
    world.server.stack.close(world.now, accepted);
    settle(&mut world);
    world.server.stack.close_listener(world.now, listener);
    checked(&world);
}

/// A download longer than any buffer, over links with shallow queues: what the receiver can hold out
/// of order follows the shared window, so a loss costs the segments that were lost and few more.
#[test]
fn losses_cost_what_was_lost() {
    let shape = |mbit, queue: usize, us: u64| LinkConfig {
        queue_bytes: queue << 10,
        delay_ns: us * 1000,
        ..link(mbit, 0)
    };
    let links = [pair(shape(60, 320, 20_000)), pair(shape(40, 160, 7_500))];
    let mut world = world(1, &links);
    let report = run(&mut world, true, 100, 100 << 20, Duration::from_secs(60));
    checked(&world);
    let dropped: u64 = world
        .paths
        .iter()
        .map(|&path| world.net.link(path, Direction::BtoA).counters().dropped_packets())
        .sum();
    let resent = world.server.stack.counters().retrans_segs;
    eprintln!("{resent} segments sent again for {dropped} lost, {report:?}");
    assert!(resent <= dropped + dropped / 4 + 10, "{resent} for {dropped}");
    assert!(goodput(100 << 20, &report) >= 0.90 * 100e6 / 8.0, "{report:?}");
}

/// A middlebox takes `MP_CAPABLE` out of the SYN/ACK: both ends fall back, and both say why, the
/// server when the third ACK shows it.
#[test]
fn both_ends_name_the_reason_of_a_stripped_syn_ack() {
    let mut world = world(10, &[pair(link(50, 10))]);
    let rule = Strip { dir: Some(Direction::BtoA), when: StripWhen::Syn, ..Strip::mptcp() };
    world.net.add_middlebox(world.paths[0], Box::new(OptionStripper::new(vec![rule])));
    let listener = world.listen(true);
    let id = world.connect(true);
    let deadline = world.now + Duration::from_secs(5);
    world.turn();
    while world.advance(deadline) {
        world.turn();
    }
    let accepted = world.server.stack.accept(listener).expect("one connection");
    let reason = |info: Option<ConnectionInfo>| {
        let info = info.expect("still a socket");
        (info.mptcp, info.fallback.map(mptcp_core::mptcp::FallbackReason::name))
    };
    assert_eq!(reason(world.client.stack.info(id)), (None, Some("syn_ack_without_capable")));
    assert_eq!(reason(world.server.stack.info(accepted)), (None, Some("ack_without_capable")));
    let counters = world.server.stack.counters();
    assert_eq!((counters.mp_capable_fallback_ack, counters.fallback), (1, 1));
    world.client.stack.close(world.now, id);
    world.server.stack.close(world.now, accepted);
    settle(&mut world);
    world.server.stack.close_listener(world.now, listener);
    world.assert_empty();
}

/// After fallback TCP's window is the stream's: it may open without anything being acknowledged, and
/// when that update is lost a probe finds out.
#[test]
fn a_window_that_opens_after_fallback_is_used() {
    for lost in [false, true] {
        let mut world = world(11, &[pair(link(50, 10))]);
        let read_at = world.now + Duration::from_secs(3);
        if lost {
            let link = world.net.link_mut(world.paths[0], Direction::BtoA);
            link.at((read_at - Duration::from_millis(1)).as_nanos(), Change::Blackhole(true));
            link.at((read_at + Duration::from_millis(5)).as_nanos(), Change::Blackhole(false));
        }
        let listener = world.listen(false);
        let id = world.connect(true);
        let bytes = vec![0x5a; 1 << 20];
        let (mut sent, mut received, mut accepted) = (0, 0, None);
        let deadline = world.now + Duration::from_secs(60);
        while received < bytes.len() {
            world.turn();
            let now = world.now;
            accepted = accepted.or_else(|| world.server.stack.accept(listener));
            sent += world.client.stack.send(now, id, &bytes[sent..]).unwrap_or(0);
            if let Some(accepted) = accepted.filter(|_| now >= read_at) {
                let mut into = vec![0; 1 << 20];
                received += world.server.stack.recv(now, accepted, &mut into).unwrap_or(0);
            }
            world.flush();
            let limit = if now < read_at { read_at } else { deadline };
            assert!(
                world.advance(limit) || world.now < deadline,
                "lost {lost}: {received} of {}, {:?}",
                bytes.len(),
                world.client.stack.info(id)
            );
        }
        let accepted = accepted.expect("it was read from");
        assert!(world.client.stack.counters().win_probe > 0, "the window was never shut");
        world.client.stack.close(world.now, id);
        world.server.stack.close(world.now, accepted);
        settle(&mut world);
        world.server.stack.close_listener(world.now, listener);
        checked(&world);
    }
}

/// The third ACK and the first data, which carry the keys, are lost; what follows is no reason to
/// fall back, for the peer repeats them.
#[test]
fn lost_keys_are_waited_for() {
    let mut world = world(13, &[pair(link(50, 10))]);
    let link = world.net.link_mut(world.paths[0], Direction::AtoB);
    link.at(15_000_000, Change::Blackhole(true));
    link.at(25_000_000, Change::Blackhole(false));
    let listener = world.listen(true);
    let id = world.connect(true);
    let late = Instant::from_millis(26);
    let deadline = world.now + Duration::from_secs(5);
    let (mut first, mut second) = (false, false);
    loop {
        world.turn();
        let now = world.now;
        let connected = world.client.stack.poll_event().is_some();
        if connected && !first {
            first = world.client.stack.send(now, id, &[1; 1400]).is_ok();
        }
        if now >= late && !second {
            second = world.client.stack.send(now, id, &[2; 1400]).is_ok();
        }
        world.flush();
        if !world.advance(if now < late { late } else { deadline }) && world.now == deadline {
            break;
        }
    }
    assert!(first && second);
    let accepted = world.server.stack.accept(listener).expect("one connection");
    for (host, id) in [(&world.client, id), (&world.server, accepted)] {
        let info = host.stack.info(id).expect("still a socket");
        assert_eq!((info.mptcp, info.fallback), (Some(1), None));
    }
    assert_eq!(world.server.stack.info(accepted).map(|i| i.bytes_received), Some(2800));
    assert!(
        world.server.stack.counters().dropped(mptcp_core::stats::DropReason::MpCapableMissing) > 0
    );
    let mut into = [0; 4096];
    assert_eq!(world.server.stack.recv(world.now, accepted, &mut into), Ok(2800));
    world.client.stack.close(world.now, id);
    world.server.stack.close(world.now, accepted);
    settle(&mut world);
    world.server.stack.close_listener(world.now, listener);
    checked(&world);
}

/// Options vanish behind the handshake: the client falls back when its data is acknowledged without
/// `DATA_ACK`, and says so with an infinite mapping, for which its segment leaves room. The referee knows the MSS.
#[test]
fn a_segment_has_room_for_the_infinite_mapping() {
    let mut world = world(14, &[pair(link(50, 10))]);
    let rule = Strip { dir: Some(Direction::BtoA), when: StripWhen::NotSyn, ..Strip::mptcp() };
    world.net.add_middlebox(world.paths[0], Box::new(OptionStripper::new(vec![rule])));
    let listener = world.listen(true);
    let id = world.connect(true);
    let bytes = vec![3; 256 << 10];
    let (mut sent, mut received, mut accepted) = (0, 0, None);
    let deadline = world.now + Duration::from_secs(60);
    while received < bytes.len() {
        world.turn();
        let now = world.now;
        accepted = accepted.or_else(|| world.server.stack.accept(listener));
        sent += world.client.stack.send(now, id, &bytes[sent..]).unwrap_or(0);
        if let Some(accepted) = accepted {
            let mut into = vec![0; 64 << 10];
            received += world.server.stack.recv(now, accepted, &mut into).unwrap_or(0);
        }
        world.flush();
        assert!(world.advance(deadline), "{received} of {}", bytes.len());
    }
    assert_eq!(world.client.stack.counters().infinite_map_tx, 1);
    world.net.referee().expect("every world has one").assert_clean();
}
