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

use crate::time::{Duration, Instant};
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
/// Bits of a position in `TimerWheel::slots`, of which 0 says "not armed".
const SLOT_BITS: u32 = 10;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

#[derive(Clone, Copy)]
struct Node {
    /// The first that begins at or after the deadline.
    tick: u64,
    prev: u32,
    next: u32,
    /// Position in `TimerWheel::slots`.
    slot: u16,
}

/// A [`Node`] as the table has it, four to a line: zeros are one that is not armed, so that memory comes when an index
/// is first armed.
type Stored = [u64; 2];

const UNARMED: Stored = [0; 2];

impl Node {
    const fn stored(self) -> Stored {
        let slot = self.slot as u64 + 1;
        [self.tick << SLOT_BITS | slot, (self.next as u64) << 32 | self.prev as u64]
    }

    /// `None` when it is not armed.
    #[inline]
    const fn of([at, links]: Stored) -> Option<Self> {
        let slot = at & SLOT_MASK;
        if slot == 0 {
            return None;
        }
        let (prev, next) = (links as u32, (links >> 32) as u32);
        Some(Self { tick: at >> SLOT_BITS, prev, next, slot: slot as u16 - 1 })
    }
}

/// Ticks have 48 bits, and the last one more.
const _: () = assert!(LEVELS as u64 * SLOTS <= SLOT_MASK && 64 - TICK_SHIFT + SLOT_BITS < 64);
/// A level has a bit of a word.
const _: () = assert!(LEVELS < u16::BITS);

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
        (u64::from(self.level) * SLOTS + self.number % SLOTS) as u16
    }
}

/// Timers for the indices `0..capacity`, at most one each. No method allocates after construction.
pub struct TimerWheel {
    nodes: Vec<Stored>,
    slots: Vec<Slot>,
    /// Per level, one bit per slot that holds a node.
    occupied: [u64; LEVELS as usize],
    /// One bit per level that has any: most timers are at a few of them.
    used: u16,
    /// Every node of an earlier tick has been returned.
    current: u64,
    /// Nothing is due at `current`, nor can anything be moved ahead of need before the next tick.
    settled: bool,
    len: u32,
    moves: u64,
}

impl TimerWheel {
    /// A timer is due so much after its deadline at most.
    pub const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

    /// Allocates 16 bytes for each of `capacity` possible indices; pages are touched as indices are first armed.
    /// `start` is the time now; no later call may pass an earlier `now`.
    #[must_use]
    pub fn with_capacity(capacity: u32, start: Instant) -> Self {
        let slots = vec![Slot::EMPTY; (u64::from(LEVELS) * SLOTS) as usize];
        Self {
            nodes: vec![UNARMED; capacity.min(NIL - 1) as usize],
            slots,
            occupied: [0; LEVELS as usize],
            used: 0,
            current: tick_reached(start),
            settled: false,
            len: 0,
            moves: 0,
        }
    }

    /// Sets the timer of `idx`, replacing the one it has. A deadline in the past is due at once. O(1),
    /// at most 10 levels looked at and 2 nodes moved. An index beyond the capacity is ignored; debug builds panic at it.
    pub fn arm(&mut self, idx: u32, deadline: Instant) {
        debug_assert!((idx as usize) < self.nodes.len(), "no timer {idx}");
        self.cancel(idx);
        if idx as usize >= self.nodes.len() {
            return;
        }
        self.len += 1;
        let tick = tick_at(deadline);
        let due = tick.max(self.current);
        self.settled &= due > self.current;
        let lowest = self.lowest_place(due);
        let place = self.behind_its_equals(lowest, LEVELS, due);
        self.push_back(idx, tick, place);
        if place.level > lowest.level && self.distance(place) == 1 {
            // It had to queue behind a slot that is being emptied: empty it faster than it fills.
            self.move_down(place, 2);
        }
    }

    /// Stops the timer of `idx`; `false` when it was not armed. O(1).
    pub fn cancel(&mut self, idx: u32) -> bool {
        let Some(stored) = self.nodes.get_mut(idx as usize) else { return false };
        let Some(node) = Node::of(core::mem::replace(stored, UNARMED)) else { return false };
        self.len -= 1;
        self.unlink(node);
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

    /// When the timer of `idx` is due: the end of the tick in which its deadline lies. `None` when it is not armed.
    /// O(1).
    #[must_use]
    pub fn armed(&self, idx: u32) -> Option<Instant> {
        Some(start_of(Node::of(*self.nodes.get(idx as usize)?)?.tick))
    }

    /// The timer of `idx` is armed, and not due later than one with this deadline would be. O(1).
    #[inline]
    #[must_use]
    pub fn fires_by(&self, idx: u32, deadline: Instant) -> bool {
        let node = self.nodes.get(idx as usize).and_then(|stored| Node::of(*stored));
        node.is_some_and(|node| node.tick <= tick_at(deadline))
    }

    /// When [`TimerWheel::expire`] next has work: never later than the first node becomes due, often
    /// earlier (nodes far ahead are looked at again on the way). Calling `expire` at this time either
    /// returns a node or moves this time forward, so a loop that sleeps until it makes progress.
    /// `None` when nothing is armed. O(levels).
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(start_of(self.first_place()?.start_tick()))
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
        // What moves down goes to levels that were looked at before.
        for level in ascending(self.used & !1) {
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
            let stored = self.nodes.get(idx as usize).copied().unwrap_or(UNARMED);
            let Some(node) = Node::of(stored) else { break };
            self.unlink(node);
            let due = node.tick.max(self.current);
            let place = self.behind_its_equals(self.lowest_place(due), from.level, due);
            debug_assert!(place.level < from.level);
            self.push_back(idx, node.tick, place);
            moved += 1;
        }
        self.moves += u64::from(moved);
        moved
    }

    /// The slot that begins first; of several that begin together the one of the highest level, which
    /// has to be emptied before any of its ticks is served.
    fn first_place(&self) -> Option<Place> {
        let mut first: Option<Place> = None;
        for level in ascending(self.used) {
            let occupied = self.occupied.get(level as usize).copied().unwrap_or(0);
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
        let mut above = self.used & ((1 << end) - 1) & !((2 << lowest.level) - 1);
        while let Some(level) = above.checked_ilog2() {
            let place = Place::new(level, tick);
            if self.is_occupied(place) {
                return place;
            }
            above ^= 1 << level;
        }
        lowest
    }

    /// Slots of its level from the current one to `place`.
    fn distance(&self, place: Place) -> u64 {
        place.number.saturating_sub(Place::new(place.level, self.current).number)
    }

    fn is_occupied(&self, place: Place) -> bool {
        self.occupied.get(place.level as usize).is_some_and(|bits| bits & place.bit() != 0)
    }

    fn slot(&self, place: Place) -> Slot {
        self.slots.get(usize::from(place.slot())).copied().unwrap_or(Slot::EMPTY)
    }

    fn push_back(&mut self, idx: u32, tick: u64, place: Place) {
        let Some(slot) = self.slots.get_mut(usize::from(place.slot())) else { return };
        let prev = core::mem::replace(&mut slot.tail, idx);
        match self.nodes.get_mut(prev as usize) {
            Some(before) => set_next(before, idx),
            None => slot.head = idx,
        }
        if let Some(node) = self.nodes.get_mut(idx as usize) {
            *node = Node { tick, prev, next: NIL, slot: place.slot() }.stored();
        }
        if let Some(bits) = self.occupied.get_mut(place.level as usize) {
            *bits |= place.bit();
            self.used |= 1 << place.level;
        }
    }

    /// Joins the neighbours of a node that leaves its list.
    fn unlink(&mut self, node: Node) {
        let Node { prev, next, slot, .. } = node;
        let Some(list) = self.slots.get_mut(usize::from(slot)) else { return };
        match self.nodes.get_mut(prev as usize) {
            Some(before) => set_next(before, next),
            None => list.head = next,
        }
        match self.nodes.get_mut(next as usize) {
            Some(after) => set_prev(after, prev),
            None => list.tail = prev,
        }
        if list.head == NIL {
            let (level, number) = (u64::from(slot) / SLOTS, u64::from(slot) % SLOTS);
            if let Some(bits) = self.occupied.get_mut(level as usize) {
                *bits &= !(1 << number);
                if *bits == 0 {
                    self.used &= !(1 << level);
                }
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

/// The levels whose bits are set, the lowest first.
fn ascending(mut levels: u16) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let level = (levels != 0).then(|| levels.trailing_zeros())?;
        levels &= levels - 1;
        Some(level)
    })
}

fn set_next([_, links]: &mut Stored, next: u32) {
    *links = *links & u64::from(u32::MAX) | u64::from(next) << 32;
}

fn set_prev([_, links]: &mut Stored, prev: u32) {
    *links = *links >> 32 << 32 | u64::from(prev);
}

/// The first tick that begins at or after `deadline`.
#[inline]
const fn tick_at(deadline: Instant) -> u64 {
    deadline.as_nanos().div_ceil(1 << TICK_SHIFT)
}

/// When `tick` begins. Only the one that ends with `Instant::MAX` does not fit.
fn start_of(tick: u64) -> Instant {
    tick.checked_mul(1 << TICK_SHIFT).map_or(Instant::MAX, Instant::from_nanos)
}

/// The last tick that has begun at `now`. `Instant::MAX` counts as the end of the last tick, so that
/// even a deadline of "never" can come.
fn tick_reached(now: Instant) -> u64 {
    (now.as_nanos() >> TICK_SHIFT) + u64::from(now == Instant::MAX)
}

#[cfg(test)]
mod tests;
