//! What segments say on the data level: keys, mappings, DATA_ACK and DATA_FIN (RFC 8684 §3.3).

use super::super::data::DataLevel;
use super::super::options::{Seen, widen};
use super::super::secret::{Key, dss_checksum};
use super::super::violation::{Faults, Rule};
use super::{Context, Flow, MAX_UNCHECKED, Role, Signed};
use crate::packet::mptcp::Capable;
use crate::packet::{TcpSegment, flag};

impl Flow {
    pub(super) fn sent_mptcp(
        &mut self,
        start: u64,
        payload: &[u8],
        seen: &Seen<'_>,
        window: (u64, bool),
        context: &mut Context<'_>,
    ) {
        if let (Role::Initial(_), Some(capable)) = (self.role, seen.capable) {
            self.confirm_as_initiator(&capable, context);
        }
        if self.role == Role::Initial(None) && !payload.is_empty() {
            self.fall_back();
        }
        self.check_join_proof(seen, context);
        self.check_address(seen, context);
        self.check_ids(seen, context);
        self.check_fastclose(seen, context);
        let Some(id) = self.role.connection() else { return };
        let Some(data) = context.connections.get(id) else {
            self.role = Role::Unjudged;
            return;
        };
        if let Role::Initial(_) = self.role {
            data.handshake_edge(self.edge.saturating_sub(self.syn_data));
        }
        let faults = &mut *context.faults;
        let infinite = seen.dss.and_then(|dss| dss.mapping).is_some_and(|map| map.len == 0);
        data.fallen |= infinite || seen.fail;
        if data.fallen {
            return;
        }
        if !payload.is_empty() {
            data.uses(self.address_id, faults);
        }
        if let Some(ack) = seen.dss.and_then(|dss| dss.data_ack) {
            context.data_acks += u64::from(data.send_ack(ack, window, faults));
        }
        let near = start - start.min(self.syn_data);
        let mapping = seen.dss.and_then(|dss| {
            let map = dss.mapping?;
            // A DATA_FIN alone is mapped to no octet of the subflow.
            let alone = dss.data_fin && map.len == 1 && (map.ssn == 0 || payload.is_empty());
            let ssn = if alone { near } else { widen(map.ssn, near)? };
            let len = u64::from(map.len) - u64::from(dss.data_fin);
            Some((ssn, data.local_position(map.dsn)?, len, dss.data_fin))
        });
        let unplaced = mapping.is_none() && seen.dss.is_some_and(|dss| dss.mapping.is_some());
        faults.require(!unplaced, Rule::MappingKept, || {
            format!("{:?} lies before the stream", seen.dss)
        });
        let first = seen.capable.and_then(|capable| Some((1, 1, capable.data_len?.into(), false)));
        let mut fresh = Vec::new();
        if let Some((ssn, at, len, fin)) = mapping.or(first) {
            self.mapped |= len > 0;
            data.map(at, len, fin, faults);
            self.unmapped.remove(ssn + self.syn_data, ssn + self.syn_data + len);
            let sum = seen.dss.and_then(|dss| dss.mapping).map_or_else(
                || seen.capable.and_then(|capable| capable.checksum),
                |map| map.checksum,
            );
            let start = ssn + self.syn_data;
            if let Some(signed) = signed(data, start, at, len, seen, sum, faults) {
                self.unchecked.push_back(signed);
            }
            match self.maps.add(ssn + self.syn_data, at, len) {
                Ok(pieces) => fresh = pieces,
                Err(held) => faults.add(
                    Rule::MappingKept,
                    format!("subflow {ssn} is mapped to data {at}; before: {held:?}"),
                ),
            }
        }
        let end = start + payload.len() as u64;
        // The octet of a keep-alive probe lies below what is acknowledged.
        self.unmapped.insert(start.max(self.acked), end);
        for piece in self.maps.within(start, end) {
            self.unmapped.remove(piece.start, piece.end);
            let from = usize::try_from(piece.start - start).unwrap_or(usize::MAX);
            let to = usize::try_from(piece.end - start).unwrap_or(usize::MAX);
            let bytes = payload.get(from..to).unwrap_or_default();
            data.send(piece.data, bytes, faults);
            context.data_bytes += bytes.len() as u64;
        }
        // A mapping may come after its data.
        for piece in fresh.iter().filter(|piece| piece.start < start || piece.end > end) {
            for (at, bytes) in self.stream.pieces(piece.start, piece.end) {
                data.send(piece.data + (at - piece.start), &bytes, faults);
            }
        }
        self.verify_checksums(start, payload, context);
        if !payload.is_empty() && !self.mapped && matches!(self.role, Role::Initial(_)) {
            return self.fall_back();
        }
        self.check_mapped(context.faults);
    }

    /// What the peer acknowledged had its mapping, unless the peer's data came without one.
    fn check_mapped(&mut self, faults: &mut Faults) {
        let Some(first) = self.unmapped.first().filter(|&first| first < self.acked) else { return };
        let initial = matches!(self.role, Role::Initial(_));
        faults.require(initial && self.peer_unmapped, Rule::DataMapped, || {
            format!("position {first} was acknowledged, and no mapping ever covered it")
        });
        self.fall_back();
    }

    /// Checksums of mappings whose data is complete now.
    fn verify_checksums(&mut self, start: u64, payload: &[u8], context: &mut Context<'_>) {
        let end = start + payload.len() as u64;
        let mut waiting = core::mem::take(&mut self.unchecked);
        waiting.retain(|signed| {
            let until = signed.start + signed.len;
            let right = if signed.len == 0 || (start <= signed.start && until <= end) {
                let from = usize::try_from(signed.start.saturating_sub(start)).unwrap_or(0);
                let len = usize::try_from(signed.len).unwrap_or(0);
                let data = payload.get(from..).and_then(|rest| rest.get(..len));
                signed.checksum_of(data.unwrap_or_default())
            } else if until > self.snd_max.max(end) {
                return true;
            } else {
                // Whole only when nothing of it was acknowledged and forgotten.
                match self.stream.pieces(signed.start, until).as_slice() {
                    [(at, data)] if *at == signed.start && data.len() as u64 == signed.len => {
                        signed.checksum_of(data)
                    }
                    _ => return false,
                }
            };
            context.checksums += 1;
            context.faults.require(right == signed.checksum, Rule::ChecksumRight, || {
                format!("{signed:?} should have checksum {right:#06x}")
            });
            false
        });
        while waiting.len() > MAX_UNCHECKED {
            waiting.pop_front();
        }
        self.unchecked = waiting;
    }

    fn check_join_proof(&self, seen: &Seen<'_>, context: &mut Context<'_>) {
        let Some(proof) = seen.join_proof else { return };
        let nonces = self.own.join.zip(self.join_nonce);
        let (Role::Joined(id), Some(((_, own), peer))) = (self.role, nonces) else { return };
        let Some(keys) = context.connections.get(id).and_then(|data| data.keys()) else { return };
        let right = keys.join(own, peer);
        context.proofs += 1;
        context.faults.require(right.starts_with(&proof), Rule::KeyMatches, || {
            format!("the third ACK's HMAC is {proof:02x?}, not the start of {right:02x?}")
        });
    }

    fn check_address(&self, seen: &Seen<'_>, context: &mut Context<'_>) {
        let Some((address, hmac)) = seen.address.and_then(|a| Some((a, a.hmac?))) else { return };
        let Some(id) = self.role.connection() else { return };
        let Some(keys) = context.connections.get(id).and_then(|data| data.keys()) else { return };
        let right = keys.address(address.id, address.address, address.port);
        context.proofs += 1;
        context.faults.require(hmac == right, Rule::KeyMatches, || {
            format!("{address:x?} should have HMAC {right:016x}")
        });
    }

    fn check_ids(&self, seen: &Seen<'_>, context: &mut Context<'_>) {
        let Some(id) = self.role.connection() else { return };
        let Some(data) = context.connections.get(id) else { return };
        data.withdraw(seen.removed.unwrap_or_default());
        match seen.address {
            Some(address) if address.hmac.is_some() => {
                data.name(address.id, address.address, context.faults);
            }
            Some(echo) => data.echo(&echo, context.faults),
            None => {}
        }
    }

    pub(super) fn check_fastclose(&self, seen: &Seen<'_>, context: &mut Context<'_>) {
        let (Some(key), Some(id)) = (seen.fastclose, self.role.connection()) else { return };
        let Some(keys) = context.connections.get(id).and_then(|data| data.keys()) else { return };
        context.proofs += 1;
        context.faults.require(key == keys.remote, Rule::KeyMatches, || {
            format!("MP_FASTCLOSE has key {key:016x}, the receiver's is {:016x}", keys.remote)
        });
    }

    /// The host sent data that no mapping ever covered: it goes on as TCP.
    fn fall_back(&mut self) {
        let initial = matches!(self.role, Role::Initial(_));
        self.role = if initial { Role::Plain } else { Role::Unjudged };
        self.last_edge = None;
        self.unchecked.clear();
    }

    fn confirm_as_initiator(&mut self, capable: &Capable, context: &mut Context<'_>) {
        let (Some(sender), Some(receiver)) = (capable.sender_key, capable.receiver_key) else {
            return;
        };
        let known = self.local_key.or(self.own.key()).is_none_or(|key| key == sender);
        let answered = self.remote_key.is_none_or(|key| key == receiver);
        context.faults.require(known && answered, Rule::KeyMatches, || {
            format!("MP_CAPABLE has keys {sender:016x} and {receiver:016x}, not those agreed on")
        });
        if self.role == Role::Initial(None) {
            self.local_key = Some(sender);
            let id = self.open_connection(capable.version, sender, context);
            let remote = Key::new(capable.version, receiver);
            context.connections.set_remote(context.node, id, &remote);
            self.agree_on_checksums(capable, id, context);
            self.role = Role::Initial(Some(id));
        }
    }

    pub(super) fn delivered_mptcp(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        window: u64,
        context: &mut Context<'_>,
    ) {
        let Some(id) = self.role.connection() else { return };
        if let Some(capable) = seen.capable
            && capable.receiver_key == self.local_key
            && self.remote_key.is_none()
            && let Some(key) = capable.sender_key
        {
            self.remote_key = Some(key);
            let remote = Key::new(capable.version, key);
            context.connections.set_remote(context.node, id, &remote);
            self.agree_on_checksums(&capable, id, context);
        }
        let Some(data) = context.connections.get(id) else { return };
        if let Some(address) = seen.address.filter(|address| address.hmac.is_some()) {
            data.hear(&address);
        }
        data.fallen |= seen.fail;
        if let Role::Initial(_) = self.role {
            data.handshake_edge(self.edge.saturating_sub(self.syn_data));
        }
        let mut mapping = None;
        if let Some(len) = seen.capable.and_then(|capable| capable.data_len) {
            data.receive_mapping(1 + u64::from(len), false);
            mapping = Some((1, 1, u64::from(len)));
        }
        let start = self.irs.and_then(|irs| widen(segment.seq.wrapping_sub(irs), self.reached));
        let Some(start) = start else { return };
        if let Some(map) = seen.dss.and_then(|dss| dss.mapping) {
            data.fallen |= map.len == 0;
            let fin = seen.dss.is_some_and(|dss| dss.data_fin);
            if let Some(at) = data.remote_position(map.dsn) {
                data.receive_mapping(at + u64::from(map.len), fin);
                let near = start - start.min(self.peer_syn_data);
                let len = u64::from(map.len) - u64::from(fin && map.len > 0);
                mapping = widen(map.ssn, near).map(|ssn| (ssn, at, len)).or(mapping);
            }
        }
        if let Some((ssn, at, len)) = mapping {
            // One that contradicts another is for the host to judge.
            let fresh = self.peer_maps.add(ssn + self.peer_syn_data, at, len);
            for piece in fresh.unwrap_or_default() {
                for (from, until) in self.arrived.within(piece.start, piece.end) {
                    let at = piece.data + (from - piece.start);
                    data.receive(at, at + (until - from));
                }
            }
        }
        let end = start + segment.payload.len() as u64;
        let mut mapped = start;
        for piece in self.peer_maps.within(start, end) {
            data.receive(piece.data, piece.data + (piece.end - piece.start));
            mapped = if piece.start <= mapped { piece.end } else { mapped };
        }
        self.peer_unmapped |= mapped < end && !segment.has(flag::SYN);
        self.peer_maps.forget_below(self.last_ack);
        if let Some(ack) = seen.dss.and_then(|dss| dss.data_ack) {
            data.receive_ack(ack, window);
        }
    }

    /// Checksums are used when either end asks for them (RFC 8684 §3.1).
    pub(super) fn agree_on_checksums(&self, last: &Capable, id: u64, context: &mut Context<'_>) {
        let syns = [self.own.capable, self.peer.capable];
        let asked = syns.iter().flatten().chain([last]).any(Capable::asks_checksum);
        if let Some(data) = context.connections.get(id) {
            data.checksum |= asked;
        }
    }
}

/// The mapping of a segment with what must be verified of it; whether it has a checksum is judged
/// here.
fn signed(
    data: &DataLevel,
    start: u64,
    at: u64,
    len: u64,
    seen: &Seen<'_>,
    checksum: Option<u16>,
    faults: &mut Faults,
) -> Option<Signed> {
    faults.require(checksum.is_some() == data.checksum, Rule::ChecksumRight, || {
        format!("checksums agreed: {}, sent: {checksum:04x?}", data.checksum)
    });
    let map = seen.dss.and_then(|dss| dss.mapping);
    let ssn = map.map_or(1, |map| map.ssn);
    let first_len = seen.capable.and_then(|capable| capable.data_len);
    let wire_len = map.map(|map| map.len).or(first_len)?;
    Some(Signed { start, len, dsn: data.local_dsn(at)?, ssn, wire_len, checksum: checksum? })
}

impl Signed {
    fn checksum_of(&self, data: &[u8]) -> u16 {
        dss_checksum(self.dsn, self.ssn, self.wire_len, data)
    }
}
