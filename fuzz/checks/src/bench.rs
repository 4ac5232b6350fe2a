//! A stack, its pools and its clock, with everything asserted that holds whatever comes in: packets
//! that go out are well-formed, each one that comes in is counted as dropped at most once, memory and
//! tables keep to their limits, timers come to rest, and at the end nothing is left.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::seq::SeqNum;
use mptcp_core::stack::{Listen, Occupancy, SocketId, Stack};
use mptcp_core::stats::DropReason;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{
    IpEmit, IpHeader, MptcpOption, OptionIter, OptionWriter, TcpFlags, TcpHeader, TcpOption,
    TcpSegment, checksum, laws, set_checksum,
};

pub(crate) const MTU: u16 = 1500;
pub(crate) const PORT: u16 = 80;
/// Addresses of the stack and of its peer, one per path.
pub(crate) const OURS: [IpAddr; 2] = [ip(1, 1), ip(2, 1)];
pub(crate) const THEIRS: [IpAddr; 2] = [ip(1, 2), ip(2, 2)];
/// Buffers of a connection at most: received ones are bounded by the truesize of the receive buffer,
/// sent ones by the send buffer, each kept by a connection and by its subflows.
const BUFFERS: usize = 1_500;
const TABLES: u32 = 16;
const BUFFER: u32 = 64 << 10;

const fn ip(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 0, host))
}

pub(crate) const fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// Octet `n` of the test stream.
pub(crate) const fn octet(n: u64) -> u8 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(crate) fn stream(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(octet).collect()
}

/// Small tables and buffers, so that limits are met.
pub(crate) fn config(addresses: &[IpAddr]) -> StackConfig {
    let local = |&addr| LocalAddress {
        addr,
        port: PortId::ROUTED,
        mtu: MTU,
        endpoint: true,
        backup: false,
    };
    let mut config =
        StackConfig { addresses: addresses.iter().map(local).collect(), ..StackConfig::default() };
    config.seed = [7; 32];
    config.limits.tcbs = TABLES;
    config.limits.connections = TABLES;
    config.limits.half_open = TABLES;
    config.limits.time_wait = TABLES;
    config.limits.udp_sockets = 1;
    config.tcp.recv_buffer_initial = BUFFER / 2;
    config.tcp.recv_buffer_max = BUFFER;
    config.tcp.send_buffer_max = BUFFER;
    config
}

/// A packet that came out.
#[derive(Clone)]
pub(crate) struct Out {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) flags: TcpFlags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: Vec<u8>,
}

impl Out {
    /// Judges any packet and reads those of TCP.
    fn read(packet: &[u8]) -> Option<Self> {
        assert_eq!(laws::check(packet), Ok(()));
        let ip = IpHeader::parse(packet).expect("a whole IP packet");
        if ip.protocol != 6 {
            return None;
        }
        let bytes = &packet[ip.header_len..ip.total_len];
        assert!(checksum::verify_tcp(ip.src, ip.dst, bytes), "TCP checksum");
        let view = TcpSegment::parse(bytes).expect("a whole TCP header");
        assert!(view.options().all(|o| o.is_ok()), "broken options {:?}", view.option_bytes());
        Some(Self {
            src: at(ip.src, view.src_port),
            dst: at(ip.dst, view.dst_port),
            flags: view.flags,
            seq: view.seq.0,
            ack: view.ack.0,
            payload: view.payload.to_vec(),
            options: view.option_bytes().to_vec(),
        })
    }

    pub(crate) fn is(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    pub(crate) fn tcp_options(&self) -> impl Iterator<Item = TcpOption<'_>> {
        OptionIter::new(&self.options).flatten()
    }

    pub(crate) fn mptcp(&self) -> impl Iterator<Item = MptcpOption<'_>> {
        self.tcp_options().filter_map(|option| match option {
            TcpOption::Mptcp(option) => Some(option),
            _ => None,
        })
    }
}

/// A TCP segment on its way to a stack.
#[derive(Clone, Debug)]
pub(crate) struct Seg {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
    /// Padded when it is sent; at most 40 octets count.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Seg {
    /// The IP packet, with right lengths and checksums.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 1);
        let header = TcpHeader {
            src_port: self.src.port(),
            dst_port: self.dst.port(),
            seq: SeqNum(self.seq),
            ack: SeqNum(self.ack),
            flags: self.flags,
            window: self.window,
            urgent: 0,
        };
        let mut tcp = vec![0; 20];
        header.emit(&OptionWriter::new(), &mut tcp);
        tcp[12] = u8::try_from((20 + options.len()) * 4).expect("at most 60 octets");
        tcp.extend_from_slice(&options);
        tcp.extend_from_slice(&self.payload);
        let sum = checksum::tcp_checksum(self.src.ip(), self.dst.ip(), &tcp);
        set_checksum(&mut tcp, sum);
        ip_packet(self.src.ip(), self.dst.ip(), 6, &tcp)
    }
}

pub(crate) fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
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
    header.emit(&mut packet);
    packet.extend_from_slice(payload);
    packet
}

/// The stack under test and its surroundings.
pub(crate) struct Bench {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) now: Instant,
    tx: HeapTxQueue,
    tx_pool: HeapPool,
    rx_pool: HeapPool,
    listener: Option<SocketId>,
    pub(crate) sockets: Vec<SocketId>,
}

impl Bench {
    pub(crate) fn new(config: StackConfig) -> Self {
        let tx_pool = HeapPool::new(BUFFERS, 1700);
        let now = Instant::from_millis(1_000);
        Self {
            stack: Stack::new(config, now, Box::new(tx_pool.clone())),
            now,
            tx: HeapTxQueue::new(64, tx_pool.clone()),
            tx_pool,
            rx_pool: HeapPool::new(BUFFERS, 1700),
            listener: None,
            sockets: Vec::new(),
        }
    }

    pub(crate) fn listen(&mut self, mptcp: bool) {
        let options = Listen { mptcp, ..Listen::default() };
        let listener = self.stack.listen(at(OURS[0], PORT), &options);
        self.listener = Some(listener.expect("a free address"));
    }

    /// One packet in; what is sent because of it.
    pub(crate) fn deliver(&mut self, packet: &[u8]) -> Vec<Out> {
        self.take(packet);
        self.settle()
    }

    /// One packet in.
    pub(crate) fn take(&mut self, packet: &[u8]) {
        let mut buf = self.rx_pool.alloc().expect("received data is bounded");
        if !buf.copy_from(packet) {
            return;
        }
        let before = self.drops();
        self.stack.handle_burst(self.now, &mut vec![buf]);
        let drops = self.drops() - before;
        assert!(drops <= 1, "one packet, {drops} drops");
    }

    pub(crate) fn send(&mut self, seg: &Seg) -> Vec<Out> {
        self.deliver(&seg.packet())
    }

    /// Runs what is due now, sends what there is, takes events and new connections.
    pub(crate) fn settle(&mut self) -> Vec<Out> {
        let mut out: Vec<Out> = self.packets().iter().filter_map(|p| Out::read(p)).collect();
        self.take_events();
        out.extend(self.packets().iter().filter_map(|p| Out::read(p)));
        out
    }

    /// Takes events and new connections, and looks at the limits.
    pub(crate) fn take_events(&mut self) {
        let events = (0..100).take_while(|_| self.stack.poll_event().is_some()).count();
        assert!(events < 100, "events without end");
        while let Some(id) = self.listener.and_then(|listener| self.stack.accept(listener)) {
            self.sockets.push(id);
        }
        self.check_bounds();
    }

    /// The same, as it is on the wire.
    pub(crate) fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let done = (0..100).any(|_| self.stack.handle_timeouts(self.now, 64) == Progress::Done);
        assert!(done, "a timer fires again and again");
        loop {
            let progress = self.stack.poll_transmit(self.now, &mut self.tx);
            let before = packets.len();
            while let Some(packet) = self.tx.pop() {
                let packet = packet.data();
                assert!(packet.len() <= usize::from(MTU), "{} octets", packet.len());
                packets.push(packet.to_vec());
            }
            assert!(packets.len() < 5_000, "it never stops sending");
            if progress == Progress::Done || packets.len() == before {
                return packets;
            }
        }
    }

    /// Lets virtual time pass, stopping wherever something is due.
    pub(crate) fn advance(&mut self, time: Duration) -> Vec<Out> {
        let until = self.now + time;
        let (mut out, mut standstill, mut turns) = (Vec::new(), 0, 0);
        while let Some(due) = self.stack.poll_timeout().filter(|due| *due <= until) {
            standstill = if due > self.now { 0 } else { standstill + 1 };
            turns += 1;
            assert!(standstill < 100, "{:?}: something is due again and again", self.now);
            assert!(turns < 20_000, "{turns} turns in {time:?}");
            self.now = due.max(self.now);
            out.extend(self.settle());
        }
        self.now = until;
        out
    }

    #[cfg(test)]
    pub(crate) fn tables(&self) -> Occupancy {
        self.stack.occupancy()
    }

    /// Closes everything; nothing may be left.
    pub(crate) fn finish(mut self) {
        for id in core::mem::take(&mut self.sockets) {
            self.stack.abort(self.now, id);
        }
        if let Some(listener) = self.listener.take() {
            self.stack.close(self.now, listener);
        }
        self.settle();
        // A round trip of minutes was measured, perhaps: each of 15 repetitions takes two of them.
        self.advance(Duration::from_secs(4_000));
        self.take_events();
        assert_eq!(self.stack.occupancy(), Occupancy::default(), "something is left");
        assert_eq!(self.tx_pool.in_use(), 0, "buffers to send leaked");
        assert_eq!(self.rx_pool.in_use(), 0, "received buffers leaked");
        assert_eq!(self.stack.counters().mp_curr_estab, 0, "connections are counted wrongly");
    }

    fn drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.stack.counters().dropped(*reason)).sum()
    }

    fn check_bounds(&self) {
        let tables = self.stack.occupancy();
        let each = [tables.tcbs, tables.connections, tables.requests, tables.time_waits];
        assert!(each.iter().all(|len| *len <= TABLES), "{tables:?}");
        assert!(tables.replies <= 1_024 && tables.flows <= 3 * TABLES as usize, "{tables:?}");
        assert_eq!(self.stack.counters().internal_errors, 0);
        assert_eq!(self.tx_pool.exhausted(), 0, "data to send is bounded");
    }
}
