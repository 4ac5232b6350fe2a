//! The monotonic clock behind the `now` of one process's stacks: the only place of this crate that
//! reads time.

use mptcp_core::time::Instant;

/// Time since [`Clock::start`]. Copies count from the same origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// Nanoseconds since the origin; never decreases.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::MIN + self.origin.elapsed()
    }
}
