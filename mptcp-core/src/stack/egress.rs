//! What goes out: stateless answers first, then everything on the transmit list, round-robin with a
//! quantum, until the queue is full or nothing is left.
//!
//! Invariant: a full port holds up what must leave by it and nothing else; whether something went
//! out is counted where it is pushed ([`Lane`]), never read off the queue's room.

use super::demux::Node;
use super::scheduling::{Assignment, account};
use super::train::Train;
use super::views::Views;
use super::{Stack, env};
use crate::buf::{PacketBuf, PortId, TxMeta, TxQueue};
use crate::config::SchedulerKind;
use crate::driver::Progress;
use crate::mptcp::{Connection, Phase, Stretch};
use crate::tcp::{Burst, Tcb};
use crate::time::{Duration, Instant};
use crate::wire::{IcmpErrorKind, icmp};

/// Segments (or datagrams) one connection (or socket) may send before the next one has its turn.
pub(super) const QUANTUM: usize = 32;
/// Connections that cannot send because their port is full, looked at in one call.
const MAX_HELD: usize = 64;

/// The transmit queue as one entry of the transmit list sees it: the room its port has left, and
/// what became of its attempts.
struct Lane<'a, T, B> {
    tx: &'a mut T,
    port: PortId,
    /// What is pushed, but held until its burst is complete.
    train: Train<B>,
    /// Packets pushed.
    pushed: usize,
    /// The pool refused a buffer.
    starved: bool,
}

impl<'a, T, B: PacketBuf> Lane<'a, T, B> {
    fn new(tx: &'a mut T) -> Self {
        Self { tx, port: PortId::ROUTED, train: Train::new(), pushed: 0, starved: false }
    }

    /// The next packets leave by `port`.
    fn turn_to(&mut self, port: PortId) -> &mut Self {
        self.port = port;
        self
    }
}

impl<B: PacketBuf, T: TxQueue<B>> TxQueue<B> for Lane<'_, T, B> {
    fn room(&self) -> usize {
        self.room_on(self.port)
    }

    fn room_on(&self, port: PortId) -> usize {
        self.tx.room_on(port).min(self.tx.room()).saturating_sub(self.train.len())
    }

    fn alloc(&mut self) -> Option<B> {
        let buf = self.tx.alloc();
        self.starved |= buf.is_none();
        buf
    }

    fn alloc_copy(&mut self) -> Option<B> {
        self.tx.alloc_copy()
    }

    #[inline(always)]
    fn push(&mut self, packet: B) {
        self.pushed += 1;
        if self.train.is_boarding() {
            self.train.hold(packet);
        } else {
            self.tx.push(packet);
        }
    }

    fn checksum_offload(&self) -> bool {
        self.tx.checksum_offload()
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Fills `tx`. [`Progress::More`] while something waits, for room in `tx` or on a port of it, or for a buffer: the
    /// next call goes on where this one was.
    pub fn poll_transmit<T: TxQueue<B>>(&mut self, now: Instant, tx: &mut T) -> Progress {
        self.observer.now = now;
        self.check_waiting();
        if self.transmit_stateless(tx) == Progress::More {
            return Progress::More;
        }
        while let Some((port, error)) = self.icmp_errors.pop_front() {
            if tx.room() == 0 {
                self.icmp_errors.push_front((port, error));
                return Progress::More;
            }
            // One that finds no buffer is lost like any other datagram.
            self.transmit_icmp(port, &error, tx);
        }
        let (mut held, mut first_held) = (0, None);
        while let Some(number) = self.tx.pop_front() {
            if tx.room() == 0 || held == MAX_HELD || first_held == Some(number) {
                self.tx.push_front(number);
                return Progress::More;
            }
            let mut lane = Lane::new(tx);
            let node = self.numbering.node(number);
            let progress = match node {
                Node::Tcb(idx) => self.transmit_tcb(now, idx, &mut lane),
                Node::Connection(idx) => self.transmit_connection(now, idx, &mut lane),
                Node::Request(idx) => self.transmit_request(now, idx, &mut lane),
                Node::Udp(idx) => self.transmit_udp(now, idx, &mut lane),
                Node::Listener(_) | Node::TimeWait(_) => Progress::Done,
            };
            if progress == Progress::Done {
                continue;
            }
            self.tx.push_back(number);
            if lane.pushed == 0 {
                if lane.starved {
                    // No buffer to be had, for nobody: later.
                    return Progress::More;
                }
                held += 1;
                first_held = first_held.or(Some(number));
            }
        }
        Progress::Done
    }

    /// What was written down at once, without anything behind it: resets, then answers.
    fn transmit_stateless<T: TxQueue<B>>(&mut self, tx: &mut T) -> Progress {
        for queue in [&mut self.resets, &mut self.replies] {
            while let Some(segment) = queue.front() {
                if tx.room() == 0 || !segment.emit(tx, &mut self.stats) {
                    return Progress::More;
                }
                queue.pop_front();
            }
        }
        if self.resets.capacity() > super::MAX_REPLIES {
            // Thousands were aborted at once; that is over.
            self.resets = alloc::collections::VecDeque::new();
        }
        Progress::Done
    }

    fn transmit_icmp<T: TxQueue<B>>(&mut self, port: PortId, error: &[u8], tx: &mut T) {
        let Some(mut packet) = tx.alloc() else { return };
        let Some(into) = packet.append(error.len()) else { return };
        into.copy_from_slice(error);
        packet.set_tx_meta(TxMeta { port, partial_checksum: false });
        match icmp::kind_of(error) {
            Some(IcmpErrorKind::TimeExceeded) => self.stats.icmp_out_time_excds += 1,
            Some(IcmpErrorKind::ParameterProblem) => self.stats.icmp_out_parm_probs += 1,
            _ => self.stats.icmp_out_dest_unreachs += 1,
        }
        tx.push(packet);
    }

    fn transmit_request<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        idx: u32,
        tx: &mut Lane<'_, T, B>,
    ) -> Progress {
        let Some(syn_ack) = self.syn_ack(now, idx) else { return Progress::Done };
        if tx.turn_to(syn_ack.port).room() == 0 {
            return Progress::More;
        }
        if syn_ack.emit(tx, &mut self.stats) { Progress::Done } else { Progress::More }
    }

    fn transmit_tcb<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        idx: u32,
        tx: &mut Lane<'_, T, B>,
    ) -> Progress {
        let mut budget = QUANTUM;
        let before = self.watch(idx);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return Progress::Done };
        let tx = tx.turn_to(tcb.port);
        let mut env = env!(self, now);
        let progress = match tcb.subflow.as_ref().map(|s| s.connection) {
            None => tcb.output(&mut env, tx, None, &mut budget),
            Some(owner) => {
                let Some(connection) = self.connections.get_mut(owner) else {
                    return Progress::Done;
                };
                let quiet = tcb.has_nothing_due(now);
                if quiet {
                    tcb.rest_output(now, connection.dss_format());
                }
                let mut progress = Progress::Done;
                if !quiet || cfg!(debug_assertions) {
                    let data = connection.data_level();
                    progress = tcb.output(&mut env, tx, Some(&data), &mut budget);
                    let nothing = tx.pushed == 0 && progress == Progress::Done;
                    debug_assert!(!quiet || nothing, "a quiet subflow");
                    if tx.pushed > 0 && tcb.state.synchronized() {
                        connection.advertised(tcb.last_window());
                    }
                }
                if connection.fin_due() {
                    let deadline = connection.next_timeout();
                    self.arm(Node::Connection(owner), deadline);
                }
                progress
            }
        };
        self.watched(idx, before);
        let deadline = self.tcbs.get(idx).and_then(Tcb::next_timeout);
        self.arm(Node::Tcb(idx), deadline);
        progress
    }

    /// Hands stream data to subflows, as the scheduler chooses.
    fn transmit_connection<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        owner: u32,
        tx: &mut Lane<'_, T, B>,
    ) -> Progress {
        self.manage_paths(now, owner);
        self.heed_verdicts(now, owner);
        if self.connections.get(owner).is_some_and(Connection::has_nothing_to_send) {
            self.finish_sending(now, owner);
            return Progress::Done;
        }
        let mut views = core::mem::take(&mut self.views);
        views.forget();
        core::mem::swap(&mut self.train, &mut tx.train);
        let mut progress = Progress::Done;
        let mut left = QUANTUM;
        loop {
            let assignment = self.assign(now, owner, &mut views, &|port| tx.room_on(port));
            let Some(assignment) = assignment else {
                if views.port_full {
                    progress = Progress::More;
                }
                break;
            };
            if self.holds_back(owner, &assignment) {
                break;
            }
            if !self.admit(now, owner, &assignment) {
                // By another path, perhaps.
                continue;
            }
            if left == 0
                || tx.tx.room() == 0
                || !self.send_on(now, owner, &assignment, &mut views, &mut left, tx)
            {
                progress = Progress::More;
                break;
            }
            if let Some(holder) = assignment.holder {
                self.head_went(now, owner, holder, &assignment.next);
            }
        }
        self.views = views;
        core::mem::swap(&mut self.train, &mut tx.train);
        self.finish_sending(now, owner);
        progress
    }

    /// New data that had better wait for a larger window, or for company.
    fn holds_back(&mut self, owner: u32, assignment: &Assignment) -> bool {
        let nagle = self.config.tcp.nagle;
        let Assignment { next, idx, .. } = *assignment;
        let Some(mss) = self.tcbs.get(idx).map(Tcb::payload_mss) else { return true };
        self.connections.get_mut(owner).is_none_or(|c| c.holds_back(next, mss, nagle))
    }

    /// Sends a segment, and what is behind it as long as the scheduler would choose the same subflow again;
    /// takes them off `left`. False when one could not be sent.
    fn send_on<T: TxQueue<B>>(
        &mut self,
        now: Instant,
        owner: u32,
        assignment: &Assignment,
        views: &mut Views,
        left: &mut usize,
        tx: &mut Lane<'_, T, B>,
    ) -> bool {
        let Assignment { mut next, idx, mut lasting, .. } = *assignment;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let tx = tx.turn_to(tcb.port);
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        if connection.phase != Phase::Fallback {
            connection.choose_width(now, next.start);
            tcb.set_dss_format(connection.dss_format());
        }
        let mss = tcb.payload_mss();
        // Only what is sent for the first time: a repair has somebody who waits for it.
        let probes = !next.again && connection.phase != Phase::Unconfirmed;
        let probe = if probes { tcb.probe_payload(now, next.len) } else { None };
        let room = probe.unwrap_or(mss).min(tcb.usable_window());
        let mut data = connection.data_level();
        let mut env = env!(self, now);
        // What is sent again goes one by one, and what begins a connection has more to say.
        let usual = !next.again && matches!(connection.phase, Phase::Confirmed | Phase::Fallback);
        let mut burst = Burst::new(usual);
        let id = tcb.subflow.as_ref().map_or(u8::MAX, |s| s.id);
        let mut stretch = Stretch::NONE;
        let nagle = self.config.tcp.nagle;
        // What chose this subflow for a segment would choose it again while there is room for one more.
        let (mut octets, windows) = (0, tcb.room_before(mss));
        let joins = tx.tx.segmentation_offload(tcb.port);
        let sent = loop {
            let Some(mut payload) = connection.segment(next, (room, mss), tx, &mut burst) else {
                env.stats.tx_no_buffer += 1;
                break false;
            };
            let mut mapping = connection.mapping(next, &mut payload, tcb);
            let len = payload.data_len() as u32;
            let push = next.start + u64::from(len) >= connection.data_end;
            let follows = burst.goes_on();
            if joins {
                tx.train.board(mapping.as_mut(), tcb, &burst, tx.tx);
            }
            if !tcb.send_mapped(&mut env, tx, &data, payload, mapping, push, &mut burst) {
                break false;
            }
            if joins {
                tx.train.boarded(mapping.as_ref());
            }
            octets += len;
            connection.sent(next, len, mss, id);
            let mut news = false;
            if !follows {
                // One with the headers of another says nothing that is new.
                let promised = connection.promised();
                connection.advertised(tcb.last_window());
                news = connection.promised() != promised;
            }
            *left -= 1;
            if *left == 0 || tx.room() == 0 || octets >= windows || tcb.pace_holds(now) {
                break true;
            }
            if probe.is_some() {
                // What is longer than others tries the path alone (RFC 4821 §7.3), whatever was to go with it.
                break true;
            }
            if connection.is_ahead(next) {
                next = next.behind(len);
                if next.len < mss || !connection.keeps_width(next.start) {
                    break true;
                }
            } else {
                let Some(lasting) = &mut lasting else { break true };
                if let Some(behind) = stretch.behind(next.start + u64::from(len)) {
                    debug_assert_eq!(connection.next_to_send(), Some(behind), "a stretch");
                    debug_assert!(!connection.window_cuts(lasting.mss), "a stretch");
                    next = behind;
                } else {
                    match connection.next_to_send() {
                        Some(behind) if !behind.again => next = behind,
                        _ => break true,
                    }
                    if next.len < mss {
                        // The end of what was written, or of a gap: for less, a subflow whose window had no room for
                        // a whole one may be the better choice.
                        if views.starved || connection.holds_back(next, mss, nagle) {
                            break true;
                        }
                        // It has a mapping of its own.
                        if joins {
                            tx.train.depart(tcb, &burst, tx.tx);
                        }
                    }
                    if connection.window_cuts(lasting.mss) || !connection.keeps_width(next.start) {
                        break true;
                    }
                    stretch = connection.stretch(mss, lasting.mss);
                }
                if !lasting.is_firm(connection) && !views.choose_again(connection, lasting, len) {
                    break true;
                }
            }
            if !follows {
                if connection.dss_format() != data.format {
                    break true;
                }
                if news {
                    data = connection.data_level();
                    tx.train.depart(tcb, &burst, tx.tx);
                    burst.forget();
                }
            }
        };
        if octets > 0 {
            account(now, connection, tcb, &assignment.next, octets);
        }
        tx.train.depart(tcb, &burst, tx.tx);
        tcb.end_burst(&env, &burst);
        let deadline = tcb.next_timeout();
        self.arm(Node::Tcb(idx), deadline);
        sent
    }

    /// After the last segment that could go: the end of the stream, and the data-level timer.
    fn finish_sending(&mut self, now: Instant, owner: u32) {
        let needs_rto = self.connections.get(owner).is_some_and(Connection::needs_rto);
        let rto = if needs_rto { self.largest_rto(owner) } else { Duration::ZERO };
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let all_sent = connection.data_snd_nxt == connection.data_end;
        // Whoever sends all by every way has copies to send still.
        if all_sent
            && connection.scheduler != SchedulerKind::Redundant
            && connection.next_to_send().is_none()
            && let Some(policy) = &mut connection.policy
        {
            policy.give_back(now);
        }
        if connection.fin_queued && all_sent && connection.phase == Phase::Fallback {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx)
                    && !tcb.write_closed()
                {
                    tcb.shutdown_write();
                    self.touch_tcb(idx);
                }
            }
            return;
        }
        if all_sent && !connection.has_repairs() {
            for &idx in connection.subflows.iter() {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.note_window(now, 0);
                }
            }
        }
        let announce_fin = connection.fin_due() && !connection.fin_announced;
        if announce_fin {
            connection.fin_announced = true;
        }
        connection.arm_rtx(now, rto);
        let deadline = connection.next_timeout();
        if announce_fin {
            for idx in self.subflows_of(owner) {
                if let Some(tcb) = self.tcbs.get_mut(idx) {
                    tcb.ack_now();
                }
                self.touch_tcb(idx);
            }
        }
        self.arm(Node::Connection(owner), deadline);
    }
}
