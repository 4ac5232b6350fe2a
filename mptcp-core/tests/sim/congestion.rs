//! The congestion control of one connection, chosen before it exists, at its start and in its middle.

use crate::transfer::{End, run};
use crate::world::World;
use crate::{link, lossy, pair, world};
use core::sync::atomic::{AtomicU32, Ordering};
use mptcp_core::config::{CongestionAlgorithm, StackConfig};
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::tcp::congestion::{AckSample, CongestionChoice, CongestionControl};
use mptcp_core::time::{Duration, Instant};
use netsim::Direction;
use netsim::link::{Change, LinkConfig, Loss};
use std::sync::Arc;

const MB: u64 = 1 << 20;

/// A window that never moves.
#[derive(Debug)]
struct Fixed {
    cwnd: u32,
    mss: u32,
}

impl CongestionControl for Fixed {
    fn on_ack(&mut self, _sample: &AckSample) {}
    fn on_congestion_event(&mut self, _now: Instant, _flight_size: u32) {}
    fn on_rto(&mut self, _now: Instant, _flight_size: u32) {}
    fn on_recovery_exit(&mut self, _now: Instant) {}
    fn undo(&mut self, _now: Instant) {}
    fn on_idle(&mut self, _now: Instant, _idle: Duration, _rto: Duration) {}
    fn cwnd(&self) -> u32 {
        self.cwnd
    }
    fn ssthresh(&self) -> u32 {
        self.cwnd
    }
    fn set_cwnd(&mut self, _cwnd: u32) {}
    fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
        self.cwnd = 8 * mss;
    }
    fn name(&self) -> &'static str {
        "fixed"
    }
}

/// A download whose server's socket is looked at on every turn.
struct Download {
    world: World,
    client: End,
    server: Option<End>,
    listener: SocketId,
}

impl Download {
    fn new(mptcp: bool, paths: usize, loss_ppm: u32, bytes: u64) -> Self {
        let links: Vec<_> = (0..paths).map(|_| pair(lossy(20, 10, loss_ppm))).collect();
        let mut world =
            World::new(3, &links, false, StackConfig::default(), StackConfig::default());
        let listener = world.listen(mptcp);
        let id = world.connect(mptcp);
        Self { world, client: End::new(id, 1, 11, bytes, 22), server: None, listener }
    }

    /// To the end; `each` is told the server's id and how much the client has.
    fn run(mut self, mut each: impl FnMut(&mut World, SocketId, u64)) {
        let limit = Instant::from_millis(60_000);
        let mut connected = false;
        while !(self.client.done() && self.server.as_ref().is_some_and(End::done)) {
            self.world.turn();
            while let Some(event) = self.world.client.stack.poll_event() {
                connected |= event.ready.contains(Ready::CONNECTED);
            }
            while self.world.server.stack.poll_event().is_some() {}
            if let Some(id) = self.world.server.stack.accept(self.listener) {
                self.server = Some(End::new(id, self.client.expect, 22, 1, 11));
            }
            let now = self.world.now;
            if connected {
                self.client.work(&mut self.world.client, now);
            }
            if let Some(server) = &mut self.server {
                each(&mut self.world, server.id, self.client.received);
                server.work(&mut self.world.server, now);
            }
            self.world.flush();
            assert!(self.world.advance(limit), "stuck with {:?}", self.client);
        }
        self.world.net.referee().expect("every world has one").assert_clean();
    }
}

fn names(world: &World, id: SocketId) -> Vec<&'static str> {
    let info = world.server.stack.info(id).expect("it is open");
    info.subflows.iter().map(|subflow| subflow.tcp.congestion).collect()
}

#[test]
fn a_listener_gives_its_choice_to_what_it_accepts() {
    for mptcp in [true, false] {
        let mut download = Download::new(mptcp, 1 + usize::from(mptcp), 0, 4 * MB);
        let (now, listener) = (download.world.now, download.listener);
        let stack = &mut download.world.server.stack;
        assert!(stack.set_congestion(now, listener, CongestionAlgorithm::Cubic));
        let mut most = 0;
        download.run(|world, id, _| {
            let names = names(world, id);
            assert!(names.iter().all(|&name| name == "cubic"), "{names:?}");
            most = most.max(names.len());
        });
        // The join has it too.
        assert_eq!(most, 1 + usize::from(mptcp));
    }
}

#[test]
fn a_connection_keeps_its_choice_and_others_the_default() {
    let mut download = Download::new(true, 2, 0, 4 * MB);
    let now = download.world.now;
    // Before its SYN is out; the server's side is not concerned.
    let stack = &mut download.world.client.stack;
    assert!(stack.set_congestion(now, download.client.id, CongestionAlgorithm::NewReno));
    let client = download.client.id;
    let mut most = 0;
    download.run(|world, id, _| {
        let info = world.client.stack.info(client).expect("it is open");
        most = most.max(info.subflows.len());
        assert!(info.subflows.iter().all(|s| s.tcp.congestion == "newreno"), "{info:?}");
        assert!(names(world, id).iter().all(|&name| name == "bbr"));
    });
    assert_eq!(most, 2);
}

/// With loss, so that some take over during a recovery.
#[test]
fn any_takes_over_from_any_in_the_middle() {
    let mut download = Download::new(true, 2, 10_000, 12 * MB);
    let now = download.world.now;
    assert!(!download.world.server.stack.set_congestion(
        now,
        SocketId(7),
        CongestionAlgorithm::Cubic
    ));
    let mut changes = 0;
    let mut turn = CongestionAlgorithm::ALL.into_iter().cycle();
    download.client.expect = 12 * MB;
    download.run(|world, id, received| {
        if received / (128 << 10) > changes {
            changes += 1;
            let next = turn.next().expect("it never ends");
            let now = world.now;
            assert!(world.server.stack.set_congestion(now, id, next));
            assert!(names(world, id).iter().all(|&name| name == next.name()));
        }
    });
    assert!(changes > 50, "{changes}");
}

#[test]
fn an_application_brings_its_own() {
    let mut download = Download::new(true, 2, 0, 2 * MB);
    let made = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&made);
    let own = CongestionChoice::Own(Arc::new(move |mss, _now| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::new(Fixed { cwnd: 8 * mss, mss })
    }));
    let (now, listener) = (download.world.now, download.listener);
    assert!(download.world.server.stack.set_congestion(now, listener, own));
    download.run(|world, id, _| {
        let info = world.server.stack.info(id).expect("it is open");
        for subflow in &info.subflows {
            assert_eq!(subflow.tcp.congestion, "fixed");
            assert!(subflow.cwnd <= 8 * 1460, "{subflow:?}");
        }
    });
    // One for each subflow.
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

/// A transfer that begins in a storm, in which most is lost: what is measured there is not the path, and
/// once the storm is over nobody goes on as if it were.
#[test]
fn a_storm_at_the_start_is_forgotten() {
    let config = LinkConfig { queue_bytes: 384 << 10, ..link(48, 18) };
    let mut longest = Duration::ZERO;
    for seed in 0..40 {
        let mut world = world(seed, &[pair(config.clone())]);
        let (from, over) = (Duration::from_millis(40), Duration::from_millis(162));
        for (dir, ppm) in [(Direction::AtoB, 600_000), (Direction::BtoA, 850_000)] {
            let link = world.net.link_mut(world.paths[0], dir);
            link.at(from.as_nanos() as u64, Change::Loss(Loss::Bernoulli(ppm)));
            link.at(over.as_nanos() as u64, Change::Loss(Loss::None));
        }
        let report = run(&mut world, false, 1, 4 * MB, Duration::from_secs(120));
        world.assert_empty();
        let first = report.deliveries.0.iter().find(|(at, _)| *at > over).expect("some").0;
        longest = longest.max(report.took - first);
    }
    // The link carries it in 0.7 s.
    println!("at most {longest:?} from the first delivery after the storm");
    assert!(longest <= Duration::from_millis(4_500), "{longest:?}");
}

/// When the last octet of an answer of `bytes` arrives, from the first SYN on, over 100 Mbit/s and 5 ms.
fn answered(mptcp: bool, bytes: u64, congestion: CongestionAlgorithm, pacing: bool) -> Duration {
    let mut server = StackConfig::default();
    (server.tcp.congestion, server.tcp.pacing) = (congestion, pacing);
    let mut world = World::new(3, &[pair(link(100, 5))], false, StackConfig::default(), server);
    let report = run(&mut world, mptcp, 100, bytes, Duration::from_secs(60));
    report.deliveries.0.last().expect("something arrives").0
}

/// Without pacing an answer is over as early as acknowledgements allow.
#[test]
fn pacing_hardly_holds_up_short_answers() {
    for (mptcp, kib) in [(false, 64), (true, 64), (false, 256), (true, 256)] {
        let took = |kind, pacing| answered(mptcp, kib << 10, kind, pacing).as_secs_f64();
        let burst = took(CongestionAlgorithm::Cubic, false);
        for kind in CongestionAlgorithm::ALL {
            let share = took(kind, true) / burst;
            println!("{kib} KiB, MPTCP {mptcp}, {}: {share:.3}", kind.name());
            assert!(share <= 1.02, "{kib} KiB, MPTCP {mptcp}, {}: {share}", kind.name());
        }
    }
}
