//! Which joins are taken: limits, half-open joins, connections that are not there.

use super::*;

#[test]
fn t30_an_unknown_token_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        let flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let syn =
            MpJoin::Syn { backup: false, address_id: 2, token: !keys.stack_token(), nonce: 1 };
        let out = script.send(&flow, &flow.syn().opt(&MptcpOption::Join(syn)));
        assert_unknown(&out);
        assert_eq!(out[0].ack, flow.isn + 1);
        assert_eq!(script.counters().mp_join_no_token_found, 1);
        assert_eq!(script.counters().dropped(DropReason::JoinToken), 1);
        assert_eq!(script.stack.occupancy().requests, 0);
    });
}

/// Where version 1 is not served nobody is told a reason that only version 1 has.
#[test]
fn t30_a_stack_of_version_0_gives_no_reason() {
    let mut script = Script::serving(&[Version::V0], Version::V0, |_| {});
    let flow = Flow::new(at(P2, 5000), at(A1, PORT));
    let syn = MpJoin::Syn { backup: false, address_id: 2, token: 0x1234_5678, nonce: 1 };
    let out = script.send(&flow, &flow.syn().opt(&MptcpOption::Join(syn)));
    assert!(out.len() == 1 && out[0].rst() && out[0].mptcp().is_empty(), "{out:?}");
}

#[test]
fn t31_join_on_any_port() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        // Nobody listens on port 9, nor on our second address.
        for (n, to) in [at(A1, 9), at(A2, PORT), at(A2, 4242)].into_iter().enumerate() {
            let mut flow = script.join(&keys, at(P2, 5000 + n as u16), to);
            let data = stream(n as u64 * 10, 10);
            script.send_data(&keys, &mut flow, n as u64 * 10, 0, &data);
            script.expect_stream(id, n as u64 * 10, 10);
        }
        assert_eq!(script.info(id).subflows.len(), 4);
    });
}

#[test]
fn t38_a_join_before_the_connection_is_confirmed_is_refused_for_now() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.unconfirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        // Who is reset may never ask again.
        let out = script.join_syn(&keys, &mut flow, false);
        assert!(out.is_empty(), "{out:?}");
        assert_eq!(script.counters().mp_join_rejected, 1);
        // Once it is, the same SYN is taken.
        script.send(&first, &first.seg().dss(keys.ack(0)));
        script.join(&keys, at(P2, 5000), at(A1, PORT));
        assert_eq!(script.info(id).subflows.len(), 2);
    });
}

#[test]
fn t39_a_join_after_fallback_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.unconfirmed();
        script.send(&flow, &flow.seg().data(b"no mapping"));
        assert!(script.fallback(id).is_some());
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert_unknown(&out);
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn t40_more_subflows_than_allowed_are_refused() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 3);
        let (keys, _, id) = script.confirmed();
        script.join(&keys, at(P2, 5000), at(A1, PORT));
        let mut pending = Flow::new(at(P2, 5001), at(A1, PORT));
        let syn_ack = script.join_syn(&keys, &mut pending, false);
        // The half-open one counts.
        let mut flow = Flow::new(at(P2, 5002), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert_reset(&out, reset_reason::PROHIBITED, false);
        script.send(&pending, &pending.seg().opt(&Script::join_ack(&keys, &syn_ack[0])));
        assert_eq!(script.info(id).subflows.len(), 3);
    });
}

#[test]
fn t44_tokens_of_a_former_life_are_unknown() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, ..) = script.confirmed();
        drop(script);
        let mut script = Script::server_with(v, |c| c.seed = [8; 32]);
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        assert_unknown(&out);
    });
}

#[test]
fn t45_half_open_joins_are_bounded() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut first, id) = script.confirmed();
        let bound = u64::from(script.stack.config().mptcp.max_half_open_joins);
        let limit = u64::from(script.stack.config().mptcp.max_subflows) - 1;
        for n in 0..100_000_u32 {
            let peer = core::net::IpAddr::from([10, 3, (n >> 8) as u8, n as u8]);
            let mut flow = Flow::new(at(peer, 1024 + (n >> 16) as u16), at(A1, PORT));
            script.join_syn(&keys, &mut flow, false);
        }
        let open = u64::from(script.stack.occupancy().requests);
        assert!(open <= bound.min(limit) && open > 0, "{open} half-open joins");
        assert!(script.counters().mp_join_rejected >= 100_000 - bound);
        assert!(script.counters().stateless_reply_limited > 0, "RSTs are rate limited");
        // The established subflow does not notice.
        script.advance(1);
        script.send_data(&keys, &mut first, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn a_malformed_join_is_an_ordinary_syn() {
    both(|v| {
        let mut script = Script::server(v);
        script.confirmed();
        for (n, len) in [11_u8, 13, 16, 24].into_iter().enumerate() {
            let mut option = vec![30, len, 0x10, 2];
            option.resize(usize::from(len), 7);
            let flow = Flow::new(at(P2, 5000 + n as u16), at(A1, PORT));
            let out = script.send(&flow, &flow.syn().raw(&option));
            assert!(out[0].is(TcpFlags::SYN) && out[0].mptcp().is_empty(), "{out:?}");
        }
    });
}

#[test]
fn a_join_on_a_closed_connection_is_reset() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().flags(TcpFlags::RST | TcpFlags::ACK));
        script.advance(61_000);
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert!(matches!(script.read(id), Err(RecvError::Failed(_))));
        let mut join = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        assert_reset(&out, reset_reason::MPTCP_SPECIFIC, false);
    });
}

#[test]
fn at_the_limit_a_join_takes_the_place_of_a_subflow_that_times_out() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, mut first, id) = script.confirmed();
        let dead = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // Both carry data; nobody answers on the second.
        let out = script.write(id, 0, 25_000);
        first.hears(&out);
        assert!(payload(&first, &out) > 0 && payload(&dead, &out) > 0);
        for _ in 0..8 {
            let seg = first.seg().dss(keys.ack(0));
            let mut out = script.send(&first, &seg);
            first.hears(&out);
            out = script.advance(200);
            first.hears(&out);
        }
        let mut join = Flow::new(at(P2, 5001), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        assert_eq!(script.info(id).subflows.len(), 2, "a SYN proves nothing");
        let out = script.send(&join, &join.seg().opt(&ack));
        let rst = dead.of(&out).into_iter().find(|o| o.rst()).expect("it is told");
        rst.assert_reset(reset_reason::UNACCEPTABLE_PERFORMANCE, false);
        let ports: Vec<u16> = script.info(id).subflows.iter().map(|s| s.remote.port()).collect();
        assert_eq!(ports, [40_000, 5001]);
    });
}

#[test]
fn at_the_limit_an_address_that_moved_gives_its_place_up() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, _, id) = script.confirmed();
        script.join(&keys, at(P2, 5000), at(A2, PORT));
        for host in 3..10 {
            // The same id from ever other addresses: a roaming phone.
            let peer = core::net::IpAddr::from([10, 2, 0, host]);
            script.join(&keys, at(peer, 5000), at(A2, PORT));
            assert_eq!(script.info(id).subflows[1].remote, at(peer, 5000));
            assert_eq!(script.info(id).subflows.len(), 2);
        }
    });
}

#[test]
fn at_the_limit_silent_subflows_must_show_that_they_live() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.mptcp.max_subflows = 2);
        let (keys, first, id) = script.confirmed();
        let dead = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let mut join = Flow::new(at(P2, 5001), at(A2, PORT));
        let syn = |script: &mut Script, join: &mut Flow| {
            join.snd_nxt = join.isn;
            script.join_syn(&keys, join, false)
        };
        assert_reset(&syn(&mut script, &mut join), reset_reason::PROHIBITED, false);
        script.advance(11_000);
        // Not answered; both are asked, and one answers.
        let out = syn(&mut script, &mut join);
        assert!(join.of(&out).is_empty(), "{out:?}");
        assert_eq!((probes(&first, &out), probes(&dead, &out)), (1, 1));
        script.advance(1);
        script.send(&first, &first.seg().dss(keys.ack(0)));
        let out = script.advance(1_000);
        assert_eq!((probes(&first, &out), probes(&dead, &out)), (0, 1));
        let out = syn(&mut script, &mut join);
        assert!(join.of(&out).is_empty(), "{out:?}");
        let out = script.advance(3_000);
        assert!(dead.of(&out).iter().any(|o| o.rst()), "{out:?}");
        // The third copy of the SYN finds room.
        let out = syn(&mut script, &mut join);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        script.send(&join, &join.seg().opt(&ack));
        let ports: Vec<u16> = script.info(id).subflows.iter().map(|s| s.remote.port()).collect();
        assert_eq!(ports, [40_000, 5001]);
    });
}

/// TTL and DSCP of a connection are those of every subflow it has or will have.
#[test]
fn every_subflow_is_marked_as_its_connection() {
    both(|v| {
        let marking = |dscp| Marking::new(20, dscp).expect("within bounds");
        let all = |out: &[Out], dscp| {
            assert!(!out.is_empty() && out.iter().all(|o| o.marking == marking(dscp)), "{out:?}");
        };
        let mut script = Script::server(v);
        let listener = script.listener.expect("it listens");
        assert!(script.stack.set_marking(listener, marking(10)));
        let (flow, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
        all(core::slice::from_ref(&syn_ack), 10);
        let keys = Keys::of(v, &syn_ack, false);
        script.send(&flow, &flow.seg().opt(&keys.third()).window(60_000));
        let id = script.accept().expect("it is established");
        script.send(&flow, &flow.seg().dss(keys.ack(0)));
        assert!(script.stack.set_marking(id, marking(20)));
        // A join by the peer: its SYN/ACK, the fourth ACK, and what it is refused with.
        let mut join = Flow::new(at(P2, 5_000), at(A2, PORT));
        let out = script.join_syn(&keys, &mut join, false);
        all(&out, 20);
        let ack = Script::join_ack(&keys, join.of(&out)[0]);
        all(&script.send(&join, &join.seg().opt(&ack)), 20);
        all(&script.write(id, 0, 4_000), 20);
        // A join of ours.
        let mut script = Script::new(v, fullmesh);
        let (keys, flow, id) = script.connected();
        assert!(script.stack.set_marking(id, marking(30)));
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let syn = out.iter().find(|o| o.is(TcpFlags::SYN)).expect("it joins");
        all(core::slice::from_ref(syn), 30);
        // An abort of both.
        script.stack.abort(script.now, id);
        script.forget(id);
        all(&script.out(), 30);
    });
}
