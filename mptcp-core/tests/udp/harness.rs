//! One stack with its wire, and packets made by hand.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use mptcp_core::buf::{
    BufPool, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId, RxChecksum, RxMeta,
};
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::error::RecvError;
use mptcp_core::stack::{Occupancy, Ready, SocketId, Stack};
use mptcp_core::stats::DropReason;
use mptcp_core::time::Instant;
use mptcp_core::udp::{Received, UdpOptions};
use mptcp_core::wire::{IpEmit, IpHeader, UdpHeader, checksum};
use smoltcp::wire::{Ipv4Packet, UdpPacket};

pub(crate) const NOW: Instant = Instant::MIN;
const UDP: u8 = 17;

/// Address `host` on network `net`, which is also its port.
pub(crate) fn v4(net: u8, host: u8) -> IpAddr {
    IpAddr::from([10, net, 0, host])
}

pub(crate) fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::from([0xfd00, net, 0, 0, 0, 0, 0, host])
}

pub(crate) fn wildcard(is_v4: bool) -> IpAddr {
    if is_v4 { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Two networks, two families, and a link-local address on the second.
pub(crate) fn addresses(host: u8) -> Vec<LocalAddress> {
    let address = |addr, port, mtu| LocalAddress {
        addr,
        port: PortId(port),
        mtu,
        endpoint: true,
        backup: false,
    };
    let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host)]);
    vec![
        address(v4(1, host), 1, 1500),
        address(v4(2, host), 2, 1400),
        address(v6(1, host.into()), 1, 1500),
        address(link_local, 2, 1400),
        address(v6(2, host.into()), 2, 1400),
    ]
}

pub(crate) struct Node {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) pool: HeapPool,
    wire: HeapTxQueue,
}

impl Node {
    pub(crate) fn new(host: u8) -> Self {
        Self::with(host, |_| {})
    }

    pub(crate) fn with(host: u8, change: impl FnOnce(&mut StackConfig)) -> Self {
        let mut config =
            StackConfig { addresses: addresses(host), seed: [host; 32], ..StackConfig::default() };
        // Time stands still here.
        config.tcp.congestion = CongestionAlgorithm::Cubic;
        config.tcp.pacing = false;
        config.limits.tcbs = 16;
        config.limits.connections = 16;
        config.limits.half_open = 16;
        config.limits.time_wait = 16;
        change(&mut config);
        Self::on(config, HeapPool::new(4096, 1700), 0)
    }

    /// On a pool of `buffers`, of which the stack leaves `reserve` to others.
    pub(crate) fn short_of_memory(host: u8, buffers: usize, reserve: usize) -> Self {
        let config =
            StackConfig { addresses: addresses(host), seed: [host; 32], ..StackConfig::default() };
        Self::on(config, HeapPool::new(buffers, 1700), reserve)
    }

    fn on(config: StackConfig, pool: HeapPool, reserve: usize) -> Self {
        let boxed: Box<dyn BufPool<HeapBuf> + Send> = Box::new(pool.clone().with_reserve(reserve));
        let wire = HeapTxQueue::new(64, pool.clone());
        Self { stack: Stack::new(config, NOW, boxed), pool, wire }
    }

    pub(crate) fn bind(&mut self, local: SocketAddr) -> SocketId {
        self.stack.udp_bind(local, &UdpOptions::default()).expect("a free address")
    }

    pub(crate) fn connect(&mut self, local: SocketAddr, remote: SocketAddr) -> SocketId {
        let options = UdpOptions { remote: Some(remote), ..UdpOptions::default() };
        self.stack.udp_bind(local, &options).expect("a free address")
    }

    /// One call of the driver: at most 64 packets.
    pub(crate) fn poll(&mut self) -> (Vec<HeapBuf>, Progress) {
        let progress = self.stack.poll_transmit(NOW, &mut self.wire);
        (core::iter::from_fn(|| self.wire.pop()).inspect(judge).collect(), progress)
    }

    /// Everything there is to send.
    pub(crate) fn sent(&mut self) -> Vec<HeapBuf> {
        let mut all = Vec::new();
        loop {
            let (packets, progress) = self.poll();
            let idle = packets.is_empty();
            all.extend(packets);
            if progress == Progress::Done {
                return all;
            }
            assert!(!idle, "there is room, and what has nothing to send asks for a turn");
        }
    }

    /// A packet in memory of the node's own, received on `port`.
    pub(crate) fn receive_on(&mut self, port: u8, checksum: RxChecksum, packet: &[u8]) {
        let mut buf = self.pool.alloc().expect("the pool is large enough");
        assert!(buf.copy_from(packet));
        buf.set_rx_meta(RxMeta { port: PortId(port), checksum });
        self.stack.handle_burst(NOW, &mut vec![buf]);
    }

    pub(crate) fn receive(&mut self, packet: &[u8]) {
        self.receive_on(1, RxChecksum::Unknown, packet);
    }

    pub(crate) fn read(&mut self, id: SocketId) -> Option<(Received, Vec<u8>)> {
        match self.stack.udp_recv_buf(id) {
            Ok((received, buf)) => {
                assert_eq!(received.len, buf.data().len());
                Some((received, buf.to_vec()))
            }
            Err(error) => {
                assert_eq!(error, RecvError::WouldBlock);
                None
            }
        }
    }

    pub(crate) fn events(&mut self) -> Vec<(SocketId, Ready)> {
        core::iter::from_fn(|| self.stack.poll_event()).map(|e| (e.socket, e.ready)).collect()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.stack.counters().dropped(reason)
    }

    /// Packets dropped, all reasons.
    pub(crate) fn drops(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum()
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.stack.occupancy(), Occupancy::default());
        assert_eq!(self.pool.in_use(), 0, "buffers leaked");
        assert_eq!(self.stack.counters().internal_errors, 0);
    }
}

/// Moves what `from` sends to `to`; answers how many packets that were.
pub(crate) fn pass(from: &mut Node, to: &mut Node) -> usize {
    let packets = from.sent();
    for packet in &packets {
        to.receive_on(packet.tx_meta().port.0, RxChecksum::Unknown, packet.data());
    }
    packets.len()
}

/// What no packet on the wire may lack.
fn judge(packet: &HeapBuf) {
    let bytes = packet.data();
    let header = IpHeader::parse(bytes).expect("an IP packet");
    assert_eq!(header.total_len, bytes.len());
    assert!(!packet.tx_meta().partial_checksum);
    if header.src.is_ipv4() {
        let ip = Ipv4Packet::new_checked(bytes).expect("an IPv4 packet");
        assert!(ip.verify_checksum() && ip.dont_frag() != header.fragment);
    }
    if header.protocol == UDP && !header.fragment {
        let udp = UdpPacket::new_checked(&bytes[header.header_len..]).expect("a datagram");
        assert_eq!(usize::from(udp.len()), header.total_len - header.header_len);
        assert!(udp.verify_checksum(&header.src.into(), &header.dst.into()));
        assert_ne!(udp.checksum(), 0);
    }
}

/// An IP packet of any protocol.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = IpEmit {
        src,
        dst,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; header.header_len()];
    assert!(header.emit(&mut packet) > 0);
    packet.extend(payload);
    packet
}

/// A datagram without its IP header.
pub(crate) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ports = UdpHeader { src_port: src.port(), dst_port: dst.port() };
    let sum = checksum::sum(payload);
    let header = ports.emit(src.ip(), dst.ip(), payload.len(), sum).expect("it fits");
    [&header[..], payload].concat()
}

pub(crate) fn packet(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    ip(src.ip(), dst.ip(), UDP, &udp(src, dst, payload))
}
