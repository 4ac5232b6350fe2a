//! The MPTCP options a judge needs, version 1 (RFC 8684 §3): how connections are recognised and
//! what is mapped, acknowledged and signed. Everything else is kept as `Other`.

use core::net::IpAddr;

/// An MPTCP option (TCP kind 30).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MptcpOption<'a> {
    /// MP_CAPABLE (§3.1).
    Capable(Capable),
    /// MP_JOIN on a SYN: the token of the receiver of this packet (§3.2).
    JoinSyn {
        /// Address ID of the sender.
        id: u8,
        /// Names the connection at the receiver.
        token: u32,
        /// Random number of the sender.
        nonce: u32,
    },
    /// MP_JOIN on a SYN/ACK.
    JoinSynAck {
        /// Address ID of the sender.
        id: u8,
        /// The first 64 bits of the sender's HMAC.
        hmac: u64,
        /// Random number of the sender.
        nonce: u32,
    },
    /// MP_JOIN on the third ACK: the first 160 bits of the sender's HMAC.
    JoinAck([u8; 20]),
    /// DSS (§3.3).
    Dss(Dss),
    /// ADD_ADDR (§3.4.1).
    AddAddr(AddAddr),
    /// REMOVE_ADDR (§3.4.2): the Address IDs, at least one.
    RemoveAddr(&'a [u8]),
    /// MP_FAIL: the sender leaves MPTCP or this subflow (§3.7).
    Fail,
    /// MP_FASTCLOSE (§3.5): the key of the receiver of this packet.
    Fastclose(u64),
    /// Any other subtype, or a known one with a length that is not its own.
    Other {
        /// High nibble of the third byte.
        subtype: u8,
        /// The option from its third byte on.
        data: &'a [u8],
    },
}

/// MP_CAPABLE in any of its forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capable {
    /// Low nibble of the third byte.
    pub version: u8,
    /// The flags A to H.
    pub flags: u8,
    /// Key of the sender of this packet; absent on a version 1 SYN.
    pub sender_key: Option<u64>,
    /// Key of the receiver of this packet; on the third ACK and on first data.
    pub receiver_key: Option<u64>,
    /// Data-Level Length, when the option maps the first data.
    pub data_len: Option<u16>,
    /// Checksum of that mapping.
    pub checksum: Option<u16>,
}

impl Capable {
    /// The A flag: checksums are asked for.
    #[must_use]
    pub const fn asks_checksum(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// ADD_ADDR: another address of the sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddAddr {
    /// The Address ID.
    pub id: u8,
    /// The address.
    pub address: IpAddr,
    /// The port, when it is not that of the connection.
    pub port: Option<u16>,
    /// The last 64 bits of the sender's HMAC; absent on an echo.
    pub hmac: Option<u64>,
}

/// A data sequence number or DATA_ACK as it was on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireSeq {
    /// All 64 bits.
    Full(u64),
    /// The low 32 bits.
    Low(u32),
}

/// The Data Sequence Signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dss {
    /// The F flag.
    pub data_fin: bool,
    /// DATA_ACK, when the A flag is set.
    pub data_ack: Option<WireSeq>,
    /// The mapping, when the M flag is set.
    pub mapping: Option<Mapping>,
}

/// A data sequence mapping: `len` octets from subflow sequence `ssn` are `dsn` onwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Data sequence number of the first octet.
    pub dsn: WireSeq,
    /// Subflow sequence number relative to the subflow's initial one; 0 for a DATA_FIN alone.
    pub ssn: u32,
    /// Octets, a DATA_FIN included; 0 is the infinite mapping.
    pub len: u16,
    /// The DSS checksum, if one follows.
    pub checksum: Option<u16>,
}

impl<'a> MptcpOption<'a> {
    /// Reads a whole option, kind and length included. Never fails: what is not understood is `Other`.
    #[must_use]
    pub fn parse(whole: &'a [u8]) -> Self {
        let data = whole.get(2..).unwrap_or_default();
        let subtype = data.first().map_or(0xff, |byte| byte >> 4);
        let known = match (subtype, whole.len()) {
            (0, 4 | 12 | 20 | 22 | 24) => Capable::parse(data).map(Self::Capable),
            (1, 12) => word(data, 2)
                .zip(word(data, 6))
                .zip(data.get(1).copied())
                .map(|((token, nonce), id)| Self::JoinSyn { id, token, nonce }),
            (1, 16) => field(data, 2)
                .map(u64::from_be_bytes)
                .zip(word(data, 10))
                .zip(data.get(1).copied())
                .map(|((hmac, nonce), id)| Self::JoinSynAck { id, hmac, nonce }),
            (1, 24) => field(data, 2).map(Self::JoinAck),
            (2, _) => Dss::parse(data).map(Self::Dss),
            (3, _) => AddAddr::parse(data).map(Self::AddAddr),
            (4, 4..) => data.get(1..).map(Self::RemoveAddr),
            (6, 12) => Some(Self::Fail),
            (7, 12) => field(data, 2).map(u64::from_be_bytes).map(Self::Fastclose),
            _ => None,
        };
        known.unwrap_or(Self::Other { subtype, data })
    }
}

impl Capable {
    fn parse(data: &[u8]) -> Option<Self> {
        let [lead, flags, ..] = *data else { return None };
        Some(Self {
            version: lead & 0x0f,
            flags,
            sender_key: field(data, 2).map(u64::from_be_bytes),
            receiver_key: field(data, 10).map(u64::from_be_bytes),
            data_len: field(data, 18).map(u16::from_be_bytes),
            checksum: field(data, 20).map(u16::from_be_bytes),
        })
    }
}

impl AddAddr {
    fn parse(data: &[u8]) -> Option<Self> {
        let [lead, id, rest @ ..] = data else { return None };
        let echo = lead & 1 != 0;
        let (address, rest) = match rest.len().saturating_sub(if echo { 0 } else { 8 }) {
            4 | 6 => (IpAddr::from(field::<4>(rest, 0)?), rest.get(4..)?),
            16 | 18 => (IpAddr::from(field::<16>(rest, 0)?), rest.get(16..)?),
            _ => return None,
        };
        let has_port = rest.len() % 8 == 2;
        let port = if has_port { Some(u16::from_be_bytes(field(rest, 0)?)) } else { None };
        let hmac = if echo { None } else { Some(field(rest, if has_port { 2 } else { 0 })?) };
        Some(Self { id: *id, address, port, hmac: hmac.map(u64::from_be_bytes) })
    }
}

impl Dss {
    fn parse(data: &[u8]) -> Option<Self> {
        let [_, flags, ..] = *data else { return None };
        let (has_ack, long_ack) = (flags & 0x01 != 0, flags & 0x02 != 0);
        let (has_map, long_dsn) = (flags & 0x04 != 0, flags & 0x08 != 0);
        let mut at = 2;
        let data_ack = if has_ack { Some(wire_seq(data, &mut at, long_ack)?) } else { None };
        let mapping = if has_map {
            let dsn = wire_seq(data, &mut at, long_dsn)?;
            let ssn = u32::from_be_bytes(field(data, at)?);
            let len = u16::from_be_bytes(field(data, at + 4)?);
            let checksum = field(data, at + 6).map(u16::from_be_bytes);
            at += if checksum.is_some() { 8 } else { 6 };
            Some(Mapping { dsn, ssn, len, checksum })
        } else {
            None
        };
        (at == data.len()).then_some(Self { data_fin: flags & 0x10 != 0, data_ack, mapping })
    }
}

fn wire_seq(data: &[u8], at: &mut usize, long: bool) -> Option<WireSeq> {
    let value = if long {
        WireSeq::Full(u64::from_be_bytes(field(data, *at)?))
    } else {
        WireSeq::Low(u32::from_be_bytes(field(data, *at)?))
    };
    *at += if long { 8 } else { 4 };
    Some(value)
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    field(data, at).map(u32::from_be_bytes)
}

fn field<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_of_a_dss_is_told_by_its_flags() {
        for flags in 0..32_u8 {
            for checksum in [0, 2] {
                let ack = if flags & 1 == 0 { 0 } else { 4 << (flags >> 1 & 1) };
                let map = if flags & 4 == 0 { 0 } else { (4 << (flags >> 3 & 1)) + 6 + checksum };
                let len = 4 + ack + map;
                let mut whole = vec![0x11; len];
                whole[..4].copy_from_slice(&[30, u8::try_from(len).unwrap(), 0x20, flags]);
                let MptcpOption::Dss(dss) = MptcpOption::parse(&whole) else {
                    panic!("flags {flags:#x} with {len} bytes was not read")
                };
                assert_eq!(dss.data_fin, flags & 0x10 != 0);
                assert_eq!(dss.data_ack.is_some(), ack > 0);
                assert_eq!(dss.mapping.is_some(), map > 0);
                assert_eq!(dss.mapping.and_then(|m| m.checksum).is_some(), map > 0 && checksum > 0);
                whole.push(0);
                assert!(matches!(
                    MptcpOption::parse(&whole),
                    MptcpOption::Other { subtype: 2, .. }
                ));
            }
        }
    }

    #[test]
    fn capable_gives_the_keys_it_has() {
        let mut whole = vec![30, 22, 0x01, 0x01];
        whole.extend((1..=18).collect::<Vec<u8>>());
        let MptcpOption::Capable(capable) = MptcpOption::parse(&whole) else { panic!() };
        assert_eq!(capable.version, 1);
        assert_eq!(capable.sender_key, Some(0x0102_0304_0506_0708));
        assert_eq!(capable.receiver_key, Some(0x090a_0b0c_0d0e_0f10));
        assert_eq!(capable.data_len, Some(0x1112));
        assert_eq!(capable.checksum, None);
        whole[1] = 24;
        whole[3] = 0x81;
        whole.extend([7, 9]);
        let MptcpOption::Capable(capable) = MptcpOption::parse(&whole) else { panic!() };
        assert_eq!((capable.checksum, capable.asks_checksum()), (Some(0x0709), true));
        let MptcpOption::Capable(syn) = MptcpOption::parse(&[30, 4, 1, 1]) else { panic!() };
        assert_eq!((syn.sender_key, syn.data_len), (None, None));
        assert!(matches!(MptcpOption::parse(&[30, 5, 1, 1, 0]), MptcpOption::Other { .. }));
    }
    #[test]
    fn an_announced_address_has_port_and_hmac_by_its_length() {
        let (v4, v6) = ([192, 0, 2, 9], [0x20; 16]);
        let (port, hmac) = ([0x1f, 0x90], [1; 8]);
        let option = |echo: bool, parts: &[&[u8]]| {
            let body = parts.concat();
            let len = u8::try_from(body.len() + 4).unwrap();
            [&[30, len, 0x30 | u8::from(echo), 5], &body[..]].concat()
        };
        for (address, octets) in [(IpAddr::from(v4), &v4[..]), (IpAddr::from(v6), &v6[..])] {
            for (echo, with_port) in [(true, true), (true, false), (false, true), (false, false)] {
                let port = if with_port { &port[..] } else { &[] };
                let whole = option(echo, &[octets, port, if echo { &[] } else { &hmac }]);
                let expected = AddAddr {
                    id: 5,
                    address,
                    port: with_port.then_some(8080),
                    hmac: (!echo).then_some(0x0101_0101_0101_0101),
                };
                assert_eq!(MptcpOption::parse(&whole), MptcpOption::AddAddr(expected));
            }
        }
        let short = option(false, &[&v4]);
        assert!(matches!(MptcpOption::parse(&short), MptcpOption::Other { subtype: 3, .. }));
    }
}
