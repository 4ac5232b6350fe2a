//! How many requests of one client wait for their destinations.
//!
//! Invariant: a request counts for its client from the start of its exit until its SYN is answered or
//! it is gone.

use super::Gateway;
use super::session::{Phase, Session};
use crate::auth::source_prefix;
use crate::front_end::FrontEnd;
use core::net::IpAddr;
use std::collections::HashMap;

/// Counts by client: an IPv4 address, or an IPv6 /64.
pub(super) struct Pending {
    most: u32,
    /// As many entries as there are sessions at most; the keys go through a keyed hash.
    of: HashMap<u128, u32>,
}

impl Pending {
    /// `most` for each.
    pub(super) fn new(most: u32) -> Self {
        Self { most, of: HashMap::new() }
    }

    /// One more request of `source` waits; false when it has too many.
    pub(super) fn enter(&mut self, source: IpAddr) -> bool {
        let count = self.of.entry(source_prefix(source)).or_default();
        let allowed = *count < self.most;
        *count += u32::from(allowed);
        allowed
    }

    pub(super) fn leave(&mut self, source: IpAddr) {
        let prefix = source_prefix(source);
        if let Some(count) = self.of.get_mut(&prefix) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of.remove(&prefix);
            }
        }
    }

    /// Clients with requests that wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.of.len()
    }
}

impl Gateway {
    /// Those of clients of `front_end`.
    pub(super) fn pending(&mut self, front_end: FrontEnd) -> &mut Pending {
        match front_end {
            FrontEnd::Transparent => &mut self.passing,
            FrontEnd::Convert | FrontEnd::Socks5 | FrontEnd::Http => &mut self.converter.pending,
        }
    }

    /// The request of a session, which is in the slab or was until now, waits no longer.
    pub(super) fn settle(&mut self, front_end: FrontEnd, source: Option<IpAddr>) {
        if let Some(source) = source {
            self.pending(front_end).leave(source);
        }
    }
}

impl Session {
    /// For whom its request counts; it does not any more.
    pub(super) fn take_pending(&mut self) -> Option<IpAddr> {
        match &mut self.phase {
            Phase::Connecting(attempts) => attempts.pending_for.take(),
            _ => None,
        }
    }
}
