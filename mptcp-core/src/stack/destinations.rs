//! What a client learnt about destinations: which version of MPTCP they answer to, or that its SYNs
//! get lost with the option on them. Per destination and address of ours, never a verdict about
//! everybody: what a portal on one access network answers says nothing about the way through
//! another (RFC 8684 §3.1, §3.9.3; RFC 8041 §3.10).

use crate::time::{Duration, Instant};
use crate::wire::Version;
use alloc::collections::BTreeMap;
use core::net::{IpAddr, SocketAddr};

/// Destinations remembered; the one whose time is over first makes room.
const MAX_DESTINATIONS: usize = 1_024;
/// How long a first lesson is believed; a repeated one twice as long, and so on.
const FIRST_TERM: Duration = Duration::from_secs(600);
/// Doublings of the first term at most: about ten hours.
const MAX_DOUBLINGS: u8 = 6;
/// How long a version 0 that worked is preferred before version 1 is tried again.
const SUCCESS_TERM: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lesson {
    /// Version 1 was not understood.
    TryVersion0,
    /// SYNs with the option get no answer.
    Plain,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    lesson: Lesson,
    until: Instant,
    failures: u8,
}

/// From one of our addresses to a destination.
pub(super) type Way = (IpAddr, SocketAddr);

/// The lessons.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    entries: BTreeMap<Way, Entry>,
}

impl Destinations {
    /// The version to offer on `way`; `None` for plain TCP.
    pub(super) fn offer(&self, now: Instant, way: Way, served: &[Version]) -> Option<Version> {
        let newest = served.iter().copied().max_by_key(|version| *version as u8);
        let lesson = self.entries.get(&way).filter(|entry| now < entry.until);
        match lesson.map(|entry| entry.lesson) {
            None => newest,
            Some(Lesson::TryVersion0) if served.contains(&Version::V0) => Some(Version::V0),
            Some(Lesson::TryVersion0) => newest,
            Some(Lesson::Plain) => None,
        }
    }

    /// An offer of `version` ended in plain TCP; `silent` when no SYN with the option was answered.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        way: Way,
        version: Version,
        silent: bool,
        served: &[Version],
    ) {
        let older = version == Version::V1 && served.contains(&Version::V0);
        let lesson = match (silent, older) {
            (_, true) => Lesson::TryVersion0,
            (true, false) => Lesson::Plain,
            // To ask again costs nothing.
            (false, false) => {
                self.entries.remove(&way);
                return;
            }
        };
        let known = self.entries.get(&way).map_or(0, |entry| entry.failures);
        let term = FIRST_TERM * (1 << u32::from(known.min(MAX_DOUBLINGS)));
        self.learn(way, Entry { lesson, until: now + term, failures: known.saturating_add(1) });
    }

    /// `version` works on `way`.
    pub(super) fn worked(&mut self, now: Instant, way: Way, version: Version) {
        match version {
            Version::V1 => {
                self.entries.remove(&way);
            }
            Version::V0 => {
                let until = now + SUCCESS_TERM;
                self.learn(way, Entry { lesson: Lesson::TryVersion0, until, failures: 0 });
            }
        }
    }

    fn learn(&mut self, way: Way, entry: Entry) {
        if self.entries.len() >= MAX_DESTINATIONS && !self.entries.contains_key(&way) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(first) = first.map(|(addr, _)| *addr) {
                self.entries.remove(&first);
            }
        }
        self.entries.insert(way, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V0, V1};

    const BOTH: [Version; 2] = [V0, V1];

    fn host(n: u32) -> Way {
        (IpAddr::from([10, 0, 0, 1]), SocketAddr::from((n.to_be_bytes(), 80)))
    }

    #[test]
    fn what_one_access_taught_is_not_held_against_another() {
        let mut known = Destinations::default();
        let now = Instant::from_millis(1);
        known.refused(now, host(1), V1, true, &[V1]);
        let elsewhere = (IpAddr::from([10, 0, 0, 2]), host(1).1);
        assert_eq!(known.offer(now, host(1), &[V1]), None);
        assert_eq!(known.offer(now, elsewhere, &[V1]), Some(V1));
    }

    #[test]
    fn version_1_first_then_version_0_then_what_worked() {
        let mut known = Destinations::default();
        let now = Instant::from_millis(1);
        assert_eq!(known.offer(now, host(1), &BOTH), Some(V1));
        assert_eq!(known.offer(now, host(1), &[V0]), Some(V0));
        assert_eq!(known.offer(now, host(1), &[]), None);
        known.refused(now, host(1), V1, false, &BOTH);
        assert_eq!(known.offer(now, host(1), &BOTH), Some(V0));
        assert_eq!(known.offer(now, host(2), &BOTH), Some(V1));
        known.worked(now, host(1), V0);
        assert_eq!(known.offer(now + FIRST_TERM * 2, host(1), &BOTH), Some(V0));
        assert_eq!(known.offer(now + SUCCESS_TERM, host(1), &BOTH), Some(V1));
        known.worked(now, host(1), V1);
        assert_eq!(known.offer(now, host(1), &BOTH), Some(V1));
    }

    #[test]
    fn a_peer_without_mptcp_is_asked_again_and_a_silent_one_is_left_alone_for_a_while() {
        let mut known = Destinations::default();
        let now = Instant::from_millis(1);
        known.refused(now, host(1), V1, false, &[V1]);
        assert_eq!(known.offer(now, host(1), &[V1]), Some(V1));
        known.refused(now, host(1), V1, true, &[V1]);
        assert_eq!(known.offer(now, host(1), &[V1]), None);
        assert_eq!(known.offer(now, host(2), &[V1]), Some(V1));
        let later = now + FIRST_TERM;
        assert_eq!(known.offer(later, host(1), &[V1]), Some(V1));
        known.refused(later, host(1), V1, true, &[V1]);
        assert_eq!(known.offer(later + FIRST_TERM, host(1), &[V1]), None);
        assert_eq!(known.offer(later + FIRST_TERM * 2, host(1), &[V1]), Some(V1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Destinations::default();
        for n in 0..3_000 {
            known.refused(Instant::from_millis(u64::from(n) + 1), host(n), V1, true, &[V1]);
        }
        assert_eq!(known.entries.len(), MAX_DESTINATIONS);
        assert_eq!(known.offer(Instant::from_millis(3_001), host(2_999), &[V1]), None);
    }
}
