//! What ICMP says about the datagrams of associations.
//!
//! It is advice, which anybody can forge who guesses the ports, and RFC 1928 has no way to tell a client of
//! it: it is counted. A stream of datagrams that all go to one destination does have one. Where nobody listens there
//! the stream ends, as a connected socket hears of it (RFC 1122 §4.1.3.3); that a host or a network cannot be
//! reached may pass. What a way takes of each packet is the stack's own business.

use super::{EndReason, Farewell, Gateway};
use crate::shard::Shard;
use mptcp_core::stack::SocketId;
use mptcp_core::time::Instant;
use mptcp_core::wire::IcmpErrorKind;

/// Kinds of errors, by name.
const KINDS: [&str; 8] = [
    "network_unreachable",
    "host_unreachable",
    "protocol_unreachable",
    "port_unreachable",
    "too_long",
    "prohibited",
    "time_exceeded",
    "parameter_problem",
];

const fn position(kind: IcmpErrorKind) -> usize {
    match kind {
        IcmpErrorKind::NetworkUnreachable => 0,
        IcmpErrorKind::HostUnreachable => 1,
        IcmpErrorKind::ProtocolUnreachable => 2,
        IcmpErrorKind::PortUnreachable => 3,
        IcmpErrorKind::FragmentationNeeded { .. } => 4,
        IcmpErrorKind::Prohibited => 5,
        IcmpErrorKind::TimeExceeded => 6,
        IcmpErrorKind::ParameterProblem => 7,
    }
}

/// Errors by kind: about datagrams to destinations, and to clients. Each grows only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpCounts {
    destination: [u64; 8],
    client: [u64; 8],
}

impl IcmpCounts {
    fn count(&mut self, to_client: bool, kind: IcmpErrorKind) {
        let counts = if to_client { &mut self.client } else { &mut self.destination };
        if let Some(count) = counts.get_mut(position(kind)) {
            *count += 1;
        }
    }

    /// Whom the datagrams were for, the kind, and how many there were.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let sides = [("destination", self.destination), ("client", self.client)];
        sides.into_iter().flat_map(|(side, counts)| {
            KINDS.into_iter().zip(counts).map(move |(kind, count)| (side, kind, count))
        })
    }
}

impl Gateway {
    /// Takes what ICMP says about what a socket of an association sent. False when that was its end.
    pub(super) fn take_icmp(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        socket: SocketId,
    ) -> bool {
        let association = self.association(idx);
        let to_client = association.as_ref().is_some_and(|one| one.is_relay(socket));
        let to_one = association.is_some_and(|one| one.has_one_destination());
        let mut refused = false;
        while let Some(error) = shard.udp_error(socket) {
            self.counters.udp.icmp.count(to_client, error.kind);
            refused |= error.kind == IcmpErrorKind::PortUnreachable;
        }
        let ends = refused && to_one;
        if ends {
            self.end(now, shard, idx, EndReason::Refused, Farewell::Abort);
        }
        !ends
    }
}
