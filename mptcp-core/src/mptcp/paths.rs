//! The path manager's state of one connection: which addresses either end told the other, which
//! joins are still to be made, and the retransmission of `ADD_ADDR` until its echo (RFC 8684 §3.4).
//!
//! Fullmesh: an initiator joins from every endpoint of its own to every address it knows of the
//! peer; a responder announces its other endpoints and waits. Nothing here acts by itself: the
//! stack asks for the next action.

use crate::config::PathManagerKind;
use crate::time::{Duration, Instant};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// Addresses of a peer remembered at most; also bounds the joins an announcement can cause.
const MAX_REMOTE_ADDRESSES: usize = 8;
/// Transmissions of one `ADD_ADDR`, the first included.
const ANNOUNCE_TRIES: u8 = 4;

/// A join to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Join {
    pub(crate) local: IpAddr,
    pub(crate) local_id: u8,
    pub(crate) backup: bool,
    pub(crate) remote: SocketAddr,
    pub(crate) remote_id: u8,
}

/// One of our addresses with the id the peer knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: u8,
    pub(crate) addr: IpAddr,
    pub(crate) backup: bool,
}

#[derive(Clone, Copy, Debug)]
struct Announcement {
    endpoint: Endpoint,
    tries: u8,
    next: Instant,
}

/// Path management of one connection.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// The peer's addresses beyond its initial one.
    remotes: Vec<(u8, SocketAddr)>,
    joins: VecDeque<Join>,
    announce: VecDeque<Endpoint>,
    announcing: Option<Announcement>,
    /// The peer set the C flag: no joins to its initial address.
    pub(crate) deny_initial: bool,
    stopped: bool,
}

impl Paths {
    /// The connection is confirmed: plans the joins or announcements of `kind`. `used` is the local
    /// address of the first subflow, `remote` its peer.
    pub(crate) fn start(
        &mut self,
        kind: PathManagerKind,
        client: bool,
        endpoints: impl Iterator<Item = Endpoint>,
        used: IpAddr,
        remote: SocketAddr,
    ) {
        if kind == PathManagerKind::Server {
            return;
        }
        for endpoint in endpoints {
            if endpoint.addr == used {
                continue;
            }
            if !client {
                self.announce.push_back(endpoint);
            } else if !self.deny_initial && endpoint.addr.is_ipv4() == remote.is_ipv4() {
                self.plan(endpoint, remote, 0);
            }
        }
    }

    fn plan(&mut self, endpoint: Endpoint, remote: SocketAddr, remote_id: u8) {
        let join = Join {
            local: endpoint.addr,
            local_id: endpoint.id,
            backup: endpoint.backup,
            remote,
            remote_id,
        };
        if !self.joins.contains(&join) {
            self.joins.push_back(join);
        }
    }

    /// The peer announced an address (its HMAC was good). True when it is new and was taken.
    pub(crate) fn on_add_addr(
        &mut self,
        id: u8,
        remote: SocketAddr,
        join_from: impl Iterator<Item = Endpoint>,
    ) -> bool {
        // An id keeps its address until it is removed; only the port may differ.
        let known = |(known, addr): &(u8, SocketAddr)| {
            *known == id && (addr.ip() != remote.ip() || *addr == remote)
        };
        if self.stopped
            || !joinable(remote)
            || self.remotes.iter().any(known)
            || self.remotes.len() >= MAX_REMOTE_ADDRESSES
        {
            return false;
        }
        self.remotes.push((id, remote));
        for endpoint in join_from.filter(|e| e.addr.is_ipv4() == remote.is_ipv4()) {
            self.plan(endpoint, remote, id);
        }
        true
    }

    /// The peer withdrew an address.
    pub(crate) fn on_remove_addr(&mut self, id: u8) {
        self.remotes.retain(|(known, _)| *known != id);
        self.joins.retain(|join| join.remote_id != id);
    }

    /// The peer echoed an announcement of ours.
    pub(crate) fn on_echo(&mut self, id: u8) {
        if self.announcing.is_some_and(|a| a.endpoint.id == id) {
            self.announcing = None;
        }
    }

    /// One of our addresses is gone.
    pub(crate) fn forget_endpoint(&mut self, id: u8) {
        self.joins.retain(|join| join.local_id != id);
        self.announce.retain(|endpoint| endpoint.id != id);
        if self.announcing.is_some_and(|a| a.endpoint.id == id) {
            self.announcing = None;
        }
    }

    /// The next join to make.
    pub(crate) fn next_join(&mut self) -> Option<Join> {
        self.joins.pop_front()
    }

    /// An address to announce now: the next one, or the current one again while its echo is due.
    pub(crate) fn next_announcement(
        &mut self,
        now: Instant,
        timeout: Duration,
    ) -> Option<Endpoint> {
        if let Some(current) = &mut self.announcing {
            if now < current.next {
                return None;
            }
            if current.tries < ANNOUNCE_TRIES {
                current.next = now + timeout * (1 << u32::from(current.tries));
                current.tries += 1;
                return Some(current.endpoint);
            }
            self.announcing = None;
        }
        let endpoint = self.announce.pop_front()?;
        self.announcing = Some(Announcement { endpoint, tries: 1, next: now + timeout });
        Some(endpoint)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.announcing.map(|a| a.next)
    }

    /// No further joins or announcements.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.joins.clear();
        self.announce.clear();
        self.announcing = None;
    }
}

/// An address that a subflow can be opened to.
fn joinable(remote: SocketAddr) -> bool {
    let addr = remote.ip();
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    remote.port() != 0
        && !addr.is_unspecified()
        && !addr.is_multicast()
        && !addr.is_loopback()
        && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn endpoint(id: u8) -> Endpoint {
        Endpoint { id, addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, id)), backup: false }
    }

    fn remote(host: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), 80)
    }

    #[test]
    fn an_initiator_meshes_and_a_responder_announces() {
        let mut client = Paths::default();
        let mine = [endpoint(1), endpoint(2), endpoint(3)];
        client.start(PathManagerKind::Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        assert_eq!(client.next_join().unwrap().local_id, 2);
        assert_eq!(client.next_join().unwrap().local_id, 3);
        assert_eq!(client.next_join(), None);
        assert!(client.on_add_addr(7, remote(9), mine.into_iter()));
        assert!(!client.on_add_addr(7, remote(9), mine.into_iter()));
        assert_eq!(core::iter::from_fn(|| client.next_join()).count(), 3);

        let mut server = Paths::default();
        server.start(PathManagerKind::Fullmesh, false, mine.into_iter(), mine[0].addr, remote(1));
        let (now, timeout) = (Instant::from_millis(1), Duration::from_secs(1));
        assert_eq!(server.next_announcement(now, timeout), Some(mine[1]));
        assert_eq!(server.next_announcement(now, timeout), None);
        server.on_echo(2);
        assert_eq!(server.next_announcement(now, timeout), Some(mine[2]));
    }

    #[test]
    fn an_announcement_without_echo_is_repeated_three_times() {
        let mut paths = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        paths.start(PathManagerKind::Fullmesh, false, mine.into_iter(), mine[0].addr, remote(1));
        let timeout = Duration::from_secs(1);
        let mut now = Instant::from_millis(1);
        let mut sent = 0;
        while paths.next_announcement(now, timeout).is_some() {
            sent += 1;
            now = paths.next_timeout().unwrap();
        }
        assert_eq!(sent, 4);
        assert_eq!(paths.next_timeout(), None);
    }

    #[test]
    fn what_a_peer_announces_is_bounded() {
        let mut paths = Paths::default();
        for id in 0..=255 {
            paths.on_add_addr(id, remote(id), [endpoint(1)].into_iter());
        }
        assert!(paths.remotes.len() <= MAX_REMOTE_ADDRESSES);
        assert!(core::iter::from_fn(|| paths.next_join()).count() <= MAX_REMOTE_ADDRESSES);
    }
}
