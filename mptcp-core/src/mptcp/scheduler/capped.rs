//! A rate cap: octets of stream data per second, held exactly over time. A segment may overdraw, the
//! next one waits until the debt is paid; idle time earns a few milliseconds' worth at most.

use crate::time::{Duration, Instant};

/// Idle time that is credited at most.
const CREDIT: Duration = Duration::from_millis(10);
/// Credit that any rate has: two segments.
const CREDIT_MIN: u64 = 3_000;

const NANOS: u64 = 1_000_000_000;

/// Tokens of one cap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Octets per second, at least 1.
    rate: u64,
    /// When the balance was, or will be, zero.
    paid_until: Instant,
}

impl TokenBucket {
    /// A cap of `rate` octets per second.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self { rate: rate.max(1), paid_until: now }
    }

    /// Another rate from now on; what was overdrawn is still to be paid, at the new rate.
    pub(crate) fn set_rate(&mut self, rate: u64, now: Instant) {
        let debt = self.paid_until.since(now);
        let octets = octets_in(debt, self.rate);
        self.rate = rate.max(1);
        self.paid_until = now + time_for(octets, self.rate);
    }

    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    /// When the next segment may go; not after `now` means at once.
    pub(crate) const fn next(&self) -> Instant {
        self.paid_until
    }

    /// `octets` were sent.
    pub(crate) fn charge(&mut self, octets: u64, now: Instant) {
        let credit = CREDIT.max(time_for(CREDIT_MIN, self.rate));
        self.paid_until = self.paid_until.max(now - credit) + time_for(octets, self.rate);
    }
}

fn time_for(octets: u64, rate: u64) -> Duration {
    let nanos = u128::from(octets) * u128::from(NANOS) / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn octets_in(time: Duration, rate: u64) -> u64 {
    let octets = time.as_nanos() * u128::from(rate) / u128::from(NANOS);
    u64::try_from(octets).unwrap_or(u64::MAX)
}
