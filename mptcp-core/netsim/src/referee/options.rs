//! The options of one segment, read once.

use super::violation::{Faults, Rule};
use crate::packet::mptcp::{AddAddr, Capable, Dss, MptcpOption};
use crate::packet::{TcpOption, TcpSegment};

/// What the referee wants to know of a segment's options.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) mss: Option<u16>,
    pub(super) window_scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) sack: Option<&'a [u8]>,
    /// TSval and TSecr.
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) capable: Option<Capable>,
    /// Token and nonce of an MP_JOIN on a SYN.
    pub(super) join: Option<(u32, u32)>,
    /// HMAC and nonce of an MP_JOIN on a SYN/ACK.
    pub(super) join_answer: Option<(u64, u32)>,
    /// Address ID of an MP_JOIN on a SYN or SYN/ACK.
    pub(super) join_id: Option<u8>,
    /// HMAC of an MP_JOIN on a third ACK.
    pub(super) join_proof: Option<[u8; 20]>,
    pub(super) dss: Option<Dss>,
    pub(super) address: Option<AddAddr>,
    /// Address IDs of a REMOVE_ADDR.
    pub(super) removed: Option<&'a [u8]>,
    pub(super) fail: bool,
    /// Key of an MP_FASTCLOSE.
    pub(super) fastclose: Option<u64>,
    /// Any option of kind 30.
    pub(super) mptcp: bool,
}

impl<'a> Seen<'a> {
    /// Reads the options; malformed and repeated ones are faults.
    pub(super) fn read(segment: &TcpSegment<'a>, faults: &mut Faults) -> Self {
        let mut seen = Self::default();
        for option in segment.options() {
            let repeated = match option {
                Ok(TcpOption::MaxSegmentSize(mss)) => seen.mss.replace(mss).is_some(),
                Ok(TcpOption::WindowScale(shift)) => seen.window_scale.replace(shift).is_some(),
                Ok(TcpOption::SackPermitted) => core::mem::replace(&mut seen.sack_permitted, true),
                Ok(TcpOption::Sack(blocks)) => seen.sack.replace(blocks).is_some(),
                Ok(TcpOption::Timestamps { tsval, tsecr }) => {
                    seen.timestamps.replace((tsval, tsecr)).is_some()
                }
                Ok(TcpOption::Mptcp(option)) => {
                    if let MptcpOption::Other { subtype, data } = option {
                        faults.require(may_be(subtype, data), Rule::WellFormed, || {
                            format!("no MPTCP option of subtype {subtype} is {data:02x?}")
                        });
                    }
                    seen.add_mptcp(option)
                }
                Ok(TcpOption::Other { kind, data }) => {
                    // Those that are known have another length.
                    faults.require(!matches!(kind, 2..=5 | 8 | 30), Rule::WellFormed, || {
                        format!("no option of kind {kind} is {data:02x?}")
                    });
                    false
                }
                Err(error) => {
                    faults.add(Rule::WellFormed, error.to_string());
                    false
                }
            };
            if repeated {
                faults.add(Rule::WellFormed, format!("{option:?} repeats an option"));
            }
        }
        seen
    }

    fn add_mptcp(&mut self, option: MptcpOption<'a>) -> bool {
        self.mptcp = true;
        match option {
            // A SYN may offer both versions.
            MptcpOption::Capable(capable) => {
                self.capable = self.capable.filter(|held| held.version == 1).or(Some(capable));
                false
            }
            MptcpOption::JoinSyn { id, token, nonce } => {
                self.join_id = Some(id);
                self.join.replace((token, nonce)).is_some()
            }
            MptcpOption::JoinSynAck { id, hmac, nonce } => {
                self.join_id = Some(id);
                self.join_answer.replace((hmac, nonce)).is_some()
            }
            MptcpOption::JoinAck(hmac) => self.join_proof.replace(hmac).is_some(),
            MptcpOption::Dss(dss) => self.dss.replace(dss).is_some(),
            MptcpOption::AddAddr(address) => self.address.replace(address).is_some(),
            MptcpOption::RemoveAddr(ids) => self.removed.replace(ids).is_some(),
            MptcpOption::Fail => core::mem::replace(&mut self.fail, true),
            MptcpOption::Fastclose(key) => self.fastclose.replace(key).is_some(),
            MptcpOption::Other { .. } => false,
        }
    }
}

/// Whether an MPTCP option that was not read has a length that its subtype has. Announcements of version 0
/// have the family of the address in place of the flags.
fn may_be(subtype: u8, data: &[u8]) -> bool {
    let family = data.first().map_or(0, |lead| lead & 0x0f);
    match (subtype, data.len()) {
        (3, len) => matches!((family, len), (4, 6 | 8) | (6, 18 | 20)),
        (5, len) => matches!(len, 1 | 2),
        (8, len) => len == 2,
        (0..=2 | 4 | 6 | 7, _) => false,
        _ => true,
    }
}

/// The position whose low 32 bits are `low`, nearest to `near`; `None` before position 0.
pub(super) fn widen(low: u32, near: u64) -> Option<u64> {
    let [.., a, b, c, d] = near.to_be_bytes();
    let distance = low.wrapping_sub(u32::from_be_bytes([a, b, c, d])).cast_signed();
    near.checked_add_signed(distance.into())
}

#[cfg(test)]
mod tests {
    use super::widen;

    #[test]
    fn widening_takes_the_nearest() {
        assert_eq!(widen(5, 0), Some(5));
        assert_eq!(widen(u32::MAX, 0), None);
        assert_eq!(widen(3, 0xffff_fff0), Some(0x1_0000_0003));
        assert_eq!(widen(0xffff_fff0, 0x1_0000_0003), Some(0xffff_fff0));
        assert_eq!(widen(7, 0x5_0000_0000), Some(0x5_0000_0007));
    }
}
