//! What every case of a fallback must leave behind: its reason in `ConnectionInfo`, one count, one
//! record in the event log, one debug line; or, where a subflow is reset instead, the reset's reason
//! in the same places.

use crate::harness::*;
use core::cell::RefCell;
use mptcp_core::event_log::{Event, SubflowEnd};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, CapableForm, Version, reset_reason};
use std::sync::Once;

/// The version of these connections; what differs in version 0 is in the files by topic.
pub(crate) const V: Version = Version::V1;
pub(crate) const H: CapableFlags = CapableFlags::HMAC;
pub(crate) const SUM: CapableFlags = H.union(CapableFlags::CHECKSUM);
pub(crate) const INTERFERENCE: u8 = reset_reason::MIDDLEBOX_INTERFERENCE;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines of the thread, which is the test.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Debug
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

/// A script whose debug lines are kept; every connection that its listener accepts has an event log.
pub(crate) fn watched(mut script: Script) -> Script {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Lines).expect("no other logger");
        log::set_max_level(log::LevelFilter::Debug);
    });
    LINES.with_borrow_mut(Vec::clear);
    if let Some(listener) = script.listener {
        assert!(script.stack.log_events(listener, 1_000));
    }
    script
}

/// Our active open with an event log.
pub(crate) fn connect(script: &mut Script) -> (Flow, SocketId, Out) {
    let (flow, id, syn) = script.connect();
    assert!(script.stack.log_events(id, 1_000));
    (flow, id, syn)
}

/// Our active open after the third ACK, with an event log.
pub(crate) fn connected(script: &mut Script, flags: CapableFlags) -> (Keys, Flow, SocketId) {
    let (keys, flow, id) = script.connected_with(flags);
    assert!(script.stack.log_events(id, 1_000));
    (keys, flow, id)
}

pub(crate) fn events(script: &Script, id: SocketId) -> Vec<Event> {
    let log = script.stack.event_log(id).expect("a log");
    log.iter().map(|record| record.event).collect()
}

/// It runs as plain TCP for `reason`, once, and everybody who asks is told why.
pub(crate) fn fell_back(script: &Script, id: SocketId, reason: FallbackReason) {
    let info = script.info(id);
    assert_eq!((info.mptcp, info.fallback), (None, Some(reason)));
    let counters = script.counters();
    assert_eq!(counters.fell_back(reason), 1, "{}", reason.name());
    let all: u64 = FallbackReason::ALL.iter().map(|r| counters.fell_back(*r)).sum();
    assert_eq!(all, 1, "one reason");
    assert_eq!(counters.fallback, u64::from(reason.is_offered()));
    let told = |event: &&Event| matches!(event, Event::FellBack { .. });
    let told: Vec<_> = events(script, id).iter().filter(told).copied().collect();
    assert_eq!(told, [Event::FellBack { reason }]);
    let line = format!(": TCP instead of MPTCP: {}", reason.name());
    assert_eq!(lines(&line), 1, "{line}");
}

/// Debug lines that end like this.
fn lines(end: &str) -> usize {
    LINES.with_borrow(|lines| lines.iter().filter(|line| line.ends_with(end)).count())
}

/// It stays an MPTCP connection.
pub(crate) fn kept(script: &Script, id: SocketId) {
    let info = script.info(id);
    assert_eq!((info.mptcp, info.fallback), (Some(1), None));
    assert_eq!(script.counters().fallback, 0);
}

/// One subflow was reset for `reason`, the connection is kept.
pub(crate) fn reset(script: &Script, id: SocketId, reason: u8) {
    kept(script, id);
    assert_eq!(script.counters().resets(reason), 1);
    let level = script.info(id).data_level.expect("an MPTCP connection");
    assert_eq!(
        (level.subflows_ended, level.last_subflow_end),
        (1, Some(SubflowEnd::Reset(reason)))
    );
    let end = SubflowEnd::Reset(reason);
    let ended = |event: &Event| matches!(event, Event::SubflowClosed { end: e, .. } if *e == end);
    assert_eq!(events(script, id).iter().filter(|event| ended(event)).count(), 1);
    assert_eq!(lines(&format!(": subflow reset: {}", reset_reason::name(reason))), 1);
}

/// The stack refused a join for `reason`, before there was a subflow.
pub(crate) fn refused(script: &Script, reason: u8) {
    assert_eq!(script.counters().resets(reason), 1);
    assert_eq!(lines(&format!(": subflow reset: {}", reset_reason::name(reason))), 1);
}

/// The peer's SYN with `option`, its third ACK with `third`: what the listener accepts then.
pub(crate) fn opened(script: &mut Script, option: &[u8], third: &[u8]) -> (Flow, SocketId) {
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let out = script.send(&flow, &flow.syn().raw(option));
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(1);
    assert!(third.is_empty() || syn_ack.capable().is_some());
    script.send(&flow, &flow.seg().raw(third));
    let id = script.accept().expect("an established connection");
    (flow, id)
}

/// Octets of an `MP_CAPABLE` SYN of version 1 with these flags.
pub(crate) const fn syn_option(flags: u8) -> [u8; 4] {
    [30, 4, 0x01, flags]
}

/// `MP_CAPABLE` with our key in answer to a SYN, as the peer sends it.
pub(crate) fn key_option(flags: CapableFlags) -> mptcp_core::wire::MptcpOption<'static> {
    capable(V, flags, CapableForm::Key(PEER_KEY))
}

/// A second subflow of the peer's, over which our data goes from now on.
pub(crate) fn joined(script: &mut Script, keys: &Keys, id: SocketId) -> Flow {
    let join = script.join(keys, at(P2, 5000), at(A2, PORT));
    assert!(script.stack.set_backup(id, 0, true));
    script.out();
    join
}
