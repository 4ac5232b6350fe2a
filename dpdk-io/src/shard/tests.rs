//! The loop over queues in memory: order of calls, back-pressure, stalls, the end.

mod crossing;
mod stack;

use super::*;
use crate::l2::{L2Config, L2Port};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, RxMeta, TxMeta};
use mptcp_core::fragments::{self, Outcome, Reassembler, ReassemblyLimits};
use mptcp_core::rng::Rng;
use mptcp_core::stats::Counters;
use mptcp_core::steering::{SteeringNote, Tuple};
use mptcp_core::wire::IpEmit;
use std::collections::VecDeque;

const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Two ports; what is flushed lands in `sent`.
struct TestNic {
    arriving: [VecDeque<Vec<u8>>; 2],
    queued: [Vec<HeapBuf>; 2],
    sent: [Vec<Vec<u8>>; 2],
    /// Frames the port still takes.
    credit: [usize; 2],
    /// Frames that can wait.
    capacity: [usize; 2],
    pool: HeapPool,
}

impl TestNic {
    fn new() -> Self {
        Self {
            arriving: Default::default(),
            queued: Default::default(),
            sent: Default::default(),
            credit: [usize::MAX; 2],
            capacity: [8; 2],
            pool: HeapPool::new(512, 2048),
        }
    }
}

impl Nic<HeapBuf> for TestNic {
    fn ports(&self) -> u8 {
        2
    }

    fn receive(&mut self, port: PortId, into: &mut Vec<HeapBuf>) -> crate::nic::Received {
        let mut received = crate::nic::Received::default();
        while let Some(frame) = self.arriving[usize::from(port.0)].pop_front() {
            received.frames += 1;
            let Some(mut buf) = self.pool.alloc() else {
                received.no_buffer += 1;
                continue;
            };
            buf.append(frame.len()).unwrap().copy_from_slice(&frame);
            buf.set_rx_meta(RxMeta { port, ..RxMeta::default() });
            into.push(buf);
        }
        received
    }

    fn push(&mut self, port: PortId, frame: HeapBuf) -> Pushed {
        if self.room(port) == 0 {
            return Pushed::Full;
        }
        self.queued[usize::from(port.0)].push(frame);
        Pushed::Queued
    }

    fn flush(&mut self, port: PortId) -> crate::nic::Flushed {
        let port = usize::from(port.0);
        let count = self.queued[port].len().min(self.credit[port]);
        self.credit[port] -= if self.credit[port] == usize::MAX { 0 } else { count };
        let frames: Vec<Vec<u8>> = self.queued[port].drain(..count).map(|f| f.to_vec()).collect();
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        self.sent[port].extend(frames);
        crate::nic::Flushed { sent: count, bytes, ..Default::default() }
    }

    fn backlog(&self, port: PortId) -> usize {
        self.queued[usize::from(port.0)].len()
    }

    fn room(&self, port: PortId) -> usize {
        self.capacity[usize::from(port.0)] - self.backlog(port)
    }

    fn clear(&mut self, port: PortId) -> usize {
        self.queued[usize::from(port.0)].drain(..).count()
    }

    fn alloc(&mut self) -> Option<HeapBuf> {
        self.pool.alloc()
    }

    fn alloc_copy(&mut self) -> Option<HeapBuf> {
        self.pool.alloc()
    }

    fn checksum_offload(&self) -> bool {
        false
    }

    fn segmentation_offload(&self, _port: PortId) -> bool {
        false
    }
}

/// Sends `backlog` packets per port, keeps what arrives, and stops after `turns`.
#[derive(Default)]
struct TestWorker {
    calls: Vec<&'static str>,
    arrived: Vec<Vec<u8>>,
    /// The ports they say they came in by.
    came_by: Vec<PortId>,
    notes: VecDeque<SteeringNote>,
    flows: Vec<Tuple>,
    reassembler: Option<Reassembler<HeapBuf>>,
    to_send: VecDeque<PortId>,
    least_room: Option<usize>,
    timeout: Option<Instant>,
    stop_after: Option<usize>,
    /// What there is to send once it stopped.
    last: Vec<PortId>,
}

impl Worker<HeapBuf> for TestWorker {
    fn reassemble(&mut self, now: Instant, fragment: HeapBuf) -> Option<HeapBuf> {
        let limits = ReassemblyLimits { datagrams: 16, bytes: 1 << 20 };
        let made = || Reassembler::new(limits, &mut Rng::from_seed([1; 32]));
        let reassembler = self.reassembler.get_or_insert_with(made);
        let alloc = |len| Some(HeapBuf::with_capacity(0, len));
        match reassembler.push(now, fragment, &mut Counters::default(), alloc) {
            Outcome::Whole(whole) => Some(whole),
            Outcome::Taken | Outcome::Refused(..) => None,
        }
    }

    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<HeapBuf>) {
        self.calls.push("burst");
        self.came_by.extend(burst.iter().map(|packet| packet.rx_meta().port));
        self.arrived.extend(burst.drain(..).map(|packet| packet.to_vec()));
    }

    fn handle_timeouts(&mut self, _now: Instant, budget: usize) -> Progress {
        assert!(budget > 0);
        self.calls.push("timeouts");
        Progress::Done
    }

    fn handle_events(&mut self, _now: Instant) {
        self.calls.push("events");
    }

    fn poll_transmit<T: TxQueue<HeapBuf>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
        self.calls.push("transmit");
        for port in core::mem::take(&mut self.to_send) {
            let room = tx.room().min(tx.room_on(port));
            self.least_room = Some(room.min(self.least_room.unwrap_or(usize::MAX)));
            if room == 0 {
                self.to_send.push_back(port);
                continue;
            }
            let mut packet = tx.alloc().unwrap();
            let bytes = datagram(port, false);
            packet.append(bytes.len()).unwrap().copy_from_slice(&bytes);
            packet.set_tx_meta(TxMeta { port, partial_checksum: false });
            tx.push(packet);
        }
        if self.to_send.is_empty() { Progress::Done } else { Progress::More }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.flows.contains(tuple)
    }

    fn poll_steering_note(&mut self) -> Option<SteeringNote> {
        self.notes.pop_front()
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        self.calls.push("control");
        match &mut self.stop_after {
            Some(0) => {
                self.to_send.extend(self.last.drain(..));
                Control::Stop
            }
            Some(turns) => {
                *turns -= 1;
                Control::Continue
            }
            None => Control::Continue,
        }
    }
}

/// Between our address on a port and its neighbour.
fn datagram(port: PortId, inbound: bool) -> Vec<u8> {
    let (us, peer) = ([10, port.0, 0, 1], [10, port.0, 0, 2]);
    let (src, dst) = if inbound { (peer, us) } else { (us, peer) };
    let header = IpEmit {
        src: src.into(),
        dst: dst.into(),
        protocol: 17,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: 8,
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![port.0; 28];
    header.emit(&mut out);
    out
}

fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1][..], &PEER, &kind, payload].concat()
}

fn arp_reply(port: u8) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let payload = [&head[..], &PEER, &[10, port, 0, 2], &[2, 0, 0, 0, 0, 1], &[10, port, 0, 1]];
    frame([8, 6], &payload.concat())
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(1000 + ms)
}

/// A loop whose neighbours are known.
fn ready() -> (ShardLoop<HeapBuf, TestNic>, TestWorker) {
    let port = |addr: &str| L2Port {
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec![addr.parse().unwrap()],
        gateway: vec![addr.replace(".1/24", ".2").parse().unwrap()],
        ..L2Port::default()
    };
    let config = L2Config {
        ports: vec![port("10.0.0.1/24"), port("10.1.0.1/24")],
        announce: false,
        ..L2Config::default()
    };
    let counters = Arc::new(ShardCounters::new(2));
    let l2 = L2::new(&config, Arc::clone(&counters));
    let mut shard = ShardLoop::new(l2, TestNic::new(), counters);
    let mut worker = TestWorker::default();
    assert_eq!(shard.turn(at(0), &mut worker), Turn::Busy, "gateways are asked for");
    for port in 0..2 {
        shard.nic.arriving[usize::from(port)].push_back(arp_reply(port));
    }
    assert_eq!(shard.turn(at(0), &mut worker), Turn::Busy);
    assert_eq!(shard.turn(at(0), &mut worker), Turn::Idle);
    shard.nic.sent = Default::default();
    worker.calls.clear();
    (shard, worker)
}

#[test]
fn a_turn_calls_in_order_and_passes_packets_through() {
    let (mut shard, mut worker) = ready();
    for port in 0..2 {
        let inbound = frame([8, 0], &datagram(PortId(port), true));
        shard.nic.arriving[usize::from(port)].push_back(inbound);
    }
    worker.to_send.extend([PortId(1), PortId(0)]);
    assert_eq!(shard.turn(at(1), &mut worker), Turn::Busy);
    assert_eq!(worker.calls, ["burst", "timeouts", "events", "transmit", "control"]);
    let expected = [datagram(PortId(0), true), datagram(PortId(1), true)];
    assert_eq!(worker.arrived, expected);
    for port in 0..2_u8 {
        let sent = &shard.nic.sent[usize::from(port)];
        assert_eq!(sent.len(), 1, "flushed in the same turn");
        assert_eq!(
            (&sent[0][..6], &sent[0][14..]),
            (&PEER[..], &datagram(PortId(port), false)[..])
        );
    }
    worker.calls.clear();
    assert_eq!(shard.turn(at(2), &mut worker), Turn::Idle);
    assert_eq!(worker.calls, ["timeouts", "events", "transmit", "control"]);
    assert_eq!(shard.nic.pool.in_use(), 0);
    let ports = shard.counters.ports();
    // The ARP exchange of the start, then one packet each way.
    assert_eq!((ports[0].rx_packets.value(), ports[0].tx_packets.value()), (2, 2));
    assert_eq!((ports[0].rx_bytes.value(), ports[0].tx_bytes.value()), (84, 84));
}

#[test]
fn a_full_port_holds_the_worker_back_without_loss() {
    let (mut shard, mut worker) = ready();
    shard.nic.credit[0] = 3;
    worker.to_send.extend(vec![PortId(0); 20]);
    assert_eq!(shard.turn(at(1), &mut worker), Turn::Busy);
    assert_eq!(worker.least_room, Some(0));
    assert_eq!(shard.nic.sent[0].len(), 3);
    shard.nic.credit[0] = usize::MAX;
    for _ in 0..3 {
        shard.turn(at(2), &mut worker);
    }
    assert_eq!(shard.nic.sent[0].len(), 20);
    assert_eq!(shard.counters.all_drops(), 0);
}

#[test]
fn a_slow_port_holds_up_its_own_packets_only() {
    let (mut shard, mut worker) = ready();
    worker.to_send.extend([PortId(0), PortId(1)].repeat(80));
    for ms in 1..=10 {
        shard.nic.credit[0] = 1;
        assert_eq!(shard.turn(at(ms), &mut worker), Turn::Busy);
    }
    assert_eq!((shard.nic.sent[0].len(), shard.nic.sent[1].len()), (10, 80));
    shard.turn(at(11), &mut worker);
    assert_eq!(shard.turn(at(11), &mut worker), Turn::Idle, "nothing is left but to wait");
    shard.nic.credit[0] = usize::MAX;
    while shard.turn(at(12), &mut worker) == Turn::Busy {}
    assert_eq!((shard.nic.sent[0].len(), shard.counters.all_drops()), (80, 0));
}

#[test]
fn a_turn_takes_a_bounded_number_of_packets() {
    let (mut shard, mut worker) = ready();
    worker.to_send.extend(vec![PortId(7); 2 * TURN_PACKETS]);
    shard.turn(at(1), &mut worker);
    assert_eq!(shard.counters.drops(DropReason::NoRoute), TURN_PACKETS as u64);
}

#[test]
fn a_dead_port_loses_its_own_frames_only() {
    let (mut shard, mut worker) = ready();
    shard.nic.credit[0] = 0;
    for ms in 1..100 {
        worker.to_send.extend([PortId(0), PortId(1)]);
        shard.turn(at(ms), &mut worker);
    }
    for _ in 0..10 {
        shard.turn(at(100), &mut worker);
    }
    assert_eq!((worker.to_send.len(), shard.nic.sent[1].len()), (0, 99));
    assert_eq!(shard.counters.drops(DropReason::TxStalled), 99);
    assert_eq!(shard.counters.all_drops(), 99);

    // It comes back by itself.
    shard.nic.credit[0] = usize::MAX;
    worker.to_send.push_back(PortId(0));
    shard.turn(at(101), &mut worker);
    assert_eq!((shard.nic.sent[0].len(), shard.flows[0]), (1, Flow::Sending));
}

#[test]
fn answers_beyond_the_queue_are_counted() {
    let (mut shard, mut worker) = ready();
    shard.nic.credit[0] = 2;
    let ask = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER, &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 1]];
    for _ in 0..30 {
        shard.nic.arriving[0].push_back(frame([8, 6], &ask.concat()));
    }
    shard.turn(at(1), &mut worker);
    let dropped = shard.counters.drops(DropReason::TxQueueFull);
    assert_eq!((shard.nic.sent[0].len(), shard.nic.backlog(PortId(0)), dropped), (2, 8, 20));
}

#[test]
fn frames_without_a_buffer_are_counted() {
    let (mut shard, mut worker) = ready();
    let held: Vec<HeapBuf> = core::iter::from_fn(|| shard.nic.pool.alloc()).collect();
    shard.nic.arriving[1].push_back(frame([8, 0], &datagram(PortId(1), true)));
    assert_eq!(shard.turn(at(1), &mut worker), Turn::Busy);
    assert_eq!(shard.counters.drops(DropReason::RxNoBuffer), 1);
    drop(held);
}

#[test]
fn errors_of_l2_enter_the_stack_like_packets() {
    let (mut shard, mut worker) = ready();
    worker.to_send.push_back(PortId(7));
    shard.turn(at(1), &mut worker);
    shard.turn(at(1), &mut worker);
    assert_eq!(worker.arrived.len(), 1);
    let error = mptcp_core::wire::icmp::parse_error(&worker.arrived[0]).unwrap();
    assert_eq!(error.kind, mptcp_core::wire::IcmpErrorKind::NetworkUnreachable);
}

#[test]
fn the_loop_ends_when_the_worker_does_and_frees_what_no_port_takes() {
    let (mut shard, mut worker) = ready();
    shard.nic.credit = [0, usize::MAX];
    worker.to_send.extend([PortId(0), PortId(1), PortId(0)]);
    worker.stop_after = Some(2);
    worker.last = vec![PortId(1); 3 * TURN_PACKETS];
    shard.run(Clock::start(), &mut worker, &AtomicBool::new(false));
    assert_eq!(worker.calls.iter().filter(|&&call| call == "control").count(), 3);
    let unsent = worker.to_send.iter().filter(|&&port| port == PortId(1)).count();
    assert_eq!(shard.nic.sent[1].len() + unsent, 1 + 3 * TURN_PACKETS);
    assert!((8 * LAST_FLUSHES..=8 * LAST_FLUSHES + 1).contains(&shard.nic.sent[1].len()));
    assert_eq!((worker.last.len(), shard.nic.pool.in_use()), (0, 0));
    assert_eq!(shard.counters.drops(DropReason::TxQueueFull), 2);
    assert!(shard.counters.busy_ns.value() > 0);

    let (mut shard, mut worker) = ready();
    shard.run(Clock::start(), &mut worker, &AtomicBool::new(true));
    assert_eq!(worker.calls, ["transmit"], "stopped before it began");
}

#[test]
fn an_idle_loop_sleeps_and_is_stopped_from_outside() {
    let (mut shard, mut worker) = ready();
    let stop = AtomicBool::new(false);
    let counters = Arc::clone(&shard.counters);
    std::thread::scope(|scope| {
        let stop = &stop;
        let looping = scope.spawn(move || {
            shard.run(Clock::start(), &mut worker, stop);
            worker.calls.len()
        });
        while counters.sleeps.value() < 10 {
            assert!(!looping.is_finished(), "nobody stopped it");
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looping.join().unwrap() > 64, "it spun first");
    });
    assert!(counters.idle_turns.value() >= 64 + 10);
    let spun = counters.idle_turns.value() - counters.sleeps.value();
    let most = spun * u64::try_from(EMPTY_TURN.as_nanos()).unwrap();
    assert!((1..=most).contains(&counters.polling_ns.value()), "sleep is not counted");
}
