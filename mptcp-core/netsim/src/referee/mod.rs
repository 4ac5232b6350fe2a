//! An independent judge of TCP and MPTCP hosts (versions 1 and 0 of MPTCP; announcements of version 0 prove
//! nothing, and nothing is asked of them).
//!
//! Every host is judged alone: by what it sends, in the order it sends it, and by what had reached
//! it before. What middleboxes change on the way therefore never counts against the sender, and
//! what an attacker injects can only make the judge milder. Malformed packets that reach a host are
//! ignored, as the host must ignore them. The rules are listed in [`Rule`].
//!
//! The memory is bounded: connections beyond [`Limits::flows`] make the oldest ones forgotten, and
//! payload beyond [`Limits::held_bytes`] is no longer compared. [`Referee::seen`] says how much was
//! judged, so that a test can tell silence from blindness.

mod data;
mod flow;
mod maps;
mod options;
mod ranges;
mod secret;
mod stream;
mod violation;

pub use violation::{Rule, Violation};

use crate::network::NodeId;
use crate::packet::{IpPacket, TcpSegment, checksum, flag, protocol};
use core::fmt::Write as _;
use core::net::{IpAddr, SocketAddr};
use data::Connections;
use flow::{Context, Flow};
use options::Seen;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use violation::Faults;

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// The node put it out, before any middlebox or link saw it.
    Sent,
    /// The node received it, after everything the path did to it.
    Delivered,
}

/// How much a referee remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections, counted once per host; also MPTCP connections.
    pub flows: usize,
    /// Payload bytes, over everything.
    pub held_bytes: usize,
    /// Violations kept with their text; all are counted.
    pub violations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 1 << 16, held_bytes: 512 << 20, violations: 100 }
    }
}

/// How much a referee looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Judged {
    /// Packets sent by judged hosts.
    pub packets: u64,
    /// TCP segments among them that belong to a known connection.
    pub segments: u64,
    /// TCP connections, counted once per host.
    pub flows: u64,
    /// MPTCP connections, counted once per host.
    pub connections: u64,
    /// Those among them whose host sent data with a mapping, and that are still remembered.
    pub carriers: u64,
    /// Payload bytes compared or recorded.
    pub payload_bytes: u64,
    /// Payload bytes judged by their data sequence numbers.
    pub data_bytes: u64,
    /// DATA_ACKs judged.
    pub data_acks: u64,
    /// DSS checksums computed and compared.
    pub checksums: u64,
    /// HMACs and keys of MP_JOIN, ADD_ADDR and MP_FASTCLOSE compared.
    pub proofs: u64,
    /// Malformed packets that reached a host.
    pub malformed_delivered: u64,
    /// Connections forgotten for lack of room while they may have been alive.
    pub forgotten: u64,
}

/// One connection at one host: host, local end, remote end.
type FlowKey = (NodeId, SocketAddr, SocketAddr);

/// The judge.
#[derive(Debug)]
pub struct Referee {
    limits: Limits,
    names: BTreeMap<NodeId, String>,
    exempt: BTreeSet<NodeId>,
    flows: BTreeMap<FlowKey, Flow>,
    /// Flows in the order they were first seen, to forget the oldest.
    order: VecDeque<FlowKey>,
    connections: Connections,
    held_bytes: usize,
    judged: Judged,
    violations: Vec<Violation>,
    broken: BTreeMap<Rule, u64>,
}

impl Default for Referee {
    fn default() -> Self {
        Self::new()
    }
}

impl Referee {
    /// A referee with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A referee that remembers at most this much.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            names: BTreeMap::new(),
            exempt: BTreeSet::new(),
            flows: BTreeMap::new(),
            order: VecDeque::new(),
            connections: Connections::default(),
            held_bytes: 0,
            judged: Judged::default(),
            violations: Vec::new(),
            broken: BTreeMap::new(),
        }
    }

    /// Gives a node a name for reports.
    pub fn name_node(&mut self, node: NodeId, name: &str) {
        self.names.insert(node, name.to_owned());
    }

    /// Does not judge what `node` sends: an attacker, or a host that is not under test.
    pub fn exempt(&mut self, node: NodeId) {
        self.exempt.insert(node);
    }

    /// Looks at a packet. Packets of one node must come in the order in which it sent and received
    /// them.
    pub fn observe(&mut self, now: u64, node: NodeId, point: Point, packet: &[u8]) {
        if self.exempt.contains(&node) {
            return;
        }
        let mut faults = Faults::default();
        match point {
            Point::Sent => self.judge(now, node, packet, &mut faults),
            Point::Delivered => self.learn(now, node, packet),
        }
        if !faults.0.is_empty() {
            self.report(now, node, packet, faults);
        }
    }

    /// What was found, in order; the first [`Limits::violations`] of them.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many violations there were.
    #[must_use]
    pub fn violation_count(&self) -> u64 {
        self.broken.values().sum()
    }

    /// How often each rule was broken.
    #[must_use]
    pub const fn broken(&self) -> &BTreeMap<Rule, u64> {
        &self.broken
    }

    /// How much was judged.
    #[must_use]
    pub fn seen(&self) -> Judged {
        let (connections, carriers) = (self.connections.created(), self.connections.carriers());
        Judged { connections, carriers, ..self.judged }
    }

    /// Ends a test: panics with all violations if there were any.
    pub fn assert_clean(&self) {
        let mut text = String::new();
        for violation in &self.violations {
            let _ = writeln!(text, "{violation}");
        }
        assert!(self.broken.is_empty(), "broken: {:?}\n{text}", self.broken);
    }

    fn judge(&mut self, now: u64, node: NodeId, packet: &[u8], faults: &mut Faults) {
        self.judged.packets += 1;
        let ip = match IpPacket::parse(packet) {
            Ok(ip) if ip.fragment => return,
            Ok(ip) => ip,
            Err(error) => return faults.add(Rule::WellFormed, error.to_string()),
        };
        if ip.protocol != protocol::TCP {
            return check_other(&ip, faults);
        }
        let segment = match TcpSegment::parse(&ip) {
            Ok(segment) => segment,
            Err(error) => return faults.add(Rule::WellFormed, error.to_string()),
        };
        let seen = Seen::read(&segment, faults);
        let local = SocketAddr::new(ip.src, segment.src_port);
        let remote = SocketAddr::new(ip.dst, segment.dst_port);
        let opens = segment.has(flag::SYN) && !segment.has(flag::RST);
        self.with_flow(now, (node, local, remote), opens, faults, |flow, context| {
            flow.sent(&segment, &seen, matches!(ip.src, IpAddr::V6(_)), context);
        });
    }

    fn learn(&mut self, now: u64, node: NodeId, packet: &[u8]) {
        let parsed = IpPacket::parse(packet).and_then(|ip| {
            if ip.protocol != protocol::TCP || ip.fragment {
                return Ok(None);
            }
            TcpSegment::parse(&ip).map(|segment| Some((ip, segment)))
        });
        let (ip, segment) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return,
            Err(_) => {
                self.judged.malformed_delivered += 1;
                return;
            }
        };
        // Faults of the sender are its own: they are judged where it sends.
        let mut faults = Faults::default();
        let seen = Seen::read(&segment, &mut faults);
        let local = SocketAddr::new(ip.dst, segment.dst_port);
        let remote = SocketAddr::new(ip.src, segment.src_port);
        let opens = segment.has(flag::SYN) && !segment.has(flag::ACK) && !segment.has(flag::RST);
        self.with_flow(now, (node, local, remote), opens, &mut faults, |flow, context| {
            flow.delivered(&segment, &seen, context);
        });
    }

    /// Runs `look` on a flow, which `opens` may create, and keeps the memory within its limits.
    fn with_flow(
        &mut self,
        now: u64,
        key: FlowKey,
        opens: bool,
        faults: &mut Faults,
        look: impl FnOnce(&mut Flow, &mut Context<'_>),
    ) {
        if !self.flows.contains_key(&key) {
            if !opens {
                return;
            }
            self.make_room();
            self.flows.insert(key, Flow::default());
            self.order.push_back(key);
            self.judged.flows += 1;
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let mut context = Context {
            now,
            node: key.0,
            local: key.1.ip(),
            connections: &mut self.connections,
            max_connections: self.limits.flows,
            faults,
            freed: 0,
            payload_bytes: 0,
            data_bytes: 0,
            data_acks: 0,
            checksums: 0,
            proofs: 0,
        };
        let id = flow.role.connection();
        let before = flow.held() + held_by(id, context.connections);
        look(flow, &mut context);
        self.judged.segments += 1;
        self.judged.payload_bytes += context.payload_bytes;
        self.judged.data_bytes += context.data_bytes;
        self.judged.data_acks += context.data_acks;
        self.judged.checksums += context.checksums;
        self.judged.proofs += context.proofs;
        let freed = context.freed;
        if flow.finished() {
            flow.stream.clear();
        }
        let id = id.or(flow.role.connection());
        let after = flow.held() + held_by(id, &mut self.connections);
        self.held_bytes = (self.held_bytes + after).saturating_sub(before + freed);
        if self.held_bytes > self.limits.held_bytes {
            flow.stream.clear();
            if let Some(data) = id.and_then(|id| self.connections.get(id)) {
                data.forget();
            }
            let left = flow.held() + held_by(id, &mut self.connections);
            self.held_bytes = (self.held_bytes + left).saturating_sub(after);
        }
    }

    /// Forgets old flows, those first that are over or never answered a SYN.
    fn make_room(&mut self) {
        let mut second_chances = 64_u32;
        while self.flows.len() >= self.limits.flows.max(1) {
            let Some(oldest) = self.order.pop_front() else { return };
            let Some(flow) = self.flows.get(&oldest) else { continue };
            if flow.alive() && second_chances > 0 {
                second_chances -= 1;
                self.order.push_back(oldest);
                continue;
            }
            self.judged.forgotten += u64::from(flow.alive());
            self.held_bytes = self.held_bytes.saturating_sub(flow.held());
            self.flows.remove(&oldest);
        }
    }

    fn report(&mut self, now: u64, node: NodeId, packet: &[u8], faults: Faults) {
        let name = self.names.get(&node).map_or("node", String::as_str);
        let packet = summary(packet);
        for (rule, message) in faults.0 {
            *self.broken.entry(rule).or_default() += 1;
            if self.violations.len() < self.limits.violations {
                let message = format!("{message} (from {name}: {packet})");
                self.violations.push(Violation { at: now, node, rule, message });
            }
        }
    }
}

fn held_by(id: Option<u64>, connections: &mut Connections) -> usize {
    id.and_then(|id| connections.get(id)).map_or(0, |data| data.held())
}

/// Lengths and checksums of what is not TCP.
fn check_other(ip: &IpPacket<'_>, faults: &mut Faults) {
    let plain = checksum::sum(ip.payload);
    if ip.protocol == protocol::UDP {
        let field = ip.payload.get(4..).and_then(<[u8]>::first_chunk);
        let announced = field.map_or(0, |field| usize::from(u16::from_be_bytes(*field)));
        let whole = announced >= 8 && announced == ip.payload.len();
        faults.require(whole, Rule::WellFormed, || {
            format!("UDP announces {announced} bytes, the packet has {}", ip.payload.len())
        });
    }
    let (name, sum) = match ip.protocol {
        protocol::ICMP => ("ICMP", plain),
        protocol::ICMPV6 => ("ICMPv6", plain + ip.pseudo_header_sum()),
        // Zero means that the sender computed none (RFC 768), which IPv6 does not allow.
        protocol::UDP if ip.payload.get(6..8) == Some(&[0, 0]) && ip.src.is_ipv4() => return,
        protocol::UDP => ("UDP", plain + ip.pseudo_header_sum()),
        _ => return,
    };
    faults.require(checksum::fold(sum) == 0xffff, Rule::WellFormed, || {
        format!("{name} checksum is wrong")
    });
}

/// A packet in one line.
fn summary(packet: &[u8]) -> String {
    let Ok(ip) = IpPacket::parse(packet) else {
        return format!("{} bytes that are no IP packet", packet.len());
    };
    let Ok(segment) = TcpSegment::parse(&ip) else {
        return format!("{} > {}, protocol {}", ip.src, ip.dst, ip.protocol);
    };
    let letters = ['F', 'S', 'R', 'P', 'A', 'U', 'E', 'C'];
    let flags: String = letters
        .iter()
        .enumerate()
        .filter(|(bit, _)| segment.flags >> bit & 1 == 1)
        .map(|(_, letter)| letter)
        .collect();
    format!(
        "{} > {} {flags} seq {} ack {} win {} len {}",
        SocketAddr::new(ip.src, segment.src_port),
        SocketAddr::new(ip.dst, segment.dst_port),
        segment.seq,
        segment.ack,
        segment.window,
        segment.payload.len()
    )
}

#[cfg(test)]
mod tests;
