//! Answers that still hold: positive ones, negative ones (RFC 2308) and failures (RFC 9520).
//!
//! Where there is no room what is over makes some, or else what was put in first: who serves a zone says how long
//! its names hold, and must not keep those of others out for as long.
//!
//! Invariant: at most `capacity` entries; nothing is given out after its time.

use super::{Answer, Family};
use crate::config::HostName;
use core::time::Duration;
use mptcp_core::time::Instant;
use std::collections::{BTreeMap, HashMap};

/// How long a first failure is remembered; each in a row doubles it (RFC 9520 §3.2).
const FIRST_FAILURE: Duration = Duration::from_secs(5);
/// And for no longer than this.
const MAX_FAILURE: Duration = Duration::from_secs(300);

/// What is asked for.
pub(super) type Key = (HostName, Family);

#[derive(Debug)]
struct Entry {
    answer: Answer,
    expires: Instant,
    /// Counts what was put in.
    number: u64,
    /// Failures in a row.
    failures: u8,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    by_expiry: BTreeMap<(Instant, u64), Key>,
    /// When each expires, in the order in which they were put in.
    by_age: BTreeMap<u64, Instant>,
    capacity: usize,
    number: u64,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        let entries = HashMap::with_capacity(capacity);
        let (by_expiry, by_age) = (BTreeMap::new(), BTreeMap::new());
        Self { entries, by_expiry, by_age, capacity, number: 0 }
    }

    /// What holds now.
    pub(super) fn get(&self, now: Instant, key: &Key) -> Option<&Answer> {
        self.entries.get(key).filter(|entry| now < entry.expires).map(|entry| &entry.answer)
    }

    /// Keeps an answer for so long.
    pub(super) fn insert(&mut self, now: Instant, key: Key, answer: Answer, ttl: Duration) {
        self.put(now, key, answer, ttl, 0);
    }

    /// Keeps a failure.
    pub(super) fn fail(&mut self, now: Instant, key: Key) {
        let before = self.entries.get(&key).map_or(0, |entry| entry.failures);
        let term = (FIRST_FAILURE * (1 << u32::from(before.min(8)))).min(MAX_FAILURE);
        self.put(now, key, Answer::Failed, term, before.saturating_add(1));
    }

    fn put(&mut self, now: Instant, key: Key, answer: Answer, ttl: Duration, failures: u8) {
        if let Some(place) = self.entries.get(&key).map(|old| (old.expires, old.number)) {
            self.remove(place);
        }
        if ttl.is_zero() || self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity {
            let over = self.by_expiry.keys().next().copied().filter(|(expires, _)| *expires <= now);
            let oldest = || self.by_age.iter().next().map(|(number, expires)| (*expires, *number));
            if let Some(place) = over.or_else(oldest) {
                self.remove(place);
            }
        }
        self.number += 1;
        let entry = Entry { answer, expires: now + ttl, number: self.number, failures };
        self.by_expiry.insert((entry.expires, entry.number), key.clone());
        self.by_age.insert(entry.number, entry.expires);
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, place: (Instant, u64)) {
        self.by_age.remove(&place.1);
        if let Some(key) = self.by_expiry.remove(&place) {
            self.entries.remove(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn key(name: &str) -> Key {
        (HostName::new(name.as_bytes()).unwrap(), Family::V4)
    }

    fn s(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn some() -> Answer {
        Answer::Addresses(vec![IpAddr::from([192, 0, 2, 1])])
    }

    #[test]
    fn answers_hold_for_their_time() {
        let mut cache = Cache::new(4);
        cache.insert(s(1), key("a.example"), some(), Duration::from_secs(10));
        assert_eq!(cache.get(s(10), &key("a.example")), Some(&some()));
        assert_eq!(cache.get(s(11), &key("a.example")), None);
        assert_eq!(cache.get(s(1), &(key("a.example").0, Family::V6)), None);
        cache.insert(s(20), key("a.example"), Answer::NoName, Duration::ZERO);
        assert_eq!(cache.len(), 0, "what must not be kept replaces what was");
    }

    #[test]
    fn what_is_over_makes_room_and_then_what_was_put_in_first() {
        let mut cache = Cache::new(2);
        let sizes = |cache: &Cache| [cache.len(), cache.by_expiry.len(), cache.by_age.len()];
        for (name, ttl) in [("a.example", 50), ("b.example", 10), ("c.example", 30)] {
            cache.insert(s(1), key(name), some(), Duration::from_secs(ttl));
        }
        assert_eq!(sizes(&cache), [2; 3]);
        assert!(cache.get(s(2), &key("a.example")).is_none());
        assert!(cache.get(s(2), &key("b.example")).is_some());
        cache.insert(s(2), key("b.example"), some(), Duration::from_secs(1));
        assert_eq!(sizes(&cache), [2; 3]);
        cache.insert(s(3), key("d.example"), some(), Duration::from_secs(1));
        assert!(cache.get(s(3), &key("c.example")).is_some(), "the other one was over");
        assert_eq!(sizes(&cache), [2; 3]);
    }

    /// Somebody has as many names as there is room for, all of them for a day.
    #[test]
    fn names_that_hold_for_long_keep_no_others_out() {
        let mut cache = Cache::new(16);
        for n in 0..100 {
            let name = format!("n{n}.hostile.example");
            cache.insert(s(1), key(&name), some(), Duration::from_secs(86_400));
        }
        let names = ["a.example", "b.example", "c.example"];
        for name in names {
            cache.insert(s(2), key(name), some(), Duration::from_secs(60));
        }
        assert!(names.iter().all(|name| cache.get(s(3), &key(name)).is_some()));
    }

    #[test]
    fn failures_in_a_row_are_kept_longer_each_time() {
        let mut cache = Cache::new(2);
        let mut now = 1;
        let mut terms = Vec::new();
        for _ in 0..8 {
            cache.fail(s(now), key("a.example"));
            let until = (now..).find(|&at| cache.get(s(at), &key("a.example")).is_none());
            terms.push(until.unwrap() - now);
            now = until.unwrap();
        }
        assert_eq!(terms, [5, 10, 20, 40, 80, 160, 300, 300]);
        cache.insert(s(now), key("a.example"), some(), Duration::from_secs(1));
        cache.fail(s(now + 1), key("a.example"));
        assert!(cache.get(s(now + 6), &key("a.example")).is_none(), "an answer forgives");
    }
}
