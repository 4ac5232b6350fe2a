//! Urgent data (RFC 9293 §3.8.5): in its place in the stream, with a pointer behind its end.

use crate::harness::{Peer, Script, ack, data, fin, pattern, syn};
use mptcp_core::stack::Ready;

fn server() -> Script {
    let offer = Peer { sack: false, wscale: None, window: 65_535, ..Peer::default() };
    Script::server(|config| config.tcp.nagle = false, offer)
}

fn told(s: &mut Script) -> bool {
    s.ready().contains(Ready::URGENT)
}

#[test]
fn urgent_data_is_reported_and_stays_in_its_place() {
    let mut s = server();
    let id = s.id();
    s.inject(data(1, 1, 10)).expect(ack(1, 11));
    assert!(!told(&mut s));
    assert_eq!(s.stack.urgent(id), None);
    // It ends four octets into this segment: 14 from the next one to be read.
    s.inject(data(11, 1, 10).urgent(4)).expect(ack(1, 21));
    assert!(told(&mut s));
    assert_eq!(s.stack.urgent(id), Some(14));
    s.read(12);
    assert_eq!(s.stack.urgent(id), Some(2));
    s.read(2);
    assert_eq!(s.stack.urgent(id), None);
    s.read(6);
    assert!(!told(&mut s), "once");
}

#[test]
fn urgent_data_of_any_length_is_announced_before_it_arrives() {
    let mut s = server();
    let id = s.id();
    // An empty segment says that 60,000 octets are to come.
    s.inject(ack(1, 1).urgent(60_000)).expect_nothing();
    assert!(told(&mut s));
    assert_eq!(s.stack.urgent(id), Some(60_000));
    // The same end again, and an earlier one, are no news.
    s.inject(data(1, 1, 1_000).urgent(60_000)).expect(ack(1, 1_001));
    s.inject(data(1_001, 1, 1_000).urgent(500)).expect(ack(1, 2_001));
    assert!(!told(&mut s));
    assert_eq!(s.stack.urgent(id), Some(60_000));
    // A later one is.
    s.inject(data(2_001, 1, 1_000).urgent(65_535)).expect(ack(1, 3_001));
    assert!(told(&mut s));
    s.read(3_000);
    assert_eq!(s.stack.urgent(id), Some(64_535));
}

#[test]
fn an_urgent_pointer_counts_at_a_shut_window() {
    let mut s = Script::server(
        |config| {
            config.tcp.recv_buffer_initial = 4_096;
            config.tcp.recv_buffer_max = 4_096;
        },
        Peer { wscale: None, sack: false, ..Peer::default() },
    );
    let id = s.id();
    let mut at = 1;
    loop {
        s.inject(data(at, 1, 1_024));
        at += 1_024;
        if s.take().window == Some(0) {
            break;
        }
        assert!(at < 100_000, "the window shuts");
    }
    let unread = at - 1;
    s.inject(ack(at, 1).urgent(7));
    assert!(told(&mut s));
    assert_eq!(s.stack.urgent(id), Some(unread + 7));
}

#[test]
fn a_pointer_behind_what_was_read_says_nothing() {
    let mut s = server();
    let id = s.id();
    s.inject(data(1, 1, 10)).expect(ack(1, 11)).read(10);
    s.inject(ack(11, 1).urgent(0)).expect_nothing();
    s.inject(data(1, 1, 10).urgent(5));
    assert!(!told(&mut s));
    assert_eq!(s.stack.urgent(id), None);
}

#[test]
fn what_is_marked_urgent_is_sent_with_the_pointer_until_it_is_acknowledged() {
    let mut s = server();
    let id = s.id();
    s.write(10).expect(data(1, 1, 10));
    // Ten octets, of which nine are not acknowledged.
    assert!(s.stack.mark_urgent(id));
    s.flush().expect_nothing();
    s.write(100).expect(data(11, 1, 100));
    assert!(s.stack.mark_urgent(id), "and 100 more");
    s.write(50).expect(data(111, 1, 50));
    // Sent again it says how much there is.
    s.until(200);
    s.expect(data(1, 1, 10).urgent(110));
    s.expect(data(11, 1, 100).urgent(100));
    s.expect(data(111, 1, 50));
    // Once all of it is acknowledged there is nothing urgent left.
    s.inject(ack(1, 111)).inject(ack(1, 161));
    s.write(10).expect(data(161, 1, 10));
}

#[test]
fn the_pointer_goes_ahead_of_data_that_the_window_holds_back() {
    let mut s = server();
    let id = s.id();
    s.inject(ack(1, 1).window(0));
    s.write(80_000);
    assert!(s.stack.mark_urgent(id));
    s.flush();
    // Nothing fits, but acknowledgements say that it is there: as much as the field can.
    s.inject(data(1, 1, 10).window(0)).expect(ack(1, 11).urgent(65_535));
    s.inject(ack(11, 1).window(1_460));
    let first = s.take();
    assert_eq!((first.len, first.urgent), (1_460, 65_535));
    s.inject(fin(11, 1).window(0));
    assert_eq!(s.take().urgent, 65_535);
}

#[test]
fn text_that_is_marked_before_the_syn_is_out_is_urgent_to_its_end() {
    let mut s = Script::new(|config| config.tcp.nagle = false);
    s.leg().offer = Peer { sack: false, wscale: None, window: 65_535, ..Peer::default() };
    s.leg().local.set_port(5000);
    s.start(None);
    let id = s.id();
    assert_eq!(s.stack.send(s.now, id, &pattern(1, 10)), Ok(10));
    s.leg().written = 10;
    assert!(s.stack.mark_urgent(id));
    // SYNs have no pointer.
    s.flush().expect(syn()).until(1_000).expect(syn());
    s.at(1_100).peer_answers().expect(data(1, 1, 10).urgent(10));
}

#[test]
fn a_fin_is_not_urgent() {
    let mut s = server();
    let id = s.id();
    s.write(10).expect(data(1, 1, 10)).shutdown().expect(fin(11, 1));
    assert!(s.stack.mark_urgent(id));
    s.flush().expect_nothing().until(200);
    let again = s.take();
    assert_eq!((again.seq, again.urgent), (1, 10));
}
