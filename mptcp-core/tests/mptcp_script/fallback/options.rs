//! Options that the handshake, or the way, loses.

use super::*;

#[test]
fn a_syn_ack_without_the_option() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (mut flow, id, _) = script.connect();
        script.answer(&mut flow, &[]);
        fell_back(&script, id, FallbackReason::SynAckWithoutCapable);
        assert_eq!(script.counters().mp_capable_fallback_syn_ack, 1);
        works_as_tcp(&mut script, &mut flow, id, 0, false);
    });
}

#[test]
fn first_data_without_a_mapping() {
    both(|v| {
        // At the server.
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed();
        let out = script.send(&flow, &flow.seg().data(&stream(0, 10)));
        flow.snd_nxt += 10;
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        script.expect_stream(id, 0, 10);
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        assert_eq!(script.counters().mp_capable_data_fallback, 1);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
        // At the client.
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        script.send(&flow, &flow.seg().data(&stream(0, 10)));
        flow.snd_nxt += 10;
        script.expect_stream(id, 0, 10);
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn a_fin_without_any_dss_is_the_end_of_a_plain_stream() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        let out = script.send(&flow, &flow.seg().fin());
        flow.snd_nxt += 1;
        flow.hears(&out);
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        assert!(script.at_end(id));
        fell_back(&script, id, FallbackReason::FirstDataUnmapped);
        // The other direction stays open.
        let out = script.write(id, 0, 100);
        assert_eq!(out[0].payload, stream(0, 100));
    });
}

#[test]
fn t112_data_that_only_tcp_acknowledges() {
    both(|v| {
        // At the server.
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 5_000);
        flow.hears(&out);
        let mut half = flow.clone();
        half.rcv_nxt = flow.stack_isn + 1 + 1_000;
        script.send(&half, &half.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        assert_eq!(script.info(id).bytes_acked, 1_000);
        script.send(&flow, &flow.seg());
        assert_eq!(script.info(id).bytes_acked, 5_000);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
        // At the client.
        let mut script = Script::new(v, |_| {});
        let (_, mut flow, id) = script.connected();
        let out = script.write(id, 0, 500);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 500, true);
    });
}

/// A server whose client sends `first` as `MP_CAPABLE` with data: confirmed, but nothing shows yet
/// that our options reach the client.
fn confirmed_by_data(v: Version, first: &[u8]) -> (Script, Keys, Flow, SocketId) {
    let mut script = Script::server(v);
    let (keys, mut flow, id) = script.unconfirmed();
    let out = script.send(&flow, &flow.seg().opt(&keys.first_data(first)).data(first));
    flow.snd_nxt += first.len() as u32;
    flow.hears(&out);
    assert_eq!(script.read(id).expect("the first data"), first);
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(v as u8), None));
    (script, keys, flow, id)
}

/// The way back strips options: our `DATA_ACK` never arrived, the client is plain TCP already.
#[test]
fn t112_a_response_that_only_tcp_acknowledges() {
    both(|v| {
        let (mut script, _, mut flow, id) = confirmed_by_data(v, b"GET");
        let out = script.write(id, 0, 5_000);
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
    });
}

/// Before that acknowledgement comes TCP repeats what is lost; no octet gets a second sequence
/// number, for a client that fell back would read it twice.
#[test]
fn t112_nothing_is_sent_twice_to_a_peer_that_may_have_fallen_back() {
    both(|v| {
        let (mut script, _, flow, id) = confirmed_by_data(v, b"GET");
        let mut out = script.write(id, 0, 5_000);
        out.extend(script.advance(20_000));
        let end = flow.rcv_nxt.wrapping_add(5_000);
        assert!(out.iter().filter(|o| !o.payload.is_empty()).count() > 5, "TCP retransmits");
        assert!(out.iter().all(|o| o.seq.wrapping_add(o.payload.len() as u32) <= end), "{out:?}");
        // All of it arrives, and TCP's acknowledgement is the first sign of life.
        let mut flow = flow;
        flow.rcv_nxt = end;
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        works_as_tcp(&mut script, &mut flow, id, 5_000, true);
    });
}

#[test]
fn t112_an_upload_without_mappings() {
    both(|v| {
        // More than is ever held.
        let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
        let mut sent = 100;
        while script.fallback(id).is_none() {
            let out = script.send(&flow, &flow.seg().data(&stream(sent, 1_400)));
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            flow.snd_nxt += 1_400;
            sent += 1_400;
            assert!(sent < 1 << 20, "held without bound");
        }
        fell_back(&script, id, FallbackReason::OptionsLost);
        script.expect_stream(id, 100, sent as usize - 100);
        script.out();
        works_as_tcp(&mut script, &mut flow, id, 0, true);
        // Little: it waits for a mapping for a while.
        let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
        script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
        flow.snd_nxt += 1_000;
        script.advance(300);
        assert_eq!(script.fallback(id), None);
        assert!(script.would_block(id));
        script.advance(3_000);
        fell_back(&script, id, FallbackReason::OptionsLost);
        script.expect_stream(id, 100, 1_000);
        works_as_tcp(&mut script, &mut flow, id, 0, true);
    });
}

#[test]
fn t112_a_plain_fin_ends_the_stream_of_a_peer_that_fell_back() {
    both(|v| {
        for held in [0, 1_000] {
            let (mut script, _, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
            if held > 0 {
                script.send(&flow, &flow.seg().data(&stream(100, held)));
                flow.snd_nxt += held as u32;
            }
            let out = script.send(&flow, &flow.seg().fin());
            assert!(out.iter().all(|o| !o.rst()), "{out:?}");
            fell_back(&script, id, FallbackReason::OptionsLost);
            if held > 0 {
                script.expect_stream(id, 100, held);
            }
            assert!(script.at_end(id));
            let out = script.write(id, 0, 100);
            assert_eq!(out[0].payload, stream(0, 100));
        }
    });
}

/// Found by the fuzzer: a DSS says that the peer maps what it sends, so of two copies that wait for their mappings
/// neither is the stream of a peer that fell back.
#[test]
fn t112_options_that_pass_at_times_are_no_fallback() {
    both(|v| {
        for (fin, below) in [(false, 0), (true, 0), (false, 1_001)] {
            let (mut script, keys, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
            let out = script.write(id, 0, 500);
            script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
            flow.snd_nxt += 1_000;
            // In order, or as it asks for an acknowledgement.
            script.send(&flow, &flow.seg().seq(flow.snd_nxt.wrapping_sub(below)).dss(keys.ack(0)));
            script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
            flow.snd_nxt += 1_000;
            flow.hears(&out);
            let last = if fin { flow.seg().fin() } else { flow.seg() };
            let out = script.send(&flow, &last);
            assert!(out.iter().any(Out::rst), "{out:?}");
            assert_eq!(script.fallback(id), None);
        }
    });
}

/// Where it lies far below the window, or acknowledges what was never sent, a DSS is a stranger's: a peer that fell
/// back is read as plain TCP all the same.
#[test]
fn t112_a_stranger_does_not_stand_in_the_way_of_a_fallback() {
    both(|v| {
        let far = [(1_u32 << 30, 0_u32, false), (1 << 31, 0, false)];
        let near = [(1, 1 << 28, false), (1, 0, true)];
        for (below, ahead, rst) in far.into_iter().chain(near) {
            let (mut script, keys, mut flow, id) = confirmed_by_data(v, &stream(0, 100));
            script.send(&flow, &flow.seg().data(&stream(100, 1_000)));
            flow.snd_nxt += 1_000;
            let seg = flow.seg().seq(flow.snd_nxt.wrapping_sub(below));
            let seg = seg.acks(flow.rcv_nxt.wrapping_add(ahead)).dss(keys.ack(0));
            let flags = TcpFlags::RST | TcpFlags::ACK;
            script.send(&flow, &if rst { seg.flags(flags) } else { seg });
            script.advance(3_000);
            fell_back(&script, id, FallbackReason::OptionsLost);
            script.expect_stream(id, 100, 1_000);
        }
    });
}

/// A `DATA_ACK` that the peer's signals left no room for is asked for.
#[test]
fn t82_a_missing_data_ack_is_asked_for() {
    both(|v| {
        let (mut script, keys, mut flow, id) = confirmed_by_data(v, b"GET");
        let out = script.write(id, 0, 1_000);
        flow.hears(&out);
        // MP_PRIO, B = 0, and nothing else.
        script.send(&flow, &flow.seg().raw(&[30, 3, 0x50]));
        assert_eq!(script.fallback(id), None);
        let out = script.advance(3_000);
        assert!(!out.is_empty() && out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
        assert_eq!((script.info(id).bytes_acked, script.fallback(id)), (1_000, None));
        assert!(script.advance(10_000).is_empty());
    });
}

#[test]
fn options_stripped_from_a_join_reset_it() {
    both(|v| {
        // Data on the join is acknowledged by TCP, and no DATA_ACK ever came on it.
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.set_backup(id, 0, true);
        script.out();
        let out = script.write(id, 0, 1_000);
        assert!(!join.of(&out).is_empty());
        join.hears(&out);
        let out = script.send(&join, &join.seg());
        let rst = join.of(&out)[0];
        rst.assert_reset(reset_reason::MIDDLEBOX_INTERFERENCE, false);
        let out = script.advance(5_000);
        let again: usize = first.of(&out).iter().map(|o| o.payload.len()).sum();
        assert!(again >= 1_000, "{out:?}");
    });
}

/// TCP's window is the stream's then, and the FIN needs room in it like any octet. Some drop one that has none.
#[test]
fn behind_a_fallback_the_fin_waits_for_a_shut_window() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, mut flow, id) = script.unconfirmed_within(1_000, 40_000, CapableFlags::HMAC);
        let out = script.write(id, 0, 1_000);
        assert_eq!(out.iter().map(|o| o.payload.len()).sum::<usize>(), 1_000, "{out:?}");
        flow.hears(&out);
        flow.window = 0;
        script.send(&flow, &flow.seg());
        fell_back(&script, id, FallbackReason::NoDataAck);
        script.stack.shutdown_write(script.now, id);
        let out = script.out();
        assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)), "{out:?}");
        // It is asked about, for as long as the peer answers.
        for _ in 0..20 {
            let out = script.advance(70_000);
            assert!(!out.is_empty(), "nobody asks");
            assert!(out.iter().all(|o| o.payload.is_empty() && !o.is(TcpFlags::FIN)), "{out:?}");
            script.send(&flow, &flow.seg());
        }
        // The window opens.
        flow.window = 1_000;
        let out = script.send(&flow, &flow.seg());
        assert_eq!(out.iter().filter(|o| o.is(TcpFlags::FIN)).count(), 1, "{out:?}");
        flow.hears(&out);
        script.send(&flow, &flow.seg());
        assert!(script.advance(100_000).is_empty());
        assert_eq!(script.stack.error(id), None);
    });
}

#[test]
fn a_fallback_takes_joins_in_progress_with_it() {
    both(|v| {
        let mut script = Script::new(v, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh);
        let (keys, flow, id) = script.connected_with(SUM);
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let syn = out.iter().find(|o| matches!(o.join(), Some(MpJoin::Syn { .. })));
        let syn = syn.expect("a join").clone();
        script.send(&flow, &flow.seg().opt(&MptcpOption::Fail { dsn: keys.stack_dsn(0).0 }));
        fell_back(&script, id, FallbackReason::PeerChecksum);
        let mut join = Flow::new(syn.dst, syn.src);
        join.hears(&[syn]);
        let out = script.answer(&mut join, &[]);
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
    });
}
