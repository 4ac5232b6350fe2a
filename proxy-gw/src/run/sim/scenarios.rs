//! What the gateway must do when its peers, its links and its operator are as they are.

use super::peers::{Client, Manners, REPLIES, Wish};
use super::world::World;
use crate::control::{Command, Order};
use crate::gateway::EndReason;
use core::time::Duration;
use mptcp_core::mptcp::path_health::PathVerdict;
use netsim::Direction;
use netsim::rng::Rng;

const GOOD: Wish = Wish {
    mptcp: true,
    destination: [10, 9, 0, 2],
    port: 80,
    upload: 1000,
    download: 100_000,
    manners: Manners::Good,
    user: None,
};

fn start(world: &mut World, wish: Wish) {
    world.phone.worker.start(world.now, wish);
}

/// Until every client is done; `seconds` at most.
fn finish(world: &mut World, seconds: u64) {
    let done = world
        .run_until(Duration::from_secs(seconds), |world| world.phone.worker.clients.is_empty());
    assert!(done, "still there: {:?}", world.phone.worker.clients.len());
    // The gateway hears of the end a little later.
    world.run(Duration::from_secs(1));
}

#[test]
fn a_download_uses_both_links_and_leaves_nothing() {
    let mut world = World::new(1, 0, &[]);
    start(&mut world, Wish { download: 4 << 20, ..GOOD });
    finish(&mut world, 60);
    let client = &world.phone.worker.done[0];
    assert!(client.is_satisfied(), "{:?}", client.error);
    assert_eq!(world.server.worker.uploads, 1);
    for path in world.access.iter().take(2).copied() {
        let bytes = world.net.link(path, Direction::BtoA).counters().delivered_bytes;
        assert!(bytes > 400_000, "{bytes} bytes over one of the links");
    }
    let counters = world.counters();
    assert_eq!(counters.gateway.ended(EndReason::Completed), 1);
    assert_eq!(counters.gateway.bytes_down, 4 << 20);
    assert_eq!(counters.gateway.bytes_up, 24 + 1000);
    world.assert_gateway_empty();
}

/// 4 MiB at 8 Mbit/s are 4.2 s; what one of two ports may carry of them is less than its link could.
#[test]
fn rates_of_the_configuration_hold() {
    let mut world = World::new(11, 0, &["mptcp.rate=8Mbit", "port.1.rate=2Mbit"]);
    start(&mut world, Wish { download: 4 << 20, ..GOOD });
    let begin = world.now;
    let done = |world: &World| world.phone.worker.clients.is_empty();
    assert!(world.run_until(Duration::from_secs(60), done));
    assert!(world.phone.worker.done[0].is_satisfied());
    let seconds = world.now.since(begin).as_secs_f64();
    assert!((4.1..4.7).contains(&seconds), "{seconds} s");
    let wifi = world.net.link(world.access[1], Direction::BtoA).counters().delivered_bytes;
    let limit = 2_000_000.0 / 8.0 * seconds * 1.1;
    assert!(wifi > 100_000 && (wifi as f64) < limit, "{wifi} bytes, at most {limit}");
}

#[test]
fn paths_are_reported_with_their_verdict() {
    let mut world = World::new(12, 0, &[]);
    start(&mut world, Wish { download: 4 << 20, ..GOOD });
    world.run(Duration::from_millis(400));
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    world.tell(Command::Paths { from: 0, reply });
    world.run(Duration::from_millis(1));
    let page = answer.try_recv().expect("an answer");
    let listed: Vec<_> = page.paths.iter().map(|p| (p.port.0, p.verdict, p.subflows)).collect();
    assert_eq!(
        listed,
        [(0, PathVerdict::Up, 2), (1, PathVerdict::Up, 2)],
        "a full mesh of two by two"
    );
    assert_eq!(page.next, None);
    assert!(page.paths.iter().all(|path| !path.rtt.is_zero()));
}

#[test]
fn plain_tcp_clients_are_served_as_well() {
    let mut world = World::new(2, 0, &[]);
    start(&mut world, Wish { mptcp: false, upload: 300_000, ..GOOD });
    finish(&mut world, 60);
    assert!(world.phone.worker.done[0].is_satisfied());
    assert_eq!(world.server.worker.uploads, 1);
    world.assert_gateway_empty();
}

/// What a client says first, its request and more, comes with the SYN: the gateway connects to the
/// server while the handshake goes on.
#[test]
fn a_request_may_come_with_the_syn() {
    for (mptcp, takes) in [(false, false), (false, true), (true, false), (true, true)] {
        let setting = if takes { "tcp.fast_open=accept" } else { "tcp.fast_open=off" };
        let mut world = World::new(13, 0, &[setting]);
        world.phone.worker.early = 600;
        for _ in 0..3 {
            start(&mut world, Wish { mptcp, upload: 3_000, ..GOOD });
            finish(&mut world, 60);
        }
        assert!(world.phone.worker.done.iter().all(Client::is_satisfied));
        assert_eq!(world.server.worker.uploads, 3);
        let counters = world.counters();
        assert_eq!(counters.gateway.ended(EndReason::Completed), 3);
        assert_eq!(counters.stack.tcp_fast_open_passive, if takes { 2 } else { 0 });
        let active = world.phone.worker.stack.counters().tcp_fast_open_active;
        assert_eq!(active, counters.stack.tcp_fast_open_passive, "all but the first");
        world.assert_gateway_empty();
    }
}

#[test]
fn every_failure_is_told_truthfully() {
    for (destination, port, rep, reason) in [
        ([10, 9, 0, 2], 9999, 5, EndReason::Refused),
        ([10, 9, 0, 9], 80, 4, EndReason::ConnectTimedOut),
        ([10, 9, 0, 1], 80, 2, EndReason::Denied),
        ([127, 0, 0, 1], 80, 2, EndReason::Denied),
    ] {
        let mut world = World::new(3, 0, &[]);
        start(&mut world, Wish { destination, port, ..GOOD });
        finish(&mut world, 60);
        let client = &world.phone.worker.done[0];
        assert_eq!(client.rep(), Some(rep), "{destination:?}:{port}");
        assert_eq!(client.received.len(), REPLIES, "and nothing behind it");
        assert_eq!(world.counters().gateway.ended(reason), 1, "{destination:?}:{port}");
        world.assert_gateway_empty();
    }
}

#[test]
fn a_server_that_resets_resets_its_client_only() {
    let mut world = World::new(4, 0, &[]);
    start(&mut world, Wish { port: 81, ..GOOD });
    start(&mut world, GOOD);
    finish(&mut world, 60);
    let resets = world.phone.worker.done.iter().filter(|client| client.error.is_some()).count();
    assert_eq!(resets, 1);
    assert_eq!(world.counters().gateway.ended(EndReason::ServerReset), 1);
    assert_eq!(world.counters().gateway.ended(EndReason::Completed), 1);
    world.assert_gateway_empty();
}

#[test]
fn a_client_that_stops_reading_holds_a_bounded_amount_and_nobody_else_up() {
    let mut world =
        World::new(5, 0, &["tcp.recv_buffer_max='256KiB'", "tcp.send_buffer_max='256KiB'"]);
    start(&mut world, Wish { download: 64 << 20, manners: Manners::StopsReading, ..GOOD });
    world.run(Duration::from_secs(20));
    let held = world.gateway_pool.in_use() * 1600;
    assert!(held < 4 << 20, "{held} bytes are held");
    start(&mut world, GOOD);
    world.run(Duration::from_secs(20));
    assert!(world.phone.worker.done[0].is_satisfied(), "the other client");
    world.run(Duration::from_secs(120));
    assert_eq!(world.counters().gateway.ended(EndReason::HalfClosed), 1);
    world.assert_gateway_empty();
}

/// The origin is done at once; what the slow client has not read waits at the gateway, far longer
/// than half-closed sessions without progress live.
#[test]
fn a_slow_reader_gets_everything_of_a_server_that_has_finished() {
    for mptcp in [true, false] {
        let mut world = World::new(9, 0, &["timeouts.half_closed_s=5"]);
        let manners = Manners::ReadsSlowly(30_000);
        start(&mut world, Wish { mptcp, download: 2 << 20, manners, ..GOOD });
        finish(&mut world, 120);
        let client = &world.phone.worker.done[0];
        let count = client.received.len();
        assert!(client.is_satisfied(), "mptcp {mptcp}: {count} bytes, {:?}", client.error);
        assert_eq!(world.counters().gateway.ended(EndReason::Completed), 1);
        world.assert_gateway_empty();
    }
}

#[test]
fn garbage_and_silence_are_closed_and_counted() {
    let mut world = World::new(6, 0, &[]);
    start(&mut world, Wish { manners: Manners::Garbage, ..GOOD });
    start(&mut world, Wish { manners: Manners::Silent, ..GOOD });
    world.run(Duration::from_secs(30));
    let counters = world.counters();
    assert_eq!(counters.gateway.ended(EndReason::NotSocks), 1);
    assert_eq!(counters.gateway.ended(EndReason::HandshakeTimedOut), 1);
    let garbage = world.phone.worker.done.iter().find(|c| c.wish.manners == Manners::Garbage);
    let garbage = garbage.expect("it was closed");
    assert!(garbage.received.is_empty() && garbage.error.is_none(), "without a word, in order");
    world.assert_gateway_empty();
}

#[test]
fn draining_waits_for_sessions_and_ends_with_the_last() {
    let mut world = World::new(7, 0, &[]);
    start(&mut world, Wish { download: 4 << 20, ..GOOD });
    world.run(Duration::from_millis(500));
    world.order(Order::Drain);
    world.run(Duration::from_millis(100));
    start(&mut world, GOOD);
    assert!(!world.stopped);
    let stopped = world.run_until(Duration::from_secs(30), |world| world.stopped);
    assert!(stopped, "the last session ended");
    finish(&mut world, 200);
    let satisfied = world.phone.worker.done.iter().filter(|client| client.is_satisfied()).count();
    assert_eq!(satisfied, 1, "the one from before the drain, not the one after");
    assert_eq!(world.gateway.aborted(), 0);
}

#[test]
fn aborting_resets_what_is_left_and_stops() {
    let mut world = World::new(8, 0, &[]);
    start(&mut world, Wish { download: 64 << 20, ..GOOD });
    world.run(Duration::from_millis(500));
    world.order(Order::Drain);
    world.run(Duration::from_millis(500));
    world.order(Order::Abort);
    assert!(world.run_until(Duration::from_secs(5), |world| world.stopped));
    assert_eq!(world.gateway.aborted(), 1);
    finish(&mut world, 5);
    assert!(world.phone.worker.done[0].error.is_some(), "the phone heard of it");
}

/// Operators who ask for more than there is time to answer: one page of sessions per turn, and the
/// order to end is not kept waiting.
#[test]
fn questions_wait_for_packets_and_orders_do_not() {
    let mut world = World::new(10, 0, &[]);
    let mut answers: Vec<_> = (0..3)
        .map(|_| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            world.tell(Command::Sessions { from: 0, reply });
            answer
        })
        .collect();
    world.order(Order::Abort);
    assert!(world.run_until(Duration::ZERO, |world| world.stopped), "in one turn");
    assert_eq!(answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).count(), 1);
}

/// More resets than wait in a shard at a time.
#[test]
fn aborting_tells_every_client() {
    const CLIENTS: usize = 1500;
    let mut world = World::new(9, 0, &["limits.connections=2000"]);
    for _ in 0..CLIENTS {
        start(&mut world, Wish { manners: Manners::Silent, ..GOOD });
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.counters().sessions as usize, CLIENTS);
    world.order(Order::Abort);
    assert!(world.run_until(Duration::from_secs(1), |world| world.stopped));
    assert_eq!(world.gateway.aborted() as usize, CLIENTS);
    finish(&mut world, 5);
    let told = world.phone.worker.done.iter().filter(|client| client.error.is_some()).count();
    assert_eq!(told, CLIENTS);
}

/// Clients of every kind at once on lossy links, several seeds: the well-behaved get what they
/// wanted, and nothing is left at the gateway.
#[test]
fn a_crowd_on_bad_links_leaves_nothing_behind() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world =
            World::new(u8::try_from(seed).unwrap(), 2_000 * u32::try_from(seed).unwrap(), &[]);
        for _ in 0..30 {
            let wish = random_wish(&mut rng);
            start(&mut world, wish);
            world.run(Duration::from_millis(rng.below(200)));
        }
        world.run(Duration::from_secs(300));
        for client in &world.phone.worker.done {
            let wish = client.wish;
            let reachable = wish.destination == [10, 9, 0, 2] && wish.port == 80;
            if wish.manners == Manners::Good && reachable {
                assert!(client.is_satisfied(), "seed {seed}: {wish:?} {:?}", client.error);
            }
        }
        let waiting = world.phone.worker.clients.values();
        assert!(waiting.clone().all(|client| client.wish.manners != Manners::Good), "seed {seed}");
        world.assert_gateway_empty();
    }
}

fn random_wish(rng: &mut Rng) -> Wish {
    let manners = match rng.below(8) {
        0 => Manners::ResetsAfter(usize::try_from(rng.below(20_000)).unwrap()),
        1 => Manners::StopsReading,
        2 => Manners::Garbage,
        3 => Manners::Silent,
        _ => Manners::Good,
    };
    let (destination, port) = match rng.below(10) {
        0 => ([10, 9, 0, 2], 81),
        1 => ([10, 9, 0, 2], 9999),
        2 => ([10, 9, 0, 9], 80),
        _ => ([10, 9, 0, 2], 80),
    };
    Wish {
        mptcp: rng.below(4) > 0,
        destination,
        port,
        upload: rng.below(50_000),
        download: rng.below(300_000),
        manners,
        user: None,
    }
}
