//! "A million sessions" (goals S6 to S8): what they take, idle, active, and when an access network goes away.

use crate::crowd::{Crowd, FULL};
use crate::exchange::{Exchange, FRAMES, SECOND};
use crate::meter::Meter;
use crate::packet::memory;
use crate::relay;
use crate::times::{Spread, shown};
use core::time::Duration;
use mptcp_core::bench::IDLE_SESSION;
use mptcp_core::rng::Rng;
use std::time::Instant;

/// Round trips on both accesses and to the server, in ticks: 4, 2 and 0.2 ms.
const ROUND_TRIPS: [u64; 3] = [100, 50, 5];
/// Sessions that begin in a tick.
const A_TICK: u32 = 2;
/// Levels at which the cost of a segment is measured, besides the last.
const LEVELS: [u32; 4] = [1, 1_000, 100_000, 1_000_000];
/// One in so many sessions is active.
const ACTIVE: u32 = 100;
/// Segments of a burst.
const BURST: u32 = 8;
/// Segments measured at least.
const SEGMENTS: u64 = 32_000;
/// The second access, which is the faster one and goes away.
const CUT: usize = 1;
/// What half of all subflows need at once is done a portion a turn: no deadline is missed by more than this.
const LATE: Duration = Duration::from_millis(5);

/// How many octets of memory this process has.
fn resident() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("/proc/self/status: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(size.ok_or("no VmRSS in /proc/self/status")? * 1024)
}

/// An exchange for `count` sessions, none of which has begun, and what the process had before the gateway was made.
fn exchange(count: u32) -> Result<(Exchange, u64), String> {
    let crowd = Crowd::new(count, ROUND_TRIPS);
    let before = resident()?;
    let (gateway, handle) = relay::gateway(&relay::crowded(count.max(1000)));
    Ok((Exchange::new(gateway, handle, crowd), before))
}

/// Sessions from number `from` up to `to` begin and come to rest.
fn open(exchange: &mut Exchange, from: u32, to: u32) {
    let mut next = from;
    let mut told = 0;
    while exchange.crowd.open < to || exchange.crowd.joined < to {
        for _ in 0..A_TICK.min(to - next) {
            exchange.crowd.connect(next);
            next += 1;
        }
        exchange.step();
        let tenth = u64::from(exchange.crowd.open) * 10 / u64::from(to);
        if tenth > told && to - from >= 100_000 {
            told = tenth;
            eprintln!("  {} of {to} are open", exchange.crowd.open);
        }
        let limit = SECOND * (2 + u64::from(to) / 20_000) * 10;
        assert!(exchange.tick < limit + u64::from(from) * SECOND, "sessions do not open");
    }
    exchange.run_until_quiet(SECOND);
    let begun = exchange.tick;
    // What was put off, such as an acknowledgement, is over within a second.
    exchange.run_until(begun + SECOND);
}

/// 1,000 sessions opened, as a workload.
pub(crate) fn opening(meter: &mut Meter) {
    let (mut exchange, _) = exchange(1000).expect("memory is known");
    exchange.meter = core::mem::take(meter);
    open(&mut exchange, 0, 1000);
    *meter = exchange.meter;
    meter.add(1000.0);
}

/// Turns without anything to do among 1,000 sessions, as a workload.
pub(crate) fn idling(meter: &mut Meter) {
    let (mut exchange, _) = exchange(1000).expect("memory is known");
    exchange.measured = false;
    open(&mut exchange, 0, 1000);
    exchange.measured = true;
    exchange.meter = core::mem::take(meter);
    for _ in 0..1000 {
        exchange.idle_turn();
    }
    *meter = exchange.meter;
    meter.add(1000.0);
}

/// Segments to so many sessions at random, one at a time: each finds what it needs in no cache, if the cache is small
/// enough (`--cache-sim=yes` of callgrind). As a workload.
pub(crate) fn scattered(meter: &mut Meter) {
    const CROWD: u32 = 3000;
    let (mut exchange, _) = exchange(CROWD).expect("memory is known");
    exchange.measured = false;
    open(&mut exchange, 0, CROWD);
    let all = Load { active: (0..CROWD).collect(), together: 1 };
    let mut rng = Rng::from_seed([6; 32]);
    // Queues and windows are as they stay.
    deliver(&mut exchange, &all, &mut rng, SEGMENTS / 4);
    exchange.measured = true;
    exchange.meter = core::mem::take(meter);
    let segments = deliver(&mut exchange, &all, &mut rng, SEGMENTS);
    *meter = exchange.meter;
    meter.add(segments);
}

/// Which sessions are active, and how many segments of one come together.
struct Load {
    active: Vec<u32>,
    together: u32,
}

impl Load {
    /// One in [`ACTIVE`] of the first `count`, at least one.
    fn new(count: u32, together: u32, rng: &mut Rng) -> Self {
        let active = (0..count.div_ceil(ACTIVE)).map(|at| {
            let among = ACTIVE.min(count - at * ACTIVE);
            at * ACTIVE + rng.below(among)
        });
        Self { active: active.collect(), together }
    }
}

/// Servers send at 10 Gbit/s as long as the windows take it; nanoseconds of a segment that came to its phone.
fn load(exchange: &mut Exchange, load: &Load, rng: &mut Rng) -> f64 {
    let segments = SEGMENTS.max(load.active.len() as u64 * 4);
    // A quarter as much before it is measured: queues and windows are as they stay.
    deliver(exchange, load, rng, segments / 4);
    exchange.reset();
    let delivered = deliver(exchange, load, rng, segments);
    let ns = exchange.meter.elapsed().as_secs_f64() * 1e9 / delivered;
    let limit = exchange.tick + SECOND * 10;
    while !load.active.iter().all(|n| exchange.crowd.is_settled(*n)) {
        let next = exchange.tick + 100;
        exchange.run_until(next);
        assert!(exchange.tick < limit, "the load does not end");
    }
    exchange.run_until_quiet(SECOND);
    ns
}

/// So many segments at least arrive at their phones; answers how many did.
fn deliver(exchange: &mut Exchange, load: &Load, rng: &mut Rng, segments: u64) -> f64 {
    let begun = exchange.crowd.delivered;
    let limit = exchange.tick + SECOND * 60;
    while exchange.crowd.delivered - begun < segments * FULL as u64 {
        let mut room = FRAMES as u32;
        let mut tries = FRAMES;
        while room > 0 && tries > 0 {
            tries -= 1;
            let n = load.active[rng.below(load.active.len() as u32) as usize];
            let sent = (0..load.together.min(room))
                .take_while(|_| exchange.crowd.serve(n, FULL))
                .count() as u32;
            room -= sent;
        }
        exchange.step();
        assert!(exchange.tick < limit, "the load does not arrive");
    }
    (exchange.crowd.delivered - begun) as f64 / FULL as f64
}

/// A row of the table of active sessions.
fn measure_active(exchange: &mut Exchange, count: u32, runs: u16, rng: &mut Rng) {
    let lone = Load { active: vec![0], together: BURST };
    let (scattered, bursts) = (Load::new(count, 1, rng), Load::new(count, BURST, rng));
    // The congestion control knows its paths.
    load(exchange, &lone, rng);
    let mut times = [const { Vec::new() }; 3];
    let mut ratios = [const { Vec::new() }; 2];
    for _ in 0..runs {
        let ns = [&lone, &scattered, &bursts].map(|of| load(exchange, of, rng));
        for (times, ns) in times.iter_mut().zip(ns) {
            times.push(ns);
        }
        ratios[0].push(ns[1] / ns[0]);
        ratios[1].push(ns[2] / ns[0]);
    }
    let [lone, scattered, bursts] = times.map(Spread::of);
    let ratios = ratios.map(|ratios| Spread::of(ratios).median);
    println!(
        "| {count} | {} | {} | {} | {:.2} / {:.2} | {} | {:.2} / {:.2} |",
        count.div_ceil(ACTIVE),
        shown(lone),
        shown(scattered),
        ratios[0],
        scattered.least / lone.least,
        shown(bursts),
        ratios[1],
        bursts.least / lone.least
    );
}

/// Opens `count` sessions, measures, and prints tables.
pub(crate) fn print(count: u32, runs: u16) -> Result<(), String> {
    let mut rng = Rng::from_seed([5; 32]);
    let (mut exchange, before) = exchange(count)?;
    let made = resident()?;
    let levels = LEVELS.into_iter().filter(|level| *level < count).chain([count]);
    let (mut opened, mut opening, mut wall) = (0, 0.0, 0.0);
    let mut resident_then = made;
    println!(
        "| sessions | active | one active, ns a segment | random | random / one, least / least | bursts of {BURST} | bursts / one, least / least |\n|---|---|---|---|---|---|---|"
    );
    for level in levels {
        eprintln!("{level} sessions open");
        exchange.reset();
        let began = Instant::now();
        open(&mut exchange, opened, level);
        wall += began.elapsed().as_secs_f64();
        opening += exchange.meter.elapsed().as_secs_f64();
        opened = level;
        resident_then = resident()?;
        eprintln!("{level} sessions, one in {ACTIVE} active");
        measure_active(&mut exchange, level, runs, &mut rng);
    }
    let then = exchange.tick + SECOND * 60;
    exchange.run_until(then);
    let rested = resident()?;
    let counters = exchange.counters();
    assert_eq!(counters.sessions, count, "sessions of the gateway");
    assert_eq!(counters.occupancy.tcbs, 3 * count, "two subflows and an exit of each");
    let (packets, held) = memory();
    let each = |octets: u64| octets as f64 / f64::from(count);
    println!("\n| what | measured |\n|---|---|");
    println!("| structures of an idle session in the stack | {IDLE_SESSION} octets |");
    let grown = resident_then.saturating_sub(before + packets as u64);
    println!("| resident memory, before any is active | {:.0} octets a session |", each(grown));
    let grown = rested.saturating_sub(before + packets as u64);
    println!(
        "| the same a minute after one in {ACTIVE} was | {:.0} octets a session |",
        each(grown)
    );
    println!(
        "| of these, there before the first session | {:.0} octets a session |",
        each(made - before)
    );
    println!("| packets that idle sessions hold | {held} octets in all |");
    println!("| the generator's own, not counted | {} octets a session |", Crowd::session_size());
    println!(
        "| to open one, the gateway | {:.1} µs ({:.1} s in all; with the generator {wall:.1} s) |",
        opening * 1e6 / f64::from(count),
        opening
    );
    idle(&mut exchange);
    disconnect(&mut exchange, count);
    Ok(())
}

/// What idle sessions cost.
fn idle(exchange: &mut Exchange) {
    const TURNS: u32 = 100_000;
    const HOURS: u64 = 3;
    eprintln!("idle");
    exchange.reset();
    for _ in 0..TURNS {
        exchange.idle_turn();
    }
    let turn = exchange.meter.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS);
    println!("| a turn with nothing to do | {turn:.0} ns |");
    let before = exchange.counters().stack;
    exchange.reset();
    let end = exchange.tick + SECOND * 3600 * HOURS;
    exchange.run_until(end);
    let busy = exchange.meter.elapsed().as_secs_f64();
    let probes = exchange.counters().stack.tcp_keep_alive - before.tcp_keep_alive;
    println!(
        "| {HOURS} idle hours, {probes} keep-alive probes and their answers | {busy:.2} s, {:.4} % of a core |",
        busy / (HOURS * 3600) as f64 * 100.0
    );
    println!("| deadlines missed meanwhile by at most | {:.2} ms |", ms(exchange.late));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Servers send a segment to every session at line rate; how long it takes in virtual time until all are there.
fn one_each(exchange: &mut Exchange, count: u32, most: u64) -> u64 {
    let (begun, expected) =
        (exchange.tick, exchange.crowd.delivered + u64::from(count) * FULL as u64);
    let mut next = 0;
    while exchange.crowd.delivered < expected {
        for _ in 0..FRAMES.min((count - next) as usize) {
            assert!(exchange.crowd.serve(next, FULL), "an idle session takes a segment");
            next += 1;
        }
        exchange.step();
        assert!(exchange.tick < begun + most, "segments are missing");
    }
    exchange.tick - begun
}

/// The faster access carries nothing any more: half of all subflows.
fn disconnect(exchange: &mut Exchange, count: u32) {
    eprintln!("an access is cut");
    let limit = SECOND * (60 + u64::from(count) / 10_000);
    let row = |exchange: &mut Exchange, what: &str, act: &mut dyn FnMut(&mut Exchange)| {
        let (before, began) = (exchange.counters(), exchange.tick);
        exchange.reset();
        act(exchange);
        let after = exchange.counters();
        let ticks = exchange.tick - began;
        let changes: Vec<String> = before
            .stack
            .iter()
            .zip(after.stack.iter())
            .filter(|((_, then), (_, now))| then != now)
            .map(|((name, then), (_, now))| {
                format!("{name} {}", i128::from(now) - i128::from(then))
            })
            .collect();
        println!(
            "| {what} | {:.2} s | {:.2} ms | {:.2} s | {} | {} | {} |",
            ticks as f64 / SECOND as f64,
            ms(exchange.late),
            exchange.meter.elapsed().as_secs_f64(),
            after.sessions,
            after.occupancy.tcbs,
            changes.join(", ")
        );
        assert_eq!(after.sessions, count, "a session was lost");
        assert!(exchange.late <= LATE, "a deadline was missed by {:?}", exchange.late);
        after
    };
    println!(
        "\n| an access is cut | virtual time | deadlines missed by at most | the gateway was busy | sessions | control blocks | counters |\n|---|---|---|---|---|---|---|"
    );
    row(exchange, "a segment for every session", &mut |exchange| {
        one_each(exchange, count, limit);
        let then = exchange.tick + SECOND;
        exchange.run_until(then);
    });
    row(exchange, "the cut, and another one for each, until all arrived", &mut |exchange| {
        exchange.crowd.cut(CUT);
        one_each(exchange, count, limit);
    });
    let mut wait = |exchange: &mut Exchange| {
        let then = exchange.tick + SECOND * 120;
        exchange.run_until(then);
    };
    row(exchange, "two minutes", &mut wait);
    // Where the second segment took the other path at once, nothing waited on the dead one.
    row(exchange, "a third one for each", &mut |exchange| {
        one_each(exchange, count, limit);
        let then = exchange.tick + SECOND;
        exchange.run_until(then);
    });
    let last = row(exchange, "two minutes more", &mut wait);
    assert_eq!(last.occupancy.tcbs, 2 * count, "what was cut is given up");
    assert!((0..count).all(|n| exchange.crowd.is_settled(n)), "streams are whole");
}
