//! Addresses and priorities: `ADD_ADDR`, `REMOVE_ADDR`, `MP_PRIO` (RFC 8684 §3.3.8, §3.4).

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::{LocalAddress, PathManagerKind, StackConfig};
use mptcp_core::mptcp::key;
use mptcp_core::wire::{
    AddAddr, AddressIds, MpJoin, MptcpOption, OptionWriter, Prio, TcpFlags, Version,
};

fn fullmesh(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
}

/// An announcement by the peer as it stands on the wire; version 0 has no HMAC.
fn announce(keys: &Keys, id: u8, addr: IpAddr, port: Option<u16>, flip: u64) -> Vec<u8> {
    let version = keys.version;
    let hmac = key::add_addr_hmac(version, keys.peer, keys.stack, id, addr, port) ^ flip;
    let hmac = (version == Version::V1).then_some(hmac);
    encode(version, &AddAddr { address_id: id, addr, port, echo: false, hmac })
}

fn encode(version: Version, add_addr: &AddAddr) -> Vec<u8> {
    let mut writer = OptionWriter::new();
    assert!(add_addr.encode(&mut writer, version));
    writer.as_bytes().to_vec()
}

fn add_addr(out: &Out) -> Option<AddAddr> {
    out.mptcp().into_iter().find_map(|o| match o {
        MptcpOption::AddAddr(raw) => raw.decode(out.version),
        _ => None,
    })
}

fn join_syns(out: &[Out]) -> Vec<(core::net::SocketAddr, core::net::SocketAddr)> {
    let joins = out.iter().filter(|o| matches!(o.join(), Some(MpJoin::Syn { .. })));
    joins.map(|o| (o.src, o.dst)).collect()
}

fn remove(ids: &[u8]) -> MptcpOption<'_> {
    MptcpOption::RemoveAddr(AddressIds::new(ids).expect("at least one id"))
}

fn prio(backup: bool) -> Vec<u8> {
    let mut writer = OptionWriter::new();
    assert!(Prio { backup, address_id: None }.encode(&mut writer, Version::V1));
    writer.as_bytes().to_vec()
}

#[test]
fn an_announcement_is_echoed_without_hmac_where_there_are_echoes() {
    both(|v| {
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9]);
        for (addr, port) in [(P2, None), (P2, Some(8080)), (v6, None), (v6, Some(443))] {
            let mut script = Script::server(v);
            let (keys, flow, _) = script.confirmed();
            let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, addr, port, 0)));
            let expected = AddAddr { address_id: 3, addr, port, echo: true, hmac: None };
            // Version 0 has no echo.
            let echoes = usize::from(v == Version::V1);
            let echoed: Vec<_> = out.iter().filter_map(add_addr).collect();
            assert!(echoed.len() == echoes && echoed.iter().all(|e| *e == expected), "{out:?}");
            let counters = script.counters();
            assert_eq!((counters.add_addr, counters.echo_add_tx), (1, echoes as u64));
            // The same again is answered again.
            let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, addr, port, 0)));
            assert_eq!(out.iter().filter_map(add_addr).count(), echoes);
        }
    });
}

/// Of several options of one kind in a segment Linux reads the last.
#[test]
fn each_echo_has_a_segment_of_its_own() {
    let mut script = Script::server(Version::V1);
    let (keys, flow, _) = script.confirmed();
    for (id, addr) in [(3, P2), (4, IpAddr::from([10, 9, 9, 9]))] {
        script.inject(&flow, &flow.seg().raw(&announce(&keys, id, addr, None, 0)));
    }
    let out = script.out();
    let is_echo = |option: &MptcpOption<'_>| matches!(option, MptcpOption::AddAddr(_));
    let echoes = |o: &Out| o.mptcp().into_iter().filter(is_echo).count();
    assert_eq!(out.iter().map(echoes).collect::<Vec<_>>(), [1, 1], "{out:?}");
}

#[test]
fn t114_a_wrong_hmac_is_ignored_without_echo() {
    let v = Version::V1;
    let mut script = Script::new(v, fullmesh);
    let (keys, flow, _) = script.connected();
    script.send(&flow, &flow.seg().dss(keys.ack(0)));
    for bit in 0..64 {
        let option = announce(&keys, 3, P2, None, 1 << bit);
        let out = script.send(&flow, &flow.seg().raw(&option));
        assert!(out.is_empty(), "bit {bit}: {out:?}");
    }
    assert_eq!(script.counters().add_addr_drop, 64);
}

#[test]
fn t115_the_hmac_covers_a_port_of_zero_when_there_is_none() {
    let v = Version::V1;
    let with_zero = |keys: &Keys, port| key::add_addr_hmac(v, keys.peer, keys.stack, 3, P2, port);
    let mut script = Script::server(v);
    let (keys, flow, _) = script.confirmed();
    assert_eq!(with_zero(&keys, None), with_zero(&keys, Some(0)));
    assert_ne!(with_zero(&keys, None), with_zero(&keys, Some(80)));
    // Known answer, keys and address of an independent computation.
    let addr = IpAddr::from([192, 0, 2, 1]);
    let (a, b) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
    assert_eq!(key::add_addr_hmac(v, a, b, 3, addr, None), 0x485b_edf7_0475_26e4);
    assert_eq!(key::add_addr_hmac(v, a, b, 3, addr, Some(8080)), 0xe41f_c399_d809_7c83);
    // The HMAC of another port does not do.
    let option = AddAddr {
        address_id: 3,
        addr: P2,
        port: None,
        echo: false,
        hmac: Some(with_zero(&keys, Some(80))),
    };
    assert!(script.send(&flow, &flow.seg().raw(&encode(v, &option))).is_empty());
}

#[test]
fn t116_our_announcement_is_repeated_until_its_echo() {
    let v = Version::V1;
    let announced = |out: &[Out]| -> Vec<AddAddr> { out.iter().filter_map(add_addr).collect() };
    let mut script = Script::server_with(v, fullmesh);
    let (keys, flow, _) = script.unconfirmed();
    let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    out.extend(script.advance(120_000));
    let all = announced(&out);
    assert_eq!(all.len(), 4, "once and three times again");
    let hmac = key::add_addr_hmac(v, keys.stack, keys.peer, 2, A2, None);
    let expected = AddAddr { address_id: 2, addr: A2, port: None, echo: false, hmac: Some(hmac) };
    assert!(all.iter().all(|a| *a == expected), "{all:?}");
    // With an echo: no more.
    let mut script = Script::server_with(v, fullmesh);
    let (keys, flow, _) = script.unconfirmed();
    let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    assert_eq!(announced(&out).len(), 1);
    let echo = AddAddr { echo: true, hmac: None, ..expected };
    // Those of another address, or of another id, are not its echo.
    let others =
        [(2_001, AddAddr { addr: P2, ..echo }), (4_001, AddAddr { address_id: 90, ..echo })];
    for (wait, other) in others {
        script.send(&flow, &flow.seg().raw(&encode(v, &other)));
        assert_eq!(announced(&script.advance(wait)).len(), 1, "{other:?}");
    }
    script.send(&flow, &flow.seg().raw(&encode(v, &echo)));
    assert_eq!(script.counters().echo_add, 3);
    assert!(announced(&script.advance(120_000)).is_empty());
}

fn stamps(tsval: u32, tsecr: u32) -> Vec<u8> {
    let mut bytes = vec![1, 1, 8, 10];
    bytes.extend_from_slice(&tsval.to_be_bytes());
    bytes.extend_from_slice(&tsecr.to_be_bytes());
    bytes
}

/// A server of version 1 with timestamps and an IPv6 address to announce, after the third ACK; and its timestamp.
fn with_timestamps() -> (Script, Keys, Flow, u32) {
    let mut script = Script::server_with(Version::V1, |c| {
        fullmesh(c);
        c.tcp.timestamps = true;
        c.addresses[1].addr = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    });
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let out = script.send(&flow, &flow.syn().raw(&stamps(1, 0)).raw(&[30, 4, 1, 1]));
    flow.hears(&out);
    flow.snd_nxt = flow.isn + 1;
    let keys = Keys::of(Version::V1, &out[0], false);
    let ts = out[0].tcp_options().iter().find_map(|o| match o {
        mptcp_core::wire::TcpOption::Timestamps { tsval, .. } => Some(*tsval),
        _ => None,
    });
    let ts = ts.expect("timestamps are agreed on");
    script.send(&flow, &flow.seg().raw(&stamps(2, ts)).opt(&keys.third()));
    (script, keys, flow, ts)
}

#[test]
fn t118_an_ipv6_announcement_fits_beside_timestamps() {
    let (mut script, keys, flow, ts) = with_timestamps();
    let out = script.send(&flow, &flow.seg().raw(&stamps(3, ts)).dss(keys.ack(0)));
    let sent: Vec<_> = out.iter().filter_map(add_addr).collect();
    assert_eq!(sent.len(), 1, "{out:?}");
    assert_eq!((sent[0].port, sent[0].addr.is_ipv6()), (None, true));
    // There was nothing to acknowledge.
    assert_eq!(out.len(), 1, "{out:?}");
    // An echo of the longest kind fits as well.
    let addr = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 7]);
    let long = announce(&keys, 9, addr, Some(8080), 0);
    let out = script.send(&flow, &flow.seg().raw(&long));
    let echoed: Vec<_> = out.iter().filter_map(add_addr).collect();
    assert_eq!(echoed.len(), 1, "{out:?}");
    assert_eq!((echoed[0].port, echoed[0].echo), (Some(8080), true));
}

/// A phone whose first data is acknowledged without a `DATA_ACK` falls back for good (RFC 8684 §3.7).
#[test]
fn t118_no_announcement_acknowledges_the_first_data_alone() {
    let (mut script, keys, mut flow, ts) = with_timestamps();
    let id = script.accept().expect("it is established");
    let payload = stream(0, 50);
    let first = flow.seg().raw(&stamps(3, ts)).opt(&keys.first_data(&payload)).data(&payload);
    let out = script.send(&flow, &first);
    flow.snd_nxt += 50;
    let [first, second] = out.as_slice() else { panic!("{out:?}") };
    assert!(first.ack == flow.snd_nxt && first.data_ack().is_some(), "{out:?}");
    assert!(add_addr(second).is_some(), "{out:?}");
    assert!(script.advance(5_000).iter().all(|o| o.payload.is_empty() && !o.rst()));
    script.expect_stream(id, 0, 50);
}

#[test]
fn t119_a_server_never_connects_out() {
    both(|v| {
        let mut script = Script::server_with(v, fullmesh);
        let (keys, flow, _) = script.confirmed();
        let mut out = Vec::new();
        for (id, addr) in [(3, [10, 0, 0, 7]), (4, [192, 168, 1, 7]), (5, [203, 0, 113, 7])] {
            let option = announce(&keys, id, IpAddr::from(addr), None, 0);
            out.extend(script.send(&flow, &flow.seg().raw(&option)));
        }
        out.extend(script.advance(60_000));
        assert_eq!(script.counters().add_addr, 3, "they are known");
        assert!(join_syns(&out).is_empty(), "{out:?}");
    });
}

#[test]
fn a_client_joins_what_is_announced_from_every_endpoint() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        assert_eq!(join_syns(&out).len(), 1, "our other endpoint, their first address");
        let option = announce(&keys, 3, P2, Some(8080), 0);
        let out = script.send(&flow, &flow.seg().raw(&option));
        let joins = join_syns(&out);
        assert_eq!(joins.len(), 2, "{out:?}");
        assert!(joins.iter().all(|(_, to)| *to == at(P2, 8080)));
        // Again, or refreshed: nothing new.
        assert!(join_syns(&script.send(&flow, &flow.seg().raw(&option))).is_empty());
        // Another port of the same address: a new destination.
        let other = announce(&keys, 3, P2, Some(8081), 0);
        assert_eq!(join_syns(&script.send(&flow, &flow.seg().raw(&other))).len(), 2);
        // Another address under the same id: not before the old one was removed.
        let third = IpAddr::from([10, 9, 9, 9]);
        let moved = announce(&keys, 3, third, None, 0);
        assert!(join_syns(&script.send(&flow, &flow.seg().raw(&moved))).is_empty());
        script.send(&flow, &flow.seg().opt(&remove(&[3])));
        assert!(!join_syns(&script.send(&flow, &flow.seg().raw(&moved))).is_empty());
    });
}

#[test]
fn nonsense_addresses_are_not_joined() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let addresses: [(IpAddr, Option<u16>); 7] = [
            ([0, 0, 0, 0].into(), None),
            ([224, 0, 0, 1].into(), None),
            ([255, 255, 255, 255].into(), None),
            ([127, 0, 0, 1].into(), None),
            (A1, None),
            (A2, Some(9)),
            (P2, Some(0)),
        ];
        for (n, (addr, port)) in addresses.into_iter().enumerate() {
            let option = announce(&keys, 10 + n as u8, addr, port, 0);
            let out = script.send(&flow, &flow.seg().raw(&option));
            assert!(join_syns(&out).is_empty(), "{addr}: {out:?}");
        }
    });
}

#[test]
fn what_announcements_cause_is_bounded() {
    both(|v| {
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            c.mptcp.max_subflows = 4;
        });
        let (keys, flow, id) = script.connected();
        let mut syns = join_syns(&script.send(&flow, &flow.seg().dss(keys.ack(0)))).len();
        for round in 0..20_u8 {
            for n in 0..=255_u8 {
                let addr = IpAddr::from([10, 100, round, n]);
                let option = announce(&keys, n, addr, None, 0);
                syns += join_syns(&script.send(&flow, &flow.seg().raw(&option))).len();
            }
        }
        assert!(syns <= 3, "{syns} joins");
        assert!(script.info(id).subflows.len() <= 4);
        // What is left waiting is no more than the remembered addresses times our endpoints.
        for _ in 0..100 {
            syns += join_syns(&script.advance(10_000)).len();
        }
        assert!(syns <= 200, "{syns}");
    });
}

#[test]
fn t121_a_removed_address_that_answers_stays() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.advance(10);
        let out = script.send(&first, &first.seg().opt(&remove(&[2])));
        // A keep-alive on the path first.
        let probe = join.of(&out);
        let [probe] = probe.as_slice() else { panic!("{out:?}") };
        assert_eq!((probe.seq, probe.payload.len()), (join.rcv_nxt.wrapping_sub(1), 0));
        assert_eq!(script.counters().rm_addr, 1);
        script.advance(10);
        script.send(&join, &join.seg().dss(keys.ack(0)));
        assert!(script.advance(10_000).iter().all(|o| !o.rst()));
        assert_eq!(script.info(id).subflows.len(), 2);
        // Silent: gone, with a RST.
        script.send(&first, &first.seg().opt(&remove(&[2])));
        let out = script.advance(10_000);
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
        assert_eq!(script.counters().rm_subflow, 1);
        // An unknown id means nothing.
        let out = script.send(&first, &first.seg().opt(&remove(&[77, 78])));
        assert!(out.is_empty(), "{out:?}");
    });
}

#[test]
fn t121_every_subflow_has_its_own_time_to_answer_three_probes() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let near = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // A round trip of 600 ms: seen by the SYN/ACK.
        let mut far = Flow::new(at(P2, 5001), at(A2, PORT));
        let out = script.join_syn(&keys, &mut far, false);
        let ack = Script::join_ack(&keys, far.of(&out)[0]);
        script.advance(600);
        script.send(&far, &far.seg().opt(&ack));
        script.advance(10);
        let out = script.send(&first, &first.seg().opt(&remove(&[2])));
        assert_eq!((near.of(&out).len(), far.of(&out).len()), (1, 1), "{out:?}");
        // The near one is asked again; nobody is given up.
        let out = script.advance(600);
        assert!(near.of(&out).len() == 1 && far.of(&out).is_empty(), "{out:?}");
        script.send(&far, &far.seg().dss(keys.ack(0)));
        let out = script.advance(10_000);
        let (rst, again): (Vec<_>, Vec<_>) = near.of(&out).into_iter().partition(|o| o.rst());
        assert_eq!((rst.len(), again.len()), (1, 1), "{out:?}");
        assert!(far.of(&out).is_empty(), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 2);
    });
}

#[test]
fn t123_the_first_address_can_be_removed() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.advance(10);
        script.send(&join, &join.seg().opt(&remove(&[0])));
        let out = script.advance(10_000);
        assert!(first.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
        script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn we_withdraw_an_address() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.remove_address(script.now, A2);
        let out = script.out();
        assert!(join.of(&out).iter().any(|o| o.rst()), "{out:?}");
        let told = first.of(&out).iter().any(|o| o.mptcp().contains(&remove(&[2])));
        assert!(told, "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn t113_priorities_change_both_ways() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let backups = |script: &Script| -> Vec<bool> {
            script.info(id).subflows.iter().map(|s| s.backup).collect()
        };
        // The peer's wish: this subflow and no other.
        script.send(&first, &first.seg().raw(&prio(true)));
        assert_eq!(backups(&script), [true, false]);
        assert_eq!(script.counters().mp_prio_rx, 1);
        let out = script.write(id, 0, 5_000);
        assert!(first.of(&out).is_empty() && !join.of(&out).is_empty(), "{out:?}");
        first.hears(&out);
        join.hears(&out);
        script.send(&join, &join.seg().dss(keys.ack(5_000)));
        script.send(&first, &first.seg().raw(&prio(false)));
        assert_eq!(backups(&script), [false, false]);
        // The 4-octet form names another subflow's address; version 1 does not have it.
        let named = u64::from(v == Version::V0);
        script.send(&first, &first.seg().raw(&[30, 4, 0x51, 2]));
        assert_eq!(backups(&script), [false, v == Version::V0]);
        assert_eq!(script.counters().mp_prio_rx, 2 + named);
        script.send(&first, &first.seg().raw(&[30, 4, 0x50, 2]));
        assert_eq!(backups(&script), [false, false]);
        // Ours.
        assert!(script.stack.set_backup(id, 1, true));
        let out = script.out();
        let told = join
            .of(&out)
            .iter()
            .any(|o| o.mptcp().len() == 2 && o.options.starts_with(&prio(true)));
        assert!(told, "{out:?}");
        let out = script.write(id, 5_000, 5_000);
        assert!(join.of(&out).is_empty() && !first.of(&out).is_empty(), "{out:?}");
        // Taking our wish back does not overrule the peer's.
        script.send(&join, &join.seg().raw(&prio(true)));
        script.stack.set_backup(id, 1, false);
        script.out();
        assert_eq!(backups(&script), [false, true]);
        assert!(!script.stack.set_backup(id, 9, true), "no such subflow");
    });
}

#[test]
fn t124_an_eight_octet_add_addr_is_of_one_version() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, flow, _) = script.confirmed();
        // With the E bit an echo of version 1; with an IPVer of 4 an announcement of version 0.
        for option in [[30, 8, 0x31, 3, 10, 2, 0, 2], [30, 8, 0x34, 3, 10, 2, 0, 2]] {
            let out = script.send(&flow, &flow.seg().raw(&option));
            assert!(out.is_empty(), "{out:?}");
        }
        let counted = (script.counters().add_addr, script.counters().echo_add);
        assert_eq!(counted, if v == Version::V0 { (1, 0) } else { (0, 1) });
    });
}

/// Joins in `out`: our address, our id for it, the peer's end.
fn joins(out: &[Out]) -> Vec<(IpAddr, u8, core::net::SocketAddr)> {
    let syn = |o: &Out| match o.join() {
        Some(MpJoin::Syn { address_id, .. }) => Some((o.src.ip(), address_id, o.dst)),
        _ => None,
    };
    out.iter().filter_map(syn).collect()
}

#[test]
fn joins_from_the_initial_address_carry_id_zero_and_the_port_is_that_of_the_subflow() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, P2, Some(8080), 0)));
        let to = at(P2, 8080);
        assert_eq!(joins(&out), [(A1, 0, to), (A2, 2, to)]);
        // One of them is answered, and on it comes an address without a port.
        let syn = out.iter().find(|o| o.src.ip() == A1 && o.dst == to).expect("a join").clone();
        let Some(MpJoin::Syn { nonce, .. }) = syn.join() else { panic!("{syn:?}") };
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(&[syn]);
        let hmac = keys.pair().sent_join_hmac(v, NONCE, nonce).truncated64();
        let answer = MpJoin::SynAck { backup: false, address_id: 3, hmac, nonce: NONCE };
        script.answer(&mut join, &[MptcpOption::Join(answer)]);
        let third = IpAddr::from([10, 9, 9, 9]);
        let out = script.send(&join, &join.seg().raw(&announce(&keys, 4, third, None, 0)));
        assert_eq!(joins(&out), [(A1, 0, at(third, 8080)), (A2, 2, at(third, 8080))]);
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 5, P1, Some(81), 0)));
        assert_eq!(joins(&out).len(), 2, "{out:?}");
    });
}

#[test]
fn an_announcement_is_repeated_on_another_subflow_that_works() {
    let v = Version::V1;
    let announced = |flow: &Flow, out: &[Out]| {
        flow.of(out).into_iter().filter_map(add_addr).filter(|a| !a.echo).count()
    };
    let mut script = Script::server_with(v, fullmesh);
    let (keys, mut first, id) = script.unconfirmed();
    let out = script.send(&first, &first.seg().dss(keys.ack(0)));
    assert_eq!(announced(&first, &out), 1);
    let mut join = script.join(&keys, at(P2, 5000), at(A1, PORT));
    let out = script.advance(2_500);
    assert_eq!((announced(&first, &out), announced(&join, &out)), (0, 1), "{out:?}");
    // The first subflow goes silent with data under way: the next repetition avoids it.
    script.stack.set_backup(id, 1, true);
    let mut out = script.out();
    out.extend(script.write(id, 0, 1_000));
    first.hears(&out);
    for _ in 0..20 {
        out = script.advance(50);
        join.hears(&out);
        let acked = if join.rcv_nxt == join.stack_isn.wrapping_add(1) { 0 } else { 1_000 };
        script.send(&join, &join.seg().dss(keys.ack(acked)));
    }
    assert!(script.info(id).subflows[0].stale);
    let out = script.advance(3_500);
    assert_eq!((announced(&first, &out), announced(&join, &out)), (0, 1), "{out:?}");
    // A withdrawal as well.
    script.stack.remove_address(script.now, A2);
    let out = script.out();
    let told = |flow: &Flow| flow.of(&out).iter().any(|o| o.mptcp().contains(&remove(&[2])));
    assert!(told(&join) && !told(&first), "{out:?}");
}

/// Without a subflow nobody is told, and nothing counts as told.
#[test]
fn an_announcement_that_finds_no_subflow_waits_for_one() {
    both(|v| {
        let mut script = Script::server_with(v, fullmesh);
        let (keys, first, _) = script.unconfirmed();
        script.send(&first, &first.seg().dss(keys.ack(0)));
        script.send(&first, &first.seg().flags(mptcp_core::wire::TcpFlags::RST));
        // One more comes meanwhile.
        let mut addresses = script.stack.config().addresses.clone();
        let third = IpAddr::from([10, 3, 0, 1]);
        addresses.push(mptcp_core::config::LocalAddress { addr: third, ..addresses[0] });
        assert!(script.stack.set_addresses(script.now, addresses));
        assert!(script.advance(45_000).iter().all(|o| add_addr(o).is_none()));
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        let mut out = script.send(&join, &join.seg().opt(&ack));
        out.extend(script.advance(60_000));
        let told = |addr| out.iter().filter_map(add_addr).filter(|a| a.addr == addr).count();
        // Once more and twice again; version 0 had told the first subflow, and says nothing twice.
        let expected = if v == Version::V0 { (0, 1) } else { (3, 4) };
        assert_eq!((told(A2), told(third)), expected, "{out:?}");
    });
}

/// The interface of the only subflow goes: who joins next hears of it, and can clear away what was there.
#[test]
fn a_withdrawal_that_finds_no_subflow_waits_for_one() {
    both(|v| {
        let told = |flow: &Flow, out: &[Out]| {
            flow.of(out).iter().filter(|o| o.mptcp().contains(&remove(&[0]))).count()
        };
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        script.stack.remove_address(script.now, A1);
        let out = script.out();
        assert!(first.of(&out).iter().any(|o| o.rst()), "{out:?}");
        assert_eq!((told(&first, &out), script.info(id).subflows.len()), (0, 0));
        assert!(script.advance(30_000).is_empty());
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        let out = script.send(&join, &join.seg().opt(&ack));
        assert_eq!(told(&join, &out), 1, "{out:?}");
        let out = script.advance(60_000);
        assert_eq!(told(&join, &out), 0, "{out:?}");
        assert_eq!(script.counters().rm_addr_tx, 1);
    });
}

/// One that comes back before anybody heard of that has not been away, be it an endpoint or not.
#[test]
fn a_first_address_that_is_back_in_time_is_not_withdrawn() {
    both(|v| {
        for (endpoint, to) in [(true, A1), (false, A1), (false, A2)] {
            let mut script = Script::server_with(v, |c| c.addresses[0].endpoint = endpoint);
            let (keys, _, _) = script.confirmed();
            let addresses = script.stack.config().addresses.clone();
            script.stack.remove_address(script.now, A1);
            script.out();
            assert!(script.stack.set_addresses(script.now, addresses));
            script.advance(1_000);
            script.join(&keys, at(P2, 5000), at(to, PORT));
            script.advance(20_000);
            let counters = script.counters();
            assert_eq!((counters.rm_addr_tx, counters.rm_addr_tx_drop), (0, 0), "{endpoint} {to}");
        }
    });
}

/// All ids are given out, so an address that comes back has one that is to be withdrawn. Who joins it there knew it, and is
/// not told to end that.
#[test]
fn an_id_that_somebody_has_joined_again_is_not_withdrawn() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            let model = c.addresses[1];
            let others = (0..252).map(|host| IpAddr::from([10, 3, 0, host]));
            c.addresses.extend(others.map(|addr| LocalAddress { addr, ..model }));
        });
        let (keys, first, _) = script.confirmed();
        script.send(&first, &first.seg().flags(TcpFlags::RST));
        let addresses = script.stack.config().addresses.clone();
        script.stack.remove_address(script.now, A2);
        assert!(script.stack.set_addresses(script.now, addresses));
        script.advance(1_000);
        let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let answer = join.of(&out)[0];
        assert!(matches!(answer.join(), Some(MpJoin::SynAck { address_id: 2, .. })), "{answer:?}");
        script.send(&join, &join.seg().opt(&Script::join_ack(&keys, answer)));
        script.advance(20_000);
        assert_eq!((script.counters().rm_addr_tx, script.counters().rm_addr_tx_drop), (0, 0));
    });
}

/// Version 0 has no echo, so nothing is waited for: every subflow that is there carries it once.
#[test]
fn a_version_0_announcement_goes_out_once() {
    let mut script = Script::server_with(Version::V0, fullmesh);
    let (keys, first, _) = script.unconfirmed();
    let out = script.send(&first, &first.seg().dss(keys.ack(0)));
    let announced: Vec<_> = out.iter().filter_map(add_addr).collect();
    let expected = AddAddr { address_id: 2, addr: A2, port: None, echo: false, hmac: None };
    assert_eq!(announced, [expected]);
    let option = out.iter().find(|o| add_addr(o).is_some()).expect("one of them");
    assert!(option.options.windows(4).any(|w| w == [30, 8, 0x34, 2]), "{option:?}");
    let out = script.advance(120_000);
    assert!(out.iter().all(|o| add_addr(o).is_none()), "{out:?}");
}

#[test]
fn announcements_beyond_the_limit_are_counted() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        for n in 0..10 {
            let addr = IpAddr::from([10, 100, 0, n]);
            script.send(&flow, &flow.seg().raw(&announce(&keys, 10 + n, addr, None, 0)));
        }
        assert_eq!((script.counters().add_addr, script.counters().add_addr_drop), (10, 2));
        if v == Version::V0 {
            return;
        }
        // More echoes in one burst than wait on a subflow.
        for n in 0..10 {
            let addr = IpAddr::from([10, 100, 0, n]);
            script.inject(&flow, &flow.seg().raw(&announce(&keys, 10 + n, addr, None, 0)));
        }
        assert_eq!(script.counters().mp_signal_drop, 2);
    });
}
