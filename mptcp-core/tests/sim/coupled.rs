//! Coupled congestion control (RFC 6356 §2): a connection of two subflows takes of a shared bottleneck
//! what one TCP takes, and of two paths of its own what both have.

use crate::transfer::{End, run};
use crate::world::World;
use crate::{link, pair};
use mptcp_core::config::{CongestionAlgorithm, StackConfig};
use mptcp_core::stack::Ready;
use mptcp_core::time::Duration;
use netsim::link::LinkConfig;

const COUPLED: [CongestionAlgorithm; 3] =
    [CongestionAlgorithm::Lia, CongestionAlgorithm::Olia, CongestionAlgorithm::Balia];

fn config(congestion: CongestionAlgorithm) -> StackConfig {
    let mut config = StackConfig::default();
    config.tcp.congestion = congestion;
    config
}

/// Downloads of an MPTCP and a TCP connection at the same time, all over the first path.
struct Contest {
    world: World,
    clients: [End; 2],
    connected: [bool; 2],
    servers: Vec<End>,
}

impl Contest {
    fn new(congestion: CongestionAlgorithm, shared: &LinkConfig, seed: u64) -> Self {
        let links = [pair(shared.clone()), pair(shared.clone())];
        let mut world = World::new(seed, &links, false, config(congestion), config(congestion));
        let (second, path) = (world.client_addrs[1], world.paths[0]);
        world.client.routes.insert(second, path);
        world.server.routes.insert(second, path);
        let clients = [true, false].map(|mptcp| {
            let id = world.connect(mptcp);
            End::new(id, 1, 11, u64::MAX, 22)
        });
        Self { world, clients, connected: [false; 2], servers: Vec::new() }
    }

    /// Runs to `seconds`; octets each connection received so far.
    fn run(&mut self, seconds: u64) -> [u64; 2] {
        let limit = mptcp_core::time::Instant::from_millis(seconds * 1000);
        while self.world.now < limit {
            self.world.turn();
            while let Some(event) = self.world.client.stack.poll_event() {
                let which = self.clients.iter().position(|end| end.id == event.socket);
                if let Some(which) = which.filter(|_| event.ready.contains(Ready::CONNECTED)) {
                    self.connected[which] = true;
                }
            }
            while self.world.server.stack.poll_event().is_some() {}
            let now = self.world.now;
            for (end, _) in self.clients.iter_mut().zip(self.connected).filter(|(_, on)| *on) {
                end.work(&mut self.world.client, now);
            }
            for end in &mut self.servers {
                end.work(&mut self.world.server, now);
            }
            self.world.flush();
            self.world.advance(limit);
        }
        [self.clients[0].received, self.clients[1].received]
    }
}

/// Shares of a bottleneck over many losses: the MPTCP connection's over the TCP's.
fn share_of(congestion: CongestionAlgorithm, seed: u64) -> f64 {
    // A little jitter: which of equal flows meets the full queue must not be decided by their phase.
    let shared = LinkConfig { queue_bytes: 50 << 10, jitter_ns: 2_000_000, ..link(10, 20) };
    let mut contest = Contest::new(congestion, &shared, seed);
    let listener = contest.world.listen(true);
    let mut before = [0; 2];
    for second in 1..=60 {
        let received = contest.run(second);
        while let Some(id) = contest.world.server.stack.accept(listener) {
            contest.servers.push(End::new(id, u64::MAX, 22, 1, 11));
        }
        if second == 10 {
            before = received;
        }
    }
    contest.world.net.referee().expect("every world has one").assert_clean();
    let joined = contest.world.client.stack.counters().mp_join_syn_ack_rx;
    assert_eq!(joined, 1, "two subflows");
    let received = contest.run(60);
    let [mptcp, tcp] = [0, 1].map(|which| (received[which] - before[which]) as f64);
    let used = (mptcp + tcp) * 8.0 / 50.0 / 10e6;
    println!("{congestion:?}: {:.2} of the TCP's share, link {used:.3} used", mptcp / tcp);
    assert!(used > 0.9, "{used}");
    mptcp / tcp
}

/// The mean over three runs: who loses at a full queue is a matter of chance.
fn share(congestion: CongestionAlgorithm) -> f64 {
    let mean = (1..=3).map(|seed| share_of(congestion, seed)).sum::<f64>() / 3.0;
    println!("{congestion:?}: {mean:.2} on average");
    mean
}

#[test]
fn t138_two_coupled_subflows_take_the_share_of_one_tcp() {
    for congestion in COUPLED {
        let share = share(congestion);
        assert!((0.5..=1.2).contains(&share), "{congestion:?}: {share}");
    }
    // The test can tell: two subflows that know nothing of each other take two shares.
    let uncoupled = share(CongestionAlgorithm::NewReno);
    assert!(uncoupled > 1.4, "{uncoupled}");
}

#[test]
fn coupled_subflows_fill_paths_of_their_own() {
    for congestion in COUPLED {
        let links = [pair(link(40, 10)), pair(link(20, 15))];
        let mut world = World::new(5, &links, false, config(congestion), config(congestion));
        let report = run(&mut world, true, 100, 40_000_000, Duration::from_secs(60));
        world.assert_empty();
        let rate = 40_000_000.0 * 8.0 / report.took.as_secs_f64() / 60e6;
        println!("{congestion:?}: {rate:.3} of two paths");
        // Six seconds, the start and its losses included.
        assert!(rate >= 0.8, "{congestion:?}: {rate}");
        assert!(report.server_bytes_by_path.iter().all(|&bytes| bytes > 10_000_000), "{report:?}");
    }
}
