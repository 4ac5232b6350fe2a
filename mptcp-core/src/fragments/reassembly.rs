//! Fragments of others until their datagrams are whole (RFC 791 §3.2, RFC 815, RFC 1122 §3.3.2, RFC 8200 §4.5).
//!
//! What may be forged decides the rules. Fragments that overlap end their datagram, and what else comes of it is
//! dropped in silence until its time is over (RFC 5722, for IPv4 too); only what comes twice, octet for octet, does no
//! harm. A first fragment has all headers, so that no later one writes over a port. Checksums are the reader's to
//! verify: what a port said about a fragment says nothing of the whole.
//!
//! Invariant: what is held pins no more memory than [`ReassemblyLimits`] says once a call is over, and a source, which is
//! an address of IPv4 or a network of 64 bits, no more than its share; the oldest datagram makes room. No call takes
//! more steps than a datagram may have fragments.

use crate::buf::PacketBuf;
use crate::rng::{KeyedHash, Rng};
use crate::stats::{Counters, DropReason};
use crate::time::{Duration, Instant};
use crate::util::list::IndexList;
use crate::util::slab::Slab;
use crate::wire::{ECN_CE, FragmentProblem, IpHeader, ReceivedFragment};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;
use hashbrown::HashTable;

/// How long the first fragment to come waits for the others: as long as with Linux. RFC 8200 §4.5 allows a minute, and
/// RFC 1122 §3.3.2 asks for one at least; but the 16 bits of IPv4 come again within seconds on a fast link, and fragments
/// of two datagrams are then taken for one (RFC 4963). Those of one datagram leave together: whoever has waited so long
/// for the rest has lost it.
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Fragments of one datagram at most: the longest one over a way of 296 octets, the narrowest there ever was for
/// datagrams of that length.
const MAX_PIECES: usize = 256;
/// Sources are told apart by a hash, which is secret.
const SOURCES: usize = 256;
/// What one source may have of all.
const SHARE: usize = 8;

/// How much may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblyLimits {
    /// Datagrams; at least 1.
    pub datagrams: u32,
    /// Memory that their fragments pin, in octets of truesize.
    pub bytes: usize,
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Outcome<B> {
    /// It waits for others, or was dropped and counted.
    Taken,
    /// It was the last that was missing: a whole packet, of whose checksum nothing is known.
    Whole(B),
    /// It was dropped and counted, and its sender may be told why.
    Refused(FragmentProblem, B),
}

/// A datagram whose time was over.
#[derive(Debug)]
pub struct Expired<B> {
    /// Its first fragment, if that had come: about others nobody is told (RFC 1122 §3.3.2).
    pub first: Option<B>,
}

/// Which datagram a fragment is a part of (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// Of IPv4 only: with IPv6 the first fragment says it.
    protocol: u8,
}

impl Key {
    fn of(fragment: &ReceivedFragment) -> Self {
        let IpHeader { src, dst, protocol, .. } = fragment.header;
        let protocol = if src.is_ipv4() { protocol } else { 0 };
        Self { src, dst, id: fragment.part.id, protocol }
    }

    fn hash(&self, keyed: &KeyedHash) -> u64 {
        let [src, dst] = [self.src, self.dst].map(words);
        let rest = u64::from(self.id) << 8 | u64::from(self.protocol);
        keyed.hash_words(&[src[0], src[1], dst[0], dst[1], rest])
    }

    /// Hosts of IPv6 have a network of 64 bits to choose their addresses from.
    fn source(&self, keyed: &KeyedHash) -> usize {
        let word = match self.src {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        keyed.hash_words(&[word]) as usize % SOURCES
    }
}

fn words(addr: IpAddr) -> [u64; 2] {
    match addr {
        IpAddr::V4(v4) => [0, u64::from(v4.to_bits())],
        IpAddr::V6(v6) => [(v6.to_bits() >> 64) as u64, v6.to_bits() as u64],
    }
}

/// A fragment that waits.
struct Piece<B> {
    start: usize,
    end: usize,
    /// The whole packet, its headers in front.
    packet: B,
}

/// What is there of one datagram.
struct Datagram<B> {
    key: Key,
    hash: u64,
    source: usize,
    expires: Instant,
    /// By their place, none over another.
    pieces: Vec<Piece<B>>,
    /// Octets in them.
    received: usize,
    /// Of the whole, once the last fragment has come.
    len: Option<usize>,
    /// Memory that the pieces pin.
    held: usize,
    /// The ECN fields that were seen, a bit for each.
    ecn: u8,
    /// Given up: whatever else comes is dropped.
    is_dead: bool,
}

/// Where a fragment belongs.
enum Place {
    /// In front of the piece with this position.
    At(usize),
    Duplicate,
    Overlap,
    /// It does not agree with the others about the end, or there are too many.
    Contradiction,
}

impl<B: PacketBuf> Datagram<B> {
    fn place(&self, fragment: &ReceivedFragment, data: &[u8]) -> Place {
        let start = fragment.part.offset;
        let end = start + data.len();
        let at = self.pieces.partition_point(|piece| piece.start < start);
        let next = self.pieces.get(at);
        if let Some(same) = next.filter(|next| (next.start, next.end) == (start, end)) {
            let is_last = self.len == Some(end);
            let octets = same.packet.data();
            let known = octets.get(octets.len() - (end - start)..);
            return if is_last != fragment.part.more && known == Some(data) {
                Place::Duplicate
            } else {
                Place::Overlap
            };
        }
        let behind = at.checked_sub(1).and_then(|at| self.pieces.get(at));
        if behind.is_some_and(|piece| piece.end > start)
            || next.is_some_and(|piece| piece.start < end)
        {
            return Place::Overlap;
        }
        let fits = match (self.len, fragment.part.more) {
            (Some(len), true) => end < len,
            (Some(_), false) => false,
            (None, true) => true,
            (None, false) => next.is_none(),
        };
        if fits && self.pieces.len() < MAX_PIECES { Place::At(at) } else { Place::Contradiction }
    }

    fn is_whole(&self) -> bool {
        self.len == Some(self.received)
    }

    /// RFC 3168 §5.3; `None` where it says to drop the datagram. Without marks the first fragment's counts.
    fn ecn(&self, first: u8) -> Option<u8> {
        const NOT_ECT: u8 = 1;
        match self.ecn & 1 << ECN_CE != 0 {
            true if self.ecn & NOT_ECT != 0 => None,
            true => Some(ECN_CE),
            false => Some(first),
        }
    }

    /// The whole packet, in a buffer from `alloc`, which gets the length.
    fn put_together(&self, alloc: impl FnOnce(usize) -> Option<B>) -> Result<B, Lost> {
        let first = self.pieces.first().ok_or(Lost::Malformed)?;
        let octets = first.packet.data();
        let fragment = ReceivedFragment::parse(octets).ok_or(Lost::Malformed)?;
        let ecn = self.ecn(fragment.header.ecn()).ok_or(Lost::Malformed)?;
        let head_len = fragment.head_len();
        let total_len = head_len + self.received;
        let mut whole = alloc(total_len).ok_or(Lost::NoMemory)?;
        let mut room = whole.append(total_len).ok_or(Lost::NoMemory)?;
        fragment.write_head(octets, self.received, ecn, room).ok_or(Lost::Malformed)?;
        room = room.get_mut(head_len..).ok_or(Lost::Malformed)?;
        for piece in &self.pieces {
            let octets = piece.packet.data();
            let len = piece.end - piece.start;
            let (into, rest) = room.split_at_mut_checked(len).ok_or(Lost::Malformed)?;
            into.copy_from_slice(octets.get(octets.len() - len..).ok_or(Lost::Malformed)?);
            room = rest;
        }
        whole.set_rx_port(first.packet.rx_meta().port);
        // A fragment of a fragment is nobody's datagram.
        match IpHeader::parse(whole.data()) {
            Ok(header) if !header.fragment => Ok(whole),
            _ => Err(Lost::Malformed),
        }
    }
}

/// Why a datagram that had all its fragments came to nothing.
enum Lost {
    Malformed,
    NoMemory,
}

/// What one source, or several with one hash, has.
#[derive(Default)]
struct Source {
    held: usize,
    /// The oldest first.
    datagrams: VecDeque<u32>,
}

/// See the module.
pub struct Reassembler<B> {
    keyed: KeyedHash,
    index: HashTable<u32>,
    datagrams: Slab<Datagram<B>>,
    /// The oldest first, which is also the order in which their time is over.
    order: IndexList,
    sources: Vec<Source>,
    held: usize,
    limits: ReassemblyLimits,
}

impl<B> core::fmt::Debug for Reassembler<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reassembler")
            .field("datagrams", &self.datagrams.len())
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl<B: PacketBuf> Reassembler<B> {
    /// An empty one; its tables are reserved here. `rng` must be secret.
    #[must_use]
    pub fn new(limits: ReassemblyLimits, rng: &mut Rng) -> Self {
        let datagrams = limits.datagrams.max(1);
        Self {
            keyed: KeyedHash::new(rng),
            index: HashTable::with_capacity(2 * datagrams as usize),
            datagrams: Slab::with_capacity(datagrams),
            order: IndexList::with_capacity(datagrams),
            sources: core::iter::repeat_with(Source::default).take(SOURCES).collect(),
            held: 0,
            limits,
        }
    }

    /// Memory that waiting fragments pin.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Datagrams that wait, those given up included.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.datagrams.len()
    }

    /// Nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// When [`Reassembler::expire`] next has something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.datagrams.get(self.order.front()?).map(|datagram| datagram.expires)
    }

    /// Forgets the oldest datagram, if its time is over.
    pub fn expire(&mut self, now: Instant, stats: &mut Counters) -> Option<Expired<B>> {
        let idx = self.order.front()?;
        self.datagrams.get(idx).filter(|datagram| datagram.expires <= now)?;
        let mut datagram = self.remove(idx)?;
        if datagram.is_dead {
            return Some(Expired { first: None });
        }
        stats.ip_reasm_timeout += 1;
        give_up(&datagram, stats);
        datagram.pieces.truncate(1);
        let first = datagram.pieces.pop().filter(|piece| piece.start == 0);
        Some(Expired { first: first.map(|piece| piece.packet) })
    }

    /// Takes a fragment. `alloc` gives a buffer with room for as many octets as it is told.
    pub fn push(
        &mut self,
        now: Instant,
        mut packet: B,
        stats: &mut Counters,
        alloc: impl FnOnce(usize) -> Option<B>,
    ) -> Outcome<B> {
        stats.ip_reasm_reqds += 1;
        let Some(fragment) = ReceivedFragment::parse(packet.data()) else {
            return refuse(None, packet, stats);
        };
        packet.truncate(fragment.header.total_len);
        if let Err(problem) = fragment.check(packet.data()) {
            return refuse(problem, packet, stats);
        }
        let Some(idx) = self.datagram(now, Key::of(&fragment), stats) else {
            stats.drop(DropReason::IpFragment);
            return Outcome::Taken;
        };
        self.add(idx, &fragment, packet, stats);
        let Some(datagram) = self.datagrams.get(idx) else { return Outcome::Taken };
        if !datagram.is_whole() {
            self.make_room(idx, stats);
            return Outcome::Taken;
        }
        let Some(datagram) = self.remove(idx) else { return Outcome::Taken };
        match datagram.put_together(alloc) {
            Ok(whole) => {
                stats.ip_reasm_oks += 1;
                Outcome::Whole(whole)
            }
            Err(lost) => {
                match lost {
                    Lost::Malformed => stats.ip_reasm_malformed += 1,
                    Lost::NoMemory => stats.ip_reasm_no_memory += 1,
                }
                give_up(&datagram, stats);
                Outcome::Taken
            }
        }
    }

    /// The datagram with this key, a new one if there is none.
    fn datagram(&mut self, now: Instant, key: Key, stats: &mut Counters) -> Option<u32> {
        let hash = key.hash(&self.keyed);
        let is_it = |idx: &u32| self.datagrams.get(*idx).is_some_and(|it| it.key == key);
        if let Some(idx) = self.index.find(hash, is_it) {
            return Some(*idx);
        }
        let source = key.source(&self.keyed);
        let share = (self.limits.datagrams as usize / SHARE).max(1);
        let of_source = self.sources.get(source)?;
        let oldest = if of_source.datagrams.len() >= share {
            of_source.datagrams.front().copied()
        } else if self.datagrams.len() >= self.datagrams.capacity() {
            self.order.front()
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.displace(oldest, stats);
        }
        let idx = self.datagrams.insert(Datagram {
            key,
            hash,
            source,
            expires: now + REASSEMBLY_TIMEOUT,
            pieces: Vec::new(),
            received: 0,
            len: None,
            held: 0,
            ecn: 0,
            is_dead: false,
        })?;
        let Self { index, datagrams, .. } = self;
        index.insert_unique(hash, idx, |idx| datagrams.get(*idx).map_or(0, |it| it.hash));
        self.order.push_back(idx);
        self.sources.get_mut(source)?.datagrams.push_back(idx);
        Some(idx)
    }

    /// Puts a fragment in its place, or ends the datagram because of it.
    fn add(
        &mut self,
        idx: u32,
        fragment: &ReceivedFragment,
        packet: B,
        stats: &mut Counters,
    ) -> Option<()> {
        let datagram = self.datagrams.get_mut(idx)?;
        let source = self.sources.get_mut(datagram.source)?;
        if datagram.is_dead {
            stats.drop(DropReason::IpFragment);
            return None;
        }
        let data = fragment.data(packet.data());
        let at = match datagram.place(fragment, data) {
            Place::At(at) => at,
            Place::Duplicate => {
                stats.drop(DropReason::Duplicate);
                return None;
            }
            other => {
                match other {
                    Place::Overlap => stats.ip_reasm_overlaps += 1,
                    _ => stats.ip_reasm_malformed += 1,
                }
                stats.drop(DropReason::IpFragment);
                give_up(datagram, stats);
                self.held -= datagram.held;
                source.held -= datagram.held;
                *datagram =
                    Datagram { pieces: Vec::new(), held: 0, is_dead: true, len: None, ..*datagram };
                return None;
            }
        };
        let len = data.len();
        let (start, end) = (fragment.part.offset, fragment.part.offset + len);
        if !fragment.part.more {
            datagram.len = Some(end);
        }
        let size = packet.truesize() + size_of::<Piece<B>>();
        datagram.received += len;
        datagram.ecn |= 1 << fragment.header.ecn();
        datagram.held += size;
        datagram.pieces.insert(at, Piece { start, end, packet });
        self.held += size;
        source.held += size;
        Some(())
    }

    /// Forgets the oldest until the share of the source and the limit of all are kept.
    fn make_room(&mut self, idx: u32, stats: &mut Counters) {
        let Some(source) = self.datagrams.get(idx).map(|datagram| datagram.source) else { return };
        while let Some(of) = self.sources.get(source)
            && of.held > self.limits.bytes / SHARE
            && let Some(oldest) = of.datagrams.front().copied()
        {
            self.displace(oldest, stats);
        }
        while self.held > self.limits.bytes
            && let Some(oldest) = self.order.front()
        {
            self.displace(oldest, stats);
        }
    }

    fn displace(&mut self, idx: u32, stats: &mut Counters) {
        if let Some(datagram) = self.remove(idx)
            && !datagram.is_dead
        {
            stats.ip_reasm_no_memory += 1;
            give_up(&datagram, stats);
        }
    }

    fn remove(&mut self, idx: u32) -> Option<Datagram<B>> {
        let datagram = self.datagrams.remove(idx)?;
        self.order.remove(idx);
        if let Ok(entry) = self.index.find_entry(datagram.hash, |other| *other == idx) {
            entry.remove();
        }
        self.held -= datagram.held;
        if let Some(source) = self.sources.get_mut(datagram.source) {
            source.held -= datagram.held;
            source.datagrams.retain(|other| *other != idx);
        }
        Some(datagram)
    }
}

/// Counts a datagram that comes to nothing, and its fragments.
fn give_up<B>(datagram: &Datagram<B>, stats: &mut Counters) {
    stats.ip_reasm_fails += 1;
    for _ in &datagram.pieces {
        stats.drop(DropReason::IpFragment);
    }
}

fn refuse<B>(problem: Option<FragmentProblem>, packet: B, stats: &mut Counters) -> Outcome<B> {
    stats.ip_reasm_malformed += 1;
    stats.drop(DropReason::IpFragment);
    match problem {
        Some(problem) => Outcome::Refused(problem, packet),
        None => Outcome::Taken,
    }
}
