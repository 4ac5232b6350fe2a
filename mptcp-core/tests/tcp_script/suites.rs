//! What public packet suites ask of every state at the edges of the window, one number inside and
//! one outside (RFC 9293 §3.10.7, RFC 5961 §3 to §5). `docs/conformance/suites.md` says which suites.

use crate::harness::{Peer, Script, Seg, ack, data, fin, rst, rst_ack, syn, syn_ack};
use crate::states::{STATES, below_reset, connection_in};
use mptcp_core::error::ConnectionError;
use mptcp_core::tcp::State;
use mptcp_core::wire::TcpFlags;

/// The window offered now, told in the answer to an old duplicate.
fn window(s: &mut Script, snd: u32, rcv: u32) -> u32 {
    s.inject(data(rcv.wrapping_sub(1), snd, 1));
    let told = s.take();
    assert_eq!((told.flags, told.seq, told.ack), (TcpFlags::ACK, snd, rcv));
    s.window_of(&told)
}

#[test]
fn resets_at_the_edges_of_the_window() {
    // Before the handshake is over nothing told the script what the windows of SYN-RECEIVED mean.
    for state in STATES.into_iter().filter(|state| *state != State::SynReceived) {
        let (mut s, snd, rcv) = connection_in(state);
        let window = window(&mut s, snd, rcv);
        s.inject(rst(below_reset(state, rcv))).inject(rst(rcv + window)).expect_nothing();
        s.inject(rst(rcv + window - 1)).expect(ack(snd, rcv));
        assert_eq!(s.state(), state);
        s.inject(rst_ack(rcv, snd)).expect_nothing();
        assert_eq!(s.state(), State::Closed, "{state:?}");
    }
}

#[test]
fn syns_at_the_edges_of_the_window() {
    for state in STATES {
        for kind in [syn().flags, syn_ack().flags] {
            let (mut s, snd, rcv) = connection_in(state);
            let window = window(&mut s, snd, rcv);
            // Where SYNs crossed, the SYN/ACK at the left edge is what is waited for.
            let left = if state == State::SynReceived { rcv } else { rcv.wrapping_sub(1) };
            for seq in [left, rcv + window / 2, rcv + window - 1, rcv + window] {
                let seg = Seg { seq, ack: snd, ..syn() }.flags(kind);
                s.inject(seg).expect(ack(snd, rcv));
                assert_eq!(s.state(), state, "{kind:?} at {seq}");
            }
        }
    }
}

#[test]
fn fins_at_the_edges_of_the_window() {
    for state in [State::Established, State::FinWait1, State::FinWait2] {
        let (mut s, snd, rcv) = connection_in(state);
        let window = window(&mut s, snd, rcv);
        s.inject(fin(rcv.wrapping_sub(1), snd)).expect(ack(snd, rcv));
        let last = rcv + window - 1;
        for seq in [last, last + 1] {
            s.inject(fin(seq, snd)).expect(ack(snd, rcv).sack(&[(last, last + 1)]));
        }
        // Without ACK it is nothing (RFC 9293 §3.10.7.4, fifth step).
        s.inject(fin(rcv, 0).flags(TcpFlags::FIN)).expect_nothing();
        s.inject(fin(rcv, snd)).expect(ack(snd, rcv + 1));
        let next = if state == State::Established { State::CloseWait } else { State::Closed };
        assert_eq!(s.state(), next, "{state:?} goes on");
    }
}

/// TIME-WAIT acknowledges everything but what says nothing new, and outlives it all.
#[test]
fn time_wait_at_the_edges_of_the_window() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    for seq in [1, 2 + 30_000, 2 + 65_534, 2 + 65_535] {
        s.inject(ack(seq, 2)).expect(ack(2, 2));
        s.inject(fin(seq, 2)).expect(ack(2, 2));
        s.inject(Seg { seq, ack: 2, ..syn_ack() }).expect(ack(2, 2));
        s.inject(fin(seq, 0).flags(TcpFlags::FIN)).expect_nothing();
        s.inject(rst(seq)).inject(rst_ack(seq, 2)).expect_nothing();
    }
    s.inject(ack(2, 2)).expect_nothing();
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

/// RFC 9293 §3.5.2, the third group, with RFC 5961 §5.2 and RFC 7323 §5.3: what is unacceptable is acknowledged in
/// TIME-WAIT as well, wherever it lies.
#[test]
fn time_wait_answers_acknowledgements_of_the_unsent_and_the_ancient() {
    let mut s = Script::server(|_| {}, Peer { ts: true, ..Peer::default() });
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    let (clock, tsecr) = (s.peer_clock(), s.leg().tsval);
    for wrong in [3, 1 << 31, 2_u32.wrapping_sub((1 << 30) + 1)] {
        s.inject(ack(2, wrong)).expect(ack(2, 2));
    }
    s.inject(ack(2, 2).ts(clock - 1, tsecr)).expect(ack(2, 2));
    // A duplicate says nothing, and needs no answer.
    for old in [2, 1, 2_u32.wrapping_sub(1 << 30)] {
        s.inject(ack(2, old)).expect_nothing();
    }
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

/// SYN-SENT looks at the acknowledgement first, whatever carries it, and nothing of what is wrong
/// changes what is offered the next time.
#[test]
fn wrong_acknowledgements_of_a_syn() {
    let mut s = Script::new(|_| {});
    s.connect();
    let first = s.take();
    for wrong in [0, 2] {
        for len in [0, 3] {
            s.inject(data(0, wrong, len)).expect(rst(wrong));
            s.inject(fin(0, wrong).len(len)).expect(rst(wrong));
            // It has none of the options that were offered.
            s.inject(Seg { ack: wrong, ..syn_ack() }.len(len)).expect(rst(wrong));
        }
        s.inject(rst_ack(0, wrong)).expect_nothing();
    }
    for len in [0, 3] {
        s.inject(data(0, 1, len)).inject(fin(0, 1).len(len)).expect_nothing();
        s.inject(data(0, 0, len).flags(TcpFlags::empty())).expect_nothing();
        s.inject(fin(0, 0).flags(TcpFlags::FIN).len(len)).expect_nothing();
    }
    s.inject(rst(0)).inject(rst(1)).expect_nothing();
    assert_eq!(s.state(), State::SynSent);
    s.until(1_000);
    let again = s.take();
    let offer = |syn: &Seg| (syn.flags, syn.seq, syn.mss, syn.wscale, syn.sack_permitted);
    assert_eq!(offer(&again), offer(&first));
    assert!(again.sack_permitted && again.ts.is_some() && again.wscale.is_some());
    s.inject(rst_ack(0, 1)).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Refused));
}

/// RFC 9293 §3.10.7.1: the answer to what nobody waits for counts SYN, FIN and text.
#[test]
fn a_closed_port_answers_with_the_numbers_of_the_segment() {
    let mut s = Script::new(|_| {});
    for len in [0, 3] {
        s.inject(data(17, 9, len)).expect(rst(9));
        s.inject(fin(17, 9).len(len)).expect(rst(9));
        s.inject(Seg { seq: 17, ack: 9, ..syn_ack() }.len(len)).expect(rst(9));
        for (flags, marks) in [
            (TcpFlags::empty(), 0),
            (TcpFlags::SYN, 1),
            (TcpFlags::FIN, 1),
            (TcpFlags::SYN | TcpFlags::FIN, 2),
        ] {
            let seg = Seg { seq: 17, ..syn() }.flags(flags).len(len);
            s.inject(seg).expect(rst_ack(0, 17 + marks + len as u32));
        }
        s.inject(rst(17)).inject(rst_ack(17, 9)).expect_nothing();
        s.inject(rst(17).flags(TcpFlags::RST | TcpFlags::SYN)).expect_nothing();
    }
}

/// A RST takes a listener's answer back, at the exact number only, and the next SYN is a new one.
#[test]
fn a_half_open_connection_at_the_edges_of_the_window() {
    let mut s = Script::new(|_| {});
    let syn = s.listen().peer_syn();
    s.inject(syn.clone()).expect(syn_ack());
    s.inject(rst(0)).inject(rst(1 + 65_535)).expect_nothing();
    s.inject(rst(65_535)).expect(ack(1, 1));
    assert_eq!(s.stack.occupancy().requests, 1);
    s.inject(rst(1)).expect_nothing();
    assert_eq!(s.stack.occupancy().requests, 0);
    s.inject(syn).expect(syn_ack()).inject(ack(1, 1)).accept();
    s.write(1000).expect(data(1, 1, 1000));
    s.inject(ack(1, 1001)).expect_nothing();
}

/// Closing one after the other: the last acknowledgement leaves nothing, and a stray one meets a RST.
#[test]
fn nothing_is_left_after_the_last_acknowledgement() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(fin(1, 1)).expect(ack(1, 2)).close().expect(fin(1, 2));
    s.inject(ack(2, 2)).expect_nothing();
    s.inject(ack(2, 2)).expect(rst(2));
    // And text for who closed is refused by name (RFC 9293 §3.6.1).
    let mut s = Script::server(|_| {}, Peer::default());
    s.close().expect(fin(1, 1)).inject(data(1, 2, 1000));
    let answer = s.take();
    assert_eq!((answer.flags & TcpFlags::RST, answer.seq), (TcpFlags::RST, 2));
}
