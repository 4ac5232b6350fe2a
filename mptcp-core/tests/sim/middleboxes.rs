//! Every kind of middlebox in a situation of its own, with what it must do to the connection
//! (RFC 8684 §3.7 and §6). That the streams arrive identical is checked by every transfer.

use crate::boxes::{Kind, Placed};
use crate::transfer::{Report, run_with, settle};
use crate::world::World;
use crate::{link, lossy, pair};
use mptcp_core::config::{ChecksumPolicy, StackConfig};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::Version;
use netsim::Direction;
use netsim::link::{Change, LinkConfig, Loss};
use netsim::middlebox::{
    Aim, Coalescer, Keeps, MptcpOn, Nat, OptionStripper, Output, PathMtu, PayloadCorruptor,
    ProactiveAcker, ResetInjector, SegmentSplitter, StreamEditor, Strip, StripWhen, SynFate,
    SynFilter, WindowClamp,
};
use netsim::packet::edit;

const LIMIT: Duration = Duration::from_secs(300);

fn world(paths: u64, checksum: ChecksumPolicy, v6: bool) -> World {
    let links: Vec<_> = (0..paths).map(|path| pair(link(40, 10 + 5 * path))).collect();
    let mut config = StackConfig::default();
    config.mptcp.checksum = checksum;
    World::new(21, &links, v6, config.clone(), config)
}

fn world_of(links: &[(LinkConfig, LinkConfig)]) -> World {
    World::new(21, links, false, StackConfig::default(), StackConfig::default())
}

fn checked(world: &World) {
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    assert_eq!((world.net.misrouted(), world.net.chain_overflow()), (0, 0));
}

fn kept(report: &Report) {
    assert_eq!(report.ends, [(Some(1), None); 2]);
}

fn reasons(report: &Report) -> [Option<FallbackReason>; 2] {
    assert!(report.ends.iter().all(|(version, _)| version.is_none()), "{report:?}");
    report.ends.map(|(_, reason)| reason)
}

#[test]
fn a_translator_that_rebinds_costs_a_join_and_not_the_connection() {
    for v6 in [false, true] {
        let mut world = world(2, ChecksumPolicy::Accept, v6);
        let nat = |path| Placed { path, kind: Kind::Nat { rebind_at: None } };
        let _first = nat(0).install(&mut world, 1);
        let position = nat(1).install(&mut world, 1);
        let at = Instant::from_millis(1_000);
        let (mut done, mut before) = (false, 0);
        let report = run_with(&mut world, true, 100, 16 << 20, LIMIT, |world| {
            if world.now >= at && !done {
                done = true;
                let path = world.paths[1];
                before = world.net.link(path, Direction::BtoA).counters().delivered_bytes;
                world.net.middlebox::<Nat>(path, position).expect("a NAT").rebind();
            }
        });
        checked(&world);
        kept(&report);
        assert!(done && before > 1 << 20, "the join carried {before} octets");
        let nat = world.net.middlebox::<Nat>(world.paths[1], position).expect("a NAT");
        assert!(nat.counters().mapped >= 2, "{:?}", nat.counters());
    }
}

#[test]
fn a_smaller_mtu_on_the_way_is_learnt() {
    for (v6, mtu) in [(false, 700), (true, 1_300)] {
        let mut world = world(2, ChecksumPolicy::Accept, v6);
        let boxes = [0, 1].map(|path| {
            Placed { path, kind: Kind::PathMtu { mtu, says: true } }.install(&mut world, 1)
        });
        let report = run_with(&mut world, true, 1 << 20, 1 << 20, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        for (path, position) in world.paths.clone().into_iter().zip(boxes) {
            let hop = world.net.middlebox::<PathMtu>(path, position).expect("a hop");
            assert!((1..200).contains(&hop.dropped()), "{} were too long", hop.dropped());
        }
    }
}

#[test]
fn edited_payload_costs_the_join_it_is_on() {
    let mut world = world(2, ChecksumPolicy::Require, false);
    let path = world.paths[1];
    let position = world.net.add_middlebox(path, Box::new(PayloadCorruptor::new(3, 0, None)));
    let at = Instant::from_millis(500);
    let report = run_with(&mut world, true, 100, 16 << 20, LIMIT, |world| {
        let corruptor = world.net.middlebox::<PayloadCorruptor>(path, position);
        corruptor.expect("a corruptor").set_ppm(if world.now >= at { 10_000 } else { 0 });
    });
    checked(&world);
    kept(&report);
    let (client, server) = (world.client.stack.counters(), world.server.stack.counters());
    assert!(client.data_csum_err > 0 && server.in_rsts > 0, "nothing was noticed");
}

#[test]
fn segments_may_be_split_anywhere() {
    for on in [MptcpOn::Every, MptcpOn::First] {
        for checksum in [ChecksumPolicy::Accept, ChecksumPolicy::Require] {
            let mut world = world(2, checksum, false);
            let splitter = Placed { path: 0, kind: Kind::Splitter(333, on) };
            let position = splitter.install(&mut world, 1);
            let report = run_with(&mut world, true, 1 << 20, 2 << 20, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            let path = world.paths[0];
            let splitter = world.net.middlebox::<SegmentSplitter>(path, position).expect("it");
            assert!(splitter.split() > 500, "{}", splitter.split());
        }
    }
}

/// Options pass one way only: the end that misses them falls back, and the other follows it although
/// it sees options, with much, with little and with nothing to send.
#[test]
fn options_lost_in_one_direction_are_found_out_by_both_ends() {
    for dir in [Direction::AtoB, Direction::BtoA] {
        for (up, down) in [(3, 1), (533, 22), (1, 256 << 10), (256 << 10, 1)] {
            let mut world = world(2, ChecksumPolicy::Accept, false);
            let rule = Strip { dir: Some(dir), when: StripWhen::NotSyn, ..Strip::mptcp() };
            let stripper = Box::new(OptionStripper::new(vec![rule]));
            world.net.add_middlebox(world.paths[0], stripper);
            let report = run_with(&mut world, true, up, down, LIMIT, |_| {});
            checked(&world);
            assert!(reasons(&report).iter().all(Option::is_some), "{dir:?} {up} {down}");
        }
    }
}

#[test]
fn other_sequence_numbers_on_the_way_change_nothing() {
    for checksum in [ChecksumPolicy::Accept, ChecksumPolicy::Require] {
        let mut world = world(2, checksum, false);
        for path in [0, 1] {
            let kind = Kind::Shifted(0x8000_0000 + 77, 0xffff_0000);
            let _position = Placed { path, kind }.install(&mut world, 1);
        }
        let report = run_with(&mut world, true, 1 << 20, 4 << 20, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        assert!(report.server_bytes_by_path.iter().all(|octets| *octets > 1 << 18), "{report:?}");
    }
}

/// The window of one path is lowered: what was promised through the other one counts.
#[test]
fn a_window_lowered_on_one_path_does_not_stop_the_other() {
    let mut world = world(2, ChecksumPolicy::Accept, false);
    let clamp = Placed { path: 1, kind: Kind::Clamped(Direction::AtoB, 50) };
    let position = clamp.install(&mut world, 1);
    let report = run_with(&mut world, true, 100, 16 << 20, LIMIT, |_| {});
    checked(&world);
    kept(&report);
    let path = world.paths[1];
    let clamp = world.net.middlebox::<WindowClamp>(path, position).expect("a clamp");
    assert!(clamp.clamped() > 100, "{}", clamp.clamped());
    assert!(report.server_bytes_by_path[0] > 8 << 20, "{report:?}");
}

#[test]
fn forged_resets_cost_at_most_the_subflow_they_hit() {
    for (aim, hits) in [(Aim::Blind, false), (Aim::InWindow, false), (Aim::Exact, true)] {
        for dir in [Direction::AtoB, Direction::BtoA] {
            let mut world = world(2, ChecksumPolicy::Accept, false);
            let injector = Box::new(ResetInjector::new(dir, aim, 100, 5));
            let position = world.net.add_middlebox(world.paths[1], injector);
            let report = run_with(&mut world, true, 4 << 20, 4 << 20, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            let path = world.paths[1];
            let injector = world.net.middlebox::<ResetInjector>(path, position).expect("it");
            assert!(injector.sent() > 0, "{aim:?} {dir:?}");
            let victim = if dir == Direction::AtoB { &world.server } else { &world.client };
            let counters = victim.stack.counters();
            assert_eq!(counters.estab_resets > 0, hits, "{aim:?} {dir:?}");
            assert_eq!(counters.tcp_challenge_ack > 0, aim == Aim::InWindow, "{aim:?} {dir:?}");
        }
    }
}

#[test]
fn syns_with_the_option_that_are_dropped_mean_plain_tcp() {
    let mut world = world(1, ChecksumPolicy::Accept, false);
    let box_ = Placed { path: 0, kind: Kind::Syns(SynFate::DropWithMptcp) };
    let position = box_.install(&mut world, 1);
    let report = run_with(&mut world, true, 1 << 16, 1 << 16, LIMIT, |_| {});
    checked(&world);
    assert!(report.ends.iter().all(|(version, _)| version.is_none()), "{report:?}");
    let tries = u64::from(StackConfig::default().mptcp.capable_syn_tries);
    let path = world.paths[0];
    assert_eq!(world.net.middlebox::<SynFilter>(path, position).expect("it").met(), tries);
}

#[test]
fn syns_that_come_twice_are_one_handshake() {
    let mut world = world(2, ChecksumPolicy::Accept, false);
    let doubles = |path| Placed { path, kind: Kind::Syns(SynFate::Double) };
    let positions = [0, 1].map(|path| doubles(path).install(&mut world, 1));
    let report = run_with(&mut world, true, 1 << 20, 1 << 20, LIMIT, |_| {});
    checked(&world);
    kept(&report);
    for (path, position) in world.paths.clone().into_iter().zip(positions) {
        let met = world.net.middlebox::<SynFilter>(path, position).expect("it").met();
        assert!(met >= 2, "{met} SYNs were doubled");
    }
    assert_eq!(world.server.stack.counters().mp_join_ack_rx, 1);
}

/// What segmentation cuts and offload joins again: the option that is left maps all of it, or it was
/// on the other half and the subflow is as good as without options.
#[test]
fn segments_may_be_joined_again() {
    for (on, keeps, mapped) in [
        (MptcpOn::Every, Keeps::First, true),
        (MptcpOn::Every, Keeps::Last, true),
        (MptcpOn::First, Keeps::First, true),
        (MptcpOn::First, Keeps::Last, false),
    ] {
        for checksum in [ChecksumPolicy::Accept, ChecksumPolicy::Require] {
            let mut world = world(2, checksum, false);
            let splitter = Placed { path: 1, kind: Kind::Splitter(720, on) };
            let _position = splitter.install(&mut world, 1);
            let coalescer = Placed { path: 1, kind: Kind::Coalescer(keeps) };
            let position = coalescer.install(&mut world, 1);
            let report = run_with(&mut world, true, 8 << 20, 1, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            let path = world.paths[1];
            let coalescer = world.net.middlebox::<Coalescer>(path, position).expect("it");
            assert!(coalescer.joined() > 0, "{on:?} {keeps:?}");
            let resets = world.client.stack.counters().estab_resets;
            assert_eq!(resets == 0, mapped, "{on:?} {keeps:?}: {resets}");
        }
    }
}

/// Offload on the way loses no option: pieces of one segment have the same mapping, and what is joined
/// again has it, too, wherever the borders are.
#[test]
fn offload_on_the_way_changes_nothing() {
    for checksum in [ChecksumPolicy::Accept, ChecksumPolicy::Require] {
        for (first, second) in [(500, 1_300), (1_300, 500)] {
            let mut world = world(2, checksum, false);
            let offload =
                |path| Placed { path, kind: Kind::Offload(first, second) }.install(&mut world, 1);
            let positions = [0, 1].map(offload);
            let report = run_with(&mut world, true, 4 << 20, 2 << 20, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            for (path, position) in world.paths.clone().into_iter().zip(positions) {
                let joins = world.net.middlebox::<Coalescer>(path, position).expect("it").joined();
                assert!(joins > 500, "{joins}");
            }
            let resets = [&world.client, &world.server].map(|h| h.stack.counters().estab_resets);
            assert_eq!(resets, [0, 0]);
        }
    }
}

/// A gateway that edits what it knows to another length is found out by the DSS checksum; the rest of
/// the stream goes over the other path.
#[test]
fn payload_of_another_length_costs_the_join_it_is_on() {
    for dir in [Direction::AtoB, Direction::BtoA] {
        for len in [1, 5] {
            let mut world = world(2, ChecksumPolicy::Require, false);
            let box_ = Placed { path: 1, kind: Kind::Rewritten(dir, len) };
            let position = box_.install(&mut world, 1);
            let report = run_with(&mut world, true, 8 << 20, 8 << 20, LIMIT, |_| {});
            checked(&world);
            kept(&report);
            let path = world.paths[1];
            let editor = world.net.middlebox::<StreamEditor>(path, position).expect("it");
            assert!(editor.edited() > 0, "{dir:?}");
            let (reader, writer) = match dir {
                Direction::AtoB => (&world.server, &world.client),
                Direction::BtoA => (&world.client, &world.server),
            };
            let (read, wrote) = (reader.stack.counters(), writer.stack.counters());
            assert!(read.data_csum_err > 0 && read.mp_fail_tx > 0, "nothing was noticed");
            assert!(wrote.mp_fail_rx > 0 && wrote.in_rsts > 0, "nobody was told");
        }
    }
}

/// Uploads `bytes` on one connection; what arrived, and why either end fell back.
fn upload(world: &mut World, bytes: &[u8]) -> (Vec<u8>, [Option<FallbackReason>; 2]) {
    let listener = world.listen(true);
    let id = world.connect(true);
    let (mut sent, mut received, mut accepted, mut ended) = (0, Vec::new(), None, false);
    let deadline = world.now + LIMIT;
    while !ended {
        world.turn();
        let now = world.now;
        if sent < bytes.len() {
            sent += world.client.stack.send(now, id, &bytes[sent..]).unwrap_or(0);
            if sent == bytes.len() {
                world.client.stack.shutdown_write(now, id);
            }
        }
        accepted = accepted.or_else(|| world.server.stack.accept(listener));
        let mut into = vec![0; 64 << 10];
        while let Some(Ok(count)) = accepted.map(|id| world.server.stack.recv(now, id, &mut into)) {
            received.extend_from_slice(&into[..count]);
            ended = count == 0;
            if ended {
                break;
            }
        }
        world.flush();
        assert!(ended || world.advance(deadline), "{} of {}", received.len(), bytes.len());
    }
    let accepted = accepted.expect("it was read from");
    let reasons = [(&world.client, id), (&world.server, accepted)]
        .map(|(host, id)| host.stack.info(id).expect("not released yet").fallback);
    world.server.stack.close(world.now, accepted);
    world.client.stack.close(world.now, id);
    settle(world);
    world.server.stack.close_listener(world.now, listener);
    (received, reasons)
}

/// On the only path nothing else can bring what was edited: both ends go on as plain TCP from there,
/// and the stream arrives as the gateway made it, as with TCP (RFC 8684 §3.7).
#[test]
fn payload_of_another_length_on_the_only_path_means_fallback() {
    let (find, longer, shorter) = (&b"10.0.0.1"[..], &b"198.51.100.17"[..], &b"::1"[..]);
    for put in [longer, shorter] {
        for first in [0, 100_000] {
            let mut bytes = vec![b'.'; 400_000];
            // Within one segment, wherever segments begin: some are.
            let places = [first, 200_000, 200_700, 300_000, 301_000];
            for at in places {
                bytes[at..at + find.len()].copy_from_slice(find);
            }
            let mut world = world(1, ChecksumPolicy::Require, false);
            let path = world.paths[0];
            let editor = Box::new(StreamEditor::new(Direction::AtoB, find, put));
            let position = world.net.add_middlebox(path, editor);
            world.net.add_middlebox(path, Box::new(SegmentSplitter::new(1_400, MptcpOn::Every)));
            let (received, reasons) = upload(&mut world, &bytes);
            checked(&world);
            let expected = [FallbackReason::PeerChecksum, FallbackReason::Checksum].map(Some);
            assert_eq!(reasons, expected, "{put:?} {first}");
            let edited = world.net.middlebox::<StreamEditor>(path, position).expect("it").edited();
            assert!((3..=5).contains(&edited), "{edited}");
            let text = String::from_utf8(received).expect("only ASCII was sent");
            let (find, put) = (str::from_utf8(find).unwrap(), str::from_utf8(put).unwrap());
            assert_eq!(text.matches(put).count() as u64, edited, "{put} {first}");
            assert!(text.replace(put, find).bytes().eq(bytes), "{put} {first}");
        }
    }
}

/// A proxy acknowledges the data of a join before it has arrived, without a `DATA_ACK`, and repairs what
/// is lost behind it: whatever becomes of the subflow, the connection stays.
#[test]
fn a_proxy_that_acknowledges_early_costs_at_most_the_join_it_is_on() {
    for dir in [Direction::AtoB, Direction::BtoA] {
        let mut world = world(2, ChecksumPolicy::Accept, false);
        let proxy = Placed { path: 1, kind: Kind::Proxy(dir, 0) };
        let position = proxy.install(&mut world, 1);
        let report = run_with(&mut world, true, 4 << 20, 4 << 20, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        let path = world.paths[1];
        let proxy = world.net.middlebox::<ProactiveAcker>(path, position).expect("it");
        assert!(proxy.promised() > 0, "{dir:?}");
    }
}

/// On the first subflow, before a `DATA_ACK` came, it means fallback, as it does for a client's first
/// data; later it means nothing, for the `DATA_ACK`s of the receiver go on coming. What is lost behind
/// the proxy it repairs.
#[test]
fn a_proxy_on_the_only_path_means_fallback_or_nothing() {
    for after in [0, 50] {
        for dir in [Direction::AtoB, Direction::BtoA] {
            let mut world = world_of(&[pair(lossy(40, 10, 10_000))]);
            let proxy = Placed { path: 0, kind: Kind::Proxy(dir, after) };
            let position = proxy.install(&mut world, 1);
            let report = run_with(&mut world, true, 2 << 20, 2 << 20, LIMIT, |_| {});
            checked(&world);
            if after == 0 && dir == Direction::AtoB {
                let expected = [FallbackReason::NoDataAck, FallbackReason::InfiniteMapping];
                assert_eq!(reasons(&report), expected.map(Some));
            } else {
                kept(&report);
            }
            let path = world.paths[0];
            let proxy = world.net.middlebox::<ProactiveAcker>(path, position).expect("it");
            assert!(proxy.promised() > 100, "{dir:?} {after}");
            assert_eq!(proxy.repaired() > 0, dir == Direction::AtoB, "{dir:?} {after}");
        }
    }
}

/// The way behind a proxy is cut while it holds much that it acknowledged, and stays so for longer than
/// the only subflow is asked before it may be judged. The peer was not heard, so nothing is judged, and
/// the proxy repairs it all.
#[test]
fn a_cut_behind_a_proxy_costs_the_only_path_nothing_but_time() {
    for seconds in [12, 90] {
        let mut world = world_of(&[pair(link(40, 10))]);
        let proxy = Placed { path: 0, kind: Kind::Proxy(Direction::AtoB, 50) };
        let position = proxy.install(&mut world, 1);
        let path = world.paths[0];
        for dir in [Direction::AtoB, Direction::BtoA] {
            let link = world.net.link_mut(path, dir);
            link.at(300_000_000, Change::Blackhole(true));
            link.at(300_000_000 + seconds * 1_000_000_000, Change::Blackhole(false));
        }
        let report = run_with(&mut world, true, 4 << 20, 100, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        let proxy = world.net.middlebox::<ProactiveAcker>(path, position).expect("it");
        assert!(proxy.repaired() > 0, "{seconds}");
        let resets = [&world.client, &world.server].map(|h| h.stack.counters().estab_resets);
        assert_eq!(resets, [0, 0], "{seconds}");
        eprintln!("{seconds} s: {report:?}");
    }
}

/// A proxy that forgets what it acknowledged: the subflow has a hole for good, TCP repeats nothing, and
/// what is missing reaches the other end by data-level retransmission over the other path.
#[test]
fn what_a_proxy_acknowledged_and_lost_goes_over_the_other_path() {
    let mut world = world_of(&[pair(link(40, 10)), (lossy(40, 10, 20_000), link(40, 10))]);
    let proxy = ProactiveAcker::new(Direction::AtoB, 20).without_repair();
    let position = world.net.add_middlebox(world.paths[1], Box::new(proxy));
    let report = run_with(&mut world, true, 8 << 20, 100, LIMIT, |_| {});
    checked(&world);
    kept(&report);
    let path = world.paths[1];
    let proxy = world.net.middlebox::<ProactiveAcker>(path, position).expect("it");
    assert!(proxy.promised() > 0);
    let again = world.client.stack.counters().mptcp_retrans;
    assert!(again > 0, "{again}");
    eprintln!("{again} rounds of the data-level timer: {report:?}");
    assert!(report.took < Duration::from_secs(30), "{report:?}");
}

/// Pieces pin whole buffers, so a small one cannot keep what waits for a lossy path, and what TCP has
/// acknowledged is lost behind it again and again: one timeout of the data level finds that out, and what
/// else is missing follows without another.
#[test]
fn what_a_small_buffer_could_not_keep_is_repaired_after_one_timeout() {
    let (mut longest, mut pruned) = (Duration::ZERO, 0);
    for (from, buffer) in [(20, 128 << 10), (25, 128 << 10), (40, 256 << 10), (60, 256 << 10)] {
        let mut config = StackConfig::default();
        config.tcp.recv_buffer_max = buffer;
        let links = [pair(link(69, 1)), pair(link(20, 5))];
        let mut world = World::new(7, &links, false, config.clone(), config);
        let splitter = SegmentSplitter::new(462, MptcpOn::First);
        world.net.add_middlebox(world.paths[0], Box::new(splitter));
        for dir in [Direction::AtoB, Direction::BtoA] {
            let link = world.net.link_mut(world.paths[1], dir);
            link.at(from * 1_000_000, Change::Loss(Loss::Bernoulli(700_000)));
            link.at((from + 400) * 1_000_000, Change::Loss(Loss::None));
        }
        let report = run_with(&mut world, true, 100, 1 << 20, LIMIT, |_| {});
        checked(&world);
        kept(&report);
        pruned += world.client.stack.counters().rcv_pruned;
        longest = longest.max(report.took);
    }
    assert!(pruned > 0, "nothing was lost");
    println!("at most {longest:?}");
    assert!(longest <= Duration::from_millis(1_200), "{longest:?}");
}

/// A box that changes the checksum of one DSS, and nothing else: the text is right, so the streams must be as
/// well, whatever is thrown away, sent again and delivered as it is (RFC 8684 §3.7, RFC 6824 §3.6).
#[test]
fn a_wrong_checksum_of_right_text_on_the_only_path() {
    for (version, dir, loss) in versions_ways_and_losses() {
        for nth in [0, 1, 2, 7, 30, 100] {
            let mut config = StackConfig::default();
            config.mptcp.checksum = ChecksumPolicy::Require;
            config.mptcp.versions = vec![version];
            let links = [pair(lossy(20, 20, loss))];
            let mut world =
                World::new(nth + u64::from(loss), &links, false, config.clone(), config);
            let mut seen = 0;
            let flip = move |_: u64, way: Direction, mut packet: Vec<u8>, out: &mut Output| {
                if way == dir
                    && let Some(at) = checksum_of_a_dss(&packet)
                {
                    if seen == nth {
                        packet[at] ^= 0x10;
                        edit::recompute(&mut packet);
                    }
                    seen += 1;
                }
                out.push((way, packet));
            };
            world.net.add_middlebox(world.paths[0], Box::new(flip));
            let report = run_with(&mut world, true, 400_000, 400_000, LIMIT, |_| {});
            checked(&world);
            let [client, server] = reasons(&report);
            let (sender, receiver) = match dir {
                Direction::AtoB => (client, server),
                Direction::BtoA => (server, client),
            };
            let case = format!("version {}, {dir:?}, {loss} ppm, {nth}", version as u8);
            assert_eq!(receiver, Some(FallbackReason::Checksum), "{case}");
            let told = [FallbackReason::PeerChecksum, FallbackReason::InfiniteMapping];
            assert!(sender.is_some_and(|reason| told.contains(&reason)), "{case}: {sender:?}");
        }
    }
}

fn versions_ways_and_losses() -> impl Iterator<Item = (Version, Direction, u32)> {
    let versions = [Version::V0, Version::V1].into_iter();
    versions.flat_map(|version| {
        let ways = [Direction::AtoB, Direction::BtoA].into_iter();
        ways.flat_map(move |dir| [0, 20_000].map(|loss| (version, dir, loss)))
    })
}

/// Where the checksum of a DSS that maps text is in an IPv4 packet with text.
fn checksum_of_a_dss(packet: &[u8]) -> Option<usize> {
    let header = usize::from(packet.get(32)? >> 4) * 4;
    let mut at = 40;
    while at < 20 + header {
        match *packet.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*packet.get(at + 1)?);
                let dss = kind == 30 && packet.get(at + 2)? >> 4 == 2;
                if dss && packet.get(at + 3)? & 0x04 != 0 && packet.len() > 20 + header {
                    return Some(at + len - 1);
                }
                at += len.max(2);
            }
        }
    }
    None
}
