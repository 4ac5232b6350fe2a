//! Fast Open across connections (RFC 7413): the keys of the cookies we grant, what was learnt about
//! the servers whose cookies we have, and a listener's count of who is not proven yet.

use super::destinations::Way;
use super::{Connect, Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::error::{ConnectionError, OpenError};
use crate::rng::Rng;
use crate::tcp::{COOKIE_LENGTHS, Early, Opening, Outcome, Segment};
use crate::time::{Duration, Instant};
use crate::wire::FastOpenCookie;
use alloc::collections::{BTreeMap, VecDeque};
use core::hint::black_box;
use core::net::IpAddr;
use siphasher::sip::SipHasher24;

/// A key makes cookies in a term of so long, and is accepted in the next one (RFC 7413 §4.1.2).
const KEY_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Servers whose cookies are kept; the one not used for longest makes room.
const MAX_COOKIES: usize = 1_024;
/// Ways on which Fast Open failed; the one whose time is over first makes room.
const MAX_FAILURES: usize = 1_024;
/// How long Fast Open is not tried after a first failure; each one in a row doubles it.
const FIRST_TERM: Duration = Duration::from_secs(60);
/// About eight hours.
const MAX_DOUBLINGS: u8 = 9;
/// A connection that was reset before its third ACK counts so long (RFC 7413 §5.1).
const RESET_TERM: Duration = Duration::from_secs(60);
/// Options that a SYN may carry beside its data: the MSS counts both (RFC 6691).
const SYN_OPTIONS: u16 = 40;

/// Keys of the cookies that we grant: of this term and of the one before. They follow from the seed and the
/// time alone, so stacks with one seed have the same.
struct Keys {
    seed: [u8; 32],
    term: u64,
    current: [u8; 16],
    former: [u8; 16],
    /// Set from outside: they change from there only.
    given: bool,
}

impl Keys {
    fn new(seed: [u8; 32], now: Instant) -> Self {
        let (current, former) = ([0; 16], [0; 16]);
        let mut keys = Self { seed, term: 0, current, former, given: false };
        keys.enter(Self::term(now));
        keys
    }

    fn term(now: Instant) -> u64 {
        // The term before the first one has a number, too.
        1 + now.as_nanos() / (KEY_LIFE.as_nanos() as u64)
    }

    fn enter(&mut self, term: u64) {
        self.term = term;
        self.current = self.key(term);
        self.former = self.key(term - 1);
    }

    /// A stream of its own: what everything else draws does not depend on it.
    fn key(&self, term: u64) -> [u8; 16] {
        let mut seed = self.seed.map(|octet| octet ^ 0xf0);
        for (octet, of_term) in seed.iter_mut().zip(term.to_be_bytes()) {
            *octet ^= of_term;
        }
        let mut key = [0; 16];
        Rng::from_seed(seed).fill(&mut key);
        key
    }

    fn rotate(&mut self, now: Instant) {
        let term = Self::term(now);
        if !self.given && term != self.term {
            self.enter(term);
        }
    }
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// The cookie of `remote` at `local`: SipHash-2-4 over both addresses (IPv4 as mapped IPv6).
fn mac(key: &[u8; 16], local: IpAddr, remote: IpAddr) -> u64 {
    let mut input = [0; 32];
    let (first, second) = input.split_at_mut(16);
    for (into, addr) in [(first, local), (second, remote)] {
        into.copy_from_slice(&match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
            IpAddr::V6(addr) => addr.octets(),
        });
    }
    SipHasher24::new_with_key(key).hash(&input)
}

/// Compares in constant time, the octets that a shorter cookie has.
fn is_cookie(mac: u64, cookie: &[u8]) -> bool {
    let mac = mac.to_be_bytes();
    let pairs = mac.iter().zip(cookie);
    let same = pairs.fold(0, |difference, (a, b)| black_box(difference | a ^ b)) == 0;
    same && COOKIE_LENGTHS.contains(&cookie.len())
}

/// What a cookie is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Worth {
    Nothing,
    /// Of the former key: it is time for a new one.
    Former,
    Good,
}

/// A server's cookie, for connections from one address of ours (RFC 7413 §4.1.3).
#[derive(Clone, Copy, Debug)]
struct Known {
    cookie: FastOpenCookie,
    mss: u16,
    used: Instant,
}

/// A way on which Fast Open is not tried for a while (RFC 7413 §4.1.3.1).
#[derive(Clone, Copy, Debug)]
struct Failure {
    until: Instant,
    count: u8,
}

/// All of it.
#[derive(Debug)]
pub(super) struct FastOpen {
    keys: Keys,
    /// By our address and the server's: a cookie is good for every port.
    cookies: BTreeMap<(IpAddr, IpAddr), Known>,
    failures: BTreeMap<Way, Failure>,
}

impl FastOpen {
    pub(super) fn new(seed: [u8; 32], now: Instant) -> Self {
        let (cookies, failures) = (BTreeMap::new(), BTreeMap::new());
        Self { keys: Keys::new(seed, now), cookies, failures }
    }

    /// Cookies are of the term of `now` from here on.
    pub(super) fn rotate(&mut self, now: Instant) {
        self.keys.rotate(now);
    }

    /// The cookie that a peer is granted now.
    pub(super) fn mac(&self, local: IpAddr, remote: IpAddr) -> u64 {
        mac(&self.keys.current, local, remote)
    }

    pub(super) fn check(&mut self, now: Instant, pair: [IpAddr; 2], cookie: &[u8]) -> Worth {
        self.keys.rotate(now);
        let [local, remote] = pair;
        let [current, former] = [self.keys.current, self.keys.former]
            .map(|key| is_cookie(mac(&key, local, remote), cookie));
        match (current, former) {
            (true, _) => Worth::Good,
            (false, true) => Worth::Former,
            (false, false) => Worth::Nothing,
        }
    }

    /// What to put into a SYN, and the server's MSS; `None` where that failed not long ago.
    fn plan(&mut self, now: Instant, way: Way) -> Option<(FastOpenCookie, u16)> {
        if self.failures.get(&way).is_some_and(|failure| now < failure.until) {
            return None;
        }
        let (local, remote) = way;
        let Some(known) = self.cookies.get_mut(&(local, remote.ip())) else {
            return Some((FastOpenCookie::REQUEST, default_mss(&remote.ip())));
        };
        known.used = now;
        Some((known.cookie, known.mss))
    }

    /// A SYN/ACK's cookie takes the place of the former one; its MSS counts in any case.
    fn learn(
        &mut self,
        now: Instant,
        pair: (IpAddr, IpAddr),
        new: Option<FastOpenCookie>,
        mss: u16,
    ) {
        if let Some(known) = self.cookies.get_mut(&pair) {
            known.cookie = new.unwrap_or(known.cookie);
            (known.mss, known.used) = (mss, now);
            return;
        }
        let Some(cookie) = new else { return };
        if self.cookies.len() >= MAX_COOKIES {
            let oldest = self.cookies.iter().min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(pair, _)| *pair) {
                self.cookies.remove(&oldest);
            }
        }
        self.cookies.insert(pair, Known { cookie, mss, used: now });
    }

    fn failed(&mut self, now: Instant, way: Way) {
        let count = self.failures.get(&way).map_or(0, |failure| failure.count);
        let until = now + FIRST_TERM * (1 << u32::from(count.min(MAX_DOUBLINGS)));
        if self.failures.len() >= MAX_FAILURES && !self.failures.contains_key(&way) {
            let first = self.failures.iter().min_by_key(|(_, failure)| failure.until);
            if let Some(first) = first.map(|(way, _)| *way) {
                self.failures.remove(&first);
            }
        }
        self.failures.insert(way, Failure { until, count: count.saturating_add(1) });
    }
}

/// RFC 9293 §3.7.1
const fn default_mss(remote: &IpAddr) -> u16 {
    if remote.is_ipv4() { 536 } else { 1220 }
}

/// A SYN of unusual size is likely to get lost, or to be cut (RFC 7413 §4.1.3).
const fn largest_mss(remote: &IpAddr) -> u16 {
    if remote.is_ipv4() { 1460 } else { 1440 }
}

/// Connections of one listener that were given out before their third ACK: `PendingFastOpenRequests`
/// of RFC 7413, and what became of deferred requests.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pending: u32,
    /// When the resets of those that still count came, the oldest first.
    resets: VecDeque<Instant>,
}

impl Backlog {
    /// One more may be given out.
    pub(super) fn has_room(&mut self, now: Instant, limit: u32) -> bool {
        while self.resets.front().is_some_and(|at| now.since(*at) >= RESET_TERM) {
            self.resets.pop_front();
        }
        self.pending as usize + self.resets.len() < limit as usize
    }

    pub(super) fn enter(&mut self) {
        self.pending += 1;
    }

    pub(super) const fn pending(&self) -> u32 {
        self.pending
    }

    fn leave(&mut self, reset_at: Option<Instant>) {
        self.pending = self.pending.saturating_sub(1);
        self.resets.extend(reset_at);
    }
}

impl<B: PacketBuf> Stack<B> {
    /// As [`Stack::connect`], with the first data: it is queued as by [`Stack::send`], and what fits
    /// goes out with the SYN where the server's cookie is known (RFC 7413); the SYN asks for one
    /// where it is not. Answers how many octets of `early` were queued: less than all of them when they are
    /// more than the send buffer takes, or when memory is short.
    ///
    /// The stream is the same whatever the server, or a box on the way, makes of the SYN. But data
    /// on a SYN may reach the server's application twice, as two connections, when the SYN is
    /// repeated late (RFC 7413 §6.1): `early` must be such that this does no harm.
    ///
    /// # Errors
    /// As [`Stack::connect`].
    pub fn connect_with_data(
        &mut self,
        now: Instant,
        with: &Connect,
        early: &[u8],
    ) -> Result<(SocketId, usize), OpenError> {
        let id = self.connect(now, with)?;
        let queued = self.send(now, id, early).unwrap_or(0);
        // As it is learnt: packets do not repeat a scope.
        let way = (with.local, crate::udp::plain(with.remote));
        let Some((cookie, mss)) = self.fast_open.plan(now, way) else {
            return Ok((id, queued));
        };
        if queued == 0 && !cookie.is_request() {
            return Ok((id, queued));
        }
        let mss = if cookie.is_request() { 0 } else { mss };
        self.open_fast(id, Some(cookie), mss.min(largest_mss(&with.remote.ip())));
        Ok((id, queued))
    }

    /// As [`Stack::connect_with_data`], without Fast Open's option: what fits goes out with the first
    /// SYN. For a server that takes it all the same, like the converters of RFC 8803; any other
    /// leaves it, and has it again after the handshake.
    ///
    /// # Errors
    /// As [`Stack::connect`].
    pub fn connect_with_text(
        &mut self,
        now: Instant,
        with: &Connect,
        early: &[u8],
    ) -> Result<(SocketId, usize), OpenError> {
        let id = self.connect(now, with)?;
        let queued = self.send(now, id, early).unwrap_or(0);
        if queued > 0 {
            self.open_fast(id, None, largest_mss(&with.remote.ip()));
        }
        Ok((id, queued))
    }

    /// The SYN that is about to leave gets `cookie`, and what of the first data fits a packet of `mss`.
    fn open_fast(&mut self, id: SocketId, cookie: Option<FastOpenCookie>, mss: u16) {
        let sock = self.resolve(id);
        let Some(idx) = self.blocks_of(id).first().copied() else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let room = usize::from(mss.min(tcb.mss).saturating_sub(SYN_OPTIONS));
        let data = match sock {
            _ if room == 0 => None,
            Some(Sock::Mptcp(owner)) => {
                self.connections.get(owner).and_then(|connection| connection.early_data(room))
            }
            _ => tcb.unsent.front().map(|first| first.slice(0..first.data_len().min(room))),
        };
        tcb.open_fast(cookie, data);
    }

    /// Cookies are made with `key` from now on; those of the key before are still accepted. Several
    /// stacks that serve one address must share keys (RFC 7413 §6.3.4), for which
    /// [`crate::config::StackConfig::fast_open_seed`] is enough where their clocks agree. Without a call the stack
    /// draws a new key every twelve hours; after one it leaves that to the caller.
    pub fn set_fast_open_key(&mut self, key: [u8; 16]) {
        let keys = &mut self.fast_open.keys;
        keys.former = core::mem::replace(&mut keys.current, key);
        keys.given = true;
    }

    /// A step of the engine is over; the handshake of a Fast Open may be, too. Comes before anybody
    /// acts on the outcome: the stream begins behind what the SYN brought.
    pub(super) fn settle_fast_open(
        &mut self,
        now: Instant,
        idx: u32,
        segment: Option<&Segment>,
        outcome: &Outcome,
    ) {
        if !outcome.established && outcome.closed.is_none() {
            return;
        }
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        if tcb.pending().is_some() {
            let reset = outcome.closed == Some(Some(ConnectionError::Reset));
            return self.leave_fast_open(idx, reset);
        }
        if tcb.behalf().is_some() {
            if let Some(segment) = segment.filter(|_| outcome.established) {
                tcb.note_answer(segment);
            }
            return;
        }
        let Some(Opening::Client(early)) = tcb.take_opening() else { return };
        let way = (tcb.ends.tuple().local_addr, tcb.ends.tuple().remote());
        if let Some(owner) = tcb.subflow.as_ref().map(|subflow| subflow.connection)
            && early.accepted > 0
            && let Some(connection) = self.connections.get_mut(owner)
        {
            connection.skip_early(early.accepted);
        }
        let syn_ack = segment.filter(|_| outcome.established);
        self.learn_from_syn(now, way, &early, syn_ack);
    }

    /// What became of a SYN with a Fast Open option (RFC 7413 §4.1.3, §4.2.2); without a SYN/ACK,
    /// nothing.
    fn learn_from_syn(
        &mut self,
        now: Instant,
        way: Way,
        early: &Early<B>,
        syn_ack: Option<&Segment>,
    ) {
        let (local, remote) = (way.0, way.1.ip());
        let granted = syn_ack.and_then(|s| s.fast_open).filter(|cookie| !cookie.is_request());
        if let Some(segment) = syn_ack {
            let mss = segment.mss.unwrap_or(default_mss(&remote));
            self.fast_open.learn(now, (local, remote), granted, mss);
        }
        if early.accepted > 0 {
            self.stats.tcp_fast_open_active += 1;
        } else if early.sent {
            self.stats.tcp_fast_open_active_fail += 1;
        }
        if !early.asked {
            return;
        }
        if early.accepted > 0 || granted.is_some() {
            self.fast_open.failures.remove(&way);
            return;
        }
        let lost = early.withdrawn;
        if lost && syn_ack.is_some() {
            self.stats.tcp_fast_open_blackhole += 1;
        }
        if !lost && syn_ack.is_some() {
            // Nobody knows this cookie any more.
            self.fast_open.cookies.remove(&(local, remote));
        }
        self.fast_open.failed(now, way);
    }

    /// A connection is proven, or gone, and counts no more; one that was reset still does for a while.
    pub(super) fn leave_fast_open(&mut self, idx: u32, reset: bool) {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let Some(listener) = tcb.pending().map(|pending| pending.listener) else { return };
        let _over = tcb.take_opening();
        let now = self.observer.now;
        if let Some(listener) = self.listeners.get_id_mut(listener) {
            // Without a cookie there is nothing that a reset could show to be stolen.
            let counts = reset && !listener.options.deferred;
            listener.fast_open.leave(counts.then_some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    const SEED: [u8; 32] = [3; 32];

    fn start() -> Instant {
        Instant::from_millis(1_000)
    }

    fn pair() -> [IpAddr; 2] {
        [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]
    }

    fn way(n: u32) -> Way {
        (pair()[0], SocketAddr::from((n.to_be_bytes(), 80)))
    }

    fn cookie(n: u8) -> FastOpenCookie {
        FastOpenCookie::new(&[n; 8]).unwrap()
    }

    #[test]
    fn a_cookie_is_good_for_its_pair_of_addresses_in_both_lengths() {
        let mut ours = FastOpen::new(SEED, start());
        let [local, remote] = pair();
        let mac = ours.mac(local, remote).to_be_bytes();
        let mut worth = |pair, cookie: &[u8]| ours.check(start(), pair, cookie);
        assert_eq!(worth(pair(), &mac), Worth::Good);
        assert_eq!(worth(pair(), &mac[..6]), Worth::Good);
        assert_eq!(worth(pair(), &mac[..4]), Worth::Nothing);
        assert_eq!(worth(pair(), &[]), Worth::Nothing);
        assert_eq!(worth(pair(), &[mac, mac].concat()), Worth::Nothing);
        assert_eq!(worth([remote, local], &mac), Worth::Nothing);
        assert_eq!(worth([local, IpAddr::from([10, 0, 0, 3])], &mac), Worth::Nothing);
        for bit in 0..64 {
            let wrong = u64::from_be_bytes(mac) ^ 1 << bit;
            assert_eq!(worth(pair(), &wrong.to_be_bytes()), Worth::Nothing);
        }
        let mut others = FastOpen::new([4; 32], start());
        assert_eq!(others.check(start(), pair(), &mac), Worth::Nothing);
    }

    #[test]
    fn a_key_is_accepted_for_one_life_after_its_own() {
        let [local, remote] = pair();
        for (age, worth) in [(11, Worth::Good), (13, Worth::Former), (25, Worth::Nothing)] {
            let mut ours = FastOpen::new(SEED, start());
            let mac = ours.mac(local, remote).to_be_bytes();
            let later = start() + Duration::from_secs(age * 3600);
            assert_eq!(ours.check(later, pair(), &mac), worth, "{age} hours");
            let fresh = ours.mac(local, remote).to_be_bytes();
            assert_eq!(ours.check(later, pair(), &fresh), Worth::Good, "{age} hours");
        }
        let mut ours = FastOpen::new(SEED, start());
        let mac = ours.mac(local, remote).to_be_bytes();
        for hours in [13, 23] {
            let later = start() + Duration::from_secs(hours * 3600);
            assert_eq!(ours.check(later, pair(), &mac), Worth::Former, "{hours} hours");
        }
        let later = start() + Duration::from_secs(26 * 3600);
        assert_eq!(ours.check(later, pair(), &mac), Worth::Nothing);
    }

    #[test]
    fn failures_are_remembered_for_longer_and_longer_until_it_works() {
        let mut known = FastOpen::new(SEED, start());
        let request = Some((FastOpenCookie::REQUEST, 536));
        assert_eq!(known.plan(start(), way(1)), request);
        known.failed(start(), way(1));
        assert_eq!(known.plan(start() + FIRST_TERM - Duration::from_millis(1), way(1)), None);
        assert_eq!(known.plan(start(), way(2)), request);
        let again = start() + FIRST_TERM;
        assert_eq!(known.plan(again, way(1)), request);
        known.failed(again, way(1));
        assert_eq!(known.plan(again + FIRST_TERM, way(1)), None);
        assert_eq!(known.plan(again + FIRST_TERM * 2, way(1)), request);
        for _ in 0..300 {
            known.failed(again, way(1));
        }
        assert_eq!(known.plan(again + FIRST_TERM * (1 << 9), way(1)), request);
    }

    #[test]
    fn a_cookie_is_good_for_every_port_and_one_of_our_addresses() {
        let mut known = FastOpen::new(SEED, start());
        let (local, remote) = way(1);
        known.learn(start(), (local, remote.ip()), Some(cookie(1)), 1000);
        assert_eq!(known.plan(start(), (local, remote)), Some((cookie(1), 1000)));
        let other_port = SocketAddr::new(remote.ip(), 443);
        assert_eq!(known.plan(start(), (local, other_port)), Some((cookie(1), 1000)));
        let other_local = (pair()[1], remote);
        assert_eq!(known.plan(start(), other_local), Some((FastOpenCookie::REQUEST, 536)));
        known.learn(start(), (local, remote.ip()), None, 1200);
        assert_eq!(known.plan(start(), way(1)), Some((cookie(1), 1200)));
        known.learn(start(), (local, remote.ip()), Some(cookie(2)), 1200);
        assert_eq!(known.plan(start(), way(1)), Some((cookie(2), 1200)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let mut known = FastOpen::new(SEED, start());
        for n in 0..3_000 {
            let now = start() + Duration::from_millis(u64::from(n));
            let (local, remote) = way(n);
            known.learn(now, (local, remote.ip()), Some(cookie(1)), 1000);
            known.failed(now, way(n));
            known.failures.remove(&way(0));
            assert!(known.plan(now, way(0)).is_some_and(|(cookie, _)| !cookie.is_request()));
        }
        assert_eq!(known.cookies.len(), MAX_COOKIES);
        assert_eq!(known.failures.len(), MAX_FAILURES);
    }

    #[test]
    fn resets_count_for_a_while() {
        let mut backlog = Backlog::default();
        assert!(!backlog.has_room(start(), 0));
        assert!(backlog.has_room(start(), 1));
        backlog.enter();
        assert!(!backlog.has_room(start(), 1));
        backlog.leave(Some(start()));
        assert!(!backlog.has_room(start() + RESET_TERM - Duration::from_millis(1), 1));
        assert!(backlog.has_room(start() + RESET_TERM, 1));
        backlog.enter();
        backlog.leave(None);
        assert!(backlog.has_room(start() + RESET_TERM, 1));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let keys = Keys::new(SEED, start());
        assert_eq!(std::format!("{keys:?}"), "Keys { .. }");
        assert_eq!(std::format!("{:?}", cookie(1)), "FastOpenCookie(8 octets)");
    }
}
