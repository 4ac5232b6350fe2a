//! IPv4 and IPv6 headers (RFC 791, RFC 8200), as far as a host that terminates TCP needs them.
//!
//! Invariant: an [`IpHeader`] describes bytes that are there: `header_len <= total_len <=` the
//! packet's length. Extension headers are walked within a bound; whatever a host must not accept is
//! an error.

use super::cursor::Reader;
use super::{WireError, checksum};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options.
pub(super) const V4_HEADER_LEN: usize = 20;
/// Length of the fixed IPv6 header.
pub(super) const V6_HEADER_LEN: usize = 40;
/// More extension headers than this is an attack on the parser, not a packet (RFC 9098 §7).
const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
/// Length of IPv6's fragment header.
pub(super) const V6_FRAGMENT_LEN: usize = 8;
const DESTINATION_OPTIONS: u8 = 60;

const V4_DONT_FRAGMENT: u16 = 0x4000;
const V4_MORE_FRAGMENTS: u16 = 0x2000;
const V4_OFFSET_MASK: u16 = 0x1fff;

/// What the IP header of a received packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpHeader {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// Transport protocol: the IPv4 protocol field, or the last next-header field of IPv6.
    pub protocol: u8,
    /// DSCP and ECN: the IPv4 TOS octet or the IPv6 traffic class.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Offset of the transport header, behind options and extension headers.
    pub header_len: usize,
    /// Length of the IP packet in bytes; the buffer may be longer (Ethernet padding).
    pub total_len: usize,
    /// Part of a datagram, not the whole. IPv6 atomic fragments (RFC 6946) are whole.
    pub fragment: bool,
}

/// ECN field of a sender that reacts to marks (RFC 3168 §5).
pub const ECN_ECT0: u8 = 2;
/// ECN field of a packet that a router marked (RFC 3168 §5).
pub const ECN_CE: u8 = 3;

/// An [`IpHeader`] and what only ICMP needs to know.
pub(super) struct Layout {
    pub(super) header: IpHeader,
    /// Where this packet's data stands in its datagram, in units of 8 bytes.
    pub(super) fragment_offset: u16,
    /// Offset of the octet that names `header.protocol`.
    pub(super) protocol_at: usize,
}

impl IpHeader {
    /// Reads the header of the IP packet that `packet` starts with.
    ///
    /// Verifies the IPv4 header checksum. Skips IPv6 hop-by-hop, destination and finished routing
    /// headers.
    ///
    /// # Errors
    /// See [`WireError`]: the packet must be dropped.
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        Layout::parse(packet).map(|layout| layout.header)
    }

    /// The ECN field: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE (RFC 3168 §5).
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }
}

/// The checksum of an IPv4 header. Nearly all have no options.
fn is_sum_right(header: &[u8]) -> bool {
    match <&[u8; V4_HEADER_LEN]>::try_from(header) {
        Ok(fixed) => is_fixed_sum_right(fixed),
        Err(_) => checksum::sum(header) == 0xffff,
    }
}

/// The same of one without options.
#[inline]
pub(crate) fn is_fixed_sum_right(header: &[u8; V4_HEADER_LEN]) -> bool {
    checksum::is_right(checksum::header_words(header), 0, 0)
}

impl Layout {
    pub(super) fn parse(packet: &[u8]) -> Result<Self, WireError> {
        let layout = Self::parse_quoted(packet)?;
        let header = &layout.header;
        if header.total_len > packet.len() {
            return Err(WireError::Truncated);
        }
        if header.total_len < header.header_len {
            return Err(WireError::TotalLength);
        }
        if header.src.is_ipv4() {
            let bytes = packet.get(..header.header_len).ok_or(WireError::Truncated)?;
            if !is_sum_right(bytes) {
                return Err(WireError::Checksum);
            }
        }
        Ok(layout)
    }

    /// Like [`Layout::parse`] for a packet quoted by ICMP, which may be cut short: only the headers
    /// have to be there, and `total_len` is what the header says.
    pub(super) fn parse_quoted(packet: &[u8]) -> Result<Self, WireError> {
        let version = packet.first().ok_or(WireError::Truncated)? >> 4;
        match version {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            other => Err(WireError::IpVersion(other)),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, WireError> {
        let (fixed, _) = packet.split_first_chunk::<V4_HEADER_LEN>().ok_or(WireError::Truncated)?;
        let [
            version_ihl,
            traffic_class,
            len_high,
            len_low,
            _,
            _,
            fragment_high,
            fragment_low,
            hop_limit,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = *fixed;
        let [src0, src1, src2, src3, dst0, dst1, dst2, dst3] = addresses;
        let header_len = usize::from(version_ihl & 0xf) * 4;
        if header_len < V4_HEADER_LEN {
            return Err(WireError::HeaderLength);
        }
        if packet.len() < header_len {
            return Err(WireError::Truncated);
        }
        let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
        Ok(Self {
            header: IpHeader {
                src: Ipv4Addr::new(src0, src1, src2, src3).into(),
                dst: Ipv4Addr::new(dst0, dst1, dst2, dst3).into(),
                protocol,
                traffic_class,
                hop_limit,
                header_len,
                total_len: usize::from(u16::from_be_bytes([len_high, len_low])),
                fragment: fragment & (V4_MORE_FRAGMENTS | V4_OFFSET_MASK) != 0,
            },
            fragment_offset: fragment & V4_OFFSET_MASK,
            protocol_at: 9,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(packet);
        let fixed = |reader: &mut Reader<'_>| {
            let [first, second, _, _] = reader.array::<4>()?;
            let traffic_class = first << 4 | second >> 4;
            let payload_len = usize::from(reader.u16()?);
            let [next_header, hop_limit] = reader.array::<2>()?;
            let src = Ipv6Addr::from(reader.array::<16>()?);
            let dst = Ipv6Addr::from(reader.array::<16>()?);
            Some(Self {
                header: IpHeader {
                    src: src.into(),
                    dst: dst.into(),
                    protocol: next_header,
                    traffic_class,
                    hop_limit,
                    header_len: V6_HEADER_LEN,
                    total_len: V6_HEADER_LEN + payload_len,
                    fragment: false,
                },
                fragment_offset: 0,
                protocol_at: 6,
            })
        };
        let mut layout = fixed(&mut reader).ok_or(WireError::Truncated)?;
        let behind = reader.rest();
        let payload_len = layout.header.total_len - V6_HEADER_LEN;
        let payload = behind.get(..payload_len).unwrap_or(behind);
        layout.walk_extension_headers(Reader::new(payload))?;
        Ok(layout)
    }

    /// Moves `header.protocol` and `header.header_len` behind the extension headers (RFC 8200 §4).
    pub(super) fn walk_extension_headers(
        &mut self,
        mut reader: Reader<'_>,
    ) -> Result<(), WireError> {
        for position in 0..=MAX_EXTENSION_HEADERS {
            let kind = self.header.protocol;
            if !is_extension(kind) {
                return Ok(());
            }
            // A hop-by-hop header stands right behind the fixed header or nowhere (§4.1).
            if position == MAX_EXTENSION_HEADERS || (kind == HOP_BY_HOP && position != 0) {
                return Err(WireError::ExtensionHeader);
            }
            let [next_header, len] = reader.array::<2>().ok_or(WireError::Truncated)?;
            let len = if kind == FRAGMENT { 8 } else { (usize::from(len) + 1) * 8 };
            let body = reader.take(len - 2).ok_or(WireError::Truncated)?;
            match kind {
                FRAGMENT => self.note_fragment(Reader::new(body).u16().unwrap_or(0)),
                ROUTING => check_routing(body)?,
                _ => check_options(body)?,
            }
            self.protocol_at = self.header.header_len;
            self.header.protocol = next_header;
            self.header.header_len += len;
            if self.header.fragment {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `field` is the fragment header's offset (13 bits), two reserved bits and the M flag.
    const fn note_fragment(&mut self, field: u16) {
        self.fragment_offset = field >> 3;
        self.header.fragment = field & !6 != 0;
    }
}

/// A header that another one follows, as far as hosts must know them.
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// A routing header that still has segments to visit is not for a host (RFC 8200 §4.4).
fn check_routing(body: &[u8]) -> Result<(), WireError> {
    match body {
        [_routing_type, 0, ..] => Ok(()),
        _ => Err(WireError::ExtensionHeader),
    }
}

/// Options whose type says "skip me if unknown" are skipped, all others end the packet
/// (RFC 8200 §4.2): no option with other action bits is known here.
fn check_options(body: &[u8]) -> Result<(), WireError> {
    const PAD1: u8 = 0;
    let mut reader = Reader::new(body);
    while let Some(kind) = reader.u8() {
        if kind == PAD1 {
            continue;
        }
        let skipped = reader.u8().and_then(|len| reader.take(usize::from(len)));
        if kind >> 6 != 0 || skipped.is_none() {
            return Err(WireError::ExtensionHeader);
        }
    }
    Ok(())
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// The same in all fragments of a packet, and in no other packet for a while (RFC 6864 §4); its lower 16 bits
    /// count with IPv4.
    pub id: u32,
    /// Octets in front of it, a multiple of 8.
    pub offset: usize,
    /// It is not the last.
    pub more: bool,
}

impl Fragment {
    /// Longest headers, octets.
    pub const MAX_HEADERS: usize = V6_HEADER_LEN + V6_FRAGMENT_LEN;

    /// The offset as IPv6 has it, in front of three bits that are no part of it.
    fn field(&self) -> Option<u16> {
        u16::try_from(self.offset).ok().filter(|offset| offset % 8 == 0)
    }
}

/// The IP header of a packet to send: no options, no extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpEmit {
    /// Sender.
    pub src: IpAddr,
    /// Receiver, of the same family.
    pub dst: IpAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Bytes behind the IP header.
    pub payload_len: usize,
    /// IPv4 only; means nothing while `dont_fragment` is set (RFC 6864).
    pub identification: u16,
    /// IPv4 only: IPv6 routers never fragment.
    pub dont_fragment: bool,
}

impl IpEmit {
    /// 20 or 40 bytes.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        if self.src.is_ipv4() { V4_HEADER_LEN } else { V6_HEADER_LEN }
    }

    /// Writes the header to the front of `out`, the IPv4 checksum included, and returns its length.
    ///
    /// Returns 0 and writes nothing when `out` is too short, the packet would exceed 65,535 bytes
    /// (of payload, for IPv6) or the addresses are of different families.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let written = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.emit_v4(src, dst, out),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.emit_v6(src, dst, out),
            _ => None,
        };
        written.unwrap_or(0)
    }

    /// Writes the headers of a fragment whose data is `payload_len` octets, and returns their length: 20, or 48 with
    /// IPv6's fragment header (RFC 8200 §4.5). 0 as for [`IpEmit::emit`], or for an offset that cannot be named.
    pub fn emit_fragment(&self, fragment: &Fragment, out: &mut [u8]) -> usize {
        let written = match self.src {
            IpAddr::V4(_) => self.emit_v4_fragment(fragment, out),
            IpAddr::V6(_) => self.emit_v6_fragment(fragment, out),
        };
        written.unwrap_or(0)
    }

    fn emit_v4_fragment(&self, fragment: &Fragment, out: &mut [u8]) -> Option<usize> {
        let field = fragment.field()?;
        let part = Self { identification: fragment.id as u16, dont_fragment: false, ..*self };
        if part.emit(out) == 0 {
            return None;
        }
        let header = out.first_chunk_mut::<V4_HEADER_LEN>()?;
        let more = if fragment.more { V4_MORE_FRAGMENTS } else { 0 };
        let [.., high, low, _, _, sum_high, sum_low, _, _, _, _, _, _, _, _] = header;
        [*high, *low] = (field >> 3 | more).to_be_bytes();
        [*sum_high, *sum_low] = [0, 0];
        let sum = !checksum::sum(header);
        let [.., sum_high, sum_low, _, _, _, _, _, _, _, _] = header;
        [*sum_high, *sum_low] = sum.to_be_bytes();
        Some(V4_HEADER_LEN)
    }

    fn emit_v6_fragment(&self, fragment: &Fragment, out: &mut [u8]) -> Option<usize> {
        let payload_len = self.payload_len.checked_add(V6_FRAGMENT_LEN)?;
        let part = Self { protocol: FRAGMENT, payload_len, ..*self };
        let [high, low] = (fragment.field()? | u16::from(fragment.more)).to_be_bytes();
        let (fixed, behind) = out.split_at_mut_checked(V6_HEADER_LEN)?;
        let header = behind.first_chunk_mut::<V6_FRAGMENT_LEN>()?;
        if part.emit(fixed) == 0 {
            return None;
        }
        let [a, b, c, d] = fragment.id.to_be_bytes();
        *header = [self.protocol, 0, high, low, a, b, c, d];
        Some(V6_HEADER_LEN + V6_FRAGMENT_LEN)
    }

    fn emit_v4(&self, src: Ipv4Addr, dst: Ipv4Addr, out: &mut [u8]) -> Option<usize> {
        let out = out.first_chunk_mut::<V4_HEADER_LEN>()?;
        let total_len = u16::try_from(self.payload_len.checked_add(V4_HEADER_LEN)?).ok()?;
        let [len_high, len_low] = total_len.to_be_bytes();
        let [id_high, id_low] = self.identification.to_be_bytes();
        let [flags, _] = if self.dont_fragment { V4_DONT_FRAGMENT } else { 0 }.to_be_bytes();
        let [s0, s1, s2, s3] = src.octets();
        let [d0, d1, d2, d3] = dst.octets();
        let header = |[sum_high, sum_low]: [u8; 2]| {
            [
                0x45,
                self.traffic_class,
                len_high,
                len_low,
                id_high,
                id_low,
                flags,
                0,
                self.hop_limit,
                self.protocol,
                sum_high,
                sum_low,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
            ]
        };
        let sum = checksum::sum(&header([0, 0]));
        *out = header((!sum).to_be_bytes());
        Some(V4_HEADER_LEN)
    }

    fn emit_v6(&self, src: Ipv6Addr, dst: Ipv6Addr, out: &mut [u8]) -> Option<usize> {
        let out = out.first_chunk_mut::<V6_HEADER_LEN>()?;
        let [len_high, len_low] = u16::try_from(self.payload_len).ok()?.to_be_bytes();
        let class = self.traffic_class;
        let (fixed, addresses) = out.split_first_chunk_mut::<8>()?;
        *fixed =
            [0x60 | class >> 4, class << 4, 0, 0, len_high, len_low, self.protocol, self.hop_limit];
        let (src_out, dst_out) = addresses.split_first_chunk_mut::<16>()?;
        *src_out = src.octets();
        *dst_out.first_chunk_mut::<16>()? = dst.octets();
        Some(V6_HEADER_LEN)
    }
}
