//! Packets from their parts: headers in front of a payload, and payloads out of buffers.

use crate::buf::{PacketBuf, PortId, TxMeta, TxQueue};
use crate::config::Marking;
use crate::seq::SeqNum;
use crate::stats::Counters;
use crate::tcp::Tuple;
use crate::wire::{IpEmit, OptionWriter, TcpFlags, TcpHeader, checksum, set_checksum};
use alloc::collections::VecDeque;
use core::net::IpAddr;

/// IP protocol number of TCP.
pub(crate) const PROTOCOL_TCP: u8 = 6;

/// A segment sent without a control block: SYN/ACKs of requests, RSTs, TIME-WAIT's ACKs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stateless {
    pub(crate) tuple: Tuple,
    pub(crate) port: PortId,
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
    pub(crate) marking: Marking,
    pub(crate) options: OptionWriter,
}

impl Stateless {
    /// Builds and queues the packet; false when no buffer could be had.
    pub(crate) fn emit<B: PacketBuf, T: TxQueue<B>>(
        &self,
        tx: &mut T,
        stats: &mut Counters,
    ) -> bool {
        let header = TcpHeader {
            src_port: self.tuple.local_port,
            dst_port: self.tuple.remote_port,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            urgent: 0,
        };
        if self.flags.contains(TcpFlags::RST) {
            stats.out_rsts += 1;
        }
        let class = (self.marking, 0);
        emit_packet(tx, stats, &self.tuple, self.port, class, &header, &self.options, None)
    }
}

/// Writes IP and TCP headers in front of `payload` and hands the packet to `tx`.
#[expect(clippy::too_many_arguments, reason = "the parts of a packet")]
pub(super) fn emit_packet<B: PacketBuf, T: TxQueue<B>>(
    tx: &mut T,
    stats: &mut Counters,
    tuple: &Tuple,
    port: PortId,
    (marking, ecn): (Marking, u8),
    header: &TcpHeader,
    options: &OptionWriter,
    payload: Option<(B, u16)>,
) -> bool {
    let Some(mut packet) = tx.alloc() else {
        stats.tx_no_buffer += 1;
        return false;
    };
    let payload_len = payload.as_ref().map_or(0, |(b, _)| b.data_len());
    let tcp_len = header.len(options);
    let l4_len = tcp_len + payload_len;
    let pseudo =
        checksum::pseudo_header(tuple.local_addr, tuple.remote_addr, PROTOCOL_TCP, l4_len as u32);
    let partial_checksum = tx.checksum_offload();
    {
        let Some(bytes) = packet.prepend(tcp_len) else {
            stats.tx_no_buffer += 1;
            return false;
        };
        header.emit(options, bytes);
        let mut sum = checksum::Checksum::new();
        sum.add_sum(pseudo, 2);
        if partial_checksum {
            set_checksum(bytes, sum.folded());
        } else {
            sum.add_bytes(bytes);
            if let Some((_, payload_sum)) = &payload {
                sum.add_sum(*payload_sum, payload_len);
            }
            set_checksum(bytes, sum.finish());
        }
    }
    let ip = IpEmit {
        src: tuple.local_addr,
        dst: tuple.remote_addr,
        protocol: PROTOCOL_TCP,
        traffic_class: marking.traffic_class(ecn),
        hop_limit: marking.hop_limit(),
        payload_len: l4_len,
        identification: 0,
        dont_fragment: true,
    };
    let Some(bytes) = packet.prepend(ip.header_len()) else {
        stats.tx_no_buffer += 1;
        return false;
    };
    ip.emit(bytes);
    if let Some((payload, _)) = payload {
        packet.chain(payload);
    }
    packet.set_tx_meta(TxMeta { port, partial_checksum });
    stats.out_segs += 1;
    tx.push(packet);
    true
}

/// The sum of a buffer, as it came in or worked out.
pub(crate) fn sum_of<B: PacketBuf>(buf: &B) -> u16 {
    buf.noted_sum().unwrap_or_else(|| checksum::sum(buf.data()))
}

/// The sum that the header of a segment with this payload needs; nothing where the port works it out.
pub(super) fn sum_for<B: PacketBuf, T: TxQueue<B>>(tx: &T, payload: &B) -> u16 {
    if tx.checksum_offload() { 0 } else { sum_of(payload) }
}

/// MSS we announce on a path with this MTU (RFC 9293 §3.7.1: fixed headers only).
pub(crate) const fn mss_for(mtu: u16, remote: &IpAddr) -> u16 {
    let headers = if remote.is_ipv4() { 40 } else { 60 };
    let mss = mtu.saturating_sub(headers);
    if mss < 64 { 64 } else { mss }
}

/// Whether a buffer of `front` octets is sent as it came where a segment could have `len`: when it is nearly as
/// long, or when both it and the `next` one are segments of about that size. To fill it up from such a one would
/// shift all that follow, and have each of them copied and summed up.
pub(crate) fn goes_alone(front: u32, len: u32, next: impl FnOnce() -> u32) -> bool {
    let segments = len - len / 8..=len;
    front >= len - len / 16 || segments.contains(&front) && segments.contains(&next())
}

/// Joins the first `len` octets of `bufs` (skipping `skip`) into one buffer: a view where one
/// buffer holds them all, a copy where it does not. Without a buffer to copy into it is a view of
/// fewer octets, so that what is queued can always be sent. `None` when there is nothing.
pub(crate) fn gather<'a, B: PacketBuf + 'a, T: TxQueue<B>>(
    bufs: impl Iterator<Item = &'a B>,
    skip: usize,
    len: usize,
    tx: &mut T,
) -> Option<B> {
    let mut skip = skip;
    let mut joined: Option<B> = None;
    let mut have = 0;
    for buf in bufs {
        let data = buf.data();
        if skip >= data.len() {
            skip -= data.len();
            continue;
        }
        let take = (data.len() - skip).min(len - have);
        if joined.is_none() && take == len {
            return Some(buf.slice(skip..skip + take));
        }
        let target = match &mut joined {
            Some(target) => target,
            None => match tx.alloc_copy() {
                Some(empty) => joined.insert(empty),
                None => return Some(buf.slice(skip..skip + take)),
            },
        };
        let Some(room) = target.append(take) else { break };
        room.copy_from_slice(data.get(skip..skip + take)?);
        skip = 0;
        have += take;
        if have == len {
            break;
        }
    }
    joined.filter(|_| have > 0)
}

/// Drops the first `n` octets of a buffer list.
pub(in crate::tcp) fn consume<B: PacketBuf>(bufs: &mut VecDeque<B>, n: usize) {
    let mut left = n;
    while let Some(front) = bufs.front_mut() {
        let len = front.data_len();
        if left < len {
            front.trim_front(left);
            return;
        }
        left -= len;
        bufs.pop_front();
    }
}
