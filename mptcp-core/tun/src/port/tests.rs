//! A port whose device has offloads, and gives back what it is given as the kernel would.

use super::*;
use crate::arrival::NEEDS_CHECKSUM;
use core::net::IpAddr;
use mptcp_core::buf::{PacketBuf, PortId, TxMeta};
use mptcp_core::wire::{IpEmit, IpHeader, UdpDatagram, UdpHeader, checksum, set_checksum};
use nix::sys::eventfd::EventFd;
use proptest::prelude::*;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

const MTU: usize = 1500;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What is sent arrives.
#[derive(Debug)]
struct Mirror {
    event: EventFd,
    pieces: VecDeque<Vec<u8>>,
    /// Pieces it takes before it is full.
    capacity: usize,
}

impl Mirror {
    fn port() -> Port<Self> {
        let event = EventFd::new().expect("a descriptor");
        Port::new(Self { event, pieces: VecDeque::new(), capacity: usize::MAX })
    }
}

impl AsFd for Mirror {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl PacketDevice for Mirror {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let piece = self.pieces.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.capacity = self.capacity.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
        self.pieces.push_back(packet.to_vec());
        Ok(())
    }

    fn mtu(&self) -> u16 {
        MTU as u16
    }

    fn name(&self) -> &'static str {
        "mirror"
    }

    fn has_offloads(&self) -> bool {
        true
    }
}

fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
    } else {
        ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
    }
}

fn ip(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = ends(v6);
    let emit = IpEmit {
        src,
        dst,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![0; emit.header_len() + payload.len()];
    let at = emit.emit(&mut out);
    out[at..].copy_from_slice(payload);
    out
}

/// A segment with timestamps; its checksum is complete, or the pseudo-header's alone.
fn segment(v6: bool, seq: u32, text: usize, flags: u8, partial: bool) -> Vec<u8> {
    let mut tcp = vec![0x1f, 0x90, 0xc0, 0x01];
    tcp.extend(seq.to_be_bytes());
    tcp.extend([0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0]);
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    tcp.extend((0..text).map(|at| (seq as usize + at) as u8));
    let (src, dst) = ends(v6);
    let sum = if partial {
        checksum::pseudo_header(src, dst, TCP, tcp.len() as u32)
    } else {
        checksum::tcp_checksum(src, dst, &tcp)
    };
    set_checksum(&mut tcp, sum);
    ip(v6, TCP, &tcp)
}

fn send(port: &mut Port<Mirror>, counters: &PortCounters, bytes: &[u8], partial: bool) {
    let mut packet = HeapBuf::from_slice(bytes);
    packet.set_tx_meta(TxMeta { port: PortId(0), partial_checksum: partial });
    port.send(packet, counters);
}

fn receive(port: &mut Port<Mirror>, counters: &PortCounters) -> Vec<(Vec<u8>, RxChecksum)> {
    let mut got = Vec::new();
    loop {
        let mut into = vec![0; MTU];
        match port.recv(&mut into, counters).expect("the device lives") {
            Received::Packet(len, checksum) => got.push((into[..len].to_vec(), checksum)),
            Received::Unusable => {}
            Received::Nothing => return got,
        }
    }
}

/// The octets of TCP's checksum in a packet of ours.
fn without_sum(packet: &[u8]) -> Vec<u8> {
    let at = IpHeader::parse(packet).expect("IP").header_len + 16;
    [&packet[..at], &packet[at + 2..]].concat()
}

proptest! {
    /// Whatever is joined comes out as it went in, complete checksums or not, as long as it fits in.
    #[test]
    fn what_leaves_in_one_piece_is_cut_into_what_it_was(
        plan in prop::collection::vec((prop_oneof![9 => Just(1448_usize), 1 => 0_usize..1448], 0_u8..20), 1..120),
        v6: bool,
        partial: bool,
        seq: u32,
    ) {
        let (mut port, counters) = (Mirror::port(), PortCounters::default());
        let (mut seq, mut sent) = (seq, Vec::new());
        for (text, chance) in plan {
            let text = if v6 { text.min(1428) } else { text };
            let flags = match chance { 0 => 0x18, 1 => 0x11, 2 => 0x90, _ => 0x10 };
            let bytes = segment(v6, seq, text, flags, partial);
            seq = seq.wrapping_add(text as u32);
            send(&mut port, &counters, &bytes, partial);
            sent.push(bytes);
        }
        port.flush(&counters);
        let written = port.device.pieces.len() as u64;
        prop_assert_eq!(counters.tx_packets(), written);
        prop_assert_eq!(written - counters.tx_pieces() + counters.tx_joined(), sent.len() as u64);
        let got = receive(&mut port, &counters);
        prop_assert_eq!(got.len(), sent.len());
        prop_assert_eq!(counters.rx_packets(), written);
        prop_assert_eq!((counters.rx_pieces(), counters.rx_parts()), (counters.tx_pieces(), counters.tx_joined()));
        for ((got, said), sent) in got.iter().zip(&sent) {
            prop_assert_eq!(without_sum(got), without_sum(sent));
            // Who is not told that it is good finds that it is.
            if *said == RxChecksum::Unknown {
                prop_assert_eq!(got, sent);
                prop_assert!(!partial);
            } else {
                prop_assert_eq!(*said, RxChecksum::Good);
            }
        }
    }

    /// Nothing the kernel may hand over stops the loop or ends in a panic.
    #[test]
    fn any_octets_are_read_in_peace(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
        header in any::<[u8; VIRTIO_NET_HDR_LEN]>(),
        changes in prop::collection::vec((0_usize..60, any::<u8>()), 0..3),
        v6: bool,
    ) {
        let (mut port, counters) = (Mirror::port(), PortCounters::default());
        port.device.pieces.extend(pieces);
        let mut usual = segment(v6, 5, 3000, 0x18, true);
        for (at, octet) in changes {
            usual[at] = octet;
        }
        port.device.pieces.push_back([&header[..], &usual].concat());
        receive(&mut port, &counters);
        prop_assert!(port.device.pieces.is_empty());
    }
}

#[test]
fn a_full_device_keeps_pieces_in_order() {
    let (mut port, counters) = (Mirror::port(), PortCounters::default());
    port.device.capacity = 1;
    let packets: Vec<_> = (0..100).map(|i| segment(false, i * 1448, 1448, 0x10, true)).collect();
    for packet in &packets {
        send(&mut port, &counters, packet, true);
    }
    port.flush(&counters);
    assert!(port.is_blocked());
    assert_eq!(counters.tx_joined(), 45, "65,535 octets at most");
    port.device.capacity = usize::MAX;
    port.send_waiting(&counters);
    assert!(!port.is_blocked());
    assert_eq!((counters.tx_pieces(), counters.tx_joined()), (3, 100));
    let got = receive(&mut port, &counters);
    assert!(got.iter().map(|(got, _)| without_sum(got)).eq(packets.iter().map(|p| without_sum(p))));
}

/// Datagrams that an application sent with `UDP_SEGMENT` come one by one, with checksums of their own.
#[test]
fn datagrams_in_one_piece_are_cut() {
    for v6 in [false, true] {
        let (src, dst) = ends(v6);
        let text: Vec<u8> = (0..2500_u32).map(|at| at as u8).collect();
        let header = UdpHeader { src_port: 4433, dst_port: 443 };
        let header = header.emit(src, dst, text.len(), checksum::sum(&text)).expect("short");
        let whole = ip(v6, UDP, &[&header[..], &text].concat());
        let described = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type: VIRTIO_NET_HDR_GSO_UDP_L4,
            gso_size: 1200,
            csum_start: (whole.len() - text.len() - 8) as u16,
            csum_offset: 6,
            ..VirtioNetHdr::default()
        };
        let mut front = [0; VIRTIO_NET_HDR_LEN];
        described.encode(&mut front).expect("room");
        let (mut port, counters) = (Mirror::port(), PortCounters::default());
        port.device.pieces.push_back([&front[..], &whole].concat());
        let got = receive(&mut port, &counters);
        let texts: Vec<Vec<u8>> = got
            .iter()
            .map(|(packet, said)| {
                assert_eq!(*said, RxChecksum::Unknown);
                let ip = IpHeader::parse(packet).expect("IP");
                assert_eq!((ip.src, ip.dst, ip.total_len), (src, dst, packet.len()));
                let udp = UdpDatagram::parse(&packet[ip.header_len..]).expect("UDP");
                assert!(udp.checksum != 0 && udp.verify(src, dst));
                assert_eq!((udp.src_port, udp.dst_port), (4433, 443));
                udp.payload.to_vec()
            })
            .collect();
        assert_eq!(texts.iter().map(Vec::len).collect::<Vec<_>>(), [1200, 1200, 100]);
        assert_eq!(texts.concat(), text);
        assert_eq!((counters.rx_pieces(), counters.rx_parts()), (1, 3));
    }
}

/// A datagram whose checksum was left to the card, and one of a protocol that nobody here knows.
#[test]
fn other_checksums_are_completed() {
    for v6 in [false, true] {
        let (src, dst) = ends(v6);
        let mut udp = UdpHeader { src_port: 5, dst_port: 53 }
            .emit(src, dst, 4, checksum::sum(b"text"))
            .expect("short")
            .to_vec();
        udp.extend(b"text");
        let complete = ip(v6, UDP, &udp);
        let pseudo = checksum::pseudo_header(src, dst, UDP, udp.len() as u32);
        udp[6..8].copy_from_slice(&pseudo.to_be_bytes());
        let left = ip(v6, UDP, &udp);
        let described = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            csum_start: (left.len() - udp.len()) as u16,
            csum_offset: 6,
            ..VirtioNetHdr::default()
        };
        let mut front = [0; VIRTIO_NET_HDR_LEN];
        described.encode(&mut front).expect("room");
        let (mut port, counters) = (Mirror::port(), PortCounters::default());
        port.device.pieces.push_back([&front[..], &left].concat());
        assert_eq!(receive(&mut port, &counters), [(complete, RxChecksum::Unknown)]);
    }
}

#[test]
fn what_is_longer_than_the_mtu_is_lost_and_counted() {
    let (mut port, counters) = (Mirror::port(), PortCounters::default());
    let long = [vec![0; VIRTIO_NET_HDR_LEN], segment(false, 1, 1700, 0x10, false)].concat();
    let short = [vec![0; VIRTIO_NET_HDR_LEN], segment(false, 1, 17, 0x10, false)].concat();
    port.device.pieces.extend([long, vec![0; 4], short.clone()]);
    let got = receive(&mut port, &counters);
    assert_eq!(got, [(short[VIRTIO_NET_HDR_LEN..].to_vec(), RxChecksum::Unknown)]);
    assert_eq!(counters.rx_errors(), 2);
}
