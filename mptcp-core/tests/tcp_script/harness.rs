//! Scripts against one stack: inject a crafted segment, expect exactly the packets that come out,
//! at virtual times. Sequence numbers are relative to the initial ones of each side (the SYN is 0),
//! times are milliseconds since the script began. A packet nobody expected fails the script.

use core::net::{IpAddr, SocketAddr};
use mptcp_core::buf::{BufPool, HEADROOM, HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId};
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, Marking, StackConfig};
use mptcp_core::driver::Progress;
use mptcp_core::error::RecvError;
use mptcp_core::seq::SeqNum;
use mptcp_core::stack::{Connect, Listen, Ready, SocketId, Stack};
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{
    FastOpenCookie, IpEmit, IpHeader, OptionWriter, TcpFlags, TcpHeader, TcpOption, TcpSegment,
    checksum, set_checksum,
};
use std::collections::VecDeque;

/// When scripts begin; a whole second, so that per-second limits are easy to count.
const START_MS: u64 = 10_000;
const TCP: u8 = 6;
/// Initial sequence number of every peer unless a script changes it.
pub(crate) const PEER_ISS: u32 = 0x1000_0000;

/// A segment to inject, or what is expected of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seg {
    pub(crate) flags: TcpFlags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) len: usize,
    /// As on the wire. Expected: `None` accepts any.
    pub(crate) window: Option<u16>,
    pub(crate) mss: Option<u16>,
    pub(crate) wscale: Option<u8>,
    pub(crate) sack_permitted: bool,
    /// Expected: `None` accepts any.
    pub(crate) ts: Option<(u32, u32)>,
    pub(crate) sack: Vec<(u32, u32)>,
    /// ECN field of the IP header.
    pub(crate) ecn: u8,
    /// Of a Fast Open option.
    pub(crate) cookie: Option<FastOpenCookie>,
    /// TTL and DSCP of what was sent.
    pub(crate) marking: Marking,
    /// Urgent pointer.
    pub(crate) urgent: u16,
}

fn seg(flags: TcpFlags, seq: u32, ack: u32, len: usize) -> Seg {
    Seg {
        flags,
        seq,
        ack,
        len,
        window: None,
        mss: None,
        wscale: None,
        sack_permitted: false,
        ts: None,
        sack: Vec::new(),
        ecn: 0,
        cookie: None,
        marking: Marking::default(),
        urgent: 0,
    }
}

pub(crate) fn syn() -> Seg {
    seg(TcpFlags::SYN, 0, 0, 0)
}

pub(crate) fn syn_ack() -> Seg {
    seg(TcpFlags::SYN | TcpFlags::ACK, 0, 1, 0)
}

pub(crate) fn ack(seq: u32, ack: u32) -> Seg {
    seg(TcpFlags::ACK, seq, ack, 0)
}

pub(crate) fn data(seq: u32, ack: u32, len: usize) -> Seg {
    seg(TcpFlags::ACK, seq, ack, len)
}

pub(crate) fn fin(seq: u32, ack: u32) -> Seg {
    seg(TcpFlags::FIN | TcpFlags::ACK, seq, ack, 0)
}

/// RST without ACK.
pub(crate) fn rst(seq: u32) -> Seg {
    seg(TcpFlags::RST, seq, 0, 0)
}

pub(crate) fn rst_ack(seq: u32, ack: u32) -> Seg {
    seg(TcpFlags::RST | TcpFlags::ACK, seq, ack, 0)
}

impl Seg {
    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = Some(window);
        self
    }

    pub(crate) fn ts(mut self, tsval: u32, tsecr: u32) -> Self {
        self.ts = Some((tsval, tsecr));
        self
    }

    pub(crate) fn sack(mut self, blocks: &[(u32, u32)]) -> Self {
        self.sack = blocks.to_vec();
        self
    }

    pub(crate) fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn ecn(mut self, ecn: u8) -> Self {
        self.ecn = ecn;
        self
    }

    pub(crate) fn cookie(mut self, cookie: FastOpenCookie) -> Self {
        self.cookie = Some(cookie);
        self
    }

    pub(crate) fn len(mut self, len: usize) -> Self {
        self.len = len;
        self
    }

    pub(crate) fn marking(mut self, marking: Marking) -> Self {
        self.marking = marking;
        self
    }

    /// URG, and where the urgent data ends.
    pub(crate) fn urgent(mut self, ahead: u16) -> Self {
        self.flags |= TcpFlags::URG;
        self.urgent = ahead;
        self
    }
}

/// What a peer offers in its SYN.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) mss: Option<u16>,
    pub(crate) wscale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) ts: bool,
    /// Window field of every segment that does not say otherwise.
    pub(crate) window: u16,
}

impl Default for Peer {
    fn default() -> Self {
        Self { mss: Some(1460), wscale: Some(7), sack: true, ts: false, window: 8192 }
    }
}

/// One connection of the script.
pub(crate) struct Leg {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    pub(crate) id: Option<SocketId>,
    pub(crate) offer: Peer,
    /// Shift of the windows we announce.
    pub(crate) rcv_shift: u8,
    ts: bool,
    /// Our last TSval.
    pub(crate) tsval: u32,
    out: VecDeque<(Instant, TcpHeader, Seg, Vec<u8>)>,
    /// Octets written by our application.
    pub(crate) written: u32,
    read: u32,
}

pub(crate) struct Script {
    pub(crate) stack: Stack<HeapBuf>,
    pub(crate) pool: HeapPool,
    pub(crate) now: Instant,
    pub(crate) listener: Option<SocketId>,
    pub(crate) legs: Vec<Leg>,
    current: usize,
    tx: HeapTxQueue,
    pub(crate) events: Vec<(SocketId, Ready)>,
}

/// Opens with data.
type ConnectSaying = fn(
    &mut Stack<HeapBuf>,
    Instant,
    &Connect,
    &[u8],
) -> Result<(SocketId, usize), mptcp_core::error::OpenError>;

/// Octet `at` of every stream.
pub(crate) fn octet(at: u32) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

pub(crate) fn pattern(start: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| octet(start.wrapping_add(i))).collect()
}

impl Script {
    /// An idle stack at 10.0.0.1 and fd00::1.
    pub(crate) fn new(change: impl FnOnce(&mut StackConfig)) -> Self {
        Self::with_reserve(0, change)
    }

    /// The same, with so many buffers that its stack must leave to others.
    pub(crate) fn with_reserve(reserve: usize, change: impl FnOnce(&mut StackConfig)) -> Self {
        let mut config = StackConfig { seed: [7; 32], ..StackConfig::default() };
        // Scripts count segments, not the time between them.
        config.tcp.congestion = CongestionAlgorithm::Cubic;
        config.tcp.pacing = false;
        for addr in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])] {
            config.addresses.push(LocalAddress {
                addr,
                port: PortId::ROUTED,
                mtu: 1500,
                endpoint: false,
                backup: false,
            });
        }
        change(&mut config);
        let pool = HeapPool::new(100_000, 1700);
        let now = Instant::from_millis(START_MS);
        let boxed: Box<dyn BufPool<HeapBuf> + Send> = Box::new(pool.clone().with_reserve(reserve));
        let mut script = Self {
            stack: Stack::new(config, now, boxed),
            tx: HeapTxQueue::new(4096, pool.clone()),
            pool,
            now,
            listener: None,
            legs: Vec::new(),
            current: 0,
            events: Vec::new(),
        };
        script.add_leg("10.0.0.1:80", "10.0.0.2:4000", Peer::default());
        script
    }

    pub(crate) fn add_leg(&mut self, local: &str, peer: &str, offer: Peer) -> &mut Self {
        self.legs.push(Leg {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            iss: SeqNum(0),
            irs: SeqNum(PEER_ISS),
            id: None,
            offer,
            rcv_shift: 0,
            ts: false,
            tsval: 0,
            out: VecDeque::new(),
            written: 0,
            read: 0,
        });
        self.current = self.legs.len() - 1;
        self
    }

    /// Later calls are about this connection.
    pub(crate) fn on(&mut self, leg: usize) -> &mut Self {
        self.current = leg;
        self
    }

    pub(crate) fn leg(&mut self) -> &mut Leg {
        &mut self.legs[self.current]
    }

    pub(crate) fn id(&self) -> SocketId {
        self.legs[self.current].id.expect("the connection is open")
    }

    // Openings.

    pub(crate) fn listen(&mut self) -> &mut Self {
        self.listen_with(Listen::default())
    }

    pub(crate) fn listen_with(&mut self, options: Listen) -> &mut Self {
        let local = self.legs[self.current].local;
        self.listener = Some(self.stack.listen(local, &options).unwrap());
        self
    }

    pub(crate) fn connect(&mut self) -> &mut Self {
        self.connect_within(None)
    }

    pub(crate) fn connect_within(&mut self, timeout: Option<Duration>) -> &mut Self {
        self.start(timeout);
        self.flush()
    }

    /// As `connect`; the SYN is not out yet.
    pub(crate) fn start(&mut self, timeout: Option<Duration>) {
        let leg = &self.legs[self.current];
        let with = Connect {
            local: leg.local.ip(),
            local_port: leg.local.port(),
            remote: leg.peer,
            mptcp: false,
            timeout,
            user_data: 0,
        };
        let id = self.stack.connect(self.now, &with).unwrap();
        self.leg().id = Some(id);
    }

    /// Our SYN with `len` octets to go with it, as many as may.
    pub(crate) fn connect_early(&mut self, len: usize) -> &mut Self {
        self.connect_saying(len, Stack::connect_with_data)
    }

    /// The same without Fast Open's option.
    pub(crate) fn connect_with_text(&mut self, len: usize) -> &mut Self {
        self.connect_saying(len, Stack::connect_with_text)
    }

    fn connect_saying(&mut self, len: usize, connect: ConnectSaying) -> &mut Self {
        let leg = &self.legs[self.current];
        let with = Connect {
            local: leg.local.ip(),
            local_port: leg.local.port(),
            remote: leg.peer,
            mptcp: false,
            timeout: None,
            user_data: 0,
        };
        let opened = connect(&mut self.stack, self.now, &with, &pattern(1, len));
        let (id, queued) = opened.unwrap();
        assert_eq!(queued, len, "the send buffer took all of it");
        self.leg().id = Some(id);
        self.leg().written = len as u32;
        self.flush()
    }

    /// Our socket after a passive open from `offer`, its handshake done at once.
    pub(crate) fn server(change: impl FnOnce(&mut StackConfig), offer: Peer) -> Self {
        let mut script = Self::new(change);
        script.leg().offer = offer;
        script.listen().peer_opens();
        script
    }

    /// A peer's whole handshake with the listener.
    pub(crate) fn peer_opens(&mut self) -> &mut Self {
        let shift = Self::shift(&self.stack);
        let syn = self.peer_syn();
        self.inject(syn);
        let answer = self.take();
        assert_eq!(answer.flags, TcpFlags::SYN | TcpFlags::ACK, "{answer:?}");
        let leg = self.leg();
        leg.ts = answer.ts.is_some();
        leg.rcv_shift = if answer.wscale.is_some() { shift } else { 0 };
        self.inject(ack(1, 1)).expect_nothing().accept()
    }

    /// Our socket after an active open whose SYN/ACK came after `rtt_ms`. Its time is `rtt_ms`.
    pub(crate) fn client(change: impl FnOnce(&mut StackConfig), offer: Peer, rtt_ms: u64) -> Self {
        let mut script = Self::new(change);
        script.leg().offer = offer;
        script.leg().local.set_port(5000);
        script.connect();
        script.take();
        script.at(rtt_ms).peer_answers().expect(ack(1, 1));
        script
    }

    /// The peer's SYN/ACK.
    pub(crate) fn peer_answers(&mut self) -> &mut Self {
        let shift = Self::shift(&self.stack);
        let answer = self.peer_syn();
        let answer = Seg { flags: TcpFlags::SYN | TcpFlags::ACK, ack: 1, ..answer };
        let leg = self.leg();
        leg.ts = leg.offer.ts;
        leg.rcv_shift = if leg.offer.wscale.is_some() { shift } else { 0 };
        self.inject(answer)
    }

    fn shift(stack: &Stack<HeapBuf>) -> u8 {
        let max = u64::from(stack.config().tcp.recv_buffer_max);
        (0..14).find(|shift| 65_535 << shift >= max).unwrap_or(14)
    }

    /// The SYN with everything the peer offers.
    pub(crate) fn peer_syn(&mut self) -> Seg {
        let peer_clock = self.peer_clock();
        let leg = self.leg();
        let offer = leg.offer;
        Seg {
            mss: offer.mss,
            wscale: offer.wscale,
            sack_permitted: offer.sack,
            ts: offer.ts.then_some((peer_clock, leg.tsval)),
            ..syn()
        }
    }

    pub(crate) fn accept(&mut self) -> &mut Self {
        let id = self.stack.accept(self.listener.expect("listening"));
        self.leg().id = Some(id.expect("a connection waits"));
        self
    }

    // Time.

    /// What the peer puts into TSval.
    pub(crate) fn peer_clock(&self) -> u32 {
        self.now.as_millis() as u32 + 77_000
    }

    /// Moves time to `ms`; nothing may be sent before that, nor be left unexpected.
    pub(crate) fn at(&mut self, ms: u64) -> &mut Self {
        let target = Instant::from_millis(START_MS + ms);
        assert!(target >= self.now, "time goes forward");
        self.expect_nothing();
        while let Some(next) = self.stack.poll_timeout().filter(|&t| t < target) {
            self.now = self.now.max(next);
            self.run();
            self.expect_nothing();
        }
        self.now = target;
        self.run();
        self
    }

    /// Moves time to `ms`, whatever is sent meanwhile.
    pub(crate) fn skip_to(&mut self, ms: u64) -> &mut Self {
        let target = Instant::from_millis(START_MS + ms);
        while let Some(next) = self.stack.poll_timeout().filter(|&t| t < target) {
            self.now = self.now.max(next);
            self.run();
        }
        self.take_all();
        self.now = target;
        self.run();
        self
    }

    /// Moves time to `ms` and adds what is sent meanwhile, then included, to `into`.
    pub(crate) fn skip_collecting(&mut self, ms: u64, into: &mut Vec<Seg>) {
        let target = Instant::from_millis(START_MS + ms);
        while let Some(next) = self.stack.poll_timeout().filter(|&t| t <= target) {
            self.now = self.now.max(next);
            self.run();
            into.extend(self.take_all());
        }
        self.now = self.now.max(target);
    }

    /// Moves time to the next packet, which must be sent in the millisecond `ms` or the next (timers
    /// have ticks).
    pub(crate) fn until(&mut self, ms: u64) -> &mut Self {
        let start = Instant::from_millis(START_MS + ms);
        let end = Instant::from_millis(START_MS + ms + 2);
        self.expect_nothing();
        while self.legs.iter().all(|leg| leg.out.is_empty()) {
            let next = self.stack.poll_timeout().unwrap_or(Instant::MAX);
            assert!(next < end, "nothing was sent until {ms} ms; next timer {next:?}");
            self.now = self.now.max(next);
            self.run();
        }
        assert!(self.now >= start, "sent at {:?} instead of {start:?}: {:?}", self.now, self.out());
        self
    }

    /// Throws away what is sent, whatever it holds.
    pub(crate) fn drain(&mut self) {
        let _ = self.stack.poll_transmit(self.now, &mut self.tx);
        while self.tx.pop().is_some() {}
        while self.stack.poll_event().is_some() {}
    }

    /// Moves time to `ms` and throws away what is sent.
    pub(crate) fn skip_until_quiet(&mut self, ms: u64) {
        let target = Instant::from_millis(START_MS + ms);
        while let Some(next) = self.stack.poll_timeout().filter(|&t| t < target) {
            self.now = self.now.max(next);
            let _ = self.stack.handle_timeouts(self.now, 64);
            self.drain();
        }
        self.now = self.now.max(target);
    }

    /// Milliseconds since the script began.
    pub(crate) fn ms(&self) -> u64 {
        self.now.as_millis() - START_MS
    }

    fn run(&mut self) {
        while self.stack.handle_timeouts(self.now, 64) == Progress::More {}
        self.flush();
    }

    /// Lets the stack send, and files what it sent by connection.
    pub(crate) fn flush(&mut self) -> &mut Self {
        let progress = self.stack.poll_transmit(self.now, &mut self.tx);
        assert_eq!(progress, Progress::Done);
        while let Some(packet) = self.tx.pop() {
            self.file(packet.data());
        }
        while let Some(event) = self.stack.poll_event() {
            self.events.push((event.socket, event.ready));
        }
        self
    }

    fn file(&mut self, bytes: &[u8]) {
        let ip = IpHeader::parse(bytes).expect("a whole IP packet");
        assert_eq!(ip.total_len, bytes.len());
        if ip.protocol != 6 {
            // ICMP errors about what is not TCP: `tests/refusals.rs`.
            return;
        }
        let bytes = &bytes[ip.header_len..];
        assert!(checksum::verify_tcp(ip.src, ip.dst, bytes), "bad checksum");
        let view = TcpSegment::parse(bytes).expect("a whole TCP header");
        let (src, dst) =
            (SocketAddr::new(ip.src, view.src_port), SocketAddr::new(ip.dst, view.dst_port));
        let leg = self
            .legs
            .iter_mut()
            .find(|leg| leg.local == src && leg.peer == dst)
            .unwrap_or_else(|| panic!("a packet from {src} to {dst}, which no leg is"));
        if view.flags.contains(TcpFlags::SYN) {
            leg.iss = view.seq;
        }
        let rst = view.flags.contains(TcpFlags::RST);
        let acks = view.flags.contains(TcpFlags::ACK);
        let mut seg = Seg {
            flags: view.flags - TcpFlags::PSH,
            seq: if rst && acks && view.seq.0 == 0 { 0 } else { view.seq.since(leg.iss) },
            ack: if acks { view.ack.since(leg.irs) } else { 0 },
            len: view.payload.len(),
            window: Some(view.window),
            mss: None,
            wscale: None,
            sack_permitted: false,
            ts: None,
            sack: Vec::new(),
            ecn: ip.ecn(),
            cookie: None,
            marking: Marking::new(ip.hop_limit, ip.traffic_class >> 2).expect("a TTL"),
            urgent: view.urgent,
        };
        for option in view.options() {
            match option.expect("well-formed options") {
                TcpOption::MaxSegmentSize(mss) => seg.mss = Some(mss),
                TcpOption::WindowScale(shift) => seg.wscale = Some(shift),
                TcpOption::SackPermitted => seg.sack_permitted = true,
                TcpOption::Timestamps { tsval, tsecr } => {
                    leg.tsval = tsval;
                    seg.ts = Some((tsval, tsecr));
                }
                TcpOption::Sack(blocks) => {
                    let relative = |(s, e): (SeqNum, SeqNum)| (s.since(leg.irs), e.since(leg.irs));
                    seg.sack = blocks.iter().map(relative).collect();
                }
                TcpOption::FastOpen(cookie) => seg.cookie = Some(cookie),
                other => panic!("{other:?} on a plain connection"),
            }
        }
        let header = TcpHeader {
            src_port: view.src_port,
            dst_port: view.dst_port,
            seq: view.seq,
            ack: view.ack,
            flags: view.flags,
            window: view.window,
            urgent: 0,
        };
        if !view.payload.is_empty() {
            let start = seg.seq + u32::from(view.flags.contains(TcpFlags::SYN));
            assert_eq!(view.payload, pattern(start, seg.len), "payload of {seg:?}");
        }
        leg.out.push_back((self.now, header, seg, view.payload.to_vec()));
    }

    // Packets.

    /// The IP packet of `seg` from the current peer.
    pub(crate) fn packet(&mut self, seg: &Seg) -> Vec<u8> {
        let clock = self.peer_clock();
        let leg = self.leg();
        let mut options = OptionWriter::new();
        let mut fits = true;
        if let Some(mss) = seg.mss {
            fits &= options.push(&TcpOption::MaxSegmentSize(mss));
        }
        if seg.sack_permitted {
            fits &= options.push(&TcpOption::SackPermitted);
        }
        let ts = seg.ts.or_else(|| leg.ts.then_some((clock, leg.tsval)));
        if let Some((tsval, tsecr)) = ts {
            fits &= options.push_timestamps(tsval, tsecr);
        }
        if let Some(shift) = seg.wscale {
            fits &= options.push(&TcpOption::WindowScale(shift));
        }
        if let Some(cookie) = seg.cookie {
            fits &= options.push(&TcpOption::FastOpen(cookie));
        }
        if !seg.sack.is_empty() {
            let blocks: Vec<_> =
                seg.sack.iter().map(|&(s, e)| (leg.iss.add(s), leg.iss.add(e))).collect();
            fits &= options.push_sack(&blocks) == blocks.len();
        }
        assert!(fits, "the options fit");
        let acks = seg.flags.contains(TcpFlags::ACK);
        let header = TcpHeader {
            src_port: leg.peer.port(),
            dst_port: leg.local.port(),
            seq: leg.irs.add(seg.seq),
            ack: if acks { leg.iss.add(seg.ack) } else { SeqNum(0) },
            flags: seg.flags,
            window: seg.window.unwrap_or(leg.offer.window),
            urgent: seg.urgent,
        };
        let syn = u32::from(seg.flags.contains(TcpFlags::SYN));
        let payload = pattern(seg.seq + syn, seg.len);
        let (from, to) = (leg.peer.ip(), leg.local.ip());
        build_with_class(from, to, seg.ecn, &header, &options, &payload)
    }

    pub(crate) fn inject(&mut self, seg: Seg) -> &mut Self {
        let bytes = self.packet(&seg);
        self.inject_bytes(&bytes)
    }

    pub(crate) fn inject_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let mut buf = HeapBuf::with_capacity(HEADROOM, 1700.max(bytes.len()));
        assert!(buf.copy_from(bytes));
        self.stack.handle_burst(self.now, &mut vec![buf]);
        self.flush()
    }

    /// Several segments in one burst: the stack answers once all are in.
    pub(crate) fn inject_burst(&mut self, segs: &[Seg]) -> &mut Self {
        let packets: Vec<_> = segs.iter().map(|seg| self.packet(seg)).collect();
        let mut burst = packets.iter().map(|bytes| HeapBuf::from_slice(bytes)).collect();
        self.stack.handle_burst(self.now, &mut burst);
        self.flush()
    }

    /// The same segments, each in a burst of its own, before the stack answers.
    pub(crate) fn inject_singly(&mut self, segs: &[Seg]) -> &mut Self {
        for seg in segs {
            let packet = HeapBuf::from_slice(&self.packet(seg));
            self.stack.handle_burst(self.now, &mut vec![packet]);
        }
        self.flush()
    }

    fn out(&self) -> Vec<&Seg> {
        self.legs.iter().flat_map(|leg| leg.out.iter().map(|(_, _, seg, _)| seg)).collect()
    }

    /// The next packet, whatever it is.
    pub(crate) fn take(&mut self) -> Seg {
        self.take_with_header().0
    }

    pub(crate) fn take_with_header(&mut self) -> (Seg, TcpHeader) {
        let ms = self.ms();
        let next = self.leg().out.pop_front();
        let (_, header, seg, _) = next.unwrap_or_else(|| panic!("nothing was sent at {ms} ms"));
        (seg, header)
    }

    /// Every packet sent and not looked at yet.
    pub(crate) fn take_all(&mut self) -> Vec<Seg> {
        self.leg().out.drain(..).map(|(_, _, seg, _)| seg).collect()
    }

    /// The next packet is exactly this one.
    #[track_caller]
    pub(crate) fn expect(&mut self, want: Seg) -> &mut Self {
        let ms = self.ms();
        let Some((_, _, mut got, _)) = self.leg().out.pop_front() else {
            panic!("at {ms} ms: nothing was sent instead of {want:?}");
        };
        if want.window.is_none() {
            got.window = None;
        }
        if want.ts.is_none() {
            got.ts = None;
        }
        let (mut reduced, syn) = (want.clone(), want.flags.contains(TcpFlags::SYN));
        if syn && want.mss.is_none() {
            // Only the options a script names are judged on SYNs.
            (reduced.mss, reduced.wscale) = (got.mss, got.wscale);
            reduced.sack_permitted = got.sack_permitted;
        }
        assert_eq!(got, reduced, "at {ms} ms (left: sent, right: expected)");
        self
    }

    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) -> &mut Self {
        assert!(self.out().is_empty(), "at {} ms: unexpected {:?}", self.ms(), self.out());
        self
    }

    // The application.

    pub(crate) fn write(&mut self, len: usize) -> &mut Self {
        let (id, start) = (self.id(), self.leg().written + 1);
        let sent = self.stack.send(self.now, id, &pattern(start, len)).unwrap();
        assert_eq!(sent, len, "the send buffer took all of it");
        self.leg().written += len as u32;
        self.flush()
    }

    /// Reads up to `len` octets and compares them; answers how many there were.
    pub(crate) fn read_some(&mut self, len: usize) -> Result<usize, RecvError> {
        let mut into = vec![0; len];
        let (id, start) = (self.id(), self.leg().read + 1);
        let got = self.stack.recv(self.now, id, &mut into)?;
        assert_eq!(into[..got], pattern(start, got), "what was read");
        self.leg().read += got as u32;
        self.flush();
        Ok(got)
    }

    #[track_caller]
    pub(crate) fn read(&mut self, len: usize) -> &mut Self {
        assert_eq!(self.read_some(len.max(1)), Ok(len));
        self
    }

    #[track_caller]
    pub(crate) fn read_blocks(&mut self) -> &mut Self {
        assert_eq!(self.read_some(1), Err(RecvError::WouldBlock));
        self
    }

    pub(crate) fn shutdown(&mut self) -> &mut Self {
        let id = self.id();
        self.stack.shutdown_write(self.now, id);
        self.flush()
    }

    pub(crate) fn close(&mut self) -> &mut Self {
        let id = self.id();
        self.stack.close(self.now, id);
        self.flush()
    }

    pub(crate) fn abort(&mut self) -> &mut Self {
        let id = self.id();
        self.stack.abort(self.now, id);
        self.flush()
    }

    // Looking inside.

    pub(crate) fn state(&self) -> State {
        self.stack.info(self.id()).expect("the connection exists").subflows[0].state
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.stack.counters().dropped(reason)
    }

    /// Readiness reported for the current connection since the last call.
    pub(crate) fn ready(&mut self) -> Ready {
        let id = self.id();
        let mine = self.events.iter().filter(|(socket, _)| *socket == id);
        let all = mine.fold(Ready::empty(), |all, (_, ready)| all | *ready);
        self.events.retain(|(socket, _)| *socket != id);
        all
    }

    /// The window in octets that `seg` offers.
    pub(crate) fn window_of(&mut self, seg: &Seg) -> u32 {
        u32::from(seg.window.expect("taken from the wire")) << self.leg().rcv_shift
    }
}

/// An IP packet with right lengths and checksums.
pub(crate) fn build(
    src: IpAddr,
    dst: IpAddr,
    header: &TcpHeader,
    options: &OptionWriter,
    payload: &[u8],
) -> Vec<u8> {
    build_with_class(src, dst, 0, header, options, payload)
}

fn build_with_class(
    src: IpAddr,
    dst: IpAddr,
    traffic_class: u8,
    header: &TcpHeader,
    options: &OptionWriter,
    payload: &[u8],
) -> Vec<u8> {
    let ip = IpEmit {
        src,
        dst,
        protocol: TCP,
        traffic_class,
        hop_limit: 64,
        payload_len: header.len(options) + payload.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut bytes = vec![0; ip.header_len() + ip.payload_len];
    let ip_len = ip.emit(&mut bytes);
    let tcp = &mut bytes[ip_len..];
    let len = header.emit(options, tcp);
    tcp[len..].copy_from_slice(payload);
    let sum = checksum::tcp_checksum(src, dst, tcp);
    set_checksum(tcp, sum);
    bytes
}
