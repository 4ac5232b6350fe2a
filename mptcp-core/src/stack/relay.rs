//! Two sockets coupled: what one receives the other sends, buffer by buffer, without a copy
//! (D13). The receive window of one leg closes when the other leg takes no more; half-closes and
//! resets pass through.

use super::demux::Node;
use super::relay_caps::Meter;
use super::{AppFlags, Ready, Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::error::{ConnectionError, RelayError};
use crate::mptcp::Phase;
use crate::tcp::{RecvQueue, State};
use crate::time::Instant;
use crate::util::on_demand::OnDemand;

/// How often byte progress is reported at most.
const PROGRESS_INTERVAL_MS: u32 = 1_000;

/// A pair of coupled sockets.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) inner: Sock,
    pub(super) outer: Sock,
    /// When progress was, the low bits of milliseconds.
    reported_ms: u32,
    /// Ways on which something happened in this burst that it has not looked at.
    pub(super) due: Ways,
    /// A peer took octets.
    acked: bool,
    /// What it moves is held to rates: it has a meter.
    pub(super) metered: bool,
}

const _: () = assert!(size_of::<Relay>() <= 64);

/// Which ways of a relay are meant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Ways {
    /// From the inner leg to the outer one.
    outward: bool,
    inward: bool,
}

impl Ways {
    const BOTH: Self = Self { outward: true, inward: true };

    /// At least one.
    pub(super) const fn any(self) -> bool {
        self.outward || self.inward
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Couples two connections: from now on the stack moves data, ends and resets between them, and
    /// neither can be read or written. Both report [`Ready::READ_CLOSED`] when their peer's end was
    /// passed on, [`Ready::CLOSED`] at their own end, and [`Ready::PROGRESS`] while octets move,
    /// to the last one a peer acknowledges. What was received and not read before is moved first.
    ///
    /// # Errors
    /// [`RelayError::InvalidSocket`] when an id is stale, no connection's or was given back with
    /// [`Stack::close`], when one is coupled already, and when both are the same.
    pub fn relay(
        &mut self,
        now: Instant,
        inner: SocketId,
        outer: SocketId,
    ) -> Result<(), RelayError> {
        let inner = self.resolve(inner).ok_or(RelayError::InvalidSocket)?;
        let outer = self.resolve(outer).ok_or(RelayError::InvalidSocket)?;
        // A closed one ends by itself, and nobody would uncouple it.
        let free = |app: Option<&mut super::AppState>| {
            app.is_some_and(|a| a.is_attached() && a.relay.is_none())
        };
        if inner == outer || !free(self.app(inner)) || !free(self.app(outer)) {
            return Err(RelayError::InvalidSocket);
        }
        let reported_ms = now.as_millis() as u32;
        let due = Ways::default();
        let relay = Relay { inner, outer, reported_ms, due, acked: false, metered: false };
        let idx = self.relays.insert(relay).ok_or(RelayError::InvalidSocket)?;
        for sock in [inner, outer] {
            if let Some(app) = self.app(sock) {
                app.couple(idx);
            }
        }
        self.advance_relay(now, idx);
        Ok(())
    }

    /// Something happened on one side of a relay: moves what can be moved, both ways.
    pub(super) fn relay_progress(&mut self, now: Instant, sock: Sock) {
        if let Some(idx) = self.app(sock).and_then(|app| app.relay()) {
            self.advance_relay(now, idx);
        }
    }

    /// Data came or room was made on one side of a relay, the latter when its peer took octets
    /// (`acked`): that is progress even when nothing is left to move, for a slow reader may need long
    /// for what waits in its leg's send queue. While a burst is taken in this waits for its end, so that
    /// a relay looks at both legs once and not after each packet; not so where memory is short, for
    /// what is moved on does not count against its reader.
    pub(super) fn relay_due(&mut self, now: Instant, sock: Sock, acked: bool) {
        let Some(idx) = self.app(sock).and_then(|app| app.relay()) else { return };
        let Some(relay) = self.relays.get_mut(idx) else { return };
        relay.acked |= acked;
        if !self.taking_burst || self.pool.is_low() {
            return self.advance_relay(now, idx);
        }
        let noted = relay.due.any();
        // What arrived on a leg leaves by the other one, and what makes room on a leg comes from there.
        if (relay.inner == sock) == acked {
            relay.due.inward = true;
        } else {
            relay.due.outward = true;
        }
        if !noted {
            self.relays_due.push(idx);
        }
    }

    /// The burst is in: what it brought moves on.
    pub(super) fn advance_due_relays(&mut self, now: Instant) {
        while let Some(idx) = self.relays_due.pop() {
            let Some(relay) = self.relays.get_mut(idx) else { continue };
            let due = core::mem::take(&mut relay.due);
            self.advance_ways(now, idx, Some(due));
        }
    }

    /// Looks at all of a relay.
    pub(super) fn advance_relay(&mut self, now: Instant, idx: u32) {
        self.advance_ways(now, idx, None);
    }

    /// Moves what can be moved: on the ways that are `due`, where no leg has failed; where there is a meter, which both
    /// ways share, on both.
    fn advance_ways(&mut self, now: Instant, idx: u32, due: Option<Ways>) {
        let Some(relay) = self.relays.get_mut(idx) else { return };
        let (inner, outer) = (relay.inner, relay.outer);
        let acked = core::mem::take(&mut relay.acked);
        let all = due.is_none();
        let due = due.filter(|_| !relay.metered).unwrap_or(Ways::BOTH);
        let meter = &mut if relay.metered { self.meters.remove(&idx) } else { None };
        let mut moved = due.outward && self.transfer(now, inner, outer, meter, false);
        moved |= due.inward && self.transfer(now, outer, inner, meter, true);
        if let Some(meter) = meter.take() {
            self.hold(idx, meter);
        }
        if all {
            self.pass_failure(now, inner, outer);
            self.pass_failure(now, outer, inner);
        }
        for (sock, left) in [(inner, due.outward), (outer, due.inward)] {
            let pending = |app: &mut super::AppState| app.is.contains(AppFlags::CLOSE_PENDING);
            if left && self.app(sock).is_some_and(pending) {
                self.post_closed(sock);
            }
        }
        let Some(relay) = self.relays.get_mut(idx) else { return };
        let now_ms = now.as_millis() as u32;
        let waited = now_ms.wrapping_sub(relay.reported_ms) >= PROGRESS_INTERVAL_MS;
        if (moved || acked) && waited {
            relay.reported_ms = now_ms;
            self.post(inner, Ready::PROGRESS);
        }
    }

    /// Moves received buffers from one leg to the other's send queue, `inward` to the inner one; true when any
    /// moved.
    fn transfer(
        &mut self,
        now: Instant,
        from: Sock,
        to: Sock,
        meter: &mut Option<Meter>,
        inward: bool,
    ) -> bool {
        let mut moved = 0;
        if self.unread(from) && self.sending(to) {
            let mut received = self.exchange_received(from, OnDemand::new());
            let limit = self.send_limit_for(to, counted(&received));
            moved = match meter {
                Some(meter) => self.queue_metered(now, to, &mut received, limit, (meter, inward)),
                None => self.queue_all(to, &mut received, limit, u32::MAX),
            };
            self.exchange_received(from, received);
            if moved > 0 {
                self.note_read(now, from, moved);
            }
        }
        if self.read_finished(from) && self.sending(to) {
            self.post(from, Ready::READ_CLOSED);
            self.shutdown_sock(now, to);
        }
        moved > 0
    }

    /// Puts `queue` in the place of what a leg has received, and answers that.
    fn exchange_received(
        &mut self,
        sock: Sock,
        queue: OnDemand<RecvQueue<B>>,
    ) -> OnDemand<RecvQueue<B>> {
        let place = match sock {
            Sock::Plain(idx) => self.tcbs.get_mut(idx).map(|tcb| &mut tcb.received),
            Sock::Mptcp(idx) => self.connections.get_mut(idx).map(|c| &mut c.received),
            _ => None,
        };
        place.map(|place| core::mem::replace(place, queue)).unwrap_or_default()
    }

    /// The same as far as the relay's rates allow it.
    fn queue_metered(
        &mut self,
        now: Instant,
        to: Sock,
        received: &mut RecvQueue<B>,
        limit: u32,
        (meter, inward): (&mut Meter, bool),
    ) -> u32 {
        let mut moved = 0;
        loop {
            let Some(first) = received.iter().next() else { return moved };
            if self.send_left(to, limit) == 0 {
                return moved;
            }
            let first = first.data_len() as u32;
            let whole = |turn: u64| {
                let mut octets = 0;
                for buf in received.iter() {
                    if octets >= turn {
                        break;
                    }
                    octets += buf.data_len() as u64;
                }
                octets
            };
            let most = meter.allowed(now, inward, first, whole);
            let went = if most > 0 { self.queue_all(to, received, limit, most) } else { 0 };
            if went == 0 {
                return moved;
            }
            meter.spend(now, inward, went);
            moved += went;
        }
    }

    /// Moves what is in order to a leg's send queue until that has `limit` octets, or the next buffer would make
    /// it more than `most` that move; answers how many moved.
    fn queue_all(&mut self, to: Sock, received: &mut RecvQueue<B>, limit: u32, most: u32) -> u32 {
        let mut moved = 0;
        let node = match to {
            Sock::Plain(idx) => {
                let Some(tcb) = self.tcbs.get_mut(idx) else { return 0 };
                let room = tcb.send_room(limit).min(most);
                if received.in_order_len() <= room && !received.begins_small() {
                    moved = tcb.send_all(received);
                }
                while tcb.send_room(limit) > 0
                    && let Some(buf) = pop_within(received, most - moved)
                {
                    moved += buf.data_len() as u32;
                    tcb.send(buf);
                }
                Node::Tcb(idx)
            }
            Sock::Mptcp(idx) => {
                let Some(connection) = self.connections.get_mut(idx) else { return 0 };
                let len = received.in_order_len();
                let fits = connection.send_buffered().saturating_add(counted(received)) < limit;
                if fits && len <= most && !received.begins_small() {
                    moved = connection.write_all(received);
                }
                while connection.send_buffered() < limit
                    && let Some(buf) = pop_within(received, most - moved)
                {
                    moved += buf.data_len() as u32;
                    connection.write(buf);
                }
                Node::Connection(idx)
            }
            _ => return 0,
        };
        if moved > 0 {
            self.want_transmit(node);
        }
        moved
    }

    /// The leg takes more data.
    fn sending(&self, sock: Sock) -> bool {
        match sock {
            Sock::Plain(idx) => self
                .tcbs
                .get(idx)
                .is_some_and(|t| (t.state.sending() || t.is_fast_opened()) && !t.write_closed()),
            Sock::Mptcp(idx) => self.connections.get(idx).is_some_and(|c| {
                !c.fin_queued && !matches!(c.phase, Phase::Closed | Phase::Connecting)
            }),
            _ => false,
        }
    }

    /// A leg that failed takes the other one with it.
    fn pass_failure(&mut self, now: Instant, failed: Sock, other: Sock) {
        let error = match failed {
            Sock::Plain(idx) => self
                .tcbs
                .get(idx)
                .and_then(|t| if t.state == State::Closed { t.app.error } else { None }),
            Sock::Mptcp(idx) => self
                .connections
                .get(idx)
                .and_then(|c| if c.phase == Phase::Closed { c.app.error } else { None }),
            _ => None,
        };
        let alive = match other {
            Sock::Plain(idx) => self.tcbs.get(idx).is_some_and(|t| t.state != State::Closed),
            Sock::Mptcp(idx) => self.connections.get(idx).is_some_and(|c| c.phase != Phase::Closed),
            _ => false,
        };
        if error.is_none() {
            return;
        }
        if alive {
            self.stats.relay_resets += 1;
            self.abort_sock(now, other, ConnectionError::Aborted);
        } else {
            // It ended in order, but nobody takes the rest any more: its end need not wait.
            self.discard_received(other);
        }
    }

    fn discard_received(&mut self, sock: Sock) {
        match sock {
            Sock::Plain(idx) => {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.received.clear();
                }
            }
            Sock::Mptcp(idx) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.clear_received();
                }
            }
            _ => {}
        }
    }

    /// Takes a socket out of its relay. The other leg stays a socket of its own; its application
    /// decides what becomes of it, and hears what it could do now.
    pub(super) fn uncouple(&mut self, sock: Sock) {
        let Some(idx) = self.app(sock).and_then(|app| app.uncouple()) else { return };
        self.forget_meter(idx);
        let Some(relay) = self.relays.remove(idx) else { return };
        let other = if relay.inner == sock { relay.outer } else { relay.inner };
        if let Some(app) = self.app(other) {
            app.relay = None;
            if app.is.contains(AppFlags::CLOSE_PENDING) {
                self.post_closed(other);
            }
        }
        self.report_missed(other);
    }

    /// While it was in a relay nothing was reported that a reader or a writer waits for.
    fn report_missed(&mut self, sock: Sock) {
        if self.is_closed(sock) {
            return;
        }
        let ended = self.read_finished(sock);
        let readable = ended || self.unread(sock);
        let room = self.send_room(sock) > 0;
        let Some(app) = self.app(sock) else { return };
        let mut ready = Ready::empty();
        if readable {
            app.is.remove(AppFlags::READ_ARMED);
            ready.insert(Ready::READABLE);
            ready.set(Ready::READ_CLOSED, ended);
        }
        if room && app.is.contains(AppFlags::WRITE_ARMED) {
            app.is.remove(AppFlags::WRITE_ARMED);
            ready.insert(Ready::WRITABLE);
        }
        if !ready.is_empty() {
            self.post(sock, ready);
        }
    }
}

/// What is in order counts so much against a send buffer at most.
fn counted<B: PacketBuf>(received: &RecvQueue<B>) -> u32 {
    received.in_order_len().max(received.in_order_truesize().div_ceil(2))
}

/// The next buffer in order, unless it is longer than that.
fn pop_within<B: PacketBuf>(received: &mut RecvQueue<B>, most: u32) -> Option<B> {
    let buf = received.pop()?;
    if buf.data_len() as u32 > most {
        received.unpop(buf);
        return None;
    }
    Some(buf)
}
