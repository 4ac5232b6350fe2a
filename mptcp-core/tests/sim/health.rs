//! Paths that fall silent, come back, flap, lose much or only queue: what that costs the stream, and
//! what one connection learns for the others (RFC 8684 §3.3.6), in virtual time.

use crate::transfer::{End, run_with, settle};
use crate::world::World;
use crate::{link, pair, world};
use core::time::Duration;
use mptcp_core::config::StackConfig;
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::time::Instant;
use netsim::Direction;
use netsim::link::{Change, LinkConfig, Loss};

const BOTH: [Direction; 2] = [Direction::AtoB, Direction::BtoA];

fn checked(world: &World) {
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
}

fn silence(world: &mut World, path: usize, from: Duration, to: Duration, dirs: &[Direction]) {
    for &dir in dirs {
        let link = world.net.link_mut(world.paths[path], dir);
        link.at(from.as_nanos() as u64, Change::Blackhole(true));
        link.at(to.as_nanos() as u64, Change::Blackhole(false));
    }
}

fn with_queue(config: LinkConfig, bytes: usize) -> LinkConfig {
    LinkConfig { queue_bytes: bytes, ..config }
}

/// Many sessions at a time, each a short request and an answer of `size` octets; ends with both
/// hosts empty.
fn sessions(world: &mut World, total: usize, parallel: usize, size: u64) -> Duration {
    let listener = world.listen(true);
    let start = world.now;
    let deadline = start + Duration::from_secs(600);
    let (mut started, mut finished) = (0, 0);
    let mut clients: Vec<End> = Vec::new();
    let mut servers: Vec<End> = Vec::new();
    while finished < total {
        while started < total && clients.len() < parallel {
            started += 1;
            let id = world.connect(true);
            clients.push(End::new(id, 200, 11, size, 22));
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
            servers.push(End::new(id, size, 22, 200, 11));
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
        for end in servers.extract_if(.., |e| e.done() && e.closed) {
            world.server.stack.release(end.id);
        }
        assert!(finished == total || world.advance(deadline), "{finished} of {total}");
    }
    let took = world.now.since(start);
    settle(world);
    for end in servers {
        world.server.stack.release(end.id);
    }
    world.server.stack.close_listener(world.now, listener);
    settle(world);
    took
}

fn carried(world: &World, dir: Direction) -> u64 {
    world.paths.iter().map(|p| world.net.link(*p, dir).counters().delivered_bytes).sum()
}

/// A thousand short answers over queues that grow to seconds: what waits in a queue is not lost, and
/// is not sent a second time over the other path.
#[test]
fn what_waits_in_a_deep_queue_is_not_sent_twice() {
    let deep = |mbit, ms| pair(with_queue(link(mbit, ms), 4 << 20));
    for (total, parallel, size) in [(1000, 200, 50_000), (500, 50, 100_000)] {
        let mut world = world(31, &[deep(60, 20), deep(40, 7)]);
        let took = sessions(&mut world, total, parallel, size);
        checked(&world);
        let payload = total as u64 * size;
        let share = carried(&world, Direction::BtoA) as f64 / payload as f64;
        let counters = world.client.stack.counters();
        let server = world.server.stack.counters();
        println!(
            "{took:?}: {share:.3} of the payload on the links, {} duplicates; server: {} mptcp_retrans, {} stale, {} retrans_segs, {} probes, {} timeouts",
            counters.duplicate_data,
            server.mptcp_retrans,
            server.subflow_stale,
            server.retrans_segs,
            server.tcp_loss_probes,
            server.tcp_timeouts,
        );
        assert!(share <= 1.12, "{share}");
        assert!(counters.duplicate_data * 1400 * 50 <= payload, "{counters:?}");
    }
}

/// What the reader of a bulk stream sees of a cut.
#[derive(Debug)]
struct Outage {
    /// Longest time without delivery after the cut.
    gap: Duration,
    /// What the survivor could have delivered more, in its own time.
    deficit: Duration,
}

/// Bulk in one direction over A and B; A falls silent at `at`. `rate` is what B carries of payload,
/// octets per second.
fn outage(world: &mut World, up: bool, rate: f64, at: Duration) -> Outage {
    silence(world, 0, at, at + Duration::from_secs(600), &BOTH);
    let listener = world.listen(true);
    let id = world.connect(true);
    let most = 1 << 40;
    let (send, expect) = if up { (most, 0) } else { (0, most) };
    let mut client = End::new(id, send, 11, expect, 22);
    client.shut = true;
    let mut server: Option<End> = None;
    let end = Instant::from_nanos(1) + at + Duration::from_secs(3);
    let cut = Instant::from_nanos(1) + at;
    let (mut last, mut gap, mut before, mut seen) = (cut, Duration::ZERO, 0, 0);
    let mut connected = false;
    loop {
        world.turn();
        while let Some(event) = world.client.stack.poll_event() {
            connected |= event.ready.contains(Ready::CONNECTED);
        }
        let now = world.now;
        if server.is_none()
            && let Some(id) = world.server.stack.accept(listener)
        {
            let mut accepted = End::new(id, expect, 22, send, 11);
            accepted.shut = true;
            server = Some(accepted);
        }
        if connected {
            client.work(&mut world.client, now);
        }
        if let Some(end) = &mut server {
            end.work(&mut world.server, now);
        }
        world.flush();
        let received = if up { server.as_ref().map_or(0, |s| s.received) } else { client.received };
        if now <= cut {
            before = received;
        } else if received > seen {
            gap = gap.max(now.since(last));
            last = now;
        }
        seen = received;
        if !world.advance(end) {
            break;
        }
    }
    gap = gap.max(world.now.since(last));
    let ideal = rate * 3.0;
    let deficit = (ideal - (seen - before) as f64).max(0.0) / rate;
    world.client.stack.abort(world.now, id);
    world.client.stack.release(id);
    settle(world);
    if let Some(end) = server {
        world.server.stack.release(end.id);
    }
    world.server.stack.close_listener(world.now, listener);
    settle(world);
    Outage { gap, deficit: Duration::from_secs_f64(deficit) }
}

/// The faster of two paths falls silent five seconds into a bulk stream: round trip 20 ms and 20 ms
/// of queue, the survivor's 40 ms.
#[test]
fn t130_a_silent_path_costs_the_reader_little() {
    for up in [false, true] {
        let fast = with_queue(link(100, 10), 250_000);
        let slow = with_queue(link(50, 20), 250_000);
        let mut world = world(41, &[pair(fast), pair(slow)]);
        let rate = 50e6 / 8.0 * 0.94;
        let seen = outage(&mut world, up, rate, Duration::from_secs(5));
        checked(&world);
        println!("up {up}: {seen:?}");
        assert!(seen.gap <= Duration::from_millis(150), "{seen:?}");
        assert!(seen.deficit <= Duration::from_millis(350), "{seen:?}");
    }
}

/// One connection with an application at either end that the test drives.
struct Pair {
    listener: SocketId,
    client: SocketId,
    server: SocketId,
}

/// Runs the world until `at`, calling `each` whenever something happened.
fn run_until(world: &mut World, at: Instant, mut each: impl FnMut(&mut World)) {
    loop {
        world.turn();
        each(world);
        world.flush();
        if !world.advance(at) {
            return;
        }
    }
}

fn at(time: Duration) -> Instant {
    Instant::from_nanos(1) + time
}

/// Opens `count` connections within the first second, every path joined.
fn open(world: &mut World, count: usize) -> Vec<Pair> {
    let listener = world.listen(true);
    let clients: Vec<SocketId> = (0..count).map(|_| world.connect(true)).collect();
    let mut servers = Vec::new();
    run_until(world, at(Duration::from_millis(300)), |_| {});
    // The first data confirms MPTCP, and the joins go out.
    for &client in &clients {
        assert_eq!(world.client.stack.send(world.now, client, b"hello"), Ok(5));
    }
    run_until(world, at(Duration::from_secs(1)), |world| {
        while let Some(id) = world.server.stack.accept(listener) {
            servers.push(id);
        }
    });
    for &server in &servers {
        assert_eq!(world.server.stack.recv(world.now, server, &mut [0; 8]), Ok(5));
    }
    let pairs = clients.into_iter().zip(servers);
    pairs.map(|(client, server)| Pair { listener, client, server }).collect()
}

fn end(world: &mut World, pairs: &[Pair]) {
    for pair in pairs {
        world.client.stack.abort(world.now, pair.client);
        world.client.stack.release(pair.client);
    }
    settle(world);
    for pair in pairs {
        world.server.stack.release(pair.server);
    }
    let listener = pairs.first().expect("at least one").listener;
    world.server.stack.close_listener(world.now, listener);
    settle(world);
    checked(world);
}

/// Sends 200 octets every 100 ms from `from` to `to`, up or down, and answers how long each took.
fn messages(
    world: &mut World,
    pair: &Pair,
    up: bool,
    from: Duration,
    to: Duration,
) -> Vec<Duration> {
    const LEN: usize = 200;
    let mut sent: Vec<Instant> = Vec::new();
    let mut took = Vec::new();
    let mut received = 0;
    let end = at(to) + Duration::from_secs(2);
    let mut next = at(from);
    loop {
        world.turn();
        let now = world.now;
        if now >= next && now < at(to) {
            let (stack, id) = match up {
                true => (&mut world.client.stack, pair.client),
                false => (&mut world.server.stack, pair.server),
            };
            assert_eq!(stack.send(now, id, &[7; LEN]), Ok(LEN));
            sent.push(now);
            next = next + Duration::from_millis(100);
        }
        let (stack, id) = match up {
            true => (&mut world.server.stack, pair.server),
            false => (&mut world.client.stack, pair.client),
        };
        received += stack.recv(now, id, &mut [0; 8 * LEN]).unwrap_or(0);
        while took.len() < received / LEN {
            took.push(now.since(sent[took.len()]));
        }
        world.flush();
        let limit = if now < at(to) { next.max(now) } else { end };
        if !world.advance(limit) && world.now >= end {
            break;
        }
    }
    assert_eq!(took.len(), sent.len(), "not all arrived");
    took
}

/// 200 octets every 100 ms while the path they take dies: none waits longer than the timeout of that
/// path and the round trip of the other.
#[test]
fn t131_small_messages_while_their_path_dies() {
    for up in [false, true] {
        let mut world = world(42, &[pair(link(60, 10)), pair(link(40, 30))]);
        silence(&mut world, 0, Duration::from_millis(3_030), Duration::from_secs(60), &BOTH);
        let pairs = open(&mut world, 1);
        let (from, to) = (Duration::from_secs(2), Duration::from_secs(6));
        let took = messages(&mut world, &pairs[0], up, from, to);
        let longest = took.iter().max().expect("some were sent");
        println!("up {up}: {longest:?}");
        // RTO_A is the minimum of 200 ms, RTT_B 60 ms.
        assert!(*longest <= Duration::from_millis(260), "{took:?}");
        // What was on its way then is late, and what Nagle held behind it.
        let late = took.iter().filter(|d| **d > Duration::from_millis(50)).count();
        assert!(late <= 4, "{took:?}");
        end(&mut world, &pairs);
    }
}

/// Packets that carried data of ours over a path, from the counters of its link.
fn delivered(world: &World, path: usize, dir: Direction) -> u64 {
    world.net.link(world.paths[path], dir).counters().delivered_bytes
}

/// Keeps a bulk stream going down and reads it, until `to`; `each` sees the octets read so far.
fn stream(world: &mut World, pair: &Pair, to: Duration, mut each: impl FnMut(&World, u64)) {
    let data = vec![9; 64 << 10];
    let mut read = 0;
    let mut into = vec![0; 256 << 10];
    run_until(world, at(to), |world| {
        let now = world.now;
        while world.server.stack.send(now, pair.server, &data).is_ok() {}
        while let Ok(n) = world.client.stack.recv(now, pair.client, &mut into) {
            read += n as u64;
        }
        each(world, read);
    });
}

/// A path that was silent for six seconds carries data within one probe interval of its return; the
/// reader notices neither the outage for long nor the return at all.
#[test]
fn t132_a_path_that_returns_is_used_within_a_probe_interval() {
    for phase in [0, 250, 500, 750] {
        let mut world = world(43, &[pair(link(60, 10)), pair(link(40, 20))]);
        let (cut, back) = (Duration::from_secs(3), Duration::from_millis(9_000 + phase));
        silence(&mut world, 0, cut, back, &BOTH);
        let pairs = open(&mut world, 1);
        let (mut used, mut silent_bytes) = (None, 0);
        let (mut last, mut gap, mut seen) = (at(back), Duration::ZERO, 0);
        stream(&mut world, &pairs[0], back + Duration::from_secs(4), |world, read| {
            let bytes = delivered(world, 0, Direction::BtoA);
            if world.now < at(back) {
                silent_bytes = bytes;
            } else if bytes > silent_bytes + 50_000 {
                used.get_or_insert(world.now);
            }
            if world.now >= at(back) && read > seen {
                gap = gap.max(world.now.since(last));
                last = world.now;
            }
            seen = read;
        });
        let used = used.expect("it was not used again").since(at(back));
        let after = delivered(&world, 0, Direction::BtoA) - silent_bytes;
        println!("used again after {used:?}, {after} octets in 4 s, longest gap {gap:?}");
        assert!(used <= Duration::from_millis(1_200), "{used:?}");
        assert!(gap <= Duration::from_millis(100), "{gap:?}");
        // Most of what it can carry in the seconds that are left.
        assert!(after >= 12_000_000, "{after}");
        let counters = world.server.stack.counters();
        assert!(counters.subflow_stale >= 1 && counters.subflow_recover >= 1);
        assert_eq!((counters.path_down, counters.path_up), (1, 1));
        end(&mut world, &pairs);
    }
}

/// The peer has everything by other ways while the dead path still repeats it: the stream goes on,
/// and in the end the subflow is reset for what it would have to repeat. The client opens it again
/// when the path is back.
#[test]
fn t137_a_dead_path_that_still_repeats_is_given_up() {
    let mut config = StackConfig::default();
    config.mptcp.stale_timeout = Duration::from_secs(20);
    let links = [pair(link(60, 10)), pair(link(40, 20))];
    let mut world = World::new(44, &links, false, config.clone(), config);
    let back = Duration::from_secs(40);
    silence(&mut world, 0, Duration::from_secs(3), back, &BOTH);
    let pairs = open(&mut world, 1);
    let mut at_reset = None;
    stream(&mut world, &pairs[0], Duration::from_secs(35), |world, read| {
        if world.server.stack.counters().rm_subflow == 1 {
            at_reset.get_or_insert((world.now, read));
        }
    });
    let (when, read) = at_reset.expect("it was not given up");
    println!("given up at {when:?} after {read} octets");
    assert!((at(Duration::from_secs(22))..at(Duration::from_secs(25))).contains(&when));
    // The survivor was in use all the while: 40 Mbit/s, 19 seconds.
    assert!(read >= 19 * 4_600_000, "{read}");
    assert!(world.server.stack.counters().mp_rst_tx >= 1);
    let subflows = |world: &World| world.client.stack.info(pairs[0].client).map(|i| i.subflows);
    stream(&mut world, &pairs[0], Duration::from_secs(120), |_, _| {});
    assert_eq!(subflows(&world).map(|s| s.len()), Some(2));
    end(&mut world, &pairs);
}

/// Fifty connections, one of which sends when a path dies: it finds out, and what the others send
/// afterwards never meets the dead path. With one probe all of them return.
#[test]
fn what_one_connection_finds_out_all_know() {
    let mut world = world(45, &[pair(link(60, 10)), pair(link(40, 30))]);
    silence(&mut world, 0, Duration::from_millis(3_030), Duration::from_millis(9_000), &BOTH);
    let pairs = open(&mut world, 50);
    assert_eq!(world.server.stack.paths().count(), 2);
    let pages = [world.server.stack.paths_page(0, 1), world.server.stack.paths_page(1, 1)];
    let (listed, next): (Vec<_>, Vec<_>) =
        pages.into_iter().map(|(paths, next)| (paths.count(), next)).unzip();
    assert_eq!((listed, next), (vec![1, 1], vec![Some(1), None]), "the same in parts");
    let (from, to) = (Duration::from_secs(2), Duration::from_secs(5));
    messages(&mut world, &pairs[0], false, from, to);
    let down: Vec<_> = world.server.stack.paths().map(|p| (p.verdict, p.subflows)).collect();
    use mptcp_core::mptcp::path_health::PathVerdict::{Down, Up};
    assert!(down.contains(&(Down, 50)) && down.contains(&(Up, 50)), "{down:?}");
    assert_eq!(world.server.stack.counters().path_down, 1);

    // Everybody sends once: over the other path, at its own delay.
    let pushed =
        |world: &World| world.net.link(world.paths[0], Direction::BtoA).counters().pushed_packets;
    let before = pushed(&world);
    let start = world.now;
    for pair in &pairs[1..] {
        assert_eq!(world.server.stack.send(start, pair.server, &[1; 200]), Ok(200));
    }
    world.flush();
    let mut got = 0;
    run_until(&mut world, start + Duration::from_millis(45), |world| {
        for pair in &pairs[1..] {
            got += world.client.stack.recv(world.now, pair.client, &mut [0; 256]).unwrap_or(0);
        }
    });
    assert_eq!(got, 49 * 200);
    let probes = pushed(&world) - before;
    assert!(probes <= 2, "{probes} packets met the dead path");

    // One probe an interval for all of them.
    let counted = pushed(&world);
    let later = world.now + Duration::from_secs(1);
    run_until(&mut world, later, |_| {});
    let probes = pushed(&world) - counted;
    assert!(probes <= 3, "{probes} probes in a second");

    run_until(&mut world, at(Duration::from_millis(10_200)), |_| {});
    assert!(world.server.stack.paths().all(|p| p.verdict == Up));
    let before = delivered(&world, 0, Direction::BtoA);
    for pair in &pairs {
        let sent = world.server.stack.send(world.now, pair.server, &[1; 200]);
        assert_eq!(sent, Ok(200));
    }
    world.flush();
    let later = world.now + Duration::from_secs(1);
    run_until(&mut world, later, |_| {});
    assert!(delivered(&world, 0, Direction::BtoA) >= before + 50 * 200, "they did not return");
    end(&mut world, &pairs);
}

/// A path that comes and goes every second is left alone longer and longer; the stream keeps what
/// the other path carries.
#[test]
fn a_path_that_flaps_is_left_alone() {
    let mut world = world(46, &[pair(link(60, 10)), pair(link(40, 20))]);
    for flap in 0..15 {
        let from = Duration::from_millis(3_000 + flap * 2_000);
        silence(&mut world, 0, from, from + Duration::from_millis(1_000), &BOTH);
    }
    let pairs = open(&mut world, 1);
    let mut total = 0;
    let mut at_start = 0;
    stream(&mut world, &pairs[0], Duration::from_secs(33), |world, read| {
        if world.now < at(Duration::from_secs(3)) {
            at_start = read;
        }
        total = read;
    });
    let rate = (total - at_start) as f64 / 30.0 * 8.0 / 1e6;
    let counters = world.server.stack.counters();
    println!("{rate:.1} Mbit/s, {} downs, {} ups", counters.path_down, counters.path_up);
    assert!(rate >= 36.0, "{rate}");
    assert!(counters.path_down <= 7, "{}", counters.path_down);
    end(&mut world, &pairs);
}

/// A path that loses three of ten packets either way, beside a good one: it costs the stream nothing.
#[test]
fn a_path_with_much_loss_costs_nothing() {
    for up in [false, true] {
        let mut world = world(47, &[pair(link(60, 10)), pair(link(40, 20))]);
        for dir in BOTH {
            let link = world.net.link_mut(world.paths[0], dir);
            link.at(1_000_000_000, Change::Loss(Loss::Bernoulli(300_000)));
        }
        let bytes = 60 << 20;
        let (send, receive) = if up { (bytes, 100) } else { (100, bytes) };
        let limit = Duration::from_secs(100);
        let report = run_with(&mut world, true, send, receive, limit, |_| {});
        checked(&world);
        let rate = bytes as f64 * 8.0 / report.took.as_secs_f64() / 1e6;
        println!("up {up}: {rate:.1} Mbit/s, {report:?}");
        assert!(rate >= 0.85 * 40.0 * 0.94, "{rate}");
    }
}

/// The network takes what one end sends and delivers what the other does: each end finds out about
/// its own direction.
#[test]
fn one_direction_of_a_path_dies() {
    for dead in BOTH {
        let mut world = world(48, &[pair(link(60, 10)), pair(link(40, 20))]);
        silence(&mut world, 0, Duration::from_secs(3), Duration::from_secs(20), &[dead]);
        let pairs = open(&mut world, 1);
        let (mut gap, mut last, mut seen) = (Duration::ZERO, at(Duration::from_secs(3)), 0);
        stream(&mut world, &pairs[0], Duration::from_secs(8), |world, read| {
            if read > seen && world.now > last {
                gap = gap.max(world.now.since(last));
                last = world.now;
            }
            seen = read;
        });
        // It goes on to the end.
        gap = gap.max(world.now.since(last));
        println!("{dead:?}: {gap:?}");
        assert!(gap <= Duration::from_millis(500), "{gap:?}");
        end(&mut world, &pairs);
    }
}

/// Both paths fail, and return while there is nothing to send. What is sent then is shared between paths of which
/// neither has been used since: the choice that is kept for a turn shows what looking again would (the stack asserts
/// that).
#[test]
fn paths_that_returned_while_nothing_was_sent_share_what_comes() {
    let mut world = world(48, &[pair(link(60, 10)), pair(link(40, 20))]);
    for path in [0, 1] {
        silence(&mut world, path, Duration::from_secs(5), Duration::from_secs(9), &BOTH);
    }
    let pairs = open(&mut world, 1);
    let mut before = 0;
    stream(&mut world, &pairs[0], Duration::from_secs(2), |_, read| before = read);
    // What is on its way arrives.
    let mut rest = vec![0; 8 << 20];
    run_until(&mut world, at(Duration::from_secs(6)), |world| {
        let _ = world.client.stack.recv(world.now, pairs[0].client, &mut rest);
    });
    assert_eq!(world.server.stack.send(world.now, pairs[0].server, &[1; 200]), Ok(200));
    run_until(&mut world, at(Duration::from_secs(20)), |world| {
        let _ = world.client.stack.recv(world.now, pairs[0].client, &mut rest);
    });
    let counters = world.server.stack.counters();
    assert_eq!((counters.subflow_stale, counters.subflow_recover), (2, 2));
    let mut after = 0;
    stream(&mut world, &pairs[0], Duration::from_secs(21), |_, read| after = read);
    assert!(after * 10 > before * 8, "{after} octets after it, {before} before");
    end(&mut world, &pairs);
}
