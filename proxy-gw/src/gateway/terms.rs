//! What sessions go by, while it changes.
//!
//! A session is given its terms when it reaches its destination. A change is carried to those that are there
//! already a portion at a time, so that packets do not wait for it, however many there are.

use super::Gateway;
use super::session::Phase;
use crate::policies::InForce;
use crate::shard::Shard;
use mptcp_core::driver::Progress;
use mptcp_core::time::Instant;
use std::sync::Arc;

/// A change on its way through the sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Positions from here on have not been looked at.
    next: u32,
    /// Changes up to this one have reached everybody.
    since: u64,
}

impl Gateway {
    /// What is in force from now on, for new sessions, requests and datagrams at once; [`Gateway::carry_policies`] carries it to the
    /// others.
    pub fn set_policies(&mut self, policies: Arc<InForce>) {
        let since = self.walk.map_or(self.policies.version(), |walk| walk.since);
        // An older one may come later, when two were on their way.
        if policies.version() > self.policies.version() {
            self.policies = policies;
            self.walk = Some(Walk { next: 0, since });
        }
    }

    /// Carries what changed to the sessions at the next `most` positions.
    pub fn carry_policies(&mut self, now: Instant, shard: &mut impl Shard, most: u32) -> Progress {
        let Some(Walk { next, since }) = self.walk else { return Progress::Done };
        let end = next.saturating_add(most).min(self.high_water);
        for idx in next..end {
            let Some(session) = self.sessions.get(idx) else { continue };
            if self.policies.changed_since(since, session.front_end, session.user) {
                self.apply_terms(now, shard, idx);
            }
        }
        let more = end < self.high_water;
        self.walk = more.then_some(Walk { next: end, since });
        if more { Progress::More } else { Progress::Done }
    }

    /// Whether a change is on its way.
    #[must_use]
    pub fn carries_policies(&self) -> bool {
        self.walk.is_some()
    }

    /// A session that has reached its destination gets its terms.
    pub(super) fn begin_terms(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        session.ends.begin();
        let (front_end, user) = (session.front_end, session.user);
        if let Some(usage) = user.and_then(|user| self.policies.usage(user)) {
            usage.begin();
        }
        if self.policies.concerns(front_end, user) {
            self.apply_terms(now, shard, idx);
        }
    }

    fn apply_terms(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get(idx) else { return };
        let relays = match session.phase {
            Phase::Relaying => true,
            Phase::Associated(_) => false,
            // It has not come so far.
            Phase::Handshake(_)
            | Phase::Connecting(_)
            | Phase::Binding(_)
            | Phase::Lingering(_) => return,
        };
        let inner = session.inner;
        let mut terms = self.policies.terms(session.front_end, session.user);
        if !shard.set_scheduling(now, inner, &terms.scheduling) {
            // It has one path.
            let port = shard.port_of(inner);
            let caps = port.map(|port| self.policies.port_caps(session.user, port));
            terms.relay.to_inner.extend(caps.into_iter().flatten().cloned());
            if let Some(Phase::Associated(association)) =
                self.sessions.get_mut(idx).map(|session| &mut session.phase)
            {
                association.plain_over = port;
            }
        }
        if relays {
            shard.set_relay_caps(now, inner, &terms.relay);
        }
    }
}
