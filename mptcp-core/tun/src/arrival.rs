//! What a device with offloads hands over, as packets no longer than its MTU.
//!
//! The kernel neither sums nor cuts what it sends into such a device: in front of each piece stands a
//! `virtio_net_hdr` that says what is left to do. The pieces of TCP and of UDP are cut here; the TCP checksum of
//! what never left this host needs no look.
//!
//! Invariant: a piece is handed on packet by packet, and the next one is read when nothing of it is left.

use crate::device::PacketDevice;
use core::net::IpAddr;
use mptcp_core::buf::RxChecksum;
use mptcp_core::segmentation::Headers;
use mptcp_core::wire::{IpEmit, IpHeader, UdpDatagram, UdpHeader, checksum};
use std::io;
use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
    VIRTIO_NET_HDR_LEN, VirtioNetHdr,
};

/// What the length fields of IP count to, the header of IPv6 beside that.
const MAX_PIECE: usize = 65_535 + 40;
/// Bits of `virtio_net_hdr.flags`.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
/// Of `virtio_net_hdr.gso_type`: one packet, and the bit for a piece with ECN's CWR.
const NO_PIECE: u8 = 0;
const WITH_ECN: u8 = 0x80;
/// Where the checksums of TCP and UDP stand in their headers: which protocol it is.
pub(crate) const TCP_CHECKSUM_AT: u16 = 16;
const UDP_CHECKSUM_AT: usize = 6;
const UDP_LEN: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// The piece at hand.
pub(crate) struct Arrival {
    /// Its header and octets.
    bytes: Vec<u8>,
    /// Octets of the packet behind the header.
    len: usize,
    left: Left,
}

/// What of it was not handed on yet.
enum Left {
    Nothing,
    Whole(RxChecksum),
    /// The text from `at` on, in segments of `mss`.
    Segments {
        headers: Headers,
        mss: usize,
        at: usize,
    },
    /// The same of a datagram, behind `header_len` octets of IP.
    Datagrams {
        header_len: usize,
        size: usize,
        at: usize,
    },
}

impl Arrival {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; VIRTIO_NET_HDR_LEN + MAX_PIECE], len: 0, left: Left::Nothing }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    /// What is left is to be cut.
    pub(crate) const fn is_piece(&self) -> bool {
        matches!(self.left, Left::Segments { .. } | Left::Datagrams { .. })
    }

    /// Reads one piece and answers its octets; `InvalidData` for one that says what cannot be, and is lost.
    pub(crate) fn read(&mut self, device: &mut impl PacketDevice) -> io::Result<usize> {
        let len = device.recv(&mut self.bytes)?;
        let unusable = || io::Error::from(io::ErrorKind::InvalidData);
        let bytes = self.bytes.get_mut(..len).ok_or_else(unusable)?;
        let (header, packet) =
            bytes.split_at_mut_checked(VIRTIO_NET_HDR_LEN).ok_or_else(unusable)?;
        let header = VirtioNetHdr::decode(header)?;
        self.len = packet.len();
        self.left = judge(&header, packet).ok_or_else(unusable)?;
        Ok(self.len)
    }

    /// Writes the next packet into `into`; `None` when it has no room there, and is lost.
    pub(crate) fn next(&mut self, into: &mut [u8]) -> Option<(usize, RxChecksum)> {
        let packet = self.bytes.get(VIRTIO_NET_HDR_LEN..)?.get(..self.len)?;
        match core::mem::replace(&mut self.left, Left::Nothing) {
            Left::Nothing => None,
            Left::Whole(checksum) => {
                into.get_mut(..packet.len())?.copy_from_slice(packet);
                Some((packet.len(), checksum))
            }
            Left::Segments { headers, mss, at } => {
                let rest = packet.get(headers.all() + at..)?;
                let text = rest.get(..mss).unwrap_or(rest);
                let last = text.len() == rest.len();
                if !last {
                    self.left = Left::Segments { headers, mss, at: at + mss };
                }
                let (front, room) = into.split_at_mut_checked(headers.all())?;
                room.get_mut(..text.len())?.copy_from_slice(text);
                headers.write_part(packet, (at, text.len(), last), front)?;
                Some((headers.all() + text.len(), RxChecksum::Good))
            }
            Left::Datagrams { header_len, size, at } => {
                let rest = packet.get(header_len + UDP_LEN + at..)?;
                let text = rest.get(..size).unwrap_or(rest);
                if text.len() < rest.len() {
                    self.left = Left::Datagrams { header_len, size, at: at + size };
                }
                Some((write_datagram(packet, header_len, text, into)?, RxChecksum::Unknown))
            }
        }
    }
}

/// What is to be done with `packet`; completes a checksum that is neither TCP's nor in several parts. `None` when
/// it contradicts `header`.
fn judge(header: &VirtioNetHdr, packet: &mut [u8]) -> Option<Left> {
    let size = usize::from(header.gso_size);
    match header.gso_type & !WITH_ECN {
        NO_PIECE => {}
        VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_TCPV6 => {
            let headers = Headers::of_packet(packet, packet.len())?;
            let text = packet.len() > headers.all() && size > 0;
            return text.then_some(Left::Segments { headers, mss: size, at: 0 });
        }
        VIRTIO_NET_HDR_GSO_UDP_L4 => {
            let ip = IpHeader::parse(packet).ok().filter(|ip| ip.protocol == PROTOCOL_UDP)?;
            let plain = ip.total_len == packet.len() && packet.len() > ip.header_len + UDP_LEN;
            let cut = Left::Datagrams { header_len: ip.header_len, size, at: 0 };
            return (plain && size > 0).then_some(cut);
        }
        _ => return None,
    }
    if header.flags & NEEDS_CHECKSUM == 0 {
        let valid = header.flags & CHECKSUM_VALID != 0;
        return Some(Left::Whole(if valid { RxChecksum::Good } else { RxChecksum::Unknown }));
    }
    if header.csum_offset == TCP_CHECKSUM_AT {
        return Some(Left::Whole(RxChecksum::Good));
    }
    // The field holds what the octets from there on do not: the pseudo-header.
    let from = packet.get_mut(usize::from(header.csum_start)..)?;
    let at = usize::from(header.csum_offset);
    let sum = match !checksum::sum(from) {
        // A UDP checksum of 0 would say that there is none (RFC 768).
        0 if at == UDP_CHECKSUM_AT => u16::MAX,
        sum => sum,
    };
    *from.get_mut(at..)?.first_chunk_mut()? = sum.to_be_bytes();
    Some(Left::Whole(RxChecksum::Unknown))
}

/// Writes a datagram with `text` and the ends and marks of `whole`; answers its length.
fn write_datagram(whole: &[u8], header_len: usize, text: &[u8], into: &mut [u8]) -> Option<usize> {
    let ip = IpHeader::parse(whole).ok()?;
    let udp = UdpDatagram::parse(whole.get(header_len..)?).ok()?;
    let emit = IpEmit {
        src: ip.src,
        dst: ip.dst,
        protocol: PROTOCOL_UDP,
        traffic_class: ip.traffic_class,
        hop_limit: ip.hop_limit,
        payload_len: UDP_LEN + text.len(),
        identification: 0,
        dont_fragment: matches!(ip.dst, IpAddr::V4(_)),
    };
    let len = emit.header_len() + UDP_LEN + text.len();
    let (head, rest) = into.get_mut(..len)?.split_at_mut_checked(emit.header_len())?;
    emit.emit(head);
    let ports = UdpHeader { src_port: udp.src_port, dst_port: udp.dst_port };
    let header = ports.emit(ip.src, ip.dst, text.len(), checksum::sum(text))?;
    *rest.first_chunk_mut()? = header;
    rest.get_mut(UDP_LEN..)?.copy_from_slice(text);
    Some(len)
}
