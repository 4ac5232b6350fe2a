//! What a stack makes of packets that it does not speak or whose port calls them broken
//! (RFC 1122 §3.2.2.1, RFC 4443 §3.1 and §3.4).

use mptcp_core::buf::{HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId, RxChecksum, RxMeta};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Listen, Stack};
use mptcp_core::stats::DropReason;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::icmp::{self, IcmpErrorKind};
use mptcp_core::wire::{IpEmit, checksum};

const UDP: u8 = 17;
const OTHER: u8 = 132;

struct Bench {
    stack: Stack<HeapBuf>,
    tx: HeapTxQueue,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let local = |addr: &str| LocalAddress {
            addr: addr.parse().expect("an address"),
            port: PortId(3),
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let addresses = vec![local("10.0.0.1"), local("fd00::1")];
        let config = StackConfig { addresses, ..StackConfig::default() };
        let pool = HeapPool::new(1024, 1500);
        let now = Instant::from_millis(1000);
        let stack = Stack::new(config, now, Box::new(pool.clone()));
        Self { stack, tx: HeapTxQueue::new(64, pool), now }
    }

    fn receive(&mut self, packet: &[u8], checksum: RxChecksum) {
        let mut buf = HeapBuf::from_slice(packet);
        buf.set_rx_meta(RxMeta { port: PortId(3), checksum });
        self.stack.handle_burst(self.now, &mut vec![buf]);
    }

    fn sent(&mut self) -> Vec<HeapBuf> {
        assert_eq!(self.stack.poll_transmit(self.now, &mut self.tx), Progress::Done);
        assert!(self.stack.transmit_idle());
        core::iter::from_fn(|| self.tx.pop()).collect()
    }
}

fn packet(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = IpEmit {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![0; header.header_len()];
    header.emit(&mut out);
    [out, payload.to_vec()].concat()
}

#[test]
fn unknown_ports_and_protocols_are_answered_with_errors() {
    let datagram = [0x12, 0x34, 0, 53, 0, 12, 1, 1, 1, 2, 3, 4];
    for (us, peer) in [("10.0.0.1", "192.0.2.7"), ("fd00::1", "2001:db8::7")] {
        for (protocol, kind) in
            [(UDP, IcmpErrorKind::PortUnreachable), (OTHER, IcmpErrorKind::ProtocolUnreachable)]
        {
            let mut bench = Bench::new();
            let original = packet(peer, us, protocol, &datagram);
            bench.receive(&original, RxChecksum::Good);
            let sent = bench.sent();
            assert_eq!((sent.len(), sent[0].tx_meta().port), (1, PortId(3)), "where it came in");
            let error = icmp::parse_error(sent[0].data()).unwrap();
            assert_eq!((error.kind, error.protocol), (kind, protocol));
            assert_eq!((error.src, error.dst), (peer.parse().unwrap(), us.parse().unwrap()));
            let counters = bench.stack.counters();
            let reason =
                if protocol == UDP { DropReason::UdpNoSocket } else { DropReason::Protocol };
            assert_eq!(counters.dropped(reason), 1);
            assert_eq!(counters.icmp_out_dest_unreachs, 1);
            // An error about an error would never end.
            bench.receive(sent[0].data(), RxChecksum::Unknown);
            assert!(bench.sent().is_empty());
        }
    }
}

#[test]
fn errors_have_a_rate() {
    let mut bench = Bench::new();
    let original = packet("192.0.2.7", "10.0.0.1", UDP, &[0x12, 0x34, 0, 53, 0, 8, 0, 0]);
    let mut sent = 0;
    for _ in 0..500 {
        bench.receive(&original, RxChecksum::Unknown);
        sent += bench.sent().len();
    }
    assert_eq!((sent, bench.stack.counters().icmp_out_rate_limit_global), (100, 400));
    bench.now = bench.now + Duration::from_millis(50);
    for _ in 0..500 {
        bench.receive(&original, RxChecksum::Unknown);
    }
    assert_eq!(bench.sent().len(), 5);
}

/// The port is believed when it says that a checksum is good, and checked when it says otherwise.
#[test]
fn a_checksum_that_a_port_calls_bad_is_verified() {
    let (us, peer) = ("10.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap());
    let mut tcp = [0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0];
    let sum = checksum::tcp_checksum(peer, us, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut bench = Bench::new();
    bench.receive(&packet("192.0.2.7", "10.0.0.1", 6, &tcp), RxChecksum::Bad);
    assert_eq!(bench.sent().len(), 1, "nobody listens: a reset");
    tcp[4] ^= 1;
    for (said, resets) in [(RxChecksum::Bad, 0), (RxChecksum::Unknown, 0), (RxChecksum::Good, 1)] {
        bench.receive(&packet("192.0.2.7", "10.0.0.1", 6, &tcp), said);
        assert_eq!(bench.sent().len(), resets, "{said:?}");
    }
    assert_eq!(bench.stack.counters().dropped(DropReason::TcpChecksum), 2);
}

/// Where connections to anybody end here, what is no TCP is refused by name: whoever sends it tries
/// something else at once.
#[test]
fn what_is_led_here_and_is_no_tcp_is_prohibited() {
    let datagram = [0x12, 0x34, 0, 53, 0, 12, 1, 1, 1, 2, 3, 4];
    let echo = |v4: bool| [if v4 { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1];
    for (us, peer, far, near) in [
        ("10.0.0.1", "192.0.2.7", "198.51.100.7", ["224.0.0.5", "255.255.255.255", "169.254.0.9"]),
        ("fd00::1", "2001:db8::7", "2001:db8:9::7", ["ff02::fb", "ff05::2", "fe80::9"]),
    ] {
        let is_v4 = us.contains('.');
        let ping = if is_v4 { 1 } else { 58 };
        let mut bench = Bench::new();
        let original = packet(peer, far, UDP, &datagram);
        bench.receive(&original, RxChecksum::Unknown);
        assert!(bench.sent().is_empty(), "nothing is led here");
        bench.stack.listen_transparent(&[PortId(3)], &Listen::default()).expect("free");
        for (protocol, payload) in [(UDP, &datagram[..]), (OTHER, &datagram), (ping, &echo(is_v4))]
        {
            bench.receive(&packet(peer, far, protocol, payload), RxChecksum::Unknown);
            let sent = bench.sent();
            assert_eq!((sent.len(), sent[0].tx_meta().port), (1, PortId(3)));
            let error = icmp::parse_error(sent[0].data()).unwrap();
            assert_eq!((error.kind, error.protocol), (IcmpErrorKind::Prohibited, protocol));
            assert_eq!((error.src, error.dst), (peer.parse().unwrap(), far.parse().unwrap()));
            let header = mptcp_core::wire::IpHeader::parse(sent[0].data()).unwrap();
            assert_eq!((header.src, header.dst), (us.parse().unwrap(), peer.parse().unwrap()));
            // Nobody answers an error, and what an address of ours sent is no client's.
            bench.receive(
                &packet(peer, far, ping, &sent[0].data()[header.header_len..]),
                RxChecksum::Good,
            );
            bench.receive(&packet(us, far, protocol, payload), RxChecksum::Unknown);
            assert!(bench.sent().is_empty());
        }
        for nobody in near {
            bench.receive(&packet(peer, nobody, UDP, &datagram), RxChecksum::Unknown);
        }
        assert!(bench.sent().is_empty());
    }
}

/// An error says who sent it: without an address of ours on that port nobody does.
#[test]
fn nothing_is_refused_in_the_name_of_a_removed_address() {
    let mut bench = Bench::new();
    bench.stack.listen_transparent(&[PortId(3)], &Listen::default()).expect("free");
    bench.stack.remove_address(bench.now, "10.0.0.1".parse().unwrap());
    let original = packet("192.0.2.7", "198.51.100.7", UDP, &[0x12, 0x34, 0, 53, 0, 8, 0, 0]);
    bench.receive(&original, RxChecksum::Unknown);
    assert!(bench.sent().is_empty());
}
