//! How often one source may have credentials checked that turn out wrong.
//!
//! Invariant: fixed memory. Each source prefix (an IPv4 address, an IPv6 /64) hashes to one slot; a
//! newcomer takes the slot over, so sources can dodge a limit only by being thousands, and can never
//! use up somebody else's attempts. All shards share one, without a lock: a slot is one word.

use core::hash::Hasher;
use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use mptcp_core::time::Instant;
use siphasher::sip::SipHasher13;

/// Failures a source may have in one go.
const BURST: u32 = 10;
/// Afterwards one more per this long.
const REFILL: Duration = Duration::from_secs(6);

const SLOTS: usize = 4096;

/// Times are kept in tenths of a second: 32 bits of them are 13 years.
const GRAIN: Duration = Duration::from_millis(100);

/// One source's attempts: the bucket is full again at `full_at`.
#[derive(Clone, Copy)]
struct Slot {
    /// 32 bits of the source's hash: who shares them and the slot shares the bucket.
    source: u32,
    full_at: u32,
}

impl Slot {
    fn unpack(word: u64) -> Self {
        let [source, full_at] = [word >> 32, word & u64::from(u32::MAX)].map(|half| half as u32);
        Self { source, full_at }
    }

    fn pack(self) -> u64 {
        u64::from(self.source) << 32 | u64::from(self.full_at)
    }
}

/// A bucket per source.
pub(crate) struct Limiter {
    key: [u8; 16],
    burst: u32,
    /// Tenths of a second.
    refill: u32,
    slots: Vec<AtomicU64>,
}

impl core::fmt::Debug for Limiter {
    /// Without the key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl Limiter {
    /// Every bucket full; `key` must be secret.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self::with_rate(key, BURST, REFILL)
    }

    /// The same for something else: `burst` in one go, then one per `refill`, in tenths of a second.
    pub(crate) fn with_rate(key: [u8; 16], burst: u32, refill: Duration) -> Self {
        let refill = u32::try_from(refill.as_millis() / GRAIN.as_millis()).unwrap_or(u32::MAX);
        Self { key, burst, refill, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Takes one attempt of `source`; `false` when it has none left.
    pub(crate) fn take(&self, now: Instant, source: IpAddr) -> bool {
        let now = u32::try_from(u128::from(now.as_nanos()) / GRAIN.as_nanos()).unwrap_or(u32::MAX);
        self.update(source, |slot, source| {
            let full_at = if slot.source == source { slot.full_at.max(now) } else { now };
            let full_at = full_at.saturating_add(self.refill);
            let within = full_at - now <= self.refill.saturating_mul(self.burst);
            within.then_some(Slot { source, full_at })
        })
    }

    /// Gives an attempt back: it turned out right, or was not made.
    pub(super) fn refund(&self, source: IpAddr) {
        self.update(source, |slot, source| {
            let full_at = slot.full_at.saturating_sub(self.refill);
            (slot.source == source).then_some(Slot { source, full_at })
        });
    }

    /// Replaces the slot of `source` by what `next` makes of it; false when it makes nothing.
    fn update(&self, source: IpAddr, next: impl Fn(Slot, u32) -> Option<Slot>) -> bool {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u128(source_prefix(source));
        let hash = hasher.finish();
        let idx = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.slots.get(idx) else { return true };
        let next = |word| next(Slot::unpack(word), (hash >> 32) as u32).map(Slot::pack);
        slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
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
        let limiter = Limiter::new([7; 16]);
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
    fn shards_that_ask_at_once_do_not_get_more() {
        let limiter = Limiter::new([7; 16]);
        let now = Instant::from_millis(1_000_000);
        let takes = || (0..1000).filter(|_| limiter.take(now, source("192.0.2.1"))).count();
        let taken: usize = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(takes)).collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert_eq!(taken, 10);
    }

    #[test]
    fn right_credentials_cost_nothing() {
        let limiter = Limiter::new([7; 16]);
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
