//! What the shards of a gateway count together: limits are the gateway's, whichever shard a client's
//! packets lead to. Looked at when a session begins or ends and when credentials are checked, without locks.

use crate::auth::Limiter;
use crate::config::Config;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mptcp_core::rng::Rng;

/// See the module.
#[derive(Debug)]
pub struct Common {
    most: u32,
    sessions: AtomicU32,
    /// Sessions there were.
    numbered: AtomicU64,
    limiter: Limiter,
}

impl Common {
    /// For all shards of a gateway of `config`; secrets are drawn from `rng`.
    #[must_use]
    pub fn new(config: &Config, rng: &mut Rng) -> Self {
        let mut key = [0; 16];
        rng.fill(&mut key);
        Self {
            most: config.limits.connections,
            sessions: AtomicU32::new(0),
            numbered: AtomicU64::new(0),
            limiter: Limiter::new(key),
        }
    }

    /// Takes a place among `limits.connections`; false when there is none left.
    pub(super) fn enter(&self) -> bool {
        let next = |sessions| (sessions < self.most).then_some(sessions + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of a new session: unique, from 1.
    pub(super) fn next_number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.limiter
    }
}
