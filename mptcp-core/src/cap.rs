//! Rates that many connections share, those of other stacks among them.
//!
//! Whoever has something to send takes a place in line and is told when it is due; the line is one atomic
//! word, which says when the next place is. Nobody waits for a lock, and nobody is woken but for a place
//! of its own, however many share a rate.
//!
//! Invariant: over any time the places that come due are worth the rate, and what idle time earns
//! at most. A rate never changes: another rate is another cap.

use crate::time::{Duration, Instant, nanos, proportion};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

const NANOS: u128 = 1_000_000_000;
/// Idle time that a cap credits at most, unless that is less than two segments.
const CREDIT: Duration = Duration::from_millis(10);
/// Octets of one place in line: what the rate carries in this time, within bounds.
const TURN: Duration = Duration::from_micros(100);
const TURN_MIN: u64 = 3_000;
const TURN_MAX: u64 = 64 << 10;
/// A place that was due for so long and not used is given up.
const KEPT: Duration = Duration::from_secs(1);
/// A datagram does not wait: it goes ahead of a line that is no longer than this. Of a longer one all datagrams together
/// go ahead with what one of those has who wait, or whoever has many downloads would hear no answer to a question.
const DATAGRAM_LINE: Duration = Duration::from_millis(100);

/// A rate cap that is shared by whoever has a clone of it. Two are equal when they are one.
#[derive(Clone, Debug)]
pub struct SharedCap(Arc<Line>);

#[derive(Debug)]
struct Line {
    /// Octets per second, at least 1.
    rate: u64,
    /// When the next place is due, nanoseconds; 0 before anybody has asked.
    next: AtomicU64,
    /// When the datagrams that went have had their part of the line, nanoseconds.
    datagrams: AtomicU64,
}

impl PartialEq for SharedCap {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedCap {}

impl SharedCap {
    /// A cap of so many octets per second, at least one.
    #[must_use]
    pub fn new(octets_per_second: u64) -> Self {
        let [next, datagrams] = [0, 0].map(AtomicU64::new);
        Self(Arc::new(Line { rate: octets_per_second.max(1), next, datagrams }))
    }

    /// Octets per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.0.rate
    }

    /// Whether a datagram of so many octets may go now; it is paid for if so.
    #[must_use]
    pub fn take(&self, now: Instant, octets: u64) -> bool {
        match self.advance(now, octets, |due| due <= now + DATAGRAM_LINE) {
            Some(due) => {
                let end = due + self.time_for(octets);
                self.0.datagrams.fetch_max(end.as_nanos(), Ordering::Relaxed);
                true
            }
            None => self.take_turn(now, octets),
        }
    }

    /// The same in front of a longer line: while that passes once, a place's worth. What goes is paid for at its end.
    fn take_turn(&self, now: Instant, octets: u64) -> bool {
        let line = Instant::from_nanos(self.0.next.load(Ordering::Relaxed)).since(now);
        let part = u128::from(octets.max(1)) * line.as_nanos() / u128::from(self.turn());
        let part = Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX));
        let moved = |had: u64| {
            let from = Instant::from_nanos(had).max(now);
            // One that is longer than a place goes when nothing else has gone.
            let fits = from == now || from + part <= now + line;
            fits.then(|| (from + part).as_nanos())
        };
        let word = &self.0.datagrams;
        let goes = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved).is_ok();
        if goes {
            self.reserve(now, octets);
        }
        goes
    }

    /// A place in line for so many octets: when it is due.
    fn reserve(&self, now: Instant, octets: u64) -> Instant {
        self.advance(now, octets, |_| true).unwrap_or(now)
    }

    /// A place for so many octets is nobody's any more: the line is shorter by it.
    fn give_back(&self, octets: u64) {
        let cost = nanos(self.time_for(octets));
        let moved = |next: u64| Some(next.saturating_sub(cost).max(1)).filter(|_| next > 0);
        let _before = self.0.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }

    /// Moves the line on by `octets`, if what it says is `wanted`.
    fn advance(
        &self,
        now: Instant,
        octets: u64,
        wanted: impl Fn(Instant) -> bool,
    ) -> Option<Instant> {
        let due = |next: u64| match next {
            0 => now,
            next => Instant::from_nanos(next).max(now - self.credit()),
        };
        let cost = self.time_for(octets);
        let moved = |next| Some((due(next) + cost).as_nanos()).filter(|_| wanted(due(next)));
        // The word stands for itself: no other memory is read because of it.
        let before = self.0.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        before.ok().map(due)
    }

    fn credit(&self) -> Duration {
        CREDIT.max(self.time_for(TURN_MIN))
    }

    /// Octets of one place at most.
    fn turn(&self) -> u64 {
        let octets = u128::from(self.0.rate) * TURN.as_nanos() / NANOS;
        u64::try_from(octets).unwrap_or(TURN_MAX).clamp(TURN_MIN, TURN_MAX)
    }

    fn time_for(&self, octets: u64) -> Duration {
        let nanos = u128::from(octets) * NANOS / u128::from(self.0.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// One connection's place in the line of a cap.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    cap: SharedCap,
    /// Octets of the place that are left.
    left: u64,
    due: Instant,
    /// Octets per second that its last place was, for the time that it waits for it.
    share: u64,
}

impl Lease {
    pub(crate) fn new(cap: SharedCap) -> Self {
        let share = cap.rate();
        Self { cap, left: 0, due: Instant::MIN, share }
    }

    pub(crate) fn is_of(&self, cap: &SharedCap) -> bool {
        self.cap == *cap
    }

    pub(crate) const fn cap(&self) -> &SharedCap {
        &self.cap
    }

    /// When the next `first` octets, which go together, may go; not after `now` means at once, and then
    /// more of them if [`Lease::left`] says so. Takes a place in line where it has none that is long enough:
    /// only who can send otherwise shall ask. `wanted` says how much there is, given what a place is for.
    pub(crate) fn ask(&mut self, now: Instant, first: u64, wanted: impl Fn(u64) -> u64) -> Instant {
        if self.left > 0 && now.since(self.due) > KEPT {
            self.left = 0;
        }
        if self.left < first && self.due <= now {
            let octets = wanted(self.cap.turn()).max(first) - self.left;
            self.due = self.cap.reserve(now, octets);
            self.left += octets;
            let share = proportion(self.left, 1_000_000_000, nanos(self.due.since(now)));
            self.share = share.clamp(1, self.cap.rate());
        }
        self.due
    }

    /// There is nothing to send any more, by this way at least: its place is for others. One that came due longer ago than
    /// idle time earns something is lost, as it is when nobody asks.
    pub(crate) fn give_back(&mut self, now: Instant) {
        let left = core::mem::take(&mut self.left);
        if left > 0 && now.since(self.due) <= self.cap.credit() {
            self.cap.give_back(left);
        }
        self.due = Instant::MIN;
    }

    /// It has to wait for its place in another line: this one is kept.
    pub(crate) fn keep_until(&mut self, at: Instant) {
        self.due = self.due.max(at);
    }

    /// When the place it has is due; it may ask at once where it has none.
    pub(crate) fn waits_until(&self) -> Instant {
        if self.left > 0 { self.due } else { Instant::MIN }
    }

    /// Octets per second that it has of the rate while others wait in the line.
    pub(crate) const fn share(&self) -> u64 {
        self.share
    }

    /// Octets that may go once the place is due.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// So many went. What was longer than it was thought to be, others wait for.
    pub(crate) fn spend(&mut self, now: Instant, octets: u64) {
        let beyond = octets.saturating_sub(self.left);
        self.left = self.left.saturating_sub(octets);
        if beyond > 0 {
            self.cap.reserve(now, beyond);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Octets that `leases` send in `ms` milliseconds, each in segments of 1,400 whenever it may.
    fn sent(leases: &mut [Lease], from: Instant, ms: u64) -> Vec<u64> {
        let end = from + Duration::from_millis(ms);
        let mut octets: Vec<u64> = leases.iter().map(|_| 0).collect();
        let mut now = from;
        while now < end {
            let mut next = Instant::MAX;
            for (lease, octets) in leases.iter_mut().zip(&mut octets) {
                let mut due = lease.ask(now, 1_400, |turn| turn);
                while due <= now {
                    lease.spend(now, 1_400);
                    *octets += 1_400;
                    due = lease.ask(now, 1_400, |turn| turn);
                }
                next = next.min(due);
            }
            now = next;
        }
        octets
    }

    #[test]
    fn a_rate_holds_over_all_who_share_it_and_each_has_its_turn() {
        for rate in [10_000_u64, 250_000, 2_500_000, 125_000_000] {
            let cap = SharedCap::new(rate);
            let mut leases: Vec<_> = (0..10).map(|_| Lease::new(cap.clone())).collect();
            let seconds = 1 + 10_000_000 / rate;
            let from = Instant::from_millis(5_000);
            let octets = sent(&mut leases, from, seconds * 1_000);
            let ratio = octets.iter().sum::<u64>() as f64 / (rate * seconds) as f64;
            assert!((ratio - 1.0).abs() < 0.02, "{rate}: {ratio}");
            let (least, most) = (octets.iter().min().unwrap(), octets.iter().max().unwrap());
            assert!(most - least <= 2 * TURN_MAX.min(cap.turn() * 2), "{rate}: {octets:?}");
        }
    }

    /// As far as can be told from the place it has: eight have an eighth each.
    #[test]
    fn the_share_of_a_rate_is_known_to_who_waits() {
        let cap = SharedCap::new(1_000_000);
        let mut leases: Vec<_> = (0..8).map(|_| Lease::new(cap.clone())).collect();
        assert_eq!(leases[0].share(), 1_000_000);
        sent(&mut leases, Instant::from_millis(1_000), 1_000);
        for lease in &leases {
            assert!((110_000..=150_000).contains(&lease.share()), "{}", lease.share());
        }
    }

    #[test]
    fn idle_time_earns_little() {
        let cap = SharedCap::new(1_000_000);
        let mut lease = [Lease::new(cap)];
        let from = Instant::from_millis(1_000);
        sent(&mut lease, from, 10);
        let octets = sent(&mut lease, from + Duration::from_secs(60), 100)[0];
        assert!((100_000..=100_000 + 10_000 + 2 * TURN_MIN).contains(&octets), "{octets}");
    }

    /// The place that is due belongs to whoever took it, for a while.
    #[test]
    fn a_place_that_is_not_used_is_given_up() {
        let mut lease = Lease::new(SharedCap::new(1_000_000));
        let now = Instant::from_millis(1_000);
        assert_eq!(lease.ask(now, 1_400, |turn| turn.min(1_400)), now);
        let later = now + Duration::from_millis(900);
        assert_eq!((lease.ask(later, 1_400, |turn| turn.min(1_400)), lease.left()), (now, 1_400));
        let late = now + Duration::from_millis(1_100);
        assert!(lease.ask(late, 1_000, |turn| turn.min(1_000)) > now && lease.left() == 1_000);
    }

    #[test]
    fn what_went_beyond_a_place_is_paid_at_once() {
        let cap = SharedCap::new(1_000_000);
        let mut lease = Lease::new(cap.clone());
        let now = Instant::from_millis(1_000);
        lease.ask(now, 1_000, |turn| turn.min(1_000));
        lease.spend(now, 21_000);
        assert_eq!(cap.reserve(now, 1), now + Duration::from_millis(21));
        let due = lease.ask(now, 1_000, |turn| turn.min(1_000));
        assert_eq!((due, lease.left()), (now + Duration::from_micros(21_001), 1_000));
    }

    /// Many who have little to send and then go: nobody is there to make up for what was too much.
    #[test]
    fn what_is_too_short_for_the_next_piece_is_made_longer_first() {
        let cap = SharedCap::new(1_000_000);
        let now = Instant::from_millis(1_000);
        let mut lease = Lease::new(cap.clone());
        assert_eq!(lease.ask(now, 1_400, |turn| turn.min(3_500)), now);
        lease.spend(now, 2_800);
        assert_eq!(lease.left(), 200);
        // The place for the last 700 of 3,500: 500 more, behind the first 3,000.
        let due = lease.ask(now, 700, |turn| turn.min(700));
        assert_eq!((due, lease.left()), (now + Duration::from_millis(3), 700));
        // It waits for that one, whatever it has to send then.
        assert_eq!((lease.ask(now, 1_400, |turn| turn.min(9_000)), lease.left()), (due, 700));
        let longer = lease.ask(due, 1_400, |turn| turn.min(9_000));
        assert_eq!((longer, lease.left()), (due + Duration::from_micros(500), 3_000));
    }

    /// What it had to send went by another way.
    #[test]
    fn a_place_that_is_given_back_is_for_the_next_one() {
        let cap = SharedCap::new(1_000_000);
        let now = Instant::from_millis(1_000);
        let mut lease = Lease::new(cap.clone());
        assert_eq!(lease.ask(now, 1_400, |turn| turn), now);
        lease.spend(now, 2_800);
        let due = lease.ask(now, 1_400, |turn| turn);
        assert_eq!((due, lease.left()), (now + Duration::from_millis(3), 3_000));
        lease.give_back(now);
        assert_eq!((lease.left(), lease.waits_until()), (0, Instant::MIN));
        // 2,800 octets went.
        let next = now + Duration::from_micros(2_800);
        assert_eq!(lease.ask(now, 1_000, |_| 1_000), next);
        lease.give_back(next + Duration::from_millis(11));
        // Nobody has the time back that is over.
        assert_eq!(cap.reserve(now, 1), next + Duration::from_millis(1));
    }

    #[test]
    fn datagrams_go_ahead_of_a_short_line_only() {
        let cap = SharedCap::new(1_000_000);
        let now = Instant::from_millis(1_000);
        let passed = (0..1_000).filter(|_| cap.take(now, 1_000)).count();
        // A tenth of a second's worth, and the one that makes the line longer.
        assert_eq!(passed, 101);
        let later = now + Duration::from_millis(10);
        assert_eq!((0..1_000).filter(|_| cap.take(later, 1_000)).count(), 10);
    }

    /// Nine who have more to send than there is, and datagrams every millisecond: the tenth.
    #[test]
    fn datagrams_have_the_part_of_one_who_waits_in_a_long_line() {
        let cap = SharedCap::new(125_000);
        let mut leases: Vec<_> = (0..9).map(|_| Lease::new(cap.clone())).collect();
        let (mut streams, mut datagrams) = (0_u64, 0_u64);
        for ms in 0..20_000 {
            let now = Instant::from_millis(5_000 + ms);
            for lease in &mut leases {
                while lease.ask(now, 1_400, |turn| turn) <= now {
                    lease.spend(now, 1_400);
                    streams += 1_400;
                }
            }
            datagrams += u64::from(cap.take(now, 500)) * 500;
        }
        let all = streams + datagrams;
        assert!(all.abs_diff(20 * 125_000) <= 20 * 125_000 / 50, "{streams} and {datagrams}");
        assert!(datagrams.abs_diff(all / 10) <= all / 50, "{streams} and {datagrams}");
        // A line that only datagrams made is as long as it may be.
        let cap = SharedCap::new(125_000);
        let now = Instant::from_millis(5_000);
        assert_eq!((0..1_000).filter(|_| cap.take(now, 500)).count(), 26);
    }

    #[test]
    fn shards_share_a_line_without_losing_a_place() {
        let cap = SharedCap::new(1_000_000_000);
        let now = Instant::from_millis(1_000);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let cap = cap.clone();
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        cap.reserve(now, 1_000);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(cap.reserve(now, 1), now + Duration::from_millis(40));
    }
}
