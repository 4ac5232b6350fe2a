//! Which subflow takes the next segment of a connection: what the scheduler is shown, and what its
//! choice leads to (RFC 8684 §3.3.5 to §3.3.8).
//!
//! Repairs go by lowest round trip whatever the scheduler: somebody waits for them.

use super::demux::Node;
use super::views::{LONG, Views};
use super::{Sock, Stack};
use crate::buf::{PacketBuf, PortId};
use crate::config::SchedulerKind;
use crate::event_log::ReinjectCause;
use crate::mptcp::scheduler::{self, Choice, Demand, Memory, Term};
use crate::mptcp::{Connection, Next, Phase};
use crate::tcp::Tcb;
use crate::time::{Duration, Instant};
use alloc::vec::Vec;

/// RFC 6298 §2.1: what a path is taken for while nothing was measured.
const UNKNOWN_RTT: Duration = Duration::from_secs(1);

/// The head of the stream is looked for in so many of the oldest segments of a subflow.
const HOLDER_DEPTH: usize = 8;

/// Segments sent ahead of their turn one behind the other.
const AHEAD_RUN: u32 = 8;

/// The segment that goes out next, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assignment {
    pub(super) next: Next,
    pub(super) idx: u32,
    /// For what follows the same would be chosen, as long as that subflow has room for a whole segment and
    /// the peer's window does.
    pub(super) lasting: Option<Lasting>,
    /// It is the head of the stream, for which this subflow holds everybody up.
    pub(super) holder: Option<u32>,
}

/// What a choice that lasts was made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting {
    /// But for what is not sent yet, it is the same for the next segment.
    demand: Demand,
    /// Place of the choice among the views, where the scheduler must be asked again.
    asked: Option<usize>,
    /// What the first subflow's segments carry: less room in the peer's window is another matter.
    pub(super) mss: u32,
}

impl Lasting {
    /// To choose again would come to the same and leave nothing to remember.
    pub(super) fn is_firm<B: PacketBuf>(&self, connection: &Connection<B>) -> bool {
        self.asked.is_none() && !Memory::learns(connection.widest_offer(), &self.demand)
    }
}

impl Assignment {
    /// Of one segment.
    const fn single(next: Next, idx: u32) -> Self {
        Self { next, idx, lasting: None, holder: None }
    }
}

impl Views {
    /// Whether the same is chosen again after `len` octets that were sent on; the connection then remembers
    /// what a choice makes it remember.
    pub(super) fn choose_again<B: PacketBuf>(
        &mut self,
        connection: &mut Connection<B>,
        lasting: &mut Lasting,
        len: u32,
    ) -> bool {
        let widest = connection.widest_offer();
        let mut memory: Memory = connection.memory;
        memory.note_window(widest, &lasting.demand);
        if let Some(at) = lasting.asked {
            lasting.demand.sent(len);
            let Some(view) = self.shown.get_mut(at) else { return false };
            view.in_flight += len;
            let kind = connection.scheduler;
            let (choice, _) = scheduler::pick(kind, &mut memory, &lasting.demand, &self.shown);
            if choice != Choice::Path(at) {
                return false;
            }
        }
        connection.memory = memory;
        true
    }
}

/// Packets that can leave by a port now.
pub(super) type RoomOn<'a> = &'a dyn Fn(PortId) -> usize;

impl<B: PacketBuf> Stack<B> {
    /// The next segment of a connection with its subflow; `None` when nothing can go now.
    pub(super) fn assign(
        &mut self,
        now: Instant,
        owner: u32,
        views: &mut Views,
        room_on: RoomOn<'_>,
    ) -> Option<Assignment> {
        let connection = self.connections.get(owner)?;
        let next = connection.next_to_send();
        let again = next.as_ref().is_some_and(|next| next.again);
        let kind = if again { SchedulerKind::LowestRtt } else { connection.scheduler };
        if kind == SchedulerKind::Redundant && connection.phase == Phase::Confirmed {
            return self.assign_copy(now, owner, next, views, room_on);
        }
        if !again && let Some(head) = self.assign_head(now, owner, kind, views, room_on) {
            return Some(head);
        }
        let next = next?;
        if self.view_again(now, owner, &next, views, room_on).is_none() {
            self.view_paths(now, owner, &next, views, room_on);
        }
        // Sending changes nothing about that.
        let full = *views.full.get_or_insert_with(|| self.keeps_full(owner));
        let connection = self.connections.get_mut(owner)?;
        let demand = demand(connection, views, self.config.tcp.send_buffer_max, full);
        let widest = connection.widest_offer();
        connection.memory.note_window(widest, &demand);
        let (choice, why) = if again {
            scheduler::pick_repair(&views.shown)
        } else {
            scheduler::pick(kind, &mut connection.memory, &demand, &views.shown)
        };
        let (at, probe) = match choice {
            Choice::Path(at) | Choice::Ahead(at, _) => (Some(at), false),
            Choice::Probe(at) => (Some(at), true),
            Choice::Wait => (None, false),
        };
        let chosen = at.and_then(|at| views.get(at));
        self.observe_choice(owner, chosen.filter(|_| !probe).map(|(idx, _)| idx), why);
        let (idx, view) = chosen?;
        // What opens a window goes at once: the pace of its acknowledgements tells what the path carries.
        let free = if view.opening { view.cwnd.saturating_sub(view.in_flight) } else { 0 };
        let copied = free.max(view.mss);
        if probe {
            let next = self.newest_sent(owner, idx, copied)?;
            return Some(Assignment::single(next, idx));
        }
        let connection = self.connections.get(owner)?;
        let ahead = match choice {
            // A few segments together are as well, and leave fewer gaps for the others; but a cap may end with
            // each of them.
            Choice::Ahead(_, skip) => {
                let next = connection.behind(skip, view.mss)?;
                let run = if connection.policy.is_some() { 1 } else { AHEAD_RUN };
                Some(Next { len: next.len.min(run * view.mss), ..next })
            }
            _ => None,
        };
        let (seen, next) = (next, ahead.unwrap_or(next));
        let term = scheduler::term(kind, why);
        // A log has every choice, and a cap may end with each of them.
        let alone = again
            || ahead.is_some()
            || connection.policy.is_some()
            || !self.observer.is_off()
            || term == Term::Once
            // The first segment after a pause may find a smaller window.
            || term == Term::Asked && (view.in_flight == 0 || self.pool.is_low())
            || !matches!(connection.phase, Phase::Confirmed | Phase::Fallback)
            || self.tcbs.get(idx).is_none_or(Tcb::varies);
        if let Some(at) = at {
            views.keep(connection, &seen, at);
        }
        if alone {
            return Some(Assignment::single(next, idx));
        }
        let first = connection.subflows.first().and_then(|idx| self.tcbs.get(*idx))?;
        let asked = at.filter(|_| term == Term::Asked);
        let lasting = Some(Lasting { demand, asked, mss: first.payload_mss() });
        Some(Assignment { next, idx, lasting, holder: None })
    }

    /// The newest octets of what is in flight and did not go by `idx`, once more: where they went first
    /// they arrive earlier.
    fn newest_sent(&self, owner: u32, idx: u32, octets: u32) -> Option<Next> {
        let connection = self.connections.get(owner)?;
        let copied_to = self.tcbs.get(idx)?.subflow.as_ref()?.copied_to;
        let end = connection.data_snd_nxt;
        let newest = end.saturating_sub(u64::from(octets));
        let start = newest.max(connection.data_snd_una).max(copied_to);
        let len = u32::try_from(end.saturating_sub(start)).ok().filter(|len| *len > 0)?;
        let due = connection.phase == Phase::Confirmed;
        due.then_some(Next { start, len, again: true })
    }

    /// A writer keeps the send buffer full: it has more, and its end is not in sight.
    fn keeps_full(&self, owner: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let third = (connection.data_end - connection.data_snd_una) / 3;
        !connection.fin_queued && !self.has_send_room(Sock::Mptcp(owner), third)
    }

    /// Whether what was chosen may go now, as far as caps are concerned that the connection shares with
    /// others. When not, it has a place in line: its subflow is no choice before that is due.
    pub(super) fn admit(&mut self, now: Instant, owner: u32, assignment: &Assignment) -> bool {
        let Assignment { next, idx, .. } = assignment;
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let Some(policy) = &mut connection.policy else { return true };
        let Some(tcb) = self.tcbs.get_mut(*idx) else { return true };
        let first = next.len.min(tcb.payload_mss());
        let due = policy.admit(tcb.port, (first, u64::from(next.len)), now);
        if due <= now {
            return true;
        }
        tcb.note_app_limited(now);
        let capped_until = connection.rare.capped_until.map_or(due, |at| at.min(due));
        connection.set_capped_until(Some(capped_until));
        self.arm(Node::Connection(owner), Some(capped_until));
        false
    }

    /// The peer's window is used up: while a slower path holds its first octet, that goes again on
    /// a faster one with room, once, and the slower one gives half of its window up.
    fn assign_head(
        &mut self,
        now: Instant,
        owner: u32,
        kind: SchedulerKind,
        views: &mut Views,
        room_on: RoomOn<'_>,
    ) -> Option<Assignment> {
        let connection = self.connections.get(owner)?;
        let mss = connection.subflows.first().and_then(|idx| self.tcbs.get(*idx))?.payload_mss();
        let blocked = connection.window_cuts(mss);
        let head = connection.data_snd_una;
        let due = kind == SchedulerKind::Default
            && connection.phase == Phase::Confirmed
            && blocked
            && connection.subflows.len() > 1
            && connection.rare.repeated_to <= head;
        if !due {
            return None;
        }
        let dsn = connection.local_dsn(head);
        let next = Next { start: head, len: 1, again: true };
        self.view_paths(now, owner, &next, views, room_on);
        let holder = views.iter().find_map(|(idx, view)| {
            let queue = &self.tcbs.get(idx)?.queue;
            let front = queue.iter().take(HOLDER_DEPTH).filter_map(|segment| segment.mapping);
            let held = front.into_iter().find(|mapping| {
                dsn.diff(mapping.dsn) >= 0 && dsn.diff(mapping.dsn) < i64::from(mapping.len)
            })?;
            Some((idx, *view, held))
        });
        let (holder, slow, held) = holder?;
        let others = views.allowed().filter(|(idx, _)| *idx != holder);
        let faster = others.filter(|(_, view)| view.room && !view.stale);
        let (idx, fast) = faster.min_by_key(|(_, view)| view.srtt)?;
        if fast.srtt * 2 > slow.srtt {
            return None;
        }
        let left = u64::from(held.len) - dsn.diff(held.dsn).unsigned_abs();
        let next = Next { len: u32::try_from(left).ok()?, ..next };
        Some(Assignment { holder: Some(holder), ..Assignment::single(next, idx) })
    }

    /// The head of the stream, `next`, went again, and was held by this subflow.
    pub(super) fn head_went(&mut self, now: Instant, owner: u32, holder: u32, next: &Next) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.rare.repeated_to = next.start + u64::from(next.len);
        }
        self.observe_reinjection(owner, Some(holder), ReinjectCause::WindowBlocked);
        self.penalise(now, holder);
    }

    /// Halves the window of a subflow that holds everybody up, at most once in its round trip.
    fn penalise(&mut self, now: Instant, idx: u32) {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let srtt = tcb.rtt.srtt().unwrap_or(UNKNOWN_RTT);
        let Some(subflow) = &mut tcb.subflow else { return };
        if !subflow.penalise(now, srtt) {
            return;
        }
        let half = tcb.cwnd() / 2;
        tcb.set_cwnd(now, half.max(2 * tcb.payload_mss()));
        self.stats.mptcp_penalised += 1;
    }

    /// Redundant: every subflow with room sends what it has not sent yet, new data included; backups only while
    /// no other works.
    fn assign_copy(
        &mut self,
        now: Instant,
        owner: u32,
        fresh: Option<Next>,
        views: &mut Views,
        room_on: RoomOn<'_>,
    ) -> Option<Assignment> {
        let (start, len) = fresh.map_or((0, 1), |next| (next.start, next.len));
        self.view_paths(now, owner, &Next { start, len, again: true }, views, room_on);
        let connection = self.connections.get_mut(owner)?;
        let open_new = connection.policy.as_ref().map_or(Instant::MIN, |p| p.next_new());
        let capped = fresh.is_some() && open_new > now;
        let fresh = fresh.filter(|_| !capped);
        if capped {
            let open_at = connection.rare.capped_until.map_or(open_new, |at| at.min(open_new));
            connection.set_capped_until(Some(open_at));
            self.arm(Node::Connection(owner), Some(open_at));
            for (idx, _) in views.iter().filter(|(_, view)| view.room) {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.note_app_limited(now);
                }
            }
        }
        let connection = self.connections.get(owner)?;
        let (una, nxt) = (connection.data_snd_una, connection.data_snd_nxt);
        let mut candidates: Vec<_> = views.allowed().filter(|(_, view)| view.room).collect();
        candidates.sort_by_key(|(_, view)| (view.stale, view.srtt));
        for &(idx, _) in &candidates {
            let copied_to = self.tcbs.get(idx)?.subflow.as_ref()?.copied_to.max(una);
            if copied_to < nxt {
                let len = u32::try_from(nxt - copied_to).unwrap_or(u32::MAX);
                let next = Next { start: copied_to, len: len.min(65_000), again: true };
                return Some(Assignment::single(next, idx));
            }
            if let Some(next) = fresh {
                return Some(Assignment::single(next, idx));
            }
        }
        None
    }
}

/// What the connection has to send; without an end where its writer keeps the send buffer `full`.
fn demand<B: PacketBuf>(
    connection: &Connection<B>,
    views: &Views,
    send_buffer_max: u32,
    full: bool,
) -> Demand {
    let ahead = connection.ahead_octets();
    let unsent = connection.data_end - connection.data_snd_nxt - ahead;
    let in_flight: u64 = views.shown.iter().map(|view| u64::from(view.in_flight)).sum();
    Demand {
        unsent: if full { Demand::ENDLESS } else { unsent },
        window: connection.snd_edge.saturating_sub(connection.data_snd_una),
        // Our own buffer holds what is not acknowledged: it blocks as the peer's window does.
        buffer: u64::from(send_buffer_max),
        stranded: (connection.data_snd_nxt - connection.data_snd_una + ahead)
            .saturating_sub(in_flight),
        // What ends soon ends with what would be sent ahead.
        spare: if unsent > LONG { connection.spare() } else { 0 },
    }
}

/// Accounts for `len` octets of `next` that were sent on a subflow.
pub(super) fn account<B: PacketBuf>(
    now: Instant,
    connection: &mut Connection<B>,
    tcb: &mut Tcb<B>,
    next: &Next,
    len: u32,
) {
    let (port, octets) = (tcb.port, u64::from(len));
    let weight = connection.policy.as_ref().map_or(1, |p| p.of(port).weight.max(1));
    if let Some(policy) = &mut connection.policy {
        policy.charge(port, octets, next.again, now);
        let more = connection.data_end.saturating_sub(next.start + octets);
        if more > 0 {
            // It waits for its next place while it waits for its pace.
            let first = u32::try_from(more).unwrap_or(u32::MAX).min(tcb.payload_mss());
            policy.admit(port, (first, more), now);
        }
    }
    if let Some(subflow) = &mut tcb.subflow {
        let share = octets * scheduler::SERVED_OCTET / u64::from(weight);
        subflow.served = subflow.served.saturating_add(share);
        subflow.copied_to = subflow.copied_to.max(next.start + octets);
        if next.again {
            connection.bytes_retrans += octets;
            subflow.reinjected += octets;
        }
    }
}
