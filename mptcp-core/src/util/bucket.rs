//! A token bucket: octets under a rate cap, or whatever strangers can ask of us.

use crate::time::{Duration, Instant};

const NANOS: u64 = 1_000_000_000;

/// A rate that is held exactly over time. What is taken may overdraw, and the next waits until that is
/// paid; time in which nothing is taken earns `credit`'s worth at most. Time must not go backwards; when
/// it does the bucket only waits.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Tokens per second, at least 1.
    rate: u64,
    credit: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket of `per_second` tokens, which may go at once; at least one.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let rate = u64::from(per_second.max(1));
        Self { rate, credit: Duration::from_secs(1), full_at: Instant::MIN }
    }

    /// A bucket with nothing in it, of `rate` tokens per second, at least one.
    pub(crate) fn empty(rate: u64, credit: Duration, now: Instant) -> Self {
        Self { rate: rate.max(1), credit, full_at: now + credit }
    }

    /// This bucket with another rate and credit from now on; what was overdrawn is still to be paid, at
    /// the new rate.
    #[must_use]
    pub(crate) fn with_rate(self, rate: u64, credit: Duration, now: Instant) -> Self {
        let owed = self.next().since(now).as_nanos() * u128::from(self.rate) / u128::from(NANOS);
        let mut bucket = Self::empty(rate, credit, now);
        bucket.full_at = bucket.full_at + bucket.time_for(u64::try_from(owed).unwrap_or(u64::MAX));
        bucket
    }

    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    /// True, and one token gone, when there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.after(1, now);
        let allowed = full_at.since(now) <= self.credit;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// When there is something to take; not after `now` means at once.
    pub(crate) fn next(&self) -> Instant {
        self.full_at - self.credit
    }

    /// `tokens` are taken, whether they are there or not.
    pub(crate) fn charge(&mut self, tokens: u64, now: Instant) {
        self.full_at = self.after(tokens, now);
    }

    fn after(&self, tokens: u64, now: Instant) -> Instant {
        self.full_at.max(now) + self.time_for(tokens)
    }

    fn time_for(&self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * u128::from(NANOS) / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDIT: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(100);
        let at = Instant::from_millis;
        assert_eq!((0..500).filter(|_| bucket.take(at(1000))).count(), 100);
        assert_eq!((0..500).filter(|_| bucket.take(at(1100))).count(), 10);
        assert_eq!((0..500).filter(|_| bucket.take(at(1090))).count(), 0);
        assert_eq!((0..500).filter(|_| bucket.take(at(9000))).count(), 100);
        // However young the clock is.
        assert_eq!((0..500).filter(|_| TokenBucket::new(100).take(Instant::MIN)).count(), 500);
    }

    /// Takes 1,400 tokens whenever the bucket lets it, for `ms` milliseconds.
    fn taken(bucket: &mut TokenBucket, from: Instant, ms: u64) -> u64 {
        let (mut now, mut octets) = (from, 0);
        let end = from + Duration::from_millis(ms);
        while now < end {
            bucket.charge(1_400, now);
            octets += 1_400;
            now = now.max(bucket.next());
        }
        octets
    }

    #[test]
    fn a_cap_is_held_at_every_rate() {
        for rate in [1_000_u64, 31_250, 250_000, 2_500_000, 125_000_000] {
            let start = Instant::from_millis(1_000);
            let mut bucket = TokenBucket::empty(rate, CREDIT, start);
            let seconds = 200_000_000_u64.div_ceil(rate).max(10);
            let octets = taken(&mut bucket, start, seconds * 1_000);
            let ratio = octets as f64 / (rate * seconds) as f64;
            assert!((ratio - 1.0).abs() < 0.02, "{rate}: {ratio}");
        }
    }

    #[test]
    fn idle_time_earns_little_and_a_new_rate_counts_at_once() {
        let start = Instant::from_millis(1_000);
        let mut bucket = TokenBucket::empty(2_500_000, CREDIT, start);
        let later = start + Duration::from_secs(60);
        let octets = taken(&mut bucket, later, 100);
        assert!(octets <= 250_000 + 25_000 + 1_400, "{octets}");
        let now = later + Duration::from_millis(100);
        let mut bucket = bucket.with_rate(250_000, CREDIT, now);
        assert_eq!(bucket.rate(), 250_000);
        let octets = taken(&mut bucket, now, 1_000);
        assert!((245_000..=255_000).contains(&octets), "{octets}");
    }

    /// A debt of 10,000 octets is one at any rate.
    #[test]
    fn a_debt_outlives_a_change_of_rate() {
        let now = Instant::from_millis(1_000);
        let mut bucket = TokenBucket::empty(1_000_000, CREDIT, now);
        bucket.charge(10_000, now);
        assert_eq!(bucket.next(), now + Duration::from_millis(10));
        let bucket = bucket.with_rate(100_000, CREDIT, now);
        assert_eq!(bucket.next(), now + Duration::from_millis(100));
    }
}
