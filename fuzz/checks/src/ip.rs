//! IP headers and ICMP: echo replies and errors are packets with right checksums and lengths, and never
//! answers to answers.

use core::net::IpAddr;
use mptcp_core::wire::checksum::{pseudo_header, sum};
use mptcp_core::wire::{Checksum, IcmpErrorKind, IpHeader, icmp, laws};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;

const OURS_V4: [u8; 4] = [10, 1, 0, 1];
const OURS_V6: [u16; 8] = [0xfd00, 1, 0, 0, 0, 0, 0, 1];

const KINDS: [IcmpErrorKind; 8] = [
    IcmpErrorKind::NetworkUnreachable,
    IcmpErrorKind::HostUnreachable,
    IcmpErrorKind::ProtocolUnreachable,
    IcmpErrorKind::PortUnreachable,
    IcmpErrorKind::FragmentationNeeded { mtu: 1300 },
    IcmpErrorKind::Prohibited,
    IcmpErrorKind::TimeExceeded,
    IcmpErrorKind::ParameterProblem,
];

/// Takes `data` as an IP packet, as it is and with its checksums completed: random bytes rarely get
/// past those.
pub fn ip_packet(data: &[u8]) {
    check(data);
    let mut completed = data.to_vec();
    complete_checksums(&mut completed);
    check(&completed);
}

fn check(packet: &[u8]) {
    assert_eq!(laws::check(packet), Ok(()));
    check_echo(packet);
    let Ok(header) = IpHeader::parse(packet) else {
        for kind in KINDS {
            assert!(!icmp::emit_error(kind, packet, OURS_V4.into(), &mut Vec::new()));
        }
        return;
    };
    let message = &packet[header.header_len..header.total_len];
    match header.protocol {
        TCP => crate::tcp_header(message),
        UDP => crate::udp(message),
        _ => {}
    }
    for kind in KINDS {
        check_error(kind, packet, &header);
    }
}

fn check_echo(packet: &[u8]) {
    let mut reply = packet.to_vec();
    if !icmp::echo_reply(&mut reply) {
        return;
    }
    let header = IpHeader::parse(&reply).expect("a reply is a packet");
    let message = header.header_len + 4;
    assert_eq!(reply[message..], packet[message..], "identifier, sequence and data come back");
    assert!(has_right_checksum(&reply, &header), "{reply:?}");
}

fn check_error(kind: IcmpErrorKind, packet: &[u8], header: &IpHeader) {
    let (ours, max_len): (IpAddr, _) = match header.src {
        IpAddr::V4(_) => (OURS_V4.into(), 576),
        IpAddr::V6(_) => (OURS_V6.into(), 1280),
    };
    let mut out = vec![1];
    if !icmp::emit_error(kind, packet, ours, &mut out) {
        assert!(out.is_empty());
        return;
    }
    assert!(out.len() <= max_len);
    let reported = IpHeader::parse(&out).expect("an error is a packet");
    assert_eq!((reported.src, reported.dst), (ours, header.src));
    assert_eq!(reported.total_len, out.len());
    assert!(has_right_checksum(&out, &reported));
    assert!(!icmp::emit_error(kind, &out, ours, &mut Vec::new()), "no errors about errors");
    if let Some(error) = icmp::parse_error(&out) {
        assert_eq!((error.src, error.dst), (header.src, header.dst), "it quotes the packet");
    }
}

fn has_right_checksum(packet: &[u8], header: &IpHeader) -> bool {
    packet
        .get(header.header_len..header.total_len)
        .is_some_and(|message| icmp_sum(header, message).folded() == 0xffff)
}

fn icmp_sum(header: &IpHeader, message: &[u8]) -> Checksum {
    let mut total = Checksum::new();
    if header.protocol == ICMP_V6 {
        let len = u32::try_from(message.len()).expect("an IP packet");
        total.add_sum(pseudo_header(header.src, header.dst, ICMP_V6, len), 0);
    }
    total.add_bytes(message);
    total
}

/// Makes the IPv4 header checksum right and, for ICMP, that of the message.
fn complete_checksums(packet: &mut [u8]) {
    if packet.first().is_some_and(|byte| byte >> 4 == 4) {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        if let Some(header) = packet.get_mut(..header_len).filter(|header| header.len() >= 20) {
            header[10..12].fill(0);
            let value = !sum(header);
            header[10..12].copy_from_slice(&value.to_be_bytes());
        }
    }
    let Ok(header) = IpHeader::parse(packet) else { return };
    let Some(message) = packet.get_mut(header.header_len..header.total_len) else { return };
    if message.len() >= 4 && matches!(header.protocol, ICMP_V4 | ICMP_V6) {
        message[2..4].fill(0);
        let value = icmp_sum(&header, message).finish();
        message[2..4].copy_from_slice(&value.to_be_bytes());
    }
}
