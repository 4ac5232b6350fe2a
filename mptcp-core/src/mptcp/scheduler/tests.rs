use super::*;

/// A regular path with room, one window of `cwnd` octets in flight when it is full.
fn path(room: bool, ms: u64) -> PathView {
    PathView {
        room,
        busy: !room,
        held: Duration::ZERO,
        backup: false,
        stale: false,
        doubtful: false,
        unknown: false,
        opening: false,
        srtt: Duration::from_millis(ms),
        one_way: Duration::from_millis(ms) / 2,
        rttvar: Duration::ZERO,
        rate: 100_000_000 / ms,
        cwnd: 100_000,
        in_flight: if room { 0 } else { 100_000 },
        mss: 1_400,
        priority: 0,
        served: 0,
        weight: 1,
    }
}

/// Without anything that could be sent ahead of its turn.
const BULK: Demand = Demand {
    unsent: u64::MAX / 4,
    window: u64::MAX / 4,
    buffer: u64::MAX / 4,
    stranded: 0,
    spare: 0,
};

fn choice(kind: SchedulerKind, demand: &Demand, paths: &[PathView]) -> Choice {
    pick(kind, &mut Memory::default(), demand, paths).0
}

#[test]
fn nothing_to_choose_from_is_a_wait() {
    for kind in SchedulerKind::ALL {
        assert_eq!(choice(kind, &BULK, &[]), Choice::Wait);
        assert_eq!(choice(kind, &BULK, &[path(false, 5)]), Choice::Wait);
        assert_eq!(choice(kind, &BULK, &[path(true, 5)]), Choice::Path(0));
    }
}

#[test]
fn backups_and_sidelined_paths_wait_for_the_others_to_fail() {
    for kind in SchedulerKind::ALL {
        let backup = PathView { backup: true, ..path(true, 1) };
        let stale = PathView { stale: true, ..path(true, 1) };
        assert_eq!(choice(kind, &BULK, &[path(false, 5), backup]), Choice::Wait, "{kind:?}");
        assert_eq!(choice(kind, &BULK, &[path(false, 5), stale]), Choice::Wait, "{kind:?}");
        assert_eq!(choice(kind, &BULK, &[stale, backup]), Choice::Path(1), "{kind:?}");
        assert_eq!(choice(kind, &BULK, &[stale]), Choice::Path(0), "{kind:?}");
    }
}

#[test]
fn lowest_rtt_with_room_wins() {
    let paths = [path(false, 5), path(true, 40)];
    assert_eq!(choice(SchedulerKind::LowestRtt, &BULK, &paths), Choice::Path(1));
    let paths = [path(true, 5), path(true, 40)];
    assert_eq!(choice(SchedulerKind::LowestRtt, &BULK, &paths), Choice::Path(0));
    assert_eq!(choice(SchedulerKind::Default, &BULK, &paths), Choice::Path(0));
}

#[test]
fn bulk_with_a_wide_window_uses_the_slower_path_too() {
    let paths = [path(false, 10), path(true, 80)];
    for kind in [SchedulerKind::Default, SchedulerKind::Blest, SchedulerKind::Ecf] {
        assert_eq!(choice(kind, &BULK, &paths), Choice::Path(1));
    }
}

/// 256 KiB of window and a faster path that sends 800 KB while one segment crosses the slower one:
/// that segment would stop the faster path.
#[test]
fn a_narrow_window_is_left_to_the_faster_path() {
    let narrow = Demand { window: 256 << 10, ..BULK };
    let paths = [path(false, 10), path(true, 80)];
    assert_eq!(choice(SchedulerKind::Default, &narrow, &paths), Choice::Wait);
    assert_eq!(choice(SchedulerKind::Blest, &narrow, &paths), Choice::Wait);
    assert_eq!(choice(SchedulerKind::Ecf, &narrow, &paths), Choice::Path(1));
    let wide = Demand { window: 1 << 20, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &wide, &paths), Choice::Path(1));
}

/// The slower path carries what will be next when it arrives, where the peer's window and what was written reach
/// that far.
#[test]
fn a_slower_path_sends_ahead_of_its_turn() {
    let paths = [path(false, 10), path(true, 80)];
    // 10 MB/s for the 35 ms by which it is slower.
    let room = Demand { spare: 350_000 + 1_400, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &room, &paths), Choice::Ahead(1, 350_000));
    let less = Demand { spare: room.spare - 1, ..room };
    assert_eq!(choice(SchedulerKind::Default, &less, &paths), Choice::Path(1));
    for kind in [SchedulerKind::Blest, SchedulerKind::Ecf, SchedulerKind::LowestRtt] {
        assert_eq!(choice(kind, &room, &paths), Choice::Path(1));
    }
    // A third one that is between them sends meanwhile, too: 2.5 MB/s for 20 ms.
    let three = [paths[0], path(false, 40), paths[1]];
    let far = Demand { spare: 1 << 20, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &far, &three), Choice::Ahead(2, 400_000));
    // Not worth it: half a millisecond.
    let near = [path(false, 10), path(true, 11)];
    assert_eq!(choice(SchedulerKind::Default, &far, &near), Choice::Path(1));
    // Nothing is known of it.
    let unknown = PathView { unknown: true, ..paths[1] };
    assert_eq!(choice(SchedulerKind::Default, &far, &[paths[0], unknown]), Choice::Path(1));
}

/// What counts is when data on the slower path will be known to have arrived: by the next
/// acknowledgement on the faster one, not by its own.
#[test]
fn a_window_must_last_one_way_only() {
    let paths = [path(false, 10), path(true, 80)];
    // 10 MB/s: 450 KB in 45 ms, 800 KB in the 80 ms of a round trip.
    let enough = Demand { window: 800 << 10, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &enough, &paths), Choice::Path(1));
    // A queue towards the peer is on that way.
    let queued = PathView { one_way: Duration::from_millis(70), ..paths[1] };
    assert_eq!(choice(SchedulerKind::Default, &enough, &[paths[0], queued]), Choice::Wait);
}

/// Linux counts what waits out of order against its memory and, being beyond the `DATA_ACK`, in its
/// window: twice as much of it is needed. Who does not is found out by its window.
#[test]
fn the_toll_on_what_waits_is_learnt() {
    let paths = [path(false, 10), path(true, 80)];
    let choose = |memory: &mut Memory, window: u64, stranded: u64| {
        let demand = Demand { window, stranded, ..BULK };
        memory.note_window(800_000, &demand);
        pick(SchedulerKind::Default, memory, &demand, &paths).0
    };
    // 10 MB/s for 45 ms and a tenth are 495 KB; at first half of it is added.
    let fresh = Memory::default();
    assert_eq!(choose(&mut fresh.clone(), 740_000, 0), Choice::Wait);
    assert_eq!(choose(&mut fresh.clone(), 750_000, 0), Choice::Path(1));
    // The window stayed as it was while 400 KB waited.
    let mut kind = fresh;
    for _ in 0..100 {
        choose(&mut kind, 800_000, 400_000);
    }
    assert_eq!(choose(&mut kind, 500_000, 0), Choice::Path(1));
    // It lost as much: what waits is no reason to take it for smaller still.
    let mut strict = fresh;
    for _ in 0..100 {
        choose(&mut strict, 400_000, 400_000);
    }
    assert_eq!(choose(&mut strict, 980_000, 0), Choice::Wait);
    assert_eq!(choose(&mut strict, 1_000_000, 0), Choice::Path(1));
    assert_eq!(choose(&mut strict.clone(), 600_000, 400_000), Choice::Path(1));
    // Little that waits teaches nothing.
    for _ in 0..100 {
        choose(&mut strict, 800_000, 50_000);
    }
    assert_eq!(choose(&mut strict, 980_000, 0), Choice::Wait);
}

/// Our own buffer has no such toll.
#[test]
fn a_send_buffer_blocks_as_a_window_does() {
    let paths = [path(false, 10), path(true, 80)];
    let demand = |buffer| Demand { buffer, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &demand(490_000), &paths), Choice::Wait);
    assert_eq!(choice(SchedulerKind::Default, &demand(500_000), &paths), Choice::Path(1));
}

/// The last 50 KB: the faster path has them there in 15 ms, the slower one not before 80.
#[test]
fn the_end_of_the_stream_waits_for_the_faster_path() {
    let end = Demand { unsent: 50_000, ..BULK };
    let paths = [path(false, 10), path(true, 80)];
    assert_eq!(choice(SchedulerKind::Default, &end, &paths), Choice::Wait);
    assert_eq!(choice(SchedulerKind::Ecf, &end, &paths), Choice::Wait);
    assert_eq!(choice(SchedulerKind::Blest, &end, &paths), Choice::Path(1));
    let long = Demand { unsent: 5_000_000, ..BULK };
    assert_eq!(choice(SchedulerKind::Default, &long, &paths), Choice::Path(1));
}

/// A path that is full for another reason than its congestion window may never have room again.
#[test]
fn nobody_waits_for_a_path_that_owes_no_acknowledgement() {
    let narrow = Demand { window: 256 << 10, unsent: 50_000, ..BULK };
    let shut = PathView { busy: false, in_flight: 0, ..path(false, 10) };
    for kind in [SchedulerKind::Default, SchedulerKind::Blest, SchedulerKind::Ecf] {
        assert_eq!(choice(kind, &narrow, &[shut, path(true, 80)]), Choice::Path(1));
    }
    let behind = PathView { served: 0, ..shut };
    let ahead = PathView { served: 1 << 40, ..path(true, 80) };
    assert_eq!(choice(SchedulerKind::Weighted, &BULK, &[behind, ahead]), Choice::Path(1));
}

/// What was slow once, or never measured, gets a segment now and then: a copy, which holds nobody up.
#[test]
fn a_path_that_nothing_is_known_of_is_tried() {
    let narrow = Demand { window: 256 << 10, unsent: 50_000, ..BULK };
    let unknown = PathView { unknown: true, ..path(true, 3_000) };
    for kind in [SchedulerKind::Default, SchedulerKind::Blest, SchedulerKind::Ecf] {
        assert_eq!(choice(kind, &narrow, &[path(false, 10), unknown]), Choice::Probe(1));
        // Where it would be used anyway, data does as well.
        let unknown = PathView { unknown: true, ..path(true, 20) };
        assert_eq!(choice(kind, &BULK, &[path(false, 10), unknown]), Choice::Path(1));
    }
}

/// Copies open the window of a path that data may not go by yet, but not at the end of a stream.
#[test]
fn a_path_whose_window_has_yet_to_open_gets_copies_while_the_peers_window_is_narrow() {
    let narrow = Demand { window: 256 << 10, ..BULK };
    let opening = PathView { opening: true, ..path(true, 3_000) };
    for kind in [SchedulerKind::Default, SchedulerKind::Blest] {
        assert_eq!(choice(kind, &narrow, &[path(false, 10), opening]), Choice::Probe(1));
    }
    let ending = Demand { unsent: 50_000, ..BULK };
    let opening = PathView { opening: true, ..path(true, 100) };
    for kind in [SchedulerKind::Default, SchedulerKind::Ecf] {
        assert_eq!(choice(kind, &ending, &[path(false, 10), opening]), Choice::Wait);
        assert_eq!(choice(kind, &BULK, &[path(false, 10), opening]), Choice::Path(1));
    }
}

/// When the last of 60,000 octets has arrived, ms: by a path of 10 ms under a cap of 1.25 Mbyte/s, or by one of 300 ms, which has
/// room for ten segments.
fn arrives(kind: SchedulerKind) -> u64 {
    let mut memory = Memory::default();
    let mut demand = Demand { unsent: 60_000, ..BULK };
    // In microseconds.
    let (mut capped_until, mut slow_left, mut last) = (0_u64, 10, 0_u64);
    for now in (0..400_000_u64).step_by(20) {
        while demand.unsent > 0 {
            let held = Duration::from_micros(capped_until.saturating_sub(now));
            let open = held.is_zero();
            let fast = PathView { held, busy: false, rate: 1_250_000, ..path(open, 10) };
            let slow = PathView { busy: false, rate: 1_250_000, ..path(slow_left > 0, 300) };
            let (at, one_way) = match pick(kind, &mut memory, &demand, &[fast, slow]).0 {
                Choice::Path(0) => (0, 5_000),
                Choice::Path(_) => (1, 150_000),
                _ => break,
            };
            if at == 0 {
                capped_until = now + 1_120;
            } else {
                slow_left -= 1;
            }
            demand.unsent = demand.unsent.saturating_sub(1_400);
            last = last.max(now + one_way);
        }
    }
    assert_eq!(demand.unsent, 0, "{kind:?}");
    last / 1_000
}

/// It has room again in a millisecond: what ends soon ends by it.
#[test]
fn a_path_that_only_its_cap_holds_is_worth_a_wait() {
    for kind in [SchedulerKind::Default, SchedulerKind::Ecf] {
        assert!(arrives(kind) < 60, "{kind:?}: {} ms", arrives(kind));
    }
    assert!(arrives(SchedulerKind::LowestRtt) >= 150, "that one knows no better");
    // With a narrow window, too.
    let narrow = Demand { window: 100_000, ..BULK };
    let held = PathView { busy: false, held: Duration::from_millis(1), ..path(false, 10) };
    for kind in [SchedulerKind::Default, SchedulerKind::Blest] {
        assert_eq!(choice(kind, &narrow, &[held, path(true, 80)]), Choice::Wait, "{kind:?}");
        // Under a cap of 10 kbyte/s nothing much would wait for the slower one.
        let capped = PathView { rate: 10_000, ..held };
        assert_eq!(choice(kind, &narrow, &[capped, path(true, 80)]), Choice::Path(1), "{kind:?}");
    }
    // A long time is not.
    let end = Demand { unsent: 10_000, ..BULK };
    for kind in [SchedulerKind::Default, SchedulerKind::Ecf] {
        for (ms, wanted) in [(1, Choice::Wait), (100, Choice::Path(1))] {
            let held = PathView { held: Duration::from_millis(ms), ..held };
            assert_eq!(choice(kind, &end, &[held, path(true, 80)]), wanted, "{kind:?}");
        }
    }
    // Ahead of its turn a slower one sends what that path leaves it, with its cap.
    let room = Demand { spare: 1 << 20, ..BULK };
    let half = PathView { held: Duration::from_millis(5), rate: 5_000_000, ..held };
    // 30 ms of 35.
    assert_eq!(
        choice(SchedulerKind::Default, &room, &[half, path(true, 80)]),
        Choice::Ahead(1, 150_000)
    );
}

#[test]
fn a_wait_for_the_faster_path_does_not_flap() {
    let mut memory = Memory::default();
    let paths = [path(false, 10), path(true, 80)];
    let ecf = |memory: &mut Memory, unsent| {
        pick(SchedulerKind::Ecf, memory, &Demand { unsent, ..BULK }, &paths).0
    };
    assert_eq!(ecf(&mut memory, 750_000), Choice::Path(1));
    assert_eq!(ecf(&mut memory, 600_000), Choice::Wait);
    assert_eq!(ecf(&mut memory, 750_000), Choice::Wait);
    assert_eq!(ecf(&mut memory, 1_000_000), Choice::Path(1));
    assert_eq!(ecf(&mut memory, 750_000), Choice::Path(1));
}

#[test]
fn round_robin_gives_everybody_a_turn() {
    let mut memory = Memory::default();
    let mut turns = |paths: &[PathView]| {
        let mut picked = [0; 3];
        for _ in 0..30 {
            match pick(SchedulerKind::RoundRobin, &mut memory, &BULK, paths).0 {
                Choice::Path(at) => picked[at] += 1,
                Choice::Ahead(..) | Choice::Wait | Choice::Probe(_) => panic!("there is room"),
            }
        }
        picked
    };
    assert_eq!(turns(&[path(true, 5), path(true, 50), path(true, 500)]), [10, 10, 10]);
    assert_eq!(turns(&[path(true, 5), path(false, 50), path(true, 500)]), [15, 0, 15]);
}

#[test]
fn weights_are_shares() {
    let mut paths = [path(true, 5), path(true, 50)];
    let weights = [4, 1];
    let mut octets = [0_u64; 2];
    for _ in 0..10_000 {
        let Choice::Path(at) = choice(SchedulerKind::Weighted, &BULK, &paths) else {
            panic!("there is room")
        };
        octets[at] += 1_400;
        paths[at].served += 1_400 / weights[at];
    }
    let share = octets[0] as f64 / octets.iter().sum::<u64>() as f64;
    assert!((share - 0.8).abs() < 0.001, "{share}");
}

#[test]
fn a_path_ahead_of_its_share_waits_for_one_that_moves() {
    let ahead = PathView { served: SERVED_OCTET << 20, ..path(true, 5) };
    let paths = [ahead, path(false, 50)];
    assert_eq!(choice(SchedulerKind::Weighted, &BULK, &paths), Choice::Wait);
    let near = PathView { served: SERVED_OCTET << 15, ..path(true, 5) };
    assert_eq!(choice(SchedulerKind::Weighted, &BULK, &[near, paths[1]]), Choice::Path(0));
}

/// Half and half, however that is written: a megabyte is too far ahead.
#[test]
fn large_weights_let_nobody_run_further_ahead() {
    for weight in [1, 50, 50_000] {
        let served = |octets: u64| octets * SERVED_OCTET / u64::from(weight);
        let ahead = |octets| PathView { weight, served: served(octets), ..path(true, 5) };
        let behind = PathView { weight, ..path(false, 50) };
        let choose = |octets| choice(SchedulerKind::Weighted, &BULK, &[ahead(octets), behind]);
        assert_eq!(choose(1 << 20), Choice::Wait, "{weight}");
        assert_eq!(choose(60_000), Choice::Path(0), "{weight}");
    }
    // One to four, of which the larger share is a quarter of a megabyte ahead.
    for weights in [[1_u16, 4], [10_000, 40_000]] {
        let [behind, ahead] = weights.map(|weight| PathView { weight, ..path(false, 50) });
        let served = (250_u64 << 10) * SERVED_OCTET / u64::from(ahead.weight);
        let ahead = PathView { room: true, busy: false, served, ..ahead };
        assert_eq!(choice(SchedulerKind::Weighted, &BULK, &[behind, ahead]), Choice::Path(1));
    }
}

/// A gigabyte went by one path, while the other one was held by its cap, or was a backup.
#[test]
fn who_took_no_part_has_nothing_to_catch_up_with() {
    let gigabyte = SERVED_OCTET << 30;
    let ahead = PathView { served: gigabyte, ..path(true, 5) };
    let capped = PathView { room: false, busy: false, served: 1, ..path(true, 50) };
    let backup = PathView { backup: true, served: 1, ..path(true, 50) };
    let new = PathView { served: 0, ..path(true, 50) };
    for kept_from in [capped, backup] {
        let mut paths = [ahead, kept_from, new];
        forgive(&mut paths);
        assert_eq!(paths[0], ahead);
        assert_eq!(paths[1].served, gigabyte - (SERVED_OCTET << 16));
        assert_eq!(paths[2], new, "it begins with the others' rounds");
    }
    // One that is full is waited for, and while all are held by the cap of the connection nothing is forgiven.
    let full = PathView { served: 1, ..path(false, 50) };
    let held = PathView { room: false, ..ahead };
    for paths in [[ahead, full], [held, capped]] {
        let mut after = paths;
        forgive(&mut after);
        assert_eq!(after, paths);
    }
}

#[test]
fn order_decides_where_a_policy_goes_by_order() {
    let second = PathView { priority: 1, ..path(true, 1) };
    assert_eq!(choice(SchedulerKind::Overflow, &BULK, &[second, path(true, 90)]), Choice::Path(1));
    assert_eq!(choice(SchedulerKind::Overflow, &BULK, &[second, path(false, 90)]), Choice::Path(0));
    let active = SchedulerKind::ActiveBackup;
    assert_eq!(choice(active, &BULK, &[second, path(true, 90)]), Choice::Path(1));
    assert_eq!(choice(active, &BULK, &[second, path(false, 90)]), Choice::Wait);
}

/// What a burst relies on: what was sent on the path that was chosen changes no choice that is firm.
#[test]
fn a_firm_choice_is_made_again() {
    let mut lasted = [false; SchedulerKind::ALL.len()];
    for (kind, lasted) in SchedulerKind::ALL.into_iter().zip(&mut lasted) {
        for (bits, window) in (0..1_u32 << 9).flat_map(|bits| [(bits, 1 << 40), (bits, 300_000)]) {
            let bit = |at: u32| bits >> at & 1 == 1;
            let made = |at: u32, ms: u64| PathView {
                priority: u8::from(bit(at + 1)),
                backup: bit(at + 2) && at < 6,
                ..path(bit(at), ms)
            };
            let mut paths = [made(0, 5), made(3, 40), made(6, if bit(8) { 5 } else { 20 })];
            let mut demand = Demand { window, ..BULK };
            let mut memory = Memory::default();
            let (first, why) = pick(kind, &mut memory, &demand, &paths);
            let Choice::Path(at) = first else { continue };
            if term(kind, why) != Term::Firm {
                continue;
            }
            *lasted = true;
            for _ in 0..32 {
                paths[at].in_flight += 1_400;
                paths[at].served += 1_400;
                demand.unsent -= 1_400;
                assert_eq!(pick(kind, &mut memory, &demand, &paths).0, first, "{kind:?} {paths:?}");
            }
        }
    }
    assert_eq!(lasted.iter().filter(|lasted| **lasted).count(), 6);
}
