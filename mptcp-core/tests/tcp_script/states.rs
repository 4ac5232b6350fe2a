//! The same segments in every state: RST, SYN, acknowledgements of nothing, old duplicates, text
//! from far ahead (RFC 9293 §3.10.7.2 to §3.10.7.4, RFC 5961 §3 to §5).

use crate::harness::{
    PEER_ISS, Peer, Script, Seg, ack, build, data, fin, rst, rst_ack, syn, syn_ack,
};
use mptcp_core::error::ConnectionError;
use mptcp_core::seq::SeqNum;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::wire::{OptionWriter, TcpFlags, TcpHeader};

/// Every state that a control block can be in once both SYNs are there.
pub(crate) const STATES: [State; 7] = [
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
];

/// A connection in `state`, with `SND.NXT` and `RCV.NXT`.
pub(crate) fn connection_in(state: State) -> (Script, u32, u32) {
    if state == State::SynReceived {
        let mut s = Script::new(|_| {});
        let crossing = s.peer_syn();
        s.connect().expect(syn()).inject(crossing).expect(syn_ack());
        assert_eq!(s.state(), state);
        return (s, 1, 1);
    }
    let mut s = Script::server(|_| {}, Peer::default());
    let (snd, rcv) = match state {
        State::FinWait1 => {
            s.shutdown().expect(fin(1, 1));
            (2, 1)
        }
        State::FinWait2 => {
            s.shutdown().expect(fin(1, 1)).inject(ack(1, 2));
            (2, 1)
        }
        State::CloseWait => {
            s.inject(fin(1, 1)).expect(ack(1, 2));
            (1, 2)
        }
        State::Closing => {
            s.shutdown().expect(fin(1, 1)).inject(fin(1, 1)).expect(ack(2, 2));
            (2, 2)
        }
        State::LastAck => {
            s.inject(fin(1, 1)).expect(ack(1, 2)).shutdown().expect(fin(1, 2));
            (2, 2)
        }
        _ => (1, 1),
    };
    assert_eq!(s.state(), state);
    (s, snd, rcv)
}

/// The first number below those that a RST counts at: where the peer's FIN is in, that is one of them.
pub(crate) fn below_reset(state: State, rcv: u32) -> u32 {
    let ended = matches!(state, State::CloseWait | State::Closing | State::LastAck);
    rcv.wrapping_sub(1 + u32::from(ended))
}

/// macOS sends the FIN of an application that is killed, and a RST with the same number (RFC 5961 §3 would have none of it).
#[test]
fn a_reset_at_the_peers_fin_counts() {
    for state in [State::CloseWait, State::Closing, State::LastAck] {
        let (mut s, _, rcv) = connection_in(state);
        s.inject(rst(rcv - 1)).expect_nothing();
        let error = (state == State::CloseWait).then_some(ConnectionError::Reset);
        assert_eq!((s.state(), s.stack.error(s.id())), (State::Closed, error), "{state:?}");
    }
}

#[test]
fn a_reset_in_any_state_needs_the_exact_number() {
    for state in STATES {
        let (mut s, snd, rcv) = connection_in(state);
        s.inject(rst(rcv + 1))
            .expect(ack(snd, rcv))
            .inject(rst(rcv + 10_000))
            .expect(ack(snd, rcv));
        s.inject(rst(below_reset(state, rcv))).inject(rst(rcv + (1 << 20))).expect_nothing();
        assert_eq!((s.state(), s.dropped(DropReason::RstSequence)), (state, 4), "{state:?}");
        s.inject(rst(rcv)).expect_nothing();
        let error = match state {
            State::SynReceived => Some(ConnectionError::Refused),
            State::Closing | State::LastAck => None,
            _ => Some(ConnectionError::Reset),
        };
        assert_eq!((s.state(), s.stack.error(s.id())), (State::Closed, error), "{state:?}");
        assert_eq!(s.stack.occupancy().time_waits, 0, "{state:?}");
    }
}

#[test]
fn a_syn_in_any_state_is_challenged() {
    for state in STATES {
        let (mut s, snd, rcv) = connection_in(state);
        for seq in [rcv, rcv + 5, rcv + (1 << 20), rcv.wrapping_sub(100_000)] {
            s.inject(Seg { seq, ..syn() }).expect(ack(snd, rcv));
        }
        assert_eq!((s.state(), s.stack.counters().tcp_challenge_ack), (state, 4), "{state:?}");
    }
}

#[test]
fn an_acknowledgement_of_the_unsent_in_any_state_moves_nothing() {
    for state in STATES {
        let (mut s, snd, rcv) = connection_in(state);
        s.inject(data(rcv, snd + 1, 20));
        if state == State::SynReceived {
            s.expect(rst(snd + 1));
        } else {
            s.expect(ack(snd, rcv));
        }
        s.expect_nothing();
        assert_eq!((s.state(), s.dropped(DropReason::AckRange)), (state, 1), "{state:?}");
    }
}

#[test]
fn an_old_duplicate_in_any_state_is_acknowledged() {
    for state in STATES {
        let (mut s, snd, rcv) = connection_in(state);
        s.inject(data(0, snd, 1)).expect(ack(snd, rcv).sack(&[(0, 1)]));
        s.inject(data(rcv.wrapping_sub(500), snd, 20)).take();
        s.inject(data(rcv + (1 << 20), snd, 20)).expect(ack(snd, rcv));
        assert_eq!(s.state(), state, "{state:?}");
        assert_eq!(s.dropped(DropReason::Duplicate), 2, "{state:?}");
        assert_eq!(s.dropped(DropReason::OutOfWindow), 1, "{state:?}");
    }
}

#[test]
fn a_segment_without_ack_in_any_state_is_dropped() {
    for state in STATES {
        let (mut s, _, rcv) = connection_in(state);
        for flags in [TcpFlags::empty(), TcpFlags::FIN, TcpFlags::PSH | TcpFlags::URG] {
            s.inject(data(rcv, 0, 20).flags(flags)).expect_nothing();
        }
        assert_eq!((s.state(), s.dropped(DropReason::NoAck)), (state, 3), "{state:?}");
    }
}

/// RFC 9293 §3.10.7.2: an ACK is answered with a RST, a SYN with a SYN/ACK, and everything else, which
/// no connection of this incarnation can have caused, with nothing.
#[test]
fn a_listener_answers_syns_and_acknowledgements_only() {
    let mut s = Script::new(|_| {});
    s.listen().inject(ack(7, 9)).expect(rst(9)).inject(fin(7, 9).len(3)).expect(rst(9));
    for flags in [TcpFlags::empty(), TcpFlags::FIN, TcpFlags::FIN | TcpFlags::PSH | TcpFlags::URG] {
        s.inject(data(7, 0, 10).flags(flags)).expect_nothing();
    }
    assert_eq!(s.dropped(DropReason::ListenerState), 5);
    s.inject(rst(7)).inject(rst_ack(7, 9)).expect_nothing();
    assert_eq!(s.stack.occupancy().requests, 0);
}

/// RFC 9293 §3.10.7.4, first step, before the acknowledgement is looked at; RFC 7323 §5.3.
#[test]
fn old_duplicates_before_the_third_ack_are_acknowledged() {
    let mut s = Script::new(|_| {});
    s.leg().offer.ts = true;
    let syn = s.peer_syn();
    let clock = s.peer_clock();
    s.listen().inject(syn);
    assert_eq!(s.take().flags, syn_ack().flags);
    // Out of the window, acknowledging what another incarnation sent: neither a RST nor the SYN/ACK again.
    s.inject(data(1 << 20, 500, 20).ts(clock, 0)).expect(ack(1, 1));
    s.inject(ack(0, 1).ts(clock, 0)).expect(ack(1, 1));
    // Older than the SYN.
    s.inject(data(1, 1, 20).ts(clock - 1, 0)).expect(ack(1, 1));
    assert_eq!((s.dropped(DropReason::OutOfWindow), s.dropped(DropReason::Paws)), (2, 1));
    assert_eq!((s.stack.occupancy().requests, s.stack.occupancy().tcbs), (1, 0));
    s.inject(data(1, 1, 20).ts(clock, 0)).expect(ack(1, 21)).accept().read(20);
}

/// RFC 9293 §3.10.7.3: without a SYN nothing is taken, with one the text may be left to its
/// retransmission, and so may the FIN.
#[test]
fn text_on_the_answer_to_our_syn_comes_again() {
    let mut s = Script::new(|_| {});
    s.connect().expect(syn()).inject(data(1, 1, 20)).inject(fin(1, 1)).expect_nothing();
    assert_eq!((s.state(), s.dropped(DropReason::NoAck)), (State::SynSent, 2));
    let answer = s.peer_syn();
    let answer = Seg { ack: 1, ..answer }.flags(syn_ack().flags | TcpFlags::FIN).len(20);
    s.inject(answer).expect(ack(1, 1));
    assert_eq!(s.state(), State::Established);
    s.inject(fin(1, 1).len(20)).expect(ack(1, 22)).read(20);
    assert_eq!(s.state(), State::CloseWait);
}

/// RFC 9293 §3.4: text on a SYN may wait for its retransmission; the SYN/ACK does not cover it.
#[test]
fn text_on_a_syn_comes_again() {
    let mut s = Script::new(|_| {});
    let first = s.listen().peer_syn();
    s.inject(first.len(20)).expect(syn_ack()).inject(ack(1, 1)).expect_nothing().accept();
    s.read_blocks().inject(data(1, 1, 20)).expect(ack(1, 21)).read(20);
}

/// RFC 9293 §3.9.2.3 (MUST-57, MUST-63), RFC 1122 §4.2.3.10
#[test]
fn a_syn_from_or_to_no_host_is_not_answered() {
    let ours = "10.0.0.1:80";
    for (src, dst) in [
        ("0.0.0.0:9", ours),
        ("224.0.0.5:9", ours),
        ("255.255.255.255:9", ours),
        ("127.0.0.1:9", ours),
        ("0.1.2.3:9", ours),
        ("[::1]:9", "[fd00::1]:80"),
        ("10.0.0.2:0", ours),
        (ours, ours),
        ("10.0.0.2:9", "224.0.0.5:80"),
        ("10.0.0.2:9", "255.255.255.255:80"),
        ("10.0.0.2:9", "10.0.0.255:80"),
        ("[ff02::1]:9", "[fd00::1]:80"),
        ("[::]:9", "[fd00::1]:80"),
        ("[fd00::2]:9", "[ff02::1]:80"),
    ] {
        let mut s = Script::new(|_| {});
        s.listen();
        let any = "[::]:80".parse().unwrap();
        s.stack.listen(any, &mptcp_core::stack::Listen::default()).unwrap();
        let (src, dst): (core::net::SocketAddr, core::net::SocketAddr) =
            (src.parse().unwrap(), dst.parse().unwrap());
        let header = TcpHeader {
            src_port: src.port(),
            dst_port: dst.port(),
            seq: SeqNum(PEER_ISS),
            flags: TcpFlags::SYN,
            window: 1000,
            ..TcpHeader::default()
        };
        let packet = build(src.ip(), dst.ip(), &header, &OptionWriter::new(), &[]);
        s.inject_bytes(&packet).expect_nothing();
        assert_eq!(s.dropped(DropReason::NotOurs), 1, "{src} to {dst}");
        assert_eq!(s.stack.occupancy().requests, 0, "{src} to {dst}");
    }
}

/// RFC 9293 §3.9.1.1 (MUST-41, MUST-42): each port has its listener, and none disturbs what is open.
#[test]
fn listeners_do_not_interfere_with_each_other_or_with_connections() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.add_leg("10.0.0.1:81", "10.0.0.2:4000", Peer::default()).listen().peer_opens();
    s.add_leg("10.0.0.1:80", "10.0.0.2:4001", Peer::default());
    let taken = s.stack.listen("10.0.0.1:80".parse().unwrap(), &Default::default());
    assert!(taken.is_err());
    for leg in [0, 1] {
        s.on(leg).inject(data(1, 1, 10)).expect(ack(1, 11)).read(10);
        assert_eq!(s.state(), State::Established);
    }
    let syn = s.on(2).peer_syn();
    s.inject(syn).expect(syn_ack());
}

/// A FIN that turns out to lie inside the text behind it must not hide where the stream really ends.
#[test]
fn a_wrong_fin_does_not_hide_the_right_one() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(fin(51, 1)).expect(ack(1, 1).sack(&[(51, 52)]));
    s.inject(data(1, 1, 100)).take();
    s.inject(fin(101, 1)).take();
    s.read(100);
    assert_eq!((s.read_some(1), s.state()), (Ok(0), State::CloseWait));
}

/// Both sides' numbers pass 2^32 in the middle of a transfer (RFC 9293 §3.4).
#[test]
fn numbers_wrap_in_both_directions() {
    let mut s = Script::new(|_| {});
    s.listen();
    let first = s.peer_syn();
    s.inject(first).expect(syn_ack()).inject(rst(1));
    // The clock of RFC 6528 ticks 250 times a millisecond: until our ISN is just below the wrap.
    let ticks = u64::from(u32::MAX - s.leg().iss.0 - 1_000);
    s.at(ticks / 250);
    s.leg().irs = SeqNum(u32::MAX - 700);
    let again = s.peer_syn();
    s.inject(again).expect(syn_ack());
    assert!(s.leg().iss.0 > u32::MAX - 2_000, "{:?}", s.leg().iss);
    s.inject(ack(1, 1)).accept();
    s.write(4_000).expect(data(1, 1, 1460)).expect(data(1461, 1, 1460)).expect(data(2921, 1, 1080));
    s.inject(data(1001, 4001, 1000)).expect(ack(4001, 1).sack(&[(1001, 2001)]));
    s.inject(data(501, 4001, 500)).expect(ack(4001, 1).sack(&[(501, 2001)]));
    s.inject(data(1, 4001, 500)).expect(ack(4001, 2001)).read(2000);
    s.inject(data(1, 4001, 500)).expect(ack(4001, 2001).sack(&[(1, 501)]));
    s.shutdown().expect(fin(4001, 2001)).inject(fin(2001, 4002)).expect(ack(4002, 2002));
    assert_eq!(s.stack.occupancy().time_waits, 1);
}

/// RFC 9293 §3.10.7.4 in TIME-WAIT: what arrives late is acknowledged, but only the peer's FIN itself
/// starts the time anew: a stranger's could keep the entry for ever.
#[test]
fn only_the_peers_fin_prolongs_time_wait() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2)).at(30_000);
    s.inject(data(1, 2, 1)).expect(ack(2, 2)).inject(data(500, 2, 20)).expect(ack(2, 2));
    s.inject(Seg { ack: 1, ..syn() }.flags(syn_ack().flags)).expect(ack(2, 2));
    s.inject(fin(5_000, 2)).expect(ack(2, 2)).inject(fin(0, 2).len(3)).expect(ack(2, 2));
    assert_eq!(s.stack.occupancy().time_waits, 1);
    s.at(60_001);
    assert_eq!(s.stack.occupancy().time_waits, 0);
}
