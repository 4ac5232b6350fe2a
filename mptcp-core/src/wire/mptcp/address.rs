//! `ADD_ADDR`, `REMOVE_ADDR` and `MP_PRIO`: what hosts tell each other about addresses and their
//! use (RFC 8684 §3.3.8 and §3.4, RFC 6824 §3.3.8 and §3.4).
//!
//! Invariant: a decoded [`AddAddr`] or [`Prio`] is one that the given version allows. An address
//! without a valid HMAC is still unproven: the connection checks that.

use super::super::Version;
use super::super::cursor::Reader;
use super::super::options::OptionWriter;
use super::{subtype, subtype_octet};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// E, in the lower half of the subtype octet of a version 1 `ADD_ADDR`.
const ECHO: u8 = 0x1;
/// B, in the lower half of the subtype octet of `MP_PRIO`.
const BACKUP: u8 = 0x1;

/// An `ADD_ADDR` whose version is not known yet: of a length that one of them has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawAddAddr<'a> {
    data: &'a [u8],
}

/// An announced address, or the echo of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddAddr {
    /// The announcing host's id for the address; in an echo, the id being confirmed.
    pub address_id: u8,
    /// The address.
    pub addr: IpAddr,
    /// Port to connect to; `None` means the port of the first subflow.
    pub port: Option<u16>,
    /// E: confirms an announcement. Never in version 0.
    pub echo: bool,
    /// Right-most 64 bits of the announcer's HMAC, to be compared before the address is used. Never
    /// in version 0, always in a version 1 announcement; an echo needs none.
    pub hmac: Option<u64>,
}

impl<'a> RawAddAddr<'a> {
    /// Takes an option's value, from the subtype octet on. `None` when no version has an `ADD_ADDR`
    /// of this length.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let lengths = matches!(data.len(), 6 | 8 | 14 | 16 | 18 | 20 | 26 | 28);
        (lengths && data.first()? >> 4 == subtype::ADD_ADDR).then_some(Self { data })
    }

    /// The option's value, from the subtype octet on.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Reads it as `version` has it. `None` when `version` has no such option: a wrong length for
    /// the address family, an IPVer other than 4 or 6 (version 0), or an announcement that lacks its
    /// HMAC (version 1). Such an option is ignored.
    #[must_use]
    pub fn decode(self, version: Version) -> Option<AddAddr> {
        let mut reader = Reader::new(self.data);
        let low = reader.u8()? & 0xf;
        let address_id = reader.u8()?;
        match version {
            Version::V0 => {
                let addr = match low {
                    4 => Self::read_v4(&mut reader)?,
                    6 => Self::read_v6(&mut reader)?,
                    _ => return None,
                };
                let port = Self::read_port(&mut reader)?;
                let decoded = AddAddr { address_id, addr, port, echo: false, hmac: None };
                reader.is_empty().then_some(decoded)
            }
            Version::V1 => {
                let echo = low & ECHO != 0;
                // 4, 6, 12 or 14 bytes hold an IPv4 address, more an IPv6 address.
                let addr = if reader.len() < 16 {
                    Self::read_v4(&mut reader)?
                } else {
                    Self::read_v6(&mut reader)?
                };
                let port = if reader.len() % 8 == 2 { Some(reader.u16()?) } else { None };
                let hmac = reader.u64();
                let valid = reader.is_empty() && (echo || hmac.is_some());
                valid.then_some(AddAddr { address_id, addr, port, echo, hmac })
            }
        }
    }

    fn read_v4(reader: &mut Reader<'_>) -> Option<IpAddr> {
        reader.array::<4>().map(|octets| Ipv4Addr::from(octets).into())
    }

    fn read_v6(reader: &mut Reader<'_>) -> Option<IpAddr> {
        reader.array::<16>().map(|octets| Ipv6Addr::from(octets).into())
    }

    /// A port, or nothing, up to the end.
    fn read_port(reader: &mut Reader<'_>) -> Option<Option<u16>> {
        if reader.is_empty() { Some(None) } else { reader.u16().map(Some) }
    }
}

impl AddAddr {
    /// Appends the option as `version` has it. False, and `out` unchanged, when it does not fit or
    /// `version` cannot express it: an echo or an HMAC in version 0, an announcement without HMAC in
    /// version 1.
    ///
    /// IPv6 with port takes 30 bytes: next to timestamps that leaves no room for NOPs.
    #[must_use]
    pub fn encode(&self, out: &mut OptionWriter, version: Version) -> bool {
        let low = match (version, self.addr) {
            (Version::V0, _) if self.echo || self.hmac.is_some() => return false,
            (Version::V0, IpAddr::V4(_)) => 4,
            (Version::V0, IpAddr::V6(_)) => 6,
            (Version::V1, _) if !self.echo && self.hmac.is_none() => return false,
            (Version::V1, _) if self.echo => ECHO,
            (Version::V1, _) => 0,
        };
        out.attempt(|out| {
            out.put_mptcp(|out| {
                out.put([subtype_octet(subtype::ADD_ADDR, low), self.address_id])?;
                match self.addr {
                    IpAddr::V4(addr) => out.put(addr.octets())?,
                    IpAddr::V6(addr) => out.put(addr.octets())?,
                }
                if let Some(port) = self.port {
                    out.put(port.to_be_bytes())?;
                }
                self.hmac.map_or(Some(()), |hmac| out.put(hmac.to_be_bytes()))
            })
        })
    }

    /// The message that the HMAC of a version 1 announcement covers: id, address and port, the port
    /// zero when absent (RFC 8684 §3.4.1). 7 or 19 bytes, written to `buffer`.
    #[must_use]
    pub fn hmac_message<'b>(&self, buffer: &'b mut [u8; 19]) -> &'b [u8] {
        let port = self.port.unwrap_or(0).to_be_bytes();
        let write = |buffer: &mut [u8], octets: &[u8]| {
            let message = core::iter::once(&self.address_id).chain(octets).chain(&port);
            for (to, from) in buffer.iter_mut().zip(message) {
                *to = *from;
            }
            octets.len() + 3
        };
        let len = match self.addr {
            IpAddr::V4(addr) => write(buffer, &addr.octets()),
            IpAddr::V6(addr) => write(buffer, &addr.octets()),
        };
        buffer.get(..len).unwrap_or(&[])
    }
}

/// The address ids of a `REMOVE_ADDR`, at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressIds<'a> {
    ids: &'a [u8],
}

impl<'a> AddressIds<'a> {
    /// For sending; `None` when there is none. How many fit depends on the other options: at most
    /// 37.
    #[must_use]
    pub const fn new(ids: &'a [u8]) -> Option<Self> {
        if ids.is_empty() { None } else { Some(Self { ids }) }
    }

    pub(super) const fn parse(data: &'a [u8]) -> Option<Self> {
        match data.split_first() {
            Some((_, ids)) => Self::new(ids),
            None => None,
        }
    }

    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        out.put([subtype_octet(subtype::REMOVE_ADDR, 0)])?;
        out.put_slice(self.ids)
    }

    /// The ids in the order they stand in the option; duplicates are possible.
    pub fn iter(&self) -> core::iter::Copied<core::slice::Iter<'a, u8>> {
        self.ids.iter().copied()
    }
}

impl<'a> IntoIterator for AddressIds<'a> {
    type Item = u8;
    type IntoIter = core::iter::Copied<core::slice::Iter<'a, u8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// An `MP_PRIO` whose version is not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPrio(Prio);

/// A change of priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prio {
    /// Use the subflow only when no other works (true), or like any other (false).
    pub backup: bool,
    /// Applies to every subflow with this id of the sender's; `None`: to the subflow the option came
    /// on. Version 0 only.
    pub address_id: Option<u8>,
}

impl RawPrio {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let (backup, address_id) = match *data {
            [head] => (head & BACKUP != 0, None),
            [head, address_id] => (head & BACKUP != 0, Some(address_id)),
            _ => return None,
        };
        Some(Self(Prio { backup, address_id }))
    }

    pub(super) fn encode(self, out: &mut OptionWriter) -> Option<()> {
        let backup = if self.0.backup { BACKUP } else { 0 };
        out.put([subtype_octet(subtype::MP_PRIO, backup)])?;
        self.0.address_id.map_or(Some(()), |address_id| out.put([address_id]))
    }

    /// Reads it as `version` has it. `None` when version 1 meets the 4-byte form, which it lacks.
    #[must_use]
    pub fn decode(self, version: Version) -> Option<Prio> {
        match version {
            Version::V1 if self.0.address_id.is_some() => None,
            _ => Some(self.0),
        }
    }
}

impl Prio {
    /// Appends the option as `version` has it. False, and `out` unchanged, when it does not fit or
    /// `version` cannot express it: an address id in version 1.
    #[must_use]
    pub fn encode(&self, out: &mut OptionWriter, version: Version) -> bool {
        RawPrio(*self).decode(version).is_some()
            && out.attempt(|out| out.put_mptcp(|out| RawPrio(*self).encode(out)))
    }
}
