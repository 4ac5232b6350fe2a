//! Counters of one shard: written by its thread, read by any.
//!
//! Invariant: a packet that goes nowhere increments exactly one [`DropReason`].

use core::sync::atomic::{AtomicU64, Ordering};
use mptcp_core::buf::PortId;

macro_rules! reasons {
    ($(#[$meta:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum $kind { $($(#[$doc])* $variant,)+ }

        impl $kind {
            /// Every one, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet went nowhere.
    DropReason {
        /// Shorter than an Ethernet header (and its VLAN tag).
        FrameTruncated = "frame_truncated",
        /// Of several segments, and no buffer could hold it in one.
        RxNoBuffer = "rx_no_buffer",
        /// Tagged for, or lacking the tag of, another VLAN.
        WrongVlan = "wrong_vlan",
        /// To another station.
        WrongStation = "wrong_station",
        /// From a group address, from nobody, or from ourselves.
        BadStation = "bad_station",
        /// Neither IPv4, IPv6 nor ARP.
        UnknownEtherType = "unknown_ether_type",
        /// Not Ethernet and IPv4, or nonsense in its addresses.
        ArpInvalid = "arp_invalid",
        /// About others.
        ArpNotForUs = "arp_not_for_us",
        /// The lengths of the IP header contradict each other or the frame.
        IpMalformed = "ip_malformed",
        /// To an address that is not ours.
        NotForUs = "not_for_us",
        /// From an address nobody can have, or from one of ours.
        Martian = "martian",
        /// To one of our addresses in a broadcast or multicast frame (RFC 1122 §3.3.6).
        LinkBroadcast = "link_broadcast",
        /// Fails the checks of RFC 4861 §7.1 (hop limit 255, checksum, options).
        NdiscInvalid = "ndisc_invalid",
        /// A listener query fails a check of RFC 3810.
        MldInvalid = "mld_invalid",
        /// Router discovery, redirects, and advertisements nobody asked for.
        NdiscIgnored = "ndisc_ignored",
        /// An echo request that must not be answered.
        EchoInvalid = "echo_invalid",
        /// More echo requests than are answered per second.
        EchoRate = "echo_rate",
        /// Of our own making, but no IP packet.
        TxMalformed = "tx_malformed",
        /// No route or gateway leads there.
        NoRoute = "no_route",
        /// To a group or to ourselves.
        BadDestination = "bad_destination",
        /// Longer than the port's MTU.
        MtuExceeded = "mtu_exceeded",
        /// Too many packets wait for this neighbour.
        NeighbourQueueFull = "neighbour_queue_full",
        /// Too many neighbours are being looked for.
        NeighbourTableFull = "neighbour_table_full",
        /// More neighbours to look for per second than allowed.
        NeighbourRate = "neighbour_rate",
        /// The neighbour does not answer.
        NeighbourUnreachable = "neighbour_unreachable",
        /// The pool is exhausted.
        NoBuffer = "no_buffer",
        /// The port's transmit queue stayed full.
        TxQueueFull = "tx_queue_full",
        /// The port has sent nothing for a while: its link is down or it hangs.
        TxStalled = "tx_stalled",
        /// The port takes one segment, and the packet does not fit into one buffer.
        TxTooLong = "tx_too_long",
        /// The driver refused it.
        TxRefused = "tx_refused",
        /// The ring to the shard it belongs to is full.
        RingFull = "ring_full",
    }
}

reasons! {
    /// What L2 did besides forwarding.
    L2Event {
        /// An ARP request for one of our addresses was answered.
        ArpReplies = "arp_replies",
        /// A neighbour solicitation for one of our addresses was answered.
        NeighbourAdverts = "neighbour_adverts",
        /// The groups we listen to were reported to the link.
        GroupReports = "group_reports",
        /// An echo request was answered.
        EchoReplies = "echo_replies",
        /// We asked for a neighbour, or probed one.
        Solicitations = "solicitations",
        /// A neighbour's station address became known.
        NeighboursResolved = "neighbours_resolved",
        /// A neighbour did not answer.
        NeighboursFailed = "neighbours_failed",
        /// Somebody else claims one of our addresses.
        AddressConflicts = "address_conflicts",
        /// An ICMP error about one of our packets was handed to our own stack.
        ErrorsReported = "errors_reported",
    }
}

/// A number with one writer: no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only for the one writer: concurrent calls would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard moved over one port.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Their bytes, Ethernet headers included.
    pub rx_bytes: Counter,
    /// Frames the port took.
    pub tx_packets: Counter,
    /// Their bytes, Ethernet headers included.
    pub tx_bytes: Counter,
    /// Of those sent: made from several segments, for the port to cut.
    pub tx_pieces: Counter,
    /// The segments that these were made from.
    pub tx_joined: Counter,
    /// Of those received: joined by the port.
    pub rx_pieces: Counter,
    /// The parts that these were taken apart into.
    pub rx_parts: Counter,
    drops: [Counter; DropReason::ALL.len()],
}

impl PortCounters {
    /// Packets dropped on this port so far for `reason`.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::value)
    }
}

/// Everything one shard counts.
#[derive(Debug)]
pub struct ShardCounters {
    drops: [Counter; DropReason::ALL.len()],
    events: [Counter; L2Event::ALL.len()],
    ports: Vec<PortCounters>,
    /// Turns of the loop.
    pub turns: Counter,
    /// Turns that found nothing to do.
    pub idle_turns: Counter,
    /// Times the loop slept.
    pub sleeps: Counter,
    /// Nanoseconds of turns that had something to do.
    pub busy_ns: Counter,
    /// Nanoseconds of turns that found nothing to do and did not sleep.
    pub polling_ns: Counter,
    /// Neighbours known, pinned ones included.
    pub neighbours: Counter,
    /// Packets handed over to other shards.
    pub handed_over: Counter,
    /// Packets taken over from other shards.
    pub taken_over: Counter,
    /// Of those handed over: from where they arrived to their flow's home.
    pub sent_home: Counter,
    /// Of those handed over: from their flow's home to its owner.
    pub sent_to_owner: Counter,
    /// Joins whose home is here and whose connection is another shard's.
    pub joins_steered: Counter,
    /// Flows of others forgotten, for lack of room, before their owner had confirmed them.
    pub pending_displaced: Counter,
    /// Confirmed flows of others forgotten for lack of room.
    pub confirmed_displaced: Counter,
    /// Flows whose home is here that others own: not confirmed yet.
    pub pending_flows: Counter,
    /// The same, confirmed.
    pub confirmed_flows: Counter,
}

impl ShardCounters {
    /// Zeroes for `ports` ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            drops: Default::default(),
            events: Default::default(),
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            turns: Counter::default(),
            idle_turns: Counter::default(),
            sleeps: Counter::default(),
            busy_ns: Counter::default(),
            polling_ns: Counter::default(),
            neighbours: Counter::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            sent_home: Counter::default(),
            sent_to_owner: Counter::default(),
            joins_steered: Counter::default(),
            pending_displaced: Counter::default(),
            confirmed_displaced: Counter::default(),
            pending_flows: Counter::default(),
            confirmed_flows: Counter::default(),
        }
    }

    /// Counts `n` packets dropped.
    #[inline]
    pub fn dropped(&self, reason: DropReason, n: usize) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(n as u64);
        }
    }

    /// Counts `n` packets dropped that came in or should have gone out on `port`.
    #[inline]
    pub fn dropped_on(&self, port: PortId, reason: DropReason, n: usize) {
        self.dropped(reason, n);
        let port = self.ports.get(usize::from(port.0));
        if let Some(counter) = port.and_then(|port| port.drops.get(reason as usize)) {
            counter.add(n as u64);
        }
    }

    /// Counts one event.
    #[inline]
    pub fn happened(&self, event: L2Event) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.add(1);
        }
    }

    /// Packets dropped so far for `reason`.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::value)
    }

    /// Packets dropped so far for any reason.
    #[must_use]
    pub fn all_drops(&self) -> u64 {
        self.drops.iter().map(Counter::value).sum()
    }

    /// How often `event` happened so far.
    #[must_use]
    pub fn events(&self, event: L2Event) -> u64 {
        self.events.get(event as usize).map_or(0, Counter::value)
    }

    /// The ports, in configuration order.
    #[must_use]
    pub fn ports(&self) -> &[PortCounters] {
        &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let counters = ShardCounters::new(1);
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            counters.dropped(reason, i + 1);
        }
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.drops(reason), i as u64 + 1, "{}", reason.name());
        }
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        counters.dropped_on(PortId(0), DropReason::TxStalled, 3);
        counters.dropped_on(PortId::ROUTED, DropReason::TxStalled, 4);
        assert_eq!(counters.ports()[0].drops(DropReason::TxStalled), 3);
        assert_eq!(counters.drops(DropReason::TxStalled), 7 + DropReason::TxStalled as u64 + 1);
        for &event in L2Event::ALL {
            counters.happened(event);
            assert_eq!(counters.events(event), 1);
        }
    }
}
