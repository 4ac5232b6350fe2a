//! Whether every relay does its work: contents, counters, second subflows. Nothing here is about speed.

use crate::bed::Bed;
use crate::load::{Bulk, Direction, Server, bulk, echo, ping_pong, sessions};
use crate::measure::Lab;
use crate::peer::Peer;
use crate::process::Running;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// A few buffers of any relay.
const OCTETS: usize = 700_000;
/// For what takes a moment on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fails where a relay changed, lost or never carried something.
pub(crate) fn run(lab: &Lab<'_>, peer: Peer, mptcp: bool) -> Result<(), String> {
    let Lab { cpus, scratch, interrupt } = *lab;
    let bed = Bed::create(peer.holder(), peer.frames(), cpus)?;
    let server = Server::start(&bed)?;
    let relay = Running::start(peer, mptcp, Some(&bed), cpus, scratch, interrupt)?;
    let target = peer.target(mptcp);
    let wait = |counter: &AtomicU64| -> Result<(), String> {
        let arrived = || Ok(counter.load(Ordering::Relaxed) > 0);
        let arrived = interrupt.wait_for(PATIENCE, arrived)?;
        if arrived { Ok(()) } else { Err("nothing arrived".to_owned()) }
    };
    bed.client.enter(|| {
        // No two stretches are the same: what comes back in another order is seen.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let octet = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        let sent: Vec<u8> = (0..OCTETS).map(octet).collect();
        if echo(target, &sent)? != sent {
            return Err("what came back is not what was sent".to_owned());
        }
        for direction in [Direction::Down, Direction::Up] {
            let at_server = server.received();
            let load = Bulk { target, direction, streams: 3, at_server, pace: None };
            bulk(&load, Duration::ZERO, interrupt, wait)?;
        }
        sessions(target, 3, Duration::ZERO, interrupt, wait)?;
        if ping_pong(target, Duration::from_millis(50))?.is_empty() {
            return Err("no octet came back".to_owned());
        }
        Ok(())
    })??;
    relay.check()?;
    if peer.is_polling() || peer.is_testpmd() {
        let spent = relay.spent()?;
        if spent.busy_ns == 0 || (peer.is_polling() && spent.polling_ns == 0) {
            return Err(format!("its loop counts no time: {spent:?}"));
        }
    }
    let joined = || Ok(bed.joins()? > 0);
    if mptcp && !interrupt.wait_for(PATIENCE, joined)? {
        return Err("no second subflow was made".to_owned());
    }
    Ok(())
}
