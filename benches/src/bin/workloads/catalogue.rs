//! The workloads by name.

use crate::meter::Meter;
use crate::{micro, peers, relay, sessions, steering};

/// Something to measure.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// What one operation is.
    pub(crate) operation: &'static str,
    pub(crate) run: fn(&mut Meter),
}

const fn of(name: &'static str, operation: &'static str, run: fn(&mut Meter)) -> Workload {
    Workload { name, operation, run }
}

/// Those whose instructions are counted.
pub(crate) const COUNTED: &[Workload] = &[
    of("checksum", "sum of 1460 octets", micro::checksum),
    of("smoltcp_checksum", "the same by smoltcp", peers::smol_checksum),
    of("parse", "TCP header with timestamps and a DSS of 28 octets", micro::parse),
    of("emit", "the same header written", micro::emit),
    of("join_hmac", "HMAC of an MP_JOIN, version 1", micro::hmac),
    of("token", "token of a key, version 1", micro::token_of_key),
    of("wheel_arm_1k", "timer armed, 1000 in all", micro::arm::<1000>),
    of("wheel_cancel_1k", "timer stopped, of 1000", micro::cancel::<1000>),
    of("wheel_expire_1k", "timer due, of 1000 within 200 ms", micro::expire::<1000>),
    of("lookup_1", "4-tuple found, 3 lines of its block written; 1 flow", micro::lookup::<1>),
    of("lookup_10k", "the same, 10,000 flows", micro::lookup::<10_000>),
    of("rss_hash", "hash that ports spread by, IPv4", steering::hash),
    of("steer", "shard of a packet, of 4; it is this one, and knows no join", steering::alone),
    of("steer_home", "the same, 10,000 joined flows of others known", steering::home),
    of("steer_home_v6", "the same, IPv6", steering::home_v6),
    of("steer_joined", "the same, one of the joined flows", steering::joined),
    of("steer_away", "the same, it is another one", steering::away),
    of("pick_2", "scheduler's choice, 2 subflows with room", micro::pick::<2, false>),
    of("pick_8", "the same, 8 subflows", micro::pick::<8, false>),
    of("pick_2_full", "the same, 2 subflows, the fastest full", micro::pick::<2, true>),
    of("pick_8_full", "the same, 8 subflows, the fastest full", micro::pick::<8, true>),
    of("tcp_ack", "ACK without data taken in, TCP leg", relay::tcp_acks),
    of("mptcp_ack", "ACK without data taken in, MPTCP leg", relay::mptcp_acks),
    of("relay_tcp_down", "1448 octets relayed, TCP server to TCP client", relay::tcp_down),
    of("relay_tcp_up", "1448 octets relayed, TCP client to TCP server", relay::tcp_up),
    of("relay_mptcp_down", "1448 octets relayed, TCP server to 2 subflows", relay::mptcp_down),
    of("relay_mptcp_up", "1448 octets relayed, 2 subflows to TCP server", relay::mptcp_up),
    of("even_down", "1448 octets relayed down, slower links", relay::down_even),
    of("reordered_down", "the same, 30 ms skew and 1 % loss", relay::down_reordered),
    of("even_up", "1448 octets relayed up, slower links", relay::up_even),
    of("reordered_up", "the same, 30 ms skew and 1 % loss", relay::up_reordered),
    of("smoltcp_down", "1448 octets relayed by smoltcp, server to client", peers::smol_down),
    of("smoltcp_up", "1448 octets relayed by smoltcp, client to server", peers::smol_up),
    of("session_tcp", "SOCKS5 session, TCP client", relay::tcp_sessions),
    of("session_mptcp", "SOCKS5 session, MPTCP client with a join", relay::mptcp_sessions),
    of("session_open", "the same, opened only, of 1000", sessions::opening),
    of(
        "scattered_down",
        "1424 octets relayed to 2 subflows, 3,000 sessions at random",
        sessions::scattered,
    ),
    of("idle_turn", "turn with nothing to do, 1000 sessions", sessions::idling),
];

/// The workload of this name.
pub(crate) fn find(name: &str) -> Option<&'static Workload> {
    COUNTED.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workloads check what they did themselves.
    #[test]
    fn every_workload_runs() {
        for workload in COUNTED {
            let mut meter = Meter::default();
            (workload.run)(&mut meter);
            assert!(meter.operations() > 0.0 && meter.ns() > 0.0, "{}", workload.name);
        }
    }
}
