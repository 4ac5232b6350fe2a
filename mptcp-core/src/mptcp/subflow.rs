//! What a TCP control block carries when it is a subflow: where it stands in its handshake, its
//! addresses' ids, the peer's mappings, and the MPTCP options waiting for a segment.
//!
//! Invariant: no data is sent on a subflow before its handshake is confirmed (RFC 8684 §3.2), and
//! no MPTCP option at all once it fell back.

use super::mapping::MappingStore;
use super::path_health::PathRef;
use super::rare::RareOfSubflow;
use super::signals::Signal;
use crate::seq::DataSeq;
use crate::stats::Counters;
use crate::tcp::{DataLevel, TxMapping};
use crate::time::{Duration, Instant};
use crate::util::on_demand::OnDemand;
use crate::wire::{
    AddressIds, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MptcpOption,
    OptionWriter, Prio, Version, WireSeq,
};
use alloc::vec::Vec;

/// Where a subflow's handshake stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Initiator: the SYN carries `MP_CAPABLE`.
    CapableSyn,
    /// Initiator: both keys go with every segment until the peer proves it has them.
    CapableAck,
    /// Initiator: the SYN carries `MP_JOIN`.
    JoinSyn,
    /// Initiator: PRE_ESTABLISHED, the HMAC goes out until the fourth ACK arrives.
    JoinAck,
    /// Mapped data flows.
    Active,
    /// Plain TCP from here on.
    Fallback,
}

/// What the initiator of a join says until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Joining {
    pub(crate) token: u32,
    pub(crate) nonce: u32,
    /// Of the third ACK, once the second came.
    pub(crate) hmac: [u8; 20],
    /// How often that ACK was sent.
    tries: u8,
}

/// What a segment about to be sent can carry.
pub(crate) enum Carry<'a> {
    /// No MPTCP option.
    Nothing,
    Syn,
    /// Of a connection that its listener gave out before the third ACK (Fast Open).
    SynAck {
        /// The peer is not to join the address it connected to.
        denies: bool,
    },
    /// No payload, below the peer's window, where nobody reads what it says: whatever is said once waits.
    Probe,
    /// No payload.
    Ack,
    Data(&'a TxMapping),
    /// The FIN alone, behind all data.
    End(&'a TxMapping),
}

/// An infinite mapping: a 4-octet DSN, no `DATA_ACK`, room for a checksum.
pub(crate) const INFINITE_LEN: u32 = 16;
/// Whether anybody is there: asked with probes until something arrives or patience ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    /// What arrives after this is an answer.
    pub(crate) since: Instant,
    /// When the next probe goes out, or the subflow.
    pub(crate) due: Instant,
    pub(crate) sent: u8,
}

/// What is known of a subflow since something it sent was not acknowledged in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    /// Since when it waits.
    pub(crate) since: Instant,
    /// No probe before this, once it is sidelined.
    pub(crate) probe_at: Instant,
    /// What it carries was put up for the others.
    pub(crate) reinjected: bool,
    /// The same of its oldest segment.
    pub(crate) head_reinjected: bool,
}

/// What its word is worth that the peer has the head of the stream (`stack::multipath::witness`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Word {
    #[default]
    Good,
    /// Its TCP acknowledged the head, the peer's data level did not: the next repair goes elsewhere.
    Doubted,
    /// The same, and that repair is on its way: should it arrive, the word was broken.
    OnTrial,
    /// Something on the way answers in the peer's name.
    Broken,
}

/// Signals waiting per subflow; further ones are dropped (and repeated by their timers).
const MAX_SIGNALS: usize = 8;
/// Acknowledgements in a row that say nothing new to TCP and carry options alone (RFC 8684 §3, §4).
const MAX_ROW: u8 = 2;
/// A row is over after a retransmission timeout, and after this at the latest.
const ROW_PAUSE: Duration = Duration::from_secs(1);

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Marks: u8 {
        /// The segment being sent has the infinite mapping.
        const INFINITE_WRITTEN = 1;
        /// The last acknowledgement had no room for all of the DSS: another one follows.
        const DSS_MISSED = 1 << 1;
        /// The last third ACK of a first subflow had both keys.
        const KEYS_TOLD = 1 << 2;
        /// The SYN asked for checksums.
        const ASKS_CHECKSUM = 1 << 3;
        /// A RST answered the SYN with `MP_CAPABLE`: it was repeated without.
        const SYN_RESET = 1 << 4;
    }
}

/// The MPTCP extension of a control block.
#[derive(Debug)]
pub(crate) struct Subflow {
    /// Position of the connection in its slab.
    pub(crate) connection: u32,
    pub(crate) id: u8,
    pub(crate) version: Version,
    pub(crate) stage: Stage,
    /// Id of our address on this subflow; 0 on the first.
    pub(crate) local_id: u8,
    pub(crate) remote_id: u8,
    /// The peer asks us to use it last.
    pub(crate) backup: bool,
    /// We asked the peer to, and do the same.
    pub(crate) local_backup: bool,
    /// Sidelined until it makes progress again.
    pub(crate) stale: bool,
    /// Stream data waits, nothing is in flight, and its own window has no room: it is probed.
    pub(crate) starved: bool,
    /// A mapping was received: unmapped data is an error from here on.
    pub(crate) mapped: bool,
    /// A `DATA_ACK` came on it: DSS options pass in both directions.
    pub(crate) proven: bool,
    pub(crate) word: Word,
    pub(crate) mappings: OnDemand<MappingStore>,
    /// So many of them, from the front, are on the segment being sent.
    signals_written: u8,
    pub(crate) marks: Marks,
    /// Acknowledgements without news for TCP since the last one with any.
    row: u8,
    /// When something it sent was last acknowledged.
    pub(crate) delivered_at: Option<Instant>,
    pub(crate) path: PathRef,
    /// The peer reset it and said that the reason will stay (RFC 8684 §3.6).
    pub(crate) refused: bool,
    pub(crate) rare: OnDemand<RareOfSubflow>,
    /// Octets that went out on it again.
    pub(crate) reinjected: u64,
    /// Octets it was given divided by its weight, for weighted shares, in parts of
    /// [`crate::mptcp::scheduler::SERVED_OCTET`].
    pub(crate) served: u64,
    /// Redundant scheduling: everything below this offset was sent on it, or needs not be.
    pub(crate) copied_to: u64,
    format: DssFormat,
}

/// What decides the length of the DSS of a data segment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct DssFormat {
    /// New data gets 64-bit sequence numbers.
    pub(crate) wide: bool,
    /// The `DATA_ACK` has 64 bits.
    pub(crate) wide_ack: bool,
    pub(crate) checksum: bool,
}

impl Subflow {
    pub(crate) fn new(connection: u32, id: u8, version: Version, stage: Stage) -> Self {
        Self {
            connection,
            id,
            version,
            stage,
            local_id: 0,
            remote_id: 0,
            backup: false,
            local_backup: false,
            stale: false,
            starved: false,
            mapped: false,
            proven: false,
            word: Word::Good,
            mappings: OnDemand::new(),
            signals_written: 0,
            marks: Marks::empty(),
            row: 0,
            delivered_at: None,
            path: PathRef::UNKNOWN,
            refused: false,
            rare: OnDemand::new(),
            reinjected: 0,
            served: 0,
            copied_to: 0,
            format: DssFormat::default(),
        }
    }

    /// One that we join with.
    pub(crate) fn joining(
        connection: u32,
        id: u8,
        version: Version,
        token: u32,
        nonce: u32,
    ) -> Self {
        let mut subflow = Self::new(connection, id, version, Stage::JoinSyn);
        subflow.rare.joining = Some(Joining { token, nonce, hmac: [0; 20], tries: 0 });
        subflow
    }

    /// The second ACK of a join came, and `hmac` answers it until the fourth does.
    pub(crate) fn answer_join(&mut self, hmac: [u8; 20]) {
        self.stage = Stage::JoinAck;
        if let Some(joining) = &mut self.rare.joining {
            joining.hmac = hmac;
        }
    }

    /// The handshake is over.
    pub(crate) fn activate(&mut self) {
        self.stage = Stage::Active;
        if let Some(rare) = self.rare.there() {
            rare.joining = None;
        }
    }

    /// Nothing is due: what nobody uses gives its memory back. A round trip takes `srtt`.
    pub(crate) fn rest(&mut self, now: Instant, srtt: Duration) {
        self.mappings.rest();
        self.end_row(now);
        if let Some(rare) = self.rare.there() {
            rare.penalised_at.take_if(|at| now.since(*at) >= srtt);
        }
        self.rare.rest();
    }

    /// It keeps nothing beside itself.
    #[cfg(test)]
    pub(crate) const fn rests(&self) -> bool {
        !self.mappings.is_there() && !self.rare.is_there()
    }

    /// The peer reset it for `reason`.
    pub(crate) fn note_reset(&mut self, reason: u8) {
        self.rare.reset_reason = Some(reason);
    }

    /// It holds up the stream: false when it has been punished for that within `srtt`.
    pub(crate) fn penalise(&mut self, now: Instant, srtt: Duration) -> bool {
        if self.rare.penalised_at.is_some_and(|at| now.since(at) < srtt) {
            return false;
        }
        self.rare.penalised_at = Some(now);
        true
    }

    /// The reason in the peer's `MP_TCPRST`.
    pub(crate) fn reset_reason(&self) -> Option<u8> {
        self.rare.reset_reason
    }

    /// Our nonce in a join that is not answered yet.
    pub(crate) fn nonce(&self) -> Option<u32> {
        self.rare.joining.as_ref().map(|joining| joining.nonce)
    }

    fn retain_signals(&mut self, keep: impl Fn(&Signal) -> bool) {
        if let Some(rare) = self.rare.there() {
            rare.signals.retain(keep);
        }
    }

    fn drain_signals(&mut self, count: usize) -> Vec<Signal> {
        self.rare.there().map_or_else(Vec::new, |rare| rare.signals.drain(count))
    }

    /// What every DSS of this connection looks like; decides the room for payload. True when that
    /// changed.
    pub(crate) fn set_format(&mut self, format: DssFormat) -> bool {
        let changed = self.format != format;
        self.format = format;
        changed
    }

    /// Option octets that a full segment of new data carries.
    pub(crate) fn dss_len(&self) -> u32 {
        self.dss_len_of(self.format.wide)
    }

    /// Option octets beside mapped data whose sequence number is `wide` (RFC 8684 §3.3): flags,
    /// `DATA_ACK`, DSN, SSN, length, checksum, padded.
    pub(crate) fn dss_len_of(&self, wide: bool) -> u32 {
        if self.stage == Stage::Fallback {
            return if self.infinite().is_some() { INFINITE_LEN } else { 0 };
        }
        let data_ack = if self.format.wide_ack { 8 } else { 4 };
        let dsn = if wide { 8 } else { 4 };
        let checksum = if self.format.checksum { 2 } else { 0 };
        let len: u32 = 4 + data_ack + dsn + 4 + 2 + checksum;
        len.next_multiple_of(4)
    }

    /// The same beside what goes again with `mapping`.
    pub(crate) fn dss_len_again(&self, mapping: &TxMapping) -> u32 {
        if !self.keeps_mapping(mapping) {
            return self.dss_len_of(mapping.wide);
        }
        let dsn = if mapping.wide { 8 } else { 4 };
        let checksum = if mapping.checksum.is_some() { 2 } else { 0 };
        let len: u32 = 4 + dsn + 4 + 2 + checksum;
        len.next_multiple_of(4)
    }

    /// What was mapped before a fallback goes again as it was: kernels of version 0 throw away what has no mapping in
    /// front of what has one, and reset a subflow on which part of a mapping comes with another one.
    fn keeps_mapping(&self, mapping: &TxMapping) -> bool {
        self.stage == Stage::Fallback && self.version == Version::V0 && mapping.len > 0
    }

    /// Either end wants it used last.
    pub(crate) const fn is_backup(&self) -> bool {
        self.backup || self.local_backup
    }

    /// The peer has shown that it took our side of the handshake.
    pub(crate) const fn is_confirmed(&self) -> bool {
        matches!(self.stage, Stage::Active | Stage::Fallback)
    }

    /// A join whose fourth ACK has not come: the peer may not have taken it.
    pub(crate) const fn is_joining(&self) -> bool {
        matches!(self.stage, Stage::JoinSyn | Stage::JoinAck)
    }

    /// No further signal finds room.
    pub(crate) fn is_full(&self) -> bool {
        self.rare.signals.len() >= MAX_SIGNALS
    }

    /// Queues a signal unless it waits already; false when there is no room.
    pub(crate) fn signal(&mut self, signal: Signal) -> bool {
        if matches!(signal, Signal::Prio { .. }) {
            // The last word counts.
            self.retain_signals(|other| !matches!(other, Signal::Prio { .. }));
        }
        if self.rare.signals.contains(&signal) {
            return true;
        }
        if self.is_full() {
            return false;
        }
        match signal {
            // Nothing else is said after fallback, or matters before it.
            Signal::Fail { .. } => self.rare.signals.insert(0, signal),
            _ => self.rare.signals.insert(usize::MAX, signal),
        }
        true
    }

    /// PRE_ESTABLISHED: how long until the third ACK is repeated, doubling (RFC 8684 §3.2).
    pub(crate) fn third_ack_wait(&mut self, rto: Duration) -> Option<Duration> {
        let joining =
            self.rare.there().filter(|_| self.stage == Stage::JoinAck)?.joining.as_mut()?;
        let wait = rto * (1 << u32::from(joining.tries).min(6));
        joining.tries = joining.tries.saturating_add(1);
        Some(wait)
    }

    /// How often the third ACK of a join was sent without an answer; 0 in any other stage.
    pub(crate) fn third_acks_sent(&self) -> u8 {
        self.rare.joining.as_ref().map_or(0, |joining| joining.tries)
    }

    /// What the last acknowledgement should have said had no room there and is still to be said.
    pub(crate) fn owes_dss(&self) -> bool {
        self.marks.contains(Marks::DSS_MISSED)
    }

    /// The acknowledgement that just went out was for the sake of its signal alone: another one with a `DATA_ACK`
    /// would say nothing new (RFC 8684 §3.3.2), and to the peer's TCP it would be a duplicate.
    pub(crate) fn forgo_dss(&mut self) {
        self.marks.remove(Marks::DSS_MISSED);
    }

    /// An option waits that an acknowledgement should carry.
    fn pending(&self) -> bool {
        match self.stage {
            Stage::Active => {
                !self.rare.signals.is_empty() || self.marks.contains(Marks::DSS_MISSED)
            }
            Stage::Fallback => {
                matches!(self.rare.signals.first(), Some(Signal::Fail { told: false, .. }))
            }
            _ => false,
        }
    }

    /// An acknowledgement may go out for the sake of its options now.
    pub(crate) fn wants_ack(&self, now: Instant) -> bool {
        self.pending() && self.rare.held_until.is_none_or(|at| at <= now)
    }

    /// When it may, if it has to wait.
    pub(crate) fn next_signal(&self) -> Option<Instant> {
        self.rare.held_until.filter(|_| self.pending())
    }

    /// What waited for the end of a row may go.
    pub(crate) fn end_row(&mut self, now: Instant) {
        if let Some(rare) = self.rare.there()
            && rare.held_until.is_some_and(|at| at <= now)
        {
            self.row = 0;
            rare.held_until = None;
        }
    }

    /// A segment with an acknowledgement went out: one that TCP had `news` in, or one more of a row.
    pub(crate) fn acknowledged(&mut self, now: Instant, news: bool, rto: Duration) {
        if news {
            self.row = 0;
            if let Some(rare) = self.rare.there() {
                // Whoever waits is looked at again.
                rare.held_until = rare.held_until.map(|at| at.min(now));
            }
            return;
        }
        self.row = self.row.saturating_add(1);
        if self.row >= MAX_ROW {
            let until = now + rto.min(ROW_PAUSE);
            self.rare.held_until = Some(until);
        }
    }

    /// The infinite mapping that the next new data, or the FIN, must carry: from the last octet
    /// known to be intact on (RFC 8684 §3.7).
    pub(crate) fn infinite(&self) -> Option<TxMapping> {
        let infinite = self.rare.signals.iter().find_map(|signal| match *signal {
            Signal::Infinite { dsn, ssn } => Some((dsn, ssn)),
            _ => None,
        });
        let (dsn, ssn) = infinite.filter(|_| self.stage == Stage::Fallback)?;
        Some(TxMapping {
            dsn,
            ssn,
            len: 0,
            checksum: None,
            wide: false,
            capable: false,
            before: 0,
            behind: 0,
        })
    }

    /// The same for a segment that begins at `ssn`, which may be behind that octet. Kernels of version 0 take the
    /// mapping to begin with the segment that carries it, whatever sequence number of the subflow it names: what it
    /// goes back by they would leave out of the stream.
    pub(crate) fn infinite_at(&self, ssn: u32) -> Option<TxMapping> {
        let infinite = self.infinite()?;
        let back = ssn.wrapping_sub(infinite.ssn);
        Some(match self.version {
            Version::V0 => TxMapping { dsn: infinite.dsn.add(u64::from(back)), ssn, ..infinite },
            Version::V1 => infinite,
        })
    }

    /// After fallback: the peer knows of it, by its `MP_FAIL` (which `fail` says) or its infinite
    /// mapping. True when an `MP_FAIL` is to be answered.
    pub(crate) fn told_of_fallback(&mut self, fail: bool) -> bool {
        let waiting = |s: &Signal| matches!(s, Signal::Fail { answer: false, .. });
        let waited = self.rare.signals.iter().any(waiting);
        self.retain_signals(|signal| {
            !waiting(signal) && !matches!(signal, Signal::Reminder { .. })
        });
        fail && !waited
    }

    /// After fallback: the peer goes on mapping, so the next acknowledgement tells it once more.
    pub(crate) fn remind(&mut self, (dsn, ssn): (DataSeq, u32)) {
        // An `MP_FAIL` says it already.
        if !matches!(self.rare.signals.first(), Some(Signal::Fail { .. } | Signal::Reminder { .. }))
        {
            self.rare.signals.insert(0, Signal::Reminder { dsn, ssn });
        }
    }

    /// Another segment of data has the same option as one with `mapping`, but for the numbers in it.
    pub(crate) fn maps_alike(&self, mapping: &TxMapping) -> bool {
        matches!(self.stage, Stage::Active | Stage::CapableAck) && !mapping.capable
    }

    /// The options of a segment are about to be written: none is yet.
    pub(crate) fn begin_options(&mut self) {
        self.signals_written = 0;
        self.marks.remove(Marks::INFINITE_WRITTEN.union(Marks::DSS_MISSED));
    }

    /// Writes what this segment carries, whose acknowledgement TCP has `news` in. Called once per segment;
    /// `options_sent` follows when the segment really went out.
    pub(crate) fn write_options(
        &mut self,
        writer: &mut OptionWriter,
        carry: &Carry<'_>,
        data: &DataLevel,
        news: bool,
    ) {
        self.begin_options();
        let version = self.version;
        let mut fits = true;
        match (self.stage, carry) {
            (_, Carry::Nothing) => {}
            (Stage::CapableSyn, Carry::Syn) => {
                let form = match version {
                    Version::V0 => CapableForm::Key(data.local_key),
                    Version::V1 => CapableForm::Syn,
                };
                let option = self.capable(form, self.marks.contains(Marks::ASKS_CHECKSUM));
                fits = writer.push_mptcp(&MptcpOption::Capable(option), version);
            }
            (Stage::Active, Carry::SynAck { denies }) => {
                let mut option =
                    self.capable(CapableForm::Key(data.local_key), data.format.checksum);
                // Version 0 has no such flag.
                option.flags.set(CapableFlags::DENY_JOIN, *denies && version == Version::V1);
                fits = writer.push_mptcp(&MptcpOption::Capable(option), version);
            }
            (Stage::JoinSyn | Stage::JoinAck, Carry::Syn | Carry::Ack | Carry::Probe) => {
                fits = self.write_join(writer, carry);
            }
            // A DATA_FIN before any data alternates with the keys: one proves that they arrived, the
            // other repairs it when they did not.
            (Stage::CapableAck, Carry::Ack | Carry::Probe)
                if self.marks.contains(Marks::KEYS_TOLD) && data.data_fin.is_some() =>
            {
                self.marks.remove(Marks::KEYS_TOLD);
                self.write_ack(writer, data, news);
            }
            (Stage::CapableAck, Carry::Ack | Carry::Probe) => {
                self.marks.insert(Marks::KEYS_TOLD);
                let form = CapableForm::Keys { sender: data.local_key, receiver: data.remote_key };
                let option = self.capable(form, data.format.checksum);
                fits = writer.push_mptcp(&MptcpOption::Capable(option), version);
            }
            (Stage::Active, Carry::Probe) => {
                let _fits = self.write_dss(writer, data);
            }
            (Stage::CapableAck | Stage::Active, Carry::Data(mapping)) if mapping.capable => {
                let form = CapableForm::Data {
                    sender: data.local_key,
                    receiver: data.remote_key,
                    data_len: mapping.len,
                    checksum: mapping.checksum,
                };
                let option = self.capable(form, data.format.checksum);
                fits = writer.push_mptcp(&MptcpOption::Capable(option), version);
            }
            (Stage::CapableAck | Stage::Active, Carry::Data(mapping)) => {
                let dss = Dss {
                    data_ack: data.data_ack,
                    mapping: Some(wire_mapping(mapping)),
                    data_fin: false,
                };
                fits = writer.push_mptcp(&MptcpOption::Dss(dss), version);
            }
            (Stage::Active, Carry::Ack) => self.write_ack(writer, data, news),
            (Stage::Fallback, Carry::Data(mapping)) => self.write_infinite(writer, mapping, false),
            (Stage::Fallback, Carry::End(mapping)) => self.write_infinite(writer, mapping, true),
            (Stage::Fallback, Carry::Ack) => {
                if let Some(signal @ (Signal::Fail { .. } | Signal::Reminder { .. })) =
                    self.rare.signals.first()
                {
                    self.signals_written = u8::from(self.write_signal(writer, signal));
                }
            }
            _ => {}
        }
        debug_assert!(fits, "handshake and data options fit beside timestamps");
    }

    fn write_join(&self, writer: &mut OptionWriter, carry: &Carry<'_>) -> bool {
        let Some(joining) = &self.rare.joining else { return true };
        let join = match (self.stage, carry) {
            (Stage::JoinSyn, Carry::Syn) => MpJoin::Syn {
                backup: self.local_backup,
                address_id: self.local_id,
                token: joining.token,
                nonce: joining.nonce,
            },
            (Stage::JoinAck, Carry::Ack | Carry::Probe) => MpJoin::Ack { hmac: joining.hmac },
            _ => return true,
        };
        writer.push_mptcp(&MptcpOption::Join(join), self.version)
    }

    fn capable(&self, form: CapableForm, checksum: bool) -> MpCapable {
        let mut flags = CapableFlags::HMAC;
        flags.set(CapableFlags::CHECKSUM, checksum);
        MpCapable { version: self.version as u8, flags, form }
    }

    /// A pure acknowledgement of its says what is received, and nothing beside.
    pub(crate) fn acknowledges_plainly(&self) -> bool {
        self.stage == Stage::Active && self.rare.signals.is_empty()
    }

    /// A pure acknowledgement: the first signal if any waits, the DSS beside it where it fits, and what
    /// other signals still do, in their order. Where the DSS does not fit, TCP's `news` go with it first: a peer
    /// whose data is acknowledged without a `DATA_ACK` falls back (RFC 8684 §3.7).
    fn write_ack(&mut self, writer: &mut OptionWriter, data: &DataLevel, news: bool) {
        let bare = *writer;
        if !self.rare.signals.is_empty() {
            self.signals_written = self.write_signals(writer, 0);
            if self.signals_written == 0 {
                // Nothing but timestamps is before it: it will never fit, or its version has no such
                // form.
                self.drain_signals(1);
            }
        }
        let with_signals = writer.len();
        if !self.write_dss(writer, data) {
            if news && self.signals_written > 0 && writer.len() == with_signals {
                *writer = bare;
                self.begin_options();
                let _fits = self.write_dss(writer, data);
            }
            return;
        }
        while self.signals_written > 0 && !self.repeats_kind() {
            let more = self.write_signals(writer, self.signals_written);
            if more == 0 {
                return;
            }
            self.signals_written += more;
        }
    }

    /// The next signal is of a kind that the segment has already: of several options of one kind Linux reads the last,
    /// and kernels of multipath-tcp.org none, or what is none.
    fn repeats_kind(&self) -> bool {
        let kind = core::mem::discriminant::<Signal>;
        let (signals, written) = (&self.rare.signals, usize::from(self.signals_written));
        signals.get(written).is_some_and(|next| {
            signals.iter().take(written).any(|before| kind(before) == kind(next))
        })
    }

    /// Writes the signal at `at`; addresses that are withdrawn one behind the other are one option.
    /// Answers how many signals that were, none where it does not fit.
    fn write_signals(&self, writer: &mut OptionWriter, at: u8) -> u8 {
        let waiting = || self.rare.signals.iter().skip(usize::from(at));
        let mut ids = [0; MAX_SIGNALS];
        let mut count = 0_u8;
        for (slot, signal) in ids.iter_mut().zip(waiting()) {
            let Signal::RemoveAddr(id) = *signal else { break };
            *slot = id;
            count += 1;
        }
        let Some(ids) = ids.get(..usize::from(count)).and_then(AddressIds::new) else {
            return waiting()
                .next()
                .map_or(0, |signal| u8::from(self.write_signal(writer, signal)));
        };
        if writer.push_mptcp(&MptcpOption::RemoveAddr(ids), self.version) { count } else { 0 }
    }

    /// False when it does not fit beside a long signal and waits for the next acknowledgement, or the
    /// `DATA_FIN` does.
    fn write_dss(&mut self, writer: &mut OptionWriter, data: &DataLevel) -> bool {
        let fin = data.data_fin.map(|dsn| data_fin_mapping(dsn, data));
        let dss = Dss { data_ack: data.data_ack, mapping: fin, data_fin: fin.is_some() };
        if dss.data_ack.is_none() && dss.mapping.is_none() {
            return true;
        }
        if writer.push_mptcp(&MptcpOption::Dss(dss), self.version) {
            return true;
        }
        self.marks.insert(Marks::DSS_MISSED);
        if fin.is_some() {
            let dss = Dss { data_ack: data.data_ack, mapping: None, data_fin: false };
            let _fits = writer.push_mptcp(&MptcpOption::Dss(dss), self.version);
        }
        false
    }

    fn write_signal(&self, writer: &mut OptionWriter, signal: &Signal) -> bool {
        match *signal {
            Signal::AddAddr(add_addr) => {
                // With timestamps an IPv6 address and a port need 44 octets: leave the port out.
                add_addr.encode(writer, self.version)
            }
            Signal::RemoveAddr(id) => AddressIds::new(&[id])
                .is_some_and(|ids| writer.push_mptcp(&MptcpOption::RemoveAddr(ids), self.version)),
            Signal::Prio { backup } => {
                Prio { backup, address_id: None }.encode(writer, self.version)
            }
            Signal::Fail { dsn, .. } => writer.push_mptcp(&MptcpOption::Fail { dsn }, self.version),
            Signal::Reminder { dsn, ssn } => {
                let dss = self.infinite_dss(dsn, ssn, false);
                writer.push_mptcp(&MptcpOption::Dss(dss), self.version)
            }
            Signal::Infinite { .. } => false,
        }
    }

    fn infinite_dss(&self, dsn: DataSeq, ssn: u32, data_fin: bool) -> Dss {
        let checksum = self.format.checksum.then_some(0);
        let infinite = Mapping { dsn: wire_dsn(dsn, false), ssn, len: 0, checksum };
        Dss { data_ack: None, mapping: Some(infinite), data_fin }
    }

    /// One final infinite mapping tells the peer, where options still pass (RFC 8684 §3.7): on new
    /// data, which repeats it as often as it is sent again, and until then on what was mapped before. At the `end` of
    /// the stream kernels of version 0 look for it behind a `DATA_FIN` alone.
    fn write_infinite(&mut self, writer: &mut OptionWriter, mapping: &TxMapping, end: bool) {
        if self.keeps_mapping(mapping) {
            let mapping = Some(wire_mapping(mapping));
            let dss = Dss { data_ack: None, mapping, data_fin: false };
            let _fits = writer.push_mptcp(&MptcpOption::Dss(dss), self.version);
            return;
        }
        let own = mapping.len == 0;
        // What was mapped before the infinite one begins is not part of it.
        let reaches =
            |infinite: &TxMapping| mapping.ssn.wrapping_sub(infinite.ssn).cast_signed() >= 0;
        let told = || self.infinite().filter(reaches);
        let Some(mapping) = own.then_some(*mapping).or_else(told) else { return };
        let data_fin = end && self.version == Version::V0;
        let dss = self.infinite_dss(mapping.dsn, mapping.ssn, data_fin);
        let written = writer.push_mptcp(&MptcpOption::Dss(dss), self.version) && own;
        self.marks.set(Marks::INFINITE_WRITTEN, written);
    }

    /// The segment that `write_options` prepared was sent.
    pub(crate) fn options_sent(&mut self, stats: &mut Counters) {
        if self.marks.contains(Marks::INFINITE_WRITTEN) {
            self.marks.remove(Marks::INFINITE_WRITTEN);
            self.retain_signals(|signal| !matches!(signal, Signal::Infinite { .. }));
            stats.infinite_map_tx += 1;
        }
        let written = usize::from(core::mem::take(&mut self.signals_written));
        if let Some(Signal::Fail { told, answer: false, .. }) =
            self.rare.there().and_then(|rare| rare.signals.first_mut())
            && written > 0
        {
            *told = true;
            stats.mp_fail_tx += 1;
            return;
        }
        for signal in self.drain_signals(written) {
            match signal {
                Signal::AddAddr(a) if a.echo => stats.echo_add_tx += 1,
                Signal::AddAddr(_) => stats.add_addr_tx += 1,
                Signal::RemoveAddr(_) => stats.rm_addr_tx += 1,
                Signal::Prio { .. } => stats.mp_prio_tx += 1,
                Signal::Fail { .. } => stats.mp_fail_tx += 1,
                Signal::Reminder { .. } => stats.infinite_map_tx += 1,
                Signal::Infinite { .. } => {}
            }
        }
    }

    /// No MPTCP option any more, except the ones that say so. `infinite` is where the last mapping
    /// begins, if the peer is to hear of it.
    pub(crate) fn fall_back(&mut self, infinite: Option<(DataSeq, u32)>) {
        self.stage = Stage::Fallback;
        self.stale = false;
        if let Some(rare) = self.rare.there() {
            rare.watch = None;
        }
        self.marks.remove(Marks::DSS_MISSED);
        self.retain_signals(|s| matches!(s, Signal::Fail { .. }));
        if let Some((dsn, ssn)) = infinite {
            self.rare.signals.insert(usize::MAX, Signal::Infinite { dsn, ssn });
        }
        self.mappings.forget();
    }
}

fn wire_dsn(dsn: DataSeq, wide: bool) -> WireSeq {
    if wide { WireSeq::Full(dsn.0) } else { WireSeq::Low(dsn.0 as u32) }
}

fn wire_mapping(mapping: &TxMapping) -> Mapping {
    let (dsn, ssn, len) = mapping.on_wire();
    Mapping { dsn: wire_dsn(dsn, mapping.wide), ssn, len, checksum: mapping.checksum }
}

/// `DATA_FIN` on its own: SSN 0, length 1 (RFC 8684 §3.3.3).
fn data_fin_mapping(dsn: DataSeq, data: &DataLevel) -> Mapping {
    Mapping {
        dsn: wire_dsn(dsn, data.format.wide),
        ssn: 0,
        len: 1,
        checksum: data.format.checksum.then(|| crate::wire::checksum::dss_checksum(dsn, 0, 1, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of acknowledgements is a row however often its block rests meanwhile.
    #[test]
    fn a_row_is_held_until_its_end() {
        let (now, rto) = (Instant::from_millis(1_000), Duration::from_millis(300));
        let mut subflow = Subflow::new(0, 0, Version::V1, Stage::Active);
        assert!(subflow.signal(Signal::RemoveAddr(1)));
        for _ in 0..MAX_ROW {
            assert!(subflow.wants_ack(now));
            subflow.acknowledged(now, false, rto);
        }
        subflow.rest(now, rto);
        assert!(!subflow.wants_ack(now));
        assert_eq!(subflow.next_signal(), Some(now + rto));
        assert!(subflow.wants_ack(now + rto));
        subflow.drain_signals(1);
        subflow.rest(now + rto, rto);
        assert!(!subflow.rare.is_there());
        // The next row is as long.
        let later = now + rto;
        assert!(subflow.signal(Signal::RemoveAddr(2)));
        subflow.acknowledged(later, false, rto);
        assert!(subflow.wants_ack(later));
    }

    #[test]
    fn a_punishment_lasts_a_round_trip() {
        let (now, srtt) = (Instant::from_millis(1_000), Duration::from_millis(40));
        let mut subflow = Subflow::new(0, 0, Version::V1, Stage::Active);
        assert!(subflow.penalise(now, srtt));
        subflow.rest(now + srtt / 2, srtt);
        assert!(!subflow.penalise(now + srtt / 2, srtt));
        subflow.rest(now + srtt, srtt);
        assert!(!subflow.rare.is_there() && subflow.penalise(now + srtt, srtt));
    }
}
