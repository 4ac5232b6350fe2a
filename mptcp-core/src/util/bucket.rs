//! A token bucket for whatever strangers can ask of us.

use crate::time::{Duration, Instant};

/// Allows `per_second` on average and as many at once. Time must not go backwards; when it does the
/// bucket only waits.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket; at least one a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: Duration::from_secs(1), full_at: Instant::MIN }
    }

    /// True, and one token gone, when there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let allowed = full_at.since(now) <= self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(100);
        let at = Instant::from_millis;
        assert_eq!((0..500).filter(|_| bucket.take(at(1000))).count(), 100);
        assert_eq!((0..500).filter(|_| bucket.take(at(1100))).count(), 10);
        assert_eq!((0..500).filter(|_| bucket.take(at(1090))).count(), 0);
        assert_eq!((0..500).filter(|_| bucket.take(at(9000))).count(), 100);
    }
}
