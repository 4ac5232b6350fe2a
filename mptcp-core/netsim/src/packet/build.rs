//! Builds correct TCP packets for the tests of this crate.

use super::{IpPacket, checksum};
use core::net::{IpAddr, SocketAddr};

/// A segment in the making; `to_packet` fills in lengths and checksums.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Build {
    pub(crate) fn new(src: &str, dst: &str) -> Self {
        Self {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            seq: 0,
            ack: 0,
            flags: super::flag::ACK,
            window: 1_000,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn to_packet(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        while !options.len().is_multiple_of(4) {
            options.push(1);
        }
        let mut tcp = Vec::new();
        tcp.extend(self.src.port().to_be_bytes());
        tcp.extend(self.dst.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        ip_packet(self.src.ip(), self.dst.ip(), super::protocol::TCP, tcp, Some(16))
    }
}

/// Wraps `payload` and fills the checksum at `checksum_at` of it, pseudo-header included.
pub(crate) fn ip_packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    payload: Vec<u8>,
    checksum_at: Option<usize>,
) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend(src.octets());
            header.extend(dst.octets());
            let len = u16::try_from(20 + payload.len()).unwrap();
            header[2..4].copy_from_slice(&len.to_be_bytes());
            let sum = !checksum::fold(checksum::sum(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        _ => panic!("mixed families"),
    };
    let header_len = packet.len();
    packet.extend(payload);
    if let Some(at) = checksum_at {
        let ip = IpPacket::parse(&packet).unwrap();
        let sum = !checksum::fold(ip.pseudo_header_sum() + checksum::sum(ip.payload));
        packet[header_len + at..header_len + at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}
