//! One deadline per session, each of one of a few constant durations.
//!
//! Because every class has one duration, the entry armed last in a class expires last in it: arming
//! appends to the class's list, and the head is always the next to expire. All is O(1), exact, and
//! nothing is allocated after construction.

use core::time::Duration;
use mptcp_core::time::Instant;

/// Classes of deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// From the accepted connection to the complete request.
    Handshake,
    /// One attempt to reach the destination.
    Connect,
    /// A refused client that does not close.
    Linger,
    /// Without progress.
    Idle,
    /// Without progress, one side having finished.
    HalfClosed,
    /// A client that waits for a connection.
    Bind,
}

/// Classes of what paces the attempts of a session on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pace {
    /// One family waits for the addresses of the one to begin with.
    Resolution,
    /// The next attempt waits for the one before.
    Attempt,
}

/// How many there are of [`Class`].
pub(super) const CLASSES: usize = 6;

/// RFC 8305 §8, and how long the next attempt waits for the one before.
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

impl From<Class> for u32 {
    fn from(class: Class) -> Self {
        class as Self
    }
}

impl From<Pace> for u32 {
    fn from(pace: Pace) -> Self {
        pace as Self
    }
}

const UNLINKED: u32 = u32::MAX;

/// A session's place in its class's circular list, or (behind the sessions) a class's own place.
#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    expires: Instant,
}

/// Deadlines of the sessions `0..capacity`, of `N` classes.
pub(super) struct Deadlines<const N: usize> {
    links: Vec<Link>,
    capacity: u32,
    durations: [Duration; N],
    /// How many are armed.
    armed: u32,
    /// When the first of them passes.
    next: Instant,
}

impl<const N: usize> Deadlines<N> {
    /// Room for `capacity` sessions. `durations` are in the order of the classes.
    pub(super) fn new(capacity: u32, durations: [Duration; N]) -> Self {
        let unlinked = Link { prev: UNLINKED, next: UNLINKED, expires: Instant::MAX };
        let mut links = vec![unlinked; capacity as usize];
        links.extend((capacity..).take(N).map(|head| Link {
            prev: head,
            next: head,
            expires: Instant::MAX,
        }));
        Self { links, capacity, durations, armed: 0, next: Instant::MAX }
    }

    /// Replaces the deadline of `idx` by one of `class`, counted from `now`, which never decreases.
    pub(super) fn arm(&mut self, idx: u32, class: impl Into<u32>, now: Instant) {
        if idx >= self.capacity {
            return;
        }
        self.disarm(idx);
        let class = class.into();
        let duration = self.durations.get(class as usize).copied().unwrap_or(Duration::MAX);
        let head = self.capacity + class;
        let prev = self.link(head).prev;
        let expires = now + duration;
        self.set(idx, Link { prev, next: head, expires });
        self.with(prev, |link| link.next = idx);
        self.with(head, |link| link.prev = idx);
        self.armed += 1;
        self.next = self.next.min(expires);
    }

    /// Removes the deadline of `idx`, if it has one.
    pub(super) fn disarm(&mut self, idx: u32) {
        let Link { prev, next, expires } = self.link(idx);
        if idx >= self.capacity || next == UNLINKED {
            return;
        }
        self.with(prev, |link| link.next = next);
        self.with(next, |link| link.prev = prev);
        self.set(idx, Link { prev: UNLINKED, next: UNLINKED, expires: Instant::MAX });
        self.armed -= 1;
        if expires <= self.next {
            self.next = self.heads().map(|(_, expires)| expires).min().unwrap_or(Instant::MAX);
        }
    }

    /// Takes out one session whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let first =
            self.heads().filter(|(_, expires)| *expires <= now).map(|(idx, _)| idx).next()?;
        self.disarm(first);
        Some(first)
    }

    /// When the next deadline passes.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.armed > 0).then_some(self.next)
    }

    /// The first session of every class that has one.
    fn heads(&self) -> impl Iterator<Item = (u32, Instant)> {
        let heads = (self.capacity..).take(N);
        heads
            .map(|head| self.link(head).next)
            .filter(|idx| *idx < self.capacity)
            .map(|idx| (idx, self.link(idx).expires))
    }

    fn link(&self, idx: u32) -> Link {
        let unlinked = Link { prev: UNLINKED, next: UNLINKED, expires: Instant::MAX };
        self.links.get(idx as usize).copied().unwrap_or(unlinked)
    }

    fn set(&mut self, idx: u32, link: Link) {
        self.with(idx, |old| *old = link);
    }

    fn with(&mut self, idx: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(idx as usize) {
            change(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const DURATIONS: [u64; CLASSES] = [10, 30, 5, 100, 20, 40];

    fn deadlines(capacity: u32) -> Deadlines<CLASSES> {
        Deadlines::new(capacity, DURATIONS.map(Duration::from_millis))
    }

    const ALL: [Class; CLASSES] = [
        Class::Handshake,
        Class::Connect,
        Class::Linger,
        Class::Idle,
        Class::HalfClosed,
        Class::Bind,
    ];

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, usize),
        Disarm(u32),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..10u32, 0..CLASSES).prop_map(|(idx, class)| Op::Arm(idx, class)),
            1 => (0..10u32).prop_map(Op::Disarm),
            2 => (0..15u64).prop_map(Op::Pass),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(ops in proptest::collection::vec(op(), 0..200)) {
            let mut deadlines = deadlines(8);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 1;
            for op in ops {
                match op {
                    Op::Arm(idx, class) => {
                        deadlines.arm(idx, ALL[class], Instant::from_millis(now));
                        if idx < 8 {
                            model.insert(idx, now + DURATIONS[class]);
                        }
                    }
                    Op::Disarm(idx) => {
                        deadlines.disarm(idx);
                        model.remove(&idx);
                    }
                    Op::Pass(ms) => now += ms,
                }
                let next = model.values().min().map(|ms| Instant::from_millis(*ms));
                prop_assert_eq!(deadlines.next(), next);
                let mut expired = Vec::new();
                while let Some(idx) = deadlines.pop_expired(Instant::from_millis(now)) {
                    expired.push(idx);
                }
                expired.sort_unstable();
                let due: Vec<u32> =
                    model.iter().filter(|(_, at)| **at <= now).map(|(idx, _)| *idx).collect();
                model.retain(|_, at| *at > now);
                prop_assert_eq!(expired, due);
            }
        }
    }
}
