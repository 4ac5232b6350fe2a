//! What one shard's gateway counted.

use super::reason::EndReason;
use super::udp::UdpCounters;

/// Counts since the start; each grows only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Client connections that became a session.
    pub sessions_accepted: u64,
    /// Client connections reset at once because `limits.connections` sessions were open, or because this
    /// shard had no room for more than its share of them.
    pub sessions_over_limit: u64,
    /// Sessions that reached their destination.
    pub sessions_established: u64,
    /// Bytes relayed to destinations, of ended sessions.
    pub bytes_up: u64,
    /// Bytes relayed from destinations, of ended sessions.
    pub bytes_down: u64,
    /// Exit connections tried; more than the sessions when names have several addresses.
    pub connect_attempts: u64,
    /// Convert requests that came with the SYN and waited for their destination.
    pub requests_in_syn: u64,
    /// Convert clients that were reset because they had heard of too many errors.
    pub convert_errors_limited: u64,
    /// Requests whose reserved byte was not zero.
    pub requests_reserved_set: u64,
    /// Credentials accepted from the cache.
    pub authentication_cached: u64,
    /// Credentials handed to the verifier.
    pub authentication_verified: u64,
    /// Datagrams.
    pub udp: UdpCounters,
    /// Ended sessions, in the order of [`EndReason::ALL`].
    ended: [u64; EndReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            sessions_accepted: 0,
            sessions_over_limit: 0,
            sessions_established: 0,
            bytes_up: 0,
            bytes_down: 0,
            connect_attempts: 0,
            requests_in_syn: 0,
            convert_errors_limited: 0,
            requests_reserved_set: 0,
            authentication_cached: 0,
            authentication_verified: 0,
            udp: UdpCounters::default(),
            ended: [0; EndReason::COUNT],
        }
    }
}

impl Counters {
    /// Sessions that ended for `reason`.
    #[must_use]
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended.get(reason as usize).copied().unwrap_or(0)
    }

    /// Sessions that ended.
    #[must_use]
    pub fn ended_total(&self) -> u64 {
        self.ended.iter().sum()
    }

    pub(super) fn count_end(&mut self, reason: EndReason) {
        if let Some(count) = self.ended.get_mut(reason as usize) {
            *count += 1;
        }
    }
}
