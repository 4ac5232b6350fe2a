//! `MP_FASTCLOSE`: on an ACK that is repeated, and in version 1 on the RSTs of the other subflows
//! (RFC 8684 §3.5, RFC 6824 §3.5).

use crate::harness::*;
use mptcp_core::error::{ConnectionError, RecvError, SendError};
use mptcp_core::stack::Ready;
use mptcp_core::wire::{CapableFlags, MptcpOption, TcpFlags, Version};

const RST: TcpFlags = TcpFlags::RST.union(TcpFlags::ACK);

fn fastclose(key: u64) -> MptcpOption<'static> {
    MptcpOption::Fastclose { key }
}

/// Ours, in a form its version has.
pub(crate) fn is_fastclose(out: &Out) -> bool {
    out.fastclose() == Some(PEER_KEY) && (out.version == Version::V1 || !out.rst())
}

#[test]
fn t98_closing_with_unread_data_is_a_fastclose() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.stack.close(script.now, id);
        script.forget(id);
        let out = script.out();
        for flow in [&flow, &join] {
            let rst = flow.of(&out);
            let [rst] = rst.as_slice() else { panic!("{out:?}") };
            match v {
                Version::V1 => assert_eq!(rst.fastclose(), Some(PEER_KEY), "{rst:?}"),
                Version::V0 => assert!(rst.rst() == rst.fastclose().is_none(), "{rst:?}"),
            }
        }
        // One subflow carries it on an ACK, the other is reset; version 0 has it on an ACK only.
        assert_eq!(out.iter().filter(|o| o.flags == TcpFlags::ACK).count(), 1, "{out:?}");
        let told = out.iter().filter(|o| o.fastclose() == Some(PEER_KEY)).count();
        assert_eq!(told, if v == Version::V0 { 1 } else { 2 }, "{out:?}");
        assert_eq!(script.counters().mp_fastclose_tx, told as u64);
        assert_eq!(script.stack.occupancy().tcbs, 0);
        // Data for a reader that has gone is answered the same way.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        script.stack.close(script.now, id);
        script.forget(id);
        script.out();
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        assert!(out.iter().any(is_fastclose), "{out:?}");
    });
}

/// It goes on an ACK of one subflow until a RST answers: phones of version 1 read none on a RST, either.
#[test]
fn t100_a_fastclose_on_an_ack_is_repeated_and_ends_with_a_rst() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        script.stack.abort(script.now, id);
        script.forget(id);
        let now = script.out();
        assert_eq!((first.of(&now).len(), join.of(&now).len()), (1, 1), "{now:?}");
        let told: Vec<&Out> = now.iter().filter(|o| is_fastclose(o) && !o.rst()).collect();
        let later = script.advance(60_000);
        let [told] = told[..] else { panic!("{now:?}") };
        assert_eq!((told.flags, told.mptcp().len()), (TcpFlags::ACK, 1));
        // On a RST version 0 does not have it.
        let ends = |o: &Out| o.rst() && o.fastclose() == (v == Version::V1).then_some(PEER_KEY);
        assert!(now.iter().any(|o| ends(o) && o.dst != told.dst), "{now:?}");
        let (repeated, rst) = later.split_at(3);
        for again in repeated {
            assert_eq!((again.seq, again.ack, again.flags), (told.seq, told.ack, told.flags));
            assert_eq!((again.dst, again.fastclose()), (told.dst, Some(PEER_KEY)));
        }
        let [rst] = rst else { panic!("{later:?}") };
        assert!(ends(rst) && rst.seq == told.seq, "{rst:?}");
        let times: Vec<u64> = later.iter().map(|o| o.at.as_millis()).collect();
        let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.windows(2).all(|w| w[1] == 2 * w[0]), "{times:?}");
        assert_eq!(script.stack.occupancy().time_waits, 0);
    });
}

#[test]
fn t100_the_rst_that_answers_a_fastclose_ends_its_repetition() {
    both(|v| {
        let mut script = Script::server(v);
        let (_, flow, id) = script.confirmed();
        script.stack.abort(script.now, id);
        script.forget(id);
        assert!(is_fastclose(&script.out()[0]));
        // A stranger's RST far from the next octet ends nothing.
        let far = flow.seg().seq(flow.snd_nxt.wrapping_sub(1 << 24)).flags(RST);
        assert!(script.send(&flow, &far).is_empty());
        assert_eq!(script.stack.occupancy().time_waits, 1);
        assert!(script.send(&flow, &flow.seg().flags(RST)).is_empty());
        assert_eq!(script.stack.occupancy().time_waits, 0);
        assert!(script.advance(60_000).is_empty());
    });
}

/// A peer that reset everything, unheard, and opens the next connection from the same port is challenged: its RST
/// makes room for that.
#[test]
fn t100_a_syn_in_place_of_the_rst_is_challenged() {
    let mut script = Script::server(Version::V0);
    let (_, flow, id) = script.confirmed();
    script.stack.abort(script.now, id);
    script.forget(id);
    assert!(is_fastclose(&script.out()[0]));
    let mut next = Flow::new(flow.peer, flow.local);
    next.isn = flow.snd_nxt.wrapping_add(100_000);
    let syn = next.syn().opt(&offer(Version::V0, CapableFlags::HMAC));
    let out = script.send(&next, &syn);
    let [challenge] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((challenge.flags, challenge.ack), (TcpFlags::ACK, flow.snd_nxt));
    let out = script.send(&next, &next.seg().seq(challenge.ack).acks(0).flags(TcpFlags::RST));
    assert!(out.is_empty(), "{out:?}");
    let out = script.send(&next, &syn);
    assert!(out.len() == 1 && out[0].capable().is_some(), "{out:?}");
    next.hears(&out);
    script.send(&next, &next.seg().seq(next.isn.wrapping_add(1)).flags(TcpFlags::RST));
}

/// As a client: the same in both versions.
#[test]
fn a_client_that_leaves_says_so() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.stack.close(script.now, id);
        script.forget(id);
        let out = script.out();
        assert!(out.len() == 1 && is_fastclose(&out[0]), "{out:?}");
    });
}

#[test]
fn t101_a_fastclose_on_an_ack_ends_everything() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        // A wrong key, and a wrong sequence number, mean nothing.
        let out = script.send(&join, &join.seg().opt(&fastclose(keys.stack ^ 1)));
        assert!(out.is_empty(), "{out:?}");
        let seg = join.seg().seq(join.snd_nxt.wrapping_add(1 << 20)).opt(&fastclose(keys.stack));
        let out = script.send(&join, &seg);
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 2);
        let out = script.send(&join, &join.seg().opt(&fastclose(keys.stack)));
        for flow in [&first, &join] {
            assert!(flow.of(&out).len() == 1 && flow.of(&out)[0].rst(), "{out:?}");
        }
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert_eq!(script.read(id), Err(RecvError::Failed(ConnectionError::Reset)));
        let sent = script.stack.send(script.now, id, b"x");
        assert_eq!(sent, Err(SendError::Failed(ConnectionError::Reset)));
        assert_eq!(script.counters().mp_fastclose_rx, 1);
    });
}

#[test]
fn t103_a_fastclose_on_a_rst_ends_everything() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, first, id) = script.confirmed();
        let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
        let out = script.send(&join, &join.seg().flags(RST).opt(&fastclose(keys.stack)));
        assert!(join.of(&out).is_empty(), "no RST answers a RST: {out:?}");
        assert!(first.of(&out).len() == 1 && first.of(&out)[0].rst(), "{out:?}");
        assert!(script.ready(id).contains(Ready::CLOSED));
        assert_eq!(script.stack.error(id), Some(ConnectionError::Reset));
    });
}

#[test]
fn t106_crossing_fastcloses_end_without_a_loop() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.stack.abort(script.now, id);
        script.forget(id);
        let out = script.out();
        assert_eq!(out[0].fastclose(), Some(PEER_KEY));
        // The peer's own was on its way: on an ACK it is answered with a RST, on a RST with nothing.
        let out = script.send(&flow, &flow.seg().opt(&fastclose(keys.stack)));
        assert!(out.len() == 1 && out[0].rst() && out[0].mptcp().is_empty(), "{out:?}");
        let out = script.send(&flow, &flow.seg().flags(RST).opt(&fastclose(keys.stack)));
        assert!(out.is_empty(), "{out:?}");
    });
}

#[test]
fn a_connection_that_failed_has_no_timers() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        script.write(id, 0, 1_000);
        // More waits for its turn when the end comes.
        assert_eq!(script.stack.send(script.now, id, &[0; 10]), Ok(10));
        script.inject(&flow, &flow.seg().opt(&MptcpOption::Fastclose { key: keys.stack }));
        script.out();
        assert_eq!(script.stack.error(id), Some(ConnectionError::Reset));
        assert!(script.advance(10_000).is_empty());
        assert_eq!(script.stack.poll_timeout(), None, "nobody released it yet");
    });
}

#[test]
fn thousands_of_aborts_at_once_are_all_told() {
    both(|v| {
        const COUNT: u16 = 3_000;
        let mut script = Script::server_with(v, |c| {
            c.limits.tcbs = 4_000;
            c.limits.connections = 4_000;
        });
        let mut ids = Vec::new();
        for port in 0..COUNT {
            let (flow, answer) = script.half_open(10_000 + port, CapableFlags::HMAC);
            let keys = Keys::of(v, &answer, false);
            script.send(&flow, &flow.seg().opt(&keys.third()));
            ids.push(script.accept().expect("established"));
        }
        for id in ids {
            script.stack.abort(script.now, id);
            script.forget(id);
        }
        let out = script.out();
        let told = out.iter().filter(|o| is_fastclose(o)).count();
        assert_eq!((told, script.stack.occupancy().tcbs), (usize::from(COUNT), 0));
        assert!(script.stack.transmit_idle());
    });
}
