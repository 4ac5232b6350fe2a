//! What a scheduler is shown of the subflows of a connection.
//!
//! Invariant: what is kept from one choice of a turn to the next is what looking again would show. Between two
//! choices nothing happens but that the subflow chosen has sent.

use super::Stack;
use super::demux::Node;
use super::scheduling::RoomOn;
use crate::buf::{PacketBuf, PortId};
use crate::config::SchedulerKind;
use crate::mptcp::scheduler::{self, PathView, Policy};
use crate::mptcp::{Connection, Next, Phase, Stage, Word};
use crate::tcp::Tcb;
use crate::time::{Duration, Instant};
use alloc::vec::Vec;

/// What is known of a path is believed so long.
const MEMORY: Duration = Duration::from_secs(1);
/// Copies that open the window of a path at most, octets per subflow, and one in so many of the stream's.
const OPENING: u64 = 64 << 10;
const OPENING_SHARE: u64 = 16;
/// Octets: what is shorter ends before a measurement is of use, and fits into most peers' first window.
pub(super) const LONG: u64 = 64 << 10;

/// The subflows of one connection as a scheduler is shown them.
#[derive(Default, Debug)]
pub(super) struct Views {
    /// Position and port of each.
    subflows: Vec<(u32, PortId)>,
    /// The same as they are shown.
    pub(super) shown: Vec<PathView>,
    /// One that could send must wait for its port.
    pub(super) port_full: bool,
    /// One has less room in its peer's window than it wants for what is next: for less it may have enough.
    pub(super) starved: bool,
    kept: Option<Kept>,
    /// The writer keeps the send buffer full; `None`: not asked in this turn yet.
    pub(super) full: Option<bool>,
}

/// What the next choice of a turn begins with.
#[derive(Clone, Copy, Debug)]
struct Kept {
    premises: Premises,
    /// Place of the subflow that was chosen.
    chosen: usize,
    /// No subflow's segments are longer.
    mss: u32,
    /// What they were looked at for, as far as one segment may hold it.
    len: u32,
}

/// What a view depends on beside its subflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Premises {
    again: bool,
    fallback: bool,
    long: bool,
    /// Octets that may go as copies to open a window.
    opening: u64,
}

impl Premises {
    fn of<B: PacketBuf>(connection: &Connection<B>, next: &Next) -> Self {
        Self {
            again: next.again,
            fallback: connection.phase == Phase::Fallback,
            long: connection.data_end - connection.data_snd_una > LONG,
            opening: (connection.data_snd_nxt / OPENING_SHARE).min(OPENING),
        }
    }
}

/// What a policy asks of a subflow.
#[derive(Clone, Copy)]
struct Terms {
    /// A cap holds it until then.
    capped: Option<Instant>,
    priority: u8,
    weight: u16,
    /// Octets per second that caps let go.
    rate: u64,
}

impl Terms {
    const NONE: Self = Self { capped: None, priority: 0, weight: 1, rate: u64::MAX };

    /// `whole` is when the cap of the connection lets something go.
    fn of(policy: &Policy, port: PortId, whole: Instant, now: Instant) -> Self {
        let asked = policy.of(port);
        Self {
            capped: Some(policy.capped_until(port).max(whole)).filter(|at| *at > now),
            priority: asked.priority,
            weight: asked.weight.max(1),
            rate: policy.rate_on(port),
        }
    }
}

/// One subflow, as far as what it sends changes how it is seen.
struct Sight {
    room: bool,
    busy: bool,
    held: Duration,
    unknown: bool,
    cwnd: u32,
    in_flight: u32,
    mss: u32,
    served: u64,
    /// Its peer's window is too small for what is next.
    starved: bool,
    /// Its peer has shut it, and is asked about that, or its pace holds it: it has a timer.
    timed: bool,
    waits_for_port: bool,
    /// Nothing but a cap holds it until then.
    open_at: Option<Instant>,
}

impl Sight {
    /// Shows it.
    const fn show(&self, view: &mut PathView) {
        (view.room, view.busy, view.unknown) = (self.room, self.busy, self.unknown);
        view.held = self.held;
        (view.cwnd, view.in_flight) = (self.cwnd, self.in_flight);
        (view.mss, view.served) = (self.mss, self.served);
    }
}

impl Views {
    /// A turn begins.
    pub(super) const fn forget(&mut self) {
        // Whoever has nothing to send looks at no subflow, and waits for no port.
        (self.port_full, self.kept, self.full) = (false, None, None);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &PathView)> {
        self.subflows.iter().map(|(idx, _)| *idx).zip(&self.shown)
    }

    /// Those that may carry something again, or a copy: no backup while a regular one works (RFC 8684 §3.3.8).
    pub(super) fn allowed(&self) -> impl Iterator<Item = (u32, &PathView)> {
        let regular = self.shown.iter().any(|view| !view.stale && !view.backup);
        self.iter().filter(move |(_, view)| !(regular && view.backup))
    }

    pub(super) fn get(&self, at: usize) -> Option<(u32, &PathView)> {
        self.subflows.get(at).map(|(idx, _)| *idx).zip(self.shown.get(at))
    }

    /// They were looked at for `next`, and the one at `chosen` sends that, or what lies behind. What is shown serves the
    /// next choice, too, where that may not change the others.
    pub(super) fn keep<B: PacketBuf>(
        &mut self,
        connection: &Connection<B>,
        next: &Next,
        chosen: usize,
    ) {
        let mss = self.shown.iter().map(|view| view.mss).max().unwrap_or(u32::MAX);
        // One that has no rounds behind it is given the others' as soon as they have some.
        let begun = self.shown.iter().all(|view| view.served > 0);
        // Where shares count, what one sends may be more than another that is kept from it is behind.
        let alone = connection.policy.is_none() && connection.scheduler != SchedulerKind::Weighted;
        let apart = !next.again && begun && !self.port_full && alone;
        self.kept = apart.then(|| {
            let premises = Premises::of(connection, next);
            Kept { premises, chosen, mss, len: next.len.min(mss) }
        });
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Looks at the subflow that was chosen last once more, and leaves the others as they were
    /// [kept](Views::keep); `None` when all must be looked at.
    pub(super) fn view_again(
        &mut self,
        now: Instant,
        owner: u32,
        next: &Next,
        views: &mut Views,
        room_on: RoomOn<'_>,
    ) -> Option<()> {
        let Kept { premises, chosen, mss, len } = views.kept.take()?;
        let connection = self.connections.get(owner)?;
        // Whoever has room for more has room for less.
        let short = next.len.min(mss);
        let fits = short == len || short < len && !views.starved;
        let same = fits && premises == Premises::of(connection, next);
        let &(idx, _) = views.subflows.get(chosen)?;
        if !same || views.subflows.iter().any(|(_, port)| room_on(*port) == 0) {
            return None;
        }
        let tcb = self.tcbs.get_mut(idx)?;
        let sight = look(tcb, now, next, &premises, true, Terms::NONE)?;
        let deadline = tcb.next_timeout().filter(|_| sight.timed);
        let shown = views.shown.get_mut(chosen)?;
        if shown.in_flight == 0 {
            // What follows on a pause may change what its path is taken for (RFC 5681 §4.1).
            *shown = view(tcb, next, &premises, &sight, Terms::NONE)?;
        } else {
            sight.show(shown);
        }
        views.starved |= sight.starved;
        scheduler::avoid_doubtful(&mut views.shown);
        self.arm(Node::Tcb(idx), deadline);
        if cfg!(debug_assertions) {
            let mut anew = Views::default();
            self.view_paths(now, owner, next, &mut anew, room_on);
            debug_assert_eq!(anew.shown, views.shown, "what is kept and what there is");
        }
        Some(())
    }

    /// Fills `views` with the subflows that may carry data; one that has no room for lack of
    /// congestion window remembers it.
    pub(super) fn view_paths(
        &mut self,
        now: Instant,
        owner: u32,
        next: &Next,
        views: &mut Views,
        room_on: RoomOn<'_>,
    ) {
        views.subflows.clear();
        views.shown.clear();
        (views.port_full, views.starved, views.kept) = (false, false, None);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let premises = Premises::of(connection, next);
        let policy = connection.policy.as_ref();
        let open_new = policy.map_or(Instant::MIN, |p| p.next_new());
        let whole = if next.again { Instant::MIN } else { open_new };
        let mut open_at: Option<Instant> = None;
        let mut timed = false;
        for &idx in connection.subflows.iter() {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let port = tcb.port;
            let terms = policy.map_or(Terms::NONE, |p| Terms::of(p, port, whole, now));
            let room = room_on(port) > 0;
            let Some(sight) = look(tcb, now, next, &premises, room, terms) else { continue };
            timed |= sight.timed;
            views.port_full |= sight.waits_for_port;
            views.starved |= sight.starved;
            if let Some(at) = sight.open_at {
                open_at = Some(open_at.map_or(at, |other| other.min(at)));
            }
            views.subflows.push((idx, port));
            views.shown.extend(view(tcb, next, &premises, &sight, terms));
        }
        scheduler::avoid_doubtful(&mut views.shown);
        // For a repair another one may have room than for what is new.
        let shared = connection.scheduler == SchedulerKind::Weighted && !next.again;
        if shared {
            scheduler::forgive(&mut views.shown);
        }
        // A path that came later has the others' rounds behind it.
        let round = views.shown.iter().map(|view| view.served).filter(|&served| served > 0).min();
        let places = views.subflows.iter().zip(&mut views.shown);
        for ((idx, _), view) in places.filter(|(_, view)| shared || view.served == 0) {
            if view.served == 0 {
                view.served = round.unwrap_or(0);
            }
            // From here on it is served as they are.
            if let Some(subflow) = self.tcbs.get_mut(*idx).and_then(|tcb| tcb.subflow.as_mut()) {
                subflow.served = view.served;
            }
        }
        connection.set_capped_until(open_at);
        self.arm(Node::Connection(owner), open_at);
        for (idx, _) in views.subflows.iter().filter(|_| timed) {
            let deadline = self.tcbs.get(*idx).and_then(Tcb::next_timeout);
            self.arm(Node::Tcb(*idx), deadline);
        }
    }
}

/// A subflow as it is now, with `port_room` or not; `None` when it may not carry `next`.
fn look<B: PacketBuf>(
    tcb: &mut Tcb<B>,
    now: Instant,
    next: &Next,
    premises: &Premises,
    port_room: bool,
    terms: Terms,
) -> Option<Sight> {
    let subflow = tcb.subflow.as_ref()?;
    let may = match subflow.stage {
        Stage::Active | Stage::CapableAck => !premises.fallback,
        Stage::Fallback => premises.fallback,
        _ => false,
    };
    if !may || !tcb.may_send() || tcb.write_closed() {
        return None;
    }
    let served = subflow.served;
    // Repairs go where the original is not still waiting. Sidelined with its path, one may have
    // nothing that waits.
    let waits = subflow.rare.watch.is_some() && !(subflow.stale && tcb.flight_size() == 0);
    let holds = next.again && (tcb.rto_count() > 0 || waits);
    let starved = tcb.note_window(now, next.len);
    let can_send = tcb.can_send();
    let open = can_send && !starved;
    if !can_send {
        tcb.note_cwnd_limited();
    }
    let paced = open && tcb.held_by_pace(now);
    let sendable = open && !paced;
    if open && terms.capped.is_some() {
        tcb.note_app_limited(now);
    }
    let flight = tcb.flight_size();
    let held = terms.capped.filter(|_| sendable && port_room && !holds);
    Some(Sight {
        room: sendable && port_room && !holds && terms.capped.is_none(),
        held: held.map_or(Duration::ZERO, |at| at.since(now)),
        busy: !holds && (paced || !sendable && flight > 0 && tcb.usable_window() > 0),
        // A peer that has had nothing on it does not know of its round trip either, and sizes
        // its window without.
        unknown: premises.long
            && flight == 0
            && (tcb.counters.bytes_sent == 0
                || tcb.rtt.srtt().is_none()
                || now.since(tcb.last_received()) > MEMORY),
        cwnd: tcb.cwnd(),
        in_flight: tcb.pipe(),
        mss: tcb.payload_mss(),
        served,
        starved,
        timed: starved || paced,
        waits_for_port: sendable && !holds && !port_room,
        open_at: terms.capped.filter(|_| sendable),
    })
}

/// What it shows of itself, with what was seen now.
fn view<B: PacketBuf>(
    tcb: &Tcb<B>,
    next: &Next,
    premises: &Premises,
    sight: &Sight,
    terms: Terms,
) -> Option<PathView> {
    let subflow = tcb.subflow.as_ref()?;
    let in_vain = next.again && subflow.word != Word::Good;
    let stale = subflow.stale || in_vain;
    let known = tcb.rtt.srtt().unwrap_or_else(|| tcb.rtt.rto());
    Some(PathView {
        room: sight.room,
        busy: sight.busy,
        held: sight.held,
        unknown: sight.unknown,
        cwnd: sight.cwnd,
        in_flight: sight.in_flight,
        served: sight.served,
        backup: subflow.is_backup(),
        stale,
        doubtful: subflow.rare.watch.is_some() && !stale,
        // Without a sample nobody knows how far it is: the initial timeout, not next door.
        opening: premises.long
            && subflow.reinjected < premises.opening
            && sight.cwnd < tcb.ssthresh(),
        srtt: known,
        one_way: known - tcb.rtt.min_rtt().unwrap_or_default().min(known) / 2,
        rate: tcb.bandwidth(known).unwrap_or(1).min(terms.rate),
        rttvar: tcb.rtt.rttvar().unwrap_or_default(),
        mss: sight.mss,
        priority: terms.priority,
        weight: terms.weight,
    })
}
