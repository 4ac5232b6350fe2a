//! The monotonic clock behind `now`.

use mptcp_core::time::Instant;

/// Time since [`Clock::start`]. Copies count from the same origin, so shards and control threads
/// can compare.
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
