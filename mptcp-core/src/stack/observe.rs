//! What the stack tells about single connections: event logs where they were asked for, and debug
//! lines about fallbacks and resets, within a rate.

use super::demux::Node;
use super::{Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::event_log::{Event, EventLog, Record, ReinjectCause, SubflowEnd, Why};
use crate::mptcp::FallbackReason;
use crate::tcp::{CongestionState, State, Tcb, Tuple};
use crate::time::Instant;
use crate::util::bucket::TokenBucket;
use crate::wire::reset_reason;
use alloc::collections::BTreeMap;

/// Lines per second about what peers cause.
const LINES_PER_S: u32 = 100;

/// The logs, by the number of their connection's node; a listener's entry says what its connections
/// get.
#[derive(Debug)]
pub(super) struct Observer {
    /// The time of the call that goes on.
    pub(super) now: Instant,
    logs: BTreeMap<u32, EventLog>,
    lines: TokenBucket,
}

/// What is compared before and after a step of the TCP engine.
type Watched = (State, CongestionState, u16);

impl Observer {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, logs: BTreeMap::new(), lines: TokenBucket::new(LINES_PER_S) }
    }

    /// Nobody asked for a log: the one branch that events cost then.
    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.logs.is_empty()
    }

    #[inline]
    pub(super) fn record(&mut self, node: u32, event: Event) {
        if !self.is_off()
            && let Some(log) = self.logs.get_mut(&node)
        {
            log.push(self.now, event);
        }
    }

    /// One more line may be written.
    fn may_log(&mut self) -> bool {
        log::log_enabled!(log::Level::Debug) && self.lines.take(self.now)
    }

    /// The object with this number is gone.
    #[inline]
    pub(super) fn forget(&mut self, node: u32) {
        if !self.is_off() {
            self.logs.remove(&node);
        }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Keeps a log of what happens to a connection from now on, of its newest `capacity` records (1
    /// to [`MAX_RECORDS`](crate::event_log::MAX_RECORDS)) and as many choices of the scheduler; of a listener, for every connection that
    /// it accepts from now on. Asked for right after [`Stack::connect`] it is complete. The log goes
    /// with the id: read it before `release`, `close` or `abort`. 0 ends it. False when the id is
    /// stale or names neither.
    ///
    /// A record takes about 100 octets; as many logs as connections are kept when a listener is
    /// asked.
    pub fn log_events(&mut self, id: SocketId, capacity: u32) -> bool {
        let Some(sock) = self.resolve(id) else { return false };
        let Some(node) = self.log_of(sock) else { return false };
        if capacity == 0 {
            self.observer.logs.remove(&node);
            return true;
        }
        self.observer.logs.insert(node, EventLog::new(capacity));
        let opening = |t: &Tcb<B>| t.state == State::SynSent;
        let plain = matches!(sock, Sock::Plain(idx) if self.tcbs.get(idx).is_some_and(opening));
        if plain || self.is_connecting(sock) {
            self.observe_start(sock, true);
        }
        true
    }

    /// The log of a connection; `None` where none is kept.
    #[must_use]
    pub fn event_log(&self, id: SocketId) -> Option<&EventLog> {
        let node = self.log_of(self.resolve(id)?)?;
        self.observer.logs.get(&node)
    }

    /// Every log there is, with the connection it belongs to; a listener's is empty.
    pub fn event_logs(&self) -> impl Iterator<Item = (SocketId, &EventLog)> {
        self.observer.logs.iter().filter_map(|(&number, log)| {
            let sock = match self.numbering.node(number) {
                Node::Tcb(idx) => Sock::Plain(idx),
                Node::Connection(idx) => Sock::Mptcp(idx),
                Node::Listener(idx) => Sock::Listener(idx),
                Node::Request(_) | Node::TimeWait(_) | Node::Udp(_) => return None,
            };
            Some((self.socket_id(sock)?, log))
        })
    }

    /// The oldest record of a connection's log, taken out.
    pub fn take_event(&mut self, id: SocketId) -> Option<Record> {
        let node = self.log_of(self.resolve(id)?)?;
        self.observer.logs.get_mut(&node)?.take()
    }

    fn log_of(&self, sock: Sock) -> Option<u32> {
        let node = match sock {
            Sock::Plain(idx) => Node::Tcb(idx),
            Sock::Mptcp(idx) => Node::Connection(idx),
            Sock::Listener(idx) => Node::Listener(idx),
            Sock::Request(_) | Sock::Udp(_) => return None,
        };
        Some(self.numbering.number(node))
    }

    #[inline]
    pub(super) fn observe(&mut self, owner: u32, event: Event) {
        self.observer.record(self.numbering.number(Node::Connection(owner)), event);
    }

    #[inline]
    pub(super) fn observe_sock(&mut self, sock: Sock, event: Event) {
        if !self.observer.is_off()
            && let Some(node) = self.log_of(sock)
        {
            self.observer.record(node, event);
        }
    }

    /// A connection of `listener` begins; its log is as the listener's.
    pub(super) fn observe_accepted(&mut self, listener: u32, sock: Sock) {
        if self.observer.is_off() {
            return;
        }
        let listener = self.numbering.number(Node::Listener(listener));
        let log = self.observer.logs.get(&listener).map(EventLog::empty_twin);
        if let (Some(log), Some(node)) = (log, self.log_of(sock)) {
            self.observer.logs.insert(node, log);
            self.observe_start(sock, false);
            self.observe_established(sock);
        }
    }

    fn observe_start(&mut self, sock: Sock, client: bool) {
        let start = match sock {
            Sock::Plain(idx) => self.tcbs.get(idx).map(|t| (t.ends.tuple(), None)),
            Sock::Mptcp(idx) => {
                self.connections.get(idx).map(|c| (c.first(), Some(c.version as u8)))
            }
            _ => None,
        };
        if let Some((tuple, version)) = start {
            let (local, remote) = (tuple.local(), tuple.remote());
            self.observe_sock(sock, Event::Started { client, local, remote, version });
        }
    }

    /// The first subflow's handshake is over.
    pub(super) fn observe_established(&mut self, sock: Sock) {
        if self.observer.is_off() {
            return;
        }
        let mptcp = match sock {
            Sock::Mptcp(idx) => self.connections.get(idx).filter(|c| c.fallback.is_none()),
            _ => None,
        };
        let version = mptcp.map(|c| c.version as u8);
        let checksum = mptcp.is_some_and(|c| c.checksum);
        self.observe_sock(sock, Event::Established { version, checksum });
    }

    /// A join can carry data.
    pub(super) fn observe_joined(&mut self, owner: u32, idx: u32) {
        if self.observer.is_off() {
            return;
        }
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let Some(subflow) = &tcb.subflow else { return };
        let joined = Event::SubflowJoined {
            subflow: subflow.id,
            local: tcb.ends.tuple().local(),
            remote: tcb.ends.tuple().remote(),
            local_id: subflow.local_id,
            remote_id: subflow.remote_id,
            backup: subflow.is_backup(),
        };
        self.observe(owner, joined);
    }

    /// The scheduler was asked for the next segment of a connection.
    #[inline]
    pub(super) fn observe_choice(&mut self, owner: u32, idx: Option<u32>, why: Why) {
        if self.observer.is_off() {
            return;
        }
        let subflow = idx.map(|idx| self.subflow_id(idx));
        let node = self.numbering.number(Node::Connection(owner));
        let now = self.observer.now;
        if let Some(log) = self.observer.logs.get_mut(&node) {
            log.choice(now, subflow, why);
        }
    }

    /// Data of a subflow (or of the stream as a whole) was put up for sending again.
    #[inline]
    pub(super) fn observe_reinjection(
        &mut self,
        owner: u32,
        idx: Option<u32>,
        cause: ReinjectCause,
    ) {
        if !self.observer.is_off() {
            let subflow = idx.map(|idx| self.subflow_id(idx));
            self.observe(owner, Event::Reinjected { subflow, cause });
        }
    }

    /// Number of a subflow within its connection; 0 on plain connections.
    pub(super) fn subflow_id(&self, idx: u32) -> u8 {
        let subflow = self.tcbs.get(idx).and_then(|t| t.subflow.as_ref());
        subflow.map_or(0, |subflow| subflow.id)
    }

    /// What to compare after a step of the engine; `None` while nobody asks.
    #[inline]
    pub(super) fn watch(&self, idx: u32) -> Option<Watched> {
        if self.observer.is_off() {
            return None;
        }
        self.tcbs.get(idx).map(Tcb::watched)
    }

    /// Records what a step of the engine changed.
    #[inline]
    pub(super) fn watched(&mut self, idx: u32, before: Option<Watched>) {
        if let Some(before) = before {
            self.record_changes(idx, before);
        }
    }

    fn record_changes(&mut self, idx: u32, before: Watched) {
        let Some(tcb) = self.tcbs.get(idx) else { return };
        let (state, congestion, mss) = tcb.watched();
        let sock = match &tcb.subflow {
            Some(subflow) => Sock::Mptcp(subflow.connection),
            None => Sock::Plain(idx),
        };
        let (cwnd, ssthresh) = (tcb.cwnd(), tcb.ssthresh());
        let subflow = self.subflow_id(idx);
        if state != before.0 {
            self.observe_sock(sock, Event::TcpState { subflow, state });
        }
        if congestion != before.1 {
            let state = congestion;
            self.observe_sock(sock, Event::Congestion { subflow, state, cwnd, ssthresh });
        }
        if mss != before.2 && before.0.synchronized() {
            self.observe_sock(sock, Event::Mss { subflow, mss });
        }
    }

    // Fallbacks and resets: counter, record, line.

    /// A connection goes on, or begins, as plain TCP.
    pub(super) fn note_fallback(&mut self, sock: Sock, tuple: &Tuple, reason: FallbackReason) {
        self.stats.fall_back(reason);
        self.observe_sock(sock, Event::FellBack { reason });
        if self.observer.may_log() {
            let (local, remote) = (tuple.local(), tuple.remote());
            log::debug!("{local} to {remote}: TCP instead of MPTCP: {}", reason.name());
        }
    }

    /// What would have meant fallback came when the stream was no longer on one subflow.
    pub(super) fn note_fallback_refused(&mut self, owner: u32, reason: FallbackReason) {
        self.stats.fallback_failed += 1;
        self.observe(owner, Event::FallbackRefused { reason });
    }

    /// A subflow ends; `subflow_closed` follows.
    pub(super) fn note_subflow_end(&mut self, owner: u32, idx: u32, end: SubflowEnd) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.last_end = Some(end);
            connection.subflows_ended = connection.subflows_ended.saturating_add(1);
        }
        let subflow = self.subflow_id(idx);
        self.observe(owner, Event::SubflowClosed { subflow, end });
        if let SubflowEnd::Reset(reason) = end
            && let Some(tuple) = self.tcbs.get(idx).map(|t| t.ends.tuple())
        {
            self.note_reset(&tuple, reason);
        }
    }

    /// A subflow is reset, or a join refused, for a reason of RFC 8684 §3.6.
    pub(super) fn note_reset(&mut self, tuple: &Tuple, reason: u8) {
        self.stats.reset(reason);
        if self.observer.may_log() {
            let (local, remote) = (tuple.local(), tuple.remote());
            log::debug!("{local} to {remote}: subflow reset: {}", reset_reason::name(reason));
        }
    }
}
