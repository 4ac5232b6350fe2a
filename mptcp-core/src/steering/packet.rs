//! What steering reads of a packet: no more than names its flow.
//!
//! Nothing is verified here but the checksum of an ICMP error: whoever gets a packet that is broken drops it.

use crate::stack::{Handshake, handshake};
use crate::tcp::{PROTOCOL_TCP, Tuple};
use crate::wire::udp::PROTOCOL_UDP;
use crate::wire::{IpHeader, MpJoin, TcpFlags, TcpSegment, icmp};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const V4_HEADER_LEN: usize = 20;
const V6_HEADER_LEN: usize = 40;
/// More fragments, and the offset of this one.
const V4_FRAGMENT: u16 = 0x3fff;

/// Whose a packet is.
pub(super) enum Flow<'a> {
    /// A segment, with the TCP header and what follows, or an error about one of ours, without.
    Tcp(Tuple, &'a [u8]),
    /// A datagram to this port of ours, or an error about one from it.
    Udp(u16),
    /// Nobody's: not understood, or a fragment.
    Nobody,
}

impl<'a> Flow<'a> {
    /// Reads the IP packet `packet`.
    #[inline]
    pub(super) fn of(packet: &'a [u8]) -> Self {
        let read = match packet.first().map(|octet| octet >> 4) {
            Some(4) => of_v4(packet),
            Some(6) => of_v6(packet),
            _ => None,
        };
        read.unwrap_or(Self::Nobody)
    }
}

#[inline]
fn of_v4(packet: &[u8]) -> Option<Flow<'_>> {
    let fixed = packet.first_chunk::<V4_HEADER_LEN>()?;
    let [version_ihl, _, _, _, _, _, f1, f0, _, protocol, _, _, addresses @ ..] = *fixed;
    if u16::from_be_bytes([f1, f0]) & V4_FRAGMENT != 0 {
        return None;
    }
    let [s3, s2, s1, s0, d3, d2, d1, d0] = addresses;
    let behind = packet.get(usize::from(version_ihl & 0xf) * 4..)?;
    let (src, dst) = (Ipv4Addr::new(s3, s2, s1, s0), Ipv4Addr::new(d3, d2, d1, d0));
    transport(packet, protocol, src.into(), dst.into(), behind)
}

#[inline]
fn of_v6(packet: &[u8]) -> Option<Flow<'_>> {
    let (fixed, behind) = packet.split_first_chunk::<V6_HEADER_LEN>()?;
    let protocol = fixed[6];
    if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMPV6) {
        let header = IpHeader::parse(packet).ok().filter(|header| !header.fragment)?;
        let behind = packet.get(header.header_len..)?;
        return transport(packet, header.protocol, header.src, header.dst, behind);
    }
    let (addresses, _) = fixed[8..].as_chunks::<16>();
    let [src, dst] = *addresses.first_chunk::<2>()?;
    transport(packet, protocol, Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into(), behind)
}

#[inline]
fn transport<'a>(
    packet: &'a [u8],
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    behind: &'a [u8],
) -> Option<Flow<'a>> {
    match protocol {
        PROTOCOL_TCP => {
            let [s1, s0, d1, d0] = *behind.first_chunk::<4>()?;
            let tuple = Tuple {
                local_addr: dst,
                remote_addr: src,
                local_port: u16::from_be_bytes([d1, d0]),
                remote_port: u16::from_be_bytes([s1, s0]),
            };
            Some(Flow::Tcp(tuple, behind))
        }
        PROTOCOL_UDP => {
            let [_, _, high, low] = *behind.first_chunk::<4>()?;
            Some(Flow::Udp(u16::from_be_bytes([high, low])))
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => quoted(packet),
        _ => None,
    }
}

/// The flow that an ICMP error is about. The stack reads it in the same way.
#[cold]
fn quoted<'a>(packet: &[u8]) -> Option<Flow<'a>> {
    let error = icmp::parse_error(packet)?;
    match error.protocol {
        PROTOCOL_TCP => {
            let tuple = Tuple {
                local_addr: error.src,
                remote_addr: error.dst,
                local_port: error.src_port,
                remote_port: error.dst_port,
            };
            Some(Flow::Tcp(tuple, &[]))
        }
        PROTOCOL_UDP => Some(Flow::Udp(error.src_port)),
        _ => None,
    }
}

/// The token of a SYN that asks to join a connection; the stack takes the same SYNs for joins.
#[inline]
pub(super) fn join_token(tcp: &[u8]) -> Option<u32> {
    const FLAGS_AT: usize = 13;
    const DECISIVE: TcpFlags = TcpFlags::SYN.union(TcpFlags::ACK).union(TcpFlags::RST);
    let flags = TcpFlags::from_bits_retain(*tcp.get(FLAGS_AT)?);
    if flags & DECISIVE != TcpFlags::SYN {
        return None;
    }
    let segment = TcpSegment::parse(tcp).ok()?;
    match handshake(segment.option_bytes()) {
        Handshake::Join(MpJoin::Syn { token, .. }) => Some(token),
        _ => None,
    }
}
