//! TTL and DSCP of every packet of a connection (RFC 9293 §3.9.1.10, §3.9.2).

use crate::harness::{Peer, Script, Seg, ack, data, fin, rst, rst_ack, syn, syn_ack};
use mptcp_core::config::{EcnPolicy, Marking};
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{ECN_ECT0, TcpFlags};

const fn marking(hop_limit: u8, dscp: u8) -> Marking {
    Marking::new(hop_limit, dscp).expect("within bounds")
}

const OURS: Marking = marking(17, 46);
const OTHER: Marking = marking(255, 63);
const STRANGERS: Marking = marking(33, 8);

#[test]
fn a_marking_has_bounds() {
    assert_eq!(Marking::new(0, 0), None);
    assert_eq!(Marking::new(1, 64), None);
    assert_eq!((OTHER.hop_limit(), OTHER.dscp()), (255, 63));
    assert_eq!(Marking::default(), marking(64, 0));
}

#[test]
fn a_client_marks_from_its_syn_to_time_wait() {
    let mut s = Script::new(|config| config.tcp.ecn = EcnPolicy::Request);
    s.leg().offer = Peer { ts: false, ..Peer::default() };
    s.leg().local.set_port(5000);
    // Set between the call and the packet, it is on the SYN.
    let with = mptcp_core::stack::Connect {
        local: s.leg().local.ip(),
        local_port: 5000,
        remote: s.leg().peer,
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let id = s.stack.connect(s.now, &with).expect("room");
    s.leg().id = Some(id);
    assert!(s.stack.set_marking(id, OURS));
    let asks = TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR;
    s.flush().expect(syn().flags(asks).marking(OURS));
    let grants = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::ECE;
    let answer = Seg { flags: grants, ack: 1, ..s.peer_syn() };
    s.at(100).inject(answer).expect(ack(1, 1).marking(OURS));
    // The ECN field keeps its two bits.
    s.write(100).expect(data(1, 1, 100).ecn(ECN_ECT0).marking(OURS));
    // It may change at any time.
    assert!(s.stack.set_marking(id, OTHER));
    s.inject(ack(1, 101)).write(100);
    s.expect(data(101, 1, 100).ecn(ECN_ECT0).marking(OTHER));
    s.inject(ack(1, 201)).shutdown().expect(fin(201, 1).marking(OTHER));
    s.inject(ack(1, 202)).inject(fin(1, 202)).expect(ack(202, 2).marking(OTHER));
    s.inject(fin(1, 202)).expect(ack(202, 2).marking(OTHER));
}

#[test]
fn a_listener_marks_what_it_answers_and_accepts() {
    let mut s = Script::new(|config| config.tcp.marking = STRANGERS);
    s.listen();
    let listener = s.listener.expect("it listens");
    assert!(s.stack.set_marking(listener, OURS));
    let opening = s.peer_syn();
    s.inject(opening.clone()).expect(syn_ack().marking(OURS));
    // Repeated, challenged, reset: all in its name.
    s.inject(opening).expect(syn_ack().marking(OURS));
    s.inject(ack(1, 77)).expect(rst(77).marking(OURS));
    s.inject(ack(1, 1)).expect_nothing().accept();
    s.write(10).expect(data(1, 1, 10).marking(OURS));
    s.abort();
    let reset = s.take();
    assert_eq!((reset.flags.contains(TcpFlags::RST), reset.marking), (true, OURS));
    // A port without a listener, and a stale id.
    s.add_leg("10.0.0.1:81", "10.0.0.2:4001", Peer::default());
    let opening = s.peer_syn();
    s.inject(opening).expect(rst_ack(0, 1).marking(STRANGERS));
    assert!(!s.stack.set_marking(SocketId(7), OURS));
}

#[test]
fn cookies_are_marked_like_what_they_stand_for() {
    let mut s = Script::new(|config| config.limits.half_open = 1);
    s.listen();
    let listener = s.listener.expect("it listens");
    assert!(s.stack.set_marking(listener, OURS));
    let opening = s.peer_syn();
    s.inject(opening).expect(syn_ack().marking(OURS));
    s.add_leg("10.0.0.1:80", "10.0.0.2:4001", Peer::default());
    let opening = s.peer_syn();
    s.inject(opening).expect(syn_ack().marking(OURS));
    assert_eq!(s.stack.counters().syncookies_sent, 1);
    s.inject(ack(1, 1)).accept();
    s.write(10).expect(data(1, 1, 10).marking(OURS));
}

#[test]
fn both_families_are_marked() {
    let mut s = Script::new(|_| {});
    s.add_leg("[fd00::1]:80", "[fd00::2]:4000", Peer::default()).listen();
    let listener = s.listener.expect("it listens");
    assert!(s.stack.set_marking(listener, OTHER));
    let opening = s.peer_syn();
    s.inject(opening).expect(syn_ack().marking(OTHER));
}
