//! The loop with a real stack on it, and a phone with two subflows on one of its ports.

use super::*;
use crate::counters::L2Event;
use mptcp_core::buf::HeapTxQueue;
use mptcp_core::config::{CongestionAlgorithm, LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::stack::{Connect, Listen, Ready, SocketId, Stack};

/// Octets the phone sends while one of its links holds everything back.
const BURST_LEN: usize = 600 << 10;
/// Octets it sends before.
const WARM_UP: usize = 4 << 20;
/// Buffers the gateway's connections leave alone.
const RESERVE: usize = 64;

fn stack(addrs: [&str; 2], gateway: bool, pool: HeapPool) -> Stack<HeapBuf> {
    let address = |(n, addr): (u8, &str)| LocalAddress {
        addr: addr.parse().unwrap(),
        port: if gateway { PortId(n) } else { PortId::ROUTED },
        mtu: 1500,
        endpoint: !gateway,
        backup: false,
    };
    let mut config = StackConfig {
        addresses: (0..).zip(addrs).map(address).collect(),
        seed: [gateway.into(); 32],
        ..StackConfig::default()
    };
    // How much goes out in so many turns is part of these tests.
    config.tcp.congestion = CongestionAlgorithm::Cubic;
    config.tcp.pacing = false;
    Stack::new(config, at(0), Box::new(pool))
}

fn connect(phone: &mut Stack<HeapBuf>, now: Instant) -> SocketId {
    let connect = Connect {
        local: "10.0.0.2".parse().unwrap(),
        local_port: 0,
        remote: "10.0.0.1:7".parse().unwrap(),
        mptcp: true,
        timeout: None,
        user_data: 0,
    };
    phone.connect(now, &connect).unwrap()
}

/// Takes whatever clients send.
struct Sink {
    stack: Stack<HeapBuf>,
    listener: SocketId,
    reads: bool,
    received: usize,
}

impl Application for Sink {
    type Buf = HeapBuf;

    fn stack(&self) -> &Stack<HeapBuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.stack
    }

    fn react(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            let id = if event.ready.contains(Ready::ACCEPT) {
                self.stack.accept(self.listener).unwrap()
            } else {
                event.socket
            };
            while self.reads
                && let Ok(Some(buf)) = self.stack.recv_buf(now, id)
            {
                self.received += buf.data().len();
            }
        }
    }
}

struct Bed {
    shard: ShardLoop<HeapBuf, TestNic>,
    gateway: Sink,
    phone: Stack<HeapBuf>,
    socket: SocketId,
    to_send: usize,
    /// What the phone sent from its second address while that link holds back.
    held: Option<Vec<Vec<u8>>>,
    ms: u64,
}

impl Bed {
    fn new(buffers: usize) -> Self {
        let (mut shard, _) = ready();
        let pool = HeapPool::new(buffers, 2048);
        shard.nic.pool = pool.clone();
        let mut own = stack(["10.0.0.1", "10.1.0.1"], true, pool.with_reserve(RESERVE));
        let mut phone = stack(["10.0.0.2", "10.1.0.2"], false, HeapPool::new(8192, 2048));
        let options = Listen { mptcp: true, ..Listen::default() };
        let listener = own.listen("10.0.0.1:7".parse().unwrap(), &options).unwrap();
        let socket = connect(&mut phone, at(0));
        let gateway = Sink { stack: own, listener, reads: true, received: 0 };
        Self { shard, gateway, phone, socket, to_send: 0, held: None, ms: 1 }
    }

    /// One millisecond: the phone sends, the gateway takes and answers, the phone takes.
    fn step(&mut self) {
        let now = at(self.ms);
        self.ms += 1;
        let _ = self.phone.handle_timeouts(now, 64);
        while self.to_send > 0 {
            let some = [7; 16 << 10];
            let some = &some[..self.to_send.min(16 << 10)];
            let Ok(sent) = self.phone.send(now, self.socket, some) else { break };
            self.to_send -= sent;
        }
        let mut tx = HeapTxQueue::new(4096, HeapPool::new(8192, 2048));
        assert_eq!(self.phone.poll_transmit(now, &mut tx), Progress::Done);
        while let Some(packet) = tx.pop() {
            let packet = packet.data();
            let inbound = frame([8, 0], packet);
            match &mut self.held {
                Some(held) if packet[13] == 1 => held.push(inbound),
                _ => self.shard.nic.arriving[0].push_back(inbound),
            }
        }
        for _ in 0..4 {
            self.shard.turn(now, &mut self.gateway);
        }
        let frames = core::mem::take(&mut self.shard.nic.sent).into_iter().flatten();
        let packets = frames.filter(|frame| frame[12..14] == [8, 0]);
        let mut burst: Vec<_> = packets.map(|frame| HeapBuf::from_slice(&frame[14..])).collect();
        self.phone.handle_burst(now, &mut burst);
        while self.phone.poll_event().is_some() {}
    }
}

/// What was announced on one port counts, however much fuller another one is: nothing inside the
/// window is cut when it comes out of order.
#[test]
fn windows_announced_beside_a_fuller_port_are_remembered() {
    let mut bed = Bed::new(4096);
    // Nothing leaves by the second port, whose queue always has the least room.
    bed.shard.nic.capacity = [64, 3];
    bed.to_send = 8 << 10;
    // The window grows while everything goes by the first link.
    while !bed.phone.set_backup(bed.socket, 1, true) {
        bed.step();
        assert!(bed.ms < 100, "two subflows are up in time");
    }
    bed.to_send += WARM_UP;
    while bed.gateway.received < WARM_UP + (8 << 10) {
        bed.step();
        assert!(bed.ms < 1000);
    }

    // The first octets of a burst get stuck on the second link.
    bed.held = Some(Vec::new());
    let prefer = |bed: &mut Bed, subflow: u8| {
        assert!((0..2).all(|id| bed.phone.set_backup(bed.socket, id, id != subflow)));
    };
    prefer(&mut bed, 1);
    let by_first = |bed: &Bed| bed.phone.info(bed.socket).unwrap().subflows[0].bytes_sent;
    let (before, sent_before) = (bed.gateway.received, by_first(&bed));
    bed.to_send = BURST_LEN;
    bed.step();
    prefer(&mut bed, 0);
    for _ in 0..20 {
        bed.step();
    }
    let held = bed.held.take().unwrap();
    assert!(held.len() > 1 && bed.to_send == 0, "the stream has a hole");
    let beyond = by_first(&bed) - sent_before;
    assert!(beyond > 400 << 10, "only {beyond} octets came by the first link");
    // Segments with text, by sequence number: the link itself has repeated the last one.
    let has_text = |frame: &&Vec<u8>| {
        let total = usize::from(frame[16]) << 8 | usize::from(frame[17]);
        total > 20 + usize::from(frame[46] >> 4) * 4
    };
    let numbers = held.iter().filter(has_text).map(|frame| frame[38..42].to_vec());
    let stuck: std::collections::BTreeSet<_> = numbers.collect();
    bed.shard.nic.arriving[0].extend(held);
    for _ in 0..20 {
        bed.step();
    }
    assert_eq!(bed.gateway.received - before, BURST_LEN, "no timeout has to repair anything");
    let counters = bed.gateway.stack.counters();
    // What the second link held went by the first one, too, for it was silent for two round trips: each
    // of those segments comes twice, and nothing else does.
    let twice = stuck.len() as u64;
    assert_eq!((counters.no_dss_in_window, counters.duplicate_data), (0, twice));
    assert_eq!(bed.shard.counters.all_drops(), 0);
}

/// Clients whose data nobody reads take all memory but the reserve, of which those who have nothing to
/// read get a little, and the shard still hears questions, handshakes and acknowledgements.
#[test]
fn a_shard_short_of_memory_hears_what_keeps_none() {
    let mut bed = Bed::new(256);
    bed.gateway.reads = false;
    for _ in 0..8 {
        bed.to_send = 128 << 10;
        for _ in 0..100 {
            bed.step();
        }
        bed.socket = connect(&mut bed.phone, at(bed.ms));
        bed.step();
    }
    let in_use = bed.shard.nic.pool.in_use();
    assert!(bed.gateway.stack.counters().tcp_rcv_q_drop > 0);
    assert!((256 - RESERVE - 1..256 - RESERVE / 2).contains(&in_use), "{in_use}");
    assert_eq!(bed.shard.counters.drops(DropReason::RxNoBuffer), 0);
    assert_eq!(bed.gateway.stack.counters().passive_opens, 8, "the last one got through, too");

    let asked = bed.shard.counters.events(L2Event::ArpReplies);
    let ask = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER, &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 1]];
    bed.shard.nic.arriving[0].push_back(frame([8, 6], &ask.concat()));
    bed.step();
    assert_eq!(bed.shard.counters.events(L2Event::ArpReplies), asked + 1);
}
