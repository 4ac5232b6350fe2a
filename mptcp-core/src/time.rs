//! Monotonic time in nanoseconds, always handed in by the caller. Never zero, so that
//! `Option<Instant>` costs eight bytes.

use core::num::NonZeroU64;
use core::ops::{Add, Sub};
pub use core::time::Duration;

/// A point in monotonic time: nanoseconds since an origin the caller chose, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The earliest representable instant.
    pub const MIN: Self = Self(NonZeroU64::MIN);
    /// The latest representable instant; used as "never".
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// From nanoseconds; 0 is rounded up to 1.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        match NonZeroU64::new(ns) {
            Some(ns) => Self(ns),
            None => Self::MIN,
        }
    }

    /// From milliseconds, saturating.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self::from_nanos(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the caller's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get()
    }

    /// Whole microseconds since the caller's origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0.get() / 1_000
    }

    /// Whole milliseconds since the caller's origin.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0.get() / 1_000_000
    }

    /// So many nanoseconds later, saturating: for what is computed as such, without a [`Duration`].
    #[must_use]
    pub(crate) const fn later_by(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Time elapsed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// Nanoseconds, saturating: without the 128 bits that `as_nanos` answers.
pub(crate) const fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64)
}

/// The earliest of those that there are.
pub(crate) fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    // Of one nanosecond less: what there is not, 0, comes behind all others without a branch.
    let before = |time: Option<Instant>| time.map_or(0, Instant::as_nanos).wrapping_sub(1);
    let least = times.into_iter().map(before).fold(u64::MAX, u64::min);
    NonZeroU64::new(least.wrapping_add(1)).map(Instant)
}

/// `count * by / of`, saturating: a quotient of 128 bits takes a hundred times as long, and nearly always 64 do.
pub(crate) fn proportion(count: u64, by: u64, of: u64) -> u64 {
    let of = of.max(1);
    match count.checked_mul(by) {
        Some(product) => product / of,
        None => {
            let wide = u128::from(count) * u128::from(by) / u128::from(of);
            u64::try_from(wide).unwrap_or(u64::MAX)
        }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::MAX`].
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::MIN`].
    fn sub(self, by: Duration) -> Self {
        Self::from_nanos(self.0.get().saturating_sub(nanos(by)))
    }
}

impl core::fmt::Debug for Instant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let us = self.as_micros();
        write!(f, "{}.{:06}s", us / 1_000_000, us % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proportion_is_exact_and_saturates() {
        assert_eq!(proportion(7, 3, 2), 10);
        assert_eq!(proportion(u64::MAX, 10, 20), u64::MAX / 2);
        assert_eq!(proportion(u64::MAX, 2, 1), u64::MAX);
        assert_eq!(proportion(5, 4, 0), 20);
    }

    #[test]
    fn the_earliest_is_one_that_there_is() {
        let at = |ns| Some(Instant::from_nanos(ns));
        assert_eq!(earliest([None, at(7), None, at(5), at(6)]), at(5));
        assert_eq!(earliest([at(u64::MAX), None]), Some(Instant::MAX));
        assert_eq!(earliest([at(1), at(u64::MAX)]), Some(Instant::MIN));
        assert_eq!((earliest([None, None]), earliest([])), (None, None));
    }

    #[test]
    fn arithmetic_saturates_and_options_are_free() {
        assert_eq!(core::mem::size_of::<Option<Instant>>(), 8);
        assert_eq!(Instant::MAX + Duration::from_secs(1), Instant::MAX);
        assert_eq!(Instant::MIN - Duration::from_secs(1), Instant::MIN);
        assert_eq!(Instant::MIN + Duration::MAX, Instant::MAX);
        assert_eq!(Instant::MAX - Duration::MAX, Instant::MIN);
        let almost = Duration::from_nanos(u64::MAX - 2);
        assert_eq!((Instant::MIN + almost).as_nanos(), u64::MAX - 1);
        let later = Instant::from_millis(5) + Duration::from_micros(7);
        assert_eq!(later.since(Instant::from_millis(5)), Duration::from_micros(7));
        assert_eq!(Instant::from_millis(5).since(later), Duration::ZERO);
    }
}
