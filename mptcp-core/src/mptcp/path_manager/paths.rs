//! The path manager's state of one connection: which addresses either end told the other, which
//! pairs of them an initiator runs subflows over, and the retransmission of `ADD_ADDR` until its
//! echo (RFC 8684 §3.4).
//!
//! An initiator joins from its endpoints to the addresses it knows of the peer, as often as the policy
//! says, and again when such a subflow is lost; a responder announces its other endpoints and waits.
//! Nothing here acts by itself: the stack asks for the next action.

use super::PathManager;
use crate::time::{Duration, Instant, earliest};
use crate::util::on_demand::{Empty, OnDemand};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// Subflows planned for one connection at most, whatever there is of addresses.
const MAX_PAIRS: usize = 128;
/// Transmissions of one `ADD_ADDR`, the first included.
const ANNOUNCE_TRIES: u8 = 4;
/// A lost subflow is opened again after this, doubling with every attempt that came to nothing.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY_SHIFT: u8 = 6;
/// The same when the peer said that the reason will stay (RFC 8684 §3.6, T = 0).
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// A subflow that lived this long was no failed attempt.
const LASTING: Duration = Duration::from_secs(60);

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

/// The subflows that are to be, and what is to be announced or waits for its echo.
#[derive(Debug)]
struct Plan {
    pairs: Vec<Pair>,
    waiting: VecDeque<Endpoint>,
    current: Option<Announcement>,
    /// Ids of addresses that are gone, of which nobody has heard yet.
    withdrawn: VecDeque<u8>,
    /// When somebody is looked for to tell, at the latest.
    tell_at: Option<Instant>,
}

impl Plan {
    const NONE: Self = Self {
        pairs: Vec::new(),
        waiting: VecDeque::new(),
        current: None,
        withdrawn: VecDeque::new(),
        tell_at: None,
    };
}

impl Empty for Plan {
    const EMPTY: Self = Self::NONE;
    const ABSENT: &'static Self = &Self::NONE;

    fn is_unused(&self) -> bool {
        self.pairs.is_empty()
            && self.waiting.is_empty()
            && self.current.is_none()
            && self.withdrawn.is_empty()
    }
}

/// Where the subflow between two addresses stands.
#[derive(Clone, Copy, Debug)]
enum PairState {
    /// To be opened as soon as there is room for it.
    Due,
    /// Opened, by the connection itself when there is no time.
    Open {
        since: Option<Instant>,
    },
    Waiting {
        until: Instant,
        refused: bool,
    },
}

/// A subflow of ours that there is, or should be, between two addresses.
#[derive(Clone, Copy, Debug)]
struct Pair {
    join: Join,
    state: PairState,
    /// Attempts in a row that came to nothing.
    fails: u8,
}

/// What became of an address that the peer announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announced {
    Taken,
    /// It was known; what was lost to it is tried again.
    Known,
    /// Too many, not an address to connect to, or its id names another.
    Refused,
}

/// Path management of one connection.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// The peer's addresses beyond its initial one, announced or told with a join.
    remotes: Vec<(u8, SocketAddr)>,
    plan: OnDemand<Plan>,
    /// The id 0 names the address of the first subflow: until the peer removes it.
    begun: bool,
    /// The peer set the C flag: no joins to its initial address.
    pub(crate) deny_initial: bool,
    /// We are the initiator and may join the peer's initial address.
    initial: bool,
    stopped: bool,
}

impl Paths {
    /// Most peers have one address more, and keep it for as long as the connection lasts.
    fn note_remote(&mut self, id: u8, remote: SocketAddr) {
        if self.remotes.is_empty() {
            self.remotes.reserve_exact(1);
        }
        self.remotes.push((id, remote));
    }

    /// Addresses of the peer's that it announced and we took.
    pub(crate) fn remote_count(&self) -> u8 {
        u8::try_from(self.remotes.len()).unwrap_or(u8::MAX)
    }

    /// The connection is confirmed: plans the joins or announcements `policy` wants. `used` is the
    /// local address of the first subflow, `remote` its peer.
    pub(crate) fn start(
        &mut self,
        policy: &dyn PathManager,
        client: bool,
        endpoints: impl Iterator<Item = Endpoint>,
        used: IpAddr,
        remote: SocketAddr,
    ) {
        let per_pair = policy.subflows_per_pair();
        if client && per_pair > 0 && !self.deny_initial {
            self.initial = true;
            let first = Endpoint { id: 0, addr: used, backup: false };
            self.plan(first, remote, 0, per_pair);
            // Announcements may have come before.
            let is_first = |p: &&mut Pair| p.join.local == used && p.join.remote == remote;
            if let Some(pair) = self.plan.pairs.iter_mut().find(is_first) {
                pair.state = PairState::Open { since: None };
            }
        }
        for endpoint in endpoints {
            if endpoint.addr != used {
                self.add_endpoint(policy, client, endpoint, remote);
            } else if let Some(plan) = self.plan.there() {
                // What takes the place of the first subflow is what that one was.
                for pair in plan.pairs.iter_mut().filter(|pair| pair.join.local == used) {
                    pair.join.backup = endpoint.backup;
                }
            }
        }
    }

    /// An endpoint of ours is there to be used, or announced; `initial` is the peer's initial address.
    pub(crate) fn add_endpoint(
        &mut self,
        policy: &dyn PathManager,
        client: bool,
        endpoint: Endpoint,
        initial: SocketAddr,
    ) {
        if self.stopped {
            return;
        }
        if (client || endpoint.id == 0)
            && let Some(plan) = self.plan.there()
        {
            // The first address is back before anybody heard that it was gone, or another has its id now, all being
            // given out: told behind its join that would end the join.
            plan.withdrawn.retain(|id| *id != endpoint.id);
        }
        if !client {
            if policy.announces() {
                self.plan.waiting.push_back(endpoint);
            }
            return;
        }
        let per_pair = policy.subflows_per_pair();
        if self.initial {
            self.plan(endpoint, initial, 0, per_pair);
        }
        for at in 0..self.remotes.len() {
            if let Some(&(id, remote)) = self.remotes.get(at) {
                self.plan(endpoint, remote, id, per_pair);
            }
        }
    }

    /// Adds what is missing to `count` subflows between two addresses of one family.
    fn plan(&mut self, endpoint: Endpoint, remote: SocketAddr, remote_id: u8, count: u8) {
        let join = Join {
            local: endpoint.addr,
            local_id: endpoint.id,
            backup: endpoint.backup,
            remote,
            remote_id,
        };
        if join.local.is_ipv4() != remote.is_ipv4() {
            return;
        }
        let same = |p: &&Pair| p.join.local == join.local && p.join.remote == remote;
        for _ in self.plan.pairs.iter().filter(same).count()..usize::from(count) {
            if self.plan.pairs.len() < MAX_PAIRS {
                self.plan.pairs.push(Pair { join, state: PairState::Due, fails: 0 });
            }
        }
    }

    /// There is a first subflow, and where it leads has the id 0 (RFC 8684 §3.2).
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// The peer told with a join that `id` names the address we reached it at.
    pub(crate) fn on_joined(&mut self, id: u8, remote: SocketAddr, max_remotes: u8) {
        if let Some(plan) = self.plan.there().filter(|_| id != 0) {
            // It may have had another one when it was announced, of which the peer says next that it is gone.
            for pair in plan.pairs.iter_mut().filter(|pair| pair.join.remote == remote) {
                pair.join.remote_id = id;
            }
        }
        let known = self.remotes.iter().any(|(other, a)| *other == id && a.ip() == remote.ip());
        if !known && id != 0 && self.remotes.len() < usize::from(max_remotes) {
            self.note_remote(id, remote);
        }
    }

    /// The peer announced an address (its HMAC was good): `per_pair` subflows go to it from each of
    /// ours, unless `max_remotes` are known already. The first subflow leads to `initial`.
    pub(crate) fn on_add_addr(
        &mut self,
        now: Instant,
        (id, remote): (u8, SocketAddr),
        initial: IpAddr,
        join_from: impl Iterator<Item = Endpoint>,
        (per_pair, max_remotes): (u8, u8),
    ) -> Announced {
        if self.stopped {
            return Announced::Refused;
        }
        if self.remotes.contains(&(id, remote)) {
            self.hasten(now, remote);
            return Announced::Known;
        }
        // An id keeps its address until it is removed; only the port may differ.
        let moved = self.remotes.iter().any(|(known, a)| *known == id && a.ip() != remote.ip())
            || id == 0 && self.begun && initial != remote.ip();
        if moved || !joinable(remote) || self.remotes.len() >= usize::from(max_remotes) {
            return Announced::Refused;
        }
        self.note_remote(id, remote);
        for endpoint in join_from {
            self.plan(endpoint, remote, id, per_pair);
        }
        Announced::Taken
    }

    /// The peer repeats that it is there: what was lost need not wait long, unless it was refused.
    fn hasten(&mut self, now: Instant, remote: SocketAddr) {
        let Some(plan) = self.plan.there() else { return };
        for pair in plan.pairs.iter_mut().filter(|p| p.join.remote == remote) {
            if let PairState::Waiting { until, refused: false } = &mut pair.state {
                *until = (*until).min(now + RETRY);
            }
        }
    }

    /// A subflow between these addresses is gone, or could not be opened; `refused` when the peer
    /// said that asking again soon is no use.
    pub(crate) fn on_lost(
        &mut self,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
        refused: bool,
    ) {
        let Some(plan) = self.plan.there() else { return };
        let open = plan.pairs.iter_mut().find_map(|pair| match pair.state {
            PairState::Open { since } if pair.join.local == local && pair.join.remote == remote => {
                Some((pair, since))
            }
            _ => None,
        });
        let Some((pair, since)) = open else { return };
        if since.is_none_or(|since| now.since(since) >= LASTING) {
            pair.fails = 0;
        }
        let wait = RETRY * (1 << u32::from(pair.fails.min(MAX_RETRY_SHIFT)));
        let wait = if refused { wait.max(REFUSED_RETRY) } else { wait };
        pair.fails = pair.fails.saturating_add(1);
        pair.state = PairState::Waiting { until: now + wait, refused };
    }

    /// The peer withdrew an address.
    pub(crate) fn on_remove_addr(&mut self, id: u8) {
        self.begun &= id != 0;
        // Nor does an address of ours that comes later go there (RFC 8684 §3.4.2).
        self.initial &= id != 0;
        self.remotes.retain(|(known, _)| *known != id);
        if let Some(plan) = self.plan.there() {
            plan.pairs.retain(|pair| pair.join.remote_id != id);
        }
    }

    /// The peer echoed an announcement of ours; one of another address says nothing about it.
    pub(crate) fn on_echo(&mut self, id: u8, addr: IpAddr) {
        if let Some(plan) = self.plan.there() {
            let told = |endpoint: &Endpoint| endpoint.id == id && endpoint.addr == addr;
            plan.current.take_if(|current| told(&current.endpoint));
            self.plan.rest();
        }
    }

    /// One of our addresses is gone, whatever its id on this connection.
    pub(crate) fn forget_endpoint(&mut self, addr: IpAddr) {
        if let Some(plan) = self.plan.there() {
            plan.pairs.retain(|pair| pair.join.local != addr);
            plan.waiting.retain(|endpoint| endpoint.addr != addr);
            plan.current.take_if(|current| current.endpoint.addr == addr);
            self.plan.rest();
        }
    }

    /// Nobody could be told that the address of ours with this id is gone: who joins next is.
    pub(crate) fn withdraw_later(&mut self, id: u8) {
        if !self.stopped {
            self.plan.withdrawn.push_back(id);
        }
    }

    /// The id of an address that is gone and of which nobody has heard.
    pub(crate) fn next_withdrawal(&self) -> Option<u8> {
        self.plan.withdrawn.front().copied()
    }

    /// That one was told, or is to be tried again at `next`.
    pub(crate) fn withdrawal_tried(&mut self, next: Option<Instant>) {
        let Some(plan) = self.plan.there() else { return };
        plan.tell_at = next;
        if next.is_none() {
            plan.withdrawn.pop_front();
            self.plan.rest();
        }
    }

    /// Pairs whose wait is over become due; true when any is, whether or not there is room for it.
    pub(crate) fn join_due(&mut self, now: Instant) -> bool {
        let mut due = false;
        let Some(plan) = self.plan.there() else { return false };
        for pair in &mut plan.pairs {
            if let PairState::Waiting { until, .. } = pair.state
                && until <= now
            {
                pair.state = PairState::Due;
            }
            due |= matches!(pair.state, PairState::Due);
        }
        due
    }

    /// The next join to make.
    pub(crate) fn next_join(&mut self, now: Instant) -> Option<Join> {
        let pair =
            self.plan.there()?.pairs.iter_mut().find(|p| matches!(p.state, PairState::Due))?;
        pair.state = PairState::Open { since: Some(now) };
        Some(pair.join)
    }

    /// An address to announce now, and how often it was before: the next one, or the current one
    /// again while its echo is due.
    pub(crate) fn next_announcement(
        &mut self,
        now: Instant,
        timeout: Duration,
    ) -> Option<(Endpoint, u8)> {
        let Plan { waiting, current: announcing, .. } = self.plan.there()?;
        if let Some(current) = announcing {
            if now < current.next {
                return None;
            }
            if current.tries < ANNOUNCE_TRIES {
                let before = current.tries;
                current.next = now + timeout * (1 << u32::from(before));
                current.tries += 1;
                return Some((current.endpoint, before));
            }
        }
        let next = waiting.pop_front();
        *announcing = next.map(|endpoint| Announcement { endpoint, tries: 1, next: now + timeout });
        self.plan.rest();
        next.map(|endpoint| (endpoint, 0))
    }

    /// The announcement that was to be made found nobody to tell: it does not count, and comes again.
    pub(crate) fn announce_later(&mut self, before: u8, next: Instant) {
        if let Some(current) = self.plan.there().and_then(|plan| plan.current.as_mut()) {
            (current.tries, current.next) = (before, next);
        }
    }

    /// Where nobody echoes: what is left to be announced waits for room until then, or not at all.
    pub(crate) fn put_off_announcements(&mut self, until: Option<Instant>) {
        let Some(plan) = self.plan.there() else { return };
        let next = until.zip(plan.waiting.front().copied());
        let put_off = |(next, endpoint)| Announcement { endpoint, tries: ANNOUNCE_TRIES, next };
        plan.current = next.map(put_off);
        self.plan.rest();
    }

    /// When an echo or a lost pair was waited for long enough. What is due already waits for room,
    /// not for time.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let Plan { pairs, current, withdrawn, tell_at, .. } = &*self.plan;
        let waiting = pairs.iter().map(|pair| match pair.state {
            PairState::Waiting { until, .. } => Some(until),
            PairState::Due | PairState::Open { .. } => None,
        });
        let tell_at = tell_at.filter(|_| !withdrawn.is_empty());
        earliest(waiting.chain([current.as_ref().map(|a| a.next), tell_at]))
    }

    /// No further joins or announcements.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.plan.forget();
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
    use super::super::{Fullmesh, Ndiffports};
    use super::*;
    use core::net::Ipv4Addr;

    const NOW: Instant = Instant::from_millis(1);

    /// One subflow per pair, eight addresses.
    const LIMITS: (u8, u8) = (1, 8);

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
        client.start(&Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        assert_eq!(client.next_join(NOW).unwrap().local_id, 2);
        assert_eq!(client.next_join(NOW).unwrap().local_id, 3);
        assert_eq!(client.next_join(NOW), None);
        let mut add =
            || client.on_add_addr(NOW, (7, remote(9)), remote(1).ip(), mine.into_iter(), LIMITS);
        assert_eq!((add(), add()), (Announced::Taken, Announced::Known));
        assert_eq!(core::iter::from_fn(|| client.next_join(NOW)).count(), 3);

        let mut server = Paths::default();
        server.start(&Fullmesh, false, mine.into_iter(), mine[0].addr, remote(1));
        let (now, timeout) = (Instant::from_millis(1), Duration::from_secs(1));
        assert_eq!(server.next_announcement(now, timeout), Some((mine[1], 0)));
        assert_eq!(server.next_announcement(now, timeout), None);
        server.on_echo(2, mine[0].addr);
        assert_eq!(server.next_announcement(now, timeout), None, "another address");
        server.on_echo(2, mine[1].addr);
        assert_eq!(server.next_announcement(now, timeout), Some((mine[2], 0)));
    }

    #[test]
    fn an_id_that_is_given_out_again_is_not_withdrawn_behind_its_join() {
        let mut client = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        client.start(&Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        client.forget_endpoint(mine[1].addr);
        client.withdraw_later(2);
        let again = Endpoint { addr: endpoint(3).addr, ..mine[1] };
        client.add_endpoint(&Fullmesh, true, again, remote(1));
        assert_eq!(client.next_withdrawal(), None);
        assert_eq!(client.next_join(NOW).unwrap().local_id, 2);
    }

    #[test]
    fn an_announcement_without_echo_is_repeated_three_times() {
        let mut paths = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        paths.start(&Fullmesh, false, mine.into_iter(), mine[0].addr, remote(1));
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
            paths.on_add_addr(
                NOW,
                (id, remote(id)),
                remote(1).ip(),
                [endpoint(1)].into_iter(),
                LIMITS,
            );
        }
        assert!(paths.remotes.len() <= usize::from(LIMITS.1));
        assert!(core::iter::from_fn(|| paths.next_join(NOW)).count() <= usize::from(LIMITS.1));
    }

    #[test]
    fn a_lost_pair_is_tried_again_ever_more_slowly() {
        let mut paths = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        paths.start(&Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert!(paths.join_due(now));
            let join = paths.next_join(now).expect("the pair is due");
            assert_eq!((join.local_id, paths.next_timeout()), (2, None));
            paths.on_lost(now, join.local, join.remote, false);
            assert!(!paths.join_due(now));
            let next = paths.next_timeout().expect("it comes again");
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        // One that lasted begins anew, the first subflow as well.
        assert!(paths.join_due(now));
        paths.next_join(now);
        now = now + LASTING;
        for local in [mine[1].addr, mine[0].addr] {
            paths.on_lost(now, local, remote(1), false);
            assert_eq!(paths.next_timeout(), Some(now + RETRY));
        }
        let ids = [(); 2].map(|()| {
            assert!(paths.join_due(now + RETRY));
            paths.next_join(now + RETRY).map(|join| join.local_id)
        });
        assert_eq!(ids, [Some(0), Some(2)]);
    }

    #[test]
    fn a_refusal_for_good_is_respected_and_a_refresh_hastens_the_rest() {
        for refused in [false, true] {
            let mut paths = Paths::default();
            let add = |paths: &mut Paths, now| {
                paths.on_add_addr(
                    now,
                    (3, remote(9)),
                    remote(1).ip(),
                    [endpoint(1)].into_iter(),
                    LIMITS,
                )
            };
            assert_eq!(add(&mut paths, NOW), Announced::Taken);
            let join = paths.next_join(NOW).expect("a pair");
            let lost = NOW + LASTING / 2;
            paths.plan.pairs[0].fails = 5;
            paths.on_lost(lost, join.local, join.remote, refused);
            let wait = if refused { REFUSED_RETRY } else { RETRY * 32 };
            assert_eq!(paths.next_timeout(), Some(lost + wait));
            assert_eq!(add(&mut paths, lost), Announced::Known);
            let wait = if refused { REFUSED_RETRY } else { RETRY };
            assert_eq!(paths.next_timeout(), Some(lost + wait));
            // Withdrawn: never again.
            paths.on_remove_addr(3);
            assert_eq!(paths.next_timeout(), None);
            assert!(!paths.join_due(lost + REFUSED_RETRY));
        }
    }

    #[test]
    fn an_initial_address_that_was_withdrawn_is_joined_no_more() {
        let mut paths = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        paths.begin();
        paths.start(&Fullmesh, true, [mine[0]].into_iter(), mine[0].addr, remote(1));
        paths.on_remove_addr(0);
        paths.add_endpoint(&Fullmesh, true, mine[1], remote(1));
        assert_eq!(paths.next_join(NOW), None);
        // Until it is announced again.
        let again = (0, remote(1));
        let announced = paths.on_add_addr(NOW, again, remote(1).ip(), mine.into_iter(), LIMITS);
        assert_eq!(announced, Announced::Taken);
        assert_eq!(core::iter::from_fn(|| paths.next_join(NOW)).count(), 2);
    }

    /// The peer's interface went and came back while nobody could be told: who joins it there hears of the new id first.
    #[test]
    fn an_address_that_has_another_id_by_now_outlives_the_former_one() {
        let mut paths = Paths::default();
        let mine = [endpoint(1)];
        paths.begin();
        paths.start(&Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        let announced = |paths: &mut Paths, id| {
            let theirs = (id, remote(2));
            paths.on_add_addr(NOW, theirs, remote(1).ip(), mine.into_iter(), LIMITS)
        };
        assert_eq!(announced(&mut paths, 2), Announced::Taken);
        assert_eq!(paths.next_join(NOW).map(|join| join.remote_id), Some(2));
        paths.on_joined(3, remote(2), LIMITS.1);
        paths.on_remove_addr(2);
        assert_eq!(announced(&mut paths, 3), Announced::Known);
        paths.on_lost(NOW, mine[0].addr, remote(2), false);
        assert_eq!(paths.next_timeout(), Some(NOW + RETRY));
        paths.on_remove_addr(3);
        assert_eq!(paths.next_timeout(), None);
    }

    #[test]
    fn several_subflows_between_two_addresses_are_lost_one_by_one() {
        let mut paths = Paths::default();
        let mine = [endpoint(1), endpoint(2)];
        let policy = Ndiffports(3);
        paths.start(&policy, true, mine.into_iter(), mine[0].addr, remote(1));
        let joins: Vec<_> = core::iter::from_fn(|| paths.next_join(NOW)).collect();
        let ids: Vec<_> = joins.iter().map(|join| join.local_id).collect();
        assert_eq!(ids, [0, 0, 2, 2, 2], "two beside the first, three from the other address");
        paths.on_lost(NOW, mine[1].addr, remote(1), false);
        assert!(paths.join_due(NOW + RETRY));
        assert_eq!(paths.next_join(NOW + RETRY).map(|join| join.local_id), Some(2));
        assert_eq!(paths.next_join(NOW + RETRY), None);
        // An address that comes later, and one that the peer announces.
        paths.add_endpoint(&policy, true, endpoint(3), remote(1));
        assert_eq!(core::iter::from_fn(|| paths.next_join(NOW)).count(), 3);
        let limits = (policy.subflows_per_pair(), 8);
        paths.on_add_addr(NOW, (9, remote(2)), remote(1).ip(), [endpoint(1)].into_iter(), limits);
        assert_eq!(core::iter::from_fn(|| paths.next_join(NOW)).count(), 3);
    }

    #[test]
    fn subflows_planned_are_bounded() {
        let mut paths = Paths::default();
        let mine: Vec<_> = (1..=200).map(endpoint).collect();
        for id in 0..=255 {
            paths.on_add_addr(
                NOW,
                (id, remote(id)),
                remote(1).ip(),
                mine.iter().copied(),
                (32, 32),
            );
        }
        assert_eq!((paths.remotes.len(), paths.plan.pairs.len()), (32, MAX_PAIRS));
    }

    #[test]
    fn families_are_not_mixed() {
        let mut paths = Paths::default();
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let mine = [endpoint(1), Endpoint { addr: v6(2), ..endpoint(2) }];
        paths.start(&Fullmesh, true, mine.into_iter(), mine[0].addr, remote(1));
        assert_eq!(paths.next_join(NOW), None);
        let theirs = SocketAddr::new(v6(9), 8443);
        paths.on_add_addr(NOW, (3, theirs), remote(1).ip(), mine.into_iter(), LIMITS);
        let join = paths.next_join(NOW).expect("the other family joins");
        assert_eq!((join.local, join.remote), (v6(2), theirs));
        assert_eq!(paths.next_join(NOW), None);
    }
}
