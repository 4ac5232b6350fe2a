//! TCP headers: an emitted header reads back as it was, and its checksum verifies.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::wire::checksum::tcp_checksum;
use mptcp_core::wire::{
    OptionWriter, TcpHeader, TcpOption, TcpSegment, WireError, checksum, laws, set_checksum,
};

/// Takes `data` as a TCP segment.
pub fn tcp_header(data: &[u8]) {
    assert_eq!(laws::check(data), Ok(()));
    match TcpSegment::parse(data) {
        Ok(segment) => {
            crate::options(segment.option_bytes());
            check_emit(&segment);
            check_checksum(data);
        }
        Err(error) => {
            let expected = matches!(error, WireError::Truncated | WireError::HeaderLength);
            assert!(expected, "{error} is no error of a TCP header");
        }
    }
}

/// The fields and options of `segment`, emitted and read again.
fn check_emit(segment: &TcpSegment<'_>) {
    let mut options = OptionWriter::new();
    let read: Vec<TcpOption<'_>> = segment.options().filter_map(Result::ok).collect();
    for option in &read {
        assert!(options.push(option));
    }
    let header = TcpHeader {
        src_port: segment.src_port,
        dst_port: segment.dst_port,
        seq: segment.seq,
        ack: segment.ack,
        flags: segment.flags,
        window: segment.window,
        urgent: segment.urgent,
    };
    let len = header.len(&options);
    let mut out = [0xa5; 60];
    assert_eq!(header.emit(&options, &mut [0; 60][..len - 1]), 0, "no room, nothing written");
    assert_eq!(header.emit(&options, &mut out), len);
    let again = TcpSegment::parse(&out[..len]).expect("what was emitted can be read");
    let fields =
        |s: &TcpSegment<'_>| (s.src_port, s.dst_port, s.seq, s.ack, s.flags, s.window, s.urgent);
    assert_eq!(fields(&again), fields(segment));
    assert!(again.options().eq(read.into_iter().map(Ok)));
    assert!(out[len..].iter().all(|byte| *byte == 0xa5), "written behind the header");
}

/// The checksum that is computed is the one that verifies.
fn check_checksum(data: &[u8]) {
    let v4 = (Ipv4Addr::new(10, 1, 0, 1).into(), Ipv4Addr::new(10, 1, 0, 2).into());
    let v6 = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    let pairs: [(IpAddr, IpAddr); 2] = [v4, v6];
    for (src, dst) in pairs {
        let mut segment = data.to_vec();
        set_checksum(&mut segment, tcp_checksum(src, dst, data));
        assert!(checksum::verify_tcp(src, dst, &segment));
    }
}
