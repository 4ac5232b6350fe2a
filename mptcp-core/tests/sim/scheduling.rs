//! Schedulers and rate caps on whole connections: who carries what, changes while data flows, and how
//! closely a cap holds.

use crate::scenarios::cut;
use crate::transfer::{End, run_with};
use crate::world::World;
use crate::{link, lossy, pair};
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::cap::SharedCap;
use mptcp_core::config::{
    ChecksumPolicy, CongestionAlgorithm, PathPolicy, SchedulerKind, Scheduling, StackConfig,
};
use mptcp_core::stack::SocketId;
use mptcp_core::time::Instant;
use netsim::link::LinkConfig;
use netsim::referee::Point;

/// An upload without end over paths that leave by ports 0, 1, ….
struct Upload {
    world: World,
    listener: SocketId,
    sender: End,
    receiver: Option<End>,
}

impl Upload {
    /// Started, and every path joined.
    fn start(links: &[LinkConfig], scheduling: Scheduling) -> Self {
        let mut client = StackConfig::default();
        client.mptcp.scheduling = scheduling;
        let mut upload = Self::open(links, client, u64::MAX);
        upload.pass(SECOND / 2);
        assert_eq!(upload.by_path().len(), links.len(), "a path did not join");
        upload
    }

    /// With so many octets to send at first; it does not end behind them.
    fn open(links: &[LinkConfig], client: StackConfig, octets: u64) -> Self {
        let links: Vec<_> = links.iter().cloned().map(pair).collect();
        let mut world = World::with_ports(5, &links, client, StackConfig::default());
        let listener = world.listen(true);
        let id = world.connect(true);
        let mut sender = End::new(id, octets, 11, 0, 22);
        sender.shut = true;
        Self { world, listener, sender, receiver: None }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.world.now + time;
        loop {
            let world = &mut self.world;
            world.turn();
            while world.client.stack.poll_event().is_some() {}
            while world.server.stack.poll_event().is_some() {}
            if self.receiver.is_none() {
                let accepted = world.server.stack.accept(self.listener);
                self.receiver = accepted.map(|id| End::new(id, 0, 22, u64::MAX, 11));
            }
            self.sender.work(&mut world.client, world.now);
            if let Some(receiver) = &mut self.receiver {
                receiver.work(&mut world.server, world.now);
                assert_eq!(receiver.failed, None);
            }
            world.flush();
            assert!(
                self.sender.failed.as_deref().is_none_or(|error| error.contains("NotConnected"))
            );
            self.sender.failed = None;
            if !self.world.advance(until) {
                return;
            }
        }
    }

    fn set(&mut self, scheduling: &Scheduling) {
        let now = self.world.now;
        assert!(self.world.client.stack.set_scheduling(now, self.sender.id, scheduling));
    }

    fn received(&self) -> u64 {
        self.receiver.as_ref().map_or(0, |end| end.received)
    }

    /// Octets sent on each path so far, by port.
    fn by_path(&self) -> Vec<u64> {
        let info = self.world.client.stack.info(self.sender.id).expect("it is open");
        let mut subflows: Vec<_> = info.subflows.iter().map(|s| (s.port.0, s.bytes_sent)).collect();
        subflows.sort_unstable();
        subflows.into_iter().map(|(_, sent)| sent).collect()
    }

    /// Octets received, and sent on each path, in the next `time`.
    fn measure(&mut self, time: Duration) -> (u64, Vec<u64>) {
        let (received, by_path) = (self.received(), self.by_path());
        self.pass(time);
        let sent = self.by_path().iter().zip(&by_path).map(|(now, then)| now - then).collect();
        (self.received() - received, sent)
    }

    fn finish(&self) {
        self.world.net.referee().expect("every world has one").assert_clean();
    }
}

fn kind(kind: SchedulerKind) -> Scheduling {
    Scheduling { kind, ..Scheduling::default() }
}

const SECOND: Duration = Duration::from_secs(1);
/// Of a second's worth, in octets.
const MBIT: u64 = 125_000;

#[track_caller]
fn assert_within(percent: u64, measured: u64, expected: u64) {
    assert!(expected > 0, "nothing happened");
    let off = measured.abs_diff(expected);
    assert!(off * 100 <= expected * percent, "{measured} is not {expected} ± {percent} %");
}

#[test]
fn t139_a_cap_of_the_connection_holds_and_changes_live() {
    for scheduler in SchedulerKind::ALL {
        let mut upload = Upload::start(&[link(100, 10), link(50, 20)], kind(scheduler));
        for mbit in [20, 35, 8] {
            upload.set(&Scheduling { rate: Some(mbit * MBIT), ..kind(scheduler) });
            upload.pass(SECOND);
            let (received, _) = upload.measure(2 * SECOND);
            // Redundant copies are the sender's own wish: what counts is the stream.
            assert_within(2, received, 2 * mbit * MBIT);
        }
        upload.set(&kind(scheduler));
        upload.pass(SECOND / 4);
        let (received, _) = upload.measure(SECOND / 2);
        assert!(received > 35 * MBIT / 2, "{scheduler:?}: the cap is still there: {received}");
        upload.finish();
    }
}

#[test]
fn t139_caps_of_paths_hold_and_no_path_starves() {
    let links = [link(100, 10), link(50, 20), link(50, 40)];
    let cap = |port, mbit| PathPolicy { rate: Some(mbit * MBIT), ..PathPolicy::new(PortId(port)) };
    let mut upload = Upload::start(&links, Scheduling::default());
    for caps in [[30, 20, 10], [5, 15, 25]] {
        let paths = (0..).zip(caps).map(|(port, mbit)| cap(port, mbit)).collect();
        upload.set(&Scheduling { paths, ..Scheduling::default() });
        upload.pass(SECOND);
        let (received, sent) = upload.measure(4 * SECOND);
        for (sent, mbit) in sent.iter().zip(caps) {
            assert_within(2, *sent, 4 * mbit * MBIT);
        }
        assert_within(2, received, 4 * caps.iter().sum::<u64>() * MBIT);
    }
    // One path capped, the connection too: both hold, and the path without a cap takes the rest.
    upload.set(&Scheduling {
        rate: Some(24 * MBIT),
        paths: vec![cap(0, 6)],
        ..kind(SchedulerKind::LowestRtt)
    });
    upload.pass(SECOND);
    let (received, sent) = upload.measure(4 * SECOND);
    assert_within(2, received, 4 * 24 * MBIT);
    assert_within(2, sent[0], 4 * 6 * MBIT);
    upload.finish();
}

/// Fifty milliseconds under the cap of the faster path, and a hundred and fifty one way by the other one.
#[test]
fn what_ends_soon_ends_by_the_faster_path_though_a_cap_holds_that_back() {
    for scheduler in [SchedulerKind::Default, SchedulerKind::Ecf] {
        let mut client = StackConfig::default();
        let paths = vec![PathPolicy { rate: Some(10 * MBIT), ..PathPolicy::new(PortId(0)) }];
        client.mptcp.scheduling = Scheduling { paths, ..kind(scheduler) };
        let mut upload = Upload::open(&[link(100, 10), link(100, 150)], client, 400_000);
        upload.pass(3 * SECOND);
        assert_eq!((upload.by_path().len(), upload.received()), (2, 400_000));
        for _ in 0..5 {
            let before = upload.received();
            upload.sender.send += 60_000;
            upload.pass(Duration::from_millis(140));
            assert_eq!(upload.received() - before, 60_000, "{scheduler:?}");
            upload.pass(SECOND / 2);
        }
        upload.finish();
    }
}

#[test]
fn shares_are_those_asked_for() {
    let links = [link(60, 10), link(60, 20)];
    let mut upload = Upload::start(&links, kind(SchedulerKind::RoundRobin));
    let capped = Scheduling { rate: Some(40 * MBIT), ..kind(SchedulerKind::RoundRobin) };
    upload.set(&capped);
    upload.pass(SECOND);
    let (_, sent) = upload.measure(3 * SECOND);
    assert_within(2, sent[0], sent[1]);
    let weight = |port, weight| PathPolicy { weight, ..PathPolicy::new(PortId(port)) };
    // Larger than a segment, too.
    for (first, second) in [(1, 3), (30_000, 50_000)] {
        upload.set(&Scheduling {
            kind: SchedulerKind::Weighted,
            paths: vec![weight(0, first), weight(1, second)],
            ..capped.clone()
        });
        upload.pass(SECOND);
        let (_, sent) = upload.measure(3 * SECOND);
        assert_within(2, u64::from(second) * sent[0], u64::from(first) * sent[1]);
    }
    upload.finish();
}

/// What was sent by other rules, or while the other path was down, is nothing to catch up with.
#[test]
fn shares_begin_anew_with_a_change_and_with_a_path_that_returns() {
    let links = [link(60, 10), link(60, 20)];
    let order = |port, priority| PathPolicy { priority, ..PathPolicy::new(PortId(port)) };
    let rate = Some(10 * MBIT);
    let weighted = Scheduling { rate, ..kind(SchedulerKind::Weighted) };
    let mut upload = Upload::start(&links, kind(SchedulerKind::Default));
    let first = vec![order(0, 0), order(1, 1)];
    upload.set(&Scheduling { rate, paths: first, ..kind(SchedulerKind::ActiveBackup) });
    upload.pass(5 * SECOND);
    upload.set(&weighted);
    upload.pass(SECOND / 2);
    let (received, sent) = upload.measure(2 * SECOND);
    assert_within(2, received, 2 * 10 * MBIT);
    assert_within(4, sent[0], sent[1]);
    let now = upload.world.now.since(Instant::from_nanos(1));
    cut(&mut upload.world, 1, now, now + 5 * SECOND);
    upload.pass(7 * SECOND);
    let (received, sent) = upload.measure(2 * SECOND);
    assert_within(2, received, 2 * 10 * MBIT);
    assert_within(4, sent[0], sent[1]);
    upload.finish();
}

/// Nor is what others left of a port's rate, or what went by the other path while this one was a backup.
#[test]
fn shares_have_no_debts_of_a_path_that_was_kept_from_them() {
    let links = [link(60, 10), link(60, 20)];
    let cap = SharedCap::new(40 * MBIT);
    let caps = vec![(PortId(1), cap.clone())];
    let rate = Some(10 * MBIT);
    let weighted = Scheduling { rate, caps, ..kind(SchedulerKind::Weighted) };
    let mut upload = Upload::start(&links, weighted);
    let even = |upload: &mut Upload| {
        upload.pass(SECOND / 2);
        let (received, sent) = upload.measure(2 * SECOND);
        assert_within(2, received, 2 * 10 * MBIT);
        assert_within(4, sent[0], sent[1]);
    };
    even(&mut upload);
    // Somebody else has the port for eight seconds.
    assert!(cap.take(upload.world.now, 8 * 40 * MBIT));
    let (_, sent) = upload.measure(8 * SECOND);
    assert!(sent[1] * 20 < sent[0], "{sent:?}");
    even(&mut upload);
    let (id, stack) = (upload.sender.id, &mut upload.world.client.stack);
    let info = stack.info(id).expect("it is open");
    let second = info.subflows.iter().find(|subflow| subflow.port == PortId(1)).expect("joined").id;
    assert!(stack.set_backup(id, second, true));
    let (_, sent) = upload.measure(5 * SECOND);
    assert!(sent[1] * 20 < sent[0], "{sent:?}");
    assert!(upload.world.client.stack.set_backup(id, second, false));
    even(&mut upload);
    upload.finish();
}

/// Two connections, each of a stack of its own, share the rate of a port; repairs do not wait for it.
#[test]
fn connections_share_a_cap_and_each_has_its_part() {
    for scheduler in SchedulerKind::ALL {
        let caps = vec![(PortId(0), SharedCap::new(12 * MBIT))];
        let mut uploads = [5, 6].map(|_| {
            let links = [lossy(60, 10, 2_000), link(20, 25)];
            let mut upload = Upload::start(&links, kind(scheduler));
            upload.set(&Scheduling { caps: caps.clone(), ..kind(scheduler) });
            upload
        });
        // In small steps, so that their clocks agree.
        let mut totals = [0, 0];
        for step in 0..6_000 {
            for (upload, total) in uploads.iter_mut().zip(&mut totals) {
                let before = upload.by_path()[0];
                upload.pass(SECOND / 1_000);
                // The first second settles it.
                *total += if step < 1_000 { 0 } else { upload.by_path()[0] - before };
            }
        }
        let [one, other] = totals;
        let redundant = scheduler == SchedulerKind::Redundant;
        assert_within(if redundant { 4 } else { 2 }, one + other, 5 * 12 * MBIT);
        assert_within(15, one, other);
        uploads.iter().for_each(Upload::finish);
    }
}

/// A place in a line of 8 kbit/s for which nothing is left to send is nobody's: others need not wait until it is over.
#[test]
fn a_place_in_line_is_given_back_when_its_data_went_by_another_path() {
    let cap = SharedCap::new(1_000);
    let mut client = StackConfig::default();
    let caps = vec![(PortId(1), cap.clone())];
    client.mptcp.scheduling = Scheduling { caps, ..kind(SchedulerKind::RoundRobin) };
    let mut upload = Upload::open(&[link(50, 10), link(50, 10)], client, 1);
    upload.pass(SECOND);
    assert_eq!(upload.by_path().len(), 2, "a path did not join");
    upload.sender.send += 300_000;
    upload.pass(SECOND);
    assert_eq!(upload.received(), 300_001);
    let sent = upload.by_path()[1];
    assert!((1_400..=3_000).contains(&sent), "one place was due at once: {sent}");
    // What it sent is paid for now. What it did not send was in line for three seconds more.
    upload.pass(5 * SECOND);
    let now = upload.world.now;
    assert_eq!((0..3).filter(|_| cap.take(now, 3_000)).count(), 2);
    upload.finish();
}

#[test]
fn redundant_sends_all_on_every_path() {
    let links = [link(50, 10), link(50, 20)];
    let mut upload = Upload::start(&links, kind(SchedulerKind::Redundant));
    upload.set(&Scheduling { rate: Some(20 * MBIT), ..kind(SchedulerKind::Redundant) });
    upload.pass(SECOND);
    let (received, sent) = upload.measure(3 * SECOND);
    for sent in sent {
        assert_within(3, sent, received);
    }
    upload.finish();
}

#[test]
fn order_decides_who_is_used_first() {
    let links = [link(50, 10), link(30, 5)];
    let order = |port, priority| PathPolicy { priority, ..PathPolicy::new(PortId(port)) };
    let paths = vec![order(0, 1), order(1, 2)];
    for scheduler in [SchedulerKind::ActiveBackup, SchedulerKind::Overflow] {
        let scheduling = Scheduling { paths: paths.clone(), ..kind(scheduler) };
        let mut upload = Upload::start(&links, scheduling.clone());
        // Less than the first path carries: the second is not needed, though it is faster.
        upload.set(&Scheduling { rate: Some(20 * MBIT), ..scheduling.clone() });
        upload.pass(SECOND);
        let (received, sent) = upload.measure(3 * SECOND);
        assert_within(2, received, 3 * 20 * MBIT);
        assert!(sent[1] * 100 <= sent[0], "{scheduler:?}: {sent:?}");
        // More than it carries.
        upload.set(&scheduling);
        upload.pass(2 * SECOND);
        let (received, sent) = upload.measure(4 * SECOND);
        if scheduler == SchedulerKind::Overflow {
            assert_within(10, received, 4 * 80 * MBIT * 94 / 100);
        } else {
            assert_within(10, received, 4 * 50 * MBIT * 94 / 100);
            assert!(sent[1] * 20 <= sent[0], "{scheduler:?}: {sent:?}");
        }
        // The first is gone.
        let now = upload.world.now.since(Instant::from_nanos(1));
        cut(&mut upload.world, 0, now, now + 60 * SECOND);
        upload.pass(2 * SECOND);
        let (received, _) = upload.measure(3 * SECOND);
        assert_within(10, received, 3 * 30 * MBIT * 94 / 100);
        upload.finish();
    }
}

/// Octets in forty seconds by a path that loses one segment in a thousand, beside one with a wide window that is not used
/// any more.
fn beside_an_idle_path(congestion: CongestionAlgorithm) -> u64 {
    let first = |port: u8| Scheduling {
        paths: vec![PathPolicy { priority: 1, ..PathPolicy::new(PortId(1 - port)) }],
        ..kind(SchedulerKind::ActiveBackup)
    };
    let mut client = StackConfig::default();
    client.tcp.congestion = congestion;
    client.mptcp.scheduling = first(1);
    let links = [lossy(50, 20, 1_000), link(50, 20)];
    let mut upload = Upload::open(&links, client, u64::MAX);
    upload.pass(5 * SECOND);
    assert!(upload.by_path()[1] > 10_000_000, "{:?}", upload.by_path());
    upload.set(&first(0));
    upload.pass(5 * SECOND);
    let (received, sent) = upload.measure(40 * SECOND);
    assert!(sent[1] * 20 < sent[0], "{sent:?}");
    upload.finish();
    received
}

/// RFC 6356 §3: who is limited by the application counts for what it has in flight.
#[test]
fn an_idle_path_holds_up_no_coupled_one() {
    let [coupled, alone] =
        [CongestionAlgorithm::Lia, CongestionAlgorithm::NewReno].map(beside_an_idle_path);
    assert!(coupled * 10 >= alone * 6, "{coupled} and {alone}");
}

#[test]
fn switching_while_data_flows_loses_nothing() {
    let links = [lossy(60, 10, 5_000), lossy(40, 25, 2_000), link(20, 40)];
    let mut upload = Upload::start(&links, Scheduling::default());
    let mut before = upload.received();
    for round in 0..4 {
        for scheduler in SchedulerKind::ALL {
            let rate = (round % 2 == 1).then_some(15 * MBIT);
            upload.set(&Scheduling { rate, ..kind(scheduler) });
            upload.pass(SECOND / 3);
            let received = upload.received();
            assert!(received > before, "{scheduler:?} stands still");
            before = received;
        }
    }
    upload.finish();
}

/// Every packet that either end of a transfer sends, with its time, as one number; and how many there were.
fn packets_of(kind: SchedulerKind, logged: bool, v6: bool, checksum: bool) -> (u64, u64) {
    use core::hash::{Hash, Hasher};
    let mut server = StackConfig::default();
    server.mptcp.scheduling.kind = kind;
    if checksum {
        server.mptcp.checksum = ChecksumPolicy::Require;
    }
    let links = [pair(lossy(60, 5, 2_000)), pair(link(30, 20))];
    let mut world = World::new(9, &links, v6, StackConfig::default(), server);
    world.logged = logged;
    let seen = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
    let tapped = std::sync::Arc::clone(&seen);
    world.net.set_tap(Box::new(move |at, node, path, point, data| {
        let mut seen = tapped.lock().expect("nobody panics here");
        let mut hasher = std::hash::DefaultHasher::new();
        (seen.0, at, node.0, path.0, point == Point::Sent, data).hash(&mut hasher);
        *seen = (hasher.finish(), seen.1 + 1);
    }));
    run_with(&mut world, true, 3_000, 6 << 20, SECOND * 60, |_| ());
    *seen.lock().expect("nobody panics here")
}

/// A log wants every choice, so with one each segment is chosen for and put together on its own: what goes in
/// bursts is the same, packet by packet.
#[test]
fn a_burst_is_what_its_segments_would_be_one_by_one() {
    for kind in SchedulerKind::ALL {
        let (alone, count) = packets_of(kind, true, false, false);
        assert_eq!(packets_of(kind, false, false, false), (alone, count), "{kind:?}");
        assert!(count > 10_000, "{count} packets");
    }
    for (v6, checksum) in [(true, false), (false, true), (true, true)] {
        let alone = packets_of(SchedulerKind::Default, true, v6, checksum);
        assert_eq!(
            packets_of(SchedulerKind::Default, false, v6, checksum),
            alone,
            "{v6} {checksum}"
        );
    }
}
