//! Ways that take shorter packets than their first link: what routers said about them (RFC 1191, RFC 8201). An
//! application has no say in the length of what others ask it to forward, so longer datagrams go in fragments there
//! (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Nothing proves that a router said it. What a forger reaches is fragments of a bounded size, for a while.
//! Invariant: a bounded number of destinations; nobody makes us cut packets below [`LEAST_V4`] and [`LEAST_V6`].

use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;
use core::net::IpAddr;

/// Destinations remembered; the one whose time is over first makes room.
const MAX_DESTINATIONS: usize = 1_024;
/// How long a router is believed (RFC 8201 §4: a larger MTU may be tried after ten minutes).
const TERM: Duration = Duration::from_secs(600);
/// No way of today is narrower. Routers may cut the fragments of IPv4 once more.
const LEAST_V4: u16 = 552;
/// RFC 8200 §5.
const LEAST_V6: u16 = 1_280;

/// By destination: the longest packet, and until when that is believed.
#[derive(Debug, Default)]
pub(super) struct PathMtus(BTreeMap<IpAddr, (u16, Instant)>);

impl PathMtus {
    /// A router said that packets to `to` fit when they are no longer than `mtu`. It never raises what is known
    /// (RFC 8201 §4).
    pub(super) fn learn(&mut self, now: Instant, to: IpAddr, mtu: u16) {
        let least = if to.is_ipv4() { LEAST_V4 } else { LEAST_V6 };
        if self.0.len() >= MAX_DESTINATIONS && !self.0.contains_key(&to) {
            let first = self.0.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(first) = first.map(|(addr, _)| *addr) {
                self.0.remove(&first);
            }
        }
        let known = self.of(now, to).unwrap_or(u16::MAX);
        self.0.insert(to, (mtu.max(least).min(known), now + TERM));
    }

    /// The longest packet to `to`; `None`: the link's.
    pub(super) fn of(&self, now: Instant, to: IpAddr) -> Option<u16> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&to).filter(|(_, until)| now < *until).map(|(mtu, _)| *mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn what_routers_say_is_bounded_and_ends() {
        let mut mtus = PathMtus::default();
        let begin = Instant::from_millis(1);
        for n in 0..3_000 {
            mtus.learn(begin + Duration::from_millis(u64::from(n)), host(n), 1_400);
        }
        assert_eq!(mtus.0.len(), MAX_DESTINATIONS);
        let now = begin + Duration::from_secs(3);
        assert_eq!((mtus.of(now, host(0)), mtus.of(now, host(2_999))), (None, Some(1_400)));
        assert_eq!(mtus.of(begin + TERM + Duration::from_secs(3), host(2_999)), None);
    }

    #[test]
    fn claims_of_less_than_there_is_are_not_followed() {
        let mut mtus = PathMtus::default();
        let now = Instant::from_millis(1);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        mtus.learn(now, host(1), 0);
        mtus.learn(now, v6, 68);
        assert_eq!((mtus.of(now, host(1)), mtus.of(now, v6)), (Some(552), Some(1_280)));
        mtus.learn(now, host(1), 1_400);
        assert_eq!(mtus.of(now, host(1)), Some(552), "no message raises it");
    }
}
