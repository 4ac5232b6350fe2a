//! Who a packet belongs to: the tables of 4-tuples, of tokens and of datagram sockets, and the
//! numbering that puts every object of a stack into one space for timers and readiness lists.
//!
//! What is looked up is chosen by peers, so tables hash with a secret key, but that of tokens: what is in there are
//! hashes of keys of ours. All are reserved at start-up and never grow (D7): the one of datagram sockets has twice the
//! room it needs, and what removals leave behind is swept in place.

use super::flows::{self, FlowTable};
use super::steering::Shard;
use crate::config::Limits;
use crate::rng::{KeyedHash, Rng};
use crate::tcp::Tuple;
use crate::util::tag_table::TagTable;
use core::net::{IpAddr, SocketAddr};
use hashbrown::HashTable;

/// What a 4-tuple leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Tcb(u32),
    Request(u32),
    TimeWait(u32),
}

/// Whose a token of ours is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenOwner {
    Connection(u32),
    /// Reserved until the third ACK makes a connection of the request.
    Request(u32),
}

/// A [`TokenOwner`] in four octets: requests have the upper bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PackedOwner(u32);

const OF_REQUEST: u32 = 1 << 31;

impl PackedOwner {
    const fn new(owner: TokenOwner) -> Self {
        match owner {
            TokenOwner::Connection(idx) => Self(idx),
            TokenOwner::Request(idx) => Self(OF_REQUEST | idx),
        }
    }

    const fn owner(self) -> TokenOwner {
        match self.0 & OF_REQUEST {
            0 => TokenOwner::Connection(self.0),
            _ => TokenOwner::Request(self.0 & !OF_REQUEST),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct UdpEntry {
    local: SocketAddr,
    socket: u32,
}

/// The lookup tables.
pub(crate) struct Demux {
    keyed: KeyedHash,
    flows: FlowTable,
    /// By a number that stands for the token: what a join with a made-up one asks for is not worth a look at any
    /// connection.
    tokens: TagTable,
    udp: HashTable<UdpEntry>,
    /// Where there are several.
    pub(super) shard: Option<Shard>,
}

/// Another number for each token. The lower bits of one may say which shard it is of, and others be prescribed: what
/// tells tokens apart has to be in the upper bits as well.
const fn token_tag(token: u32) -> u32 {
    token.wrapping_mul(0x9e37_79b1)
}

fn address_words(addr: IpAddr) -> (u64, u64) {
    match addr {
        IpAddr::V4(v4) => (0, u64::from(u32::from(v4))),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            ((bits >> 64) as u64, bits as u64)
        }
    }
}

fn udp_hash(keyed: &KeyedHash, local: SocketAddr) -> u64 {
    let (high, low) = address_words(local.ip());
    keyed.hash_words(&[high, low, u64::from(local.port())])
}

impl Demux {
    pub(crate) fn new(rng: &mut Rng, flows: usize, tokens: usize, udp: usize) -> Self {
        Self {
            keyed: KeyedHash::new(rng),
            flows: FlowTable::new(flows),
            tokens: TagTable::new(tokens),
            udp: HashTable::with_capacity(2 * udp),
            shard: None,
        }
    }

    /// What [`Demux::find`] wants to know.
    #[inline]
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        flows::hash(&self.keyed, tuple)
    }

    /// What a tuple with this hash leads to; `has_it` knows whose it is.
    #[inline]
    pub(crate) fn find(&self, hash: u64, has_it: impl Fn(Flow) -> bool) -> Option<Flow> {
        self.flows.find(hash, has_it)
    }

    /// What a tuple with this hash may lead to.
    pub(super) fn candidates(&self, hash: u64, note: impl FnMut(Flow)) {
        self.flows.candidates(hash, note);
    }

    /// Adds or replaces.
    pub(crate) fn insert(&mut self, tuple: &Tuple, flow: Flow, has_it: impl Fn(Flow) -> bool) {
        self.flows.insert(&self.keyed, tuple, flow, has_it);
        if let (Some(shard), Flow::Tcb(_)) = (&mut self.shard, flow) {
            shard.note(tuple);
        }
    }

    /// Removes the entry if it still leads to `flow`.
    pub(crate) fn remove(&mut self, tuple: &Tuple, flow: Flow) {
        let removed = self.flows.remove(&self.keyed, tuple, flow);
        if let (Some(shard), true) = (&mut self.shard, removed) {
            shard.note(tuple);
        }
    }

    pub(crate) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Who a token belongs to.
    fn owner_of(&self, token: u32) -> Option<TokenOwner> {
        self.tokens.find(token_tag(token), |_| true).map(|owner| PackedOwner(owner).owner())
    }

    /// The connection that a join with this token asks for.
    pub(crate) fn connection_of(&self, token: u32) -> Option<u32> {
        match self.owner_of(token) {
            Some(TokenOwner::Connection(connection)) => Some(connection),
            Some(TokenOwner::Request(_)) | None => None,
        }
    }

    pub(crate) fn token_free(&self, token: u32) -> bool {
        self.owner_of(token).is_none()
    }

    pub(crate) fn insert_token(&mut self, token: u32, owner: TokenOwner) {
        let there = self.tokens.insert(token_tag(token), PackedOwner::new(owner).0);
        debug_assert!(there, "no room for a token of {owner:?}");
    }

    pub(crate) fn remove_token(&mut self, token: u32, owner: TokenOwner) {
        self.tokens.remove(token_tag(token), PackedOwner::new(owner).0);
    }

    pub(crate) fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// The datagram socket bound to exactly this address and port.
    pub(crate) fn find_udp(&self, local: SocketAddr) -> Option<u32> {
        let hash = udp_hash(&self.keyed, local);
        self.udp.find(hash, |e| e.local == local).map(|e| e.socket)
    }

    /// Adds a binding; the caller made sure that there is none.
    pub(crate) fn insert_udp(&mut self, local: SocketAddr, socket: u32) {
        let keyed = &self.keyed;
        let hash = udp_hash(keyed, local);
        self.udp.insert_unique(hash, UdpEntry { local, socket }, |e| udp_hash(keyed, e.local));
    }

    /// Removes the binding if it still leads to `socket`.
    pub(crate) fn remove_udp(&mut self, local: SocketAddr, socket: u32) {
        let hash = udp_hash(&self.keyed, local);
        let found = |e: &UdpEntry| e.local == local && e.socket == socket;
        if let Ok(entry) = self.udp.find_entry(hash, found) {
            entry.remove();
        }
    }
}

/// One object of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Tcb(u32),
    Connection(u32),
    Request(u32),
    Listener(u32),
    TimeWait(u32),
    Udp(u32),
}

/// Numbers the objects of one stack: control blocks first, then connections, requests, listeners,
/// TIME-WAIT entries, datagram sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    connections: u32,
    requests: u32,
    listeners: u32,
    time_waits: u32,
    udp: u32,
    end: u32,
}

impl Numbering {
    pub(crate) const fn new(limits: &Limits) -> Self {
        let connections = limits.tcbs;
        let requests = connections + limits.connections;
        let listeners = requests + limits.half_open;
        let time_waits = listeners + limits.listeners;
        let udp = time_waits + limits.time_wait;
        Self { connections, requests, listeners, time_waits, udp, end: udp + limits.udp_sockets }
    }

    pub(crate) const fn capacity(&self) -> u32 {
        self.end
    }

    pub(crate) const fn number(&self, node: Node) -> u32 {
        match node {
            Node::Tcb(idx) => idx,
            Node::Connection(idx) => self.connections + idx,
            Node::Request(idx) => self.requests + idx,
            Node::Listener(idx) => self.listeners + idx,
            Node::TimeWait(idx) => self.time_waits + idx,
            Node::Udp(idx) => self.udp + idx,
        }
    }

    pub(crate) const fn node(&self, number: u32) -> Node {
        if number < self.connections {
            Node::Tcb(number)
        } else if number < self.requests {
            Node::Connection(number - self.connections)
        } else if number < self.listeners {
            Node::Request(number - self.requests)
        } else if number < self.time_waits {
            Node::Listener(number - self.listeners)
        } else if number < self.udp {
            Node::TimeWait(number - self.time_waits)
        } else {
            Node::Udp(number - self.udp)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::KeptTuple;
    use alloc::collections::BTreeMap;

    #[test]
    fn numbering_is_a_bijection() {
        let limits = Limits {
            tcbs: 3,
            connections: 2,
            half_open: 4,
            listeners: 1,
            time_wait: 5,
            udp_sockets: 6,
            ..Limits::default()
        };
        let numbering = Numbering::new(&limits);
        assert_eq!(numbering.capacity(), 21);
        for number in 0..numbering.capacity() {
            assert_eq!(numbering.number(numbering.node(number)), number);
        }
    }

    /// Who has which tuple, where there is no stack.
    fn among(tuples: &BTreeMap<u32, Tuple>, tuple: &Tuple) -> impl Fn(Flow) -> bool {
        |flow| {
            let (Flow::Tcb(idx) | Flow::Request(idx) | Flow::TimeWait(idx)) = flow;
            tuples.get(&idx).is_some_and(|of| KeptTuple::new(*of).is(tuple))
        }
    }

    #[test]
    fn flows_of_all_kinds_and_families_are_told_apart() {
        let mut demux = Demux::new(&mut Rng::from_seed([1; 32]), 16, 16, 16);
        let ends: [[IpAddr; 2]; 3] = [
            [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            // The same bits in another family are another address.
            [[0, 0, 0, 0, 0, 0, 0x0a00, 1].into(), [0, 0, 0, 0, 0, 0, 0x0a00, 2].into()],
            [[1, 0, 0, 0, 0, 0, 0x0a00, 1].into(), [0, 0, 0, 0, 0, 0, 0x0a00, 2].into()],
        ];
        let flows = [Flow::Tcb(0), Flow::Request(1 << 29), Flow::TimeWait(5)];
        let tuples = ends.map(|[local_addr, remote_addr]| Tuple {
            local_addr,
            remote_addr,
            local_port: 80,
            remote_port: 4000,
        });
        let all = [0, 1 << 29, 5].into_iter().zip(tuples).collect();
        for (tuple, flow) in tuples.iter().zip(flows) {
            demux.insert(tuple, flow, among(&all, tuple));
        }
        let find = |demux: &Demux, tuple: &Tuple| demux.find(demux.hash(tuple), among(&all, tuple));
        for (tuple, flow) in tuples.iter().zip(flows) {
            assert_eq!(find(&demux, tuple), Some(flow));
            assert_eq!(find(&demux, &Tuple { local_port: 81, ..*tuple }), None);
            assert_eq!(find(&demux, &Tuple { remote_port: 4001, ..*tuple }), None);
        }
        demux.remove(&tuples[1], Flow::TimeWait(1 << 29));
        assert_eq!(demux.flow_count(), 3);
    }

    #[test]
    fn flows_and_tokens_come_and_go() {
        let mut demux = Demux::new(&mut Rng::from_seed([1; 32]), 16, 16, 16);
        let tuple = Tuple {
            local_addr: IpAddr::from([10, 0, 0, 1]),
            remote_addr: IpAddr::from([10, 0, 0, 2]),
            local_port: 80,
            remote_port: 4000,
        };
        // A connection takes the place of its request, which is still there.
        let all = [(3, tuple), (9, tuple)].into();
        demux.insert(&tuple, Flow::Request(3), among(&all, &tuple));
        demux.insert(&tuple, Flow::Tcb(9), among(&all, &tuple));
        let find = |demux: &Demux| demux.find(demux.hash(&tuple), among(&all, &tuple));
        assert_eq!(find(&demux), Some(Flow::Tcb(9)));
        demux.remove(&tuple, Flow::Request(3));
        assert_eq!(demux.flow_count(), 1);
        demux.remove(&tuple, Flow::Tcb(9));
        assert_eq!(find(&demux), None);
        demux.insert_token(7, TokenOwner::Connection(1));
        assert_eq!(demux.connection_of(7), Some(1));
        demux.remove_token(7, TokenOwner::Connection(2));
        demux.remove_token(7, TokenOwner::Request(1));
        assert_eq!(demux.token_count(), 1);
        demux.remove_token(7, TokenOwner::Connection(1));
        assert_eq!(demux.connection_of(7), None);
        // Of a pending request: taken, but nobody joins it.
        demux.insert_token(7, TokenOwner::Request(1));
        assert_eq!((demux.connection_of(7), demux.token_free(7)), (None, false));
        demux.remove_token(7, TokenOwner::Request(1));
        assert!(demux.token_free(7));
        for owner in [TokenOwner::Connection(OF_REQUEST - 1), TokenOwner::Request(OF_REQUEST - 1)] {
            assert_eq!(PackedOwner::new(owner).owner(), owner);
        }
    }

    #[test]
    fn tables_have_room_for_all_however_long_entries_come_and_go() {
        const FULL: usize = 896;
        let mut demux = Demux::new(&mut Rng::from_seed([1; 32]), FULL, FULL, FULL);
        let tuple = |n: usize| {
            let (local_addr, remote_addr) = if n.is_multiple_of(2) {
                ([10, 0, 0, 1].into(), [10, 1, (n >> 8) as u8, n as u8].into())
            } else {
                let own = [0, 0, 0, 0, 0, 0, 0, 1].into();
                (own, [0, 0, 0, 0, 0, 0, (n >> 16) as u16, n as u16].into())
            };
            Tuple { local_addr, remote_addr, local_port: 80, remote_port: (n >> 16) as u16 }
        };
        let local = |n: usize| SocketAddr::new([10, 0, (n >> 16) as u8, 1].into(), n as u16);
        let reserved = demux.udp.num_buckets();
        let mut there = BTreeMap::new();
        for n in 0..100 * FULL {
            if let Some(old) = n.checked_sub(FULL) {
                demux.remove(&tuple(old), Flow::Tcb(old as u32));
                there.remove(&(old as u32));
                demux.remove_token(old as u32, TokenOwner::Connection(1));
                demux.remove_udp(local(old), 1);
            }
            there.insert(n as u32, tuple(n));
            demux.insert(&tuple(n), Flow::Tcb(n as u32), among(&there, &tuple(n)));
            demux.insert_udp(local(n), 1);
            demux.insert_token(n as u32, TokenOwner::Connection(1));
        }
        let counts = (demux.flow_count(), demux.token_count(), demux.udp.len());
        assert_eq!(counts, (FULL, FULL, FULL));
        assert_eq!(demux.udp.num_buckets(), reserved);
        for (n, tuple) in &there {
            let found = demux.find(demux.hash(tuple), among(&there, tuple));
            assert_eq!(found, Some(Flow::Tcb(*n)));
            assert_eq!(demux.connection_of(*n), Some(1));
        }
    }

    /// What an idle connection keeps is asserted at the end of `stack/mod.rs`; this is what finds it.
    #[test]
    fn t142_a_join_is_found_among_a_million_connections_at_once() {
        // Entries compared, and places looked at, while `asked` tokens are looked up among `there`, in hundredths of a
        // look-up.
        let compared = |there: u32, asked: &dyn Fn(u32) -> u32| {
            let mut demux = Demux::new(&mut Rng::from_seed([1; 32]), 0, there as usize, 0);
            // Different ones, as random as a hash is.
            let token = |n: u32| {
                let n = (n ^ n >> 16).wrapping_mul(0x85eb_ca6b);
                let n = (n ^ n >> 13).wrapping_mul(0xc2b2_ae35);
                n ^ n >> 16
            };
            for n in 0..there {
                demux.insert_token(token(n), TokenOwner::Connection(n));
            }
            let (mut compared, mut looked_at, mut found) = (0, 0, 0);
            for n in 0..10_000 {
                let tag = token_tag(token(asked(n * (there / 10_000))));
                let entry = demux.tokens.find(tag, |_| {
                    compared += 1;
                    true
                });
                looked_at += demux.tokens.looked_at(tag);
                found += u32::from(entry.is_some());
            }
            (compared / 100, looked_at / 100, found)
        };
        for there in [10_000, 1_000_000] {
            let (per_hundred, places, found) = compared(there, &|n| n);
            assert!(found == 10_000 && (100..105).contains(&per_hundred), "{there}: {per_hundred}");
            // A line or two.
            assert!(places < 400, "{there}: {places}");
            let (per_hundred, places, found) = compared(there, &|n| n + 2_000_000);
            assert!(found == 0 && per_hundred < 20, "{there}: {per_hundred}");
            assert!(places < 1_600, "{there}: {places}");
        }
    }

    #[test]
    fn bindings_come_and_go() {
        let mut demux = Demux::new(&mut Rng::from_seed([1; 32]), 16, 16, 16);
        let v4 = SocketAddr::from(([10, 0, 0, 1], 53));
        // The same bits in another family are another address.
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0x0a00, 1], 53));
        demux.insert_udp(v4, 3);
        demux.insert_udp(v6, 4);
        assert_eq!((demux.find_udp(v4), demux.find_udp(v6)), (Some(3), Some(4)));
        assert_eq!(demux.find_udp(SocketAddr::from(([10, 0, 0, 1], 54))), None);
        demux.remove_udp(v4, 4);
        assert_eq!(demux.find_udp(v4), Some(3));
        demux.remove_udp(v4, 3);
        assert_eq!((demux.find_udp(v4), demux.find_udp(v6)), (None, Some(4)));
    }
}
