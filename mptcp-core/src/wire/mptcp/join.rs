//! `MP_JOIN` (RFC 8684 §3.2) and `MP_TCPRST` (§3.6): how a subflow comes and why it went.
//!
//! Invariant: the form of an `MP_JOIN` is told by its length alone.

use super::super::cursor::Reader;
use super::super::options::OptionWriter;
use super::{subtype, subtype_octet};

/// B, in the lower half of the subtype octet.
const BACKUP: u8 = 0x1;
/// T, in the lower half of the subtype octet of `MP_TCPRST`.
const TRANSIENT: u8 = 0x1;
/// U, V and W.
const RESET_RESERVED: u8 = 0xe;

/// Opens a further subflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MpJoin {
    /// 12 bytes, on the SYN.
    Syn {
        /// The sender asks for this subflow to be used only when no other works.
        backup: bool,
        /// The sender's id for the address it sends from.
        address_id: u8,
        /// The receiver's token: which connection to join.
        token: u32,
        /// The sender's random number.
        nonce: u32,
    },
    /// 16 bytes, on the SYN/ACK.
    SynAck {
        /// As on the SYN, for the other direction.
        backup: bool,
        /// The sender's id for the address it answers from.
        address_id: u8,
        /// Left-most 64 bits of the responder's HMAC.
        hmac: u64,
        /// The sender's random number.
        nonce: u32,
    },
    /// 24 bytes, on the third segment.
    Ack {
        /// Left-most 160 bits of the initiator's HMAC.
        hmac: [u8; 20],
    },
}

impl MpJoin {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let backup = reader.u8()? & BACKUP != 0;
        let address_id = reader.u8()?;
        match reader.len() {
            8 => Some(Self::Syn { backup, address_id, token: reader.u32()?, nonce: reader.u32()? }),
            12 => {
                Some(Self::SynAck { backup, address_id, hmac: reader.u64()?, nonce: reader.u32()? })
            }
            20 => reader.array().map(|hmac| Self::Ack { hmac }),
            _ => None,
        }
    }

    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        let head = |backup| subtype_octet(subtype::MP_JOIN, if backup { BACKUP } else { 0 });
        match *self {
            Self::Syn { backup, address_id, token, nonce } => {
                out.put([head(backup), address_id])?;
                out.put(token.to_be_bytes())?;
                out.put(nonce.to_be_bytes())
            }
            Self::SynAck { backup, address_id, hmac, nonce } => {
                out.put([head(backup), address_id])?;
                out.put(hmac.to_be_bytes())?;
                out.put(nonce.to_be_bytes())
            }
            Self::Ack { hmac } => {
                out.put([head(false), 0])?;
                out.put(hmac)
            }
        }
    }
}

/// Why a subflow was reset. Version 1 only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MpTcpRst {
    /// T: the cause may pass, the peer may try this path again.
    pub transient: bool,
    /// One of [`reset_reason`], or unassigned.
    pub reason: u8,
    /// The reserved flags U (0x8), V (0x4) and W (0x2) as received; send 0. Other bits are not sent.
    pub reserved: u8,
}

/// Reason codes of `MP_TCPRST` (RFC 8684 §3.6).
pub mod reset_reason {
    /// No reason given.
    pub const UNSPECIFIED: u8 = 0x00;
    /// An MPTCP option was wrong.
    pub const MPTCP_SPECIFIC: u8 = 0x01;
    /// The sender cannot afford the subflow.
    pub const LACK_OF_RESOURCES: u8 = 0x02;
    /// The sender's policy forbids the subflow.
    pub const PROHIBITED: u8 = 0x03;
    /// Too much data to retransmit that other subflows have delivered already.
    pub const TOO_MUCH_OUTSTANDING_DATA: u8 = 0x04;
    /// The subflow was much worse than others.
    pub const UNACCEPTABLE_PERFORMANCE: u8 = 0x05;
    /// A middlebox made the signalling invalid.
    pub const MIDDLEBOX_INTERFERENCE: u8 = 0x06;

    /// Name of a reason in logs and metrics; those that are not assigned are one.
    #[must_use]
    pub const fn name(reason: u8) -> &'static str {
        match reason {
            UNSPECIFIED => "unspecified",
            MPTCP_SPECIFIC => "mptcp_specific",
            LACK_OF_RESOURCES => "lack_of_resources",
            PROHIBITED => "prohibited",
            TOO_MUCH_OUTSTANDING_DATA => "too_much_outstanding_data",
            UNACCEPTABLE_PERFORMANCE => "unacceptable_performance",
            MIDDLEBOX_INTERFERENCE => "middlebox_interference",
            _ => "unassigned",
        }
    }
}

impl MpTcpRst {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let [flags, reason] = reader.array()?;
        let reset =
            Self { transient: flags & TRANSIENT != 0, reason, reserved: flags & RESET_RESERVED };
        reader.is_empty().then_some(reset)
    }

    pub(super) fn encode(&self, out: &mut OptionWriter) -> Option<()> {
        let transient = if self.transient { TRANSIENT } else { 0 };
        let flags = (self.reserved & RESET_RESERVED) | transient;
        out.put([subtype_octet(subtype::MP_TCPRST, flags), self.reason])
    }
}
