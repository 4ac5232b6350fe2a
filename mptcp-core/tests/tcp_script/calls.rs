//! The application's calls in every state (RFC 9293 §3.10.1 to §3.10.6), and the figures of §3.5 on
//! duplicates and half-open connections.

use crate::harness::{Peer, Script, Seg, ack, data, fin, rst, rst_ack, syn, syn_ack};
use crate::states::{STATES, connection_in};
use mptcp_core::buf::{HeapBuf, HeapPool, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::error::{ConnectionError, SendError};
use mptcp_core::seq::SeqNum;
use mptcp_core::stack::{Connect, Occupancy, SocketId, Stack};
use mptcp_core::tcp::State;
use mptcp_core::time::Instant;

#[test]
fn what_is_written_before_the_answer_goes_out_with_it() {
    let mut s = Script::new(|_| {});
    s.connect().expect(syn()).write(100).expect_nothing();
    s.at(10).peer_answers().expect(data(1, 1, 100)).expect_nothing();
}

/// A connection that opens, with packet memory of its own.
pub(crate) fn opening(mtu: u16, pool: HeapPool, now: Instant) -> (Stack<HeapBuf>, SocketId) {
    let addr = [10, 0, 0, 1].into();
    let port = PortId::ROUTED;
    let local = LocalAddress { addr, port, mtu, endpoint: false, backup: false };
    let config = StackConfig { addresses: vec![local], ..StackConfig::default() };
    let mut stack = Stack::<HeapBuf>::new(config, now, Box::new(pool));
    let with = Connect {
        local: addr,
        local_port: 0,
        remote: "10.0.0.2:80".parse().unwrap(),
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let id = stack.connect(now, &with).unwrap();
    (stack, id)
}

/// A pool whose buffers hold one packet of the link, as pools do, and less than one of Ethernet.
#[test]
fn what_is_written_goes_into_buffers_of_any_mtu() {
    let now = Instant::from_millis(1);
    for mtu in [576, 1280, 1400, 1459, 1500, 9000] {
        let (mut stack, id) = opening(mtu, HeapPool::new(100, usize::from(mtu)), now);
        assert_eq!(stack.send(now, id, &[7; 10_000]), Ok(10_000), "{mtu}");
    }
}

#[test]
fn the_end_of_the_stream_waits_for_the_handshake() {
    let mut s = Script::new(|_| {});
    let crossing = s.peer_syn();
    s.connect().expect(syn()).inject(crossing).expect(syn_ack()).write(10).shutdown();
    s.expect_nothing();
    assert_eq!(s.state(), State::SynReceived);
    s.inject(ack(1, 1)).expect(fin(1, 1).len(10));
    assert_eq!(s.state(), State::FinWait1);
}

#[test]
fn nothing_is_written_behind_the_end() {
    for state in STATES {
        let (mut s, ..) = connection_in(state);
        let ended =
            matches!(state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck);
        let (id, now) = (s.id(), s.now);
        let sent = s.stack.send(now, id, &[0; 10]);
        assert_eq!(sent, if ended { Err(SendError::Shutdown) } else { Ok(10) }, "{state:?}");
        // The second end of a stream is none.
        if ended {
            s.shutdown().expect_nothing();
            assert_eq!(s.state(), state);
        }
    }
}

/// §3.10.5: a RST at SND.NXT. Where both FINs are out it would not be needed, but what the peer did not
/// acknowledge yet may be lost, and this tells it.
#[test]
fn an_abort_in_any_state_sends_a_reset() {
    for state in STATES {
        let (mut s, snd, rcv) = connection_in(state);
        s.abort().expect(rst_ack(snd, rcv)).expect_nothing();
        let occupancy = s.stack.occupancy();
        assert_eq!(
            (occupancy.tcbs, occupancy.timers, occupancy.time_waits),
            (0, 0, 0),
            "{state:?}"
        );
    }
    let mut s = Script::new(|_| {});
    s.connect().expect(syn()).abort().expect_nothing();
    assert_eq!(s.stack.occupancy(), Occupancy::default());
}

#[test]
fn a_simultaneous_open_is_given_up_like_any_other() {
    let mut s = Script::new(|config| config.tcp.syn_retries = 2);
    let crossing = s.peer_syn();
    s.connect().expect(syn()).inject(crossing).expect(syn_ack());
    s.until(1_000).expect(syn_ack()).until(3_000).expect(syn_ack()).skip_to(10_000);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
    assert_eq!(s.stack.counters().attempt_fails, 1);
    let id = s.id();
    s.stack.release(id);
    assert_eq!(s.stack.occupancy(), Occupancy::default());
}

/// Figure 8: an old SYN is taken for a new one until the peer says otherwise, and then the new one is.
#[test]
fn an_old_syn_gives_way_to_the_new_one() {
    for new_one_first in [false, true] {
        let mut s = Script::new(|_| {});
        s.listen().inject(Seg { seq: 90, ..syn() });
        assert_eq!(s.take().ack, 91);
        if new_one_first {
            // Its answer acknowledges the old SYN, which makes the peer reset it.
            s.inject(Seg { seq: 100, ..syn() }).expect(ack(1, 91));
        }
        s.inject(rst(91)).expect_nothing();
        assert_eq!(s.stack.occupancy().requests, 0);
        s.inject(Seg { seq: 100, ..syn() });
        let answer = s.take();
        assert_eq!((answer.flags, answer.ack), (syn_ack().flags, 101));
    }
}

/// Figures 10 and 11: the peer has forgotten the connection, and finds out by opening a new one or by
/// what we send.
#[test]
fn a_peer_that_lost_its_memory_is_found_out() {
    let mut s = Script::server(|_| {}, Peer::default());
    s.inject(Seg { seq: 5_000, ..syn() }).expect(ack(1, 1)).inject(rst(1)).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Reset));
    s.leg().irs = SeqNum(crate::harness::PEER_ISS).add(5_000);
    let again = s.peer_syn();
    s.inject(again).expect(syn_ack()).inject(ack(1, 1)).accept();
    assert_eq!(s.state(), State::Established);

    let mut s = Script::server(|_| {}, Peer::default());
    s.write(10).expect(data(1, 1, 10)).inject(rst(1)).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Reset));
}
