//! What is known of the paths of a shard: one verdict per peer network and port, which all
//! connections share (RFC 8684 §3.3.6).
//!
//! A path is down when a subflow times out on it and nobody's data was acknowledged over it in the
//! meantime; it is up again with the first answer. One that went down repeatedly must answer for a
//! while first. Every change has a generation, by which a connection notices it when it next has
//! something to send: nothing here walks over connections. The table has a fixed size.

use crate::buf::PortId;
use crate::rng::{KeyedHash, Rng};
use crate::stats::Counters;
use crate::tcp::Tuple;
use crate::time::{Duration, Instant};
use crate::util::slab::Slab;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use hashbrown::HashTable;

/// A path that was up for so long before it went down is steady.
const STEADY: Duration = Duration::from_secs(10);
/// What is delivered and lost on a path is counted over one to two of these.
const TRAFFIC_PERIOD: Duration = Duration::from_secs(1);
/// A path on which one octet in so many is lost is crowded, ...
const CROWD_DIVISOR: u64 = 16;
/// ... if so many subflows share it: fewer have the rate of a bad path to blame.
const CROWD_SUBFLOWS: u32 = 4;
/// Changes that wait to be read, at most; further ones are counted and not told.
const MAX_EVENTS: usize = 256;
/// A path that keeps going down must answer for at most so many probe intervals.
const PROBATION_MAX: u32 = 8;

/// What all connections hold of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathVerdict {
    /// It carries data.
    Up,
    /// Nothing comes back: it is probed, and carries data only where there is no other.
    Down,
    /// It answers again, but went down too often lately to be used at once.
    Probation,
}

impl PathVerdict {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Probation];

    /// Name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Probation => "probation",
        }
    }
}

/// One path of a stack: what its subflows found out together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathInfo {
    /// The peers' network: an IPv4 /24 or an IPv6 /48.
    pub network: IpAddr,
    /// The access port.
    pub port: PortId,
    /// Our address, where the routing table chooses the port.
    pub local: Option<IpAddr>,
    /// The verdict.
    pub verdict: PathVerdict,
    /// Since when.
    pub since: Instant,
    /// Subflows on it.
    pub subflows: u32,
    /// The last round trip measured; zero while none was.
    pub rtt: Duration,
    /// The shortest one.
    pub min_rtt: Duration,
    /// Timeouts of its subflows.
    pub timeouts: u64,
    /// Subflows that the peer reset.
    pub resets: u64,
    /// How often it went down.
    pub downs: u64,
}

/// A path's verdict changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathEvent {
    /// The peers' network: an IPv4 /24 or an IPv6 /48.
    pub network: IpAddr,
    /// The access port.
    pub port: PortId,
    /// Our address, where the routing table chooses the port.
    pub local: Option<IpAddr>,
    /// What it was.
    pub before: PathVerdict,
    /// What it is now.
    pub verdict: PathVerdict,
    /// How long it was as it was before.
    pub lasted: Duration,
    /// Subflows on it.
    pub subflows: u32,
}

/// The paths over one access port, as they are and as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccessHealth {
    /// Paths that are up, down, and on probation.
    pub up: u32,
    /// See `up`.
    pub down: u32,
    /// See `up`.
    pub probation: u32,
    /// How often a path went down.
    pub downs: u64,
    /// How often one came up again.
    pub ups: u64,
    /// Timeouts of subflows.
    pub timeouts: u64,
    /// Subflows that peers reset.
    pub resets: u64,
}

impl AccessHealth {
    /// Paths with this verdict.
    #[must_use]
    pub const fn count(&self, verdict: PathVerdict) -> u32 {
        match verdict {
            PathVerdict::Up => self.up,
            PathVerdict::Down => self.down,
            PathVerdict::Probation => self.probation,
        }
    }

    const fn count_mut(&mut self, verdict: PathVerdict) -> &mut u32 {
        match verdict {
            PathVerdict::Up => &mut self.up,
            PathVerdict::Down => &mut self.down,
            PathVerdict::Probation => &mut self.probation,
        }
    }
}

/// What connections share a verdict by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PathKey {
    network: IpAddr,
    port: PortId,
    local: Option<IpAddr>,
}

impl PathKey {
    fn new(local: IpAddr, remote: IpAddr, port: PortId) -> Self {
        let network = match remote {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80)),
        };
        // Without a port of its own it is our address that tells one access from the other.
        let local = (port == PortId::ROUTED).then_some(local);
        Self { network, port, local }
    }

    fn hash(&self, keyed: &KeyedHash) -> u64 {
        let words = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => [4, u64::from(v4.to_bits())],
            IpAddr::V6(v6) => [(v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
        };
        let [n1, n0] = words(self.network);
        let [l1, l0] = self.local.map_or([0, 0], words);
        keyed.hash_words(&[n1, n0, l1, l0, u64::from(self.port.0)])
    }
}

#[derive(Debug)]
struct Path {
    key: PathKey,
    hash: u64,
    subflows: u32,
    verdict: PathVerdict,
    since: Instant,
    /// Changes between up and not up.
    generation: u32,
    /// When anything sent over it was last acknowledged.
    heard: Option<Instant>,
    rtt: Duration,
    min_rtt: Duration,
    /// No probe before this, by subflows that wait for an answer of their own (first) and by those that
    /// do not: what the peer has forgotten says nothing about the path, and must not take every turn.
    probe_at: [Instant; 2],
    /// It has answered since then, without a timeout in between.
    answering: Option<Instant>,
    /// How often it went down without having been steady before.
    flaps: u8,
    timeouts: u64,
    resets: u64,
    downs: u64,
    traffic: Traffic,
}

/// Octets that were delivered, and that were found lost, in this period and in the one before.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    since: Instant,
    delivered: [u64; 2],
    lost: [u64; 2],
}

impl Traffic {
    const fn new(now: Instant) -> Self {
        Self { since: now, delivered: [0; 2], lost: [0; 2] }
    }

    fn note(&mut self, now: Instant, (delivered, lost): (u32, u32)) {
        let age = now.since(self.since);
        if age >= TRAFFIC_PERIOD {
            let recent = age < TRAFFIC_PERIOD * 2;
            let turned = |[this, _]: [u64; 2]| [0, if recent { this } else { 0 }];
            (self.delivered, self.lost) = (turned(self.delivered), turned(self.lost));
            self.since = now;
        }
        self.delivered[0] += u64::from(delivered);
        self.lost[0] += u64::from(lost);
    }

    fn is_lossy(&self, now: Instant) -> bool {
        let [delivered, lost] = [self.delivered, self.lost].map(|[this, last]| this + last);
        now.since(self.since) < TRAFFIC_PERIOD * 2 && lost > (delivered + lost) / CROWD_DIVISOR
    }
}

/// Where a subflow's path is in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathRef {
    idx: u32,
    /// Generation of the verdict that the subflow acts by.
    seen: u32,
}

impl PathRef {
    /// Nobody has looked for it yet.
    pub(crate) const UNKNOWN: Self = Self { idx: u32::MAX, seen: 0 };
    /// The table had no room.
    const NONE: Self = Self { idx: u32::MAX - 1, seen: 0 };

    pub(crate) fn is_unknown(self) -> bool {
        self == Self::UNKNOWN
    }
}

/// The paths of a stack.
#[derive(Debug)]
pub(crate) struct PathTable {
    keyed: KeyedHash,
    by_key: HashTable<(u64, u32)>,
    paths: Slab<Path>,
    /// By port, as far as there were paths: 256 at most.
    accesses: Vec<AccessHealth>,
    events: VecDeque<PathEvent>,
}

impl PathTable {
    pub(crate) fn new(rng: &mut Rng, capacity: u32) -> Self {
        Self {
            keyed: KeyedHash::new(rng),
            by_key: HashTable::with_capacity(2 * capacity as usize),
            paths: Slab::with_capacity(capacity),
            accesses: Vec::new(),
            events: VecDeque::new(),
        }
    }

    fn find(&self, key: &PathKey, hash: u64) -> Option<u32> {
        let is_it = |&(_, idx): &(u64, u32)| self.paths.get(idx).is_some_and(|p| p.key == *key);
        self.by_key.find(hash, is_it).map(|(_, idx)| *idx)
    }

    /// What is held of the path between two addresses over a port, if it is in use.
    pub(crate) fn verdict(
        &self,
        local: IpAddr,
        remote: IpAddr,
        port: PortId,
    ) -> Option<PathVerdict> {
        let key = PathKey::new(local, remote, port);
        let idx = self.find(&key, key.hash(&self.keyed))?;
        Some(self.paths.get(idx)?.verdict)
    }

    fn access(&mut self, port: PortId) -> &mut AccessHealth {
        let at = usize::from(port.0);
        if at >= self.accesses.len() {
            self.accesses.resize(at + 1, AccessHealth::default());
        }
        &mut self.accesses[at]
    }

    /// The paths by port.
    pub(crate) fn accesses(&self) -> impl Iterator<Item = (PortId, AccessHealth)> + '_ {
        (0..=u8::MAX).map(PortId).zip(self.accesses.iter().copied())
    }

    /// The next change that nobody has read.
    pub(crate) fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// Tells of what became of a path that was `(before, since)`.
    fn tell(
        &mut self,
        now: Instant,
        idx: u32,
        (before, since): (PathVerdict, Instant),
        stats: &mut Counters,
    ) {
        let Some(path) = self.paths.get(idx).filter(|path| path.verdict != before) else { return };
        let (key, verdict, subflows) = (path.key, path.verdict, path.subflows);
        let access = self.access(key.port);
        *access.count_mut(before) -= 1;
        *access.count_mut(verdict) += 1;
        match (before, verdict) {
            (_, PathVerdict::Up) => {
                access.ups += 1;
                stats.path_up += 1;
            }
            (PathVerdict::Up, _) => {
                access.downs += 1;
                stats.path_down += 1;
            }
            _ => {}
        }
        if self.events.len() >= MAX_EVENTS {
            stats.path_event_drop += 1;
            return;
        }
        let PathKey { network, port, local } = key;
        let lasted = now.since(since);
        let event = PathEvent { network, port, local, before, verdict, lasted, subflows };
        self.events.push_back(event);
    }

    /// It was heard of over a path at `heard`.
    fn note_answer(&mut self, heard: Instant, idx: u32, interval: Duration, stats: &mut Counters) {
        let Some(path) = self.paths.get_mut(idx).filter(|path| !path.up()) else { return };
        let was = (path.verdict, path.since);
        path.answered(heard, interval);
        self.tell(heard, idx, was, stats);
    }

    /// Counts a subflow in; `heard` is when it last received something. When the table is full, which
    /// is counted, the subflow goes by what it finds out itself.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        heard: Instant,
        interval: Duration,
        stats: &mut Counters,
    ) -> PathRef {
        let key = PathKey::new(tuple.local_addr, tuple.remote_addr, port);
        let hash = key.hash(&self.keyed);
        if let Some(idx) = self.find(&key, hash)
            && let Some(path) = self.paths.get_mut(idx)
        {
            path.subflows += 1;
            if heard > path.since {
                self.note_answer(heard, idx, interval, stats);
            }
            // Not yet acted upon, if it is not up.
            let seen = self
                .paths
                .get(idx)
                .map_or(0, |path| path.generation.wrapping_sub(u32::from(!path.up())));
            return PathRef { idx, seen };
        }
        let Some(idx) = self.paths.insert(Path::new(key, hash, now)) else {
            stats.path_table_full += 1;
            return PathRef::NONE;
        };
        self.by_key.insert_unique(hash, (hash, idx), |&(hash, _)| hash);
        self.access(port).up += 1;
        PathRef { idx, seen: 0 }
    }

    /// Counts a subflow out; a path without any is forgotten.
    pub(crate) fn leave(&mut self, path: PathRef) {
        let Some(entry) = self.paths.get_mut(path.idx) else { return };
        entry.subflows -= 1;
        if entry.subflows > 0 {
            return;
        }
        let (hash, port, verdict) = (entry.hash, entry.key.port, entry.verdict);
        *self.access(port).count_mut(verdict) -= 1;
        if let Ok(found) = self.by_key.find_entry(hash, |&(_, idx)| idx == path.idx) {
            found.remove();
        }
        self.paths.remove(path.idx);
    }

    /// What a subflow sent over it was acknowledged, with this round trip where one was measured:
    /// so many octets, and so many are now known to be lost.
    pub(crate) fn delivered(
        &mut self,
        now: Instant,
        path: PathRef,
        rtt: Option<Duration>,
        octets: (u32, u32),
        interval: Duration,
        stats: &mut Counters,
    ) {
        let Some(entry) = self.paths.get_mut(path.idx) else { return };
        entry.heard = Some(now);
        entry.traffic.note(now, octets);
        if let Some(rtt) = rtt {
            entry.rtt = rtt;
            entry.min_rtt = if entry.min_rtt.is_zero() { rtt } else { entry.min_rtt.min(rtt) };
        }
        self.note_answer(now, path.idx, interval, stats);
    }

    /// A probe over it was answered.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        path: PathRef,
        interval: Duration,
        stats: &mut Counters,
    ) {
        self.note_answer(now, path.idx, interval, stats);
    }

    /// A subflow timed out that has waited since `since`; `patience` is how long nobody may have
    /// heard anything for the path to be down.
    pub(crate) fn timed_out(
        &mut self,
        now: Instant,
        path: PathRef,
        since: Instant,
        patience: Duration,
        interval: Duration,
        stats: &mut Counters,
    ) {
        let Some(entry) = self.paths.get_mut(path.idx) else { return };
        entry.timeouts += 1;
        let (port, was) = (entry.key.port, (entry.verdict, entry.since));
        let quiet = now.since(entry.heard.map_or(since, |heard| heard.max(since)));
        if quiet < patience || entry.verdict == PathVerdict::Down {
            self.access(port).timeouts += 1;
            return;
        }
        let steady = entry.up() && now.since(entry.since) >= STEADY;
        entry.answering = None;
        if entry.up() {
            entry.flaps = if steady { 1 } else { entry.flaps.saturating_add(1) };
            entry.generation = entry.generation.wrapping_add(1);
            entry.downs += 1;
        }
        entry.verdict = PathVerdict::Down;
        entry.since = now;
        entry.probe_at = [now + interval; 2];
        self.access(port).timeouts += 1;
        self.tell(now, path.idx, was, stats);
    }

    /// It carries the data of many and loses much of it: a timeout says little.
    pub(crate) fn is_crowded(&self, now: Instant, path: PathRef) -> bool {
        let path = self.paths.get(path.idx);
        path.is_some_and(|path| path.subflows >= CROWD_SUBFLOWS && path.traffic.is_lossy(now))
    }

    /// The peer reset a subflow on it.
    pub(crate) fn reset(&mut self, path: PathRef) {
        if let Some(entry) = self.paths.get_mut(path.idx) {
            entry.resets += 1;
            let port = entry.key.port;
            self.access(port).resets += 1;
        }
    }

    /// The verdict, where it is not the one that `path` acts by: true when the path is up. `path`
    /// acts by it from now on.
    pub(crate) fn news(&self, path: &mut PathRef) -> Option<bool> {
        let entry = self.paths.get(path.idx)?;
        if entry.generation == path.seen {
            return None;
        }
        path.seen = entry.generation;
        Some(entry.up())
    }

    /// [`PathTable::news`] would have some.
    pub(crate) fn has_news(&self, path: PathRef) -> bool {
        self.paths.get(path.idx).is_some_and(|entry| entry.generation != path.seen)
    }

    /// Up, as far as is known.
    pub(crate) fn is_up(&self, path: PathRef) -> bool {
        self.paths.get(path.idx).is_none_or(Path::up)
    }

    /// When anything sent over it was last acknowledged, and the round trip that was measured last.
    pub(crate) fn last_heard(&self, path: PathRef) -> (Option<Instant>, Duration) {
        self.paths.get(path.idx).map_or((None, Duration::ZERO), |entry| (entry.heard, entry.rtt))
    }

    /// Whoever asks first when a probe is due may send it: `None`. The others are told when the next
    /// one is. `waits`: segments of the subflow itself are not acknowledged.
    pub(crate) fn take_probe(
        &mut self,
        now: Instant,
        path: PathRef,
        waits: bool,
        interval: Duration,
    ) -> Option<Instant> {
        let entry = self.paths.get_mut(path.idx)?;
        let [waiting, idle] = &mut entry.probe_at;
        let probe_at = if waits { waiting } else { idle };
        if *probe_at > now {
            return Some(*probe_at);
        }
        *probe_at = now + interval;
        None
    }

    pub(crate) fn len(&self) -> u32 {
        self.paths.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PathInfo> + '_ {
        self.paths.iter().map(|(_, path)| path.info())
    }

    /// As [`PathTable::iter`], in parts: those at the first `most` positions from `from` on, and where
    /// to go on.
    pub(crate) fn page(
        &self,
        from: u32,
        most: u32,
    ) -> (impl Iterator<Item = PathInfo> + '_, Option<u32>) {
        let (paths, next) = self.paths.page(from, most);
        (paths.map(Path::info), next)
    }
}

impl Path {
    fn info(&self) -> PathInfo {
        PathInfo {
            network: self.key.network,
            port: self.key.port,
            local: self.key.local,
            verdict: self.verdict,
            since: self.since,
            subflows: self.subflows,
            rtt: self.rtt,
            min_rtt: self.min_rtt,
            timeouts: self.timeouts,
            resets: self.resets,
            downs: self.downs,
        }
    }

    fn new(key: PathKey, hash: u64, now: Instant) -> Self {
        Self {
            key,
            hash,
            subflows: 1,
            verdict: PathVerdict::Up,
            since: now,
            generation: 0,
            heard: None,
            rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            probe_at: [now; 2],
            answering: None,
            flaps: 0,
            timeouts: 0,
            resets: 0,
            downs: 0,
            traffic: Traffic::new(now),
        }
    }

    fn up(&self) -> bool {
        self.verdict == PathVerdict::Up
    }

    /// It answers: up at once, unless it went down again and again.
    fn answered(&mut self, now: Instant, interval: Duration) {
        let first = *self.answering.get_or_insert(now);
        let intervals = match self.flaps {
            0..=2 => 0,
            flaps => (1 << u32::from(flaps - 3).min(31)).min(PROBATION_MAX),
        };
        if now.since(first) >= interval * intervals {
            self.verdict = PathVerdict::Up;
            self.since = now;
            self.generation = self.generation.wrapping_add(1);
        } else if self.verdict == PathVerdict::Down {
            self.verdict = PathVerdict::Probation;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests;
