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

/// A DSS with nothing but a `DATA_ACK` of 8 octets, or of 4.
pub(super) fn push_data_ack(options: &mut OptionWriter, data_ack: DataSeq, wide: bool) {
    let data_ack =
        Some(if wide { WireSeq::Full(data_ack.0) } else { WireSeq::Low(data_ack.0 as u32) });
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

/// The answer to `MP_CAPABLE` (RFC 8684 §3.1): our key, one algorithm. `denies`: the peer is not to join the
/// address it connected to, for which version 0 has no flag.
pub(super) fn push_capable_syn_ack(
    options: &mut OptionWriter,
    version: Version,
    key: u64,
    checksum: bool,
    denies: bool,
) {
    let mut flags = CapableFlags::HMAC;
    flags.set(CapableFlags::CHECKSUM, checksum);
    flags.set(CapableFlags::DENY_JOIN, denies && version == Version::V1);
    let capable = MpCapable { version: version as u8, flags, form: CapableForm::Key(key) };
    push(options, &MptcpOption::Capable(capable), version);
}

/// An `MP_CAPABLE` behind the SYN/ACK confirms what that chose, and nothing else (RFC 8684 §3.1).
pub(super) fn confirms(capable: &MpCapable, version: Version) -> bool {
    capable.version == version as u8
        && capable.flags.contains(CapableFlags::HMAC)
        && !capable.flags.contains(CapableFlags::EXTENSIBILITY)
}

/// What an option area says at the MPTCP level during a handshake. Two different handshake options
/// in one segment mean neither is used, except that a SYN may offer both versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Handshake {
    None,
    Capable(MpCapable),
    Join(MpJoin),
    /// `MP_CAPABLE` and `MP_JOIN`, or one of them twice: plain TCP.
    Contradictory,
}

/// Reads the handshake option of an option area.
pub(crate) fn handshake(options: &[u8]) -> Handshake {
    let mut found = Handshake::None;
    for option in OptionIter::new(options).mptcp() {
        let new = match option {
            MptcpOption::Capable(capable) => Handshake::Capable(capable),
            MptcpOption::Join(join) => Handshake::Join(join),
            _ => continue,
        };
        found = match found {
            Handshake::None => new,
            same if same == new => same,
            Handshake::Capable(other) if let Some(best) = newer_offer(&other, &new) => best,
            _ => return Handshake::Contradictory,
        };
    }
    found
}

/// Of the SYN offers of two versions the newer one.
fn newer_offer(one: &MpCapable, other: &Handshake) -> Option<Handshake> {
    let Handshake::Capable(other) = other else { return None };
    let offer = |c: &MpCapable| {
        matches!((c.version, c.form), (0, CapableForm::Key(_)) | (1.., CapableForm::Syn))
    };
    let dual = offer(one) && offer(other) && (one.version == 0) != (other.version == 0);
    let newer = if one.version > other.version { one } else { other };
    dual.then_some(Handshake::Capable(*newer))
}

/// True when an option area carries any option that only an established connection has.
pub(super) fn speaks_mptcp(options: &[u8]) -> bool {
    let speaks = |option| {
        matches!(
            option,
            MptcpOption::Dss(_)
                | MptcpOption::AddAddr(_)
                | MptcpOption::RemoveAddr(_)
                | MptcpOption::Prio(_)
        )
    };
    OptionIter::new(options).mptcp().any(speaks)
}

/// True when an option area maps text, which a `DATA_FIN` alone does not.
pub(super) fn maps_text(options: &[u8]) -> bool {
    let mapping = |option| match option {
        MptcpOption::Dss(Dss { mapping, .. }) => mapping,
        _ => None,
    };
    OptionIter::new(options).mptcp().filter_map(mapping).any(|m| m.ssn != 0 && m.len > 0)
}

/// True when an option area carries a DSS.
pub(super) fn has_dss(options: &[u8]) -> bool {
    OptionIter::new(options).mptcp().any(|option| matches!(option, MptcpOption::Dss(_)))
}
