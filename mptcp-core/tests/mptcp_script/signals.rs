//! Options that go out on acknowledgements without news: bundled, in their order, and never more than
//! two such acknowledgements in a row (RFC 8684 §3, §3.4.1, §4).

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::{PathManagerKind, StackConfig};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{AddressIds, MptcpOption, Prio, Version};

/// Addresses of the server beside the first, all of which it announces.
const ENDPOINTS: u8 = 20;

fn many_addresses(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
    let mut local = config.addresses[1];
    for host in 2..=ENDPOINTS {
        local.addr = IpAddr::from([10, 3, 0, host]);
        config.addresses.push(local);
    }
}

/// Ids of announcements of ours, in the order of the wire.
fn announced(out: &[Out]) -> Vec<u8> {
    let options = out.iter().flat_map(|o| o.mptcp().into_iter().map(|option| (o.version, option)));
    let announcements = options.filter_map(|(version, option)| match option {
        MptcpOption::AddAddr(raw) => raw.decode(version).filter(|a| !a.echo),
        _ => None,
    });
    announcements.map(|a| a.address_id).collect()
}

fn removed(out: &[Out]) -> Vec<u8> {
    let options = out.iter().flat_map(Out::mptcp);
    options
        .flat_map(|option| match option {
            MptcpOption::RemoveAddr(ids) => ids.iter().collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn priorities(out: &[Out]) -> Vec<bool> {
    let options = out.iter().flat_map(Out::mptcp);
    let prios = options.filter_map(|option| match option {
        MptcpOption::Prio(raw) => raw.decode(Version::V1),
        _ => None,
    });
    prios.map(|Prio { backup, .. }| backup).collect()
}

/// No third acknowledgement of the same octet follows two within a timeout of the last.
fn assert_no_long_row(flow: &Flow, out: &[Out], acked: u32) {
    let (mut last, mut row, mut at) = (acked, 0, Instant::MIN);
    for packet in flow.of(out) {
        if packet.ack != last || packet.at.since(at) >= Duration::from_millis(200) {
            row = 0;
        }
        row += u32::from(packet.ack == last);
        assert!(row <= 2, "{row} duplicates in a row: {out:?}");
        (last, at) = (packet.ack, packet.at);
    }
}

#[test]
fn no_more_than_two_duplicate_acknowledgements_in_a_row_carry_options() {
    let v = Version::V0;
    let mut script = Script::server_with(v, many_addresses);
    let (keys, mut flow, id) = script.unconfirmed();
    let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    out.extend(script.advance(0));
    assert_no_long_row(&flow, &out, flow.snd_nxt);
    let at_once = announced(&out);
    assert_eq!(flow.of(&out).len(), 2);
    // multipath-tcp.org's kernels do not read two in one segment.
    assert_eq!(at_once, [2, 3], "one in a segment: {out:?}");
    // All other announcements are taken along by acknowledgements that are due anyway.
    let mut sent = 0;
    while announced(&out).len() < usize::from(ENDPOINTS) && sent < 1_000 {
        let more = script.send_data(&keys, &mut flow, sent, 0, &stream(sent, 10));
        assert_no_long_row(&flow, &more, flow.snd_nxt.wrapping_sub(10));
        assert!(more.iter().all(|o| announced(core::slice::from_ref(o)).len() <= 1), "{more:?}");
        out.extend(more);
        sent += 10;
    }
    script.expect_stream(id, 0, sent as usize);
    let ids = announced(&out);
    assert_eq!(ids, (2..=ENDPOINTS + 1).collect::<Vec<_>>(), "each was told once, in order");
}

#[test]
fn options_that_nothing_takes_along_wait_for_the_end_of_the_row() {
    let v = Version::V0;
    let mut script = Script::server_with(v, many_addresses);
    let (keys, flow, _) = script.unconfirmed();
    let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    out.extend(script.advance(0));
    let mut ids = announced(&out);
    assert_no_long_row(&flow, &out, flow.snd_nxt);
    assert_eq!(flow.of(&out).len(), 2);
    for _ in 0..12 {
        let out = script.advance(1_000);
        assert_no_long_row(&flow, &out, flow.snd_nxt);
        ids.extend(announced(&out));
    }
    assert_eq!(ids, (2..=ENDPOINTS + 1).collect::<Vec<_>>(), "each once, in order");
    assert!(script.advance(60_000).is_empty(), "and then there is nothing left to say");
}

/// A peer throws away what is below its window, options and all, and what is said once does not come again.
#[test]
fn what_is_said_once_does_not_go_with_a_probe() {
    let v = Version::V0;
    let mut script = Script::server_with(v, many_addresses);
    let (keys, flow, _) = script.unconfirmed();
    let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    out.extend(script.advance(0));
    assert!(announced(&out).len() < usize::from(ENDPOINTS), "the others wait: {out:?}");
    // Whether the subflow of that address still works is asked at once.
    let gone = MptcpOption::RemoveAddr(AddressIds::new(&[0]).expect("an id"));
    let asked = script.send(&flow, &flow.seg().dss(keys.ack(0)).opt(&gone));
    let below = |o: &&Out| o.seq == flow.rcv_nxt.wrapping_sub(1);
    assert!(asked.iter().any(|o| below(&o)), "a probe: {asked:?}");
    out.extend(asked);
    // It does.
    out.extend(script.advance(10));
    out.extend(script.send(&flow, &flow.seg().dss(keys.ack(0))));
    for _ in 0..12 {
        out.extend(script.advance(1_000));
    }
    let arrived: Vec<_> = out.iter().filter(|o| !below(o)).cloned().collect();
    assert_eq!(announced(&arrived), (2..=ENDPOINTS + 1).collect::<Vec<_>>(), "each once, in order");
}

/// Of a priority that changes again before it was told only the last word counts.
#[test]
fn the_last_priority_is_the_one_that_is_told() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        script.advance(1_000);
        let number = script.info(id).subflows[1].id;
        for backup in [true, false, true] {
            assert!(script.stack.set_backup(id, number, backup));
        }
        let out = script.out();
        let told: Vec<_> = flow_out(&join, &out);
        assert_eq!(priorities(&told), [true], "{out:?}");
    });
}

/// More addresses go at once than options wait on a subflow: the peer hears of each.
#[test]
fn all_that_is_withdrawn_is_told() {
    both(|v| {
        let mut script = Script::server_with(v, many_addresses);
        script.confirmed();
        script.advance(60_000);
        for host in 2..=ENDPOINTS {
            script.stack.remove_address(script.now, IpAddr::from([10, 3, 0, host]));
        }
        let mut out = script.out();
        out.extend(script.advance(20_000));
        assert_eq!(removed(&out), (3..=ENDPOINTS + 1).collect::<Vec<_>>(), "{out:?}");
    });
}

fn flow_out(flow: &Flow, out: &[Out]) -> Vec<Out> {
    flow.of(out).into_iter().cloned().collect()
}

/// Of several options of one kind in a segment Linux reads the last, and of withdrawals none that comes while it is
/// busy with the one before.
#[test]
fn what_is_withdrawn_together_is_one_option() {
    both(|v| {
        let mut script = Script::server_with(v, many_addresses);
        let (_, flow, _) = script.confirmed();
        script.advance(60_000);
        for host in 2..=9 {
            script.stack.remove_address(script.now, IpAddr::from([10, 3, 0, host]));
        }
        let out = script.out();
        let options = out.iter().flat_map(Out::mptcp);
        let gone: Vec<Vec<u8>> = options
            .filter_map(|option| match option {
                MptcpOption::RemoveAddr(ids) => Some(ids.iter().collect()),
                _ => None,
            })
            .collect();
        assert_eq!(gone, [(3..=10).collect::<Vec<u8>>()], "{out:?}");
        assert_eq!(script.counters().rm_addr_tx, 8);
        assert_eq!(flow.of(&out).len(), 1, "{out:?}");
    });
}

/// What is withdrawn together, and the priorities beside it, share a segment with the `DATA_ACK`.
#[test]
fn short_options_share_a_segment() {
    both(|v| {
        let mut script = Script::server_with(v, many_addresses);
        let (keys, mut flow, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5_000), at(A1, PORT));
        // Every announcement is out, or given up.
        script.advance(60_000);
        let number = script.info(id).subflows[0].id;
        script.stack.set_backup(id, number, true);
        for host in 2..=4 {
            script.stack.remove_address(script.now, IpAddr::from([10, 3, 0, host]));
        }
        let out = script.out();
        for flow in [&flow, &join] {
            let told = flow_out(flow, &out);
            assert!(told.len() <= 1, "{out:?}");
            assert!(told.iter().all(|o| o.data_ack().is_some()), "{out:?}");
        }
        let mut gone = removed(&flow_out(&flow, &out));
        if gone.is_empty() {
            gone = removed(&flow_out(&join, &out));
        }
        assert_eq!(gone, [3, 4, 5], "{out:?}");
        assert_eq!(priorities(&out), [true]);
        // And they are no congestion for anybody: the stream goes on.
        script.send_data(&keys, &mut flow, 0, 0, b"on");
        assert_eq!(script.read(id).expect("data"), b"on");
    });
}
