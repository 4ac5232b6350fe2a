//! One stack and a scripted peer: crafted segments go in, every packet that comes out is checked and
//! handed to the test. When a [`Script`] is dropped, everything is closed and every table and pool
//! must be empty, so each test also proves that nothing leaks.

use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PortId, RxChecksum, RxMeta};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::error::RecvError;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::key::{self, KeyPair};
use mptcp_core::seq::{DataSeq, SeqNum};
use mptcp_core::stack::{Connect, Listen, Occupancy, Ready, SocketId, Stack};
use mptcp_core::stats::Counters;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, IpEmit, IpHeader, Mapping, MpCapable, MpJoin, MpTcpRst,
    MptcpOption, OptionIter, OptionWriter, TcpFlags, TcpHeader, TcpOption, TcpSegment, Version,
    WireSeq, checksum, set_checksum,
};

pub(crate) const PEER_KEY: u64 = 0x0102_0304_0506_0708;
const MTU: usize = 1500;

/// Our first address, the one connections begin on.
pub(crate) const A1: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 1, 0, 1));
/// Our second address.
pub(crate) const A2: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 2, 0, 1));
/// The peer's addresses.
pub(crate) const P1: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 1, 0, 2));
pub(crate) const P2: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 2, 0, 2));
pub(crate) const PORT: u16 = 80;

pub(crate) fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// Octet `n` of any test stream.
pub(crate) fn octet(n: u64) -> u8 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// `len` octets of the test stream from `offset` on.
pub(crate) fn stream(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(octet).collect()
}

/// A packet that came out.
#[derive(Clone)]
pub(crate) struct Out {
    pub(crate) at: Instant,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) flags: TcpFlags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: Vec<u8>,
}

impl core::fmt::Debug for Out {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let options: Vec<_> = OptionIter::new(&self.options).collect();
        write!(
            f,
            "{:?} {} > {} {:?} seq {} ack {} win {} len {} {options:?}",
            self.at,
            self.src,
            self.dst,
            self.flags,
            self.seq,
            self.ack,
            self.window,
            self.payload.len()
        )
    }
}

impl Out {
    /// Parses and judges a packet: what no packet of ours may ever violate is asserted here.
    fn read(at: Instant, packet: &[u8]) -> Self {
        assert!(packet.len() <= MTU, "{} octets exceed the MTU", packet.len());
        let ip = IpHeader::parse(packet).expect("a whole IP packet");
        let bytes = &packet[ip.header_len..ip.total_len];
        assert!(checksum::verify_tcp(ip.src, ip.dst, bytes), "TCP checksum");
        let view = TcpSegment::parse(bytes).expect("a whole TCP header");
        assert!(view.options().all(|o| o.is_ok()), "broken options {:?}", view.option_bytes());
        for option in view.options().flatten() {
            if let TcpOption::Mptcp(option) = option {
                assert!(option.is_in(Version::V1), "{option:?} is not of version 1");
            }
        }
        Self {
            at,
            src: SocketAddr::new(ip.src, view.src_port),
            dst: SocketAddr::new(ip.dst, view.dst_port),
            flags: view.flags,
            seq: view.seq.0,
            ack: view.ack.0,
            window: view.window,
            payload: view.payload.to_vec(),
            options: view.option_bytes().to_vec(),
        }
    }

    pub(crate) fn is(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    pub(crate) fn rst(&self) -> bool {
        self.is(TcpFlags::RST)
    }

    pub(crate) fn tcp_options(&self) -> Vec<TcpOption<'_>> {
        OptionIter::new(&self.options).flatten().collect()
    }

    pub(crate) fn mptcp(&self) -> Vec<MptcpOption<'_>> {
        let mptcp = |option| match option {
            TcpOption::Mptcp(option) => Some(option),
            _ => None,
        };
        OptionIter::new(&self.options).flatten().filter_map(mptcp).collect()
    }

    pub(crate) fn capable(&self) -> Option<MpCapable> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Capable(capable) => Some(capable),
            _ => None,
        })
    }

    pub(crate) fn join(&self) -> Option<MpJoin> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Join(join) => Some(join),
            _ => None,
        })
    }

    pub(crate) fn dss(&self) -> Option<Dss> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Dss(dss) => Some(dss),
            _ => None,
        })
    }

    pub(crate) fn data_ack(&self) -> Option<WireSeq> {
        self.dss().and_then(|dss| dss.data_ack)
    }

    pub(crate) fn mapping(&self) -> Option<Mapping> {
        self.dss().and_then(|dss| dss.mapping)
    }

    pub(crate) fn data_fin(&self) -> bool {
        self.dss().is_some_and(|dss| dss.data_fin)
    }

    /// `MP_TCPRST`: (reason, transient).
    pub(crate) fn reset_reason(&self) -> Option<(u8, bool)> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Reset(MpTcpRst { transient, reason, .. }) => Some((reason, transient)),
            _ => None,
        })
    }

    pub(crate) fn fastclose(&self) -> Option<u64> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Fastclose { key } => Some(key),
            _ => None,
        })
    }

    pub(crate) fn fail(&self) -> Option<u64> {
        self.mptcp().into_iter().find_map(|o| match o {
            MptcpOption::Fail { dsn } => Some(dsn),
            _ => None,
        })
    }
}

/// A segment to be sent to the stack; built up by chaining.
#[derive(Clone, Debug)]
pub(crate) struct Seg {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    flags: TcpFlags,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Seg {
    pub(crate) fn opt(mut self, option: &MptcpOption<'_>) -> Self {
        let mut writer = OptionWriter::new();
        assert!(writer.push_mptcp(option, Version::V1), "{option:?} fits");
        self.options.extend_from_slice(writer.as_bytes());
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.options.extend_from_slice(bytes);
        self
    }

    /// Without any option.
    pub(crate) fn bare(mut self) -> Self {
        self.options.clear();
        self
    }

    pub(crate) fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn fin(mut self) -> Self {
        self.flags |= TcpFlags::FIN;
        self
    }

    pub(crate) fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    pub(crate) fn acks(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }

    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    pub(crate) fn dss(self, dss: Dss) -> Self {
        self.opt(&MptcpOption::Dss(dss))
    }
}

/// The peer's side of one TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// The peer's end.
    pub(crate) peer: SocketAddr,
    /// The stack's end.
    pub(crate) local: SocketAddr,
    /// The peer's ISN.
    pub(crate) isn: u32,
    pub(crate) snd_nxt: u32,
    /// The stack's ISN.
    pub(crate) stack_isn: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) window: u16,
}

impl Flow {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let isn = 0x5000_0000_u32.wrapping_add(u32::from(peer.port()) << 8);
        Self { peer, local, isn, snd_nxt: isn, stack_isn: 0, rcv_nxt: 0, window: 60_000 }
    }

    /// A pure ACK at the present position.
    pub(crate) fn seg(&self) -> Seg {
        Seg {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: self.window,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn syn(&self) -> Seg {
        let mss = [2, 4, 5, 180];
        let seg = self.seg().seq(self.isn).acks(0).flags(TcpFlags::SYN);
        seg.raw(&mss).raw(&[4, 2])
    }

    /// Takes in what the stack sent on this flow: the next ACK covers it.
    pub(crate) fn hears(&mut self, out: &[Out]) {
        for packet in out.iter().filter(|o| o.src == self.local && o.dst == self.peer) {
            if packet.rst() {
                continue;
            }
            if packet.is(TcpFlags::SYN) {
                self.stack_isn = packet.seq;
                self.rcv_nxt = packet.seq.wrapping_add(1);
            } else if packet.seq == self.rcv_nxt {
                let fin = u32::from(packet.is(TcpFlags::FIN));
                self.rcv_nxt = self.rcv_nxt.wrapping_add(packet.payload.len() as u32 + fin);
            }
        }
    }

    /// Packets the stack sent on this flow.
    pub(crate) fn of<'o>(&self, out: &'o [Out]) -> Vec<&'o Out> {
        out.iter().filter(|o| o.src == self.local && o.dst == self.peer).collect()
    }

    /// Subflow sequence number of what the peer sends next.
    pub(crate) fn ssn(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.isn)
    }
}

/// What both ends know of an MPTCP connection, from the peer's point of view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) peer: u64,
    pub(crate) stack: u64,
    pub(crate) checksum: bool,
}

impl Keys {
    pub(crate) fn pair(&self) -> KeyPair {
        KeyPair { local: self.peer, remote: self.stack }
    }

    pub(crate) fn stack_token(&self) -> u32 {
        key::token(Version::V1, self.stack)
    }

    /// DSN of octet `offset` of the peer's stream.
    pub(crate) fn peer_dsn(&self, offset: u64) -> DataSeq {
        key::idsn(Version::V1, self.peer).add(1 + offset)
    }

    /// DSN of octet `offset` of the stack's stream.
    pub(crate) fn stack_dsn(&self, offset: u64) -> DataSeq {
        key::idsn(Version::V1, self.stack).add(1 + offset)
    }

    pub(crate) fn ack(&self, offset: u64) -> Dss {
        let data_ack = Some(WireSeq::Full(self.stack_dsn(offset).0));
        Dss { data_ack, ..Dss::default() }
    }

    /// A mapping with 64-bit DSN, and the checksum of `payload` where one is agreed on.
    pub(crate) fn mapping(&self, offset: u64, ssn: u32, payload: &[u8]) -> Mapping {
        let (dsn, len) = (self.peer_dsn(offset), payload.len() as u16);
        let sum = || checksum::dss_checksum(dsn, ssn, len, checksum::sum(payload));
        let checksum = self.checksum.then(sum);
        Mapping { dsn: WireSeq::Full(dsn.0), ssn, len, checksum }
    }

    /// The same with a length of its own and no checksum.
    pub(crate) fn map(&self, offset: u64, ssn: u32, len: u16) -> Dss {
        let dsn = WireSeq::Full(self.peer_dsn(offset).0);
        let mapping = Some(Mapping { dsn, ssn, len, checksum: None });
        Dss { mapping, ..Dss::default() }
    }

    /// A `DATA_FIN` on its own behind `offset` octets.
    pub(crate) fn fin(&self, offset: u64) -> Dss {
        let (dsn, ssn, len) = (self.peer_dsn(offset), 0, 1);
        let checksum = self.checksum.then(|| checksum::dss_checksum(dsn, ssn, len, 0));
        let mapping = Some(Mapping { dsn: WireSeq::Full(dsn.0), ssn, len, checksum });
        Dss { mapping, data_fin: true, ..Dss::default() }
    }

    /// A DSS that maps `payload` to `offset` at the flow's next octet and acknowledges `acked`.
    pub(crate) fn data(&self, flow: &Flow, offset: u64, acked: u64, payload: &[u8]) -> Dss {
        let mapping = Some(self.mapping(offset, flow.ssn(), payload));
        Dss { mapping, ..self.ack(acked) }
    }
}

/// True when `wire` is `dsn` in either width.
pub(crate) fn same(wire: WireSeq, dsn: DataSeq) -> bool {
    match wire {
        WireSeq::Full(full) => full == dsn.0,
        WireSeq::Low(low) => low == dsn.0 as u32,
    }
}

pub(crate) const fn capable(flags: CapableFlags, form: CapableForm) -> MptcpOption<'static> {
    MptcpOption::Capable(MpCapable { version: 1, flags, form })
}

/// Header and options of a segment, the checksum left zero.
fn tcp_header(flow: &Flow, seg: &Seg) -> Vec<u8> {
    let mut options = seg.options.clone();
    while !options.len().is_multiple_of(4) {
        options.push(1);
    }
    assert!(options.len() <= 40, "{} option octets", options.len());
    let header = TcpHeader {
        src_port: flow.peer.port(),
        dst_port: flow.local.port(),
        seq: SeqNum(seg.seq),
        ack: SeqNum(seg.ack),
        flags: seg.flags,
        window: seg.window,
        urgent: 0,
    };
    let mut tcp = vec![0; 20];
    header.emit(&OptionWriter::new(), &mut tcp);
    tcp[12] = ((20 + options.len()) * 4) as u8;
    tcp.extend_from_slice(&options);
    tcp
}

fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, payload_len: usize) -> Vec<u8> {
    let ip = IpEmit {
        src,
        dst,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len,
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; ip.header_len()];
    ip.emit(&mut packet);
    packet
}

/// The stack under test and its surroundings.
pub(crate) struct Script {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) now: Instant,
    tx: HeapTxQueue,
    tx_pool: HeapPool,
    rx_pool: HeapPool,
    pub(crate) listener: Option<SocketId>,
    sockets: Vec<SocketId>,
}

impl Script {
    pub(crate) fn new(configure: impl FnOnce(&mut StackConfig)) -> Self {
        let local = |addr| LocalAddress {
            addr,
            port: PortId::ROUTED,
            mtu: MTU as u16,
            endpoint: true,
            backup: false,
        };
        let mut config =
            StackConfig { addresses: vec![local(A1), local(A2)], ..StackConfig::default() };
        config.seed = [7; 32];
        config.limits.tcbs = 64;
        config.limits.connections = 16;
        config.limits.half_open = 32;
        config.limits.time_wait = 64;
        // The peer has no timestamps: they would only blur expectations.
        config.tcp.timestamps = false;
        config.mptcp.path_manager = mptcp_core::config::PathManagerKind::Server;
        configure(&mut config);
        let tx_pool = HeapPool::new(100_000, 1700);
        let now = Instant::from_millis(1_000);
        Self {
            stack: Stack::new(config, now, Box::new(tx_pool.clone())),
            now,
            tx: HeapTxQueue::new(64, tx_pool.clone()),
            tx_pool,
            rx_pool: HeapPool::new(100_000, 1700),
            listener: None,
            sockets: Vec::new(),
        }
    }

    /// A stack that listens on `A1:PORT`.
    pub(crate) fn server() -> Self {
        Self::server_with(|_| {})
    }

    pub(crate) fn server_with(configure: impl FnOnce(&mut StackConfig)) -> Self {
        let mut script = Self::new(configure);
        let options = Listen { mptcp: true, ..Listen::default() };
        let listener = script.stack.listen(at(A1, PORT), &options).expect("a free address");
        script.listener = Some(listener);
        script
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.stack.counters()
    }

    /// Everything the stack has to send now.
    pub(crate) fn out(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        loop {
            let progress = self.stack.poll_transmit(self.now, &mut self.tx);
            let before = out.len();
            while let Some(packet) = self.tx.pop() {
                out.push(Out::read(self.now, packet.data_bytes()));
            }
            assert!(out.len() < 100_000, "it never stops sending");
            if progress == Progress::Done || out.len() == before {
                return out;
            }
        }
    }

    /// Delivers a segment without looking at what comes out.
    pub(crate) fn inject(&mut self, flow: &Flow, seg: &Seg) {
        let mut tcp = tcp_header(flow, seg);
        tcp.extend_from_slice(&seg.payload);
        let sum = checksum::tcp_checksum(flow.peer.ip(), flow.local.ip(), &tcp);
        set_checksum(&mut tcp, sum);
        self.inject_ip(flow.peer.ip(), flow.local.ip(), 6, &tcp);
    }

    /// Delivers any IP payload.
    pub(crate) fn inject_ip(&mut self, src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) {
        let mut packet = ip_header(src, dst, protocol, payload.len());
        packet.extend_from_slice(payload);
        let mut buf = self.rx_pool.alloc().expect("the pool is large");
        assert!(buf.copy_from(&packet), "a packet fits into a buffer");
        self.stack.handle_burst(self.now, &mut vec![buf]);
    }

    /// Delivers a segment of any size whose checksum the port is said to have verified.
    pub(crate) fn inject_trusted(&mut self, flow: &Flow, seg: &Seg) {
        let tcp = tcp_header(flow, seg);
        let mut packet =
            ip_header(flow.peer.ip(), flow.local.ip(), 6, tcp.len() + seg.payload.len());
        packet.extend_from_slice(&tcp);
        packet.extend_from_slice(&seg.payload);
        let mut buf = HeapBuf::from_slice(&packet);
        buf.set_rx_meta(RxMeta { checksum: RxChecksum::Good, ..RxMeta::default() });
        self.stack.handle_burst(self.now, &mut vec![buf]);
    }

    /// Received buffers that something still refers to.
    pub(crate) fn received_in_use(&self) -> usize {
        self.rx_pool.in_use()
    }

    /// Buffers that wait to be sent, or to be acknowledged.
    pub(crate) fn sent_in_use(&self) -> usize {
        self.tx_pool.in_use()
    }

    /// Delivers a segment and answers what the stack sends because of it.
    pub(crate) fn send(&mut self, flow: &Flow, seg: &Seg) -> Vec<Out> {
        self.inject(flow, seg);
        self.out()
    }

    /// Sends `payload` mapped to `offset`, moves the flow on, and takes in what comes back.
    pub(crate) fn send_data(
        &mut self,
        keys: &Keys,
        flow: &mut Flow,
        offset: u64,
        acked: u64,
        payload: &[u8],
    ) -> Vec<Out> {
        let seg = flow.seg().dss(keys.data(flow, offset, acked, payload)).data(payload);
        let out = self.send(flow, &seg);
        flow.snd_nxt = flow.snd_nxt.wrapping_add(payload.len() as u32);
        flow.hears(&out);
        out
    }

    /// Lets `ms` of virtual time pass, running every timer when it is due.
    pub(crate) fn advance(&mut self, ms: u64) -> Vec<Out> {
        let until = self.now + Duration::from_millis(ms);
        let mut out = Vec::new();
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            while self.stack.handle_timeouts(self.now, 64) == Progress::More {}
            out.extend(self.out());
            assert!(out.len() < 100_000, "it never stops sending");
        }
        self.now = until;
        out
    }

    // Handshakes.

    /// Up to the SYN/ACK of an MPTCP handshake.
    pub(crate) fn half_open(&mut self, port: u16, flags: CapableFlags) -> (Flow, Out) {
        let mut flow = Flow::new(at(P1, port), at(A1, PORT));
        let out = self.send(&flow, &flow.syn().opt(&capable(flags, CapableForm::Syn)));
        assert_eq!(out.len(), 1, "{out:?}");
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        (flow, out.into_iter().next().expect("one packet"))
    }

    /// A connection after the third ACK, not confirmed yet.
    pub(crate) fn unconfirmed_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        let (flow, syn_ack) = self.half_open(40_000, flags);
        let answer = syn_ack.capable().expect("the server speaks MPTCP");
        let CapableForm::Key(stack) = answer.form else { panic!("{answer:?}") };
        let checksum = (flags | answer.flags).contains(CapableFlags::CHECKSUM);
        let keys = Keys { peer: PEER_KEY, stack, checksum };
        let form = CapableForm::Keys { sender: PEER_KEY, receiver: stack };
        let mut flags = CapableFlags::HMAC;
        flags.set(CapableFlags::CHECKSUM, checksum);
        let out = self.send(&flow, &flow.seg().opt(&capable(flags, form)));
        assert!(out.is_empty(), "{out:?}");
        let id = self.accept().expect("it is established");
        (keys, flow, id)
    }

    pub(crate) fn unconfirmed(&mut self) -> (Keys, Flow, SocketId) {
        self.unconfirmed_with(CapableFlags::HMAC)
    }

    /// A connection on which the peer showed that it maps data.
    pub(crate) fn confirmed(&mut self) -> (Keys, Flow, SocketId) {
        self.confirmed_with(CapableFlags::HMAC)
    }

    pub(crate) fn confirmed_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        let (keys, flow, id) = self.unconfirmed_with(flags);
        let out = self.send(&flow, &flow.seg().dss(keys.ack(0)));
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        assert_eq!(self.info(id).mptcp, Some(1));
        (keys, flow, id)
    }

    pub(crate) fn accept(&mut self) -> Option<SocketId> {
        let id = self.stack.accept(self.listener?)?;
        self.sockets.push(id);
        Some(id)
    }

    /// Our active open: the flow as the peer sees it, and the SYN.
    pub(crate) fn connect(&mut self) -> (Flow, SocketId, Out) {
        let with = Connect {
            local: A1,
            local_port: 0,
            remote: at(P1, PORT),
            mptcp: true,
            timeout: None,
            user_data: 0,
        };
        let id = self.stack.connect(self.now, &with).expect("room for a connection");
        self.sockets.push(id);
        let out = self.out();
        let [syn] = out.as_slice() else { panic!("{out:?}") };
        let mut flow = Flow::new(at(P1, PORT), syn.src);
        flow.hears(&out);
        (flow, id, syn.clone())
    }

    /// A SYN/ACK with `options` answers `flow`'s SYN.
    pub(crate) fn answer(&mut self, flow: &mut Flow, options: &[MptcpOption<'_>]) -> Vec<Out> {
        let mut seg = flow.syn().acks(flow.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
        for option in options {
            seg = seg.opt(option);
        }
        let out = self.send(flow, &seg);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        out
    }

    /// Our active open after the third ACK.
    pub(crate) fn connected_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        let (mut flow, id, _) = self.connect();
        let out = self.answer(&mut flow, &[capable(flags, CapableForm::Key(PEER_KEY))]);
        let [third] = out.as_slice() else { panic!("{out:?}") };
        let answer = third.capable().expect("the third ACK carries both keys");
        let CapableForm::Keys { sender, receiver } = answer.form else { panic!("{answer:?}") };
        assert_eq!(receiver, PEER_KEY);
        let checksum = answer.flags.contains(CapableFlags::CHECKSUM);
        (Keys { peer: PEER_KEY, stack: sender, checksum }, flow, id)
    }

    pub(crate) fn connected(&mut self) -> (Keys, Flow, SocketId) {
        self.connected_with(CapableFlags::HMAC)
    }

    /// The SYN of an `MP_JOIN` by the peer; answers the SYN/ACK.
    pub(crate) fn join_syn(&mut self, keys: &Keys, flow: &mut Flow, backup: bool) -> Vec<Out> {
        let syn = MpJoin::Syn { backup, address_id: 2, token: keys.stack_token(), nonce: NONCE };
        let out = self.send(flow, &flow.syn().opt(&MptcpOption::Join(syn)));
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        out
    }

    /// The third ACK to a join's SYN/ACK.
    pub(crate) fn join_ack(keys: &Keys, syn_ack: &Out) -> MptcpOption<'static> {
        let Some(MpJoin::SynAck { hmac, nonce, .. }) = syn_ack.join() else {
            panic!("no MP_JOIN in {syn_ack:?}")
        };
        let expected = keys.pair().expected_join_hmac(Version::V1, NONCE, nonce);
        assert_eq!(expected.truncated64(), hmac, "the stack's HMAC");
        let hmac = keys.pair().sent_join_hmac(Version::V1, NONCE, nonce).full();
        MptcpOption::Join(MpJoin::Ack { hmac })
    }

    /// A whole join by the peer from `from` to `to`.
    pub(crate) fn join(&mut self, keys: &Keys, from: SocketAddr, to: SocketAddr) -> Flow {
        self.join_as(keys, from, to, false)
    }

    pub(crate) fn join_as(
        &mut self,
        keys: &Keys,
        from: SocketAddr,
        to: SocketAddr,
        backup: bool,
    ) -> Flow {
        let mut flow = Flow::new(from, to);
        let out = self.join_syn(keys, &mut flow, backup);
        let answer = flow.of(&out);
        let [syn_ack] = answer.as_slice() else { panic!("{out:?}") };
        let ack = Self::join_ack(keys, syn_ack);
        let out = self.send(&flow, &flow.seg().opt(&ack));
        let fourth = flow.of(&out);
        assert!(fourth.iter().any(|o| o.is(TcpFlags::ACK) && !o.rst()), "no fourth ACK: {out:?}");
        flow
    }

    // Application.

    pub(crate) fn info(&self, id: SocketId) -> mptcp_core::stack::ConnectionInfo {
        self.stack.info(id).expect("the socket exists")
    }

    pub(crate) fn fallback(&self, id: SocketId) -> Option<FallbackReason> {
        self.info(id).fallback
    }

    /// Writes octets `offset..` of the test stream and answers what is sent.
    pub(crate) fn write(&mut self, id: SocketId, offset: u64, len: usize) -> Vec<Out> {
        let data = stream(offset, len);
        let mut sent = 0;
        while sent < len {
            sent += self.stack.send(self.now, id, &data[sent..]).expect("room to write");
        }
        self.out()
    }

    /// Everything readable now; `Err` as the stack says.
    pub(crate) fn read(&mut self, id: SocketId) -> Result<Vec<u8>, RecvError> {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.stack.recv(self.now, id, &mut chunk) {
                Ok(0) => return Ok(all),
                Ok(n) => all.extend_from_slice(&chunk[..n]),
                Err(RecvError::WouldBlock) if !all.is_empty() => return Ok(all),
                Err(error) => return if all.is_empty() { Err(error) } else { Ok(all) },
            }
        }
    }

    /// The reader gets exactly octets `offset..offset + len` of the test stream now.
    pub(crate) fn expect_stream(&mut self, id: SocketId, offset: u64, len: usize) {
        let read = self.read(id).expect("something to read");
        assert!(read == stream(offset, len), "{} octets, wanted {len}", read.len());
    }

    pub(crate) fn at_end(&mut self, id: SocketId) -> bool {
        self.stack.recv(self.now, id, &mut [0; 1]) == Ok(0)
    }

    pub(crate) fn would_block(&mut self, id: SocketId) -> bool {
        self.stack.recv(self.now, id, &mut [0; 1]) == Err(RecvError::WouldBlock)
    }

    /// Readiness reported for `id` so far.
    pub(crate) fn ready(&mut self, id: SocketId) -> Ready {
        let mut ready = Ready::empty();
        while let Some(event) = self.stack.poll_event() {
            if event.socket == id {
                ready |= event.ready;
            }
        }
        ready
    }

    /// Lets go of a socket that ended or was closed by the test itself.
    pub(crate) fn forget(&mut self, id: SocketId) {
        self.sockets.retain(|other| *other != id);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        while self.accept().is_some() {}
        for id in core::mem::take(&mut self.sockets) {
            self.stack.abort(self.now, id);
        }
        if let Some(listener) = self.listener.take() {
            self.stack.close(self.now, listener);
        }
        self.out();
        self.advance(2_000_000);
        while self.stack.poll_event().is_some() {}
        assert_eq!(self.stack.occupancy(), Occupancy::default(), "something is left");
        assert_eq!(self.tx_pool.in_use(), 0, "buffers to send leaked");
        assert_eq!(self.rx_pool.in_use(), 0, "received buffers leaked");
        assert_eq!(self.counters().internal_errors, 0);
        assert_eq!(self.counters().mp_curr_estab, 0, "connections are counted wrongly");
    }
}

/// The peer's nonce in joins.
pub(crate) const NONCE: u32 = 0x0a0b_0c0d;

/// The bytes of a packet without the trait in scope everywhere.
trait DataBytes {
    fn data_bytes(&self) -> &[u8];
}

impl DataBytes for HeapBuf {
    fn data_bytes(&self) -> &[u8] {
        mptcp_core::buf::PacketBuf::data(self)
    }
}
