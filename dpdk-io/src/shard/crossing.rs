//! How a shard works beside others: packets it hands over and takes over, notes about flows, and when
//! the last of them may leave.
//!
//! Invariant: a packet is handled here, staged for one other shard, or counted; nothing stays staged
//! beyond a turn, and nobody sleeps while something waits in a ring.

use crate::counters::{DropReason, ShardCounters};
use crate::rings::{BURST, Rings};
use core::sync::atomic::{AtomicUsize, Ordering};
use mptcp_core::buf::PacketBuf;
use mptcp_core::driver::Worker;
use mptcp_core::steering::{Steering, SteeringNote, Tuple};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpHeader, is_fragment};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

const PROTOCOL_TCP: u8 = 6;
/// Notes that may wait for one shard.
const MAX_NOTES: usize = 1024;
/// Notes taken per turn.
const NOTES_PER_TURN: usize = 256;

/// How many shards' workers have not stopped.
#[derive(Debug, Default)]
struct Roll(AtomicUsize);

/// A worker that has not stopped. When it has, by a panic too, that is noted.
#[derive(Debug)]
struct AtWork(Arc<Roll>);

impl AtWork {
    fn new(roll: &Arc<Roll>) -> Self {
        roll.0.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(roll))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One shard's ends of what leads to the others.
pub struct Exchange<B> {
    rings: Box<dyn Rings<B> + Send>,
    /// By shard.
    notes_to: Vec<SyncSender<SteeringNote>>,
    notes_from: Receiver<SteeringNote>,
    /// Who runs each shard, once it runs.
    threads: Arc<[OnceLock<Thread>]>,
    roll: Arc<Roll>,
}

impl<B> Exchange<B> {
    /// One for each of the shards whose ends of the rings these are.
    #[must_use]
    pub fn network(rings: Vec<Box<dyn Rings<B> + Send>>) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            rings.iter().map(|_| sync_channel(MAX_NOTES)).unzip();
        let threads: Arc<[_]> = rings.iter().map(|_| OnceLock::new()).collect();
        let roll = Arc::new(Roll::default());
        let ends = rings.into_iter().zip(receivers);
        let exchange = |(rings, notes_from)| Self {
            rings,
            notes_to: senders.clone(),
            notes_from,
            threads: Arc::clone(&threads),
            roll: Arc::clone(&roll),
        };
        ends.map(exchange).collect()
    }
}

impl<B> core::fmt::Debug for Exchange<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Exchange").field("roll", &self.roll).finish_non_exhaustive()
    }
}

/// See the module.
pub struct Crossing<B> {
    exchange: Exchange<B>,
    steering: Steering,
    own: u8,
    at_work: Option<AtWork>,
    has_left: bool,
    /// What leaves for each shard at the end of the turn.
    staged: Vec<Vec<B>>,
    arriving: Vec<B>,
    /// Fragments that others have handed over.
    fragments: VecDeque<B>,
    /// A note whose receiver had no room for it.
    held: Option<SteeringNote>,
    /// Where rules are made, if a port has any: owners' notes go there, too.
    rules: Option<SyncSender<SteeringNote>>,
}

impl<B: PacketBuf> Crossing<B> {
    /// Of shard `own`, whose steering this is.
    #[must_use]
    pub fn new(exchange: Exchange<B>, own: u8, steering: Steering) -> Self {
        let staged = exchange.notes_to.iter().map(|_| Vec::with_capacity(BURST)).collect();
        Self {
            exchange,
            steering,
            own,
            at_work: None,
            has_left: false,
            staged,
            arriving: Vec::new(),
            fragments: VecDeque::new(),
            held: None,
            rules: None,
        }
    }

    /// Ports may have rules that bring a flow to its owner at once. Homes ask for them here.
    #[must_use]
    pub fn with_rules(mut self, rules: Option<SyncSender<SteeringNote>>) -> Self {
        self.rules = rules;
        self
    }

    /// The worker begins, on this thread.
    pub(super) fn begin(&mut self) {
        if let Some(thread) = self.exchange.threads.get(usize::from(self.own)) {
            thread.get_or_init(std::thread::current);
        }
        self.at_work = Some(AtWork::new(&self.exchange.roll));
    }

    /// The worker has stopped; answers whether all others have, too.
    pub(super) fn leave(&mut self) -> bool {
        self.at_work = None;
        self.has_left = true;
        self.exchange.roll.0.load(Ordering::Acquire) == 0
    }

    /// The worker has stopped.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    /// A packet that came in by a port.
    #[inline]
    pub(super) fn arrived(
        &mut self,
        now: Instant,
        packet: B,
        worker: &impl Worker<B>,
        packets: &mut Vec<B>,
        counters: &ShardCounters,
    ) {
        let mut to = self.steering.arrived(now, packet.data(), |tuple| worker.has_flow(tuple));
        // Not at home here; a rule has brought it, or the port's whim.
        if to != self.own
            && self.rules.is_some()
            && flow(packet.data()).is_some_and(|tuple| worker.has_flow(&tuple))
        {
            to = self.own;
            self.steering.stays();
        }
        self.put(to, packet, packets, counters);
    }

    /// A fragment that came in by a port; gives it back where the others of its datagram come to this shard, too.
    pub(super) fn fragment(
        &mut self,
        now: Instant,
        packet: B,
        counters: &ShardCounters,
    ) -> Option<B> {
        let to = self.steering.arrived(now, packet.data(), |_| false);
        if to == self.own {
            return Some(packet);
        }
        self.stage(to, packet, counters);
        None
    }

    /// A fragment that another shard has handed over.
    pub(super) fn poll_fragment(&mut self) -> Option<B> {
        self.fragments.pop_front()
    }

    /// What other shards have sent, but for fragments; answers how many packets.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        worker: &impl Worker<B>,
        packets: &mut Vec<B>,
        counters: &ShardCounters,
    ) -> usize {
        let mut arriving = core::mem::take(&mut self.arriving);
        let count = self.exchange.rings.receive(&mut arriving);
        counters.taken_over.add(count as u64);
        for packet in arriving.drain(..) {
            if is_fragment(packet.data()) {
                self.fragments.push_back(packet);
                continue;
            }
            let to = self.steering.forwarded(now, packet.data(), |tuple| worker.has_flow(tuple));
            self.put(to, packet, packets, counters);
        }
        self.arriving = arriving;
        count
    }

    #[inline]
    fn put(&mut self, to: u8, packet: B, packets: &mut Vec<B>, counters: &ShardCounters) {
        if to == self.own {
            packets.push(packet);
        } else {
            self.stage(to, packet, counters);
        }
    }

    fn stage(&mut self, to: u8, packet: B, counters: &ShardCounters) {
        let Some(staged) = self.staged.get_mut(usize::from(to)) else { return };
        staged.push(packet);
        if staged.len() == BURST {
            self.send(usize::from(to), counters);
        }
    }

    /// Sends what is staged.
    pub(super) fn flush(&mut self, counters: &ShardCounters) {
        for to in 0..self.staged.len() {
            self.send(to, counters);
        }
    }

    fn send(&mut self, to: usize, counters: &ShardCounters) {
        let Some(staged) = self.staged.get_mut(to).filter(|staged| !staged.is_empty()) else {
            return;
        };
        let sent = self.exchange.rings.send(to, staged);
        // Behind its own sleep, which may be as long as the one here was, it would wait twice. Who is awake
        // is spared the system call, and does not fall asleep before it has looked at its rings again.
        if sent.moved > 0
            && let Some(thread) = self.exchange.threads.get(to).and_then(OnceLock::get)
        {
            thread.unpark();
        }
        counters.handed_over.add(sent.moved as u64);
        counters.dropped(DropReason::RingFull, sent.full);
        counters.dropped(DropReason::NoBuffer, sent.no_memory);
    }

    /// Tells others which of their flows the worker has, and learns which of ours they have.
    pub(super) fn exchange_notes(&mut self, now: Instant, worker: &mut impl Worker<B>) {
        while let Some(note) = self.held.take().or_else(|| worker.poll_steering_note()) {
            let to = self.exchange.notes_to.get(usize::from(note.home));
            if let Some(Err(TrySendError::Full(note))) = to.map(|to| to.try_send(note)) {
                self.held = Some(note);
                break;
            }
        }
        for note in self.exchange.notes_from.try_iter().take(NOTES_PER_TURN) {
            self.steering.apply(now, &note);
            if let Some(rules) = &self.rules {
                // Too busy, or gone: the flow crosses, as without rules.
                let _ = rules.try_send(note);
            }
        }
    }

    /// Makes steering's counts visible.
    pub(super) fn report(&self, counters: &ShardCounters) {
        let stats = self.steering.stats();
        counters.sent_home.set(stats.sent_home);
        counters.sent_to_owner.set(stats.sent_to_owner);
        counters.joins_steered.set(stats.joins_noted);
        counters.pending_displaced.set(stats.pending_displaced);
        counters.confirmed_displaced.set(stats.confirmed_displaced);
        counters.pending_flows.set(stats.pending.into());
        counters.confirmed_flows.set(stats.confirmed.into());
    }
}

/// The flow of a TCP segment, from our point of view.
fn flow(packet: &[u8]) -> Option<Tuple> {
    let header = IpHeader::parse(packet).ok().filter(|header| !header.fragment)?;
    let [s1, s0, d1, d0] = *packet.get(header.header_len..)?.first_chunk()?;
    (header.protocol == PROTOCOL_TCP).then_some(Tuple {
        local_addr: header.dst,
        remote_addr: header.src,
        local_port: u16::from_be_bytes([d1, d0]),
        remote_port: u16::from_be_bytes([s1, s0]),
    })
}
