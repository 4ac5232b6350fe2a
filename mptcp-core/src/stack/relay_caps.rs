//! Relays whose octets are held to rates that they share with others.
//!
//! What a relay may not move yet stays with the leg that received it, whose window closes: its peer waits.
//! Invariant: a relay that waits has one entry in the list of those that do, under the time when its place
//! in line is due, so looking at it costs one turn for each place and nothing in between.

use super::{Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::cap::{Lease, SharedCap};
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Rates for what a relay moves, each way; each may be shared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayCaps {
    /// To the first of its sockets, the inner one.
    pub to_inner: Vec<SharedCap>,
    /// To the other one.
    pub to_outer: Vec<SharedCap>,
}

/// A relay's places in the lines of its caps.
#[derive(Debug)]
pub(super) struct Meter {
    to_inner: Vec<Lease>,
    to_outer: Vec<Lease>,
    /// The relay is among those that wait, under this time.
    held_until: Option<Instant>,
    /// What it has to wait for, as far as is known since it was looked at last.
    wants: Option<Instant>,
}

impl Meter {
    /// For `caps`; places in the lines of those that `former` has as well are kept.
    fn new(caps: &RelayCaps, former: Option<&Self>) -> Self {
        let leases = |caps: &[SharedCap], former: Option<&Vec<Lease>>| {
            let kept = |cap: &SharedCap| former?.iter().find(|lease| lease.is_of(cap)).cloned();
            caps.iter().map(|cap| kept(cap).unwrap_or_else(|| Lease::new(cap.clone()))).collect()
        };
        Self {
            to_inner: leases(&caps.to_inner, former.map(|meter| &meter.to_inner)),
            to_outer: leases(&caps.to_outer, former.map(|meter| &meter.to_outer)),
            held_until: None,
            wants: None,
        }
    }

    fn leases(&mut self, inward: bool) -> &mut Vec<Lease> {
        if inward { &mut self.to_inner } else { &mut self.to_outer }
    }

    /// So many octets may move now; 0 when they have to wait. The `first` go together; `whole` are all that
    /// wait, or so many that they are a place's worth and the last of them end with a buffer: nothing of a
    /// place is left over then.
    pub(super) fn allowed(
        &mut self,
        now: Instant,
        inward: bool,
        first: u32,
        whole: impl Fn(u64) -> u64,
    ) -> u32 {
        let mut allowed = u64::MAX;
        let mut due = Instant::MIN;
        for lease in self.leases(inward) {
            due = due.max(lease.ask(now, u64::from(first), &whole));
            allowed = allowed.min(lease.left());
        }
        if due > now {
            self.leases(inward).iter_mut().for_each(|lease| lease.keep_until(due));
            self.wants = Some(self.wants.map_or(due, |at| at.min(due)));
            return 0;
        }
        u32::try_from(allowed).unwrap_or(u32::MAX)
    }

    /// So many moved.
    pub(super) fn spend(&mut self, now: Instant, inward: bool, octets: u32) {
        for lease in self.leases(inward) {
            lease.spend(now, u64::from(octets));
        }
    }
}

/// The meters of those relays that have one.
pub(super) type Meters = BTreeMap<u32, Meter>;
/// Relays that wait for their place in line, the first one due first.
pub(super) type Held = BTreeSet<(Instant, u32)>;

impl<B: PacketBuf> Stack<B> {
    /// Holds what the relay of this socket moves to `caps` from now on, and to nothing else. False when it
    /// is in none.
    pub fn set_relay_caps(&mut self, now: Instant, id: SocketId, caps: &RelayCaps) -> bool {
        let sock: Option<Sock> = self.resolve(id);
        let Some(idx) = sock.and_then(|sock| self.app(sock)?.relay()) else { return false };
        let former = self.forget_meter(idx);
        let Some(relay) = self.relays.get_mut(idx) else { return false };
        relay.metered = *caps != RelayCaps::default();
        if relay.metered {
            self.meters.insert(idx, Meter::new(caps, former.as_ref()));
        }
        self.advance_relay(now, idx);
        true
    }

    /// One relay whose place in line has come due goes on; false when there is none.
    pub(super) fn release_held(&mut self, now: Instant) -> bool {
        let Some(&(due, idx)) = self.held.first().filter(|(due, _)| *due <= now) else {
            return false;
        };
        self.held.remove(&(due, idx));
        if let Some(meter) = self.meters.get_mut(&idx) {
            meter.held_until = None;
        }
        self.advance_relay(now, idx);
        true
    }

    /// After a relay moved what it may: keeps its meter, and notes when to look at it again.
    pub(super) fn hold(&mut self, idx: u32, mut meter: Meter) {
        let wants = meter.wants.take();
        let before = core::mem::replace(&mut meter.held_until, wants);
        self.meters.insert(idx, meter);
        if wants != before {
            before.map(|at| self.held.remove(&(at, idx)));
            self.held.extend(wants.map(|at| (at, idx)));
        }
    }

    /// A relay has no meter any more, and does not wait.
    pub(super) fn forget_meter(&mut self, idx: u32) -> Option<Meter> {
        let meter = self.meters.remove(&idx)?;
        meter.held_until.map(|at| self.held.remove(&(at, idx)));
        Some(meter)
    }
}
