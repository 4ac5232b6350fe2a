//! Wire formats: IP, ICMP, TCP and MPTCP headers, their options and their checksums.
//!
//! Usable alone: nothing here knows a connection. Parsers take any bytes, allocate nothing, never
//! panic, and keep what they do not understand. What depends on a connection's protocol version
//! takes a [`Version`] as an argument.

pub mod checksum;
mod cursor;
pub mod icmp;
pub mod ip;
pub mod mptcp;
pub mod options;
pub mod tcp;

pub use checksum::Checksum;
pub use icmp::{IcmpError, IcmpErrorKind};
pub use ip::{IpEmit, IpHeader};
pub use mptcp::{
    AddAddr, AddressIds, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MpTcpRst,
    MptcpOption, Prio, RawAddAddr, RawPrio, WireSeq, reset_reason,
};
pub use options::{OptionError, OptionIter, OptionWriter, SackBlocks, TcpOption};
pub use tcp::{TcpFlags, TcpHeader, TcpSegment, set_checksum};

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
