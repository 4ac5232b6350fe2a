//! Wire formats: IP, ICMP, TCP, UDP and MPTCP headers, their options and their checksums.
//!
//! Usable alone: nothing here knows a connection. Parsers take any bytes, allocate nothing, never
//! panic, and keep what they do not understand. What depends on a connection's protocol version
//! takes a [`Version`] as an argument.
//!
//! # Reading a packet
//!
//! [`IpHeader::parse`], then [`checksum::verify_tcp`] (unless the port did), [`TcpSegment::parse`],
//! and [`TcpSegment::options`], which yields a [`TcpOption`] per option. An option list ends at the
//! first broken length with an [`OptionError`]; what stood before it is good. An option of a known
//! kind and a wrong length is [`TcpOption::Unknown`] or [`MptcpOption::Malformed`], so a rule such
//! as "ignore an `MP_CAPABLE` of length 12 in a version 1 SYN" is the handshake's to apply.
//!
//! ```
//! use mptcp_core::wire::{checksum, CapableForm, IpHeader, MptcpOption, TcpOption, TcpSegment};
//!
//! // A SYN of the Linux kernel: MSS, SACK, timestamps, window scale, MP_CAPABLE.
//! let packet: [u8; 64] = [
//!     0x45, 0x00, 0x00, 0x40, 0x7c, 0xde, 0x40, 0x00, 0x40, 0x06, 0xa7, 0x3d, 0x0a, 0x4d, 0x01, 0x01,
//!     0x0a, 0x4d, 0x01, 0x02, 0xe6, 0x30, 0x14, 0x51, 0x17, 0xf6, 0x5f, 0x5d, 0x00, 0x00, 0x00, 0x00,
//!     0xb0, 0x02, 0xfa, 0xf0, 0x3c, 0xb0, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a,
//!     0x1f, 0xaa, 0x38, 0xb7, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a, 0x1e, 0x04, 0x01, 0x81,
//! ];
//! let ip = IpHeader::parse(&packet).expect("a whole IP packet");
//! let bytes = &packet[ip.header_len..ip.total_len];
//! assert!(checksum::verify_tcp(ip.src, ip.dst, bytes));
//! let segment = TcpSegment::parse(bytes).expect("a whole TCP header");
//! let capable = segment.options().flatten().find_map(|option| match option {
//!     TcpOption::Mptcp(MptcpOption::Capable(capable)) => Some(capable),
//!     _ => None,
//! });
//! let capable = capable.expect("the peer offers MPTCP");
//! assert_eq!((capable.version, capable.form), (1, CapableForm::Syn));
//! ```
//!
//! # Writing a segment
//!
//! Options are pushed to an [`OptionWriter`], which takes 40 bytes and refuses whatever does not
//! fit; [`TcpHeader::emit`] writes them behind the header and pads.
//!
//! ```
//! use mptcp_core::seq::SeqNum;
//! use mptcp_core::wire::*;
//! use core::net::IpAddr;
//!
//! let mut options = OptionWriter::new();
//! assert!(options.push_timestamps(1000, 900));
//! let dss = Dss { data_ack: Some(WireSeq::Low(0x2d88_a19d)), ..Dss::default() };
//! assert!(options.push_mptcp(&MptcpOption::Dss(dss), Version::V1));
//! assert_eq!(options.len(), 12 + 8);
//!
//! let header = TcpHeader {
//!     src_port: 5001,
//!     dst_port: 40000,
//!     seq: SeqNum(1),
//!     ack: SeqNum(2),
//!     flags: TcpFlags::ACK,
//!     window: 512,
//!     urgent: 0,
//! };
//! let mut segment = [0; 60];
//! let len = header.emit(&options, &mut segment);
//! let (src, dst) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 1, 0, 2]));
//! let sum = checksum::tcp_checksum(src, dst, &segment[..len]);
//! set_checksum(&mut segment, sum);
//! assert!(checksum::verify_tcp(src, dst, &segment[..len]));
//! ```
//!
//! # The two versions
//!
//! Only `MP_CAPABLE` names its version. `ADD_ADDR` and `MP_PRIO` have the same lengths in both and
//! mean different things: decode them with the connection's version.
//!
//! ```
//! use mptcp_core::wire::*;
//!
//! // Eight bytes: 10.2.0.2 announced in version 0, nothing valid in version 1 (no E flag, no HMAC).
//! let bytes = [30, 8, 0x34, 3, 10, 2, 0, 2];
//! let Some(Ok(TcpOption::Mptcp(MptcpOption::AddAddr(raw)))) = OptionIter::new(&bytes).next() else {
//!     unreachable!()
//! };
//! let announced = raw.decode(Version::V0).expect("valid in version 0");
//! assert_eq!((announced.address_id, announced.port), (3, None));
//! assert_eq!(raw.decode(Version::V1), None);
//! ```

pub mod checksum;
mod cursor;
mod fast_open;
mod fragment;
pub mod icmp;
pub mod ip;
pub mod laws;
pub mod mptcp;
pub mod options;
pub mod tcp;
pub mod udp;

pub use checksum::Checksum;
pub use fast_open::FastOpenCookie;
pub use fragment::{FragmentProblem, ReceivedFragment, is_fragment};
pub use icmp::{IcmpError, IcmpErrorKind};
pub use ip::{ECN_CE, ECN_ECT0, Fragment, IpEmit, IpHeader};
pub use mptcp::{
    AddAddr, AddressIds, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MpTcpRst,
    MptcpOption, Prio, RawAddAddr, RawPrio, WireSeq, reset_reason,
};
pub use options::{OptionError, OptionIter, OptionWriter, SackBlocks, TcpOption};
pub use tcp::{TcpFlags, TcpHeader, TcpSegment, set_checksum};
pub use udp::{UdpDatagram, UdpHeader};

use core::fmt;

/// An MPTCP protocol version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// RFC 6824, SHA-1.
    V0 = 0,
    /// RFC 8684, SHA-256.
    V1 = 1,
}

impl Version {
    /// The version that the 4-bit field of `MP_CAPABLE` names; `None` for one that is not assigned.
    #[must_use]
    pub const fn from_u8(version: u8) -> Option<Self> {
        match version {
            0 => Some(Self::V0),
            1 => Some(Self::V1),
            _ => None,
        }
    }
}

/// Why a received packet cannot be read: it must be dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WireError {
    /// The buffer ends before what its headers promise.
    Truncated,
    /// The IP version, given here, is neither 4 nor 6.
    IpVersion(u8),
    /// A header-length field is below the header's minimum.
    HeaderLength,
    /// The IP total length is shorter than the IP header.
    TotalLength,
    /// The IPv4 header checksum is wrong.
    Checksum,
    /// An IPv6 extension header is out of place, one too many, unfinished routing, or carries an
    /// option that a host must not skip.
    ExtensionHeader,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("packet ends before what its headers promise"),
            Self::IpVersion(version) => write!(f, "IP version {version} is neither 4 nor 6"),
            Self::HeaderLength => f.write_str("header length below the minimum"),
            Self::TotalLength => f.write_str("IP total length shorter than the IP header"),
            Self::Checksum => f.write_str("wrong IPv4 header checksum"),
            Self::ExtensionHeader => f.write_str("unacceptable IPv6 extension header"),
        }
    }
}

impl core::error::Error for WireError {}
