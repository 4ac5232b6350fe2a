//! An independent judge of TCP and MPTCP hosts.

use crate::network::NodeId;
use crate::packet::{IpPacket, PacketError, TcpSegment, protocol};
use std::collections::BTreeMap;

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// The node put it out, before any middlebox or link saw it.
    Sent,
    /// The node received it, after everything the path did to it.
    Delivered,
}

/// The judge.
#[derive(Debug, Default)]
pub struct Referee {
    names: BTreeMap<NodeId, String>,
    violations: Vec<String>,
    violation_count: u64,
}

/// Violations kept as text; all are counted.
const MAX_VIOLATIONS: usize = 100;

impl Referee {
    /// A referee that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a node a name for reports.
    pub fn name_node(&mut self, node: NodeId, name: &str) {
        self.names.insert(node, name.to_owned());
    }

    /// Looks at a packet.
    pub fn observe(&mut self, now: u64, node: NodeId, point: Point, packet: &[u8]) {
        if point == Point::Sent
            && let Err(error) = check_sent(packet)
        {
            let name = self.names.get(&node).map_or("?", String::as_str);
            let text = format!("{now} ns: {name} sent a bad packet: {error}");
            self.violation_count += 1;
            if self.violations.len() < MAX_VIOLATIONS {
                self.violations.push(text);
            }
        }
    }

    /// What was found, in order; the first hundred.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many violations there were.
    #[must_use]
    pub const fn violation_count(&self) -> u64 {
        self.violation_count
    }
}

fn check_sent(packet: &[u8]) -> Result<(), PacketError> {
    let ip = IpPacket::parse(packet)?;
    if ip.protocol != protocol::TCP || ip.fragment {
        return Ok(());
    }
    let segment = TcpSegment::parse(&ip)?;
    for option in segment.options() {
        option?;
    }
    Ok(())
}
