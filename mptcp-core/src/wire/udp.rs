//! The UDP header (RFC 768), read as a view of the datagram and written in front of a payload.
//!
//! Invariant: a [`UdpDatagram`]'s payload lies inside the bytes it was read from, and a checksum that
//! was computed is never 0, which on the wire means that there is none (RFC 768, RFC 8200 §8.1).

use super::cursor::Reader;
use super::{Checksum, WireError, checksum};
use core::net::IpAddr;

/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Length of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;

/// A received datagram: header fields and a view of its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpDatagram<'a> {
    /// Sender's port; 0 when it expects no answer.
    pub src_port: u16,
    /// Receiver's port.
    pub dst_port: u16,
    /// The checksum field, not verified; 0 when the sender computed none.
    pub checksum: u16,
    /// The octets behind the header, as many as its length field says.
    pub payload: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> UdpDatagram<'a> {
    /// Reads the datagram at the front of `bytes`, the payload of an IP packet. The IP payload may be
    /// longer than the datagram (a surplus area): what is behind is no part of it.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when header or payload do not fit in, [`WireError::HeaderLength`]
    /// when the length field does not even count the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let mut word = || reader.u16().ok_or(WireError::Truncated);
        let (src_port, dst_port, len, checksum) = (word()?, word()?, word()?, word()?);
        let len = usize::from(len);
        if len < UDP_HEADER_LEN {
            return Err(WireError::HeaderLength);
        }
        let bytes = bytes.get(..len).ok_or(WireError::Truncated)?;
        let payload = bytes.get(UDP_HEADER_LEN..).ok_or(WireError::Truncated)?;
        Ok(Self { src_port, dst_port, checksum, payload, bytes })
    }

    /// False when the datagram must be dropped for its checksum. IPv4 lets the sender leave it out,
    /// IPv6 does not (RFC 8200 §8.1).
    #[must_use]
    pub fn verify(&self, src: IpAddr, dst: IpAddr) -> bool {
        if self.checksum == 0 {
            return src.is_ipv4();
        }
        sum(src, dst, self.bytes.len(), checksum::sum(self.bytes)).folded() == 0xffff
    }
}

/// The ports of a datagram to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpHeader {
    /// Our port.
    pub src_port: u16,
    /// The peer's port.
    pub dst_port: u16,
}

impl UdpHeader {
    /// The header in front of `payload_len` octets whose [`checksum::sum`] is `payload_sum`, its
    /// checksum computed. `None` when the datagram would exceed 65,535 bytes.
    #[must_use]
    pub fn emit(
        &self,
        src: IpAddr,
        dst: IpAddr,
        payload_len: usize,
        payload_sum: u16,
    ) -> Option<[u8; UDP_HEADER_LEN]> {
        let datagram_len = payload_len.checked_add(UDP_HEADER_LEN)?;
        let len = u16::try_from(datagram_len).ok()?;
        let [src0, src1] = self.src_port.to_be_bytes();
        let [dst0, dst1] = self.dst_port.to_be_bytes();
        let [len0, len1] = len.to_be_bytes();
        let header = |[sum0, sum1]: [u8; 2]| [src0, src1, dst0, dst1, len0, len1, sum0, sum1];
        let header_sum = checksum::sum(&header([0, 0]));
        let both = checksum::combine(header_sum, UDP_HEADER_LEN, payload_sum);
        let checksum = match sum(src, dst, datagram_len, both).finish() {
            0 => 0xffff,
            other => other,
        };
        Some(header(checksum.to_be_bytes()))
    }
}

/// The pseudo-header and a datagram of `len` bytes whose own sum is `datagram_sum`.
fn sum(src: IpAddr, dst: IpAddr, len: usize, datagram_sum: u16) -> Checksum {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let mut total = Checksum::new();
    total.add_sum(checksum::pseudo_header(src, dst, PROTOCOL_UDP, len), 0);
    total.add_sum(datagram_sum, 0);
    total
}
