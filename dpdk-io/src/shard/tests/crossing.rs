//! Several loops beside each other, over rings in memory: whose packet is whose, what is lost when a ring
//! is full, notes, and the end.

use super::*;
use crate::rings::{BURST, Rings, Sent};
use crate::shard::{Crossing, Exchange};
use mptcp_core::steering::{Layout, Sharding, Steering, SteeringLimits};
use std::sync::Mutex;

const SHARDS: u8 = 4;
/// Packets a ring of these tests takes.
const PLACES: usize = 3 * BURST;

/// A queue from each shard to each, as `[from][to]`.
type Queues = Vec<Vec<VecDeque<HeapBuf>>>;

struct TestRings {
    own: usize,
    queues: Arc<Mutex<Queues>>,
}

impl Rings<HeapBuf> for TestRings {
    fn send(&mut self, to: usize, packets: &mut Vec<HeapBuf>) -> Sent {
        assert!((1..=BURST).contains(&packets.len()) && to != self.own);
        let mut queues = self.queues.lock().unwrap();
        let queue = &mut queues[self.own][to];
        let moved = packets.len().min(PLACES - queue.len());
        let full = packets.len() - moved;
        queue.extend(packets.drain(..).take(moved));
        packets.clear();
        Sent { moved, full, no_memory: 0 }
    }

    fn receive(&mut self, into: &mut Vec<HeapBuf>) -> usize {
        let before = into.len();
        for from in self.queues.lock().unwrap().iter_mut() {
            let queue = &mut from[self.own];
            into.extend(queue.drain(..queue.len().min(BURST)));
        }
        into.len() - before
    }
}

/// All shards of a gateway.
struct Bed {
    shards: Vec<(ShardLoop<HeapBuf, TestNic>, TestWorker)>,
    layout: Layout,
    queues: Arc<Mutex<Queues>>,
}

impl Bed {
    fn new() -> Self {
        let layout = Layout::new(SHARDS).unwrap();
        let row = || (0..SHARDS).map(|_| VecDeque::new()).collect();
        let queues: Arc<Mutex<Queues>> = Arc::new(Mutex::new((0..SHARDS).map(|_| row()).collect()));
        let rings = (0..usize::from(SHARDS)).map(|own| {
            let rings = TestRings { own, queues: Arc::clone(&queues) };
            Box::new(rings) as Box<dyn Rings<HeapBuf> + Send>
        });
        let exchanges = Exchange::network(rings.collect());
        let shard = |(own, exchange): (u8, Exchange<HeapBuf>)| {
            let sharding = Sharding { layout: layout.clone(), own };
            let rng = &mut Rng::from_seed([own; 32]);
            let steering = Steering::new(&sharding, SteeringLimits::default(), rng);
            let (shard, worker) = ready();
            (shard.with_crossing(Crossing::new(exchange, own, steering)), worker)
        };
        let shards = (0..).zip(exchanges).map(shard).collect();
        Self { shards, layout, queues }
    }

    /// A packet of the flow from `peer_port` comes in at `shard` by `port`.
    fn arrives(&mut self, shard: u8, port: u8, peer_port: u16, flags: u8) -> Vec<u8> {
        let packet = segment(PortId(port), peer_port, flags, &[]);
        self.arrives_as(shard, port, &packet);
        packet
    }

    fn arrives_as(&mut self, shard: u8, port: u8, packet: &[u8]) {
        let nic = &mut self.shards[usize::from(shard)].0.nic;
        nic.arriving[usize::from(port)].push_back(frame([8, 0], packet));
    }

    fn turn(&mut self, shard: u8) -> Turn {
        let (shard, worker) = &mut self.shards[usize::from(shard)];
        shard.turn(at(1), worker)
    }

    /// Every shard `n` times.
    fn turns(&mut self, n: usize) {
        for shard in (0..SHARDS).cycle().take(n * usize::from(SHARDS)) {
            self.turn(shard);
        }
    }

    fn arrived(&mut self, shard: u8) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.shards[usize::from(shard)].1.arrived)
    }

    fn counters(&self, shard: u8) -> &ShardCounters {
        &self.shards[usize::from(shard)].0.counters
    }

    fn home(&self, peer_port: u16) -> u8 {
        self.layout.shard_of_flow(&tuple(PortId(0), peer_port))
    }

    /// A port of the peer's whose flow to our first address is at home with `shard`.
    fn port_at(&self, shard: u8) -> u16 {
        (20_000..).find(|&port| self.home(port) == shard).unwrap()
    }

    fn assert_empty(&self) {
        let queues = self.queues.lock().unwrap();
        assert!(queues.iter().flatten().all(VecDeque::is_empty));
        drop(queues);
        for (shard, _) in &self.shards {
            assert_eq!(shard.nic.pool.in_use(), 0);
        }
    }
}

fn tuple(port: PortId, peer_port: u16) -> Tuple {
    Tuple {
        local_addr: [10, port.0, 0, 1].into(),
        remote_addr: [10, port.0, 0, 2].into(),
        local_port: 1080,
        remote_port: peer_port,
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

/// To our address on `port` from its neighbour, with these TCP options.
fn segment(port: PortId, peer_port: u16, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[..2].copy_from_slice(&peer_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&1080_u16.to_be_bytes());
    tcp[12] = u8::try_from((20 + options.len()) << 2).unwrap();
    tcp[13] = flags;
    tcp.extend_from_slice(options);
    let header = IpEmit {
        src: [10, port.0, 0, 2].into(),
        dst: [10, port.0, 0, 1].into(),
        protocol: 6,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: tcp.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![0; 20];
    header.emit(&mut out);
    out.extend_from_slice(&tcp);
    out
}

/// MP_JOIN of a SYN for the connection with this token.
fn join(token: u32) -> Vec<u8> {
    [&[30, 12, 0x10, 2][..], &token.to_be_bytes(), &[7; 4]].concat()
}

#[test]
fn packets_go_home_from_wherever_they_arrive_and_keep_their_port() {
    let mut bed = Bed::new();
    for arrives_at in 0..SHARDS {
        for home in 0..SHARDS {
            let packet = bed.arrives(arrives_at, 0, bed.port_at(home), SYN);
            bed.turn(arrives_at);
            bed.turn(home);
            assert_eq!(bed.arrived(home), [packet], "{arrives_at} to {home}");
            let came_by = core::mem::take(&mut bed.shards[usize::from(home)].1.came_by);
            assert_eq!(came_by, [PortId(0)], "replies leave by that port");
        }
    }
    for shard in 0..SHARDS {
        let counters = bed.counters(shard);
        assert_eq!((counters.handed_over.value(), counters.taken_over.value()), (3, 3));
        assert_eq!((counters.sent_home.value(), counters.all_drops()), (3, 0));
    }
    bed.assert_empty();
}

#[test]
fn long_bursts_cross_in_their_order() {
    let mut bed = Bed::new();
    let port = bed.port_at(2);
    let sent: Vec<_> = (0..80).map(|flags| bed.arrives(1, 0, port, 64 + flags)).collect();
    assert_eq!(bed.turn(1), Turn::Busy);
    for shard in [2, 2, 2] {
        assert_eq!(bed.turn(shard), Turn::Busy, "what others send keeps a shard awake");
    }
    assert_eq!(bed.turn(2), Turn::Idle);
    assert_eq!(bed.arrived(2), sent);
    bed.assert_empty();
}

#[test]
fn a_full_ring_loses_what_does_not_fit_and_counts_it() {
    let mut bed = Bed::new();
    let (slow, other) = (bed.port_at(2), bed.port_at(3));
    for _ in 0..PLACES + 50 {
        bed.arrives(0, 0, slow, ACK);
        bed.arrives(0, 0, other, ACK);
    }
    for _ in 0..4 {
        // The nic of these tests gives everything at once; the other shard keeps up.
        bed.turn(0);
        bed.turn(3);
    }
    let counters = bed.counters(0);
    assert_eq!(counters.drops(DropReason::RingFull), 2 * 50, "{counters:?}");
    assert_eq!(counters.handed_over.value(), 2 * PLACES as u64);
    bed.turns(4);
    assert_eq!((bed.arrived(2).len(), bed.arrived(3).len()), (PLACES, PLACES));
    bed.assert_empty();
}

#[test]
fn a_join_and_what_follows_it_reach_the_shard_of_the_connection_until_the_flow_is_gone() {
    let mut bed = Bed::new();
    let (token, owner) = (3, 3);
    assert_eq!(bed.layout.shard_of_token(token), owner);
    let port = bed.port_at(1);
    let syn = segment(PortId(0), port, SYN, &join(token));
    bed.arrives_as(0, 0, &syn);
    let data = bed.arrives(0, 0, port, ACK);
    bed.turns(2);
    assert_eq!(bed.arrived(owner), [syn, data.clone()]);
    assert_eq!(bed.counters(1).joins_steered.value(), 1);
    assert_eq!(bed.counters(1).pending_flows.value(), 1);
    assert_eq!(bed.counters(1).sent_to_owner.value(), 2);

    let note = |joined| SteeringNote { home: 1, owner, tuple: tuple(PortId(0), port), joined };
    bed.shards[usize::from(owner)].1.notes.push_back(note(true));
    bed.turns(2);
    assert_eq!(bed.counters(1).confirmed_flows.value(), 1);
    bed.arrives(1, 0, port, ACK);
    bed.turns(2);
    assert_eq!(bed.arrived(owner), core::slice::from_ref(&data));

    bed.shards[usize::from(owner)].1.notes.push_back(note(false));
    bed.turns(2);
    bed.arrives(1, 0, port, ACK);
    bed.turns(2);
    assert_eq!((bed.arrived(owner).len(), bed.arrived(1)), (0, vec![data]));
    bed.assert_empty();
}

#[test]
fn where_ports_have_rules_homes_ask_for_them_and_owners_keep_what_they_bring() {
    let mut bed = Bed::new();
    let port = bed.port_at(1);
    let owner = 3;
    let note = |joined| SteeringNote { home: 1, owner, tuple: tuple(PortId(0), port), joined };
    let (orders, asked) = crate::rules::orders();
    let mock = crate::rules::tests::Mock::default();
    let mut table = crate::rules::RuleTable::new(mock.clone(), 4);
    let mut serve = || asked.try_iter().for_each(|note| table.apply(&note));

    // Without rules the port's whim leads home first.
    bed.shards[usize::from(owner)].1.flows.push(tuple(PortId(0), port));
    bed.shards[usize::from(owner)].1.notes.push_back(note(true));
    bed.turns(2);
    bed.arrives(owner, 0, port, ACK);
    bed.turns(3);
    assert_eq!((bed.arrived(owner).len(), bed.counters(owner).handed_over.value()), (1, 1));
    serve();
    assert!(mock.rules.lock().unwrap().is_empty());

    for (shard, _) in &mut bed.shards {
        let crossing = shard.crossing.take().unwrap();
        shard.crossing = Some(crossing.with_rules(Some(orders.clone())));
    }
    bed.shards[usize::from(owner)].1.notes.push_back(note(true));
    bed.turns(2);
    serve();
    assert_eq!(mock.rules.lock().unwrap().get(&port), Some(&owner));
    bed.arrives(owner, 0, port, ACK);
    bed.turns(3);
    assert_eq!((bed.arrived(owner).len(), bed.counters(owner).handed_over.value()), (1, 1));
    assert_eq!(bed.counters(owner).sent_home.value(), 1, "of those handed over");

    // What it no longer has goes home, rule or not.
    bed.shards[usize::from(owner)].1.flows.clear();
    bed.shards[usize::from(owner)].1.notes.push_back(note(false));
    bed.turns(2);
    bed.arrives(owner, 0, port, ACK);
    bed.turns(3);
    serve();
    assert!(mock.rules.lock().unwrap().is_empty());
    assert_eq!((bed.arrived(owner).len(), bed.counters(owner).handed_over.value()), (0, 2));
    bed.assert_empty();
}

#[test]
fn a_join_over_a_flow_that_its_home_has_stays_there() {
    let mut bed = Bed::new();
    let port = bed.port_at(1);
    bed.shards[1].1.flows.push(tuple(PortId(0), port));
    let syn = segment(PortId(0), port, SYN, &join(3));
    bed.arrives_as(1, 0, &syn);
    bed.turns(2);
    assert_eq!(bed.arrived(1), [syn]);
}

#[test]
fn notes_that_find_no_room_wait_and_keep_their_order() {
    let mut bed = Bed::new();
    // Beyond what the channel and one that is held take.
    let many = 3000;
    for n in 0..many {
        let tuple = tuple(PortId(0), n);
        let note = |joined| SteeringNote { home: 1, owner: 3, tuple, joined };
        bed.shards[3].1.notes.push_back(note(true));
        if n % 2 == 0 {
            bed.shards[3].1.notes.push_back(note(false));
        }
    }
    for _ in 0..10 {
        bed.turn(3);
    }
    assert!(bed.shards[3].1.notes.len() > 3000, "they wait with the stack");
    bed.turns(40);
    assert_eq!(bed.counters(1).confirmed_flows.value(), 1500);
    assert!(bed.shards[3].1.notes.is_empty());
}

#[test]
fn one_that_stopped_hands_over_until_the_last_has_stopped() {
    let mut bed = Bed::new();
    let (mine, others) = (bed.port_at(0), bed.port_at(1));
    let (mut first, mut worker) = bed.shards.remove(0);
    let (second, serving) = &mut bed.shards[0];
    second.crossing.as_mut().unwrap().begin();
    worker.stop_after = Some(0);
    // What was due long ago: a loop that spins on that starves those who still serve.
    worker.timeout = Some(Instant::MIN);
    for port in [mine, others, mine, others] {
        let packet = frame([8, 0], &segment(PortId(0), port, ACK, &[]));
        first.nic.arriving[0].push_back(packet);
    }
    let counters = Arc::clone(&first.counters);
    let (stop, worker) = (AtomicBool::new(false), &mut worker);
    std::thread::scope(|scope| {
        let stop = &stop;
        let stopping = scope.spawn(|| first.run(Clock::start(), worker, stop));
        while counters.sleeps.value() < 10 {
            assert!(!stopping.is_finished(), "somebody still serves");
            std::thread::yield_now();
        }
        second.turn(at(1), serving);
        assert!(second.crossing.as_mut().unwrap().leave(), "the last one");
    });
    assert_eq!((worker.arrived.len(), serving.arrived.len()), (2, 2));
}

#[test]
fn what_another_shard_hands_over_ends_a_sleep() {
    let mut bed = Bed::new();
    let port = bed.port_at(0);
    let packet = bed.arrives(1, 0, port, ACK);
    let (mut sleeper, mut worker) = bed.shards.remove(0);
    let counters = Arc::clone(&sleeper.counters);
    let (woken, wakes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sleeper.crossing.as_mut().unwrap().begin();
        sleeper.rest(Rest::Sleep(Duration::from_secs(24 * 3600)));
        sleeper.turn(at(1), &mut worker);
        woken.send(worker.arrived).unwrap();
    });
    while counters.sleeps.value() == 0 {
        std::thread::yield_now();
    }
    bed.turn(0);
    // It would sleep for a day; nobody waits for that.
    let arrived = wakes.recv_timeout(Duration::from_secs(120)).expect("it is awake");
    assert_eq!(arrived, [packet]);
}

#[test]
fn the_last_one_stops_at_once_and_one_that_panicked_keeps_nobody() {
    let mut bed = Bed::new();
    for shard in 0..2 {
        bed.shards[shard].0.crossing.as_mut().unwrap().begin();
        bed.shards[shard].1.stop_after = Some(0);
    }
    assert_eq!(bed.turn(0), Turn::Idle, "the other one serves");
    assert_eq!(bed.turn(1), Turn::Stop);
    assert_eq!(bed.turn(0), Turn::Stop);

    bed.shards[0].0.crossing.as_mut().unwrap().begin();
    bed.shards[1].0.crossing.as_mut().unwrap().begin();
    assert_eq!(bed.turn(1), Turn::Idle);
    // As its thread unwinds.
    bed.shards.remove(0);
    let (shard, worker) = &mut bed.shards[0];
    assert_eq!(shard.turn(at(1), worker), Turn::Stop);
}

/// The packet in fragments as they would be of a way of `mtu`.
fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let header = mptcp_core::wire::IpHeader::parse(packet).unwrap();
    let ip = IpEmit {
        src: header.src,
        dst: header.dst,
        protocol: header.protocol,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: 0,
        identification: 0,
        dont_fragment: false,
    };
    let mut parts: Vec<HeapBuf> = Vec::new();
    let alloc = || Some(HeapBuf::with_capacity(100, 9_000));
    let payload = [&packet[header.header_len..], &[][..]];
    assert!(fragments::send(&ip, 7, payload, mtu, alloc, |part| parts.push(part)));
    parts.iter().map(HeapBuf::to_vec).collect()
}

/// Fragments meet at one shard, wherever they arrive, and what they make goes home from there.
#[test]
fn fragments_meet_and_the_whole_goes_home() {
    for home in 0..SHARDS {
        for first_at in 0..SHARDS {
            let mut bed = Bed::new();
            let packet = segment(PortId(0), bed.port_at(home), ACK, &[]);
            let text = [&packet[..], &[7; 3_000]].concat();
            let mut whole = text;
            let len = u16::try_from(whole.len()).unwrap().to_be_bytes();
            whole[2..4].copy_from_slice(&len);
            whole[6] = 0;
            whole[10..12].fill(0);
            let sum = !mptcp_core::wire::checksum::sum(&whole[..20]);
            whole[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut parts = cut(&whole, 1_500);
            assert_eq!(parts.len(), 3);
            parts.reverse();
            for (n, part) in (0..).zip(&parts) {
                bed.arrives_as((first_at + n) % SHARDS, n % 2, part);
            }
            bed.turns(4);
            let arrived = bed.arrived(home);
            assert_eq!(arrived.len(), 1, "{home} {first_at}");
            assert_eq!(arrived[0][20..], whole[20..]);
            // The first fragment's port is where replies leave.
            assert_eq!(bed.shards[usize::from(home)].1.came_by, [PortId(0)]);
            for shard in (0..SHARDS).filter(|shard| *shard != home) {
                assert!(bed.arrived(shard).is_empty());
            }
            bed.assert_empty();
        }
    }
}
