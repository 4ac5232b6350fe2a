//! Packets of real kernels, captured on our own test networks: multipath-tcp.org for version 0,
//! Linux 6.18 for version 1. Each is an IP packet in hexadecimal.

use core::net::IpAddr;
use mptcp_core::seq::{DataSeq, SeqNum};
use mptcp_core::wire::*;
use sha1::{Digest, Sha1};
use sha2::Sha256;

const V0_SYN: &str = "45000048e4bf4000400641ec0a0100020a010001a73a138a8559c36700000000d002faf0fd530000020405b40402080a55ebb4d900000000010303051e0c0081910e8629b9f70da5";
const V0_SYN_ACK: &str = "4500004800004000400626ac0a0100010a010002138aa73accf617568559c368d012fb04b0390000020405b40402080ac93e8b5355ebb4d9010303051e0c0081e226f5d0a0ee7a04";
const V0_ACK: &str = "45000050e4c04000400641e30a0100020a010001a73a138a8559c368ccf61757f01007d8576600000101080a55ebb4e4c93e8b531e140081910e8629b9f70da5e226f5d0a0ee7a041e082001e8d934ef";
const V0_ADD_ADDR: &str = "45000044e4c14000400641ee0a0100020a010001a73a138a8559c368ccf61757c01007d81bb800000101080a55ebb4e4c93e8b531e0834030a0200021e082001e8d934ef";
const V0_DATA: &str = "45000058e4c24000400641d90a0100020a010001a73a138a8559c368ccf61757d01807d8a1df00000101080a55ebb4ecc93e8b531e142005e8d934ef2d88a19d000000010010c74530313233343536373839616263646566";
const V0_DATA_ACK: &str = "4500003cce914000400658260a0100010a010002138aa73accf617578559c378a01007d9e63100000101080ac93e8b6b55ebb4ec1e0820012d88a1ad";
const V0_JOIN_SYN: &str = "450000480729400040061f810a0200020a02000197dd138a6bb8aada00000000d002faf061da0000020405b40402080a918d94b800000000010303051e0c100339a3ba2b9d71ff93";
const V0_JOIN_SYN_ACK: &str = "4500004c00004000400626a60a0200010a020002138a97dd4f7862706bb8aadbe012fb042aac0000020405b40402080a7f3850b8918d94b8010303051e101003e960de2801a6cd89276977d9";
const V0_JOIN_ACK: &str = "4500004c072a400040061f7c0a0200020a02000197dd138a6bb8aadb4f786271e0100fa76b0100000101080a918d94bb7f3850b81e181000549fc5e042163876f52759946990933415b8f978";
const V0_DATA_FIN: &str = "450000480733400040061f770a0200020a02000197dd138a6bb8ab1b4f7862b1d0110fa772ba00000101080a918d96c37f38525b1e142015e8d9353f2d88a1ed000000000001f63c";
const V0_ADD_ADDR_IPV6: &str = "600d148c003c0640fd010000000000000000000000000002fd010000000000000000000000000001d34e138b56d8b2daf50165fff01007e9ab9800000101080a75f5ff6eb2c2431b1e143609fd0200000000000000000000000000021e08200107a10b7c";

const V1_SYN: &str = "450000407cde40004006a73d0a4d01010a4d0102e630145117f65f5d00000000b002faf03cb00000020405b40402080a1faa38b7000000000103030a1e040181";
const V1_SYN_ACK: &str = "4500004800004000400624140a4d01020a4d01011451e63071f77a8b17f65f5ed012fe8810660000020405b40402080a56fb59dc1faa38b70103030a1e0c01811f4828ce9a3588ea";
const V1_ACK: &str = "450000487cdf40004006a7340a4d01010a4d0102e630145117f65f5e71f77a8cd010003fcf4d00000101080a1faa38b756fb59dc1e140181679129fe1685a60c1f4828ce9a3588ea";
const V1_DATA_ACK: &str = "450000407ce040004006a73b0a4d01010a4d0102e630145117f65f5e71f7801cb0100040367200000101080a1faa38c256fb59e71e0c2003f5eeb36afa6faa50";
const V1_DATA_FIN: &str = "450000507d0840004006a7030a4d01010a4d0102e630145117f6ad7e71f7efbcf0100050c33300000101080a1faa38c256fb59e71e1c201ff5eeb36afa701f81b40d145d070492e70000000000019da8";
const V1_ADD_ADDR: &str = "450000446eb640004006b5610a4d01020a4d01011451c186c766c52e9ca73bedc010003f37cf00000101080a5881c0218c0409d21e1030090a4d02026ed3c8e3ec947fd2";
const V1_ADD_ADDR_ECHO: &str = "4500003cf3af4000400630700a4d01010a4d0102c18614519ca73bedc766c52ea010003ffafd00000101080a8c0409d25881c0211e0831090a4d0202";
const V1_ADD_ADDR_IPV6: &str = "6002aa5f003c0640fd770001000000000000000000000002fd7700010000000000000000000000011451c71a9aa5a5ffa8459b97f010003f6c4400000101080a0a35c06e176fad461e1c3001fd770002000000000000000000000002abd6923e6d6db8c5";
const V1_ADD_ADDR_IPV6_ECHO: &str = "600fd97700340640fd770001000000000000000000000001fd770001000000000000000000000002c71a1451a8459b979aa5a5ffd010003fef9c00000101080a176fad460a35c06e1e143101fd770002000000000000000000000002";
const V1_SACK: &str = "4500004cf3b94000400630560a4d01010a4d0102c18614519ca75bedc766e52ee010003e5d7100000101080a8c0410005881c6470101050ac766e0aac766e52e1e0c2003607cbb46ecbccb47";
const V1_REMOVE_ADDR: &str = "450000446ec640004006b5510a4d01020a4d01011451c186c766e52e9ca75bedc0100040fcc900000101080a5881c64f8c0410001e0c2003e9a6c4ce7a7628261e044009";
const V1_FASTCLOSE: &str = "45000044f426400040062ff10a4d01010a4d0102c18614519ca87bedc768252ec01400a3bdb500000101080a8c045a245882106b1e0c700056bb9d59703ba7371e048000";

fn packet(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = core::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        })
        .collect()
}

/// The segment in `packet`, its checksums verified.
fn segment(packet: &[u8]) -> TcpSegment<'_> {
    let ip = IpHeader::parse(packet).expect("an IP packet");
    assert_eq!((ip.protocol, ip.total_len), (6, packet.len()));
    let bytes = &packet[ip.header_len..];
    assert!(checksum::verify_tcp(ip.src, ip.dst, bytes));
    TcpSegment::parse(bytes).expect("a TCP header")
}

/// The MPTCP options in the packet.
fn mptcp<'a>(segment: &TcpSegment<'a>) -> Vec<MptcpOption<'a>> {
    segment
        .options()
        .filter_map(|option| match option.expect("a whole option") {
            TcpOption::Mptcp(option) => Some(option),
            _ => None,
        })
        .collect()
}

fn check(hex: &str, expected: &[MptcpOption<'_>]) {
    assert_eq!(mptcp(&segment(&packet(hex))), expected);
}

fn address(hex: &str, version: Version) -> Option<AddAddr> {
    mptcp(&segment(&packet(hex))).into_iter().find_map(|option| match option {
        MptcpOption::AddAddr(raw) => raw.decode(version),
        _ => None,
    })
}

fn capable(version: u8, form: CapableForm) -> MptcpOption<'static> {
    let flags = CapableFlags::CHECKSUM | CapableFlags::HMAC;
    MptcpOption::Capable(MpCapable { version, flags, form })
}

fn data_ack(seq: WireSeq) -> MptcpOption<'static> {
    MptcpOption::Dss(Dss { data_ack: Some(seq), ..Dss::default() })
}

fn u64_at(digest: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(digest[at..at + 8].try_into().expect("eight bytes"))
}

const V0_KEY_A: u64 = 0x910e_8629_b9f7_0da5;
const V0_KEY_B: u64 = 0xe226_f5d0_a0ee_7a04;
const V1_KEY_A: u64 = 0x6791_29fe_1685_a60c;
const V1_KEY_B: u64 = 0x1f48_28ce_9a35_88ea;

#[test]
fn a_version_0_handshake() {
    check(V0_SYN, &[capable(0, CapableForm::Key(V0_KEY_A))]);
    check(V0_SYN_ACK, &[capable(0, CapableForm::Key(V0_KEY_B))]);
    let keys = CapableForm::Keys { sender: V0_KEY_A, receiver: V0_KEY_B };
    check(V0_ACK, &[capable(0, keys), data_ack(WireSeq::Low(0xe8d9_34ef))]);
    let idsn_b = u64_at(&Sha1::digest(V0_KEY_B.to_be_bytes()), 12);
    assert_eq!(DataSeq(idsn_b + 1).expand(0xe8d9_34ef), DataSeq(idsn_b + 1));
}

#[test]
fn a_syn_reads_to_the_last_field() {
    let bytes = packet(V1_SYN);
    let ip = IpHeader::parse(&bytes).unwrap();
    assert_eq!((ip.src, ip.dst), ([10, 77, 1, 1].into(), [10, 77, 1, 2].into()));
    assert_eq!((ip.hop_limit, ip.traffic_class, ip.header_len), (64, 0, 20));
    let segment = segment(&bytes);
    assert_eq!((segment.src_port, segment.dst_port), (0xe630, 0x1451));
    assert_eq!((segment.seq, segment.ack), (SeqNum(0x17f6_5f5d), SeqNum(0)));
    assert_eq!((segment.flags, segment.window), (TcpFlags::SYN, 64_240));
    assert_eq!((segment.checksum, segment.header_len, segment.seq_len()), (0x3cb0, 44, 1));
    let options: Vec<_> = segment.options().map(Result::unwrap).collect();
    let expected = [
        TcpOption::MaxSegmentSize(1460),
        TcpOption::SackPermitted,
        TcpOption::Timestamps { tsval: 0x1faa_38b7, tsecr: 0 },
        TcpOption::WindowScale(10),
        TcpOption::Mptcp(capable(1, CapableForm::Syn)),
    ];
    assert_eq!(options, expected);
}

#[test]
fn what_we_write_equals_what_the_kernel_wrote() {
    let bytes = packet(V1_SYN);
    let captured = segment(&bytes);
    let mut options = OptionWriter::new();
    assert!(options.push(&TcpOption::MaxSegmentSize(1460)));
    assert!(options.push(&TcpOption::SackPermitted));
    assert!(options.push_timestamps(0x1faa_38b7, 0));
    assert!(options.nop());
    assert!(options.push(&TcpOption::WindowScale(10)));
    assert!(options.push_mptcp(&capable(1, CapableForm::Syn), Version::V1));
    let header = TcpHeader {
        src_port: captured.src_port,
        dst_port: captured.dst_port,
        seq: captured.seq,
        ack: captured.ack,
        flags: captured.flags,
        window: captured.window,
        urgent: captured.urgent,
    };
    let ip = IpEmit {
        src: [10, 77, 1, 1].into(),
        dst: [10, 77, 1, 2].into(),
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: header.len(&options),
        identification: 0x7cde,
        dont_fragment: true,
    };
    let mut written = vec![0; bytes.len()];
    let at = ip.emit(&mut written);
    header.emit(&options, &mut written[at..]);
    let sum = checksum::tcp_checksum(ip.src, ip.dst, &written[at..]);
    set_checksum(&mut written[at..], sum);
    assert_eq!(written, bytes);
}

#[test]
fn version_0_data_and_its_checksum() {
    let idsn = u64_at(&Sha1::digest(V0_KEY_A.to_be_bytes()), 12);
    for (hex, dsn, ssn, len, sum) in
        [(V0_DATA, 0x2d88_a19d, 1, 16, 0xc745), (V0_DATA_FIN, 0x2d88_a1ed, 0, 1, 0xf63c)]
    {
        let bytes = packet(hex);
        let segment = segment(&bytes);
        let [MptcpOption::Dss(dss)] = mptcp(&segment)[..] else { panic!("not one DSS") };
        let mapping = Mapping { dsn: WireSeq::Low(dsn), ssn, len, checksum: Some(sum) };
        assert_eq!(dss.mapping, Some(mapping));
        assert_eq!(dss.data_fin, hex == V0_DATA_FIN);
        let full = DataSeq(idsn).expand(dsn);
        assert_eq!(checksum::dss_checksum(full, ssn, len, checksum::sum(segment.payload)), sum);
    }
    assert_eq!(segment(&packet(V0_DATA)).payload, b"0123456789abcdef");
    assert_eq!(DataSeq(idsn).expand(0x2d88_a19d), DataSeq(idsn + 1), "data starts at IDSN + 1");
    check(V0_DATA_ACK, &[data_ack(WireSeq::Low(0x2d88_a19d + 16))]);
}

#[test]
fn a_version_0_join() {
    let token = u32::from_be_bytes(Sha1::digest(V0_KEY_B.to_be_bytes())[..4].try_into().unwrap());
    let join = MpJoin::Syn { backup: false, address_id: 3, token, nonce: 0x9d71_ff93 };
    check(V0_JOIN_SYN, &[MptcpOption::Join(join)]);
    let hmac = 0xe960_de28_01a6_cd89;
    let join = MpJoin::SynAck { backup: false, address_id: 3, hmac, nonce: 0x2769_77d9 };
    check(V0_JOIN_SYN_ACK, &[MptcpOption::Join(join)]);
    let hmac = packet("549fc5e042163876f52759946990933415b8f978").try_into().unwrap();
    check(V0_JOIN_ACK, &[MptcpOption::Join(MpJoin::Ack { hmac })]);
}

#[test]
fn addresses_mean_something_in_their_version_only() {
    let v4 = IpAddr::from([10, 2, 0, 2]);
    let v6: IpAddr = "fd02::2".parse().unwrap();
    let add_addr =
        |address_id, addr| AddAddr { address_id, addr, port: None, echo: false, hmac: None };
    assert_eq!(address(V0_ADD_ADDR, Version::V0), Some(add_addr(3, v4)));
    assert_eq!(address(V0_ADD_ADDR, Version::V1), None);
    assert_eq!(address(V0_ADD_ADDR_IPV6, Version::V0), Some(add_addr(9, v6)));
    assert_eq!(address(V0_ADD_ADDR_IPV6, Version::V1), None);
    let v4 = IpAddr::from([10, 77, 2, 2]);
    let v6: IpAddr = "fd77:2::2".parse().unwrap();
    for (hex, address_id, addr, echo, hmac) in [
        (V1_ADD_ADDR, 9, v4, false, Some(0x6ed3_c8e3_ec94_7fd2)),
        (V1_ADD_ADDR_ECHO, 9, v4, true, None),
        (V1_ADD_ADDR_IPV6, 1, v6, false, Some(0xabd6_923e_6d6d_b8c5)),
        (V1_ADD_ADDR_IPV6_ECHO, 1, v6, true, None),
    ] {
        let expected = AddAddr { address_id, addr, port: None, echo, hmac };
        assert_eq!(address(hex, Version::V1), Some(expected));
        assert_eq!(address(hex, Version::V0), None);
    }
}

#[test]
fn a_version_1_connection() {
    check(V1_SYN_ACK, &[capable(1, CapableForm::Key(V1_KEY_B))]);
    let keys = CapableForm::Keys { sender: V1_KEY_A, receiver: V1_KEY_B };
    check(V1_ACK, &[capable(1, keys)]);
    let idsn_b = u64_at(&Sha256::digest(V1_KEY_B.to_be_bytes()), 24);
    assert_eq!(idsn_b + 1, 0xf5ee_b36a_fa6f_aa50);
    check(V1_DATA_ACK, &[data_ack(WireSeq::Full(idsn_b + 1))]);
}

#[test]
fn a_version_1_data_fin_and_its_checksum() {
    let dsn = 0xb40d_145d_0704_92e7;
    let mapping = Mapping { dsn: WireSeq::Full(dsn), ssn: 0, len: 1, checksum: Some(0x9da8) };
    let data_ack = Some(WireSeq::Full(0xf5ee_b36a_fa70_1f81));
    let dss = Dss { data_ack, mapping: Some(mapping), data_fin: true };
    check(V1_DATA_FIN, &[MptcpOption::Dss(dss)]);
    assert_eq!(checksum::dss_checksum(DataSeq(dsn), 0, 1, 0), 0x9da8);
    // The initiator had sent 20,000 bytes before.
    assert_eq!(u64_at(&Sha256::digest(V1_KEY_A.to_be_bytes()), 24) + 1 + 20_000, dsn);
}

#[test]
fn a_duplicate_sack_beside_a_data_ack() {
    let bytes = packet(V1_SACK);
    let segment = segment(&bytes);
    let mut options = segment.options().map(Result::unwrap);
    let stamps = TcpOption::Timestamps { tsval: 0x8c04_1000, tsecr: 0x5881_c647 };
    assert_eq!(options.next(), Some(stamps));
    let Some(TcpOption::Sack(blocks)) = options.next() else { panic!("no SACK") };
    let block = (SeqNum(0xc766_e0aa), SeqNum(0xc766_e52e));
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [block]);
    assert_eq!(block.1, segment.ack, "it reports what was received twice");
    let dss = TcpOption::Mptcp(data_ack(WireSeq::Full(0x607c_bb46_ecbc_cb47)));
    assert_eq!((options.next(), options.next()), (Some(dss), None));
    // Written in the same order, aligned the same way.
    let mut written = OptionWriter::new();
    assert!(written.push_timestamps(0x8c04_1000, 0x5881_c647));
    assert_eq!(written.push_sack(&[block]), 1);
    assert!(written.push(&dss));
    assert_eq!(written.as_bytes(), segment.option_bytes());
}

#[test]
fn remove_addr_fastclose_and_reset() {
    let seq = WireSeq::Full(0xe9a6_c4ce_7a76_2826);
    let ids = AddressIds::new(&[9]).unwrap();
    check(V1_REMOVE_ADDR, &[data_ack(seq), MptcpOption::RemoveAddr(ids)]);
    let bytes = packet(V1_FASTCLOSE);
    let segment = segment(&bytes);
    assert_eq!(segment.flags, TcpFlags::RST | TcpFlags::ACK);
    let close = MptcpOption::Fastclose { key: 0x56bb_9d59_703b_a737 };
    let reset = MptcpOption::Reset(MpTcpRst::default());
    assert_eq!(mptcp(&segment), [close, reset]);
}

#[test]
fn every_packet_keeps_the_laws() {
    for hex in [
        V0_SYN,
        V0_SYN_ACK,
        V0_ACK,
        V0_ADD_ADDR,
        V0_DATA,
        V0_DATA_ACK,
        V0_JOIN_SYN,
        V0_JOIN_SYN_ACK,
        V0_JOIN_ACK,
        V0_DATA_FIN,
        V0_ADD_ADDR_IPV6,
        V1_SYN,
        V1_SYN_ACK,
        V1_ACK,
        V1_DATA_ACK,
        V1_DATA_FIN,
        V1_ADD_ADDR,
        V1_ADD_ADDR_ECHO,
        V1_ADD_ADDR_IPV6,
        V1_ADD_ADDR_IPV6_ECHO,
        V1_SACK,
        V1_REMOVE_ADDR,
        V1_FASTCLOSE,
        ECHO_REQUEST,
        MULTICAST_LISTENER_REPORT,
    ] {
        let mut bytes = packet(hex);
        assert_eq!(laws::check(&bytes), Ok(()));
        let ip = IpHeader::parse(&bytes).unwrap();
        assert_eq!(laws::check(&bytes[ip.header_len..]), Ok(()));
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(laws::check(&bytes), Ok(()));
            assert_eq!(laws::check(&bytes[ip.header_len..]), Ok(()));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

const ECHO_REQUEST: &str = "45000054343a40004001f26a0a0100020a01000108008f0f004900003fa7290000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";
const ECHO_REPLY: &str = "450000544b1d000040011b880a0100010a0100020000970f004900003fa7290000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";
/// Hop-by-hop options with a router alert in front of ICMPv6.
const MULTICAST_LISTENER_REPORT: &str = "6000000000380001fe80000000000000505400fffe000201ff0200000000000000000000000000163a000502000001008f001b980000000204000000ff0200000000000000000001ff00020104000000ff0200000000000000000001ff000001";

#[test]
fn our_echo_reply_is_the_kernels() {
    let mut bytes = packet(ECHO_REQUEST);
    assert!(icmp::echo_reply(&mut bytes));
    let kernels = packet(ECHO_REPLY);
    assert_eq!(bytes[12..], kernels[12..], "all but identification, DF and the header checksum");
    assert!(IpHeader::parse(&bytes).is_ok());
}

#[test]
fn a_router_alert_is_skipped() {
    let bytes = packet(MULTICAST_LISTENER_REPORT);
    let ip = IpHeader::parse(&bytes).unwrap();
    assert_eq!((ip.protocol, ip.header_len, ip.total_len), (58, 48, bytes.len()));
}
