//! A set of addresses built from prefixes, looked up in logarithmic time.
//!
//! Invariant: the ranges of each family are sorted, and neither overlap nor touch.

use core::net::IpAddr;
use ipnet::IpNet;

/// Inclusive ranges of addresses as numbers.
type Ranges = Vec<(u128, u128)>;

/// Which addresses some prefixes cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Ranges,
    v6: Ranges,
}

impl AddressSet {
    /// Everything the prefixes cover together.
    #[must_use]
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            let range = (number(prefix.network()), number(prefix.broadcast()));
            if prefix.addr().is_ipv4() { set.v4.push(range) } else { set.v6.push(range) }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    /// Whether `address` is covered.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let wanted = number(address);
        let behind = ranges.partition_point(|(first, _)| *first <= wanted);
        let candidate = behind.checked_sub(1).and_then(|idx| ranges.get(idx));
        candidate.is_some_and(|(_, last)| wanted <= *last)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn merge(ranges: &mut Ranges) {
    ranges.sort_unstable();
    let mut merged: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges.drain(..) {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    *ranges = merged;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    /// Prefixes and addresses crowded into a few bits, so that they hit each other.
    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u8>(), 24..=32u8).prop_map(|(low, len)| {
                IpNet::new(IpAddr::V4(Ipv4Addr::new(255, 255, 255, low)), len).unwrap()
            }),
            (any::<u8>(), 120..=128u8).prop_map(|(low, len)| {
                IpNet::new(IpAddr::V6(Ipv6Addr::from(u128::from(low))), len).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_asking_every_prefix(
            prefixes in proptest::collection::vec(prefix(), 0..12),
            low: u8,
        ) {
            let set = AddressSet::new(&prefixes);
            for address in [
                IpAddr::V4(Ipv4Addr::new(255, 255, 255, low)),
                IpAddr::V6(Ipv6Addr::from(u128::from(low))),
            ] {
                let expected = prefixes.iter().any(|prefix| prefix.contains(&address));
                prop_assert_eq!(set.contains(address), expected);
            }
        }
    }

    #[test]
    fn everything_is_one_range() {
        let all: Vec<IpNet> =
            ["0.0.0.0/0", "::/0", "ffff::/16"].map(|net| net.parse().unwrap()).into();
        let set = AddressSet::new(&all);
        assert_eq!((set.v4.len(), set.v6.len()), (1, 1));
        assert!(set.contains("255.255.255.255".parse().unwrap()));
        assert!(set.contains("ffff:ffff::".parse().unwrap()));
    }
}
