//! The neighbour table of one shard: ARP and NDISC in one state machine (RFC 826, RFC 4861 §7.3).
//!
//! Invariants: the table never exceeds its capacity. Next hops of the configuration are pinned and
//! never leave it. An address that does not answer cannot push out one that did: the two kinds have
//! separate least-recently-used lists, the first kind a quarter of the room. Packets waiting for an
//! answer are bounded per neighbour and in all.

use super::frame::Mac;
use super::route::Hop;
use crate::counters::{DropReason, L2Event, ShardCounters};
use core::net::IpAddr;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::util::bucket::TokenBucket;
use mptcp_core::util::list::IndexList;
use mptcp_core::util::slab::{Slab, SlabId};
use smoltcp::wire::EthernetAddress;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// REACHABLE_TIME of RFC 4861 §10; ARP entries age alike.
const REACHABLE_TIME: Duration = Duration::from_secs(30);
/// RETRANS_TIMER.
const RETRANS_TIMER: Duration = Duration::from_secs(1);
/// MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT.
const MAX_SOLICIT: u8 = 3;
/// How long a neighbour that did not answer is not asked again.
const HOLD_DOWN: Duration = Duration::from_secs(2);
/// Recency of use is kept to this precision.
const TOUCH_INTERVAL: Duration = Duration::from_millis(100);
/// Packets that wait for one neighbour; the newest replaces the oldest (RFC 4861 §7.2.2).
const MAX_WAITING: usize = 8;
/// Packets that wait for any.
const MAX_WAITING_ALL: usize = 512;
/// Searches begun per second; strangers can cause them by spoofing on-link sources.
const SEARCHES_PER_S: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Asked `tries` times, no answer yet.
    Incomplete { tries: u8 },
    /// Confirmed until then.
    Reachable { until: Instant },
    /// Known but unconfirmed: used, and probed when used.
    Stale,
    /// Used while `tries` unicast probes are out.
    Probe { tries: u8 },
    /// Did not answer; not asked again before then.
    Failed { until: Instant },
}

struct Entry<B> {
    hop: Hop,
    mac: Mac,
    state: State,
    pinned: bool,
    /// When it was last moved to the end of its list.
    touched: Instant,
    waiting: VecDeque<B>,
    /// When the search or the probe goes on; what `timers` has.
    deadline: Option<Instant>,
}

/// What to do with a packet for a neighbour.
#[derive(Debug)]
pub(crate) enum Resolution<B> {
    /// Send it there; when `probe`, ask that station whether it is still the one.
    Known { neighbour: SlabId, mac: Mac, probe: bool, packet: B },
    /// It waits (or was dropped and counted); when `ask`, ask everybody.
    Waiting { ask: bool },
    /// The neighbour did not answer lately.
    Unreachable(B),
}

/// A question that is due.
#[derive(Debug)]
pub(crate) enum Due<B> {
    /// Ask everybody on the link.
    Ask(Hop),
    /// Ask that station.
    Probe(Hop, Mac),
    /// Nobody answered; these packets waited.
    Failed(Hop, VecDeque<B>),
}

/// What a message says about a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// Its station address, when named.
    pub(crate) mac: Option<Mac>,
    /// It answers a question of ours.
    pub(crate) solicited: bool,
    /// It may replace another station address.
    pub(crate) overrides: bool,
    /// The sender talks to us, so that we shall need it: worth an entry if there is room.
    pub(crate) wanted: bool,
}

/// A neighbour that was being looked for.
#[derive(Debug)]
pub(crate) struct Found<B> {
    /// Its station address.
    pub(crate) mac: Mac,
    /// Packets that waited for it.
    pub(crate) waiting: VecDeque<B>,
}

/// The table.
pub(crate) struct Neighbours<B> {
    entries: Slab<Entry<B>>,
    /// Keys are chosen by whoever sends packets from on-link addresses: the default hasher is keyed.
    by_hop: HashMap<(u8, IpAddr), u32>,
    /// Known station addresses, least recently used first.
    proven: IndexList,
    /// Searches and failures, oldest first.
    unproven: IndexList,
    max_proven: u32,
    max_unproven: u32,
    timers: BTreeSet<(Instant, u32)>,
    waiting: usize,
    searches: TokenBucket,
    counters: Arc<ShardCounters>,
}

impl<B> Neighbours<B> {
    /// A table for `capacity` neighbours besides the pinned ones.
    pub(crate) fn new(
        capacity: u32,
        pinned: impl Iterator<Item = Hop>,
        counters: Arc<ShardCounters>,
    ) -> Self {
        let pinned: BTreeSet<(u8, IpAddr)> = pinned.map(|hop| (hop.port.0, hop.addr)).collect();
        let capacity = capacity.clamp(16, 1 << 20);
        let slots = capacity + u32::try_from(pinned.len()).unwrap_or(capacity);
        let mut table = Self {
            entries: Slab::with_capacity(slots),
            by_hop: HashMap::with_capacity(slots as usize),
            proven: IndexList::with_capacity(slots),
            unproven: IndexList::with_capacity(slots),
            max_proven: capacity - capacity / 4,
            max_unproven: capacity / 4,
            timers: BTreeSet::new(),
            waiting: 0,
            searches: TokenBucket::new(SEARCHES_PER_S),
            counters,
        };
        for (port, addr) in pinned {
            let hop = Hop { port: mptcp_core::buf::PortId(port), addr };
            table.insert(hop, State::Failed { until: Instant::MIN }, true);
        }
        table
    }

    /// Neighbours in the table.
    pub(crate) fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Packets waiting for an answer.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Pinned neighbours, in no particular order.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = Hop> {
        self.entries.iter().filter(|(_, entry)| entry.pinned).map(|(_, entry)| entry.hop)
    }

    /// The station address of a neighbour that needs no question now.
    pub(crate) fn confirmed(&mut self, now: Instant, neighbour: SlabId) -> Option<Mac> {
        let entry = self.entries.get_id_mut(neighbour)?;
        let State::Reachable { until } = entry.state else { return None };
        if until <= now {
            return None;
        }
        let mac = entry.mac;
        if now.since(entry.touched) >= TOUCH_INTERVAL
            && let Some(idx) = self.entries.index_of(neighbour)
        {
            self.touch(now, idx);
        }
        Some(mac)
    }

    /// Decides on `packet`, which is bound for `hop`.
    pub(crate) fn resolve(&mut self, now: Instant, hop: Hop, packet: B) -> Resolution<B> {
        let Some(&idx) = self.by_hop.get(&(hop.port.0, hop.addr)) else {
            return self.search_new(now, hop, packet);
        };
        let Some(entry) = self.entries.get_mut(idx) else {
            return Resolution::Unreachable(packet);
        };
        if let State::Reachable { until } = entry.state
            && until <= now
        {
            entry.state = State::Stale;
        }
        let mac = entry.mac;
        match entry.state {
            State::Reachable { .. } | State::Probe { .. } | State::Stale => {
                let probe = entry.state == State::Stale;
                if probe {
                    entry.state = State::Probe { tries: 1 };
                    self.arm(idx, now + RETRANS_TIMER);
                }
                self.touch(now, idx);
                match self.entries.id(idx) {
                    Some(neighbour) => Resolution::Known { neighbour, mac, probe, packet },
                    None => Resolution::Unreachable(packet),
                }
            }
            State::Incomplete { .. } => {
                self.wait(idx, packet);
                Resolution::Waiting { ask: false }
            }
            State::Failed { until } if until > now => Resolution::Unreachable(packet),
            State::Failed { .. } => {
                if !entry.pinned && !self.searches.take(now) {
                    self.counters.dropped(DropReason::NeighbourRate, 1);
                    return Resolution::Waiting { ask: false };
                }
                self.ask(now, idx);
                self.wait(idx, packet);
                Resolution::Waiting { ask: true }
            }
        }
    }

    /// Starts looking for a pinned neighbour before anything is sent to it. True when the question
    /// is to be asked.
    pub(crate) fn search(&mut self, now: Instant, hop: Hop) -> bool {
        let Some(&idx) = self.by_hop.get(&(hop.port.0, hop.addr)) else { return false };
        let failed = self.entries.get(idx).map(|entry| entry.state);
        let startable = matches!(failed, Some(State::Failed { until }) if until <= now);
        if startable {
            self.ask(now, idx);
        }
        startable
    }

    /// Takes in what a message says about the neighbour at `hop` (RFC 4861 §7.2.3, §7.2.5).
    pub(crate) fn learn(&mut self, now: Instant, hop: Hop, claim: Claim) -> Option<Found<B>> {
        let Some(&idx) = self.by_hop.get(&(hop.port.0, hop.addr)) else {
            if let Some(mac) = claim.mac.filter(|_| claim.wanted) {
                self.insert_known(hop, mac);
            }
            return None;
        };
        let entry = self.entries.get_mut(idx)?;
        let asked = matches!(entry.state, State::Incomplete { .. } | State::Probe { .. });
        let confirmed = claim.solicited && asked;
        let reachable = State::Reachable { until: now + REACHABLE_TIME };
        if matches!(entry.state, State::Incomplete { .. } | State::Failed { .. }) {
            entry.mac = claim.mac?;
            entry.state = if confirmed { reachable } else { State::Stale };
            return self.found(idx);
        }
        let changes = claim.mac.is_some_and(|mac| mac != entry.mac);
        if changes && !claim.overrides {
            if matches!(entry.state, State::Reachable { .. }) {
                entry.state = State::Stale;
            }
            return None;
        }
        if let Some(mac) = claim.mac {
            entry.mac = mac;
        }
        if confirmed {
            entry.state = reachable;
            self.disarm(idx);
        } else if changes {
            entry.state = State::Stale;
            self.disarm(idx);
        }
        None
    }

    /// The next question that is due, or neighbour that failed; call until `None`.
    pub(crate) fn poll_due(&mut self, now: Instant) -> Option<Due<B>> {
        loop {
            let &(deadline, idx) = self.timers.first()?;
            if deadline > now {
                return None;
            }
            self.timers.pop_first();
            let Some(entry) = self.entries.get_mut(idx) else { continue };
            entry.deadline = None;
            let (hop, mac) = (entry.hop, entry.mac);
            match entry.state {
                State::Incomplete { tries } if tries < MAX_SOLICIT => {
                    entry.state = State::Incomplete { tries: tries + 1 };
                    self.arm(idx, now + RETRANS_TIMER);
                    return Some(Due::Ask(hop));
                }
                State::Incomplete { .. } => {
                    entry.state = State::Failed { until: now + HOLD_DOWN };
                    let waiting = core::mem::take(&mut entry.waiting);
                    self.waiting -= waiting.len();
                    self.counters.happened(L2Event::NeighboursFailed);
                    return Some(Due::Failed(hop, waiting));
                }
                State::Probe { tries } if tries < MAX_SOLICIT => {
                    entry.state = State::Probe { tries: tries + 1 };
                    self.arm(idx, now + RETRANS_TIMER);
                    return Some(Due::Probe(hop, mac));
                }
                State::Probe { .. } => {
                    // Perhaps another station has the address now.
                    self.ask(now, idx);
                    return Some(Due::Ask(hop));
                }
                State::Reachable { .. } | State::Stale | State::Failed { .. } => {}
            }
        }
    }

    /// When [`Neighbours::poll_due`] next has something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|&(deadline, _)| deadline)
    }

    fn search_new(&mut self, now: Instant, hop: Hop, packet: B) -> Resolution<B> {
        if !self.searches.take(now) {
            self.counters.dropped(DropReason::NeighbourRate, 1);
            return Resolution::Waiting { ask: false };
        }
        if self.unproven.len() >= self.max_unproven
            && let Some(oldest) = self.unproven.front()
        {
            self.remove(oldest);
        }
        let Some(idx) = self.insert(hop, State::Incomplete { tries: 1 }, false) else {
            self.counters.dropped(DropReason::NeighbourTableFull, 1);
            return Resolution::Waiting { ask: false };
        };
        self.arm(idx, now + RETRANS_TIMER);
        self.wait(idx, packet);
        Resolution::Waiting { ask: true }
    }

    /// An entry for somebody who talks to us; only into free room.
    fn insert_known(&mut self, hop: Hop, mac: Mac) {
        if self.proven.len() >= self.max_proven {
            return;
        }
        if let Some(idx) = self.insert(hop, State::Stale, false)
            && let Some(entry) = self.entries.get_mut(idx)
        {
            entry.mac = mac;
            self.unproven.remove(idx);
            self.proven.push_back(idx);
        }
    }

    fn insert(&mut self, hop: Hop, state: State, pinned: bool) -> Option<u32> {
        let idx = self.entries.insert(Entry {
            hop,
            mac: EthernetAddress::default(),
            state,
            pinned,
            touched: Instant::MIN,
            waiting: VecDeque::new(),
            deadline: None,
        })?;
        self.by_hop.insert((hop.port.0, hop.addr), idx);
        // Pinned entries are in neither list: they are never candidates for eviction.
        if !pinned {
            self.unproven.push_back(idx);
        }
        Some(idx)
    }

    /// Removes an entry, and with it the packets that waited for it.
    fn remove(&mut self, idx: u32) {
        self.disarm(idx);
        self.proven.remove(idx);
        self.unproven.remove(idx);
        if let Some(entry) = self.entries.remove(idx) {
            self.by_hop.remove(&(entry.hop.port.0, entry.hop.addr));
            self.waiting -= entry.waiting.len();
            self.counters.dropped(DropReason::NeighbourTableFull, entry.waiting.len());
        }
    }

    /// Starts (over) asking everybody.
    fn ask(&mut self, now: Instant, idx: u32) {
        let Some(entry) = self.entries.get_mut(idx) else { return };
        entry.state = State::Incomplete { tries: 1 };
        if self.proven.remove(idx) {
            if self.unproven.len() >= self.max_unproven
                && let Some(oldest) = self.unproven.front()
            {
                self.remove(oldest);
            }
            self.unproven.push_back(idx);
        }
        self.arm(idx, now + RETRANS_TIMER);
    }

    /// Queues `packet`, in place of the oldest when there is no room.
    fn wait(&mut self, idx: u32, packet: B) {
        let Some(entry) = self.entries.get_mut(idx) else { return };
        if entry.waiting.len() >= MAX_WAITING || self.waiting >= MAX_WAITING_ALL {
            self.counters.dropped(DropReason::NeighbourQueueFull, 1);
            if entry.waiting.pop_front().is_none() {
                return;
            }
            self.waiting -= 1;
        }
        self.waiting += 1;
        entry.waiting.push_back(packet);
    }

    /// A search succeeded.
    fn found(&mut self, idx: u32) -> Option<Found<B>> {
        self.disarm(idx);
        if self.unproven.remove(idx) {
            if self.proven.len() >= self.max_proven
                && let Some(oldest) = self.proven.front()
            {
                self.remove(oldest);
            }
            self.proven.push_back(idx);
        }
        self.counters.happened(L2Event::NeighboursResolved);
        let entry = self.entries.get_mut(idx)?;
        let waiting = core::mem::take(&mut entry.waiting);
        self.waiting -= waiting.len();
        Some(Found { mac: entry.mac, waiting })
    }

    fn touch(&mut self, now: Instant, idx: u32) {
        if let Some(entry) = self.entries.get_mut(idx) {
            entry.touched = now;
        }
        if self.proven.remove(idx) {
            self.proven.push_back(idx);
        }
    }

    fn arm(&mut self, idx: u32, deadline: Instant) {
        self.disarm(idx);
        if let Some(entry) = self.entries.get_mut(idx) {
            entry.deadline = Some(deadline);
            self.timers.insert((deadline, idx));
        }
    }

    fn disarm(&mut self, idx: u32) {
        if let Some(entry) = self.entries.get_mut(idx)
            && let Some(deadline) = entry.deadline.take()
        {
            self.timers.remove(&(deadline, idx));
        }
    }
}
