//! UDP datagrams: what is read can be written again, and only the computed checksum verifies.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::wire::udp::UDP_HEADER_LEN;
use mptcp_core::wire::{UdpDatagram, UdpHeader, WireError, checksum, laws};

/// Takes `data` as the payload of an IP packet.
pub fn udp(data: &[u8]) {
    assert_eq!(laws::check(data), Ok(()));
    match UdpDatagram::parse(data) {
        Ok(datagram) => {
            assert!(data.len() >= UDP_HEADER_LEN + datagram.payload.len());
            check_emit(data, &datagram);
        }
        Err(error) => {
            let expected = matches!(error, WireError::Truncated | WireError::HeaderLength);
            assert!(expected, "{error} is no error of a UDP header");
        }
    }
}

/// The datagram, emitted with its checksum and read again; a wrong checksum never passes.
fn check_emit(data: &[u8], datagram: &UdpDatagram<'_>) {
    let v4 = (Ipv4Addr::new(10, 1, 0, 1).into(), Ipv4Addr::new(10, 1, 0, 2).into());
    let v6 = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    let pairs: [(IpAddr, IpAddr); 2] = [v4, v6];
    let ports = UdpHeader { src_port: datagram.src_port, dst_port: datagram.dst_port };
    let (len, sum) = (datagram.payload.len(), checksum::sum(datagram.payload));
    for (src, dst) in pairs {
        let header = ports.emit(src, dst, len, sum).expect("it was that long");
        assert_eq!(header[..6], data[..6]);
        let mut bytes = [&header[..], datagram.payload].concat();
        let written = UdpDatagram::parse(&bytes).expect("what was emitted can be read");
        assert!(written.verify(src, dst) && written.checksum != 0);
        assert_eq!(written.payload, datagram.payload);
        let absent = datagram.checksum == 0 && src.is_ipv4();
        assert_eq!(datagram.verify(src, dst), absent || datagram.checksum == written.checksum);
        bytes[0] ^= 1;
        let changed = UdpDatagram::parse(&bytes).expect("a port is any number");
        assert!(!changed.verify(src, dst), "a changed port passes");
    }
}
