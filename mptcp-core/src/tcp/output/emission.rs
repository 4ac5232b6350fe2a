//! One segment of a connection: its flags, its options, and what its leaving changes.

use super::DataLevel;
use super::packet::emit_packet;
use crate::buf::{PacketBuf, TxQueue};
use crate::mptcp::Carry;
use crate::seq::SeqNum;
use crate::tcp::send_queue::SegmentFlags;
use crate::tcp::{Env, State, Tcb, TcbFlags, segment};
use crate::wire::{OptionWriter, TcpFlags, TcpHeader};

/// One segment about to be sent.
pub(super) struct Emission<'a, B> {
    pub(super) seq: SeqNum,
    pub(super) flags: TcpFlags,
    /// With its sum.
    pub(super) payload: Option<(B, u16)>,
    pub(super) carry: Carry<'a>,
    /// New data.
    pub(super) fresh: bool,
}

impl<'a, B> Emission<'a, B> {
    /// Without text.
    pub(super) const fn bare(seq: SeqNum, flags: TcpFlags, carry: Carry<'a>) -> Self {
        Self { seq, flags, payload: None, carry, fresh: false }
    }
}

impl<B: PacketBuf> Tcb<B> {
    pub(super) fn emit<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
        emission: Emission<'_, B>,
    ) -> bool {
        let syn = emission.flags.contains(TcpFlags::SYN);
        let owed = self.subflow.as_ref().is_some_and(|subflow| subflow.owes_dss());
        let (options, sack_told) = self.options(env, data, &emission);
        let payload = emission.payload.filter(|_| !syn || !self.is_early_withdrawn());
        let (prior_edge, prior_window) = (self.rcv_adv, self.last_window);
        let window = if syn {
            self.autotune.limit().min(65_535) as u16
        } else {
            self.advertise(data.map(|d| (d.promised, d.window)))
        };
        let (urg, urgent) =
            if syn { (TcpFlags::empty(), 0) } else { self.urgent_pointer(emission.seq) };
        let acks = emission.flags.contains(TcpFlags::ACK);
        let bare = payload.is_none();
        let tuple = self.ends.tuple();
        let header = TcpHeader {
            src_port: tuple.local_port,
            dst_port: tuple.remote_port,
            seq: emission.seq,
            ack: if acks { self.rcv_nxt } else { SeqNum(0) },
            flags: emission.flags | self.ecn_flags(emission.flags, emission.fresh) | urg,
            window,
            urgent,
        };
        let class = (self.marking, self.ecn_codepoint(emission.fresh));
        if !emit_packet(tx, env.stats, &tuple, self.port, class, &header, &options, payload) {
            self.rcv_adv = prior_edge;
            return false;
        }
        let news = self.last_ack_sent != self.rcv_nxt || self.last_window != prior_window;
        let repeats = bare && emission.flags == TcpFlags::ACK && emission.seq == self.snd_nxt;
        let awaited = news || owed || self.wants_ack();
        self.counters.segs_out = self.counters.segs_out.wrapping_add(1);
        if emission.fresh {
            self.flags.remove(TcbFlags::CWR);
        }
        if acks {
            self.delayed_ack_at = None;
            self.unacked_segments = 0;
            self.last_ack_sent = self.rcv_nxt;
            // An acknowledgement with a `DATA_FIN` has no room for SACK blocks either: another one would
            // not say more, and answering every segment with one is half of an ACK war.
            if sack_told || bare {
                self.flags.remove(TcbFlags::ACK_NOW);
            }
            if sack_told
                && let Some(rare) = &mut self.rare
                && rare.dsack.take().is_some()
                && self.flags.contains(TcbFlags::SACK)
            {
                env.stats.tcp_dsack_sent += 1;
            }
        }
        if let Some(subflow) = &mut self.subflow {
            subflow.options_sent(env.stats);
            if !awaited {
                subflow.forgo_dss();
            }
            if news || repeats {
                subflow.acknowledged(env.now, news, self.rtt.rto());
            }
            if let Some(wait) = subflow.third_ack_wait(self.rtt.rto()) {
                self.delayed_ack_at = Some(env.now + wait);
            }
        }
        true
    }

    /// The option area, and whether it says everything there is to say about received data. A full data segment
    /// has no room for SACK blocks: an acknowledgement of its own carries them.
    fn options(
        &mut self,
        env: &Env<'_>,
        data: Option<&DataLevel>,
        emission: &Emission<'_, B>,
    ) -> (OptionWriter, bool) {
        let mut writer = OptionWriter::new();
        let syn = emission.flags.contains(TcpFlags::SYN);
        let tsecr = if emission.flags.contains(TcpFlags::ACK) { self.ts_recent } else { 0 };
        let timestamps = self.flags.contains(TcbFlags::TIMESTAMPS)
            && !(syn && self.cookie_crowds_out_timestamps());
        let timestamps = timestamps.then(|| (self.timestamp(env.now), tsecr));
        // An option area of 40 octets has room for all of these.
        let fits = if syn {
            let sack = self.flags.contains(TcbFlags::SACK);
            let scaled = self.flags.contains(TcbFlags::SCALED) || self.state == State::SynSent;
            writer.push_syn(self.local_mss, sack, timestamps, scaled.then_some(self.rcv_wscale))
        } else {
            timestamps.is_none_or(|(tsval, tsecr)| writer.push_timestamps(tsval, tsecr))
        };
        debug_assert!(fits, "the basic options always fit");
        let at = writer.len();
        let news = self.last_ack_sent != self.rcv_nxt;
        if let (Some(subflow), Some(data)) = (&mut self.subflow, data) {
            subflow.write_options(&mut writer, &emission.carry, data, news);
        }
        if syn {
            self.write_fast_open(&mut writer);
        }
        if syn || !self.flags.contains(TcbFlags::SACK) {
            return (writer, true);
        }
        let payload = emission.payload.as_ref().map_or(0, |(b, _)| b.data_len());
        let space = usize::from(self.mss).saturating_sub(payload + writer.padded_len());
        let dsack = self.dsack().map(|(start, len)| (start, start.add(len.get())));
        let told = insert_sack(&mut writer, at, space, dsack, self.sack_blocks());
        (writer, told)
    }

    /// Where the stream of the peer ends, while there is a hole before that.
    pub(super) fn fin_ahead(&self) -> Option<SeqNum> {
        let ahead = self.flags.contains(TcbFlags::FIN_SEEN)
            && !self.flags.contains(TcbFlags::FIN_RECEIVED)
            && self.fin_at.gt(self.rcv_nxt);
        ahead.then_some(self.fin_at)
    }

    /// What is here out of order. A FIN is kept, too: it belongs to the block that it follows, and is
    /// one of its own where there is none.
    fn sack_blocks(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + '_ {
        let fin = self.fin_ahead();
        let follows = move |end: SeqNum| fin == Some(end);
        let alone = fin.filter(|_| !self.received.sack_blocks().any(|(_, end)| follows(end)));
        let blocks = self.received.sack_blocks();
        blocks
            .map(move |(start, end)| (start, if follows(end) { end.add(1) } else { end }))
            .chain(alone.map(|at| (at, at.add(1))))
    }
}

/// As many SACK blocks as fit into `space` octets, behind the first `at` of the options and the duplicate first
/// (RFC 2883 §4). False when there are some and none fits.
fn insert_sack(
    writer: &mut OptionWriter,
    at: usize,
    space: usize,
    dsack: Option<(SeqNum, SeqNum)>,
    blocks: impl Iterator<Item = (SeqNum, SeqNum)>,
) -> bool {
    let mut blocks = dsack.into_iter().chain(blocks).peekable();
    if blocks.peek().is_none() {
        return true;
    }
    let room = writer.remaining().min(space).saturating_sub(4) / 8;
    let mut list = [(SeqNum(0), SeqNum(0)); segment::MAX_SACK_BLOCKS];
    let mut count = 0;
    for (slot, block) in list.iter_mut().zip(blocks).take(room) {
        *slot = block;
        count += 1;
    }
    count > 0 && writer.insert_sack(at, list.get(..count).unwrap_or_default()) > 0
}

pub(super) fn wire_flags(flags: SegmentFlags) -> TcpFlags {
    let mut wire = TcpFlags::ACK;
    if flags.contains(SegmentFlags::FIN) {
        wire |= TcpFlags::FIN;
    }
    if flags.contains(SegmentFlags::PUSH) {
        wire |= TcpFlags::PSH;
    }
    wire
}
