//! Generators of every option type, for the wire tests. Borrowed data is leaked: tests are short.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V0), Just(Version::V1)]
}

pub(crate) fn capable() -> impl Strategy<Value = MpCapable> {
    let form = prop_oneof![
        Just(CapableForm::Syn),
        any::<u64>().prop_map(CapableForm::Key),
        any::<(u64, u64)>().prop_map(|(sender, receiver)| CapableForm::Keys { sender, receiver }),
        any::<(u64, u64, u16, Option<u16>)>().prop_map(|(sender, receiver, data_len, checksum)| {
            CapableForm::Data { sender, receiver, data_len, checksum }
        }),
    ];
    (0..16u8, any::<u8>(), form).prop_map(|(version, flags, form)| MpCapable {
        version,
        flags: CapableFlags::from_bits_retain(flags),
        form,
    })
}

pub(crate) fn join() -> impl Strategy<Value = MpJoin> {
    prop_oneof![
        any::<(bool, u8, u32, u32)>().prop_map(|(backup, address_id, token, nonce)| MpJoin::Syn {
            backup,
            address_id,
            token,
            nonce
        }),
        any::<(bool, u8, u64, u32)>().prop_map(|(backup, address_id, hmac, nonce)| {
            MpJoin::SynAck { backup, address_id, hmac, nonce }
        }),
        any::<[u8; 20]>().prop_map(|hmac| MpJoin::Ack { hmac }),
    ]
}

pub(crate) fn wire_seq() -> impl Strategy<Value = WireSeq> {
    prop_oneof![any::<u64>().prop_map(WireSeq::Full), any::<u32>().prop_map(WireSeq::Low)]
}

pub(crate) fn dss() -> impl Strategy<Value = Dss> {
    let mapping = (wire_seq(), any::<(u32, u16, Option<u16>)>())
        .prop_map(|(dsn, (ssn, len, checksum))| Mapping { dsn, ssn, len, checksum });
    let mapping = proptest::option::of(mapping);
    (proptest::option::of(wire_seq()), mapping, any::<bool>()).prop_map(
        |(data_ack, mapping, fin)| Dss { data_ack, mapping, data_fin: fin && mapping.is_some() },
    )
}

pub(crate) fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

/// What `version` can express.
pub(crate) fn add_addr(version: Version) -> impl Strategy<Value = AddAddr> {
    let proof = match version {
        Version::V0 => Just((false, None)).boxed(),
        Version::V1 => {
            prop_oneof![any::<u64>().prop_map(|hmac| (false, Some(hmac))), Just((true, None))]
                .boxed()
        }
    };
    (any::<u8>(), addr(), any::<Option<u16>>(), proof).prop_map(
        |(address_id, addr, port, (echo, hmac))| AddAddr { address_id, addr, port, echo, hmac },
    )
}

/// What `version` can express.
pub(crate) fn prio(version: Version) -> impl Strategy<Value = Prio> {
    (any::<bool>(), any::<Option<u8>>()).prop_map(move |(backup, address_id)| Prio {
        backup,
        address_id: if version == Version::V0 { address_id } else { None },
    })
}

pub(crate) fn reset() -> impl Strategy<Value = MpTcpRst> {
    (any::<bool>(), any::<u8>(), 0..8u8).prop_map(|(transient, reason, reserved)| MpTcpRst {
        transient,
        reason,
        reserved: reserved << 1,
    })
}

/// Subtype octet and up to 37 more bytes.
fn value(subtype: impl Strategy<Value = u8>) -> impl Strategy<Value = (u8, &'static [u8])> {
    (subtype, 0..16u8, vec(any::<u8>(), 0..38)).prop_map(|(subtype, low, mut rest)| {
        rest.insert(0, subtype << 4 | low);
        (subtype, &*rest.leak())
    })
}

/// Every variant but `Malformed`.
pub(crate) fn mptcp() -> impl Strategy<Value = MptcpOption<'static>> {
    let raw_len = prop_oneof![
        Just(6_usize),
        Just(8),
        Just(14),
        Just(16),
        Just(18),
        Just(20),
        Just(26),
        Just(28)
    ];
    let raw = raw_len.prop_flat_map(|len| vec(any::<u8>(), len)).prop_map(|mut data| {
        data[0] = 0x30 | data[0] & 0xf;
        RawAddAddr::new(data.leak()).expect("a length of ADD_ADDR")
    });
    let ids = vec(any::<u8>(), 1..38)
        .prop_map(|ids| AddressIds::new(ids.leak()).expect("at least one id"));
    prop_oneof![
        capable().prop_map(MptcpOption::Capable),
        join().prop_map(MptcpOption::Join),
        dss().prop_map(MptcpOption::Dss),
        raw.prop_map(MptcpOption::AddAddr),
        ids.prop_map(MptcpOption::RemoveAddr),
        any::<u64>().prop_map(|dsn| MptcpOption::Fail { dsn }),
        any::<u64>().prop_map(|key| MptcpOption::Fastclose { key }),
        reset().prop_map(MptcpOption::Reset),
        value(Just(0xf)).prop_map(|(_, data)| MptcpOption::Experimental { data }),
        value(9..0xf_u8).prop_map(|(subtype, data)| MptcpOption::Unknown { subtype, data }),
    ]
}

pub(crate) fn sack() -> impl Strategy<Value = TcpOption<'static>> {
    vec(any::<(u32, u32)>(), 1..5).prop_map(|blocks| {
        let blocks: Vec<_> = blocks.into_iter().map(|(l, r)| (SeqNum(l), SeqNum(r))).collect();
        let buffer = Box::leak(Box::new([0; 32]));
        TcpOption::Sack(SackBlocks::write(&blocks, buffer).expect("at least one block"))
    })
}

/// Every variant.
/// A request, or any cookie.
pub(crate) fn cookie() -> impl Strategy<Value = FastOpenCookie> {
    let octets = (2..=8usize).prop_flat_map(|pairs| vec(any::<u8>(), 2 * pairs));
    proptest::option::of(octets).prop_map(|octets| match octets {
        Some(octets) => FastOpenCookie::new(&octets).expect("4 to 16 octets"),
        None => FastOpenCookie::REQUEST,
    })
}

pub(crate) fn tcp_option() -> impl Strategy<Value = TcpOption<'static>> {
    let unknown_kind = any::<u8>()
        .prop_filter("a known kind", |kind| ![0, 1, 2, 3, 4, 5, 8, 30, 34].contains(kind));
    prop_oneof![
        any::<u16>().prop_map(TcpOption::MaxSegmentSize),
        any::<u8>().prop_map(TcpOption::WindowScale),
        Just(TcpOption::SackPermitted),
        sack(),
        any::<(u32, u32)>().prop_map(|(tsval, tsecr)| TcpOption::Timestamps { tsval, tsecr }),
        mptcp().prop_map(TcpOption::Mptcp),
        cookie().prop_map(TcpOption::FastOpen),
        (unknown_kind, vec(any::<u8>(), 0..39))
            .prop_map(|(kind, data)| TcpOption::Unknown { kind, data: data.leak() }),
    ]
}
