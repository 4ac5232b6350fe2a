//! Sessions as the operator sees them.

use super::Gateway;
use super::session::{Phase, Session};
use crate::front_end::FrontEnd;
use crate::policies::UserId;
use crate::shard::Shard;
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::stack::ConnectionInfo;
use mptcp_core::time::Instant;

/// One session at one moment.
#[derive(Clone, Debug)]
pub struct SessionSnapshot {
    /// Sessions are numbered from 1, those of all shards together.
    pub id: u64,
    /// What the client speaks.
    pub front_end: FrontEnd,
    /// The user it named.
    pub user: Option<UserId>,
    /// The profile it goes by.
    pub profile: Option<String>,
    /// Where the client came from.
    pub client: SocketAddr,
    /// Where it is, or is being, connected to; `None` before.
    pub destination: Option<SocketAddr>,
    /// Bytes relayed to the destination.
    pub bytes_up: u64,
    /// Bytes relayed from it.
    pub bytes_down: u64,
    /// Time since the client connected.
    pub age: Duration,
    /// The client's connection.
    pub inner: ConnectionInfo,
}

impl Gateway {
    /// Sessions at the positions from `from` on, at most `limit` positions, and where to go on.
    /// Bounded, so that a report of many sessions can be made between packets.
    #[must_use]
    pub fn snapshot(
        &self,
        now: Instant,
        shard: &impl Shard,
        from: u32,
        limit: u32,
    ) -> (Vec<SessionSnapshot>, Option<u32>) {
        let end = from.saturating_add(limit).min(self.high_water);
        let sessions =
            (from..end).filter_map(|idx| self.snapshot_of(now, shard, self.sessions.get(idx)?));
        (sessions.collect(), (end < self.high_water).then_some(end))
    }

    fn snapshot_of(
        &self,
        now: Instant,
        shard: &impl Shard,
        session: &Session,
    ) -> Option<SessionSnapshot> {
        let inner = shard.info(session.inner)?;
        let exit = session.outer.and_then(|outer| shard.info(outer));
        let (bytes_up, bytes_down) = match &session.phase {
            Phase::Associated(association) => (association.bytes_up, association.bytes_down),
            _ => exit.as_ref().map_or((0, 0), |info| (info.bytes_sent, info.bytes_received)),
        };
        Some(SessionSnapshot {
            id: session.number,
            front_end: session.front_end,
            user: session.user,
            profile: self
                .policies
                .profile(session.front_end, session.user)
                .map(|profile| profile.name.clone()),
            client: inner.remote,
            destination: exit.as_ref().map(|info| info.remote),
            bytes_up,
            bytes_down,
            age: now.since(session.opened),
            inner,
        })
    }
}
