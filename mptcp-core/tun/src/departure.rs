//! What leaves by a device in one write: a packet, or segments of one flow in one piece.
//!
//! Invariant: segments leave in the order they came in, and a piece says for all of them what each said.

use crate::arrival::{NEEDS_CHECKSUM, TCP_CHECKSUM_AT};
use crate::device::PacketDevice;
use mptcp_core::buf::{HeapBuf, PacketBuf};
use mptcp_core::segmentation::{Headers, MAX_HEADERS, Piece, PseudoHeader};
use std::io::{self, IoSlice};
use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_LEN, VirtioNetHdr,
};

/// A packet and what goes on with it.
#[derive(Debug)]
pub(crate) struct Departure {
    first: HeapBuf,
    /// What `first` and `more` make together, where more may follow.
    piece: Option<Piece>,
    more: Vec<HeapBuf>,
}

impl Departure {
    /// One that nothing joins.
    pub(crate) fn alone(packet: HeapBuf) -> Self {
        Self { first: packet, piece: None, more: Vec::new() }
    }

    /// One that others may join.
    pub(crate) fn open(packet: HeapBuf) -> Self {
        let bytes = packet.data();
        let headers = Headers::of_packet(bytes, bytes.len());
        let piece = headers.and_then(|headers| Piece::begin(headers, bytes, bytes.len()));
        Self { first: packet, piece, more: Vec::new() }
    }

    /// Others may follow.
    pub(crate) const fn is_open(&self) -> bool {
        self.piece.is_some()
    }

    /// Takes in a packet that goes on with this one; gives it back when it does not.
    pub(crate) fn join(&mut self, packet: HeapBuf) -> Result<(), HeapBuf> {
        let Some(piece) = &mut self.piece else { return Err(packet) };
        let bytes = packet.data();
        let same = packet.tx_meta() == self.first.tx_meta();
        let follower = piece.goes_on(self.first.data(), bytes, bytes.len()).filter(|_| same);
        let Some(follower) = follower else { return Err(packet) };
        piece.take(follower);
        self.more.push(packet);
        Ok(())
    }

    /// Segments in it.
    pub(crate) const fn segments(&self) -> usize {
        1 + self.more.len()
    }

    /// Hands it to a device that takes bare packets.
    pub(crate) fn send_bare(&self, device: &mut impl PacketDevice) -> io::Result<usize> {
        debug_assert!(self.more.is_empty(), "the device has no offloads");
        debug_assert!(!self.first.tx_meta().partial_checksum, "nor does it complete checksums");
        device.send(self.first.data()).map(|()| self.first.data().len())
    }

    /// Hands it to a device with offloads; answers the octets of the packet.
    pub(crate) fn send_described(&self, device: &mut impl PacketDevice) -> io::Result<usize> {
        let first = self.first.data();
        let mut header = [0; VIRTIO_NET_HDR_LEN];
        let Some(piece) = self.piece.filter(|_| !self.more.is_empty()) else {
            describe(&self.first)?.encode(&mut header)?;
            device.send_vectored(&[IoSlice::new(&header), IoSlice::new(first)])?;
            return Ok(first.len());
        };
        let headers = piece.headers();
        let kind = if headers.v6 { VIRTIO_NET_HDR_GSO_TCPV6 } else { VIRTIO_NET_HDR_GSO_TCPV4 };
        let described = VirtioNetHdr {
            gso_type: kind,
            hdr_len: headers.l3 + headers.l4,
            gso_size: piece.mss(),
            ..completed_by_device(headers)
        };
        described.encode(&mut header)?;
        let broken = || io::Error::from(io::ErrorKind::InvalidInput);
        // The packet may be shared: what is sent again keeps its headers.
        let (front, text) = first.split_at_checked(headers.all()).ok_or_else(broken)?;
        let mut whole = [0; MAX_HEADERS];
        let whole = whole.get_mut(..front.len()).ok_or_else(broken)?;
        whole.copy_from_slice(front);
        piece.complete(whole, PseudoHeader::WithLength).ok_or_else(broken)?;
        let mut parts = Vec::with_capacity(self.more.len() + 3);
        parts.extend([IoSlice::new(&header), IoSlice::new(whole), IoSlice::new(text)]);
        let texts = self.more.iter().map(|packet| packet.data().get(headers.all()..));
        parts.extend(texts.map(|text| IoSlice::new(text.unwrap_or_default())));
        device.send_vectored(&parts)?;
        let octets: usize = parts.iter().map(|part| part.len()).sum();
        Ok(octets - header.len())
    }
}

/// What the kernel is told about a single packet.
fn describe(packet: &HeapBuf) -> io::Result<VirtioNetHdr> {
    if !packet.tx_meta().partial_checksum {
        return Ok(VirtioNetHdr::default());
    }
    let bytes = packet.data();
    // Only TCP leaves its checksum to others.
    let headers = Headers::of_packet(bytes, bytes.len());
    headers.map(completed_by_device).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn completed_by_device(headers: Headers) -> VirtioNetHdr {
    VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        csum_start: headers.l3,
        csum_offset: TCP_CHECKSUM_AT,
        ..VirtioNetHdr::default()
    }
}
