//! New segments that leave one behind the other: what the second has in common with the first is not worked
//! out again.
//!
//! Invariant: a segment made from another one's headers is what it would be without them, octet for octet.

use crate::buf::{PacketBuf, PortId, TxMeta, TxQueue};
use crate::seq::SeqNum;
use crate::tcp::delivery::Stamp;
use crate::tcp::{Env, Tcb, TxMapping};
use crate::wire::{TcpFlags, checksum};

/// Where TCP begins there is room for so much: more than its header with all options.
const TCP_ROOM: usize = 64;
/// IPv6 and TCP.
pub(super) const MAX_HEADERS: usize = 40 + TCP_ROOM;
/// The longest mapping; the shortest has room for it, too.
const MAPPING_ROOM: usize = 16;
/// Where fields are in the headers.
const V4_LENGTH_AT: usize = 2;
const V4_CHECKSUM_AT: usize = 10;
const V6_LENGTH_AT: usize = 4;
const SEQ_AT: usize = 4;
const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;

/// What the segments of one call have in common, from the first on.
#[derive(Default)]
pub(crate) struct Burst {
    /// Which buffer of the stream the last one began in.
    pub(crate) chunk: usize,
    /// Where the first one has nothing to say beside its data, its headers are written as the [usual
    /// ones](super::usual) are, and the others take them over.
    pub(crate) usual: bool,
    /// Of the last one.
    pub(super) stamp: Option<Stamp>,
    pub(super) template: Option<Template>,
}

impl Burst {
    /// Nothing was sent yet.
    pub(crate) fn new(usual: bool) -> Self {
        Self { usual, ..Self::default() }
    }

    /// What segments say beside their data has changed.
    pub(crate) fn forget(&mut self) {
        self.template = None;
    }

    /// The next segment gets the headers of those before it.
    pub(crate) fn goes_on(&self) -> bool {
        self.template.is_some()
    }

    /// Has the mapping of `packet`, a segment of the burst as long as it goes on, cover `octets` from where it
    /// begins. False when the packet cannot be changed any more.
    pub(crate) fn widen<B: PacketBuf>(&self, packet: &mut B, wide: bool, octets: u16) -> bool {
        let template = self.template.as_ref();
        template.and_then(|template| template.widen(packet, wide, octets)).is_some()
    }
}

/// Headers, what differs from segment to segment blanked, with their sums.
pub(super) struct Template {
    pub(super) bytes: [u8; MAX_HEADERS],
    pub(super) len: usize,
    pub(super) ip_len: usize,
    /// Where the numbers of the mapping are; 0: there is none.
    pub(super) mapping_at: usize,
    pub(super) ip_sum: u64,
    pub(super) tcp_sum: u64,
    /// Of the pseudo-header without its length.
    pub(super) pseudo_sum: u64,
    pub(super) port: PortId,
}

/// A segment as far as it differs from others of its burst.
pub(super) struct Follower<'a> {
    pub(super) seq: SeqNum,
    pub(super) push: bool,
    pub(super) mapping: Option<&'a TxMapping>,
    /// Of the payload.
    pub(super) sum: u16,
}

impl Template {
    /// Completes the headers for a segment with `payload` octets and answers them. With a `partial` checksum
    /// the port completes it.
    #[inline(always)]
    fn complete(&mut self, segment: &Follower<'_>, payload: usize, partial: bool) -> Option<&[u8]> {
        let tcp_len = self.len - self.ip_len + payload;
        if self.ip_len == 20 {
            let ip = self.bytes.first_chunk_mut::<20>()?;
            let total = u16::try_from(20 + tcp_len).ok()?;
            put(ip, V4_LENGTH_AT, total.to_be_bytes())?;
            let sum = checksum::fold(self.ip_sum + u64::from(total));
            put(ip, V4_CHECKSUM_AT, (!sum).to_be_bytes())?;
        } else {
            put(&mut self.bytes, V6_LENGTH_AT, u16::try_from(tcp_len).ok()?.to_be_bytes())?;
        }
        let mapped = match segment.mapping {
            Some(mapping) => self.put_mapping(mapping)?,
            None => 0,
        };
        let tcp = self.bytes.get_mut(self.ip_len..)?.first_chunk_mut::<TCP_ROOM>()?;
        put(tcp, SEQ_AT, segment.seq.0.to_be_bytes())?;
        let flags = tcp.get_mut(FLAGS_AT)?;
        let push = TcpFlags::PSH.bits();
        *flags = if segment.push { *flags | push } else { *flags & !push };
        // Everything begins on an even octet, and words of 32 bits add up as their halves do.
        let mut sum = self.tcp_sum + u64::from(segment.seq.0) + mapped;
        sum += if segment.push { u64::from(push) } else { 0 };
        let pseudo = self.pseudo_sum + tcp_len as u64;
        let field = if partial {
            checksum::fold(pseudo)
        } else {
            !checksum::fold(pseudo + sum + u64::from(segment.sum))
        };
        put(tcp, CHECKSUM_AT, field.to_be_bytes())?;
        self.bytes.get(..self.len)
    }

    /// Writes the numbers of a mapping and answers their sum.
    #[inline]
    fn put_mapping(&mut self, mapping: &TxMapping) -> Option<u64> {
        let place = self.bytes.get_mut(self.mapping_at..)?.first_chunk_mut::<MAPPING_ROOM>()?;
        let (dsn, ssn, len) = mapping.on_wire();
        let [high, low] = [dsn.0 >> 32, dsn.0 & 0xffff_ffff];
        let mut sum = low + u64::from(ssn) + u64::from(len);
        let numbers = if mapping.wide {
            sum += high;
            put(place, 0, dsn.0.to_be_bytes())?;
            place.last_chunk_mut::<8>()?
        } else {
            put(place, 0, (low as u32).to_be_bytes())?;
            place.get_mut(4..)?.first_chunk_mut::<8>()?
        };
        put(numbers, 0, ssn.to_be_bytes())?;
        put(numbers, 4, len.to_be_bytes())?;
        if let Some(checksum) = mapping.checksum {
            put(numbers, 6, checksum.to_be_bytes())?;
            sum += u64::from(checksum);
        }
        Some(sum)
    }

    /// See [`Burst::widen`].
    fn widen<B: PacketBuf>(&self, packet: &mut B, wide: bool, octets: u16) -> Option<()> {
        let partial = packet.tx_meta().partial_checksum;
        let headers = packet.data_mut()?.get_mut(..self.len)?;
        let at = self.mapping_at + if wide { 12 } else { 8 };
        let len: &mut [u8; 2] = headers.get_mut(at..)?.first_chunk_mut()?;
        let old = u16::from_be_bytes(core::mem::replace(len, octets.to_be_bytes()));
        if !partial {
            let field: &mut [u8; 2] =
                headers.get_mut(self.ip_len + CHECKSUM_AT..)?.first_chunk_mut()?;
            // RFC 1624: the sum of all changes by what the length does.
            let sum = u64::from(!u16::from_be_bytes(*field)) + u64::from(!old) + u64::from(octets);
            *field = (!checksum::fold(sum)).to_be_bytes();
        }
        Some(())
    }
}

#[inline(always)]
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut::<N>()? = value;
    Some(())
}

impl<B: PacketBuf> Tcb<B> {
    /// Sends a segment with the headers of those before it, and a `payload` of so many octets; false when no buffer
    /// could be had.
    #[inline(always)]
    pub(super) fn emit_follower<T: TxQueue<B>>(
        &mut self,
        env: &mut Env<'_>,
        tx: &mut T,
        template: &mut Template,
        segment: &Follower<'_>,
        payload: Option<(B, usize)>,
    ) -> bool {
        let partial_checksum = tx.checksum_offload();
        let len = payload.as_ref().map_or(0, |(_, len)| *len);
        let Some(mut packet) = tx.alloc() else { return no_buffer(env) };
        let headers = template.complete(segment, len, partial_checksum);
        let room = headers.and_then(|headers| packet.prepend(headers.len()).zip(Some(headers)));
        let Some((room, headers)) = room else { return no_buffer(env) };
        room.copy_from_slice(headers);
        if let Some((payload, _)) = payload {
            packet.chain(payload);
        }
        packet.set_tx_meta(TxMeta { port: template.port, partial_checksum });
        env.stats.out_segs += 1;
        self.counters.segs_out = self.counters.segs_out.wrapping_add(1);
        tx.push(packet);
        true
    }

    /// After the last segment of a burst: what one timer and one look at the window are enough for.
    pub(crate) fn end_burst(&mut self, env: &Env<'_>, burst: &Burst) {
        if burst.stamp.is_some() {
            self.note_cwnd_limited();
            self.arm_rtx(env.now);
        }
    }
}

#[cold]
fn no_buffer(env: &mut Env<'_>) -> bool {
    env.stats.tx_no_buffer += 1;
    false
}

#[cfg(test)]
mod tests {
    use super::super::emission::Emission;
    use super::*;
    use crate::buf::{HeapBuf, HeapPool, HeapTxQueue};
    use crate::config::{Marking, TcpConfig};
    use crate::mptcp::{Carry, DssFormat, Stage, Subflow};
    use crate::seq::DataSeq;
    use crate::stats::Counters;
    use crate::tcp::{Agreed, DataLevel, TcbFlags, Tuple};
    use crate::time::Instant;
    use crate::wire::{Version, WireSeq};
    use core::net::IpAddr;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    const NOW: Instant = Instant::from_millis(1_000);

    /// Packets of segments sent in one burst, or each on its own, on a connection that has timestamps and ECN, or
    /// neither.
    fn packets(
        addrs: [&str; 2],
        format: Option<DssFormat>,
        (offload, extras): (bool, bool),
        together: bool,
    ) -> Vec<Vec<u8>> {
        let config = TcpConfig::default();
        let mut stats = Counters::default();
        let mut env = Env { now: NOW, config: &config, stats: &mut stats };
        let [local_addr, remote_addr] = addrs.map(|addr| addr.parse::<IpAddr>().unwrap());
        let tuple = Tuple { local_addr, remote_addr, local_port: 1080, remote_port: 4321 };
        let agreed = Agreed {
            iss: SeqNum(u32::MAX - 2_000),
            irs: SeqNum(7),
            peer_mss: Some(1400),
            local_mss: 1460,
            snd_wscale: Some(7),
            rcv_wscale: 7,
            sack: true,
            ts_recent: extras.then_some(99),
            ts_offset: 3,
            ecn: extras,
            window: 100_000,
            rtt: None,
            syn_ack_timeouts: 0,
        };
        let mut tcb = Tcb::<HeapBuf>::accepted(&mut env, tuple, PortId(3), &agreed);
        tcb.snd_wnd = 100_000;
        tcb.flags.set(TcbFlags::ECE, extras);
        tcb.marking = if extras { Marking::new(32, 46).unwrap() } else { Marking::default() };
        tcb.flags.insert(TcbFlags::ACK_NOW);
        let data = format.map(|format| {
            tcb.subflow = Some(Box::new(Subflow::new(0, 0, Version::V1, Stage::Active)));
            tcb.set_dss_format(format);
            let ack = if format.wide_ack { WireSeq::Full(1 << 40) } else { WireSeq::Low(12_345) };
            DataLevel {
                data_ack: Some(ack),
                promised: 70_000,
                window: 90_000,
                data_fin: None,
                unsure: 0,
                format,
                local_key: 1,
                remote_key: 2,
            }
        });
        let mut tx = HeapTxQueue::new(64, HeapPool::new(64, 1700));
        if offload {
            tx = tx.with_checksum_offload();
        }
        let mut burst = Burst::default();
        let mut dsn = DataSeq(u64::MAX - 2_500);
        for n in 0..6_u8 {
            let payload = HeapBuf::from_slice(&vec![n; 1_001 + 100 * usize::from(n)]);
            let (len, push) = (payload.data().len() as u16, n % 2 == 1);
            let mapping = format.map(|format| TxMapping {
                dsn,
                ssn: tcb.snd_nxt.since(tcb.iss),
                len,
                checksum: format.checksum.then_some(0xfff0 + u16::from(n)),
                wide: format.wide,
                capable: false,
                before: 0,
                behind: 0,
            });
            dsn = DataSeq(dsn.0.wrapping_add(u64::from(len)));
            burst.usual = together;
            let sent = match &data {
                Some(data) => {
                    tcb.send_mapped(&mut env, &mut tx, data, payload, mapping, push, &mut burst)
                }
                None => tcb.send_plain(&mut env, &mut tx, payload, push, &mut burst),
            };
            assert!(sent && !tcb.wants_ack());
            // The first moves the window's edge: the second is like those that follow.
            assert_eq!(burst.template.is_some(), together && (format.is_some() || n > 0), "{n}");
            // An acknowledgement in between is what it would be written in general.
            let general = Emission::bare(tcb.snd_nxt, TcpFlags::ACK, Carry::Ack);
            let sent = if together {
                tcb.send_ack(&mut env, &mut tx, data.as_ref())
            } else {
                tcb.emit(&mut env, &mut tx, data.as_ref(), general)
            };
            assert!(sent && !tcb.wants_ack());
        }
        core::iter::from_fn(|| tx.pop()).map(|packet| packet.to_vec()).collect()
    }

    #[test]
    fn what_follows_in_a_burst_is_what_it_would_be_alone() {
        let mut formats = vec![None];
        for bits in 0..8 {
            let bit = |at: u32| bits >> at & 1 == 1;
            formats.push(Some(DssFormat { wide: bit(0), wide_ack: bit(1), checksum: bit(2) }));
        }
        for addrs in [["10.0.0.1", "10.255.0.2"], ["2001:db8::1", "fd00::ffff:2"]] {
            for format in &formats {
                for (offload, extras) in [(false, true), (true, true), (false, false)] {
                    let alone = packets(addrs, *format, (offload, extras), false);
                    let together = packets(addrs, *format, (offload, extras), true);
                    assert_eq!(together, alone, "{format:?}");
                    assert_eq!(alone.len(), 12);
                }
            }
        }
    }
}
