//! Opening: which SYN/ACK may answer which SYN, and what the two agree on (RFC 9293 §3.5,
//! RFC 7323 §2.2 and §3.2, RFC 8684 §3.1 and §3.2).

use super::super::options::Seen;
use super::super::secret::Key;
use super::super::violation::{Faults, Rule};
use super::{Context, Flow, HANDSHAKE_MEMORY_NS, MAX_SYNS, PeerSyn, Role, SynOptions};
use crate::packet::TcpSegment;

impl Flow {
    pub(super) fn sent_syn(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        context: &mut Context<'_>,
    ) {
        let options = SynOptions::of(seen);
        if self.iss != Some(segment.seq) || self.irs.is_some() {
            let unanswered = self.iss.is_some() && self.irs.is_none() && !self.dead;
            let recent = context.now.saturating_sub(self.opened_at) < HANDSHAKE_MEMORY_NS;
            context.faults.require(!(unanswered && recent), Rule::HandshakeRepeated, || {
                format!("the SYN sent before had sequence number {:?}", self.iss)
            });
            self.restart(segment.seq);
            self.own = options;
        }
        if let (Some(held), Some(key)) = (self.own.key(), options.key()) {
            context.faults.require(held == key, Rule::HandshakeRepeated, || {
                format!("MP_CAPABLE has key {key:016x}, before it was {held:016x}")
            });
        }
        self.own.include(&options);
        self.opened_at = context.now;
        self.own_syn_window = segment.window;
        let data_end = 1 + segment.payload.len() as u64;
        self.compare(1, segment.payload, context.faults);
        context.payload_bytes += segment.payload.len() as u64;
        self.snd_max = self.snd_max.max(data_end);
        self.check_timestamps(seen, None, context.faults);
        self.role = match (options.capable, options.join) {
            (Some(capable), _) if capable.version <= 1 => Role::Offered,
            (None, Some((token, _))) => {
                context.connections.remote(context.node, token).map_or(Role::Unjudged, Role::Joined)
            }
            (None, None) => match self.own.capable {
                None => Role::Plain,
                Some(capable) if capable.version <= 1 => Role::Offered,
                Some(_) => Role::Unjudged,
            },
            _ => Role::Unjudged,
        };
        self.name_own(seen, context);
    }

    pub(super) fn sent_syn_ack(
        &mut self,
        segment: &TcpSegment<'_>,
        seen: &Seen<'_>,
        context: &mut Context<'_>,
    ) {
        let answers = |syn: &&PeerSyn| {
            let data = u64::from(segment.ack.wrapping_sub(syn.seq.wrapping_add(1)));
            data <= syn.payload_len
        };
        let Some(syn) = self.syns.iter().rev().find(answers).copied() else {
            context.faults.require(self.syns_forgotten, Rule::SynAckAnswersSyn, || {
                "no SYN with this sequence number had arrived".to_owned()
            });
            return;
        };
        let repeats = self.iss == Some(segment.seq) && self.irs.is_none_or(|irs| irs == syn.seq);
        if !repeats {
            let recent = context.now.saturating_sub(self.opened_at) < HANDSHAKE_MEMORY_NS;
            let open = self.irs == Some(syn.seq) && !self.confirmed && !self.dead;
            context.faults.require(!(open && recent), Rule::HandshakeRepeated, || {
                format!("the SYN/ACK sent before had sequence number {:?}", self.iss)
            });
            self.restart(segment.seq);
        }
        let offered = self.offered(syn.seq);
        self.check_answer(seen, &offered, context.faults);
        self.irs = Some(syn.seq);
        self.peer = offered;
        self.own.include(&SynOptions::of(seen));
        self.opened_at = context.now;
        self.compare(1, segment.payload, context.faults);
        context.payload_bytes += segment.payload.len() as u64;
        self.snd_max = self.snd_max.max(1 + segment.payload.len() as u64);
        self.reached = self.reached.max(1 + syn.payload_len);
        self.arrived.insert(0, 1 + syn.payload_len);
        self.peer_syn_data = u64::from(segment.ack.wrapping_sub(syn.seq)).saturating_sub(1);
        self.last_ack = self.last_ack.max(1);
        self.edge = self.edge.max(1 + u64::from(syn.window));
        let edge = u64::from(segment.ack.wrapping_sub(syn.seq)) + u64::from(segment.window);
        self.last_edge = Some(self.last_edge.unwrap_or(0).max(edge));
        self.edge_unscaled = true;
        let tsvals: Vec<u32> = self
            .syns
            .iter()
            .filter(|other| other.seq == syn.seq)
            .filter_map(|other| other.tsval)
            .collect();
        self.check_timestamps(seen, Some(&tsvals), context.faults);
        for tsval in tsvals {
            self.note_tsval(tsval);
        }
        self.agree_as_listener(seen, &offered, context);
    }

    /// Options of all SYNs with this sequence number that arrived.
    fn offered(&self, seq: u32) -> SynOptions {
        let mut offered = SynOptions::default();
        for syn in self.syns.iter().filter(|syn| syn.seq == seq) {
            offered.include(&syn.options);
        }
        offered
    }

    fn check_answer(&self, seen: &Seen<'_>, offered: &SynOptions, faults: &mut Faults) {
        let pairs = [
            ("window scale", seen.window_scale.is_some(), offered.window_scale.is_some()),
            ("SACK permitted", seen.sack_permitted, offered.sack_permitted),
            ("timestamps", seen.timestamps.is_some(), offered.timestamps),
            ("MP_CAPABLE", seen.capable.is_some(), offered.capable.is_some()),
            ("MP_JOIN", seen.join_answer.is_some(), offered.join.is_some()),
        ];
        for (name, answered, offered) in pairs {
            faults.require(!answered || offered, Rule::OptionAgreed, || {
                format!("SYN/ACK has {name}, the SYN had not")
            });
        }
    }

    fn agree_as_listener(
        &mut self,
        seen: &Seen<'_>,
        offered: &SynOptions,
        context: &mut Context<'_>,
    ) {
        if let Some((hmac, nonce)) = seen.join_answer {
            self.agree_to_join(hmac, nonce, offered, context);
            return self.name_own(seen, context);
        }
        let Some(capable) = seen.capable else {
            if !matches!(self.role, Role::Initial(_)) {
                self.role = Role::Plain;
            }
            return;
        };
        let (version @ 0..=1, Some(key)) = (capable.version, capable.sender_key) else {
            self.role = Role::Unjudged;
            return;
        };
        if let Some(held) = self.local_key {
            context.faults.require(held == key, Rule::HandshakeRepeated, || {
                format!("MP_CAPABLE has key {key:016x}, before it was {held:016x}")
            });
            return;
        }
        self.local_key = Some(key);
        let id = self.open_connection(version, key, context);
        self.role = Role::Initial(Some(id));
        // In version 0 the SYN has shown the peer's key, and nothing need show it again.
        if let (0, Some(remote)) = (version, offered.capable.and_then(|syn| syn.sender_key)) {
            self.remote_key = Some(remote);
            context.connections.set_remote(context.node, id, &Key::new(version, remote));
            self.agree_on_checksums(&capable, id, context);
        }
    }

    fn agree_to_join(
        &mut self,
        hmac: u64,
        nonce: u32,
        offered: &SynOptions,
        context: &mut Context<'_>,
    ) {
        let known = offered.join.and_then(|(token, peer_nonce)| {
            Some((context.connections.local(context.node, token)?, peer_nonce))
        });
        let complete = context.connections.complete();
        context.faults.require(known.is_some() || !complete, Rule::KeyMatches, || {
            format!("MP_JOIN with token and nonce {:08x?} names no connection", offered.join)
        });
        self.role = known.map_or(Role::Unjudged, |(id, _)| Role::Joined(id));
        let Some((id, peer_nonce)) = known else { return };
        let keys = context.connections.get(id).and_then(|data| data.keys());
        if let Some(keys) = keys {
            let right = keys.join(nonce, peer_nonce);
            let right = right.first_chunk().map_or(0, |half| u64::from_be_bytes(*half));
            context.proofs += 1;
            context.faults.require(hmac == right, Rule::KeyMatches, || {
                format!("the SYN/ACK's HMAC is {hmac:016x}, not {right:016x}")
            });
        }
    }

    pub(super) fn open_connection(&self, version: u8, key: u64, context: &mut Context<'_>) -> u64 {
        let key = Key::new(version, key);
        let (id, freed) = context.connections.create(context.node, &key, context.max_connections);
        context.freed += freed;
        if let Some(data) = context.connections.get(id) {
            data.name(0, context.local, context.faults);
        }
        id
    }

    /// The id by which a join calls the host's address.
    fn name_own(&mut self, seen: &Seen<'_>, context: &mut Context<'_>) {
        let (Role::Joined(id), Some(address_id)) = (self.role, seen.join_id) else { return };
        self.address_id = address_id;
        if let Some(data) = context.connections.get(id) {
            data.name(address_id, context.local, context.faults);
        }
    }

    pub(super) fn delivered_syn(&mut self, segment: &TcpSegment<'_>, seen: &Seen<'_>) {
        if self.syns.len() == MAX_SYNS {
            self.syns.pop_front();
            self.syns_forgotten = true;
        }
        self.syns.push_back(PeerSyn {
            seq: segment.seq,
            window: segment.window,
            payload_len: segment.payload.len() as u64,
            tsval: seen.timestamps.map(|(tsval, _)| tsval),
            options: SynOptions::of(seen),
        });
    }

    pub(super) fn delivered_syn_ack(&mut self, segment: &TcpSegment<'_>, seen: &Seen<'_>) {
        // Of a simultaneous open it is not the first that is heard of the peer.
        if self.irs == Some(segment.seq)
            && let Some((tsval, _)) = seen.timestamps
        {
            self.note_tsval(tsval);
        }
        let (Some(iss), None) = (self.iss, self.irs) else { return };
        let ack = u64::from(segment.ack.wrapping_sub(iss));
        if ack == 0 || ack > self.snd_max {
            return;
        }
        self.irs = Some(segment.seq);
        self.confirmed = true;
        self.peer = SynOptions::of(seen);
        self.acked = ack;
        self.syn_data = ack - 1;
        self.stream.forget_below(ack);
        self.edge = ack + u64::from(segment.window);
        self.reached = 1 + segment.payload.len() as u64;
        self.arrived.insert(0, self.reached);
        self.peer_syn_data = segment.payload.len() as u64;
        self.join_nonce = seen.join_answer.map(|(_, nonce)| nonce);
        self.last_edge = Some(1 + u64::from(self.own_syn_window));
        self.edge_unscaled = true;
        if let Some((tsval, _)) = seen.timestamps {
            self.note_tsval(tsval);
        }
        let offer = self.own.capable.map(|capable| capable.version);
        let answer = seen.capable.map(|capable| (capable.version, capable.sender_key));
        self.role = match (self.role, answer) {
            (Role::Offered, Some((version, Some(key)))) if offer == Some(version) => {
                self.remote_key = Some(key);
                Role::Initial(None)
            }
            (Role::Offered, None) => Role::Plain,
            (Role::Offered, Some(_)) => Role::Unjudged,
            (Role::Joined(_), _) if seen.join_answer.is_none() => Role::Unjudged,
            (role, _) => role,
        };
    }

    /// Another connection begins on the same addresses and ports.
    fn restart(&mut self, iss: u32) {
        let syns = core::mem::take(&mut self.syns);
        *self = Self {
            iss: Some(iss),
            syns,
            syns_forgotten: self.syns_forgotten,
            snd_max: 1,
            ..Self::default()
        };
    }
}
