//! Two stacks and what lies between them: packets are lost, doubled, delayed, split, and lose or get
//! options. Both streams arrive identical, or the connection ends with an error; when nothing is done
//! to packets any more, it ends.

use crate::bench::{Bench, OURS, PORT, THEIRS, at, config, octet, stream};
use crate::input::Input;
use crate::peer::Kind;
use mptcp_core::config::{ChecksumPolicy, PathManagerKind, StackConfig};
use mptcp_core::error::RecvError;
use mptcp_core::stack::{Connect, SocketId};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{IpHeader, TcpSegment, Version, checksum, set_checksum};

/// Packets that something is done to.
const MAX_FAULTS: usize = 400;
/// Without an octet written or read it ends within: retransmissions have backed off to minutes, and a
/// connection without subflows is given up after another minute.
const LIMIT: Duration = Duration::from_secs(4_000);

/// A packet on its way to the client (0) or the server (1).
struct Travelling {
    due: Instant,
    to: usize,
    packet: Vec<u8>,
}

struct End {
    bench: Bench,
    id: Option<SocketId>,
    send: u64,
    sent: u64,
    expect: u64,
    received: u64,
    eof: bool,
    failed: bool,
}

impl End {
    fn new(config: StackConfig, send: u64, expect: u64) -> Self {
        let bench = Bench::new(config);
        let (sent, received) = (0, 0);
        Self { bench, id: None, send, sent, expect, received, eof: false, failed: false }
    }

    /// Writes, reads and judges.
    fn work(&mut self, salt: u64, their_salt: u64) {
        self.id = self.id.or_else(|| self.bench.sockets.first().copied());
        let Some(id) = self.id else { return };
        let now = self.bench.now;
        self.failed |= self.has_error();
        if self.sent < self.send {
            let len = usize::try_from(self.send - self.sent).expect("small").min(4_000);
            if let Ok(count) = self.bench.stack.send(now, id, &stream(salt + self.sent, len)) {
                self.sent += count as u64;
                if self.sent == self.send {
                    self.bench.stack.shutdown_write(now, id);
                }
            }
        }
        let mut into = [0; 2_048];
        while !self.eof {
            match self.bench.stack.recv(now, id, &mut into) {
                Ok(0) => {
                    assert_eq!(self.received, self.expect, "the end came early");
                    self.eof = true;
                }
                Ok(count) => {
                    for got in &into[..count] {
                        assert_eq!(*got, octet(their_salt + self.received), "{}", self.received);
                        self.received += 1;
                    }
                    assert!(self.received <= self.expect, "more than was sent");
                }
                Err(RecvError::WouldBlock) => break,
                Err(_) => {
                    self.failed = true;
                    break;
                }
            }
        }
    }

    fn has_error(&self) -> bool {
        self.id.is_some_and(|id| self.bench.stack.error(id).is_some())
    }

    /// Nothing that it sent waits for an answer, but joins.
    fn only_listens(&self) -> bool {
        let Some(info) = self.id.and_then(|id| self.bench.stack.info(id)) else { return false };
        let data = info.data_level;
        data.is_none_or(|data| data.snd_una == data.write_seq && data.retransmits == 0)
            && info.subflows.iter().all(|s| s.tcp.unacked == 0 && s.tcp.unsent == 0)
    }

    const fn done(&self) -> bool {
        self.failed || self.eof && self.sent == self.send
    }
}

/// Takes `data` as settings and as what happens to each packet in turn.
pub fn exchange(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = Kind {
        version: input.one_of(&[Some(Version::V1), Some(Version::V0), None]),
        checksum: input.u8() & 1 != 0,
    };
    let (up, down) = (1 + u64::from(input.u16() % 24_000), 1 + u64::from(input.u16() % 24_000));
    let mut client = config(&THEIRS);
    let mut server = config(&OURS[..1]);
    for config in [&mut client, &mut server] {
        config.mptcp.path_manager = PathManagerKind::Fullmesh;
        config.mptcp.versions = vec![kind.version.unwrap_or(Version::V1)];
        let policy = if kind.checksum { ChecksumPolicy::Require } else { ChecksumPolicy::Accept };
        config.mptcp.checksum = policy;
    }
    server.seed[0] ^= 1;
    let mut between = Between {
        ends: [End::new(client, up, down), End::new(server, down, up)],
        travelling: Vec::new(),
        kind,
        faults: 0,
        traced: std::env::var_os("PLAIT_TRACE").is_some(),
    };
    between.run(&mut input);
    let failed = between.ends.iter().any(|end| end.failed);
    assert!(!failed || between.faults > 0, "nothing was done to packets: {:?}", between.infos());
    for end in between.ends {
        end.bench.finish();
    }
}

struct Between {
    ends: [End; 2],
    travelling: Vec<Travelling>,
    kind: Kind,
    faults: usize,
    /// Every segment is printed.
    traced: bool,
}

impl Between {
    fn run(&mut self, input: &mut Input<'_>) {
        self.ends[1].bench.listen(self.kind.version.is_some());
        let with = Connect {
            local: THEIRS[0],
            local_port: 0,
            remote: at(OURS[0], PORT),
            mptcp: self.kind.version.is_some(),
            timeout: None,
            user_data: 0,
        };
        let client = &mut self.ends[0].bench;
        let id = client.stack.connect(client.now, &with).expect("room");
        client.sockets.push(id);
        let mut deadline = client.now + LIMIT;
        let (mut standstill, mut turns, mut moved) = (0, 0, 0);
        loop {
            self.turn(input);
            // A storm may wear out the patience of each end almost, one after the other: what moves lives.
            let octets: u64 = self.ends.iter().map(|end| end.sent + end.received).sum();
            if octets != moved {
                moved = octets;
                deadline = self.ends[0].bench.now + LIMIT;
            }
            if self.ends.iter().all(End::done) {
                return;
            }
            let timers = self.ends.iter().filter_map(|end| end.bench.stack.poll_timeout()).min();
            let packets = self.travelling.iter().map(|t| t.due).min();
            let now = self.ends[0].bench.now;
            // An end that is not done waits for something, and that ends.
            let next = [timers, packets].into_iter().flatten().min();
            let hung =
                || self.ends.iter().map(|e| (e.sent, e.received, e.failed)).collect::<Vec<_>>();
            let Some(next) = next else {
                // Who only listens never learns that the other one is gone.
                let failed = self.ends.iter().any(|end| end.failed || end.has_error());
                assert!(failed, "it hangs: {:?}", hung());
                return;
            };
            if next > deadline {
                // Nor does who goes on trying to join it meanwhile.
                let ended = |end: &End| end.failed || end.has_error();
                let left = self.ends.iter().any(ended)
                    && self.ends.iter().all(|end| ended(end) || end.only_listens());
                assert!(left, "it never ends: {:?} {:?}", hung(), self.infos());
                return;
            }
            standstill = if next > now { 0 } else { standstill + 1 };
            turns += 1;
            assert!(standstill < 200 && turns < 100_000, "{now:?}: it does not come to rest");
            for end in &mut self.ends {
                end.bench.now = next.max(now);
            }
        }
    }

    fn infos(&self) -> Vec<Option<mptcp_core::stack::ConnectionInfo>> {
        self.ends.iter().map(|end| end.bench.stack.info(end.id?)).collect()
    }

    /// Delivers what is due, lets both applications work, and sends.
    fn turn(&mut self, input: &mut Input<'_>) {
        let now = self.ends[0].bench.now;
        let all = core::mem::take(&mut self.travelling);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|t| t.due <= now);
        self.travelling = later;
        for Travelling { to, packet, .. } in due {
            self.ends[to].bench.take(&packet);
        }
        for side in 0..2 {
            self.ends[side].bench.take_events();
            let salt = [0, 1_000_000];
            self.ends[side].work(salt[side], salt[1 - side]);
            for packet in self.ends[side].bench.packets() {
                self.pass(now, 1 - side, packet, input);
            }
        }
    }

    /// What becomes of one packet.
    fn pass(&mut self, now: Instant, to: usize, mut packet: Vec<u8>, input: &mut Input<'_>) {
        let traced = self.traced;
        let mut travel = |ms: u64, packet: Vec<u8>| {
            let due = now + Duration::from_millis(ms);
            if traced {
                eprintln!("{now:?} +{ms} ms to {}: {}", ["client", "server"][to], show(&packet));
            }
            self.travelling.push(Travelling { due, to, packet });
        };
        if traced {
            eprintln!("{now:?} sent: {}", show(&packet));
        }
        if input.is_empty() || self.faults > MAX_FAULTS {
            return travel(5, packet);
        }
        self.faults += 1;
        // Only a DSS checksum tells edited data, and only while another subflow is left to rely on.
        let edited = self.kind.checksum && self.kind.version.is_some() && second(&packet);
        match input.u8() {
            0..128 => travel(5, packet),
            128..144 => {}
            144..156 => {
                travel(5, packet.clone());
                travel(5 + u64::from(input.u8()), packet);
            }
            156..172 => travel(5 + u64::from(input.u8()) * 4, packet),
            172..184 => travel(5, without_options(packet, |kind| kind == 30)),
            184..190 => travel(5, without_options(packet, |_| true)),
            190..196 => travel(5, without_options(packet, |kind| kind == 8 || kind == 5)),
            196..206 => travel(5, with_option(packet, input)),
            206..214 => {
                let value = input.u16();
                travel(5, edit(packet, |tcp, _| tcp[14..16].copy_from_slice(&value.to_be_bytes())));
            }
            214..220 => {
                let flags = input.u8() & 0b1110_1000;
                travel(5, edit(packet, |tcp, _| tcp[13] ^= flags));
            }
            220..232 => {
                let choice = input.u8();
                let at = 1 + usize::from(input.u16()) % 1_400;
                for piece in split(packet, at, choice) {
                    travel(5, piece);
                }
            }
            232..240 if edited => {
                let (at, bit) = (usize::from(input.u16()), input.u8() & 7);
                // Bits are only set: cleared ones would make up for set ones in the sum of a mapping that
                // travels in several pieces, and no checksum tells that.
                let set = |tcp: &mut [u8], header: usize| {
                    let len = tcp.len() - header;
                    if len > 0 {
                        tcp[header + at % len] |= 1 << bit;
                    }
                };
                travel(5, edit(packet, set));
            }
            240..248 => {
                let reset = reset(&packet, input.u8());
                travel(5, packet);
                if let Some(reset) = reset {
                    travel(4, reset);
                }
            }
            _ => {
                let len = packet.len().min(20 + usize::from(input.u8()));
                packet.truncate(len);
                travel(5, packet);
            }
        }
    }
}

fn show(packet: &[u8]) -> String {
    let Ok(ip) = IpHeader::parse(packet) else { return "no IP".into() };
    let Ok(tcp) = TcpSegment::parse(&packet[ip.header_len..]) else { return "no TCP".into() };
    let options: Vec<_> = tcp.options().flatten().collect();
    let (seq, ack, len) = (tcp.seq.0, tcp.ack.0, tcp.payload.len());
    let (from, to) = (tcp.src_port, tcp.dst_port);
    format!(
        "{}:{from} > {}:{to} {:?} {seq} {ack} win {} len {len} {options:?}",
        ip.src, ip.dst, tcp.flags, tcp.window
    )
}

/// Whether a packet is of the path that is not the first.
fn second(packet: &[u8]) -> bool {
    IpHeader::parse(packet).is_ok_and(|ip| ip.src == THEIRS[1] || ip.dst == THEIRS[1])
}

/// Changes the TCP segment (its header is `header` octets long) and makes the checksum fit.
fn edit(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8], usize)) -> Vec<u8> {
    let Ok(ip) = IpHeader::parse(&packet) else { return packet };
    let tcp = &mut packet[ip.header_len..ip.total_len];
    let Ok(header) = TcpSegment::parse(tcp).map(|tcp| tcp.header_len) else { return packet };
    change(tcp, header);
    tcp[16..18].fill(0);
    let sum = checksum::tcp_checksum(ip.src, ip.dst, tcp);
    set_checksum(tcp, sum);
    packet
}

/// NOPs in place of the options of some kinds.
fn without_options(packet: Vec<u8>, mut goes: impl FnMut(u8) -> bool) -> Vec<u8> {
    edit(packet, |tcp, header| {
        let mut at = 20;
        while at < header {
            let len = match tcp[at] {
                0 => return,
                1 => 1,
                _ => usize::from(tcp[at + 1]),
            };
            if tcp[at] > 1 && goes(tcp[at]) {
                tcp[at..at + len].fill(1);
            }
            at += len;
        }
    })
}

/// The same packet with one more option, if there is room: harmless ones of MPTCP, or unknown ones.
fn with_option(packet: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    let value = [input.u8(), input.u8(), input.u8(), input.u8()];
    let option = match input.u8() % 5 {
        0 => vec![30, 3, 0x50 | value[0] & 1, 1],
        1 => [&[30, 8, 0xf0 | value[0] & 0xf, value[1]], &value[..]].concat(),
        // A REMOVE_ADDR: subflows must show that they live.
        2 => vec![30, 4, 0x40, value[0] & 3],
        3 => [&[30, 16, 0x30, 9, 10, 3, 0, 9], &value[..], &value[..]].concat(),
        _ => [&[250, 8], &value[..], &[1, 1]].concat(),
    };
    insert(packet, &option)
}

fn insert(packet: Vec<u8>, option: &[u8]) -> Vec<u8> {
    let Ok(ip) = IpHeader::parse(&packet) else { return packet };
    let tcp = &packet[ip.header_len..ip.total_len];
    let Ok(header) = TcpSegment::parse(tcp).map(|tcp| tcp.header_len) else { return packet };
    if header + option.len() > 60 {
        return packet;
    }
    let mut tcp = [&tcp[..20], option, &tcp[20..]].concat();
    tcp[12] += u8::try_from(option.len() / 4 * 16).expect("within the header");
    edit(crate::bench::ip_packet(ip.src, ip.dst, 6, &tcp), |_, _| {})
}

/// Both pieces of a segment; the MPTCP options stay on both, on the first or on the last.
fn split(packet: Vec<u8>, at: usize, choice: u8) -> Vec<Vec<u8>> {
    let Ok(ip) = IpHeader::parse(&packet) else { return vec![packet] };
    let tcp = &packet[ip.header_len..ip.total_len];
    let Ok(view) = TcpSegment::parse(tcp) else { return vec![packet] };
    let at = view.header_len + at;
    if at >= tcp.len() {
        return vec![packet];
    }
    let (first, rest) = tcp.split_at(at);
    let mut first = first.to_vec();
    let mut last = [&tcp[..view.header_len], rest].concat();
    // FIN and PSH belong to the end.
    first[13] &= !0b1001;
    let skipped = u32::try_from(at - view.header_len).expect("a packet");
    last[4..8].copy_from_slice(&view.seq.add(skipped).0.to_be_bytes());
    let whole = |tcp: &[u8], keeps: bool| {
        let piece = edit(crate::bench::ip_packet(ip.src, ip.dst, 6, tcp), |_, _| {});
        if keeps { piece } else { without_options(piece, |kind| kind == 30) }
    };
    vec![whole(&first, choice % 3 != 2), whole(&last, choice % 3 != 1)]
}

/// A RST in the name of the packet's sender, at its place or near it.
fn reset(packet: &[u8], choice: u8) -> Option<Vec<u8>> {
    let ip = IpHeader::parse(packet).ok()?;
    let tcp = &packet[ip.header_len..ip.total_len];
    let view = TcpSegment::parse(tcp).ok()?;
    let mut reset = tcp[..20].to_vec();
    let seq = view.seq.add(u32::from(choice >> 1));
    reset[4..8].copy_from_slice(&seq.0.to_be_bytes());
    (reset[12], reset[13]) = (0x50, if choice & 1 == 0 { 0x04 } else { 0x14 });
    Some(edit(crate::bench::ip_packet(ip.src, ip.dst, 6, &reset), |_, _| {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_faults_both_streams_arrive() {
        for version in 0..3 {
            for checksum in 0..2 {
                exchange(&[version, checksum, 0x20, 0, 0x30, 0]);
            }
        }
    }
}
