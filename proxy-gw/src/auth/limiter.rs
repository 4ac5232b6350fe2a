//! How often one source may have credentials checked that turn out wrong.
//!
//! Invariant: fixed memory. Each source prefix (an IPv4 address, an IPv6 /64) hashes to one slot; a
//! newcomer takes the slot over, so sources can dodge a limit only by being thousands, and can never
//! use up somebody else's attempts.

use core::hash::Hasher;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use mptcp_core::time::Instant;
use siphasher::sip::SipHasher13;

/// Failures a source may have in one go.
const BURST: u32 = 10;
/// Afterwards one more per this long.
const REFILL: Duration = Duration::from_secs(6);

const SLOTS: usize = 4096;

/// One source's attempts: the bucket is full again at `full_at`.
#[derive(Clone, Copy)]
struct Slot {
    source: u128,
    full_at: Instant,
}

/// A bucket per source.
pub(crate) struct Limiter {
    key: [u8; 16],
    burst: u32,
    refill: Duration,
    slots: Vec<Slot>,
}

impl Limiter {
    /// Every bucket full; `key` must be secret.
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self::with_rate(key, BURST, REFILL)
    }

    /// The same for something else: `burst` in one go, then one per `refill`.
    pub(crate) fn with_rate(key: [u8; 16], burst: u32, refill: Duration) -> Self {
        let slots = vec![Slot { source: 0, full_at: Instant::MIN }; SLOTS];
        Self { key, burst, refill, slots }
    }

    /// Takes one attempt of `source`; `false` when it has none left.
    pub(crate) fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let (burst, refill) = (self.burst, self.refill);
        let (prefix, Some(slot)) = self.slot(source) else { return true };
        if slot.source != prefix {
            *slot = Slot { source: prefix, full_at: now };
        }
        let full_at = slot.full_at.max(now) + refill;
        if full_at.since(now) > refill * burst {
            return false;
        }
        slot.full_at = full_at;
        true
    }

    /// Gives an attempt back: it turned out right, or was not made.
    pub(super) fn refund(&mut self, source: IpAddr) {
        let refill = self.refill;
        let (prefix, slot) = self.slot(source);
        if let Some(slot) = slot
            && slot.source == prefix
        {
            slot.full_at = slot.full_at - refill;
        }
    }

    fn slot(&mut self, source: IpAddr) -> (u128, Option<&mut Slot>) {
        let prefix = source_prefix(source);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u128(prefix);
        let idx = usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or(0);
        (prefix, self.slots.get_mut(idx))
    }
}

/// IPv4 addresses are told from IPv6 prefixes by their mapped form.
pub(crate) fn source_prefix(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(_) => u128::from(v6),
            None => u128::from(v6) & !u128::from(Ipv6Addr::new(0, 0, 0, 0, !0, !0, !0, !0)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_ten_failures_and_then_one_per_six_seconds() {
        let mut limiter = Limiter::new([7; 16]);
        let now = Instant::from_millis(1_000_000);
        let attacker = source("192.0.2.1");
        let taken = (0..100).filter(|_| limiter.take(now, attacker)).count();
        assert_eq!(taken, 10);
        assert!(limiter.take(now, source("192.0.2.2")), "others are not affected");
        let later = now + Duration::from_secs(12);
        let taken = (0..100).filter(|_| limiter.take(later, attacker)).count();
        assert_eq!(taken, 2);
        limiter.refund(attacker);
        assert!(limiter.take(later, attacker));
        assert!(!limiter.take(later, attacker));
    }

    #[test]
    fn right_credentials_cost_nothing() {
        let mut limiter = Limiter::new([7; 16]);
        let now = Instant::from_millis(1_000_000);
        for _ in 0..1000 {
            assert!(limiter.take(now, source("192.0.2.1")));
            limiter.refund(source("192.0.2.1"));
        }
    }

    #[test]
    fn an_ipv6_source_is_its_64_bits() {
        assert_eq!(
            source_prefix(source("2001:db8::1")),
            source_prefix(source("2001:db8::ffff:1:2:3"))
        );
        assert_ne!(source_prefix(source("2001:db8::1")), source_prefix(source("2001:db8:0:1::1")));
        assert_eq!(source_prefix(source("192.0.2.1")), source_prefix(source("::ffff:192.0.2.1")));
        assert_ne!(source_prefix(source("192.0.2.1")), source_prefix(source("192.0.2.2")));
    }
}
