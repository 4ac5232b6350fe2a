//! Datagrams in fragments: those that come in are put together ([`Reassembler`]), and what is too long for its way
//! is cut ([`send`]).
//!
//! Invariant: no fragment that is made is longer than the way takes; what is put together is what was cut.

mod reassembly;
#[cfg(test)]
mod tests;

pub use reassembly::{Expired, Outcome, REASSEMBLY_TIMEOUT, Reassembler, ReassemblyLimits};

use crate::buf::PacketBuf;
use crate::wire::{Fragment, IpEmit, IpHeader};

/// Octets of data in each fragment but the last, as a way of `mtu` takes them.
#[must_use]
pub fn data_len(v4: bool, mtu: usize) -> usize {
    let headers = if v4 { 20 } else { 48 };
    mtu.saturating_sub(headers).max(8) & !7
}

/// Hands the packet that `ip` and `parts` make to `push` in fragments that a way of `mtu` takes, with the
/// identification `id`. False when buffers ran out, and then some of it may have gone: it is sent again as a whole,
/// and whoever puts it together has both. False, and nothing has gone, when no packet is so long, or its addresses are
/// of different families.
pub fn send<B: PacketBuf>(
    ip: &IpEmit,
    id: u32,
    mut parts: [&[u8]; 2],
    mtu: usize,
    mut alloc: impl FnMut() -> Option<B>,
    mut push: impl FnMut(B),
) -> bool {
    let whole: usize = parts.iter().map(|part| part.len()).sum();
    let longest = if ip.src.is_ipv4() { 0xffff - 20 } else { 0xffff };
    if whole > longest {
        return false;
    }
    let len = data_len(ip.src.is_ipv4(), mtu);
    for offset in (0..whole).step_by(len) {
        let count = len.min(whole - offset);
        let fragment = Fragment { id, offset, more: offset + count < whole };
        let part = IpEmit { payload_len: count, dont_fragment: false, ..*ip };
        let mut bytes = [0; Fragment::MAX_HEADERS];
        let header_len = part.emit_fragment(&fragment, &mut bytes);
        if header_len == 0 {
            return false;
        }
        let Some(mut packet) = alloc() else { return false };
        let Some(room) = packet.append(count) else { return false };
        move_octets(&mut parts, room);
        let Some(room) = packet.prepend(header_len) else { return false };
        room.copy_from_slice(bytes.get(..header_len).unwrap_or_default());
        push(packet);
    }
    true
}

/// As [`send`], for the echo reply `packet`, as [`echo_reply`](crate::wire::icmp::echo_reply) makes it. What tells one
/// echo from the next tells their fragments apart.
pub fn send_echo_reply<B: PacketBuf>(
    packet: &[u8],
    mtu: usize,
    alloc: impl FnMut() -> Option<B>,
    push: impl FnMut(B),
) -> bool {
    let Ok(header) = IpHeader::parse(packet) else { return false };
    let ip = IpEmit {
        src: header.src,
        dst: header.dst,
        protocol: header.protocol,
        traffic_class: header.traffic_class,
        hop_limit: header.hop_limit,
        payload_len: 0,
        identification: 0,
        dont_fragment: false,
    };
    let payload = packet.get(header.header_len..header.total_len).unwrap_or_default();
    let Some((&[_, _, _, _, ident1, ident0, seq1, seq0], _)) = payload.split_first_chunk() else {
        return false;
    };
    let echo = u32::from_be_bytes([ident1, ident0, seq1, seq0]).wrapping_mul(0x9e37_79b1);
    // IPv4 has room for half of it.
    send(&ip, echo ^ echo >> 16, [payload, &[]], mtu, alloc, push)
}

/// Fills `room` from the front of `parts`.
fn move_octets(parts: &mut [&[u8]; 2], room: &mut [u8]) {
    let mut room = room;
    for part in parts {
        let count = part.len().min(room.len());
        let (octets, rest) = part.split_at(count);
        let (into, left) = room.split_at_mut(count);
        into.copy_from_slice(octets);
        (*part, room) = (rest, left);
    }
}
