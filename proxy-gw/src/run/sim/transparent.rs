//! Phones that know of no gateway: they connect to the server itself, and routers send that here.

use super::cores::{Rss, Spread};
use super::peers::{Client, Manners, Wish};
use super::shards::{SESSIONS, Tally, finish_all, start_all, syn};
use super::world::World;
use crate::gateway::EndReason;
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::error::ConnectionError;
use mptcp_core::wire::{IpHeader, OptionWriter, TcpFlags, TcpSegment};
use netsim::referee::Point;
use netsim::rng::Rng;
use std::sync::{Arc, Mutex};

const PORTS: &str = "transparent.ports=['lte','wifi']";

const GOOD: Wish = Wish {
    user: None,
    mptcp: true,
    destination: [10, 9, 0, 2],
    port: 80,
    upload: 1000,
    download: 1_000_000,
    manners: Manners::Good,
};

fn world(seed: u8, settings: &[&str], spread: Spread) -> World {
    let mut world = World::spread(seed, 0, &[&[PORTS], settings].concat(), spread);
    for phone in [&mut world.phone, &mut world.old_phone] {
        phone.worker.direct = true;
    }
    let router = world.gateway.cores[0].host.node;
    for behind in ["10.9.0.2", "10.9.0.9", "10.8.0.1"] {
        world.net.add_address(router, behind.parse().unwrap());
    }
    world
}

fn alone(seed: u8, settings: &[&str]) -> World {
    world(seed, settings, Spread::over(1, Rss::Home))
}

/// Runs until the phone's clients are done, `seconds` at most.
fn finish(world: &mut World, seconds: u64) {
    let done = |world: &World| world.phone.worker.clients.is_empty();
    assert!(world.run_until(Duration::from_secs(seconds), done), "still there");
}

#[test]
fn streams_to_the_server_itself_are_whole_on_one_shard_and_on_several() {
    for spread in
        [Spread::over(1, Rss::Home), Spread::over(4, Rss::Home), Spread::over(4, Rss::Other)]
    {
        let mut world = world(41, &[], spread);
        start_all(&mut world, |_, _| {});
        finish_all(&mut world);
        let tally = Tally::of(&mut world);
        assert!(tally.joins_asked > SESSIONS, "{tally:?}");
        // Whoever learns late where to join may find the stream over: one or two sessions, and with five times as
        // much to download none.
        assert!(tally.joins_made + SESSIONS / 20 > tally.joins_asked, "{spread:?}: {tally:?}");
        let least = SESSIONS / u64::from(spread.shards) / 2;
        assert!(tally.sessions.iter().all(|count| *count >= least), "{spread:?}: {tally:?}");
        world.assert_gateway_empty();
    }
}

/// Joins of version 1 go to addresses of the gateway, and to the port that it tells, if it does.
#[test]
fn joins_reach_the_gateway_and_not_the_server() {
    for (settings, port) in [(&[][..], 80), (&["transparent.join_port=4433"][..], 4433)] {
        let mut world = alone(42, settings);
        world.phone.worker.start(world.now, GOOD);
        world.run(Duration::from_millis(400));
        let (&id, _) = world.phone.worker.clients.iter().next().expect("it goes on");
        let info = world.phone.worker.stack.info(id).unwrap();
        assert!(info.data_level.unwrap().deny_join_initial, "the C flag");
        let remotes: Vec<SocketAddr> = info.subflows.iter().map(|subflow| subflow.remote).collect();
        assert_eq!(remotes[0], "10.9.0.2:80".parse().unwrap());
        assert!(remotes.len() > 2, "{remotes:?}");
        for remote in &remotes[1..] {
            let ours = ["10.1.0.1", "10.2.0.1"].map(|own| own.parse().unwrap());
            assert!(ours.contains(&remote.ip()) && remote.port() == port, "{remotes:?}");
        }
        finish(&mut world, 60);
        assert!(world.phone.worker.done[0].is_satisfied());
        world.assert_gateway_empty();
    }
}

/// What a phone hears, and when: nothing says yes before the server has.
#[test]
fn what_the_server_answers_is_what_the_phone_hears() {
    for (mptcp, host, port, ms, reason) in [
        // Nobody listens there: a round trip to the gateway, one to the server. With MPTCP our phones ask
        // again without.
        (true, 2, 99, 100..105, EndReason::Refused),
        (false, 2, 99, 50..55, EndReason::Refused),
        // Nobody is there.
        (true, 9, 80, 10_000..10_100, EndReason::ConnectTimedOut),
        (false, 9, 80, 10_000..10_100, EndReason::ConnectTimedOut),
        // The policy refuses it: the gateway's own word.
        (false, 1, 80, 40..45, EndReason::Denied),
    ] {
        let mut world = alone(43, &[]);
        let answered = Arc::new(Mutex::new(false));
        let (seen, phone) = (Arc::clone(&answered), world.phone.node);
        world.net.set_tap(Box::new(move |_, node, _, point, packet| {
            let header = IpHeader::parse(packet).unwrap();
            let tcp = TcpSegment::parse(&packet[header.header_len..]).unwrap();
            let yes = TcpFlags::SYN | TcpFlags::ACK;
            *seen.lock().unwrap() |=
                point == Point::Delivered && node == phone && tcp.flags & yes == yes;
        }));
        let third = if host == 1 { 8 } else { 9 };
        let wish = Wish { mptcp, destination: [10, third, 0, host], port, ..GOOD };
        let begin = world.now;
        world.phone.worker.start(world.now, wish);
        finish(&mut world, 60);
        let took = world.now.since(begin).as_millis() as u64;
        let client = &world.phone.worker.done[0];
        assert_eq!(client.error, Some(ConnectionError::Refused), "{wish:?}");
        assert!(ms.contains(&took), "{wish:?}: {took} ms");
        assert!(!*answered.lock().unwrap(), "{wish:?}: a SYN/ACK for nothing");
        let times = if mptcp && reason == EndReason::Refused { 2 } else { 1 };
        assert_eq!(world.counters().gateway.ended(reason), times, "{wish:?}");
        world.assert_gateway_empty();
    }
}

/// One client, every port of many hosts: it fills its own share and nobody else's.
#[test]
fn a_scan_costs_what_one_client_may_have() {
    let mut world = alone(44, &["transparent.pending_per_client=50"]);
    let from = |n: u32| SocketAddr::from(([10, 1, 0, 200], 1024 + (n % 50_000) as u16));
    for n in 0..20_000_u32 {
        let to = SocketAddr::from(([10, 9, 0, 9], 1 + (n % 65_000) as u16));
        let packet = syn(from(n), to, n, &OptionWriter::new());
        world.gateway.arrive(world.now, &packet, PortId(0));
        if n % 100 == 0 {
            world.run(Duration::from_millis(1));
        }
    }
    let counters = world.counters();
    assert_eq!(counters.sessions, 50);
    assert_eq!(counters.occupancy.requests, 50);
    assert_eq!(counters.gateway.ended(EndReason::PendingLimited), 20_000 - 50);
    assert_eq!(counters.stack.syncookies_sent, 0);
    world.phone.worker.start(world.now, GOOD);
    finish(&mut world, 60);
    assert!(world.phone.worker.done[0].is_satisfied());
    world.assert_gateway_empty();
}

/// SYNs from anywhere, to a server that answers: beyond half of the table a handshake comes first, and
/// who completes one is served.
#[test]
fn a_flood_of_forged_syns_leaves_room() {
    let settings = ["limits.half_open=64", "limits.connections=200"];
    let mut world = alone(45, &settings);
    let mut rng = Rng::new(5);
    let mut most = 0;
    for n in 0..40_u32 {
        for _ in 0..200 {
            let [a, b, c, _] = (rng.below(1 << 32) as u32).to_be_bytes();
            let from = SocketAddr::from(([10, 1, 128 | a, b], 1024 + u16::from(c)));
            let packet = syn(from, ([10, 9, 0, 2], 80).into(), n, &OptionWriter::new());
            world.gateway.arrive(world.now, &packet, PortId(0));
        }
        world.phone.worker.start(world.now, Wish { download: 10_000, ..GOOD });
        world.run(Duration::from_millis(100));
        most = most.max(world.counters().sessions);
    }
    finish(&mut world, 120);
    assert!(world.phone.worker.done.iter().all(Client::is_satisfied));
    let counters = world.counters();
    assert!(counters.stack.syncookies_sent > 1_000, "{}", counters.stack.syncookies_sent);
    assert_eq!(counters.gateway.sessions_over_limit, 0);
    assert!(most < 100, "{most} sessions: 32 for SYNs, the phone's");
    world.assert_gateway_empty();
}

/// An exit's own SYN led back to the gateway, by whatever mistake: no session comes of it.
#[test]
fn exits_do_not_feed_themselves() {
    let mut world = alone(46, &[]);
    let packet =
        syn(([10, 9, 0, 1], 5_000).into(), ([10, 9, 0, 2], 80).into(), 1, &OptionWriter::new());
    world.gateway.arrive(world.now, &packet, PortId(0));
    let elsewhere =
        syn(([10, 1, 0, 7], 5_000).into(), ([10, 9, 0, 2], 80).into(), 1, &OptionWriter::new());
    world.gateway.arrive(world.now, &elsewhere, PortId(2));
    world.run(Duration::from_secs(2));
    assert_eq!(world.counters().gateway.sessions_accepted, 0);
    world.assert_gateway_empty();
}
