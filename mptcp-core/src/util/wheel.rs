//! A hierarchical timing wheel with one node per index: millions of timers, O(1) each.
//!
//! Time is cut into ticks of 2^16 ns. A deadline is filed under the first tick that starts at or
//! after it, so a node is due once the clock has reached that tick and never before its deadline.
//! Level `l` has 64 slots of 32^l ticks each: the levels overlap twofold, and the whole of a level's
//! next slot fits into the level below before it begins. Nodes are therefore moved down a few per
//! call, ahead of need, instead of all at the moment a slot begins.
//!
//! Invariants, with `d` a node's slot minus the current one in slots of its level: `d < 64`, and
//! `d > 0` above level 0. Of two nodes filed under one tick, the later one is never at a lower level.

use crate::time::Instant;
use alloc::vec;
use alloc::vec::Vec;

const TICK_SHIFT: u32 = 16;
/// Each level's slots are 2^5 times as long as those of the level below.
const LEVEL_SHIFT: u32 = 5;
const SLOTS: u64 = 64;
/// Enough for every `Instant`: 64 × 2^(5 × 9) ticks exceed 2^64 ns.
const LEVELS: u32 = 10;
/// Nodes moved ahead of need per call of `expire`.
const PULL: u32 = 8;

/// "No node".
const NIL: u32 = u32::MAX;
/// In `Node::slot`: not armed.
const UNARMED: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Node {
    deadline: Instant,
    prev: u32,
    next: u32,
    /// Position in `TimerWheel::slots`, or [`UNARMED`].
    slot: u16,
}

#[derive(Clone, Copy)]
struct Slot {
    head: u32,
    tail: u32,
}

impl Slot {
    const EMPTY: Self = Self { head: NIL, tail: NIL };
}

/// A slot's level and number (its start in units of the level's slots).
#[derive(Clone, Copy)]
struct Place {
    level: u32,
    number: u64,
}

impl Place {
    const fn new(level: u32, tick: u64) -> Self {
        Self { level, number: tick >> (LEVEL_SHIFT * level) }
    }

    const fn start_tick(self) -> u64 {
        self.number << (LEVEL_SHIFT * self.level)
    }

    /// Bit in the level's occupancy word.
    const fn bit(self) -> u64 {
        1 << (self.number % SLOTS)
    }

    /// Position in `TimerWheel::slots`.
    fn slot(self) -> u16 {
        u16::try_from(u64::from(self.level) * SLOTS + self.number % SLOTS).unwrap_or(UNARMED)
    }
}

/// Timers for the indices `0..capacity`, at most one each. No method allocates after construction.
pub struct TimerWheel {
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    /// Per level, one bit per slot that holds a node.
    occupied: [u64; LEVELS as usize],
    /// Every node of an earlier tick has been returned.
    current: u64,
    /// Nothing is due at `current`, nor can anything be moved ahead of need before the next tick.
    settled: bool,
    len: u32,
    moves: u64,
}

impl TimerWheel {
    /// Allocates and touches 24 bytes for each of `capacity` possible indices. `start` is the time
    /// now; no later call may pass an earlier `now`.
    #[must_use]
    pub fn with_capacity(capacity: u32, start: Instant) -> Self {
        let unarmed = Node { deadline: Instant::MIN, prev: NIL, next: NIL, slot: UNARMED };
        let slots = vec![Slot::EMPTY; (u64::from(LEVELS) * SLOTS) as usize];
        Self {
            nodes: vec![unarmed; capacity.min(NIL - 1) as usize],
            slots,
            occupied: [0; LEVELS as usize],
            current: tick_reached(start),
            settled: false,
            len: 0,
            moves: 0,
        }
    }

    /// Sets the timer of `idx`, replacing the one it has. A deadline in the past is due at once. O(1),
    /// at most 10 levels looked at and 2 nodes moved. An index beyond the capacity is ignored.
    pub fn arm(&mut self, idx: u32, deadline: Instant) {
        debug_assert!((idx as usize) < self.nodes.len(), "no timer {idx}");
        self.cancel(idx);
        let Some(node) = self.nodes.get_mut(idx as usize) else { return };
        node.deadline = deadline;
        self.len += 1;
        let tick = self.tick_of(deadline);
        self.settled &= tick > self.current;
        let lowest = self.lowest_place(tick);
        let place = self.behind_its_equals(lowest, LEVELS, tick);
        self.push_back(idx, place);
        if place.level > lowest.level && self.distance(place) == 1 {
            // It had to queue behind a slot that is being emptied: empty it faster than it fills.
            self.move_down(place, 2);
        }
    }

    /// Stops the timer of `idx`; `false` when it was not armed. O(1).
    pub fn cancel(&mut self, idx: u32) -> bool {
        let Some(node) = self.nodes.get_mut(idx as usize) else { return false };
        if node.slot == UNARMED {
            return false;
        }
        let Node { prev, next, slot, .. } = *node;
        node.slot = UNARMED;
        self.len -= 1;
        self.unlink(prev, next, slot);
        true
    }

    /// Disarms and returns the first node that is due at `now`: in the order of ticks, and of arming
    /// within a tick. `None` once nothing more is due.
    ///
    /// Amortised O(1): a node is moved at most 9 times between `arm` and here. When the calls are
    /// frequent, moves happen ahead of need, 8 per call; after a pause one call may have to empty a
    /// whole slot. The length of the pause itself costs nothing. A further call within a tick in which
    /// nothing was due or moved is one comparison.
    pub fn expire(&mut self, now: Instant) -> Option<u32> {
        let now = tick_reached(now);
        if self.settled && now <= self.current {
            return None;
        }
        self.settled = false;
        let moved = self.pull_ahead();
        while let Some(place) = self.first_place().filter(|place| place.start_tick() <= now) {
            self.current = self.current.max(place.start_tick());
            if place.level > 0 {
                self.move_down(place, u32::MAX);
                continue;
            }
            let idx = self.slot(place).head;
            self.cancel(idx);
            return Some(idx);
        }
        // Looking ahead was done from `current`: only when that is still the time is there no more.
        self.settled = moved == 0 && now <= self.current;
        self.current = self.current.max(now);
        None
    }

    /// When the timer of `idx` was set to; `None` when it is not armed. O(1).
    #[must_use]
    pub fn armed(&self, idx: u32) -> Option<Instant> {
        let node = self.nodes.get(idx as usize)?;
        (node.slot != UNARMED).then_some(node.deadline)
    }

    /// When [`TimerWheel::expire`] next has work: never later than the first node becomes due, often
    /// earlier (nodes far ahead are looked at again on the way). Calling `expire` at this time either
    /// returns a node or moves this time forward, so a loop that sleeps until it makes progress.
    /// `None` when nothing is armed. O(levels).
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let tick = self.first_place()?.start_tick();
        // Only the tick that ends with `Instant::MAX` does not fit.
        Some(tick.checked_mul(1 << TICK_SHIFT).map_or(Instant::MAX, Instant::from_nanos))
    }

    /// Nodes armed now.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// No node is armed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How often a node was moved from one slot to another since construction.
    #[must_use]
    pub const fn moves(&self) -> u64 {
        self.moves
    }

    /// Moves up to [`PULL`] nodes out of slots that begin next, while there is time; returns how many.
    fn pull_ahead(&mut self) -> u32 {
        let mut budget = PULL;
        for level in 1..LEVELS {
            let next = Place { level, number: Place::new(level, self.current).number + 1 };
            if self.is_occupied(next) {
                budget -= self.move_down(next, budget);
            }
            if budget == 0 {
                break;
            }
        }
        PULL - budget
    }

    /// Moves the first `limit` nodes of `from` to lower levels; returns how many it moved. `from` must
    /// begin no later than one slot from now.
    fn move_down(&mut self, from: Place, limit: u32) -> u32 {
        let mut moved = 0;
        while moved < limit {
            let idx = self.slot(from).head;
            let Some(node) = self.nodes.get(idx as usize) else { break };
            let Node { deadline, prev, next, slot } = *node;
            self.unlink(prev, next, slot);
            let tick = self.tick_of(deadline);
            let place = self.behind_its_equals(self.lowest_place(tick), from.level, tick);
            debug_assert!(place.level < from.level);
            self.push_back(idx, place);
            moved += 1;
        }
        self.moves += u64::from(moved);
        moved
    }

    /// The slot that begins first; of several that begin together the one of the highest level, which
    /// has to be emptied before any of its ticks is served.
    fn first_place(&self) -> Option<Place> {
        let mut first: Option<Place> = None;
        for (level, occupied) in (0..LEVELS).zip(self.occupied) {
            if occupied == 0 {
                continue;
            }
            let current = Place::new(level, self.current).number;
            // Rotated so that bit `d` stands for the slot `d` after the current one.
            let ahead = occupied.rotate_right((current % SLOTS) as u32).trailing_zeros();
            let place = Place { level, number: current + u64::from(ahead) };
            if first.is_none_or(|first| place.start_tick() <= first.start_tick()) {
                first = Some(place);
            }
        }
        first
    }

    /// The shortest slot within reach that contains `tick`.
    fn lowest_place(&self, tick: u64) -> Place {
        let mut place = Place::new(0, tick);
        while self.distance(place) >= SLOTS && place.level + 1 < LEVELS {
            place = Place::new(place.level + 1, tick);
        }
        place
    }

    /// The highest occupied slot below level `end` that contains `tick`, or else `lowest`: nodes of the
    /// same tick that arrived earlier may still be there, and must stay in front.
    fn behind_its_equals(&self, lowest: Place, end: u32, tick: u64) -> Place {
        (lowest.level + 1..end)
            .rev()
            .map(|level| Place::new(level, tick))
            .find(|place| self.is_occupied(*place))
            .unwrap_or(lowest)
    }

    /// Slots of its level from the current one to `place`.
    fn distance(&self, place: Place) -> u64 {
        place.number.saturating_sub(Place::new(place.level, self.current).number)
    }

    /// The first tick that begins at or after `deadline`, or the current one when that has passed.
    fn tick_of(&self, deadline: Instant) -> u64 {
        deadline.as_nanos().div_ceil(1 << TICK_SHIFT).max(self.current)
    }

    fn is_occupied(&self, place: Place) -> bool {
        self.occupied.get(place.level as usize).is_some_and(|bits| bits & place.bit() != 0)
    }

    fn slot(&self, place: Place) -> Slot {
        self.slots.get(usize::from(place.slot())).copied().unwrap_or(Slot::EMPTY)
    }

    fn push_back(&mut self, idx: u32, place: Place) {
        let Some(slot) = self.slots.get_mut(usize::from(place.slot())) else { return };
        let prev = core::mem::replace(&mut slot.tail, idx);
        match self.nodes.get_mut(prev as usize) {
            Some(before) => before.next = idx,
            None => slot.head = idx,
        }
        if let Some(node) = self.nodes.get_mut(idx as usize) {
            *node = Node { prev, next: NIL, slot: place.slot(), ..*node };
        }
        if let Some(bits) = self.occupied.get_mut(place.level as usize) {
            *bits |= place.bit();
        }
    }

    /// Joins the neighbours of a node that leaves the list of `slot`.
    fn unlink(&mut self, prev: u32, next: u32, slot: u16) {
        let Some(list) = self.slots.get_mut(usize::from(slot)) else { return };
        match self.nodes.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => list.head = next,
        }
        match self.nodes.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => list.tail = prev,
        }
        if list.head == NIL {
            let (level, number) = (u64::from(slot) / SLOTS, u64::from(slot) % SLOTS);
            if let Some(bits) = self.occupied.get_mut(level as usize) {
                *bits &= !(1 << number);
            }
        }
    }
}

impl core::fmt::Debug for TimerWheel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "TimerWheel({} of {}, next {:?})",
            self.len,
            self.nodes.len(),
            self.next_deadline()
        )
    }
}

/// The last tick that has begun at `now`. `Instant::MAX` counts as the end of the last tick, so that
/// even a deadline of "never" can come.
fn tick_reached(now: Instant) -> u64 {
    (now.as_nanos() >> TICK_SHIFT) + u64::from(now == Instant::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
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
        let mut linked = 0;
        for (at, slot) in wheel.slots.iter().enumerate() {
            let (level, bit) = (at / 64, at % 64);
            assert_eq!(wheel.occupied[level] >> bit & 1 == 1, slot.head != NIL, "slot {at}");
            let (mut prev, mut idx) = (NIL, slot.head);
            while idx != NIL {
                let node = wheel.nodes[idx as usize];
                assert_eq!((node.prev, usize::from(node.slot)), (prev, at));
                let tick = wheel.tick_of(node.deadline);
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
                    prop_assert_eq!(wheel.armed(idx), deadline);
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
}
