//! The data level of one MPTCP connection as one host sees it (RFC 8684 §3.3). Positions count
//! from the initial data sequence number: 0 is MP_CAPABLE, the first octet is 1.

use super::options::widen;
use super::ranges::Ranges;
use super::secret::{Key, KeyPair};
use super::stream::Stream;
use super::violation::{Faults, Rule};
use crate::network::NodeId;
use crate::packet::mptcp::{AddAddr, WireSeq};
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// Announcements of the peer that a connection remembers.
const MAX_HEARD: usize = 1_024;

/// One connection at one host.
#[derive(Debug, Default)]
pub(super) struct DataLevel {
    local: Option<Key>,
    remote: Option<Key>,
    /// DSS checksums were agreed on.
    pub(super) checksum: bool,
    /// What the host mapped: bytes by data position.
    stream: Stream,
    /// It sent some.
    carries: bool,
    /// End of the highest mapping sent, a DATA_FIN included.
    mapped_end: u64,
    data_fin: Option<u64>,
    /// What the peer said: DATA_ACK and right edge.
    ack_seen: bool,
    acked: u64,
    edge: u64,
    /// What the host said.
    last_ack: u64,
    last_edge: u64,
    /// End of the highest mapping that reached the host, and of the stream if that is known.
    reached: u64,
    remote_end: Option<u64>,
    /// Octets that reached the host with their mapping, MP_CAPABLE and DATA_FIN included.
    arrived: Ranges,
    /// What the host's Address IDs name, and those that it withdrew and did not give out again.
    names: BTreeMap<u8, IpAddr>,
    withdrawn: BTreeSet<u8>,
    /// What the peer announced.
    heard: BTreeSet<(u8, IpAddr, Option<u16>)>,
    /// After an infinite mapping or MP_FAIL the data level is no longer judged.
    pub(super) fallen: bool,
}

impl DataLevel {
    /// Position of a DSN the host sent, near what it sent last.
    pub(super) fn local_position(&self, dsn: WireSeq) -> Option<u64> {
        position(dsn, self.local?.idsn, self.mapped_end)
    }

    /// Position of a DSN that reached the host.
    pub(super) fn remote_position(&self, dsn: WireSeq) -> Option<u64> {
        position(dsn, self.remote?.idsn, self.reached)
    }

    /// DSN of a position of the host's own stream, all 64 bits.
    pub(super) fn local_dsn(&self, at: u64) -> Option<u64> {
        Some(self.local?.idsn.wrapping_add(at))
    }

    /// The host called one of its addresses by this id.
    pub(super) fn name(&mut self, id: u8, address: IpAddr, faults: &mut Faults) {
        let held = *self.names.entry(id).or_insert(address);
        faults.require(held == address, Rule::AddressIdKept, || {
            format!("id {id} is {address}; it was not withdrawn from {held}")
        });
        self.withdrawn.remove(&id);
    }

    /// The host withdrew addresses.
    pub(super) fn withdraw(&mut self, ids: &[u8]) {
        for id in ids {
            self.names.remove(id);
            self.withdrawn.insert(*id);
        }
    }

    /// The host sent data on a subflow of its address with this id.
    pub(super) fn uses(&self, id: u8, faults: &mut Faults) {
        faults.require(!self.withdrawn.contains(&id), Rule::AddressIdKept, || {
            format!("data on a subflow of the address with id {id}, which was withdrawn")
        });
    }

    /// An announcement reached the host.
    pub(super) fn hear(&mut self, address: &AddAddr) {
        if self.heard.len() < MAX_HEARD {
            self.heard.insert((address.id, address.address, address.port));
        }
    }

    /// The host echoed an announcement.
    pub(super) fn echo(&self, address: &AddAddr, faults: &mut Faults) {
        let heard = self.heard.contains(&(address.id, address.address, address.port));
        let known = heard || self.heard.len() == MAX_HEARD;
        faults.require(known, Rule::AddressIdKept, || format!("{address:x?} echoes nothing"));
    }

    /// Both keys, once they are known.
    pub(super) fn keys(&self) -> Option<KeyPair> {
        let (local, remote) = (self.local?, self.remote?);
        Some(KeyPair { version: local.version, local: local.key, remote: remote.key })
    }

    /// The host sent a mapping of `data_len` octets at `at`, and after them a DATA_FIN if `fin`.
    pub(super) fn map(&mut self, at: u64, data_len: u64, fin: bool, faults: &mut Faults) {
        let end = at.saturating_add(data_len);
        if let Some(held) = self.data_fin {
            let kept = end <= held && (!fin || end == held);
            faults.require(kept, Rule::DataFinLast, || {
                let what = if fin { "DATA_FIN" } else { "data end" };
                format!("{what} at data position {end}, DATA_FIN was at {held}")
            });
        } else if fin {
            faults.require(end >= self.mapped_end, Rule::DataFinLast, || {
                format!("DATA_FIN at {end}, data was mapped up to {}", self.mapped_end)
            });
            self.data_fin = Some(end);
        }
        self.mapped_end = self.mapped_end.max(end + u64::from(fin));
    }

    /// The first subflow's right edge, which holds for the connection on all of its subflows until the
    /// first DATA_ACK.
    pub(super) fn handshake_edge(&mut self, edge: u64) {
        if !self.ack_seen {
            self.edge = self.edge.max(edge);
        }
    }

    /// The host sent `bytes` for data position `at`.
    pub(super) fn send(&mut self, at: u64, bytes: &[u8], faults: &mut Faults) {
        if let Some(differs) = self.stream.put(at, bytes) {
            faults.add(
                Rule::SameData,
                format!("data position {differs} was sent before with another value"),
            );
        }
        self.carries |= !bytes.is_empty();
        let edge = self.edge;
        let end = at + bytes.len() as u64;
        let probe = bytes.len() == 1 && at == edge;
        faults.require(end <= edge || probe, Rule::WithinDataWindow, || {
            format!("data up to {end}, the peer's right edge is {edge}")
        });
    }

    /// The host sent a DATA_ACK and a window, which may be the widest that the flow can say: one without a scale cannot
    /// repeat what another one offered. False when it cannot be judged: the peer's key is not known.
    pub(super) fn send_ack(
        &mut self,
        data_ack: WireSeq,
        (window, widest): (u64, bool),
        faults: &mut Faults,
    ) -> bool {
        let Some(remote) = self.remote else { return false };
        let Some(ack) = position(data_ack, remote.idsn, self.last_ack) else {
            faults.add(Rule::DataAckAdvances, format!("{data_ack:?} lies before the stream"));
            return true;
        };
        faults.require(ack >= self.last_ack, Rule::DataAckAdvances, || {
            format!("DATA_ACK went back from position {} to {ack}", self.last_ack)
        });
        let arrived = self.arrived.prefix();
        faults.require(ack <= arrived, Rule::DataAckAdvances, || {
            format!("DATA_ACK {ack}, the first octet that did not arrive is {arrived}")
        });
        let edge = ack + window;
        // Behind the last octet a window means nothing any more.
        let over = self.remote_end.is_some_and(|end| ack >= end);
        faults.require(over || widest || edge >= self.last_edge, Rule::DataWindowKept, || {
            format!("right edge went back from {} to {edge}", self.last_edge)
        });
        self.last_ack = self.last_ack.max(ack);
        self.last_edge = self.last_edge.max(edge);
        true
    }

    /// A mapping of positions up to `end` reached the host; `fin` when DATA_FIN is the last of them.
    pub(super) fn receive_mapping(&mut self, end: u64, fin: bool) {
        self.reached = self.reached.max(end);
        if fin {
            self.remote_end = Some(end);
            self.arrived.insert(end.saturating_sub(1), end);
        }
    }

    /// Octets of positions `start..end` reached the host, and their mapping too.
    pub(super) fn receive(&mut self, start: u64, end: u64) {
        self.arrived.insert(start, end);
    }

    /// A DATA_ACK reached the host. One for data never mapped is none of the peer's doing.
    pub(super) fn receive_ack(&mut self, data_ack: WireSeq, window: u64) {
        let ack = self.local.and_then(|key| position(data_ack, key.idsn, self.acked));
        let Some(ack) = ack.filter(|&ack| ack <= self.mapped_end.max(1)) else { return };
        self.ack_seen = true;
        self.acked = self.acked.max(ack);
        self.edge = self.edge.max(ack + window);
        self.stream.forget_below(self.acked);
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.stream.held() + self.arrived.count() * size_of::<[u64; 4]>()
    }

    /// Gives the memory back; what was sent so far can no longer be compared.
    pub(super) fn forget(&mut self) {
        self.stream.clear();
    }
}

fn position(dsn: WireSeq, idsn: u64, near: u64) -> Option<u64> {
    match dsn {
        WireSeq::Full(dsn) => Some(dsn.wrapping_sub(idsn)).filter(|&at| at < 1 << 62),
        WireSeq::Low(low) => {
            let [.., a, b, c, d] = idsn.to_be_bytes();
            widen(low.wrapping_sub(u32::from_be_bytes([a, b, c, d])), near)
        }
    }
}

/// A connection and the keys it is found by.
#[derive(Debug)]
struct Entry {
    data: DataLevel,
    local: (NodeId, u32),
    remote: Option<(NodeId, u32)>,
}

/// The connections of all hosts, by a number, by the local and by the remote token.
#[derive(Debug, Default)]
pub(super) struct Connections {
    table: BTreeMap<u64, Entry>,
    by_local: BTreeMap<(NodeId, u32), u64>,
    by_remote: BTreeMap<(NodeId, u32), u64>,
    next: u64,
}

impl Connections {
    /// A new connection of `node`; the oldest one goes when there are `limit`. Returns its number
    /// and the bytes the old one held.
    pub(super) fn create(&mut self, node: NodeId, local: &Key, limit: usize) -> (u64, usize) {
        let mut freed = 0;
        while self.table.len() >= limit.max(1)
            && let Some((id, entry)) = self.table.pop_first()
        {
            freed += entry.data.held();
            remove_if(&mut self.by_local, entry.local, id);
            if let Some(remote) = entry.remote {
                remove_if(&mut self.by_remote, remote, id);
            }
        }
        let id = self.next;
        self.next += 1;
        let place = (node, local.token);
        self.by_local.insert(place, id);
        let mut data = DataLevel { local: Some(*local), ..DataLevel::default() };
        data.arrived.insert(0, 1);
        self.table.insert(id, Entry { data, local: place, remote: None });
        (id, freed)
    }

    /// Learns the peer's key.
    pub(super) fn set_remote(&mut self, node: NodeId, id: u64, remote: &Key) {
        if let Some(entry) = self.table.get_mut(&id) {
            entry.data.remote = Some(*remote);
            entry.remote = Some((node, remote.token));
            self.by_remote.insert((node, remote.token), id);
        }
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut DataLevel> {
        self.table.get_mut(&id).map(|entry| &mut entry.data)
    }

    pub(super) fn local(&self, node: NodeId, token: u32) -> Option<u64> {
        self.by_local.get(&(node, token)).copied()
    }

    pub(super) fn remote(&self, node: NodeId, token: u32) -> Option<u64> {
        self.by_remote.get(&(node, token)).copied()
    }

    /// Connections ever created.
    pub(super) const fn created(&self) -> u64 {
        self.next
    }

    /// Those still known whose host sent data.
    pub(super) fn carriers(&self) -> u64 {
        self.table.values().filter(|entry| entry.data.carries).count() as u64
    }

    /// Whether every connection ever created is still known.
    pub(super) fn complete(&self) -> bool {
        self.table.len() as u64 == self.next
    }
}

/// Two peers may choose one token: only the connection that still owns the entry removes it.
fn remove_if(index: &mut BTreeMap<(NodeId, u32), u64>, key: (NodeId, u32), id: u64) {
    if index.get(&key) == Some(&id) {
        index.remove(&key);
    }
}
