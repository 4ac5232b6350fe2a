//! Small builders of the option areas that are sent without a control block.

use crate::seq::DataSeq;
use crate::wire::{
    CapableFlags, CapableForm, Dss, MpCapable, MpJoin, MpTcpRst, MptcpOption, OptionIter,
    OptionWriter, TcpOption, Version, WireSeq,
};

/// Appends an MPTCP option to an area that is known to have room for it.
pub(super) fn push(options: &mut OptionWriter, option: &MptcpOption<'_>, version: Version) {
    let fits = options.push_mptcp(option, version);
    debug_assert!(fits, "the option areas built here have room");
}

/// Appends a TCP option to an area that is known to have room for it.
pub(super) fn push_tcp(options: &mut OptionWriter, option: &TcpOption<'_>) {
    let fits = options.push(option);
    debug_assert!(fits, "the option areas built here have room");
}

/// A DSS with nothing but an 8-octet `DATA_ACK`.
pub(super) fn push_data_ack(options: &mut OptionWriter, data_ack: DataSeq) {
    let data_ack = Some(WireSeq::Full(data_ack.0));
    let dss = Dss { data_ack, mapping: None, data_fin: false };
    push(options, &MptcpOption::Dss(dss), Version::V1);
}

/// `MP_TCPRST` with a reason of RFC 8684 §3.6.
pub(super) fn push_reset(options: &mut OptionWriter, reason: u8, transient: bool) {
    let reset = MpTcpRst { transient, reason, reserved: 0 };
    push(options, &MptcpOption::Reset(reset), Version::V1);
}

/// `MP_FASTCLOSE` with the peer's key.
pub(super) fn push_fastclose(options: &mut OptionWriter, key: u64, version: Version) {
    push(options, &MptcpOption::Fastclose { key }, version);
}

/// The answer to `MP_CAPABLE` (RFC 8684 §3.1): our key, one algorithm.
pub(super) fn push_capable_syn_ack(
    options: &mut OptionWriter,
    version: Version,
    key: u64,
    checksum: bool,
) {
    let mut flags = CapableFlags::HMAC;
    flags.set(CapableFlags::CHECKSUM, checksum);
    let capable = MpCapable { version: version as u8, flags, form: CapableForm::Key(key) };
    push(options, &MptcpOption::Capable(capable), version);
}

/// What an option area says at the MPTCP level during a handshake. Two different handshake options
/// in one segment mean neither is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handshake {
    None,
    Capable(MpCapable),
    Join(MpJoin),
    /// `MP_CAPABLE` and `MP_JOIN`, or one of them twice: plain TCP.
    Contradictory,
}

/// Reads the handshake option of an option area.
pub(super) fn handshake(options: &[u8]) -> Handshake {
    let mut found = Handshake::None;
    for option in OptionIter::new(options).flatten() {
        let new = match option {
            TcpOption::Mptcp(MptcpOption::Capable(capable)) => Handshake::Capable(capable),
            TcpOption::Mptcp(MptcpOption::Join(join)) => Handshake::Join(join),
            _ => continue,
        };
        found = match found {
            Handshake::None => new,
            same if same == new => same,
            _ => return Handshake::Contradictory,
        };
    }
    found
}

/// True when an option area carries a DSS.
pub(super) fn has_dss(options: &[u8]) -> bool {
    let dss = |option| matches!(option, TcpOption::Mptcp(MptcpOption::Dss(_)));
    OptionIter::new(options).flatten().any(dss)
}
