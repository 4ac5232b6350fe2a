//! Connections of real version 0 kernels, replayed against this stack in either role. With their keys
//! and nonces for ours, every handshake option, mapping, checksum and `DATA_ACK` must come out as it
//! was captured, octet by octet; TCP's own numbers and what policy decides may differ.

use super::{Connect, Listen, SocketId, Stack};
use crate::buf::{HeapBuf, HeapPool, HeapTxQueue, PacketBuf, PortId};
use crate::config::{ChecksumPolicy, LocalAddress, PathManagerKind, StackConfig};
use crate::driver::Progress;
use crate::time::{Duration, Instant};
use crate::wire::{
    CapableForm, IpHeader, MpJoin, MptcpOption, TcpFlags, TcpOption, TcpSegment, checksum,
    set_checksum,
};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

const BASIC: &str = include_str!("../../tests/data/v0-basic.txt");
const NO_CHECKSUM: &str = include_str!("../../tests/data/v0-nocsum.txt");
const BACKUP: &str = include_str!("../../tests/data/v0-backup.txt");

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Client,
    Server,
}

struct Captured {
    at: Duration,
    from: Role,
    packet: Vec<u8>,
}

fn captured(text: &str) -> Vec<Captured> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let [at, from, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three fields: {line}")
        };
        let octet = |n: usize| u8::from_str_radix(&hex[n..n + 2], 16).expect("hexadecimal");
        Captured {
            at: Duration::from_micros(at.parse().expect("microseconds")),
            from: if from == "client" { Role::Client } else { Role::Server },
            packet: (0..hex.len()).step_by(2).map(octet).collect(),
        }
    };
    lines.map(read).collect()
}

/// One segment, parsed as far as this needs.
struct Seen {
    src: SocketAddr,
    dst: SocketAddr,
    flags: TcpFlags,
    seq: u32,
    payload: Vec<u8>,
    tsval: Option<u32>,
    /// Every MPTCP option as it stands on the wire.
    options: Vec<Vec<u8>>,
}

impl Seen {
    fn read(packet: &[u8]) -> Self {
        let ip = IpHeader::parse(packet).expect("an IP packet");
        let segment = TcpSegment::parse(&packet[ip.header_len..ip.total_len]).expect("a segment");
        let area = segment.option_bytes();
        let (mut options, mut at) = (Vec::new(), 0);
        while at < area.len() && area[at] != 0 {
            let len = if area[at] == 1 { 1 } else { usize::from(area[at + 1]) };
            if area[at] == 30 {
                options.push(area[at..at + len].to_vec());
            }
            at += len;
        }
        let tsval = segment.options().flatten().find_map(|option| match option {
            TcpOption::Timestamps { tsval, .. } => Some(tsval),
            _ => None,
        });
        Self {
            src: SocketAddr::new(ip.src, segment.src_port),
            dst: SocketAddr::new(ip.dst, segment.dst_port),
            flags: segment.flags,
            seq: segment.seq.0,
            payload: segment.payload.to_vec(),
            tsval,
            options,
        }
    }

    fn parsed(&self) -> Vec<MptcpOption<'_>> {
        self.options.iter().filter_map(|option| MptcpOption::parse(&option[2..])).collect()
    }

    fn data_fin(&self) -> bool {
        self.parsed().iter().any(|o| matches!(o, MptcpOption::Dss(dss) if dss.data_fin))
    }

    /// What the peer of this host must be able to rely on: handshake options without the address
    /// id, which each end chooses, and mappings.
    fn binding(&self) -> Vec<Vec<u8>> {
        let mut binding = Vec::new();
        for (raw, option) in self.options.iter().zip(self.parsed()) {
            let mut raw = raw.clone();
            match option {
                MptcpOption::Capable(_) => {}
                // The kernel leaves a reserved bit set.
                MptcpOption::Join(MpJoin::Ack { .. }) => raw[2] &= 0xf0,
                MptcpOption::Join(_) => raw[3] = 0,
                MptcpOption::Dss(dss) if dss.mapping.is_some() => {}
                _ => continue,
            }
            binding.push(raw);
        }
        binding
    }
}

/// A subflow by the addresses of (client, server): the capture has one per pair.
type Pair = (IpAddr, IpAddr);

struct Replay {
    role: Role,
    stack: Stack<HeapBuf>,
    tx: HeapTxQueue,
    now: Instant,
    listener: Option<SocketId>,
    socket: Option<SocketId>,
    /// Per subflow: our port and ISN and the captured ones, and our last timestamp.
    flows: BTreeMap<Pair, Flow>,
    sent: Vec<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    port: u16,
    iss: u32,
    captured_iss: u32,
    /// Octets we sent, SYN and FIN included.
    sent: u32,
    tsval: u32,
}

impl Replay {
    fn new(role: Role, packets: &[Captured], configure: impl Fn(&mut StackConfig)) -> Self {
        let own: Vec<Seen> =
            packets.iter().filter(|p| p.from == role).map(|p| Seen::read(&p.packet)).collect();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for segment in &own {
            if !addresses.contains(&segment.src.ip()) {
                addresses.push(segment.src.ip());
            }
        }
        let local = |addr| LocalAddress {
            addr,
            port: PortId::ROUTED,
            mtu: 1500,
            endpoint: true,
            backup: false,
        };
        let mut config = StackConfig {
            addresses: addresses.into_iter().map(local).collect(),
            ..StackConfig::default()
        };
        config.mptcp.versions = alloc::vec![crate::wire::Version::V0];
        config.mptcp.path_manager = match role {
            Role::Client => PathManagerKind::Fullmesh,
            Role::Server => PathManagerKind::Server,
        };
        configure(&mut config);
        let pool = HeapPool::new(1_000, 1_700);
        let now = Instant::from_millis(5_000);
        let mut stack = Stack::new(config, now, Box::new(pool.clone()));
        for option in own.iter().flat_map(Seen::parsed) {
            match option {
                MptcpOption::Capable(capable) => {
                    if let CapableForm::Key(key) = capable.form {
                        stack.rng.prescribed.0.push_back(key);
                    }
                }
                // A client may join more pairs of addresses than the captured one did.
                MptcpOption::Join(MpJoin::Syn { nonce, .. } | MpJoin::SynAck { nonce, .. }) => {
                    let count = if role == Role::Client { 8 } else { 1 };
                    stack.rng.prescribed.1.extend(core::iter::repeat_n(nonce, count));
                }
                _ => {}
            }
        }
        let listener = (role == Role::Server).then(|| {
            let options = Listen { mptcp: true, ..Listen::default() };
            stack.listen(own[0].src, &options).expect("a free address")
        });
        Self {
            role,
            stack,
            tx: HeapTxQueue::new(64, pool),
            now,
            listener,
            socket: None,
            flows: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    fn pair(&self, local: IpAddr, remote: IpAddr) -> Pair {
        if self.role == Role::Client { (local, remote) } else { (remote, local) }
    }

    fn collect(&mut self) {
        loop {
            let progress = self.stack.poll_transmit(self.now, &mut self.tx);
            while let Some(packet) = self.tx.pop() {
                let seen = Seen::read(packet.data());
                let pair = self.pair(seen.src.ip(), seen.dst.ip());
                let flow = self.flows.entry(pair).or_default();
                if seen.flags.contains(TcpFlags::SYN) {
                    (flow.port, flow.iss) = (seen.src.port(), seen.seq);
                }
                let numbers = u32::from(seen.flags.contains(TcpFlags::SYN))
                    + u32::from(seen.flags.contains(TcpFlags::FIN))
                    + seen.payload.len() as u32;
                let end = seen.seq.wrapping_add(numbers).wrapping_sub(flow.iss);
                flow.sent = flow.sent.max(end);
                flow.tsval = seen.tsval.unwrap_or(flow.tsval);
                self.sent.push(seen);
            }
            if progress == Progress::Done {
                return;
            }
        }
    }

    fn advance(&mut self, to: Instant) {
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= to) {
            self.now = at.max(self.now);
            while self.stack.handle_timeouts(self.now, 64) == Progress::More {}
            self.collect();
        }
        self.now = to;
    }

    /// A captured packet of the peer: our port, and our numbers where it acknowledges ours.
    fn inject(&mut self, packet: &[u8]) {
        let seen = Seen::read(packet);
        let flow = self.flows.get(&self.pair(seen.dst.ip(), seen.src.ip())).copied();
        let mut packet = packet.to_vec();
        let ip = IpHeader::parse(&packet).expect("an IP packet");
        let tcp = &mut packet[ip.header_len..];
        if let Some(flow) = flow {
            tcp[2..4].copy_from_slice(&flow.port.to_be_bytes());
            if seen.flags.contains(TcpFlags::ACK) {
                let ack = u32::from_be_bytes(tcp[8..12].try_into().expect("four octets"));
                // The captured host's FIN may have gone before ours does.
                let octets = ack.wrapping_sub(flow.captured_iss).min(flow.sent);
                let ack = flow.iss.wrapping_add(octets);
                tcp[8..12].copy_from_slice(&ack.to_be_bytes());
            }
            // The captured segments have their timestamps in one of two places.
            let stamps = [26, 22].into_iter().find(|&at| tcp.get(at..at + 2) == Some(&[8, 10]));
            if let Some(at) = stamps
                && seen.flags.contains(TcpFlags::ACK)
            {
                tcp[at + 6..at + 10].copy_from_slice(&flow.tsval.to_be_bytes());
            }
        }
        tcp[16..18].fill(0);
        let sum = checksum::tcp_checksum(ip.src, ip.dst, tcp);
        set_checksum(tcp, sum);
        self.stack.handle_burst(self.now, &mut alloc::vec![HeapBuf::from_slice(&packet)]);
        while let Some(event) = self.stack.poll_event() {
            if Some(event.socket) == self.listener {
                self.socket = self.socket.or(self.stack.accept(event.socket));
            }
        }
        self.collect();
    }

    /// The application does what the captured host's did.
    fn act(&mut self, seen: &Seen) {
        let pair = self.pair(seen.src.ip(), seen.dst.ip());
        if seen.flags.contains(TcpFlags::SYN) {
            self.flows.entry(pair).or_default().captured_iss = seen.seq;
            let joins = seen.parsed().iter().any(|o| matches!(o, MptcpOption::Join(_)));
            if self.role == Role::Client && !joins {
                let with = Connect {
                    local: seen.src.ip(),
                    local_port: seen.src.port(),
                    remote: seen.dst,
                    mptcp: true,
                    timeout: None,
                    user_data: 0,
                };
                self.socket = Some(self.stack.connect(self.now, &with).expect("room"));
            }
        }
        if let Some(id) = self.socket {
            if !seen.payload.is_empty() {
                // Which path is better is for schedulers to say, not for this comparison.
                for (n, path) in self.stack.info(id).expect("it lives").subflows.iter().enumerate()
                {
                    self.stack.set_backup(id, n as u8, path.local.ip() != seen.src.ip());
                }
                assert_eq!(self.stack.send(self.now, id, &seen.payload), Ok(seen.payload.len()));
            }
            if seen.data_fin() {
                self.stack.shutdown_write(self.now, id);
            }
        }
        self.collect();
    }

    /// Plays the whole connection and compares.
    fn run(mut self, packets: &[Captured]) {
        let start = self.now;
        let mut expected = Vec::new();
        let mut stream = Vec::new();
        for captured in packets {
            self.advance(start + captured.at);
            let seen = Seen::read(&captured.packet);
            if captured.from == self.role {
                self.act(&seen);
                expected.extend(seen.binding());
            } else {
                stream.extend_from_slice(&seen.payload);
                self.inject(&captured.packet);
            }
        }
        let sent: Vec<Vec<u8>> = self.sent.iter().flat_map(Seen::binding).collect();
        for option in &expected {
            assert!(sent.contains(option), "{:?}: {option:x?} is not in {sent:x?}", self.role);
        }
        // Keys and joins, five mappings, the DATA_FIN.
        let compared = if self.role == Role::Client { 10 } else { 8 };
        assert_eq!(expected.len(), compared);
        let id = self.socket.expect("the connection was made");
        let mut got = alloc::vec![0; stream.len() + 1];
        let read = self.stack.recv(self.now, id, &mut got).expect("the stream");
        assert_eq!(got[..read], stream[..]);
        assert_eq!(self.stack.recv(self.now, id, &mut got), Ok(0), "and its end");
        let info = self.stack.info(id).expect("the application has it");
        assert_eq!((info.mptcp, info.fallback, info.error), (Some(0), None, None));
        assert_eq!((info.bytes_acked, info.bytes_sent), (80, 80));
    }
}

fn play(text: &str, role: Role, configure: impl Fn(&mut StackConfig)) {
    let packets = captured(text);
    Replay::new(role, &packets, configure).run(&packets);
}

#[test]
fn a_kernels_connection_meets_our_server() {
    for text in [BASIC, NO_CHECKSUM, BACKUP] {
        play(text, Role::Server, |_| {});
    }
}

#[test]
fn a_kernels_server_meets_our_client() {
    let ask = |c: &mut StackConfig| c.mptcp.checksum = ChecksumPolicy::Require;
    play(BASIC, Role::Client, ask);
    play(NO_CHECKSUM, Role::Client, |_| {});
    play(BACKUP, Role::Client, |c| {
        ask(c);
        c.addresses[1].backup = true;
    });
}
