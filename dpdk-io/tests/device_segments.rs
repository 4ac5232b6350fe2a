//! Segments in one piece, between `net_virtio_user` and `net_vhost` in one process: one end cuts nothing itself and
//! the other takes in what was joined, so that TSO of the one is LRO of the other, either way.
//!
//! Two loops with a stack each take turns in virtual time; what arrives is compared with what was sent. `support` says
//! how tests of devices are run.

#![cfg_attr(have_dpdk, expect(clippy::unwrap_used, reason = "helpers of tests are tests"))]

mod support;

#[cfg(not(have_dpdk))]
#[test]
fn skipped_without_libdpdk() {
    support::skip("segments");
}

#[cfg(have_dpdk)]
mod segments {
    use crate::support::turn::Turn;
    use core::net::{IpAddr, SocketAddr};
    use dpdk_io::dpdk::batch::TxCapabilities;
    use dpdk_io::dpdk::eal;
    use dpdk_io::dpdk::mbuf::Mbuf;
    use dpdk_io::dpdk::pool::MbufPool;
    use dpdk_io::dpdk::port::{Port, RxQueue, TxQueue};
    use dpdk_io::l2::{L2, L2Config, L2Port};
    use dpdk_io::nic::{Flushed, Nic, Pushed, Received};
    use dpdk_io::shard::ShardLoop;
    use dpdk_io::{DropReason, Offload, PortConfig, ShardCounters};
    use mptcp_core::buf::{BufPool, PacketBuf, PortId, TxMeta};
    use mptcp_core::config::{LocalAddress, StackConfig};
    use mptcp_core::driver::Application;
    use mptcp_core::stack::{Connect, Listen, SocketId, Stack};
    use mptcp_core::time::{Duration, Instant};
    use std::sync::{Arc, OnceLock};

    static POOL: OnceLock<MbufPool> = OnceLock::new();
    const PORT: u16 = 80;
    const OCTETS: usize = 3_000_000;
    /// Of virtual time.
    const STEP: Duration = Duration::from_micros(100);
    const MOST_STEPS: usize = 200_000;

    fn octet(at: usize) -> u8 {
        (at.wrapping_mul(0x9e37_79b9) >> 13) as u8
    }

    /// A stream one way, at one of its ends.
    struct End {
        stack: Stack<Mbuf>,
        listener: Option<SocketId>,
        socket: Option<SocketId>,
        /// Sent or received.
        octets: usize,
        sends: bool,
    }

    impl Application for End {
        type Buf = Mbuf;

        fn stack(&self) -> &Stack<Mbuf> {
            &self.stack
        }

        fn stack_mut(&mut self) -> &mut Stack<Mbuf> {
            &mut self.stack
        }

        fn react(&mut self, now: Instant) {
            while self.stack.poll_event().is_some() {}
            if let Some(listener) = self.listener {
                self.socket = self.socket.or_else(|| self.stack.accept(listener));
            }
            let Some(id) = self.socket else { return };
            while self.sends && self.octets < OCTETS {
                let end = OCTETS.min(self.octets + 20_000);
                let block: Vec<u8> = (self.octets..end).map(octet).collect();
                match self.stack.send(now, id, &block) {
                    Ok(taken) if taken > 0 => self.octets += taken,
                    _ => break,
                }
            }
            while !self.sends
                && let Ok(Some(buf)) = self.stack.recv_buf(now, id)
            {
                for (at, octet_there) in buf.data().iter().enumerate() {
                    assert_eq!(*octet_there, octet(self.octets + at), "octet {}", self.octets + at);
                }
                self.octets += buf.data().len();
            }
        }
    }

    /// One port's queues.
    struct OnePort {
        rx: RxQueue,
        tx: TxQueue,
        pool: MbufPool,
        /// One received packet in so many is lost; 0: none.
        loses: usize,
        seen: usize,
    }

    impl Nic<Mbuf> for OnePort {
        fn ports(&self) -> u8 {
            1
        }

        fn receive(&mut self, _port: PortId, into: &mut Vec<Mbuf>) -> Received {
            let received = self.rx.receive(into);
            let (loses, seen) = (self.loses, &mut self.seen);
            into.retain(|_| {
                *seen += 1;
                loses == 0 || !seen.is_multiple_of(loses)
            });
            received
        }

        fn push(&mut self, _port: PortId, frame: Mbuf) -> Pushed {
            self.tx.push(frame)
        }

        fn flush(&mut self, _port: PortId) -> Flushed {
            self.tx.flush()
        }

        fn backlog(&self, _port: PortId) -> usize {
            self.tx.backlog()
        }

        fn room(&self, _port: PortId) -> usize {
            self.tx.room()
        }

        fn clear(&mut self, _port: PortId) -> usize {
            self.tx.clear()
        }

        fn alloc(&mut self) -> Option<Mbuf> {
            self.pool.alloc()
        }

        fn alloc_copy(&mut self) -> Option<Mbuf> {
            self.pool.alloc()
        }

        fn checksum_offload(&self) -> bool {
            true
        }

        fn segmentation_offload(&self, _port: PortId) -> bool {
            self.tx.cuts_segments()
        }
    }

    struct Bench {
        ports: [Arc<Port>; 2],
        pool: MbufPool,
        names: [String; 2],
        turn: Turn,
    }

    impl Bench {
        /// `virtio` and `vhost` as they are configured.
        fn new(tso: Offload, lro: Offload) -> Self {
            let turn = Turn::take();
            let (eal, number) = (turn.eal, turn.number);
            // Pools stay until the process ends.
            let pool = *POOL.get_or_init(|| turn.pool(8191));
            let socket =
                std::env::temp_dir().join(format!("plait-tso-{}-{number}", std::process::id()));
            let names = [format!("net_virtio_user{number}"), format!("net_vhost{number}")];
            let at = socket.display();
            let open = |name: &str, id, tso, lro| {
                let config = PortConfig { tso, lro, ..PortConfig::new("p", name) };
                Port::open(eal, &config, PortId(id), 1, &[0], &[pool]).unwrap()
            };
            eal::create_vdev(eal, &names[1], &format!("iface={at},queues=1,tso=1")).unwrap();
            let vhost = open(&names[1], 0, Offload::Auto, Offload::Off);
            eal::create_vdev(eal, &names[0], &format!("path={at},queues=1")).unwrap();
            let virtio = open(&names[0], 0, tso, lro);
            let up = |port: &Port| port.link().0;
            for _ in 0..1000 {
                if up(&virtio) && up(&vhost) {
                    break;
                }
                std::thread::sleep(core::time::Duration::from_millis(10));
            }
            assert!(up(&virtio) && up(&vhost), "the two do not find each other");
            Self { ports: [virtio, vhost], pool, names, turn }
        }

        /// `OCTETS` from port `from` to the other one. What each of them counted, the sender first.
        fn carry(
            &self,
            from: usize,
            (mptcp, v6): (bool, bool),
            loses: usize,
            assume: Option<TxCapabilities>,
        ) -> [Arc<ShardCounters>; 2] {
            let addr = |end: usize| -> IpAddr {
                if v6 {
                    [0xfd00, 0, 0, 0, 0, 0, 0, 1 + end as u16].into()
                } else {
                    [10, 7, 0, 1 + end as u8].into()
                }
            };
            let mut now = Instant::from_millis(1_000);
            let mut ends = [from, 1 - from].map(|at| {
                let local = LocalAddress {
                    addr: addr(at),
                    port: PortId(0),
                    mtu: 1500,
                    endpoint: true,
                    backup: false,
                };
                let seed = [1 + at as u8; 32];
                let config = StackConfig { addresses: vec![local], seed, ..StackConfig::default() };
                let stack = Stack::new(config, now, Box::new(self.pool));
                End { stack, listener: None, socket: None, octets: 0, sends: at == from }
            });
            let counters = [0, 1].map(|_| Arc::new(ShardCounters::new(1)));
            let mut loops = [from, 1 - from].map(|at| {
                let port = &self.ports[at];
                let mut tx = port.tx_queue(0, self.pool, 256).unwrap();
                let losing = at != from;
                if !losing && let Some(assume) = assume {
                    tx.assume(assume);
                }
                let rx = port.rx_queue(0, self.pool).unwrap();
                let nic = OnePort {
                    rx,
                    tx,
                    pool: self.pool,
                    loses: if losing { loses } else { 0 },
                    seen: 0,
                };
                let prefix = if v6 { 64 } else { 24 };
                let l2 = L2Config {
                    ports: vec![L2Port {
                        mac: port.mac(),
                        addresses: vec![format!("{}/{prefix}", addr(at)).parse().unwrap()],
                        ..L2Port::default()
                    }],
                    ..L2Config::default()
                };
                let counters = &counters[usize::from(losing)];
                ShardLoop::new(L2::new(&l2, Arc::clone(counters)), nic, Arc::clone(counters))
            });
            let [sender, receiver] = &mut ends;
            let address = SocketAddr::new(addr(1 - from), PORT);
            let listen = Listen { mptcp, ..Listen::default() };
            receiver.listener = Some(receiver.stack.listen(address, &listen).unwrap());
            let connect = Connect {
                local: addr(from),
                local_port: 0,
                remote: address,
                mptcp,
                timeout: None,
                user_data: 0,
            };
            sender.socket = Some(sender.stack.connect(now, &connect).unwrap());
            for _ in 0..MOST_STEPS {
                for (turns, end) in loops.iter_mut().zip(&mut ends) {
                    turns.turn(now, end);
                }
                if ends[1].octets == OCTETS {
                    break;
                }
                now = now + STEP;
            }
            assert_eq!(ends[1].octets, OCTETS, "{:?}", counters);
            counters
        }

        fn close(self) {
            let Self { ports, names, turn, pool } = self;
            drop(ports);
            for name in names {
                eal::remove_vdev(turn.eal, &name).unwrap();
            }
            assert_eq!((pool.in_use(), pool.clones_in_use()), (0, 0));
        }
    }

    /// The stream went in pieces, which were several segments each, and was taken in as such.
    fn assert_in_pieces([sent, received]: &[Arc<ShardCounters>; 2]) {
        let (tx, rx) = (&sent.ports()[0], &received.ports()[0]);
        let (pieces, joined) = (tx.tx_pieces.value(), tx.tx_joined.value());
        assert!(pieces > 10 && joined > 10 * pieces, "{joined} segments in {pieces} pieces");
        assert!(joined > 1500, "of 2,100 or so: {joined}");
        let (pieces, parts) = (rx.rx_pieces.value(), rx.rx_parts.value());
        assert!(pieces > 10 && parts > 5 * pieces, "{pieces} pieces in {parts} parts");
        for counters in [sent, received] {
            // Groups that nobody listens to are not for us; nothing else goes nowhere.
            let reasons = DropReason::ALL.iter().filter(|&&r| r != DropReason::NotForUs);
            let drops: Vec<_> = reasons.filter(|&&r| counters.drops(r) > 0).collect();
            assert!(drops.is_empty(), "{drops:?}");
        }
    }

    const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

    #[test]
    fn what_leaves_in_one_piece_arrives_whole() {
        let bench = Bench::new(Offload::Auto, Offload::Off);
        let tx = bench.ports[0].tx_capabilities();
        assert!(tx.cuts_segments() && !bench.ports[0].joins_segments(), "{tx:?}");
        for kind in KINDS {
            assert_in_pieces(&bench.carry(0, kind, 0, None));
        }
        bench.close();
    }

    /// Pieces are taken apart into parts longer than segments, some of which are lost.
    #[test]
    fn what_is_lost_of_a_piece_comes_again() {
        let bench = Bench::new(Offload::Auto, Offload::Off);
        for kind in KINDS {
            let [sent, _] = bench.carry(0, kind, 101, None);
            assert!(sent.ports()[0].tx_pieces.value() > 10);
        }
        bench.close();
    }

    #[test]
    fn what_a_port_has_joined_is_taken_in() {
        let bench = Bench::new(Offload::Off, Offload::Auto);
        assert!(!bench.ports[0].tx_capabilities().cuts_segments());
        assert!(bench.ports[0].joins_segments());
        let vhost = bench.ports[1].tx_capabilities();
        assert!(!vhost.cuts_segments(), "it says so now: {vhost:?}");
        let assume = TxCapabilities { tcp_checksum: true, most_buffers: 64, ..vhost };
        for kind in KINDS {
            assert_in_pieces(&bench.carry(1, kind, 0, Some(assume)));
        }
        bench.close();
    }

    /// Ethernet with a tag, IPv6, and TCP with all options: longer than what virtio leaves in front of a further
    /// buffer, which holds more than fits behind the headroom of a fresh one.
    fn long_headers(at: usize, text: usize) -> Vec<u8> {
        let length = u16::try_from(60 + text).unwrap().to_be_bytes();
        let seq = u32::try_from(at).unwrap().to_be_bytes();
        let ethernet = [2_u8, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 0x86, 0xdd];
        let addresses = [[0xfd_u8; 16], [0xfc; 16]].concat();
        let ip = [&[0x60_u8, 0, 0, 0][..], &length, &[6, 64], &addresses].concat();
        let (ports, ack) = ([0_u8, 80, 0x9c, 0x40], [0_u8, 0, 0, 7]);
        let tcp = [&ports[..], &seq, &ack, &[0xf0, 0x10, 1, 0, 0, 0, 0, 0], &[1; 40]].concat();
        [&ethernet[..], &ip, &tcp].concat()
    }

    #[test]
    fn parts_that_have_no_room_for_headers_are_not_lost() {
        const HEADERS: usize = 18 + 40 + 60;
        const SEQ_AT: usize = 18 + 40 + 4;
        const TEXT: usize = 1_200;
        const ALL: usize = 20 * TEXT;
        let bench = Bench::new(Offload::Off, Offload::Auto);
        let mut rx = bench.ports[0].rx_queue(0, bench.pool).unwrap();
        let mut tx = bench.ports[1].tx_queue(0, bench.pool, 64).unwrap();
        let vhost = bench.ports[1].tx_capabilities();
        tx.assume(TxCapabilities { tcp_checksum: true, most_buffers: 64, ..vhost });
        for at in (0..ALL).step_by(TEXT) {
            let text: Vec<u8> = (at..at + TEXT).map(octet).collect();
            let bytes = [long_headers(at, TEXT), text].concat();
            let mut frame = { bench.pool }.alloc().unwrap();
            frame.append(bytes.len()).unwrap().copy_from_slice(&bytes);
            frame.set_tx_meta(TxMeta { port: PortId(0), partial_checksum: true });
            assert_eq!(tx.push(frame), Pushed::Queued);
        }
        assert_eq!(tx.backlog(), 1, "all of it in one piece");
        assert_eq!(tx.flush().sent, 1);
        let (mut received, mut parts) = (Received::default(), Vec::new());
        for _ in 0..1000 {
            received = rx.receive(&mut parts);
            if received.frames > 0 {
                break;
            }
            std::thread::sleep(core::time::Duration::from_millis(1));
        }
        assert_eq!((received.pieces, received.no_buffer), (1, 0), "{received:?}");
        let mut arrived = Vec::new();
        for part in &parts {
            let (headers, text) = part.data().split_at(HEADERS);
            assert_eq!(headers[..SEQ_AT], long_headers(0, text.len())[..SEQ_AT]);
            let seq = u32::try_from(arrived.len()).unwrap().to_be_bytes();
            assert_eq!(headers[SEQ_AT..][..4], seq);
            arrived.extend_from_slice(text);
        }
        assert!(arrived.iter().copied().eq((0..ALL).map(octet)), "{} octets", arrived.len());
        drop((parts, rx, tx));
        bench.close();
    }

    #[test]
    fn without_either_every_segment_goes_alone() {
        let bench = Bench::new(Offload::Off, Offload::Off);
        for from in [0, 1] {
            let [sent, received] = bench.carry(from, (true, false), 0, None);
            assert_eq!(sent.ports()[0].tx_pieces.value(), 0);
            assert_eq!(received.ports()[0].rx_pieces.value(), 0);
        }
        bench.close();
    }
}
