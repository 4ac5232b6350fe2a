//! Addresses of ours come and go while connections last.
//!
//! A million connections cannot all hear of it in one turn: what is known of the address changes at once, and then a
//! change walks through the connections, beside the timers and no faster than those.
//!
//! Invariant: of two changes the earlier one is through before the later one begins.

use super::addresses::endpoints;
use crate::buf::PacketBuf;
use crate::config::LocalAddress;
use crate::event_log::Event;
use crate::mptcp::{Endpoint, Phase, Signal};
use crate::stack::Stack;
use crate::stack::own::OwnAddresses;
use crate::time::Instant;
use crate::wire::{Version, reset_reason};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

/// Ids of addresses are octets, and 0 is the first subflow's.
const MAX_ADDRESSES: u8 = 254;
/// Connections that hear of a change at once.
const AT_ONCE: u32 = 256;

#[derive(Clone, Copy, Debug)]
enum Change {
    /// With the id it had.
    Gone(IpAddr, u8),
    Added(Endpoint),
}

/// A change on its way.
#[derive(Debug)]
struct Walk {
    change: Change,
    /// Position of the connection that hears of it next.
    next: u32,
    /// When it last went on.
    at: Instant,
}

/// What changes about our addresses.
#[derive(Debug, Default)]
pub(in crate::stack) struct AddressChanges {
    /// The addresses to have, and when to see to it.
    wanted: Option<(Instant, Vec<LocalAddress>)>,
    walks: VecDeque<Walk>,
}

impl AddressChanges {
    /// When there is something to do next.
    pub(in crate::stack) fn due(&self) -> Option<Instant> {
        let walk = self.walks.front().map(|walk| walk.at);
        self.wanted.as_ref().map(|(at, _)| *at).into_iter().chain(walk).min()
    }

    /// The connection at this position is yet to hear of an endpoint.
    pub(super) fn will_tell(&self, owner: u32, endpoint: &Endpoint) -> bool {
        self.walks.iter().any(|walk| match walk.change {
            Change::Added(added) => added.id == endpoint.id && owner >= walk.next,
            Change::Gone(..) => false,
        })
    }
}

impl<B: PacketBuf> Stack<B> {
    /// The addresses to have from now on. They are told apart by address and port; changes within
    /// [`crate::config::MptcpConfig::address_batch`] of the first are one change, so that an interface
    /// that goes and comes back at once causes nothing. False when there are more than 254; an unspecified one counts
    /// for nothing. Of many connections some hear of it later, in calls of [`Stack::handle_timeouts`]. What else differs
    /// of an address that stays is so for what begins after that.
    pub fn set_addresses(&mut self, now: Instant, addresses: Vec<LocalAddress>) -> bool {
        if addresses.len() > usize::from(MAX_ADDRESSES) {
            return false;
        }
        let at = self.address_changes.wanted.take().map(|(at, _)| at);
        let at = at.unwrap_or(now + self.config.mptcp.address_batch);
        self.address_changes.wanted = Some((at, addresses));
        true
    }

    /// Begins with a change of our addresses that has waited for others long enough.
    pub(in crate::stack) fn apply_address_change(&mut self, now: Instant) {
        let due = self.address_changes.wanted.take_if(|(at, _)| *at <= now);
        let Some((_, wanted)) = due else { return };
        let has = |all: &[LocalAddress], one: &LocalAddress| {
            all.iter().any(|other| (other.addr, other.port) == (one.addr, one.port))
        };
        let mut present = self.config.addresses.clone();
        present.retain(|local| !local.addr.is_unspecified());
        let gone = present.extract_if(.., |local| !has(&wanted, local));
        let gone: Vec<LocalAddress> = gone.collect();
        for local in gone {
            // What there is of it on other ports goes with it, and comes back.
            present.retain(|other| other.addr != local.addr);
            self.remove_address(now, local.addr);
        }
        let staying = |local: &&mut LocalAddress| !local.addr.is_unspecified();
        for local in self.config.addresses.iter_mut().filter(staying) {
            let place = (local.addr, local.port);
            if let Some(changed) = wanted.iter().find(|other| (other.addr, other.port) == place) {
                *local = *changed;
            }
        }
        let is_new = |local: &LocalAddress| !local.addr.is_unspecified() && !has(&present, local);
        for local in wanted.into_iter().filter(is_new) {
            self.add_address(now, local);
        }
    }

    /// A new address of ours: its id is its place in the configuration, which no other had before
    /// unless all are taken.
    fn add_address(&mut self, now: Instant, local: LocalAddress) {
        if self.config.addresses.len() < usize::from(MAX_ADDRESSES) {
            self.config.addresses.push(local);
        } else if let Some(free) =
            self.config.addresses.iter_mut().find(|old| old.addr.is_unspecified())
        {
            *free = local;
        } else {
            self.stats.limit_refused += 1;
            return;
        }
        self.own = OwnAddresses::new(&self.config.addresses);
        let added = endpoints(&self.config.addresses).find(|e| e.addr == local.addr);
        if let Some(endpoint) = added {
            self.tell_connections(now, Change::Added(endpoint));
        }
    }

    /// Withdraws one of our addresses from every connection: `REMOVE_ADDR` to the peers, and the
    /// subflows that use it are reset (RFC 8684 §3.4.2). Of many connections some hear of it later, in calls of
    /// [`Stack::handle_timeouts`].
    pub fn remove_address(&mut self, now: Instant, addr: IpAddr) {
        self.observer.now = now;
        let Some(id) = self.address_id(addr) else { return };
        // Its place stays taken: the places behind it are the ids peers know our addresses by.
        for local in self.config.addresses.iter_mut().filter(|local| local.addr == addr) {
            local.addr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            local.endpoint = false;
        }
        self.own = OwnAddresses::new(&self.config.addresses);
        self.tell_connections(now, Change::Gone(addr, id));
    }

    fn tell_connections(&mut self, now: Instant, change: Change) {
        let alone = self.address_changes.walks.is_empty();
        self.address_changes.walks.push_back(Walk { change, next: 0, at: now });
        for _ in 0..if alone { AT_ONCE } else { 0 } {
            if !self.walk_on(now) {
                break;
            }
        }
    }

    /// The next connection hears of a change; false when there is none on its way.
    #[inline]
    pub(in crate::stack) fn walk_on(&mut self, now: Instant) -> bool {
        !self.address_changes.walks.is_empty() && self.walk_one(now)
    }

    fn walk_one(&mut self, now: Instant) -> bool {
        let Some(walk) = self.address_changes.walks.front_mut() else { return false };
        walk.at = now;
        let (owner, change) = (walk.next, walk.change);
        walk.next += 1;
        match change {
            Change::Gone(addr, id) => self.tell_gone(now, owner, addr, id),
            Change::Added(endpoint) => self.tell_added(owner, endpoint),
        }
        if owner + 1 >= self.connections.positions() {
            self.address_changes.walks.pop_front();
        }
        !self.address_changes.walks.is_empty()
    }

    /// An endpoint of ours is there, for this connection as well.
    fn tell_added(&mut self, owner: u32, endpoint: Endpoint) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase != Phase::Confirmed {
            return;
        }
        let policy = self.path_manager.as_ref();
        // The address it began on has the id 0 (RFC 8684 §3.2).
        let first = connection.first().local_addr == endpoint.addr;
        let endpoint = if first { Endpoint { id: 0, ..endpoint } } else { endpoint };
        let initial = connection.first().remote();
        connection.paths.add_endpoint(policy, connection.client, endpoint, initial);
        self.touch_connection(owner);
    }

    /// An address of ours is gone, for this connection as well.
    fn tell_gone(&mut self, now: Instant, owner: u32, addr: IpAddr, id: u8) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.phase != Phase::Confirmed {
            return;
        }
        connection.paths.forget_endpoint(addr);
        let id = if connection.first().local_addr == addr { 0 } else { id };
        for idx in self.subflows_of(owner) {
            if self.tcbs.get(idx).is_some_and(|t| t.ends.tuple().local_addr == addr) {
                // It may come back, and there may be no other way to say that it does not.
                self.reset_subflow(now, owner, idx, reset_reason::UNSPECIFIED, true);
            }
        }
        self.observe(owner, Event::AddressRemoved { id });
        if !self.withdraw(owner, id)
            && let Some(connection) = self.connections.get_mut(owner)
        {
            // The interface took the only subflow with it, as a rule, and the RST as well.
            connection.paths.withdraw_later(id);
            self.touch_connection(owner);
        }
    }

    /// Tells the peer that the address of ours with this id is gone; false when no subflow can say so now.
    pub(super) fn withdraw(&mut self, owner: u32, id: u8) -> bool {
        let Some(best) = self.signal_subflow(owner, 0) else { return false };
        let subflow = self.tcbs.get(best).and_then(|tcb| tcb.subflow.as_ref());
        if subflow.is_none_or(|subflow| subflow.is_full()) {
            return false;
        }
        // Nobody confirms it. Version 0 asks for every subflow in return (RFC 6824 §3.4.1).
        let all = self.connections.get(owner).is_some_and(|c| c.version == Version::V0);
        let on = if all { self.subflows_of(owner) } else { [best].into_iter().collect() };
        for idx in on {
            // By the time that a join could say so the address may be back, and joined again.
            let tcb = self.tcbs.get(idx);
            if tcb.and_then(|tcb| tcb.subflow.as_ref()).is_some_and(|subflow| !subflow.is_joining())
            {
                self.signal_on(idx, Signal::RemoveAddr(id));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
