//! Names that IPv4 reached when IPv6 had begun: the next connection begins with IPv4 (RFC 8305 §4: what a client
//! remembers goes before RFC 6724's rule 9).
//!
//! The family is remembered and not the address: a name's addresses share its load, and all clients of a shard would
//! go to one. IPv6 may win again: it is still tried a quarter of a second later, and begins again once the
//! time is over, which a connection that began with IPv4 does not prolong. The way to an address is the
//! configuration's and does not change, so nothing is used for another network than it was learnt on.
//!
//! Invariant: at most [`MOST`] names, each for [`KEPT`].

use crate::config::HostName;
use crate::dns::Family;
use core::time::Duration;
use mptcp_core::time::Instant;
use std::collections::{HashMap, VecDeque};

/// As RFC 6555 §4.2 recommends; RFC 8305 names no time.
const KEPT: Duration = Duration::from_secs(600);
const MOST: usize = 4_096;

/// A name, and the port: a service need not be at both addresses.
type Key = (HostName, u16);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Families {
    v4: HashMap<Key, Instant>,
    /// In the order in which they end; those that IPv6 has won since are not in `v4`, or with another end.
    ends: VecDeque<(Key, Instant)>,
}

impl Families {
    /// What to begin with.
    pub(super) fn first(&self, now: Instant, name: &HostName, port: u16) -> Family {
        // Few names are here, and most of the time none.
        let until = match self.v4.is_empty() {
            true => None,
            false => self.v4.get(&(name.clone(), port)),
        };
        if until.is_some_and(|until| now < *until) { Family::V4 } else { Family::V6 }
    }

    /// `winner` was reached, after the attempts had begun with `first`.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        name: HostName,
        port: u16,
        (first, winner): (Family, Family),
    ) {
        let key = (name, port);
        match (first, winner) {
            (Family::V6, Family::V4) => {
                let until = now + KEPT;
                self.ends.push_back((key.clone(), until));
                self.v4.insert(key, until);
            }
            (_, Family::V6) => _ = self.v4.remove(&key),
            (Family::V4, Family::V4) => {}
        }
        while let Some((key, until)) = self.ends.front()
            && (*until <= now || self.ends.len() > MOST)
        {
            if self.v4.get(key) == Some(until) {
                self.v4.remove(key);
            }
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> HostName {
        HostName::new(format!("n{n}.example").as_bytes()).unwrap()
    }

    const WON: (Family, Family) = (Family::V6, Family::V4);

    #[test]
    fn the_oldest_makes_room_and_time_ends_all() {
        let mut families = Families::default();
        let now = Instant::from_millis(1_000);
        for n in 0..MOST + 10 {
            families.learn(now, name(n), 80, WON);
        }
        assert_eq!((families.v4.len(), families.ends.len()), (MOST, MOST));
        assert_eq!(families.first(now, &name(9), 80), Family::V6);
        assert_eq!(families.first(now, &name(10), 80), Family::V4);
        assert_eq!(families.first(now, &name(10), 443), Family::V6);
        let late = now + KEPT;
        assert_eq!(families.first(late, &name(10), 80), Family::V6);
        families.learn(late, name(0), 80, (Family::V6, Family::V6));
        assert_eq!((families.v4.len(), families.ends.len()), (0, 0));
    }

    /// The end of what was forgotten is not the end of what was learnt anew.
    #[test]
    fn who_wins_and_loses_by_turns_is_remembered_as_of_the_last_time() {
        let mut families = Families::default();
        let begin = Instant::from_millis(1_000);
        for minute in 0..9 {
            let now = begin + Duration::from_secs(60 * minute);
            families.learn(now, name(0), 80, WON);
            assert_eq!(families.first(now, &name(0), 80), Family::V4);
            families.learn(now, name(0), 80, (Family::V4, Family::V6));
            assert_eq!(families.first(now, &name(0), 80), Family::V6);
        }
        families.learn(begin + Duration::from_secs(540), name(0), 80, WON);
        families.learn(begin + KEPT, name(1), 80, WON);
        assert_eq!(families.first(begin + KEPT, &name(0), 80), Family::V4);
    }
}
