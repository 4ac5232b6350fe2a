//! Order, weights and rate caps of the paths of one connection, and the cap of the whole; all of it
//! can be changed while the connection runs.

use super::TokenBucket;
use crate::buf::PortId;
use crate::config::{PathPolicy, Scheduling};
use crate::time::Instant;
use alloc::vec::Vec;

/// What an operator asks of one connection, with the state of its caps.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    whole: Option<TokenBucket>,
    paths: Vec<(PathPolicy, Option<TokenBucket>)>,
}

impl Policy {
    /// `None` when `asked` asks for nothing beyond a scheduler.
    pub(crate) fn new(asked: &Scheduling, now: Instant) -> Option<Self> {
        if asked.rate.is_none() && asked.paths.is_empty() {
            return None;
        }
        let bucket = |rate: Option<u64>| rate.map(|rate| TokenBucket::new(rate, now));
        Some(Self {
            whole: bucket(asked.rate),
            paths: asked.paths.iter().map(|path| (*path, bucket(path.rate))).collect(),
        })
    }

    /// Takes over what `former` still owes, so that changing a policy is no way around a cap.
    #[must_use]
    pub(crate) fn succeeding(mut self, former: &Self, now: Instant) -> Self {
        inherit(&mut self.whole, former.whole.as_ref(), now);
        for (path, bucket) in &mut self.paths {
            let old = former.paths.iter().find(|(other, _)| other.port == path.port);
            inherit(bucket, old.and_then(|(_, bucket)| bucket.as_ref()), now);
        }
        self
    }

    /// What is asked of the paths over `port`.
    pub(crate) fn of(&self, port: PortId) -> PathPolicy {
        let own = self.paths.iter().find(|(path, _)| path.port == port);
        own.map_or(PathPolicy::new(port), |(path, _)| *path)
    }

    /// When a cap lets the next segment go over `port`.
    pub(crate) fn next(&self, port: PortId) -> Instant {
        let path = self.paths.iter().find(|(path, _)| path.port == port);
        let path = path.and_then(|(_, bucket)| bucket.as_ref());
        let caps = self.whole.iter().chain(path);
        caps.map(TokenBucket::next).max().unwrap_or(Instant::MIN)
    }

    /// `octets` of stream data were sent over `port`.
    pub(crate) fn charge(&mut self, port: PortId, octets: u64, now: Instant) {
        let path = self.paths.iter_mut().find(|(path, _)| path.port == port);
        let path = path.and_then(|(_, bucket)| bucket.as_mut());
        for bucket in self.whole.iter_mut().chain(path) {
            bucket.charge(octets, now);
        }
    }
}

fn inherit(bucket: &mut Option<TokenBucket>, former: Option<&TokenBucket>, now: Instant) {
    if let (Some(bucket), Some(former)) = (bucket, former) {
        let rate = bucket.rate();
        *bucket = *former;
        bucket.set_rate(rate, now);
    }
}
