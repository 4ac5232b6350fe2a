//! The cases of a fallback that come after the handshake, and what must not cause one; `hNN_...` is
//! a row of the table "Fallback reasons" in `docs/conformance.md` (RFC 8684 §3.3, §3.7).

use crate::cases::*;
use crate::harness::*;
use mptcp_core::event_log::{Event, SubflowEnd};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::wire::{CapableForm, Dss, MpJoin, MptcpOption, TcpFlags, reset_reason};

fn server() -> Script {
    watched(Script::server(V))
}

/// A server on which options pass in both directions: 10 of our octets have a `DATA_ACK`.
fn proven() -> (Script, Keys, Flow, SocketId) {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed();
    let out = script.write(id, 0, 10);
    flow.hears(&out);
    script.send(&flow, &flow.seg().dss(keys.ack(10)));
    (script, keys, flow, id)
}

/// The first data came as `MP_CAPABLE` with data; nothing shows yet that our options arrive.
fn begun(first: &[u8]) -> (Script, Keys, Flow, SocketId) {
    let mut script = server();
    let (keys, mut flow, id) = script.unconfirmed();
    let (sender, receiver) = (keys.peer, keys.stack);
    let form = CapableForm::Data { sender, receiver, data_len: first.len() as u16, checksum: None };
    let out = script.send(&flow, &flow.seg().opt(&capable(V, H, form)).data(first));
    flow.snd_nxt += first.len() as u32;
    flow.hears(&out);
    assert_eq!(script.read(id).expect("the first data"), first);
    (script, keys, flow, id)
}

/// Sends unmapped data until something is reset; answers the reset.
fn unmapped(script: &mut Script, flow: &mut Flow) -> Out {
    for _ in 0..1_000 {
        let out = script.send(flow, &flow.seg().data(&stream(0, 1_400)));
        flow.snd_nxt += 1_400;
        if let Some(rst) = flow.of(&out).into_iter().find(|o| o.rst()) {
            return rst.clone();
        }
    }
    panic!("held without bound");
}

/// A mapping whose payload was changed on the way.
fn corrupt(script: &mut Script, keys: &Keys, flow: &mut Flow, offset: u64) -> Vec<Out> {
    let mut data = stream(offset, 100);
    let dss = keys.data(flow, offset, 0, &data);
    data[50] ^= 0x40;
    let out = script.send(flow, &flow.seg().dss(dss).data(&data));
    flow.snd_nxt += 100;
    flow.hears(&out);
    out
}

#[test]
fn h12_the_first_data_has_no_mapping() {
    let mut script = server();
    let (_, flow, id) = script.unconfirmed();
    script.send(&flow, &flow.seg().data(&stream(0, 10)));
    fell_back(&script, id, FallbackReason::FirstDataUnmapped);
    assert_eq!(script.counters().mp_capable_data_fallback, 1);
    script.expect_stream(id, 0, 10);
    // The sender's part: one infinite mapping.
    let out = script.write(id, 0, 100);
    assert_eq!(out[0].mapping().map(|m| m.len), Some(0), "{out:?}");
    assert_eq!(script.counters().infinite_map_tx, 1);
}

#[test]
fn h13_data_without_a_mapping_on_a_join() {
    let (mut script, keys, _, id) = proven();
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    let rst = unmapped(&mut script, &mut join);
    assert_eq!(rst.reset_reason(), Some((INTERFERENCE, false)));
    reset(&script, id, INTERFERENCE);
    assert_eq!(script.counters().dss_corruption_reset, 1);
}

#[test]
fn h14_data_that_only_tcp_acknowledges() {
    let mut script = server();
    let (_, mut flow, id) = script.unconfirmed();
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg());
    fell_back(&script, id, FallbackReason::NoDataAck);
    assert_eq!(script.counters().dss_fallback, 1);
    assert_eq!(script.info(id).bytes_acked, 1_000);
    let out = script.write(id, 1_000, 100);
    assert_eq!(out[0].mapping().map(|m| m.len), Some(0), "a final infinite mapping: {out:?}");
}

#[test]
fn h15_data_on_a_join_that_only_tcp_acknowledges() {
    let (mut script, keys, _, id) = proven();
    let mut join = joined(&mut script, &keys, id);
    let out = script.write(id, 10, 1_000);
    assert!(!join.of(&out).is_empty(), "{out:?}");
    join.hears(&out);
    let out = script.send(&join, &join.seg());
    assert_eq!(join.of(&out)[0].reset_reason(), Some((INTERFERENCE, false)));
    reset(&script, id, INTERFERENCE);
    assert_eq!(script.counters().dss_ack_missing_reset, 1);
}

/// Before any `DATA_ACK` the stream is contiguous and one subflow's: it goes on as TCP, with what
/// was held.
#[test]
fn h16_options_disappear_soon() {
    let (mut script, _, flow, id) = begun(&stream(0, 100));
    script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
    assert_eq!(script.fallback(id), None, "its mapping may come yet");
    script.advance(3_000);
    fell_back(&script, id, FallbackReason::OptionsLost);
    assert_eq!(script.counters().dss_fallback, 1);
    script.expect_stream(id, 100, 1_000);
}

/// The same once a join was answered, by which the peer may have sent what it sends here again: read as plain TCP that
/// would be a second copy.
#[test]
fn options_that_disappear_after_the_answer_to_a_join_mean_no_plain_tcp() {
    let (mut script, keys, flow, id) = begun(&stream(0, 100));
    let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
    let out = script.join_syn(&keys, &mut join, false);
    assert!(join.of(&out)[0].is(TcpFlags::SYN | TcpFlags::ACK), "{out:?}");
    script.send(&flow, &flow.seg().data(&stream(0, 1_000)));
    script.advance(3_000);
    assert_eq!(script.fallback(id), None);
    assert_eq!(script.info(id).bytes_received, 100);
}

/// Options passed in both directions: what has no mapping is held up to a window, then the subflow
/// goes; another one can take over.
#[test]
fn h17_options_disappear_in_mid_life() {
    let (mut script, keys, mut flow, id) = proven();
    let rst = unmapped(&mut script, &mut flow);
    assert_eq!(rst.reset_reason(), Some((INTERFERENCE, false)));
    reset(&script, id, INTERFERENCE);
    assert_eq!(script.counters().dss_corruption_reset, 1);
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.send_data(&keys, &mut join, 0, 10, &stream(0, 100));
    script.expect_stream(id, 0, 100);
}

/// After a join, even one that is gone, nothing leads back to TCP.
#[test]
fn h18_fallback_is_no_longer_possible() {
    let (mut script, keys, flow, id) = proven();
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.send(&join, &join.seg().flags(TcpFlags::RST));
    let out = script.send(&flow, &flow.seg().dss(keys.map(0, 1, 0)).data(b"raw"));
    assert_eq!(flow.of(&out)[0].reset_reason(), Some((INTERFERENCE, false)));
    kept(&script, id);
    assert_eq!(script.counters().fallback_failed, 1);
    let told = events(&script, id);
    let reason = FallbackReason::InfiniteMapping;
    assert!(told.contains(&Event::FallbackRefused { reason }), "{told:?}");
    // The peer's MP_FAIL is no other matter.
    let mut script = server();
    let (keys, flow, id) = script.confirmed_with(SUM);
    script.join(&keys, at(P2, 5000), at(A2, PORT));
    let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
    script.send(&flow, &flow.seg().opt(&fail));
    reset(&script, id, INTERFERENCE);
    let reason = FallbackReason::PeerChecksum;
    assert!(events(&script, id).contains(&Event::FallbackRefused { reason }));
}

#[test]
fn h19_a_wrong_checksum_beside_other_subflows() {
    let mut script = server();
    let (keys, mut first, id) = script.confirmed_with(SUM);
    let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    let out = corrupt(&mut script, &keys, &mut join, 0);
    let [rst] = join.of(&out)[..] else { panic!("{out:?}") };
    assert!(rst.rst() && rst.fail() == Some(keys.peer_dsn(0).0), "{rst:?}");
    kept(&script, id);
    let counters = script.counters();
    assert_eq!((counters.data_csum_err, counters.mp_fail_tx), (1, 1));
    assert_eq!((counters.dss_corruption_reset, counters.fallback_failed), (1, 0));
    let level = script.info(id).data_level.expect("an MPTCP connection");
    assert_eq!(level.last_subflow_end, Some(SubflowEnd::Checksum));
    let closed = Event::SubflowClosed { subflow: 1, end: SubflowEnd::Checksum };
    assert!(events(&script, id).contains(&closed));
    script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
    script.expect_stream(id, 0, 100);
}

#[test]
fn h20_a_wrong_checksum_on_the_only_subflow() {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    let out = corrupt(&mut script, &keys, &mut flow, 0);
    assert!(out.iter().any(|o| o.fail() == Some(keys.peer_dsn(0).0)), "{out:?}");
    fell_back(&script, id, FallbackReason::Checksum);
    assert_eq!(script.counters().dss_corruption_fallback, 1);
    // And the other end of it.
    let mut script = server();
    let (keys, flow, id) = script.confirmed_with(SUM);
    script.write(id, 0, 100);
    let fail = MptcpOption::Fail { dsn: keys.stack_dsn(0).0 };
    let out = script.send(&flow, &flow.seg().opt(&fail));
    assert!(out.iter().any(|o| o.fail() == Some(keys.peer_dsn(0).0)), "{out:?}");
    fell_back(&script, id, FallbackReason::PeerChecksum);
    assert_eq!(script.counters().dss_corruption_fallback, 1);
}

#[test]
fn h21_a_wrong_checksum_on_a_stream_that_is_not_contiguous() {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.send(&join, &join.seg().flags(TcpFlags::RST));
    let out = corrupt(&mut script, &keys, &mut flow, 0);
    let rst = out.iter().find(|o| o.rst()).expect("a RST");
    assert_eq!(rst.fail(), Some(keys.peer_dsn(0).0));
    kept(&script, id);
    let counters = script.counters();
    assert_eq!((counters.dss_corruption_reset, counters.fallback_failed), (1, 1));
    let reason = FallbackReason::Checksum;
    assert!(events(&script, id).contains(&Event::FallbackRefused { reason }));
}

#[test]
fn h22_an_infinite_mapping() {
    let mut script = server();
    let (keys, flow, id) = script.confirmed();
    let out = script.send(&flow, &flow.seg().dss(keys.map(0, 1, 0)).data(b"raw"));
    assert!(out.iter().all(|o| o.mptcp().is_empty()), "no DATA_ACK any more: {out:?}");
    fell_back(&script, id, FallbackReason::InfiniteMapping);
    assert_eq!(script.counters().infinite_map_rx, 1);
    assert_eq!(script.read(id).expect("the data"), b"raw");
}

#[test]
fn h23_there_is_no_way_back() {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed();
    script.send(&flow, &flow.seg().dss(keys.map(0, 1, 0)).data(b"raw"));
    flow.snd_nxt += 3;
    // A mapping means nothing now, a join is unknown.
    let dss = keys.data(&flow, 100, 0, b"more");
    script.send(&flow, &flow.seg().dss(dss).data(b"more"));
    assert_eq!(script.read(id).expect("the data"), b"rawmore");
    let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
    let out = script.join_syn(&keys, &mut join, false);
    assert_eq!(join.of(&out)[0].reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)));
    assert_eq!(script.counters().mp_join_no_token_found, 1);
    refused(&script, reset_reason::MPTCP_SPECIFIC);
    fell_back(&script, id, FallbackReason::InfiniteMapping);
}

#[test]
fn h24_a_fin_is_the_end_of_the_stream_then() {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed();
    script.send(&flow, &flow.seg().dss(keys.map(0, 1, 0)).data(b"raw"));
    flow.snd_nxt += 3;
    fell_back(&script, id, FallbackReason::InfiniteMapping);
    script.send(&flow, &flow.seg().dss(keys.fin(3)));
    assert!(!script.ready(id).contains(Ready::READ_CLOSED), "a DATA_FIN means nothing now");
    script.send(&flow, &flow.seg().fin());
    assert_eq!(script.read(id).expect("the data"), b"raw");
    assert!(script.at_end(id) && script.ready(id).contains(Ready::READ_CLOSED));
    script.stack.shutdown_write(script.now, id);
    let out = script.out();
    assert!(out[0].is(TcpFlags::FIN), "ours, too: {out:?}");
}

/// A proxy acknowledges what the peer has not got yet. That stands, whatever the peer says later.
#[test]
fn h25_a_proxy_acknowledges_ahead_of_the_peer() {
    let mut script = server();
    let (keys, mut flow, id) = script.unconfirmed();
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg());
    script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
    fell_back(&script, id, FallbackReason::NoDataAck);
    // On a join it costs the join.
    let (mut script, keys, _, id) = proven();
    let mut join = joined(&mut script, &keys, id);
    let out = script.write(id, 10, 100);
    join.hears(&out);
    script.send(&join, &join.seg());
    reset(&script, id, INTERFERENCE);
}

/// Addresses and ports are a translator's, the ISN a firewall's: mappings are relative, joins are
/// found by their token, addresses by their ids.
#[test]
fn h26_translated_addresses_ports_and_sequence_numbers() {
    let mut script = server();
    let (keys, mut first, id) = script.confirmed();
    let mut join = Flow::new(at(P1, 61_001), at(A1, PORT));
    join.isn = u32::MAX - 10;
    join.snd_nxt = join.isn;
    let out = script.join_syn(&keys, &mut join, false);
    let ack = Script::join_ack(&keys, join.of(&out)[0]);
    script.send(&join, &join.seg().opt(&ack));
    script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
    script.send_data(&keys, &mut join, 100, 0, &stream(100, 100));
    script.expect_stream(id, 0, 200);
    kept(&script, id);
    let remote: Vec<u8> = script.info(id).subflows.iter().map(|s| s.remote_id).collect();
    assert_eq!(remote, [0, 2]);
}

#[test]
fn h27_split_and_merged_segments() {
    let (mut script, keys, mut flow, id) = proven();
    // Split in three, the option copied, then only on the first, then two mappings in one segment.
    for (round, copied) in [(0_u64, true), (1, false)] {
        let data = stream(round * 300, 300);
        let dss = keys.data(&flow, round * 300, 10, &data);
        for (at, part) in data.chunks(100).enumerate() {
            let seg = flow.seg().data(part);
            let seg = if at == 0 || copied { seg.dss(dss) } else { seg };
            script.send(&flow, &seg);
            flow.snd_nxt += 100;
        }
        script.expect_stream(id, round * 300, 300);
    }
    let second = keys.map(700, flow.ssn() + 100, 100);
    let first = keys.map(600, flow.ssn(), 100);
    script.send(&flow, &flow.seg().dss(second));
    script.send(&flow, &flow.seg().dss(first).data(&stream(600, 200)));
    script.expect_stream(id, 600, 200);
    kept(&script, id);
}

#[test]
fn h28_a_window_shrunk_on_the_way() {
    let (mut script, keys, first, id) = proven();
    // The box on the second path lets 1,000 octets be offered, the first path's 60,000: each holds on
    // its own subflow, the larger for the stream.
    let mut join = Flow::new(at(P2, 5000), at(A2, PORT));
    join.window = 1_000;
    let out = script.join_syn(&keys, &mut join, false);
    let ack = Script::join_ack(&keys, join.of(&out)[0]);
    script.send(&join, &join.seg().opt(&ack));
    script.send(&join, &join.seg().dss(keys.ack(10)));
    let mut out = script.write(id, 10, 8_000);
    out.extend(script.advance(100));
    let octets = |flow: &Flow| flow.of(&out).iter().map(|o| o.payload.len()).sum::<usize>();
    assert!(octets(&join) <= 1_000, "{out:?}");
    assert!(octets(&first) >= 7_000, "{out:?}");
    kept(&script, id);
}

#[test]
fn h29_options_overwritten_with_the_end_of_the_list() {
    let mut script = server();
    let (_, flow, id) = script.unconfirmed();
    let eol = [0; 20];
    script.send(&flow, &flow.seg().raw(&eol).data(&stream(0, 10)));
    fell_back(&script, id, FallbackReason::FirstDataUnmapped);
    assert_eq!(script.counters().mp_capable_data_fallback, 1);
    script.expect_stream(id, 0, 10);
}

/// Only a checksum shows it; without one the changed octets are the stream.
#[test]
fn h30_payload_edited_under_a_right_tcp_checksum() {
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed_with(SUM);
    corrupt(&mut script, &keys, &mut flow, 0);
    fell_back(&script, id, FallbackReason::Checksum);
    let read = script.read(id).expect("as TCP hands it over");
    assert_eq!(read.iter().zip(stream(0, 100)).filter(|(a, b)| *a != b).count(), 1);
    let mut script = server();
    let (keys, mut flow, id) = script.confirmed();
    corrupt(&mut script, &keys, &mut flow, 0);
    kept(&script, id);
    assert_eq!(script.read(id).expect("unnoticed").len(), 100);
}

/// A fallback takes the joins in progress with it, and says so of each.
#[test]
fn other_subflows_end_with_a_fallback() {
    let mut script = watched(Script::new(V, |c| {
        c.mptcp.path_manager = mptcp_core::config::PathManagerKind::Fullmesh;
    }));
    let (keys, flow, id) = connected(&mut script, SUM);
    let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    assert!(out.iter().any(|o| matches!(o.join(), Some(MpJoin::Syn { .. }))), "{out:?}");
    script.send(&flow, &flow.seg().dss(Dss { ..keys.map(0, 1, 0) }));
    fell_back(&script, id, FallbackReason::InfiniteMapping);
    let closed = Event::SubflowClosed { subflow: 1, end: SubflowEnd::FellBack };
    assert!(events(&script, id).contains(&closed));
}
