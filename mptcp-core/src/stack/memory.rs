//! Packet memory that runs short: whose text is refused, and what makes room for text that somebody
//! can read.
//!
//! What waits behind a hole is of no use until the hole is filled, and its peer still has it: TCP may
//! throw away what it only acknowledged selectively (RFC 2018 §8), the data level also what TCP
//! acknowledged (RFC 8684 §3.3.2). So the segment that is next never waits for memory that holes pin,
//! and nobody can keep memory from the others by leaving holes open.
//!
//! What is queued for a peer cannot be thrown away, and a peer may leave it there for as long as it answers. So when
//! nothing else makes room those are watched for whom much is queued, and who takes next to nothing of it meanwhile is
//! reset.

use super::{Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::Connection;
use crate::tcp::{Segment, Tcb};
use crate::time::{Duration, Instant};
use crate::util::list::IndexList;
use crate::wire::{TcpFlags, reset_reason};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What a connection may still hold while memory is short: those that hold more wait, the others go
/// on, octets of truesize.
pub(super) const FAIR_SHARE: usize = 64 << 10;

/// How often it is looked for a buffer while somebody wants to write.
const BUFFER_WAIT: Duration = Duration::from_millis(10);
/// So many writers are told of one at once.
const WRITERS_TOLD: usize = 64;

/// How long peers are watched who may take nothing of what is queued for them.
const WATCH: Duration = Duration::from_secs(10);
/// So many of them at a time, and control blocks looked at for these.
const MAX_WATCHED: usize = 256;
const LOOKED_AT: u32 = 4_096;
/// What is queued for them, at least, octets.
const WORTH_WATCHING: u32 = 16 << 10;
/// Who takes less of that meanwhile than one octet in so many is reset.
const LEAST_SHARE: u32 = 16;

/// Who wanted to write and found no buffer. What brings one back need have nothing to do with its connection.
#[derive(Default)]
pub(super) struct Writers {
    waiting: BTreeSet<SocketId>,
    due: Option<Instant>,
}

/// For whom much is queued while others find no memory.
#[derive(Default)]
pub(super) struct Stalled {
    /// The control block that was looked at last.
    hand: u32,
    watched: Vec<Watched>,
    due: Option<Instant>,
}

struct Watched {
    id: SocketId,
    /// What its peer had acknowledged, the low bits, and what was queued behind that.
    acked: u32,
    queued: u32,
}

/// Who holds what no reader can have yet, those that have done so for longest first. One that has
/// nothing any more may be among them.
pub(super) struct Waiting {
    /// Control blocks with something out of order.
    reordered: IndexList,
    /// Connections with something behind a hole in their stream.
    gaps: IndexList,
    /// Subflows with octets that are acknowledged, but not in the stream: their mapping is missing,
    /// or its checksum cannot be verified before the rest of it is here.
    held: IndexList,
}

impl Waiting {
    pub(super) fn new(tcbs: u32, connections: u32) -> Self {
        Self {
            reordered: IndexList::with_capacity(tcbs),
            gaps: IndexList::with_capacity(connections),
            held: IndexList::with_capacity(tcbs),
        }
    }

    /// Another than `idx`.
    fn oldest_held(&self, idx: u32) -> Option<u32> {
        self.held.iter().find(|&other| other != idx)
    }

    pub(super) fn forget_tcb(&mut self, idx: u32) {
        self.reordered.remove(idx);
        self.held.remove(idx);
    }

    pub(super) fn forget_connection(&mut self, idx: u32) {
        self.gaps.remove(idx);
    }
}

bitflags::bitflags! {
    /// What of a control block and its connection is among those that wait.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Waits: u8 {
        const REORDERED = 1;
        const GAP = 1 << 1;
        const HELD = 1 << 2;
    }
}

impl<B: PacketBuf> Stack<B> {
    /// What waits of a control block, and of the connection that has it.
    pub(super) fn waits(&self, idx: u32, owner: Option<u32>) -> Waits {
        let mut waits = Waits::empty();
        let connection = owner.and_then(|owner| self.connections.get(owner));
        waits.set(Waits::GAP, connection.is_some_and(Connection::has_gap));
        if let Some(tcb) = self.tcbs.get(idx) {
            let held = tcb.subflow.is_some() && tcb.received.in_order_len() > 0;
            waits.set(Waits::REORDERED, tcb.received.has_out_of_order());
            waits.set(Waits::HELD, held);
        }
        waits
    }

    /// A segment arrived that may have changed what waits; the control block was the `owner`'s then, and may be gone.
    pub(super) fn note_waiting(&mut self, idx: u32, owner: Option<u32>, before: Waits) {
        if self.waits(idx, owner) != before {
            self.list_waiting(idx, owner);
        }
    }

    /// Has what waits among those that do, and nothing else, whatever was known of it.
    pub(super) fn list_waiting(&mut self, idx: u32, owner: Option<u32>) {
        let waits = self.waits(idx, owner);
        let set = |list: &mut IndexList, idx, waits| {
            if waits {
                list.push_back(idx)
            } else {
                list.remove(idx)
            };
        };
        set(&mut self.waiting.reordered, idx, waits.contains(Waits::REORDERED));
        set(&mut self.waiting.held, idx, waits.contains(Waits::HELD));
        if let Some(owner) = owner {
            set(&mut self.waiting.gaps, owner, waits.contains(Waits::GAP));
        }
    }

    /// Whoever has what no reader can have yet is among those that wait. Debug builds with few control blocks look.
    pub(super) fn check_waiting(&self) {
        const FEW: u32 = 32;
        if !cfg!(debug_assertions) || self.tcbs.len() > FEW {
            return;
        }
        for (idx, _) in self.tcbs.iter() {
            let owner = self.owner_of(idx);
            let mut listed = Waits::empty();
            listed.set(Waits::REORDERED, self.waiting.reordered.contains(idx));
            listed.set(Waits::HELD, self.waiting.held.contains(idx));
            listed.set(Waits::GAP, owner.is_some_and(|owner| self.waiting.gaps.contains(owner)));
            let waits = self.waits(idx, owner);
            debug_assert!(listed.contains(waits), "{waits:?} of {idx}, listed {listed:?}");
        }
        for (idx, connection) in self.connections.iter() {
            let listed = !connection.has_gap() || self.waiting.gaps.contains(idx);
            debug_assert!(listed, "the gap of connection {idx} is not listed");
        }
    }

    /// While memory is short new text is as good as lost, and its segment an acknowledgement: that
    /// is what frees memory, and a peer whose every segment carries text sends no other.
    pub(super) fn refuse_text(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        text: &mut B,
    ) -> Option<Segment> {
        let tcb = self.tcbs.get(idx)?;
        if segment.end().le(tcb.rcv_nxt) || segment.has(TcpFlags::RST) {
            return None;
        }
        let (rcv_nxt, short) = (tcb.rcv_nxt, self.pool.is_short());
        let owner = self.connection_of(tcb).map_or(0, Connection::received_truesize);
        let held = (tcb.received.truesize() + owner) as usize;
        if held < FAIR_SHARE && !short {
            return None;
        }
        let next = segment.text_seq().le(rcv_nxt);
        if next && self.has_room_for_next(now, idx, segment, held, short) {
            return None;
        }
        let mut segment = *segment;
        self.stats.tcp_rcv_q_drop += 1;
        text.truncate(0);
        if segment.seq.lt(rcv_nxt) && !segment.has(TcpFlags::SYN) {
            segment.seq = rcv_nxt;
        }
        segment.len = 0;
        segment.flags.remove(TcpFlags::FIN);
        segment.refused = true;
        Some(segment)
    }

    /// Makes room for text that is next on its subflow, or on its plain connection, unless the reader
    /// has enough to read. The connection has `held` so much so far.
    fn has_room_for_next(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        held: usize,
        short: bool,
    ) -> bool {
        let Some(tcb) = self.tcbs.get(idx) else { return false };
        let owner = self.connection_of(tcb);
        let unread =
            owner.map_or(tcb.received.in_order_truesize(), Connection::unread_truesize) as usize;
        if unread >= FAIR_SHARE {
            return false;
        }
        let readable = owner.is_none_or(|c| c.brings_next(tcb, segment));
        if readable && !short {
            return true;
        }
        if readable || held == 0 {
            return self.make_room(now, idx, readable && unread == 0);
        }
        // It goes behind a hole in the stream; what fills that may come after it on the same subflow.
        self.renege_own(idx)
    }

    /// Throws away one buffer that nobody can read yet, of whoever has waited for longest. Where a
    /// reader has nothing (`starved`) the part of the reserve that applications use comes before
    /// what TCP has acknowledged. Last of all a subflow ends.
    fn make_room(&mut self, now: Instant, idx: u32, starved: bool) -> bool {
        while let Some(oldest) = self.waiting.reordered.front() {
            if let Some(tcb) = self.tcbs.get_mut(oldest)
                && tcb.received.renege(&mut self.stats.tcp_ofo_pruned)
            {
                return true;
            }
            self.waiting.reordered.remove(oldest);
        }
        if starved && self.pool.alloc().is_some() {
            return true;
        }
        while let Some(oldest) = self.waiting.gaps.front() {
            if let Some(connection) = self.connections.get_mut(oldest)
                && connection.renege(&mut self.stats.rcv_pruned)
            {
                return true;
            }
            self.waiting.gaps.remove(oldest);
        }
        while let Some(oldest) = self.waiting.oldest_held(idx) {
            self.waiting.held.remove(oldest);
            if let Some(tcb) = self.tcbs.get(oldest)
                && tcb.received.in_order_len() > 0
                && let Some(owner) = tcb.subflow.as_ref().map(|s| s.connection)
            {
                self.reset_subflow(now, owner, oldest, reset_reason::LACK_OF_RESOURCES, true);
                return true;
            }
        }
        self.watch_stalled(now);
        false
    }

    /// Nothing makes room: whoever may be stalled is watched, unless that goes on.
    fn watch_stalled(&mut self, now: Instant) {
        if self.stalled.due.is_some() {
            return;
        }
        let mut stalled = core::mem::take(&mut self.stalled);
        let positions = self.tcbs.positions();
        for _ in 0..positions.min(LOOKED_AT) {
            if stalled.watched.len() == MAX_WATCHED {
                break;
            }
            stalled.hand = if stalled.hand + 1 < positions { stalled.hand + 1 } else { 0 };
            let Some(tcb) = self.tcbs.get(stalled.hand) else { continue };
            let sock = match tcb.subflow.as_ref().map(|subflow| subflow.connection) {
                None => Sock::Plain(stalled.hand),
                Some(owner) if self.subflows_of(owner).first() == Some(&stalled.hand) => {
                    Sock::Mptcp(owner)
                }
                Some(_) => continue,
            };
            if let Some((acked, queued)) = self.queued_for(sock)
                && queued >= WORTH_WATCHING
                && let Some(id) = self.socket_id(sock)
            {
                stalled.watched.push(Watched { id, acked, queued });
            }
        }
        // Where there are none it is not looked for them again with every segment either.
        stalled.due = Some(now + WATCH);
        self.stalled = stalled;
    }

    pub(super) const fn stalled_due(&self) -> Option<Instant> {
        self.stalled.due
    }

    /// Who was watched for long enough and took next to nothing is reset, as many as it takes.
    pub(super) fn end_stalled(&mut self, now: Instant) {
        if self.stalled.due.is_none_or(|at| at > now) {
            return;
        }
        self.stalled.due = None;
        for Watched { id, acked, queued } in core::mem::take(&mut self.stalled.watched) {
            if !self.pool.is_low() {
                return;
            }
            let Some(sock) = self.resolve(id).filter(|sock| !self.is_closed(*sock)) else {
                continue;
            };
            let taken = self.queued_for(sock).map(|(by_now, _)| by_now.wrapping_sub(acked));
            if taken.is_some_and(|taken| taken < queued / LEAST_SHARE) {
                self.stats.stalled_resets += 1;
                self.abort_sock(now, sock, ConnectionError::TimedOut);
            }
        }
    }

    /// How much a peer has acknowledged of our stream, the low bits, and what is queued behind that, as it counts
    /// against the send buffer.
    fn queued_for(&self, sock: Sock) -> Option<(u32, u32)> {
        match sock {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get(idx)?;
                Some((tcb.snd_una.0, u32::MAX - tcb.send_room(u32::MAX)))
            }
            Sock::Mptcp(idx) => {
                // What a rate of ours holds back no peer can take.
                let connection = self.connections.get(idx)?;
                let capped = connection.rare.capped_until.is_some();
                (!capped).then(|| (connection.data_snd_una as u32, connection.send_buffered()))
            }
            Sock::Listener(_) | Sock::Request(_) | Sock::Udp(_) => None,
        }
    }

    /// A writer found no buffer.
    pub(super) fn await_buffer(&mut self, now: Instant, id: SocketId) {
        self.writers.waiting.insert(id);
        self.writers.due.get_or_insert(now + BUFFER_WAIT);
    }

    pub(super) const fn writers_due(&self) -> Option<Instant> {
        self.writers.due
    }

    /// Some of the writers are told, once there is a buffer again.
    pub(super) fn tell_writers(&mut self, now: Instant) {
        if self.writers.due.is_none_or(|at| at > now) {
            return;
        }
        if self.pool.alloc().is_none() {
            let mut waiting = core::mem::take(&mut self.writers.waiting);
            waiting.retain(|id| self.resolve(*id).is_some());
            self.writers.due = (!waiting.is_empty()).then(|| now + BUFFER_WAIT);
            self.writers.waiting = waiting;
            return;
        }
        for _ in 0..WRITERS_TOLD {
            let Some(id) = self.writers.waiting.pop_first() else { break };
            if let Some(sock) = self.resolve(id) {
                self.post_writable(now, sock);
            }
        }
        self.writers.due = (!self.writers.waiting.is_empty()).then_some(now);
    }

    /// Throws away one buffer that waits on the same connection.
    fn renege_own(&mut self, idx: u32) -> bool {
        let Some(tcb) = self.tcbs.get(idx) else { return false };
        let Some(owner) = tcb.subflow.as_ref().map(|s| s.connection) else { return false };
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let (tcbs, pruned) = (&mut self.tcbs, &mut self.stats.tcp_ofo_pruned);
        let mut renege = |&idx: &u32| tcbs.get_mut(idx).is_some_and(|t| t.received.renege(pruned));
        connection.subflows.iter().any(&mut renege) || connection.renege(&mut self.stats.rcv_pruned)
    }

    fn connection_of(&self, tcb: &Tcb<B>) -> Option<&Connection<B>> {
        tcb.subflow.as_ref().and_then(|subflow| self.connections.get(subflow.connection))
    }
}
