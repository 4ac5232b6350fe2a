//! The wheel against a sorted map, and what a call of it moves at most.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const CAPACITY: u32 = 24;

/// What the wheel must do, in the obvious way: nodes by tick, then by order of arming.
struct Model {
    queue: BTreeMap<(u64, u64), u32>,
    armed: BTreeMap<u32, (u64, u64, Instant)>,
    current: u64,
    arrivals: u64,
}

impl Model {
    fn new(start: Instant) -> Self {
        Self {
            queue: BTreeMap::new(),
            armed: BTreeMap::new(),
            current: tick_reached(start),
            arrivals: 0,
        }
    }

    fn arm(&mut self, idx: u32, deadline: Instant) {
        self.cancel(idx);
        let tick = deadline.as_nanos().div_ceil(1 << 16).max(self.current);
        self.arrivals += 1;
        self.queue.insert((tick, self.arrivals), idx);
        self.armed.insert(idx, (tick, self.arrivals, deadline));
    }

    fn cancel(&mut self, idx: u32) -> bool {
        let Some((tick, arrival, _)) = self.armed.remove(&idx) else { return false };
        self.queue.remove(&(tick, arrival));
        true
    }

    fn expire(&mut self, now: Instant) -> Option<u32> {
        let now = tick_reached(now);
        match self.queue.first_key_value() {
            Some((&(tick, _), &idx)) if tick <= now => {
                self.current = tick;
                self.cancel(idx);
                Some(idx)
            }
            _ => {
                self.current = self.current.max(now);
                None
            }
        }
    }

    /// When its first node is due.
    fn next_due(&self) -> Option<Instant> {
        let (&(tick, _), _) = self.queue.first_key_value()?;
        Some(tick.checked_mul(1 << 16).map_or(Instant::MAX, Instant::from_nanos))
    }
}

/// Walks every list and checks the invariants of the module.
fn check(wheel: &TimerWheel) {
    for (level, bits) in wheel.occupied.iter().enumerate() {
        assert_eq!(wheel.used >> level & 1 == 1, *bits != 0, "level {level}");
    }
    let mut linked = 0;
    for (at, slot) in wheel.slots.iter().enumerate() {
        let (level, bit) = (at / 64, at % 64);
        assert_eq!(wheel.occupied[level] >> bit & 1 == 1, slot.head != NIL, "slot {at}");
        let (mut prev, mut idx) = (NIL, slot.head);
        while idx != NIL {
            let node = Node::of(wheel.nodes[idx as usize]).expect("it is armed");
            assert_eq!((node.prev, usize::from(node.slot)), (prev, at));
            let tick = node.tick.max(wheel.current);
            let place = Place::new(u32::try_from(level).unwrap(), tick);
            if usize::from(place.slot()) == at {
                let distance = wheel.distance(place);
                assert!(distance < SLOTS && (level == 0 || distance > 0));
            } else {
                // Only a node that was overdue when armed may stand under an earlier tick.
                assert!(level == 0 && tick == wheel.current, "node {idx} in slot {at}");
            }
            linked += 1;
            (prev, idx) = (idx, node.next);
        }
        assert_eq!(slot.tail, prev);
    }
    assert_eq!(linked, wheel.len());
}

#[derive(Clone, Debug)]
enum Op {
    Arm {
        idx: u32,
        ahead_ns: u64,
    },
    /// At the start of a slot of some level.
    ArmAligned {
        idx: u32,
        ahead_ns: u64,
        shift: u32,
    },
    ArmOverdue {
        idx: u32,
        behind_ns: u64,
    },
    ArmNever(u32),
    Cancel(u32),
    /// Lets time pass, then takes out at most so many nodes.
    Expire {
        after_ns: u64,
        at_most: u32,
    },
    /// Sleeps until `next_deadline` so many times.
    Drive(u32),
}

/// Nanoseconds of every magnitude below 2^`bits`.
fn nanos(bits: u32) -> impl Strategy<Value = u64> {
    (1..=bits, any::<u64>()).prop_map(|(bits, ns)| ns >> (64 - bits))
}

fn op() -> impl Strategy<Value = Op> {
    let idx = 0..CAPACITY;
    prop_oneof![
        8 => (idx.clone(), nanos(56)).prop_map(|(idx, ahead_ns)| Op::Arm { idx, ahead_ns }),
        // Many in one tick, to see their order.
        4 => (idx.clone(), 0..4u64).prop_map(|(idx, at)| Op::Arm { idx, ahead_ns: at << 28 }),
        4 => (idx.clone(), nanos(40), 16..36u32)
            .prop_map(|(idx, ahead_ns, shift)| Op::ArmAligned { idx, ahead_ns, shift }),
        1 => (idx.clone(), nanos(40))
            .prop_map(|(idx, behind_ns)| Op::ArmOverdue { idx, behind_ns }),
        1 => idx.clone().prop_map(Op::ArmNever),
        2 => idx.prop_map(Op::Cancel),
        6 => (nanos(54), prop_oneof![Just(u32::MAX), 0..3u32])
            .prop_map(|(after_ns, at_most)| Op::Expire { after_ns, at_most }),
        3 => (1..20u32).prop_map(Op::Drive),
    ]
}

/// Takes out up to `at_most` nodes from both; they must agree on each.
fn expire_both(wheel: &mut TimerWheel, model: &mut Model, now: Instant, at_most: u32) -> u32 {
    for taken in 0..at_most {
        let armed = model.armed.clone();
        let (got, expected) = (wheel.expire(now), model.expire(now));
        assert_eq!(got, expected, "at {now:?}");
        let Some(idx) = got else { return taken };
        assert!(armed[&idx].2 <= now, "returned before its deadline");
        assert_eq!(wheel.armed(idx), None);
    }
    at_most
}

/// One turn of a loop that sleeps until `next_deadline`: it must not oversleep, nor be woken twice
/// for nothing at the same time.
fn drive_once(wheel: &mut TimerWheel, model: &mut Model, now: &mut Instant) -> bool {
    assert_eq!(wheel.next_deadline().is_some(), model.next_due().is_some());
    let (Some(wake), Some(due)) = (wheel.next_deadline(), model.next_due()) else {
        return false;
    };
    assert!(wake <= due, "sleeps until {wake:?}, but {due:?} is due");
    *now = wake.max(*now);
    let taken = expire_both(wheel, model, *now, u32::MAX);
    assert!(taken > 0 || wheel.next_deadline().is_some_and(|next| next > *now));
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_sorted_map(start in nanos(56), ops in prop::collection::vec(op(), 0..80)) {
        let mut now = Instant::from_nanos(start);
        let mut wheel = TimerWheel::with_capacity(CAPACITY, now);
        let mut model = Model::new(now);
        for op in ops {
            match op {
                Op::Arm { idx, ahead_ns } => {
                    let deadline = now + Duration::from_nanos(ahead_ns);
                    wheel.arm(idx, deadline);
                    model.arm(idx, deadline);
                }
                Op::ArmAligned { idx, ahead_ns, shift } => {
                    let ahead = now + Duration::from_nanos(ahead_ns);
                    let deadline = Instant::from_nanos(ahead.as_nanos() >> shift << shift);
                    wheel.arm(idx, deadline);
                    model.arm(idx, deadline);
                }
                Op::ArmOverdue { idx, behind_ns } => {
                    let deadline = now - Duration::from_nanos(behind_ns);
                    wheel.arm(idx, deadline);
                    model.arm(idx, deadline);
                }
                Op::ArmNever(idx) => {
                    wheel.arm(idx, Instant::MAX);
                    model.arm(idx, Instant::MAX);
                }
                Op::Cancel(idx) => prop_assert_eq!(wheel.cancel(idx), model.cancel(idx)),
                Op::Expire { after_ns, at_most } => {
                    now = now + Duration::from_nanos(after_ns);
                    expire_both(&mut wheel, &mut model, now, at_most);
                }
                Op::Drive(turns) => {
                    for _ in 0..turns {
                        if !drive_once(&mut wheel, &mut model, &mut now) {
                            break;
                        }
                    }
                }
            }
            check(&wheel);
            prop_assert_eq!(wheel.len() as usize, model.armed.len());
            prop_assert_eq!(wheel.is_empty(), model.armed.is_empty());
            for idx in 0..CAPACITY {
                let deadline = model.armed.get(&idx).map(|(_, _, deadline)| *deadline);
                prop_assert_eq!(wheel.armed(idx), deadline.map(|at| start_of(tick_at(at))));
                for other in model.armed.values().map(|(_, _, other)| *other) {
                    let by = deadline.is_some_and(|at| tick_at(at) <= tick_at(other));
                    prop_assert_eq!(wheel.fires_by(idx, other), by);
                }
            }
        }
        // However far ahead the rest is, a sleeping loop wakes at most once per level and node.
        let bound = wheel.len() * LEVELS;
        let mut turns = 0;
        while drive_once(&mut wheel, &mut model, &mut now) {
            turns += 1;
            prop_assert!(turns <= bound);
        }
        check(&wheel);
    }
}

#[test]
fn a_deadline_inside_a_tick_waits_for_its_end() {
    let mut wheel = TimerWheel::with_capacity(1, Instant::MIN);
    let deadline = Instant::from_nanos((5 << 16) + 1);
    wheel.arm(0, deadline);
    assert_eq!(wheel.expire(deadline), None);
    assert_eq!(wheel.next_deadline(), Some(Instant::from_nanos(6 << 16)));
    assert_eq!(wheel.expire(Instant::from_nanos((6 << 16) - 1)), None);
    assert_eq!(wheel.expire(Instant::from_nanos(6 << 16)), Some(0));
    // On the boundary it is due at its deadline exactly.
    wheel.arm(0, Instant::from_nanos(8 << 16));
    assert_eq!(wheel.expire(Instant::from_nanos(8 << 16)), Some(0));
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_slot_is_emptied_before_its_first_tick_is_served() {
    let mut wheel = TimerWheel::with_capacity(2, Instant::from_nanos(5 << 16));
    // Tick 64 is within reach of level 0; tick 90 is not, and shares a slot of level 1 with it.
    wheel.arm(0, Instant::from_nanos(64 << 16));
    wheel.arm(1, Instant::from_nanos(90 << 16));
    assert_eq!(wheel.expire(Instant::from_nanos(64 << 16)), Some(0));
    check(&wheel);
    assert_eq!(wheel.next_deadline(), Some(Instant::from_nanos(90 << 16)));
}

#[test]
fn never_comes_at_the_end_of_time() {
    let mut wheel = TimerWheel::with_capacity(2, Instant::MIN);
    wheel.arm(0, Instant::MAX);
    wheel.arm(1, Instant::from_nanos(u64::MAX - 1));
    assert_eq!(wheel.expire(Instant::from_nanos(u64::MAX - 1)), None);
    assert_eq!(wheel.next_deadline(), Some(Instant::MAX));
    assert_eq!(wheel.expire(Instant::MAX), Some(0));
    assert_eq!(wheel.expire(Instant::MAX), Some(1));
    wheel.arm(1, Instant::MIN);
    assert_eq!(wheel.next_deadline(), Some(Instant::MAX));
    assert_eq!(wheel.expire(Instant::MAX), Some(1));
}

/// 40 000 idle timeouts fall due around the same minute, while short timers come and go: no call
/// ever moves more than its few nodes, although whole slots of them change level.
#[test]
fn a_polling_loop_never_pays_for_a_whole_slot() {
    const IDLE: u32 = 40_000;
    let start = Instant::from_millis(12_345);
    let mut wheel = TimerWheel::with_capacity(IDLE + 64, start);
    for idx in 0..IDLE {
        // 60 s ahead, spread over two seconds in an order that is not that of time.
        let spread = u64::from(idx).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 2_000_000_000;
        wheel.arm(idx, start + Duration::from_nanos(60_000_000_000 + spread));
    }
    let (mut now, mut due, mut turn) = (start, 0, 0u32);
    while due < IDLE {
        now = now + Duration::from_micros(50);
        turn += 1;
        let before = wheel.moves();
        wheel.arm(IDLE + turn % 64, now + Duration::from_millis(u64::from(turn % 1024)));
        assert!(wheel.moves() - before <= 2);
        loop {
            let before = wheel.moves();
            let Some(idx) = wheel.expire(now) else { break };
            due += u32::from(idx < IDLE);
            assert!(wheel.moves() - before <= u64::from(PULL), "at {now:?}");
        }
    }
}

#[test]
fn polling_within_one_tick_goes_on_moving_nodes() {
    let mut wheel = TimerWheel::with_capacity(100, Instant::MIN);
    for idx in 0..100 {
        wheel.arm(idx, Instant::from_nanos(90 << 16));
    }
    let now = Instant::from_nanos(33 << 16);
    for poll in 0..20 {
        assert_eq!(wheel.expire(now), None);
        // The first call finds itself in a new tick and looks ahead only from the next one on.
        assert_eq!(wheel.moves(), u64::from(PULL * poll).min(100));
    }
}

/// A slot that begins next is emptied by `arm` alone, although every `arm` adds to it.
#[test]
fn arming_into_a_slot_being_emptied_empties_it() {
    let mut wheel = TimerWheel::with_capacity(2000, Instant::MIN);
    // Ticks 64 to 95 are the third slot of level 1, out of reach of level 0 until tick 32.
    for idx in 0..1000 {
        wheel.arm(idx, Instant::from_nanos(90 << 16));
    }
    assert_eq!(wheel.expire(Instant::from_nanos(33 << 16)), None);
    for idx in 1000..2000 {
        wheel.arm(idx, Instant::from_nanos(90 << 16));
    }
    let before = wheel.moves();
    let order: Vec<u32> =
        core::iter::from_fn(|| wheel.expire(Instant::from_nanos(90 << 16))).collect();
    assert!(order.into_iter().eq(0..2000));
    assert_eq!(wheel.moves(), before, "nothing was left above level 0");
}

/// Five hundred years pass between two calls: the work is bounded by the nodes, not by the time.
#[test]
fn a_far_jump_costs_nothing_per_tick() {
    let mut wheel = TimerWheel::with_capacity(1000, Instant::MIN);
    for idx in 0..1000 {
        wheel.arm(idx, Instant::from_nanos(u64::MAX >> (idx % 60)));
    }
    let end = Instant::from_nanos(u64::MAX - (1 << 20));
    let mut last = 0;
    let mut taken = 0;
    while let Some(idx) = wheel.expire(end) {
        let deadline = u64::MAX >> (idx % 60);
        assert!(deadline.div_ceil(1 << 16) >= last);
        last = deadline.div_ceil(1 << 16);
        taken += 1;
    }
    assert_eq!((taken, wheel.len()), (1000 - 17, 17), "those of the last milliseconds remain");
    assert!(wheel.moves() <= 9 * 1000);
}
