//! Addresses told, withdrawn and joined, and the priority of subflows (RFC 8684 §3.3.8, §3.4).

use crate::buf::{PacketBuf, PortId};
use crate::event_log::Event;
use crate::mptcp::key::{self};
use crate::mptcp::{Announced, Connection, Endpoint, Join, Phase, Probe, Signal, Stage, Subflow};
use crate::stack::demux::Flow;
use crate::stack::{Stack, env};
use crate::tcp::{Tcb, Tuple, mss_for};
use crate::time::{Duration, Instant};
use crate::wire::{AddAddr, Version, reset_reason};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// Probes of a subflow that may be dead, each of which may get lost.
const PROBES: u8 = 3;

/// Timeouts in a row after which a subflow's place is free for a new one.
const DEAD_TIMEOUTS: u8 = 2;

/// Announcements that find no room are put off by this.
const SIGNAL_WAIT: Duration = Duration::from_secs(1);

/// How long the answer to the `sent + 1`st probe may take.
fn probe_wait(rto: Duration, sent: u8) -> Duration {
    (rto * 2).max(Duration::from_millis(500)) * (1 << u32::from(sent))
}

impl<B: PacketBuf> Stack<B> {
    pub(super) fn read_add_addr(&mut self, now: Instant, owner: u32, idx: u32, add_addr: &AddAddr) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if add_addr.echo {
            self.stats.echo_add += 1;
            self.observe(owner, Event::AddressEchoed { id: add_addr.address_id });
            let Some(connection) = self.connections.get_mut(owner) else { return };
            connection.paths.on_echo(add_addr.address_id, add_addr.addr);
            return self.touch_connection(owner);
        }
        let AddAddr { address_id: id, addr, port, .. } = *add_addr;
        let expected = key::add_addr_hmac(
            connection.version,
            connection.keys.remote,
            connection.keys.local,
            id,
            addr,
            port,
        );
        if connection.version == Version::V1 && add_addr.hmac != Some(expected) {
            self.stats.add_addr_drop += 1;
            let remote = SocketAddr::new(addr, port.unwrap_or(0));
            self.observe(owner, Event::AddressReceived { id, remote, accepted: false });
            return;
        }
        self.stats.add_addr += 1;
        self.stats.port_add += u64::from(port.is_some());
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        // Without a port it is the one this subflow uses (RFC 8684 §3.4.1).
        let remote = SocketAddr::new(addr, port.unwrap_or(tcb.ends.tuple().remote_port));
        if connection.version == Version::V1
            && let Some(subflow) = &mut tcb.subflow
        {
            if subflow.stage == Stage::CapableAck {
                // Only who has both keys can say this: they need not be told again.
                subflow.stage = Stage::Active;
            }
            let echo = AddAddr { echo: true, hmac: None, ..*add_addr };
            if !subflow.signal(Signal::AddAddr(echo)) {
                self.stats.mp_signal_drop += 1;
                self.stats.echo_add_tx_drop += 1;
            }
        }
        // Only an initiator opens subflows: a gateway must not be made to connect anywhere.
        let ours = self.config.addresses.iter().any(|local| local.addr == addr);
        // The C flag is about address and port, however often they are announced (§3.1).
        let denied = connection.paths.deny_initial && remote == connection.first().remote();
        let mut accepted = true;
        let per_pair = self.path_manager.subflows_per_pair();
        if connection.client && per_pair > 0 && !ours {
            let (first, initial) = (connection.first().local_addr, connection.first().remote_addr);
            // The address the connection began on has the id 0, whatever its place (§3.2).
            let endpoints = endpoints(&self.config.addresses)
                .map(|e| if e.addr == first { Endpoint { id: 0, ..e } } else { e });
            let limits = (per_pair, self.config.mptcp.max_remote_addresses);
            if denied
                || connection.paths.on_add_addr(now, (id, remote), initial, endpoints, limits)
                    == Announced::Refused
            {
                self.stats.add_addr_drop += 1;
                accepted = false;
            }
        }
        self.observe(owner, Event::AddressReceived { id, remote, accepted });
        self.touch_connection(owner);
    }

    /// The peer withdraws addresses: subflows to them are probed and, if silent, closed
    /// (RFC 8684 §3.4.2).
    pub(super) fn read_remove_addr(&mut self, now: Instant, owner: u32, ids: &[u8]) {
        for &id in ids {
            self.stats.rm_addr += 1;
            self.observe(owner, Event::AddressWithdrawn { id });
            let Some(connection) = self.connections.get_mut(owner) else { return };
            connection.paths.on_remove_addr(id);
            for idx in self.subflows_of(owner) {
                let extension = self.tcbs.get(idx).and_then(|t| t.subflow.as_ref());
                if extension.is_some_and(|s| s.remote_id == id) {
                    self.probe_subflow(now, owner, idx);
                }
            }
            self.touch_connection(owner);
        }
    }

    pub(super) fn read_prio(&mut self, owner: u32, idx: u32, backup: bool, address_id: Option<u8>) {
        for other in self.subflows_of(owner) {
            let Some(subflow) = self.tcbs.get_mut(other).and_then(|t| t.subflow.as_mut()) else {
                continue;
            };
            let named = match address_id {
                Some(id) => subflow.remote_id == id,
                None => other == idx,
            };
            if named {
                subflow.backup = backup;
                let subflow = subflow.id;
                self.observe(owner, Event::Priority { subflow, backup, peer: true });
            }
        }
        self.touch_connection(owner);
    }

    /// Asks a subflow for a sign of life, unless that is going on already.
    pub(in crate::stack) fn probe_subflow(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let due = now + probe_wait(tcb.rtt.rto(), 0);
        let Some(subflow) = &mut tcb.subflow else { return };
        if subflow.rare.probe.is_some() {
            return;
        }
        subflow.rare.probe = Some(Probe { since: now, due, sent: 1 });
        tcb.probe_now();
        self.touch_tcb(idx);
        if let Some(connection) = self.connections.get_mut(owner) {
            let at = connection.rare.probe_at.map_or(due, |at| at.min(due));
            connection.rare.probe_at = Some(at);
        }
        self.touch_connection(owner);
    }

    /// Subflows that were asked for a sign of life: asked again, or closed when they stay silent.
    pub(super) fn close_silent_subflows(&mut self, now: Instant, owner: u32) {
        let mut next: Option<Instant> = None;
        for idx in self.subflows_of(owner) {
            let Some(tcb) = self.tcbs.get_mut(idx) else { continue };
            let (received, rto) = (tcb.last_received(), tcb.rtt.rto());
            let Some(subflow) = &mut tcb.subflow else { continue };
            let Some(rare) = subflow.rare.there() else { continue };
            let Some(probe) = &mut rare.probe else { continue };
            if received > probe.since {
                rare.probe = None;
                continue;
            }
            if probe.due <= now {
                if probe.sent >= PROBES {
                    self.stats.rm_subflow += 1;
                    self.reset_subflow(now, owner, idx, reset_reason::UNSPECIFIED, false);
                    continue;
                }
                probe.due = now + probe_wait(rto, probe.sent);
                probe.sent += 1;
                next = Some(next.map_or(probe.due, |at| at.min(probe.due)));
                tcb.probe_now();
                self.touch_tcb(idx);
            } else {
                next = Some(next.map_or(probe.due, |at| at.min(probe.due)));
            }
        }
        if let Some(connection) = self.connections.get_mut(owner)
            && let Some(rare) = connection.rare.there()
        {
            rare.probe_at = next;
        }
    }

    /// Joins and announcements that are due; called when the connection is visited for sending.
    pub(in crate::stack) fn manage_paths(&mut self, now: Instant, owner: u32) {
        let timeout = self.config.mptcp.add_addr_timeout;
        let max_subflows = usize::from(self.config.mptcp.max_subflows);
        while let Some(connection) = self.connections.get_mut(owner)
            && connection.phase == Phase::Confirmed
            && connection.paths.join_due(now)
            && (connection.subflows.len() < max_subflows || self.clear_place(now, owner))
        {
            let Some(connection) = self.connections.get_mut(owner) else { return };
            let Some(join) = connection.paths.next_join(now) else { break };
            if !self.open_join(now, owner, &join)
                && let Some(connection) = self.connections.get_mut(owner)
            {
                connection.paths.on_lost(now, join.local, join.remote, false);
            }
        }
        // Before what is announced, which may have the id of what went.
        while let Some(connection) = self.connections.get(owner)
            && connection.phase == Phase::Confirmed
            && let Some(id) = connection.paths.next_withdrawal()
        {
            // Told behind the join that shows it a withdrawal would end that.
            let told = self.is_used_again(owner, id) || self.withdraw(owner, id);
            let Some(connection) = self.connections.get_mut(owner) else { return };
            connection.paths.withdrawal_tried((!told).then(|| now + SIGNAL_WAIT));
            if !told {
                break;
            }
        }
        while let Some(connection) = self.connections.get(owner)
            && connection.phase == Phase::Confirmed
        {
            // In version 0 nobody echoes what arrived, and nothing is said twice.
            let once = connection.version == Version::V0;
            let put_off = (once && self.signals_are_full(owner)).then(|| now + SIGNAL_WAIT);
            let Some(connection) = self.connections.get_mut(owner) else { return };
            if once {
                connection.paths.put_off_announcements(put_off);
            }
            let Some((endpoint, before)) = connection.paths.next_announcement(now, timeout) else {
                break;
            };
            if !once && self.signal_subflow(owner, 0).is_none() {
                let Some(connection) = self.connections.get_mut(owner) else { return };
                connection.paths.announce_later(before, now + SIGNAL_WAIT);
                break;
            }
            self.announce(owner, endpoint, usize::from(before));
        }
    }

    /// The first address is back, as an endpoint or not, or somebody has joined an address that has the id by now.
    fn is_used_again(&self, owner: u32, id: u8) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let back = id == 0 && self.local_address(connection.first().local_addr).is_some();
        let mut subflows = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        back || subflows.any(|tcb| tcb.subflow.as_ref().is_some_and(|s| s.local_id == id))
    }

    /// A subflow has no room for another signal, or there is none.
    fn signals_are_full(&self, owner: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let mut subflows = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        let full = subflows.any(|tcb| tcb.subflow.as_ref().is_some_and(|s| s.is_full()));
        full || connection.subflows.is_empty()
    }

    /// A subflow that repeats itself into the void gives its place to a new one; false when there
    /// is none.
    fn clear_place(&mut self, now: Instant, owner: u32) -> bool {
        let Some(idx) = self.dead_subflow(owner, |_| false) else { return false };
        self.reset_subflow(now, owner, idx, reset_reason::UNACCEPTABLE_PERFORMANCE, false);
        true
    }

    /// The subflow that was silent for longest among those that time out again and again, or that
    /// `moved` says have been replaced.
    pub(in crate::stack) fn dead_subflow(
        &self,
        owner: u32,
        moved: impl Fn(&Tcb<B>) -> bool,
    ) -> Option<u32> {
        let subflows = self.connections.get(owner)?.subflows.iter();
        let tcbs = subflows.filter_map(|&idx| Some((idx, self.tcbs.get(idx)?)));
        let dead = tcbs.filter(|(_, tcb)| is_dead(tcb) || moved(tcb));
        dead.min_by_key(|(_, tcb)| tcb.last_received()).map(|(idx, _)| idx)
    }

    /// The subflow a signal goes out on: the best one, another one when it has to be repeated. One
    /// that times out is no help as long as there are others.
    pub(super) fn signal_subflow(&self, owner: u32, before: usize) -> Option<u32> {
        let subflows = self.connections.get(owner)?.subflows.iter();
        let usable = subflows.filter_map(|&idx| {
            let tcb = self.tcbs.get(idx)?;
            let subflow = tcb.subflow.as_ref().filter(|s| s.stage == Stage::Active)?;
            let alive = tcb.state.sending() && !tcb.write_closed();
            let doubtful = tcb.rto_count() > 0 || subflow.stale;
            let srtt = tcb.rtt.srtt().unwrap_or(Duration::MAX);
            alive.then_some((doubtful, srtt, idx))
        });
        let mut usable: Vec<_> = usable.collect();
        usable.sort_unstable();
        let good = usable.iter().filter(|(doubtful, ..)| !doubtful).count();
        let among = if good > 0 { good } else { usable.len() };
        usable.get(before.checked_rem(among)?).map(|(.., idx)| *idx)
    }

    /// Queues a signal; false when there is no room for it.
    pub(super) fn signal_on(&mut self, idx: u32, signal: Signal) -> bool {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let Some(subflow) = &mut tcb.subflow else { return false };
        if !subflow.signal(signal) {
            self.stats.mp_signal_drop += 1;
            self.stats.add_addr_tx_drop += u64::from(matches!(signal, Signal::AddAddr(_)));
            self.stats.rm_addr_tx_drop += u64::from(matches!(signal, Signal::RemoveAddr(_)));
            return false;
        }
        self.touch_tcb(idx);
        true
    }

    pub(super) fn announce(&mut self, owner: u32, endpoint: Endpoint, before: usize) {
        self.observe(owner, Event::AddressAnnounced { id: endpoint.id, addr: endpoint.addr });
        let first = self.connections.get(owner).map(|connection| connection.first());
        let foreign = first.is_some_and(|first| self.is_foreign(&first));
        let join_port = self.config.mptcp.join_port.filter(|_| foreign);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if before == 0 {
            connection.announced = connection.announced.saturating_add(1);
        }
        // Of an IPv6 address it would not fit beside timestamps.
        let port = join_port.filter(|_| endpoint.addr.is_ipv4());
        let hmac = key::add_addr_hmac(
            connection.version,
            connection.keys.local,
            connection.keys.remote,
            endpoint.id,
            endpoint.addr,
            port,
        );
        let add_addr = AddAddr {
            address_id: endpoint.id,
            addr: endpoint.addr,
            port,
            echo: false,
            hmac: (connection.version == Version::V1).then_some(hmac),
        };
        if connection.version == Version::V0 {
            // Nobody echoes: once on every subflow has to do (RFC 6824 §3.4.1).
            for idx in self.subflows_of(owner) {
                self.signal_on(idx, Signal::AddAddr(add_addr));
            }
            if let Some(connection) = self.connections.get_mut(owner) {
                connection.paths.on_echo(endpoint.id, endpoint.addr);
            }
        } else if let Some(idx) = self.signal_subflow(owner, before) {
            self.signal_on(idx, Signal::AddAddr(add_addr));
        }
    }

    /// Opens one more subflow of ours; false when nothing went out.
    pub(super) fn open_join(&mut self, now: Instant, owner: u32, join: &Join) -> bool {
        let Some(port) = self.free_port(now, join.local, join.remote) else {
            self.stats.mp_join_syn_tx_err += 1;
            return false;
        };
        let tuple = Tuple {
            local_addr: join.local,
            remote_addr: join.remote.ip(),
            local_port: port,
            remote_port: join.remote.port(),
        };
        let nonce = self.rng.next_u32();
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let id = connection.new_subflow_id(&self.tcbs);
        let token = connection.remote_token;
        let mut subflow = Subflow::joining(owner, id, connection.version, token, nonce);
        subflow.local_id = join.local_id;
        subflow.remote_id = join.remote_id;
        subflow.local_backup = join.backup;
        let Some(idx) = self.open_tcb(now, tuple, Some(subflow)) else {
            self.stats.mp_join_syn_tx_err += 1;
            return false;
        };
        self.stats.mp_join_syn_tx += 1;
        let (subflow, backup) = (self.subflow_id(idx), join.backup);
        let (local, remote) = (tuple.local(), tuple.remote());
        self.observe(owner, Event::SubflowOpened { subflow, local, remote, backup });
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.subflows.push(idx);
        }
        self.touch_tcb(idx);
        true
    }

    /// A control block in SYN-SENT; `None` when the limit is reached.
    pub(in crate::stack) fn open_tcb(
        &mut self,
        now: Instant,
        tuple: Tuple,
        subflow: Option<Subflow>,
    ) -> Option<u32> {
        let drawn = self.isn.isn(now, tuple.local(), tuple.remote());
        let iss = match self.displace_time_wait(&tuple) {
            // RFC 1122 §4.2.2.13: above everything the connection before it has sent.
            Some(above) if drawn.le(above) => above.add(1 << 16),
            _ => drawn,
        };
        let local = self.local_address(tuple.local_addr)?;
        let local_mss = mss_for(local.mtu, &tuple.remote_addr);
        // Subflows leave by the port their address lives on; other connections are routed.
        let port = if subflow.is_some() && local.endpoint { local.port } else { PortId::ROUTED };
        let ts_offset = self.isn.timestamp_offset(tuple.local(), tuple.remote());
        let env = env!(self, now);
        let mut tcb = Tcb::connect(&env, tuple, port, iss, ts_offset, local_mss);
        let owner = subflow.as_ref().and_then(|s| self.connections.get(s.connection));
        if let Some(owner) = owner {
            tcb.marking = owner.marking;
        }
        if let Some(choice) = owner.and_then(Connection::congestion) {
            tcb.set_congestion(now, choice);
        }
        tcb.subflow = subflow.map(Box::new);
        let plain = tcb.subflow.is_none();
        let Some(idx) = self.tcbs.insert(tcb) else {
            self.stats.limit_refused += 1;
            return None;
        };
        // Counted once it is in the table: `remove_tcb` is what takes it off again.
        self.plain_count += u32::from(plain);
        self.file_flow(&tuple, Flow::Tcb(idx));
        Some(idx)
    }
}

/// Nobody answers on it any more.
pub(in crate::stack) fn is_dead<B: PacketBuf>(tcb: &Tcb<B>) -> bool {
    tcb.state.synchronized() && tcb.rto_count() >= DEAD_TIMEOUTS
}

/// Our endpoints with the ids peers know them by.
pub(super) fn endpoints(
    addresses: &[crate::config::LocalAddress],
) -> impl Iterator<Item = Endpoint> + '_ {
    addresses.iter().zip(1_u8..).filter(|(local, _)| local.endpoint).map(|(local, id)| Endpoint {
        id,
        addr: local.addr,
        backup: local.backup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HeapBuf, HeapPool};
    use crate::config::{LocalAddress, StackConfig};
    use crate::error::OpenError;
    use crate::stack::Listen;
    use core::net::IpAddr;

    #[test]
    fn an_address_keeps_its_id_when_another_is_removed() {
        let addr = |host| IpAddr::from([192, 0, 2, host]);
        let local = |host| LocalAddress {
            addr: addr(host),
            port: PortId(0),
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let addresses = (1..=3).map(local).collect();
        let config = StackConfig { addresses, ..StackConfig::default() };
        let now = Instant::from_nanos(1);
        let mut stack = Stack::<HeapBuf>::new(config, now, Box::new(HeapPool::new(1, 1500)));
        stack.remove_address(now, addr(2));
        let ids = [1, 2, 3].map(|host| stack.address_id(addr(host)));
        assert_eq!(ids, [Some(1), None, Some(3)]);
        assert!(endpoints(&stack.config.addresses).all(|e| e.addr != addr(2)));
        // Its place is no address.
        let nobody = IpAddr::from([0; 4]);
        assert_eq!(stack.address_id(nobody), None);
        let unspecified = LocalAddress { addr: nobody, ..local(1) };
        assert!(stack.set_addresses(now, alloc::vec![local(1), local(3), unspecified]));
        stack.apply_address_change(now + stack.config.mptcp.address_batch);
        assert_eq!(stack.config.addresses.len(), 3);
        let listen = stack.listen(SocketAddr::new(addr(2), 80), &Listen::default());
        assert_eq!(listen, Err(OpenError::BadAddress));
    }

    #[test]
    fn an_address_that_stays_has_its_new_mtu() {
        let addr = IpAddr::from([192, 0, 2, 1]);
        let local =
            |mtu, backup| LocalAddress { addr, port: PortId(0), mtu, endpoint: true, backup };
        let addresses = alloc::vec![local(1500, false)];
        let config = StackConfig { addresses, ..StackConfig::default() };
        let now = Instant::from_nanos(1);
        let mut stack = Stack::<HeapBuf>::new(config, now, Box::new(HeapPool::new(1, 1500)));
        assert!(stack.set_addresses(now, alloc::vec![local(1400, true)]));
        stack.apply_address_change(now + stack.config.mptcp.address_batch);
        assert_eq!(stack.config.addresses, [local(1400, true)]);
        assert_eq!(stack.mtu_of(addr), 1400);
    }

    /// Addresses are told apart by their ports, too.
    #[test]
    fn an_address_on_two_ports_outlives_one_of_them() {
        let addr = IpAddr::from([192, 0, 2, 1]);
        let on = |port| LocalAddress {
            addr,
            port: PortId(port),
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let config = StackConfig { addresses: alloc::vec![on(0), on(1)], ..StackConfig::default() };
        let now = Instant::from_nanos(1);
        let mut stack = Stack::<HeapBuf>::new(config, now, Box::new(HeapPool::new(1, 1500)));
        assert!(stack.set_addresses(now, alloc::vec![on(1)]));
        let later = now + stack.config.mptcp.address_batch;
        let _ = stack.handle_timeouts(later, 16);
        assert_eq!(stack.local_address(addr), Some(&on(1)));
    }
}
