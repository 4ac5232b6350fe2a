//! Verdicts, who shares them, and what is told of them.

use super::*;
use alloc::vec::Vec;

const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(80);

fn ms(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn tuple(remote: IpAddr, port: u16) -> Tuple {
    let local_addr = IpAddr::from([192, 0, 2, 1]);
    Tuple { local_addr, remote_addr: remote, local_port: 80, remote_port: port }
}

fn table(capacity: u32) -> PathTable {
    PathTable::new(&mut Rng::from_seed([7; 32]), capacity)
}

fn enter(table: &mut PathTable, now: u64, remote: [u8; 4], port: u8) -> PathRef {
    let tuple = tuple(IpAddr::from(remote), 1000);
    table.enter(ms(now), &tuple, PortId(port), Instant::MIN, INTERVAL, &mut Counters::default())
}

/// Every change is told once with what it was before, and counted for its port.
#[test]
fn changes_are_told_and_counted_by_port() {
    let mut table = table(4);
    let mut stats = Counters::default();
    let path = enter(&mut table, 1_000, [192, 0, 2, 7], 3);
    enter(&mut table, 1_000, [198, 51, 100, 7], 3);
    table.timed_out(ms(21_000), path, ms(20_000), PATIENCE, INTERVAL, &mut stats);
    table.timed_out(ms(21_500), path, ms(20_000), PATIENCE, INTERVAL, &mut stats);
    table.answered(ms(24_000), path, INTERVAL, &mut stats);
    table.reset(path);
    let down = PathEvent {
        network: IpAddr::from([192, 0, 2, 0]),
        port: PortId(3),
        local: None,
        before: PathVerdict::Up,
        verdict: PathVerdict::Down,
        lasted: Duration::from_secs(20),
        subflows: 1,
    };
    let (before, verdict) = (PathVerdict::Down, PathVerdict::Up);
    let up = PathEvent { before, verdict, lasted: Duration::from_secs(3), ..down };
    assert_eq!(
        [table.poll_event(), table.poll_event(), table.poll_event()],
        [Some(down), Some(up), None]
    );
    let health = |table: &PathTable| table.accesses().nth(3).unwrap();
    let expected =
        AccessHealth { up: 2, downs: 1, ups: 1, timeouts: 2, resets: 1, ..AccessHealth::default() };
    assert_eq!(health(&table), (PortId(3), expected));
    assert_eq!((stats.path_down, stats.path_up), (1, 1));
    table.leave(path);
    assert_eq!(health(&table).1.up, 1);
    let verdict = |remote: [u8; 4]| {
        table.verdict(IpAddr::from([10, 0, 0, 1]), IpAddr::from(remote), PortId(3))
    };
    assert_eq!(verdict([198, 51, 100, 9]), Some(PathVerdict::Up));
    assert_eq!(verdict([192, 0, 2, 7]), None);
}

#[test]
fn changes_that_nobody_reads_are_bounded() {
    let mut table = table(4);
    let mut stats = Counters::default();
    let path = enter(&mut table, 0, [192, 0, 2, 7], 3);
    for n in 1..=1_000_u64 {
        let now = n * 100_000;
        table.timed_out(ms(now), path, ms(now - 1_000), PATIENCE, INTERVAL, &mut stats);
        table.answered(ms(now + 50_000), path, INTERVAL, &mut stats);
    }
    assert_eq!(core::iter::from_fn(|| table.poll_event()).count(), MAX_EVENTS);
    assert_eq!(stats.path_event_drop, 2_000 - MAX_EVENTS as u64);
}

#[test]
fn a_network_and_a_port_are_a_path() {
    let mut table = table(8);
    let first = enter(&mut table, 1, [10, 0, 0, 1], 0);
    assert_eq!(enter(&mut table, 1, [10, 0, 0, 200], 0), first);
    assert_ne!(enter(&mut table, 1, [10, 0, 1, 1], 0), first);
    assert_ne!(enter(&mut table, 1, [10, 0, 0, 1], 1), first);
    let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, last, 1, 2, 3, 4, 5]);
    let mut enter = |addr| {
        table.enter(
            ms(1),
            &tuple(addr, 1),
            PortId(0),
            Instant::MIN,
            INTERVAL,
            &mut Counters::default(),
        )
    };
    assert_eq!(enter(v6(1)), enter(v6(1)));
    assert_ne!(enter(v6(1)), enter(v6(2)));
    assert_eq!(table.len(), 5);
    assert_eq!(table.iter().map(|path| path.subflows).sum::<u32>(), 8);
}

#[test]
fn the_table_is_bounded_and_forgets_what_nobody_uses() {
    let mut table = table(2);
    let paths = [1, 2].map(|net| enter(&mut table, 1, [10, 0, net, 1], 0));
    let third = tuple(IpAddr::from([10, 0, 3, 1]), 1);
    let mut stats = Counters::default();
    let refused = table.enter(ms(1), &third, PortId(0), ms(1), INTERVAL, &mut stats);
    assert_eq!((refused, stats.path_table_full), (PathRef::NONE, 1));
    // Whatever happens to a subflow without a place changes nothing.
    table.timed_out(ms(900), refused, ms(1), PATIENCE, INTERVAL, &mut Counters::default());
    table.leave(refused);
    assert!(table.is_up(refused));
    for path in paths {
        table.leave(path);
    }
    assert_eq!((table.len(), table.by_key.len()), (0, 0));
}

#[test]
fn one_subflow_finds_out_for_all() {
    let mut table = table(2);
    let mut first = enter(&mut table, 1, [10, 0, 0, 1], 0);
    let mut other = enter(&mut table, 1, [10, 0, 0, 2], 0);
    table.delivered(
        ms(100),
        other,
        Some(Duration::from_millis(40)),
        (1, 0),
        INTERVAL,
        &mut Counters::default(),
    );
    // Somebody was heard: the first one's trouble is its own.
    table.timed_out(ms(150), first, ms(50), PATIENCE, INTERVAL, &mut Counters::default());
    assert!(table.is_up(first));
    table.timed_out(ms(180), first, ms(50), PATIENCE, INTERVAL, &mut Counters::default());
    assert_eq!((table.news(&mut first), table.news(&mut other)), (Some(false), Some(false)));
    assert_eq!(table.news(&mut other), None);
    let mut late = enter(&mut table, 200, [10, 0, 0, 3], 0);
    assert_eq!(table.news(&mut late), Some(false));
    // One probe per interval, whoever sends it.
    let next = ms(1180);
    assert_eq!(table.take_probe(ms(1000), first, true, INTERVAL), Some(next));
    assert_eq!(table.take_probe(next, first, true, INTERVAL), None);
    assert_eq!(table.take_probe(next, late, true, INTERVAL), Some(next + INTERVAL));
    // What waits itself does not take the turn of those that have nothing to wait for.
    assert_eq!(table.take_probe(next, other, false, INTERVAL), None);
    assert_eq!(table.take_probe(next, late, false, INTERVAL), Some(next + INTERVAL));
    table.answered(ms(1220), other, INTERVAL, &mut Counters::default());
    assert_eq!((table.news(&mut first), table.news(&mut late)), (Some(true), Some(true)));
}

/// A path that loses a tenth of what it carries: crowded, if it is shared by enough, and as long
/// as that is news.
#[test]
fn a_path_that_many_share_and_that_loses_much_is_crowded() {
    for (subflows, lost, crowded) in [(4, 100, true), (3, 100, false), (4, 50, false)] {
        let mut table = table(2);
        let paths: Vec<_> = (0..subflows).map(|n| enter(&mut table, 1, [10, 0, 0, n], 0)).collect();
        let mut stats = Counters::default();
        for at in 0..10 {
            let now = ms(500 + 100 * at);
            table.delivered(now, paths[0], None, (1000 - lost, lost), INTERVAL, &mut stats);
        }
        assert_eq!(table.is_crowded(ms(1400), paths[1]), crowded, "{subflows} {lost}");
        // The period that began at 1001 ms is the last one.
        assert_eq!(table.is_crowded(ms(3000), paths[1]), crowded, "{subflows} {lost}");
        assert!(!table.is_crowded(ms(3100), paths[1]), "{subflows} {lost}");
        assert!(!table.is_crowded(ms(1400), PathRef::NONE));
    }
}

#[test]
fn a_handshake_proves_a_path_as_an_answer_does() {
    let mut table = table(2);
    let mut first = enter(&mut table, 1, [10, 0, 0, 1], 0);
    table.timed_out(ms(500), first, ms(1), PATIENCE, INTERVAL, &mut Counters::default());
    assert_eq!(table.news(&mut first), Some(false));
    let tuple = tuple(IpAddr::from([10, 0, 0, 2]), 1);
    // One that heard something before it went down proves nothing.
    table.enter(ms(600), &tuple, PortId(0), ms(400), INTERVAL, &mut Counters::default());
    assert!(!table.is_up(first));
    let mut joined =
        table.enter(ms(600), &tuple, PortId(0), ms(600), INTERVAL, &mut Counters::default());
    assert_eq!((table.news(&mut joined), table.news(&mut first)), (None, Some(true)));
}

/// How long a path must answer before it is up: the time until `is_up`, probed every interval.
fn back_after(table: &mut PathTable, path: PathRef, from: u64) -> u64 {
    let mut now = from;
    while !table.is_up(path) {
        table.answered(ms(now), path, INTERVAL, &mut Counters::default());
        now += 1000;
    }
    now - 1000 - from
}

#[test]
fn a_path_that_flaps_must_answer_longer_each_time() {
    let mut table = table(2);
    let path = enter(&mut table, 1, [10, 0, 0, 1], 0);
    let (mut now, mut waits) = (20_000, Vec::new());
    for _ in 0..8 {
        table.timed_out(ms(now), path, ms(now - 500), PATIENCE, INTERVAL, &mut Counters::default());
        assert!(!table.is_up(path));
        let wait = back_after(&mut table, path, now + 500);
        waits.push(wait);
        now += wait + 2000;
    }
    assert_eq!(waits, [0, 0, 1000, 2000, 4000, 8000, 8000, 8000]);
    assert_eq!(table.iter().map(|path| path.downs).collect::<Vec<_>>(), [8]);
    // Steady for a while: forgiven.
    now += 10_000;
    table.timed_out(ms(now), path, ms(now - 500), PATIENCE, INTERVAL, &mut Counters::default());
    assert_eq!(back_after(&mut table, path, now + 500), 0);
}

#[test]
fn a_timeout_on_probation_begins_it_anew() {
    let mut table = table(2);
    let path = enter(&mut table, 1, [10, 0, 0, 1], 0);
    for at in [20_000, 21_000, 22_000] {
        table.timed_out(ms(at), path, ms(at - 500), PATIENCE, INTERVAL, &mut Counters::default());
        table.answered(ms(at + 300), path, INTERVAL, &mut Counters::default());
    }
    let verdict = |table: &PathTable| table.iter().map(|path| path.verdict).next();
    assert_eq!(verdict(&table), Some(PathVerdict::Probation));
    table.timed_out(ms(23_000), path, ms(22_500), PATIENCE, INTERVAL, &mut Counters::default());
    assert_eq!(verdict(&table), Some(PathVerdict::Down));
    assert_eq!(back_after(&mut table, path, 23_500), 1000);
}
