//! Views of IP, TCP and MPTCP as this crate understands them: an independent reading of the
//! formats, shared with no stack that is tested here. Parsers look at any bytes and never panic.

pub mod checksum;
pub mod edit;
pub mod mptcp;
pub mod tcp;

pub use mptcp::MptcpOption;
pub use tcp::{TcpOption, TcpSegment, flag};

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA) this crate looks into.
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketError {
    /// Fewer bytes than the header needs.
    Truncated,
    /// Neither IPv4 nor IPv6.
    Version(u8),
    /// A header length below its minimum or beyond the packet.
    HeaderLength(usize),
    /// The IP length field and the packet's length differ.
    Length {
        /// Bytes the header announces.
        announced: usize,
        /// Bytes there are.
        present: usize,
    },
    /// The sum of this protocol's header or segment is wrong.
    Checksum(&'static str),
    /// A TCP option runs past the header or has a length below 2; its kind.
    Option(u8),
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "packet is too short for its headers"),
            Self::Version(version) => write!(f, "IP version is {version}, not 4 or 6"),
            Self::HeaderLength(len) => write!(f, "header length of {len} bytes is impossible"),
            Self::Length { announced, present } => {
                write!(f, "IP header announces {announced} bytes, the packet has {present}")
            }
            Self::Checksum(protocol) => write!(f, "{protocol} checksum is wrong"),
            Self::Option(kind) => write!(f, "TCP option of kind {kind} has an impossible length"),
        }
    }
}

impl core::error::Error for PacketError {}

/// An IPv4 or IPv6 packet, its header checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpPacket<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol of `payload`.
    pub protocol: u8,
    /// Bytes before `payload`, IPv6 extension headers included.
    pub header_len: usize,
    /// Whether this is a part of a larger packet (then `payload` may start anywhere).
    pub fragment: bool,
    /// What follows the headers.
    pub payload: &'a [u8],
}

impl<'a> IpPacket<'a> {
    /// Reads and checks the IP header (lengths and, for IPv4, the checksum).
    ///
    /// # Errors
    /// When the header is truncated, lies about lengths, or has a wrong checksum.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        let first = packet.first().ok_or(PacketError::Truncated)?;
        match first >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            version => Err(PacketError::Version(version)),
        }
    }

    /// The partial sum of the pseudo-header that TCP, UDP and ICMPv6 checksums cover.
    #[must_use]
    pub fn pseudo_header_sum(&self) -> u64 {
        let addresses = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                checksum::sum(&src.octets()) + checksum::sum(&dst.octets())
            }
            (src, dst) => checksum::sum(&octets_v6(src)) + checksum::sum(&octets_v6(dst)),
        };
        addresses + u64::from(self.protocol) + self.payload.len() as u64
    }

    fn parse_v4(packet: &'a [u8]) -> Result<Self, PacketError> {
        let fixed: &[u8; 20] = packet.first_chunk().ok_or(PacketError::Truncated)?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        if header_len < 20 {
            return Err(PacketError::HeaderLength(header_len));
        }
        let (header, payload) =
            packet.split_at_checked(header_len).ok_or(PacketError::HeaderLength(header_len))?;
        let announced = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if announced != packet.len() {
            return Err(PacketError::Length { announced, present: packet.len() });
        }
        if checksum::fold(checksum::sum(header)) != 0xffff {
            return Err(PacketError::Checksum("IPv4"));
        }
        Ok(Self {
            src: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            dst: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
            protocol: fixed[9],
            header_len,
            // More Fragments, or an offset.
            fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0,
            payload,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<Self, PacketError> {
        let (fixed, mut rest) = packet.split_first_chunk::<40>().ok_or(PacketError::Truncated)?;
        let announced = usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) + 40;
        if announced != packet.len() {
            return Err(PacketError::Length { announced, present: packet.len() });
        }
        let (mut protocol, mut fragment) = (fixed[6], false);
        // Hop-by-hop, routing, destination options, and the fragment header (RFC 8200 §4).
        while let 0 | 43 | 44 | 60 = protocol {
            let lead: &[u8; 8] = rest.first_chunk().ok_or(PacketError::Truncated)?;
            fragment |= protocol == 44;
            let len = if protocol == 44 { 8 } else { usize::from(lead[1]) * 8 + 8 };
            protocol = lead[0];
            rest = rest.get(len..).ok_or(PacketError::HeaderLength(len))?;
        }
        Ok(Self {
            src: address_v6(packet, 8)?,
            dst: address_v6(packet, 24)?,
            protocol,
            header_len: packet.len() - rest.len(),
            fragment,
            payload: rest,
        })
    }
}

fn address_v6(packet: &[u8], at: usize) -> Result<IpAddr, PacketError> {
    let octets: &[u8; 16] =
        packet.get(at..).and_then(<[u8]>::first_chunk).ok_or(PacketError::Truncated)?;
    Ok(Ipv6Addr::from(*octets).into())
}

const fn octets_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Destination of any packet, without checking anything else; for routing.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..).and_then(<[u8]>::first_chunk::<4>).map(|a| Ipv4Addr::from(*a).into()),
        6 => address_v6(packet, 24).ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod build;
