//! When a connection is probed, doubted and given up: keep-alive, R1 and R2, soft errors
//! (RFC 9293 §3.8.3, §3.8.4, §3.9.2.2).

use crate::calls::opening;
use crate::harness::{Peer, Script, ack, data, syn};
use crate::icmp::{icmp, icmp_of};
use mptcp_core::buf::{BufPool, HeapPool};
use mptcp_core::error::{ConnectionError, SendError};
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::State;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::TcpFlags;

const NO_SACK: Peer =
    Peer { mss: Some(1460), wscale: Some(7), sack: false, ts: false, window: 65_535 };

/// MUST-26: retransmissions tell more than a probe could, and R2 decides.
#[test]
fn no_keep_alive_while_data_is_outstanding() {
    let mut s =
        Script::client(|config| config.tcp.keep_alive = Some(Duration::from_secs(5)), NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100));
    let mut sent = Vec::new();
    while s.ms() < 60_000 {
        let next = s.stack.poll_timeout().expect("a timer runs");
        let ms = (next.as_millis() - 10_000).max(s.ms() + 1);
        s.skip_collecting(ms, &mut sent);
    }
    assert!(sent.len() > 5 && sent.iter().all(|seg| seg.len == 100), "{sent:?}");
    assert_eq!(s.stack.counters().tcp_keep_alive, 0);
    // Acknowledged: idle from now on.
    let ms = s.ms();
    s.inject(ack(1, 101)).until(ms + 5_000).expect(ack(100, 1));
    // Neither while a shut window holds something back: that has probes of its own.
    s.inject(ack(1, 101).window(0)).write(10);
    let ms = s.ms();
    s.skip_to(ms + 50_000);
    assert_eq!(s.stack.counters().tcp_keep_alive, 1);
    assert!(s.stack.counters().tcp_win_probe > 0);
}

/// SHLD-11: R2 is at least 100 seconds; here it is a count that takes a quarter of an hour.
#[test]
fn a_silent_peer_is_given_up_after_minutes_and_not_before() {
    let mut s = Script::client(|_| {}, NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100)).skip_to(600_000);
    assert_eq!(s.stack.error(s.id()), None);
    s.skip_to(1_200_000);
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::TimedOut));
}

#[test]
fn an_unanswered_connect_sends_no_reset() {
    let mut s = Script::new(|config| config.tcp.syn_retries = 1);
    s.connect().expect(syn()).until(1_000).expect(syn()).at(10_000).expect_nothing();
    assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
    assert_eq!(s.stack.counters().out_rsts, 0);
}

#[test]
fn giving_up_tells_the_peer() {
    let mut s = Script::client(|config| config.tcp.retries = 1, NO_SACK, 100);
    s.write(100).expect(data(1, 1, 100)).until(400).expect(data(1, 1, 100)).until(1_000);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
}

/// MUST-21: the application decides for one connection.
#[test]
fn the_application_decides_when_a_connection_is_given_up() {
    let mut s = Script::client(|_| {}, NO_SACK, 100);
    let id = s.id();
    assert!(s.stack.set_retry_limit(id, 2));
    s.write(100).expect(data(1, 1, 100));
    s.until(400).expect(data(1, 1, 100)).until(1_000).expect(data(1, 1, 100)).until(2_200);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    assert_eq!(s.stack.error(id), Some(ConnectionError::TimedOut));
    // Window probes count the same.
    let mut s = Script::client(|_| {}, NO_SACK, 100);
    let id = s.id();
    assert!(s.stack.set_retry_limit(id, 1));
    s.inject(ack(1, 1).window(0)).write(500).until(400).expect(ack(0, 1)).until(1_000);
    assert_eq!(s.take().flags, TcpFlags::RST | TcpFlags::ACK);
    s.stack.release(id);
    assert!(!s.stack.set_retry_limit(id, 1));
}

/// SHLD-9, SHLD-10: after the third retransmission (R1) the application can know.
#[test]
fn three_retransmissions_cast_doubt_until_something_is_acknowledged() {
    let mut s = Script::client(|_| {}, NO_SACK, 100);
    let id = s.id();
    s.write(100).expect(data(1, 1, 100));
    for ms in [400, 1_000, 2_200] {
        assert_eq!(s.stack.soft_error(id), None);
        s.until(ms).expect(data(1, 1, 100));
    }
    assert_eq!(s.stack.soft_error(id), Some(ConnectionError::TimedOut));
    s.inject(ack(1, 101));
    assert_eq!(s.stack.soft_error(id), None);
}

/// MUST-56, MUST-47, SHLD-25: an ICMP error ends no connection, but it can be asked for, and names the
/// reason when the connection is given up.
#[test]
fn a_soft_error_is_reported_and_names_the_reason_in_the_end() {
    let mut s = Script::client(|config| config.tcp.retries = 2, NO_SACK, 100);
    let id = s.id();
    s.write(100).expect(data(1, 1, 100));
    icmp(&mut s, 1, 0, 1);
    assert_eq!(s.stack.soft_error(id), Some(ConnectionError::HostUnreachable));
    s.inject(ack(1, 101));
    assert_eq!(s.stack.soft_error(id), None);
    s.write(100).expect(data(101, 1, 100));
    icmp(&mut s, 0, 0, 101);
    s.skip_to(20_000);
    assert_eq!(s.stack.error(id), Some(ConnectionError::NetworkUnreachable));
}

/// MUST-54 to MUST-56: unreachable of any kind, time exceeded and parameter problems end no connection;
/// a source quench is not even looked at.
#[test]
fn no_icmp_error_ends_an_established_connection() {
    let unreachable = (0..16).map(|code| [3, code]);
    for [kind, code] in unreachable.chain([[11, 0], [11, 1], [12, 0], [12, 1], [4, 0]]) {
        let mut s = Script::client(|_| {}, NO_SACK, 100);
        s.write(100).expect(data(1, 1, 100));
        icmp_of(&mut s, [kind, code], 1_400, 1);
        s.expect_nothing();
        assert_eq!(s.state(), State::Established, "{kind}/{code}");
        if kind == 4 {
            assert_eq!(s.dropped(DropReason::IcmpUnmatched), 1);
            assert_eq!(s.stack.soft_error(s.id()), None);
        }
        s.inject(ack(1, 101)).write(100).expect(data(101, 1, 100));
    }
}

/// Nothing of its own is on its way, so no acknowledgement tells it.
#[test]
fn a_writer_that_found_no_buffer_hears_of_one() {
    let now = Instant::from_millis(1);
    let mut pool = HeapPool::new(2, 1500);
    let (mut stack, id) = opening(1500, pool.clone(), now);
    let held = [pool.alloc(), pool.alloc()];
    assert_eq!(stack.send(now, id, b"hello"), Err(SendError::WouldBlock));
    let due = stack.poll_timeout().expect("it is looked for");
    let _ = stack.handle_timeouts(due, 64);
    assert!(stack.poll_event().is_none());
    drop(held);
    let due = stack.poll_timeout().expect("it is looked for again");
    let _ = stack.handle_timeouts(due, 64);
    assert_eq!(stack.poll_event().map(|event| event.ready), Some(Ready::WRITABLE));
    assert_eq!(stack.send(due, id, b"hello"), Ok(5));
    assert!(stack.poll_timeout().is_none_or(|at| at > due), "nobody waits any more");
}
