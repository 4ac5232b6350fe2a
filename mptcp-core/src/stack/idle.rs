//! What an idle connection keeps: itself, and nothing beside it.

use super::{Connect, Listen, SocketId, Stack};
use crate::buf::{HeapBuf, HeapPool, HeapTxQueue};
use crate::config::{CongestionAlgorithm, LocalAddress, StackConfig};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

/// A client and a server, five milliseconds apart.
struct Pair {
    now: Instant,
    hosts: [Stack<HeapBuf>; 2],
    wires: [Vec<HeapBuf>; 2],
    tx: HeapTxQueue,
    sockets: [SocketId; 2],
}

impl Pair {
    fn new(addrs: [&str; 2], congestion: CongestionAlgorithm, mptcp: bool) -> Self {
        Self::between(addrs, congestion, [mptcp; 2])
    }

    /// The same where either end alone may speak MPTCP.
    fn between(addrs: [&str; 2], congestion: CongestionAlgorithm, mptcp: [bool; 2]) -> Self {
        let [offered, served] = mptcp;
        let now = Instant::from_millis(1);
        let pool = HeapPool::new(4_000, 1_700);
        let addrs: [IpAddr; 2] = addrs.map(|addr| addr.parse().unwrap());
        let host = |addr, seed| {
            let port = crate::buf::PortId::ROUTED;
            let local = LocalAddress { addr, port, mtu: 1500, endpoint: true, backup: false };
            let mut config =
                StackConfig { addresses: vec![local], seed: [seed; 32], ..StackConfig::default() };
            config.tcp.congestion = congestion;
            Stack::new(config, now, Box::new(pool.clone()))
        };
        let [client, server] = addrs;
        let mut hosts = [host(client, 1), host(server, 2)];
        let options = Listen { mptcp: served, ..Listen::default() };
        let listener = hosts[1].listen((server, 80).into(), &options).unwrap();
        let with = Connect {
            local: client,
            local_port: 0,
            remote: (server, 80).into(),
            mptcp: offered,
            timeout: None,
            user_data: 0,
        };
        let ours = hosts[0].connect(now, &with).unwrap();
        let tx = HeapTxQueue::new(256, pool);
        let mut pair =
            Self { now, hosts, wires: [Vec::new(), Vec::new()], tx, sockets: [ours, ours] };
        pair.run(Duration::from_millis(100));
        pair.sockets[1] = pair.hosts[1].accept(listener).expect("established");
        pair
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(5);
            for (host, wire) in self.hosts.iter_mut().zip(&mut self.wires) {
                host.handle_burst(self.now, wire);
                let _ = host.handle_timeouts(self.now, usize::MAX);
                while host.poll_event().is_some() {}
            }
            for (at, host) in self.hosts.iter_mut().enumerate() {
                let _ = host.poll_transmit(self.now, &mut self.tx);
                while let Some(packet) = self.tx.pop() {
                    self.wires[1 - at].push(packet);
                }
            }
        }
    }

    /// The client says so much to the server, which reads it.
    fn say(&mut self, octets: usize) {
        let text = vec![7; 1_000];
        let (mut said, mut heard, mut read) = (0, 0, vec![0; 64_000]);
        while heard < octets {
            while said < octets
                && let Ok(len) = self.hosts[0].send(self.now, self.sockets[0], &text)
            {
                said += len;
            }
            self.run(Duration::from_millis(5));
            while let Ok(len) = self.hosts[1].recv(self.now, self.sockets[1], &mut read)
                && len > 0
            {
                heard += len;
            }
        }
    }

    /// Which hosts keep nothing beside their blocks and connections.
    fn rest(&self) -> [bool; 2] {
        [0, 1].map(|at: usize| {
            let host = &self.hosts[at];
            host.tcbs.iter().all(|(_, tcb)| tcb.rests())
                && host.connections.iter().all(|(_, connection)| connection.rests())
        })
    }

    fn window(&self) -> u32 {
        self.hosts[0].tcbs.iter().map(|(_, tcb)| tcb.cwnd()).sum()
    }
}

const ADDRS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const WHILE: Duration = Duration::from_secs(10);

#[test]
fn who_said_little_keeps_nothing() {
    use CongestionAlgorithm::{Balia, Bbr, Cubic, NewReno};
    for congestion in [Bbr, Cubic, NewReno, Balia] {
        for mptcp in [false, true] {
            let mut pair = Pair::new(ADDRS, congestion, mptcp);
            pair.run(WHILE);
            let first = pair.window();
            for _ in 0..3 {
                pair.say(3_000);
                // Not at once: an answer may follow.
                assert!(!pair.rest()[0], "{congestion:?} {mptcp}");
                pair.run(WHILE);
                assert!(pair.rest()[0], "{congestion:?} {mptcp}");
                // As at first, but for options that every segment carries by now.
                assert!(pair.window().abs_diff(first) < 1_000, "{congestion:?} {mptcp}");
            }
        }
    }
}

/// Nor does a subflow that fell back, whatever it has lost since.
#[test]
fn who_fell_back_and_lost_something_keeps_nothing() {
    let mut pair = Pair::between(ADDRS, CongestionAlgorithm::Cubic, [true, false]);
    pair.say(3_000);
    assert_eq!(pair.hosts[0].send(pair.now, pair.sockets[0], &[7; 3_000]), Ok(3_000));
    let probes = pair.hosts[0].counters().tcp_loss_probes;
    for _ in 0..20 {
        pair.run(Duration::from_millis(5));
        pair.wires[1].clear();
    }
    assert_eq!(pair.hosts[0].counters().tcp_loss_probes, probes + 1);
    pair.run(WHILE);
    let subflows = pair.hosts[0].tcbs.iter().filter_map(|(_, tcb)| tcb.subflow.as_ref());
    assert_eq!(subflows.filter(|subflow| subflow.rests()).count(), 1);
}

#[test]
fn what_a_path_has_shown_is_kept() {
    for congestion in [CongestionAlgorithm::Bbr, CongestionAlgorithm::Cubic] {
        let mut pair = Pair::new(ADDRS, congestion, true);
        pair.say(3_000_000);
        let window = pair.window();
        pair.run(WHILE);
        assert!(!pair.rest()[0], "{congestion:?}");
        assert_eq!(pair.window(), window, "{congestion:?}");
    }
}

/// A timer that fires in vain soon after a queue ran empty does not cost its memory: the next window needs it again.
#[test]
fn a_queue_that_runs_empty_is_kept_for_a_timeout() {
    for mptcp in [false, true] {
        let mut pair = Pair::new(ADDRS, CongestionAlgorithm::Cubic, mptcp);
        pair.say(3_000);
        pair.run(Duration::from_millis(50));
        let now = pair.now;
        let tcb = pair.hosts[0].tcbs.get_mut(0).expect("the only one");
        assert!(tcb.queue.is_empty() && tcb.queue.is_there(), "{mptcp}");
        let at = tcb.rest(now).expect("it has just sent");
        assert!(at > now && tcb.queue.is_there(), "{mptcp}");
        assert_eq!(tcb.rest(at), None);
        assert!(!tcb.queue.is_there(), "{mptcp}");
    }
}

/// What was decided about data in flight holds until that has arrived, whatever timers fire before.
#[test]
fn what_is_in_flight_is_not_forgotten() {
    let mut pair = Pair::new(ADDRS, CongestionAlgorithm::Cubic, true);
    let (now, host) = (pair.now, &mut pair.hosts[0]);
    assert_eq!(host.send(now, pair.sockets[0], &[7; 1_000]), Ok(1_000));
    let _ = host.poll_transmit(now, &mut pair.tx);
    let connection = host.connections.get_mut(0).expect("the only one");
    connection.rare.repeated_to = 500;
    connection.rest();
    assert_eq!(connection.rare.repeated_to, 500);
    let tcb = host.tcbs.get_mut(0).expect("the only one");
    let penalise = |tcb: &mut crate::tcp::Tcb<HeapBuf>| {
        tcb.subflow.as_mut().is_some_and(|subflow| subflow.penalise(now, WHILE))
    };
    assert!(penalise(tcb));
    let _again = tcb.rest(now);
    assert!(!penalise(tcb), "once is enough");
}

#[test]
fn ends_of_either_family_are_told_as_they_are() {
    for addrs in [ADDRS, ["2001:db8::1", "2001:db8::2"]] {
        let pair = Pair::new(addrs, CongestionAlgorithm::Bbr, true);
        let info = pair.hosts[1].info(pair.sockets[1]).expect("it lives");
        let (local, remote) = (info.local, info.remote);
        let [client, server] = addrs.map(|addr| addr.parse::<IpAddr>().unwrap());
        assert_eq!((local.ip(), local.port(), remote.ip()), (server, 80, client));
        assert_eq!(info.subflows[0].remote, remote);
    }
}
