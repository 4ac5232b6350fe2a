//! Ports of connections of ours: drawn from the configured range, and taken over from TIME-WAIT where no other
//! is left (RFC 6056; RFC 6191; RFC 1122 §4.2.2.13).

use crate::harness::{Peer, Script, ack, fin};
use mptcp_core::config::EphemeralPorts;
use mptcp_core::error::OpenError;
use mptcp_core::stack::Connect;

/// A connection of ours from port 5000 whose active close is complete, `TIME-WAIT` since 10 ms.
fn time_wait(ts: bool) -> Script {
    let mut s = Script::client(|_| {}, Peer { ts, ..Peer::default() }, 10);
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    assert_eq!((s.stack.occupancy().tcbs, s.stack.occupancy().time_waits), (0, 1));
    s
}

fn again(s: &mut Script, local_port: u16) -> Result<(), OpenError> {
    let with = Connect {
        local: s.leg().local.ip(),
        local_port,
        remote: s.leg().peer,
        mptcp: false,
        timeout: None,
        user_data: 0,
    };
    let id = s.stack.connect(s.now, &with)?;
    s.leg().id = Some(id);
    Ok(())
}

#[test]
fn a_second_later_a_new_connection_may_take_the_place_of_one_in_time_wait() {
    let mut s = time_wait(true);
    let old_end = s.leg().iss.add(2);
    assert_eq!(again(&mut s, 5000), Err(OpenError::AddressInUse));
    s.at(1_009);
    assert_eq!(again(&mut s, 5000), Err(OpenError::AddressInUse));
    s.at(1_010);
    assert_eq!(again(&mut s, 5000), Ok(()));
    s.flush();
    s.take();
    assert!(s.leg().iss.gt(old_end), "above everything the old one has sent");
    assert_eq!((s.stack.occupancy().time_waits, s.stack.counters().time_wait_reused), (0, 1));
}

#[test]
fn without_timestamps_time_wait_lasts() {
    let mut s = time_wait(false);
    s.at(59_000);
    assert_eq!(again(&mut s, 5000), Err(OpenError::AddressInUse));
    s.at(60_011);
    assert_eq!(again(&mut s, 5000), Ok(()));
}

#[test]
fn a_port_is_drawn_from_the_range_and_from_time_wait_last() {
    let range = EphemeralPorts { first: 5000, last: 5002 };
    let peer = Peer { ts: true, ..Peer::default() };
    let mut s = Script::client(|config| config.ephemeral_ports = range, peer, 10);
    s.close().expect(fin(1, 1)).inject(fin(1, 2)).expect(ack(2, 2));
    s.at(2_000);
    let mut ports = Vec::new();
    for _ in 0..3 {
        assert_eq!(again(&mut s, 0), Ok(()));
        let info = s.stack.info(s.id());
        ports.push(info.map(|info| info.local.port()));
    }
    ports[..2].sort();
    assert_eq!(ports, [Some(5001), Some(5002), Some(5000)], "the one in TIME-WAIT comes last");
    assert_eq!(again(&mut s, 0), Err(OpenError::PortsExhausted));
    let counters = s.stack.counters();
    assert_eq!((counters.time_wait_reused, counters.ports_exhausted), (1, 1));
}

/// More than there are in Linux's range.
#[test]
fn sixty_thousand_connections_go_to_one_destination() {
    let mut s = Script::new(|config| {
        config.limits.connections = 61_000;
        config.limits.tcbs = 61_000;
        config.ephemeral_ports = EphemeralPorts { first: 1024, last: 65_535 };
    });
    for n in 0..60_000 {
        assert_eq!(again(&mut s, 0), Ok(()), "connection {n}");
    }
}
