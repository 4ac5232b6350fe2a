//! Segments that say nothing but the usual: new data, alone or in front of more, and acknowledgements.
//! Their headers are written word by word, the sums beside them; those behind a first one [take them over](Template).
//!
//! Invariant: the segment is what it would be written in general (`emission.rs`), octet for octet, and leaves its
//! connection as that does.

use super::DataLevel;
use super::burst::{Burst, Follower, MAX_HEADERS, Template};
use super::emission::Emission;
use super::packet::PROTOCOL_TCP;
use crate::buf::{PacketBuf, PortId, TxQueue};
use crate::config::Marking;
use crate::mptcp::Carry;
use crate::seq::SeqNum;
use crate::tcp::{Env, KeptTuple, Tcb, TcbFlags, TxMapping};
use crate::wire::options::kind;
use crate::wire::{TcpFlags, WireSeq};
use core::net::{IpAddr, Ipv6Addr};

const DONT_FRAGMENT: u32 = 0x4000;
/// Two NOPs and a timestamps option's first two octets (RFC 7323 Appendix A).
const TIMESTAMPS: u32 = 0x0101_080a;
/// Subtype octet of a DSS, and its flags (RFC 8684 §3.3).
const DSS: u32 = 0x20;
const ACK: u32 = 0x01;
const WIDE_ACK: u32 = 0x02;
const MAP: u32 = 0x04;
const WIDE_DSN: u32 = 0x08;
/// Behind a mapping without a checksum.
const NOPS: u32 = 0x0101;

/// What the headers of a burst's segments have in common.
struct Common<'a> {
    ends: &'a KeptTuple,
    port: PortId,
    /// With the ECN field.
    marking: (Marking, u8),
    ack: SeqNum,
    flags: TcpFlags,
    window: u16,
    timestamps: Option<(u32, u32)>,
    /// A `DATA_ACK`, or a mapping, or both.
    dss: Option<(Option<WireSeq>, Option<&'a TxMapping>)>,
}

/// Headers in words of 32 bits, which add up as their halves do.
struct Words {
    bytes: [u8; MAX_HEADERS],
    len: usize,
    sum: u64,
}

impl Words {
    #[inline]
    fn put(&mut self, word: u32) -> Option<()> {
        *self.bytes.get_mut(self.len..)?.first_chunk_mut()? = word.to_be_bytes();
        self.len += 4;
        self.sum += u64::from(word);
        Some(())
    }

    /// The addresses of the pseudo-header; answers their sum.
    fn put_addresses<const N: usize>(&mut self, addresses: [u32; N]) -> Option<u64> {
        let before = self.sum;
        for word in addresses {
            self.put(word)?;
        }
        Some(self.sum - before)
    }
}

const fn quarters(addr: Ipv6Addr) -> [u32; 4] {
    let bits = addr.to_bits();
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
}

impl Template {
    /// The headers of all that is `common` to a burst.
    fn write(common: &Common<'_>) -> Option<Self> {
        let (marking, ecn) = common.marking;
        let (class, hops) = (u32::from(marking.traffic_class(ecn)), u32::from(marking.hop_limit()));
        let tcp = u32::from(PROTOCOL_TCP);
        let mut words = Words { bytes: [0; MAX_HEADERS], len: 0, sum: 0 };
        let (addresses, [from, to]) = match common.ends {
            KeptTuple::V4 { addrs: [src, dst], ports } => {
                words.put(0x4500_0000 | class << 16)?;
                words.put(DONT_FRAGMENT)?;
                words.put(hops << 24 | tcp << 16)?;
                (words.put_addresses([src.to_bits(), dst.to_bits()])?, *ports)
            }
            KeptTuple::V6(tuple) => {
                let (IpAddr::V6(src), IpAddr::V6(dst)) = (tuple.local_addr, tuple.remote_addr)
                else {
                    return None;
                };
                words.put(0x6000_0000 | class << 20)?;
                words.put(tcp << 8 | hops)?;
                let ([a, b, c, d], [e, f, g, h]) = (quarters(src), quarters(dst));
                let addresses = words.put_addresses([a, b, c, d, e, f, g, h])?;
                (addresses, [tuple.local_port, tuple.remote_port])
            }
        };
        let (ip_len, ip_sum) = (words.len, core::mem::take(&mut words.sum));
        words.put(u32::from(from) << 16 | u32::from(to))?;
        words.put(0)?;
        words.put(common.ack.0)?;
        let dss = common.dss.map(dss_form);
        let stamps = if common.timestamps.is_some() { 3 } else { 0 };
        let header = 5 + stamps + dss.map_or(0, |(len, _)| len.div_ceil(4));
        let (flags, window) = (u32::from(common.flags.bits()), u32::from(common.window));
        words.put(header << 28 | flags << 16 | window)?;
        words.put(0)?;
        if let Some((tsval, tsecr)) = common.timestamps {
            words.put(TIMESTAMPS)?;
            words.put(tsval)?;
            words.put(tsecr)?;
        }
        let mut mapping_at = 0;
        if let Some(((data_ack, mapping), (len, flags))) = common.dss.zip(dss) {
            words.put(u32::from(kind::MPTCP) << 24 | len << 16 | DSS << 8 | flags)?;
            match data_ack {
                Some(WireSeq::Full(ack)) => {
                    words.put((ack >> 32) as u32)?;
                    words.put(ack as u32)?;
                }
                Some(WireSeq::Low(ack)) => words.put(ack)?,
                None => {}
            }
            if let Some(mapping) = mapping {
                mapping_at = words.len;
                let numbers = if mapping.wide { 3 } else { 2 };
                for _ in 0..numbers {
                    words.put(0)?;
                }
                words.put(if mapping.checksum.is_some() { 0 } else { NOPS })?;
            }
        }
        Some(Self {
            bytes: words.bytes,
            len: words.len,
            ip_len,
            mapping_at,
            ip_sum,
            tcp_sum: words.sum,
            pseudo_sum: addresses + u64::from(PROTOCOL_TCP),
            port: common.port,
        })
    }
}

/// Length and flags of a DSS.
const fn dss_form((data_ack, mapping): (Option<WireSeq>, Option<&TxMapping>)) -> (u32, u32) {
    let (ack_len, ack) = match data_ack {
        None => (0, 0),
        Some(WireSeq::Low(_)) => (4, ACK),
        Some(WireSeq::Full(_)) => (8, ACK | WIDE_ACK),
    };
    let Some(mapping) = mapping else { return (4 + ack_len, ack) };
    let (map_len, map) = if mapping.wide { (14, MAP | WIDE_DSN) } else { (10, MAP) };
    let checksum = if mapping.checksum.is_some() { 2 } else { 0 };
    (4 + ack_len + map_len + checksum, ack | map)
}

/// What a connection was before the first segment of a burst.
pub(super) struct Begun {
    prior_edge: SeqNum,
    prior_window: u16,
}

impl<B: PacketBuf> Tcb<B> {
    /// Gives a burst its headers, when a segment of new data that leaves now, and others behind it, have nothing
    /// to say beside their data. [`Tcb::begun`] follows.
    pub(super) fn begin_burst(
        &mut self,
        env: &Env<'_>,
        data: Option<&DataLevel>,
        mapping: Option<&TxMapping>,
        burst: &mut Burst,
    ) -> Option<Begun> {
        if !self.is_quiet(mapping) || mapping.is_some() && data.is_none() {
            return None;
        }
        if let (Some(subflow), Some(_)) = (&mut self.subflow, data) {
            subflow.begin_options();
        }
        let begun = Begun { prior_edge: self.rcv_adv, prior_window: self.last_window };
        let dss = data.zip(mapping).map(|(data, mapping)| (data.data_ack, Some(mapping)));
        burst.template = self.usual(env, data, dss, true);
        Some(begun)
    }

    /// What a segment says that says nothing but the usual, new data or not.
    fn usual(
        &mut self,
        env: &Env<'_>,
        data: Option<&DataLevel>,
        dss: Option<(Option<WireSeq>, Option<&TxMapping>)>,
        fresh: bool,
    ) -> Option<Template> {
        let window = self.advertise(data.map(|data| (data.promised, data.window)));
        let stamped = self.flags.contains(TcbFlags::TIMESTAMPS);
        Template::write(&Common {
            ends: &self.ends,
            port: self.port,
            marking: (self.marking, self.ecn_codepoint(fresh)),
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK | self.ecn_flags(TcpFlags::ACK, fresh),
            window,
            timestamps: stamped.then(|| (self.timestamp(env.now), self.ts_recent)),
            dss,
        })
    }

    /// An acknowledgement without text; false when no buffer could be had.
    pub(super) fn send_ack<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        data: Option<&DataLevel>,
    ) -> bool {
        let plain = match (&self.subflow, data) {
            (Some(subflow), Some(data)) => {
                subflow.acknowledges_plainly() && data.data_fin.is_none()
            }
            (None, _) => true,
            _ => false,
        };
        let begun = Begun { prior_edge: self.rcv_adv, prior_window: self.last_window };
        if plain && self.is_heard() {
            if let Some(subflow) = &mut self.subflow {
                subflow.begin_options();
            }
            let subflow = self.subflow.is_some();
            let data_ack = data.filter(|_| subflow).and_then(|data| data.data_ack);
            let dss = data_ack.map(|ack| (Some(ack), None));
            if let Some(mut template) = self.usual(env, data, dss, false) {
                let seq = self.bare_seq();
                let segment = Follower { seq, push: false, mapping: None, sum: 0 };
                let sent = self.emit_follower(env, tx, &mut template, &segment, None);
                self.acknowledgement_sent(env, &begun, sent, true);
                return sent;
            }
        }
        self.emit(env, tx, data, Emission::bare(self.bare_seq(), TcpFlags::ACK, Carry::Ack))
    }

    /// The segment was sent, or not.
    pub(super) fn begun(&mut self, env: &Env<'_>, begun: &Begun, burst: &mut Burst, sent: bool) {
        // A window that has moved may move once more, as its field is rounded. A subflow's is the data level's.
        let settled = self.subflow.is_some() || self.rcv_adv == begun.prior_edge;
        if !sent || !settled {
            burst.forget();
        }
        self.acknowledgement_sent(env, begun, sent, false);
    }

    /// A segment that says all there is to acknowledge was sent, or not; `bare` without text.
    fn acknowledgement_sent(&mut self, env: &Env<'_>, begun: &Begun, sent: bool, bare: bool) {
        if !sent {
            self.rcv_adv = begun.prior_edge;
            return;
        }
        let news = self.last_ack_sent != self.rcv_nxt || self.last_window != begun.prior_window;
        self.delayed_ack_at = None;
        self.unacked_segments = 0;
        self.last_ack_sent = self.rcv_nxt;
        self.flags.remove(TcbFlags::ACK_NOW);
        if let Some(subflow) = &mut self.subflow
            && (news || bare)
        {
            subflow.acknowledged(env.now, news, self.rtt.rto());
        }
    }

    /// A segment of new data with this `mapping` says nothing beside it, and one that leaves behind it differs in
    /// its data alone.
    fn is_quiet(&self, mapping: Option<&TxMapping>) -> bool {
        let mapped = match (&self.subflow, mapping) {
            (Some(subflow), Some(mapping)) => subflow.maps_alike(mapping),
            (_, mapping) => mapping.is_none(),
        };
        mapped && !self.flags.contains(TcbFlags::CWR) && self.is_heard()
    }

    /// There is nothing to say about what came in but that it is here up to `RCV.NXT`, and nothing urgent.
    fn is_heard(&self) -> bool {
        self.rare.as_ref().is_none_or(|rare| rare.urgent.is_none() && rare.dsack.is_none())
            && self.fin_ahead().is_none()
            && !self.received.has_out_of_order()
    }
}
