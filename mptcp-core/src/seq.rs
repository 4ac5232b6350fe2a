//! Sequence numbers: TCP's modulo 2^32 (RFC 9293 §3.4) and MPTCP's data sequence numbers modulo
//! 2^64 (RFC 8684 §3.3). The only place where sequence arithmetic is written out.

/// A TCP sequence number. No `Ord`: modulo 2^32 is not a total order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// `self + n`, modulo 2^32.
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// `self - n`, modulo 2^32.
    #[must_use]
    pub const fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// Octets from `earlier` to `self`; meaningful when `earlier` is not after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Signed distance from `other` to `self`.
    #[must_use]
    pub const fn diff(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// True when `self` comes before `other`.
    #[must_use]
    pub const fn lt(self, other: Self) -> bool {
        self.diff(other) < 0
    }

    /// True when `self` comes before `other` or equals it.
    #[must_use]
    pub const fn le(self, other: Self) -> bool {
        self.diff(other) <= 0
    }

    /// True when `self` comes after `other`.
    #[must_use]
    pub const fn gt(self, other: Self) -> bool {
        self.diff(other) > 0
    }

    /// True when `self` comes after `other` or equals it.
    #[must_use]
    pub const fn ge(self, other: Self) -> bool {
        self.diff(other) >= 0
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.gt(other) { self } else { other }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if self.lt(other) { self } else { other }
    }
}

impl core::fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An MPTCP data sequence number, always at its full 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DataSeq(pub u64);

impl DataSeq {
    /// `self + n`, modulo 2^64.
    #[must_use]
    pub const fn add(self, n: u64) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// `self - n`, modulo 2^64.
    #[must_use]
    pub const fn sub(self, n: u64) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// Octets from `earlier` to `self`; meaningful when `earlier` is not after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Signed distance from `other` to `self`.
    #[must_use]
    pub const fn diff(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// True when `self` comes before `other`.
    #[must_use]
    pub const fn lt(self, other: Self) -> bool {
        self.diff(other) < 0
    }

    /// True when `self` comes before `other` or equals it.
    #[must_use]
    pub const fn le(self, other: Self) -> bool {
        self.diff(other) <= 0
    }

    /// True when `self` comes after `other`.
    #[must_use]
    pub const fn gt(self, other: Self) -> bool {
        self.diff(other) > 0
    }

    /// True when `self` comes after `other` or equals it.
    #[must_use]
    pub const fn ge(self, other: Self) -> bool {
        self.diff(other) >= 0
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.gt(other) { self } else { other }
    }

    /// The full number nearest to `self` whose low 32 bits are `low` (RFC 8684 §3.3.1: the upper
    /// half is kept per connection and wraps are inferred).
    #[must_use]
    pub const fn expand(self, low: u32) -> Self {
        let distance = low.wrapping_sub(self.0 as u32).cast_signed();
        Self(self.0.wrapping_add_signed(distance as i64))
    }
}

impl core::fmt::Debug for DataSeq {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_hold_across_the_wrap() {
        let before = SeqNum(u32::MAX - 5);
        let after = before.add(10);
        assert!(before.lt(after) && after.gt(before) && before.le(before));
        assert_eq!(after.since(before), 10);
        assert_eq!(before.max(after), after);
        assert_eq!(before.min(after), before);
    }

    #[test]
    fn expand_finds_the_nearest_full_number() {
        let near = DataSeq(0x1_0000_0010);
        assert_eq!(near.expand(0x20), DataSeq(0x1_0000_0020));
        assert_eq!(near.expand(0xffff_fff0), DataSeq(0xffff_fff0));
        let below = DataSeq(0xffff_fff0);
        assert_eq!(below.expand(0x10), DataSeq(0x1_0000_0010));
        assert_eq!(DataSeq(u64::MAX).expand(3), DataSeq(3));
    }
}
