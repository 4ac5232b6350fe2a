//! L2 driven by hand-made frames over heap buffers. Every bench ends with its pool empty once L2 is
//! gone: nothing leaks, whatever came in.

mod egress;
mod ingress;
mod properties;
mod searches;

use super::frame::{Header, Mac};
use super::*;
use crate::counters::{DropReason, L2Event};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, TxMeta};
use mptcp_core::wire::{Checksum, IpEmit, checksum};
use smoltcp::wire::{EthernetAddress, EthernetProtocol, Ipv6Packet};

pub(super) const LTE: PortId = PortId(0);
pub(super) const WIFI: PortId = PortId(1);
pub(super) const EXIT: PortId = PortId(2);
pub(super) const PHONE: Mac = EthernetAddress([2, 0, 0, 0, 1, 2]);
pub(super) const ROUTER: Mac = EthernetAddress([2, 0, 0, 0, 1, 0xfe]);
pub(super) const EVERYBODY: Mac = EthernetAddress::BROADCAST;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn v4(text: &str) -> core::net::Ipv4Addr {
    text.parse().unwrap()
}

pub(super) fn v6(text: &str) -> core::net::Ipv6Addr {
    text.parse().unwrap()
}

pub(super) fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

/// Our station address on a port.
pub(super) fn ours(port: PortId) -> Mac {
    EthernetAddress([2, 0, 0, 0, 0, port.0 + 1])
}

pub(super) fn config() -> L2Config {
    let port = |id: PortId, addresses: &[&str], gateway: &[&str]| L2Port {
        mac: ours(id).0,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        gateway: gateway.iter().map(|addr| ip(addr)).collect(),
        ..L2Port::default()
    };
    let mut ports = vec![
        port(LTE, &["10.1.0.1/16", "fd00:1::1/64"], &["10.1.0.254", "fd00:1::fe"]),
        port(WIFI, &["10.2.0.1/24"], &["10.2.0.254"]),
        port(EXIT, &["10.9.0.1/24"], &[]),
    ];
    ports[1].vlan = 7;
    ports[2].mtu = 1400;
    L2Config {
        ports,
        routes: vec![L2Route { to: "0.0.0.0/0".parse().unwrap(), via: ip("10.9.0.2"), port: EXIT }],
        announce: false,
        ..L2Config::default()
    }
}

/// Sent frames and a bounded pool.
pub(super) struct Wire {
    pub(super) sent: Vec<(PortId, Vec<u8>)>,
    pub(super) pool: HeapPool,
}

impl L2Io<HeapBuf> for Wire {
    fn alloc(&mut self) -> Option<HeapBuf> {
        self.pool.alloc()
    }

    fn send(&mut self, port: PortId, frame: HeapBuf) {
        self.sent.push((port, frame.to_vec()));
    }
}

pub(super) struct Bench {
    pub(super) l2: L2<HeapBuf>,
    pub(super) wire: Wire,
    pub(super) counters: Arc<ShardCounters>,
}

impl Bench {
    /// After the questions for the gateways of the start.
    pub(super) fn new() -> Self {
        let mut bench = Self::starting(&config());
        bench.l2.handle_timeouts(at(0), &mut bench.wire);
        bench.wire.sent.clear();
        bench
    }

    pub(super) fn starting(config: &L2Config) -> Self {
        let counters = Arc::new(ShardCounters::new(config.ports.len()));
        let l2 = L2::new(config, Arc::clone(&counters));
        let wire = Wire { sent: Vec::new(), pool: HeapPool::new(4096, 2048) };
        Self { l2, wire, counters }
    }

    pub(super) fn receive(&mut self, now: Instant, port: PortId, frame: &[u8]) -> Option<Vec<u8>> {
        let mut buf = self.wire.pool.alloc().unwrap();
        buf.append(frame.len()).unwrap().copy_from_slice(frame);
        self.l2.ingress(now, port, buf, &mut self.wire).map(|packet| packet.to_vec())
    }

    /// Nothing may come of the frame but one drop for `reason`.
    pub(super) fn refused(&mut self, port: PortId, frame: &[u8], reason: DropReason) {
        let before = (self.counters.drops(reason), self.counters.all_drops());
        let sent = self.wire.sent.len();
        assert_eq!(self.receive(at(0), port, frame), None, "{}", reason.name());
        let after = (self.counters.drops(reason), self.counters.all_drops());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{}", reason.name());
        assert_eq!(self.wire.sent.len(), sent, "{}", reason.name());
    }

    pub(super) fn send(&mut self, now: Instant, port: PortId, packet: &[u8]) {
        let mut buf = self.wire.pool.alloc().unwrap();
        buf.append(packet.len()).unwrap().copy_from_slice(packet);
        buf.set_tx_meta(TxMeta { port, partial_checksum: false });
        self.l2.egress(now, buf, &mut self.wire);
    }

    /// What was sent since the last call.
    pub(super) fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        core::mem::take(&mut self.wire.sent)
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drops(reason)
    }

    pub(super) fn events(&self, event: L2Event) -> u64 {
        self.counters.events(event)
    }

    /// Lets the phone at `addr` answer for itself.
    pub(super) fn teach(&mut self, now: Instant, port: PortId, addr: &str, mac: Mac) {
        let reply = arp_frame(port, mac, ours(port), false, addr, own_v4(port));
        assert_eq!(self.receive(now, port, &reply), None);
    }

    pub(super) fn reports(&mut self) -> Vec<mptcp_core::wire::IcmpError> {
        let mut reports = Vec::new();
        self.l2.take_reports(&mut reports);
        let parse = |packet: &HeapBuf| mptcp_core::wire::icmp::parse_error(packet.data()).unwrap();
        reports.iter().map(parse).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let counters = Arc::clone(&self.counters);
        self.l2 = L2::new(&config(), counters);
        assert_eq!(self.wire.pool.in_use(), 0, "buffers outlived L2");
    }
}

pub(super) fn own_v4(port: PortId) -> &'static str {
    ["10.1.0.1", "10.2.0.1", "10.9.0.1"][usize::from(port.0)]
}

/// A frame as it is on that port's wire.
pub(super) fn ethernet(
    port: PortId,
    src: Mac,
    dst: Mac,
    kind: EthernetProtocol,
    payload: &[u8],
) -> Vec<u8> {
    let framing = frame::Framing { mac: src, vlan: if port == WIFI { 7 } else { 0 } };
    let mut out = vec![0; framing.header_len()];
    framing.write(dst, kind, &mut out);
    out.extend_from_slice(payload);
    out
}

pub(super) fn arp_frame(
    port: PortId,
    src: Mac,
    dst: Mac,
    request: bool,
    sender: &str,
    target: &str,
) -> Vec<u8> {
    let message = arp::Message { request, sender_mac: src, sender: v4(sender), target: v4(target) };
    let mut payload = [0; arp::LEN];
    message.write(None, &mut payload);
    ethernet(port, src, dst, EthernetProtocol::Arp, &payload)
}

pub(super) fn ndisc_frame(
    message: ndisc::Message,
    mac: Mac,
    dst_mac: Mac,
    src: &str,
    dst: &str,
) -> Vec<u8> {
    let mut payload = [0; ndisc::LEN];
    ndisc::write(message, mac, v6(src), v6(dst), &mut payload);
    ethernet(LTE, mac, dst_mac, EthernetProtocol::Ipv6, &payload)
}

/// An IP packet of `protocol`.
pub(super) fn packet(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = IpEmit {
        src: ip(src),
        dst: ip(dst),
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![0; header.header_len()];
    header.emit(&mut out);
    out.extend_from_slice(payload);
    out
}

/// The beginning of a TCP segment from port 1080 to port 40000, sequence number 7.
pub(super) fn segment(src: &str, dst: &str) -> Vec<u8> {
    let mut payload = vec![0; 20];
    payload[..8].copy_from_slice(&[0x04, 0x38, 0x9c, 0x40, 0, 0, 0, 7]);
    packet(src, dst, 6, &payload)
}

pub(super) fn echo_request(src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    let (src_ip, dst_ip) = (ip(src), ip(dst));
    let (protocol, kind) = if src_ip.is_ipv4() { (1, 8) } else { (58, 128) };
    let mut message = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend_from_slice(data);
    let mut sum = Checksum::new();
    if src_ip.is_ipv6() {
        let len = u32::try_from(message.len()).unwrap();
        sum.add_sum(checksum::pseudo_header(src_ip, dst_ip, 58, len), 0);
    }
    sum.add_bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    packet(src, dst, protocol, &message)
}

pub(super) fn ip_frame(port: PortId, src: Mac, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    ethernet(port, src, ours(port), kind, packet)
}

/// Station addresses and payload of a sent frame.
pub(super) fn unframe(frame: &[u8]) -> (Header, &[u8]) {
    let header = Header::parse(frame).unwrap();
    (header, &frame[header.len..])
}

/// The ARP message in a sent frame, and where the frame went.
pub(super) fn arp_in(frame: &[u8]) -> (Mac, arp::Message) {
    let (header, payload) = unframe(frame);
    assert_eq!(header.protocol, EthernetProtocol::Arp);
    (header.dst, arp::Message::parse(payload).unwrap())
}

/// The NDISC message in a sent frame, where the frame went, and its IPv6 addresses.
pub(super) fn ndisc_in(frame: &[u8]) -> (Mac, ndisc::Message, String, String) {
    let (header, payload) = unframe(frame);
    assert_eq!(header.protocol, EthernetProtocol::Ipv6);
    let ip = Ipv6Packet::new_checked(payload).unwrap();
    let ndisc::Parsed::Message(message) = ndisc::parse(&ip) else { panic!("not NDISC") };
    (header.dst, message, ip.src_addr().to_string(), ip.dst_addr().to_string())
}
