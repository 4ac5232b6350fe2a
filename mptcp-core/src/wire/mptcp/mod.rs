//! The MPTCP option: nine subtypes, two protocol versions (RFC 8684 §3, RFC 6824 §3).
//!
//! Invariant: parsing needs no connection and loses nothing. `ADD_ADDR` and `MP_PRIO` look the same
//! in both versions and mean different things, so they stay raw until the connection, which knows
//! its [`Version`], decodes them. What an RFC reserves is ignored on receipt and sent as zero.

mod address;
mod capable;
mod dss;
mod join;

pub use address::{AddAddr, AddressIds, Prio, RawAddAddr, RawPrio};
pub use capable::{CapableFlags, CapableForm, MpCapable};
pub use dss::{Dss, Mapping, WireSeq};
pub use join::{MpJoin, MpTcpRst, reset_reason};

use super::Version;
use super::cursor::Reader;
use super::options::OptionWriter;

/// Subtype numbers (IANA).
pub mod subtype {
    /// Opens a connection, RFC 8684 §3.1.
    pub const MP_CAPABLE: u8 = 0x0;
    /// Opens a further subflow, RFC 8684 §3.2.
    pub const MP_JOIN: u8 = 0x1;
    /// Data sequence signal, RFC 8684 §3.3.
    pub const DSS: u8 = 0x2;
    /// Announces an address, RFC 8684 §3.4.1.
    pub const ADD_ADDR: u8 = 0x3;
    /// Withdraws addresses, RFC 8684 §3.4.2.
    pub const REMOVE_ADDR: u8 = 0x4;
    /// Changes a subflow's priority, RFC 8684 §3.3.8.
    pub const MP_PRIO: u8 = 0x5;
    /// Reports a checksum failure, RFC 8684 §3.7.
    pub const MP_FAIL: u8 = 0x6;
    /// Aborts the connection, RFC 8684 §3.5.
    pub const MP_FASTCLOSE: u8 = 0x7;
    /// Says why a subflow was reset, RFC 8684 §3.6.
    pub const MP_TCPRST: u8 = 0x8;
    /// Private use, RFC 8684 §7.2.
    pub const MP_EXPERIMENTAL: u8 = 0xf;
}

/// One MPTCP option.
///
/// `data` fields hold what follows the kind and length octets: their first octet has the subtype in
/// its upper half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MptcpOption<'a> {
    /// Opens a connection.
    Capable(MpCapable),
    /// Opens a further subflow.
    Join(MpJoin),
    /// Data sequence signal.
    Dss(Dss),
    /// Announces an address; [`RawAddAddr::decode`] needs the connection's version.
    AddAddr(RawAddAddr<'a>),
    /// Withdraws addresses.
    RemoveAddr(AddressIds<'a>),
    /// Changes a subflow's priority; [`RawPrio::decode`] needs the connection's version.
    Prio(RawPrio),
    /// A checksum failed; data from `dsn` on is unusable.
    Fail {
        /// Data sequence number of the first octet of the failed mapping, always 64 bits.
        dsn: u64,
    },
    /// Aborts the connection.
    Fastclose {
        /// Key of the host that receives this option.
        key: u64,
    },
    /// Why the subflow was reset. Version 1 only.
    Reset(MpTcpRst),
    /// Private use.
    Experimental {
        /// The whole value, subtype octet included.
        data: &'a [u8],
    },
    /// A known subtype whose length fits none of its forms.
    Malformed {
        /// Which subtype.
        subtype: u8,
        /// The whole value, subtype octet included.
        data: &'a [u8],
    },
    /// A subtype that is not assigned.
    Unknown {
        /// Which subtype.
        subtype: u8,
        /// The whole value, subtype octet included.
        data: &'a [u8],
    },
}

impl<'a> MptcpOption<'a> {
    /// Reads the value of a kind-30 option: what follows the kind and length octets. `None` only
    /// when it is empty.
    #[must_use]
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let subtype = data.first()? >> 4;
        let parsed = match subtype {
            subtype::MP_CAPABLE => MpCapable::parse(data).map(Self::Capable),
            subtype::MP_JOIN => MpJoin::parse(data).map(Self::Join),
            subtype::DSS => Dss::parse(data).map(Self::Dss),
            subtype::ADD_ADDR => RawAddAddr::new(data).map(Self::AddAddr),
            subtype::REMOVE_ADDR => AddressIds::parse(data).map(Self::RemoveAddr),
            subtype::MP_PRIO => RawPrio::parse(data).map(Self::Prio),
            subtype::MP_FAIL => parse_u64(data).map(|dsn| Self::Fail { dsn }),
            subtype::MP_FASTCLOSE => parse_u64(data).map(|key| Self::Fastclose { key }),
            subtype::MP_TCPRST => MpTcpRst::parse(data).map(Self::Reset),
            subtype::MP_EXPERIMENTAL => Some(Self::Experimental { data }),
            _ => Some(Self::Unknown { subtype, data }),
        };
        Some(parsed.unwrap_or(Self::Malformed { subtype, data }))
    }

    /// The subtype number, 0 to 15.
    #[must_use]
    pub const fn subtype(&self) -> u8 {
        match self {
            Self::Capable(_) => subtype::MP_CAPABLE,
            Self::Join(_) => subtype::MP_JOIN,
            Self::Dss(_) => subtype::DSS,
            Self::AddAddr(_) => subtype::ADD_ADDR,
            Self::RemoveAddr(_) => subtype::REMOVE_ADDR,
            Self::Prio(_) => subtype::MP_PRIO,
            Self::Fail { .. } => subtype::MP_FAIL,
            Self::Fastclose { .. } => subtype::MP_FASTCLOSE,
            Self::Reset(_) => subtype::MP_TCPRST,
            Self::Experimental { .. } => subtype::MP_EXPERIMENTAL,
            Self::Malformed { subtype, .. } | Self::Unknown { subtype, .. } => *subtype,
        }
    }

    /// True when protocol version `version` has this option in this form: what may be sent on a
    /// connection of that version.
    #[must_use]
    pub fn is_in(&self, version: Version) -> bool {
        match self {
            Self::Capable(capable) => capable.is_in(version),
            Self::AddAddr(add_addr) => add_addr.decode(version).is_some(),
            Self::Prio(prio) => prio.decode(version).is_some(),
            Self::Reset(_) => version == Version::V1,
            Self::Join(_)
            | Self::Dss(_)
            | Self::RemoveAddr(_)
            | Self::Fail { .. }
            | Self::Fastclose { .. }
            | Self::Experimental { .. } => true,
            Self::Malformed { .. } | Self::Unknown { .. } => false,
        }
    }

    /// Appends the value, from the subtype octet on.
    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        match self {
            Self::Capable(capable) => capable.encode(out),
            Self::Join(join) => join.encode(out),
            Self::Dss(dss) => dss.encode(out),
            Self::AddAddr(add_addr) => out.put_slice(add_addr.as_bytes()),
            Self::RemoveAddr(ids) => ids.encode(out),
            Self::Prio(prio) => prio.encode(out),
            Self::Fail { dsn } => put_u64(out, subtype::MP_FAIL, *dsn),
            Self::Fastclose { key } => put_u64(out, subtype::MP_FASTCLOSE, *key),
            Self::Reset(reset) => reset.encode(out),
            Self::Experimental { data } => put_raw(out, subtype::MP_EXPERIMENTAL, data),
            Self::Malformed { subtype, data } | Self::Unknown { subtype, data } => {
                put_raw(out, *subtype, data)
            }
        }
    }
}

/// The subtype octet: subtype above four bits of flags.
const fn subtype_octet(subtype: u8, low: u8) -> u8 {
    (subtype << 4) | (low & 0xf)
}

/// `MP_FAIL` and `MP_FASTCLOSE`: 12 reserved bits and 64 bits.
fn parse_u64(data: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(data);
    reader.u16()?;
    let value = reader.u64()?;
    reader.is_empty().then_some(value)
}

fn put_u64(out: &mut OptionWriter, subtype: u8, value: u64) -> Option<()> {
    out.put([subtype_octet(subtype, 0), 0])?;
    out.put(value.to_be_bytes())
}

fn put_raw(out: &mut OptionWriter, subtype: u8, data: &[u8]) -> Option<()> {
    (data.first()? >> 4 == subtype).then_some(())?;
    out.put_slice(data)
}
