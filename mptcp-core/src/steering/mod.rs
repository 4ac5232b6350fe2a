//! Which of several stacks a packet belongs to, where each owns a share of the flows: its shard.
//!
//! Every flow has a *home*, by the hash with which ports spread packets over their queues. Nearly all belong
//! there: a listener's connections come into being where the first SYN goes, and a stack that opens one picks
//! a port that brings the answers home ([`crate::config::StackConfig::sharding`]). A subflow that joins a
//! connection belongs to that connection's shard, which the low bits of the token name; if it is not the home
//! of the subflow, the home keeps an entry for it. Datagrams go by the port of ours they are sent to, and so does TCP
//! to ports that are set aside for listeners of single shards ([`Layout::with_listening`]). Fragments go by their addresses,
//! and what they make is steered once more.
//!
//! Where a packet arrives changes nothing but the cost: [`Steering::arrived`] sends it home, and there
//! [`Steering::forwarded`] sends it on to whom the home knows as the owner. So a packet crosses twice at
//! most. [`crate::stack::Stack::poll_steering_note`] says which flows a stack has whose home is another
//! shard, and [`Steering::apply`] takes that there.
//!
//! Invariant: only a flow's home decides about it, so that two shards never differ about an owner.

mod packet;
mod table;
#[cfg(test)]
mod tests;
pub mod toeplitz;

use crate::config::EphemeralPorts;
use crate::rng::Rng;
pub use crate::tcp::Tuple;
use crate::time::Instant;
use crate::wire::IpHeader;
use core::net::IpAddr;
use packet::Flow;
use table::Table;

/// The flow of a segment, as far as that can be read without looking twice.
pub(crate) fn ends_of(packet: &[u8]) -> Option<Tuple> {
    match Flow::of(packet) {
        Flow::Tcp(tuple, tcp) if !tcp.is_empty() => Some(tuple),
        _ => None,
    }
}

/// Entries of the table that ports look up the low bits of a hash in.
pub const HASH_BUCKETS: usize = 128;
/// Buckets of tokens and of UDP ports, and the most shards there can be.
pub const MAX_SHARDS: u8 = 64;

/// How many shards there are and what belongs to whom. The same in every shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    shards: u8,
    /// Shards of the buckets of hashes; tokens and ports use the first half.
    buckets: [u8; HASH_BUCKETS],
    /// Ports of ours to which TCP goes by the port.
    listening: Option<EphemeralPorts>,
}

impl Layout {
    /// So many shards, 1 to 64; `None` for others.
    #[must_use]
    pub fn new(shards: u8) -> Option<Self> {
        if !(1..=MAX_SHARDS).contains(&shards) {
            return None;
        }
        let buckets = core::array::from_fn(|bucket| bucket as u8 % shards);
        Some(Self { shards, buckets, listening: None })
    }

    /// TCP to these ports of ours, too, goes by the port: a listener there is at one shard, whoever comes. Ports
    /// spread packets without knowing that, so what comes in at another queue crosses.
    #[must_use]
    pub const fn with_listening(self, listening: Option<EphemeralPorts>) -> Self {
        Self { listening, ..self }
    }

    /// Whether TCP to this port of ours goes by it.
    #[must_use]
    pub const fn goes_by_port(&self, port: u16) -> bool {
        match self.listening {
            Some(ports) => ports.first <= port && port <= ports.last,
            None => false,
        }
    }

    /// How many shards.
    #[must_use]
    pub const fn shards(&self) -> u8 {
        self.shards
    }

    /// What to give to ports as their redirection table: the shard, which is the queue, of each value of a
    /// hash's low bits.
    #[must_use]
    pub const fn redirection(&self) -> &[u8; HASH_BUCKETS] {
        &self.buckets
    }

    /// The home of flows with this hash ([`toeplitz`]).
    #[must_use]
    pub const fn shard_of_hash(&self, hash: u32) -> u8 {
        self.buckets[hash as usize % HASH_BUCKETS]
    }

    /// The home of a flow.
    #[must_use]
    pub fn shard_of_flow(&self, tuple: &Tuple) -> u8 {
        if self.goes_by_port(tuple.local_port) {
            return self.shard_of_port(tuple.local_port);
        }
        self.shard_of_hash(toeplitz::of_tuple(tuple))
    }

    /// Where fragments between two hosts meet, which have no ports but for the first one. It is where ports that have
    /// the key bring them: no hash of theirs goes beyond the addresses of a fragment.
    #[must_use]
    pub fn shard_of_fragments(&self, src: IpAddr, dst: IpAddr) -> u8 {
        self.shard_of_hash(toeplitz::of_addresses(src, dst))
    }

    /// The owner of the connection with this token.
    #[must_use]
    pub const fn shard_of_token(&self, token: u32) -> u8 {
        self.buckets[token as usize % MAX_SHARDS as usize]
    }

    /// The owner of the datagram sockets with this port, and of listeners that were put there for one shard.
    #[must_use]
    pub const fn shard_of_port(&self, port: u16) -> u8 {
        self.buckets[port as usize % MAX_SHARDS as usize]
    }
}

/// One of several shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sharding {
    /// All of them.
    pub layout: Layout,
    /// This one; below their number.
    pub own: u8,
}

/// How many flows that others own a home remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SteeringLimits {
    /// Those whose owner has not confirmed them: the oldest makes room.
    pub pending: u32,
    /// Those whose owner has: the one used least recently makes room.
    pub confirmed: u32,
}

impl Default for SteeringLimits {
    fn default() -> Self {
        Self { pending: 8_192, confirmed: 65_536 }
    }
}

/// What an owner tells the home of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SteeringNote {
    /// Whom to tell.
    pub home: u8,
    /// Who tells.
    pub owner: u8,
    /// The flow, from our point of view.
    pub tuple: Tuple,
    /// The owner has it; otherwise it has not, or not any more.
    pub joined: bool,
}

/// What steering did. Ever growing but for the last two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SteeringStats {
    /// Packets that arrived here and were sent to their home, or to the owner of their UDP port.
    pub sent_home: u64,
    /// Packets whose home is here and that were sent to their owner.
    pub sent_to_owner: u64,
    /// Joins whose home is here and whose owner is another shard.
    pub joins_noted: u64,
    /// Flows forgotten before their owner had confirmed them, for lack of room.
    pub pending_displaced: u64,
    /// Confirmed flows forgotten for lack of room.
    pub confirmed_displaced: u64,
    /// Flows remembered now that their owner has not confirmed.
    pub pending: u32,
    /// Flows remembered now that their owner has confirmed.
    pub confirmed: u32,
}

/// Decides for one shard whose a packet is. O(1), but for the options of a SYN.
pub struct Steering {
    layout: Layout,
    own: u8,
    table: Table,
    stats: SteeringStats,
}

impl core::fmt::Debug for Steering {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Steering").field("own", &self.own).field("stats", &self.stats()).finish()
    }
}

impl Steering {
    /// Steering of the shard `sharding.own`; memory is reserved here. Peers choose what is looked up:
    /// `rng` must be secret.
    #[must_use]
    pub fn new(sharding: &Sharding, limits: SteeringLimits, rng: &mut Rng) -> Self {
        let Sharding { layout, own } = sharding.clone();
        let limits = match layout.shards() {
            1 => SteeringLimits { pending: 0, confirmed: 0 },
            _ => limits,
        };
        let table = Table::new(limits.pending, limits.confirmed, rng);
        Self { layout, own, table, stats: SteeringStats::default() }
    }

    /// The shard to hand an IP packet to that came from a port to this one; its own number to keep it.
    /// `is_known` says whether this shard's stack has a flow: [`crate::stack::Stack::has_flow`].
    #[inline]
    pub fn arrived(
        &mut self,
        now: Instant,
        packet: &[u8],
        is_known: impl FnOnce(&Tuple) -> bool,
    ) -> u8 {
        if self.layout.shards == 1 {
            return self.own;
        }
        let (tuple, tcp) = match Flow::of(packet) {
            Flow::Tcp(tuple, tcp) => (tuple, tcp),
            Flow::Udp(port) => return self.sent_home(self.layout.shard_of_port(port)),
            Flow::Nobody => return self.fragment_arrived(packet),
        };
        let home = self.layout.shard_of_flow(&tuple);
        if home == self.own { self.owner(now, &tuple, tcp, is_known) } else { self.sent_home(home) }
    }

    /// The same for a packet that another shard handed over: from where it arrived, if this is its home, or
    /// from its home.
    #[inline]
    pub fn forwarded(
        &mut self,
        now: Instant,
        packet: &[u8],
        is_known: impl FnOnce(&Tuple) -> bool,
    ) -> u8 {
        match Flow::of(packet) {
            Flow::Tcp(tuple, tcp) if self.layout.shard_of_flow(&tuple) == self.own => {
                self.owner(now, &tuple, tcp, is_known)
            }
            _ => self.own,
        }
    }

    /// A packet that [`Steering::arrived`] was about to send home stays here: this shard is its owner, and a rule of the
    /// port has brought it.
    pub const fn stays(&mut self) {
        self.stats.sent_home = self.stats.sent_home.saturating_sub(1);
    }

    /// Takes what an owner told this shard.
    pub fn apply(&mut self, now: Instant, note: &SteeringNote) {
        if note.joined {
            let displaced = self.table.confirm(now, &note.tuple, note.owner);
            self.stats.confirmed_displaced += u64::from(displaced);
        } else {
            self.table.remove(&note.tuple, note.owner);
        }
    }

    /// What was done until now.
    #[must_use]
    pub const fn stats(&self) -> SteeringStats {
        SteeringStats {
            pending: self.table.pending(),
            confirmed: self.table.confirmed(),
            ..self.stats
        }
    }

    /// Where a packet without ports goes: a fragment to where it meets the others, anything else nowhere.
    #[cold]
    fn fragment_arrived(&mut self, packet: &[u8]) -> u8 {
        match IpHeader::parse(packet) {
            Ok(header) if header.fragment => {
                self.sent_home(self.layout.shard_of_fragments(header.src, header.dst))
            }
            _ => self.own,
        }
    }

    fn sent_home(&mut self, to: u8) -> u8 {
        self.stats.sent_home += u64::from(to != self.own);
        to
    }

    /// The owner of a flow whose home is here. What has an owner keeps it until that one says otherwise: a
    /// SYN is easily forged, and must not lead away what is there. Nor must one for which nobody has vouched lead away
    /// what came after it: a connection of ours whose port was guessed.
    #[inline]
    fn owner(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        tcp: &[u8],
        is_known: impl FnOnce(&Tuple) -> bool,
    ) -> u8 {
        let owner = match self.table.find(now, tuple) {
            Some((owner, confirmed)) => {
                let stays = !confirmed && is_known(tuple);
                if stays { self.own } else { owner }
            }
            None => match packet::join_token(tcp) {
                None => return self.own,
                Some(token) => self.owner_of_join(now, tuple, token, is_known),
            },
        };
        self.stats.sent_to_owner += u64::from(owner != self.own);
        owner
    }

    #[cold]
    fn owner_of_join(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        token: u32,
        is_known: impl FnOnce(&Tuple) -> bool,
    ) -> u8 {
        let owner = self.layout.shard_of_token(token);
        if owner == self.own || is_known(tuple) {
            return self.own;
        }
        self.stats.joins_noted += 1;
        let displaced = self.table.add(now, tuple, owner);
        self.stats.pending_displaced += u64::from(displaced);
        owner
    }
}
