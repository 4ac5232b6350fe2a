//! A strict version 0 phone, modelled on what is known of the kernels in the field (multipath-tcp.org
//! 0.86 to 0.91: no checksums, 32-bit sequence numbers, fullmesh). It is a client and resets, or falls
//! back, on whatever those do; here either is an error with a name.
//!
//! Its TCP is as small as can be: one segment size, no SACK, go-back-N by timer.

use crate::wire::{self, ACK, Dss, FIN, Head, Map, RST, SYN, Seen};
use core::net::SocketAddrV4;
use std::collections::BTreeMap;

/// Payload of a full segment.
const MSS: usize = 1400;
/// Octets in flight at most per subflow.
const WINDOW: u32 = 64 << 10;
/// What the phone buffers of the download.
const BUFFER: u32 = 512 << 10;
const SCALE: u8 = 4;
/// Unmapped octets it holds before it gives the subflow up.
const UNMAPPED_MAX: usize = 64 << 10;
const RTO_MS: u64 = 600;
const MS: u64 = 1_000_000;

/// The octet at `offset` of the stream in direction `key`.
pub(crate) fn octet(key: u64, offset: u64) -> u8 {
    ((offset ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// What the phone is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) join: bool,
    /// The first subflow's third ACK is lost.
    pub(crate) lose_third_ack: bool,
    /// Ends with `MP_FASTCLOSE` once everything arrived.
    pub(crate) fastclose: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    SynSent,
    /// A join whose fourth ACK is due.
    PreEstablished,
    Established,
    Closed,
}

struct Sent {
    seq: u32,
    map: Map,
}

struct Subflow {
    local: SocketAddrV4,
    remote: SocketAddrV4,
    stage: Stage,
    join: bool,
    nonce: u32,
    peer_nonce: u32,
    iss: u32,
    irs: u32,
    snd_una: u32,
    snd_nxt: u32,
    rcv_nxt: u32,
    peer_scale: u8,
    sent: Vec<Sent>,
    /// Mappings that were announced and are not wholly delivered.
    maps: Vec<Map>,
    /// Payload at and beyond `rcv_nxt - held`, by sequence number relative to `irs`.
    out_of_order: BTreeMap<u32, Vec<u8>>,
    /// In order and not mapped yet.
    unmapped: Vec<u8>,
    timer: Option<u64>,
    tries: u32,
    fin_sent: bool,
    fin_received: bool,
    ack_due: bool,
    data_acked: bool,
}

/// The phone.
pub(crate) struct Phone {
    job: Job,
    keys: [u64; 2],
    subflows: Vec<Subflow>,
    second: Option<(SocketAddrV4, SocketAddrV4)>,
    snd_una: u64,
    snd_nxt: u64,
    /// Right edge the server allows, as an offset.
    snd_edge: u64,
    fin_acked: bool,
    /// Offset of what is in order.
    rcv_nxt: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    peer_fin: Option<u64>,
    peer_finished: bool,
    announced: bool,
    fastclose_sent: bool,
    fastclosed: bool,
    pub(crate) received: u64,
    pub(crate) errors: Vec<String>,
    /// Payload octets that arrived per subflow.
    pub(crate) by_subflow: Vec<u64>,
    out: Vec<(usize, Vec<u8>)>,
}

impl Phone {
    /// Opens the first subflow from `first`; a join goes from `second`.
    pub(crate) fn new(
        seed: u64,
        job: Job,
        remote: SocketAddrV4,
        first: SocketAddrV4,
        second: SocketAddrV4,
    ) -> Self {
        let key = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut phone = Self {
            job,
            keys: [key, 0],
            subflows: Vec::new(),
            second: job.join.then_some((second, remote)),
            snd_una: 0,
            snd_nxt: 0,
            snd_edge: 0,
            fin_acked: false,
            rcv_nxt: 0,
            blocks: BTreeMap::new(),
            peer_fin: None,
            peer_finished: false,
            announced: false,
            fastclose_sent: false,
            fastclosed: false,
            received: 0,
            errors: Vec::new(),
            by_subflow: Vec::new(),
            out: Vec::new(),
        };
        phone.open(first, remote, false, (seed as u32).wrapping_mul(0x1234_5677));
        phone
    }

    fn open(&mut self, local: SocketAddrV4, remote: SocketAddrV4, join: bool, iss: u32) {
        self.by_subflow.push(0);
        self.subflows.push(Subflow {
            local,
            remote,
            stage: Stage::SynSent,
            join,
            nonce: iss ^ 0x5a5a_0001,
            peer_nonce: 0,
            iss,
            irs: 0,
            snd_una: iss,
            snd_nxt: iss.wrapping_add(1),
            rcv_nxt: 0,
            peer_scale: 0,
            sent: Vec::new(),
            maps: Vec::new(),
            out_of_order: BTreeMap::new(),
            unmapped: Vec::new(),
            timer: Some(0),
            tries: 0,
            fin_sent: false,
            fin_received: false,
            ack_due: false,
            data_acked: false,
        });
    }

    /// Everything was sent, received and closed.
    pub(crate) fn done(&self) -> bool {
        let all = self.received == self.job.down && self.snd_una == self.job.up;
        let closed = self.subflows.iter().all(|s| s.stage == Stage::Closed);
        all && closed && (self.job.fastclose || (self.fin_acked && self.peer_finished))
    }

    pub(crate) fn next_timer(&self) -> Option<u64> {
        self.subflows.iter().filter_map(|s| s.timer).min()
    }

    /// Packets to send, each with the number of its subflow.
    pub(crate) fn take_packets(&mut self) -> Vec<(usize, Vec<u8>)> {
        core::mem::take(&mut self.out)
    }

    fn error(&mut self, at: usize, what: impl Into<String>) {
        let what = what.into();
        self.errors.push(format!("subflow {at}: {what}"));
    }

    fn local_dsn(&self, offset: u64) -> u32 {
        wire::idsn(self.keys[0]).wrapping_add(1).wrapping_add(offset) as u32
    }

    fn remote_dsn(&self, offset: u64) -> u32 {
        wire::idsn(self.keys[1]).wrapping_add(1).wrapping_add(offset) as u32
    }

    fn window(&self) -> u16 {
        let held: usize = self.blocks.values().map(Vec::len).sum();
        let free = BUFFER.saturating_sub(held as u32);
        u16::try_from((BUFFER.min(free.max(BUFFER / 4))) >> SCALE).unwrap_or(u16::MAX)
    }

    fn data_ack(&self) -> u32 {
        self.remote_dsn(self.rcv_nxt + u64::from(self.peer_finished))
    }

    fn push(&mut self, at: usize, flags: u8, seq: u32, options: Vec<u8>, payload: &[u8]) {
        let subflow = &self.subflows[at];
        let syn = flags & SYN != 0;
        let window = if syn { u16::MAX } else { self.window() };
        let ack = if syn { 0 } else { subflow.rcv_nxt };
        let head = Head { flags, seq, ack, window, options };
        let packet = wire::write(subflow.local, subflow.remote, &head, payload);
        self.out.push((at, packet));
    }

    fn send_syn(&mut self, at: usize) {
        let subflow = &self.subflows[at];
        let mut options = vec![2, 4, 5, 0xb4, 3, 3, SCALE];
        if subflow.join {
            options.extend_from_slice(&[30, 12, 0x10, u8::try_from(at).unwrap()]);
            options.extend_from_slice(&wire::token(self.keys[1]).to_be_bytes());
            options.extend_from_slice(&subflow.nonce.to_be_bytes());
        } else {
            options.extend_from_slice(&[30, 12, 0x00, 0x01]);
            options.extend_from_slice(&self.keys[0].to_be_bytes());
        }
        self.push(at, SYN, subflow.iss, options, &[]);
    }

    fn send_third_ack(&mut self, at: usize) {
        let subflow = &self.subflows[at];
        let mut options = Vec::new();
        if subflow.join {
            let hmac = wire::join_hmac(self.keys, [subflow.nonce, subflow.peer_nonce]);
            options.extend_from_slice(&[30, 24, 0x10, 0]);
            options.extend_from_slice(&hmac);
        } else {
            options.extend_from_slice(&[30, 20, 0x00, 0x01]);
            options.extend_from_slice(&self.keys[0].to_be_bytes());
            options.extend_from_slice(&self.keys[1].to_be_bytes());
        }
        self.push(at, ACK, subflow.snd_nxt, options, &[]);
    }

    /// The fullmesh path manager tells its other, private, address right after the handshake.
    fn announce(&mut self, at: usize) {
        self.announced = true;
        let mut options = vec![30, 8, 0x34, 1, 192, 168, 43, 7];
        Dss { data_ack: Some(self.data_ack()), ..Dss::default() }.write(&mut options);
        self.push(at, ACK, self.subflows[at].snd_nxt, options, &[]);
    }

    fn send_ack(&mut self, at: usize) {
        let mut options = Vec::new();
        let fin = self.snd_nxt == self.job.up && !self.fin_acked && !self.job.fastclose;
        let map = Map { dsn: self.local_dsn(self.job.up), ssn: 0, len: 1 };
        let data_ack = Some(self.data_ack());
        Dss { data_ack, map: fin.then_some(map), data_fin: fin }.write(&mut options);
        let subflow = &mut self.subflows[at];
        subflow.ack_due = false;
        let seq = subflow.snd_nxt;
        self.push(at, ACK, seq, options, &[]);
    }

    fn send_data(&mut self, at: usize, map: Map, offset: u64, seq: u32) {
        let mut options = Vec::new();
        Dss { data_ack: Some(self.data_ack()), map: Some(map), data_fin: false }
            .write(&mut options);
        let payload: Vec<u8> = (0..u64::from(map.len)).map(|n| octet(1, offset + n)).collect();
        self.subflows[at].ack_due = false;
        self.push(at, ACK, seq, options, &payload);
    }

    /// Timers, new data, acknowledgements that are due.
    pub(crate) fn work(&mut self, now: u64) {
        for at in 0..self.subflows.len() {
            if self.subflows[at].timer.is_some_and(|due| due <= now) {
                self.timeout(now, at);
            }
        }
        let joined = self.subflows.len() > 1;
        if !joined
            && self.subflows[0].data_acked
            && let Some((local, remote)) = self.second.take()
        {
            let iss = self.subflows[0].iss.wrapping_add(0x0101_0101);
            self.open(local, remote, true, iss);
            self.timeout(now, self.subflows.len() - 1);
        }
        self.send_new(now);
        self.close(now);
        for at in 0..self.subflows.len() {
            if self.subflows[at].ack_due && self.subflows[at].stage == Stage::Established {
                self.send_ack(at);
            }
        }
    }

    fn timeout(&mut self, now: u64, at: usize) {
        let subflow = &mut self.subflows[at];
        subflow.tries += 1;
        let wait = RTO_MS << subflow.tries.min(6);
        subflow.timer = Some(now + wait * MS);
        assert!(subflow.tries < 40, "subflow {at} gets no answer");
        match subflow.stage {
            Stage::SynSent => self.send_syn(at),
            Stage::PreEstablished => self.send_third_ack(at),
            Stage::Closed => subflow.timer = None,
            Stage::Established => self.retransmit(now, at),
        }
    }

    fn retransmit(&mut self, now: u64, at: usize) {
        if let Some(first) = self.subflows[at].sent.first() {
            let (seq, map) = (first.seq, first.map);
            let offset = u64::from(map.dsn.wrapping_sub(self.local_dsn(0)));
            self.send_data(at, map, offset, seq);
        } else if self.subflows[at].fin_sent {
            let seq = self.subflows[at].snd_nxt.wrapping_sub(1);
            self.push(at, FIN | ACK, seq, Vec::new(), &[]);
        } else if self.snd_nxt == self.job.up && !self.fin_acked && !self.job.fastclose {
            self.send_ack(at);
        } else if self.fastclose_sent && !self.fastclosed {
            self.send_fastclose(at);
        } else if self.finished_sending() || self.snd_una == self.snd_nxt {
            let _ = now;
            self.subflows[at].timer = None;
        }
    }

    const fn finished_sending(&self) -> bool {
        self.snd_una == self.job.up && self.fin_acked
    }

    fn send_new(&mut self, now: u64) {
        for at in 0..self.subflows.len() {
            loop {
                let end = self.job.up.min(self.snd_edge);
                let subflow = &self.subflows[at];
                let in_flight = subflow.snd_nxt.wrapping_sub(subflow.snd_una);
                if subflow.stage != Stage::Established
                    || subflow.fin_sent
                    || self.snd_nxt >= end
                    || in_flight + MSS as u32 > WINDOW
                {
                    break;
                }
                let len = MSS.min((end - self.snd_nxt) as usize);
                let seq = subflow.snd_nxt;
                let ssn = seq.wrapping_sub(subflow.iss);
                let offset = self.snd_nxt;
                let dsn = self.local_dsn(offset);
                let map = Map { dsn, ssn, len: len as u16 };
                self.snd_nxt += len as u64;
                let subflow = &mut self.subflows[at];
                subflow.snd_nxt = seq.wrapping_add(len as u32);
                subflow.sent.push(Sent { seq, map });
                if subflow.timer.is_none() {
                    subflow.tries = 0;
                    subflow.timer = Some(now + RTO_MS * MS);
                }
                self.send_data(at, map, offset, seq);
            }
        }
    }

    fn send_fastclose(&mut self, at: usize) {
        let mut options = vec![30, 12, 0x70, 0];
        options.extend_from_slice(&self.keys[1].to_be_bytes());
        self.push(at, ACK, self.subflows[at].snd_nxt, options, &[]);
    }

    fn close(&mut self, now: u64) {
        let all = self.received == self.job.down && self.snd_una == self.job.up;
        if self.job.fastclose {
            if all && !self.fastclose_sent {
                self.fastclose_sent = true;
                for at in 1..self.subflows.len() {
                    self.push(at, RST, self.subflows[at].snd_nxt, Vec::new(), &[]);
                    self.subflows[at].stage = Stage::Closed;
                    self.subflows[at].timer = None;
                }
                self.send_fastclose(0);
                self.subflows[0].timer = Some(now + RTO_MS * MS);
            }
            return;
        }
        if self.snd_nxt == self.job.up && !self.fin_acked {
            for subflow in &mut self.subflows {
                if subflow.stage == Stage::Established && subflow.timer.is_none() {
                    subflow.ack_due = true;
                    subflow.tries = 0;
                    subflow.timer = Some(now + RTO_MS * MS);
                }
            }
        }
        if !(self.fin_acked && self.peer_finished) {
            return;
        }
        for at in 0..self.subflows.len() {
            let subflow = &mut self.subflows[at];
            if subflow.stage == Stage::Established && !subflow.fin_sent && subflow.sent.is_empty() {
                subflow.fin_sent = true;
                let seq = subflow.snd_nxt;
                subflow.snd_nxt = seq.wrapping_add(1);
                subflow.tries = 0;
                subflow.timer = Some(now + RTO_MS * MS);
                let mut options = Vec::new();
                Dss { data_ack: Some(self.data_ack()), ..Dss::default() }.write(&mut options);
                self.push(at, FIN | ACK, seq, options, &[]);
            }
        }
    }

    // Receiving.

    pub(crate) fn receive(&mut self, now: u64, packet: &[u8]) {
        let seen = wire::read(packet);
        let ours = |s: &Subflow| s.local == seen.to && s.remote == seen.from;
        let Some(at) = self.subflows.iter().position(ours) else {
            return self.error(99, format!("a segment for nobody: {seen:?}"));
        };
        self.check_options(at, &seen);
        if seen.head.flags & RST != 0 {
            return self.reset(at);
        }
        match self.subflows[at].stage {
            Stage::Closed => {}
            Stage::SynSent => self.syn_ack(now, at, &seen),
            Stage::PreEstablished | Stage::Established => self.segment(now, at, &seen),
        }
    }

    fn reset(&mut self, at: usize) {
        let subflow = &self.subflows[at];
        // A join that comes when the connection ends is refused.
        let late = subflow.stage != Stage::Established && self.snd_nxt == self.job.up;
        if self.fastclose_sent {
            self.fastclosed = true;
        } else if !(subflow.join && late) {
            let stage = subflow.stage;
            self.error(at, format!("reset by the server in {stage:?}, {} received", self.received));
        }
        self.subflows[at].stage = Stage::Closed;
        self.subflows[at].timer = None;
    }

    /// Only what version 0 defines, in its lengths.
    fn check_options(&mut self, at: usize, seen: &Seen) {
        for option in &seen.mptcp {
            let sound = match (option[2] >> 4, option.len()) {
                (0, 12 | 20) => option[2] & 15 == 0,
                (1, 12 | 16 | 24) | (5, 3 | 4) | (6 | 7, 12) => true,
                (2, _) => Dss::read(option).is_ok(),
                (3, 8 | 10) => option[2] & 15 == 4,
                (3, 20 | 22) => option[2] & 15 == 6,
                (4, 4..) => true,
                _ => false,
            };
            if !sound {
                self.error(at, format!("not an option of version 0: {option:02x?}"));
            }
        }
    }

    fn syn_ack(&mut self, now: u64, at: usize, seen: &Seen) {
        let subflow = &mut self.subflows[at];
        assert_eq!(seen.head.flags, SYN | ACK);
        assert_eq!(seen.head.ack, subflow.iss.wrapping_add(1));
        subflow.irs = seen.head.seq;
        subflow.rcv_nxt = seen.head.seq.wrapping_add(1);
        subflow.snd_una = seen.head.ack;
        subflow.peer_scale = seen.window_scale.unwrap_or(0);
        subflow.timer = None;
        let join = subflow.join;
        let [option] = seen.mptcp.as_slice() else {
            return self.error(at, format!("fallback: the SYN/ACK has {:02x?}", seen.mptcp));
        };
        if join {
            if option.len() != 16 {
                return self.error(at, format!("not an MP_JOIN SYN/ACK: {option:02x?}"));
            }
            let subflow = &mut self.subflows[at];
            subflow.peer_nonce = u32::from_be_bytes(option[12..16].try_into().unwrap());
            let keys = [self.keys[1], self.keys[0]];
            let hmac = wire::join_hmac(keys, [subflow.peer_nonce, subflow.nonce]);
            if option[4..12] != hmac[..8] {
                return self.error(at, "the HMAC of the SYN/ACK is wrong");
            }
            subflow.stage = Stage::PreEstablished;
            subflow.tries = 0;
            subflow.timer = Some(now + RTO_MS * MS);
            return self.send_third_ack(at);
        }
        if option.len() != 12 || option[2] != 0 || option[3] & 0x01 == 0 || option[3] & 0x80 != 0 {
            return self.error(at, format!("not a version 0 MP_CAPABLE: {option:02x?}"));
        }
        self.keys[1] = u64::from_be_bytes(option[4..12].try_into().unwrap());
        self.subflows[at].stage = Stage::Established;
        self.snd_edge = u64::from(seen.head.window);
        if !self.job.lose_third_ack {
            self.send_third_ack(at);
            self.announce(at);
        }
    }

    fn segment(&mut self, now: u64, at: usize, seen: &Seen) {
        let subflow = &mut self.subflows[at];
        if seen.head.flags & SYN != 0 {
            return self.send_third_ack(at);
        }
        if subflow.stage == Stage::PreEstablished {
            subflow.stage = Stage::Established;
            subflow.timer = None;
        }
        for option in seen.mptcp.iter().filter(|option| option[2] >> 4 == 7) {
            if option[4..12] == self.keys[0].to_be_bytes() {
                self.fastclosed = true;
            }
        }
        let dss = seen.mptcp.iter().filter(|o| o[2] >> 4 == 2).find_map(|o| Dss::read(o).ok());
        self.acknowledged(now, at, seen, dss.as_ref());
        if let Some(dss) = dss {
            self.signal(at, seen, &dss);
        }
        self.take_payload(at, seen);
        if seen.head.flags & FIN != 0 {
            self.fin(at, seen);
        }
    }

    fn acknowledged(&mut self, now: u64, at: usize, seen: &Seen, dss: Option<&Dss>) {
        let subflow = &mut self.subflows[at];
        let ack = seen.head.ack;
        let advance = ack.wrapping_sub(subflow.snd_una);
        if advance == 0 || advance > subflow.snd_nxt.wrapping_sub(subflow.snd_una) {
            return;
        }
        let first_data = !subflow.sent.is_empty() && !subflow.data_acked;
        subflow.snd_una = ack;
        subflow.sent.retain(|sent| {
            let end = sent.seq.wrapping_add(u32::from(sent.map.len));
            ack.wrapping_sub(end).cast_signed() < 0
        });
        subflow.tries = 0;
        let outstanding = subflow.snd_una != subflow.snd_nxt;
        subflow.timer = outstanding.then_some(now + RTO_MS * MS);
        if subflow.fin_sent && ack == subflow.snd_nxt && subflow.fin_received {
            subflow.stage = Stage::Closed;
            subflow.timer = None;
        }
        if first_data && dss.is_none_or(|dss| dss.data_ack.is_none()) {
            self.error(at, "falls back: the first data is acknowledged without a DATA_ACK");
        }
    }

    fn signal(&mut self, at: usize, seen: &Seen, dss: &Dss) {
        if let Some(ack) = dss.data_ack {
            let offset = u64::from(ack.wrapping_sub(self.local_dsn(0)));
            let end = self.job.up + 1;
            if offset <= end {
                if offset == end && self.snd_nxt == self.job.up {
                    self.fin_acked = true;
                }
                self.snd_una = self.snd_una.max(offset.min(self.job.up));
                if self.snd_una > 0 || self.received > 0 {
                    self.subflows[at].data_acked = true;
                }
                let scale = self.subflows[at].peer_scale;
                let edge = offset + (u64::from(seen.head.window) << scale);
                self.snd_edge = self.snd_edge.max(edge);
            } else if offset < u64::from(u32::MAX / 2) {
                self.error(at, format!("DATA_ACK of {offset} octets, {} were sent", self.snd_nxt));
            }
        }
        let Some(mut map) = dss.map else { return };
        if dss.data_fin {
            map.len -= 1;
            let end = u64::from(map.dsn.wrapping_sub(self.remote_dsn(0))) + u64::from(map.len);
            self.peer_fin = Some(end);
            self.subflows[at].ack_due = true;
            self.check_fin();
        }
        if map.len == 0 {
            return;
        }
        let overlaps = |known: &&Map| {
            let distance = map.ssn.wrapping_sub(known.ssn).cast_signed();
            distance < i32::from(known.len) && -distance < i32::from(map.len)
        };
        let subflow = &mut self.subflows[at];
        match subflow.maps.iter().find(overlaps) {
            Some(known) if *known != map => {
                let known = *known;
                self.error(at, format!("resets: {map:?} where {known:?} was announced"));
            }
            Some(_) => {}
            None => subflow.maps.push(map),
        }
    }

    fn take_payload(&mut self, at: usize, seen: &Seen) {
        if seen.payload.is_empty() {
            return;
        }
        let subflow = &mut self.subflows[at];
        subflow.ack_due = true;
        let ssn = seen.head.seq.wrapping_sub(subflow.irs);
        subflow.out_of_order.entry(ssn).or_insert_with(|| seen.payload.clone());
        self.by_subflow[at] += seen.payload.len() as u64;
        loop {
            let next = subflow.rcv_nxt.wrapping_sub(subflow.irs);
            let Some((&start, bytes)) = subflow.out_of_order.range(..=next).next_back() else {
                break;
            };
            let skip = (next - start) as usize;
            if skip >= bytes.len() {
                subflow.out_of_order.remove(&start);
                continue;
            }
            let bytes = subflow.out_of_order.remove(&start).unwrap_or_default();
            subflow.rcv_nxt = subflow.rcv_nxt.wrapping_add((bytes.len() - skip) as u32);
            subflow.unmapped.extend_from_slice(&bytes[skip..]);
        }
        self.map_in_order(at);
    }

    /// Moves what is in order and mapped to the stream.
    fn map_in_order(&mut self, at: usize) {
        loop {
            let subflow = &mut self.subflows[at];
            let head = subflow
                .rcv_nxt
                .wrapping_sub(subflow.irs)
                .wrapping_sub(subflow.unmapped.len() as u32);
            subflow.maps.retain(|map| {
                map.ssn.wrapping_add(u32::from(map.len)).wrapping_sub(head).cast_signed() > 0
            });
            if subflow.unmapped.is_empty() {
                return;
            }
            let map = subflow.maps.iter().find(|m| head.wrapping_sub(m.ssn) < u32::from(m.len));
            let Some(map) = map.copied() else {
                if subflow.unmapped.len() > UNMAPPED_MAX {
                    self.error(at, "resets: too much data without a mapping");
                }
                if self.rcv_nxt == 0 && self.received == 0 {
                    self.error(at, "falls back: the first data has no mapping");
                }
                return;
            };
            let skip = head.wrapping_sub(map.ssn);
            let len = (usize::from(map.len) - skip as usize).min(subflow.unmapped.len());
            let bytes: Vec<u8> = subflow.unmapped.drain(..len).collect();
            let dsn = map.dsn.wrapping_add(skip);
            let distance = dsn.wrapping_sub(self.remote_dsn(self.rcv_nxt)).cast_signed();
            let offset = self.rcv_nxt.wrapping_add_signed(i64::from(distance));
            self.deliver(at, offset, bytes);
        }
    }

    fn deliver(&mut self, at: usize, offset: u64, bytes: Vec<u8>) {
        for (n, byte) in bytes.iter().enumerate() {
            if *byte != octet(2, offset + n as u64) {
                return self
                    .error(at, format!("octet {} of the stream differs", offset + n as u64));
            }
        }
        let end = offset + bytes.len() as u64;
        if end > self.rcv_nxt + 2 * u64::from(BUFFER) {
            return self.error(at, "data beyond every window that was offered");
        }
        if end > self.rcv_nxt {
            self.blocks.insert(offset, bytes);
        }
        while let Some((&start, bytes)) = self.blocks.range(..=self.rcv_nxt).next_back() {
            let end = start + bytes.len() as u64;
            self.rcv_nxt = self.rcv_nxt.max(end);
            self.blocks.remove(&start);
        }
        self.received = self.rcv_nxt;
        self.check_fin();
    }

    fn check_fin(&mut self) {
        self.peer_finished |= self.peer_fin == Some(self.rcv_nxt);
    }

    fn fin(&mut self, at: usize, seen: &Seen) {
        let subflow = &mut self.subflows[at];
        let end = seen.head.seq.wrapping_add(seen.payload.len() as u32);
        if end == subflow.rcv_nxt {
            subflow.rcv_nxt = end.wrapping_add(1);
            subflow.fin_received = true;
        }
        let acked = subflow.fin_sent && subflow.snd_una == subflow.snd_nxt;
        let mut options = Vec::new();
        let data_ack = Some(self.data_ack());
        Dss { data_ack, ..Dss::default() }.write(&mut options);
        let seq = self.subflows[at].snd_nxt;
        self.push(at, ACK, seq, options, &[]);
        if acked && self.subflows[at].fin_received {
            self.subflows[at].stage = Stage::Closed;
            self.subflows[at].timer = None;
        }
    }
}
