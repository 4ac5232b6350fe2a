//! `MP_CAPABLE` (RFC 8684 §3.1, RFC 6824 §3.1).
//!
//! Invariant: the form is told by the option's length alone. Which form belongs on which segment,
//! and what the flags mean, is for the handshake to judge.

use super::super::Version;
use super::super::cursor::Reader;
use super::super::options::OptionWriter;
use super::{subtype, subtype_octet};

bitflags::bitflags! {
    /// Flags A to H of `MP_CAPABLE`. Bits D to G (0x1e) name no algorithm yet and are kept; in
    /// version 0, C is one of them.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct CapableFlags: u8 {
        /// A: the sender wants DSS checksums.
        const CHECKSUM = 0x80;
        /// B: an extension that nobody defined. Version 1 ignores the option, version 0 the SYN.
        const EXTENSIBILITY = 0x40;
        /// C: no further subflows to the sender's initial address and port. Version 1 only.
        const DENY_JOIN = 0x20;
        /// H: HMAC-SHA1 in version 0, HMAC-SHA256 in version 1.
        const HMAC = 0x01;
    }
}

/// Opens a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MpCapable {
    /// Protocol version as the 4-bit field has it: 0 RFC 6824, 1 RFC 8684, others unassigned. See
    /// [`Version::from_u8`].
    pub version: u8,
    /// Flags, unknown ones included.
    pub flags: CapableFlags,
    /// What the option carries.
    pub form: CapableForm,
}

/// The five forms of `MP_CAPABLE`, one per length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapableForm {
    /// 4 bytes: version 1 SYN.
    Syn,
    /// 12 bytes, the sender's key: version 0 SYN, SYN/ACK of both versions.
    Key(u64),
    /// 20 bytes: third segment of the handshake.
    Keys {
        /// The sender's key.
        sender: u64,
        /// The receiver's key, echoed.
        receiver: u64,
    },
    /// 22 bytes, or 24 with a checksum: the first data of a version 1 initiator. Equals a mapping
    /// of `data_len` bytes at IDSN + 1 and subflow sequence number 1.
    Data {
        /// The sender's key.
        sender: u64,
        /// The receiver's key, echoed.
        receiver: u64,
        /// Data-level length in bytes.
        data_len: u16,
        /// DSS checksum over the mapping, when the option has one.
        checksum: Option<u16>,
    },
}

impl MpCapable {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let version = reader.u8()? & 0xf;
        let flags = CapableFlags::from_bits_retain(reader.u8()?);
        let form = CapableForm::parse(reader)?;
        Some(Self { version, flags, form })
    }

    pub(super) fn is_in(&self, version: Version) -> bool {
        let form = match self.form {
            CapableForm::Syn | CapableForm::Data { .. } => version == Version::V1,
            CapableForm::Key(_) | CapableForm::Keys { .. } => true,
        };
        form && Version::from_u8(self.version) == Some(version)
    }

    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        if self.version > 0xf {
            return None;
        }
        out.put([subtype_octet(subtype::MP_CAPABLE, self.version), self.flags.bits()])?;
        match self.form {
            CapableForm::Syn => Some(()),
            CapableForm::Key(key) => out.put(key.to_be_bytes()),
            CapableForm::Keys { sender, receiver } => {
                out.put(sender.to_be_bytes())?;
                out.put(receiver.to_be_bytes())
            }
            CapableForm::Data { sender, receiver, data_len, checksum } => {
                out.put(sender.to_be_bytes())?;
                out.put(receiver.to_be_bytes())?;
                out.put(data_len.to_be_bytes())?;
                checksum.map_or(Some(()), |checksum| out.put(checksum.to_be_bytes()))
            }
        }
    }
}

impl CapableForm {
    /// Reads what stands behind the flags.
    fn parse(mut reader: Reader<'_>) -> Option<Self> {
        match reader.len() {
            0 => Some(Self::Syn),
            8 => reader.u64().map(Self::Key),
            16 => Some(Self::Keys { sender: reader.u64()?, receiver: reader.u64()? }),
            18 | 20 => Some(Self::Data {
                sender: reader.u64()?,
                receiver: reader.u64()?,
                data_len: reader.u16()?,
                checksum: reader.u16(),
            }),
            _ => None,
        }
    }
}
