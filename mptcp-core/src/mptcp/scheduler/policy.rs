//! Order, weights and rate caps of the paths of one connection, and the cap of the whole; all of it
//! can be changed while the connection runs.

use crate::buf::PortId;
use crate::cap::Lease;
use crate::config::{PathPolicy, Scheduling};
use crate::tcp::congestion::CongestionChoice;
use crate::time::{Duration, Instant};
use crate::util::bucket::TokenBucket;
use alloc::vec::Vec;

/// Idle time that a cap credits at most, unless that is less than two segments.
const CREDIT: Duration = Duration::from_millis(10);
const CREDIT_OCTETS_MIN: u64 = 3_000;

fn credit(rate: u64) -> Duration {
    CREDIT.max(Duration::from_nanos(CREDIT_OCTETS_MIN * 1_000_000_000 / rate.max(1)))
}

/// What an operator asks of one connection, with the state of its caps.
#[derive(Clone, Default, Debug)]
pub(crate) struct Policy {
    whole: Option<TokenBucket>,
    paths: Vec<(PathPolicy, Option<TokenBucket>)>,
    /// Its places in the lines of caps that it shares with others, by port.
    shared: Vec<(PortId, Lease)>,
    /// Congestion control of the subflows where it is not the stack's.
    pub(crate) congestion: Option<CongestionChoice>,
}

impl Policy {
    pub(crate) fn new(asked: &Scheduling, now: Instant) -> Self {
        let bucket =
            |rate: Option<u64>| rate.map(|rate| TokenBucket::empty(rate, credit(rate), now));
        Self {
            whole: bucket(asked.rate),
            paths: asked.paths.iter().map(|path| (*path, bucket(path.rate))).collect(),
            shared: asked.caps.iter().map(|(port, cap)| (*port, Lease::new(cap.clone()))).collect(),
            congestion: None,
        }
    }

    /// Nothing is asked for beyond a scheduler.
    pub(crate) fn is_empty(&self) -> bool {
        let uncapped = self.whole.is_none() && self.shared.is_empty();
        uncapped && self.paths.is_empty() && self.congestion.is_none()
    }

    /// Takes over what `former` still owes, so that changing a policy is no way around a cap.
    #[must_use]
    pub(crate) fn succeeding(mut self, former: Self, now: Instant) -> Self {
        self.congestion = former.congestion;
        inherit(&mut self.whole, former.whole.as_ref(), now);
        for (path, bucket) in &mut self.paths {
            let old = former.paths.iter().find(|(other, _)| other.port == path.port);
            inherit(bucket, old.and_then(|(_, bucket)| bucket.as_ref()), now);
        }
        for (port, lease) in &mut self.shared {
            let same = |(other, old): &&(PortId, Lease)| other == port && old.is_of(lease.cap());
            if let Some((_, old)) = former.shared.iter().find(same) {
                // It keeps its place.
                lease.clone_from(old);
            }
        }
        self
    }

    /// What is asked of the paths over `port`.
    pub(crate) fn of(&self, port: PortId) -> PathPolicy {
        let own = self.paths.iter().find(|(path, _)| path.port == port);
        own.map_or(PathPolicy::new(port), |(path, _)| *path)
    }

    /// When the cap of `port` lets the next segment go.
    pub(crate) fn next_on(&self, port: PortId) -> Instant {
        let path = self.paths.iter().find(|(path, _)| path.port == port);
        let bucket = path.and_then(|(_, bucket)| bucket.as_ref());
        bucket.map_or(Instant::MIN, TokenBucket::next)
    }

    /// When its places in the lines of the caps of `port` are due, as far as it has some.
    pub(crate) fn waits_on(&self, port: PortId) -> Instant {
        let places = self.shared.iter().filter(|(other, _)| *other == port);
        places.map(|(_, lease)| lease.waits_until()).max().unwrap_or(Instant::MIN)
    }

    /// When a cap, shared or not, lets data go over `port`, as far as is known.
    pub(crate) fn capped_until(&self, port: PortId) -> Instant {
        self.next_on(port).max(self.waits_on(port))
    }

    /// Octets per second at most that the caps let go over `port`, as far as is known.
    pub(crate) fn rate_on(&self, port: PortId) -> u64 {
        let path = self.paths.iter().find(|(path, _)| path.port == port);
        let own = path.and_then(|(_, bucket)| bucket.as_ref());
        let own = own.into_iter().chain(&self.whole).map(TokenBucket::rate);
        let places = self.shared.iter().filter(|(other, _)| *other == port);
        own.chain(places.map(|(_, lease)| lease.share())).min().unwrap_or(u64::MAX)
    }

    /// When the `first` of `wanted` octets that are ready to go over `port` may do so, as far as the caps are
    /// concerned that it shares; takes places in their lines where it has none.
    pub(crate) fn admit(
        &mut self,
        port: PortId,
        (first, wanted): (u32, u64),
        now: Instant,
    ) -> Instant {
        let mut due = Instant::MIN;
        for (_, lease) in self.shared.iter_mut().filter(|(other, _)| *other == port) {
            due = due.max(lease.ask(now, u64::from(first), |turn| wanted.min(turn)));
        }
        if due > now {
            let places = self.shared.iter_mut().filter(|(other, _)| *other == port);
            places.for_each(|(_, lease)| lease.keep_until(due));
        }
        due
    }

    /// There is nothing to send: what it has of places in lines goes to others.
    pub(crate) fn give_back(&mut self, now: Instant) {
        self.shared.iter_mut().for_each(|(_, lease)| lease.give_back(now));
    }

    /// When the cap of the whole lets the next new data go: what goes again has paid already.
    pub(crate) fn next_new(&self) -> Instant {
        self.whole.as_ref().map_or(Instant::MIN, TokenBucket::next)
    }

    /// `octets` of stream data were sent over `port`; `again` when they had been sent before.
    pub(crate) fn charge(&mut self, port: PortId, octets: u64, again: bool, now: Instant) {
        for (_, lease) in self.shared.iter_mut().filter(|(other, _)| *other == port) {
            lease.spend(now, octets);
        }
        let path = self.paths.iter_mut().find(|(path, _)| path.port == port);
        let path = path.and_then(|(_, bucket)| bucket.as_mut());
        let whole = self.whole.as_mut().filter(|_| !again);
        for bucket in whole.into_iter().chain(path) {
            bucket.charge(octets, now);
        }
    }
}

fn inherit(bucket: &mut Option<TokenBucket>, former: Option<&TokenBucket>, now: Instant) {
    if let (Some(bucket), Some(former)) = (bucket, former) {
        let rate = bucket.rate();
        *bucket = former.with_rate(rate, credit(rate), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::SharedCap;

    #[test]
    fn the_strictest_cap_says_what_a_path_carries() {
        let path = |port, rate| PathPolicy { rate: Some(rate), ..PathPolicy::new(PortId(port)) };
        let asked = Scheduling {
            rate: Some(900),
            paths: alloc::vec![path(0, 800), path(1, 1_000)],
            caps: alloc::vec![(PortId(0), SharedCap::new(700)), (PortId(2), SharedCap::new(950))],
            ..Scheduling::default()
        };
        let rates = |policy: &Policy| [0, 1, 2, 3].map(|port| policy.rate_on(PortId(port)));
        assert_eq!(rates(&Policy::new(&asked, Instant::MIN)), [700, 900, 900, 900]);
        let asked = Scheduling { rate: None, ..asked };
        assert_eq!(rates(&Policy::new(&asked, Instant::MIN)), [700, 1_000, 950, u64::MAX]);
    }
}
