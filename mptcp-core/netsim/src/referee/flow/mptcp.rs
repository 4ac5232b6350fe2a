//! What segments say on the data level: keys, mappings, DATA_ACK and DATA_FIN (RFC 8684 §3.3).

use super::super::data::Key;
use super::super::options::{Seen, widen};
use super::super::violation::Rule;
use super::{Context, Flow, Role};
use crate::packet::mptcp::Capable;

impl Flow {
    pub(super) fn sent_mptcp(
        &mut self,
        start: u64,
        payload: &[u8],
        seen: &Seen<'_>,
        window: u64,
        context: &mut Context<'_>,
    ) {
        if let (Role::Initial(_), Some(capable)) = (self.role, seen.capable) {
            self.confirm_as_initiator(&capable, context);
        }
        if self.role == Role::Initial(None) && !payload.is_empty() {
            self.fall_back();
        }
        let Some(id) = self.role.connection() else { return };
        let handshake_edge = match self.role {
            Role::Initial(_) => self.edge.saturating_sub(self.syn_data),
            _ => 0,
        };
        let Some(data) = context.connections.get(id) else {
            self.role = Role::Unjudged;
            return;
        };
        let faults = &mut *context.faults;
        let infinite = seen.dss.and_then(|dss| dss.mapping).is_some_and(|map| map.len == 0);
        data.fallen |= infinite || seen.fail;
        if data.fallen {
            return;
        }
        if let Some(ack) = seen.dss.and_then(|dss| dss.data_ack) {
            data.send_ack(ack, window, faults);
            context.data_acks += 1;
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
            match self.maps.add(ssn + self.syn_data, at, len) {
                Ok(pieces) => fresh = pieces,
                Err(held) => faults.add(
                    Rule::MappingKept,
                    format!("subflow {ssn} is mapped to data {at}; before: {held:?}"),
                ),
            }
        }
        let end = start + payload.len() as u64;
        for piece in self.maps.within(start, end) {
            let from = usize::try_from(piece.start - start).unwrap_or(usize::MAX);
            let to = usize::try_from(piece.end - start).unwrap_or(usize::MAX);
            let bytes = payload.get(from..to).unwrap_or_default();
            data.send(piece.data, bytes, handshake_edge, faults);
            context.data_bytes += bytes.len() as u64;
        }
        // A mapping may come after its data.
        for piece in fresh.iter().filter(|piece| piece.start < start || piece.end > end) {
            for (at, bytes) in self.stream.pieces(piece.start, piece.end) {
                data.send(piece.data + (at - piece.start), &bytes, handshake_edge, faults);
            }
        }
        if !payload.is_empty() && !self.mapped {
            self.fall_back();
        }
    }

    /// The host sent data that no mapping ever covered: it goes on as TCP.
    fn fall_back(&mut self) {
        let initial = matches!(self.role, Role::Initial(_));
        self.role = if initial { Role::Plain } else { Role::Unjudged };
        self.last_edge = None;
    }

    fn confirm_as_initiator(&mut self, capable: &Capable, context: &mut Context<'_>) {
        let (Some(sender), Some(receiver)) = (capable.sender_key, capable.receiver_key) else {
            return;
        };
        let known = self.local_key.is_none_or(|key| key == sender);
        let answered = self.remote_key.is_none_or(|key| key == receiver);
        context.faults.require(known && answered, Rule::KeyMatches, || {
            format!("MP_CAPABLE has keys {sender:016x} and {receiver:016x}, not those agreed on")
        });
        if self.role == Role::Initial(None) {
            self.local_key = Some(sender);
            let id = self.open_connection(sender, context);
            context.connections.set_remote(context.node, id, &Key::new(receiver));
            self.role = Role::Initial(Some(id));
        }
    }

    pub(super) fn delivered_mptcp(
        &mut self,
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
            context.connections.set_remote(context.node, id, &Key::new(key));
        }
        let Some(data) = context.connections.get(id) else { return };
        if let Some(len) = seen.capable.and_then(|capable| capable.data_len) {
            data.receive_mapping(1 + u64::from(len), false);
        }
        data.fallen |= seen.fail;
        let Some(dss) = seen.dss else { return };
        if let Some(map) = dss.mapping {
            data.fallen |= map.len == 0;
            if let Some(at) = data.remote_position(map.dsn) {
                data.receive_mapping(at + u64::from(map.len), dss.data_fin);
            }
        }
        if let Some(ack) = dss.data_ack {
            data.receive_ack(ack, window);
        }
    }
}
