//! The nine MPTCP subtypes in both versions: known bytes, round trips, every length.

use crate::strategies::{add_addr, mptcp, prio, version};
use core::net::{IpAddr, Ipv6Addr};
use mptcp_core::wire::mptcp::subtype;
use mptcp_core::wire::*;
use proptest::prelude::*;

const BOTH: [Version; 2] = [Version::V0, Version::V1];

/// The one option that `bytes` hold, kind and length included.
fn read(bytes: &[u8]) -> MptcpOption<'_> {
    let mut options = OptionIter::new(bytes);
    let Some(Ok(TcpOption::Mptcp(option))) = options.next() else {
        panic!("no MPTCP option in {bytes:x?}")
    };
    assert_eq!(options.next(), None);
    option
}

fn bytes_of(option: &MptcpOption<'_>) -> Vec<u8> {
    let mut writer = OptionWriter::new();
    assert!(writer.push(&TcpOption::Mptcp(*option)), "{option:?}");
    writer.as_bytes().to_vec()
}

/// Bytes and meaning agree both ways.
fn known(bytes: &[u8], option: MptcpOption<'_>) {
    assert_eq!(read(bytes), option);
    assert_eq!(bytes_of(&option), bytes);
    assert_eq!(option.subtype(), bytes[2] >> 4);
}

/// An option of `len` bytes in all, filled with 0x5a behind the subtype.
fn of_len(subtype: u8, len: u8) -> Vec<u8> {
    let mut bytes = vec![0x5a; usize::from(len)];
    bytes[..3].copy_from_slice(&[30, len, subtype << 4]);
    bytes
}

#[test]
fn capable_known_bytes() {
    let capable = |version, flags, form| {
        let flags = CapableFlags::from_bits_retain(flags);
        MptcpOption::Capable(MpCapable { version, flags, form })
    };
    known(&[30, 4, 0x01, 0x81], capable(1, 0x81, CapableForm::Syn));
    let key_a: u64 = 0x0102_0304_0506_0708;
    let key_b: u64 = 0x1112_1314_1516_1718;
    let a = key_a.to_be_bytes();
    let b = key_b.to_be_bytes();
    let bytes = |head: [u8; 4], rest: &[&[u8]]| [&head[..], &rest.concat()].concat();
    known(&bytes([30, 12, 0x00, 0x01], &[&a]), capable(0, 0x01, CapableForm::Key(key_a)));
    let keys = CapableForm::Keys { sender: key_a, receiver: key_b };
    known(&bytes([30, 20, 0x01, 0x21], &[&a, &b]), capable(1, 0x21, keys));
    for (len, checksum, tail) in [(22, None, &[][..]), (24, Some(0xa5c9), &[0xa5, 0xc9])] {
        let form = CapableForm::Data { sender: key_a, receiver: key_b, data_len: 100, checksum };
        known(&bytes([30, len, 0x01, 0xff], &[&a, &b, &[0, 100], tail]), capable(1, 0xff, form));
    }
}

#[test]
fn join_known_bytes() {
    known(
        &[30, 12, 0x11, 3, 0x84, 0x06, 0x83, 0xdd, 0xcd, 0x27, 0xdf, 0xa9],
        MptcpOption::Join(MpJoin::Syn {
            backup: true,
            address_id: 3,
            token: 0x8406_83dd,
            nonce: 0xcd27_dfa9,
        }),
    );
    known(
        &[30, 16, 0x10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        MptcpOption::Join(MpJoin::SynAck {
            backup: false,
            address_id: 0,
            hmac: 0x0102_0304_0506_0708,
            nonce: 0x090a_0b0c,
        }),
    );
    let hmac = core::array::from_fn(|i| u8::try_from(i).unwrap());
    let bytes = [&[30, 24, 0x10, 0], &hmac[..]].concat();
    known(&bytes, MptcpOption::Join(MpJoin::Ack { hmac }));
}

#[test]
fn every_width_of_a_dss_with_and_without_checksum() {
    let acks = [None, Some(WireSeq::Low(0x0a0b_0c0d)), Some(WireSeq::Full(0x0102_0304_0506_0708))];
    let numbers = [None, Some(WireSeq::Low(7)), Some(WireSeq::Full(9))];
    let mut lengths = Vec::new();
    for data_ack in acks {
        for dsn in numbers {
            for checksum in [None, Some(0xc745)] {
                for data_fin in [false, true] {
                    let mapping = dsn.map(|dsn| Mapping { dsn, ssn: 1, len: 16, checksum });
                    let data_fin = data_fin && mapping.is_some();
                    let dss = Dss { data_ack, mapping, data_fin };
                    let bytes = bytes_of(&MptcpOption::Dss(dss));
                    assert_eq!(read(&bytes), MptcpOption::Dss(dss));
                    assert_eq!(bytes.len(), dss.option_len());
                    lengths.push((data_ack.is_some(), dsn.is_some(), bytes.len()));
                }
            }
        }
    }
    lengths.sort_unstable();
    lengths.dedup();
    let acks_only = [(true, false, 8), (true, false, 12)];
    let maps_only = [14, 16, 18, 20].map(|len| (false, true, len));
    let both = [18, 20, 22, 24, 26, 28].map(|len| (true, true, len));
    let all = [&[(false, false, 4)][..], &maps_only, &acks_only, &both].concat();
    assert_eq!(lengths, all);
}

#[test]
fn dss_known_bytes() {
    // DSN 80, length 11, DATA_FIN: the RFC's example of ten octets and a FIN.
    let mapping = Mapping { dsn: WireSeq::Low(80), ssn: 1, len: 11, checksum: None };
    let fin = Dss { data_ack: None, mapping: Some(mapping), data_fin: true };
    let bytes = [30, 14, 0x20, 0x14, 0, 0, 0, 80, 0, 0, 0, 1, 0, 11];
    known(&bytes, MptcpOption::Dss(fin));
    // The infinite mapping: length 0.
    let mapping = Mapping { dsn: WireSeq::Full(1), ssn: 2, len: 0, checksum: Some(0) };
    let infinite = Dss { data_ack: None, mapping: Some(mapping), data_fin: false };
    let bytes = [30, 20, 0x20, 0x0c, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0];
    known(&bytes, MptcpOption::Dss(infinite));
}

#[test]
fn dss_flags_without_their_field_and_reserved_bits_are_ignored() {
    let ack = Dss { data_ack: Some(WireSeq::Low(5)), ..Dss::default() };
    // m and F without M, reserved bits.
    assert_eq!(read(&[30, 8, 0x2f, 0xf9, 0, 0, 0, 5]), MptcpOption::Dss(ack));
    // a without A.
    assert_eq!(read(&[30, 4, 0x20, 0x02]), MptcpOption::Dss(Dss::default()));
    let unsent = Dss { data_fin: true, ..ack };
    assert_eq!(bytes_of(&MptcpOption::Dss(unsent)), [30, 8, 0x20, 0x01, 0, 0, 0, 5]);
}

#[test]
fn a_dss_whose_length_denies_its_flags_is_malformed() {
    for flags in 0..=0x1fu8 {
        let ack = if flags & 1 != 0 { 4 + 2 * (flags & 2) } else { 0 };
        let map = if flags & 4 != 0 { 10 + (flags & 8) / 2 } else { 0 };
        for len in 4..=40 {
            let mut bytes = of_len(subtype::DSS, len);
            bytes[3] = flags;
            let base = 4 + ack + map;
            let right = len == base || (map > 0 && len == base + 2);
            let malformed = MptcpOption::Malformed { subtype: subtype::DSS, data: &bytes[2..] };
            assert_eq!(read(&bytes) == malformed, !right, "flags {flags:x} length {len}");
        }
    }
    assert_eq!(read(&[30, 3, 0x20]), MptcpOption::Malformed { subtype: 2, data: &[0x20] });
}

#[test]
fn every_other_subtype_knows_its_lengths() {
    for (subtype, right) in [
        (subtype::MP_CAPABLE, &[4, 12, 20, 22, 24][..]),
        (subtype::MP_JOIN, &[12, 16, 24]),
        (subtype::ADD_ADDR, &[8, 10, 16, 18, 20, 22, 28, 30]),
        (subtype::MP_PRIO, &[3, 4]),
        (subtype::MP_FAIL, &[12]),
        (subtype::MP_FASTCLOSE, &[12]),
        (subtype::MP_TCPRST, &[4]),
    ] {
        for len in 3..=40 {
            let bytes = of_len(subtype, len);
            let malformed = MptcpOption::Malformed { subtype, data: &bytes[2..] };
            assert_eq!(read(&bytes) == malformed, !right.contains(&len), "{subtype} {len}");
            assert_eq!(read(&bytes).subtype(), subtype);
        }
    }
    assert_eq!(read(&[30, 3, 0x40]), MptcpOption::Malformed { subtype: 4, data: &[0x40] });
    for len in 4..=40 {
        let bytes = of_len(subtype::REMOVE_ADDR, len);
        let MptcpOption::RemoveAddr(ids) = read(&bytes) else { panic!("{len}") };
        assert_eq!(ids.iter().len(), usize::from(len) - 3);
        assert!(ids.into_iter().all(|id| id == 0x5a));
    }
}

#[test]
fn add_addr_known_bytes() {
    let v4 = IpAddr::from([192, 0, 2, 1]);
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let v6_octets = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let hmac = [0x48, 0x5b, 0xed, 0xf7, 0x04, 0x75, 0x26, 0xe4];
    let number = Some(u64::from_be_bytes(hmac));
    let check = |version, bytes: &[&[u8]], expected: AddAddr| {
        let bytes = bytes.concat();
        let MptcpOption::AddAddr(raw) = read(&bytes) else { panic!("{bytes:x?}") };
        assert_eq!(raw.decode(version), Some(expected));
        let mut writer = OptionWriter::new();
        assert!(expected.encode(&mut writer, version));
        assert_eq!(writer.as_bytes(), bytes);
        assert!(read(&bytes).is_in(version));
    };
    let plain =
        |address_id, addr, port| AddAddr { address_id, addr, port, echo: false, hmac: None };
    let v0 = Version::V0;
    check(v0, &[&[30, 8, 0x34, 3, 192, 0, 2, 1]], plain(3, v4, None));
    check(v0, &[&[30, 10, 0x34, 3, 192, 0, 2, 1, 0x1f, 0x90]], plain(3, v4, Some(8080)));
    check(v0, &[&[30, 20, 0x36, 5], &v6_octets], plain(5, v6, None));
    check(v0, &[&[30, 22, 0x36, 5], &v6_octets, &[0, 80]], plain(5, v6, Some(80)));
    let proven = |add_addr| AddAddr { hmac: number, ..add_addr };
    let echo = |add_addr| AddAddr { echo: true, ..add_addr };
    let v1 = Version::V1;
    let port = [0x1f, 0x90];
    let head4 = |len: u8, low: u8| [30, len, 0x30 | low, 3, 192, 0, 2, 1];
    check(v1, &[&head4(16, 0), &hmac], proven(plain(3, v4, None)));
    check(v1, &[&head4(18, 0), &port, &hmac], proven(plain(3, v4, Some(8080))));
    check(v1, &[&head4(8, 1)], echo(plain(3, v4, None)));
    check(v1, &[&head4(10, 1), &port], echo(plain(3, v4, Some(8080))));
    check(v1, &[&[30, 28, 0x30, 5], &v6_octets, &hmac], proven(plain(5, v6, None)));
    check(v1, &[&[30, 30, 0x30, 5], &v6_octets, &port, &hmac], proven(plain(5, v6, Some(8080))));
    check(v1, &[&[30, 20, 0x31, 5], &v6_octets], echo(plain(5, v6, None)));
    check(v1, &[&[30, 22, 0x31, 5], &v6_octets, &port], echo(plain(5, v6, Some(8080))));
    // An echo that repeats the HMAC is accepted.
    check(v1, &[&head4(16, 1), &hmac], echo(proven(plain(3, v4, None))));
}

#[test]
fn add_addr_that_a_version_does_not_have() {
    let decode = |bytes: &[u8], version| {
        let MptcpOption::AddAddr(raw) = read(bytes) else { panic!("{bytes:x?}") };
        raw.decode(version)
    };
    for low in 0..16u8 {
        for len in [8, 10, 16, 18, 20, 22, 28, 30] {
            let mut bytes = of_len(subtype::ADD_ADDR, len);
            bytes[2] |= low;
            let v0 = matches!((low, len), (4, 8 | 10) | (6, 20 | 22));
            assert_eq!(decode(&bytes, Version::V0).is_some(), v0, "v0 {low} {len}");
            let proven = matches!(len, 16 | 18 | 28 | 30);
            let decoded = decode(&bytes, Version::V1);
            assert_eq!(decoded.is_some(), proven || low & 1 == 1, "v1 {low} {len}");
            if let Some(decoded) = decoded {
                assert_eq!((decoded.echo, decoded.hmac.is_some()), (low & 1 == 1, proven));
                assert_eq!(decoded.addr.is_ipv4(), len < 20);
                assert_eq!(decoded.port.is_some(), len % 4 == 2);
            }
        }
    }
    let addr = IpAddr::from([10, 0, 0, 1]);
    let plain = AddAddr { address_id: 1, addr, port: None, echo: false, hmac: None };
    let mut writer = OptionWriter::new();
    assert!(!plain.encode(&mut writer, Version::V1), "an announcement needs its HMAC");
    assert!(!AddAddr { echo: true, ..plain }.encode(&mut writer, Version::V0));
    assert!(!AddAddr { hmac: Some(1), ..plain }.encode(&mut writer, Version::V0));
    assert!(writer.is_empty());
}

#[test]
fn the_hmac_of_an_address_covers_id_address_and_port() {
    let mut buffer = [0xff; 19];
    let v4 = IpAddr::from([192, 0, 2, 1]);
    let add_addr = |addr, port| AddAddr { address_id: 3, addr, port, echo: false, hmac: None };
    assert_eq!(add_addr(v4, None).hmac_message(&mut buffer), [3, 192, 0, 2, 1, 0, 0]);
    let with_port = add_addr(v4, Some(8080));
    assert_eq!(with_port.hmac_message(&mut buffer), [3, 192, 0, 2, 1, 0x1f, 0x90]);
    let v6 = add_addr(Ipv6Addr::LOCALHOST.into(), Some(80));
    let expected = [&[3][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 80]].concat();
    assert_eq!(v6.hmac_message(&mut buffer), expected);
}

#[test]
fn prio_by_version() {
    let decode = |bytes: &[u8], version| {
        let MptcpOption::Prio(raw) = read(bytes) else { panic!("{bytes:x?}") };
        raw.decode(version)
    };
    let own = |backup| Some(Prio { backup, address_id: None });
    for version in BOTH {
        assert_eq!(decode(&[30, 3, 0x51], version), own(true));
        assert_eq!(decode(&[30, 3, 0x5e], version), own(false), "reserved bits");
    }
    let other = Prio { backup: true, address_id: Some(7) };
    assert_eq!(decode(&[30, 4, 0x51, 7], Version::V0), Some(other));
    assert_eq!(decode(&[30, 4, 0x51, 7], Version::V1), None);
    let mut writer = OptionWriter::new();
    assert!(!other.encode(&mut writer, Version::V1));
    assert!(other.encode(&mut writer, Version::V0));
    assert_eq!(writer.as_bytes(), [30, 4, 0x51, 7]);
}

#[test]
fn remove_fail_fastclose_and_reset_known_bytes() {
    let ids = AddressIds::new(&[9, 0, 255]).unwrap();
    known(&[30, 6, 0x40, 9, 0, 255], MptcpOption::RemoveAddr(ids));
    assert_eq!(AddressIds::new(&[]), None);
    let number = 0x0102_0304_0506_0708;
    known(&[30, 12, 0x60, 0, 1, 2, 3, 4, 5, 6, 7, 8], MptcpOption::Fail { dsn: number });
    known(&[30, 12, 0x70, 0, 1, 2, 3, 4, 5, 6, 7, 8], MptcpOption::Fastclose { key: number });
    let reset =
        |transient, reason, reserved| MptcpOption::Reset(MpTcpRst { transient, reason, reserved });
    known(&[30, 4, 0x80, 1], reset(false, reset_reason::MPTCP_SPECIFIC, 0));
    known(&[30, 4, 0x81, 3], reset(true, reset_reason::PROHIBITED, 0));
    known(&[30, 4, 0x8f, 99], reset(true, 99, 0xe));
    known(&[30, 5, 0xf3, 1, 2], MptcpOption::Experimental { data: &[0xf3, 1, 2] });
    known(&[30, 4, 0x93, 1], MptcpOption::Unknown { subtype: 9, data: &[0x93, 1] });
}

#[test]
fn reserved_bits_are_ignored_on_receipt() {
    assert_eq!(read(&[30, 12, 0x6f, 0xff, 0, 0, 0, 0, 0, 0, 0, 1]), MptcpOption::Fail { dsn: 1 });
    assert_eq!(
        read(&[30, 12, 0x1e, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
        MptcpOption::Join(MpJoin::Syn { backup: false, address_id: 1, token: 2, nonce: 3 })
    );
    let ids = AddressIds::new(&[1]).unwrap();
    assert_eq!(read(&[30, 4, 0x4f, 1]), MptcpOption::RemoveAddr(ids));
}

#[test]
fn push_mptcp_refuses_what_the_version_does_not_have() {
    let capable = |version, form| {
        MptcpOption::Capable(MpCapable { version, flags: CapableFlags::HMAC, form })
    };
    let data = CapableForm::Data { sender: 1, receiver: 2, data_len: 3, checksum: None };
    let AddrCase { raw_v0, raw_v1 } = AddrCase::new();
    let cases = [
        (capable(1, CapableForm::Syn), false, true),
        (capable(0, CapableForm::Syn), false, false),
        (capable(0, CapableForm::Key(1)), true, false),
        (capable(1, CapableForm::Key(1)), false, true),
        (capable(1, data), false, true),
        (capable(0, data), false, false),
        (capable(2, CapableForm::Syn), false, false),
        (MptcpOption::AddAddr(raw_v0), true, false),
        (MptcpOption::AddAddr(raw_v1), false, true),
        (MptcpOption::Reset(MpTcpRst::default()), false, true),
        (read(&[30, 4, 0x51, 7]), true, false),
        (read(&[30, 3, 0x51]), true, true),
        (MptcpOption::Fail { dsn: 1 }, true, true),
        (MptcpOption::Dss(Dss::default()), true, true),
        (MptcpOption::Unknown { subtype: 9, data: &[0x90] }, false, false),
        (MptcpOption::Malformed { subtype: 1, data: &[0x10] }, false, false),
    ];
    for (option, in_v0, in_v1) in cases {
        for (version, expected) in [(Version::V0, in_v0), (Version::V1, in_v1)] {
            let mut writer = OptionWriter::new();
            assert_eq!(writer.push_mptcp(&option, version), expected, "{option:?} {version:?}");
            assert_eq!(writer.is_empty(), !expected);
        }
    }
    let mut writer = OptionWriter::new();
    assert!(!writer.push(&TcpOption::Mptcp(capable(16, CapableForm::Syn))), "a 4-bit field");
}

struct AddrCase {
    raw_v0: RawAddAddr<'static>,
    raw_v1: RawAddAddr<'static>,
}

impl AddrCase {
    fn new() -> Self {
        let raw = |data| RawAddAddr::new(data).expect("a length of ADD_ADDR");
        Self { raw_v0: raw(&[0x34, 1, 10, 0, 0, 1]), raw_v1: raw(&[0x31, 1, 10, 0, 0, 1]) }
    }
}

#[test]
fn versions_by_number() {
    assert_eq!(Version::from_u8(0), Some(Version::V0));
    assert_eq!(Version::from_u8(1), Some(Version::V1));
    assert!((2..=255).all(|number| Version::from_u8(number).is_none()));
}

#[test]
fn a_version_0_third_ack_with_an_address_fills_40_bytes() {
    let mut writer = OptionWriter::new();
    assert!(writer.push_timestamps(1, 2));
    let capable = MptcpOption::Capable(MpCapable {
        version: 0,
        flags: CapableFlags::HMAC,
        form: CapableForm::Keys { sender: 1, receiver: 2 },
    });
    assert!(writer.push_mptcp(&capable, Version::V0));
    let addr = IpAddr::from([10, 2, 0, 2]);
    let add_addr = AddAddr { address_id: 3, addr, port: None, echo: false, hmac: None };
    assert!(add_addr.encode(&mut writer, Version::V0));
    assert_eq!(writer.len(), 40);
    let options: Vec<_> = writer.iter().map(Result::unwrap).collect();
    assert_eq!(options[1], TcpOption::Mptcp(capable));
    let TcpOption::Mptcp(MptcpOption::AddAddr(raw)) = options[2] else { panic!("{options:?}") };
    assert_eq!(raw.decode(Version::V0), Some(add_addr));
}

proptest! {
    #[test]
    fn every_option_reads_as_it_was_written_and_versions_are_consistent(option in mptcp()) {
        let bytes = bytes_of(&option);
        prop_assert_eq!(read(&bytes), option);
        for version in BOTH {
            let mut writer = OptionWriter::new();
            prop_assert_eq!(writer.push_mptcp(&option, version), option.is_in(version));
        }
    }

    #[test]
    fn an_address_decodes_as_it_was_encoded(
        (version, add_addr) in version().prop_flat_map(|version| (Just(version), add_addr(version))),
    ) {
        let mut writer = OptionWriter::new();
        prop_assert!(add_addr.encode(&mut writer, version));
        let MptcpOption::AddAddr(raw) = read(writer.as_bytes()) else {
            return Err(TestCaseError::fail("not an ADD_ADDR"));
        };
        prop_assert_eq!(raw.decode(version), Some(add_addr));
        let other = if version == Version::V0 { Version::V1 } else { Version::V0 };
        prop_assert_eq!(raw.decode(other), None, "no address means the same in both");
    }

    #[test]
    fn a_priority_decodes_as_it_was_encoded(
        (version, prio) in version().prop_flat_map(|version| (Just(version), prio(version))),
    ) {
        let mut writer = OptionWriter::new();
        prop_assert!(prio.encode(&mut writer, version));
        let MptcpOption::Prio(raw) = read(writer.as_bytes()) else {
            return Err(TestCaseError::fail("not an MP_PRIO"));
        };
        prop_assert_eq!(raw.decode(version), Some(prio));
    }

    #[test]
    fn encoding_refuses_only_what_does_not_fit(
        (version, add_addr) in version().prop_flat_map(|version| (Just(version), add_addr(version))),
        before in 0..=40usize,
    ) {
        let mut alone = OptionWriter::new();
        prop_assert!(add_addr.encode(&mut alone, version));
        let mut writer = OptionWriter::new();
        (0..before).for_each(|_| assert!(writer.nop()));
        let fits = before + alone.len() <= 40;
        prop_assert_eq!(add_addr.encode(&mut writer, version), fits);
        prop_assert_eq!(writer.len(), if fits { before + alone.len() } else { before });
    }
}
