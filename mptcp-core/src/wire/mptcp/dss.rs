//! The data sequence signal, DSS (RFC 8684 §3.3): mapping, `DATA_ACK` and `DATA_FIN`.
//!
//! Invariant: numbers keep the width they had on the wire; only a connection, which knows the upper
//! half, can widen them. Both versions use the same bytes.

use super::super::cursor::Reader;
use super::super::options::OptionWriter;
use super::{subtype, subtype_octet};

/// F: the mapping's last octet is the `DATA_FIN`.
const DATA_FIN: u8 = 0x10;
/// m: the data sequence number has 8 octets.
const DSN_WIDE: u8 = 0x08;
/// M: a mapping is present.
const MAPPING: u8 = 0x04;
/// a: the `DATA_ACK` has 8 octets.
const ACK_WIDE: u8 = 0x02;
/// A: a `DATA_ACK` is present.
const ACK: u8 = 0x01;

/// A data sequence number as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireSeq {
    /// All 64 bits.
    Full(u64),
    /// The lower 32 bits; see [`crate::seq::DataSeq::expand`].
    Low(u32),
}

/// Binds a range of the subflow's octets to the data sequence space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Data sequence number of the first octet.
    pub dsn: WireSeq,
    /// Its subflow sequence number relative to the subflow's SYN; 0 for a `DATA_FIN` without data.
    pub ssn: u32,
    /// Data-level length, a `DATA_FIN` included; 0 is the infinite mapping (§3.7).
    pub len: u16,
    /// See [`super::super::checksum::dss_checksum`]; present exactly when checksums are negotiated.
    pub checksum: Option<u16>,
}

/// A data sequence signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dss {
    /// Next data sequence number the sender expects.
    pub data_ack: Option<WireSeq>,
    /// The mapping, when there is one.
    pub mapping: Option<Mapping>,
    /// The mapping ends with the `DATA_FIN`. Not sent, and never received, without a mapping.
    pub data_fin: bool,
}

impl Dss {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let [_, flags] = reader.array()?;
        let data_ack = match flags & ACK {
            0 => None,
            _ => Some(WireSeq::parse(&mut reader, flags & ACK_WIDE != 0)?),
        };
        let mapping = match flags & MAPPING {
            0 => None,
            _ => Some(Mapping::parse(&mut reader, flags & DSN_WIDE != 0)?),
        };
        let data_fin = flags & DATA_FIN != 0 && mapping.is_some();
        reader.is_empty().then_some(Self { data_ack, mapping, data_fin })
    }

    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        let ack_flags = self.data_ack.map_or(0, |ack| ACK | ack.flag_if_wide(ACK_WIDE));
        let map_flags = self.mapping.map_or(0, |mapping| {
            let fin = if self.data_fin { DATA_FIN } else { 0 };
            MAPPING | mapping.dsn.flag_if_wide(DSN_WIDE) | fin
        });
        out.put([subtype_octet(subtype::DSS, 0), ack_flags | map_flags])?;
        if let Some(ack) = self.data_ack {
            ack.encode(out)?;
        }
        self.mapping.map_or(Some(()), |mapping| mapping.encode(out))
    }

    /// It acknowledges, and at most maps some octets, without a checksum.
    pub(crate) fn is_plain(&self) -> bool {
        let maps = |mapping: Mapping| mapping.len > 0 && mapping.checksum.is_none();
        self.data_ack.is_some() && self.mapping.is_none_or(maps) && !self.data_fin
    }

    /// Length of the whole option in bytes, kind and length octets included: 4 to 28.
    #[must_use]
    pub fn option_len(&self) -> usize {
        let ack = self.data_ack.map_or(0, WireSeq::len);
        let mapping = self.mapping.map_or(0, |mapping| {
            mapping.dsn.len() + 6 + if mapping.checksum.is_some() { 2 } else { 0 }
        });
        4 + ack + mapping
    }
}

impl Mapping {
    /// Reads to the end: whether a checksum is there is told by what is left.
    fn parse(reader: &mut Reader<'_>, wide: bool) -> Option<Self> {
        Some(Self {
            dsn: WireSeq::parse(reader, wide)?,
            ssn: reader.u32()?,
            len: reader.u16()?,
            checksum: reader.u16(),
        })
    }

    fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        self.dsn.encode(out)?;
        out.put(self.ssn.to_be_bytes())?;
        out.put(self.len.to_be_bytes())?;
        self.checksum.map_or(Some(()), |checksum| out.put(checksum.to_be_bytes()))
    }
}

impl WireSeq {
    fn parse(reader: &mut Reader<'_>, wide: bool) -> Option<Self> {
        if wide { reader.u64().map(Self::Full) } else { reader.u32().map(Self::Low) }
    }

    fn encode(self, out: &mut OptionWriter) -> Option<()> {
        match self {
            Self::Full(seq) => out.put(seq.to_be_bytes()),
            Self::Low(seq) => out.put(seq.to_be_bytes()),
        }
    }

    const fn flag_if_wide(self, flag: u8) -> u8 {
        match self {
            Self::Full(_) => flag,
            Self::Low(_) => 0,
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::Full(_) => 8,
            Self::Low(_) => 4,
        }
    }
}
