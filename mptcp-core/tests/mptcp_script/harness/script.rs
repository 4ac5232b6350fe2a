//! The stack under test: what goes in, what comes out, and what must be left at the end.

use super::packets::{ip_header, tcp_header};
use super::{A1, A2, Flow, Keys, MTU, Out, PORT, Seg, at};
use core::net::IpAddr;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, HeapTxQueue, PortId, RxChecksum, RxMeta};
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, PathManagerKind, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::stack::{Listen, Occupancy, SocketId, Stack};
use mptcp_core::stats::Counters;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{Version, checksum, set_checksum};

/// The stack under test and its surroundings.
pub(crate) struct Script {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) now: Instant,
    tx: HeapTxQueue,
    tx_pool: HeapPool,
    rx_pool: HeapPool,
    pub(crate) listener: Option<SocketId>,
    pub(super) sockets: Vec<SocketId>,
    /// The version of the connection under test.
    pub(crate) version: Version,
    /// Joins with unknown tokens so far.
    strangers: u64,
    /// What is sent here may open connections of the other version.
    pub(crate) any_version: bool,
}

impl Script {
    /// A stack that opens connections of `version`.
    pub(crate) fn new(version: Version, configure: impl FnOnce(&mut StackConfig)) -> Self {
        Self::serving(&[version], version, configure)
    }

    /// A stack that serves `versions`, for a connection of `version`.
    pub(crate) fn serving(
        versions: &[Version],
        version: Version,
        configure: impl FnOnce(&mut StackConfig),
    ) -> Self {
        let (rx_pool, tx_pool) = (HeapPool::new(100_000, 1700), HeapPool::new(100_000, 1700));
        Self::keeping(tx_pool.clone(), tx_pool, rx_pool, versions, version, configure)
    }

    /// What the stack keeps is out of the pool `own`.
    fn keeping(
        own: HeapPool,
        tx_pool: HeapPool,
        rx_pool: HeapPool,
        versions: &[Version],
        version: Version,
        configure: impl FnOnce(&mut StackConfig),
    ) -> Self {
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
        // Scripts count segments, not the time between them.
        config.tcp.congestion = CongestionAlgorithm::Cubic;
        config.tcp.pacing = false;
        config.mptcp.path_manager = PathManagerKind::Server;
        config.mptcp.versions = versions.to_vec();
        configure(&mut config);
        let now = Instant::from_millis(1_000);
        Self {
            stack: Stack::new(config, now, Box::new(own)),
            now,
            tx: HeapTxQueue::new(64, tx_pool.clone()),
            tx_pool,
            rx_pool,
            listener: None,
            sockets: Vec::new(),
            version,
            strangers: 0,
            any_version: false,
        }
    }

    /// A stack that listens on `A1:PORT` and serves both versions there.
    pub(crate) fn server(version: Version) -> Self {
        Self::server_with(version, |_| {})
    }

    pub(crate) fn server_with(version: Version, configure: impl FnOnce(&mut StackConfig)) -> Self {
        let mut script = Self::serving(&[Version::V0, Version::V1], version, configure);
        script.listen();
        script
    }

    /// A server that has `limit` buffers for everything, of which it keeps `reserve` free.
    pub(crate) fn short_of_memory(version: Version, limit: usize, reserve: usize) -> Self {
        let pool = HeapPool::new(limit, 1700);
        let own = pool.clone().with_reserve(reserve);
        let versions = [Version::V0, Version::V1];
        let mut script = Self::keeping(own, pool.clone(), pool, &versions, version, |_| {});
        script.listen();
        script
    }

    /// As with a port that sends segments in one piece: those of a burst share their mapping.
    pub(crate) fn join_segments(&mut self) {
        self.tx = HeapTxQueue::new(64, self.tx_pool.clone()).with_segmentation_offload();
    }

    fn listen(&mut self) {
        let options = Listen { mptcp: true, ..Listen::default() };
        let listener = self.stack.listen(at(A1, PORT), &options).expect("a free address");
        self.listener = Some(listener);
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.stack.counters()
    }

    /// Everything the stack has to send now.
    pub(crate) fn out(&mut self) -> Vec<Out> {
        let strangers = self.counters().mp_join_no_token_found;
        let stranger = core::mem::replace(&mut self.strangers, strangers) != strangers;
        let mut out = Vec::new();
        loop {
            let progress = self.stack.poll_transmit(self.now, &mut self.tx);
            let before = out.len();
            while let Some(packet) = self.tx.pop() {
                let bytes = mptcp_core::buf::PacketBuf::data(&packet);
                out.push(Out::read(self.now, bytes, self.version, stranger, self.any_version));
            }
            assert!(out.len() < 100_000, "it never stops sending");
            if progress == Progress::Done || out.len() == before {
                return out;
            }
        }
    }

    /// Delivers a segment without looking at what comes out.
    pub(crate) fn inject(&mut self, flow: &Flow, seg: &Seg) {
        let tcp = tcp_packet(flow, seg);
        self.inject_ip(flow.peer.ip(), flow.local.ip(), 6, &tcp);
    }

    /// Delivers several at once.
    pub(crate) fn inject_burst(&mut self, segs: &[(&Flow, &Seg)]) {
        let mut burst = Vec::new();
        for (flow, seg) in segs {
            let tcp = tcp_packet(flow, seg);
            burst.push(self.received(flow.peer.ip(), flow.local.ip(), 6, &tcp));
        }
        self.stack.handle_burst(self.now, &mut burst);
    }

    /// Delivers any IP payload.
    pub(crate) fn inject_ip(&mut self, src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) {
        let buf = self.received(src, dst, protocol, payload);
        self.stack.handle_burst(self.now, &mut vec![buf]);
    }

    fn received(&self, src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> HeapBuf {
        let mut packet = ip_header(src, dst, protocol, payload.len());
        packet.extend_from_slice(payload);
        let mut buf = self.rx_pool.clone().alloc().expect("the pool is large");
        assert!(buf.copy_from(&packet), "a packet fits into a buffer");
        buf
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
}

/// Header, options and text, with their checksum.
fn tcp_packet(flow: &Flow, seg: &Seg) -> Vec<u8> {
    let mut tcp = tcp_header(flow, seg);
    tcp.extend_from_slice(&seg.payload);
    let sum = checksum::tcp_checksum(flow.peer.ip(), flow.local.ip(), &tcp);
    set_checksum(&mut tcp, sum);
    tcp
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
