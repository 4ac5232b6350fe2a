//! A bound on log lines that remote peers can cause.

use core::time::Duration;
use mptcp_core::time::Instant;

/// Lets through so many lines in one go, and one more per `interval` afterwards.
#[derive(Debug)]
pub(crate) struct LogLimit {
    burst: u32,
    interval: Duration,
    /// When the allowance is complete again.
    full_at: Instant,
    suppressed: u64,
}

impl LogLimit {
    /// Full.
    pub(crate) const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: Instant::MIN, suppressed: 0 }
    }

    /// Whether a line may be written now, and then how many were held back since the last one.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        let full_at = self.full_at.max(now) + self.interval;
        if full_at.since(now) > self.interval * self.burst {
            self.suppressed += 1;
            return None;
        }
        self.full_at = full_at;
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_burst_are_held_back_and_counted() {
        let mut limit = LogLimit::new(3, Duration::from_millis(100));
        let now = Instant::from_millis(1000);
        let allowed: Vec<Option<u64>> = (0..5).map(|_| limit.allow(now)).collect();
        assert_eq!(allowed, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(limit.allow(now + Duration::from_millis(100)), Some(2));
        assert_eq!(limit.allow(now + Duration::from_millis(100)), None);
    }
}
