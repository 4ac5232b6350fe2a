//! What the referee reports: one rule broken by one packet.

use crate::network::NodeId;
use core::fmt;

/// The rules. Each is judged at the host that sends, from what it sent and what had reached it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// Lengths, checksums and option lengths of IP, TCP, UDP and ICMP are right.
    WellFormed,
    /// A SYN/ACK answers a SYN that arrived, and acknowledges exactly it.
    SynAckAnswersSyn,
    /// A retransmitted SYN or SYN/ACK keeps its sequence number and its MPTCP key.
    HandshakeRepeated,
    /// Options are used as both SYNs agreed, and SYN-only options stay on SYNs (RFC 7323 §1.3, §2.2;
    /// RFC 2018 §2; RFC 8684 §3.1).
    OptionAgreed,
    /// Every segment after the SYN has the ACK flag (RFC 9293 §3.1).
    AckPresent,
    /// The acknowledgement number never goes back, and acknowledges nothing that did not arrive.
    AckAdvances,
    /// The right edge of the receive window never moves left (RFC 9293 §3.8.6).
    WindowKept,
    /// New data starts where the last ended.
    NoGap,
    /// A retransmission carries the same bytes.
    SameBytes,
    /// No data lies beyond the right edge the peer announced, but for a probe of one octet.
    WithinWindow,
    /// No segment is longer than the peer's MSS allows with its options (RFC 6691).
    WithinMss,
    /// Nothing follows a FIN, and a repeated FIN is where the first was.
    FinLast,
    /// TSval never goes back; TSecr echoes something that arrived (RFC 7323 §3).
    TimestampAdvances,
    /// A RST is where the connection stands or answers a segment that arrived, and nothing but
    /// another RST follows it (RFC 9293 §3.5.2, §3.5.3).
    ResetIsLast,
    /// SACK blocks name data that arrived, in the order RFC 2018 and RFC 2883 ask.
    SackTruthful,
    /// Keys and tokens are those of the connection, and so are the HMACs of MP_JOIN and ADD_ADDR and
    /// the key of MP_FASTCLOSE (RFC 8684 §3.1, §3.2, §3.4.1, §3.5).
    KeyMatches,
    /// Every octet of a subflow has a mapping by the time it is acknowledged, unless the connection
    /// fell back (RFC 8684 §3.3, §3.7).
    DataMapped,
    /// Mappings have a checksum exactly when it was agreed, and it is right (RFC 8684 §3.3.1).
    ChecksumRight,
    /// An octet of a subflow is mapped to one data sequence number only (RFC 8684 §3.3.1).
    MappingKept,
    /// One data sequence number is one octet, on whatever subflow it travels.
    SameData,
    /// DATA_ACK never goes back, and acknowledges nothing that did not arrive with its mapping.
    DataAckAdvances,
    /// DATA_ACK plus window never moves left (RFC 8684 §3.3.4).
    DataWindowKept,
    /// No data lies beyond the peer's DATA_ACK plus window (RFC 8684 §3.3.5).
    WithinDataWindow,
    /// No data is mapped at or beyond DATA_FIN, which stays where it is (RFC 8684 §3.3.3).
    DataFinLast,
    /// An Address ID names one address until it is withdrawn, what was withdrawn carries no more data,
    /// and an echo repeats an announcement that arrived (RFC 8684 §3.2, §3.4). Announcements of version 0
    /// are not looked at.
    AddressIdKept,
}

/// One broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// When the packet was sent.
    pub at: u64,
    /// Who sent it.
    pub node: NodeId,
    /// What it broke.
    pub rule: Rule,
    /// The values that were wrong, and the packet.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken at {} ns: {}", self.rule, self.at, self.message)
    }
}

/// Rules found broken by the packet at hand.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<(Rule, String)>);

impl Faults {
    pub(super) fn add(&mut self, rule: Rule, message: String) {
        self.0.push((rule, message));
    }

    /// Reports `message` unless `holds`.
    pub(super) fn require(&mut self, holds: bool, rule: Rule, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push((rule, message()));
        }
    }
}
