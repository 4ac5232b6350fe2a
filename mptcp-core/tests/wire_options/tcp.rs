//! TCP options and headers: round trips of every type, the 40-byte limit, broken lists, and
//! smoltcp as a second opinion.

use crate::strategies::{sack, tcp_option};
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::options::kind;
use mptcp_core::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire as smol;

fn written(option: &TcpOption<'_>) -> OptionWriter {
    let mut writer = OptionWriter::new();
    assert!(writer.push(option), "{option:?}");
    writer
}

fn filled(len: usize) -> OptionWriter {
    let mut writer = OptionWriter::new();
    for _ in 0..len {
        assert!(writer.nop());
    }
    writer
}

/// The whole list, up to the end or the first error.
fn list(bytes: &[u8]) -> Vec<Result<TcpOption<'_>, OptionError>> {
    OptionIter::new(bytes).collect()
}

proptest! {
    #[test]
    fn every_option_reads_as_it_was_written(option in tcp_option()) {
        let writer = written(&option);
        prop_assert_eq!(list(writer.as_bytes()), vec![Ok(option)]);
    }

    #[test]
    fn a_push_fits_exactly_or_changes_nothing(option in tcp_option(), before in 0..=40usize) {
        let len = written(&option).len();
        let mut writer = filled(before);
        let snapshot = writer;
        let fits = before + len <= 40;
        prop_assert_eq!(writer.push(&option), fits);
        prop_assert_eq!(writer.len(), if fits { before + len } else { before });
        prop_assert_eq!(writer.remaining(), 40 - writer.len());
        if fits {
            prop_assert_eq!(list(writer.as_bytes()), vec![Ok(option)]);
        } else {
            prop_assert_eq!(writer, snapshot);
        }
    }

    #[test]
    fn a_header_carries_its_options_and_the_padding_hides(
        options in vec(tcp_option(), 0..6), src_port: u16, dst_port: u16, seq: u32, ack: u32,
        flags: u8, window: u16, urgent: u16, payload in vec(any::<u8>(), 0..50),
    ) {
        let mut writer = OptionWriter::new();
        let mut expected = Vec::new();
        for option in options {
            if writer.push(&option) {
                expected.push(Ok(option));
            }
        }
        let (seq, ack, flags) = (SeqNum(seq), SeqNum(ack), TcpFlags::from_bits_retain(flags));
        let header = TcpHeader { src_port, dst_port, seq, ack, flags, window, urgent };
        let len = header.len(&writer);
        prop_assert_eq!(len, 20 + writer.padded_len());
        let mut bytes = [vec![0xee; len], payload.clone()].concat();
        prop_assert_eq!(header.emit(&writer, &mut bytes), len);
        let segment = TcpSegment::parse(&bytes).unwrap();
        let fields = TcpHeader {
            src_port: segment.src_port, dst_port: segment.dst_port, seq: segment.seq,
            ack: segment.ack, flags: segment.flags, window: segment.window, urgent: segment.urgent,
        };
        prop_assert_eq!(fields, header);
        prop_assert_eq!((segment.checksum, segment.header_len), (0, len));
        prop_assert_eq!(segment.payload, &payload[..]);
        prop_assert_eq!(segment.options().collect::<Vec<_>>(), expected);
        let (written, padding) = segment.option_bytes().split_at(writer.len());
        prop_assert_eq!(written, writer.as_bytes());
        prop_assert!(padding.len() < 4 && padding.iter().all(|byte| *byte == kind::NOP));
        let control = TcpFlags::SYN | TcpFlags::FIN;
        let octets = payload.len() + (flags & control).iter().count();
        prop_assert_eq!(usize::try_from(segment.seq_len()).unwrap(), octets);

        let theirs = smol::TcpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!((theirs.src_port(), theirs.dst_port()), (src_port, dst_port));
        prop_assert_eq!(theirs.seq_number().0, seq.0.cast_signed());
        prop_assert_eq!(theirs.ack_number().0, ack.0.cast_signed());
        prop_assert_eq!((theirs.window_len(), theirs.urgent_at()), (window, urgent));
        prop_assert_eq!((theirs.syn(), theirs.fin(), theirs.rst(), theirs.ack()), (
            flags.contains(TcpFlags::SYN), flags.contains(TcpFlags::FIN),
            flags.contains(TcpFlags::RST), flags.contains(TcpFlags::ACK),
        ));
        prop_assert_eq!((theirs.psh(), theirs.urg(), theirs.ece(), theirs.cwr()), (
            flags.contains(TcpFlags::PSH), flags.contains(TcpFlags::URG),
            flags.contains(TcpFlags::ECE), flags.contains(TcpFlags::CWR),
        ));
        prop_assert_eq!(theirs.payload(), &payload[..]);
    }

    #[test]
    fn smoltcp_reads_what_we_write(
        mss: u16, scale: u8, tsval: u32, tsecr: u32, blocks in vec(any::<(u32, u32)>(), 1..3),
    ) {
        let pairs: Vec<_> = blocks.iter().map(|(l, r)| (SeqNum(*l), SeqNum(*r))).collect();
        let mut writer = OptionWriter::new();
        prop_assert!(writer.push(&TcpOption::MaxSegmentSize(mss)));
        prop_assert!(writer.push(&TcpOption::SackPermitted));
        prop_assert!(writer.push_timestamps(tsval, tsecr));
        prop_assert!(writer.push(&TcpOption::WindowScale(scale)));
        prop_assert_eq!(writer.push_sack(&pairs), pairs.len());
        let mut ranges = [None; 3];
        for (range, block) in ranges.iter_mut().zip(&blocks) {
            *range = Some(*block);
        }
        let expected = [
            smol::TcpOption::MaxSegmentSize(mss),
            smol::TcpOption::SackPermitted,
            smol::TcpOption::TimeStamp { tsval, tsecr },
            smol::TcpOption::WindowScale(scale),
            smol::TcpOption::SackRange(ranges),
        ];
        let mut rest = writer.as_bytes();
        let mut read = Vec::new();
        while !rest.is_empty() {
            let (tail, option) = smol::TcpOption::parse(rest).unwrap();
            if option != smol::TcpOption::NoOperation {
                read.push(option);
            }
            rest = tail;
        }
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn we_read_what_smoltcp_writes(
        mss: Option<u16>, scale in proptest::option::of(0..15u8), sack_permitted: bool,
        stamps: Option<(u32, u32)>, block: Option<(u32, u32)>, seq: i32, window_len: u16,
    ) {
        let src = smol::IpAddress::v4(10, 0, 0, 1);
        let dst = smol::IpAddress::v4(10, 0, 0, 2);
        let repr = smol::TcpRepr {
            src_port: 1, dst_port: 2, control: smol::TcpControl::Syn,
            seq_number: smol::TcpSeqNumber(seq), ack_number: Some(smol::TcpSeqNumber(7)),
            window_len, window_scale: scale, max_seg_size: mss, sack_permitted,
            sack_ranges: [block, None, None],
            timestamp: stamps.map(|(tsval, tsecr)| smol::TcpTimestampRepr::new(tsval, tsecr)),
            payload: b"data",
        };
        let mut bytes = vec![0; repr.buffer_len()];
        let mut packet = smol::TcpPacket::new_unchecked(&mut bytes);
        repr.emit(&mut packet, &src, &dst, &smoltcp::phy::ChecksumCapabilities::default());
        prop_assert!(checksum::verify_tcp(src.into(), dst.into(), &bytes));
        let segment = TcpSegment::parse(&bytes).unwrap();
        prop_assert_eq!(segment.seq, SeqNum(seq.cast_unsigned()));
        prop_assert_eq!(segment.flags, TcpFlags::SYN | TcpFlags::ACK);
        prop_assert_eq!((segment.window, segment.payload), (window_len, &b"data"[..]));
        let mut expected = Vec::new();
        let mut buffer = [0; 32];
        expected.extend(mss.map(TcpOption::MaxSegmentSize));
        expected.extend(scale.map(TcpOption::WindowScale));
        if sack_permitted {
            expected.push(TcpOption::SackPermitted);
        } else if let Some((left, right)) = block {
            let blocks = SackBlocks::write(&[(SeqNum(left), SeqNum(right))], &mut buffer);
            expected.extend(blocks.map(TcpOption::Sack));
        }
        let stamps = stamps.map(|(tsval, tsecr)| TcpOption::Timestamps { tsval, tsecr });
        expected.extend(stamps);
        let read: Vec<_> = segment.options().map(Result::unwrap).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn smoltcp_agrees_on_arbitrary_lists(bytes in noisy_list()) {
        let mut ours = OptionIter::new(&bytes);
        let mut rest = &bytes[..];
        while let Ok((tail, theirs)) = smol::TcpOption::parse(rest) {
            rest = tail;
            let expected = match theirs {
                smol::TcpOption::NoOperation => continue,
                smol::TcpOption::EndOfList => {
                    prop_assert_eq!(ours.next(), None);
                    return Ok(());
                }
                smol::TcpOption::MaxSegmentSize(mss) => TcpOption::MaxSegmentSize(mss),
                smol::TcpOption::WindowScale(shift) => TcpOption::WindowScale(shift),
                smol::TcpOption::SackPermitted => TcpOption::SackPermitted,
                smol::TcpOption::TimeStamp { tsval, tsecr } => TcpOption::Timestamps { tsval, tsecr },
                smol::TcpOption::SackRange(ranges) => {
                    let ours = ours.next();
                    let Some(Ok(TcpOption::Sack(blocks))) = ours else {
                        return Err(TestCaseError::fail(format!("{ours:?} for {ranges:?}")));
                    };
                    // Smoltcp keeps three blocks of four.
                    let pairs: Vec<_> = blocks.iter().map(|(l, r)| (l.0, r.0)).take(3).collect();
                    prop_assert_eq!(pairs, ranges.into_iter().flatten().collect::<Vec<_>>());
                    continue;
                }
                smol::TcpOption::Unknown { kind: 30, data } if !data.is_empty() => {
                    let option = MptcpOption::parse(data).expect("a subtype octet");
                    TcpOption::Mptcp(option)
                }
                smol::TcpOption::Unknown { kind: 34, data } => match FastOpenCookie::new(data) {
                    Some(cookie) => TcpOption::FastOpen(cookie),
                    None => TcpOption::Unknown { kind: 34, data },
                },
                smol::TcpOption::Unknown { kind, data } => TcpOption::Unknown { kind, data },
            };
            prop_assert_eq!(ours.next(), Some(Ok(expected)));
        }
        // Where smoltcp gives up, the list is broken, ends, or has a known kind of a wrong length.
        match ours.next() {
            None => prop_assert!(rest.is_empty()),
            Some(Err(_)) => prop_assert_eq!(ours.next(), None),
            Some(Ok(option)) => {
                let known = matches!(option, TcpOption::Unknown { kind: 2..=5, .. });
                prop_assert!(known, "{option:?}");
            }
        }
    }

    #[test]
    fn no_byte_is_lost(bytes in noisy_list()) {
        // Everything but NOPs, up to the end of the list or the broken option.
        let mut rest = &bytes[..];
        for option in OptionIter::new(&bytes) {
            while let [kind::NOP, tail @ ..] = rest {
                rest = tail;
            }
            let Ok(option) = option else { return Ok(()) };
            let len = usize::from(rest[1]);
            let (TcpOption::Unknown { data, .. }
                | TcpOption::Mptcp(
                    MptcpOption::Unknown { data, .. }
                    | MptcpOption::Malformed { data, .. }
                    | MptcpOption::Experimental { data },
                )) = option
            else {
                rest = &rest[len..];
                continue;
            };
            prop_assert_eq!(data, &rest[2..len]);
            let writer = written(&option);
            prop_assert_eq!(writer.as_bytes(), &rest[..len]);
            rest = &rest[len..];
        }
        prop_assert!(rest.iter().take_while(|byte| **byte != kind::END).all(|byte| *byte == kind::NOP));
    }

    #[test]
    fn the_laws_hold_on_arbitrary_bytes(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(laws::check(&bytes), Ok(()));
    }

    #[test]
    fn the_laws_hold_on_noisy_lists_in_segments(options in noisy_list(), offset in 5..16u8) {
        let mut segment = vec![0; 20];
        segment[12] = offset << 4;
        segment.extend(&options);
        prop_assert_eq!(laws::check(&segment), Ok(()));
        prop_assert_eq!(laws::check(&options), Ok(()));
    }

    #[test]
    fn sack_takes_as_many_blocks_as_fit(before in 0..=40usize, count in 0..6u32) {
        let blocks: Vec<_> = (0..count).map(|i| (SeqNum(10 * i), SeqNum(10 * i + 5))).collect();
        let mut writer = filled(before);
        let pushed = writer.push_sack(&blocks);
        let room = (40 - before).saturating_sub(2) / 8;
        prop_assert_eq!(pushed, room.min(blocks.len()).min(4));
        match list(writer.as_bytes())[..] {
            [Ok(TcpOption::Sack(read))] => {
                prop_assert_eq!(read.len(), pushed);
                prop_assert_eq!(read.into_iter().collect::<Vec<_>>(), &blocks[..pushed]);
            }
            ref other => prop_assert!(other.is_empty() && pushed == 0 && writer.len() == before),
        }
    }

    #[test]
    fn a_sack_option_holds_the_first_four_blocks(option in sack()) {
        let TcpOption::Sack(blocks) = option else { unreachable!() };
        let pairs: Vec<_> = blocks.iter().collect();
        let more = [&pairs[..], &[(SeqNum(1), SeqNum(2)); 4]].concat();
        let mut buffer = [0; 32];
        let built = SackBlocks::write(&more, &mut buffer).unwrap();
        prop_assert_eq!(built.iter().collect::<Vec<_>>(), &more[..4]);
    }
}

/// Lists in which known kinds, lengths near theirs and MPTCP subtypes are likely.
fn noisy_list() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        4 => Just(30u8), 1 => Just(0), 2 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4),
        2 => Just(5), 1 => Just(8), 1 => Just(34), 1 => any::<u8>(),
    ];
    let len = prop_oneof![8 => 2..35u8, 1 => 0..2u8, 1 => any::<u8>()];
    let option = (kind, len, vec(any::<u8>(), 33)).prop_map(|(kind, len, data)| match kind {
        0 | 1 => vec![kind],
        _ => [&[kind, len], &data[..usize::from(len).saturating_sub(2).min(33)]].concat(),
    });
    vec(option, 0..6).prop_map(|options| {
        let mut list = options.concat();
        list.truncate(40);
        list
    })
}

#[test]
fn a_broken_length_is_one_error_and_the_end() {
    use OptionError::{LengthTooSmall, MissingLength, PastEnd};
    let mss = Ok(TcpOption::MaxSegmentSize(1460));
    let list = |tail: &'static [u8]| list([&[2, 4, 5, 180], tail].concat().leak());
    assert_eq!(list(&[30]), [mss, Err(MissingLength { kind: 30 })]);
    assert_eq!(list(&[30, 0, 4, 2]), [mss, Err(LengthTooSmall { kind: 30, len: 0 })]);
    assert_eq!(list(&[30, 1, 4, 2]), [mss, Err(LengthTooSmall { kind: 30, len: 1 })]);
    assert_eq!(list(&[30, 4, 0x81]), [mss, Err(PastEnd { kind: 30, len: 4 })]);
    assert_eq!(list(&[30, 255, 0x81]), [mss, Err(PastEnd { kind: 30, len: 255 })]);
    assert_eq!(list(&[1, 1, 0, 30, 0]), [mss], "nothing counts behind the end of the list");
    assert_eq!(list(&[30, 2]), [mss, Ok(TcpOption::Unknown { kind: 30, data: &[] })]);
}

#[test]
fn a_known_kind_of_a_wrong_length_keeps_its_bytes() {
    for (kind, right) in [
        (2, vec![4]),
        (3, vec![3]),
        (4, vec![2]),
        (5, vec![10, 18, 26, 34]),
        (8, vec![10]),
        (34, vec![2, 6, 8, 10, 12, 14, 16, 18]),
    ] {
        for len in 2..=60u8 {
            let mut bytes = vec![0x5a; usize::from(len)];
            bytes[..2].copy_from_slice(&[kind, len]);
            let unknown = TcpOption::Unknown { kind, data: &bytes[2..] };
            let is_unknown = list(&bytes) == [Ok(unknown)];
            assert_eq!(is_unknown, !right.contains(&len), "kind {kind} length {len}");
        }
    }
}

#[test]
fn option_kinds_without_length_cannot_be_pushed() {
    let mut writer = OptionWriter::new();
    for kind in [kind::END, kind::NOP] {
        assert!(!writer.push(&TcpOption::Unknown { kind, data: &[] }));
    }
    assert!(!writer.push(&TcpOption::Unknown { kind: 99, data: &[0; 39] }));
    assert!(!writer.push(&TcpOption::Unknown { kind: 99, data: &[0; 300] }));
    let denied = MptcpOption::Malformed { subtype: 3, data: &[0x40, 0] };
    assert!(!writer.push(&TcpOption::Mptcp(denied)));
    assert!(!writer.push(&TcpOption::Mptcp(MptcpOption::Experimental { data: &[] })));
    assert!(writer.is_empty());
}

#[test]
fn timestamps_stand_on_a_word_unless_only_the_packed_form_fits() {
    for before in 0..=40 {
        let mut writer = filled(before);
        let pushed = writer.push_timestamps(1, 2);
        assert_eq!(pushed, before <= 30, "{before}");
        if pushed {
            let aligned = (before..).find(|start| start % 4 == 2).unwrap() + 10;
            assert_eq!(writer.len(), if aligned <= 40 { aligned } else { before + 10 });
            assert_eq!(list(writer.as_bytes()), [Ok(TcpOption::Timestamps { tsval: 1, tsecr: 2 })]);
        } else {
            assert_eq!(writer, filled(before));
        }
    }
}

#[test]
fn the_option_budget_of_real_segments() {
    let add_addr = |port, addr: core::net::IpAddr| AddAddr {
        address_id: 1,
        addr,
        port,
        echo: false,
        hmac: Some(1),
    };
    // SYN of a stack that offers both versions.
    let mut syn = OptionWriter::new();
    assert!(syn.push(&TcpOption::MaxSegmentSize(1460)));
    assert!(syn.push(&TcpOption::SackPermitted));
    assert!(syn.push_timestamps(1, 0));
    assert!(syn.push(&TcpOption::WindowScale(7)));
    assert_eq!(syn.len(), 19);
    for (form, version) in [(CapableForm::Syn, Version::V1), (CapableForm::Key(1), Version::V0)] {
        let flags = CapableFlags::HMAC;
        let capable = MpCapable { version: version as u8, flags, form };
        assert!(syn.push_mptcp(&MptcpOption::Capable(capable), version));
    }
    assert_eq!((syn.len(), syn.padded_len()), (35, 36));
    // Data with both numbers at 64 bits and a checksum fills the header to the last byte.
    let mut data = OptionWriter::new();
    assert!(data.push_timestamps(1, 2));
    let mapping = Mapping { dsn: WireSeq::Full(1), ssn: 1, len: 1, checksum: Some(1) };
    let full = Dss { data_ack: Some(WireSeq::Full(1)), mapping: Some(mapping), data_fin: true };
    assert_eq!(full.option_len(), 28);
    assert!(data.push_mptcp(&MptcpOption::Dss(full), Version::V1));
    assert_eq!(data.remaining(), 0);
    assert!(!data.nop());
    // SACK blocks beside a pure DATA_ACK: two with 32 bits, one with 64.
    let blocks = [(SeqNum(1), SeqNum(2)); 4];
    for (ack, count) in [(WireSeq::Low(1), 2), (WireSeq::Full(1), 1)] {
        let mut ack_options = OptionWriter::new();
        assert!(ack_options.push_timestamps(1, 2));
        let dss = Dss { data_ack: Some(ack), ..Dss::default() };
        assert!(ack_options.push_mptcp(&MptcpOption::Dss(dss), Version::V1));
        assert_eq!(ack_options.push_sack(&blocks), count);
    }
    // IPv6 with port and HMAC does not fit beside aligned timestamps, but does beside packed ones.
    let long = add_addr(Some(80), core::net::Ipv6Addr::LOCALHOST.into());
    let mut aligned = OptionWriter::new();
    assert!(aligned.push_timestamps(1, 2));
    assert!(!long.encode(&mut aligned, Version::V1));
    assert_eq!(aligned.len(), 12);
    let mut packed = OptionWriter::new();
    assert!(long.encode(&mut packed, Version::V1));
    assert!(packed.push_timestamps(1, 2));
    assert_eq!(packed.len(), 40);
}

#[test]
fn segments_that_lie_about_their_header() {
    let mut bytes = [0; 64];
    for len in 0..20 {
        assert_eq!(TcpSegment::parse(&bytes[..len]), Err(WireError::Truncated));
    }
    for offset in 0..16u8 {
        bytes[12] = offset << 4 | 0xf; // reserved bits do not matter
        let parsed = TcpSegment::parse(&bytes[..40]).map(|segment| segment.header_len);
        assert_eq!(
            parsed,
            match offset {
                0..5 => Err(WireError::HeaderLength),
                5..=10 => Ok(usize::from(offset) * 4),
                _ => Err(WireError::Truncated),
            }
        );
    }
}

#[test]
fn a_header_that_does_not_fit_is_not_written() {
    let writer = filled(13);
    let header = TcpHeader::default();
    let mut short = [7; 35];
    assert_eq!(header.emit(&writer, &mut short), 0);
    assert_eq!(short, [7; 35]);
    set_checksum(&mut short[..17], 0);
    assert_eq!(short, [7; 35]);
    set_checksum(&mut short, 0x0102);
    assert_eq!(short[15..19], [7, 1, 2, 7]);
}
