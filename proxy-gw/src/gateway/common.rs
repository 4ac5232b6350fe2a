//! What the shards of a gateway count together: limits are the gateway's, whichever shard a client's
//! packets lead to. Looked at when a session begins or ends and when credentials are checked, without locks.

use super::convert::error_limiter;
use super::per_client::{Clients, PerClient};
use crate::auth::{Guesses, Limiter};
use crate::config::Config;
use crate::front_end::convert::Cookies;
use crate::policies::InForce;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mptcp_core::rng::Rng;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Common {
    sessions: Places,
    associations: Places,
    binds: Places,
    clients: Clients,
    /// Sessions there were.
    numbered: AtomicU64,
    limiter: Limiter,
    policies: Arc<InForce>,
    cookies: Cookies,
    convert_errors: Limiter,
    guesses: Guesses,
}

/// So many at a time.
#[derive(Debug)]
pub(super) struct Places {
    most: u32,
    taken: AtomicU32,
}

impl Places {
    fn new(most: u32) -> Self {
        Self { most, taken: AtomicU32::new(0) }
    }

    /// Takes one; false when there is none left.
    pub(super) fn enter(&self) -> bool {
        let next = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Gives one back.
    pub(super) fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Common {
    /// For all shards of a gateway of `config`; secrets are drawn from `rng`.
    #[must_use]
    pub fn new(config: &Config, rng: &mut Rng) -> Self {
        Self::with(config, Arc::new(InForce::new(config)), rng)
    }

    /// The same with these profiles and rates in force.
    #[must_use]
    pub fn with(config: &Config, policies: Arc<InForce>, rng: &mut Rng) -> Self {
        let mut key = [0; 16];
        rng.fill(&mut key);
        Self {
            sessions: Places::new(config.limits.connections),
            associations: Places::new(config.udp.associations),
            binds: Places::new(config.bind.waiting),
            numbered: AtomicU64::new(0),
            limiter: Limiter::new(key),
            clients: Clients::new(config, rng),
            policies,
            cookies: Cookies::new(rng),
            convert_errors: error_limiter(rng),
            guesses: Guesses::new(rng),
        }
    }

    /// The places of `limits.connections`.
    pub(super) fn sessions(&self) -> &Places {
        &self.sessions
    }

    /// The places of `udp.associations`.
    pub(super) fn associations(&self) -> &Places {
        &self.associations
    }

    /// The places of `bind.waiting`.
    pub(super) fn binds(&self) -> &Places {
        &self.binds
    }

    /// What each client has.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The number of a new session: unique, from 1.
    pub(super) fn next_number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What is in force at the start; shards are told of changes.
    #[must_use]
    pub fn policies(&self) -> &Arc<InForce> {
        &self.policies
    }

    /// What each client waits for of DNS.
    pub(crate) fn lookups(&self) -> &PerClient {
        &self.clients.lookups
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Credentials that are being checked.
    pub(crate) fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    /// Of Convert clients, wherever their connections lead.
    pub(super) fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    /// Error messages that each Convert client may have.
    pub(super) fn convert_errors(&self) -> &Limiter {
        &self.convert_errors
    }
}
