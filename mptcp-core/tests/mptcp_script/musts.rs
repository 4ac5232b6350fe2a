//! What RFC 8684 demands in so many words and no other script shows: rows of `docs/conformance/`.

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::{LocalAddress, PathManagerKind, StackConfig};
use mptcp_core::mptcp::{FallbackReason, key};
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::wire::{
    AddAddr, AddressIds, CapableFlags, CapableForm, Dss, Mapping, MpCapable, MpJoin, MpTcpRst,
    MptcpOption, OptionWriter, TcpFlags, Version, WireSeq, reset_reason,
};

const V1: Version = Version::V1;
const H: CapableFlags = CapableFlags::HMAC;
const RST: TcpFlags = TcpFlags::RST.union(TcpFlags::ACK);

fn fullmesh(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
}

/// An announcement by the peer as it stands on the wire.
fn announce(keys: &Keys, id: u8, addr: IpAddr, port: Option<u16>) -> Vec<u8> {
    let version = keys.version;
    let hmac = key::add_addr_hmac(version, keys.peer, keys.stack, id, addr, port);
    let hmac = (version == V1).then_some(hmac);
    let mut writer = OptionWriter::new();
    let add_addr = AddAddr { address_id: id, addr, port, echo: false, hmac };
    assert!(add_addr.encode(&mut writer, version));
    writer.as_bytes().to_vec()
}

fn echoes(out: &[Out]) -> usize {
    let echo = |o: &MptcpOption<'_>| match o {
        MptcpOption::AddAddr(raw) => raw.decode(V1).is_some_and(|a| a.echo),
        _ => false,
    };
    out.iter().flat_map(Out::mptcp).filter(echo).count()
}

/// Where the joins in `out` go to.
fn joins(out: &[Out]) -> Vec<core::net::SocketAddr> {
    let joins = out.iter().filter(|o| matches!(o.join(), Some(MpJoin::Syn { .. })));
    joins.map(|o| o.dst).collect()
}

fn payload(flow: &Flow, out: &[Out]) -> usize {
    flow.of(out).iter().map(|o| o.payload.len()).sum()
}

/// What TCP of `flow` received of the stack's data.
fn got(flow: &Flow) -> u64 {
    u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1
}

/// A connection whose first kilobyte was acknowledged by a `DATA_ACK`: options pass.
fn proven(script: &mut Script) -> (Keys, Flow, SocketId) {
    let (keys, mut flow, id) = script.confirmed();
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
    (keys, flow, id)
}

#[test]
fn what_we_offer_names_one_algorithm_and_no_extension() {
    // The newer of two versions.
    let mut script = Script::serving(&[Version::V0, V1], V1, |_| {});
    let (mut flow, id, syn) = script.connect();
    let offer = MpCapable { version: 1, flags: H, form: CapableForm::Syn };
    assert_eq!(syn.capable(), Some(offer));
    let out = script.answer(&mut flow, &[capable(V1, H, CapableForm::Key(PEER_KEY))]);
    let third = out[0].capable().expect("the third ACK has the keys");
    assert_eq!((third.version, third.flags), (1, H));
    let out = script.write(id, 0, 10);
    let first = out[0].capable().expect("so has the first data");
    assert_eq!((first.version, first.flags), (1, H));
}

/// RFC 4086: who knows some keys, of this stack or of one with another seed, knows nothing of the next.
#[test]
fn keys_have_nothing_in_common() {
    both(|v| {
        let mut keys = Vec::new();
        for seed in [7, 8] {
            let mut script = Script::server_with(v, |c| c.seed = [seed; 32]);
            for port in 4_000..4_020 {
                let (_, syn_ack) = script.half_open(port, H);
                keys.push(Keys::of(v, &syn_ack, false).stack);
            }
        }
        for (n, key) in keys.iter().enumerate() {
            for other in &keys[..n] {
                let differ = (key ^ other).count_ones();
                assert!((8..=56).contains(&differ), "{key:x} and {other:x}");
            }
        }
    });
}

#[test]
fn no_subflow_is_opened_before_a_dss_arrived() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        assert!(joins(&script.advance(3_000)).is_empty());
        // Neither an ACK nor a signal is a DSS.
        assert!(joins(&script.send(&flow, &flow.seg())).is_empty());
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, P2, None)));
        assert!(joins(&out).is_empty(), "{out:?}");
        assert!(joins(&script.advance(3_000)).is_empty());
        let mut to = joins(&script.send(&flow, &flow.seg().dss(keys.ack(0))));
        to.sort();
        assert_eq!(to, [at(P1, PORT), at(P2, PORT), at(P2, PORT)]);
    });
}

#[test]
fn the_first_address_of_a_peer_that_denies_joins_stays_taboo_when_it_is_announced() {
    let mut script = Script::new(V1, fullmesh);
    let (keys, flow, _) = script.connected_with(H | CapableFlags::DENY_JOIN);
    script.send(&flow, &flow.seg().dss(keys.ack(0)));
    for port in [None, Some(PORT)] {
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 0, P1, port)));
        assert!(joins(&out).is_empty(), "{out:?}");
    }
    // Address and port are denied, the address alone is not.
    let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 0, P1, Some(8080))));
    assert_eq!(joins(&out), [at(P1, 8080); 2]);
}

#[test]
fn keys_of_another_version_in_the_third_ack_mean_plain_tcp() {
    for version in [0, 2] {
        let mut script = Script::server(V1);
        let (flow, syn_ack) = script.half_open(4_000, H);
        let Some(CapableForm::Key(stack)) = syn_ack.capable().map(|c| c.form) else {
            panic!("{syn_ack:?}")
        };
        let mut option = vec![30, 20, version, 0x01];
        option.extend_from_slice(&PEER_KEY.to_be_bytes());
        option.extend_from_slice(&stack.to_be_bytes());
        script.send(&flow, &flow.seg().raw(&option));
        let id = script.accept().expect("a connection");
        assert_eq!(script.info(id).mptcp, None, "version {version}");
        assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
    }
}

#[test]
fn keys_of_somebody_else_with_the_first_data_mean_plain_tcp() {
    // Another key, another version, no method, an extension.
    for (version, flip, flags) in [(1, 1, 0x01), (2, 0, 0x01), (1, 0, 0x00), (1, 0, 0x41)] {
        let mut script = Script::server(V1);
        let (keys, flow, id) = script.unconfirmed();
        let form = CapableForm::Data {
            sender: keys.peer ^ flip,
            receiver: keys.stack,
            data_len: 10,
            checksum: None,
        };
        let mut writer = OptionWriter::new();
        assert!(writer.push_mptcp(&capable(V1, H, form), Version::V1));
        let mut option = writer.as_bytes().to_vec();
        (option[2], option[3]) = (version, flags);
        script.send(&flow, &flow.seg().raw(&option).data(&stream(0, 10)));
        assert_eq!(script.fallback(id), Some(FallbackReason::FirstDataUnmapped));
        script.expect_stream(id, 0, 10);
    }
}

#[test]
fn what_came_with_a_wide_dsn_is_acknowledged_with_a_wide_data_ack() {
    let mut script = Script::server(V1);
    let (keys, mut flow, _) = script.confirmed();
    for n in 0..6 {
        // One acknowledgement for both, and the last of them has a narrow number.
        script.inject(
            &flow,
            &flow.seg().dss(keys.map(n * 20, flow.ssn(), 10)).data(&stream(n * 20, 10)),
        );
        flow.snd_nxt += 10;
        let dsn = WireSeq::Low(keys.peer_dsn(n * 20 + 10).0 as u32);
        let mapping = Some(Mapping { dsn, ssn: flow.ssn(), len: 10, checksum: None });
        let dss = Dss { mapping, ..Dss::default() };
        script.inject(&flow, &flow.seg().dss(dss).data(&stream(n * 20 + 10, 10)));
        flow.snd_nxt += 10;
        let out = script.out();
        let acks: Vec<_> = out.iter().filter_map(Out::data_ack).collect();
        assert_eq!(acks, [WireSeq::Full(keys.peer_dsn(n * 20 + 20).0)]);
    }
}

#[test]
fn urgent_data_of_a_subflow_is_part_of_the_stream() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let data = stream(0, 20);
        let seg = flow.seg().flags(TcpFlags::ACK | TcpFlags::URG);
        let out = script.send(&flow, &seg.dss(keys.data(&flow, 0, 0, &data)).data(&data));
        assert!(same(out[0].data_ack().expect("a DATA_ACK"), keys.peer_dsn(20)));
        flow.snd_nxt += 20;
        script.send_data(&keys, &mut flow, 20, 0, &stream(20, 20));
        script.expect_stream(id, 0, 40);
    });
}

#[test]
fn an_mptcp_connection_has_no_urgent_data() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        assert!(!script.stack.mark_urgent(id));
        let seg = flow.seg().flags(TcpFlags::ACK | TcpFlags::URG);
        let text = stream(0, 20);
        script.send(&flow, &seg.dss(keys.data(&flow, 0, 0, &text)).data(&text));
        assert!(!script.ready(id).contains(Ready::URGENT));
        assert_eq!(script.stack.urgent(id), None);
        assert!(script.write(id, 0, 3_000).iter().all(|o| !o.is(TcpFlags::URG)));
    });
}

#[test]
fn a_window_without_a_data_ack_is_not_the_connections() {
    both(|v| {
        let mut script = Script::server(v);
        let (mut flow, syn_ack) = script.half_open(4_000, H);
        let keys = Keys::of(v, &syn_ack, false);
        flow.window = 2_000;
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("a connection");
        let out = script.write(id, 0, 1_000);
        flow.hears(&out);
        script.send(&flow, &flow.seg().dss(keys.ack(1_000)).window(1_000));
        let out = script.write(id, 1_000, 9_000);
        assert_eq!(payload(&flow, &out), 1_000, "{out:?}");
        flow.hears(&out);
        // TCP acknowledges all of it and has room for more; the connection does not say so.
        let out = script.send(&flow, &flow.seg().window(60_000));
        assert_eq!(payload(&flow, &out), 0, "{out:?}");
        let out = script.send(&flow, &flow.seg().dss(keys.ack(2_000)).window(60_000));
        assert_eq!(payload(&flow, &out), 8_000, "{out:?}");
    });
}

#[test]
fn data_acks_may_stay_away_while_nothing_advances() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = proven(&mut script);
        let mut join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        script.send(&join, &join.seg().dss(keys.ack(1_000)));
        let mut written = 1_000;
        for _ in 0..10 {
            let out = script.write(id, written, 4_000);
            written += 4_000;
            first.hears(&out);
            join.hears(&out);
            for flow in [&mut first, &mut join] {
                let out = script.send(flow, &flow.seg());
                assert!(out.iter().all(|o| !o.rst()), "{out:?}");
                flow.hears(&out);
            }
        }
        assert_eq!((script.info(id).subflows.len(), script.fallback(id)), (2, None));
        assert_eq!(
            script.info(id).bytes_acked,
            1_000,
            "TCP's acknowledgements say nothing about data"
        );
        let arrived = got(&first) + got(&join);
        assert!(arrived > 20_000, "{arrived}");
        script.send(&first, &first.seg().dss(keys.ack(arrived)));
        assert_eq!(script.info(id).bytes_acked, arrived);
    });
}

#[test]
fn every_subflow_is_closed_with_a_fin() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        let dss = Dss { data_ack: keys.ack(1).data_ack, ..keys.fin(0) };
        let out = script.send(&first, &first.seg().dss(dss));
        for flow in [&mut first, &mut join] {
            let fins = flow.of(&out).iter().filter(|o| o.is(TcpFlags::FIN) && !o.rst()).count();
            assert_eq!(fins, 1, "{out:?}");
            flow.hears(&out);
            let out = script.send(flow, &flow.seg().fin());
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        }
        assert_eq!(script.stack.occupancy().time_waits, 2);
    });
}

#[test]
fn the_last_subflow_is_not_closed_while_data_is_outstanding() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = proven(&mut script);
        let out = script.write(id, 1_000, 50_000);
        flow.hears(&out);
        // The peer ends its half of the subflow, but not its stream.
        let out = script.send(&flow, &flow.seg().dss(keys.ack(1_000)).fin());
        flow.snd_nxt += 1;
        flow.hears(&out);
        let mut all = out;
        for _ in 0..40 {
            let seg = flow.seg().dss(keys.ack(got(&flow).min(51_000)));
            let out = script.send(&flow, &seg);
            flow.hears(&out);
            all.extend(out);
            all.extend(script.advance(10));
        }
        assert_eq!(script.info(id).bytes_acked, 51_000, "{all:?}");
        let end = flow.stack_isn.wrapping_add(51_001);
        let fins: Vec<u32> = all.iter().filter(|o| o.is(TcpFlags::FIN)).map(|o| o.seq).collect();
        assert_eq!(fins, [end], "then it is");
    });
}

/// Once there is another one, it is closed and what it carried moves.
#[test]
fn a_last_subflow_that_was_kept_is_closed_when_another_one_comes() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = proven(&mut script);
        let out = script.write(id, 1_000, 3_000);
        assert_eq!(payload(&first, &out), 3_000);
        let out = script.send(&first, &first.seg().dss(keys.ack(1_000)).fin());
        first.snd_nxt += 1;
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        let mut join = Flow::new(at(P2, 5_000), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        let out = script.send(&join, &join.seg().opt(&ack));
        assert!(first.of(&out).iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
        assert_eq!(payload(&join, &out), 3_000, "{out:?}");
        script.send(&join, &join.seg().dss(keys.ack(4_000)));
        assert_eq!(script.info(id).bytes_acked, 4_000);
    });
}

#[test]
fn what_goes_again_elsewhere_is_still_repeated_by_its_own_subflow() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = proven(&mut script);
        let mut join = script.join_as(&keys, at(P2, 5_000), at(A2, PORT), true);
        let out = script.write(id, 1_000, 3_000);
        let original: Vec<_> = first.of(&out).iter().map(|o| (o.seq, o.mapping())).collect();
        assert_eq!(payload(&first, &out), 3_000);
        // Nobody answers; the other subflow brings all of it.
        for _ in 0..100 {
            let out = script.advance(100);
            join.hears(&out);
            let out =
                script.send(&join, &join.seg().dss(keys.ack((1_000 + got(&join)).min(4_000))));
            join.hears(&out);
        }
        assert_eq!(script.info(id).bytes_acked, 4_000);
        let mut repeated = Vec::new();
        let late = script.advance(30_000);
        repeated.extend(first.of(&late).iter().map(|o| (o.seq, o.mapping())));
        assert!(repeated.contains(&original[0]), "it goes on after the DATA_ACK: {late:?}");
        // What it gets through at last is whole, and acknowledged like any other.
        for _ in 0..20 {
            let at = original.iter().position(|(seq, _)| *seq == first.rcv_nxt);
            first.rcv_nxt = at.map_or(first.rcv_nxt, |_| first.rcv_nxt.wrapping_add(1_436));
            let out = script.send(&first, &first.seg().dss(keys.ack(4_000)));
            repeated.extend(first.of(&out).iter().map(|o| (o.seq, o.mapping())));
        }
        assert!(original.iter().all(|segment| repeated.contains(segment)), "{repeated:?}");
    });
}

#[test]
fn a_subflow_that_is_given_up_is_reset_for_its_performance() {
    let mut script = Script::server_with(V1, |c| c.tcp.retries = 4);
    let (keys, first, id) = proven(&mut script);
    let mut join = script.join_as(&keys, at(P2, 5_000), at(A2, PORT), true);
    script.write(id, 1_000, 3_000);
    let mut resets = Vec::new();
    for _ in 0..600 {
        let out = script.advance(100);
        join.hears(&out);
        resets.extend(first.of(&out).iter().filter(|o| o.rst()).map(|o| o.reset_reason()));
        let out = script.send(&join, &join.seg().dss(keys.ack((1_000 + got(&join)).min(4_000))));
        join.hears(&out);
    }
    assert_eq!(resets, [Some((reset_reason::UNACCEPTABLE_PERFORMANCE, true))]);
    assert_eq!(script.info(id).subflows.len(), 1);
}

#[test]
fn unassigned_flags_of_an_announcement_mean_nothing() {
    let mut script = Script::server(V1);
    let (keys, flow, _) = script.confirmed();
    let mut option = announce(&keys, 3, P2, None);
    option[2] |= 0x0e;
    let out = script.send(&flow, &flow.seg().raw(&option));
    assert_eq!((echoes(&out), script.counters().add_addr), (1, 1), "{out:?}");
    let echo = out.iter().flat_map(|o| o.options.windows(3)).find(|w| w[..2] == [30, 8]);
    assert_eq!(echo.expect("an echo of 8 octets")[2], 0x31, "they are sent as zero");
}

#[test]
fn an_id_that_names_an_address_does_not_name_another() {
    both(|v| {
        let other = IpAddr::from([10, 9, 9, 9]);
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, _) = script.connected();
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        // The first address has the id 0 without any announcement.
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 0, other, None)));
        assert!(joins(&out).is_empty(), "{out:?}");
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 0, P1, Some(8080))));
        assert_eq!(joins(&out), [at(P1, 8080); 2], "another port of it is fine");
        // One that a join told us of.
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, P2, None)));
        let syn = out.iter().find(|o| o.src.ip() == A2 && o.dst == at(P2, PORT)).expect("a join");
        let Some(MpJoin::Syn { nonce, .. }) = syn.join() else { panic!("{syn:?}") };
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(core::slice::from_ref(syn));
        let hmac = keys.pair().sent_join_hmac(keys.version, NONCE, nonce).truncated64();
        let answer = MpJoin::SynAck { backup: false, address_id: 7, hmac, nonce: NONCE };
        script.answer(&mut join, &[MptcpOption::Join(answer)]);
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 7, other, None)));
        assert!(joins(&out).is_empty(), "{out:?}");
        assert_eq!(script.counters().add_addr_drop, 2);
        // Once they were removed they are free.
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[0, 7]).expect("two ids"));
        script.send(&flow, &flow.seg().opt(&gone));
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 0, other, None)));
        assert_eq!(joins(&out), [at(other, PORT); 2]);
    });
}

#[test]
fn an_announced_address_is_withdrawn_even_if_nobody_uses_it() {
    both(|v| {
        let mut script = Script::server_with(v, fullmesh);
        let (keys, flow, _) = script.confirmed();
        assert_eq!(script.counters().add_addr_tx, 1);
        script.stack.remove_address(script.now, A2);
        let out = script.out();
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[2]).expect("one id"));
        assert!(flow.of(&out).iter().any(|o| o.mptcp().contains(&gone)), "{out:?}");
        let _ = keys;
    });
}

#[test]
fn an_address_that_was_removed_and_still_answers_is_not_used_again() {
    both(|v| {
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, id) = script.connected();
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let out = script.send(&flow, &flow.seg().raw(&announce(&keys, 3, P2, None)));
        let syns: Vec<_> = out.iter().filter(|o| o.dst.ip() == P2).cloned().collect();
        let mut flows = Vec::new();
        for syn in syns {
            let Some(MpJoin::Syn { nonce, .. }) = syn.join() else { panic!("{syn:?}") };
            let mut join = Flow::new(syn.dst, syn.src);
            join.hears(&[syn]);
            let hmac = keys.pair().sent_join_hmac(keys.version, NONCE, nonce).truncated64();
            let answer = MpJoin::SynAck { backup: false, address_id: 3, hmac, nonce: NONCE };
            script.answer(&mut join, &[MptcpOption::Join(answer)]);
            script.send(&join, &join.seg().dss(keys.ack(0)));
            flows.push(join);
        }
        script.advance(10);
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[3]).expect("one id"));
        script.send(&flow, &flow.seg().opt(&gone));
        script.advance(10);
        for join in &flows {
            let out = script.send(join, &join.seg().dss(keys.ack(0)));
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        }
        script.advance(100);
        let on = |script: &Script| {
            script.info(id).subflows.iter().filter(|s| s.remote.ip() == P2).count()
        };
        assert_eq!(on(&script), 2, "they stay while they answer");
        for join in &flows {
            script.send(join, &join.seg().flags(RST));
        }
        let out = script.advance(200_000);
        assert!(joins(&out).iter().all(|to| to.ip() != P2), "{:?}", joins(&out));
    });
}

#[test]
fn a_reason_without_a_reset_is_none() {
    let mut script = Script::new(V1, fullmesh);
    let (keys, first, _) = script.connected();
    script.send(&first, &first.seg().dss(keys.ack(0)));
    let reset = MpTcpRst { transient: false, reason: reset_reason::PROHIBITED, reserved: 0 };
    script.send(&first, &first.seg().opt(&MptcpOption::Reset(reset)));
    assert_eq!(script.counters().mp_rst_rx, 0);
    // The reset that comes later gives none: it is tried again after the usual time.
    script.send(&first, &first.seg().flags(RST));
    let out = script.advance(1_010);
    assert!(out.iter().any(|o| o.src.ip() == A1 && o.join().is_some()), "{out:?}");
}

#[test]
fn a_join_may_take_the_ports_of_a_subflow_in_time_wait() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        // Nobody listens on port 9: the token alone says whose it is.
        let mut join = script.join(&keys, at(P2, 5_000), at(A2, 9));
        script.stack.shutdown_write(script.now, id);
        script.out();
        let out = script.send(&first, &first.seg().dss(Dss { ..keys.ack(1) }));
        assert!(out.is_empty(), "{out:?}");
        let out = script.send(&first, &first.seg().dss(keys.fin(0)));
        for flow in [&mut first, &mut join] {
            flow.hears(&out);
            script.send(flow, &flow.seg().fin());
        }
        assert_eq!(script.stack.occupancy().time_waits, 2);
        // A new connection of the same peer, and a younger join between the same ports.
        let (flow, syn_ack) = script.half_open(4_001, H);
        let keys = Keys::of(v, &syn_ack, false);
        script.send(&flow, &flow.seg().opt(&keys.third()));
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let id = script.accept().expect("the new connection");
        join.isn = join.isn.wrapping_add(1 << 20);
        let out = script.join_syn(&keys, &mut join, false);
        let [syn_ack] = join.of(&out)[..] else { panic!("{out:?}") };
        let ack = Script::join_ack(&keys, syn_ack);
        script.send(&join, &join.seg().opt(&ack));
        assert_eq!(script.info(id).subflows.len(), 2);
        // A token that nobody has leaves TIME-WAIT alone.
        assert_eq!(script.stack.occupancy().time_waits, 1);
    });
}

/// Everything that carries a mapping carries some of what it maps, a bare `DATA_FIN` excepted.
#[test]
fn a_mapping_is_about_the_segment_that_carries_it() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = proven(&mut script);
        let mut join = script.join(&keys, at(P2, 5_000), at(A2, PORT));
        let (mut all, mut written) = (Vec::new(), 1_000);
        for round in 0..60 {
            let mut out = script.write(id, written, 3_000);
            written += 3_000;
            out.extend(script.advance(40));
            // Now and then a flight is lost on one of them.
            if round % 5 != 0 {
                first.hears(&out);
            }
            if round % 7 != 0 {
                join.hears(&out);
            }
            all.extend(out);
            // The data level lags behind: some of it comes again elsewhere.
            let acked = script.info(id).bytes_acked + 2_000;
            all.extend(script.send(&first, &first.seg().dss(keys.ack(acked.min(written)))));
            all.extend(script.send(&join, &join.seg().dss(keys.ack(acked.min(written)))));
        }
        script.stack.shutdown_write(script.now, id);
        all.extend(script.out());
        all.extend(script.advance(20_000));
        let (mut data, mut again) = (0, 0);
        for packet in &all {
            let flow = if packet.dst == first.peer { &first } else { &join };
            let Some(mapping) = packet.mapping() else { continue };
            if packet.payload.is_empty() {
                assert!(packet.data_fin() && mapping.ssn == 0 && mapping.len == 1, "{packet:?}");
                continue;
            }
            let ssn = packet.seq.wrapping_sub(flow.stack_isn);
            let (start, end) = (mapping.ssn, mapping.ssn + u32::from(mapping.len));
            assert!(start < ssn + packet.payload.len() as u32 && ssn < end, "{packet:?}");
            data += 1;
            again += u32::from(
                all.iter().filter(|o| o.dst == packet.dst && o.seq == packet.seq).count() > 1,
            );
        }
        assert!(data > 40 && again > 10, "{data} segments, {again} of them repeated");
    });
}

#[test]
fn by_default_what_can_be_sent_is_what_can_be_received() {
    let config = StackConfig::default();
    assert!(config.tcp.send_buffer_max >= config.tcp.recv_buffer_max);
}

/// Nobody confirms what version 0 says about addresses: it is said on every subflow.
#[test]
fn addresses_of_version_0_are_told_on_every_subflow() {
    both(|v| {
        let mut script = Script::server_with(v, |c| {
            fullmesh(c);
            let mut third = c.addresses[1];
            third.addr = IpAddr::from([10, 3, 0, 1]);
            c.addresses.push(third);
        });
        let (keys, first, _) = script.confirmed();
        let join = script.join(&keys, at(P2, 5_000), at(A1, PORT));
        script.advance(60_000);
        script.stack.remove_address(script.now, A2);
        let out = script.out();
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[2]).expect("one id"));
        let told = |flow: &Flow| flow.of(&out).iter().any(|o| o.mptcp().contains(&gone));
        let both_told = told(&first) && told(&join);
        assert_eq!((both_told, told(&first) || told(&join)), (v == Version::V0, true), "{out:?}");
    });
}

/// Found by the simulator: the address may be back, and joined again, by the time that a join under way could say so.
#[test]
fn a_join_under_way_does_not_tell_later_what_was_withdrawn() {
    both(|v| {
        let third = IpAddr::from([10, 3, 0, 1]);
        let mut script = Script::new(v, |c| {
            fullmesh(c);
            c.addresses.push(LocalAddress { addr: third, ..c.addresses[1] });
        });
        let (keys, flow, id) = script.connected();
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let syn = out.iter().find(|o| o.src.ip() == third).expect("a join").clone();
        let Some(MpJoin::Syn { nonce, .. }) = syn.join() else { panic!("{syn:?}") };
        script.stack.remove_address(script.now, A2);
        let out = script.out();
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[2]).expect("one id"));
        let told = |out: &[Out]| out.iter().any(|o| o.mptcp().contains(&gone));
        assert!(told(&out), "{out:?}");
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(&[syn]);
        let hmac = keys.pair().sent_join_hmac(v, NONCE, nonce).truncated64();
        let answer = MpJoin::SynAck { backup: false, address_id: 0, hmac, nonce: NONCE };
        let mut out = script.answer(&mut join, &[MptcpOption::Join(answer)]);
        out.extend(script.send(&join, &join.seg().dss(keys.ack(0))));
        out.extend(script.advance(3_000));
        assert_eq!(script.info(id).subflows.len(), 2);
        assert!(!told(&out), "{out:?}");
    });
}

/// As behind a load balancer; version 0 has no such flag.
#[test]
fn who_wants_no_joins_where_its_peers_connect_to_says_so() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.deny_initial = true);
        let (_, syn_ack) = script.half_open(4_000, H);
        let flags = syn_ack.capable().expect("MPTCP").flags;
        assert_eq!(flags.contains(CapableFlags::DENY_JOIN), v == V1, "{syn_ack:?}");
    });
}
