//! The data level of Multipath TCP (RFC 8684): one stream over several subflows.
//!
//! Positions in the two streams are kept as offsets from the first octet (IDSN + 1), so nothing
//! here wraps; they become data sequence numbers only on the wire. Invariants: the advertised right
//! edge of the receive window never moves left; stream data is kept until a `DATA_ACK` covers it.

mod ahead;
mod fallback;
pub mod key;
pub mod mapping;
mod passage;
pub mod path_health;
pub(crate) mod path_manager;
mod rare;
mod receive;
pub(crate) mod scheduler;
mod send;
mod signals;
mod subflow;
mod warm;

pub use fallback::FallbackReason;
use passage::Passage;
pub(crate) use passage::Silence;
pub(crate) use path_manager::{Announced, Endpoint, Join, PathManager, Paths};
pub(crate) use receive::{Amount, Mapped, Pulled, Unmapped};
pub(crate) use send::{Next, Stretch, Written};
pub(crate) use signals::Signal;
pub(crate) use subflow::{
    Carry, DssFormat, INFINITE_LEN, Marks, Probe, Stage, Subflow, Watch, Word,
};

use crate::buf::PacketBuf;
use crate::config::{Marking, SchedulerKind, Scheduling, TcpConfig};
use crate::error::ConnectionError;
use crate::event_log::SubflowEnd;
use crate::seq::{DataSeq, SeqNum};
use crate::stack::AppState;
use crate::tcp::congestion::CongestionChoice;
use crate::tcp::{Autotune, DataLevel, KeptTuple, RecvQueue, Tcb, Tcbs, Tuple};
use crate::time::{Duration, Instant, earliest};
use crate::util::on_demand::OnDemand;
use crate::util::short_list::ShortList;
use crate::wire::{Version, WireSeq};
use alloc::boxed::Box;
use core::num::{NonZeroU32, NonZeroU64};

use key::{KeyPair, OwnKey};
use rare::Rare;

/// How far a connection got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Initiator: the first subflow's handshake is not finished.
    Connecting,
    /// Keys are exchanged; the peer has not shown yet that it maps data.
    Unconfirmed,
    /// MPTCP in both directions.
    Confirmed,
    /// Plain TCP on one subflow.
    Fallback,
    /// Both streams ended, or an error did.
    Closed,
}

/// Whether a small window holds new data back (RFC 9293 §3.8.6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    No,
    Sliver,
    /// It waited long enough.
    Override,
}

/// A `DATA_FIN` that is not acknowledged is sent again after this at the earliest.
const FIN_RTO_MIN: Duration = Duration::from_millis(200);
/// Data that is not acknowledged is sent again after this at the earliest.
const DATA_RTO_MIN: Duration = Duration::from_millis(500);
/// What is sent is repeated for as long as this at least (R2 of RFC 9293 §3.8.3).
const PATIENCE: Duration = Duration::from_secs(100);
/// Back-off goes no further, as that of TCP (RFC 6298 (2.5)).
const DATA_RTO_MAX: Duration = Duration::from_secs(120);

/// One MPTCP connection.
#[derive(Debug)]
pub(crate) struct Connection<B> {
    pub(crate) version: Version,
    pub(crate) phase: Phase,
    pub(crate) client: bool,
    pub(crate) fallback: Option<FallbackReason>,
    pub(crate) checksum: bool,
    /// Of every subflow.
    pub(crate) marking: Marking,
    pub(crate) passage: Passage,
    pub(crate) next_subflow_id: u8,
    /// Addresses announced to the peer.
    pub(crate) announced: u8,
    /// Octets that the SYN carried, ours and the peer's: before the first of either stream.
    pub(crate) early_sent: u16,
    pub(crate) early_received: u16,
    /// Subflows that ended, and how the last of them did.
    pub(crate) subflows_ended: u16,
    pub(crate) last_end: Option<SubflowEnd>,
    /// Joins of this connection among the pending requests.
    pub(crate) half_open: u8,
    pub(crate) keys: KeyPair,
    pub(crate) local_token: u32,
    pub(crate) remote_token: u32,
    local_idsn: DataSeq,
    remote_idsn: DataSeq,
    // Sending.
    written: OnDemand<Written<B>>,
    /// Pool bytes that `written` pins.
    pinned: u32,
    pub(crate) data_snd_una: u64,
    pub(crate) data_snd_nxt: u64,
    /// End of what the application wrote.
    pub(crate) data_end: u64,
    /// Octets that went out again on another subflow.
    pub(crate) bytes_retrans: u64,
    /// First offset the peer does not accept yet.
    pub(crate) snd_edge: u64,
    /// End of the last new segment that was smaller than it could have been.
    small_end: u64,
    /// Largest window the peer ever offered.
    max_window: u32,
    /// So many `DATA_ACK`s more may end in front of something that TCP delivered and the peer's data level
    /// lost.
    gap_acks: u8,
    pub(crate) fin_queued: bool,
    pub(crate) fin_acked: bool,
    /// The `DATA_FIN` was handed to the subflows once; its timer runs.
    pub(crate) fin_announced: bool,
    /// New data waits for a window that is worth a segment, or went without one after a timeout.
    hold: Hold,
    /// Window probes since a peer last answered.
    unanswered: u8,
    wide: bool,
    /// When it was last judged how fast the stream grows, the low bits of milliseconds, and how far it was.
    wide_since: Option<NonZeroU32>,
    wide_base: u64,
    // Receiving.
    pub(crate) data_rcv_nxt: u64,
    rcv_edge: u64,
    /// Largest window any segment offered, octets.
    widest: u32,
    pub(crate) received: OnDemand<RecvQueue<B>>,
    autotune: Autotune,
    /// Where the peer's stream ends, once it said so: one more than the offset.
    peer_fin: Option<NonZeroU64>,
    /// That end is not waiting for a checksum to confirm it.
    fin_sure: bool,
    pub(crate) peer_finished: bool,
    peer_wide: bool,
    /// End of what came with 64-bit numbers and no `DATA_ACK` of ours covered yet; 0 when there is
    /// nothing.
    wide_owed: u64,
    // Subflows, timers, application.
    pub(crate) subflows: ShortList,
    pub(crate) rtx_at: Option<Instant>,
    pub(crate) rtx_shift: u8,
    /// When the first subflow that is in doubt, or sidelined, is looked at.
    pub(crate) health_at: Option<Instant>,
    /// Number of the subflow that carried the head of the stream when that was last sent again; 255
    /// when it was not.
    pub(crate) repaired_by: u8,
    pub(crate) paths: Paths,
    pub(crate) scheduler: SchedulerKind,
    pub(crate) memory: scheduler::Memory,
    pub(crate) policy: Option<Box<scheduler::Policy>>,
    pub(crate) rare: OnDemand<Rare>,
    pub(crate) app: AppState,
    /// Both ends of the first subflow, which nothing but reports and path management asks for.
    first: KeptTuple,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) version: Version,
    pub(crate) client: bool,
    pub(crate) keys: KeyPair,
    pub(crate) checksum: bool,
}

impl<B: PacketBuf> Connection<B> {
    pub(crate) fn new(
        config: &TcpConfig,
        negotiated: &Negotiated,
        own: &OwnKey,
        first: Tuple,
        paths: Paths,
    ) -> Self {
        let version = negotiated.version;
        debug_assert_eq!(*own, OwnKey::new(version, negotiated.keys.local), "another key");
        let mut connection = Self {
            version,
            phase: if negotiated.client { Phase::Connecting } else { Phase::Unconfirmed },
            client: negotiated.client,
            fallback: None,
            checksum: negotiated.checksum,
            marking: config.marking,
            passage: Passage::new(),
            next_subflow_id: 0,
            announced: 0,
            early_sent: 0,
            early_received: 0,
            subflows_ended: 0,
            last_end: None,
            half_open: 0,
            keys: negotiated.keys,
            local_token: own.token,
            remote_token: 0,
            local_idsn: own.idsn,
            remote_idsn: DataSeq(0),
            written: OnDemand::new(),
            pinned: 0,
            data_snd_una: 0,
            data_snd_nxt: 0,
            data_end: 0,
            bytes_retrans: 0,
            snd_edge: 0,
            gap_acks: 0,
            fin_queued: false,
            fin_acked: false,
            fin_announced: false,
            hold: Hold::No,
            unanswered: 0,
            small_end: 0,
            max_window: 0,
            wide: false,
            wide_since: None,
            wide_base: 0,
            data_rcv_nxt: 0,
            rcv_edge: 0,
            widest: 0,
            received: OnDemand::new(),
            autotune: Autotune::new(config),
            peer_fin: None,
            fin_sure: false,
            peer_finished: false,
            // Version 0 peers may not read 64 bits: they get them once they use them.
            peer_wide: version == Version::V1,
            wide_owed: 0,
            subflows: ShortList::new(),
            rtx_at: None,
            rtx_shift: 0,
            health_at: None,
            repaired_by: u8::MAX,
            paths,
            scheduler: SchedulerKind::default(),
            memory: scheduler::Memory::default(),
            policy: None,
            rare: OnDemand::new(),
            app: AppState::default(),
            first: KeptTuple::new(first),
        };
        connection.set_remote_key(negotiated.keys.remote);
        connection
    }

    /// Nothing is due: queues that nobody uses give their memory back.
    pub(crate) fn rest(&mut self) {
        self.received.rest();
        self.written.rest();
        if let Some(rare) = self.rare.there() {
            for bound in [&mut rare.repeated_to, &mut rare.spread_to] {
                if *bound <= self.data_snd_una {
                    *bound = 0;
                }
            }
        }
        self.rare.rest();
    }

    /// It keeps nothing beside itself.
    #[cfg(test)]
    pub(crate) const fn rests(&self) -> bool {
        !self.received.is_there() && !self.written.is_there() && !self.rare.is_there()
    }

    /// Spreads the data over the paths as `asked` from now on.
    pub(crate) fn set_scheduling(&mut self, now: Instant, asked: &Scheduling) {
        self.scheduler = asked.kind;
        self.memory = scheduler::Memory::default();
        let mut policy = scheduler::Policy::new(asked, now);
        if let Some(former) = self.policy.take() {
            policy = policy.succeeding(*former, now);
        }
        self.policy = Some(policy).filter(|policy| !policy.is_empty()).map(Box::new);
        if let Some(rare) = self.rare.there() {
            rare.capped_until = None;
        }
    }

    /// Congestion control of its subflows where it is not the stack's.
    pub(crate) fn congestion(&self) -> Option<&CongestionChoice> {
        self.policy.as_ref()?.congestion.as_ref()
    }

    pub(crate) fn set_congestion(&mut self, choice: CongestionChoice) {
        self.policy.get_or_insert_default().congestion = Some(choice);
    }

    /// The peer's key became known.
    pub(crate) fn set_remote_key(&mut self, remote: u64) {
        self.keys.remote = remote;
        (self.remote_token, self.remote_idsn) = key::token_and_idsn(self.version, remote);
    }

    // Data sequence numbers and offsets.

    /// DSN of an offset of our stream.
    pub(crate) fn local_dsn(&self, offset: u64) -> DataSeq {
        self.local_idsn.add(1).add(offset)
    }

    pub(crate) fn remote_dsn(&self, offset: u64) -> DataSeq {
        self.remote_idsn.add(1).add(offset)
    }

    /// Offset of a received DSN in the peer's stream; `None` before its first octet.
    pub(crate) fn remote_offset(&self, wire: WireSeq) -> Option<u64> {
        let dsn = match wire {
            WireSeq::Full(full) => DataSeq(full),
            WireSeq::Low(low) => self.remote_dsn(self.data_rcv_nxt).expand(low),
        };
        let offset = dsn.diff(self.remote_idsn.add(1));
        u64::try_from(offset).ok()
    }

    /// Offset of a received `DATA_ACK` in our stream.
    pub(crate) fn local_offset(&self, wire: WireSeq) -> Option<u64> {
        let dsn = match wire {
            WireSeq::Full(full) => DataSeq(full),
            WireSeq::Low(low) => self.local_dsn(self.data_snd_una).expand(low),
        };
        u64::try_from(dsn.diff(self.local_idsn.add(1))).ok()
    }

    // What the subflows' segments carry.

    /// Data-level fields of the next segment of any subflow.
    pub(crate) fn data_level(&self) -> DataLevel {
        let mptcp = matches!(self.phase, Phase::Unconfirmed | Phase::Confirmed | Phase::Closed);
        let data_ack = (mptcp && self.keys.remote != 0).then(|| self.wire_data_ack());
        DataLevel {
            data_ack,
            promised: self.promised_floor(),
            window: self.window(),
            data_fin: self.fin_due().then(|| self.local_dsn(self.data_end)),
            unsure: self.unsure(),
            format: self.dss_format(),
            local_key: self.keys.local,
            remote_key: self.keys.remote,
        }
    }

    /// What the DSS of a segment that leaves now looks like.
    pub(crate) fn dss_format(&self) -> DssFormat {
        DssFormat { wide: self.wide, wide_ack: self.wide_ack(), checksum: self.checksum }
    }

    /// As wide as the peer's last sequence number was, or as any that it covers (RFC 8684 §3.3.2).
    fn wide_ack(&self) -> bool {
        self.peer_wide || self.wide_owed > 0
    }

    /// What a `DATA_ACK` says: everything in order, the `DATA_FIN` included.
    fn acknowledged(&self) -> u64 {
        self.data_rcv_nxt + u64::from(self.peer_finished)
    }

    /// The socket's addresses as the first subflow had them.
    pub(crate) fn first(&self) -> Tuple {
        self.first.tuple()
    }

    /// Offset at which the peer's stream ends, once it said so.
    pub(crate) fn peer_fin(&self) -> Option<u64> {
        self.peer_fin.map(|fin| fin.get() - 1)
    }

    /// Our `DATA_FIN` wants to go out with every acknowledgement.
    pub(crate) fn fin_due(&self) -> bool {
        self.fin_queued
            && !self.fin_acked
            && self.data_snd_nxt == self.data_end
            && matches!(self.phase, Phase::Unconfirmed | Phase::Confirmed)
    }

    /// Nothing but our `DATA_FIN` is outstanding, and the peer's window has no room for the octet that it takes:
    /// some drop it then, and wait for another one.
    pub(crate) fn fin_blocked(&self) -> bool {
        self.fin_due() && self.data_snd_una == self.data_end && self.snd_edge <= self.data_end
    }

    /// What TIME-WAIT entries of its subflows go on acknowledging.
    pub(crate) fn final_data_ack(&self) -> Option<WireSeq> {
        let mptcp = self.fallback.is_none() && self.keys.remote != 0;
        mptcp.then(|| self.wire_data_ack())
    }

    fn wire_data_ack(&self) -> WireSeq {
        let ack = self.remote_dsn(self.acknowledged());
        if self.wide_ack() { WireSeq::Full(ack.0) } else { WireSeq::Low(ack.0 as u32) }
    }

    /// Subflows that reached the peer, and are not waiting for their last ACK only. A join without its fourth ACK may
    /// never have.
    pub(crate) fn live_subflows(&self, tcbs: &Tcbs<B>) -> usize {
        let joins = |tcb: &Tcb<B>| tcb.subflow.as_ref().is_some_and(|s| s.is_joining());
        let live = |tcb: &Tcb<B>| tcb.state.synchronized() && !tcb.write_closed() && !joins(tcb);
        let live = |idx: &&u32| tcbs.get(**idx).is_some_and(live);
        self.subflows.iter().filter(live).count()
    }

    /// No other subflow can carry what this one does: a join that is still going on is none.
    pub(crate) fn is_alone(&self, tcbs: &Tcbs<B>) -> bool {
        let subflows = self.subflows.iter().filter_map(|&idx| tcbs.get(idx)?.subflow.as_ref());
        self.phase != Phase::Confirmed || subflows.filter(|s| s.is_confirmed()).count() < 2
    }

    /// Both directions ended at the data level.
    pub(crate) fn finished(&self) -> bool {
        self.fin_acked && self.peer_finished
    }

    /// The peer has not acknowledged everything that was written, or the end of it.
    pub(crate) fn owes_data(&self) -> bool {
        self.data_snd_una < self.data_end || self.fin_queued && !self.fin_acked
    }

    /// How long it goes on without news once nobody holds it; `fin_wait` where nothing but the peer's end is
    /// waited for.
    pub(crate) fn linger(&self, fin_wait: Duration) -> Duration {
        if self.owes_data() { fin_wait.max(PATIENCE) } else { fin_wait }
    }

    pub(crate) fn mptcp(&self) -> bool {
        matches!(self.phase, Phase::Unconfirmed | Phase::Confirmed)
            || (self.phase == Phase::Closed && self.fallback.is_none())
    }

    /// It runs, and the lack of options means fallback (RFC 8684 §3.7).
    pub(crate) fn unproven(&self) -> bool {
        self.runs() && self.passage.is_unproven()
    }

    /// It runs, and all of our stream went over the first subflow, once.
    pub(crate) fn single(&self) -> bool {
        self.runs() && self.passage.is_single()
    }

    /// It runs on one subflow, and all that is on its way went there, once and in order, the octet at `from`
    /// among it; what came is delivered. So each end could go on as plain TCP (RFC 8684 §3.7).
    pub(crate) fn contiguous(&self, from: u64, tcbs: &Tcbs<B>) -> bool {
        let [only] = &*self.subflows else { return false };
        let idle =
            |tcb: &Tcb<B>| tcb.received.in_order_len() == 0 && !tcb.received.has_out_of_order();
        self.phase == Phase::Confirmed
            && from >= self.data_snd_una
            && self.data_snd_una >= self.rare.spread_to
            && !self.has_gap()
            && tcbs.get(*only).is_some_and(idle)
    }

    /// A subflow is gone: what was written so far may have gone by it, or goes again.
    pub(crate) fn lost_subflow(&mut self) {
        if self.data_snd_una < self.data_end {
            self.rare.spread_to = self.data_end;
        }
    }

    fn runs(&self) -> bool {
        matches!(self.phase, Phase::Unconfirmed | Phase::Confirmed)
    }

    /// What a round of the data-level timer means; `in_flight` while TCP has something to repeat.
    pub(crate) fn judge_silence(&mut self, in_flight: bool) -> Silence {
        // The third ACK, with or without data, is TCP's matter as well.
        let repeats = in_flight || self.phase == Phase::Unconfirmed;
        self.passage.judge_silence(self.rtx_shift, repeats)
    }

    /// Octets at the end of the only subflow that its peer may lack, although TCP acknowledged them: what
    /// comes before them a `DATA_ACK` covered.
    fn unsure(&self) -> u32 {
        let sent = self.data_snd_nxt - self.data_snd_una;
        if self.single() { u32::try_from(sent).unwrap_or(0) } else { 0 }
    }

    /// Something else than the `DATA_FIN` alone waits for its `DATA_ACK`.
    pub(crate) fn owes_head(&self) -> bool {
        self.data_snd_una < self.data_snd_nxt || !self.fin_due()
    }

    /// Data is outstanding at the data level, or a `DATA_FIN` is, or the window is shut.
    pub(crate) fn outstanding(&self) -> bool {
        let sent = self.data_snd_una < self.data_snd_nxt || self.fin_due();
        self.phase != Phase::Closed && (sent || self.window_blocked() || self.held_back())
    }

    /// The data-level retransmission timer is to run.
    fn wants_rtx(&self) -> bool {
        // After fallback TCP retransmits, but only this level knows of data behind a closed window.
        if self.phase == Phase::Fallback {
            self.window_blocked() || self.held_back()
        } else {
            self.outstanding()
        }
    }

    /// It is to run and does not: [`Connection::arm_rtx`] needs to know a timeout.
    pub(crate) fn needs_rto(&self) -> bool {
        self.rtx_at.is_none() && self.wants_rtx()
    }

    /// Arms the data-level retransmission timer unless it runs: `rto` is the largest timeout of
    /// any subflow.
    pub(crate) fn arm_rtx(&mut self, now: Instant, rto: Duration) {
        if !self.wants_rtx() {
            self.rtx_at = None;
            self.rtx_shift = 0;
            return;
        }
        if self.rtx_at.is_none() {
            self.rtx_at = Some(now + self.data_rto(rto));
        }
    }

    /// The data-level timer fired, and no subflow reaches the peer: the next one that does has its own time.
    pub(crate) fn await_subflow(&mut self, now: Instant) {
        self.rtx_at = Some(now + DATA_RTO_MAX);
    }

    /// How long a `DATA_ACK` may take this time. A `DATA_FIN` on its own has no TCP to repeat it.
    fn data_rto(&self, rto: Duration) -> Duration {
        let bare = self.fin_due() && self.data_snd_una == self.data_snd_nxt;
        let base = if bare { rto.max(FIN_RTO_MIN) } else { (rto * 2).max(DATA_RTO_MIN) };
        (base * (1 << u32::from(self.rtx_shift.min(8)))).min(DATA_RTO_MAX.max(base))
    }

    /// The health of the subflows is looked at no later than `at`.
    pub(crate) fn look_again(&mut self, at: Instant) {
        self.health_at = Some(self.health_at.map_or(at, |other| other.min(at)));
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let rare: &Rare = &self.rare;
        earliest([
            self.rtx_at,
            self.health_at,
            rare.close_at,
            rare.probe_at,
            rare.unmapped_at,
            rare.capped_until,
            self.paths.next_timeout(),
        ])
    }

    /// Ends it: nothing more is sent or received.
    pub(crate) fn close(&mut self, error: Option<ConnectionError>) {
        self.phase = Phase::Closed;
        if self.app.error.is_none() {
            self.app.error = error;
        }
        self.rtx_at = None;
        self.health_at = None;
        if let Some(rare) = self.rare.there() {
            (rare.close_at, rare.unmapped_at, rare.capped_until) = (None, None, None);
        }
        self.paths.stop();
        if error.is_some() {
            self.written.clear();
            self.pinned = 0;
            self.forget_reinjections();
        }
    }

    /// Goes on as plain TCP on the one subflow that is left.
    pub(crate) fn fall_back(&mut self, reason: FallbackReason) {
        self.phase = Phase::Fallback;
        self.fallback = Some(reason);
        if !self.peer_finished {
            // The stream ends with the FIN now.
            self.peer_fin = None;
            self.fin_sure = false;
        }
        self.passage.fall_back(reason);
        self.rtx_at = None;
        self.health_at = None;
        self.set_unmapped_at(None);
        self.forget_reinjections();
        self.paths.stop();
    }

    /// A subflow joined: the wait for one is over, unless it is the application that left.
    pub(crate) fn survives(&mut self) {
        let Some(rare) = self.rare.there() else { return };
        if rare.close_at.is_some() {
            self.rtx_at = None;
        }
        if self.app.is_attached() {
            rare.close_at = None;
        }
    }

    /// When data that waits for its mapping has waited long enough, if any does.
    pub(crate) fn set_unmapped_at(&mut self, at: Option<Instant>) {
        if at.is_some() {
            self.rare.unmapped_at = at;
        } else if let Some(rare) = self.rare.there() {
            rare.unmapped_at = None;
        }
    }

    /// When a rate cap lets something go again, if it holds anything.
    pub(crate) fn set_capped_until(&mut self, at: Option<Instant>) {
        if at.is_some() {
            self.rare.capped_until = at;
        } else if let Some(rare) = self.rare.there() {
            rare.capped_until = None;
        }
    }

    /// A subflow's number within the connection: 0 is the first one's alone, and no two that live share one.
    pub(crate) fn new_subflow_id(&mut self, tcbs: &Tcbs<B>) -> u8 {
        let mut id = self.next_subflow_id;
        for _ in 0..u8::MAX {
            id = self.next_subflow_id;
            self.next_subflow_id = id.checked_add(1).unwrap_or(1);
            let lives = |idx: &u32| {
                let subflow = tcbs.get(*idx).and_then(|tcb| tcb.subflow.as_ref());
                subflow.is_some_and(|subflow| subflow.id == id)
            };
            if !self.subflows.iter().any(lives) {
                break;
            }
        }
        id
    }
}

/// The data level's stream position as the reassembly queue counts (RFC 8684 windows stay below
/// 2^31, so 32 bits are enough to order what can be buffered).
const fn position(offset: u64) -> SeqNum {
    SeqNum(offset as u32)
}
